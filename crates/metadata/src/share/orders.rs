//! Orders of threads, tried with `shuttle`: `cargo test -p polder-metadata --features shuttle --lib orders`.

use std::collections::BTreeMap;
use std::sync::Arc;

use polder_ledger::{PinRow, Rows, RowsError, RowsMut};
use polder_types::{Cursor, EndpointId, Seq};
use shuttle::sync::Mutex;
use shuttle::thread;

use super::MemoryRows;
use super::pool::{Connection, Pool};
use super::writer::{Job, Transactions, Writer};

/// Orders that are drawn for each test.
const ORDERS: usize = 5_000;

fn lock<T>(mutex: &Mutex<T>) -> shuttle::sync::MutexGuard<'_, T> {
    mutex.lock().expect("no test panics under a lock")
}

struct Fake {
    idle: bool,
}

impl Connection for Fake {
    fn is_idle(&self) -> bool {
        self.idle
    }
}

/// More readers than connections, of which some do not open and some are spoiled: nobody waits for ever (the scheduler
/// would call that a deadlock), and never are more connections in use than there may be.
#[test]
fn orders_of_readers() {
    shuttle::check_random(
        || {
            let opened = Mutex::new(0);
            let pool = Arc::new(Pool::over(1, move || {
                let mut opened = lock(&opened);
                *opened += 1;
                match *opened {
                    2 => Err(RowsError::corrupt("it does not open")),
                    _ => Ok(Fake { idle: true }),
                }
            }));
            let used = Arc::new(Mutex::new(0));
            let threads = [0, 1, 2].map(|nth| {
                let (pool, used) = (Arc::clone(&pool), Arc::clone(&used));
                thread::spawn(move || {
                    let Ok(mut lease) = pool.lease() else { return };
                    *lock(&used) += 1;
                    thread::yield_now();
                    assert_eq!(*lock(&used), 1, "more than one at a time");
                    // One of them is in the middle of something when it comes back.
                    lease.connection().idle = nth != 0;
                    *lock(&used) -= 1;
                })
            });
            threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
        },
        ORDERS,
    );
}

/// Rows of which the test sees what is durable.
struct Store {
    rows: MemoryRows,
    before: MemoryRows,
    part: MemoryRows,
    durable: Arc<Mutex<Vec<u8>>>,
    commits: u32,
    failing: u32,
}

impl Store {
    fn new(durable: &Arc<Mutex<Vec<u8>>>, failing: u32) -> Self {
        let empty = MemoryRows::new;
        Self {
            rows: empty(),
            before: empty(),
            part: empty(),
            durable: Arc::clone(durable),
            commits: 0,
            failing,
        }
    }
}

fn noted(rows: &MemoryRows) -> Vec<u8> {
    rows.pins().expect("maps").iter().map(|pin| pin.endpoint.0[0]).collect()
}

fn note(rows: &mut dyn RowsMut, number: u8) -> Result<(), RowsError> {
    let cursor = Cursor { seq: Seq(number.into()), ..Cursor::default() };
    rows.put_pin(&PinRow { endpoint: EndpointId([number; 16]), cursor })
}

impl Transactions for Store {
    fn rows(&mut self) -> &mut dyn RowsMut {
        &mut self.rows
    }
    fn begin(&mut self) -> Result<(), RowsError> {
        self.before = self.rows.clone();
        Ok(())
    }
    fn begin_part(&mut self) -> Result<(), RowsError> {
        self.part = self.rows.clone();
        Ok(())
    }
    fn end_part(&mut self, keep: bool) -> Result<(), RowsError> {
        if !keep {
            self.rows = self.part.clone();
        }
        Ok(())
    }
    fn commit(&mut self) -> Result<(), RowsError> {
        self.commits += 1;
        if self.commits == self.failing {
            self.roll_back();
            return Err(RowsError::corrupt("the disk says no"));
        }
        *lock(&self.durable) = noted(&self.rows);
        Ok(())
    }
    fn roll_back(&mut self) {
        self.rows = self.before.clone();
    }
}

/// Two threads bring jobs, one of which fails; one transaction may fail as well; then the writer is closed, perhaps by its own
/// thread. Every job is told once, and told that it is done only when it is durable.
fn every_job_is_told(failing: u32) {
    shuttle::check_random(
        move || {
            let durable = Arc::new(Mutex::new(Vec::new()));
            let told = Arc::new(Mutex::new(BTreeMap::new()));
            let writer = Arc::new(Writer::start(Store::new(&durable, failing)));
            let threads = [1u8, 3].map(|first| {
                let (writer, durable, told) = (Arc::clone(&writer), Arc::clone(&durable), Arc::clone(&told));
                thread::spawn(move || {
                    for number in first..first + 2 {
                        let (durable, told, held) =
                            (Arc::clone(&durable), Arc::clone(&told), Arc::clone(&writer));
                        let job = Job::new(
                            move |rows| {
                                note(rows, number)?;
                                if number == 2 { Err(RowsError::corrupt("not this one")) } else { Ok(()) }
                            },
                            move |done: Result<(), RowsError>| {
                                let there = lock(&durable).contains(&number);
                                assert_eq!(done.is_ok(), there, "job {number}: {done:?}");
                                assert!(lock(&told).insert(number, done.is_ok()).is_none(), "told twice");
                                drop(held);
                            },
                        );
                        writer.queue(job);
                    }
                })
            });
            drop(writer);
            threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
            // Whoever drops the last handle on another thread waits for the writer; an answer does not. So what is
            // left is waited for here.
            while lock(&told).len() < 4 {
                thread::yield_now();
            }
            let told = lock(&told);
            assert_eq!(told.get(&2), Some(&false));
            assert!(
                failing != 0 || [1, 3, 4].iter().all(|number| told.get(number) == Some(&true)),
                "{told:?}"
            );
        },
        ORDERS,
    );
}

#[test]
fn orders_of_jobs() {
    every_job_is_told(0);
}

#[test]
fn orders_of_jobs_when_a_transaction_fails() {
    every_job_is_told(1);
    every_job_is_told(2);
}

/// The zoo: each planted bug is seen by a test of this file. `--features shuttle,zoo`; alone, since a bug is planted in the
/// whole process: `zoo_of_threads`.
#[cfg(feature = "zoo")]
#[test]
#[ignore = "plants bugs in the whole process: run alone, with --ignored"]
fn zoo_of_threads() {
    use polder_types::zoo::{Bug, Level, assert_all_caught, plant_everywhere};
    let cases: [(Bug, fn()); 3] = [
        (Bug::AnsweredBeforeDurable, orders_of_jobs),
        (Bug::GatheredJobLost, orders_of_jobs),
        (Bug::FreedPlaceNotTold, orders_of_readers),
    ];
    assert_all_caught(Level::ThreadsOfRows, &cases, plant_everywhere, |test| test());
}
