//! Purge: what is left of shares that were deleted and can be taken back no more.
//!
//! Packs first, then the database, the row last: whoever is interrupted begins again with the same share. Nothing happens
//! while the service's time is in doubt (promise I15).

use std::time::Duration;

use async_trait::async_trait;
use polder_metadata::control::Share;
use polder_packstore::{LIST_MAX, PackName};
use polder_types::ShareId;

use super::{Done, Reconciler, rows};
use crate::failure::Chain;
use crate::state::ServiceState;

/// Destroys what nobody can ask for any more.
pub struct Purge;

#[async_trait]
impl Reconciler for Purge {
    fn name(&self) -> &'static str {
        "purge"
    }

    fn every(&self, _: &ServiceState) -> Duration {
        Duration::from_secs(60 * 60)
    }

    /// What waited for 14 days waits until the service has started.
    fn first_after(&self) -> Duration {
        Duration::from_secs(5 * 60)
    }

    async fn run(&self, state: &ServiceState, _: bool) -> Done {
        let mut done = Done::default();
        if !state.clock().may_expire() {
            done.outcome = "waits: the clock jumped by more than a day and nobody has confirmed it".into();
            return done;
        }
        let over = match over(state).await {
            Ok(over) => over,
            Err(error) => return Done { failed: Some(error), ..done },
        };
        for share in over {
            match purge(state, share.id).await {
                Ok(packs) => {
                    done.items += 1;
                    done.outcome =
                        format!("destroyed the deleted share \"{}\" with {packs} packs", share.name);
                    tracing::info!(share = %share.id, name = %share.name, packs, "a deleted share was destroyed");
                }
                Err(error) => done.failed = Some(format!("share {}: {error}", share.id)),
            }
        }
        done
    }
}

/// Deleted shares whose time is over.
async fn over(state: &ServiceState) -> Result<Vec<Share>, String> {
    let (for_rows, now) = (state.clone(), state.now());
    let mut shares = rows::blocking(move || for_rows.control().all_shares()).await?;
    shares.retain(|share| share.purge_after().is_some_and(|end| end <= now));
    Ok(shares)
}

/// Destroys one share; how many packs it had.
async fn purge(state: &ServiceState, share: ShareId) -> Result<u64, String> {
    let mut count = 0;
    loop {
        // Always the first page: what was listed is gone.
        let page = state.packs().list(share, None, LIST_MAX).await;
        let page = page.map_err(|error| Chain(&error).to_string())?;
        if page.is_empty() {
            break;
        }
        for listed in page {
            let gone = state.packs().delete(PackName { share, pack: listed.pack }).await;
            gone.map_err(|error| Chain(&error).to_string())?;
            count += 1;
        }
    }
    let state = state.clone();
    rows::blocking(move || {
        state.shares().destroy(share)?;
        state.control().purge_share(&state.acting_service(), share)?;
        Ok::<_, crate::shares::ShareError>(count)
    })
    .await
}
