//! Read leases that never keep a writer waiting.
//!
//! While a lease is held, an `open` for writing waits. Whoever holds one looks after every piece whether somebody
//! knocks; but a consumer may itself wait (for the network, for instance), so one thread looks at all leases every few
//! milliseconds and ends those that somebody waits for. The reader then finds its lease gone and discards.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::Duration;

use rustix::io::Errno;

use crate::sys::{self, Lease};

/// How long a writer waits at most for a reader that does not look.
const KNOCK_INTERVAL: Duration = Duration::from_millis(5);

/// A read lease on an open file, until dropped.
pub(crate) struct ReadLease {
    held: Arc<Held>,
    number: u64,
}

/// Why there is no lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LeaseRefused {
    /// Somebody has the file open or mapped for writing.
    Writer,
    /// The file system has no leases, or we may not take them.
    NotHere,
}

struct Held {
    /// A duplicate: the lease belongs to the open file, not to one descriptor.
    fd: OwnedFd,
    ended: AtomicBool,
}

impl Held {
    fn is_held(&self) -> bool {
        !self.ended.load(Ordering::Acquire) && sys::lease(self.fd.as_fd()) == Ok(Lease::Read)
    }

    fn end(&self) {
        self.ended.store(true, Ordering::Release);
        // Fails only when there is no lease any more.
        let _ = sys::set_lease(self.fd.as_fd(), Lease::None);
    }
}

impl ReadLease {
    /// Takes a lease; `None` while somebody has the file open or mapped for writing, and where there are no leases.
    pub(crate) fn take(file: BorrowedFd<'_>) -> Option<Self> {
        Self::try_take(file).ok()
    }

    /// As `take`, telling why there is none.
    pub(crate) fn try_take(file: BorrowedFd<'_>) -> Result<Self, LeaseRefused> {
        let fd = file.try_clone_to_owned().map_err(|_| LeaseRefused::NotHere)?;
        match sys::set_lease(fd.as_fd(), Lease::Read) {
            Ok(()) => (),
            Err(Errno::AGAIN) => return Err(LeaseRefused::Writer),
            Err(_) => return Err(LeaseRefused::NotHere),
        }
        let held = Arc::new(Held { fd, ended: AtomicBool::new(false) });
        let number = keeper().add(held.clone());
        Ok(Self { held, number })
    }

    /// Whether nobody could have written since it was taken.
    pub(crate) fn is_held(&self) -> bool {
        self.held.is_held()
    }

    /// Ends it; whether nobody could have written until now.
    pub(crate) fn end(self) -> bool {
        self.is_held()
    }
}

impl Drop for ReadLease {
    fn drop(&mut self) {
        keeper().remove(self.number);
        self.held.end();
    }
}

/// Proof that nobody else has the file open or mapped; an open waits until this is dropped.
pub(crate) struct SoleUser<'a>(BorrowedFd<'a>);

/// Takes a write lease on a file that this process has open once; `None` while anybody else has it open.
pub(crate) fn sole_user(file: BorrowedFd<'_>) -> Option<SoleUser<'_>> {
    sys::set_lease(file, Lease::Write).ok().map(|()| SoleUser(file))
}

impl SoleUser<'_> {
    /// Whether nobody has tried to open the file since it was taken.
    pub(crate) fn is_held(&self) -> bool {
        sys::lease(self.0) == Ok(Lease::Write)
    }
}

impl Drop for SoleUser<'_> {
    fn drop(&mut self) {
        // Fails only when there is no lease any more.
        let _ = sys::set_lease(self.0, Lease::None);
    }
}

#[derive(Default)]
struct Keeper {
    leases: Mutex<(u64, BTreeMap<u64, Arc<Held>>)>,
    some: Condvar,
}

fn keeper() -> &'static Keeper {
    static KEEPER: OnceLock<&'static Keeper> = OnceLock::new();
    KEEPER.get_or_init(|| {
        let keeper: &'static Keeper = Box::leak(Box::default());
        // Without the thread (no memory left) leases are still looked at after every piece.
        let _ = std::thread::Builder::new().name("leases".into()).spawn(|| keeper.run());
        keeper
    })
}

impl Keeper {
    fn add(&self, held: Arc<Held>) -> u64 {
        let mut leases = self.leases.lock().expect("no holder of this lock panics");
        leases.0 += 1;
        let number = leases.0;
        leases.1.insert(number, held);
        if leases.1.len() == 1 {
            self.some.notify_one();
        }
        number
    }

    fn remove(&self, number: u64) {
        self.leases.lock().expect("no holder of this lock panics").1.remove(&number);
    }

    fn run(&self) {
        loop {
            let mut leases = self.leases.lock().expect("no holder of this lock panics");
            while leases.1.is_empty() {
                leases = self.some.wait(leases).expect("no holder of this lock panics");
            }
            // Under the lock: whoever gives a lease back is then the last to hold its descriptor. Otherwise the file would be open here
            // a moment longer, and its reader would find it in use.
            leases.1.values().filter(|held| !held.is_held()).for_each(|held| held.end());
            drop(leases);
            std::thread::sleep(KNOCK_INTERVAL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The thread that looks after all leases held their files open itself, on a busy machine for long: what had just been read was in use.
    /// Seen with a pause of a millisecond in its round.
    #[test]
    fn regression_who_gives_a_lease_back_was_the_last_to_hold_the_file() {
        let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
        let began = std::time::Instant::now();
        while began.elapsed() < Duration::from_millis(500) {
            let file = std::fs::File::open(&path).unwrap();
            drop(ReadLease::take(file.as_fd()).expect("nobody writes"));
            drop(file);
            let again = std::fs::File::open(&path).unwrap();
            assert!(sole_user(again.as_fd()).is_some(), "nobody else has it open");
        }
    }
}
