//! One group: every operation is laid over the rows in memory, the state after all of them is checked, and only then
//! anything is written.

use std::collections::BTreeMap;
use std::sync::Arc;

use polder_types::{
    Attrs, Content, DecodeError, GROUP_OPS_MAX, Group, Kind, Nid, NodeUid, Op, Placed, Refusal, Seq,
    Timestamp,
    zoo::{Bug, planted},
};

use crate::commit::Batch;
use crate::share::ROOT_NID;
use crate::states::uid_of;
use crate::{AuthorRow, EntryRow, LedgerError, NodeRow, RowsError, What};

/// Longest way up from the new place of a directory.
pub const MOVE_STEPS_MAX: usize = 16_384;

/// What becomes of a group.
pub(crate) enum Outcome {
    /// Nothing.
    Refused { op: u32, why: Refusal },
    /// These rows, which are not written yet.
    Sound(GroupChange),
}

/// Why checking stopped.
pub(crate) enum Stop {
    Refused { op: u32, why: Refusal },
    Failed(LedgerError),
}

impl From<RowsError> for Stop {
    fn from(error: RowsError) -> Self {
        Self::Failed(error.into())
    }
}

pub(crate) fn refuse<T>(op: u32, why: Refusal) -> Result<T, Stop> {
    Err(Stop::Refused { op, why })
}

pub(crate) fn invalid<T>(op: u32, rule: &str) -> Result<T, Stop> {
    refuse(op, Refusal::Invalid(rule.into()))
}

/// What a group makes of one node.
pub(crate) struct Draft {
    pub uid: NodeUid,
    pub nid: Nid,
    /// The live version before the group.
    pub before: Option<NodeRow>,
    /// The live version after it.
    pub after: Option<NodeRow>,
    /// The directory of `after`.
    pub parent: NodeUid,
    /// Whether the share never heard of the node.
    pub fresh: bool,
    /// What the last operation did.
    pub what: What,
    /// The last operation.
    pub op: u32,
    /// The last operation that brought content.
    pub content_op: Option<u32>,
    /// The last operation that set its place.
    pub place_op: Option<u32>,
}

impl Draft {
    /// Whether an entry is opened: the node came to be, or stands elsewhere than before.
    fn is_placed_anew(&self) -> bool {
        match (&self.before, &self.after) {
            (Some(before), Some(after)) => (before.up, &before.name) != (after.up, &after.name),
            (None, Some(_)) => true,
            (_, None) => false,
        }
    }

    /// Whether its old entry is closed.
    fn leaves(&self) -> bool {
        self.before.is_some() && (self.after.is_none() || self.is_placed_anew())
    }

    /// Whether the content after the group is another than before.
    pub fn new_content(&self) -> Option<(&Content, u32)> {
        let after = &self.after.as_ref()?.content;
        let changed = self.before.as_ref().is_none_or(|before| before.content != *after);
        changed.then_some((after, self.content_op.unwrap_or(self.op)))
    }
}

/// A sound group: what it makes of each node it names.
pub(crate) struct GroupChange {
    drafts: Vec<Draft>,
    first: Seq,
    memory: AuthorRow,
}

/// The group while it is checked.
pub(crate) struct GroupCheck<'a, 'b> {
    pub batch: &'a mut Batch<'b>,
    pub drafts: Vec<Draft>,
    by_uid: BTreeMap<NodeUid, usize>,
    by_nid: BTreeMap<Nid, usize>,
    first: Seq,
    /// What the share remembers of the author if the group is taken.
    pub memory: AuthorRow,
}

impl<'a, 'b> GroupCheck<'a, 'b> {
    /// Checks a group whose first operation would have the number `first`.
    pub fn run(batch: &'a mut Batch<'b>, group: &Group, first: Seq) -> Result<Outcome, LedgerError> {
        let (drafts, by_uid, by_nid) =
            (Vec::with_capacity(group.ops.len().min(1024)), BTreeMap::new(), BTreeMap::new());
        let memory = batch.memory;
        let mut check = Self { batch, drafts, by_uid, by_nid, first, memory };
        match check.all(group) {
            Ok(()) => Ok(Outcome::Sound(GroupChange { drafts: check.drafts, first, memory: check.memory })),
            Err(Stop::Refused { op, why }) => Ok(Outcome::Refused { op, why }),
            Err(Stop::Failed(error)) => Err(error),
        }
    }

    fn all(&mut self, group: &Group) -> Result<(), Stop> {
        if group.ops.is_empty() || group.ops.len() > GROUP_OPS_MAX {
            return invalid(0, "a group has 1 to 65536 operations");
        }
        for (op, nth) in group.ops.iter().zip(0u32..) {
            self.lay(op, nth)?;
        }
        self.check_places()?;
        if !planted(Bug::NotEmptyUnchecked) {
            self.check_deletions()?;
        }
        self.check_brake()?;
        self.check_quota()?;
        self.check_chunks()
    }

    /// Lays one operation over the state that the ones before it left.
    fn lay(&mut self, op: &Op, nth: u32) -> Result<(), Stop> {
        match op {
            Op::Create { uid, at, mtime, attrs, content } => {
                if self.by_uid.contains_key(uid) || self.batch.rows.ident(*uid)?.is_some() {
                    return refuse(nth, Refusal::Exists);
                }
                self.lay_new(*uid, None, at, (*mtime, attrs, content), nth)
            }
            Op::Revive { uid, at, mtime, attrs, content } => {
                if self.by_uid.contains_key(uid) {
                    return invalid(nth, "a revived node has no other operation in its group");
                }
                let known = match self.batch.rows.ident(*uid)? {
                    None => None,
                    Some(ident) => Some(self.dead(ident.nid, content.kind(), nth)?),
                };
                self.lay_new(*uid, known, at, (*mtime, attrs, content), nth)
            }
            Op::Update { uid, base, mtime, attrs, content } => {
                let at = self.live(*uid, *base, nth)?;
                if let Some(content) = content {
                    check_content(content, nth)?;
                }
                if let Some(attrs) = attrs {
                    check_attrs(attrs, nth)?;
                }
                check_mtime(mtime.as_ref(), nth)?;
                let draft = &mut self.drafts[at];
                let after = draft.after.as_mut().expect("found live");
                if let Some(content) = content {
                    if content.kind() != after.kind() {
                        return invalid(nth, "a node's kind never changes");
                    }
                    after.content = content.clone();
                    draft.content_op = Some(nth);
                }
                if let Some(attrs) = attrs {
                    after.attrs = Arc::new(attrs.clone());
                }
                after.mtime = mtime.unwrap_or(after.mtime);
                draft.op = nth;
                Ok(())
            }
            Op::Move { uid, base, to } => {
                let at = self.live(*uid, *base, nth)?;
                if *uid == NodeUid::ROOT {
                    return invalid(nth, "the root stays where it is");
                }
                let up = self.place(to, nth)?;
                let draft = &mut self.drafts[at];
                let after = draft.after.as_mut().expect("found live");
                (after.up, after.name) = (up, to.name.clone());
                (draft.parent, draft.what) = (to.parent, What::Move);
                (draft.op, draft.place_op) = (nth, Some(nth));
                Ok(())
            }
            Op::Delete { uid, base } => {
                if self.by_uid.contains_key(uid) {
                    return invalid(nth, "a deleted node has no other operation in its group");
                }
                let at = self.live(*uid, *base, nth)?;
                if *uid == NodeUid::ROOT {
                    return invalid(nth, "the root cannot be deleted");
                }
                let draft = &mut self.drafts[at];
                (draft.after, draft.what, draft.op) = (None, What::Delete, nth);
                Ok(())
            }
        }
    }

    /// The draft of a live node; its version before the group must be `base`.
    fn live(&mut self, uid: NodeUid, base: Seq, nth: u32) -> Result<usize, Stop> {
        if let Some(at) = self.by_uid.get(&uid).copied() {
            let draft = &self.drafts[at];
            return match &draft.before {
                Some(before) if draft.after.is_some() && before.since == base => Ok(at),
                Some(before) if draft.after.is_some() => {
                    refuse(nth, Refusal::BaseChanged { current: Some(before.since) })
                }
                _ => invalid(nth, "a created, revived or deleted node has no other operation in its group"),
            };
        }
        let Some(ident) = self.batch.rows.ident(uid)? else {
            return refuse(nth, Refusal::BaseChanged { current: None });
        };
        let Some(row) = self.batch.rows.node(ident.nid)? else {
            return refuse(nth, Refusal::BaseChanged { current: None });
        };
        if row.since != base && !planted(Bug::NoRemotePrecondition) {
            return refuse(nth, Refusal::BaseChanged { current: Some(row.since) });
        }
        let (before, after) = (Some(row.clone()), Some(row));
        let draft = Draft {
            uid,
            nid: ident.nid,
            before,
            after,
            parent: NodeUid::ROOT,
            fresh: false,
            what: What::Update,
            op: nth,
            content_op: None,
            place_op: None,
        };
        Ok(self.push(draft))
    }

    /// The number of a known node that must be dead and of this kind.
    fn dead(&mut self, nid: Nid, kind: Kind, nth: u32) -> Result<Nid, Stop> {
        if let Some(row) = self.batch.rows.node(nid)? {
            return refuse(nth, Refusal::BaseChanged { current: Some(row.since) });
        }
        match self.batch.rows.last_past_node(nid)? {
            Some(past) if past.row.kind() != kind => invalid(nth, "a node's kind never changes"),
            // Where the history is gone, the id is all that is left, and nobody can tell the kind.
            _ => Ok(nid),
        }
    }

    fn lay_new(
        &mut self,
        uid: NodeUid,
        known: Option<Nid>,
        at: &Placed,
        (mtime, attrs, content): (Timestamp, &Attrs, &Content),
        nth: u32,
    ) -> Result<(), Stop> {
        if uid == NodeUid::ROOT {
            return refuse(nth, Refusal::Exists);
        }
        check_content(content, nth)?;
        check_attrs(attrs, nth)?;
        check_mtime(Some(&mtime), nth)?;
        let up = self.place(at, nth)?;
        let nid = known.unwrap_or(Nid(self.seq(nth).0));
        let (name, attrs, content) = (at.name.clone(), Arc::new(attrs.clone()), content.clone());
        let row = NodeRow { nid, since: self.seq(nth), up, name, mtime, attrs, content };
        let what = if known.is_some() { What::Revive } else { What::Create };
        let draft = Draft {
            uid,
            nid,
            before: None,
            after: Some(row),
            parent: at.parent,
            fresh: known.is_none(),
            what,
            op: nth,
            content_op: Some(nth),
            place_op: Some(nth),
        };
        self.push(draft);
        Ok(())
    }

    /// The directory of a place, as it stands at this operation; whether it is still there in the end is checked later.
    fn place(&mut self, at: &Placed, nth: u32) -> Result<Nid, Stop> {
        let gone = || refuse(nth, Refusal::ParentGone { parent: at.parent });
        let nid = if let Some(found) = self.by_uid.get(&at.parent) {
            let draft = &self.drafts[*found];
            match &draft.after {
                Some(after) if after.kind() == Kind::Directory => draft.nid,
                _ => return gone(),
            }
        } else if let Some((uid, nid)) = self.batch.parent
            && uid == at.parent
        {
            nid
        } else {
            let Some(ident) = self.batch.rows.ident(at.parent)? else { return gone() };
            match self.batch.rows.node(ident.nid)? {
                _ if planted(Bug::ParentUnchecked) => (),
                Some(row) if row.kind() == Kind::Directory => (),
                _ => return gone(),
            }
            self.batch.parent = Some((at.parent, ident.nid));
            ident.nid
        };
        // `.polder` at an endpoint's root is the agent's own folder.
        if nid == ROOT_NID && *self.batch.share.case.key(at.name.as_bytes()) == *b".polder" {
            return refuse(nth, Refusal::BadName(at.name.clone()));
        }
        Ok(nid)
    }

    fn push(&mut self, draft: Draft) -> usize {
        let at = self.drafts.len();
        self.by_uid.insert(draft.uid, at);
        self.by_nid.insert(draft.nid, at);
        self.drafts.push(draft);
        at
    }

    fn seq(&self, nth: u32) -> Seq {
        Seq(self.first.0 + u64::from(nth))
    }

    /// Every node that is placed anew has a live directory, a name of its own, and no place below itself.
    fn check_places(&mut self) -> Result<(), Stop> {
        let mut claims: BTreeMap<(Nid, Vec<u8>), usize> = BTreeMap::new();
        for (at, draft) in self.drafts.iter().enumerate().filter(|(_, draft)| draft.is_placed_anew()) {
            let after = draft.after.as_ref().expect("placed");
            let nth = draft.place_op.expect("placed by an operation");
            if self.by_nid.get(&after.up).is_some_and(|parent| self.drafts[*parent].after.is_none()) {
                return refuse(nth, Refusal::ParentGone { parent: draft.parent });
            }
            let key = self.batch.share.case.key(after.name.as_bytes());
            if !planted(Bug::NameTakenUnchecked)
                && let Some(owner) = self.batch.rows.entry(after.up, &key)?
                && owner.nid != draft.nid
                && !self.vacates(owner.nid, after.up, &key)
            {
                let by = uid_of(self.batch.rows, owner.nid)?;
                return refuse(nth, Refusal::NameTaken { by });
            }
            if draft.before.is_some() && after.kind() == Kind::Directory {
                self.check_way_up(draft.nid, after.up, nth)?;
            }
            // A single operation cannot claim a name twice.
            if self.drafts.len() > 1
                && let Some(other) = claims.insert((after.up, key.into_owned()), at)
            {
                return refuse(nth, Refusal::NameTaken { by: self.drafts[other].uid });
            }
        }
        Ok(())
    }

    /// Whether a node stands elsewhere after the group than under this key.
    fn vacates(&self, nid: Nid, parent: Nid, key: &[u8]) -> bool {
        let Some(draft) = self.by_nid.get(&nid).map(|at| &self.drafts[*at]) else { return false };
        match &draft.after {
            None => true,
            Some(after) => after.up != parent || *self.batch.share.case.key(after.name.as_bytes()) != *key,
        }
    }

    /// The way from a directory's new parent to the root does not lead through the directory itself.
    fn check_way_up(&self, nid: Nid, parent: Nid, nth: u32) -> Result<(), Stop> {
        let mut at = parent;
        for _ in 0..MOVE_STEPS_MAX {
            if at == nid {
                return if planted(Bug::CycleUnchecked) { Ok(()) } else { refuse(nth, Refusal::Cycle) };
            }
            if at == ROOT_NID {
                return Ok(());
            }
            at = match self.by_nid.get(&at).map(|found| &self.drafts[*found]) {
                Some(draft) => match &draft.after {
                    Some(after) => after.up,
                    None => return refuse(nth, Refusal::ParentGone { parent: draft.uid }),
                },
                None => match self.batch.rows.node(at)? {
                    Some(row) => row.up,
                    None => {
                        return Err(
                            RowsError::corrupt(format!("node {at} has live children and is gone")).into()
                        );
                    }
                },
            };
        }
        invalid(nth, "the new place lies more than 16384 directories deep")
    }

    /// Every directory that is deleted has no child after the group.
    fn check_deletions(&self) -> Result<(), Stop> {
        for draft in self.drafts.iter().filter(|draft| draft.after.is_none()) {
            if draft.before.as_ref().is_none_or(|before| before.kind() != Kind::Directory) {
                continue;
            }
            // Children that the group itself takes away are passed over; the first other one ends the walk.
            let mut after: Option<Box<[u8]>> = None;
            let limit = self.drafts.len().min(256);
            loop {
                let page = self.batch.rows.entries(draft.nid, after.as_deref(), limit, None)?;
                if page.iter().any(|child| !self.vacates(child.entry.nid, draft.nid, &child.key)) {
                    return refuse(draft.op, Refusal::NotEmpty);
                }
                if page.len() < limit {
                    break;
                }
                after = page.into_iter().next_back().map(|child| child.key);
            }
        }
        Ok(())
    }
}

impl GroupChange {
    /// Closes all intervals, then writes the new rows: a swap of two names has no other order.
    pub fn apply(self, batch: &mut Batch<'_>) -> Result<(), RowsError> {
        let Self { drafts, first, memory } = self;
        batch.memory = memory;
        let case = batch.share.case;
        for draft in drafts.iter().filter(|draft| draft.leaves()) {
            let before = draft.before.as_ref().expect("leaves a place");
            let until = Seq(first.0 + u64::from(draft.op));
            batch.rows.close_entry(before.up, &case.key(before.name.as_bytes()), until)?;
        }
        for draft in drafts {
            draft.apply(batch, first)?;
        }
        Ok(())
    }
}

impl Draft {
    fn apply(mut self, batch: &mut Batch<'_>, first: Seq) -> Result<(), RowsError> {
        let seq = Seq(first.0 + u64::from(self.op));
        let placed = self.is_placed_anew();
        let size = |row: &Option<NodeRow>| row.as_ref().map_or(0, |row| row.content.size());
        let share = &mut batch.share;
        let bytes = share.live_bytes.checked_sub(size(&self.before));
        share.live_bytes =
            bytes.ok_or_else(|| RowsError::corrupt("the share's live bytes"))? + size(&self.after);
        match &mut self.after {
            Some(after) => {
                after.since = seq;
                if self.before.is_some() {
                    batch.rows.replace_node(after, seq)?;
                } else {
                    share.live_nodes += 1;
                    if self.fresh {
                        batch.rows.insert_ident(self.nid, self.uid)?;
                    } else {
                        batch.rows.put_gone(self.nid, None)?;
                    }
                    batch.rows.insert_node(after)?;
                }
                if placed {
                    let entry = EntryRow { since: seq, nid: self.nid, name: after.name.clone() };
                    let key = share.case.key(after.name.as_bytes());
                    batch.rows.insert_entry(after.up, &key, &entry)?;
                }
            }
            None => {
                share.live_nodes -= 1;
                batch.parent = None;
                batch.rows.close_node(self.nid, seq)?;
                batch.rows.put_gone(self.nid, Some(seq))?;
            }
        }
        batch.rows.insert_change(seq, self.nid, self.what)
    }
}

impl From<LedgerError> for Stop {
    fn from(error: LedgerError) -> Self {
        Self::Failed(error)
    }
}

fn check_content(content: &Content, nth: u32) -> Result<(), Stop> {
    content.ensure_valid().or_else(|error: DecodeError| invalid(nth, &format!("the content {error}")))
}

fn check_attrs(attrs: &Attrs, nth: u32) -> Result<(), Stop> {
    // What cannot be read back must not be written: the decoder is the rule.
    let plain = attrs.xattrs.is_empty()
        && attrs.mode <= 0o7777
        && attrs.owner.len().max(attrs.group.len()) <= usize::from(u8::MAX);
    if plain {
        return Ok(());
    }
    match Attrs::decode(&attrs.encode()) {
        Ok(_) => Ok(()),
        Err(error) => invalid(nth, &format!("the attributes: {error}")),
    }
}

fn check_mtime(mtime: Option<&Timestamp>, nth: u32) -> Result<(), Stop> {
    if mtime.is_some_and(|mtime| mtime.nanos > 999_999_999) {
        return invalid(nth, "nanoseconds of a time are below a second");
    }
    Ok(())
}
