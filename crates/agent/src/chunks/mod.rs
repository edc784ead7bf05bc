//! Chunks of one share, on their way up and down.
//!
//! Up: [`store`] reads files on a few threads, cuts them into chunks and packs those that the share lacks; [`track`]
//! knows which packs a file waits for; [`spare`] keeps their memory. Down: [`fetch`] finds chunks, gets their ranges and opens them. [`remote`] is the
//! service; [`places`] remembers where chunks are.

mod fetch;
#[cfg(all(test, feature = "shuttle"))]
mod orders;
mod pack;
mod places;
mod remote;
mod spare;
mod store;
mod track;

pub(crate) use fetch::{FetchError, Fetcher};
pub(crate) use pack::Packing;
pub(crate) use places::Places;
pub(crate) use remote::{Open, Remote, RemoteError, pack_ref, slot};
pub(crate) use store::{Lanes, Store};

use polder_chunk::{ChunkIdKey, ChunkRules, ShareKeys};

/// What an endpoint knows of its share's chunks.
#[derive(Debug, Clone)]
pub(crate) struct Share {
    /// Keys of the share.
    pub keys: ShareKeys,
    /// What names its chunks.
    pub ids: ChunkIdKey,
    /// How its files are cut.
    pub rules: ChunkRules,
}

impl Share {
    /// From the keys alone: the rest follows.
    pub(crate) fn new(keys: ShareKeys) -> Self {
        Self { ids: keys.chunk_ids(), rules: keys.chunk_rules(), keys }
    }
}

/// Fresh random bytes for ids, nonces and openings.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the kernel gives random bytes");
    bytes
}
