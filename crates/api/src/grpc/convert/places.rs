//! Where chunks and packs are.

use bytes::Bytes;
use polder_types::{CHUNK_BYTES_MAX, ChunkId, PackId};

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
    /// Generation of the share's key that it is sealed under.
    pub key_generation: u32,
    /// The pack's own nonce, from its footer.
    pub nonce: [u8; 32],
    /// Whether the service has read it back and checked it.
    pub verified: bool,
}

impl std::fmt::Debug for PackPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PackPlace").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A chunk in a pack, as the pack's footer lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkPlace {
    /// Position of the pack in the list beside.
    pub pack_index: u32,
    /// Where the sealed bytes begin.
    pub offset: u32,
    /// How many sealed bytes.
    pub stored_bytes: u32,
    /// How many plain bytes.
    pub raw_bytes: u32,
    /// Number of the chunk in the pack.
    pub number: u32,
    /// Compression, as the footer has it.
    pub compression: u8,
}

impl From<&PackPlace> for pb::PackPlace {
    fn from(from: &PackPlace) -> Self {
        Self {
            pack_id: Bytes::copy_from_slice(&from.id.0),
            url: from.url.clone(),
            url_expires_unix_ms: from.url_expires_unix_ms,
            size_bytes: from.size_bytes,
            key_generation: from.key_generation,
            nonce: Bytes::copy_from_slice(&from.nonce),
            verified: from.verified,
        }
    }
}

impl From<&ChunkPlace> for pb::ChunkPlace {
    fn from(from: &ChunkPlace) -> Self {
        Self {
            pack_index: from.pack_index,
            offset: from.offset,
            stored_bytes: from.stored_bytes,
            raw_bytes: from.raw_bytes,
            number: from.number,
            compression: from.compression.into(),
        }
    }
}

pub(super) fn decode_pack(from: pb::PackPlace) -> Result<PackPlace, BadMessage> {
    if from.size_bytes > limits::PACK_BYTES_MAX {
        return Err(BadMessage::Range("size_bytes"));
    }
    Ok(PackPlace {
        id: id(&from.pack_id, "pack_id", PackId::from_slice)?,
        url: text(from.url, "url")?,
        url_expires_unix_ms: from.url_expires_unix_ms,
        size_bytes: from.size_bytes,
        key_generation: from.key_generation,
        nonce: id(&from.nonce, "nonce", |bytes| bytes.try_into().ok())?,
        verified: from.verified,
    })
}

pub(super) fn decode_place(from: &pb::ChunkPlace, pack_count: usize) -> Result<ChunkPlace, BadMessage> {
    let end = u64::from(from.offset) + u64::from(from.stored_bytes);
    if from.pack_index as usize >= pack_count {
        return Err(BadMessage::Range("pack_index"));
    }
    if end > limits::PACK_BYTES_MAX || from.raw_bytes > CHUNK_BYTES_MAX {
        return Err(BadMessage::Range("place"));
    }
    let compression = u8::try_from(from.compression).map_err(|_| BadMessage::Range("compression"))?;
    Ok(ChunkPlace {
        pack_index: from.pack_index,
        offset: from.offset,
        stored_bytes: from.stored_bytes,
        raw_bytes: from.raw_bytes,
        number: from.number,
        compression,
    })
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
