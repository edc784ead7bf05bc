//! What can go wrong besides a refusal, which is an answer.

use polder_types::{BatchNo, ChunkId, Seq};

/// Why rows could not be read or written. The transaction is void.
#[derive(Debug, thiserror::Error)]
pub enum RowsError {
    /// Another process holds the share longer than we wait. Try again.
    #[error("{doing}: the share is busy")]
    Busy {
        /// What was being done, in the present tense.
        doing: &'static str,
    },
    /// The disk takes nothing now: full, read-only, failing. Nothing was written; try again when the cause is gone.
    #[error("{doing}: the disk of the share's rows cannot be used: {why}")]
    Disk {
        /// What was being done, in the present tense.
        doing: &'static str,
        /// What the database says.
        why: String,
    },
    /// A stored row breaks a rule of `docs/formats/share.md`. Never "treat as empty".
    #[error("the share's rows are damaged: {what}")]
    Corrupt {
        /// Which row, and which rule.
        what: String,
    },
    /// The database failed.
    #[error("{doing}")]
    Failed {
        /// What was being done, in the present tense.
        doing: &'static str,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl RowsError {
    /// A row that breaks a rule.
    pub fn corrupt(what: impl Into<String>) -> Self {
        Self::Corrupt { what: what.into() }
    }

    /// Whether the same call may succeed a little later.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Busy { .. } | Self::Disk { .. })
    }
}

/// Why nothing of a batch, or of another change of a share, happened. Refusals of groups are not among these.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The rows.
    #[error(transparent)]
    Rows(#[from] RowsError),
    /// The caller knows of a history that this share does not have: one of the two was set back in time. The endpoint
    /// re-baselines (promise I7).
    #[error("the cursor belongs to another history of the share")]
    SetBack,
    /// The cursor is older than the changes that are kept. The endpoint re-baselines.
    #[error("the cursor is older than the changes that are kept")]
    CursorTooOld,
    /// The batch is older than what its author announced, or than the answers that are kept.
    #[error("batch is stale: numbers below {batch_min} are not taken any more")]
    StaleBatch {
        /// The lowest number that is taken.
        batch_min: BatchNo,
    },
    /// A group names a tree of extents whose chunks the caller did not bring along. Read it and try again.
    #[error("the tree of extents {root} was not read")]
    TreeNotRead {
        /// The root.
        root: ChunkId,
    },
    /// Nothing is known of the sequence any more, or not yet.
    #[error("sequence {seq} cannot be read: it is outside the kept history")]
    NotKept {
        /// The sequence.
        seq: Seq,
    },
    /// No such object, for example a snapshot or a pack.
    #[error("{what} is not known")]
    Unknown {
        /// Which one.
        what: String,
    },
    /// The object exists already.
    #[error("{what} exists already")]
    Exists {
        /// Which one.
        what: String,
    },
    /// A rule that no state can change.
    #[error("{0}")]
    Invalid(String),
    /// Another process has taken over the background work of this share.
    #[error("the lease on background work was taken by another process")]
    FenceLost,
}
