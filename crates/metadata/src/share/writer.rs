//! The one thread that writes to a share's file: what waits is run in one transaction.
//!
//! Each job has a savepoint of its own, so that its failure takes back its own writes alone. Answers are given after the
//! transaction is durable, never before. A job that panics fails like any other; the thread goes on.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use polder_ledger::{RowsError, RowsMut};
use polder_types::zoo::{Bug, planted};

use super::db::closed;
use super::sqlite::SqliteRows;
use super::sync::thread::{self, JoinHandle};
use super::sync::{Mutex, PoisonError, mpsc};

/// Most jobs in one transaction.
const JOBS_MAX: usize = 512;
/// No more jobs are taken into a transaction that has run this long: who waits for it should not wait for all.
const GATHER_MAX: Duration = Duration::from_millis(10);
/// Jobs that may wait. Whoever brings more waits itself: back-pressure, not memory.
const QUEUE_MAX: usize = 4096;

/// Rows with transactions of parts.
pub(super) trait Transactions {
    /// The rows, inside a part.
    fn rows(&mut self) -> &mut dyn RowsMut;
    /// Begins a transaction.
    fn begin(&mut self) -> Result<(), RowsError>;
    /// Begins a part of it.
    fn begin_part(&mut self) -> Result<(), RowsError>;
    /// Ends the part; what it wrote stays, or is taken back.
    fn end_part(&mut self, keep: bool) -> Result<(), RowsError>;
    /// Makes all that stayed durable, or takes it back.
    fn commit(&mut self) -> Result<(), RowsError>;
    /// Takes everything back.
    fn roll_back(&mut self);
}

impl Transactions for SqliteRows {
    fn rows(&mut self) -> &mut dyn RowsMut {
        self
    }
    fn begin(&mut self) -> Result<(), RowsError> {
        Self::begin(self)
    }
    fn begin_part(&mut self) -> Result<(), RowsError> {
        Self::begin_part(self)
    }
    fn end_part(&mut self, keep: bool) -> Result<(), RowsError> {
        Self::end_part(self, keep)
    }
    fn commit(&mut self) -> Result<(), RowsError> {
        Self::commit(self)
    }
    fn roll_back(&mut self) {
        Self::roll_back(self);
    }
}

/// Something to do in a transaction that writes, and whom to tell.
trait Work: Send {
    /// Runs on the rows; whether it succeeded.
    fn run(&mut self, rows: &mut dyn RowsMut) -> bool;
    /// Tells how it ended, now that the transaction has.
    fn tell(self: Box<Self>, ended: Result<(), Arc<RowsError>>);
}

/// A piece of work in the queue.
pub(super) struct Job(Box<dyn Work>);

struct Pending<J, D, T, E> {
    job: Option<J>,
    done: D,
    answer: Option<Result<T, E>>,
}

impl<J, D, T, E> Work for Pending<J, D, T, E>
where
    J: FnOnce(&mut dyn RowsMut) -> Result<T, E> + Send,
    D: FnOnce(Result<T, E>) + Send,
    T: Send,
    E: From<RowsError> + Send,
{
    fn run(&mut self, rows: &mut dyn RowsMut) -> bool {
        let Some(job) = self.job.take() else { return false };
        let answer = caught(|| job(rows));
        let sound = answer.is_ok();
        self.answer = Some(answer);
        sound
    }

    fn tell(self: Box<Self>, ended: Result<(), Arc<RowsError>>) {
        let Self { done, answer, .. } = *self;
        done(match (answer, ended) {
            // An error of the job itself says more than that of the transaction.
            (Some(Err(error)), _) => Err(error),
            (Some(answer), Ok(())) => answer,
            (_, Err(error)) => Err(copy(&error).into()),
            (None, Ok(())) => Err(closed().into()),
        });
    }
}

/// A panic of a job is an error of that job. Its rows are taken back, so nothing half-done is seen.
pub(super) fn caught<T, E: From<RowsError>>(job: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    catch_unwind(AssertUnwindSafe(job)).unwrap_or_else(|_| Err(failed("run a job", "it panicked").into()))
}

impl Job {
    pub fn new<T, E>(
        job: impl FnOnce(&mut dyn RowsMut) -> Result<T, E> + Send + 'static,
        done: impl FnOnce(Result<T, E>) + Send + 'static,
    ) -> Self
    where
        T: Send + 'static,
        E: From<RowsError> + Send + 'static,
    {
        Self(Box::new(Pending { job: Some(job), done, answer: None }))
    }
}

fn failed(doing: &'static str, what: &str) -> RowsError {
    RowsError::Failed { doing, source: what.into() }
}

/// The error of a transaction, told to each of its jobs.
fn copy(error: &Arc<RowsError>) -> RowsError {
    match &**error {
        RowsError::Busy { doing } => RowsError::Busy { doing },
        RowsError::Disk { doing, why } => RowsError::Disk { doing, why: why.clone() },
        RowsError::Corrupt { what } => RowsError::Corrupt { what: what.clone() },
        RowsError::Failed { doing, source } => failed(doing, &source.to_string()),
    }
}

/// The queue and its thread. Dropping it runs what waits, and closes the file.
pub(super) struct Writer {
    queue: Mutex<Option<mpsc::SyncSender<Job>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Writer {
    /// Starts the thread.
    pub fn start(rows: impl Transactions + Send + 'static) -> Self {
        let (send, receive) = mpsc::sync_channel(QUEUE_MAX);
        let thread = thread::Builder::new().name("share-writer".into()).spawn(move || run(rows, &receive));
        let thread = thread.expect("a process that cannot start a thread cannot serve");
        Self { queue: Mutex::new(Some(send)), thread: Mutex::new(Some(thread)) }
    }

    /// Queues a job; waits while the queue is full.
    pub fn queue(&self, job: Job) {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let refused = match queue {
            Some(queue) => queue.send(job).err().map(|back| back.0),
            None => Some(job),
        };
        if let Some(Job(work)) = refused {
            work.tell(Err(Arc::new(closed())));
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.queue.lock().unwrap_or_else(PoisonError::into_inner).take());
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        // The last handle may be dropped by an answer, on the writer's own thread: it then ends by itself.
        if let Some(thread) = thread.filter(|writer| writer.thread().id() != thread::current().id()) {
            let _ = thread.join();
        }
    }
}

fn run(mut rows: impl Transactions, queue: &mpsc::Receiver<Job>) {
    while let Ok(first) = queue.recv() {
        let mut jobs = vec![first];
        let ended = transaction(&mut rows, queue, &mut jobs).map_err(Arc::new);
        for Job(work) in jobs {
            // An answer that panics must not take the others' writer away.
            let _ = catch_unwind(AssertUnwindSafe(|| work.tell(ended.clone())));
        }
    }
}

/// Runs the job that came and whatever waits behind it; on an error all of it is void.
fn transaction(
    rows: &mut impl Transactions,
    queue: &mpsc::Receiver<Job>,
    jobs: &mut Vec<Job>,
) -> Result<(), RowsError> {
    rows.begin()?;
    match gather(rows, queue, jobs) {
        Ok(()) if planted(Bug::AnsweredBeforeDurable) => Ok(()),
        Ok(()) => rows.commit(),
        Err(error) => {
            rows.roll_back();
            Err(error)
        }
    }
}

fn gather(
    rows: &mut impl Transactions,
    queue: &mpsc::Receiver<Job>,
    jobs: &mut Vec<Job>,
) -> Result<(), RowsError> {
    let began = Instant::now();
    loop {
        let Job(work) = jobs.last_mut().expect("began with one");
        rows.begin_part()?;
        let sound = work.run(rows.rows());
        rows.end_part(sound)?;
        if jobs.len() == JOBS_MAX || began.elapsed() > GATHER_MAX {
            return Ok(());
        }
        match queue.try_recv() {
            Ok(_) if planted(Bug::GatheredJobLost) => return Ok(()),
            Ok(job) => jobs.push(job),
            Err(_) => return Ok(()),
        }
    }
}
