//! Batches: groups in their order, once-only numbers, offers made durable before a batch leaves, answers.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use polder_sync::{
    Becomes, Change, CloudNode, Offer, PlannedGroup, PlannedOp, SyncedNode, TreeError, TreeStore,
};
use polder_types::{
    Attrs, AttrsHash, BatchAnswer, BatchNo, Group, GroupAnswer, NodeUid, Op, Refusal, Seq,
    zoo::{Bug, planted},
};

use crate::brake::Verdict;
use crate::engine::Engine;
use crate::session::content_since;
use crate::work::State;
use crate::{BatchError, Effect, JobId, Reason};

/// A second batch leaves beside one in flight only when it has at least so many operations.
const SECOND_OPS_MIN: usize = 128;
/// A refusal is planned again so often before it counts as a problem.
const REFUSED_QUIETLY: u32 = 5;

/// Groups queued and batches in flight.
#[derive(Debug, Default)]
pub(crate) struct Sends {
    queue: VecDeque<Outgoing>,
    queued_ops: usize,
    flying: BTreeMap<JobId, Batch>,
    /// Groups that were queued and have no answer yet.
    open: BTreeSet<u64>,
    next_serial: u64,
}

/// A group on its way.
#[derive(Debug)]
struct Outgoing {
    serial: u64,
    after: Vec<u64>,
    ops: Vec<PlannedOp>,
    /// It stands before all that is not.
    urgent: bool,
}

#[derive(Debug)]
struct Batch {
    no: BatchNo,
    groups: Vec<Outgoing>,
}

impl Batch {
    fn is_urgent(&self) -> bool {
        self.groups.iter().any(|group| group.urgent)
    }
}

impl Sends {
    /// Queues a group: urgent ones before the others, unless they need one that is not urgent.
    fn push(&mut self, group: Outgoing) {
        self.queued_ops += group.ops.len();
        self.open.insert(group.serial);
        if group.urgent {
            let at = self.queue.partition_point(|group| group.urgent);
            self.queue.insert(at, group);
        } else {
            self.queue.push_back(group);
        }
    }

    /// Whether a batch may leave now. Beside others it is a full one; or one that somebody waits for, behind bulk.
    fn may_send(&self, batches: usize, batch_ops: usize) -> bool {
        if self.flying.is_empty() {
            return true;
        }
        let urgent = self.queue.front().is_some_and(|group| group.urgent);
        if urgent && !self.flying.values().any(Batch::is_urgent) {
            return self.flying.len() <= batches;
        }
        self.flying.len() < batches && self.queued_ops >= SECOND_OPS_MIN.min(batch_ops)
    }

    pub(crate) fn queued(&self) -> usize {
        self.queued_ops
    }

    pub(crate) fn is_in_flight(&self, no: BatchNo) -> bool {
        self.flying.values().any(|batch| batch.no == no)
    }

    /// Forgets what has not left.
    pub(crate) fn drop_queue(&mut self) {
        for group in self.queue.drain(..) {
            self.open.remove(&group.serial);
        }
        self.queued_ops = 0;
    }
}

impl Engine {
    /// Takes the groups of a plan into the queue, unless the brake holds them.
    pub(crate) fn queue_groups(
        &mut self,
        store: &mut dyn TreeStore,
        groups: Vec<PlannedGroup>,
        rest: &mut BTreeSet<NodeUid>,
    ) -> Result<(), TreeError> {
        // Per group of the plan: its number in the queue, or none when it did not get there.
        let mut serials: Vec<Option<u64>> = Vec::with_capacity(groups.len());
        for group in groups {
            for op in &group.ops {
                rest.remove(&op.uid);
            }
            let after: Option<Vec<u64>> = group.after.iter().map(|at| serials[*at]).collect();
            let busy = group.ops.iter().any(|op| self.work.is_busy(op.uid));
            let Some(after) = after.filter(|_| !busy) else {
                // What it needs stays behind, and so does this.
                let at = self.now.mono_ms + self.settings.backoff_ms.0;
                group.ops.iter().for_each(|op| self.work.put_off(op.uid, at));
                serials.push(None);
                continue;
            };
            let verdict = self.judge(&group);
            if verdict != Verdict::Go {
                serials.push(None);
                self.hold_group(store, &group, verdict)?;
                continue;
            }
            let serial = self.sends.next_serial;
            self.sends.next_serial += 1;
            let free = after.iter().all(|serial| !self.sends.open.contains(serial));
            let urgent = free && group.ops.iter().any(|op| self.work.is_urgent(op.uid));
            for op in &group.ops {
                self.work.put(op.uid, State::Queued);
            }
            self.sends.push(Outgoing { serial, after, ops: group.ops, urgent });
            serials.push(Some(serial));
        }
        Ok(())
    }

    fn judge(&mut self, group: &PlannedGroup) -> Verdict {
        let mut brake = std::mem::take(&mut self.brake);
        let verdict = brake.judge(
            group,
            &|uid| self.is_ours(uid),
            self.scan.entry_count,
            self.now.mono_ms,
            &self.settings.brake,
        );
        self.brake = brake;
        verdict
    }

    fn hold_group(
        &mut self,
        store: &mut dyn TreeStore,
        group: &PlannedGroup,
        verdict: Verdict,
    ) -> Result<(), TreeError> {
        for op in &group.ops {
            if verdict == Verdict::Revert {
                self.throw_back(store, op.uid)?;
            } else {
                self.work.put(op.uid, State::Braked);
            }
        }
        Ok(())
    }

    /// The share's state is to come back to the disk: what is here counts as agreed, so that the share differs from it.
    fn throw_back(&mut self, store: &mut dyn TreeStore, uid: NodeUid) -> Result<(), TreeError> {
        let view = crate::overlay::View { store, overlay: &self.overlay };
        let local = polder_sync::Trees::local(&view, uid)?;
        let cloud = store.cloud(uid)?;
        match (local, &cloud) {
            (Some(local), Some(cloud_node)) => {
                let content = local.content.known().cloned().unwrap_or_else(|| cloud_node.content.clone());
                let row = SyncedNode {
                    at: local.at,
                    content,
                    attrs_share: local.attrs,
                    attrs_here: local.attrs,
                    mtime_share: local.mtime,
                    stamp: local.stamp,
                    since: cloud_node.since,
                };
                store.put_synced(uid, Some(&row))?;
            }
            _ => self.forget_below(store, uid)?,
        }
        store.put_cloud(uid, cloud.as_ref())?;
        self.after_synced(store, uid)?;
        self.holds.remove(&uid);
        self.work.finish(uid, true, self.now.mono_ms);
        Ok(())
    }

    /// A node that is gone here counts as never synced, with everything below it: it is placed anew.
    fn forget_below(&mut self, store: &mut dyn TreeStore, uid: NodeUid) -> Result<(), TreeError> {
        let mut stack = vec![uid];
        while let Some(uid) = stack.pop() {
            loop {
                let children = store.synced_children(uid, None, 256)?;
                for child in &children {
                    let cloud = store.cloud(*child)?;
                    // Out of this directory's list at once; its own children are found by its id.
                    store.put_synced(*child, None)?;
                    store.put_cloud(*child, cloud.as_ref())?;
                    self.after_synced(store, *child)?;
                    self.work.touch(*child, self.now.mono_ms);
                }
                stack.extend(&children);
                if children.is_empty() {
                    break;
                }
            }
            let cloud = store.cloud(uid)?;
            store.put_synced(uid, None)?;
            store.put_cloud(uid, cloud.as_ref())?;
        }
        self.session.backlog = true;
        Ok(())
    }

    pub(crate) fn pump_sends(&mut self, store: &mut dyn TreeStore) -> Result<(), TreeError> {
        let limits = self.settings.limits;
        while self.session.is_announced()
            && !self.session.held_by_service
            && !self.sends.queue.is_empty()
            && self.sends.may_send(limits.batches, limits.batch_ops)
        {
            let groups = self.fill_batch();
            if groups.is_empty() {
                break;
            }
            self.send(store, groups)?;
        }
        Ok(())
    }

    /// Takes from the queue, in order, what needs nothing that is in flight elsewhere.
    fn fill_batch(&mut self) -> Vec<Outgoing> {
        let limits = self.settings.limits;
        let mut taken: Vec<Outgoing> = Vec::new();
        let mut inside: BTreeSet<u64> = BTreeSet::new();
        let mut left = VecDeque::new();
        let (mut ops, mut bytes) = (0, 0);
        while let Some(group) = self.sends.queue.pop_front() {
            let ready =
                group.after.iter().all(|serial| inside.contains(serial) || !self.sends.open.contains(serial));
            let size: usize = group.ops.iter().map(size_of_op).sum();
            // What is urgent does not wait until bulk beside it was carried out.
            let alike = taken.first().is_none_or(|first| first.urgent == group.urgent);
            let fits = taken.is_empty()
                || (alike && ops + group.ops.len() <= limits.batch_ops && bytes + size <= limits.batch_bytes);
            if !ready || !fits {
                left.push_back(group);
                if !fits {
                    break;
                }
                continue;
            }
            ops += group.ops.len();
            bytes += size;
            inside.insert(group.serial);
            taken.push(group);
        }
        left.append(&mut self.sends.queue);
        self.sends.queue = left;
        self.sends.queued_ops -= ops;
        taken
    }

    fn send(&mut self, store: &mut dyn TreeStore, outgoing: Vec<Outgoing>) -> Result<(), TreeError> {
        let no = store.next_batch()?;
        if !planted(Bug::BatchNumberReused) {
            store.put_next_batch(BatchNo(no.0 + 1))?;
        }
        let job = self.job();
        if planted(Bug::SyncedBeforeAnswered) {
            for op in outgoing.iter().flat_map(|group| &group.ops) {
                if let Becomes::Row { row, .. } = &op.becomes {
                    store.put_synced(op.uid, Some(row))?;
                }
            }
        }
        let mut groups = Vec::with_capacity(outgoing.len());
        for (at, group) in outgoing.iter().enumerate() {
            let mut ops = Vec::with_capacity(group.ops.len());
            for (index, op) in group.ops.iter().enumerate() {
                ops.push(wire_op(store, op)?);
                self.work.put(op.uid, State::Job(job));
                let becomes = match &op.becomes {
                    Becomes::Unchanged => continue,
                    Becomes::Gone => None,
                    Becomes::Row { row, .. } => Some(row.clone()),
                };
                store.put_offer(&Offer {
                    uid: op.uid,
                    batch: no,
                    group: at as u32,
                    op: index as u32,
                    becomes,
                })?;
            }
            groups.push(Group { ops });
        }
        self.sends.flying.insert(job, Batch { no, groups: outgoing });
        self.out.push(Effect::Send { job, batch: no, known: self.session.known(), groups });
        Ok(())
    }

    pub(crate) fn answered(
        &mut self,
        store: &mut dyn TreeStore,
        job: JobId,
        answer: Result<BatchAnswer, BatchError>,
    ) -> Result<(), TreeError> {
        let Some(batch) = self.sends.flying.remove(&job) else { return Ok(()) };
        for group in &batch.groups {
            self.sends.open.remove(&group.serial);
        }
        match answer {
            Ok(answer) => self.take_answer(store, batch, &answer),
            Err(BatchError::Lost | BatchError::Stale) => {
                self.batch_lost(batch);
                self.batches_lost(store)?;
                // The order of a fresh connection tells what became of it.
                self.reannounce();
                Ok(())
            }
            Err(BatchError::NotTaken(why)) => {
                for op in batch.groups.iter().flat_map(|group| &group.ops) {
                    store.drop_offer(op.uid)?;
                    self.fail(store, op.uid, None)?;
                }
                self.log(crate::Level::Debug, format!("a batch was not taken: {}", why.text));
                Ok(())
            }
            Err(BatchError::Rebaseline(why)) => {
                self.batch_lost(batch);
                self.rebaseline(store, why)
            }
        }
    }

    fn batch_lost(&mut self, batch: Batch) {
        for op in batch.groups.into_iter().flat_map(|group| group.ops) {
            let after_feed = !planted(Bug::RetriesBeforeFeed);
            if after_feed {
                self.work.put(op.uid, State::AfterCut);
            } else {
                self.work.finish(op.uid, true, self.now.mono_ms);
            }
        }
    }

    /// The session is gone: nobody knows what became of the batches in flight.
    pub(crate) fn batches_lost(&mut self, _store: &mut dyn TreeStore) -> Result<(), TreeError> {
        for (_, batch) in std::mem::take(&mut self.sends.flying) {
            for group in &batch.groups {
                self.sends.open.remove(&group.serial);
            }
            self.batch_lost(batch);
        }
        // What has not left was planned before what others may have done meanwhile.
        let queued: Vec<NodeUid> =
            self.sends.queue.iter().flat_map(|group| group.ops.iter().map(|op| op.uid)).collect();
        self.sends.drop_queue();
        for uid in queued {
            self.work.put(uid, State::AfterCut);
        }
        Ok(())
    }

    fn take_answer(
        &mut self,
        store: &mut dyn TreeStore,
        batch: Batch,
        answer: &BatchAnswer,
    ) -> Result<(), TreeError> {
        let mut accepted = 0;
        for (group, answer) in batch.groups.iter().zip(&answer.groups) {
            for op in &group.ops {
                store.drop_offer(op.uid)?;
            }
            match answer {
                GroupAnswer::Accepted { first } => {
                    accepted += group.ops.len() as u64;
                    for (index, op) in group.ops.iter().enumerate() {
                        self.accepted(store, op, Seq(first.0 + index as u64))?;
                    }
                }
                GroupAnswer::Refused { op, why } => self.refused(store, &group.ops, *op as usize, why)?,
            }
        }
        if accepted > 0 {
            self.own_commit(store, answer.cursor, accepted)?;
        }
        Ok(())
    }

    /// An operation took effect as version `since`.
    /// A node that is gone, as far as was seen, has another row now. Where that says that it stands a walk finds it so, and tells nothing: a new node
    /// went with its directory while it was offered, and is back with it; or nobody has looked since the offer but at its old place. Somebody
    /// looks whether it is gone.
    pub(crate) fn look_for_gone(&mut self, store: &dyn TreeStore, uid: NodeUid) -> Result<(), TreeError> {
        if let Some(None) = self.overlay.get(uid)
            && let Some(row) = store.synced(uid)?
            && !planted(Bug::GoneWhenAnswered)
        {
            self.hold(uid);
            self.looks.pend(row.at.parent, Some(row.at.name));
        }
        Ok(())
    }

    fn accepted(&mut self, store: &mut dyn TreeStore, op: &PlannedOp, since: Seq) -> Result<(), TreeError> {
        let uid = op.uid;
        let now = self.now.mono_ms;
        let before = store.cloud(uid)?;
        let old = store.synced(uid)?;
        // The feed may have been quicker.
        let is_news = before.as_ref().is_none_or(|cloud| cloud.since < since);
        if is_news || old.as_ref().is_none_or(|row| row.since < since) {
            let cloud = if is_news { after_change(before, &op.change, since) } else { before };
            let row = match &op.becomes {
                Becomes::Unchanged => old,
                Becomes::Gone => None,
                Becomes::Row { row, .. } => {
                    let since = content_since(row, old.as_ref(), cloud.as_ref(), since);
                    Some(SyncedNode { since, ..row.clone() })
                }
            };
            self.write_row(store, uid, row.as_ref())?;
            store.put_cloud(uid, cloud.as_ref())?;
            if is_news {
                self.ran_ahead(uid, since);
            }
        }
        self.after_synced(store, uid)?;
        self.look_for_gone(store, uid)?;
        self.work.succeeded(uid);
        self.problems.solved(uid);
        self.report.sent(op);
        let differs = self.overlay.get(uid).is_some() || differs(store, uid)?;
        self.work.finish(uid, differs, now);
        Ok(())
    }

    fn refused(
        &mut self,
        store: &mut dyn TreeStore,
        ops: &[PlannedOp],
        at: usize,
        why: &Refusal,
    ) -> Result<(), TreeError> {
        for (index, op) in ops.iter().enumerate() {
            if index != at {
                self.fail(store, op.uid, None)?;
                continue;
            }
            let is_here = matches!(self.overlay.get(op.uid), Some(Some(_)));
            let gone_there = *why == Refusal::Exists && store.cloud(op.uid)?.is_none();
            if gone_there && is_here && !planted(Bug::ExistsIsFinal) {
                // It was deleted under this id while it came back here: it is a new node.
                let new = self.new_uid();
                self.rekey(store, op.uid, new)?;
                continue;
            }
            let reason = match why {
                Refusal::Quota { .. } => Some(Reason::ShareQuota),
                Refusal::BadName(_) => Some(Reason::BadName),
                Refusal::Invalid(_) => Some(Reason::Invalid),
                Refusal::Held => Some(Reason::Held),
                Refusal::ChunksMissing(_) => {
                    self.forget_content(store, op.uid)?;
                    None
                }
                _ => (self.work.tries(op.uid) >= REFUSED_QUIETLY).then_some(Reason::Refused),
            };
            let first = self.work.tries(op.uid) == 0;
            self.fail(store, op.uid, reason.map(|reason| (reason, why.to_string().into())))?;
            if reason.is_none() && first && !planted(Bug::RefusalNotFollowed) {
                // The service knows more than we do: planned again as soon as the feed has told.
                self.work.put(op.uid, State::AfterCut);
            }
        }
        if !planted(Bug::RefusalNotFollowed) {
            self.want_feed();
        }
        Ok(())
    }
}

/// Whether the share's state of a node differs from its synced row.
pub(crate) fn differs(store: &dyn TreeStore, uid: NodeUid) -> Result<bool, TreeError> {
    Ok(store.cloud(uid)? != store.synced(uid)?.as_ref().map(polder_sync::CloudNode::from))
}

/// The share's node after an operation on it.
fn after_change(before: Option<CloudNode>, change: &Change, since: Seq) -> Option<CloudNode> {
    match change {
        Change::Create { at, content, attrs, mtime } | Change::Revive { at, content, attrs, mtime } => {
            let (at, content, attrs, mtime) = (at.clone(), content.clone(), *attrs, *mtime);
            Some(CloudNode { at, content, attrs, mtime, since })
        }
        Change::Update { content, attrs, mtime, .. } => before.map(|node| CloudNode {
            content: content.clone().unwrap_or(node.content),
            attrs: attrs.unwrap_or(node.attrs),
            mtime: mtime.unwrap_or(node.mtime),
            since,
            at: node.at,
        }),
        Change::Move { to, .. } => before.map(|node| CloudNode { at: to.clone(), since, ..node }),
        Change::Delete { .. } => None,
    }
}

/// A planned operation with its attributes in full.
fn wire_op(store: &dyn TreeStore, op: &PlannedOp) -> Result<Op, TreeError> {
    let uid = op.uid;
    Ok(match op.change.clone() {
        Change::Create { at, content, attrs, mtime } => {
            Op::Create { uid, at, mtime, attrs: attrs_in_full(store, attrs)?, content }
        }
        Change::Revive { at, content, attrs, mtime } => {
            Op::Revive { uid, at, mtime, attrs: attrs_in_full(store, attrs)?, content }
        }
        Change::Update { base, content, attrs, mtime } => {
            let attrs = attrs.map(|hash| attrs_in_full(store, hash)).transpose()?;
            Op::Update { uid, base, mtime, attrs, content }
        }
        Change::Move { base, to } => Op::Move { uid, base, to },
        Change::Delete { base } => Op::Delete { uid, base },
    })
}

fn attrs_in_full(store: &dyn TreeStore, hash: AttrsHash) -> Result<Attrs, TreeError> {
    match store.attrs(hash)? {
        Some(attrs) => Ok(Attrs::clone(&attrs)),
        None => Err(TreeError {
            doing: "find the attributes that a row names",
            source: Box::from(format!("no attributes with hash {:02x?}", hash.0)),
        }),
    }
}

/// An estimate of what an operation takes in a message.
fn size_of_op(op: &PlannedOp) -> usize {
    256 + match &op.change {
        Change::Create { at, .. } | Change::Revive { at, .. } | Change::Move { to: at, .. } => {
            at.name.as_bytes().len()
        }
        Change::Update { .. } | Change::Delete { .. } => 0,
    }
}
