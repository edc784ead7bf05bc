//! The tiered files of an endpoint: which bytes are here, giving them up, bringing them back.
//!
//! [`Tiered`] is the one handle that the policy runner, commands, metrics and the gate use. It decides nothing: who leaves is chosen by
//! `polder_tiering`, what a program may do by whoever implements [`Uses`].
//!
//! Every call may be made from any thread, and none from a thread that the gate waits for. `docs/design/2026-11-30-tiered-endpoint.md`.

mod back;
mod behind;
mod changes;
mod content;
mod files;
mod give;
mod held;
mod known;
mod list;
mod looks;
mod marks;
mod mount;
mod patience;
mod queue;
mod removals;
mod together;
mod watch;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use polder_gate::ports::Node;
use polder_gate::tree::Tree;
use polder_gate::{Gate, Moving};
use polder_replica::{Marked, Quiet, Root, StateReaders};
use polder_tiering::{Allowance, Cause, Lane, PIECE_BYTES, Program, Stays};
use polder_types::{EndpointId, FileIdent, NodeUid, RelPath};

use crate::chunks::Fetcher;
use changes::Changes;
use files::{Files, key_of};
use patience::{Patience, Wait};
use queue::{Failed, Queue, Wish};
use removals::Removals;

pub(crate) use known::Known;
pub(crate) use looks::{ensure_nobody_looks, who_uses};
pub(crate) use mount::{Gates, Mounted, clear_dead, may_be_placeholder};
pub(crate) use together::SMALL_BYTES;

const LOCK: &str = "no holder of this lock panics";
/// How much of a file is asked for at once when all of it is wanted.
const WINDOW_BYTES: u64 = 64 << 20;
/// Files that are looked at together.
const LIST_PAGE: usize = 1000;
/// Pieces beyond a read that may be read ahead.
const AHEAD_PIECES: u64 = 16;

/// The tiered files of one endpoint, while its gate is mounted and served. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Tiered(Arc<Inner>);

/// What one life of the endpoint lends: the way to the share and to the agreed tree.
#[derive(Debug, Clone)]
struct Source {
    fetcher: Fetcher,
    readers: StateReaders,
}

struct Inner {
    endpoint: EndpointId,
    root: Arc<Root>,
    /// Where the gate is mounted, as the kernel lists it.
    point: std::path::PathBuf,
    tree: Arc<Tree>,
    changes: Arc<Changes>,
    removals: Removals,
    files: Files,
    queue: Queue,
    patience: Patience,
    known: Arc<Known>,
    /// Threads that bring bytes or give them up: what they do to files is no news.
    quiet: Arc<Quiet>,
    uses: Arc<dyn Uses>,
    source: Mutex<Option<Source>>,
    /// None before it is served, and after the mount was taken away: it holds this in turn.
    gate: Mutex<Option<Gate>>,
    opened: std::sync::mpsc::SyncSender<content::OpenedBy>,
    /// Whether placeholders may be made at all.
    takes_arrivals: AtomicBool,
    /// Whether the share is known well enough for bytes to be given up ([`polder_engine::Status::caught_up`]).
    caught_up: AtomicBool,
    watch: watch::Watch,
    /// What is being done about the whole endpoint, for people.
    doing: Mutex<Option<Box<str>>>,
}

impl Debug for Inner {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Tiered").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

/// Whether a file's bytes are on this disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Residency {
    /// All of them: the file carries no mark.
    Resident,
    /// It carries our mark; of its bytes so many are verified and on disk in this life.
    Tiered {
        /// Bytes that need no recall.
        present_bytes: u64,
    },
    /// Its mark is damaged or another file's: reading it is an error, and it never leaves nor is uploaded.
    Orphaned,
}

/// What is known of a file without opening it: what `polder_tiering::plan` needs, but heat and pins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TieredFile {
    /// Which node.
    pub node: NodeUid,
    /// Its path below the endpoint.
    pub path: RelPath,
    /// Size in bytes, as users see it.
    pub size: u64,
    /// Bytes that it takes on the disk now.
    pub on_disk_bytes: u64,
    /// Last modification, seconds since 1970.
    pub mtime_s: i64,
    /// Last change, seconds since 1970; of a tiered file its modification.
    pub ctime_s: i64,
    /// Whether it is here.
    pub residency: Residency,
    /// What forbids that it leaves, as far as rows tell; `Some(Stays::Tiered)` of a file that has left. Pins, rules, packs that
    /// are not verified and files that are open are not looked at.
    pub stays: Option<Stays>,
}

/// What came of [`Tiered::tier`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is a placeholder, durably.
    Tiered {
        /// Bytes that the disk has more.
        freed_bytes: u64,
    },
    /// Nothing was changed.
    Stays(Stays),
}

/// What becomes of recalled bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    /// The file becomes resident once all of it is here.
    Resident,
    /// It stays a placeholder (low disk mode).
    #[allow(
        dead_code,
        reason = "readers are served without keeping by `read_through`; commands do not ask for it yet"
    )]
    Placeholder,
}

/// What came of [`Tiered::recall`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Recalled {
    /// Bytes that came from the share.
    pub fetched_bytes: u64,
    /// What the file is now.
    pub residency: Residency,
}

/// Why a call came to nothing. The file is as it was, or a placeholder with more or fewer bytes present.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum TieredError {
    /// No such file is agreed on here.
    #[error("there is no such file in the endpoint")]
    NoFile,
    /// The gate does not serve the endpoint now.
    #[error("the endpoint is not mounted")]
    NotMounted,
    /// Given up by [`Cancel`].
    #[error("the recall was cancelled")]
    Cancelled,
    /// Its mark is damaged or another file's.
    #[error("the file's mark is damaged or another file's: its bytes cannot be had")]
    Orphaned,
    /// The share could not give the bytes, or not in time.
    #[error("fetch from the share: {0}")]
    Share(Box<str>),
    /// The share has other bytes than it should have, or lacks them.
    #[error("the share's copy is damaged: {0}")]
    Damaged(Box<str>),
    /// Some files could not be brought back.
    #[error("{count} files are tiered and could not be recalled, the last one {why}")]
    Left {
        /// How many.
        count: u64,
        /// Why the last one could not.
        why: Box<str>,
    },
    /// The disk is full.
    #[error("the disk is full")]
    NoSpace,
    /// The volume has no room for everything that is tiered.
    #[error("{bytes} bytes are to be recalled, and the volume has room for {room_bytes}")]
    NoRoom {
        /// How many are tiered.
        bytes: u64,
        /// How many may come.
        room_bytes: u64,
    },
    /// Somebody looks at the files past the gate.
    #[error("{0}")]
    Watched(Box<str>),
    /// A system call or the state database failed.
    #[error("{0}")]
    Disk(Box<str>),
}

/// Ends a recall from another thread. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Ends it; it answers within some 20 ms.
    pub(crate) fn cancel(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether it was ended.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Who uses a file through the gate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Use {
    /// Which node; `None` while the file was never synced.
    pub node: Option<NodeUid>,
    /// The program, as the kernel names the calling thread; empty when it cannot be asked.
    pub program: Program,
    /// User.
    pub uid: u32,
    /// The calling thread, 0 when it is of another PID namespace.
    pub pid: u32,
}

/// What somebody opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Opened {
    /// For writing.
    pub for_writing: bool,
    /// All of its bytes are here.
    pub is_resident: bool,
    /// Its size, as users see it.
    pub size: u64,
}

/// Told of uses; asked before bytes are fetched for a reader. Called on the gate's threads: must not wait for the disk or the share,
/// and must not call [`Tiered`] back.
pub(crate) trait Uses: Debug + Send + Sync {
    /// A program opened a file.
    fn opened(&self, who: &Use, what: &Opened);

    /// A program reads so many bytes that are absent: what may it have? Asked once for each read that would wait.
    fn may_recall(&self, who: &Use, bytes: u64) -> Allowance;

    /// Bytes came because this program asked for them, or because its reading on was foreseen. Told before the program has them.
    fn recalled(&self, who: &Use, bytes: u64);

    /// The agent served bytes of a placeholder that were here before anybody asked for them.
    fn read(&self, bytes: u64);
}

impl Tiered {
    /// Of which endpoint.
    pub(crate) fn endpoint(&self) -> EndpointId {
        self.0.endpoint
    }

    /// Whether two handles are of the same mount.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Number of the device that holds the real tree: endpoints of one volume have one.
    pub(crate) fn device(&self) -> u64 {
        self.0.root.device()
    }

    /// Readers of the state database of this life.
    pub(crate) fn readers(&self) -> StateReaders {
        let source = self.0.source.lock().expect(LOCK).clone();
        let readers = source.map(|source| source.readers);
        // Before the first life there is nothing to be read; then these fail.
        readers.unwrap_or_else(|| {
            StateReaders::new(self.0.root.database_path(), polder_types::CaseRule::default())
        })
    }

    /// The volume as policies see it now.
    pub(crate) fn volume(&self) -> Result<polder_tiering::Volume, TieredError> {
        let volume = polder_replica::Volume::of(&self.0.root).map_err(|error| disk(&error))?;
        let cluster_bytes = volume.cluster_bytes;
        Ok(polder_tiering::Volume { bytes: volume.bytes, free_bytes: volume.free_bytes, cluster_bytes })
    }

    /// Regular files that are agreed on with the share, with ids after `after`, in the order of ids, at most `count_max`; fewer only at the end.
    pub(crate) fn files(
        &self,
        after: Option<NodeUid>,
        count_max: usize,
    ) -> Result<Vec<TieredFile>, TieredError> {
        self.0.list(after, count_max)
    }

    /// One of them.
    pub(crate) fn file(&self, node: NodeUid) -> Result<TieredFile, TieredError> {
        let row = self.0.row(node)?;
        let path = self.0.path_of(node)?.ok_or(TieredError::NoFile)?;
        self.0.facts(&row, path)
    }

    /// The node at a path, as agreed with the share.
    pub(crate) fn node_at(&self, path: &RelPath) -> Result<Option<NodeUid>, TieredError> {
        self.0.node_at(path)
    }

    /// Whether a file's bytes are here.
    pub(crate) fn residency(&self, node: NodeUid) -> Result<Residency, TieredError> {
        let row = self.0.row(node)?;
        Ok(self.0.residency_of(row.stamp.ident)?)
    }

    /// Gives a file's bytes up. All that must hold is checked at that moment: its content is the committed version, all packs of it are
    /// verified (asks the service), nobody has it open or mapped. Of a placeholder it frees what is present. Waits for the network and the disk.
    ///
    /// Several files cost one question to the service; the answers are in their order.
    pub(crate) fn tier_files(&self, nodes: &[NodeUid]) -> Vec<Result<Outcome, TieredError>> {
        self.0.give_up_all(nodes)
    }

    /// Brings whole files back; the answers are in their order. Waits until they are here, `cancel` ends it, or the share gives up. What small
    /// files lack comes with one request where it lies together.
    pub(crate) fn recall_files(
        &self,
        nodes: &[NodeUid],
        lane: Lane,
        keep: Keep,
        cancel: &Cancel,
    ) -> Vec<Result<Recalled, TieredError>> {
        let brought = match keep {
            Keep::Resident if nodes.len() > 1 => self.0.bring_together(nodes, cancel),
            _ => BTreeMap::new(),
        };
        let each = |node: &NodeUid| match brought.get(node) {
            Some(bytes) => Ok(Recalled { fetched_bytes: *bytes, residency: Residency::Resident }),
            None => self.recall(*node, lane, keep, cancel),
        };
        nodes.iter().map(each).collect()
    }

    fn recall(
        &self,
        node: NodeUid,
        lane: Lane,
        keep: Keep,
        cancel: &Cancel,
    ) -> Result<Recalled, TieredError> {
        let ident = self.0.row(node)?.stamp.ident;
        let before = match self.0.residency_of(ident)? {
            Residency::Resident => return Ok(Recalled { fetched_bytes: 0, residency: Residency::Resident }),
            Residency::Orphaned => return Err(TieredError::Orphaned),
            Residency::Tiered { present_bytes } => present_bytes,
        };
        let size = self.0.bring_whole(ident, lane, keep, None, &|| cancel.is_cancelled())?;
        let residency = self.residency(node)?;
        Ok(Recalled { fetched_bytes: size.saturating_sub(before), residency })
    }

    /// Whether placeholders may be made of what comes from the share.
    pub(crate) fn takes_arrivals(&self) -> bool {
        self.0.takes_arrivals.load(Ordering::Acquire) && self.0.watch.ensure_free().is_ok()
    }

    /// What the engine tells of how far the share is known.
    pub(crate) fn set_caught_up(&self, caught_up: bool) {
        self.0.caught_up.store(caught_up, Ordering::Release);
    }

    /// Lends what the present life of the endpoint has; before the first one, readers of absent bytes wait.
    pub(crate) fn lend(&self, fetcher: Fetcher, readers: StateReaders) {
        *self.0.source.lock().expect(LOCK) = Some(Source { fetcher, readers });
    }

    /// Who changes files without any news, for those who watch the disk.
    pub(crate) fn quiet(&self) -> Arc<Quiet> {
        Arc::clone(&self.0.quiet)
    }

    /// What recalled files hold, for those who look at the disk.
    pub(crate) fn known(&self) -> Arc<Known> {
        Arc::clone(&self.0.known)
    }

    /// Names in directories are about to stand for something else by our own doing; until what is answered is dropped, which comes after
    /// [`Tiered::names_changed`], no program changes by them what the kernel does not show it.
    pub(crate) fn names_move<'a>(
        &self,
        names: impl IntoIterator<Item = (Option<FileIdent>, &'a [u8])>,
    ) -> Option<Moving> {
        let node = |dir: FileIdent| self.0.tree.node_of_inode(dir.ino, dir.generation);
        // A directory that is made only now is not in the kernel's cache.
        let names = names.into_iter().filter_map(|(dir, name)| Some((node(dir?)?, name)));
        Some(self.0.gate()?.moving(names))
    }

    /// Names in a directory stand for something else by our own doing: the kernel is to ask again. No lock may be held that a reader needs.
    pub(crate) fn names_changed<'a>(&self, dir: FileIdent, names: impl IntoIterator<Item = &'a [u8]>) {
        let node = self.0.tree.node_of_inode(dir.ino, dir.generation);
        if let (Some(gate), Some(node)) = (self.0.gate(), node) {
            let _ = gate.names_changed(node, names);
        }
    }

    /// Attributes of a node were changed by our own doing.
    pub(crate) fn node_changed(&self, ident: FileIdent) {
        if let (Some(gate), Some(node)) =
            (self.0.gate(), self.0.tree.node_of_inode(ident.ino, ident.generation))
        {
            let _ = gate.node_changed(node);
        }
    }
}

fn disk(error: &(dyn std::error::Error + 'static)) -> TieredError {
    TieredError::Disk(crate::status::chain(error).into())
}

impl Inner {
    fn gate(&self) -> Option<Gate> {
        self.gate.lock().expect(LOCK).clone()
    }

    fn source(&self) -> Result<Source, Failed> {
        let source = self.source.lock().expect(LOCK).clone();
        source.ok_or_else(|| Failed::Share("the endpoint is only just starting".into()))
    }

    fn fetcher(&self) -> Result<Fetcher, Failed> {
        Ok(self.source()?.fetcher)
    }

    fn node(&self, ident: FileIdent) -> Result<Node, Failed> {
        self.tree
            .node_of_inode(ident.ino, ident.generation)
            .ok_or_else(|| Failed::Disk("the file system's inode numbers are too large".into()))
    }

    /// Whether a file's bytes are here. The file is not opened, which might wait for a lease.
    fn residency_of(&self, ident: FileIdent) -> Result<Residency, Failed> {
        let disk = |errno: polder_gate::errno::Errno| Failed::Disk(errno.to_string().into());
        let file = self.tree.path_to(self.node(ident)?).map_err(disk)?;
        self.residency_in(file.as_fd(), ident)
    }

    /// The same with a descriptor at hand.
    fn residency_in(&self, file: BorrowedFd<'_>, ident: FileIdent) -> Result<Residency, Failed> {
        let disk = |errno: polder_gate::errno::Errno| Failed::Disk(errno.to_string().into());
        let marks = marks::Marks { root: Arc::clone(&self.root), changes: Arc::clone(&self.changes) };
        Ok(match marks.marked(file, c"").map_err(disk)? {
            Marked::No => Residency::Resident,
            Marked::Copy(_) | Marked::Damaged => Residency::Orphaned,
            Marked::Ours(_) => {
                let state = self.files.find(ident);
                let present_bytes =
                    state.and_then(|state| state.lock().as_ref().map(files::Held::present_bytes));
                Residency::Tiered { present_bytes: present_bytes.unwrap_or(0) }
            }
        })
    }

    /// A wait for the share that begins now.
    fn wait(&self) -> Wait<'_, impl Fn() -> u64> {
        let came = || {
            let source = self.source.lock().expect(LOCK);
            source.as_ref().map_or(0, |source| source.fetcher.remote.moved_bytes().1)
        };
        Wait::new(&self.patience, came)
    }

    /// Has bytes fetched and waits until they are here, or none come any more.
    fn wait_for(
        &self,
        ident: FileIdent,
        lane: Lane,
        stream: u64,
        (offset, len): (u64, u64),
        cause: Option<Cause>,
        is_over: &dyn Fn() -> bool,
    ) -> Result<(), TieredError> {
        let state = self.files.get(ident);
        // Which pieces are absent is known once the file is taken up; the first piece is fetched by whoever takes it up.
        let (size, absent) = {
            let held = state.lock();
            let last = offset.saturating_add(len.max(1)) / PIECE_BYTES + 1;
            match &*held {
                Some(held) => {
                    let pieces = held.pledge.size.div_ceil(PIECE_BYTES);
                    let to = (last + AHEAD_PIECES).min(pieces);
                    (held.pledge.size, held.absent(offset / PIECE_BYTES..to))
                }
                None => (u64::MAX, (offset / PIECE_BYTES..last).collect()),
            }
        };
        let len = len.min(WINDOW_BYTES);
        let wish = Wish { lane, key: key_of(ident), stream, offset, len, size, absent, cause };
        let wait = self.wait();
        self.queue.wait_for(&wish, &|| wait.is_over(), is_over)
    }

    /// Brings a whole placeholder; its size. Nothing is done for a resident file.
    fn bring_whole(
        &self,
        ident: FileIdent,
        lane: Lane,
        keep: Keep,
        cause: Option<&Cause>,
        is_over: &dyn Fn() -> bool,
    ) -> Result<u64, TieredError> {
        let state = self.files.get(ident);
        let begin = Instant::now();
        if !self.take_up_retrying(ident, &state, begin, is_over)? {
            return Ok(0);
        }
        if keep == Keep::Resident {
            state.wants_whole.store(true, Ordering::Release);
        }
        let (mut offset, mut size) = (0, 0);
        loop {
            size = match &*state.lock() {
                Some(held) => held.pledge.size,
                // Resident by now; or taken back by an error, which the caller sees by the mark.
                None => break,
            };
            if offset >= size {
                break;
            }
            let range = (offset, WINDOW_BYTES.min(size - offset));
            self.wait_for(ident, lane, u64::MAX, range, cause.cloned(), is_over)?;
            offset += WINDOW_BYTES;
        }
        self.settle_if_whole(ident, &state);
        Ok(size)
    }

    /// Takes a placeholder up, trying again while the share cannot be reached.
    fn take_up_retrying(
        &self,
        ident: FileIdent,
        state: &files::FileState,
        begin: Instant,
        is_over: &dyn Fn() -> bool,
    ) -> Result<bool, TieredError> {
        loop {
            let outcome = self.take_up(ident, state);
            let is_away = matches!(outcome, Err(Failed::Share(_)));
            if !is_away || self.patience.is_over(begin.elapsed()) || self.queue.is_ended() {
                return outcome.map_err(TieredError::from);
            }
            if is_over() {
                return Err(TieredError::Cancelled);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
