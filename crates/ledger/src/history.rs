//! How history becomes coarser and ends: small idempotent steps, each its own transaction, that may stop anywhere.
//!
//! *Thinning* (`docs/formats/share.md`): at an age, versions that lived wholly inside one slot of time are dropped, so the
//! state at every border of slots stays exact. The version before takes over the dropped one's interval: a gap would
//! read as a deletion. *Expiry*: outside the history window only pinned sequences can be read; changes and commits are kept
//! for the absence horizon, never less than the window.

use std::collections::BTreeMap;

use polder_types::{Nid, Seq};

use crate::share::{seq_at, share_row};
use crate::{
    AuthorRow, CommitRow, LedgerError, PastNode, Rows, RowsError, RowsMut, ShareRow, Sweep, THIN_STEPS_MAX,
    What,
};

/// One setting of thinning: of versions that ended more than `age_ms` ago, those are dropped that began and ended in the
/// same slot of `slot_ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ThinStep {
    /// In milliseconds.
    pub age_ms: u64,
    /// In milliseconds.
    pub slot_ms: u64,
}

/// How long history is kept, and how fine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryPolicy {
    /// At most [`THIN_STEPS_MAX`], from young and fine to old and coarse.
    pub thin: Vec<ThinStep>,
    /// Every moment younger than this can be read, as finely as thinning leaves it. In milliseconds.
    pub history_ms: u64,
    /// Cursors younger than this can read the feed. In milliseconds; the history window is the least.
    pub absence_ms: u64,
}

impl Default for HistoryPolicy {
    /// 30 days; one version a minute after an hour, one per 15 minutes after a day; absence of 90 days.
    fn default() -> Self {
        const MINUTE_MS: u64 = 60_000;
        const DAY_MS: u64 = 24 * 60 * MINUTE_MS;
        let thin = vec![
            ThinStep { age_ms: 60 * MINUTE_MS, slot_ms: MINUTE_MS },
            ThinStep { age_ms: DAY_MS, slot_ms: 15 * MINUTE_MS },
        ];
        Self { thin, history_ms: 30 * DAY_MS, absence_ms: 90 * DAY_MS }
    }
}

/// What a step did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StepDone {
    /// Rows that were dropped.
    pub dropped: usize,
    /// Whether another step would find more to look at now.
    pub more: bool,
}

/// One step of thinning: looks at up to `limit` closed versions. `time_ms` is the service's monotone time.
pub fn thin_step(
    rows: &mut dyn RowsMut,
    policy: &HistoryPolicy,
    time_ms: u64,
    limit: usize,
) -> Result<StepDone, LedgerError> {
    if policy.thin.len() > THIN_STEPS_MAX {
        return Err(LedgerError::Invalid(format!("thinning has at most {THIN_STEPS_MAX} steps")));
    }
    let limit = limit.max(1);
    let mut share = share_row(rows)?;
    for (level, step) in policy.thin.iter().enumerate() {
        let Some(upto) = seq_at(rows, time_ms.saturating_sub(step.age_ms))? else { continue };
        // What is outside the window is expiry's.
        let after = share.thinned[level].max(share.history_from);
        if after >= upto {
            continue;
        }
        let page = rows.closed_nodes(after, upto, limit)?;
        let whole = page.len() == limit;
        let reached = page.last().filter(|_| whole).map_or(upto, |past| past.until);
        let pinned = rows.pinned()?;
        let mut dropped = 0;
        let mut times = Times::default();
        for past in page {
            if let Some(from) = mergeable(rows, &mut times, &pinned, &past, step.slot_ms)? {
                rows.merge_past_node(from, past.until)?;
                dropped += 1;
            }
        }
        share.thinned[level] = reached;
        rows.put_share(&share)?;
        return Ok(StepDone { dropped, more: true });
    }
    Ok(StepDone::default())
}

/// Times of commits, remembered while neighbouring versions ask for the same.
#[derive(Default)]
struct Times {
    last: BTreeMap<Seq, CommitRow>,
}

impl Times {
    fn of(&mut self, rows: &dyn Rows, seq: Seq) -> Result<Option<u64>, RowsError> {
        let known = self.last.range(..=seq).next_back().map(|(_, commit)| *commit);
        let owns = |commit: &CommitRow| commit.seq <= seq && seq <= commit.last();
        if let Some(commit) = known.filter(owns) {
            return Ok(Some(commit.time_ms));
        }
        let Some(commit) = rows.commit_at(seq)?.filter(owns) else { return Ok(None) };
        self.last.insert(commit.seq, commit);
        Ok(Some(commit.time_ms))
    }
}

/// The key of the version that can take over the interval of `past`; `None` when `past` stays.
fn mergeable(
    rows: &dyn Rows,
    times: &mut Times,
    pinned: &[Seq],
    past: &PastNode,
    slot_ms: u64,
) -> Result<Option<Seq>, RowsError> {
    let (Some(born), Some(ended)) = (times.of(rows, past.row.since)?, times.of(rows, past.until)?) else {
        return Ok(None);
    };
    // At a border the commits of that very moment count: the version is seen there from its birth to before its end.
    let border = born.checked_next_multiple_of(slot_ms.max(1)).unwrap_or(u64::MAX);
    if border < ended || is_pinned(pinned, past.row.since, past.until) {
        return Ok(None);
    }
    let Some(before) = rows.past_node_until(past.row.nid, past.row.since)? else { return Ok(None) };
    // Names are not thinned, and a node's row must agree with its entry at every sequence that can be read.
    let same_place = (before.row.up, &before.row.name) == (past.row.up, &past.row.name);
    if !same_place || rows.is_held(past.row.nid, past.row.since)? {
        return Ok(None);
    }
    Ok(Some(before.until))
}

/// Whether a pinned sequence lies in `since ≤ s < until`. `pinned` is sorted.
fn is_pinned(pinned: &[Seq], since: Seq, until: Seq) -> bool {
    pinned.get(pinned.partition_point(|seq| *seq < since)).is_some_and(|seq| *seq < until)
}

/// One step of expiry: looks at up to `limit` rows of each kind. `time_ms` is the service's monotone time; a caller that
/// saw it jump by more than a day waits for a person before it calls this (promise I15).
pub fn expire_step(
    rows: &mut dyn RowsMut,
    policy: &HistoryPolicy,
    time_ms: u64,
    limit: usize,
) -> Result<StepDone, LedgerError> {
    let limit = limit.max(1);
    let mut share = share_row(rows)?;
    let window = seq_at(rows, time_ms.saturating_sub(policy.history_ms))?.unwrap_or(Seq(0));
    if window > share.history_from {
        // Refused to readers first, dropped afterwards.
        rows.put_sweep(Sweep { after: share.history_from, upto: window })?;
        share.history_from = window;
        rows.put_share(&share)?;
    }
    if let Some(sweep) = rows.first_sweep()? {
        let dropped = sweep_step(rows, sweep, limit)?;
        return Ok(StepDone { dropped, more: true });
    }
    let horizon_ms = policy.absence_ms.max(policy.history_ms);
    let horizon = seq_at(rows, time_ms.saturating_sub(horizon_ms))?.unwrap_or(Seq(0)).min(share.history_from);
    if horizon > share.changes_from {
        share.changes_from = horizon;
        rows.put_share(&share)?;
    }
    let dropped = drop_changes(rows, &share, limit)?;
    if dropped > 0 {
        return Ok(StepDone { dropped, more: true });
    }
    let dropped = drop_commits(rows, &share, limit)?;
    Ok(StepDone { dropped, more: dropped > 0 })
}

fn sweep_step(rows: &mut dyn RowsMut, sweep: Sweep, limit: usize) -> Result<usize, LedgerError> {
    let pinned = rows.pinned()?;
    let nodes = rows.closed_nodes(sweep.after, sweep.upto, limit)?;
    let entries = rows.closed_entries(sweep.after, sweep.upto, limit)?;
    let end = |full: bool, last: Option<Seq>| last.filter(|_| full).unwrap_or(sweep.upto);
    let reached = end(nodes.len() == limit, nodes.last().map(|past| past.until))
        .min(end(entries.len() == limit, entries.last().map(|past| past.until)));
    let mut dropped = 0;
    for past in entries.into_iter().filter(|past| past.until <= reached) {
        if !is_pinned(&pinned, past.entry.since, past.until) {
            rows.remove_past_entry(past.until)?;
            dropped += 1;
        }
    }
    for past in nodes.into_iter().filter(|past| past.until <= reached) {
        let (nid, since) = (past.row.nid, past.row.since);
        if !is_pinned(&pinned, since, past.until) && !rows.is_held(nid, since)? {
            rows.remove_past_node(past.until)?;
            forget_if_gone(rows, nid)?;
            dropped += 1;
        }
    }
    rows.remove_sweep(sweep)?;
    if reached < sweep.upto {
        rows.put_sweep(Sweep { after: reached, upto: sweep.upto })?;
    }
    Ok(dropped)
}

/// Forgets a dead node of which neither a version nor a change is left.
fn forget_if_gone(rows: &mut dyn RowsMut, nid: Nid) -> Result<(), LedgerError> {
    let Some(gone) = rows.ident_of(nid)?.and_then(|ident| ident.gone) else { return Ok(()) };
    let versions = rows.past_nodes(nid, Seq(0), 1)?;
    // No older change than its deletion is left, so none of its own.
    let changes = rows.changes(Seq(0), gone, 1)?;
    if versions.is_empty() && changes.is_empty() {
        rows.remove_ident(nid)?;
    }
    Ok(())
}

fn drop_changes(rows: &mut dyn RowsMut, share: &ShareRow, limit: usize) -> Result<usize, LedgerError> {
    let page = rows.changes(Seq(0), share.changes_from, limit)?;
    for change in &page {
        rows.remove_change(change.seq)?;
        if change.what == What::Delete {
            forget_if_gone(rows, change.nid)?;
        }
    }
    Ok(page.len())
}

/// Drops commits below the horizon; the one that ends there stays, because cursors name it. Their answers go with them,
/// so their authors' numbers are stale from now on.
fn drop_commits(rows: &mut dyn RowsMut, share: &ShareRow, limit: usize) -> Result<usize, LedgerError> {
    // The very first number is 1, so nothing lies at or below 0.
    let page = rows.commits(Seq(0), limit)?;
    let mut dropped = 0;
    for commit in page.iter().take_while(|commit| commit.last() < share.changes_from) {
        rows.remove_commit(commit.seq)?;
        let known = rows.author(commit.author.by)?.unwrap_or_default();
        let batch_min = polder_types::BatchNo(commit.author.batch.0.saturating_add(1)).max(known.batch_min);
        if commit.author.by != polder_types::InstanceId::ZERO && batch_min != known.batch_min {
            rows.put_author(commit.author.by, &AuthorRow { batch_min, ..known })?;
        }
        dropped += 1;
    }
    Ok(dropped)
}
