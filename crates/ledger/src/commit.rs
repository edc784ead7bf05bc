//! A batch: cursor, once only, groups one after the other, one number for itself and one per accepted operation.

use std::collections::BTreeMap;

use polder_types::{
    Author, BatchAnswer, BatchNo, ChunkId, Cursor, Group, GroupAnswer, InstanceId, Seq, Tag,
    zoo::{Bug, planted},
};

use crate::group::{GroupCheck, Outcome};
use crate::share::{SEQ_MAX, check_cursor_in, share_row};
use crate::{AuthorRow, CommitRow, LedgerError, PackNo, Rows, RowsMut, ShareRow, answer};

/// Most operations of one batch, all groups together.
pub const BATCH_OPS_MAX: usize = 1 << 20;
/// Answers to refused batches are kept for this many of an instance's last numbers.
pub const REFUSED_BATCHES_KEPT: u64 = 64;

/// Chunks of trees of extents, by root: every chunk below the root, nodes of the tree included. What the node's base
/// version already named may be left out.
pub type TreeChunks = BTreeMap<ChunkId, Vec<ChunkId>>;

/// What the commit core is told besides the batch.
#[derive(Debug, Clone, Copy)]
pub struct CommitContext<'a> {
    /// Service time in milliseconds since 1970. A commit's time is never before that of the one before it.
    pub time_ms: u64,
    /// 64 random bits, fresh for this call.
    pub tag: Tag,
    /// The highest place in history that the author knows, its own commits included.
    pub known: Cursor,
    /// The next number that the author announced in its session. The share's rows remember announcements too.
    pub announced: BatchNo,
    /// Most bytes that all live files may have together.
    pub quota_bytes: Option<u64>,
    /// Mass-change brake of the author's endpoint; `None` for direct changes and where it was let go.
    pub brake: Option<Brake>,
    /// The trees of extents that the batch names.
    pub trees: &'a TreeChunks,
}

/// Limits of the mass-change brake: deletes, overwrites and moves of versions that somebody else wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Brake {
    /// Length of a window in milliseconds. Windows follow each other, so at most twice the limit passes in one length.
    pub window_ms: u64,
    /// Most such operations in a window.
    pub ops_max: u64,
    /// Already held: every such operation is refused until somebody lets go.
    pub held: bool,
}

/// State of one batch while its groups are taken.
pub(crate) struct Batch<'a> {
    pub rows: &'a mut dyn RowsMut,
    pub context: &'a CommitContext<'a>,
    pub author: Author,
    pub share: ShareRow,
    pub memory: AuthorRow,
    /// Number of the batch itself.
    pub seq: Seq,
    /// Accepted operations so far; the next one has the number `seq + ops + 1`.
    pub ops: u64,
    /// Packs looked at so far: live, and whether a group that was taken refers to them.
    pub packs: BTreeMap<PackNo, (bool, bool)>,
    /// The last live directory that was looked at: most operations of a batch stand side by side.
    pub parent: Option<(polder_types::NodeUid, polder_types::Nid)>,
}

/// Takes a batch. Every group is checked on the state after it and is taken whole or refused whole; a repeated batch gets
/// its first answer; an error means that nothing happened.
///
/// Must run in a transaction that writes. The base of an operation is the version before its group; several operations of
/// one group on one node make one version, with the number of the last of them.
pub fn commit(
    rows: &mut dyn RowsMut,
    context: &CommitContext<'_>,
    author: Author,
    groups: &[Group],
) -> Result<BatchAnswer, LedgerError> {
    let share = share_row(rows)?;
    check_cursor_in(rows, &share, context.known)?;
    if is_named(author)
        && !planted(Bug::BatchTakenTwice)
        && let Some(first) = rows.answer(author)?
    {
        return answer::decode(&first);
    }
    let memory = rows.author(author.by)?.unwrap_or_default();
    let batch_min = memory.batch_min.max(context.announced);
    if author.by != InstanceId::ZERO && author.batch < batch_min && !planted(Bug::StaleBatchTaken) {
        return Err(LedgerError::StaleBatch { batch_min });
    }
    let ops_all: usize = groups.iter().map(|group| group.ops.len()).sum();
    if ops_all > BATCH_OPS_MAX {
        return Err(LedgerError::Invalid(format!("a batch has at most {BATCH_OPS_MAX} operations")));
    }
    let seq = share.head.seq.next();
    if author.batch.0 > SEQ_MAX {
        return Err(LedgerError::Invalid("a batch's number has 63 bits".into()));
    }
    if share.head.seq.0 + 1 + ops_all as u64 > SEQ_MAX {
        return Err(LedgerError::Invalid("the share's numbers are used up".into()));
    }
    let packs = BTreeMap::new();
    let mut batch = Batch { rows, context, author, share, memory, seq, ops: 0, packs, parent: None };
    let mut answers = Vec::with_capacity(groups.len());
    for group in groups {
        answers.push(batch.take(group)?);
    }
    batch.finish(answers)
}

/// The first answers to those of an instance's batches that were decided. Asked after [`crate::announce`], in the same
/// transaction, what is missing here was never taken and never will be (answers are kept as long as the changes that
/// they answer, so an endpoint that is not too old for the feed is not too old for them).
pub fn kept_answers(
    rows: &dyn Rows,
    by: InstanceId,
    batches: &[BatchNo],
) -> Result<Vec<(BatchNo, BatchAnswer)>, LedgerError> {
    let mut found = Vec::new();
    for batch in batches {
        if let Some(kept) = rows.answer(Author { by, batch: *batch })? {
            found.push((*batch, answer::decode(&kept)?));
        }
    }
    Ok(found)
}

/// Whether a batch has a name under which it takes effect once. Direct changes may come without.
fn is_named(author: Author) -> bool {
    author.by != InstanceId::ZERO || author.batch != BatchNo(0)
}

impl Batch<'_> {
    fn take(&mut self, group: &Group) -> Result<GroupAnswer, LedgerError> {
        let first = Seq(self.seq.0 + self.ops + 1);
        match GroupCheck::run(self, group, first)? {
            Outcome::Refused { op, why } => Ok(GroupAnswer::Refused { op, why }),
            Outcome::Sound(change) => {
                change.apply(self)?;
                self.ops += group.ops.len() as u64;
                Ok(GroupAnswer::Accepted { first })
            }
        }
    }

    fn finish(mut self, answers: Vec<GroupAnswer>) -> Result<BatchAnswer, LedgerError> {
        if self.ops == 0 {
            return self.finish_refused(answers);
        }
        let head =
            Cursor { epoch: self.share.head.epoch, seq: Seq(self.seq.0 + self.ops), tag: self.context.tag };
        let time_ms = self.share.time_ms.max(self.context.time_ms);
        let answer = BatchAnswer { cursor: head, groups: answers };
        let kept = is_named(self.author).then(|| answer::encode(&answer));
        let ops = self.ops as u32;
        let row = CommitRow { seq: self.seq, ops, tag: head.tag, time_ms, author: self.author };
        self.rows.insert_commit(&row, kept.as_deref())?;
        for (no, (_, used)) in std::mem::take(&mut self.packs) {
            if used {
                let mut pack = crate::packs::known_pack(self.rows, no)?;
                pack.used = self.seq;
                self.rows.put_pack(no, &pack)?;
            }
        }
        if self.author.by != InstanceId::ZERO {
            self.rows.put_author(self.author.by, &self.memory)?;
        }
        self.share.head = head;
        self.share.time_ms = time_ms;
        self.rows.put_share(&self.share)?;
        Ok(answer)
    }

    /// Nothing was taken: the head stays, and only the answer is kept, so that a late repeat cannot find other rows and be
    /// taken after its author went on.
    fn finish_refused(mut self, answers: Vec<GroupAnswer>) -> Result<BatchAnswer, LedgerError> {
        let answer = BatchAnswer { cursor: self.share.head, groups: answers };
        // A direct change that was refused may be asked again: its author waits for the answer and sends nothing else.
        if self.author.by == InstanceId::ZERO {
            return Ok(answer);
        }
        self.rows.insert_refusal(self.author, &answer::encode(&answer))?;
        let below = BatchNo(self.author.batch.0.saturating_sub(REFUSED_BATCHES_KEPT));
        if below > self.memory.batch_min {
            self.memory.batch_min = below;
            self.rows.remove_refusals(self.author.by, below)?;
            self.rows.put_author(self.author.by, &self.memory)?;
        }
        Ok(answer)
    }
}
