//! `polder share cat`

use std::ffi::OsString;

use clap::Args;
use polder_api::rest::Client;

use super::AtArg;
use crate::{CliError, Ui, values::Target};

/// Write a file's bytes to standard output
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  polder share cat demo:notes.txt --at before-upgrade")]
pub struct CatArgs {
    /// The file
    #[arg(value_name = "SHARE:PATH")]
    target: OsString,
    #[command(flatten)]
    at: AtArg,
}

/// Carries out `polder share cat`.
pub async fn run(args: CatArgs, client: &Client, ui: &mut Ui) -> Result<(), CliError> {
    let target = Target::parse(&args.target)?;
    let mut content = client.content(&target.share, &target.path, args.at.at.as_ref(), None).await?;
    while let Some(part) = content.next().await? {
        ui.bytes(&part)?;
    }
    Ok(())
}
