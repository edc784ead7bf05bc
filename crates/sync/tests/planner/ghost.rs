//! The ghost log: every content that a user ever wrote, and which of them a user who had seen it replaced or deleted.

use std::collections::{BTreeMap, BTreeSet};

use crate::world::{World, number_of};

/// Contents from this number on may be written more than once, so that both sides make equal edits; the log does not
/// follow them.
pub const SHARED: u64 = 1_000_000;

#[derive(Debug, Clone, Default)]
pub struct Ghost {
    written: BTreeSet<u64>,
    replaced: BTreeSet<u64>,
    deleted: BTreeSet<u64>,
    next: u64,
}

impl Ghost {
    /// A content that nobody has written before.
    pub fn write(&mut self) -> u64 {
        self.next += 1;
        self.written.insert(self.next);
        self.next
    }

    pub fn replace(&mut self, content: Option<u64>) {
        self.replaced.extend(content);
    }

    pub fn delete(&mut self, content: Option<u64>) {
        self.deleted.extend(content);
    }

    /// What is on either side now does not count as deleted: nothing may be deleted any more.
    pub fn forbid_deletes(&mut self, world: &World) {
        let disk = world.disk.keys().filter_map(|uid| world.content_on_disk(*uid));
        let share = world.share.values().map(|node| &node.content);
        disk.chain(share).filter_map(number_of).for_each(|number| {
            self.deleted.remove(&number);
        });
    }

    /// Promise I1, on equal trees: what was written is there, or was replaced by somebody who had seen it; at most so often.
    pub fn ensure_kept(&self, world: &World, copies_max: usize) {
        let mut live: BTreeMap<u64, usize> = BTreeMap::new();
        for number in world.share.values().filter_map(|node| number_of(&node.content)) {
            *live.entry(number).or_default() += 1;
        }
        for number in &self.written {
            let gone = self.replaced.contains(number) || self.deleted.contains(number);
            let count = live.get(number).copied().unwrap_or(0);
            assert!(gone || count > 0, "the content {number} is lost");
            assert!(count <= copies_max, "the content {number} is there {count} times");
        }
    }
}
