//! Pages of the feed.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use polder_types::{
    Attrs, AttrsHash, ChunkId, Content, Cursor, InstanceId, NodeUid, PackId, Placed, Seq, Timestamp,
};

use super::places::{decode_pack, decode_place};
use super::{
    BadMessage, ChunkPlace, PackPlace, at_most, attrs, content, cursor, id, id_or_zero, limits, placed, seq,
    text, time,
};
use crate::grpc::pb;

/// What the feed says of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedRow {
    /// Which node.
    pub uid: NodeUid,
    /// Its last change.
    pub since: Seq,
    /// Its state; `None` when the share has no such live node any more.
    pub live: Option<LiveRow>,
}

/// State of a live node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveRow {
    /// Where it stands.
    pub at: Placed,
    /// Modification time.
    pub mtime: Timestamp,
    /// Mode, owner, extended attributes; shared between equal rows.
    pub attrs: Arc<Attrs>,
    /// Bytes, target, or nothing.
    pub content: Content,
    /// Which endpoint instance made it; zero for a direct change.
    pub by: InstanceId,
    /// Places of chunks that the content itself names: a hint, perhaps not all.
    pub places: Vec<(ChunkId, ChunkPlace)>,
}

/// A row that cannot be true: nothing of it is to be believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadRow {
    /// Which node it is about.
    pub uid: NodeUid,
    /// Its last change, as it says.
    pub since: Seq,
    /// What is wrong with it.
    pub why: BadMessage,
}

/// One checked page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FeedPage {
    /// Rows.
    Rows {
        /// In the order of the feed.
        rows: Vec<FeedRow>,
        /// Rows that are refused alone. More of them than [`limits::BAD_ROWS_MAX`] are no page.
        bad: Vec<BadRow>,
        /// Packs that [`ChunkPlace::pack_index`] of this page points into.
        packs: Vec<PackPlace>,
        /// Set on the last page: the cut at which the tree is whole (after a bootstrap: from which to read on).
        upto: Option<Cursor>,
        /// Whether there is more after `upto`.
        more: bool,
        /// Where a broken bootstrap goes on.
        resume: Bytes,
    },
    /// The cursor cannot be followed.
    Rebaseline {
        /// Why, for the program.
        why: pb::RebaselineWhy,
        /// Why, for people.
        message: String,
    },
}

/// Makes the pages of one stream. Equal attributes are sent once, while the table has room.
#[derive(Debug, Default)]
pub struct FeedEncoder {
    index: HashMap<AttrsHash, u32>,
    table_bytes: usize,
    page: pb::FeedRows,
    packs: HashMap<PackId, u32>,
    page_bytes: usize,
    reset: bool,
}

impl FeedEncoder {
    /// For a new stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether the page is to be sent before more rows are added: 1 MiB, or as many rows as a page may have.
    pub fn is_full(&self) -> bool {
        self.page.rows.len() >= limits::PAGE_ROWS_MAX || self.page_bytes >= 1024 * 1024
    }

    /// Whether the page has no row.
    pub fn is_empty(&self) -> bool {
        self.page.rows.is_empty()
    }

    /// The index of a pack that was added to this page.
    pub fn pack_index(&self, pack: PackId) -> Option<u32> {
        self.packs.get(&pack).copied()
    }

    /// Adds a pack that places of this page point into; returns its index.
    pub fn pack(&mut self, pack: &PackPlace) -> u32 {
        let index = self.page.packs.len() as u32;
        self.packs.insert(pack.id, index);
        self.page_bytes += 300;
        self.page.packs.push(pack.into());
        index
    }

    /// Adds the row of a deleted node.
    pub fn gone(&mut self, uid: NodeUid, since: Seq) {
        self.page_bytes += 30;
        self.page.rows.push(pb::NodeRow {
            uid: Bytes::copy_from_slice(&uid.0),
            since: since.0,
            gone: true,
            ..Default::default()
        });
    }

    /// Adds the row of a live node. `places`, in the order of the content's direct chunks, point into packs that
    /// were added to this page.
    pub fn live(&mut self, state: &polder_types::NodeState, places: &[ChunkPlace]) {
        let attrs_index = self.attrs_index(&state.attrs);
        let content = state.content.encode();
        self.page_bytes += 120 + content.len() + state.at.name.as_bytes().len() + 30 * places.len();
        self.page.rows.push(pb::NodeRow {
            uid: Bytes::copy_from_slice(&state.uid.0),
            since: state.since.0,
            gone: false,
            parent: Bytes::copy_from_slice(&state.at.parent.0),
            name: Bytes::copy_from_slice(state.at.name.as_bytes()),
            mtime_s: state.mtime.secs,
            mtime_ns: state.mtime.nanos,
            attrs_index,
            content: content.into(),
            by: if state.by == InstanceId::ZERO { Bytes::new() } else { Bytes::copy_from_slice(&state.by.0) },
            places: places.iter().map(Into::into).collect(),
        });
    }

    fn attrs_index(&mut self, attrs: &Attrs) -> u32 {
        let hash = attrs.hash();
        if let Some(index) = self.index.get(&hash) {
            return *index;
        }
        let bytes = attrs.encode();
        self.page_bytes += bytes.len();
        self.table_bytes += bytes.len();
        self.page.attrs.push(bytes.into());
        let index = self.index.len() as u32;
        self.index.insert(hash, index);
        index
    }

    /// Takes the page. `upto` and `more` only on the last one of the stream.
    pub fn take(&mut self, upto: Option<Cursor>, more: bool, resume: Bytes) -> pb::FeedPage {
        let mut page = std::mem::take(&mut self.page);
        self.packs.clear();
        self.page_bytes = 0;
        page.attrs_reset = std::mem::take(&mut self.reset);
        page.upto = upto.map(Into::into);
        page.more = more;
        page.resume = resume;
        // The table is emptied between pages, early enough that one more page cannot overfill it.
        let half_full = self.index.len() > limits::ATTRS_TABLE_MAX / 2
            || self.table_bytes > limits::ATTRS_TABLE_BYTES_MAX / 2;
        if half_full {
            self.index.clear();
            self.table_bytes = 0;
            self.reset = true;
        }
        pb::FeedPage { body: Some(pb::feed_page::Body::Rows(page)) }
    }
}

/// Reads the pages of one stream.
#[derive(Debug, Default)]
pub struct FeedDecoder {
    table: Vec<Arc<Attrs>>,
    table_bytes: usize,
}

impl FeedDecoder {
    /// For a new stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Checks the next page. After an error the stream is to be given up.
    pub fn page(&mut self, from: pb::FeedPage) -> Result<FeedPage, BadMessage> {
        match from.body.ok_or(BadMessage::Missing("body"))? {
            pb::feed_page::Body::Rebaseline(why) => {
                Ok(FeedPage::Rebaseline { why: why.why(), message: text(why.message, "message")? })
            }
            pb::feed_page::Body::Rows(rows) => self.rows(rows),
        }
    }

    fn rows(&mut self, from: pb::FeedRows) -> Result<FeedPage, BadMessage> {
        at_most(from.rows.len(), limits::PAGE_ROWS_MAX, "rows")?;
        at_most(from.packs.len(), limits::PAGE_PACKS_MAX, "packs")?;
        at_most(from.resume.len(), limits::TEXT_BYTES_MAX, "resume")?;
        if from.attrs_reset {
            self.table.clear();
            self.table_bytes = 0;
        }
        at_most(self.table.len() + from.attrs.len(), limits::ATTRS_TABLE_MAX, "attrs")?;
        self.table_bytes += from.attrs.iter().map(Bytes::len).sum::<usize>();
        at_most(self.table_bytes, limits::ATTRS_TABLE_BYTES_MAX, "attrs")?;
        for bytes in &from.attrs {
            self.table.push(Arc::new(attrs(bytes)?));
        }
        let packs = from.packs.into_iter().map(decode_pack).collect::<Result<Vec<_>, _>>()?;
        let (mut rows, mut bad) = (Vec::with_capacity(from.rows.len()), Vec::new());
        for row in &from.rows {
            let (uid, since) = (id(&row.uid, "uid", NodeUid::from_slice)?, seq(row.since, "since")?);
            match self.row(uid, since, row, packs.len()) {
                Ok(row) => rows.push(row),
                Err(why) => bad.push(BadRow { uid, since, why }),
            }
            at_most(bad.len(), limits::BAD_ROWS_MAX, "bad rows")?;
        }
        let upto = from.upto.as_ref().map(|at| cursor(Some(at))).transpose()?;
        Ok(FeedPage::Rows { rows, bad, packs, upto, more: from.more, resume: from.resume })
    }

    fn row(
        &self,
        uid: NodeUid,
        since: Seq,
        from: &pb::NodeRow,
        pack_count: usize,
    ) -> Result<FeedRow, BadMessage> {
        if from.gone {
            return Ok(FeedRow { uid, since, live: None });
        }
        let attrs = self.table.get(from.attrs_index as usize).cloned();
        let content = content(&from.content)?;
        let chunks: Vec<ChunkId> = content.direct_chunks().collect();
        at_most(from.places.len(), chunks.len(), "places")?;
        let places = chunks
            .into_iter()
            .zip(&from.places)
            .map(|(id, place)| decode_place(place, pack_count).map(|place| (id, place)));
        Ok(FeedRow {
            uid,
            since,
            live: Some(LiveRow {
                places: places.collect::<Result<_, _>>()?,
                at: placed(&from.parent, &from.name)?,
                mtime: time(from.mtime_s, from.mtime_ns)?,
                attrs: attrs.ok_or(BadMessage::Range("attrs_index"))?,
                content,
                by: id_or_zero(&from.by, "by", InstanceId::ZERO, InstanceId::from_slice)?,
            }),
        })
    }
}
