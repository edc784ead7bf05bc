//! The end of a pack: its trailer and its footer (`docs/formats/pack.md` §1), and the check of a whole one.

use std::collections::BTreeSet;

use polder_types::{CHUNK_BYTES_MAX, ChunkId, DecodeError, PackId, Reader, ShareId, Writer};

use crate::keys::array;
use crate::{
    ChunkLocation, ChunkSlot, FooterError, KeyGeneration, OpenError, PackError, PackKey, PackNonce, PackRef,
    Scratch, ShareKeys,
};

/// Sealed chunks that a pack is filled with: 32 MiB.
pub const PACK_DATA_BYTES: u32 = 32 * 1024 * 1024;
/// Most chunks of a pack.
pub const PACK_CHUNKS_MAX: u32 = 32_768;
/// Largest sealed footer: 32,768 entries of at most 32 + 5 + 4 + 1 + 4 bytes are 1.5 MiB.
pub const FOOTER_BYTES_MAX: u32 = 2 * 1024 * 1024;
/// Length of the trailer, the last bytes of a pack.
pub const TRAILER_BYTES: usize = 112;
/// Largest object that is looked at as a pack.
pub const PACK_BYTES_MAX: u64 = PACK_DATA_BYTES as u64 + CHUNK_BYTES_MAX as u64 + FOOTER_BYTES_MAX as u64;
/// A tail of this length holds the whole footer of most packs (some 1,500 chunks).
pub const TAIL_HINT_BYTES: usize = 64 * 1024;

pub(crate) const VERSION: u8 = 1;
const MAGIC: &[u8; 7] = b"PLDPACK";
const FIELDS: usize = 80;
const CHECKED: usize = 104;

/// The last bytes of a pack, in the clear and believed only as far as the unkeyed checksum goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trailer {
    /// Whose pack it says to be.
    pub share: ShareId,
    /// Which pack it says to be.
    pub pack: PackRef,
    /// How many chunks.
    pub chunk_count: u32,
    /// Length of the sealed chunks.
    pub data_bytes: u32,
    /// Length of the sealed footer.
    pub footer_bytes: u32,
}

/// A chunk of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackEntry {
    /// Which chunk.
    pub id: ChunkId,
    /// Where.
    pub slot: ChunkSlot,
}

/// What a genuine pack holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackFooter {
    /// Whose pack.
    pub share: ShareId,
    /// Which pack.
    pub pack: PackRef,
    /// Its chunks in the order of their place. At least one.
    pub entries: Vec<PackEntry>,
    /// Length of the whole object.
    pub object_bytes: u64,
}

impl Trailer {
    /// Length of the whole object.
    pub fn object_bytes(&self) -> u64 {
        u64::from(self.data_bytes) + u64::from(self.footer_bytes) + TRAILER_BYTES as u64
    }

    /// Reads the trailer at the end of `tail`, and checks it and the sealed footer against damage. Needs no key.
    /// `tail` is the end of an object of `object_bytes`.
    pub fn parse(object_bytes: u64, tail: &[u8]) -> Result<Self, FooterError> {
        let at = tail.len().checked_sub(TRAILER_BYTES).filter(|_| object_bytes <= PACK_BYTES_MAX);
        let Some(at) = at else {
            let short = object_bytes >= TRAILER_BYTES as u64 && object_bytes <= PACK_BYTES_MAX;
            return Err(if short { FooterError::NeedTail(TRAILER_BYTES) } else { FooterError::NotAPack });
        };
        let bytes = &tail[at..];
        if &bytes[CHECKED..TRAILER_BYTES - 1] != MAGIC {
            return Err(FooterError::NotAPack);
        }
        if bytes[TRAILER_BYTES - 1] != VERSION {
            return Err(FooterError::Version(bytes[TRAILER_BYTES - 1]));
        }
        let trailer = Self::read_fields(bytes).expect("the length was checked");
        if trailer.object_bytes() != object_bytes || trailer.footer_bytes > FOOTER_BYTES_MAX {
            return Err(FooterError::Bad("length"));
        }
        if !(1..=PACK_CHUNKS_MAX).contains(&trailer.chunk_count) {
            return Err(FooterError::Bad("number of chunks"));
        }
        let need = trailer.footer_bytes as usize + TRAILER_BYTES;
        let footer = tail.len().checked_sub(need).ok_or(FooterError::NeedTail(need))?;
        if bytes[FIELDS..CHECKED] != checksum(&bytes[..FIELDS], &tail[footer..at]) {
            return Err(FooterError::Damaged);
        }
        Ok(trailer)
    }

    fn read_fields(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut from = Reader::new(bytes);
        let share = ShareId(array(&mut from)?);
        let id = PackId(array(&mut from)?);
        let nonce = PackNonce(array(&mut from)?);
        let mut field = || array(&mut from).map(u32::from_le_bytes);
        let generation = KeyGeneration(field()?);
        let (chunk_count, data_bytes, footer_bytes) = (field()?, field()?, field()?);
        Ok(Self { share, pack: PackRef { id, generation, nonce }, chunk_count, data_bytes, footer_bytes })
    }

    fn fields(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.raw(&self.share.0).raw(&self.pack.id.0).raw(&self.pack.nonce.0);
        for field in [self.pack.generation.0, self.chunk_count, self.data_bytes, self.footer_bytes] {
            out.raw(&field.to_le_bytes());
        }
        out.finish()
    }

    fn aad(&self) -> Vec<u8> {
        [&self.fields()[..], MAGIC, &[VERSION]].concat()
    }
}

fn checksum(fields: &[u8], footer: &[u8]) -> [u8; CHECKED - FIELDS] {
    let hash = blake3::Hasher::new().update(fields).update(footer).finalize();
    hash.as_bytes()[..CHECKED - FIELDS].try_into().expect("shorter than a hash")
}

impl PackFooter {
    /// Reads and proves the footer at the end of an object that should be pack `id` of the keys' share. `tail` is the end
    /// of the object, [`TAIL_HINT_BYTES`] or all of it; [`FooterError::NeedTail`] asks for a longer one.
    pub fn parse(keys: &ShareKeys, id: PackId, object_bytes: u64, tail: &[u8]) -> Result<Self, FooterError> {
        let trailer = Trailer::parse(object_bytes, tail)?;
        if trailer.share != keys.share() || trailer.pack.id != id {
            return Err(FooterError::Forged);
        }
        let key = keys.pack_key(trailer.pack)?;
        let end = tail.len() - TRAILER_BYTES;
        let mut sealed = tail[end - trailer.footer_bytes as usize..end].to_vec();
        let plain = key.open_footer(&trailer.aad(), &mut sealed).ok_or(FooterError::Forged)?;
        let entries = decode_entries(&trailer, plain).map_err(|_| FooterError::Bad("list of chunks"))?;
        Ok(Self { share: trailer.share, pack: trailer.pack, entries, object_bytes })
    }

    /// Where each chunk lies.
    pub fn locations(&self) -> impl Iterator<Item = (ChunkId, ChunkLocation)> + '_ {
        self.entries.iter().map(|entry| (entry.id, ChunkLocation { pack: self.pack, slot: entry.slot }))
    }

    /// Checks a whole pack as it came from a store: the footer, and every chunk decrypted, decompressed and hashed.
    /// What passes may be relied on (it is *verified*).
    pub fn verify_pack(
        keys: &ShareKeys,
        id: PackId,
        object: &[u8],
        scratch: &mut Scratch,
    ) -> Result<Self, PackError> {
        let footer = Self::parse(keys, id, object.len() as u64, object)?;
        let key = keys.pack_key(footer.pack).map_err(FooterError::from)?;
        for PackEntry { id, slot } in &footer.entries {
            let sealed = object.get(slot.offset as usize..(slot.offset + slot.stored_bytes) as usize);
            let sealed =
                sealed.ok_or(OpenError::Length { id: *id, wanted: slot.stored_bytes.into(), found: 0 })?;
            key.open(*id, slot, sealed, scratch)?;
        }
        Ok(footer)
    }
}

/// Appends footer and trailer to the sealed chunks.
pub(crate) fn append_end(key: &PackKey, entries: &[PackEntry], object: &mut Vec<u8>) {
    let mut plain = Writer::new();
    for PackEntry { id, slot } in entries {
        plain.raw(&id.0).number(slot.number.into());
        slot.encode_lengths(&mut plain);
    }
    let mut footer = plain.finish();
    let bounded = |len: usize| u32::try_from(len).expect("the builder keeps packs small");
    let trailer = Trailer {
        share: key.share(),
        pack: key.pack(),
        chunk_count: bounded(entries.len()),
        data_bytes: bounded(object.len()),
        footer_bytes: bounded(footer.len()) + crate::SEAL_OVERHEAD_BYTES,
    };
    key.seal_footer(&trailer.aad(), &mut footer);
    let fields = trailer.fields();
    object.extend_from_slice(&footer);
    object.extend_from_slice(&fields);
    object.extend_from_slice(&checksum(&fields, &footer));
    object.extend_from_slice(MAGIC);
    object.push(VERSION);
}

fn decode_entries(trailer: &Trailer, plain: &[u8]) -> Result<Vec<PackEntry>, DecodeError> {
    let mut from = Reader::new(plain);
    let mut entries = Vec::with_capacity(trailer.chunk_count as usize);
    let (mut ids, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    let mut offset = 0u32;
    for _ in 0..trailer.chunk_count {
        let id = ChunkId(array(&mut from)?);
        let number = crate::location::number(&mut from, "chunk number")?;
        let slot = ChunkSlot::decode_lengths(&mut from, number, offset)?;
        offset = offset.checked_add(slot.stored_bytes).ok_or(DecodeError::Bad("length"))?;
        if !ids.insert(id) || !numbers.insert(number) {
            return Err(DecodeError::Bad("repeated chunk"));
        }
        entries.push(PackEntry { id, slot });
    }
    from.end()?;
    if offset == trailer.data_bytes { Ok(entries) } else { Err(DecodeError::Bad("length")) }
}
