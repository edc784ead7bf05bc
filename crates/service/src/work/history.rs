//! Thinning and expiry of history, in short steps, so that commits never wait for long. Nothing happens while the
//! service's time is in doubt (promise I15).

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use polder_ledger::StepDone;

use super::{Done, Reconciler, rows};
use crate::shares::OpenShare;
use crate::state::ServiceState;

/// Rows that one transaction looks at.
const STEP_ROWS: usize = 500;
/// Steps of one kind in one run: the rest is for the next.
const STEPS_MAX: usize = 1000;

/// Thins and expires.
pub struct History;

#[async_trait]
impl Reconciler for History {
    fn name(&self) -> &'static str {
        "history"
    }

    fn every(&self, state: &ServiceState) -> Duration {
        // Often enough that what is kept exceeds a short window by little.
        let window = Duration::from_millis(state.config().history.history_ms);
        (window / 4).clamp(Duration::from_secs(1), Duration::from_secs(10 * 60))
    }

    async fn run(&self, state: &ServiceState, _: bool) -> Done {
        let mut done = Done::default();
        if !state.clock().may_expire() {
            done.outcome = "waits: the clock jumped by more than a day and nobody has confirmed it".into();
            return done;
        }
        let shares = match rows::live_shares(state).await {
            Ok(shares) => shares,
            Err(error) => return Done { failed: Some(error), ..done },
        };
        for row in shares {
            let kept = async {
                let share = rows::open(state, &row).await?;
                keep(state, &share).await
            };
            match kept.await {
                Ok(dropped) => done.items += dropped,
                Err(error) => done.failed = Some(format!("share {}: {error}", row.id)),
            }
        }
        if done.items > 0 {
            done.outcome = format!("dropped {} rows of history", done.items);
        }
        done
    }
}

async fn keep(state: &ServiceState, share: &Arc<OpenShare>) -> Result<u64, String> {
    let time_ms = state.clock().now_ms();
    let policy = Arc::new(state.config().history.clone());
    let fence = rows::write(share, polder_ledger::take_fence).await?;
    let mut dropped = 0;
    for thin in [true, false] {
        for _ in 0..STEPS_MAX {
            let policy = Arc::clone(&policy);
            let step = rows::write(share, move |rows| {
                polder_ledger::check_fence(rows, fence)?;
                let step = if thin { polder_ledger::thin_step } else { polder_ledger::expire_step };
                step(rows, &policy, time_ms, STEP_ROWS)
            });
            let StepDone { dropped: rows, more } = step.await?;
            dropped += rows as u64;
            if !more {
                break;
            }
        }
    }
    Ok(dropped)
}
