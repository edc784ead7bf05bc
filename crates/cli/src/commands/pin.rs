//! `polder pin` and `polder unpin`

use std::ffi::OsString;

use clap::Args;
use polder_api::control::{Answer, PinRow, Request, ask, ask_each};

use super::{agent::unexpected, tier::absolute};
use crate::{CliError, Ui, args::StateDir, render};

/// Always keep a file or folder on this server
///
/// What is pinned is never tiered, with all below it, and comes back if it was. A pin is of the item, not of its name: it follows renames.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  polder pin /srv/projects/current\n  polder pin --list")]
pub struct PinArgs {
    /// File or folder
    #[arg(value_name = "PATH", required_unless_present = "list")]
    path: Option<OsString>,
    /// Show what is pinned
    #[arg(long, conflicts_with = "path")]
    list: bool,
    #[command(flatten)]
    state: StateDir,
}

/// Let a file or folder be tiered again
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  polder unpin /srv/projects/current")]
pub struct UnpinArgs {
    /// File or folder
    #[arg(value_name = "PATH")]
    path: OsString,
    #[command(flatten)]
    state: StateDir,
}

/// Carries out `polder pin`.
pub async fn pin(args: PinArgs, ui: &mut Ui) -> Result<(), CliError> {
    match &args.path {
        Some(path) => set(path, true, &args.state, ui).await,
        None => list(&args.state, ui).await,
    }
}

/// Carries out `polder unpin`.
pub async fn unpin(args: UnpinArgs, ui: &mut Ui) -> Result<(), CliError> {
    set(&args.path, false, &args.state, ui).await
}

async fn set(path: &OsString, pinned: bool, state: &StateDir, ui: &mut Ui) -> Result<(), CliError> {
    let request = Request::Pin { path: absolute(path)?, pinned };
    let Answer::Pinned { changed } = ask(&state.state, &request).await? else {
        return Err(unexpected());
    };
    ui.say(match (pinned, changed) {
        (true, true) => "pinned; it stays on this server",
        (true, false) => "it was pinned already",
        (false, true) => "unpinned; it may be tiered",
        (false, false) => "it was not pinned; a pin of a folder above it is removed there",
    });
    Ok(())
}

async fn list(state: &StateDir, ui: &mut Ui) -> Result<(), CliError> {
    let mut pins: Vec<PinRow> = Vec::new();
    ask_each(&state.state, &Request::Pins, |answer| {
        if let Answer::Pin(pin) = answer {
            pins.push(pin);
        }
    })
    .await?;
    ui.show(&pins, |pins| render::table(&["PATH"], pins.iter().map(|pin| vec![pin.path.to_string()])))?;
    if pins.is_empty() {
        ui.say("nothing is pinned");
    }
    Ok(())
}
