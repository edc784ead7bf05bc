//! Random batches against a naive model of a share: a map, changed without checks and then judged as a whole.

use std::collections::{BTreeMap, BTreeSet};

use polder_ledger::{At, FeedRow, HistoryPolicy, LedgerError, ThinStep, changes, expire_step, thin_step};
use polder_types::{
    Attrs, Author, BatchAnswer, CaseRule, Content, Cursor, Group, GroupAnswer, Kind, NodeState, NodeUid, Op,
    Placed, Seq, Timestamp,
};
use proptest::prelude::*;
use proptest::strategy::ValueTree;

use crate::history::all;
use crate::support::*;

/// What the model knows of a live node.
#[derive(Debug, Clone, PartialEq)]
struct Node {
    at: Placed,
    mtime: Timestamp,
    attrs: Attrs,
    content: Content,
    since: Seq,
}

#[derive(Debug, Clone, Default)]
struct Model {
    live: BTreeMap<NodeUid, Node>,
    dead: BTreeMap<NodeUid, Kind>,
    head: u64,
}

impl Model {
    fn is_directory(&self, uid: NodeUid) -> bool {
        uid == ROOT || self.live.get(&uid).is_some_and(|node| node.content.kind() == Kind::Directory)
    }

    /// The model after a group whose first number is `first`; `None` when it must be refused.
    fn after(&self, case: CaseRule, group: &Group, first: u64) -> Option<Self> {
        let mut next = self.clone();
        let mut alone = BTreeSet::new();
        let mut changed = BTreeSet::new();
        for (op, seq) in group.ops.iter().zip(first..) {
            let uid = op.uid();
            if uid == ROOT || alone.contains(&uid) || names_ours(case, op) {
                return None;
            }
            match op {
                Op::Create { at, mtime, attrs, content, .. }
                | Op::Revive { at, mtime, attrs, content, .. } => {
                    let known = self.dead.get(&uid);
                    let is_create = matches!(op, Op::Create { .. });
                    if next.live.contains_key(&uid) || (is_create && known.is_some()) {
                        return None;
                    }
                    if known.is_some_and(|kind| *kind != content.kind()) || !next.is_directory(at.parent) {
                        return None;
                    }
                    let (at, attrs, content) = (at.clone(), attrs.clone(), content.clone());
                    next.live.insert(uid, Node { at, mtime: *mtime, attrs, content, since: Seq(seq) });
                    alone.insert(uid);
                }
                Op::Update { base, mtime, attrs, content, .. } => {
                    let before = self.live.get(&uid).filter(|node| node.since == *base)?;
                    if content.as_ref().is_some_and(|content| content.kind() != before.content.kind()) {
                        return None;
                    }
                    let node = next.live.get_mut(&uid)?;
                    node.mtime = mtime.unwrap_or(node.mtime);
                    node.attrs = attrs.clone().unwrap_or(node.attrs.clone());
                    node.content = content.clone().unwrap_or(node.content.clone());
                    node.since = Seq(seq);
                    changed.insert(uid);
                }
                Op::Move { base, to, .. } => {
                    self.live.get(&uid).filter(|node| node.since == *base)?;
                    if !next.is_directory(to.parent) {
                        return None;
                    }
                    let node = next.live.get_mut(&uid)?;
                    (node.at, node.since) = (to.clone(), Seq(seq));
                    changed.insert(uid);
                }
                Op::Delete { base, .. } => {
                    let before = self.live.get(&uid).filter(|node| node.since == *base)?;
                    if changed.contains(&uid) {
                        return None;
                    }
                    next.live.remove(&uid);
                    next.dead.insert(uid, before.content.kind());
                    alone.insert(uid);
                }
            }
        }
        next.dead.retain(|uid, _| !next.live.contains_key(uid));
        (!group.ops.is_empty() && next.is_sound(case)).then_some(next)
    }

    /// One node a name, everything below the root.
    fn is_sound(&self, case: CaseRule) -> bool {
        let mut names = BTreeSet::new();
        self.live.iter().all(|(uid, node)| {
            let key = case.key(node.at.name.as_bytes()).into_owned();
            names.insert((node.at.parent, key)) && self.reaches_root(*uid)
        })
    }

    fn reaches_root(&self, uid: NodeUid) -> bool {
        let mut at = uid;
        for _ in 0..=self.live.len() {
            if at == ROOT {
                return true;
            }
            match self.live.get(&at) {
                Some(node) if self.is_directory(node.at.parent) => at = node.at.parent,
                _ => return false,
            }
        }
        false
    }

    fn path(&self, uid: NodeUid) -> String {
        let mut path = String::new();
        let mut at = uid;
        while let Some(node) = self.live.get(&at) {
            path = format!("/{}{path}", node.at.name);
            at = node.at.parent;
        }
        path
    }

    fn tree(&self) -> BTreeMap<String, (NodeUid, Node)> {
        self.live.iter().map(|(uid, node)| (self.path(*uid), (*uid, node.clone()))).collect()
    }
}

/// Whether an operation asks for the agent's own name at the root.
fn names_ours(case: CaseRule, op: &Op) -> bool {
    let (Op::Create { at, .. } | Op::Revive { at, .. } | Op::Move { to: at, .. }) = op else { return false };
    at.parent == ROOT && *case.key(at.name.as_bytes()) == *b".polder"
}

fn seen_node(node: NodeState) -> (NodeUid, Node) {
    let NodeState { uid, at, mtime, attrs, content, since, .. } = node;
    (uid, Node { at, mtime, attrs, content, since })
}

fn seen(tree: BTreeMap<String, NodeState>) -> BTreeMap<String, (NodeUid, Node)> {
    tree.into_iter().map(|(path, node)| (path, seen_node(node))).collect()
}

/// An operation before it is fitted to the model: numbers choose among what is there.
#[derive(Debug, Clone)]
struct Wish {
    what: u8,
    node: u8,
    parent: u8,
    name: u8,
    value: u8,
    /// Now and then an old version is named.
    stale: bool,
    /// Now and then any node and any place are named, whether they fit or not.
    wild: bool,
}

#[derive(Debug, Clone)]
enum Step {
    Batch(Vec<Vec<Wish>>),
    Repeat(u8),
    Reopen,
    Follow,
    Snapshot,
}

fn step() -> impl Strategy<Value = Step> {
    let odd = (prop::bool::weighted(0.03), prop::bool::weighted(0.15));
    let wish = (0u8..11, 0u8..40, 0u8..40, 0u8..8, any::<u8>(), odd).prop_map(
        |(what, node, parent, name, value, (stale, wild))| Wish {
            what,
            node,
            parent,
            name,
            value,
            stale,
            wild,
        },
    );
    let group = prop_oneof![
        4 => prop::collection::vec(wish.clone(), 1..=1),
        3 => prop::collection::vec(wish, 2..5),
    ];
    prop_oneof![
        12 => prop::collection::vec(group, 1..4).prop_map(Step::Batch),
        1 => any::<u8>().prop_map(Step::Repeat),
        1 => Just(Step::Reopen),
        2 => Just(Step::Follow),
        1 => Just(Step::Snapshot),
    ]
}

fn pick(mut from: impl Iterator<Item = NodeUid> + Clone, nth: u8) -> Option<NodeUid> {
    let count = from.clone().count();
    from.nth(usize::from(nth) % count.max(1))
}

/// The node that a wish is about: one for which it makes sense, unless it is wild.
fn node_of(model: &Model, wish: &Wish) -> NodeUid {
    let any = uid(wish.node % 12 + 1);
    let known = |uid: &NodeUid| model.live.contains_key(uid) || model.dead.contains_key(uid);
    let chosen = match wish.what {
        _ if wish.wild => None,
        0..3 => pick((1..=40).map(uid).filter(|uid| !known(uid)), wish.node),
        3..10 => pick(model.live.keys().copied(), wish.node),
        _ => pick(model.dead.keys().copied(), wish.node),
    };
    chosen.unwrap_or(any)
}

/// The operation that a wish becomes.
fn fit(model: &Model, wish: &Wish) -> Op {
    const NAMES: [&str; 8] = ["a", "b", "A", "c", "d", "e", "B", ".polder"];
    let node = node_of(model, wish);
    let directories = model.live.keys().copied().filter(|uid| model.is_directory(*uid));
    // The root is chosen often, or little would ever be taken.
    let parent = match wish.parent {
        _ if wish.wild => uid(wish.parent % 12 + 1),
        0..15 => ROOT,
        _ => pick(directories, wish.parent).unwrap_or(ROOT),
    };
    let at = place(parent, NAMES[usize::from(wish.name)]);
    let mtime = Timestamp::new(wish.value.into(), 0);
    let attrs = Attrs { mode: u16::from(wish.value % 3), ..Attrs::default() };
    let directory = model
        .live
        .get(&node)
        .map(|node| node.content.kind())
        .or(model.dead.get(&node).copied())
        .map_or(wish.value.is_multiple_of(2), |kind| kind == Kind::Directory);
    let content = if directory { Content::Directory } else { hole(u64::from(wish.value) + 1) };
    let since = model.live.get(&node).map_or(Seq(1), |node| node.since);
    let base = if wish.stale { Seq(since.0 - 1) } else { since };
    match wish.what {
        0..3 => Op::Create { uid: node, at, mtime, attrs, content },
        3 | 4 => {
            let (mtime, attrs) =
                (wish.value.is_multiple_of(3).then_some(mtime), (wish.value % 3 == 1).then_some(attrs));
            Op::Update { uid: node, base, mtime, attrs, content: Some(content) }
        }
        5..8 => Op::Move { uid: node, base, to: at },
        8 | 9 => Op::Delete { uid: node, base },
        _ => Op::Revive { uid: node, at, mtime, attrs, content },
    }
}

/// The tree after a commit.
#[derive(Clone)]
struct Past {
    cursor: Cursor,
    time_ms: u64,
    tree: BTreeMap<String, (NodeUid, Node)>,
    pinned: bool,
}

/// A run of one history.
struct Run {
    share: Share,
    case: CaseRule,
    model: Model,
    /// Every past tree by the place in history and the time at which it came to be.
    past: Vec<Past>,
    sent: Vec<(Author, Vec<Group>, BatchAnswer)>,
    follower: BTreeMap<NodeUid, Node>,
    cursor: Cursor,
    accepted: usize,
}

impl Run {
    fn new(share: Share, case: CaseRule) -> Self {
        let past = vec![Past { cursor: Cursor::default(), time_ms: 0, tree: BTreeMap::new(), pinned: false }];
        let (model, sent, follower) = (Model::default(), Vec::new(), BTreeMap::new());
        Self { share, case, model, past, sent, follower, cursor: Cursor::default(), accepted: 0 }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Batch(groups) => self.batch(groups),
            Step::Repeat(which) => {
                if let Some((author, groups, answer)) =
                    self.sent.get(usize::from(*which) % self.sent.len().max(1))
                {
                    self.share.known = self.share.head();
                    assert_eq!(self.share.send(*author, groups).unwrap(), *answer);
                }
            }
            Step::Reopen => self.share.reopen(),
            Step::Follow => self.follow(),
            Step::Snapshot => {
                let name = format!("s{}", self.past.len());
                let last = self.past.last_mut().unwrap();
                if !last.pinned {
                    self.share.edit(move |rows| polder_ledger::create_snapshot(rows, &name, "", 0)).unwrap();
                    last.pinned = true;
                }
            }
        }
        assert_eq!(seen(self.share.tree(At::Now)), self.model.tree());
    }

    fn batch(&mut self, wishes: &[Vec<Wish>]) {
        // All groups are made from the state before the batch, as an agent would.
        let fit_all =
            |wishes: &Vec<Wish>| Group { ops: wishes.iter().map(|wish| fit(&self.model, wish)).collect() };
        let groups: Vec<Group> = wishes.iter().map(fit_all).collect();
        self.share.time_ms += 97 * (1 + u64::from(wishes[0][0].value % 7));
        let author = self.share.next(if groups.len() == 2 { B } else { A });
        self.share.known = self.share.head();
        let answer = self.share.send(author, &groups).unwrap();
        let mut next = self.model.head + 2;
        for (group, answer) in groups.iter().zip(&answer.groups) {
            match (self.model.after(self.case, group, next), answer) {
                (Some(model), GroupAnswer::Accepted { first }) => {
                    assert_eq!(first.0, next);
                    next += group.ops.len() as u64;
                    self.model = Model { head: next - 1, ..model };
                    self.accepted += 1;
                }
                (None, GroupAnswer::Refused { .. }) => (),
                (wanted, found) => panic!("{group:?}: model says {}, ledger {found:?}", wanted.is_some()),
            }
        }
        assert_eq!(answer.cursor.seq, Seq(self.model.head));
        assert_eq!(self.share.head(), answer.cursor);
        if answer.cursor != self.past.last().unwrap().cursor {
            let (time_ms, tree) = (self.share.time_ms, self.model.tree());
            self.past.push(Past { cursor: answer.cursor, time_ms, tree, pinned: false });
        }
        self.sent.push((author, groups, answer));
    }

    fn follow(&mut self) {
        let mut follower = std::mem::take(&mut self.follower);
        self.cursor = self.replay(self.cursor, &mut follower);
        assert_eq!(follower, self.model.live);
        self.follower = follower;
    }

    /// Brings a tree of `cursor` to the head by the feed.
    fn replay(&self, cursor: Cursor, tree: &mut BTreeMap<NodeUid, Node>) -> Cursor {
        let mut next = None;
        loop {
            let page = self.share.db.read(|rows| changes(rows, cursor, next, 3)).unwrap();
            for row in page.rows {
                match row {
                    FeedRow::Node(node) => tree.extend([seen_node(node)]),
                    FeedRow::Gone { uid, .. } => drop(tree.remove(&uid)),
                }
            }
            next = page.next;
            if next.is_none() {
                return page.upto;
            }
        }
    }

    fn finish(&mut self) {
        self.follow();
        self.share.reopen();
        for past in &self.past {
            assert_eq!(
                seen(self.share.tree(At::Seq(past.cursor.seq))),
                past.tree,
                "as of {}",
                past.cursor.seq
            );
        }
        let row = self.share.db.read(|rows| polder_ledger::share_row(rows)).unwrap();
        assert_eq!(row.live_nodes, self.model.live.len() as u64 + 1);
        assert_eq!(row.live_bytes, self.model.live.values().map(|node| node.content.size()).sum::<u64>());
        self.grow_old();
    }

    /// Thins and expires, and looks at what must have stayed.
    fn grow_old(&mut self) {
        const SLOT_MS: u64 = 500;
        let span =
            self.share.time_ms - self.past[0].time_ms.max(self.past.get(1).map_or(0, |past| past.time_ms));
        let policy = HistoryPolicy {
            thin: vec![ThinStep { age_ms: span / 8, slot_ms: SLOT_MS }],
            history_ms: span / 2,
            absence_ms: span * 3 / 4,
        };
        all(&self.share, 3, thin_step, &policy);
        all(&self.share, 2, expire_step, &policy);
        let row = self.share.db.read(|rows| polder_ledger::share_row(rows)).unwrap();
        for (past, next) in self.past.iter().zip(self.past.iter().skip(1).map(Some).chain([None])) {
            let seq = past.cursor.seq;
            if seq < row.history_from && !past.pinned {
                let read = self.share.db.read(|rows| polder_ledger::stat(rows, ROOT, At::Seq(seq)));
                assert!(matches!(read, Err(LedgerError::NotKept { .. })));
            } else {
                let tree = seen(self.share.tree(At::Seq(seq)));
                let names = |tree: &BTreeMap<String, (NodeUid, Node)>| -> Vec<(String, NodeUid)> {
                    tree.iter().map(|(path, (uid, _))| (path.clone(), *uid)).collect()
                };
                assert_eq!(names(&tree), names(&past.tree), "as of {seq}");
                // The first border of slots from here on, if the next commit is not before it.
                let border = past.time_ms.next_multiple_of(SLOT_MS);
                if past.pinned || next.is_none_or(|next| next.time_ms > border) {
                    assert_eq!(tree, past.tree, "as of {seq}");
                }
            }
            let mut tree: BTreeMap<_, _> = past.tree.values().cloned().collect();
            if seq >= row.changes_from {
                self.replay(past.cursor, &mut tree);
                assert_eq!(tree, self.model.live);
            } else {
                let cursor = past.cursor;
                let page = self.share.db.read(|rows| changes(rows, cursor, None, 3));
                assert!(matches!(page, Err(LedgerError::CursorTooOld)));
            }
        }
        assert_eq!(seen(self.share.tree(At::Now)), self.model.tree());
    }
}

fn run(share: Share, case: CaseRule, steps: &[Step]) -> usize {
    let mut run = Run::new(share, case);
    steps.iter().for_each(|step| run.step(step));
    run.finish();
    run.accepted
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, max_shrink_iters: 3000, ..ProptestConfig::default() })]

    #[test]
    fn memory_agrees_with_the_model(steps in prop::collection::vec(step(), 1..40), insensitive: bool) {
        let case = if insensitive { CaseRule::Insensitive } else { CaseRule::Sensitive };
        run(Share::memory(case), case, &steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, max_shrink_iters: 500, ..ProptestConfig::default() })]

    #[test]
    fn sqlite_agrees_with_the_model(steps in prop::collection::vec(step(), 1..40), insensitive: bool) {
        let case = if insensitive { CaseRule::Insensitive } else { CaseRule::Sensitive };
        run(Share::sqlite(case), case, &steps);
    }
}

/// The generator is worth something only while much of what it makes is taken and much is refused.
#[test]
fn the_generator_reaches_both_answers() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let (mut accepted, mut groups) = (0, 0);
    for _ in 0..30 {
        let steps = prop::collection::vec(step(), 40).new_tree(&mut runner).unwrap().current();
        groups += steps
            .iter()
            .map(|step| if let Step::Batch(groups) = step { groups.len() } else { 0 })
            .sum::<usize>();
        accepted += run(Share::memory(CaseRule::Sensitive), CaseRule::Sensitive, &steps);
    }
    assert!(accepted * 5 > groups && accepted * 5 < groups * 4, "{accepted} of {groups}");
}
