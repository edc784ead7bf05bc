//! What can go wrong, one enum for each operation that callers tell apart. None of these goes away by trying again with
//! the same bytes: a caller fetches them anew, or reports damage.

use polder_types::{ChunkId, DecodeError, PackId, ShareId};

use crate::KeyGeneration;

/// Why share keys could not be read, unwrapped or used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The bytes are not share keys.
    #[error("share keys cannot be read")]
    Decode(#[from] DecodeError),
    /// They are another share's.
    #[error("the keys are those of share {found}, not of {wanted}")]
    OtherShare {
        /// Whose keys were wanted.
        wanted: ShareId,
        /// Whose keys they are.
        found: ShareId,
    },
    /// They were wrapped by another master key.
    #[error("the keys were wrapped by another master key")]
    OtherMaster,
    /// The wrapped bytes are damaged or forged.
    #[error("the wrapped keys are damaged")]
    Damaged,
    /// The pack was sealed with a generation that these keys do not hold.
    #[error("key generation {0} is not at hand")]
    NoGeneration(KeyGeneration),
    /// The newest generation cannot be forgotten, and there is a largest number of them.
    #[error("key generation {0} cannot be added or forgotten")]
    BadGeneration(KeyGeneration),
}

/// Why the bytes of one chunk were not handed on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Location and bytes do not fit each other.
    #[error("chunk {id} has {found} stored bytes, not {wanted}")]
    Length {
        /// Which chunk.
        id: ChunkId,
        /// As its location says.
        wanted: u64,
        /// As they came.
        found: u64,
    },
    /// Damaged, forged, or of another place than the location says.
    #[error("chunk {id} does not open: it is damaged, or its location is wrong")]
    Damaged {
        /// Which chunk.
        id: ChunkId,
    },
    /// Decompression failed or gave another length.
    #[error("chunk {id} does not decompress")]
    Compression {
        /// Which chunk.
        id: ChunkId,
    },
    /// The bytes are not those of the id.
    #[error("the bytes of chunk {id} do not match its hash")]
    WrongBytes {
        /// Which chunk.
        id: ChunkId,
    },
    /// No key for the pack that its location names.
    #[error("read chunk")]
    Key(#[from] KeyError),
}

/// Why a chunk could not be sealed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Empty, or above [`polder_types::CHUNK_BYTES_MAX`].
    #[error("a chunk of {0} bytes cannot be sealed")]
    Size(u64),
    /// The slot was reserved in another pack.
    #[error("the slot belongs to pack {0}")]
    OtherPack(PackId),
    /// What was sealed does not open to bytes of its id: memory or the compressor erred, or the id was wrong. Nothing
    /// was kept of it.
    #[error("what was sealed does not read back")]
    ReadBack(#[source] OpenError),
    /// The pack has no room (see [`crate::PackBuilder::reserve`]).
    #[error("the pack is full")]
    Full,
}

/// Why a pack's end could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FooterError {
    /// The tail must be longer: ask for this many bytes from the end.
    #[error("the last {0} bytes of the pack are needed")]
    NeedTail(usize),
    /// Not a pack, or cut off.
    #[error("the object does not end as a pack")]
    NotAPack,
    /// Written by a newer version.
    #[error("the pack has the unknown version {0}")]
    Version(u8),
    /// A field is out of its range.
    #[error("the pack has a bad {0}")]
    Bad(&'static str),
    /// The unkeyed checksum does not hold: damaged.
    #[error("the end of the pack is damaged")]
    Damaged,
    /// It is whole but does not open: forged, or of another share or pack.
    #[error("the pack's footer is not genuine")]
    Forged,
    /// No key.
    #[error("read footer")]
    Key(#[from] KeyError),
}

/// Why a whole pack did not pass.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PackError {
    /// Its end.
    #[error("read footer")]
    Footer(#[from] FooterError),
    /// One of its chunks.
    #[error("read chunk")]
    Chunk(#[from] OpenError),
}

/// Why an extent tree could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// The chunk is not a node of a tree.
    #[error("chunk {id} is not a node of an extent tree")]
    Decode {
        /// Which chunk.
        id: ChunkId,
        /// How.
        #[source]
        source: DecodeError,
    },
    /// The node lists another number of bytes than its parent says.
    #[error("node {id} lists {found} bytes, not {wanted}")]
    Length {
        /// Which node.
        id: ChunkId,
        /// As its parent says.
        wanted: u64,
        /// As it lists.
        found: u64,
    },
    /// Another chunk was supplied than was asked for.
    #[error("chunk {found} was supplied where {wanted} was asked for")]
    OtherChunk {
        /// Asked for.
        wanted: ChunkId,
        /// Supplied.
        found: ChunkId,
    },
    /// Nothing was asked for.
    #[error("no node was asked for")]
    NotAsked,
    /// The content is not sound.
    #[error("the content is not sound")]
    Content(#[source] DecodeError),
}
