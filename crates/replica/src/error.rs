//! What went wrong with a file, sorted by what can be done about it.

use polder_types::Escaped;
use rustix::io::Errno;

/// A system call on one item that failed.
#[derive(Debug, thiserror::Error)]
#[error("{doing} \"{item}\"")]
pub struct FsError {
    /// What was being done, in the present tense: "open directory".
    pub doing: &'static str,
    /// Name of the item, escaped; the whole path where it is known.
    pub item: String,
    /// What kind of failure it is.
    pub class: ErrorClass,
    /// The cause.
    #[source]
    pub source: std::io::Error,
}

/// Kinds of failure that the engine and people treat differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// The volume is full, or has no inode left.
    NoSpace,
    /// A quota of the user, group or project is used up.
    Quota,
    /// The file system is mounted read-only, perhaps after an error.
    ReadOnly,
    /// Not allowed: modes, capabilities, `chattr +i` or `+a`, a security module.
    Permission,
    /// The disk or file system fails.
    Io,
    /// Somebody uses it in a way that excludes us (a lease, a running program, a mount point).
    Busy,
    /// The name, target or value is longer than this file system takes.
    TooLong,
    /// It is not there (any more).
    Gone,
    /// Something is already there.
    Exists,
    /// The directory is not empty.
    NotEmpty,
    /// A symlink, a mount or another kind of file stands where a directory of the share was expected.
    Blocked,
    /// The process or system has no descriptors or memory left.
    Exhausted,
    /// This file system cannot do it.
    Unsupported,
    /// The file is tiered: its bytes are not on this disk.
    NotHere,
    /// Anything else.
    Other,
}

impl ErrorClass {
    /// Sorts an error number.
    pub fn of(errno: Errno) -> Self {
        match errno {
            Errno::NOSPC => Self::NoSpace,
            Errno::DQUOT => Self::Quota,
            Errno::ROFS => Self::ReadOnly,
            Errno::ACCESS | Errno::PERM => Self::Permission,
            Errno::IO | Errno::NXIO | Errno::NODEV | Errno::REMOTEIO | Errno::UCLEAN | Errno::BADMSG => {
                Self::Io
            }
            Errno::BUSY | Errno::TXTBSY | Errno::AGAIN | Errno::DEADLK => Self::Busy,
            Errno::NAMETOOLONG | Errno::RANGE | Errno::TOOBIG | Errno::FBIG | Errno::MLINK => Self::TooLong,
            Errno::NOENT | Errno::STALE => Self::Gone,
            Errno::EXIST => Self::Exists,
            Errno::NOTEMPTY => Self::NotEmpty,
            Errno::LOOP | Errno::XDEV | Errno::NOTDIR | Errno::ISDIR => Self::Blocked,
            Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS => Self::Exhausted,
            Errno::OPNOTSUPP | Errno::NOSYS | Errno::NOTTY => Self::Unsupported,
            _ => Self::Other,
        }
    }

    /// Whether waiting alone may cure it; the others need a change of the world or of a person's mind.
    pub fn is_transient(self) -> bool {
        matches!(
            self,
            Self::Busy | Self::Exhausted | Self::Gone | Self::Exists | Self::NotEmpty | Self::Blocked
        )
    }
}

impl FsError {
    /// Attaches operation and item to an error number.
    pub(crate) fn new(doing: &'static str, item: &[u8], errno: Errno) -> Self {
        let item = Escaped(item).to_string();
        Self { doing, item, class: ErrorClass::of(errno), source: errno.into() }
    }

    /// The same failure for another word about it.
    pub(crate) fn again(&self, item: &[u8]) -> Self {
        let source = match self.errno() {
            Some(errno) => std::io::Error::from_raw_os_error(errno),
            None => std::io::Error::other(self.source.to_string()),
        };
        Self { doing: self.doing, item: Escaped(item).to_string(), class: self.class, source }
    }

    /// The error number.
    pub fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }
}

/// Attaches operation and item to the result of a system call.
pub(crate) trait Doing<T> {
    /// `doing` in the present tense, `item` the name that it is about.
    fn doing(self, doing: &'static str, item: &[u8]) -> Result<T, FsError>;
}

impl<T> Doing<T> for Result<T, Errno> {
    fn doing(self, doing: &'static str, item: &[u8]) -> Result<T, FsError> {
        self.map_err(|errno| FsError::new(doing, item, errno))
    }
}
