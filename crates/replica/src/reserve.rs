//! Room for the agent's own books, and for the marks of placeholders, on a full volume.
//!
//! A volume that users have filled to the last byte must not stop the endpoint: what is wrong with which item is told by
//! an agent that runs, and local edits that need no room are still to be sent. So some room is taken while there is
//! plenty, given to the state database or to marks when the volume is full, and never used for content that comes from the share.

use rustix::fs::{FallocateFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Doing, FsError};
use crate::root::Root;

const NAME: &str = "reserve";
/// One part in so many of the volume.
const ONE_IN: u64 = 256;
const BYTES_MIN: u64 = 256 * 1024;
/// The state database's log has this size between two checkpoints.
const BYTES_MAX: u64 = 16 * 1024 * 1024;
/// The room is taken only where so many times as much is free.
const PLENTY: u64 = 4;

/// Room that is left and room that stays the agent's own, in bytes, of the volume that a descriptor lies on.
pub(crate) fn room(fd: std::os::fd::BorrowedFd<'_>) -> Result<(u64, u64), FsError> {
    let stat = rustix::fs::fstatvfs(fd).doing("ask the file system of", b".")?;
    let own = (stat.f_blocks.saturating_mul(stat.f_frsize) / ONE_IN).clamp(BYTES_MIN, BYTES_MAX);
    Ok((stat.f_bavail.saturating_mul(stat.f_frsize), own))
}

impl Root {
    /// Takes the room if it is not taken yet and plenty is left. `false`: not now, or this file system cannot.
    pub fn keep_reserve(&self) -> Result<bool, FsError> {
        let (free, own) = room(self.state())?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        if free < own.saturating_mul(PLENTY) {
            return Ok(false);
        }
        let file = match rustix::fs::openat(self.state(), NAME, flags, Mode::RUSR | Mode::WUSR) {
            Err(Errno::EXIST) => return Ok(true),
            file => file.doing("create", NAME.as_bytes())?,
        };
        match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, own) {
            Ok(()) => Ok(true),
            Err(errno) => {
                self.release_reserve()?;
                match errno {
                    Errno::OPNOTSUPP | Errno::NOSYS => Ok(false),
                    errno => Err(FsError::new("reserve space for", NAME.as_bytes(), errno)),
                }
            }
        }
    }

    /// Gives the room back to the volume, for the state database. `false`: there was none.
    pub fn release_reserve(&self) -> Result<bool, FsError> {
        match rustix::fs::unlinkat(self.state(), NAME, rustix::fs::AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(FsError::new("remove", NAME.as_bytes(), errno)),
        }
    }

    /// Whether so little is left that displaced content should go early: not enough for `wanted` bytes, or little at all.
    pub fn is_short(&self, wanted: u64) -> Result<bool, FsError> {
        let (free, own) = room(self.state())?;
        Ok(free < own.saturating_mul(PLENTY).max(own.saturating_add(wanted)))
    }

    /// Whether nothing is left on the volume but what stays the agent's own.
    pub fn is_full(&self) -> Result<bool, FsError> {
        room(self.state()).map(|(free, own)| free < own)
    }
}
