//! Opening an endpoint: where clones and states that were set back in time are noticed, before anything changes
//! (promise I7).
//!
//! Openings are a chain. An agent that is still the one that opened last knows the last opening; a copy of its state,
//! or an older state of itself, does not. What does not continue the chain is a clone when the other one lives, and
//! else a state that was set back: it begins a new instance and merges, and deletes nothing.

use polder_api::grpc::{Reason, convert, limits, pb};
use polder_ledger::LedgerError;
use polder_metadata::control::{AuditNote, ControlError, EndpointProgress};
use polder_types::{Author, BatchNo, Cursor, EndpointId, InstanceId};
use tonic::{Request, Response, Status};

use super::access::{Access, Caller};
use crate::failure::{self, blocking};
use crate::state::ServiceState;

/// Why an endpoint with two agents is stopped; for people.
const CLONE: &str = "two agents use this endpoint at one time: one of them is a copy of the other";

/// An opening that was asked for.
struct Asked {
    endpoint: EndpointId,
    instance: InstanceId,
    opening: InstanceId,
    previous: Vec<InstanceId>,
    next_batch: BatchNo,
    known: Cursor,
    process: InstanceId,
}

enum Decided {
    Opened,
    SetBack(&'static str),
    Clone,
    /// It came in a session that is over, after another process had opened the endpoint.
    Late,
    Stopped(String),
}

fn decode(from: &pb::OpenEndpointRequest) -> Result<Asked, convert::BadMessage> {
    convert::at_most(from.previous.len(), limits::PREVIOUS_OPENINGS_MAX, "previous")?;
    let instance = convert::id(&from.instance, "instance", InstanceId::from_slice)?;
    if instance == InstanceId::ZERO {
        return Err(convert::BadMessage::Range("instance"));
    }
    let previous = from.previous.iter().map(|id| convert::id(id, "previous", InstanceId::from_slice));
    Ok(Asked {
        endpoint: convert::id(&from.endpoint_id, "endpoint_id", EndpointId::from_slice)?,
        instance,
        opening: convert::id(&from.opening, "opening", InstanceId::from_slice)?,
        previous: previous.collect::<Result<_, _>>()?,
        next_batch: BatchNo(from.next_batch),
        known: convert::cursor(from.known.as_ref())?,
        process: convert::id(&from.process_nonce, "process_nonce", InstanceId::from_slice)?,
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
    let (known, author) = (asked.known, Author { by: asked.instance, batch: asked.next_batch });
    let looked = access.share.db.read(|rows| {
        polder_ledger::check_cursor(rows, known)?;
        let announced = rows.author(author.by)?.is_some_and(|row| row.batch_min > author.batch);
        let used = announced || rows.answer(author)?.is_some();
        Ok((polder_ledger::share_row(rows)?.head, used))
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
    let (by, next) = (asked.instance, asked.next_batch);
    let decided = decide(state, &access, asked, used)?;
    match decided {
        Decided::Opened => {
            let announced = access.share.db.write(move |rows| polder_ledger::announce(rows, by, next));
            announced.map_err(|error: LedgerError| failure::ledger("announce the next batch", error))?;
            let opened = pb::Opened { head: Some(head.into()) };
            tracing::info!(endpoint = %asked.endpoint, share = %access.share_id(), server = %access.caller.name, "an endpoint was opened");
            Ok(reply(pb::open_endpoint_reply::Result::Opened(opened)))
        }
        Decided::SetBack(message) => Ok(rebaseline(access, asked, pb::RebaselineWhy::AgentSetBack, message)),
        Decided::Stopped(why) => Err(Reason::Stopped.status(why)),
        Decided::Late => Err(Reason::NotOpen.status("the session of this opening is over")),
        Decided::Clone => {
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

fn reply(result: pb::open_endpoint_reply::Result) -> pb::OpenEndpointReply {
    pb::OpenEndpointReply { result: Some(result) }
}

fn rebaseline(access: Access, asked: &Asked, why: pb::RebaselineWhy, message: &str) -> pb::OpenEndpointReply {
    tracing::warn!(endpoint = %asked.endpoint, server = %access.caller.name, message, "an endpoint begins anew");
    let rebaseline = pb::Rebaseline { why: why.into(), message: message.into() };
    reply(pb::open_endpoint_reply::Result::Rebaseline(rebaseline))
}

/// Reads and moves the chain in one transaction.
fn decide(state: &ServiceState, access: &Access, asked: &Asked, used: bool) -> Result<Decided, Status> {
    let now = state.now();
    let updated = state.control().update_progress(asked.endpoint, |progress| {
        if let Some(why) = &progress.stopped_why {
            return Ok(Decided::Stopped(why.clone()));
        }
        let decided = judge(state, access, asked, used, progress);
        match decided {
            Decided::Opened => {
                progress.instance = Some(asked.instance);
                progress.opening = Some(asked.opening);
                progress.process = Some(asked.process);
                progress.next_batch = asked.next_batch;
                progress.seen_at = Some(now);
            }
            Decided::Clone => {
                progress.cloned = true;
                progress.stopped_why = Some(CLONE.into());
            }
            Decided::SetBack(_) | Decided::Late | Decided::Stopped(_) => (),
        }
        Ok::<_, ControlError>(decided)
    });
    updated.map_err(|error| failure::control("open the endpoint", error))
}

/// `used`: the next batch's number names a batch already.
fn judge(
    state: &ServiceState,
    access: &Access,
    asked: &Asked,
    used: bool,
    progress: &EndpointProgress,
) -> Decided {
    const OLD: &str = "the endpoint's state is older than what the service has seen of it";
    let Some(last) = progress.opening.filter(|_| !used) else {
        return if used { Decided::SetBack(OLD) } else { Decided::Opened };
    };
    let lives = progress.process.is_some_and(|process| {
        process != asked.process && state.agents().is_alive(access.caller.id, process.0)
    });
    let continues = asked.previous.contains(&last) || last == asked.opening;
    let same_instance = progress.instance == Some(asked.instance);
    match (same_instance, continues) {
        (true, true) if asked.next_batch < progress.next_batch => Decided::SetBack(OLD),
        (true, true) => Decided::Opened,
        // Two that live at one time. A message that outlived its process is nobody's: it once stopped the endpoint of the
        // process that came after.
        (_, false) if lives && !state.agents().is_alive(access.caller.id, asked.process.0) => Decided::Late,
        (_, false) if lives => Decided::Clone,
        (true, false) => Decided::SetBack(OLD),
        // A new instance: it merges, so nothing is lost. One that was here before is an old state that came back.
        (false, _) if asked.previous.is_empty() || continues => Decided::Opened,
        (false, _) => Decided::SetBack("another instance of the endpoint has taken over since"),
    }
}
