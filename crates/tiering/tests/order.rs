//! The orders in which the presence of a file is changed, on a file that is played by the test.

use polder_tiering::order::{Calls, Carried, Kept, begin_leaving};

/// A file of which exactly one version was agreed, and what was done to it since.
#[derive(Default)]
struct File {
    /// Somebody has stored to it through a mapping, closed by now: the times do not tell until it is written back.
    stored_through_mapping: bool,
    is_edited: bool,
    is_marked: bool,
}

impl Calls for File {
    type Error = std::convert::Infallible;

    fn take_lease(&mut self) -> Result<bool, Self::Error> {
        Ok(true)
    }
    fn write_back(&mut self) -> Result<(), Self::Error> {
        self.is_edited |= std::mem::take(&mut self.stored_through_mapping);
        Ok(())
    }
    fn is_as_agreed(&mut self) -> Result<bool, Self::Error> {
        Ok(!self.is_edited)
    }
    fn carried(&mut self) -> Result<Carried, Self::Error> {
        Ok(if self.is_marked { Carried::Pledged } else { Carried::Nothing })
    }
    fn note_content(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }
    fn set_mark(&mut self) -> Result<(), Self::Error> {
        self.is_marked = true;
        Ok(())
    }
    fn start_writing(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }
    fn make_durable(&mut self, _what: &'static str) -> Result<(), Self::Error> {
        Ok(())
    }
    fn punch(&mut self) -> Result<(), Self::Error> {
        panic!("its bytes are here until the mark is durable")
    }
    fn restore_times(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }
    fn cut(&mut self) -> Result<(), Self::Error> {
        panic!("its bytes are here until the mark is durable")
    }
    fn set_size(&mut self) -> Result<(), Self::Error> {
        panic!("its bytes are here until the mark is durable")
    }
    fn remove_mark(&mut self) -> Result<(), Self::Error> {
        self.is_marked = false;
        Ok(())
    }
    fn remove_note(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }
    fn is_whole(&self) -> bool {
        true
    }
    fn not_whole(&self) -> Self::Error {
        unreachable!("it is whole")
    }
    fn other_mark(&self) -> Self::Error {
        unreachable!("nobody else sets a mark")
    }
}

#[test]
fn what_is_as_agreed_is_marked() {
    let mut file = File::default();
    assert_eq!(begin_leaving(&mut file), Ok(Ok(())));
    assert!(file.is_marked);
}

/// An edit that came through a mapping, and of which no time tells yet, is an edit: the file stays.
#[test]
fn what_was_stored_through_a_mapping_stays() {
    let mut file = File { stored_through_mapping: true, ..File::default() };
    assert_eq!(begin_leaving(&mut file), Ok(Err(Kept::Changed)));
    assert!(!file.is_marked);
}

/// `cargo test -p polder-tiering --features zoo --test order zoo_of`
#[cfg(feature = "zoo")]
#[test]
fn zoo_of_orders() {
    use polder_types::zoo::{Bug, Level, assert_all_caught, plant};
    let cases: &[(Bug, fn())] = &[(Bug::LeavesWithoutWriteBack, what_was_stored_through_a_mapping_stays)];
    assert_all_caught(Level::Tiering, cases, plant, |test| test());
}
