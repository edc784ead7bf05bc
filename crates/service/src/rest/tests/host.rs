//! A host in memory.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use polder_api::grpc::pb;
use polder_chunk::{ChunkLocation, ChunkSlot, Pack, PackRef, Scratch, ShareKeys, VerifiedChunk};
use polder_ledger::{LedgerError, NewPack, ShareSettings, Slot};
use polder_metadata::control::{
    Acting, Certificate, Control, JoinToken, MemoryRows, ObjectName, SecretHash, Server, ServerState, Share,
    ShareState, WrappedKeys,
};
use polder_metadata::share::ShareDb;
use polder_types::{
    CaseRule, ChunkId, Cursor, EndpointId, PackId, Reader, ServerId, ShareId, Timestamp, Writer,
};

use crate::rest::host::{Order, Report};
use crate::rest::{Host, HostError, OpenShare};

/// What the agents and the rest of the service were told.
#[derive(Debug, Default)]
pub struct Told {
    pub assignments: Vec<ServerId>,
    pub revoked: Vec<ServerId>,
    pub heads: Vec<(ShareId, Cursor)>,
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
    shares: Mutex<BTreeMap<ShareId, OpenShare>>,
    packs: Mutex<BTreeMap<PackId, Bytes>>,
    clock: AtomicI64,
    /// Whether packs count as read back and checked as soon as they are stored.
    verify: AtomicBool,
}

impl TestHost {
    pub fn new() -> Self {
        let control = Control::new(Arc::new(MemoryRows::default()));
        Self(Arc::new(Inner {
            control,
            told: Mutex::default(),
            next_id: Mutex::new(0),
            shares: Mutex::default(),
            packs: Mutex::default(),
            clock: AtomicI64::new(1_800_000_000),
            verify: AtomicBool::new(true),
        }))
    }

    pub fn handle(&self) -> Arc<dyn Host> {
        Arc::new(self.clone())
    }

    pub fn rows(&self) -> &Control {
        &self.0.control
    }

    pub fn time(&self) -> Timestamp {
        Timestamp::new(self.0.clock.load(Ordering::Relaxed), 0)
    }

    /// Time goes on.
    pub fn wait(&self, secs: i64) {
        self.0.clock.fetch_add(secs, Ordering::Relaxed);
    }

    /// How many packs were stored.
    pub fn packs(&self) -> usize {
        self.0.packs.lock().expect("no panic under the lock").len()
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
            left_at: None,
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
        let db = ShareDb::memory();
        let settings = ShareSettings { id: share.id, case, chunker: 1 };
        let made: Result<(), LedgerError> =
            db.write(move |rows| polder_ledger::create_share(rows, &settings, 1_800_000_000_000));
        made.map_err(|source| HostError::Failed { doing: "make a share", source: source.into() })?;
        let keys = Arc::new(ShareKeys::new(share.id, [7; 32], [8; 32]));
        self.0.shares.lock().expect("no panic under the lock").insert(share.id, OpenShare { db, keys });
        Ok(share)
    }

    async fn open_share(&self, share: ShareId) -> Result<OpenShare, HostError> {
        let shares = self.0.shares.lock().expect("no panic under the lock");
        shares.get(&share).cloned().ok_or_else(|| HostError::Unavailable("no such share".into()))
    }

    async fn chunk(&self, share: ShareId, id: ChunkId) -> Result<VerifiedChunk, HostError> {
        let open = self.open_share(share).await?;
        let found: Result<_, LedgerError> = open.db.read(|rows| polder_ledger::locate(rows, &[id]));
        let at = found.expect("rows in memory").pop().flatten();
        let at = at.ok_or_else(|| HostError::Unavailable("no such chunk".into()))?;
        let (pack, slot) = (PackRef::decode(&mut Reader::new(&at.meta)), at.slot);
        let slot = ChunkSlot::decode(&mut Reader::new(slot.as_bytes())).expect("as it was written");
        let location = ChunkLocation { pack: pack.expect("as it was written"), slot };
        let packs = self.0.packs.lock().expect("no panic under the lock");
        let range = slot.range();
        let sealed = packs[&at.pack].slice(range.start as usize..range.end as usize);
        Ok(open.keys.open_chunk(id, &location, &sealed, &mut Scratch::new()).expect("as it was sealed"))
    }

    async fn put_pack(&self, share: ShareId, pack: Pack) -> Result<(), HostError> {
        let open = self.open_share(share).await?;
        let (id, generation) = (pack.footer.pack.id, pack.footer.pack.generation.0);
        let mut meta = Writer::new();
        pack.footer.pack.encode(&mut meta);
        let slot = |slot: &ChunkSlot| {
            let mut out = Writer::new();
            slot.encode(&mut out);
            Slot::new(&out.finish()).expect("a slot is short")
        };
        let new = NewPack {
            id,
            bytes: pack.bytes.len() as u64,
            key_gen: generation,
            meta: meta.finish().into(),
            chunks: pack.footer.locations().map(|(id, at)| (id, slot(&at.slot))).collect(),
            replaces: Vec::new(),
        };
        let verified = self.0.verify.load(Ordering::Relaxed).then_some(1);
        let done: Result<_, LedgerError> =
            open.db.write(move |rows| polder_ledger::register_pack(rows, &new, 1, verified));
        done.map_err(|source| HostError::Failed { doing: "register a pack", source: source.into() })?;
        self.0.packs.lock().expect("no panic under the lock").insert(id, pack.bytes.into());
        Ok(())
    }

    fn committed(&self, share: ShareId, head: Cursor) {
        self.told(|told| told.heads.push((share, head)));
    }

    fn is_short_of_room(&self) -> bool {
        false
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
