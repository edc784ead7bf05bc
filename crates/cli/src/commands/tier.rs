//! `polder tier` and `polder recall`

use std::{ffi::OsString, os::unix::ffi::OsStrExt as _, path::PathBuf};

use clap::Args;
use polder_api::{
    control::{Answer, FileChoice, FileRow, Moved, Request, THREADS_MAX, ask_each},
    rest::JsonBytes,
};
use serde::Serialize;

use crate::{
    CliError, Exit, HostRequest, Progress, RecallManifest, Settings, Ui, args::StateDir, render,
    settings::shown,
};

/// Rows of a list when nobody says.
const ROWS_DEFAULT: u64 = 1000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum OrderArg {
    /// By how much the files are used
    Heat,
}

/// Which files, and how they are shown.
#[derive(Debug, Args)]
struct Which {
    /// Files, or folders with all below them
    #[arg(value_name = "PATH")]
    paths: Vec<OsString>,
    /// Only files that match, such as `*.iso` or `media/**`
    #[arg(long, value_name = "GLOB")]
    pattern: Option<String>,
    /// Only show the order, and change nothing
    #[arg(long)]
    list: bool,
    /// With --list: at most so many rows [default: 1000, with --json all]
    #[arg(long, value_name = "N", requires = "list")]
    limit: Option<u64>,
    #[command(flatten)]
    state: StateDir,
}

/// Free the bytes of files on this server
///
/// They stay visible with their size, and come back when they are read. A file leaves only if the share verifiably holds it, nobody has it
/// open, and nobody pinned it; what stays is listed with its reason, and the exit code is 3. With --list: every file in the order in which
/// the policies would tier, with the policy that wants it now or why it stays.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  polder tier /srv/projects/media --pattern '*.iso'\n  polder tier --list")]
pub struct TierArgs {
    #[command(flatten)]
    which: Which,
    /// Coldest first
    #[arg(long, value_name = "ORDER")]
    order: Option<OrderArg>,
}

/// Bring the bytes of tiered files back to this server
///
/// With `--order heat` the warmest come first, without what a policy would tier again at once, and up to the free space and the quota that
/// are to be kept. With --list: what that would be.
///
/// With --from-manifest: of an endpoint that is gone. Placeholders in its folder are found by their marks and become whole files, with bytes that
/// come from the service; when none is left the folder is an ordinary one again. What carries the mark of another file, such as a copy of a
/// placeholder, is left alone, and so is everything that has bytes of its own. Needs no agent, and nobody who serves the folder.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  polder recall /srv/projects --pattern '*.pdf' --threads 8\n  polder recall /srv/projects --order heat\n  polder recall --from-manifest /srv/projects/.polder/left-behind.jsonl"
)]
pub struct RecallArgs {
    #[command(flatten)]
    which: Which,
    /// Warmest first, as far as the policies let them stay
    #[arg(long, value_name = "ORDER")]
    order: Option<OrderArg>,
    /// Files at once
    #[arg(long, value_name = "N", default_value = "4", value_parser = clap::value_parser!(u32).range(1..=THREADS_MAX as i64))]
    threads: u32,
    /// What an endpoint left behind that was removed with --force, or what `polder endpoint left-behind` wrote
    #[arg(long, value_name = "FILE", conflicts_with_all = ["paths", "pattern", "list", "order"])]
    from_manifest: Option<PathBuf>,
    /// With --from-manifest: write listed files of which nothing is there any more into this folder
    #[arg(long, value_name = "DIR")]
    into: Option<PathBuf>,
}

impl RecallArgs {
    /// What the binary is to do; `None` when the agent recalls.
    pub fn manifest(
        &self,
        settings: impl FnOnce() -> Result<Settings, CliError>,
    ) -> Result<Option<HostRequest>, CliError> {
        let Some(manifest) = self.from_manifest.clone() else {
            return match self.into {
                None => Ok(None),
                Some(_) => Err(CliError::usage("--into goes with --from-manifest")),
            };
        };
        let (into, threads) = (self.into.clone(), self.threads);
        Ok(Some(HostRequest::RecallManifest(RecallManifest {
            manifest,
            into,
            threads,
            settings: settings()?,
        })))
    }
}

/// What came of a command.
#[derive(Debug, Default, Serialize)]
struct Outcome {
    #[serde(flatten)]
    moved: Moved,
    /// Files that are as they were.
    stayed: Vec<FileRow>,
}

/// Carries out `polder tier`.
pub async fn tier(args: TierArgs, ui: &mut Ui) -> Result<Exit, CliError> {
    let choice = choice(&args.which, args.order)?;
    if args.which.list {
        let request = Request::TierList { choice, count_max: count_max(&args.which, ui) };
        return list(&args.which, &request, ui).await;
    }
    carry_out(&args.which, &Request::Tier { choice }, ("tier", "freed"), ui).await
}

/// Carries out `polder recall`.
pub async fn recall(args: RecallArgs, ui: &mut Ui) -> Result<Exit, CliError> {
    let choice = choice(&args.which, args.order)?;
    if args.which.list {
        let request = Request::RecallList { choice, count_max: count_max(&args.which, ui) };
        return list(&args.which, &request, ui).await;
    }
    let request = Request::Recall { choice, threads: args.threads };
    carry_out(&args.which, &request, ("recall", "fetched"), ui).await
}

/// Absolute paths, as the agent takes them. Nothing is resolved: a placeholder may not be looked through.
pub fn absolute(path: &OsString) -> Result<JsonBytes, CliError> {
    let path = std::path::Path::new(path);
    let absolute =
        std::path::absolute(path).map_err(|error| CliError::io(format!("resolve {}", shown(path)), error))?;
    Ok(JsonBytes(absolute.as_os_str().as_bytes().to_vec()))
}

fn choice(which: &Which, order: Option<OrderArg>) -> Result<FileChoice, CliError> {
    if which.paths.is_empty() && !which.list {
        return Err(
            CliError::usage("no file or folder is named").hint("give paths, or --list to see the order")
        );
    }
    let paths = which.paths.iter().map(absolute).collect::<Result<_, _>>()?;
    Ok(FileChoice { paths, pattern: which.pattern.clone(), by_heat: order == Some(OrderArg::Heat) })
}

fn count_max(which: &Which, ui: &Ui) -> u64 {
    which.limit.unwrap_or(if ui.is_json() { u64::MAX } else { ROWS_DEFAULT })
}

async fn list(which: &Which, request: &Request, ui: &mut Ui) -> Result<Exit, CliError> {
    let mut rows = Vec::new();
    ask_each(&which.state.state, request, |answer| {
        if let Answer::File(row) = answer {
            rows.push(row);
        }
    })
    .await?;
    ui.show(&rows, |rows| table(rows))?;
    if rows.is_empty() {
        ui.say("no such files");
    } else if which.limit.is_none() && !ui.is_json() && rows.len() as u64 == ROWS_DEFAULT {
        ui.say(format_args!("only the first {ROWS_DEFAULT} are shown; --limit shows more"));
    }
    Ok(Exit::Done)
}

fn table(rows: &[FileRow]) -> String {
    let headers = ["PATH", ">SIZE", ">ON DISK", "IS", "USED", "VERDICT", "WHY"];
    let row = |file: &FileRow| {
        vec![
            file.path.to_string(),
            render::bytes(file.size),
            render::bytes(file.on_disk_bytes),
            render::word(&file.residency),
            render::time(file.used_at),
            render::safe(&file.verdict),
            render::safe(&file.reason),
        ]
    };
    render::table(&headers, rows.iter().map(row))
}

async fn carry_out(
    which: &Which,
    request: &Request,
    (doing, done): (&'static str, &str),
    ui: &mut Ui,
) -> Result<Exit, CliError> {
    let progress = Progress::new(ui, doing);
    let mut outcome = Outcome::default();
    let asked = ask_each(&which.state.state, request, |answer| match answer {
        Answer::Moved(moved) => {
            let before = std::mem::replace(&mut outcome.moved, moved);
            progress.expect_bytes(moved.bytes.saturating_sub(before.bytes));
            progress.add_bytes(moved.bytes_done.saturating_sub(before.bytes_done));
            (before.files_done..moved.files_done).for_each(|_| progress.add_item());
        }
        Answer::File(row) => outcome.stayed.push(row),
        _ => (),
    })
    .await;
    progress.finish();
    asked?;
    let Moved { files, files_failed, bytes_done, .. } = outcome.moved;
    ui.show(&outcome, |outcome| table(&outcome.stayed))?;
    let well = render::counted(files - files_failed.min(files), "file");
    let bytes = render::bytes(bytes_done);
    ui.say(format_args!("{well}, {bytes} {done}; {} stay as they were", render::count(files_failed)));
    Ok(if files_failed > 0 { Exit::Partial } else { Exit::Done })
}
