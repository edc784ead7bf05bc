//! Snapshots of a share: names for moments.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use polder_api::rest as api;
use polder_ledger::{self as ledger, Rows, SnapshotRow};
use polder_metadata::control::{self as rows, AuditNote};
use polder_types::Timestamp;

use super::auth::Caller;
use super::body::Body;
use super::convert::api_name;
use super::open::{Opened, millis};
use super::params::Params;
use super::{Rest, RestError};

/// How many names made from one second are tried.
const NAME_TRIES: u32 = 100;

fn shown(share: &rows::Share, row: &SnapshotRow) -> Option<api::Snapshot> {
    Some(api::Snapshot {
        // A name that REST did not give, for example one of the service's own work, may not be showable.
        name: row.name.parse().ok()?,
        share: api_name(&share.name),
        seq: row.cursor.seq,
        created_at: Timestamp::from_unix_millis(row.time_ms).into(),
        created_by: row.note.to_string(),
    })
}

fn all(rows: &dyn Rows) -> Result<Vec<SnapshotRow>, RestError> {
    let mut found: Vec<SnapshotRow> = Vec::new();
    loop {
        let after = found.last().map(|row| row.name.clone());
        let page = ledger::list_snapshots(rows, after.as_deref(), 1000)?;
        if page.is_empty() {
            return Ok(found);
        }
        found.extend(page);
    }
}

fn list_key(snapshot: &api::Snapshot) -> String {
    format!("{:020}-{}", snapshot.seq.0, snapshot.name)
}

pub async fn list(
    State(rest): State<Rest>,
    params: Params,
    Path(share): Path<String>,
) -> Result<Json<api::Page<api::Snapshot>>, RestError> {
    let Opened { row, open } = rest.open(&share).await?;
    let found = open.read(all).await?;
    let mut shown: Vec<_> = found.iter().filter_map(|snapshot| shown(&row, snapshot)).collect();
    shown.sort_by_cached_key(list_key);
    Ok(Json(params.page(shown, list_key)?))
}

/// A name from the time, with dots for the colons, so that it reads as a name.
fn name_from(now: Timestamp, attempt: u32) -> String {
    let text = api::Time(Timestamp::new(now.secs, 0)).to_string().replace(':', ".");
    if attempt == 0 { text } else { format!("{text}-{attempt}") }
}

pub async fn create(
    State(rest): State<Rest>,
    caller: Caller,
    _: Params,
    Path(share): Path<String>,
    Body(body): Body<api::SnapshotCreate>,
) -> Result<(StatusCode, Json<api::Snapshot>), RestError> {
    let Opened { row, open } = rest.open(&share).await?;
    let (now, by) = (rest.now(), caller.name.to_string());
    let taken = open.write(move |rows| {
        let name = match &body.name {
            Some(name) => name.to_string(),
            None => {
                let mut names = (0..NAME_TRIES).map(|attempt| name_from(now, attempt));
                let free = names.find_map(|name| match rows.snapshot(&name) {
                    Ok(None) => Some(Ok(name)),
                    Ok(Some(_)) => None,
                    Err(error) => Some(Err(error)),
                });
                free.transpose()?.unwrap_or_else(|| name_from(now, NAME_TRIES))
            }
        };
        Ok(ledger::create_snapshot(rows, &name, &by, millis(now))?)
    });
    let taken = taken.await?;
    let acting = caller.acting(now);
    let note = AuditNote::new(
        "snapshot.create",
        format!("{}@{}", row.name, taken.name),
        format!("seq {}", taken.cursor.seq),
    );
    rest.control(move |control| control.audit(&acting, &note)).await?;
    let shown =
        shown(&row, &taken).ok_or_else(|| RestError::internal("show a snapshot", "its name is no name"))?;
    Ok((StatusCode::CREATED, Json(shown)))
}

pub async fn delete(
    State(rest): State<Rest>,
    caller: Caller,
    params: Params,
    Path((share, name)): Path<(String, String)>,
) -> Result<Json<api::Snapshot>, RestError> {
    let Opened { row, open } = rest.open(&share).await?;
    let dry_run = params.dry_run()?;
    let wanted = name.clone();
    let gone = open.write(move |rows| {
        let found = rows.snapshot(&wanted)?;
        let which = || wanted.escape_default().take(80).collect();
        let found = found.ok_or_else(|| RestError::NotFound { what: "snapshot", which: which() })?;
        if !dry_run {
            ledger::delete_snapshot(rows, &wanted)?;
        }
        Ok(found)
    });
    let gone = gone.await?;
    if !dry_run {
        let acting = caller.acting(rest.now());
        let note = AuditNote::new(
            "snapshot.delete",
            format!("{}@{name}", row.name),
            format!("seq {}", gone.cursor.seq),
        );
        rest.control(move |control| control.audit(&acting, &note)).await?;
    }
    let not_found =
        || RestError::NotFound { what: "snapshot", which: name.escape_default().take(80).collect() };
    Ok(Json(shown(&row, &gone).ok_or_else(not_found)?))
}
