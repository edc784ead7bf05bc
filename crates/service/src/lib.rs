//! The service: composition root of the control plane.
//!
//! The reason for this crate: it is where rows (`metadata`), bytes (`packstore`) and the contract (`api`) meet. It
//! holds the one HTTPS port, the own certificate authority, the commit path and the background work.
//!
//! Architecture invariant: no state of a share lives only in this process's memory; what is kept here is a cache of
//! rows or the presence of a connection, and a killed process loses neither data nor promises.
//!
//! Architecture invariant: this crate never imports `replica`, `gate`, `tiering` or `agent`; it meets agents only
//! through `api`.

pub mod agents;
pub mod chain;
mod clock;
mod config;
mod failure;
mod grpc;
mod hex;
mod host;
mod metric;
mod packs;
pub mod rest;
mod room;
mod server;
mod shares;
mod start;
pub mod state;
mod tiering_metrics;
mod trust;
mod work;

pub use clock::ServiceClock;
pub use config::{Objects, ServiceConfig, ServiceSettings};
pub use metric::{METRICS, Metric};
pub use shares::{OpenShare, ShareError, Shares};
pub use start::{Service, run};
pub use state::ServiceState;
pub use trust::Trust;
