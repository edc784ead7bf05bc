//! Sealing and opening of single chunks under the key of their pack (`docs/formats/pack.md` §1, §2).
//!
//! A nonce is never used twice: the key belongs to one pack, a builder gives every number out once, and a
//! [`SealSlot`] is used up by sealing.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use polder_types::{CHUNK_BYTES_MAX, ChunkId, PackId, ShareId};

use crate::compress::decompress;
use crate::pack::VERSION;
use crate::{
    ChunkIdKey, ChunkLocation, ChunkSlot, Compression, KeyError, OpenError, PackRef, Scratch, SealError,
    ShareKeys, VerifiedChunk,
};

/// By how much a stored chunk is longer than its (compressed) bytes: the tag of GCM.
pub const SEAL_OVERHEAD_BYTES: u32 = 16;

const LABEL: &[u8] = b"polder pack key v1";
const TAG: usize = SEAL_OVERHEAD_BYTES as usize;
const DOMAIN_CHUNK: u8 = 0;
const DOMAIN_FOOTER: u8 = 1;

/// The key of one pack. Seals and opens its chunks from any number of threads.
pub struct PackKey {
    share: ShareId,
    pack: PackRef,
    aead: LessSafeKey,
    ids: ChunkIdKey,
}

impl std::fmt::Debug for PackKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PackKey(pack {})", self.pack.id)
    }
}

/// Leave to seal one chunk under one number. Used up by [`PackKey::seal`].
#[derive(Debug, PartialEq, Eq)]
pub struct SealSlot {
    pub(crate) pack: PackId,
    pub(crate) number: u32,
    pub(crate) id: ChunkId,
    pub(crate) raw_bytes: u32,
}

/// A chunk as it is stored, read back and found good.
#[derive(Debug)]
pub struct SealedChunk {
    pub(crate) slot: SealSlot,
    pub(crate) compression: Compression,
    pub(crate) bytes: Vec<u8>,
}

impl ShareKeys {
    /// The key of a pack of this share.
    pub fn pack_key(&self, pack: PackRef) -> Result<PackKey, KeyError> {
        let generation = self.generation_key(pack.generation)?;
        let key = blake3::keyed_hash(generation, &[LABEL, &pack.nonce.0].concat());
        let aead =
            LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key.as_bytes()).expect("the key has 32 bytes"));
        Ok(PackKey { share: self.share(), pack, aead, ids: self.chunk_ids() })
    }

    /// Opens one chunk of which only the location is known: [`Self::pack_key`] and [`PackKey::open`] in one.
    pub fn open_chunk(
        &self,
        id: ChunkId,
        location: &ChunkLocation,
        sealed: &[u8],
        scratch: &mut Scratch,
    ) -> Result<VerifiedChunk, OpenError> {
        self.pack_key(location.pack)?.open(id, &location.slot, sealed, scratch)
    }
}

impl PackKey {
    /// Which pack.
    pub fn pack(&self) -> PackRef {
        self.pack
    }

    /// Whose pack.
    pub fn share(&self) -> ShareId {
        self.share
    }

    /// Decrypts, decompresses, and compares the hash: bytes that fail any of it are not handed on.
    pub fn open(
        &self,
        id: ChunkId,
        slot: &ChunkSlot,
        sealed: &[u8],
        scratch: &mut Scratch,
    ) -> Result<VerifiedChunk, OpenError> {
        let body = self.check_lengths(id, slot, sealed)?;
        let mut plain = vec![0; slot.raw_bytes as usize];
        match slot.compression {
            Compression::None => self.decrypt(id, slot, sealed, &mut plain)?,
            Compression::Zstd => {
                let (opened, _, codec) = scratch.parts();
                opened.resize(body, 0);
                self.decrypt(id, slot, sealed, opened)?;
                decompress(codec, opened, &mut plain).ok_or(OpenError::Compression { id })?;
            }
        }
        self.ids.verify(id, plain)
    }

    /// Seals one chunk in the slot that its pack's builder reserved for it, and reads it back.
    pub fn seal(&self, slot: SealSlot, raw: &[u8], scratch: &mut Scratch) -> Result<SealedChunk, SealError> {
        if slot.pack != self.pack.id {
            return Err(SealError::OtherPack(slot.pack));
        }
        let mut bytes = Vec::with_capacity(raw.len() + TAG);
        let compression = self.seal_into(&slot, raw, scratch, &mut bytes)?;
        bytes.shrink_to_fit();
        Ok(SealedChunk { slot, compression, bytes })
    }

    /// Appends the sealed chunk to `out`, which is as before when it fails.
    pub(crate) fn seal_into(
        &self,
        slot: &SealSlot,
        raw: &[u8],
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
    ) -> Result<Compression, SealError> {
        let raw_bytes = u32::try_from(raw.len()).unwrap_or(u32::MAX);
        if !(1..=CHUNK_BYTES_MAX).contains(&raw_bytes) || raw_bytes != slot.raw_bytes {
            return Err(SealError::Size(raw.len() as u64));
        }
        let start = out.len();
        let compression = match scratch.compress(raw) {
            Some(packed) => {
                out.extend_from_slice(packed);
                Compression::Zstd
            }
            None => {
                out.extend_from_slice(raw);
                Compression::None
            }
        };
        let aad = self.chunk_aad(slot.id, raw_bytes, compression);
        let tag = self
            .aead
            .seal_in_place_separate_tag(nonce(DOMAIN_CHUNK, slot.number), Aad::from(aad), &mut out[start..])
            .expect("sealing fails only beyond 64 GiB");
        out.extend_from_slice(tag.as_ref());
        // Promise I9: memory and compressors err, so nothing is uploaded that was not decoded and hashed once more.
        let stored = &out[start..];
        let placed = ChunkSlot {
            number: slot.number,
            offset: 0,
            stored_bytes: u32::try_from(stored.len()).expect("not longer than the chunk and its tag"),
            raw_bytes,
            compression,
        };
        if let Err(error) = self.read_back(slot.id, &placed, stored, scratch) {
            out.truncate(start);
            return Err(SealError::ReadBack(error));
        }
        Ok(compression)
    }

    /// As [`Self::open`], into buffers that are kept.
    fn read_back(
        &self,
        id: ChunkId,
        slot: &ChunkSlot,
        sealed: &[u8],
        scratch: &mut Scratch,
    ) -> Result<(), OpenError> {
        let body = self.check_lengths(id, slot, sealed)?;
        let (opened, unpacked, codec) = scratch.parts();
        opened.resize(body, 0);
        self.decrypt(id, slot, sealed, opened)?;
        let plain = match slot.compression {
            Compression::None => opened,
            Compression::Zstd => {
                unpacked.resize(slot.raw_bytes as usize, 0);
                decompress(codec, opened, unpacked).ok_or(OpenError::Compression { id })?;
                unpacked
            }
        };
        if self.ids.id(plain) == id { Ok(()) } else { Err(OpenError::WrongBytes { id }) }
    }

    /// Length of the bytes under the seal, when location and bytes agree.
    fn check_lengths(&self, id: ChunkId, slot: &ChunkSlot, sealed: &[u8]) -> Result<usize, OpenError> {
        let (wanted, found) = (u64::from(slot.stored_bytes), sealed.len() as u64);
        if slot.ensure_valid().is_err() || wanted != found {
            return Err(OpenError::Length { id, wanted, found });
        }
        Ok(sealed.len() - TAG)
    }

    fn decrypt(&self, id: ChunkId, slot: &ChunkSlot, sealed: &[u8], out: &mut [u8]) -> Result<(), OpenError> {
        let (body, tag) = sealed.split_at(sealed.len() - TAG);
        let aad = self.chunk_aad(id, slot.raw_bytes, slot.compression);
        self.aead
            .open_separate_gather(nonce(DOMAIN_CHUNK, slot.number), Aad::from(aad), body, tag, out)
            .map_err(|_| OpenError::Damaged { id })
    }

    pub(crate) fn seal_footer(&self, aad: &[u8], plain: &mut Vec<u8>) {
        self.aead
            .seal_in_place_append_tag(nonce(DOMAIN_FOOTER, 0), Aad::from(aad), plain)
            .expect("sealing fails only beyond 64 GiB");
    }

    pub(crate) fn open_footer<'a>(&self, aad: &[u8], sealed: &'a mut [u8]) -> Option<&'a [u8]> {
        let opened = self.aead.open_in_place(nonce(DOMAIN_FOOTER, 0), Aad::from(aad), sealed);
        opened.ok().map(|plain| &*plain)
    }

    fn chunk_aad(&self, id: ChunkId, raw_bytes: u32, compression: Compression) -> [u8; 70] {
        let mut aad = [0; 70];
        aad[0] = VERSION;
        aad[1..17].copy_from_slice(&self.share.0);
        aad[17..33].copy_from_slice(&self.pack.id.0);
        aad[33..65].copy_from_slice(&id.0);
        aad[65..69].copy_from_slice(&raw_bytes.to_le_bytes());
        aad[69] = compression.code();
        aad
    }
}

fn nonce(domain: u8, number: u32) -> Nonce {
    let mut bytes = [0; 12];
    bytes[0] = domain;
    bytes[4..].copy_from_slice(&u64::from(number).to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}
