//! Sync groups, registered servers and join tokens.

use polder_types::{EndpointId, GroupId, ServerId, ShareId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{ObjectName, Time};

/// A sync group: one share and the server endpoints that follow it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Group {
    /// Its id, 32 hexadecimal digits.
    #[schema(value_type = String)]
    pub id: GroupId,
    /// Its name, unique.
    pub name: ObjectName,
    /// Name of its share.
    pub share: ObjectName,
    /// Id of its share.
    #[schema(value_type = String)]
    pub share_id: ShareId,
    /// Its server endpoints.
    #[schema(value_type = Vec<String>)]
    pub endpoints: Vec<EndpointId>,
    /// When it was created.
    pub created_at: Time,
}

/// Body of a group's creation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GroupCreate {
    /// Its name.
    pub name: ObjectName,
    /// Name or id of its share. A share has one group at most.
    pub share: String,
}

/// State of a registered server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ServerState {
    /// Its agent was heard of within the last minute.
    Online,
    /// Its agent was not heard of for a minute.
    Offline,
    /// Two agents were seen with its identity: both are stopped until one registers again.
    Cloned,
    /// Its certificate is not accepted any more.
    Revoked,
}

/// A registered server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Server {
    /// Its id, 32 hexadecimal digits.
    #[schema(value_type = String)]
    pub id: ServerId,
    /// Its name: part of the names of its conflict copies.
    pub name: ObjectName,
    /// State.
    pub state: ServerState,
    /// Version of its agent; absent until it was first heard of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// When its agent was last heard of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heartbeat_at: Option<Time>,
    /// When it was registered.
    pub registered_at: Time,
    /// When its certificate ends; agents renew by themselves at two thirds.
    pub certificate_expires_at: Time,
    /// Its server endpoints.
    #[schema(value_type = Vec<String>)]
    pub endpoints: Vec<EndpointId>,
    /// Files that are tiered there, as its agent said last; not in lists, absent where nothing was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tiered_files: Option<u64>,
    /// Their bytes that are in the share alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tiered_bytes: Option<u64>,
}

/// Body of a join token's creation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JoinTokenCreate {
    /// How long it is good for, in seconds: 1 to 86,400; absent: 3,600.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_seconds: Option<u32>,
    /// The only name under which a server may register with it; absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<ObjectName>,
}

/// A join token: registers one server, once. The service keeps only its hash, so it is shown here and never again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JoinToken {
    /// The secret.
    pub token: String,
    /// When it ends.
    pub expires_at: Time,
}

/// What a token may do: each role may do all that the one after it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Everything.
    Owner,
    /// Everything but deleting shares and revoking or registering servers.
    Operator,
    /// Looking, and reading files.
    Reader,
}

/// A token of a person or a tool. Its secret is known to nobody but its bearer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Token {
    /// Its name, unique; the audit log shows it.
    pub name: ObjectName,
    /// What it may do.
    pub role: Role,
    /// When it was made.
    pub created_at: Time,
    /// When it ends; absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Time>,
}

/// Body of a token's creation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenCreate {
    /// Its name.
    pub name: ObjectName,
    /// What it may do.
    pub role: Role,
    /// How long it is good for, in seconds: 1 to 315,360,000 (ten years); absent: for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_seconds: Option<u32>,
}

/// A token that was just made. The service keeps only its hash, so it is shown here and never again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NewToken {
    /// The secret.
    pub token: String,
    /// Its name.
    pub name: ObjectName,
    /// What it may do.
    pub role: Role,
    /// When it ends; absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Time>,
}

/// Who the bearer of the token is, and with whom it talks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WhoAmI {
    /// Name of the token.
    pub name: String,
    /// Its role.
    pub role: Role,
    /// Version of the service.
    pub version: String,
    /// The service's time.
    pub now: Time,
}
