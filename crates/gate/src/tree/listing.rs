//! Listings of directories that go on where they left off.
//!
//! The kernel asks page by page, by cookie. A cookie alone leads to the right place (a new worker knows nothing else); what was read from the disk beyond a
//! page is kept for the next one, as long as nothing was changed through this process, and for a moment only.

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use crate::ports::{DirEntry, Node, Result};
use crate::shared::lock;
use crate::sys;

const BUFFER_BYTES: usize = 32 << 10;
const KEPT_MAX: usize = 16;
/// Others may change the directory beneath; so long may a listing lag behind them.
const KEPT_FOR: Duration = Duration::from_millis(20);

struct Stream {
    directory: Node,
    /// Where the next page begins.
    cookie: u64,
    kept_at: Instant,
    changes: u64,
    fd: OwnedFd,
    buffer: Vec<u8>,
    at: usize,
}

/// Listings that may be gone on with.
#[derive(Default)]
pub(super) struct Listings {
    kept: Mutex<Vec<Stream>>,
    changes: AtomicU64,
}

impl Listings {
    /// Something was changed: what was read before is not gone on with.
    pub(super) fn changed(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn read(
        &self,
        directory: Node,
        cookie: u64,
        open: impl FnOnce() -> Result<OwnedFd>,
        take: &mut dyn FnMut(&DirEntry<'_>) -> bool,
    ) -> Result<()> {
        let changes = self.changes.load(Ordering::Acquire);
        let mut stream = match self.go_on(directory, cookie, changes) {
            Some(stream) => stream,
            None => {
                let fd = open()?;
                if cookie != 0 {
                    rustix::fs::seek(&fd, SeekFrom::Start(cookie))?;
                }
                let (buffer, at) = (Vec::new(), 0);
                Stream { directory, cookie, kept_at: Instant::now(), changes, fd, buffer, at }
            }
        };
        loop {
            if stream.at == stream.buffer.len() && !stream.fill()? {
                return Ok(());
            }
            let (entry, len) = next(&stream.buffer[stream.at..]).ok_or(Errno::IO)?;
            let cookie = entry.cookie;
            if !take(&entry) {
                break;
            }
            stream.at += len;
            stream.cookie = cookie;
        }
        stream.kept_at = Instant::now();
        let mut kept = lock(&self.kept);
        if kept.len() >= KEPT_MAX {
            kept.remove(0);
        }
        kept.push(stream);
        Ok(())
    }

    fn go_on(&self, directory: Node, cookie: u64, changes: u64) -> Option<Stream> {
        let mut kept = lock(&self.kept);
        kept.retain(|stream| stream.changes == changes && stream.kept_at.elapsed() < KEPT_FOR);
        let index =
            kept.iter().position(|stream| (stream.directory, stream.cookie) == (directory, cookie))?;
        (cookie != 0).then(|| kept.swap_remove(index))
    }
}

impl Stream {
    /// Reads more entries; `false` at the end.
    fn fill(&mut self) -> Result<bool> {
        self.buffer.resize(BUFFER_BYTES, 0);
        let count = sys::getdents(self.fd.as_fd(), &mut self.buffer)?;
        self.buffer.truncate(count);
        self.at = 0;
        Ok(count > 0)
    }
}

/// The entry at the beginning of what `getdents64` gave, and its length there.
fn next(bytes: &[u8]) -> Option<(DirEntry<'_>, usize)> {
    let word = |at: usize| Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    let len = usize::from(u16::from_ne_bytes(bytes.get(16..18)?.try_into().ok()?));
    let kind = *bytes.get(18)?;
    let name = CStr::from_bytes_until_nul(bytes.get(19..len)?).ok()?;
    Some((DirEntry { ino: word(0)?, kind, cookie: word(8)?, name }, len))
}
