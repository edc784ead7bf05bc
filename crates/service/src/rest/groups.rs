//! Sync groups.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use polder_api::rest as api;
use polder_metadata::control as rows;
use polder_metadata::control::{Control, ControlError};
use polder_types::{GroupId, ShareId};

use super::auth::Caller;
use super::body::Body;
use super::params::Params;
use super::{Rest, RestError, convert};

/// What a `{group}` names: an id or a name.
pub fn find(control: &Control, which: &str) -> Result<Result<rows::Group, RestError>, ControlError> {
    let found = match (which.parse::<GroupId>(), which.parse::<rows::ObjectName>()) {
        (Ok(id), _) => control.group(id)?,
        (_, Ok(name)) => control.group_named(&name)?,
        _ => None,
    };
    let which = || which.escape_default().take(80).collect();
    Ok(found.ok_or_else(|| RestError::NotFound { what: "sync group", which: which() }))
}

/// A group as the contract shows it. `None` when it went away meanwhile.
fn shown(control: &Control, group: &rows::Group) -> Result<Option<api::Group>, ControlError> {
    let Some(share) = control.share(group.share)? else { return Ok(None) };
    let endpoints = control.endpoints(Some(group.id), None, rows::PAGE_ROWS_MAX)?;
    let endpoints = endpoints.iter().map(|endpoint| endpoint.id).collect();
    Ok(Some(convert::group(group, &share, endpoints)))
}

fn show_one(control: &Control, group: &rows::Group) -> Result<api::Group, ControlError> {
    let gone = || ControlError::NotFound { what: rows::rows::Table::Group, which: group.name.to_string() };
    shown(control, group)?.ok_or_else(gone)
}

impl Rest {
    /// Something of a share changed that agents are told.
    pub(super) async fn share_changed(&self, share: ShareId) -> Result<(), RestError> {
        let endpoints = self.control(move |control| {
            let groups = control.all_groups()?;
            let group = groups.into_iter().find(|group| group.share == share);
            group.map_or(Ok(Vec::new()), |group| control.endpoints(Some(group.id), None, rows::PAGE_ROWS_MAX))
        });
        for endpoint in endpoints.await? {
            self.host.assignments_changed(endpoint.server);
        }
        Ok(())
    }
}

pub async fn list(
    State(rest): State<Rest>,
    params: Params,
) -> Result<Json<api::Page<api::Group>>, RestError> {
    let mut groups = rest.control(Control::all_groups).await?;
    groups.sort_by_cached_key(|group| group.name.key());
    let page = params.page(groups, |group| group.name.key())?;
    let items = page.items;
    let items = rest.control(move |control| {
        let shown = items.iter().filter_map(|group| shown(control, group).transpose());
        shown.collect::<Result<Vec<_>, _>>()
    });
    Ok(Json(api::Page { items: items.await?, next: page.next }))
}

pub async fn create(
    State(rest): State<Rest>,
    caller: Caller,
    _: Params,
    Body(body): Body<api::GroupCreate>,
) -> Result<(StatusCode, Json<api::Group>), RestError> {
    let share = rest.share(&body.share).await?;
    let acting = caller.acting(rest.now());
    let mut id = [0u8; 16];
    getrandom::fill(&mut id)
        .map_err(|source| RestError::internal("draw random bytes", source.to_string()))?;
    let group = rows::Group {
        id: GroupId(id),
        name: convert::row_name(&body.name)?,
        share: share.id,
        created_at: acting.now,
    };
    let shown = rest.control(move |control| {
        control.create_group(&acting, &group)?;
        show_one(control, &group)
    });
    Ok((StatusCode::CREATED, Json(shown.await?)))
}

pub async fn show(
    State(rest): State<Rest>,
    _: Params,
    Path(which): Path<String>,
) -> Result<Json<api::Group>, RestError> {
    let shown = rest.control(move |control| match find(control, &which)? {
        Ok(group) => Ok(Ok(show_one(control, &group)?)),
        Err(refused) => Ok(Err(refused)),
    });
    Ok(Json(shown.await??))
}

pub async fn delete(
    State(rest): State<Rest>,
    caller: Caller,
    params: Params,
    Path(which): Path<String>,
) -> Result<Json<api::Group>, RestError> {
    let acting = caller.acting(rest.now());
    let dry_run = params.dry_run()?;
    let deleted = rest.control(move |control| {
        let group = match find(control, &which)? {
            Ok(group) => group,
            Err(refused) => return Ok(Err(refused)),
        };
        let shown = show_one(control, &group)?;
        if dry_run {
            control.ensure_group_deletable(group.id)?;
        } else {
            control.delete_group(&acting, group.id)?;
        }
        Ok(Ok(shown))
    });
    Ok(Json(deleted.await??))
}
