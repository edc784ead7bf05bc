//! `polder errors`

use clap::Args;
use polder_api::rest::{Client, ItemError};

use super::{
    endpoint::resolve,
    pages::{self, Limit},
};
use crate::{CliError, Ui, render};

/// Every item that is not in sync, with its reason
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  polder errors --endpoint site-a:/srv/projects")]
pub struct ErrorsArgs {
    /// Only of this endpoint: its id, SERVER:PATH, GROUP/SERVER, or SERVER
    #[arg(long, value_name = "E")]
    endpoint: Option<String>,
    #[command(flatten)]
    limit: Limit,
}

/// Carries out `polder errors`.
pub async fn run(args: ErrorsArgs, client: &Client, ui: &mut Ui) -> Result<(), CliError> {
    let endpoint = match &args.endpoint {
        Some(text) => Some(resolve(text, client).await?.id),
        None => None,
    };
    let headers = ["SERVER", "PATH", "WAY", "CODE", "SINCE", ">TRIES", "REASON", "HINT"];
    let shown = pages::show(ui, &args.limit, &headers, row, |after| async move {
        client.errors(endpoint, after.as_deref()).await
    })
    .await?;
    if shown == 0 {
        ui.say("no errors");
    }
    Ok(())
}

fn row(error: &ItemError) -> Vec<String> {
    vec![
        error.server.to_string(),
        error.path.to_string(),
        render::word(&error.direction),
        error.code.clone(),
        render::time(error.since),
        error.attempts.to_string(),
        error.reason.clone(),
        error.hint.clone().unwrap_or_default(),
    ]
}
