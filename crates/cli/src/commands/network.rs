//! `polder network`

use clap::{Args, Subcommand};
use polder_api::control::{Answer, NetworkCheck, Request, ask_each};

use crate::{CliError, Exit, Ui, args::StateDir, render};

/// The network between this server and the service
#[derive(Debug, Subcommand)]
pub enum NetworkCommand {
    /// Try every way to the service
    Test(TestArgs),
}

/// Try every way to the service
///
/// The agent of this server tries them with its own certificate, one after the other. Exit code 1 if a step fails.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  polder network test")]
pub struct TestArgs {
    #[command(flatten)]
    state: StateDir,
}

/// Carries out `polder network …`.
pub async fn run(command: NetworkCommand, ui: &mut Ui) -> Result<Exit, CliError> {
    let NetworkCommand::Test(args) = command;
    let mut checks = Vec::new();
    ask_each(&args.state.state, &Request::NetworkTest, |answer| {
        if let Answer::Network(check) = answer {
            checks.push(check);
        }
    })
    .await?;
    ui.show(&checks, |checks| render::table(&["STEP", "OK", ">TIME", "DETAIL"], checks.iter().map(row)))?;
    for check in checks.iter().filter(|check| !check.ok) {
        if let Some(hint) = &check.hint {
            ui.say(format_args!("hint: {hint}"));
        }
    }
    Ok(if checks.iter().all(|check| check.ok) { Exit::Done } else { Exit::Failed })
}

fn row(check: &NetworkCheck) -> Vec<String> {
    let millis = format!("{:.1} ms", check.micros as f64 / 1000.0);
    vec![check.step.clone(), render::yes(check.ok).to_owned(), millis, check.detail.clone()]
}
