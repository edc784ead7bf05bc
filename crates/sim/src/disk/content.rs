//! Bytes as numbers: whoever writes draws a new one, so that every content can be followed.

use std::sync::Arc;

use polder_types::{Attrs, Body, ChunkId, Content, Extent, ExtentSource};

/// The bytes of a file, as a number.
pub type Token = u64;

/// Marks a token that is nothing but zeros; the rest of it is the length.
const ZEROS: Token = 1 << 63;
/// Marks bytes that were freed, or are not filled in yet; the rest of it is the length. Nobody may ever be shown them.
const FREED: Token = 1 << 62;
/// Marks a file of which some bytes are here and others are not; the rest of it is the length. Nobody may be shown them either.
const PARTIAL: Token = 1 << 61;
/// Marks a token whose bytes are several chunks.
const MANY: Token = 1 << 60;
/// Bytes of such a chunk: none ends where a piece of a recall does.
const CHUNK_BYTES: u64 = 768 * 1024;
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

/// So many bytes that are not here.
pub fn freed(len: u64) -> Token {
    FREED | len
}

/// A file of this length that is not whole.
pub fn partial(len: u64) -> Token {
    PARTIAL | len
}

/// Whether these are bytes that nobody may be shown: freed, or of a file that is not whole.
pub fn is_absent(token: Token) -> bool {
    !is_zeros(token) && token & (FREED | PARTIAL) != 0
}

/// The same number for bytes in several chunks.
pub fn many(token: Token) -> Token {
    token | MANY
}

/// Which of all drawn contents it is.
pub fn number_of(token: Token) -> u64 {
    (token & !MANY) / 1000
}

/// The length of a file. Some are large, so that both lanes are used.
pub fn size_of(token: Token) -> u64 {
    match token {
        zeros if is_zeros(zeros) => zeros & !ZEROS,
        absent if is_absent(absent) => absent & !(FREED | PARTIAL),
        many if many & MANY != 0 => 2 * CHUNK_BYTES + 600 * 1024 + many % 4096,
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

/// The nth chunk of a file's bytes.
fn nth_chunk(token: Token, nth: u8) -> ChunkId {
    let mut id = chunk_of(token);
    id.0[8] = nth;
    id
}

/// Where the bytes of a content begin and end, span by span, and in which chunk they are; in none where they are a hole.
pub fn spans_of(content: &Content) -> Vec<(std::ops::Range<u64>, Option<ChunkId>)> {
    let Content::File { body: Body::Inline(extents), .. } = content else { return Vec::new() };
    let mut at = 0;
    let span = |extent: &Extent| {
        let from = at;
        at += extent.len;
        (from..at, extent.chunk())
    };
    extents.iter().map(span).collect()
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
        token if is_zeros(token) || is_absent(token) => vec![hole(size)],
        token if token & MANY != 0 => {
            let chunk = |nth: u8, len| Extent {
                len,
                source: ExtentSource::Chunk { id: nth_chunk(token, nth), skip: 0 },
            };
            vec![chunk(0, CHUNK_BYTES), chunk(1, CHUNK_BYTES), chunk(2, size - 2 * CHUNK_BYTES)]
        }
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
