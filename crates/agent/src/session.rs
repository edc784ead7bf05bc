//! The standing connection to the service: assignments, heads and commands come in, status goes out.
//!
//! There is one session a process. When it breaks it is made again, with growing waits and jitter, for ever; what only a
//! person can cure (a revoked certificate, another protocol) waits longest and says so.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use polder_api::grpc::convert::{self, Assignment};
use polder_api::grpc::{PROTOCOL_VERSION, Reason, pb};
use polder_engine::Unreachable;
use polder_types::ShareId;
use tokio::sync::{Notify, mpsc};
use tokio::time::MissedTickBehavior;
use tokio_stream::wrappers::ReceiverStream;

use crate::chunks::random;
use crate::endpoint::{Input, Link};
use crate::worker::Hub;
use crate::{connection, enrol, status};

const WAIT_MIN: Duration = Duration::from_millis(200);
const WAIT_MAX: Duration = Duration::from_secs(60);
/// How soon a changed status is sent.
const TICK: Duration = Duration::from_millis(200);
/// An unchanged status is sent again after so many ticks.
const REPEAT_TICKS: u64 = 300;
/// A session that lived so long was good: the next wait is the shortest.
const GOOD: Duration = Duration::from_secs(10);

/// How soon it is tried again at the earliest when somebody waits for the service.
const WANTED_AFTER: Duration = Duration::from_millis(500);

static NUMBER: AtomicU64 = AtomicU64::new(1);
/// A process has one session.
static WANTED: Notify = Notify::const_new();

/// Somebody waits for the service: the next try to reach it is soon.
pub(crate) fn wanted() {
    WANTED.notify_one();
}

/// Keeps a session for ever.
pub(crate) async fn keep(hub: Arc<Hub>) {
    let mut wait = WAIT_MIN;
    loop {
        let began = tokio::time::Instant::now();
        let error = match once(&hub).await {
            Ok(()) => anyhow::anyhow!("the service ended the session"),
            Err(error) => error,
        };
        let why = unreachable(&error);
        if hub.set_unreachable(Some(why.clone())) {
            tracing::info!(error = status::unreachable(&why), "no session with the service");
        }
        hub.tell_all(|| Input::Down(why.clone()));
        if began.elapsed() > GOOD {
            wait = WAIT_MIN;
        }
        let jitter = u64::from(random::<1>()[0]) * wait.as_millis() as u64 / 512;
        let is_network = matches!(why, Unreachable::Network(_));
        let is_wanted = async {
            tokio::time::sleep(WANTED_AFTER).await;
            match is_network {
                true => WANTED.notified().await,
                // Nobody's waiting changes the answer.
                false => std::future::pending().await,
            }
        };
        let _ = tokio::time::timeout(wait / 2 + Duration::from_millis(jitter), is_wanted).await;
        let limit = if is_network { WAIT_MAX / 12 } else { WAIT_MAX };
        wait = (wait * 2).min(limit);
    }
}

fn unreachable(error: &anyhow::Error) -> Unreachable {
    let text: Box<str> = told(error).into();
    let reason = error.downcast_ref::<tonic::Status>().and_then(Reason::of);
    match reason {
        Some(Reason::Revoked | Reason::NoCertificate) => Unreachable::Revoked(text),
        Some(Reason::ProtocolVersion) => Unreachable::Version(text),
        _ => Unreachable::Network(text),
    }
}

/// Why a connection failed, in a sentence. What a wrong clock looks like is said: nobody would think of it.
pub(crate) fn told(error: &anyhow::Error) -> String {
    let text = match error.downcast_ref::<tonic::Status>() {
        Some(status) if Reason::of(status).is_some() => status.message().to_owned(),
        _ => status::sentence(error.chain()),
    };
    let by_time = ["certificate expired", "not valid yet", "CertificateExpired"];
    if by_time.iter().any(|words| text.contains(words)) {
        format!(
            "by the clocks a certificate is out of its time: is the date right on this server and on the service? ({text})"
        )
    } else {
        text
    }
}

/// One session, until it ends.
async fn once(hub: &Arc<Hub>) -> Result<()> {
    let mut client = connection::connect(&hub.state).await?;
    let (to, from) = mpsc::channel::<pb::FromAgent>(64);
    let hello = pb::Hello {
        protocol: PROTOCOL_VERSION,
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        process_nonce: hub.process_nonce.to_vec().into(),
        system: hub.system.clone(),
    };
    send(&to, pb::from_agent::Message::Hello(hello)).await?;
    let mut incoming = client.session(ReceiverStream::new(from)).await?.into_inner();
    let first = incoming.message().await?.context("the service sent nothing")?;
    let Some(pb::to_agent::Message::Welcome(welcome)) = first.message else {
        bail!("the service did not begin with a welcome");
    };
    if welcome.protocol != PROTOCOL_VERSION {
        return Err(Reason::ProtocolVersion.status(format!("version {}", welcome.protocol)).into());
    }
    let link = Link {
        client: client.clone(),
        http: connection::pack_client(&hub.state.read("ca.pem")?)?,
        base: hub.identity.service_url.trim_end_matches('/').into(),
        process_nonce: hub.process_nonce,
        number: NUMBER.fetch_add(1, Ordering::Relaxed),
    };
    hub.set_unreachable(None);
    tracing::info!(service = %hub.identity.service_url, "a session with the service stands");
    hub.set_link(Some(link.clone()));
    hub.tell_all(|| Input::Up(link.clone()));
    let mut reporter = Reporter::new(Duration::from_secs(welcome.heartbeat_interval_s.clamp(1, 60).into()));
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let outcome = loop {
        tokio::select! {
            message = incoming.message() => match message {
                Ok(Some(message)) => if let Err(error) = receive(hub, &link, &to, message).await { break Err(error) },
                Ok(None) => break Ok(()),
                Err(status) => break Err(status.into()),
            },
            _ = ticks.tick() => {
                if let Err(error) = reporter.tick(hub, &to).await { break Err(error) }
                renew_when_due(hub, &mut client).await;
            }
        }
    };
    hub.set_link(None);
    outcome
}

async fn send(to: &mpsc::Sender<pb::FromAgent>, message: pb::from_agent::Message) -> Result<()> {
    to.send(pb::FromAgent { message: Some(message) }).await.context("the session is over")
}

async fn receive(
    hub: &Arc<Hub>,
    link: &Link,
    to: &mpsc::Sender<pb::FromAgent>,
    message: pb::ToAgent,
) -> Result<()> {
    use pb::to_agent::Message;
    match message.message {
        Some(Message::Assignments(list)) => {
            convert::at_most(list.endpoints.len(), polder_api::grpc::limits::ENDPOINTS_MAX, "endpoints")?;
            let assignments =
                list.endpoints.into_iter().map(Assignment::try_from).collect::<Result<Vec<_>, _>>();
            let assignments = assignments.context("read the assignments")?;
            hub.assign(assignments, link).await;
        }
        Some(Message::Head(notice)) => {
            let share = ShareId::from_slice(&notice.share_id).context("a head without a share")?;
            let head = convert::cursor(notice.head.as_ref())?;
            hub.tell_share(share, || Input::Head(head));
        }
        Some(Message::Command(command)) => {
            // Some answers take a while; the session goes on meanwhile.
            let (hub, to) = (Arc::clone(hub), to.clone());
            tokio::spawn(async move {
                let answer = crate::control::carry_out(&hub, command).await;
                let _ = send(&to, pb::from_agent::Message::Answer(answer)).await;
            });
        }
        Some(Message::Stopped(stopped)) => {
            let endpoint =
                convert::id(&stopped.endpoint_id, "endpoint_id", polder_types::EndpointId::from_slice)?;
            let why = match stopped.stop() {
                pb::Stop::Clone => Unreachable::Clone,
                pb::Stop::Deleted => Unreachable::Revoked("the endpoint was deleted".into()),
                pb::Stop::Superseded | pb::Stop::Unspecified => Unreachable::Revoked(stopped.why.into()),
            };
            tracing::warn!(%endpoint, why = status::unreachable(&why), "the service stopped an endpoint");
            hub.tell_endpoint(endpoint, || Input::Down(why.clone()));
        }
        Some(Message::Revoked(revoked)) => return Err(Reason::Revoked.status(revoked.why).into()),
        Some(Message::Welcome(_)) | None => (),
    }
    Ok(())
}

/// Sends what changed.
struct Reporter {
    heartbeat_ticks: u64,
    ticks: u64,
    heartbeats: u64,
    sent: std::collections::BTreeMap<polder_types::EndpointId, pb::EndpointStatus>,
}

impl Reporter {
    fn new(heartbeat: Duration) -> Self {
        let heartbeat_ticks = (heartbeat.as_millis() / TICK.as_millis()).max(1) as u64;
        Self { heartbeat_ticks, ticks: 0, heartbeats: 0, sent: std::collections::BTreeMap::new() }
    }

    async fn tick(&mut self, hub: &Hub, to: &mpsc::Sender<pb::FromAgent>) -> Result<()> {
        if self.ticks.is_multiple_of(REPEAT_TICKS) {
            self.sent.clear();
        }
        for (id, endpoint) in hub.endpoints() {
            let message = endpoint.message(id);
            if self.sent.get(&id) != Some(&message) {
                self.sent.insert(id, message.clone());
                send(to, pb::from_agent::Message::Status(message)).await?;
            }
        }
        if self.ticks.is_multiple_of(self.heartbeat_ticks) {
            self.heartbeats += 1;
            let beat = pb::Heartbeat { number: self.heartbeats, memory_bytes: hub.memory_bytes() };
            send(to, pb::from_agent::Message::Heartbeat(beat)).await?;
        }
        self.ticks += 1;
        Ok(())
    }
}

async fn renew_when_due(hub: &Hub, client: &mut connection::Client) {
    if !hub.renewal_is_due() {
        return;
    }
    match enrol::renew(&hub.state, client).await {
        Ok(identity) => {
            hub.renewed(&identity);
            tracing::info!("the certificate of this server was renewed");
        }
        Err(error) => {
            tracing::warn!(error = format!("{error:#}"), "the certificate could not be renewed yet")
        }
    }
}
