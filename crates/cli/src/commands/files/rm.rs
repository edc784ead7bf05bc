//! `polder share rm`

use std::ffi::OsString;

use clap::Args;
use polder_api::rest::{Client, ProblemCode, Removed};

use crate::{CliError, Exit, Ui, confirm::Confirm, render, values::Target};

/// Remove a file or folder
///
/// It stays in the history: `--at` shows it as it was before.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  polder share rm -r demo:old-reports")]
pub struct RmArgs {
    /// What to remove
    #[arg(value_name = "SHARE:PATH", required = true)]
    targets: Vec<OsString>,
    /// With everything below it
    #[arg(long, short)]
    recursive: bool,
    #[command(flatten)]
    confirm: Confirm,
}

/// Carries out `polder share rm`. One that fails does not hold up the others.
pub async fn run(args: RmArgs, client: &Client, ui: &mut Ui) -> Result<Exit, CliError> {
    let targets: Vec<Target> =
        args.targets.iter().map(|text| Target::parse(text)).collect::<Result<_, _>>()?;
    if targets.iter().any(|target| target.path.names().is_empty()) {
        return Err(CliError::usage("the root of a share cannot be removed")
            .hint("`polder share delete` deletes a share"));
    }
    for target in &targets {
        let what = if args.recursive { "with everything below it" } else { "from the share" };
        args.confirm.ask(ui, &format!("removes {target} {what}"), &target.to_string())?;
    }
    let mut removed = Vec::new();
    let mut failed = Vec::new();
    for target in &targets {
        match client.remove(&target.share, &target.path, args.recursive, None, args.confirm.dry_run).await {
            Ok(done) => removed.push(done),
            Err(error) if error.code() == Some(ProblemCode::NotEmpty) => {
                failed.push((
                    target,
                    CliError::from(error).hint("give -r to remove it with everything below it"),
                ));
            }
            Err(error) => failed.push((target, CliError::from(error))),
        }
    }
    match (failed.pop(), removed.is_empty() && failed.is_empty()) {
        (None, _) => (),
        (Some((_, error)), true) => return Err(error),
        (Some(last), false) => {
            failed.push(last);
            for (target, error) in &failed {
                ui.warn(format_args!("{target}: {}", error.chain()));
            }
        }
    }
    let verb = args.confirm.done("removed", "remove");
    ui.show(&removed, |removed| removed.iter().map(|one| line(&verb, one)).collect())?;
    Ok(if failed.is_empty() { Exit::Done } else { Exit::Partial })
}

fn line(verb: &str, removed: &Removed) -> String {
    let (nodes, bytes) = (render::counted(removed.nodes, "item"), render::bytes(removed.bytes));
    format!("{verb} {} ({nodes}, {bytes})\n", removed.path)
}
