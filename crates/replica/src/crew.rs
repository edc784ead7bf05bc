//! Threads that are kept for a while after their work: a new endpoint lists each directory that it makes, and to begin a thread costs more
//! than to list a small one.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long a thread waits for more.
const IDLE_MAX: Duration = Duration::from_secs(2);

type Job = Box<dyn FnOnce() + Send>;

struct Queue {
    jobs: VecDeque<Job>,
    idle: usize,
}

static QUEUE: Mutex<Queue> = Mutex::new(Queue { jobs: VecDeque::new(), idle: 0 });
static MORE: Condvar = Condvar::new();

/// Runs `job` on a thread of its own, at once: on one that is idle, or on a new one. It waits for nobody, so it may wait for whatever it likes.
///
/// # Errors
///
/// The system gives no thread; the job is dropped.
pub fn on_thread(job: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    let mut queue = lock();
    if queue.idle > queue.jobs.len() {
        queue.jobs.push_back(Box::new(job));
        MORE.notify_one();
        return Ok(());
    }
    drop(queue);
    std::thread::Builder::new().name("scan".into()).spawn(move || {
        job();
        work();
    })?;
    Ok(())
}

fn work() {
    let mut queue = lock();
    loop {
        if let Some(job) = queue.jobs.pop_front() {
            drop(queue);
            // Whoever panics ends this thread; it is not idle, so nobody counts on it.
            job();
            queue = lock();
            continue;
        }
        queue.idle += 1;
        let (back, timeout) = MORE.wait_timeout(queue, IDLE_MAX).unwrap_or_else(PoisonError::into_inner);
        queue = back;
        queue.idle -= 1;
        if timeout.timed_out() && queue.jobs.is_empty() {
            return;
        }
    }
}

fn lock() -> MutexGuard<'static, Queue> {
    QUEUE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::sync::{Arc, Barrier};

    use super::*;

    /// Each has a thread: none waits behind another that waits for it. Twice, so that the second time some are taken that are idle.
    #[test]
    fn jobs_that_wait_for_each_other_all_run() {
        for count in [8, 20] {
            let (barrier, (told, heard)) = (Arc::new(Barrier::new(count)), channel());
            for _ in 0..count {
                let (barrier, told) = (Arc::clone(&barrier), told.clone());
                on_thread(move || {
                    barrier.wait();
                    told.send(()).unwrap();
                })
                .unwrap();
            }
            for _ in 0..count {
                heard.recv_timeout(Duration::from_secs(60)).expect("all run at once");
            }
        }
    }

    #[test]
    fn a_panic_takes_no_other_job_with_it() {
        let (told, heard) = channel();
        on_thread(|| panic!("on purpose")).unwrap();
        for _ in 0..8 {
            let told = told.clone();
            on_thread(move || told.send(()).unwrap()).unwrap();
        }
        (0..8).for_each(|_| heard.recv_timeout(Duration::from_secs(60)).expect("it runs"));
    }
}
