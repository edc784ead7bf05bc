//! Rows in memory: for tests and the simulator, and the plainest statement of what the port means.

use std::collections::BTreeSet;
use std::ops::Bound::{Excluded, Included, Unbounded};

use polder_ledger::{
    AuthorRow, ChangeRow, ChunkRow, CommitRow, EntryRow, HoldRow, Ident, Listed, NodeRow, PackNo, PackRow,
    PastEntry, PastNode, PinRow, Rows, RowsError, RowsMut, ShareRow, SnapshotRow, Sweep, What,
};
use polder_types::{Author, BatchNo, EndpointId, InstanceId, Nid, NodeUid, PackId, Seq};

use super::table::Table;

type Result<T> = std::result::Result<T, RowsError>;
type Key = Box<[u8]>;

macro_rules! tables {
    ($($(#[$doc:meta])* $name:ident: $key:ty => $row:ty),* $(,)?) => {
        /// A share's rows in ordered maps.
        #[derive(Debug, Clone)]
        pub struct MemoryRows {
            $($(#[$doc])* $name: Table<$key, $row>,)*
        }

        impl MemoryRows {
            /// No rows at all.
            pub fn new() -> Self {
                Self { $($name: Table::new(),)* }
            }

            /// Ends a transaction: what was written stays.
            pub fn keep(&mut self) {
                $(self.$name.keep();)*
            }

            /// Ends a transaction: what was written since the last one is taken back.
            pub fn take_back(&mut self) {
                $(self.$name.take_back();)*
            }
        }
    };
}

tables! {
    share: () => ShareRow,
    idents: Nid => Ident,
    uids: NodeUid => Nid,
    nodes: Nid => NodeRow,
    past_nodes: Seq => PastNode,
    past_nodes_of: (Nid, Seq) => (),
    entries: (Nid, Key) => EntryRow,
    past_entries: Seq => PastEntry,
    past_entries_of: (Nid, Key, Seq) => (),
    changes: Seq => (Nid, What),
    commits: Seq => (CommitRow, Option<Box<[u8]>>),
    batches: Author => Seq,
    refusals: Author => Box<[u8]>,
    authors: InstanceId => AuthorRow,
    chunks: [u8; 16] => ChunkRow,
    packs: PackNo => PackRow,
    pack_nos: PackId => PackNo,
    pack_next: () => u64,
    snapshots: Box<str> => SnapshotRow,
    pins: EndpointId => PinRow,
    holds: HoldRow => (),
    sweeps: Sweep => (),
}

impl Default for MemoryRows {
    fn default() -> Self {
        Self::new()
    }
}

fn must<T>(row: Option<T>, what: &str) -> Result<T> {
    row.ok_or_else(|| RowsError::corrupt(format!("{what} is missing")))
}

fn must_be_new<T>(before: Option<T>, what: &str) -> Result<()> {
    match before {
        None => Ok(()),
        Some(_) => Err(RowsError::corrupt(format!("{what} is there already"))),
    }
}

fn above<K: Clone>(after: Option<K>) -> (std::ops::Bound<K>, std::ops::Bound<K>) {
    (after.map_or(Unbounded, Excluded), Unbounded)
}

impl MemoryRows {
    /// All live versions, the root's too: for who looks at many and keeps none.
    pub fn live_versions(&self) -> impl Iterator<Item = &NodeRow> {
        self.nodes.values()
    }

    /// All closed versions, in the order in which they were closed.
    pub fn closed_versions(&self) -> impl Iterator<Item = &NodeRow> {
        self.past_nodes.values().map(|past| &past.row)
    }

    fn past(&self, until: Seq) -> Result<PastNode> {
        must(self.past_nodes.get(&until).cloned(), "a closed version")
    }

    fn keys_of(&self, parent: Nid, after: Option<&[u8]>) -> BTreeSet<Key> {
        let from = after.map_or(Included((parent, Key::default())), |key| Excluded((parent, key.into())));
        let live = self.entries.range((from, Unbounded)).take_while(|((up, _), _)| *up == parent);
        let past_from = match after {
            Some(key) => Excluded((parent, key.into(), Seq(u64::MAX))),
            None => Included((parent, Key::default(), Seq(0))),
        };
        let past =
            self.past_entries_of.range((past_from, Unbounded)).take_while(|((up, ..), ())| *up == parent);
        live.map(|((_, key), _)| key.clone()).chain(past.map(|((_, key, _), ())| key.clone())).collect()
    }

    fn close(&mut self, nid: Nid, until: Seq) -> Result<()> {
        let row = must(self.nodes.remove(&nid), "a live version")?;
        must_be_new(self.past_nodes.put(until, PastNode { until, row }), "a closed version")?;
        self.past_nodes_of.put((nid, until), ());
        Ok(())
    }
}

impl Rows for MemoryRows {
    fn share(&self) -> Result<Option<ShareRow>> {
        Ok(self.share.get(&()).cloned())
    }

    fn ident(&self, uid: NodeUid) -> Result<Option<Ident>> {
        match self.uids.get(&uid) {
            Some(nid) => self.ident_of(*nid),
            None => Ok(None),
        }
    }

    fn ident_of(&self, nid: Nid) -> Result<Option<Ident>> {
        Ok(self.idents.get(&nid).copied())
    }

    fn node(&self, nid: Nid) -> Result<Option<NodeRow>> {
        Ok(self.nodes.get(&nid).cloned())
    }

    fn nodes(&self, after: Option<Nid>, limit: usize) -> Result<Vec<(NodeUid, NodeRow)>> {
        let rows = self.nodes.range(above(after)).take(limit);
        rows.map(|(nid, row)| Ok((must(self.idents.get(nid), "a node's id")?.uid, row.clone()))).collect()
    }

    fn past_nodes(&self, nid: Nid, after: Seq, limit: usize) -> Result<Vec<PastNode>> {
        let keys = self.past_nodes_of.range((Excluded((nid, after)), Included((nid, Seq(u64::MAX)))));
        keys.take(limit).map(|((_, until), ())| self.past(*until)).collect()
    }

    fn past_node_until(&self, nid: Nid, until: Seq) -> Result<Option<PastNode>> {
        Ok(self.past_nodes.get(&until).filter(|past| past.row.nid == nid).cloned())
    }

    fn last_past_node(&self, nid: Nid) -> Result<Option<PastNode>> {
        let last = self.past_nodes_of.range((nid, Seq(0))..=(nid, Seq(u64::MAX))).next_back();
        last.map(|((_, until), ())| self.past(*until)).transpose()
    }

    fn closed_nodes(&self, after: Seq, upto: Seq, limit: usize) -> Result<Vec<PastNode>> {
        if after >= upto {
            return Ok(Vec::new());
        }
        let rows = self.past_nodes.range((Excluded(after), Included(upto))).take(limit);
        Ok(rows.map(|(_, past)| past.clone()).collect())
    }

    fn entry(&self, parent: Nid, key: &[u8]) -> Result<Option<EntryRow>> {
        Ok(self.entries.get(&(parent, key.into())).cloned())
    }

    fn past_entry(&self, parent: Nid, key: &[u8], after: Seq) -> Result<Option<PastEntry>> {
        let from = Excluded((parent, Key::from(key), after));
        let to = Included((parent, Key::from(key), Seq(u64::MAX)));
        let first = self.past_entries_of.range((from, to)).next();
        first
            .map(|((.., until), ())| must(self.past_entries.get(until).cloned(), "a closed entry"))
            .transpose()
    }

    fn entries(
        &self,
        parent: Nid,
        after: Option<&[u8]>,
        limit: usize,
        at: Option<Seq>,
    ) -> Result<Vec<Listed>> {
        let Some(at) = at else {
            let from = after.map_or(Included((parent, Key::default())), |key| Excluded((parent, key.into())));
            let rows = self.entries.range((from, Unbounded)).take_while(|((up, _), _)| *up == parent);
            let listed = |((_, key), entry): (&(Nid, Key), &EntryRow)| Listed {
                key: key.clone(),
                entry: entry.clone(),
            };
            return Ok(rows.take(limit).map(listed).collect());
        };
        let mut found = Vec::new();
        for key in self.keys_of(parent, after) {
            let past =
                self.past_entry(parent, &key, at)?.map(|past| past.entry).filter(|entry| entry.since <= at);
            let entry = match past {
                Some(entry) => Some(entry),
                None => self.entry(parent, &key)?.filter(|entry| entry.since <= at),
            };
            found.extend(entry.map(|entry| Listed { key, entry }));
            if found.len() == limit {
                break;
            }
        }
        Ok(found)
    }

    fn closed_entries(&self, after: Seq, upto: Seq, limit: usize) -> Result<Vec<PastEntry>> {
        if after >= upto {
            return Ok(Vec::new());
        }
        let rows = self.past_entries.range((Excluded(after), Included(upto))).take(limit);
        Ok(rows.map(|(_, past)| past.clone()).collect())
    }

    fn changes(&self, after: Seq, upto: Seq, limit: usize) -> Result<Vec<ChangeRow>> {
        if after >= upto {
            return Ok(Vec::new());
        }
        let rows = self.changes.range((Excluded(after), Included(upto))).take(limit);
        let whole = |(seq, (nid, what)): (&Seq, &(Nid, What))| {
            let uid = must(self.idents.get(nid), "a changed node's id")?.uid;
            Ok(ChangeRow { seq: *seq, what: *what, nid: *nid, uid, live: self.nodes.get(nid).cloned() })
        };
        rows.map(whole).collect()
    }

    fn commit_at(&self, seq: Seq) -> Result<Option<CommitRow>> {
        Ok(self.commits.range(..=seq).next_back().map(|(_, (row, _))| *row))
    }

    fn commits(&self, after: Seq, limit: usize) -> Result<Vec<CommitRow>> {
        Ok(self.commits.range(above(Some(after))).take(limit).map(|(_, (row, _))| *row).collect())
    }

    fn answer(&self, author: Author) -> Result<Option<Box<[u8]>>> {
        if let Some(seq) = self.batches.get(&author) {
            return Ok(must(self.commits.get(seq), "a batch's commit")?.1.clone());
        }
        Ok(self.refusals.get(&author).cloned())
    }

    fn author(&self, by: InstanceId) -> Result<Option<AuthorRow>> {
        Ok(self.authors.get(&by).copied())
    }

    fn chunk(&self, key: [u8; 16]) -> Result<Option<ChunkRow>> {
        Ok(self.chunks.get(&key).copied())
    }

    fn chunks(&self, after: Option<[u8; 16]>, limit: usize) -> Result<Vec<([u8; 16], ChunkRow)>> {
        Ok(self.chunks.range(above(after)).take(limit).map(|(key, row)| (*key, *row)).collect())
    }

    fn pack(&self, no: PackNo) -> Result<Option<PackRow>> {
        Ok(self.packs.get(&no).cloned())
    }

    fn pack_no(&self, id: PackId) -> Result<Option<PackNo>> {
        Ok(self.pack_nos.get(&id).copied())
    }

    fn packs(&self, after: Option<PackNo>, limit: usize) -> Result<Vec<(PackNo, PackRow)>> {
        Ok(self.packs.range(above(after)).take(limit).map(|(no, row)| (*no, row.clone())).collect())
    }

    fn snapshot(&self, name: &str) -> Result<Option<SnapshotRow>> {
        Ok(self.snapshots.get(&name.into()).cloned())
    }

    fn snapshots(&self, after: Option<&str>, limit: usize) -> Result<Vec<SnapshotRow>> {
        Ok(self
            .snapshots
            .range(above(after.map(Box::from)))
            .take(limit)
            .map(|(_, row)| row.clone())
            .collect())
    }

    fn pins(&self) -> Result<Vec<PinRow>> {
        Ok(self.pins.values().copied().collect())
    }

    fn pinned(&self) -> Result<Vec<Seq>> {
        let snapshots = self.snapshots.values().map(|row| row.cursor.seq);
        let pins = self.pins.values().map(|row| row.cursor.seq);
        Ok(snapshots.chain(pins).collect::<BTreeSet<_>>().into_iter().collect())
    }

    fn holds(&self, endpoint: EndpointId, after: Option<HoldRow>, limit: usize) -> Result<Vec<HoldRow>> {
        let first = HoldRow { endpoint, nid: Nid(0), since: Seq(0) };
        let from = after.map_or(Included(first), Excluded);
        let rows = self.holds.range((from, Unbounded)).take_while(|(row, ())| row.endpoint == endpoint);
        Ok(rows.take(limit).map(|(row, ())| *row).collect())
    }

    fn is_held(&self, nid: Nid, since: Seq) -> Result<bool> {
        Ok(self.holds.keys().any(|row| row.nid == nid && row.since == since))
    }

    fn first_sweep(&self) -> Result<Option<Sweep>> {
        Ok(self.sweeps.keys().next().copied())
    }
}

impl RowsMut for MemoryRows {
    fn put_share(&mut self, row: &ShareRow) -> Result<()> {
        self.share.put((), row.clone());
        Ok(())
    }

    fn insert_ident(&mut self, nid: Nid, uid: NodeUid) -> Result<()> {
        must_be_new(self.uids.put(uid, nid), "an id")?;
        must_be_new(self.idents.put(nid, Ident { nid, uid, gone: None }), "an id")
    }

    fn put_gone(&mut self, nid: Nid, gone: Option<Seq>) -> Result<()> {
        let ident = *must(self.idents.get(&nid), "a node's id")?;
        self.idents.put(nid, Ident { gone, ..ident });
        Ok(())
    }

    fn remove_ident(&mut self, nid: Nid) -> Result<()> {
        let ident = must(self.idents.remove(&nid), "a node's id")?;
        self.uids.remove(&ident.uid);
        Ok(())
    }

    fn insert_node(&mut self, row: &NodeRow) -> Result<()> {
        must_be_new(self.nodes.put(row.nid, row.clone()), "a live version")
    }

    fn replace_node(&mut self, row: &NodeRow, until: Seq) -> Result<()> {
        self.close(row.nid, until)?;
        self.insert_node(row)
    }

    fn close_node(&mut self, nid: Nid, until: Seq) -> Result<()> {
        self.close(nid, until)
    }

    fn merge_past_node(&mut self, from: Seq, until: Seq) -> Result<()> {
        let row = self.past(from)?.row;
        let dropped = self.past(until)?;
        if dropped.row.nid != row.nid {
            return Err(RowsError::corrupt("two nodes would become one"));
        }
        self.remove_past_node(from)?;
        self.past_nodes.put(until, PastNode { until, row });
        Ok(())
    }

    fn remove_past_node(&mut self, until: Seq) -> Result<()> {
        let past = must(self.past_nodes.remove(&until), "a closed version")?;
        self.past_nodes_of.remove(&(past.row.nid, until));
        Ok(())
    }

    fn insert_entry(&mut self, parent: Nid, key: &[u8], entry: &EntryRow) -> Result<()> {
        must_be_new(self.entries.put((parent, key.into()), entry.clone()), "an entry")
    }

    fn close_entry(&mut self, parent: Nid, key: &[u8], until: Seq) -> Result<()> {
        let key = Key::from(key);
        let entry = must(self.entries.remove(&(parent, key.clone())), "an entry")?;
        self.past_entries_of.put((parent, key.clone(), until), ());
        must_be_new(self.past_entries.put(until, PastEntry { until, parent, key, entry }), "a closed entry")
    }

    fn remove_past_entry(&mut self, until: Seq) -> Result<()> {
        let past = must(self.past_entries.remove(&until), "a closed entry")?;
        self.past_entries_of.remove(&(past.parent, past.key, until));
        Ok(())
    }

    fn insert_change(&mut self, seq: Seq, nid: Nid, what: What) -> Result<()> {
        must_be_new(self.changes.put(seq, (nid, what)), "a change")
    }

    fn remove_change(&mut self, seq: Seq) -> Result<()> {
        must(self.changes.remove(&seq), "a change").map(drop)
    }

    fn insert_commit(&mut self, row: &CommitRow, answer: Option<&[u8]>) -> Result<()> {
        if answer.is_some() {
            must_be_new(self.batches.put(row.author, row.seq), "a batch")?;
        }
        must_be_new(self.commits.put(row.seq, (*row, answer.map(Into::into))), "a commit")
    }

    fn remove_commit(&mut self, seq: Seq) -> Result<()> {
        let (row, _) = must(self.commits.remove(&seq), "a commit")?;
        self.batches.remove(&row.author);
        Ok(())
    }

    fn insert_refusal(&mut self, author: Author, answer: &[u8]) -> Result<()> {
        must_be_new(self.refusals.put(author, answer.into()), "a refused batch")
    }

    fn remove_refusals(&mut self, by: InstanceId, below: BatchNo) -> Result<()> {
        let range = Author { by, batch: BatchNo(0) }..Author { by, batch: below };
        let old: Vec<Author> = self.refusals.range(range).map(|(author, _)| *author).collect();
        old.iter().for_each(|author| drop(self.refusals.remove(author)));
        Ok(())
    }

    fn put_author(&mut self, by: InstanceId, row: &AuthorRow) -> Result<()> {
        self.authors.put(by, *row);
        Ok(())
    }

    fn put_chunk(&mut self, key: [u8; 16], row: &ChunkRow) -> Result<()> {
        self.chunks.put(key, *row);
        Ok(())
    }

    fn remove_chunk(&mut self, key: [u8; 16]) -> Result<()> {
        must(self.chunks.remove(&key), "a chunk").map(drop)
    }

    fn insert_pack(&mut self, row: &PackRow) -> Result<PackNo> {
        let no = self.pack_next.get(&()).copied().unwrap_or(0) + 1;
        self.pack_next.put((), no);
        must_be_new(self.pack_nos.put(row.id, PackNo(no)), "a pack")?;
        self.packs.put(PackNo(no), row.clone());
        Ok(PackNo(no))
    }

    fn put_pack(&mut self, no: PackNo, row: &PackRow) -> Result<()> {
        must(self.packs.put(no, row.clone()), "a pack").map(drop)
    }

    fn remove_pack(&mut self, no: PackNo) -> Result<()> {
        let row = must(self.packs.remove(&no), "a pack")?;
        self.pack_nos.remove(&row.id);
        Ok(())
    }

    fn insert_snapshot(&mut self, row: &SnapshotRow) -> Result<()> {
        must_be_new(self.snapshots.put(row.name.clone(), row.clone()), "a snapshot")
    }

    fn remove_snapshot(&mut self, name: &str) -> Result<()> {
        must(self.snapshots.remove(&name.into()), "a snapshot").map(drop)
    }

    fn put_pin(&mut self, row: &PinRow) -> Result<()> {
        self.pins.put(row.endpoint, *row);
        Ok(())
    }

    fn remove_pin(&mut self, endpoint: EndpointId) -> Result<()> {
        self.pins.remove(&endpoint);
        for row in self.holds(endpoint, None, usize::MAX)? {
            self.holds.remove(&row);
        }
        Ok(())
    }

    fn put_hold(&mut self, row: HoldRow) -> Result<()> {
        self.holds.put(row, ());
        Ok(())
    }

    fn remove_hold(&mut self, row: HoldRow) -> Result<()> {
        self.holds.remove(&row);
        Ok(())
    }

    fn put_sweep(&mut self, sweep: Sweep) -> Result<()> {
        self.sweeps.put(sweep, ());
        Ok(())
    }

    fn remove_sweep(&mut self, sweep: Sweep) -> Result<()> {
        self.sweeps.remove(&sweep);
        Ok(())
    }
}
