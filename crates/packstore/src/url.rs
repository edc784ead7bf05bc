//! From what `--objects` says to a store.

use std::path::Path;
use std::sync::Arc;

use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;

use crate::bucket::Dialect;
use crate::{BucketStore, FolderStore, MemoryStore, OpenError, PackStore};

/// Opens `file:PATH`, `s3://BUCKET/PREFIX`, `az://CONTAINER/PREFIX`, `gs://BUCKET/PREFIX`, or `memory:` for tests.
/// Credentials and endpoints of object stores come from the variables that their own tools read (`AWS_…`, `AZURE_…`,
/// `GOOGLE_…`).
pub fn open(url: &str) -> Result<Arc<dyn PackStore>, OpenError> {
    let unknown = || OpenError::Url(url.to_owned());
    let (scheme, rest) = url.split_once(':').ok_or_else(unknown)?;
    if scheme == "memory" && rest.is_empty() {
        return Ok(Arc::new(MemoryStore::new()));
    }
    if scheme == "file" {
        let path = rest.strip_prefix("//").unwrap_or(rest);
        return if path.is_empty() {
            Err(unknown())
        } else {
            Ok(Arc::new(FolderStore::open(Path::new(path))?))
        };
    }
    let place = rest.strip_prefix("//").ok_or_else(unknown)?;
    let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
    if bucket.is_empty() {
        return Err(unknown());
    }
    let bucket_url = format!("{scheme}://{bucket}");
    let fail =
        |error: object_store::Error| OpenError::Backend { url: url.to_owned(), source: Box::new(error) };
    let store = match scheme {
        "s3" => {
            let store = AmazonS3Builder::from_env().with_url(bucket_url).build().map_err(fail)?;
            BucketStore::signing(store, prefix, Dialect::S3)
        }
        "az" => {
            let store = MicrosoftAzureBuilder::from_env().with_url(bucket_url).build().map_err(fail)?;
            BucketStore::signing(store, prefix, Dialect::Azure)
        }
        "gs" => {
            let store = GoogleCloudStorageBuilder::from_env().with_url(bucket_url).build().map_err(fail)?;
            BucketStore::signing(store, prefix, Dialect::Gcs)
        }
        _ => return Err(unknown()),
    };
    Ok(Arc::new(store))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_stores() {
        let folder = tempfile::tempdir().unwrap();
        for form in ["file:", "file://"] {
            let url = format!("{form}{}/objects", folder.path().display());
            assert!(format!("{:?}", open(&url).unwrap()).starts_with("FolderStore"), "{url}");
        }
        assert!(open("memory:").is_ok());
        for bad in ["", "objects", "file:", "ftp://host/x", "s3:bucket", "s3://", "memory:x", "az:///p"] {
            assert!(matches!(open(bad), Err(OpenError::Url(_))), "{bad}");
        }
    }
}
