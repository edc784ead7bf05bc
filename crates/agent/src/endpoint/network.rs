//! The network side of an endpoint: opening it in a session, reading the feed, sending batches. Each call runs as a
//! task and comes back as an [`Outcome`]; what the state database must know is written by the endpoint's own thread.

use std::sync::Arc;

use polder_api::grpc::convert::{self, CommitOutcome, FeedDecoder, FeedPage, OfferedBatch, PackPlace};
use polder_api::grpc::{Reason, limits, pb};
use polder_chunk::{ChunkLocation, PackRef};
use polder_engine::{
    Anew, BatchError, Event, Failure, FailureClass, FeedError, FeedRow, JobId, Kept, Page, PageToken,
    Unreachable,
};
use polder_replica::FsError;
use polder_types::{Author, BatchAnswer, BatchNo, Cursor, EndpointId, Group, InstanceId, NodeState};
use tokio::sync::Mutex;
use tonic::Streaming;

use super::disk::Disk;
use super::{Facts, Link};
use crate::chunks::{Open, Places, Remote, RemoteError};

/// What came of a call.
pub(crate) enum Outcome {
    /// Of an announcement.
    Announced {
        /// The job.
        job: JobId,
        /// In which session.
        link: u64,
        /// What the service said.
        answer: Opening,
    },
    /// Of a page.
    Page {
        /// The job.
        job: JobId,
        /// The page.
        page: Result<Page, FeedError>,
    },
    /// Of a batch.
    Answered {
        /// The job.
        job: JobId,
        /// The answer.
        answer: Result<BatchAnswer, BatchError>,
    },
    /// The service no longer takes this endpoint as open: announce again.
    NotOpen {
        /// In which session.
        link: u64,
    },
    /// What was to be told to the share could not be made durable here; it was not told.
    NotDurable(FsError),
}

/// Answer to an opening.
pub(crate) enum Opening {
    /// Accepted: later calls name it.
    Accepted {
        /// The way to the service.
        open: Box<Open>,
        /// The share's head.
        head: Cursor,
        /// What became of the open batches that were decided.
        kept: Vec<Kept>,
        /// Whether the others were not taken for sure: all were asked about.
        kept_known: bool,
    },
    /// Begin a new instance and merge.
    Rebaseline(Anew),
    /// The same, and changes were not kept for as long as the endpoint was away.
    AwayTooLong(Box<str>),
    /// Two agents live with this identity, or the endpoint is stopped.
    Refused(Unreachable),
    /// Try again later.
    Failed(Failure),
}

/// An announcement to be made.
pub(crate) struct Announcement {
    /// The job.
    pub job: JobId,
    /// Which endpoint.
    pub endpoint: EndpointId,
    /// Its instance.
    pub instance: InstanceId,
    /// Fresh.
    pub opening: [u8; 16],
    /// The last accepted one and those sent since.
    pub previous: Vec<[u8; 16]>,
    /// Lower batches are never used.
    pub next: BatchNo,
    /// Highest place in history that is known.
    pub known: Cursor,
    /// Batches whose answers are not known.
    pub open: Vec<BatchNo>,
}

/// Opens the endpoint in a session.
pub(crate) async fn announce(link: Link, what: Announcement, facts: Facts) {
    let request = pb::OpenEndpointRequest {
        endpoint_id: what.endpoint.0.to_vec().into(),
        instance: what.instance.0.to_vec().into(),
        opening: what.opening.to_vec().into(),
        previous: what.previous.iter().map(|nonce| nonce.to_vec().into()).collect(),
        next_batch: what.next.0,
        known: Some(what.known.into()),
        process_nonce: link.process_nonce.to_vec().into(),
        open_batches: what.open.iter().take(limits::OPEN_BATCHES_MAX).map(|batch| batch.0).collect(),
    };
    let answer = match link.client.clone().open_endpoint(request).await {
        Ok(reply) => opened(&link, &what, reply.into_inner()),
        Err(status) => match Reason::of(&status) {
            Some(Reason::Stopped) => Opening::Refused(Unreachable::Revoked(status.message().into())),
            _ => Opening::Failed(RemoteError::from(status).failure()),
        },
    };
    facts.network(Outcome::Announced { job: what.job, link: link.number, answer });
}

fn opened(link: &Link, what: &Announcement, reply: pb::OpenEndpointReply) -> Opening {
    use pb::open_endpoint_reply::Result as Wire;
    match reply.result {
        Some(Wire::Opened(opened)) => match decided(&opened) {
            Ok((head, kept)) => Opening::Accepted {
                open: Box::new(Open {
                    client: link.client.clone(),
                    http: link.http.clone(),
                    base: Arc::clone(&link.base),
                    endpoint: what.endpoint,
                    opening: what.opening,
                    link: link.number,
                }),
                head,
                kept,
                kept_known: what.open.len() <= limits::OPEN_BATCHES_MAX,
            },
            Err(error) => Opening::Failed(RemoteError::from(error).failure()),
        },
        Some(Wire::Rebaseline(anew)) if anew.why() == pb::RebaselineWhy::TooOld => {
            Opening::AwayTooLong(anew.message.into())
        }
        Some(Wire::Rebaseline(anew)) => Opening::Rebaseline(anew_of(anew.why(), anew.message)),
        Some(Wire::Clone(_)) => Opening::Refused(Unreachable::Clone),
        None => Opening::Failed(Failure { class: FailureClass::Other, text: "an empty answer".into() }),
    }
}

/// The head, and what became of the batches that were asked about.
fn decided(opened: &pb::Opened) -> Result<(Cursor, Vec<Kept>), convert::BadMessage> {
    let kept = opened.kept.iter().take(limits::OPEN_BATCHES_MAX).map(|kept| {
        let (batch, accepted) = convert::decode_kept(kept)?;
        Ok(Kept { batch, accepted })
    });
    Ok((convert::cursor(opened.head.as_ref())?, kept.collect::<Result<_, _>>()?))
}

/// Reads the feed, one page a request of the engine: what is not asked for stays in the connection's window.
#[derive(Debug, Clone)]
pub(crate) struct FeedReader {
    remote: Arc<Remote>,
    places: Arc<Places>,
    stream: Arc<Mutex<Option<Stream>>>,
}

#[derive(Debug)]
struct Stream {
    pages: Streaming<pb::FeedPage>,
    decoder: FeedDecoder,
}

impl FeedReader {
    /// Reads through `remote`, and tells `places` where chunks are.
    pub(crate) fn new(remote: Arc<Remote>, places: Arc<Places>) -> Self {
        Self { remote, places, stream: Arc::default() }
    }

    /// The next page of the answer that is being read (`next`), or the first one of a new answer: changes after a
    /// cursor, or with `None` the whole tree.
    pub(crate) async fn page(self, job: JobId, after: Option<Cursor>, next: bool, facts: Facts) {
        let link = self.remote.open().map(|open| open.link).ok();
        let page = match self.read(after, next).await {
            Ok(page) => page,
            Err(error) => {
                tell_not_open(link, error.reason(), &facts);
                Err(FeedError::Failed(error.failure()))
            }
        };
        facts.network(Outcome::Page { job, page });
    }

    async fn read(&self, after: Option<Cursor>, next: bool) -> Result<Result<Page, FeedError>, RemoteError> {
        let mut stream = self.stream.lock().await;
        if !next {
            *stream = Some(self.begin(after).await?);
        }
        let Some(current) = stream.as_mut() else {
            return Ok(Err(FeedError::Failed(broken("the answer was broken off"))));
        };
        let message = current.pages.message().await;
        let page = match message {
            Ok(Some(message)) => current.decoder.page(message)?,
            Ok(None) => {
                *stream = None;
                return Ok(Err(FeedError::Failed(broken("the answer ended before its last page"))));
            }
            Err(status) => {
                *stream = None;
                return Err(status.into());
            }
        };
        let (rows, bad, packs, upto) = match page {
            FeedPage::Rebaseline { message, why: pb::RebaselineWhy::TooOld } => {
                return Ok(Err(FeedError::AwayTooLong(message.into())));
            }
            FeedPage::Rebaseline { why, message } => {
                return Ok(Err(FeedError::Rebaseline(anew_of(why, message))));
            }
            FeedPage::Rows { rows, bad, packs, upto, .. } => (rows, bad, packs, upto),
        };
        if upto.is_some() {
            *stream = None;
        }
        let mut rows = self.rows(rows, &packs)?;
        rows.extend(bad.into_iter().map(|bad| FeedRow::Bad {
            uid: bad.uid,
            since: bad.since,
            why: crate::status::chain(&bad.why).into(),
        }));
        let next = upto.is_none().then(|| PageToken(Vec::new()));
        Ok(Ok(Page { rows, upto: upto.unwrap_or_default(), next }))
    }

    async fn begin(&self, after: Option<Cursor>) -> Result<Stream, RemoteError> {
        let open = self.remote.open()?;
        let mut client = open.client.clone();
        let opening = open.named();
        let pages = match after {
            Some(after) => {
                let request =
                    pb::ChangesRequest { opening, after: Some(after.into()), rows_max: 0, with_places: true };
                client.changes(request).await?
            }
            None => {
                let request = pb::BootstrapRequest { opening, with_places: true, resume: Vec::new().into() };
                client.bootstrap(request).await?
            }
        };
        Ok(Stream { pages: pages.into_inner(), decoder: FeedDecoder::new() })
    }

    fn rows(&self, rows: Vec<convert::FeedRow>, packs: &[PackPlace]) -> Result<Vec<FeedRow>, RemoteError> {
        let refs: Vec<PackRef> =
            packs.iter().map(crate::chunks::pack_ref).collect::<Result<_, _>>().map_err(RemoteError::Bad)?;
        self.places.put_packs(packs);
        let row = |row: convert::FeedRow| match row.live {
            None => FeedRow::Gone { uid: row.uid, since: row.since, by: InstanceId::ZERO },
            Some(live) => {
                for (id, place) in &live.places {
                    let pack = refs.get(place.pack_index as usize);
                    if let (Some(pack), Some(slot)) = (pack, crate::chunks::slot(&place.slot)) {
                        self.places.put(*id, ChunkLocation { pack: *pack, slot });
                    }
                }
                FeedRow::Live(Box::new(NodeState {
                    uid: row.uid,
                    at: live.at,
                    mtime: live.mtime,
                    attrs: Arc::unwrap_or_clone(live.attrs),
                    content: live.content,
                    since: row.since,
                    by: live.by,
                }))
            }
        };
        Ok(rows.into_iter().map(row).collect())
    }
}

/// Only an agent that is itself old knows for sure that the service's history is its own.
fn anew_of(why: pb::RebaselineWhy, message: String) -> Anew {
    Anew { why: message.into(), other_history: why != pb::RebaselineWhy::AgentSetBack }
}

fn broken(text: &str) -> Failure {
    Failure { class: FailureClass::Unreachable, text: text.into() }
}

/// A batch to be sent.
pub(crate) struct Batch {
    /// The job.
    pub job: JobId,
    /// Whose batch it is.
    pub author: Author,
    /// Highest place in history that is known.
    pub known: Cursor,
    /// The groups.
    pub groups: Vec<Group>,
}

/// Sends a batch, once what it tells of is durable here.
///
/// What the share is told must not be lost here by a power cut: contents, names, modes. Before it is told, not after: when the
/// answer is lost with the power, the next start takes what the disk has then for what its users did since, and the old
/// bytes, or none, would go to the share as an edit or a deletion. The endpoint's thread goes on meanwhile.
pub(crate) async fn send(remote: Arc<Remote>, disk: Arc<Disk>, batch: Batch, facts: Facts) {
    if !flush(disk, &facts).await {
        return;
    }
    let job = batch.job;
    let answer = match remote.open() {
        Err(error) => Err(BatchError::NotTaken(error.failure())),
        Ok(open) => commit(&remote, &open, batch, &facts).await,
    };
    facts.network(Outcome::Answered { job, answer });
}

/// Makes everything on the volume durable, and says so.
pub(crate) async fn make_durable(disk: Arc<Disk>, job: JobId, facts: Facts) {
    if flush(disk, &facts).await {
        facts.send(Event::MadeDurable { job });
    }
}

/// Whether everything on the volume is durable now. Else nothing must be told or written down: the endpoint's life ends, or
/// the agent does, which may cancel this (a panic ends the worker by itself).
async fn flush(disk: Arc<Disk>, facts: &Facts) -> bool {
    match tokio::task::spawn_blocking(move || disk.make_durable()).await {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            facts.network(Outcome::NotDurable(error));
            false
        }
        Err(_) => false,
    }
}

async fn commit(
    remote: &Remote,
    open: &Open,
    batch: Batch,
    facts: &Facts,
) -> Result<BatchAnswer, BatchError> {
    let group_count = batch.groups.len();
    let offered = OfferedBatch {
        endpoint: open.endpoint,
        opening: open.opening,
        author: batch.author,
        known: batch.known,
        groups: batch.groups,
    };
    let request = convert::encode_commit(&offered);
    remote.count(prost::Message::encoded_len(&request) as u64, 0);
    let reply = open.client.clone().commit(request).await.map_err(|status| {
        tell_not_open(Some(open.link), Reason::of(&status), facts);
        not_answered(&status)
    })?;
    let outcome = convert::decode_reply(reply.into_inner(), group_count).map_err(|_| BatchError::Lost)?;
    match outcome {
        CommitOutcome::Answer(answer) => Ok(answer),
        CommitOutcome::SetBack { message } => {
            Err(BatchError::Rebaseline(anew_of(pb::RebaselineWhy::ServiceSetBack, message)))
        }
        CommitOutcome::Stale => Err(BatchError::Stale),
        CommitOutcome::NotAllowed { why } => {
            Err(BatchError::NotTaken(Failure { class: FailureClass::Denied, text: why.into() }))
        }
    }
}

/// An opening that the service no longer knows (it was started anew, say) is made again.
fn tell_not_open(link: Option<u64>, reason: Option<Reason>, facts: &Facts) {
    if let (Some(link), Some(Reason::NotOpen)) = (link, reason) {
        facts.network(Outcome::NotOpen { link });
    }
}

/// A call without an answer: refused before anything happened, or nobody knows.
fn not_answered(status: &tonic::Status) -> BatchError {
    match Reason::of(status) {
        Some(_) => {
            BatchError::NotTaken(Failure { class: FailureClass::Unreachable, text: status.message().into() })
        }
        None => BatchError::Lost,
    }
}
