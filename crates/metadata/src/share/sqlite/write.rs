//! Writing rows.

use polder_ledger::{
    AuthorRow, ChunkRow, CommitRow, EntryRow, HoldRow, NodeRow, PackNo, PackRow, PackState, PinRow,
    RowsError, RowsMut, ShareRow, SnapshotRow, Sweep, What,
};
use polder_types::{Author, BatchNo, EndpointId, InstanceId, Nid, NodeUid, Seq};
use rusqlite::params;

use super::columns::{bits, bytes_or_null, case_column, get_int, int, name_column, time_column, what_column};
use super::{Result, SqliteRows};

fn state_column(state: PackState) -> i64 {
    match state {
        PackState::Live => 0,
        PackState::Condemned => 1,
        PackState::Deleted => 2,
        PackState::Failed => 3,
    }
}

impl RowsMut for SqliteRows {
    fn put_share(&mut self, row: &ShareRow) -> Result<()> {
        let sql = "INSERT OR REPLACE INTO share (one, id, fold, chunker, epoch, head, tag, time_ms, fence, live_nodes, \
                   live_bytes, history_from, changes_from, thinned) \
                   VALUES (1, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)";
        let mut thinned = [0; 8 * polder_ledger::THIN_STEPS_MAX];
        for (bytes, seq) in thinned.chunks_exact_mut(8).zip(row.thinned) {
            bytes.copy_from_slice(&seq.0.to_be_bytes());
        }
        let params = params![
            &row.id.0[..],
            case_column(row.case),
            row.chunker,
            int(row.head.epoch.0),
            int(row.head.seq.0),
            bits(row.head.tag.0),
            int(row.time_ms),
            int(row.fence),
            int(row.live_nodes),
            int(row.live_bytes),
            int(row.history_from.0),
            int(row.changes_from.0),
            &thinned[..],
        ];
        self.run("write the share's row", sql, params)
    }

    fn insert_ident(&mut self, nid: Nid, uid: NodeUid) -> Result<()> {
        let sql = "INSERT INTO ident (nid, uid) VALUES (?1, ?2)";
        self.run("write an id", sql, params![int(nid.0), &uid.0[..]])
    }

    fn put_gone(&mut self, nid: Nid, gone: Option<Seq>) -> Result<()> {
        let sql = "UPDATE ident SET gone = ?2 WHERE nid = ?1";
        self.change_one("write an id", sql, params![int(nid.0), gone.map(|seq| int(seq.0))])
    }

    fn remove_ident(&mut self, nid: Nid) -> Result<()> {
        self.change_one("forget a node", "DELETE FROM ident WHERE nid = ?1", [int(nid.0)])
    }

    fn insert_node(&mut self, row: &NodeRow) -> Result<()> {
        let attrs = self.attr_columns(&row.attrs)?;
        let sql = "INSERT INTO node (nid, since, up, name, mtime, attrs, volatile, content) \
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
        let params = params![
            int(row.nid.0),
            int(row.since.0),
            int(row.up.0),
            row.name.as_bytes(),
            time_column(row.mtime),
            attrs.pieces,
            bytes_or_null(attrs.volatile.as_deref()),
            row.content.encode(),
        ];
        self.run("write a node", sql, params)
    }

    fn replace_node(&mut self, row: &NodeRow, until: Seq) -> Result<()> {
        self.copy_to_past(row.nid, until)?;
        let attrs = self.attr_columns(&row.attrs)?;
        let sql = "UPDATE node SET since = ?2, up = ?3, name = ?4, mtime = ?5, attrs = ?6, volatile = ?7, content = ?8 \
                   WHERE nid = ?1";
        let params = params![
            int(row.nid.0),
            int(row.since.0),
            int(row.up.0),
            row.name.as_bytes(),
            time_column(row.mtime),
            attrs.pieces,
            bytes_or_null(attrs.volatile.as_deref()),
            row.content.encode(),
        ];
        self.change_one("write a node", sql, params)
    }

    fn close_node(&mut self, nid: Nid, until: Seq) -> Result<()> {
        self.copy_to_past(nid, until)?;
        self.change_one("close a node", "DELETE FROM node WHERE nid = ?1", [int(nid.0)])
    }

    fn merge_past_node(&mut self, from: Seq, until: Seq) -> Result<()> {
        let sql =
            "DELETE FROM past_node WHERE until = ?2 AND nid = (SELECT nid FROM past_node WHERE until = ?1)";
        self.change_one("thin a node's history", sql, [int(from.0), int(until.0)])?;
        let sql = "UPDATE past_node SET until = ?2 WHERE until = ?1";
        self.change_one("thin a node's history", sql, [int(from.0), int(until.0)])
    }

    fn remove_past_node(&mut self, until: Seq) -> Result<()> {
        self.change_one("drop a closed version", "DELETE FROM past_node WHERE until = ?1", [int(until.0)])
    }

    fn insert_entry(&mut self, parent: Nid, key: &[u8], entry: &EntryRow) -> Result<()> {
        let sql = "INSERT INTO entry (parent, key, since, nid, name) VALUES (?1, ?2, ?3, ?4, ?5)";
        let name = bytes_or_null(name_column(&entry.name, key));
        let params = params![int(parent.0), key, int(entry.since.0), int(entry.nid.0), name];
        self.run("write an entry", sql, params)
    }

    fn close_entry(&mut self, parent: Nid, key: &[u8], until: Seq) -> Result<()> {
        let sql = "INSERT INTO past_entry (until, parent, key, since, nid, name) \
                   SELECT ?3, parent, key, since, nid, name FROM entry WHERE parent = ?1 AND key = ?2";
        self.change_one("close an entry", sql, params![int(parent.0), key, int(until.0)])?;
        let sql = "DELETE FROM entry WHERE parent = ?1 AND key = ?2";
        self.change_one("close an entry", sql, params![int(parent.0), key])
    }

    fn remove_past_entry(&mut self, until: Seq) -> Result<()> {
        self.change_one("drop a closed entry", "DELETE FROM past_entry WHERE until = ?1", [int(until.0)])
    }

    fn insert_change(&mut self, seq: Seq, nid: Nid, what: What) -> Result<()> {
        let sql = "INSERT INTO change (seq, nid, what) VALUES (?1, ?2, ?3)";
        self.run("write a change", sql, [int(seq.0), int(nid.0), what_column(what)])
    }

    fn remove_change(&mut self, seq: Seq) -> Result<()> {
        self.change_one("drop a change", "DELETE FROM change WHERE seq = ?1", [int(seq.0)])
    }

    fn insert_commit(&mut self, row: &CommitRow, answer: Option<&[u8]>) -> Result<()> {
        let sql = "INSERT INTO commit_ (seq, ops, tag, time_ms, by, batch, answer) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
        // Without an answer the batch has no name either, and takes no place in the index.
        let batch = answer.map(|_| int(row.author.batch.0));
        let params = params![
            int(row.seq.0),
            row.ops,
            bits(row.tag.0),
            int(row.time_ms),
            &row.author.by.0[..],
            batch,
            bytes_or_null(answer),
        ];
        self.run("write a commit", sql, params)
    }

    fn remove_commit(&mut self, seq: Seq) -> Result<()> {
        self.change_one("drop a commit", "DELETE FROM commit_ WHERE seq = ?1", [int(seq.0)])
    }

    fn insert_refusal(&mut self, author: Author, answer: &[u8]) -> Result<()> {
        let sql = "INSERT INTO refusal (by, batch, answer) VALUES (?1, ?2, ?3)";
        self.run("keep a refusal", sql, params![&author.by.0[..], int(author.batch.0), answer])
    }

    fn remove_refusals(&mut self, by: InstanceId, below: BatchNo) -> Result<()> {
        let sql = "DELETE FROM refusal WHERE by = ?1 AND batch < ?2";
        self.run("drop refusals", sql, params![&by.0[..], int(below.0)])
    }

    fn put_author(&mut self, by: InstanceId, row: &AuthorRow) -> Result<()> {
        let sql =
            "INSERT OR REPLACE INTO author (by, batch_min, brake_from_ms, brake_ops) VALUES (?1, ?2, ?3, ?4)";
        let params = params![&by.0[..], int(row.batch_min.0), int(row.brake_from_ms), int(row.brake_ops)];
        self.run("write an author", sql, params)
    }

    fn put_chunk(&mut self, key: [u8; 16], row: &ChunkRow) -> Result<()> {
        let sql = "INSERT OR REPLACE INTO chunk (key, pack, slot) VALUES (?1, ?2, ?3)";
        self.run("write a chunk", sql, params![&key[..], int(row.pack.0), row.slot.as_bytes()])
    }

    fn remove_chunk(&mut self, key: [u8; 16]) -> Result<()> {
        self.change_one("forget a chunk", "DELETE FROM chunk WHERE key = ?1", [&key[..]])
    }

    fn insert_pack(&mut self, row: &PackRow) -> Result<PackNo> {
        let sql = "INSERT INTO pack (id, state, bytes, chunks, key_gen, meta, registered_ms, verified_ms, state_seq, \
                   state_ms, used) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11) RETURNING no";
        let params = params![
            &row.id.0[..],
            state_column(row.state),
            int(row.bytes),
            row.chunks,
            row.key_gen,
            &row.meta[..],
            int(row.registered_ms),
            row.verified_ms.map(int),
            int(row.state_seq.0),
            int(row.state_ms),
            int(row.used.0),
        ];
        let no = self.first("write a pack", sql, params, |row| get_int(row, 0))?;
        no.map(PackNo).ok_or_else(|| RowsError::corrupt("a new pack has no number"))
    }

    fn put_pack(&mut self, no: PackNo, row: &PackRow) -> Result<()> {
        let sql = "UPDATE pack SET state = ?2, verified_ms = ?3, state_seq = ?4, state_ms = ?5, used = ?6, bytes = ?7, \
                   chunks = ?8, key_gen = ?9, meta = ?10 WHERE no = ?1 AND id = ?11";
        let params = params![
            int(no.0),
            state_column(row.state),
            row.verified_ms.map(int),
            int(row.state_seq.0),
            int(row.state_ms),
            int(row.used.0),
            int(row.bytes),
            row.chunks,
            row.key_gen,
            &row.meta[..],
            &row.id.0[..],
        ];
        self.change_one("write a pack", sql, params)
    }

    fn remove_pack(&mut self, no: PackNo) -> Result<()> {
        self.change_one("forget a pack", "DELETE FROM pack WHERE no = ?1", [int(no.0)])
    }

    fn insert_snapshot(&mut self, row: &SnapshotRow) -> Result<()> {
        let sql =
            "INSERT INTO snapshot (name, epoch, seq, tag, time_ms, note) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        let cursor = row.cursor;
        let (epoch, seq, tag) = (int(cursor.epoch.0), int(cursor.seq.0), bits(cursor.tag.0));
        self.run("write a snapshot", sql, params![&*row.name, epoch, seq, tag, int(row.time_ms), &*row.note])
    }

    fn remove_snapshot(&mut self, name: &str) -> Result<()> {
        self.change_one("drop a snapshot", "DELETE FROM snapshot WHERE name = ?1", [name])
    }

    fn put_pin(&mut self, row: &PinRow) -> Result<()> {
        let sql = "INSERT OR REPLACE INTO endpoint_pin (endpoint, epoch, seq, tag) VALUES (?1, ?2, ?3, ?4)";
        let cursor = row.cursor;
        let (epoch, seq, tag) = (int(cursor.epoch.0), int(cursor.seq.0), bits(cursor.tag.0));
        self.run("write an applied cursor", sql, params![&row.endpoint.0[..], epoch, seq, tag])
    }

    fn remove_pin(&mut self, endpoint: EndpointId) -> Result<()> {
        let endpoint = &endpoint.0[..];
        self.run("drop an applied cursor", "DELETE FROM endpoint_pin WHERE endpoint = ?1", [endpoint])?;
        self.run("drop holds", "DELETE FROM endpoint_hold WHERE endpoint = ?1", [endpoint])
    }

    fn put_hold(&mut self, row: HoldRow) -> Result<()> {
        let sql = "INSERT OR IGNORE INTO endpoint_hold (endpoint, nid, since) VALUES (?1, ?2, ?3)";
        self.run("hold a version", sql, params![&row.endpoint.0[..], int(row.nid.0), int(row.since.0)])
    }

    fn remove_hold(&mut self, row: HoldRow) -> Result<()> {
        let sql = "DELETE FROM endpoint_hold WHERE endpoint = ?1 AND nid = ?2 AND since = ?3";
        self.run("let go of a version", sql, params![&row.endpoint.0[..], int(row.nid.0), int(row.since.0)])
    }

    fn put_sweep(&mut self, sweep: Sweep) -> Result<()> {
        let sql = "INSERT OR IGNORE INTO sweep (after, upto) VALUES (?1, ?2)";
        self.run("write a sweep", sql, [int(sweep.after.0), int(sweep.upto.0)])
    }

    fn remove_sweep(&mut self, sweep: Sweep) -> Result<()> {
        let sql = "DELETE FROM sweep WHERE after = ?1 AND upto = ?2";
        self.run("drop a sweep", sql, [int(sweep.after.0), int(sweep.upto.0)])
    }
}

impl SqliteRows {
    /// Copies the live version of a node to the closed ones, byte for byte.
    fn copy_to_past(&self, nid: Nid, until: Seq) -> Result<()> {
        let sql = "INSERT INTO past_node (until, nid, since, up, name, mtime, attrs, volatile, content) \
                   SELECT ?2, nid, since, up, name, mtime, attrs, volatile, content FROM node WHERE nid = ?1";
        self.change_one("close a node", sql, [int(nid.0), int(until.0)])
    }
}
