//! Who calls, and may they: bearer tokens with roles.
//!
//! A token's text is `polder_ID_SECRET`: 16 hexadecimal digits that find its row, 64 that prove it. The store has the
//! hash of the whole text. Join tokens are `polder-join_SECRET`.

use axum::extract::{FromRequestParts, MatchedPath, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::Response;
use polder_api::rest::Role as ApiRole;
use polder_api::rest::routes::{ROUTES, Route};
use polder_metadata::control::{
    Acting, AuditNote, AuditOutcome, ControlError, ObjectName, Role, SecretHash, TokenId, UserToken,
};
use polder_types::{Escaped, Timestamp};

use super::{Rest, RestError};

const PREFIX: &str = "polder_";
const JOIN_PREFIX: &str = "polder-join_";
/// `polder_` + 16 + `_` + 64; anything longer is not looked at.
const TOKEN_CHARS: usize = PREFIX.len() + 16 + 1 + 64;

/// A token that was just made: its text is shown once and kept nowhere.
pub struct NewToken {
    /// The secret text.
    pub text: String,
    /// What is kept.
    pub row: UserToken,
}

fn random_hex<const N: usize>() -> Result<String, RestError> {
    let mut bytes = [0u8; N];
    getrandom::fill(&mut bytes)
        .map_err(|source| RestError::internal("draw random bytes", source.to_string()))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Makes a person's token; the caller keeps [`NewToken::row`] with `Control::create_token`.
pub fn new_user_token(
    name: ObjectName,
    role: Role,
    now: Timestamp,
    expires_at: Option<Timestamp>,
) -> Result<NewToken, RestError> {
    let id = random_hex::<8>()?;
    let text = format!("{PREFIX}{id}_{}", random_hex::<32>()?);
    let id: TokenId = id.parse()?;
    let hash = SecretHash::of(text.as_bytes());
    Ok(NewToken { text, row: UserToken { id, name, role, hash, created_at: now, expires_at } })
}

/// Makes the secret of a join token. What registers with it looks for `SecretHash::of` its whole text.
pub fn new_join_secret() -> Result<String, RestError> {
    Ok(format!("{JOIN_PREFIX}{}", random_hex::<32>()?))
}

/// The one who calls: there is one for every request that reaches a handler.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Name of the token.
    pub name: ObjectName,
    /// Its role.
    pub role: Role,
}

impl Caller {
    /// For changes: who and when.
    pub fn acting(&self, now: Timestamp) -> Acting {
        Acting { who: format!("token:{}", self.name), now }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = RestError;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, RestError> {
        // Without the layer there is no caller: a handler can never run unchecked.
        parts.extensions.get::<Self>().cloned().ok_or(RestError::Unauthorized)
    }
}

/// The layer before every handler: token, role by the table of routes, audit of what is forbidden.
pub async fn check(
    State(rest): State<Rest>,
    path: Option<MatchedPath>,
    mut request: Request,
    next: Next,
) -> Result<Response, RestError> {
    let path = path.as_ref().map(MatchedPath::as_str).unwrap_or_default();
    let caller = rest.caller(request.headers()).await?;
    let Some(route) = find_route(request.method(), path) else {
        return Err(RestError::MethodNotAllowed);
    };
    let needs = role_of(route.role);
    if caller.role < needs {
        rest.forbid(&caller, needs, request.method(), request.uri().path()).await?;
    }
    request.extensions_mut().insert(caller);
    request.extensions_mut().insert(route);
    Ok(next.run(request).await)
}

/// The row of the table for a request. HEAD is answered as GET.
pub fn find_route(method: &Method, path: &str) -> Option<&'static Route> {
    let method = if method == Method::HEAD { "GET" } else { method.as_str() };
    ROUTES.iter().find(|route| route.path == path && route.method == method)
}

fn role_of(role: ApiRole) -> Role {
    match role {
        ApiRole::Owner => Role::Owner,
        ApiRole::Operator => Role::Operator,
        ApiRole::Reader => Role::Reader,
    }
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Owner => "owner",
        Role::Operator => "operator",
        Role::Reader => "reader",
    }
}

impl Rest {
    async fn caller(&self, headers: &HeaderMap) -> Result<Caller, RestError> {
        let (id, hash) = bearer(headers).ok_or(RestError::Unauthorized)?;
        let now = self.now();
        let found = self.control(move |control| control.check_token(id, &hash, now)).await;
        match found {
            Ok(token) => Ok(Caller { name: token.name, role: token.role }),
            Err(RestError::Control(ControlError::BadToken)) => {
                // Not audited: whoever can reach the port could fill the log.
                tracing::info!(token = %id, "a request with a token that is not valid");
                Err(RestError::Unauthorized)
            }
            Err(error) => Err(error),
        }
    }

    async fn forbid(
        &self,
        caller: &Caller,
        needs: Role,
        method: &Method,
        path: &str,
    ) -> Result<(), RestError> {
        tracing::warn!(token = %caller.name, role = %caller.role, %method, path = %Escaped(path.as_bytes()), "a request beyond its role");
        let acting = caller.acting(self.now());
        let note = AuditNote::new("access.forbidden", format!("{method} {path}"), format!("needs {needs}"));
        let note = note.with(AuditOutcome::Refused);
        self.control(move |control| control.audit(&acting, &note)).await?;
        Err(RestError::Forbidden {
            name: caller.name.to_string(),
            has: role_name(caller.role),
            needs: role_name(needs),
        })
    }
}

fn bearer(headers: &HeaderMap) -> Option<(TokenId, SecretHash)> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let text = values.next()?.to_str().ok()?;
    // Two of them may be read differently by something in between.
    if values.next().is_some() {
        return None;
    }
    let (scheme, token) = text.split_once(' ')?;
    let token = token.trim();
    if !scheme.eq_ignore_ascii_case("bearer") || token.len() != TOKEN_CHARS {
        return None;
    }
    let (id, _) = token.strip_prefix(PREFIX)?.split_once('_')?;
    Some((id.parse().ok()?, SecretHash::of(token.as_bytes())))
}
