//! `polder group`

use clap::{Args, Subcommand};
use polder_api::rest::{Client, Group, GroupCreate, ObjectName};

use crate::{CliError, Ui, confirm::Confirm, render};

/// Sync groups: one share and the endpoints that follow it
#[derive(Debug, Subcommand)]
pub enum GroupCommand {
    /// Create a sync group
    Create(CreateArgs),
    /// All sync groups
    #[command(after_help = "Example:\n  polder group list")]
    List,
    /// One sync group
    #[command(after_help = "Example:\n  polder group show demo")]
    Show {
        /// Its name or id
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Delete a sync group that has no endpoints
    Delete(DeleteArgs),
}

/// Create a sync group
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  polder group create demo --share demo")]
pub struct CreateArgs {
    /// Its name
    #[arg(value_name = "NAME")]
    name: ObjectName,
    /// The share that its endpoints follow
    #[arg(long, value_name = "SHARE")]
    share: String,
}

/// Delete a sync group that has no endpoints
///
/// The share stays.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  polder group delete demo")]
pub struct DeleteArgs {
    /// Its name or id
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    confirm: Confirm,
}

/// Carries out `polder group …`.
pub async fn run(command: GroupCommand, client: &Client, ui: &mut Ui) -> Result<(), CliError> {
    match command {
        GroupCommand::Create(args) => {
            let group = client.group_create(&GroupCreate { name: args.name, share: args.share }).await?;
            ui.say(format_args!("created the sync group \"{}\"", group.name));
            ui.show(&group, show)
        }
        GroupCommand::List => {
            let groups = client.groups().await?;
            ui.show(&groups, |groups| {
                let row = |group: &Group| {
                    let endpoints = group.endpoints.len().to_string();
                    vec![
                        group.name.to_string(),
                        group.share.to_string(),
                        endpoints,
                        render::time(group.created_at),
                        group.id.to_string(),
                    ]
                };
                render::table(&["NAME", "SHARE", ">ENDPOINTS", "CREATED", "ID"], groups.iter().map(row))
            })
        }
        GroupCommand::Show { name } => ui.show(&client.group(&name).await?, show),
        GroupCommand::Delete(args) => {
            args.confirm.ask(ui, &format!("deletes the sync group \"{}\"", args.name), &args.name)?;
            let group = client.group_delete(&args.name, args.confirm.dry_run).await?;
            ui.say(format_args!(
                "{} the sync group \"{}\"",
                args.confirm.done("deleted", "delete"),
                group.name
            ));
            ui.show(&group, |_| String::new())
        }
    }
}

fn show(group: &Group) -> String {
    render::fields(&[
        ("name", group.name.to_string()),
        ("id", group.id.to_string()),
        ("share", group.share.to_string()),
        ("endpoints", group.endpoints.len().to_string()),
        ("created", render::time(group.created_at)),
    ])
}
