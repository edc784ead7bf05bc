//! Log lines of a program, on stderr.

use polder_cli::{CliError, LogFormat, Ui};
use tracing_subscriber::EnvFilter;

/// What a program logs when nobody says.
const FILTER_DEFAULT: &str = "info";

/// Sets the log up, once in a process.
pub fn start(ui: &Ui) -> Result<(), CliError> {
    let (filter, format) = ui.log();
    let filter = filter.as_deref().unwrap_or(FILTER_DEFAULT);
    let parsed = EnvFilter::try_new(filter).map_err(|error| {
        CliError::usage(format!("\"{}\" is not a log filter: {error}", filter.escape_default()))
            .hint("write a level such as info, or parts with levels such as info,polder_agent=debug")
    })?;
    let lines = tracing_subscriber::fmt().with_env_filter(parsed).with_writer(std::io::stderr);
    let started = match format {
        LogFormat::Json => lines.json().try_init(),
        LogFormat::Text => lines.with_ansi(ui.terminal().stderr).try_init(),
    };
    started.map_err(|error| CliError::new(format!("set up the log: {error}")))
}
