//! A disk, a share and synced rows in memory, as the planner reads them.

use std::collections::BTreeMap;
use std::sync::Arc;

use polder_sync::{CloudNode, LocalContent, LocalNode, Rule, Settings, SyncedNode, TreeError, Trees};
use polder_types::{
    Attrs, AttrsHash, Body, CaseRule, ChunkId, Content, Extent, ExtentSource, FileIdent, Kind, Name, NodeUid,
    Placed, Seq, Stamp, Timestamp,
};

type Keys = BTreeMap<(NodeUid, Vec<u8>), NodeUid>;

/// The three trees.
#[derive(Debug, Clone)]
pub struct World {
    pub settings: Settings,
    pub disk: BTreeMap<NodeUid, LocalNode>,
    pub share: BTreeMap<NodeUid, CloudNode>,
    pub synced: BTreeMap<NodeUid, SyncedNode>,
    /// Ids that the share has known.
    pub known: std::collections::BTreeSet<NodeUid>,
    /// What a read will find, for nodes whose content is unread in `disk`.
    pub unread: BTreeMap<NodeUid, Content>,
    /// Whether changes on disk are seen before they are read, as by an agent.
    pub reads_needed: bool,
    /// Turns the numbers of new nodes into ids; another one gives the same tree under other ids.
    pub salt: u64,
    disk_keys: Keys,
    share_keys: Keys,
    head: u64,
    ticks: u64,
    uids: u64,
}

pub fn name(text: &str) -> Name {
    text.parse().expect("a test's name is legal")
}

/// A file of one chunk, told apart by its number; 0 is empty.
pub fn file(number: u64) -> Content {
    if number == 0 {
        return Content::empty_file();
    }
    let mut id = [0; 32];
    id[..8].copy_from_slice(&number.to_be_bytes());
    let source = ExtentSource::Chunk { id: ChunkId(id), skip: 0 };
    Content::File { size: 1, body: Body::Inline(vec![Extent { len: 1, source }]) }
}

/// The number of a file's content.
pub fn number_of(content: &Content) -> Option<u64> {
    let chunk = content.direct_chunks().next()?;
    Some(u64::from_be_bytes(chunk.0[..8].try_into().expect("eight bytes")))
}

/// Attributes of a mode below 512. All are hashed once: a case shows trees more often than it hashes anything.
pub fn attrs(mode: u16) -> AttrsHash {
    all_attrs()[usize::from(mode)]
}

/// The mode of attributes.
pub fn mode_of(attrs: AttrsHash) -> Option<usize> {
    all_attrs().iter().position(|hash| *hash == attrs)
}

fn all_attrs() -> &'static [AttrsHash] {
    static ALL: std::sync::OnceLock<Vec<AttrsHash>> = std::sync::OnceLock::new();
    ALL.get_or_init(|| (0..512).map(|mode| Attrs { mode, ..Attrs::default() }.hash()).collect())
}

pub fn time(secs: i64) -> Timestamp {
    Timestamp::new(secs, 0)
}

impl World {
    pub fn new(case: CaseRule) -> Self {
        let settings = Settings {
            case,
            rule: Rule::Merge,
            server: "B".into(),
            cloud: "Cloud".into(),
            directory_times: true,
            extras: Arc::default(),
            nodes_max: 100_000,
        };
        Self {
            settings,
            disk: BTreeMap::new(),
            share: BTreeMap::new(),
            synced: BTreeMap::new(),
            known: std::collections::BTreeSet::new(),
            unread: BTreeMap::new(),
            reads_needed: false,
            salt: 0,
            disk_keys: Keys::new(),
            share_keys: Keys::new(),
            head: 0,
            ticks: 0,
            uids: 0,
        }
    }

    pub fn key(&self, at: &Placed) -> (NodeUid, Vec<u8>) {
        (at.parent, self.settings.case.key(at.name.as_bytes()).into_owned())
    }

    /// A new id.
    pub fn uid(&mut self) -> NodeUid {
        self.uids += 1;
        let mixed = (self.uids ^ self.salt).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&mixed.to_be_bytes());
        bytes[8..].copy_from_slice(&self.uids.to_be_bytes());
        NodeUid(bytes)
    }

    /// The next version number of the share.
    pub fn next_seq(&mut self) -> Seq {
        self.head += 1;
        Seq(self.head)
    }

    /// A stamp nobody has seen, of a new file or of `ident`.
    pub fn stamp(&mut self, ident: Option<FileIdent>) -> Stamp {
        self.ticks += 1;
        let ident = ident.unwrap_or(FileIdent { ino: self.ticks, generation: 1 });
        Stamp { ident, ctime: time(self.ticks as i64), mtime: Timestamp::default(), size: 0 }
    }

    pub fn disk_at(&self, at: &Placed) -> Option<NodeUid> {
        self.disk_keys.get(&self.key(at)).copied()
    }

    pub fn share_at(&self, at: &Placed) -> Option<NodeUid> {
        self.share_keys.get(&self.key(at)).copied()
    }

    /// Writes or removes a node on disk. The name must be free.
    pub fn put_disk(&mut self, uid: NodeUid, node: Option<LocalNode>) {
        if let Some(old) = self.disk.remove(&uid) {
            let key = self.key(&old.at);
            self.disk_keys.remove(&key);
            self.unread.remove(&uid);
        }
        if let Some(node) = node {
            let before = self.disk_keys.insert(self.key(&node.at), uid);
            assert_eq!(before, None, "two nodes at one path on disk");
            self.disk.insert(uid, node);
        }
    }

    /// Writes or removes a node of the share. The name must be free.
    pub fn put_share(&mut self, uid: NodeUid, node: Option<CloudNode>) {
        if let Some(old) = self.share.remove(&uid) {
            let key = self.key(&old.at);
            self.share_keys.remove(&key);
        }
        if let Some(node) = node {
            let before = self.share_keys.insert(self.key(&node.at), uid);
            assert_eq!(before, None, "two nodes at one path in the share");
            self.known.insert(uid);
            self.share.insert(uid, node);
        }
    }

    /// Reads the feed to its head: the share is as another world has it.
    pub fn read_share(&mut self, from: &Self) {
        self.share.clone_from(&from.share);
        self.share_keys.clone_from(&from.share_keys);
        self.known.clone_from(&from.known);
        self.head = from.head;
    }

    /// Gives a local node another id, in its children's places, too.
    pub fn rekey(&mut self, from: NodeUid, to: NodeUid) {
        assert!(!self.disk.contains_key(&to), "a node is re-keyed to one that is there");
        let Some(node) = self.disk.get(&from).cloned() else { return };
        let children: Vec<NodeUid> =
            self.disk.iter().filter(|(_, child)| child.at.parent == from).map(|(uid, _)| *uid).collect();
        let unread = self.unread.remove(&from);
        self.put_disk(from, None);
        self.put_disk(to, Some(node));
        self.unread.extend(unread.map(|content| (to, content)));
        for child in children {
            let mut node = self.disk[&child].clone();
            node.at.parent = to;
            let unread = self.unread.remove(&child);
            self.put_disk(child, Some(node));
            self.unread.extend(unread.map(|content| (child, content)));
        }
    }

    /// What the file on disk holds, read or not.
    pub fn content_on_disk(&self, uid: NodeUid) -> Option<&Content> {
        self.unread.get(&uid).or_else(|| self.disk.get(&uid)?.content.known())
    }

    /// Nodes of which the three trees differ.
    pub fn changed(&self) -> Vec<NodeUid> {
        let all = self.disk.keys().chain(self.share.keys()).chain(self.synced.keys());
        let mut all: Vec<NodeUid> = all.copied().collect();
        all.sort_unstable();
        all.dedup();
        all.retain(|uid| !self.is_settled(*uid));
        all
    }

    fn is_settled(&self, uid: NodeUid) -> bool {
        let (Some(here), Some(share), Some(row)) =
            (self.disk.get(&uid), self.share.get(&uid), self.synced.get(&uid))
        else {
            return false;
        };
        here.at == row.at
            && here.content.known() == Some(&row.content)
            && (here.attrs, here.mtime, here.stamp) == (row.attrs_share, row.mtime_share, row.stamp)
            && (&share.at, &share.content) == (&row.at, &row.content)
            && (share.attrs, share.mtime, share.since) == (row.attrs_share, row.mtime_share, row.since)
    }

    /// Both sides agree on everything that they hold now.
    pub fn agree(&mut self) {
        self.synced.clear();
        let share: Vec<(NodeUid, CloudNode)> =
            self.share.iter().map(|(uid, node)| (*uid, node.clone())).collect();
        for (uid, node) in share {
            let stamp = self.stamp(None);
            let here = LocalNode {
                at: node.at.clone(),
                kind: node.content.kind(),
                content: LocalContent::Stored(node.content.clone()),
                attrs: node.attrs,
                mtime: node.mtime,
                stamp,
            };
            self.put_disk(uid, Some(here));
            let row = SyncedNode {
                at: node.at,
                content: node.content,
                attrs_share: node.attrs,
                attrs_here: node.attrs,
                mtime_share: node.mtime,
                stamp,
                since: node.since,
            };
            self.synced.insert(uid, row);
        }
    }

    /// Whether `below` is `above` or stands below it, on disk or in the share.
    pub fn is_below(&self, on_disk: bool, below: NodeUid, above: NodeUid) -> bool {
        let mut at = below;
        for _ in 0..=self.disk.len() + self.share.len() {
            if at == above {
                return true;
            }
            let parent = if on_disk {
                self.disk.get(&at).map(|node| node.at.parent)
            } else {
                self.share.get(&at).map(|node| node.at.parent)
            };
            match parent {
                Some(parent) => at = parent,
                None => return false,
            }
        }
        panic!("a cycle");
    }

    pub fn has_directory(&self, on_disk: bool, uid: NodeUid) -> bool {
        let kind = if on_disk {
            self.disk.get(&uid).map(|node| node.kind)
        } else {
            self.share.get(&uid).map(|node| node.content.kind())
        };
        uid == NodeUid::ROOT || kind == Some(Kind::Directory)
    }

    /// Every node hangs at the root, on both sides.
    pub fn ensure_trees(&self) {
        for uid in self.disk.keys() {
            assert!(self.is_below(true, *uid, NodeUid::ROOT), "an orphan or a cycle on disk");
        }
        for uid in self.share.keys() {
            assert!(self.is_below(false, *uid, NodeUid::ROOT), "an orphan or a cycle in the share");
        }
        for (uid, node) in &self.disk {
            assert!(self.has_directory(true, node.at.parent), "{uid} lies in a file");
        }
        for (uid, node) in &self.share {
            assert!(self.has_directory(false, node.at.parent), "{uid} lies in a file");
        }
    }
}

fn page(keys: &Keys, parent: NodeUid, after: Option<&[u8]>, count_max: usize) -> Vec<NodeUid> {
    keys.range((parent, after.unwrap_or_default().to_vec())..)
        .take_while(|((of, _), _)| *of == parent)
        .filter(|((_, key), _)| after.is_none_or(|after| key.as_slice() > after))
        .take(count_max)
        .map(|(_, uid)| *uid)
        .collect()
}

impl Trees for World {
    fn local(&self, uid: NodeUid) -> Result<Option<LocalNode>, TreeError> {
        Ok(self.disk.get(&uid).cloned())
    }

    fn cloud(&self, uid: NodeUid) -> Result<Option<CloudNode>, TreeError> {
        Ok(self.share.get(&uid).cloned())
    }

    fn synced(&self, uid: NodeUid) -> Result<Option<SyncedNode>, TreeError> {
        Ok(self.synced.get(&uid).cloned())
    }

    fn local_at(&self, parent: NodeUid, key: &[u8]) -> Result<Option<NodeUid>, TreeError> {
        Ok(self.disk_keys.get(&(parent, key.to_vec())).copied())
    }

    fn cloud_at(&self, parent: NodeUid, key: &[u8]) -> Result<Option<NodeUid>, TreeError> {
        Ok(self.share_keys.get(&(parent, key.to_vec())).copied())
    }

    fn local_children(
        &self,
        parent: NodeUid,
        after: Option<&[u8]>,
        count_max: usize,
    ) -> Result<Vec<NodeUid>, TreeError> {
        Ok(page(&self.disk_keys, parent, after, count_max))
    }

    fn cloud_children(
        &self,
        parent: NodeUid,
        after: Option<&[u8]>,
        count_max: usize,
    ) -> Result<Vec<NodeUid>, TreeError> {
        Ok(page(&self.share_keys, parent, after, count_max))
    }
}
