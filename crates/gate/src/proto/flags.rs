//! Flags of the protocol.

/// What is negotiated by INIT.
pub mod init {
    /// Several reads of one file at once.
    pub const ASYNC_READ: u64 = 1 << 0;
    /// OPEN carries `O_TRUNC`.
    pub const ATOMIC_O_TRUNC: u64 = 1 << 3;
    /// Look-ups of `.` and `..`.
    pub const EXPORT_SUPPORT: u64 = 1 << 4;
    /// Writes larger than a page.
    pub const BIG_WRITES: u64 = 1 << 5;
    /// The umask is applied by us, where there is no default ACL.
    pub const DONT_MASK: u64 = 1 << 6;
    /// Cached pages go when size or time has changed.
    pub const AUTO_INVAL_DATA: u64 = 1 << 12;
    /// READDIRPLUS.
    pub const DO_READDIRPLUS: u64 = 1 << 13;
    /// READDIRPLUS only where it helps.
    pub const READDIRPLUS_AUTO: u64 = 1 << 14;
    /// Look-ups in one directory at once.
    pub const PARALLEL_DIROPS: u64 = 1 << 18;
    /// ACLs are checked by the kernel.
    pub const POSIX_ACL: u64 = 1 << 20;
    /// After an abort the device says ECONNABORTED.
    pub const ABORT_ERROR: u64 = 1 << 21;
    /// The answer tells the pages of a request.
    pub const MAX_PAGES: u64 = 1 << 22;
    /// Texts of symlinks are cached.
    pub const CACHE_SYMLINKS: u64 = 1 << 23;
    /// OPENDIR may be answered with ENOSYS.
    pub const NO_OPENDIR_SUPPORT: u64 = 1 << 24;
    /// We clear setuid bits and capabilities at writes, truncations and changes of owner.
    pub const HANDLE_KILLPRIV_V2: u64 = 1 << 28;
    /// SETXATTR has flags.
    pub const SETXATTR_EXT: u64 = 1 << 29;
    /// The upper 32 flags exist.
    pub const INIT_EXT: u64 = 1 << 30;
    /// Entries can be made to expire.
    pub const HAS_EXPIRE_ONLY: u64 = 1 << 35;
    /// Reads and writes go to a real file without us.
    pub const PASSTHROUGH: u64 = 1 << 37;
    /// Unanswered requests can be had again.
    pub const HAS_RESEND: u64 = 1 << 39;

    /// What is asked for, where the kernel offers it. Left out on purpose: the write-back cache (no passthrough with it) and `ASYNC_DIO` (a reader
    /// with O_DIRECT then waits without being interruptible, and no INTERRUPT is sent).
    pub const WANTED: u64 = ASYNC_READ
        | ATOMIC_O_TRUNC
        | EXPORT_SUPPORT
        | BIG_WRITES
        | DONT_MASK
        | AUTO_INVAL_DATA
        | DO_READDIRPLUS
        | READDIRPLUS_AUTO
        | PARALLEL_DIROPS
        | POSIX_ACL
        | ABORT_ERROR
        | MAX_PAGES
        | CACHE_SYMLINKS
        | NO_OPENDIR_SUPPORT
        | HANDLE_KILLPRIV_V2
        | SETXATTR_EXT
        | INIT_EXT
        | HAS_EXPIRE_ONLY
        | PASSTHROUGH
        | HAS_RESEND;

    /// Without these callers would lose rights or bytes: the mount is refused.
    pub const NEEDED: u64 = ATOMIC_O_TRUNC | DONT_MASK | POSIX_ACL | HANDLE_KILLPRIV_V2 | INIT_EXT;
}

/// How the kernel treats an open file.
pub mod open {
    /// Reads and writes go to the backing file.
    pub const PASSTHROUGH: u32 = 1 << 7;
    /// No FLUSH at close.
    pub const NOFLUSH: u32 = 1 << 5;
    /// Clear setuid bits with `O_TRUNC`. (A flag of the request.)
    pub const KILL_SUIDGID: u32 = 1 << 0;
}

/// Which attributes SETATTR changes.
pub mod setattr {
    /// Permission bits.
    pub const MODE: u32 = 1 << 0;
    /// Owner.
    pub const UID: u32 = 1 << 1;
    /// Group.
    pub const GID: u32 = 1 << 2;
    /// Size.
    pub const SIZE: u32 = 1 << 3;
    /// Time of the last read.
    pub const ATIME: u32 = 1 << 4;
    /// Time of the last change of data.
    pub const MTIME: u32 = 1 << 5;
    /// A file handle is told.
    pub const FH: u32 = 1 << 6;
    /// The present moment.
    pub const ATIME_NOW: u32 = 1 << 7;
    /// The present moment.
    pub const MTIME_NOW: u32 = 1 << 8;
    /// Setuid bits go with the change of size: the caller has no right to keep them.
    pub const KILL_SUIDGID: u32 = 1 << 11;
}

/// The setgid bit goes with this access ACL.
pub const SETXATTR_ACL_KILL_SGID: u32 = 1 << 0;
/// Only data, not times.
pub const FSYNC_DATASYNC: u32 = 1 << 0;
/// The entry is not dropped but looked up at its next use.
pub const EXPIRE_ONLY: u32 = 1 << 0;
