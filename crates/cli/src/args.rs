//! What was written: the arguments as the parser gives them. Each command's own are beside it, in `commands`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::commands;

/// Open hybrid file sync and cloud tiering for Linux
#[derive(Debug, Parser)]
#[command(
    name = "polder",
    version,
    disable_help_subcommand = true,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Example:\n  polder up\n\nExit codes: 0 done, 1 failed, 2 wrong usage, 3 done in part, 4 not found, \
                  5 refused by a guard, 6 not reachable."
)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Options of every command")]
pub struct Global {
    /// Address of the service [env: POLDER_URL]
    #[arg(long, global = true, value_name = "URL")]
    pub url: Option<String>,
    /// File that holds the token [env: POLDER_TOKEN_FILE]
    #[arg(long, global = true, value_name = "FILE", id = "global_token_file")]
    pub token_file: Option<PathBuf>,
    /// The only certificate authorities to trust, PEM [env: POLDER_CA_FILE]
    #[arg(long, global = true, value_name = "FILE", id = "global_ca_file")]
    pub ca_file: Option<PathBuf>,
    /// Data as JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// No progress and no talk but warnings and errors
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// What to log on stderr, such as `info` or `polder_agent=debug` [env: RUST_LOG]
    #[arg(long, global = true, value_name = "FILTER")]
    pub log: Option<String>,
    /// How to log
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people
    #[default]
    Text,
    /// One JSON object a line
    Json,
}

/// Nouns and the few plain verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run everything on this machine, for a first look and for tests
    Up(commands::up::UpArgs),
    /// Run a storage sync service
    #[command(subcommand, after_help = "Example:\n  polder service run --data /var/lib/polder-service")]
    Service(commands::service::ServiceCommand),
    /// Store the address of a service for the other commands
    Login(commands::login::LoginArgs),
    /// Shares and the files in them
    #[command(subcommand, after_help = "Example:\n  polder share list")]
    Share(commands::share::ShareCommand),
    /// Sync groups: one share and the endpoints that follow it
    #[command(subcommand, after_help = "Example:\n  polder group list")]
    Group(commands::group::GroupCommand),
    /// Registered servers
    #[command(subcommand, after_help = "Example:\n  polder server list")]
    Server(commands::server::ServerCommand),
    /// Server endpoints: folders on registered servers that follow a share
    #[command(subcommand, after_help = "Example:\n  polder endpoint list")]
    Endpoint(commands::endpoint::EndpointCommand),
    /// Health of groups and endpoints
    Status(commands::status::StatusArgs),
    /// Every item that is not in sync, with its reason
    Errors(commands::errors::ErrorsArgs),
    /// Conflict copies
    #[command(subcommand, after_help = "Example:\n  polder conflicts list")]
    Conflicts(commands::conflicts::ConflictsCommand),
    /// Extras of a server that was away too long
    #[command(subcommand, after_help = "Example:\n  polder review list")]
    Review(commands::review::ReviewCommand),
    /// Why a file is or is not in sync
    Explain(commands::explain::ExplainArgs),
    /// Snapshots of a share
    #[command(subcommand, after_help = "Example:\n  polder snapshot list demo")]
    Snapshot(commands::snapshot::SnapshotCommand),
    /// Background work of the service
    #[command(subcommand, after_help = "Example:\n  polder background list")]
    Background(commands::background::BackgroundCommand),
    /// The audit log
    Audit(commands::audit::AuditArgs),
    /// The agent of this server
    #[command(subcommand, after_help = "Example:\n  polder agent run")]
    Agent(commands::agent::AgentCommand),
    /// Check a machine and a folder before deploying
    Evaluate(commands::evaluate::EvaluateArgs),
    /// The disk space that a tiered endpoint of a folder needs
    Estimate(commands::estimate::EstimateArgs),
    /// Show a share as a folder: names first, bytes on demand
    Mount(commands::mount::MountArgs),
    /// End what `polder mount` began
    Unmount(commands::mount::UnmountArgs),
    /// Free the bytes of files on this server
    Tier(commands::tier::TierArgs),
    /// Bring the bytes of tiered files back to this server
    Recall(commands::tier::RecallArgs),
    /// Always keep a file or folder on this server
    Pin(commands::pin::PinArgs),
    /// Let a file or folder be tiered again
    Unpin(commands::pin::UnpinArgs),
    /// Pause sync on this server
    Pause(commands::pause::PauseArgs),
    /// Go on after a pause
    Resume(commands::pause::ResumeArgs),
    /// The network between this server and the service
    #[command(subcommand, after_help = "Example:\n  polder network test")]
    Network(commands::network::NetworkCommand),
    /// Write completions for a shell
    Completions(commands::completions::CompletionsArgs),
    /// Write man pages
    Man(commands::man::ManArgs),
}

/// The state folder of this server's agent.
#[derive(Debug, Clone, Args)]
pub struct StateDir {
    /// The agent's state folder
    #[arg(long = "state", value_name = "DIR", default_value = "/var/lib/polder")]
    pub state: PathBuf,
}
