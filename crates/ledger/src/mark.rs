//! Every reference to chunks, page by page: what prune marks from.

use polder_types::{Content, Nid, Seq};

use crate::share::{SEQ_MAX, share_row};
use crate::{LedgerError, Rows};

/// How far a mark has come. Begins with [`MarkFrom::start`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MarkFrom {
    /// Live versions of nodes above this number.
    Live(Option<Nid>),
    /// Closed versions above this sequence: history, snapshots, what endpoints have applied or hold.
    Past(Seq),
}

/// A page of references.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MarkPage {
    /// Contents of files that name chunks. A tree's chunks below its root are for the caller to read.
    pub contents: Vec<Content>,
    /// Where to go on; `None` at the end.
    pub next: Option<MarkFrom>,
}

impl MarkFrom {
    /// The beginning, and the head that must be noted before the first page (`marked_from` of
    /// [`crate::condemn_packs`]).
    pub fn start(rows: &dyn Rows) -> Result<(Self, Seq), LedgerError> {
        Ok((Self::Live(None), share_row(rows)?.head.seq))
    }
}

/// The contents that up to `limit` versions hold. Pages may be read in transactions of their own while commits go on:
/// live versions come first, and a version only ever goes from live to closed, so none slips through; what a commit
/// refers to anew is stamped on its packs.
pub fn references(rows: &dyn Rows, from: MarkFrom, limit: usize) -> Result<MarkPage, LedgerError> {
    let limit = limit.max(1);
    let mut contents = Vec::new();
    let mut keep = |content: Content| {
        if content.direct_chunks().next().is_some() {
            contents.push(content);
        }
    };
    let next = match from {
        MarkFrom::Live(after) => {
            let page = rows.nodes(after, limit)?;
            let last = page.last().map(|(_, row)| row.nid);
            let whole = page.len() == limit;
            page.into_iter().for_each(|(_, row)| keep(row.content));
            Some(if whole { MarkFrom::Live(last) } else { MarkFrom::Past(Seq(0)) })
        }
        MarkFrom::Past(after) => {
            let page = rows.closed_nodes(after, Seq(SEQ_MAX), limit)?;
            let last = page.last().filter(|_| page.len() == limit).map(|past| past.until);
            page.into_iter().for_each(|past| keep(past.row.content));
            last.map(MarkFrom::Past)
        }
    };
    Ok(MarkPage { contents, next })
}
