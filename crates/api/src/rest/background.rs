//! Background work of the service and the audit log.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Time;

/// What a reconciler is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReconcilerState {
    /// Waits for a signal or its timer.
    Idle,
    /// At work.
    Running,
    /// Its last run failed; it tries again.
    Failed,
    /// Held back until somebody confirms, such as expiry after a jump of the clock.
    Suspended,
}

/// Status of one piece of background work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Reconciler {
    /// Its name, such as `verify`, `history`, `prune`, `purge`.
    pub name: String,
    /// What it is doing.
    pub state: ReconcilerState,
    /// What the last run did or why it failed, in a sentence.
    pub summary: String,
    /// Runs since the service started.
    pub runs: u64,
    /// Failed ones among them.
    pub failures: u64,
    /// When the last run began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// When the last run ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Time>,
    /// When its timer wakes it next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_at: Option<Time>,
}

/// Whether what was asked for happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AuditOutcome {
    /// It happened.
    Accepted,
    /// It was refused.
    Refused,
    /// It failed.
    Failed,
}

/// One line of the audit log. Lines are only ever added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditEntry {
    /// Number of the line, from 1 without gaps.
    pub id: u64,
    /// When.
    pub at: Time,
    /// Who: the name of a token or server, or a part of the service.
    pub actor: String,
    /// What was asked for, such as `share.delete`.
    pub action: String,
    /// On what: kind and name, such as `share demo`; names are escaped.
    pub object: String,
    /// Whether it happened.
    pub outcome: AuditOutcome,
    /// More, such as the reason of a refusal; names are escaped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}
