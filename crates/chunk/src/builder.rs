//! Filling a pack. Chunks are sealed into it by one thread ([`PackBuilder::seal`]), or by many: reserve a slot, seal it
//! anywhere with the shared key, add what comes back in any order.

use std::collections::BTreeSet;
use std::sync::Arc;

use polder_types::{CHUNK_BYTES_MAX, ChunkId, PackId};

use crate::pack::append_end;
use crate::{
    ChunkSlot, Compression, FooterError, PACK_CHUNKS_MAX, PACK_DATA_BYTES, PackEntry, PackFooter, PackKey,
    PackNonce, PackRef, SEAL_OVERHEAD_BYTES, Scratch, SealError, SealSlot, SealedChunk, ShareKeys,
};

/// A pack that is being filled.
#[derive(Debug)]
pub struct PackBuilder {
    keys: ShareKeys,
    key: Arc<PackKey>,
    bytes: Vec<u8>,
    entries: Vec<PackEntry>,
    // Reserved or added.
    known: BTreeSet<ChunkId>,
    next_number: u32,
    // Upper bound of what slots that are out may still bring.
    promised_bytes: u64,
}

/// Answer to a wish to put a chunk into a pack.
#[derive(Debug, PartialEq, Eq)]
pub enum Reserved<T> {
    /// There is room.
    New(T),
    /// The pack holds the chunk, or a slot for it is out.
    Known,
    /// No room: finish this pack and begin another one.
    Full,
}

/// A finished pack: what is to be stored, and what is in it.
#[derive(Debug)]
pub struct Pack {
    /// The whole object.
    pub bytes: Vec<u8>,
    /// Read back from these bytes.
    pub footer: PackFooter,
}

impl PackBuilder {
    /// An empty pack under the current generation of the keys. `id` and `nonce` are fresh random bytes, for every pack that
    /// is built.
    pub fn new(keys: &ShareKeys, id: PackId, nonce: PackNonce) -> Self {
        Self::with_buffer(keys, id, nonce, Vec::new())
    }

    /// As [`Self::new`], in the memory of a pack that is no more needed: fresh pages would cost a quarter of the
    /// time that sealing takes.
    pub fn with_buffer(keys: &ShareKeys, id: PackId, nonce: PackNonce, mut buffer: Vec<u8>) -> Self {
        buffer.clear();
        let pack = PackRef { id, generation: keys.current(), nonce };
        let key = Arc::new(keys.pack_key(pack).expect("the current generation is at hand"));
        Self {
            keys: keys.clone(),
            key,
            bytes: buffer,
            entries: Vec::new(),
            known: BTreeSet::new(),
            next_number: 0,
            promised_bytes: 0,
        }
    }

    /// What seals the chunks of this pack; to be shared with other threads.
    pub fn key(&self) -> Arc<PackKey> {
        Arc::clone(&self.key)
    }

    /// Which pack.
    pub fn pack(&self) -> PackRef {
        self.key.pack()
    }

    /// Sealed bytes so far.
    pub fn data_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Chunks so far.
    pub fn chunk_count(&self) -> usize {
        self.entries.len()
    }

    /// Whether the chunk is in the pack or a slot for it is out.
    pub fn contains(&self, id: ChunkId) -> bool {
        self.known.contains(&id)
    }

    /// A slot for a chunk of `raw_bytes`. A slot that is dropped leaves the chunk out of the pack.
    pub fn reserve(&mut self, id: ChunkId, raw_bytes: u32) -> Reserved<SealSlot> {
        if self.known.contains(&id) {
            return Reserved::Known;
        }
        let stored_max = u64::from(raw_bytes) + u64::from(SEAL_OVERHEAD_BYTES);
        let taken = self.bytes.len() as u64 + self.promised_bytes;
        // A chunk that is larger than a pack stands alone in one.
        let fits =
            taken + stored_max <= PACK_DATA_BYTES.into() || (taken == 0 && raw_bytes <= CHUNK_BYTES_MAX);
        if !fits || self.next_number == PACK_CHUNKS_MAX {
            return Reserved::Full;
        }
        let slot = SealSlot { pack: self.key.pack().id, number: self.next_number, id, raw_bytes };
        self.next_number += 1;
        self.promised_bytes += stored_max;
        self.known.insert(id);
        Reserved::New(slot)
    }

    /// Adds a chunk that was sealed in a slot of this pack.
    pub fn add(&mut self, sealed: SealedChunk) -> Result<(), SealError> {
        let SealedChunk { slot, compression, bytes } = sealed;
        if slot.pack != self.key.pack().id {
            return Err(SealError::OtherPack(slot.pack));
        }
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&bytes);
        self.list(&slot, start, compression);
        Ok(())
    }

    /// Seals a chunk straight into the pack, on this thread.
    pub fn seal(
        &mut self,
        id: ChunkId,
        raw: &[u8],
        scratch: &mut Scratch,
    ) -> Result<Reserved<()>, SealError> {
        let size = SealError::Size(raw.len() as u64);
        let raw_bytes = u32::try_from(raw.len()).ok().filter(|len| *len <= CHUNK_BYTES_MAX).ok_or(size)?;
        let slot = match self.reserve(id, raw_bytes) {
            Reserved::New(slot) => slot,
            Reserved::Known => return Ok(Reserved::Known),
            Reserved::Full => return Ok(Reserved::Full),
        };
        let start = self.bytes.len();
        match self.key.seal_into(&slot, raw, scratch, &mut self.bytes) {
            Ok(compression) => {
                self.list(&slot, start, compression);
                Ok(Reserved::New(()))
            }
            Err(error) => {
                self.known.remove(&id);
                self.promised_bytes -= u64::from(raw_bytes) + u64::from(SEAL_OVERHEAD_BYTES);
                Err(error)
            }
        }
    }

    /// The pack, with its footer read back; `None` when it holds no chunk.
    pub fn finish(mut self) -> Result<Option<Pack>, FooterError> {
        if self.entries.is_empty() {
            return Ok(None);
        }
        append_end(&self.key, &self.entries, &mut self.bytes);
        let footer = PackFooter::parse(&self.keys, self.key.pack().id, self.bytes.len() as u64, &self.bytes)?;
        if footer.entries != self.entries {
            return Err(FooterError::Damaged);
        }
        Ok(Some(Pack { bytes: self.bytes, footer }))
    }

    fn list(&mut self, slot: &SealSlot, start: usize, compression: Compression) {
        let bounded = |len: usize| u32::try_from(len).expect("reserve keeps packs small");
        let placed = ChunkSlot {
            number: slot.number,
            offset: bounded(start),
            stored_bytes: bounded(self.bytes.len() - start),
            raw_bytes: slot.raw_bytes,
            compression,
        };
        self.promised_bytes -= u64::from(slot.raw_bytes) + u64::from(SEAL_OVERHEAD_BYTES);
        self.entries.push(PackEntry { id: slot.id, slot: placed });
    }
}
