//! The device: reading requests, writing replies and notices, registering backing files.

use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::fs::{Backings, Tell};
use crate::ports::Node;
use crate::proto::{Notice, REQUEST_BYTES_MAX, notice, reply_header};
use crate::sys;

/// `/dev/fuse`, connected to a mount.
#[derive(Clone)]
pub(crate) struct Device(Arc<OwnedFd>);

/// Room for a request, of which every page is there.
///
/// The kernel copies a request into it. If the thread is killed while a page that was never touched is being made, the kernel ends the request with EIO, and
/// does not hand it to the next worker: a caller would see that a worker died. Zeros would be such pages.
pub(crate) fn request_buffer() -> Vec<u8> {
    vec![1; REQUEST_BYTES_MAX]
}

/// What came of reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Read {
    /// A request of so many bytes.
    Request(usize),
    /// None is waiting.
    Nothing,
    /// The mount is gone, or the connection was aborted.
    Closed,
}

impl Device {
    pub(crate) fn new(fd: OwnedFd) -> Result<Self, Errno> {
        let flags = rustix::fs::fcntl_getfl(&fd)?;
        rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?;
        Ok(Self(Arc::new(fd)))
    }

    /// Reads a request if there is one.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> Result<Read, Errno> {
        loop {
            match rustix::io::read(&*self.0, &mut *buffer) {
                Ok(0) => return Ok(Read::Closed),
                Ok(count) => return Ok(Read::Request(count)),
                Err(Errno::AGAIN) => return Ok(Read::Nothing),
                // The request went away while it was read.
                Err(Errno::INTR | Errno::NOENT) => (),
                Err(Errno::NODEV | Errno::CONNABORTED) => return Ok(Read::Closed),
                Err(errno) => return Err(errno),
            }
        }
    }

    /// Sleeps until there is something to read.
    pub(crate) fn wait(&self) -> Result<(), Errno> {
        loop {
            let mut fds = [PollFd::new(&*self.0, PollFlags::IN)];
            match poll(&mut fds, None) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => (),
                Err(errno) => return Err(errno),
            }
        }
    }

    /// Writes a reply. `false` when nobody waits for it any more.
    pub(crate) fn reply(&self, unique: u64, errno: i32, body: &[u8]) -> bool {
        let body = if errno == 0 { body } else { &[] };
        let header = reply_header(unique, errno, body.len());
        loop {
            match rustix::io::writev(&*self.0, &[IoSlice::new(&header), IoSlice::new(body)]) {
                Ok(_) => return true,
                Err(Errno::INTR) => (),
                Err(_) => return false,
            }
        }
    }

    /// Tells the kernel something; whether it knew of the node or name. That it did not is no error.
    pub(crate) fn tell(&self, what: &Notice<'_>) -> Result<bool, Errno> {
        match rustix::io::write(&*self.0, &notice(what)) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
            Err(errno) => Err(errno),
        }
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Backings for Device {
    fn open(&self, file: BorrowedFd<'_>) -> Result<u32, Errno> {
        sys::backing_open(self.as_fd(), file)
    }

    fn close(&self, id: u32) {
        // Unknown: it was ended by a worker that died after it.
        let _ = sys::backing_close(self.as_fd(), id);
    }
}

impl Tell for Device {
    fn attributes_changed(&self, node: Node) {
        let _ = self.tell(&Notice::Node { node: node.0, data: false });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Random operations without passthrough under a worker that is killed failed with EIO, one run in fifty.
    #[test]
    fn every_page_of_a_buffer_was_written_to() {
        let buffer = request_buffer();
        assert_eq!(buffer.len(), REQUEST_BYTES_MAX);
        assert!(
            buffer.chunks(4096).all(|page| page.iter().any(|byte| *byte != 0)),
            "pages of zeros are made later"
        );
    }
}
