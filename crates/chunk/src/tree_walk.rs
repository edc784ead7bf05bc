//! Reading the extents of a file without doing input or output: the walk says which node it needs, the caller fetches it.

use std::ops::Range;

use polder_types::{Body, ChunkId, Content, DecodeError, Extent};

use crate::{TreeError, TreeNode, VerifiedChunk};

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WalkStep {
    /// A node of the tree is needed: [`ExtentWalk::supply`] it, or [`ExtentWalk::skip`] all that it lists.
    Node {
        /// The chunk to fetch.
        id: ChunkId,
        /// The first byte of the file that it lists.
        offset: u64,
        /// How many bytes of the file it lists.
        len: u64,
    },
    /// An extent of the file, whole, also where the wanted range begins or ends inside.
    Extent {
        /// Its first byte in the file.
        offset: u64,
        /// What lies there.
        extent: Extent,
    },
}

/// Walks the extents that touch a range of a file, in order. Holds one node per level: at most nine.
///
/// All chunks that a content names are the ids of its nodes and the chunks of its extents. Two trees are compared by
/// skipping the nodes that the other one has.
///
/// A forged tree may list one node a thousand times on every level: eight chunks then stand for 2^63 extents. Whoever
/// wants the *set* of chunks keeps the nodes it has seen and skips them the next time.
#[derive(Debug, Clone)]
pub struct ExtentWalk {
    range: Range<u64>,
    stack: Vec<Frame>,
    wanted: Option<Wanted>,
}

#[derive(Debug, Clone)]
struct Frame {
    node: TreeNode,
    next: usize,
    // Offset in the file of the entry `next`.
    offset: u64,
}

#[derive(Debug, Clone, Copy)]
struct Wanted {
    id: ChunkId,
    level: u8,
    offset: u64,
    len: u64,
}

impl ExtentWalk {
    /// All extents of a content; none for a directory or symlink.
    pub fn new(content: &Content) -> Result<Self, TreeError> {
        Self::range(content, 0..u64::MAX)
    }

    /// The extents that touch `range`.
    pub fn range(content: &Content, range: Range<u64>) -> Result<Self, TreeError> {
        content.ensure_valid().map_err(TreeError::Content)?;
        let mut walk = Self { range, stack: Vec::new(), wanted: None };
        match content {
            Content::File { body: Body::Inline(extents), .. } => {
                walk.stack.push(Frame { node: TreeNode::Extents(extents.clone()), next: 0, offset: 0 });
            }
            Content::File { size, body: Body::Tree { root, height, .. } } if walk.touches(0, *size) => {
                walk.wanted = Some(Wanted { id: *root, level: *height, offset: 0, len: *size });
            }
            _ => (),
        }
        Ok(walk)
    }

    /// What comes next; `None` at the end. A node that is needed is named again until it is supplied or skipped.
    pub fn step(&mut self) -> Option<WalkStep> {
        loop {
            if let Some(Wanted { id, offset, len, .. }) = self.wanted {
                return Some(WalkStep::Node { id, offset, len });
            }
            let frame = self.stack.last_mut()?;
            let offset = frame.offset;
            match &frame.node {
                TreeNode::Extents(extents) => match extents.get(frame.next).copied() {
                    None => self.leave(),
                    Some(extent) => {
                        frame.next += 1;
                        frame.offset += extent.len;
                        if self.touches(offset, extent.len) {
                            return Some(WalkStep::Extent { offset, extent });
                        }
                    }
                },
                TreeNode::Children { level, children } => match children.get(frame.next).copied() {
                    None => self.leave(),
                    Some((len, id)) => {
                        let level = level - 1;
                        frame.next += 1;
                        frame.offset += len;
                        if self.touches(offset, len) {
                            self.wanted = Some(Wanted { id, level, offset, len });
                        }
                    }
                },
            }
        }
    }

    /// The node that the last step named.
    pub fn supply(&mut self, chunk: &VerifiedChunk) -> Result<(), TreeError> {
        let wanted = self.wanted.ok_or(TreeError::NotAsked)?;
        if chunk.id() != wanted.id {
            return Err(TreeError::OtherChunk { wanted: wanted.id, found: chunk.id() });
        }
        let id = wanted.id;
        let node = TreeNode::decode(chunk.bytes()).map_err(|source| TreeError::Decode { id, source })?;
        if node.level() != wanted.level {
            return Err(TreeError::Decode { id, source: DecodeError::Bad("level") });
        }
        let found = node.span_bytes().unwrap_or(0);
        if found != wanted.len {
            return Err(TreeError::Length { id, wanted: wanted.len, found });
        }
        self.wanted = None;
        self.stack.push(Frame { node, next: 0, offset: wanted.offset });
        Ok(())
    }

    /// Leaves out the node that the last step named, and all that it lists.
    pub fn skip(&mut self) -> Result<(), TreeError> {
        self.wanted.take().map(drop).ok_or(TreeError::NotAsked)
    }

    /// Up to `count` nodes that will be asked for after the present one, so that they can be fetched ahead. Only those
    /// with the same parent are known.
    pub fn upcoming(&self, count: usize) -> Vec<ChunkId> {
        let frames = self.stack.iter().rev();
        let parent = frames.filter_map(|frame| match &frame.node {
            TreeNode::Children { children, .. } => Some((frame, children)),
            TreeNode::Extents(_) => None,
        });
        let Some((frame, children)) = parent.into_iter().next() else { return Vec::new() };
        let mut offset = frame.offset;
        let mut ids = Vec::new();
        for (len, id) in &children[frame.next..] {
            if ids.len() == count || offset >= self.range.end {
                break;
            }
            if self.touches(offset, *len) {
                ids.push(*id);
            }
            offset += len;
        }
        ids
    }

    fn touches(&self, offset: u64, len: u64) -> bool {
        offset < self.range.end && offset.saturating_add(len) > self.range.start
    }

    fn leave(&mut self) {
        self.stack.pop();
    }
}
