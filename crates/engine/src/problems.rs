//! Items that are not in sync although they were tried, and names that are left out: bounded lists, exact counts.

use std::collections::BTreeMap;

use polder_types::{NodeUid, RelPath};

use crate::{PROBLEMS_LISTED_MAX, Problem, Reason, SkipReason, Skipped};

/// What people are to be told about single items.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    items: BTreeMap<NodeUid, Problem>,
    /// What the service says of these is not believed: apart from the others, because no work on the node ends it.
    untrue: BTreeMap<NodeUid, Problem>,
    /// Directories that cannot be read: only that they can be read again ends it, whatever becomes of the node.
    unreadable: BTreeMap<NodeUid, Problem>,
    skipped: BTreeMap<RelPath, SkipReason>,
    /// Skipped names beyond the list.
    skipped_more: u64,
    pub(crate) changed: bool,
}

impl Problems {
    pub(crate) fn add(&mut self, uid: NodeUid, path: RelPath, reason: Reason, text: Box<str>, unix_ms: u64) {
        self.changed = true;
        put(&mut self.items, uid, path, reason, text, unix_ms);
    }

    /// What is said of the node is not believed.
    pub(crate) fn refuse(
        &mut self,
        uid: NodeUid,
        path: RelPath,
        reason: Reason,
        text: Box<str>,
        unix_ms: u64,
    ) {
        self.changed = true;
        put(&mut self.untrue, uid, path, reason, text, unix_ms);
    }

    /// A directory cannot be read.
    pub(crate) fn unreadable(&mut self, uid: NodeUid, path: RelPath, text: Box<str>, unix_ms: u64) {
        self.changed = true;
        put(&mut self.unreadable, uid, path, Reason::DirUnreadable, text, unix_ms);
    }

    /// It can be read again, or is gone.
    pub(crate) fn readable(&mut self, uid: NodeUid) {
        self.changed |= self.unreadable.remove(&uid).is_some();
    }

    /// A node has another id from now on.
    pub(crate) fn rekey(&mut self, from: NodeUid, to: NodeUid) {
        self.solved(from);
        if let Some(problem) = self.unreadable.remove(&from) {
            self.changed = true;
            self.unreadable.insert(to, Problem { uid: to, ..problem });
        }
    }

    /// A sound word about the node came.
    pub(crate) fn believe(&mut self, uid: NodeUid) {
        self.changed |= self.untrue.remove(&uid).is_some();
    }

    pub(crate) fn solved(&mut self, uid: NodeUid) {
        if !self.items.is_empty() && self.items.remove(&uid).is_some() {
            self.changed = true;
        }
    }

    pub(crate) fn count(&self) -> u64 {
        self.of_work() + self.untrue.len() as u64
    }

    /// Those of nodes that there is something to do about.
    pub(crate) fn of_work(&self) -> u64 {
        (self.items.len() + self.unreadable.len()) as u64
    }

    /// The oldest problems.
    pub(crate) fn listed(&self) -> Vec<Problem> {
        let mut all: Vec<&Problem> =
            self.items.values().chain(self.untrue.values()).chain(self.unreadable.values()).collect();
        all.sort_by_key(|problem| (problem.since_unix_ms, problem.uid));
        all.into_iter().take(PROBLEMS_LISTED_MAX).cloned().collect()
    }

    pub(crate) fn skip(&mut self, path: RelPath, why: SkipReason) {
        if self.skipped.len() < PROBLEMS_LISTED_MAX || self.skipped.contains_key(&path) {
            self.changed |= self.skipped.insert(path, why) != Some(why);
        } else {
            self.changed = true;
            self.skipped_more += 1;
        }
    }

    pub(crate) fn skipped_count(&self) -> u64 {
        self.skipped.len() as u64 + self.skipped_more
    }

    pub(crate) fn skipped(&self) -> Vec<Skipped> {
        self.skipped.iter().map(|(path, why)| Skipped { path: path.clone(), why: *why }).collect()
    }
}

fn put(
    items: &mut BTreeMap<NodeUid, Problem>,
    uid: NodeUid,
    path: RelPath,
    reason: Reason,
    text: Box<str>,
    unix_ms: u64,
) {
    let item = items.entry(uid).or_insert(Problem {
        uid,
        path: RelPath::root(),
        reason,
        text: "".into(),
        since_unix_ms: unix_ms,
        tries: 0,
    });
    item.path = path;
    item.reason = reason;
    item.text = text;
    item.tries = item.tries.saturating_add(1);
}
