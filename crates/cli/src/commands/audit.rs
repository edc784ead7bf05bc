//! `polder audit`

use clap::Args;
use polder_api::rest::{AuditEntry, Client};

use super::pages::{self, Limit};
use crate::{CliError, Ui, render};

/// The audit log, newest first
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  polder audit --limit 20")]
pub struct AuditArgs {
    #[command(flatten)]
    limit: Limit,
}

/// Carries out `polder audit`.
pub async fn run(args: AuditArgs, client: &Client, ui: &mut Ui) -> Result<(), CliError> {
    let headers = ["AT", "WHO", "ACTION", "OBJECT", "OUTCOME", "DETAIL"];
    let page = |after: Option<String>| async move { client.audit(after.as_deref()).await };
    pages::show(ui, &args.limit, &headers, row, page).await?;
    Ok(())
}

fn row(entry: &AuditEntry) -> Vec<String> {
    vec![
        render::time(entry.at),
        entry.actor.clone(),
        entry.action.clone(),
        entry.object.clone(),
        render::word(&entry.outcome),
        entry.detail.clone().unwrap_or_default(),
    ]
}
