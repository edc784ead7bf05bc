//! The port [`Namespace`] over a plain directory: the reference for implementations, and what the gate's own tests mount.
//!
//! Nodes are reached by handle, which needs CAP_DAC_READ_SEARCH and a file system that has handles of a known form: ext4, XFS (up to 512 TiB), btrfs, tmpfs. Inode numbers
//! that are too large for a node are refused (`EOVERFLOW`).

mod handles;
mod listing;

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};

use polder_types::Timestamp;
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, RenameFlags, Statx, StatxFlags, Timespec, Timestamps, UTIME_NOW,
    UTIME_OMIT, Uid,
};
use rustix::io::Errno;

use crate::ports::{
    Attributes, Caller, Component, DirEntry, Entry, Make, Namespace, Node, Residency, Result, SetAttributes,
    SetTime, SetXattr, Space,
};
use crate::shared::lock;
use crate::sys::Follow;
use crate::{rights, sys};
use handles::{Form, HIGHEST, Ident, Told};
use listing::Listings;

/// Puts into attributes what a mark tells. `name` in `dir`, or `dir` itself when the name is empty, is a regular file.
pub trait Overlay: Send + Sync {
    /// Changes size, times and residency of a file that carries a mark.
    fn overlay(&self, dir: BorrowedFd<'_>, name: &CStr, attributes: &mut Attributes) -> Result<()>;

    /// Times of a file that carries a mark are set; `true` when that is done.
    fn set_mtime(&self, file: BorrowedFd<'_>, mtime: SetTime) -> Result<bool>;
}

/// All files are resident.
#[derive(Debug, Clone, Copy)]
pub struct NoOverlay;

impl Overlay for NoOverlay {
    fn overlay(&self, _: BorrowedFd<'_>, _: &CStr, _: &mut Attributes) -> Result<()> {
        Ok(())
    }

    fn set_mtime(&self, _: BorrowedFd<'_>, _: SetTime) -> Result<bool> {
        Ok(false)
    }
}

/// Directories that are kept open for look-ups.
const DIRECTORIES_MAX: usize = 256;

/// A directory tree.
pub struct Tree {
    /// For opening by handle: a descriptor that is open for reading.
    root: OwnedFd,
    root_ident: Ident,
    form: Form,
    mount_id: u64,
    /// `/proc/self/fd`: how attributes behind a descriptor are reached.
    descriptors: OwnedFd,
    directories: Mutex<HashMap<u64, Arc<OwnedFd>>>,
    listings: Listings,
    overlay: Arc<dyn Overlay>,
}

const EMPTY: &CStr = c"";

impl Tree {
    /// The tree below an open directory.
    pub fn open(root: impl AsFd, overlay: Arc<dyn Overlay>) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(root, c".", flags, Mode::empty())?;
        let stat = statx(root.as_fd(), EMPTY)?;
        let handle = sys::name_to_handle(root.as_fd(), EMPTY)?;
        let form = Form::learn(&handle, stat.stx_ino).ok_or(Errno::OPNOTSUPP)?;
        let root_ident = form.ident(&handle).ok_or(Errno::OPNOTSUPP)?;
        Ok(Self {
            root,
            root_ident,
            form,
            mount_id: stat.stx_mnt_id,
            descriptors: rustix::fs::open("/proc/self/fd", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?,
            directories: Mutex::default(),
            listings: Listings::default(),
            overlay,
        })
    }

    fn node_of(&self, ident: Ident) -> Result<Node> {
        if ident == self.root_ident { Ok(Node::ROOT) } else { self.form.node(ident).ok_or(Errno::OVERFLOW) }
    }

    /// The node of an inode; `None` when its number is too large.
    pub fn node_of_inode(&self, ino: u64, generation: u32) -> Option<Node> {
        self.node_of(Ident { ino, generation }).ok()
    }

    /// Opens a node by handle; nothing is followed, a FIFO does not block.
    pub fn open_node(&self, node: Node, flags: OFlags) -> Result<OwnedFd> {
        if node == Node::ROOT {
            return rustix::fs::openat(&self.root, c".", flags | OFlags::CLOEXEC, Mode::empty());
        }
        let open = |ident| {
            let handle = self.form.handle(ident);
            sys::open_by_handle(self.root.as_fd(), &handle, flags.bits() as i32)
        };
        match self.form.told(node) {
            Told::Exactly(ident) => open(ident),
            Told::Either(ident) => match open(ident) {
                Err(Errno::STALE) => open(Ident { generation: ident.generation | HIGHEST, ..ident }),
                opened => opened,
            },
            Told::Partly(ident) => {
                let generation = sys::xfs_generation(self.root.as_fd(), ident.ino)?;
                if Form::low(generation) != ident.generation {
                    return Err(Errno::STALE);
                }
                open(Ident { generation, ..ident })
            }
        }
    }

    /// Opens a regular file for reading, and for writing if `write` says so. With `now`, `EAGAIN` while somebody gives it up under a lease; else it waits.
    /// Where a file may only be appended to (a flag of its own) the descriptor appends if `append` says that this will do.
    pub fn open_file(&self, node: Node, write: bool, append: bool, now: bool) -> Result<OwnedFd> {
        let waits = if now { OFlags::NONBLOCK } else { OFlags::empty() };
        let open = |flags| self.open_node(node, flags | waits | OFlags::NOFOLLOW);
        match (write, append) {
            (false, _) => open(OFlags::RDONLY),
            // The gate tells the place of each write, so the descriptor is not to append.
            (true, true) => match open(OFlags::RDWR) {
                Err(Errno::PERM) => open(OFlags::RDWR | OFlags::APPEND),
                opened => opened,
            },
            (true, false) => open(OFlags::RDWR),
        }
    }

    /// A descriptor that only stands for a node (`O_PATH`), with the inode's number and generation.
    pub fn locate(&self, node: Node) -> Result<(OwnedFd, u64, u32)> {
        let file = self.path_to(node)?;
        let ident = self.form.ident(&sys::name_to_handle(file.as_fd(), EMPTY)?).ok_or(Errno::OPNOTSUPP)?;
        Ok((file, ident.ino, ident.generation))
    }

    /// Inode number and generation behind a descriptor.
    pub fn inode_of(&self, file: impl AsFd) -> Result<(u64, u32)> {
        let ident = self.form.ident(&sys::name_to_handle(file.as_fd(), EMPTY)?).ok_or(Errno::OPNOTSUPP)?;
        Ok((ident.ino, ident.generation))
    }

    /// Whether nobody can write to a file now, through a descriptor or a mapping.
    pub fn is_at_rest(&self, node: Node) -> bool {
        let file = self.open_node(node, OFlags::RDONLY | OFlags::NONBLOCK);
        file.is_ok_and(|file| {
            sys::take_lease(file.as_fd(), false).is_ok_and(|()| sys::end_lease(file.as_fd()).is_ok())
        })
    }

    /// A descriptor that serves for looking only (`O_PATH`).
    pub fn path_to(&self, node: Node) -> Result<OwnedFd> {
        self.open_node(node, OFlags::PATH | OFlags::NOFOLLOW)
    }

    fn directory(&self, node: Node) -> Result<Arc<OwnedFd>> {
        if let Some(found) = lock(&self.directories).get(&node.0) {
            return Ok(found.clone());
        }
        let opened = Arc::new(self.open_node(node, OFlags::PATH | OFlags::DIRECTORY)?);
        let mut kept = lock(&self.directories);
        if kept.len() >= DIRECTORIES_MAX {
            // Which one goes does not matter much: the next use opens it again.
            let victim = kept.keys().next().copied();
            victim.map(|victim| kept.remove(&victim));
        }
        kept.insert(node.0, opened.clone());
        Ok(opened)
    }

    /// What stands at a name; at the directory itself when the name is empty.
    fn entry_at(&self, dir: BorrowedFd<'_>, name: &CStr) -> Result<Entry> {
        // The name may be exchanged between the two calls.
        for _ in 0..16 {
            let stat = statx(dir, name)?;
            if stat.stx_mnt_id != self.mount_id {
                return Err(Errno::XDEV);
            }
            let ident = self.form.ident(&sys::name_to_handle(dir, name)?).ok_or(Errno::OPNOTSUPP)?;
            if ident.ino == stat.stx_ino {
                let attributes = self.attributes_of(dir, name, &stat)?;
                let generation = u64::from(ident.generation);
                return Ok(Entry { node: self.node_of(ident)?, generation, attributes });
            }
        }
        Err(Errno::STALE)
    }

    fn attributes_of(&self, dir: BorrowedFd<'_>, name: &CStr, stat: &Statx) -> Result<Attributes> {
        let time = |time: rustix::fs::StatxTimestamp| Timestamp::new(time.tv_sec, time.tv_nsec);
        let has_btime = stat.stx_mask & StatxFlags::BTIME.bits() != 0;
        let mut attributes = Attributes {
            ino: stat.stx_ino,
            size: stat.stx_size,
            blocks: stat.stx_blocks,
            atime: time(stat.stx_atime),
            mtime: time(stat.stx_mtime),
            ctime: time(stat.stx_ctime),
            btime: has_btime.then(|| time(stat.stx_btime)),
            mode: u32::from(stat.stx_mode),
            nlink: stat.stx_nlink,
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            rdev: rustix::fs::makedev(stat.stx_rdev_major, stat.stx_rdev_minor),
            blksize: stat.stx_blksize,
            residency: Residency::Resident,
        };
        if FileType::from_raw_mode(attributes.mode) == FileType::RegularFile {
            self.overlay.overlay(dir, name, &mut attributes)?;
        }
        Ok(attributes)
    }

    /// Runs a change below a directory, and forgets listings of before.
    fn changing<T>(&self, change: impl FnOnce() -> Result<T>) -> Result<T> {
        let result = change();
        self.listings.changed();
        result
    }
}

/// Runs `work` while nobody else has the file open or mapped; whoever comes to open it waits. `None` when somebody has.
pub fn with_sole_use<T>(file: BorrowedFd<'_>, work: impl FnOnce() -> T) -> Option<T> {
    sys::take_lease(file, true).ok()?;
    let result = work();
    let _ = sys::end_lease(file);
    Some(result)
}

/// One extended attribute of `name` in `dir`, which may be an `O_PATH` descriptor. The file is not opened, a symlink not followed.
pub fn xattr_at(dir: BorrowedFd<'_>, name: &CStr, xattr: &CStr, out: &mut [u8]) -> Result<usize> {
    match name.is_empty() {
        false => sys::getxattrat(dir, name, Follow::No, xattr, out),
        true => {
            let path =
                CString::new(format!("/proc/self/fd/{}", dir.as_raw_fd())).map_err(|_| Errno::INVAL)?;
            sys::getxattrat(dir, &path, Follow::Descriptor, xattr, out)
        }
    }
}

/// Name of a descriptor in `/proc/self/fd`.
fn number(file: &OwnedFd) -> CString {
    CString::new(file.as_raw_fd().to_string()).expect("digits have no NUL")
}

fn statx(dir: BorrowedFd<'_>, name: &CStr) -> Result<Statx> {
    let flags =
        AtFlags::SYMLINK_NOFOLLOW | if name.is_empty() { AtFlags::EMPTY_PATH } else { AtFlags::empty() };
    // The mount's id came with Linux 5.8.
    rustix::fs::statx(dir, name, flags, StatxFlags::BASIC_STATS | StatxFlags::BTIME | StatxFlags::MNT_ID)
}

/// Type and permission bits as `openat` and the like take them.
fn permissions(mode: u32) -> Mode {
    Mode::from_raw_mode(mode & 0o7777)
}

fn timespec(time: Option<SetTime>) -> Timespec {
    match time {
        None => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        Some(SetTime::Now) => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
        Some(SetTime::To(time)) => Timespec { tv_sec: time.secs, tv_nsec: time.nanos.into() },
    }
}

impl Namespace for Tree {
    fn lookup(&self, parent: Node, name: Component<'_>) -> Result<Entry> {
        self.entry_at(self.directory(parent)?.as_fd(), name.as_c_str())
    }

    fn node_at(&self, parent: Node, name: Component<'_>) -> Result<Node> {
        let handle = sys::name_to_handle(self.directory(parent)?.as_fd(), name.as_c_str())?;
        self.node_of(self.form.ident(&handle).ok_or(Errno::OPNOTSUPP)?)
    }

    fn entry(&self, node: Node) -> Result<Entry> {
        self.entry_at(self.path_to(node)?.as_fd(), EMPTY)
    }

    fn parent(&self, directory: Node) -> Result<Entry> {
        if directory == Node::ROOT {
            return self.entry(Node::ROOT);
        }
        self.entry_at(self.directory(directory)?.as_fd(), c"..")
    }

    fn attributes(&self, node: Node) -> Result<Attributes> {
        let file = self.path_to(node)?;
        let stat = statx(file.as_fd(), EMPTY)?;
        self.attributes_of(file.as_fd(), EMPTY, &stat)
    }

    fn set_attributes(&self, node: Node, changes: &SetAttributes) -> Result<Attributes> {
        let file = self.path_to(node)?;
        if changes.uid.is_some() || changes.gid.is_some() {
            let (uid, gid) = (changes.uid.map(Uid::from_raw), changes.gid.map(Gid::from_raw));
            rustix::fs::chownat(&file, EMPTY, uid, gid, AtFlags::EMPTY_PATH)?;
        }
        if let Some(mode) = changes.mode {
            rights::with_setgid(|| sys::fchmodat2(file.as_fd(), mode))?;
        }
        let mut mtime = changes.mtime;
        if let Some(time) = mtime
            && self.overlay.set_mtime(file.as_fd(), time)?
        {
            mtime = None;
        }
        if mtime.is_some() || changes.atime.is_some() {
            let times =
                Timestamps { last_access: timespec(changes.atime), last_modification: timespec(mtime) };
            rustix::fs::utimensat(&file, EMPTY, &times, AtFlags::EMPTY_PATH)?;
        }
        let stat = statx(file.as_fd(), EMPTY)?;
        self.attributes_of(file.as_fd(), EMPTY, &stat)
    }

    fn read_directory(
        &self,
        directory: Node,
        cookie: u64,
        take: &mut dyn FnMut(&DirEntry<'_>) -> bool,
    ) -> Result<()> {
        let open = || self.open_node(directory, OFlags::RDONLY | OFlags::DIRECTORY);
        self.listings.read(directory, cookie, open, take)
    }

    fn read_link(&self, node: Node) -> Result<Vec<u8>> {
        Ok(rustix::fs::readlinkat(self.path_to(node)?, EMPTY, Vec::new())?.into_bytes())
    }

    fn create(
        &self,
        caller: &Caller,
        parent: Node,
        name: Component<'_>,
        mode: u32,
    ) -> Result<(Entry, OwnedFd)> {
        let dir = self.directory(parent)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = || rustix::fs::openat(&*dir, name.as_c_str(), flags, permissions(mode));
        let file = self.changing(|| rights::as_caller(caller, open))?;
        Ok((self.entry_at(file.as_fd(), EMPTY)?, file))
    }

    fn make(
        &self,
        caller: &Caller,
        parent: Node,
        name: Component<'_>,
        mode: u32,
        what: Make<'_>,
    ) -> Result<Entry> {
        let dir = self.directory(parent)?;
        let (at, mode_bits) = (name.as_c_str(), permissions(mode));
        let make = || match what {
            Make::Directory => rustix::fs::mkdirat(&*dir, at, mode_bits),
            Make::Symlink(text) => rustix::fs::symlinkat(text, &*dir, at),
            Make::Special { rdev } => {
                rustix::fs::mknodat(&*dir, at, FileType::from_raw_mode(mode), mode_bits, rdev)
            }
        };
        self.changing(|| rights::as_caller(caller, make))?;
        self.entry_at(dir.as_fd(), at)
    }

    fn make_unnamed(
        &self,
        caller: &Caller,
        directory: Node,
        mode: u32,
        linkable: bool,
    ) -> Result<(Entry, OwnedFd)> {
        let dir = self.directory(directory)?;
        let excl = if linkable { OFlags::empty() } else { OFlags::EXCL };
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC | excl;
        let file = rights::as_caller(caller, || rustix::fs::openat(&*dir, c".", flags, permissions(mode)))?;
        Ok((self.entry_at(file.as_fd(), EMPTY)?, file))
    }

    fn link(&self, node: Node, parent: Node, name: Component<'_>) -> Result<Entry> {
        let (file, dir) = (self.path_to(node)?, self.directory(parent)?);
        let link = || rustix::fs::linkat(&file, EMPTY, &*dir, name.as_c_str(), AtFlags::EMPTY_PATH);
        self.changing(link)?;
        self.entry_at(dir.as_fd(), name.as_c_str())
    }

    fn unlink(&self, parent: Node, name: Component<'_>) -> Result<()> {
        let dir = self.directory(parent)?;
        self.changing(|| rustix::fs::unlinkat(&*dir, name.as_c_str(), AtFlags::empty()))
    }

    fn remove_directory(&self, parent: Node, name: Component<'_>) -> Result<()> {
        let dir = self.directory(parent)?;
        self.changing(|| rustix::fs::unlinkat(&*dir, name.as_c_str(), AtFlags::REMOVEDIR))
    }

    fn rename(&self, from: (Node, Component<'_>), to: (Node, Component<'_>), flags: u32) -> Result<()> {
        let (from_dir, to_dir) = (self.directory(from.0)?, self.directory(to.0)?);
        let flags = RenameFlags::from_bits(flags).ok_or(Errno::INVAL)?;
        let (from, to) = (from.1.as_c_str(), to.1.as_c_str());
        self.changing(|| rustix::fs::renameat_with(&*from_dir, from, &*to_dir, to, flags))
    }

    fn xattr(&self, node: Node, name: &CStr) -> Result<Vec<u8>> {
        let file = self.path_to(node)?;
        let mut out = vec![0; 256];
        loop {
            match sys::getxattrat(
                self.descriptors.as_fd(),
                &number(&file),
                Follow::Descriptor,
                name,
                &mut out,
            ) {
                Ok(count) => {
                    out.truncate(count);
                    return Ok(out);
                }
                Err(Errno::RANGE) if out.len() < 1 << 16 => out.resize(out.len() * 16, 0),
                Err(errno) => return Err(errno),
            }
        }
    }

    fn xattr_names(&self, node: Node) -> Result<Vec<u8>> {
        let file = self.path_to(node)?;
        let mut out = vec![0; 1 << 16];
        let count = sys::listxattrat(self.descriptors.as_fd(), &number(&file), Follow::Descriptor, &mut out)?;
        out.truncate(count);
        Ok(out)
    }

    fn set_xattr(
        &self,
        node: Node,
        name: &CStr,
        value: &[u8],
        how: SetXattr,
        keep_setgid: bool,
    ) -> Result<()> {
        let file = self.path_to(node)?;
        let flags = match how {
            SetXattr::Either => 0,
            SetXattr::Create => 1,
            SetXattr::Replace => 2,
        };
        let (at, number) = (self.descriptors.as_fd(), number(&file));
        let set = || sys::setxattrat(at, &number, Follow::Descriptor, name, value, flags);
        if keep_setgid { rights::with_setgid(set) } else { set() }
    }

    fn remove_xattr(&self, node: Node, name: &CStr) -> Result<()> {
        let file = self.path_to(node)?;
        sys::removexattrat(self.descriptors.as_fd(), &number(&file), Follow::Descriptor, name)
    }

    fn space(&self, _: Node) -> Result<Space> {
        let stat = rustix::fs::fstatvfs(&self.root)?;
        Ok(Space {
            frsize: stat.f_frsize as u32,
            bsize: stat.f_bsize as u32,
            blocks: stat.f_blocks,
            bfree: stat.f_bfree,
            bavail: stat.f_bavail,
            files: stat.f_files,
            ffree: stat.f_ffree,
            namelen: stat.f_namemax as u32,
        })
    }

    fn sync_directory(&self, directory: Node) -> Result<()> {
        rustix::fs::fsync(self.open_node(directory, OFlags::RDONLY | OFlags::DIRECTORY)?)
    }

    fn sync_all(&self) -> Result<()> {
        rustix::fs::syncfs(&self.root)
    }
}
