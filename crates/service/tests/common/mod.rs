//! A service on a free port, and a small agent that speaks to it over TLS.
#![allow(dead_code, reason = "each test file uses a part")]

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use polder_api::grpc::convert::{self, CommitOutcome, FeedDecoder, FeedPage, FeedRow, OfferedBatch};
use polder_api::grpc::pb::{self, agent_client::AgentClient, enrolment_client::EnrolmentClient};
use polder_api::grpc::{PROTOCOL_VERSION, limits};
use polder_chunk::{PackBuilder, PackNonce, Scratch, ShareKeys};
use polder_metadata::control::{
    Acting, Endpoint, EndpointSettings, Group, JoinToken, ObjectName, SecretHash, ServerPath, Share,
};
use polder_service::{Service, ServiceConfig};
use polder_types::{
    Attrs, Author, BatchNo, Body, CaseRule, ChunkId, Content, Cursor, EndpointId, Extent, ExtentSource,
    Group as OpGroup, GroupId, InstanceId, Name, NodeUid, Op, PackId, Placed, ServerId, Timestamp,
};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint as Target, Identity};
use tonic::{Status, Streaming};

pub const WAIT: Duration = Duration::from_secs(20);

/// Waits for a state, with a bound.
pub async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let end = tokio::time::Instant::now() + WAIT;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < end, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("random bytes");
    bytes
}

/// A service in a folder of its own.
pub struct World {
    pub service: Service,
    pub folder: tempfile::TempDir,
}

impl World {
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        Self::start_in(folder).await
    }

    pub async fn start_in(folder: tempfile::TempDir) -> Self {
        // Fails when another test of the process was first.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let listen: SocketAddr = "127.0.0.1:0".parse().expect("an address");
        let mut config = ServiceConfig::embedded(folder.path(), listen);
        config.heartbeat_s = 1;
        let service = Service::start(config).await.expect("a service");
        Self { service, folder }
    }

    pub fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.service.address())
    }

    pub fn ca_pem(&self) -> String {
        std::fs::read_to_string(self.service.ca_file()).expect("the authority")
    }

    pub fn http(&self) -> reqwest::Client {
        let ca = reqwest::Certificate::from_pem(self.ca_pem().as_bytes()).expect("a certificate");
        reqwest::Client::builder().tls_certs_only([ca]).no_proxy().build().expect("a client")
    }

    fn acting(&self) -> Acting {
        Acting { who: "token:test".into(), now: self.service.state().now() }
    }

    pub fn join_token(&self) -> String {
        let secret: String = random::<16>().iter().map(|byte| format!("{byte:02x}")).collect();
        let now = self.service.state().now();
        let row = JoinToken {
            hash: SecretHash::of(secret.as_bytes()),
            created_at: now,
            expires_at: Timestamp::new(now.secs + 3600, 0),
            server: None,
            used: None,
        };
        self.service.state().control().create_join_token(&self.acting(), &row).expect("a token");
        secret
    }

    pub fn share(&self, name: &str) -> (Share, Group) {
        let state = self.service.state();
        let name: ObjectName = name.parse().expect("a name");
        let share = state.shares().create(&self.acting(), &name, CaseRule::Sensitive, None).expect("a share");
        let group = Group { id: GroupId(random()), name, share: share.id, created_at: state.now() };
        state.control().create_group(&self.acting(), &group).expect("a group");
        (share, group)
    }

    pub fn endpoint(&self, group: GroupId, server: ServerId, path: &str) -> EndpointId {
        let endpoint = Endpoint {
            id: EndpointId(random()),
            group,
            server,
            path: ServerPath::parse(path.as_bytes()).expect("a path"),
            settings: EndpointSettings::default(),
            revision: 1,
            deleting: false,
            force: false,
            left_behind: None,
            release: None,
            created_at: self.service.state().now(),
        };
        self.service.state().control().create_endpoint(&self.acting(), &endpoint).expect("an endpoint");
        self.service.state().agents().assignments_changed(server);
        endpoint.id
    }

    pub fn keys(&self, share: &Share) -> std::sync::Arc<ShareKeys> {
        self.service.state().shares().open_row(share).expect("an open share").keys()
    }

    async fn channel(&self, identity: Option<Identity>) -> Channel {
        let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(self.ca_pem()));
        if let Some(identity) = identity {
            tls = tls.identity(identity);
        }
        let target = Target::from_shared(self.url("")).expect("a URL").tls_config(tls).expect("TLS");
        target.connect().await.expect("a connection")
    }

    pub async fn enrolment(&self) -> EnrolmentClient<Channel> {
        EnrolmentClient::new(self.channel(None).await)
    }

    /// A client without a certificate.
    pub async fn stranger(&self) -> AgentClient<Channel> {
        AgentClient::new(self.channel(None).await)
    }

    /// Registers a server.
    pub async fn register(&self, name: &str) -> Registered {
        let (csr_pem, key_pem) = csr();
        let request = pb::RegisterRequest {
            protocol: PROTOCOL_VERSION,
            join_token: self.join_token(),
            csr_pem,
            server_name: name.into(),
            agent_version: "1.2.3".into(),
        };
        let reply = self.enrolment().await.register(request).await.expect("registered").into_inner();
        let id = ServerId::from_slice(&reply.server_id).expect("an id");
        Registered { id, certificate_pem: reply.certificate_pem, key_pem }
    }

    pub async fn client(&self, server: &Registered) -> AgentClient<Channel> {
        let identity = Identity::from_pem(&server.certificate_pem, &server.key_pem);
        AgentClient::new(self.channel(Some(identity)).await)
            .max_decoding_message_size(limits::MESSAGE_BYTES_MAX)
    }
}

pub fn csr() -> (String, String) {
    let key = rcgen::KeyPair::generate().expect("a key");
    let request = rcgen::CertificateParams::default().serialize_request(&key).expect("a request");
    (request.pem().expect("PEM"), key.serialize_pem())
}

pub struct Registered {
    pub id: ServerId,
    pub certificate_pem: String,
    pub key_pem: String,
}

/// A part of an agent: one endpoint.
pub struct Agent {
    pub client: AgentClient<Channel>,
    pub endpoint: EndpointId,
    pub instance: InstanceId,
    pub process: [u8; 16],
    pub openings: Vec<[u8; 16]>,
    pub next_batch: u64,
    pub known: Cursor,
    pub open_batches: Vec<u64>,
    pub page_rows: u32,
}

impl Agent {
    pub fn new(client: AgentClient<Channel>, endpoint: EndpointId) -> Self {
        Self {
            client,
            endpoint,
            instance: InstanceId(random()),
            process: random(),
            openings: Vec::new(),
            next_batch: 0,
            known: Cursor::default(),
            open_batches: Vec::new(),
            page_rows: 2,
        }
    }

    pub async fn open(&mut self) -> Result<pb::open_endpoint_reply::Result, Status> {
        let opening = random();
        let request = pb::OpenEndpointRequest {
            endpoint_id: self.endpoint.0.to_vec().into(),
            instance: self.instance.0.to_vec().into(),
            opening: Bytes::copy_from_slice(&opening),
            previous: self.openings.iter().rev().take(4).map(|id| Bytes::copy_from_slice(id)).collect(),
            next_batch: self.next_batch,
            known: Some(self.known.into()),
            process_nonce: Bytes::copy_from_slice(&self.process),
            open_batches: self.open_batches.clone(),
        };
        self.openings.push(opening);
        let reply = self.client.open_endpoint(request).await?.into_inner();
        Ok(reply.result.expect("a result"))
    }

    pub async fn opened(&mut self) {
        let result = self.open().await.expect("answered");
        assert!(matches!(result, pb::open_endpoint_reply::Result::Opened(_)), "{result:?}");
    }

    pub fn opening(&self) -> Option<pb::Opening> {
        Some(convert::encode_opening(self.endpoint, *self.openings.last().expect("opened")))
    }

    pub async fn session(&mut self, protocol: u32) -> Result<Session, Status> {
        let (send, receive) = tokio::sync::mpsc::channel(16);
        let hello = pb::Hello {
            protocol,
            agent_version: "1.2.3".into(),
            process_nonce: Bytes::copy_from_slice(&self.process),
            system: "test".into(),
        };
        let hello = pb::FromAgent { message: Some(pb::from_agent::Message::Hello(hello)) };
        send.send(hello).await.expect("room");
        let stream = tokio_stream::wrappers::ReceiverStream::new(receive);
        let inbound = self.client.session(stream).await?.into_inner();
        Ok(Session { send, inbound })
    }

    /// Puts a pack with these chunks; returns their ids.
    pub async fn put(&mut self, world: &World, keys: &ShareKeys, chunks: &[&[u8]]) -> Vec<ChunkId> {
        let (ids, pack, bytes) = pack(keys, chunks);
        let url = self.pack_url(pack, bytes.len()).await.expect("an address");
        let answer = world.http().put(world.url(&url)).body(bytes).send().await.expect("sent");
        assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap_or_default());
        ids
    }

    pub async fn pack_url(&mut self, pack: PackId, len: usize) -> Result<String, Status> {
        let request = pb::PackUrlRequest {
            opening: self.opening(),
            pack_id: pack.0.to_vec().into(),
            size_bytes: len as u64,
        };
        let reply = self.client.pack_url(request).await?.into_inner();
        assert!(!reply.announce);
        Ok(reply.url)
    }

    pub async fn commit(&mut self, ops: Vec<Op>) -> Result<CommitOutcome, Status> {
        let batch = BatchNo(self.next_batch);
        self.next_batch += 1;
        let batch = OfferedBatch {
            endpoint: self.endpoint,
            opening: *self.openings.last().expect("opened"),
            author: Author { by: self.instance, batch },
            known: self.known,
            groups: vec![OpGroup { ops }],
        };
        let reply = self.client.commit(convert::encode_commit(&batch)).await?.into_inner();
        let outcome = convert::decode_reply(reply, 1).expect("a sound reply");
        if let CommitOutcome::Answer(answer) = &outcome {
            self.known = answer.cursor;
        }
        Ok(outcome)
    }

    /// All rows after a cursor, and the cut.
    pub async fn changes(
        &mut self,
        after: Cursor,
    ) -> Result<(Vec<FeedRow>, Vec<convert::PackPlace>, Cursor), Status> {
        let request = pb::ChangesRequest {
            opening: self.opening(),
            after: Some(after.into()),
            rows_max: self.page_rows,
            with_places: true,
        };
        let stream = self.client.changes(request).await?.into_inner();
        read_pages(stream).await
    }

    pub async fn bootstrap(&mut self) -> Result<(Vec<FeedRow>, Vec<convert::PackPlace>, Cursor), Status> {
        let request =
            pb::BootstrapRequest { opening: self.opening(), with_places: true, resume: Bytes::new() };
        let stream = self.client.bootstrap(request).await?.into_inner();
        read_pages(stream).await
    }
}

async fn read_pages(
    mut stream: Streaming<pb::FeedPage>,
) -> Result<(Vec<FeedRow>, Vec<convert::PackPlace>, Cursor), Status> {
    let mut decoder = FeedDecoder::new();
    let (mut all, mut all_packs) = (Vec::new(), Vec::new());
    while let Some(page) = stream.message().await? {
        match decoder.page(page).expect("a sound page") {
            FeedPage::Rows { rows, packs, upto, .. } => {
                all.extend(rows);
                all_packs.extend(packs);
                if let Some(upto) = upto {
                    return Ok((all, all_packs, upto));
                }
            }
            FeedPage::Rebaseline { message, .. } => panic!("{message}"),
        }
    }
    panic!("the stream ended before its cut");
}

pub struct Session {
    pub send: tokio::sync::mpsc::Sender<pb::FromAgent>,
    pub inbound: Streaming<pb::ToAgent>,
}

impl Session {
    /// The next message that `take` takes; others are dropped.
    pub async fn next<T>(&mut self, mut take: impl FnMut(pb::to_agent::Message) -> Option<T>) -> T {
        let found = tokio::time::timeout(WAIT, async {
            loop {
                let message = self.inbound.message().await.expect("a session").expect("not its end");
                if let Some(found) = message.message.and_then(&mut take) {
                    return found;
                }
            }
        });
        found.await.expect("in time")
    }
}

/// A pack with these chunks.
pub fn pack(keys: &ShareKeys, chunks: &[&[u8]]) -> (Vec<ChunkId>, PackId, Vec<u8>) {
    let id = PackId(random());
    let mut builder = PackBuilder::new(keys, id, PackNonce(random()));
    let mut scratch = Scratch::new();
    let ids = chunks.iter().map(|bytes| {
        let id = keys.chunk_ids().id(bytes);
        let _ = builder.seal(id, bytes, &mut scratch).expect("sealed");
        id
    });
    let ids = ids.collect();
    let pack = builder.finish().expect("a sound footer").expect("a pack with chunks");
    (ids, id, pack.bytes)
}

pub fn file(id: ChunkId, len: usize) -> Content {
    let extent = Extent { len: len as u64, source: ExtentSource::Chunk { id, skip: 0 } };
    Content::File { size: len as u64, body: Body::Inline(vec![extent]) }
}

pub fn create(name: &str, content: Content) -> (NodeUid, Op) {
    let uid = NodeUid(random());
    let at = Placed { parent: NodeUid::ROOT, name: Name::parse(name.as_bytes()).expect("a name") };
    let mtime = Timestamp::new(1_700_000_000, 5);
    (uid, Op::Create { uid, at, mtime, attrs: Attrs { mode: 0o640, ..Attrs::default() }, content })
}
