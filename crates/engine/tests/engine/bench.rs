//! An engine with a small disk and a share, both played by the test: what is asked is answered by hand, or by
//! [`Bench::settle`].

use std::collections::VecDeque;
use std::sync::Arc;

use polder_engine::{
    Announced, Apply, Dir, Effect, Engine, Event, FeedRow, Hint, JobId, ListEnd, ListPart, Look, LookAt,
    LookFound, Now, Page, Phase, Pin, RootSeen, SeenEntry, Settings, Started,
};
use polder_sync::{CloudNode, Seen, SyncedNode, TreeStore, mem::MemStore};
use polder_types::{
    Attrs, BatchAnswer, BatchNo, CaseRule, Content, Cursor, Epoch, FileIdent, Group, GroupAnswer, InstanceId,
    Kind, Name, NodeState, NodeUid, Op, Placed, Refusal, Seq, Stamp, Tag, Timestamp,
};

pub const DIR: NodeUid = NodeUid([7; 16]);
pub const LINK: NodeUid = NodeUid([8; 16]);
pub const ROOT_INO: u64 = 1;
pub const DIR_INO: u64 = 2;
pub const LINK_INO: u64 = 3;
pub const OLD: u16 = 0o700;
pub const NEW: u16 = 0o755;
/// The place in history that the bench has read to in the beginning.
const HEAD: Seq = Seq(21);

/// For [`Bench::take`]: an announcement.
pub fn announce(effect: &Effect) -> Option<JobId> {
    match effect {
        Effect::Announce { job, .. } => Some(*job),
        _ => None,
    }
}

/// For [`Bench::take`]: a page of the tree is read.
pub fn fetch_tree(effect: &Effect) -> Option<JobId> {
    match effect {
        Effect::FetchTree { job, .. } => Some(*job),
        _ => None,
    }
}

pub fn name(text: &str) -> Name {
    text.parse().expect("a plain name")
}

pub fn at(parent: NodeUid, called: &str) -> Placed {
    Placed { parent, name: name(called) }
}

pub fn attrs(mode: u16) -> Attrs {
    Attrs { mode, ..Attrs::default() }
}

pub fn ident(ino: u64) -> FileIdent {
    FileIdent { ino, generation: 1 }
}

pub fn stamp(ino: u64, changed: i64) -> Stamp {
    Stamp { ident: ident(ino), ctime: Timestamp::new(changed, 0), mtime: Timestamp::new(1, 0), size: 0 }
}

pub fn cursor(seq: Seq) -> Cursor {
    Cursor { epoch: Epoch(0), seq, tag: Tag(9) }
}

/// Where a symlink leads.
pub fn target(text: &str) -> Content {
    Content::Symlink(text.as_bytes().into())
}

/// A directory as it is seen under its name, changed at a moment.
pub fn seen(ino: u64, called: &str, mode: u16, changed: i64) -> LookFound {
    LookFound::Entry(seen_entry(ino, called, mode, changed))
}

pub fn seen_entry(ino: u64, called: &str, mode: u16, changed: i64) -> SeenEntry {
    let seen = Seen { name: name(called), kind: Some(Kind::Directory), stamp: stamp(ino, changed), links: 2 };
    SeenEntry { seen, attrs: attrs(mode).into(), target: None, stands_for: None }
}

/// A symlink as it is seen under its name.
pub fn seen_link(ino: u64, called: &str, leads_to: &str, changed: i64) -> SeenEntry {
    let seen = Seen { name: name(called), kind: Some(Kind::Symlink), stamp: stamp(ino, changed), links: 1 };
    let target = Some(leads_to.as_bytes().into());
    SeenEntry { seen, attrs: attrs(OLD).into(), target, stands_for: None }
}

/// A synced row, of version 20 and inode `ino`.
pub fn row(store: &mut MemStore, at: Placed, content: Content, ino: u64) -> SyncedNode {
    let hash = store.put_attrs(&attrs(OLD)).expect("maps");
    SyncedNode {
        at,
        content,
        attrs_share: hash,
        attrs_here: hash,
        mtime_share: Timestamp::new(1, 0),
        stamp: stamp(ino, 1),
        since: Seq(20),
    }
}

/// A node of the share as another server has made it.
pub fn live(uid: NodeUid, at: Placed, content: Content, since: u64) -> NodeState {
    let by = InstanceId([2; 16]);
    NodeState { uid, at, mtime: Timestamp::new(1, 0), attrs: attrs(OLD), content, since: Seq(since), by }
}

pub fn live_row(uid: NodeUid, at: Placed, content: Content, since: u64) -> FeedRow {
    FeedRow::Live(Box::new(live(uid, at, content, since)))
}

pub fn link_gone() -> FeedRow {
    gone(LINK, 21)
}

pub fn gone(uid: NodeUid, since: u64) -> FeedRow {
    FeedRow::Gone { uid, since: Seq(since), by: InstanceId([2; 16]) }
}

pub fn is_root(at: &LookAt) -> bool {
    at.name.is_none() && at.dir.ident == Some(ident(ROOT_INO))
}

/// A directory that was listed to its end, with what differs from its rows.
pub fn part(dir: u64, differ: Vec<SeenEntry>) -> ListPart {
    let rows = [(ROOT_INO, NodeUid::ROOT), (DIR_INO, DIR)].into_iter().find(|(ino, _)| *ino == dir);
    let (rows, end) = (rows.map(|(_, uid)| uid), Some(ListEnd::Complete));
    ListPart { dir: ident(dir), rows, differ, missing: Vec::new(), end }
}

/// An engine that agrees with its share, and what waits for an answer.
pub struct Bench {
    pub engine: Engine,
    pub store: MemStore,
    pub now_ms: u64,
    /// The share's head.
    pub head: Seq,
    pub effects: VecDeque<Effect>,
    /// What the next page of the feed brings.
    pub news: Vec<FeedRow>,
    /// Operations that [`Bench::settle`] has let the share take.
    pub sent: Vec<Op>,
    /// What the share answers instead of taking anything.
    pub refusal: Option<Refusal>,
    /// Whether nothing becomes durable by itself.
    pub holds_flushes: bool,
    phase: Phase,
    /// What the share was told last to keep.
    pub pin: Option<Pin>,
}

impl Bench {
    /// Started, with `/d`, mode 700, and in it the symlink `l` to "to".
    pub fn new(news: Vec<FeedRow>) -> Self {
        Self::with(news, |_| ())
    }

    /// The same with more in its store.
    pub fn with(news: Vec<FeedRow>, more: impl FnOnce(&mut MemStore)) -> Self {
        let mut store = MemStore::new(CaseRule::Sensitive);
        let dir = row(&mut store, at(NodeUid::ROOT, "d"), Content::Directory, DIR_INO);
        let link = row(&mut store, at(DIR, "l"), target("to"), LINK_INO);
        store.put_synced(DIR, Some(&dir)).expect("maps");
        store.put_synced(LINK, Some(&link)).expect("maps");
        store.put_cursor(cursor(Seq(20))).expect("maps");
        store.put_note("tree", b"whole").expect("maps");
        store.put_note("merge", b"steady").expect("maps");
        more(&mut store);
        let mut bench = Self {
            engine: Engine::new(Settings::new("here"), [3; 32]),
            store,
            now_ms: 1,
            head: HEAD,
            effects: VecDeque::new(),
            news,
            sent: Vec::new(),
            refusal: None,
            holds_flushes: false,
            phase: Phase::Starting,
            pin: None,
        };
        bench.start(0, 1);
        bench
    }

    /// The same, settled.
    pub fn at_rest(news: Vec<FeedRow>) -> Self {
        let mut bench = Self::new(news);
        bench.settle_root(0, 1);
        bench
    }

    /// Answers what is asked at the start: nothing but the root is looked at.
    pub fn settle_root(&mut self, mode: u16, changed: i64) {
        self.settle(&mut |at| match is_root(at) {
            true => seen(ROOT_INO, "root", mode, changed),
            false => panic!("{at:?} is looked at"),
        });
    }

    /// Begins a life over a root with this mode, changed at a moment.
    pub fn start(&mut self, mode: u16, changed: i64) {
        let root = RootSeen { stamp: stamp(ROOT_INO, changed), attrs: attrs(mode).into() };
        self.step(Event::Started(Started { instance: InstanceId([1; 16]), root: Ok(root) }));
        self.step(Event::Connected);
    }

    pub fn step(&mut self, event: Event) {
        let now = Now { mono_ms: self.now_ms, unix_ms: self.now_ms };
        let effects = self.engine.step(&mut self.store, now, event).expect("maps");
        for effect in effects {
            match effect {
                Effect::Status(status) => (self.phase, self.pin) = (status.phase, status.pin.clone()),
                other => self.effects.push_back(other),
            }
        }
    }

    /// Time goes on, and nothing is answered.
    pub fn wait(&mut self, times: u32, each_ms: u64) {
        for _ in 0..times {
            self.now_ms += each_ms;
            self.step(Event::Woke);
        }
    }

    pub fn hint(&mut self, dir: u64, called: Option<&str>) {
        self.hints(&[(dir, called)]);
    }

    pub fn hints(&mut self, names: &[(u64, Option<&str>)]) {
        let hint = |(dir, called): &(u64, Option<&str>)| Hint { dir: ident(*dir), name: called.map(name) };
        self.step(Event::Hints(names.iter().map(hint).collect()));
    }

    /// Somebody else's commits: rows of the next page, and the head that they lead to.
    pub fn hear(&mut self, news: Vec<FeedRow>, head: u64) {
        self.news.extend(news);
        self.head = Seq(head);
        self.step(Event::Head(cursor(self.head)));
    }

    /// Takes one effect that is asked for, if there is one.
    pub fn find<T>(&mut self, pick: impl Fn(&Effect) -> Option<T>) -> Option<T> {
        let at = self.effects.iter().position(|effect| pick(effect).is_some())?;
        let effect = self.effects.remove(at).expect("it was found");
        pick(&effect)
    }

    pub fn take<T>(&mut self, pick: impl Fn(&Effect) -> Option<T>) -> T {
        self.find(pick).expect("it is asked for")
    }

    pub fn find_look(&mut self) -> Option<(JobId, Vec<LookAt>)> {
        self.find(|effect| match effect {
            Effect::Look { job, places } => Some((*job, places.clone())),
            _ => None,
        })
    }

    pub fn take_look(&mut self) -> (JobId, LookAt) {
        let (job, places) = self.find_look().expect("a look is asked for");
        (job, places[0].clone())
    }

    pub fn find_list(&mut self) -> Option<(JobId, Arc<Dir>)> {
        self.find(|effect| match effect {
            Effect::List { job, dir, .. } => Some((*job, dir.clone())),
            _ => None,
        })
    }

    pub fn find_apply(&mut self) -> Option<Apply> {
        self.find(|effect| match effect {
            Effect::Apply(apply) => Some(apply.clone()),
            _ => None,
        })
    }

    pub fn find_feed(&mut self) -> Option<JobId> {
        self.find(|effect| match effect {
            Effect::FetchFeed { job, .. } => Some(*job),
            _ => None,
        })
    }

    pub fn find_send(&mut self) -> Option<(JobId, BatchNo, Vec<Group>)> {
        self.find(|effect| match effect {
            Effect::Send { job, batch, groups, .. } => Some((*job, *batch, groups.clone())),
            _ => None,
        })
    }

    /// The one apply: the symlink `l` is removed, for the share has it no more.
    pub fn take_removal(&mut self) -> JobId {
        let apply = self.find_apply().expect("the share's deletion is carried out");
        assert_eq!(apply.steps.len(), 1);
        apply.job
    }

    pub fn looked(&mut self, (job, at): (JobId, LookAt), found: LookFound) {
        let dir = at.dir.ident.expect("it stands on the disk");
        self.step(Event::Looked { job, looks: vec![Look { dir, name: at.name, found }] });
    }

    /// Answers the looks that are asked for now, at least one, name by name.
    pub fn look(&mut self, truth: &mut dyn FnMut(&LookAt) -> LookFound) {
        let mut looks = Vec::new();
        while let Some(look) = self.find_look() {
            looks.push(look);
        }
        assert!(!looks.is_empty(), "a look is asked for");
        looks.into_iter().for_each(|(job, places)| self.answer_look(job, places, truth));
    }

    fn answer_look(&mut self, job: JobId, places: Vec<LookAt>, truth: &mut dyn FnMut(&LookAt) -> LookFound) {
        let look = |at: LookAt| {
            let (dir, found) = (at.dir.ident.expect("it stands on the disk"), truth(&at));
            Look { dir, name: at.name, found }
        };
        self.step(Event::Looked { job, looks: places.into_iter().map(look).collect() });
    }

    /// The walk of a directory ends, with what it has found.
    pub fn listed(&mut self, job: JobId, parts: Vec<ListPart>) {
        self.step(Event::Listed { job, parts });
        self.step(Event::ListDone { job, entry_count: 2, complete: true });
    }

    /// The share takes a batch whole.
    pub fn accept(&mut self, job: JobId, groups: &[Group]) {
        let mut answers = Vec::new();
        for group in groups {
            answers.push(match &self.refusal {
                Some(why) => GroupAnswer::Refused { op: 0, why: why.clone() },
                None => GroupAnswer::Accepted { first: Seq(self.head.0 + 1) },
            });
            if self.refusal.is_none() {
                self.head = Seq(self.head.0 + group.ops.len() as u64);
                self.sent.extend(group.ops.iter().cloned());
            }
        }
        // The number of the batch itself comes after those of its operations.
        self.head = Seq(self.head.0 + u64::from(self.refusal.is_none()));
        let answer = BatchAnswer { cursor: cursor(self.head), groups: answers };
        self.step(Event::Answered { job, answer: Ok(answer) });
    }

    pub fn answer_page(&mut self, job: JobId) {
        let rows = std::mem::take(&mut self.news);
        self.step(Event::Page { job, page: Ok(Page { rows, upto: cursor(self.head), next: None }) });
    }

    pub fn announced(&mut self, job: JobId) {
        let (head, answers) = (cursor(self.head), Vec::new());
        let answer = Announced::Accepted { head, answers, answers_known: true, held: false };
        self.step(Event::Announced { job, answer });
    }

    /// Answers all that is asked, with time going on, but applies and reads. Names are as `truth` says; walks find what the
    /// rows say.
    pub fn settle(&mut self, truth: &mut dyn FnMut(&LookAt) -> LookFound) {
        let mut kept = VecDeque::new();
        for _ in 0..500 {
            let Some(effect) = self.effects.pop_front() else { break };
            match effect {
                Effect::Announce { job, .. } => self.announced(job),
                Effect::FetchFeed { job, .. } => self.answer_page(job),
                Effect::List { job, .. } => self.listed(job, Vec::new()),
                Effect::Send { job, groups, .. } => self.accept(job, &groups),
                Effect::Look { job, places } => self.answer_look(job, places, truth),
                Effect::MakeDurable { job } if !self.holds_flushes => self.step(Event::MadeDurable { job }),
                Effect::WakeAt(at) if at < self.now_ms + 60_000 => {
                    self.now_ms = self.now_ms.max(at);
                    self.step(Event::Woke);
                }
                Effect::Apply(_) | Effect::Read(_) | Effect::MakeDurable { .. } => kept.push_back(effect),
                _ => (),
            }
        }
        self.effects = kept;
    }

    pub fn is_in_sync(&self) -> bool {
        self.phase == Phase::InSync
    }

    /// The mode that the share has of the directory of this name.
    pub fn mode_in_share(&self, called: &str) -> Option<u16> {
        let uid = self.store.cloud_at(NodeUid::ROOT, called.as_bytes()).expect("maps")?;
        let node = self.cloud(uid)?;
        self.store.attrs(node.attrs).expect("maps").map(|attrs| attrs.mode)
    }

    pub fn cloud(&self, uid: NodeUid) -> Option<CloudNode> {
        self.store.cloud(uid).expect("maps")
    }

    pub fn synced(&self, uid: NodeUid) -> Option<SyncedNode> {
        self.store.synced(uid).expect("maps")
    }
}
