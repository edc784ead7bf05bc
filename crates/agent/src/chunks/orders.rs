//! Orders of threads, tried with `shuttle`: `cargo test -p polder-agent --features shuttle orders`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use polder_engine::{Failure, FailureClass, JobId};
use polder_types::{ChunkId, PackId};
use shuttle::sync::Mutex;
use shuttle::thread;

use super::spare::Spare;
use super::track::Tracking;

/// Orders that are drawn for each test.
const ORDERS: usize = 20_000;

fn chunk(n: u8) -> ChunkId {
    ChunkId([n; 32])
}

/// What the engine heard of reads.
#[derive(Default)]
struct Heard {
    /// The first word: stored at once, not yet, or failed.
    first: BTreeMap<JobId, Result<bool, ()>>,
    /// The second one, after "not yet".
    second: BTreeMap<JobId, Result<(), ()>>,
    /// Packs that the service acknowledged.
    acknowledged: BTreeSet<PackId>,
    /// Packs that each read's chunks were put into or found in.
    needs: BTreeMap<JobId, BTreeSet<PackId>>,
}

impl Heard {
    fn is_stored(&self, read: JobId) -> bool {
        self.needs.get(&read).into_iter().flatten().all(|pack| self.acknowledged.contains(pack))
    }
}

/// As `Packer::put` and `flush`, `LaneThread::end` and `Packing::settle`: a read puts its chunks, or finds them on their
/// way; its pack leaves; it is closed.
fn read(
    tracking: &Arc<Tracking>,
    heard: &Arc<Mutex<Heard>>,
    job: JobId,
    chunks: &[u8],
    pack: PackId,
    arrives: bool,
) {
    tracking.with(|tracker| tracker.begin(pack));
    for n in chunks {
        // What is found in another read's pack is noted by the harness as a need of its own.
        let others = tracking.with(|tracker| tracker.knows(job, chunk(*n)));
        if !others {
            tracking.with(|tracker| tracker.put(job, chunk(*n), pack));
            heard.lock().unwrap().needs.entry(job).or_default().insert(pack);
        }
    }
    let sender = {
        let (tracking, heard) = (Arc::clone(tracking), Arc::clone(heard));
        thread::spawn(move || {
            let outcome = if arrives {
                heard.lock().unwrap().acknowledged.insert(pack);
                Ok(())
            } else {
                Err(Failure { class: FailureClass::Unreachable, text: "gone".into() })
            };
            let settled = tracking.with(|tracker| tracker.settle(pack, &outcome));
            let mut heard = heard.lock().unwrap();
            for read in settled.stored {
                assert!(heard.first.get(&read) == Some(&Ok(false)), "told of the end before the beginning");
                assert!(heard.is_stored(read), "told that it is stored, and it is not");
                assert!(heard.second.insert(read, Ok(())).is_none(), "told twice");
            }
            for read in settled.failed {
                assert!(heard.first.get(&read) == Some(&Ok(false)), "told of the end before the beginning");
                assert!(heard.second.insert(read, Err(())).is_none(), "told twice");
            }
        })
    };
    tracking.close(job, |closed| {
        let mut heard = heard.lock().unwrap();
        assert!(closed != Ok(true) || heard.is_stored(job), "stored at once, and it is not");
        assert!(heard.first.insert(job, closed).is_none(), "told twice");
    });
    sender.join().unwrap();
}

/// Two reads with a chunk in common, in two threads; packs arrive or are lost. Each read hears its end exactly once, and
/// that it is stored only when all its packs are acknowledged.
fn every_read_hears_its_end(arrive: [bool; 2]) {
    shuttle::check_random(
        move || {
            let (tracking, heard) = (Arc::new(Tracking::default()), Arc::new(Mutex::new(Heard::default())));
            let reads = [(JobId(1), [1, 2], 1u8), (JobId(2), [2, 3], 2)].map(|(job, chunks, pack)| {
                let (tracking, heard) = (Arc::clone(&tracking), Arc::clone(&heard));
                let arrives = arrive[usize::from(pack) - 1];
                thread::spawn(move || read(&tracking, &heard, job, &chunks, PackId([pack; 16]), arrives))
            });
            reads.into_iter().for_each(|thread| thread.join().unwrap());
            let heard = heard.lock().unwrap();
            for job in [JobId(1), JobId(2)] {
                let waits = heard.first[&job] == Ok(false);
                assert_eq!(waits, heard.second.contains_key(&job), "{job:?} never hears its end");
            }
        },
        ORDERS,
    );
}

#[test]
fn orders_of_packs_that_arrive() {
    every_read_hears_its_end([true, true]);
}

#[test]
fn orders_of_packs_that_are_lost() {
    every_read_hears_its_end([false, true]);
    every_read_hears_its_end([false, false]);
}

/// Memory that is lent is nobody else's, and none is kept when nobody packs.
#[test]
fn orders_of_lending_memory() {
    const BYTES: usize = 8 * 1024 * 1024;
    shuttle::check_random(
        || {
            let spare = Arc::new(Spare::default());
            let threads = [1u8, 2].map(|mark| {
                let spare = Arc::clone(&spare);
                thread::spawn(move || {
                    let busy = spare.busy();
                    let mut held = Vec::new();
                    for _ in 0..2 {
                        let mut bytes = spare.take(BYTES);
                        bytes.clear();
                        bytes.reserve(BYTES);
                        bytes.push(mark);
                        let lent = spare.lend(bytes);
                        thread::yield_now();
                        assert_eq!(lent[0], mark, "somebody else wrote into it");
                        held.push(lent);
                    }
                    drop(held);
                    drop(busy);
                })
            });
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            assert_eq!(spare.kept(), 0);
        },
        ORDERS / 20,
    );
}
