//! Chunk ids, and bytes that were compared with theirs.

use polder_types::ChunkId;

use crate::OpenError;

const CONTEXT: &str = "polder 2026-11-23 chunk id v1";

/// Names chunks of one share: BLAKE3 keyed by the share (`docs/formats/content.md` §3). Cheap to copy to threads.
#[derive(Clone, Copy)]
pub struct ChunkIdKey([u8; 32]);

impl std::fmt::Debug for ChunkIdKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ChunkIdKey(secret)")
    }
}

impl ChunkIdKey {
    pub(crate) fn derive(id_key: &[u8; 32]) -> Self {
        Self(blake3::derive_key(CONTEXT, id_key))
    }

    /// The id of a chunk with these bytes.
    pub fn id(&self, bytes: &[u8]) -> ChunkId {
        ChunkId(*blake3::keyed_hash(&self.0, bytes).as_bytes())
    }

    /// Vouches for bytes from anywhere (a disk, a cache) when they are those of `id`.
    pub fn verify(&self, id: ChunkId, bytes: Vec<u8>) -> Result<VerifiedChunk, OpenError> {
        if self.id(&bytes) == id {
            Ok(VerifiedChunk { id, bytes })
        } else {
            Err(OpenError::WrongBytes { id })
        }
    }
}

/// Bytes of a chunk whose hash was compared with its id since they were read. There is no other way to make one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedChunk {
    id: ChunkId,
    bytes: Vec<u8>,
}

impl VerifiedChunk {
    /// The id that the bytes have.
    pub fn id(&self) -> ChunkId {
        self.id
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The bytes, without their proof.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}
