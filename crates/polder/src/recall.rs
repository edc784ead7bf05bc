//! `polder recall --from-manifest`: the agent's hands on the folder, the service's bytes.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use polder_agent::{LeftFile, Recall, Recalled, Versions};
use polder_api::left_behind::content_text;
use polder_api::rest::{Client, JsonPath};
use polder_cli::{CliError, Exit, Progress, RecallManifest, Ui, shown_bytes, shown_table};
use polder_types::{Content, NodeUid, ShareId};
use serde_json::json;
use tokio::runtime::Handle;

use crate::host::{failed, runtime};

/// Versions from the service, which verifies every chunk before it sends it.
struct FromService<'a> {
    client: Client,
    runtime: Handle,
    progress: &'a Progress,
    moved: AtomicU64,
}

impl Versions for FromService<'_> {
    fn fetch(
        &self,
        share: ShareId,
        node: NodeUid,
        content: &Content,
        sink: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let text = content_text(content);
        let mut bytes =
            self.runtime.block_on(self.client.version(share, node, &text)).context("ask the service")?;
        while let Some(part) = self.runtime.block_on(bytes.next()).context("fetch from the service")? {
            sink(&part)?;
        }
        Ok(())
    }

    fn moved(&self, bytes: u64) {
        self.moved.fetch_add(bytes, Ordering::Relaxed);
        self.progress.add_bytes(bytes);
    }
}

/// Carries it out.
pub fn run(request: &RecallManifest, ui: &mut Ui) -> Result<Exit, CliError> {
    let client = request.settings.client()?;
    let runtime = runtime()?;
    let progress = Progress::new(ui, "recall");
    let versions = FromService {
        client,
        runtime: runtime.handle().clone(),
        progress: &progress,
        moved: AtomicU64::new(0),
    };
    let recall = Recall {
        manifest: &request.manifest,
        into: request.into.as_deref(),
        threads: request.threads as usize,
        versions: &versions,
    };
    let recalled = polder_agent::recall(&recall);
    progress.finish();
    let recalled = recalled.map_err(failed)?;
    show(&recalled, request.into.is_some(), ui)?;
    let is_done = recalled.left_count == 0 && !recalled.is_cut_off;
    Ok(if is_done { Exit::Done } else { Exit::Partial })
}

fn show(recalled: &Recalled, into: bool, ui: &mut Ui) -> Result<(), CliError> {
    let left = |file: &LeftFile| json!({ "path": JsonPath(file.path.clone()), "reason": file.reason });
    let document = json!({
        "files": recalled.files,
        "bytes": recalled.bytes,
        "whole": recalled.whole,
        "written": recalled.written,
        "gone": recalled.gone,
        "left_count": recalled.left_count,
        "left": recalled.left.iter().map(left).collect::<Vec<_>>(),
        "is_plain": recalled.is_plain,
        "is_cut_off": recalled.is_cut_off,
    });
    ui.show(&document, |_| {
        let rows = recalled.left.iter().map(|file| vec![file.path.to_string(), file.reason.clone()]);
        if recalled.left.is_empty() { String::new() } else { shown_table(&["PATH", "WHY IT STAYS"], rows) }
    })?;
    ui.say(format_args!(
        "{} files, {} recalled; {} had their bytes; {} are not there any more; {} stay as they were",
        recalled.files,
        shown_bytes(recalled.bytes),
        recalled.whole,
        recalled.gone,
        recalled.left_count
    ));
    if into {
        ui.say(format_args!("{} files written beside", recalled.written));
    }
    if recalled.is_plain {
        ui.say("nothing is tiered there any more: the folder is an ordinary one again");
    }
    if recalled.is_cut_off {
        ui.warn("the list is cut off: what stood behind its last line is not known");
    }
    Ok(())
}
