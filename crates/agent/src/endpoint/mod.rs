//! One endpoint: a thread that waits for the root, and then lives with it.
//!
//! A *life* ([`life`]) begins when the root was proven and ends when it is lost, when the service demands a new instance, or
//! when the endpoint is removed. Everything of a life (engine, database, jobs) is made anew with it: what must survive
//! is in the database.

mod apply;
mod changes;
mod clear;
pub(crate) mod disk;
mod displaced;
mod expiry;
mod explain;
mod jobs;
mod life;
mod line;
mod network;
mod pins;
mod rate;
mod root;
mod settings;
mod turn;

pub(crate) use clear::{Clear, ensure_agreed};
pub(crate) use expiry::let_go_of_known;
pub(crate) use explain::Explained;
pub(crate) use root::path;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use polder_api::grpc::convert::Assignment;
use polder_engine::{Command, Event, Unreachable};
use polder_types::{Cursor, EndpointId};
use tokio::runtime::Handle;

use crate::connection::Client;
use crate::policy::Desk;
use crate::status::Extra;
use crate::tiered::{Gates, Mounted, Tiered};
use crate::{StateDir, status};

/// A connection to the service in which a session stands.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    /// For calls.
    pub client: Client,
    /// For the bytes of packs.
    pub http: reqwest::Client,
    /// Address of the service.
    pub base: Arc<str>,
    /// Of this process, as told in the session's first message.
    pub process_nonce: [u8; 16],
    /// Tells one session from the next: facts of an earlier one are dropped.
    pub number: u64,
}

/// What reaches an endpoint's thread.
pub(crate) enum Input {
    /// A fact for the engine.
    Fact(Event),
    /// A fact of the network, with what the agent itself must do about it.
    Network(network::Outcome),
    /// A session stands.
    Up(Link),
    /// There is none.
    Down(Unreachable),
    /// The share's head moved.
    Head(Cursor),
    /// New settings.
    Settings(Box<Assignment>),
    /// Somebody wants something.
    Command(Command),
    /// Why is this path as it is?
    Explain(polder_types::RelPath, Sender<Result<Explained, String>>),
    /// A decision about extras; answered with their number, once it is durable.
    Review(Decision, Sender<u64>),
    /// Uses that count, each at a second since 1970: noted with the next commit.
    Uses(Vec<(polder_types::NodeUid, u32)>),
    /// What came as names alone was brought in the background, as much of it as there is room for.
    Brought,
    /// Take the mount away and remove what the share has; answered once it is done, or with why it cannot be now.
    Clear(Clear),
    /// Keep a path here with all below it, or no longer; answered once that is durable.
    Pin(polder_types::RelPath, bool, Sender<Result<Pinned, String>>),
    /// Go.
    End,
}

/// What came of a pin or its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pinned {
    /// It is as was wished.
    Changed,
    /// It was so already.
    Already,
    /// Nothing of that path was agreed on with the share.
    NoSuch,
    /// The endpoint has as many pins as it may have.
    TooMany,
}

/// What a person has decided about extras of a long absence.
#[derive(Debug, Clone)]
pub(crate) struct Decision {
    /// Upload them; else they go to the recycle area.
    pub accept: bool,
    /// At and below these paths; none: all of them.
    pub paths: Vec<polder_types::RelPath>,
}

/// Where facts are sent.
#[derive(Debug, Clone)]
pub(crate) struct Facts(Sender<Input>);

impl Facts {
    /// For tests of parts that send facts which nobody waits for.
    #[cfg(test)]
    pub(crate) fn to_nobody() -> Self {
        Self(std::sync::mpsc::channel().0)
    }

    /// Sends a fact. When the endpoint has ended nobody wants it.
    pub(crate) fn send(&self, event: Event) {
        let _ = self.0.send(Input::Fact(event));
    }

    /// The service takes the endpoint as open no longer: it is announced again.
    pub(crate) fn not_open(&self, link: u64) {
        self.network(network::Outcome::NotOpen { link });
    }

    fn network(&self, outcome: network::Outcome) {
        let _ = self.0.send(Input::Network(outcome));
    }
}

/// What an endpoint shows of itself.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shown {
    /// The engine's status; none while there is no life.
    pub status: Option<Arc<polder_engine::Status>>,
    /// Why there is no life.
    pub waiting: Option<Box<str>>,
    /// How changes are noticed.
    pub watching: &'static str,
    /// Counts of the transfer.
    pub extra: Extra,
    /// What its folder's way to another layout waits for.
    pub layout: Option<Box<str>>,
}

/// A running endpoint, from outside.
#[derive(Debug)]
pub(crate) struct Endpoint {
    /// Its settings as last assigned.
    pub assignment: Mutex<Box<Assignment>>,
    to: Sender<Input>,
    shown: Arc<Mutex<Shown>>,
    tiered: Arc<Mutex<Option<Tiered>>>,
    is_removed: Arc<AtomicBool>,
    /// What the gate's hook, the policies and the commands share of it.
    pub desk: Arc<Desk>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

/// What every endpoint of an agent has in common.
#[derive(Debug, Clone)]
pub(crate) struct Common {
    /// The agent's folder.
    pub state: StateDir,
    /// This server's name, for conflict copies.
    pub server_name: Arc<str>,
    /// Where the network runs.
    pub runtime: Handle,
    /// What the holder keeps for this worker.
    pub gates: Arc<Gates>,
    /// Paths of all endpoints of this machine, which must not overlap.
    pub paths: Arc<Mutex<Vec<(EndpointId, std::path::PathBuf)>>>,
}

const LOCK: &str = "no holder of this lock panics";

impl Endpoint {
    /// Starts the endpoint's thread.
    pub(crate) fn start(common: Common, assignment: Assignment) -> Self {
        let (to, from) = channel();
        let shown: Arc<Mutex<Shown>> = Arc::default();
        let tiered: Arc<Mutex<Option<Tiered>>> = Arc::default();
        let is_removed: Arc<AtomicBool> = Arc::default();
        let desk: Arc<Desk> = Arc::default();
        desk.set_settings(&assignment.tiering);
        let is_cleared = common.state.is_unmounted(assignment.endpoint);
        let thread = Thread {
            common,
            assignment: assignment.clone(),
            facts: Facts(to.clone()),
            from,
            shown: Arc::clone(&shown),
            tiered: Arc::clone(&tiered),
            link: None,
            head: Cursor::default(),
            mounted: None,
            last: None,
            turns: false,
            refused: None,
            is_removed: Arc::clone(&is_removed),
            desk: Arc::clone(&desk),
            clear: None,
            is_cleared,
        };
        let thread = spawn_thread("endpoint", move || thread.run());
        let (assignment, thread) = (Mutex::new(Box::new(assignment)), Mutex::new(Some(thread)));
        Self { assignment, to, shown, tiered, is_removed, desk, thread }
    }

    /// Its tiered files; `None` while it does not tier or its gate is not mounted. Another one for each life.
    pub(crate) fn tiered(&self) -> Option<Tiered> {
        self.tiered.lock().expect(LOCK).clone()
    }

    /// New settings, if they are others than those of now.
    pub(crate) fn set(&self, assignment: Assignment) {
        let mut known = self.assignment.lock().expect(LOCK);
        if **known != assignment {
            **known = assignment.clone();
            self.desk.set_settings(&assignment.tiering);
            self.tell(Input::Settings(Box::new(assignment)));
        }
    }

    /// Tells the endpoint something.
    pub(crate) fn tell(&self, input: Input) {
        let _ = self.to.send(input);
    }

    /// What it shows of itself.
    pub(crate) fn shown(&self) -> Shown {
        let shown = self.shown.lock().expect(LOCK).clone();
        let doing = self.tiered().and_then(|tiered| tiered.doing());
        Shown { layout: doing.or(shown.layout.clone()), ..shown }
    }

    /// The message about it for the service.
    pub(crate) fn message(&self, endpoint: EndpointId) -> polder_api::grpc::pb::EndpointStatus {
        let mut message = status::message_of(endpoint, &self.shown());
        crate::policy::report::fill(&mut message, &self.desk);
        message
    }

    /// Ends it because it was removed from this server: its mount goes with it. Waits until its files are closed.
    pub(crate) fn remove(&self) {
        self.is_removed.store(true, Ordering::Release);
        self.end();
    }

    /// Ends it and waits until its files are closed. A mount stays, for the worker that follows.
    pub(crate) fn end(&self) {
        self.tell(Input::End);
        if let Some(thread) = self.thread.lock().expect(LOCK).take() {
            let _ = thread.join();
        }
    }
}

/// Why a life ended.
enum Ended {
    /// The endpoint was removed or the agent stops.
    ForGood,
    /// The root was lost, or the service demands a new instance: begin again.
    Again(Box<str>),
}

struct Thread {
    common: Common,
    assignment: Assignment,
    facts: Facts,
    from: Receiver<Input>,
    shown: Arc<Mutex<Shown>>,
    tiered: Arc<Mutex<Option<Tiered>>>,
    link: Option<Link>,
    head: Cursor,
    /// The gate, from the moment that the root was first proven until the endpoint ends.
    mounted: Option<Mounted>,
    /// The root as it was opened last.
    last: Option<Arc<polder_replica::Root>>,
    /// All is here, and the folder is to be laid out plainly.
    turns: bool,
    /// Why the folder is not laid out as the settings want it; tried again with other settings, and after a while.
    refused: Option<Box<str>>,
    is_removed: Arc<AtomicBool>,
    desk: Arc<Desk>,
    /// To be done between two lives.
    clear: Option<Clear>,
    /// Nothing of the endpoint is left here; it waits for its end.
    is_cleared: bool,
}

impl Thread {
    fn run(mut self) {
        let span = tracing::info_span!(
            "endpoint", endpoint = %self.assignment.endpoint, share = %self.assignment.share
        );
        let _entered = span.entered();
        loop {
            let opened = match self.is_cleared {
                true => Err(anyhow::anyhow!("it was unmounted, and waits for its end")),
                false => self.open(),
            };
            let why = match opened {
                Ok(root) => match self.live(root) {
                    Ended::ForGood => break,
                    Ended::Again(why) => why,
                },
                Err(error) => status::sentence(error.chain()).into(),
            };
            if let Some(wish) = self.clear.take() {
                self.clear(wish);
                continue;
            }
            if self.wait(why) {
                break;
            }
        }
        *self.tiered.lock().expect(LOCK) = None;
        if !self.is_removed.load(Ordering::Acquire) {
            return;
        }
        if let Some(mounted) = self.mounted.take()
            && let Err(error) = mounted.leave(&self.common.gates)
        {
            tracing::warn!(error = status::sentence(error.chain()), "the folder stays laid out for tiering");
        }
        if let Some(root) = self.last.take() {
            if let Err(error) = polder_replica::unseal_point(&root) {
                tracing::warn!(error = status::chain(&error), "the folder stays immutable");
            }
            root.unlock();
        }
    }

    /// The root, with the gate mounted over it if it tiers. Both outlive a life.
    fn open(&mut self) -> anyhow::Result<Arc<polder_replica::Root>> {
        if let Some(mounted) = &self.mounted {
            mounted.root.check()?;
            if mounted.is_served() && !self.turns {
                return Ok(Arc::clone(&mounted.root));
            }
        }
        if let Some(mounted) = self.mounted.take() {
            *self.tiered.lock().expect(LOCK) = None;
            if std::mem::take(&mut self.turns) {
                let root = mounted.leave(&self.common.gates)?;
                tracing::info!(is_tiered = root.is_tiered(), "the folder is laid out plainly");
                return self.mount(root, None);
            }
            tracing::warn!("somebody took the mount away; it is made anew");
        }
        let opened = root::open(&self.common, &self.assignment, self.last.as_deref());
        if opened.is_err() {
            // Whoever wants to unmount a volume that failed is not to be in its way.
            self.last = None;
        }
        let root::Opened { root, inherited, refused } = opened?;
        self.refused = refused;
        self.mount(root, inherited)
    }

    /// Mounts the gate over a root, if that is laid out for it.
    fn mount(
        &mut self,
        root: polder_replica::Root,
        inherited: Option<polder_gate::Connection>,
    ) -> anyhow::Result<Arc<polder_replica::Root>> {
        let root = Arc::new(root);
        self.last = Some(Arc::clone(&root));
        if root.is_tiered() {
            root::seal(&root);
            if let Err(error) = polder_replica::note_share(&root, self.assignment.share) {
                tracing::warn!(error = status::chain(&error), "it is not noted which share the folder is of");
            }
            let endpoint = self.assignment.endpoint;
            let uses = Arc::clone(&self.desk.book) as Arc<dyn crate::tiered::Uses>;
            let mounted = Mounted::start(&self.common.gates, endpoint, Arc::clone(&root), uses, inherited)?;
            *self.tiered.lock().expect(LOCK) = Some(mounted.tiered.clone());
            self.mounted = Some(mounted);
        }
        Ok(root)
    }

    /// What is to be done about the folder's layout, beside a life with this root.
    fn turn(&mut self, root: &Arc<polder_replica::Root>) -> Option<turn::Turn> {
        let wanted = self.assignment.tiering.enabled;
        match (&self.mounted, self.refused.take()) {
            (Some(mounted), _) if wanted => {
                mounted.tiered.resume_arrivals();
                None
            }
            (Some(mounted), _) => Some(turn::Turn::to_plain(mounted.tiered.clone(), Arc::clone(root))),
            (None, _) if !wanted => None,
            (None, Some(why)) => Some(turn::Turn::refused(why)),
            (None, None) => Some(turn::Turn::to_tiered(root::path(&self.assignment))),
        }
    }

    fn live(&mut self, root: Arc<polder_replica::Root>) -> Ended {
        if let Err(error) = root.keep_reserve() {
            tracing::debug!(error = status::chain(&error), "no room is kept for the state database");
        }
        let outcome = life::Life::begin(self, Arc::clone(&root)).and_then(|life| life.run(self));
        outcome.unwrap_or_else(|error| Ended::Again(failed(&root, &error)))
    }

    /// Waits for a while before the root is tried again. `true`: the endpoint ends.
    fn wait(&mut self, why: Box<str>) -> bool {
        {
            let mut shown = self.shown.lock().expect(LOCK);
            if shown.waiting.as_ref() != Some(&why) {
                tracing::info!(why = %why, "the endpoint waits");
            }
            *shown = Shown { waiting: Some(why), watching: "none", ..Shown::default() };
        }
        let until = std::time::Instant::now() + std::time::Duration::from_secs(1);
        while let Some(left) = until.checked_duration_since(std::time::Instant::now()) {
            match self.from.recv_timeout(left) {
                Ok(Input::End) => return true,
                Ok(Input::Up(link)) => self.link = Some(link),
                Ok(Input::Down(_)) => self.link = None,
                Ok(Input::Head(head)) => self.head = self.head.max(head),
                Ok(Input::Settings(settings)) => self.assignment = *settings,
                Ok(Input::Clear(wish)) => self.clear(wish),
                // Facts of the life that ended; commands that nobody can carry out now.
                Ok(_) => (),
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) => break,
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => return true,
            }
        }
        false
    }
}

/// A life ended by an error: says why, and gives the next life room if it was for want of it.
fn failed(root: &polder_replica::Root, error: &anyhow::Error) -> Box<str> {
    let why = status::sentence(error.chain());
    let is_corrupt = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref().is_some_and(polder_replica::StateError::is_corrupt)
    };
    if error.chain().any(is_corrupt) {
        return match root.set_database_aside() {
            Ok(()) => {
                tracing::warn!(
                    why,
                    "the state database is moved aside: both sides are compared anew, and nothing is deleted"
                );
                format!("both sides are compared anew ({why})").into()
            }
            Err(error) => status::chain(&error).into(),
        };
    }
    if !root.is_full().unwrap_or(false) {
        return why.into();
    }
    let released = root.release_reserve();
    tracing::info!(released = released.unwrap_or(false), "the volume is full: the reserve is given up");
    format!("the volume is full: make room ({why})").into()
}

/// Starts a named thread, in the span of the one that starts it.
pub(crate) fn spawn_thread(name: &str, run: impl FnOnce() + Send + 'static) -> std::thread::JoinHandle<()> {
    let span = tracing::Span::current();
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || span.in_scope(run))
        .expect("the system gives a thread to an agent that starts")
}
