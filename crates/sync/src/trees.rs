//! The three trees as the planner reads them, and the store that keeps what must survive a restart.
//!
//! The consumer defines the port: `replica` implements it on SQLite, tests and the simulator on maps.

use std::sync::Arc;

use polder_types::{
    Attrs, AttrsHash, BatchNo, Content, Cursor, FileIdent, Kind, Name, NodeState, NodeUid, Placed, Seq,
    Stamp, Timestamp,
};

/// Why a tree could not be read or written. Nothing is planned on half-read trees.
#[derive(Debug, thiserror::Error)]
#[error("{doing}")]
pub struct TreeError {
    /// What was being done, in the present tense: "read synced row".
    pub doing: &'static str,
    /// The cause.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// A node on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalNode {
    /// Where it stands.
    pub at: Placed,
    /// What it is.
    pub kind: Kind,
    /// Its bytes, as far as they are known.
    pub content: LocalContent,
    /// Attributes, normalised: where they equal what was applied here, those of the share.
    pub attrs: AttrsHash,
    /// Modification time, normalised in the same way.
    pub mtime: Timestamp,
    /// What `stat` said when all of this was so.
    pub stamp: Stamp,
}

/// What is known of a local node's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LocalContent {
    /// Read at the node's stamp, and all of its chunks are stored; or never changed since it was synced; or a
    /// directory or symlink, which have nothing to store. It may be offered.
    Stored(Content),
    /// Read at the node's stamp, to be compared. It may be offered only after another read has stored it.
    Hashed(Content),
    /// Seen to have changed; nobody has read it yet.
    Unread,
}

impl LocalContent {
    /// The content, stored or not; `None` while nobody has read it.
    pub fn known(&self) -> Option<&Content> {
        match self {
            Self::Stored(content) | Self::Hashed(content) => Some(content),
            Self::Unread => None,
        }
    }
}

/// A live node of the share, as far as the feed was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloudNode {
    /// Where it stands.
    pub at: Placed,
    /// Its bytes, target, or nothing.
    pub content: Content,
    /// Permissions and extended attributes; [`TreeStore::attrs`] has them in full.
    pub attrs: AttrsHash,
    /// Modification time.
    pub mtime: Timestamp,
    /// Its version: the base of what is derived from it.
    pub since: Seq,
}

impl From<&NodeState> for CloudNode {
    fn from(state: &NodeState) -> Self {
        Self {
            at: state.at.clone(),
            content: state.content.clone(),
            attrs: state.attrs.hash(),
            mtime: state.mtime,
            since: state.since,
        }
    }
}

/// What both sides last agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncedNode {
    /// Where it stands.
    pub at: Placed,
    /// Its bytes, target, or nothing.
    pub content: Content,
    /// Attributes as in the share.
    pub attrs_share: AttrsHash,
    /// Attributes as they are here after applying: owners mapped, forbidden bits dropped.
    pub attrs_here: AttrsHash,
    /// Modification time as in the share.
    pub mtime_share: Timestamp,
    /// What `stat` said when this was agreed. Its mtime is the time as kept here (coarser on some file systems).
    pub stamp: Stamp,
    /// The share's version.
    pub since: Seq,
}

/// The share's node where it equals the row.
impl From<&SyncedNode> for CloudNode {
    fn from(row: &SyncedNode) -> Self {
        Self {
            at: row.at.clone(),
            content: row.content.clone(),
            attrs: row.attrs_share,
            mtime: row.mtime_share,
            since: row.since,
        }
    }
}

impl SyncedNode {
    /// The row of a version that stands on disk as the share has it, and looks like this.
    pub fn applied(version: &CloudNode, stamp: Stamp) -> Self {
        Self {
            at: version.at.clone(),
            content: version.content.clone(),
            attrs_share: version.attrs,
            attrs_here: version.attrs,
            mtime_share: version.mtime,
            stamp,
            since: version.since,
        }
    }
}

/// Read access to the three trees. Keys are names under the share's [`polder_types::CaseRule`].
pub trait Trees {
    /// The node on disk.
    fn local(&self, uid: NodeUid) -> Result<Option<LocalNode>, TreeError>;
    /// The node in the share.
    fn cloud(&self, uid: NodeUid) -> Result<Option<CloudNode>, TreeError>;
    /// The node as agreed.
    fn synced(&self, uid: NodeUid) -> Result<Option<SyncedNode>, TreeError>;
    /// Who has the key in a directory on disk.
    fn local_at(&self, parent: NodeUid, key: &[u8]) -> Result<Option<NodeUid>, TreeError>;
    /// Who has the key in a directory of the share.
    fn cloud_at(&self, parent: NodeUid, key: &[u8]) -> Result<Option<NodeUid>, TreeError>;
    /// Children on disk with a key after `after`, in the order of keys, at most `count_max`.
    fn local_children(
        &self,
        parent: NodeUid,
        after: Option<&[u8]>,
        count_max: usize,
    ) -> Result<Vec<NodeUid>, TreeError>;
    /// Children in the share, in the same way.
    fn cloud_children(
        &self,
        parent: NodeUid,
        after: Option<&[u8]>,
        count_max: usize,
    ) -> Result<Vec<NodeUid>, TreeError>;
    /// Who stands on disk in the way of a name whose key is free: only where the disk folds names that the share
    /// tells apart (`docs/semantics.md`, case). Most disks do not.
    fn local_clash(&self, _at: &Placed) -> Result<Option<NodeUid>, TreeError> {
        Ok(None)
    }
}

/// The persistent part: synced rows, cloud rows where they differ from them, cursor and offers of one endpoint.
///
/// Writes become visible to reads at once and durable at [`TreeStore::commit`]. A crash between commits takes back
/// whole transactions, never parts. While no cloud row is stored for a node, its cloud state *is* its synced row
/// (a node deleted in the share has a stored row that says so).
pub trait TreeStore {
    /// The synced row.
    fn synced(&self, uid: NodeUid) -> Result<Option<SyncedNode>, TreeError>;
    /// Who is synced under a key.
    fn synced_at(&self, parent: NodeUid, key: &[u8]) -> Result<Option<NodeUid>, TreeError>;
    /// All who are synced under a key: two, while one of them has left the name and the other has taken it, and the
    /// move of the first is not agreed yet.
    fn synced_all_at(&self, parent: NodeUid, key: &[u8]) -> Result<Vec<NodeUid>, TreeError>;
    /// Synced children in the order of keys.
    fn synced_children(
        &self,
        parent: NodeUid,
        after: Option<&[u8]>,
        count_max: usize,
    ) -> Result<Vec<NodeUid>, TreeError>;
    /// Who was synced with this inode.
    fn synced_by_ident(&self, ident: FileIdent) -> Result<Option<NodeUid>, TreeError>;
    /// All who were synced with this inode: the names of a file with several.
    fn synced_all_by_ident(&self, ident: FileIdent) -> Result<Vec<NodeUid>, TreeError>;
    /// Writes (`Some`) or removes a synced row.
    fn put_synced(&mut self, uid: NodeUid, row: Option<&SyncedNode>) -> Result<(), TreeError>;

    /// The share's node: the stored difference, else the synced row. `None` when the share has no such live node.
    fn cloud(&self, uid: NodeUid) -> Result<Option<CloudNode>, TreeError>;
    /// Who has the key in the share.
    fn cloud_at(&self, parent: NodeUid, key: &[u8]) -> Result<Option<NodeUid>, TreeError>;
    /// Children in the share in the order of keys.
    fn cloud_children(
        &self,
        parent: NodeUid,
        after: Option<&[u8]>,
        count_max: usize,
    ) -> Result<Vec<NodeUid>, TreeError>;
    /// Stores what the share now holds of a node (`None`: deleted). When it equals the synced row the difference is
    /// dropped.
    fn put_cloud(&mut self, uid: NodeUid, node: Option<&CloudNode>) -> Result<(), TreeError>;
    /// Nodes whose cloud state differs from their synced row, in the order in which they are best applied: directories
    /// from the root down, then files newest first, deletions last. Not among `except`; at most `count_max`. How finely
    /// times are told apart is the store's choice.
    fn cloud_changed(
        &self,
        except: &dyn Fn(NodeUid) -> bool,
        count_max: usize,
    ) -> Result<Vec<NodeUid>, TreeError>;
    /// How many nodes differ, and the sum of the bytes of their contents.
    fn cloud_changed_count(&self) -> Result<(u64, u64), TreeError>;
    /// Begins a re-baseline: as if the share had none of the nodes, until [`TreeStore::put_cloud`] says what it has. The
    /// planner does not run before the whole tree was read.
    fn forget_cloud(&mut self) -> Result<(), TreeError>;
    /// Attributes by hash, as far as any row or offer names them.
    fn attrs(&self, hash: AttrsHash) -> Result<Option<Arc<Attrs>>, TreeError>;
    /// Remembers attributes.
    fn put_attrs(&mut self, attrs: &Attrs) -> Result<AttrsHash, TreeError>;

    /// How far the feed was read into the cloud rows.
    fn cursor(&self) -> Result<Cursor, TreeError>;
    /// Moves the cursor; part of the transaction that writes the rows it covers.
    fn put_cursor(&mut self, cursor: Cursor) -> Result<(), TreeError>;

    /// The next batch number. Never goes back.
    fn next_batch(&self) -> Result<BatchNo, TreeError>;
    /// Uses up batch numbers below `next`; durable before the batch leaves.
    fn put_next_batch(&mut self, next: BatchNo) -> Result<(), TreeError>;
    /// What was offered of a node in a batch whose answer is not known.
    fn offers(&self) -> Result<Vec<Offer>, TreeError>;
    /// Writes an offer; one a node.
    fn put_offer(&mut self, offer: &Offer) -> Result<(), TreeError>;
    /// Forgets the offer of a node.
    fn drop_offer(&mut self, uid: NodeUid) -> Result<(), TreeError>;

    /// Versions of nodes that the share has left and that may have been applied here without a row that says so; by node,
    /// oldest first.
    fn superseded(&self) -> Result<Vec<(NodeUid, CloudNode)>, TreeError>;
    /// Keeps such a version.
    fn put_superseded(&mut self, uid: NodeUid, version: &CloudNode) -> Result<(), TreeError>;
    /// Forgets those of a node.
    fn drop_superseded(&mut self, uid: NodeUid) -> Result<(), TreeError>;

    /// A small value of the engine's own (for example whether the first merge is over).
    fn note(&self, key: &str) -> Result<Option<Vec<u8>>, TreeError>;
    /// Writes a small value.
    fn put_note(&mut self, key: &str, value: &[u8]) -> Result<(), TreeError>;

    /// Ends the transaction. With `durable` it survives a power cut when this returns; without, it may be lost, but
    /// only together with everything after it.
    fn commit(&mut self, durable: bool) -> Result<(), TreeError>;
}

/// A version that was offered to the service and whose answer has not come. After a restart the feed tells which
/// offers were taken: versions that this instance authored itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// Which node.
    pub uid: NodeUid,
    /// In which batch.
    pub batch: BatchNo,
    /// In which group of the batch, and as which operation of it: the last one about this node. With the service's
    /// answer to the group they give the version.
    pub group: u32,
    /// See `group`.
    pub op: u32,
    /// The synced row that the acceptance makes (its `since` is not known yet); `None` for a delete.
    pub becomes: Option<SyncedNode>,
}

/// What a file is known to hold without being read: verified bytes of the share, so all of its chunks are stored.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StandsFor {
    /// Its content.
    pub content: Content,
    /// Of a placeholder: the node that its mark names, and the version from which the file was made one. No bytes of a user are in it.
    pub version: Option<(NodeUid, Seq)>,
}

/// What a directory entry looked like.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Seen {
    /// The name.
    pub name: Name,
    /// What it is; `None` for a FIFO, socket or device, which are skipped and listed.
    pub kind: Option<Kind>,
    /// Its stamp.
    pub stamp: Stamp,
    /// How many names the file has.
    pub links: u32,
}
