//! Batches and their answers.

use std::collections::HashMap;

use bytes::Bytes;
use polder_types::{
    Attrs, AttrsHash, Author, BatchAnswer, BatchNo, Cursor, Group, GroupAnswer, InstanceId, NodeUid, Op,
    Refusal, Seq, Timestamp,
};

use super::{
    BadMessage, at_most, attrs, chunk_ids, content, cursor, id, limits, name, nonce16, placed, seq, text,
    time,
};
use crate::grpc::pb;

/// A batch as the service takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfferedBatch {
    /// Which opening of which endpoint it comes from.
    pub endpoint: polder_types::EndpointId,
    /// The opening.
    pub opening: [u8; 16],
    /// Whose batch it is.
    pub author: Author,
    /// Highest place in history that the author knows.
    pub known: Cursor,
    /// The groups.
    pub groups: Vec<Group>,
}

/// The message of a batch. Equal attributes are sent once.
pub fn encode_commit(batch: &OfferedBatch) -> pb::CommitRequest {
    let mut table = Table::default();
    let groups = batch
        .groups
        .iter()
        .map(|group| pb::OpGroup { ops: group.ops.iter().map(|op| encode_op(op, &mut table)).collect() });
    let groups = groups.collect();
    pb::CommitRequest {
        opening: Some(encode_opening(batch.endpoint, batch.opening)),
        instance: copy(&batch.author.by.0),
        batch: batch.author.batch.0,
        known: Some(batch.known.into()),
        groups,
        attrs: table.entries,
    }
}

/// What every call about an endpoint carries.
pub fn encode_opening(endpoint: polder_types::EndpointId, opening: [u8; 16]) -> pb::Opening {
    pb::Opening { endpoint_id: copy(&endpoint.0), opening: copy(&opening) }
}

/// The endpoint and its opening.
pub fn decode_opening(
    from: Option<&pb::Opening>,
) -> Result<(polder_types::EndpointId, [u8; 16]), BadMessage> {
    let from = from.ok_or(BadMessage::Missing("opening"))?;
    let endpoint = id(&from.endpoint_id, "endpoint_id", polder_types::EndpointId::from_slice)?;
    Ok((endpoint, nonce16(&from.opening, "opening")?))
}

/// Checks a batch from outside.
pub fn decode_commit(from: &pb::CommitRequest) -> Result<OfferedBatch, BadMessage> {
    let (endpoint, opening) = decode_opening(from.opening.as_ref())?;
    at_most(from.attrs.len(), limits::ATTRS_TABLE_MAX, "attrs")?;
    at_most(from.groups.len(), limits::BATCH_OPS_MAX, "groups")?;
    at_most(from.groups.iter().map(|group| group.ops.len()).sum(), limits::BATCH_OPS_MAX, "ops")?;
    let table = from.attrs.iter().map(|bytes| attrs(bytes)).collect::<Result<Vec<_>, _>>()?;
    let mut groups = Vec::with_capacity(from.groups.len());
    for group in &from.groups {
        if group.ops.is_empty() {
            return Err(BadMessage::Missing("ops"));
        }
        let ops = group.ops.iter().map(|op| decode_op(op, &table)).collect::<Result<_, _>>()?;
        groups.push(Group { ops });
    }
    let by = id(&from.instance, "instance", InstanceId::from_slice)?;
    if by == InstanceId::ZERO {
        return Err(BadMessage::Range("instance"));
    }
    let author = Author { by, batch: BatchNo(from.batch) };
    Ok(OfferedBatch { endpoint, opening, author, known: cursor(from.known.as_ref())?, groups })
}

/// Attributes of a message, each once.
#[derive(Default)]
struct Table {
    index: HashMap<AttrsHash, u32>,
    entries: Vec<Bytes>,
}

impl Table {
    fn index(&mut self, attrs: &Attrs) -> u32 {
        let next = self.entries.len() as u32;
        *self.index.entry(attrs.hash()).or_insert_with(|| {
            self.entries.push(attrs.encode().into());
            next
        })
    }
}

fn copy(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

fn encode_op(op: &Op, table: &mut Table) -> pb::Op {
    use pb::op::Op as Wire;
    let node = |at: &polder_types::Placed, mtime: &Timestamp, attrs: u32, content: &polder_types::Content| {
        pb::NewNode {
            parent: copy(&at.parent.0),
            name: copy(at.name.as_bytes()),
            mtime_s: mtime.secs,
            mtime_ns: mtime.nanos,
            attrs_index: attrs,
            content: content.encode().into(),
        }
    };
    let wire = match op {
        Op::Create { at, mtime, attrs, content, .. } => {
            Wire::Create(node(at, mtime, table.index(attrs), content))
        }
        Op::Revive { at, mtime, attrs, content, .. } => {
            Wire::Revive(node(at, mtime, table.index(attrs), content))
        }
        Op::Update { base, mtime, attrs, content, .. } => Wire::Update(pb::Update {
            base: base.0,
            mtime: mtime.map(|mtime| pb::Time { s: mtime.secs, ns: mtime.nanos }),
            attrs_index: attrs.as_ref().map(|attrs| table.index(attrs)),
            content: content.as_ref().map(|content| content.encode().into()),
        }),
        Op::Move { base, to, .. } => {
            Wire::Move(pb::Move { base: base.0, parent: copy(&to.parent.0), name: copy(to.name.as_bytes()) })
        }
        Op::Delete { base, .. } => Wire::Delete(pb::Delete { base: base.0 }),
    };
    pb::Op { uid: copy(&op.uid().0), op: Some(wire) }
}

fn decode_op(from: &pb::Op, table: &[Attrs]) -> Result<Op, BadMessage> {
    use pb::op::Op as Wire;
    let uid = id(&from.uid, "uid", NodeUid::from_slice)?;
    let attrs_at = |index: u32| table.get(index as usize).cloned().ok_or(BadMessage::Range("attrs_index"));
    Ok(match from.op.as_ref().ok_or(BadMessage::Missing("op"))? {
        Wire::Create(node) => Op::Create {
            uid,
            at: placed(&node.parent, &node.name)?,
            mtime: time(node.mtime_s, node.mtime_ns)?,
            attrs: attrs_at(node.attrs_index)?,
            content: content(&node.content)?,
        },
        Wire::Revive(node) => Op::Revive {
            uid,
            at: placed(&node.parent, &node.name)?,
            mtime: time(node.mtime_s, node.mtime_ns)?,
            attrs: attrs_at(node.attrs_index)?,
            content: content(&node.content)?,
        },
        Wire::Update(update) => Op::Update {
            uid,
            base: seq(update.base, "base")?,
            mtime: update.mtime.as_ref().map(|mtime| time(mtime.s, mtime.ns)).transpose()?,
            attrs: update.attrs_index.map(attrs_at).transpose()?,
            content: update.content.as_ref().map(|bytes| content(bytes)).transpose()?,
        },
        Wire::Move(to) => Op::Move { uid, base: seq(to.base, "base")?, to: placed(&to.parent, &to.name)? },
        Wire::Delete(delete) => Op::Delete { uid, base: seq(delete.base, "base")? },
    })
}

/// What became of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommitOutcome {
    /// Decided, one answer a group.
    Answer(BatchAnswer),
    /// One of the two sides was set back in time: open the endpoint again.
    SetBack {
        /// A line for people.
        message: String,
    },
    /// The batch is older than the answers that are kept.
    Stale,
    /// The endpoint may not commit now.
    NotAllowed {
        /// A line for people.
        why: String,
    },
}

/// The message of a decided batch.
pub fn encode_answer(answer: &BatchAnswer) -> pb::CommitReply {
    let groups = answer.groups.iter().map(|group| pb::GroupAnswer {
        answer: Some(match group {
            GroupAnswer::Accepted { first } => pb::group_answer::Answer::Accepted(first.0),
            GroupAnswer::Refused { op, why } => {
                pb::group_answer::Answer::Refused(pb::Refused { op: *op, why: Some(encode_refusal(why)) })
            }
        }),
    });
    let answer = pb::CommitAnswer { cursor: Some(answer.cursor.into()), groups: groups.collect() };
    pb::CommitReply { result: Some(pb::commit_reply::Result::Answer(answer)) }
}

/// What an opening tells of a batch that was decided. Why a group was refused is left out: it is planned anew.
pub fn encode_kept(batch: BatchNo, answer: &BatchAnswer) -> pb::KeptAnswer {
    let first = |group: &GroupAnswer| match group {
        GroupAnswer::Accepted { first } => first.0,
        GroupAnswer::Refused { .. } => 0,
    };
    pb::KeptAnswer { batch: batch.0, accepted: answer.groups.iter().map(first).collect() }
}

/// Reads [`encode_kept`]: the batch, and of each of its groups the number of its first operation.
pub fn decode_kept(from: &pb::KeptAnswer) -> Result<(BatchNo, Vec<Option<Seq>>), BadMessage> {
    super::at_most(from.accepted.len(), limits::BATCH_OPS_MAX, "accepted")?;
    let first = |number: &u64| (*number > 0).then(|| seq(*number, "accepted")).transpose();
    Ok((BatchNo(from.batch), from.accepted.iter().map(first).collect::<Result<_, _>>()?))
}

fn encode_refusal(why: &Refusal) -> pb::refused::Why {
    use pb::refused::Why;
    match why {
        Refusal::BaseChanged { current } => {
            Why::BaseChanged(pb::BaseChanged { current: current.map(|seq| seq.0) })
        }
        Refusal::NameTaken { by } => Why::NameTaken(copy(&by.0)),
        Refusal::ParentGone { parent } => Why::ParentGone(copy(&parent.0)),
        Refusal::Cycle => Why::Cycle(true),
        Refusal::NotEmpty => Why::NotEmpty(true),
        Refusal::Exists => Why::Exists(true),
        Refusal::Quota { quota_bytes } => Why::QuotaBytes(*quota_bytes),
        Refusal::ChunksMissing(ids) => {
            let ids = &ids[..ids.len().min(limits::CHUNKS_ASKED_MAX)];
            Why::ChunksMissing(ids.iter().flat_map(|id| id.0).collect())
        }
        Refusal::Held => Why::Held(true),
        Refusal::Invalid(rule) => Why::Invalid(rule.clone()),
        Refusal::BadName(name) => Why::BadName(copy(name.as_bytes())),
    }
}

/// Checks the answer to a batch of `group_count` groups.
pub fn decode_reply(from: pb::CommitReply, group_count: usize) -> Result<CommitOutcome, BadMessage> {
    use pb::commit_reply::Result as Wire;
    Ok(match from.result.ok_or(BadMessage::Missing("result"))? {
        Wire::Answer(answer) => {
            if answer.groups.len() != group_count {
                return Err(BadMessage::Range("groups"));
            }
            let groups = answer.groups.into_iter().map(decode_group).collect::<Result<_, _>>()?;
            CommitOutcome::Answer(BatchAnswer { cursor: cursor(answer.cursor.as_ref())?, groups })
        }
        Wire::SetBack(why) => CommitOutcome::SetBack { message: text(why.message, "message")? },
        Wire::Stale(_) => CommitOutcome::Stale,
        Wire::NotAllowed(not) => CommitOutcome::NotAllowed { why: text(not.why, "why")? },
    })
}

fn decode_group(from: pb::GroupAnswer) -> Result<GroupAnswer, BadMessage> {
    use pb::group_answer::Answer;
    Ok(match from.answer.ok_or(BadMessage::Missing("answer"))? {
        Answer::Accepted(first) => GroupAnswer::Accepted { first: seq(first, "accepted")? },
        Answer::Refused(refused) => GroupAnswer::Refused {
            op: refused.op,
            why: decode_refusal(refused.why.ok_or(BadMessage::Missing("why"))?)?,
        },
    })
}

fn decode_refusal(from: pb::refused::Why) -> Result<Refusal, BadMessage> {
    use pb::refused::Why;
    Ok(match from {
        Why::BaseChanged(base) => {
            Refusal::BaseChanged { current: base.current.map(|at| seq(at, "current")).transpose()? }
        }
        Why::NameTaken(by) => Refusal::NameTaken { by: id(&by, "name_taken", NodeUid::from_slice)? },
        Why::ParentGone(parent) => {
            Refusal::ParentGone { parent: id(&parent, "parent_gone", NodeUid::from_slice)? }
        }
        Why::Cycle(_) => Refusal::Cycle,
        Why::NotEmpty(_) => Refusal::NotEmpty,
        Why::Exists(_) => Refusal::Exists,
        Why::QuotaBytes(quota_bytes) => Refusal::Quota { quota_bytes },
        Why::ChunksMissing(ids) => {
            Refusal::ChunksMissing(chunk_ids(&ids, limits::CHUNKS_ASKED_MAX, "chunks_missing")?)
        }
        Why::Held(_) => Refusal::Held,
        Why::Invalid(rule) => Refusal::Invalid(text(rule, "invalid")?),
        Why::BadName(bytes) => Refusal::BadName(name(&bytes, "bad_name")?),
    })
}
