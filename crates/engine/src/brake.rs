//! The mass-change brake (promise I18): outgoing deletes, overwrites and renames are counted per window, and held once
//! there are too many. Creating new files is never held.
//!
//! Counted are items, not operations. Items that others made count from the settings' bound on; those that this server
//! made itself, which its users churn every day, from the ceiling on.

use std::collections::{BTreeMap, BTreeSet};

use polder_sync::{Change, PlannedGroup};
use polder_types::NodeUid;

use crate::{BrakeSettings, Held};

/// What a counted operation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Counted {
    Delete,
    Overwrite,
    Rename,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Mode {
    /// Counting.
    #[default]
    Watching,
    /// Too many: held until somebody decides.
    Tripped,
    /// Let go until this moment.
    Accepting(u64),
    /// What is held is thrown back, until nothing comes any more.
    Reverting,
}

/// The brake of one endpoint.
#[derive(Debug, Default)]
pub(crate) struct Brake {
    mode: Mode,
    /// Items of the window: when they left, whose they are.
    seen: BTreeMap<NodeUid, (u64, bool)>,
    order: BTreeSet<(u64, NodeUid)>,
    others: u64,
    held: BTreeMap<NodeUid, Counted>,
}

/// What is to be done with a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Go,
    Hold,
    Revert,
}

impl Brake {
    fn expire(&mut self, now: u64, settings: &BrakeSettings) {
        while let Some((at, uid)) = self.order.first().copied()
            && at + settings.window_ms <= now
        {
            self.order.pop_first();
            if let Some((_, ours)) = self.seen.remove(&uid) {
                self.others -= u64::from(!ours);
            }
        }
        if matches!(self.mode, Mode::Accepting(until) if until <= now) {
            self.mode = Mode::Watching;
        }
    }

    /// Judges a group before it may leave. `is_ours` tells items that this server made.
    pub(crate) fn judge(
        &mut self,
        group: &PlannedGroup,
        is_ours: &dyn Fn(NodeUid) -> bool,
        item_count: u64,
        now: u64,
        settings: &BrakeSettings,
    ) -> Verdict {
        let counted: Vec<(NodeUid, Counted)> =
            group.ops.iter().filter_map(|op| count(&op.change).map(|what| (op.uid, what))).collect();
        if counted.is_empty() {
            return Verdict::Go;
        }
        self.expire(now, settings);
        match self.mode {
            Mode::Reverting => return Verdict::Revert,
            Mode::Accepting(_) => return Verdict::Go,
            Mode::Watching | Mode::Tripped => (),
        }
        let fresh: Vec<_> = counted.iter().filter(|(uid, _)| !self.seen.contains_key(uid)).collect();
        let others = self.others + fresh.iter().filter(|(uid, _)| !is_ours(*uid)).count() as u64;
        let all = self.seen.len() as u64 + fresh.len() as u64;
        let ceiling = settings.ceiling.max(settings.floor);
        let over = others > settings.allowed(item_count) || all > ceiling;
        if over || (self.mode == Mode::Tripped && !fresh.is_empty()) {
            self.mode = Mode::Tripped;
            self.held.extend(counted);
            return Verdict::Hold;
        }
        for (uid, _) in fresh {
            let ours = is_ours(*uid);
            self.others += u64::from(!ours);
            self.seen.insert(*uid, (now, ours));
            self.order.insert((now, *uid));
        }
        Verdict::Go
    }

    /// Lets everything go for one window.
    pub(crate) fn accept(&mut self, now: u64, window_ms: u64) {
        self.mode = Mode::Accepting(now + window_ms);
        self.seen.clear();
        self.order.clear();
        self.others = 0;
    }

    /// Throws back what is held.
    pub(crate) fn revert(&mut self) {
        if self.mode == Mode::Tripped {
            self.mode = Mode::Reverting;
        }
    }

    /// Nothing comes any more: back to counting.
    pub(crate) fn calm(&mut self) {
        if self.mode == Mode::Reverting {
            self.mode = Mode::Watching;
            self.seen.clear();
            self.order.clear();
            self.others = 0;
        }
    }

    pub(crate) fn is_reverting(&self) -> bool {
        self.mode == Mode::Reverting
    }

    /// Nodes that were held; the caller plans them again.
    pub(crate) fn take_held(&mut self) -> Vec<NodeUid> {
        std::mem::take(&mut self.held).into_keys().collect()
    }

    /// A node is not held any more (it agrees, or changed).
    pub(crate) fn forget(&mut self, uid: NodeUid) {
        self.held.remove(&uid);
        // Everything that was held went away by itself.
        if self.mode == Mode::Tripped && self.held.is_empty() {
            self.mode = Mode::Watching;
        }
    }

    /// What status says.
    pub(crate) fn status(&self, item_count: u64, settings: &BrakeSettings) -> Option<Held> {
        if self.mode != Mode::Tripped {
            return None;
        }
        let count = |what| self.held.values().filter(|counted| **counted == what).count() as u64;
        Some(Held {
            deletes: count(Counted::Delete),
            overwrites: count(Counted::Overwrite),
            renames: count(Counted::Rename),
            allowed: settings.allowed(item_count),
            by_service: false,
        })
    }
}

fn count(change: &Change) -> Option<Counted> {
    match change {
        Change::Delete { .. } => Some(Counted::Delete),
        Change::Update { content: Some(_), .. } => Some(Counted::Overwrite),
        Change::Move { .. } => Some(Counted::Rename),
        Change::Create { .. } | Change::Revive { .. } | Change::Update { content: None, .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use polder_sync::{Becomes, PlannedOp, Reason};
    use polder_types::{Content, Seq};

    use super::*;

    const SETTINGS: BrakeSettings = BrakeSettings { window_ms: 1000, floor: 10, ceiling: 100, one_in: 10 };
    const OURS: u8 = 200;

    fn group(n: u8, change: Change) -> PlannedGroup {
        let op =
            PlannedOp { uid: NodeUid([n; 16]), change, why: Reason::EditedHere, becomes: Becomes::Unchanged };
        PlannedGroup { ops: vec![op], after: Vec::new() }
    }

    fn delete(n: u8) -> PlannedGroup {
        group(n, Change::Delete { base: Seq(1) })
    }

    fn overwrite(n: u8) -> PlannedGroup {
        let content = Some(Content::empty_file());
        group(n, Change::Update { base: Seq(1), content, attrs: None, mtime: None })
    }

    /// Judges one group of a server with 100 items, those from `OURS` on its own.
    fn judge(brake: &mut Brake, group: &PlannedGroup, now: u64) -> Verdict {
        brake.judge(group, &|uid| uid.0[0] >= OURS, 100, now, &SETTINGS)
    }

    /// A brake that has held the eleventh of eleven overwrites.
    fn tripped() -> Brake {
        let mut brake = Brake::default();
        for n in 0..10 {
            assert_eq!(judge(&mut brake, &overwrite(n), 0), Verdict::Go, "{n}");
        }
        assert_eq!(judge(&mut brake, &overwrite(10), 0), Verdict::Hold);
        brake
    }

    /// Scenario 107: when everything is overwritten, a few leave, the rest is held until somebody decides, and new files
    /// go on.
    #[test]
    fn s107_too_many_changes_of_what_others_made_are_held() {
        let mut brake = tripped();
        assert_eq!(judge(&mut brake, &delete(11), 0), Verdict::Hold);
        assert_eq!(judge(&mut brake, &overwrite(3), 0), Verdict::Go, "counted already");
        let again = Change::Update { base: Seq(1), content: None, attrs: None, mtime: None };
        assert_eq!(judge(&mut brake, &group(12, again), 0), Verdict::Go, "no content");
        let held = brake.status(100, &SETTINGS).expect("held");
        assert_eq!((held.overwrites, held.deletes, held.renames, held.allowed), (1, 1, 0, 10));
        // Waiting is no consent: in the next window it is still held, and so is what comes.
        assert_eq!(judge(&mut brake, &delete(13), 5000), Verdict::Hold);
        assert_eq!(brake.take_held().len(), 3);
    }

    #[test]
    fn what_trickles_is_never_held() {
        let mut brake = Brake::default();
        for n in 0..100u8 {
            let at = u64::from(n) * 101;
            assert_eq!(judge(&mut brake, &delete(n), at), Verdict::Go, "{n}");
        }
        assert_eq!(brake.status(100, &SETTINGS), None);
    }

    #[test]
    fn what_this_server_made_counts_up_to_the_ceiling() {
        let settings = BrakeSettings { ceiling: 30, ..SETTINGS };
        let mut brake = Brake::default();
        let mut judge = |n| brake.judge(&delete(n), &|uid| uid.0[0] >= OURS, 100, 0, &settings);
        for n in OURS..OURS + 30 {
            assert_eq!(judge(n), Verdict::Go, "{n}");
        }
        assert_eq!(judge(OURS + 30), Verdict::Hold);
    }

    #[test]
    fn what_is_let_go_goes_for_one_window() {
        let mut brake = tripped();
        brake.accept(100, SETTINGS.window_ms);
        for n in 10..60 {
            assert_eq!(judge(&mut brake, &overwrite(n), 1099), Verdict::Go);
        }
        // What was let go does not count afterwards.
        for n in 60..70 {
            assert_eq!(judge(&mut brake, &delete(n), 1100), Verdict::Go);
        }
        assert_eq!(judge(&mut brake, &delete(70), 1100), Verdict::Hold);
    }

    #[test]
    fn what_is_thrown_back_never_leaves_and_then_it_counts_again() {
        let mut brake = tripped();
        brake.revert();
        assert!(brake.is_reverting());
        assert_eq!(judge(&mut brake, &overwrite(10), 0), Verdict::Revert);
        brake.calm();
        assert_eq!(judge(&mut brake, &overwrite(20), 0), Verdict::Go);
        // Without anything held there is nothing to throw back.
        brake.revert();
        assert!(!brake.is_reverting());
    }

    #[test]
    fn what_goes_away_by_itself_is_held_no_more() {
        let mut brake = tripped();
        brake.forget(NodeUid([10; 16]));
        assert_eq!(brake.status(100, &SETTINGS), None);
        assert_eq!(judge(&mut brake, &delete(11), 1000), Verdict::Go);
    }
}
