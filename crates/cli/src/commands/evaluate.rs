//! `polder evaluate`

use std::path::PathBuf;

use clap::Args;

use crate::Evaluate;

/// Check a machine and a folder before deploying
///
/// One row an issue: type, path, level, description, result. Looks only; changes nothing.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  polder evaluate /srv/projects --csv > report.csv")]
pub struct EvaluateArgs {
    /// Folder that is to become an endpoint
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// Comma-separated values instead of a table
    #[arg(long, conflicts_with = "json")]
    csv: bool,
    /// Leave out the checks of the machine
    #[arg(long)]
    skip_system: bool,
    /// Leave out the checks of the data set
    #[arg(long)]
    skip_dataset: bool,
}

impl EvaluateArgs {
    pub(super) fn request(self) -> Evaluate {
        Evaluate {
            path: self.path,
            csv: self.csv,
            skip_system: self.skip_system,
            skip_dataset: self.skip_dataset,
        }
    }
}
