//! The service, as far as chunks and packs are concerned.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

use bytes::{Bytes, BytesMut};
use polder_api::grpc::convert::{self, BadMessage, PackPlace};
use polder_api::grpc::{Reason, limits, pb};
use polder_chunk::{ChunkLocation, ChunkSlot, Pack, PackRef};
use polder_engine::{Failure, FailureClass};
use polder_types::{ChunkId, EndpointId, PackId, Reader};

use super::Places;
use crate::connection::Client;

/// Why a call had no success.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RemoteError {
    /// There is no session, or the endpoint is not open in it.
    #[error("the service is not reachable")]
    NotOpen,
    /// The service refused or failed.
    #[error("the service answered: {}", .0.message())]
    Status(Box<tonic::Status>),
    /// Bytes of a pack did not come or go.
    #[error("transfer of a pack")]
    Http(#[source] reqwest::Error),
    /// Nothing more fits there: with the service, or in the store behind it.
    #[error("the store of the service is full: make room there")]
    Full,
    /// The address was answered with an error.
    #[error("transfer of a pack: the store answered {0}")]
    HttpStatus(http::StatusCode),
    /// The answer is not what the protocol says.
    #[error("the service's answer is malformed")]
    Bad(#[from] BadMessage),
    /// The answer has another length than was asked for.
    #[error("the store sent {found} bytes of {wanted}")]
    Length {
        /// Asked for.
        wanted: u64,
        /// Came.
        found: u64,
    },
}

impl From<tonic::Status> for RemoteError {
    fn from(status: tonic::Status) -> Self {
        Self::Status(Box::new(status))
    }
}

impl RemoteError {
    /// The failure as the engine is told.
    pub(crate) fn failure(&self) -> Failure {
        let class = match self {
            Self::Bad(_) | Self::Length { .. } => FailureClass::Damaged,
            Self::NotOpen | Self::Status(_) | Self::Http(_) | Self::Full | Self::HttpStatus(_) => {
                FailureClass::Unreachable
            }
        };
        Failure { class, text: crate::status::chain(self).into() }
    }

    /// Whether the address itself is no good any more: ask for another one.
    pub(crate) fn is_stale_address(&self) -> bool {
        matches!(self, Self::HttpStatus(code) if matches!(code.as_u16(), 401 | 403 | 404 | 410))
    }

    /// Whether the service says that the endpoint must be opened again, or not at all.
    pub(crate) fn reason(&self) -> Option<Reason> {
        match self {
            Self::Status(status) => Reason::of(status),
            _ => None,
        }
    }
}

/// An endpoint that is open in a live session.
#[derive(Debug, Clone)]
pub(crate) struct Open {
    /// For calls.
    pub client: Client,
    /// For the bytes of packs.
    pub http: reqwest::Client,
    /// Address of the service, without a slash at the end.
    pub base: Arc<str>,
    /// Which endpoint.
    pub endpoint: EndpointId,
    /// The accepted opening.
    pub opening: [u8; 16],
    /// Number of the session.
    pub link: u64,
}

impl Open {
    /// What every call names.
    pub(crate) fn named(&self) -> Option<pb::Opening> {
        Some(convert::encode_opening(self.endpoint, self.opening))
    }

    fn address(&self, url: &str) -> String {
        if url.starts_with("https://") || url.starts_with("http://") {
            url.to_owned()
        } else {
            format!("{}{url}", self.base)
        }
    }
}

/// The way to the service, there or not. Counts what is sent and received.
#[derive(Debug, Default)]
pub(crate) struct Remote {
    open: RwLock<Option<Arc<Open>>>,
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
}

impl Remote {
    /// Opens (`Some`) or closes the way.
    pub(crate) fn set(&self, open: Option<Open>) {
        *self.open.write().expect("no holder of this lock panics") = open.map(Arc::new);
    }

    /// The open way.
    pub(crate) fn open(&self) -> Result<Arc<Open>, RemoteError> {
        let open = self.open.read().expect("no holder of this lock panics");
        open.clone().ok_or(RemoteError::NotOpen)
    }

    /// Bytes of packs sent and received since the start.
    pub(crate) fn moved_bytes(&self) -> (u64, u64) {
        (self.sent_bytes.load(Ordering::Relaxed), self.received_bytes.load(Ordering::Relaxed))
    }

    /// Counts bytes that went or came beside packs.
    pub(crate) fn count(&self, sent: u64, received: u64) {
        self.sent_bytes.fetch_add(sent, Ordering::Relaxed);
        self.received_bytes.fetch_add(received, Ordering::Relaxed);
    }

    /// Which chunks lie in verified packs.
    pub(crate) async fn have(&self, ids: &[ChunkId]) -> Result<Vec<bool>, RemoteError> {
        let open = self.open()?;
        let mut have = Vec::with_capacity(ids.len());
        for part in ids.chunks(limits::CHUNKS_ASKED_MAX) {
            let request =
                pb::HaveRequest { opening: open.named(), chunk_ids: convert::encode_chunk_ids(part) };
            self.count(part.len() as u64 * 32, 0);
            let reply = open.client.clone().have(request).await?.into_inner();
            have.extend(convert::decode_have(&reply, part.len())?);
        }
        Ok(have)
    }

    /// Finds chunks and remembers where they are. Those that are not found stay unknown.
    pub(crate) async fn locate(&self, ids: &[ChunkId], places: &Places) -> Result<(), RemoteError> {
        let open = self.open()?;
        for part in ids.chunks(limits::CHUNKS_ASKED_MAX) {
            let request =
                pb::LocateRequest { opening: open.named(), chunk_ids: convert::encode_chunk_ids(part) };
            self.count(part.len() as u64 * 32, 0);
            let reply = open.client.clone().locate(request).await?.into_inner();
            let (packs, located) = convert::decode_located(reply, part)?;
            let refs = packs.iter().map(pack_ref).collect::<Result<Vec<_>, _>>()?;
            places.put_packs(&packs);
            for (id, place) in part.iter().zip(located).filter_map(|(id, place)| Some((id, place?))) {
                if let (Some(pack), Some(slot)) = (refs.get(place.pack_index as usize), slot(&place.slot)) {
                    places.put(*id, ChunkLocation { pack: *pack, slot });
                }
            }
        }
        Ok(())
    }

    /// Puts a pack; returns when the service has acknowledged it as durable.
    pub(crate) async fn put_pack(&self, id: PackId, bytes: Bytes) -> Result<(), RemoteError> {
        let open = self.open()?;
        let size_bytes = bytes.len() as u64;
        let request = pb::PackUrlRequest { opening: open.named(), pack_id: copy(id), size_bytes };
        let to = open.client.clone().pack_url(request).await?.into_inner();
        let mut put = open.http.put(open.address(&to.url)).body(bytes);
        for header in &to.headers {
            put = put.header(header.name.as_str(), header.value.as_str());
        }
        let answer = put.send().await.map_err(hide_address)?;
        if answer.status() == http::StatusCode::INSUFFICIENT_STORAGE {
            return Err(RemoteError::Full);
        }
        if !answer.status().is_success() {
            return Err(RemoteError::HttpStatus(answer.status()));
        }
        self.count(size_bytes, 0);
        if to.announce {
            let stored = pb::PackStoredRequest { opening: open.named(), pack_id: copy(id), size_bytes };
            open.client.clone().pack_stored(stored).await?;
        }
        Ok(())
    }

    /// Gets a range of a pack. Bytes are counted as they come.
    pub(crate) async fn get(&self, url: &str, range: Range<u64>) -> Result<Bytes, RemoteError> {
        let open = self.open()?;
        let header = format!("bytes={}-{}", range.start, range.end - 1);
        let get = open.http.get(open.address(url)).header(http::header::RANGE, header);
        let mut answer = get.send().await.map_err(hide_address)?;
        if answer.status() != http::StatusCode::PARTIAL_CONTENT {
            return Err(RemoteError::HttpStatus(answer.status()));
        }
        let wanted = range.end - range.start;
        if answer.content_length().is_some_and(|found| found != wanted) {
            return Err(RemoteError::Length { wanted, found: answer.content_length().unwrap_or(0) });
        }
        let mut bytes = BytesMut::with_capacity(usize::try_from(wanted).unwrap_or_default());
        while let Some(part) = answer.chunk().await.map_err(hide_address)? {
            self.count(0, part.len() as u64);
            if (bytes.len() + part.len()) as u64 > wanted {
                return Err(RemoteError::Length { wanted, found: (bytes.len() + part.len()) as u64 });
            }
            bytes.extend_from_slice(&part);
        }
        if bytes.len() as u64 == wanted {
            Ok(bytes.freeze())
        } else {
            Err(RemoteError::Length { wanted, found: bytes.len() as u64 })
        }
    }
}

/// A signed address is a secret while it is good, so errors do not carry it into the log.
fn hide_address(error: reqwest::Error) -> RemoteError {
    RemoteError::Http(error.without_url())
}

fn copy(id: PackId) -> Bytes {
    Bytes::copy_from_slice(&id.0)
}

/// Reads the reference of a pack, which must be about the pack that it came with.
pub(crate) fn pack_ref(place: &PackPlace) -> Result<PackRef, BadMessage> {
    let mut from = Reader::new(&place.reference);
    PackRef::decode(&mut from).ok().filter(|pack| pack.id == place.id).ok_or(BadMessage::Range("reference"))
}

/// Reads a slot; a bad one is as good as none: the chunk is then looked for again.
pub(crate) fn slot(bytes: &[u8]) -> Option<ChunkSlot> {
    ChunkSlot::decode(&mut Reader::new(bytes)).ok()
}

/// Largest pack that may be announced.
pub(crate) fn fits(pack: &Pack) -> bool {
    pack.bytes.len() as u64 <= limits::PACK_BYTES_MAX
}
