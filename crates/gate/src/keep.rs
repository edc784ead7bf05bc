//! Mounts that a worker makes, and a holder keeps.
//!
//! Where mounts come and go while workers live, the worker makes them ([`mount_over`]) and passes their descriptors to its holder
//! ([`ToHolder`]) before it serves them. The holder keeps them ([`HeldMount`]), hands them to the next worker ([`Heirlooms`]), and ends a mount
//! that nobody comes to serve. It reads a few bytes from its own child, and no message of the kernel.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

use crate::holder::{Deaths, Holder, HolderError, Kept, Next, doing};
use crate::mount::{Mount, open_device};
use crate::session::Connection;
use crate::shared::Shared;
use crate::sys;

/// Where a worker finds what it inherits: `name:device,state,tree` separated by semicolons, the name in hexadecimal.
const KEPT: &str = "POLDER_GATE_KEPT";
/// Where a worker finds the number of its end of the channel.
const CHANNEL: &str = "POLDER_GATE_HOLDER";
const NAME_BYTES: usize = 16;
const MESSAGE_BYTES_MAX: usize = 1 + NAME_BYTES + 4096;
/// How long a worker waits for its holder to have noted a mount.
const NOTED_WITHIN: Duration = Duration::from_secs(5);

/// What a mount is known by: an endpoint's id.
pub type MountName = [u8; NAME_BYTES];

/// Mounts a gate over `point`, a descriptor of the directory itself. Nobody is answered before [`crate::Gate::start`].
pub fn mount_over(point: &OwnedFd) -> Result<Connection, HolderError> {
    let device = open_device().map_err(doing("open /dev/fuse"))?;
    let state = Shared::create().map_err(doing("make the state of the connection"))?;
    Mount::new(point, &device, "polder").map_err(doing("mount"))?;
    Ok(Connection { device, state })
}

/// Takes a mount of ours at a path away; files that are open through it go on until they are closed.
pub fn unmount(path: &Path) -> Result<(), Errno> {
    match Mount::find(path) {
        Ok(mount) => mount.detach(),
        Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// As [`unmount`], but only while nobody uses it: `EBUSY` if a file of it is open, or is somebody's working directory.
pub fn unmount_unused(path: &Path) -> Result<(), Errno> {
    match Mount::find(path) {
        Ok(mount) => mount.remove(),
        Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Whether the topmost mount at a path is one of ours.
pub fn is_mounted(path: &Path) -> bool {
    Mount::find(path).is_ok()
}

/// The holder's end of the channel to one worker.
#[derive(Debug)]
pub struct FromWorker(OwnedFd);

/// What a worker tells its holder.
pub enum Told {
    /// Keep this mount.
    Keep {
        /// Its name; one that is kept under it already is forgotten.
        name: MountName,
        /// Where it lies.
        path: PathBuf,
        /// What it lives by.
        kept: Kept,
    },
    /// The mount is gone for good: keep it no more.
    Forget(MountName),
}

/// A channel to a worker that is about to be started, and the worker's end.
pub fn channel() -> Result<(FromWorker, OwnedFd), HolderError> {
    let (holder, worker) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(doing("make a channel to the worker"))?;
    Ok((FromWorker(holder), worker))
}

impl FromWorker {
    /// Waits for the next word, and lets the worker go on only once [`FromWorker::noted`] is called; `None` when the worker is gone.
    pub fn receive(&self) -> Option<Told> {
        loop {
            let mut bytes = [0; MESSAGE_BYTES_MAX];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let mut parts = [IoSliceMut::new(&mut bytes)];
            let received = rustix::net::recvmsg(&self.0, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC);
            let count = match received {
                Err(Errno::INTR) => continue,
                Err(_) => return None,
                Ok(message) if message.bytes == 0 => return None,
                Ok(message) => message.bytes,
            };
            let mut fds = Vec::new();
            for message in ancillary.drain() {
                if let RecvAncillaryMessage::ScmRights(rights) = message {
                    fds.extend(rights);
                }
            }
            if let Some(told) = told(&bytes[..count], fds) {
                return Some(told);
            }
        }
    }

    /// What was received last is kept.
    pub fn noted(&self) {
        let _ = rustix::net::send(&self.0, b"k", SendFlags::NOSIGNAL);
    }
}

fn told(bytes: &[u8], fds: Vec<OwnedFd>) -> Option<Told> {
    let (kind, rest) = bytes.split_first()?;
    let (name, path) = rest.split_first_chunk::<NAME_BYTES>()?;
    match kind {
        b'k' => {
            let [device, state, tree] = <[OwnedFd; 3]>::try_from(fds).ok()?;
            let path = PathBuf::from(OsStr::from_bytes(path));
            Some(Told::Keep { name: *name, path, kept: Kept { device, state, tree } })
        }
        b'f' => Some(Told::Forget(*name)),
        _ => None,
    }
}

/// A worker's end of the channel.
#[derive(Debug)]
pub struct ToHolder(Mutex<OwnedFd>);

impl ToHolder {
    /// Takes what a holder handed to this process; `None` when it was not started by one that keeps mounts. Once.
    pub fn take() -> Option<Self> {
        let number = std::env::var(CHANNEL).ok()?.parse().ok()?;
        Some(Self(Mutex::new(sys::inherited(number)?)))
    }

    /// Has the holder keep a mount; `tree` is what the next worker needs to reach what lies below it. On return it is kept: from now on this
    /// worker's death is not seen by anyone.
    pub fn keep(
        &self,
        name: &MountName,
        path: &Path,
        connection: &Connection,
        tree: BorrowedFd<'_>,
    ) -> Result<(), Errno> {
        let fds = [connection.device.as_fd(), connection.state.as_fd(), tree];
        self.say(&[b"k", &name[..], path.as_os_str().as_bytes()].concat(), &fds)
    }

    /// The mount is gone for good.
    pub fn forget(&self, name: &MountName) -> Result<(), Errno> {
        self.say(&[b"f", &name[..]].concat(), &[])
    }

    fn say(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
        if bytes.len() > MESSAGE_BYTES_MAX {
            return Err(Errno::NAMETOOLONG);
        }
        let channel = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(Errno::INVAL);
        }
        rustix::net::sendmsg(&*channel, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)?;
        let mut polled = [rustix::event::PollFd::new(&*channel, rustix::event::PollFlags::IN)];
        let limit = rustix::event::Timespec { tv_sec: NOTED_WITHIN.as_secs() as i64, tv_nsec: 0 };
        if rustix::event::poll(&mut polled, Some(&limit))? == 0 {
            return Err(Errno::TIMEDOUT);
        }
        let mut answer = [0; 1];
        match rustix::net::recv(&*channel, &mut answer[..], RecvFlags::empty())?.1 {
            0 => Err(Errno::PIPE),
            _ => Ok(()),
        }
    }
}

/// Mounts that a worker inherits from the one before.
#[derive(Default)]
pub struct Heirlooms(BTreeMap<MountName, Kept>);

impl Heirlooms {
    /// Takes what a holder handed to this process. Once.
    pub fn take() -> Self {
        let listed = std::env::var(KEPT).unwrap_or_default();
        let one = |text: &str| {
            let (name, numbers) = text.split_once(':')?;
            let mut fds = numbers.split(',').map(|number| sys::inherited(number.parse().ok()?));
            let kept = Kept { device: fds.next()??, state: fds.next()??, tree: fds.next()?? };
            Some((from_hex(name)?, kept))
        };
        Self(listed.split(';').filter_map(one).collect())
    }

    /// The mount of this name, if there is one.
    pub fn remove(&mut self, name: &MountName) -> Option<Kept> {
        self.0.remove(name)
    }
}

fn to_hex(name: &MountName) -> String {
    name.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<MountName> {
    let digits = |at: usize| u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok();
    let bytes = (0..NAME_BYTES).map(digits).collect::<Option<Vec<_>>>()?;
    bytes.try_into().ok()
}

/// A mount as the holder keeps it.
pub struct HeldMount {
    holder: Holder,
    deaths: Deaths,
}

/// The mounts that a holder keeps.
#[derive(Default)]
pub struct HeldMounts(BTreeMap<MountName, HeldMount>);

impl HeldMounts {
    /// Carries out what a worker told.
    pub fn take(&mut self, told: Told) -> Result<(), HolderError> {
        match told {
            Told::Keep { name, path, kept } => {
                let holder = Holder::resume(kept, &path)?;
                self.forget(&name);
                let deaths = holder.no_deaths();
                self.0.insert(name, HeldMount { holder, deaths });
            }
            Told::Forget(name) => self.forget(&name),
        }
        Ok(())
    }

    fn forget(&mut self, name: &MountName) {
        if let Some(held) = self.0.remove(name) {
            held.holder.leave();
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Runs `start` with the environment of a worker, which inherits all mounts and its end of a channel. Nobody else may start a program meanwhile.
    pub fn handing_on<T>(
        &self,
        channel: &OwnedFd,
        start: impl FnOnce(Vec<(&'static str, String)>) -> T,
    ) -> T {
        let mut listed = Vec::new();
        let mut fds = vec![channel.as_fd()];
        for (name, held) in &self.0 {
            let handed = held.holder.handed();
            let numbers: Vec<RawFd> = handed.iter().map(AsRawFd::as_raw_fd).collect();
            listed.push(format!("{}:{},{},{}", to_hex(name), numbers[0], numbers[1], numbers[2]));
            fds.extend(handed);
        }
        let set = |flags: FdFlags| {
            for fd in &fds {
                let _ = fcntl_setfd(fd, flags);
            }
        };
        set(FdFlags::empty());
        let started = start(vec![(KEPT, listed.join(";")), (CHANNEL, channel.as_raw_fd().to_string())]);
        set(FdFlags::CLOEXEC);
        started
    }

    /// A worker has ended, all its threads are gone. Mounts that workers die of, or that none came to serve for long, are given up:
    /// callers get ENOTCONN. Returns how many, and how long to wait before the next worker is started.
    pub fn worker_ended(&mut self, status: ExitStatus, lived: Duration) -> (usize, Duration) {
        let (mut given_up, mut pause) = (0, Duration::ZERO);
        self.0.retain(|_, held| {
            match held.holder.worker_ended(&mut held.deaths, status, lived) {
                // One that has ended well is followed by another all the same: these mounts outlive it.
                Next::End => (),
                Next::Start(wait) => pause = pause.max(wait),
                Next::GiveUp => {
                    given_up += 1;
                    return false;
                }
            }
            true
        });
        (given_up, pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_worker_says_is_understood() {
        let (holder, worker) = channel().unwrap();
        let worker = ToHolder(Mutex::new(worker));
        let memory = || rustix::fs::memfd_create(c"m", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let connection = Connection { device: memory(), state: memory() };
        let listens = std::thread::spawn(move || {
            let Some(Told::Keep { name, path, kept }) = holder.receive() else { panic!("not understood") };
            rustix::io::write(&kept.tree, b"tree").unwrap();
            holder.noted();
            let Some(Told::Forget(forgotten)) = holder.receive() else { panic!("not understood") };
            holder.noted();
            assert!(holder.receive().is_none(), "the worker is gone");
            (name, path, forgotten)
        });
        let tree = memory();
        worker.keep(&[7; 16], Path::new("/srv/a b"), &connection, tree.as_fd()).unwrap();
        assert_eq!(rustix::fs::fstat(&tree).unwrap().st_size, 4, "kept before it goes on");
        worker.forget(&[8; 16]).unwrap();
        drop(worker);
        assert_eq!(listens.join().unwrap(), ([7; 16], PathBuf::from("/srv/a b"), [8; 16]));
    }

    #[test]
    fn names_survive_their_text() {
        let name = [0, 1, 0xab, 0xff, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
        assert_eq!(from_hex(&to_hex(&name)), Some(name));
        assert_eq!(from_hex("00"), None);
    }
}
