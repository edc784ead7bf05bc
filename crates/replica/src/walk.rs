//! From names to a directory descriptor, one step at a time, never out of the root.
//!
//! Each step is one `openat2` of one name with RESOLVE_BENEATH, NO_SYMLINKS, NO_XDEV and NO_MAGICLINKS: whatever a
//! local user swaps into the way, the step fails instead of leading elsewhere (promise I19). No path string exists,
//! so neither PATH_MAX nor the depth of the tree matters.
//!
//! A [`Walker`] keeps the descriptors of the way it went last, so neighbours cost one step; but only for a moment.
//!
//! RACE: between a step and the use of its descriptor a user may move the directory, even out of the root. What is
//! then done lands in the directory that was checked, under its new place: the same as if the user had moved it
//! a moment later. For this reason a way is believed for [`FRESH`] and then walked again.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use polder_types::{FileIdent, Name, RelPath};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::error::{Doing, FsError};
use crate::ident::{CName, device, generation, statx_fd};
use crate::{Root, STATE_DIR};

/// How many descriptors a walker keeps: deeper ways are walked again from the last one kept.
const KEPT_MAX: usize = 64;

/// How long a way is believed.
const FRESH: Duration = Duration::from_millis(20);

/// A directory of the share by its place, and which one it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirAt {
    /// Names from the root down.
    pub path: RelPath,
    /// The directory that was seen there, if that is known: another one at this place is refused as
    /// [`crate::ErrorClass::Gone`].
    pub ident: Option<FileIdent>,
}

/// An open directory inside the root.
#[derive(Debug, Clone)]
pub struct Dir {
    fd: Arc<OwnedFd>,
    /// Which directory it is.
    pub ident: FileIdent,
}

impl Dir {
    /// A directory of the state folder, whose identity is nobody's concern.
    pub(crate) fn of_state(fd: OwnedFd) -> Self {
        Self { fd: Arc::new(fd), ident: FileIdent::default() }
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Walks from the root to directories.
#[derive(Debug)]
pub struct Walker {
    root: Dir,
    device: u64,
    /// The way to the last directory: the first directories below the root, at most [`KEPT_MAX`].
    way: Vec<(Name, Dir)>,
    /// When the first step of the way was taken.
    since: Instant,
}

impl Walker {
    /// A walker that begins at the root.
    pub fn new(root: &Root) -> Result<Self, FsError> {
        let (fd, device) = root.open_readable()?;
        Ok(Self {
            root: Dir { fd: Arc::new(fd), ident: root.ident() },
            device,
            way: Vec::new(),
            since: Instant::now(),
        })
    }

    /// Device number of the root: what has another one is not crossed.
    pub(crate) fn device(&self) -> u64 {
        self.device
    }

    /// The directory at a place, if it is the expected one.
    pub fn dir(&mut self, at: &DirAt) -> Result<Dir, FsError> {
        let dir = self.path(at.path.names())?;
        match at.ident {
            Some(expected) if expected != dir.ident => {
                self.forget();
                Err(FsError::new("open the expected directory", &at.path.to_bytes(), Errno::NOENT))
            }
            _ => Ok(dir),
        }
    }

    /// The directory at the end of `names`.
    pub fn path(&mut self, names: &[Name]) -> Result<Dir, FsError> {
        if names.first().is_some_and(|name| name.as_bytes() == STATE_DIR) {
            return Err(FsError::new("enter the state directory", STATE_DIR, Errno::ACCESS));
        }
        if self.since.elapsed() > FRESH {
            self.way.clear();
        }
        let shared = self.way.iter().zip(names).take_while(|((kept, _), name)| kept == *name).count();
        self.way.truncate(shared);
        if shared == 0 {
            self.since = Instant::now();
        }
        let mut dir = self.way.last().map_or(&self.root, |(_, dir)| dir).clone();
        for (depth, name) in names.iter().enumerate().skip(shared) {
            dir = step(&dir, self.device, name).inspect_err(|_| self.way.clear())?;
            if depth < KEPT_MAX {
                self.way.push((name.clone(), dir.clone()));
            }
        }
        Ok(dir)
    }

    /// Forgets the way, after something on it was moved.
    pub fn forget(&mut self) {
        self.way.clear();
    }
}

/// One step down. A symlink, a mount, or anything but a directory is refused.
fn step(from: &Dir, device_of_root: u64, name: &Name) -> Result<Dir, FsError> {
    let fd = open_dir(from.as_fd(), name).doing("open directory", name.as_bytes())?;
    let stat = statx_fd(&fd).doing("stat directory", name.as_bytes())?;
    // A btrfs subvolume is no mount point, but has a device and inode numbers of its own.
    if device(&stat) != device_of_root {
        return Err(FsError::new("stay on the file system of", name.as_bytes(), Errno::XDEV));
    }
    let generation = generation(fd.as_fd(), c"", stat.stx_ino);
    Ok(Dir { fd: Arc::new(fd), ident: FileIdent { ino: stat.stx_ino, generation } })
}

/// How a name inside the root is resolved, by everybody.
pub(crate) const RESOLVE: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_XDEV)
    .union(ResolveFlags::NO_MAGICLINKS);

/// Opens a directory by one name, so that it can be listed and made durable.
pub(crate) fn open_dir(from: BorrowedFd<'_>, name: &Name) -> Result<OwnedFd, Errno> {
    open_beneath(from, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::NOATIME)
}

/// Opens one name with `flags`; without NOATIME where that is not ours to ask for.
pub(crate) fn open_beneath(from: BorrowedFd<'_>, name: &Name, flags: OFlags) -> Result<OwnedFd, Errno> {
    let name = CName::new(name);
    let open = |flags| {
        retry_interrupted(|| {
            rustix::fs::openat2(from, name.as_c_str(), flags | OFlags::CLOEXEC, Mode::empty(), RESOLVE)
        })
    };
    match open(flags) {
        Err(Errno::PERM) if flags.contains(OFlags::NOATIME) => open(flags - OFlags::NOATIME),
        result => result,
    }
}

/// Repeats a call that a signal, or for `openat2` a rename somewhere on the way, has interrupted.
pub(crate) fn retry_interrupted<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    // `openat2` answers EAGAIN when it could not exclude an escape through "..", which one name never needs; a
    // lease that is being broken also answers EAGAIN (we open with O_NONBLOCK) and is the caller's to handle.
    loop {
        match call() {
            Err(Errno::INTR) => (),
            result => return result,
        }
    }
}
