//! Health: what is in sync, what is not, why, and how long it will take.

use polder_types::{EndpointId, GroupId, ServerId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{JsonBytes, ObjectName, Time};

/// Health of everything, or of one group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// When this was put together, by the service's clock.
    pub at: Time,
    /// Version of the service.
    pub version: String,
    /// Whether every group is in sync.
    pub in_sync: bool,
    /// By name.
    pub groups: Vec<GroupStatus>,
    /// What concerns the service itself, such as a clock that jumped or an object store that fails.
    pub problems: Vec<Notice>,
}

/// Health of one group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GroupStatus {
    /// Its id.
    #[schema(value_type = String)]
    pub id: GroupId,
    /// Its name.
    pub name: ObjectName,
    /// Name of its share.
    pub share: ObjectName,
    /// Whether every endpoint of it is in sync.
    pub in_sync: bool,
    /// Live nodes of the share.
    pub nodes: u64,
    /// Bytes of live files of the share.
    pub bytes: u64,
    /// Newest sequence number of the share.
    pub head: u64,
    /// By server and path.
    pub endpoints: Vec<EndpointStatus>,
}

/// What an endpoint is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EndpointState {
    /// Nothing was heard of it yet.
    Pending,
    /// Its server was not heard of for a minute.
    Offline,
    /// Starting: comparing the disk with what was last known.
    Scanning,
    /// The first meeting of share and server.
    InitialSync,
    /// Changes are on their way.
    Syncing,
    /// Everything was seen and agreed on.
    InSync,
    /// Paused by a person.
    Paused,
    /// The mass-change brake holds changes back until somebody lets go.
    Held,
    /// Was away too long: extras wait for a decision.
    Review,
    /// Stopped because going on could lose something; the problem says what and what to do.
    Stopped,
    /// Being removed.
    Removing,
}

/// Health of one endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EndpointStatus {
    /// Its id.
    #[schema(value_type = String)]
    pub id: EndpointId,
    /// Id of its server.
    #[schema(value_type = String)]
    pub server_id: ServerId,
    /// Name of its server.
    pub server: ObjectName,
    /// Path on the server.
    pub path: JsonBytes,
    /// What it is doing.
    pub state: EndpointState,
    /// Whether it is in sync: nothing waits in either direction, no item failed, no directory is unwatched.
    pub in_sync: bool,
    /// Why it is not in sync, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When its agent last told its state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heard_at: Option<Time>,
    /// Up to which sequence number the share's changes were applied here.
    pub applied: u64,
    /// From the server to the share.
    pub upload: Flow,
    /// From the share to the server.
    pub download: Flow,
    /// Nodes that are on the server.
    pub nodes: u64,
    /// Bytes of files that are on the server's disk.
    pub local_bytes: u64,
    /// Bytes of files that are only in the share.
    pub tiered_bytes: u64,
    /// Tiering; absent while the endpoint does not tier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tiering: Option<super::TieringStatus>,
    /// Bytes in the recycle area.
    pub recycled_bytes: u64,
    /// Items that are not in sync and will not be by themselves: `polder errors` lists them.
    pub errors: u64,
    /// Changes that the mass-change brake holds.
    pub held: u64,
    /// Extras that wait for a decision.
    pub review: u64,
    /// What needs attention.
    pub problems: Vec<Notice>,
}

/// One direction of an endpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Flow {
    /// Items that still wait.
    pub items_left: u64,
    /// Bytes that still wait; of those whose size is known.
    pub bytes_left: u64,
    /// Items a second, over the last ten seconds.
    pub items_per_second: u64,
    /// Bytes a second, over the last ten seconds.
    pub bytes_per_second: u64,
    /// Bytes that went this way since the agent started, as they were on the wire: sealed, and without what was known.
    #[serde(default)]
    pub bytes_moved: u64,
    /// Estimated seconds until nothing waits; absent when nothing waits or nothing moves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds_left: Option<u64>,
}

/// Something that needs attention and is not about one item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Notice {
    /// Stable code, such as `disk_full`, `root_changed`, `watch_overflow`, `quota`, `clock_jump`.
    pub code: String,
    /// What is the matter, in a sentence.
    pub message: String,
    /// What to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Since when.
    pub since: Time,
}
