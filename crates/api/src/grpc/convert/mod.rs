//! Messages to values and back. Decoding is where everything from outside is bounded and checked: what these
//! functions return holds every invariant of its type.

mod assignment;
mod commit;
mod feed;
mod places;
mod status;
mod tiering;

use std::fmt;

use polder_types::{
    Attrs, ChunkId, Content, Cursor, DecodeError, Epoch, Name, NameError, NodeUid, Placed, Seq, Tag,
    Timestamp,
};

use super::{Reason, limits, pb};

pub use assignment::{Assignment, Brake, Filters, InitialDownload, InitialUpload};
pub use commit::{
    CommitOutcome, OfferedBatch, decode_commit, decode_kept, decode_opening, decode_reply, encode_answer,
    encode_commit, encode_kept, encode_opening,
};
pub use feed::{BadRow, FeedDecoder, FeedEncoder, FeedPage, FeedRow, LiveRow};
pub use places::{
    ChunkPlace, PackPlace, decode_chunk_ids, decode_have, decode_located, encode_chunk_ids, encode_have,
};
pub use status::{ensure_status, pin, tiering_status};
pub use tiering::{NewFiles, ProgramAction, ProgramRule, TierAction, TierRule, Tiering};

/// Why a message was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadMessage {
    /// A field that must be there is not.
    #[error("the field \"{0}\" is missing")]
    Missing(&'static str),
    /// A value is out of its range.
    #[error("the field \"{0}\" is out of range")]
    Range(&'static str),
    /// A list or text is longer than its bound.
    #[error("the field \"{field}\" has {len} entries or bytes, of at most {len_max}")]
    TooLong {
        /// Which field.
        field: &'static str,
        /// How long it is.
        len: usize,
        /// How long it may be.
        len_max: usize,
    },
    /// Bytes that are no name: the sender is not to be trusted with anything else either.
    #[error("the field \"{field}\" is no name")]
    Name {
        /// Which field.
        field: &'static str,
        /// Why.
        #[source]
        source: NameError,
    },
    /// Bytes in a format of `docs/formats/` that cannot be read.
    #[error("the field \"{field}\" cannot be read")]
    Bytes {
        /// Which field.
        field: &'static str,
        /// Why.
        #[source]
        source: DecodeError,
    },
}

impl BadMessage {
    /// As the answer to a call, with its causes.
    pub fn status(&self) -> tonic::Status {
        Reason::BadMessage.status(Chain(self).to_string())
    }
}

/// Shows an error with its causes, joined by colons.
struct Chain<'a>(&'a dyn std::error::Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

/// Largest sequence number: 63 bits.
const SEQ_MAX: u64 = i64::MAX as u64;

/// A number of which 0 means that there is none.
fn some(value: u64) -> Option<u64> {
    Some(value).filter(|value| *value > 0)
}

/// An id of a fixed length; the error names the field. Works for every `polder_types` id:
/// `id(&bytes, "share_id", ShareId::from_slice)`.
pub fn id<T>(
    bytes: &[u8],
    field: &'static str,
    parse: impl FnOnce(&[u8]) -> Option<T>,
) -> Result<T, BadMessage> {
    if bytes.is_empty() {
        Err(BadMessage::Missing(field))
    } else {
        parse(bytes).ok_or(BadMessage::Range(field))
    }
}

/// An id whose absence means [`polder_types::InstanceId::ZERO`] and its like.
pub fn id_or_zero<T>(
    bytes: &[u8],
    field: &'static str,
    zero: T,
    parse: impl FnOnce(&[u8]) -> Option<T>,
) -> Result<T, BadMessage> {
    if bytes.is_empty() { Ok(zero) } else { parse(bytes).ok_or(BadMessage::Range(field)) }
}

/// 16 bytes: nonces and openings.
pub fn nonce16(bytes: &[u8], field: &'static str) -> Result<[u8; 16], BadMessage> {
    id(bytes, field, |bytes| bytes.try_into().ok())
}

/// Checks the length of a list, a text or bytes.
pub fn at_most(len: usize, len_max: usize, field: &'static str) -> Result<(), BadMessage> {
    if len <= len_max { Ok(()) } else { Err(BadMessage::TooLong { field, len, len_max }) }
}

/// A cursor; an absent one is that of an empty history.
pub fn cursor(from: Option<&pb::Cursor>) -> Result<Cursor, BadMessage> {
    let Some(from) = from else { return Ok(Cursor::default()) };
    Ok(Cursor { epoch: Epoch(from.epoch), seq: seq(from.seq, "seq")?, tag: Tag(from.tag) })
}

impl From<Cursor> for pb::Cursor {
    fn from(from: Cursor) -> Self {
        Self { epoch: from.epoch.0, seq: from.seq.0, tag: from.tag.0 }
    }
}

fn seq(from: u64, field: &'static str) -> Result<Seq, BadMessage> {
    if from <= SEQ_MAX { Ok(Seq(from)) } else { Err(BadMessage::Range(field)) }
}

fn time(s: i64, ns: u32) -> Result<Timestamp, BadMessage> {
    if ns < 1_000_000_000 { Ok(Timestamp::new(s, ns)) } else { Err(BadMessage::Range("mtime_ns")) }
}

fn name(bytes: &[u8], field: &'static str) -> Result<Name, BadMessage> {
    Name::parse(bytes).map_err(|source| BadMessage::Name { field, source })
}

fn placed(parent: &[u8], bytes: &[u8]) -> Result<Placed, BadMessage> {
    Ok(Placed { parent: id(parent, "parent", NodeUid::from_slice)?, name: name(bytes, "name")? })
}

fn content(bytes: &[u8]) -> Result<Content, BadMessage> {
    Content::decode(bytes).map_err(|source| BadMessage::Bytes { field: "content", source })
}

fn attrs(bytes: &[u8]) -> Result<Attrs, BadMessage> {
    Attrs::decode(bytes).map_err(|source| BadMessage::Bytes { field: "attrs", source })
}

/// A text for people or a short word, bounded.
pub fn text(from: String, field: &'static str) -> Result<String, BadMessage> {
    at_most(from.len(), limits::TEXT_BYTES_MAX, field)?;
    Ok(from)
}

/// Ids of chunks, one after the other.
fn chunk_ids(bytes: &[u8], count_max: usize, field: &'static str) -> Result<Vec<ChunkId>, BadMessage> {
    at_most(bytes.len() / ChunkId::LEN, count_max, field)?;
    let ids = bytes.chunks(ChunkId::LEN).map(|id| ChunkId::from_slice(id).ok_or(BadMessage::Range(field)));
    ids.collect()
}

#[cfg(test)]
mod tests;
