//! Packs in object storage: the port, its forms, faults and conformance suite.
//!
//! A [`PackStore`] keeps whole objects under the name (share, pack) and gives back ranges of them. Forms: memory
//! ([`MemoryStore`]), a folder ([`FolderStore`]), an object store ([`BucketStore`]); [`open`] chooses by URL. Beside the
//! trait, by wrapping it: [`CachedStore`], [`RetryStore`], [`FaultStore`].
//!
//! What a store promises, and `conformance` checks on every form: a pack is there whole or not at all; what
//! [`PackStore::put`] has acknowledged survives a power cut; a name never gets other bytes; a range is exactly what was
//! asked for or an error. What it does not promise is that the bytes are right: everything in a pack is sealed, and
//! whoever reads it checks it (`docs/formats/pack.md`).
//!
//! Architecture invariant: no file name, no node and no key reaches this crate.
//!
//! Architecture invariant: nothing here retries, caches or logs by itself; the program stacks the wrappers it wants.

mod bucket;
mod cache;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod error;
mod fault;
mod folder;
mod folder_put;
mod memory;
mod retry;
mod store;
mod url;

pub use bucket::BucketStore;
pub use cache::CachedStore;
pub use error::{BodyError, OpenError, StoreError};
pub use fault::{FaultCounts, FaultStore, Faults};
pub use folder::FolderStore;
pub use memory::MemoryStore;
pub use retry::{RetryPolicy, RetryStore};
pub use store::{LIST_MAX, PackBody, PackListing, PackName, PackStore, Put, SignedUrl, Tail};
pub use url::open;
