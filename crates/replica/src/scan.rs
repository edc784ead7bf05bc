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
//! A directory's rows are found by its identity, so a moved directory compares equal inside.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use polder_types::{FileIdent, Kind, Name, NodeUid};
use rustix::fs::{RawDir, Statx};

use crate::attributes::{AttrPolicy, Attributes};
use crate::compare::{Names, Rows, is_unchanged};
use crate::error::{Doing, FsError};
use crate::ident::{CName, kind, stamp, statx_at, statx_fd};
use crate::look::{Found, LIST_BUFFER_BYTES, Look, entry_name, is_mount, look_at};
use crate::owners::Owners;
use crate::place::{Node, OpenDirs};
use crate::root::{Root, RootError};
use crate::statedb::{Child, StateError, StateReader};

/// Most differences in one part.
const PART_MAX: usize = 1024;
/// Parts that wait for the consumer.
const CHANNEL_PARTS: usize = 64;
/// How long a proof of the root's identity is believed.
const ROOT_PROOF: Duration = Duration::from_secs(1);

/// How a scan is done.
#[derive(Debug, Clone, Copy)]
pub struct ScanOptions {
    /// Threads; 2 to 4 use what two cores and a disk have.
    pub threads: usize,
    /// Whether to go down.
    pub recursive: bool,
    /// How many differences may be sent before [`Scan::credit`] gives more.
    pub credit: u64,
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
    /// It changed, was moved or removed meanwhile: nothing is missing by this listing. A hint or the next scan leads
    /// here again.
    Void,
}

/// A running scan. Dropping it ends it.
#[derive(Debug)]
pub struct Scan {
    shared: Arc<Shared>,
    parts: Option<Receiver<Scanned>>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    root: Arc<Root>,
    options: ScanOptions,
    owners: Arc<Owners>,
    dirs: OpenDirs,
    work: Mutex<Work>,
    more_work: Condvar,
    credit: Mutex<i64>,
    more_credit: Condvar,
    stop: AtomicBool,
    entry_count: AtomicU64,
    proven: Mutex<Option<Instant>>,
}

#[derive(Debug, Default)]
struct Work {
    stack: Vec<Arc<Node>>,
    busy: usize,
    /// Somebody has told the end.
    ended: bool,
}

/// The scan is over for this thread.
struct Over;

impl Scan {
    /// Begins at a directory. Its rows are those of the endpoint's state database that are committed.
    pub fn start(
        root: Arc<Root>,
        owners: Arc<Owners>,
        readers: impl Fn() -> Result<StateReader, StateError>,
        from: &crate::DirAt,
        options: ScanOptions,
    ) -> Result<Self, StateError> {
        let dirs = OpenDirs::new(&root);
        let mut start = Node::root(root.ident());
        for name in from.path.names() {
            start = Node::child(&start, name.clone(), None);
        }
        if let Some(ident) = from.ident {
            start.set_ident(ident);
        }
        let shared = Arc::new(Shared {
            root,
            options,
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
        let mut threads = Vec::new();
        for _ in 0..count {
            let (shared, sender, reader) = (shared.clone(), sender.clone(), readers()?);
            let run = move || Worker::new(&shared, &sender, &reader).run();
            match std::thread::Builder::new().name("scan".into()).spawn(run) {
                Ok(thread) => threads.push(thread),
                // One thread is enough to go on.
                Err(_) if !threads.is_empty() => break,
                Err(error) => return Err(StateError::Sync(error)),
            }
        }
        Ok(Self { shared, parts: Some(parts), threads })
    }

    /// The next word; `None` after the end.
    pub fn next(&self) -> Option<Scanned> {
        self.parts.as_ref()?.recv().ok()
    }

    /// The next word, or `Err` when none has come in time.
    pub fn next_within(&self, timeout: Duration) -> Result<Option<Scanned>, TimedOut> {
        let Some(parts) = &self.parts else { return Ok(None) };
        match parts.recv_timeout(timeout) {
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
        self.parts = None;
        for thread in self.threads.drain(..) {
            // A panic in it was told by the panic itself.
            let _ = thread.join();
        }
    }
}

struct Worker<'a> {
    shared: &'a Shared,
    sender: &'a SyncSender<Scanned>,
    reader: &'a StateReader,
    attributes: Attributes,
    names: Names,
    room: Vec<u8>,
}

/// One directory that is being compared.
struct Listing {
    node: Arc<Node>,
    fd: Arc<OwnedFd>,
    ident: FileIdent,
    before: Statx,
    part: ScanPart,
    /// Whether a part was sent.
    told: bool,
    /// Directories in it that are to be gone down into, once their entries were told.
    down: Vec<Arc<Node>>,
    first_error: Option<FsError>,
    vanished: bool,
}

impl<'a> Worker<'a> {
    fn new(shared: &'a Shared, sender: &'a SyncSender<Scanned>, reader: &'a StateReader) -> Self {
        let attributes = Attributes::new(shared.options.policy, shared.owners.clone());
        Self {
            shared,
            sender,
            reader,
            attributes,
            names: Names::default(),
            room: Vec::with_capacity(LIST_BUFFER_BYTES),
        }
    }

    fn run(&mut self) {
        while let Some(node) = self.shared.take() {
            let result = self.directory(&node);
            drop(node);
            let last = self.shared.finished();
            let over = match result {
                Ok(()) if last => {
                    let entry_count = self.shared.entry_count.load(Ordering::Relaxed);
                    let _ = self.sender.send(Scanned::Done { entry_count });
                    true
                }
                Ok(()) => false,
                Err(Over) => true,
            };
            if over {
                self.shared.stop();
                return;
            }
        }
    }

    /// Ends the scan with a last word.
    fn end(&self, word: Scanned) -> Over {
        let mut work = self.shared.work.lock().expect("no holder of this lock panics");
        if !std::mem::replace(&mut work.ended, true) {
            let _ = self.sender.send(word);
        }
        Over
    }

    fn directory(&mut self, node: &Arc<Node>) -> Result<(), Over> {
        let part = |dir| ScanPart {
            dir,
            differ: Vec::new(),
            missing: Vec::new(),
            failed: Vec::new(),
            mounts: Vec::new(),
            end: None,
        };
        let opened = self.shared.dirs.open(node).and_then(|(fd, ident)| {
            let before = statx_fd(&fd).doing("stat directory", node.name())?;
            self.list_names(&fd, node)?;
            Ok((fd, ident, before))
        });
        let (fd, ident, before) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                // Gone or replaced since it was seen: nothing can be said about its inside.
                let gone = matches!(error.class, crate::ErrorClass::Gone | crate::ErrorClass::Blocked);
                let end = if gone { PartEnd::Void } else { PartEnd::Unreadable(error) };
                let part = part(node.ident().unwrap_or_default());
                return self.send(ScanPart { end: Some(end), ..part });
            }
        };
        let mut listing = Listing {
            node: node.clone(),
            fd,
            ident,
            before,
            part: part(ident),
            told: false,
            down: Vec::new(),
            first_error: None,
            vanished: false,
        };
        match self.compare(&mut listing) {
            Ok(missing) => self.finish(listing, missing),
            Err(Stop::State(error)) => Err(self.end(Scanned::Failed(error))),
            Err(Stop::Over(over)) => Err(over),
        }
    }

    fn list_names(&mut self, fd: &OwnedFd, node: &Node) -> Result<(), FsError> {
        self.names.clear();
        // Another job may have listed the same open directory.
        rustix::fs::seek(fd, rustix::fs::SeekFrom::Start(0)).doing("rewind directory", node.name())?;
        let mut entries = RawDir::new(fd, self.room.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            let entry = entry.doing("list directory", node.name())?;
            if entry_name(entry.file_name(), node.is_root()).is_some() {
                self.names.push(entry.file_name().to_bytes());
            }
        }
        if self.names.overflow() {
            return Err(FsError::new("list directory", node.name(), rustix::io::Errno::NOMEM));
        }
        Ok(())
    }

    /// Merges names and rows. The rows that were not seen come back.
    fn compare(&mut self, listing: &mut Listing) -> Result<Vec<NodeUid>, Stop> {
        let uid = if listing.node.is_root() {
            Some(NodeUid::ROOT)
        } else {
            self.reader.directory(listing.ident).map_err(Stop::State)?
        };
        let case = self.reader.case();
        let order = self.names.sorted(case);
        self.shared.entry_count.fetch_add(order.len() as u64, Ordering::Relaxed);
        let names = std::mem::take(&mut self.names);
        let mut rows = Rows::new(self.reader, uid).map_err(Stop::State)?;
        let mut missing = Vec::new();
        for at in order {
            let bytes = names.get(at);
            let row = rows.take(&case.key(bytes), &mut missing).map_err(Stop::State)?;
            self.entry(listing, bytes, row);
            if listing.part.differ.len() >= PART_MAX {
                self.tell(listing, None).map_err(Stop::Over)?;
            }
        }
        rows.rest(&mut missing).map_err(Stop::State)?;
        self.names = names;
        Ok(missing)
    }

    /// One name. Whatever comes of it, a row under its key is not missing, unless the name has vanished.
    fn entry(&mut self, listing: &mut Listing, bytes: &[u8], row: Option<Child>) {
        let c_name = CName::of_bytes(bytes);
        let dir = listing.fd.as_fd();
        if let Some(row) = &row
            && let Ok(stat) = statx_at(dir, c_name.as_c_str())
            && kind(&stat) == Some(row.kind)
            && is_unchanged(&stamp(&stat, 0), &row.stamp)
            && !is_mount(&stat, self.shared.root.device())
        {
            if row.kind == Kind::Directory {
                self.go_down(listing, bytes, row.stamp.ident);
            }
            return;
        }
        let Ok(name) = Name::parse(bytes) else { return };
        match look_at(dir, self.shared.root.device(), &name, &mut self.attributes) {
            Look::Found(found) => {
                // Equal after all where it changed between the two looks and back; or by another generation.
                if found.seen.kind == Some(Kind::Directory) {
                    self.go_down(listing, bytes, found.seen.stamp.ident);
                }
                listing.part.differ.push(found);
            }
            Look::Mount => listing.part.mounts.push(name),
            Look::Absent => listing.vanished = true,
            Look::Failed(error) => listing.part.failed.push((name, error)),
        }
    }

    fn go_down(&self, listing: &mut Listing, bytes: &[u8], ident: FileIdent) {
        if self.shared.options.recursive
            && let Ok(name) = Name::parse(bytes)
        {
            listing.down.push(Node::child(&listing.node, name, Some(ident)));
        }
    }

    /// Sends what was found so far, then lets the directories in it be visited.
    fn tell(&self, listing: &mut Listing, end: Option<PartEnd>) -> Result<(), Over> {
        if listing.first_error.is_none()
            && let Some((name, error)) = listing.part.failed.first()
        {
            listing.first_error = Some(error.again(name.as_bytes()));
        }
        let next = ScanPart {
            dir: listing.ident,
            differ: Vec::new(),
            missing: Vec::new(),
            failed: Vec::new(),
            mounts: Vec::new(),
            end: None,
        };
        let mut part = std::mem::replace(&mut listing.part, next);
        part.end = end;
        listing.told = true;
        self.send(part)?;
        self.shared.push(std::mem::take(&mut listing.down));
        Ok(())
    }

    fn finish(&mut self, mut listing: Listing, missing: Vec<NodeUid>) -> Result<(), Over> {
        if let Some((name, error)) = listing.part.failed.first()
            && listing.first_error.is_none()
        {
            listing.first_error = Some(error.again(name.as_bytes()));
        }
        let end = match listing.first_error.take() {
            Some(error) => PartEnd::Unreadable(error),
            None if self.stood_still(&listing) => PartEnd::Complete,
            None => PartEnd::Void,
        };
        if matches!(end, PartEnd::Complete) && !missing.is_empty() {
            self.prove_root()?;
            listing.part.missing = missing;
        }
        let part = &listing.part;
        let equal = part.differ.is_empty()
            && part.missing.is_empty()
            && part.mounts.is_empty()
            && matches!(end, PartEnd::Complete);
        // Where a whole share is walked, only differences travel; who asked for one directory gets an answer.
        if equal && !listing.told && self.shared.options.recursive {
            self.shared.push(std::mem::take(&mut listing.down));
            return Ok(());
        }
        self.tell(&mut listing, Some(end))
    }

    /// Whether the directory did not change while it was read and is still where it was.
    fn stood_still(&self, listing: &Listing) -> bool {
        let stamp_of = |stat: &Statx| stamp(stat, 0);
        let same = statx_fd(&listing.fd)
            .is_ok_and(|after| after.stx_nlink > 0 && stamp_of(&after) == stamp_of(&listing.before));
        same && !listing.vanished && self.shared.dirs.is_in_place(&listing.node, listing.ident)
    }

    /// The root's identity, proven within the last second.
    fn prove_root(&self) -> Result<(), Over> {
        let mut proven = self.shared.proven.lock().expect("no holder of this lock panics");
        if proven.is_some_and(|at| at.elapsed() < ROOT_PROOF) {
            return Ok(());
        }
        match self.shared.root.check() {
            Ok(()) => *proven = Some(Instant::now()),
            Err(error) => return Err(self.end(Scanned::RootLost(error))),
        }
        Ok(())
    }

    fn send(&self, part: ScanPart) -> Result<(), Over> {
        let cost = (part.differ.len() + part.missing.len()) as i64;
        let mut credit = self.shared.credit.lock().expect("no holder of this lock panics");
        while *credit <= 0 && cost > 0 && !self.shared.is_stopped() {
            credit = self.shared.more_credit.wait(credit).expect("no holder of this lock panics");
        }
        *credit -= cost;
        drop(credit);
        if self.shared.is_stopped() {
            return Err(Over);
        }
        self.sender.send(Scanned::Part(part)).map_err(|_| Over)
    }
}

enum Stop {
    State(StateError),
    Over(Over),
}

impl Shared {
    fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        // Under the locks, so that nobody falls asleep between looking and waiting.
        drop(self.credit.lock());
        self.more_credit.notify_all();
        drop(self.work.lock());
        self.more_work.notify_all();
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// The next directory; `None` when there is nothing left or the scan was ended.
    fn take(&self) -> Option<Arc<Node>> {
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

    fn push(&self, mut nodes: Vec<Arc<Node>>) {
        if nodes.is_empty() {
            return;
        }
        // The first name is visited first.
        nodes.reverse();
        self.work.lock().expect("no holder of this lock panics").stack.append(&mut nodes);
        self.more_work.notify_all();
    }

    /// One directory is done; whether it was the last of all.
    fn finished(&self) -> bool {
        let mut work = self.work.lock().expect("no holder of this lock panics");
        work.busy -= 1;
        let last = work.busy == 0 && work.stack.is_empty();
        last && !std::mem::replace(&mut work.ended, true)
    }
}
