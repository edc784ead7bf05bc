//! The commit path: rights, trees of extents, the commit core in one transaction, then the news.

use std::time::Instant;

use polder_api::grpc::convert::{self, OfferedBatch};
use polder_api::grpc::{Reason, pb};
use polder_ledger::{Brake, CommitContext, LedgerError, RowsMut, TreeChunks};
use polder_metadata::control::{self, Release};
use polder_types::{BatchAnswer, BatchNo, Content, Cursor, EndpointId, Tag};
use tonic::{Request, Response, Status};

use super::access::{Access, Caller, ensure_open};
use super::session::share_head_moved;
use crate::failure::{self, blocking};
use crate::state::ServiceState;
use crate::{metric, packs};

/// Answers `Commit`.
pub async fn commit(
    state: &ServiceState,
    request: Request<pb::CommitRequest>,
) -> Result<Response<pb::CommitReply>, Status> {
    let began = Instant::now();
    let caller = Caller::of(&request)?;
    let (for_rows, request) = (state.clone(), request.into_inner());
    let (access, batch) = blocking(move || {
        let access = Access::of_opening(&for_rows, caller, request.opening.as_ref())?;
        let batch = convert::decode_commit(&request).map_err(|error| error.status())?;
        Ok((access, batch))
    })
    .await?;
    if access.instance != Some(batch.author.by) {
        return Err(Reason::NotOpen.status("the batch is of another instance than the one that opened"));
    }
    let settings = &access.endpoint.settings;
    if settings.paused {
        return Ok(Response::new(not_allowed("the endpoint is paused")));
    }
    let contents = batch.groups.iter().flat_map(|group| &group.ops).filter_map(|op| op.content());
    let contents: Vec<Content> = contents.cloned().collect();
    let trees = packs::trees_below(&**state.packs(), state.trees(), &access.share, contents.iter()).await;
    let trees = trees.map_err(|error| {
        if error.is_callers() {
            Reason::BadMessage.status(failure::Chain(&error).to_string())
        } else {
            failure::unavailable("read a tree of extents", &error)
        }
    })?;
    let ops = batch.groups.iter().map(|group| group.ops.len() as u64).sum();
    let (share, endpoint) = (access.share_id(), access.endpoint.id);
    let answer = decide(state, &access, batch, trees).await??;
    metric::seconds(metric::COMMIT_SECONDS, began.elapsed());
    Ok(Response::new(match answer {
        Ok(answer) => {
            metric::add(metric::COMMITS, 1);
            metric::add(metric::COMMIT_OPERATIONS, ops);
            tracing::debug!(%share, %endpoint, ops, seq = answer.cursor.seq.0, "a batch was decided");
            share_head_moved(state, share, answer.cursor);
            convert::encode_answer(&answer)
        }
        Err(LedgerError::SetBack | LedgerError::CursorTooOld) => {
            let message = "the share's history is not the one that the endpoint knows".to_owned();
            let why = pb::RebaselineWhy::ServiceSetBack.into();
            reply(pb::commit_reply::Result::SetBack(pb::Rebaseline { why, message }))
        }
        Err(LedgerError::StaleBatch { .. }) => reply(pb::commit_reply::Result::Stale(pb::StaleBatch {})),
        Err(error) => return Err(failure::ledger("commit", error)),
    }))
}

fn reply(result: pb::commit_reply::Result) -> pb::CommitReply {
    pb::CommitReply { result: Some(result) }
}

fn not_allowed(why: &str) -> pb::CommitReply {
    reply(pb::commit_reply::Result::NotAllowed(pb::NotAllowed { why: why.into() }))
}

/// What the commit core said, or why it was not asked.
type Decided = Result<Result<BatchAnswer, LedgerError>, Status>;

/// Queues the batch for the share's writer, which puts batches that wait into one transaction.
async fn decide(
    state: &ServiceState,
    access: &Access,
    batch: OfferedBatch,
    trees: TreeChunks,
) -> Result<Decided, Status> {
    let terms = Terms {
        time_ms: state.clock().now_ms(),
        tag: random_tag()?,
        known: batch.known,
        quota_bytes: access.row.quota_bytes,
        brake: brake_of(access),
        trees,
    };
    let (answer, receive) = tokio::sync::oneshot::channel();
    let (state, endpoint, opening) = (state.clone(), access.endpoint.id, access.opening);
    access.share.db.submit(
        move |rows| match still_open(&state, endpoint, opening) {
            Ok(()) => terms.commit(rows, &batch).map(Ok),
            Err(refused) => Ok(Err(refused)),
        },
        // Nobody waits when the agent has gone: it asks again and gets this answer.
        move |done| {
            let decided = match done {
                Ok(Ok(decided)) => Ok(Ok(decided)),
                Ok(Err(refused)) => Err(refused),
                Err(error) => Ok(Err(error)),
            };
            drop(answer.send(decided));
        },
    );
    receive.await.map_err(|error| failure::internal("commit", &error))
}

/// Asked again under the share's lock: a copy of the agent may have opened while the batch waited, and would take the
/// answer to this one for its own.
fn still_open(state: &ServiceState, endpoint: EndpointId, opening: [u8; 16]) -> Result<(), Status> {
    let progress = state.control().progress(endpoint);
    ensure_open(&progress.map_err(|error| failure::control("read the endpoint", error))?, opening)
}

/// Fresh for each commit: tells this history from any other.
pub fn random_tag() -> Result<Tag, Status> {
    let mut tag = [0u8; 8];
    getrandom::fill(&mut tag).map_err(|error| Status::internal(format!("draw random bytes: {error}")))?;
    Ok(Tag(u64::from_le_bytes(tag)))
}

/// The brake of the endpoint, unless a person has let go.
fn brake_of(access: &Access) -> Option<control::Brake> {
    let released = access.endpoint.release == Some(Release::Accept);
    Some(access.endpoint.settings.brake).filter(|brake| brake.enabled && !released)
}

/// What a commit is decided under.
struct Terms {
    time_ms: u64,
    tag: Tag,
    known: Cursor,
    quota_bytes: Option<u64>,
    brake: Option<control::Brake>,
    trees: TreeChunks,
}

impl Terms {
    fn commit(&self, rows: &mut dyn RowsMut, batch: &OfferedBatch) -> Result<BatchAnswer, LedgerError> {
        let items = polder_ledger::share_row(rows)?.live_nodes;
        let brake = self.brake.map(|brake| {
            let part = (u128::from(items) * u128::from(brake.items_basis_points) / 10_000) as u64;
            Brake {
                window_ms: u64::from(brake.window_secs) * 1000,
                ops_max: part.min(brake.count_max).max(brake.count_min),
                held: false,
            }
        });
        let context = CommitContext {
            time_ms: self.time_ms,
            tag: self.tag,
            known: self.known,
            // The rows remember what was announced when the endpoint was opened.
            announced: BatchNo(0),
            quota_bytes: self.quota_bytes,
            brake,
            trees: &self.trees,
        };
        polder_ledger::commit(rows, &context, batch.author, &batch.groups)
    }
}
