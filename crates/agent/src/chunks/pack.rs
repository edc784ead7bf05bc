//! Putting chunks of reads into packs: gather, ask what the share has, seal the rest, send full packs off.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use polder_chunk::{PackBuilder, PackNonce, Reserved, Scratch};
use polder_engine::{Event, Failure, FailureClass, JobId};
use polder_types::{ChunkId, PackId};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::spare::Spare;
use super::track::Tracker;
use super::{Remote, Share, random, remote};
use crate::endpoint::Facts;

/// Chunks are gathered up to this many bytes before the share is asked.
const GATHER_BYTES_MAX: usize = 4 * 1024 * 1024;
/// So few new bytes are sent without asking whether the share has them: the question would cost more than it saves.
const ASK_BYTES_MIN: usize = 128 * 1024;
/// A put is tried so often, with growing waits, before its reads are told that it failed.
const PUT_TRIES: u32 = 5;

/// What all threads of an endpoint share.
#[derive(Debug)]
pub(crate) struct Packing {
    /// Keys and rules.
    pub share: Share,
    /// The service.
    pub remote: Arc<Remote>,
    /// Which reads wait for which packs.
    pub tracker: Mutex<Tracker>,
    /// Where facts go.
    pub facts: Facts,
    /// Where the network runs.
    pub runtime: Handle,
    /// Bounds the bytes of finished packs in memory: a permit a MiB.
    pub room: Arc<Semaphore>,
    /// Memory of packs that are through.
    pub spare: Arc<Spare>,
}

/// One thread's pack in the making.
#[derive(Debug)]
pub(crate) struct Packer {
    packing: Arc<Packing>,
    /// A pack is sent off when it has so many bytes.
    flush_bytes: usize,
    gathered: Vec<(JobId, ChunkId, Range<usize>)>,
    /// The bytes of what was gathered, one after the other: the same memory every time.
    bytes: Vec<u8>,
    builder: Option<PackBuilder>,
    scratch: Scratch,
}

impl Packer {
    /// With packs of about `flush_bytes`.
    pub(crate) fn new(packing: Arc<Packing>, flush_bytes: usize) -> Self {
        Self {
            packing,
            flush_bytes,
            gathered: Vec::new(),
            bytes: Vec::new(),
            builder: None,
            scratch: Scratch::new(),
        }
    }

    /// Takes a chunk of a read.
    pub(crate) fn take(&mut self, read: JobId, id: ChunkId, bytes: &[u8]) -> Result<(), Failure> {
        if self.tracker(|tracker| tracker.knows(read, id)) {
            return Ok(());
        }
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        self.gathered.push((read, id, start..self.bytes.len()));
        if self.bytes.len() >= GATHER_BYTES_MAX { self.seal() } else { Ok(()) }
    }

    /// Seals what was gathered. After this every chunk that was taken is in a pack or in the share.
    pub(crate) fn seal(&mut self) -> Result<(), Failure> {
        let mut gathered = std::mem::take(&mut self.gathered);
        let bytes = std::mem::take(&mut self.bytes);
        let sealed = self.seal_all(&gathered, &bytes);
        gathered.clear();
        (self.gathered, self.bytes) = (gathered, bytes);
        self.bytes.clear();
        sealed
    }

    fn seal_all(&mut self, gathered: &[(JobId, ChunkId, Range<usize>)], bytes: &[u8]) -> Result<(), Failure> {
        let ask = bytes.len() >= ASK_BYTES_MIN;
        let have = if ask { self.ask(gathered)? } else { vec![false; gathered.len()] };
        for ((read, id, at), have) in gathered.iter().zip(have) {
            if !have {
                self.put(*read, *id, &bytes[at.clone()])?;
            }
        }
        Ok(())
    }

    /// Forgets what was gathered, after a failure: its reads were told.
    pub(crate) fn drop_gathered(&mut self) {
        self.gathered.clear();
        self.bytes.clear();
    }

    /// Forgets a read that came to nothing. What it left in a pack stays there; what is only gathered is dropped, for a
    /// read that is forgotten must not wait for a pack again.
    pub(crate) fn forget(&mut self, read: JobId) {
        self.gathered.retain(|(of, ..)| *of != read);
        if self.gathered.is_empty() {
            self.bytes.clear();
        }
        self.tracker(|tracker| tracker.forget(read));
    }

    /// Gives memory back, when there is nothing to do.
    pub(crate) fn rest(&mut self) {
        debug_assert!(self.gathered.is_empty(), "every read was sealed or forgotten");
        self.flush();
        self.gathered = Vec::new();
        self.bytes = Vec::new();
    }

    fn ask(&self, gathered: &[(JobId, ChunkId, Range<usize>)]) -> Result<Vec<bool>, Failure> {
        let ids: Vec<ChunkId> = gathered.iter().map(|(_, id, _)| *id).collect();
        let have = self.packing.runtime.block_on(self.packing.remote.have(&ids));
        have.map_err(|error| error.failure())
    }

    fn put(&mut self, read: JobId, id: ChunkId, bytes: &[u8]) -> Result<(), Failure> {
        // Another chunk of the same batch may have been equal.
        if self.tracker(|tracker| tracker.knows(read, id)) {
            return Ok(());
        }
        loop {
            let builder = match &mut self.builder {
                Some(builder) => builder,
                none => {
                    let buffer = self.packing.spare.take(self.flush_bytes);
                    let builder = PackBuilder::with_buffer(
                        &self.packing.share.keys,
                        PackId(random()),
                        PackNonce(random()),
                        buffer,
                    );
                    self.packing.tracker.lock().expect(LOCK).begin(builder.pack().id);
                    none.insert(builder)
                }
            };
            let pack = builder.pack().id;
            match builder.seal(id, bytes, &mut self.scratch) {
                Ok(Reserved::Full) => self.flush(),
                Ok(Reserved::New(()) | Reserved::Known) => {
                    self.tracker(|tracker| tracker.put(read, id, pack));
                    if self.builder.as_ref().is_some_and(|builder| builder.data_bytes() >= self.flush_bytes) {
                        self.flush();
                    }
                    return Ok(());
                }
                Err(error) => {
                    return Err(Failure {
                        class: FailureClass::Damaged,
                        text: crate::status::chain(&error).into(),
                    });
                }
            }
        }
    }

    /// Sends the pack off, if it holds anything. Waits while too many bytes are on their way.
    pub(crate) fn flush(&mut self) {
        let Some(builder) = self.builder.take() else { return };
        let id = builder.pack().id;
        let pack = match builder.finish() {
            Ok(Some(pack)) if remote::fits(&pack) => pack,
            Ok(_) => return self.packing.settle(id, Ok(())),
            Err(error) => {
                let text = crate::status::chain(&error).into();
                return self.packing.settle(id, Err(Failure { class: FailureClass::Damaged, text }));
            }
        };
        let permits = (pack.bytes.len() >> 20) as u32 + 1;
        let room = Arc::clone(&self.packing.room).acquire_many_owned(permits);
        let room = self.packing.runtime.block_on(room).expect("the semaphore is never closed");
        let packing = Arc::clone(&self.packing);
        let bytes = self.packing.spare.lend(pack.bytes);
        self.packing.runtime.spawn(packing.send(id, bytes, room));
    }

    fn tracker<T>(&self, run: impl FnOnce(&mut Tracker) -> T) -> T {
        run(&mut self.packing.tracker.lock().expect(LOCK))
    }
}

const LOCK: &str = "no holder of this lock panics";

impl Packing {
    /// Puts one pack, with some patience, and tells the reads that waited for it.
    async fn send(self: Arc<Self>, id: PackId, bytes: Bytes, room: OwnedSemaphorePermit) {
        let mut wait_ms = 100;
        for tries_left in (0..PUT_TRIES).rev() {
            match self.remote.put_pack(id, bytes.clone()).await {
                Ok(()) => {
                    self.settle(id, Ok(()));
                    break;
                }
                // Without a session there is no sense in trying on: the engine reads again when there is one.
                Err(error) if tries_left == 0 || error.reason().is_some() => {
                    tracing::debug!(pack = %id, error = crate::status::chain(&error), "put of a pack failed");
                    // Whoever has nothing but packs to send would never hear it from another call.
                    if error.reason() == Some(polder_api::grpc::Reason::NotOpen)
                        && let Ok(open) = self.remote.open()
                    {
                        self.facts.not_open(open.link);
                    }
                    self.settle(id, Err(error.failure()));
                    break;
                }
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(wait_ms)).await,
            }
            wait_ms *= 2;
        }
        drop(room);
    }

    fn settle(&self, id: PackId, outcome: Result<(), Failure>) {
        let settled = self.tracker.lock().expect(LOCK).settle(id, &outcome);
        if !settled.stored.is_empty() {
            self.facts.send(Event::Stored { jobs: settled.stored });
        }
        if let (false, Err(why)) = (settled.failed.is_empty(), outcome) {
            self.facts.send(Event::StoreFailed { jobs: settled.failed, why });
        }
    }
}

#[cfg(test)]
mod tests {
    use polder_chunk::ShareKeys;
    use polder_types::ShareId;

    use super::*;

    const ONE: JobId = JobId(1);
    const TWO: JobId = JobId(2);

    /// A packer whose service is never there.
    fn packer(runtime: &tokio::runtime::Runtime) -> Packer {
        let packing = Packing {
            share: Share::new(ShareKeys::new(ShareId([1; 16]), [2; 32], [3; 32])),
            remote: Arc::default(),
            tracker: Mutex::default(),
            facts: Facts::to_nobody(),
            runtime: runtime.handle().clone(),
            room: Arc::new(Semaphore::new(64)),
            spare: Arc::default(),
        };
        Packer::new(Arc::new(packing), 1024 * 1024)
    }

    fn take(packer: &mut Packer, read: JobId, bytes: &[u8]) {
        let id = packer.packing.share.ids.id(bytes);
        packer.take(read, id, bytes).expect("too little to ask the service");
    }

    /// A file that changes while it is read has given chunks already. They once outlived the bytes they pointed at, and
    /// the next file's were looked for behind the end: the thread panicked, and nothing was read any more.
    #[test]
    fn a_read_that_came_to_nothing_leaves_nothing_behind() {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let mut packer = packer(&runtime);
        take(&mut packer, ONE, &[7; 100_000]);
        packer.forget(ONE);
        packer.rest();
        take(&mut packer, TWO, b"small");
        packer.seal().expect("nothing is asked for so little");
        let builder = packer.builder.as_ref().expect("a pack was begun");
        assert!(builder.contains(packer.packing.share.ids.id(b"small")));
        assert!(!builder.contains(packer.packing.share.ids.id(&[7; 100_000])));
        assert_eq!(packer.tracker(|tracker| tracker.close(TWO)), Ok(false), "its pack is on its way");
        assert_eq!(packer.tracker(|tracker| tracker.close(ONE)), Ok(true), "it waits for nothing");
    }

    #[test]
    fn forgetting_a_read_keeps_the_others_of_its_batch() {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let mut packer = packer(&runtime);
        take(&mut packer, ONE, b"of the first");
        take(&mut packer, TWO, b"of the second");
        packer.forget(ONE);
        packer.seal().expect("nothing is asked for so little");
        let ids = packer.packing.share.ids;
        let builder = packer.builder.as_ref().expect("a pack was begun");
        assert!(builder.contains(ids.id(b"of the second")) && !builder.contains(ids.id(b"of the first")));
    }
}
