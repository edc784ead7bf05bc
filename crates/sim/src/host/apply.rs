//! Carrying out an apply: get the contents, build the files in staging, make them durable, and then step by step
//! compare and rename; directory times; make the directories durable; only then the results. As
//! `agent/src/endpoint/apply.rs` over `replica/src/apply.rs`; between two steps anything may happen.

use std::collections::BTreeSet;
use std::sync::Arc;

use polder_engine::{
    Apply, ApplyAct, ApplyResult, ApplyStep, Dir, Event, Failure, FailureClass, JobId, Place, SeenDir,
    SeenEntry,
};
use polder_types::{Attrs, Content, FileIdent, Name, NodeUid, RelPath, Seq, Stamp, Timestamp};

use super::Host;
use super::recycle::Displaced;
use crate::disk::{Node, RECYCLE, STAGING, Token, token_of};
use crate::service::Service;

/// Up to so many things are made durable one by one.
const SINGLY_DURABLE_MAX: usize = 4;

/// Something built in staging.
#[derive(Debug, Clone)]
pub(super) struct Staged {
    pub name: Name,
    pub ino: u64,
}

/// An apply that is being carried out.
#[derive(Debug)]
pub struct Applying {
    pub(super) job: JobId,
    steps: Vec<ApplyStep>,
    dir_times: Vec<(Arc<Dir>, Timestamp)>,
    staged: Vec<Option<Result<Staged, Failure>>>,
    results: Vec<ApplyResult>,
    moved: Vec<(RelPath, RelPath, bool)>,
    made: BTreeSet<u64>,
    /// Directories, held as open files are: a number may be another one's by the end.
    touched: Vec<(u64, FileIdent)>,
    changed: Vec<u64>,
    sync_all: bool,
    displaced: Vec<(NodeUid, Name)>,
    /// Somebody writes to what a step is about, between its check and its act.
    pub race: Option<Race>,
}

/// A write at the worst moment.
#[derive(Debug, Clone, Copy)]
pub struct Race {
    /// At which step.
    pub step: usize,
    /// The new bytes.
    pub token: Token,
    /// The bytes that they took the place of, once it has happened.
    pub done: Option<Token>,
}

/// Why a step stops short of being done.
pub(super) enum Stop {
    Refused(Option<Box<SeenEntry>>),
    Failed(Failure),
}

/// What came of an apply.
#[derive(Debug)]
pub struct Applied {
    /// For the engine.
    pub event: Event,
    /// For whoever looks after displaced files.
    pub displaced: Vec<Displaced>,
}

impl Applying {
    pub(super) fn new(apply: Apply) -> Self {
        Self {
            job: apply.job,
            dir_times: apply.dir_times,
            staged: apply.steps.iter().map(|_| None).collect(),
            results: Vec::with_capacity(apply.steps.len()),
            steps: apply.steps,
            moved: Vec::new(),
            made: BTreeSet::new(),
            touched: Vec::new(),
            changed: Vec::new(),
            sync_all: false,
            displaced: Vec::new(),
            race: None,
        }
    }

    /// How many steps it has.
    pub fn step_count(&self) -> usize {
        self.steps.len()
    }

    pub(super) fn touch_dir(&mut self, dir: u64, ident: FileIdent) {
        if !self.touched.contains(&(dir, ident)) {
            self.touched.push((dir, ident));
        }
    }

    pub(super) fn made_dir(&mut self, ino: u64) {
        self.made.insert(ino);
    }

    pub(super) fn recycled(&mut self, uid: NodeUid, entry: Name) {
        self.displaced.push((uid, entry));
    }

    pub(super) fn touched_file(&mut self, ino: Option<u64>) {
        match ino {
            Some(ino) if self.changed.len() < SINGLY_DURABLE_MAX => self.changed.push(ino),
            _ => self.sync_all = true,
        }
    }

    pub(super) fn dir_moved(&mut self, from: &Place, to: &Place, exchanged: bool) {
        let path = |place: &Place| place.dir.path.join(place.name.clone());
        self.moved.push((path(from), path(to), exchanged));
    }

    fn path_now(&self, path: &RelPath) -> RelPath {
        let mut names = path.names().to_vec();
        for (from, to, exchanged) in &self.moved {
            let (from, to) = (from.names(), to.names());
            if names.starts_with(from) {
                names = [to, &names[from.len()..]].concat();
            } else if *exchanged && names.starts_with(to) {
                names = [from, &names[to.len()..]].concat();
            }
        }
        names.into_iter().collect()
    }
}

impl Host {
    /// Gets the contents of an apply and builds what it places. `false` when the job is unknown.
    pub fn begin_apply(&mut self, apply: Apply, service: &Service) -> JobId {
        let mut applying = Applying::new(apply);
        for at in 0..applying.steps.len() {
            let ApplyStep { uid, since, act, .. } = &applying.steps[at];
            let built = match act {
                ApplyAct::Place { content, attrs, mtime, .. }
                | ApplyAct::Replace { content, attrs, mtime, .. }
                    if self.arrives_tiered(content, replaced(act)) =>
                {
                    Some(self.stage_placeholder((*uid, *since), content, attrs, *mtime))
                }
                ApplyAct::Place { content, attrs, mtime, .. }
                | ApplyAct::Replace { content, attrs, mtime, .. } => {
                    Some(self.stage(content, attrs, *mtime, service))
                }
                _ => None,
            };
            applying.staged[at] = built;
        }
        if self.mounted {
            let staged: Vec<u64> =
                applying.staged.iter().flatten().flatten().map(|staged| staged.ino).collect();
            match staged[..] {
                [] => (),
                [only] if !matches!(self.disk.inode(only).node, Node::Link(_)) => self.disk.fsync(only),
                _ => self.make_durable(),
            }
        }
        let job = applying.job;
        self.applying.insert(job, applying);
        job
    }

    fn stage(
        &mut self,
        content: &Content,
        attrs: &Arc<Attrs>,
        mtime: Timestamp,
        service: &Service,
    ) -> Result<Staged, Failure> {
        let node = match content {
            Content::Directory => Node::Dir(Default::default()),
            Content::Symlink(target) => Node::Link(target.clone()),
            Content::File { .. } => {
                for chunk in content.direct_chunks().collect::<Vec<_>>() {
                    self.fetch(chunk, service)?;
                }
                Node::File(token_of(content).expect("a file's content has bytes"))
            }
        };
        let name = self.staged_name();
        let made = self.disk.stage(&name, node, attrs.clone());
        let full = |_| Failure { class: FailureClass::NoSpace, text: "no space left on device".into() };
        let ino = made.map_err(full)?;
        self.disk.set_meta(ino, None, Some(mtime));
        Ok(Staged { name, ino })
    }

    fn stage_placeholder(
        &mut self,
        version: (NodeUid, Seq),
        content: &Content,
        attrs: &Arc<Attrs>,
        mtime: Timestamp,
    ) -> Result<Staged, Failure> {
        let name = self.staged_name();
        let ino = self.disk.stage_empty(&name, attrs.clone());
        self.mark_staged(ino, version, content, mtime);
        Ok(Staged { name, ino })
    }

    /// Carries out the next step; `false` when there is none left.
    pub fn apply_step(&mut self, job: JobId) -> bool {
        let Some(mut applying) = self.applying.remove(&job) else { return false };
        let at = applying.results.len();
        if at < applying.steps.len() {
            let result = self.one_step(&mut applying, at);
            applying.results.push(result);
        }
        let more = applying.results.len() < applying.steps.len();
        self.applying.insert(job, applying);
        more
    }

    fn one_step(&mut self, applying: &mut Applying, at: usize) -> ApplyResult {
        if !self.mounted {
            let text = "prove the identity of the root".into();
            return ApplyResult::Failed(Failure { class: FailureClass::Other, text });
        }
        let step = applying.steps[at].clone();
        let staged = match applying.staged[at].take() {
            Some(Err(why)) => return ApplyResult::Failed(why),
            Some(Ok(staged)) => Some(staged),
            None => None,
        };
        let needed = |earlier: &u32| matches!(applying.results[*earlier as usize], ApplyResult::Done { .. });
        let result = if step.after.iter().all(needed) {
            match self.act(applying, at, step, staged.as_ref()) {
                Ok(done) => done,
                Err(Stop::Refused(found)) => ApplyResult::Refused { found: found.map(|found| *found) },
                Err(Stop::Failed(why)) => ApplyResult::Failed(why),
            }
        } else {
            ApplyResult::Skipped
        };
        // What was built and has got no name is removed.
        if let Some(staged) = staged
            && self.disk.lookup(STAGING, &staged.name) == Some(staged.ino)
        {
            self.disk.detach(STAGING, &staged.name);
        }
        result
    }

    /// Opens the directory of a place; where it is not found, the moves of the batch are followed.
    pub(super) fn target(&self, applying: &Applying, place: &Place) -> Result<u64, Stop> {
        let dir = self.open_dir(applying, &place.dir);
        let dir = dir.or_else(|| {
            let path = applying.path_now(&place.dir.path);
            self.open_dir(applying, &Dir { path, ..(*place.dir).clone() })
        });
        dir.ok_or(Stop::Refused(None))
    }

    fn open_dir(&self, applying: &Applying, dir: &Dir) -> Option<u64> {
        let ino = self.disk.open(dir)?;
        let expected = dir.ident.is_some() || dir.path.names().is_empty() || applying.made.contains(&ino);
        expected.then_some(ino)
    }

    /// Sets directory times, makes everything durable, and tells.
    pub fn finish_apply(&mut self, job: JobId) -> Option<Applied> {
        let mut applying = self.applying.remove(&job)?;
        for (dir, mtime) in std::mem::take(&mut applying.dir_times) {
            let there = self.open_dir(&applying, &dir).or_else(|| {
                let path = applying.path_now(&dir.path);
                self.open_dir(&applying, &Dir { path, ..(*dir).clone() })
            });
            if let Some(ino) = there.filter(|_| self.mounted) {
                self.disk.set_meta(ino, None, Some(mtime));
                applying.touch_dir(ino, self.disk.ident(ino));
            }
        }
        let count = applying.touched.len() + applying.changed.len();
        if applying.sync_all || count > SINGLY_DURABLE_MAX {
            self.make_durable();
        } else if count > 0 {
            self.disk.fsync(RECYCLE);
            let touched = applying.touched.iter().map(|(ino, _)| ino);
            touched.chain(&applying.changed).for_each(|ino| self.disk.fsync(*ino));
        }
        let there = applying
            .touched
            .iter()
            .filter(|(ino, ident)| self.disk.get(*ino).is_some_and(|_| self.disk.ident(*ino) == *ident));
        let now = |(ino, _): &(u64, FileIdent)| SeenDir {
            stamp: self.disk.stamp(*ino),
            attrs: self.disk.inode(*ino).attrs.clone(),
        };
        let dirs = there.map(now).collect();
        let places: Vec<_> = applying.steps.iter().filter_map(displaces).collect();
        let displaced = applying.displaced.into_iter().map(|(uid, entry)| {
            let at = places.iter().find(|(of, _)| *of == uid).map(|(_, at)| at.clone());
            Displaced { entry, uid, at }
        });
        let displaced = displaced.collect();
        Some(Applied { event: Event::Applied { job, results: applying.results, dirs }, displaced })
    }

    /// What an apply that is being carried out changes next: its race, if it has one now.
    pub(super) fn race(&mut self, applying: &mut Applying, at: usize, ino: u64, place: (u64, &Name)) {
        let Some(race) = applying.race.as_mut().filter(|race| race.step == at && race.done.is_none()) else {
            return;
        };
        let own = std::mem::replace(&mut self.disk.own, false);
        // Nobody has a placeholder open for writing.
        if let Some(before) = self.disk.token(ino).filter(|_| self.disk.mark(ino).is_none())
            && self.disk.write(ino, Some(place), race.token).is_ok()
        {
            race.done = Some(before);
        }
        self.disk.own = own;
    }

    /// The race of an apply, to be told or set.
    pub fn race_of(&mut self, job: JobId) -> Option<&mut Option<Race>> {
        self.applying.get_mut(&job).map(|applying| &mut applying.race)
    }

    /// How many steps an apply has.
    pub fn steps_of(&self, job: JobId) -> usize {
        self.applying.get(&job).map_or(0, Applying::step_count)
    }
}

/// What a new version takes the place of.
fn replaced(act: &ApplyAct) -> Option<&Stamp> {
    match act {
        ApplyAct::Replace { expect, .. } => Some(expect),
        _ => None,
    }
}

/// The place that a step may displace something from, and whose it is.
fn displaces(step: &ApplyStep) -> Option<(NodeUid, (Dir, Name))> {
    let (uid, at) = match &step.act {
        ApplyAct::Place { at, over: Some(over), .. } => (over.uid, at),
        ApplyAct::Replace { at, .. } | ApplyAct::Remove { at, .. } => (step.uid, at),
        _ => return None,
    };
    Some((uid, ((*at.dir).clone(), at.name.clone())))
}
