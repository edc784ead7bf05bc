//! Extent trees: nodes with borders that follow the content (`docs/formats/content.md` §5), and how they are built.

use polder_types::{
    Body, CHUNK_BYTES_MAX, ChunkId, Content, DecodeError, Extent, ExtentSource, FILE_BYTES_MAX,
    INLINE_EXTENTS_MAX, Reader, Writer,
};

use crate::keys::array;
use crate::{BuildError, ChunkIdKey, NewChunk};

/// Most entries of a node.
pub const NODE_ENTRIES_MAX: usize = 1024;
/// Largest node: a header and entries of form, two lengths and an id.
pub const NODE_BYTES_MAX: usize = 8 + NODE_ENTRIES_MAX * (1 + 9 + 5 + 32);

const FORMAT: u8 = 1;
const ENTRIES_MIN: usize = 64;
// 65,536 / 341 = 192 entries beyond the minimum, so 256 on average.
const MARK_BELOW: u16 = 341;
/// Highest level that [`Content`] allows.
const LEVEL_MAX: u8 = 8;

/// The plain bytes of a tree's node, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TreeNode {
    /// Level 0: extents of the file.
    Extents(Vec<Extent>),
    /// A higher level: how many bytes of the file a child lists, and which chunk it is.
    Children {
        /// Level of this node, at least 1.
        level: u8,
        /// In order.
        children: Vec<(u64, ChunkId)>,
    },
}

impl TreeNode {
    /// Reads a node; refuses everything that no builder makes.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > NODE_BYTES_MAX {
            return Err(DecodeError::Bad("length of a node"));
        }
        let mut from = Reader::new(bytes);
        match from.byte()? {
            FORMAT => (),
            other => return Err(DecodeError::Version(other)),
        }
        let level = from.byte()?;
        let count = usize::try_from(from.number()?).unwrap_or(usize::MAX);
        if !(1..=NODE_ENTRIES_MAX).contains(&count) || level > LEVEL_MAX {
            return Err(DecodeError::Bad("number of entries"));
        }
        let node = if level == 0 {
            Self::Extents((0..count).map(|_| Extent::decode(&mut from)).collect::<Result<_, _>>()?)
        } else {
            let child = |from: &mut Reader<'_>| Ok::<_, DecodeError>((from.number()?, ChunkId(array(from)?)));
            Self::Children {
                level,
                children: (0..count).map(|_| child(&mut from)).collect::<Result<_, _>>()?,
            }
        };
        from.end()?;
        node.ensure_valid()?;
        Ok(node)
    }

    /// The bytes of the node's chunk.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.byte(FORMAT).byte(self.level()).number(self.len() as u64);
        match self {
            Self::Extents(extents) => extents.iter().for_each(|extent| extent.encode(&mut out)),
            Self::Children { children, .. } => children.iter().for_each(|(len, id)| {
                out.number(*len).raw(&id.0);
            }),
        }
        out.finish()
    }

    /// 0 for a node of extents.
    pub fn level(&self) -> u8 {
        match self {
            Self::Extents(_) => 0,
            Self::Children { level, .. } => *level,
        }
    }

    /// Bytes of the file below this node; `None` when an entry is out of bounds or the sum leaves the range of a file.
    pub fn span_bytes(&self) -> Option<u64> {
        match self {
            Self::Extents(extents) => Extent::sum(extents),
            Self::Children { children, .. } => children.iter().try_fold(0u64, |sum, (len, _)| {
                sum.checked_add(*len).filter(|sum| *len > 0 && *sum <= FILE_BYTES_MAX)
            }),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Extents(extents) => extents.len(),
            Self::Children { children, .. } => children.len(),
        }
    }

    fn entry_chunk(&self, index: usize) -> Option<ChunkId> {
        match self {
            Self::Extents(extents) => extents[index].chunk(),
            Self::Children { children, .. } => Some(children[index].1),
        }
    }

    /// Whether the node ends after its first `count` entries, whatever follows.
    fn ends_after(&self, count: usize) -> bool {
        let marks = |id: ChunkId| u16::from_le_bytes([id.0[30], id.0[31]]) < MARK_BELOW;
        count == NODE_ENTRIES_MAX || (count >= ENTRIES_MIN && self.entry_chunk(count - 1).is_some_and(marks))
    }

    fn ensure_valid(&self) -> Result<(), DecodeError> {
        if self.span_bytes().is_none() {
            return Err(DecodeError::Bad("length in a node"));
        }
        if (1..self.len()).any(|count| self.ends_after(count)) {
            return Err(DecodeError::Bad("border of a node"));
        }
        match self {
            Self::Extents(extents)
                if extents.windows(2).any(|pair| is_hole(&pair[0]) && is_hole(&pair[1])) =>
            {
                Err(DecodeError::Bad("pair of holes"))
            }
            _ => Ok(()),
        }
    }
}

/// Lists extents as they come and makes the nodes of their tree. Holds one open node per level.
#[derive(Debug)]
pub struct TreeBuilder {
    ids: ChunkIdKey,
    canonical: bool,
    // The hole that the next one may join.
    hole: u64,
    size: u64,
    // By level; the lowest is a node of extents.
    open: Vec<OpenNode>,
}

#[derive(Debug)]
struct OpenNode {
    node: TreeNode,
    // Nodes of this level that were ended.
    ended: u64,
}

impl TreeBuilder {
    /// For extents that are what the share's chunker makes of the file.
    pub(crate) fn canonical(ids: ChunkIdKey) -> Self {
        let open = vec![OpenNode { node: TreeNode::Extents(Vec::new()), ended: 0 }];
        Self { ids, canonical: true, hole: 0, size: 0, open }
    }

    /// For extents in any form, such as small writes over an older version.
    pub fn new(ids: ChunkIdKey) -> Self {
        Self { canonical: false, ..Self::canonical(ids) }
    }

    /// The next extent. Adjoining holes become one; empty extents are left out.
    pub fn push<E>(
        &mut self,
        extent: Extent,
        sink: &mut impl FnMut(NewChunk<'_>) -> Result<(), E>,
    ) -> Result<(), BuildError<E>> {
        self.size = self.size.saturating_add(extent.len);
        if let ExtentSource::Chunk { skip, .. } = extent.source {
            let end = extent.len.saturating_add(skip.into());
            if end > u64::from(CHUNK_BYTES_MAX) {
                return Err(BuildError::TooLarge);
            }
        }
        if self.size > FILE_BYTES_MAX {
            return Err(BuildError::TooLarge);
        }
        if extent.len == 0 {
            return Ok(());
        }
        if is_hole(&extent) {
            self.hole += extent.len;
            return Ok(());
        }
        self.list_hole(sink)?;
        self.list_extent(extent, sink)
    }

    /// The file ends here.
    pub fn finish<E>(
        mut self,
        sink: &mut impl FnMut(NewChunk<'_>) -> Result<(), E>,
    ) -> Result<Content, BuildError<E>> {
        self.list_hole(sink)?;
        let size = self.size;
        if self.open[0].ended == 0 && self.open[0].node.len() <= INLINE_EXTENTS_MAX {
            let TreeNode::Extents(extents) = self.open.swap_remove(0).node else {
                unreachable!("the lowest node lists extents")
            };
            return Ok(Content::File { size, body: Body::Inline(extents) });
        }
        let mut level = 0;
        loop {
            if self.open[level].node.len() > 0 {
                self.end_node(level, sink)?;
            }
            if self.open[level].ended == 1 {
                // The only node of its level: it stands, as an entry, alone in the level above.
                let root = self.open[level + 1].node.entry_chunk(0).expect("a child is a chunk");
                let height = u8::try_from(level).expect("levels are few");
                return Ok(Content::File {
                    size,
                    body: Body::Tree { root, height, canonical: self.canonical },
                });
            }
            level += 1;
        }
    }

    fn list_hole<E>(
        &mut self,
        sink: &mut impl FnMut(NewChunk<'_>) -> Result<(), E>,
    ) -> Result<(), BuildError<E>> {
        match std::mem::take(&mut self.hole) {
            0 => Ok(()),
            len => self.list_extent(Extent { len, source: ExtentSource::Hole }, sink),
        }
    }

    fn list_extent<E>(
        &mut self,
        extent: Extent,
        sink: &mut impl FnMut(NewChunk<'_>) -> Result<(), E>,
    ) -> Result<(), BuildError<E>> {
        let TreeNode::Extents(extents) = &mut self.open[0].node else {
            unreachable!("the lowest node lists extents")
        };
        extents.push(extent);
        let mut level = 0;
        while self.open[level].node.ends_after(self.open[level].node.len()) {
            self.end_node(level, sink)?;
            level += 1;
        }
        Ok(())
    }

    /// Ends the open node of a level and lists it in the level above.
    fn end_node<E>(
        &mut self,
        level: usize,
        sink: &mut impl FnMut(NewChunk<'_>) -> Result<(), E>,
    ) -> Result<(), BuildError<E>> {
        if level + 1 == self.open.len() {
            let above = u8::try_from(level + 1).expect("levels are few");
            let node = TreeNode::Children { level: above, children: Vec::new() };
            self.open.push(OpenNode { node, ended: 0 });
        }
        let this = &mut self.open[level];
        let span = this.node.span_bytes().expect("the size was checked as it grew");
        let bytes = this.node.encode();
        this.ended += 1;
        match &mut this.node {
            TreeNode::Extents(extents) => extents.clear(),
            TreeNode::Children { children, .. } => children.clear(),
        }
        let id = self.ids.id(&bytes);
        sink(NewChunk { id, bytes: &bytes, is_node: true }).map_err(BuildError::Sink)?;
        let TreeNode::Children { children, .. } = &mut self.open[level + 1].node else {
            unreachable!("only the lowest node lists extents")
        };
        children.push((span, id));
        Ok(())
    }
}

fn is_hole(extent: &Extent) -> bool {
    extent.source == ExtentSource::Hole
}
