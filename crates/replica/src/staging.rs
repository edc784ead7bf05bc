//! Files on their way in: written below `.polder/staging`, complete and durable before they get a name in the share.
//!
//! The folder is emptied when it is opened: whatever a crash has left there was never part of the share. Nothing that
//! a user had is ever in it (displaced files go to the recycle area).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use polder_types::{Attrs, AttrsHash, Content, FILE_BYTES_MAX, Kind, Stamp, Timestamp};
use rustix::fs::{AtFlags, FallocateFlags, Mode, OFlags, RawDir, Timespec, Timestamps};
use rustix::io::{Errno, IoSlice, ReadWriteFlags};

use crate::attributes::Attributes;
use crate::error::{Doing, FsError};
use crate::ident::stamp_fd;
use crate::presence::{MarksOf, Pledge};
use crate::root::{Root, RootError};
use crate::walk::retry_interrupted;

/// Files from this size on get their blocks before the first byte is written, so that a full volume is noticed
/// before the transfer (promises.md, 77). Below it a few blocks more or less do not matter.
const RESERVED_BYTES_MIN: u64 = 1024 * 1024;
/// Files from this size on do not stay in the page cache after they are written.
const UNCACHED_BYTES_MIN: u64 = 16 * 1024 * 1024;
/// `RWF_DONTCACHE` of `linux/fs.h`.
const RWF_DONTCACHE: u32 = 0x80;

/// The staging folder of an endpoint.
#[derive(Debug, Clone)]
pub struct Staging(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dir: OwnedFd,
    next: AtomicU64,
    /// Bytes of the largest file that found no room since somebody asked.
    missed: AtomicU64,
    /// Whose placeholders are made here.
    bound: MarksOf,
}

/// A node without a name: a file being written, a symlink or an empty directory. Dropped without being applied, it is
/// removed.
#[derive(Debug)]
pub struct Staged {
    staging: Staging,
    name: String,
    kind: Kind,
    /// For writing and attributes; `O_PATH` for a symlink.
    fd: OwnedFd,
    size: u64,
    /// Where the file ends now, on disk.
    end: u64,
    /// Whether written bytes leave memory soon.
    uncached: bool,
    /// The text of a symlink.
    target: Option<Box<[u8]>>,
    /// What it was when it was finished: what an apply tells of it.
    applied: Option<Applied>,
    /// Of a placeholder: what its mark will say, and the content it stands for.
    pledge: Option<(Pledge, Content)>,
    /// Set when it has left the folder.
    taken: bool,
}

/// Stamp and attributes of something that was finished.
pub(crate) type Applied = (Stamp, (Arc<Attrs>, AttrsHash));

impl Staging {
    /// Opens the folder and empties it. Once, when the endpoint starts.
    pub fn open(root: &Root) -> Result<Self, RootError> {
        let dir = root.state_subdir("staging")?;
        let (next, missed) = (AtomicU64::new(0), AtomicU64::new(0));
        let staging = Self(Arc::new(Inner { dir, next, missed, bound: MarksOf::of(root) }));
        staging.empty().map_err(RootError::Fs)?;
        Ok(staging)
    }

    pub(crate) fn dir(&self) -> BorrowedFd<'_> {
        self.0.dir.as_fd()
    }

    /// Nothing but files, symlinks and empty directories is ever made here.
    fn empty(&self) -> Result<(), FsError> {
        let mut room = Vec::with_capacity(32 * 1024);
        loop {
            let (mut removed, mut first_error) = (0u64, None);
            rustix::fs::seek(&self.0.dir, rustix::fs::SeekFrom::Start(0)).doing("rewind", b"staging")?;
            let mut entries = RawDir::new(&self.0.dir, room.spare_capacity_mut());
            while let Some(entry) = entries.next() {
                let entry = entry.doing("list directory", b"staging")?;
                let name = entry.file_name();
                if matches!(name.to_bytes(), b"." | b"..") {
                    continue;
                }
                let result = match rustix::fs::unlinkat(&self.0.dir, name, AtFlags::empty()) {
                    Err(Errno::ISDIR) => rustix::fs::unlinkat(&self.0.dir, name, AtFlags::REMOVEDIR),
                    result => result,
                };
                match result.doing("remove from staging", name.to_bytes()) {
                    Ok(()) => removed += 1,
                    Err(error) => first_error = Some(error),
                }
            }
            // Removing while listing may skip entries on some file systems: until a round finds nothing to remove.
            match (removed, first_error) {
                (0, None) => return Ok(()),
                (0, Some(error)) => return Err(error),
                _ => (),
            }
        }
    }

    /// Bytes of the largest file that found no room since the last call.
    pub fn take_missed(&self) -> u64 {
        self.0.missed.swap(0, Ordering::Relaxed)
    }

    fn next_name(&self) -> String {
        format!("{:x}", self.0.next.fetch_add(1, Ordering::Relaxed))
    }

    /// A new file that will have `size` bytes, of which `data_bytes` will be written; the others are holes. There must be room for those that are
    /// written. Of a large file without holes the blocks are reserved.
    pub fn file(&self, size: u64, data_bytes: u64) -> Result<Staged, FsError> {
        let name = self.next_name();
        let item = name.as_bytes();
        if size > FILE_BYTES_MAX {
            return Err(FsError::new("stage a file of more than 8 EiB", item, Errno::FBIG));
        }
        let (free, own) = crate::reserve::room(self.dir())?;
        if free < own.saturating_add(data_bytes) {
            self.0.missed.fetch_max(data_bytes, Ordering::Relaxed);
            return Err(FsError::new("find room for", b"staged file", Errno::NOSPC));
        }
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(self.dir(), &*name, flags, Mode::RUSR | Mode::WUSR)
            .doing("create staged file", item)?;
        let mut staged = self.begun(name, Kind::File, fd, size);
        if size >= RESERVED_BYTES_MIN && data_bytes == size {
            match retry_interrupted(|| rustix::fs::fallocate(&staged.fd, FallocateFlags::empty(), 0, size)) {
                // A file system without reservation will tell when it is full.
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => (),
                Ok(()) => staged.end = size,
                Err(errno) => {
                    if errno == Errno::NOSPC {
                        self.0.missed.fetch_max(size, Ordering::Relaxed);
                    }
                    return Err(FsError::new("reserve space for", b"staged file", errno));
                }
            }
        }
        Ok(staged)
    }

    /// A new placeholder: a file that has no bytes, and stands for a version of a node. It gets its mark and its size when it is
    /// finished; nothing may be written to it.
    pub fn placeholder(&self, pledge: Pledge, content: &Content) -> Result<Staged, FsError> {
        let mut staged = self.file(0, 0)?;
        staged.pledge = Some((pledge, content.clone()));
        Ok(staged)
    }

    /// A new symlink with this text.
    pub fn symlink(&self, target: &[u8]) -> Result<Staged, FsError> {
        let checked = Content::Symlink(target.into());
        if checked.ensure_valid().is_err() {
            return Err(FsError::new("stage symlink to", target, Errno::INVAL));
        }
        let name = self.next_name();
        rustix::fs::symlinkat(target, self.dir(), &*name).doing("create staged symlink to", target)?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut staged = self.opened(name, Kind::Symlink, flags)?;
        staged.target = Some(target.into());
        Ok(staged)
    }

    /// A new empty directory.
    pub fn directory(&self) -> Result<Staged, FsError> {
        let name = self.next_name();
        rustix::fs::mkdirat(self.dir(), &*name, Mode::RWXU)
            .doing("create staged directory", name.as_bytes())?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        self.opened(name, Kind::Directory, flags)
    }

    fn begun(&self, name: String, kind: Kind, fd: OwnedFd, size: u64) -> Staged {
        let staging = self.clone();
        let uncached = size >= UNCACHED_BYTES_MIN;
        let (target, applied, pledge) = (None, None, None);
        Staged { staging, name, kind, fd, size, end: 0, uncached, target, applied, pledge, taken: false }
    }

    fn opened(&self, name: String, kind: Kind, flags: OFlags) -> Result<Staged, FsError> {
        let fd = rustix::fs::openat(self.dir(), &*name, flags, Mode::empty())
            .doing("open what was staged", name.as_bytes())?;
        Ok(self.begun(name, kind, fd, 0))
    }
}

impl Staged {
    /// Writes verified bytes at an offset. What is never written stays a hole. The bytes must lie within the size.
    pub fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), FsError> {
        let end = offset.checked_add(bytes.len() as u64);
        if self.kind != Kind::File || end.is_none_or(|end| end > self.size) {
            return Err(FsError::new("write beyond the end of", b"staged file", Errno::INVAL));
        }
        let (mut at, mut left) = (offset, bytes);
        while !left.is_empty() {
            let written = self.write_some(left, at).doing("write", b"staged file")?;
            if written == 0 {
                return Err(FsError::new("write", b"staged file", Errno::IO));
            }
            left = &left[written..];
            at += written as u64;
        }
        self.end = self.end.max(at);
        Ok(())
    }

    /// The bytes of a large file leave memory as soon as they are on disk (Linux 6.14 and later), so that a download does
    /// not push out what the server's users have in their cache. Older kernels and some file systems refuse; then it is
    /// a plain write.
    fn write_some(&mut self, bytes: &[u8], at: u64) -> Result<usize, Errno> {
        if self.uncached {
            let flags = ReadWriteFlags::from_bits_retain(RWF_DONTCACHE);
            let parts = [IoSlice::new(bytes)];
            match retry_interrupted(|| rustix::io::pwritev2(&self.fd, &parts, at, flags)) {
                Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => self.uncached = false,
                result => return result,
            }
        }
        retry_interrupted(|| rustix::io::pwrite(&self.fd, bytes, at))
    }

    /// Gives it its attributes and then, last, its modification time. No content may be written after this.
    pub fn finish(
        &mut self,
        attributes: &mut Attributes,
        attrs: &Attrs,
        mtime: Timestamp,
    ) -> Result<(), FsError> {
        if let Some((pledge, content)) = &mut self.pledge {
            pledge.mtime = mtime;
            crate::presence::mark_staged(self.fd.as_fd(), &self.staging.0.bound, pledge, content)?;
        }
        // The last bytes may be a hole.
        if self.end < self.size {
            rustix::fs::ftruncate(&self.fd, self.size).doing("set the size of", b"staged file")?;
            self.end = self.size;
        }
        attributes.apply(&self.fd, attrs, self.kind)?;
        set_mtime(self.fd.as_fd(), mtime).doing("set the times of", b"staged file")?;
        let (stat, stamp) = stamp_fd(self.fd.as_fd()).doing("stat", b"staged file")?;
        let attrs = attributes.read(self.fd.as_fd(), c"", &stat, self.kind);
        self.applied = Some((stamp, attrs.doing("read the attributes of", b"staged file")?));
        Ok(())
    }

    /// Makes this one durable. Many are made durable together by the batch that applies them.
    pub(crate) fn make_durable(&self) -> Result<(), FsError> {
        match self.kind {
            Kind::Symlink => rustix::fs::syncfs(self.staging.dir()),
            Kind::File | Kind::Directory => rustix::fs::fsync(&self.fd),
        }
        .doing("make durable", b"staged file")
    }

    /// What it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Its size in bytes; 0 unless it is a file.
    pub fn size(&self) -> u64 {
        self.size
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn folder(&self) -> BorrowedFd<'_> {
        self.staging.dir()
    }

    /// The content that a placeholder stands for.
    pub(crate) fn stands_for(&self) -> Option<&Content> {
        self.pledge.as_ref().map(|(_, content)| content)
    }

    /// What it was when it was finished; `None` if it never was.
    pub(crate) fn applied(&self) -> Option<&Applied> {
        self.applied.as_ref()
    }

    /// The text of a symlink.
    pub(crate) fn target(&self) -> Option<&[u8]> {
        self.target.as_deref()
    }

    /// It has left the folder under another name: nothing is removed when this is dropped.
    pub(crate) fn set_taken(&mut self) {
        self.taken = true;
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.taken {
            let flags = if self.kind == Kind::Directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
            // What cannot be removed now is removed at the next start.
            let _ = rustix::fs::unlinkat(self.staging.dir(), &*self.name, flags);
        }
    }
}

/// Sets the modification time of what a descriptor stands for, `O_PATH` ones too. The access time is left alone.
pub(crate) fn set_mtime(fd: BorrowedFd<'_>, mtime: Timestamp) -> Result<(), Errno> {
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
        last_modification: Timespec { tv_sec: mtime.secs, tv_nsec: mtime.nanos.into() },
    };
    rustix::fs::utimensat(fd, c"", &times, AtFlags::EMPTY_PATH)
}
