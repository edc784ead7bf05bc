//! The root of an endpoint: opened once, proven again and again.
//!
//! `PATH/.polder/` (0700, owned by the agent's user) holds what belongs to the volume: `identity`, the state
//! database, `staging` and `recycle`. The identity names the endpoint, a random nonce, the file system and the root's
//! inode. Only while [`Root::check`] proves all of it may an absence be taken for a deletion (promise I5): a volume
//! that is not mounted, was emptied, replaced or restored elsewhere has no valid identity, and the endpoint stops.
//!
//! A crash during adoption leaves `.polder` without `identity`; adopting again completes it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use polder_types::{EndpointId, FileIdent, ShareId};
use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Doing, FsError};
use crate::ident::{device, generation, statx_at, statx_fd};
use crate::identity::Identity;
use crate::{clear_out, layout, left, overlap, sys};

/// Name of the state directory, which no listing shows and no operation enters.
pub const STATE_DIR: &[u8] = b".polder";

/// Why a root cannot be used now. All but [`RootError::Fs`] stop the endpoint until somebody has looked.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// Nothing is at the path.
    #[error("there is no directory at \"{path}\"; mount the volume or create the directory")]
    Missing {
        /// The endpoint's path.
        path: String,
    },
    /// The directory has no identity: a mount point without its volume, an emptied volume, or another disk.
    #[error("\"{path}\" holds no polder identity; is the volume mounted?")]
    NotAdopted {
        /// The endpoint's path.
        path: String,
    },
    /// Another directory is now at the path: unmounted, mounted over, renamed or restored.
    #[error("\"{path}\" is no longer the directory that was opened")]
    Replaced {
        /// The endpoint's path.
        path: String,
    },
    /// The directory was deleted.
    #[error("the directory \"{path}\" was deleted")]
    Deleted {
        /// The endpoint's path.
        path: String,
    },
    /// The identity is that of another endpoint.
    #[error("\"{path}\" belongs to the endpoint {found}")]
    OtherEndpoint {
        /// The endpoint's path.
        path: String,
        /// Whose root it is.
        found: EndpointId,
    },
    /// The identity was written on another file system or for another directory: a copy of the folder, or a restored
    /// volume.
    #[error("\"{path}\" is a copy or was restored: {what} differs from its identity")]
    Copied {
        /// The endpoint's path.
        path: String,
        /// What differs.
        what: &'static str,
    },
    /// The identity cannot be read as one.
    #[error("the identity of \"{path}\" is damaged")]
    BadIdentity {
        /// The endpoint's path.
        path: String,
    },
    /// `.polder` belongs to somebody else, can be entered by others, or is no directory.
    #[error("\"{path}/.polder\" must be a directory of mode 0700 that belongs to the agent's user")]
    Unsafe {
        /// The endpoint's path.
        path: String,
    },
    /// Another agent has it open.
    #[error("\"{path}\" is in use by another agent")]
    InUse {
        /// The endpoint's path.
        path: String,
    },
    /// The path has an identity already.
    #[error("\"{path}\" is already the endpoint {endpoint}")]
    AlreadyAdopted {
        /// The endpoint's path.
        path: String,
        /// Whose root it is.
        endpoint: EndpointId,
    },
    /// It holds placeholders of another share than the one that it is to follow.
    #[error(
        "\"{path}\" holds placeholders of another share: make an endpoint of that one there, or recall them with its manifest"
    )]
    OtherShare {
        /// The endpoint's path.
        path: String,
    },
    /// It holds placeholders, and is to be compared anew.
    #[error(
        "\"{path}\" holds placeholders of an earlier endpoint, so it cannot be the authority: their bytes are in the share alone. \
         Make the endpoint without `--initial-upload authoritative`, or recall them first with `polder recall --from-manifest`"
    )]
    Placeholders {
        /// The endpoint's path.
        path: String,
    },
    /// It lies inside another endpoint, or the other way round.
    #[error("\"{path}\" and \"{other}\" overlap")]
    Overlaps {
        /// The endpoint's path.
        path: String,
        /// The other endpoint.
        other: String,
    },
    /// What the share has is being removed from it, and it will be no endpoint's any more.
    #[error("\"{path}\" is being unmounted")]
    Clearing {
        /// The endpoint's path.
        path: String,
    },
    /// It is half way between a plain folder and one that is laid out for tiering.
    #[error("\"{path}\" is being laid out for tiering, or for doing without")]
    Unfinished {
        /// The endpoint's path.
        path: String,
    },
    /// It cannot be laid out for tiering now.
    #[error("\"{path}\" cannot be laid out for tiering: {why}")]
    NotForTiering {
        /// The endpoint's path.
        path: String,
        /// Why.
        why: String,
    },
    /// A system call failed.
    #[error("open the root")]
    Fs(#[from] FsError),
}

/// An endpoint's root, held open and locked while this lives.
#[derive(Debug)]
pub struct Root {
    path: PathBuf,
    /// O_PATH: pins the directory at the path, whatever happens to that; under a gate it is the one below the mount.
    pub(crate) base: OwnedFd,
    /// O_PATH: the directory that holds the share's files: the same, or `.polder/tree` where the gate is mounted over the path.
    dir: OwnedFd,
    ident: FileIdent,
    is_tiered: bool,
    pub(crate) state: OwnedFd,
    /// Holds the lock by living.
    lock: Arc<OwnedFd>,
    identity: Identity,
    volume: Option<[u8; 16]>,
    pub(crate) device: u64,
    /// Whether tiering was tested on its file system.
    pub(crate) tested: OnceLock<Result<(), crate::Untested>>,
}

impl Root {
    /// Makes `path` the root of `endpoint`: writes its identity, then opens it. `others` are the paths of the other
    /// endpoints of this machine, with which it must not overlap.
    pub fn adopt(path: &Path, endpoint: EndpointId, others: &[&Path]) -> Result<Self, RootError> {
        let shown = shown(path);
        let dir = open_at(path)?;
        for other in others {
            if overlap::overlap(path, other).map_err(RootError::Fs)?.is_some() {
                return Err(RootError::Overlaps { path: shown, other: self::shown(other) });
            }
        }
        if let Some(other) = overlap::adopted_ancestor(dir.as_fd()).map_err(RootError::Fs)? {
            return Err(RootError::Overlaps { path: shown, other: format!("endpoint {other}") });
        }
        match rustix::fs::mkdirat(&dir, STATE_DIR, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => (),
            Err(errno) => return Err(RootError::Fs(FsError::new("create directory", STATE_DIR, errno))),
        }
        let state = open_state(&dir, path)?;
        match Identity::read(state.as_fd()) {
            Ok(Some(found)) => {
                return Err(RootError::AlreadyAdopted { path: shown, endpoint: found.endpoint });
            }
            // The last step of clearing a root out, cut off.
            Ok(None) => match rustix::fs::unlinkat(&state, clear_out::CLEARING, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => (),
                Err(errno) => {
                    let name = clear_out::CLEARING.as_bytes();
                    return Err(RootError::Fs(FsError::new("remove", name, errno)));
                }
            },
            Err(_) => return Err(RootError::BadIdentity { path: shown }),
        }
        let nonce = random().map_err(RootError::Fs)?;
        let (root, _) = ident_of(dir.as_fd()).map_err(RootError::Fs)?;
        let identity = Identity { endpoint, nonce, root, volume: sys::file_system_uuid(state.as_fd()) };
        identity.write(state.as_fd()).map_err(RootError::Fs)?;
        rustix::fs::openat(&dir, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .and_then(rustix::fs::fsync)
            .doing("make durable", STATE_DIR)
            .map_err(RootError::Fs)?;
        Self::open(path, endpoint)
    }

    /// Makes the root of an endpoint that is no more the root of another one: of a server that was registered anew, or
    /// of an endpoint that was removed and made again. The folder keeps its files. Refused while somebody lives there.
    ///
    /// Of a plain folder what the state database knew of the old endpoint is forgotten, so the two sides are compared anew and nothing counts as
    /// deleted. A folder with placeholders keeps its database, if it is known to be of the share that the new endpoint follows: compared anew, a
    /// placeholder of a version that was replaced or deleted since would be taken for something that a user made. So the new endpoint
    /// goes on where the old one was, as if it had been away. With placeholders of another share it is refused: they would be names whose bytes
    /// nobody has. `anew`: even a folder of the same share is compared anew; then it may hold no placeholders.
    pub fn take_over(
        path: &Path,
        endpoint: EndpointId,
        old: EndpointId,
        share: ShareId,
        anew: bool,
    ) -> Result<Self, RootError> {
        let root = Self::open(path, old)?;
        let noted = left::noted_share(&root).map_err(RootError::Fs)?.filter(|_| root.is_tiered);
        if noted.is_some_and(|noted| noted != share) && layout::ensure_unmarked(&root).is_err() {
            return Err(RootError::OtherShare { path: shown(path) });
        }
        if anew && root.is_tiered && layout::ensure_unmarked(&root).is_err() {
            return Err(RootError::Placeholders { path: shown(path) });
        }
        // The database first: the old identity with an empty database merges, the new one with old rows of another share would not.
        let database = ["state.db", "state.db-wal", "state.db-shm"];
        let goes = if noted == Some(share) && !anew { &[][..] } else { &database[..] };
        for name in goes.iter().chain(&[left::MANIFEST]) {
            match rustix::fs::unlinkat(&root.state, *name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => (),
                Err(errno) => return Err(RootError::Fs(FsError::new("remove", name.as_bytes(), errno))),
            }
        }
        rustix::fs::fsync(&root.state).doing("make durable", STATE_DIR).map_err(RootError::Fs)?;
        // The marks of placeholders name the nonce: they stay those of this folder.
        let nonce = if root.is_tiered { root.identity.nonce } else { random().map_err(RootError::Fs)? };
        Identity { endpoint, nonce, ..root.identity.clone() }
            .write(root.state.as_fd())
            .map_err(RootError::Fs)?;
        drop(root);
        Self::open(path, endpoint)
    }

    /// Opens the root of `endpoint` and proves that it is the one that was adopted.
    pub fn open(path: &Path, endpoint: EndpointId) -> Result<Self, RootError> {
        Self::open_below(open_at(path)?, path, endpoint)
    }

    /// As [`Root::open`], through a descriptor of the directory at the path that was opened before the gate was mounted over it.
    pub fn open_below(base: OwnedFd, path: &Path, endpoint: EndpointId) -> Result<Self, RootError> {
        let state = open_state(&base, path)?;
        if clear_out::noted(state.as_fd()).map_err(RootError::Fs)?.is_some() {
            return Err(RootError::Clearing { path: shown(path) });
        }
        Self::open_with(base, state, path, endpoint)
    }

    /// Opens a root of which [`crate::begin_clearing`] was called, to go on with it.
    pub fn open_clearing(path: &Path, endpoint: EndpointId) -> Result<Self, RootError> {
        let open = || {
            let base = open_at(path)?;
            let state = open_state(&base, path)?;
            match clear_out::noted(state.as_fd()).map_err(RootError::Fs)? {
                Some(_) => Self::open_with(base, state, path, endpoint),
                None => Err(RootError::NotAdopted { path: shown(path) }),
            }
        };
        match open() {
            Err(RootError::Unfinished { .. }) => {
                layout::go_on(path, &mut |_| true)?;
                open()
            }
            opened => opened,
        }
    }

    fn open_with(
        base: OwnedFd,
        state: OwnedFd,
        path: &Path,
        endpoint: EndpointId,
    ) -> Result<Self, RootError> {
        let shown = shown(path);
        let identity = Identity::read(state.as_fd())
            .map_err(|_| RootError::BadIdentity { path: shown.clone() })?
            .ok_or_else(|| RootError::NotAdopted { path: shown.clone() })?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let lock = rustix::fs::openat(&state, c"lock", flags, Mode::RUSR | Mode::WUSR)
            .doing("open lock", b"lock")
            .map_err(RootError::Fs)?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => (),
            Err(Errno::WOULDBLOCK) => return Err(RootError::InUse { path: shown }),
            Err(errno) => return Err(RootError::Fs(FsError::new("lock", b"lock", errno))),
        }
        let root = Self::assemble(base, path, state, Arc::new(lock), identity)?;
        if root.identity.endpoint != endpoint {
            return Err(RootError::OtherEndpoint { path: shown, found: root.identity.endpoint });
        }
        root.check()?;
        Ok(root)
    }

    /// The same root by the layout that it has now; under the same lock, so whoever still holds this one is not in the way.
    pub fn anew(&self) -> Result<Self, RootError> {
        let state = open_state(&self.base, &self.path)?;
        if clear_out::noted(state.as_fd()).map_err(RootError::Fs)?.is_some() {
            return Err(RootError::Clearing { path: shown(&self.path) });
        }
        let base = layout::again(&self.base)?;
        let root = Self::assemble(base, &self.path, state, Arc::clone(&self.lock), self.identity.clone())?;
        root.check()?;
        Ok(root)
    }

    /// Lets others open it, though somebody may still hold it: a program that has a file open through a gate that was taken away.
    pub fn unlock(&self) {
        // A lock that cannot be released ends with its holder.
        let _ = rustix::fs::flock(&self.lock, FlockOperation::Unlock);
    }

    fn assemble(
        base: OwnedFd,
        path: &Path,
        state: OwnedFd,
        lock: Arc<OwnedFd>,
        identity: Identity,
    ) -> Result<Self, RootError> {
        let (dir, is_tiered) = layout::tree(&base, &state, path)?;
        let (ident, device) = ident_of(dir.as_fd()).map_err(RootError::Fs)?;
        let volume = sys::file_system_uuid(state.as_fd());
        let path = path.to_owned();
        Ok(Self {
            path,
            base,
            dir,
            ident,
            is_tiered,
            state,
            lock,
            identity,
            volume,
            device,
            tested: OnceLock::new(),
        })
    }

    /// Proves that the root is still there, still the same and still on its file system. To be called before absences
    /// are believed, and now and then. Nothing is changed.
    pub fn check(&self) -> Result<(), RootError> {
        let path = shown(&self.path);
        let (pinned, pinned_device) = ident_of(self.base.as_fd()).map_err(RootError::Fs)?;
        let links = statx_fd(&self.base).doing("stat the root", b".").map_err(RootError::Fs)?.stx_nlink;
        if links == 0 {
            return Err(RootError::Deleted { path });
        }
        // What stands at the path now must be what we hold open: after an unmount, or a mount over it, it is not. Under a gate the path
        // leads into our own mount, where nobody of this process may go; what lies below it cannot be exchanged while we hold it.
        let now = if self.is_tiered { layout::again(&self.base)? } else { open_at(&self.path)? };
        if ident_of(now.as_fd()).map_err(RootError::Fs)? != (pinned, pinned_device) {
            let adopted = statx_at(&now, c".polder").is_ok();
            return Err(if adopted { RootError::Replaced { path } } else { RootError::NotAdopted { path } });
        }
        let state = open_state(&now, &self.path)?;
        match Identity::read(state.as_fd()) {
            Ok(Some(found)) if found == self.identity => (),
            Ok(Some(_)) => return Err(RootError::Replaced { path }),
            Ok(None) => return Err(RootError::NotAdopted { path }),
            Err(_) => return Err(RootError::BadIdentity { path }),
        }
        if self.identity.root != pinned {
            return Err(RootError::Copied { path, what: "the directory's inode" });
        }
        if layout::tree(&now, &state, &self.path)
            .and_then(|(dir, _)| ident_of(dir.as_fd()).map_err(RootError::Fs))?
            != (self.ident, self.device)
        {
            return Err(RootError::Replaced { path });
        }
        let volume = sys::file_system_uuid(state.as_fd());
        if self.identity.volume.is_some() && volume.is_some() && self.identity.volume != volume {
            return Err(RootError::Copied { path, what: "the file system" });
        }
        Ok(())
    }

    /// Where the root is, for messages and for what needs a path (the state database).
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Which directory holds the share's files.
    pub fn ident(&self) -> FileIdent {
        self.ident
    }

    /// Whether it is laid out for tiering: the share's files are in `.polder/tree`, and users see them through a gate that is mounted over
    /// the path. Without the gate the path shows nothing.
    pub fn is_tiered(&self) -> bool {
        self.is_tiered
    }

    /// The directory that holds the share's files, for the gate.
    pub fn tree(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// The directory at the path, for the gate to be mounted on. `O_PATH`.
    pub fn base(&self) -> BorrowedFd<'_> {
        self.base.as_fd()
    }

    /// UUID of the file system, where it tells.
    pub(crate) fn volume(&self) -> Option<[u8; 16]> {
        self.volume
    }

    /// What was written at adoption.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Device number of the file system, for comparison within one boot.
    pub fn device(&self) -> u64 {
        self.device
    }

    /// Where the state database lies. Of a tiered root the path is good in this process alone.
    pub fn database_path(&self) -> PathBuf {
        let folder = match self.is_tiered {
            true => layout::reachable(&self.state).unwrap_or_else(|| self.path.join(".polder")),
            false => self.path.join(".polder"),
        };
        folder.join("state.db")
    }

    /// Moves a damaged state database aside, for who wants to look at it; then the endpoint begins with an empty one. An earlier one goes.
    pub fn set_database_aside(&self) -> Result<(), FsError> {
        // Its log first: a database without it is an older one, and a new one beside it would take it for its own.
        for name in ["state.db-wal", "state.db-shm", "state.db"] {
            match rustix::fs::renameat(&self.state, name, &self.state, format!("{name}.damaged")) {
                Ok(()) | Err(Errno::NOENT) => (),
                Err(errno) => return Err(FsError::new("rename", name.as_bytes(), errno)),
            }
        }
        rustix::fs::fsync(&self.state).doing("make durable", STATE_DIR)
    }

    /// The state directory.
    pub(crate) fn state(&self) -> BorrowedFd<'_> {
        self.state.as_fd()
    }

    /// A descriptor of the root that can be listed, and the device.
    pub(crate) fn open_readable(&self) -> Result<(OwnedFd, u64), FsError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.dir, ".", flags, Mode::empty()).doing("open the root", b".")?;
        Ok((fd, self.device))
    }

    /// Makes everything that was written on the volume durable: what an agent calls before synced rows say that
    /// files which were read are safe here.
    pub fn make_durable(&self) -> Result<(), FsError> {
        rustix::fs::syncfs(&self.state).doing("make the volume durable", b".")
    }

    /// Opens a directory below `.polder`, making it if need be, and verifies that it is ours alone.
    pub(crate) fn state_subdir(&self, name: &str) -> Result<OwnedFd, RootError> {
        match rustix::fs::mkdirat(&self.state, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => (),
            Err(errno) => {
                return Err(RootError::Fs(FsError::new("create directory", name.as_bytes(), errno)));
            }
        }
        open_private(self.state.as_fd(), name.as_bytes())
            .map_err(RootError::Fs)?
            .ok_or_else(|| RootError::Unsafe { path: shown(&self.path) })
    }
}

/// A path for messages.
pub(crate) fn shown(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    polder_types::Escaped(path.as_os_str().as_bytes()).to_string()
}

/// 16 random bytes.
fn random() -> Result<[u8; 16], FsError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|_| FsError::new("draw random bytes", b"nonce", Errno::IO))?;
    Ok(bytes)
}

/// Opens the directory at a path that an administrator gave; symlinks on the way are theirs to place.
pub(crate) fn open_at(path: &Path) -> Result<OwnedFd, RootError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| match errno {
        Errno::NOENT | Errno::NOTDIR => RootError::Missing { path: shown(path) },
        _ => RootError::Fs(FsError::new("open the root", shown(path).as_bytes(), errno)),
    })
}

pub(crate) fn open_state(dir: &OwnedFd, path: &Path) -> Result<OwnedFd, RootError> {
    match open_private(dir.as_fd(), STATE_DIR) {
        Ok(Some(state)) => Ok(state),
        Ok(None) => Err(RootError::Unsafe { path: shown(path) }),
        Err(error) if error.class == crate::ErrorClass::Gone => {
            Err(RootError::NotAdopted { path: shown(path) })
        }
        Err(error) if error.class == crate::ErrorClass::Blocked => {
            Err(RootError::Unsafe { path: shown(path) })
        }
        Err(error) => Err(RootError::Fs(error)),
    }
}

/// A directory that is ours and closed to others; `None` when it is not. Checked on the descriptor, so nothing that a
/// user plants in its place passes (promises.md, 111).
fn open_private(dir: BorrowedFd<'_>, name: &[u8]) -> Result<Option<OwnedFd>, FsError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(dir, name, flags, Mode::empty()).doing("open directory", name)?;
    let stat = statx_fd(&fd).doing("stat directory", name)?;
    let ours = stat.stx_uid == rustix::process::geteuid().as_raw() && stat.stx_mode & 0o077 == 0;
    let is_dir = FileType::from_raw_mode(stat.stx_mode.into()) == FileType::Directory;
    Ok((ours && is_dir).then_some(fd))
}

/// Which directory a descriptor stands for, and its device.
pub(crate) fn ident_of(fd: BorrowedFd<'_>) -> Result<(FileIdent, u64), FsError> {
    let stat = rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, crate::ident::STATX_MASK)
        .doing("stat the root", b".")?;
    let ident = FileIdent { ino: stat.stx_ino, generation: generation(fd, c"", stat.stx_ino) };
    Ok((ident, device(&stat)))
}
