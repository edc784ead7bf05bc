//! `polder share stat`

use std::ffi::OsString;

use clap::Args;
use polder_api::rest::{Client, EntryStat};

use super::AtArg;
use crate::{CliError, Ui, render, values::Target};

/// Everything about one file or folder
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  polder share stat demo:reports/2026.pdf")]
pub struct StatArgs {
    /// The file or folder
    #[arg(value_name = "SHARE:PATH")]
    target: OsString,
    #[command(flatten)]
    at: AtArg,
}

/// Carries out `polder share stat`.
pub async fn run(args: StatArgs, client: &Client, ui: &mut Ui) -> Result<(), CliError> {
    let target = Target::parse(&args.target)?;
    let stat = client.stat(&target.share, &target.path, args.at.at.as_ref()).await?;
    ui.show(&stat, text)
}

fn text(stat: &EntryStat) -> String {
    let entry = &stat.entry;
    let who = |name: &str, id: u32| match name {
        "" => id.to_string(),
        name => format!("{name} ({id})"),
    };
    let mut rows = vec![
        ("path", stat.path.to_string()),
        ("kind", render::word(&entry.kind)),
        ("size", format!("{} ({} bytes)", render::bytes(entry.size), entry.size)),
        ("modified", entry.mtime.to_string()),
        ("mode", entry.mode.to_string()),
        ("owner", who(&entry.owner, entry.uid)),
        ("group", who(&entry.group, entry.gid)),
    ];
    if let Some(target) = &entry.target {
        rows.push(("target", target.to_string()));
    }
    rows.push(("version", entry.version.to_string()));
    rows.push(("changed", stat.changed_at.to_string()));
    rows.push(("changed by", stat.changed_by.clone()));
    rows.push(("node", entry.node.to_string()));
    if let Some(content) = &stat.content_id {
        rows.push(("content", content.clone()));
    }
    if !stat.xattrs.is_empty() {
        let names: Vec<String> = stat.xattrs.iter().map(ToString::to_string).collect();
        rows.push(("attributes", names.join(" ")));
    }
    render::fields(&rows)
}
