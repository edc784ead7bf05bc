//! The holder: keeps what must outlive a worker, and starts workers.
//!
//! Order: [`Holder::mount`], then [`Holder::run`] with what starts a worker; the worker begins with [`Handed::take`]. The holder reads no message
//! and answers none: what kills a worker cannot kill it. While it lives, callers wait for the next worker; when it dies, they get
//! ENOTCONN.
//!
//! A worker that crashes or gives up is a *strike*; a minute of life clears them; at ten the connection is aborted. One that is killed from
//! outside (SIGKILL) or asks to be started again is none, however often; but when for half a minute no worker has come so far as to serve,
//! the connection is aborted too: nobody is to wait for ever. A request that was under way at two crashes is answered with an error by the
//! third worker, so that one bad request does not end the mount.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use rustix::io::{Errno, FdFlags, fcntl_setfd};

use crate::mount::{Mount, open_device, open_point};
use crate::session::Connection;
use crate::shared::Shared;
use crate::sys;

/// Where a worker finds the numbers of its descriptors: `device,state,tree`.
const VARIABLE: &str = "POLDER_GATE_DESCRIPTORS";
/// Exit code of a worker that wants to be started again, with a new executable or new settings: no strike.
pub const EXIT_AGAIN: i32 = 10;

/// Why a mount could not be made or kept.
#[derive(Debug, thiserror::Error)]
pub enum HolderError {
    /// A system call failed.
    #[error("{doing}")]
    System {
        /// What was being done.
        doing: &'static str,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// A worker could not be started.
    #[error("start the worker")]
    Start(#[source] std::io::Error),
    /// Workers die again and again; the mount was aborted and is gone.
    #[error("the worker dies again and again, or does not come to serve; the mount was given up")]
    Dying,
}

pub(crate) fn doing(doing: &'static str) -> impl FnOnce(Errno) -> HolderError {
    move |source| HolderError::System { doing, source }
}

/// What a worker is handed.
pub struct Handed {
    /// For [`crate::Gate::start`].
    pub connection: Connection,
    /// The real tree, opened before the mount: by path a worker would enter its own mount.
    pub tree: OwnedFd,
}

impl Handed {
    /// Takes what a holder handed to this process; `None` when it was not started by one. To be called once.
    pub fn take() -> Option<Self> {
        let numbers = std::env::var(VARIABLE).ok()?;
        let mut numbers =
            numbers.split(',').map(|number| number.parse::<RawFd>().ok().and_then(sys::inherited));
        let (device, state, tree) = (numbers.next()??, numbers.next()??, numbers.next()??);
        Some(Self { connection: Connection { device, state }, tree })
    }
}

/// What a mount lives by, and the next holder needs.
pub struct Kept {
    /// `/dev/fuse`. While it is open anywhere, callers wait and get no error.
    pub device: OwnedFd,
    /// What outlives a worker.
    pub state: OwnedFd,
    /// The real tree.
    pub tree: OwnedFd,
}

/// The holder's side of a mount.
pub struct Holder {
    device: OwnedFd,
    state: OwnedFd,
    shared: Shared,
    tree: OwnedFd,
    /// `None` once it was left to another holder.
    mount: Option<Mount>,
}

impl Holder {
    /// Mounts the gate of `tree` over the directory `point`. Both are opened before.
    pub fn mount(tree: &Path, point: &Path) -> Result<Self, HolderError> {
        let tree = open_point(tree).map_err(doing("open the tree"))?;
        let point = open_point(point).map_err(doing("open the mount point"))?;
        let device = open_device().map_err(doing("open /dev/fuse"))?;
        let state = Shared::create().map_err(doing("make the state of the connection"))?;
        let shared = Shared::take_up(&state).map_err(doing("map the state of the connection"))?;
        let mount = Mount::new(&point, &device, "polder").map_err(doing("mount"))?;
        Ok(Self { device, state, shared, tree, mount: Some(mount) })
    }

    /// Goes on with a mount whose holder has ended and whose descriptors somebody kept (the service manager's descriptor store, or this
    /// process over an `exec`). No worker of it may live.
    pub fn resume(kept: Kept, point: &Path) -> Result<Self, HolderError> {
        let shared = Shared::take_up(&kept.state).map_err(doing("map the state of the connection"))?;
        let mount = Mount::find(point).map_err(doing("find the mount"))?;
        let Kept { device, state, tree } = kept;
        Ok(Self { device, state, shared, tree, mount: Some(mount) })
    }

    /// Copies of the descriptors, to be kept by somebody who outlives this process.
    pub fn kept(&self) -> std::io::Result<Kept> {
        let (device, state) = (self.device.try_clone()?, self.state.try_clone()?);
        Ok(Kept { device, state, tree: self.tree.try_clone()? })
    }

    /// Ends without taking the mount away: callers wait for whoever goes on with [`Holder::resume`].
    pub fn leave(mut self) {
        self.mount = None;
    }

    /// A worker of this mount has ended: what follows. Gives the mount up when that happens too often.
    pub(crate) fn worker_ended(&self, deaths: &mut Deaths, status: ExitStatus, lived: Duration) -> Next {
        let answered = self.shared.answered();
        if answered != deaths.answered {
            (deaths.answered, deaths.served) = (answered, Instant::now());
        }
        self.shared.set_crashed(is_crash(status));
        let next = deaths.strikes.after(status, lived, deaths.served.elapsed());
        if next == Next::GiveUp {
            self.abort();
            let _ = self.detach();
        }
        next
    }

    /// What is known of the deaths of a mount's workers before the first one.
    pub(crate) fn no_deaths(&self) -> Deaths {
        Deaths { strikes: Strikes::default(), served: Instant::now(), answered: self.shared.answered() }
    }

    pub(crate) fn handed(&self) -> [BorrowedFd<'_>; 3] {
        [self.device.as_fd(), self.state.as_fd(), self.tree.as_fd()]
    }

    /// Starts a worker. Descriptors are inherited under their own numbers.
    pub fn start(&self, mut command: Command) -> Result<Child, HolderError> {
        let numbers = self.handed().map(|fd| fd.as_raw_fd().to_string()).join(",");
        command.env(VARIABLE, numbers);
        // The holder starts nothing else, so that nobody else inherits them in between.
        let keep = |flags| self.handed().iter().try_for_each(|fd| fcntl_setfd(fd, flags));
        keep(FdFlags::empty()).map_err(doing("hand descriptors on"))?;
        let started = command.spawn().map_err(HolderError::Start);
        keep(FdFlags::CLOEXEC).map_err(doing("keep descriptors"))?;
        started
    }

    /// Starts workers until one ends well (exit code 0); then the mount is taken away. `started` is told of each.
    pub fn run(
        &self,
        mut command: impl FnMut() -> Command,
        mut started: impl FnMut(&Child),
    ) -> Result<(), HolderError> {
        let mut deaths = self.no_deaths();
        loop {
            let begun = Instant::now();
            let mut child = self.start(command())?;
            started(&child);
            // All threads are gone once the status is there: nobody acts beside the next worker.
            let status = child.wait().map_err(HolderError::Start)?;
            match self.worker_ended(&mut deaths, status, begun.elapsed()) {
                Next::End => return self.detach().map_err(doing("unmount")),
                Next::Start(pause) => std::thread::sleep(pause),
                Next::GiveUp => return Err(HolderError::Dying),
            }
        }
    }

    /// Ends the connection at once: callers get ENOTCONN.
    pub fn abort(&self) {
        if let Some(mount) = &self.mount {
            mount.abort();
        }
    }

    fn detach(&self) -> Result<(), Errno> {
        self.mount.as_ref().map_or(Ok(()), Mount::detach)
    }
}

impl Drop for Holder {
    /// A mount that nobody serves is of no use to anybody.
    fn drop(&mut self) {
        let _ = self.detach();
    }
}

/// Four requests that crash two workers each do not come so far.
const STRIKES_MAX: u32 = 10;
const PAUSE_MAX: Duration = Duration::from_secs(1);
const LIFE_THAT_CLEARS: Duration = Duration::from_secs(60);
/// How long callers may wait for a worker that serves.
const UNSERVED_MAX: Duration = Duration::from_secs(30);

/// What follows the death of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// It ended well: the mount is of no use any more.
    End,
    /// The next one, after so long.
    Start(Duration),
    /// The mount is gone.
    GiveUp,
}

/// Whether a worker died of itself, and did not ask to be started again.
fn is_crash(status: ExitStatus) -> bool {
    const SIGKILL: i32 = 9;
    !status.success() && status.code() != Some(EXIT_AGAIN) && status.signal() != Some(SIGKILL)
}

/// What a holder remembers of the workers of one mount.
#[derive(Debug)]
pub(crate) struct Deaths {
    strikes: Strikes,
    /// When a worker was last seen to serve, and how many requests were answered by then.
    served: Instant,
    answered: u64,
}

#[derive(Debug, Default)]
struct Strikes(u32);

impl Strikes {
    /// What follows a death after a life of `lived`; `unserved` is the time since a worker was last seen to serve.
    fn after(&mut self, status: ExitStatus, lived: Duration, unserved: Duration) -> Next {
        if status.success() {
            return Next::End;
        }
        if lived >= LIFE_THAT_CLEARS {
            self.0 = 0;
        }
        if unserved >= UNSERVED_MAX {
            return Next::GiveUp;
        }
        if !is_crash(status) {
            return Next::Start(Duration::ZERO);
        }
        self.0 += 1;
        if self.0 >= STRIKES_MAX {
            Next::GiveUp
        } else {
            Next::Start(Duration::from_millis(10 << self.0).min(PAUSE_MAX))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_a_strike() {
        let (killed, crashed) = (ExitStatus::from_raw(9), ExitStatus::from_raw(6));
        let again = ExitStatus::from_raw(EXIT_AGAIN << 8);
        let (short, served) = (Duration::from_millis(50), Duration::ZERO);
        let mut strikes = Strikes::default();
        for _ in 0..100 {
            assert_eq!(strikes.after(killed, short, UNSERVED_MAX / 2), Next::Start(Duration::ZERO));
            assert_eq!(strikes.after(again, short, served), Next::Start(Duration::ZERO));
        }
        for _ in 1..STRIKES_MAX {
            assert!(matches!(strikes.after(crashed, short, served), Next::Start(pause) if !pause.is_zero()));
        }
        let mut other = Strikes(strikes.0);
        assert_eq!(strikes.after(crashed, short, served), Next::GiveUp);
        assert!(
            matches!(other.after(crashed, LIFE_THAT_CLEARS, served), Next::Start(_)),
            "cleared by a long life"
        );
        assert_eq!(other.after(killed, short, UNSERVED_MAX), Next::GiveUp, "nobody serves");
        assert_eq!(other.after(ExitStatus::from_raw(0), short, served), Next::End);
    }
}
