//! The feed: what changed after a cursor, up to a cut; and the whole tree for whoever begins.
//!
//! Only at a cut is the tree whole. In between, orphans and two nodes at one name are legal, because each node comes with its
//! state at the cut and not with what led there.

use polder_types::{Cursor, InstanceId, Nid, NodeState, NodeUid, Seq};

use crate::share::{check_cursor_in, share_row};
use crate::states::{States, row_bytes};
use crate::{ChangeRow, LedgerError, NodeRow, Rows, RowsError, What};

/// A page ends after this many bytes of states, about, so that large attributes cannot make it larger than memory.
pub const PAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Rows are read in pieces of this many.
const PIECE_ROWS: usize = 256;

/// A row of the feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FeedRow {
    /// The node lives, and this is its whole state at the cut.
    Node(NodeState),
    /// The node is gone at the cut.
    Gone {
        /// Which node. The reader may never have heard of it.
        uid: NodeUid,
        /// The operation that deleted it.
        seq: Seq,
        /// Which instance deleted it; zero for a direct change.
        by: InstanceId,
    },
}

/// Where a page of the feed goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeedFrom {
    /// The cut that the first page named.
    pub upto: Cursor,
    /// The last change that was looked at.
    pub seq: Seq,
}

/// A page of the feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedPage {
    /// In the order of changes. At most one row a node over all pages of a cut, but for a node that was deleted more than once and has
    /// changed again since the cut: of that one each deletion is told, and the last one counts.
    pub rows: Vec<FeedRow>,
    /// The cut: the reader's cursor once it has all pages.
    pub upto: Cursor,
    /// Where the next page of this cut begins; `None` when the cut is complete.
    pub next: Option<FeedFrom>,
}

/// A page of the whole tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootstrapPage {
    /// Live nodes in the order of their numbers, the root first. Nodes that changed after `from` may be missing or
    /// stale: the feed from there brings them.
    pub rows: Vec<NodeState>,
    /// Where the feed is read from after the last page. The tree is whole at the first cut after it.
    pub from: Cursor,
    /// Where the next page begins; `None` at the end.
    pub next: Option<Nid>,
}

/// What changed after `after`. The first page names the cut (the present head); `go_on` is [`FeedPage::next`] of the page
/// before. A page has at most `limit` rows and may have fewer, or none, before the cut is complete.
pub fn changes(
    rows: &dyn Rows,
    after: Cursor,
    go_on: Option<FeedFrom>,
    limit: usize,
) -> Result<FeedPage, LedgerError> {
    let share = share_row(rows)?;
    check_cursor_in(rows, &share, after)?;
    if after.seq < share.changes_from {
        return Err(LedgerError::CursorTooOld);
    }
    let (upto, start) = match go_on {
        None => (share.head, after.seq),
        Some(from) => {
            check_cursor_in(rows, &share, from.upto)?;
            if from.seq < after.seq || from.seq > from.upto.seq {
                return Err(LedgerError::Invalid("a page of the feed begins inside its cut".into()));
            }
            (from.upto, from.seq)
        }
    };
    let mut cut = Cut { rows, states: States::new(rows), upto: upto.seq };
    let (mut found, mut bytes, mut seq) = (Vec::new(), 0, start);
    while seq < upto.seq && found.len() < limit.max(1) && bytes < PAGE_BYTES_MAX {
        let piece = PIECE_ROWS.min(limit.max(1) - found.len());
        let changes = rows.changes(seq, upto.seq, piece)?;
        seq = match changes.last() {
            Some(last) if changes.len() == piece => last.seq,
            _ => upto.seq,
        };
        for change in changes {
            bytes += change.live.as_ref().map_or(100, row_bytes);
            found.extend(cut.row(change)?);
        }
    }
    let next = (seq < upto.seq).then_some(FeedFrom { upto, seq });
    Ok(FeedPage { rows: found, upto, next })
}

struct Cut<'a> {
    rows: &'a dyn Rows,
    states: States<'a>,
    upto: Seq,
}

impl Cut<'_> {
    /// The row that a change gives at the cut; `None` when a later change up to the cut supersedes it.
    fn row(&mut self, change: ChangeRow) -> Result<Option<FeedRow>, RowsError> {
        let ChangeRow { seq, what, nid, uid, live } = change;
        let at_cut = match live {
            Some(row) if row.since <= self.upto => Some(row),
            // The cut is no longer the head, or the node has gone since.
            _ => past_at(self.rows, nid, self.upto)?,
        };
        match at_cut {
            Some(row) if row.since == seq => Ok(Some(FeedRow::Node(self.states.state(uid, row)?))),
            Some(_) => Ok(None),
            None if what == What::Delete && self.is_in_force(nid, seq)? => {
                Ok(Some(FeedRow::Gone { uid, seq, by: self.states.author(seq)? }))
            }
            None => Ok(None),
        }
    }

    /// Whether no later deletion up to the cut supersedes this one. A reader who knows a version from between the two (of an answer that was
    /// broken off, or its own) takes the older one for past, and would never hear of the younger.
    fn is_in_force(&self, nid: Nid, seq: Seq) -> Result<bool, RowsError> {
        let gone = self.rows.ident_of(nid)?.and_then(|ident| ident.gone);
        let later = gone.filter(|gone| *gone > seq && *gone <= self.upto);
        Ok(later.is_none())
    }
}

/// The closed version of a node that was valid at `at`.
pub(crate) fn past_at(rows: &dyn Rows, nid: Nid, at: Seq) -> Result<Option<NodeRow>, RowsError> {
    let first = rows.past_nodes(nid, at, 1)?.into_iter().next();
    Ok(first.map(|past| past.row).filter(|row| row.since <= at))
}

/// The whole tree, page by page. The first page (`from` is `None`) notes the head; every later one names that cursor and
/// [`BootstrapPage::next`]. Each page may be read in a transaction of its own while commits go on.
pub fn bootstrap(
    rows: &dyn Rows,
    from: Option<Cursor>,
    after: Option<Nid>,
    limit: usize,
) -> Result<BootstrapPage, LedgerError> {
    let share = share_row(rows)?;
    let from = from.unwrap_or(share.head);
    check_cursor_in(rows, &share, from)?;
    if from.seq < share.changes_from {
        return Err(LedgerError::CursorTooOld);
    }
    let mut states = States::new(rows);
    let (mut found, mut bytes, mut after, mut more) = (Vec::new(), 0, after, true);
    while more && found.len() < limit.max(1) && bytes < PAGE_BYTES_MAX {
        let piece = PIECE_ROWS.min(limit.max(1) - found.len());
        let page = rows.nodes(after, piece)?;
        more = page.len() == piece;
        after = page.last().map(|(_, row)| row.nid).or(after);
        for (uid, row) in page {
            // What is younger than the cursor comes with the feed.
            if row.since <= from.seq {
                bytes += row_bytes(&row);
                found.push(states.state(uid, row)?);
            }
        }
    }
    Ok(BootstrapPage { rows: found, from, next: after.filter(|_| more) })
}
