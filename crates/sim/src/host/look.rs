//! Looking and walking.

use std::collections::BTreeSet;
use std::sync::Arc;

use polder_engine::{
    Dir, Event, Failure, FailureClass, JobId, ListEnd, ListPart, Look, LookAt, LookFound, Read,
};
use polder_sync::TreeStore;
use polder_types::{FileIdent, Kind, Name, NodeUid, RelPath, Stamp};

use super::Host;
use crate::disk::{ROOT, Token};

/// A walk in flight.
#[derive(Debug)]
pub struct Walk {
    /// Directories still to be visited, the deepest first: their way and who they were when they were seen.
    stack: Vec<(RelPath, Option<FileIdent>)>,
    recursive: bool,
    credit: i64,
    entries: u64,
}

/// What a step of a walk brings.
#[derive(Debug)]
pub enum WalkStep {
    /// Facts; call again unless it is the end.
    Fact(Event),
    /// Nothing to tell of this directory.
    Silent,
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
    pub fn look(&self, places: &[LookAt]) -> Vec<Look> {
        places.iter().map(|at| self.look_at(at)).collect()
    }

    fn look_at(&self, at: &LookAt) -> Look {
        let ident = at.dir.ident.unwrap_or_default();
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
        let stack = vec![(dir.path.clone(), dir.ident)];
        self.walks.insert(job, Walk { stack, recursive, credit: credit.into(), entries: 0 });
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
        let Some((path, ident)) = walk.stack.pop() else {
            let entry_count = walk.entries;
            self.walks.remove(&job);
            return WalkStep::Fact(Event::ListDone { job, entry_count, complete: true });
        };
        let recursive = walk.recursive;
        let (part, entries, down) = match self.list(&path, ident) {
            Ok(listed) => listed,
            Err(end) => {
                let part = ListPart {
                    dir: ident.unwrap_or_default(),
                    differ: Vec::new(),
                    missing: Vec::new(),
                    end: Some(end),
                };
                (part, 0, Vec::new())
            }
        };
        if !part.missing.is_empty() && !self.mounted {
            self.walks.remove(&job);
            return WalkStep::Fact(Event::ListDone { job, entry_count: 0, complete: false });
        }
        let walk = self.walks.get_mut(&job).expect("looked up above");
        walk.entries += entries;
        if recursive {
            walk.stack.extend(down.into_iter().rev());
        }
        let equal =
            part.differ.is_empty() && part.missing.is_empty() && matches!(part.end, Some(ListEnd::Complete));
        // A directory that no row knows may stand in the place of one that has rows.
        let known = path.names().is_empty()
            || self.store.synced_by_ident(part.dir).expect("maps do not fail").is_some();
        if equal && recursive && known {
            return WalkStep::Silent;
        }
        walk.credit -= (part.differ.len() + part.missing.len()) as i64;
        WalkStep::Fact(Event::Listed { job, parts: vec![part] })
    }

    /// A directory against the synced rows; how many entries it has, and the directories in it.
    #[expect(clippy::type_complexity, reason = "three things that come of one look, taken apart at once")]
    fn list(
        &self,
        path: &RelPath,
        ident: Option<FileIdent>,
    ) -> Result<(ListPart, u64, Vec<(RelPath, Option<FileIdent>)>), ListEnd> {
        let dir = Dir { uid: NodeUid::ROOT, ident, path: path.clone() };
        let dir = self.disk.open(&dir).ok_or(ListEnd::Gone)?;
        if self.disk.unreadable.contains(&dir) {
            return Err(ListEnd::Unreadable(denied()));
        }
        let ident = self.disk.ident(dir);
        let uid = match dir {
            ROOT => Some(NodeUid::ROOT),
            _ => self.store.synced_by_ident(ident).expect("maps do not fail"),
        };
        let (mut differ, mut down) = (Vec::new(), Vec::new());
        let mut seen: BTreeSet<NodeUid> = BTreeSet::new();
        let names = self.disk.names(dir).expect("opened as a directory");
        for (name, ino) in names {
            let row =
                uid.and_then(|uid| self.store.synced_at(uid, name.as_bytes()).expect("maps do not fail"));
            let same = row.is_some_and(|row| {
                let synced = self.store.synced(row).expect("maps do not fail").expect("it is listed");
                is_unchanged(&self.disk.stamp(*ino), &synced.stamp)
                    && synced.content.kind() == self.disk.kind(*ino)
            });
            seen.extend(row);
            if self.disk.kind(*ino) == Kind::Directory {
                down.push((path.join(name.clone()), Some(self.disk.ident(*ino))));
            }
            if !same {
                differ.push(self.disk.entry(*ino, name));
            }
        }
        let rows =
            uid.map(|uid| self.store.synced_children(uid, None, usize::MAX).expect("maps do not fail"));
        let missing = rows.into_iter().flatten().filter(|uid| !seen.contains(uid)).collect();
        let part = ListPart { dir: ident, differ, missing, end: Some(ListEnd::Complete) };
        Ok((part, names.len() as u64, down))
    }

    /// What a file looks like when a read begins; a reader makes it durable unless nobody has it open for writing.
    pub fn read_begin(&mut self, read: &Read) -> Option<(Stamp, Token)> {
        let (ino, found) = self.read_look(read)?;
        if self.disk.inode(ino).opened > 0 {
            self.disk.fsync(ino);
        }
        Some(found)
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
