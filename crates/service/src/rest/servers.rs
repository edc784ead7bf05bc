//! Registered servers and the tokens by which they join.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use polder_api::rest as api;
use polder_metadata::control as rows;
use polder_metadata::control::{Control, ControlError, JoinToken, SecretHash};
use polder_types::{EndpointId, ServerId, Timestamp};

use super::auth::{Caller, new_join_secret};
use super::body::Body;
use super::convert::{self, ServerFacts};
use super::params::Params;
use super::{Rest, RestError};

/// How long a join token is good for, unless somebody chooses otherwise; and at most.
const JOIN_SECS: u32 = 3600;
const JOIN_SECS_MAX: u32 = 24 * 3600;

/// What a `{server}` names: an id, the name of a trusted server, or else of the last revoked one.
pub fn find(control: &Control, which: &str) -> Result<Result<rows::Server, RestError>, ControlError> {
    let found = match (which.parse::<ServerId>(), which.parse::<rows::ObjectName>()) {
        (Ok(id), _) => control.server(id)?,
        (_, Ok(name)) => match control.server_named(&name)? {
            Some(server) => Some(server),
            None => {
                let revoked = control.all_servers()?.into_iter().filter(|one| one.name.key() == name.key());
                revoked.max_by_key(|server| server.created_at)
            }
        },
        _ => None,
    };
    let which = || which.escape_default().take(80).collect();
    Ok(found.ok_or_else(|| RestError::NotFound { what: "server", which: which() }))
}

/// Revoked servers may share a name.
fn list_key(server: &rows::Server) -> String {
    format!("{} {}", server.name.key(), server.id)
}

fn facts(
    control: &Control,
    server: rows::Server,
    endpoints: Vec<EndpointId>,
) -> Result<ServerFacts, ControlError> {
    let certificates = control.certificates(server.id)?;
    let mut cloned = false;
    for endpoint in &endpoints {
        cloned |= control.progress(*endpoint)?.cloned;
    }
    Ok(ServerFacts { server, certificates, endpoints, cloned })
}

fn facts_of_one(control: &Control, server: rows::Server) -> Result<ServerFacts, ControlError> {
    let endpoints = control.endpoints_of_server(server.id)?.iter().map(|endpoint| endpoint.id).collect();
    facts(control, server, endpoints)
}

impl Rest {
    fn show_server(&self, facts: ServerFacts) -> api::Server {
        let is_online = self.host.is_online(facts.server.id);
        convert::server(facts, is_online, self.now())
    }

    /// With what is tiered there: who ends the trust in a server must know.
    async fn show_one(&self, facts: ServerFacts) -> Result<api::Server, RestError> {
        let ids = facts.endpoints.clone();
        let mut server = self.show_server(facts);
        let endpoints = self.control(move |control| {
            ids.into_iter().map(|id| super::endpoints::find(control, id)).collect::<Result<Vec<_>, _>>()
        });
        for endpoint in endpoints.await? {
            if let Some((files, bytes)) = self.tiered_at(&endpoint).await? {
                server.tiered_files = Some(server.tiered_files.unwrap_or(0) + files);
                server.tiered_bytes = Some(server.tiered_bytes.unwrap_or(0) + bytes);
            }
        }
        Ok(server)
    }
}

pub async fn join_token(
    State(rest): State<Rest>,
    caller: Caller,
    _: Params,
    Body(body): Body<api::JoinTokenCreate>,
) -> Result<(StatusCode, Json<api::JoinToken>), RestError> {
    let secs = body.expires_seconds.unwrap_or(JOIN_SECS);
    if !(1..=JOIN_SECS_MAX).contains(&secs) {
        return Err(RestError::BadRequest(format!("the field \"expires_seconds\": 1 to {JOIN_SECS_MAX}")));
    }
    let acting = caller.acting(rest.now());
    let token = new_join_secret()?;
    let expires_at = Timestamp::new(acting.now.secs + i64::from(secs), acting.now.nanos);
    let row = JoinToken {
        hash: SecretHash::of(token.as_bytes()),
        created_at: acting.now,
        expires_at,
        server: body.server.as_ref().map(convert::row_name).transpose()?,
        used: None,
    };
    rest.control(move |control| control.create_join_token(&acting, &row)).await?;
    Ok((StatusCode::CREATED, Json(api::JoinToken { token, expires_at: expires_at.into() })))
}

pub async fn list(
    State(rest): State<Rest>,
    params: Params,
) -> Result<Json<api::Page<api::Server>>, RestError> {
    let mut servers = rest.control(Control::all_servers).await?;
    servers.sort_by_cached_key(list_key);
    let page = params.page(servers, list_key)?;
    let items = page.items;
    let facts = rest.control(move |control| {
        let mut of_server: BTreeMap<ServerId, Vec<EndpointId>> = BTreeMap::new();
        for endpoint in control.all_endpoints()? {
            of_server.entry(endpoint.server).or_default().push(endpoint.id);
        }
        let endpoints = |server: &rows::Server| of_server.get(&server.id).cloned().unwrap_or_default();
        let facts = items.into_iter().map(|server| {
            let endpoints = endpoints(&server);
            facts(control, server, endpoints)
        });
        facts.collect::<Result<Vec<_>, _>>()
    });
    let items = facts.await?.into_iter().map(|facts| rest.show_server(facts)).collect();
    Ok(Json(api::Page { items, next: page.next }))
}

pub async fn show(
    State(rest): State<Rest>,
    _: Params,
    Path(which): Path<String>,
) -> Result<Json<api::Server>, RestError> {
    let facts = rest.control(move |control| match find(control, &which)? {
        Ok(server) => Ok(Ok(facts_of_one(control, server)?)),
        Err(refused) => Ok(Err(refused)),
    });
    let facts = facts.await??;
    Ok(Json(rest.show_one(facts).await?))
}

pub async fn revoke(
    State(rest): State<Rest>,
    caller: Caller,
    params: Params,
    Path(which): Path<String>,
) -> Result<Json<api::Server>, RestError> {
    let acting = caller.acting(rest.now());
    let dry_run = params.dry_run()?;
    let facts = rest.control(move |control| {
        let mut server = match find(control, &which)? {
            Ok(server) => server,
            Err(refused) => return Ok(Err(refused)),
        };
        if !dry_run {
            server = control.revoke_server(&acting, server.id)?;
        }
        Ok(Ok(facts_of_one(control, server)?))
    });
    let facts = facts.await??;
    if !dry_run {
        rest.host.server_revoked(facts.server.id);
    }
    Ok(Json(rest.show_one(facts).await?))
}
