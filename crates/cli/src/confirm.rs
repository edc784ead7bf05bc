//! Destructive commands ask for the object's name, or take `--yes`; all have `--dry-run`.

use clap::Args;

use crate::{CliError, Ui};

/// Flags of every destructive command.
#[derive(Debug, Clone, Args)]
pub struct Confirm {
    /// Do not ask
    #[arg(long, short = 'y')]
    pub yes: bool,
    /// Only say what would happen
    #[arg(long)]
    pub dry_run: bool,
}

impl Confirm {
    /// Goes on when the person types `name`, gave `--yes`, or only asks what would happen. `what` completes the
    /// sentence "This …".
    pub fn ask(&self, ui: &mut Ui, what: &str, name: &str) -> Result<(), CliError> {
        if self.yes || self.dry_run {
            return Ok(());
        }
        if !ui.terminal().stdin {
            return Err(CliError::refused(format!("this {what}, and nobody can be asked"))
                .hint("give --yes if it is meant, or --dry-run to see what would happen"));
        }
        ui.prompt(&format!("This {what}.\nType \"{name}\" to go on: "));
        if ui.answer()? == name {
            return Ok(());
        }
        Err(CliError::refused("the name was not typed; nothing was done"))
    }

    /// The word in front of what was done.
    pub fn done(&self, done: &str, would: &str) -> String {
        if self.dry_run { format!("would {would}") } else { done.to_owned() }
    }
}
