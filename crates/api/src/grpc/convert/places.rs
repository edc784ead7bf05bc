//! Where chunks and packs are.

use bytes::Bytes;
use polder_types::{ChunkId, PackId};

use super::{BadMessage, at_most, chunk_ids, id, limits, text};
use crate::grpc::pb;

/// A pack and an address to read it from.
#[derive(Clone, PartialEq, Eq)]
pub struct PackPlace {
    /// Which pack.
    pub id: PackId,
    /// For GET with a range; relative to the service's own address, or absolute. Secret while it is good.
    pub url: String,
    /// When the address ends, milliseconds since 1970 by the service's clock.
    pub url_expires_unix_ms: i64,
    /// The pack's whole size.
    pub size_bytes: u64,
    /// The pack's reference: `polder_chunk::PackRef` reads it.
    pub reference: Box<[u8]>,
    /// Whether the service has read it back and checked it.
    pub verified: bool,
}

impl std::fmt::Debug for PackPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PackPlace").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A chunk in a pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkPlace {
    /// Position of the pack in the list beside.
    pub pack_index: u32,
    /// The chunk's slot: `polder_chunk::ChunkSlot` reads it.
    pub slot: Box<[u8]>,
}

impl From<&PackPlace> for pb::PackPlace {
    fn from(from: &PackPlace) -> Self {
        Self {
            pack_id: Bytes::copy_from_slice(&from.id.0),
            url: from.url.clone(),
            url_expires_unix_ms: from.url_expires_unix_ms,
            size_bytes: from.size_bytes,
            reference: Bytes::copy_from_slice(&from.reference),
            verified: from.verified,
        }
    }
}

impl From<&ChunkPlace> for pb::ChunkPlace {
    fn from(from: &ChunkPlace) -> Self {
        Self { pack_index: from.pack_index, slot: Bytes::copy_from_slice(&from.slot) }
    }
}

pub(super) fn decode_pack(from: pb::PackPlace) -> Result<PackPlace, BadMessage> {
    if from.size_bytes > limits::PACK_BYTES_MAX {
        return Err(BadMessage::Range("size_bytes"));
    }
    at_most(from.reference.len(), limits::PACK_REFERENCE_BYTES_MAX, "reference")?;
    Ok(PackPlace {
        id: id(&from.pack_id, "pack_id", PackId::from_slice)?,
        url: text(from.url, "url")?,
        url_expires_unix_ms: from.url_expires_unix_ms,
        size_bytes: from.size_bytes,
        reference: from.reference.as_ref().into(),
        verified: from.verified,
    })
}

pub(super) fn decode_place(from: &pb::ChunkPlace, pack_count: usize) -> Result<ChunkPlace, BadMessage> {
    if from.pack_index as usize >= pack_count {
        return Err(BadMessage::Range("pack_index"));
    }
    at_most(from.slot.len(), limits::SLOT_BYTES_MAX, "slot")?;
    Ok(ChunkPlace { pack_index: from.pack_index, slot: from.slot.as_ref().into() })
}

/// Ids of chunks, one after the other.
pub fn encode_chunk_ids(ids: &[ChunkId]) -> Bytes {
    ids.iter().flat_map(|id| id.0).collect()
}

/// Checks the ids of a `Have` or `Locate`.
pub fn decode_chunk_ids(bytes: &[u8]) -> Result<Vec<ChunkId>, BadMessage> {
    chunk_ids(bytes, limits::CHUNKS_ASKED_MAX, "chunk_ids")
}

/// The answer to a `Have`.
pub fn encode_have(have: &[bool]) -> pb::HaveReply {
    let byte = |bits: &[bool]| bits.iter().rev().fold(0u8, |byte, bit| byte << 1 | u8::from(*bit));
    pb::HaveReply { bitmap: have.chunks(8).map(byte).collect() }
}

/// Checks the answer to a `Have` about `count` chunks.
pub fn decode_have(from: &pb::HaveReply, count: usize) -> Result<Vec<bool>, BadMessage> {
    if from.bitmap.len() != count.div_ceil(8) {
        return Err(BadMessage::Range("bitmap"));
    }
    Ok((0..count).map(|at| from.bitmap[at / 8] >> (at % 8) & 1 == 1).collect())
}

/// Checks the answer to a `Locate` about `ids`: packs, and for each id its place, if it was found.
pub fn decode_located(
    from: pb::LocateReply,
    ids: &[ChunkId],
) -> Result<(Vec<PackPlace>, Vec<Option<ChunkPlace>>), BadMessage> {
    at_most(from.packs.len(), limits::PAGE_PACKS_MAX, "packs")?;
    at_most(from.chunks.len(), ids.len(), "chunks")?;
    let packs = from.packs.into_iter().map(decode_pack).collect::<Result<Vec<_>, _>>()?;
    let mut places = vec![None; ids.len()];
    for chunk in &from.chunks {
        let slot = places.get_mut(chunk.index as usize).ok_or(BadMessage::Range("index"))?;
        let place = chunk.place.as_ref().ok_or(BadMessage::Missing("place"))?;
        *slot = Some(decode_place(place, packs.len())?);
    }
    Ok((packs, places))
}
