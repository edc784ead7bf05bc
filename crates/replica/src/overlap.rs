//! Whether two endpoints of one machine share files (promises.md, 99).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use polder_types::EndpointId;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Doing, FsError};
use crate::ident::{device, statx_fd};
use crate::identity::Identity;
use crate::root::{RootError, open_at, shown};
use crate::sys;

/// Deeper roots are refused: no administrator makes them.
const DEPTH_MAX: usize = 4096;

/// How two directories lie to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overlap {
    /// They are one directory.
    Same,
    /// The first lies below the second.
    Inside,
    /// The second lies below the first.
    Around,
}

/// Compares device and inode of each with the ancestors of the other, through bind mounts where the kernel lets us.
/// `None` when they share nothing, or when one of them does not exist.
pub fn overlap(first: &Path, second: &Path) -> Result<Option<Overlap>, FsError> {
    let open = |path: &Path| match open_at(path) {
        Ok(dir) => Ok(Some(dir)),
        Err(RootError::Missing { .. }) => Ok(None),
        Err(RootError::Fs(error)) => Err(error),
        Err(_) => Err(FsError::new("open", shown(path).as_bytes(), Errno::IO)),
    };
    let (Some(first), Some(second)) = (open(first)?, open(second)?) else { return Ok(None) };
    let (first_id, second_id) = (dev_ino(first.as_fd())?, dev_ino(second.as_fd())?);
    if first_id == second_id {
        return Ok(Some(Overlap::Same));
    }
    if is_below(&first, &second, second_id)? {
        return Ok(Some(Overlap::Inside));
    }
    Ok(is_below(&second, &first, first_id)?.then_some(Overlap::Around))
}

/// The endpoint whose root is an ancestor of `dir`, if any.
pub(crate) fn adopted_ancestor(dir: BorrowedFd<'_>) -> Result<Option<EndpointId>, FsError> {
    let mut found = None;
    climb(dir, |ancestor| {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let state = rustix::fs::openat(ancestor, crate::STATE_DIR, flags, Mode::empty());
        let identity = state.ok().and_then(|state| Identity::read(state.as_fd()).ok().flatten());
        found = identity.map(|identity| identity.endpoint);
        Ok(found.is_none())
    })?;
    Ok(found)
}

/// Whether `inner` lies below `outer`, by its own mount or by the mount of `outer`.
fn is_below(inner: &OwnedFd, outer: &OwnedFd, outer_id: (u64, u64)) -> Result<bool, FsError> {
    if has_ancestor(inner.as_fd(), outer_id)? {
        return Ok(true);
    }
    // Seen through a bind mount, ".." leads to the mount point's parent. Opened by handle on the mount of the other
    // directory, it leads to where the directory lies on its file system.
    // That call wants a descriptor that is more than a place.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let by_other_mount = rustix::fs::openat(outer, ".", flags, Mode::empty()).and_then(|mount| {
        let handle = sys::name_to_handle(inner.as_fd(), c"")?;
        sys::open_by_handle(mount.as_fd(), &handle, libc::O_PATH | libc::O_DIRECTORY)
    });
    match by_other_mount {
        Ok(dir) if dev_ino(dir.as_fd())? == dev_ino(inner.as_fd())? => has_ancestor(dir.as_fd(), outer_id),
        _ => Ok(false),
    }
}

fn has_ancestor(dir: BorrowedFd<'_>, sought: (u64, u64)) -> Result<bool, FsError> {
    let mut found = false;
    climb(dir, |ancestor| {
        found = dev_ino(ancestor)? == sought;
        Ok(!found)
    })?;
    Ok(found)
}

/// Calls `visit` with each proper ancestor, until it answers false or the top is reached.
fn climb(
    from: BorrowedFd<'_>,
    mut visit: impl FnMut(BorrowedFd<'_>) -> Result<bool, FsError>,
) -> Result<(), FsError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let up = |dir: BorrowedFd<'_>| match rustix::fs::openat(dir, "..", flags, Mode::empty()) {
        // Opened by handle through a bind mount that does not show it: nothing is above it there.
        Err(Errno::NOENT) => Ok(None),
        result => result.map(Some).doing("open the parent of", b".."),
    };
    let mut last = dev_ino(from)?;
    let Some(mut dir) = up(from)? else { return Ok(()) };
    for _ in 0..DEPTH_MAX {
        let here = dev_ino(dir.as_fd())?;
        // The top is its own parent.
        if here == last || !visit(dir.as_fd())? {
            return Ok(());
        }
        last = here;
        match up(dir.as_fd())? {
            Some(parent) => dir = parent,
            None => return Ok(()),
        }
    }
    Err(FsError::new("find the top above", b"..", Errno::NAMETOOLONG))
}

fn dev_ino(fd: BorrowedFd<'_>) -> Result<(u64, u64), FsError> {
    let stat = statx_fd(fd).doing("stat", b".")?;
    Ok((device(&stat), stat.stx_ino))
}
