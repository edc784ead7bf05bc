//! Who is seen: which of the nodes that an inode, or a name, speaks for.

use polder_sync::{SyncedNode, TreeError, TreeStore, Trees};
use polder_types::{
    FileIdent, Kind, NodeUid, Placed, Stamp,
    zoo::{Bug, planted},
};

use crate::engine::Engine;
use crate::overlay::{Key, View};

impl Engine {
    /// A node known by an inode, if it can be the one that was seen: same kind. With the place where it still stands
    /// as far as known.
    pub(crate) fn known_elsewhere(
        &self,
        store: &dyn TreeStore,
        uid: NodeUid,
        kind: Kind,
        seen_at: &Placed,
    ) -> Result<Option<(NodeUid, Option<Placed>)>, TreeError> {
        if uid == NodeUid::ROOT {
            return Ok(None);
        }
        let view = View { store, overlay: &self.overlay };
        if let Some(node) = view.local(uid)? {
            let elsewhere = node.at != *seen_at;
            return Ok((node.kind == kind).then_some((uid, elsewhere.then_some(node.at))));
        }
        let row = store.synced(uid)?;
        Ok(row.filter(|row| row.content.kind() == kind).map(|_| (uid, None)))
    }

    /// Whether a node comes with what the one whose place it takes was agreed to be. As that one's edit it would be none: a version of the share
    /// would go over it, while the deletion of the node that came takes the same bytes from the share.
    pub(crate) fn brings_the_same(
        &self,
        store: &dyn TreeStore,
        uid: NodeUid,
        heir: NodeUid,
    ) -> Result<bool, TreeError> {
        let (Some(row), Some(agreed)) = (store.synced(uid)?, store.synced(heir)?) else { return Ok(false) };
        let here = View { store, overlay: &self.overlay }.local_row(uid)?;
        let known = here.as_ref().and_then(|node| node.content.known());
        let same = row.content == agreed.content || known == Some(&agreed.content);
        Ok(same && !planted(Bug::SameBytesChangeIds))
    }

    /// The inode of a node has become another one's. Its row speaks of it no more: the walk of a later life, which knows nothing but rows, would
    /// take what it finds for an old version of this node.
    pub(crate) fn give_up_inode(
        &mut self,
        store: &mut dyn TreeStore,
        uid: NodeUid,
        ident: FileIdent,
    ) -> Result<(), TreeError> {
        if planted(Bug::InodeOfWhoHadItFirst) {
            return Ok(());
        }
        self.overlay.give_up(uid, ident);
        let Some(row) = store.synced(uid)?.filter(|row| row.stamp.ident == ident) else { return Ok(()) };
        let cloud = store.cloud(uid)?;
        let stamp = Stamp { ident: FileIdent::default(), ..row.stamp };
        store.put_synced(uid, Some(&SyncedNode { stamp, ..row }))?;
        store.put_cloud(uid, cloud.as_ref())
    }

    /// Whether a node was agreed to stand under a key, or stands there in the share.
    pub(crate) fn belongs_at(
        &self,
        store: &dyn TreeStore,
        uid: NodeUid,
        key: &Key,
    ) -> Result<bool, TreeError> {
        let agreed = store.synced(uid)?.map(|row| row.at);
        let wanted = store.cloud(uid)?.map(|node| node.at);
        Ok(agreed.into_iter().chain(wanted).any(|at| self.overlay.key(&at) == *key))
    }

    /// The node that was agreed to stand at a place and vanished from it: a new file there takes its id. A node that
    /// only comes by (known, and agreed elsewhere) takes it only while the name is missed.
    pub(crate) fn vanished_from(
        &self,
        store: &dyn TreeStore,
        at: &Placed,
        kind: Kind,
        known: Option<NodeUid>,
    ) -> Result<Option<NodeUid>, TreeError> {
        let key = self.overlay.key(at);
        let newcomer = match known {
            None => true,
            Some(known) => store.synced(known)?.is_none(),
        };
        for uid in store.synced_all_at(key.0, &key.1)? {
            if !matches!(self.overlay.get(uid), Some(None)) || known == Some(uid) {
                continue;
            }
            let missed = self.holds.get(&uid).is_some_and(|until| *until > self.now.mono_ms);
            let same_kind = store.synced(uid)?.is_some_and(|row| row.content.kind() == kind);
            if same_kind && (missed || newcomer) {
                return Ok(Some(uid));
            }
        }
        Ok(None)
    }
}
