//! Threads for requests that may wait, and what interrupts them.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::interrupt::Interrupt;
use crate::shared::lock;

/// Requests that wait at once. Further ones wait for a thread; the kernel bounds them (`max_background`, one a waiting thread).
const THREADS_MAX: usize = 512;
const STACK_BYTES: usize = 512 << 10;
const IDLE_MAX: Duration = Duration::from_secs(10);

/// What is done for a request. `true`: it is not done, since its caller has been killed meanwhile; only an answer is due.
type Job = Box<dyn FnOnce(bool) + Send>;

#[derive(Default)]
struct Queue {
    jobs: VecDeque<(u64, Job)>,
    idle: usize,
    threads: usize,
}

/// The threads. They end by themselves when there is nothing to do.
#[derive(Clone, Default)]
pub(crate) struct Pool(Arc<(Mutex<Queue>, Condvar)>);

impl Pool {
    /// Runs a request's job on a thread that was prepared for answering requests.
    pub(crate) fn run(&self, unique: u64, job: Job) -> std::io::Result<()> {
        let mut queue = lock(&self.0.0);
        queue.jobs.push_back((unique, job));
        if queue.idle >= queue.jobs.len() {
            self.0.1.notify_one();
            return Ok(());
        }
        if queue.threads >= THREADS_MAX {
            return Ok(());
        }
        let pool = self.clone();
        let thread = std::thread::Builder::new().name("gate-wait".to_owned()).stack_size(STACK_BYTES);
        match thread.spawn(move || pool.work()) {
            Ok(_) => queue.threads += 1,
            // Others will take it.
            Err(_) if queue.threads > 0 => (),
            Err(error) => {
                queue.jobs.pop_back();
                return Err(error);
            }
        }
        Ok(())
    }

    /// Ends the job of a request that no thread has begun yet: its caller waits for an answer though nobody wants it.
    pub(crate) fn give_up(&self, unique: u64) {
        let job = {
            let mut queue = lock(&self.0.0);
            let index = queue.jobs.iter().position(|(waiting, _)| *waiting == unique);
            index.and_then(|index| queue.jobs.remove(index))
        };
        if let Some((_, job)) = job {
            job(true);
        }
    }

    fn work(&self) {
        let _bomb = AbortOnPanic;
        // On failure the process was not prepared at its start either, and said so.
        let _ = crate::rights::prepare_thread();
        let mut queue = lock(&self.0.0);
        loop {
            if let Some((_, job)) = queue.jobs.pop_front() {
                drop(queue);
                job(false);
                queue = lock(&self.0.0);
                continue;
            }
            queue.idle += 1;
            let (back, timeout) =
                self.0.1.wait_timeout(queue, IDLE_MAX).unwrap_or_else(PoisonError::into_inner);
            queue = back;
            queue.idle -= 1;
            if timeout.timed_out() && queue.jobs.is_empty() {
                queue.threads -= 1;
                return;
            }
        }
    }
}

/// A thread that is missing would be a hang that nobody sees: a panic ends the process, and the holder starts the next.
pub(crate) struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

/// Most interrupts that are kept for requests which are not known to wait yet.
const EARLY_MAX: usize = 64;

#[derive(Default)]
struct Known {
    waiting: HashMap<u64, Interrupt>,
    /// Came before their request was found to wait.
    early: VecDeque<u64>,
}

/// Interrupts of requests that wait.
#[derive(Default)]
pub(crate) struct Interrupts(Mutex<Known>);

impl Interrupts {
    /// A request begins to wait.
    pub(crate) fn enter(&self, unique: u64, pid: u32) -> Interrupt {
        let interrupt = Interrupt::new(pid);
        let mut known = lock(&self.0);
        if known.early.contains(&unique) {
            interrupt.notice();
        }
        known.waiting.insert(unique, interrupt.clone());
        interrupt
    }

    /// It waits no more.
    pub(crate) fn leave(&self, unique: u64) {
        lock(&self.0).waiting.remove(&unique);
    }

    /// The kernel says that a signal is pending for the caller of a request; the request's interrupt, if it waits.
    pub(crate) fn notice(&self, unique: u64) -> Option<Interrupt> {
        let mut known = lock(&self.0);
        if let Some(interrupt) = known.waiting.get(&unique) {
            interrupt.notice();
            return Some(interrupt.clone());
        }
        if known.early.len() == EARLY_MAX {
            known.early.pop_front();
        }
        known.early.push_back(unique);
        None
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn an_interrupt_may_come_before_its_request_waits() {
        let interrupts = Interrupts::default();
        assert!(interrupts.notice(4).is_none());
        assert!(interrupts.enter(4, 0).is_raised());
        let later = interrupts.enter(6, 0);
        assert!(!later.is_raised());
        assert!(interrupts.notice(6).is_some());
        assert!(later.is_raised());
        interrupts.leave(6);
    }

    #[test]
    fn a_job_that_waits_for_a_thread_can_be_given_up() {
        let (pool, state) = (Pool::default(), Arc::new((Mutex::new((0, 0)), Condvar::new())));
        for unique in 0..=THREADS_MAX as u64 {
            let state = state.clone();
            let job = move |is_given_up: bool| {
                let mut counts = state.0.lock().unwrap();
                if is_given_up {
                    counts.1 += 1;
                    return;
                }
                // Until the test ends it.
                while counts.0 == 0 {
                    counts = state.1.wait(counts).unwrap();
                }
            };
            pool.run(unique, Box::new(job)).unwrap();
        }
        let last = THREADS_MAX as u64;
        pool.give_up(last);
        pool.give_up(last);
        let mut counts = state.0.lock().unwrap();
        assert_eq!(counts.1, 1);
        counts.0 = 1;
        state.1.notify_all();
    }

    #[test]
    fn all_jobs_are_run_though_some_wait() {
        let pool = Pool::default();
        let (begun, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new((Mutex::new(false), Condvar::new())));
        let done = Arc::new(AtomicUsize::new(0));
        for unique in 0..40 {
            let (begun, gate, done) = (begun.clone(), gate.clone(), done.clone());
            let job = move |_| {
                begun.fetch_add(1, Ordering::SeqCst);
                let mut open = gate.0.lock().unwrap();
                while !*open {
                    open = gate.1.wait(open).unwrap();
                }
                done.fetch_add(1, Ordering::SeqCst);
            };
            pool.run(unique, Box::new(job)).unwrap();
        }
        let wait_for = |count: &AtomicUsize| {
            for _ in 0..2000 {
                if count.load(Ordering::SeqCst) == 40 {
                    return true;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            false
        };
        assert!(wait_for(&begun), "all wait at once");
        *gate.0.lock().unwrap() = true;
        gate.1.notify_all();
        assert!(wait_for(&done));
    }
}
