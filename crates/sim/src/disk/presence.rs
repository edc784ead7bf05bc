//! Placeholders: the mark as an attribute that is durable by itself, blocks that are freed and filled in again.

use polder_replica::Pledge;
use polder_types::Timestamp;

use super::durable::Change;
use super::kernel::NoSpace;
use super::{
    Disk, Inode, Node, RECYCLE, ROOT, STAGING, Token, content_of, freed, is_absent, is_zeros, partial,
    size_of, spans_of,
};
use crate::disk::EMPTY;

/// What a placeholder carries: its mark, and beside it what it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// What the mark says.
    pub pledge: Pledge,
    /// The bytes that it stands for.
    pub token: Token,
}

/// Bytes on disk.
pub(super) fn used(inode: &Inode) -> u64 {
    let Node::File(token) = inode.node else { return 0 };
    let spans = |token: Token| spans_of(&content_of(token));
    match &inode.parts {
        None if is_absent(token) => 0,
        None => size_of(token),
        Some(parts) => {
            let here = parts.iter().enumerate().filter(|(_, token)| !is_absent(**token));
            here.map(|(nth, token)| spans(*token).get(nth).map_or(0, |(span, _)| span.end - span.start)).sum()
        }
    }
}

/// The bytes of a span are there.
pub(super) fn put_part(inode: &mut Inode, span: usize, spans: usize, token: Token) {
    let Node::File(bytes) = inode.node else { return };
    let parts = inode.parts.get_or_insert_with(|| vec![bytes; spans]);
    if let Some(part) = parts.get_mut(span) {
        *part = token;
    }
    if parts.iter().all(|part| *part == token) {
        (inode.node, inode.parts) = (Node::File(token), None);
        // Whose content is zeros has none that a power cut could leave in its place.
        inode.applied &= !is_zeros(token);
    }
}

impl Disk {
    /// A file's bytes as they are on disk, whatever it stands for.
    pub fn bytes(&self, ino: u64) -> Option<Token> {
        let inode = self.inodes.get(&ino)?;
        match (&inode.node, &inode.parts) {
            (Node::File(token), None) => Some(*token),
            (Node::File(token), Some(_)) => Some(partial(size_of(*token))),
            _ => None,
        }
    }

    /// The bytes on disk of a span.
    pub fn part(&self, ino: u64, span: usize) -> Token {
        let inode = self.inode(ino);
        match (&inode.node, &inode.parts) {
            (_, Some(parts)) => parts.get(span).copied().unwrap_or(EMPTY),
            (Node::File(token), None) => *token,
            _ => EMPTY,
        }
    }

    /// What a placeholder carries.
    pub fn mark(&self, ino: u64) -> Option<&Mark> {
        self.inodes.get(&ino)?.mark.as_ref()
    }

    /// Sets the mark, or removes it.
    pub fn set_mark(&mut self, ino: u64, mark: Option<Mark>) {
        let time = self.tick();
        let inode = self.inode_mut(ino);
        (inode.mark, inode.ctime) = (mark.clone(), time);
        self.log(time, Change::Mark(ino, mark), None);
    }

    /// Frees all blocks, or gives an empty file its size without any.
    pub fn punch(&mut self, ino: u64, size: u64) {
        let applied = self.inode(ino).applied;
        self.put_bytes(ino, freed(size)).unwrap_or_else(|_| unreachable!("it takes no room"));
        let time = self.tick();
        let inode = self.inode_mut(ino);
        (inode.mtime, inode.ctime, inode.applied) = (time, time, applied);
        self.log(time, Change::Data(ino, freed(size)), None);
    }

    /// `ftruncate` to nothing, whatever it carries.
    pub fn cut(&mut self, ino: u64) {
        self.put_bytes(ino, EMPTY).unwrap_or_else(|_| unreachable!("it takes no room"));
        let time = self.tick();
        let inode = self.inode_mut(ino);
        (inode.mtime, inode.ctime) = (time, time);
        self.log(time, Change::Data(ino, EMPTY), None);
    }

    /// Fills in the bytes of one of so many spans. A hole needs no room.
    pub fn fill(&mut self, ino: u64, (span, spans): (usize, usize), token: Token) -> Result<(), NoSpace> {
        let before = used(self.inode(ino));
        let mut filled = self.inode(ino).clone();
        put_part(&mut filled, span, spans, token);
        let after = used(&filled);
        let is_hole = spans_of(&content_of(token)).get(span).is_some_and(|(_, chunk)| chunk.is_none());
        if !is_hole && after > before && self.used - before + after > self.room {
            return Err(NoSpace);
        }
        self.used = self.used - before + after;
        let time = self.tick();
        (filled.mtime, filled.ctime) = (time, time);
        *self.inode_mut(ino) = filled;
        self.log(time, Change::Part(ino, span, spans, token), None);
        Ok(())
    }

    /// Sets the modification time of the inode itself, be it a placeholder's.
    pub fn set_inode_mtime(&mut self, ino: u64, mtime: Timestamp) {
        let time = self.tick();
        let inode = self.inode_mut(ino);
        (inode.mtime, inode.ctime) = (mtime, time);
        let meta = Change::Meta(ino, inode.attrs.clone(), mtime);
        self.log(time, meta, None);
    }

    /// Writes back what was stored through mappings: the times tell of it from now on.
    pub fn write_back(&mut self, ino: u64) {
        self.inode_mut(ino).mapped_dirty = false;
        if std::mem::take(&mut self.inode_mut(ino).hidden) {
            let time = self.tick();
            let inode = self.inode_mut(ino);
            (inode.mtime, inode.ctime) = (time, time);
        }
    }

    /// The watcher hears of a file under one of its names, if anybody tells it.
    pub fn hint_file(&mut self, ino: u64) {
        let mut dirs = vec![ROOT];
        while let Some(dir) = dirs.pop() {
            for (name, child) in self.names(dir).cloned().unwrap_or_default() {
                if child == ino {
                    return self.hint(dir, Some(&name));
                }
                dirs.extend(self.names(child).map(|_| child));
            }
        }
    }

    /// A file without a mark that shows bytes which are not here.
    pub fn shows_freed(&self) -> Option<u64> {
        let below = [ROOT, RECYCLE].into_iter().flat_map(|root| self.tokens_below(root));
        below.filter(|(_, token)| is_absent(*token)).map(|(ino, _)| ino).next()
    }

    /// Placeholders below the root.
    pub fn placeholders(&self) -> Vec<u64> {
        let below = self.tokens_below(ROOT).into_iter().map(|(ino, _)| ino);
        below.filter(|ino| self.mark(*ino).is_some()).collect()
    }

    /// Whether an inode is only on its way in.
    pub fn is_staged(&self, ino: u64) -> bool {
        self.names(STAGING).is_some_and(|names| names.values().any(|other| *other == ino))
    }
}
