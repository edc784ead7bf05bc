//! Where chunks are, as far as the service has said lately. A hint: what is not here is asked for, what is wrong is
//! forgotten and asked for again.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard};

use polder_api::grpc::convert::PackPlace;
use polder_chunk::ChunkLocation;
use polder_types::{ChunkId, PackId};

/// Chunks remembered: some 120 bytes each.
const CHUNKS_KEPT_MAX: usize = 65_536;
/// Addresses of packs remembered.
const PACKS_KEPT_MAX: usize = 8_192;

/// A bounded memory of places and addresses.
#[derive(Debug, Default)]
pub(crate) struct Places(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    chunks: Bounded<ChunkId, ChunkLocation>,
    packs: Bounded<PackId, Arc<str>>,
}

/// A map that forgets what was put first.
#[derive(Debug)]
struct Bounded<K, V> {
    map: HashMap<K, V>,
    order: VecDeque<K>,
}

impl Places {
    /// Remembers where a chunk is.
    pub(crate) fn put(&self, id: ChunkId, location: ChunkLocation) {
        self.lock().chunks.put(id, location, CHUNKS_KEPT_MAX);
    }

    /// Remembers where packs can be had.
    pub(crate) fn put_packs(&self, packs: &[PackPlace]) {
        let mut inner = self.lock();
        for pack in packs {
            inner.packs.put(pack.id, pack.url.as_str().into(), PACKS_KEPT_MAX);
        }
    }

    /// Where a chunk is and its pack's address, if both are known.
    pub(crate) fn get(&self, id: ChunkId) -> Option<(ChunkLocation, Arc<str>)> {
        let inner = self.lock();
        let location = *inner.chunks.map.get(&id)?;
        let url = inner.packs.map.get(&location.pack.id)?;
        Some((location, Arc::clone(url)))
    }

    /// Forgets a place that was wrong, and the address of its pack.
    pub(crate) fn forget(&self, id: ChunkId) {
        let mut inner = self.lock();
        if let Some(location) = inner.chunks.map.remove(&id) {
            inner.packs.map.remove(&location.pack.id);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("no holder of this lock panics")
    }
}

impl<K, V> Default for Bounded<K, V> {
    fn default() -> Self {
        Self { map: HashMap::new(), order: VecDeque::new() }
    }
}

impl<K: Copy + Eq + Hash, V> Bounded<K, V> {
    fn put(&mut self, key: K, value: V, count_max: usize) {
        if self.map.insert(key, value).is_none() {
            self.order.push_back(key);
        }
        // A key that was removed and put again stands twice in the order; it is then forgotten early, which is harmless.
        while self.order.len() > count_max {
            if let Some(oldest) = self.order.pop_front() {
                self.map.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_are_forgotten() {
        let mut bounded = Bounded::default();
        for key in 0..10 {
            bounded.put(key, (), 3);
        }
        let mut left: Vec<i32> = bounded.map.into_keys().collect();
        left.sort_unstable();
        assert_eq!(left, [7, 8, 9]);
    }
}
