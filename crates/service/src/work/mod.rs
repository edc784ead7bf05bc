//! Background work: reconcilers. Each is idempotent, takes no input, is woken by a signal and by a timer, runs in one
//! process at a time (a lease), and has a status in the API.

mod history;
mod prune;
mod purge;
mod repack;
mod rows;
mod verify;

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use polder_metadata::control::{ControlError, Lease, ReconcilerStatus};
use polder_types::{PackId, ShareId, Timestamp};
use tokio::sync::{Notify, watch};

use crate::failure::Chain;
use crate::metric;
use crate::state::ServiceState;

use history::History;
use prune::Prune;
use purge::Purge;
use verify::Verify;

/// How long a lease lasts beyond the work that renews it: so long a killed process is waited for.
const LEASE_SECS: i64 = 20;
/// How soon a lease that another process has is asked for again.
const LEASE_RETRY: Duration = Duration::from_secs(2);
/// A status is written at most so often, unless something failed.
const REPORT_APART: Duration = Duration::from_secs(5);
/// Packs that wait for verification in memory; the timer finds the others in the rows.
const QUEUE_MAX: usize = 65_536;

/// What a run did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Done {
    /// In a sentence; empty when there was nothing to do.
    pub outcome: String,
    /// Things that were changed.
    pub items: u64,
    /// What could not be done, if anything.
    pub failed: Option<String>,
}

/// A piece of background work.
#[async_trait]
pub trait Reconciler: Send + Sync {
    /// Its name in the API.
    fn name(&self) -> &'static str;
    /// How often it looks without being woken.
    fn every(&self, state: &ServiceState) -> Duration {
        Duration::from_secs(state.config().reconcile_s.into())
    }
    /// When it looks for the first time after a start.
    fn first_after(&self) -> Duration {
        Duration::ZERO
    }
    /// How long it waits after a signal, so that several make one run.
    fn gather(&self) -> Duration {
        Duration::ZERO
    }
    /// Makes things as they should be, once. `by_timer`: everything is to be looked at, not only what is known to wait.
    async fn run(&self, state: &ServiceState, by_timer: bool) -> Done;
}

/// Signals to the reconcilers, and what waits for them.
pub struct Work {
    wakes: Vec<(&'static str, Notify)>,
    packs: Mutex<VecDeque<(ShareId, PackId)>>,
    holder: String,
}

/// The names of all reconcilers.
const NAMES: [&str; 4] = ["verify", "history", "prune", "purge"];

impl Work {
    /// Nothing waits. `holder` names this process in leases.
    pub fn new(holder: String) -> Self {
        let wakes = NAMES.iter().map(|name| (*name, Notify::new())).collect();
        Self { wakes, packs: Mutex::default(), holder }
    }

    /// Wakes a reconciler; whether there is one with this name.
    pub fn wake(&self, name: &str) -> bool {
        self.notify(name).map(Notify::notify_one).is_some()
    }

    /// A pack is to be read back.
    pub fn verify_soon(&self, share: ShareId, pack: PackId) {
        let mut packs = self.packs.lock().unwrap_or_else(PoisonError::into_inner);
        if packs.len() < QUEUE_MAX {
            packs.push_back((share, pack));
        }
        drop(packs);
        self.wake("verify");
    }

    /// Packs that wait, at most `count`.
    fn take_packs(&self, count: usize) -> Vec<(ShareId, PackId)> {
        let mut packs = self.packs.lock().unwrap_or_else(PoisonError::into_inner);
        let count = count.min(packs.len());
        packs.drain(..count).collect()
    }

    fn notify(&self, name: &str) -> Option<&Notify> {
        self.wakes.iter().find(|(known, _)| *known == name).map(|(_, notify)| notify)
    }
}

/// Starts all reconcilers; they end with `stop`.
pub fn start(state: &ServiceState, stop: &watch::Receiver<bool>) -> Vec<tokio::task::JoinHandle<()>> {
    let all: [Box<dyn Reconciler>; 4] =
        [Box::new(Verify::default()), Box::new(History), Box::new(Prune::default()), Box::new(Purge)];
    all.into_iter().map(|one| tokio::spawn(drive(state.clone(), one, stop.clone()))).collect()
}

async fn drive(state: ServiceState, reconciler: Box<dyn Reconciler>, mut stop: watch::Receiver<bool>) {
    let every = reconciler.every(&state);
    let mut reported = Reported::new(reconciler.name());
    let notify = state.work().notify(reconciler.name()).expect("every reconciler has a name in the table");
    // At the start everything is looked at: nobody knows what the last process left.
    let mut timer = tokio::time::Instant::now() + reconciler.first_after();
    loop {
        let by_timer = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return,
            () = tokio::time::sleep_until(timer) => true,
            () = notify.notified() => false,
        };
        if !by_timer {
            tokio::time::sleep(reconciler.gather()).await;
        }
        if by_timer {
            timer = tokio::time::Instant::now() + every;
        }
        let ran = tokio::select! {
            ran = run_once(&state, &*reconciler, &mut reported, by_timer, every) => ran,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        if !ran {
            // What woke this run still waits.
            timer = tokio::time::Instant::now() + LEASE_RETRY;
        }
    }
}

/// What was last written about a reconciler.
struct Reported {
    status: ReconcilerStatus,
    at: Option<Instant>,
    lease: Option<Lease>,
}

impl Reported {
    fn new(name: &str) -> Self {
        let status = ReconcilerStatus {
            name: name.into(),
            subject: String::new(),
            started_at: None,
            finished_at: None,
            outcome: String::new(),
            error: None,
            items_total: 0,
            runs: 0,
            failures: 0,
            next_at: None,
        };
        Self { status, at: None, lease: None }
    }
}

/// One run; `false` when another process has the lease.
async fn run_once(
    state: &ServiceState,
    reconciler: &dyn Reconciler,
    reported: &mut Reported,
    by_timer: bool,
    every: Duration,
) -> bool {
    if !has_lease(state, reported).await {
        return false;
    }
    let started = state.now();
    let done = reconciler.run(state, by_timer).await;
    metric::add(metric::RECONCILER_RUNS, 1);
    let failed_anew = done.failed.is_some() || reported.status.error.is_some();
    if let Some(error) = &done.failed {
        tracing::warn!(reconciler = reported.status.name, error, "background work failed in part");
    }
    let status = &mut reported.status;
    status.started_at = Some(started);
    status.finished_at = Some(state.now());
    if !done.outcome.is_empty() {
        status.outcome = done.outcome;
    }
    status.runs += 1;
    status.failures += u64::from(done.failed.is_some());
    status.error = done.failed;
    status.items_total += done.items;
    status.next_at = status.finished_at.map(|at| Timestamp::new(at.secs + every.as_secs() as i64, at.nanos));
    let due = reported.at.is_none_or(|at| at.elapsed() > REPORT_APART);
    if due || failed_anew || by_timer {
        report(state, reported).await;
    }
    true
}

/// Takes the lease or renews it when it ends soon.
async fn has_lease(state: &ServiceState, reported: &mut Reported) -> bool {
    let now = state.now();
    if reported.lease.as_ref().is_some_and(|lease| lease.expires_at.secs - now.secs > LEASE_SECS / 2) {
        return true;
    }
    let (name, for_rows) = (format!("work:{}", reported.status.name), state.clone());
    let until = Timestamp::new(now.secs + LEASE_SECS, now.nanos);
    let taken = tokio::task::spawn_blocking(move || {
        for_rows.control().take_lease(&name, &for_rows.work().holder, now, until)
    });
    reported.lease = settle("take a lease", taken.await).flatten();
    reported.lease.is_some()
}

async fn report(state: &ServiceState, reported: &mut Reported) {
    let Some(lease) = reported.lease.clone() else { return };
    let (for_rows, status) = (state.clone(), reported.status.clone());
    let written = tokio::task::spawn_blocking(move || for_rows.control().report_work(&lease, &status));
    if settle("write the status of background work", written.await).is_some() {
        reported.at = Some(Instant::now());
    } else {
        reported.lease = None;
    }
}

fn settle<T>(
    doing: &'static str,
    done: Result<Result<T, ControlError>, tokio::task::JoinError>,
) -> Option<T> {
    match done {
        Ok(Ok(done)) => Some(done),
        Ok(Err(error)) => {
            tracing::warn!(doing, error = %Chain(&error), "background work has to wait");
            None
        }
        Err(error) => {
            tracing::error!(doing, error = %error, "background work failed");
            None
        }
    }
}

#[cfg(test)]
mod tests;
