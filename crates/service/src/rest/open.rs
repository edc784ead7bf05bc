//! A share, opened: reading moments, changing it directly, and how the commit core's answers become ours.
//!
//! A direct change is planned and committed in one transaction that writes, so nothing can come between what it saw
//! and what it did: there is no retry, and a condition that fails is the caller's.

use std::sync::Arc;

use polder_api::rest::{At as ApiAt, ProblemCode};
use polder_chunk::ShareKeys;
use polder_ledger::{self as ledger, CommitContext, LedgerError, Rows, RowsError, TreeChunks};
use polder_metadata::control::{AuditNote, Share};
use polder_metadata::share::ShareDb;
use polder_types::{
    Author, BatchNo, Cursor, Group, GroupAnswer, InstanceId, NodeState, NodeUid, Op, Refusal, RelPath, Seq,
    Tag, Timestamp,
};

use super::auth::Caller;
use super::{Rest, RestError};

/// A share's rows and keys. A cheap handle.
#[derive(Clone)]
pub struct OpenShare {
    /// Its rows.
    pub db: ShareDb,
    /// Its keys.
    pub keys: Arc<ShareKeys>,
}

/// A share's row in the control plane, with its own database.
#[derive(Clone)]
pub struct Opened {
    pub row: Share,
    pub open: OpenShare,
}

/// What a direct change is to be.
pub struct Change<T> {
    /// What the caller gets when it is taken.
    pub answer: T,
    /// Taken together; nothing happens when there are none.
    pub ops: Vec<Op>,
    /// Trees of extents that the operations name.
    pub trees: TreeChunks,
}

/// A change that was taken.
pub struct Taken<T> {
    pub answer: T,
    /// The commit; `None` when there was nothing to do.
    pub cursor: Option<Cursor>,
    /// Number of the first operation; the others follow.
    pub first: Seq,
}

impl From<RowsError> for RestError {
    fn from(error: RowsError) -> Self {
        Self::Ledger(LedgerError::Rows(error))
    }
}

impl From<LedgerError> for RestError {
    fn from(error: LedgerError) -> Self {
        Self::Ledger(error)
    }
}

/// The code of an error of the commit core.
pub fn ledger_code(error: &LedgerError) -> ProblemCode {
    match error {
        LedgerError::Rows(error) if error.is_temporary() => ProblemCode::Unavailable,
        LedgerError::NotKept { .. } | LedgerError::Unknown { .. } => ProblemCode::NotFound,
        LedgerError::Exists { .. } => ProblemCode::Exists,
        LedgerError::Invalid(_) => ProblemCode::BadRequest,
        LedgerError::FenceLost => ProblemCode::Unavailable,
        // A direct change reads the head, the batch and the trees itself, so these are faults of ours.
        LedgerError::Rows(_)
        | LedgerError::SetBack
        | LedgerError::CursorTooOld
        | LedgerError::StaleBatch { .. }
        | LedgerError::TreeNotRead { .. } => ProblemCode::Internal,
    }
}

/// The code of a refused group.
pub fn refusal_code(why: &Refusal) -> ProblemCode {
    match why {
        Refusal::BaseChanged { .. } => ProblemCode::Changed,
        Refusal::NameTaken { .. } | Refusal::Exists => ProblemCode::Exists,
        Refusal::ParentGone { .. } => ProblemCode::NotFound,
        Refusal::Cycle => ProblemCode::PreconditionFailed,
        Refusal::NotEmpty => ProblemCode::NotEmpty,
        Refusal::Quota { .. } => ProblemCode::Quota,
        Refusal::Held => ProblemCode::Held,
        Refusal::Invalid(_) | Refusal::BadName(_) => ProblemCode::BadRequest,
        // Prune took a pack between the look and the commit: the same call again sends the bytes again.
        Refusal::ChunksMissing(_) => ProblemCode::Unavailable,
    }
}

/// Milliseconds since 1970.
pub fn millis(moment: Timestamp) -> u64 {
    u64::try_from(moment.secs).unwrap_or(0) * 1000 + u64::from(moment.nanos / 1_000_000)
}

/// Fresh random bytes.
pub fn random<const N: usize>() -> Result<[u8; N], RestError> {
    let mut bytes = [0u8; N];
    getrandom::fill(&mut bytes)
        .map_err(|source| RestError::internal("draw random bytes", source.to_string()))?;
    Ok(bytes)
}

/// A fresh node id.
pub fn new_uid(now: Timestamp) -> Result<NodeUid, RestError> {
    Ok(NodeUid::from_parts(millis(now), random()?))
}

/// The moment that somebody names, in the share's numbers.
pub fn moment(rows: &dyn Rows, at: Option<&ApiAt>) -> Result<ledger::At, RestError> {
    let not_found = |which: String| RestError::NotFound { what: "moment of the share's history", which };
    Ok(match at {
        None => ledger::At::Now,
        Some(ApiAt::Seq(seq)) => ledger::At::Seq(*seq),
        Some(ApiAt::Snapshot(name)) => ledger::At::Seq(ledger::snapshot(rows, name.as_str())?.cursor.seq),
        Some(ApiAt::Time(time)) => {
            let seq = ledger::seq_at(rows, millis(time.0))?;
            ledger::At::Seq(seq.ok_or_else(|| not_found(time.to_string()))?)
        }
    })
}

/// The node at a path, or the answer that there is none.
pub fn node_at(rows: &dyn Rows, path: &RelPath, at: ledger::At) -> Result<NodeState, RestError> {
    ledger::lookup(rows, path, at)?.ok_or_else(|| no_path(path))
}

/// There is nothing at this path.
pub fn no_path(path: &RelPath) -> RestError {
    RestError::NotFound { what: "file or directory", which: path.to_string() }
}

impl OpenShare {
    /// Reads where it may wait for the disk.
    pub async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Rows) -> Result<T, RestError> + Send + 'static,
    ) -> Result<T, RestError> {
        let db = self.db.clone();
        let done = tokio::task::spawn_blocking(move || db.read(work)).await;
        done.map_err(|source| RestError::internal("read a share", source))?
    }

    /// Writes where it may wait for the disk.
    pub async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut dyn polder_ledger::RowsMut) -> Result<T, RestError> + Send + 'static,
    ) -> Result<T, RestError> {
        let db = self.db.clone();
        let done = tokio::task::spawn_blocking(move || db.write(work)).await;
        done.map_err(|source| RestError::internal("write a share", source))?
    }
}

impl Rest {
    /// Opens the live share that `which` names.
    pub(super) async fn open(&self, which: &str) -> Result<Opened, RestError> {
        let row = self.share(which).await?;
        let open = self.host.open_share(row.id).await?;
        Ok(Opened { row, open })
    }

    /// Plans and commits a direct change in one transaction, tells the agents, and writes the audit log.
    pub(super) async fn change<T: Send + 'static>(
        &self,
        caller: &Caller,
        share: &Opened,
        note: AuditNote,
        plan: impl FnOnce(&dyn Rows) -> Result<Change<T>, RestError> + Send + 'static,
    ) -> Result<Taken<T>, RestError> {
        let (now, quota_bytes) = (self.now(), share.row.quota_bytes);
        let tag = Tag(u64::from_le_bytes(random()?));
        let taken = share.open.write(move |rows| {
            let Change { answer, ops, trees } = plan(rows)?;
            if ops.is_empty() {
                return Ok(Taken { answer, cursor: None, first: Seq(0) });
            }
            let context = CommitContext {
                time_ms: millis(now),
                tag,
                known: ledger::share_row(rows)?.head,
                announced: BatchNo(0),
                quota_bytes,
                brake: None,
                trees: &trees,
            };
            let author = Author { by: InstanceId::ZERO, batch: BatchNo(0) };
            let mut done = ledger::commit(rows, &context, author, &[Group { ops }])?;
            match done.groups.pop() {
                Some(GroupAnswer::Accepted { first }) => {
                    Ok(Taken { answer, cursor: Some(done.cursor), first })
                }
                Some(GroupAnswer::Refused { why, .. }) => Err(RestError::ChangeRefused(why)),
                None => Err(RestError::internal("commit a direct change", "the answer has no group")),
            }
        });
        let taken = taken.await?;
        if let Some(cursor) = taken.cursor {
            // Agents first: they wait for this, the log does not.
            self.host.committed(share.row.id, cursor);
            let acting = caller.acting(now);
            self.control(move |control| control.audit(&acting, &note)).await?;
        }
        Ok(taken)
    }
}
