//! The worker's side of a connection: threads that read requests and have them answered.
//!
//! One thread, the leader, reads and answers what needs no waiting. A watch looks every half millisecond whether the leader is stuck in one
//! request; then another reader becomes leader, and the old one stands by when it is done. What may wait runs on [`Pool`].
//!
//! The leader looks again before it sleeps where that pays (`spin.rs`).

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::device::{Device, Read};
use crate::fs::{Answer, Call, FileSystem, Leaves, Opens, Stop};
use crate::interrupt::Interrupt;
use crate::pool::{AbortOnPanic, Interrupts, Pool};
use crate::ports::{Content, Namespace, Node};
use crate::proto::{
    IO_BYTES_MAX, InitIn, InitOut, MAJOR, MINOR_MIN, Notice, Operation, RESENT, Request, decode, init,
};
use crate::rights;
use crate::shared::{FLIGHT_SLOTS, Shared, lock};
use crate::spin::Spin;

/// How often the watch looks.
const TICK: Duration = Duration::from_micros(500);
/// Threads that may lead.
const READERS_MAX: usize = 8;
/// Reads ahead, releases and the like that the kernel has on their way at once.
const BACKGROUND_MAX: u16 = 4096;

/// Why a worker cannot serve a connection.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// A system call failed.
    #[error("{doing}")]
    System {
        /// What was being done.
        doing: &'static str,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// A thread could not be started.
    #[error("start a thread of the gate")]
    Thread(#[source] std::io::Error),
    /// The kernel's FUSE is too old, or lacks what rights and bytes depend on.
    #[error("the kernel's FUSE is {major}.{minor} with flags {flags:#x}; 7.40 (Linux 6.9) is needed")]
    Unsupported {
        /// Version.
        major: u32,
        /// Version.
        minor: u32,
        /// What it offers.
        flags: u64,
    },
    /// The mount is gone, or the connection was aborted.
    #[error("the mount is gone")]
    Closed,
}

trait Doing<T> {
    fn doing(self, doing: &'static str) -> Result<T, GateError>;
}

impl<T> Doing<T> for Result<T, Errno> {
    fn doing(self, doing: &'static str) -> Result<T, GateError> {
        self.map_err(|source| GateError::System { doing, source })
    }
}

struct Standby {
    /// A reader that is offered the lead takes this token.
    offered: Option<u64>,
    idle: usize,
    readers: usize,
}

struct Session {
    device: Device,
    fs: FileSystem,
    shared: Arc<Shared>,
    /// For what may wait for the share.
    pool: Pool,
    /// For what waits for the disk: readers of absent ranges must not keep it.
    disk_pool: Pool,
    interrupts: Interrupts,
    /// Words in which threads of the pools note what they answer; readers have the first ones.
    flights: Mutex<Vec<usize>>,
    can_spin: bool,
    /// Who leads.
    lead: AtomicU64,
    /// Odd while the leader answers a request.
    serial: AtomicU64,
    is_leader_asleep: AtomicBool,
    is_watch_awake: AtomicBool,
    watch: Mutex<Option<std::thread::Thread>>,
    standby: Mutex<Standby>,
    standby_wakes: Condvar,
    is_closed: AtomicBool,
    /// How it ended.
    closed: (Mutex<Option<Result<(), Errno>>>, Condvar),
}

/// A worker that serves a connection.
#[derive(Clone)]
pub struct Gate(Arc<Session>);

/// Names that are being changed beneath the mount.
pub struct Moving {
    session: Arc<Session>,
    names: Vec<(Node, CString)>,
}

impl Moving {
    /// Runs a change of them, while no name is changed through the mount. It must not wait for anybody who uses the mount.
    pub fn alone<T>(&self, change: impl FnOnce() -> T) -> T {
        self.session.fs.alone(change)
    }
}

impl Drop for Moving {
    fn drop(&mut self) {
        self.session.fs.end_motion(&self.names);
    }
}

/// How a connection is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Reads and writes of resident files go past this process, where the kernel can. Decided once for a connection.
    pub passthrough: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { passthrough: true }
    }
}

/// What a worker is handed to serve a connection with.
pub struct Connection {
    /// `/dev/fuse`, mounted.
    pub device: OwnedFd,
    /// What outlives a worker; made by [`crate::Holder`].
    pub state: OwnedFd,
}

impl Gate {
    /// Begins to serve a connection: a new one, or one whose worker has died. What that one left unanswered is answered.
    pub fn start(
        connection: Connection,
        namespace: Arc<dyn Namespace>,
        content: Arc<dyn Content>,
        settings: &Settings,
    ) -> Result<Self, GateError> {
        // On a thread of its own: the caller keeps its rights.
        let prepared = std::thread::scope(|scope| scope.spawn(rights::prepare_thread).join());
        prepared.unwrap_or(Err(Errno::IO)).doing("prepare a thread's rights")?;
        raise_descriptor_limit();
        let device = Device::new(connection.device).doing("prepare the device")?;
        let shared =
            Arc::new(Shared::take_up(connection.state).doing("take up the state of the connection")?);
        let resumed = shared.init_flags();
        let flags = match resumed {
            Some(flags) => flags,
            None => greet(&device, &shared, settings)?,
        };
        let has_passthrough = flags & init::PASSTHROUGH != 0;
        shared.blame();
        let opens = Opens::take_up(shared.clone(), Box::new(device.clone()), has_passthrough);
        let fs = FileSystem::new(namespace, content, shared.clone(), opens, Box::new(device.clone()));
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let session = Arc::new(Session {
            device,
            fs,
            shared,
            pool: Pool::default(),
            disk_pool: Pool::default(),
            interrupts: Interrupts::default(),
            flights: Mutex::new((READERS_MAX..FLIGHT_SLOTS).collect()),
            can_spin: cores > 1,
            lead: AtomicU64::new(1),
            serial: AtomicU64::new(0),
            is_leader_asleep: AtomicBool::new(false),
            is_watch_awake: AtomicBool::new(true),
            watch: Mutex::new(None),
            standby: Mutex::new(Standby { offered: None, idle: 0, readers: 0 }),
            standby_wakes: Condvar::new(),
            is_closed: AtomicBool::new(false),
            closed: (Mutex::new(None), Condvar::new()),
        });
        if resumed.is_some() {
            // Before anything is read: what this worker has read already would come again, under another number.
            session.device.tell(&Notice::Resend).doing("ask for what was not answered")?;
            // What was changed beneath the mount by the worker before, or without any, and nobody told of.
            // Before Linux 6.16 the kernel cannot be told so: such a name shows the old file until it is changed again, or falls out of the cache.
            let _ = session.device.tell(&Notice::Epoch);
        }
        session.start_reader(Some(1)).map_err(GateError::Thread)?;
        let watch = session.clone();
        let thread = std::thread::Builder::new().name("gate-watch".to_owned());
        let thread = thread.spawn(move || watch.keep_watch()).map_err(GateError::Thread)?;
        *lock(&session.watch) = Some(thread.thread().clone());
        // From here on a death is not this worker's own failure.
        session.shared.count_answer();
        Ok(Self(session))
    }

    /// Whether reads and writes of resident files go past this process. `false` when the kernel cannot, it was not wanted, or the kernel
    /// refused a file (too few rights; a real file system that is stacked itself): to be told to people, since all is slower then.
    pub fn has_passthrough(&self) -> bool {
        let is_agreed = self.0.shared.init_flags().is_some_and(|flags| flags & init::PASSTHROUGH != 0);
        is_agreed && !self.0.fs.was_passthrough_refused()
    }

    /// Waits until the mount is gone; or until the device cannot be read, which is an error.
    pub fn wait(&self) -> Result<(), GateError> {
        let mut closed = lock(&self.0.closed.0);
        loop {
            if let Some(ended) = *closed {
                return ended.doing("read the device");
            }
            closed = self.0.closed.1.wait(closed).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// How many files are open through the mount.
    pub fn open_count(&self) -> usize {
        self.0.fs.open_count()
    }

    /// Names in a directory stand for something else now, or for nothing, by other hands than the mount's. Must not be called with a
    /// lock held that a port needs: the kernel waits for answers that are under way in the directory.
    pub fn names_changed<'a>(
        &self,
        directory: Node,
        names: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<(), Errno> {
        // A directory that the kernel does not know has no names in its cache, and what it looks up from here on is as it is now.
        let is_known = self.0.device.tell(&Notice::Node { node: directory.0, data: true })?;
        let mut names = names.into_iter().filter(|_| is_known);
        names.try_for_each(|name| self.0.device.tell(&Notice::Name { parent: directory.0, name }).map(drop))
    }

    /// Names will be changed beneath the mount. Until what is answered is dropped, which comes after [`Gate::names_changed`], nobody renames or
    /// removes by them what the kernel does not show there. Those that no request can name are passed over.
    pub fn moving<'a>(&self, names: impl IntoIterator<Item = (Node, &'a [u8])>) -> Moving {
        let name = |(node, name): (Node, &[u8])| Some((node, CString::new(name).ok()?));
        let moving =
            Moving { session: Arc::clone(&self.0), names: names.into_iter().filter_map(name).collect() };
        self.0.fs.begin_motion(&moving.names);
        moving
    }

    /// Attributes or bytes of a node have changed by other hands than the mount's. The same holds as for [`Gate::names_changed`].
    pub fn node_changed(&self, node: Node) -> Result<(), Errno> {
        self.0.device.tell(&Notice::Node { node: node.0, data: true }).map(drop)
    }

    /// A lease has shown that nobody can write to the node: the kernel may keep its attributes again.
    pub fn settled(&self, node: Node) {
        self.0.fs.settle(node);
    }

    /// Somebody may still write to the node through a mapping: known to whoever remembers it from before this worker.
    pub fn unsettled(&self, node: Node) {
        self.0.fs.unsettle(node);
        let _ = self.0.device.tell(&Notice::Node { node: node.0, data: false });
    }
}

/// One descriptor is held for each open file. Where more are not allowed, opens beyond fail with EMFILE.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

/// Waits for INIT and answers it.
fn greet(device: &Device, shared: &Shared, settings: &Settings) -> Result<u64, GateError> {
    let wanted = if settings.passthrough { init::WANTED } else { init::WANTED & !init::PASSTHROUGH };
    let mut buffer = crate::device::request_buffer();
    loop {
        match device.read(&mut buffer).doing("read the device")? {
            Read::Nothing => device.wait().doing("wait for the device")?,
            Read::Closed => return Err(GateError::Closed),
            Read::Request(count) => {
                let Ok(request) = decode(&buffer[..count]) else { continue };
                let Operation::Init(asked) = request.operation else { continue };
                return answer_init(device, shared, request.header.unique, &asked, wanted);
            }
        }
    }
}

/// Answers INIT. The agreed flags are noted before: a worker that dies in between is asked again.
fn answer_init(
    device: &Device,
    shared: &Shared,
    unique: u64,
    asked: &InitIn,
    wanted: u64,
) -> Result<u64, GateError> {
    let is_known = asked.major == MAJOR && asked.minor >= MINOR_MIN;
    if !is_known || asked.flags & init::NEEDED != init::NEEDED {
        device.reply(unique, Errno::PROTO.raw_os_error(), &[]);
        return Err(GateError::Unsupported { major: asked.major, minor: asked.minor, flags: asked.flags });
    }
    let flags = asked.flags & wanted;
    shared.set_init_flags(flags);
    let mut out = Vec::with_capacity(64);
    InitOut {
        max_readahead: asked.max_readahead,
        flags,
        max_background: BACKGROUND_MAX,
        max_write: IO_BYTES_MAX,
        max_pages: (IO_BYTES_MAX / 4096) as u16,
    }
    .put(&mut out);
    device.reply(unique, 0, &out);
    Ok(flags)
}

impl Session {
    fn start_reader(self: &Arc<Self>, token: Option<u64>) -> std::io::Result<()> {
        let session = self.clone();
        let mut standby = lock(&self.standby);
        let number = standby.readers;
        let thread = std::thread::Builder::new().name("gate-read".to_owned());
        thread.spawn(move || session.be_reader(token, number))?;
        standby.readers += 1;
        Ok(())
    }

    fn be_reader(self: Arc<Self>, mut token: Option<u64>, number: usize) {
        let _bomb = AbortOnPanic;
        // On failure `Gate::start` failed too.
        let _ = rights::prepare_thread();
        let mut buffer = crate::device::request_buffer();
        let mut out = Vec::with_capacity(64 << 10);
        loop {
            if let Some(token) = token.take()
                && let Some(ended) = self.lead(token, number, &mut buffer, &mut out)
            {
                return self.close(ended);
            }
            let mut standby = lock(&self.standby);
            standby.idle += 1;
            token = loop {
                if self.is_closed.load(Ordering::Acquire) {
                    return;
                }
                if let Some(token) = standby.offered.take() {
                    break Some(token);
                }
                standby = self.standby_wakes.wait(standby).unwrap_or_else(PoisonError::into_inner);
            };
            standby.idle -= 1;
        }
    }

    fn close(&self, ended: Result<(), Errno>) {
        self.is_closed.store(true, Ordering::Release);
        drop(lock(&self.standby));
        self.standby_wakes.notify_all();
        lock(&self.closed.0).get_or_insert(ended);
        self.closed.1.notify_all();
    }

    /// Reads and answers until another leads (`None`) or the connection has ended.
    fn lead(
        self: &Arc<Self>,
        token: u64,
        number: usize,
        buffer: &mut [u8],
        out: &mut Vec<u8>,
    ) -> Option<Result<(), Errno>> {
        let mut spin = Spin::new(self.can_spin);
        while self.lead.load(Ordering::Acquire) == token {
            let count = match self.device.read(buffer) {
                Ok(Read::Request(count)) => count,
                Ok(Read::Nothing) if spin.goes_on(Instant::now) => {
                    self.fs.idle();
                    std::hint::spin_loop();
                    continue;
                }
                Ok(Read::Nothing) => {
                    self.fs.idle();
                    self.is_leader_asleep.store(true, Ordering::SeqCst);
                    if let Err(errno) = self.device.wait() {
                        return Some(Err(errno));
                    }
                    self.is_leader_asleep.store(false, Ordering::SeqCst);
                    self.wake_watch();
                    continue;
                }
                Ok(Read::Closed) => return Some(Ok(())),
                Err(errno) => return Some(Err(errno)),
            };
            let serial = self.serial.fetch_add(1, Ordering::SeqCst) + 1;
            self.take(&buffer[..count], number, out);
            let ended = self.serial.compare_exchange(serial, serial + 1, Ordering::SeqCst, Ordering::SeqCst);
            if ended.is_err() {
                // The watch has ended it: another leads, or will.
                return None;
            }
            spin.answered(Instant::now());
        }
        None
    }

    fn wake_watch(&self) {
        if !self.is_watch_awake.swap(true, Ordering::SeqCst)
            && let Some(watch) = &*lock(&self.watch)
        {
            watch.unpark();
        }
    }

    /// Gives the lead to another reader when the leader is stuck. Sleeps while the leader sleeps.
    fn keep_watch(self: Arc<Self>) {
        let _bomb = AbortOnPanic;
        let mut seen = 0;
        while !self.is_closed.load(Ordering::Acquire) {
            if self.is_leader_asleep.load(Ordering::SeqCst) {
                self.is_watch_awake.store(false, Ordering::SeqCst);
                if self.is_leader_asleep.load(Ordering::SeqCst) {
                    // A second is the price of a wake that was missed, which must not happen.
                    std::thread::park_timeout(Duration::from_secs(1));
                }
                self.is_watch_awake.store(true, Ordering::SeqCst);
            }
            std::thread::sleep(TICK);
            let serial = self.serial.load(Ordering::SeqCst);
            if serial % 2 == 1 && serial == seen {
                self.change_leader(serial);
            }
            seen = serial;
        }
    }

    fn change_leader(self: &Arc<Self>, serial: u64) {
        let mut standby = lock(&self.standby);
        if standby.idle == 0 && standby.readers >= READERS_MAX {
            return;
        }
        // Whoever ends the leader's turn first, the leader or the watch, has it.
        if self.serial.compare_exchange(serial, serial + 1, Ordering::SeqCst, Ordering::SeqCst).is_err() {
            return;
        }
        let token = self.lead.fetch_add(1, Ordering::AcqRel) + 1;
        standby.offered = Some(token);
        if standby.idle > 0 {
            self.standby_wakes.notify_one();
            return;
        }
        drop(standby);
        // Without a further thread the old leader takes the offer once it is done.
        let _ = self.start_reader(None);
    }

    /// Answers a request, here or on a thread that may wait.
    fn take(self: &Arc<Self>, bytes: &[u8], number: usize, out: &mut Vec<u8>) {
        let Ok(request) = decode(bytes) else {
            if let Some(unique) = bytes.get(8..16).and_then(|unique| unique.try_into().ok()) {
                self.reply(u64::from_ne_bytes(unique), Err(Stop::Error(Errno::IO)), &[], Leaves::default());
            }
            return;
        };
        match request.operation {
            Operation::Interrupt { unique } => {
                let interrupt = self.interrupts.notice(unique);
                if interrupt.is_some_and(|interrupt| interrupt.is_raised()) {
                    self.pool.give_up(unique);
                    self.disk_pool.give_up(unique);
                }
                return;
            }
            Operation::Init(asked) => {
                // What the dead worker had agreed to.
                let agreed = self.shared.init_flags().unwrap_or(init::WANTED);
                let _ = answer_init(&self.device, &self.shared, request.header.unique, &asked, agreed);
                return;
            }
            _ => (),
        }
        let never = Interrupt::new(0);
        let (answer, leaves) = self.answer(&request, number, &never, false, out);
        if answer != Err(Stop::WouldWait) {
            return self.reply(request.header.unique, answer, out, leaves);
        }
        let unique = request.header.unique;
        let interrupt = self.interrupts.enter(unique, request.header.pid);
        let (session, bytes) = (self.clone(), bytes.to_vec());
        let waits_for_disk = matches!(
            request.operation,
            Operation::FSync { .. }
                | Operation::FSyncDir
                | Operation::SyncFs
                | Operation::CopyFileRange { .. }
        );
        let job = move |is_given_up: bool| {
            let mut out = Vec::new();
            let (answer, leaves) = match decode(&bytes) {
                Ok(request) if !is_given_up => {
                    // More words than threads: the last one stands in should that change.
                    let number = lock(&session.flights).pop().unwrap_or(FLIGHT_SLOTS - 1);
                    let answered = session.answer(&request, number, &interrupt, true, &mut out);
                    lock(&session.flights).push(number);
                    answered
                }
                _ => (Err(Stop::Error(Errno::INTR)), Leaves::default()),
            };
            session.interrupts.leave(unique);
            session.reply(unique, answer, &out, leaves);
        };
        let pool = if waits_for_disk { &self.disk_pool } else { &self.pool };
        if pool.run(unique, Box::new(job)).is_err() {
            self.interrupts.leave(unique);
            self.reply(unique, Err(Stop::Error(Errno::NOMEM)), &[], Leaves::default());
        }
    }

    fn answer(
        &self,
        request: &Request<'_>,
        number: usize,
        interrupt: &Interrupt,
        may_wait: bool,
        out: &mut Vec<u8>,
    ) -> (Answer, Leaves) {
        out.clear();
        let unique = request.header.unique & !RESENT;
        if unique != request.header.unique && self.shared.is_poison(unique) {
            return (Err(Stop::Error(Errno::IO)), Leaves::default());
        }
        self.shared.note_flight(number, unique);
        let mut call = Call { header: &request.header, interrupt, may_wait, out, leaves: Leaves::default() };
        let answer = self.fs.answer(request, &mut call);
        self.shared.note_flight(number, 0);
        (answer, call.leaves)
    }

    fn reply(&self, unique: u64, answer: Answer, out: &[u8], leaves: Leaves) {
        let was_taken = match answer {
            Ok(()) => self.device.reply(unique, 0, out),
            // A port that is asked to wait and says that it would is broken; the caller is told an error.
            Err(Stop::WouldWait) => self.device.reply(unique, Errno::IO.raw_os_error(), &[]),
            Err(Stop::Error(errno)) => self.device.reply(unique, errno.raw_os_error(), &[]),
            Err(Stop::Silent) => true,
        };
        if answer != Err(Stop::Silent) {
            self.shared.count_answer();
        }
        self.fs.delivered(leaves, was_taken && answer.is_ok());
    }
}
