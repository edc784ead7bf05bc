//! What was displaced: replaced and removed files, until it is sure that nobody needs them.
//!
//! A file that an apply has displaced may still be open in a program, which goes on writing to it. So the area is judged
//! by content, never by name: before anything leaves it, a lease proves that nobody has it open, and its bytes must
//! be those of a version that the service holds verified. Unknown bytes stay, are listed, and get a name in the share
//! again (`rescue`).
//!
//! The names are `<node>-<size>-<mtime>-<n>`: what was expected of the file when it was displaced. There is no other
//! index. A crash may leave a staged file here under the name of what it was to displace: the next start names it by what it looks
//! like, and the same judgement covers it.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use polder_types::{Kind, Name, NodeUid, Stamp, Timestamp, conflict_name};
use rustix::fs::{AtFlags, OFlags, RawDir, RenameFlags};
use rustix::io::Errno;

use crate::error::{Doing, ErrorClass, FsError};
use crate::ident::{CName, kind, stamp_at, stamp_fd};
use crate::lease::{ReadLease, sole_user};
use crate::presence::is_stamp_of_mark;
use crate::read::{Piece, open_file};
use crate::root::{Root, RootError};
use crate::walk::{Dir, open_beneath};

/// How many names a rescue tries before it gives up.
const NAMES_TRIED_MAX: u32 = 1000;
/// How many displaced files are remembered with the change time that the displacement gave them.
const REMEMBERED_MAX: usize = 100_000;

/// Name of an entry of the recycle area.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecycledName(Name);

impl RecycledName {
    /// The name, for messages.
    pub fn name(&self) -> &Name {
        &self.0
    }
}

/// An entry of the recycle area.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recycled {
    /// Its name there.
    pub name: RecycledName,
    /// Whose place it had; `None` for a name that we did not make.
    pub uid: Option<NodeUid>,
    /// What it is; `None` for special files, which can only lie here inside a removed directory.
    pub kind: Option<Kind>,
    /// What it looks like now.
    pub stamp: Stamp,
    /// Whether size and modification time are still those of the version that was displaced. It proves nothing; only
    /// the bytes do.
    pub looks_unchanged: bool,
    /// Whether the change time, too, is what the displacement left, as far as this process remembers: somebody has
    /// written to it since if it is `Some(false)`.
    pub untouched: Option<bool>,
}

/// What came of letting go of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Released {
    /// It is gone for good.
    Gone,
    /// Somebody has it open; try later.
    InUse,
    /// It is not what was read: read it again.
    Changed,
}

/// What became of a displaced file since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    /// Nobody can write to it any more, and nobody has.
    AtRest,
    /// Somebody has it open for writing and has not written yet; or nobody can tell on this file system.
    Open,
    /// It was written to.
    Written,
}

/// The recycle area of an endpoint.
#[derive(Debug)]
pub struct Recycle {
    dir: OwnedFd,
    next: AtomicU64,
    /// Change times as the displacement left them.
    left_at: Mutex<BTreeMap<Name, Timestamp>>,
}

impl Recycle {
    /// Opens the area. Nothing in it is touched.
    pub fn open(root: &Root) -> Result<Arc<Self>, RootError> {
        let dir = root.state_subdir("recycle")?;
        Ok(Arc::new(Self { dir, next: AtomicU64::new(0), left_at: Mutex::default() }))
    }

    pub(crate) fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// The area as a directory that names can be moved to.
    pub(crate) fn as_dir(&self) -> Result<Dir, FsError> {
        let fd = self.dir.try_clone().map_err(|error| {
            let errno = Errno::from_io_error(&error).unwrap_or(Errno::MFILE);
            FsError::new("open directory", b"recycle", errno)
        })?;
        Ok(Dir::of_state(fd))
    }

    /// A free name for what is about to be displaced.
    pub(crate) fn free_name(&self, uid: NodeUid, expect: &Stamp) -> Result<Name, FsError> {
        loop {
            let n = self.next.fetch_add(1, Ordering::Relaxed);
            let Timestamp { secs, nanos } = expect.mtime;
            let text = format!("{uid}-{}-{secs}.{nanos}-{n}", expect.size);
            let name = Name::parse(text.as_bytes()).expect("hex, digits, dots and dashes below 255 bytes");
            match crate::ident::statx_at(self.dir(), CName::new(&name).as_c_str()) {
                Err(Errno::NOENT) => return Ok(name),
                Ok(_) => (),
                Err(errno) => return Err(FsError::new("find a free name like", name.as_bytes(), errno)),
            }
        }
    }

    /// Remembers the change time that the displacement gave to an entry.
    pub(crate) fn remember(&self, name: &Name, ctime: Timestamp) {
        let mut left_at = self.left_at.lock().expect("no holder of this lock panics");
        if left_at.len() < REMEMBERED_MAX {
            left_at.insert(name.clone(), ctime);
        }
    }

    /// All entries, to `each`; it may end the listing.
    pub fn list(&self, each: &mut dyn FnMut(Recycled) -> ControlFlow<()>) -> Result<(), FsError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(&self.dir, ".", flags, rustix::fs::Mode::empty())
            .doing("open directory", b"recycle")?;
        let mut room = Vec::with_capacity(32 * 1024);
        let mut entries = RawDir::new(&dir, room.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            let entry = entry.doing("list directory", b"recycle")?;
            let Ok(name) = Name::parse(entry.file_name().to_bytes()) else { continue };
            match self.entry(name, entry.file_name()) {
                Ok(entry) => {
                    if each(entry).is_break() {
                        return Ok(());
                    }
                }
                Err(error) if error.class == ErrorClass::Gone => (),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn entry(&self, name: Name, c_name: &CStr) -> Result<Recycled, FsError> {
        let (stat, stamp) = stamp_at(self.dir(), c_name).doing("stat", name.as_bytes())?;
        let expected = parse(&name);
        let left_at = self.left_at.lock().expect("no holder of this lock panics").get(&name).copied();
        // A placeholder that was recalled since has another change time although nobody wrote to it; whoever writes moves its
        // modification time.
        let was_recalled = |left_at: &Timestamp| left_at.secs < 0 && !is_stamp_of_mark(&stamp);
        let left_at = left_at.filter(|left_at| !was_recalled(left_at));
        Ok(Recycled {
            uid: expected.map(|(uid, ..)| uid),
            kind: kind(&stat),
            stamp,
            looks_unchanged: expected
                .is_some_and(|(_, size, mtime)| (size, mtime) == (stamp.size, stamp.mtime)),
            untouched: left_at.map(|left_at| left_at == stamp.ctime),
            name: RecycledName(name),
        })
    }

    /// Whether somebody has written, or may still write, to a displaced file. Stores through a mapping are told as
    /// well: the file was clean when its content was read, so the first store has moved its time.
    pub fn since(&self, entry: &RecycledName) -> Result<Since, FsError> {
        let file = match open_file(self.dir(), &entry.0) {
            Ok(Some(file)) => file,
            Ok(None) => return Ok(Since::AtRest),
            // Somebody has it for himself at this moment: expiry, which looks whether it may go. It is looked at again.
            Err(error) if error.class == ErrorClass::Busy => return Ok(Since::Open),
            Err(error) => return Err(error),
        };
        // The lease first: what it excludes cannot happen after the look.
        let lease = ReadLease::try_take(file.as_fd());
        let seen = self.entry(entry.0.clone(), CName::new(&entry.0).as_c_str())?;
        Ok(match lease {
            _ if !seen.looks_unchanged || seen.untouched == Some(false) => Since::Written,
            Ok(_) => Since::AtRest,
            Err(_) => Since::Open,
        })
    }

    /// Reads a file of the area under a read lease, to compare it with the versions of its node. `None` while somebody
    /// has it open for writing, or when it is not a regular file. The stamp is for [`Recycle::release`].
    pub fn read(
        &self,
        entry: &RecycledName,
        consume: &mut dyn FnMut(Piece<'_>) -> ControlFlow<()>,
    ) -> Result<Option<Stamp>, FsError> {
        let Some(file) = open_file(self.dir(), &entry.0)? else { return Ok(None) };
        let Some(lease) = ReadLease::take(file.as_fd()) else { return Ok(None) };
        crate::presence::ensure_bytes(file.as_fd(), entry.0.as_bytes())?;
        let (_, before) = stamp_fd(file.as_fd()).doing("stat", entry.0.as_bytes())?;
        let whole = crate::read::pass(file.as_fd(), &entry.0, before.size, consume)?;
        let (_, after) = stamp_fd(file.as_fd()).doing("stat", entry.0.as_bytes())?;
        Ok((whole && lease.end() && before == after).then_some(after))
    }

    /// Drops an entry whose bytes the caller has read and found in a version that the service holds verified
    /// (promise I4): `read_at` is the stamp of that read. Symlinks have no bytes that could change: their stamp is that
    /// of the listing.
    pub fn release(&self, entry: &RecycledName, read_at: Stamp) -> Result<Released, FsError> {
        let (name, bytes) = (CName::new(&entry.0), entry.0.as_bytes());
        let (stat, stamp) = stamp_at(self.dir(), name.as_c_str()).doing("stat", bytes)?;
        if stamp != read_at {
            return Ok(Released::Changed);
        }
        if kind(&stat) == Some(Kind::File) {
            let Some(file) = open_file(self.dir(), &entry.0)? else { return Ok(Released::Changed) };
            // Nobody has it open or mapped, and nobody can open it until it has no name.
            let Some(_alone) = sole_user(file.as_fd()) else { return Ok(Released::InUse) };
            let (_, now) = stamp_fd(file.as_fd()).doing("stat", bytes)?;
            if now != read_at {
                return Ok(Released::Changed);
            }
            rustix::fs::unlinkat(self.dir(), name.as_c_str(), AtFlags::empty()).doing("remove", bytes)?;
        } else if kind(&stat) == Some(Kind::Symlink) {
            rustix::fs::unlinkat(self.dir(), name.as_c_str(), AtFlags::empty()).doing("remove", bytes)?;
        } else {
            return Ok(Released::InUse);
        }
        self.left_at.lock().expect("no holder of this lock panics").remove(&entry.0);
        Ok(Released::Gone)
    }

    /// Removes a directory of the area with everything in it: names that the filter leaves out, which were never part of
    /// the share. For directories that have lain here for as long as known versions do.
    ///
    /// Directories in it are first moved up into the area itself, so that no depth is too deep; a crash leaves them
    /// there, to be removed in the same way.
    pub fn remove_leftovers(&self, entry: &RecycledName) -> Result<(), FsError> {
        let mut dirs = vec![entry.0.clone()];
        while let Some(name) = dirs.pop() {
            let dir = self.open_subdir(&name)?;
            let mut room = Vec::with_capacity(32 * 1024);
            let mut entries = RawDir::new(&dir, room.spare_capacity_mut());
            let mut inside = Vec::new();
            while let Some(entry) = entries.next() {
                let entry = entry.doing("list directory", name.as_bytes())?;
                inside.extend(Name::parse(entry.file_name().to_bytes()).ok());
            }
            for child in inside {
                let c_name = CName::new(&child);
                match rustix::fs::unlinkat(&dir, c_name.as_c_str(), AtFlags::empty()) {
                    Ok(()) | Err(Errno::NOENT) => (),
                    Err(Errno::ISDIR) => dirs.push(self.move_up(&dir, &c_name)?),
                    Err(errno) => return Err(FsError::new("remove", child.as_bytes(), errno)),
                }
            }
            rustix::fs::unlinkat(&self.dir, CName::new(&name).as_c_str(), AtFlags::REMOVEDIR)
                .doing("remove directory", name.as_bytes())?;
        }
        Ok(())
    }

    fn open_subdir(&self, name: &Name) -> Result<OwnedFd, FsError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        open_beneath(self.dir(), name, flags).doing("open directory", name.as_bytes())
    }

    fn move_up(&self, from: &OwnedFd, name: &CName) -> Result<Name, FsError> {
        let to = self.free_name(NodeUid::ZERO, &Stamp::default())?;
        let flags = RenameFlags::NOREPLACE;
        rustix::fs::renameat_with(from, name.as_c_str(), &self.dir, CName::new(&to).as_c_str(), flags)
            .doing("move up", to.as_bytes())?;
        Ok(to)
    }

    /// Gives an entry a name in a directory of the share again: `name`'s first free conflict name. Durable on return.
    pub fn rescue(
        &self,
        entry: &RecycledName,
        to: impl AsFd,
        name: &Name,
        server: &str,
    ) -> Result<Name, FsError> {
        let given = self.put_back(&entry.0, to.as_fd(), None, name, server)?;
        rustix::fs::fsync(&to).doing("make durable", given.as_bytes())?;
        Ok(given)
    }

    /// As `rescue`, trying `wanted` first, and not durable yet.
    pub(crate) fn put_back(
        &self,
        entry: &Name,
        to: BorrowedFd<'_>,
        wanted: Option<&Name>,
        name: &Name,
        server: &str,
    ) -> Result<Name, FsError> {
        let candidates =
            wanted.cloned().into_iter().chain((0..NAMES_TRIED_MAX).map(|n| conflict_name(name, server, n)));
        let from = CName::new(entry);
        for candidate in candidates {
            let flags = RenameFlags::NOREPLACE;
            let target = CName::new(&candidate);
            match rustix::fs::renameat_with(self.dir(), from.as_c_str(), to, target.as_c_str(), flags) {
                Ok(()) => {
                    self.left_at.lock().expect("no holder of this lock panics").remove(entry);
                    return Ok(candidate);
                }
                Err(Errno::EXIST) => (),
                Err(errno) => return Err(FsError::new("give back", candidate.as_bytes(), errno)),
            }
        }
        Err(FsError::new("find a free conflict name for", name.as_bytes(), Errno::EXIST))
    }

    /// Names an entry by what it looks like now. A crash between two renames leaves here what was to be placed, under the name of what it was to
    /// displace: from then on it is a version of its node as any other that lies here, also when the node is gone. Durable on return.
    pub fn name_as_it_looks(
        &self,
        entry: &RecycledName,
        uid: NodeUid,
        stamp: &Stamp,
    ) -> Result<RecycledName, FsError> {
        let name = self.free_name(uid, stamp)?;
        let (from, to) = (CName::new(&entry.0), CName::new(&name));
        rustix::fs::renameat_with(
            &self.dir,
            from.as_c_str(),
            &self.dir,
            to.as_c_str(),
            RenameFlags::NOREPLACE,
        )
        .doing("rename", entry.0.as_bytes())?;
        rustix::fs::fsync(&self.dir).doing("make durable", b"recycle")?;
        Ok(RecycledName(name))
    }

    /// The stamp of an entry now.
    pub(crate) fn stamp(&self, entry: &Name) -> Result<Stamp, FsError> {
        let found = stamp_at(self.dir(), CName::new(entry).as_c_str());
        Ok(found.doing("stat", entry.as_bytes())?.1)
    }

    pub(crate) fn public_name(name: Name) -> RecycledName {
        RecycledName(name)
    }
}

/// Node, size and modification time of a name that we made.
fn parse(name: &Name) -> Option<(NodeUid, u64, Timestamp)> {
    let (uid, rest) = name.as_str()?.split_once('-')?;
    let (size, rest) = rest.split_once('-')?;
    // The seconds may be negative: split at the last dash.
    let (mtime, _) = rest.rsplit_once('-')?;
    let (secs, nanos) = mtime.split_once('.')?;
    let mtime = Timestamp { secs: secs.parse().ok()?, nanos: nanos.parse().ok()? };
    Some((uid.parse().ok()?, size.parse().ok()?, mtime))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_what_was_expected() {
        for secs in [-5, 0, 1_700_000_000] {
            let uid = NodeUid([7; 16]);
            let name = format!("{uid}-42-{secs}.9-17").parse().unwrap();
            assert_eq!(parse(&name), Some((uid, 42, Timestamp { secs, nanos: 9 })));
        }
        assert_eq!(parse(&"staged".parse().unwrap()), None);
    }
}
