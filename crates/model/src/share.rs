//! A share's rows as part of a state that a search can keep, compare and hash.

use std::fmt::{self, Write};
use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;

use polder_ledger::{LedgerError, Rows, RowsMut, ShareSettings, create_share};
use polder_metadata::share::MemoryRows;
use polder_types::{
    Attrs, Body, CaseRule, ChunkId, Content, Extent, ExtentSource, NodeUid, Op, Placed, Seq, ShareId,
    Timestamp,
};

/// Rows that are shared by all states in which they are the same. Equal rows have equal prints; that two prints of
/// unequal rows meet is as unlikely as that two states of the search do.
#[derive(Clone)]
pub struct Share {
    rows: Arc<MemoryRows>,
    print: u64,
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Share({:016x})", self.print)
    }
}

impl PartialEq for Share {
    fn eq(&self, other: &Self) -> bool {
        self.print == other.print
    }
}

impl Eq for Share {}

impl Share {
    /// A new share.
    ///
    /// # Panics
    /// When the commit core cannot make one.
    pub fn new() -> Self {
        let settings = ShareSettings { id: ShareId([9; 16]), case: CaseRule::Sensitive, chunker: 1 };
        let mut rows = MemoryRows::new();
        create_share(&mut rows, &settings, 0).expect("an empty database takes a share");
        rows.keep();
        let print = print_of(&rows);
        Self { rows: Arc::new(rows), print }
    }

    /// For reading.
    pub fn rows(&self) -> &dyn Rows {
        &*self.rows
    }

    /// One transaction: an error takes back what it wrote.
    pub fn write<T>(
        &mut self,
        job: impl FnOnce(&mut dyn RowsMut) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        let mut rows = MemoryRows::clone(&self.rows);
        let done = job(&mut rows)?;
        rows.keep();
        self.print = print_of(&rows);
        self.rows = Arc::new(rows);
        Ok(done)
    }

    /// The live version of a node.
    pub fn live(&self, uid: NodeUid) -> Option<(Seq, Content)> {
        let ident = self.rows.ident(uid).ok()??;
        self.rows.node(ident.nid).ok()?.map(|row| (row.since, row.content))
    }

    /// Whether the share ever heard of a node.
    pub fn knows(&self, uid: NodeUid) -> bool {
        self.rows.ident(uid).is_ok_and(|ident| ident.is_some())
    }
}

impl Default for Share {
    fn default() -> Self {
        Self::new()
    }
}

/// Hashes what a value prints, without making a string of it: most of the core's words can be printed, few hashed.
pub fn print_of(value: &impl fmt::Debug) -> u64 {
    struct Sink(DefaultHasher);
    impl Write for Sink {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0.write(text.as_bytes());
            Ok(())
        }
    }
    let mut sink = Sink(DefaultHasher::new());
    // The sink takes everything.
    let _ = write!(sink, "{value:?}");
    sink.0.finish()
}

/// A chunk of this number.
pub fn chunk(number: u8) -> ChunkId {
    ChunkId([number; 32])
}

/// A file of one chunk.
pub fn file(number: u8) -> Content {
    let extent = Extent { len: 10, source: ExtentSource::Chunk { id: chunk(number), skip: 0 } };
    Content::File { size: 10, body: Body::Inline(vec![extent]) }
}

/// The only chunk of [`file()`].
pub fn chunk_of(content: &Content) -> Option<u8> {
    content.direct_chunks().next().map(|id| id.0[0])
}

/// The id of item number 0, 1, …
pub fn item(number: u8) -> NodeUid {
    NodeUid([number + 1; 16])
}

/// The operation that gives an item this content, whatever became of it before.
pub fn put_op(share: &Share, number: u8, content: Content) -> Op {
    let uid = item(number);
    match share.live(uid) {
        Some((base, _)) => Op::Update { uid, base, mtime: None, attrs: None, content: Some(content) },
        None => new_op(number, content, share.knows(uid)),
    }
}

/// Creates an item, or has it live again.
pub fn new_op(number: u8, content: Content, again: bool) -> Op {
    let name = format!("item-{number}").parse().expect("a plain name");
    let (uid, at) = (item(number), Placed { parent: NodeUid::ROOT, name });
    let (mtime, attrs) = (Timestamp::new(1, 0), Attrs { mode: 0o644, ..Attrs::default() });
    match again {
        false => Op::Create { uid, at, mtime, attrs, content },
        true => Op::Revive { uid, at, mtime, attrs, content },
    }
}
