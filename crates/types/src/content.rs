//! What a version holds: nothing (a directory), a target (a symlink), or extents (a file).

use crate::{ChunkId, DecodeError, Kind, Reader, Writer};

/// Largest file: 8 EiB less one byte, as file systems allow.
pub const FILE_BYTES_MAX: u64 = i64::MAX as u64;
/// Largest chunk of any chunker version; an extent never names more of one.
pub const CHUNK_BYTES_MAX: u32 = 16 * 1024 * 1024;
/// Most extents in a node's row; a file of more has a tree of leaves.
pub const INLINE_EXTENTS_MAX: usize = 4;
/// Longest symlink target (Linux: `PATH_MAX`).
pub const SYMLINK_BYTES_MAX: usize = 4095;

const FORMAT: u8 = 1;

/// Content of one version of a node.
///
/// Two contents in canonical form are equal exactly when the bytes of the files are equal (within one share), so
/// comparing contents compares files.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Content {
    /// A directory has none.
    Directory,
    /// The target of a symlink, as text that nobody follows. Never empty.
    Symlink(Box<[u8]>),
    /// A file's bytes.
    File {
        /// Size in bytes, the sum of its extents.
        size: u64,
        /// Where they are.
        body: Body,
    },
}

/// Extents of a file, or the root of the tree that lists them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Body {
    /// At most [`INLINE_EXTENTS_MAX`] extents, in order.
    Inline(Vec<Extent>),
    /// Root of a tree of sealed leaves (`docs/formats/content.md`).
    Tree {
        /// The chunk that holds the root.
        root: ChunkId,
        /// Levels below the root: 0 when the root is itself a leaf of extents.
        height: u8,
        /// Whether the extents are what the share's chunker makes of these bytes.
        canonical: bool,
    },
}

/// A run of a file's bytes. Never empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Extent {
    /// Bytes; a chunk's extent has at most [`CHUNK_BYTES_MAX`].
    pub len: u64,
    /// Where the bytes are.
    pub source: ExtentSource,
}

/// Where an extent's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ExtentSource {
    /// Zeros that are stored nowhere.
    Hole,
    /// A part of a chunk.
    Chunk {
        /// Which chunk.
        id: ChunkId,
        /// Bytes of the chunk before the extent; 0 in canonical form.
        skip: u32,
    },
}

impl Content {
    /// The empty file.
    pub fn empty_file() -> Self {
        Self::File { size: 0, body: Body::Inline(Vec::new()) }
    }

    /// The kind of node that holds this.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Directory => Kind::Directory,
            Self::Symlink(_) => Kind::Symlink,
            Self::File { .. } => Kind::File,
        }
    }

    /// Size as `stat` tells it: a file's bytes, a target's length, 0 for a directory.
    pub fn size(&self) -> u64 {
        match self {
            Self::Directory => 0,
            Self::Symlink(target) => target.len() as u64,
            Self::File { size, .. } => *size,
        }
    }

    /// Chunks that the row itself names: those of inline extents, or the root of the tree.
    pub fn direct_chunks(&self) -> impl Iterator<Item = ChunkId> + '_ {
        let (extents, root) = match self {
            Self::File { body: Body::Inline(extents), .. } => (extents.as_slice(), None),
            Self::File { body: Body::Tree { root, .. }, .. } => (&[][..], Some(*root)),
            Self::Directory | Self::Symlink(_) => (&[][..], None),
        };
        extents.iter().filter_map(Extent::chunk).chain(root)
    }

    /// The canonical bytes (`docs/formats/content.md`): equal contents have equal bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.byte(FORMAT);
        match self {
            Self::Directory => {
                out.byte(0);
            }
            Self::Symlink(target) => {
                out.byte(1).bytes(target);
            }
            Self::File { size, body: Body::Inline(extents) } => {
                out.byte(2).number(*size).number(extents.len() as u64);
                extents.iter().for_each(|extent| extent.encode(&mut out));
            }
            Self::File { size, body: Body::Tree { root, height, canonical } } => {
                out.byte(3).number(*size).byte(*height).byte(u8::from(*canonical)).raw(&root.0);
            }
        }
        out.finish()
    }

    /// Reads [`Content::encode`]; refuses everything that it could not have written.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut from = Reader::new(bytes);
        match from.byte()? {
            FORMAT => (),
            other => return Err(DecodeError::Version(other)),
        }
        let content = match from.byte()? {
            0 => Self::Directory,
            1 => Self::Symlink(from.bytes(SYMLINK_BYTES_MAX)?.into()),
            2 => {
                let size = from.number()?;
                let count = from.number()?;
                if count > INLINE_EXTENTS_MAX as u64 {
                    return Err(DecodeError::Bad("number of extents"));
                }
                let extents = (0..count).map(|_| Extent::decode(&mut from)).collect::<Result<_, _>>()?;
                Self::File { size, body: Body::Inline(extents) }
            }
            3 => {
                let size = from.number()?;
                let height = from.byte()?;
                let canonical = match from.byte()? {
                    0 => false,
                    1 => true,
                    _ => return Err(DecodeError::Bad("flag")),
                };
                let root =
                    ChunkId::from_slice(from.raw(ChunkId::LEN)?).expect("as many bytes as were asked for");
                Self::File { size, body: Body::Tree { root, height, canonical } }
            }
            _ => return Err(DecodeError::Bad("kind of content")),
        };
        from.end()?;
        content.ensure_valid()?;
        Ok(content)
    }

    /// Checks what the type cannot: sums, bounds, a symlink that has a target without NUL.
    pub fn ensure_valid(&self) -> Result<(), DecodeError> {
        match self {
            Self::Directory => Ok(()),
            Self::Symlink(target) => {
                let sound = (1..=SYMLINK_BYTES_MAX).contains(&target.len()) && !target.contains(&0);
                if sound { Ok(()) } else { Err(DecodeError::Bad("symlink target")) }
            }
            Self::File { size, body } => {
                let sound = *size <= FILE_BYTES_MAX
                    && match body {
                        Body::Inline(extents) => {
                            extents.len() <= INLINE_EXTENTS_MAX && Extent::sum(extents) == Some(*size)
                        }
                        // 256 extents a leaf: 8 levels name 2^64 extents.
                        Body::Tree { height, .. } => *height <= 8 && *size > 0,
                    };
                if sound { Ok(()) } else { Err(DecodeError::Bad("file content")) }
            }
        }
    }
}

impl Extent {
    /// The chunk, unless it is a hole.
    pub fn chunk(&self) -> Option<ChunkId> {
        match self.source {
            ExtentSource::Hole => None,
            ExtentSource::Chunk { id, .. } => Some(id),
        }
    }

    /// Sum of lengths; `None` when an extent is out of bounds or the sum leaves the range of a file.
    pub fn sum(extents: &[Self]) -> Option<u64> {
        extents.iter().try_fold(0u64, |sum, extent| {
            let sound = match extent.source {
                ExtentSource::Hole => extent.len > 0,
                ExtentSource::Chunk { skip, .. } => {
                    extent.len > 0 && extent.len.checked_add(skip.into())? <= CHUNK_BYTES_MAX.into()
                }
            };
            sum.checked_add(extent.len).filter(|sum| sound && *sum <= FILE_BYTES_MAX)
        })
    }

    /// Appends the canonical bytes.
    pub fn encode(&self, out: &mut Writer) {
        match self.source {
            ExtentSource::Hole => out.byte(0).number(self.len),
            ExtentSource::Chunk { id, skip: 0 } => out.byte(1).number(self.len).raw(&id.0),
            ExtentSource::Chunk { id, skip } => out.byte(2).number(self.len).number(skip.into()).raw(&id.0),
        };
    }

    /// Reads [`Extent::encode`]. Sums are the caller's to check ([`Extent::sum`]).
    pub fn decode(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let form = from.byte()?;
        let len = from.number()?;
        let skip = match form {
            0 => return Ok(Self { len, source: ExtentSource::Hole }),
            1 => 0,
            2 => {
                u32::try_from(from.number()?).ok().filter(|skip| *skip > 0).ok_or(DecodeError::Bad("skip"))?
            }
            _ => return Err(DecodeError::Bad("extent")),
        };
        let id = ChunkId::from_slice(from.raw(ChunkId::LEN)?).expect("as many bytes as were asked for");
        Ok(Self { len, source: ExtentSource::Chunk { id, skip } })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn extent() -> impl Strategy<Value = Extent> {
        let chunk =
            (1u64..1 << 19, prop::array::uniform32(any::<u8>()), 0u32..9).prop_map(|(len, id, skip)| {
                Extent { len, source: ExtentSource::Chunk { id: ChunkId(id), skip } }
            });
        prop_oneof![(1u64..1 << 40).prop_map(|len| Extent { len, source: ExtentSource::Hole }), chunk]
    }

    proptest! {
        #[test]
        fn content_survives_its_bytes(extents in prop::collection::vec(extent(), 0..=4)) {
            let size = Extent::sum(&extents).expect("small");
            let content = Content::File { size, body: Body::Inline(extents) };
            prop_assert_eq!(Content::decode(&content.encode()), Ok(content));
        }

        #[test]
        fn whatever_decodes_encodes_to_the_same_bytes(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(content) = Content::decode(&bytes) {
                prop_assert_eq!(content.encode(), bytes);
            }
        }
    }

    #[test]
    fn a_size_that_does_not_add_up_is_refused() {
        let hole = Extent { len: 5, source: ExtentSource::Hole };
        let content = Content::File { size: 6, body: Body::Inline(vec![hole]) };
        assert!(Content::decode(&content.encode()).is_err());
        assert!(Content::decode(&Content::Symlink(Box::default()).encode()).is_err());
    }
}
