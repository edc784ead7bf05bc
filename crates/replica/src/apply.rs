//! Carrying out a batch: what was decided elsewhere, re-checked at the moment of acting.
//!
//! Order, so that a crash at any point leaves every path old or new (promises I3, I6, I8):
//!
//! 1. what is staged is made durable (`syncfs` once for many, `fsync` for one);
//! 2. per step: the expectation is compared, then one `renameat2`, NOREPLACE or EXCHANGE. What is displaced is then
//!    already in the recycle area, or under the name that it keeps; nothing is ever between two names;
//! 3. what was displaced is compared again: a change that slipped in between check and exchange gets its name back
//!    beside the new file (`Unknown::Rescued`);
//! 4. directory times; then all touched directories are made durable; only then results are told.
//!
//! A crash in the middle leaves steps undone, done, or for a step that keeps what it displaces, the staged file under
//! the name that was meant for the kept one: an extra file, never a missing one.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use polder_sync::{Filter, Seen};
use polder_types::{Attrs, FileIdent, Kind, Name, NodeUid, RelPath, Stamp, Timestamp};
use rustix::fs::{AtFlags, RenameFlags};
use rustix::io::Errno;

use crate::attributes::Attributes;
use crate::error::{Doing, ErrorClass, FsError};
use crate::ident::{CName, stamp_at, stamp_fd};
use crate::look::{Found, Look, look_at};
use crate::recycle::{Recycle, RecycledName};
use crate::staging::{Staged, set_mtime};
use crate::steps::{Act, Batch, BatchResult, Over, Place, Step, StepResult};
use crate::walk::{Dir, DirAt, Walker};
use crate::{Root, RootError, STATE_DIR};

/// Up to so many things are made durable one by one; beyond it the volume as a whole is cheaper.
const SINGLY_DURABLE_MAX: usize = 4;

/// Why a step stops short of being done.
pub(crate) enum Stop {
    /// The expectation does not hold.
    Refused(Option<Box<Found>>),
    /// A system call failed and nothing was changed.
    Failed(FsError),
}

impl From<FsError> for Stop {
    fn from(error: FsError) -> Self {
        // A directory that is gone or blocked is an expectation that does not hold.
        match error.class {
            ErrorClass::Gone | ErrorClass::Blocked => Self::Refused(None),
            _ => Self::Failed(error),
        }
    }
}

pub(crate) type Acted = Result<StepResult, Stop>;

/// Carries out a batch. Never fails as a whole: every step has its result.
pub fn apply(
    root: &Root,
    recycle: &Arc<Recycle>,
    attributes: &mut Attributes,
    batch: Batch<'_>,
) -> BatchResult {
    apply_alone(root, recycle, attributes, batch, &|step| step())
}

/// The same, with each step that changes names run by `alone`, exactly once. What stands in the way of it must not wait for the end of the batch.
pub fn apply_alone(
    root: &Root,
    recycle: &Arc<Recycle>,
    attributes: &mut Attributes,
    batch: Batch<'_>,
    alone: &dyn Fn(&mut dyn FnMut()),
) -> BatchResult {
    let Batch { steps, dir_times, server, filter } = batch;
    let count = steps.len();
    let begun = prove(root).and_then(|()| make_staged_durable(root, &steps)).and_then(|()| Walker::new(root));
    let walker = match begun {
        Ok(walker) => walker,
        Err(error) => {
            let steps = (0..count).map(|_| fail_like(&error)).collect();
            return BatchResult { steps, dirs: Vec::new(), displaced: Vec::new() };
        }
    };
    let mut applier = Applier {
        root,
        recycle,
        attributes,
        server,
        filter,
        walker,
        moved: Vec::new(),
        made: BTreeSet::new(),
        touched: Vec::new(),
        changed: Vec::new(),
        displaced: Vec::new(),
        sync_all: false,
    };
    let mut results = Vec::with_capacity(count);
    for step in steps {
        let ready = step
            .after
            .iter()
            .all(|needed| matches!(results.get(*needed as usize), Some(StepResult::Done { .. })));
        let result = if ready { applier.step_alone(step, alone) } else { Ok(StepResult::Skipped) };
        results.push(match result {
            Ok(result) => result,
            Err(Stop::Refused(found)) => StepResult::Refused { found: found.map(|found| *found) },
            Err(Stop::Failed(error)) => StepResult::Failed(error),
        });
    }
    applier.set_times(&dir_times);
    // What is not durable is not done: the caller must look again (I10).
    if let Err(error) = applier.make_durable() {
        for result in results.iter_mut().filter(|result| matches!(result, StepResult::Done { .. })) {
            *result = fail_like(&error);
        }
    }
    let dirs = applier.dirs_now();
    BatchResult { steps: results, dirs, displaced: applier.displaced }
}

/// Nothing is changed below a root that is not proven to be ours now.
fn prove(root: &Root) -> Result<(), FsError> {
    root.check().map_err(|error| match error {
        RootError::Fs(error) => error,
        _ => FsError::new("prove the identity of the root", b".", Errno::STALE),
    })
}

fn make_staged_durable(root: &Root, steps: &[Step]) -> Result<(), FsError> {
    let mut staged = steps.iter().filter_map(|step| match &step.act {
        Act::Place { staged, .. } | Act::Replace { staged, .. } => Some(staged),
        _ => None,
    });
    match (staged.next(), staged.next()) {
        (None, _) => Ok(()),
        (Some(only), None) => only.make_durable(),
        (Some(_), Some(_)) => root.make_durable(),
    }
}

/// Whether the content is still what it was: a rename moves the change time, a write the modification time too. Of a
/// directory only the identity counts.
pub(crate) fn is_same_content(found: &Found, before: &Stamp) -> bool {
    let now = found.seen.stamp;
    match found.seen.kind {
        Some(Kind::Directory) => now.ident == before.ident,
        _ => Stamp { ctime: before.ctime, ..now } == *before,
    }
}

/// The same failure once more, for another step.
fn fail_like(error: &FsError) -> StepResult {
    StepResult::Failed(error.again(error.item.as_bytes()))
}

/// The state of a batch that is being carried out.
pub(crate) struct Applier<'a> {
    pub(crate) root: &'a Root,
    pub(crate) recycle: &'a Arc<Recycle>,
    pub(crate) attributes: &'a mut Attributes,
    pub(crate) server: &'a str,
    pub(crate) filter: &'a Filter,
    pub(crate) walker: Walker,
    /// What steps have done to paths, in order.
    moved: Vec<Moved>,
    /// Directories that steps have made.
    made: BTreeSet<FileIdent>,
    /// Directories whose entries changed.
    touched: Vec<Dir>,
    /// Files whose attributes changed.
    changed: Vec<OwnedFd>,
    /// What lies in the recycle area now.
    displaced: Vec<(NodeUid, RecycledName)>,
    /// Something changed that has no descriptor to be made durable by.
    sync_all: bool,
}

/// What a step does to the paths of directories.
struct Moved {
    from: RelPath,
    to: RelPath,
    /// What was at `to` is now at `from`.
    exchanged: bool,
}

/// A name in an open directory.
pub(crate) struct Target {
    pub(crate) dir: Dir,
    pub(crate) name: Name,
    pub(crate) c_name: CName,
}

impl Applier<'_> {
    fn step_alone(&mut self, step: Step, alone: &dyn Fn(&mut dyn FnMut())) -> Acted {
        // May wait for who gives the file up, and changes no name.
        if matches!(step.act, Act::Touch { .. }) {
            return self.step(step);
        }
        let (mut step, mut acted) = (Some(step), None);
        alone(&mut || acted = step.take().map(|step| self.step(step)));
        acted.unwrap_or(Ok(StepResult::Skipped))
    }

    fn step(&mut self, step: Step) -> Acted {
        match step.act {
            Act::Place { at, staged, over: None } => self.place(&at, staged),
            Act::Place { at, staged, over: Some(over) } => self.place_over(&at, staged, over),
            Act::Replace { at, expect, staged, keep } => {
                self.replace(step.uid, &at, &expect, staged, keep.as_ref())
            }
            Act::Touch { at, expect, attrs, mtime, .. } if step.uid == NodeUid::ROOT => {
                self.touch_root(&at, &expect, attrs.as_deref(), mtime)
            }
            Act::Touch { at, kind, expect, attrs, mtime } => {
                self.touch(&at, kind, &expect, attrs.as_deref(), mtime)
            }
            Act::Move { from, expect, to } => self.move_to(&from, &expect, &to),
            Act::Exchange { from, expect, to, expect_with } => {
                self.exchange(&from, &expect, &to, &expect_with)
            }
            Act::Remove { at, kind, expect } => self.remove(step.uid, &at, kind, &expect),
        }
    }

    /// Opens the directory of a place. Paths are those before the batch: where a directory is not found, the moves of
    /// the batch are followed.
    pub(crate) fn target(&mut self, place: &Place) -> Result<Target, FsError> {
        let name = place.name.clone();
        if place.dir.path.names().is_empty() && name.as_bytes() == STATE_DIR {
            return Err(FsError::new("change the state directory", STATE_DIR, Errno::PERM));
        }
        let dir = match self.open(&place.dir) {
            Err(error) if matches!(error.class, ErrorClass::Gone | ErrorClass::Blocked) => {
                let moved = DirAt { path: self.path_now(&place.dir.path), ident: place.dir.ident };
                if moved.path == place.dir.path { Err(error) } else { self.open(&moved) }
            }
            result => result,
        }?;
        let c_name = CName::new(&name);
        Ok(Target { dir, name, c_name })
    }

    pub(crate) fn open(&mut self, at: &DirAt) -> Result<Dir, FsError> {
        let dir = self.walker.dir(at)?;
        let expected = at.ident.is_some() || at.path.names().is_empty() || self.made.contains(&dir.ident);
        if expected {
            Ok(dir)
        } else {
            Err(FsError::new("open the new directory", &at.path.to_bytes(), Errno::NOENT))
        }
    }

    fn path_now(&self, path: &RelPath) -> RelPath {
        let mut names = path.names().to_vec();
        for Moved { from, to, exchanged } in &self.moved {
            let (from, to) = (from.names(), to.names());
            if names.starts_with(from) {
                names = [to, &names[from.len()..]].concat();
            } else if *exchanged && names.starts_with(to) {
                names = [from, &names[to.len()..]].concat();
            }
        }
        names.into_iter().collect()
    }

    /// What a step has changed: directories are made durable at the end.
    pub(crate) fn touch_dir(&mut self, dir: &Dir) {
        if self.touched.iter().rev().take(8).all(|touched| touched.ident != dir.ident) {
            self.touched.push(dir.clone());
        }
    }

    /// A file lies in the recycle area, as it was expected.
    pub(crate) fn recycled(&mut self, uid: NodeUid, entry: &Name, stamp: &Stamp) {
        self.recycle.remember(entry, stamp.ctime);
        self.displaced.push((uid, Recycle::public_name(entry.clone())));
    }

    pub(crate) fn touch_file(&mut self, file: Option<OwnedFd>) {
        match file {
            Some(file) if self.changed.len() < SINGLY_DURABLE_MAX => self.changed.push(file),
            _ => self.sync_all = true,
        }
    }

    /// A directory has another place: remembered ways are void.
    pub(crate) fn dir_moved(&mut self, from: &Place, to: &Place, exchanged: bool) {
        self.walker.forget();
        let path = |place: &Place| place.dir.path.join(place.name.clone());
        self.moved.push(Moved { from: path(from), to: path(to), exchanged });
    }

    /// A directory is gone: remembered ways are void.
    pub(crate) fn dir_gone(&mut self) {
        self.walker.forget();
    }

    /// What stands at a target now; `None`: nothing that can be looked at.
    pub(crate) fn found(&mut self, at: &Target) -> Option<Found> {
        match look_at(at.dir.as_fd(), self.walker.device(), &at.name, self.attributes) {
            Look::Found(found) => Some(found),
            Look::Absent | Look::Failed(_) | Look::Mount => None,
        }
    }

    pub(crate) fn refused(&mut self, at: &Target) -> Stop {
        Stop::Refused(self.found(at).map(Box::new))
    }

    fn place(&mut self, at: &Place, mut staged: Staged) -> Acted {
        let at = self.target(at)?;
        match self.rename_staged(&staged, &at) {
            Ok(()) => staged.set_taken(),
            Err(error) if error.class == ErrorClass::Exists => return Err(self.refused(&at)),
            Err(error) => return Err(error.into()),
        }
        self.placed(&at, &staged);
        let now = self.found_placed(&at, &staged);
        Ok(StepResult::Done { now, other: None, unknown: None, exact: true })
    }

    /// Gives a staged node a free name.
    pub(crate) fn rename_staged(&self, staged: &Staged, to: &Target) -> Result<(), FsError> {
        let (folder, flags) = (staged.folder(), RenameFlags::NOREPLACE);
        rustix::fs::renameat_with(folder, staged.name(), &to.dir, to.c_name.as_c_str(), flags)
            .doing("place", to.name.as_bytes())
    }

    pub(crate) fn placed(&mut self, at: &Target, staged: &Staged) {
        self.touch_dir(&at.dir);
        if staged.kind() == Kind::Directory
            && let Ok((_, stamp)) = stamp_fd(staged.fd())
        {
            self.made.insert(stamp.ident);
        }
    }

    /// What stands at the target after something staged was placed there: that, and nothing that somebody has made of it
    /// since. If it is no longer the same, what is told has the stamp of before, so that the next look differs and the
    /// edit is seen; told as it is now, the edit would be taken for what was applied.
    pub(crate) fn found_placed(&mut self, at: &Target, staged: &Staged) -> Option<Found> {
        let found = self.found(at);
        let Some((stamp, attrs)) = staged.applied() else { return found };
        let is_ours = found.as_ref().is_some_and(|found| {
            let same_attrs = found.attrs.as_ref().is_some_and(|(_, hash)| *hash == attrs.1);
            same_attrs && is_same_content(found, stamp)
        });
        if is_ours {
            return found;
        }
        let seen = Seen { name: at.name.clone(), kind: Some(staged.kind()), stamp: *stamp, links: 1 };
        let target = staged.target().map(Into::into);
        Some(Found { seen, attrs: Some(attrs.clone()), target, stands_for: staged.stands_for().cloned() })
    }

    fn place_over(&mut self, at: &Place, staged: Staged, over: Over) -> Acted {
        let at_target = self.target(at)?;
        let (stat, _) = stamp_at(at_target.dir.as_fd(), at_target.c_name.as_c_str())
            .doing("stat", at_target.name.as_bytes())?;
        let kind = crate::ident::kind(&stat).ok_or(Stop::Refused(None))?;
        let ok = match (&over.to, kind) {
            (Some(_), _) => self.is_node(&at_target, over.expect.ident)?,
            (None, Kind::Directory) => {
                self.is_node(&at_target, over.expect.ident)? && self.is_empty(at, &at_target)?
            }
            (None, _) => self.is_as_expected(&at_target, &over.expect)?,
        };
        if !ok {
            return Err(self.refused(&at_target));
        }
        match &over.to {
            Some(to) => {
                let to_target = self.target(to)?;
                let result = self.exchange_with_staged(&at_target, &over.expect, staged, &to_target)?;
                if kind == Kind::Directory {
                    self.dir_moved(at, to, false);
                }
                Ok(result)
            }
            None => self.displace(over.uid, &at_target, &over.expect, kind, staged),
        }
    }

    /// Sets the times that directories are to have. A directory that is gone has none to set.
    fn set_times(&mut self, dir_times: &[(Arc<DirAt>, Timestamp)]) {
        for (at, mtime) in dir_times {
            let moved = DirAt { path: self.path_now(&at.path), ident: at.ident };
            let Ok(dir) = self.open(at).or_else(|_| self.open(&moved)) else { continue };
            if set_mtime(dir.as_fd(), *mtime).is_ok() {
                self.touch_dir(&dir);
            }
        }
    }

    fn make_durable(&self) -> Result<(), FsError> {
        let count = self.touched.len() + self.changed.len();
        if self.sync_all || count > SINGLY_DURABLE_MAX {
            return self.root.make_durable();
        }
        if count > 0 {
            rustix::fs::fsync(self.recycle.dir()).doing("make durable", b"recycle")?;
        }
        for dir in &self.touched {
            rustix::fs::fsync(dir).doing("make durable", b"directory")?;
        }
        self.changed.iter().try_for_each(|file| rustix::fs::fsync(file).doing("make durable", b"file"))
    }

    /// The directories that were touched, as they are now. A stamp alone would hide what somebody changed of the attributes
    /// meanwhile: its time of change covers that too.
    fn dirs_now(&mut self) -> Vec<(Stamp, Arc<Attrs>)> {
        let mut seen = BTreeSet::new();
        let mut now = Vec::new();
        for dir in self.touched.iter().filter(|dir| seen.insert(dir.ident)) {
            // The stamp first: attributes that are newer than it are looked at again.
            let Ok((stat, stamp)) = stamp_fd(dir.as_fd()) else { continue };
            if let Ok((attrs, _)) = self.attributes.read(dir.as_fd(), c"", &stat, Kind::Directory) {
                now.push((stamp, attrs));
            }
        }
        now
    }

    /// Removes an empty directory or one that holds only what the filter leaves out.
    pub(crate) fn unlink_dir(&self, at: &Target) -> Result<(), FsError> {
        rustix::fs::unlinkat(&at.dir, at.c_name.as_c_str(), AtFlags::REMOVEDIR)
            .doing("remove directory", at.name.as_bytes())
    }
}
