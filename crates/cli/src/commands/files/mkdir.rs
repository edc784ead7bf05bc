//! `polder share mkdir`

use std::ffi::OsString;

use clap::Args;
use polder_api::rest::{Client, DirectoryCreate, Mode, ModeError};

use crate::{CliError, Ui, values::Target};

/// Make a folder
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  polder share mkdir -p demo:reports/2026")]
pub struct MkdirArgs {
    /// The folder
    #[arg(value_name = "SHARE:PATH")]
    target: OsString,
    /// Make missing folders on the way, and take one that is there already
    #[arg(long, short)]
    parents: bool,
    /// Permission bits in octal [default: 0755]
    #[arg(long, short, value_name = "MODE", value_parser = parse_mode)]
    mode: Option<Mode>,
    /// Only check whether it could be made
    #[arg(long)]
    dry_run: bool,
}

fn parse_mode(text: &str) -> Result<Mode, ModeError> {
    text.parse()
}

/// Carries out `polder share mkdir`.
pub async fn run(args: MkdirArgs, client: &Client, ui: &mut Ui) -> Result<(), CliError> {
    let target = Target::parse(&args.target)?;
    let request = DirectoryCreate { mode: args.mode, mtime: None, parents: args.parents };
    let changed = client.mkdir(&target.share, &target.path, &request, args.dry_run).await?;
    ui.show(&changed, |_| String::new())
}
