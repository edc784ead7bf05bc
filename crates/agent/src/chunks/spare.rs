//! Memory of packs, used again: fresh pages cost more than sealing the bytes that go into them (measured: two fifths of
//! the time of a thread that reads large files).

use std::sync::Arc;

use bytes::Bytes;

use crate::sync::Mutex;

/// Most buffers that are kept: one a thread of large files, and one on its way.
const BUFFERS_MAX: usize = 3;
/// Smaller buffers come fast enough from the allocator.
const BUFFER_BYTES_MIN: usize = 8 * 1024 * 1024;

/// Buffers that are kept while somebody packs, and given back to the system afterwards.
#[derive(Debug, Default)]
pub(crate) struct Spare(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    buffers: Vec<Vec<u8>>,
    /// Threads that are packing.
    busy: usize,
}

/// Lives as long as a thread packs.
#[derive(Debug)]
pub(crate) struct Busy(Arc<Spare>);

const LOCK: &str = "no holder of this lock panics";

impl Spare {
    /// Tells that a thread packs, until the answer is dropped.
    pub(crate) fn busy(self: &Arc<Self>) -> Busy {
        self.0.lock().expect(LOCK).busy += 1;
        Busy(Arc::clone(self))
    }

    /// A buffer for a pack of about `bytes`; small packs begin with none.
    pub(crate) fn take(&self, bytes: usize) -> Vec<u8> {
        if bytes < BUFFER_BYTES_MIN {
            return Vec::new();
        }
        self.0.lock().expect(LOCK).buffers.pop().unwrap_or_default()
    }

    /// The bytes of a pack, whose memory comes back here when the last of them is dropped.
    pub(crate) fn lend(self: &Arc<Self>, bytes: Vec<u8>) -> Bytes {
        Bytes::from_owner(Lent { bytes, home: Arc::clone(self) })
    }
}

#[cfg(test)]
impl Spare {
    /// Buffers that are kept now.
    pub(crate) fn kept(&self) -> usize {
        self.0.lock().expect(LOCK).buffers.len()
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut inner = self.0.0.lock().expect(LOCK);
        inner.busy -= 1;
        if inner.busy == 0 {
            inner.buffers = Vec::new();
        }
    }
}

struct Lent {
    bytes: Vec<u8>,
    home: Arc<Spare>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut inner = self.home.0.lock().expect(LOCK);
        let worth = self.bytes.capacity() >= BUFFER_BYTES_MIN;
        if worth && inner.busy > 0 && inner.buffers.len() < BUFFERS_MAX {
            inner.buffers.push(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_buffer_comes_back_while_somebody_packs() {
        let spare = Arc::new(Spare::default());
        let busy = spare.busy();
        let mut bytes = spare.take(BUFFER_BYTES_MIN);
        bytes.resize(BUFFER_BYTES_MIN, 7);
        let at = bytes.as_ptr();
        let lent = spare.lend(bytes);
        let copy = lent.clone();
        drop(lent);
        assert_eq!(spare.take(BUFFER_BYTES_MIN).capacity(), 0, "somebody still reads it");
        assert!(copy.iter().all(|byte| *byte == 7));
        drop(copy);
        assert_eq!(spare.take(1).capacity(), 0, "not for small packs");
        let again = spare.take(BUFFER_BYTES_MIN);
        assert_eq!(again.as_ptr(), at);
        drop(busy);
    }

    #[test]
    fn nothing_is_kept_when_nobody_packs() {
        let spare = Arc::new(Spare::default());
        let busy = spare.busy();
        drop(spare.lend(vec![0; BUFFER_BYTES_MIN]));
        assert_eq!(spare.kept(), 1);
        let late = spare.lend(vec![0; BUFFER_BYTES_MIN]);
        drop(busy);
        drop(late);
        assert_eq!(spare.kept(), 0);
    }
}
