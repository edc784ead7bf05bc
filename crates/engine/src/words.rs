//! Words that facts and effects share: jobs, places, what was seen, why something failed.

use std::sync::Arc;

use polder_sync::{Seen, StandsFor};
use polder_types::{Attrs, FileIdent, Name, NodeUid, RelPath, Stamp};

/// The moment of a step. The engine reads no clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds of a clock that never goes back (since any start). All waiting and back-off uses this one.
    pub mono_ms: u64,
    /// Milliseconds since 1970, for the time prefix of new node ids and for display. No decision uses it (I15).
    pub unix_ms: u64,
}

/// Number of a job. Never used twice in one life of an engine. A fact about a job that the engine has given up is
/// ignored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(pub u64);

/// Which queue a transfer belongs to, so that a large file never blocks small ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Files of at most [`crate::LARGE_BYTES`], taken many at a time.
    Small,
    /// Larger files, few at a time.
    Large,
}

/// A directory below the root, as the executor finds it.
///
/// The path is where the directory stands as far as the engine knows. The executor opens it step by step below the
/// root and compares the identity: another directory there is the answer "gone", not an error.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Dir {
    /// Which node.
    pub uid: NodeUid,
    /// Its identity on disk; `None` for a directory that an earlier operation of the same batch makes.
    pub ident: Option<FileIdent>,
    /// Names from the root down; empty for the root.
    pub path: RelPath,
}

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    /// The directory. Shared: many entries of one directory travel together.
    pub dir: Arc<Dir>,
    /// The name.
    pub name: Name,
}

/// What stands under a name on disk, with everything that can be known without reading a file.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SeenEntry {
    /// Name, kind, stamp, number of links.
    pub seen: Seen,
    /// Permissions and extended attributes, as they are on disk. Shared: most files of a folder have the same.
    pub attrs: Arc<Attrs>,
    /// The target, for a symlink alone.
    pub target: Option<Box<[u8]>>,
    /// What a file is known to have without being read: it is a placeholder of ours, or was recalled and did not change since. Boxed: most files have none.
    pub stands_for: Option<Box<StandsFor>>,
}

/// A directory itself as it was seen.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SeenDir {
    /// Its identity and times.
    pub stamp: Stamp,
    /// Its attributes, read after the stamp was taken.
    pub attrs: Arc<Attrs>,
}

/// Why a job could not be done. Nothing of this is fatal: the item is reported and tried again.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Failure {
    /// What sort of failure: decides what is tried next and which hint is shown.
    pub class: FailureClass,
    /// What happened, lower case, without the path ("open for reading: input/output error").
    pub text: Box<str>,
}

/// Sorts of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FailureClass {
    /// ENOSPC: the volume is full (space or inodes). Downloads wait until there is room.
    NoSpace,
    /// EDQUOT: a quota of the file system.
    DiskQuota,
    /// EROFS: the volume is read-only.
    ReadOnly,
    /// EACCES or EPERM, also for immutable files.
    Denied,
    /// EIO and everything else that smells of a bad disk.
    Io,
    /// The file system cannot have this name, size or attribute.
    Unsupported,
    /// A tiered file is to be read because the share lacks what it stands for: its bytes are in neither place.
    NotHere,
    /// EMFILE, ENFILE, ENOMEM: too much at once; goes away by itself.
    Exhausted,
    /// Bytes from the share do not match their hash, or a local file that should be whole is not.
    Damaged,
    /// The service or its object store cannot be reached, or answered with an error that may pass.
    Unreachable,
    /// Anything else.
    Other,
}
