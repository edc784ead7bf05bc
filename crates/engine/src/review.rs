//! Extras: what only this server had after an absence that was too long (promise I16).
//!
//! Such an item may have been deleted in the share meanwhile, or made here; nobody can know. So it stays as it is until a
//! person decides. Extras are known by their inode, which survives a restart; a file that somebody saves anew under the same
//! name is another one, and is synced as ever.
//!
//! While both sides are compared ([`crate::mode::Mode::Review`]) extras are found by the planner, and remembered at its end, in the
//! transaction in which the comparison is over. A decision is durable before it is carried out. An entry ends when the
//! share has the item, or the disk has it no more.

use std::collections::BTreeMap;
use std::sync::Arc;

use polder_sync::{Extra, TreeError, TreeStore};
use polder_types::{FileIdent, Kind, NodeUid, RelPath};

use crate::Found;
use crate::engine::Engine;
use crate::overlay::View;

/// Note: the extras, each with what was decided.
const NOTE_EXTRAS: &str = "extras";
/// Bytes of one entry of the note.
const ENTRY: usize = 13;

/// What waits for a person, and what a person has decided.
#[derive(Debug, Default)]
pub(crate) struct Review {
    /// Shared with the plans.
    pub(crate) extras: Arc<BTreeMap<FileIdent, Extra>>,
    /// Whether the note is older than this.
    changed: bool,
}

impl Review {
    /// Whether the file is an extra, decided on or not.
    pub(crate) fn has(&self, ident: FileIdent) -> bool {
        self.extras.contains_key(&ident)
    }

    /// The node is an extra, found by the comparison.
    pub(crate) fn found(&mut self, ident: FileIdent) {
        if !self.has(ident) {
            Arc::make_mut(&mut self.extras).insert(ident, Extra::Waits);
            self.changed = true;
        }
    }

    /// It is in the share, or it is gone.
    pub(crate) fn solved(&mut self, ident: FileIdent) {
        if self.has(ident) {
            Arc::make_mut(&mut self.extras).remove(&ident);
            self.changed = true;
        }
    }

    fn encode(&self) -> Vec<u8> {
        let entry = |(ident, extra): (&FileIdent, &Extra)| {
            let mut bytes = [0; ENTRY];
            bytes[0] = match extra {
                Extra::Waits => 0,
                Extra::Accepted => 1,
                Extra::Discarded => 2,
            };
            bytes[1..9].copy_from_slice(&ident.ino.to_le_bytes());
            bytes[9..].copy_from_slice(&ident.generation.to_le_bytes());
            bytes
        };
        self.extras.iter().flat_map(entry).collect()
    }

    /// What cannot be read as a decision waits.
    fn decode(bytes: &[u8]) -> BTreeMap<FileIdent, Extra> {
        let entry = |bytes: &[u8]| {
            let extra = match bytes[0] {
                1 => Extra::Accepted,
                2 => Extra::Discarded,
                _ => Extra::Waits,
            };
            let ino = u64::from_le_bytes(bytes[1..9].try_into().expect("8 bytes of an entry"));
            let generation = u32::from_le_bytes(bytes[9..].try_into().expect("4 bytes of an entry"));
            (FileIdent { ino, generation }, extra)
        };
        bytes.chunks_exact(ENTRY).map(entry).collect()
    }
}

impl Engine {
    pub(crate) fn load_review(&mut self, store: &dyn TreeStore) -> Result<(), TreeError> {
        let bytes = store.note(NOTE_EXTRAS)?.unwrap_or_default();
        self.review = Review { extras: Arc::new(Review::decode(&bytes)), changed: false };
        // The note is written when all is quiet: what was settled just before a crash is settled.
        for ident in self.review.extras.keys().copied().collect::<Vec<_>>() {
            if let Some(uid) = store.synced_by_ident(ident)?
                && store.cloud(uid)?.is_some()
            {
                self.review.solved(ident);
            }
        }
        Ok(())
    }

    /// Writes what has changed.
    pub(crate) fn save_review(&mut self, store: &mut dyn TreeStore) -> Result<(), TreeError> {
        if std::mem::take(&mut self.review.changed) {
            store.put_note(NOTE_EXTRAS, &self.review.encode())?;
        }
        Ok(())
    }

    /// A node that the share has is no extra any more.
    pub(crate) fn review_settled(&mut self, store: &dyn TreeStore, uid: NodeUid) -> Result<(), TreeError> {
        if self.review.extras.is_empty() || store.cloud(uid)?.is_none() {
            return Ok(());
        }
        if let Some(node) = (View { store, overlay: &self.overlay }).local_row(uid)? {
            self.review.solved(node.stamp.ident);
        }
        Ok(())
    }

    /// An item is held until a person decides.
    pub(crate) fn found_extra(&mut self, store: &dyn TreeStore, uid: NodeUid) -> Result<(), TreeError> {
        if let Some(node) = (View { store, overlay: &self.overlay }).local_row(uid)? {
            self.review.found(node.stamp.ident);
            let size = if node.kind == Kind::File { node.stamp.size } else { 0 };
            self.problems.found(uid, Found { kind: node.kind, size, mtime: node.mtime });
        }
        Ok(())
    }

    /// Whether a node that the share does not have waits for a directory that is an extra: then it is one, too.
    pub(crate) fn is_new_in_extra(
        &self,
        store: &dyn TreeStore,
        uid: NodeUid,
        on: NodeUid,
    ) -> Result<bool, TreeError> {
        if uid == on || self.review.extras.is_empty() || store.cloud(uid)?.is_some() {
            return Ok(false);
        }
        let above = (View { store, overlay: &self.overlay }).local_row(on)?;
        Ok(above.is_some_and(|node| self.review.extras.get(&node.stamp.ident) == Some(&Extra::Waits)))
    }

    /// The extras at and below some paths that nobody has decided on yet. No path: all of them.
    ///
    /// # Errors
    /// When a tree cannot be read.
    pub fn extras_below(&self, store: &dyn TreeStore, paths: &[RelPath]) -> Result<Vec<NodeUid>, TreeError> {
        let mut found = Vec::new();
        let waiting = self.review.extras.iter().filter(|(_, extra)| **extra == Extra::Waits);
        for ident in waiting.map(|(ident, _)| *ident) {
            let view = View { store, overlay: &self.overlay };
            let Some(uid) = view.by_ident(ident)?.filter(|uid| *uid != NodeUid::ROOT) else { continue };
            let path = self.path(store, uid)?;
            let covered = paths.iter().any(|above| path.names().starts_with(above.names()));
            if (paths.is_empty() || covered) && view.local_row(uid)?.is_some() {
                found.push(uid);
            }
        }
        Ok(found)
    }

    /// A person has decided on the extras at and below some paths. What is accepted needs the directories that it is in.
    pub(crate) fn decide_extras(
        &mut self,
        store: &mut dyn TreeStore,
        paths: &[RelPath],
        accepted: bool,
    ) -> Result<(), TreeError> {
        let uids = self.extras_below(store, paths)?;
        let extra = if accepted { Extra::Accepted } else { Extra::Discarded };
        for uid in &uids {
            let mut at = *uid;
            for _ in 0..crate::overlay::DEPTH_MAX {
                let Some(node) = (View { store, overlay: &self.overlay }).local_row(at)? else { break };
                self.decide(at, node.stamp.ident, extra);
                at = node.at.parent;
                if !accepted || at == NodeUid::ROOT {
                    break;
                }
            }
        }
        let what = if accepted { "are offered to the share" } else { "go to the recycle area" };
        self.log_audit(format!("{} extras of a long absence {what}", uids.len()));
        self.save_review(store)
    }

    fn decide(&mut self, uid: NodeUid, ident: FileIdent, extra: Extra) {
        let Some(known) = self.review.extras.get(&ident) else { return };
        if *known != extra {
            Arc::make_mut(&mut self.review.extras).insert(ident, extra);
            self.review.changed = true;
            self.problems.solved(uid);
            self.work.touch(uid, self.now.mono_ms);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extras_survive_their_bytes() {
        let mut review = Review::default();
        for ino in 1..=3 {
            review.found(FileIdent { ino, generation: 7 });
        }
        let items = Arc::make_mut(&mut review.extras);
        items.insert(FileIdent { ino: 2, generation: 7 }, Extra::Accepted);
        items.insert(FileIdent { ino: u64::MAX, generation: u32::MAX }, Extra::Discarded);
        assert_eq!(Review::decode(&review.encode()), *review.extras);
        let mut torn = review.encode();
        torn.truncate(ENTRY * 2 + 5);
        assert_eq!(Review::decode(&torn).len(), 2, "whole entries only");
    }
}
