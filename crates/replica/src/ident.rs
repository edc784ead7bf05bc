//! Which file a descriptor, a name or a kernel handle stands for.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};

use polder_types::{FileIdent, Kind, Name, Stamp, Timestamp};
use rustix::fs::{AtFlags, FileType, Statx, StatxFlags};
use rustix::io::Errno;

use crate::sys::{self, Handle};

// Handle types of the kernel (include/linux/exportfs.h, fs/xfs/xfs_export.h).
const INO32_GEN: i32 = 0x01;
const BTRFS_WITHOUT_PARENT: i32 = 0x4d;
const XFS_INO64_GEN: i32 = 0x81;

/// What is asked of `statx`: all that a [`Stamp`] and the attributes need, nothing else.
pub(crate) const STATX_MASK: StatxFlags = StatxFlags::BASIC_STATS;

/// Inode and generation as far as the handle tells them; `None` for handles of file systems that are not known.
pub(crate) fn ident_of_handle(handle: &Handle) -> Option<FileIdent> {
    let bytes = handle.bytes();
    let word = |at: usize| {
        let four = bytes.get(at..at + 4)?;
        Some(u32::from_ne_bytes(four.try_into().expect("four bytes were taken")))
    };
    let long = |at: usize| {
        let eight = bytes.get(at..at + 8)?;
        Some(u64::from_ne_bytes(eight.try_into().expect("eight bytes were taken")))
    };
    match (handle.kind(), bytes.len()) {
        // ext4, XFS with 32-bit inodes, and the many file systems that use the kernel's own form.
        (INO32_GEN, 8) => Some(FileIdent { ino: word(0)?.into(), generation: word(4)? }),
        // tmpfs: generation, then the inode number in two halves.
        (INO32_GEN, 12) => {
            Some(FileIdent { ino: u64::from(word(4)?) | u64::from(word(8)?) << 32, generation: word(0)? })
        }
        (XFS_INO64_GEN, 12) => Some(FileIdent { ino: long(0)?, generation: word(8)? }),
        // Object, root of the subvolume, generation. Another subvolume is another device and is not crossed.
        (BTRFS_WITHOUT_PARENT, 20) => Some(FileIdent { ino: long(0)?, generation: word(16)? }),
        _ => None,
    }
}

/// Generation of the inode `ino` that `name` in `dir` (or `dir` itself, for an empty name) stands for.
///
/// 0 where the file system has none or does not tell, and when the name has meanwhile become another file.
pub(crate) fn generation(dir: BorrowedFd<'_>, name: &CStr, ino: u64) -> u32 {
    let handle = sys::name_to_handle(dir, name).ok();
    let ident = handle.as_ref().and_then(ident_of_handle).filter(|ident| ident.ino == ino);
    ident.map_or(0, |ident| ident.generation)
}

/// `statx` of a name in a directory, never following a symlink and never opening anything.
pub(crate) fn statx_at(dir: impl AsFd, name: &CStr) -> Result<Statx, Errno> {
    rustix::fs::statx(dir, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT, STATX_MASK)
}

/// `statx` of an open descriptor.
pub(crate) fn statx_fd(fd: impl AsFd) -> Result<Statx, Errno> {
    rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, STATX_MASK)
}

/// The device of a `statx` answer, as one number.
pub(crate) fn device(stat: &Statx) -> u64 {
    rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor)
}

/// The kind of node, or `None` for what is never synced: FIFOs, sockets, devices.
pub(crate) fn kind(stat: &Statx) -> Option<Kind> {
    match FileType::from_raw_mode(stat.stx_mode.into()) {
        FileType::Directory => Some(Kind::Directory),
        FileType::RegularFile => Some(Kind::File),
        FileType::Symlink => Some(Kind::Symlink),
        _ => None,
    }
}

/// The stamp of a `statx` answer. A directory's size says nothing and is left at 0.
pub(crate) fn stamp(stat: &Statx, generation: u32) -> Stamp {
    let is_directory = FileType::from_raw_mode(stat.stx_mode.into()) == FileType::Directory;
    Stamp {
        ident: FileIdent { ino: stat.stx_ino, generation },
        ctime: Timestamp::new(stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec),
        mtime: Timestamp::new(stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
        size: if is_directory { 0 } else { stat.stx_size },
    }
}

/// The stamp behind a descriptor; of a placeholder, what its mark says.
pub(crate) fn stamp_fd(fd: BorrowedFd<'_>) -> Result<(Statx, Stamp), Errno> {
    let stat = statx_fd(fd)?;
    let generation = generation(fd, c"", stat.stx_ino);
    Ok((stat, crate::presence::stamp_by_mark(fd, c"", &stat, stamp(&stat, generation))?))
}

/// The stamp of a name; of a placeholder, what its mark says.
pub(crate) fn stamp_at(dir: BorrowedFd<'_>, name: &CStr) -> Result<(Statx, Stamp), Errno> {
    let stat = statx_at(dir, name)?;
    let generation = generation(dir, name, stat.stx_ino);
    Ok((stat, crate::presence::stamp_by_mark(dir, name, &stat, stamp(&stat, generation))?))
}

/// A name with the NUL byte that system calls want, without an allocation.
pub(crate) struct CName([u8; polder_types::NAME_BYTES_MAX + 1]);

impl CName {
    pub(crate) fn new(name: &Name) -> Self {
        Self::of_bytes(name.as_bytes())
    }

    /// `bytes` are those of a valid name: at most 255, none of them NUL.
    pub(crate) fn of_bytes(bytes: &[u8]) -> Self {
        let mut room = [0; polder_types::NAME_BYTES_MAX + 1];
        room[..bytes.len()].copy_from_slice(bytes);
        Self(room)
    }

    pub(crate) fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.0).expect("names are shorter than the room, and the rest is zero")
    }
}
