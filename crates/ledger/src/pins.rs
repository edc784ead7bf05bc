//! What keeps history: snapshots, applied cursors of endpoints, versions that they hold.

use std::collections::BTreeSet;

use polder_types::{
    Cursor, EndpointId, Nid, NodeUid, Seq,
    zoo::{Bug, planted},
};

use crate::share::{check_cursor, share_row};
use crate::{HoldRow, LedgerError, PinRow, Rows, RowsMut, SnapshotRow, Sweep};

/// Longest name and longest note of a snapshot, in bytes.
pub const SNAPSHOT_TEXT_BYTES_MAX: usize = 255;

/// Names the present head: one row, whatever the size of the share.
pub fn create_snapshot(
    rows: &mut dyn RowsMut,
    name: &str,
    note: &str,
    time_ms: u64,
) -> Result<SnapshotRow, LedgerError> {
    let fits = (1..=SNAPSHOT_TEXT_BYTES_MAX).contains(&name.len()) && note.len() <= SNAPSHOT_TEXT_BYTES_MAX;
    if !fits || name.chars().any(char::is_control) {
        let rule =
            "a snapshot's name has 1 to 255 bytes and no control characters, its note at most 255 bytes";
        return Err(LedgerError::Invalid(rule.into()));
    }
    if rows.snapshot(name)?.is_some() {
        return Err(LedgerError::Exists { what: format!("snapshot \"{name}\"") });
    }
    let row = SnapshotRow { name: name.into(), cursor: share_row(rows)?.head, time_ms, note: note.into() };
    rows.insert_snapshot(&row)?;
    Ok(row)
}

/// Snapshots in the order of names, those after `after`.
pub fn list_snapshots(
    rows: &dyn Rows,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<SnapshotRow>, LedgerError> {
    Ok(rows.snapshots(after, limit)?)
}

/// A snapshot by its name.
pub fn snapshot(rows: &dyn Rows, name: &str) -> Result<SnapshotRow, LedgerError> {
    rows.snapshot(name)?.ok_or_else(|| LedgerError::Unknown { what: format!("snapshot \"{name}\"") })
}

/// Deletes a snapshot. What only it kept goes with the next steps of thinning and expiry.
pub fn delete_snapshot(rows: &mut dyn RowsMut, name: &str) -> Result<(), LedgerError> {
    let seq = snapshot(rows, name)?.cursor.seq;
    rows.remove_snapshot(name)?;
    unpin(rows, seq)?;
    // Versions that thinning spared for it are looked at again.
    let mut share = share_row(rows)?;
    for thinned in &mut share.thinned {
        *thinned = seq.min(*thinned);
    }
    rows.put_share(&share)?;
    Ok(())
}

/// An endpoint has applied everything up to `cursor`. From now on its placeholders can be recalled as of there.
pub fn set_applied(rows: &mut dyn RowsMut, endpoint: EndpointId, cursor: Cursor) -> Result<(), LedgerError> {
    check_cursor(rows, cursor)?;
    let before = applied(rows, endpoint)?;
    if before == Some(cursor) {
        return Ok(());
    }
    if !planted(Bug::AppliedPinsNothing) {
        rows.put_pin(&PinRow { endpoint, cursor })?;
    }
    match before {
        Some(before) => unpin(rows, before.seq),
        None => Ok(()),
    }
}

/// What stands at an endpoint is as the share had it at `cursor`, but for the nodes of `behind`, which stand there as of an older version:
/// since then it was that node's. These are held before the pin moves, and what was held besides is let go after it, all in the caller's
/// transaction. A node that the share does not know has no version to hold.
pub fn set_applied_but(
    rows: &mut dyn RowsMut,
    endpoint: EndpointId,
    cursor: Cursor,
    behind: &[(NodeUid, Seq)],
) -> Result<(), LedgerError> {
    check_cursor(rows, cursor)?;
    let wanted = holds_of(rows, endpoint, behind)?;
    wanted.iter().try_for_each(|row| rows.put_hold(*row))?;
    set_applied(rows, endpoint, cursor)?;
    let held = rows.holds(endpoint, None, usize::MAX)?;
    for row in held.into_iter().filter(|row| !wanted.contains(row)) {
        rows.remove_hold(row)?;
        sweep_released(rows, row.nid, row.since)?;
    }
    Ok(())
}

/// Whether [`set_applied_but`] would change nothing.
pub fn is_applied_but(
    rows: &dyn Rows,
    endpoint: EndpointId,
    cursor: Cursor,
    behind: &[(NodeUid, Seq)],
) -> Result<bool, LedgerError> {
    let wanted = holds_of(rows, endpoint, behind)?;
    let held = rows.holds(endpoint, None, usize::MAX)?;
    Ok(applied(rows, endpoint)? == Some(cursor) && held == wanted.into_iter().collect::<Vec<_>>())
}

fn holds_of(
    rows: &dyn Rows,
    endpoint: EndpointId,
    versions: &[(NodeUid, Seq)],
) -> Result<BTreeSet<HoldRow>, LedgerError> {
    let mut holds = BTreeSet::new();
    for (uid, since) in versions {
        let ident = rows.ident(*uid)?;
        holds.extend(ident.map(|ident| HoldRow { endpoint, nid: ident.nid, since: *since }));
    }
    Ok(holds)
}

/// What an endpoint has applied.
pub fn applied(rows: &dyn Rows, endpoint: EndpointId) -> Result<Option<Cursor>, LedgerError> {
    Ok(rows.pins()?.into_iter().find(|pin| pin.endpoint == endpoint).map(|pin| pin.cursor))
}

/// The endpoint is removed from its group: only this ends its pin, never absence (promise I14).
pub fn drop_endpoint(rows: &mut dyn RowsMut, endpoint: EndpointId) -> Result<(), LedgerError> {
    let pin = applied(rows, endpoint)?;
    let holds = !rows.holds(endpoint, None, 1)?.is_empty();
    rows.remove_pin(endpoint)?;
    if let Some(cursor) = pin {
        unpin(rows, cursor.seq)?;
    }
    let history_from = share_row(rows)?.history_from;
    if holds && history_from > Seq(0) {
        rows.put_sweep(Sweep { after: Seq(0), upto: history_from })?;
    }
    Ok(())
}

/// An endpoint still needs a version that its cursor has passed (it holds back an apply, or a placeholder is behind).
pub fn hold(
    rows: &mut dyn RowsMut,
    endpoint: EndpointId,
    uid: NodeUid,
    since: Seq,
) -> Result<(), LedgerError> {
    let ident = rows.ident(uid)?.ok_or_else(|| LedgerError::Unknown { what: format!("node {uid}") })?;
    Ok(rows.put_hold(HoldRow { endpoint, nid: ident.nid, since })?)
}

/// Lets go of a version.
pub fn release(
    rows: &mut dyn RowsMut,
    endpoint: EndpointId,
    uid: NodeUid,
    since: Seq,
) -> Result<(), LedgerError> {
    let Some(ident) = rows.ident(uid)? else { return Ok(()) };
    rows.remove_hold(HoldRow { endpoint, nid: ident.nid, since })?;
    sweep_released(rows, ident.nid, since)
}

/// A version is held by one less: it may have become free.
fn sweep_released(rows: &mut dyn RowsMut, nid: Nid, since: Seq) -> Result<(), LedgerError> {
    let history_from = share_row(rows)?.history_from;
    let version = rows.past_nodes(nid, since, 1)?.into_iter().next();
    if let Some(past) = version.filter(|past| past.until <= history_from) {
        rows.put_sweep(Sweep { after: Seq(past.until.0 - 1), upto: past.until })?;
    }
    Ok(())
}

/// A sequence is pinned by one less. Only rows that were closed between it and the next pin can have become free; those
/// inside the window are expiry's in due time.
fn unpin(rows: &mut dyn RowsMut, seq: Seq) -> Result<(), LedgerError> {
    let pinned = rows.pinned()?;
    let next = pinned.partition_point(|other| *other < seq);
    let upto = pinned.get(next).copied().unwrap_or(Seq(u64::MAX)).min(share_row(rows)?.history_from);
    if seq < upto {
        rows.put_sweep(Sweep { after: seq, upto })?;
    }
    Ok(())
}
