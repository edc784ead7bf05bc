//! Direct access to the files of a share: `polder share ls|stat|cat|get|put|mkdir|rm|mv`.

pub mod cat;
pub mod get;
pub mod ls;
pub mod mkdir;
pub mod mv;
pub mod put;
pub mod rm;
pub mod stat;

use clap::Args;
use polder_api::rest::{At, TextError};

/// Which moment of the share is meant.
#[derive(Debug, Clone, Args)]
pub struct AtArg {
    /// As it was then: a time such as 2026-11-23T18:00:00Z, the name of a snapshot, or seq:N
    #[arg(long, value_name = "TIME|SNAPSHOT", value_parser = parse_at)]
    pub at: Option<At>,
}

fn parse_at(text: &str) -> Result<At, TextError> {
    text.parse()
}
