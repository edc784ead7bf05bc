//! The world: a heap of events over virtual time, servers, the service, a network that loses and repeats, users, faults.
//!
//! [`deeds`] is what could have been otherwise (users, faults), [`effects`] carries out what engines want of their
//! disks, [`network`] what they want of the service, [`checks`] are the oracles.

mod checks;
mod deeds;
mod effects;
mod gate;
mod network;

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::fmt;
use std::hash::Hash;

use polder_engine::{Effect, Event, JobId, Read, Settings};
use polder_types::{EndpointId, InstanceId, PackId, Seq, Stamp};

use crate::disk::{Disk, Token};
use crate::ghost::Ghost;
use crate::host::recycle::Displaced;
use crate::host::{Counted, Host};
use crate::plan::Plan;
use crate::rng::Rng;
use crate::service::Service;
use crate::service::opening::Asked;
use crate::story::{Deed, Line};
use crate::trace::TraceHash;

/// What a run came to.
#[derive(Debug)]
pub struct Outcome {
    /// A number that equal runs have in common.
    pub hash: u64,
    /// Steps of engines.
    pub steps: u64,
    /// What was done, if it was to be kept.
    pub trace: Vec<String>,
    /// What could have been otherwise, in order.
    pub story: Vec<Line>,
    /// What the share holds in the end ([`crate::scene`]), of a told run.
    pub tree: Vec<String>,
    /// What happened to tiered files.
    pub at_gates: AtGates,
    /// What is wrong, if anything.
    pub failure: Option<String>,
}

/// What happened to tiered files: a run in which nothing does proves nothing.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct AtGates {
    /// Files that were given up.
    pub given_up: u64,
    /// Files that became resident.
    pub resident: u64,
    /// Reads that got bytes.
    pub read: u64,
    /// Programs that got an error.
    pub refused: u64,
}

/// What happens at a moment that was drawn; the particulars are drawn then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    User,
    Kill,
    Power,
    Unmount,
    Jump,
    Full,
    Restart,
    Backup,
    SetBack,
    Checkpoint,
    Revert,
    Clone,
    Forget,
    Wish,
}

impl AtGates {
    /// Adds those of another run.
    pub fn add(&mut self, other: Self) {
        self.given_up += other.given_up;
        self.resident += other.resident;
        self.read += other.read;
        self.refused += other.refused;
    }
}

/// What is due, and when; the number keeps what is due at one moment in the order in which it was wanted. The first is the greatest, as a
/// heap has it.
struct Due {
    order: Reverse<(u64, u64)>,
    what: What,
}

/// Small, for it is moved about in the heap: what is large is in a box.
enum What {
    /// A fact for an engine.
    Fact {
        host: usize,
        life: u64,
        session: Option<u64>,
        event: Box<Event>,
    },
    /// An effect on a disk.
    Disk {
        host: usize,
        life: u64,
        effect: Box<Effect>,
    },
    /// A read ends.
    ReadEnd {
        host: usize,
        life: u64,
        read: Box<(Read, Option<(Stamp, Token)>)>,
    },
    /// A walk goes on.
    Walk {
        host: usize,
        life: u64,
        job: JobId,
    },
    /// An apply goes on.
    Step {
        host: usize,
        life: u64,
        job: JobId,
    },
    /// Displaced files are handed over, or looked at again.
    Displaced {
        host: usize,
        life: u64,
        displaced: Vec<Displaced>,
    },
    /// The recycle area is looked at.
    Expire {
        host: usize,
        life: u64,
    },
    /// Rows of applied nodes are made durable.
    Settle {
        host: usize,
        life: u64,
    },
    /// The root is proven again.
    CheckRoot {
        host: usize,
        life: u64,
    },
    /// A pack leaves, arrives, and is acknowledged or given up.
    PackLeaves {
        host: usize,
        life: u64,
        pack: PackId,
    },
    PackArrives {
        host: usize,
        life: u64,
        pack: PackId,
        tries: u32,
    },
    PackSettled {
        host: usize,
        life: u64,
        pack: PackId,
        stored: bool,
    },
    /// A message reaches the service.
    Request {
        host: usize,
        life: u64,
        session: u64,
        request: Box<Request>,
    },
    /// The service notices that a session is over.
    SessionOver {
        session: u64,
    },
    /// The watcher's queue is read.
    Hints {
        host: usize,
    },
    /// Something happens.
    Happen {
        host: usize,
        kind: Kind,
    },
    /// Something goes on at a gate.
    Gate {
        host: usize,
        process: u64,
        at: Box<gate::At>,
    },
    /// What a story tells.
    Told(Box<Line>),
    /// A process starts.
    Start {
        host: usize,
    },
    /// A process tries the root.
    Begin {
        host: usize,
        process: u64,
    },
    /// A process connects.
    Connect {
        host: usize,
        process: u64,
    },
    /// A person acts on an endpoint with two agents.
    LetGo {
        endpoint: EndpointId,
    },
    /// The service reads a pack back.
    Verify,
    /// The service's prune goes on.
    Prune,
}

const _: () = assert!(size_of::<What>() <= 48);

impl Due {
    fn at(&self) -> u64 {
        self.order.0.0
    }
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> Ordering {
        self.order.cmp(&other.order)
    }
}

/// A message to the service.
#[derive(Debug, Clone)]
struct Request {
    effect: Effect,
    opening: Option<polder_types::InstanceId>,
    instance: polder_types::InstanceId,
    asked: Option<Asked>,
    nth: u64,
    /// Which life of the service it was sent to: what is under way when it ends goes with its connections.
    boot: u64,
}

/// A run.
pub struct World {
    plan: Plan,
    time: u64,
    heap: BinaryHeap<Due>,
    next: u64,
    hosts: Vec<Host>,
    service: Service,
    ghost: Ghost,
    happenings: Rng,
    wishes: Rng,
    healed: bool,
    next_session: u64,
    next_process: u64,
    steps: u64,
    /// Batches and applies since all was last seen to be equal.
    moves: u64,
    hash: TraceHash,
    trace: Vec<String>,
    story: Vec<Line>,
    /// Faults of a told story, by host, kind and number.
    told: BTreeMap<(usize, &'static str, u64), Deed>,
    checkpoints: BTreeMap<usize, (Disk, polder_sync::mem::MemStore)>,
    /// What users saw on machines when they were set back, by the opening that was theirs.
    reverted: BTreeMap<InstanceId, BTreeSet<Token>>,
    hints_due: Vec<bool>,
    set_back: bool,
    /// What placeholders of a server stood for when the share was set back, or their machine, or when a copy of it spoke: nothing may hold it any more.
    unheld: BTreeSet<(usize, Token)>,
    /// Up to where endpoints have told what stands there.
    pins_told: BTreeMap<EndpointId, Seq>,
    violation: Option<String>,
    at_gates: AtGates,
}

/// How long the world may take to become equal after the last fault.
const HEAL_MS: u64 = 20 * 60_000;
/// How long it must then stay still.
const STILL_MS: u64 = 3 * 60_000;
/// The longest way of a message to a service that is far away.
const FAR_MS: u64 = 1_000;
/// More steps than this are no work but a circle.
const STEPS_MAX: u64 = 40_000;

impl World {
    /// A world in which nothing has happened.
    pub fn new(plan: Plan) -> Self {
        let seed = plan.seed;
        let mut world = Self {
            time: 0,
            heap: BinaryHeap::new(),
            next: 0,
            hosts: (0..plan.hosts).map(|nth| Host::new(nth, &plan)).collect(),
            service: Service::new(seed, plan.page_rows),
            ghost: Ghost::new(seed),
            happenings: Rng::new(seed, 2),
            wishes: Rng::new(seed, 16),
            healed: false,
            next_session: 1,
            next_process: 1,
            steps: 0,
            moves: 0,
            hash: TraceHash::default(),
            trace: Vec::new(),
            story: Vec::new(),
            told: BTreeMap::new(),
            checkpoints: BTreeMap::new(),
            reverted: BTreeMap::new(),
            hints_due: vec![false; plan.hosts],
            set_back: false,
            unheld: BTreeSet::new(),
            pins_told: BTreeMap::new(),
            violation: None,
            at_gates: AtGates::default(),
            plan,
        };
        world.ghost.in_chunks = world.plan.tiers > 0;
        for host in 0..world.plan.hosts {
            let at = Rng::of(seed, [10, host as u64, 0]).below(3_000);
            world.push(at, What::Start { host });
        }
        if world.plan.prune {
            world.push(1_000, What::Prune);
        }
        world.schedule();
        world
    }

    fn push(&mut self, at: u64, what: What) {
        self.heap.push(Due { order: Reverse((at.max(self.time), self.next)), what });
        self.next += 1;
    }

    fn note(&mut self, text: fmt::Arguments<'_>) {
        if self.plan.trace {
            self.trace.push(format!("{:>8} {text}", self.time));
        }
        if self.plan.hash_all {
            fmt::Write::write_fmt(&mut self.hash, text).expect("hashing does not fail");
        }
    }

    /// What goes into an engine or comes out of it: hashed as it is, since its text costs a third of a run.
    fn note_of(&mut self, host: usize, arrow: &str, what: &(impl fmt::Debug + Hash)) {
        if self.plan.trace {
            self.trace.push(format!("{:>8} s{host} {arrow} {what:?}", self.time));
        }
        if self.plan.hash_all {
            (self.time, host, arrow, what).hash(&mut self.hash);
        }
    }

    /// Something that must never be. The first one counts.
    fn violated(&mut self, what: String) {
        self.note(format_args!("VIOLATED {what}"));
        self.violation.get_or_insert(what);
    }

    /// Runs to the end.
    pub fn run(mut self) -> Outcome {
        let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.run_all()));
        let failure = run.unwrap_or_else(|panic| Err(format!("panic: {}", text_of(&*panic)))).err();
        let tree = self.plan.script.as_ref().map(|_| crate::scene::tree_of(&self.service));
        let (trace, story, tree) = (self.trace, self.story, tree.unwrap_or_default());
        let (hash, steps, at_gates) = (self.hash.0, self.steps, self.at_gates);
        Outcome { hash, steps, trace, story, tree, at_gates, failure }
    }

    fn run_until(&mut self, end: u64) -> Result<(), String> {
        while self.heap.peek().is_some_and(|due| due.at() <= end) {
            let due = self.heap.pop().expect("there is a first");
            self.time = due.at();
            self.service.set_clock(self.time);
            self.one(due.what);
            if let Some(violation) = &self.violation {
                return Err(violation.clone());
            }
            if self.steps > STEPS_MAX {
                return Err(format!("{STEPS_MAX} steps: it goes round: {}", self.why(Vec::new())));
            }
        }
        self.time = end;
        Ok(())
    }

    fn is_alive(&self, host: usize, life: u64) -> bool {
        self.hosts[host].engine.is_some() && self.hosts[host].life == life
    }

    /// A delay that is drawn for this server alone.
    fn delay(&mut self, host: usize, max: u64) -> u64 {
        let nth = self.hosts[host].count(Counted::Delay);
        Rng::of(self.plan.seed, [11, host as u64, nth]).below(max)
    }

    /// How long a message is on its way between a server and the service.
    fn way(&mut self, host: usize) -> u64 {
        2 + self.delay(host, if self.plan.far { FAR_MS } else { 60 })
    }

    fn one(&mut self, what: What) {
        match what {
            What::Fact { host, life, session, event } => {
                let now = self.hosts[host].link.map(|link| link.session);
                if self.is_alive(host, life) && session.is_none_or(|session| now == Some(session)) {
                    self.fact(host, *event);
                }
            }
            What::Happen { host, kind } => self.happen(host, kind),
            What::Told(line) => self.deed(*line),
            What::Request { host, life, session, request } => self.request(host, life, session, *request),
            What::SessionOver { session } => self.service.disconnect(session),
            What::Start { host } if !self.hosts[host].running => self.start(host),
            What::Begin { host, process } => self.begin(host, process),
            What::Connect { host, process } => self.connect(host, process),
            What::LetGo { endpoint } => self.let_go(endpoint),
            What::Verify => self.verify(),
            What::Prune => self.prune(),
            What::Hints { host } => self.hints(host),
            What::Gate { host, process, at } => self.gate(host, process, *at),
            other => self.work(other),
        }
        self.watch();
    }

    fn fact(&mut self, host: usize, event: Event) {
        if matches!(event, Event::Woke) {
            let mono_ms = self.time - self.hosts[host].began_ms;
            if self.hosts[host].wake != Some(mono_ms) {
                return;
            }
        }
        self.step(host, event);
    }

    /// Whoever has hints reads them soon.
    fn watch(&mut self) {
        for host in 0..self.hosts.len() {
            if self.hosts[host].disk.has_hints() && !self.hints_due[host] {
                self.hints_due[host] = true;
                let delay = 1 + self.delay(host, 20);
                self.push(self.time + delay, What::Hints { host });
            }
        }
    }

    fn hints(&mut self, host: usize) {
        self.hints_due[host] = false;
        if self.hosts[host].engine.is_none() {
            return;
        }
        let (hints, overflow) = self.hosts[host].disk.take_hints();
        if overflow {
            self.step(host, Event::Overflow);
        }
        if !hints.is_empty() {
            self.step(host, Event::Hints(hints));
        }
    }

    fn start(&mut self, host: usize) {
        let process = self.next_process;
        self.next_process += 1;
        let server = &mut self.hosts[host];
        (server.running, server.process) = (true, process);
        self.note(format_args!("s{host} starts"));
        self.hosts[host].set_clock(self.time);
        self.gate_begins(host);
        self.begin(host, process);
        let delay = self.delay(host, 2_000);
        self.push(self.time + delay, What::Connect { host, process });
    }

    /// A process opens its root; without it, it tries again.
    fn begin(&mut self, host: usize, process: u64) {
        let server = &mut self.hosts[host];
        if !server.running || server.process != process || server.engine.is_some() {
            return;
        }
        server.set_clock(self.time);
        let settings = self.settings(host);
        let Some(started) = self.hosts[host].begin(self.time, settings) else {
            return self.push(self.time + 1_000, What::Begin { host, process });
        };
        self.note(format_args!("s{host} begins a life"));
        self.step(host, started);
        let life = self.hosts[host].life;
        if self.hosts[host].link.is_some() {
            self.step(host, Event::Connected);
        }
        self.push(self.time + 1_000, What::CheckRoot { host, life });
        self.push(self.time, What::Displaced { host, life, displaced: Vec::new() });
        if self.plan.expiry {
            self.push(self.time + 3_000, What::Expire { host, life });
        }
    }

    fn settings(&self, host: usize) -> Settings {
        let mut settings = Settings::new(&self.hosts[host].name);
        // Changes through a name of a file that is gone at once, and those in one tick of a coarse clock, are seen by
        // the safety net alone.
        settings.rescan_ms = 600_000;
        settings.filter = crate::host::filter().clone();
        if self.plan.small_limits {
            settings.limits.overlay = 40;
            settings.limits.window = 8;
            settings.limits.batch_ops = 6;
            settings.limits.apply_ops = 5;
            settings.limits.reads_small = 4;
        }
        settings
    }

    /// The life ends; another begins soon.
    fn end_life(&mut self, host: usize) {
        self.note(format_args!("s{host} ends its life"));
        self.hosts[host].end_life();
        if let Some(link) = &mut self.hosts[host].link {
            link.open = None;
        }
        let process = self.hosts[host].process;
        self.push(self.time + 1_000, What::Begin { host, process });
    }

    fn step(&mut self, host: usize, event: Event) {
        self.steps += 1;
        self.note_of(host, "<-", &event);
        self.hosts[host].set_clock(self.time);
        let settles = self.hosts[host].rows_to_settle.is_none();
        let effects = self.hosts[host].step(self.time, event);
        let life = self.hosts[host].life;
        if settles && self.hosts[host].rows_to_settle.is_some() {
            self.push(self.time + crate::host::life::ROWS_SETTLE_MS, What::Settle { host, life });
        }
        for effect in effects {
            match &effect {
                Effect::Status(_) | Effect::Log(_) => (),
                other => self.note_of(host, "->", other),
            }
            self.carry_out(host, life, effect);
        }
    }
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}
