//! The layout of a root that tiers: `PATH/.polder/tree` holds the share's files, and the gate is mounted over PATH.
//!
//! Which layout a folder has is told by the folder alone, whatever the endpoint's settings say: `tree` is there, or not. Opened as a plain one,
//! a tiered folder would look empty. `tree.new` is there while a folder is on its way from one to the other.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use polder_types::FileIdent;
use rustix::fs::{AtFlags, Gid, IFlags, Mode, OFlags, RawDir, RenameFlags, Uid};
use rustix::io::Errno;

use crate::error::{Doing, FsError};
use crate::ident::{statx_at, statx_fd};
use crate::left::each_marked;
use crate::presence::{Pace, ensure_tested};
use crate::root::{Root, RootError, STATE_DIR, ident_of, shown};
use crate::{sys, xattrs};

const TREE: &str = "tree";
const TREE_NEW: &str = "tree.new";
const TREE_OLD: &str = "tree.old";
const NAME_BYTES_MAX: usize = 255;
/// Beginnings of the attributes that users set, which go where a user has removed them.
const USERS_ATTRIBUTES: [&[u8]; 3] = [b"user.", b"system.posix_acl_", b"security.NTACL"];
/// Names that are tried for one newcomer.
const BESIDE_MAX: u32 = 1000;
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

/// Lays a folder out for tiering; nothing is copied. Whoever calls has found that nobody looks at the old tree. Then [`Root::anew`] tells of
/// the tiered root.
///
/// Order: the new tree with the root's own attributes, durable; each entry is renamed into it; then the new tree gets its name. Everywhere in
/// between [`Root::open`] refuses the folder, and [`go_on`] goes on. What cannot be moved (`chattr +i`, another project) is an error, and all
/// is as it was.
pub fn lay_out(root: &Root, pace: Pace<'_>) -> Result<(), RootError> {
    let path = shown(root.path());
    if root.is_tiered() {
        return Ok(());
    }
    let not = |why: String| RootError::NotForTiering { path: path.clone(), why };
    ensure_tested(root.state.as_fd()).map_err(|why| not(why.to_string()))?;
    if let Some(what) = unfit(&root.base) {
        return Err(not(format!("the folder {what}")));
    }
    let mut mover = Mover { base: &root.base, state: &root.state, pace };
    let outcome = mover.prepare().and_then(|()| mover.move_in());
    mover.undone(outcome, &path)
}

/// Puts the files of a tiered root back where the mount was, which must be gone. Refused while any file in it carries a mark: outside of
/// the gate its holes could be read. Then [`Root::anew`] tells of the plain root.
pub fn lay_back(root: &Root, pace: Pace<'_>) -> Result<(), RootError> {
    if !root.is_tiered() {
        return Ok(());
    }
    ensure_unmarked(root)?;
    crate::point::unseal(&root.base).map_err(RootError::Fs)?;
    let mut mover = Mover { base: &root.base, state: &root.state, pace };
    let named = mover.step("name", TREE_OLD.as_bytes(), |_, state| {
        rustix::fs::renameat_with(state, TREE, state, TREE_OLD, RenameFlags::NOREPLACE)
    });
    named
        .and_then(|()| mover.durable_state())
        .and_then(|()| mover.move_out(TREE_OLD))
        .map_err(Halt::told(root.path()))
}

/// Fails with the path of a file of a tiered root that carries a mark.
pub fn ensure_unmarked(root: &Root) -> Result<(), RootError> {
    each_marked(root, &mut |file| {
        let why = format!("\"{}\" is tiered", file.path);
        Err(RootError::NotForTiering { path: shown(root.path()), why })
    })
}

/// Goes on with a layout that a crash has left half done. To be called when [`Root::open`] says [`RootError::Unfinished`].
pub fn go_on(path: &Path, pace: Pace<'_>) -> Result<(), RootError> {
    let base = crate::root::open_at(path)?;
    let state = crate::root::open_state(&base, path)?;
    let mut mover = Mover { base: &base, state: &state, pace };
    if !exists(&state, TREE_NEW).map_err(RootError::Fs)? {
        crate::point::unseal(&base).map_err(RootError::Fs)?;
        return mover.move_out(TREE_OLD).map_err(Halt::told(path));
    }
    // Whether its attributes were whole is not known as long as nothing is in it; and until then the root's are as they were.
    let new = open_readable(state.as_fd(), TREE_NEW).map_err(RootError::Fs)?;
    let is_begun = !names_in(&new, false).map_err(RootError::Fs)?.is_empty();
    let prepared = if is_begun { Ok(()) } else { mover.prepare() };
    let outcome = prepared.and_then(|()| mover.move_in());
    mover.undone(outcome, &shown(path))
}

/// Takes what lies at the path of a tiered root, where nothing should, into the tree: somebody has put it there while the gate was not mounted.
/// How many entries.
pub fn take_in(root: &Root) -> Result<usize, FsError> {
    if !root.is_tiered() {
        return Ok(0);
    }
    let from = open_readable(root.base.as_fd(), ".")?;
    let names = names_in(&from, true)?;
    if names.is_empty() {
        return Ok(0);
    }
    // Whoever put it there has made it changeable, or a crash came in between.
    crate::point::unseal(&root.base)?;
    let to = open_readable(root.tree(), ".")?;
    for name in &names {
        take_one(&from, name, &to, &to)?;
    }
    rustix::fs::fsync(&to).doing("make durable", TREE.as_bytes())?;
    rustix::fs::fsync(&from).doing("make durable", b".")?;
    Ok(names.len())
}

/// Moves a newcomer into a directory, under another name if its own is taken there; that name is free in `also`, too.
fn take_one(from: &OwnedFd, name: &CStr, to: &OwnedFd, also: &OwnedFd) -> Result<(), FsError> {
    for number in 0..=BESIDE_MAX {
        let free = if number == 0 { name.to_owned() } else { beside(name, number) };
        let is_free = number == 0 || matches!(statx_at(also, &free), Err(Errno::NOENT));
        let moved = match is_free {
            true => rustix::fs::renameat_with(from, name, to, &*free, RenameFlags::NOREPLACE),
            false => Err(Errno::EXIST),
        };
        match moved {
            Err(Errno::EXIST) => (),
            outcome => return outcome.doing("move into the tree", name.to_bytes()),
        }
        // An empty directory that somebody made in the place of one that was not to be seen says nothing.
        match rustix::fs::unlinkat(from, name, AtFlags::REMOVEDIR) {
            Ok(()) => return Ok(()),
            Err(_) => continue,
        }
    }
    Err(FsError::new("move into the tree", name.to_bytes(), Errno::EXIST))
}

/// A name for what came while another of its name could not be seen.
fn beside(name: &CStr, number: u32) -> std::ffi::CString {
    let tail = if number == 1 { "-unmounted".to_owned() } else { format!("-unmounted-{number}") };
    let mut bytes = name.to_bytes().to_vec();
    let mut end = bytes.len().min(NAME_BYTES_MAX - tail.len());
    // Not in the middle of a character.
    while end > 0 && end < bytes.len() && bytes[end] & 0xc0 == 0x80 {
        end -= 1;
    }
    bytes.truncate(end);
    bytes.extend_from_slice(tail.as_bytes());
    std::ffi::CString::new(bytes).expect("no NUL in a name of a directory")
}

/// What forbids that entries leave or enter a directory.
fn unfit(base: &OwnedFd) -> Option<&'static str> {
    let dir = open_readable(base.as_fd(), ".").ok()?;
    let flags = rustix::fs::ioctl_getflags(&dir).ok()?;
    // From `linux/fs.h`.
    const ENCRYPT: u32 = 0x800;
    const CASEFOLD: u32 = 0x4000_0000;
    match flags {
        flags if flags.contains(IFlags::IMMUTABLE) => Some("is immutable (chattr +i)"),
        flags if flags.contains(IFlags::APPEND) => Some("is append-only (chattr +a)"),
        flags if flags.bits() & ENCRYPT != 0 => Some("is encrypted by the file system"),
        flags if flags.bits() & CASEFOLD != 0 => Some("folds case"),
        _ => None,
    }
}

/// Why a layout stands still.
enum Halt {
    Fs(FsError),
    /// The caller's [`Pace`] ended it.
    Ended,
}

impl Halt {
    fn told(path: &Path) -> impl FnOnce(Self) -> RootError + '_ {
        move |halt| match halt {
            Self::Fs(error) => RootError::Fs(error),
            Self::Ended => RootError::Unfinished { path: shown(path) },
        }
    }
}

impl From<FsError> for Halt {
    fn from(error: FsError) -> Self {
        Self::Fs(error)
    }
}

/// Moves entries between the root and a tree in its state directory.
struct Mover<'a, 'p> {
    base: &'a OwnedFd,
    state: &'a OwnedFd,
    pace: Pace<'p>,
}

impl Mover<'_, '_> {
    /// One system call that changes something.
    fn step<T>(
        &mut self,
        doing: &'static str,
        item: &[u8],
        call: impl FnOnce(&OwnedFd, &OwnedFd) -> Result<T, Errno>,
    ) -> Result<T, Halt> {
        if !(self.pace)(doing) {
            return Err(Halt::Ended);
        }
        Ok(call(self.base, self.state).doing(doing, item)?)
    }

    fn durable_state(&mut self) -> Result<(), Halt> {
        self.step("make durable", STATE_DIR, |_, state| rustix::fs::fsync(state))
    }

    /// After an error all is put back as it was; a crash, or an end by the caller, leaves what there is.
    fn undone(&mut self, outcome: Result<(), Halt>, path: &str) -> Result<(), RootError> {
        let error = match outcome {
            Ok(()) => return Ok(()),
            Err(Halt::Ended) => return Err(RootError::Unfinished { path: path.to_owned() }),
            Err(Halt::Fs(error)) => error,
        };
        if exists(self.state, TREE_NEW).map_err(RootError::Fs)? {
            match self.move_out(TREE_NEW) {
                Ok(()) => (),
                Err(Halt::Ended) => return Err(RootError::Unfinished { path: path.to_owned() }),
                Err(Halt::Fs(error)) => return Err(RootError::Fs(error)),
            }
        }
        let why = format!("{error}: {}", error.source);
        Err(RootError::NotForTiering { path: path.to_owned(), why })
    }

    /// Makes the new tree: a directory with the owner, mode and attributes of the root.
    fn prepare(&mut self) -> Result<(), Halt> {
        let new = TREE_NEW.as_bytes();
        let stat = statx_fd(self.base).doing("stat the root", b".")?;
        self.step("create directory", new, |_, state| {
            match rustix::fs::mkdirat(state, TREE_NEW, Mode::RWXU) {
                Err(Errno::EXIST) => Ok(()),
                outcome => outcome,
            }
        })?;
        let tree = open_readable(self.state.as_fd(), TREE_NEW)?;
        let from = open_readable(self.base.as_fd(), ".")?;
        self.carry(&from, &tree, new)?;
        let mtime = polder_types::Timestamp::new(stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec);
        self.step("set the times of", new, |_, _| crate::staging::set_mtime(tree.as_fd(), mtime))?;
        self.step("make durable", new, |_, _| rustix::fs::fsync(&tree))?;
        self.durable_state()
    }

    /// Gives a directory the owner, the attributes and the mode of another one. The mode last: a new owner takes bits of it away.
    fn carry(&mut self, from: &OwnedFd, to: &OwnedFd, name: &'static [u8]) -> Result<(), Halt> {
        let stat = statx_fd(from).doing("stat", name)?;
        let (user, group) = (Uid::from_raw(stat.stx_uid), Gid::from_raw(stat.stx_gid));
        self.step("set the owner of", name, |_, _| rustix::fs::fchown(to, Some(user), Some(group)))?;
        let listed = |dir: &OwnedFd| xattrs::list(dir.as_fd(), c"").doing("list the attributes of", name);
        let wanted = listed(from)?;
        for xattr in &wanted {
            if let Some(value) =
                xattrs::get(from.as_fd(), c"", xattr).doing("read the attributes of", name)?
            {
                self.step("set the attributes of", name, |_, _| xattrs::set(to, xattr, &value))?;
            }
        }
        let is_users = |xattr: &CStr| USERS_ATTRIBUTES.iter().any(|own| xattr.to_bytes().starts_with(own));
        for xattr in listed(to)?.iter().filter(|xattr| is_users(xattr) && !wanted.contains(xattr)) {
            self.step("remove attributes of", name, |_, _| xattrs::remove(to, xattr))?;
        }
        let mode = Mode::from_raw_mode(u32::from(stat.stx_mode) & 0o7777);
        self.step("set the mode of", name, |_, _| rustix::fs::fchmod(to, mode))
    }

    /// Moves what is left into the new tree, and gives that its name.
    fn move_in(&mut self) -> Result<(), Halt> {
        let (new, from) =
            (open_readable(self.state.as_fd(), TREE_NEW)?, open_readable(self.base.as_fd(), ".")?);
        let times = statx_fd(&new).doing("stat", TREE_NEW.as_bytes())?;
        for name in names_in(&from, true)? {
            if !(self.pace)("move into the tree") {
                return Err(Halt::Ended);
            }
            // What has its name by now came after a crash.
            take_one(&from, &name, &new, &new)?;
        }
        let mtime = polder_types::Timestamp::new(times.stx_mtime.tv_sec, times.stx_mtime.tv_nsec);
        self.step("set the times of", TREE_NEW.as_bytes(), |_, _| {
            crate::staging::set_mtime(new.as_fd(), mtime)
        })?;
        self.step("make durable", TREE_NEW.as_bytes(), |_, _| rustix::fs::fsync(&new))?;
        self.step("make durable", b".", |_, _| rustix::fs::fsync(&from))?;
        self.step("name", TREE.as_bytes(), |_, state| {
            rustix::fs::renameat_with(state, TREE_NEW, state, TREE, RenameFlags::NOREPLACE)
        })?;
        self.durable_state()
    }

    /// Moves what is left of a tree to the root, and takes the tree away.
    fn move_out(&mut self, tree: &'static str) -> Result<(), Halt> {
        let (old, to) = (open_readable(self.state.as_fd(), tree)?, open_readable(self.base.as_fd(), ".")?);
        let times = statx_fd(&old).doing("stat", tree.as_bytes())?;
        for name in names_in(&old, false)? {
            let moved = self.step("move out of the tree", name.to_bytes(), |_, _| {
                match rustix::fs::renameat_with(&old, &*name, &to, &*name, RenameFlags::NOREPLACE) {
                    // Somebody has put something there since the mount is gone.
                    Err(Errno::EXIST) => Ok(false),
                    outcome => outcome.map(|()| true),
                }
            })?;
            if !moved {
                take_one(&to, &name, &to, &old)?;
            }
        }
        if !names_in(&old, false)?.is_empty() {
            // The names that were taken are free now.
            return self.move_out(tree);
        }
        // What was changed through the gate is the tree's. One that was never whole says nothing.
        if tree == TREE_OLD {
            self.carry(&old, &to, b".")?;
        }
        let mtime = polder_types::Timestamp::new(times.stx_mtime.tv_sec, times.stx_mtime.tv_nsec);
        self.step("set the times of", b".", |_, _| crate::staging::set_mtime(to.as_fd(), mtime))?;
        self.step("make durable", b".", |_, _| rustix::fs::fsync(&to))?;
        self.step("remove", tree.as_bytes(), |_, state| {
            rustix::fs::unlinkat(state, tree, AtFlags::REMOVEDIR)
        })?;
        self.durable_state()
    }
}

/// Names in a directory; in the root's, but the state directory.
pub(crate) fn names_in(dir: impl AsFd, is_root: bool) -> Result<Vec<std::ffi::CString>, FsError> {
    // It may have been listed before.
    let dir = dir.as_fd();
    rustix::fs::seek(dir, rustix::fs::SeekFrom::Start(0)).doing("list directory", b".")?;
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

pub(crate) fn open_readable(at: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, FsError> {
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
