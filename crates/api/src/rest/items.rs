//! Single items: what is not in sync, conflicts, extras under review, and the reasons of one path.

use polder_types::{EndpointId, Kind, NodeUid};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{EntryKind, JsonBytes, JsonPath, ObjectName, Time};

/// Which way an item was going.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// From the server to the share.
    Upload,
    /// From the share to the server.
    Download,
    /// It was looked at.
    Scan,
}

/// An item that is not in sync, with its reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ItemError {
    /// Which endpoint.
    #[schema(value_type = String)]
    pub endpoint: EndpointId,
    /// Name of its server.
    pub server: ObjectName,
    /// Path below the endpoint's root.
    pub path: JsonPath,
    /// Which way it was going.
    pub direction: Direction,
    /// Stable code, such as `open_for_writing`, `permission_denied`, `special_file`, `name_not_possible`, `disk_full`.
    pub code: String,
    /// Why, in a sentence.
    pub reason: String,
    /// What to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Since when it is not in sync.
    pub since: Time,
    /// How often it was tried.
    pub attempts: u32,
    /// When it is tried next; absent: when it changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_at: Option<Time>,
}

/// A conflict copy that somebody should look at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Conflict {
    /// Name of the share.
    pub share: ObjectName,
    /// The conflict copy.
    pub path: JsonPath,
    /// The file that kept the name, where it still stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub original: Option<JsonPath>,
    /// Name of the server whose content the copy is, or `Cloud` for a direct change.
    pub server: String,
    /// Bytes of the copy.
    pub size: u64,
    /// Modification time of the copy.
    pub mtime: Time,
    /// When the copy was made.
    pub made_at: Time,
    /// Node of the copy.
    #[schema(value_type = String)]
    pub node: NodeUid,
}

/// How a conflict ends. What goes is kept in the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ConflictKeep {
    /// The original stays, the copy is removed.
    Original,
    /// The copy takes the original's name.
    Copy,
    /// Both stay; the copy is not listed any more.
    Both,
}

/// Body of a conflict's resolution.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConflictResolve {
    /// Name or id of the share.
    pub share: String,
    /// The conflict copy.
    pub path: JsonPath,
    /// What stays.
    pub keep: ConflictKeep,
}

/// An extra of a server that was away too long: on its disk, not in the share, and nobody knows whether it was
/// deleted in the share meanwhile or made on the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReviewItem {
    /// Which endpoint.
    #[schema(value_type = String)]
    pub endpoint: EndpointId,
    /// Name of its server.
    pub server: ObjectName,
    /// Path below the endpoint's root.
    pub path: JsonPath,
    /// Kind.
    #[schema(value_type = EntryKind)]
    pub kind: Kind,
    /// Bytes.
    pub size: u64,
    /// Modification time.
    pub mtime: Time,
    /// Since when it waits.
    pub since: Time,
}

/// What becomes of extras under review.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReviewDecision {
    /// Upload them.
    Accept,
    /// Move them to the recycle area of the server.
    Discard,
}

/// Body of a decision about extras.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReviewRequest {
    /// Id of the endpoint.
    #[schema(value_type = String)]
    pub endpoint: EndpointId,
    /// What becomes of them.
    pub decision: ReviewDecision,
    /// Which ones, each with everything below it; the empty path means all. At most 1,000.
    pub paths: Vec<JsonPath>,
}

/// Answer to a decision about extras.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Reviewed {
    /// How many items were decided on, or would be with `dry_run`.
    pub items: u64,
}

/// Why one path is as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Explain {
    /// Name of the share.
    pub share: ObjectName,
    /// The path.
    pub path: JsonPath,
    /// The live entry, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<super::EntryStat>,
    /// The share's side, in a sentence.
    pub summary: String,
    /// Each endpoint's side.
    pub endpoints: Vec<ExplainEndpoint>,
    /// Last versions of what stands or stood at this path, newest first, at most 20.
    pub history: Vec<ExplainVersion>,
}

/// One endpoint's side of a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExplainEndpoint {
    /// Which endpoint.
    #[schema(value_type = String)]
    pub endpoint: EndpointId,
    /// Name of its server.
    pub server: ObjectName,
    /// Absolute path on the server.
    pub path: JsonBytes,
    /// State of the item there.
    pub state: ItemState,
    /// Why, in a sentence.
    pub reason: String,
    /// What to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// State of an item on a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ItemState {
    /// As in the share, with all its bytes.
    Synced,
    /// As in the share, its bytes only there.
    Tiered,
    /// As in the share, some of its bytes here.
    Partial,
    /// On its way.
    Pending,
    /// Failed; the reason says why.
    Failed,
    /// Left out by a filter.
    Excluded,
    /// Held by the mass-change brake.
    Held,
    /// Waits for a decision.
    Review,
    /// Neither in the share nor on the server.
    Absent,
    /// The server does not answer.
    Unknown,
}

/// One version in an item's past.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExplainVersion {
    /// Its number.
    pub version: u64,
    /// When it was committed.
    pub at: Time,
    /// Who made it: the name of a server, or `direct`.
    pub by: String,
    /// What happened: `created`, `changed`, `moved`, `deleted`, `revived`.
    pub what: String,
    /// Bytes after it; absent for a deletion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
}
