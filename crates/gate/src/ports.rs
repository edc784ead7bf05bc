//! The two ports of the gate: [`Namespace`] (names and attributes) and [`Content`] (bytes of regular files).
//!
//! Implemented outside of this crate over the real tree; `tree.rs` is a reference. All calls come from several threads at
//! once. A call without [`Interrupt`] must not wait for the network; it may wait for the disk.
//!
//! Architecture invariant: the gate never hands a path to a port, and a port never follows one: each call names a node, or a name
//! in a directory node, and the implementation stays below its root (`RESOLVE_BENEATH`, no symbolic links, no other mount).
//!
//! Errors are errnos, since that is all a caller can be told. Three have a meaning here: `ESTALE` for a node that is gone, `EIO` for
//! bytes that could not be had or verified, `EINTR` for a wait that was interrupted.

use std::ffi::CStr;
use std::fmt;
use std::os::fd::{BorrowedFd, OwnedFd};

use polder_types::Timestamp;
use rustix::io::Errno;

pub use crate::interrupt::Interrupt;

/// What a port answers.
pub type Result<T> = std::result::Result<T, Errno>;

/// A file, directory or symlink of the real tree, in 64 bits.
///
/// Invariants that an implementation must keep: the id leads to the file by itself, also in a process that has just started; it
/// never leads to another file, not even after the inode number was used again (`ESTALE` instead); it stays the same under
/// renames and for all hard links of an inode. It is never 0. The tree's root is always [`Node::ROOT`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Node(pub u64);

impl Node {
    /// The root of the tree, whatever its inode is.
    pub const ROOT: Self = Self(1);
}

/// One component of a path, as the kernel sends it: 1–255 bytes, no `/`, no NUL, not `.` nor `..`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Component<'a>(&'a CStr);

/// Longest component in bytes.
pub const COMPONENT_BYTES_MAX: usize = 255;

impl<'a> Component<'a> {
    /// Parses a component; `ENAMETOOLONG` or `EINVAL` for what is none.
    pub fn new(name: &'a CStr) -> Result<Self> {
        let bytes = name.to_bytes();
        if bytes.len() > COMPONENT_BYTES_MAX {
            return Err(Errno::NAMETOOLONG);
        }
        if bytes.is_empty() || bytes.contains(&b'/') || bytes == b"." || bytes == b".." {
            return Err(Errno::INVAL);
        }
        Ok(Self(name))
    }

    /// For system calls.
    pub fn as_c_str(self) -> &'a CStr {
        self.0
    }

    /// Without the NUL at the end.
    pub fn as_bytes(self) -> &'a [u8] {
        self.0.to_bytes()
    }
}

impl fmt::Debug for Component<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.as_bytes().escape_ascii())
    }
}

/// On whose behalf something is created: it belongs to this user and group. What the caller *may* do was decided by the kernel
/// before, with the caller's own credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// File-system user id.
    pub uid: u32,
    /// File-system group id. A directory with the setgid bit gives its own group instead, as on the real tree.
    pub gid: u32,
    /// The calling thread, for logs and for rules by program; 0 when it is of another PID namespace.
    pub pid: u32,
    /// Applied by the file system where the directory has no default ACL.
    pub umask: u32,
}

/// Whether a file's bytes are on this disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Residency {
    /// Carries no mark: the real file's bytes are the user's.
    Resident,
    /// Carries a mark of this tree. Of `size` bytes, `present_bytes` are verified and on disk in this life of the agent.
    Tiered {
        /// Bytes that need no recall.
        present_bytes: u64,
    },
    /// Carries a mark that is damaged or another file's: no byte of it can be had, reading is `EIO`. Names, attributes,
    /// deletion and `truncate(0)` work.
    Orphaned,
}

/// What `stat` tells of a node.
///
/// Of a tiered file, `size` and `mtime` are those of its mark, since every punch and fill moves the real ones; and `ctime` must not move by
/// fills within one life of the agent: `tar` compares it before and after it reads, and fails. `blocks` is the real file's; the gate reports what a
/// full file would have while the file is not resident.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// Inode number as users see it: the real one.
    pub ino: u64,
    /// Bytes.
    pub size: u64,
    /// Of 512 bytes.
    pub blocks: u64,
    /// Last read.
    pub atime: Timestamp,
    /// Last change of the data.
    pub mtime: Timestamp,
    /// Last change of anything.
    pub ctime: Timestamp,
    /// Birth, where the file system tells.
    pub btime: Option<Timestamp>,
    /// Type and permission bits (`S_IFMT` included).
    pub mode: u32,
    /// Number of names.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device node, in the encoding of `makedev`.
    pub rdev: u64,
    /// Preferred size of input and output.
    pub blksize: u32,
    /// Whether the bytes are here. [`Residency::Resident`] for all that is no regular file.
    pub residency: Residency,
}

/// A name that was looked up or made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// What it names.
    pub node: Node,
    /// Generation of the inode: (inode number, generation) is unique for the life of the file system.
    pub generation: u64,
    /// Its attributes.
    pub attributes: Attributes,
}

/// A time to be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetTime {
    /// The present moment, by the file system's clock.
    Now,
    /// This moment.
    To(Timestamp),
}

/// Changes of attributes; what is `None` stays. Sizes are changed through [`Content`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SetAttributes {
    /// Permission bits (12 bits). The caller's right to the setgid bit was checked: it is to be set as told.
    pub mode: Option<u32>,
    /// Owner. The real file system clears setuid, setgid and capabilities as at every `chown`.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Last read.
    pub atime: Option<SetTime>,
    /// Last change of the data. Of a tiered file it must come to stand in the mark, durably, before the answer.
    pub mtime: Option<SetTime>,
}

/// What kind of node `make` makes. (Regular files: [`Namespace::create`].)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Make<'a> {
    /// A directory.
    Directory,
    /// A symlink with this text.
    Symlink(&'a CStr),
    /// FIFO, socket or device: the type bits of `mode` say which.
    Special {
        /// Device number, in the encoding of `makedev`.
        rdev: u64,
    },
}

/// How an extended attribute is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetXattr {
    /// Whether it exists or not.
    Either,
    /// Only if it does not exist (`EEXIST`).
    Create,
    /// Only if it exists (`ENODATA`).
    Replace,
}

/// A name in a directory.
#[derive(Debug, Clone, Copy)]
pub struct DirEntry<'a> {
    /// Inode number as users see it.
    pub ino: u64,
    /// `DT_…` as `readdir` tells; 0 is unknown.
    pub kind: u8,
    /// Where to go on after this entry. Must lead to the same place in another process and another open of the directory.
    pub cookie: u64,
    /// The name; may be `.` or `..`.
    pub name: &'a CStr,
}

/// What a file system has room for; the meaning is that of `statvfs`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Space {
    /// Bytes a block of the counts.
    pub frsize: u32,
    /// Preferred size of input and output.
    pub bsize: u32,
    /// All blocks.
    pub blocks: u64,
    /// Free ones.
    pub bfree: u64,
    /// Free for users.
    pub bavail: u64,
    /// All inodes.
    pub files: u64,
    /// Free ones.
    pub ffree: u64,
    /// Longest name in bytes.
    pub namelen: u32,
}

/// Names and attributes of the real tree.
///
/// Nothing here recalls. Names at the root that the tree keeps for itself (`.polder`) and the attribute `trusted.polder` are kept away by the
/// gate; an implementation never sees requests for them.
pub trait Namespace: Send + Sync {
    /// What a name stands for; `ENOENT` when for nothing. Symlinks are not followed, mounts are not crossed (`EXDEV`).
    fn lookup(&self, parent: Node, name: Component<'_>) -> Result<Entry>;

    /// Which node a name stands for: [`Namespace::lookup`] without attributes.
    fn node_at(&self, parent: Node, name: Component<'_>) -> Result<Node> {
        Ok(self.lookup(parent, name)?.node)
    }

    /// The node itself, for who exports the mount by handle.
    fn entry(&self, node: Node) -> Result<Entry>;

    /// The directory that holds a directory; the root's is the root.
    fn parent(&self, directory: Node) -> Result<Entry>;

    /// Attributes of a node.
    fn attributes(&self, node: Node) -> Result<Attributes>;

    /// Changes attributes and returns what they are now.
    fn set_attributes(&self, node: Node, changes: &SetAttributes) -> Result<Attributes>;

    /// Entries after `cookie` (0: from the beginning), `.` and `..` included, until `take` returns `false`: that entry was not taken
    /// and comes again.
    fn read_directory(
        &self,
        directory: Node,
        cookie: u64,
        take: &mut dyn FnMut(&DirEntry<'_>) -> bool,
    ) -> Result<()>;

    /// Text of a symlink.
    fn read_link(&self, node: Node) -> Result<Vec<u8>>;

    /// Makes an empty regular file that belongs to the caller and returns it open for reading and writing. `EEXIST` when the name is
    /// taken. `mode` as in [`Namespace::make`].
    fn create(
        &self,
        caller: &Caller,
        parent: Node,
        name: Component<'_>,
        mode: u32,
    ) -> Result<(Entry, OwnedFd)>;

    /// Makes a node that belongs to the caller, with these permission (and for specials, type) bits under the caller's umask or the
    /// directory's default ACL. `EEXIST` when the name is taken.
    fn make(
        &self,
        caller: &Caller,
        parent: Node,
        name: Component<'_>,
        mode: u32,
        what: Make<'_>,
    ) -> Result<Entry>;

    /// Makes a file without a name in a directory's file system, open for reading and writing. `linkable` is false with `O_EXCL`.
    fn make_unnamed(
        &self,
        caller: &Caller,
        directory: Node,
        mode: u32,
        linkable: bool,
    ) -> Result<(Entry, OwnedFd)>;

    /// Gives a node another name (hard link), or an unnamed one its first.
    fn link(&self, node: Node, parent: Node, name: Component<'_>) -> Result<Entry>;

    /// Removes a name of anything but a directory.
    fn unlink(&self, parent: Node, name: Component<'_>) -> Result<()>;

    /// Removes an empty directory.
    fn remove_directory(&self, parent: Node, name: Component<'_>) -> Result<()>;

    /// `renameat2` with its flags (`RENAME_NOREPLACE`, `RENAME_EXCHANGE`, `RENAME_WHITEOUT`).
    fn rename(&self, from: (Node, Component<'_>), to: (Node, Component<'_>), flags: u32) -> Result<()>;

    /// Value of an extended attribute, POSIX ACLs included; `ENODATA` when there is none.
    fn xattr(&self, node: Node, name: &CStr) -> Result<Vec<u8>>;

    /// Names of all extended attributes, each ended by NUL.
    fn xattr_names(&self, node: Node) -> Result<Vec<u8>>;

    /// Sets an extended attribute. An access ACL changes the mode with it; `keep_setgid` says that the caller may keep the setgid bit.
    fn set_xattr(
        &self,
        node: Node,
        name: &CStr,
        value: &[u8],
        how: SetXattr,
        keep_setgid: bool,
    ) -> Result<()>;

    /// Removes an extended attribute; `ENODATA` when there is none.
    fn remove_xattr(&self, node: Node, name: &CStr) -> Result<()>;

    /// Room on the real file system.
    fn space(&self, node: Node) -> Result<Space>;

    /// Makes a directory's entries durable.
    fn sync_directory(&self, directory: Node) -> Result<()>;

    /// Makes the whole file system durable.
    fn sync_all(&self) -> Result<()>;
}

/// Why a file's bytes are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// To be read. A tiered file is not recalled by this.
    Read,
    /// To be changed. A tiered file becomes resident first, durably without mark; this may wait.
    Write {
        /// Only at its end (`O_APPEND`): allowed on files with the append-only flag.
        append: bool,
    },
    /// Its size becomes 0. A tiered file is not recalled: cut, mark removed, both durable, then the answer.
    Empty,
}

/// What came of opening a file.
#[derive(Debug)]
pub enum Opened {
    /// The real file, resident: for passthrough, or for reading and writing by the gate. Open for reading and writing when
    /// [`Access::Write`] or [`Access::Empty`] was asked for, else for reading.
    Resident(OwnedFd),
    /// The real file, which is a placeholder: nothing may be read from the descriptor, it only keeps the file from being given up and
    /// from vanishing with its last name. Bytes come from [`Content::read`].
    Tiered(OwnedFd),
}

/// Bytes of regular files.
///
/// An implementation never answers with bytes that it has not verified in this life, nor with fewer than were asked for, but at the end
/// of the file. What was fetched under a mark is not written once that mark is gone: the kernel's read-ahead goes on after its reader has, and
/// the file may have become resident, and been written to, meanwhile.
pub trait Content: Send + Sync {
    /// Opens a file. The order is: open the real file, *then* look at its mark; from then on nobody can give its bytes up.
    /// Descriptors for [`Access::Write`] are not to append (the gate tells the place of each write), except where the file's append-only
    /// flag allows nothing else.
    ///
    /// Waits for [`Access::Write`] of a tiered file, and for a lease under which the file is just being given up. With `now` set, `EAGAIN` in place of
    /// either (an open with `O_NONBLOCK` gives that for a lease), without it never: the gate would make it `EIO`. Returns `EINTR`
    /// soon after the interrupt is raised, with nothing changed but what has been recalled. A failed recall is `EIO` or `ENOSPC`; the
    /// placeholder is intact.
    fn open(
        &self,
        node: Node,
        access: Access,
        caller: &Caller,
        now: bool,
        interrupt: &Interrupt,
    ) -> Result<Opened>;

    /// Bytes of a tiered file from `offset` into `out`, as many as the file has there, without waiting for the share: `EAGAIN` when
    /// that is not possible. `file` is a descriptor that `open` gave for the node.
    ///
    /// When the file has become resident meanwhile, its bytes are those of the real file.
    fn read_now(&self, node: Node, file: BorrowedFd<'_>, offset: u64, out: &mut [u8]) -> Result<usize>;

    /// As [`Content::read_now`], fetching what is absent. Two readers of one range cause one fetch. Returns `EINTR` soon after the
    /// interrupt is raised; whoever else waits for the range goes on.
    fn read(
        &self,
        node: Node,
        file: BorrowedFd<'_>,
        offset: u64,
        out: &mut [u8],
        caller: &Caller,
        interrupt: &Interrupt,
    ) -> Result<usize>;

    /// Whether the bytes are here; also for `user.polder.residency`.
    fn residency(&self, node: Node) -> Result<Residency>;

    /// Whether the caller is Samba's file server, which is told in its own attribute (`user.DOSATTRIB`) that a file is not resident, so that
    /// Windows clients see it as OFFLINE. It decides what is shown and gives no right.
    fn is_samba(&self, caller: &Caller) -> bool;

    /// Whether nobody can write to the file now, through a descriptor or a mapping (a read lease is granted). Asked before the kernel is
    /// told that attributes of a file that was open for writing may be kept.
    fn is_at_rest(&self, node: Node) -> bool;

    /// Somebody opened the node (for heat, and for the look at files that are written to). Called after the answer is decided; must be
    /// quick. Not called again for opens that a new worker takes over.
    fn opened(&self, node: Node, caller: &Caller, for_writing: bool);

    /// The last open of the node was released; mappings may live on (a lease tells). `was_written` when any of the opens could write.
    fn released(&self, node: Node, was_written: bool);
}
