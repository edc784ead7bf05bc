//! Which bytes of a file are here: the mark, giving bytes up, filling them in again.
//!
//! Order of use: [`give_up`] makes a resident file a placeholder. [`Presence::begin`] takes a placeholder up in this life of
//! the agent with nothing present; [`Presence::fill`] brings chunks; [`Presence::settle`] makes it a resident file.
//! [`empty`] is `truncate(0)`; [`re_point`] marks a new sparse file that then takes the place by exchange.
//!
//! Invariants (`docs/design/2026-11-24-tiering.md`): nothing is punched before the mark is durable; the mark goes after every byte
//! was verified in this life, written and made durable; what the file system calls data proves nothing. A crash between any
//! two system calls leaves a file whose mark, or whose lack of one, tells the truth. A mark that is gone may not be so durably: before
//! a file without one is handed out after a start or an error, [`Root::make_durable`] is due, else a power cut brings the mark
//! back over what was written since. Whoever calls sees to it that nobody
//! reaches the real file but through the gate: nothing here is called on a live endpoint before the gate serves it.

mod calls;
mod fill;
mod mark;
mod volume;

use std::os::fd::{AsFd, BorrowedFd};

use polder_tiering::order::{self, Kept};
use polder_types::{Content, Stamp};
use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use crate::Root;
use crate::error::{Doing, FsError};
use crate::ident::stamp_fd;
use crate::lease::SoleUser;
use crate::walk::retry_interrupted;
use calls::OnDisk;

pub(crate) use fill::write_all;
pub use fill::{NotChunk, Presence, Span, SpanSource};
pub use mark::{
    Bound, MARK_XATTR, Mark, Marked, Pledge, is_stamp_of_mark, judge_mark, marked, marked_at,
    pledged_content, set_marked_mtime,
};
pub(crate) use mark::{MarksOf, ensure_bytes, mark_of, noted_content, stamp_by_mark};
pub use volume::{Untested, ensure_tested};

/// Called before each system call that changes something, with its name; `false` ends the work there, as a crash would.
pub type Pace<'a> = &'a mut dyn FnMut(&'static str) -> bool;

/// What came of giving a file's bytes up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GivenUp {
    /// It is a placeholder, durably; nothing of it is present.
    Done,
    /// Somebody has it open or mapped, or the file system has no leases. Nothing was changed.
    InUse,
    /// It is not what was hashed. Nothing was changed.
    Changed,
    /// It carries a mark already. Nothing was changed.
    Marked,
}

/// Why a change of presence was not carried to its end.
#[derive(Debug, thiserror::Error)]
pub enum PresenceError {
    /// A system call failed. The mark tells what the file is.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// The caller's [`Pace`] ended it.
    #[error("ended before \"{0}\"")]
    Ended(&'static str),
    /// Not every byte was verified and written in this life.
    #[error("the file is not whole")]
    NotWhole,
    /// The file's mark is not the one that was expected.
    #[error("the file has another mark")]
    OtherMark,
    /// The file system is not one that tiering was tested on.
    #[error(transparent)]
    Untested(#[from] Untested),
}

/// One system call that changes something.
pub(crate) fn step<T>(
    pace: Pace<'_>,
    doing: &'static str,
    call: impl FnOnce() -> Result<T, Errno>,
) -> Result<T, PresenceError> {
    if !pace(doing) {
        return Err(PresenceError::Ended(doing));
    }
    Ok(call().doing(doing, b"tiered file")?)
}

/// Gives up the bytes of a resident file, opened for reading and writing by nobody else.
///
/// `pledge` is the version that the share holds verified, `content` what that is, `expect` the stamp with which exactly its bytes were read.
pub fn give_up(
    root: &Root,
    file: impl AsFd,
    (pledge, content): (&Pledge, &Content),
    expect: &Stamp,
    pace: Pace<'_>,
) -> Result<GivenUp, PresenceError> {
    let file = file.as_fd();
    match Leaving::begin(root, file, (pledge, content), expect, pace)? {
        Ok(leaving) => leaving.finish(root, pace).map(|()| GivenUp::Done),
        Err(stays) => Ok(stays),
    }
}

/// A file that is about to be given up: marked, and its bytes are here. Nobody can open it until this is gone; dropped, it is a placeholder of
/// which nothing is known to be present.
///
/// In two halves so that many files can be marked before the first mark is made durable: where a file system has a journal, one
/// write of it is for all of them.
pub struct Leaving<'a> {
    file: BorrowedFd<'a>,
    pledge: Pledge,
    _lease: SoleUser<'a>,
}

impl<'a> Leaving<'a> {
    /// The first half of [`give_up`]; `Err`: it stays.
    pub fn begin(
        root: &Root,
        file: BorrowedFd<'a>,
        (pledge, content): (&Pledge, &Content),
        expect: &Stamp,
        pace: Pace<'_>,
    ) -> Result<Result<Self, GivenUp>, PresenceError> {
        root.ensure_tested(file)?;
        let mut calls = OnDisk::new(Some(root), file, pledge, pace);
        (calls.content, calls.expect) = (Some(content), Some(expect));
        match order::begin_leaving(&mut calls)? {
            // From here to the end nobody can open it: an open waits until the lease is dropped.
            Ok(()) => Ok(calls
                .lease
                .map(|lease| Self { file, pledge: *pledge, _lease: lease })
                .ok_or(GivenUp::InUse)),
            Err(Kept::InUse) => Ok(Err(GivenUp::InUse)),
            Err(Kept::Changed) => Ok(Err(GivenUp::Changed)),
            Err(Kept::Marked) => Ok(Err(GivenUp::Marked)),
        }
    }

    /// The second half: the mark durable, and only then the bytes freed.
    pub fn finish(self, root: &Root, pace: Pace<'_>) -> Result<(), PresenceError> {
        order::free(&mut OnDisk::new(Some(root), self.file, &self.pledge, pace))
    }
}

/// `truncate(0)` of a file whose mark is damaged or another file's: the same order as [`empty`].
pub fn empty_orphan(file: impl AsFd) -> Result<(), PresenceError> {
    let file = file.as_fd();
    cut(file)?;
    make_file_durable(file)?;
    unmark(file, &mut |_| true)
}

/// `truncate(0)` of a resident file.
pub fn cut(file: impl AsFd) -> Result<(), FsError> {
    rustix::fs::ftruncate(file, 0).doing("cut to nothing", b"file")
}

/// The stamp of an open file, as a look tells it.
pub fn stamp_of_open(file: impl AsFd) -> Result<Stamp, FsError> {
    Ok(stamp_fd(file.as_fd()).doing("stat", b"file")?.1)
}

/// Makes what was written to an open file durable, its attributes too.
pub fn make_file_durable(file: impl AsFd) -> Result<(), FsError> {
    rustix::fs::fsync(file).doing("make durable", b"file")
}

/// Frees all blocks of a marked file, also the last one, which the file may end within: a hole that ends there would leave it.
pub(crate) fn punch(file: BorrowedFd<'_>, size: u64, pace: Pace<'_>) -> Result<(), PresenceError> {
    if size == 0 {
        return Ok(());
    }
    let block = rustix::fs::fstat(file).doing("stat", b"tiered file")?.st_blksize.max(512) as u64;
    let end = size.checked_next_multiple_of(block).map_or(size, |end| end.min(i64::MAX as u64));
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    step(pace, "punch", || retry_interrupted(|| rustix::fs::fallocate(file, flags, 0, end)))
}

/// `truncate(0)` of a placeholder: the size, the mark, and only then an answer. The other order shows zeros after a crash.
pub fn empty(root: &Root, file: impl AsFd, pledge: &Pledge, pace: Pace<'_>) -> Result<(), PresenceError> {
    order::empty(&mut OnDisk::new(Some(root), file.as_fd(), pledge, pace).of_any_time())
}

/// Gives back the bytes of a partial file; it stays a placeholder. Whatever was present is to be forgotten.
pub fn discard(root: &Root, file: impl AsFd, pledge: &Pledge, pace: Pace<'_>) -> Result<(), PresenceError> {
    order::free(&mut OnDisk::new(Some(root), file.as_fd(), pledge, pace).of_any_time())
}

/// Makes an empty new file, open for writing and known to nobody, a placeholder of another version: durable before it takes
/// the place of the old one by exchange, so that those who have the old one open go on with it.
pub fn re_point(
    root: &Root,
    fresh: impl AsFd,
    (pledge, content): (&Pledge, &Content),
    pace: Pace<'_>,
) -> Result<(), PresenceError> {
    let fresh = fresh.as_fd();
    root.ensure_tested(fresh)?;
    if stamp_fd(fresh).doing("stat", b"tiered file")?.1.size != 0 {
        return Err(PresenceError::OtherMark);
    }
    let mut calls = OnDisk::new(Some(root), fresh, pledge, pace);
    calls.content = Some(content);
    order::re_point(&mut calls)
}

/// As [`re_point`], for a staged file: the batch that applies it makes it durable as a whole before it gets a name, and a crash empties the
/// folder. The file system is one that tiering was tested on: a root is not laid out for tiering on another.
pub(crate) fn mark_staged(
    fresh: BorrowedFd<'_>,
    marks: &MarksOf,
    pledge: &Pledge,
    content: &Content,
) -> Result<(), FsError> {
    let pace: Pace<'_> = &mut |_| true;
    let mut calls = OnDisk::new(None, fresh, pledge, pace);
    (calls.content, calls.marks) = (Some(content), Some(*marks));
    match order::stage_placeholder(&mut calls) {
        Ok(()) => Ok(()),
        Err(PresenceError::Fs(error)) => Err(error),
        Err(_) => Err(FsError::new("make a placeholder of another content of", b"staged file", Errno::INVAL)),
    }
}

pub(crate) fn unmark(file: BorrowedFd<'_>, pace: Pace<'_>) -> Result<(), PresenceError> {
    order::unmark(&mut OnDisk::of_no_version(file, pace))
}
