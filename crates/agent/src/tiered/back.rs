//! Everything comes back: before the folder is laid out plainly, and before the endpoint is let go.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use polder_tiering::Lane;

use super::{Cancel, Keep, LIST_PAGE, LOCK, Recalled, Residency, Tiered, TieredError, TieredFile};

/// Files at once.
const THREADS: usize = 4;
/// Files that are recalled together.
const TOGETHER: usize = 32;
/// Of the volume, this part stays free whatever comes back: a full volume stops more than this endpoint.
const MARGIN_PARTS: u64 = 100;

/// How far it is.
#[derive(Debug, Default)]
struct Progress {
    files: u64,
    bytes: u64,
    files_done: AtomicU64,
    bytes_done: AtomicU64,
    left: AtomicU64,
    why: Mutex<Option<String>>,
}

/// Bytes that a file lacks here.
fn missing(file: &TieredFile) -> u64 {
    match file.residency {
        Residency::Resident => 0,
        Residency::Tiered { present_bytes } => file.size.saturating_sub(present_bytes),
        Residency::Orphaned => 0,
    }
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / 1_048_576.0)
}

impl Tiered {
    /// Brings everything back that is tiered, whatever of it can be. From now on what comes from the share arrives whole, and nothing is
    /// given up. Refused before the first byte when the volume has no room for all. An error says how much is left. May be called again.
    pub(crate) fn recall_all(&self, cancel: &Cancel) -> Result<(), TieredError> {
        self.0.takes_arrivals.store(false, Ordering::Release);
        let progress = self.count_tiered(cancel)?;
        if progress.files == 0 {
            return Ok(());
        }
        self.ensure_room(progress.bytes)?;
        tracing::info!(files = progress.files, bytes = progress.bytes, "all tiered files are recalled");
        self.pages(cancel, |files| self.recall_page(&files, &progress, cancel))?;
        match progress.left.into_inner() {
            0 => Ok(()),
            count => {
                let why = progress.why.into_inner().expect(LOCK).unwrap_or_default();
                Err(TieredError::Left { count, why: why.into() })
            }
        }
    }

    /// What is being done about it, for people.
    pub(crate) fn doing(&self) -> Option<Box<str>> {
        self.0.doing.lock().expect(LOCK).clone()
    }

    /// Placeholders may be made again.
    pub(crate) fn resume_arrivals(&self) {
        self.0.takes_arrivals.store(true, Ordering::Release);
        self.say(None);
    }

    /// What is told of it while there is more to tell than of a life.
    pub(crate) fn say(&self, what: Option<String>) {
        *self.0.doing.lock().expect(LOCK) = what.map(Into::into);
    }

    fn pages(&self, cancel: &Cancel, mut each: impl FnMut(Vec<TieredFile>)) -> Result<(), TieredError> {
        let mut after = None;
        loop {
            if cancel.is_cancelled() {
                return Err(TieredError::Cancelled);
            }
            let mut files = self.files(after, LIST_PAGE)?;
            let Some(last) = files.last() else { return Ok(()) };
            after = Some(last.node);
            files.retain(|file| file.residency != Residency::Resident);
            each(files);
        }
    }

    fn count_tiered(&self, cancel: &Cancel) -> Result<Progress, TieredError> {
        let mut progress = Progress::default();
        self.pages(cancel, |files| {
            progress.files += files.len() as u64;
            progress.bytes += files.iter().map(missing).sum::<u64>();
        })?;
        Ok(progress)
    }

    fn ensure_room(&self, bytes: u64) -> Result<(), TieredError> {
        let volume = self.volume()?;
        let room_bytes = volume.free_bytes.saturating_sub(volume.bytes / MARGIN_PARTS);
        match bytes <= room_bytes {
            true => Ok(()),
            false => Err(TieredError::NoRoom { bytes, room_bytes }),
        }
    }

    fn recall_page(&self, files: &[TieredFile], progress: &Progress, cancel: &Cancel) {
        let (next, is_full) = (AtomicUsize::new(0), AtomicBool::new(false));
        let parts: Vec<&[TieredFile]> = files.chunks(TOGETHER).collect();
        std::thread::scope(|scope| {
            for _ in 0..THREADS.min(parts.len()) {
                scope.spawn(|| {
                    while let Some(part) = parts.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if !is_full.load(Ordering::Relaxed) && !cancel.is_cancelled() {
                            let nodes: Vec<_> = part.iter().map(|file| file.node).collect();
                            let outcomes = self.recall_files(&nodes, Lane::Command, Keep::Resident, cancel);
                            for (file, outcome) in part.iter().zip(&outcomes) {
                                let full = matches!(outcome, Err(TieredError::NoSpace));
                                is_full.fetch_or(full, Ordering::Relaxed);
                                progress.note(file, outcome);
                            }
                        } else {
                            progress.left.fetch_add(part.len() as u64, Ordering::Relaxed);
                        }
                        self.say(Some(progress.told()));
                    }
                });
            }
        });
    }
}

impl Progress {
    fn note(&self, file: &TieredFile, outcome: &Result<Recalled, TieredError>) {
        let why = match outcome {
            // Gone by now, or another file that is looked at in its turn.
            Ok(Recalled { residency: Residency::Resident, .. }) | Err(TieredError::NoFile) => {
                self.files_done.fetch_add(1, Ordering::Relaxed);
                self.bytes_done.fetch_add(missing(file), Ordering::Relaxed);
                return;
            }
            Ok(_) => "it changed meanwhile".to_owned(),
            Err(error) => crate::status::chain(error),
        };
        self.left.fetch_add(1, Ordering::Relaxed);
        *self.why.lock().expect(LOCK) = Some(format!("\"{}\": {why}", file.path));
    }

    fn told(&self) -> String {
        let done = |count: &AtomicU64| count.load(Ordering::Relaxed);
        format!(
            "all tiered files are recalled: {} of {} files, {} of {}",
            done(&self.files_done),
            self.files,
            mebibytes(done(&self.bytes_done)),
            mebibytes(self.bytes)
        )
    }
}
