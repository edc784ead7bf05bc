//! Threads whose changes are told once, when they are done, or never.
//!
//! Where bytes of files come and go, each file is written to, gets its times back and loses a mark: five events and more, each of which
//! would lead to a look and to planning, for what nobody has changed. Who does such work says so ([`Quiet::begin`]); the watcher keeps what that
//! thread does back, and tells each name once when the work has ended. Threads whose work tells of itself by other ways are silent
//! ([`Quiet::silence`]). What others do to the same names is told at once, as ever.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use rustix::event::{EventfdFlags, eventfd};

use crate::error::{Doing, FsError};
use crate::watch::{Hint, Hints};

const LOCK: &str = "no holder of this lock panics";

/// Which threads are at it. Shared by those who work and the watcher.
#[derive(Debug)]
pub struct Quiet {
    threads: Mutex<Threads>,
    /// Becomes readable when one has ended.
    pub(crate) ended: OwnedFd,
}

#[derive(Debug, Default)]
struct Threads {
    /// With how often each has begun.
    active: HashMap<i32, u32>,
    /// Those that have ended since the watcher last asked.
    ended: HashSet<i32>,
    /// Those of which nothing is told.
    silent: HashSet<i32>,
}

/// Until it is dropped, in the same thread, what the thread changes is kept back.
#[derive(Debug)]
pub struct QuietWork {
    quiet: Arc<Quiet>,
    thread: i32,
    /// It is the thread's own.
    _here: std::marker::PhantomData<*const ()>,
}

impl Quiet {
    /// None is at it.
    pub fn new() -> Result<Arc<Self>, FsError> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let ended = eventfd(0, flags).doing("make a descriptor for what has ended", b"watcher")?;
        Ok(Arc::new(Self { threads: Mutex::default(), ended }))
    }

    /// The calling thread changes nothing that is news, until what is returned is dropped.
    pub fn begin(self: &Arc<Self>) -> QuietWork {
        let thread = this_thread();
        *self.threads.lock().expect(LOCK).active.entry(thread).or_default() += 1;
        QuietWork { quiet: Arc::clone(self), thread, _here: std::marker::PhantomData }
    }

    /// Whatever the calling thread changes is told in another way, until what is returned is dropped.
    pub fn silence(self: &Arc<Self>) -> SilentWork {
        let thread = this_thread();
        self.threads.lock().expect(LOCK).silent.insert(thread);
        SilentWork { quiet: Arc::clone(self), thread, _here: std::marker::PhantomData }
    }

    /// Those that have ended since this was last asked.
    fn take_ended(&self) -> HashSet<i32> {
        // It is empty where this was called for another reason.
        let _ = rustix::io::read(&self.ended, &mut [0u8; 8]);
        std::mem::take(&mut self.threads.lock().expect(LOCK).ended)
    }

    fn way_of(&self, thread: i32) -> Way {
        let threads = self.threads.lock().expect(LOCK);
        match () {
            () if threads.silent.contains(&thread) => Way::Never,
            () if threads.active.contains_key(&thread) => Way::Later,
            () => Way::Now,
        }
    }
}

/// When what a thread does is told.
enum Way {
    Now,
    Later,
    Never,
}

fn this_thread() -> i32 {
    rustix::thread::gettid().as_raw_nonzero().get()
}

impl Drop for QuietWork {
    fn drop(&mut self) {
        let mut threads = self.quiet.threads.lock().expect(LOCK);
        if let Some(count) = threads.active.get_mut(&self.thread) {
            *count -= 1;
            if *count > 0 {
                return;
            }
        }
        threads.active.remove(&self.thread);
        threads.ended.insert(self.thread);
        drop(threads);
        // It cannot be full: the watcher would have to be away for as many ends as there are numbers.
        let _ = rustix::io::write(&self.quiet.ended, &1u64.to_ne_bytes());
    }
}

/// Until it is dropped, in the same thread, nothing is told of what the thread changes.
#[derive(Debug)]
pub struct SilentWork {
    quiet: Arc<Quiet>,
    thread: i32,
    _here: std::marker::PhantomData<*const ()>,
}

impl Drop for SilentWork {
    fn drop(&mut self) {
        self.quiet.threads.lock().expect(LOCK).silent.remove(&self.thread);
    }
}

/// What the watcher keeps back.
#[derive(Debug)]
pub(crate) struct KeptBack {
    quiet: Arc<Quiet>,
    hints: HashMap<i32, BTreeSet<Hint>>,
    /// Threads that had ended before the round began.
    ended: HashSet<i32>,
}

impl KeptBack {
    pub(crate) fn new(quiet: Arc<Quiet>) -> Self {
        Self { quiet, hints: HashMap::new(), ended: HashSet::new() }
    }

    pub(crate) fn quiet(&self) -> &Quiet {
        &self.quiet
    }

    /// Before events are read: whatever ended threads did lies in the queue by now.
    pub(crate) fn begin_round(&mut self) {
        self.ended.extend(self.quiet.take_ended());
    }

    /// Keeps back what is not to be told yet; gives the others back.
    pub(crate) fn keep(&mut self, thread: i32, hint: Hint) -> Option<Hint> {
        match self.quiet.way_of(thread) {
            Way::Never => return None,
            Way::Now if !self.ended.contains(&thread) => return Some(hint),
            Way::Now | Way::Later => (),
        }
        self.hints.entry(thread).or_default().insert(hint);
        None
    }

    /// All events were read: what ended threads did is told.
    pub(crate) fn end_round(&mut self, hints: &mut Hints) {
        for thread in self.ended.drain() {
            self.hints.remove(&thread).into_iter().flatten().for_each(|hint| hints.push(hint));
        }
    }
}
