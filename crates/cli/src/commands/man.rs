//! `polder man`

use std::path::PathBuf;

use clap::{Args, CommandFactory};

use crate::{Cli, CliError, Ui, settings::shown};

/// Write man pages, one a command, into a folder
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  polder man /usr/local/share/man/man1")]
pub struct ManArgs {
    /// The folder; made if it is missing
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

/// Carries out `polder man`.
pub fn run(args: &ManArgs, ui: &mut Ui) -> Result<(), CliError> {
    let failed = |error| CliError::io(format!("write man pages to {}", shown(&args.dir)), error);
    std::fs::create_dir_all(&args.dir).map_err(failed)?;
    clap_mangen::generate_to(Cli::command().disable_help_subcommand(true), &args.dir).map_err(failed)?;
    ui.say(format_args!("wrote man pages to {}", shown(&args.dir)));
    Ok(())
}
