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

mod fill;
mod mark;
mod volume;

use std::os::fd::{AsFd, BorrowedFd};

use polder_types::Stamp;
use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use crate::error::{Doing, FsError};
use crate::ident::stamp_fd;
use crate::lease::sole_user;
use crate::staging::set_mtime;
use crate::walk::retry_interrupted;
use crate::{Root, xattrs};

pub use fill::{NotChunk, Presence, Span, SpanSource};
pub use mark::{Bound, Mark, Marked, Pledge, marked};
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
fn step<T>(
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
/// `pledge` is the version that the share holds verified, `expect` the stamp with which exactly its bytes were read.
pub fn give_up(
    root: &Root,
    file: impl AsFd,
    pledge: &Pledge,
    expect: &Stamp,
    pace: Pace<'_>,
) -> Result<GivenUp, PresenceError> {
    let file = file.as_fd();
    ensure_tested(file)?;
    // From here to the end nobody can open it: an open waits until the lease is dropped.
    let Some(_lease) = sole_user(file) else { return Ok(GivenUp::InUse) };
    // Stores through a mapping that was closed show in the times only once written back.
    step(pace, "make durable", || rustix::fs::fsync(file))?;
    let (_, stamp) = stamp_fd(file).doing("stat", b"tiered file")?;
    if stamp != *expect || pledge.size != stamp.size {
        return Ok(GivenUp::Changed);
    }
    if marked(root, file)? != Marked::No {
        return Ok(GivenUp::Marked);
    }
    let mark = Mark { pledge: *pledge, bound: mark::bound(root, file)? }.encode();
    step(pace, "set the mark", || xattrs::set(file, mark::XATTR, &mark))?;
    step(pace, "make the mark durable", || rustix::fs::fsync(file))?;
    // A mark that is not there now would make the holes the user's bytes.
    if marked(root, file)? != Marked::Ours(*pledge) {
        return Err(PresenceError::OtherMark);
    }
    punch(file, stamp.size, pace)?;
    // They are answered from the mark while it exists; this is for who looks without the agent.
    step(pace, "restore the times", || set_mtime(file, pledge.mtime))?;
    Ok(GivenUp::Done)
}

/// Frees all blocks of a marked file.
fn punch(file: BorrowedFd<'_>, size: u64, pace: Pace<'_>) -> Result<(), PresenceError> {
    if size == 0 {
        return Ok(());
    }
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    step(pace, "punch", || retry_interrupted(|| rustix::fs::fallocate(file, flags, 0, size)))
}

/// `truncate(0)` of a placeholder: the size, the mark, and only then an answer. The other order shows zeros after a crash.
pub fn empty(root: &Root, file: impl AsFd, pledge: &Pledge, pace: Pace<'_>) -> Result<(), PresenceError> {
    let file = file.as_fd();
    ensure_mark(root, file, pledge)?;
    step(pace, "cut to nothing", || rustix::fs::ftruncate(file, 0))?;
    unmark(file, pace)
}

/// Gives back the bytes of a partial file; it stays a placeholder. Whatever was present is to be forgotten.
pub fn discard(root: &Root, file: impl AsFd, pledge: &Pledge, pace: Pace<'_>) -> Result<(), PresenceError> {
    let file = file.as_fd();
    ensure_mark(root, file, pledge)?;
    punch(file, pledge.size, pace)?;
    step(pace, "restore the times", || set_mtime(file, pledge.mtime))
}

/// Makes an empty new file, open for writing and known to nobody, a placeholder of another version: durable before it takes
/// the place of the old one by exchange, so that those who have the old one open go on with it.
pub fn re_point(root: &Root, fresh: impl AsFd, pledge: &Pledge, pace: Pace<'_>) -> Result<(), PresenceError> {
    let fresh = fresh.as_fd();
    ensure_tested(fresh)?;
    if stamp_fd(fresh).doing("stat", b"tiered file")?.1.size != 0 {
        return Err(PresenceError::OtherMark);
    }
    // The mark before the size: a sparse file without a mark would be a file of zeros.
    let mark = Mark { pledge: *pledge, bound: mark::bound(root, fresh)? }.encode();
    step(pace, "set the mark", || xattrs::set(fresh, mark::XATTR, &mark))?;
    step(pace, "make the mark durable", || rustix::fs::fsync(fresh))?;
    step(pace, "set the size", || rustix::fs::ftruncate(fresh, pledge.size))?;
    step(pace, "restore the times", || set_mtime(fresh, pledge.mtime))?;
    step(pace, "make durable", || rustix::fs::fsync(fresh))
}

fn ensure_mark(root: &Root, file: BorrowedFd<'_>, pledge: &Pledge) -> Result<(), PresenceError> {
    match marked(root, file)? {
        Marked::Ours(found) if found == *pledge => Ok(()),
        _ => Err(PresenceError::OtherMark),
    }
}

fn unmark(file: BorrowedFd<'_>, pace: Pace<'_>) -> Result<(), PresenceError> {
    step(pace, "remove the mark", || xattrs::remove(file, mark::XATTR))?;
    step(pace, "make the removal durable", || rustix::fs::fsync(file))
}
