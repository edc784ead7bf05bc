//! Change times as users see them: fills move those of the real files, and programs take that for a change (`tar` does).
//!
//! They outlive the worker, as those do who read: each is a record behind the gate's own part of the memory that the holder keeps. A record is
//! written by one call within one page, so a SIGKILL leaves the old one or the new one.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Mutex;

use polder_types::Timestamp;

use super::LOCK;

/// Change times that are remembered. Beyond it all are forgotten: `tar` may then think that a file has changed.
const CHANGES_MAX: usize = 200_000;
/// Bytes of a record: inode number, time that is shown, whether the next one is known, time that the last fill left. It divides a page.
const RECORD_BYTES: usize = 64;

/// What users are shown of files that fills have touched.
#[derive(Debug, Default)]
pub(super) struct Changes(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    known: HashMap<u64, (usize, Change)>,
    /// Where they outlive the worker, and from which byte on; none in tests.
    kept: Option<(File, u64)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Change {
    shown: Timestamp,
    /// What the last fill left; `None` while one is under way, and when the worker died during it: then what is found first is what it left.
    left: Option<Timestamp>,
    is_filling: bool,
}

impl Change {
    fn encode(&self, ino: u64) -> [u8; RECORD_BYTES] {
        let left = self.left.unwrap_or_default();
        let words = [
            ino,
            self.shown.secs.cast_unsigned(),
            self.shown.nanos.into(),
            self.left.is_some().into(),
            left.secs.cast_unsigned(),
            left.nanos.into(),
        ];
        let mut out = [0; RECORD_BYTES];
        for (at, word) in words.into_iter().enumerate() {
            out[at * 8..at * 8 + 8].copy_from_slice(&word.to_le_bytes());
        }
        out
    }

    /// `None` of an empty record.
    fn decode(record: &[u8]) -> Option<(u64, Self)> {
        let word = |at: usize| Some(u64::from_le_bytes(*record.get(at * 8..)?.first_chunk()?));
        let time = |at| Some(Timestamp::new(word(at)?.cast_signed(), u32::try_from(word(at + 1)?).ok()?));
        let (ino, shown) = (word(0)?, time(1)?);
        let left = if word(3)? == 1 { Some(time(4)?) } else { None };
        (ino != 0).then_some((ino, Self { shown, left, is_filling: false }))
    }
}

impl Changes {
    /// Goes on with what the worker before has left in `memory` from byte `from` on, and keeps all of it there.
    pub(super) fn keep_in(&self, memory: OwnedFd, from: u64) -> std::io::Result<()> {
        let memory = File::from(memory);
        let bytes = memory.metadata()?.len().saturating_sub(from).min((CHANGES_MAX * RECORD_BYTES) as u64);
        let mut records = vec![0; usize::try_from(bytes).unwrap_or_default()];
        memory.read_exact_at(&mut records, from)?;
        let mut inner = self.0.lock().expect(LOCK);
        let found = records.chunks_exact(RECORD_BYTES).enumerate();
        inner.known = found
            .filter_map(|(slot, record)| Change::decode(record).map(|(ino, change)| (ino, (slot, change))))
            .collect();
        inner.kept = Some((memory, from));
        Ok(())
    }

    /// The change time of a file, `real` being that of the disk.
    pub(super) fn shown(&self, ino: u64, real: Timestamp) -> Timestamp {
        let mut inner = self.0.lock().expect(LOCK);
        let Some((_, change)) = inner.known.get_mut(&ino) else { return real };
        let left = match change.left {
            None if change.is_filling => real,
            None => *change.left.insert(real),
            Some(left) => left,
        };
        // Another time than the fill left: somebody has changed something since.
        if left == real { change.shown } else { real }
    }

    /// Runs what moves the change time of a file though nothing changes for users.
    pub(super) fn hiding<T>(&self, file: impl AsFd, work: impl FnOnce() -> T) -> T {
        self.hiding_all(&[file.as_fd()], work)
    }

    /// The same for many files.
    pub(super) fn hiding_all<T>(&self, files: &[BorrowedFd<'_>], work: impl FnOnce() -> T) -> T {
        let hide = |file: &BorrowedFd<'_>| {
            let (ino, before) = change_time(*file)?;
            let shown = self.shown(ino, before);
            self.put(ino, Change { shown, left: None, is_filling: true });
            Some((ino, shown))
        };
        let hidden: Vec<_> = files.iter().map(hide).collect();
        let result = work();
        for (file, hidden) in files.iter().zip(hidden) {
            if let Some((ino, shown)) = hidden {
                let left = change_time(*file).map(|(_, time)| time);
                self.put(ino, Change { shown, left, is_filling: false });
            }
        }
        result
    }

    fn put(&self, ino: u64, change: Change) {
        let mut inner = self.0.lock().expect(LOCK);
        if inner.known.len() >= CHANGES_MAX && !inner.known.contains_key(&ino) {
            inner.known.clear();
            if let Some((memory, from)) = &inner.kept {
                let _ = memory.set_len(*from);
            }
        }
        let slot = inner.known.get(&ino).map_or(inner.known.len(), |(slot, _)| *slot);
        inner.known.insert(ino, (slot, change));
        if let Some((memory, from)) = &inner.kept {
            // Without memory a worker that follows shows the real time.
            let _ = memory.write_all_at(&change.encode(ino), from + (slot * RECORD_BYTES) as u64);
        }
    }
}

fn change_time(file: BorrowedFd<'_>) -> Option<(u64, Timestamp)> {
    let file = File::from(file.try_clone_to_owned().ok()?);
    let meta = file.metadata().ok()?;
    Some((meta.ino(), Timestamp::new(meta.ctime(), u32::try_from(meta.ctime_nsec()).ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(file: &File) {
        let before = file.metadata().unwrap();
        loop {
            file.write_all_at(b"x", 0).unwrap();
            let after = file.metadata().unwrap();
            if (after.ctime(), after.ctime_nsec()) != (before.ctime(), before.ctime_nsec()) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }

    /// A worker that follows on `memory`.
    fn next(memory: &File) -> Changes {
        let changes = Changes::default();
        changes.keep_in(memory.try_clone().unwrap().into(), 4096).unwrap();
        changes
    }

    #[test]
    fn what_is_shown_outlives_the_worker() {
        let memory = tempfile::tempfile().unwrap();
        memory.set_len(4096).unwrap();
        let files: Vec<File> = (0..3).map(|_| tempfile::tempfile().unwrap()).collect();
        let shown = |changes: &Changes, file: &File| {
            let (ino, real) = change_time(file.as_fd()).unwrap();
            (changes.shown(ino, real), real)
        };
        let first: Vec<Timestamp> = files.iter().map(|file| change_time(file.as_fd()).unwrap().1).collect();
        let changes = next(&memory);
        files.iter().for_each(|file| changes.hiding(file, || change(file)));
        for (file, first) in files.iter().zip(&first) {
            assert_eq!(shown(&changes, file).0, *first);
        }
        let changes = next(&memory);
        assert_eq!(shown(&changes, &files[0]).0, first[0]);
        changes.hiding(&files[0], || change(&files[0]));
        // This worker dies within a fill.
        let (ino, _) = change_time(files[1].as_fd()).unwrap();
        changes.put(ino, Change { shown: first[1], left: None, is_filling: true });
        change(&files[1]);
        change(&files[2]);
        let changes = next(&memory);
        assert_eq!((shown(&changes, &files[0]).0, shown(&changes, &files[1]).0), (first[0], first[1]));
        let (told, real) = shown(&changes, &files[2]);
        assert_eq!(told, real, "somebody has changed it");
        change(&files[1]);
        let (told, real) = shown(&changes, &files[1]);
        assert_eq!(told, real, "somebody has changed it since it was looked at");
        assert_eq!(memory.metadata().unwrap().len(), 4096 + 3 * RECORD_BYTES as u64);
    }
}
