//! `polder snapshot`

use clap::{Args, Subcommand};
use polder_api::rest::{Client, ObjectName, Snapshot, SnapshotCreate};

use crate::{CliError, Ui, confirm::Confirm, render};

/// Snapshots of a share
///
/// A snapshot is a name for a moment: taking one costs one row, whatever the size of the share.
#[derive(Debug, Subcommand)]
pub enum SnapshotCommand {
    /// Take a snapshot
    Create(CreateArgs),
    /// Snapshots of a share, oldest first
    #[command(after_help = "Example:\n  polder snapshot list demo")]
    List {
        /// Name or id of the share
        #[arg(value_name = "SHARE")]
        share: String,
    },
    /// Forget a snapshot
    Delete(DeleteArgs),
}

/// Take a snapshot
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  polder snapshot create demo --name before-upgrade")]
pub struct CreateArgs {
    /// Name or id of the share
    #[arg(value_name = "SHARE")]
    share: String,
    /// Its name [default: the time]
    #[arg(long, value_name = "NAME")]
    name: Option<ObjectName>,
}

/// Forget a snapshot
///
/// What only it held goes with the next prune, once it is older than the history window.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  polder snapshot delete demo before-upgrade")]
pub struct DeleteArgs {
    /// Name or id of the share
    #[arg(value_name = "SHARE")]
    share: String,
    /// Name of the snapshot
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    confirm: Confirm,
}

/// Carries out `polder snapshot …`.
pub async fn run(command: SnapshotCommand, client: &Client, ui: &mut Ui) -> Result<(), CliError> {
    match command {
        SnapshotCommand::Create(args) => {
            let snapshot = client.snapshot_create(&args.share, &SnapshotCreate { name: args.name }).await?;
            ui.say(format_args!("took the snapshot \"{}\" of \"{}\"", snapshot.name, snapshot.share));
            ui.show(&snapshot, |snapshot| snapshot.name.to_string())
        }
        SnapshotCommand::List { share } => {
            let snapshots = client.snapshots(&share).await?;
            ui.show(&snapshots, |snapshots| {
                let row = |snapshot: &Snapshot| {
                    vec![
                        snapshot.name.to_string(),
                        render::time(snapshot.created_at),
                        snapshot.seq.to_string(),
                        snapshot.created_by.clone(),
                    ]
                };
                render::table(&["NAME", "TAKEN", ">SEQUENCE", "BY"], snapshots.iter().map(row))
            })
        }
        SnapshotCommand::Delete(args) => {
            let what = format!("forgets the snapshot \"{}\" of \"{}\"", args.name, args.share);
            args.confirm.ask(ui, &what, &args.name)?;
            let snapshot = client.snapshot_delete(&args.share, &args.name, args.confirm.dry_run).await?;
            ui.say(format_args!(
                "{} the snapshot \"{}\"",
                args.confirm.done("forgot", "forget"),
                snapshot.name
            ));
            ui.show(&snapshot, |_| String::new())
        }
    }
}
