//! What is in a directory that goes, or returns.

use polder_sync::{SyncedNode, TreeError, TreeStore};
use polder_types::{
    Kind, NodeUid,
    zoo::{Bug, planted},
};

use crate::engine::Engine;
use crate::overlay::DEPTH_MAX;

impl Engine {
    /// What the overlay knew below a directory that is gone. If it comes back it is listed.
    pub(crate) fn forget_inside(&mut self, store: &mut dyn TreeStore, dir: NodeUid) -> Result<(), TreeError> {
        let mut dirs = vec![dir];
        dirs.extend(self.agreed_dirs_below(store, dir)?);
        while let Some(dir) = dirs.pop() {
            let inside: Vec<NodeUid> = self.overlay.children(dir).map(|(_, uid)| uid).collect();
            for uid in inside {
                let Some(Some(node)) = self.overlay.get(uid) else { continue };
                let is_dir = node.kind == Kind::Directory;
                if is_dir {
                    dirs.push(uid);
                }
                // Agreed to stand elsewhere: it went down with the directory. Else the synced row (below a gone
                // directory) says it, or there is none. A walk that finds what the row says tells nothing.
                let unseen = |row: &SyncedNode| row.at == node.at && row.stamp == node.stamp;
                match store.synced(uid)? {
                    Some(row) if !unseen(&row) => self.overlay.put_gone(uid, is_dir),
                    // It may be in the share by now, as in `set_gone`.
                    None if self.work.is_busy(uid) && !planted(Bug::GoneInsideWhileOffered) => {
                        self.overlay.put_gone(uid, is_dir);
                        self.hold(uid);
                    }
                    _ => self.overlay.forget(uid),
                }
                self.changed(uid);
            }
        }
        Ok(())
    }

    /// Directories below this one about which nothing differs, and in which something does: a walk down the overlay does not come to
    /// them. What stayed there would bring its directories back.
    fn agreed_dirs_below(&self, store: &dyn TreeStore, dir: NodeUid) -> Result<Vec<NodeUid>, TreeError> {
        let mut found = Vec::new();
        // All that is below a directory without a row differs.
        if store.synced(dir)?.is_none() || planted(Bug::StaysInAgreedDirectories) {
            return Ok(found);
        }
        for parent in self.overlay.parents().filter(|parent| self.overlay.get(*parent).is_none()) {
            if parent != dir && self.is_inside(store, parent, dir)? {
                found.push(parent);
            }
        }
        Ok(found)
    }

    /// A directory is back, and is listed: what was gone with it stands as its rows say until then. A walk tells what is
    /// missing, and nothing about what a row says: what stayed gone would be deleted in the share. Who that is.
    pub(crate) fn rows_hold_below(
        &mut self,
        store: &dyn TreeStore,
        dir: NodeUid,
    ) -> Result<Vec<NodeUid>, TreeError> {
        let mut back = Vec::new();
        if planted(Bug::ReturnsWithoutItsInside) {
            return Ok(back);
        }
        let gone: Vec<NodeUid> =
            self.overlay.iter().filter(|(_, node)| node.is_none()).map(|(uid, _)| uid).collect();
        for uid in gone {
            let Some(row) = store.synced(uid)? else { continue };
            // Where another one stands, it does not: it went before the directory did.
            let is_taken = self.overlay.at(&self.overlay.key(&row.at)).is_some();
            if is_taken {
                continue;
            }
            if self.is_inside(store, row.at.parent, dir)? {
                back.push(uid);
                self.overlay.forget(uid);
                self.holds.remove(&uid);
                self.changed(uid);
                // Its row may go before the listing reads it, by the answer to its deletion: then no listing tells that it is missing.
                if self.work.is_under_way(uid) && !planted(Bug::ReturnsWithItsDeleted) {
                    self.looks.pend(row.at.parent, Some(row.at.name));
                }
            }
        }
        Ok(back)
    }

    /// A directory can be read again, and is listed. What differs in it is looked at, as when a walk of everything begins: a listing that finds
    /// what a row says tells nothing.
    pub(crate) fn look_anew_inside(&mut self, store: &dyn TreeStore, dir: NodeUid) -> Result<(), TreeError> {
        if planted(Bug::ThawedCountsAsBefore) {
            return Ok(());
        }
        for at in self.differing_places(store)? {
            if self.is_inside(store, at.parent, dir)? {
                self.looks.pend(at.parent, Some(at.name));
            }
        }
        Ok(())
    }

    /// Whether a directory is another one or stands below it; of those that are gone, as their rows say.
    fn is_inside(&self, store: &dyn TreeStore, inner: NodeUid, dir: NodeUid) -> Result<bool, TreeError> {
        let mut at = inner;
        for _ in 0..DEPTH_MAX {
            if at == dir || at == NodeUid::ROOT {
                return Ok(at == dir);
            }
            let above = match self.overlay.get(at) {
                Some(Some(node)) => Some(node.at.parent),
                _ => store.synced(at)?.map(|row| row.at.parent),
            };
            let Some(above) = above else { return Ok(false) };
            at = above;
        }
        Ok(false)
    }
}
