//! Packs in an object store: S3, Azure Blob, Google Cloud Storage, and whatever speaks their protocols.
//!
//! Objects are `PREFIX/packs/SHARE/PACK`. Ids are random, so the names spread by themselves. Acknowledged means durable:
//! these stores promise that.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::signer::{HeaderName, HeaderValue, Method, SignedUrlOptions, Signer};
use object_store::{
    Error, GetOptions, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload,
};
use polder_types::{PackId, ShareId};

use crate::store::{ensure_range, ensure_storable, found_present, total};
use crate::{LIST_MAX, PackListing, PackName, PackStore, Put, SignedUrl, StoreError};

/// How a kind of store differs from the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    S3,
    Azure,
    Gcs,
    /// A stand-in for tests: it signs nothing, and lists in no order.
    Plain,
}

/// Keeps packs in a bucket (a container, in Azure).
#[derive(Debug, Clone)]
pub struct BucketStore {
    store: Arc<dyn ObjectStore>,
    signer: Option<Arc<dyn Signer>>,
    prefix: Path,
    dialect: Dialect,
}

impl BucketStore {
    /// Over a store that was set up by the caller, without signed URLs. [`crate::open`] is the usual way.
    pub fn new(store: Arc<dyn ObjectStore>, prefix: &str) -> Self {
        Self { store, signer: None, prefix: Path::from(prefix), dialect: Dialect::Plain }
    }

    pub(crate) fn signing<S: ObjectStore + Signer>(store: S, prefix: &str, dialect: Dialect) -> Self {
        let store = Arc::new(store);
        Self { store: store.clone(), signer: Some(store), prefix: Path::from(prefix), dialect }
    }

    fn share_path(&self, share: ShareId) -> Path {
        self.prefix.clone().join("packs").join(share.to_string())
    }

    fn path(&self, name: PackName) -> Path {
        self.share_path(name.share).join(name.pack.to_string())
    }

    async fn put_payload(&self, name: PackName, payload: PutPayload, mode: PutMode) -> Result<(), Error> {
        let options = PutOptions { mode, ..PutOptions::default() };
        self.store.put_opts(&self.path(name), payload, options).await.map(drop)
    }
}

fn fail(op: &'static str, name: PackName) -> impl FnOnce(Error) -> StoreError {
    move |error| match error {
        Error::NotFound { .. } => StoreError::NotFound { name },
        error => {
            let retriable = matches!(error, Error::Generic { .. } | Error::JoinError { .. });
            StoreError::Backend { op, name, retriable, source: Box::new(error) }
        }
    }
}

#[async_trait]
impl PackStore for BucketStore {
    async fn put(&self, name: PackName, parts: Vec<Bytes>) -> Result<Put, StoreError> {
        let len = total(&parts);
        ensure_storable(name, len)?;
        let payload = PutPayload::from_iter(parts);
        match self.put_payload(name, payload.clone(), PutMode::Create).await {
            Ok(()) => Ok(Put::Stored),
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => {
                found_present(name, len, self.size(name).await?)
            }
            // RACE: a store without conditional writes. Between the look and the write another writer of the same random
            // id may come: that is the same writer, with the same bytes.
            Err(Error::NotImplemented { .. } | Error::NotSupported { .. }) => match self.size(name).await {
                Ok(present) => found_present(name, len, present),
                Err(StoreError::NotFound { .. }) => {
                    let put = self.put_payload(name, payload, PutMode::Overwrite).await;
                    put.map(|()| Put::Stored).map_err(fail("put", name))
                }
                Err(error) => Err(error),
            },
            Err(error) => Err(fail("put", name)(error)),
        }
    }

    async fn get(&self, name: PackName, range: Range<u64>) -> Result<Bytes, StoreError> {
        if range.start >= range.end {
            // Object stores refuse empty ranges; ours only has to lie in the pack.
            ensure_range(name, &range, self.size(name).await?)?;
            return Ok(Bytes::new());
        }
        let options = GetOptions { range: Some(range.clone().into()), ..GetOptions::default() };
        let found = match self.store.get_opts(&self.path(name), options).await {
            Ok(found) => found,
            Err(error @ Error::Generic { .. }) => {
                // Perhaps the range begins behind the end, which every store tells in its own way.
                ensure_range(name, &range, self.size(name).await?)?;
                return Err(fail("get", name)(error));
            }
            Err(error) => return Err(fail("get", name)(error)),
        };
        ensure_range(name, &range, found.meta.size)?;
        let bytes = found.bytes().await.map_err(fail("get", name))?;
        // A store that ignores the range or cuts the answer must not shift bytes.
        if bytes.len() as u64 == range.end - range.start {
            Ok(bytes)
        } else {
            let source = format!("{} bytes came for a range of {}", bytes.len(), range.end - range.start);
            Err(StoreError::Backend { op: "get", name, retriable: true, source: source.into() })
        }
    }

    async fn size(&self, name: PackName) -> Result<u64, StoreError> {
        self.store.head(&self.path(name)).await.map(|meta| meta.size).map_err(fail("look at", name))
    }

    async fn delete(&self, name: PackName) -> Result<(), StoreError> {
        match self.store.delete(&self.path(name)).await {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(fail("delete", name)(error)),
        }
    }

    async fn list(
        &self,
        share: ShareId,
        after: Option<PackId>,
        limit: usize,
    ) -> Result<Vec<PackListing>, StoreError> {
        let limit = limit.min(LIST_MAX);
        let prefix = self.share_path(share);
        let mut found = match after {
            Some(pack) => self.store.list_with_offset(Some(&prefix), &self.path(PackName { share, pack })),
            None => self.store.list(Some(&prefix)),
        };
        let name = PackName { share, pack: after.unwrap_or(PackId::ZERO) };
        let mut page = BTreeSet::new();
        while let Some(meta) = found.try_next().await.map_err(fail("list", name))? {
            let Some(listing) = listing(&meta) else { continue };
            if after.is_some_and(|after| listing.pack <= after) {
                continue;
            }
            page.insert(listing);
            if page.len() > limit {
                page.pop_last();
            }
            // The three clouds list in the order of names.
            if page.len() == limit && self.dialect != Dialect::Plain {
                break;
            }
        }
        Ok(page.into_iter().collect())
    }

    async fn sign_put(
        &self,
        name: PackName,
        _object_bytes: u64,
        valid: Duration,
    ) -> Result<Option<SignedUrl>, StoreError> {
        let Some(signer) = &self.signer else { return Ok(None) };
        let path = self.path(name);
        // The header that makes the put conditional, and whether this store can put it under the signature.
        let (headers, signed): (&[(&'static str, &'static str)], bool) = match self.dialect {
            Dialect::S3 => (&[("if-none-match", "*")], true),
            Dialect::Gcs => (&[("x-goog-if-generation-match", "0")], true),
            // RACE: Azure signs no headers, so a server that leaves the condition out can replace a pack of its own share
            // that it has leave to put. Whatever it puts is verified before anything relies on it.
            Dialect::Azure => (&[("x-ms-blob-type", "BlockBlob"), ("if-none-match", "*")], false),
            Dialect::Plain => return Ok(None),
        };
        let url = if signed {
            let options = headers.iter().fold(SignedUrlOptions::new(), |options, (key, value)| {
                options.with_signed_header(HeaderName::from_static(key), HeaderValue::from_static(value))
            });
            signer.signed_url_opts(Method::PUT, &path, valid, &options).await
        } else {
            signer.signed_url(Method::PUT, &path, valid).await
        };
        let url = url.map_err(fail("sign put of", name))?.to_string();
        let headers = headers.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        Ok(Some(SignedUrl { url, headers }))
    }

    async fn sign_get(&self, name: PackName, valid: Duration) -> Result<Option<SignedUrl>, StoreError> {
        let Some(signer) = &self.signer else { return Ok(None) };
        let url = signer.signed_url(Method::GET, &self.path(name), valid).await;
        let url = url.map_err(fail("sign get of", name))?.to_string();
        Ok(Some(SignedUrl { url, headers: Vec::new() }))
    }
}

fn listing(meta: &ObjectMeta) -> Option<PackListing> {
    let pack = meta.location.filename()?.parse().ok()?;
    Some(PackListing { pack, bytes: meta.size })
}

#[cfg(test)]
mod tests {
    use object_store::aws::AmazonS3Builder;
    use object_store::azure::MicrosoftAzureBuilder;

    use super::*;
    use crate::conformance;

    #[tokio::test]
    async fn a_store_in_memory_conforms() {
        let store = Arc::new(object_store::memory::InMemory::new());
        conformance::run(Arc::new(BucketStore::new(store.clone(), ""))).await;
        conformance::run(Arc::new(BucketStore::new(store, "some/prefix"))).await;
    }

    #[tokio::test]
    async fn a_store_on_a_disk_conforms() {
        let folder = tempfile::tempdir().unwrap();
        let store = object_store::local::LocalFileSystem::new_with_prefix(folder.path()).unwrap();
        conformance::run(Arc::new(BucketStore::new(Arc::new(store), "p"))).await;
    }

    #[tokio::test]
    async fn urls_are_signed_for_one_pack_and_not_shown() {
        let name = PackName { share: ShareId([1; 16]), pack: PackId([2; 16]) };
        let s3 = AmazonS3Builder::new()
            .with_region("eu-west-1")
            .with_bucket_name("bucket")
            .with_access_key_id("id")
            .with_secret_access_key("secret")
            .build()
            .unwrap();
        let azure = MicrosoftAzureBuilder::new()
            .with_account("account")
            .with_container_name("container")
            .with_access_key("c2VjcmV0")
            .build()
            .unwrap();
        let valid = Duration::from_secs(900);
        let stores = [
            (BucketStore::signing(s3, "p", Dialect::S3), "X-Amz-Signature=", "if-none-match"),
            (BucketStore::signing(azure, "p", Dialect::Azure), "sig=", "x-ms-blob-type"),
        ];
        for (store, signature, header) in stores {
            let put = store.sign_put(name, 100, valid).await.unwrap().expect("signs");
            let get = store.sign_get(name, valid).await.unwrap().expect("signs");
            for signed in [&put, &get] {
                assert!(
                    signed.url.contains(&format!("/p/packs/{}/{}?", name.share, name.pack)),
                    "{}",
                    signed.url
                );
                assert!(signed.url.contains(signature), "{}", signed.url);
                assert!(!format!("{signed:?}").contains(signature));
            }
            assert_ne!(put.url, get.url);
            assert!(put.headers.iter().any(|(key, _)| key == header) && get.headers.is_empty());
        }
    }
}
