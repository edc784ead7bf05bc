//! A file's bytes on their way out: verified chunk by chunk, a few fetched ahead, never more than those in memory.
//!
//! A failure in the middle breaks the connection: the length was announced, so the caller sees a short file as an error.

use std::ops::Range;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use polder_api::rest::At;
use polder_chunk::{ExtentWalk, VerifiedChunk, WalkStep};
use polder_types::{ChunkId, Content, ExtentSource, Kind, NodeState, Seq, ShareId};

use super::open::{moment, node_at};
use super::params::Params;
use super::tree::Place;
use super::{Rest, RestError};

/// Chunks that are fetched at the same time: at 512 KiB each, some 4 MiB a request.
const FETCHES_MAX: usize = 8;
/// A hole is sent in pieces of this.
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// A part of a file to be sent.
enum Part {
    Zeros(u64),
    Chunk { id: ChunkId, range: Range<usize> },
}

/// Reads the files of one share.
#[derive(Clone)]
pub struct ChunkReader {
    rest: Rest,
    share: ShareId,
}

impl ChunkReader {
    /// For one share.
    pub fn new(rest: &Rest, share: ShareId) -> Self {
        Self { rest: rest.clone(), share }
    }

    /// A chunk, checked against its id.
    pub async fn chunk(&self, id: ChunkId) -> Result<VerifiedChunk, RestError> {
        Ok(self.rest.host.chunk(self.share, id).await?)
    }

    /// The bytes of `range` of a content.
    fn stream(
        self,
        content: &Content,
        range: Range<u64>,
    ) -> Result<impl Stream<Item = Result<Bytes, RestError>> + Send + use<>, RestError> {
        let walk = ExtentWalk::range(content, range.clone())
            .map_err(|source| RestError::internal("read the extents of a file", source))?;
        let reader = self.clone();
        let parts = stream::try_unfold((walk, reader, range), |(mut walk, reader, range)| async move {
            let part = next_part(&mut walk, &reader, &range).await?;
            Ok::<_, RestError>(part.map(|part| (part, (walk, reader, range))))
        });
        let bytes = parts.map(move |part| {
            let reader = self.clone();
            async move { reader.bytes_of(part?).await }
        });
        Ok(bytes.buffered(FETCHES_MAX).map(flatten).flatten())
    }

    async fn bytes_of(&self, part: Part) -> Result<Sent, RestError> {
        Ok(match part {
            Part::Zeros(len) => Sent::Zeros(len),
            Part::Chunk { id, range } => {
                let bytes = Bytes::from(self.chunk(id).await?.into_bytes());
                let fail =
                    || RestError::internal("read a file", format!("chunk {id} is shorter than its extent"));
                if range.end > bytes.len() {
                    return Err(fail());
                }
                Sent::Bytes(bytes.slice(range))
            }
        })
    }
}

enum Sent {
    Zeros(u64),
    Bytes(Bytes),
}

fn flatten(sent: Result<Sent, RestError>) -> impl Stream<Item = Result<Bytes, RestError>> + Send {
    let (first, zeros) = match sent {
        Ok(Sent::Bytes(bytes)) => (Some(Ok(bytes)), 0),
        Ok(Sent::Zeros(len)) => (None, len),
        Err(error) => (Some(Err(error)), 0),
    };
    let zeros = stream::unfold(zeros, |left| async move {
        let len = left.min(ZEROS.len() as u64);
        (len > 0).then(|| (Ok(Bytes::from_static(&ZEROS[..len as usize])), left - len))
    });
    stream::iter(first).chain(zeros)
}

/// The next part of the wanted range; nodes of the tree are fetched on the way.
async fn next_part(
    walk: &mut ExtentWalk,
    reader: &ChunkReader,
    range: &Range<u64>,
) -> Result<Option<Part>, RestError> {
    loop {
        match walk.step() {
            None => return Ok(None),
            Some(WalkStep::Node { id, .. }) => {
                let node = reader.chunk(id).await?;
                walk.supply(&node)
                    .map_err(|source| RestError::internal("read the extents of a file", source))?;
            }
            Some(WalkStep::Extent { offset, extent }) => {
                let start = range.start.max(offset) - offset;
                let end = range.end.min(offset + extent.len) - offset;
                return Ok(Some(match extent.source {
                    ExtentSource::Hole => Part::Zeros(end - start),
                    ExtentSource::Chunk { id, skip } => {
                        let at = |place: u64| place as usize + skip as usize;
                        Part::Chunk { id, range: at(start)..at(end) }
                    }
                }));
            }
        }
    }
}

/// The one range that a request names, of a file of `size` bytes. `None`: the whole file, also where several ranges
/// or another unit are asked for, as RFC 9110 allows.
pub fn wanted_range(headers: &HeaderMap, size: u64) -> Result<Option<Range<u64>>, RestError> {
    let Some(text) = headers.get(header::RANGE).and_then(|value| value.to_str().ok()) else {
        return Ok(None);
    };
    let Some(spec) = text.trim().strip_prefix("bytes=").filter(|spec| !spec.contains(',')) else {
        return Ok(None);
    };
    let Some((first, last)) = spec.trim().split_once('-') else { return Ok(None) };
    let number = |text: &str| -> Option<u64> {
        text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().unwrap_or(u64::MAX))
    };
    let range = match (first, last) {
        ("", "") => return Ok(None),
        ("", last) => match number(last) {
            Some(count) => size.saturating_sub(count)..size,
            None => return Ok(None),
        },
        (first, "") => match number(first) {
            Some(first) => first..size,
            None => return Ok(None),
        },
        (first, last) => match (number(first), number(last)) {
            (Some(first), Some(last)) if first <= last => first..last.saturating_add(1).min(size),
            _ => return Ok(None),
        },
    };
    if range.is_empty() { Err(RestError::Range { size_bytes: size }) } else { Ok(Some(range)) }
}

/// The `ETag` of a version.
pub fn etag(version: Seq) -> String {
    format!("\"{version}\"")
}

/// Whether a list of tags names this version. Weak tags name nothing: versions are exact.
pub fn names_version(tags: &HeaderValue, version: Option<Seq>) -> bool {
    let Ok(text) = tags.to_str() else { return false };
    text.split(',').any(|tag| match tag.trim() {
        "*" => version.is_some(),
        tag => version.is_some_and(|version| tag == etag(version)),
    })
}

pub async fn get(
    State(rest): State<Rest>,
    params: Params,
    Place { share, path }: Place,
    headers: HeaderMap,
) -> Result<Response, RestError> {
    let at: Option<At> = params.get("at")?;
    let share = rest.open(&share).await?;
    let looked = path.clone();
    let node = share.open.read(move |rows| node_at(rows, &looked, moment(rows, at.as_ref())?)).await?;
    if node.content.kind() != Kind::File {
        return Err(RestError::refused_kind("is not a file", &path));
    }
    if headers.get(header::IF_MATCH).is_some_and(|tags| !names_version(tags, Some(node.since))) {
        return Err(RestError::Condition { header: "If-Match" });
    }
    octets(&rest, share.row.id, &node, &headers)
}

/// A version's bytes: all of them, or the range that the request names.
pub fn octets(
    rest: &Rest,
    share: ShareId,
    node: &NodeState,
    headers: &HeaderMap,
) -> Result<Response, RestError> {
    let size = node.content.size();
    let fresh = headers.get(header::IF_RANGE).is_none_or(|tag| names_version(tag, Some(node.since)));
    let range = if fresh { wanted_range(headers, size)? } else { None };
    let status = if range.is_some() { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
    let part = range.clone().unwrap_or(0..size);
    let stream = ChunkReader::new(rest, share).stream(&node.content, part.clone())?;
    let stream = stream.inspect(|sent| {
        if let Err(error) = sent {
            tracing::error!(error = super::error::chain(error), "a file could not be sent to its end");
        }
    });
    let mut answer = (status, axum::body::Body::from_stream(stream)).into_response();
    let mut put = |name, text: String| {
        let value = HeaderValue::from_str(&text).expect("digits and plain signs");
        answer.headers_mut().insert(name, value);
    };
    put(header::CONTENT_TYPE, "application/octet-stream".into());
    put(header::CONTENT_LENGTH, (part.end - part.start).to_string());
    put(header::ETAG, etag(node.since));
    put(header::ACCEPT_RANGES, "bytes".into());
    if range.is_some() {
        put(header::CONTENT_RANGE, format!("bytes {}-{}/{size}", part.start, part.end - 1));
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str, size: u64) -> Result<Option<Range<u64>>, RestError> {
        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, text.parse().expect("a header"));
        wanted_range(&headers, size)
    }

    #[test]
    fn ranges_are_read_as_rfc_9110_has_them() {
        let cases = [
            ("bytes=0-0", Some(0..1)),
            ("bytes=2-", Some(2..10)),
            ("bytes=2-99", Some(2..10)),
            ("bytes=-3", Some(7..10)),
            ("bytes=-99", Some(0..10)),
            ("bytes=9-18446744073709551615", Some(9..10)),
            ("bytes=9-99999999999999999999999", Some(9..10)),
            ("bytes=5-2", None),
            ("bytes=0-1,4-5", None),
            ("bytes=", None),
            ("bytes=-", None),
            ("bytes=a-b", None),
            ("lines=1-2", None),
        ];
        for (text, wanted) in cases {
            assert_eq!(range(text, 10).expect("inside"), wanted, "{text}");
        }
        for text in ["bytes=10-", "bytes=10-12", "bytes=-0"] {
            assert!(matches!(range(text, 10), Err(RestError::Range { size_bytes: 10 })), "{text}");
        }
        assert!(range("bytes=0-0", 0).is_err(), "nothing of an empty file can be asked for");
    }

    #[test]
    fn tags_name_versions() {
        let names = |tags: &'static str, version| names_version(&HeaderValue::from_static(tags), version);
        assert!(
            names("\"7\"", Some(Seq(7))) && names("\"1\", \"7\"", Some(Seq(7))) && names("*", Some(Seq(7)))
        );
        assert!(!names("\"8\"", Some(Seq(7))) && !names("W/\"7\"", Some(Seq(7))) && !names("*", None));
    }
}
