//! A share to test with, in each form, and short words for what tests say often.

use std::collections::BTreeMap;

use polder_ledger::{
    At, Brake, CommitContext, LedgerError, NewPack, RowsError, ShareSettings, Slot, TreeChunks, commit,
    create_share, list, register_pack,
};
use polder_metadata::share::ShareDb;
use polder_types::{
    Attrs, Author, BatchAnswer, BatchNo, Body, CaseRule, ChunkId, Content, Cursor, Extent, ExtentSource,
    Group, GroupAnswer, InstanceId, Kind, Name, NodeState, NodeUid, Op, PackId, Placed, Refusal, Seq,
    ShareId, Tag, Timestamp,
};

pub const A: InstanceId = InstanceId([0xa; 16]);
pub const B: InstanceId = InstanceId([0xb; 16]);

/// One share under test.
pub struct Share {
    pub db: ShareDb,
    dir: Option<tempfile::TempDir>,
    pub time_ms: u64,
    pub known: Cursor,
    pub quota_bytes: Option<u64>,
    pub brake: Option<Brake>,
    pub trees: TreeChunks,
    batches: BTreeMap<InstanceId, u64>,
    tag: u64,
}

impl Share {
    pub fn memory(case: CaseRule) -> Self {
        Self::over(ShareDb::memory(), None, case)
    }

    pub fn sqlite(case: CaseRule) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let db = ShareDb::open(&dir.path().join("share.db")).unwrap();
        Self::over(db, Some(dir), case)
    }

    fn over(db: ShareDb, dir: Option<tempfile::TempDir>, case: CaseRule) -> Self {
        let time_ms = 1_700_000_000_000;
        let settings = ShareSettings { id: ShareId([9; 16]), case, chunker: 1 };
        db.write(move |rows| create_share(rows, &settings, time_ms)).unwrap();
        let (batches, trees) = (BTreeMap::new(), BTreeMap::new());
        Self {
            db,
            dir,
            time_ms,
            known: Cursor::default(),
            quota_bytes: None,
            brake: None,
            trees,
            batches,
            tag: 0,
        }
    }

    /// Closes the file and opens it again; memory has nothing to open.
    pub fn reopen(&mut self) {
        if let Some(dir) = &self.dir {
            self.db = ShareDb::memory();
            self.db = ShareDb::open(&dir.path().join("share.db")).unwrap();
        }
    }

    /// The database file, where there is one.
    pub fn path(&self) -> Option<std::path::PathBuf> {
        self.dir.as_ref().map(|dir| dir.path().join("share.db"))
    }

    pub fn next(&mut self, by: InstanceId) -> Author {
        let next = self.batches.entry(by).or_default();
        *next += 1;
        Author { by, batch: BatchNo(*next) }
    }

    pub fn send(&mut self, author: Author, groups: &[Group]) -> Result<BatchAnswer, LedgerError> {
        self.tag += 1;
        let (time_ms, known, tag) =
            (self.time_ms, self.known, Tag(self.tag.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        let (quota_bytes, brake, trees, groups) =
            (self.quota_bytes, self.brake, self.trees.clone(), groups.to_vec());
        let answer = self.db.write(move |rows| {
            let announced = BatchNo(0);
            let context = CommitContext { time_ms, tag, known, announced, quota_bytes, brake, trees: &trees };
            commit(rows, &context, author, &groups)
        })?;
        self.known = answer.cursor;
        Ok(answer)
    }

    /// One group by `by`.
    pub fn group(&mut self, by: InstanceId, ops: Vec<Op>) -> GroupAnswer {
        let author = self.next(by);
        self.send(author, &[Group { ops }]).unwrap().groups.remove(0)
    }

    /// One group that must be taken; the number of its first operation.
    pub fn ok(&mut self, ops: Vec<Op>) -> Seq {
        match self.group(A, ops) {
            GroupAnswer::Accepted { first } => first,
            refused => panic!("{refused:?}"),
        }
    }

    /// One group that must be refused, with the operation that is to blame.
    pub fn no(&mut self, ops: Vec<Op>) -> (u32, Refusal) {
        match self.group(A, ops) {
            GroupAnswer::Refused { op, why } => (op, why),
            accepted => panic!("{accepted:?}"),
        }
    }

    pub fn at(&self, path: &str, at: At) -> Option<NodeState> {
        let path = polder_types::RelPath::parse(path.as_bytes()).unwrap();
        self.db.read(|rows| polder_ledger::lookup(rows, &path, at)).unwrap()
    }

    pub fn get(&self, path: &str) -> NodeState {
        self.at(path, At::Now).unwrap_or_else(|| panic!("nothing at {path}"))
    }

    /// The whole tree by path, without the root.
    pub fn tree(&self, at: At) -> BTreeMap<String, NodeState> {
        let read = |rows: &dyn polder_ledger::Rows| -> Result<_, LedgerError> {
            let mut found = BTreeMap::new();
            let mut open = vec![(NodeUid::ROOT, String::new())];
            while let Some((uid, path)) = open.pop() {
                let mut after: Option<Box<[u8]>> = None;
                loop {
                    let page = list(rows, uid, after.as_deref(), 3, at)?.expect("a directory");
                    for node in page.nodes {
                        let path = format!("{path}/{}", node.at.name);
                        if node.content.kind() == Kind::Directory {
                            open.push((node.uid, path.clone()));
                        }
                        assert!(found.insert(path, node).is_none(), "a name twice");
                    }
                    after = page.next;
                    if after.is_none() {
                        break;
                    }
                }
            }
            Ok(found)
        };
        self.db.read(read).unwrap()
    }

    pub fn paths(&self, at: At) -> Vec<String> {
        self.tree(at).into_keys().collect()
    }

    /// Registers a live pack with these chunks.
    pub fn pack(&mut self, id: u8, chunks: &[u8]) -> PackId {
        let slot = |at: usize| Slot::new(&[at as u8; 9]).unwrap();
        let pack = NewPack {
            id: PackId([id; 16]),
            bytes: 1000,
            key_gen: 1,
            meta: Box::new([id; 36]),
            chunks: chunks.iter().enumerate().map(|(at, byte)| (chunk(*byte), slot(at))).collect(),
            replaces: Vec::new(),
        };
        let time_ms = self.time_ms;
        self.db.write(move |rows| register_pack(rows, &pack, time_ms, None)).unwrap();
        PackId([id; 16])
    }

    pub fn edit<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut dyn polder_ledger::RowsMut) -> Result<T, LedgerError> + Send + 'static,
    ) -> Result<T, LedgerError> {
        self.db.write(job)
    }

    pub fn head(&self) -> Cursor {
        self.db.read(|rows| polder_ledger::share_row(rows).map_err(LedgerError::from)).unwrap().head
    }
}

pub fn rows_error(error: LedgerError) -> RowsError {
    match error {
        LedgerError::Rows(error) => error,
        other => panic!("{other}"),
    }
}

pub fn uid(n: u8) -> NodeUid {
    NodeUid([n; 16])
}

pub fn chunk(byte: u8) -> ChunkId {
    ChunkId([byte; 32])
}

pub fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub fn place(parent: NodeUid, text: &str) -> Placed {
    Placed { parent, name: name(text) }
}

/// A file of `len` bytes, all hole: needs no chunk.
pub fn hole(len: u64) -> Content {
    let extents = if len == 0 { vec![] } else { vec![Extent { len, source: ExtentSource::Hole }] };
    Content::File { size: len, body: Body::Inline(extents) }
}

/// A file of one chunk of ten bytes.
pub fn bytes(id: u8) -> Content {
    let extent = Extent { len: 10, source: ExtentSource::Chunk { id: chunk(id), skip: 0 } };
    Content::File { size: 10, body: Body::Inline(vec![extent]) }
}

pub fn create(n: u8, parent: NodeUid, text: &str, content: Content) -> Op {
    let (mtime, attrs) = (Timestamp::new(n.into(), 5), Attrs { mode: 0o644, ..Attrs::default() });
    Op::Create { uid: uid(n), at: place(parent, text), mtime, attrs, content }
}

pub fn mkdir(n: u8, parent: NodeUid, text: &str) -> Op {
    create(n, parent, text, Content::Directory)
}

pub fn file(n: u8, parent: NodeUid, text: &str) -> Op {
    create(n, parent, text, hole(n.into()))
}

pub fn revive(n: u8, parent: NodeUid, text: &str, content: Content) -> Op {
    match create(n, parent, text, content) {
        Op::Create { uid, at, mtime, attrs, content } => Op::Revive { uid, at, mtime, attrs, content },
        _ => unreachable!(),
    }
}

pub fn update(n: u8, base: Seq, content: Content) -> Op {
    Op::Update { uid: uid(n), base, mtime: None, attrs: None, content: Some(content) }
}

pub fn mv(n: u8, base: Seq, parent: NodeUid, text: &str) -> Op {
    Op::Move { uid: uid(n), base, to: place(parent, text) }
}

pub fn rm(n: u8, base: Seq) -> Op {
    Op::Delete { uid: uid(n), base }
}

pub const ROOT: NodeUid = NodeUid::ROOT;

/// Runs each test on every form of the rows.
macro_rules! on_all_forms {
    ($($(#[$meta:meta])* fn $name:ident($share:ident) $body:block)*) => {
        $(pub(crate) fn $name($share: &mut $crate::support::Share) $body)*

        mod memory {
            $($(#[$meta])* #[test] fn $name() {
                super::$name(&mut $crate::support::Share::memory(polder_types::CaseRule::Sensitive));
            })*
        }

        mod sqlite {
            $($(#[$meta])* #[test] fn $name() {
                super::$name(&mut $crate::support::Share::sqlite(polder_types::CaseRule::Sensitive));
            })*
        }
    };
}
pub(crate) use on_all_forms;
