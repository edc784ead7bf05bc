//! A host in memory.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use polder_api::grpc::pb;
use polder_metadata::control::{
    Acting, Certificate, Control, JoinToken, MemoryRows, ObjectName, SecretHash, Server, ServerState, Share,
    ShareState, WrappedKeys,
};
use polder_types::{CaseRule, Cursor, EndpointId, ServerId, ShareId, Timestamp};

use crate::rest::host::{Order, Report, ShareSummary};
use crate::rest::{Host, HostError};

/// What the agents and the rest of the service were told.
#[derive(Debug, Default)]
pub struct Told {
    pub assignments: Vec<ServerId>,
    pub revoked: Vec<ServerId>,
    pub orders: Vec<(EndpointId, Order)>,
    pub woken: Vec<String>,
    /// Servers whose agents answer.
    pub online: Vec<ServerId>,
    pub reports: Vec<(EndpointId, pb::EndpointStatus)>,
    /// What the agent answers to the next orders.
    pub answers: Vec<serde_json::Value>,
}

#[derive(Clone)]
pub struct TestHost(Arc<Inner>);

struct Inner {
    control: Control,
    told: Mutex<Told>,
    next_id: Mutex<u8>,
}

impl TestHost {
    pub fn new() -> Self {
        let control = Control::new(Arc::new(MemoryRows::default()));
        Self(Arc::new(Inner { control, told: Mutex::default(), next_id: Mutex::new(0) }))
    }

    pub fn handle(&self) -> Arc<dyn Host> {
        Arc::new(self.clone())
    }

    pub fn rows(&self) -> &Control {
        &self.0.control
    }

    pub fn time(&self) -> Timestamp {
        Timestamp::new(1_800_000_000, 0)
    }

    pub fn told<T>(&self, look: impl FnOnce(&mut Told) -> T) -> T {
        look(&mut self.0.told.lock().expect("no panic under the lock"))
    }

    /// Registers a server, as a join token would.
    pub fn register(&self, name: &str) -> ServerId {
        let id = self.next_id();
        let acting = Acting { who: "service".into(), now: self.time() };
        let hash = SecretHash::of(&id);
        let expires_at = Timestamp::new(self.time().secs + 3600, 0);
        let token = JoinToken { hash, created_at: self.time(), expires_at, server: None, used: None };
        self.rows().create_join_token(&acting, &token).expect("a new token");
        let server = Server {
            id: ServerId(id),
            name: name.parse().expect("a name"),
            state: ServerState::Trusted,
            created_at: self.time(),
            heartbeat_at: None,
            version: String::new(),
        };
        let certificate = Certificate { serial: id.to_vec(), server: server.id, expires_at };
        self.rows().register_server(&acting, &hash, &server, &certificate).expect("a good token");
        server.id
    }

    fn next_id(&self) -> [u8; 16] {
        let mut next = self.0.next_id.lock().expect("no panic under the lock");
        *next += 1;
        [*next; 16]
    }
}

#[async_trait]
impl Host for TestHost {
    fn now(&self) -> Timestamp {
        self.time()
    }

    fn control(&self) -> &Control {
        &self.0.control
    }

    async fn create_share(
        &self,
        acting: &Acting,
        name: &ObjectName,
        case: CaseRule,
        quota_bytes: Option<u64>,
    ) -> Result<Share, HostError> {
        let share = Share {
            id: ShareId(self.next_id()),
            name: name.clone(),
            case,
            chunker: 1,
            quota_bytes,
            keys: WrappedKeys(Vec::new()),
            state: ShareState::Live,
            created_at: acting.now,
        };
        self.rows().create_share(acting, &share)?;
        Ok(share)
    }

    async fn share_summary(&self, _: ShareId) -> Result<ShareSummary, HostError> {
        Ok(ShareSummary { head: Cursor::default(), nodes: 0, bytes: 0, restoring: false })
    }

    fn is_online(&self, server: ServerId) -> bool {
        self.told(|told| told.online.contains(&server))
    }

    async fn report(&self, endpoint: EndpointId) -> Result<Option<Report>, HostError> {
        let at = self.time();
        Ok(self.told(|told| {
            let of_endpoint = told.reports.iter().rev().find(|(id, _)| *id == endpoint);
            of_endpoint.map(|(_, status)| Report { status: status.clone(), at })
        }))
    }

    fn assignments_changed(&self, server: ServerId) {
        self.told(|told| told.assignments.push(server));
    }

    fn server_revoked(&self, server: ServerId) {
        self.told(|told| told.revoked.push(server));
    }

    async fn order(
        &self,
        server: ServerId,
        endpoint: EndpointId,
        order: Order,
    ) -> Result<serde_json::Value, HostError> {
        self.told(|told| {
            if !told.online.contains(&server) {
                return Err(HostError::Offline);
            }
            told.orders.push((endpoint, order));
            Ok(if told.answers.is_empty() { serde_json::Value::Null } else { told.answers.remove(0) })
        })
    }

    fn wake(&self, reconciler: &str) -> bool {
        self.told(|told| told.woken.push(reconciler.into()));
        reconciler == "prune"
    }
}
