//! The tiered files of an endpoint: which bytes are here, giving them up, bringing them back.
//!
//! [`Tiered`] is the one handle that the policy runner, commands, metrics and the gate use. It decides nothing: who leaves is chosen by
//! `polder_tiering`, what a program may do by whoever implements [`Uses`].
//!
//! Every call may be made from any thread, and none from a thread that the gate waits for. `docs/design/2026-11-30-tiered-endpoint.md`.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use polder_replica::StateReaders;
use polder_tiering::{Allowance, Lane, Program, Stays};
use polder_types::{EndpointId, NodeUid, RelPath};

/// The tiered files of one endpoint, while its gate is mounted and served. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Tiered(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    endpoint: EndpointId,
    uses: std::sync::RwLock<Arc<dyn Uses>>,
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
#[derive(Debug, thiserror::Error)]
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
    /// The disk is full.
    #[error("the disk is full")]
    NoSpace,
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

    /// Bytes were fetched because this program asked for them.
    fn recalled(&self, who: &Use, bytes: u64);

    /// The agent served bytes that were here already.
    fn read(&self, who: &Use, bytes: u64);
}

/// Everybody may recall; nothing is remembered.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct NoRules;

impl Uses for NoRules {
    fn opened(&self, _: &Use, _: &Opened) {}

    fn may_recall(&self, _: &Use, _: u64) -> Allowance {
        Allowance::Recall
    }

    fn recalled(&self, _: &Use, _: u64) {}

    fn read(&self, _: &Use, _: u64) {}
}

impl Tiered {
    /// Of which endpoint.
    pub(crate) fn endpoint(&self) -> EndpointId {
        self.0.endpoint
    }

    /// Whether two handles are of the same life of the endpoint.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Who is told of uses from now on.
    pub(crate) fn set_uses(&self, uses: Arc<dyn Uses>) {
        *self.0.uses.write().expect("no holder of this lock panics") = uses;
    }

    /// Number of the device that holds the real tree: endpoints of one volume have one.
    pub(crate) fn device(&self) -> u64 {
        0
    }

    /// Readers of the state database of this life.
    pub(crate) fn readers(&self) -> StateReaders {
        StateReaders::new(std::path::PathBuf::new(), polder_types::CaseRule::default())
    }

    /// The volume as policies see it now.
    pub(crate) fn volume(&self) -> Result<polder_tiering::Volume, TieredError> {
        Err(TieredError::NotMounted)
    }

    /// Regular files that are agreed on with the share, with ids after `after`, in the order of ids, at most `count_max`; fewer only at the end.
    pub(crate) fn files(
        &self,
        _after: Option<NodeUid>,
        _count_max: usize,
    ) -> Result<Vec<TieredFile>, TieredError> {
        Err(TieredError::NotMounted)
    }

    /// One of them.
    pub(crate) fn file(&self, _node: NodeUid) -> Result<TieredFile, TieredError> {
        Err(TieredError::NotMounted)
    }

    /// The node at a path, as agreed with the share.
    pub(crate) fn node_at(&self, _path: &RelPath) -> Result<Option<NodeUid>, TieredError> {
        Err(TieredError::NotMounted)
    }

    /// Whether a file's bytes are here.
    pub(crate) fn residency(&self, _node: NodeUid) -> Result<Residency, TieredError> {
        Err(TieredError::NotMounted)
    }

    /// Gives a file's bytes up. All that must hold is checked at that moment: its content is the committed version, all packs of it are
    /// verified (asks the service), nobody has it open or mapped. Of a placeholder it frees what is present. Waits for the network and the disk.
    pub(crate) fn tier(&self, _node: NodeUid) -> Result<Outcome, TieredError> {
        Err(TieredError::NotMounted)
    }

    /// Brings a whole file back. Waits until it is here, `cancel` ends it, or the share gives up.
    pub(crate) fn recall(
        &self,
        _node: NodeUid,
        _lane: Lane,
        _keep: Keep,
        _cancel: &Cancel,
    ) -> Result<Recalled, TieredError> {
        Err(TieredError::NotMounted)
    }
}
