//! What a mark tells of a file, for the gate's look-ups.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use polder_gate::errno::{self, Errno};
use polder_gate::ports::{Attributes, Residency, Result, SetTime};
use polder_gate::tree::{Overlay, xattr_at};
use polder_replica::{MARK_XATTR, Marked, Root, judge_mark, set_marked_mtime};
use polder_types::Timestamp;

use super::changes::Changes;

/// Longest value that can be a mark.
const MARK_BYTES_MAX: usize = 256;
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
