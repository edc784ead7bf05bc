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

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    idle: usize,
    threads: usize,
}

/// The threads. They end by themselves when there is nothing to do.
#[derive(Clone, Default)]
pub(crate) struct Pool(Arc<(Mutex<Queue>, Condvar)>);

impl Pool {
    /// Runs a job on a thread that was prepared for answering requests.
    pub(crate) fn run(&self, job: Job) -> std::io::Result<()> {
        let mut queue = lock(&self.0.0);
        queue.jobs.push_back(job);
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
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn work(&self) {
        let _bomb = AbortOnPanic;
        // On failure the process was not prepared at its start either, and said so.
        let _ = crate::rights::prepare_thread();
        let mut queue = lock(&self.0.0);
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                drop(queue);
                job();
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

    /// The kernel says that a signal is pending for the caller of a request.
    pub(crate) fn notice(&self, unique: u64) {
        let mut known = lock(&self.0);
        match known.waiting.get(&unique) {
            Some(interrupt) => interrupt.notice(),
            None => {
                if known.early.len() == EARLY_MAX {
                    known.early.pop_front();
                }
                known.early.push_back(unique);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn an_interrupt_may_come_before_its_request_waits() {
        let interrupts = Interrupts::default();
        interrupts.notice(4);
        assert!(interrupts.enter(4, 0).is_raised());
        let later = interrupts.enter(6, 0);
        assert!(!later.is_raised());
        interrupts.notice(6);
        assert!(later.is_raised());
        interrupts.leave(6);
    }

    #[test]
    fn all_jobs_are_run_though_some_wait() {
        let pool = Pool::default();
        let (begun, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new((Mutex::new(false), Condvar::new())));
        let done = Arc::new(AtomicUsize::new(0));
        for _ in 0..40 {
            let (begun, gate, done) = (begun.clone(), gate.clone(), done.clone());
            pool.run(Box::new(move || {
                begun.fetch_add(1, Ordering::SeqCst);
                let mut open = gate.0.lock().unwrap();
                while !*open {
                    open = gate.1.wait(open).unwrap();
                }
                done.fetch_add(1, Ordering::SeqCst);
            }))
            .unwrap();
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
