//! Tokens of people and tools: made, listed, ended. A secret is shown once, to the owner who made it.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use polder_api::rest as api;
use polder_metadata::control as rows;
use polder_metadata::control::{Control, Role};
use polder_types::Timestamp;

use super::auth::{Caller, new_user_token};
use super::body::Body;
use super::convert::{api_name, row_name};
use super::params::Params;
use super::{Rest, RestError};

/// Longest life of a token that ends: ten years.
const EXPIRES_SECS_MAX: u32 = 315_360_000;

fn api_role(role: Role) -> api::Role {
    match role {
        Role::Owner => api::Role::Owner,
        Role::Operator => api::Role::Operator,
        Role::Reader => api::Role::Reader,
    }
}

fn shown(token: &rows::UserToken) -> api::Token {
    api::Token {
        name: api_name(&token.name),
        role: api_role(token.role),
        created_at: token.created_at.into(),
        expires_at: token.expires_at.map(Into::into),
    }
}

pub async fn list(
    State(rest): State<Rest>,
    params: Params,
) -> Result<Json<api::Page<api::Token>>, RestError> {
    let mut tokens = rest.control(Control::all_tokens).await?;
    tokens.sort_by_cached_key(|token| token.name.key());
    let page = params.page(tokens, |token| token.name.key())?;
    Ok(Json(api::Page { items: page.items.iter().map(shown).collect(), next: page.next }))
}

pub async fn create(
    State(rest): State<Rest>,
    caller: Caller,
    _: Params,
    Body(body): Body<api::TokenCreate>,
) -> Result<(StatusCode, Json<api::NewToken>), RestError> {
    if body.expires_seconds.is_some_and(|secs| !(1..=EXPIRES_SECS_MAX).contains(&secs)) {
        return Err(RestError::BadRequest(format!("the field \"expires_seconds\": 1 to {EXPIRES_SECS_MAX}")));
    }
    let acting = caller.acting(rest.now());
    let role = match body.role {
        api::Role::Owner => Role::Owner,
        api::Role::Operator => Role::Operator,
        api::Role::Reader => Role::Reader,
    };
    let ends = |secs: u32| Timestamp::new(acting.now.secs + i64::from(secs), acting.now.nanos);
    let made = new_user_token(row_name(&body.name)?, role, acting.now, body.expires_seconds.map(ends))?;
    let answer = api::NewToken {
        token: made.text,
        name: body.name,
        role: body.role,
        expires_at: made.row.expires_at.map(Into::into),
    };
    rest.control(move |control| control.create_token(&acting, &made.row)).await?;
    Ok((StatusCode::CREATED, Json(answer)))
}

pub async fn remove(
    State(rest): State<Rest>,
    caller: Caller,
    params: Params,
    Path(name): Path<String>,
) -> Result<Json<api::Token>, RestError> {
    let acting = caller.acting(rest.now());
    let dry_run = params.dry_run()?;
    let gone = rest.control(move |control| {
        let found = match name.parse() {
            Ok(name) => control.token_named(&name)?,
            Err(_) => None,
        };
        let Some(token) = found else {
            return Ok(Err(RestError::NotFound {
                what: "token",
                which: name.escape_default().take(80).collect(),
            }));
        };
        if dry_run {
            control.ensure_token_deletable(token.id)?;
            return Ok(Ok(token));
        }
        control.delete_token(&acting, token.id).map(Ok)
    });
    Ok(Json(shown(&gone.await??)))
}
