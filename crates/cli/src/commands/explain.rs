//! `polder explain`

use std::{ffi::OsString, os::unix::ffi::OsStrExt as _, path::Path};

use clap::Args;
use polder_api::{
    control::{Answer, FileTiering, LocalExplain, Request, ask},
    rest::{Explain, JsonBytes},
};
use polder_types::RelPath;
use serde::Serialize;

use super::agent::unexpected;
use crate::{
    CliError, Ui,
    args::{Global, StateDir},
    render,
    settings::shown,
    values::Target,
};

/// Why a file is or is not in sync
///
/// PATH is SHARE:PATH, which asks the service, or a path on this server, which asks its agent and then, if a token is
/// known, the service.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  polder explain /srv/projects/plan.odt\n  polder explain demo:plan.odt")]
pub struct ExplainArgs {
    /// SHARE:PATH, or a path on this server
    #[arg(value_name = "PATH")]
    path: OsString,
    #[command(flatten)]
    state: StateDir,
}

/// Both sides' answers.
#[derive(Debug, Serialize)]
struct Both {
    #[serde(skip_serializing_if = "Option::is_none")]
    local: Option<LocalExplain>,
    #[serde(skip_serializing_if = "Option::is_none")]
    share: Option<Explain>,
}

/// Carries out `polder explain`.
pub async fn run(args: ExplainArgs, global: &Global, ui: &mut Ui) -> Result<(), CliError> {
    let is_here = Path::new(&args.path).symlink_metadata().is_ok();
    if Target::is_like(&args.path) && !is_here {
        let target = Target::parse(&args.path)?;
        let share = super::client(global, ui)?.explain(&target.share, &target.path).await?;
        return ui.show(&Both { local: None, share: Some(share) }, text);
    }
    let path = std::path::absolute(&args.path)
        .map_err(|error| CliError::io(format!("resolve {}", shown(Path::new(&args.path))), error))?;
    let request = Request::Explain { path: JsonBytes(path.as_os_str().as_bytes().to_vec()) };
    let Answer::Explain(local) = ask(&args.state.state, &request).await? else {
        return Err(unexpected());
    };
    let share = match super::client(global, ui) {
        Ok(client) => ask_share(&client, &local.share.to_string(), &local.path.0, ui).await,
        // Only this server's side was asked for by somebody who has no token.
        Err(_) => None,
    };
    ui.show(&Both { local: Some(local), share }, text)
}

async fn ask_share(
    client: &polder_api::rest::Client,
    share: &str,
    path: &RelPath,
    ui: &Ui,
) -> Option<Explain> {
    match client.explain(share, path).await {
        Ok(answer) => Some(answer),
        Err(error) => {
            ui.warn(format_args!("the share's side is missing: {error}"));
            None
        }
    }
}

/// Where a file's bytes are and why, on lines of their own.
fn tiering_text(tiering: &FileTiering) -> String {
    let mut out = format!(
        "  {}: {} of {} on this disk; {}\n  last used {}, as warm as a file used once at {}\n",
        render::word(&tiering.residency),
        render::bytes(tiering.on_disk_bytes),
        render::bytes(tiering.size),
        render::safe(&tiering.reason),
        render::time(tiering.used_at),
        render::time(tiering.warm_at),
    );
    if let Some(last) = &tiering.last_recall {
        out.push_str(&format!(
            "  last recalled by {} of user {} at {}, {} in all\n",
            render::safe(&last.program),
            last.user,
            render::time(last.at),
            render::bytes(last.bytes)
        ));
    }
    out
}

fn text(both: &Both) -> String {
    let mut out = String::new();
    if let Some(local) = &both.local {
        out.push_str(&format!("here: {}: {}\n", render::word(&local.state), render::safe(&local.reason)));
        if let Some(hint) = &local.hint {
            out.push_str(&format!("  hint: {}\n", render::safe(hint)));
        }
        if let Some(tiering) = &local.tiering {
            out.push_str(&tiering_text(tiering));
        }
    }
    let Some(share) = &both.share else {
        return out;
    };
    out.push_str(&format!("share {}: {}\n", share.share, render::safe(&share.summary)));
    for endpoint in &share.endpoints {
        let state = render::word(&endpoint.state);
        out.push_str(&format!(
            "{}:{}: {state}: {}\n",
            endpoint.server,
            endpoint.path,
            render::safe(&endpoint.reason)
        ));
        if let Some(hint) = &endpoint.hint {
            out.push_str(&format!("  hint: {}\n", render::safe(hint)));
        }
    }
    if !share.history.is_empty() {
        let rows = share.history.iter().map(|version| {
            vec![
                version.version.to_string(),
                render::time(version.at),
                version.by.clone(),
                version.what.clone(),
                version.size.map_or_else(|| "-".to_owned(), render::bytes),
            ]
        });
        out.push('\n');
        out.push_str(&render::table(&[">VERSION", "AT", "BY", "WHAT", ">SIZE"], rows));
        out.push('\n');
    }
    out
}
