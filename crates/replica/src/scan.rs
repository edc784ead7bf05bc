//! Finding what differs from the synced rows: all of a share, or one directory.
//!
//! A few threads take directories from one stack (the deepest first, so that few descriptors are open), list them with
//! `getdents64`, ask `statx` for every name, and merge the names with the directory's rows. Only differences travel,
//! through a channel of bounded length, and only as many as the consumer gave credit for: memory follows the window
//! of work, not the share.
//!
//! What makes an absence believable (promise I5): the directory was read to its end without error, did not change
//! while it was read, is still where it was, and the root's identity was proven just before. Else nothing is missing.
//!
//! The rows of the directory that a scan begins at are those of the node that it was sent to; of one whose own row holds,
//! those of that row; of any other, those of the node that its identity is known by, so that a moved directory compares equal inside.

use std::borrow::Borrow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use polder_sync::Filter;
use polder_types::{FileIdent, Name, NodeUid};

use crate::attributes::AttrPolicy;
use crate::crew::on_thread;
use crate::error::FsError;
use crate::look::Found;
use crate::owners::Owners;
use crate::place::{Node, OpenDirs};
use crate::root::{Root, RootError};
use crate::scan_worker::Worker;
use crate::statedb::{StateError, StateReader};

/// Parts that wait for the consumer.
const CHANNEL_PARTS: usize = 64;

/// How a scan is done.
#[derive(Debug, Clone, Copy)]
pub struct ScanOptions {
    /// Threads; 2 to 4 use what two cores and a disk have.
    pub threads: usize,
    /// Whether to go down.
    pub recursive: bool,
    /// How many differences may be sent before [`Scan::credit`] gives more.
    pub credit: u64,
    /// Whose rows the first directory is compared with; `None`: those of the node that its identity is known by.
    pub rows: Option<NodeUid>,
    /// Which attributes are taken.
    pub policy: AttrPolicy,
}

/// What a scan tells.
#[derive(Debug)]
pub enum Scanned {
    /// Differences in one directory. A directory's own entry comes before the parts about its inside.
    Part(ScanPart),
    /// The end; all parts came before.
    Done {
        /// Entries that were seen in all, different or not.
        entry_count: u64,
    },
    /// The root's identity no longer holds: nothing that was missing counts, and the scan is over.
    RootLost(RootError),
    /// The rows could not be read; the scan is over.
    Failed(StateError),
}

/// Differences in one directory.
#[derive(Debug)]
pub struct ScanPart {
    /// The directory, as the open descriptor says.
    pub dir: FileIdent,
    /// Whose rows it was compared with; `None`: no row is known by its identity. Told also of what is equal, where the directory's
    /// own entry was told.
    pub rows: Option<NodeUid>,
    /// Entries whose stamp or kind differs from the row under their key, and entries without a row. Special files are
    /// among them.
    pub differ: Vec<Found>,
    /// Synced children that were not seen: only in the last part, only if that is [`PartEnd::Complete`].
    pub missing: Vec<NodeUid>,
    /// Names that could not be looked at. They are not missing.
    pub failed: Vec<(Name, FsError)>,
    /// Names on which other file systems are mounted. They are not missing, and not looked into.
    pub mounts: Vec<Name>,
    /// How the listing ended; `None` when more parts of this directory follow.
    pub end: Option<PartEnd>,
}

/// How the listing of one directory ended.
#[derive(Debug)]
pub enum PartEnd {
    /// Read to its end; what was not seen is not there.
    Complete,
    /// Not readable in whole or part.
    Unreadable(FsError),
    /// It changed while it was read, or has left its place since: nothing is missing by this listing.
    Void,
    /// It does not stand where it was seen: nothing of it was read, nor of what lies deeper.
    Gone,
}

/// A running scan. Dropping it ends it.
#[derive(Debug)]
pub struct Scan {
    shared: Arc<Shared>,
    /// Closed once no thread of the scan holds anything any more.
    parts: Receiver<Scanned>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) root: Arc<Root>,
    pub(crate) options: ScanOptions,
    pub(crate) filter: Arc<Filter>,
    pub(crate) owners: Arc<Owners>,
    pub(crate) dirs: OpenDirs,
    pub(crate) work: Mutex<Work>,
    pub(crate) more_work: Condvar,
    pub(crate) credit: Mutex<i64>,
    pub(crate) more_credit: Condvar,
    pub(crate) stop: AtomicBool,
    pub(crate) entry_count: AtomicU64,
    pub(crate) proven: Mutex<Option<Instant>>,
}

#[derive(Debug, Default)]
pub(crate) struct Work {
    pub(crate) stack: Vec<Arc<Node>>,
    pub(crate) busy: usize,
    /// Somebody has told the end.
    pub(crate) ended: bool,
}

impl Scan {
    /// Begins at a directory. Its rows are those of the endpoint's state database that are committed.
    pub fn start<R: Borrow<StateReader> + Send + 'static>(
        root: Arc<Root>,
        owners: Arc<Owners>,
        readers: impl Fn() -> Result<R, StateError>,
        from: &crate::DirAt,
        options: ScanOptions,
    ) -> Result<Self, StateError> {
        Self::start_filtered(root, owners, readers, from, options, Arc::new(Filter::none()))
    }

    /// As [`Scan::start`], passing over the names that the filter leaves out: they are not told and not looked into. One
    /// that has a synced row all the same is not missing.
    pub fn start_filtered<R: Borrow<StateReader> + Send + 'static>(
        root: Arc<Root>,
        owners: Arc<Owners>,
        readers: impl Fn() -> Result<R, StateError>,
        from: &crate::DirAt,
        options: ScanOptions,
        filter: Arc<Filter>,
    ) -> Result<Self, StateError> {
        let dirs = OpenDirs::new(&root);
        let mut start = Node::root(root.ident());
        let depth = from.path.names().len();
        for (at, name) in (1..).zip(from.path.names()) {
            start = Node::child_of_rows(&start, name.clone(), None, options.rows.filter(|_| at == depth));
        }
        if let Some(ident) = from.ident {
            start.set_ident(ident);
        }
        let shared = Arc::new(Shared {
            root,
            options,
            filter,
            owners,
            dirs,
            work: Mutex::new(Work { stack: vec![start], busy: 0, ended: false }),
            more_work: Condvar::new(),
            credit: Mutex::new(i64::try_from(options.credit).unwrap_or(i64::MAX)),
            more_credit: Condvar::new(),
            stop: AtomicBool::new(false),
            entry_count: AtomicU64::new(0),
            proven: Mutex::new(None),
        });
        let (sender, parts) = sync_channel(CHANNEL_PARTS);
        let count = if options.recursive { options.threads.clamp(1, 16) } else { 1 };
        for nth in 0..count {
            let (shared, sender, reader) = (shared.clone(), sender.clone(), readers()?);
            let run = move || {
                Worker::new(&shared, &sender, reader.borrow()).run();
                // Before the sender, by which a drop of the scan knows that they are back.
                drop((shared, reader));
                drop(sender);
            };
            match on_thread(run) {
                Ok(()) => (),
                // One thread is enough to go on.
                Err(_) if nth > 0 => break,
                Err(error) => return Err(StateError::Sync(error)),
            }
        }
        Ok(Self { shared, parts })
    }

    /// The next word; `None` after the end.
    pub fn next(&self) -> Option<Scanned> {
        self.parts.recv().ok()
    }

    /// The next word, or `Err` when none has come in time.
    pub fn next_within(&self, timeout: Duration) -> Result<Option<Scanned>, TimedOut> {
        match self.parts.recv_timeout(timeout) {
            Ok(scanned) => Ok(Some(scanned)),
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => Err(TimedOut),
        }
    }

    /// Lets the scan send more differences.
    pub fn credit(&self, more: u64) {
        self.handle().credit(more);
    }

    /// Gives credit and ends the scan from other threads.
    pub fn handle(&self) -> ScanHandle {
        ScanHandle(self.shared.clone())
    }
}

/// No word has come in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimedOut;

/// Steers a scan from any thread.
#[derive(Debug, Clone)]
pub struct ScanHandle(Arc<Shared>);

impl ScanHandle {
    /// Lets the scan send more differences.
    pub fn credit(&self, more: u64) {
        let mut credit = self.0.credit.lock().expect("no holder of this lock panics");
        *credit = credit.saturating_add(i64::try_from(more).unwrap_or(i64::MAX));
        self.0.more_credit.notify_all();
    }

    /// Ends the scan soon, without a last word.
    pub fn cancel(&self) {
        self.0.stop();
    }
}

impl Drop for Scan {
    fn drop(&mut self) {
        self.handle().cancel();
        // A panic in a thread was told by the panic itself.
        while self.parts.recv().is_ok() {}
    }
}

impl Shared {
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        // Under the locks, so that nobody falls asleep between looking and waiting.
        drop(self.credit.lock());
        self.more_credit.notify_all();
        drop(self.work.lock());
        self.more_work.notify_all();
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// The next directory; `None` when there is nothing left or the scan was ended.
    pub(crate) fn take(&self) -> Option<Arc<Node>> {
        let mut work = self.work.lock().expect("no holder of this lock panics");
        loop {
            if self.is_stopped() {
                return None;
            }
            if let Some(node) = work.stack.pop() {
                work.busy += 1;
                return Some(node);
            }
            if work.busy == 0 {
                return None;
            }
            work = self.more_work.wait(work).expect("no holder of this lock panics");
        }
    }

    pub(crate) fn push(&self, mut nodes: Vec<Arc<Node>>) {
        if nodes.is_empty() {
            return;
        }
        // The first name is visited first.
        nodes.reverse();
        self.work.lock().expect("no holder of this lock panics").stack.append(&mut nodes);
        self.more_work.notify_all();
    }

    /// One directory is done; whether it was the last of all.
    pub(crate) fn finished(&self) -> bool {
        let mut work = self.work.lock().expect("no holder of this lock panics");
        work.busy -= 1;
        let last = work.busy == 0 && work.stack.is_empty();
        last && !std::mem::replace(&mut work.ended, true)
    }
}
