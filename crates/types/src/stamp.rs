//! What a file system says of a file without reading it.

use crate::Timestamp;

/// Identity of a file on one file system: the same pair is the same file, also under another name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileIdent {
    /// Inode number.
    pub ino: u64,
    /// Generation, which tells a reused inode number from its former use; 0 where the file system has none.
    pub generation: u32,
}

/// What was seen when a file was last looked at. Two equal stamps mean that nobody changed the file in between,
/// as far as the file system tells: stores to a mapping appear only once written back (`docs/semantics.md`, I6).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Stamp {
    /// Which file.
    pub ident: FileIdent,
    /// Change time: set by the kernel at every change, not settable by users.
    pub ctime: Timestamp,
    /// Modification time: data, settable.
    pub mtime: Timestamp,
    /// Size in bytes.
    pub size: u64,
}
