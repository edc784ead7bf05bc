//! The directory that the gate is mounted on, made immutable: while there is no mount, nothing can be put into it that the mount would hide.
//!
//! The flag belongs to the layout for tiering: a folder that carries it of itself is not laid out, and no plain folder keeps it.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::IFlags;
use rustix::io::Errno;

use crate::error::{Doing, FsError};
use crate::layout::open_readable;
use crate::root::Root;

/// Makes the directory at the path of a tiered root immutable, as `chattr +i` does. What is below `.polder` stays as changeable as it was.
/// `false`: its file system has no such flag. Without CAP_LINUX_IMMUTABLE it is an error. Done again it changes nothing.
pub fn seal_point(root: &Root) -> Result<bool, FsError> {
    if !root.is_tiered() {
        return Ok(false);
    }
    set(&root.base, true)
}

/// Makes the directory at the path changeable again.
pub fn unseal_point(root: &Root) -> Result<(), FsError> {
    unseal(&root.base)
}

/// As [`unseal_point`], of the folder at a path, whoever it belongs to.
pub fn unseal_at(path: &std::path::Path) -> Result<(), crate::RootError> {
    unseal(&crate::root::open_at(path)?).map_err(crate::RootError::Fs)
}

/// As [`unseal_point`], of a directory; `O_PATH` will do.
pub(crate) fn unseal(base: &OwnedFd) -> Result<(), FsError> {
    set(base, false).map(drop)
}

fn set(base: &OwnedFd, immutable: bool) -> Result<bool, FsError> {
    let doing = if immutable { "make immutable" } else { "make changeable again" };
    let dir = open_readable(base.as_fd(), ".")?;
    let flags = match rustix::fs::ioctl_getflags(&dir) {
        Ok(flags) => flags,
        Err(Errno::NOTTY | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => return Ok(false),
        Err(errno) => return Err(FsError::new(doing, b".", errno)),
    };
    if flags.contains(IFlags::IMMUTABLE) == immutable {
        return Ok(immutable);
    }
    let mut wanted = flags;
    wanted.set(IFlags::IMMUTABLE, immutable);
    match rustix::fs::ioctl_setflags(&dir, wanted) {
        Err(Errno::NOTTY | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) if immutable => Ok(false),
        outcome => outcome.doing(doing, b".").map(|()| immutable),
    }
}
