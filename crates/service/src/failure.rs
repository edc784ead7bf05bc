//! From errors to answers: what the caller may know goes out, the rest goes to the log.

use std::fmt::{self, Display};

use polder_api::grpc::Reason;
use polder_ledger::LedgerError;
use polder_metadata::control::ControlError;
use polder_packstore::StoreError;
use tonic::{Code, Status};

use crate::shares::ShareError;

/// Shows an error with its causes, joined by colons.
pub struct Chain<'a>(pub &'a (dyn std::error::Error + 'static));

impl Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

/// Something failed that is not the caller's doing: logged here, once, with its causes; the caller learns what was
/// being done.
pub fn internal(doing: &'static str, error: &(dyn std::error::Error + 'static)) -> Status {
    tracing::error!(doing, error = %Chain(error), "a call failed");
    Status::internal(format!("failed to {doing}"))
}

/// The same for what comes back by itself.
pub fn unavailable(doing: &'static str, error: &(dyn std::error::Error + 'static)) -> Status {
    tracing::warn!(doing, error = %Chain(error), "a call failed for now");
    Status::new(Code::Unavailable, format!("cannot {doing} now"))
}

/// A call of the control store.
pub fn control(doing: &'static str, error: ControlError) -> Status {
    match &error {
        ControlError::NotFound { .. } => Reason::NotYours.status("there is no such endpoint on this server"),
        ControlError::BadToken => Reason::JoinToken.status("the join token is not valid"),
        ControlError::NameTaken { .. } => Reason::NameTaken.status(error.to_string()),
        ControlError::InUse { .. } | ControlError::Refused(_) => {
            Status::failed_precondition(error.to_string())
        }
        _ if error.can_retry() => unavailable(doing, &error),
        _ => internal(doing, &error),
    }
}

/// A share that cannot be used.
pub fn share(error: ShareError) -> Status {
    match error {
        ShareError::Unknown(_) => Reason::NotYours.status("the share is not in use"),
        ShareError::Control(error) => control("read the share's row", error),
        other => internal("open the share", &other),
    }
}

/// A transaction of a share. What callers tell apart (cursors, stale batches) they take out before.
pub fn ledger(doing: &'static str, error: LedgerError) -> Status {
    match &error {
        LedgerError::Rows(rows) if rows.is_temporary() => unavailable(doing, &error),
        LedgerError::Rows(_) => internal(doing, &error),
        LedgerError::Invalid(rule) => Reason::BadMessage.status(rule.clone()),
        LedgerError::Unknown { .. } | LedgerError::NotKept { .. } => Status::not_found(error.to_string()),
        LedgerError::Exists { .. } => Status::already_exists(error.to_string()),
        _ => Status::failed_precondition(error.to_string()),
    }
}

/// The pack store.
pub fn store(doing: &'static str, error: StoreError) -> Status {
    match &error {
        StoreError::NotFound { .. } => Status::not_found("the pack is not in the store"),
        StoreError::Conflict { .. } => Reason::BadPack.status("another pack has this id"),
        StoreError::Range { .. } => Status::out_of_range("the range does not lie in the pack"),
        StoreError::Size { .. } | StoreError::BodyLength { .. } => Reason::BadPack.status(error.to_string()),
        StoreError::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
            tracing::warn!(doing, error = %Chain(&error), "a call failed for now");
            Reason::StoreFull.status("the volume of the service is full")
        }
        StoreError::Body { .. } => Status::aborted("the pack did not arrive whole"),
        _ if error.is_retriable() => unavailable(doing, &error),
        _ => internal(doing, &error),
    }
}

/// Runs work that waits for the disk where it may.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Status> + Send + 'static,
) -> Result<T, Status> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(internal("finish a piece of work", &error)),
    }
}
