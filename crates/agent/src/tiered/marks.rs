//! What a mark tells of a file, for the gate's look-ups.

use std::collections::HashMap;
use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use polder_gate::errno::{self, Errno};
use polder_gate::ports::{Attributes, Residency, Result, SetTime};
use polder_gate::tree::{Overlay, xattr_at};
use polder_replica::{MARK_XATTR, Marked, Root, judge_mark, set_marked_mtime};
use polder_types::Timestamp;

use super::LOCK;

/// Longest value that can be a mark.
const MARK_BYTES_MAX: usize = 256;
/// Change times that are remembered. Beyond it all are forgotten: `tar` may then think that a file has changed.
const CHANGES_MAX: usize = 200_000;

/// Change times as users see them: fills move those of the real files, and programs take that for a change (`tar` does).
#[derive(Debug, Default)]
pub(super) struct Changes(Mutex<HashMap<u64, Change>>);

#[derive(Debug, Clone, Copy)]
struct Change {
    shown: Timestamp,
    /// What the last fill left; `None` while one is under way.
    left: Option<Timestamp>,
}

impl Changes {
    fn shown(&self, ino: u64, real: Timestamp) -> Timestamp {
        let changes = self.0.lock().expect(LOCK);
        // Another time than the fill left: somebody has changed something since.
        let change = changes.get(&ino).filter(|change| change.left.is_none_or(|left| left == real));
        change.map_or(real, |change| change.shown)
    }

    /// Runs what moves the change time of a file though nothing changes for users.
    pub(super) fn hiding<T>(&self, file: impl AsFd, work: impl FnOnce() -> T) -> T {
        let Some((ino, before)) = change_time(file.as_fd()) else { return work() };
        let shown = self.shown(ino, before);
        self.put(ino, Change { shown, left: None });
        let result = work();
        self.put(ino, Change { shown, left: change_time(file.as_fd()).map(|(_, time)| time) });
        result
    }

    fn put(&self, ino: u64, change: Change) {
        let mut changes = self.0.lock().expect(LOCK);
        if changes.len() >= CHANGES_MAX {
            changes.clear();
        }
        changes.insert(ino, change);
    }
}

fn change_time(file: BorrowedFd<'_>) -> Option<(u64, Timestamp)> {
    let file = std::fs::File::from(file.try_clone_to_owned().ok()?);
    let meta = file.metadata().ok()?;
    Some((meta.ino(), Timestamp::new(meta.ctime(), u32::try_from(meta.ctime_nsec()).ok()?)))
}

/// Attributes from marks.
#[derive(Debug)]
pub(super) struct Marks {
    pub(super) root: Arc<Root>,
    pub(super) changes: Arc<Changes>,
}

impl Marks {
    /// What a file says of itself; `dir` may be an `O_PATH` descriptor.
    pub(super) fn marked(&self, dir: BorrowedFd<'_>, name: &CStr) -> Result<Marked> {
        let mut value = [0; MARK_BYTES_MAX];
        match xattr_at(dir, name, MARK_XATTR, &mut value) {
            Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::NOENT) => Ok(Marked::No),
            Err(Errno::RANGE) => Ok(Marked::Damaged),
            Err(errno) => Err(errno),
            Ok(count) => {
                judge_mark(&self.root, &value[..count], dir, name).map_err(|error| errno::of(&error.source))
            }
        }
    }
}

impl Overlay for Marks {
    fn overlay(&self, dir: BorrowedFd<'_>, name: &CStr, attributes: &mut Attributes) -> Result<()> {
        match self.marked(dir, name)? {
            // A file that has just become resident keeps the time that was shown while it was not.
            Marked::No => attributes.ctime = self.changes.shown(attributes.ino, attributes.ctime),
            Marked::Ours(pledge) => {
                attributes.size = pledge.size;
                attributes.mtime = pledge.mtime;
                attributes.ctime = self.changes.shown(attributes.ino, attributes.ctime);
                attributes.residency = Residency::Tiered { present_bytes: 0 };
            }
            Marked::Copy(_) | Marked::Damaged => attributes.residency = Residency::Orphaned,
        }
        Ok(())
    }

    fn set_mtime(&self, file: BorrowedFd<'_>, mtime: SetTime) -> Result<bool> {
        if !matches!(self.marked(file, c"")?, Marked::Ours(_)) {
            return Ok(false);
        }
        // Of an `O_PATH` descriptor nothing can be set. Not held up by a lease: then it is just being given up, and whoever asks tries again.
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let file = std::fs::File::open(path).map_err(|error| errno::of(&error))?;
        let mtime = match mtime {
            SetTime::To(time) => time,
            SetTime::Now => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                Timestamp::new(now.as_secs() as i64, now.subsec_nanos())
            }
        };
        set_marked_mtime(&file, mtime)?;
        file.sync_all().map_err(|error| errno::of(&error))?;
        Ok(true)
    }
}
