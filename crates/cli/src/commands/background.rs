//! `polder background`

use clap::Subcommand;
use polder_api::rest::{Client, Reconciler};

use crate::{CliError, Ui, render};

/// Background work of the service
#[derive(Debug, Subcommand)]
pub enum BackgroundCommand {
    /// What runs, when it ran last, and what it did
    #[command(after_help = "Example:\n  polder background list")]
    List,
    /// Wake a piece of background work now
    #[command(after_help = "Example:\n  polder background wake prune")]
    Wake {
        /// Its name
        #[arg(value_name = "NAME")]
        name: String,
    },
}

/// Carries out `polder background …`.
pub async fn run(command: BackgroundCommand, client: &Client, ui: &mut Ui) -> Result<(), CliError> {
    match command {
        BackgroundCommand::List => {
            let list = client.reconcilers().await?;
            ui.show(&list, |list| table(list))
        }
        BackgroundCommand::Wake { name } => {
            let woken = client.reconciler_wake(&name).await?;
            ui.show(&woken, |woken| table(std::slice::from_ref(woken)))
        }
    }
}

fn table(list: &[Reconciler]) -> String {
    let row = |work: &Reconciler| {
        vec![
            work.name.clone(),
            render::word(&work.state),
            work.runs.to_string(),
            work.failures.to_string(),
            render::maybe_time(work.ended_at),
            render::maybe_time(work.next_at),
            work.summary.clone(),
        ]
    };
    let headers = ["NAME", "STATE", ">RUNS", ">FAILED", "LAST", "NEXT", "LAST RESULT"];
    render::table(&headers, list.iter().map(row))
}
