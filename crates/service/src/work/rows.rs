//! What reconcilers share: the live shares, and work on rows off the async threads.

use std::sync::Arc;

use polder_ledger::LedgerError;
use polder_metadata::control::Share;

use crate::failure::Chain;
use crate::shares::OpenShare;
use crate::state::ServiceState;

/// Runs work that waits for the disk where it may; errors become sentences.
pub async fn blocking<T, E>(work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, String>
where
    T: Send + 'static,
    E: std::error::Error + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(Chain(&error).to_string()),
        Err(error) => Err(error.to_string()),
    }
}

/// One transaction that writes to a share.
pub async fn write<T: Send + 'static>(
    share: &Arc<OpenShare>,
    job: impl FnOnce(&mut dyn polder_ledger::RowsMut) -> Result<T, LedgerError> + Send + 'static,
) -> Result<T, String> {
    let db = share.db.clone();
    blocking(move || db.write(job)).await
}

/// One moment of a share.
pub async fn read<T: Send + 'static>(
    share: &Arc<OpenShare>,
    job: impl FnOnce(&dyn polder_ledger::Rows) -> Result<T, LedgerError> + Send + 'static,
) -> Result<T, String> {
    let db = share.db.clone();
    blocking(move || db.read(job)).await
}

/// Rows of the shares that are in use.
pub async fn live_shares(state: &ServiceState) -> Result<Vec<Share>, String> {
    let state = state.clone();
    let mut shares = blocking(move || state.control().all_shares()).await?;
    shares.retain(Share::is_live);
    Ok(shares)
}

/// Opens a share.
pub async fn open(state: &ServiceState, row: &Share) -> Result<Arc<OpenShare>, String> {
    let (state, row) = (state.clone(), row.clone());
    blocking(move || state.shares().open_row(&row)).await
}
