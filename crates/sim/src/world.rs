//! The world: a heap of events over virtual time, servers, a share, a network that loses and repeats, users, faults.

use std::collections::BTreeMap;

use polder_engine::{
    Announced, BatchError, Effect, Event, FeedError, JobId, Page, Phase, Read, Settings, Unreachable,
};
use polder_types::{Author, BatchNo, Cursor, Group, Stamp};

use crate::apply::apply;
use crate::disk::Token;
use crate::ghost::{Ghost, differences, listing_of_share};
use crate::host::{Host, WalkStep};
use crate::rng::Rng;
use crate::share::{BatchProblem, Share};
use crate::users;

/// What a run does.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Draws everything.
    pub seed: u64,
    /// Servers.
    pub hosts: usize,
    /// User actions.
    pub actions: u64,
    /// Virtual time in which they happen.
    pub active_ms: u64,
    /// Per cent of network messages that are lost with their connection.
    pub loss: u64,
    /// Per cent that arrive twice.
    pub repeat: u64,
    /// Server crashes.
    pub crashes: u64,
    /// Whether users make hard links.
    pub links: bool,
    /// Whether the trace is kept in words.
    pub trace: bool,
}

impl Plan {
    /// A run in which the seed switches faults on and off.
    pub fn of(seed: u64) -> Self {
        let mut rng = Rng::new(seed, 1);
        Self {
            seed,
            hosts: 2 + rng.below(2) as usize,
            actions: 3 + rng.below(40),
            active_ms: *rng.pick(&[2_000, 10_000, 60_000]),
            loss: *rng.pick(&[0, 0, 2, 10]),
            repeat: *rng.pick(&[0, 5, 20]),
            crashes: *rng.pick(&[0, 0, 1, 4]),
            links: seed.is_multiple_of(4),
            trace: false,
        }
    }
}

/// What a run came to.
#[derive(Debug)]
pub struct Outcome {
    /// A number that equal runs have in common.
    pub hash: u64,
    /// Steps of engines.
    pub steps: u64,
    /// What was done, if it was to be kept.
    pub trace: Vec<String>,
    /// What is wrong, if anything.
    pub failure: Option<String>,
}

enum What {
    /// A fact for an engine.
    Fact { host: usize, life: u64, session: Option<u64>, event: Event },
    /// An effect on a disk.
    Disk { host: usize, life: u64, effect: Effect },
    /// A read ends.
    ReadEnd { host: usize, life: u64, read: Box<Read>, began: Option<(Stamp, Token)> },
    /// A walk goes on.
    Walk { host: usize, life: u64, job: JobId },
    /// A message reaches the service.
    Request { host: usize, life: u64, session: u64, effect: Effect },
    /// The watcher's queue is read.
    Hints { host: usize },
    /// A user does something.
    User,
    /// A server is killed.
    Kill { host: usize },
    /// A server starts.
    Start { host: usize },
    /// A server connects.
    Connect { host: usize, life: u64 },
}

/// A run.
pub struct World {
    plan: Plan,
    time: u64,
    heap: BTreeMap<(u64, u64), What>,
    next: u64,
    hosts: Vec<Host>,
    share: Share,
    ghost: Ghost,
    users: Rng,
    net: Rng,
    work: Rng,
    faults: Rng,
    healed: bool,
    next_session: u64,
    steps: u64,
    /// Batches and applies since all was last seen to be equal.
    moves: u64,
    hash: u64,
    trace: Vec<String>,
}

/// How long the world may take to become equal after the last fault.
const HEAL_MS: u64 = 20 * 60_000;
/// How long it must then stay still.
const STILL_MS: u64 = 3 * 60_000;

impl World {
    /// A world in which nothing has happened.
    pub fn new(plan: Plan) -> Self {
        let seed = plan.seed;
        let mut world = Self {
            time: 0,
            heap: BTreeMap::new(),
            next: 0,
            hosts: (0..plan.hosts).map(Host::new).collect(),
            share: Share::new(),
            ghost: Ghost::default(),
            users: Rng::new(seed, 2),
            net: Rng::new(seed, 3),
            work: Rng::new(seed, 4),
            faults: Rng::new(seed, 5),
            healed: false,
            next_session: 1,
            steps: 0,
            moves: 0,
            hash: 0xcbf2_9ce4_8422_2325,
            trace: Vec::new(),
            plan,
        };
        for host in 0..world.plan.hosts {
            let at = world.faults.below(3_000);
            world.push(at, What::Start { host });
        }
        for _ in 0..world.plan.actions {
            let at = world.users.below(world.plan.active_ms);
            world.push(at, What::User);
        }
        for _ in 0..world.plan.crashes {
            let at = world.faults.below(world.plan.active_ms);
            let host = world.faults.below(world.plan.hosts as u64) as usize;
            world.push(at, What::Kill { host });
        }
        world
    }

    fn push(&mut self, at: u64, what: What) {
        self.heap.insert((at.max(self.time), self.next), what);
        self.next += 1;
    }

    fn note(&mut self, text: impl FnOnce() -> String) {
        let text = text();
        for byte in text.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if self.plan.trace {
            self.trace.push(format!("{:>8} {text}", self.time));
        }
    }

    /// Runs to the end.
    pub fn run(mut self) -> Outcome {
        let failure = self.run_all().err();
        Outcome { hash: self.hash, steps: self.steps, trace: self.trace, failure }
    }

    fn run_all(&mut self) -> Result<(), String> {
        let active = self.plan.active_ms;
        self.run_until(active)?;
        self.heal();
        let deadline = self.time + HEAL_MS;
        loop {
            let next = self.time + 2_000;
            self.run_until(next)?;
            let unequal = self.unequal()?;
            if unequal.is_empty() && self.all_in_sync() {
                break;
            }
            if self.time > deadline {
                return Err(format!(
                    "not equal {} s after the last fault: {}",
                    HEAL_MS / 1000,
                    self.why(unequal)
                ));
            }
        }
        self.moves = 0;
        let still = self.time + STILL_MS;
        self.run_until(still)?;
        let unequal = self.unequal()?;
        if !unequal.is_empty() || !self.all_in_sync() {
            return Err(format!("did not stay equal: {}", self.why(unequal)));
        }
        if self.moves > 0 {
            return Err(format!("{} batches or applies although all was equal", self.moves));
        }
        let lost = self.ghost.lost(&self.share);
        if !lost.is_empty() {
            return Err(format!("contents that nobody took away are gone: {lost:?}"));
        }
        let bound = 400 + self.plan.actions * 40;
        if self.share.op_count > bound {
            return Err(format!("{} operations for {} actions", self.share.op_count, self.plan.actions));
        }
        Ok(())
    }

    fn why(&self, mut unequal: Vec<String>) -> String {
        for host in &self.hosts {
            for (uid, node) in host.engine.iter().flat_map(|engine| engine.differing()) {
                let synced = polder_sync::TreeStore::synced(&host.store, uid).expect("maps do not fail");
                unequal.push(format!("{}: {uid} here {node:?}\n    synced {synced:?}", host.name));
            }
            if self.plan.trace {
                unequal.push(format!("{}: {:?}", host.name, host.engine));
            }
            if let Some(status) = &host.status {
                unequal.push(format!(
                    "{}: {:?} up {} down {} problems {:?}",
                    host.name, status.phase, status.up.count, status.down.count, status.problems
                ));
            }
        }
        unequal.join("\n  ")
    }

    fn unequal(&self) -> Result<Vec<String>, String> {
        let share = listing_of_share(&self.share)?;
        Ok(self.hosts.iter().flat_map(|host| differences(host, &share)).collect())
    }

    fn all_in_sync(&self) -> bool {
        self.hosts.iter().all(|host| host.status.as_ref().is_some_and(|status| status.phase == Phase::InSync))
    }

    /// No more faults: whoever is down starts, whoever is cut off connects.
    fn heal(&mut self) {
        self.healed = true;
        self.note(|| "heal".into());
        for host in 0..self.hosts.len() {
            if self.hosts[host].engine.is_none() {
                self.push(self.time + 10, What::Start { host });
            }
        }
    }

    fn run_until(&mut self, end: u64) -> Result<(), String> {
        while let Some(((at, _), _)) = self.heap.first_key_value()
            && *at <= end
        {
            let ((at, _), what) = self.heap.pop_first().expect("there is a first");
            self.time = at;
            self.one(what);
            if self.steps > 40_000 {
                return Err(format!("40,000 steps: it goes round: {}", self.why(Vec::new())));
            }
        }
        self.time = end;
        Ok(())
    }

    fn is_alive(&self, host: usize, life: u64) -> bool {
        self.hosts[host].engine.is_some() && self.hosts[host].life == life
    }

    fn one(&mut self, what: What) {
        match what {
            What::Fact { host, life, session, event } => {
                let mut stale = session.is_some_and(|session| self.hosts[host].session != Some(session));
                if matches!(event, Event::Woke) {
                    stale |= self.hosts[host].wake != Some(self.time);
                }
                if self.is_alive(host, life) && !stale {
                    self.step(host, event);
                }
            }
            What::Disk { host, life, effect } if self.is_alive(host, life) => self.disk(host, life, effect),
            What::ReadEnd { host, life, read, began } if self.is_alive(host, life) => {
                let stored = self.work.chance(50);
                let outcome = self.hosts[host].read_end(&read, began, stored);
                let stable = matches!(outcome, polder_engine::ReadOutcome::Stable { .. });
                self.reply(host, life, None, Event::Read { job: read.job, outcome });
                if stable && !stored && read.intent == polder_sync::ReadIntent::Store {
                    let delay = 40 + self.work.below(200);
                    let event = Event::Stored { jobs: vec![read.job] };
                    self.push(self.time + delay, What::Fact { host, life, session: None, event });
                }
            }
            What::Walk { host, life, job } if self.is_alive(host, life) => self.walk(host, life, job),
            What::Request { host, life, session, effect } => self.request(host, life, session, effect),
            What::Hints { host } if self.hosts[host].engine.is_some() => {
                let (hints, overflow) = self.hosts[host].disk.take_hints();
                if overflow {
                    self.step(host, Event::Overflow);
                }
                if !hints.is_empty() {
                    self.step(host, Event::Hints(hints));
                }
            }
            What::User => self.user(),
            What::Kill { host } => self.kill(host),
            What::Start { host } if self.hosts[host].engine.is_none() => self.start(host),
            What::Connect { host, life } if self.is_alive(host, life) => {
                self.hosts[host].session = Some(self.next_session);
                self.next_session += 1;
                self.step(host, Event::Connected);
            }
            _ => (),
        }
        self.watch();
    }

    /// Whoever has hints reads them soon.
    fn watch(&mut self) {
        for host in 0..self.hosts.len() {
            if self.hosts[host].disk.has_hints()
                && !self
                    .heap
                    .values()
                    .any(|what| matches!(what, What::Hints { host: other } if *other == host))
            {
                let delay = 1 + self.work.below(20);
                self.push(self.time + delay, What::Hints { host });
            }
        }
    }

    fn user(&mut self) {
        let host = self.users.below(self.hosts.len() as u64) as usize;
        // Some come in bursts.
        for _ in 0..1 + self.users.below(3) {
            let text =
                users::act(&mut self.hosts[host].disk, &mut self.users, &mut self.ghost, self.plan.links);
            self.note(|| format!("s{host} user: {text}"));
        }
    }

    fn start(&mut self, host: usize) {
        let name = self.hosts[host].name.clone();
        let mut settings = Settings::new(&name);
        // Changes through a name of a file that is gone at once are seen by the safety net alone.
        settings.rescan_ms = if self.plan.links { 600_000 } else { 0 };
        settings.limits.overlay = 40;
        settings.limits.window = 8;
        settings.limits.batch_ops = 6;
        settings.limits.apply_ops = 5;
        settings.limits.reads_small = 4;
        let event = self.hosts[host].start(settings, self.plan.seed);
        self.note(|| format!("s{host} starts"));
        self.step(host, event);
        let life = self.hosts[host].life;
        let delay = self.net.below(2_000);
        self.push(self.time + delay, What::Connect { host, life });
    }

    fn kill(&mut self, host: usize) {
        if self.hosts[host].engine.is_none() || self.healed {
            return;
        }
        let kept = self.faults.below(self.hosts[host].store.volatile_commits() as u64 + 1) as usize;
        self.note(|| format!("s{host} is killed"));
        self.hosts[host].kill(kept);
        let delay = 100 + self.faults.below(5_000);
        self.push(self.time + delay, What::Start { host });
    }

    fn disconnect(&mut self, host: usize) {
        self.note(|| format!("s{host} loses its connection"));
        self.hosts[host].session = None;
        let life = self.hosts[host].life;
        let delay = 50 + self.net.below(3_000);
        self.push(self.time + delay, What::Connect { host, life });
        let why = Unreachable::Network("lost".into());
        self.step(host, Event::Disconnected { why });
    }

    fn step(&mut self, host: usize, event: Event) {
        self.steps += 1;
        self.note(|| format!("s{host} <- {event:?}"));
        let effects = self.hosts[host].step(self.time, event);
        let life = self.hosts[host].life;
        for effect in effects {
            match &effect {
                Effect::Status(_) | Effect::Log(_) => (),
                other => self.note(|| format!("s{host} -> {other:?}")),
            }
            self.carry_out(host, life, effect);
        }
    }

    fn carry_out(&mut self, host: usize, life: u64, effect: Effect) {
        match effect {
            Effect::WakeAt(at) => {
                self.hosts[host].wake = Some(at);
                self.push(at, What::Fact { host, life, session: None, event: Event::Woke });
            }
            Effect::Status(_) | Effect::Cancel(_) => (),
            Effect::Log(line) => self.note(|| format!("s{host} log: {}", line.text)),
            Effect::Credit { job, more } => {
                self.hosts[host].credit(job, more);
                self.push(self.time + 1, What::Walk { host, life, job });
            }
            Effect::Announce { .. }
            | Effect::FetchFeed { .. }
            | Effect::FetchTree { .. }
            | Effect::Send { .. } => {
                self.moves += u64::from(matches!(effect, Effect::Send { .. }));
                let Some(session) = self.hosts[host].session else { return };
                if !self.healed && self.net.chance(self.plan.repeat) {
                    let delay = 5 + self.net.below(10_000);
                    self.push(
                        self.time + delay,
                        What::Request { host, life, session, effect: effect.clone() },
                    );
                }
                let delay = 2 + self.net.below(60);
                self.push(self.time + delay, What::Request { host, life, session, effect });
            }
            effect => {
                self.moves += u64::from(matches!(effect, Effect::Apply(_)));
                let delay = self.work.below(30);
                self.push(self.time + delay, What::Disk { host, life, effect });
            }
        }
    }

    /// A fact comes back after a while.
    fn reply(&mut self, host: usize, life: u64, session: Option<u64>, event: Event) {
        let delay = match session {
            Some(_) => 2 + self.net.below(60),
            None => self.work.below(20),
        };
        self.push(self.time + delay, What::Fact { host, life, session, event });
    }

    fn disk(&mut self, host: usize, life: u64, effect: Effect) {
        match effect {
            Effect::Look { job, places } => {
                let looks = self.hosts[host].look(&places);
                self.reply(host, life, None, Event::Looked { job, looks });
            }
            Effect::List { job, dir, recursive, credit } => {
                self.hosts[host].begin_walk(job, &dir, recursive, credit);
                self.walk(host, life, job);
            }
            Effect::Read(read) => {
                let began = self.hosts[host].read_begin(&read);
                let delay = self.work.below(100);
                self.push(self.time + delay, What::ReadEnd { host, life, read: Box::new(read), began });
            }
            Effect::Apply(job) => {
                if self.hosts[host].is_cancelled(job.job) {
                    return;
                }
                let name = self.hosts[host].name.clone();
                let steps_max = if !self.healed && self.plan.crashes > 0 && self.faults.chance(3) {
                    self.faults.below(job.steps.len() as u64) as usize
                } else {
                    usize::MAX
                };
                let (results, dirs) = apply(&mut self.hosts[host].disk, &job, steps_max, &name);
                self.note(|| format!("s{host} applied {results:?}"));
                if steps_max != usize::MAX {
                    self.kill(host);
                    return;
                }
                self.reply(host, life, None, Event::Applied { job: job.job, results, dirs });
            }
            _ => unreachable!("all others are carried out elsewhere"),
        }
    }

    fn walk(&mut self, host: usize, life: u64, job: JobId) {
        match self.hosts[host].walk_on(job) {
            WalkStep::Void | WalkStep::Wait => (),
            WalkStep::Fact(event) => {
                let more = matches!(event, Event::Listed { .. });
                // Facts of one walk stay in order: the fact comes before the walk goes on.
                self.push(self.time, What::Fact { host, life, session: None, event });
                if more {
                    let delay = 1 + self.work.below(15);
                    self.push(self.time + delay, What::Walk { host, life, job });
                }
            }
        }
    }

    fn request(&mut self, host: usize, life: u64, session: u64, effect: Effect) {
        if !self.healed && self.net.chance(self.plan.loss) && self.hosts[host].session == Some(session) {
            // Lost on the way there, or back.
            if self.net.chance(50) {
                drop(self.serve(host, effect));
            }
            self.disconnect(host);
            return;
        }
        if let Some(event) = self.serve(host, effect) {
            self.reply(host, life, Some(session), event);
        }
    }

    fn serve(&mut self, host: usize, effect: Effect) -> Option<Event> {
        let by = self.hosts[host].instance;
        Some(match effect {
            Effect::Announce { job, next, known, open } => {
                let answers = self.share.announce(by, next, &open);
                let head = self.share.head();
                let answer = match self.share.knows(known) {
                    true => Announced::Accepted {
                        head,
                        answers,
                        answers_known: self.plan.seed.is_multiple_of(2),
                        held: false,
                    },
                    false => Announced::Rebaseline { why: "another history".into() },
                };
                Event::Announced { job, answer }
            }
            Effect::FetchFeed { job, after, .. } => {
                let page = match self.share.feed(after) {
                    Some(rows) => Ok(Page { rows, upto: self.share.head(), next: None }),
                    None => Err(FeedError::Rebaseline("another history".into())),
                };
                Event::Page { job, page }
            }
            Effect::FetchTree { job, .. } => {
                let rows =
                    self.share.nodes().map(|node| polder_engine::FeedRow::Live(Box::new(node.clone())));
                let page = Page { rows: rows.collect(), upto: self.share.head(), next: None };
                Event::Page { job, page: Ok(page) }
            }
            Effect::Send { job, batch, known, groups } => {
                self.send(host, job, Author { by, batch }, known, &groups)
            }
            _ => return None,
        })
    }

    fn send(&mut self, host: usize, job: JobId, author: Author, known: Cursor, groups: &[Group]) -> Event {
        let before = self.share.head();
        let BatchNo(no) = author.batch;
        let answer =
            self.share.commit(author.by, author.batch, known, groups).map_err(|problem| match problem {
                BatchProblem::Stale => BatchError::Stale,
                BatchProblem::Rebaseline => BatchError::Rebaseline("another history".into()),
            });
        self.note(|| format!("s{host} batch {no}: {answer:?}"));
        let head = self.share.head();
        if head != before {
            for other in 0..self.hosts.len() {
                if let Some(session) = self.hosts[other].session {
                    let life = self.hosts[other].life;
                    self.reply(other, life, Some(session), Event::Head(head));
                }
            }
        }
        Event::Answered { job, answer }
    }
}
