//! The manifest of an endpoint that was removed without a recall: which files are names alone on the server, and which version each stands
//! for. `docs/formats/left-behind.md`.
//!
//! Written line by line, by the agent from the marks on the disk, by the service from the share's rows; read likewise, so that neither side
//! holds a list of a hundred million files.

use std::io::{self, BufRead, Read as _, Write};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use polder_types::{Content, Cursor, EndpointId, Kind, NodeUid, Seq, ServerId, ShareId};
use serde::{Deserialize, Serialize};

use crate::rest::{JsonBytes, JsonPath, ObjectName, PATH_BYTES_MAX, Time};

/// Version of the format.
pub const VERSION: u32 = 1;
/// Longest line that is read: a path of [`PATH_BYTES_MAX`] in base64, and what stands beside it.
const LINE_BYTES_MAX: u64 = PATH_BYTES_MAX as u64 * 4 / 3 + 4096;

/// The first line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// [`VERSION`].
    pub polder_left_behind: u32,
    /// The share that has the bytes.
    pub share: ShareId,
    /// Its name then, for people.
    pub share_name: ObjectName,
    /// The endpoint that was removed.
    pub endpoint: EndpointId,
    /// Its server.
    pub server: ServerId,
    /// The server's name then, for people.
    pub server_name: ObjectName,
    /// The endpoint's folder on the server.
    pub path: JsonBytes,
    /// The nonce in the folder's identity, 32 hexadecimal digits, which all its marks carry. Only the agent knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nonce: Option<String>,
    /// How far the endpoint had applied the share: what its pin holds.
    pub applied: Cursor,
    /// Whether each file of the list was tiered; otherwise each could have been.
    pub known: bool,
    /// When it was made.
    pub made_at: Time,
}

/// A line in between: one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// Where it was, below the endpoint.
    pub path: JsonPath,
    /// The node that has its content in the share.
    pub node: NodeUid,
    /// The version that brought the content to the server; a hint, for a later version of the node may have the same.
    pub since: Seq,
    /// Its size in bytes.
    pub size: u64,
    /// Its modification time.
    pub mtime: Time,
    /// The canonical bytes of its content: base64 as in URLs, without padding.
    pub content: String,
}

/// The last line: without it the list was cut off.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Total {
    /// How many files are listed.
    pub files: u64,
    /// The sum of their sizes.
    pub bytes: u64,
}

/// A content as it stands in a line and in a URL.
pub fn content_text(content: &Content) -> String {
    URL_SAFE_NO_PAD.encode(content.encode())
}

/// Reads [`content_text`]; only a file's content is one here.
pub fn parse_content(text: &str) -> Option<Content> {
    let content = Content::decode(&URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
    (content.kind() == Kind::File).then_some(content)
}

impl Left {
    /// What it stands for; `None` when the line does not say so, or says two things.
    pub fn content(&self) -> Option<Content> {
        parse_content(&self.content).filter(|content| content.size() == self.size)
    }
}

/// Writes a manifest.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    total: Total,
}

impl<W: Write> Writer<W> {
    /// Begins with the first line.
    pub fn begin(out: W, head: &Head) -> io::Result<Self> {
        let mut writer = Self { out, total: Total::default() };
        writer.line(head)?;
        Ok(writer)
    }

    /// Adds a file.
    pub fn add(&mut self, left: &Left) -> io::Result<()> {
        self.total.files += 1;
        self.total.bytes += left.size;
        self.line(left)
    }

    /// Ends with the last line.
    pub fn end(mut self) -> io::Result<(W, Total)> {
        let total = self.total;
        self.line(&total)?;
        Ok((self.out, total))
    }

    /// What was written so far, for a writer whose output is taken piece by piece.
    pub fn out(&mut self) -> &mut W {
        &mut self.out
    }

    fn line(&mut self, line: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut self.out, line)?;
        self.out.write_all(b"\n")
    }
}

/// Why a manifest cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The file could not be read.
    #[error("read the manifest")]
    Io(#[from] io::Error),
    /// It is none, or of another version.
    #[error("the first line is not that of a manifest of version {VERSION}")]
    NoManifest,
    /// A line is not of this format.
    #[error("line {0} is not of a manifest")]
    Line(
        /// Counted from 1.
        u64,
    ),
}

/// Any line after the first.
#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Left(Left),
    Total(Total),
}

/// Reads a manifest.
#[derive(Debug)]
pub struct Reader<R> {
    from: R,
    head: Head,
    lines: u64,
    seen: Total,
    end: Option<Total>,
    room: Vec<u8>,
}

impl<R: BufRead> Reader<R> {
    /// Reads the first line.
    pub fn begin(mut from: R) -> Result<Self, ManifestError> {
        let mut room = Vec::new();
        let head = match read_line(&mut from, &mut room, 1) {
            Ok(true) => serde_json::from_slice::<Head>(&room).ok(),
            Ok(false) | Err(ManifestError::Line(_)) => None,
            Err(error) => return Err(error),
        };
        let head = head.filter(|head| head.polder_left_behind == VERSION);
        let head = head.ok_or(ManifestError::NoManifest)?;
        Ok(Self { from, head, lines: 1, seen: Total::default(), end: None, room })
    }

    /// The first line.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// The next file; `None` at the end. A line that is cut off ends the list.
    pub fn next_file(&mut self) -> Result<Option<Left>, ManifestError> {
        self.lines += 1;
        if self.end.is_some() || !read_line(&mut self.from, &mut self.room, self.lines)? {
            return Ok(None);
        }
        match serde_json::from_slice(&self.room) {
            Ok(Line::Left(left)) => {
                self.seen.files += 1;
                self.seen.bytes = self.seen.bytes.saturating_add(left.size);
                Ok(Some(left))
            }
            Ok(Line::Total(total)) => {
                self.end = Some(total);
                Ok(None)
            }
            Err(_) => Err(ManifestError::Line(self.lines)),
        }
    }

    /// Whether the list is as long as its last line says. To be asked at the end.
    pub fn is_whole(&self) -> bool {
        self.end == Some(self.seen)
    }
}

/// Reads a line that has an end. `false`: there is none more.
fn read_line(from: &mut impl BufRead, room: &mut Vec<u8>, number: u64) -> Result<bool, ManifestError> {
    room.clear();
    let read = from.take(LINE_BYTES_MAX).read_until(b'\n', room)?;
    if room.last() == Some(&b'\n') {
        return Ok(true);
    }
    if read as u64 == LINE_BYTES_MAX { Err(ManifestError::Line(number)) } else { Ok(false) }
}

#[cfg(test)]
mod tests {
    use polder_types::{Body, ChunkId, Extent, ExtentSource, RelPath, Timestamp};

    use super::*;

    fn head() -> Head {
        Head {
            polder_left_behind: VERSION,
            share: ShareId([1; 16]),
            share_name: "demo".parse().unwrap(),
            endpoint: EndpointId([2; 16]),
            server: ServerId([3; 16]),
            server_name: "site-b".parse().unwrap(),
            path: JsonBytes(b"/srv/\xff".to_vec()),
            nonce: Some("04".repeat(16)),
            applied: Cursor::default(),
            known: true,
            made_at: Time(Timestamp::new(1_800_000_000, 0)),
        }
    }

    fn left(path: &[u8], size: u64) -> Left {
        let source = ExtentSource::Chunk { id: ChunkId([7; 32]), skip: 0 };
        let content = Content::File { size, body: Body::Inline(vec![Extent { len: size, source }]) };
        Left {
            path: RelPath::parse(path).unwrap().into(),
            node: NodeUid([5; 16]),
            since: Seq(9),
            size,
            mtime: Time(Timestamp::new(7, 8)),
            content: content_text(&content),
        }
    }

    fn written() -> Vec<u8> {
        let mut writer = Writer::begin(Vec::new(), &head()).unwrap();
        writer.add(&left(b"one/two", 5)).unwrap();
        writer.add(&left(b"no text \xff", 70_000)).unwrap();
        let (out, total) = writer.end().unwrap();
        assert_eq!(total, Total { files: 2, bytes: 70_005 });
        out
    }

    fn read(bytes: &[u8]) -> Result<(Vec<Left>, bool), ManifestError> {
        let mut reader = Reader::begin(bytes)?;
        assert_eq!(reader.head(), &head());
        let mut found = Vec::new();
        while let Some(one) = reader.next_file()? {
            found.push(one);
        }
        Ok((found, reader.is_whole()))
    }

    #[test]
    fn what_was_written_is_read() {
        let (found, is_whole) = read(&written()).unwrap();
        assert_eq!(found, [left(b"one/two", 5), left(b"no text \xff", 70_000)]);
        assert!(is_whole && found[1].content().unwrap().size() == 70_000);
    }

    /// Version 1 for ever.
    #[test]
    fn golden() {
        let golden = include_str!("../tests/golden/left-behind-1.jsonl");
        assert_eq!(String::from_utf8(written()).unwrap(), golden);
    }

    /// Cut anywhere it says so, and what it lists before the cut is good.
    #[test]
    fn a_list_that_was_cut_off_is_known_for_one() {
        let whole = written();
        for at in 0..whole.len() {
            match read(&whole[..at]) {
                Ok((found, is_whole)) => {
                    assert!(!is_whole, "cut at {at}");
                    assert!(found.iter().all(|one| one.content().is_some()));
                }
                Err(ManifestError::NoManifest) => assert!(!whole[..at].contains(&b'\n')),
                Err(error) => panic!("cut at {at}: {error}"),
            }
        }
    }

    #[test]
    fn what_is_no_manifest_is_refused() {
        let newer = String::from_utf8(written())
            .unwrap()
            .replace("\"polder_left_behind\":1", "\"polder_left_behind\":2");
        for bytes in [&b""[..], b"\n", b"{}\n", newer.as_bytes()] {
            assert!(matches!(Reader::begin(bytes), Err(ManifestError::NoManifest)));
        }
        let mut odd = written();
        odd.splice(odd.len()..odd.len(), *b"{\"path\":\"after the end\"}\n");
        assert!(read(&odd).unwrap().1, "nothing is read after the end");
        let out = String::from_utf8(written()).unwrap().replace("one/two", "../two");
        assert!(matches!(read(out.as_bytes()), Err(ManifestError::Line(2))), "no path leads out");
        let other = Left { size: 6, ..left(b"a", 5) };
        assert_eq!(other.content(), None, "a size that is not its content's");
        let folder = Left { content: URL_SAFE_NO_PAD.encode(Content::Directory.encode()), ..left(b"a", 0) };
        assert_eq!(folder.content(), None);
    }
}
