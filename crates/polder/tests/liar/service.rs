//! The service that lies: it speaks the agent's protocol over TLS, and says what the test wants.

use std::collections::HashMap;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use bytes::Bytes;
use polder_api::grpc::convert::{
    Assignment, Brake, ChunkPlace, Filters, InitialDownload, InitialUpload, PackPlace, Tiering,
    decode_chunk_ids,
};
use polder_api::grpc::pb::agent_server::{Agent, AgentServer};
use polder_api::grpc::{PROTOCOL_VERSION, Reason, Secret, pb};
use polder_chunk::{PackBuilder, PackNonce, Scratch, ShareKeys};
use polder_types::{
    Body, CaseRule, ChunkId, Content, Cursor, EndpointId, Extent, ExtentSource, GroupId, PackId, ServerId,
    ShareId, Writer,
};
use tokio::sync::mpsc;
use tokio_stream::{Stream, StreamExt, wrappers::ReceiverStream};
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};

type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What it says at present.
#[derive(Default)]
struct Script {
    tree: pb::FeedRows,
    news: Vec<(Cursor, pb::FeedRows)>,
    head: Cursor,
    status: pb::EndpointStatus,
    sessions: Vec<mpsc::Sender<Result<pb::ToAgent, Status>>>,
    packs: HashMap<String, Vec<u8>>,
    places: HashMap<ChunkId, (PackPlace, ChunkPlace)>,
}

/// The service, in a runtime of its own.
pub struct Liar {
    folder: tempfile::TempDir,
    pub url: String,
    pub ca_pem: String,
    pub cert_pem: String,
    pub key_pem: String,
    pub share: ShareId,
    pub endpoint: EndpointId,
    pub keys: ShareKeys,
    packs_url: String,
    script: Arc<Mutex<Script>>,
    _runtime: tokio::runtime::Runtime,
}

const LOCK: &str = "no test panics with it";

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("random bytes");
    bytes
}

impl Liar {
    pub fn start() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let folder = tempfile::tempdir().expect("a folder");
        let (share, endpoint) = (ShareId(random()), EndpointId(random()));
        let keys = ShareKeys::new(share, random(), random());
        let key = rcgen::KeyPair::generate().expect("a key");
        let params = rcgen::CertificateParams::new(vec!["127.0.0.1".into()]).expect("a name");
        // It signs itself: the agent trusts this certificate and no other.
        let cert_pem = params.self_signed(&key).expect("signed").pem();
        let key_pem = key.serialize_pem();
        let script: Arc<Mutex<Script>> = Arc::default();
        let said = Said {
            script: Arc::clone(&script),
            assignment: assignment(share, endpoint, &keys, folder.path().join("outside/root")),
        };
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let identity = Identity::from_pem(&cert_pem, &key_pem);
        let address = runtime.block_on(serve(said, identity));
        let packs = runtime.block_on(serve_packs(Arc::clone(&script)));
        Self {
            folder,
            url: format!("https://{address}"),
            ca_pem: cert_pem.clone(),
            cert_pem,
            key_pem,
            share,
            endpoint,
            keys,
            packs_url: format!("http://{packs}"),
            script,
            _runtime: runtime,
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What a bootstrap brings.
    pub fn set_tree(&self, tree: pb::FeedRows, head: Cursor) {
        let mut script = self.script.lock().expect(LOCK);
        script.tree = tree;
        script.head = head;
    }

    /// A change, and the word that there is one.
    pub fn tell(&self, rows: pb::FeedRows, head: Cursor) {
        let mut script = self.script.lock().expect(LOCK);
        script.news.push((head, rows));
        script.head = head;
        let notice = pb::HeadNotice { share_id: self.share.0.to_vec().into(), head: Some(head.into()) };
        let message = pb::ToAgent { message: Some(pb::to_agent::Message::Head(notice)) };
        script.sessions.iter().for_each(|session| drop(session.try_send(Ok(message.clone()))));
    }

    /// The last report.
    pub fn status(&self) -> pb::EndpointStatus {
        self.script.lock().expect(LOCK).status.clone()
    }

    pub fn forget_status(&self) {
        self.script.lock().expect(LOCK).status = pb::EndpointStatus::default();
    }
}

fn assignment(share: ShareId, endpoint: EndpointId, keys: &ShareKeys, path: PathBuf) -> pb::Assignment {
    Assignment {
        endpoint,
        revision: 1,
        share,
        group: GroupId([3; 16]),
        share_name: "demo".into(),
        group_name: "demo".into(),
        path: path.into_os_string().into_encoded_bytes(),
        case: CaseRule::Sensitive,
        chunker: 1,
        share_keys: Secret(keys.to_secret_bytes()),
        quota_bytes: None,
        filters: Filters::default(),
        initial_upload: InitialUpload::Merge,
        initial_download: InitialDownload::Full,
        tiering: Tiering::default(),
        paused: false,
        brake: Brake::default(),
        apply_privileged_attrs: false,
        stopped_why: None,
    }
    .into()
}

async fn serve(said: Said, identity: Identity) -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let tls = ServerTlsConfig::new().identity(identity);
    let incoming = tokio_stream::StreamExt::map(
        ReceiverStream::new({
            let (to, from) = mpsc::channel(8);
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    if to.send(stream).await.is_err() {
                        return;
                    }
                }
            });
            from
        }),
        Ok::<_, std::io::Error>,
    );
    let mut server = Server::builder().tls_config(tls).expect("TLS");
    tokio::spawn(server.add_service(AgentServer::new(said)).serve_with_incoming(incoming));
    address
}

async fn serve_packs(script: Arc<Mutex<Script>>) -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let router = axum::Router::new().route("/{pack}", axum::routing::get(pack)).with_state(script);
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

async fn pack(
    State(script): State<Arc<Mutex<Script>>>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> (StatusCode, Vec<u8>) {
    let bytes = script.lock().expect(LOCK).packs[&name].clone();
    let range = headers[header::RANGE].to_str().expect("text").strip_prefix("bytes=").expect("a range");
    let (first, last) = range.split_once('-').expect("two ends");
    let (first, last): (usize, usize) = (first.parse().expect("digits"), last.parse().expect("digits"));
    (StatusCode::PARTIAL_CONTENT, bytes[first..=last].to_vec())
}

/// A file whose bytes lie in a pack.
pub struct Packed {
    pub content: Content,
    pub pack: PackPlace,
    pub place: ChunkPlace,
}

impl Packed {
    pub fn sound(liar: &Liar, bytes: &[u8]) -> Self {
        Self::put(liar, &liar.keys, bytes, |_| ())
    }

    /// One bit of the chunk is another.
    pub fn forged(liar: &Liar, bytes: &[u8]) -> Self {
        Self::put(liar, &liar.keys, bytes, |pack| pack[3] ^= 1)
    }

    /// Sealed with the keys of another share.
    pub fn foreign(liar: &Liar, bytes: &[u8]) -> Self {
        Self::put(liar, &ShareKeys::new(ShareId(random()), random(), random()), bytes, |_| ())
    }

    fn put(liar: &Liar, keys: &ShareKeys, bytes: &[u8], tamper: impl FnOnce(&mut [u8])) -> Self {
        let id = PackId(random());
        // Each with a chunk of its own, so that none is found in another's pack.
        let bytes = &[bytes, if keys.share() == liar.share { &[] } else { b"!" }].concat();
        let mut builder = PackBuilder::new(keys, id, PackNonce(random()));
        let chunk = keys.chunk_ids().id(bytes);
        let _ = builder.seal(chunk, bytes, &mut Scratch::new()).expect("sealed");
        let built = builder.finish().expect("a sound footer").expect("a pack with chunks");
        let mut sealed = built.bytes;
        tamper(&mut sealed);
        let (mut reference, mut slot) = (Writer::new(), Writer::new());
        built.footer.pack.encode(&mut reference);
        built.footer.entries[0].slot.encode(&mut slot);
        let pack = PackPlace {
            id,
            url: format!("{}/{id}", liar.packs_url),
            url_expires_unix_ms: i64::MAX,
            size_bytes: sealed.len() as u64,
            reference: reference.finish().into(),
            verified: true,
        };
        let place = ChunkPlace { pack_index: 0, slot: slot.finish().into() };
        let mut script = liar.script.lock().expect(LOCK);
        script.packs.insert(id.to_string(), sealed);
        script.places.insert(chunk, (pack.clone(), place.clone()));
        let extent = Extent { len: bytes.len() as u64, source: ExtentSource::Chunk { id: chunk, skip: 0 } };
        let content = Content::File { size: bytes.len() as u64, body: Body::Inline(vec![extent]) };
        Self { content, pack, place }
    }
}

struct Said {
    script: Arc<Mutex<Script>>,
    assignment: pb::Assignment,
}

fn one<T: Send + 'static>(item: T) -> Response<Streamed<T>> {
    Response::new(Box::pin(tokio_stream::once(Ok(item))))
}

fn feed_page(rows: pb::FeedRows) -> pb::FeedPage {
    pb::FeedPage { body: Some(pb::feed_page::Body::Rows(rows)) }
}

#[tonic::async_trait]
impl Agent for Said {
    type SessionStream = Streamed<pb::ToAgent>;
    type ChangesStream = Streamed<pb::FeedPage>;
    type BootstrapStream = Streamed<pb::FeedPage>;

    async fn session(
        &self,
        request: Request<Streaming<pb::FromAgent>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        use pb::to_agent::Message;
        let (to, from) = mpsc::channel(64);
        let mut heard = request.into_inner();
        let welcome = Message::Welcome(pb::Welcome {
            protocol: PROTOCOL_VERSION,
            server_id: ServerId([9; 16]).0.to_vec().into(),
            server_name: "site-a".into(),
            heartbeat_interval_s: 1,
            ..pb::Welcome::default()
        });
        let assignments = Message::Assignments(pb::Assignments { endpoints: vec![self.assignment.clone()] });
        for message in [welcome, assignments] {
            let _ = to.send(Ok(pb::ToAgent { message: Some(message) })).await;
        }
        let script = Arc::clone(&self.script);
        script.lock().expect(LOCK).sessions.push(to);
        tokio::spawn(async move {
            while let Some(Ok(message)) = heard.next().await {
                if let Some(pb::from_agent::Message::Status(status)) = message.message {
                    script.lock().expect(LOCK).status = status;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(from))))
    }

    async fn open_endpoint(
        &self,
        _: Request<pb::OpenEndpointRequest>,
    ) -> Result<Response<pb::OpenEndpointReply>, Status> {
        let head = self.script.lock().expect(LOCK).head;
        let opened = pb::Opened { head: Some(head.into()), kept: Vec::new() };
        let result = Some(pb::open_endpoint_reply::Result::Opened(opened));
        Ok(Response::new(pb::OpenEndpointReply { result }))
    }

    async fn bootstrap(
        &self,
        _: Request<pb::BootstrapRequest>,
    ) -> Result<Response<Self::BootstrapStream>, Status> {
        Ok(one(feed_page(self.script.lock().expect(LOCK).tree.clone())))
    }

    async fn changes(
        &self,
        request: Request<pb::ChangesRequest>,
    ) -> Result<Response<Self::ChangesStream>, Status> {
        let after = request.into_inner().after.unwrap_or_default().seq;
        let script = self.script.lock().expect(LOCK);
        let next = script.news.iter().find(|(head, _)| head.seq.0 > after);
        let rows = next.map_or_else(
            || pb::FeedRows { upto: Some(script.head.into()), ..pb::FeedRows::default() },
            |(_, rows)| rows.clone(),
        );
        Ok(one(feed_page(rows)))
    }

    async fn locate(&self, request: Request<pb::LocateRequest>) -> Result<Response<pb::LocateReply>, Status> {
        let ids = decode_chunk_ids(&request.into_inner().chunk_ids).expect("ids");
        let script = self.script.lock().expect(LOCK);
        let mut reply = pb::LocateReply::default();
        for (index, id) in ids.iter().enumerate() {
            if let Some((pack, place)) = script.places.get(id) {
                let place = ChunkPlace { pack_index: reply.packs.len() as u32, ..place.clone() };
                reply.packs.push(pack.into());
                reply.chunks.push(pb::LocatedChunk { index: index as u32, place: Some((&place).into()) });
            }
        }
        Ok(Response::new(reply))
    }

    async fn have(&self, request: Request<pb::HaveRequest>) -> Result<Response<pb::HaveReply>, Status> {
        let count = request.into_inner().chunk_ids.len() / ChunkId::LEN;
        Ok(Response::new(pb::HaveReply { bitmap: Bytes::from(vec![0; count.div_ceil(8)]) }))
    }

    async fn commit(&self, _: Request<pb::CommitRequest>) -> Result<Response<pb::CommitReply>, Status> {
        Err(Reason::Busy.status("not now"))
    }

    async fn renew(&self, _: Request<pb::RenewRequest>) -> Result<Response<pb::RenewReply>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn pack_url(&self, _: Request<pb::PackUrlRequest>) -> Result<Response<pb::PackUrlReply>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn pack_stored(
        &self,
        _: Request<pb::PackStoredRequest>,
    ) -> Result<Response<pb::PackStoredReply>, Status> {
        Err(Status::unimplemented("not here"))
    }
}
