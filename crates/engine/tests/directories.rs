//! Changes of a directory's own attributes that come while something else happens to it: none is missed, none is undone.
//! And what is written down of one that both sides have.

use std::collections::VecDeque;

use polder_engine::{
    Announced, Apply, ApplyResult, Effect, Engine, Event, FeedRow, Hint, JobId, Look, LookAt, LookFound, Now,
    Page, RootSeen, SeenDir, SeenEntry, Settings, Started,
};
use polder_sync::{Seen, SyncedNode, TreeStore, mem::MemStore};
use polder_types::{
    Attrs, BatchAnswer, CaseRule, Content, Cursor, Epoch, FileIdent, GroupAnswer, InstanceId, Kind, Name,
    NodeState, NodeUid, Placed, Seq, Stamp, Tag, Timestamp,
};

const DIR: NodeUid = NodeUid([7; 16]);
const LINK: NodeUid = NodeUid([8; 16]);
const ROOT_INO: u64 = 1;
const DIR_INO: u64 = 2;
const LINK_INO: u64 = 3;
const OLD: u16 = 0o700;
const NEW: u16 = 0o755;

fn name(text: &str) -> Name {
    text.parse().expect("a plain name")
}

fn attrs(mode: u16) -> Attrs {
    Attrs { mode, ..Attrs::default() }
}

fn ident(ino: u64) -> FileIdent {
    FileIdent { ino, generation: 1 }
}

fn stamp(ino: u64, changed: i64) -> Stamp {
    Stamp { ident: ident(ino), ctime: Timestamp::new(changed, 0), mtime: Timestamp::new(1, 0), size: 0 }
}

fn cursor(seq: Seq) -> Cursor {
    Cursor { epoch: Epoch(0), seq, tag: Tag(9) }
}

/// A directory as it is seen under its name, changed at a moment.
fn seen(ino: u64, called: &str, mode: u16, changed: i64) -> LookFound {
    let seen = Seen { name: name(called), kind: Some(Kind::Directory), stamp: stamp(ino, changed), links: 2 };
    LookFound::Entry(SeenEntry { seen, attrs: attrs(mode).into(), target: None, stands_for: None })
}

fn is_root(at: &LookAt) -> bool {
    at.name.is_none() && at.dir.ident == Some(ident(ROOT_INO))
}

/// An engine that agrees with its share, and the looks and applies that wait for an answer.
struct Bench {
    engine: Engine,
    store: MemStore,
    now_ms: u64,
    head: Seq,
    effects: VecDeque<Effect>,
    /// What the first page of the feed brings.
    news: Vec<FeedRow>,
}

impl Bench {
    /// Started, with `/d`, mode 700, and in it the symlink `l`.
    fn new(news: Vec<FeedRow>) -> Self {
        let mut store = MemStore::new(CaseRule::Sensitive);
        let hash = store.put_attrs(&attrs(OLD)).expect("maps");
        let row = |parent, called: &str, content, ino| SyncedNode {
            at: Placed { parent, name: name(called) },
            content,
            attrs_share: hash,
            attrs_here: hash,
            mtime_share: Timestamp::new(1, 0),
            stamp: stamp(ino, 1),
            since: Seq(20),
        };
        let dir = row(NodeUid::ROOT, "d", Content::Directory, DIR_INO);
        let link = row(DIR, "l", Content::Symlink(b"to".as_slice().into()), LINK_INO);
        store.put_synced(DIR, Some(&dir)).expect("maps");
        store.put_synced(LINK, Some(&link)).expect("maps");
        store.put_cursor(cursor(Seq(20))).expect("maps");
        store.put_note("tree", b"whole").expect("maps");
        store.put_note("merge", b"steady").expect("maps");
        let engine = Engine::new(Settings::new("here"), [3; 32]);
        let mut bench = Self { engine, store, now_ms: 1, head: Seq(21), effects: VecDeque::new(), news };
        bench.start(0, 1);
        bench
    }

    /// The same, settled.
    fn at_rest(news: Vec<FeedRow>) -> Self {
        let mut bench = Self::new(news);
        bench.settle_root(0, 1);
        bench
    }

    /// Answers what is asked at the start: nothing but the root is looked at.
    fn settle_root(&mut self, mode: u16, changed: i64) {
        self.settle(&mut |at| match is_root(at) {
            true => seen(ROOT_INO, "root", mode, changed),
            false => panic!("{at:?} is looked at"),
        });
    }

    /// Begins a life over a root with this mode, changed at a moment.
    fn start(&mut self, mode: u16, changed: i64) {
        let root = RootSeen { stamp: stamp(ROOT_INO, changed), attrs: attrs(mode).into() };
        self.step(Event::Started(Started { instance: InstanceId([1; 16]), root: Ok(root) }));
        self.step(Event::Connected);
    }

    /// The one apply: the symlink `l` is removed, for the share has it no more.
    fn take_removal(&mut self) -> JobId {
        let apply: Apply = self.take(|effect| match effect {
            Effect::Apply(apply) => Some(apply.clone()),
            _ => None,
        });
        assert_eq!(apply.steps.len(), 1);
        apply.job
    }

    fn step(&mut self, event: Event) {
        let now = Now { mono_ms: self.now_ms, unix_ms: self.now_ms };
        self.effects.extend(self.engine.step(&mut self.store, now, event).expect("maps"));
    }

    fn hint(&mut self, dir: u64, called: Option<&str>) {
        self.step(Event::Hints(vec![Hint { dir: ident(dir), name: called.map(name) }]));
    }

    /// Takes the one look or apply that is asked for.
    fn take<T>(&mut self, pick: impl Fn(&Effect) -> Option<T>) -> T {
        let at = self.effects.iter().position(|effect| pick(effect).is_some()).expect("it is asked for");
        let effect = self.effects.remove(at).expect("it was found");
        pick(&effect).expect("it was picked")
    }

    fn take_look(&mut self) -> (JobId, LookAt) {
        self.take(|effect| match effect {
            Effect::Look { job, places } => Some((*job, places[0].clone())),
            _ => None,
        })
    }

    fn looked(&mut self, (job, at): (JobId, LookAt), found: LookFound) {
        let dir = at.dir.ident.expect("it stands on the disk");
        self.step(Event::Looked { job, looks: vec![Look { dir, name: at.name, found }] });
    }

    /// Answers all that is asked, with time going on, but applies. Names are as `truth` says.
    fn settle(&mut self, truth: &mut dyn FnMut(&LookAt) -> LookFound) {
        let mut kept = VecDeque::new();
        for _ in 0..500 {
            let Some(effect) = self.effects.pop_front() else { break };
            match effect {
                Effect::Announce { job, .. } => {
                    let (head, answers) = (cursor(self.head), Vec::new());
                    let answer = Announced::Accepted { head, answers, answers_known: true, held: false };
                    self.step(Event::Announced { job, answer });
                }
                Effect::FetchFeed { job, .. } => {
                    let rows = std::mem::take(&mut self.news);
                    let page = Page { rows, upto: cursor(self.head), next: None };
                    self.step(Event::Page { job, page: Ok(page) });
                }
                Effect::List { job, .. } => {
                    self.step(Event::ListDone { job, entry_count: 2, complete: true });
                }
                Effect::Send { job, groups, .. } => {
                    let first = Seq(self.head.0 + 1);
                    self.head =
                        Seq(self.head.0 + groups.iter().map(|group| group.ops.len() as u64).sum::<u64>());
                    // Each group of these tests is alone in its batch.
                    let groups = groups.iter().map(|_| GroupAnswer::Accepted { first }).collect();
                    let answer = BatchAnswer { cursor: cursor(self.head), groups };
                    self.step(Event::Answered { job, answer: Ok(answer) });
                }
                Effect::Look { job, places } => {
                    let found = truth(&places[0]);
                    self.looked((job, places[0].clone()), found);
                }
                Effect::WakeAt(at) if at < self.now_ms + 60_000 => {
                    self.now_ms = self.now_ms.max(at);
                    self.step(Event::Woke);
                }
                Effect::Apply(_) | Effect::MakeDurable { .. } => kept.push_back(effect),
                _ => (),
            }
        }
        self.effects = kept;
    }

    /// The mode that the share has of the directory of this name.
    fn mode_in_share(&self, called: &str) -> Option<u16> {
        let uid = self.store.cloud_at(NodeUid::ROOT, called.as_bytes()).expect("maps")?;
        let node = self.store.cloud(uid).expect("maps")?;
        self.store.attrs(node.attrs).expect("maps").map(|attrs| attrs.mode)
    }
}

fn link_gone() -> FeedRow {
    FeedRow::Gone { uid: LINK, since: Seq(21), by: InstanceId([2; 16]) }
}

/// Somebody changes the mode of a directory while something is applied in it. The stamp that the directory has afterwards
/// covers that change too; it was taken for our own.
#[test]
fn a_mode_that_changes_during_an_apply_is_seen() {
    let mut bench = Bench::at_rest(vec![link_gone()]);
    let job = bench.take_removal();
    let results = vec![ApplyResult::Done { now: None, other: None, exact: true }];
    let dirs = vec![SeenDir { stamp: stamp(DIR_INO, 5), attrs: attrs(NEW).into() }];
    bench.step(Event::Applied { job, results, dirs });
    // The hint comes after that, and finds the stamp that is known.
    bench.hint(DIR_INO, None);
    bench.settle(&mut |_| seen(DIR_INO, "d", NEW, 5));
    assert_eq!(bench.mode_in_share("d"), Some(NEW));
}

/// A directory is looked at by its name and by itself. The answer that was begun first comes last.
#[test]
fn an_older_look_does_not_undo_a_younger_one() {
    let mut bench = Bench::at_rest(Vec::new());
    bench.hint(ROOT_INO, Some("d"));
    let by_name = bench.take_look();
    bench.hint(DIR_INO, None);
    let itself = bench.take_look();
    bench.looked(itself, seen(DIR_INO, "d", NEW, 5));
    bench.looked(by_name, seen(DIR_INO, "d", OLD, 1));
    bench.settle(&mut |_| seen(DIR_INO, "d", NEW, 5));
    assert_eq!(bench.mode_in_share("d"), Some(NEW));
}

/// `mkdir`, and `chmod` after the directory was looked at and before that was told: the watcher names a directory that
/// nobody knows yet.
#[test]
fn a_mode_that_changes_before_the_directory_is_known_is_seen() {
    const NEW_INO: u64 = 9;
    let mut bench = Bench::at_rest(Vec::new());
    bench.hint(ROOT_INO, Some("x"));
    let look = bench.take_look();
    bench.hint(NEW_INO, None);
    bench.looked(look, seen(NEW_INO, "x", OLD, 1));
    bench.settle(&mut |at| match is_root(at) {
        true => seen(ROOT_INO, "root", 0, 1),
        false => seen(NEW_INO, "x", NEW, 5),
    });
    assert_eq!(bench.mode_in_share("x"), Some(NEW));
}

/// The mode changes after the apply has looked at the directory, and a look tells so before the apply is told to be done.
#[test]
fn what_an_apply_saw_does_not_undo_a_younger_look() {
    let mut bench = Bench::at_rest(vec![link_gone()]);
    let job = bench.take_removal();
    bench.hint(DIR_INO, None);
    let look = bench.take_look();
    bench.looked(look, seen(DIR_INO, "d", NEW, 5));
    let results = vec![ApplyResult::Done { now: None, other: None, exact: true }];
    let dirs = vec![SeenDir { stamp: stamp(DIR_INO, 3), attrs: attrs(OLD).into() }];
    bench.step(Event::Applied { job, results, dirs });
    bench.settle(&mut |_| seen(DIR_INO, "d", NEW, 5));
    assert_eq!(bench.mode_in_share("d"), Some(NEW));
}

/// Two changes within one tick of a coarse clock: the stamp is the one that is known.
#[test]
fn a_mode_that_changes_within_a_tick_is_seen() {
    let mut bench = Bench::at_rest(Vec::new());
    bench.hint(DIR_INO, None);
    bench.settle(&mut |_| seen(DIR_INO, "d", NEW, 1));
    assert_eq!(bench.mode_in_share("d"), Some(NEW));
}

/// Hints were lost while a look was in flight that was made before what they told of: no other hint comes.
#[test]
fn after_lost_hints_an_older_look_says_nothing() {
    let mut bench = Bench::at_rest(Vec::new());
    bench.hint(ROOT_INO, Some("d"));
    let look = bench.take_look();
    bench.step(Event::Overflow);
    bench.looked(look, seen(DIR_INO, "d", OLD, 1));
    bench.settle(&mut |at| match at.name {
        None => seen(ROOT_INO, "root", 0, 1),
        Some(_) => seen(DIR_INO, "d", NEW, 5),
    });
    assert_eq!(bench.mode_in_share("d"), Some(NEW));
}

/// Permissions of the root that were changed while nobody watched: it stands in no directory that a walk would list.
#[test]
fn a_mode_of_the_root_from_before_the_start_is_seen() {
    let mut bench = Bench::at_rest(Vec::new());
    bench.engine = Engine::new(Settings::new("here"), [4; 32]);
    bench.start(NEW, 5);
    bench.settle_root(NEW, 5);
    let root = bench.store.cloud(NodeUid::ROOT).expect("maps").expect("the share has a root");
    let mode = bench.store.attrs(root.attrs).expect("maps").map(|attrs| attrs.mode);
    assert_eq!(mode, Some(NEW));
}

/// What a removal has put back because somebody wrote to it may have got another name, and nobody else tells of it.
#[test]
fn what_is_put_back_under_another_name_is_looked_at() {
    let mut bench = Bench::at_rest(vec![link_gone()]);
    let job = bench.take_removal();
    let LookFound::Entry(found) = seen(LINK_INO, "l-here", OLD, 5) else { unreachable!("it is one") };
    bench.step(Event::Applied {
        job,
        results: vec![ApplyResult::Refused { found: Some(found) }],
        dirs: Vec::new(),
    });
    let mut looked = Vec::new();
    while let Some(effect) = bench.effects.pop_front() {
        if let Effect::Look { places, .. } = effect {
            looked.extend(places.into_iter().filter_map(|at| at.name));
        }
    }
    assert!(looked.contains(&name("l")) && looked.contains(&name("l-here")), "{looked:?}");
}

/// An agent that was killed had just made a directory; nothing of that is durable. The next life finds it there, as the share
/// has it. A row that says so before it is durable makes a deletion of its loss.
#[test]
fn what_both_sides_turn_out_to_have_is_made_durable_before_it_is_written_down() {
    const MADE: NodeUid = NodeUid([9; 16]);
    const MADE_INO: u64 = 9;
    let row = FeedRow::Live(Box::new(NodeState {
        uid: MADE,
        at: Placed { parent: NodeUid::ROOT, name: name("x") },
        mtime: Timestamp::new(1, 0),
        attrs: attrs(OLD),
        content: Content::Directory,
        since: Seq(21),
        by: InstanceId([2; 16]),
    }));
    let mut bench = Bench::new(vec![row]);
    bench.hint(ROOT_INO, Some("x"));
    let mut root_or_made = |at: &LookAt| match is_root(at) {
        true => seen(ROOT_INO, "root", 0, 1),
        false => seen(MADE_INO, "x", OLD, 1),
    };
    bench.settle(&mut root_or_made);
    let is_known = |bench: &Bench| bench.store.synced(MADE).expect("maps").is_some();
    let job = bench.take(|effect| match effect {
        Effect::MakeDurable { job } => Some(*job),
        _ => None,
    });
    assert!(!is_known(&bench));
    bench.step(Event::MadeDurable { job });
    bench.settle(&mut root_or_made);
    assert!(is_known(&bench));
    assert!(bench.effects.is_empty(), "{:?}", bench.effects);
}
