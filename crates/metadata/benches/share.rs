//! What a share's rows cost: `cargo bench -p polder-metadata --bench share -- [NODES] [FOLDER]`. One line a figure.
//! Everything is durable when it is counted. `FOLDER` is where the database lies; the default is the current one.

#![allow(clippy::unwrap_used, reason = "a benchmark that fails should stop")]

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use polder_ledger::{
    At, CommitContext, FeedFrom, LedgerError, NewPack, ShareSettings, Slot, TreeChunks, bootstrap, changes,
    commit, create_share, expire_step, have, list, pack_verified, register_pack, thin_step,
};
use polder_metadata::share::ShareDb;
use polder_types::{
    Attrs, Author, BatchNo, Body, CaseRule, ChunkId, Content, Cursor, EndpointId, Extent, ExtentSource,
    Group, GroupAnswer, InstanceId, Name, NodeUid, Op, PackId, Placed, Seq, ShareId, Tag, Timestamp,
};

const BATCH: u64 = 1000;
const DIRECTORY: u64 = 1000;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let nodes = arguments.first().map_or(200_000, |count| count.parse().unwrap());
    let folder = arguments.get(1).map_or(PathBuf::from("."), PathBuf::from);
    let dir = tempfile::tempdir_in(folder).unwrap();
    let path = dir.path().join("share.db");
    let mut bench = Bench { db: open(&path), tag: 0, batch: 0, time_ms: 1_000_000, known: Cursor::default() };

    bench.register(nodes);
    bench.create(nodes);
    let bytes = std::fs::metadata(&path).unwrap().len();
    bench.db = ShareDb::memory();
    bench.db = ShareDb::open(&path).unwrap();
    let folded = std::fs::metadata(&path).unwrap().len();
    println!("bytes a node of one chunk\t{:.0}", bytes.max(folded) as f64 / nodes as f64);
    bench.follow(nodes);
    bench.update(nodes);
    bench.single();
    bench.many_threads();
    bench.read(nodes);
    bench.history();
}

fn open(path: &std::path::Path) -> ShareDb {
    let db = ShareDb::open(path).unwrap();
    let settings = ShareSettings { id: ShareId([1; 16]), case: CaseRule::Sensitive, chunker: 1 };
    db.write(move |rows| create_share(rows, &settings, 0)).unwrap();
    db
}

/// A scrambled number, so that chunk ids come in random order, as hashes do.
fn scramble(number: u64) -> u64 {
    let mut value = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

fn chunk(number: u64) -> ChunkId {
    let mut id = [0; 32];
    for (part, nth) in id.chunks_exact_mut(8).zip(0..) {
        part.copy_from_slice(&scramble(number * 4 + nth).to_le_bytes());
    }
    ChunkId(id)
}

fn uid(number: u64) -> NodeUid {
    let mut random = [0; 10];
    random[..8].copy_from_slice(&scramble(number).to_le_bytes());
    NodeUid::from_parts(1_700_000_000_000 + number / 100, random)
}

fn content(number: u64) -> Content {
    let extent = Extent { len: 4096, source: ExtentSource::Chunk { id: chunk(number), skip: 0 } };
    Content::File { size: 4096, body: Body::Inline(vec![extent]) }
}

fn attrs() -> Attrs {
    Attrs {
        mode: 0o644,
        uid: 1000,
        gid: 1000,
        owner: "user".into(),
        group: "users".into(),
        ..Attrs::default()
    }
}

fn create(number: u64) -> Op {
    let directory = number / DIRECTORY * DIRECTORY;
    let (parent, content) = if number == directory {
        (NodeUid::ROOT, Content::Directory)
    } else {
        (uid(directory), content(number))
    };
    let name = Name::parse(format!("file-{number:07}.dat").as_bytes()).unwrap();
    let mtime = Timestamp::new(1_700_000_000 + number as i64, 123_456_789);
    Op::Create { uid: uid(number), at: Placed { parent, name }, mtime, attrs: attrs(), content }
}

/// When a measurement began, by the clock and by this process's processor time: the second says what the first would be
/// on a machine that does nothing else.
#[derive(Clone, Copy)]
struct Began {
    clock: Instant,
    cpu_s: f64,
}

/// Processor time of all threads so far, in seconds, to a hundredth.
fn cpu_s() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    // Fields 14 and 15 of the whole line, in ticks of which Linux shows 100 a second.
    let ticks: u64 =
        fields.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    ticks as f64 / 100.0
}

fn begin() -> Began {
    Began { clock: Instant::now(), cpu_s: cpu_s() }
}

fn rate(what: &str, count: u64, began: Began) {
    let (clock_s, cpu_s) = (began.clock.elapsed().as_secs_f64(), cpu_s() - began.cpu_s);
    println!(
        "{what}\t{:.0} /s\t{:.1} us of processor each",
        count as f64 / clock_s,
        cpu_s * 1e6 / count as f64
    );
}

fn send(db: &ShareDb, known: Cursor, tag: u64, batch: u64, time_ms: u64, ops: Vec<Op>) -> Cursor {
    let groups: Vec<Group> = ops.into_iter().map(|op| Group { ops: vec![op] }).collect();
    let answer = db.write(move |rows| {
        let trees = TreeChunks::new();
        let (announced, brake, quota_bytes) = (BatchNo(0), None, None);
        let context =
            CommitContext { time_ms, tag: Tag(tag), known, announced, quota_bytes, brake, trees: &trees };
        commit(rows, &context, Author { by: InstanceId([1; 16]), batch: BatchNo(batch) }, &groups)
    });
    let answer: polder_types::BatchAnswer = answer.map_err(|error: LedgerError| error.to_string()).unwrap();
    let refused = answer.groups.iter().find(|group| matches!(group, GroupAnswer::Refused { .. }));
    assert!(refused.is_none(), "{refused:?}");
    answer.cursor
}

struct Bench {
    db: ShareDb,
    tag: u64,
    batch: u64,
    time_ms: u64,
    known: Cursor,
}

impl Bench {
    fn send(&mut self, ops: Vec<Op>) {
        self.batch += 1;
        self.tag += 1;
        self.known = send(&self.db, self.known, self.tag, self.batch, self.time_ms, ops);
    }

    fn register(&mut self, nodes: u64) {
        let began = begin();
        for first in (0..nodes + 100_000).step_by(4000) {
            let mut id = [0; 16];
            id[..8].copy_from_slice(&first.to_be_bytes());
            let slot = |number: u64| {
                let mut slot = [0; 12];
                slot[..8].copy_from_slice(&number.to_le_bytes());
                Slot::new(&slot).unwrap()
            };
            let pack = NewPack {
                id: PackId(id),
                bytes: 16 << 20,
                key_gen: 1,
                meta: Box::new([7; 36]),
                chunks: (first..first + 4000).map(|number| (chunk(number), slot(number))).collect(),
                replaces: Vec::new(),
            };
            let job = move |rows: &mut dyn polder_ledger::RowsMut| -> Result<(), LedgerError> {
                register_pack(rows, &pack, 1, None)?;
                pack_verified(rows, pack.id, &[], 1)
            };
            self.db.write(job).unwrap();
        }
        rate("chunks registered, packs of 4000", nodes, began);
    }

    fn create(&mut self, nodes: u64) {
        let began = begin();
        for first in (0..nodes).step_by(BATCH as usize) {
            self.send((first..(first + BATCH).min(nodes)).map(create).collect());
        }
        rate("creates, batches of 1000", nodes, began);
    }

    fn update(&mut self, nodes: u64) {
        let count = (nodes / 4).min(100_000);
        // Directories are passed over; node n was made by the operation after its batch's number.
        let base = |number: u64| Seq(number + number / BATCH + 2);
        let numbers: Vec<u64> = (0..count).filter(|number| !number.is_multiple_of(DIRECTORY)).collect();
        let began = begin();
        for part in numbers.chunks(BATCH as usize) {
            let op = |number: &u64| Op::Update {
                uid: uid(*number),
                base: base(*number),
                mtime: Some(Timestamp::new(1_800_000_000, 5)),
                attrs: None,
                content: Some(content(nodes + number)),
            };
            self.send(part.iter().map(op).collect());
        }
        rate("updates, batches of 1000", numbers.len() as u64, began);
    }

    fn single(&mut self) {
        let mut times = Vec::new();
        let began = begin();
        for number in 0..3000 {
            let start = Instant::now();
            self.send(vec![create(1_000_000_000 + number).into_hole()]);
            times.push(start.elapsed());
        }
        rate("commits of one operation, one thread", 3000, began);
        times.sort_unstable();
        println!("the same: p50\t{:.2} ms", times[1500].as_secs_f64() * 1e3);
        println!("the same: p99\t{:.2} ms", times[2970].as_secs_f64() * 1e3);
    }

    fn many_threads(&mut self) {
        let next = AtomicU64::new(0);
        let (db, known) = (&self.db, self.known);
        let began = begin();
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= 20_000 {
                            return;
                        }
                        let op = create(2_000_000_000 + number).into_hole();
                        send(db, known, number, 10_000_000 + number, 2_000_000, vec![op]);
                    }
                });
            }
        });
        rate("commits of one operation, 16 threads", 20_000, began);
    }

    fn follow(&mut self, nodes: u64) {
        let (mut count, mut next): (u64, Option<FeedFrom>) = (0, None);
        let began = begin();
        loop {
            let page = self.db.read(|rows| changes(rows, Cursor::default(), next, 4000)).unwrap();
            count += page.rows.len() as u64;
            next = page.next;
            if next.is_none() {
                break;
            }
        }
        assert_eq!(count, nodes);
        rate("feed, rows", count, began);
        let (mut count, mut from, mut after) = (0, None, None);
        let began = begin();
        loop {
            let page = self.db.read(|rows| bootstrap(rows, from, after, 4000)).unwrap();
            count += page.rows.len() as u64;
            (from, after) = (Some(page.from), page.next);
            if after.is_none() {
                break;
            }
        }
        rate("bootstrap, rows", count, began);
    }

    fn read(&mut self, nodes: u64) {
        let ids: Vec<ChunkId> = (0..10_000).map(|number| chunk(number * 7 % nodes)).collect();
        let began = begin();
        for part in ids.chunks(1000) {
            assert!(self.db.read(|rows| have(rows, part)).unwrap().iter().all(|have| *have));
        }
        rate("have, chunks", ids.len() as u64, began);
        for (what, at) in [("now", At::Now), ("in the past", At::Seq(Seq(1 + BATCH)))] {
            let began = begin();
            let rounds = 50u64;
            for _ in 0..rounds {
                let page = self.db.read(|rows| list(rows, uid(0), None, 1000, at)).unwrap().unwrap();
                assert_eq!(page.nodes.len() as u64, DIRECTORY - 1);
            }
            println!(
                "page of 1000 {what}\t{:.2} ms",
                began.clock.elapsed().as_secs_f64() * 1e3 / rounds as f64
            );
        }
        let began = begin();
        let cursor = self.known;
        for number in 0..500u64 {
            let endpoint = EndpointId([(number % 7) as u8; 16]);
            self.db.write(move |rows| polder_ledger::set_applied(rows, endpoint, cursor)).unwrap();
        }
        rate("applied cursors", 500, began);
    }

    fn history(&mut self) {
        let policy = polder_ledger::HistoryPolicy::default();
        let names = ["thinning, steps of 1000 rows", "expiry, steps of 1000 rows"];
        for (what, step) in names.into_iter().zip([thin_step, expire_step]) {
            let time_ms = self.time_ms + (1 << 40);
            let (began, mut dropped) = (begin(), 0);
            loop {
                let policy = policy.clone();
                let done = self.db.write(move |rows| step(rows, &policy, time_ms, 1000)).unwrap();
                dropped += done.dropped;
                if !done.more {
                    break;
                }
            }
            println!("{what}\t{dropped} dropped in {:.2} s", began.clock.elapsed().as_secs_f64());
        }
    }
}

/// The same node without a chunk.
trait IntoHole {
    fn into_hole(self) -> Self;
}

impl IntoHole for Op {
    fn into_hole(self) -> Self {
        match self {
            Op::Create { uid, at, mtime, attrs, .. } => {
                let at = Placed { parent: NodeUid::ROOT, ..at };
                let extent = Extent { len: 4096, source: ExtentSource::Hole };
                let content = Content::File { size: 4096, body: Body::Inline(vec![extent]) };
                Op::Create { uid, at, mtime, attrs, content }
            }
            other => other,
        }
    }
}
