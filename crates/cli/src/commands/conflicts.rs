//! `polder conflicts`

use std::ffi::OsString;

use clap::{ArgGroup, Args, Subcommand};
use polder_api::rest::{Client, Conflict, ConflictKeep, ConflictResolve, JsonPath};

use super::pages::{self, Limit};
use crate::{CliError, Ui, confirm::Confirm, render, values::Target};

/// Conflict copies
#[derive(Debug, Subcommand)]
pub enum ConflictsCommand {
    /// Conflict copies that somebody should look at, newest first
    List(ListArgs),
    /// End a conflict
    Resolve(ResolveArgs),
}

/// Conflict copies that somebody should look at, newest first
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  polder conflicts list --share demo")]
pub struct ListArgs {
    /// Only of this share
    #[arg(long, value_name = "SHARE")]
    share: Option<String>,
    #[command(flatten)]
    limit: Limit,
}

/// End a conflict
///
/// What goes stays in the history of the share.
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("keep").required(true),
    after_help = "Example:\n  polder conflicts resolve demo:report-site-a.docx --keep-original"
)]
pub struct ResolveArgs {
    /// The conflict copy
    #[arg(value_name = "SHARE:PATH")]
    copy: OsString,
    /// Remove the copy
    #[arg(long, group = "keep")]
    keep_original: bool,
    /// Put the copy in the place of the original
    #[arg(long, group = "keep")]
    keep_copy: bool,
    /// Keep both and do not list the copy any more
    #[arg(long, group = "keep")]
    keep_both: bool,
    #[command(flatten)]
    confirm: Confirm,
}

/// Carries out `polder conflicts …`.
pub async fn run(command: ConflictsCommand, client: &Client, ui: &mut Ui) -> Result<(), CliError> {
    match command {
        ConflictsCommand::List(args) => {
            let share = args.share.as_deref();
            let headers = ["SHARE", "PATH", "SERVER", ">SIZE", "MODIFIED", "MADE", "ORIGINAL"];
            let shown = pages::show(ui, &args.limit, &headers, row, |after| async move {
                client.conflicts(share, after.as_deref()).await
            })
            .await?;
            if shown == 0 {
                ui.say("no conflicts");
            }
            Ok(())
        }
        ConflictsCommand::Resolve(args) => resolve(args, client, ui).await,
    }
}

async fn resolve(args: ResolveArgs, client: &Client, ui: &mut Ui) -> Result<(), CliError> {
    let target = Target::parse(&args.copy)?;
    let keep = match (args.keep_original, args.keep_copy) {
        (true, _) => ConflictKeep::Original,
        (_, true) => ConflictKeep::Copy,
        _ => ConflictKeep::Both,
    };
    match keep {
        ConflictKeep::Original => args.confirm.ask(ui, "removes the conflict copy", &target.to_string())?,
        ConflictKeep::Copy => args.confirm.ask(ui, "replaces the original", &target.to_string())?,
        ConflictKeep::Both => (),
    }
    let request = ConflictResolve { share: target.share.clone(), path: JsonPath(target.path.clone()), keep };
    let conflict = client.conflict_resolve(&request, args.confirm.dry_run).await?;
    ui.say(format_args!("{} the conflict of {target}", args.confirm.done("ended", "end")));
    ui.show(&conflict, |_| String::new())
}

fn row(conflict: &Conflict) -> Vec<String> {
    vec![
        conflict.share.to_string(),
        conflict.path.to_string(),
        conflict.server.clone(),
        render::bytes(conflict.size),
        render::time(conflict.mtime),
        render::time(conflict.made_at),
        conflict.original.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
    ]
}
