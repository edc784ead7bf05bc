//! The layout of a root that tiers: `PATH/.polder/tree` holds the share's files, and the gate is mounted over PATH.
//!
//! Which layout a folder has is told by the folder alone, whatever the endpoint's settings say: `tree` is there, or not. Opened as a plain one,
//! a tiered folder would look empty. `tree.new` is there while a folder is on its way from one to the other.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use polder_types::{FileIdent, Kind};
use rustix::fs::{AtFlags, Gid, Mode, OFlags, RawDir, RenameFlags, Uid};
use rustix::io::Errno;

use crate::error::{Doing, FsError};
use crate::ident::{statx_at, statx_fd};
use crate::presence::{MARK_XATTR, ensure_tested};
use crate::root::{Root, RootError, STATE_DIR, ident_of, shown};
use crate::{sys, xattrs};

const TREE: &str = "tree";
const TREE_NEW: &str = "tree.new";
const TREE_OLD: &str = "tree.old";
const OPEN_DIR: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The directory that holds the share's files, and whether that is not the root itself.
pub(crate) fn tree(base: &OwnedFd, state: &OwnedFd, path: &Path) -> Result<(OwnedFd, bool), RootError> {
    if exists(state, TREE_NEW).map_err(RootError::Fs)? || exists(state, TREE_OLD).map_err(RootError::Fs)? {
        return Err(RootError::Unfinished { path: shown(path) });
    }
    match rustix::fs::openat(state, TREE, OPEN_DIR, Mode::empty()) {
        Ok(tree) => Ok((tree, true)),
        Err(Errno::NOENT) => again(base).map(|base| (base, false)),
        Err(errno) => Err(RootError::Fs(FsError::new("open directory", TREE.as_bytes(), errno))),
    }
}

/// Another descriptor of a directory.
pub(crate) fn again(dir: &OwnedFd) -> Result<OwnedFd, RootError> {
    let again = rustix::fs::openat(dir, ".", OPEN_DIR, Mode::empty());
    again.doing("open the root", b".").map_err(RootError::Fs)
}

/// A path by which this process reaches a directory that a mount hides. One descriptor is kept for it as long as the process lives: a path
/// that somebody still holds must not lead to another file.
pub(crate) fn reachable(dir: &OwnedFd) -> Option<PathBuf> {
    static KEPT: Mutex<BTreeMap<(FileIdent, u64), RawFd>> = Mutex::new(BTreeMap::new());
    let key = ident_of(dir.as_fd()).ok()?;
    let mut kept = KEPT.lock().expect("no holder of this lock panics");
    let fd = match kept.get(&key) {
        Some(fd) => *fd,
        None => {
            let fd = dir.try_clone().ok()?.into_raw_fd();
            kept.insert(key, fd);
            fd
        }
    };
    Some(PathBuf::from(format!("{}{fd}", sys::BY_DESCRIPTOR)))
}

/// Lays a folder out for tiering; nothing is copied. Whoever calls has found that nobody looks at the old tree. The root is to be opened anew.
///
/// Order: the new tree with the root's own attributes, durable; each entry is renamed into it; then the new tree gets its name. Everywhere in
/// between [`Root::open`] refuses the folder, and [`go_on`] goes on.
pub fn lay_out(root: Root) -> Result<(), RootError> {
    let path = shown(root.path());
    if root.is_tiered() {
        return Ok(());
    }
    let not = |why: String| RootError::NotForTiering { path: path.clone(), why };
    ensure_tested(root.state.as_fd()).map_err(|why| not(why.to_string()))?;
    prepare(&root).map_err(RootError::Fs)?;
    move_in(&root.base, &root.state).map_err(RootError::Fs)
}

/// Puts the files of a tiered root back where the mount was, which must be gone. Refused while any file in it carries a mark: outside of
/// the gate its holes could be read.
pub fn lay_back(root: &Root) -> Result<(), RootError> {
    if !root.is_tiered() {
        return Ok(());
    }
    let fs = RootError::Fs;
    let tree = open_readable(root.state.as_fd(), TREE).map_err(fs)?;
    if let Some(path) = find_marked(&tree).map_err(fs)? {
        let why = format!("\"{}\" is tiered", polder_types::Escaped(&path));
        return Err(RootError::NotForTiering { path: shown(root.path()), why });
    }
    rustix::fs::renameat_with(&root.state, TREE, &root.state, TREE_OLD, RenameFlags::NOREPLACE)
        .doing("name", TREE_OLD.as_bytes())
        .map_err(fs)?;
    rustix::fs::fsync(&root.state).doing("make durable", STATE_DIR).map_err(fs)?;
    move_out(&root.base, &root.state).map_err(fs)
}

/// Goes on with a layout that a crash has left half done. To be called when [`Root::open`] says [`RootError::Unfinished`].
pub fn go_on(path: &Path) -> Result<(), RootError> {
    let base = crate::root::open_at(path)?;
    let state = crate::root::open_state(&base, path)?;
    let is_new = exists(&state, TREE_NEW).map_err(RootError::Fs)?;
    if is_new { move_in(&base, &state) } else { move_out(&base, &state) }.map_err(RootError::Fs)
}

/// A file below a directory that carries a mark, as names joined by slashes.
fn find_marked(tree: &OwnedFd) -> Result<Option<Vec<u8>>, FsError> {
    let open = |dir: &OwnedFd| dir.try_clone().map_err(|_| FsError::new("open", b"tree", Errno::MFILE));
    let mut dirs: Vec<(OwnedFd, Vec<u8>)> = vec![(open(tree)?, Vec::new())];
    while let Some((dir, path)) = dirs.pop() {
        for name in names_in(&dir, false)? {
            let stat = statx_at(&dir, &name).doing("stat", name.to_bytes())?;
            let below = [&path[..], b"/", name.to_bytes()].concat();
            match crate::ident::kind(&stat) {
                Some(Kind::Directory) => {
                    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    let child = rustix::fs::openat(&dir, &*name, flags, Mode::empty());
                    dirs.push((child.doing("open directory", name.to_bytes())?, below));
                }
                Some(Kind::File) => {
                    let value = xattrs::get(dir.as_fd(), &name, MARK_XATTR);
                    if value.doing("read the mark of", name.to_bytes())?.is_some() {
                        return Ok(Some(below));
                    }
                }
                Some(Kind::Symlink) | None => (),
            }
        }
    }
    Ok(None)
}

/// Moves what is left of the old tree to the root, and takes the tree away.
fn move_out(base: &OwnedFd, state: &OwnedFd) -> Result<(), FsError> {
    let (old, to) = (open_readable(state.as_fd(), TREE_OLD)?, open_readable(base.as_fd(), ".")?);
    let times = statx_fd(&old).doing("stat", TREE_OLD.as_bytes())?;
    for name in names_in(&old, true)? {
        rustix::fs::renameat_with(&old, &*name, &to, &*name, RenameFlags::NOREPLACE)
            .doing("move out of the tree", name.as_bytes())?;
    }
    let mtime = polder_types::Timestamp::new(times.stx_mtime.tv_sec, times.stx_mtime.tv_nsec);
    crate::staging::set_mtime(to.as_fd(), mtime).doing("set the times of", b".")?;
    rustix::fs::fsync(&to).doing("make durable", b".")?;
    rustix::fs::unlinkat(state, TREE_OLD, AtFlags::REMOVEDIR).doing("remove", TREE_OLD.as_bytes())?;
    rustix::fs::fsync(state).doing("make durable", STATE_DIR)
}

/// Makes the new tree: a directory with the owner, mode and attributes of the root.
fn prepare(root: &Root) -> Result<(), FsError> {
    let stat = statx_fd(&root.base).doing("stat the root", b".")?;
    match rustix::fs::mkdirat(&root.state, TREE_NEW, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => (),
        Err(errno) => return Err(FsError::new("create directory", TREE_NEW.as_bytes(), errno)),
    }
    let new = open_readable(root.state.as_fd(), TREE_NEW)?;
    let (user, group) = (Uid::from_raw(stat.stx_uid), Gid::from_raw(stat.stx_gid));
    rustix::fs::fchown(&new, Some(user), Some(group)).doing("set the owner of", TREE_NEW.as_bytes())?;
    let from = open_readable(root.base.as_fd(), ".")?;
    for xattr in xattrs::list(from.as_fd(), c"").doing("list the attributes of", b".")? {
        if let Some(value) = xattrs::get(from.as_fd(), c"", &xattr).doing("read the attributes of", b".")? {
            xattrs::set(&new, &xattr, &value).doing("set the attributes of", TREE_NEW.as_bytes())?;
        }
    }
    let mode = Mode::from_raw_mode(u32::from(stat.stx_mode) & 0o7777);
    rustix::fs::fchmod(&new, mode).doing("set the mode of", TREE_NEW.as_bytes())?;
    let mtime = polder_types::Timestamp::new(stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec);
    crate::staging::set_mtime(new.as_fd(), mtime).doing("set the times of", TREE_NEW.as_bytes())?;
    rustix::fs::fsync(&new).doing("make durable", TREE_NEW.as_bytes())?;
    rustix::fs::fsync(&root.state).doing("make durable", STATE_DIR)
}

/// Moves what is left into the new tree, and gives that its name.
fn move_in(base: &OwnedFd, state: &OwnedFd) -> Result<(), FsError> {
    let (new, from) = (open_readable(state.as_fd(), TREE_NEW)?, open_readable(base.as_fd(), ".")?);
    let times = statx_fd(&new).doing("stat", TREE_NEW.as_bytes())?;
    for name in names_in(&from, true)? {
        rustix::fs::renameat_with(&from, &*name, &new, &*name, RenameFlags::NOREPLACE)
            .doing("move into the tree", name.as_bytes())?;
    }
    let mtime = polder_types::Timestamp::new(times.stx_mtime.tv_sec, times.stx_mtime.tv_nsec);
    crate::staging::set_mtime(new.as_fd(), mtime).doing("set the times of", TREE_NEW.as_bytes())?;
    rustix::fs::fsync(&new).doing("make durable", TREE_NEW.as_bytes())?;
    rustix::fs::fsync(&from).doing("make durable", b".")?;
    rustix::fs::renameat_with(state, TREE_NEW, state, TREE, RenameFlags::NOREPLACE)
        .doing("name", TREE.as_bytes())?;
    rustix::fs::fsync(state).doing("make durable", STATE_DIR)
}

/// Names in a directory; in the root's, but the state directory.
fn names_in(dir: &OwnedFd, is_root: bool) -> Result<Vec<std::ffi::CString>, FsError> {
    let mut room = Vec::with_capacity(32 * 1024);
    let mut entries = RawDir::new(dir, room.spare_capacity_mut());
    let mut names = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry.doing("list directory", b".")?;
        if crate::look::entry_name(entry.file_name(), is_root).is_some() {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(names)
}

/// Whether the folder at a root's path holds nothing of a user.
pub fn is_empty(root: &Root) -> Result<bool, FsError> {
    Ok(names_in(&open_readable(root.base.as_fd(), ".")?, true)?.is_empty())
}

fn open_readable(at: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, FsError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(at, name, flags, Mode::empty()).doing("open directory", name.as_bytes())
}

fn exists(state: &OwnedFd, name: &str) -> Result<bool, FsError> {
    let name = std::ffi::CString::new(name).expect("a plain name");
    match statx_at(state, &name) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(FsError::new("stat", name.to_bytes(), errno)),
    }
}
