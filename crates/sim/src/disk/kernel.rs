//! What changes a disk: system calls, and what the kernel does by itself.

use std::sync::Arc;

use polder_engine::Hint;
use polder_types::{Attrs, Name, Timestamp};

use super::durable::Change;
use super::{Disk, EMPTY, Inode, Node, ROOTS, Token, Watch, inode, is_absent, presence, size_of};
use crate::rng::Rng;

/// There is no room for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoSpace;

impl Disk {
    fn dir_mut(&mut self, dir: u64) -> &mut std::collections::BTreeMap<Name, u64> {
        match &mut self.inodes.get_mut(&dir).expect("the directory was looked up").node {
            Node::Dir(names) => names,
            _ => panic!("not a directory"),
        }
    }

    pub(super) fn inode_mut(&mut self, ino: u64) -> &mut Inode {
        self.inodes.get_mut(&ino).expect("the inode was looked up")
    }

    pub(super) fn hint(&mut self, dir: u64, name: Option<&Name>) {
        if !self.watched {
            self.untold = true;
            return;
        }
        if ROOTS[1..].contains(&dir) || self.own && self.watch == Watch::Fanotify {
            return;
        }
        if self.hints.len() >= self.hints_max {
            self.hints.clear();
            self.overflow = true;
        }
        self.hints.push(Hint { dir: self.ident(dir), name: name.cloned() });
    }

    /// Takes what the watcher has; `true` when it lost something.
    pub fn take_hints(&mut self) -> (Vec<Hint>, bool) {
        (std::mem::take(&mut self.hints), std::mem::take(&mut self.overflow))
    }

    /// Whether the watcher has something.
    pub fn has_hints(&self) -> bool {
        !self.hints.is_empty() || self.overflow
    }

    pub(super) fn log(&mut self, ctime: Timestamp, change: Change, leaves: Option<u64>) {
        if let Some(durable) = &mut self.durable {
            durable.push(self.mono_ms, ctime, change, leaves);
        }
    }

    fn dir_changed(&mut self, dir: u64, name: &Name, time: Timestamp) {
        let inode = self.inode_mut(dir);
        (inode.mtime, inode.ctime) = (time, time);
        self.hint(dir, Some(name));
    }

    /// Makes an inode under a free name.
    pub fn create(&mut self, dir: u64, name: &Name, node: Node, attrs: Arc<Attrs>) -> Result<u64, NoSpace> {
        let ino = self.make(node, attrs, false)?;
        self.attach(dir, name, ino);
        Ok(ino)
    }

    /// Makes what an apply is to place: after a power cut it must never be found without its bytes.
    pub fn stage(&mut self, name: &Name, node: Node, attrs: Arc<Attrs>) -> Result<u64, NoSpace> {
        let has_bytes = matches!(node, Node::File(token) if !super::is_zeros(token));
        let ino = self.make(node, attrs, has_bytes)?;
        self.attach(super::STAGING, name, ino);
        Ok(ino)
    }

    /// Makes an empty file that is to become a placeholder.
    pub fn stage_empty(&mut self, name: &Name, attrs: Arc<Attrs>) -> u64 {
        let ino = self.make(Node::File(EMPTY), attrs, true).expect("nothing needs no room");
        self.attach(super::STAGING, name, ino);
        ino
    }

    /// Makes an inode without a name.
    fn make(&mut self, node: Node, attrs: Arc<Attrs>, applied: bool) -> Result<u64, NoSpace> {
        let size = presence::used(&inode(node.clone(), attrs.clone(), Timestamp::default()));
        if size > 0 && self.used + size > self.room {
            return Err(NoSpace);
        }
        self.used += size;
        let ino = match self.free.pop() {
            Some(ino) => ino,
            None => {
                self.next_ino += 1;
                self.next_ino - 1
            }
        };
        let time = self.tick();
        let generation = self.generations.get(&ino).map_or(1, |last| last + 1);
        let made = Inode { generation, applied, ..inode(node.clone(), attrs, time) };
        let token = if let Node::File(token) = node { Some(token) } else { None };
        if self.durable.is_some() {
            let without = match token {
                Some(_) => Inode { node: Node::File(EMPTY), ..made.clone() },
                None => made.clone(),
            };
            self.log(time, Change::Make(ino, without), None);
            // What is to be a placeholder has no bytes to lose.
            if let Some(token) = token.filter(|token| !(applied && *token == EMPTY)) {
                self.log(time, Change::Data(ino, token), None);
            }
        }
        self.inodes.insert(ino, made);
        Ok(ino)
    }

    /// Gives an inode a free name.
    pub fn attach(&mut self, dir: u64, name: &Name, ino: u64) {
        self.set_names(&[(dir, name, Some(ino))]);
        if self.inode(ino).links > 1 && self.names(ino).is_none() {
            self.stranger_came(dir, name);
        }
    }

    /// Takes a name away. What has no name and is not open is gone.
    pub fn detach(&mut self, dir: u64, name: &Name) {
        let ino = self.lookup(dir, name).expect("the name was looked up");
        self.set_names(&[(dir, name, None)]);
        self.stranger_went((dir, name), None, self.inode(ino).links > 0);
        self.drop_if_gone(ino);
    }

    /// Renames over whatever file stands at the target.
    pub fn rename(&mut self, from: (u64, &Name), to: (u64, &Name)) {
        let ino = self.lookup(from.0, from.1).expect("the name was looked up");
        let over = self.lookup(to.0, to.1);
        if from == to || over == Some(ino) {
            return;
        }
        self.set_names(&[(from.0, from.1, None), (to.0, to.1, Some(ino))]);
        self.stranger_went(to, None, over.is_some_and(|over| self.inode(over).links > 0));
        self.stranger_went(from, Some(to), true);
        over.into_iter().for_each(|over| self.drop_if_gone(over));
    }

    /// Exchanges two names.
    pub fn exchange(&mut self, one: (u64, &Name), two: (u64, &Name)) {
        let (first, second) = (self.lookup(one.0, one.1), self.lookup(two.0, two.1));
        self.set_names(&[(one.0, one.1, second), (two.0, two.1, first)]);
    }

    fn set_names(&mut self, slots: &[(u64, &Name, Option<u64>)]) {
        let time = self.tick();
        let mut leaves = None;
        for (dir, name, ino) in slots {
            let names = self.dir_mut(*dir);
            let before = match ino {
                Some(ino) => names.insert((*name).clone(), *ino),
                None => names.remove(*name),
            };
            if let Some(before) = before {
                let inode = self.inode_mut(before);
                inode.links -= 1;
                inode.ctime = time;
            }
            if let Some(ino) = ino {
                let inode = self.inode_mut(*ino);
                inode.links += 1;
                inode.ctime = time;
            }
            if let (Some(before), [_]) = (before, slots) {
                leaves = Some(before);
            }
            self.dir_changed(*dir, name, time);
        }
        if self.durable.is_some() {
            let owned = slots.iter().map(|(dir, name, ino)| (*dir, (*name).clone(), *ino)).collect();
            self.log(time, Change::Names(owned), leaves);
        }
    }

    fn drop_if_gone(&mut self, ino: u64) {
        let inode = self.inode(ino);
        if inode.links > 0 || inode.opened > 0 {
            return;
        }
        let inode = self.inodes.remove(&ino).expect("looked at just now");
        self.generations.insert(ino, inode.generation);
        self.used -= presence::used(&inode);
        if self.reuse {
            let list = if self.durable.is_some() { &mut self.freed } else { &mut self.free };
            list.push(ino);
        }
    }

    pub(super) fn put_bytes(&mut self, ino: u64, token: Token) -> Result<(), NoSpace> {
        let before = presence::used(self.inode(ino));
        let after = if is_absent(token) { 0 } else { size_of(token) };
        // A full disk takes what needs no more than what was there.
        if after > 0 && self.used - before + after > self.room {
            return Err(NoSpace);
        }
        self.used = self.used - before + after;
        let inode = self.inode_mut(ino);
        (inode.node, inode.parts, inode.applied) = (Node::File(token), None, false);
        Ok(())
    }

    /// Writes a file in place, under one of its names or none.
    ///
    /// # Panics
    /// When it is a placeholder: nobody has such a file open for writing.
    pub fn write(&mut self, ino: u64, at: Option<(u64, &Name)>, token: Token) -> Result<(), NoSpace> {
        assert!(self.inode(ino).mark.is_none(), "somebody writes to a placeholder");
        self.put_bytes(ino, token)?;
        let time = self.tick();
        let inode = self.inode_mut(ino);
        (inode.mtime, inode.ctime) = (time, time);
        self.log(time, Change::Data(ino, token), None);
        if let Some((dir, name)) = at {
            self.changed_through(dir, name);
            self.hint(dir, Some(name));
        }
        Ok(())
    }

    /// Stores to a mapping: the watcher is not told, and only the first store since the pages were written back moves
    /// the times.
    pub fn store(&mut self, ino: u64, token: Token) -> Result<(), NoSpace> {
        assert!(self.inode(ino).mark.is_none(), "somebody stores to a placeholder");
        self.put_bytes(ino, token)?;
        self.untold = true;
        self.inode_mut(ino).hidden |= self.inode(ino).mapped_dirty;
        let mut time = self.inode(ino).ctime;
        if !std::mem::replace(&mut self.inode_mut(ino).mapped_dirty, true) {
            time = self.tick();
            let inode = self.inode_mut(ino);
            (inode.mtime, inode.ctime) = (time, time);
        }
        self.log(time, Change::Data(ino, token), None);
        Ok(())
    }

    /// A program has the file open or mapped for writing.
    pub fn hold_open(&mut self, ino: u64) {
        self.inode_mut(ino).opened += 1;
    }

    /// It closes it; the watcher is told under a name that the file has.
    pub fn close(&mut self, ino: u64, at: Option<(u64, &Name)>) {
        let Some(inode) = self.inodes.get_mut(&ino).filter(|inode| inode.opened > 0) else { return };
        inode.opened -= 1;
        if let Some((dir, name)) = at {
            self.hint(dir, Some(name));
        }
        self.drop_if_gone(ino);
    }

    /// Sets attributes or the time.
    pub fn touch(
        &mut self,
        ino: u64,
        at: Option<(u64, &Name)>,
        new: Option<Arc<Attrs>>,
        mtime: Option<Timestamp>,
    ) {
        self.set_meta(ino, new, mtime);
        let itself = self.watch == Watch::Fanotify && self.names(ino).is_some();
        match at {
            Some((dir, name)) if !itself => {
                self.changed_through(dir, name);
                self.hint(dir, Some(name));
            }
            _ => self.hint(ino, None),
        }
    }

    /// As `touch`, without a word to the watcher (directory times after a batch, what is in staging).
    pub fn set_meta(&mut self, ino: u64, new: Option<Arc<Attrs>>, mtime: Option<Timestamp>) {
        let time = self.tick();
        let inode = self.inode_mut(ino);
        if let Some(attrs) = new {
            inode.attrs = attrs;
        }
        inode.ctime = time;
        if let (Some(mtime), Some(mark)) = (mtime, &mut inode.mark) {
            mark.pledge.mtime = mtime;
            let mark = inode.mark.clone();
            self.log(time, Change::Mark(ino, mark), None);
        } else if let Some(mtime) = mtime {
            inode.mtime = mtime;
        }
        let inode = self.inode_mut(ino);
        let meta = Change::Meta(ino, inode.attrs.clone(), inode.mtime);
        self.log(time, meta, None);
    }

    /// Files may have so many bytes more than they have now; `None`: as many as they like.
    pub fn leave_room(&mut self, bytes: Option<u64>) {
        self.room = bytes.map_or(u64::MAX, |bytes| self.used + bytes);
    }

    /// Whether little room is left.
    pub fn is_short(&self) -> bool {
        self.room < u64::MAX && self.room - self.used.min(self.room) < self.room / 8
    }

    /// `fsync` of a file or a directory.
    pub fn fsync(&mut self, ino: u64) {
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.mapped_dirty = false;
        }
        if let Some(durable) = &mut self.durable {
            durable.sync(ino);
        }
    }

    /// `syncfs`.
    pub fn sync_all(&mut self) {
        self.inodes.values_mut().for_each(|inode| inode.mapped_dirty = false);
        if let Some(durable) = &mut self.durable {
            durable.sync_all();
        }
        self.free.append(&mut self.freed);
    }

    /// The power goes, and comes again.
    pub fn power_cut(&mut self, rng: &mut Rng) {
        let Some(durable) = self.durable.take() else { return };
        self.inodes = durable.cut(rng);
        self.used = self.inodes.values().map(presence::used).sum();
        // What was freed may be there again.
        self.freed.clear();
        self.free.retain(|ino| !self.inodes.contains_key(ino));
        self.lose_programs();
        self.remember_durable();
    }

    /// Programs end, and with them what they had open; nobody watches.
    pub fn lose_programs(&mut self) {
        let open: Vec<u64> =
            self.inodes.iter().filter(|(_, inode)| inode.opened > 0).map(|(ino, _)| *ino).collect();
        for ino in open {
            self.inode_mut(ino).opened = 0;
            self.drop_if_gone(ino);
        }
        self.known.clear();
        self.watched = false;
        self.untold = true;
        drop(self.take_hints());
    }
}
