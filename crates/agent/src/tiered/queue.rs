//! Who waits for which piece of which file: `polder_tiering::Recalls` with threads that wait.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use polder_tiering::{Asked, Cause, Fetch, Lane, Reader, Recalls};
use polder_types::NodeUid;

use super::{LOCK, TieredError};

/// Fetches at once: some wait for the network while others open chunks.
pub(super) const FETCHES_MAX: usize = 8;
/// Readers that wait at once. Each is a thread of the gate, which has fewer.
const READERS_MAX: usize = 16_384;
/// How often a waiting reader looks whether it is still to wait.
const POLL: Duration = Duration::from_millis(20);
/// Where more wait than this they look less often, so that looking never takes a processor: a thousand looks and some a second.
const WAITING_MAX: u32 = 32;

/// A read of a file.
pub(super) struct Wish {
    /// How urgent.
    pub lane: Lane,
    /// Which file.
    pub key: NodeUid,
    /// Tells one who reads on from others.
    pub stream: u64,
    /// From which byte.
    pub offset: u64,
    /// How many.
    pub len: u64,
    /// Size of the file.
    pub size: u64,
    /// Pieces that are not here, as far as the wish and what is read ahead reach.
    pub absent: BTreeSet<u64>,
    /// The program that reads, if one does.
    pub cause: Option<Cause>,
}

/// Why a piece did not come.
#[derive(Debug, Clone)]
pub(super) enum Failed {
    /// It may be another time.
    Share(Box<str>),
    /// What the share has is not what it should be: asking again is of no use to those who wait.
    Damaged(Box<str>),
    NoSpace,
    Orphaned,
    Disk(Box<str>),
}

impl From<Failed> for TieredError {
    fn from(why: Failed) -> Self {
        match why {
            Failed::Share(text) => Self::Share(text),
            Failed::Damaged(text) => Self::Damaged(text),
            Failed::NoSpace => Self::NoSpace,
            Failed::Orphaned => Self::Orphaned,
            Failed::Disk(text) => Self::Disk(text),
        }
    }
}

type Answer = Result<(), Failed>;

#[derive(Debug, Default)]
struct Waiter {
    answer: Mutex<Option<Answer>>,
    answered: Condvar,
}

#[derive(Debug)]
struct State {
    recalls: Recalls,
    waiters: HashMap<Reader, Arc<Waiter>>,
    is_ended: bool,
}

/// The recalls of an endpoint.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    work: Condvar,
    next_reader: AtomicU64,
    waiting: AtomicU32,
}

/// How long a reader waits before it looks again, when so many wait.
fn poll(waiting: u32) -> Duration {
    POLL * waiting.div_ceil(WAITING_MAX).max(1)
}

/// A reader that waits, counted as long as it does.
struct Counted<'a>(&'a AtomicU32);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicU32) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }

    fn poll(&self) -> Duration {
        poll(self.0.load(Ordering::Relaxed))
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Default for Queue {
    fn default() -> Self {
        let state = State {
            recalls: Recalls::new(FETCHES_MAX, READERS_MAX),
            waiters: HashMap::new(),
            is_ended: false,
        };
        Self {
            state: Mutex::new(state),
            work: Condvar::new(),
            next_reader: AtomicU64::new(0),
            waiting: AtomicU32::new(0),
        }
    }
}

impl Queue {
    /// Has pieces fetched and waits until they are here. Ends early when `is_over` says so (`Cancelled`), and when `is_late` does.
    pub(super) fn wait_for(
        &self,
        wish: &Wish,
        is_late: &dyn Fn() -> bool,
        is_over: &dyn Fn() -> bool,
    ) -> Result<(), TieredError> {
        let reader = Reader(self.next_reader.fetch_add(1, Ordering::Relaxed));
        let counted = Counted::new(&self.waiting);
        let waiter: Arc<Waiter> = Arc::default();
        loop {
            let mut state = self.state.lock().expect(LOCK);
            if state.is_ended {
                return Err(TieredError::NotMounted);
            }
            let range = (wish.offset, wish.len, wish.size);
            let is_present = |piece| !wish.absent.contains(&piece);
            let cause = wish.cause.as_ref();
            let asked = state.recalls.ask(reader, wish.lane, wish.key, wish.stream, range, cause, is_present);
            self.work.notify_all();
            match asked {
                Asked::Ready => return Ok(()),
                Asked::Waits => {
                    state.waiters.insert(reader, Arc::clone(&waiter));
                    break;
                }
                Asked::Full => drop(state),
            }
            if is_over() {
                return Err(TieredError::Cancelled);
            }
            if is_late() {
                return Err(TieredError::Share("too many programs wait for recalls".into()));
            }
            std::thread::sleep(counted.poll());
        }
        let mut answer = waiter.answer.lock().expect(LOCK);
        loop {
            if let Some(answer) = answer.take() {
                return answer.map_err(TieredError::from);
            }
            let why = if is_over() {
                TieredError::Cancelled
            } else if is_late() {
                TieredError::Share("it did not answer in time".into())
            } else {
                answer = waiter.answered.wait_timeout(answer, counted.poll()).expect(LOCK).0;
                continue;
            };
            drop(answer);
            let mut state = self.state.lock().expect(LOCK);
            state.waiters.remove(&reader);
            state.recalls.cancel(reader);
            return Err(why);
        }
    }

    /// The next piece to fetch; waits for one. `None` at the end.
    pub(super) fn next(&self) -> Option<Fetch> {
        let mut state = self.state.lock().expect(LOCK);
        loop {
            if state.is_ended {
                return None;
            }
            if let Some((_, fetch)) = state.recalls.start_next() {
                return Some(fetch);
            }
            state = self.work.wait(state).expect(LOCK);
        }
    }

    /// A piece came or did not. `tell` is called with the program for which it was fetched before anybody is answered.
    pub(super) fn settle(&self, fetch: Fetch, outcome: &Answer, tell: impl FnOnce(Cause)) {
        let mut state = self.state.lock().expect(LOCK);
        let settled = state.recalls.settle(fetch, outcome.is_ok());
        let readers = settled.ready.into_iter().chain(settled.failed);
        let waiters: Vec<_> = readers.filter_map(|reader| state.waiters.remove(&reader)).collect();
        drop(state);
        if let Some(cause) = settled.cause {
            tell(cause);
        }
        // A place is free.
        self.work.notify_all();
        for waiter in waiters {
            *waiter.answer.lock().expect(LOCK) = Some(outcome.clone());
            waiter.answered.notify_all();
        }
    }

    /// Nobody has the file open any more: how it was read is forgotten.
    pub(super) fn closed(&self, key: NodeUid, streams: impl Iterator<Item = u64>) {
        let mut state = self.state.lock().expect(LOCK);
        streams.for_each(|stream| state.recalls.closed(key, stream));
    }

    /// Whether it has ended.
    pub(super) fn is_ended(&self) -> bool {
        self.state.lock().expect(LOCK).is_ended
    }

    /// Ends the fetching threads, and all who wait with an error.
    pub(super) fn end(&self) {
        let mut state = self.state.lock().expect(LOCK);
        state.is_ended = true;
        let waiters = std::mem::take(&mut state.waiters);
        drop(state);
        self.work.notify_all();
        for waiter in waiters.into_values() {
            *waiter.answer.lock().expect(LOCK) = Some(Err(Failed::Share("the endpoint ends".into())));
            waiter.answered.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(offset: u64, len: u64, absent: &[u64]) -> Wish {
        let absent = absent.iter().copied().collect();
        Wish {
            lane: Lane::Access,
            key: NodeUid([1; 16]),
            stream: 0,
            offset,
            len,
            size: 10 << 20,
            absent,
            cause: None,
        }
    }

    fn soon() -> impl Fn() -> bool {
        let begin = std::time::Instant::now();
        move || begin.elapsed() >= Duration::from_millis(300)
    }

    #[test]
    fn many_who_wait_look_less_often() {
        assert_eq!((poll(1), poll(WAITING_MAX)), (POLL, POLL));
        for waiting in [33, 512, 10_000] {
            let looks_a_second = f64::from(waiting) / poll(waiting).as_secs_f64();
            assert!(
                looks_a_second <= f64::from(WAITING_MAX) / POLL.as_secs_f64(),
                "{waiting}: {looks_a_second}"
            );
        }
        let queue = Queue::default();
        let over = queue.wait_for(&wish(0, 1, &[0]), &soon(), &|| true);
        assert!(matches!(over, Err(TieredError::Cancelled)));
        assert_eq!(queue.waiting.load(Ordering::Relaxed), 0, "counted while they wait");
    }

    #[test]
    fn two_readers_of_a_piece_cause_one_fetch() {
        let queue = Queue::default();
        std::thread::scope(|scope| {
            let readers: Vec<_> = (0..2)
                .map(|_| scope.spawn(|| queue.wait_for(&wish(5, 100, &[0]), &soon(), &|| false)))
                .collect();
            let fetch = queue.next().unwrap();
            assert_eq!(fetch.piece, 0);
            std::thread::sleep(Duration::from_millis(50));
            queue.settle(fetch, &Ok(()), |_| ());
            assert!(readers.into_iter().all(|reader| reader.join().unwrap().is_ok()));
            assert!(queue.state.lock().unwrap().recalls.start_next().is_none(), "fetched once");
        });
    }

    #[test]
    fn a_reader_ends_by_failure_by_signal_and_by_time() {
        let queue = Queue::default();
        std::thread::scope(|scope| {
            let fails = scope.spawn(|| queue.wait_for(&wish(0, 1, &[0]), &soon(), &|| false));
            let fetch = queue.next().unwrap();
            queue.settle(fetch, &Err(Failed::NoSpace), |_| ());
            assert!(matches!(fails.join().unwrap(), Err(TieredError::NoSpace)));
        });
        let over = queue.wait_for(&wish(0, 1, &[0]), &soon(), &|| true);
        assert!(matches!(over, Err(TieredError::Cancelled)));
        let late = queue.wait_for(&wish(0, 1, &[0]), &|| true, &|| false);
        assert!(matches!(late, Err(TieredError::Share(_))));
        assert!(queue.state.lock().unwrap().waiters.is_empty());
        queue.end();
        assert!(queue.next().is_none());
    }
}
