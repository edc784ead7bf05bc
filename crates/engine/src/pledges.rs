//! Placeholders of which no row tells: the state database was lost, or is an older one.
//!
//! Without a row a placeholder would count as something that a user made here: beside a newer version of the share as a conflict copy, and where the
//! share has deleted it as a new file. But its mark says of which node and version it was made, durably and before any byte was given up, and nothing
//! of a user is in it. So the row is made again from the mark: what stands here *was* agreed on. From then on the file is planned like every
//! other one: a newer version takes its place, a deletion takes it away.
//!
//! What the row cannot say any more is taken as the disk has it: its place, its attributes. A rename or a chmod that was not sent before the loss is
//! undone, therefore, where the share says otherwise.
//!
//! A mark of a version that the share has not reached is left alone: then it is the share that was set back, and what it lost is offered to it.

use polder_sync::{LocalNode, StandsFor, SyncedNode, TreeError, TreeStore, Trees};
use polder_types::{
    Content, FileIdent, NodeUid, Seq, Stamp,
    zoo::{Bug, planted},
};

use crate::engine::Engine;
use crate::mode::Mode;
use crate::overlay::View;
use crate::work::{State, Why};

/// How long one waits for the first walk of a life at a time.
const WALK_WAIT_MS: u64 = 200;

impl Engine {
    /// A file was seen: what its mark names, if it is a placeholder without a row.
    pub(crate) fn note_pledge(&mut self, uid: NodeUid, version: Option<(NodeUid, Seq)>) {
        match version {
            Some(version) => drop(self.pledges.insert(uid, version)),
            None => drop(self.pledges.remove(&uid)),
        }
    }

    /// Before a node is planned: whether it is a placeholder whose row is made again first.
    pub(crate) fn takes_pledge(
        &mut self,
        store: &mut dyn TreeStore,
        uid: NodeUid,
    ) -> Result<bool, TreeError> {
        let Some((node, since)) = self.pledges.get(&uid).copied() else { return Ok(false) };
        if self.session.mode == Mode::Steady && !planted(Bug::MarksOutlastTheMerge) {
            // Both sides were united, with every placeholder: what has no row now was put there by somebody.
            self.pledges.remove(&uid);
            return Ok(false);
        }
        let here = View { store, overlay: &self.overlay }.local(uid)?;
        let Some(here) = here.filter(|_| !self.work.is_busy(uid)) else {
            self.pledges.remove(&uid);
            return Ok(false);
        };
        if store.synced(uid)?.is_some() {
            self.pledges.remove(&uid);
            return Ok(false);
        }
        if !self.scan.done_once {
            // What stands where is not known yet.
            self.work.put(uid, State::Until(self.now.mono_ms + WALK_WAIT_MS, Why::Vanished));
            return Ok(true);
        }
        let dir = here.at.parent;
        if dir != NodeUid::ROOT && store.synced(dir)?.is_none() {
            // A row names a directory that both sides know.
            self.wait(uid, dir);
            return Ok(true);
        }
        let Some(content) = here.content.known().cloned() else {
            self.pledges.remove(&uid);
            return Ok(false);
        };
        if since > store.cursor()?.seq {
            self.pledges.remove(&uid);
            return Ok(false);
        }
        let view = View { store, overlay: &self.overlay };
        let (there, row) = (view.local(node)?, store.synced(node)?);
        let stamps = [there.as_ref().map(|there| there.stamp), row.as_ref().map(|row| row.stamp)];
        // Its row may have given the inode up to this one.
        let names = [here.stamp.ident, FileIdent::default()];
        if node != uid && stamps.into_iter().flatten().any(|stamp| names.contains(&stamp.ident)) {
            // Another name of the file that stands for its node, which a user has made: nothing is left over here.
            self.pledges.remove(&uid);
            return Ok(false);
        }
        let is_elsewhere = there.is_some() || self.work.is_busy(node) || row.is_some();
        if node != uid && !is_elsewhere {
            self.pledges.remove(&uid);
            self.rekey(store, uid, node)?;
            self.pledges.insert(node, (node, since));
            return Ok(true);
        }
        // Its node, or, where that came to its new place before this one was seen, something that the share has no more.
        let row = SyncedNode {
            at: here.at,
            content,
            attrs_share: here.attrs,
            attrs_here: here.attrs,
            mtime_share: here.mtime,
            stamp: here.stamp,
            since,
        };
        self.settle(store, uid, Some(&row))?;
        if store.synced(uid)?.as_ref() == Some(&row) {
            self.pledges.remove(&uid);
            self.work.touch(uid, self.now.mono_ms);
        }
        Ok(true)
    }
}

/// The content of a file that the share has, by what it stands for. What was recalled once was in the share then: as long as it looks the same, what is
/// known of it since then counts, be it that the share has lost it.
pub(crate) fn stored(
    stands_for: Option<Box<StandsFor>>,
    old: Option<&LocalNode>,
    stamp: &Stamp,
) -> Option<Content> {
    let is_known = old.is_some_and(|old| old.stamp == *stamp);
    stands_for.filter(|there| there.version.is_some() || !is_known).map(|there| there.content)
}
