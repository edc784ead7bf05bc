//! Room for the service's own books on a full volume.
//!
//! Packs may fill a volume to the last byte; the databases beside them must go on all the same, or nobody could be told
//! what is wrong, and nothing could be deleted to make room. So a pack is refused before it takes what the databases may
//! need, and where others fill the volume, a file that holds that much is given up.

use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::io::Errno;

use crate::state::ServiceState;

/// What the databases need: the log of some of them between two checkpoints (4 MiB each), and some growth.
const OWN_BYTES: u64 = 16 * 1024 * 1024;
/// The reserve is given up below this: whoever fills the volume should be done, or would take the reserve too.
const LAST_BYTES: u64 = OWN_BYTES / 16;
/// The room is taken only where so many times as much is free, so that it does not come and go.
const PLENTY: u64 = 4;
/// How often the volume is asked. A service fills what it keeps free no faster than this can see.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The room of one service process.
#[derive(Debug)]
pub struct Room {
    /// Beside the databases.
    reserve: PathBuf,
    /// Where packs are, if that is a folder.
    packs: Option<PathBuf>,
    is_short: AtomicBool,
}

impl Room {
    pub(crate) fn new(metadata: &Path, packs: Option<&Path>) -> Self {
        let packs = packs.map(Path::to_owned);
        Self { reserve: metadata.join("reserve"), packs, is_short: AtomicBool::new(false) }
    }

    /// Whether a pack of so many bytes may come without taking what is the databases'. Asks the file system, which
    /// does not wait for a disk. A file system that does not answer refuses nothing.
    pub(crate) fn admits(&self, bytes: u64) -> bool {
        let free = self.packs.as_deref().and_then(|folder| free_bytes(folder).ok());
        free.is_none_or(|free| free.saturating_sub(bytes) >= OWN_BYTES)
    }

    /// Whether the databases live on what was kept for them: somebody must make room.
    pub(crate) fn is_short(&self) -> bool {
        self.is_short.load(Ordering::Relaxed)
    }

    /// Takes the room, or gives it up, as the volume is now. Waits for the disk.
    fn tend(&self) -> Result<(), Errno> {
        let folder = self.reserve.parent().expect("it was made by joining a name");
        let free = free_bytes(folder)?;
        let short = free < OWN_BYTES;
        if self.is_short.swap(short, Ordering::Relaxed) != short {
            if short {
                tracing::warn!(free_bytes = free, "the volume of the service is full: make room");
            } else {
                tracing::info!(free_bytes = free, "the volume of the service has room again");
            }
        }
        match self.reserve.exists() {
            true if free < LAST_BYTES => std::fs::remove_file(&self.reserve).map_err(errno),
            false if free >= OWN_BYTES * PLENTY => self.take(),
            _ => Ok(()),
        }
    }

    fn take(&self) -> Result<(), Errno> {
        let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&self.reserve);
        let taken = fallocate(file.map_err(errno)?, FallocateFlags::empty(), 0, OWN_BYTES);
        taken.or_else(|why| {
            std::fs::remove_file(&self.reserve).map_err(errno)?;
            // A file system that cannot keep room has none to give up.
            if matches!(why, Errno::OPNOTSUPP | Errno::NOSYS) { Ok(()) } else { Err(why) }
        })
    }
}

fn errno(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

fn free_bytes(folder: &Path) -> Result<u64, Errno> {
    statvfs(folder).map(|stat| stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Looks after the room once. Waits for the disk.
pub(crate) fn tend(state: &ServiceState) {
    if let Err(error) = state.room().tend() {
        tracing::debug!(%error, "the room of the service's databases could not be looked after");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_taken_where_plenty_is_left_and_survives_another_start() {
        let folder = tempfile::tempdir().expect("a folder");
        let room = Room::new(folder.path(), Some(folder.path()));
        if free_bytes(folder.path()).expect("an answer") < OWN_BYTES * PLENTY {
            println!("SKIPPED the temporary folder has no room");
            return;
        }
        for _ in 0..2 {
            room.tend().expect("room");
            assert_eq!(std::fs::metadata(&room.reserve).expect("the file").len(), OWN_BYTES);
        }
        assert!(!room.is_short());
    }

    #[test]
    fn a_pack_may_not_take_what_is_the_databases() {
        let folder = tempfile::tempdir().expect("a folder");
        let room = Room::new(folder.path(), Some(folder.path()));
        let free = free_bytes(folder.path()).expect("an answer");
        assert!(!room.admits(free));
        assert!(!room.admits(u64::MAX));
        // Other programs write meanwhile: well below the border.
        assert!(free < 4 * OWN_BYTES || room.admits(free / 4));
        assert!(Room::new(folder.path(), None).admits(u64::MAX), "an object store has room of its own");
    }
}
