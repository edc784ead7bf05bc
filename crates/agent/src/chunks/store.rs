//! Lanes of reads: small files many at a time, large ones few, so that one never waits for the other.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex};

use polder_chunk::{BuildError, ContentBuilder};
use polder_engine::{Event, Failure, FailureClass, JobId, Lane, Read, ReadOutcome, SeenEntry};
use polder_replica::{Piece, ReadOptions};
use polder_sync::ReadIntent;
use polder_types::Content;

use super::pack::{Packer, Packing};
use super::spare::Busy;
use crate::endpoint::disk::{Disk, Hands, failure, seen_entry};

/// Threads of the two lanes. A lane's thread reads, hashes and seals; two keep two cores busy.
const SMALL_THREADS: usize = 2;
const LARGE_THREADS: usize = 2;
/// Packs of small files leave early, so that their names can follow early.
const SMALL_FLUSH_BYTES: usize = 4 * 1024 * 1024;
const LARGE_FLUSH_BYTES: usize = 32 * 1024 * 1024;
/// Small files that one thread reads before it seals and looks for more.
const SMALL_BATCH: usize = 256;

/// The reads of one endpoint.
#[derive(Debug)]
pub(crate) struct Store {
    small: Sender<Read>,
    large: Sender<Read>,
    cancelled: Arc<Mutex<HashSet<JobId>>>,
    packing: Arc<Packing>,
}

/// What the lanes need; kept apart so that the threads end when [`Store`] is dropped.
#[derive(Debug)]
pub(crate) struct Lanes;

impl Lanes {
    /// Starts the threads. They end when the [`Store`] is dropped.
    pub(crate) fn start(packing: Arc<Packing>, disk: &Arc<Disk>) -> Store {
        let cancelled = Arc::default();
        let lane = |threads: usize, name: &str, flush_bytes: usize, batch: usize| {
            let (to, from) = channel();
            let from = Arc::new(Mutex::new(from));
            for _ in 0..threads {
                let thread = LaneThread {
                    from: Arc::clone(&from),
                    cancelled: Arc::clone(&cancelled),
                    packer: Packer::new(Arc::clone(&packing), flush_bytes),
                    packing: Arc::clone(&packing),
                    hands: disk.hands(),
                    disk: Arc::clone(disk),
                    batch,
                    busy: None,
                };
                crate::endpoint::spawn_thread(name, move || thread.run());
            }
            to
        };
        let small = lane(SMALL_THREADS, "read-small", SMALL_FLUSH_BYTES, SMALL_BATCH);
        let large = lane(LARGE_THREADS, "read-large", LARGE_FLUSH_BYTES, 1);
        Store { small, large, cancelled, packing }
    }
}

impl Store {
    /// Queues a read.
    pub(crate) fn read(&self, read: Read) {
        let lane = match read.lane {
            Lane::Small => &self.small,
            Lane::Large => &self.large,
        };
        // The threads live as long as this does.
        let _ = lane.send(read);
    }

    /// Gives a read up, if it has not begun.
    pub(crate) fn cancel(&self, job: JobId) {
        self.cancelled.lock().expect(LOCK).insert(job);
    }

    /// The service lacks chunks that were thought to be there.
    pub(crate) fn lost(&self, ids: &[polder_types::ChunkId]) {
        self.packing.tracker.lock().expect(LOCK).lost(ids);
    }
}

const LOCK: &str = "no holder of this lock panics";

struct LaneThread {
    from: Arc<Mutex<Receiver<Read>>>,
    cancelled: Arc<Mutex<HashSet<JobId>>>,
    packer: Packer,
    packing: Arc<Packing>,
    hands: Hands,
    disk: Arc<Disk>,
    batch: usize,
    /// While there is something to do.
    busy: Option<Busy>,
}

/// A read that is stable and waits for its chunks to be sealed.
struct Stable {
    job: JobId,
    entry: SeenEntry,
    content: Content,
    store: bool,
}

impl LaneThread {
    fn run(mut self) {
        while let Some(batch) = self.next_batch() {
            self.busy.get_or_insert_with(|| self.packing.spare.busy());
            let mut stable = Vec::with_capacity(batch.len());
            for read in batch {
                let job = read.job;
                match self.one(&read) {
                    Ok(done) => stable.push(done),
                    Err(outcome) => {
                        self.packer.forget(job);
                        self.packing.facts.send(Event::Read { job, outcome });
                    }
                }
            }
            self.end(stable);
        }
    }

    /// Waits for one read and takes what else is there. `None` when the endpoint ends.
    fn next_batch(&mut self) -> Option<Vec<Read>> {
        let from = match self.from.try_lock() {
            Ok(from) => from,
            Err(_) => {
                // Another thread of the lane holds the queue, and holds it while it waits for more. What was packed so
                // far leaves now: waiting for the queue with it could take for ever.
                self.packer.rest();
                self.busy = None;
                self.from.lock().expect(LOCK)
            }
        };
        // Nothing to do: what was packed so far leaves now.
        let first = match from.try_recv() {
            Ok(read) => read,
            Err(TryRecvError::Empty) => {
                self.packer.rest();
                self.busy = None;
                from.recv().ok()?
            }
            Err(TryRecvError::Disconnected) => return None,
        };
        let mut batch = vec![first];
        while batch.len() < self.batch
            && let Ok(read) = from.try_recv()
        {
            batch.push(read);
        }
        drop(from);
        let mut cancelled = self.cancelled.lock().expect(LOCK);
        batch.retain(|read| !cancelled.remove(&read.job));
        Some(batch)
    }

    /// Reads one file. What it needs is gathered in the packer; an error is what the engine is told.
    #[expect(
        clippy::result_large_err,
        reason = "both are about as large, and one of them comes back for every file"
    )]
    fn one(&mut self, read: &Read) -> Result<Stable, ReadOutcome> {
        let store = read.intent == ReadIntent::Store;
        let mut builder = Some(ContentBuilder::new(self.packing.share.rules.clone(), self.packing.share.ids));
        let mut lost: Option<Failure> = None;
        let packer = &mut self.packer;
        let mut sink = |chunk: polder_chunk::NewChunk<'_>| {
            if store { packer.take(read.job, chunk.id, chunk.bytes) } else { Ok(()) }
        };
        let read_it = self.hands.read(&read.at, ReadOptions::default(), &mut |piece| {
            let builder = builder.as_mut().expect("taken only after the read");
            let pushed = match piece {
                Piece::Data(bytes) => builder.push(bytes, &mut sink),
                Piece::Hole(len) => builder.push_zeros(len, &mut sink),
            };
            match pushed {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    lost = Some(build_failure(error));
                    ControlFlow::Break(())
                }
            }
        });
        if let Some(why) = lost {
            return Err(ReadOutcome::Failed(why));
        }
        let done = match read_it {
            Ok(polder_replica::Read::Whole(done)) => done,
            Ok(polder_replica::Read::Changed) => return Err(ReadOutcome::Changed),
            Ok(polder_replica::Read::Stopped) => return Err(ReadOutcome::Busy),
            Ok(polder_replica::Read::Gone) => return Err(ReadOutcome::Gone),
            Err(error) if error.class == polder_replica::ErrorClass::Gone => return Err(ReadOutcome::Gone),
            Err(error) => return Err(ReadOutcome::Failed(failure(&error))),
        };
        if done.found.seen.stamp.ident != read.expect.ident {
            return Err(ReadOutcome::Gone);
        }
        let finished = builder.take().expect("not taken before").finish(&mut sink);
        let content = finished.map_err(|error| ReadOutcome::Failed(build_failure(error)))?;
        let entry = seen_entry(done.found);
        Ok(Stable { job: read.job, entry, content, store })
    }

    /// Seals what the batch brought, makes the files durable here, and tells.
    fn end(&mut self, stable: Vec<Stable>) {
        if stable.is_empty() {
            return;
        }
        let mut sealed = self.packer.seal();
        if sealed.is_err() {
            self.packer.drop_gathered();
        }
        // A content that is only compared may be settled at once, so it is made durable here. One that is stored is made
        // durable before it is offered (`endpoint::life`), for many files at a time.
        if stable.iter().any(|stable| !stable.store)
            && let Err(error) = self.disk.make_durable()
        {
            sealed = Err(failure(&error));
        }
        for Stable { job, entry, content, store } in stable {
            let outcome = match (&sealed, store) {
                (Err(why), _) => {
                    self.packer.forget(job);
                    ReadOutcome::Failed(why.clone())
                }
                (Ok(()), false) => ReadOutcome::Stable { entry, content, stored: false },
                (Ok(()), true) => {
                    // Told under the tracker's lock, so that `Stored` cannot overtake it.
                    let mut tracker = self.packing.tracker.lock().expect(LOCK);
                    let outcome = match tracker.close(job) {
                        Ok(stored) => ReadOutcome::Stable { entry, content, stored },
                        Err(()) => ReadOutcome::Failed(Failure {
                            class: FailureClass::Unreachable,
                            text: "a pack could not be stored".into(),
                        }),
                    };
                    self.packing.facts.send(Event::Read { job, outcome });
                    continue;
                }
            };
            self.packing.facts.send(Event::Read { job, outcome });
        }
    }
}

fn build_failure(error: BuildError<Failure>) -> Failure {
    match error {
        BuildError::Sink(failure) => failure,
        BuildError::TooLarge => {
            Failure { class: FailureClass::Unsupported, text: "the file is larger than 8 EiB".into() }
        }
    }
}
