//! The agents that are connected to this process: their sessions, what they reported, what they were told to do.
//!
//! Nothing here outlives the process: an agent connects again, says Hello, and reports again.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use polder_api::grpc::pb;
use polder_types::{Cursor, EndpointId, ServerId, ShareId, Timestamp};
use tokio::sync::{Notify, mpsc, oneshot};

/// How long somebody waits for the answer to an order.
pub const ORDER_WAIT: Duration = Duration::from_secs(10);
/// Messages that wait for a slow agent; then the session is given up.
const QUEUE_MAX: usize = 256;

/// A refused certificate stands in the audit log once in so long: its agent asks again and again.
const REFUSAL_EVERY: Duration = Duration::from_secs(3600);
/// Refused certificates that are remembered.
const REFUSALS_MAX: usize = 1024;

/// Sessions, reports and orders of this process.
#[derive(Default)]
pub struct Agents {
    sessions: Mutex<HashMap<ServerId, Vec<Arc<Session>>>>,
    reports: Mutex<HashMap<EndpointId, Report>>,
    orders: Mutex<HashMap<u64, Waiting>>,
    next_order: AtomicU64,
    refused: Mutex<HashMap<Vec<u8>, Instant>>,
}

struct Waiting {
    server: ServerId,
    answer: oneshot::Sender<pb::CommandAnswer>,
}

/// The last report of an endpoint.
#[derive(Debug, Clone)]
pub struct Report {
    /// As it came; checked.
    pub status: pb::EndpointStatus,
    /// When it came, service time.
    pub at: Timestamp,
}

/// One agent's standing connection.
pub struct Session {
    /// Whose.
    pub server: ServerId,
    /// The agent's process.
    pub process_nonce: [u8; 16],
    out: mpsc::Sender<pb::ToAgent>,
    wake: Notify,
    over: Notify,
    assignments_changed: AtomicBool,
    heads: Mutex<Heads>,
    ended: Mutex<Option<String>>,
    silent_after: Duration,
    heard: Mutex<Instant>,
}

#[derive(Default)]
struct Heads {
    /// Shares of the server's endpoints, and what was last told of each.
    told: BTreeMap<ShareId, Cursor>,
    waiting: BTreeMap<ShareId, Cursor>,
}

/// Why an order was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// No agent of the server is connected here.
    #[error("the server is not connected")]
    Offline,
    /// No answer in time.
    #[error("the server did not answer in time")]
    Timeout,
    /// The agent said no.
    #[error("the server refused: {0}")]
    Refused(
        /// Its words.
        String,
    ),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Agents {
    /// Whether the refusal of a certificate is news for the audit log.
    pub fn is_new_refusal(&self, serial: &[u8]) -> bool {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if refused.len() >= REFUSALS_MAX {
            refused.retain(|_, at| at.elapsed() < REFUSAL_EVERY);
        }
        if refused.len() >= REFUSALS_MAX || refused.get(serial).is_some_and(|at| at.elapsed() < REFUSAL_EVERY)
        {
            return false;
        }
        refused.insert(serial.to_vec(), Instant::now());
        true
    }

    /// Begins a session; the receiver's messages are to be sent. A process that connects again replaces its own
    /// session; another process of the server has one beside it.
    pub fn begin(
        &self,
        server: ServerId,
        process_nonce: [u8; 16],
        heartbeat: Duration,
    ) -> (Arc<Session>, mpsc::Receiver<pb::ToAgent>) {
        let (out, receive) = mpsc::channel(QUEUE_MAX);
        let session = Arc::new(Session {
            server,
            process_nonce,
            out,
            wake: Notify::new(),
            over: Notify::new(),
            assignments_changed: AtomicBool::new(true),
            heads: Mutex::default(),
            ended: Mutex::default(),
            silent_after: heartbeat * 3 / 2,
            heard: Mutex::new(Instant::now()),
        });
        let mut sessions = lock(&self.sessions);
        let of_server = sessions.entry(server).or_default();
        of_server.retain(|other| {
            let replaced = other.process_nonce == process_nonce;
            if replaced {
                other.end("the agent has connected again");
            }
            !replaced
        });
        of_server.push(session.clone());
        (session, receive)
    }

    /// Forgets a session that is over.
    pub fn forget(&self, session: &Arc<Session>) {
        let mut sessions = lock(&self.sessions);
        if let Some(of_server) = sessions.get_mut(&session.server) {
            of_server.retain(|other| !Arc::ptr_eq(other, session));
            if of_server.is_empty() {
                sessions.remove(&session.server);
                drop(sessions);
                // Dropping the senders tells those who wait.
                lock(&self.orders).retain(|_, waiting| waiting.server != session.server);
            }
        }
    }

    /// Whether an agent of the server is connected.
    pub fn is_online(&self, server: ServerId) -> bool {
        lock(&self.sessions).contains_key(&server)
    }

    /// How many agents are connected.
    pub fn count(&self) -> usize {
        lock(&self.sessions).values().map(Vec::len).sum()
    }

    /// Whether a process of the server is connected and was heard lately. One that was silent for longer than its
    /// heartbeats allow may be half of a broken connection.
    pub fn is_alive(&self, server: ServerId, process_nonce: [u8; 16]) -> bool {
        lock(&self.sessions).get(&server).is_some_and(|all| {
            all.iter().any(|session| session.process_nonce == process_nonce && !session.is_silent())
        })
    }

    /// Has the server's agents read their assignments again.
    pub fn assignments_changed(&self, server: ServerId) {
        for session in lock(&self.sessions).get(&server).into_iter().flatten() {
            session.assignments_changed.store(true, Ordering::Release);
            session.wake.notify_one();
        }
    }

    /// Has every agent read its assignments again.
    pub fn all_assignments_changed(&self) {
        let servers: Vec<ServerId> = lock(&self.sessions).keys().copied().collect();
        servers.into_iter().for_each(|server| self.assignments_changed(server));
    }

    /// Ends the server's sessions.
    pub fn revoked(&self, server: ServerId) {
        for session in lock(&self.sessions).remove(&server).into_iter().flatten() {
            let why = "the server was revoked".to_owned();
            session.send(pb::to_agent::Message::Revoked(pb::Revoked { why }));
            session.end("the server was revoked");
        }
    }

    /// Tells the agents that follow a share of its new head.
    pub fn head_moved(&self, share: ShareId, head: Cursor) {
        for session in lock(&self.sessions).values().flatten() {
            session.head(share, head);
        }
    }

    /// Tells all agents of a server that an endpoint is stopped.
    pub fn stopped(&self, server: ServerId, endpoint: EndpointId, stop: pb::Stop, why: &str) {
        for session in lock(&self.sessions).get(&server).into_iter().flatten() {
            session.send(pb::to_agent::Message::Stopped(pb::EndpointStopped {
                endpoint_id: endpoint.0.to_vec().into(),
                stop: stop.into(),
                why: why.into(),
            }));
        }
    }

    /// Keeps a report; returns the one before.
    pub fn keep_report(&self, endpoint: EndpointId, report: Report) -> Option<Report> {
        lock(&self.reports).insert(endpoint, report)
    }

    /// The last report of an endpoint since this process started.
    pub fn report(&self, endpoint: EndpointId) -> Option<Report> {
        lock(&self.reports).get(&endpoint).cloned()
    }

    /// The last reports of all endpoints since this process started, in the order of ids.
    pub fn reports(&self) -> Vec<(EndpointId, Report)> {
        let mut all: Vec<_> = lock(&self.reports).iter().map(|(id, report)| (*id, report.clone())).collect();
        all.sort_unstable_by_key(|(id, _)| *id);
        all
    }

    /// Gives an order to the endpoint's agent and waits for the answer, for `wait` at most.
    pub async fn order(
        &self,
        server: ServerId,
        endpoint: EndpointId,
        command: pb::command::Command,
        wait: Duration,
    ) -> Result<pb::CommandAnswer, OrderError> {
        let session = lock(&self.sessions).get(&server).and_then(|all| all.last().cloned());
        let session = session.ok_or(OrderError::Offline)?;
        let id = self.next_order.fetch_add(1, Ordering::Relaxed) + 1;
        let (answer, receive) = oneshot::channel();
        lock(&self.orders).insert(id, Waiting { server, answer });
        session.send(pb::to_agent::Message::Command(pb::Command {
            id,
            endpoint_id: endpoint.0.to_vec().into(),
            command: Some(command),
        }));
        let received = tokio::time::timeout(wait, receive).await;
        lock(&self.orders).remove(&id);
        match received {
            Err(_) => Err(OrderError::Timeout),
            Ok(Err(_)) => Err(OrderError::Offline),
            Ok(Ok(answer)) if answer.done => Ok(answer),
            Ok(Ok(answer)) => Err(OrderError::Refused(answer.message)),
        }
    }

    /// An answer came in; those of other servers' orders, and late ones, are dropped.
    pub fn answered(&self, server: ServerId, answer: pb::CommandAnswer) {
        let mut orders = lock(&self.orders);
        if orders.get(&answer.id).is_some_and(|waiting| waiting.server == server)
            && let Some(waiting) = orders.remove(&answer.id)
        {
            // Who asked may have gone.
            let _ = waiting.answer.send(answer);
        }
    }

    /// Ends all sessions: the process stops.
    pub fn end_all(&self) {
        for session in lock(&self.sessions).values().flatten() {
            session.end("the service stops");
        }
    }
}

impl Session {
    /// Queues a message. An agent that does not read loses its session: it would miss something.
    pub fn send(&self, message: pb::to_agent::Message) {
        if self.out.try_send(pb::ToAgent { message: Some(message) }).is_err() {
            self.end("the agent does not read its messages");
        }
    }

    /// The agent sent something.
    pub fn heard(&self) {
        *lock(&self.heard) = Instant::now();
    }

    fn is_silent(&self) -> bool {
        lock(&self.heard).elapsed() > self.silent_after
    }

    /// Ends the session; the first reason stays.
    pub fn end(&self, why: &str) {
        lock(&self.ended).get_or_insert_with(|| why.to_owned());
        self.over.notify_waiters();
        self.over.notify_one();
    }

    /// Waits until the session is ended.
    pub async fn until_ended(&self) {
        while self.ended().is_none() {
            self.over.notified().await;
        }
    }

    /// Why it is over, if it is.
    pub fn ended(&self) -> Option<String> {
        lock(&self.ended).clone()
    }

    /// Waits until there is something to do: see [`Session::take_heads`] and [`Session::take_assignments_changed`].
    pub async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Whether assignments are to be sent; asked once.
    pub fn take_assignments_changed(&self) -> bool {
        self.assignments_changed.swap(false, Ordering::AcqRel)
    }

    /// The shares that the agent follows now, with their heads: it is told of each.
    pub fn follow(&self, shares: BTreeMap<ShareId, Cursor>) {
        let mut heads = lock(&self.heads);
        heads.told.retain(|share, _| shares.contains_key(share));
        for (share, head) in shares {
            if heads.told.get(&share) != Some(&head) {
                heads.waiting.insert(share, head);
                heads.told.entry(share).or_default();
            }
        }
    }

    /// A share's head moved; nothing happens when the agent does not follow it.
    pub fn head(&self, share: ShareId, head: Cursor) {
        let mut heads = lock(&self.heads);
        if heads.told.get(&share).is_some_and(|told| *told != head) {
            heads.waiting.insert(share, head);
            drop(heads);
            self.wake.notify_one();
        }
    }

    /// Heads that are to be told.
    pub fn take_heads(&self) -> Vec<(ShareId, Cursor)> {
        let mut heads = lock(&self.heads);
        let waiting = std::mem::take(&mut heads.waiting);
        let followed = waiting.into_iter().filter(|(share, _)| heads.told.contains_key(share));
        let followed: Vec<_> = followed.collect();
        heads.told.extend(followed.iter().copied());
        followed
    }
}
