//! The local tree: synced rows, overlaid by what differs from them.
//!
//! A node that is not in the overlay stands on disk as its synced row says. Nodes are in the overlay while they are
//! new, changed, moved or gone; when both sides agree again they leave it. So memory follows what is in work.
//!
//! Invariant: `by_place` with `doubted`, and `by_ident`, name exactly the present nodes of the overlay.

use std::collections::{BTreeMap, BTreeSet};

use polder_sync::{CloudNode, LocalContent, LocalNode, SyncedNode, TreeError, TreeStore, Trees};
use polder_types::{
    CaseRule, FileIdent, Kind, NodeUid, Placed,
    zoo::{Bug, planted},
};

/// A directory's key: who may have it is one node.
pub(crate) type Key = (NodeUid, Box<[u8]>);

/// What differs from the synced rows.
#[derive(Debug, Default)]
pub(crate) struct Overlay {
    case: CaseRule,
    nodes: BTreeMap<NodeUid, Option<LocalNode>>,
    by_place: BTreeMap<Key, NodeUid>,
    /// Present nodes whose key another one has: two rows may name one place, and both rows were dropped before anybody had looked.
    /// Who stands there the next look tells.
    doubted: BTreeSet<(Key, NodeUid)>,
    by_ident: BTreeSet<(FileIdent, NodeUid)>,
    /// Directories among the nodes that are gone: while there is none, nobody's ancestors need be asked.
    gone_dirs: BTreeSet<NodeUid>,
    /// Who was seen last with an inode, and is gone since. Its synced row may name another inode, and rows of nodes that are gone
    /// for longer may still name this one.
    left_by: BTreeMap<FileIdent, NodeUid>,
    /// The same by node.
    left: BTreeMap<NodeUid, FileIdent>,
}

impl Overlay {
    pub(crate) fn new(case: CaseRule) -> Self {
        Self { case, ..Self::default() }
    }

    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn key(&self, at: &Placed) -> Key {
        (at.parent, self.case.key(at.name.as_bytes()).into())
    }

    /// The overlaid state: `None` when the synced row holds, `Some(None)` when the node is gone.
    pub(crate) fn get(&self, uid: NodeUid) -> Option<Option<&LocalNode>> {
        self.nodes.get(&uid).map(Option::as_ref)
    }

    /// The present node of the overlay under a key.
    pub(crate) fn at(&self, key: &Key) -> Option<NodeUid> {
        self.by_place.get(key).copied()
    }

    /// All present nodes of the overlay under a key.
    pub(crate) fn all_at(&self, key: &Key) -> Vec<NodeUid> {
        let mut uids: Vec<NodeUid> = self.at(key).into_iter().collect();
        // Nearly always there is none in doubt.
        if !self.doubted.is_empty() {
            let doubted = self.doubted.range((key.clone(), NodeUid::ZERO)..);
            uids.extend(doubted.take_while(|(at, _)| at == key).map(|(_, uid)| *uid));
        }
        uids
    }

    pub(crate) fn by_ident(&self, ident: FileIdent) -> Option<NodeUid> {
        self.all_by_ident(ident).next()
    }

    /// All present nodes of the overlay with this inode.
    pub(crate) fn all_by_ident(&self, ident: FileIdent) -> impl Iterator<Item = NodeUid> {
        let last = NodeUid([0xff; 16]);
        self.by_ident.range((ident, NodeUid::ZERO)..=(ident, last)).map(|(_, uid)| *uid)
    }

    /// Nodes of the overlay that stand in a directory.
    pub(crate) fn children(&self, parent: NodeUid) -> impl Iterator<Item = (&Key, NodeUid)> {
        let from: Key = (parent, Box::default());
        let doubted = self.doubted.range((from.clone(), NodeUid::ZERO)..).map(|(key, uid)| (key, uid));
        self.by_place
            .range(from..)
            .take_while(move |((dir, _), _)| *dir == parent)
            .chain(doubted.take_while(move |((dir, _), _)| *dir == parent))
            .map(|(key, uid)| (key, *uid))
    }

    /// Directories in which a node of the overlay stands. Asked for one after the other: there may be many nodes in each.
    pub(crate) fn parents(&self) -> impl Iterator<Item = NodeUid> {
        let after =
            |dir: NodeUid| u128::from_be_bytes(dir.0).checked_add(1).map(|next| NodeUid(next.to_be_bytes()));
        let at_or_after = move |dir: NodeUid| {
            let from: Key = (dir, Box::default());
            let ((placed, _), _) = self.by_place.range(from..).next()?;
            Some(*placed)
        };
        std::iter::successors(at_or_after(NodeUid::ZERO), move |dir| at_or_after(after(*dir)?))
    }

    /// Nodes that differ, in the order of their ids.
    pub(crate) fn uids_after(&self, after: Option<NodeUid>) -> impl Iterator<Item = NodeUid> {
        use std::ops::Bound;
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.nodes.range((from, Bound::Unbounded)).map(|(uid, _)| *uid)
    }

    /// Everything that differs.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (NodeUid, Option<&LocalNode>)> {
        self.nodes.iter().map(|(uid, node)| (*uid, node.as_ref()))
    }

    pub(crate) fn put(&mut self, uid: NodeUid, node: LocalNode) {
        self.forget(uid);
        // The root has no name.
        if uid != NodeUid::ROOT {
            let key = self.key(&node.at);
            if let Some(other) = self.by_place.insert(key.clone(), uid) {
                self.doubted.insert((key, other));
            }
        }
        self.by_ident.insert((node.stamp.ident, uid));
        self.nodes.insert(uid, Some(node));
    }

    pub(crate) fn put_gone(&mut self, uid: NodeUid, is_dir: bool) {
        if let Some(None) = self.get(uid) {
            // Said again: who has left the inode since is the last one still.
            self.gone_dirs.extend(Some(uid).filter(|_| is_dir));
            return;
        }
        let last = self.get(uid).flatten().map(|node| node.stamp.ident);
        self.forget(uid);
        self.nodes.insert(uid, None);
        if is_dir {
            self.gone_dirs.insert(uid);
        }
        if let Some(ident) = last {
            self.note_left(uid, ident);
        }
    }

    /// A node is gone that was seen last with this inode.
    pub(crate) fn note_left(&mut self, uid: NodeUid, ident: FileIdent) {
        self.left.insert(uid, ident);
        self.left_by.insert(ident, uid);
    }

    /// The inode of a node that is gone has become another one's.
    pub(crate) fn give_up(&mut self, uid: NodeUid, ident: FileIdent) {
        if self.left.get(&uid) == Some(&ident) {
            self.left.remove(&uid);
        }
        if self.left_by.get(&ident) == Some(&uid) {
            self.left_by.remove(&ident);
        }
    }

    /// The node that is gone and was the last that was seen with this inode.
    fn left_by(&self, ident: FileIdent) -> Option<NodeUid> {
        self.left_by.get(&ident).copied()
    }

    /// The synced row holds again, or the node is no more.
    pub(crate) fn forget(&mut self, uid: NodeUid) {
        match self.nodes.remove(&uid) {
            Some(Some(old)) => {
                let key = self.key(&old.at);
                let there = self.all_at(&key);
                if there.first() != Some(&uid) {
                    self.doubted.remove(&(key, uid));
                } else if let Some(other) = there.get(1) {
                    self.doubted.remove(&(key.clone(), *other));
                    self.by_place.insert(key, *other);
                } else {
                    self.by_place.remove(&key);
                }
                self.by_ident.remove(&(old.stamp.ident, uid));
            }
            Some(None) | None => {
                self.gone_dirs.remove(&uid);
                if let Some(ident) = self.left.get(&uid).copied() {
                    self.give_up(uid, ident);
                }
            }
        }
    }

    /// Sets what is known of a present node's bytes.
    pub(crate) fn set_content(&mut self, uid: NodeUid, content: LocalContent) {
        if let Some(Some(node)) = self.nodes.get_mut(&uid) {
            node.content = content;
        }
    }
}

/// A synced row as it stands on disk.
pub(crate) fn as_local(row: SyncedNode) -> LocalNode {
    LocalNode {
        at: row.at,
        kind: row.content.kind(),
        content: LocalContent::Stored(row.content),
        attrs: row.attrs_share,
        mtime: row.mtime_share,
        stamp: row.stamp,
    }
}

/// Whether a node is what its synced row says, whenever that was seen: [`as_local`] of the row, but for the stamp.
pub(crate) fn is_as_agreed(node: &LocalNode, row: &SyncedNode) -> bool {
    let LocalNode { at, kind, content, attrs, mtime, stamp: _ } = node;
    *at == row.at
        && *kind == row.content.kind()
        && matches!(content, LocalContent::Stored(content) if *content == row.content)
        && *attrs == row.attrs_share
        && *mtime == row.mtime_share
}

/// What is known of a node's bytes beside its synced row: what is agreed is stored.
pub(crate) fn stored_if_agreed(content: LocalContent, row: &SyncedNode) -> LocalContent {
    match content {
        LocalContent::Hashed(content) if content == row.content => LocalContent::Stored(content),
        other => other,
    }
}

/// The three trees, put together from the store and the overlay.
pub(crate) struct View<'a> {
    pub(crate) store: &'a dyn TreeStore,
    pub(crate) overlay: &'a Overlay,
}

/// Deepest chain of directories that is followed; deeper than any path a kernel can make step by step is a cycle.
pub(crate) const DEPTH_MAX: usize = 16_384;

impl View<'_> {
    /// Whether a node without an overlaid state of its own lies below a directory that is gone.
    fn below_gone(&self, row: &SyncedNode) -> Result<bool, TreeError> {
        if self.overlay.gone_dirs.is_empty() {
            return Ok(false);
        }
        let mut parent = row.at.parent;
        for _ in 0..DEPTH_MAX {
            if parent == NodeUid::ROOT {
                return Ok(false);
            }
            parent = match self.overlay.get(parent) {
                Some(None) => return Ok(true),
                Some(Some(node)) => node.at.parent,
                None => match self.store.synced(parent)? {
                    Some(row) => row.at.parent,
                    None => return Ok(true),
                },
            };
        }
        Ok(true)
    }

    /// The overlaid state or the synced row, without asking for ancestors.
    pub(crate) fn local_row(&self, uid: NodeUid) -> Result<Option<LocalNode>, TreeError> {
        match self.overlay.get(uid) {
            Some(node) => Ok(node.cloned()),
            None => Ok(self.store.synced(uid)?.map(as_local)),
        }
    }

    /// The same, where the synced row has been read.
    pub(crate) fn local_row_of(&self, uid: NodeUid, row: Option<&SyncedNode>) -> Option<LocalNode> {
        match self.overlay.get(uid) {
            Some(node) => node.cloned(),
            None => row.cloned().map(as_local),
        }
    }

    /// The directory that stands at a place of the share and is none of the share's as yet.
    pub(crate) fn stranger_at(&self, at: &Placed) -> Result<Option<NodeUid>, TreeError> {
        let Some(uid) = self.overlay.at(&self.overlay.key(at)) else { return Ok(None) };
        let is_dir = matches!(self.overlay.get(uid), Some(Some(node)) if node.kind == Kind::Directory);
        let is_unknown = is_dir && self.store.synced(uid)?.is_none() && self.store.cloud(uid)?.is_none();
        Ok(Some(uid).filter(|_| is_unknown))
    }

    /// Who is known on disk by this inode. Several rows may name it: the inode of a file that was renamed over another one has
    /// become that one's, and the row of the node that it came from says what it was until that node's fate is settled. So the one
    /// that stands goes before those that are gone, and of these the one that had it last.
    pub(crate) fn by_ident(&self, ident: FileIdent) -> Result<Option<NodeUid>, TreeError> {
        if let Some(uid) = self.overlay.by_ident(ident) {
            return Ok(Some(uid));
        }
        let (mut stands, mut gone) = (None, None);
        let uids = self.store.synced_all_by_ident(ident)?;
        // Nearly always it is one, which is compared with nobody.
        let several = uids.len() > 1;
        for uid in uids {
            let place = match self.overlay.get(uid) {
                // It stands as its row says.
                None => &mut stands,
                // Gone: it comes back.
                Some(None) => &mut gone,
                // There are others like it, or it is present with another inode.
                Some(Some(_)) => continue,
            };
            if planted(Bug::GoneBeforeThatWhichStands) {
                return Ok(Some(uid));
            }
            // An inode's change time grows with each name that it gets.
            let ctime = if several { self.store.synced(uid)?.map(|row| row.stamp.ctime) } else { None };
            if place.is_none_or(|(_, last)| ctime > last && !planted(Bug::InodeOfWhoHadItFirst)) {
                *place = Some((uid, ctime));
            }
        }
        let left = self.overlay.left_by(ident).filter(|_| !planted(Bug::InodeOfWhoHadItFirst));
        if stands.is_none()
            && let Some(uid) = left
            && self.store.synced(uid)?.is_some()
        {
            return Ok(Some(uid));
        }
        Ok(stands.or(gone).map(|(uid, _)| uid))
    }
}

impl Trees for View<'_> {
    fn local(&self, uid: NodeUid) -> Result<Option<LocalNode>, TreeError> {
        match self.overlay.get(uid) {
            Some(node) => Ok(node.cloned()),
            None => match self.store.synced(uid)? {
                Some(row) if uid == NodeUid::ROOT || !self.below_gone(&row)? => Ok(Some(as_local(row))),
                _ => Ok(None),
            },
        }
    }

    fn cloud(&self, uid: NodeUid) -> Result<Option<CloudNode>, TreeError> {
        self.store.cloud(uid)
    }

    fn synced(&self, uid: NodeUid) -> Result<Option<SyncedNode>, TreeError> {
        self.store.synced(uid)
    }

    fn local_at(&self, parent: NodeUid, key: &[u8]) -> Result<Option<NodeUid>, TreeError> {
        if let Some(uid) = self.overlay.at(&(parent, key.into())) {
            return Ok(Some(uid));
        }
        for uid in self.store.synced_all_at(parent, key)? {
            if self.overlay.get(uid).is_none() && self.local(uid)?.is_some() {
                return Ok(Some(uid));
            }
        }
        Ok(None)
    }

    fn cloud_at(&self, parent: NodeUid, key: &[u8]) -> Result<Option<NodeUid>, TreeError> {
        self.store.cloud_at(parent, key)
    }

    fn local_children(
        &self,
        parent: NodeUid,
        after: Option<&[u8]>,
        count_max: usize,
    ) -> Result<Vec<NodeUid>, TreeError> {
        let mut found: BTreeMap<Box<[u8]>, NodeUid> = BTreeMap::new();
        let overlaid = self.overlay.children(parent).map(|((_, key), uid)| (key, uid));
        for (key, uid) in
            overlaid.filter(|(key, _)| after.is_none_or(|after| &***key > after)).take(count_max)
        {
            found.insert(key.clone(), uid);
        }
        // Overlaid rows (moved away, gone) are passed over, so a page may hold none that still stand: go on.
        let mut from: Option<Box<[u8]>> = after.map(Into::into);
        let mut taken = 0;
        if parent != NodeUid::ROOT && self.local(parent)?.is_none() {
            return Ok(found.into_values().collect());
        }
        while taken < count_max {
            let page = self.store.synced_children(parent, from.as_deref(), count_max)?;
            let Some(last) = page.last() else { break };
            let last = self.store.synced(*last)?.map(|row| self.overlay.key(&row.at).1);
            for uid in page.iter().filter(|uid| self.overlay.get(**uid).is_none()) {
                if let Some(row) = self.store.synced(*uid)? {
                    found.entry(self.overlay.key(&row.at).1).or_insert(*uid);
                    taken += 1;
                }
            }
            if page.len() < count_max || last.is_none() {
                break;
            }
            from = last;
        }
        Ok(found.into_values().take(count_max).collect())
    }

    fn cloud_children(
        &self,
        parent: NodeUid,
        after: Option<&[u8]>,
        count_max: usize,
    ) -> Result<Vec<NodeUid>, TreeError> {
        self.store.cloud_children(parent, after, count_max)
    }
}
