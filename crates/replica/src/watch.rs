//! Noticing changes as they happen: hints `(directory, name)`, never facts.
//!
//! fanotify sees the whole file system with one mark, tells directory and name, and who did it, so our own changes are
//! left out. Where it is not permitted (it needs CAP_SYS_ADMIN) or the file system has no handles, inotify watches every
//! directory. Either way a hint says only that somebody should look: hints may be late, doubled, or about things that
//! have changed again. When events were lost, [`Noticed::Overflow`] says so, and only a scan helps.
//!
//! Events: creation, deletion, renames, attributes, closing after writing, and writing itself, because a log file
//! stays open for weeks. Stores to a mapping raise none; they are found when the file is closed, by the next look, or by
//! the slow scan.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use polder_types::{FileIdent, Name};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;

use crate::error::{Doing, FsError};
use crate::fanotify::Fanotify;
use crate::inotify::Inotify;
use crate::quiet::Quiet;
use crate::root::Root;

/// Something happened under a name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hint {
    /// The directory.
    pub dir: FileIdent,
    /// The name in it; `None` for the directory itself: its attributes, or everything in it.
    pub name: Option<Name>,
    /// A directory came to this name: what is in it may have changed before anybody watched.
    pub arrived: bool,
}

/// What a watcher tells.
#[derive(Debug)]
pub enum Noticed {
    /// Look here. In the order of first mention, without repetitions.
    Hints(Vec<Hint>),
    /// Events were lost: everything may have changed.
    Overflow,
    /// So many directories cannot be watched (a limit of the system): changes in them are found by scans alone.
    Unwatched(u64),
    /// The watcher has ended: start it again, and scan.
    Failed(FsError),
}

/// How a root is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// One mark on the file system.
    Fanotify,
    /// A watch on every directory.
    Inotify,
}

/// How to watch.
#[derive(Debug, Clone, Default)]
pub struct WatchOptions {
    /// Only this method; the best one otherwise.
    pub method: Option<Method>,
    /// What this process does itself.
    pub own: OwnEvents,
}

/// What is told of changes that this process makes (fanotify; inotify cannot tell them apart, and tells all).
#[derive(Debug, Clone, Default)]
pub enum OwnEvents {
    /// Nothing.
    #[default]
    LeftOut,
    /// All of them; what these threads do only when they are done.
    Told(Option<Arc<Quiet>>),
}

/// A watching thread, until dropped.
#[derive(Debug)]
pub struct Watcher {
    method: Method,
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

/// Where events come from.
pub(crate) trait Source: Send {
    /// The descriptor that becomes readable.
    fn fd(&self) -> &OwnedFd;
    /// Another one, that becomes readable when there may be something to drain all the same.
    fn other_fd(&self) -> Option<&OwnedFd> {
        None
    }
    /// Reads what is there into `hints`; what else is to be told comes back.
    fn drain(&mut self, hints: &mut Hints) -> Result<Vec<Noticed>, FsError>;
}

impl Watcher {
    /// Watches a root. When this returns, every later change is noticed: scan after it, not before. `sink` is called from
    /// one thread; while it does not return, events wait in the kernel and are merged.
    pub fn start(
        root: &Arc<Root>,
        options: WatchOptions,
        mut sink: Box<dyn FnMut(Noticed) + Send>,
    ) -> Result<Self, FsError> {
        let (method, mut source) = Self::source(root, options)?;
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).doing("make a stop descriptor", b"watcher")?);
        let stopped = stop.clone();
        let run = move || {
            if let Err(error) = run(&mut *source, &stopped, &mut sink) {
                sink(Noticed::Failed(error));
            }
        };
        let thread = std::thread::Builder::new().name("watch".into()).spawn(run);
        let thread = thread.map_err(|_| FsError::new("start thread", b"watcher", Errno::AGAIN))?;
        Ok(Self { method, stop, thread: Some(thread) })
    }

    fn source(root: &Arc<Root>, options: WatchOptions) -> Result<(Method, Box<dyn Source>), FsError> {
        if options.method != Some(Method::Inotify) {
            match Fanotify::new(root, &options.own) {
                Ok(source) => return Ok((Method::Fanotify, Box::new(source))),
                Err(error) if options.method.is_some() => return Err(error),
                Err(_) => (),
            }
        }
        Ok((Method::Inotify, Box::new(Inotify::new(root)?)))
    }

    /// How it watches.
    pub fn method(&self) -> Method {
        self.method
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // Cannot fail: eight bytes into a fresh counter.
        let _ = rustix::io::write(&*self.stop, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            // A panic in it was told by the panic itself.
            let _ = thread.join();
        }
    }
}

fn run(
    source: &mut dyn Source,
    stop: &OwnedFd,
    sink: &mut Box<dyn FnMut(Noticed) + Send>,
) -> Result<(), FsError> {
    let mut hints = Hints::default();
    let mut drained: Option<Instant> = None;
    loop {
        {
            let sources = [Some(stop), Some(source.fd()), source.other_fd()];
            let waits = sources.into_iter().flatten();
            let mut fds: Vec<_> = waits.map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
            match poll(&mut fds, None) {
                Ok(_) | Err(Errno::INTR) => (),
                Err(errno) => return Err(FsError::new("wait for", b"events", errno)),
            }
            if !fds[0].revents().is_empty() {
                return Ok(());
            }
        }
        if drained.is_some_and(|at| at.elapsed() < BUSY) {
            std::thread::sleep(BUSY);
        }
        let others = source.drain(&mut hints)?;
        drained = Some(Instant::now());
        // Hints first: an overflow covers what came before it too.
        if let Some(hints) = hints.take() {
            sink(Noticed::Hints(hints));
        }
        others.into_iter().for_each(&mut *sink);
    }
}

/// Where events come one after another they are taken together: waking up for each costs half a core while somebody
/// writes many small files.
const BUSY: Duration = Duration::from_millis(1);

/// Hints of one round, each once, in the order of first mention.
#[derive(Debug, Default)]
pub(crate) struct Hints {
    order: Vec<Hint>,
    seen: std::collections::HashSet<Hint>,
}

impl Hints {
    /// Most hints of one round; then the consumer has its turn.
    const MAX: usize = 16_384;

    pub(crate) fn push(&mut self, hint: Hint) {
        // A name that is written to comes many times in a row.
        if self.order.last() != Some(&hint) && self.seen.insert(hint.clone()) {
            self.order.push(hint);
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.order.len() >= Self::MAX
    }

    fn take(&mut self) -> Option<Vec<Hint>> {
        self.seen.clear();
        let order = std::mem::take(&mut self.order);
        (!order.is_empty()).then_some(order)
    }
}
