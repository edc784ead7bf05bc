//! `polder estimate`

use std::path::PathBuf;

use clap::Args;

use crate::Estimate;
use crate::values::parse_percent;

/// The disk space that a tiered endpoint of this folder needs, by part
///
/// Looks at the folder as it is now: what must be on the disk even if everything that may is tiered, what Polder itself keeps beside it,
/// and what the free-space policy asks for. Changes nothing.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  polder estimate /srv/projects --free-space 20%")]
pub struct EstimateArgs {
    /// Folder that is to become an endpoint
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// Share of the volume to keep free
    #[arg(long, value_name = "PERCENT", value_parser = parse_percent, default_value = "20%")]
    free_space: u8,
    /// Comma-separated values instead of a table
    #[arg(long, conflicts_with = "json")]
    csv: bool,
}

impl EstimateArgs {
    pub(super) fn request(self) -> Estimate {
        Estimate { path: self.path, free_space_percent: self.free_space, csv: self.csv }
    }
}
