//! Tries again what may help, with growing delays.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use polder_types::{PackId, ShareId};

use crate::{PackBody, PackListing, PackName, PackStore, Put, SignedUrl, StoreError, Tail};

/// How often and how fast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Calls in all, at least one.
    pub attempts_max: u32,
    /// Delay after the first failure; doubled after each.
    pub delay_first: Duration,
    /// Longest delay.
    pub delay_max: Duration,
}

impl Default for RetryPolicy {
    /// Six calls within some six seconds: a caller that waits longer has its own back-off.
    fn default() -> Self {
        Self { attempts_max: 6, delay_first: Duration::from_millis(200), delay_max: Duration::from_secs(60) }
    }
}

/// Wraps a store. Every call of a [`PackStore`] may be repeated: a put that was done and not answered is found
/// present. Only [`PackStore::put_stream`] is passed on once, since its bytes are gone.
#[derive(Debug)]
pub struct RetryStore {
    inner: Arc<dyn PackStore>,
    policy: RetryPolicy,
    calls: AtomicU64,
}

impl RetryStore {
    /// Over a store.
    pub fn new(inner: Arc<dyn PackStore>, policy: RetryPolicy) -> Self {
        Self { inner, policy, calls: AtomicU64::new(0) }
    }

    /// Waits before the next attempt, or gives the error back.
    async fn pause(&self, attempt: &mut u32, error: StoreError) -> Result<(), StoreError> {
        *attempt += 1;
        if *attempt >= self.policy.attempts_max || !error.is_retriable() {
            return Err(error);
        }
        tokio::time::sleep(self.delay(*attempt)).await;
        Ok(())
    }

    fn delay(&self, attempt: u32) -> Duration {
        let doubled = self.policy.delay_first.saturating_mul(1 << (attempt - 1).min(20));
        let whole = doubled.min(self.policy.delay_max);
        // Between half and all of it, so that callers that failed together do not come back together.
        let spread = self.calls.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54;
        whole.mul_f64(0.5 + spread as f64 / 2048.0)
    }
}

macro_rules! retried {
    ($self:ident, $call:expr) => {{
        let mut attempt = 0;
        loop {
            match $call.await {
                Ok(value) => return Ok(value),
                Err(error) => $self.pause(&mut attempt, error).await?,
            }
        }
    }};
}

#[async_trait]
impl PackStore for RetryStore {
    async fn put(&self, name: PackName, parts: Vec<Bytes>) -> Result<Put, StoreError> {
        retried!(self, self.inner.put(name, parts.clone()))
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
        retried!(self, self.inner.get(name, range.clone()))
    }

    async fn get_ranges(&self, name: PackName, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, StoreError> {
        retried!(self, self.inner.get_ranges(name, ranges))
    }

    async fn tail(&self, name: PackName, bytes: u64) -> Result<Tail, StoreError> {
        retried!(self, self.inner.tail(name, bytes))
    }

    async fn size(&self, name: PackName) -> Result<u64, StoreError> {
        retried!(self, self.inner.size(name))
    }

    async fn delete(&self, name: PackName) -> Result<(), StoreError> {
        retried!(self, self.inner.delete(name))
    }

    async fn list(
        &self,
        share: ShareId,
        after: Option<PackId>,
        limit: usize,
    ) -> Result<Vec<PackListing>, StoreError> {
        retried!(self, self.inner.list(share, after, limit))
    }

    async fn sign_put(
        &self,
        name: PackName,
        object_bytes: u64,
        valid: Duration,
    ) -> Result<Option<SignedUrl>, StoreError> {
        retried!(self, self.inner.sign_put(name, object_bytes, valid))
    }

    async fn sign_get(&self, name: PackName, valid: Duration) -> Result<Option<SignedUrl>, StoreError> {
        retried!(self, self.inner.sign_get(name, valid))
    }
}

#[cfg(test)]
mod tests {
    use polder_types::{PackId, ShareId};

    use super::*;
    use crate::{FaultStore, Faults, MemoryStore, conformance};

    const POLICY: RetryPolicy = RetryPolicy {
        attempts_max: 40,
        delay_first: Duration::from_micros(1),
        delay_max: Duration::from_micros(10),
    };

    #[test]
    fn the_delay_grows_up_to_its_bound() {
        let store = RetryStore::new(Arc::new(MemoryStore::new()), RetryPolicy::default());
        for (attempt, millis) in [(1, 200), (2, 400), (5, 3200), (30, 60_000)] {
            let delay = store.delay(attempt);
            assert!(
                delay >= Duration::from_millis(millis / 2) && delay <= Duration::from_millis(millis),
                "{delay:?}"
            );
        }
    }

    #[tokio::test]
    async fn a_failing_store_conforms_when_retried() {
        let faults = Faults { error: 300, latency_max: Duration::from_micros(50), ..Faults::default() };
        let failing = Arc::new(FaultStore::new(Arc::new(MemoryStore::new()), 7, faults));
        conformance::run(Arc::new(RetryStore::new(failing.clone(), POLICY))).await;
        assert!(failing.counts().error > 20, "{:?}", failing.counts());
    }

    #[tokio::test]
    async fn a_lost_answer_is_found_present() {
        let faults = Faults { lost_answer: 1000, ..Faults::default() };
        let failing = Arc::new(FaultStore::new(Arc::new(MemoryStore::new()), 1, faults));
        let store = RetryStore::new(failing.clone(), RetryPolicy { attempts_max: 2, ..POLICY });
        let name = PackName { share: ShareId([1; 16]), pack: PackId([1; 16]) };
        let error = store.put(name, vec![Bytes::from_static(b"abc")]).await.expect_err("each answer is lost");
        assert!(error.is_retriable());
        assert_eq!(failing.counts().calls, 2);
        failing.set(Faults::default());
        assert_eq!(store.put(name, vec![Bytes::from_static(b"abc")]).await.unwrap(), Put::Present);
    }

    #[tokio::test]
    async fn what_no_retry_helps_is_not_retried() {
        let counted = Arc::new(FaultStore::new(Arc::new(MemoryStore::new()), 1, Faults::default()));
        let store = RetryStore::new(counted.clone(), POLICY);
        let name = PackName { share: ShareId([1; 16]), pack: PackId([1; 16]) };
        assert!(matches!(store.size(name).await, Err(StoreError::NotFound { .. })));
        assert_eq!(counted.counts().calls, 1);
    }
}
