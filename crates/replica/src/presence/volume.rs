//! File systems that tiering was tested on. All others are refused: what a crash leaves there is not known.

use std::os::fd::{AsFd, BorrowedFd};

use crate::ident::{device, statx_fd};
use crate::{Root, sys};

/// Why a file system is refused for tiering.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Untested {
    /// Another kind.
    #[error("tiering was tested on ext4 and XFS, not on this file system ({0:#x})")]
    Kind(u64),
    /// After a crash such a volume shows bytes of deleted files.
    #[error("ext4 is mounted with data=writeback; mount it with data=ordered")]
    Writeback,
    /// Marks could not be bound to it.
    #[error("the file system tells no UUID (Linux 6.9 is needed)")]
    NoUuid,
    /// It could not be asked.
    #[error("the file system or its mount cannot be looked at")]
    Unknown,
}

const EXT4: u64 = 0xef53;
const XFS: u64 = 0x5846_5342;

/// Whether tiering was tested on the file system of this file, as it is mounted.
pub fn ensure_tested(file: impl AsFd) -> Result<(), Untested> {
    let file = file.as_fd();
    let kind = rustix::fs::fstatfs(file).map_err(|_| Untested::Unknown)?.f_type as u64 & 0xffff_ffff;
    // btrfs joins once `tests/presence.rs` has passed on it.
    if !matches!(kind, EXT4 | XFS) {
        return Err(Untested::Kind(kind));
    }
    if kind == EXT4 {
        let stat = statx_fd(file).map_err(|_| Untested::Unknown)?;
        let (major, minor) = (rustix::fs::major(device(&stat)), rustix::fs::minor(device(&stat)));
        let mounts = std::fs::read("/proc/self/mountinfo").map_err(|_| Untested::Unknown)?;
        match is_writeback(&mounts, format!("{major}:{minor}").as_bytes()) {
            Some(false) => (),
            Some(true) => return Err(Untested::Writeback),
            None => return Err(Untested::Unknown),
        }
    }
    sys::file_system_uuid(file).map(|_| ()).ok_or(Untested::NoUuid)
}

impl Root {
    /// [`ensure_tested`], for a file of this root. Looked at once: the root keeps the file system mounted, and ext4 lets nobody change `data=` of
    /// a mounted one.
    pub(super) fn ensure_tested(&self, file: BorrowedFd<'_>) -> Result<(), Untested> {
        let stat = statx_fd(file).map_err(|_| Untested::Unknown)?;
        match device(&stat) == self.device {
            true => self.tested.get_or_init(|| ensure_tested(file)).clone(),
            false => ensure_tested(file),
        }
    }
}

/// Whether any mount of the device has `data=writeback`; `None` if it has no mount here. ext4 lists it where it is not
/// the default of the super block, and `nodelalloc` and the like do not matter.
fn is_writeback(mountinfo: &[u8], number: &[u8]) -> Option<bool> {
    let mut found = None;
    for line in mountinfo.split(|byte| *byte == b'\n') {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
        if fields.get(2) == Some(&number) {
            let options = fields.last().copied().unwrap_or_default();
            let bad = options.split(|byte| *byte == b',').any(|option| option == b"data=writeback");
            found = Some(found.unwrap_or(false) || bad);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writeback_is_seen() {
        let mounts =
            b"22 1 8:1 / / rw - ext4 /dev/sda1 rw\n23 22 8:2 / /a rw - ext4 /dev/sda2 rw,data=writeback\n";
        assert_eq!(is_writeback(mounts, b"8:1"), Some(false));
        assert_eq!(is_writeback(mounts, b"8:2"), Some(true));
        assert_eq!(is_writeback(mounts, b"8:3"), None);
    }

    #[test]
    fn others_are_refused() {
        let proc = std::fs::File::open("/proc/self/stat").unwrap();
        assert!(matches!(ensure_tested(&proc), Err(Untested::Kind(_))));
    }
}
