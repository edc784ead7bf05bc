//! A [`TreeStore`] of maps, for tests and the simulator: transactions, and crashes that take back whole ones.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use polder_types::{Attrs, AttrsHash, BatchNo, CaseRule, Cursor, FileIdent, NodeUid, Placed, Seq};

use crate::{CloudNode, Offer, SyncedNode, TreeError, TreeStore};

/// Who stands in each directory, by key. Several, because inside a transaction (and in the cloud between two cuts) two nodes may stand under
/// one key; in the order of their ids.
type Places = BTreeMap<NodeUid, BTreeMap<Box<[u8]>, Vec<NodeUid>>>;

/// Rows in maps. Every write is remembered until it is durable, so that [`MemStore::crash`] can take it back.
#[derive(Debug, Clone, Default)]
pub struct MemStore {
    case: CaseRule,
    synced: BTreeMap<NodeUid, SyncedNode>,
    /// `None`: deleted in the share.
    cloud: BTreeMap<NodeUid, Option<CloudNode>>,
    attrs: BTreeMap<AttrsHash, Arc<Attrs>>,
    cursor: Cursor,
    next_batch: BatchNo,
    offers: BTreeMap<NodeUid, Offer>,
    superseded: BTreeMap<(NodeUid, Seq), CloudNode>,
    notes: BTreeMap<String, Vec<u8>>,
    // Derived from the rows above.
    synced_places: Places,
    cloud_places: Places,
    idents: BTreeSet<(FileIdent, NodeUid)>,
    /// Old values of everything written since the last durable commit.
    undo: Vec<Undo>,
    /// Length of `undo` at each commit that was not durable.
    commits: Vec<usize>,
}

#[derive(Debug, Clone)]
enum Undo {
    Synced(NodeUid, Option<SyncedNode>),
    Cloud(NodeUid, Option<Option<CloudNode>>),
    Cursor(Cursor),
    NextBatch(BatchNo),
    Offer(NodeUid, Option<Offer>),
    Superseded((NodeUid, Seq), Option<CloudNode>),
    Note(String, Option<Vec<u8>>),
}

impl MemStore {
    /// An empty store for a share with this rule of names.
    pub fn new(case: CaseRule) -> Self {
        Self { case, next_batch: BatchNo(1), ..Self::default() }
    }

    /// How many commits could be lost by a power cut now.
    pub fn volatile_commits(&self) -> usize {
        self.commits.len()
    }

    /// The store after a crash: what was written since the last commit is gone, and of the commits that were not
    /// durable only the oldest `kept` remain.
    pub fn crash(&mut self, kept: usize) {
        let keep = match kept {
            0 => 0,
            kept => self.commits.get(kept - 1).or(self.commits.last()).copied().unwrap_or(0),
        };
        while self.undo.len() > keep {
            match self.undo.pop().expect("longer than what is kept") {
                Undo::Synced(uid, old) => drop(self.set_synced(uid, old)),
                Undo::Cloud(uid, old) => drop(self.set_cloud(uid, old)),
                Undo::Cursor(old) => self.cursor = old,
                Undo::NextBatch(old) => self.next_batch = old,
                Undo::Offer(uid, Some(old)) => drop(self.offers.insert(uid, old)),
                Undo::Offer(uid, None) => drop(self.offers.remove(&uid)),
                Undo::Superseded(key, Some(old)) => drop(self.superseded.insert(key, old)),
                Undo::Superseded(key, None) => drop(self.superseded.remove(&key)),
                Undo::Note(key, Some(old)) => drop(self.notes.insert(key, old)),
                Undo::Note(key, None) => drop(self.notes.remove(&key)),
            }
        }
        self.undo.clear();
        self.commits.clear();
    }

    /// All synced rows, for assertions.
    pub fn all_synced(&self) -> impl Iterator<Item = (NodeUid, &SyncedNode)> {
        self.synced.iter().map(|(uid, row)| (*uid, row))
    }

    /// All nodes whose cloud state differs, for assertions.
    pub fn all_differing(&self) -> impl Iterator<Item = (NodeUid, Option<&CloudNode>)> {
        self.cloud.iter().map(|(uid, node)| (*uid, node.as_ref()))
    }

    /// Puts a row in the place of another, which it returns.
    fn set_synced(&mut self, uid: NodeUid, row: Option<SyncedNode>) -> Option<SyncedNode> {
        // Most rows are written anew where they are, for a stamp or a version.
        if let Some(new) = &row
            && let Some(old) = self.synced.get_mut(&uid)
            && (&new.at, new.stamp.ident) == (&old.at, old.stamp.ident)
        {
            return row.map(|row| std::mem::replace(old, row));
        }
        let old = self.synced.remove(&uid);
        if let Some(old) = &old {
            remove(&mut self.synced_places, self.case, &old.at, uid);
            self.idents.remove(&(old.stamp.ident, uid));
        }
        if let Some(row) = row {
            insert(&mut self.synced_places, self.case, &row.at, uid);
            self.idents.insert((row.stamp.ident, uid));
            self.synced.insert(uid, row);
        }
        old
    }

    /// The same of what the share has.
    fn set_cloud(&mut self, uid: NodeUid, stored: Option<Option<CloudNode>>) -> Option<Option<CloudNode>> {
        let old = self.cloud.remove(&uid);
        if let Some(Some(old)) = &old {
            remove(&mut self.cloud_places, self.case, &old.at, uid);
        }
        if let Some(node) = stored {
            if let Some(node) = &node {
                insert(&mut self.cloud_places, self.case, &node.at, uid);
            }
            self.cloud.insert(uid, node);
        }
        old
    }

    /// Rows that name an inode.
    fn of_ident(&self, ident: FileIdent) -> impl Iterator<Item = NodeUid> {
        let last = NodeUid([0xff; 16]);
        self.idents.range((ident, NodeUid::ZERO)..=(ident, last)).map(|(_, uid)| *uid)
    }

    fn depth(&self, uid: NodeUid) -> usize {
        let mut depth = 0;
        let mut at = uid;
        while at != NodeUid::ROOT && depth < self.cloud.len() + self.synced.len() + 1 {
            let Some(node) = self.cloud_node(at) else { break };
            at = node.at.parent;
            depth += 1;
        }
        depth
    }

    fn cloud_node(&self, uid: NodeUid) -> Option<CloudNode> {
        match self.cloud.get(&uid) {
            Some(stored) => stored.clone(),
            None => self.synced.get(&uid).map(CloudNode::from),
        }
    }
}

fn insert(places: &mut Places, case: CaseRule, at: &Placed, uid: NodeUid) {
    let uids = places.entry(at.parent).or_default().entry(case.key(at.name.as_bytes()).into()).or_default();
    if let Err(nth) = uids.binary_search(&uid) {
        uids.insert(nth, uid);
    }
}

fn remove(places: &mut Places, case: CaseRule, at: &Placed, uid: NodeUid) {
    let key = case.key(at.name.as_bytes());
    let Some(names) = places.get_mut(&at.parent) else { return };
    let Some(uids) = names.get_mut(&*key) else { return };
    uids.retain(|other| *other != uid);
    if uids.is_empty() {
        names.remove(&*key);
    }
    if names.is_empty() {
        places.remove(&at.parent);
    }
}

/// Who stands under a key.
fn all_at<'a>(places: &'a Places, parent: NodeUid, key: &[u8]) -> &'a [NodeUid] {
    places.get(&parent).and_then(|names| names.get(key)).map_or(&[], Vec::as_slice)
}

/// Entries of one directory after a key, in the order of keys. The root is not its own child.
fn children<'a>(
    places: &'a Places,
    parent: NodeUid,
    after: Option<&[u8]>,
) -> impl Iterator<Item = (&'a [u8], NodeUid)> + use<'a> {
    let from = after.map_or(Bound::Unbounded, Bound::Excluded);
    let names = places.get(&parent).map(|names| names.range::<[u8], _>((from, Bound::Unbounded)));
    names
        .into_iter()
        .flatten()
        .flat_map(|(key, uids)| uids.iter().map(move |uid| (&**key, *uid)))
        .filter(|(_, uid)| *uid != NodeUid::ROOT)
}

/// Whether a node of the share is what was agreed.
fn is_agreed(row: Option<&SyncedNode>, node: Option<&CloudNode>) -> bool {
    match (row, node) {
        (Some(row), Some(node)) => {
            row.since == node.since
                && row.at == node.at
                && row.content == node.content
                && row.attrs_share == node.attrs
                && row.mtime_share == node.mtime
        }
        (row, node) => row.is_none() && node.is_none(),
    }
}

impl TreeStore for MemStore {
    fn synced(&self, uid: NodeUid) -> Result<Option<SyncedNode>, TreeError> {
        Ok(self.synced.get(&uid).cloned())
    }

    fn synced_at(&self, parent: NodeUid, key: &[u8]) -> Result<Option<NodeUid>, TreeError> {
        let uids = all_at(&self.synced_places, parent, key);
        Ok(uids.iter().copied().find(|uid| *uid != NodeUid::ROOT))
    }

    fn synced_all_at(&self, parent: NodeUid, key: &[u8]) -> Result<Vec<NodeUid>, TreeError> {
        let uids = all_at(&self.synced_places, parent, key).iter().copied();
        Ok(uids.filter(|uid| *uid != NodeUid::ROOT).collect())
    }

    fn synced_children(
        &self,
        parent: NodeUid,
        after: Option<&[u8]>,
        count_max: usize,
    ) -> Result<Vec<NodeUid>, TreeError> {
        Ok(children(&self.synced_places, parent, after).map(|(_, uid)| uid).take(count_max).collect())
    }

    fn synced_by_ident(&self, ident: FileIdent) -> Result<Option<NodeUid>, TreeError> {
        Ok(self.of_ident(ident).next())
    }

    fn synced_all_by_ident(&self, ident: FileIdent) -> Result<Vec<NodeUid>, TreeError> {
        Ok(self.of_ident(ident).collect())
    }

    fn put_synced(&mut self, uid: NodeUid, row: Option<&SyncedNode>) -> Result<(), TreeError> {
        let old = self.set_synced(uid, row.cloned());
        self.undo.push(Undo::Synced(uid, old));
        Ok(())
    }

    fn cloud(&self, uid: NodeUid) -> Result<Option<CloudNode>, TreeError> {
        Ok(self.cloud_node(uid))
    }

    fn cloud_at(&self, parent: NodeUid, key: &[u8]) -> Result<Option<NodeUid>, TreeError> {
        if let Some(uid) = all_at(&self.cloud_places, parent, key).first() {
            return Ok(Some(*uid));
        }
        let synced = all_at(&self.synced_places, parent, key).iter();
        Ok(synced.copied().find(|uid| *uid != NodeUid::ROOT && !self.cloud.contains_key(uid)))
    }

    fn cloud_children(
        &self,
        parent: NodeUid,
        after: Option<&[u8]>,
        count_max: usize,
    ) -> Result<Vec<NodeUid>, TreeError> {
        let same =
            children(&self.synced_places, parent, after).filter(|(_, uid)| !self.cloud.contains_key(uid));
        let other = children(&self.cloud_places, parent, after);
        let mut both: Vec<_> = same.chain(other).collect();
        both.sort();
        both.truncate(count_max);
        Ok(both.into_iter().map(|(_, uid)| uid).collect())
    }

    fn put_cloud(&mut self, uid: NodeUid, node: Option<&CloudNode>) -> Result<(), TreeError> {
        let same = is_agreed(self.synced.get(&uid), node);
        let old = self.set_cloud(uid, if same { None } else { Some(node.cloned()) });
        self.undo.push(Undo::Cloud(uid, old));
        Ok(())
    }

    fn cloud_changed(
        &self,
        except: &dyn Fn(NodeUid) -> bool,
        count_max: usize,
    ) -> Result<Vec<NodeUid>, TreeError> {
        let mut changed: Vec<_> = self
            .cloud
            .iter()
            .filter(|(uid, _)| !except(**uid))
            .map(|(uid, node)| match node {
                Some(node) if node.content == polder_types::Content::Directory => {
                    (0, self.depth(*uid), None, *uid)
                }
                Some(node) => (1, 0, Some(std::cmp::Reverse(node.mtime)), *uid),
                None => (2, 0, None, *uid),
            })
            .collect();
        changed.sort();
        changed.truncate(count_max);
        Ok(changed.into_iter().map(|(.., uid)| uid).collect())
    }

    fn cloud_changed_count(&self) -> Result<(u64, u64), TreeError> {
        let bytes = self.cloud.values().flatten().map(|node| node.content.size()).sum();
        Ok((self.cloud.len() as u64, bytes))
    }

    fn forget_cloud(&mut self) -> Result<(), TreeError> {
        let uids: BTreeSet<_> = self.synced.keys().chain(self.cloud.keys()).copied().collect();
        for uid in uids {
            self.put_cloud(uid, None)?;
        }
        Ok(())
    }

    fn attrs(&self, hash: AttrsHash) -> Result<Option<Arc<Attrs>>, TreeError> {
        Ok(self.attrs.get(&hash).cloned())
    }

    fn put_attrs(&mut self, attrs: &Attrs) -> Result<AttrsHash, TreeError> {
        let hash = attrs.hash();
        self.attrs.entry(hash).or_insert_with(|| Arc::new(attrs.clone()));
        Ok(hash)
    }

    fn cursor(&self) -> Result<Cursor, TreeError> {
        Ok(self.cursor)
    }

    fn put_cursor(&mut self, cursor: Cursor) -> Result<(), TreeError> {
        self.undo.push(Undo::Cursor(self.cursor));
        self.cursor = cursor;
        Ok(())
    }

    fn next_batch(&self) -> Result<BatchNo, TreeError> {
        Ok(self.next_batch)
    }

    fn put_next_batch(&mut self, next: BatchNo) -> Result<(), TreeError> {
        self.undo.push(Undo::NextBatch(self.next_batch));
        self.next_batch = next;
        Ok(())
    }

    fn offers(&self) -> Result<Vec<Offer>, TreeError> {
        Ok(self.offers.values().cloned().collect())
    }

    fn put_offer(&mut self, offer: &Offer) -> Result<(), TreeError> {
        let old = self.offers.insert(offer.uid, offer.clone());
        self.undo.push(Undo::Offer(offer.uid, old));
        Ok(())
    }

    fn drop_offer(&mut self, uid: NodeUid) -> Result<(), TreeError> {
        let old = self.offers.remove(&uid);
        self.undo.push(Undo::Offer(uid, old));
        Ok(())
    }

    fn superseded(&self) -> Result<Vec<(NodeUid, CloudNode)>, TreeError> {
        Ok(self.superseded.iter().map(|((uid, _), version)| (*uid, version.clone())).collect())
    }

    fn put_superseded(&mut self, uid: NodeUid, version: &CloudNode) -> Result<(), TreeError> {
        let key = (uid, version.since);
        let old = self.superseded.insert(key, version.clone());
        self.undo.push(Undo::Superseded(key, old));
        Ok(())
    }

    fn drop_superseded(&mut self, uid: NodeUid) -> Result<(), TreeError> {
        let keys: Vec<_> =
            self.superseded.range((uid, Seq(0))..=(uid, Seq(u64::MAX))).map(|(key, _)| *key).collect();
        for key in keys {
            let old = self.superseded.remove(&key);
            self.undo.push(Undo::Superseded(key, old));
        }
        Ok(())
    }

    fn note(&self, key: &str) -> Result<Option<Vec<u8>>, TreeError> {
        Ok(self.notes.get(key).cloned())
    }

    fn put_note(&mut self, key: &str, value: &[u8]) -> Result<(), TreeError> {
        let old = self.notes.insert(key.into(), value.into());
        self.undo.push(Undo::Note(key.into(), old));
        Ok(())
    }

    fn commit(&mut self, durable: bool) -> Result<(), TreeError> {
        if durable {
            self.undo.clear();
            self.commits.clear();
        } else if self.commits.last() != Some(&self.undo.len()) {
            self.commits.push(self.undo.len());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use polder_types::{Content, Seq, Stamp, Timestamp};

    use super::*;

    fn row(name: &str, since: u64) -> SyncedNode {
        SyncedNode {
            at: Placed { parent: NodeUid::ROOT, name: name.parse().unwrap() },
            content: Content::empty_file(),
            attrs_share: AttrsHash::default(),
            attrs_here: AttrsHash::default(),
            mtime_share: Timestamp::default(),
            stamp: Stamp::default(),
            since: Seq(since),
        }
    }

    #[test]
    fn a_crash_takes_back_whole_transactions() {
        let mut store = MemStore::new(CaseRule::Sensitive);
        let uid = NodeUid([1; 16]);
        store.put_synced(uid, Some(&row("a", 1))).unwrap();
        store.commit(true).unwrap();
        store.put_synced(uid, Some(&row("b", 2))).unwrap();
        store.commit(false).unwrap();
        store.put_synced(uid, None).unwrap();
        store.put_next_batch(BatchNo(9)).unwrap();
        let mut lost = store.clone();
        store.crash(1);
        assert_eq!(store.synced_at(NodeUid::ROOT, b"b").unwrap(), Some(uid));
        assert_eq!(store.next_batch().unwrap(), BatchNo(1));
        lost.crash(0);
        assert_eq!(lost.synced_at(NodeUid::ROOT, b"a").unwrap(), Some(uid));
        assert_eq!(lost.synced_at(NodeUid::ROOT, b"b").unwrap(), None);
    }

    #[test]
    fn the_cloud_is_the_synced_row_until_it_differs() {
        let mut store = MemStore::new(CaseRule::Insensitive);
        let uid = NodeUid([1; 16]);
        store.put_synced(uid, Some(&row("A", 1))).unwrap();
        assert_eq!(store.cloud_at(NodeUid::ROOT, b"a").unwrap(), Some(uid));
        let moved = CloudNode::from(&row("B", 2));
        store.put_cloud(uid, Some(&moved)).unwrap();
        assert_eq!(store.cloud_at(NodeUid::ROOT, b"a").unwrap(), None);
        assert_eq!(store.cloud_children(NodeUid::ROOT, None, 9).unwrap(), vec![uid]);
        store.put_synced(uid, Some(&row("B", 2))).unwrap();
        store.put_cloud(uid, Some(&moved)).unwrap();
        assert_eq!(store.cloud_changed_count().unwrap().0, 0);
        store.forget_cloud().unwrap();
        assert_eq!(store.cloud(uid).unwrap(), None);
        assert_eq!(store.cloud_changed(&|_| false, 9).unwrap(), vec![uid]);
    }
}
