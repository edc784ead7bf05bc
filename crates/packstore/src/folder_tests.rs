//! The folder: the suite, and what is its own: crashes, strangers, damage.

use std::fs;
use std::os::unix::fs::symlink;

use super::*;
use crate::conformance;

fn name(pack: u8) -> PackName {
    PackName { share: ShareId([1; 16]), pack: PackId([pack; 16]) }
}

fn file_of(root: &Path, name: PackName) -> PathBuf {
    root.join(Folder::pack_path(name))
}

#[tokio::test]
async fn a_folder_conforms() {
    let folder = tempfile::tempdir().unwrap();
    let store = FolderStore::open(folder.path()).unwrap();
    conformance::run(Arc::new(store)).await;
    assert_eq!(fs::read_dir(folder.path().join("tmp")).unwrap().count(), 0, "temporary files were left");
    conformance::run(Arc::new(FolderStore::open(folder.path()).unwrap())).await;
}

#[tokio::test]
async fn packs_outlive_the_store_and_two_stores_share_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("made/by/us");
    assert!(matches!(FolderStore::open(&root), Err(OpenError::Io { op: "create", .. })), "no parent");
    let root = folder.path().join("ours");
    let one = FolderStore::open(&root).unwrap();
    let two = FolderStore::open(&root).unwrap();
    assert_eq!(one.put(name(1), vec![Bytes::from_static(b"abc")]).await.unwrap(), Put::Stored);
    assert_eq!(two.put(name(1), vec![Bytes::from_static(b"abc")]).await.unwrap(), Put::Present);
    assert_eq!(two.put(name(2), vec![Bytes::from_static(b"de")]).await.unwrap(), Put::Stored);
    drop((one, two));
    let again = FolderStore::open(&root).unwrap();
    assert_eq!(again.get(name(1), 0..3).await.unwrap(), "abc");
    assert_eq!(again.list(ShareId([1; 16]), None, 10).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_start_removes_what_dead_writers_left_and_spares_the_living() {
    let folder = tempfile::tempdir().unwrap();
    let store = FolderStore::open(folder.path()).unwrap();
    let tmp = folder.path().join("tmp");
    fs::write(tmp.join("77-0"), b"half a pa").unwrap();
    let mut living = Incoming::begin(Arc::clone(&store.0), name(3)).unwrap();
    living.write(&[Bytes::from_static(b"whole")]).unwrap();
    assert_eq!(fs::read_dir(&tmp).unwrap().count(), 2);
    let other = FolderStore::open(folder.path()).unwrap();
    assert_eq!(fs::read_dir(&tmp).unwrap().count(), 1);
    assert_eq!(living.commit().unwrap(), Put::Stored);
    assert_eq!(other.get(name(3), 0..5).await.unwrap(), "whole");
}

#[tokio::test]
async fn a_put_that_is_given_up_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = FolderStore::open(folder.path()).unwrap();
    // A body that never ends: dropped in the middle, as when a client goes away.
    let body =
        futures::stream::iter(vec![Ok(Bytes::from(vec![1; 2_000_000]))]).chain(futures::stream::pending());
    let put = store.put_stream(name(1), 5_000_000, Box::pin(body));
    let given_up = tokio::time::timeout(std::time::Duration::from_millis(100), put).await;
    assert!(given_up.is_err());
    assert!(matches!(store.size(name(1)).await, Err(StoreError::NotFound { .. })));
    assert_eq!(fs::read_dir(folder.path().join("tmp")).unwrap().count(), 0);
}

#[test]
fn folders_of_others_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("thesis.odt"), b"x").unwrap();
    assert!(matches!(FolderStore::open(folder.path()), Err(OpenError::OtherFormat(_))));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing was made in it");
    fs::remove_file(folder.path().join("thesis.odt")).unwrap();
    FolderStore::open(folder.path()).unwrap();
    fs::write(folder.path().join("version"), b"polder packs 2\n").unwrap();
    assert!(matches!(FolderStore::open(folder.path()), Err(OpenError::OtherFormat(_))));
    let file = folder.path().join("packs/file");
    fs::write(&file, b"").unwrap();
    assert!(matches!(FolderStore::open(&file), Err(OpenError::Io { .. })));
}

#[tokio::test]
async fn a_symlink_in_the_place_of_a_pack_is_not_followed() {
    let folder = tempfile::tempdir().unwrap();
    let store = FolderStore::open(folder.path()).unwrap();
    store.put(name(1), vec![Bytes::from_static(b"abc")]).await.unwrap();
    let outside = folder.path().join("version");
    let place = file_of(folder.path(), name(1));
    fs::remove_file(&place).unwrap();
    symlink(&outside, &place).unwrap();
    assert!(matches!(store.get(name(1), 0..3).await, Err(StoreError::Io { op: "open", .. })));
}

#[tokio::test]
async fn what_does_not_belong_is_not_listed() {
    let folder = tempfile::tempdir().unwrap();
    let store = FolderStore::open(folder.path()).unwrap();
    store.put(name(1), vec![Bytes::from_static(b"abc")]).await.unwrap();
    let place = file_of(folder.path(), name(1));
    fs::write(place.with_file_name("README"), b"x").unwrap();
    let listed = store.list(ShareId([1; 16]), None, 10).await.unwrap();
    assert_eq!(listed, [PackListing { pack: PackId([1; 16]), bytes: 3 }]);
}

#[tokio::test]
async fn a_pack_that_was_cut_off_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let store = FolderStore::open(folder.path()).unwrap();
    store.put(name(1), vec![Bytes::from_static(b"abcdef")]).await.unwrap();
    fs::write(file_of(folder.path(), name(1)), b"abc").unwrap();
    assert!(matches!(store.get(name(1), 0..6).await, Err(StoreError::Range { object_bytes: 3, .. })));
}

/// `mount -t tmpfs -o size=3m none DIR`, then `POLDER_SMALL_FS=DIR cargo test -p polder-packstore full_disk -- --ignored`.
#[tokio::test]
#[ignore = "needs root: an empty file system of 3 MiB at POLDER_SMALL_FS"]
async fn a_full_disk_is_an_error_that_passes() {
    let root = std::env::var_os("POLDER_SMALL_FS").expect("the folder to fill");
    let store = FolderStore::open(Path::new(&root)).unwrap();
    store.put(name(1), vec![Bytes::from(vec![1; 2 << 20])]).await.unwrap();
    let full = store.put(name(2), vec![Bytes::from(vec![2; 2 << 20])]).await.expect_err("there is no room");
    assert!(full.is_retriable() && matches!(full, StoreError::Io { op: "write" | "sync", .. }), "{full:?}");
    assert_eq!(fs::read_dir(Path::new(&root).join("tmp")).unwrap().count(), 0);
    assert!(matches!(store.size(name(2)).await, Err(StoreError::NotFound { .. })));
    store.delete(name(1)).await.unwrap();
    assert_eq!(store.put(name(2), vec![Bytes::from(vec![2; 2 << 20])]).await.unwrap(), Put::Stored);
}
