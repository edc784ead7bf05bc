//! `polder up`

use std::{net::SocketAddr, path::PathBuf};

use clap::Args;

use crate::Up;

/// Run everything on this machine, for a first look and for tests
///
/// Starts a service on SQLite and a folder, creates the share and the sync group `demo`, registers two agents as the
/// servers `site-a` and `site-b` with endpoints DIR/site-a and DIR/site-b, and shows live what is happening until
/// Ctrl-C. `site-b` tiers where root's rights and /dev/fuse are there; its files are seen while it runs. A second start continues with what is
/// there.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  polder up --dir ./polder-data")]
pub struct UpArgs {
    /// Folder for everything
    #[arg(long, value_name = "DIR", default_value = "./polder-data")]
    dir: PathBuf,
    /// Address of the service [default: that of the last time, else 127.0.0.1:8443]
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Copy a sample from one site to the other, tier it and read it back, measure, and end
    #[arg(long)]
    once: bool,
}

impl UpArgs {
    pub(super) fn request(self) -> Up {
        Up { dir: self.dir, listen: self.listen, once: self.once }
    }
}
