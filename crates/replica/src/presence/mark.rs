//! The mark of a tiered file (`docs/formats/mark.md`).

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};

use polder_types::{Content, DecodeError, FileIdent, Kind, NodeUid, Reader, Seq, Stamp, Timestamp};
use rustix::fs::Statx;
use rustix::io::Errno;

use crate::error::{Doing, ErrorClass, FsError};
use crate::ident::{generation, kind, statx_at, statx_fd};
use crate::staging::set_mtime;
use crate::{Root, xattrs};

/// Name of the attribute.
pub const MARK_XATTR: &CStr = c"trusted.polder";
pub(crate) const XATTR: &CStr = MARK_XATTR;
/// What a placeholder stands for in full, so that it can be recalled with nothing but the share at hand.
pub(crate) const XATTR_CONTENT: &CStr = c"trusted.polder.content";
/// A file's content has at most four extents or a root: some 200 bytes.
const CONTENT_BYTES_MAX: usize = 512;
const NO_BYTES: &str = "read the bytes (the file carries a mark of a tiered file, and they are not here) of";
const MAGIC: &[u8; 4] = b"PlMk";
const VERSION: u8 = 1;
const CHECKSUM_BYTES: usize = 8;
const MARK_BYTES: usize = 117;
/// Longer values are not even looked at.
const VALUE_BYTES_MAX: usize = 256;

/// Which version of which node a placeholder stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pledge {
    /// The node.
    pub node: NodeUid,
    /// The version.
    pub since: Seq,
    /// First half of the hash of its content's canonical bytes.
    pub content: [u8; 16],
    /// Its size.
    pub size: u64,
    /// Its modification time.
    pub mtime: Timestamp,
}

impl Pledge {
    /// Of a version.
    pub fn new(node: NodeUid, since: Seq, content: &Content, mtime: Timestamp) -> Self {
        let mut half = [0; 16];
        half.copy_from_slice(&blake3::hash(&content.encode()).as_bytes()[..16]);
        Self { node, since, content: half, size: content.size(), mtime }
    }

    /// Whether it speaks of this content.
    pub fn is_of(&self, content: &Content) -> bool {
        let Self { content: half, size, .. } = Self::new(self.node, self.since, content, self.mtime);
        (half, size) == (self.content, self.size)
    }

    /// Whether both stand for the same bytes.
    pub fn is_same_content(&self, other: &Self) -> bool {
        (self.content, self.size) == (other.content, other.size)
    }

    /// How a placeholder looks: size and time of its version, and in place of the change time a moment before 1970 that stands for the content.
    pub fn stamp(&self, ident: FileIdent) -> Stamp {
        let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|n| self.content[at + n]));
        let ctime = Timestamp { secs: -1 - i64::from(word(0)), nanos: word(4) % 1_000_000_000 };
        Stamp { ident, ctime, mtime: self.mtime, size: self.size }
    }
}

/// Which file a mark belongs on: a copy of it elsewhere is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    /// The root's nonce.
    pub nonce: [u8; 16],
    /// The inode.
    pub ident: FileIdent,
    /// The file system.
    pub volume: [u8; 16],
}

/// A mark as it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// What the file stands for.
    pub pledge: Pledge,
    /// Where it belongs.
    pub bound: Bound,
}

/// What a file says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marked {
    /// No mark: its bytes are the user's.
    No,
    /// A placeholder of this root.
    Ours(Pledge),
    /// A copy of a placeholder: its holes are nobody's bytes.
    Copy(Pledge),
    /// A mark that cannot be read.
    Damaged,
}

impl Mark {
    /// The bytes of the attribute.
    pub fn encode(&self) -> Vec<u8> {
        let Self { pledge, bound } = self;
        let mut out = Vec::with_capacity(MARK_BYTES);
        out.extend_from_slice(MAGIC);
        out.push(VERSION);
        out.extend_from_slice(pledge.node.as_bytes());
        out.extend_from_slice(&pledge.since.0.to_le_bytes());
        out.extend_from_slice(&pledge.content);
        out.extend_from_slice(&pledge.size.to_le_bytes());
        out.extend_from_slice(&pledge.mtime.secs.to_le_bytes());
        out.extend_from_slice(&pledge.mtime.nanos.to_le_bytes());
        out.extend_from_slice(&bound.nonce);
        out.extend_from_slice(&bound.ident.ino.to_le_bytes());
        out.extend_from_slice(&bound.ident.generation.to_le_bytes());
        out.extend_from_slice(&bound.volume);
        let sum = blake3::hash(&out);
        out.extend_from_slice(&sum.as_bytes()[..CHECKSUM_BYTES]);
        out
    }

    /// Reads the attribute's bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        if array::<4>(&mut reader)? != *MAGIC {
            return Err(DecodeError::Bad("magic"));
        }
        match reader.byte()? {
            VERSION => (),
            other => return Err(DecodeError::Version(other)),
        }
        let node = NodeUid(array(&mut reader)?);
        let since = Seq(u64::from_le_bytes(array(&mut reader)?));
        let content = array(&mut reader)?;
        let size = u64::from_le_bytes(array(&mut reader)?);
        let secs = i64::from_le_bytes(array(&mut reader)?);
        let nanos = u32::from_le_bytes(array(&mut reader)?);
        let nonce = array(&mut reader)?;
        let ino = u64::from_le_bytes(array(&mut reader)?);
        let generation = u32::from_le_bytes(array(&mut reader)?);
        let volume = array(&mut reader)?;
        let summed = bytes.len() - reader.left();
        let sum: [u8; CHECKSUM_BYTES] = array(&mut reader)?;
        reader.end()?;
        if blake3::hash(&bytes[..summed]).as_bytes()[..CHECKSUM_BYTES] != sum {
            return Err(DecodeError::Bad("checksum"));
        }
        if size > polder_types::FILE_BYTES_MAX || nanos > 999_999_999 {
            return Err(DecodeError::Bad("size or time"));
        }
        let pledge = Pledge { node, since, content, size, mtime: Timestamp { secs, nanos } };
        Ok(Self { pledge, bound: Bound { nonce, ident: FileIdent { ino, generation }, volume } })
    }
}

fn array<const N: usize>(reader: &mut Reader<'_>) -> Result<[u8; N], DecodeError> {
    reader.raw(N)?.try_into().map_err(|_| DecodeError::Short)
}

/// Whose placeholders are ours: the root's nonce and its file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MarksOf {
    nonce: [u8; 16],
    /// A file system without a UUID never got a mark from us.
    volume: Option<[u8; 16]>,
}

impl MarksOf {
    /// Of a root.
    pub(crate) fn of(root: &Root) -> Self {
        Self { nonce: root.identity().nonce, volume: root.volume() }
    }

    /// As [`MarksOf::of`]; `None` where no file can carry a mark of ours.
    pub(crate) fn root(root: &Root) -> Option<Self> {
        Some(Self::of(root)).filter(|marks| marks.volume.is_some())
    }

    /// Where a mark on a file must say that it belongs.
    pub(crate) fn bound(&self, file: BorrowedFd<'_>) -> Result<Bound, FsError> {
        let volume = self.volume.ok_or_else(|| {
            FsError::new("tell the file system's UUID of", b"file to be marked", Errno::OPNOTSUPP)
        })?;
        let stat = statx_fd(file).doing("stat", b"file to be marked")?;
        let ident = FileIdent { ino: stat.stx_ino, generation: generation(file, c"", stat.stx_ino) };
        Ok(Bound { nonce: self.nonce, ident, volume })
    }

    fn judge(&self, mark: &Mark, ident: FileIdent) -> Marked {
        let Bound { nonce, ident: bound_to, volume } = mark.bound;
        let ours = nonce == self.nonce && bound_to == ident && Some(volume) == self.volume;
        if ours { Marked::Ours(mark.pledge) } else { Marked::Copy(mark.pledge) }
    }

    /// What `name` in `dir` stands for, which carries `mark` on its own inode, if that is a placeholder of ours whose record of its content is sound.
    pub(crate) fn content(&self, mark: &Mark, dir: BorrowedFd<'_>, name: &CStr) -> Option<(Pledge, Content)> {
        let Marked::Ours(pledge) = self.judge(mark, mark.bound.ident) else { return None };
        let content = content(dir, name, &pledge).ok().flatten()?;
        Some((pledge, content))
    }
}

/// The mark of `name` in `dir`, or of `dir` itself for an empty name: none, one that can be read, or a damaged one.
fn read(dir: BorrowedFd<'_>, name: &CStr) -> Result<Option<Result<Mark, DecodeError>>, Errno> {
    let mut value = [0; VALUE_BYTES_MAX];
    match xattrs::get_into(dir, name, XATTR, &mut value) {
        Ok(None) => Ok(None),
        Ok(Some(len)) => Ok(Some(Mark::decode(&value[..len]))),
        Err(Errno::RANGE) => Ok(Some(Err(DecodeError::Bad("length")))),
        Err(errno) => Err(errno),
    }
}

/// What a placeholder stands for, as it was noted beside its mark; `None` when that is not what the mark says.
fn content(dir: BorrowedFd<'_>, name: &CStr, pledge: &Pledge) -> Result<Option<Content>, Errno> {
    let mut value = [0; CONTENT_BYTES_MAX];
    let len = match xattrs::get_into(dir, name, XATTR_CONTENT, &mut value) {
        Ok(Some(len)) => len,
        Ok(None) | Err(Errno::RANGE) => return Ok(None),
        Err(errno) => return Err(errno),
    };
    Ok(Content::decode(&value[..len]).ok().filter(|content| pledge.is_of(content)))
}

/// Reads the mark of an open file and judges whether it belongs there.
pub fn marked(root: &Root, file: impl AsFd) -> Result<Marked, FsError> {
    let file = file.as_fd();
    marked_at(root, file, c"")
}

/// As [`marked`], of `name` in `dir`, which is not opened; of `dir` itself for an empty name (then no `O_PATH` descriptor).
pub fn marked_at(root: &Root, dir: impl AsFd, name: &CStr) -> Result<Marked, FsError> {
    let dir = dir.as_fd();
    let found = read(dir, name).doing("read the mark of", name.to_bytes())?;
    judge(root, found, dir, name)
}

/// Judges the value of the attribute [`MARK_XATTR`] that was read of `name` in `dir`; for an empty name `dir` may be an `O_PATH` descriptor.
pub fn judge_mark(root: &Root, value: &[u8], dir: impl AsFd, name: &CStr) -> Result<Marked, FsError> {
    judge(root, Some(Mark::decode(value)), dir.as_fd(), name)
}

fn judge(
    root: &Root,
    found: Option<Result<Mark, DecodeError>>,
    dir: BorrowedFd<'_>,
    name: &CStr,
) -> Result<Marked, FsError> {
    let mark = match found {
        None => return Ok(Marked::No),
        Some(Err(_)) => return Ok(Marked::Damaged),
        Some(Ok(mark)) => mark,
    };
    let stat = match name.is_empty() {
        true => statx_fd(dir),
        false => statx_at(dir, name),
    };
    let ino = stat.doing("stat", name.to_bytes())?.stx_ino;
    let ident = FileIdent { ino, generation: generation(dir, name, ino) };
    Ok(MarksOf::of(root).judge(&mark, ident))
}

/// What an open placeholder of ours stands for; `None` when the note beside its mark is damaged.
pub fn pledged_content(file: impl AsFd, pledge: &Pledge) -> Result<Option<Content>, FsError> {
    content(file.as_fd(), c"", pledge).doing("read what it stands for of", b"tiered file")
}

/// As [`pledged_content`], of `name` in `dir`, which is not opened.
pub(crate) fn noted_content(
    dir: BorrowedFd<'_>,
    name: &CStr,
    pledge: &Pledge,
) -> Result<Option<Content>, FsError> {
    content(dir, name, pledge).doing("read what it stands for of", name.to_bytes())
}

/// Fails for a file that carries any mark: what can be read of it is nobody's bytes. To be asked of an open file, since from then on
/// it cannot be given up.
pub(crate) fn ensure_bytes(file: BorrowedFd<'_>, name: &[u8]) -> Result<(), FsError> {
    match read(file, c"").doing("read the mark of", name)? {
        None => Ok(()),
        Some(_) => {
            Err(FsError { class: ErrorClass::NotHere, ..FsError::new(NO_BYTES, name, Errno::OPNOTSUPP) })
        }
    }
}

/// The mark of `name` in `dir`, which is `ident`. One that is damaged, or of another inode, does not count: then the file is looked at as it is.
pub(crate) fn mark_of(dir: BorrowedFd<'_>, name: &CStr, ident: FileIdent) -> Result<Option<Mark>, Errno> {
    Ok(read(dir, name)?.and_then(Result::ok).filter(|mark| mark.bound.ident == ident))
}

/// The stamp of a file that carries a mark: size and time of the mark, and in place of the change time, which every fill moves, one from before 1970
/// that stands for the content. So a placeholder looks the same whatever is filled in, and never like a resident file.
pub(crate) fn stamp_by_mark(
    dir: BorrowedFd<'_>,
    name: &CStr,
    stat: &Statx,
    stamp: Stamp,
) -> Result<Stamp, Errno> {
    if kind(stat) != Some(Kind::File) {
        return Ok(stamp);
    }
    Ok(mark_of(dir, name, stamp.ident)?.map_or(stamp, |mark| mark.pledge.stamp(stamp.ident)))
}

/// Whether a stamp is that of a placeholder.
pub fn is_stamp_of_mark(stamp: &Stamp) -> bool {
    stamp.ctime.secs < 0
}

/// Sets the modification time of an open file: in the mark while it carries one. Whoever needs it durable calls fsync.
pub fn set_marked_mtime(file: impl AsFd, mtime: Timestamp) -> Result<(), Errno> {
    let file = file.as_fd();
    let mark = match read(file, c"")? {
        Some(Ok(mark)) => mark,
        _ => return set_mtime(file, mtime),
    };
    let changed = Mark { pledge: Pledge { mtime, ..mark.pledge }, ..mark };
    // A mark that has gone meanwhile must not come back: the file is the user's by now.
    match xattrs::replace(file, XATTR, &changed.encode()) {
        Err(Errno::NODATA) => set_mtime(file, mtime),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample() -> Mark {
        Mark {
            pledge: Pledge {
                node: NodeUid([1; 16]),
                since: Seq(77),
                content: [2; 16],
                size: 1 << 20,
                mtime: Timestamp { secs: -5, nanos: 123_456_789 },
            },
            bound: Bound { nonce: [3; 16], ident: FileIdent { ino: 12, generation: 34 }, volume: [4; 16] },
        }
    }

    /// Version 1 for ever.
    #[test]
    fn golden() {
        let golden = include_bytes!("../../tests/golden/mark-1.bin");
        assert_eq!(Mark::decode(golden), Ok(sample()));
        assert_eq!(sample().encode(), golden);
    }

    #[test]
    fn damage_is_found() {
        let good = sample().encode();
        assert_eq!(good.len(), MARK_BYTES);
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(Mark::decode(&bad).is_err(), "byte {at}");
            assert!(Mark::decode(&good[..at]).is_err(), "cut at {at}");
        }
        assert!(Mark::decode(&[good.as_slice(), &[0]].concat()).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_read(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(mark) = Mark::decode(&bytes) {
                prop_assert_eq!(mark.encode(), bytes);
            }
        }
    }
}
