//! In which order the presence of a file is changed on its disk, call by call. The calls themselves are `replica`'s, or
//! those of a simulated disk: both carry out these orders, so what is tried there is what runs.
//!
//! Invariants (`docs/design/2026-11-24-tiering.md`): nothing is punched before the mark is durable and read back; the mark goes after
//! every byte is verified, written and durable; a file is cut to nothing before its mark goes. After a crash between any two calls the mark, or
//! the lack of one, tells the truth.

use std::collections::BTreeSet;

use polder_types::ChunkId;
use polder_types::zoo::{Bug, planted};

use crate::policy::Stays;

/// What a file carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carried {
    /// No mark: its bytes are the user's.
    Nothing,
    /// The mark that this work is about.
    Pledged,
    /// Another mark, or one that cannot be read.
    Other,
}

/// Why a file was not given up. Nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// Somebody has it open or mapped, or the file system has no leases.
    InUse,
    /// It is not what was hashed.
    Changed,
    /// It carries a mark already.
    Marked,
}

/// The calls on one open file. Each may end the work where it stands, as a crash would.
pub trait Calls {
    /// What went wrong.
    type Error;

    /// From here until the lease is dropped nobody can open it. `false`: somebody has it open or mapped.
    fn take_lease(&mut self) -> Result<bool, Self::Error>;
    /// Writes back what was stored through mappings, so that the times tell of it.
    fn write_back(&mut self) -> Result<(), Self::Error>;
    /// Whether it looks as it did when exactly the bytes of the version were read.
    fn is_as_agreed(&mut self) -> Result<bool, Self::Error>;
    /// What it carries.
    fn carried(&mut self) -> Result<Carried, Self::Error>;
    /// Notes the content that it is to stand for.
    fn note_content(&mut self) -> Result<(), Self::Error>;
    /// Sets the mark.
    fn set_mark(&mut self) -> Result<(), Self::Error>;
    /// Begins to write its data to the disk, and waits for nothing.
    fn start_writing(&mut self) -> Result<(), Self::Error>;
    /// Makes all of it durable; `what` is what that is for.
    fn make_durable(&mut self, what: &'static str) -> Result<(), Self::Error>;
    /// Frees all of its blocks.
    fn punch(&mut self) -> Result<(), Self::Error>;
    /// Sets the times that its mark tells.
    fn restore_times(&mut self) -> Result<(), Self::Error>;
    /// Sets the size to 0.
    fn cut(&mut self) -> Result<(), Self::Error>;
    /// Sets the size of the version.
    fn set_size(&mut self) -> Result<(), Self::Error>;
    /// Removes the mark.
    fn remove_mark(&mut self) -> Result<(), Self::Error>;
    /// Removes the note of the content.
    fn remove_note(&mut self) -> Result<(), Self::Error>;
    /// Whether every byte was verified and written in this life.
    fn is_whole(&self) -> bool;
    /// The error of a file that is not whole.
    fn not_whole(&self) -> Self::Error;
    /// The error of a file with another mark.
    fn other_mark(&self) -> Self::Error;
}

/// The first half of giving a file up: it is marked, and its bytes are here. `Err`: it stays.
pub fn begin_leaving<C: Calls>(calls: &mut C) -> Result<Result<(), Kept>, C::Error> {
    if !calls.take_lease()? {
        return Ok(Err(Kept::InUse));
    }
    // Stores through a mapping that was closed show in the times only once written back.
    if !planted(Bug::LeavesWithoutWriteBack) {
        calls.write_back()?;
    }
    if !planted(Bug::LeavesAsItIs) && !calls.is_as_agreed()? {
        return Ok(Err(Kept::Changed));
    }
    if calls.carried()? != Carried::Nothing {
        return Ok(Err(Kept::Marked));
    }
    if planted(Bug::PunchedBeforeMarked) {
        calls.punch()?;
    }
    mark(calls)?;
    Ok(Ok(()))
}

/// The one order in which the bytes of a marked file are freed: the second half of giving it up, and what gives back the part of a placeholder that is
/// here. The mark may be of an earlier life that ended before it was durable. What was present is to be forgotten before.
pub fn free<C: Calls>(calls: &mut C) -> Result<(), C::Error> {
    if !planted(Bug::PunchedBeforeMarkIsDurable) {
        calls.make_durable("make the mark durable")?;
    }
    // A mark that is not there now would make the holes the user's bytes.
    if calls.carried()? != Carried::Pledged {
        return Err(calls.other_mark());
    }
    calls.punch()?;
    // They are answered from the mark while it exists; this is for who looks without the agent.
    calls.restore_times()
}

/// Makes a file resident that is all here.
pub fn settle<C: Calls>(calls: &mut C) -> Result<(), C::Error> {
    settle_all(std::slice::from_mut(calls)).pop().unwrap_or(Ok(()))
}

/// Makes files resident that are all here, each call for all of them before the next call for any: what makes one file
/// durable then has done most of what the others need. Whichever fails goes no further; it changes nothing for the others.
pub fn settle_all<C: Calls>(files: &mut [C]) -> Vec<Result<(), C::Error>> {
    let mut done: Vec<_> = files.iter_mut().map(ready_to_settle).collect();
    let mut each = |call: fn(&mut C) -> Result<(), C::Error>| {
        for (file, done) in files.iter_mut().zip(&mut done).filter(|(_, done)| done.is_ok()) {
            *done = call(file);
        }
    };
    each(C::start_writing);
    if !planted(Bug::UnmarkedBeforeDurable) {
        each(|file| file.make_durable("make data and times durable"));
    }
    each(C::remove_mark);
    each(C::remove_note);
    each(|file| file.make_durable("make the removal durable"));
    done
}

fn ready_to_settle<C: Calls>(calls: &mut C) -> Result<(), C::Error> {
    if !calls.is_whole() && !planted(Bug::ResidentBeforeLastByte) {
        return Err(calls.not_whole());
    }
    if calls.carried()? != Carried::Pledged {
        return Err(calls.other_mark());
    }
    // All of it is written and nobody else writes: the times are not moved by the writing back.
    calls.restore_times()
}

/// `truncate(0)` of a placeholder: the size, durably, the mark, and only then an answer. A mark that goes before the size shows zeros after a crash,
/// be it only on the disk that it goes first.
pub fn empty<C: Calls>(calls: &mut C) -> Result<(), C::Error> {
    if calls.carried()? != Carried::Pledged {
        return Err(calls.other_mark());
    }
    if planted(Bug::UnmarkedBeforeCut) {
        unmark(calls)?;
        return calls.cut();
    }
    calls.cut()?;
    calls.make_durable("make the size durable")?;
    unmark(calls)
}

/// Makes an empty file that nobody knows a placeholder, durably: then it may take the place of another by exchange.
pub fn re_point<C: Calls>(calls: &mut C) -> Result<(), C::Error> {
    mark(calls)?;
    calls.make_durable("make the mark durable")?;
    calls.set_size()?;
    calls.restore_times()?;
    calls.make_durable("make durable")
}

/// As [`re_point`], for what a batch makes durable as a whole before it gives names, and a crash removes.
pub fn stage_placeholder<C: Calls>(calls: &mut C) -> Result<(), C::Error> {
    // The mark before the size: a sparse file without a mark would be a file of zeros.
    mark(calls)?;
    calls.set_size()
}

/// The mark goes, and that is durable.
pub fn unmark<C: Calls>(calls: &mut C) -> Result<(), C::Error> {
    calls.remove_mark()?;
    calls.remove_note()?;
    calls.make_durable("make the removal durable")
}

/// Sets a mark. What the file stands for is noted before it: there is no mark without that.
fn mark<C: Calls>(calls: &mut C) -> Result<(), C::Error> {
    calls.note_content()?;
    calls.set_mark()
}

/// Why a file may not be given up, as far as that can be told before its lease is taken. `is_current`: as far as is known here, its content is what
/// the share has of it now; an older one may be let go there. `chunks` is all that its content names, or why it stays; `verified` those of
/// which the service says that it read them back from the store and found them right.
pub fn why_kept<'a, E>(
    links: u64,
    is_current: bool,
    chunks: &Result<BTreeSet<ChunkId>, Stays>,
    verified: &'a Result<BTreeSet<ChunkId>, E>,
) -> Result<Option<Stays>, &'a E> {
    if links > 1 {
        return Ok(Some(Stays::HardLinked));
    }
    if !is_current {
        return Ok(Some(Stays::NotSynced));
    }
    match chunks {
        Err(why) => Ok(Some(*why)),
        Ok(chunks) => {
            let held = chunks.is_subset(verified.as_ref()?) || planted(Bug::LeavesUnverified);
            Ok((!held).then_some(Stays::NotVerified))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is not the share's any more may be let go there at any time, verified or not.
    #[test]
    fn a_file_that_is_behind_is_kept() {
        let chunk = ChunkId([1; 32]);
        let (chunks, verified) = (Ok(BTreeSet::from([chunk])), Ok::<_, ()>(BTreeSet::from([chunk])));
        assert_eq!(why_kept(1, true, &chunks, &verified), Ok(None));
        assert_eq!(why_kept(1, false, &chunks, &verified), Ok(Some(Stays::NotSynced)));
        assert_eq!(why_kept(2, true, &chunks, &verified), Ok(Some(Stays::HardLinked)));
        assert_eq!(why_kept(1, true, &chunks, &Ok::<_, ()>(BTreeSet::new())), Ok(Some(Stays::NotVerified)));
        assert_eq!(why_kept(1, true, &chunks, &Err(())), Err(&()));
    }
}
