//! The keys of one share: one for ids that never rotates, and generations for sealing.
//!
//! Secrets are held in plain memory and never printed. They are not wiped on drop: an agent holds them as long as it runs.

use std::collections::BTreeMap;
use std::fmt;

use polder_types::{DecodeError, Reader, ShareId, Writer};

use crate::{ChunkIdKey, ChunkRules, KeyError};

const FORMAT: u8 = 1;
const SEED_CONTEXT: &str = "polder 2026-11-23 chunker seed v1";
const GENERATIONS_MAX: usize = 1024;

/// Largest encoding of share keys.
pub const SHARE_KEYS_BYTES_MAX: usize = 64 + GENERATIONS_MAX * 40;

/// Number of a sealing key of a share; a new one begins when a server is revoked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyGeneration(pub u32);

impl fmt::Display for KeyGeneration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Keys of a share (`docs/formats/pack.md` §2). There is always at least one generation.
#[derive(Clone, PartialEq, Eq)]
pub struct ShareKeys {
    share: ShareId,
    id_key: [u8; 32],
    generations: BTreeMap<KeyGeneration, [u8; 32]>,
}

impl fmt::Debug for ShareKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ShareKeys(share {}, generation {})", self.share, self.current())
    }
}

impl ShareKeys {
    /// Keys of a new share, with generation 1. Both arguments are fresh random bytes.
    pub fn new(share: ShareId, id_key: [u8; 32], first: [u8; 32]) -> Self {
        Self { share, id_key, generations: BTreeMap::from([(KeyGeneration(1), first)]) }
    }

    /// Whose keys they are.
    pub fn share(&self) -> ShareId {
        self.share
    }

    /// The generation that new packs are sealed with.
    pub fn current(&self) -> KeyGeneration {
        *self.generations.last_key_value().expect("there is always a generation").0
    }

    /// The generations at hand, oldest first.
    pub fn generations(&self) -> impl Iterator<Item = KeyGeneration> + '_ {
        self.generations.keys().copied()
    }

    /// Begins a generation with fresh random bytes; it is the current one from now on.
    pub fn add_generation(&mut self, key: [u8; 32]) -> Result<KeyGeneration, KeyError> {
        let last = self.current();
        let next = last.0.checked_add(1).map(KeyGeneration);
        let next = next.filter(|_| self.generations.len() < GENERATIONS_MAX);
        let next = next.ok_or(KeyError::BadGeneration(last))?;
        self.generations.insert(next, key);
        Ok(next)
    }

    /// Drops a generation with which no pack is sealed any more. The current one stays.
    pub fn forget_generation(&mut self, generation: KeyGeneration) -> Result<(), KeyError> {
        if generation == self.current() {
            return Err(KeyError::BadGeneration(generation));
        }
        self.generations.remove(&generation).map(drop).ok_or(KeyError::NoGeneration(generation))
    }

    /// What names this share's chunks.
    pub fn chunk_ids(&self) -> ChunkIdKey {
        ChunkIdKey::derive(&self.id_key)
    }

    /// Version 1 of the chunker with this share's seed. Made once and cloned; the tables are shared.
    pub fn chunk_rules(&self) -> ChunkRules {
        let seed = blake3::derive_key(SEED_CONTEXT, &self.id_key);
        ChunkRules::v1(u64::from_le_bytes(seed[..8].try_into().expect("eight bytes")))
    }

    pub(crate) fn generation_key(&self, generation: KeyGeneration) -> Result<&[u8; 32], KeyError> {
        self.generations.get(&generation).ok_or(KeyError::NoGeneration(generation))
    }

    /// The keys in the clear, for a peer that may have them, over a connection that nobody else reads.
    pub fn to_secret_bytes(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.byte(FORMAT).raw(&self.share.0).raw(&self.id_key).number(self.generations.len() as u64);
        for (generation, key) in &self.generations {
            out.number(generation.0.into()).raw(key);
        }
        out.finish()
    }

    /// Reads [`Self::to_secret_bytes`].
    pub fn from_secret_bytes(bytes: &[u8]) -> Result<Self, KeyError> {
        let mut from = Reader::new(bytes);
        match from.byte()? {
            FORMAT => (),
            other => return Err(DecodeError::Version(other).into()),
        }
        let share = ShareId(array(&mut from)?);
        let id_key = array(&mut from)?;
        let count = from.number()?;
        if count == 0 || count > GENERATIONS_MAX as u64 {
            return Err(DecodeError::Bad("number of key generations").into());
        }
        let mut generations = BTreeMap::new();
        for _ in 0..count {
            let generation = u32::try_from(from.number()?).map_err(|_| DecodeError::Bad("key generation"))?;
            let generation = KeyGeneration(generation);
            if generations.last_key_value().is_some_and(|(last, _)| *last >= generation) {
                return Err(DecodeError::Bad("order of key generations").into());
            }
            generations.insert(generation, array(&mut from)?);
        }
        from.end()?;
        Ok(Self { share, id_key, generations })
    }
}

/// The next `N` bytes.
pub(crate) fn array<const N: usize>(from: &mut Reader<'_>) -> Result<[u8; N], DecodeError> {
    from.raw(N).map(|bytes| bytes.try_into().expect("as many bytes as were asked for"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> ShareKeys {
        ShareKeys::new(ShareId([1; 16]), [2; 32], [3; 32])
    }

    #[test]
    fn generations_come_and_go() {
        let mut keys = keys();
        assert_eq!(keys.forget_generation(KeyGeneration(1)), Err(KeyError::BadGeneration(KeyGeneration(1))));
        let before = (keys.chunk_ids().id(b"x"), keys.current());
        assert_eq!(keys.add_generation([4; 32]), Ok(KeyGeneration(2)));
        assert_eq!((keys.chunk_ids().id(b"x"), keys.current()), (before.0, KeyGeneration(2)));
        assert_eq!(ShareKeys::from_secret_bytes(&keys.to_secret_bytes()), Ok(keys.clone()));
        assert_eq!(keys.forget_generation(KeyGeneration(1)), Ok(()));
        assert_eq!(keys.generations().collect::<Vec<_>>(), [KeyGeneration(2)]);
        assert_eq!(keys.add_generation([5; 32]), Ok(KeyGeneration(3)));
    }

    #[test]
    fn bad_bytes_are_refused() {
        let good = keys().to_secret_bytes();
        for cut in 0..good.len() {
            assert!(ShareKeys::from_secret_bytes(&good[..cut]).is_err(), "cut at {cut}");
        }
        let mut none = good[..49].to_vec();
        none.push(0);
        assert!(ShareKeys::from_secret_bytes(&none).is_err());
        assert!(ShareKeys::from_secret_bytes(&[&good[..], &[0]].concat()).is_err());
        assert!(good.len() <= SHARE_KEYS_BYTES_MAX);
    }

    #[test]
    fn nothing_secret_is_printed() {
        let text = format!("{:?} {:?}", keys(), keys().chunk_ids());
        assert!(!text.contains("0202") && !text.contains("[2") && !text.contains(", 2"), "{text}");
    }
}
