//! Looking and walking.

use std::collections::BTreeSet;
use std::sync::Arc;

use polder_engine::{
    Dir, Event, Failure, FailureClass, JobId, ListEnd, ListPart, Look, LookAt, LookFound, Read,
};
use polder_sync::TreeStore;
use polder_types::{
    FileIdent, Kind, Name, NodeUid, RelPath, Stamp,
    zoo::{Bug, planted},
};

use super::Host;
use crate::disk::{ROOT, Token};

/// A walk in flight.
#[derive(Debug)]
pub struct Walk {
    /// Directories still to be visited, the deepest first.
    stack: Vec<Due>,
    recursive: bool,
    credit: i64,
    entries: u64,
    /// The directory whose names were read, and are compared next.
    reading: Option<Reading>,
}

/// A directory to be visited.
#[derive(Debug, Clone)]
struct Due {
    path: RelPath,
    /// Who it was when it was seen.
    ident: Option<FileIdent>,
    /// Whose rows it is compared with; `None`: those of the node that its identity is known by.
    rows: Option<NodeUid>,
}

/// The names of a directory as they were read.
#[derive(Debug)]
struct Reading {
    path: RelPath,
    rows: Option<NodeUid>,
    dir: u64,
    before: Stamp,
    names: Vec<Name>,
}

/// What came of listing one directory: the part, how many entries it has, and the directories in it.
type Listed = (ListPart, u64, Vec<Due>);

/// What a step of a walk brings.
#[derive(Debug)]
pub enum WalkStep {
    /// Facts; call again unless it is the end.
    Fact(Box<Event>),
    /// Nothing to tell of this directory.
    Silent,
    /// Its names were read; call again.
    Reading,
    /// No credit.
    Wait,
    /// Given up.
    Void,
}

fn denied() -> Failure {
    Failure { class: FailureClass::Denied, text: "permission denied".into() }
}

impl Host {
    /// `statx` of all names that are asked for. "Nothing" stands only below a root that is still ours afterwards.
    pub fn look(&mut self, places: &[LookAt]) -> Vec<Look> {
        places.iter().map(|at| self.look_at(at)).collect()
    }

    fn look_at(&mut self, at: &LookAt) -> Look {
        let ident = at.dir.ident.unwrap_or_default();
        if let (Some(dir), Some(name)) = (self.disk.open(&at.dir), &at.name) {
            self.disk.looked_at(dir, name);
        }
        let found = match (self.disk.open(&at.dir), &at.name) {
            (None, _) => LookFound::DirGone,
            (Some(dir), Some(_)) if self.disk.unreadable.contains(&dir) => LookFound::Failed(denied()),
            (Some(dir), Some(name)) => match self.disk.seen(dir, name) {
                Some(entry) => LookFound::Entry(entry),
                None if !self.mounted => LookFound::DirGone,
                None => LookFound::Nothing,
            },
            (Some(dir), None) => {
                let last = at.dir.path.names().last().cloned();
                let name = last.unwrap_or_else(|| "root".parse().expect("a plain name"));
                LookFound::Entry(self.disk.entry(dir, &name))
            }
        };
        Look { dir: ident, name: at.name.clone(), found }
    }

    /// Begins a walk.
    pub fn begin_walk(&mut self, job: JobId, dir: &Arc<Dir>, recursive: bool, credit: u32) {
        let rows = Some(dir.uid).filter(|_| !planted(Bug::WalkKnowsByInode));
        let stack = vec![Due { path: dir.path.clone(), ident: dir.ident, rows }];
        self.walks.insert(job, Walk { stack, recursive, credit: credit.into(), entries: 0, reading: None });
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
        let recursive = walk.recursive;
        if let Some(reading) = walk.reading.take() {
            let strange = reading.rows.is_none() && reading.dir != ROOT;
            let listed = self.compare(reading);
            return self.listed(job, strange, recursive, listed);
        }
        let Some(due) = walk.stack.pop() else {
            let entry_count = walk.entries;
            self.walks.remove(&job);
            return WalkStep::Fact(Box::new(Event::ListDone { job, entry_count, complete: true }));
        };
        let strange = due.rows.is_none() && !due.path.names().is_empty();
        let listed = match self.read_names(&due) {
            Ok(reading) if self.slow => {
                self.walks.get_mut(&job).expect("looked up above").reading = Some(reading);
                return WalkStep::Reading;
            }
            Ok(reading) => self.compare(reading),
            Err(end) => {
                let part = ListPart {
                    dir: due.ident.unwrap_or_default(),
                    rows: None,
                    differ: Vec::new(),
                    missing: Vec::new(),
                    end: Some(end),
                };
                (part, 0, Vec::new())
            }
        };
        self.listed(job, strange, recursive, listed)
    }

    /// What a walk tells of a directory. One whose own entry was told (`strange`) may be taken for another node than whose rows it was
    /// compared with.
    fn listed(&mut self, job: JobId, strange: bool, recursive: bool, listed: Listed) -> WalkStep {
        let (part, entries, down) = listed;
        if !part.missing.is_empty() && !self.mounted {
            self.walks.remove(&job);
            return WalkStep::Fact(Box::new(Event::ListDone { job, entry_count: 0, complete: false }));
        }
        let walk = self.walks.get_mut(&job).expect("looked up above");
        walk.entries += entries;
        if recursive {
            walk.stack.extend(down.into_iter().rev());
        }
        let equal =
            part.differ.is_empty() && part.missing.is_empty() && matches!(part.end, Some(ListEnd::Complete));
        if equal && recursive && !strange {
            return WalkStep::Silent;
        }
        walk.credit -= (part.differ.len() + part.missing.len()) as i64;
        WalkStep::Fact(Box::new(Event::Listed { job, parts: vec![part] }))
    }

    /// The names of a directory.
    fn read_names(&self, due: &Due) -> Result<Reading, ListEnd> {
        let Due { path, ident, rows } = due;
        let dir = Dir { uid: NodeUid::ROOT, ident: *ident, path: path.clone() };
        let dir = self.disk.open(&dir).ok_or(ListEnd::Gone)?;
        if self.disk.unreadable.contains(&dir) {
            return Err(ListEnd::Unreadable(denied()));
        }
        let names = self.disk.names(dir).expect("opened as a directory").keys().cloned().collect();
        Ok(Reading { path: path.clone(), rows: *rows, dir, before: self.disk.stamp(dir), names })
    }

    /// A directory against the synced rows. What changed since its names were read makes the listing void.
    fn compare(&mut self, reading: Reading) -> Listed {
        let Reading { path, rows, dir, before, names } = reading;
        names.iter().for_each(|name| self.disk.looked_at(dir, name));
        let uid = match (dir, rows) {
            (ROOT, _) => Some(NodeUid::ROOT),
            (_, Some(uid)) => Some(uid),
            (_, None) => self.store.synced_by_ident(before.ident).expect("maps do not fail"),
        };
        let (differ, missing, end) = (Vec::new(), Vec::new(), Some(ListEnd::Void));
        let part = ListPart { dir: before.ident, rows: uid, differ, missing, end };
        if self.disk.get(dir).is_none_or(|_| self.disk.ident(dir) != before.ident) {
            return (part, 0, Vec::new());
        }
        let (mut differ, mut down, mut vanished) = (Vec::new(), Vec::new(), false);
        let mut seen: BTreeSet<NodeUid> = BTreeSet::new();
        for name in &names {
            let Some(ino) = self.disk.lookup(dir, name) else {
                vanished = true;
                continue;
            };
            let row =
                uid.and_then(|uid| self.store.synced_at(uid, name.as_bytes()).expect("maps do not fail"));
            let same = row.is_some_and(|row| {
                let synced = self.store.synced(row).expect("maps do not fail").expect("it is listed");
                is_unchanged(&self.disk.stamp(ino), &synced.stamp)
                    && synced.content.kind() == self.disk.kind(ino)
                    // The mark tells nothing of attributes.
                    && (self.disk.mark(ino).is_none()
                        || synced.attrs_here == self.disk.inode(ino).attrs.hash())
            });
            seen.extend(row);
            if self.disk.kind(ino) == Kind::Directory {
                let rows = row.filter(|_| same);
                down.push(Due { path: path.join(name.clone()), ident: Some(self.disk.ident(ino)), rows });
            }
            if !same {
                differ.push(self.disk.entry(ino, name));
            }
        }
        let in_place = Dir { uid: NodeUid::ROOT, ident: Some(before.ident), path };
        let stood_still =
            !vanished && self.disk.stamp(dir) == before && self.disk.open(&in_place) == Some(dir);
        if !stood_still {
            return (ListPart { differ, ..part }, names.len() as u64, down);
        }
        let rows =
            uid.map(|uid| self.store.synced_children(uid, None, usize::MAX).expect("maps do not fail"));
        let missing = rows.into_iter().flatten().filter(|uid| !seen.contains(uid)).collect();
        let part = ListPart { differ, missing, end: Some(ListEnd::Complete), ..part };
        (part, names.len() as u64, down)
    }

    /// What a file looks like when a read begins; a reader makes it durable unless nobody has it open for writing.
    pub fn read_begin(&mut self, read: &Read) -> Option<(Stamp, Token)> {
        let (ino, found) = self.read_look(read)?;
        if self.disk.inode(ino).opened > 0 {
            self.disk.fsync(ino);
        }
        Some(found)
    }

    /// Why a file cannot be read: it is a placeholder, and its bytes are not here.
    pub fn why_unreadable(&self, read: &Read) -> Option<Failure> {
        let (ino, _) = self.read_look(read)?;
        self.disk.mark(ino)?;
        Some(Failure { class: FailureClass::NotHere, text: "its bytes are not here".into() })
    }

    /// What it looks like now.
    pub fn read_look(&self, read: &Read) -> Option<(u64, (Stamp, Token))> {
        let dir = self.disk.open(&read.at.dir)?;
        let ino = self.disk.lookup(dir, &read.at.name)?;
        let token = self.disk.token(ino)?;
        let stamp = self.disk.stamp(ino);
        (stamp.ident == read.expect.ident).then_some((ino, (stamp, token)))
    }

    /// What stands at the place of a read.
    pub(crate) fn read_entry(&self, at: (&Arc<Dir>, &Name)) -> Option<polder_engine::SeenEntry> {
        self.disk.seen(self.disk.open(at.0)?, at.1)
    }
}

/// Whether what `stat` says is what was agreed. The generation is left out: a reused inode has a younger change time.
fn is_unchanged(seen: &Stamp, row: &Stamp) -> bool {
    seen.ident.ino == row.ident.ino && Stamp { ident: row.ident, ..*seen } == *row
}
