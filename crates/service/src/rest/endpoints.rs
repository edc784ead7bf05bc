//! Server endpoints: create, list, show, set, delete, release.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use polder_api::rest as api;
use polder_api::rest::ProblemCode;
use polder_metadata::control as rows;
use polder_metadata::control::{Control, ControlError};
use polder_types::EndpointId;

use super::auth::Caller;
use super::body::Body;
use super::convert::{self, EndpointFacts};
use super::host::Order;
use super::params::Params;
use super::{HostError, Rest, RestError, groups, left_behind, servers};

/// An endpoint with the names of what it belongs to.
pub fn find(control: &Control, id: EndpointId) -> Result<EndpointFacts, ControlError> {
    let gone = || ControlError::NotFound { what: rows::rows::Table::Endpoint, which: id.to_string() };
    let endpoint = control.endpoint(id)?.ok_or_else(gone)?;
    let group = control.group(endpoint.group)?.ok_or_else(gone)?;
    let share = control.share(group.share)?.ok_or_else(gone)?;
    let server = control.server(endpoint.server)?.ok_or_else(gone)?;
    Ok(EndpointFacts { endpoint, group, share, server })
}

/// Parses an endpoint's id out of a path or a parameter.
pub fn parse_id(text: &str) -> Result<EndpointId, RestError> {
    let which = || text.escape_default().take(80).collect();
    text.parse().map_err(|_| RestError::NotFound { what: "endpoint", which: which() })
}

fn refused(message: &str, hint: &'static str) -> RestError {
    RestError::Refused { code: ProblemCode::PreconditionFailed, message: message.into(), hint: Some(hint) }
}

/// What this version cannot do yet, said before anything is changed.
fn ensure_possible(settings: &api::EndpointSettings) -> Result<(), RestError> {
    if settings.initial_download != api::InitialDownload::Full && !settings.tiering {
        return Err(refused(
            "an initial download of names first, or of names only, needs cloud tiering",
            "choose the initial download \"full\"",
        ));
    }
    Ok(())
}

/// Settings after a change. Names first is how an endpoint began: switched off, tiering does not stand against it.
fn changed(body: &api::EndpointChange, settings: &api::EndpointSettings) -> api::EndpointSettings {
    let mut wish = body.apply(settings);
    if !wish.tiering {
        wish.initial_download = api::InitialDownload::Full;
    }
    wish
}

pub async fn list(
    State(rest): State<Rest>,
    params: Params,
) -> Result<Json<api::Page<api::Endpoint>>, RestError> {
    let (group, server) = (params.get::<String>("group")?, params.get::<String>("server")?);
    let (after, limit) = (params.after().map(parse_id).transpose()?, params.limit()?);
    let page = rest.control(move |control| {
        let group = match group.map(|which| groups::find(control, &which)).transpose()?.transpose() {
            Ok(group) => group.map(|group| group.id),
            Err(refused) => return Ok(Err(refused)),
        };
        let server = match server.map(|which| servers::find(control, &which)).transpose()?.transpose() {
            Ok(server) => server.map(|server| server.id),
            Err(refused) => return Ok(Err(refused)),
        };
        let mut ids: Vec<_> = control.all_endpoints()?;
        ids.retain(|one| {
            after.is_none_or(|after| one.id > after)
                && group.is_none_or(|group| one.group == group)
                && server.is_none_or(|server| one.server == server)
        });
        let next = ids.get(limit).map(|_| ids[limit - 1].id.to_string());
        ids.truncate(limit);
        let found = ids.iter().map(|one| find(control, one.id)).filter(|found| {
            // Gone since the list was read.
            !matches!(found, Err(ControlError::NotFound { .. }))
        });
        let items = found.map(|facts| Ok(convert::endpoint(&facts?))).collect::<Result<_, ControlError>>()?;
        Ok(Ok(api::Page { items, next }))
    });
    Ok(Json(page.await??))
}

pub async fn create(
    State(rest): State<Rest>,
    caller: Caller,
    params: Params,
    Body(body): Body<api::EndpointCreate>,
) -> Result<(StatusCode, Json<api::Endpoint>), RestError> {
    ensure_possible(&body.settings)?;
    let settings = convert::row_settings(&body.settings, &rows::EndpointSettings::default())?;
    let path = rows::ServerPath::parse(&body.path.0)?;
    let acting = caller.acting(rest.now());
    let dry_run = params.dry_run()?;
    let mut id = [0u8; 16];
    getrandom::fill(&mut id)
        .map_err(|source| RestError::internal("draw random bytes", source.to_string()))?;
    let made = rest.control(move |control| {
        let group = match groups::find(control, &body.group)? {
            Ok(group) => group,
            Err(refused) => return Ok(Err(refused)),
        };
        let server = match servers::find(control, &body.server)? {
            Ok(server) => server,
            Err(refused) => return Ok(Err(refused)),
        };
        let endpoint = rows::Endpoint {
            id: EndpointId(id),
            group: group.id,
            server: server.id,
            path,
            settings,
            revision: 1,
            deleting: false,
            force: false,
            left_behind: None,
            release: None,
            created_at: acting.now,
        };
        if dry_run {
            control.ensure_endpoint_creatable(&endpoint)?;
            let gone =
                || ControlError::NotFound { what: rows::rows::Table::Share, which: group.share.to_string() };
            let share = control.share(group.share)?.ok_or_else(gone)?;
            return Ok(Ok(EndpointFacts { endpoint, group, share, server }));
        }
        control.create_endpoint(&acting, &endpoint)?;
        find(control, endpoint.id).map(Ok)
    });
    let facts = made.await??;
    if !dry_run {
        rest.host.assignments_changed(facts.server.id);
    }
    let status = if dry_run { StatusCode::OK } else { StatusCode::CREATED };
    Ok((status, Json(convert::endpoint(&facts))))
}

pub async fn show(
    State(rest): State<Rest>,
    _: Params,
    Path(id): Path<String>,
) -> Result<Json<api::Endpoint>, RestError> {
    let id = parse_id(&id)?;
    Ok(Json(convert::endpoint(&rest.control(move |control| find(control, id)).await?)))
}

pub async fn change(
    State(rest): State<Rest>,
    caller: Caller,
    params: Params,
    Path(id): Path<String>,
    Body(body): Body<api::EndpointChange>,
) -> Result<Json<api::Endpoint>, RestError> {
    let id = parse_id(&id)?;
    let mut facts = rest.control(move |control| find(control, id)).await?;
    let wish = changed(&body, &convert::settings(&facts.endpoint.settings));
    let new = convert::row_settings(&wish, &facts.endpoint.settings)?;
    if params.dry_run()? {
        facts.endpoint.settings = new;
        return Ok(Json(convert::endpoint(&facts)));
    }
    let acting = caller.acting(rest.now());
    let changed = rest.control(move |control| {
        // Applied again on what is in force in the transaction: two people may set different things at once.
        control.set_endpoint(&acting, id, |settings| {
            let wish = changed(&body, &convert::settings(settings));
            if let Ok(new) = convert::row_settings(&wish, settings) {
                *settings = new;
            }
        })
    });
    facts.endpoint = changed.await?;
    rest.host.assignments_changed(facts.server.id);
    Ok(Json(convert::endpoint(&facts)))
}

pub async fn delete(
    State(rest): State<Rest>,
    caller: Caller,
    params: Params,
    Path(id): Path<String>,
) -> Result<Json<api::Endpoint>, RestError> {
    let id = parse_id(&id)?;
    let (dry_run, force, forget) = (params.dry_run()?, params.flag("force")?, params.flag("forget")?);
    let acting = caller.acting(rest.now());
    let (facts, is_known) = rest
        .control(move |control| Ok((find(control, id)?, control.progress(id)?.instance.is_some())))
        .await?;
    // Nobody follows it: no agent ever opened it, or none ever will again.
    let is_over = facts.endpoint.left_behind.is_some() || !facts.server.is_trusted();
    let may_be_tiered = facts.endpoint.left_behind.is_some() || rest.tiered_at(&facts).await?.is_some();
    ensure_removable(is_over, is_over && is_known && may_be_tiered, forget)?;
    if dry_run {
        return Ok(Json(convert::endpoint(&facts)));
    }
    if is_over || !is_known {
        left_behind::forget(&rest, acting, &facts).await?;
    } else {
        rest.control(move |control| control.delete_endpoint(&acting, id, force)).await?;
    }
    rest.host.assignments_changed(facts.server.id);
    Ok(Json(convert::endpoint(&facts)))
}

fn ensure_removable(is_over: bool, holds: bool, forget: bool) -> Result<(), RestError> {
    match (is_over, holds, forget) {
        (true, true, false) => Err(refused(
            "files of the endpoint may be names alone on its server, and what they stand for is held for them",
            "`polder endpoint left-behind` lists them, `polder recall --from-manifest` brings them; then give --forget",
        )),
        (false, _, true) => Err(refused(
            "the endpoint is followed by its server: there is nothing left behind to forget",
            "leave --forget out",
        )),
        _ => Ok(()),
    }
}

impl Rest {
    /// Files and bytes that are tiered at an endpoint, as its agent said last; `None` where it does not tier, or said nothing.
    pub(super) async fn tiered_at(&self, facts: &EndpointFacts) -> Result<Option<(u64, u64)>, RestError> {
        let report = self.host.report(facts.endpoint.id).await?;
        let told = report.map(|report| (report.status.tiered_nodes, report.status.tiered_bytes));
        let tiers = facts.endpoint.settings.tiering || told.is_some_and(|(files, _)| files > 0);
        Ok(tiers.then(|| told.unwrap_or_default()))
    }
}

pub async fn release(
    State(rest): State<Rest>,
    caller: Caller,
    params: Params,
    Path(id): Path<String>,
    Body(body): Body<api::ReleaseRequest>,
) -> Result<Json<api::Released>, RestError> {
    let id = parse_id(&id)?;
    let facts = rest.control(move |control| find(control, id)).await?;
    let report = rest.host.report(id).await?;
    let held = report.map_or(0, |report| report.status.held_nodes);
    let answer = api::Released { endpoint: id, held };
    if params.dry_run()? {
        return Ok(Json(answer));
    }
    let (accept, row) = match body.decision {
        api::Release::Accept => (true, rows::Release::Accept),
        api::Release::Revert => (false, rows::Release::Revert),
    };
    let acting = caller.acting(rest.now());
    // The row first: an agent that is away, or restarts, finds the decision when it comes back.
    let by = acting.clone();
    let ordered = rest.control(move |control| control.release_endpoint(&by, id, row)).await?;
    match rest.host.order(facts.server.id, id, Order::Release { accept }).await {
        // What is let go must pass this side, too: the decision stands until the endpoint has settled.
        Ok(_) if accept => (),
        Ok(_) => {
            rest.control(move |control| control.release_done(&acting, id, ordered.revision)).await?;
        }
        Err(HostError::Offline | HostError::Unavailable(_)) => rest.host.assignments_changed(facts.server.id),
        Err(error) => return Err(error.into()),
    }
    Ok(Json(answer))
}
