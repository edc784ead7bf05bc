//! When to plan, what to plan, and what becomes of a plan.
//!
//! Nodes are planned in windows: at once when nothing runs, else when a window is full or a few milliseconds have
//! passed, so that a burst of facts is one plan. A plan's steps go into the queues of the lanes; while these are full,
//! nothing more is planned.

use std::collections::BTreeSet;
use std::sync::Arc;

use polder_sync::{HeldReason, LocalNode, Plan, SyncedNode, TreeError, TreeStore, Trees, Waiting};
use polder_types::{
    NodeUid,
    zoo::{Bug, planted},
};

use crate::engine::{Engine, Root};
use crate::looks::QUIET_MS;
use crate::mode::Mode;
use crate::overlay::{View, as_local, is_as_agreed, stored_if_agreed};
use crate::work::{State, Why};
use crate::{InitialMode, Reason};

/// How long facts are gathered while other work runs.
const GATHER_MS: u64 = 5;
/// How long nodes that wait for a change are left alone when nothing else goes on.
const STUCK_MS: u64 = 5_000;
/// How often in a row a node may wait for others before it is left alone for a while.
const WAITS_MAX: u32 = 16;
/// How long a vanished name waits beyond its time while a walk runs that may find it.
const SCAN_WAIT_MS: u64 = 200;
/// What one plan may pull in beyond its window.
const PULL_FACTOR: usize = 2;

/// Nodes of the overlay that nobody works on (directories whose times alone differ) are planned once after each change,
/// when all is quiet.
#[derive(Debug, Default)]
pub(crate) struct Idle {
    /// The last change before they were planned.
    since: u64,
    /// Those up to here were.
    after: Option<NodeUid>,
    done: bool,
}

/// Rows of a directory that are taken at one time.
const ROWS_PAGE: usize = 256;

impl Engine {
    /// Whether there is anything to plan with.
    fn may_plan(&self) -> bool {
        let authority_waits = self.session.mode == Mode::Initial
            && self.settings.initial == InitialMode::Authoritative
            && !self.scan.done_once;
        self.root == Root::Ours
            && self.session.is_ready()
            && !authority_waits
            && !self.paused
            && !self.stopping
    }

    fn has_room(&self) -> bool {
        self.has_room_for(1)
    }

    /// What is urgent is planned while the queues are full of other things: it goes ahead there too.
    fn has_urgent_room(&self) -> bool {
        self.work.urgent_fresh_count() > 0 && self.has_room_for(2)
    }

    fn has_room_for(&self, times: usize) -> bool {
        let limits = &self.settings.limits;
        self.sends.queued() < limits.batch_ops * 2 * times
            && self.applies.queued() < limits.apply_ops * 4 * times
            && self.reads.queued() < limits.window * 2 * times
    }

    /// When the next plan is due; `None` when nothing is fresh or it must wait for a fact.
    pub(crate) fn plan_at(&self) -> Option<u64> {
        if !self.may_plan() || !(self.has_room() || self.has_urgent_room()) {
            return None;
        }
        let gather = if self.work.running() == 0 { 0 } else { GATHER_MS };
        let stuck = (self.work.running() == 0 && self.work.stuck()).then_some(self.stuck_since + STUCK_MS);
        let idle_done = self.idle.done && self.idle.since == self.looks.last_change;
        let idle = (self.work.running() == 0 && self.overlay.len() > self.work.len() && !idle_done)
            .then_some(self.looks.last_change + QUIET_MS);
        let fresh = self.work.fresh_since().map(|since| since + gather);
        [fresh, stuck, idle].into_iter().flatten().min()
    }

    pub(crate) fn pump_plan(&mut self, store: &mut dyn TreeStore) -> Result<(), TreeError> {
        if !self.may_plan() {
            return Ok(());
        }
        // Bounded: a plan that changes nothing forgets its window; settling alone cannot go round for ever.
        for _ in 0..8 {
            self.refill(store)?;
            let full = self.work.fresh_count() >= self.settings.limits.window;
            let due = self.work.fresh_count() > 0 && self.plan_at().is_some_and(|at| at <= self.now.mono_ms);
            let urgent_alone = !self.has_room();
            let room = !urgent_alone || self.has_urgent_room();
            if !room || !(full || due) || !self.plan_window(store, urgent_alone)? {
                break;
            }
        }
        self.end_mode(store)
    }

    /// Takes nodes of the backlog into work, and those that only waited for quiet.
    fn refill(&mut self, store: &mut dyn TreeStore) -> Result<(), TreeError> {
        let now = self.now.mono_ms;
        let window = self.settings.limits.window;
        if self.session.backlog && self.work.fresh_count() < window && self.work.len() < window * 4 {
            let uids = store.cloud_changed(&|uid| self.work.contains(uid), window)?;
            self.session.backlog = uids.len() == window;
            uids.into_iter().for_each(|uid| self.work.touch(uid, now));
        }
        let fresh = self.work.fresh_count() > 0;
        // What is looked at again and again, and turns out to be as it was, is nothing that others wait for.
        if self.work.running() > 0 || !self.work.stuck() || fresh && planted(Bug::WaitsInACircle) {
            self.stuck_since = now;
        }
        if fresh || self.work.running() > 0 {
            return Ok(());
        }
        if self.work.stuck() && now >= self.stuck_since + STUCK_MS {
            self.stuck_since = now;
            self.work.retry_waiting(now);
        }
        let idle_done = self.idle.done && self.idle.since == self.looks.last_change;
        if self.is_quiet() && self.work.len() == 0 && (self.overlay.len() == 0 || idle_done) {
            self.forget_leftovers(store)?;
        }
        if self.is_quiet() && self.work.fresh_count() == 0 && !planted(Bug::DirectoryTimesForgotten) {
            self.refill_idle();
        }
        Ok(())
    }

    fn refill_idle(&mut self) {
        if self.idle.since != self.looks.last_change {
            self.idle = Idle { since: self.looks.last_change, ..Idle::default() };
        }
        if self.idle.done || self.overlay.len() <= self.work.len() {
            return;
        }
        let window = self.settings.limits.window;
        let uids: Vec<NodeUid> = self.overlay.uids_after(self.idle.after).take(window).collect();
        self.idle.done = uids.len() < window;
        self.idle.after = uids.last().copied();
        for uid in uids {
            if !self.work.contains(uid) {
                self.work.touch(uid, self.now.mono_ms);
            }
        }
    }

    /// Whether nothing has changed for a while.
    fn is_quiet(&self) -> bool {
        self.now.mono_ms >= self.looks.last_change + QUIET_MS && self.work.running() == 0
    }

    /// Plans one window; whether anything fresh was taken.
    fn plan_window(&mut self, store: &mut dyn TreeStore, urgent_alone: bool) -> Result<bool, TreeError> {
        let now = self.now.mono_ms;
        let mut window = self.work.take_fresh(self.settings.limits.window, urgent_alone);
        if window.is_empty() {
            return Ok(false);
        }
        self.set_aside(&mut window, store)?;
        let settings = polder_sync::Settings {
            case: self.settings.case,
            rule: self.rule(),
            server: Arc::clone(&self.settings.server_name),
            cloud: "Cloud".into(),
            directory_times: self.is_quiet(),
            extras: Arc::clone(&self.review.extras),
            nodes_max: self.settings.limits.window * PULL_FACTOR,
        };
        let plan = {
            let view = View { store, overlay: &self.overlay };
            let (work, holds, scanning, frozen) =
                (&self.work, &self.holds, self.scan.is_open(), self.scan.frozen());
            let busy = |uid: NodeUid| {
                work.is_busy(uid)
                    || holds.get(&uid).is_some_and(|until| *until > now)
                    || (scanning && matches!(self.overlay.get(uid), Some(None)))
                    || self.may_be_left(store, uid).unwrap_or(true)
                    || self.pledges.contains_key(&uid)
                    || (!frozen.is_empty() && Self::is_frozen(frozen, &view, uid).unwrap_or(true))
            };
            polder_sync::plan(&view, &window, &busy, &settings)?
        };
        self.take_plan(store, window, plan)?;
        Ok(true)
    }

    /// Takes out of a window what is to wait: vanished names, hot files, what lies below an unreadable directory.
    fn set_aside(&mut self, window: &mut Vec<NodeUid>, store: &mut dyn TreeStore) -> Result<(), TreeError> {
        let now = self.now.mono_ms;
        let scanning = self.scan.is_open();
        let mut kept = Vec::with_capacity(window.len());
        for uid in window.drain(..) {
            // It was seen in a directory that is gone meanwhile, with one above it.
            if !planted(Bug::SeenInGoneDirectory)
                && let Some(Some(node)) = self.overlay.get(uid)
                && (View { store, overlay: &self.overlay }).local(node.at.parent)?.is_none()
            {
                self.set_gone(store, uid)?;
            }
            if self.takes_leftover(store, uid)? || self.takes_pledge(store, uid)? {
                continue;
            }
            let gone = matches!(self.overlay.get(uid), Some(None));
            match self.holds.get(&uid) {
                Some(until) if *until > now => {
                    self.work.put(uid, State::Until(*until, Why::Vanished));
                    continue;
                }
                Some(_) if !(gone && scanning) => drop(self.holds.remove(&uid)),
                _ => (),
            }
            if gone && scanning {
                self.work.put(uid, State::Until(now + SCAN_WAIT_MS, Why::Vanished));
                continue;
            }
            let view = View { store, overlay: &self.overlay };
            if !self.scan.frozen().is_empty() && Self::is_frozen(self.scan.frozen(), &view, uid)? {
                self.work.put(uid, State::Held);
                continue;
            }
            kept.push(uid);
        }
        *window = kept;
        Ok(())
    }

    fn take_plan(
        &mut self,
        store: &mut dyn TreeStore,
        window: Vec<NodeUid>,
        plan: Plan,
    ) -> Result<(), TreeError> {
        let now = self.now.mono_ms;
        let mut rest: BTreeSet<NodeUid> = window.into_iter().collect();
        for settled in &plan.settled {
            rest.remove(&settled.uid);
            self.settle(store, settled.uid, settled.row.as_ref())?;
        }
        for rekeyed in &plan.rekeyed {
            rest.remove(&rekeyed.from);
            rest.remove(&rekeyed.to);
            self.rekey(store, rekeyed.from, rekeyed.to)?;
        }
        for Waiting { uid, on } in &plan.waiting {
            rest.remove(uid);
            if self.is_new_in_extra(store, *uid, *on)? {
                self.held(store, *uid, &HeldReason::Extra)?;
            } else {
                self.wait(*uid, *on);
            }
        }
        for read in &plan.reads {
            rest.remove(&read.uid);
            self.queue_read(store, read.uid, read.intent)?;
        }
        for held in &plan.held {
            rest.remove(&held.uid);
            self.held(store, held.uid, &held.why)?;
        }
        self.queue_groups(store, plan.groups, &mut rest)?;
        self.queue_applies(store, plan.applies, &mut rest)?;
        // Nothing is to be done about the others.
        for uid in rest {
            self.brake.forget(uid);
            self.problems.solved(uid);
            self.after_synced(store, uid)?;
            self.work.finish(uid, false, now);
        }
        if self.brake.is_reverting() && self.work.fresh_count() == 0 && self.work.running() == 0 {
            self.brake.calm();
        }
        Ok(())
    }

    pub(crate) fn wait(&mut self, uid: NodeUid, on: NodeUid) {
        // One that waits for itself waits for its own read or job.
        if self.work.is_busy(uid) {
            return;
        }
        if uid == on || self.work.waited(uid) > WAITS_MAX {
            self.work.put(uid, State::Held);
            return;
        }
        if !self.work.contains(on) {
            // Nobody works on the other one yet: it is planned next, and this one with it.
            self.work.touch(on, self.now.mono_ms);
        }
        let circle = self.work.circle(uid, on);
        self.work.put(uid, State::On(on));
        if !circle.is_empty() && !planted(Bug::WaitsInACircle) {
            // They were planned apart, each while another could not be. Together they may go.
            for uid in circle.into_iter().chain([uid]) {
                self.work.touch(uid, self.now.mono_ms);
            }
        }
    }

    fn held(&mut self, store: &dyn TreeStore, uid: NodeUid, why: &HeldReason) -> Result<(), TreeError> {
        if self.work.is_busy(uid) {
            return Ok(());
        }
        let waits_for_person = *why == HeldReason::Extra;
        self.work.put(uid, if waits_for_person { State::Braked } else { State::Held });
        let path = self.path(store, uid)?;
        let reason = match why {
            HeldReason::Extra => Reason::Review,
            HeldReason::CaseClash { .. } | HeldReason::NoFreeName => Reason::BadName,
            HeldReason::Adrift => Reason::Refused,
        };
        self.problems.add(uid, path, reason, why.to_string().into(), self.now.unix_ms);
        if waits_for_person {
            self.found_extra(store, uid)?;
        }
        Ok(())
    }

    /// A new local node is a node of the share.
    pub(crate) fn rekey(
        &mut self,
        store: &mut dyn TreeStore,
        from: NodeUid,
        to: NodeUid,
    ) -> Result<(), TreeError> {
        let now = self.now.mono_ms;
        let Some(Some(node)) = self.overlay.get(from) else {
            self.work.finish(from, false, now);
            return Ok(());
        };
        let node = node.clone();
        self.inside_follows(store, from, to)?;
        self.overlay.forget(from);
        if let Some(until) = self.holds.remove(&from) {
            self.holds.insert(to, until);
        }
        self.dirs_known.clear();
        self.looks.rekey(from, to);
        self.scan.rekey(from, to);
        self.problems.rekey(from, to);
        self.work.finish(from, false, now);
        let row = store.synced(to)?;
        let is_dir = node.kind == polder_types::Kind::Directory;
        self.put_local(store, to, node, row)?;
        self.work.finish(to, true, now);
        if is_dir {
            self.inside_is_back(store, to)?;
        }
        Ok(())
    }

    /// What stands here has become the directory of these rows. While nobody was known to be that one, what is in it counted as gone: it
    /// stands as its rows say until it is listed. No listing has been compared with these rows, and one that finds what they say tells
    /// nothing: what stayed gone would be placed once more beside what is here, or deleted in the share.
    fn inside_is_back(&mut self, store: &dyn TreeStore, dir: NodeUid) -> Result<(), TreeError> {
        let back = self.rows_hold_below(store, dir)?;
        let has_rows = !back.is_empty() || !store.synced_children(dir, None, 1)?.is_empty();
        if has_rows && !planted(Bug::AdoptedWithoutItsInside) {
            self.want_list(dir);
        }
        // The plan that this is taken from may have steps for them yet, as for what is gone. They are planned anew.
        for uid in back.into_iter().filter(|uid| !self.work.is_busy(*uid)).collect::<Vec<_>>() {
            self.work.put(uid, State::Until(self.now.mono_ms + SCAN_WAIT_MS, Why::Vanished));
        }
        Ok(())
    }

    /// What is inside a directory is known by its id: it goes over to the other one. So does what has no state of its own, for it stands as
    /// its row says, which names the first one: nobody has a row of that any more, so that all in it would count as gone with it.
    fn inside_follows(&mut self, store: &dyn TreeStore, from: NodeUid, to: NodeUid) -> Result<(), TreeError> {
        let mut inside: Vec<(NodeUid, LocalNode)> = Vec::new();
        for (_, uid) in self.overlay.children(from) {
            inside.extend(self.overlay.get(uid).flatten().map(|child| (uid, child.clone())));
        }
        let mut after = None;
        while !planted(Bug::InsideOfOldIdIsGone)
            && let Some(rows) = self.rows_alone(store, from, &mut after)?
        {
            inside.extend(rows.into_iter().map(|(uid, row)| (uid, as_local(row))));
        }
        for (uid, mut child) in inside {
            child.at.parent = to;
            self.overlay.put(uid, child);
            self.changed(uid);
        }
        Ok(())
    }

    /// Writes a row that the share has agreed to. What is on disk stays what it is: a node that has no state of its own
    /// in the overlay, because it equalled the old row, gets one if it does not equal the new one (it was changed back
    /// while the answer was on its way).
    pub(crate) fn write_row(
        &mut self,
        store: &mut dyn TreeStore,
        uid: NodeUid,
        row: Option<&SyncedNode>,
    ) -> Result<(), TreeError> {
        if !planted(Bug::AnswerChangesDisk)
            && self.overlay.get(uid).is_none()
            && let Some(old) = store.synced(uid)?
            && let Some(mut here) = (View { store, overlay: &self.overlay }).local(uid)?
        {
            if let Some(row) = row {
                here.attrs = if old.attrs_here == row.attrs_here { row.attrs_share } else { here.attrs };
                here.mtime = if old.stamp.mtime == row.stamp.mtime { row.mtime_share } else { here.mtime };
            }
            self.overlay.put(uid, here);
        }
        store.put_synced(uid, row)
    }

    /// A synced row was written: what the overlay has of the node leaves it if it is equal now.
    pub(crate) fn after_synced(&mut self, store: &mut dyn TreeStore, uid: NodeUid) -> Result<(), TreeError> {
        self.review_settled(store, uid)?;
        if store.synced(uid)?.is_none() && !planted(Bug::ChildrenOfGoneForgotten) {
            self.children_gone(store, uid)?;
        }
        match self.overlay.get(uid) {
            None => Ok(()),
            Some(None) => {
                if store.synced(uid)?.is_none() {
                    self.overlay.forget(uid);
                    self.holds.remove(&uid);
                }
                Ok(())
            }
            Some(Some(node)) => {
                let Some(row) = store.synced(uid)? else { return Ok(()) };
                let mut node = node.clone();
                // Normalised anew: what is as it was applied shows as it is in the share.
                if node.stamp == row.stamp {
                    node.attrs = if node.attrs == row.attrs_here { row.attrs_share } else { node.attrs };
                    node.mtime = row.mtime_share;
                }
                node.content = stored_if_agreed(node.content, &row);
                if is_as_agreed(&node, &row) && node.stamp == row.stamp {
                    self.overlay.forget(uid);
                    self.holds.remove(&uid);
                } else {
                    self.overlay.put(uid, node);
                }
                Ok(())
            }
        }
    }

    /// A directory's synced row is gone, or it was made anew: what still has a row below it is gone from the disk, and said
    /// so itself from now on.
    pub(crate) fn children_gone(&mut self, store: &mut dyn TreeStore, dir: NodeUid) -> Result<(), TreeError> {
        let mut after = None;
        while let Some(rows) = self.rows_alone(store, dir, &mut after)? {
            for (child, row) in rows {
                self.overlay.put_gone(child, row.content.kind() == polder_types::Kind::Directory);
                self.changed(child);
            }
        }
        Ok(())
    }

    /// The next synced rows below a directory, those of nodes that have no state of their own in the overlay. Some
    /// pages have none; `None` is the end. `after` is where this one began, and then where the next one begins.
    pub(crate) fn rows_alone(
        &self,
        store: &dyn TreeStore,
        dir: NodeUid,
        after: &mut Option<Box<[u8]>>,
    ) -> Result<Option<Vec<(NodeUid, SyncedNode)>>, TreeError> {
        let children = store.synced_children(dir, after.as_deref(), ROWS_PAGE)?;
        let Some(last) = children.last() else { return Ok(None) };
        *after = store.synced(*last)?.map(|row| self.overlay.key(&row.at).1);
        let mut rows = Vec::new();
        for child in children {
            if self.overlay.get(child).is_none()
                && let Some(row) = store.synced(child)?
            {
                rows.push((child, row));
            }
        }
        Ok(Some(rows))
    }
}
