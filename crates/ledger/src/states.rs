//! Rows as the world sees them: numbers become ids, sequences become authors.

use std::collections::BTreeMap;

use polder_types::{InstanceId, Nid, NodeState, NodeUid, Placed, Seq};

use crate::{CommitRow, NodeRow, Rows, RowsError};

/// Most directories whose ids one page remembers.
const PARENTS_MAX: usize = 4096;

/// Turns rows into states. Remembers what neighbouring rows share: their directory and their commit.
pub(crate) struct States<'a> {
    rows: &'a dyn Rows,
    parents: BTreeMap<Nid, NodeUid>,
    commit: Option<CommitRow>,
}

impl<'a> States<'a> {
    pub fn new(rows: &'a dyn Rows) -> Self {
        Self { rows, parents: BTreeMap::new(), commit: None }
    }

    /// The state of a version of the node `uid`.
    pub fn state(&mut self, uid: NodeUid, row: NodeRow) -> Result<NodeState, RowsError> {
        let parent = self.parent(row.up)?;
        let by = self.author(row.since)?;
        Ok(NodeState {
            uid,
            at: Placed { parent, name: row.name },
            mtime: row.mtime,
            attrs: std::sync::Arc::unwrap_or_clone(row.attrs),
            content: row.content,
            since: row.since,
            by,
        })
    }

    /// Which instance wrote an operation; zero for a direct change, and for commits that are not kept any more.
    pub fn author(&mut self, seq: Seq) -> Result<InstanceId, RowsError> {
        Ok(self.commit(seq)?.map_or(InstanceId::ZERO, |commit| commit.author.by))
    }

    /// The commit that owns an operation.
    pub fn commit(&mut self, seq: Seq) -> Result<Option<CommitRow>, RowsError> {
        let owns = |commit: &CommitRow| commit.seq <= seq && seq <= commit.last();
        if !self.commit.as_ref().is_some_and(owns) {
            self.commit = self.rows.commit_at(seq)?.filter(owns);
        }
        Ok(self.commit)
    }

    fn parent(&mut self, nid: Nid) -> Result<NodeUid, RowsError> {
        if let Some(uid) = self.parents.get(&nid) {
            return Ok(*uid);
        }
        let uid = uid_of(self.rows, nid)?;
        if self.parents.len() == PARENTS_MAX {
            self.parents.clear();
        }
        self.parents.insert(nid, uid);
        Ok(uid)
    }
}

/// The id of a node that some row names.
pub(crate) fn uid_of(rows: &dyn Rows, nid: Nid) -> Result<NodeUid, RowsError> {
    let ident = rows.ident_of(nid)?;
    ident.map(|ident| ident.uid).ok_or_else(|| RowsError::corrupt(format!("node {nid} has no id")))
}

/// About how many bytes of memory a row takes.
pub(crate) fn row_bytes(row: &NodeRow) -> usize {
    let attrs: usize = row.attrs.xattrs.iter().map(|(name, value)| 64 + name.len() + value.len()).sum();
    300 + row.name.as_bytes().len() + attrs
}
