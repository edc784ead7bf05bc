//! What a volume tells of itself, for status and for deciding what is possible on it.

use std::os::fd::AsFd;

use rustix::fs::StatVfsMountFlags;

use crate::error::{Doing, FsError};
use crate::root::Root;

/// Facts of the volume that holds a root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Name of the file system: "ext4", "xfs", "btrfs", or its number in hexadecimal.
    pub file_system: String,
    /// Bytes in all.
    pub bytes: u64,
    /// Bytes that we can still write.
    pub free_bytes: u64,
    /// Bytes of a block: every file takes a multiple of it.
    pub cluster_bytes: u64,
    /// Inodes that are left; `None` where they are made as needed.
    pub free_inodes: Option<u64>,
    /// Mounted read-only, perhaps by the kernel after an error.
    pub read_only: bool,
    /// Longest name.
    pub name_bytes_max: u64,
}

impl Volume {
    /// Asks the file system of a root.
    pub fn of(root: &Root) -> Result<Self, FsError> {
        Self::at(root.state())
    }

    /// Asks the file system of any file or directory.
    pub fn at(fd: impl AsFd) -> Result<Self, FsError> {
        let fd = fd.as_fd();
        let stat = rustix::fs::fstatvfs(fd).doing("ask the file system of", b".")?;
        let kind = rustix::fs::fstatfs(fd).doing("ask the file system of", b".")?.f_type;
        Ok(Self {
            file_system: name_of(kind as u64 & 0xffff_ffff),
            bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
            free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
            cluster_bytes: stat.f_frsize,
            free_inodes: (stat.f_files > 0).then_some(stat.f_favail),
            read_only: stat.f_flag.contains(StatVfsMountFlags::RDONLY),
            name_bytes_max: stat.f_namemax,
        })
    }
}

/// Numbers of include/uapi/linux/magic.h that servers have.
fn name_of(number: u64) -> String {
    let name = match number {
        0xef53 => "ext4",
        0x5846_5342 => "xfs",
        0x9123_683e => "btrfs",
        0x0102_1994 => "tmpfs",
        0x2fc1_2fc1 => "zfs",
        0xf2f5_2010 => "f2fs",
        0xca45_1a4e => "bcachefs",
        0x794c_7630 => "overlay",
        0x6573_5546 => "fuse",
        0x6969 => "nfs",
        0xff53_4d42 => "cifs",
        0x4d44 => "vfat",
        0x2011_bab0 => "exfat",
        _ => return format!("{number:#x}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_without_a_name_are_told() {
        assert_eq!(name_of(0xef53), "ext4");
        assert_eq!(name_of(0xabc), "0xabc");
    }
}
