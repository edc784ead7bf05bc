//! The share's own row: creation, cursors, epochs, authors, the lease on background work, time.

use std::sync::Arc;

use polder_types::{
    Attrs, Author, BatchNo, CaseRule, Content, Cursor, Epoch, InstanceId, Name, Nid, NodeUid, Seq, ShareId,
    Tag, Timestamp,
    zoo::{Bug, planted},
};

use crate::{AuthorRow, CommitRow, LedgerError, NodeRow, Rows, RowsError, RowsMut, ShareRow, THIN_STEPS_MAX};

/// Number of the root directory.
pub const ROOT_NID: Nid = Nid(0);
/// Largest sequence number: 63 bits.
pub const SEQ_MAX: u64 = i64::MAX as u64;

/// What is chosen when a share is created, for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShareSettings {
    /// Which share.
    pub id: ShareId,
    /// Which names are equal.
    pub case: CaseRule,
    /// Version of the chunker.
    pub chunker: u16,
}

/// Writes the rows of an empty share: its row and its root, a directory of mode 0755 owned by root.
pub fn create_share(
    rows: &mut dyn RowsMut,
    settings: &ShareSettings,
    time_ms: u64,
) -> Result<(), LedgerError> {
    if rows.share()?.is_some() {
        return Err(LedgerError::Exists { what: "the share".into() });
    }
    rows.put_share(&ShareRow {
        id: settings.id,
        case: settings.case,
        chunker: settings.chunker,
        head: Cursor::default(),
        time_ms,
        fence: 0,
        live_nodes: 1,
        live_bytes: 0,
        history_from: Seq(0),
        changes_from: Seq(0),
        thinned: [Seq(0); THIN_STEPS_MAX],
    })?;
    rows.insert_ident(ROOT_NID, NodeUid::ROOT)?;
    rows.insert_node(&NodeRow {
        nid: ROOT_NID,
        since: Seq(0),
        up: ROOT_NID,
        name: Name::parse(b"root").expect("a plain word"),
        mtime: Timestamp::from_unix_millis(time_ms),
        attrs: Arc::new(Attrs { mode: 0o755, ..Attrs::default() }),
        content: Content::Directory,
    })?;
    Ok(())
}

/// The share's row.
pub fn share_row(rows: &dyn Rows) -> Result<ShareRow, RowsError> {
    rows.share()?.ok_or_else(|| RowsError::corrupt("the share's row is missing"))
}

/// Succeeds when `cursor` is a place in this share's history from which changes can be read. A cursor of nothing (zero)
/// belongs to every history while all changes are kept.
pub fn check_cursor(rows: &dyn Rows, cursor: Cursor) -> Result<(), LedgerError> {
    check_cursor_in(rows, &share_row(rows)?, cursor)
}

pub(crate) fn check_cursor_in(rows: &dyn Rows, share: &ShareRow, cursor: Cursor) -> Result<(), LedgerError> {
    if cursor == share.head || planted(Bug::TagIgnored) {
        return Ok(());
    }
    // Whoever knows nothing can contradict nothing; whether the changes since then are kept is the feed's question.
    if cursor.seq == Seq(0) && cursor.tag == Tag(0) {
        return Ok(());
    }
    if cursor.epoch != share.head.epoch || cursor.seq > share.head.seq {
        return Err(LedgerError::SetBack);
    }
    if cursor.seq < share.changes_from {
        return Err(LedgerError::CursorTooOld);
    }
    match rows.commit_at(cursor.seq)? {
        Some(commit) if commit.last() == cursor.seq && commit.tag == cursor.tag => Ok(()),
        _ => Err(LedgerError::SetBack),
    }
}

/// Begins a new epoch: after the metadata was set back, numbers that may have been used go unused for ever, and every
/// cursor of before is refused. Answers the new head.
pub fn new_epoch(rows: &mut dyn RowsMut, tag: Tag, time_ms: u64) -> Result<Cursor, LedgerError> {
    let mut share = share_row(rows)?;
    let seq = share.head.seq.0.checked_add(Epoch::HEAD_JUMP).filter(|seq| *seq <= SEQ_MAX);
    let seq = Seq(seq.ok_or_else(|| LedgerError::Invalid("the share's numbers are used up".into()))?);
    share.head = Cursor { epoch: Epoch(share.head.epoch.0 + 1), seq, tag };
    share.time_ms = share.time_ms.max(time_ms);
    let author = Author { by: InstanceId::ZERO, batch: BatchNo(0) };
    rows.insert_commit(&CommitRow { seq, ops: 0, tag, time_ms: share.time_ms, author }, None)?;
    rows.put_share(&share)?;
    Ok(share.head)
}

/// Refuses batches of this instance below `batch_min` from now on. An agent announces its next number at every start,
/// before it reads the feed: what it sent before is then either in the feed or never will be.
pub fn announce(rows: &mut dyn RowsMut, by: InstanceId, batch_min: BatchNo) -> Result<(), LedgerError> {
    let known = rows.author(by)?.unwrap_or_default();
    if known.batch_min < batch_min {
        rows.put_author(by, &AuthorRow { batch_min, ..known })?;
    }
    Ok(())
}

/// Takes the lease on the share's background work and answers its number; whoever held it before loses it.
pub fn take_fence(rows: &mut dyn RowsMut) -> Result<u64, LedgerError> {
    let mut share = share_row(rows)?;
    share.fence += 1;
    rows.put_share(&share)?;
    Ok(share.fence)
}

/// Succeeds while no other process has taken the lease. Called in the transaction of each background step.
pub fn check_fence(rows: &dyn Rows, fence: u64) -> Result<(), LedgerError> {
    if share_row(rows)?.fence == fence { Ok(()) } else { Err(LedgerError::FenceLost) }
}

/// The end of the last commit that was made at or before `time_ms`; `None` when all kept commits are younger.
pub fn seq_at(rows: &dyn Rows, time_ms: u64) -> Result<Option<Seq>, LedgerError> {
    let head = share_row(rows)?.head.seq;
    // Times never go back along the sequence, so the answer is found by halving: at most 63 looks.
    let (mut found, mut low, mut high) = (None, Seq(0), head);
    while low <= high {
        let middle = Seq(low.0 + (high.0 - low.0) / 2);
        match rows.commit_at(middle)? {
            Some(commit) if commit.time_ms <= time_ms => {
                found = Some(commit.last());
                low = commit.last().next();
            }
            Some(commit) if commit.seq > low => high = Seq(commit.seq.0 - 1),
            // The earliest commit in the range is too young.
            Some(_) => break,
            None => low = middle.next(),
        }
    }
    Ok(found)
}
