//! The recycle area: what was displaced, looked after while somebody may write to it, and let go in the end. As
//! `replica/src/recycle.rs`, `agent/src/endpoint/displaced.rs` and `expiry.rs`.

use std::collections::{BTreeMap, BTreeSet};

use polder_engine::{Dir, Event, SeenEntry};
use polder_sync::TreeStore;
use polder_types::{
    Kind, Name, NodeUid, RelPath, Stamp, Timestamp, conflict_name,
    zoo::{Bug, planted},
};

use super::{Host, uid_of};
use crate::disk::{RECYCLE, Token, content_of, token_of};
use crate::service::Service;

/// A displaced file that is looked after.
#[derive(Debug, Clone)]
pub struct Displaced {
    /// Its name in the area.
    pub entry: Name,
    /// Whose place it had.
    pub uid: NodeUid,
    /// Which place that was, if that is known.
    pub at: Option<(Dir, Name)>,
}

/// What an agent knows of its area in one life.
#[derive(Debug, Default)]
pub struct Recycle {
    next: u64,
    left_at: BTreeMap<Name, Timestamp>,
    /// Files that somebody may still write to.
    pub watched: Vec<Displaced>,
}

impl Recycle {
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }
}

/// What became of a displaced file since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Since {
    AtRest,
    Open,
    Written,
}

/// Bytes that are let go: the inode, and what it holds.
#[derive(Debug, Clone, Copy)]
pub struct Freed {
    /// Its bytes.
    pub token: u64,
}

impl Host {
    /// A free name for what is about to be displaced.
    pub(super) fn recycle_name(&mut self, uid: NodeUid, expect: &Stamp) -> Name {
        loop {
            let Timestamp { secs, nanos } = expect.mtime;
            let text = format!("{uid}-{}-{secs}.{nanos}-{}", expect.size, self.recycle.next);
            self.recycle.next += 1;
            let name: Name = text.parse().expect("hex, digits, dots and dashes");
            if self.disk.lookup(RECYCLE, &name).is_none() {
                return name;
            }
        }
    }

    pub(super) fn remember_recycled(&mut self, entry: &Name, ctime: Timestamp) {
        self.recycle.left_at.insert(entry.clone(), ctime);
    }

    fn since(&self, entry: &Name) -> Since {
        let Some(ino) = self.disk.lookup(RECYCLE, entry) else { return Since::AtRest };
        if self.disk.token(ino).is_none() || planted(Bug::NoLookBack) {
            return Since::AtRest;
        }
        let stamp = self.disk.stamp(ino);
        let looks_unchanged =
            parse(entry).is_some_and(|(_, size, mtime)| (size, mtime) == (stamp.size, stamp.mtime));
        // A placeholder that was recalled since has another change time although nobody wrote to it.
        let left_at = self.recycle.left_at.get(entry);
        let left_at = left_at.filter(|left| left.secs >= 0 || polder_replica::is_stamp_of_mark(&stamp));
        let untouched = left_at.map(|left| *left == stamp.ctime);
        if !looks_unchanged || untouched == Some(false) {
            return Since::Written;
        }
        if self.disk.inode(ino).opened > 0 { Since::Open } else { Since::AtRest }
    }

    /// Displaced files, as an apply tells of them.
    pub fn watch_displaced(&mut self, displaced: Vec<Displaced>) -> Vec<Event> {
        let mut rescued = Vec::new();
        for one in displaced {
            self.look_at_displaced(one, &mut rescued);
        }
        rescued
    }

    /// Whether what is watched still is open, so that no other look would tell anything.
    pub fn displaced_are_looked_at(&self) -> bool {
        self.recycle.watched.iter().all(|one| self.since(&one.entry) == Since::Open)
    }

    /// Another look at those that were open.
    pub fn look_after_displaced(&mut self) -> Vec<Event> {
        let watched = std::mem::take(&mut self.recycle.watched);
        self.watch_displaced(watched)
    }

    fn look_at_displaced(&mut self, one: Displaced, rescued: &mut Vec<Event>) {
        match self.since(&one.entry) {
            Since::AtRest => (),
            Since::Open => self.recycle.watched.push(one),
            Since::Written => rescued.push(self.rescue(&one)),
        }
    }

    fn rescue(&mut self, one: &Displaced) -> Event {
        let root = Dir { uid: NodeUid::ROOT, ident: None, path: RelPath::root() };
        let nameless: Name = "recovered".parse().expect("a plain name");
        let name = one.at.as_ref().map_or(&nameless, |(_, name)| name);
        let dir = one.at.as_ref().and_then(|(dir, _)| self.disk.open(dir));
        let dir = dir.or_else(|| self.disk.open(&root)).expect("the root is always there");
        let given = self.put_back(&one.entry, dir, None, name);
        self.disk.fsync(dir);
        let entry: SeenEntry = self.disk.seen(dir, &given).expect("it has just got the name");
        Event::Rescued { dir: self.disk.ident(dir), entry, was: one.uid }
    }

    /// Gives an entry a name in a directory of the share again.
    pub(super) fn put_back(&mut self, entry: &Name, dir: u64, wanted: Option<&Name>, name: &Name) -> Name {
        let names = wanted.cloned().into_iter().chain((0..).map(|nth| conflict_name(name, &self.name, nth)));
        let given = names.into_iter().find(|name| self.disk.lookup(dir, name).is_none()).expect("endless");
        self.disk.rename((RECYCLE, entry), (dir, &given));
        self.recycle.left_at.remove(entry);
        given
    }

    /// What lies in the area at the start of a life is looked after, but for what was only on its way to its place.
    pub(super) fn list_recycled(&mut self) {
        let entries: Vec<(Name, u64)> =
            self.disk.names(RECYCLE).into_iter().flatten().map(|(name, ino)| (name.clone(), *ino)).collect();
        for (entry, ino) in entries {
            let Some((uid, size, mtime)) = parse(&entry) else { continue };
            if self.disk.kind(ino) != Kind::File {
                continue;
            }
            let stamp = self.disk.stamp(ino);
            let looks_unchanged = (size, mtime) == (stamp.size, stamp.mtime);
            if looks_unchanged || !self.is_of_the_share(uid, stamp) {
                let at = self.agreed_place(uid);
                self.recycle.watched.push(Displaced { entry, uid, at });
            } else {
                // A version like others from now on, also when its node is gone.
                let name = self.recycle_name(uid, &stamp);
                self.disk.rename((RECYCLE, &entry), (RECYCLE, &name));
                self.disk.fsync(RECYCLE);
            }
        }
    }

    fn is_of_the_share(&self, uid: NodeUid, stamp: Stamp) -> bool {
        let looks = (stamp.size, stamp.mtime);
        let cloud = self.store.cloud(uid).expect("maps do not fail");
        let synced = self.store.synced(uid).expect("maps do not fail");
        cloud.is_some_and(|node| (node.content.size(), node.mtime) == looks)
            || synced.is_some_and(|row| (row.content.size(), row.mtime_share) == looks)
    }

    /// Where rows say that a file with these bytes stands.
    pub fn agreed_at(&self, token: Token) -> BTreeSet<RelPath> {
        let rows = self.store.all_synced().filter(|(_, row)| token_of(&row.content) == Some(token));
        let places = rows.filter_map(|(uid, _)| self.agreed_place(uid));
        places.map(|(dir, name)| dir.path.join(name)).collect()
    }

    fn agreed_place(&self, uid: NodeUid) -> Option<(Dir, Name)> {
        let row = self.store.synced(uid).expect("maps do not fail")?;
        let (mut names, mut above) = (Vec::new(), row.at.parent);
        while above != NodeUid::ROOT {
            let row = self.store.synced(above).expect("maps do not fail")?;
            names.push(row.at.name.clone());
            above = row.at.parent;
            if names.len() > 4096 {
                return None;
            }
        }
        let path = names.into_iter().rev().collect();
        Some((Dir { uid: row.at.parent, ident: None, path }, row.at.name))
    }

    /// One look at what may go: whatever is old enough, or anything when room is short, and known to the share.
    pub fn expire_recycled(&mut self, service: &Service, wall_ms: u64, kept_ms: u64) -> Vec<Freed> {
        let mut entries: Vec<(Timestamp, Name, u64)> = Vec::new();
        for (name, ino) in self.disk.names(RECYCLE).into_iter().flatten() {
            entries.push((self.disk.inode(*ino).ctime, name.clone(), *ino));
        }
        entries.sort();
        let mut freed = Vec::new();
        for (ctime, entry, ino) in entries {
            let age_ms = wall_ms as i64 - ctime.as_nanos_saturated() / 1_000_000;
            if age_ms < kept_ms as i64 && !self.disk.is_short() {
                break;
            }
            if parse(&entry).is_none() {
                continue;
            }
            let Some(token) = self.disk.token(ino) else {
                if self.disk.kind(ino) == Kind::Symlink {
                    self.disk.detach(RECYCLE, &entry);
                }
                continue;
            };
            // A placeholder has no bytes of its own.
            if self.disk.mark(ino).is_some() && self.disk.inode(ino).opened == 0 {
                self.disk.detach(RECYCLE, &entry);
                self.recycle.left_at.remove(&entry);
                continue;
            }
            // Read under a lease, and released under a write lease: nobody has it open in between.
            if self.disk.inode(ino).opened > 0 || self.is_known(&content_of(token), service) != Some(true) {
                continue;
            }
            self.disk.detach(RECYCLE, &entry);
            self.recycle.left_at.remove(&entry);
            if self.disk.get(ino).is_none() {
                freed.push(Freed { token });
            }
        }
        freed
    }
}

/// Node, size and modification time of a name that we made.
fn parse(name: &Name) -> Option<(NodeUid, u64, Timestamp)> {
    let (uid, rest) = name.as_str()?.split_once('-')?;
    let (size, rest) = rest.split_once('-')?;
    let (mtime, _) = rest.rsplit_once('-')?;
    let (secs, nanos) = mtime.split_once('.')?;
    let mtime = Timestamp { secs: secs.parse().ok()?, nanos: nanos.parse().ok()? };
    Some((uid_of(uid)?, size.parse().ok()?, mtime))
}
