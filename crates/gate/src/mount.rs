//! Mounting, unmounting, aborting; what a dead holder left.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, StatVfsMountFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, unmount,
};

/// File system type as it is listed: `fuse.` and this.
const SUBTYPE: &str = "polder";

/// A mount of this process.
#[derive(Debug)]
pub(crate) struct Mount {
    /// Where it lies. No descriptor of it is kept: others may take the mount away.
    path: PathBuf,
    /// Number of the FUSE connection.
    connection: Option<u32>,
}

/// Opens the place where a mount will be, before it is one.
pub(crate) fn open_point(path: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// Opens the device.
pub(crate) fn open_device() -> Result<OwnedFd, Errno> {
    rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
}

impl Mount {
    /// Mounts a connection over a directory, with the flags (`nosuid`, `nodev`, …) of the file system that lies there.
    pub(crate) fn new(point: &OwnedFd, device: &OwnedFd, source: &str) -> Result<Self, Errno> {
        let context = fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC)?;
        let set = |key: &str, value: &str| fsconfig_set_string(context.as_fd(), key, value);
        set("source", source)?;
        set("subtype", SUBTYPE)?;
        set("fd", &device.as_raw_fd().to_string())?;
        set("rootmode", "40755")?;
        set("user_id", "0")?;
        set("group_id", "0")?;
        fsconfig_set_flag(context.as_fd(), "allow_other")?;
        fsconfig_set_flag(context.as_fd(), "default_permissions")?;
        fsconfig_create(context.as_fd())?;
        let below = rustix::fs::fstatvfs(point)?.f_flag;
        let mut attributes = MountAttrFlags::empty();
        for (flag, attribute) in [
            (StatVfsMountFlags::RDONLY, MountAttrFlags::MOUNT_ATTR_RDONLY),
            (StatVfsMountFlags::NOSUID, MountAttrFlags::MOUNT_ATTR_NOSUID),
            (StatVfsMountFlags::NODEV, MountAttrFlags::MOUNT_ATTR_NODEV),
            (StatVfsMountFlags::NOEXEC, MountAttrFlags::MOUNT_ATTR_NOEXEC),
        ] {
            if below.contains(flag) {
                attributes |= attribute;
            }
        }
        let root = fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(root.as_fd(), "", point, "", flags)?;
        let connection = connection_of(&root);
        let path =
            std::fs::read_link(format!("/proc/self/fd/{}", point.as_raw_fd())).map_err(|_| Errno::IO)?;
        Ok(Self { path, connection })
    }

    /// The mount of ours that lies at a path already.
    pub(crate) fn find(path: &Path) -> Result<Self, Errno> {
        let mounts = std::fs::read("/proc/self/mountinfo").map_err(|_| Errno::IO)?;
        let top =
            topmost(&mounts, path.as_os_str().as_bytes()).filter(Listed::is_ours).ok_or(Errno::NOENT)?;
        Ok(Self { path: path.to_owned(), connection: top.connection })
    }

    /// Ends the connection: whoever waits for it, or comes to it, gets ENOTCONN.
    pub(crate) fn abort(&self) {
        let written = self
            .connection
            .map(|connection| std::fs::write(format!("/sys/fs/fuse/connections/{connection}/abort"), b"1"));
        if !matches!(written, Some(Ok(()))) {
            // Where that file system is not mounted, a forced unmount aborts too.
            let _ = self.unmount(UnmountFlags::FORCE | UnmountFlags::DETACH);
        }
    }

    /// Takes the mount away; files that are open go on until they are closed.
    pub(crate) fn detach(&self) -> Result<(), Errno> {
        self.unmount(UnmountFlags::DETACH)
    }

    /// Takes the mount away, unless somebody uses it.
    pub(crate) fn remove(&self) -> Result<(), Errno> {
        self.unmount(UnmountFlags::empty())
    }

    /// Only while the topmost mount there is this one.
    fn unmount(&self, flags: UnmountFlags) -> Result<(), Errno> {
        let mounts = std::fs::read("/proc/self/mountinfo").map_err(|_| Errno::IO)?;
        let top = topmost(&mounts, self.path.as_os_str().as_bytes());
        if self.connection.is_none() || top.and_then(|mount| mount.connection) != self.connection {
            return Ok(());
        }
        unmount(&self.path, flags | UnmountFlags::NOFOLLOW)
    }
}

/// Minor device number of a FUSE mount: the number of its connection. Not asked of the file system, which nobody serves yet.
fn connection_of(root: &OwnedFd) -> Option<u32> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", root.as_raw_fd())).ok()?;
    let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim().to_owned();
    let mounts = std::fs::read("/proc/self/mountinfo").ok()?;
    mounts.split(|byte| *byte == b'\n').find_map(|line| {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
        let device = fields.get(2).filter(|_| fields.first() == Some(&id.as_bytes()))?;
        std::str::from_utf8(device).ok()?.strip_prefix("0:")?.parse().ok()
    })
}

/// Takes away mounts of ours at a path that nobody serves any more. To be called while the endpoint's lock is held, so that no other
/// holder lives. Returns how many there were.
pub fn clear_stale(path: &Path) -> Result<usize, Errno> {
    let mut cleared = 0;
    loop {
        let mounts = std::fs::read("/proc/self/mountinfo").map_err(|_| Errno::IO)?;
        if !has_stale(&mounts, path.as_os_str().as_bytes()) {
            return Ok(cleared);
        }
        unmount(path, UnmountFlags::FORCE | UnmountFlags::DETACH)?;
        cleared += 1;
    }
}

/// Whether the topmost mount at a path is one of ours.
fn has_stale(mountinfo: &[u8], path: &[u8]) -> bool {
    topmost(mountinfo, path).as_ref().is_some_and(Listed::is_ours)
}

struct Listed<'a> {
    kind: &'a [u8],
    /// Minor number of its device, if that is none of a disk.
    connection: Option<u32>,
}

impl Listed<'_> {
    fn is_ours(&self) -> bool {
        self.kind == format!("fuse.{SUBTYPE}").as_bytes()
    }
}

/// The mount that one sees at a path.
fn topmost<'a>(mountinfo: &'a [u8], path: &[u8]) -> Option<Listed<'a>> {
    let mut at_path = mountinfo.split(|byte| *byte == b'\n').filter_map(|line| {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
        let kind = fields.iter().position(|field| *field == b"-").and_then(|dash| fields.get(dash + 1))?;
        let connection = std::str::from_utf8(fields.get(2)?).ok()?.strip_prefix("0:");
        let connection = connection.and_then(|minor| minor.parse().ok());
        (unescape(fields.get(4)?) == path).then_some(Listed { kind, connection })
    });
    // The later lies over the earlier.
    at_path.next_back()
}

/// Mount points are listed with octal numbers for blanks and the like.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        let octal = text.get(at + 1..at + 4).filter(|_| text[at] == b'\\');
        let number = octal
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        out.push(number.unwrap_or(text[at]));
        at += if number.is_some() { 4 } else { 1 };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_mounts_are_stale() {
        let mounts =
            b"22 1 8:1 / / rw - ext4 /dev/a rw\n40 22 0:50 / /srv/my\\040data rw - fuse.polder polder rw\n\
            41 22 0:51 / /srv/x rw - fuse.polder polder rw\n42 41 0:52 / /srv/x rw - tmpfs t rw\n";
        assert!(has_stale(mounts, b"/srv/my data"));
        assert!(!has_stale(mounts, b"/srv/x"), "something else lies over it");
        assert!(!has_stale(mounts, b"/"));
        assert!(!has_stale(mounts, b"/srv"));
        assert_eq!(topmost(mounts, b"/srv/my data").and_then(|mount| mount.connection), Some(50));
    }
}
