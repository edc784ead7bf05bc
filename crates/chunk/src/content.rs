//! From the bytes of a file to its canonical [`Content`], in one pass and bounded memory.

use polder_types::{ChunkId, Content, Extent, ExtentSource};

use crate::{ChunkIdKey, ChunkRules, Chunker, Piece, TreeBuilder};

/// A chunk that was made: of the file's bytes, or of the tree that lists them.
#[derive(Debug, Clone, Copy)]
pub struct NewChunk<'a> {
    /// Its id.
    pub id: ChunkId,
    /// Its bytes.
    pub bytes: &'a [u8],
    /// Whether it is a node of the tree and not a part of the file.
    pub is_node: bool,
}

/// Why a content could not be built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BuildError<E> {
    /// The caller's sink failed. Transparent, since it is the caller's own error.
    #[error(transparent)]
    Sink(E),
    /// Above [`polder_types::FILE_BYTES_MAX`].
    #[error("the file is too large")]
    TooLarge,
}

/// Reads one file into its canonical content. Push its bytes in order; `sink` is handed every chunk, also those that the
/// share may hold already, as soon as it is certain, and before [`ContentBuilder::finish`] returns a content that names it.
#[derive(Debug)]
pub struct ContentBuilder {
    chunker: Chunker,
    list: Listing,
}

#[derive(Debug)]
struct Listing {
    ids: ChunkIdKey,
    tree: TreeBuilder,
}

impl ContentBuilder {
    /// For one file of the share whose rules and ids these are.
    pub fn new(rules: ChunkRules, ids: ChunkIdKey) -> Self {
        Self { chunker: Chunker::new(rules), list: Listing { ids, tree: TreeBuilder::canonical(ids) } }
    }

    /// The next bytes.
    pub fn push<E>(
        &mut self,
        bytes: &[u8],
        sink: &mut impl FnMut(NewChunk<'_>) -> Result<(), E>,
    ) -> Result<(), BuildError<E>> {
        let Self { chunker, list } = self;
        chunker.push(bytes, &mut |piece| list.take(piece, sink))
    }

    /// The next `len` bytes are zeros, as a hole of the file tells. The same as pushing them.
    pub fn push_zeros<E>(
        &mut self,
        len: u64,
        sink: &mut impl FnMut(NewChunk<'_>) -> Result<(), E>,
    ) -> Result<(), BuildError<E>> {
        let Self { chunker, list } = self;
        chunker.push_zeros(len, &mut |piece| list.take(piece, sink))
    }

    /// The file ends here.
    pub fn finish<E>(
        self,
        sink: &mut impl FnMut(NewChunk<'_>) -> Result<(), E>,
    ) -> Result<Content, BuildError<E>> {
        let Self { chunker, mut list } = self;
        chunker.finish(&mut |piece| list.take(piece, sink))?;
        list.tree.finish(sink)
    }
}

impl Listing {
    fn take<E>(
        &mut self,
        piece: Piece<'_>,
        sink: &mut impl FnMut(NewChunk<'_>) -> Result<(), E>,
    ) -> Result<(), BuildError<E>> {
        let extent = match piece {
            Piece::Hole(len) => Extent { len, source: ExtentSource::Hole },
            Piece::Chunk(bytes) => {
                let id = self.ids.id(bytes);
                sink(NewChunk { id, bytes, is_node: false }).map_err(BuildError::Sink)?;
                Extent { len: bytes.len() as u64, source: ExtentSource::Chunk { id, skip: 0 } }
            }
        };
        self.tree.push(extent, sink)
    }
}
