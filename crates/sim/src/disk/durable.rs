//! What a power cut leaves of a disk.
//!
//! Every change is in the page cache first and on the disk some time later; data, names and attributes each for
//! themselves. The changes since the last `syncfs` are kept here with what they rest on, and a power cut keeps any
//! subset that rests on itself: a rename is whole or not there (every file system with a journal gives that), two
//! renames of one name come in their order, a name never survives the directory that it was taken from; but a name
//! may survive without the bytes of its file. `fsync` of a file keeps its bytes and attributes, of a directory the names in
//! it; `syncfs` everything. After thirty seconds everything is written anyway.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use polder_types::{Attrs, Name, Timestamp};

use super::{EMPTY, Inode, Mark, Node, ROOTS, Token, is_absent, is_zeros, presence, size_of, zeros};
use crate::rng::Rng;

/// When the kernel writes by itself.
const WRITEBACK_MS: u64 = 30_000;

/// One change that a power cut keeps or loses as a whole.
#[derive(Debug, Clone)]
pub(super) enum Change {
    /// An inode, without bytes and without a name.
    Make(u64, Inode),
    /// Names of one system call: directory, name, and which inode has it then.
    Names(Vec<(u64, Name, Option<u64>)>),
    /// Bytes.
    Data(u64, Token),
    /// Attributes and the modification time.
    Meta(u64, Arc<Attrs>, Timestamp),
    /// The mark and what it stands for, set or removed.
    Mark(u64, Option<Mark>),
    /// The bytes of one of so many spans.
    Part(u64, usize, usize, Token),
}

#[derive(Debug, Clone)]
struct Pending {
    at_ms: u64,
    ctime: Timestamp,
    change: Change,
    /// Earlier ones that it rests on.
    rests_on: Vec<usize>,
    /// An `fsync` has promised it.
    kept: bool,
}

/// The disk as it surely is, and what is on its way to it.
#[derive(Debug, Clone, Default)]
pub(super) struct Durable {
    inodes: BTreeMap<u64, Inode>,
    pending: Vec<Pending>,
}

impl Change {
    fn makes(&self, inode: u64) -> bool {
        matches!(self, Self::Make(made, _) if *made == inode)
    }

    /// Whether `later` cannot be on disk without this.
    fn carries(&self, later: &Self) -> bool {
        match (self, later) {
            (
                Self::Make(made, _),
                Self::Data(ino, _) | Self::Meta(ino, ..) | Self::Mark(ino, _) | Self::Part(ino, ..),
            ) => made == ino,
            // A file's attributes come in their order.
            (Self::Mark(before, _), Self::Mark(ino, _)) => before == ino,
            (Self::Make(made, _), Self::Names(slots)) => {
                slots.iter().any(|(dir, _, ino)| dir == made || *ino == Some(*made))
            }
            (Self::Names(before), Self::Names(slots)) => slots.iter().any(|(dir, name, ino)| {
                before.iter().any(|(dir_before, name_before, ino_before)| {
                    let same_slot = (dir_before, name_before) == (dir, name);
                    same_slot || ino.is_some() && ino_before == ino
                })
            }),
            _ => false,
        }
    }
}

impl Durable {
    pub fn new(inodes: BTreeMap<u64, Inode>) -> Self {
        Self { inodes, pending: Vec::new() }
    }

    /// Something changed. `leaves`: a directory that lost its name by it.
    pub fn push(&mut self, at_ms: u64, ctime: Timestamp, change: Change, leaves: Option<u64>) {
        self.write_back(at_ms);
        let carries = |earlier: &Change| match (earlier, leaves) {
            (Change::Names(slots), Some(left)) if slots.iter().any(|(dir, ..)| *dir == left) => true,
            _ => earlier.carries(&change),
        };
        let rests_on = self.pending.iter().enumerate().filter(|(_, earlier)| carries(&earlier.change));
        let rests_on = rests_on.map(|(at, _)| at).collect();
        self.pending.push(Pending { at_ms, ctime, change, rests_on, kept: false });
    }

    fn write_back(&mut self, now_ms: u64) {
        if self.pending.first().is_some_and(|first| first.at_ms + WRITEBACK_MS < now_ms) {
            self.sync_all();
        }
    }

    /// `syncfs`.
    pub fn sync_all(&mut self) {
        for pending in std::mem::take(&mut self.pending) {
            lay(&mut self.inodes, pending);
        }
    }

    /// `fsync` of a file or a directory.
    pub fn sync(&mut self, inode: u64) {
        let mine = (0..self.pending.len())
            .filter(|at| match &self.pending[*at].change {
                change if change.makes(inode) => true,
                Change::Data(ino, _) | Change::Meta(ino, ..) => *ino == inode,
                Change::Mark(ino, _) | Change::Part(ino, ..) => *ino == inode,
                Change::Names(slots) => slots.iter().any(|(dir, ..)| *dir == inode),
                Change::Make(..) => false,
            })
            .collect();
        self.keep(mine);
    }

    /// These are promised, and all that they rest on.
    fn keep(&mut self, mut stack: Vec<usize>) {
        while let Some(at) = stack.pop() {
            if !std::mem::replace(&mut self.pending[at].kept, true) {
                stack.extend(self.pending[at].rests_on.iter().copied());
            }
        }
    }

    /// The power goes: what is found afterwards.
    pub fn cut(mut self, rng: &mut Rng) -> BTreeMap<u64, Inode> {
        let percent = *rng.pick(&[0, 30, 70, 95, 100]);
        // A journal keeps names in the order of the system calls; file systems with a log of single files do not.
        let ordered_until = rng.chance(50).then(|| rng.below(self.pending.len() as u64 + 1) as usize);
        let mut there: Vec<bool> = Vec::with_capacity(self.pending.len());
        for (at, pending) in self.pending.iter().enumerate() {
            let drawn = match (&pending.change, ordered_until) {
                (Change::Data(..) | Change::Part(..), _) | (_, None) => rng.chance(percent),
                (_, Some(until)) => at < until,
            };
            there.push(pending.kept || drawn && pending.rests_on.iter().all(|at| there[*at]));
        }
        let mut lost_bytes: BTreeMap<u64, (Token, Timestamp)> = BTreeMap::new();
        // Of files that are made here, only the first bytes are what was placed.
        let mut hollow: BTreeSet<u64> = BTreeSet::new();
        for (pending, there) in std::mem::take(&mut self.pending).into_iter().zip(there) {
            match (&pending.change, there) {
                (Change::Data(ino, _), true) => {
                    lost_bytes.remove(ino);
                    hollow.remove(ino);
                }
                // Blocks that were to be freed are there.
                (Change::Data(_, token), false) if is_absent(*token) => (),
                (Change::Data(ino, token), false) => drop(lost_bytes.insert(*ino, (*token, pending.ctime))),
                (Change::Make(ino, _), _) => drop(hollow.insert(*ino)),
                _ => (),
            }
            if there {
                lay(&mut self.inodes, pending);
            }
        }
        for (ino, (token, time)) in lost_bytes {
            let Some(Inode { node: Node::File(bytes), applied, mtime, ctime, .. }) =
                self.inodes.get_mut(&ino)
            else {
                continue;
            };
            // What was written to a file that stood there before is a user's.
            *applied &= hollow.contains(&ino);
            // A new file has nothing in it, or zeros of the right length; one that was written over may be either.
            if is_zeros(*bytes) && rng.chance(50) || rng.chance(20) {
                *bytes = zeros(size_of(token));
                // Blocks without bytes are there by the change of the inode that has its times, too.
                if *ctime < time {
                    (*mtime, *ctime) = (time, time);
                }
            }
        }
        check(self.inodes)
    }
}

fn lay(inodes: &mut BTreeMap<u64, Inode>, pending: Pending) {
    let time = pending.ctime;
    match pending.change {
        Change::Make(ino, inode) => drop(inodes.insert(ino, inode)),
        Change::Names(slots) => {
            for (dir, name, ino) in slots {
                if let Some(Inode { node: Node::Dir(names), mtime, ctime, .. }) = inodes.get_mut(&dir) {
                    (*mtime, *ctime) = (time, time);
                    match ino {
                        Some(ino) => drop(names.insert(name, ino)),
                        None => drop(names.remove(&name)),
                    }
                }
                if let Some(inode) = ino.and_then(|ino| inodes.get_mut(&ino)) {
                    inode.ctime = time;
                }
            }
        }
        Change::Data(ino, token) => {
            if let Some(inode) = inodes.get_mut(&ino) {
                (inode.node, inode.parts) = (Node::File(token), None);
                inode.applied &= token != EMPTY;
                (inode.mtime, inode.ctime) = (time, time);
            }
        }
        Change::Mark(ino, mark) => {
            if let Some(inode) = inodes.get_mut(&ino) {
                (inode.mark, inode.ctime) = (mark, time);
            }
        }
        Change::Part(ino, span, spans, token) => {
            if let Some(inode) = inodes.get_mut(&ino) {
                presence::put_part(inode, span, spans, token);
                (inode.mtime, inode.ctime) = (time, time);
            }
        }
        Change::Meta(ino, attrs, mtime) => {
            if let Some(inode) = inodes.get_mut(&ino) {
                (inode.attrs, inode.mtime, inode.ctime) = (attrs, mtime, time);
            }
        }
    }
}

/// What the file system's own check makes of it: names of what is not there go, link counts are right, and what has no
/// name is gone.
fn check(mut inodes: BTreeMap<u64, Inode>) -> BTreeMap<u64, Inode> {
    let all: BTreeSet<u64> = inodes.keys().copied().collect();
    let mut links: BTreeMap<u64, u32> = ROOTS.iter().map(|root| (*root, 2)).collect();
    let mut dirs: Vec<u64> = ROOTS.to_vec();
    while let Some(dir) = dirs.pop() {
        let Some(Inode { node: Node::Dir(names), .. }) = inodes.get_mut(&dir) else { continue };
        names.retain(|_, ino| all.contains(ino));
        for ino in names.values() {
            let count = links.entry(*ino).or_default();
            *count += 1;
            if *count == 1 {
                dirs.push(*ino);
            }
        }
    }
    inodes.retain(|ino, inode| {
        let count = links.get(ino).copied();
        inode.links = count.unwrap_or(0);
        (inode.mapped_dirty, inode.hidden, inode.opened) = (false, false, 0);
        count.is_some()
    });
    inodes
}
