//! Opening an endpoint: where clones and states that were set back in time are noticed, before anything changes
//! (promise I7).
//!
//! What continues the chain of openings and what does not is decided in [`crate::chain`].

use polder_api::grpc::{Reason, convert, limits, pb};
use polder_ledger::{LedgerError, Rows};
use polder_metadata::control::{AuditNote, ControlError};
use polder_types::{Author, BatchNo, Cursor, EndpointId, InstanceId};
use tonic::{Request, Response, Status};

use super::access::{Access, Caller};
use crate::chain::{self, CLONE, Judgement, Opening};
use crate::failure::{self, blocking};
use crate::state::ServiceState;

/// An opening that was asked for.
struct Asked {
    endpoint: EndpointId,
    known: Cursor,
    opening: Opening,
    /// Batches whose answers the endpoint does not know.
    open: Vec<BatchNo>,
}

fn decode(from: &pb::OpenEndpointRequest) -> Result<Asked, convert::BadMessage> {
    convert::at_most(from.previous.len(), limits::PREVIOUS_OPENINGS_MAX, "previous")?;
    convert::at_most(from.open_batches.len(), limits::OPEN_BATCHES_MAX, "open_batches")?;
    let instance = convert::id(&from.instance, "instance", InstanceId::from_slice)?;
    if instance == InstanceId::ZERO {
        return Err(convert::BadMessage::Range("instance"));
    }
    let previous = from.previous.iter().map(|id| convert::id(id, "previous", InstanceId::from_slice));
    Ok(Asked {
        endpoint: convert::id(&from.endpoint_id, "endpoint_id", EndpointId::from_slice)?,
        known: convert::cursor(from.known.as_ref())?,
        opening: Opening {
            instance,
            opening: convert::id(&from.opening, "opening", InstanceId::from_slice)?,
            previous: previous.collect::<Result<_, _>>()?,
            next_batch: BatchNo(from.next_batch),
            process: convert::id(&from.process_nonce, "process_nonce", InstanceId::from_slice)?,
        },
        open: from.open_batches.iter().copied().map(BatchNo).collect(),
    })
}

/// Answers an `OpenEndpoint`.
pub async fn open(
    state: &ServiceState,
    request: Request<pb::OpenEndpointRequest>,
) -> Result<Response<pb::OpenEndpointReply>, Status> {
    let caller = Caller::of(&request)?;
    let asked = decode(request.get_ref()).map_err(|error| error.status())?;
    let state = state.clone();
    blocking(move || open_blocking(&state, caller, &asked)).await.map(Response::new)
}

fn open_blocking(
    state: &ServiceState,
    caller: Caller,
    asked: &Asked,
) -> Result<pb::OpenEndpointReply, Status> {
    let access = Access::of_endpoint(state, caller, asked.endpoint)?;
    let (known, by, next) = (asked.known, asked.opening.instance, asked.opening.next_batch);
    let author = Author { by, batch: next };
    let looked = access.share.db.read(|rows| {
        polder_ledger::check_cursor(rows, known)?;
        Ok((polder_ledger::share_row(rows)?.head, is_used(rows, author)?))
    });
    let (head, used) = match looked {
        Ok(looked) => looked,
        Err(LedgerError::SetBack) => {
            let message = "the share's history is not the one that the endpoint knows";
            return Ok(rebaseline(access, asked, pb::RebaselineWhy::ServiceSetBack, message));
        }
        Err(LedgerError::CursorTooOld) => {
            let message = "the endpoint was away for longer than changes are kept";
            return Ok(rebaseline(access, asked, pb::RebaselineWhy::TooOld, message));
        }
        Err(error) => return Err(failure::ledger("check the cursor", error)),
    };
    // Before the opening counts: whatever the state before this start sent late is refused from here on.
    let decided = decide(state, &access, asked, used)?;
    match decided {
        Judgement::Opened => {
            let open = asked.open.clone();
            // Asked again now that the chain has moved: a copy's batch may have been carried out since the look.
            let announced = access.share.db.write(move |rows| match is_used(rows, author)? {
                true => Ok(None),
                false => {
                    polder_ledger::announce(rows, by, next)?;
                    // What is decided after this is so for good: lower numbers are refused now.
                    polder_ledger::kept_answers(rows, by, &open).map(Some)
                }
            });
            let announced: Result<_, LedgerError> = announced;
            let announced = announced.map_err(|error| failure::ledger("announce the next batch", error))?;
            let Some(kept) = announced else {
                return Ok(rebaseline(access, asked, pb::RebaselineWhy::AgentSetBack, chain::OLD));
            };
            let kept = kept.iter().map(|(batch, answer)| convert::encode_kept(*batch, answer)).collect();
            let opened = pb::Opened { head: Some(head.into()), kept };
            tracing::info!(endpoint = %asked.endpoint, share = %access.share_id(), server = %access.caller.name, "an endpoint was opened");
            Ok(reply(pb::open_endpoint_reply::Result::Opened(opened)))
        }
        Judgement::SetBack(message) => {
            Ok(rebaseline(access, asked, pb::RebaselineWhy::AgentSetBack, message))
        }
        Judgement::Stopped(why) => Err(Reason::Stopped.status(why)),
        Judgement::Late => Err(Reason::NotOpen.status("the session of this opening is over")),
        Judgement::Clone => {
            tracing::error!(endpoint = %asked.endpoint, server = %access.caller.name, "two agents use one endpoint: both are stopped");
            let note = AuditNote::new("endpoint.clone", asked.endpoint, CLONE);
            let audited = state.control().audit(&access.caller.acting(state), &note);
            audited.map_err(|error| failure::control("write the audit log", error))?;
            state.agents().stopped(access.caller.id, asked.endpoint, pb::Stop::Clone, CLONE);
            let clone = pb::CloneDetected { message: CLONE.into() };
            Ok(reply(pb::open_endpoint_reply::Result::Clone(clone)))
        }
    }
}

/// Whether the number of the next batch names one already, or never may.
fn is_used(rows: &dyn Rows, author: Author) -> Result<bool, LedgerError> {
    let announced = rows.author(author.by)?.is_some_and(|row| row.batch_min > author.batch);
    Ok(announced || rows.answer(author)?.is_some())
}

fn reply(result: pb::open_endpoint_reply::Result) -> pb::OpenEndpointReply {
    pb::OpenEndpointReply { result: Some(result) }
}

fn rebaseline(access: Access, asked: &Asked, why: pb::RebaselineWhy, message: &str) -> pb::OpenEndpointReply {
    tracing::warn!(endpoint = %asked.endpoint, server = %access.caller.name, message, "an endpoint begins anew");
    let rebaseline = pb::Rebaseline { why: why.into(), message: message.into() };
    reply(pb::open_endpoint_reply::Result::Rebaseline(rebaseline))
}

/// Reads and moves the chain in one transaction. `used`: the next batch's number names a batch already.
fn decide(state: &ServiceState, access: &Access, asked: &Asked, used: bool) -> Result<Judgement, Status> {
    let now = state.now();
    let updated = state.control().update_progress(asked.endpoint, |progress| {
        let lives = |process: InstanceId| state.agents().is_alive(access.caller.id, process.0);
        let judgement = chain::open(progress, &asked.opening, used, lives);
        if judgement == Judgement::Opened {
            progress.seen_at = Some(now);
        }
        Ok::<_, ControlError>(judgement)
    });
    updated.map_err(|error| failure::control("open the endpoint", error))
}
