//! Packs in memory: for tests and simulations.

use std::collections::BTreeMap;
use std::ops::{Bound, Range};
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use polder_types::{PackId, ShareId};

use crate::store::{ensure_range, ensure_storable, found_present, total};
use crate::{LIST_MAX, PackListing, PackName, PackStore, Put, StoreError};

/// Keeps packs as long as it lives.
#[derive(Debug, Default)]
pub struct MemoryStore {
    packs: Mutex<BTreeMap<PackName, Bytes>>,
}

impl MemoryStore {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces the bytes of a pack, as a broken disk would. For tests.
    pub fn damage(&self, name: PackName, change: impl FnOnce(&mut Vec<u8>)) {
        let mut packs = self.lock();
        let mut bytes = packs.get(&name).map(|bytes| bytes.to_vec()).unwrap_or_default();
        change(&mut bytes);
        packs.insert(name, bytes.into());
    }

    // Every change is one call on the map, so a panic elsewhere leaves nothing half done.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<PackName, Bytes>> {
        self.packs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bytes(&self, name: PackName) -> Result<Bytes, StoreError> {
        self.lock().get(&name).cloned().ok_or(StoreError::NotFound { name })
    }
}

#[async_trait]
impl PackStore for MemoryStore {
    async fn put(&self, name: PackName, parts: Vec<Bytes>) -> Result<Put, StoreError> {
        let len = total(&parts);
        ensure_storable(name, len)?;
        let mut packs = self.lock();
        if let Some(present) = packs.get(&name) {
            return found_present(name, len, present.len() as u64);
        }
        packs.insert(name, parts.concat().into());
        Ok(Put::Stored)
    }

    async fn get(&self, name: PackName, range: Range<u64>) -> Result<Bytes, StoreError> {
        let bytes = self.bytes(name)?;
        ensure_range(name, &range, bytes.len() as u64)?;
        Ok(bytes.slice(range.start as usize..range.end as usize))
    }

    async fn size(&self, name: PackName) -> Result<u64, StoreError> {
        Ok(self.bytes(name)?.len() as u64)
    }

    async fn delete(&self, name: PackName) -> Result<(), StoreError> {
        self.lock().remove(&name);
        Ok(())
    }

    async fn list(
        &self,
        share: ShareId,
        after: Option<PackId>,
        limit: usize,
    ) -> Result<Vec<PackListing>, StoreError> {
        let packs = self.lock();
        let start = match after {
            Some(pack) => Bound::Excluded(PackName { share, pack }),
            None => Bound::Included(PackName { share, pack: PackId::ZERO }),
        };
        let listing = packs
            .range((start, Bound::Unbounded))
            .take_while(|(name, _)| name.share == share)
            .map(|(name, bytes)| PackListing { pack: name.pack, bytes: bytes.len() as u64 });
        Ok(listing.take(limit.min(LIST_MAX)).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{FaultStore, Faults, conformance};

    #[tokio::test]
    async fn memory_conforms() {
        conformance::run(Arc::new(MemoryStore::new())).await;
        let healthy = FaultStore::new(Arc::new(MemoryStore::new()), 1, Faults::default());
        conformance::run(Arc::new(healthy)).await;
    }

    /// The suite is worth something only if it notices what broken stores do.
    #[tokio::test]
    async fn broken_stores_do_not_conform() {
        let kinds = [
            Faults { error: 100, ..Faults::default() },
            Faults { lost_answer: 100, ..Faults::default() },
            Faults { torn: 100, ..Faults::default() },
            Faults { corrupt: 100, ..Faults::default() },
            Faults { lost: 100, ..Faults::default() },
        ];
        for faults in kinds {
            let store = Arc::new(FaultStore::new(Arc::new(MemoryStore::new()), 1, faults));
            let checked = tokio::spawn(conformance::run(store.clone())).await;
            assert!(checked.is_err(), "{faults:?} was not noticed: {:?}", store.counts());
        }
    }
}
