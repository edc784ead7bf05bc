//! The end of a root that was names first: what the share holds goes from this disk, and the folder is as empty as before.
//!
//! Whoever calls has taken the mount away, has found that the disk is what the state database says, and that every version up to a sequence number is
//! verified in the share. Order: [`begin_clearing`] writes that number down, durably; from then on nobody opens the root as an endpoint's,
//! so what is missing from it is never taken for a deletion. Then [`clear_out`] removes names and lays what is left out plainly, and
//! [`remove_cleared`] removes the root's own folder. After a crash [`Root::open_clearing`] goes on.
//!
//! A name goes only if its row says that the share has it: a placeholder by its mark; a file with bytes if it looks as when it was agreed on, if its
//! version is one of the verified ones, and while nobody has it open. What is anything else stays (promise I4).

use std::collections::BTreeSet;
use std::ffi::CStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use polder_types::{Kind, Name, NodeUid, RelPath, Seq};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::compare::is_unchanged;
use crate::error::{Doing, ErrorClass, FsError};
use crate::ident::{generation, kind, stamp, statx_at};
use crate::layout::{lay_back, names_in, open_readable};
use crate::lease::sole_user;
use crate::look::is_mount;
use crate::presence::{Marked, Pace, marked_at};
use crate::root::{Root, RootError, open_at, open_state};
use crate::statedb::{Child, StateError, StateReader};
use crate::walk::{Dir, Walker, open_beneath};
use crate::write_state_file;

/// There while a root is cleared out; holds the sequence number, and then the numbers of inodes of which one name of several was removed.
pub(crate) const CLEARING: &str = "clearing";
/// What of the root's own folder goes with it, in this order: what says that it may go is the last.
const OWN: [&CStr; 12] = [
    c"reserve",
    c"state.db.damaged",
    c"state.db-wal.damaged",
    c"state.db-shm.damaged",
    c"state.db",
    c"state.db-wal",
    c"state.db-shm",
    c"share",
    c"left-behind.jsonl",
    c"identity",
    c"lock",
    c"clearing",
];
/// Folders of it, which go if nothing is in them.
const OWN_FOLDERS: [&CStr; 2] = [c"staging", c"recycle"];

/// What came of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cleared {
    /// Names that are gone.
    pub removed: u64,
    /// Names that stay in the folder: the share does not have them.
    pub kept: u64,
}

/// Why it is not finished. What is there is what was there, or less; it may be begun again.
#[derive(Debug, thiserror::Error)]
pub enum ClearError {
    /// The folder.
    #[error(transparent)]
    Root(#[from] RootError),
    /// A system call failed.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// The rows could not be read.
    #[error("read the state database")]
    State(#[from] StateError),
    /// The caller's [`Pace`] ended it.
    #[error("it was ended")]
    Ended,
}

/// Notes durably that a root is an endpoint's no more, and that every version up to `verified` is verified in the share.
pub fn begin_clearing(root: &Root, verified: Seq) -> Result<(), FsError> {
    write_state_file(root, CLEARING, &mut |out| writeln!(out, "{}", verified.0))
}

/// What [`begin_clearing`] noted; `None` of a root that is not being cleared out.
pub(crate) fn noted(state: BorrowedFd<'_>) -> Result<Option<Seq>, FsError> {
    Ok(noted_lines(state)?.map(|text| {
        // It is written whole. If it is not read whole, no version counts as verified, and files with bytes stay.
        Seq(text.lines().next().and_then(|line| line.parse().ok()).unwrap_or(0))
    }))
}

fn noted_lines(state: BorrowedFd<'_>) -> Result<Option<String>, FsError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(state, CLEARING, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(None),
        file => file.doing("open", CLEARING.as_bytes())?,
    };
    let mut bytes = Vec::new();
    File::from(file).read_to_end(&mut bytes).map_err(|error| failed("read", &error))?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

fn failed(doing: &'static str, error: &std::io::Error) -> FsError {
    FsError::new(doing, CLEARING.as_bytes(), Errno::from_io_error(error).unwrap_or(Errno::IO))
}

/// Inodes of which one name is gone, as far as it was noted: the last line may be cut off.
fn noted_thinned(state: BorrowedFd<'_>) -> Result<BTreeSet<u64>, FsError> {
    let text = noted_lines(state)?.unwrap_or_default();
    let whole = text.split_inclusive('\n').skip(1).filter_map(|line| line.strip_suffix('\n'));
    Ok(whole.filter_map(|line| line.parse().ok()).collect())
}

/// Notes durably that a name of an inode is about to go: whoever goes on after a crash finds another change time under the other names.
fn note_thinned(state: BorrowedFd<'_>, ino: u64) -> Result<(), FsError> {
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::openat(state, CLEARING, flags, Mode::empty());
    let mut file = File::from(file.doing("open", CLEARING.as_bytes())?);
    writeln!(file, "{ino}").map_err(|error| failed("write", &error))?;
    rustix::fs::fdatasync(&file).doing("make durable", CLEARING.as_bytes())
}

/// Removes what the share has, and lays the rest out plainly. `reader` is of the root's database. To be called after [`begin_clearing`].
pub fn clear_out(root: &Root, reader: &StateReader, pace: Pace<'_>) -> Result<Cleared, ClearError> {
    let verified = noted(root.state())?.unwrap_or(Seq(0));
    let walker = Walker::new(root)?;
    let (thinned, cleared) = (noted_thinned(root.state())?, Cleared::default());
    let mut clearing = Clearing { root, reader, verified, walker, thinned, cleared, pace };
    if root.is_tiered() {
        clearing.tree()?;
    }
    let Clearing { cleared, pace, .. } = clearing;
    lay_back(root, pace)?;
    Ok(cleared)
}

enum Visit {
    Enter(RelPath, NodeUid),
    Leave(RelPath),
}

struct Clearing<'a, 'p> {
    root: &'a Root,
    reader: &'a StateReader,
    verified: Seq,
    walker: Walker,
    /// Inodes of which one name of several is gone, which changed their change time.
    thinned: BTreeSet<u64>,
    cleared: Cleared,
    pace: Pace<'p>,
}

impl Clearing<'_, '_> {
    fn tree(&mut self) -> Result<(), ClearError> {
        let mut visits = vec![Visit::Enter(RelPath::root(), NodeUid::ROOT)];
        while let Some(visit) = visits.pop() {
            match visit {
                Visit::Enter(path, uid) => match self.enter(&path, uid, &mut visits) {
                    // Moved or gone: by nobody who came through us.
                    Err(ClearError::Fs(error)) if error.class == ErrorClass::Gone => (),
                    outcome => outcome?,
                },
                Visit::Leave(path) => self.leave(&path)?,
            }
        }
        Ok(())
    }

    fn enter(&mut self, path: &RelPath, uid: NodeUid, visits: &mut Vec<Visit>) -> Result<(), ClearError> {
        let dir = self.walker.path(path.names())?;
        for c_name in names_in(&dir, false)? {
            let Ok(name) = Name::parse(c_name.to_bytes()) else { continue };
            let key = self.reader.case().key(name.as_bytes()).into_owned();
            let child = self.reader.child(uid, &key)?;
            match child {
                Some(child) if child.kind == Kind::Directory && self.is_directory(&dir, &c_name)? => {
                    visits.push(Visit::Leave(path.join(name.clone())));
                    visits.push(Visit::Enter(path.join(name), child.uid));
                }
                Some(child) if self.may_go(&dir, &c_name, &name, &child)? => {
                    self.unlink(&dir, &c_name, AtFlags::empty())?;
                }
                _ => self.cleared.kept += 1,
            }
        }
        Ok(())
    }

    fn is_directory(&self, dir: &Dir, name: &CStr) -> Result<bool, FsError> {
        let stat = match statx_at(dir, name) {
            Err(Errno::NOENT) => return Ok(false),
            stat => stat.doing("stat", name.to_bytes())?,
        };
        Ok(kind(&stat) == Some(Kind::Directory) && !is_mount(&stat, self.walker.device()))
    }

    /// A directory goes once nothing is in it.
    fn leave(&mut self, path: &RelPath) -> Result<(), ClearError> {
        let Some((dirs, name)) = path.split_last() else { return Ok(()) };
        let dir = self.walker.path(dirs.names())?;
        let name = crate::ident::CName::new(name);
        self.unlink(&dir, name.as_c_str(), AtFlags::REMOVEDIR)
    }

    fn unlink(&mut self, dir: &Dir, name: &CStr, how: AtFlags) -> Result<(), ClearError> {
        if !(self.pace)("remove") {
            return Err(ClearError::Ended);
        }
        match rustix::fs::unlinkat(dir, name, how) {
            Ok(()) => self.cleared.removed += 1,
            // What is in a directory that stays was counted.
            Err(Errno::NOENT | Errno::NOTEMPTY | Errno::EXIST) => (),
            Err(Errno::PERM | Errno::BUSY) => self.cleared.kept += 1,
            Err(errno) => return Err(FsError::new("remove", name.to_bytes(), errno).into()),
        }
        Ok(())
    }

    /// Whether the share has what stands at a name that it has.
    fn may_go(&mut self, dir: &Dir, c_name: &CStr, name: &Name, child: &Child) -> Result<bool, ClearError> {
        let stat = match statx_at(dir, c_name) {
            Err(Errno::NOENT) => return Ok(false),
            stat => stat.doing("stat", c_name.to_bytes())?,
        };
        if kind(&stat) != Some(child.kind) || is_mount(&stat, self.walker.device()) {
            return Ok(false);
        }
        let seen = stamp(&stat, generation(dir.as_fd(), c_name, stat.stx_ino));
        match child.kind {
            Kind::Directory => return Ok(false),
            Kind::Symlink => return Ok(is_unchanged(&seen, &child.stamp)),
            Kind::File => (),
        }
        match marked_at(self.root, dir.as_fd(), c_name)? {
            Marked::Ours(_) => return Ok(true),
            Marked::Copy(_) | Marked::Damaged => return Ok(false),
            Marked::No => (),
        }
        let Some(row) = self.reader.file(child.uid)?.filter(|row| row.since <= self.verified) else {
            return Ok(false);
        };
        let is_thinned = self.thinned.contains(&stat.stx_ino);
        let agreed =
            polder_types::Stamp { ctime: if is_thinned { seen.ctime } else { row.stamp.ctime }, ..row.stamp };
        if !is_unchanged(&seen, &agreed) {
            return Ok(false);
        }
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let Ok(file) = open_beneath(dir.as_fd(), name, flags) else { return Ok(false) };
        // Who has it open may write to it, and has written only if it looks otherwise by now.
        let is_alone = sole_user(file.as_fd()).is_some();
        let now = crate::ident::stamp_fd(file.as_fd()).doing("stat", c_name.to_bytes())?.1;
        let goes = is_alone && is_unchanged(&now, &agreed);
        if goes && stat.stx_nlink > 1 && self.thinned.insert(stat.stx_ino) {
            note_thinned(self.root.state(), stat.stx_ino)?;
        }
        Ok(goes)
    }
}

/// Removes what is ours below the path of a root that was cleared out, and the folder itself if nothing else is in it: what was displaced and is not
/// known to be safe stays there for whoever makes an endpoint of the folder again. Of any other folder nothing is touched. May be repeated.
pub fn remove_cleared(path: &Path, pace: Pace<'_>) -> Result<(), ClearError> {
    let base = open_at(path)?;
    let state = match open_state(&base, path) {
        Err(RootError::NotAdopted { .. }) => return Ok(()),
        state => state?,
    };
    if noted(state.as_fd())?.is_none() {
        // Cut off before the last step: then it is empty. What is not stays.
        let _ = rustix::fs::unlinkat(&base, c".polder", AtFlags::REMOVEDIR);
        return Ok(());
    }
    let mut step = |name: &CStr, how: AtFlags, at: BorrowedFd<'_>| {
        if !pace("remove") {
            return Err(ClearError::Ended);
        }
        match rustix::fs::unlinkat(at, name, how) {
            Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY | Errno::EXIST) => Ok(()),
            Err(errno) => Err(FsError::new("remove", name.to_bytes(), errno).into()),
        }
    };
    // Files that were being built: of nobody yet.
    if let Ok(staging) = open_readable(state.as_fd(), "staging") {
        for name in names_in(&staging, false)? {
            step(&name, AtFlags::empty(), staging.as_fd())?;
        }
    }
    for name in OWN_FOLDERS {
        step(name, AtFlags::REMOVEDIR, state.as_fd())?;
    }
    let others = names_in(open_readable(state.as_fd(), ".")?, false)?;
    let is_ours = |name: &CStr| OWN.contains(&name);
    let is_empty = others.iter().all(|name| is_ours(name));
    for name in OWN {
        step(name, AtFlags::empty(), state.as_fd())?;
    }
    if is_empty {
        step(c".polder", AtFlags::REMOVEDIR, base.as_fd())?;
    }
    let base = open_readable(base.as_fd(), ".")?;
    Ok(rustix::fs::fsync(base).doing("make durable", b".")?)
}
