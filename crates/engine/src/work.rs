//! Which nodes need work, and what each of them waits for.
//!
//! A node is here from the moment that something about it changed until it agrees on both sides; it is in one state,
//! so it is never in two jobs. Nodes of a large backlog of the share are not here: they stay in the store until there
//! is room (`cloud_changed`).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use polder_types::NodeUid;

use crate::JobId;

/// What a node waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// To be planned.
    Fresh,
    /// A moment: a vanished name, a hot file, a back-off.
    Until(u64, Why),
    /// Another node.
    On(NodeUid),
    /// Something else to change; looked at again now and then.
    Held,
    /// A person, who lets go of the brake.
    Braked,
    /// A place in a lane.
    Queued,
    /// A job's answer.
    Job(JobId),
    /// The feed: it was refused, so the service knows more than we do.
    AfterCut,
}

/// Why a node waits for a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// Its name vanished, or it is a file that left its agreed place.
    Vanished,
    /// It was uploaded a moment ago.
    Hot,
    /// It failed.
    Failed,
}

#[derive(Debug, Clone)]
struct Item {
    state: State,
    /// Changed while in a job or queue.
    again: bool,
    /// Failures in a row.
    tries: u32,
    /// Waits in a row.
    waits: u32,
    /// Whether somebody probably waits for it: it goes ahead of what comes in bulk.
    urgent: bool,
}

impl Item {
    const NEW: Self = Self { state: State::Held, again: false, tries: 0, waits: 0, urgent: false };
}

/// So many nodes may be urgent at one time. What comes in larger numbers is bulk: nobody waits for a single one of it.
const URGENT_MAX: usize = 512;

/// So many nodes that wait for each other are planned together at once. Longer chains wait until nothing else goes on.
const CIRCLE_MAX: usize = 64;

/// All nodes in work.
#[derive(Debug, Default)]
pub(crate) struct Work {
    items: BTreeMap<NodeUid, Item>,
    fresh: VecDeque<NodeUid>,
    /// Fresh nodes that are urgent. They may be in `fresh` too, from before they were.
    urgent: VecDeque<NodeUid>,
    urgent_count: usize,
    timers: BTreeSet<(u64, NodeUid)>,
    waiters: BTreeMap<NodeUid, BTreeSet<NodeUid>>,
    after_cut: BTreeSet<NodeUid>,
    /// Nodes queued or in jobs.
    running: usize,
    /// When the oldest fresh node became so.
    fresh_since: Option<u64>,
}

impl Work {
    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    pub(crate) fn uids(&self) -> impl Iterator<Item = NodeUid> {
        self.items.keys().copied()
    }

    pub(crate) fn contains(&self, uid: NodeUid) -> bool {
        self.items.contains_key(&uid)
    }

    pub(crate) fn state(&self, uid: NodeUid) -> Option<State> {
        self.items.get(&uid).map(|item| item.state)
    }

    pub(crate) fn tries(&self, uid: NodeUid) -> u32 {
        self.items.get(&uid).map_or(0, |item| item.tries)
    }

    pub(crate) fn fresh_count(&self) -> usize {
        self.fresh.len() + self.urgent.len()
    }

    /// How many urgent nodes are to be planned.
    pub(crate) fn urgent_fresh_count(&self) -> usize {
        self.urgent.len()
    }

    pub(crate) fn is_urgent(&self, uid: NodeUid) -> bool {
        self.items.get(&uid).is_some_and(|item| item.urgent)
    }

    /// Somebody probably waits for a node that is in work: until it is done it goes ahead of others.
    pub(crate) fn hurry(&mut self, uid: NodeUid) {
        if self.urgent_count >= URGENT_MAX {
            return;
        }
        let Some(item) = self.items.get_mut(&uid).filter(|item| !item.urgent) else { return };
        item.urgent = true;
        self.urgent_count += 1;
        if item.state == State::Fresh {
            self.urgent.push_back(uid);
        }
    }

    pub(crate) fn fresh_since(&self) -> Option<u64> {
        self.fresh_since
    }

    /// How many nodes are queued or in jobs.
    pub(crate) fn running(&self) -> usize {
        self.running
    }

    /// Whether a node must not be planned: it has work in flight or is not settled.
    pub(crate) fn is_busy(&self, uid: NodeUid) -> bool {
        matches!(self.state(uid), Some(State::Until(..) | State::Queued | State::Job(_) | State::AfterCut))
    }

    /// Whether something is being done about a node, or was, and what came of it is not known yet. What only waits may be another one by now.
    pub(crate) fn is_under_way(&self, uid: NodeUid) -> bool {
        matches!(self.state(uid), Some(State::Queued | State::Job(_) | State::AfterCut))
    }

    fn set(&mut self, uid: NodeUid, state: State) {
        let item = self.items.entry(uid).or_insert(Item::NEW);
        let old = std::mem::replace(&mut item.state, state);
        let was_running = matches!(old, State::Queued | State::Job(_));
        let is_running = matches!(state, State::Queued | State::Job(_));
        match old {
            State::Until(at, _) => drop(self.timers.remove(&(at, uid))),
            State::On(other) => self.drop_waiter(other, uid),
            State::AfterCut => drop(self.after_cut.remove(&uid)),
            State::Queued | State::Job(_) | State::Fresh | State::Held | State::Braked => (),
        }
        self.running = self.running + usize::from(is_running) - usize::from(was_running);
        match state {
            State::Until(at, _) => drop(self.timers.insert((at, uid))),
            State::On(other) => drop(self.waiters.entry(other).or_default().insert(uid)),
            State::AfterCut => drop(self.after_cut.insert(uid)),
            State::Queued | State::Job(_) | State::Fresh | State::Held | State::Braked => (),
        }
    }

    fn drop_waiter(&mut self, on: NodeUid, uid: NodeUid) {
        if let Some(uids) = self.waiters.get_mut(&on) {
            uids.remove(&uid);
            if uids.is_empty() {
                self.waiters.remove(&on);
            }
        }
    }

    fn push_fresh(&mut self, uid: NodeUid, now: u64) {
        // A node may be in the queue from before; entries whose node is not fresh any more are passed over.
        if self.state(uid) != Some(State::Fresh) {
            self.set(uid, State::Fresh);
            if self.is_urgent(uid) {
                self.urgent.push_back(uid);
            } else {
                self.fresh.push_back(uid);
            }
            self.fresh_since.get_or_insert(now);
        }
    }

    /// Something about a node changed. Waits for moments stay as they are.
    pub(crate) fn touch(&mut self, uid: NodeUid, now: u64) {
        match self.items.get_mut(&uid) {
            Some(item) if matches!(item.state, State::Queued | State::Job(_)) => item.again = true,
            Some(item) if matches!(item.state, State::Until(..) | State::AfterCut) => (),
            Some(item) if item.state == State::Fresh => (),
            Some(_) => self.push_fresh(uid, now),
            None => {
                self.items.insert(uid, Item::NEW);
                self.push_fresh(uid, now);
            }
        }
    }

    /// Puts a node into a waiting or running state.
    pub(crate) fn put(&mut self, uid: NodeUid, state: State) {
        debug_assert!(state != State::Fresh, "fresh nodes are queued");
        self.set(uid, state);
    }

    /// A node that could not go on with its plan waits a little, unless it is busy already.
    pub(crate) fn put_off(&mut self, uid: NodeUid, until: u64) {
        if !self.is_busy(uid) {
            self.set(uid, State::Until(until, Why::Failed));
        }
    }

    /// A node need not wait for its name any longer.
    pub(crate) fn release(&mut self, uid: NodeUid, now: u64) {
        if matches!(self.state(uid), Some(State::Until(_, Why::Vanished))) {
            self.push_fresh(uid, now);
        }
    }

    /// A job of the node is over, or it was planned: what waits for it goes on, itself too if `more` or if it
    /// changed meanwhile; else it is forgotten.
    pub(crate) fn finish(&mut self, uid: NodeUid, more: bool, now: u64) {
        let again = self.items.get_mut(&uid).is_some_and(|item| std::mem::take(&mut item.again));
        if more || again {
            self.push_fresh(uid, now);
        } else {
            self.remove(uid);
        }
        self.wake_waiters(uid, now);
    }

    /// Forgets a node that is to be planned although nothing is to be done about it.
    pub(crate) fn remove_fresh(&mut self, uid: NodeUid) {
        if self.state(uid) == Some(State::Fresh) {
            self.remove(uid);
        }
    }

    /// Forgets a node.
    pub(crate) fn remove(&mut self, uid: NodeUid) {
        if self.items.contains_key(&uid) {
            self.set(uid, State::Held);
            let was = self.items.remove(&uid);
            self.urgent_count -= usize::from(was.is_some_and(|item| item.urgent));
        }
    }

    pub(crate) fn wake_waiters(&mut self, on: NodeUid, now: u64) {
        for uid in self.waiters.remove(&on).unwrap_or_default() {
            if self.state(uid) == Some(State::On(on)) {
                self.push_fresh(uid, now);
            }
        }
    }

    /// A job was done: what failed before is forgiven.
    pub(crate) fn succeeded(&mut self, uid: NodeUid) {
        if let Some(item) = self.items.get_mut(&uid) {
            item.tries = 0;
            item.waits = 0;
        }
    }

    /// Counts a failure; the number so far.
    pub(crate) fn failed(&mut self, uid: NodeUid) -> u32 {
        let item = self.items.entry(uid).or_insert(Item::NEW);
        item.again = false;
        item.tries = item.tries.saturating_add(1);
        item.tries
    }

    /// Takes at most `count_max` fresh nodes, urgent ones first, else oldest first. The caller gives each a new state or
    /// forgets it.
    pub(crate) fn take_fresh(&mut self, count_max: usize, urgent_alone: bool) -> Vec<NodeUid> {
        let mut taken = Vec::new();
        while taken.len() < count_max {
            let next = self.urgent.pop_front();
            let next = next.or_else(|| if urgent_alone { None } else { self.fresh.pop_front() });
            let Some(uid) = next else { break };
            if self.state(uid) == Some(State::Fresh) {
                self.set(uid, State::Held);
                taken.push(uid);
            }
        }
        if self.fresh_count() == 0 {
            self.fresh_since = None;
        }
        taken
    }

    /// Nodes whose moment has come.
    pub(crate) fn expire(&mut self, now: u64) -> Vec<(NodeUid, Why)> {
        let due: Vec<_> = self.timers.range(..=(now, NodeUid([0xff; 16]))).map(|(_, uid)| *uid).collect();
        let mut out = Vec::with_capacity(due.len());
        for uid in due {
            let Some(State::Until(_, why)) = self.state(uid) else { continue };
            self.push_fresh(uid, now);
            out.push((uid, why));
        }
        out
    }

    /// The next moment that a node waits for.
    pub(crate) fn next_timer(&self) -> Option<u64> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// A new cut of the feed was reached: what was refused is planned again.
    pub(crate) fn cut_reached(&mut self, now: u64) {
        for uid in std::mem::take(&mut self.after_cut) {
            self.push_fresh(uid, now);
        }
    }

    /// Whether anything waits for the feed.
    pub(crate) fn waits_for_cut(&self) -> bool {
        !self.after_cut.is_empty()
    }

    /// Those who wait for each other if a node waits for `on`, itself left out; none if that leads back to nobody.
    pub(crate) fn circle(&self, uid: NodeUid, on: NodeUid) -> Vec<NodeUid> {
        let (mut circle, mut at) = (vec![on], on);
        while let Some(State::On(next)) = self.state(at) {
            if next == uid {
                return circle;
            }
            if circle.len() >= CIRCLE_MAX {
                break;
            }
            circle.push(next);
            at = next;
        }
        Vec::new()
    }

    /// Counts that a node waits for another one; how often in a row.
    pub(crate) fn waited(&mut self, uid: NodeUid) -> u32 {
        self.items.get_mut(&uid).map_or(0, |item| {
            item.waits += 1;
            item.waits
        })
    }

    /// What is held or waits for others is planned again.
    pub(crate) fn retry_waiting(&mut self, now: u64) {
        let waiting: Vec<_> = self
            .items
            .iter_mut()
            .filter(|(_, item)| matches!(item.state, State::Held | State::On(_)))
            .map(|(uid, item)| {
                item.waits = 0;
                *uid
            })
            .collect();
        waiting.into_iter().for_each(|uid| self.push_fresh(uid, now));
    }

    /// Everything that waits for a back-off or is held is tried now.
    pub(crate) fn retry_all(&mut self, now: u64) {
        let stuck: Vec<_> = self
            .items
            .iter()
            .filter(|(_, item)| {
                matches!(item.state, State::Until(_, Why::Failed) | State::Held | State::On(_))
            })
            .map(|(uid, _)| *uid)
            .collect();
        stuck.into_iter().for_each(|uid| self.push_fresh(uid, now));
    }

    /// Nodes that wait for others or for a change, to be looked at again when nothing else goes on.
    pub(crate) fn stuck(&self) -> bool {
        self.items.values().any(|item| matches!(item.state, State::Held | State::On(_)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uid(number: usize) -> NodeUid {
        let mut bytes = [0; 16];
        bytes[8..].copy_from_slice(&(number as u64).to_be_bytes());
        NodeUid(bytes)
    }

    fn work(count: usize) -> Work {
        let mut work = Work::default();
        (0..count).for_each(|at| work.touch(uid(at), 0));
        work
    }

    #[test]
    fn what_is_urgent_is_planned_first_and_once() {
        let mut work = work(5);
        work.hurry(uid(3));
        work.hurry(uid(3));
        assert_eq!(work.take_fresh(10, true), [uid(3)]);
        assert_eq!(work.take_fresh(10, false), [uid(0), uid(1), uid(2), uid(4)]);
        assert_eq!(work.fresh_count(), 0);
    }

    #[test]
    fn it_stays_urgent_until_it_is_done() {
        let mut work = work(2);
        work.hurry(uid(1));
        for _ in 0..3 {
            assert_eq!(work.take_fresh(1, false), [uid(1)]);
            work.put(uid(1), State::Queued);
            work.finish(uid(1), true, 0);
        }
        assert_eq!(work.take_fresh(1, false), [uid(1)]);
        work.finish(uid(1), false, 0);
        work.touch(uid(1), 0);
        assert_eq!(work.take_fresh(10, true), []);
    }

    #[test]
    fn a_storm_is_bulk() {
        let mut work = work(URGENT_MAX + 10);
        (0..URGENT_MAX + 10).for_each(|at| work.hurry(uid(at)));
        assert_eq!(work.take_fresh(usize::MAX, true).len(), URGENT_MAX);
        (0..URGENT_MAX + 10).for_each(|at| work.remove(uid(at)));
        assert_eq!(work.urgent_count, 0);
    }
}
