//! What REST asks of the rest of the service: the clock, the shares, the connected agents.

use async_trait::async_trait;
use polder_api::grpc::pb;
use polder_chunk::{Pack, VerifiedChunk};
use polder_metadata::control::{Acting, Control, Fault, ObjectName, Share};
use polder_types::{CaseRule, ChunkId, Cursor, EndpointId, RelPath, ServerId, ShareId, Timestamp};

use super::OpenShare;

/// Why the host could not do something.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The control store said no or failed.
    #[error(transparent)]
    Control(#[from] polder_metadata::control::ControlError),
    /// The agent is not connected to any process of the service.
    #[error("the server is not connected")]
    Offline,
    /// The agent answered, and said no.
    #[error("the server refused: {0}")]
    Refused(
        /// Its words.
        String,
    ),
    /// Something that comes back by itself is away.
    #[error("{0}")]
    Unavailable(
        /// What.
        String,
    ),
    /// Anything else.
    #[error("failed to {doing}")]
    Failed {
        /// What was being done.
        doing: &'static str,
        /// Why.
        #[source]
        source: Fault,
    },
}

/// The last report of an endpoint.
#[derive(Debug, Clone)]
pub struct Report {
    /// As the agent sent it; checked by `polder_api::grpc::convert::ensure_status`.
    pub status: pb::EndpointStatus,
    /// When it came, service time.
    pub at: Timestamp,
}

/// Something that an agent is to do or tell now. Each is answered once, with the JSON that
/// [`polder_api::grpc::answers`] defines for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Let go (true) or throw back (false) what the brake holds.
    Release {
        /// Which way.
        accept: bool,
    },
    /// Take extras into the share (true) or move them to the recycle area (false).
    Review {
        /// Which way.
        accept: bool,
        /// Which ones, with what is below; empty for all.
        paths: Vec<RelPath>,
    },
    /// Why a path is as it is.
    Explain {
        /// Below the endpoint's root.
        path: RelPath,
    },
    /// Items that are not in sync, from a place in their list.
    Problems {
        /// How many to leave out.
        offset: u32,
        /// Most to list.
        count_max: u32,
    },
}

/// The rest of the service, as REST sees it.
#[async_trait]
pub trait Host: Send + Sync + 'static {
    /// Service time.
    fn now(&self) -> Timestamp;
    /// The control plane's rows.
    fn control(&self) -> &Control;

    /// Makes a share: keys, database, row. Audited.
    async fn create_share(
        &self,
        acting: &Acting,
        name: &ObjectName,
        case: CaseRule,
        quota_bytes: Option<u64>,
    ) -> Result<Share, HostError>;
    /// Opens a share: its rows and its keys.
    async fn open_share(&self, share: ShareId) -> Result<OpenShare, HostError>;
    /// A chunk of the share, checked against its id.
    async fn chunk(&self, share: ShareId, id: ChunkId) -> Result<VerifiedChunk, HostError>;
    /// Stores a pack and registers it with its chunks; when this returns, commits may name them.
    async fn put_pack(&self, share: ShareId, pack: Pack) -> Result<(), HostError>;
    /// The share has a new head: tell the agents that follow it.
    fn committed(&self, share: ShareId, head: Cursor);

    /// Whether the volume of the service's databases is full.
    fn is_short_of_room(&self) -> bool;
    /// Whether an agent of the server is connected, to any process.
    fn is_online(&self, server: ServerId) -> bool;
    /// The last report of an endpoint, if any came.
    async fn report(&self, endpoint: EndpointId) -> Result<Option<Report>, HostError>;
    /// Something about the server's endpoints changed: tell its agent, if it is connected.
    fn assignments_changed(&self, server: ServerId);
    /// The server was revoked: end its connections.
    fn server_revoked(&self, server: ServerId);
    /// Gives an order to the endpoint's agent and waits for its answer, for ten seconds at most. The answer is the
    /// agent's JSON, `null` when it sent none.
    async fn order(
        &self,
        server: ServerId,
        endpoint: EndpointId,
        order: Order,
    ) -> Result<serde_json::Value, HostError>;

    /// Wakes a reconciler; whether there is one with this name.
    fn wake(&self, reconciler: &str) -> bool;
}
