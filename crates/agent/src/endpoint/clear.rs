//! `polder unmount`, as the endpoint's thread carries it out: the life ends, the mount goes, the disk is compared, and what the share has is removed.
//!
//! Until the folder is noted as being cleared nothing is lost by giving up: the mount is made anew and a new life finds what changed.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use polder_engine::Phase;
use polder_replica::{ClearError, DirAt, PartEnd, Root, Scan, ScanOptions, ScanPart, Scanned, StateReader};
use polder_types::{NodeUid, RelPath, Seq};

use super::{LOCK, Shown, Thread, settings};
use crate::status;

/// Threads of the comparison.
const SCAN_THREADS: usize = 2;

/// Somebody wants the folder to be cleared out.
#[derive(Debug)]
pub(crate) struct Clear {
    /// Every version up to this one is verified in the share; `None`: only go on with what was begun.
    pub verified: Option<Seq>,
    /// What came of it, or why it is not possible now.
    pub answer: Sender<Result<(), String>>,
}

/// Why an endpoint cannot be cleared out now, as far as its life tells. Ok: where the share stands.
pub(crate) fn ensure_agreed(shown: &Shown) -> Result<Seq, String> {
    let Some(status) = &shown.status else {
        return Err(shown.waiting.as_deref().unwrap_or("the endpoint is starting").to_owned());
    };
    match status.phase {
        Phase::InSync => Ok(status.cursor.seq),
        Phase::Problems => Err(format!(
            "{} items are not in sync, and will not be by themselves: `polder errors` lists them",
            status.problem_count
        )),
        _ => {
            let why = status::standstill(shown);
            Err(why.unwrap_or_else(|| format!("{} changes are on their way to the share", status.up.count)))
        }
    }
}

impl Thread {
    /// Carries it out, or says why not; then the endpoint goes on as before.
    pub(super) fn clear(&mut self, wish: Clear) {
        let cleared = self.clear_inner(wish.verified);
        if let Err(why) = &cleared {
            tracing::info!(why, "the folder cannot be unmounted yet");
        }
        let _ = wish.answer.send(cleared);
    }

    fn clear_inner(&mut self, verified: Option<Seq>) -> Result<(), String> {
        let told = |error: &(dyn std::error::Error + 'static)| status::chain(error);
        let mounted = match (self.mounted.take(), verified) {
            (Some(mounted), Some(_)) => mounted,
            (None, _) => return self.go_on_clearing(),
            (still, None) => {
                self.mounted = still;
                return Err("it has just been mounted".to_owned());
            }
        };
        let root = match mounted.take_away(&self.common.gates) {
            Ok(root) => root,
            Err((still, why)) => {
                self.mounted = Some(*still);
                return Err(why);
            }
        };
        *self.tiered.lock().expect(LOCK) = None;
        self.ensure_as_agreed(&root)?;
        let verified = verified.unwrap_or_default();
        polder_replica::begin_clearing(&root, verified).map_err(|error| told(&error))?;
        // From here on the root is no life's any more.
        let last = self.last.take();
        let cleared = self.clear_root(&root);
        if let Some(last) = last {
            last.unlock();
        }
        cleared
    }

    /// After a crash, or an error in the middle.
    fn go_on_clearing(&mut self) -> Result<(), String> {
        let path: PathBuf = super::path(&self.assignment);
        if self.is_cleared {
            // What is left there is ours, and in nobody's way.
            let _ = polder_replica::remove_cleared(&path, &mut |_| true);
            return Ok(());
        }
        // Its lock is taken anew.
        if let Some(last) = self.last.take() {
            last.unlock();
        }
        let root =
            Root::open_clearing(&path, self.assignment.endpoint).map_err(|error| status::chain(&error))?;
        self.clear_root(&root)
    }

    fn clear_root(&mut self, root: &Root) -> Result<(), String> {
        let told = |error: &(dyn std::error::Error + 'static)| status::chain(error);
        let reader =
            StateReader::open(&root.database_path(), self.assignment.case).map_err(|error| told(&error))?;
        let cleared = polder_replica::clear_out(root, &reader, &mut |_| true);
        let cleared = cleared.map_err(|error: ClearError| told(&error))?;
        drop(reader);
        // Before the folder has nothing any more that could tell.
        self.common.state.set_unmounted(self.assignment.endpoint).map_err(|error| told(&error))?;
        self.is_cleared = true;
        tracing::info!(removed = cleared.removed, kept = cleared.kept, "the folder was unmounted");
        let removed = polder_replica::remove_cleared(root.path(), &mut |_| true);
        if let Err(error) = removed {
            tracing::warn!(error = told(&error), "some of the endpoint's own files stay in the folder");
        }
        Ok(())
    }

    /// Compares the whole disk with what was agreed on. Nobody changes it any more, but for who has a file open from before.
    fn ensure_as_agreed(&self, root: &Arc<Root>) -> Result<(), String> {
        let filter = settings::filter(&self.assignment).map_err(|error| error.to_string())?;
        let options = ScanOptions {
            threads: SCAN_THREADS,
            recursive: true,
            credit: u64::from(u32::MAX),
            rows: Some(NodeUid::ROOT),
            policy: settings::attr_policy(&self.assignment),
        };
        let (database, case) = (root.database_path(), self.assignment.case);
        let readers = || StateReader::open(&database, case);
        let top = DirAt { path: RelPath::root(), ident: Some(root.ident()) };
        let scan =
            Scan::start_filtered(Arc::clone(root), Arc::default(), readers, &top, options, Arc::new(filter));
        let scan = scan.map_err(|error| status::chain(&error))?;
        loop {
            match scan.next() {
                Some(Scanned::Part(part)) => ensure_equal(&part)?,
                Some(Scanned::Done { .. }) => return Ok(()),
                Some(Scanned::RootLost(error)) => return Err(status::chain(&error)),
                Some(Scanned::Failed(error)) => return Err(status::chain(&error)),
                None => return Err("the comparison was broken off".to_owned()),
            }
        }
    }
}

/// Fails with a difference. What is neither file nor folder nor symlink is no difference: it stays where it is.
fn ensure_equal(part: &ScanPart) -> Result<(), String> {
    if let Some(found) = part.differ.iter().find(|found| found.seen.kind.is_some()) {
        return Err(format!("\"{}\" has just changed", found.seen.name));
    }
    if !part.missing.is_empty() {
        return Err(format!("{} names have just been removed", part.missing.len()));
    }
    if let Some((name, error)) = part.failed.first() {
        return Err(format!("\"{name}\" could not be looked at: {}", status::chain(error)));
    }
    if let Some(name) = part.mounts.first() {
        return Err(format!("something is mounted on \"{name}\""));
    }
    match &part.end {
        Some(PartEnd::Unreadable(error)) => {
            Err(format!("a folder could not be read: {}", status::chain(error)))
        }
        Some(PartEnd::Void | PartEnd::Gone) => Err("a folder has just changed".to_owned()),
        Some(PartEnd::Complete) | None => Ok(()),
    }
}
