//! Shares: create, list, show, change, delete softly, undelete.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use polder_api::rest as api;
use polder_metadata::control as rows;
use polder_metadata::control::{Control, ControlError};
use polder_types::{Cursor, ShareId};

use super::auth::Caller;
use super::body::Body;
use super::convert::{api_name, row_name};
use super::params::Params;
use super::{Rest, RestError};

/// What a `{share}` names: an id, or the name of a live share. A deleted share's name gives [`RestError::Deleted`].
pub fn find(control: &Control, which: &str) -> Result<Result<rows::Share, RestError>, ControlError> {
    let not_found =
        || RestError::NotFound { what: "share", which: which.escape_default().take(80).collect() };
    if let Ok(id) = which.parse::<ShareId>() {
        return Ok(match control.share(id)? {
            Some(share) if share.is_live() => Ok(share),
            Some(share) => Err(RestError::Deleted(share.name.to_string())),
            None => Err(not_found()),
        });
    }
    let Ok(name) = which.parse::<rows::ObjectName>() else { return Ok(Err(not_found())) };
    if let Some(share) = control.share_named(&name)? {
        return Ok(Ok(share));
    }
    let was_deleted = !control.deleted_shares_named(&name)?.is_empty();
    Ok(Err(if was_deleted { RestError::Deleted(name.to_string()) } else { not_found() }))
}

/// The state of a share as a whole.
#[derive(Debug, Clone, Copy)]
pub struct ShareSummary {
    /// Newest commit.
    pub head: Cursor,
    /// Live nodes without the root.
    pub nodes: u64,
    /// Bytes of live files.
    pub bytes: u64,
}

impl Rest {
    /// A share as a whole.
    pub(super) async fn summary(&self, share: ShareId) -> Result<ShareSummary, RestError> {
        let open = self.host.open_share(share).await?;
        let summary = open.read(|rows| {
            let share = polder_ledger::share_row(rows)?;
            let nodes = share.live_nodes.saturating_sub(1);
            Ok(ShareSummary { head: share.head, nodes, bytes: share.live_bytes })
        });
        summary.await
    }

    /// The live share that `which` names.
    pub(super) async fn share(&self, which: &str) -> Result<rows::Share, RestError> {
        let which = which.to_owned();
        self.control(move |control| find(control, &which)).await?
    }

    /// A share with what only its own database knows. A deleted one is not opened.
    async fn show_share(&self, share: rows::Share) -> Result<api::Share, RestError> {
        let summary = match share.is_live() {
            true => Some(self.summary(share.id).await?),
            false => None,
        };
        Ok(api_share(&share, summary))
    }
}

fn api_share(share: &rows::Share, summary: Option<ShareSummary>) -> api::Share {
    let deleted_at = match share.state {
        rows::ShareState::Live => None,
        rows::ShareState::Deleted { at } => Some(at),
    };
    api::Share {
        id: share.id,
        name: api_name(&share.name),
        state: match deleted_at {
            Some(_) => api::ShareState::Deleted,
            None => api::ShareState::Live,
        },
        case: share.case.into(),
        quota_bytes: share.quota_bytes,
        used_bytes: summary.map_or(0, |summary| summary.bytes),
        nodes: summary.map_or(0, |summary| summary.nodes),
        head: summary.map_or_else(Default::default, |summary| summary.head.seq),
        epoch: summary.map_or(0, |summary| summary.head.epoch.0),
        created_at: share.created_at.into(),
        deleted_at: deleted_at.map(Into::into),
        purge_at: share.purge_after().map(Into::into),
    }
}

/// Sizes are 63 bits wide everywhere: in files, in databases, in the document.
fn ensure_quota(quota_bytes: Option<u64>) -> Result<(), RestError> {
    if quota_bytes.is_some_and(|bytes| bytes > polder_types::FILE_BYTES_MAX) {
        let most = polder_types::FILE_BYTES_MAX;
        return Err(RestError::BadRequest(format!("the field \"quota_bytes\": at most {most}")));
    }
    Ok(())
}

/// The key by which shares are listed: names are unique among live shares only.
fn list_key(share: &rows::Share) -> String {
    format!("{} {}", share.name.key(), share.id)
}

pub async fn list(
    State(rest): State<Rest>,
    params: Params,
) -> Result<Json<api::Page<api::Share>>, RestError> {
    let deleted = params.flag("deleted")?;
    let mut shares = rest.control(Control::all_shares).await?;
    shares.retain(|share| share.is_live() || deleted);
    shares.sort_by_cached_key(list_key);
    let page = params.page(shares, list_key)?;
    let mut items = Vec::with_capacity(page.items.len());
    for share in page.items {
        items.push(rest.show_share(share).await?);
    }
    Ok(Json(api::Page { items, next: page.next }))
}

pub async fn create(
    State(rest): State<Rest>,
    caller: Caller,
    _: Params,
    Body(body): Body<api::ShareCreate>,
) -> Result<(StatusCode, Json<api::Share>), RestError> {
    ensure_quota(body.quota_bytes)?;
    let acting = caller.acting(rest.now());
    let name = row_name(&body.name)?;
    let share = rest.host.create_share(&acting, &name, body.case.into(), body.quota_bytes).await?;
    Ok((StatusCode::CREATED, Json(rest.show_share(share).await?)))
}

pub async fn show(
    State(rest): State<Rest>,
    _: Params,
    Path(which): Path<String>,
) -> Result<Json<api::Share>, RestError> {
    let share = rest.share(&which).await?;
    Ok(Json(rest.show_share(share).await?))
}

pub async fn change(
    State(rest): State<Rest>,
    caller: Caller,
    params: Params,
    Path(which): Path<String>,
    Body(body): Body<api::ShareChange>,
) -> Result<Json<api::Share>, RestError> {
    ensure_quota(body.quota_bytes.flatten())?;
    let mut share = rest.share(&which).await?;
    if let Some(quota_bytes) = body.quota_bytes {
        if params.dry_run()? {
            share.quota_bytes = quota_bytes;
        } else {
            let (acting, id) = (caller.acting(rest.now()), share.id);
            share = rest.control(move |control| control.set_quota(&acting, id, quota_bytes)).await?;
            // Agents of all endpoints of the share show and check the quota.
            rest.share_changed(id).await?;
        }
    }
    Ok(Json(rest.show_share(share).await?))
}

pub async fn delete(
    State(rest): State<Rest>,
    caller: Caller,
    params: Params,
    Path(which): Path<String>,
) -> Result<Json<api::Share>, RestError> {
    let share = rest.share(&which).await?;
    let acting = caller.acting(rest.now());
    let dry_run = params.dry_run()?;
    let deleted = rest.control(move |control| {
        if dry_run {
            control.ensure_deletable(share.id)?;
            return Ok(share);
        }
        control.delete_share(&acting, share.id)
    });
    Ok(Json(rest.show_share(deleted.await?).await?))
}

pub async fn undelete(
    State(rest): State<Rest>,
    caller: Caller,
    params: Params,
    Path(which): Path<String>,
) -> Result<Json<api::Share>, RestError> {
    let dry_run = params.dry_run()?;
    let acting = caller.acting(rest.now());
    let back = rest.control(move |control| {
        let candidates = match (which.parse::<ShareId>(), which.parse::<rows::ObjectName>()) {
            (Ok(id), _) => control.share(id)?.into_iter().collect(),
            (_, Ok(name)) => control.deleted_shares_named(&name)?,
            _ => Vec::new(),
        };
        // The newest of several under one name; the others have to be named by their ids.
        let Some(share) = candidates.into_iter().next() else {
            let which = which.escape_default().take(80).collect();
            return Ok(Err(RestError::NotFound { what: "deleted share", which }));
        };
        if dry_run && !share.is_live() {
            return Ok(Ok(share));
        }
        control.undelete_share(&acting, share.id).map(Ok)
    });
    Ok(Json(rest.show_share(back.await??).await?))
}
