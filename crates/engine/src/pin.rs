//! What the share is asked to keep for what stands here.
//!
//! The feed's cursor tells what was *read*. What stands on the disk may be older: a folder cannot be read, a file is in use, a name is not possible
//! here. A placeholder that is held at an old version has its bytes nowhere but in the share's history, so the share is told of each such version
//! in the same message as of the cursor; before that is known, nothing is told, and what was told before holds on.

use std::sync::Arc;

use polder_sync::{TreeError, TreeStore};
use polder_types::{
    Content, Cursor, FileIdent, NodeUid, Seq,
    zoo::{Bug, planted},
};

use crate::engine::Engine;
use crate::mode::Mode;

/// Nodes that are looked at for one message. While more than that are behind, the share keeps what it was told before.
pub const BEHIND_MAX: usize = 256;

/// What is to stay in the share's history.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pin {
    /// All that stands here is as the share had it at this place of its history, but for:
    pub cursor: Cursor,
    /// Files that stand here as an older version, and which: its node, and the place where it became the node's version.
    pub behind: Arc<[(NodeUid, Seq)]>,
}

impl Engine {
    /// What the share is to keep from now on; `None`: as before.
    pub(crate) fn pin(&mut self, store: &dyn TreeStore, behind: u64) -> Result<Option<Pin>, TreeError> {
        let cursor = self.session.cursor;
        let told = |behind: Vec<_>| Some(Pin { cursor, behind: behind.into() });
        if planted(Bug::PinIsWhatWasRead) {
            return Ok(told(Vec::new()));
        }
        // What stands here without a row is not known before both sides were united, nor, since a crash may have come between a placeholder
        // and its row, before this life has seen what there is.
        let is_seen = self.scan.done_once || planted(Bug::MarksPinNothing);
        if self.session.mode != Mode::Steady || !is_seen || behind > BEHIND_MAX as u64 {
            return Ok(None);
        }
        // A placeholder that has left its place unseen may stand in a directory that cannot be read, and nobody can say for which version.
        if !self.scan.frozen().is_empty() && !planted(Bug::PinPassesUnreadable) {
            return Ok(None);
        }
        let mut held = if planted(Bug::MarksPinNothing) { Vec::new() } else { self.of_marks(store)? };
        if held.len() > BEHIND_MAX {
            return Ok(None);
        }
        for uid in store.cloud_changed(&|_| false, BEHIND_MAX)? {
            let Some(row) = store.synced(uid)? else { continue };
            let is_file = matches!(row.content, Content::File { size: 1.., .. });
            if is_file && store.cloud(uid)?.is_none_or(|there| there.content != row.content) {
                held.push((uid, row.since));
            }
        }
        held.sort_unstable();
        held.dedup();
        Ok(told(held))
    }

    /// A placeholder was seen whose mark names another version than its row, or that has no row: a crash came between the two.
    pub(crate) fn note_mark(&mut self, ident: FileIdent, version: Option<(NodeUid, Seq)>, row: Option<Seq>) {
        match version.filter(|(_, since)| row != Some(*since)) {
            Some(version) => self.marks.insert(ident, version),
            None => self.marks.remove(&ident),
        };
    }

    /// Versions that only marks name, until a row names them or they are gone.
    fn of_marks(&mut self, store: &dyn TreeStore) -> Result<Vec<(NodeUid, Seq)>, TreeError> {
        let (mut held, mut over) = (Vec::new(), Vec::new());
        for (ident, version) in &self.marks {
            let uid = self.overlay.by_ident(*ident);
            let row = uid.map(|uid| store.synced(uid)).transpose()?.flatten();
            match (uid, row) {
                (Some(_), None) => held.push(*version),
                (Some(_), Some(row)) if row.since != version.1 => held.push(*version),
                _ => over.push(*ident),
            }
        }
        for ident in over {
            self.marks.remove(&ident);
        }
        Ok(held)
    }
}
