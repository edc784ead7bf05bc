//! The command line: parses and renders.
//!
//! The reason for this crate: what a person types and reads is a contract of its own (commands, flags, JSON keys,
//! exit codes), apart from what does the work. Arguments pass two stages: [`args`] is what was written, each
//! command's `run` first turns it into what will be done, and only then does it.
//!
//! Architecture invariant: nothing here starts a service or an agent or looks at a share's files on this disk. What
//! needs more than the API and the control socket is a [`HostRequest`] that the binary carries out ([`Host`]).
//!
//! Architecture invariant: a command reads its environment, standard streams and terminal from [`Environment`]
//! alone, so that tests are hermetic. stdout is data, stderr is talk; whatever came from outside is escaped.

mod args;
mod commands;
mod confirm;
mod environment;
mod error;
mod generate;
mod host;
mod progress;
mod render;
mod rules;
mod settings;
mod transfer;
mod ui;
mod values;

use std::ffi::OsString;

use clap::{CommandFactory, FromArgMatches};

pub use args::{Cli, LogFormat};
pub use commands::{mount::endpoint_at, status::text as status_text};
pub use environment::{Environment, Terminal};
pub use error::{CliError, Exit};
pub use generate::reference;
pub use host::{
    AgentRegister, AgentRun, Estimate, Evaluate, Host, HostRequest, Mount, RecallManifest, ServiceRun, Up,
};
pub use progress::Progress;
pub use render::{bytes as shown_bytes, fields as shown_fields, table as shown_table};
pub use settings::Settings;
pub use ui::Ui;

/// Carries out one command line (`arguments` begins with the program's name) and returns its exit code.
pub fn run(arguments: Vec<OsString>, environment: Environment, host: &dyn Host) -> Exit {
    let mut ui = Ui::new(environment);
    let command = Cli::command().term_width(usize::from(ui.width()));
    let parsed = command.try_get_matches_from(arguments).and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(usage) => return ui.usage(&usage),
    };
    ui.configure(&cli.global);
    match commands::run(cli, &mut ui, host) {
        Ok(exit) => ui.finish(exit),
        Err(error) => ui.fail(&error),
    }
}
