//! The calls of [`polder_tiering::order`] on an open file.

use std::ffi::CStr;
use std::os::fd::BorrowedFd;

use polder_tiering::order::{Calls, Carried};
use polder_types::zoo::{Bug, planted};
use polder_types::{Content, NodeUid, Seq, Stamp, Timestamp};
use rustix::io::Errno;

use super::{Mark, Marked, MarksOf, Pace, Pledge, PresenceError, mark, marked, step};
use crate::error::Doing;
use crate::ident::stamp_fd;
use crate::lease::{SoleUser, sole_user};
use crate::staging::set_mtime;
use crate::{Root, sys, xattrs};

/// One file, and what the work on it is about.
pub(super) struct OnDisk<'a, 'w> {
    /// Without it no mark is read.
    root: Option<&'w Root>,
    file: BorrowedFd<'a>,
    pledge: Pledge,
    pace: Pace<'w>,
    /// What it is to stand for.
    pub content: Option<&'w Content>,
    /// Whose placeholder it is to be; else the root's.
    pub marks: Option<MarksOf>,
    /// How it looked when it was read.
    pub expect: Option<&'w Stamp>,
    pub lease: Option<SoleUser<'a>>,
    pub is_whole: bool,
    /// Its time may have been set since: that is in the mark alone.
    any_time: bool,
}

impl<'a, 'w> OnDisk<'a, 'w> {
    pub(super) fn new(root: Option<&'w Root>, file: BorrowedFd<'a>, pledge: &Pledge, pace: Pace<'w>) -> Self {
        Self {
            root,
            file,
            pledge: *pledge,
            pace,
            content: None,
            marks: None,
            expect: None,
            lease: None,
            is_whole: false,
            any_time: false,
        }
    }

    /// The mark may tell another time than the pledge; that of the mark is restored.
    pub(super) fn of_any_time(self) -> Self {
        Self { any_time: true, ..self }
    }

    /// For work that is about no version.
    pub(super) fn of_no_version(file: BorrowedFd<'a>, pace: Pace<'w>) -> Self {
        let (node, since, mtime) = (NodeUid::ROOT, Seq(0), Timestamp::default());
        Self::new(None, file, &Pledge { node, since, content: [0; 16], size: 0, mtime }, pace)
    }

    /// Sets an attribute. It may take a block, and on a full volume there is none but the reserve; what it lets go is a file's.
    fn set(&mut self, doing: &'static str, name: &CStr, bytes: &[u8]) -> Result<(), PresenceError> {
        let (file, root) = (self.file, self.root);
        step(self.pace, doing, || match xattrs::set(file, name, bytes) {
            Err(Errno::NOSPC) if root.is_some_and(|root| root.release_reserve().unwrap_or(false)) => {
                xattrs::set(file, name, bytes)
            }
            done => done,
        })
    }

    fn mark_bytes(&self) -> Result<Vec<u8>, PresenceError> {
        let marks = self.marks.or_else(|| self.root.map(MarksOf::of)).ok_or(PresenceError::OtherMark)?;
        Ok(Mark { pledge: self.pledge, bound: marks.bound(self.file)? }.encode())
    }
}

impl Calls for OnDisk<'_, '_> {
    type Error = PresenceError;

    fn take_lease(&mut self) -> Result<bool, PresenceError> {
        self.lease = sole_user(self.file);
        Ok(self.lease.is_some())
    }

    fn write_back(&mut self) -> Result<(), PresenceError> {
        // They need not be durable: the share has them.
        step(self.pace, "write back", || sys::write_back(self.file))
    }

    fn is_as_agreed(&mut self) -> Result<bool, PresenceError> {
        let (_, stamp) = stamp_fd(self.file).doing("stat", b"tiered file")?;
        Ok(self.expect == Some(&stamp) && self.pledge.size == stamp.size)
    }

    fn carried(&mut self) -> Result<Carried, PresenceError> {
        let Some(root) = self.root else { return Ok(Carried::Other) };
        Ok(match marked(root, self.file)? {
            Marked::No => Carried::Nothing,
            Marked::Ours(found) if found == self.pledge => Carried::Pledged,
            Marked::Ours(found) if self.any_time && found.is_same_content(&self.pledge) => {
                self.pledge.mtime = found.mtime;
                Carried::Pledged
            }
            _ => Carried::Other,
        })
    }

    fn note_content(&mut self) -> Result<(), PresenceError> {
        let content = self.content.filter(|content| self.pledge.is_of(content));
        let bytes = content.ok_or(PresenceError::OtherMark)?.encode();
        // A file that cannot be marked is not begun.
        self.mark_bytes()?;
        self.set("note the content", mark::XATTR_CONTENT, &bytes)
    }

    fn set_mark(&mut self) -> Result<(), PresenceError> {
        let bytes = self.mark_bytes()?;
        self.set("set the mark", mark::XATTR, &bytes)
    }

    fn start_writing(&mut self) -> Result<(), PresenceError> {
        if planted(Bug::PresenceNotDurable) {
            return Ok(());
        }
        sys::start_writing(self.file).doing("write", b"tiered file").map_err(PresenceError::from)
    }

    fn make_durable(&mut self, what: &'static str) -> Result<(), PresenceError> {
        if planted(Bug::PresenceNotDurable) {
            return Ok(());
        }
        step(self.pace, what, || rustix::fs::fsync(self.file))
    }

    fn punch(&mut self) -> Result<(), PresenceError> {
        super::punch(self.file, self.pledge.size, self.pace)
    }

    fn restore_times(&mut self) -> Result<(), PresenceError> {
        step(self.pace, "restore the times", || set_mtime(self.file, self.pledge.mtime))
    }

    fn cut(&mut self) -> Result<(), PresenceError> {
        step(self.pace, "cut to nothing", || rustix::fs::ftruncate(self.file, 0))
    }

    fn set_size(&mut self) -> Result<(), PresenceError> {
        step(self.pace, "set the size", || rustix::fs::ftruncate(self.file, self.pledge.size))
    }

    fn remove_mark(&mut self) -> Result<(), PresenceError> {
        step(self.pace, "remove the mark", || xattrs::remove(self.file, mark::XATTR))
    }

    fn remove_note(&mut self) -> Result<(), PresenceError> {
        step(self.pace, "remove the note of the content", || xattrs::remove(self.file, mark::XATTR_CONTENT))
    }

    fn is_whole(&self) -> bool {
        self.is_whole
    }

    fn not_whole(&self) -> PresenceError {
        PresenceError::NotWhole
    }

    fn other_mark(&self) -> PresenceError {
        PresenceError::OtherMark
    }
}
