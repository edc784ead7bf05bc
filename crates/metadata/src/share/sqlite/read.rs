//! Reading rows.

use polder_ledger::{
    AuthorRow, ChangeRow, ChunkRow, CommitRow, EntryRow, HoldRow, Ident, Listed, NodeRow, PackNo, PackRow,
    PackState, PastEntry, PastNode, PinRow, Rows, ShareRow, SnapshotRow, Sweep, THIN_STEPS_MAX,
};
use polder_types::{
    Author, BatchNo, Content, Cursor, EndpointId, Epoch, InstanceId, Nid, NodeUid, PackId, Seq, ShareId, Tag,
};
use rusqlite::{Row, params};

use super::columns::{
    Bad, damaged, get_bits, get_blob, get_case, get_id, get_int, get_nid, get_seq, get_slot, get_text,
    get_time, get_u32, get_what, int, limit, name, name_or_key,
};
use super::{Result, SqliteRows};

type Got<T> = std::result::Result<T, Bad>;

impl SqliteRows {
    /// A version from the columns `since, up, name, mtime, attrs, volatile, content`, the first of which is `at`.
    fn node_row(&self, row: &Row<'_>, nid: Nid, at: usize) -> Got<NodeRow> {
        let volatile = row.get_ref(at + 5)?.as_blob_or_null().map_err(|_| damaged("volatile bytes"))?;
        Ok(NodeRow {
            nid,
            since: get_seq(row, at)?,
            up: get_nid(row, at + 1)?,
            name: name(get_blob(row, at + 2)?)?,
            mtime: get_time(row, at + 3)?,
            attrs: self.attrs(get_blob(row, at + 4)?, volatile)?,
            content: Content::decode(get_blob(row, at + 6)?)?,
        })
    }

    /// A closed version from the columns `until, nid` and those of a version.
    fn past_node_row(&self, row: &Row<'_>) -> Got<PastNode> {
        Ok(PastNode { until: get_seq(row, 0)?, row: self.node_row(row, get_nid(row, 1)?, 2)? })
    }
}

fn past_entry_row(row: &Row<'_>) -> Got<PastEntry> {
    let key = get_blob(row, 2)?;
    let entry = EntryRow { since: get_seq(row, 3)?, nid: get_nid(row, 4)?, name: name_or_key(row, 5, key)? };
    Ok(PastEntry { until: get_seq(row, 0)?, parent: get_nid(row, 1)?, key: key.into(), entry })
}

fn listed_row(row: &Row<'_>) -> Got<Listed> {
    let key = get_blob(row, 0)?;
    let entry = EntryRow { since: get_seq(row, 1)?, nid: get_nid(row, 2)?, name: name_or_key(row, 3, key)? };
    Ok(Listed { key: key.into(), entry })
}

fn ident_row(row: &Row<'_>) -> Got<Ident> {
    let gone: Option<i64> = row.get(2)?;
    let gone = gone.map(|_| get_seq(row, 2)).transpose()?;
    Ok(Ident { nid: get_nid(row, 0)?, uid: NodeUid(get_id(row, 1)?), gone })
}

fn commit_row(row: &Row<'_>) -> Got<CommitRow> {
    let batch: Option<i64> = row.get(5)?;
    let batch = batch.map_or(Ok(0), |_| get_int(row, 5))?;
    let author = Author { by: InstanceId(get_id(row, 4)?), batch: BatchNo(batch) };
    let (seq, ops) = (get_seq(row, 0)?, get_u32(row, 1)?);
    Ok(CommitRow { seq, ops, tag: Tag(get_bits(row, 2)?), time_ms: get_int(row, 3)?, author })
}

fn pack_row(row: &Row<'_>) -> Got<(PackNo, PackRow)> {
    let state = match get_int(row, 2)? {
        0 => PackState::Live,
        1 => PackState::Condemned,
        2 => PackState::Deleted,
        3 => PackState::Failed,
        _ => return Err(damaged("a pack in an unknown state")),
    };
    let verified: Option<i64> = row.get(8)?;
    let pack = PackRow {
        id: PackId(get_id(row, 1)?),
        state,
        bytes: get_int(row, 3)?,
        chunks: get_u32(row, 4)?,
        key_gen: get_u32(row, 5)?,
        meta: get_blob(row, 6)?.into(),
        registered_ms: get_int(row, 7)?,
        verified_ms: verified.map(|_| get_int(row, 8)).transpose()?,
        state_seq: get_seq(row, 9)?,
        state_ms: get_int(row, 10)?,
        used: get_seq(row, 11)?,
    };
    Ok((PackNo(get_int(row, 0)?), pack))
}

/// A cursor from the columns `epoch, seq, tag`, the first of which is `at`.
fn cursor(row: &Row<'_>, at: usize) -> Got<Cursor> {
    let (epoch, seq) = (Epoch(get_int(row, at)?), get_seq(row, at + 1)?);
    Ok(Cursor { epoch, seq, tag: Tag(get_bits(row, at + 2)?) })
}

fn snapshot_row(row: &Row<'_>) -> Got<SnapshotRow> {
    let (name, note) = (get_text(row, 0)?, get_text(row, 5)?);
    Ok(SnapshotRow { name, cursor: cursor(row, 1)?, time_ms: get_int(row, 4)?, note })
}

fn share_row(row: &Row<'_>) -> Got<ShareRow> {
    let bytes = get_blob(row, 12)?;
    let mut thinned = [Seq(0); THIN_STEPS_MAX];
    if bytes.len() != 8 * THIN_STEPS_MAX {
        return Err(damaged("progress of thinning"));
    }
    for (seq, bytes) in thinned.iter_mut().zip(bytes.chunks_exact(8)) {
        *seq = Seq(u64::from_be_bytes(bytes.try_into().expect("eight bytes")));
    }
    let chunker = u16::try_from(get_int(row, 2)?).map_err(|_| damaged("a chunker that is not known"))?;
    Ok(ShareRow {
        id: ShareId(get_id(row, 0)?),
        case: get_case(row, 1)?,
        chunker,
        head: cursor(row, 3)?,
        time_ms: get_int(row, 6)?,
        fence: get_int(row, 7)?,
        live_nodes: get_int(row, 8)?,
        live_bytes: get_int(row, 9)?,
        history_from: get_seq(row, 10)?,
        changes_from: get_seq(row, 11)?,
        thinned,
    })
}

impl Rows for SqliteRows {
    fn share(&self) -> Result<Option<ShareRow>> {
        let sql = "SELECT id, fold, chunker, epoch, head, tag, time_ms, fence, live_nodes, live_bytes, history_from, \
                   changes_from, thinned FROM share";
        self.first("read the share's row", sql, [], share_row)
    }

    fn ident(&self, uid: NodeUid) -> Result<Option<Ident>> {
        self.first("find a node", "SELECT nid, uid, gone FROM ident WHERE uid = ?1", [&uid.0[..]], ident_row)
    }

    fn ident_of(&self, nid: Nid) -> Result<Option<Ident>> {
        self.first("read an id", "SELECT nid, uid, gone FROM ident WHERE nid = ?1", [int(nid.0)], ident_row)
    }

    fn node(&self, nid: Nid) -> Result<Option<NodeRow>> {
        let sql = "SELECT since, up, name, mtime, attrs, volatile, content FROM node WHERE nid = ?1";
        self.first("read a node", sql, [int(nid.0)], |row| self.node_row(row, nid, 0))
    }

    fn nodes(&self, after: Option<Nid>, count: usize) -> Result<Vec<(NodeUid, NodeRow)>> {
        let sql = "SELECT n.nid, i.uid, since, up, name, mtime, attrs, volatile, content FROM node n \
                   LEFT JOIN ident i ON i.nid = n.nid WHERE n.nid > ?1 ORDER BY n.nid LIMIT ?2";
        let after = after.map_or(-1, |nid| int(nid.0));
        self.all("read nodes", sql, params![after, limit(count)], |row| {
            Ok((NodeUid(get_id(row, 1)?), self.node_row(row, get_nid(row, 0)?, 2)?))
        })
    }

    fn past_nodes(&self, nid: Nid, after: Seq, count: usize) -> Result<Vec<PastNode>> {
        let sql = "SELECT until, nid, since, up, name, mtime, attrs, volatile, content FROM past_node \
                   WHERE nid = ?1 AND until > ?2 ORDER BY until LIMIT ?3";
        let params = params![int(nid.0), int(after.0), limit(count)];
        self.all("read a node's history", sql, params, |row| self.past_node_row(row))
    }

    fn past_node_until(&self, nid: Nid, until: Seq) -> Result<Option<PastNode>> {
        let sql = "SELECT until, nid, since, up, name, mtime, attrs, volatile, content FROM past_node \
                   WHERE until = ?1 AND nid = ?2";
        let params = params![int(until.0), int(nid.0)];
        self.first("read a closed version", sql, params, |row| self.past_node_row(row))
    }

    fn last_past_node(&self, nid: Nid) -> Result<Option<PastNode>> {
        let sql = "SELECT until, nid, since, up, name, mtime, attrs, volatile, content FROM past_node \
                   WHERE nid = ?1 ORDER BY until DESC LIMIT 1";
        self.first("read a closed version", sql, [int(nid.0)], |row| self.past_node_row(row))
    }

    fn closed_nodes(&self, after: Seq, upto: Seq, count: usize) -> Result<Vec<PastNode>> {
        let sql = "SELECT until, nid, since, up, name, mtime, attrs, volatile, content FROM past_node \
                   WHERE until > ?1 AND until <= ?2 ORDER BY until LIMIT ?3";
        let params = params![int(after.0), int(upto.0), limit(count)];
        self.all("read closed versions", sql, params, |row| self.past_node_row(row))
    }

    fn entry(&self, parent: Nid, key: &[u8]) -> Result<Option<EntryRow>> {
        let sql = "SELECT since, nid, name FROM entry WHERE parent = ?1 AND key = ?2";
        self.first("read an entry", sql, params![int(parent.0), key], |row| {
            Ok(EntryRow { since: get_seq(row, 0)?, nid: get_nid(row, 1)?, name: name_or_key(row, 2, key)? })
        })
    }

    fn past_entry(&self, parent: Nid, key: &[u8], after: Seq) -> Result<Option<PastEntry>> {
        let sql = "SELECT until, parent, key, since, nid, name FROM past_entry \
                   WHERE parent = ?1 AND key = ?2 AND until > ?3 ORDER BY until LIMIT 1";
        self.first("read a closed entry", sql, params![int(parent.0), key, int(after.0)], past_entry_row)
    }

    fn entries(
        &self,
        parent: Nid,
        after: Option<&[u8]>,
        count: usize,
        at: Option<Seq>,
    ) -> Result<Vec<Listed>> {
        // Keys are never empty, so all of them are above the empty one.
        let after = after.unwrap_or_default();
        let Some(at) = at else {
            let sql = "SELECT key, since, nid, name FROM entry WHERE parent = ?1 AND key > ?2 ORDER BY key LIMIT ?3";
            return self.all(
                "list a directory",
                sql,
                params![int(parent.0), after, limit(count)],
                listed_row,
            );
        };
        // Two walks in the order of keys, merged: neither is sorted, and neither is read beyond the page.
        let sql = "SELECT key, since, nid, name FROM entry WHERE parent = ?1 AND key > ?2 AND since <= ?4 \
                   UNION ALL SELECT key, since, nid, name FROM past_entry \
                   WHERE parent = ?1 AND key > ?2 AND until > ?4 AND since <= ?4 ORDER BY key LIMIT ?3";
        let params = params![int(parent.0), after, limit(count), int(at.0)];
        self.all("list a directory of the past", sql, params, listed_row)
    }

    fn closed_entries(&self, after: Seq, upto: Seq, count: usize) -> Result<Vec<PastEntry>> {
        let sql = "SELECT until, parent, key, since, nid, name FROM past_entry \
                   WHERE until > ?1 AND until <= ?2 ORDER BY until LIMIT ?3";
        self.all("read closed entries", sql, params![int(after.0), int(upto.0), limit(count)], past_entry_row)
    }

    fn changes(&self, after: Seq, upto: Seq, count: usize) -> Result<Vec<ChangeRow>> {
        let sql = "SELECT c.seq, c.what, c.nid, i.uid, since, up, name, mtime, attrs, volatile, content FROM change c \
                   LEFT JOIN ident i ON i.nid = c.nid LEFT JOIN node n ON n.nid = c.nid \
                   WHERE c.seq > ?1 AND c.seq <= ?2 ORDER BY c.seq LIMIT ?3";
        let params = params![int(after.0), int(upto.0), limit(count)];
        self.all("read changes", sql, params, |row| {
            let nid = get_nid(row, 2)?;
            let live: Option<i64> = row.get(4)?;
            let live = live.map(|_| self.node_row(row, nid, 4)).transpose()?;
            let (seq, what, uid) = (get_seq(row, 0)?, get_what(row, 1)?, NodeUid(get_id(row, 3)?));
            Ok(ChangeRow { seq, what, nid, uid, live })
        })
    }

    fn commit_at(&self, seq: Seq) -> Result<Option<CommitRow>> {
        let sql =
            "SELECT seq, ops, tag, time_ms, by, batch FROM commit_ WHERE seq <= ?1 ORDER BY seq DESC LIMIT 1";
        self.first("find a commit", sql, [int(seq.0)], commit_row)
    }

    fn commits(&self, after: Seq, count: usize) -> Result<Vec<CommitRow>> {
        let sql =
            "SELECT seq, ops, tag, time_ms, by, batch FROM commit_ WHERE seq > ?1 ORDER BY seq LIMIT ?2";
        self.all("read commits", sql, params![int(after.0), limit(count)], commit_row)
    }

    fn answer(&self, author: Author) -> Result<Option<Box<[u8]>>> {
        let sql = "SELECT answer FROM commit_ WHERE by = ?1 AND batch = ?2 \
                   UNION ALL SELECT answer FROM refusal WHERE by = ?1 AND batch = ?2";
        let params = params![&author.by.0[..], int(author.batch.0)];
        self.first("find a batch", sql, params, |row| Ok(get_blob(row, 0)?.into()))
    }

    fn author(&self, by: InstanceId) -> Result<Option<AuthorRow>> {
        let sql = "SELECT batch_min, brake_from_ms, brake_ops FROM author WHERE by = ?1";
        self.first("read an author", sql, [&by.0[..]], |row| {
            let batch_min = BatchNo(get_int(row, 0)?);
            Ok(AuthorRow { batch_min, brake_from_ms: get_int(row, 1)?, brake_ops: get_int(row, 2)? })
        })
    }

    fn chunk(&self, key: [u8; 16]) -> Result<Option<ChunkRow>> {
        self.first("find a chunk", "SELECT pack, slot FROM chunk WHERE key = ?1", [&key[..]], |row| {
            Ok(ChunkRow { pack: PackNo(get_int(row, 0)?), slot: get_slot(row, 1)? })
        })
    }

    fn chunks(&self, after: Option<[u8; 16]>, count: usize) -> Result<Vec<([u8; 16], ChunkRow)>> {
        let sql = "SELECT key, pack, slot FROM chunk WHERE key > ?1 ORDER BY key LIMIT ?2";
        let after = after.as_ref().map_or(&[][..], |key| key);
        self.all("read the chunk index", sql, params![after, limit(count)], |row| {
            Ok((get_id(row, 0)?, ChunkRow { pack: PackNo(get_int(row, 1)?), slot: get_slot(row, 2)? }))
        })
    }

    fn pack(&self, no: PackNo) -> Result<Option<PackRow>> {
        let sql = "SELECT no, id, state, bytes, chunks, key_gen, meta, registered_ms, verified_ms, state_seq, \
                   state_ms, used FROM pack WHERE no = ?1";
        Ok(self.first("read a pack", sql, [int(no.0)], pack_row)?.map(|(_, pack)| pack))
    }

    fn pack_no(&self, id: PackId) -> Result<Option<PackNo>> {
        let sql = "SELECT no FROM pack WHERE id = ?1";
        self.first("find a pack", sql, [&id.0[..]], |row| Ok(PackNo(get_int(row, 0)?)))
    }

    fn packs(&self, after: Option<PackNo>, count: usize) -> Result<Vec<(PackNo, PackRow)>> {
        let sql = "SELECT no, id, state, bytes, chunks, key_gen, meta, registered_ms, verified_ms, state_seq, \
                   state_ms, used FROM pack WHERE no > ?1 ORDER BY no LIMIT ?2";
        let after = after.map_or(-1, |no| int(no.0));
        self.all("read packs", sql, params![after, limit(count)], pack_row)
    }

    fn snapshot(&self, name: &str) -> Result<Option<SnapshotRow>> {
        let sql = "SELECT name, epoch, seq, tag, time_ms, note FROM snapshot WHERE name = ?1";
        self.first("read a snapshot", sql, [name], snapshot_row)
    }

    fn snapshots(&self, after: Option<&str>, count: usize) -> Result<Vec<SnapshotRow>> {
        let sql = "SELECT name, epoch, seq, tag, time_ms, note FROM snapshot WHERE name > ?1 ORDER BY name LIMIT ?2";
        self.all("read snapshots", sql, params![after.unwrap_or_default(), limit(count)], snapshot_row)
    }

    fn pins(&self) -> Result<Vec<PinRow>> {
        let sql = "SELECT endpoint, epoch, seq, tag FROM endpoint_pin ORDER BY endpoint";
        self.all("read applied cursors", sql, [], |row| {
            Ok(PinRow { endpoint: EndpointId(get_id(row, 0)?), cursor: cursor(row, 1)? })
        })
    }

    fn pinned(&self) -> Result<Vec<Seq>> {
        let sql = "SELECT seq FROM snapshot UNION SELECT seq FROM endpoint_pin ORDER BY 1";
        self.all("read pinned sequences", sql, [], |row| get_seq(row, 0))
    }

    fn holds(&self, endpoint: EndpointId, after: Option<HoldRow>, count: usize) -> Result<Vec<HoldRow>> {
        let sql = "SELECT nid, since FROM endpoint_hold WHERE endpoint = ?1 AND (nid, since) > (?2, ?3) \
                   ORDER BY nid, since LIMIT ?4";
        let (nid, since) = after.map_or((-1, -1), |row| (int(row.nid.0), int(row.since.0)));
        self.all("read holds", sql, params![&endpoint.0[..], nid, since, limit(count)], |row| {
            Ok(HoldRow { endpoint, nid: get_nid(row, 0)?, since: get_seq(row, 1)? })
        })
    }

    fn is_held(&self, nid: Nid, since: Seq) -> Result<bool> {
        let sql = "SELECT 1 FROM endpoint_hold WHERE nid = ?1 AND since = ?2 LIMIT 1";
        Ok(self.first("find a hold", sql, [int(nid.0), int(since.0)], |_| Ok(()))?.is_some())
    }

    fn first_sweep(&self) -> Result<Option<Sweep>> {
        let sql = "SELECT after, upto FROM sweep ORDER BY after, upto LIMIT 1";
        self.first("read sweeps", sql, [], |row| {
            Ok(Sweep { after: get_seq(row, 0)?, upto: get_seq(row, 1)? })
        })
    }
}
