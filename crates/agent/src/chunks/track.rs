//! Which reads wait for which packs.
//!
//! A file may be offered only when every pack that holds one of its new chunks was acknowledged. A chunk that another
//! file put into a pack that is still on its way counts as new here too.

use std::collections::{HashMap, HashSet, VecDeque};

use polder_engine::{Failure, JobId};
use polder_types::{ChunkId, PackId};

use crate::sync::Mutex;

/// Chunks of acknowledged packs that are remembered, so that they are not sent again before the service has verified
/// them. 24 bytes each.
const RECENT_MAX: usize = 262_144;

/// What changed for reads when a pack was settled.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Settled {
    /// Reads whose packs are all acknowledged.
    pub stored: Vec<JobId>,
    /// Reads that lost a pack.
    pub failed: Vec<JobId>,
}

/// The state of packs on their way.
#[derive(Debug, Default)]
pub(crate) struct Tracker {
    packs: HashMap<PackId, PackOnItsWay>,
    reads: HashMap<JobId, Waiting>,
    recent: HashMap<[u8; 16], PackId>,
    order: VecDeque<[u8; 16]>,
}

/// The tracker as the threads of the lanes and the tasks of the network share it.
#[derive(Debug, Default)]
pub(crate) struct Tracking(Mutex<Tracker>);

impl Tracking {
    /// Runs something on the tracker; nobody else does meanwhile.
    pub(crate) fn with<T>(&self, run: impl FnOnce(&mut Tracker) -> T) -> T {
        run(&mut self.0.lock().expect("no holder of this lock panics"))
    }

    /// [`Tracker::close`]. The read is told under the lock, so that what [`Tracker::settle`] finds cannot overtake it.
    pub(crate) fn close(&self, read: JobId, tell: impl FnOnce(Result<bool, ()>)) {
        self.with(|tracker| tell(tracker.close(read)));
    }
}

#[derive(Debug, Default)]
struct PackOnItsWay {
    chunks: Vec<[u8; 16]>,
    reads: HashSet<JobId>,
}

#[derive(Debug, Default)]
struct Waiting {
    packs: u32,
    /// No more chunks will come; the engine was told that the read is stable.
    closed: bool,
    failed: bool,
}

impl Tracker {
    /// A pack that chunks may be put into.
    pub(crate) fn begin(&mut self, pack: PackId) {
        self.packs.entry(pack).or_default();
    }

    /// Whether this agent has stored the chunk, or is about to; the read then waits for its pack if need be.
    pub(crate) fn knows(&mut self, read: JobId, id: ChunkId) -> bool {
        let Some(pack) = self.recent.get(&id.key16()).copied() else { return false };
        self.wait(read, pack);
        true
    }

    /// A chunk of a read was put into a pack.
    pub(crate) fn put(&mut self, read: JobId, id: ChunkId, pack: PackId) {
        let key = id.key16();
        self.packs.entry(pack).or_default().chunks.push(key);
        if self.recent.insert(key, pack).is_none() {
            self.order.push_back(key);
        }
        while self.order.len() > RECENT_MAX {
            if let Some(oldest) = self.order.pop_front() {
                self.recent.remove(&oldest);
            }
        }
        self.wait(read, pack);
    }

    /// The read needs the pack, unless that is acknowledged already.
    pub(crate) fn wait(&mut self, read: JobId, pack: PackId) {
        if let Some(on_its_way) = self.packs.get_mut(&pack)
            && on_its_way.reads.insert(read)
        {
            self.reads.entry(read).or_default().packs += 1;
        }
    }

    /// All chunks of the read were put. `true`: nothing is on its way, it is stored already.
    pub(crate) fn close(&mut self, read: JobId) -> Result<bool, ()> {
        match self.reads.get_mut(&read) {
            None => Ok(true),
            Some(waiting) if waiting.failed => {
                self.reads.remove(&read);
                Err(())
            }
            Some(waiting) if waiting.packs == 0 => {
                self.reads.remove(&read);
                Ok(true)
            }
            Some(waiting) => {
                waiting.closed = true;
                Ok(false)
            }
        }
    }

    /// The service says that it lacks these chunks: they are sent again with the next read that has them.
    pub(crate) fn lost(&mut self, ids: &[ChunkId]) {
        for id in ids {
            self.recent.remove(&id.key16());
        }
    }

    /// The read came to nothing.
    pub(crate) fn forget(&mut self, read: JobId) {
        if self.reads.remove(&read).is_some() {
            for pack in self.packs.values_mut() {
                pack.reads.remove(&read);
            }
        }
    }

    /// The pack was acknowledged, or was given up.
    pub(crate) fn settle(&mut self, pack: PackId, outcome: &Result<(), Failure>) -> Settled {
        let mut settled = Settled::default();
        let Some(on_its_way) = self.packs.remove(&pack) else { return settled };
        if outcome.is_err() {
            for key in on_its_way.chunks {
                if self.recent.get(&key) == Some(&pack) {
                    self.recent.remove(&key);
                }
            }
        }
        for read in on_its_way.reads {
            let Some(waiting) = self.reads.get_mut(&read) else { continue };
            waiting.packs -= 1;
            waiting.failed |= outcome.is_err();
            if waiting.closed && (waiting.failed || waiting.packs == 0) {
                let list = if waiting.failed { &mut settled.failed } else { &mut settled.stored };
                list.push(read);
                self.reads.remove(&read);
            }
        }
        settled
    }
}

#[cfg(test)]
mod tests {
    use polder_engine::FailureClass;

    use super::*;

    const ONE: JobId = JobId(1);
    const TWO: JobId = JobId(2);
    const A: PackId = PackId([1; 16]);
    const B: PackId = PackId([2; 16]);

    fn chunk(n: u8) -> ChunkId {
        ChunkId([n; 32])
    }

    fn lost() -> Result<(), Failure> {
        Err(Failure { class: FailureClass::Unreachable, text: "gone".into() })
    }

    #[test]
    fn a_read_is_stored_when_all_its_packs_are() {
        let mut tracker = Tracker::default();
        tracker.put(ONE, chunk(1), A);
        tracker.put(ONE, chunk(2), B);
        assert_eq!(tracker.close(ONE), Ok(false));
        assert_eq!(tracker.settle(A, &Ok(())), Settled::default());
        assert_eq!(tracker.settle(B, &Ok(())).stored, [ONE]);
    }

    #[test]
    fn a_chunk_on_its_way_in_another_read_s_pack_is_waited_for() {
        let mut tracker = Tracker::default();
        tracker.put(ONE, chunk(1), A);
        assert!(tracker.knows(TWO, chunk(1)));
        assert_eq!(tracker.close(TWO), Ok(false));
        assert_eq!(tracker.settle(A, &Ok(())).stored, [TWO]);
        // The first read closes after its pack was acknowledged.
        assert_eq!(tracker.close(ONE), Ok(true));
    }

    #[test]
    fn a_lost_pack_fails_its_reads_and_forgets_its_chunks() {
        let mut tracker = Tracker::default();
        tracker.put(ONE, chunk(1), A);
        tracker.put(TWO, chunk(2), A);
        assert_eq!(tracker.close(ONE), Ok(false));
        assert_eq!(tracker.settle(A, &lost()).failed, [ONE]);
        assert_eq!(tracker.close(TWO), Err(()));
        assert!(!tracker.knows(TWO, chunk(1)));
    }

    #[test]
    fn a_chunk_that_was_stored_is_not_sent_again() {
        let mut tracker = Tracker::default();
        tracker.put(ONE, chunk(1), A);
        tracker.settle(A, &Ok(()));
        assert!(tracker.knows(TWO, chunk(1)));
        assert_eq!(tracker.close(TWO), Ok(true));
    }
}
