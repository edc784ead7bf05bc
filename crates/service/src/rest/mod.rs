//! REST under `/v1`: handlers over the control plane's rows, the shares and the connected agents.
//!
//! The way of a request: [`auth`] (who, which role, may they), [`params`] and [`body`] (everything from outside is
//! bounded and parsed once), one handler per route, [`error`] (one match from error to status). What REST needs of the
//! rest of the service is the port [`host::Host`].
//!
//! Architecture invariant: which routes there are, which role each needs and which query it takes is said by
//! `polder_api::rest::routes::ROUTES` alone; a test holds the router and the OpenAPI document against it.
//!
//! Architecture invariant: a handler that changes something has the caller's [`auth::Caller`] and writes to the
//! audit log in the same transaction, or before it answers.

pub mod auth;
mod background;
mod body;
mod conflicts;
mod content;
mod convert;
mod convert_tiering;
mod edit;
mod endpoints;
pub mod error;
mod explain;
mod groups;
pub mod host;
mod items;
mod left_behind;
mod linger;
mod open;
pub mod openapi;
mod params;
mod put;
mod servers;
mod shares;
mod snapshots;
mod status;
mod tokens;
mod tree;

use std::sync::Arc;

use axum::routing::{MethodRouter, any};
use axum::{Router, middleware};
use polder_api::rest::routes;
use polder_metadata::control::{Control, ControlError};
use polder_types::Timestamp;

pub use auth::{NewToken, new_join_secret, new_user_token};
pub use error::RestError;
pub use host::{Host, HostError};
pub use open::OpenShare;

/// What handlers share: a cheap handle.
#[derive(Clone)]
pub struct Rest {
    host: Arc<dyn Host>,
    copies: Arc<conflicts::Copies>,
}

impl Rest {
    /// Over the rest of the service.
    pub fn new(host: Arc<dyn Host>) -> Self {
        Self { host, copies: Arc::default() }
    }

    fn now(&self) -> Timestamp {
        self.host.now()
    }

    /// Runs a call of the control store where it may wait for the disk.
    async fn control<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Control) -> Result<T, ControlError> + Send + 'static,
    ) -> Result<T, RestError> {
        let control = self.host.control().clone();
        let done = tokio::task::spawn_blocking(move || work(&control)).await;
        Ok(done.map_err(|source| RestError::internal("run a call of the control store", source))??)
    }
}

/// All routes below `/v1`, with their state: to be merged with the service's others.
pub fn router(rest: Rest) -> Router {
    let mut router = Router::new();
    for (path, methods) in handlers() {
        router = router.route(path, methods);
    }
    router
        .method_not_allowed_fallback(error::method_not_allowed)
        .route_layer(middleware::from_fn_with_state(rest.clone(), auth::check))
        .route("/v1", any(error::not_found))
        .route("/v1/{*rest}", any(error::not_found))
        .layer(middleware::from_fn(linger::until_read))
        .with_state(rest)
}

/// Every path with its methods.
fn handlers() -> Vec<(&'static str, MethodRouter<Rest>)> {
    use axum::routing::{delete, get, post};
    vec![
        (routes::WHOAMI, get(background::whoami)),
        (routes::TOKENS, get(tokens::list).post(tokens::create)),
        (routes::TOKEN, delete(tokens::remove)),
        (routes::SHARES, get(shares::list).post(shares::create)),
        (routes::SHARE, get(shares::show).patch(shares::change).delete(shares::delete)),
        (routes::SHARE_UNDELETE, post(shares::undelete)),
        (routes::ENTRIES_ROOT, get(tree::list)),
        (routes::ENTRIES, get(tree::list)),
        (routes::STAT_ROOT, get(tree::stat)),
        (routes::STAT, get(tree::stat)),
        (routes::CONTENT, get(content::get).put(put::put)),
        (routes::VERSION, get(left_behind::version)),
        (routes::DIRECTORIES, post(edit::mkdir)),
        (routes::SYMLINKS, post(edit::symlink)),
        (routes::NODES, delete(edit::remove)),
        (routes::MOVE, post(edit::rename)),
        (routes::EXPLAIN_ROOT, get(explain::explain)),
        (routes::EXPLAIN, get(explain::explain)),
        (routes::SNAPSHOTS, get(snapshots::list).post(snapshots::create)),
        (routes::SNAPSHOT, delete(snapshots::delete)),
        (routes::GROUPS, get(groups::list).post(groups::create)),
        (routes::GROUP, get(groups::show).delete(groups::delete)),
        (routes::JOIN_TOKENS, post(servers::join_token)),
        (routes::SERVERS, get(servers::list)),
        (routes::SERVER, get(servers::show)),
        (routes::SERVER_REVOKE, post(servers::revoke)),
        (routes::ENDPOINTS, get(endpoints::list).post(endpoints::create)),
        (routes::ENDPOINT, get(endpoints::show).patch(endpoints::change).delete(endpoints::delete)),
        (routes::ENDPOINT_LEFT_BEHIND, get(left_behind::list)),
        (routes::ENDPOINT_RELEASE, post(endpoints::release)),
        (routes::STATUS, get(status::status)),
        (routes::ERRORS, get(items::errors)),
        (routes::CONFLICTS, get(conflicts::list)),
        (routes::CONFLICTS_RESOLVE, post(conflicts::resolve)),
        (routes::REVIEW, get(items::review_list).post(items::review)),
        (routes::RECONCILERS, get(background::reconcilers)),
        (routes::RECONCILER_WAKE, post(background::wake)),
        (routes::AUDIT, get(background::audit)),
    ]
}

#[cfg(test)]
mod tests;
