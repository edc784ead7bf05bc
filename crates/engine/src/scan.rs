//! Scans: walks that compare directories with the synced rows, bounded by credit so that the overlay stays bounded.
//!
//! Nothing that a walk misses counts by itself: each missing name is looked at, and then waits until no walk runs or
//! is wanted, because what is missing here may turn up there.

use std::collections::{BTreeMap, BTreeSet};

use polder_sync::{TreeError, TreeStore, Trees};
use polder_types::{
    FileIdent, NodeUid, Placed, RelPath,
    zoo::{Bug, planted},
};

use crate::engine::Engine;
use crate::observe::Sight;
use crate::overlay::View;
use crate::{Effect, Failure, JobId, ListEnd, ListPart, Settings};

/// Walks of single directories at once, beside one of everything.
const LISTS_MAX: usize = 4;
/// Differences that such a walk may send at first.
const LIST_CREDIT: u32 = 2_000;
/// When a walk that was broken off is begun again, and a directory that cannot be read is tried again.
const AGAIN_MS: u64 = 1_000;
const FROZEN_MS: u64 = 30_000;
/// Unknown directories that are remembered while walks run; more lead to a walk of everything.
const STRANGERS_MAX: usize = 10_000;

/// Walks wanted and in flight, and what cannot be read.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    wanted: bool,
    not_before: u64,
    /// Directories to be listed, and whether with everything below.
    lists: BTreeMap<NodeUid, bool>,
    walks: BTreeMap<JobId, Walk>,
    last_full: Option<u64>,
    /// Whether everything was seen once in this life (or since the root came back).
    pub(crate) done_once: bool,
    pub(crate) entry_count: u64,
    /// Directories that cannot be read, and when they are tried again.
    frozen: BTreeMap<NodeUid, u64>,
    /// Directories that hints named before anybody knew them, while walks were in flight.
    strangers: BTreeSet<FileIdent>,
    /// A walk has ended since they were last asked for.
    strangers_due: bool,
    /// Jobs from this one on were begun after the last walk had ended.
    since_walk: JobId,
    /// Directories of which a listing came to nothing, until one is whole.
    void: BTreeMap<NodeUid, Void>,
    /// Set while facts of a walk are taken: it goes down by itself.
    inside: bool,
}

/// A directory that was moved or changed while it was listed.
#[derive(Debug, Default)]
struct Void {
    /// How often in a row.
    count: u32,
    /// Whether what lies deeper is to be listed as well: it was passed over with it.
    recursive: bool,
    /// When it is listed again, unless that is under way.
    at: Option<u64>,
}

#[derive(Debug)]
struct Walk {
    full: bool,
    recursive: bool,
    credit: Credit,
}

/// How many differences a walk may still send.
#[derive(Debug)]
struct Credit {
    full: i64,
    /// Below zero when a part was larger than what was left, as the walk counts it too: a debt that one side forgets
    /// would stall the walk in the end.
    left: i64,
}

impl Credit {
    fn new(full: u32) -> Self {
        Self { full: full.into(), left: full.into() }
    }

    fn spend(&mut self, cost: usize) {
        self.left -= cost as i64;
    }

    /// What the walk is granted now, with `room` for that many.
    fn grant(&mut self, room: u32) -> Option<u32> {
        if self.left >= self.full / 4 {
            return None;
        }
        let more = (self.full - self.left).min(room.into());
        self.left += more;
        u32::try_from(more).ok().filter(|more| *more > 0)
    }
}

impl Scan {
    pub(crate) fn want_all(&mut self) {
        self.wanted = true;
    }

    pub(crate) fn jobs(&self) -> impl Iterator<Item = JobId> {
        self.walks.keys().copied()
    }

    /// A hint named a directory that nobody knows. A walk in flight may have listed its inside before what the hint is
    /// about, and told neither yet: then it is listed once more. A walk that begins later sees all by itself.
    pub(crate) fn hinted_stranger(&mut self, dir: FileIdent) {
        if self.walks.is_empty() || planted(Bug::StrangerForgotten) {
            return;
        }
        if self.strangers.len() < STRANGERS_MAX {
            self.strangers.insert(dir);
        } else {
            self.wanted = true;
        }
    }

    /// Whether walks run or are wanted: then what is missing may still turn up.
    pub(crate) fn is_open(&self) -> bool {
        let passed_over = self.void.values().any(|void| void.recursive);
        let begun = !self.lists.is_empty() || !self.walks.is_empty() || !self.strangers.is_empty();
        self.wanted || begun || passed_over
    }

    pub(crate) fn next_at(&self, settings: &Settings) -> Option<u64> {
        let full = self.walks.values().any(|walk| walk.full);
        let again = (self.wanted && !full).then_some(self.not_before);
        let slow = self.last_full.filter(|_| settings.rescan_ms > 0).map(|last| last + settings.rescan_ms);
        let frozen = self.frozen.values().min().copied();
        let void = self.void.values().filter_map(|void| void.at).min();
        [again, slow, frozen, void].into_iter().flatten().min()
    }

    /// A directory has another id from now on.
    pub(crate) fn rekey(&mut self, from: NodeUid, to: NodeUid) {
        if let Some(recursive) = self.lists.remove(&from) {
            *self.lists.entry(to).or_insert(false) |= recursive;
        }
        if let Some(at) = self.frozen.remove(&from) {
            self.frozen.insert(to, at);
        }
        if let Some(void) = self.void.remove(&from) {
            self.void.insert(to, void);
        }
    }

    pub(crate) fn frozen(&self) -> &BTreeMap<NodeUid, u64> {
        &self.frozen
    }
}

impl Engine {
    /// A directory is to be listed with everything below, unless a walk is doing so.
    pub(crate) fn want_list(&mut self, uid: NodeUid) {
        if !self.scan.inside {
            self.scan.lists.insert(uid, true);
        }
    }

    /// A walk has compared a directory with the rows of a node that it is not, or with none although it has rows: when it looked, the
    /// directory's identity was known as another one's or nobody's. What equals the other's rows, or is missing by its own, was not told.
    /// It is listed for itself, also while the walk goes on.
    fn compare_with_own_rows(
        &mut self,
        store: &dyn TreeStore,
        dir: NodeUid,
        rows: Option<NodeUid>,
    ) -> Result<(), TreeError> {
        let was_compared = match rows {
            Some(rows) => rows == dir || planted(Bug::WalkKnowsByInode),
            None => {
                store.synced_children(dir, None, 1)?.is_empty() || planted(Bug::ReplacedDirectoryNotCompared)
            }
        };
        if !was_compared {
            self.scan.lists.insert(dir, true);
        }
        Ok(())
    }

    /// A directory that we made is to be listed once: somebody may have put something into it before it was known here
    /// (and hints about directories that nobody knows are dropped).
    pub(crate) fn want_list_of_made(&mut self, uid: NodeUid) {
        if planted(Bug::MadeDirectoryNotListed) {
            return;
        }
        self.scan.lists.entry(uid).or_insert(false);
    }

    /// A job has taken a directory to another place, or has seen it there. A walk beside it may have passed it over in both.
    pub(crate) fn moved_beside_walk(&mut self, dir: NodeUid, job: JobId) {
        let beside = !self.scan.walks.is_empty() || job < self.scan.since_walk;
        if beside && !planted(Bug::WalkPassesTheMoved) {
            self.want_list(dir);
        }
    }

    pub(crate) fn rescan(&mut self, store: &mut dyn TreeStore, path: &RelPath) -> Result<(), TreeError> {
        let mut at = NodeUid::ROOT;
        for name in path.names() {
            let key = self.settings.case.key(name.as_bytes());
            match (View { store, overlay: &self.overlay }).local_at(at, &key)? {
                Some(uid) => at = uid,
                // What nobody knows yet is found from above.
                None => break,
            }
        }
        if at == NodeUid::ROOT {
            self.scan.want_all()
        } else {
            self.want_list(at)
        }
        Ok(())
    }

    pub(crate) fn pump_scan(&mut self, store: &mut dyn TreeStore) -> Result<(), TreeError> {
        let now = self.now.mono_ms;
        if self
            .scan
            .last_full
            .is_some_and(|last| self.settings.rescan_ms > 0 && last + self.settings.rescan_ms <= now)
        {
            self.scan.wanted = true;
        }
        let due: Vec<NodeUid> =
            self.scan.frozen.iter().filter(|(_, at)| **at <= now).map(|(uid, _)| *uid).collect();
        for uid in due {
            self.scan.frozen.insert(uid, now + FROZEN_MS);
            self.scan.lists.insert(uid, false);
        }
        for (uid, void) in &mut self.scan.void {
            if void.at.is_some_and(|at| at <= now) {
                void.at = None;
                *self.scan.lists.entry(*uid).or_insert(false) |= std::mem::take(&mut void.recursive);
            }
        }
        self.list_strangers(store)?;
        let full = self.scan.walks.values().any(|walk| walk.full);
        if self.scan.wanted && !full && self.scan.not_before <= now {
            self.scan.wanted = false;
            // A full walk sees what the single ones would.
            self.scan.lists.clear();
            self.walk(store, NodeUid::ROOT, true, true)?;
        }
        while self.scan.walks.len() < LISTS_MAX {
            let Some((uid, recursive)) = self.scan.lists.pop_first() else { break };
            self.walk(store, uid, false, recursive)?;
        }
        self.give_credit();
        Ok(())
    }

    /// Those that a walk has made known are listed; the rest waits for the other walks, and after them for a hint about
    /// the directory above.
    fn list_strangers(&mut self, store: &dyn TreeStore) -> Result<(), TreeError> {
        if !std::mem::take(&mut self.scan.strangers_due) {
            return Ok(());
        }
        for ident in std::mem::take(&mut self.scan.strangers) {
            match (View { store, overlay: &self.overlay }).by_ident(ident)? {
                Some(uid) => _ = self.scan.lists.insert(uid, true),
                None if !self.scan.walks.is_empty() => _ = self.scan.strangers.insert(ident),
                None => (),
            }
        }
        Ok(())
    }

    fn walk(
        &mut self,
        store: &mut dyn TreeStore,
        uid: NodeUid,
        full: bool,
        recursive: bool,
    ) -> Result<(), TreeError> {
        let Some(dir) = self.dir(store, uid)?.filter(|dir| dir.ident.is_some()) else {
            self.scan.frozen.remove(&uid);
            self.problems.readable(uid);
            self.scan.void.remove(&uid);
            return Ok(());
        };
        let credit = if full { self.settings.limits.overlay } else { LIST_CREDIT };
        let job = self.job();
        if full {
            self.look_anew(store, job)?;
        }
        self.scan.walks.insert(job, Walk { full, recursive, credit: Credit::new(credit) });
        self.out.push(Effect::List { job, dir, recursive, credit });
        Ok(())
    }

    /// Walks go on as the overlay empties.
    fn give_credit(&mut self) {
        let limit = self.settings.limits.overlay;
        let used = self.overlay.len() as u32;
        if used >= limit - limit / 4 {
            return;
        }
        for (job, walk) in &mut self.scan.walks {
            if let Some(more) = walk.credit.grant(limit - used) {
                self.out.push(Effect::Credit { job: *job, more });
            }
        }
    }

    pub(crate) fn listed(
        &mut self,
        store: &mut dyn TreeStore,
        job: JobId,
        parts: Vec<ListPart>,
    ) -> Result<(), TreeError> {
        let Some(walk) = self.scan.walks.get(&job) else { return Ok(()) };
        self.scan.inside = walk.recursive;
        let done = parts.into_iter().try_for_each(|part| self.part(store, job, part));
        self.scan.inside = false;
        done
    }

    fn part(&mut self, store: &mut dyn TreeStore, job: JobId, part: ListPart) -> Result<(), TreeError> {
        if let Some(walk) = self.scan.walks.get_mut(&job) {
            walk.credit.spend(part.differ.len() + part.missing.len());
        }
        let Some(dir) = (View { store, overlay: &self.overlay }).by_ident(part.dir)? else {
            if matches!(part.end, Some(ListEnd::Void | ListEnd::Gone)) {
                self.scan.hinted_stranger(part.dir);
            }
            return Ok(());
        };
        let mut names = BTreeSet::new();
        let mut sights: Vec<Sight> = Vec::with_capacity(part.differ.len());
        for entry in part.differ {
            let at = Placed { parent: dir, name: entry.seen.name.clone() };
            names.insert(self.overlay.key(&at).1);
            self.sight(job, at, Some(entry), false, &mut sights);
        }
        for sight in &sights {
            let key = self.overlay.key(&sight.at);
            self.looked_at(job, key);
        }
        self.observe(store, sights)?;
        match part.end {
            None => Ok(()),
            Some(ListEnd::Void) if !planted(Bug::VoidListingBelieved) => {
                self.list_again(dir, false);
                Ok(())
            }
            Some(ListEnd::Gone) => {
                self.list_again(dir, true);
                if let Some(node) = (View { store, overlay: &self.overlay }).local_row(dir)? {
                    self.looks.pend(node.at.parent, Some(node.at.name));
                }
                Ok(())
            }
            Some(ListEnd::Unreadable(why)) => self.freeze(store, dir, why),
            Some(ListEnd::Complete | ListEnd::Void) => {
                self.thaw(store, dir)?;
                self.scan.void.remove(&dir);
                self.compare_with_own_rows(store, dir, part.rows)?;
                let missing = if planted(Bug::MissingIgnored) { Vec::new() } else { part.missing };
                for uid in missing {
                    if self.overlay.get(uid).is_none()
                        && let Some(row) = store.synced(uid)?.filter(|row| row.at.parent == dir)
                    {
                        if planted(Bug::AbsenceIsDeletion) {
                            self.set_gone(store, uid)?;
                        }
                        self.looks.pend(dir, Some(row.at.name));
                    }
                }
                // What the overlay has here and the listing did not mention equals the synced rows again, or is gone.
                let silent: Vec<_> = self
                    .overlay
                    .children(dir)
                    .filter(|((_, key), _)| !names.contains(key))
                    .map(|(_, uid)| uid)
                    .collect();
                for uid in silent {
                    if let Some(Some(node)) = self.overlay.get(uid) {
                        self.looks.pend(dir, Some(node.at.name.clone()));
                    }
                }
                Ok(())
            }
        }
    }

    /// A listing of a directory came to nothing. A hint tells of what was changed meanwhile, but not of what else is there
    /// or missing. It is listed again: soon when it changed, after a look when it has left its place. One that changes all
    /// the time is listed less and less often.
    fn list_again(&mut self, dir: NodeUid, has_left: bool) {
        if planted(Bug::VoidNotListedAgain) {
            return;
        }
        let void = self.scan.void.entry(dir).or_default();
        void.count += 1;
        void.recursive |= has_left;
        if void.count == 1 && !has_left {
            self.scan.lists.entry(dir).or_insert(false);
        } else {
            let wait = AGAIN_MS.saturating_mul(1 << (void.count - 1).min(10)).min(FROZEN_MS * 2);
            void.at = Some(self.now.mono_ms + wait);
        }
    }

    pub(crate) fn list_done(
        &mut self,
        job: JobId,
        entry_count: u64,
        complete: bool,
    ) -> Result<(), TreeError> {
        let Some(walk) = self.scan.walks.remove(&job) else { return Ok(()) };
        self.scan.strangers_due = true;
        self.scan.since_walk = self.next_job();
        match (walk.full, complete) {
            (true, true) => {
                self.scan.last_full = Some(self.now.mono_ms);
                self.scan.entry_count = entry_count;
                self.scan.done_once = true;
                self.scan.void.retain(|_, void| void.at.is_some());
                self.session.backlog = true;
            }
            (_, false) => {
                self.scan.wanted = true;
                self.scan.not_before = self.now.mono_ms + AGAIN_MS;
            }
            (false, true) => (),
        }
        self.forget_touched();
        Ok(())
    }

    /// A directory cannot be read: nothing below it is deleted in the share or overwritten here.
    pub(crate) fn freeze(
        &mut self,
        store: &mut dyn TreeStore,
        dir: NodeUid,
        why: Failure,
    ) -> Result<(), TreeError> {
        self.scan.frozen.insert(dir, self.now.mono_ms + FROZEN_MS);
        let path = self.path(store, dir)?;
        self.problems.unreadable(dir, path, why.text, self.now.unix_ms);
        Ok(())
    }

    /// A directory that could not be read was seen with a change: it may be readable now, so it is tried at once.
    pub(crate) fn retry_frozen(&mut self, store: &dyn TreeStore, ident: FileIdent) -> Result<(), TreeError> {
        if self.scan.frozen.is_empty() {
            return Ok(());
        }
        let uid = (View { store, overlay: &self.overlay }).by_ident(ident)?;
        if let Some(at) = uid.and_then(|uid| self.scan.frozen.get_mut(&uid)) {
            *at = self.now.mono_ms;
        }
        Ok(())
    }

    fn thaw(&mut self, store: &dyn TreeStore, dir: NodeUid) -> Result<(), TreeError> {
        if self.scan.frozen.remove(&dir).is_none() {
            return Ok(());
        }
        self.problems.readable(dir);
        self.work.retry_all(self.now.mono_ms);
        self.session.backlog = true;
        // Only the directory itself was tried; what lies deeper was passed over with it.
        self.want_list(dir);
        self.look_anew_inside(store, dir)
    }

    /// Whether a node lies below a directory that cannot be read.
    pub(crate) fn is_frozen(
        frozen: &BTreeMap<NodeUid, u64>,
        view: &View<'_>,
        uid: NodeUid,
    ) -> Result<bool, TreeError> {
        let mut at = uid;
        for _ in 0..crate::overlay::DEPTH_MAX {
            if frozen.contains_key(&at) {
                return Ok(true);
            }
            if at == NodeUid::ROOT {
                return Ok(false);
            }
            at = match view.local_row(at)? {
                Some(node) => node.at.parent,
                None => match (view.synced(at)?, view.cloud(at)?) {
                    (Some(row), _) => row.at.parent,
                    // What stands in its place may be it, unknown as yet.
                    (None, Some(node)) => {
                        let stranger = view.stranger_at(&node.at)?;
                        let stranger = stranger.filter(|_| !planted(Bug::AdriftBesideStrangers));
                        stranger.unwrap_or(node.at.parent)
                    }
                    (None, None) => return Ok(false),
                },
            };
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::Credit;

    #[test]
    fn a_walk_whose_parts_overdraw_never_stands_still() {
        // The walk's side: a part goes out while anything is left, whatever its size.
        let (mut credit, mut walk) = (Credit::new(2000), 2000_i64);
        for part in 0..1000 {
            if walk <= 0 {
                walk += i64::from(credit.grant(10_000).unwrap_or(0));
            }
            assert!(walk > 0, "stands still after {part} parts");
            walk -= 1024;
            credit.spend(1024);
            walk += i64::from(credit.grant(10_000).unwrap_or(0));
        }
    }
}
