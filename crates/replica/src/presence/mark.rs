//! The mark of a tiered file (`docs/formats/mark.md`).

use std::os::fd::{AsFd, BorrowedFd};

use polder_types::{Content, DecodeError, FileIdent, NodeUid, Reader, Seq, Timestamp};
use rustix::io::Errno;

use crate::error::{Doing, FsError};
use crate::ident::stamp_fd;
use crate::{Root, sys, xattrs};

pub(crate) const XATTR: &std::ffi::CStr = c"trusted.polder";
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

/// Where a mark on this file must say that it belongs; an error where the file system has no UUID.
pub(crate) fn bound(root: &Root, file: BorrowedFd<'_>) -> Result<Bound, FsError> {
    let (_, stamp) = stamp_fd(file).doing("stat", b"file to be marked")?;
    let volume = sys::file_system_uuid(file).ok_or_else(|| {
        FsError::new("tell the file system's UUID of", b"file to be marked", Errno::OPNOTSUPP)
    })?;
    Ok(Bound { nonce: root.identity().nonce, ident: stamp.ident, volume })
}

/// Reads the mark of an open file and judges whether it belongs there.
pub fn marked(root: &Root, file: impl AsFd) -> Result<Marked, FsError> {
    let file = file.as_fd();
    let value = xattrs::get(file, c"", XATTR).doing("read the mark of", b"file")?;
    let Some(value) = value else { return Ok(Marked::No) };
    if value.len() > VALUE_BYTES_MAX {
        return Ok(Marked::Damaged);
    }
    let Ok(mark) = Mark::decode(&value) else { return Ok(Marked::Damaged) };
    let ours = match bound(root, file) {
        Ok(bound) => mark.bound == bound,
        // A file system without a UUID never got a mark from us.
        Err(error) if error.class == crate::ErrorClass::Unsupported => false,
        Err(error) => return Err(error),
    };
    Ok(if ours { Marked::Ours(mark.pledge) } else { Marked::Copy(mark.pledge) })
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
