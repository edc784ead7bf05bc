//! `polder share get`

use std::{ffi::OsString, os::unix::ffi::OsStrExt as _, path::PathBuf};

use clap::Args;
use polder_api::rest::Client;
use polder_types::Kind;

use super::AtArg;
use crate::{
    CliError, Exit, Ui,
    transfer::{Download, Summary},
    values::Target,
};

/// Copy a file or folder from a share to this machine
///
/// Modification times and permission bits are kept. A file appears under its name only when it is complete.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  polder share get -r demo:reports ./reports --at before-upgrade")]
pub struct GetArgs {
    /// The file or folder
    #[arg(value_name = "SHARE:PATH")]
    target: OsString,
    /// Where to; in a folder that exists the name is kept [default: this folder]
    #[arg(value_name = "LOCAL")]
    local: Option<PathBuf>,
    /// A folder with everything below it
    #[arg(long, short)]
    recursive: bool,
    #[command(flatten)]
    at: AtArg,
}

/// Carries out `polder share get`.
pub async fn run(args: GetArgs, client: &Client, ui: &mut Ui) -> Result<Exit, CliError> {
    let target = Target::parse(&args.target)?;
    let stat = client.stat(&target.share, &target.path, args.at.at.as_ref()).await?;
    if stat.entry.kind == Kind::Directory && !args.recursive {
        return Err(CliError::usage(format!("{target} is a folder")).hint("give -r to copy all of it"));
    }
    let mut local = args.local.unwrap_or_else(|| PathBuf::from("."));
    if local.is_dir()
        && let Some((_, name)) = target.path.split_last()
    {
        local.push(std::ffi::OsStr::from_bytes(name.as_bytes()));
    }
    let download = Download::new(client, &target.share, args.at.at, ui);
    let summary = download.run(target.path, stat.entry, local).await?;
    Summary::show(summary, "copied", ui)
}
