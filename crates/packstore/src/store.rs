//! The port.

use std::fmt;
use std::ops::Range;
use std::pin::Pin;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{Stream, StreamExt};
use polder_chunk::PACK_BYTES_MAX;
use polder_types::{PackId, ShareId};

use crate::{BodyError, StoreError};

/// Most packs of one page of a listing.
pub const LIST_MAX: usize = 1000;

/// Where a pack is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackName {
    /// Whose pack.
    pub share: ShareId,
    /// Which one.
    pub pack: PackId,
}

impl fmt::Display for PackName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.share, self.pack)
    }
}

/// What a put found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// The pack is new, and durable.
    Stored,
    /// A pack of this name and length is there, and durable: an answer was lost, or two put the same.
    Present,
}

/// The end of a pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tail {
    /// Length of the whole pack.
    pub object_bytes: u64,
    /// Its last bytes: as many as were asked for, or all.
    pub bytes: Bytes,
}

/// An entry of a listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PackListing {
    /// Which pack.
    pub pack: PackId,
    /// Its length.
    pub bytes: u64,
}

/// A request that somebody without the store's credentials may make until it expires.
#[derive(Clone, PartialEq, Eq)]
pub struct SignedUrl {
    /// Where to send it.
    pub url: String,
    /// Headers that must be sent with it, exactly so.
    pub headers: Vec<(String, String)>,
}

impl fmt::Debug for SignedUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The query holds the signature, which must not reach a log.
        let shown = self.url.split('?').next().unwrap_or_default();
        write!(f, "SignedUrl({shown}?…)")
    }
}

/// Bytes of a pack as they arrive.
pub type PackBody<'a> = Pin<Box<dyn Stream<Item = Result<Bytes, BodyError>> + Send + 'a>>;

/// Keeps packs. Every method may be called at any time from any task; dropping a future leaves the pack whole or absent.
#[async_trait]
pub trait PackStore: Send + Sync + fmt::Debug {
    /// Stores a pack from parts, if absent, and makes it durable. Another length under the same name is
    /// [`StoreError::Conflict`], and the old bytes stay; equal length is taken for equal, since ids are random and what is
    /// relied on is read back and verified.
    async fn put(&self, name: PackName, parts: Vec<Bytes>) -> Result<Put, StoreError>;

    /// As [`Self::put`], from bytes that are still arriving. Nothing is stored unless exactly `object_bytes` come.
    async fn put_stream(
        &self,
        name: PackName,
        object_bytes: u64,
        mut body: PackBody<'_>,
    ) -> Result<Put, StoreError> {
        ensure_storable(name, object_bytes)?;
        let mut parts = Vec::new();
        let mut arrived = 0;
        while let Some(part) = body.next().await {
            let part = part.map_err(|source| StoreError::Body { name, source })?;
            arrived += part.len() as u64;
            ensure_no_longer(name, object_bytes, arrived)?;
            parts.push(part);
        }
        ensure_whole(name, object_bytes, arrived)?;
        self.put(name, parts).await
    }

    /// Exactly these bytes of a pack. A range that does not lie in the pack is [`StoreError::Range`].
    async fn get(&self, name: PackName, range: Range<u64>) -> Result<Bytes, StoreError>;

    /// Several ranges of one pack, in the order asked for.
    async fn get_ranges(&self, name: PackName, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, StoreError> {
        let mut out = Vec::with_capacity(ranges.len());
        for range in ranges {
            out.push(self.get(name, range.clone()).await?);
        }
        Ok(out)
    }

    /// The last `bytes` of a pack, or all of it when it is shorter.
    async fn tail(&self, name: PackName, bytes: u64) -> Result<Tail, StoreError> {
        let object_bytes = self.size(name).await?;
        let start = object_bytes.saturating_sub(bytes);
        Ok(Tail { object_bytes, bytes: self.get(name, start..object_bytes).await? })
    }

    /// Length of a pack.
    async fn size(&self, name: PackName) -> Result<u64, StoreError>;

    /// Deletes a pack. One that is absent is no error.
    async fn delete(&self, name: PackName) -> Result<(), StoreError>;

    /// The packs of a share after `after`, in the order of their ids: at most `limit` and [`LIST_MAX`]. An empty page is
    /// the end. Packs that come or go meanwhile may be in it or not.
    async fn list(
        &self,
        share: ShareId,
        after: Option<PackId>,
        limit: usize,
    ) -> Result<Vec<PackListing>, StoreError>;

    /// Leave to put a pack of this length directly into the store; `None` where it cannot be given.
    async fn sign_put(
        &self,
        name: PackName,
        object_bytes: u64,
        valid: Duration,
    ) -> Result<Option<SignedUrl>, StoreError> {
        let _ = (name, object_bytes, valid);
        Ok(None)
    }

    /// Leave to get ranges of a pack directly from the store; `None` where it cannot be given.
    async fn sign_get(&self, name: PackName, valid: Duration) -> Result<Option<SignedUrl>, StoreError> {
        let _ = (name, valid);
        Ok(None)
    }
}

/// Refuses what no reader would look at as a pack.
pub(crate) fn ensure_storable(name: PackName, object_bytes: u64) -> Result<(), StoreError> {
    if (1..=PACK_BYTES_MAX).contains(&object_bytes) {
        Ok(())
    } else {
        Err(StoreError::Size { name, found: object_bytes })
    }
}

pub(crate) fn ensure_no_longer(name: PackName, wanted: u64, arrived: u64) -> Result<(), StoreError> {
    if arrived <= wanted { Ok(()) } else { Err(StoreError::BodyLength { name, wanted, found: arrived }) }
}

pub(crate) fn ensure_whole(name: PackName, wanted: u64, arrived: u64) -> Result<(), StoreError> {
    if arrived == wanted { Ok(()) } else { Err(StoreError::BodyLength { name, wanted, found: arrived }) }
}

/// Refuses a range that does not lie in a pack of `object_bytes`.
pub(crate) fn ensure_range(name: PackName, range: &Range<u64>, object_bytes: u64) -> Result<(), StoreError> {
    if range.start <= range.end && range.end <= object_bytes {
        Ok(())
    } else {
        Err(StoreError::Range { name, start: range.start, end: range.end, object_bytes })
    }
}

/// What a put means when the name is taken.
pub(crate) fn found_present(name: PackName, wanted: u64, present: u64) -> Result<Put, StoreError> {
    if wanted == present { Ok(Put::Present) } else { Err(StoreError::Conflict { name, wanted, present }) }
}

pub(crate) fn total(parts: &[Bytes]) -> u64 {
    parts.iter().map(|part| part.len() as u64).sum()
}
