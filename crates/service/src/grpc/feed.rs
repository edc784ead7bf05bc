//! The feed and the bootstrap, page by page: one transaction a page, so that a slow reader holds nothing.

use std::collections::HashMap;

use bytes::Bytes;
use polder_api::grpc::convert::{self, ChunkPlace, FeedEncoder, PackPlace};
use polder_api::grpc::{limits, pb};
use polder_ledger::{FeedFrom, FeedRow, LedgerError, Located, PackState, Rows};
use polder_types::{ChunkId, Cursor, EndpointId, Nid, NodeState, PackId, Reader, Writer};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::access::{Access, Caller};
use super::{Streamed, chunks};
use crate::failure::{self, blocking};
use crate::metric;
use crate::state::ServiceState;

/// Rows of a page where the reader does not say.
const PAGE_ROWS: usize = 1024;
/// Pages that wait for a slow reader.
const AHEAD: usize = 2;

/// What one stream is made from. Runs on a thread that may wait.
struct Producer {
    state: ServiceState,
    access: Access,
    endpoint: EndpointId,
    with_places: bool,
    page_rows: usize,
    encoder: FeedEncoder,
    out: mpsc::Sender<Result<pb::FeedPage, Status>>,
}

/// Nobody reads the stream any more.
struct Gone;

/// Answers `Changes`.
pub async fn changes(
    state: &ServiceState,
    request: Request<pb::ChangesRequest>,
) -> Result<Response<Streamed<pb::FeedPage>>, Status> {
    let caller = Caller::of(&request)?;
    let request = request.into_inner();
    let after = convert::cursor(request.after.as_ref()).map_err(|error| error.status())?;
    let (mut producer, receive) =
        Producer::new(state, caller, request.opening, request.with_places, request.rows_max).await?;
    tokio::task::spawn_blocking(move || {
        let done = producer.changes(after);
        producer.finish(done);
    });
    Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
}

/// Answers `Bootstrap`.
pub async fn bootstrap(
    state: &ServiceState,
    request: Request<pb::BootstrapRequest>,
) -> Result<Response<Streamed<pb::FeedPage>>, Status> {
    let caller = Caller::of(&request)?;
    let request = request.into_inner();
    let resume = decode_resume(&request.resume).map_err(|error| error.status())?;
    let (mut producer, receive) =
        Producer::new(state, caller, request.opening, request.with_places, 0).await?;
    tokio::task::spawn_blocking(move || {
        let done = producer.bootstrap(resume);
        producer.finish(done);
    });
    Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
}

/// Why a stream ends before its end.
enum Stop {
    Ledger(LedgerError),
    Gone,
}

impl From<LedgerError> for Stop {
    fn from(error: LedgerError) -> Self {
        Self::Ledger(error)
    }
}

impl From<polder_ledger::RowsError> for Stop {
    fn from(error: polder_ledger::RowsError) -> Self {
        Self::Ledger(error.into())
    }
}

impl From<Gone> for Stop {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

impl Producer {
    async fn new(
        state: &ServiceState,
        caller: Caller,
        opening: Option<pb::Opening>,
        with_places: bool,
        rows_max: u32,
    ) -> Result<(Self, mpsc::Receiver<Result<pb::FeedPage, Status>>), Status> {
        let (state, for_access) = (state.clone(), state.clone());
        let access = blocking(move || Access::of_opening(&for_access, caller, opening.as_ref())).await?;
        let (out, receive) = mpsc::channel(AHEAD);
        let page_rows = if rows_max == 0 { PAGE_ROWS } else { rows_max as usize };
        let page_rows = page_rows.min(limits::PAGE_ROWS_MAX);
        let (endpoint, encoder) = (access.endpoint.id, FeedEncoder::new());
        Ok((Self { state, access, endpoint, with_places, page_rows, encoder, out }, receive))
    }

    fn changes(&mut self, after: Cursor) -> Result<(), Stop> {
        let db = self.access.share.db.clone();
        let mut go_on: Option<FeedFrom> = None;
        loop {
            let (page, upto, next) = db.read(|rows| {
                let page = polder_ledger::changes(rows, after, go_on, self.page_rows)?;
                self.add(rows, &page.rows)?;
                Ok::<_, Stop>((page.rows.len(), page.upto, page.next))
            })?;
            metric::add(metric::FEED_ROWS, page as u64);
            let more = next.is_none() && self.access.share.head().seq > upto.seq;
            self.send(next.is_none().then_some(upto), more, Bytes::new())?;
            match next {
                Some(next) => go_on = Some(next),
                None => return Ok(()),
            }
        }
    }

    fn bootstrap(&mut self, resume: Option<(Cursor, Nid)>) -> Result<(), Stop> {
        let db = self.access.share.db.clone();
        let (mut from, mut after) = (resume.map(|(from, _)| from), resume.map(|(_, after)| after));
        loop {
            let page = db.read(|rows| {
                let page = polder_ledger::bootstrap(rows, from, after, self.page_rows)?;
                for state in &page.rows {
                    self.add_live(rows, state)?;
                }
                Ok::<_, Stop>(page)
            })?;
            metric::add(metric::FEED_ROWS, page.rows.len() as u64);
            from = Some(page.from);
            let Some(next) = page.next else { return Ok(self.send(Some(page.from), true, Bytes::new())?) };
            after = Some(next);
            self.send(None, false, encode_resume(page.from, next))?;
        }
    }

    fn add(&mut self, rows: &dyn Rows, found: &[FeedRow]) -> Result<(), Stop> {
        for row in found {
            match row {
                FeedRow::Gone { uid, seq, .. } => self.encoder.gone(*uid, *seq),
                FeedRow::Node(state) => self.add_live(rows, state)?,
            }
        }
        Ok(())
    }

    /// A row, with the places of its chunks where all of them are known. Only the page that is being made holds packs,
    /// so their numbers are looked up in it.
    fn add_live(&mut self, rows: &dyn Rows, state: &NodeState) -> Result<(), Stop> {
        let ids: Vec<ChunkId> = match self.with_places {
            true => state.content.direct_chunks().collect(),
            false => Vec::new(),
        };
        let located = polder_ledger::locate(rows, &ids)?;
        let readable: Option<Vec<Located>> =
            located.into_iter().map(|at| at.filter(|at| is_readable(at.state))).collect();
        let mut places = Vec::new();
        for at in readable.unwrap_or_default() {
            let pack_index = match self.encoder.pack_index(at.pack) {
                Some(index) => index,
                None => {
                    let place = pack_place(&self.state, &self.access, self.endpoint, rows, &at)?;
                    self.encoder.pack(&place)
                }
            };
            places.push(ChunkPlace { pack_index, slot: at.slot.as_bytes().into() });
        }
        self.encoder.live(state, &places);
        Ok(())
    }

    fn send(&mut self, upto: Option<Cursor>, more: bool, resume: Bytes) -> Result<(), Gone> {
        self.out.blocking_send(Ok(self.encoder.take(upto, more, resume))).map_err(|_| Gone)
    }

    fn finish(self, done: Result<(), Stop>) {
        let last = match done {
            Ok(()) | Err(Stop::Gone) => return,
            Err(Stop::Ledger(error)) => match rebaseline(&error) {
                Some(page) => Ok(page),
                None => Err(failure::ledger("read the feed", error)),
            },
        };
        // Nobody may be left to hear it.
        let _ = self.out.blocking_send(last);
    }
}

/// Whether a chunk of a pack in this state can be read.
pub fn is_readable(state: PackState) -> bool {
    matches!(state, PackState::Live | PackState::Condemned)
}

/// A pack with an address for this endpoint.
fn pack_place(
    state: &ServiceState,
    access: &Access,
    endpoint: EndpointId,
    rows: &dyn Rows,
    at: &Located,
) -> Result<PackPlace, Stop> {
    let pack = polder_ledger::pack(rows, at.pack)?;
    let size_bytes = pack.map_or(0, |pack| pack.bytes);
    Ok(chunks::place(state, access.share_id(), endpoint, at, size_bytes))
}

fn rebaseline(error: &LedgerError) -> Option<pb::FeedPage> {
    let why = match error {
        LedgerError::SetBack => pb::RebaselineWhy::ServiceSetBack,
        LedgerError::CursorTooOld => pb::RebaselineWhy::TooOld,
        _ => return None,
    };
    let rebaseline = pb::Rebaseline { why: why.into(), message: error.to_string() };
    Some(pb::FeedPage { body: Some(pb::feed_page::Body::Rebaseline(rebaseline)) })
}

fn encode_resume(from: Cursor, after: Nid) -> Bytes {
    let mut out = Writer::new();
    out.byte(1).number(from.epoch.0).number(from.seq.0).number(from.tag.0).number(after.0);
    out.finish().into()
}

fn decode_resume(bytes: &[u8]) -> Result<Option<(Cursor, Nid)>, convert::BadMessage> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let read = || {
        let mut from = Reader::new(bytes);
        if from.byte()? != 1 {
            return Err(polder_types::DecodeError::Bad("resume"));
        }
        let cursor = Cursor {
            epoch: polder_types::Epoch(from.number()?),
            seq: polder_types::Seq(from.number()?),
            tag: polder_types::Tag(from.number()?),
        };
        let after = Nid(from.number()?);
        from.end()?;
        Ok(Some((cursor, after)))
    };
    read().map_err(|source| convert::BadMessage::Bytes { field: "resume", source })
}

/// Packs of an answer that is being made, each once.
#[derive(Default)]
pub struct PackTable(HashMap<PackId, u32>);

impl PackTable {
    /// The position of a pack, or the next one.
    pub fn index(&mut self, pack: PackId) -> (u32, bool) {
        let next = self.0.len() as u32;
        let mut new = false;
        let index = *self.0.entry(pack).or_insert_with(|| {
            new = true;
            next
        });
        (index, new)
    }
}
