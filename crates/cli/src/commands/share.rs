//! `polder share`: shares themselves; their files are in `files`.

use clap::{Args, Subcommand, ValueEnum};
use polder_api::rest::{CaseMode, Client, ObjectName, Share, ShareCreate, ShareState};

use super::files;
use crate::{CliError, Exit, Ui, confirm::Confirm, render, values::parse_size};

/// Shares and the files in them
#[derive(Debug, Subcommand)]
pub enum ShareCommand {
    /// Create a share
    Create(CreateArgs),
    /// All shares
    List(ListArgs),
    /// One share
    #[command(after_help = "Example:\n  polder share show demo")]
    Show {
        /// Its name or id
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Delete a share; it can be brought back for 14 days
    Delete(DeleteArgs),
    /// Bring a deleted share back
    Undelete(UndeleteArgs),
    /// List a folder
    Ls(files::ls::LsArgs),
    /// Everything about one file or folder
    Stat(files::stat::StatArgs),
    /// Write a file's bytes to standard output
    Cat(files::cat::CatArgs),
    /// Copy a file or folder from a share to this machine
    Get(files::get::GetArgs),
    /// Copy a file or folder from this machine to a share
    Put(files::put::PutArgs),
    /// Make a folder
    Mkdir(files::mkdir::MkdirArgs),
    /// Remove a file or folder
    Rm(files::rm::RmArgs),
    /// Move or rename a file or folder inside its share
    Mv(files::mv::MvArgs),
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum CaseArg {
    /// `a` and `A` are two names
    Sensitive,
    /// `a` and `A` are one name, as Windows clients expect
    Insensitive,
}

/// Create a share
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  polder share create projects --quota 2T --case insensitive")]
pub struct CreateArgs {
    /// Its name
    #[arg(value_name = "NAME")]
    name: ObjectName,
    /// Most bytes of live files, such as 500GiB [default: no limit]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    quota: Option<u64>,
    /// Whether names that differ only in case are one name; cannot be changed later
    #[arg(long, value_name = "RULE", default_value = "sensitive")]
    case: CaseArg,
}

/// All shares
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  polder share list")]
pub struct ListArgs {
    /// Those that are deleted and can be brought back
    #[arg(long)]
    deleted: bool,
}

/// Delete a share; it can be brought back for 14 days
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  polder share delete projects")]
pub struct DeleteArgs {
    /// Its name or id
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    confirm: Confirm,
}

/// Bring a deleted share back
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  polder share undelete projects")]
pub struct UndeleteArgs {
    /// Its name or id
    #[arg(value_name = "NAME")]
    name: String,
    /// Only check whether it could be brought back
    #[arg(long)]
    dry_run: bool,
}

/// Carries out `polder share …`.
pub async fn run(command: ShareCommand, client: &Client, ui: &mut Ui) -> Result<Exit, CliError> {
    match command {
        ShareCommand::Create(args) => create(args, client, ui).await,
        ShareCommand::List(args) => {
            let mut shares = client.shares(args.deleted).await?;
            shares.retain(|share| (share.state == ShareState::Deleted) == args.deleted);
            ui.show(&shares, |shares| {
                let headers = ["NAME", "STATE", ">ITEMS", ">SIZE", ">QUOTA", "CASE", "CREATED", "ID"];
                render::table(&headers, shares.iter().map(row))
            })
        }
        ShareCommand::Show { name } => ui.show(&client.share(&name).await?, show),
        ShareCommand::Delete(args) => delete(args, client, ui).await,
        ShareCommand::Undelete(args) => {
            let share = client.share_undelete(&args.name, args.dry_run).await?;
            let done = if args.dry_run { "would bring" } else { "brought" };
            ui.say(format_args!("{done} the share \"{}\" back", share.name));
            ui.show(&share, show)
        }
        ShareCommand::Ls(args) => files::ls::run(args, client, ui).await,
        ShareCommand::Stat(args) => files::stat::run(args, client, ui).await,
        ShareCommand::Cat(args) => files::cat::run(args, client, ui).await,
        ShareCommand::Get(args) => return files::get::run(args, client, ui).await,
        ShareCommand::Put(args) => return files::put::run(args, client, ui).await,
        ShareCommand::Mkdir(args) => files::mkdir::run(args, client, ui).await,
        ShareCommand::Rm(args) => return files::rm::run(args, client, ui).await,
        ShareCommand::Mv(args) => files::mv::run(args, client, ui).await,
    }
    .map(|()| Exit::Done)
}

async fn create(args: CreateArgs, client: &Client, ui: &mut Ui) -> Result<(), CliError> {
    let case = match args.case {
        CaseArg::Sensitive => CaseMode::Sensitive,
        CaseArg::Insensitive => CaseMode::Insensitive,
    };
    let share = client.share_create(&ShareCreate { name: args.name, quota_bytes: args.quota, case }).await?;
    ui.say(format_args!("created the share \"{}\"", share.name));
    ui.show(&share, show)
}

async fn delete(args: DeleteArgs, client: &Client, ui: &mut Ui) -> Result<(), CliError> {
    args.confirm.ask(ui, &format!("deletes the share \"{}\" for everybody", args.name), &args.name)?;
    let share = client.share_delete(&args.name, args.confirm.dry_run).await?;
    ui.say(format_args!("{} the share \"{}\"", args.confirm.done("deleted", "delete"), share.name));
    if let Some(purge_at) = share.purge_at {
        let until = render::time(purge_at);
        ui.say(format_args!("`polder share undelete {}` brings it back until {until} UTC", share.name));
    }
    ui.show(&share, |_| String::new())
}

fn quota(share: &Share) -> String {
    share.quota_bytes.map_or_else(|| "-".to_owned(), render::bytes)
}

fn row(share: &Share) -> Vec<String> {
    vec![
        share.name.to_string(),
        render::word(&share.state),
        render::count(share.nodes),
        render::bytes(share.used_bytes),
        quota(share),
        render::word(&share.case),
        render::time(share.created_at),
        share.id.to_string(),
    ]
}

fn show(share: &Share) -> String {
    let mut rows = vec![
        ("name", share.name.to_string()),
        ("id", share.id.to_string()),
        ("state", render::word(&share.state)),
        ("items", render::count(share.nodes)),
        ("size", render::bytes(share.used_bytes)),
        ("quota", quota(share)),
        ("case", render::word(&share.case)),
        ("sequence", share.head.to_string()),
        ("epoch", share.epoch.to_string()),
        ("created", render::time(share.created_at)),
    ];
    if share.deleted_at.is_some() {
        rows.push(("deleted", render::maybe_time(share.deleted_at)));
        rows.push(("gone for good", render::maybe_time(share.purge_at)));
    }
    render::fields(&rows)
}
