//! One server: an engine over a store and a disk, and the executor of its effects.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use polder_engine::{
    Effect, Engine, Event, JobId, ListEnd, ListPart, Look, LookAt, LookFound, Now, Read, ReadOutcome,
    RootSeen, Settings, Started, Status,
};
use polder_sync::{TreeStore, mem::MemStore};
use polder_types::{CaseRule, FileIdent, InstanceId, NodeUid, Stamp};

use crate::disk::{Disk, Node, ROOT, Token, content_of};

/// A server.
#[derive(Debug)]
pub struct Host {
    /// Which one.
    pub nth: usize,
    /// Its name.
    pub name: String,
    /// Its instance.
    pub instance: InstanceId,
    /// Its files.
    pub disk: Disk,
    /// Its state database.
    pub store: MemStore,
    /// Its engine; `None` while it is down.
    pub engine: Option<Engine>,
    /// Counts its lives; what belongs to an earlier one is void.
    pub life: u64,
    /// The session with the service, if any.
    pub session: Option<u64>,
    /// What its clock is off by.
    pub skew_ms: u64,
    /// The last status.
    pub status: Option<std::sync::Arc<Status>>,
    /// The moment that it wants to be woken at.
    pub wake: Option<u64>,
    /// Walks in flight.
    walks: BTreeMap<JobId, Walk>,
    cancelled: BTreeSet<JobId>,
}

#[derive(Debug)]
struct Walk {
    dirs: VecDeque<u64>,
    recursive: bool,
    credit: i64,
    entries: u64,
}

impl Host {
    /// A server that is down.
    pub fn new(nth: usize) -> Self {
        Self {
            nth,
            name: format!("s{nth}"),
            instance: InstanceId([nth as u8 + 1; 16]),
            disk: Disk::new(nth as u64),
            store: MemStore::new(CaseRule::Sensitive),
            engine: None,
            life: 0,
            session: None,
            skew_ms: nth as u64 * 3_600_000,
            status: None,
            wake: None,
            walks: BTreeMap::new(),
            cancelled: BTreeSet::new(),
        }
    }

    /// Starts it; the first fact of its life.
    pub fn start(&mut self, settings: Settings, seed: u64) -> Event {
        self.life += 1;
        let mut bytes = [0u8; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.life.to_le_bytes());
        bytes[16] = self.nth as u8 + 1;
        self.engine = Some(Engine::new(settings, bytes));
        self.disk.watched = true;
        let root = RootSeen { stamp: self.disk.stamp(ROOT), attrs: self.disk.inode(ROOT).attrs.clone() };
        Event::Started(Started { instance: self.instance, root: Ok(root) })
    }

    /// Kills it. The store keeps what was durable and perhaps more.
    pub fn kill(&mut self, kept: usize) {
        self.engine = None;
        self.session = None;
        self.status = None;
        self.disk.watched = false;
        self.disk.take_hints();
        self.walks.clear();
        self.cancelled.clear();
        self.store.crash(kept);
    }

    /// One step, with the commit that its effects need.
    pub fn step(&mut self, time_ms: u64, event: Event) -> Vec<Effect> {
        let Some(engine) = &mut self.engine else { return Vec::new() };
        let now = Now { mono_ms: time_ms, unix_ms: time_ms + self.skew_ms };
        let effects = engine.step(&mut self.store, now, event).expect("maps do not fail");
        let durable = effects.iter().any(Effect::needs_durable_store);
        self.store.commit(durable).expect("maps do not fail");
        for effect in &effects {
            match effect {
                Effect::Cancel(job) => {
                    self.walks.remove(job);
                    self.cancelled.insert(*job);
                }
                Effect::Status(status) => self.status = Some(status.clone()),
                _ => (),
            }
        }
        effects
    }

    /// Whether a job was given up.
    pub fn is_cancelled(&self, job: JobId) -> bool {
        self.cancelled.contains(&job)
    }

    /// `statx` of all names that are asked for.
    pub fn look(&self, places: &[LookAt]) -> Vec<Look> {
        let one = |at: &LookAt| {
            let ident = at.dir.ident.expect("only existing directories are asked for");
            let found = match (self.disk.open(&at.dir), &at.name) {
                (None, _) => LookFound::DirGone,
                (Some(dir), Some(name)) => {
                    self.disk.seen(dir, name).map_or(LookFound::Nothing, LookFound::Entry)
                }
                (Some(dir), None) => {
                    let last = at.dir.path.names().last().cloned();
                    let name = last.unwrap_or_else(|| "root".parse().expect("a plain name"));
                    LookFound::Entry(self.disk.entry(dir, &name))
                }
            };
            Look { dir: ident, name: at.name.clone(), found }
        };
        places.iter().map(one).collect()
    }

    /// Begins a walk.
    pub fn begin_walk(&mut self, job: JobId, dir: &polder_engine::Dir, recursive: bool, credit: u32) {
        let dirs = self.disk.open(dir).into_iter().collect();
        self.walks.insert(job, Walk { dirs, recursive, credit: credit.into(), entries: 0 });
    }

    /// A walk may go on.
    pub fn credit(&mut self, job: JobId, more: u32) {
        if let Some(walk) = self.walks.get_mut(&job) {
            walk.credit += i64::from(more);
        }
    }

    /// Lists the next directory of a walk.
    pub fn walk_on(&mut self, job: JobId) -> WalkStep {
        let Some(walk) = self.walks.get_mut(&job) else { return WalkStep::Void };
        if walk.credit <= 0 {
            return WalkStep::Wait;
        }
        let Some(dir) = walk.dirs.pop_front() else {
            let entry_count = walk.entries;
            self.walks.remove(&job);
            return WalkStep::Fact(Event::ListDone { job, entry_count, complete: true });
        };
        let Some(names) = self.disk.names(dir) else { return WalkStep::Fact(Event::Woke) };
        let dirs = names.values().filter(|ino| self.disk.names(**ino).is_some());
        if walk.recursive {
            walk.dirs.extend(dirs);
        }
        walk.entries += names.len() as u64;
        let part = compare(&self.disk, &self.store, dir);
        walk.credit -= (part.differ.len() + part.missing.len()) as i64;
        WalkStep::Fact(Event::Listed { job, parts: vec![part] })
    }

    /// What a file looks like when a read begins.
    pub fn read_begin(&self, read: &Read) -> Option<(Stamp, Token)> {
        let dir = self.disk.open(&read.at.dir)?;
        let ino = self.disk.lookup(dir, &read.at.name)?;
        let stamp = self.disk.stamp(ino);
        match self.disk.inode(ino).node {
            Node::File(token) if stamp.ident == read.expect.ident => Some((stamp, token)),
            _ => None,
        }
    }

    /// What came of it when it ends.
    pub fn read_end(&self, read: &Read, began: Option<(Stamp, Token)>, stored: bool) -> ReadOutcome {
        let (Some(began), Some(ended)) = (began, self.read_begin(read)) else { return ReadOutcome::Gone };
        if began != ended {
            return ReadOutcome::Changed;
        }
        let dir = self.disk.open(&read.at.dir).expect("it was open just now");
        let entry = self.disk.seen(dir, &read.at.name).expect("it stood there just now");
        ReadOutcome::Stable { entry, content: content_of(ended.1), stored }
    }
}

/// What a step of a walk brings.
#[derive(Debug)]
pub enum WalkStep {
    /// A fact; call again unless it is the end.
    Fact(Event),
    /// No credit.
    Wait,
    /// Given up.
    Void,
}

/// A directory against the synced rows.
fn compare(disk: &Disk, store: &MemStore, dir: u64) -> ListPart {
    let ident = FileIdent { ino: dir, generation: 1 };
    let uid = store.synced_by_ident(ident).expect("maps do not fail");
    let mut differ = Vec::new();
    let mut seen: BTreeSet<NodeUid> = BTreeSet::new();
    for name in disk.names(dir).into_iter().flatten().map(|(name, _)| name) {
        let entry = disk.seen(dir, name).expect("it is listed");
        let row = uid.and_then(|uid| store.synced_at(uid, name.as_bytes()).expect("maps do not fail"));
        let same = row.is_some_and(|row| {
            let synced = store.synced(row).expect("maps do not fail").expect("it is listed");
            synced.stamp == entry.seen.stamp && Some(synced.content.kind()) == entry.seen.kind
        });
        seen.extend(row);
        if !same {
            differ.push(entry);
        }
    }
    let rows = uid.map(|uid| store.synced_children(uid, None, usize::MAX).expect("maps do not fail"));
    let missing = rows.into_iter().flatten().filter(|uid| !seen.contains(uid)).collect();
    ListPart { dir: ident, differ, missing, end: Some(ListEnd::Complete) }
}
