//! The standing connection of an agent: assignments and news go out, status and answers come in.
//!
//! A session ends when the agent is silent for three heartbeats, when it does not read, when it is revoked, or when
//! its process connects again. Ending loses nothing: what is told here is read again at the next Hello.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use polder_api::grpc::{PROTOCOL_VERSION, convert, pb};
use polder_types::{Cursor, EndpointId, ServerId, ShareId};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};

use super::access::Caller;
use super::{Streamed, enrolment, orders};
use crate::agents::{Report, Session};
use crate::failure::{self, blocking};
use crate::metric;
use crate::shares::OpenShare;
use crate::state::ServiceState;

/// How long a new connection may wait with its Hello.
const HELLO_WAIT: Duration = Duration::from_secs(10);
/// Heads are told at once, and then not again for so long: what comes meanwhile is told together.
const HEADS_APART: Duration = Duration::from_millis(2);

/// A commit of this share is durable: tells the agents that follow it.
pub fn share_head_moved(state: &ServiceState, share: ShareId, head: Cursor) {
    if let Some(head) = state.shares().publish(share, head) {
        state.agents().head_moved(share, head);
    }
}

/// Answers `Session`.
pub async fn begin(
    state: &ServiceState,
    request: Request<Streaming<pb::FromAgent>>,
) -> Result<Response<Streamed<pb::ToAgent>>, Status> {
    let caller = Caller::of(&request)?;
    let mut inbound = request.into_inner();
    let hello = hello(&mut inbound).await?;
    let nonce = convert::nonce16(&hello.process_nonce, "process_nonce").map_err(|error| error.status())?;
    let heartbeat = Duration::from_secs(state.config().heartbeat_s.into());
    let (session, receive) = state.agents().begin(caller.id, nonce, heartbeat);
    tracing::info!(server = %caller.name, version = %hello.agent_version.escape_default(), "an agent connected");
    session.send(pb::to_agent::Message::Welcome(pb::Welcome {
        protocol: PROTOCOL_VERSION,
        service_version: env!("CARGO_PKG_VERSION").into(),
        server_id: caller.id.0.to_vec().into(),
        server_name: caller.name.to_string(),
        heartbeat_interval_s: state.config().heartbeat_s,
        time_unix_ms: i64::try_from(state.clock().now_ms()).unwrap_or(i64::MAX),
    }));
    let (out, outbound) = mpsc::channel(4);
    let running = Running { state: state.clone(), caller, session, version: hello.agent_version };
    tokio::spawn(running.run(inbound, receive, out));
    Ok(Response::new(Box::pin(ReceiverStream::new(outbound))))
}

async fn hello(inbound: &mut Streaming<pb::FromAgent>) -> Result<pb::Hello, Status> {
    let first = tokio::time::timeout(HELLO_WAIT, inbound.message()).await;
    let first = first.map_err(|_| Status::deadline_exceeded("no Hello within ten seconds"))??;
    match first.and_then(|first| first.message) {
        Some(pb::from_agent::Message::Hello(hello)) => {
            enrolment::ensure_version(hello.protocol)?;
            let text = convert::text(hello.agent_version.clone(), "agent_version");
            text.and(convert::text(hello.system.clone(), "system")).map_err(|error| error.status())?;
            Ok(hello)
        }
        _ => Err(Status::invalid_argument("the first message of a session is Hello")),
    }
}

/// A session that runs.
struct Running {
    state: ServiceState,
    caller: Caller,
    session: Arc<Session>,
    version: String,
}

type Out = mpsc::Sender<Result<pb::ToAgent, Status>>;

impl Running {
    async fn run(
        self,
        mut inbound: Streaming<pb::FromAgent>,
        mut queue: mpsc::Receiver<pb::ToAgent>,
        out: Out,
    ) {
        metric::set(metric::AGENTS, self.state.agents().count());
        let silence_max = Duration::from_secs(u64::from(self.state.config().heartbeat_s) * 3);
        let (state, session) = (self.state.clone(), self.session.clone());
        let speaking = tokio::spawn(speak(state.clone(), session.clone(), self.caller.id, out.clone()));
        let mut silent_at = tokio::time::Instant::now() + silence_max;
        let why = loop {
            tokio::select! {
                biased;
                message = queue.recv() => match message {
                    Some(message) => if out.send(Ok(message)).await.is_err() {
                        break "the agent has gone".to_owned();
                    },
                    None => break "the service forgot the session".to_owned(),
                },
                () = session.until_ended() => {
                    // What was queued before (why it was revoked) is still told.
                    while let Ok(message) = queue.try_recv() {
                        let _ = out.try_send(Ok(message));
                    }
                    break session.ended().unwrap_or_default();
                }
                () = out.closed() => break "the agent has gone".to_owned(),
                heard = tokio::time::timeout_at(silent_at, inbound.message()) => match heard {
                    Err(_) => break "the agent was silent for three heartbeats".to_owned(),
                    Ok(Ok(Some(message))) => {
                        session.heard();
                        silent_at = tokio::time::Instant::now() + silence_max;
                        if let Err(status) = self.take(message).await {
                            let _ = out.send(Err(status.clone())).await;
                            break status.message().to_owned();
                        }
                    }
                    Ok(Ok(None)) => break "the agent ended the session".to_owned(),
                    Ok(Err(status)) => break format!("the connection failed: {}", status.message()),
                },
            }
        };
        session.end(&why);
        speaking.abort();
        state.agents().forget(&session);
        metric::set(metric::AGENTS, state.agents().count());
        tracing::info!(server = %self.caller.name, why, "a session ended");
        if !state.agents().is_online(self.caller.id) {
            let id = self.caller.id;
            let noted = blocking(move || {
                let noted = state.control().left(id, state.now());
                noted.map_err(|error| failure::control("note the end of a session", error))
            });
            // Unnoted, the server counts as there until its last heartbeat is a minute old.
            let _ = noted.await;
        }
    }

    /// Takes one message of the agent.
    async fn take(&self, message: pb::FromAgent) -> Result<(), Status> {
        use pb::from_agent::Message;
        match message.message {
            Some(Message::Heartbeat(_)) => noted_later(self.heartbeat().await),
            Some(Message::Status(status)) => noted_later(self.status(status).await),
            Some(Message::Answer(answer)) => {
                let sound = answer.json.len() <= polder_api::grpc::limits::COMMAND_JSON_BYTES_MAX;
                convert::text(answer.message.clone(), "message").map_err(|error| error.status())?;
                if sound {
                    self.state.agents().answered(self.caller.id, answer);
                }
                Ok(())
            }
            Some(Message::Hello(_)) => Err(Status::invalid_argument("a session has one Hello")),
            // Of a newer agent.
            None => Ok(()),
        }
    }

    async fn heartbeat(&self) -> Result<(), Status> {
        let (state, id, version) = (self.state.clone(), self.caller.id, self.version.clone());
        blocking(move || {
            let noted = state.control().heartbeat(id, state.now(), &version);
            noted.map_err(|error| failure::control("note a heartbeat", error))
        })
        .await
    }

    async fn status(&self, status: pb::EndpointStatus) -> Result<(), Status> {
        let id = convert::ensure_status(&status).map_err(|error| error.status())?;
        let (state, caller) = (self.state.clone(), self.caller.clone());
        blocking(move || orders::take_status(&state, caller, id, status)).await
    }
}

/// A session goes on where rows cannot be written for now: the agent says the same again soon, and what is in memory
/// (its report, and its answers) is what tells people why.
fn noted_later(noted: Result<(), Status>) -> Result<(), Status> {
    noted.or_else(|status| if status.code() == Code::Unavailable { Ok(()) } else { Err(status) })
}

/// Tells an agent its assignments when they change, and heads as they move.
async fn speak(state: ServiceState, session: Arc<Session>, server: ServerId, out: Out) {
    loop {
        if session.take_assignments_changed() {
            let (for_rows, following) = (state.clone(), session.clone());
            let assigned = blocking(move || orders::assign(&for_rows, &following)).await;
            match assigned {
                Ok(assigned) => {
                    session.send(pb::to_agent::Message::Assignments(assigned.message));
                    orders::carry_out(&state, server, assigned.orders);
                }
                Err(status) => {
                    session.end(status.message());
                    return;
                }
            }
        }
        for (share, head) in session.take_heads() {
            let notice = pb::HeadNotice { share_id: share.0.to_vec().into(), head: Some(head.into()) };
            let message = pb::ToAgent { message: Some(pb::to_agent::Message::Head(notice)) };
            if out.send(Ok(message)).await.is_err() {
                return;
            }
        }
        tokio::time::sleep(HEADS_APART).await;
        session.woken().await;
    }
}

/// The heads of shares, for an agent that begins to follow them.
pub fn heads_of(shares: &[Arc<OpenShare>]) -> BTreeMap<ShareId, Cursor> {
    shares.iter().map(|share| (share.id, share.head())).collect()
}

/// Keeps a report in memory, and says whether its state is another than before.
pub fn keep_report(state: &ServiceState, id: EndpointId, status: pb::EndpointStatus) -> bool {
    let now = state.now();
    let before = state.agents().keep_report(id, Report { status: status.clone(), at: now });
    before.is_none_or(|before| before.status.state != status.state)
}
