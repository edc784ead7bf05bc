//! Steps for the disk: from the planner's words to the executor's, and what their results mean.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use polder_sync::{Act, Becomes, Displaced, TreeError, TreeStore};
use polder_types::{
    Attrs, AttrsHash, Kind, NodeUid, Placed, Timestamp,
    zoo::{Bug, planted},
};

use crate::applies::{Queued, is_dir, uids};
use crate::engine::Engine;
use crate::looks::LookPlace;
use crate::observe::Sight;
use crate::overlay::View;
use crate::sends::differs;
use crate::{
    ApplyAct, ApplyOver, ApplyResult, Dir, Failure, FailureClass, JobId, Level, Place, Reason, SeenDir,
    SeenEntry,
};

/// All names that a step may change. The root has none.
pub(crate) fn places(step: &polder_sync::Apply) -> impl Iterator<Item = &Placed> {
    all_places(&step.act).filter(|_| step.uid != NodeUid::ROOT)
}

fn all_places(act: &Act) -> impl Iterator<Item = &Placed> {
    let (at, other) = match act {
        Act::Place { at, over, .. } => (at, over.as_ref().and_then(|over| over.to.as_ref())),
        Act::Replace { at, displaced: Displaced::Keep(kept), .. } => (at, Some(kept)),
        Act::Replace { at, .. } | Act::Touch { at, .. } | Act::Remove { at, .. } => (at, None),
        Act::Move { from, to, .. } | Act::Exchange { from, to, .. } => (from, Some(to)),
    };
    [at].into_iter().chain(other)
}

/// What a step may change, as it is looked at; the root is looked at itself.
pub(crate) fn lookable(step: &polder_sync::Apply) -> Vec<LookPlace> {
    match step.uid {
        NodeUid::ROOT => vec![(NodeUid::ROOT, None)],
        _ => all_places(&step.act).map(|at| (at.parent, Some(at.name.clone()))).collect(),
    }
}

/// Directories that a step changes; of a touch, the one that it stands in.
pub(crate) fn parents(act: &Act) -> BTreeSet<NodeUid> {
    all_places(act).map(|at| at.parent).collect()
}

/// The directory that a step makes, with its time.
pub(crate) fn made_by(act: &Act) -> Option<(Placed, Timestamp)> {
    match act {
        Act::Place { at, content, mtime, .. } if is_dir(content) => Some((at.clone(), *mtime)),
        _ => None,
    }
}

/// Bytes that a step may have to fetch.
pub(crate) fn size(act: &Act) -> u64 {
    match act {
        Act::Place { content, .. } | Act::Replace { content, .. } => content.size(),
        _ => 0,
    }
}

/// A planned act with directories that can be opened and attributes in full; `None` when a node that it names is not
/// known here any more.
pub(crate) fn wire_act(
    engine: &Engine,
    store: &dyn TreeStore,
    uid: NodeUid,
    act: &Act,
    dirs: &BTreeMap<NodeUid, Arc<Dir>>,
) -> Result<Option<ApplyAct>, TreeError> {
    let place = |at: &Placed| Place { dir: dirs[&at.parent].clone(), name: at.name.clone() };
    let kind_of = |uid: NodeUid| -> Result<Option<Kind>, TreeError> {
        let view = View { store, overlay: &engine.overlay };
        Ok(view.local_row(uid)?.map(|node| node.kind))
    };
    Ok(Some(match act.clone() {
        Act::Place { at, content, attrs, mtime, over } => {
            let over = match over {
                Some(over) => {
                    let Some(kind) = kind_of(over.uid)? else { return Ok(None) };
                    let to = over.to.as_ref().map(place);
                    Some(ApplyOver { uid: over.uid, kind, expect: over.expect, to })
                }
                None => None,
            };
            ApplyAct::Place { at: place(&at), content, attrs: attrs_in_full(store, attrs)?, mtime, over }
        }
        Act::Replace { at, expect, content, attrs, mtime, displaced } => {
            let view = View { store, overlay: &engine.overlay };
            let base = view.local_row(uid)?.and_then(|node| node.content.known().cloned());
            let keep = match displaced {
                Displaced::Recycle => None,
                Displaced::Keep(kept) => Some(place(&kept)),
            };
            let attrs = attrs_in_full(store, attrs)?;
            ApplyAct::Replace { at: place(&at), expect, base, content, attrs, mtime, keep }
        }
        Act::Touch { at, expect, attrs, mtime } => {
            let Some(kind) = kind_of(uid)? else { return Ok(None) };
            let attrs = attrs.map(|hash| attrs_in_full(store, hash)).transpose()?;
            ApplyAct::Touch { at: place(&at), kind, expect, attrs, mtime }
        }
        Act::Move { from, expect, to } => ApplyAct::Move { from: place(&from), expect, to: place(&to) },
        Act::Exchange { from, expect, to, expect_with, .. } => {
            ApplyAct::Exchange { from: place(&from), expect, to: place(&to), expect_with }
        }
        Act::Remove { at, expect } => {
            let Some(kind) = kind_of(uid)? else { return Ok(None) };
            ApplyAct::Remove { at: place(&at), kind, expect }
        }
    }))
}

fn attrs_in_full(store: &dyn TreeStore, hash: AttrsHash) -> Result<Arc<Attrs>, TreeError> {
    store.attrs(hash)?.ok_or_else(|| TreeError {
        doing: "find the attributes that a row names",
        source: Box::from(format!("no attributes with hash {:02x?}", hash.0)),
    })
}

impl Engine {
    pub(crate) fn applied(
        &mut self,
        store: &mut dyn TreeStore,
        job: JobId,
        results: Vec<ApplyResult>,
        dirs: Vec<SeenDir>,
    ) -> Result<(), TreeError> {
        let Some(flying) = self.applies.land(job) else { return Ok(()) };
        let dirs = self.dirs_to_take(store, job, dirs)?;
        for dir in &flying.dirs {
            self.dir_touched_by_us(store, *dir)?;
        }
        let mut not_done = BTreeSet::new();
        let skipped = std::iter::repeat_with(|| ApplyResult::Skipped);
        for (queued, result) in flying.steps.into_iter().zip(results.into_iter().chain(skipped)) {
            for place in lookable(&queued.step) {
                self.touched_by_us(place);
            }
            let serial = queued.serial;
            let moved = crate::applies::moved(&queued.step);
            if !self.result(store, queued, result)? {
                not_done.insert(serial);
                continue;
            }
            for uid in moved {
                let node = View { store, overlay: &self.overlay }.local_row(uid)?;
                if node.is_some_and(|node| node.kind == Kind::Directory) {
                    self.moved_beside_walk(uid, job);
                }
            }
        }
        if not_done.is_empty() {
            self.applies.stalls = 0;
        } else {
            for orphan in self.applies.orphans(&not_done) {
                uids(&orphan.step).into_iter().for_each(|uid| self.work.finish(uid, true, self.now.mono_ms));
            }
        }
        for dir in dirs {
            self.dir_touched(store, dir)?;
        }
        self.forget_touched();
        Ok(())
    }

    /// Directories that are to be taken as the apply found them in the end. What was heard of one since it began may be
    /// younger: that one is looked at instead.
    fn dirs_to_take(
        &mut self,
        store: &dyn TreeStore,
        job: JobId,
        dirs: Vec<SeenDir>,
    ) -> Result<Vec<SeenDir>, TreeError> {
        let mut kept = Vec::with_capacity(dirs.len());
        for dir in dirs {
            let view = View { store, overlay: &self.overlay };
            let known = match view.by_ident(dir.stamp.ident)? {
                Some(uid) => view.local_row(uid)?.map(|node| (uid, node)),
                // Made just now.
                None => None,
            };
            // An inode that is used again may be a file's by now.
            if known
                .is_none_or(|(uid, node)| node.kind == Kind::Directory && self.may_take_dir(job, uid, &node))
            {
                kept.push(dir);
            }
        }
        Ok(kept)
    }

    /// One result; whether the step was done.
    fn result(
        &mut self,
        store: &mut dyn TreeStore,
        queued: Queued,
        result: ApplyResult,
    ) -> Result<bool, TreeError> {
        let step = queued.step;
        match result {
            ApplyResult::Done { now, other, exact } => {
                self.done(store, &step, now, other, exact)?;
                return Ok(true);
            }
            ApplyResult::Skipped => {
                uids(&step).into_iter().for_each(|uid| self.work.finish(uid, true, self.now.mono_ms));
            }
            ApplyResult::Refused { found } => {
                // What was found says nothing about which of the names; all are looked at, and then planned anew. What was
                // put back may have got a name of its own, and nobody else tells of what we do ourselves.
                if let (Some(at), Some(found)) = (places(&step).next(), found) {
                    self.looks.pend(at.parent, Some(found.seen.name));
                }
                for at in places(&step) {
                    self.looks.pend(at.parent, Some(at.name.clone()));
                }
                for uid in uids(&step) {
                    let often = self.work.tries(uid) >= 5;
                    let why = (Reason::Refused, "changes here while it is applied".into());
                    self.fail(store, uid, often.then_some(why))?;
                }
            }
            ApplyResult::Failed(why) => self.step_failed(store, &step, &why)?,
        }
        Ok(false)
    }

    fn step_failed(
        &mut self,
        store: &mut dyn TreeStore,
        step: &polder_sync::Apply,
        why: &Failure,
    ) -> Result<(), TreeError> {
        for uid in uids(step) {
            self.fail(store, uid, Some((Reason::Apply(why.class), why.text.clone())))?;
        }
        let whole_disk = matches!(
            why.class,
            FailureClass::NoSpace
                | FailureClass::DiskQuota
                | FailureClass::ReadOnly
                | FailureClass::Unreachable
        );
        if whole_disk && self.applies.stalled_until <= self.now.mono_ms {
            // The next one would fail in the same way: one probe at a time.
            self.applies.stalls += 1;
            let wait = self.backoff_ms(self.applies.stalls);
            self.applies.stalled_until = self.now.mono_ms + wait;
            if self.applies.stalls == 1 {
                self.log(Level::Warn, format!("nothing can be applied on this disk: {}", why.text));
            }
        }
        Ok(())
    }

    fn done(
        &mut self,
        store: &mut dyn TreeStore,
        step: &polder_sync::Apply,
        now: Option<SeenEntry>,
        other: Option<SeenEntry>,
        exact: bool,
    ) -> Result<(), TreeError> {
        let had_children = is_made(&step.act) && !store.synced_children(step.uid, None, 1)?.is_empty();
        match &step.act {
            Act::Remove { expect, .. } => self.review.solved(expect.ident),
            Act::Place { over: Some(over), .. } if over.to.is_none() => self.review.solved(over.expect.ident),
            _ => (),
        }
        let mut displaced = None;
        // A second node first: what it leaves, the first one may take.
        match &step.act {
            Act::Exchange { with, from, becomes_with, .. } => {
                self.became(store, *with, becomes_with, Some(from), other, exact, Brought::NOTHING)?;
            }
            Act::Place { at, over: Some(over), .. } => {
                let other = match &over.to {
                    Some(_) => other,
                    None => {
                        displaced = other.map(|entry| (at.parent, entry));
                        None
                    }
                };
                self.became(
                    store,
                    over.uid,
                    &over.becomes,
                    over.to.as_ref(),
                    other,
                    exact,
                    Brought::NOTHING,
                )?;
            }
            Act::Replace { displaced: Displaced::Keep(kept), .. } => {
                displaced = other.map(|entry| (kept.parent, entry));
            }
            // Written to at the last moment: it stands beside.
            Act::Replace { at, displaced: Displaced::Recycle, .. } => {
                displaced = other.map(|entry| (at.parent, entry));
            }
            _ => (),
        }
        let at = match &step.act {
            Act::Place { at, .. } | Act::Replace { at, .. } | Act::Touch { at, .. } => Some(at),
            Act::Move { to, .. } | Act::Exchange { to, .. } => Some(to),
            Act::Remove { .. } => None,
        };
        if planted(Bug::KeptSeenTooEarly) {
            self.observe_displaced(store, displaced.take())?;
        }
        self.became(store, step.uid, &step.becomes, at, now, exact, Brought::by(&step.act))?;
        // A new node, now that its inode is not the old one's any more.
        self.observe_displaced(store, displaced)?;
        if had_children {
            // It was gone with all that was in it: rows inside would say otherwise, and a deletion that is under way would be
            // taken for one of a file that is here.
            if !planted(Bug::MadeDirectoryIsFull) {
                self.children_gone(store, step.uid)?;
            }
            self.want_list(step.uid);
        } else if is_made(&step.act) {
            self.want_list_of_made(step.uid);
        }
        self.report.applied(&step.act);
        Ok(())
    }

    /// What a step has put aside, under the name that it was given.
    fn observe_displaced(
        &mut self,
        store: &mut dyn TreeStore,
        displaced: Option<(NodeUid, SeenEntry)>,
    ) -> Result<(), TreeError> {
        let Some((parent, entry)) = displaced else { return Ok(()) };
        let at = Placed { parent, name: entry.seen.name.clone() };
        // Its name may have been chosen on the way: an answer about it that came meanwhile was younger than this.
        if !planted(Bug::KeptNotLookedAt) {
            self.looks.pend(at.parent, Some(at.name.clone()));
        }
        self.observe(store, vec![Sight { at, entry: Some(entry), links_checked: true, seen_by: None }])
    }

    /// What a step made of one node.
    #[expect(clippy::too_many_arguments, reason = "a fact is taken apart where it is known, and named here")]
    fn became(
        &mut self,
        store: &mut dyn TreeStore,
        uid: NodeUid,
        becomes: &Becomes,
        at: Option<&Placed>,
        entry: Option<SeenEntry>,
        exact: bool,
        brought: Brought,
    ) -> Result<(), TreeError> {
        let cloud = store.cloud(uid)?;
        match becomes {
            Becomes::Unchanged => (),
            Becomes::Gone => store.put_synced(uid, None)?,
            Becomes::Row { row, clean } => {
                let mut row = row.clone();
                if let Some(entry) = &entry {
                    let is_dir = entry.seen.kind == Some(Kind::Directory);
                    if *clean && (exact || is_dir) && !planted(Bug::OwnApplyIsUserChange) {
                        // Of a directory only the identity was compared: what the step did not set may be an edit.
                        let old = row.stamp;
                        row.stamp = entry.seen.stamp;
                        if brought.attrs {
                            row.attrs_here = entry.attrs.hash();
                        }
                        if is_dir && !brought.mtime && !planted(Bug::StepSwallowsEdit) {
                            row.stamp.mtime = old.mtime;
                        }
                    } else {
                        row.stamp.ident = entry.seen.stamp.ident;
                    }
                }
                store.put_synced(uid, Some(&row))?;
            }
        }
        store.put_cloud(uid, cloud.as_ref())?;
        self.work.succeeded(uid);
        self.problems.solved(uid);
        match (at, entry) {
            (Some(at), Some(entry)) => {
                let at = Placed { parent: at.parent, name: entry.seen.name.clone() };
                if entry.seen.links > 1 && entry.seen.kind == Some(Kind::File) {
                    let attrs = self.as_agreed(store, uid, entry.attrs.hash())?;
                    self.look_at_other_names(store, uid, (entry.seen.stamp, attrs))?;
                }
                self.set_present(store, uid, at, entry)?;
            }
            _ => {
                self.overlay.forget(uid);
                self.dirs_known.clear();
                self.after_synced(store, uid)?;
            }
        }
        self.holds.remove(&uid);
        let more = self.overlay.get(uid).is_some() || differs(store, uid)?;
        self.work.finish(uid, more, self.now.mono_ms);
        if !more {
            // Set by our own observation just now.
            self.work.remove_fresh(uid);
        }
        Ok(())
    }

    /// A directory in which something was applied, with its time set back. What somebody else changed of its attributes
    /// meanwhile is seen here or never: the stamp covers it.
    fn dir_touched(&mut self, store: &mut dyn TreeStore, dir: SeenDir) -> Result<(), TreeError> {
        let view = View { store, overlay: &self.overlay };
        let Some(uid) = view.by_ident(dir.stamp.ident)? else { return Ok(()) };
        if !matches!(view.local_row(uid)?, Some(node) if node.kind == Kind::Directory) {
            return Ok(());
        }
        let was_in_work = self.work.contains(uid);
        let (last_change, overlaid) = (self.looks.last_change, self.overlay.get(uid).is_some());
        self.set_dir_present(store, uid, dir)?;
        if !was_in_work && !overlaid && self.overlay.get(uid).is_none() {
            self.work.remove_fresh(uid);
            self.looks.last_change = last_change;
        }
        Ok(())
    }
}

/// Which values of a node a step has set.
#[derive(Debug, Clone, Copy)]
struct Brought {
    attrs: bool,
    mtime: bool,
}

impl Brought {
    const NOTHING: Self = Self { attrs: false, mtime: false };

    fn by(act: &Act) -> Self {
        match act {
            Act::Place { .. } | Act::Replace { .. } => Self { attrs: true, mtime: true },
            Act::Touch { attrs, mtime, .. } => Self { attrs: attrs.is_some(), mtime: mtime.is_some() },
            Act::Move { .. } | Act::Exchange { .. } | Act::Remove { .. } => Self::NOTHING,
        }
    }
}

fn is_made(act: &Act) -> bool {
    made_by(act).is_some()
}
