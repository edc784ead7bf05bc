//! Getting chunks: find them, get ranges of packs that hold many at once, open each.
//!
//! Called from a worker thread; the network runs beside it, a few ranges ahead, so that opening and writing overlap
//! with the transfer. Memory: at most [`RANGES_AHEAD`] + 2 ranges of [`RANGE_BYTES_MAX`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use polder_chunk::{ChunkLocation, OpenError, PackKey, PackRef, Scratch, VerifiedChunk};
use polder_engine::{Failure, FailureClass};
use polder_types::{ChunkId, PackId};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::{Places, Remote, RemoteError, Share};

/// Largest range that is asked for at once.
const RANGE_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Bytes that are fetched in vain rather than asking a second time.
const GAP_BYTES_MAX: u64 = 64 * 1024;
/// Ranges on their way at once.
const RANGES_AHEAD: usize = 3;
/// How often a chunk is looked for again after its place was wrong.
const TRIES: u32 = 3;

/// Why chunks could not be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    /// The service or store did not answer.
    #[error("fetch from the share")]
    Remote(#[from] RemoteError),
    /// The share does not have a chunk that it names.
    #[error("the share lacks a chunk of this item")]
    Missing(ChunkId),
    /// What came is not what was asked for, again and again.
    #[error("open a chunk of this item")]
    Damaged(#[source] OpenError),
    /// The taker failed.
    #[error(transparent)]
    Sink(anyhow::Error),
}

impl FetchError {
    /// The failure as the engine is told.
    pub(crate) fn failure(&self) -> Failure {
        let class = match self {
            Self::Remote(error) => return error.failure(),
            Self::Missing(_) | Self::Damaged(_) => FailureClass::Damaged,
            Self::Sink(_) => FailureClass::Other,
        };
        Failure { class, text: crate::status::chain(self).into() }
    }
}

/// Gets chunks of one share.
#[derive(Debug, Clone)]
pub(crate) struct Fetcher {
    /// Keys.
    pub share: Share,
    /// The service.
    pub remote: Arc<Remote>,
    /// Where chunks are.
    pub places: Arc<Places>,
    /// Where the network runs.
    pub runtime: Handle,
}

/// A chunk and where it is.
type Located = (ChunkId, ChunkLocation);

/// Chunks of one pack that are fetched with one request.
#[derive(Debug)]
struct Run {
    pack: PackRef,
    url: Arc<str>,
    range: Range<u64>,
    chunks: Vec<Located>,
}

/// What opens chunks: kept by a thread over many fetches.
#[derive(Debug, Default)]
struct Opener {
    keys: HashMap<PackId, Arc<PackKey>>,
    scratch: Scratch,
}

impl Fetcher {
    /// Hands every one of `ids` to `sink` once, verified, in the order of packs. A place that turns out to be wrong is
    /// asked for again.
    pub(crate) fn fetch(
        &self,
        ids: impl IntoIterator<Item = ChunkId>,
        sink: &mut dyn FnMut(VerifiedChunk) -> anyhow::Result<()>,
    ) -> Result<(), FetchError> {
        let mut wanted: BTreeSet<ChunkId> = ids.into_iter().collect();
        let mut opener = Opener::default();
        for tries_left in (0..TRIES).rev() {
            if wanted.is_empty() {
                break;
            }
            let runs = self.plan(&wanted)?;
            match self.carry_out(runs, &mut opener, &mut wanted, sink) {
                Err(error) if tries_left > 0 && error.is_wrong_place() => {
                    wanted.iter().for_each(|id| self.places.forget(*id));
                }
                outcome => outcome?,
            }
        }
        Ok(())
    }

    /// One chunk.
    pub(crate) fn fetch_one(&self, id: ChunkId) -> Result<VerifiedChunk, FetchError> {
        let mut found = None;
        self.fetch([id], &mut |chunk| {
            found = Some(chunk);
            Ok(())
        })?;
        found.ok_or(FetchError::Missing(id))
    }

    fn plan(&self, wanted: &BTreeSet<ChunkId>) -> Result<Vec<Run>, FetchError> {
        let unknown: Vec<ChunkId> =
            wanted.iter().copied().filter(|id| self.places.get(*id).is_none()).collect();
        if !unknown.is_empty() {
            self.runtime.block_on(self.remote.locate(&unknown, &self.places))?;
        }
        let mut packs: BTreeMap<PackId, (PackRef, Arc<str>, Vec<Located>)> = BTreeMap::new();
        for id in wanted {
            let (location, url) = self.places.get(*id).ok_or(FetchError::Missing(*id))?;
            let pack = packs.entry(location.pack.id).or_insert_with(|| (location.pack, url, Vec::new()));
            pack.2.push((*id, location));
        }
        Ok(packs.into_values().flat_map(|(pack, url, chunks)| runs(pack, &url, chunks)).collect())
    }

    fn carry_out(
        &self,
        runs: Vec<Run>,
        opener: &mut Opener,
        wanted: &mut BTreeSet<ChunkId>,
        sink: &mut dyn FnMut(VerifiedChunk) -> anyhow::Result<()>,
    ) -> Result<(), FetchError> {
        let (to, mut from) = mpsc::channel::<Result<(Run, Bytes), RemoteError>>(1);
        let remote = Arc::clone(&self.remote);
        let network = self.runtime.spawn(async move {
            let gets = futures::stream::iter(runs.into_iter().map(|run| {
                let remote = Arc::clone(&remote);
                async move { remote.get(&run.url, run.range.clone()).await.map(|bytes| (run, bytes)) }
            }));
            let mut gets = gets.buffered(RANGES_AHEAD);
            while let Some(got) = gets.next().await {
                let failed = got.is_err();
                if to.send(got).await.is_err() || failed {
                    break;
                }
            }
        });
        let outcome = (|| {
            while let Some(got) = from.blocking_recv() {
                let (run, bytes) = got?;
                for (id, location) in &run.chunks {
                    let chunk =
                        opener.open(&self.share, *id, location, &run, &bytes).map_err(FetchError::Damaged)?;
                    sink(chunk).map_err(FetchError::Sink)?;
                    wanted.remove(id);
                }
            }
            Ok(())
        })();
        network.abort();
        outcome
    }
}

impl FetchError {
    fn is_wrong_place(&self) -> bool {
        match self {
            Self::Remote(error) => error.is_stale_address(),
            Self::Damaged(_) => true,
            Self::Missing(_) | Self::Sink(_) => false,
        }
    }
}

impl Opener {
    fn open(
        &mut self,
        share: &Share,
        id: ChunkId,
        location: &ChunkLocation,
        run: &Run,
        bytes: &Bytes,
    ) -> Result<VerifiedChunk, OpenError> {
        let key = match self.keys.get(&location.pack.id) {
            Some(key) => Arc::clone(key),
            None => {
                let key = Arc::new(share.keys.pack_key(location.pack)?);
                self.keys.insert(location.pack.id, Arc::clone(&key));
                key
            }
        };
        let place = location.slot.range();
        let inside = (place.start - run.range.start) as usize..(place.end - run.range.start) as usize;
        key.open(id, &location.slot, &bytes[inside], &mut self.scratch)
    }
}

/// Cuts the chunks of one pack into ranges: neighbours together, small gaps included.
fn runs(pack: PackRef, url: &Arc<str>, mut chunks: Vec<Located>) -> Vec<Run> {
    chunks.sort_unstable_by_key(|(_, location)| location.slot.offset);
    let mut runs: Vec<Run> = Vec::new();
    for (id, location) in chunks {
        let place = location.slot.range();
        match runs.last_mut() {
            Some(run)
                if place.start <= run.range.end + GAP_BYTES_MAX
                    && place.end - run.range.start <= RANGE_BYTES_MAX =>
            {
                run.range.end = run.range.end.max(place.end);
                run.chunks.push((id, location));
            }
            _ => runs.push(Run { pack, url: Arc::clone(url), range: place, chunks: vec![(id, location)] }),
        }
    }
    debug_assert!(runs.iter().all(|run| run.chunks.iter().all(|(_, location)| location.pack == run.pack)));
    runs
}

#[cfg(test)]
mod tests {
    use polder_chunk::{ChunkSlot, Compression, KeyGeneration, PackNonce};

    use super::*;

    fn pack() -> PackRef {
        PackRef { id: PackId([1; 16]), generation: KeyGeneration(1), nonce: PackNonce([2; 32]) }
    }

    fn at(n: u8, offset: u32, len: u32) -> (ChunkId, ChunkLocation) {
        let slot = ChunkSlot::new(n.into(), offset, len + 16, len, Compression::None).unwrap();
        (ChunkId([n; 32]), ChunkLocation { pack: pack(), slot })
    }

    #[test]
    fn neighbours_share_a_request_and_distant_ones_do_not() {
        let url: Arc<str> = "/pack".into();
        let chunks = vec![at(3, 10_000_000, 100), at(1, 0, 1000), at(2, 1016, 1000), at(4, 10_050_000, 100)];
        let runs = runs(pack(), &url, chunks);
        let ranges: Vec<_> = runs.iter().map(|run| (run.range.clone(), run.chunks.len())).collect();
        assert_eq!(ranges, [(0..2032, 2), (10_000_000..10_050_116, 2)]);
    }

    #[test]
    fn a_request_has_a_bound() {
        let url: Arc<str> = "/pack".into();
        let chunks = (0..64).map(|n| at(n, u32::from(n) * 500_016, 500_000)).collect();
        let runs = runs(pack(), &url, chunks);
        assert!(runs.len() > 7 && runs.iter().all(|run| run.range.end - run.range.start <= RANGE_BYTES_MAX));
    }
}
