//! `polder evaluate`: what a person should know before a folder becomes an endpoint. Looks only; changes nothing.
//!
//! Each finding is a row of type, path, level, description and result. `error` means that it will not work, `warning`
//! that something will not be as before, `info` that it is as expected or merely worth knowing.

mod dataset;
pub mod estimate;
mod system;

use polder_cli::{CliError, Evaluate, Exit, Ui, shown_table};
use polder_types::Escaped;
use serde_json::json;

/// Rows of one description that are listed; more are only counted.
const ROWS_MAX: usize = 100;

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// As expected, or worth knowing.
    Info,
    /// Something will not be as before.
    Warning,
    /// It will not work.
    Error,
}

impl Level {
    fn word(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// A finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// `system` or `dataset`.
    pub kind: &'static str,
    /// What it is about; bytes as on disk.
    pub path: Vec<u8>,
    /// How much it matters.
    pub level: Level,
    /// What was looked at: the same words for every finding of one kind.
    pub description: &'static str,
    /// What was found, and what follows.
    pub result: String,
}

/// Findings, bounded for each description.
#[derive(Debug, Default)]
pub struct Findings {
    rows: Vec<Row>,
    /// Description, level, how many.
    counts: Vec<(&'static str, Level, usize)>,
}

impl Findings {
    /// One more finding.
    pub fn add(&mut self, row: Row) {
        let count = match self.counts.iter_mut().find(|(description, ..)| *description == row.description) {
            Some((_, _, count)) => count,
            None => {
                self.counts.push((row.description, row.level, 0));
                &mut self.counts.last_mut().expect("just pushed").2
            }
        };
        *count += 1;
        if *count <= ROWS_MAX {
            self.rows.push(row);
        }
    }

    /// All rows, with one for what is not listed.
    fn finish(mut self) -> Vec<Row> {
        for (description, level, count) in self.counts {
            if count > ROWS_MAX {
                let result = format!("{} more like this", count - ROWS_MAX);
                self.rows.push(Row { kind: "dataset", path: Vec::new(), level, description, result });
            }
        }
        self.rows
    }
}

/// Carries out `polder evaluate`.
pub fn run(request: &Evaluate, ui: &mut Ui) -> Result<Exit, CliError> {
    let path = std::path::absolute(&request.path)
        .map_err(|error| CliError::io(format!("resolve \"{}\"", request.path.display()), error))?;
    let metadata = path
        .symlink_metadata()
        .map_err(|error| CliError::io(format!("read \"{}\"", path.display()), error))?;
    if !metadata.is_dir() {
        return Err(CliError::usage(format!("\"{}\" is not a folder", path.display())));
    }
    let mut findings = Findings::default();
    if !request.skip_system {
        system::check(&path, &mut findings);
    }
    if !request.skip_dataset {
        // Where the volume cannot be asked, the system's checks say so.
        let file_bytes_min = polder_agent::survey(&path).map_or(8192, |survey| survey.file_bytes_min);
        dataset::check(&path, file_bytes_min, &mut findings, ui);
    }
    let rows = findings.finish();
    show(&rows, request.csv, ui)?;
    let bad = rows.iter().any(|row| row.level == Level::Error);
    Ok(if bad { Exit::Failed } else { Exit::Done })
}

fn show(rows: &[Row], csv: bool, ui: &mut Ui) -> Result<(), CliError> {
    let cells = |row: &Row| {
        [row.kind, &Escaped(&row.path).to_string(), row.level.word(), row.description, &row.result]
            .map(str::to_owned)
    };
    if csv {
        ui.text("Type,Path,Level,Description,Result")?;
        for row in rows {
            ui.text(cells(row).map(|cell| quoted(&cell)).join(","))?;
        }
        return Ok(());
    }
    let document: Vec<_> = rows
        .iter()
        .map(|row| {
            json!({
                "type": row.kind, "path": polder_api::rest::JsonBytes(row.path.clone()), "level": row.level.word(),
                "description": row.description, "result": row.result,
            })
        })
        .collect();
    ui.show(&document, |_| {
        shown_table(
            &["TYPE", "PATH", "LEVEL", "DESCRIPTION", "RESULT"],
            rows.iter().map(|row| cells(row).to_vec()),
        )
    })
}

/// A cell of RFC 4180. A cell that a spreadsheet would run as a formula gets a quote in front.
fn quoted(cell: &str) -> String {
    let formula = if cell.starts_with(['=', '+', '-', '@']) { "'" } else { "" };
    format!("\"{formula}{}\"", cell.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_quoted_and_run_nothing() {
        assert_eq!(quoted("plain"), "\"plain\"");
        assert_eq!(quoted("a\"b,c"), "\"a\"\"b,c\"");
        assert_eq!(quoted("=1+1"), "\"'=1+1\"");
    }

    #[test]
    fn findings_are_bounded_and_counted() {
        let mut findings = Findings::default();
        for number in 0..ROWS_MAX + 7 {
            let path = number.to_string().into_bytes();
            findings.add(Row {
                kind: "dataset",
                path,
                level: Level::Warning,
                description: "d",
                result: String::new(),
            });
        }
        let rows = findings.finish();
        assert_eq!(rows.len(), ROWS_MAX + 1);
        assert_eq!(rows[ROWS_MAX].result, "7 more like this");
    }
}
