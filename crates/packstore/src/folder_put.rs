//! A pack on its way into a folder. See `folder` for the order of steps.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::Bytes;
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::folder::Folder;
use crate::store::found_present;
use crate::{PackName, Put, StoreError};

/// A temporary file, removed when it is dropped before [`Incoming::commit`].
#[derive(Debug)]
pub(crate) struct Incoming {
    folder: Arc<Folder>,
    name: PackName,
    temp: String,
    file: OwnedFd,
    bytes: u64,
    // Until it is renamed; afterwards somebody else may use its name.
    temp_exists: bool,
}

impl Incoming {
    pub(crate) fn begin(folder: Arc<Folder>, name: PackName) -> Result<Self, StoreError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        loop {
            let temp = folder.temp_name();
            let path = format!("tmp/{temp}");
            match rustix::fs::openat(&folder.tmp_fd, &temp, flags, Mode::RUSR | Mode::WUSR) {
                Ok(file) => {
                    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
                        .map_err(folder.fail("lock", &path))?;
                    return Ok(Self { folder, name, temp, file, bytes: 0, temp_exists: true });
                }
                // Another store of this process, or a process that had our number.
                Err(Errno::EXIST) => (),
                Err(error) => return Err(folder.fail("create", &path)(error)),
            }
        }
    }

    pub(crate) fn write(&mut self, parts: &[Bytes]) -> Result<(), StoreError> {
        for part in parts {
            let mut rest = &part[..];
            while !rest.is_empty() {
                match rustix::io::write(&self.file, rest) {
                    Ok(len) => rest = &rest[len..],
                    Err(Errno::INTR) => (),
                    Err(error) => return Err(self.fail("write")(error)),
                }
            }
            self.bytes += part.len() as u64;
        }
        Ok(())
    }

    /// Makes the pack durable under its name.
    pub(crate) fn commit(mut self) -> Result<Put, StoreError> {
        // After a failed sync nobody knows what is on the disk: the file is dropped, and a new put writes a new one.
        rustix::fs::fdatasync(&self.file).map_err(self.fail("sync"))?;
        let shard = self.folder.shard_for_writing(self.name)?;
        let target = self.name.pack.to_string();
        let put = match self.publish(&shard, &target) {
            Ok(()) => Put::Stored,
            Err(Errno::EXIST) => found_present(self.name, self.bytes, self.folder.present_bytes(self.name)?)?,
            Err(error) => return Err(self.folder.fail("rename", &format!("tmp/{}", self.temp))(error)),
        };
        // Also for a pack that another writer has just renamed: its directory may not be durable yet.
        if let Err(error) = rustix::fs::fsync(&shard) {
            if put == Put::Stored {
                // Not acknowledged, so it must not be found as present later: what a failed sync left is unknown.
                let _ = rustix::fs::unlinkat(&shard, &target, AtFlags::empty());
            }
            return Err(self.folder.fail("sync", &Folder::shard_path(self.name))(error));
        }
        Ok(put)
    }

    fn publish(&mut self, shard: &OwnedFd, target: &str) -> Result<(), Errno> {
        let tmp = &self.folder.tmp_fd;
        match rustix::fs::renameat_with(tmp, &self.temp, shard, target, RenameFlags::NOREPLACE) {
            Ok(()) => {
                self.temp_exists = false;
                Ok(())
            }
            // File systems without that flag, such as NFS, can link, which never replaces either.
            Err(Errno::INVAL | Errno::NOSYS) => {
                rustix::fs::linkat(tmp, &self.temp, shard, target, AtFlags::empty())
            }
            Err(error) => Err(error),
        }
    }

    fn fail(&self, op: &'static str) -> impl FnOnce(Errno) -> StoreError + use<> {
        self.folder.fail(op, &format!("tmp/{}", self.temp))
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if self.temp_exists {
            // If that fails, the next start removes it.
            let _ = rustix::fs::unlinkat(&self.folder.tmp_fd, &self.temp, AtFlags::empty());
        }
    }
}
