//! `polder share ls`

use std::ffi::OsString;

use clap::Args;
use polder_api::rest::{Client, Entry, EntryStat, JsonPath};
use polder_types::{Kind, RelPath};
use serde::Serialize;

use super::AtArg;
use crate::{CliError, Ui, render, values::Target};

/// List a folder
///
/// In the order of the names' bytes. Names are escaped; --json gives them as they are.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  polder share ls demo:reports --at 2026-11-23T18:00:00Z")]
pub struct LsArgs {
    /// The folder
    #[arg(value_name = "SHARE:PATH")]
    target: OsString,
    /// With everything below it
    #[arg(long, short)]
    recursive: bool,
    #[command(flatten)]
    at: AtArg,
}

/// An entry with its path in the share.
#[derive(Debug, Serialize)]
struct Row {
    path: JsonPath,
    #[serde(flatten)]
    entry: Entry,
}

/// Carries out `polder share ls`.
pub async fn run(args: LsArgs, client: &Client, ui: &mut Ui) -> Result<(), CliError> {
    let target = Target::parse(&args.target)?;
    let at = args.at.at.as_ref();
    let mut shown = 0u64;
    let mut folders = vec![target.path.clone()];
    while let Some(folder) = folders.pop() {
        let mut after = None;
        let mut below = Vec::new();
        loop {
            let page = client.entries(&target.share, &folder, at, after.as_deref()).await;
            let page = match page {
                Ok(page) => page,
                // A file named by itself is a list of one.
                Err(error) if shown == 0 && after.is_none() && !args.recursive => {
                    match client.stat(&target.share, &folder, at).await {
                        Ok(stat) if stat.entry.kind != Kind::Directory => return one(stat, ui),
                        _ => return Err(error.into()),
                    }
                }
                Err(error) => return Err(error.into()),
            };
            for entry in page.items {
                let Some(name) = entry.name.clone() else { continue };
                let path = folder.join(name.0);
                if args.recursive && entry.kind == Kind::Directory {
                    below.push(path.clone());
                }
                show(ui, Row { path: JsonPath(path), entry }, &target.path, &mut shown)?;
            }
            match page.next {
                Some(next) if after.as_ref() != Some(&next) => after = Some(next),
                _ => break,
            }
        }
        folders.extend(below.into_iter().rev());
    }
    end(ui, shown)
}

fn one(stat: EntryStat, ui: &mut Ui) -> Result<(), CliError> {
    let mut shown = 0;
    let parent = stat.path.0.split_last().map(|(parent, _)| parent).unwrap_or_default();
    show(ui, Row { path: stat.path, entry: stat.entry }, &parent, &mut shown)?;
    end(ui, shown)
}

/// Each row is written when it is known, so that a folder of any size needs no memory; hence fixed columns.
fn show(ui: &mut Ui, row: Row, below: &RelPath, shown: &mut u64) -> Result<(), CliError> {
    if ui.is_json() {
        let text = serde_json::to_string(&row).unwrap_or_else(|_| "null".to_owned());
        ui.text(format_args!("{}{text}", if *shown == 0 { "[\n  " } else { ", " }))?;
    } else {
        ui.text(line(&row, below))?;
    }
    *shown += 1;
    Ok(())
}

fn end(ui: &mut Ui, shown: u64) -> Result<(), CliError> {
    if !ui.is_json() {
        return Ok(());
    }
    ui.text(if shown == 0 { "[]" } else { "]" })
}

fn line(row: &Row, below: &RelPath) -> String {
    let entry = &row.entry;
    let kind = match entry.kind {
        Kind::Directory => 'd',
        Kind::File => '-',
        Kind::Symlink => 'l',
    };
    let who = |name: &str, id: u32| {
        if name.is_empty() { id.to_string() } else { name.escape_default().to_string() }
    };
    let names = row.path.0.names().iter().skip(below.names().len()).cloned();
    let mut name = names.collect::<RelPath>().to_string();
    match entry.kind {
        Kind::Directory => name.push('/'),
        Kind::Symlink => {
            if let Some(target) = &entry.target {
                name.push_str(&format!(" -> {target}"));
            }
        }
        Kind::File => (),
    }
    format!(
        "{kind} {}  {:8} {:8} {:>10}  {}  {name}",
        entry.mode,
        who(&entry.owner, entry.uid),
        who(&entry.group, entry.gid),
        if entry.kind == Kind::Directory { "-".to_owned() } else { render::bytes(entry.size) },
        render::time(entry.mtime),
    )
}
