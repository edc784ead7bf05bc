//! Lists that may be long: as many rows as asked for, page by page.

use std::num::NonZeroUsize;

use clap::Args;
use polder_api::rest::{ClientError, Page};
use serde::Serialize;

use crate::{CliError, Ui, render};

/// How much of a long list is shown.
#[derive(Debug, Clone, Args)]
pub struct Limit {
    /// Show at most so many rows [default: 1000, with --json all]
    #[arg(long, value_name = "N")]
    limit: Option<NonZeroUsize>,
}

/// Rows of a table when nobody says.
const ROWS_DEFAULT: usize = 1000;

/// Shows a paged list. A table is bounded, because its columns need all rows; JSON goes out page by page as one
/// array, in bounded memory.
pub async fn show<T, F>(
    ui: &mut Ui,
    limit: &Limit,
    headers: &[&str],
    row: impl Fn(&T) -> Vec<String>,
    mut page: impl FnMut(Option<String>) -> F,
) -> Result<usize, CliError>
where
    T: Serialize,
    F: Future<Output = Result<Page<T>, ClientError>>,
{
    let default = if ui.is_json() { usize::MAX } else { ROWS_DEFAULT };
    let limit = limit.limit.map_or(default, NonZeroUsize::get);
    let mut rows = Vec::new();
    let mut shown = 0;
    let mut after = None;
    loop {
        let got = page(after.clone()).await?;
        let room = limit - shown;
        let cut = got.items.len() > room;
        for item in got.items.iter().take(room) {
            if ui.is_json() {
                let text = serde_json::to_string(item).unwrap_or_else(|_| "null".to_owned());
                ui.text(format_args!("{}{text}", if shown == 0 { "[\n  " } else { ", " }))?;
            } else {
                rows.push(row(item));
            }
            shown += 1;
        }
        let next = got.next.filter(|next| after.as_ref() != Some(next));
        let full = shown == limit && (cut || next.is_some());
        if full {
            ui.say(format_args!("only the first {shown} are shown; --limit shows more"));
        }
        match next {
            Some(next) if !full => after = Some(next),
            _ => break,
        }
    }
    if ui.is_json() {
        ui.text(if shown == 0 { "[]" } else { "]" })?;
    } else {
        ui.text(render::table(headers, rows))?;
    }
    Ok(shown)
}
