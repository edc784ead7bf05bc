//! From a root to a served mount: descriptors, threads, and their end.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use polder_gate::errno::Errno;
use polder_gate::tree::Tree;
use polder_gate::{Connection, Gate, Heirlooms, Kept, Settings, ToHolder};
use polder_replica::{Quiet, Root, RootError};
use polder_types::{Content, EndpointId, FileIdent};

use super::changes::Changes;
use super::content::Port;
use super::marks::Marks;
use super::queue::{FETCHES_MAX, Queue};
use super::removals::{Left, REMOVALS_BYTES, Removals};
use super::{Files, Inner, LOCK, Tiered, Uses};
use crate::endpoint::spawn_thread;

/// Opens that are not told of yet; beyond it some do not count.
const OPENS_UNTOLD_MAX: usize = 4096;
/// How long a mount of ours that nobody handed to us may take to say that it is dead.
const DEAD_WITHIN: Duration = Duration::from_secs(3);
/// Smaller files arrive whole: a placeholder takes an inode and a mark anyway.
const ARRIVES_TIERED_MIN: u64 = 8 * 1024;

/// What the worker and its holder say to each other about mounts.
#[derive(Default)]
pub(crate) struct Gates {
    to_holder: Option<ToHolder>,
    heirlooms: Mutex<Heirlooms>,
}

impl std::fmt::Debug for Gates {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Gates").finish_non_exhaustive()
    }
}

impl Gates {
    /// Takes what the holder handed to this process. Once, at its start.
    pub(crate) fn take() -> Self {
        Self { to_holder: ToHolder::take(), heirlooms: Mutex::new(Heirlooms::take()) }
    }

    /// The mount of an endpoint that the worker before this one served.
    pub(crate) fn inherited(&self, endpoint: EndpointId) -> Option<Kept> {
        self.heirlooms.lock().expect(LOCK).remove(&endpoint.0)
    }
}

/// An endpoint whose gate is mounted and served.
pub(crate) struct Mounted {
    /// Its files.
    pub tiered: Tiered,
    /// Its root, open and locked for as long as the mount is served.
    pub root: Arc<Root>,
    gate: Gate,
}

/// Whether a content can stand behind a placeholder.
pub(crate) fn may_be_placeholder(content: &Content) -> bool {
    matches!(content, Content::File { .. }) && content.size() >= ARRIVES_TIERED_MIN
}

/// Takes away a mount of ours that a dead agent left at a path.
pub(crate) fn clear_dead(path: &Path) -> Result<()> {
    // Of a dead mount nothing can be asked, its own path neither.
    let above = path.parent().and_then(|above| std::fs::canonicalize(above).ok());
    let path = match (above, path.file_name()) {
        (Some(above), Some(name)) => &above.join(name),
        _ => path,
    };
    if !polder_gate::is_mounted(path) {
        return Ok(());
    }
    // Asked by another thread: one that is alive may not answer.
    let (tell, told) = mpsc::channel();
    let asked = path.to_owned();
    std::thread::spawn(move || {
        let _ = tell.send(std::fs::metadata(&asked).err().and_then(|error| error.raw_os_error()));
    });
    const ENOTCONN: i32 = 107;
    match told.recv_timeout(DEAD_WITHIN) {
        Ok(Some(ENOTCONN)) => {
            let count = polder_gate::clear_stale(path).context("take a dead mount away")?;
            tracing::info!(count, "mounts that a dead agent left were taken away");
            Ok(())
        }
        _ => bail!("another agent serves \"{}\"", path.display()),
    }
}

impl Mounted {
    /// Mounts the gate over a tiered root, or goes on with the mount of the worker before. `uses` is told of the first open already.
    pub(crate) fn start(
        gates: &Gates,
        endpoint: EndpointId,
        root: Arc<Root>,
        uses: Arc<dyn Uses>,
        inherited: Option<Connection>,
    ) -> Result<Self> {
        let changes: Arc<Changes> = Arc::default();
        let marks = Marks { root: Arc::clone(&root), changes: Arc::clone(&changes) };
        let tree = Tree::open(root.tree(), Arc::new(marks)).context("open the tree")?;
        let by_descriptor = format!("/proc/self/fd/{}", root.base().as_raw_fd());
        let point = std::fs::read_link(by_descriptor).context("find the mount point")?;
        let (opened, opens) = mpsc::sync_channel(OPENS_UNTOLD_MAX);
        let inner = Arc::new(Inner {
            endpoint,
            root: Arc::clone(&root),
            point,
            tree: Arc::new(tree),
            changes,
            removals: Removals::default(),
            files: Files::default(),
            queue: Queue::default(),
            patience: Default::default(),
            known: Arc::default(),
            quiet: Quiet::new().context("have quiet threads")?,
            uses,
            source: Mutex::default(),
            gate: Mutex::default(),
            opened,
            takes_arrivals: AtomicBool::new(true),
            caught_up: AtomicBool::new(false),
            watch: Default::default(),
            doing: Mutex::default(),
        });
        for _ in 0..FETCHES_MAX {
            let inner = Arc::clone(&inner);
            spawn_thread("recall", move || inner.fetch_pieces());
        }
        let teller = Arc::downgrade(&inner);
        spawn_thread("opens", move || {
            // Ends with the last of those who can tell.
            while let Ok(opened) = opens.recv() {
                if let Some(inner) = teller.upgrade() {
                    inner.tell_of_open(opened);
                }
            }
        });
        let gate = serve(gates, endpoint, &root, &inner, inherited)?;
        if !gate.has_passthrough() {
            tracing::warn!(
                "the kernel does not let reads and writes past the gate: all go through the agent, and are slower"
            );
        }
        *inner.gate.lock().expect(LOCK) = Some(gate.clone());
        super::watch::begin(&inner);
        Ok(Self { tiered: Tiered(inner), root, gate })
    }

    /// Whether it is still there: somebody may have taken the mount away.
    pub(crate) fn is_served(&self) -> bool {
        polder_gate::is_mounted(&self.tiered.0.point)
    }

    /// Takes the mount away for good, if nobody uses it; the files stay where they are. Else all is as it was, and who does is said.
    pub(crate) fn take_away(self, gates: &Gates) -> Result<Arc<Root>, (Box<Self>, String)> {
        match polder_gate::unmount_unused(&self.tiered.0.point) {
            Ok(()) => (),
            Err(Errno::BUSY) => {
                let why = super::looks::who_uses(&self.tiered.0.point);
                let why = why.unwrap_or_else(|| "the folder is in use".to_owned());
                return Err((Box::new(self), why));
            }
            Err(errno) => return Err((Box::new(self), format!("the mount cannot be taken away: {errno}"))),
        }
        let Self { tiered, root, gate } = self;
        if let Some(to_holder) = &gates.to_holder {
            let _ = to_holder.forget(&tiered.endpoint().0);
        }
        tiered.0.queue.end();
        *tiered.0.gate.lock().expect(LOCK) = None;
        drop(gate);
        Ok(root)
    }

    /// Takes the mount away for good, and puts the files where the mount was; the root as it is then, under the same lock. Programs that
    /// have files open go on until they close them. While anything is tiered the files stay where they are, and the root stays tiered:
    /// outside nobody could read them.
    pub(crate) fn leave(self, gates: &Gates) -> Result<Root> {
        let Self { tiered, root, gate } = self;
        polder_gate::unmount(&tiered.0.point).context("take the mount away")?;
        if let Some(to_holder) = &gates.to_holder {
            let _ = to_holder.forget(&tiered.endpoint().0);
        }
        tiered.0.queue.end();
        // Its threads go on until the last file is closed; then what they hold goes: files that nobody could tier while it is open here.
        *tiered.0.gate.lock().expect(LOCK) = None;
        drop(gate);
        if let Err(error) = polder_replica::lay_back(&root, &mut |_| true) {
            tracing::warn!(error = crate::status::chain(&error), "the files are not put back");
        }
        match root.anew() {
            Err(RootError::Unfinished { .. }) => {
                polder_replica::go_on(root.path(), &mut |_| true).context("put the files back")?;
                root.anew().context("open the folder")
            }
            root => root.context("open the folder"),
        }
    }
}

fn serve(
    gates: &Gates,
    endpoint: EndpointId,
    root: &Root,
    inner: &Arc<Inner>,
    inherited: Option<Connection>,
) -> Result<Gate> {
    let start = |connection: Connection| {
        // Before anybody is served: who writes to a file without a mark relies on it.
        settle_removals(inner, &connection)?;
        let memory = connection.state.try_clone().map_err(anyhow::Error::from);
        let changes_at = polder_gate::STATE_BYTES + REMOVALS_BYTES;
        let kept = memory.and_then(|memory| Ok(inner.changes.keep_in(memory, changes_at)?));
        if let Err(error) = kept {
            tracing::warn!(error = format!("{error:#}"), "change times do not outlive this worker");
        }
        let port = Arc::new(Port(Arc::clone(inner)));
        let gate = Gate::start(connection, Arc::clone(&inner.tree) as _, port, &Settings::default());
        gate.context("serve the mount")
    };
    if let Some(connection) = inherited {
        match start(connection) {
            Ok(gate) => {
                tracing::info!("the mount of the worker before is served on");
                return Ok(gate);
            }
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "the mount is made anew");
                let _ = polder_gate::unmount(&inner.point);
            }
        }
    }
    // A mark that was removed just before a crash may be gone for us and not for the disk, and nobody knows of which file.
    root.make_durable().context("make the volume durable")?;
    let base: OwnedFd = root.base().try_clone_to_owned().context("keep the directory below the mount")?;
    let connection = polder_gate::mount_over(&base).context("mount the gate")?;
    if let Some(to_holder) = &gates.to_holder
        && let Err(error) = to_holder.keep(&endpoint.0, &inner.point, &connection, base.as_fd())
    {
        let _ = polder_gate::unmount(&inner.point);
        return Err(error).context("have the holder keep the mount");
    }
    let gate = start(connection);
    match &gate {
        Ok(_) => tracing::info!(path = %inner.point.display(), "the gate is mounted"),
        Err(_) => {
            let _ = polder_gate::unmount(&inner.point);
        }
    }
    gate
}

/// Makes the removals of marks durable within which the worker before died.
fn settle_removals(inner: &Inner, connection: &Connection) -> Result<()> {
    let memory = connection.state.try_clone().context("share the memory of the connection")?;
    let left = inner.removals.keep_in(memory, polder_gate::STATE_BYTES).context("read what was left")?;
    let durable = |ident: &FileIdent| {
        let Some(node) = inner.tree.node_of_inode(ident.ino, ident.generation) else { return false };
        match inner.tree.open_file(node, false, false, false) {
            Ok(file) => polder_replica::make_file_durable(&file).is_ok(),
            Err(errno) => matches!(errno, Errno::NOENT | Errno::STALE),
        }
    };
    if !matches!(&left, Left::Of(files) if files.iter().all(durable)) {
        inner.root.make_durable().context("make the volume durable")?;
    }
    inner.removals.settled().context("note that all is durable")
}
