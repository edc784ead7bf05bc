//! What every handler of the service shares: a cheap handle, cloned for each request.

use std::sync::Arc;

/// Shared state of one service process.
#[derive(Clone)]
pub struct ServiceState {
    #[expect(dead_code, reason = "filled as the parts of the service land")]
    inner: Arc<Inner>,
}

struct Inner {}
