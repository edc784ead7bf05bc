//! The service: the commit core of `ledger` over rows in memory, packs in a store, sessions, openings, and its
//! background work.
//!
//! A transaction is whole or not there, and durable when it is answered. A service that is set back to a backup has
//! old rows and the store of now.

pub mod opening;
pub mod prune;
pub mod store;

use std::collections::{BTreeMap, BTreeSet};

use polder_engine::{Anew, BatchError, FeedError, FeedRow, Kept, Page, PageToken, Pin};
use polder_ledger::{
    CommitContext, FeedFrom, HistoryPolicy, LedgerError, NewPack, NodeRow, RowsMut, ShareSettings, Slot,
    TreeChunks,
};
use polder_metadata::share::MemoryRows;
use polder_types::{
    Author, BatchAnswer, CaseRule, ChunkId, Cursor, EndpointId, Epoch, Group, InstanceId, Nid, NodeState,
    NodeUid, PackId, Seq, ShareId, Tag,
};

use crate::rng::Rng;
use opening::{Asked, Decided, Progress};
use store::{Damage, Store};

const SHARE: ShareId = ShareId([7; 16]);
const MAPS: &str = "maps do not fail";

/// The service.
#[derive(Debug)]
pub struct Service {
    /// The share's rows.
    pub rows: MemoryRows,
    /// Packs.
    pub store: Store,
    progress: BTreeMap<EndpointId, Progress>,
    /// Sessions by number: which process holds each.
    sessions: BTreeMap<u64, u64>,
    /// Its lives so far.
    pub boots: u64,
    /// Packs that were taken in and not read back yet.
    pub unverified: BTreeSet<PackId>,
    pub(crate) prune: prune::Prune,
    backup: Option<(MemoryRows, BTreeMap<EndpointId, Progress>)>,
    rng: Rng,
    time_ms: u64,
    /// Operations accepted so far.
    pub op_count: u64,
    /// Rows of one page of the feed.
    page_rows: usize,
}

/// What became of a batch.
pub struct Committed {
    /// The answer.
    pub answer: Result<BatchAnswer, BatchError>,
    /// Whether the head moved.
    pub moved: bool,
    /// States before of the nodes that were named.
    pub before: BTreeMap<NodeUid, NodeState>,
}

impl Service {
    /// A service with an empty share.
    pub fn new(seed: u64, page_rows: usize) -> Self {
        let mut rows = MemoryRows::new();
        let settings = ShareSettings { id: SHARE, case: CaseRule::Sensitive, chunker: 1 };
        polder_ledger::create_share(&mut rows, &settings, 0).expect(MAPS);
        rows.keep();
        Self {
            rows,
            store: Store::default(),
            progress: BTreeMap::new(),
            sessions: BTreeMap::new(),
            boots: 0,
            unverified: BTreeSet::new(),
            prune: prune::Prune::default(),
            backup: None,
            rng: Rng::new(seed, 7),
            time_ms: 0,
            op_count: 0,
            page_rows,
        }
    }

    /// What time it is by the service's monotone clock.
    pub fn set_clock(&mut self, time_ms: u64) {
        self.time_ms = self.time_ms.max(time_ms);
    }

    /// The head of the share.
    pub fn head(&self) -> Cursor {
        polder_ledger::share_row(&self.rows).expect(MAPS).head
    }

    /// A transaction that writes.
    pub(crate) fn write<T>(
        &mut self,
        run: impl FnOnce(&mut dyn RowsMut) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        let done = run(&mut self.rows);
        match done {
            Ok(_) => self.rows.keep(),
            Err(_) => self.rows.take_back(),
        }
        done
    }

    /// A session begins.
    pub fn connect(&mut self, session: u64, process: u64) {
        self.sessions.insert(session, process);
    }

    /// A session is known to be over.
    pub fn disconnect(&mut self, session: u64) {
        self.sessions.remove(&session);
    }

    /// The process ends and another begins: all sessions are over.
    pub fn restart(&mut self) {
        self.boots += 1;
        self.sessions.clear();
        self.prune.restart();
    }

    /// Keeps a copy of the rows.
    pub fn back_up(&mut self) {
        self.backup = Some((self.rows.clone(), self.progress.clone()));
    }

    /// Puts the copy in the place of the rows. `false` when there is none.
    pub fn set_back(&mut self) -> bool {
        let Some((rows, progress)) = self.backup.clone() else { return false };
        (self.rows, self.progress) = (rows, progress);
        self.unverified = self
            .all_packs()
            .into_iter()
            .filter(|pack| pack.verified_ms.is_none())
            .map(|pack| pack.id)
            .collect();
        self.restart();
        true
    }

    /// Opens an endpoint.
    pub fn open(&mut self, asked: &Asked) -> Decided {
        let (by, next) = (asked.instance, asked.next_batch);
        let author = Author { by, batch: next };
        let looked = (|| {
            polder_ledger::check_cursor(&self.rows, asked.known)?;
            let rows: &dyn polder_ledger::Rows = &self.rows;
            let announced = rows.author(by)?.is_some_and(|row| row.batch_min > next);
            Ok::<_, LedgerError>(announced || rows.answer(author)?.is_some())
        })();
        let used = match looked {
            Ok(used) => used,
            Err(LedgerError::SetBack) => return Decided::OtherHistory,
            Err(LedgerError::CursorTooOld) => {
                return Decided::SetBack("away for longer than changes are kept");
            }
            Err(error) => panic!("maps do not fail: {error}"),
        };
        let head = self.head();
        let progress = self.progress.entry(asked.endpoint).or_default();
        let is_alive = |process: u64| self.sessions.values().any(|other| *other == process);
        let lives = progress.process.is_some_and(|process| process != asked.process && is_alive(process));
        let mut decided = opening::judge(progress, asked, used, (lives, is_alive(asked.process)), head);
        progress.note(asked, &decided);
        if let Decided::Opened { kept, .. } = &mut decided {
            let answers = self.write(|rows| {
                polder_ledger::announce(rows, by, next)?;
                polder_ledger::kept_answers(rows, by, &asked.open)
            });
            let answers = answers.expect(MAPS);
            *kept = answers.iter().map(|(batch, answer)| Kept::of(*batch, answer)).collect();
        }
        decided
    }

    /// Whether an opening is the one that counts.
    pub fn is_open(&self, endpoint: EndpointId, opening: Option<InstanceId>) -> bool {
        let progress = self.progress.get(&endpoint);
        opening.is_some() && progress.is_some_and(|progress| !progress.stopped && progress.opening == opening)
    }

    /// Whether an endpoint was stopped because two agents used it.
    pub fn is_stopped(&self, endpoint: EndpointId) -> bool {
        self.progress.get(&endpoint).is_some_and(|progress| progress.stopped)
    }

    /// A person has acted: the endpoint may be opened again.
    pub fn let_go(&mut self, endpoint: EndpointId) {
        if let Some(progress) = self.progress.get_mut(&endpoint) {
            progress.stopped = false;
        }
    }

    /// Takes a batch.
    pub fn commit(&mut self, author: Author, known: Cursor, groups: &[Group]) -> Committed {
        let named = groups.iter().flat_map(|group| &group.ops).map(polder_types::Op::uid);
        let before = named.filter_map(|uid| Some((uid, self.stat(uid)?))).collect();
        let tag = Tag(self.rng.next() | 1);
        let trees = TreeChunks::new();
        let context = CommitContext {
            time_ms: self.time_ms,
            tag,
            known,
            announced: polder_types::BatchNo(0),
            quota_bytes: None,
            brake: None,
            trees: &trees,
        };
        let head = self.head();
        let answer = self.write(|rows| polder_ledger::commit(rows, &context, author, groups));
        let answer = answer.map_err(|error| match error {
            LedgerError::SetBack | LedgerError::CursorTooOld => BatchError::Rebaseline(other_history()),
            LedgerError::StaleBatch { .. } => BatchError::Stale,
            error => panic!("maps do not fail: {error}"),
        });
        Committed { answer, moved: self.head() != head, before }
    }

    /// What stands at an endpoint is to be kept. A cursor of another history is its opening's to notice.
    pub fn report(&mut self, endpoint: EndpointId, pin: &Pin) {
        match self.write(|rows| polder_ledger::set_applied_but(rows, endpoint, pin.cursor, &pin.behind)) {
            Ok(()) | Err(LedgerError::SetBack | LedgerError::CursorTooOld) => (),
            Err(error) => panic!("maps do not fail: {error}"),
        }
    }

    /// Lets go of versions that are older than `history_ms`. Changes stay: nobody is away for too long.
    pub fn expire(&mut self, history_ms: u64) {
        let policy = HistoryPolicy { thin: Vec::new(), history_ms, absence_ms: u64::MAX };
        let time_ms = self.time_ms;
        while self.write(|rows| polder_ledger::expire_step(rows, &policy, time_ms, 16)).expect(MAPS).more {}
    }

    /// A node as it is now.
    pub fn stat(&self, uid: NodeUid) -> Option<NodeState> {
        polder_ledger::stat(&self.rows, uid, polder_ledger::At::Now).expect(MAPS)
    }

    /// A page of what changed, with where its chunks are.
    pub fn feed(&self, after: Cursor, page: Option<&PageToken>) -> Result<Page, FeedError> {
        let go_on = page.map(decode_feed);
        let page = polder_ledger::changes(&self.rows, after, go_on, self.page_rows);
        let page = page.map_err(|_| FeedError::Rebaseline(other_history()))?;
        let rows = page.rows.into_iter().map(|row| match row {
            polder_ledger::FeedRow::Node(state) => FeedRow::Live(Box::new(state)),
            polder_ledger::FeedRow::Gone { uid, seq, .. } => {
                FeedRow::Gone { uid, since: seq, by: InstanceId::ZERO }
            }
        });
        let next =
            page.next.map(|next| encode([next.upto.epoch.0, next.upto.seq.0, next.upto.tag.0, next.seq.0]));
        Ok(Page { rows: rows.collect(), upto: page.upto, next })
    }

    /// A page of the whole tree.
    pub fn tree(&self, page: Option<&PageToken>) -> Result<Page, FeedError> {
        let from = page.map(decode_feed);
        let (cursor, after) = (from.map(|from| from.upto), from.map(|from| Nid(from.seq.0)));
        let page = polder_ledger::bootstrap(&self.rows, cursor, after, self.page_rows);
        let page = page.map_err(|_| FeedError::Rebaseline(other_history()))?;
        let rows = page.rows.into_iter().map(|state| FeedRow::Live(Box::new(state))).collect();
        let next = page.next.map(|nid| encode([page.from.epoch.0, page.from.seq.0, page.from.tag.0, nid.0]));
        Ok(Page { rows, upto: page.from, next })
    }

    /// Takes in a pack: its object first, then its rows, if its footer can be read.
    pub fn put_pack(&mut self, pack: PackId, chunks: &BTreeSet<ChunkId>, damage: Option<Damage>) {
        self.store.put(pack, chunks.clone(), damage);
        let slot = Slot::new(&[]).expect("nothing fits");
        let new = NewPack {
            id: pack,
            bytes: chunks.iter().map(|chunk| crate::disk::size_of(crate::disk::token_in(*chunk))).sum(),
            key_gen: 1,
            meta: Box::default(),
            chunks: chunks.iter().map(|chunk| (*chunk, slot)).collect(),
            replaces: Vec::new(),
        };
        let time_ms = self.time_ms;
        self.write(|rows| polder_ledger::register_pack(rows, &new, time_ms, None)).expect(MAPS);
        self.unverified.insert(pack);
    }

    /// Whether a chunk need not be sent.
    pub fn have(&self, chunk: ChunkId) -> bool {
        polder_ledger::have(&self.rows, &[chunk]).expect(MAPS)[0]
    }

    /// Where a chunk can be read.
    pub fn locate(&self, chunk: ChunkId) -> Option<PackId> {
        let found = polder_ledger::locate(&self.rows, &[chunk]).expect(MAPS).remove(0);
        found.map(|at| at.pack)
    }

    /// All live nodes but the root: number, id and row.
    pub fn nodes(&self) -> Vec<(NodeUid, NodeRow)> {
        polder_ledger::Rows::nodes(&self.rows, None, usize::MAX).expect(MAPS)
    }

    pub(crate) fn all_packs(&self) -> Vec<polder_ledger::PackRow> {
        let packs = polder_ledger::Rows::packs(&self.rows, None, usize::MAX).expect(MAPS);
        packs.into_iter().map(|(_, pack)| pack).collect()
    }
}

fn other_history() -> Anew {
    Anew { why: "another history".into(), other_history: true }
}

fn encode(numbers: [u64; 4]) -> PageToken {
    PageToken(numbers.iter().flat_map(|number| number.to_le_bytes()).collect())
}

fn decode_feed(token: &PageToken) -> FeedFrom {
    let number = |nth: usize| u64::from_le_bytes(token.0[8 * nth..][..8].try_into().expect("eight bytes"));
    let upto = Cursor { epoch: Epoch(number(0)), seq: Seq(number(1)), tag: Tag(number(2)) };
    FeedFrom { upto, seq: Seq(number(3)) }
}
