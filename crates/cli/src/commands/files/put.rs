//! `polder share put`

use std::{
    ffi::OsString,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use clap::Args;
use polder_api::rest::{Client, PutQuery};
use polder_types::{Kind, Name};

use crate::{
    CliError, Exit, Ui,
    settings::shown,
    transfer::{Summary, Upload, put_stream},
    values::Target,
};

/// Copy a file or folder from this machine to a share
///
/// LOCAL and SHARE:PATH may stand in either order; `-` as LOCAL is standard input. Modification times, permission
/// bits and numeric owners are kept; symlinks are copied as symlinks. What was there stays in the history.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  polder share put report.pdf demo:reports/\n  polder share put -r ./photos demo:"
)]
pub struct PutArgs {
    /// The file or folder, `-` for standard input
    #[arg(value_name = "LOCAL")]
    first: OsString,
    /// Where to; in a folder that exists the name is kept
    #[arg(value_name = "SHARE:PATH")]
    second: OsString,
    /// A folder with everything below it
    #[arg(long, short)]
    recursive: bool,
    /// Refuse if the name is taken
    #[arg(long, conflicts_with = "recursive")]
    no_replace: bool,
    /// Make missing folders on the way
    #[arg(long, short)]
    parents: bool,
}

/// Carries out `polder share put`.
pub async fn run(args: PutArgs, client: &Client, ui: &mut Ui) -> Result<Exit, CliError> {
    let (local, target) = sides(&args.first, &args.second)?;
    let mut query = PutQuery { create_only: args.no_replace, parents: args.parents, ..PutQuery::default() };
    if local.as_os_str() == "-" {
        if target.path.names().is_empty() {
            return Err(CliError::usage("standard input needs a file name in the share"));
        }
        let changed = put_stream(client, &target, &mut query, ui).await?;
        return Summary::show(Summary::of_one(&changed), "copied", ui);
    }
    let metadata =
        local.symlink_metadata().map_err(|error| CliError::io(format!("read {}", shown(&local)), error))?;
    if metadata.is_dir() && !args.recursive {
        return Err(
            CliError::usage(format!("{} is a folder", shown(&local))).hint("give -r to copy all of it")
        );
    }
    let path = destination(client, &target, &local).await?;
    let upload = Upload::new(client, &target.share, query, ui);
    let summary = upload.run(local, path).await?;
    Summary::show(summary, "copied", ui)
}

/// Which of the two is the share's side.
fn sides(first: &OsString, second: &OsString) -> Result<(PathBuf, Target), CliError> {
    let exists = |text: &OsString| text == "-" || Path::new(text).symlink_metadata().is_ok();
    let (local, target) = match (Target::is_like(first), Target::is_like(second)) {
        (true, false) => (second, first),
        (true, true) if !exists(first) && exists(second) => (second, first),
        _ => (first, second),
    };
    Ok((PathBuf::from(local), Target::parse(target)?))
}

/// The target itself, or the source's name in it where it is a folder.
async fn destination(
    client: &Client,
    target: &Target,
    local: &Path,
) -> Result<polder_types::RelPath, CliError> {
    let stat = client.stat(&target.share, &target.path, None).await;
    match stat {
        Ok(stat) if stat.entry.kind == Kind::Directory => (),
        Ok(_) => return Ok(target.path.clone()),
        Err(error) if error.code() == Some(polder_api::rest::ProblemCode::NotFound) => {
            // A missing share is told by what comes next, with the right words.
            return Ok(target.path.clone());
        }
        Err(error) => return Err(error.into()),
    }
    // `.` and `..` have no name of their own: their content goes into the folder.
    match local.file_name() {
        None => Ok(target.path.clone()),
        Some(name) => {
            let name = Name::parse(name.as_bytes()).map_err(|error| CliError::usage(error.to_string()))?;
            Ok(target.path.join(name))
        }
    }
}
