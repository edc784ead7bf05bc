//! Threads that work on the disk for one life of an endpoint. They end when the life drops [`Jobs`].

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use polder_engine::{Apply, Dir, Event, Hint, JobId, Lane, ListEnd, ListPart, LookAt};
use polder_replica::{
    Method, Noticed, OwnEvents, PartEnd, Scan, ScanHandle, ScanOptions, ScanPart, Scanned, StateError,
    StateReaders, WatchOptions, Watcher, on_thread,
};
use polder_types::CaseRule;

use super::apply::{Applied, Applier};
use super::disk::{Disk, dir_at, failure};
use super::displaced::Displaced;
use super::line::{Line, Waiting};
use super::{Facts, LOCK, spawn_thread};
use crate::chunks::Fetcher;
use crate::tiered::Tiered;

/// Threads that apply, per lane: while one waits for the volume's journal, the others build. More do not help.
const APPLY_THREADS: usize = 3;
/// Threads of a walk.
const SCAN_THREADS: usize = 2;
/// Parts of a listing that go to the engine in one fact.
const PARTS_MAX: usize = 64;
const LONG: Duration = Duration::from_secs(3600);

/// The disk's work.
#[derive(Debug)]
pub(crate) struct Jobs {
    looks: Sender<(JobId, Vec<LookAt>)>,
    small: Line,
    large: Line,
    scans: Mutex<HashMap<JobId, ScanHandle>>,
    /// One rule of names a life, so one set of readers.
    readers: OnceLock<StateReaders>,
    disk: Arc<Disk>,
    facts: Facts,
    watcher: Option<Watcher>,
    /// Its end ends the expiry of the recycle area.
    _expiry: Sender<()>,
}

impl Jobs {
    /// Starts the threads and the watcher. Without a watcher changes are found by scans alone; that is told.
    pub(crate) fn start(
        disk: &Arc<Disk>,
        fetcher: &Fetcher,
        facts: &Facts,
        recycled: Vec<Displaced>,
    ) -> Self {
        let (displaced, from) = channel();
        let keeper = (Arc::clone(disk), facts.clone());
        spawn_thread("displaced", move || super::displaced::look_after(&from, &keeper.0, &keeper.1));
        let _ = displaced.send(recycled);
        let (expiry, until) = channel();
        let keeper = (Arc::clone(disk), fetcher.clone());
        spawn_thread("recycle", move || super::expiry::look_after(&until, &keeper.0, &keeper.1));
        let (looks, from) = channel();
        let looker = (disk.hands(), facts.clone());
        spawn_thread("look", move || look_all(&from, looker));
        let lane = |name: &str| {
            let line = Line::new();
            for _ in 0..APPLY_THREADS {
                let from = line.waiting();
                let applier =
                    Applier { disk: Arc::clone(disk), hands: disk.hands(), fetcher: fetcher.clone() };
                let (facts, displaced) = (facts.clone(), displaced.clone());
                let quiet = disk.tiered.as_ref().map(Tiered::quiet);
                spawn_thread(name, move || {
                    // What was applied is told by results, and as little to be looked at as where all own events are left out.
                    let _silent = quiet.as_ref().map(|quiet| quiet.silence());
                    apply_all(&from, applier, &facts, &displaced);
                });
            }
            line
        };
        let (small, large) = (lane("apply-small"), lane("apply-large"));
        let watcher = start_watcher(disk, facts);
        Self {
            looks,
            small,
            large,
            scans: Mutex::default(),
            readers: OnceLock::new(),
            disk: Arc::clone(disk),
            facts: facts.clone(),
            watcher,
            _expiry: expiry,
        }
    }

    /// How changes are noticed.
    pub(crate) fn watching(&self) -> &'static str {
        match self.watcher.as_ref().map(Watcher::method) {
            Some(Method::Fanotify) => "fanotify",
            Some(Method::Inotify) => "inotify",
            None => "scan",
        }
    }

    /// Queues looks.
    pub(crate) fn look(&self, job: JobId, places: Vec<LookAt>) {
        let _ = self.looks.send((job, places));
    }

    /// Queues an apply.
    pub(crate) fn apply(&self, apply: Apply) {
        let lane = match apply.lane {
            Lane::Small => &self.small,
            Lane::Large => &self.large,
        };
        lane.push(apply);
    }

    /// Begins a walk. Its readers see what the state database has committed.
    pub(crate) fn list(&self, job: JobId, dir: &Dir, recursive: bool, credit: u32, case: CaseRule) {
        let options = ScanOptions {
            threads: SCAN_THREADS,
            recursive,
            credit: credit.into(),
            rows: Some(dir.uid),
            policy: self.disk.policy,
        };
        let root = Arc::clone(&self.disk.root);
        let readers = self.readers.get_or_init(|| StateReaders::new(root.database_path(), case));
        let scan = Scan::start(root, Arc::clone(&self.disk.owners), || readers.get(), &dir_at(dir), options);
        let begun = scan.and_then(|scan| {
            self.scans.lock().expect(LOCK).insert(job, scan.handle());
            let (facts, disk) = (self.facts.clone(), Arc::clone(&self.disk));
            let span = tracing::Span::current();
            on_thread(move || span.in_scope(|| tell(&scan, job, &facts, &disk))).map_err(StateError::Sync)
        });
        if let Err(error) = begun {
            tracing::warn!(error = crate::status::chain(&error), "a scan could not begin");
            self.facts.send(Event::ListDone { job, entry_count: 0, complete: false });
        }
    }

    /// Lets a walk send more.
    pub(crate) fn credit(&self, job: JobId, more: u32) {
        if let Some(credit) = self.scans.lock().expect(LOCK).get(&job) {
            credit.credit(more.into());
        }
    }

    /// A walk is given up, or is over.
    pub(crate) fn forget_scan(&self, job: JobId) {
        if let Some(credit) = self.scans.lock().expect(LOCK).remove(&job) {
            credit.cancel();
        }
    }
}

impl Drop for Jobs {
    fn drop(&mut self) {
        for credit in self.scans.lock().expect(LOCK).values() {
            credit.cancel();
        }
    }
}

fn look_all(from: &Receiver<(JobId, Vec<LookAt>)>, (mut hands, facts): (super::disk::Hands, Facts)) {
    while let Ok((job, places)) = from.recv() {
        let looks = hands.look(&places);
        facts.send(Event::Looked { job, looks });
    }
}

fn apply_all(from: &Waiting, mut applier: Applier, facts: &Facts, keeper: &Sender<Vec<Displaced>>) {
    while let Some(apply) = from.next() {
        let job = apply.job;
        let Applied { results, dirs, displaced, held } = applier.apply(apply);
        for name in held {
            tracing::warn!(recycled = name, "displaced bytes that nobody knows lie in the recycle area");
        }
        facts.send(Event::Applied { job, results, dirs });
        // After the results: a rescued file must not be taken for one that moved.
        if !displaced.is_empty() {
            let _ = keeper.send(displaced);
        }
    }
}

/// Hands on what a scan tells, several parts at a time where they are small.
fn tell(scan: &Scan, job: JobId, facts: &Facts, disk: &Disk) {
    let mut parts = Vec::new();
    loop {
        // What is at hand goes out before this waits for more.
        let next = match scan.next_within(if parts.is_empty() { LONG } else { Duration::ZERO }) {
            Ok(next) => next,
            Err(_) => {
                if !parts.is_empty() {
                    facts.send(Event::Listed { job, parts: std::mem::take(&mut parts) });
                }
                continue;
            }
        };
        let (entry_count, complete) = match next {
            Some(Scanned::Part(part)) => {
                parts.push(list_part(part, disk));
                if parts.len() < PARTS_MAX {
                    continue;
                }
                facts.send(Event::Listed { job, parts: std::mem::take(&mut parts) });
                continue;
            }
            Some(Scanned::Done { entry_count }) => (entry_count, true),
            Some(Scanned::RootLost(error)) => {
                tracing::info!(error = crate::status::chain(&error), "the scan was broken off");
                (0, false)
            }
            Some(Scanned::Failed(error)) => {
                tracing::warn!(error = crate::status::chain(&error), "the scan was broken off");
                (0, false)
            }
            None => (0, false),
        };
        if !parts.is_empty() {
            facts.send(Event::Listed { job, parts });
        }
        return facts.send(Event::ListDone { job, entry_count, complete });
    }
}

fn list_part(part: ScanPart, disk: &Disk) -> ListPart {
    for (name, error) in &part.failed {
        tracing::debug!(%name, error = crate::status::chain(error), "an entry could not be looked at");
    }
    ListPart {
        dir: part.dir,
        rows: part.rows,
        differ: part.differ.into_iter().map(|found| disk.seen(found)).collect(),
        missing: part.missing,
        end: part.end.map(|end| match end {
            PartEnd::Complete => ListEnd::Complete,
            PartEnd::Unreadable(error) => ListEnd::Unreadable(failure(&error)),
            PartEnd::Void => ListEnd::Void,
            PartEnd::Gone => ListEnd::Gone,
        }),
    }
}

fn start_watcher(disk: &Arc<Disk>, facts: &Facts) -> Option<Watcher> {
    let told = facts.clone();
    let tell = move |noticed| match noticed {
        Noticed::Hints(hints) => {
            let hints = hints.into_iter().map(|hint| Hint { dir: hint.dir, name: hint.name });
            told.send(Event::Hints(hints.collect()));
        }
        Noticed::Overflow => told.send(Event::Overflow),
        Noticed::Unwatched(count) => {
            tracing::warn!(
                count,
                "directories cannot be watched: raise fs.inotify.max_user_watches; scans find changes"
            );
        }
        Noticed::Failed(error) => {
            tracing::warn!(error = crate::status::chain(&error), "the watcher ended; scans find changes");
            told.send(Event::Overflow);
        }
    };
    // What users do through the gate is done by this process.
    let own = match &disk.tiered {
        Some(tiered) => OwnEvents::Told(Some(tiered.quiet())),
        None => OwnEvents::LeftOut,
    };
    let options = WatchOptions { own, ..WatchOptions::default() };
    Watcher::start(&disk.root, options, Box::new(tell))
        .inspect_err(|error| {
            tracing::warn!(
                error = crate::status::chain(error),
                "changes cannot be watched; they are found by scans"
            );
        })
        .ok()
}
