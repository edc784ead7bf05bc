//! Where a chunk lies: all that is needed to fetch and open it by one range request (`docs/formats/pack.md` §3).

use std::ops::Range;

use polder_types::{CHUNK_BYTES_MAX, DecodeError, PackId, Reader, Writer};

use crate::keys::array;
use crate::{KeyGeneration, PACK_BYTES_MAX, SEAL_OVERHEAD_BYTES};

const FORMAT: u8 = 1;

/// Random bytes of which a pack's key is made. Fresh for every pack that is built, also on a retry.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackNonce(pub [u8; 32]);

impl std::fmt::Debug for PackNonce {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What a reader with the share's keys must know of a pack. Nothing here is secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PackRef {
    /// Which pack.
    pub id: PackId,
    /// The generation of the share's key that sealed it.
    pub generation: KeyGeneration,
    /// What its own key is made of.
    pub nonce: PackNonce,
}

/// How a chunk's bytes are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// As they are.
    None,
    /// One zstd frame.
    Zstd,
}

/// The place of a chunk in its pack. A slot that exists is sound: see [`ChunkSlot::new`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChunkSlot {
    /// The chunk's number, which is its nonce; not its place.
    pub number: u32,
    /// Offset of its sealed bytes in the pack.
    pub offset: u32,
    /// Length of its sealed bytes.
    pub stored_bytes: u32,
    /// Length of its plain bytes.
    pub raw_bytes: u32,
    /// How it is stored.
    pub compression: Compression,
}

/// Pack and place of one chunk; the share and the chunk's id are known to whoever asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChunkLocation {
    /// The pack.
    pub pack: PackRef,
    /// The place in it.
    pub slot: ChunkSlot,
}

impl Compression {
    /// The byte in formats.
    pub fn code(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Zstd => 1,
        }
    }

    /// Reads [`Self::code`].
    pub fn from_code(code: u8) -> Result<Self, DecodeError> {
        match code {
            0 => Ok(Self::None),
            1 => Ok(Self::Zstd),
            _ => Err(DecodeError::Bad("compression")),
        }
    }
}

impl PackRef {
    /// Appends the bytes.
    pub fn encode(&self, out: &mut Writer) {
        out.raw(&self.id.0).number(self.generation.0.into()).raw(&self.nonce.0);
    }

    /// Reads [`Self::encode`].
    pub fn decode(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let id = PackId(array(from)?);
        let generation = number(from, "key generation")?;
        Ok(Self { id, generation: KeyGeneration(generation), nonce: PackNonce(array(from)?) })
    }
}

impl ChunkSlot {
    /// A slot, when its fields agree with each other and with the bounds of a pack. For rows of a database and messages
    /// that carry the fields one by one.
    pub fn new(
        number: u32,
        offset: u32,
        stored_bytes: u32,
        raw_bytes: u32,
        compression: Compression,
    ) -> Result<Self, DecodeError> {
        let slot = Self { number, offset, stored_bytes, raw_bytes, compression };
        slot.ensure_valid()?;
        Ok(slot)
    }

    /// Checks that the fields agree.
    pub fn ensure_valid(&self) -> Result<(), DecodeError> {
        let plain = self.raw_bytes.saturating_add(SEAL_OVERHEAD_BYTES);
        let fits = match self.compression {
            Compression::None => self.stored_bytes == plain,
            Compression::Zstd => self.stored_bytes > SEAL_OVERHEAD_BYTES && self.stored_bytes < plain,
        };
        let end = u64::from(self.offset) + u64::from(self.stored_bytes);
        let bounded = (1..=CHUNK_BYTES_MAX).contains(&self.raw_bytes) && end <= PACK_BYTES_MAX;
        if fits && bounded { Ok(()) } else { Err(DecodeError::Bad("place of a chunk")) }
    }

    /// The bytes of the pack to ask for.
    pub fn range(&self) -> Range<u64> {
        let start = u64::from(self.offset);
        start..start + u64::from(self.stored_bytes)
    }

    /// Appends the bytes.
    pub fn encode(&self, out: &mut Writer) {
        out.number(self.number.into()).number(self.offset.into());
        self.encode_lengths(out);
    }

    /// Reads [`Self::encode`].
    pub fn decode(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let chunk = number(from, "chunk number")?;
        let offset = number(from, "offset")?;
        Self::decode_lengths(from, chunk, offset)
    }

    /// The part that a footer shares with a location.
    pub(crate) fn encode_lengths(&self, out: &mut Writer) {
        out.number(self.raw_bytes.into()).byte(self.compression.code());
        if self.compression != Compression::None {
            out.number(self.stored_bytes.into());
        }
    }

    pub(crate) fn decode_lengths(
        from: &mut Reader<'_>,
        chunk: u32,
        offset: u32,
    ) -> Result<Self, DecodeError> {
        let raw_bytes = number(from, "length")?;
        let compression = Compression::from_code(from.byte()?)?;
        let stored_bytes = match compression {
            Compression::None => raw_bytes.saturating_add(SEAL_OVERHEAD_BYTES),
            Compression::Zstd => number(from, "length")?,
        };
        Self::new(chunk, offset, stored_bytes, raw_bytes, compression)
    }
}

impl ChunkLocation {
    /// The bytes, about 62 of them.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.byte(FORMAT);
        self.pack.encode(&mut out);
        self.slot.encode(&mut out);
        out.finish()
    }

    /// Reads [`Self::encode`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut from = Reader::new(bytes);
        match from.byte()? {
            FORMAT => (),
            other => return Err(DecodeError::Version(other)),
        }
        let location = Self { pack: PackRef::decode(&mut from)?, slot: ChunkSlot::decode(&mut from)? };
        from.end()?;
        Ok(location)
    }
}

pub(crate) fn number(from: &mut Reader<'_>, what: &'static str) -> Result<u32, DecodeError> {
    u32::try_from(from.number()?).map_err(|_| DecodeError::Bad(what))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_location_survives_its_bytes(
            id: [u8; 16], nonce: [u8; 32], generation: u32, number: u32, offset in 0u32..30_000_000, raw in 2u32..600_000, zstd: bool,
        ) {
            let (stored, compression) =
                if zstd { (raw / 2 + 16, Compression::Zstd) } else { (raw + 16, Compression::None) };
            let slot = ChunkSlot::new(number, offset, stored, raw, compression).expect("sound");
            let pack = PackRef { id: PackId(id), generation: KeyGeneration(generation), nonce: PackNonce(nonce) };
            let location = ChunkLocation { pack, slot };
            prop_assert_eq!(ChunkLocation::decode(&location.encode()), Ok(location));
        }

        #[test]
        fn whatever_decodes_encodes_to_the_same_bytes(rest in prop::collection::vec(any::<u8>(), 0..90)) {
            let bytes = [&[FORMAT][..], &rest].concat();
            if let Ok(location) = ChunkLocation::decode(&bytes) {
                prop_assert_eq!(location.encode(), bytes);
            }
        }
    }

    #[test]
    fn lengths_that_do_not_agree_are_refused() {
        let cases = [
            (0, 0, 16, 0, Compression::None),
            (0, 0, 100, 100, Compression::None),
            (0, 0, 116, 100, Compression::Zstd),
            (0, 0, 16, 100, Compression::Zstd),
            (0, u32::MAX, 116, 100, Compression::None),
            (0, 0, u32::MAX, u32::MAX, Compression::None),
        ];
        for (number, offset, stored, raw, compression) in cases {
            assert!(
                ChunkSlot::new(number, offset, stored, raw, compression).is_err(),
                "{offset} {stored} {raw}"
            );
        }
    }
}
