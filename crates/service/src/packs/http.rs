//! The data plane: packs in and out over HTTP, under signed addresses.
//!
//! A pack's way in: its bytes go to the store as they arrive (bounded over all uploads together); before the last of them
//! its footer is opened and proven under the share's keys; the store makes it durable under its name, its chunks are
//! registered; then comes the answer. A crash in between leaves an object without rows, which prune collects.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use futures::StreamExt;
use polder_api::grpc::Reason;
use polder_chunk::{FOOTER_BYTES_MAX, PACK_BYTES_MAX, PackFooter, TRAILER_BYTES};
use polder_ledger::{LedgerError, NewPack, Slot};
use polder_packstore::{BodyError, PackBody, PackName, StoreError};
use polder_types::{PackId, Writer};
use tokio::sync::Semaphore;
use tonic::{Code, Status};

use super::{Address, AddressError, Method};
use crate::failure::{self, blocking};
use crate::metric;
use crate::shares::OpenShare;
use crate::state::ServiceState;

/// Bytes of packs that may be on their way in at one time, in KiB.
const UPLOAD_KIB_MAX: usize = 128 * 1024;
/// Longest silence in the middle of a pack.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// Whoever sends more slowly than this keeps memory from others and is given up.
const BYTES_PER_S_MIN: u64 = 32 * 1024;
/// Bytes read from the store at one time for an answer.
const PIECE_BYTES: u64 = 4 * 1024 * 1024;
/// The longest end of a pack that its footer may need.
const FOOTER_ROOM_BYTES: usize = FOOTER_BYTES_MAX as usize + TRAILER_BYTES;

static UPLOADS: Semaphore = Semaphore::const_new(UPLOAD_KIB_MAX);

/// The routes under `/data`.
pub fn router() -> Router<ServiceState> {
    Router::new().route("/data/v1/{share}/{pack}", get(read).put(write))
}

/// A refusal of the data plane.
struct Refused(Status);

impl From<Status> for Refused {
    fn from(status: Status) -> Self {
        Self(status)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let code = match self.0.code() {
            _ if Reason::of(&self.0) == Some(Reason::StoreFull) => StatusCode::INSUFFICIENT_STORAGE,
            Code::Unauthenticated | Code::PermissionDenied => StatusCode::FORBIDDEN,
            Code::NotFound => StatusCode::NOT_FOUND,
            Code::AlreadyExists | Code::FailedPrecondition => StatusCode::CONFLICT,
            Code::InvalidArgument => StatusCode::BAD_REQUEST,
            Code::OutOfRange => StatusCode::RANGE_NOT_SATISFIABLE,
            Code::ResourceExhausted | Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Code::Aborted => StatusCode::REQUEST_TIMEOUT,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let mut response = (code, self.0.message().to_owned()).into_response();
        if let Some(reason) = Reason::of(&self.0) {
            response.headers_mut().insert("polder-reason", HeaderValue::from_static(reason.word()));
        }
        response
    }
}

/// Checks the address, and that whom it was given to may still use it.
async fn admit(
    state: &ServiceState,
    method: Method,
    path: &(String, String),
    query: Option<&str>,
) -> Result<(Address, Arc<OpenShare>), Status> {
    let now_ms = state.clock().now_ms();
    let key = &state.trust().url_key;
    let address = Address::check(key, method, &path.0, &path.1, query.unwrap_or_default(), now_ms);
    let address = address.map_err(|error| {
        metric::add(metric::ADDRESSES_REFUSED, 1);
        let share = polder_types::Escaped(path.0.as_bytes()).to_string();
        tracing::warn!(%share, error = %error, "an address of a pack was refused");
        match error {
            AddressError::Forged | AddressError::Expired => Status::permission_denied(error.to_string()),
        }
    })?;
    let state = state.clone();
    blocking(move || {
        let endpoint = state.control().endpoint(address.endpoint);
        let endpoint = endpoint.map_err(|error| failure::control("read the endpoint", error))?;
        let server = endpoint.map(|endpoint| state.control().server(endpoint.server)).transpose();
        let server = server.map_err(|error| failure::control("read the server", error))?.flatten();
        if !server.is_some_and(|server| server.is_trusted()) {
            return Err(Reason::Revoked.status("the server is not trusted any more"));
        }
        Ok((address, state.shares().open(address.share).map_err(failure::share)?))
    })
    .await
}

async fn read(
    State(state): State<ServiceState>,
    Path(path): Path<(String, String)>,
    request: Request,
) -> Result<Response, Refused> {
    let (address, share) = admit(&state, Method::Get, &path, request.uri().query()).await?;
    let (range, code) = match wanted_range(request.headers(), address.size_bytes)? {
        None => (0..address.size_bytes, StatusCode::OK),
        Some(range) => (range, StatusCode::PARTIAL_CONTENT),
    };
    let name = PackName { share: share.id, pack: address.pack };
    let len = range.end - range.start;
    metric::add(metric::DATA_READ_BYTES, len);
    let body = if len <= PIECE_BYTES {
        let bytes = state.packs().get(name, range.clone()).await;
        Body::from(bytes.map_err(|error| failure::store("read a pack", error))?)
    } else {
        Body::from_stream(pieces(state, name, range.clone()))
    };
    let mut response = Response::new(body);
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, len.into());
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if code == StatusCode::PARTIAL_CONTENT {
        let range = format!("bytes {}-{}/{}", range.start, range.end - 1, address.size_bytes);
        headers.insert(header::CONTENT_RANGE, range.parse().expect("digits are legal in headers"));
    }
    Ok(response)
}

/// A large range in pieces, one being read ahead while one is sent.
fn pieces(
    state: ServiceState,
    name: PackName,
    range: Range<u64>,
) -> impl futures::Stream<Item = Result<Bytes, polder_packstore::StoreError>> {
    let starts = range.clone().step_by(PIECE_BYTES as usize);
    let reads = starts.map(move |start| {
        let (state, end) = (state.clone(), range.end.min(start + PIECE_BYTES));
        async move {
            let read = state.packs().get(name, start..end).await;
            // The answer has begun: it ends early, and the reader notices by its length.
            read.inspect_err(
                |error| tracing::warn!(pack = %name.pack, error = %failure::Chain(error), "read a pack"),
            )
        }
    });
    futures::stream::iter(reads).buffered(2)
}

/// The one range that was asked for. Several at once are not given: an agent asks for one that holds them.
fn wanted_range(headers: &HeaderMap, size: u64) -> Result<Option<Range<u64>>, Status> {
    let Some(value) = headers.get(header::RANGE) else { return Ok(None) };
    let refuse = || Status::out_of_range("the range is not one that lies in the pack");
    let text = value.to_str().ok().and_then(|text| text.strip_prefix("bytes=")).ok_or_else(refuse)?;
    let (first, last) = text.split_once('-').ok_or_else(refuse)?;
    let first: u64 = first.parse().map_err(|_| refuse())?;
    let end =
        if last.is_empty() { size } else { last.parse::<u64>().map_err(|_| refuse())?.saturating_add(1) };
    let range = first..end.min(size);
    if range.start < range.end { Ok(Some(range)) } else { Err(refuse()) }
}

async fn write(
    State(state): State<ServiceState>,
    Path(path): Path<(String, String)>,
    request: Request,
) -> Result<Response, Refused> {
    let (address, share) = admit(&state, Method::Put, &path, request.uri().query()).await?;
    let announced = request.headers().get(header::CONTENT_LENGTH);
    let announced = announced.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|len| len != address.size_bytes) || address.size_bytes > PACK_BYTES_MAX {
        return Err(Reason::BadPack.status("the pack has another length than its address").into());
    }
    ensure_room(&state, address.size_bytes)?;
    let kib = u32::try_from(address.size_bytes / 1024 + 1).unwrap_or(u32::MAX);
    let room = tokio::time::timeout(SILENCE_MAX, UPLOADS.acquire_many(kib)).await;
    let Ok(Ok(_room)) = room else {
        return Err(Reason::Busy.status("too many packs are on their way").into());
    };
    let (size, name) = (address.size_bytes, PackName { share: share.id, pack: address.pack });
    let arriving =
        Arc::new(Arriving { keys: share.keys(), pack: address.pack, size, footer: Mutex::default() });
    let body = stream(Arc::clone(&arriving), request.into_body());
    if let Err(refused) = state.packs().put_stream(name, size, body).await.map_err(not_put) {
        if Reason::of(&refused) == Some(Reason::BadPack) {
            let object = format!("pack {} of share {}", address.pack, address.share);
            let why = refused.message().to_owned();
            crate::grpc::access::audit_bad_pack(&state, address.endpoint, object, why).await?;
        }
        return Err(refused.into());
    }
    let footer = arriving.footer.lock().expect(LOCK).take();
    let footer = footer.ok_or_else(|| Status::internal("a pack was stored whose footer was not seen"))?;
    take_in(&state, &share, &footer).await?;
    Ok(StatusCode::OK.into_response())
}

/// What a refusal of the store means: the sender's fault where its bytes were refused.
fn not_put(error: StoreError) -> Status {
    match error {
        StoreError::Body { name, source } => match source.downcast::<Status>() {
            Ok(refused) => *refused,
            Err(source) => failure::store("store a pack", StoreError::Body { name, source }),
        },
        error => failure::store("store a pack", error),
    }
}

const LOCK: &str = "no holder of this lock panics";

/// A pack on its way in.
struct Arriving {
    keys: Arc<polder_chunk::ShareKeys>,
    pack: PackId,
    size: u64,
    /// Once it was proven.
    footer: Mutex<Option<PackFooter>>,
}

/// A body of a known length as the store takes it. Who is silent in the middle of it is given up. Its last part is
/// handed on only when the footer is sound, so that nothing else ever gets a name in the store.
fn stream(arriving: Arc<Arriving>, body: Body) -> PackBody<'static> {
    let slowest = SILENCE_MAX + Duration::from_secs(arriving.size / BYTES_PER_S_MIN);
    let end = tokio::time::Instant::now() + slowest;
    let begin = (body.into_data_stream(), Tail::default(), 0);
    Box::pin(futures::stream::try_unfold(begin, move |(mut body, mut tail, arrived)| {
        let arriving = Arc::clone(&arriving);
        async move {
            if arrived == arriving.size {
                return Ok(None);
            }
            let next_by = end.min(tokio::time::Instant::now() + SILENCE_MAX);
            let next = tokio::time::timeout_at(next_by, body.next()).await;
            let part = next.map_err(|_| Status::aborted("the pack stopped arriving"))?;
            let part = part.ok_or_else(|| Status::aborted("the pack ended early"))?;
            let part = part.map_err(|error| Status::aborted(format!("the pack did not arrive: {error}")))?;
            let arrived = arrived + part.len() as u64;
            if arrived > arriving.size {
                return Err(Reason::BadPack.status("the pack is longer than its address says").into());
            }
            tail.push(part.clone());
            if arrived == arriving.size {
                let footer = prove(Arc::clone(&arriving), std::mem::take(&mut tail)).await?;
                *arriving.footer.lock().expect(LOCK) = Some(footer);
            }
            Ok::<_, BodyError>(Some((part, (body, tail, arrived))))
        }
    }))
}

/// The last parts of a body: enough for the longest footer.
#[derive(Default)]
struct Tail {
    parts: VecDeque<Bytes>,
    bytes: usize,
}

impl Tail {
    fn push(&mut self, part: Bytes) {
        self.bytes += part.len();
        self.parts.push_back(part);
        while let Some(first) = self.parts.front()
            && self.bytes - first.len() >= FOOTER_ROOM_BYTES
        {
            self.bytes -= first.len();
            self.parts.pop_front();
        }
    }
}

async fn prove(arriving: Arc<Arriving>, tail: Tail) -> Result<PackFooter, Status> {
    blocking(move || {
        let parts: Vec<Bytes> = tail.parts.into();
        footer(&arriving.keys, arriving.pack, arriving.size, &parts)
    })
    .await
}

/// Opens and proves a footer. What is none is refused and counted; who knows the sender tells of it.
fn footer(
    keys: &polder_chunk::ShareKeys,
    pack: PackId,
    size: u64,
    parts: &[Bytes],
) -> Result<PackFooter, Status> {
    parse_footer(keys, pack, size, parts).map_err(|error| {
        metric::add(metric::PACKS_REFUSED, 1);
        Reason::BadPack.status(format!("the pack is not valid: {}", failure::Chain(&error)))
    })
}

/// Takes a whole pack: proves its footer, makes it durable, registers its chunks. A repeat is no error.
pub async fn accept_pack(
    state: &ServiceState,
    share: &Arc<OpenShare>,
    pack: PackId,
    parts: Vec<Bytes>,
) -> Result<(), Status> {
    let size: u64 = parts.iter().map(|part| part.len() as u64).sum();
    ensure_room(state, size)?;
    let footer = {
        let (keys, parts) = (share.keys(), parts.clone());
        blocking(move || footer(&keys, pack, size, &parts)).await?
    };
    let name = PackName { share: share.id, pack };
    let put = state.packs().put(name, parts).await;
    put.map_err(|error| failure::store("store a pack", error))?;
    take_in(state, share, &footer).await
}

/// Refuses a pack that would take what the databases may need.
fn ensure_room(state: &ServiceState, bytes: u64) -> Result<(), Status> {
    let fits = state.room().admits(bytes);
    if fits { Ok(()) } else { Err(Reason::StoreFull.status("the volume of the service is full")) }
}

/// Registers a pack that is durable, and sees that it is verified soon.
async fn take_in(state: &ServiceState, share: &Arc<OpenShare>, footer: &PackFooter) -> Result<(), Status> {
    register(state, share, footer).await?;
    metric::add(metric::PACKS_STORED, 1);
    metric::add(metric::DATA_WRITTEN_BYTES, footer.object_bytes);
    state.work().verify_soon(share.id, footer.pack.id);
    Ok(())
}

fn parse_footer(
    keys: &polder_chunk::ShareKeys,
    pack: PackId,
    size: u64,
    parts: &[Bytes],
) -> Result<PackFooter, polder_chunk::FooterError> {
    let mut want = polder_chunk::TAIL_HINT_BYTES;
    loop {
        match PackFooter::parse(keys, pack, size, &tail(parts, want)) {
            Err(polder_chunk::FooterError::NeedTail(more)) if more > want && want < size as usize => {
                want = more
            }
            parsed => return parsed,
        }
    }
}

/// The last bytes of the parts.
fn tail(parts: &[Bytes], want: usize) -> Vec<u8> {
    let (mut left, mut slices) = (want, Vec::new());
    for part in parts.iter().rev() {
        let taken = part.len().min(left);
        slices.push(&part[part.len() - taken..]);
        left -= taken;
        if left == 0 {
            break;
        }
    }
    slices.reverse();
    slices.concat()
}

/// The rows of a pack with this footer.
pub fn new_pack(footer: &PackFooter, replaces: Vec<PackId>) -> NewPack {
    let mut meta = Writer::new();
    footer.pack.encode(&mut meta);
    let chunks = footer.entries.iter().map(|entry| {
        let mut slot = Writer::new();
        entry.slot.encode(&mut slot);
        (entry.id, Slot::new(&slot.finish()).expect("a slot has at most 24 bytes"))
    });
    NewPack {
        id: footer.pack.id,
        bytes: footer.object_bytes,
        key_gen: footer.pack.generation.0,
        meta: meta.finish().into(),
        chunks: chunks.collect(),
        replaces,
    }
}

/// Registers the chunks of a pack that is durable.
pub async fn register(
    state: &ServiceState,
    share: &Arc<OpenShare>,
    footer: &PackFooter,
) -> Result<(), Status> {
    let new = new_pack(footer, Vec::new());
    let (answer, receive) = tokio::sync::oneshot::channel();
    let (db, time_ms) = (share.db.clone(), state.clock().now_ms());
    db.submit(
        move |rows| polder_ledger::register_pack(rows, &new, time_ms, None),
        // Nobody waits when the connection has gone; the pack stays registered.
        move |done: Result<_, LedgerError>| drop(answer.send(done)),
    );
    match receive.await {
        Ok(done) => done.map(drop).map_err(|error| failure::ledger("register a pack", error)),
        Err(error) => Err(failure::internal("register a pack", &error)),
    }
}
