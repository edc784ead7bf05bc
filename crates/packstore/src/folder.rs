//! Packs in a folder: the embedded default.
//!
//! ```text
//! ROOT/version                      "polder packs 1\n"
//! ROOT/tmp/…                        packs that are arriving; locked while their writer lives
//! ROOT/packs/SHARE/XX/PACK          XX: the first byte of the pack's id, so that no directory grows large
//! ```
//!
//! A put writes a temporary file, makes it durable, renames it without replacing anything, and makes the directory
//! durable. A crash leaves at most a temporary file, which the next start removes: its lock died with the writer.

use std::collections::BTreeSet;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use polder_types::{PackId, ShareId};
use rustix::fs::{AtFlags, CWD, Dir, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::folder_put::Incoming;
use crate::store::{ensure_no_longer, ensure_range, ensure_storable, ensure_whole, total};
use crate::{LIST_MAX, OpenError, PackBody, PackListing, PackName, PackStore, Put, StoreError, Tail};

const VERSION: &[u8] = b"polder packs 1\n";
// Parts of a body are written together from this size on, so that small ones do not cost a thread switch each.
const WRITE_BYTES: usize = 1024 * 1024;

/// Keeps packs in a folder. Several may be open on one folder, also in several processes.
#[derive(Debug, Clone)]
pub struct FolderStore(Arc<Folder>);

#[derive(Debug)]
pub(crate) struct Folder {
    pub(crate) root: PathBuf,
    pub(crate) root_fd: OwnedFd,
    pub(crate) tmp_fd: OwnedFd,
    pub(crate) next_temp: AtomicU64,
    // Directories whose own names are known to be durable.
    durable_dirs: Mutex<BTreeSet<String>>,
}

impl FolderStore {
    /// Opens a folder, and makes it if need be (its parent must exist). Removes what crashed writers left.
    pub fn open(root: &Path) -> Result<Self, OpenError> {
        let fail = |op: &'static str, path: &Path| {
            let path = path.to_path_buf();
            move |error: Errno| OpenError::Io { op, path, source: error.into() }
        };
        make_dir(CWD, root).map_err(fail("create", root))?;
        let root_fd = rustix::fs::open(root, DIR_FLAGS, Mode::empty()).map_err(fail("open", root))?;
        check_version(root, &root_fd)?;
        for name in ["packs", "tmp"] {
            make_dir(&root_fd, name).map_err(fail("create", &root.join(name)))?;
        }
        rustix::fs::fsync(&root_fd).map_err(fail("sync", root))?;
        let tmp = root.join("tmp");
        let tmp_fd =
            rustix::fs::openat(&root_fd, "tmp", DIR_FLAGS, Mode::empty()).map_err(fail("open", &tmp))?;
        remove_abandoned(&tmp_fd).map_err(fail("clean", &tmp))?;
        let durable_dirs = Mutex::new(BTreeSet::new());
        let next_temp = AtomicU64::new(0);
        Ok(Self(Arc::new(Folder { root: root.to_path_buf(), root_fd, tmp_fd, next_temp, durable_dirs })))
    }
}

pub(crate) const DIR_FLAGS: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const FILE_FLAGS: OFlags = OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

fn make_dir<Fd: std::os::fd::AsFd, P: rustix::path::Arg>(at: Fd, path: P) -> Result<(), Errno> {
    match rustix::fs::mkdirat(at, path, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error),
    }
}

fn check_version(root: &Path, root_fd: &OwnedFd) -> Result<(), OpenError> {
    let path = root.join("version");
    let fail = |op| {
        let path = path.clone();
        move |error: Errno| OpenError::Io { op, path, source: error.into() }
    };
    match rustix::fs::openat(root_fd, "version", FILE_FLAGS, Mode::empty()) {
        Ok(file) => {
            let mut found = [0; 64];
            let len = rustix::io::read(&file, &mut found).map_err(fail("read"))?;
            if &found[..len] == VERSION { Ok(()) } else { Err(OpenError::OtherFormat(root.to_path_buf())) }
        }
        Err(Errno::NOENT) => {
            // A folder of something else must not become ours by accident.
            let mut entries = Dir::read_from(root_fd).map_err(fail("list"))?;
            if entries.any(|entry| entry.is_ok_and(|entry| !is_own(entry.file_name().to_bytes()))) {
                return Err(OpenError::OtherFormat(root.to_path_buf()));
            }
            // Written aside and renamed, so that a crash leaves no half of it.
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
            let file = rustix::fs::openat(root_fd, "version.new", flags, Mode::RUSR | Mode::WUSR)
                .map_err(fail("create"))?;
            rustix::io::write(&file, VERSION).map_err(fail("write"))?;
            rustix::fs::fsync(&file).map_err(fail("sync"))?;
            rustix::fs::renameat(root_fd, "version.new", root_fd, "version").map_err(fail("rename"))
        }
        Err(error) => Err(fail("open")(error)),
    }
}

fn is_own(name: &[u8]) -> bool {
    [b".".as_slice(), b"..", b"packs", b"tmp", b"version.new", b"lost+found"].contains(&name)
}

/// Removes temporary files whose writers are dead.
///
/// RACE: a writer in another process that has made its file and not yet locked it loses it; its put fails with "not
/// found" at the rename and is tried again.
fn remove_abandoned(tmp: &OwnedFd) -> Result<(), Errno> {
    for entry in Dir::read_from(tmp)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        match rustix::fs::openat(tmp, name, FILE_FLAGS, Mode::empty()) {
            Ok(file) if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() => {
                rustix::fs::unlinkat(tmp, name, AtFlags::empty())?;
            }
            Ok(_) | Err(Errno::NOENT) => (),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

impl Folder {
    pub(crate) fn shard_path(name: PackName) -> String {
        format!("packs/{}/{:02x}", name.share, name.pack.0[0])
    }

    fn pack_path(name: PackName) -> String {
        format!("{}/{}", Self::shard_path(name), name.pack)
    }

    pub(crate) fn fail(&self, op: &'static str, path: &str) -> impl FnOnce(Errno) -> StoreError + use<> {
        let path = self.root.join(path);
        move |error| StoreError::Io { op, path, source: error.into() }
    }

    /// The directory of a pack, made if need be, its name durable.
    pub(crate) fn shard_for_writing(&self, name: PackName) -> Result<OwnedFd, StoreError> {
        let shard = Self::shard_path(name);
        let share = format!("packs/{}", name.share);
        // The lock is held while a directory is made: whoever finds it afterwards finds it durable.
        let mut known = self.durable_dirs.lock().unwrap_or_else(PoisonError::into_inner);
        for (parent, path) in [("packs", &share), (share.as_str(), &shard)] {
            if !known.contains(path) {
                make_dir(&self.root_fd, path.as_str()).map_err(self.fail("create", path))?;
                let parent_fd = self.open_at(parent, DIR_FLAGS).map_err(self.fail("open", parent))?;
                rustix::fs::fsync(&parent_fd).map_err(self.fail("sync", parent))?;
                known.insert(path.clone());
            }
        }
        drop(known);
        self.open_at(&shard, DIR_FLAGS).map_err(self.fail("open", &shard))
    }

    fn open_at(&self, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        rustix::fs::openat(&self.root_fd, path, flags, Mode::empty())
    }

    fn open_pack(&self, name: PackName) -> Result<(OwnedFd, u64), StoreError> {
        let path = Self::pack_path(name);
        match self.open_at(&path, FILE_FLAGS) {
            Ok(file) => {
                let stat = rustix::fs::fstat(&file).map_err(self.fail("stat", &path))?;
                Ok((file, stat.st_size.cast_unsigned()))
            }
            Err(Errno::NOENT) => Err(StoreError::NotFound { name }),
            Err(error) => Err(self.fail("open", &path)(error)),
        }
    }

    fn read(
        &self,
        name: PackName,
        ranges: impl FnOnce(u64) -> Vec<Range<u64>>,
    ) -> Result<(u64, Vec<Bytes>), StoreError> {
        let (file, object_bytes) = self.open_pack(name)?;
        let mut out = Vec::new();
        for range in ranges(object_bytes) {
            ensure_range(name, &range, object_bytes)?;
            let mut bytes = BytesMut::zeroed((range.end - range.start) as usize);
            let mut filled = 0;
            while filled < bytes.len() {
                let at = range.start + filled as u64;
                match rustix::io::pread(&file, &mut bytes[filled..], at) {
                    Ok(0) => {
                        return Err(StoreError::Range { name, start: at, end: range.end, object_bytes: at });
                    }
                    Ok(len) => filled += len,
                    Err(Errno::INTR) => (),
                    Err(error) => return Err(self.fail("read", &Self::pack_path(name))(error)),
                }
            }
            out.push(bytes.freeze());
        }
        Ok((object_bytes, out))
    }

    fn delete(&self, name: PackName) -> Result<(), StoreError> {
        let (shard, path) = (Self::shard_path(name), Self::pack_path(name));
        let dir = match self.open_at(&shard, DIR_FLAGS) {
            Ok(dir) => dir,
            Err(Errno::NOENT) => return Ok(()),
            Err(error) => return Err(self.fail("open", &shard)(error)),
        };
        match rustix::fs::unlinkat(&dir, name.pack.to_string(), AtFlags::empty()) {
            Ok(()) => rustix::fs::fsync(&dir).map_err(self.fail("sync", &shard)),
            Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(self.fail("delete", &path)(error)),
        }
    }

    fn list(
        &self,
        share: ShareId,
        after: Option<PackId>,
        limit: usize,
    ) -> Result<Vec<PackListing>, StoreError> {
        let limit = limit.min(LIST_MAX);
        let mut page = Vec::new();
        let first = after.map_or(0, |after| after.0[0]);
        for shard in first..=u8::MAX {
            if page.len() == limit {
                break;
            }
            let path = format!("packs/{share}/{shard:02x}");
            match self.list_shard(&path, after, limit - page.len()) {
                Ok(found) => page.extend(found),
                Err(Errno::NOENT) => (),
                Err(error) => return Err(self.fail("list", &path)(error)),
            }
        }
        Ok(page)
    }

    /// The first packs of one directory; no more than `limit` are held at a time.
    fn list_shard(&self, path: &str, after: Option<PackId>, limit: usize) -> Result<Vec<PackListing>, Errno> {
        let dir = self.open_at(path, DIR_FLAGS)?;
        let mut first = BTreeSet::new();
        for entry in Dir::read_from(&dir)? {
            let entry = entry?;
            let Some(pack) = entry.file_name().to_str().ok().and_then(|name| name.parse::<PackId>().ok())
            else {
                continue;
            };
            if after.is_none_or(|after| pack > after) {
                first.insert(pack);
                if first.len() > limit {
                    first.pop_last();
                }
            }
        }
        let mut out = Vec::with_capacity(first.len());
        for pack in first {
            match rustix::fs::statat(&dir, pack.to_string(), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => out.push(PackListing { pack, bytes: stat.st_size.cast_unsigned() }),
                Err(Errno::NOENT) => (),
                Err(error) => return Err(error),
            }
        }
        Ok(out)
    }
}

/// Runs what blocks on a thread that may.
pub(crate) async fn blocking<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(run).await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is going down and takes the caller with it.
            Err(_) => std::future::pending().await,
        },
    }
}

#[async_trait]
impl PackStore for FolderStore {
    async fn put(&self, name: PackName, parts: Vec<Bytes>) -> Result<Put, StoreError> {
        ensure_storable(name, total(&parts))?;
        let folder = Arc::clone(&self.0);
        blocking(move || {
            let mut incoming = Incoming::begin(folder, name)?;
            incoming.write(&parts)?;
            incoming.commit()
        })
        .await
    }

    async fn put_stream(
        &self,
        name: PackName,
        object_bytes: u64,
        mut body: PackBody<'_>,
    ) -> Result<Put, StoreError> {
        ensure_storable(name, object_bytes)?;
        let folder = Arc::clone(&self.0);
        let mut incoming = blocking(move || Incoming::begin(folder, name)).await?;
        let (mut parts, mut held, mut arrived) = (Vec::new(), 0, 0);
        loop {
            let part = body.next().await.transpose().map_err(|source| StoreError::Body { name, source })?;
            let ended = part.is_none();
            if let Some(part) = part {
                arrived += part.len() as u64;
                held += part.len();
                ensure_no_longer(name, object_bytes, arrived)?;
                parts.push(part);
            }
            if ended {
                ensure_whole(name, object_bytes, arrived)?;
                return blocking(move || {
                    incoming.write(&parts)?;
                    incoming.commit()
                })
                .await;
            }
            if held >= WRITE_BYTES {
                let now = std::mem::take(&mut parts);
                held = 0;
                incoming = blocking(move || incoming.write(&now).map(|()| incoming)).await?;
            }
        }
    }

    async fn get(&self, name: PackName, range: Range<u64>) -> Result<Bytes, StoreError> {
        let found = self.get_ranges(name, std::slice::from_ref(&range)).await?;
        Ok(found.into_iter().next().expect("one range was asked for"))
    }

    async fn get_ranges(&self, name: PackName, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, StoreError> {
        let (folder, ranges) = (Arc::clone(&self.0), ranges.to_vec());
        blocking(move || folder.read(name, |_| ranges)).await.map(|(_, bytes)| bytes)
    }

    async fn tail(&self, name: PackName, bytes: u64) -> Result<Tail, StoreError> {
        let folder = Arc::clone(&self.0);
        let last = move |object_bytes: u64| {
            let range = object_bytes.saturating_sub(bytes)..object_bytes;
            vec![range]
        };
        let (object_bytes, found) = blocking(move || folder.read(name, last)).await?;
        Ok(Tail { object_bytes, bytes: found.into_iter().next().expect("one range was asked for") })
    }

    async fn size(&self, name: PackName) -> Result<u64, StoreError> {
        let folder = Arc::clone(&self.0);
        blocking(move || folder.open_pack(name)).await.map(|(_, bytes)| bytes)
    }

    async fn delete(&self, name: PackName) -> Result<(), StoreError> {
        let folder = Arc::clone(&self.0);
        blocking(move || folder.delete(name)).await
    }

    async fn list(
        &self,
        share: ShareId,
        after: Option<PackId>,
        limit: usize,
    ) -> Result<Vec<PackListing>, StoreError> {
        let folder = Arc::clone(&self.0);
        blocking(move || folder.list(share, after, limit)).await
    }
}

impl Folder {
    pub(crate) fn temp_name(&self) -> String {
        format!("{}-{}", std::process::id(), self.next_temp.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) fn present_bytes(&self, name: PackName) -> Result<u64, StoreError> {
        self.open_pack(name).map(|(_, bytes)| bytes)
    }
}

#[cfg(test)]
#[path = "folder_tests.rs"]
mod tests;
