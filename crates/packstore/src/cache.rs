//! A small cache of ranges in memory. Packs never change, so what was read stays right until the pack is deleted.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use polder_types::{PackId, ShareId};

use crate::{PackBody, PackListing, PackName, PackStore, Put, SignedUrl, StoreError};

// A larger range would push out what many small ones brought.
const ENTRY_SHARE: u64 = 8;

/// Wraps a store, and keeps the ranges that were last read.
#[derive(Debug)]
pub struct CachedStore {
    inner: Arc<dyn PackStore>,
    bytes_max: u64,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    ranges: BTreeMap<(PackName, u64), (Bytes, u64)>,
    // By last use.
    uses: BTreeMap<u64, (PackName, u64)>,
    next_use: u64,
    bytes: u64,
}

impl CachedStore {
    /// Holds up to `bytes_max` bytes of ranges.
    pub fn new(inner: Arc<dyn PackStore>, bytes_max: u64) -> Self {
        Self { inner, bytes_max, held: Mutex::default() }
    }

    fn with<T>(&self, run: impl FnOnce(&mut Held) -> T) -> T {
        run(&mut self.held.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn keep(&self, name: PackName, start: u64, bytes: &Bytes) {
        let len = bytes.len() as u64;
        if len == 0 || len > self.bytes_max / ENTRY_SHARE {
            return;
        }
        self.with(|held| {
            // A copy: the range may be a window on something much larger.
            held.insert((name, start), Bytes::copy_from_slice(bytes));
            while held.bytes > self.bytes_max {
                let Some((_, oldest)) = held.uses.pop_first() else { break };
                held.remove(&oldest);
            }
        });
    }
}

impl Held {
    fn find(&mut self, name: PackName, range: &Range<u64>) -> Option<Bytes> {
        let (key, (bytes, _)) = self.ranges.range(..=(name, range.start)).next_back()?;
        let (key, bytes) = (*key, bytes.clone());
        let end = key.1 + bytes.len() as u64;
        if key.0 != name || range.start > range.end || range.end > end {
            return None;
        }
        self.insert(key, bytes.clone());
        Some(bytes.slice((range.start - key.1) as usize..(range.end - key.1) as usize))
    }

    /// Puts or touches an entry. Of two that begin at one place the longer stays.
    fn insert(&mut self, key: (PackName, u64), bytes: Bytes) {
        let kept = match self.remove(&key) {
            Some(old) if old.len() > bytes.len() => old,
            _ => bytes,
        };
        self.bytes += kept.len() as u64;
        self.uses.insert(self.next_use, key);
        self.ranges.insert(key, (kept, self.next_use));
        self.next_use += 1;
    }

    fn remove(&mut self, key: &(PackName, u64)) -> Option<Bytes> {
        let (bytes, used) = self.ranges.remove(key)?;
        self.uses.remove(&used);
        self.bytes -= bytes.len() as u64;
        Some(bytes)
    }
}

#[async_trait]
impl PackStore for CachedStore {
    async fn put(&self, name: PackName, parts: Vec<Bytes>) -> Result<Put, StoreError> {
        self.inner.put(name, parts).await
    }

    async fn put_stream(
        &self,
        name: PackName,
        object_bytes: u64,
        body: PackBody<'_>,
    ) -> Result<Put, StoreError> {
        self.inner.put_stream(name, object_bytes, body).await
    }

    async fn get(&self, name: PackName, range: Range<u64>) -> Result<Bytes, StoreError> {
        if let Some(bytes) = self.with(|held| held.find(name, &range)) {
            return Ok(bytes);
        }
        let bytes = self.inner.get(name, range.clone()).await?;
        self.keep(name, range.start, &bytes);
        Ok(bytes)
    }

    async fn size(&self, name: PackName) -> Result<u64, StoreError> {
        self.inner.size(name).await
    }

    /// RACE: a range that is being read while its pack is deleted may be kept afterwards. It is right, and ages out.
    async fn delete(&self, name: PackName) -> Result<(), StoreError> {
        self.with(|held| {
            let keys: Vec<_> = held.ranges.range((name, 0)..=(name, u64::MAX)).map(|(key, _)| *key).collect();
            keys.iter().for_each(|key| drop(held.remove(key)));
        });
        self.inner.delete(name).await
    }

    async fn list(
        &self,
        share: ShareId,
        after: Option<PackId>,
        limit: usize,
    ) -> Result<Vec<PackListing>, StoreError> {
        self.inner.list(share, after, limit).await
    }

    async fn sign_put(
        &self,
        name: PackName,
        object_bytes: u64,
        valid: Duration,
    ) -> Result<Option<SignedUrl>, StoreError> {
        self.inner.sign_put(name, object_bytes, valid).await
    }

    async fn sign_get(&self, name: PackName, valid: Duration) -> Result<Option<SignedUrl>, StoreError> {
        self.inner.sign_get(name, valid).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FaultStore, Faults, MemoryStore, conformance};

    #[tokio::test]
    async fn a_cached_store_conforms() {
        conformance::run(Arc::new(CachedStore::new(Arc::new(MemoryStore::new()), 100_000))).await;
        conformance::run(Arc::new(CachedStore::new(Arc::new(MemoryStore::new()), 0))).await;
    }

    #[tokio::test]
    async fn ranges_are_read_once_and_bounded() {
        let counted = Arc::new(FaultStore::new(Arc::new(MemoryStore::new()), 0, Faults::default()));
        let store = CachedStore::new(counted.clone(), 800);
        let name = PackName { share: ShareId([1; 16]), pack: PackId([1; 16]) };
        let whole: Vec<u8> = (0..10_000u32).map(|at| at as u8).collect();
        store.put(name, vec![whole.clone().into()]).await.unwrap();
        let calls = || counted.counts().calls;
        let before = calls();
        for (range, read) in
            [(0..100, 1), (0..100, 1), (10..90, 1), (50..101, 2), (1000..1101, 3), (1000..1101, 4)]
        {
            let bytes = store.get(name, range.clone()).await.unwrap();
            assert_eq!(&bytes[..], &whole[range.start as usize..range.end as usize]);
            assert_eq!(calls() - before, read, "{range:?}");
        }
        for start in 0..50 {
            store.get(name, start * 100..start * 100 + 100).await.unwrap();
            assert!(store.with(|held| held.bytes <= 800 && held.uses.len() == held.ranges.len()));
        }
        store.delete(name).await.unwrap();
        assert!(matches!(store.get(name, 4900..5000).await, Err(StoreError::NotFound { .. })));
        assert_eq!(store.with(|held| (held.bytes, held.ranges.len())), (0, 0));
    }
}
