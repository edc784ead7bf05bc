//! A file system in memory: inodes, names, stamps, open files and mappings, a watcher whose queue overflows, room that
//! ends, and a power cut that loses what was not made durable ([`durable`]).
//!
//! A file's bytes are a number (its [`Token`]).

mod content;
mod durable;
mod kernel;
mod presence;
mod strangers;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use polder_engine::{Dir, Hint, SeenEntry};
use polder_sync::{Seen, StandsFor};
use polder_types::{Attrs, FileIdent, Kind, Name, RelPath, Stamp, Timestamp};

pub use content::{
    EMPTY, Token, attrs, chunk_of, content_of, freed, is_absent, is_zeros, many, number_of, partial, size_of,
    spans_of, token_in, token_of, zeros,
};
use durable::Durable;
pub use presence::Mark;

/// What an inode is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// Names and inodes.
    Dir(BTreeMap<Name, u64>),
    /// Bytes.
    File(Token),
    /// Target.
    Link(Box<[u8]>),
}

/// An inode.
#[derive(Debug, Clone)]
pub struct Inode {
    /// What it is.
    pub node: Node,
    /// Tells one use of the number from the next.
    pub generation: u32,
    /// Permissions.
    pub attrs: Arc<Attrs>,
    /// Modification time.
    pub mtime: Timestamp,
    /// Change time.
    pub ctime: Timestamp,
    /// How many names it has.
    pub links: u32,
    /// Whether an apply made it and nobody has written to it since.
    pub applied: bool,
    /// A mapping has pages that are not written back: further stores move no time.
    pub mapped_dirty: bool,
    /// Programs that have it open or mapped for writing.
    pub opened: u32,
    /// Its mark, while it is a placeholder.
    pub mark: Option<Mark>,
    /// The bytes of its spans, while some are here and others are not.
    pub parts: Option<Vec<Token>>,
    /// Stores through mappings that no time tells of yet.
    pub hidden: bool,
}

/// How finely the file system's times tell two changes apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Times {
    /// Every change has a time of its own (Linux 6.13 and later).
    Fine,
    /// Times move every 4 ms.
    Coarse,
}

/// What the watcher is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watch {
    /// As inotify: what the agent does itself, too.
    Inotify,
    /// As fanotify: nothing of what the agent does itself; attributes of a directory under the directory itself.
    Fanotify,
}

/// A disk.
#[derive(Debug, Clone)]
pub struct Disk {
    inodes: BTreeMap<u64, Inode>,
    next_ino: u64,
    /// Numbers of inodes that are gone, to be used again; those that the disk may still have are not.
    free: Vec<u64>,
    freed: Vec<u64>,
    reuse: bool,
    generations: BTreeMap<u64, u32>,
    times: Times,
    /// Wall time and time since the start of the run, in milliseconds.
    wall_ms: u64,
    mono_ms: u64,
    ticks: u32,
    hints: Vec<Hint>,
    hints_max: usize,
    overflow: bool,
    /// Whether anybody watches; without, no hint is kept.
    pub watched: bool,
    /// What the watcher is told.
    pub watch: Watch,
    /// Whether the agent itself is at work.
    pub own: bool,
    /// Changes that the watcher was not told: stores to mappings, what happened while nobody watched.
    pub untold: bool,
    strangers: strangers::Strangers,
    durable: Option<Durable>,
    /// Bytes that files may have together.
    pub room: u64,
    used: u64,
    /// Directories that cannot be read.
    pub unreadable: BTreeSet<u64>,
    /// What the worker remembers of files that it made resident: how they looked then, and what they held.
    pub known: BTreeMap<u64, (Stamp, Token)>,
}

/// The root of what users see.
pub const ROOT: u64 = 2;
/// Files on their way in.
pub const STAGING: u64 = 3;
/// Files that were displaced.
pub const RECYCLE: u64 = 4;
pub(crate) const ROOTS: [u64; 3] = [ROOT, STAGING, RECYCLE];

impl Disk {
    /// An empty disk. Inode numbers of different disks differ, so that mixing them up shows.
    pub fn new(nth: u64, times: Times, reuse: bool) -> Self {
        let mut disk = Self {
            inodes: BTreeMap::new(),
            next_ino: (nth + 1) * 1_000_000,
            free: Vec::new(),
            freed: Vec::new(),
            reuse,
            generations: BTreeMap::new(),
            times,
            wall_ms: 1_000_000,
            mono_ms: 0,
            ticks: 0,
            hints: Vec::new(),
            hints_max: 64,
            overflow: false,
            watched: false,
            watch: Watch::Inotify,
            own: false,
            untold: false,
            strangers: strangers::Strangers::default(),
            durable: None,
            room: u64::MAX,
            used: 0,
            unreadable: BTreeSet::new(),
            known: BTreeMap::new(),
        };
        let time = disk.tick();
        for root in ROOTS {
            let inode = Inode { links: 2, ..inode(Node::Dir(BTreeMap::new()), attrs(0o755), time) };
            disk.inodes.insert(root, inode);
        }
        disk
    }

    /// From now on it is known what a power cut would take.
    pub fn remember_durable(&mut self) {
        self.durable = Some(Durable::new(self.inodes.clone()));
    }

    /// The watcher's queue holds so many events.
    pub fn set_queue(&mut self, hints_max: usize) {
        self.hints_max = hints_max;
    }

    /// What time it is, for everything that happens from now on.
    pub fn set_clock(&mut self, mono_ms: u64, wall_ms: u64) {
        (self.mono_ms, self.wall_ms) = (mono_ms, wall_ms);
    }

    fn tick(&mut self) -> Timestamp {
        match self.times {
            Times::Fine => {
                // Below a millisecond, and different for every change of a run.
                self.ticks += 1;
                let Timestamp { secs, nanos } = Timestamp::from_unix_millis(self.wall_ms);
                Timestamp::new(secs, nanos + self.ticks % 1_000_000)
            }
            Times::Coarse => Timestamp::from_unix_millis(self.wall_ms & !3),
        }
    }

    /// Whether a change from now on cannot have the time of one that has been.
    pub fn has_passed(&self, ctime: Timestamp) -> bool {
        self.times == Times::Fine || ctime < Timestamp::from_unix_millis(self.wall_ms & !3)
    }

    /// An inode.
    pub fn inode(&self, ino: u64) -> &Inode {
        &self.inodes[&ino]
    }

    /// An inode, if it is still there.
    pub fn get(&self, ino: u64) -> Option<&Inode> {
        self.inodes.get(&ino)
    }

    /// The names of a directory.
    pub fn names(&self, dir: u64) -> Option<&BTreeMap<Name, u64>> {
        match &self.inodes.get(&dir)?.node {
            Node::Dir(names) => Some(names),
            _ => None,
        }
    }

    /// A file's bytes; of a placeholder, those that it stands for.
    pub fn token(&self, ino: u64) -> Option<Token> {
        match &self.inodes.get(&ino)?.mark {
            Some(mark) => Some(mark.token),
            None => self.bytes(ino),
        }
    }

    /// Who has a name.
    pub fn lookup(&self, dir: u64, name: &Name) -> Option<u64> {
        self.names(dir)?.get(name).copied()
    }

    /// Follows a path.
    pub fn walk(&self, path: &RelPath) -> Option<u64> {
        path.names().iter().try_fold(ROOT, |dir, name| self.lookup(dir, name))
    }

    /// Opens a directory as an executor does: by its path, compared with its identity.
    pub fn open(&self, dir: &Dir) -> Option<u64> {
        let ino = self.walk(&dir.path).filter(|ino| self.names(*ino).is_some())?;
        dir.ident.is_none_or(|ident| ident == self.ident(ino)).then_some(ino)
    }

    /// Identity of an inode.
    pub fn ident(&self, ino: u64) -> FileIdent {
        FileIdent { ino, generation: self.inodes[&ino].generation }
    }

    /// What `stat` says.
    pub fn stamp(&self, ino: u64) -> Stamp {
        let inode = self.inode(ino);
        if let Some(mark) = &inode.mark {
            return mark.pledge.stamp(self.ident(ino));
        }
        let size = match &inode.node {
            Node::File(token) => size_of(*token),
            Node::Link(target) => target.len() as u64,
            Node::Dir(_) => 0,
        };
        Stamp { ident: self.ident(ino), ctime: inode.ctime, mtime: inode.mtime, size }
    }

    /// What is seen under a name.
    pub fn seen(&self, dir: u64, name: &Name) -> Option<SeenEntry> {
        self.lookup(dir, name).map(|ino| self.entry(ino, name))
    }

    /// An inode as it is seen under a name.
    pub fn entry(&self, ino: u64, name: &Name) -> SeenEntry {
        let inode = self.inode(ino);
        let target = match &inode.node {
            Node::Link(target) => Some(target.clone()),
            _ => None,
        };
        let kind = Some(self.kind(ino));
        let seen = Seen { name: name.clone(), kind, stamp: self.stamp(ino), links: inode.links };
        let known = || self.known.get(&ino).filter(|(then, _)| *then == self.stamp(ino)).map(|known| known.1);
        let marked = inode.mark.as_ref().map(|mark| StandsFor {
            content: content_of(mark.token),
            version: Some((mark.pledge.node, mark.pledge.since)),
        });
        let stands_for =
            marked.or_else(|| known().map(|token| StandsFor { content: content_of(token), version: None }));
        SeenEntry { seen, attrs: inode.attrs.clone(), target, stands_for: stands_for.map(Box::new) }
    }

    /// What an inode is.
    pub fn kind(&self, ino: u64) -> Kind {
        match self.inode(ino).node {
            Node::Dir(_) => Kind::Directory,
            Node::File(_) => Kind::File,
            Node::Link(_) => Kind::Symlink,
        }
    }

    /// Whether a directory lies in another one, or is it.
    pub fn is_inside(&self, dir: u64, outer: u64) -> bool {
        dir == outer
            || self.names(outer).is_some_and(|names| {
                names.values().any(|child| self.names(*child).is_some() && self.is_inside(dir, *child))
            })
    }

    /// Everything below the root, path and inode, in the order of paths.
    pub fn everything(&self) -> Vec<(RelPath, u64)> {
        let mut all = Vec::new();
        self.list(&RelPath::root(), ROOT, &mut all);
        all
    }

    fn list(&self, path: &RelPath, dir: u64, all: &mut Vec<(RelPath, u64)>) {
        for (name, ino) in self.names(dir).into_iter().flatten() {
            let path = path.join(name.clone());
            all.push((path.clone(), *ino));
            self.list(&path, *ino, all);
        }
    }

    /// Inodes of everything below a root, with the bytes of files.
    pub fn tokens_below(&self, root: u64) -> Vec<(u64, Token)> {
        let (mut found, mut dirs) = (Vec::new(), vec![root]);
        while let Some(dir) = dirs.pop() {
            for ino in self.names(dir).into_iter().flat_map(BTreeMap::values) {
                match &self.inode(*ino).node {
                    Node::Dir(_) => dirs.push(*ino),
                    Node::File(_) => found.extend(self.token(*ino).map(|token| (*ino, token))),
                    Node::Link(_) => (),
                }
            }
        }
        found
    }

    /// Whether a name among what users see leads to these bytes.
    pub fn has_token(&self, token: Token) -> bool {
        self.tokens_below(ROOT).iter().any(|(_, other)| *other == token)
    }

    /// Whether an inode has a name among what users see.
    pub fn is_visible(&self, ino: u64) -> bool {
        self.tokens_below(ROOT).iter().any(|(other, _)| *other == ino)
    }
}

fn inode(node: Node, attrs: Arc<Attrs>, time: Timestamp) -> Inode {
    Inode {
        node,
        generation: 1,
        attrs,
        mtime: time,
        ctime: time,
        links: 0,
        applied: false,
        mapped_dirty: false,
        opened: 0,
        mark: None,
        parts: None,
        hidden: false,
    }
}
