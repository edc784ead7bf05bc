//! Who am I, background work, the audit log.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use polder_api::rest as api;
use polder_metadata::control as rows;
use polder_metadata::control::{AuditNote, Control};

use super::auth::Caller;
use super::params::Params;
use super::{Rest, RestError, convert};

pub async fn whoami(State(rest): State<Rest>, caller: Caller, _: Params) -> Json<api::WhoAmI> {
    Json(api::WhoAmI {
        name: caller.name.to_string(),
        role: match caller.role {
            rows::Role::Owner => api::Role::Owner,
            rows::Role::Operator => api::Role::Operator,
            rows::Role::Reader => api::Role::Reader,
        },
        version: env!("CARGO_PKG_VERSION").into(),
        now: rest.now().into(),
    })
}

/// One line a reconciler: the work on single shares is summed up.
fn summed_up(status: Vec<rows::ReconcilerStatus>) -> Vec<api::Reconciler> {
    let mut out: Vec<api::Reconciler> = Vec::new();
    for one in status {
        let running = one.started_at > one.finished_at;
        let state = match (&one.error, running) {
            (_, true) => api::ReconcilerState::Running,
            (Some(_), _) => api::ReconcilerState::Failed,
            (None, _) => api::ReconcilerState::Idle,
        };
        let summary = one.error.clone().unwrap_or(one.outcome);
        let summary = if one.subject.is_empty() { summary } else { format!("{}: {summary}", one.subject) };
        let line = api::Reconciler {
            name: one.name,
            state,
            summary,
            runs: one.runs,
            failures: one.failures,
            started_at: one.started_at.map(Into::into),
            ended_at: one.finished_at.map(Into::into),
            next_at: one.next_at.map(Into::into),
        };
        match out.last_mut().filter(|last| last.name == line.name) {
            Some(last) => add(last, line),
            None => out.push(line),
        }
    }
    out
}

fn add(sum: &mut api::Reconciler, line: api::Reconciler) {
    let rank = |state| match state {
        api::ReconcilerState::Idle => 0,
        api::ReconcilerState::Running => 1,
        api::ReconcilerState::Suspended => 2,
        api::ReconcilerState::Failed => 3,
    };
    sum.runs += line.runs;
    sum.failures += line.failures;
    // The worst state has the word, and among equals the latest.
    if (rank(line.state), line.ended_at) >= (rank(sum.state), sum.ended_at) {
        sum.state = line.state;
        sum.summary = line.summary;
    }
    sum.started_at = sum.started_at.max(line.started_at);
    sum.ended_at = sum.ended_at.max(line.ended_at);
    sum.next_at = [sum.next_at, line.next_at].into_iter().flatten().min();
}

pub async fn reconcilers(
    State(rest): State<Rest>,
    params: Params,
) -> Result<Json<api::Page<api::Reconciler>>, RestError> {
    let lines = summed_up(rest.control(Control::work).await?);
    Ok(Json(params.page(lines, |line| line.name.clone())?))
}

pub async fn wake(
    State(rest): State<Rest>,
    caller: Caller,
    _: Params,
    Path(name): Path<String>,
) -> Result<(StatusCode, Json<api::Reconciler>), RestError> {
    let not_found =
        || RestError::NotFound { what: "reconciler", which: name.escape_default().take(80).collect() };
    let lines = summed_up(rest.control(Control::work).await?);
    let line = lines.into_iter().find(|line| line.name == name).ok_or_else(not_found)?;
    if !rest.host.wake(&name) {
        return Err(not_found());
    }
    let acting = caller.acting(rest.now());
    let note = AuditNote::new("reconciler.wake", &name, "");
    rest.control(move |control| control.audit(&acting, &note)).await?;
    Ok((StatusCode::ACCEPTED, Json(line)))
}

pub async fn audit(
    State(rest): State<Rest>,
    params: Params,
) -> Result<Json<api::Page<api::AuditEntry>>, RestError> {
    let before = params.get::<u64>("after")?;
    let limit = params.limit()?;
    let entries = rest.control(move |control| control.audit_page(before, limit)).await?;
    let next = entries.last().map(|entry| entry.seq).filter(|seq| *seq > 1 && entries.len() == limit);
    let items = entries.into_iter().map(convert::audit_entry).collect();
    Ok(Json(api::Page { items, next: next.map(|seq| seq.to_string()) }))
}
