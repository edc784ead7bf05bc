//! Marks that are being removed: for a moment they are gone for the kernel and not for the disk.
//!
//! Who may write to such a file must not get it before the removal is durable, else a power cut brings the mark back over what was written since. While
//! a worker lives the file's lock sees to that. When it dies within, the worker that follows finds here which files to make durable before it
//! serves: some of them, where making the whole volume durable would have every program wait for whatever else is written on it.
//!
//! The records lie in the memory that the holder keeps, each written by one call within one page.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;

use anyhow::Result;
use polder_types::FileIdent;

use super::LOCK;

/// Bytes of all records: a page.
pub(super) const REMOVALS_BYTES: u64 = 4096;
/// Bytes of a record: inode number, generation.
const RECORD_BYTES: usize = 16;
/// More than threads that remove marks at one time; the last one says that there were more.
const SLOTS: usize = REMOVALS_BYTES as usize / RECORD_BYTES - 1;
/// In the last record: of which files nobody knows.
const OF_ANY: FileIdent = FileIdent { ino: u64::MAX, generation: 0 };

/// What the worker before left.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// These files.
    Of(Vec<FileIdent>),
    /// Any file of the volume.
    Any,
}

/// The removals that are under way.
#[derive(Debug, Default)]
pub(super) struct Removals(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    is_taken: Vec<bool>,
    /// Where they outlive the worker, and from which byte on; none in tests.
    kept: Option<(File, u64)>,
}

impl Removals {
    /// Keeps the records in `memory` from byte `from` on, and tells what is there. All of that is to be made durable, and then
    /// [`Removals::settled`] to be called, before anybody is served.
    pub(super) fn keep_in(&self, memory: OwnedFd, from: u64) -> std::io::Result<Left> {
        let memory = File::from(memory);
        if memory.metadata()?.len() < from + REMOVALS_BYTES {
            memory.set_len(from + REMOVALS_BYTES)?;
        }
        let mut records = [0; REMOVALS_BYTES as usize];
        memory.read_exact_at(&mut records, from)?;
        let found: Vec<FileIdent> = records.chunks_exact(RECORD_BYTES).filter_map(decode).collect();
        let left = if found.contains(&OF_ANY) { Left::Any } else { Left::Of(found) };
        *self.0.lock().expect(LOCK) = Inner { is_taken: vec![false; SLOTS], kept: Some((memory, from)) };
        Ok(left)
    }

    /// What the worker before left is durable.
    pub(super) fn settled(&self) -> std::io::Result<()> {
        match &self.0.lock().expect(LOCK).kept {
            Some((memory, from)) => memory.write_all_at(&[0; REMOVALS_BYTES as usize], *from),
            None => Ok(()),
        }
    }

    /// Runs what removes a file's mark and makes that durable.
    pub(super) fn noting<T>(&self, ident: FileIdent, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let mut done = self.noting_all(&[ident], || vec![work()])?;
        done.pop().unwrap_or_else(|| Err(anyhow::anyhow!("nothing was told of the file")))
    }

    /// Runs what removes the marks of files and makes that durable; it is not begun if it cannot be noted. What failed may have removed the
    /// mark, so its record stays for the next worker. `work` tells of each file, in order.
    pub(super) fn noting_all<T>(
        &self,
        idents: &[FileIdent],
        work: impl FnOnce() -> Vec<Result<T>>,
    ) -> Result<Vec<Result<T>>> {
        let slots = idents.iter().map(|ident| self.put(*ident)).collect::<std::io::Result<Vec<_>>>()?;
        let done = work();
        let mut inner = self.0.lock().expect(LOCK);
        for slot in slots.iter().zip(&done).filter_map(|(slot, done)| slot.filter(|_| done.is_ok())) {
            inner.write(slot, FileIdent { ino: 0, generation: 0 })?;
            inner.is_taken[slot] = false;
        }
        Ok(done)
    }

    fn put(&self, ident: FileIdent) -> std::io::Result<Option<usize>> {
        let mut inner = self.0.lock().expect(LOCK);
        if inner.kept.is_none() {
            return Ok(None);
        }
        let Some(slot) = inner.is_taken.iter().position(|taken| !taken) else {
            return inner.write(SLOTS, OF_ANY).map(|()| None);
        };
        inner.write(slot, ident)?;
        inner.is_taken[slot] = true;
        Ok(Some(slot))
    }
}

impl Inner {
    fn write(&self, slot: usize, ident: FileIdent) -> std::io::Result<()> {
        let Some((memory, from)) = &self.kept else { return Ok(()) };
        let mut record = [0; RECORD_BYTES];
        record[..8].copy_from_slice(&ident.ino.to_le_bytes());
        record[8..12].copy_from_slice(&ident.generation.to_le_bytes());
        memory.write_all_at(&record, from + (slot * RECORD_BYTES) as u64)
    }
}

/// `None` of an empty record.
fn decode(record: &[u8]) -> Option<FileIdent> {
    let ino = u64::from_le_bytes(*record.first_chunk()?);
    let generation = u32::from_le_bytes(*record.get(8..)?.first_chunk()?);
    (ino != 0).then_some(FileIdent { ino, generation })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FROM: u64 = 8192;

    fn ident(ino: u64) -> FileIdent {
        FileIdent { ino, generation: 7 }
    }

    /// A worker that follows on `memory`, and what it finds.
    fn next(memory: &File) -> (Removals, Left) {
        let removals = Removals::default();
        let left = removals.keep_in(memory.try_clone().unwrap().into(), FROM).unwrap();
        (removals, left)
    }

    fn fails() -> Result<()> {
        anyhow::bail!("the disk failed")
    }

    #[test]
    fn who_dies_within_a_removal_is_followed_by_one_who_knows() {
        let memory = tempfile::tempfile().unwrap();
        let (removals, left) = next(&memory);
        assert_eq!(left, Left::Of(Vec::new()));
        removals.noting(ident(1), || Ok(())).unwrap();
        removals.noting(ident(2), fails).unwrap_err();
        let within = removals.noting(ident(3), || {
            removals.noting(ident(4), || {
                assert_eq!(next(&memory).1, Left::Of(vec![ident(2), ident(3), ident(4)]), "it dies here");
                Ok(())
            })
        });
        within.unwrap();
        let (removals, left) = next(&memory);
        assert_eq!(left, Left::Of(vec![ident(2)]), "of what succeeded nothing is left");
        assert_eq!(next(&memory).1, left, "one that dies before it has made them durable leaves them");
        removals.settled().unwrap();
        assert_eq!(next(&memory).1, Left::Of(Vec::new()));
        assert_eq!(memory.metadata().unwrap().len(), FROM + REMOVALS_BYTES);
    }

    #[test]
    fn more_than_can_be_noted_are_any() {
        let memory = tempfile::tempfile().unwrap();
        let (removals, _) = next(&memory);
        for ino in 1..=SLOTS as u64 {
            removals.noting(ident(ino), fails).unwrap_err();
        }
        assert!(matches!(next(&memory).1, Left::Of(all) if all.len() == SLOTS));
        removals.noting(ident(1000), || Ok(())).unwrap();
        let (removals, left) = next(&memory);
        assert_eq!(left, Left::Any);
        removals.settled().unwrap();
        assert_eq!(next(&memory).1, Left::Of(Vec::new()));
    }
}
