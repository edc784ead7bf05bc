//! Reading a share: by path, by node, by directory; now and as it was.

use polder_types::{Kind, Name, Nid, NodeState, NodeUid, RelPath, Seq};

use crate::feed::past_at;
use crate::group::MOVE_STEPS_MAX;
use crate::share::{ROOT_NID, share_row};
use crate::states::States;
use crate::{EntryRow, LedgerError, NodeRow, Rows, RowsError, ShareRow};

/// When a share is read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum At {
    /// At the head.
    #[default]
    Now,
    /// As of a sequence: the state after the last commit that was complete there.
    Seq(Seq),
}

/// A page of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListPage {
    /// Its nodes in the order of their names' keys.
    pub nodes: Vec<NodeState>,
    /// The key after which the next page begins; `None` at the end.
    pub next: Option<Box<[u8]>>,
}

/// One version of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// The state; its `since` is where the version begins.
    pub state: NodeState,
    /// The operation that ended it; `None` for the live one. A version that begins later than this leaves a gap: the
    /// node was deleted in between.
    pub until: Option<Seq>,
    /// When it was made, in milliseconds since 1970; `None` when its commit is not kept any more.
    pub time_ms: Option<u64>,
}

/// A share as of one moment.
struct View<'a> {
    rows: &'a dyn Rows,
    share: ShareRow,
    /// `None`: now.
    at: Option<Seq>,
}

impl<'a> View<'a> {
    fn open(rows: &'a dyn Rows, at: At) -> Result<Self, LedgerError> {
        let share = share_row(rows)?;
        let at = match at {
            At::Seq(seq) if seq > share.head.seq => return Err(LedgerError::NotKept { seq }),
            At::Seq(seq) if seq < share.head.seq => Some(whole_at(rows, &share, seq)?),
            _ => None,
        };
        Ok(Self { rows, share, at })
    }

    fn node(&self, nid: Nid) -> Result<Option<NodeRow>, RowsError> {
        let Some(at) = self.at else { return self.rows.node(nid) };
        match past_at(self.rows, nid, at)? {
            Some(row) => Ok(Some(row)),
            None => Ok(self.rows.node(nid)?.filter(|row| row.since <= at)),
        }
    }

    fn entry(&self, parent: Nid, name: &Name) -> Result<Option<EntryRow>, RowsError> {
        let key = self.share.case.key(name.as_bytes());
        if let Some(at) = self.at
            && let Some(past) = self.rows.past_entry(parent, &key, at)?
            && past.entry.since <= at
        {
            return Ok(Some(past.entry));
        }
        let live = self.rows.entry(parent, &key)?;
        Ok(live.filter(|entry| self.at.is_none_or(|at| entry.since <= at)))
    }

    fn nid(&self, uid: NodeUid) -> Result<Option<Nid>, RowsError> {
        Ok(self.rows.ident(uid)?.map(|ident| ident.nid))
    }
}

/// The sequence up to `seq` at which the tree is whole: the end of a commit.
fn whole_at(rows: &dyn Rows, share: &ShareRow, seq: Seq) -> Result<Seq, LedgerError> {
    let whole = match rows.commit_at(seq)? {
        Some(commit) if commit.last() > seq => Seq(commit.seq.0 - 1),
        _ => seq,
    };
    let kept = whole >= share.history_from || rows.pinned()?.binary_search(&whole).is_ok();
    if kept { Ok(whole) } else { Err(LedgerError::NotKept { seq }) }
}

/// The node at a path; `None` when there is none.
pub fn lookup(rows: &dyn Rows, path: &RelPath, at: At) -> Result<Option<NodeState>, LedgerError> {
    let view = View::open(rows, at)?;
    let mut nid = ROOT_NID;
    for name in path.names() {
        match view.entry(nid, name)? {
            Some(entry) => nid = entry.nid,
            None => return Ok(None),
        }
    }
    state_of(&view, nid)
}

/// A node by its id; `None` when it does not live at that time.
pub fn stat(rows: &dyn Rows, uid: NodeUid, at: At) -> Result<Option<NodeState>, LedgerError> {
    let view = View::open(rows, at)?;
    match view.nid(uid)? {
        Some(nid) => state_of(&view, nid),
        None => Ok(None),
    }
}

fn state_of(view: &View<'_>, nid: Nid) -> Result<Option<NodeState>, LedgerError> {
    let Some(row) = view.node(nid)? else { return Ok(None) };
    let uid = crate::states::uid_of(view.rows, nid)?;
    Ok(Some(States::new(view.rows).state(uid, row)?))
}

/// The children of a directory whose names' keys are above `after`; `None` when it is no live directory at that time.
pub fn list(
    rows: &dyn Rows,
    directory: NodeUid,
    after: Option<&[u8]>,
    limit: usize,
    at: At,
) -> Result<Option<ListPage>, LedgerError> {
    let view = View::open(rows, at)?;
    let Some(parent) = view.nid(directory)? else { return Ok(None) };
    if view.node(parent)?.is_none_or(|row| row.kind() != Kind::Directory) {
        return Ok(None);
    }
    let limit = limit.max(1);
    let page = rows.entries(parent, after, limit, view.at)?;
    let next = page.last().filter(|_| page.len() == limit).map(|last| last.key.clone());
    let mut states = States::new(rows);
    let mut nodes = Vec::with_capacity(page.len());
    for listed in page {
        let nid = listed.entry.nid;
        let missing =
            || RowsError::corrupt(format!("directory {parent} lists node {nid}, which is not there"));
        let row = view.node(nid)?.ok_or_else(missing)?;
        nodes.push(states.state(crate::states::uid_of(rows, nid)?, row)?);
    }
    Ok(Some(ListPage { nodes, next }))
}

/// The path of a node; `None` when it does not live at that time.
pub fn path_of(rows: &dyn Rows, uid: NodeUid, at: At) -> Result<Option<RelPath>, LedgerError> {
    let view = View::open(rows, at)?;
    let Some(mut nid) = view.nid(uid)? else { return Ok(None) };
    let mut names = Vec::new();
    while nid != ROOT_NID {
        let Some(row) = view.node(nid)? else {
            return if names.is_empty() {
                Ok(None)
            } else {
                Err(RowsError::corrupt(format!("node {nid} has children and is not there")).into())
            };
        };
        names.push(row.name);
        nid = row.up;
        // Creation alone can go deeper than moves, so this is generous; a cycle would be damage.
        if names.len() > 64 * MOVE_STEPS_MAX {
            return Err(RowsError::corrupt("directories in a circle").into());
        }
    }
    Ok(Some(names.into_iter().rev().collect()))
}

/// The versions of a node that ended after `after`, oldest first, the live one last; at most `limit`.
pub fn versions(
    rows: &dyn Rows,
    uid: NodeUid,
    after: Seq,
    limit: usize,
) -> Result<Vec<Version>, LedgerError> {
    let Some(ident) = rows.ident(uid)? else { return Ok(Vec::new()) };
    let mut states = States::new(rows);
    let mut found = Vec::new();
    let mut add = |row: NodeRow, until| -> Result<(), LedgerError> {
        let time_ms = states.commit(row.since)?.map(|commit| commit.time_ms);
        found.push(Version { state: states.state(uid, row)?, until, time_ms });
        Ok(())
    };
    let limit = limit.max(1);
    let past = rows.past_nodes(ident.nid, after, limit)?;
    let room = past.len() < limit;
    for past in past {
        add(past.row, Some(past.until))?;
    }
    if room && let Some(row) = rows.node(ident.nid)? {
        add(row, None)?;
    }
    Ok(found)
}
