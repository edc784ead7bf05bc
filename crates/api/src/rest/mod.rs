//! REST under `/v1`: what people, the portal and tools say to a service, and the client that says it.
//!
//! Field names are `snake_case`, sizes are in bytes, times are RFC 3339 in UTC. A name is bytes: a JSON string where
//! it is UTF-8, `{"bytes": "<base64>"}` where it is not, percent-encoded in URLs ([`JsonName`], [`encode_path`]).
//!
//! Architecture invariant: answers may gain fields and states (clients ignore what they do not know, and read an
//! unknown problem code as [`ProblemCode::Unknown`]); requests refuse unknown fields, so that a misspelt setting is
//! never silently without effect.

mod background;
pub mod client;
mod endpoint;
mod entry;
mod items;
mod maybe_null;
mod problem;
pub mod routes;
mod server;
mod share;
mod status;
mod text;
mod tiering;

pub use background::{AuditEntry, AuditOutcome, Reconciler, ReconcilerState};
pub use client::{Client, ClientConfig, ClientError};
pub use endpoint::{
    EXCLUDE_BYTES_MAX, EXCLUDES_MAX, Endpoint, EndpointChange, EndpointCreate, EndpointRemoval,
    EndpointSettings, FREE_SPACE_PERCENT_DEFAULT, InitialDownload, InitialUpload, LeftBehind, Release,
    ReleaseRequest, Released,
};
pub use entry::{
    At, Changed, DirectoryCreate, Entry, EntryKind, EntryStat, Mode, ModeError, MoveRequest, PutQuery,
    Removed, SymlinkCreate,
};
pub use items::{
    Conflict, ConflictKeep, ConflictResolve, Direction, Explain, ExplainEndpoint, ExplainVersion, ItemError,
    ItemState, ReviewDecision, ReviewItem, ReviewRequest, Reviewed,
};
pub use problem::{PAGE_ITEMS_MAX, Page, Problem, ProblemCode};
pub use server::{
    Group, GroupCreate, JoinToken, JoinTokenCreate, NewToken, Role, Server, ServerState, Token, TokenCreate,
    WhoAmI,
};
pub use share::{CaseMode, Share, ShareChange, ShareCreate, ShareState, Snapshot, SnapshotCreate};
pub use status::{EndpointState, EndpointStatus, Flow, GroupStatus, Notice, Status};
pub use text::{
    JsonBytes, JsonName, JsonPath, ObjectName, PATH_BYTES_MAX, TextError, Time, decode_path, encode_path,
    percent_decode, percent_encode,
};
pub use tiering::{
    NewFiles, ProgramAction, ProgramRecalls, ProgramRule, RULE_GLOB_BYTES_MAX, RULES_MAX, StayingFiles,
    TierAction, TierRule, TieringStatus, percent,
};

fn yes() -> bool {
    true
}
