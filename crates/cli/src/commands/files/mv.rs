//! `polder share mv`

use std::ffi::OsString;

use clap::Args;
use polder_api::rest::{Client, JsonPath, MoveRequest};
use polder_types::Kind;

use crate::{CliError, Ui, values::Target};

/// Move or rename a file or folder inside its share
///
/// One row changes, whatever lies below a folder. If SHARE:TO is a folder, the source goes into it.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  polder share mv demo:draft.odt demo:reports/final.odt")]
pub struct MvArgs {
    /// What to move
    #[arg(value_name = "SHARE:FROM")]
    from: OsString,
    /// Where to
    #[arg(value_name = "SHARE:TO")]
    to: OsString,
    /// Replace a file that has the new name
    #[arg(long)]
    replace: bool,
    /// Only check whether it could be moved
    #[arg(long)]
    dry_run: bool,
}

/// Carries out `polder share mv`.
pub async fn run(args: MvArgs, client: &Client, ui: &mut Ui) -> Result<(), CliError> {
    let from = Target::parse(&args.from)?;
    let mut to = Target::parse(&args.to)?;
    if from.share != to.share {
        return Err(CliError::usage("a move stays inside one share")
            .hint("copy with `polder share get` and `polder share put`, then remove the source"));
    }
    let Some((_, name)) = from.path.split_last() else {
        return Err(CliError::usage("the root of a share cannot be moved"));
    };
    if let Ok(stat) = client.stat(&to.share, &to.path, None).await
        && stat.entry.kind == Kind::Directory
        && to.path != from.path
    {
        to.path = to.path.join(name.clone());
    }
    let request =
        MoveRequest { from: JsonPath(from.path), to: JsonPath(to.path), base: None, replace: args.replace };
    let moved = client.rename(&from.share, &request, args.dry_run).await?;
    ui.show(&moved, |_| String::new())
}
