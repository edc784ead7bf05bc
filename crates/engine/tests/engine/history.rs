//! What a re-baseline takes for the base of a merge (promise I7; the story was found by `crates/model`), and what an opening tells
//! of batches whose answers were lost.

use polder_engine::{
    Anew, Announced, Effect, Engine, Event, FeedRow, JobId, Kept, Now, Page, RootSeen, Settings, Started,
};
use polder_sync::{Offer, SyncedNode, TreeStore, mem::MemStore};
use polder_types::{
    Attrs, BatchNo, Body, CaseRule, Content, Cursor, Epoch, Extent, ExtentSource, FileIdent, InstanceId,
    NodeState, NodeUid, Placed, Seq, Stamp, Tag, Timestamp,
};

const FILE: NodeUid = NodeUid([7; 16]);

fn content(len: u64) -> Content {
    let extents = vec![Extent { len, source: ExtentSource::Hole }];
    Content::File { size: len, body: Body::Inline(extents) }
}

fn place() -> Placed {
    Placed { parent: NodeUid::ROOT, name: "file".parse().expect("a plain name") }
}

fn stamp(ino: u64) -> Stamp {
    let ident = FileIdent { ino, generation: 1 };
    Stamp { ident, ctime: Timestamp::new(1, 0), mtime: Timestamp::new(1, 0), size: 0 }
}

fn head(seq: u64) -> Cursor {
    Cursor { epoch: Epoch(0), seq: Seq(seq), tag: Tag(9) }
}

struct Bench {
    engine: Engine,
    store: MemStore,
    effects: Vec<Effect>,
}

impl Bench {
    /// An agent that agreed on version 20 of a file with the share.
    fn agreed() -> Self {
        let mut store = MemStore::new(CaseRule::Sensitive);
        let attrs = store.put_attrs(&Attrs::default()).expect("maps");
        let row = SyncedNode {
            at: place(),
            content: content(20),
            attrs_share: attrs,
            attrs_here: attrs,
            mtime_share: Timestamp::new(1, 0),
            stamp: stamp(2),
            since: Seq(20),
        };
        store.put_synced(FILE, Some(&row)).expect("maps");
        let mut bench =
            Self { engine: Engine::new(Settings::new("here"), [3; 32]), store, effects: Vec::new() };
        bench.start();
        bench
    }

    fn start(&mut self) {
        let root = RootSeen { stamp: stamp(1), attrs: Attrs::default().into() };
        self.step(Event::Started(Started { instance: InstanceId([1; 16]), root: Ok(root) }));
        self.step(Event::Connected);
    }

    fn step(&mut self, event: Event) {
        let now = Now { mono_ms: 1, unix_ms: 1 };
        self.effects = self.engine.step(&mut self.store, now, event).expect("maps");
    }

    fn job(&self, find: impl Fn(&Effect) -> Option<JobId>) -> JobId {
        self.effects.iter().find_map(find).expect("the engine asked")
    }

    fn announced(&mut self, answer: Announced) {
        let job = self.job(|effect| match effect {
            Effect::Announce { job, .. } => Some(*job),
            _ => None,
        });
        self.step(Event::Announced { job, answer });
    }

    /// The tree has another version of the file, with a higher number.
    fn read_tree(&mut self) {
        let answers = Vec::new();
        self.announced(Announced::Accepted { head: head(30), answers, answers_known: false, held: false });
        let job = self.job(|effect| match effect {
            Effect::FetchTree { job, .. } => Some(*job),
            _ => None,
        });
        let node = NodeState {
            uid: FILE,
            at: place(),
            mtime: Timestamp::new(1, 0),
            attrs: Attrs::default(),
            content: content(30),
            since: Seq(30),
            by: InstanceId([2; 16]),
        };
        let rows = vec![FeedRow::Live(Box::new(node))];
        self.step(Event::Page { job, page: Ok(Page { rows, upto: head(30), next: None }) });
    }

    fn base(&self) -> Option<Seq> {
        self.store.synced(FILE).expect("maps").map(|row| row.since)
    }
}

/// The service was set back to before version 20, and its numbers were used again: version 30 did not grow from what is
/// here, and its author never saw it. It must not be applied over it as if it had.
#[test]
fn a_row_of_a_lost_history_is_no_base() {
    let mut bench = Bench::agreed();
    bench.announced(Announced::Rebaseline(Anew { why: "another history".into(), other_history: true }));
    bench.read_tree();
    assert_eq!(bench.base(), None);
}

#[test]
fn that_is_so_after_a_restart_too() {
    let mut bench = Bench::agreed();
    bench.announced(Announced::Rebaseline(Anew { why: "another history".into(), other_history: true }));
    bench.engine = Engine::new(Settings::new("here"), [4; 32]);
    bench.start();
    bench.read_tree();
    assert_eq!(bench.base(), None);
}

/// This side is behind, in one and the same history: what came later grew from what is here.
#[test]
fn an_older_row_of_the_same_history_is_the_base() {
    let mut bench = Bench::agreed();
    bench.announced(Announced::Rebaseline(Anew { why: "an old state".into(), other_history: false }));
    bench.read_tree();
    assert_eq!(bench.base(), Some(Seq(20)));
}

/// The base after an opening that tells this of a batch which had offered version 25 of the file.
fn base_after(accepted: Option<Option<Seq>>) -> Option<Seq> {
    let mut bench = Bench::agreed();
    let row = bench.store.synced(FILE).expect("maps").expect("agreed");
    let becomes = Some(SyncedNode { content: content(25), ..row });
    let offer = Offer { uid: FILE, batch: BatchNo(4), group: 0, op: 0, becomes };
    bench.store.put_offer(&offer).expect("maps");
    let answers = accepted.map(|first| Kept { batch: BatchNo(4), accepted: vec![first] });
    let answers = answers.into_iter().collect();
    bench.announced(Announced::Accepted { head: head(30), answers, answers_known: true, held: false });
    assert!(bench.store.offers().expect("maps").is_empty(), "nothing can become of it any more");
    bench.base()
}

/// Somebody has edited the version since, so that the feed does not tell of it: it is agreed all the same.
#[test]
fn what_was_accepted_is_agreed_whatever_the_feed_tells() {
    assert_eq!(base_after(Some(Some(Seq(25)))), Some(Seq(25)));
}

#[test]
fn what_was_refused_or_never_taken_is_not_agreed() {
    assert_eq!(base_after(Some(None)), Some(Seq(20)));
    assert_eq!(base_after(None), Some(Seq(20)));
}
