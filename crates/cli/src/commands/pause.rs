//! `polder pause` and `polder resume`

use clap::Args;
use polder_api::control::{AgentInfo, Answer, Request, ask};
use polder_types::EndpointId;

use super::agent::unexpected;
use crate::{CliError, Ui, args::StateDir, render};

/// Pause sync on this server
///
/// Nothing is sent or applied until `polder resume`, also after a restart. Changes are still noticed.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  polder pause")]
pub struct PauseArgs {
    #[command(flatten)]
    which: Which,
}

/// Go on after a pause
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  polder resume")]
pub struct ResumeArgs {
    #[command(flatten)]
    which: Which,
}

#[derive(Debug, Args)]
struct Which {
    /// Only this endpoint, by its id
    #[arg(long, value_name = "ID")]
    endpoint: Option<EndpointId>,
    #[command(flatten)]
    state: StateDir,
}

/// Carries out `polder pause`.
pub async fn pause(args: PauseArgs, ui: &mut Ui) -> Result<(), CliError> {
    change(&args.which, &Request::Pause { endpoint: args.which.endpoint }, ui).await
}

/// Carries out `polder resume`.
pub async fn resume(args: ResumeArgs, ui: &mut Ui) -> Result<(), CliError> {
    change(&args.which, &Request::Resume { endpoint: args.which.endpoint }, ui).await
}

async fn change(which: &Which, request: &Request, ui: &mut Ui) -> Result<(), CliError> {
    match ask(&which.state.state, request).await? {
        Answer::Info(info) => show_info(&info, ui),
        _ => Err(unexpected()),
    }
}

/// Shows an agent and its endpoints.
pub fn show_info(info: &AgentInfo, ui: &mut Ui) -> Result<(), CliError> {
    ui.show(info, |info| {
        render::table(
            &["SHARE", "PATH", "PAUSED", "WATCHER", "ID"],
            info.endpoints.iter().map(|endpoint| {
                vec![
                    endpoint.share.to_string(),
                    endpoint.path.to_string(),
                    render::yes(endpoint.paused).to_owned(),
                    endpoint.watcher.clone(),
                    endpoint.id.to_string(),
                ]
            }),
        )
    })
}
