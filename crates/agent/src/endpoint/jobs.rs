//! Threads that work on the disk for one life of an endpoint. They end when the life drops [`Jobs`].

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use polder_engine::{Apply, Dir, Event, Hint, JobId, Lane, LookAt};
use polder_replica::{Credit, ListedPart, ScanOptions, StateReader, WatchEvent, Watcher};

use super::apply::{Applied, Applier};
use super::disk::{Disk, dir_at, failure, seen_entry};
use super::{Facts, LOCK, spawn_thread};
use crate::chunks::Fetcher;

/// Threads that apply, per lane. More do not help: they share the volume and its journal.
const APPLY_THREADS: usize = 2;
/// Threads of a walk.
const SCAN_THREADS: usize = 2;

/// The disk's work.
#[derive(Debug)]
pub(crate) struct Jobs {
    looks: Sender<(JobId, Vec<LookAt>)>,
    small: Sender<Apply>,
    large: Sender<Apply>,
    scans: Mutex<HashMap<JobId, Credit>>,
    disk: Arc<Disk>,
    facts: Facts,
    watcher: Option<Watcher>,
}

impl Jobs {
    /// Starts the threads and the watcher. Without a watcher changes are found by scans alone; that is told.
    pub(crate) fn start(disk: &Arc<Disk>, fetcher: &Fetcher, facts: &Facts) -> Self {
        let (looks, from) = channel();
        let looker = (disk.hands(), facts.clone());
        spawn_thread("look", move || look_all(&from, looker));
        let lane = |name: &str| {
            let (to, from) = channel();
            let from = Arc::new(Mutex::new(from));
            for _ in 0..APPLY_THREADS {
                let from = Arc::clone(&from);
                let applier = Applier { disk: Arc::clone(disk), hands: disk.hands(), fetcher: fetcher.clone() };
                let facts = facts.clone();
                spawn_thread(name, move || apply_all(&from, applier, &facts));
            }
            to
        };
        let (small, large) = (lane("apply-small"), lane("apply-large"));
        let watcher = start_watcher(disk, facts);
        Self {
            looks,
            small,
            large,
            scans: Mutex::default(),
            disk: Arc::clone(disk),
            facts: facts.clone(),
            watcher,
        }
    }

    /// How changes are noticed.
    pub(crate) fn watching(&self) -> &'static str {
        self.watcher.as_ref().map_or("scan", Watcher::kind)
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
        let _ = lane.send(apply);
    }

    /// Begins a walk.
    pub(crate) fn list(&self, job: JobId, dir: &Dir, recursive: bool, credit: u32, rows: StateReader) {
        let credit = Credit::new(credit);
        self.scans.lock().expect(LOCK).insert(job, credit.clone());
        let options = ScanOptions {
            recursive,
            threads: if recursive { SCAN_THREADS } else { 1 },
            filter: self.disk.filter(),
            credit,
        };
        let (disk, facts, start) = (Arc::clone(&self.disk), self.facts.clone(), dir_at(dir));
        spawn_thread("scan", move || scan(&disk, &facts, job, start, options, &rows));
    }

    /// Lets a walk send more.
    pub(crate) fn credit(&self, job: JobId, more: u32) {
        if let Some(credit) = self.scans.lock().expect(LOCK).get(&job) {
            credit.add(more);
        }
    }

    /// A walk is given up, or is over.
    pub(crate) fn forget_scan(&self, job: JobId) {
        if let Some(credit) = self.scans.lock().expect(LOCK).remove(&job) {
            credit.stop();
        }
    }
}

impl Drop for Jobs {
    fn drop(&mut self) {
        for credit in self.scans.lock().expect(LOCK).values() {
            credit.stop();
        }
    }
}

fn look_all(from: &Receiver<(JobId, Vec<LookAt>)>, (mut hands, facts): (super::disk::Hands, Facts)) {
    while let Ok((job, places)) = from.recv() {
        let looks = hands.look(&places);
        facts.send(Event::Looked { job, looks });
    }
}

fn apply_all(from: &Mutex<Receiver<Apply>>, mut applier: Applier, facts: &Facts) {
    loop {
        let next = from.lock().expect(LOCK).recv();
        let Ok(apply) = next else { return };
        let job = apply.job;
        let Applied { results, dirs, held } = applier.apply(apply);
        for name in held {
            tracing::warn!(recycled = name, "displaced bytes that nobody knows lie in the recycle area");
        }
        facts.send(Event::Applied { job, results, dirs });
    }
}

fn scan(
    disk: &Disk,
    facts: &Facts,
    job: JobId,
    start: polder_replica::DirAt,
    options: ScanOptions,
    rows: &StateReader,
) {
    let mut send = |parts: Vec<ListedPart>| {
        let parts = parts.into_iter().map(list_part).collect();
        facts.send(Event::Listed { job, parts });
    };
    let done = polder_replica::scan(&disk.root, &mut || disk.hands().attributes, rows, start, options, &mut send);
    match done {
        Ok(done) => facts.send(Event::ListDone { job, entry_count: done.entry_count, complete: done.complete }),
        Err(error) => {
            tracing::warn!(error = crate::status::chain(&error), "the scan was broken off");
            facts.send(Event::ListDone { job, entry_count: 0, complete: false });
        }
    }
}

fn list_part(part: ListedPart) -> polder_engine::ListPart {
    use polder_replica::ListedEnd;
    polder_engine::ListPart {
        dir: part.dir,
        differ: part.differ.into_iter().map(seen_entry).collect(),
        missing: part.missing,
        end: part.end.map(|end| match end {
            ListedEnd::Complete => polder_engine::ListEnd::Complete,
            ListedEnd::Unreadable(error) => polder_engine::ListEnd::Unreadable(failure(&error)),
            ListedEnd::Void => polder_engine::ListEnd::Void,
        }),
    }
}

fn start_watcher(disk: &Arc<Disk>, facts: &Facts) -> Option<Watcher> {
    let facts = facts.clone();
    let watcher = Watcher::start(&disk.root, move |events| {
        let mut hints = Vec::with_capacity(events.len());
        for event in events {
            match event {
                WatchEvent::Hint { dir, name } => hints.push(Hint { dir, name }),
                WatchEvent::Overflow => facts.send(Event::Overflow),
            }
        }
        if !hints.is_empty() {
            facts.send(Event::Hints(hints));
        }
    });
    watcher
        .inspect_err(|error| {
            tracing::warn!(error = crate::status::chain(error), "changes cannot be watched; they are found by scans");
        })
        .ok()
}
