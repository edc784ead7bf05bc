//! A store that fails, from a seed: what real ones do on a bad day, and what broken ones do.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use polder_types::{PackId, ShareId};

use crate::store::total;
use crate::{PackListing, PackName, PackStore, Put, SignedUrl, StoreError};

/// How often what goes wrong, in thousandths of the calls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Faults {
    /// Longest delay before a call.
    pub latency_max: Duration,
    /// Calls that fail without any effect, and may be tried again.
    pub error: u16,
    /// Puts and deletes that are done, and answered by an error.
    pub lost_answer: u16,
    /// Puts that keep only the beginning and are acknowledged.
    pub torn: u16,
    /// Gets in whose answer one bit is turned.
    pub corrupt: u16,
    /// Puts that are acknowledged and keep nothing.
    pub lost: u16,
}

/// What went wrong so far: a test that met no fault has shown nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FaultCounts {
    /// Calls in all.
    pub calls: u64,
    /// See [`Faults::error`].
    pub error: u64,
    /// See [`Faults::lost_answer`].
    pub lost_answer: u64,
    /// See [`Faults::torn`].
    pub torn: u64,
    /// See [`Faults::corrupt`].
    pub corrupt: u64,
    /// See [`Faults::lost`].
    pub lost: u64,
}

/// Wraps a store. The same seed and the same calls give the same faults.
#[derive(Debug)]
pub struct FaultStore {
    inner: Arc<dyn PackStore>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    faults: Faults,
    counts: FaultCounts,
    random: u64,
}

impl FaultStore {
    /// Begins with these faults.
    pub fn new(inner: Arc<dyn PackStore>, seed: u64, faults: Faults) -> Self {
        Self { inner, state: Mutex::new(State { faults, counts: FaultCounts::default(), random: seed }) }
    }

    /// From now on these faults; `Faults::default()` heals the store.
    pub fn set(&self, faults: Faults) {
        self.with(|state| state.faults = faults);
    }

    /// What went wrong so far.
    pub fn counts(&self) -> FaultCounts {
        self.with(|state| state.counts)
    }

    fn with<T>(&self, run: impl FnOnce(&mut State) -> T) -> T {
        run(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Draws whether a fault happens, and counts it.
    fn draw(
        &self,
        fault: impl FnOnce(&Faults) -> u16,
        count: impl FnOnce(&mut FaultCounts) -> &mut u64,
    ) -> bool {
        self.with(|state| {
            let happens = state.next() % 1000 < u64::from(fault(&state.faults));
            *count(&mut state.counts) += u64::from(happens);
            happens
        })
    }

    async fn begin(&self, op: &'static str, name: PackName) -> Result<(), StoreError> {
        let wait = self.with(|state| {
            state.counts.calls += 1;
            state.faults.latency_max.mul_f64((state.next() % 1000) as f64 / 1000.0)
        });
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        if self.draw(|faults| faults.error, |counts| &mut counts.error) {
            return Err(injected(op, name));
        }
        Ok(())
    }

    fn answer<T>(&self, op: &'static str, name: PackName, value: T) -> Result<T, StoreError> {
        let lost = self.draw(|faults| faults.lost_answer, |counts| &mut counts.lost_answer);
        if lost { Err(injected(op, name)) } else { Ok(value) }
    }
}

impl State {
    // splitmix64: a few lines, and the sequence never changes with a dependency.
    fn next(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

fn injected(op: &'static str, name: PackName) -> StoreError {
    StoreError::Backend { op, name, retriable: true, source: "an injected fault".into() }
}

#[async_trait]
impl PackStore for FaultStore {
    async fn put(&self, name: PackName, parts: Vec<Bytes>) -> Result<Put, StoreError> {
        self.begin("put", name).await?;
        if self.draw(|faults| faults.lost, |counts| &mut counts.lost) {
            return Ok(Put::Stored);
        }
        let len = total(&parts);
        if len > 1 && self.draw(|faults| faults.torn, |counts| &mut counts.torn) {
            let keep = 1 + self.with(State::next) % (len - 1);
            let whole = Bytes::from(parts.concat());
            self.inner.put(name, vec![whole.slice(..keep as usize)]).await?;
            return Ok(Put::Stored);
        }
        let put = self.inner.put(name, parts).await?;
        self.answer("put", name, put)
    }

    async fn get(&self, name: PackName, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.begin("get", name).await?;
        let bytes = self.inner.get(name, range).await?;
        if !bytes.is_empty() && self.draw(|faults| faults.corrupt, |counts| &mut counts.corrupt) {
            let mut turned = bytes.to_vec();
            let at = self.with(State::next) as usize;
            turned[(at >> 3) % bytes.len()] ^= 1 << (at & 7);
            return Ok(turned.into());
        }
        Ok(bytes)
    }

    async fn size(&self, name: PackName) -> Result<u64, StoreError> {
        self.begin("look at", name).await?;
        self.inner.size(name).await
    }

    async fn delete(&self, name: PackName) -> Result<(), StoreError> {
        self.begin("delete", name).await?;
        self.inner.delete(name).await?;
        self.answer("delete", name, ())
    }

    async fn list(
        &self,
        share: ShareId,
        after: Option<PackId>,
        limit: usize,
    ) -> Result<Vec<PackListing>, StoreError> {
        self.begin("list", PackName { share, pack: after.unwrap_or(PackId::ZERO) }).await?;
        self.inner.list(share, after, limit).await
    }

    async fn sign_put(
        &self,
        name: PackName,
        object_bytes: u64,
        valid: Duration,
    ) -> Result<Option<SignedUrl>, StoreError> {
        self.begin("sign put of", name).await?;
        self.inner.sign_put(name, object_bytes, valid).await
    }

    async fn sign_get(&self, name: PackName, valid: Duration) -> Result<Option<SignedUrl>, StoreError> {
        self.begin("sign get of", name).await?;
        self.inner.sign_get(name, valid).await
    }
}
