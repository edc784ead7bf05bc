//! Files with several names: the watcher tells of a change under one of them.

use polder_sync::{LocalNode, TreeError, TreeStore};
use polder_types::{
    AttrsHash, FileIdent, Kind, NodeUid, Stamp,
    zoo::{Bug, planted},
};

use crate::engine::Engine;
use crate::overlay::View;

impl Engine {
    /// A file left a name. What was changed through it before, the watcher told under this name alone: the others that are
    /// known are looked at.
    pub(crate) fn look_at_rest(
        &mut self,
        store: &dyn TreeStore,
        uid: NodeUid,
        old: &LocalNode,
    ) -> Result<(), TreeError> {
        if old.kind != Kind::File {
            return Ok(());
        }
        let ident = old.stamp.ident;
        self.look_at_names_of(store, ident, uid, &|known| known.stamp.ident == ident)
    }

    /// A file with several names changed: the watcher tells of one of them.
    pub(crate) fn look_at_other_names(
        &mut self,
        store: &dyn TreeStore,
        uid: NodeUid,
        (stamp, attrs): (Stamp, AttrsHash),
    ) -> Result<(), TreeError> {
        // The stamp of a placeholder tells nothing of its attributes.
        let calls = |known: &LocalNode| (known.stamp, known.attrs) != (stamp, attrs);
        self.look_at_names_of(store, stamp.ident, uid, &calls)
    }

    /// Looks at the names that an inode was known by, but for one node's: those whose stamp, as it is known, calls for it.
    fn look_at_names_of(
        &mut self,
        store: &dyn TreeStore,
        ident: FileIdent,
        but: NodeUid,
        calls: &dyn Fn(&LocalNode) -> bool,
    ) -> Result<(), TreeError> {
        if planted(Bug::OtherNamesForgotten) {
            return Ok(());
        }
        let mut names = store.synced_all_by_ident(ident)?;
        names.extend(self.overlay.all_by_ident(ident));
        for other in names.into_iter().filter(|other| *other != but) {
            let node = View { store, overlay: &self.overlay }.local_row(other)?;
            if let Some(node) = node.filter(|node| calls(node)) {
                self.looks.pend(node.at.parent, Some(node.at.name));
            }
        }
        Ok(())
    }
}
