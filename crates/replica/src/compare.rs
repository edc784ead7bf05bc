//! A directory's entries against its synced rows: the inner loop of a scan.
//!
//! Both sides come in the order of keys and are merged, so memory follows the names of one directory and not its rows.

use std::cmp::Ordering;

use polder_types::{CaseRule, NodeUid, Stamp};

use crate::statedb::{Child, StateError, StateReader};

/// Rows that are read at once.
const PAGE_ROWS: usize = 1024;

/// Names of a directory, in one piece of memory.
#[derive(Default)]
pub(crate) struct Names {
    bytes: Vec<u8>,
    /// End of each name in `bytes`, in the order of listing.
    ends: Vec<u32>,
    /// Set when more than 4 GiB of names came.
    overflow: bool,
}

impl Names {
    pub(crate) fn push(&mut self, name: &[u8]) {
        self.bytes.extend_from_slice(name);
        match u32::try_from(self.bytes.len()) {
            Ok(end) => self.ends.push(end),
            Err(_) => self.overflow = true,
        }
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
        self.overflow = false;
    }

    /// Whether a name is missing because there were too many.
    pub(crate) fn overflow(&self) -> bool {
        self.overflow
    }

    pub(crate) fn get(&self, at: u32) -> &[u8] {
        let at = at as usize;
        let begin = if at == 0 { 0 } else { self.ends[at - 1] as usize };
        &self.bytes[begin..self.ends[at] as usize]
    }

    /// Numbers of the names, in the order of their keys.
    pub(crate) fn sorted(&self, case: CaseRule) -> Vec<u32> {
        let mut order: Vec<u32> = (0..self.ends.len() as u32).collect();
        match case {
            CaseRule::Sensitive => order.sort_unstable_by(|a, b| self.get(*a).cmp(self.get(*b))),
            CaseRule::Insensitive => order.sort_by_cached_key(|at| case.key(self.get(*at)).into_owned()),
        }
        order
    }
}

/// The synced rows of one directory, page by page.
pub(crate) struct Rows<'a> {
    reader: &'a StateReader,
    parent: Option<NodeUid>,
    page: std::vec::IntoIter<Child>,
    next: Option<Child>,
    last_key: Option<Box<[u8]>>,
}

impl<'a> Rows<'a> {
    /// None for a directory that nobody knows.
    pub(crate) fn new(reader: &'a StateReader, parent: Option<NodeUid>) -> Result<Self, StateError> {
        let mut rows = Self { reader, parent, page: Vec::new().into_iter(), next: None, last_key: None };
        rows.advance()?;
        Ok(rows)
    }

    fn advance(&mut self) -> Result<Option<Child>, StateError> {
        if self.page.len() == 0
            && let Some(parent) = self.parent
        {
            let page = self.reader.children(parent, self.last_key.as_deref(), PAGE_ROWS)?;
            self.last_key = page.last().map(|child| child.key.clone());
            if page.len() < PAGE_ROWS {
                self.parent = None;
            }
            self.page = page.into_iter();
        }
        let next = self.page.next();
        Ok(std::mem::replace(&mut self.next, next))
    }

    /// The row under `key`; rows under smaller keys are gone to `missing`. Keys must come in order. A key that comes
    /// twice (names that differ in case only) finds its row the first time.
    pub(crate) fn take(
        &mut self,
        key: &[u8],
        missing: &mut Vec<NodeUid>,
    ) -> Result<Option<Child>, StateError> {
        while let Some(next) = &self.next {
            match next.key[..].cmp(key) {
                Ordering::Less => missing.extend(self.advance()?.map(|child| child.uid)),
                Ordering::Equal => return self.advance(),
                Ordering::Greater => break,
            }
        }
        Ok(None)
    }

    /// All rows that are left.
    pub(crate) fn rest(&mut self, missing: &mut Vec<NodeUid>) -> Result<(), StateError> {
        while let Some(child) = self.advance()? {
            missing.push(child.uid);
        }
        Ok(())
    }
}

/// Whether what `stat` says is what was agreed. The generation is left out: a reused inode has a younger change time.
pub(crate) fn is_unchanged(seen: &Stamp, row: &Stamp) -> bool {
    seen.ident.ino == row.ident.ino && Stamp { ident: row.ident, ..*seen } == *row
}
