//! Before the local copies of an endpoint go: whether the share verifiably has all that is here.

use std::collections::BTreeSet;

use polder_replica::{FsError, Recycle};

use super::files::{chunks_of, failed_fetch};
use super::{LIST_PAGE, Residency, Tiered, TieredError, disk};

impl Tiered {
    /// Fails with what the share does not have, or cannot say that it has: packs that it has not read back yet, files whose mark is damaged. Of what is
    /// agreed on alone; changes that nobody has sent are found by a look at the disk. Asks the service, and reads no file.
    pub(crate) fn ensure_held(&self) -> Result<(), TieredError> {
        let fetcher = self.0.fetcher()?;
        let mut after = None;
        loop {
            let files = self.files(after, LIST_PAGE)?;
            let Some(last) = files.last() else { break };
            after = Some(last.node);
            let mut chunks = BTreeSet::new();
            for file in &files {
                if file.residency == Residency::Orphaned {
                    return Err(TieredError::Orphaned);
                }
                if file.residency == Residency::Resident && file.size > 0 {
                    let row = self.0.row(file.node)?;
                    chunks.extend(chunks_of(&fetcher, &row.content).map_err(|error| failed_fetch(&error))?);
                }
            }
            let verified = self.0.verified(&chunks)?;
            if !chunks.is_subset(&verified) {
                let missing = chunks.len() - verified.len();
                let why = format!("{missing} pieces of files that were sent are not read back there yet");
                return Err(TieredError::Share(why.into()));
            }
        }
        // A copy of a placeholder stands for nothing, and would be left as a file of zeros.
        let mut copy = None;
        let walked = polder_replica::each_marked(&self.0.root, &mut |file| {
            if file.stands_for.is_none() {
                copy = Some(file.path);
            }
            Ok::<(), FsError>(())
        });
        walked.map_err(|error| disk(&error))?;
        match copy {
            Some(path) => {
                let why =
                    format!("\"{path}\" carries a mark that is damaged or another file's: remove it first");
                Err(TieredError::Disk(why.into()))
            }
            None => Ok(()),
        }
    }

    /// Drops what was displaced from here and is in the share. What it does not have stays, and so does what somebody uses; nothing fails by it.
    pub(crate) fn let_go_of_displaced(&self) {
        let Ok(fetcher) = self.0.fetcher() else { return };
        // A placeholder that was displaced in the middle of a recall would be in use by ourselves.
        self.0.files.put_down();
        let let_go = || -> anyhow::Result<()> {
            Ok(crate::endpoint::let_go_of_known(&*Recycle::open(&self.0.root)?, &fetcher)?)
        };
        if let Err(error) = let_go() {
            tracing::warn!(error = format!("{error:#}"), "what was displaced stays in the folder");
        }
    }
}
