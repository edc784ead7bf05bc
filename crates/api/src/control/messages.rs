//! The messages themselves.

use polder_types::{EndpointId, ServerId};
use serde::{Deserialize, Serialize};

use super::tiering::{FileChoice, FileRow, FileTiering, Moved, PinRow};
use crate::rest::{EndpointStatus, ItemState, JsonBytes, JsonPath, ObjectName, Problem, Time};

/// What the command line asks of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Who are you and how are you? Answer: [`Answer::Info`].
    Info,
    /// Health of this agent's endpoints. Answer: [`Answer::Status`].
    Status,
    /// Stop sending and applying, until `resume`, also after a restart. Observing goes on. Answer: [`Answer::Info`].
    Pause {
        /// Only this endpoint; absent: all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        endpoint: Option<EndpointId>,
    },
    /// Undo `pause`. Answer: [`Answer::Info`].
    Resume {
        /// Only this endpoint; absent: all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        endpoint: Option<EndpointId>,
    },
    /// Start again with the executable that is on disk now, and keep everything. Answer: [`Answer::Info`] of the old
    /// one, before it goes.
    Reload,
    /// Try the ways to the service, one after the other. Answers: [`Answer::Network`] a step, then [`Answer::Done`].
    NetworkTest,
    /// Why is this path as it is here? Answer: [`Answer::Explain`].
    Explain {
        /// Absolute path on this server.
        path: JsonBytes,
    },
    /// Give up the bytes of files now. Answers: [`Answer::Moved`] every now and then and at the end, [`Answer::File`] for each that
    /// stays, then [`Answer::Done`].
    Tier {
        /// Which.
        choice: FileChoice,
    },
    /// Bring the bytes of files back. Answers as to [`Request::Tier`].
    Recall {
        /// Which.
        choice: FileChoice,
        /// So many at once, 1 to [`super::THREADS_MAX`].
        threads: u32,
    },
    /// Files in the order in which they would be tiered, with why each of the others stays. Answers: [`Answer::File`] each, then
    /// [`Answer::Done`].
    TierList {
        /// Which; no path: of all endpoints that tier.
        choice: FileChoice,
        /// At most so many.
        count_max: u64,
    },
    /// Tiered files in the order in which they would be recalled. Answers as to [`Request::TierList`].
    RecallList {
        /// Which; no path: of all endpoints that tier.
        choice: FileChoice,
        /// At most so many.
        count_max: u64,
    },
    /// Keep a file or folder on this server, or no longer. Answer: [`Answer::Pinned`].
    Pin {
        /// Absolute path on this server.
        path: JsonBytes,
        /// Keep it.
        pinned: bool,
    },
    /// When the endpoint at this path is removed, recall nothing: take the mount away, and remove what the share verifiably holds. Answer:
    /// [`Answer::Done`], once the wish is durable.
    Unmount {
        /// Absolute path of its root.
        path: JsonBytes,
        /// Else a wish of before is taken back.
        wished: bool,
    },
    /// What is kept. Answers: [`Answer::Pin`] each, then [`Answer::Done`].
    Pins,
}

/// What an agent answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// To [`Request::Info`] and every request that changes the agent.
    Info(AgentInfo),
    /// To [`Request::Status`].
    Status {
        /// By path.
        endpoints: Vec<EndpointStatus>,
    },
    /// One step of [`Request::NetworkTest`].
    Network(NetworkCheck),
    /// To [`Request::Explain`].
    Explain(LocalExplain),
    /// A file in a list, or one that stays as it is.
    File(FileRow),
    /// How far a command is.
    Moved(Moved),
    /// To [`Request::Pin`].
    Pinned {
        /// Whether something was changed; else it was so already.
        changed: bool,
    },
    /// To [`Request::Pins`].
    Pin(PinRow),
    /// The end of several answers.
    Done,
    /// Instead of any answer: it failed.
    Problem(Problem),
}

/// An agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentInfo {
    /// Its version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// When it started.
    pub started_at: Time,
    /// Id of this server.
    pub server: ServerId,
    /// Name of this server.
    pub name: ObjectName,
    /// The service that it is registered with.
    pub service: String,
    /// Whether the service answers its calls.
    pub connected: bool,
    /// When its certificate ends.
    pub certificate_expires_at: Time,
    /// Its endpoints.
    pub endpoints: Vec<AgentEndpoint>,
}

/// An endpoint of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentEndpoint {
    /// Its id.
    pub id: EndpointId,
    /// Name of the share.
    pub share: ObjectName,
    /// Absolute path of its root.
    pub path: JsonBytes,
    /// Whether a person paused it.
    pub paused: bool,
    /// What notices changes: `fanotify`, `inotify` or `scan`.
    pub watcher: String,
}

/// One step of a network test.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkCheck {
    /// What was tried, such as `name`, `connect`, `tls`, `certificate`, `clock`, `upload`, `download`.
    pub step: String,
    /// Whether it went well.
    pub ok: bool,
    /// What was seen, in a sentence.
    pub detail: String,
    /// What to do if it did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// How long it took, in microseconds.
    pub micros: u64,
}

/// This server's side of a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalExplain {
    /// Which endpoint.
    pub endpoint: EndpointId,
    /// Name of the share.
    pub share: ObjectName,
    /// Path below the endpoint's root.
    pub path: JsonPath,
    /// State of the item here.
    pub state: ItemState,
    /// Why, in a sentence.
    pub reason: String,
    /// What to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The version that this server and the share last agreed on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub synced_version: Option<u64>,
    /// Of a file of an endpoint that tiers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tiering: Option<FileTiering>,
}
