//! Rows of the control plane: shares, sync groups, servers, endpoints, tokens, the audit log, service time, leases.
//!
//! Three parts, each ignorant of the next: [`rows`] is the port, a transaction over a few tables of named documents
//! and one append-only log; [`MemoryRows`] and [`SqliteRows`] implement it; [`Control`] holds every rule (unique
//! names, soft deletion, single use of join tokens, the audit chain) once, above the port, so that all stores decide
//! alike. Documents instead of a column for each setting: there are thousands of rows, not millions, they are read
//! whole, and a new setting must not be a migration.
//!
//! Order of use: open a store, build a [`Control`], call it from blocking threads (calls wait for the disk). Every
//! change takes an [`Acting`] and writes its audit entry in the same transaction: there is no change without one.
//!
//! Architecture invariant: no clock and no random source. Ids, secrets' hashes and times are brought by the caller.
//!
//! Architecture invariant: nothing is remembered between calls. Another process may have changed any row meanwhile;
//! each rule is checked in the transaction that writes.
//!
//! What a crash leaves behind: whole transactions only. A store without its last answers is a valid older store.

mod audit;
pub mod conformance;
mod endpoints;
mod error;
mod memory;
mod names;
pub mod rows;
mod servers;
mod shares;
mod sqlite;
mod tiering;
mod time;
mod tokens;
mod work;

use std::sync::Arc;

use polder_types::Timestamp;

pub use audit::{AuditBreak, AuditEntry, AuditNote, AuditOutcome};
pub use endpoints::{
    Brake, EXCLUDES_MAX, Endpoint, EndpointProgress, EndpointSettings, InitialDownload, InitialUpload,
    LeftBehind, Release, ServerPath,
};
pub use error::{ControlError, Fault};
pub use memory::MemoryRows;
pub use names::{Glob, ObjectName, OlderThan, ParseError, Percent, ProgramName, Role, RuleGlob};
pub use servers::{Certificate, JoinToken, Server, ServerState};
pub use shares::{Group, SHARE_KEPT_SECS, Share, ShareState, WrappedKeys};
pub use sqlite::SqliteRows;
pub use tiering::{NewFiles, ProgramAction, ProgramRule, RULES_MAX, TierAction, TierRule};
pub use time::{CLOCK_JUMP_SECS_MAX, ServiceTime};
pub use tokens::{SecretHash, TokenId, UserToken};
pub use work::{Lease, ReconcilerStatus};

use rows::{ControlPort, Object, Rows};

/// Most rows in one page of any list.
pub const PAGE_ROWS_MAX: usize = 1000;

/// Who changes something, and when (service time).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acting {
    /// `token:NAME`, `server:NAME` or `service`.
    pub who: String,
    /// Service time.
    pub now: Timestamp,
}

/// The control plane's store with its rules. A cheap handle.
#[derive(Clone)]
pub struct Control {
    port: Arc<dyn ControlPort>,
}

impl Control {
    /// Over a store.
    pub fn new(port: Arc<dyn ControlPort>) -> Self {
        Self { port }
    }

    /// One transaction that reads.
    fn read<T>(&self, mut work: impl FnMut(&dyn Rows) -> Result<T, ControlError>) -> Result<T, ControlError> {
        let mut out = None;
        self.port.read(&mut |rows| {
            out = Some(work(rows)?);
            Ok(())
        })?;
        Ok(out.expect("the port calls its work before it succeeds"))
    }

    /// One transaction that writes; taken whole or, when `work` fails, not at all.
    fn write<T>(
        &self,
        mut work: impl FnMut(&mut dyn Rows) -> Result<T, ControlError>,
    ) -> Result<T, ControlError> {
        let mut out = None;
        self.port.write(&mut |rows| {
            out = Some(work(rows)?);
            Ok(())
        })?;
        Ok(out.expect("the port calls its work before it succeeds"))
    }

    /// One object, changed by `work` in one transaction, with one audit entry of what `work` says.
    fn change<T: Object>(
        &self,
        acting: &Acting,
        key: &[u8],
        action: &str,
        mut work: impl FnMut(&mut T) -> Result<String, ControlError>,
    ) -> Result<T, ControlError> {
        self.write(|rows| {
            let mut object: T = rows::need(rows, key)?;
            let detail = work(&mut object)?;
            rows::put(rows, &object)?;
            audit::append(rows, acting, &AuditNote::new(action, object.shown(), detail))?;
            Ok(object)
        })
    }
}
