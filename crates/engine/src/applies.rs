//! Changes to the disk: batches of steps, their results, directories and their times.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use polder_sync::{Act, Becomes, TreeError, TreeStore};
use polder_types::{
    Content, Name, NodeUid, RelPath, Seq, Timestamp,
    zoo::{Bug, planted},
};

use crate::engine::Engine;
use crate::overlay::{Key, View};
use crate::step::{lookable, made_by, parents, places, size, wire_act};
use crate::work::State;
use crate::{Apply, ApplyStep, Dir, Effect, JobId, LARGE_BYTES, Lane};

/// Most steps that one batch passes over because they wait for others. The first in the queues never waits for one that
/// stands behind it, so what is passed over moves when something in flight lands.
const WAITING_MAX: usize = 512;

/// Steps queued, by lane and in the order of their numbers, and in flight.
#[derive(Debug, Default)]
pub(crate) struct Applies {
    small: VecDeque<Queued>,
    large: VecDeque<Queued>,
    flying: BTreeMap<JobId, Flying>,
    /// Steps that were queued and have no result yet.
    open: BTreeSet<u64>,
    next_serial: u64,
    /// Names that applies in flight are changing.
    changing: BTreeSet<Key>,
    /// Directories that applies in flight work in, and how many do.
    dirs: BTreeMap<NodeUid, u32>,
    /// Directories that applies in flight give another time.
    timed: BTreeSet<NodeUid>,
    /// After a failure of the whole disk (full, read-only): nothing is tried before.
    pub(crate) stalled_until: u64,
    pub(crate) stalls: u32,
}

/// A step on its way.
#[derive(Debug)]
pub(crate) struct Queued {
    pub(crate) serial: u64,
    pub(crate) after: Vec<u64>,
    pub(crate) step: polder_sync::Apply,
    /// It stands before all that is not.
    pub(crate) urgent: bool,
}

#[derive(Debug)]
pub(crate) struct Flying {
    pub(crate) steps: Vec<Queued>,
    lane: Lane,
    changing: Vec<Key>,
    /// Directories that the batch works in.
    pub(crate) dirs: Vec<NodeUid>,
    timed: Vec<NodeUid>,
}

impl Flying {
    fn is_urgent(&self) -> bool {
        self.steps.iter().any(|queued| queued.urgent)
    }
}

impl Applies {
    pub(crate) fn jobs(&self) -> impl Iterator<Item = JobId> {
        self.flying.keys().copied()
    }

    pub(crate) fn is_job(&self, job: JobId) -> bool {
        self.flying.contains_key(&job)
    }

    pub(crate) fn queued(&self) -> usize {
        self.small.len() + self.large.len()
    }

    fn queue(&mut self, lane: Lane) -> &mut VecDeque<Queued> {
        match lane {
            Lane::Small => &mut self.small,
            Lane::Large => &mut self.large,
        }
    }

    /// Names that applies in flight are changing.
    pub(crate) fn changing(&self) -> impl Iterator<Item = &Key> {
        self.changing.iter()
    }

    pub(crate) fn is_changing(&self, key: &Key) -> bool {
        self.changing.contains(key)
    }

    /// Whether an apply in flight works in a directory: its time moves until that has set it back.
    pub(crate) fn works_in(&self, dir: NodeUid) -> bool {
        self.dirs.contains_key(&dir)
    }

    pub(crate) fn wakes_at(&self, now: u64) -> Option<u64> {
        (self.queued() > 0 && self.stalled_until > now).then_some(self.stalled_until)
    }

    /// Queues a step: urgent ones before the others.
    fn push(&mut self, queued: Queued) {
        let queue = self.queue(lane_of(&queued.step));
        if queued.urgent {
            let at = queue.partition_point(|queued| queued.urgent);
            queue.insert(at, queued);
        } else {
            queue.push_back(queued);
        }
    }

    /// Whether a batch of a lane may leave now: one that somebody waits for has a place beside the others.
    fn may_apply(&self, lane: Lane, most: usize) -> bool {
        let queue = if lane == Lane::Small { &self.small } else { &self.large };
        let Some(first) = queue.front() else { return false };
        let flying = self.flying.values().filter(|flying| flying.lane == lane);
        let spare = first.urgent && !flying.clone().any(Flying::is_urgent);
        flying.count() < most + usize::from(spare)
    }

    /// Takes a job whose results have come.
    pub(crate) fn land(&mut self, job: JobId) -> Option<Flying> {
        let flying = self.flying.remove(&job)?;
        for queued in &flying.steps {
            self.open.remove(&queued.serial);
        }
        for key in &flying.changing {
            self.changing.remove(key);
        }
        for dir in &flying.timed {
            self.timed.remove(dir);
        }
        for dir in &flying.dirs {
            if let Some(count) = self.dirs.get_mut(dir) {
                *count -= 1;
                if *count == 0 {
                    self.dirs.remove(dir);
                }
            }
        }
        Some(flying)
    }

    /// Takes the queued steps that need one which was not done.
    pub(crate) fn orphans(&mut self, not_done: &BTreeSet<u64>) -> Vec<Queued> {
        let mut queued: Vec<Queued> = self.small.drain(..).chain(self.large.drain(..)).collect();
        // A step is told to be lost before those that need it come: they have higher numbers.
        queued.sort_unstable_by_key(|queued| queued.serial);
        let mut lost = not_done.clone();
        let mut orphans = Vec::new();
        for queued in queued {
            if queued.after.iter().any(|serial| lost.contains(serial)) {
                lost.insert(queued.serial);
                self.open.remove(&queued.serial);
                orphans.push(queued);
            } else {
                self.push(queued);
            }
        }
        orphans
    }
}

/// What became of a step that was to join a batch.
enum Joined {
    Yes,
    /// What it needs is not done yet.
    Later,
    /// Its directory or its node is not known here any more: it is planned anew.
    Never,
}

/// One batch in the making.
#[derive(Default)]
struct Making {
    steps: Vec<ApplyStep>,
    taken: Vec<Queued>,
    /// Index in the batch by serial number.
    index: BTreeMap<u64, u32>,
    /// Directories that the batch makes.
    made: BTreeMap<NodeUid, Arc<Dir>>,
    /// Nodes that the batch moves: paths through them are in doubt.
    moving: BTreeSet<NodeUid>,
    times: BTreeMap<NodeUid, (Arc<Dir>, Timestamp)>,
    /// Times that steps of the batch give to nodes.
    timed: BTreeMap<NodeUid, Timestamp>,
    bytes: u64,
}

impl Engine {
    /// Takes the steps of a plan into the queue.
    pub(crate) fn queue_applies(
        &mut self,
        _store: &mut dyn TreeStore,
        applies: Vec<polder_sync::Apply>,
        rest: &mut BTreeSet<NodeUid>,
    ) -> Result<(), TreeError> {
        let mut serials: Vec<Option<u64>> = Vec::with_capacity(applies.len());
        for step in applies {
            let uids = uids(&step);
            for uid in &uids {
                rest.remove(uid);
            }
            let after: Option<Vec<u64>> = step.after.iter().map(|at| serials[*at]).collect();
            let busy = uids.iter().any(|uid| self.work.is_busy(*uid));
            let Some(after) = after.filter(|_| !busy) else {
                serials.push(None);
                let at = self.now.mono_ms + self.settings.backoff_ms.0;
                uids.into_iter().for_each(|uid| self.work.put_off(uid, at));
                continue;
            };
            let serial = self.applies.next_serial;
            self.applies.next_serial += 1;
            // One that waits for what is behind it would hold up the queue.
            let free = after.iter().all(|serial| !self.applies.open.contains(serial));
            let urgent = free && uids.iter().any(|uid| self.work.is_urgent(*uid));
            self.applies.open.insert(serial);
            uids.into_iter().for_each(|uid| self.work.put(uid, State::Queued));
            self.applies.push(Queued { serial, after, step, urgent });
            serials.push(Some(serial));
        }
        Ok(())
    }

    pub(crate) fn pump_applies(&mut self, store: &mut dyn TreeStore) -> Result<(), TreeError> {
        if self.applies.stalled_until > self.now.mono_ms {
            return Ok(());
        }
        let limits = self.settings.limits;
        for (lane, most) in [(Lane::Small, limits.applies_small), (Lane::Large, limits.applies_large)] {
            while self.applies.may_apply(lane, most) {
                if !self.apply_batch(store, lane)? {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Sends one batch of a lane on its way; `false` when nothing in the queue may go.
    fn apply_batch(&mut self, store: &mut dyn TreeStore, lane: Lane) -> Result<bool, TreeError> {
        let limits = self.settings.limits;
        let mut making = Making::default();
        for flying in self.applies.flying.values() {
            making.moving.extend(flying.steps.iter().flat_map(|queued| moved(&queued.step)));
        }
        let (mut waiting, mut lost) = (Vec::new(), Vec::new());
        while waiting.len() < WAITING_MAX
            && let Some(queued) = self.applies.queue(lane).pop_front()
        {
            let bytes = size(&queued.step.act);
            // What is urgent does not wait until the contents of bulk beside it are here.
            let alike = making.taken.first().is_none_or(|first| first.urgent == queued.urgent);
            let full = making.steps.len() >= limits.apply_ops
                || !alike
                || (!making.steps.is_empty()
                    && (lane == Lane::Large || making.bytes + bytes > limits.apply_bytes));
            let joined = if full { Joined::Later } else { self.add_step(store, &mut making, &queued)? };
            match joined {
                Joined::Yes => {
                    making.bytes += bytes;
                    making.taken.push(queued);
                }
                Joined::Later => waiting.push(queued),
                Joined::Never => lost.push(queued),
            }
            if full {
                break;
            }
        }
        let queue = self.applies.queue(lane);
        waiting.into_iter().rev().for_each(|queued| queue.push_front(queued));
        self.drop_steps(store, lost)?;
        if making.taken.is_empty() {
            return Ok(false);
        }
        let job = self.job();
        let mut changing = Vec::new();
        for queued in &making.taken {
            changing.extend(lookable(&queued.step).iter().map(|place| self.key_of(place)));
            for uid in uids(&queued.step) {
                self.work.put(uid, State::Job(job));
            }
        }
        if planted(Bug::SyncedBeforeApplied) {
            for queued in &making.taken {
                if let Becomes::Row { row, .. } = &queued.step.becomes {
                    store.put_synced(queued.step.uid, Some(row))?;
                }
            }
        }
        self.applies.changing.extend(changing.iter().cloned());
        let dirs: Vec<NodeUid> = making.times.keys().copied().collect();
        dirs.iter().for_each(|dir| *self.applies.dirs.entry(*dir).or_default() += 1);
        let timed: Vec<NodeUid> = making.timed.into_keys().collect();
        self.applies.timed.extend(&timed);
        let flying = Flying { steps: making.taken, lane, changing, dirs, timed };
        let urgent = flying.is_urgent();
        self.applies.flying.insert(job, flying);
        let dir_times = making.times.into_values().collect();
        self.out.push(Effect::Apply(Apply { job, steps: making.steps, dir_times, lane, urgent }));
        Ok(true)
    }

    /// Drops queued steps that cannot be carried out, with those that need them.
    fn drop_steps(&mut self, store: &mut dyn TreeStore, lost: Vec<Queued>) -> Result<(), TreeError> {
        if lost.is_empty() {
            return Ok(());
        }
        let serials: BTreeSet<u64> = lost.iter().map(|queued| queued.serial).collect();
        for queued in &lost {
            self.applies.open.remove(&queued.serial);
            self.drop_adrift(store, &queued.step)?;
        }
        let orphans = self.applies.orphans(&serials);
        for queued in lost.into_iter().chain(orphans) {
            for uid in uids(&queued.step) {
                self.fail(store, uid, None)?;
            }
        }
        Ok(())
    }

    /// A row that has outlived its directory's (a crash came between the two) tells of a node that stands nowhere. Taken for
    /// present, it would be planned and dropped for ever.
    fn drop_adrift(&mut self, store: &dyn TreeStore, step: &polder_sync::Apply) -> Result<(), TreeError> {
        for uid in uids(step) {
            let Some(row) = store.synced(uid)?.filter(|_| self.overlay.get(uid).is_none()) else { continue };
            if self.is_nowhere(store, row.at.parent)? && !planted(Bug::AdriftStays) {
                self.overlay.put_gone(uid, is_dir(&row.content));
            }
        }
        Ok(())
    }

    /// Whether the rows lead from a directory up to one of which nothing is known, and no other stands in its place that may be it.
    fn is_nowhere(&self, store: &dyn TreeStore, mut dir: NodeUid) -> Result<bool, TreeError> {
        let view = View { store, overlay: &self.overlay };
        for _ in 0..crate::overlay::DEPTH_MAX {
            if dir == NodeUid::ROOT || self.overlay.get(dir).is_some() {
                return Ok(false);
            }
            match store.synced(dir)? {
                Some(row) => dir = row.at.parent,
                None => match store.cloud(dir)? {
                    Some(node) => {
                        let may_be_there = view.stranger_at(&node.at)?.is_some();
                        return Ok(!may_be_there || planted(Bug::AdriftBesideStrangers));
                    }
                    None => return Ok(true),
                },
            }
        }
        Ok(false)
    }

    /// Adds a step to the batch if all that it needs is done or in it.
    fn add_step(
        &mut self,
        store: &mut dyn TreeStore,
        making: &mut Making,
        queued: &Queued,
    ) -> Result<Joined, TreeError> {
        let act = &queued.step.act;
        let mut after = Vec::new();
        for serial in &queued.after {
            match making.index.get(serial) {
                Some(index) => after.push(*index),
                None if self.applies.open.contains(serial) => return Ok(Joined::Later),
                None => (),
            }
        }
        if places(&queued.step).any(|at| self.applies.changing.contains(&self.overlay.key(at))) {
            return Ok(Joined::Later);
        }
        if self.times_collide(queued) {
            return Ok(Joined::Later);
        }
        let mut dirs = BTreeMap::new();
        for parent in parents(act) {
            if !making.moving.is_empty() && self.passes(store, parent, &making.moving)? {
                return Ok(Joined::Later);
            }
            let dir = match making.made.get(&parent) {
                Some(dir) => Some(dir.clone()),
                None => self.dir(store, parent)?.filter(|dir| dir.ident.is_some()),
            };
            let Some(dir) = dir else {
                return Ok(if planted(Bug::LostStepsWait) { Joined::Later } else { Joined::Never });
            };
            dirs.insert(parent, dir);
        }
        let Some(wired) = wire_act(self, store, queued.step.uid, act, &dirs)? else {
            return Ok(Joined::Never);
        };
        for (parent, dir) in dirs {
            let time = match making.timed.get(&parent) {
                Some(time) => Some(*time),
                None => self.dir_time(store, parent)?,
            };
            if let Some(time) = time {
                making.times.entry(parent).or_insert((dir, time));
            }
        }
        if let Some((at, mtime)) = made_by(act) {
            let above = making.times.get(&at.parent).map(|(dir, _)| dir.clone());
            let dir = made_dir(queued.step.uid, above.as_deref(), &at.name);
            making.made.insert(queued.step.uid, dir.clone());
            making.times.insert(queued.step.uid, (dir, mtime));
        }
        if let Act::Touch { mtime: Some(mtime), .. } = act {
            making.timed.insert(queued.step.uid, *mtime);
            if let Some((_, time)) = making.times.get_mut(&queued.step.uid) {
                *time = *mtime;
            }
        }
        making.moving.extend(moved(&queued.step));
        making.index.insert(queued.serial, making.steps.len() as u32);
        let since = match &queued.step.becomes {
            Becomes::Row { row, .. } => row.since,
            Becomes::Unchanged | Becomes::Gone => Seq(0),
        };
        making.steps.push(ApplyStep { uid: queued.step.uid, since, act: wired, after });
        Ok(Joined::Yes)
    }

    /// Whether a step gives a directory another time while a batch in flight works in it, which sets it back to the time that
    /// it knows; or works in a directory whose time is being set.
    fn times_collide(&self, queued: &Queued) -> bool {
        if planted(Bug::TimesCollide) {
            return false;
        }
        let act = &queued.step.act;
        let sets_time = matches!(act, Act::Touch { mtime: Some(_), .. });
        (sets_time && self.applies.works_in(queued.step.uid))
            || !self.applies.timed.is_empty()
                && parents(act).iter().any(|parent| self.applies.timed.contains(parent))
    }

    /// Whether a directory lies in one of these, or is one.
    fn passes(
        &self,
        store: &dyn TreeStore,
        dir: NodeUid,
        through: &BTreeSet<NodeUid>,
    ) -> Result<bool, TreeError> {
        let view = View { store, overlay: &self.overlay };
        let mut at = dir;
        for _ in 0..crate::overlay::DEPTH_MAX {
            if through.contains(&at) {
                return Ok(true);
            }
            if at == NodeUid::ROOT {
                return Ok(false);
            }
            let Some(node) = view.local_row(at)? else { return Ok(false) };
            at = node.at.parent;
        }
        Ok(true)
    }

    /// The time that a directory is to keep although something in it is changed.
    fn dir_time(&self, store: &dyn TreeStore, uid: NodeUid) -> Result<Option<Timestamp>, TreeError> {
        let view = View { store, overlay: &self.overlay };
        Ok(view.local_row(uid)?.map(|node| node.stamp.mtime))
    }
}

/// Nodes of a step: its own, and the other one of an exchange or a placement over something.
pub(crate) fn uids(step: &polder_sync::Apply) -> Vec<NodeUid> {
    let other = match &step.act {
        Act::Exchange { with, .. } => Some(*with),
        Act::Place { over: Some(over), .. } => Some(over.uid),
        _ => None,
    };
    [step.uid].into_iter().chain(other).collect()
}

fn lane_of(step: &polder_sync::Apply) -> Lane {
    if size(&step.act) > LARGE_BYTES { Lane::Large } else { Lane::Small }
}

/// Nodes that a step takes to another place.
pub(crate) fn moved(step: &polder_sync::Apply) -> Vec<NodeUid> {
    match &step.act {
        Act::Move { .. } | Act::Exchange { .. } => uids(step),
        Act::Place { over: Some(over), .. } => vec![over.uid],
        _ => Vec::new(),
    }
}

fn made_dir(uid: NodeUid, above: Option<&Dir>, name: &Name) -> Arc<Dir> {
    let path = above.map_or_else(RelPath::root, |dir| dir.path.clone()).join(name.clone());
    Arc::new(Dir { uid, ident: None, path })
}

/// Whether a content is a directory.
pub(crate) fn is_dir(content: &Content) -> bool {
    matches!(content, Content::Directory)
}
