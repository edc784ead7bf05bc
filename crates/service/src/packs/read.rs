//! Chunks out of packs, verified; and the chunks that a tree of extents names.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use polder_chunk::{
    ChunkLocation, ChunkSlot, ExtentWalk, OpenError, PackRef, Scratch, TreeError, TreeNode, VerifiedChunk,
    WalkStep,
};
use polder_ledger::{LedgerError, Located, PackState, TreeChunks};
use polder_packstore::{PackName, PackStore, StoreError};
use polder_types::{Body, ChunkId, Content, DecodeError, Reader, ShareId};

use crate::shares::OpenShare;

/// Most bytes of decoded nodes that are remembered.
const CACHE_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Why a chunk could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// No live pack of the share has it.
    #[error("chunk {0} is in no pack")]
    Missing(
        /// Which one.
        ChunkId,
    ),
    /// The share's rows.
    #[error("find chunks")]
    Ledger(#[from] LedgerError),
    /// A row of the chunk index.
    #[error("the place of chunk {id}")]
    Place {
        /// Which one.
        id: ChunkId,
        /// Why.
        #[source]
        source: DecodeError,
    },
    /// The store.
    #[error("read chunk {id}")]
    Store {
        /// Which one.
        id: ChunkId,
        /// Why.
        #[source]
        source: StoreError,
    },
    /// The bytes are not the chunk.
    #[error("open chunk {id}")]
    Open {
        /// Which one.
        id: ChunkId,
        /// Why.
        #[source]
        source: OpenError,
    },
    /// The tree is none.
    #[error("walk the tree of extents below {root}")]
    Tree {
        /// Which one.
        root: ChunkId,
        /// Why.
        #[source]
        source: TreeError,
    },
    /// A chunk that should be a node is none.
    #[error("chunk {id} is no node of a tree of extents")]
    Node {
        /// Which one.
        id: ChunkId,
        /// Why.
        #[source]
        source: DecodeError,
    },
}

impl ReadError {
    /// Whether what was asked for is wrong, and not the store or the disk.
    pub fn is_callers(&self) -> bool {
        matches!(self, Self::Tree { .. } | Self::Node { .. })
    }
}

/// The pack and the place of a located chunk.
pub fn location(id: ChunkId, located: &Located) -> Result<ChunkLocation, ReadError> {
    let place = |source| ReadError::Place { id, source };
    let mut meta = Reader::new(&located.meta);
    let pack = PackRef::decode(&mut meta).and_then(|pack| meta.end().map(|()| pack)).map_err(place)?;
    let mut slot = Reader::new(located.slot.as_bytes());
    let slot = ChunkSlot::decode(&mut slot).map_err(place)?;
    Ok(ChunkLocation { pack, slot })
}

/// Reads one chunk and proves it.
pub async fn read_chunk(
    packs: &dyn PackStore,
    share: &OpenShare,
    id: ChunkId,
) -> Result<VerifiedChunk, ReadError> {
    let db = share.db.clone();
    let located = tokio::task::spawn_blocking(move || db.read(|rows| polder_ledger::locate(rows, &[id])));
    let located = located.await.unwrap_or_else(|panic| {
        Err(LedgerError::Rows(polder_ledger::RowsError::Failed {
            doing: "find chunks",
            source: panic.into(),
        }))
    })?;
    let located = located.into_iter().next().flatten();
    let located = located.filter(|at| !matches!(at.state, PackState::Failed | PackState::Deleted));
    let location = location(id, &located.ok_or(ReadError::Missing(id))?)?;
    let name = PackName { share: share.id, pack: location.pack.id };
    let sealed = packs.get(name, location.slot.range()).await;
    let sealed = sealed.map_err(|source| ReadError::Store { id, source })?;
    // A node or small chunk opens in well under a millisecond.
    share
        .keys()
        .open_chunk(id, &location, &sealed, &mut Scratch::new())
        .map_err(|source| ReadError::Open { id, source })
}

/// Every chunk below the roots that `contents` name, nodes included, for the commit core. A node that is in no pack is
/// listed and not walked: the commit core then finds it missing, and its author sends it again.
pub async fn trees_below(
    packs: &dyn PackStore,
    cache: &TreeCache,
    share: &OpenShare,
    contents: impl Iterator<Item = &Content>,
) -> Result<TreeChunks, ReadError> {
    let mut trees: TreeChunks = BTreeMap::new();
    for content in contents {
        let Content::File { body: Body::Tree { root, .. }, .. } = content else { continue };
        if !trees.contains_key(root) {
            let below = tree_chunks(packs, cache, share, content, *root).await?;
            trees.insert(*root, below);
        }
    }
    Ok(trees)
}

async fn tree_chunks(
    packs: &dyn PackStore,
    cache: &TreeCache,
    share: &OpenShare,
    content: &Content,
    root: ChunkId,
) -> Result<Vec<ChunkId>, ReadError> {
    let tree = |source| ReadError::Tree { root, source };
    let mut below = BTreeSet::new();
    // A node that stands in a tree many times is walked once: else a few nodes could name more extents than anybody counts.
    let mut seen = BTreeSet::new();
    let mut walk = ExtentWalk::new(content).map_err(tree)?;
    while let Some(step) = walk.step() {
        match step {
            WalkStep::Extent { extent, .. } => below.extend(extent.chunk()),
            WalkStep::Node { id, len, .. } => {
                below.insert(id);
                if !seen.insert((id, len)) {
                    walk.skip().map_err(tree)?;
                    continue;
                }
                match cache.node(packs, share, id).await {
                    Ok(chunk) => walk.supply(&chunk).map_err(tree)?,
                    Err(ReadError::Missing(_)) => walk.skip().map_err(tree)?,
                    Err(error) => return Err(error),
                }
            }
        }
    }
    Ok(below.into_iter().collect())
}

/// Nodes of extent trees that were read and proven, the latest ones.
#[derive(Default)]
pub struct TreeCache {
    state: Mutex<CacheState>,
}

#[derive(Default)]
struct CacheState {
    nodes: HashMap<(ShareId, ChunkId), Arc<VerifiedChunk>>,
    /// In the order of their coming.
    order: VecDeque<(ShareId, ChunkId)>,
    bytes: usize,
}

impl TreeCache {
    /// The chunk of a node.
    pub async fn node(
        &self,
        packs: &dyn PackStore,
        share: &OpenShare,
        id: ChunkId,
    ) -> Result<Arc<VerifiedChunk>, ReadError> {
        let key = (share.id, id);
        if let Some(known) = self.lock().nodes.get(&key) {
            return Ok(known.clone());
        }
        let chunk = read_chunk(packs, share, id).await?;
        // Large data chunks must not come in under the name of nodes.
        TreeNode::decode(chunk.bytes()).map_err(|source| ReadError::Node { id, source })?;
        let chunk = Arc::new(chunk);
        let mut state = self.lock();
        if state.nodes.insert(key, chunk.clone()).is_none() {
            state.order.push_back(key);
            state.bytes += chunk.bytes().len();
        }
        while state.bytes > CACHE_BYTES_MAX
            && let Some(oldest) = state.order.pop_front()
        {
            let gone = state.nodes.remove(&oldest).map_or(0, |chunk| chunk.bytes().len());
            state.bytes -= gone;
        }
        Ok(chunk)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, CacheState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
