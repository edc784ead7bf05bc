//! `polder completions`

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::{Cli, CliError, Ui};

/// Write completions for a shell
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  polder completions bash > /etc/bash_completion.d/polder")]
pub struct CompletionsArgs {
    /// Which shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Carries out `polder completions`.
pub fn run(args: CompletionsArgs, ui: &mut Ui) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "polder", &mut script);
    ui.bytes(&script)
}
