//! Bytes to chunks and back: chunker, extent trees, pack format, sealing.
//!
//! The way of a file up: [`ContentBuilder`] cuts bytes into chunks, names them and lists them; [`PackBuilder`] seals
//! those that the share lacks. The way down: [`ExtentWalk`] says which chunks a range needs; [`PackKey::open`] turns
//! sealed bytes into a [`VerifiedChunk`], the only form in which a chunk's bytes can be read.
//!
//! Formats: `docs/formats/content.md` and `docs/formats/pack.md`; golden files in `tests/golden/`.
//!
//! Architecture invariant: this crate does no input or output and draws no random bytes: ids of packs, nonces and keys
//! come in as arguments. Threads are the caller's: sealing is a function of shared keys and a slice.
//!
//! Architecture invariant: no bytes leave here unverified. [`VerifiedChunk`] is made in one place, by comparing the hash.
//!
//! Architecture invariant: nothing here knows a name, a path or a node.

mod builder;
mod cdc;
mod compress;
mod error;
mod ids;
mod keys;
mod location;
mod pack;
mod tree;
mod tree_walk;
mod zeros;

mod content;
mod seal;
mod wrap;

pub use builder::{Pack, PackBuilder, Reserved};
pub use cdc::{
    CHUNK_AVG_BYTES, CHUNK_MAX_BYTES, CHUNK_MIN_BYTES, ChunkRules, Chunker, HOLE_BYTES_MIN, Piece,
};
pub use compress::Scratch;
pub use content::{BuildError, ContentBuilder, NewChunk};
pub use error::{FooterError, KeyError, OpenError, PackError, SealError, TreeError};
pub use ids::{ChunkIdKey, VerifiedChunk};
pub use keys::{KeyGeneration, SHARE_KEYS_BYTES_MAX, ShareKeys};
pub use location::{ChunkLocation, ChunkSlot, Compression, PackNonce, PackRef};
pub use pack::{
    FOOTER_BYTES_MAX, PACK_BYTES_MAX, PACK_CHUNKS_MAX, PACK_DATA_BYTES, PackEntry, PackFooter,
    TAIL_HINT_BYTES, TRAILER_BYTES, Trailer,
};
pub use seal::{PackKey, SEAL_OVERHEAD_BYTES, SealSlot, SealedChunk};
pub use tree::{NODE_BYTES_MAX, NODE_ENTRIES_MAX, TreeBuilder, TreeNode};
pub use tree_walk::{ExtentWalk, WalkStep};
pub use wrap::MasterKey;
