//! Reading a file so that nothing torn is ever taken for a version.
//!
//! A read lease is exact: the kernel grants it only while nobody has the file open or mapped for writing, and while
//! we hold it a writer waits. Without one (somebody has the file open, or the file system has no leases) the order is
//! `stat, fsync, read, stat`: the fsync makes pages that were stored to through a mapping read-only again, so that a
//! later store moves the times before the second stat; and a second pass must give the same hash. Both are
//! `architecture.md` section 5; the measurements behind them are in `docs/semantics.md`.
//!
//! Holes are never read. What counts is the file behind the opened descriptor, not the name (promises.md, 34).

use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use polder_sync::Seen;
use polder_types::{Kind, Name, Stamp};
use rustix::fs::{OFlags, SeekFrom};
use rustix::io::Errno;

use crate::attributes::Attributes;
use crate::clock;
use crate::error::{Doing, ErrorClass, FsError};
use crate::ident::{CName, kind, stamp_fd};
use crate::lease::ReadLease;
use crate::look::Found;
use crate::staging::Staging;
use crate::walk::{DirAt, Walker, open_beneath, retry_interrupted};

/// Bytes of one piece: large enough that system calls do not count, small enough for a cache.
pub const PIECE_BYTES: usize = 512 * 1024;

/// A run of a file's bytes, in order and without gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Bytes, at most [`PIECE_BYTES`].
    Data(&'a [u8]),
    /// That many zeros that are not on disk.
    Hole(u64),
}

/// How a read is done.
#[derive(Debug, Clone, Copy, Default)]
pub struct ReadOptions<'a> {
    /// Also make the file durable when a lease made an fsync unnecessary for exactness. A caller that reads many files
    /// leaves it off and calls [`crate::Root::make_durable`] once.
    pub durable: bool,
    /// For a file that never rests: take its content from a clone made here, at one moment. The result says so.
    pub clone_in: Option<&'a Staging>,
}

/// What came of a read.
#[derive(Debug)]
pub enum Read {
    /// All pieces belong to one version.
    Whole(ReadDone),
    /// Somebody wrote meanwhile: what was read is void. Try again later.
    Changed,
    /// The consumer wanted no more.
    Stopped,
    /// The name is gone or is no longer a regular file.
    Gone,
}

/// The file as it was while it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadDone {
    /// Name, stamp and attributes: those of the opened descriptor.
    pub found: Found,
    /// How it is known that the bytes belong together.
    pub proof: Proof,
    /// Whether the bytes are durable here already.
    pub durable: bool,
}

/// How it is known that the bytes of a read belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// A read lease was held from before the first byte until after the last: exact.
    Lease,
    /// Times stood still and two passes gave the same bytes.
    TwoPasses,
    /// A clone was read: one moment of a file that goes on changing.
    Clone,
}

/// Reads the regular file `name`, giving its bytes to `consume` piece by piece.
///
/// The bytes may be used only if the answer is [`Read::Whole`].
pub fn read(
    walker: &mut Walker,
    attributes: &mut Attributes,
    at: &DirAt,
    name: &Name,
    options: ReadOptions<'_>,
    consume: &mut dyn FnMut(Piece<'_>) -> ControlFlow<()>,
) -> Result<Read, FsError> {
    let dir = walker.dir(at)?;
    let file = match open_file(dir.as_fd(), name) {
        Ok(Some(file)) => file,
        Ok(None) => return Ok(Read::Gone),
        Err(error) if matches!(error.class, ErrorClass::Gone | ErrorClass::Blocked) => return Ok(Read::Gone),
        Err(error) => return Err(error),
    };
    // From the moment it is open nobody can give its bytes up: the mark is looked at after that.
    crate::presence::ensure_bytes(file.as_fd(), name.as_bytes())?;
    let source = Source { file, name, attributes };
    match ReadLease::take(source.file.as_fd()) {
        Some(lease) => source.under_lease(lease, options, consume),
        None => match options.clone_in {
            Some(staging) => source.by_clone(staging, consume),
            None => source.in_two_passes(consume),
        },
    }
}

/// Reads ranges of the regular file `name`: the bytes of each, or `None` where the file ends before. Proves nothing
/// about them: the caller compares hashes.
pub fn read_ranges(
    walker: &mut Walker,
    at: &DirAt,
    name: &Name,
    ranges: &[(u64, usize)],
) -> Result<Vec<Option<Vec<u8>>>, FsError> {
    let dir = walker.dir(at)?;
    let Some(file) = open_file(dir.as_fd(), name)? else { return Ok(vec![None; ranges.len()]) };
    crate::presence::ensure_bytes(file.as_fd(), name.as_bytes())?;
    let range = |(offset, len): &(u64, usize)| {
        let mut bytes = vec![0; *len];
        let mut done = 0;
        while done < *len {
            let got =
                retry_interrupted(|| rustix::io::pread(&file, &mut bytes[done..], offset + done as u64))
                    .doing("read", name.as_bytes())?;
            if got == 0 {
                return Ok(None);
            }
            done += got;
        }
        Ok(Some(bytes))
    };
    ranges.iter().map(range).collect()
}

/// Opens a regular file for reading; `None` for anything else.
pub(crate) fn open_file(dir: BorrowedFd<'_>, name: &Name) -> Result<Option<OwnedFd>, FsError> {
    let bytes = name.as_bytes();
    // Looked at first, so that a device or FIFO is not even opened. O_NONBLOCK for the one that slips in between, and
    // for a lease that somebody holds.
    let stat = crate::ident::statx_at(dir, CName::new(name).as_c_str()).doing("stat", bytes)?;
    if kind(&stat) != Some(Kind::File) {
        return Ok(None);
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOATIME | OFlags::NOCTTY;
    let file = open_beneath(dir, name, flags).doing("open", bytes)?;
    let stat = crate::ident::statx_fd(&file).doing("stat", bytes)?;
    Ok((kind(&stat) == Some(Kind::File)).then_some(file))
}

struct Source<'a> {
    file: OwnedFd,
    name: &'a Name,
    attributes: &'a mut Attributes,
}

impl Source<'_> {
    fn under_lease(
        mut self,
        lease: ReadLease,
        options: ReadOptions<'_>,
        consume: &mut dyn FnMut(Piece<'_>) -> ControlFlow<()>,
    ) -> Result<Read, FsError> {
        let (before, _) = self.stamp()?;
        clock::let_pass(before.ctime);
        if !self.pass(before.size, &mut |piece| {
            if lease.is_held() { consume(piece) } else { ControlFlow::Break(()) }
        })? {
            return Ok(if lease.is_held() { Read::Stopped } else { Read::Changed });
        }
        if options.durable {
            rustix::fs::fsync(&self.file).doing("make durable", self.name.as_bytes())?;
        }
        // The attributes may change under a lease (chmod is no write), the content cannot.
        let (after, found) = self.found()?;
        if !lease.end() || !same_content(&before, &after) {
            return Ok(Read::Changed);
        }
        Ok(Read::Whole(ReadDone { found, proof: Proof::Lease, durable: options.durable }))
    }

    fn in_two_passes(
        mut self,
        consume: &mut dyn FnMut(Piece<'_>) -> ControlFlow<()>,
    ) -> Result<Read, FsError> {
        let mut hashes = [blake3::Hasher::new(), blake3::Hasher::new()];
        let mut stamps = Vec::with_capacity(4);
        for (round, hash) in hashes.iter_mut().enumerate() {
            let (before, _) = self.stamp()?;
            stamps.push(before);
            clock::let_pass(before.ctime);
            rustix::fs::fsync(&self.file).doing("make durable", self.name.as_bytes())?;
            let whole = self.pass(before.size, &mut |piece| {
                match piece {
                    Piece::Data(bytes) => hash.update(bytes),
                    // A hole in one pass may be zeros in the other: the lengths are hashed, the zeros are not.
                    Piece::Hole(len) => hash.update(b"hole").update(&len.to_le_bytes()),
                };
                if round == 0 { consume(piece) } else { ControlFlow::Continue(()) }
            })?;
            if !whole {
                return Ok(Read::Stopped);
            }
            let (after, _) = self.stamp()?;
            stamps.push(after);
            if stamps.iter().any(|stamp| *stamp != before) {
                return Ok(Read::Changed);
            }
        }
        let (last, found) = self.found()?;
        if last != stamps[0] || hashes[0].finalize() != hashes[1].finalize() {
            return Ok(Read::Changed);
        }
        Ok(Read::Whole(ReadDone { found, proof: Proof::TwoPasses, durable: true }))
    }

    /// The kernel clones under its own locks, after writing out what is dirty: the clone is what the file was at one
    /// moment between the first look and now. It is reported with the stamp from before, so that the next look
    /// finds the file changed and asks again.
    fn by_clone(
        mut self,
        staging: &Staging,
        consume: &mut dyn FnMut(Piece<'_>) -> ControlFlow<()>,
    ) -> Result<Read, FsError> {
        let (_, mut found) = self.found()?;
        let staged = staging.file(0, 0)?;
        rustix::fs::ioctl_ficlone(staged.fd(), &self.file).doing("clone", self.name.as_bytes())?;
        rustix::fs::fsync(staged.fd()).doing("make durable", self.name.as_bytes())?;
        let (clone, _) = stamp_of(staged.fd(), self.name)?;
        found.seen.stamp.size = clone.size;
        if !pass(staged.fd(), self.name, clone.size, consume)? {
            return Ok(Read::Stopped);
        }
        Ok(Read::Whole(ReadDone { found, proof: Proof::Clone, durable: false }))
    }

    fn stamp(&self) -> Result<(Stamp, rustix::fs::Statx), FsError> {
        stamp_of(self.file.as_fd(), self.name)
    }

    /// Stamp and attributes that belong together: the times did not move while the attributes were read.
    fn found(&mut self) -> Result<(Stamp, Found), FsError> {
        let bytes = self.name.as_bytes();
        let (stamp, stat) = self.stamp()?;
        let attrs = self
            .attributes
            .read(self.file.as_fd(), c"", &stat, Kind::File)
            .doing("read the attributes of", bytes)?;
        // A chmod in between is seen by the next look: its ctime differs from the one that is told here.
        let seen = Seen { name: self.name.clone(), kind: Some(Kind::File), stamp, links: stat.stx_nlink };
        Ok((stamp, Found { seen, attrs: Some(attrs), target: None, stands_for: None }))
    }

    fn pass(
        &self,
        size: u64,
        consume: &mut dyn FnMut(Piece<'_>) -> ControlFlow<()>,
    ) -> Result<bool, FsError> {
        pass(self.file.as_fd(), self.name, size, consume)
    }
}

/// Whether the content cannot differ: everything but the change time, which a chmod moves.
fn same_content(before: &Stamp, after: &Stamp) -> bool {
    Stamp { ctime: after.ctime, ..*before } == *after
}

fn stamp_of(fd: BorrowedFd<'_>, name: &Name) -> Result<(Stamp, rustix::fs::Statx), FsError> {
    let (stat, stamp) = stamp_fd(fd).doing("stat", name.as_bytes())?;
    Ok((stamp, stat))
}

/// One pass over `size` bytes. `false` when the consumer wanted no more. A file that is shorter than it was ends in a
/// hole here; the stamp that is compared afterwards tells.
pub(crate) fn pass(
    fd: BorrowedFd<'_>,
    name: &Name,
    size: u64,
    consume: &mut dyn FnMut(Piece<'_>) -> ControlFlow<()>,
) -> Result<bool, FsError> {
    let room = size.min(PIECE_BYTES as u64) as usize;
    let mut buffer = vec![0; room];
    let mut at = 0;
    // Files that fit one piece are read without asking for holes: the question costs as much as the read.
    let mut data_end = if size <= PIECE_BYTES as u64 { size } else { 0 };
    while at < size {
        if at == data_end {
            let data = next_data(fd, at, size).doing("find data in", name.as_bytes())?;
            if data > at && consume(Piece::Hole(data - at)).is_break() {
                return Ok(false);
            }
            at = data;
            if at == size {
                break;
            }
            data_end = next_hole(fd, at, size).doing("find holes in", name.as_bytes())?;
        }
        let want = (data_end - at).min(room as u64) as usize;
        let got = retry_interrupted(|| rustix::io::pread(fd, &mut buffer[..want], at))
            .doing("read", name.as_bytes())?;
        let piece = if got == 0 { Piece::Hole(size - at) } else { Piece::Data(&buffer[..got]) };
        if consume(piece).is_break() {
            return Ok(false);
        }
        at = if got == 0 { size } else { at + got as u64 };
    }
    Ok(true)
}

/// Where data begins at or after `at`; `size` when there is none.
fn next_data(fd: BorrowedFd<'_>, at: u64, size: u64) -> Result<u64, Errno> {
    match rustix::fs::seek(fd, SeekFrom::Data(at)) {
        Ok(data) => Ok(data.clamp(at, size)),
        Err(Errno::NXIO) => Ok(size),
        // No such question on this file system: all is data.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(at),
        Err(errno) => Err(errno),
    }
}

/// Where the data at `at` ends.
fn next_hole(fd: BorrowedFd<'_>, at: u64, size: u64) -> Result<u64, Errno> {
    match rustix::fs::seek(fd, SeekFrom::Hole(at)) {
        // Punched since `next_data`: the rest of this piece is read as it is.
        Ok(hole) if hole <= at => Ok(size.min(at + PIECE_BYTES as u64)),
        Ok(hole) => Ok(hole.min(size)),
        Err(Errno::NXIO | Errno::INVAL | Errno::OPNOTSUPP) => Ok(size),
        Err(errno) => Err(errno),
    }
}
