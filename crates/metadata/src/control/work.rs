//! Leases and the status of background work, so that of several processes one does a thing.

use polder_types::Timestamp;
use serde::{Deserialize, Serialize};

use super::rows::{self, Object, Table};
use super::{Control, ControlError};

/// Who may do a piece of background work. The fence goes into every write that the work makes elsewhere: a process that
/// slept through the end of its lease is refused by the data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// What is leased, e.g. `prune:SHARE`.
    pub name: String,
    /// The process; empty when nobody.
    pub holder: String,
    /// Grows with every change of holder.
    pub fence: u64,
    /// Free for others from then on.
    pub expires_at: Timestamp,
}

impl Object for Lease {
    const TABLE: Table = Table::Lease;
    fn key(&self) -> Vec<u8> {
        self.name.as_bytes().to_vec()
    }
    fn shown(&self) -> String {
        self.name.clone()
    }
}

/// The last run of a reconciler on one subject.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReconcilerStatus {
    /// `verify`, `prune`, …
    pub name: String,
    /// The share, or empty for the whole service.
    pub subject: String,
    /// When the last run began.
    pub started_at: Option<Timestamp>,
    /// When the last run ended.
    pub finished_at: Option<Timestamp>,
    /// What it did, in a sentence.
    pub outcome: String,
    /// Why it failed, if it did.
    pub error: Option<String>,
    /// Things that it changed since the beginning.
    pub items_total: u64,
    /// Runs since the beginning.
    pub runs: u64,
    /// Failed ones among them.
    pub failures: u64,
    /// When it runs next without a signal.
    pub next_at: Option<Timestamp>,
}

impl Object for ReconcilerStatus {
    const TABLE: Table = Table::Reconciler;
    fn key(&self) -> Vec<u8> {
        [self.name.as_bytes(), b"\0", self.subject.as_bytes()].concat()
    }
    fn shown(&self) -> String {
        self.name.clone()
    }
}

impl Control {
    /// Takes or renews a lease until `until`. `None` while another process holds it.
    pub fn take_lease(
        &self,
        name: &str,
        holder: &str,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Option<Lease>, ControlError> {
        self.write(|rows| {
            let old: Option<Lease> = rows::get(rows, name.as_bytes())?;
            let fence = match &old {
                Some(old) if old.holder == holder && now < old.expires_at => old.fence,
                Some(old) if !old.holder.is_empty() && now < old.expires_at => return Ok(None),
                old => old.as_ref().map_or(0, |old| old.fence) + 1,
            };
            let lease = Lease { name: name.to_owned(), holder: holder.to_owned(), fence, expires_at: until };
            rows::put(rows, &lease)?;
            Ok(Some(lease))
        })
    }

    /// Gives a lease back. Nothing happens when somebody else has it by now.
    pub fn drop_lease(&self, lease: &Lease) -> Result<(), ControlError> {
        self.write(|rows| match rows::get::<Lease>(rows, lease.name.as_bytes())? {
            Some(now) if now.fence == lease.fence => rows::put(rows, &Lease { holder: String::new(), ..now }),
            _ => Ok(()),
        })
    }

    /// Notes what a reconciler did; refused when the lease has gone to another process.
    pub fn report_work(&self, lease: &Lease, status: &ReconcilerStatus) -> Result<(), ControlError> {
        self.write(|rows| {
            let now: Lease = rows::need(rows, lease.name.as_bytes())?;
            if now.fence != lease.fence {
                return Err(ControlError::Fenced { name: lease.name.clone() });
            }
            rows::put(rows, status)
        })
    }

    /// What all reconcilers did last.
    pub fn work(&self) -> Result<Vec<ReconcilerStatus>, ControlError> {
        self.read(|rows| rows::all(rows, None))
    }
}
