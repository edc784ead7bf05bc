//! `polder review`

use std::{ffi::OsString, os::unix::ffi::OsStrExt as _};

use clap::{Args, Subcommand};
use polder_api::rest::{Client, JsonPath, ReviewDecision, ReviewItem, ReviewRequest};
use polder_types::RelPath;

use super::{
    endpoint::{label, resolve},
    pages::{self, Limit},
};
use crate::{CliError, Ui, confirm::Confirm, render};

/// Extras of a server that was away too long
///
/// They are on its disk and not in the share, and nobody can know whether they were deleted in the share meanwhile
/// or made on the server. Until decided on they stay where they are.
#[derive(Debug, Subcommand)]
pub enum ReviewCommand {
    /// What waits for a decision
    List(ListArgs),
    /// Upload extras
    #[command(after_help = "Example:\n  polder review accept --endpoint site-a reports/2026")]
    Accept(DecideArgs),
    /// Move extras to the recycle area of their server
    #[command(after_help = "Example:\n  polder review discard --endpoint site-a --all")]
    Discard(DecideArgs),
}

/// What waits for a decision
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  polder review list --endpoint site-a")]
pub struct ListArgs {
    /// Only of this endpoint: its id, SERVER:PATH, GROUP/SERVER, or SERVER
    #[arg(long, value_name = "E")]
    endpoint: Option<String>,
    #[command(flatten)]
    limit: Limit,
}

/// Decide about extras
#[derive(Debug, Args)]
pub struct DecideArgs {
    /// Of this endpoint: its id, SERVER:PATH, GROUP/SERVER, or SERVER
    #[arg(long, value_name = "E")]
    endpoint: String,
    /// All that waits there
    #[arg(long, conflicts_with = "paths")]
    all: bool,
    /// Paths below the endpoint's root, each with everything below it
    #[arg(value_name = "PATH", required_unless_present = "all")]
    paths: Vec<OsString>,
    #[command(flatten)]
    confirm: Confirm,
}

/// Carries out `polder review …`.
pub async fn run(command: ReviewCommand, client: &Client, ui: &mut Ui) -> Result<(), CliError> {
    match command {
        ReviewCommand::List(args) => list(args, client, ui).await,
        ReviewCommand::Accept(args) => decide(args, ReviewDecision::Accept, client, ui).await,
        ReviewCommand::Discard(args) => decide(args, ReviewDecision::Discard, client, ui).await,
    }
}

async fn list(args: ListArgs, client: &Client, ui: &mut Ui) -> Result<(), CliError> {
    let endpoint = match &args.endpoint {
        Some(text) => Some(resolve(text, client).await?.id),
        None => None,
    };
    let headers = ["SERVER", "PATH", "KIND", ">SIZE", "MODIFIED", "SINCE"];
    let shown = pages::show(ui, &args.limit, &headers, row, |after| async move {
        client.review(endpoint, after.as_deref()).await
    })
    .await?;
    if shown == 0 {
        ui.say("nothing waits for a decision");
    }
    Ok(())
}

async fn decide(
    args: DecideArgs,
    decision: ReviewDecision,
    client: &Client,
    ui: &mut Ui,
) -> Result<(), CliError> {
    let paths = if args.all {
        vec![JsonPath::default()]
    } else {
        let parse = |path: &OsString| {
            RelPath::parse(path.as_bytes()).map(JsonPath).map_err(|error| CliError::usage(error.to_string()))
        };
        args.paths.iter().map(parse).collect::<Result<_, _>>()?
    };
    let endpoint = resolve(&args.endpoint, client).await?;
    let name = label(&endpoint);
    let (done, would) = match decision {
        ReviewDecision::Accept => ("accepted", "accept"),
        ReviewDecision::Discard => {
            args.confirm.ask(ui, &format!("removes extras from {name}"), endpoint.server.as_str())?;
            ("discarded", "discard")
        }
    };
    let request = ReviewRequest { endpoint: endpoint.id, decision, paths };
    let answer = client.review_decide(&request, args.confirm.dry_run).await?;
    let verb = args.confirm.done(done, would);
    ui.show(&answer, |answer| format!("{verb} {} of {name}", render::counted(answer.items, "item")))
}

fn row(item: &ReviewItem) -> Vec<String> {
    vec![
        item.server.to_string(),
        item.path.to_string(),
        render::word(&item.kind),
        render::bytes(item.size),
        render::time(item.mtime),
        render::time(item.since),
    ]
}
