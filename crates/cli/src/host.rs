//! What the command line cannot do by itself: requests to the binary that composes everything.

use std::{net::SocketAddr, path::PathBuf};

use polder_api::control::AgentInfo;

use crate::{CliError, Exit, Settings, Ui};

/// A request to the binary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostRequest {
    /// Run a service process.
    ServiceRun(ServiceRun),
    /// Register this machine with a service.
    AgentRegister(AgentRegister),
    /// Run the agent: the holder that starts the worker.
    AgentRun(AgentRun),
    /// Run the agent's worker, as its holder starts it.
    AgentWorker(AgentRun),
    /// Check a machine and a data set before deploying.
    Evaluate(Evaluate),
    /// Tell the disk space that a folder needs as a tiered endpoint.
    Estimate(Estimate),
    /// Make whole files of an endpoint's placeholders that is gone.
    RecallManifest(RecallManifest),
    /// Show a share as a folder.
    Mount(Mount),
    /// Run everything on this machine.
    Up(Up),
}

/// Carries out [`HostRequest`]s.
pub trait Host {
    /// Carries out a request, until it ends. Called outside of any asynchronous runtime.
    fn carry_out(&self, request: HostRequest, ui: &mut Ui) -> Result<Exit, CliError>;
}

/// `polder service run`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceRun {
    /// Folder of the service's data.
    pub data: PathBuf,
    /// Address to listen on; absent: the configuration's or the default.
    pub listen: Option<SocketAddr>,
    /// Where metadata is kept.
    pub metadata: Option<String>,
    /// Where packs are kept.
    pub objects: Option<String>,
    /// Address under which agents and people reach it.
    pub public_url: Option<String>,
    /// Configuration file.
    pub config: Option<PathBuf>,
}

/// `polder agent register`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentRegister {
    /// Address of the service.
    pub service: String,
    /// File with the join token; `-` is standard input.
    pub token_file: PathBuf,
    /// The agent's state folder.
    pub state: PathBuf,
    /// Name of this server; absent: the host's name.
    pub name: Option<String>,
    /// The only certificate authorities to trust for the first contact.
    pub ca_file: Option<PathBuf>,
}

/// `polder agent run` and `worker`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentRun {
    /// The agent's state folder.
    pub state: PathBuf,
}

/// `polder evaluate`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evaluate {
    /// Folder that is to become an endpoint.
    pub path: PathBuf,
    /// Rows as comma-separated values instead of a table.
    pub csv: bool,
    /// Leave out the checks of the machine.
    pub skip_system: bool,
    /// Leave out the checks of the data set.
    pub skip_dataset: bool,
}

/// `polder estimate`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Estimate {
    /// Folder that is to become an endpoint.
    pub path: PathBuf,
    /// Share of the volume to keep free, 1 to 99.
    pub free_space_percent: u8,
    /// Rows as comma-separated values instead of a table.
    pub csv: bool,
}

/// `polder recall --from-manifest`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecallManifest {
    /// The list.
    pub manifest: PathBuf,
    /// Where files are written that have no placeholder any more.
    pub into: Option<PathBuf>,
    /// Files at once.
    pub threads: u32,
    /// How the service is reached.
    pub settings: Settings,
}

/// `polder mount`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Name or id of the share.
    pub share: String,
    /// The folder: absolute, without symlinks.
    pub dir: PathBuf,
    /// The sync group; absent: the share's.
    pub group: Option<String>,
    /// Most bytes of local content; absent: the default of a new one.
    pub cache_quota_bytes: Option<u64>,
    /// Only check.
    pub dry_run: bool,
    /// How the service is reached.
    pub settings: Settings,
    /// The agent's state folder.
    pub state: PathBuf,
    /// Who the agent said it is.
    pub agent: Box<AgentInfo>,
}

/// `polder up`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Up {
    /// Folder for everything.
    pub dir: PathBuf,
    /// Address of the service; absent: the one of the last time, else the default.
    pub listen: Option<SocketAddr>,
    /// Run the demonstration once and end.
    pub once: bool,
}
