//! Shares and snapshots.

use polder_types::{CaseRule, Seq, ShareId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{ObjectName, Time};

/// Whether two names that differ only in case are one name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CaseMode {
    /// `a` and `A` are two names.
    #[default]
    Sensitive,
    /// `a` and `A` are one name, as Windows clients expect.
    Insensitive,
}

/// State of a share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ShareState {
    /// In use.
    Live,
    /// Deleted; can be brought back until `purge_at`.
    Deleted,
    /// A restore is being written; commits wait.
    Restoring,
}

/// A share: the authoritative tree of files with its history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Share {
    /// Its id, 32 hexadecimal digits.
    #[schema(value_type = String)]
    pub id: ShareId,
    /// Its name, unique among shares that are not deleted.
    pub name: ObjectName,
    /// State.
    pub state: ShareState,
    /// Case rule, chosen at creation for ever.
    pub case: CaseMode,
    /// Most bytes of live files, before deduplication and compression; absent: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota_bytes: Option<u64>,
    /// Bytes of live files, before deduplication and compression.
    pub used_bytes: u64,
    /// Live nodes: files, directories and symlinks, without the root.
    pub nodes: u64,
    /// Sequence number of the newest commit.
    #[schema(value_type = u64)]
    pub head: Seq,
    /// How often the history was set back and began anew.
    pub epoch: u64,
    /// When it was created.
    pub created_at: Time,
    /// When it was deleted, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted_at: Option<Time>,
    /// When a deleted share goes for good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purge_at: Option<Time>,
}

/// Body of a share's creation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ShareCreate {
    /// Its name.
    pub name: ObjectName,
    /// Most bytes of live files; absent: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota_bytes: Option<u64>,
    /// Case rule.
    #[serde(default)]
    pub case: CaseMode,
}

/// Body of a share's change. An absent field stays, `null` clears.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ShareChange {
    /// Most bytes of live files; `null`: no limit.
    #[serde(default, with = "super::maybe_null", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub quota_bytes: Option<Option<u64>>,
}

/// A name for a sequence number of a share: the share as it was then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Snapshot {
    /// Its name, unique in the share.
    pub name: ObjectName,
    /// Name of the share.
    pub share: ObjectName,
    /// The sequence number: always the last number of a commit.
    #[schema(value_type = u64)]
    pub seq: Seq,
    /// When it was taken.
    pub created_at: Time,
    /// Who took it: the name of a token, or of a part of the service.
    pub created_by: String,
}

/// Body of a snapshot's creation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SnapshotCreate {
    /// Its name; absent: made from the time, as `2026-11-23T18.00.00Z`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<ObjectName>,
}

impl From<CaseMode> for CaseRule {
    fn from(mode: CaseMode) -> Self {
        match mode {
            CaseMode::Sensitive => Self::Sensitive,
            CaseMode::Insensitive => Self::Insensitive,
        }
    }
}

impl From<CaseRule> for CaseMode {
    fn from(rule: CaseRule) -> Self {
        match rule {
            CaseRule::Sensitive => Self::Sensitive,
            CaseRule::Insensitive => Self::Insensitive,
        }
    }
}
