//! `polder status`

use std::time::Duration;

use clap::Args;
use polder_api::rest::{Client, EndpointStatus, Flow, GroupStatus, Notice, Status, TieringStatus, percent};

use crate::{CliError, Ui, render};

/// How often `--watch` looks.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// Programs whose recalls are shown; the JSON has all.
const PROGRAMS_SHOWN: usize = 5;

/// Health of groups and endpoints
///
/// In sync or not and why, rates, what remains and for how long, errors, and what needs attention.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  polder status --group demo --watch")]
pub struct StatusArgs {
    /// Only this group
    #[arg(long, value_name = "G")]
    group: Option<String>,
    /// Show it again every second, until Ctrl-C
    #[arg(long)]
    watch: bool,
}

/// Carries out `polder status`.
pub async fn run(args: StatusArgs, client: &Client, ui: &mut Ui) -> Result<(), CliError> {
    let group = args.group.as_deref();
    if !args.watch {
        return ui.show(&client.status(group).await?, text);
    }
    loop {
        let status = client.status(group).await?;
        if ui.is_json() {
            ui.json_line(&status)?;
        } else {
            // Home, the picture, then whatever an older picture left below it.
            let terminal = ui.terminal().stdout;
            let picture = text(&status);
            ui.text(if terminal { format!("\x1b[H\x1b[2J{picture}\x1b[J") } else { picture })?;
            ui.flush()?;
        }
        tokio::select! {
            () = tokio::time::sleep(WATCH_EVERY) => (),
            _ = tokio::signal::ctrl_c() => return Ok(()),
        }
    }
}

/// Health as people read it.
pub fn text(status: &Status) -> String {
    let mut out = String::new();
    if status.groups.is_empty() {
        out.push_str("no sync groups\n");
    }
    for group in &status.groups {
        if !out.is_empty() {
            out.push('\n');
        }
        out.push_str(&group_text(group));
    }
    notices(&mut out, "service", &status.problems);
    out
}

fn group_text(group: &GroupStatus) -> String {
    let state = match (group.in_sync, group.endpoints.is_empty()) {
        (_, true) => "without endpoints",
        (true, _) => "in sync",
        (false, _) => "not in sync",
    };
    let mut out = format!(
        "{} (share {}): {state}, {}, {}\n",
        group.name,
        group.share,
        render::counted(group.nodes, "item"),
        render::bytes(group.bytes)
    );
    let headers = ["SERVER", "PATH", "STATE", ">ITEMS", ">LOCAL", ">TIERED", "UPLOAD", "DOWNLOAD", ">ERRORS"];
    let table = render::table(&headers, group.endpoints.iter().map(row));
    for line in table.lines() {
        out.push_str("  ");
        out.push_str(line);
        out.push('\n');
    }
    for endpoint in &group.endpoints {
        if let Some(reason) = &endpoint.reason {
            out.push_str(&format!("  {}: {}\n", endpoint.server, render::safe(reason)));
        }
        if let Some(tiering) = &endpoint.tiering {
            out.push_str(&tiering_text(endpoint.server.as_str(), tiering));
        }
        notices(&mut out, endpoint.server.as_str(), &endpoint.problems);
    }
    out
}

/// What is here, how often that was enough, who recalled, and what stays.
fn tiering_text(server: &str, tiering: &TieringStatus) -> String {
    let rate = |part, whole| {
        percent(part, whole).map_or_else(|| "none yet".to_owned(), |percent| format!("{percent:.1}%"))
    };
    let mut out = format!(
        "  {server}: {} here, {} saved by {}; hits: {} of opens, {} of bytes\n",
        render::bytes(tiering.cached_bytes),
        render::bytes(tiering.saved_bytes),
        render::counted(tiering.tiered_files, "tiered file"),
        rate(tiering.opens_here, tiering.opens),
        rate(tiering.read_bytes_here, tiering.read_bytes)
    );
    let mut programs: Vec<_> = tiering.programs.iter().collect();
    programs.sort_by_key(|one| std::cmp::Reverse((one.bytes, one.refused)));
    let shown = programs.iter().take(PROGRAMS_SHOWN).map(|one| {
        let refused =
            if one.refused > 0 { format!(", {} refused", render::count(one.refused)) } else { String::new() };
        format!(
            "{} {} ({}{refused})",
            render::safe(&one.program),
            render::bytes(one.bytes),
            render::counted(one.reads, "read")
        )
    });
    list(&mut out, server, "recalls", shown.collect());
    let mut stays: Vec<_> = tiering.stays.iter().collect();
    stays.sort_by_key(|one| std::cmp::Reverse(one.bytes));
    let stays = stays.iter().map(|one| {
        let reason = render::safe(&one.reason).replace('_', " ");
        format!("{} {reason} ({})", render::count(one.files), render::bytes(one.bytes))
    });
    list(&mut out, server, "files that stay", stays.collect());
    out
}

fn list(out: &mut String, server: &str, what: &str, items: Vec<String>) {
    if !items.is_empty() {
        out.push_str(&format!("  {server}: {what}: {}\n", items.join(", ")));
    }
}

fn row(endpoint: &EndpointStatus) -> Vec<String> {
    vec![
        endpoint.server.to_string(),
        endpoint.path.to_string(),
        render::word(&endpoint.state),
        render::count(endpoint.nodes),
        render::bytes(endpoint.local_bytes),
        render::bytes(endpoint.tiered_bytes),
        flow(&endpoint.upload),
        flow(&endpoint.download),
        render::count(endpoint.errors),
    ]
}

/// What is left in one direction, how fast it goes, and for how long.
fn flow(flow: &Flow) -> String {
    if flow.items_left == 0 && flow.bytes_per_second == 0 && flow.items_per_second == 0 {
        return "-".to_owned();
    }
    let mut text = format!(
        "{} ({}) left, {}/s ({}/s)",
        render::count(flow.items_left),
        render::bytes(flow.bytes_left),
        render::count(flow.items_per_second),
        render::bytes(flow.bytes_per_second)
    );
    if let Some(left) = flow.seconds_left {
        text.push_str(&format!(", {}", render::seconds(left)));
    }
    text
}

fn notices(out: &mut String, of: &str, notices: &[Notice]) {
    for notice in notices {
        out.push_str(&format!(
            "  {of}: {} (since {})\n",
            render::safe(&notice.message),
            render::time(notice.since)
        ));
        if let Some(hint) = &notice.hint {
            out.push_str(&format!("    hint: {}\n", render::safe(hint)));
        }
    }
}
