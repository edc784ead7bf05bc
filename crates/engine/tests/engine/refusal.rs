//! What follows when the share refuses, or does not answer: the feed is read before anything is planned again (I6, I12). And
//! when a listing does not name what should be there: nothing, before a look (I5).

use polder_engine::{
    Announced, Effect, Engine, Event, Hint, JobId, ListEnd, ListPart, Look, LookFound, Now, Page, RootSeen,
    Settings, Started, Unreachable,
};
use polder_sync::{SyncedNode, TreeStore, mem::MemStore};
use polder_types::{
    Attrs, BatchAnswer, Body, CaseRule, Content, Cursor, Epoch, Extent, ExtentSource, FileIdent, GroupAnswer,
    InstanceId, NodeUid, Placed, Refusal, Seq, Stamp, Tag, Timestamp,
};

const FILE: NodeUid = NodeUid([7; 16]);

fn head(seq: u64) -> Cursor {
    Cursor { epoch: Epoch(0), seq: Seq(seq), tag: Tag(9) }
}

fn stamp(ino: u64) -> Stamp {
    let ident = FileIdent { ino, generation: 1 };
    Stamp { ident, ctime: Timestamp::new(1, 0), mtime: Timestamp::new(1, 0), size: 0 }
}

/// An agent in sync, whose user deletes its one file: the deletion is on its way to the share.
struct Bench {
    engine: Engine,
    store: MemStore,
    now_ms: u64,
    effects: Vec<Effect>,
}

impl Bench {
    fn deleting() -> Self {
        let mut bench = Self::started();
        bench.settle();
        bench.step(Event::Connected);
        bench.settle();
        let hint = Hint { dir: stamp(1).ident, name: Some("file".parse().expect("a plain name")) };
        bench.step(Event::Hints(vec![hint]));
        bench.until_sent();
        bench
    }

    /// With its first scan before it.
    fn started() -> Self {
        let mut store = MemStore::new(CaseRule::Sensitive);
        let attrs = store.put_attrs(&Attrs::default()).expect("maps");
        let extents = vec![Extent { len: 5, source: ExtentSource::Hole }];
        let row = SyncedNode {
            at: Placed { parent: NodeUid::ROOT, name: "file".parse().expect("a plain name") },
            content: Content::File { size: 5, body: Body::Inline(extents) },
            attrs_share: attrs,
            attrs_here: attrs,
            mtime_share: Timestamp::new(1, 0),
            stamp: stamp(2),
            since: Seq(20),
        };
        let cloud = polder_sync::CloudNode {
            at: row.at.clone(),
            content: row.content.clone(),
            attrs,
            mtime: row.mtime_share,
            since: row.since,
        };
        store.put_synced(FILE, Some(&row)).expect("maps");
        store.put_cloud(FILE, Some(&cloud)).expect("maps");
        store.put_cursor(head(30)).expect("maps");
        let engine = Engine::new(Settings::new("here"), [3; 32]);
        let mut bench = Self { engine, store, now_ms: 1, effects: Vec::new() };
        let root = RootSeen { stamp: stamp(1), attrs: Attrs::default().into() };
        bench.step(Event::Started(Started { instance: InstanceId([1; 16]), root: Ok(root) }));
        bench
    }

    fn step(&mut self, event: Event) {
        let now = Now { mono_ms: self.now_ms, unix_ms: self.now_ms };
        self.effects = self.engine.step(&mut self.store, now, event).expect("maps");
    }

    /// Answers what is asked, with an empty disk and a share in which nothing changes, until nothing is asked or a batch is
    /// sent.
    fn settle(&mut self) {
        let mut answers = self.answers();
        while let Some(answer) = answers.pop().filter(|_| self.sent().is_none()) {
            self.step(answer);
            answers.extend(self.answers());
        }
    }

    fn until_sent(&mut self) {
        for _ in 0..100 {
            self.settle();
            if self.sent().is_some() {
                return;
            }
            self.now_ms += 500;
            self.step(Event::Woke);
        }
        panic!("nothing is sent");
    }

    /// Answers to what was asked last, but for batches.
    fn answers(&self) -> Vec<Event> {
        let answer = |effect: &Effect| {
            Some(match effect {
                Effect::List { job, .. } => Event::ListDone { job: *job, entry_count: 1, complete: true },
                Effect::Look { job, places } => {
                    let looks = places.iter().map(|at| Look {
                        dir: at.dir.ident.unwrap_or_default(),
                        name: at.name.clone(),
                        found: LookFound::Nothing,
                    });
                    Event::Looked { job: *job, looks: looks.collect() }
                }
                Effect::Announce { job, .. } => {
                    let answers = Vec::new();
                    let answer =
                        Announced::Accepted { head: head(30), answers, answers_known: false, held: false };
                    Event::Announced { job: *job, answer }
                }
                Effect::FetchFeed { job, .. } | Effect::FetchTree { job, .. } => {
                    let page = Page { rows: Vec::new(), upto: head(30), next: None };
                    Event::Page { job: *job, page: Ok(page) }
                }
                _ => return None,
            })
        };
        self.effects.iter().filter_map(answer).collect()
    }

    fn sent(&self) -> Option<JobId> {
        self.effects.iter().find_map(|effect| match effect {
            Effect::Send { job, .. } => Some(*job),
            _ => None,
        })
    }

    /// Time goes on, and nothing is sent.
    fn sends_nothing(&mut self, times: u32, each_ms: u64, why: &str) {
        for _ in 0..times {
            self.now_ms += each_ms;
            self.step(Event::Woke);
            assert!(self.sent().is_none(), "{why}");
        }
    }

    fn wants_feed(&self) -> bool {
        self.effects.iter().any(|effect| matches!(effect, Effect::FetchFeed { .. }))
    }
}

/// The share knows more than we do: the feed is asked at once, and nothing is sent before it has told.
#[test]
pub fn a_refusal_leads_to_the_feed() {
    let mut bench = Bench::deleting();
    let job = bench.sent().expect("the deletion is offered");
    let why = Refusal::BaseChanged { current: Some(Seq(25)) };
    let groups = vec![GroupAnswer::Refused { op: 0, why }];
    bench.step(Event::Answered { job, answer: Ok(BatchAnswer { cursor: head(30), groups }) });
    assert!(bench.wants_feed(), "{:?}", bench.effects);
    assert!(bench.sent().is_none(), "sent again at once");
    bench.sends_nothing(20, 5_000, "sent again before the feed was read");
}

/// The answer was lost with the session: nobody knows what became of the batch until the feed was read to its head.
#[test]
pub fn a_lost_answer_is_not_made_up_for_before_the_feed() {
    let mut bench = Bench::deleting();
    assert!(bench.sent().is_some());
    bench.step(Event::Disconnected { why: Unreachable::Network("lost".into()) });
    bench.step(Event::Connected);
    let announced = bench.answers();
    assert_eq!(announced.len(), 1);
    announced.into_iter().for_each(|answer| bench.step(answer));
    assert!(bench.wants_feed(), "{:?}", bench.effects);
    assert!(bench.sent().is_none(), "sent again at once");
    bench.sends_nothing(20, 5_000, "sent again before the feed was read");
}

/// A scan does not name a file that should be there. Until a look has found nothing under its name, it is not deleted in the
/// share, however long the look takes.
#[test]
pub fn absence_in_a_listing_is_no_deletion() {
    let mut bench = Bench::started();
    let list = bench.effects.iter().find_map(|effect| match effect {
        Effect::List { job, .. } => Some(*job),
        _ => None,
    });
    let job = list.expect("a start leads to a scan");
    bench.step(Event::Connected);
    while let Some(answer) =
        bench.answers().into_iter().find(|answer| !matches!(answer, Event::Looked { .. }))
    {
        bench.step(answer);
    }
    let end = Some(ListEnd::Complete);
    let part = ListPart {
        dir: stamp(1).ident,
        rows: Some(NodeUid::ROOT),
        differ: Vec::new(),
        missing: vec![FILE],
        end,
    };
    bench.step(Event::Listed { job, parts: vec![part] });
    let looks = bench.effects.iter().any(|effect| matches!(effect, Effect::Look { .. }));
    bench.step(Event::ListDone { job, entry_count: 0, complete: true });
    assert!(
        looks || bench.effects.iter().any(|effect| matches!(effect, Effect::Look { .. })),
        "nobody looks"
    );
    bench.sends_nothing(40, 1_000, "deleted without a look");
}
