//! REST under `/v1`: handlers over [`crate::ServiceState`].

use axum::Router;

use crate::ServiceState;

/// All routes below `/v1`; the state is applied by the caller.
pub fn router() -> Router<ServiceState> {
    Router::new()
}
