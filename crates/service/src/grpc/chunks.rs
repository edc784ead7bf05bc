//! Which chunks the service has, where they are, and where packs go.

use polder_api::grpc::convert::{self, ChunkPlace, PackPlace};
use polder_api::grpc::{Reason, limits, pb};
use polder_chunk::{PACK_BYTES_MAX, PackFooter};
use polder_ledger::{LedgerError, Located};
use polder_packstore::PackName;
use polder_types::{EndpointId, PackId, ShareId};
use std::time::Duration;
use tonic::{Request, Response, Status};

use super::access::{Access, Caller};
use super::feed::{PackTable, is_readable};
use crate::failure::{self, blocking};
use crate::packs::{self, Address, Method, URL_VALID_MS};
use crate::state::ServiceState;

/// Answers `Have`.
pub async fn have(
    state: &ServiceState,
    request: Request<pb::HaveRequest>,
) -> Result<Response<pb::HaveReply>, Status> {
    let caller = Caller::of(&request)?;
    let (state, request) = (state.clone(), request.into_inner());
    blocking(move || {
        let access = Access::of_opening(&state, caller, request.opening.as_ref())?;
        let ids = convert::decode_chunk_ids(&request.chunk_ids).map_err(|error| error.status())?;
        let have = access.share.db.read(|rows| polder_ledger::have(rows, &ids));
        let have = have.map_err(|error: LedgerError| failure::ledger("look up chunks", error))?;
        Ok(Response::new(convert::encode_have(&have)))
    })
    .await
}

/// Answers `Locate`.
pub async fn locate(
    state: &ServiceState,
    request: Request<pb::LocateRequest>,
) -> Result<Response<pb::LocateReply>, Status> {
    let caller = Caller::of(&request)?;
    let (for_rows, request) = (state.clone(), request.into_inner());
    let (access, found) = blocking(move || {
        let access = Access::of_opening(&for_rows, caller, request.opening.as_ref())?;
        let ids = convert::decode_chunk_ids(&request.chunk_ids).map_err(|error| error.status())?;
        let found = access.share.db.read(|rows| {
            let located = polder_ledger::locate(rows, &ids)?;
            let sized = located.into_iter().map(|at| match at.filter(|at| is_readable(at.state)) {
                Some(at) => {
                    let size = polder_ledger::pack(rows, at.pack)?.map_or(0, |pack| pack.bytes);
                    Ok(Some((at, size)))
                }
                None => Ok(None),
            });
            sized.collect::<Result<Vec<_>, LedgerError>>()
        });
        Ok((access, found.map_err(|error| failure::ledger("look up chunks", error))?))
    })
    .await?;
    let (mut table, mut packs, mut chunks) = (PackTable::default(), Vec::new(), Vec::new());
    for (index, found) in (0..).zip(found) {
        let Some((at, size)) = found else { continue };
        let (pack_index, new) = table.index(at.pack);
        if new {
            let mut place = place(state, access.share_id(), access.endpoint.id, &at, size);
            sign_direct(state, access.share_id(), &mut place).await?;
            packs.push((&place).into());
        }
        let place = ChunkPlace { pack_index, slot: at.slot.as_bytes().into() };
        chunks.push(pb::LocatedChunk { index, place: Some((&place).into()) });
    }
    Ok(Response::new(pb::LocateReply { packs, chunks }))
}

/// A located pack with an address on the service's own port.
pub fn place(
    state: &ServiceState,
    share: ShareId,
    endpoint: EndpointId,
    at: &Located,
    size_bytes: u64,
) -> PackPlace {
    let expires_ms = state.clock().now_ms() + URL_VALID_MS;
    let address = Address { method: Method::Get, share, pack: at.pack, endpoint, size_bytes, expires_ms };
    PackPlace {
        id: at.pack,
        url: address.sign(&state.trust().url_key),
        url_expires_unix_ms: i64::try_from(expires_ms).unwrap_or(i64::MAX),
        size_bytes,
        reference: at.meta.clone(),
        verified: at.verified,
    }
}

/// Where the store itself can be read, its own address instead of the service's.
async fn sign_direct(state: &ServiceState, share: ShareId, place: &mut PackPlace) -> Result<(), Status> {
    let name = PackName { share, pack: place.id };
    let signed = state.packs().sign_get(name, Duration::from_millis(URL_VALID_MS)).await;
    // An address that demands headers is of no use here: the service gives the bytes then.
    if let Some(signed) = signed.map_err(|error| failure::store("sign an address", error))?
        && signed.headers.is_empty()
    {
        place.url = signed.url;
    }
    Ok(())
}

/// Answers `PackUrl`.
pub async fn pack_url(
    state: &ServiceState,
    request: Request<pb::PackUrlRequest>,
) -> Result<Response<pb::PackUrlReply>, Status> {
    let caller = Caller::of(&request)?;
    let request = request.into_inner();
    let (pack, size_bytes) = (pack_id(&request.pack_id)?, request.size_bytes);
    if !(1..=PACK_BYTES_MAX.min(limits::PACK_BYTES_MAX)).contains(&size_bytes) {
        return Err(Reason::BadPack.status(format!("a pack has at most {PACK_BYTES_MAX} bytes")));
    }
    let for_rows = state.clone();
    let access = blocking(move || Access::of_opening(&for_rows, caller, request.opening.as_ref())).await?;
    let name = PackName { share: access.share_id(), pack };
    let valid = Duration::from_millis(URL_VALID_MS);
    let expires_ms = state.clock().now_ms() + URL_VALID_MS;
    let signed = state.packs().sign_put(name, size_bytes, valid).await;
    let signed = signed.map_err(|error| failure::store("sign an address", error))?;
    let (url, announce, headers) = match signed {
        Some(signed) => {
            let headers = signed.headers.into_iter().map(|(name, value)| pb::Header { name, value });
            (signed.url, true, headers.collect())
        }
        None => {
            let (share, endpoint) = (access.share_id(), access.endpoint.id);
            let address = Address { method: Method::Put, share, pack, endpoint, size_bytes, expires_ms };
            (address.sign(&state.trust().url_key), false, Vec::new())
        }
    };
    let url_expires_unix_ms = i64::try_from(expires_ms).unwrap_or(i64::MAX);
    Ok(Response::new(pb::PackUrlReply { url, url_expires_unix_ms, announce, headers }))
}

/// Answers `PackStored`: reads the footer from the store and registers the pack.
pub async fn pack_stored(
    state: &ServiceState,
    request: Request<pb::PackStoredRequest>,
) -> Result<Response<pb::PackStoredReply>, Status> {
    let caller = Caller::of(&request)?;
    let request = request.into_inner();
    let pack = pack_id(&request.pack_id)?;
    let for_rows = state.clone();
    let access = blocking(move || Access::of_opening(&for_rows, caller, request.opening.as_ref())).await?;
    let name = PackName { share: access.share_id(), pack };
    let mut want = polder_chunk::TAIL_HINT_BYTES as u64;
    let footer = loop {
        let tail = state.packs().tail(name, want).await;
        let tail = tail.map_err(|error| failure::store("read the pack's footer", error))?;
        match PackFooter::parse(&access.share.keys(), pack, tail.object_bytes, &tail.bytes) {
            Err(polder_chunk::FooterError::NeedTail(more)) if more as u64 > want => want = more as u64,
            Err(error) => {
                let text = format!("the pack is not valid: {}", failure::Chain(&error));
                tracing::warn!(%pack, share = %name.share, server = %access.caller.name, text);
                return Err(Reason::BadPack.status(text));
            }
            Ok(footer) => break footer,
        }
    };
    packs::register(state, &access.share, &footer).await?;
    state.work().verify_soon(access.share_id(), pack);
    Ok(Response::new(pb::PackStoredReply {}))
}

fn pack_id(bytes: &[u8]) -> Result<PackId, Status> {
    convert::id(bytes, "pack_id", PackId::from_slice).map_err(|error| error.status())
}
