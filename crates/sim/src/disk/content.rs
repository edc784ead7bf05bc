//! Bytes as numbers: whoever writes draws a new one, so that every content can be followed.

use std::sync::Arc;

use polder_types::{Attrs, Body, ChunkId, Content, Extent, ExtentSource};

/// The bytes of a file, as a number.
pub type Token = u64;

/// Marks a token that is nothing but zeros; the rest of it is the length.
const ZEROS: Token = 1 << 63;
/// An empty file.
pub const EMPTY: Token = ZEROS;

/// So many zeros and nothing else.
pub fn zeros(len: u64) -> Token {
    ZEROS | len
}

/// Whether a content is nothing but zeros: what a power cut makes of bytes that were never made durable.
pub fn is_zeros(token: Token) -> bool {
    token & ZEROS != 0
}

/// The length of a file. Some are large, so that both lanes are used.
pub fn size_of(token: Token) -> u64 {
    match token {
        zeros if is_zeros(zeros) => zeros & !ZEROS,
        token if token.is_multiple_of(23) => 9 * 1024 * 1024,
        token if token.is_multiple_of(11) => 200 * 1024,
        token => 1 + token % 4096,
    }
}

/// The chunk that holds a file's bytes.
pub fn chunk_of(token: Token) -> ChunkId {
    let mut id = [0u8; 32];
    id[..8].copy_from_slice(&token.to_be_bytes());
    ChunkId(id)
}

/// The bytes that a chunk holds.
pub fn token_in(chunk: ChunkId) -> Token {
    u64::from_be_bytes(chunk.0[..8].try_into().expect("eight of 32 bytes"))
}

/// The content that has these bytes. Some begin with a hole.
pub fn content_of(token: Token) -> Content {
    let size = size_of(token);
    let hole = |len| Extent { len, source: ExtentSource::Hole };
    let bytes = |len| Extent { len, source: ExtentSource::Chunk { id: chunk_of(token), skip: 0 } };
    let extents = match token {
        EMPTY => Vec::new(),
        token if is_zeros(token) => vec![hole(size)],
        token if token.is_multiple_of(11) => vec![hole(128 * 1024), bytes(size - 128 * 1024)],
        _ => vec![bytes(size)],
    };
    Content::File { size, body: Body::Inline(extents) }
}

/// The bytes of a content; `None` for what is no file.
pub fn token_of(content: &Content) -> Option<Token> {
    match content {
        Content::File { size, body: Body::Inline(extents) } => {
            Some(extents.iter().find_map(Extent::chunk).map_or(zeros(*size), token_in))
        }
        _ => None,
    }
}

/// Permissions of a kind that differ by a number.
pub fn attrs(mode: u16) -> Arc<Attrs> {
    Arc::new(Attrs { mode, ..Attrs::default() })
}
