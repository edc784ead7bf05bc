//! Copies between a share and this machine, several files at a time.
//!
//! Order: a folder is made before what is in it. A file that fails is listed and does not hold up the others. A file
//! becomes visible only when it is complete, on either side. A crash leaves at most parts of files named
//! `.NAME.polder-part-N`, which the next copy of the same file replaces.

mod download;
mod upload;

use polder_api::rest::{Changed, JsonBytes};
use serde::Serialize;

pub use download::Download;
pub use upload::{Upload, put_stream};

use crate::{CliError, Exit, Ui, render};

/// How many files are on their way at once.
const FILES_AT_ONCE: usize = 16;
/// Failed items that are listed; more are only counted.
const FAILURES_MAX: usize = 1000;

/// What a copy did.
#[derive(Debug, Default, Serialize)]
pub struct Summary {
    /// Files that were copied.
    pub files: u64,
    /// Folders that were made or found.
    pub directories: u64,
    /// Symlinks that were copied.
    pub symlinks: u64,
    /// Bytes of the files.
    pub bytes: u64,
    /// Items that failed.
    pub failed: u64,
    /// The first of them.
    pub failures: Vec<Failure>,
}

/// An item that failed.
#[derive(Debug, Serialize)]
pub struct Failure {
    /// Where, on the side that was read.
    pub path: JsonBytes,
    /// Why.
    pub reason: String,
    #[serde(skip)]
    error: Option<CliError>,
}

impl Summary {
    /// One file.
    pub fn of_one(changed: &Changed) -> Self {
        Self { files: 1, bytes: changed.size, ..Self::default() }
    }

    fn fail(&mut self, path: &[u8], error: CliError) {
        self.failed += 1;
        if self.failures.len() < FAILURES_MAX {
            let reason = error.chain();
            self.failures.push(Failure { path: JsonBytes(path.to_vec()), reason, error: Some(error) });
        }
    }

    /// Shows it. A copy of which nothing came about is the failure itself.
    pub fn show(mut self, done: &str, ui: &mut Ui) -> Result<Exit, CliError> {
        let copied = self.files + self.symlinks + self.directories;
        if self.failed == 1
            && copied == 0
            && let Some(error) = self.failures.pop().and_then(|failure| failure.error)
        {
            return Err(error);
        }
        for failure in &self.failures {
            ui.warn(format_args!("{}: {}", failure.path, failure.reason));
        }
        ui.show(&self, |summary| summary.text(done))?;
        Ok(match (self.failed, copied) {
            (0, _) => Exit::Done,
            (_, 0) => Exit::Failed,
            _ => Exit::Partial,
        })
    }

    fn text(&self, done: &str) -> String {
        let size = render::bytes(self.bytes);
        let mut text = format!("{done} {} ({size})", render::counted(self.files, "file"));
        for (number, what) in [(self.directories, "folder"), (self.symlinks, "symlink")] {
            if number > 0 {
                text.push_str(&format!(", {}", render::counted(number, what)));
            }
        }
        if self.failed > 0 {
            text.push_str(&format!("; {} failed", render::count(self.failed)));
        }
        text
    }
}
