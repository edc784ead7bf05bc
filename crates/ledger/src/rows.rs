//! The port of rows: what the commit core asks of a database, in plain data.
//!
//! All calls of one decision run inside one transaction of one share. A transaction that writes begins by locking the
//! share's row (SQLite: `BEGIN IMMEDIATE`; PostgreSQL: `SELECT … FOR UPDATE`), so whatever it reads stays true until it
//! ends; one that only reads sees one moment. An error ends the transaction without effect. Sequence numbers come
//! from the share's row, never from a database's own counter.

use std::sync::Arc;

use polder_types::{
    Attrs, Author, BatchNo, CaseRule, Content, Cursor, EndpointId, InstanceId, Kind, Name, Nid, NodeUid,
    PackId, Seq, ShareId, Tag, Timestamp,
};

use crate::RowsError;

/// Number of settings of [`crate::ThinStep`] whose progress a share's row keeps.
pub const THIN_STEPS_MAX: usize = 4;
/// Most bytes of [`Slot`].
pub const SLOT_BYTES_MAX: usize = 24;
/// Most bytes of [`PackRow::meta`].
pub const PACK_META_BYTES_MAX: usize = 64;

/// A share's own row: the head of its history and what background work has reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShareRow {
    /// Which share.
    pub id: ShareId,
    /// Which names are equal; never changes.
    pub case: CaseRule,
    /// Version of the chunker that makes contents canonical; never changes.
    pub chunker: u16,
    /// End of the last commit.
    pub head: Cursor,
    /// Time of the last commit, in milliseconds since 1970; never goes back.
    pub time_ms: u64,
    /// Number of the lease of the process that may run background work.
    pub fence: u64,
    /// Live nodes, the root included.
    pub live_nodes: u64,
    /// Sizes of all live files and symlinks together, in bytes.
    pub live_bytes: u64,
    /// Every sequence from here on can be read; older ones only where pinned.
    pub history_from: Seq,
    /// Every change after this number is kept; older cursors must re-baseline.
    pub changes_from: Seq,
    /// How far each step of thinning has come.
    pub thinned: [Seq; THIN_STEPS_MAX],
}

/// One version of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRow {
    /// Which node.
    pub nid: Nid,
    /// The operation that made this version.
    pub since: Seq,
    /// The directory that it stands in; itself for the root.
    pub up: Nid,
    /// Its name there.
    pub name: Name,
    /// Modification time.
    pub mtime: Timestamp,
    /// Permissions and extended attributes.
    pub attrs: Arc<Attrs>,
    /// Content; its kind is the node's.
    pub content: Content,
}

impl NodeRow {
    /// The node's kind.
    pub fn kind(&self) -> Kind {
        self.content.kind()
    }
}

/// A closed version of a node: the state from `row.since` to before `until`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PastNode {
    /// The operation that closed it. No two closed versions of a share have the same.
    pub until: Seq,
    /// What it was.
    pub row: NodeRow,
}

/// Who has a name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryRow {
    /// The operation that made the entry.
    pub since: Seq,
    /// The node.
    pub nid: Nid,
    /// The name as it is written.
    pub name: Name,
}

/// An entry of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The name's key, by which listings are ordered and paged.
    pub key: Box<[u8]>,
    /// The entry.
    pub entry: EntryRow,
}

/// A closed entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PastEntry {
    /// The operation that closed it. No two closed entries of a share have the same.
    pub until: Seq,
    /// The directory.
    pub parent: Nid,
    /// The name's key.
    pub key: Box<[u8]>,
    /// What it was.
    pub entry: EntryRow,
}

/// What is known of a node besides its versions. Outlives deletion while a version or a change names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ident {
    /// Its number.
    pub nid: Nid,
    /// Its id.
    pub uid: NodeUid,
    /// The operation that deleted it; `None` while it lives.
    pub gone: Option<Seq>,
}

/// What an operation did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// The node came to be.
    Create,
    /// New content, time or attributes.
    Update,
    /// Another place, and perhaps more.
    Move,
    /// The node is gone.
    Delete,
    /// A deleted node lives again.
    Revive,
}

/// A change with the present state of its node: a row of the feed before it is cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangeRow {
    /// The operation.
    pub seq: Seq,
    /// What it did.
    pub what: What,
    /// The node.
    pub nid: Nid,
    /// Its id.
    pub uid: NodeUid,
    /// The live version, whoever made it; `None` when the node is gone.
    pub live: Option<NodeRow>,
}

/// A commit. It owns the numbers `seq` to `seq + ops`; its operations are those after `seq`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommitRow {
    /// The number of the batch itself.
    pub seq: Seq,
    /// Accepted operations.
    pub ops: u32,
    /// Random number of the commit.
    pub tag: Tag,
    /// Time in milliseconds since 1970, not before that of the commit before it.
    pub time_ms: u64,
    /// Who wrote it.
    pub author: Author,
}

impl CommitRow {
    /// Its last number: the only one at which a share may be read.
    pub fn last(&self) -> Seq {
        Seq(self.seq.0 + u64::from(self.ops))
    }
}

/// What a share remembers of an endpoint instance.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AuthorRow {
    /// Batches below this number are stale.
    pub batch_min: BatchNo,
    /// When the window of the mass-change brake began, in milliseconds since 1970.
    pub brake_from_ms: u64,
    /// Destructive operations accepted since then.
    pub brake_ops: u64,
}

/// Where a chunk lies in its pack: bytes that only the `chunk` crate reads (its `ChunkSlot`).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    len: u8,
    bytes: [u8; SLOT_BYTES_MAX],
}

impl Slot {
    /// A slot of at most [`SLOT_BYTES_MAX`] bytes, or `None` when there are more.
    pub fn new(slot: &[u8]) -> Option<Self> {
        let mut bytes = [0; SLOT_BYTES_MAX];
        bytes.get_mut(..slot.len())?.copy_from_slice(slot);
        Some(Self { len: slot.len() as u8, bytes })
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Slot").field(&self.as_bytes()).finish()
    }
}

/// Number of a pack inside one database, short because every chunk has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackNo(pub u64);

/// A row of the chunk index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkRow {
    /// The pack that it lies in.
    pub pack: PackNo,
    /// Where in it.
    pub slot: Slot,
}

/// What may be done with a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PackState {
    /// Commits may refer to it.
    Live,
    /// To be deleted unless the second look finds a reference. May be read, not newly referred to.
    Condemned,
    /// Its object is gone or about to go.
    Deleted,
    /// Its bytes were found damaged or gone. Chunks that are sent again take other packs.
    Failed,
}

/// A pack of the share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackRow {
    /// Its name in the object store.
    pub id: PackId,
    /// What may be done with it.
    pub state: PackState,
    /// Bytes of the object.
    pub bytes: u64,
    /// Chunks in it when it was made.
    pub chunks: u32,
    /// Generation of the share's key that sealed it.
    pub key_gen: u32,
    /// What else a reader must know of it (its nonce): bytes of the `chunk` crate.
    pub meta: Box<[u8]>,
    /// When it was registered, in milliseconds since 1970.
    pub registered_ms: u64,
    /// When it was last read back and checked; `None` when never.
    pub verified_ms: Option<u64>,
    /// Head of the share when its state last changed.
    pub state_seq: Seq,
    /// When its state last changed, in milliseconds since 1970.
    pub state_ms: u64,
    /// Head before the last commit that referred to a chunk in it, or when it was registered.
    pub used: Seq,
}

/// A named sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotRow {
    /// Its name, unique in the share.
    pub name: Box<str>,
    /// What it pins.
    pub cursor: Cursor,
    /// When it was taken, in milliseconds since 1970.
    pub time_ms: u64,
    /// Free text of whoever took it.
    pub note: Box<str>,
}

/// What an endpoint has applied. Pins its sequence until the endpoint goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PinRow {
    /// The endpoint.
    pub endpoint: EndpointId,
    /// Its applied cursor.
    pub cursor: Cursor,
}

/// A version that an endpoint still needs although its cursor has passed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct HoldRow {
    /// The endpoint.
    pub endpoint: EndpointId,
    /// The node.
    pub nid: Nid,
    /// The version.
    pub since: Seq,
}

/// Closed rows that wait to be looked at by expiry: those with `after < until ≤ upto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sweep {
    /// Rows up to here are done.
    pub after: Seq,
    /// The last one.
    pub upto: Seq,
}

type Result<T> = std::result::Result<T, RowsError>;

/// Reading. Limits are upper bounds; fewer rows than asked for mean that there are no more.
pub trait Rows {
    /// The share's row; `None` before [`crate::create_share`].
    fn share(&self) -> Result<Option<ShareRow>>;

    /// A node's number and fate by its id.
    fn ident(&self, uid: NodeUid) -> Result<Option<Ident>>;
    /// The same by its number.
    fn ident_of(&self, nid: Nid) -> Result<Option<Ident>>;
    /// The live version.
    fn node(&self, nid: Nid) -> Result<Option<NodeRow>>;
    /// Live nodes with a number above `after`, in the order of numbers.
    fn nodes(&self, after: Option<Nid>, limit: usize) -> Result<Vec<(NodeUid, NodeRow)>>;
    /// Closed versions of a node with `until > after`, oldest first.
    fn past_nodes(&self, nid: Nid, after: Seq, limit: usize) -> Result<Vec<PastNode>>;
    /// The version of a node that `until` closed.
    fn past_node_until(&self, nid: Nid, until: Seq) -> Result<Option<PastNode>>;
    /// The youngest closed version of a node.
    fn last_past_node(&self, nid: Nid) -> Result<Option<PastNode>>;
    /// Closed versions of all nodes with `after < until ≤ upto`, in the order of `until`.
    fn closed_nodes(&self, after: Seq, upto: Seq, limit: usize) -> Result<Vec<PastNode>>;

    /// Who has a key in a directory.
    fn entry(&self, parent: Nid, key: &[u8]) -> Result<Option<EntryRow>>;
    /// Who had it: the first closed entry with `until > after`.
    fn past_entry(&self, parent: Nid, key: &[u8], after: Seq) -> Result<Option<PastEntry>>;
    /// Entries of a directory with a key above `after`, in the order of keys. With `at`, those as of that sequence: of
    /// each key the closed entry with `since ≤ at < until`, else the live one with `since ≤ at`.
    fn entries(
        &self,
        parent: Nid,
        after: Option<&[u8]>,
        limit: usize,
        at: Option<Seq>,
    ) -> Result<Vec<Listed>>;
    /// Closed entries of all directories with `after < until ≤ upto`, in the order of `until`.
    fn closed_entries(&self, after: Seq, upto: Seq, limit: usize) -> Result<Vec<PastEntry>>;

    /// Changes with `after < seq ≤ upto`, in order.
    fn changes(&self, after: Seq, upto: Seq, limit: usize) -> Result<Vec<ChangeRow>>;

    /// The commit with the largest `seq` that is not above this one.
    fn commit_at(&self, seq: Seq) -> Result<Option<CommitRow>>;
    /// Commits with a `seq` above this one, in order.
    fn commits(&self, after: Seq, limit: usize) -> Result<Vec<CommitRow>>;
    /// The answer that was kept for a batch, whether it made a commit or was refused as a whole.
    fn answer(&self, author: Author) -> Result<Option<Box<[u8]>>>;
    /// What is remembered of an author.
    fn author(&self, by: InstanceId) -> Result<Option<AuthorRow>>;

    /// A chunk by the first half of its id.
    fn chunk(&self, key: [u8; 16]) -> Result<Option<ChunkRow>>;
    /// Rows of the chunk index with a key above `after`, in the order of keys.
    fn chunks(&self, after: Option<[u8; 16]>, limit: usize) -> Result<Vec<([u8; 16], ChunkRow)>>;
    /// A pack by its number.
    fn pack(&self, no: PackNo) -> Result<Option<PackRow>>;
    /// The number of a pack.
    fn pack_no(&self, id: PackId) -> Result<Option<PackNo>>;
    /// Packs with a number above `after`, in the order of numbers.
    fn packs(&self, after: Option<PackNo>, limit: usize) -> Result<Vec<(PackNo, PackRow)>>;

    /// A snapshot by its name.
    fn snapshot(&self, name: &str) -> Result<Option<SnapshotRow>>;
    /// Snapshots in the order of names.
    fn snapshots(&self, after: Option<&str>, limit: usize) -> Result<Vec<SnapshotRow>>;
    /// Applied cursors of all endpoints.
    fn pins(&self) -> Result<Vec<PinRow>>;
    /// Sequences of all snapshots and applied cursors, ascending, each once.
    fn pinned(&self) -> Result<Vec<Seq>>;
    /// Versions that an endpoint holds, in order, after this one.
    fn holds(&self, endpoint: EndpointId, after: Option<HoldRow>, limit: usize) -> Result<Vec<HoldRow>>;
    /// Whether any endpoint holds this version.
    fn is_held(&self, nid: Nid, since: Seq) -> Result<bool>;
    /// The sweep with the lowest `after`.
    fn first_sweep(&self) -> Result<Option<Sweep>>;
}

/// Writing. Each call that names a row says whether the row must exist; where it does not hold, the answer is
/// [`RowsError::Corrupt`]: the core has looked before, inside the same transaction.
pub trait RowsMut: Rows {
    /// Writes the share's row.
    fn put_share(&mut self, row: &ShareRow) -> Result<()>;

    /// A node that never was.
    fn insert_ident(&mut self, nid: Nid, uid: NodeUid) -> Result<()>;
    /// A known node is deleted by `gone`, or lives again.
    fn put_gone(&mut self, nid: Nid, gone: Option<Seq>) -> Result<()>;
    /// Forgets a node of which nothing is left.
    fn remove_ident(&mut self, nid: Nid) -> Result<()>;
    /// A live version of a node that has none.
    fn insert_node(&mut self, row: &NodeRow) -> Result<()>;
    /// Closes the live version and writes the next one.
    fn replace_node(&mut self, row: &NodeRow, until: Seq) -> Result<()>;
    /// Closes the live version; no other follows.
    fn close_node(&mut self, nid: Nid, until: Seq) -> Result<()>;
    /// Drops the closed version `until`; the one that `from` closed takes over its interval.
    fn merge_past_node(&mut self, from: Seq, until: Seq) -> Result<()>;
    /// Drops a closed version.
    fn remove_past_node(&mut self, until: Seq) -> Result<()>;

    /// An entry under a key that is free.
    fn insert_entry(&mut self, parent: Nid, key: &[u8], entry: &EntryRow) -> Result<()>;
    /// Closes an entry that exists.
    fn close_entry(&mut self, parent: Nid, key: &[u8], until: Seq) -> Result<()>;
    /// Drops a closed entry.
    fn remove_past_entry(&mut self, until: Seq) -> Result<()>;

    /// A change.
    fn insert_change(&mut self, seq: Seq, nid: Nid, what: What) -> Result<()>;
    /// Drops a change.
    fn remove_change(&mut self, seq: Seq) -> Result<()>;
    /// A commit, and its answer where the author has a name for the batch.
    fn insert_commit(&mut self, row: &CommitRow, answer: Option<&[u8]>) -> Result<()>;
    /// Drops a commit and its answer.
    fn remove_commit(&mut self, seq: Seq) -> Result<()>;
    /// The answer to a batch that was refused as a whole.
    fn insert_refusal(&mut self, author: Author, answer: &[u8]) -> Result<()>;
    /// Drops such answers to an author's batches below this one.
    fn remove_refusals(&mut self, by: InstanceId, below: BatchNo) -> Result<()>;
    /// Writes what is remembered of an author.
    fn put_author(&mut self, by: InstanceId, row: &AuthorRow) -> Result<()>;

    /// Writes a row of the chunk index.
    fn put_chunk(&mut self, key: [u8; 16], row: &ChunkRow) -> Result<()>;
    /// Drops a row of the chunk index.
    fn remove_chunk(&mut self, key: [u8; 16]) -> Result<()>;
    /// A pack that is not known; its number is above all others.
    fn insert_pack(&mut self, row: &PackRow) -> Result<PackNo>;
    /// Writes a known pack.
    fn put_pack(&mut self, no: PackNo, row: &PackRow) -> Result<()>;
    /// Forgets a pack that no chunk lies in.
    fn remove_pack(&mut self, no: PackNo) -> Result<()>;

    /// A snapshot whose name is free.
    fn insert_snapshot(&mut self, row: &SnapshotRow) -> Result<()>;
    /// Drops a snapshot.
    fn remove_snapshot(&mut self, name: &str) -> Result<()>;
    /// Writes an endpoint's applied cursor.
    fn put_pin(&mut self, row: &PinRow) -> Result<()>;
    /// Drops an endpoint's cursor and all that it holds.
    fn remove_pin(&mut self, endpoint: EndpointId) -> Result<()>;
    /// Holds a version; holding it twice is holding it once.
    fn put_hold(&mut self, row: HoldRow) -> Result<()>;
    /// Lets go of a version.
    fn remove_hold(&mut self, row: HoldRow) -> Result<()>;
    /// Writes a sweep, which is its own key. Two sweeps may overlap.
    fn put_sweep(&mut self, sweep: Sweep) -> Result<()>;
    /// Drops a sweep.
    fn remove_sweep(&mut self, sweep: Sweep) -> Result<()>;
}
