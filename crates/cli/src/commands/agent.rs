//! `polder agent`

use crate::{
    AgentRegister, AgentRun, CliError, Exit, Host, HostRequest, Ui,
    args::{Global, StateDir},
};
use clap::{Args, Subcommand};
use polder_api::control::{Answer, Request, ask};

use super::{block_on, pause::show_info};
/// The agent of this server
#[derive(Debug, Subcommand)]
pub enum AgentCommand {
    /// Register this server with a service
    Register(RegisterArgs),
    /// Run the agent
    Run(RunArgs),
    /// Run the worker, as its holder starts it
    #[command(hide = true)]
    Worker(RunArgs),
    /// Replace the running agent by the executable that is on disk now
    Reload(ReloadArgs),
}

/// Register this server with a service
///
/// Makes the key here and gets a certificate with the join token of --token-file (`-` is standard input).
/// `polder server token` makes such a token.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  polder agent register --service https://files.example.org:8443 --token-file join.token --ca-file ca.pem"
)]
pub struct RegisterArgs {
    /// Address of the service
    #[arg(long, value_name = "URL")]
    service: String,
    #[command(flatten)]
    state: StateDir,
    /// Name of this server [default: the host's name]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
}

/// Run the agent
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  polder agent run --state /var/lib/polder")]
pub struct RunArgs {
    #[command(flatten)]
    state: StateDir,
}

/// Replace the running agent by the executable that is on disk now
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  polder agent reload")]
pub struct ReloadArgs {
    #[command(flatten)]
    state: StateDir,
}

/// Carries out `polder agent …`.
pub fn run(command: AgentCommand, global: &Global, ui: &mut Ui, host: &dyn Host) -> Result<Exit, CliError> {
    match command {
        AgentCommand::Register(args) => {
            // Neither the administrator's token nor its environment variable has any business here.
            let token_file = global.token_file.clone().ok_or_else(|| {
                CliError::usage("no join token is given")
                    .hint("give --token-file with a token of `polder server token`; `-` is standard input")
            })?;
            let request = AgentRegister {
                service: args.service,
                token_file,
                state: args.state.state,
                name: args.name,
                ca_file: global.ca_file.clone(),
            };
            host.carry_out(HostRequest::AgentRegister(request), ui)
        }
        AgentCommand::Run(args) => host.carry_out(HostRequest::AgentRun(args.request()), ui),
        AgentCommand::Worker(args) => host.carry_out(HostRequest::AgentWorker(args.request()), ui),
        AgentCommand::Reload(args) => {
            let state = &args.state.state;
            match block_on(async { Ok(ask(state, &Request::Reload).await?) })? {
                Answer::Info(info) => {
                    ui.say("the agent starts again");
                    show_info(&info, ui)?;
                    Ok(Exit::Done)
                }
                _ => Err(unexpected()),
            }
        }
    }
}

impl RunArgs {
    fn request(self) -> AgentRun {
        AgentRun { state: self.state.state }
    }
}

/// An answer to another question.
pub fn unexpected() -> CliError {
    CliError::new("the agent sent an answer that this version does not understand")
}
