//! A small model of the service's share: ordered commits in groups, once-only batches, a feed with cuts.
//!
//! It follows `docs/formats/share.md` in what the engine can see; the real commit core takes its place as soon as its
//! rows exist in memory.

use std::collections::BTreeMap;

use polder_engine::FeedRow;
use polder_types::{
    Attrs, BatchAnswer, BatchNo, Content, Cursor, Group, GroupAnswer, InstanceId, Kind, NodeState, NodeUid,
    Op, Placed, Refusal, Seq, Tag, Timestamp,
};

/// The share.
#[derive(Debug, Clone)]
pub struct Share {
    live: BTreeMap<NodeUid, NodeState>,
    /// Kind and deleting operation of nodes that are gone.
    gone: BTreeMap<NodeUid, (Kind, Seq, InstanceId)>,
    /// The last change of each node.
    changes: BTreeMap<Seq, NodeUid>,
    commits: BTreeMap<Seq, Tag>,
    head: Cursor,
    answers: BTreeMap<(InstanceId, BatchNo), BatchAnswer>,
    minimum: BTreeMap<InstanceId, BatchNo>,
    /// Operations accepted so far.
    pub op_count: u64,
}

/// Why a batch has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchProblem {
    /// Older than what was announced.
    Stale,
    /// The author's cursor is not of this history.
    Rebaseline,
}

impl Share {
    /// A share with nothing but its root.
    pub fn new() -> Self {
        let root = NodeState {
            uid: NodeUid::ROOT,
            at: Placed { parent: NodeUid::ROOT, name: "root".parse().expect("a plain name") },
            mtime: Timestamp::default(),
            attrs: Attrs { mode: 0o755, ..Attrs::default() },
            content: Content::Directory,
            since: Seq(1),
            by: InstanceId::ZERO,
        };
        let head = Cursor { seq: Seq(1), tag: Tag(1), ..Cursor::default() };
        Self {
            live: BTreeMap::from([(NodeUid::ROOT, root)]),
            gone: BTreeMap::new(),
            changes: BTreeMap::from([(Seq(1), NodeUid::ROOT)]),
            commits: BTreeMap::from([(Seq(1), Tag(1))]),
            head,
            answers: BTreeMap::new(),
            minimum: BTreeMap::new(),
            op_count: 0,
        }
    }

    /// The head.
    pub fn head(&self) -> Cursor {
        self.head
    }

    /// Live nodes.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeState> {
        self.live.values()
    }

    /// Whether a cursor is of this history.
    pub fn knows(&self, cursor: Cursor) -> bool {
        cursor == Cursor::default() || self.commits.get(&cursor.seq) == Some(&cursor.tag)
    }

    /// Batches below `next` are refused from now on; the answers to those that were taken.
    pub fn announce(
        &mut self,
        by: InstanceId,
        next: BatchNo,
        open: &[BatchNo],
    ) -> Vec<(BatchNo, BatchAnswer)> {
        let minimum = self.minimum.entry(by).or_default();
        *minimum = (*minimum).max(next);
        open.iter()
            .filter_map(|no| self.answers.get(&(by, *no)).map(|answer| (*no, answer.clone())))
            .collect()
    }

    /// Takes a batch, once.
    pub fn commit(
        &mut self,
        by: InstanceId,
        batch: BatchNo,
        known: Cursor,
        groups: &[Group],
    ) -> Result<BatchAnswer, BatchProblem> {
        if let Some(answer) = self.answers.get(&(by, batch)) {
            return Ok(answer.clone());
        }
        if self.minimum.get(&by).is_some_and(|minimum| batch < *minimum) {
            return Err(BatchProblem::Stale);
        }
        if !self.knows(known) {
            return Err(BatchProblem::Rebaseline);
        }
        let own = Seq(self.head.seq.0 + 1);
        let mut next = own.next();
        let mut answers = Vec::with_capacity(groups.len());
        for group in groups {
            answers.push(match self.group(by, group, next) {
                Ok(()) => {
                    let first = next;
                    next = Seq(next.0 + group.ops.len() as u64);
                    self.op_count += group.ops.len() as u64;
                    GroupAnswer::Accepted { first }
                }
                Err((op, why)) => GroupAnswer::Refused { op, why },
            });
        }
        if next.0 > own.0 + 1 {
            let seq = Seq(next.0 - 1);
            let tag = Tag(seq.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
            self.commits.insert(seq, tag);
            self.head = Cursor { seq, tag, epoch: self.head.epoch };
        }
        let answer = BatchAnswer { cursor: self.head, groups: answers };
        self.answers.insert((by, batch), answer.clone());
        Ok(answer)
    }

    fn group(&mut self, by: InstanceId, group: &Group, first: Seq) -> Result<(), (u32, Refusal)> {
        let before = (self.live.clone(), self.gone.clone(), self.changes.clone());
        let done = self.lay_all(by, group, first).and_then(|()| self.check(group));
        if done.is_err() {
            (self.live, self.gone, self.changes) = before;
        }
        done
    }

    fn lay_all(&mut self, by: InstanceId, group: &Group, first: Seq) -> Result<(), (u32, Refusal)> {
        for (nth, op) in group.ops.iter().enumerate() {
            let since = Seq(first.0 + nth as u64);
            self.lay(by, op, since).map_err(|why| (nth as u32, why))?;
            let uid = op.uid();
            self.changes.retain(|_, other| *other != uid);
            self.changes.insert(since, uid);
        }
        Ok(())
    }

    fn lay(&mut self, by: InstanceId, op: &Op, since: Seq) -> Result<(), Refusal> {
        let uid = op.uid();
        let base_of = |live: &BTreeMap<NodeUid, NodeState>, base: Seq| match live.get(&uid) {
            Some(node) if node.since == base => Ok(node.clone()),
            other => Err(Refusal::BaseChanged { current: other.map(|node| node.since) }),
        };
        match op.clone() {
            Op::Create { uid, at, mtime, attrs, content } => {
                if self.live.contains_key(&uid) || self.gone.contains_key(&uid) {
                    return Err(Refusal::Exists);
                }
                self.live.insert(uid, NodeState { uid, at, mtime, attrs, content, since, by });
            }
            Op::Revive { uid, at, mtime, attrs, content } => {
                if let Some(node) = self.live.get(&uid) {
                    return Err(Refusal::BaseChanged { current: Some(node.since) });
                }
                if self.gone.get(&uid).is_some_and(|(kind, ..)| *kind != content.kind()) {
                    return Err(Refusal::Invalid("the node had another kind".into()));
                }
                self.gone.remove(&uid);
                self.live.insert(uid, NodeState { uid, at, mtime, attrs, content, since, by });
            }
            Op::Update { base, mtime, attrs, content, .. } => {
                let mut node = base_of(&self.live, base)?;
                node.mtime = mtime.unwrap_or(node.mtime);
                node.attrs = attrs.unwrap_or(node.attrs);
                node.content = content.unwrap_or(node.content);
                self.live.insert(uid, NodeState { since, by, ..node });
            }
            Op::Move { base, to, .. } => {
                let node = base_of(&self.live, base)?;
                self.live.insert(uid, NodeState { at: to, since, by, ..node });
            }
            Op::Delete { base, .. } => {
                let node = base_of(&self.live, base)?;
                self.live.remove(&uid);
                self.gone.insert(uid, (node.content.kind(), since, by));
            }
        }
        Ok(())
    }

    /// The state after all of a group.
    fn check(&self, group: &Group) -> Result<(), (u32, Refusal)> {
        for (nth, op) in group.ops.iter().enumerate() {
            let fail = |why| Err((nth as u32, why));
            let uid = op.uid();
            let Some(node) = self.live.get(&uid) else {
                if self.live.values().any(|child| child.at.parent == uid) {
                    return fail(Refusal::NotEmpty);
                }
                continue;
            };
            if uid == NodeUid::ROOT {
                continue;
            }
            let parent = node.at.parent;
            if self.live.get(&parent).is_none_or(|dir| dir.content.kind() != Kind::Directory) {
                return fail(Refusal::ParentGone { parent });
            }
            let twin = self
                .live
                .values()
                .find(|other| other.uid != uid && other.uid != NodeUid::ROOT && other.at == node.at);
            if let Some(twin) = twin {
                return fail(Refusal::NameTaken { by: twin.uid });
            }
            let mut at = parent;
            while at != NodeUid::ROOT {
                if at == uid {
                    return fail(Refusal::Cycle);
                }
                at = self.live[&at].at.parent;
            }
        }
        Ok(())
    }

    /// Rows of nodes that changed after a cursor, as of now.
    pub fn feed(&self, after: Cursor) -> Option<Vec<FeedRow>> {
        if !self.knows(after) {
            return None;
        }
        let changed = self.changes.range(after.seq.next()..).map(|(_, uid)| *uid);
        Some(changed.map(|uid| self.row(uid)).collect())
    }

    fn row(&self, uid: NodeUid) -> FeedRow {
        match (self.live.get(&uid), self.gone.get(&uid)) {
            (Some(node), _) => FeedRow::Live(Box::new(node.clone())),
            (None, Some((_, since, by))) => FeedRow::Gone { uid, since: *since, by: *by },
            (None, None) => panic!("a changed node is live or gone"),
        }
    }
}

impl Default for Share {
    fn default() -> Self {
        Self::new()
    }
}
