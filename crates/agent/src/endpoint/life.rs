//! One life of an endpoint: events in, steps of the engine, one commit, effects out.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{RecvTimeoutError, Sender};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use polder_api::grpc::convert::{Assignment, InitialDownload};
use polder_engine::{Announced, Command, Effect, Engine, Event, Level, LogLine, Now, Phase, Started};
use polder_replica::{Root, StateDb, StateReaders};
use polder_sync::TreeStore;
use polder_types::{Author, EndpointId, GroupAnswer, InstanceId, Refusal};
use tokio::sync::Semaphore;

use super::disk::Disk;
use super::jobs::Jobs;
use super::network::{self, Announcement, FeedReader, Opening, Outcome};
use super::rate::{Moved, Rate};
use super::settings::{attr_policy, note_united, settings};
use super::turn::Turn;
use super::{Decision, Ended, Input, LOCK, Shown, Thread};
use crate::chunks::{Fetcher, Lanes, Packing, Places, Remote, Share, Store, random};
use crate::status::{self, Extra};

/// Facts that are taken into one commit.
const FACTS_MAX: usize = 256;
/// How often the root is proven again.
const ROOT_CHECK: Duration = Duration::from_secs(1);
/// Finished packs in memory, in MiB.
const PACKS_MIB_MAX: usize = 96;
/// Openings that are remembered until one is accepted.
const OPENINGS_MAX: usize = polder_api::grpc::limits::PREVIOUS_OPENINGS_MAX;

/// What was applied is known to the state database, power cuts included, after so long: a server that forgets what it has
/// applied takes it for its users' doing once the share has moved on. Many small batches share one flush.
const ROWS_SETTLE_MAX: Duration = Duration::from_millis(100);

/// How often at most what a large piece of work took is given back to the system, once all is in sync.
const TRIM_EVERY_MS: u64 = 60_000;

const NOTE_INSTANCE: &str = "agent/instance";
const NOTE_OPENINGS: &str = "agent/openings";
/// There once the first download is over.
const NOTE_ARRIVED: &str = "agent/arrived";
/// What came as names alone was fetched in the background, as much of it as there was room for.
const NOTE_BROUGHT: &str = "agent/brought";
/// Whose database it is: another endpoint may take a folder over with it.
const NOTE_ENDPOINT: &str = "agent/endpoint";

/// Everything that one life needs.
pub(crate) struct Life {
    engine: Engine,
    db: StateDb,
    disk: Arc<Disk>,
    jobs: Jobs,
    store: Store,
    remote: Arc<Remote>,
    feed: FeedReader,
    instance: InstanceId,
    began: Instant,
    wake_at_ms: Option<u64>,
    root_checked: Instant,
    /// Since when there are rows of applied nodes that a power cut would take.
    rows_to_settle: Option<Instant>,
    rate: Rate,
    /// When the endpoint was last in sync; 0: never in this life.
    last_sync_unix_ms: i64,
    /// Before this, no memory is given back.
    trim_at_ms: u64,
    /// Decisions about extras, to be answered once they are durable.
    answers: Vec<(Sender<u64>, u64)>,
    ended: Option<Box<str>>,
    /// Nothing has been in sync here yet.
    is_first: bool,
    /// The folder's way to another layout.
    turn: Option<Turn>,
}

impl Life {
    /// Opens the database and starts the jobs.
    pub(crate) fn begin(thread: &mut Thread, root: Arc<Root>) -> Result<Self> {
        let assignment = &thread.assignment;
        let mut db =
            StateDb::open(&root.database_path(), assignment.case).context("open the state database")?;
        let instance = instance(&mut db)?;
        let keys = polder_chunk::ShareKeys::from_secret_bytes(&assignment.share_keys.0);
        let share = Share::new(keys.context("read the share's keys")?);
        own(&mut db, assignment.endpoint)?;
        let is_first = db.note(NOTE_ARRIVED)?.is_none();
        let settings = settings(&thread.common, assignment, is_first)?;
        let policy = attr_policy(assignment);
        let filter = Arc::clone(&settings.filter);
        let disk = Disk::new(
            root,
            policy,
            filter,
            &thread.common.server_name,
            thread.mounted.as_ref().map(|mounted| mounted.tiered.clone()),
        );
        let disk = Arc::new(disk.context("open the folder")?);
        disk.set_arrivals(assignment, is_first);
        thread.desk.set_background(!is_first && is_background_due(&db, assignment));
        let recycled = super::displaced::listed(&db, &disk.recycle).context("list the recycle area")?;
        let remote: Arc<Remote> = Arc::default();
        let places: Arc<Places> = Arc::default();
        let runtime = thread.common.runtime.clone();
        let fetcher = Fetcher {
            share: share.clone(),
            remote: Arc::clone(&remote),
            places: Arc::clone(&places),
            runtime: runtime.clone(),
        };
        if let Some(tiered) = &disk.tiered {
            tiered.set_caught_up(false);
            tiered.lend(fetcher.clone(), StateReaders::new(disk.root.database_path(), assignment.case));
        }
        let packing = Packing {
            share,
            remote: Arc::clone(&remote),
            tracker: Default::default(),
            facts: thread.facts.clone(),
            runtime,
            room: Arc::new(Semaphore::new(PACKS_MIB_MAX)),
            spare: Arc::default(),
        };
        let turn = thread.turn(&disk.root);
        Ok(Self {
            engine: Engine::new(settings, random()),
            db,
            jobs: Jobs::start(&disk, &fetcher, &thread.facts, recycled),
            store: Lanes::start(Arc::new(packing), &disk),
            disk,
            feed: FeedReader::new(Arc::clone(&remote), places),
            remote,
            instance,
            began: Instant::now(),
            wake_at_ms: None,
            root_checked: Instant::now(),
            rows_to_settle: None,
            rate: Rate::default(),
            last_sync_unix_ms: 0,
            trim_at_ms: 0,
            answers: Vec::new(),
            ended: None,
            is_first,
            turn,
        })
    }

    /// Lives until the end.
    pub(crate) fn run(mut self, thread: &mut Thread) -> Result<Ended> {
        let outcome = self.run_inner(thread);
        self.remote.set(None);
        outcome.inspect_err(|error| {
            tracing::error!(error = status::sentence(error.chain()), "the endpoint begins again");
        })
    }

    fn run_inner(&mut self, thread: &mut Thread) -> Result<Ended> {
        let mut hands = self.disk.hands();
        let root = hands.look_at_root().context("look at the folder")?;
        let started = Event::Started(Started { instance: self.instance, root: Ok(root) });
        let mut effects = Vec::new();
        self.step(started, &mut effects)?;
        if thread.assignment.paused || thread.common.state.is_paused(thread.assignment.endpoint) {
            self.step(Event::Command(Command::Pause), &mut effects)?;
        }
        if thread.link.is_some() {
            self.step(Event::Connected, &mut effects)?;
        }
        self.show(thread, |shown| *shown = Shown { watching: self.jobs.watching(), ..Shown::default() });
        loop {
            if let Some(why) = self.ended.take() {
                // What the last steps want is void, as after a crash. Above all an opening of the instance that ended: the
                // service would take it for a second agent, or for a state that was set back once more.
                self.db.commit(true).context("commit the state database")?;
                return Ok(Ended::Again(why));
            }
            self.carry_out(thread, effects)?;
            effects = Vec::new();
            if self.round(thread, &mut effects)? {
                return Ok(Ended::ForGood);
            }
            if self.root_checked.elapsed() >= ROOT_CHECK {
                self.root_checked = Instant::now();
                if let Err(error) = self.disk.root.check() {
                    return Ok(Ended::Again(status::chain(&error).into()));
                }
                if thread.mounted.as_ref().is_some_and(|mounted| !mounted.is_served()) {
                    return Ok(Ended::Again("its mount is gone".into()));
                }
                if self.turn.as_ref().is_some_and(Turn::is_ready) {
                    thread.turns = thread.mounted.is_some();
                    return Ok(Ended::Again("its folder is laid out anew".into()));
                }
                let layout = self.layout();
                self.show(thread, |shown| shown.layout = layout);
            }
        }
    }

    /// Takes what has come, at least one thing or the passing of time. `true`: the endpoint ends.
    fn round(&mut self, thread: &mut Thread, effects: &mut Vec<Effect>) -> Result<bool> {
        let mut input = match thread.from.recv_timeout(self.until_wake()) {
            Ok(input) => input,
            Err(RecvTimeoutError::Timeout) => {
                if self.wake_at_ms.is_some_and(|at| at <= self.now().mono_ms) {
                    self.wake_at_ms = None;
                    self.step(Event::Woke, effects)?;
                }
                return Ok(false);
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(true),
        };
        // What has come meanwhile shares the commit. Whatever leaves the queue is carried out: a fact that is lost
        // is never told again.
        for _ in 1..FACTS_MAX {
            if self.take(thread, input, effects)? {
                return Ok(true);
            }
            match thread.from.try_recv() {
                Ok(next) => input = next,
                Err(_) => return Ok(false),
            }
        }
        self.take(thread, input, effects)
    }

    fn until_wake(&self) -> Duration {
        let wake = self.wake_at_ms.map(|at| Duration::from_millis(at.saturating_sub(self.now().mono_ms)));
        let settle = self.rows_to_settle.map(|since| ROWS_SETTLE_MAX.saturating_sub(since.elapsed()));
        [wake, settle].into_iter().flatten().fold(ROOT_CHECK, Duration::min)
    }

    /// Whether rows must be durable now: they have waited long enough, or what they tell of is about to change again.
    fn settles_rows(&self, effects: &[Effect]) -> bool {
        let changes = |effect: &Effect| matches!(effect, Effect::Apply(apply) if !apply.only_makes());
        let due = |since: Instant| since.elapsed() >= ROWS_SETTLE_MAX || effects.iter().any(changes);
        self.rows_to_settle.is_some_and(due)
    }

    fn take(&mut self, thread: &mut Thread, input: Input, effects: &mut Vec<Effect>) -> Result<bool> {
        match input {
            Input::Fact(event) => {
                if matches!(event, Event::Applied { .. }) {
                    self.rows_to_settle.get_or_insert_with(Instant::now);
                }
                self.step(event, effects)?;
            }
            Input::Network(outcome) => self.network(thread, outcome, effects)?,
            Input::Up(link) => {
                if thread.link.replace(link).is_some() {
                    self.lose_link(polder_engine::Unreachable::Network("a new session".into()), effects)?;
                }
                self.step(Event::Connected, effects)?;
            }
            Input::Down(why) => {
                thread.link = None;
                self.lose_link(why, effects)?;
            }
            Input::Head(head) => {
                thread.head = thread.head.max(head);
                self.step(Event::Head(head), effects)?;
            }
            Input::Settings(assignment) => self.settings(thread, *assignment, effects)?,
            Input::Command(command) => self.step(Event::Command(command), effects)?,
            Input::Explain(path, answer) => {
                let status = thread.shown.lock().expect(LOCK).status.clone();
                let explained =
                    super::explain::explain(&self.db, thread.assignment.case, &path, status.as_deref());
                let _ = answer.send(explained.map_err(|error| status::chain(&error)));
            }
            Input::Review(decision, answer) => {
                let extras = self.engine.extras_below(&self.db, &decision.paths)?;
                let Decision { accept, paths } = decision;
                self.step(Event::Command(Command::Review { accept, paths }), effects)?;
                self.answers.push((answer, extras.len() as u64));
            }
            Input::Brought => self.db.put_note(NOTE_BROUGHT, &[1])?,
            Input::Uses(uses) => self.db.note_uses(&uses, super::pins::after_use)?,
            Input::Pin(path, pinned, answer) => {
                let outcome = super::pins::set(&mut self.db, thread.assignment.case, &path, pinned);
                let _ = answer.send(outcome.map_err(|error| status::sentence(error.chain())));
            }
            Input::Clear(wish) => {
                let agreed = super::ensure_agreed(&thread.shown.lock().expect(LOCK));
                match agreed {
                    Ok(_) => {
                        thread.clear = Some(wish);
                        self.ended = Some("it is to be unmounted".into());
                    }
                    // Something has come since, and may be on its way to the disk.
                    Err(why) => drop(wish.answer.send(Err(why))),
                }
            }
            Input::End => return Ok(true),
        }
        Ok(false)
    }

    fn lose_link(&mut self, why: polder_engine::Unreachable, effects: &mut Vec<Effect>) -> Result<()> {
        self.remote.set(None);
        self.step(Event::Disconnected { why }, effects)
    }

    fn settings(&mut self, thread: &mut Thread, new: Assignment, effects: &mut Vec<Effect>) -> Result<()> {
        let old = std::mem::replace(&mut thread.assignment, new);
        let new = &thread.assignment;
        if old.share_keys != new.share_keys || old.apply_privileged_attrs != new.apply_privileged_attrs {
            // Keys and policies are in the hands of many threads: begin anew.
            self.ended = Some("its settings changed".into());
            return Ok(());
        }
        let settings = settings(&thread.common, new, self.is_first)?;
        *self.disk.filter.write().expect(LOCK) = Arc::clone(&settings.filter);
        self.disk.set_arrivals(new, self.is_first);
        let is_turned = old.tiering.enabled != new.tiering.enabled;
        let paused = (old.paused, new.paused);
        if is_turned {
            self.turn = thread.turn(&self.disk.root);
        }
        self.step(Event::Command(Command::Settings(Box::new(settings))), effects)?;
        if paused.0 != paused.1 {
            let command = if paused.1 { Command::Pause } else { Command::Resume };
            self.step(Event::Command(command), effects)?;
        }
        Ok(())
    }

    fn network(&mut self, thread: &Thread, outcome: Outcome, effects: &mut Vec<Effect>) -> Result<()> {
        match outcome {
            Outcome::Page { job, page } => self.step(Event::Page { job, page }, effects),
            Outcome::Answered { job, answer } => {
                if let Ok(answer) = &answer {
                    self.missing_chunks(&answer.groups);
                }
                self.step(Event::Answered { job, answer }, effects)
            }
            Outcome::NotOpen { link } if thread.link.as_ref().is_some_and(|now| now.number == link) => {
                self.lose_link(polder_engine::Unreachable::Network("opened anew".into()), effects)?;
                self.step(Event::Connected, effects)
            }
            Outcome::Announced { job, link, answer }
                if thread.link.as_ref().is_some_and(|now| now.number == link) =>
            {
                self.announced(job, answer, effects)
            }
            // After a flush that failed nobody knows what the disk holds: all is looked at anew.
            Outcome::NotDurable(error) => Err(error).context("make the volume durable"),
            // Of a session that is over.
            Outcome::NotOpen { .. } | Outcome::Announced { .. } => Ok(()),
        }
    }

    /// The service lacks chunks that were thought to be there: they are not believed in again.
    fn missing_chunks(&self, groups: &[GroupAnswer]) {
        for group in groups {
            if let GroupAnswer::Refused { why: Refusal::ChunksMissing(ids), .. } = group {
                self.store.lost(ids);
            }
        }
    }

    fn announced(
        &mut self,
        job: polder_engine::JobId,
        answer: Opening,
        effects: &mut Vec<Effect>,
    ) -> Result<()> {
        let answer = match answer {
            Opening::Accepted { open, head, kept, kept_known } => {
                self.db.put_note(NOTE_OPENINGS, &open.opening)?;
                self.remote.set(Some(*open));
                Announced::Accepted { head, answers: kept, answers_known: kept_known, held: false }
            }
            Opening::Rebaseline(anew) => {
                self.end_instance()?;
                Announced::Rebaseline(anew)
            }
            Opening::AwayTooLong(why) => {
                self.end_instance()?;
                Announced::AwayTooLong { why }
            }
            Opening::Refused(why) => return self.lose_link(why, effects),
            Opening::Failed(why) => Announced::Failed(why),
        };
        self.step(Event::Announced { job, answer }, effects)
    }

    /// A new instance: what the old one is said to have done proves nothing any more.
    fn end_instance(&mut self) -> Result<()> {
        self.db.put_note(NOTE_INSTANCE, &random::<16>())?;
        self.db.put_note(NOTE_OPENINGS, &[])?;
        self.ended = Some("it is compared with the share anew".into());
        Ok(())
    }

    fn step(&mut self, event: Event, effects: &mut Vec<Effect>) -> Result<()> {
        let now = self.now();
        tracing::trace!(?event, "in");
        let out = self.engine.step(&mut self.db, now, event)?;
        out.iter().for_each(|effect| tracing::trace!(?effect, "out"));
        effects.extend(out);
        Ok(())
    }

    /// Commits, and then does what the steps said.
    fn carry_out(&mut self, thread: &Thread, effects: Vec<Effect>) -> Result<()> {
        let announcement = self.prepare_announcement(thread, &effects)?;
        let durable = effects.iter().any(Effect::needs_durable_store)
            || self.settles_rows(&effects)
            || !self.answers.is_empty();
        self.db.commit(durable).context("commit the state database")?;
        if durable {
            self.rows_to_settle = None;
        }
        for (answer, count) in std::mem::take(&mut self.answers) {
            let _ = answer.send(count);
        }
        let runtime = &thread.common.runtime;
        if let (Some(what), Some(link)) = (announcement, thread.link.clone()) {
            runtime.spawn(network::announce(link, what, thread.facts.clone()));
        }
        for effect in effects {
            match effect {
                Effect::Look { job, places } => self.jobs.look(job, places),
                Effect::List { job, dir, recursive, credit } => {
                    self.jobs.list(job, &dir, recursive, credit, thread.assignment.case);
                }
                Effect::Credit { job, more } => self.jobs.credit(job, more),
                Effect::Read(read) => self.store.read(read),
                Effect::Apply(apply) => self.jobs.apply(apply),
                Effect::MakeDurable { job } => {
                    runtime.spawn(network::make_durable(Arc::clone(&self.disk), job, thread.facts.clone()));
                }
                Effect::Cancel(job) => {
                    self.store.cancel(job);
                    self.jobs.forget_scan(job);
                }
                Effect::Announce { .. } => (),
                Effect::FetchFeed { job, after, page } => {
                    let feed = self.feed.clone();
                    runtime.spawn(feed.page(job, Some(after), page.is_some(), thread.facts.clone()));
                }
                Effect::FetchTree { job, page } => {
                    let feed = self.feed.clone();
                    runtime.spawn(feed.page(job, None, page.is_some(), thread.facts.clone()));
                }
                Effect::Send { job, batch, known, groups } => {
                    let author = Author { by: self.instance, batch };
                    let batch = network::Batch { job, author, known, groups };
                    let (remote, disk) = (Arc::clone(&self.remote), Arc::clone(&self.disk));
                    runtime.spawn(network::send(remote, disk, batch, thread.facts.clone()));
                }
                Effect::WakeAt(at) => self.wake_at_ms = Some(at),
                Effect::Status(status) => self.status(thread, status),
                Effect::Log(line) => log(&line),
            }
        }
        Ok(())
    }

    /// Draws the opening of an announcement and writes it down, to be durable before it is sent.
    fn prepare_announcement(&mut self, thread: &Thread, effects: &[Effect]) -> Result<Option<Announcement>> {
        let announce = effects.iter().rev().find_map(|effect| match effect {
            Effect::Announce { job, next, known, open } => Some((*job, *next, *known, open.clone())),
            _ => None,
        });
        let Some((job, next, known, open)) = announce else { return Ok(None) };
        let noted = self.db.note(NOTE_OPENINGS)?.unwrap_or_default();
        let previous: Vec<[u8; 16]> =
            noted.chunks_exact(16).map(|nonce| nonce.try_into().expect("sixteen bytes")).collect();
        let opening = random();
        // The first is the last accepted one, and is kept; of the others the newest.
        let mut kept: Vec<[u8; 16]> = previous.clone();
        while kept.len() + 1 > OPENINGS_MAX {
            kept.remove(1);
        }
        kept.push(opening);
        self.db.put_note(NOTE_OPENINGS, &kept.concat())?;
        let endpoint = thread.assignment.endpoint;
        let instance = self.instance;
        Ok(Some(Announcement { job, endpoint, instance, opening, previous, next, known, open }))
    }

    fn status(&mut self, thread: &Thread, status: Arc<polder_engine::Status>) {
        let now = self.now();
        if let Some(tiered) = &self.disk.tiered {
            tiered.set_caught_up(status.caught_up);
        }
        let (sent_bytes, received_bytes) = self.remote.moved_bytes();
        let moved = Moved {
            sent_bytes,
            received_bytes,
            sent_nodes: status.up.done_count,
            received_nodes: status.down.done_count,
        };
        if status.phase == Phase::InSync {
            self.last_sync_unix_ms = now.unix_ms as i64;
            if std::mem::take(&mut self.is_first) {
                // With the next commit; if that is lost, a few files arrive in the other way.
                let _ = self.db.put_note(NOTE_ARRIVED, &[1]);
                note_united(&thread.common.state, &thread.assignment);
                self.disk.set_arrivals(&thread.assignment, false);
                thread.desk.set_background(is_background_due(&self.db, &thread.assignment));
            }
            if self.trim_at_ms <= now.mono_ms {
                self.trim_at_ms = now.mono_ms + TRIM_EVERY_MS;
                polder_replica::give_memory_back();
            }
        }
        let a_second = self.rate.a_second(moved, now.mono_ms);
        let (nodes, bytes) = self.db.agreed();
        let extra = Extra {
            sent_bytes,
            received_bytes,
            sent_bytes_per_s: a_second.sent_bytes,
            received_bytes_per_s: a_second.received_bytes,
            sent_nodes_per_s: a_second.sent_nodes,
            received_nodes_per_s: a_second.received_nodes,
            last_sync_unix_ms: self.last_sync_unix_ms,
            recycled_bytes: self.disk.recycled_bytes.load(Ordering::Relaxed),
            nodes,
            bytes,
        };
        let (watching, layout) = (self.jobs.watching(), self.layout());
        let status = Some(status);
        self.show(thread, |shown| *shown = Shown { status, waiting: None, watching, extra, layout });
    }

    fn layout(&self) -> Option<Box<str>> {
        self.turn.as_ref().and_then(Turn::why)
    }

    fn show(&self, thread: &Thread, change: impl FnOnce(&mut Shown)) {
        change(&mut thread.shown.lock().expect(LOCK));
    }

    fn now(&self) -> Now {
        let unix_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64);
        Now { mono_ms: self.began.elapsed().as_millis() as u64, unix_ms }
    }
}

/// Whether what came as names alone, all of which are here, is to be fetched in the background.
fn is_background_due(db: &StateDb, assignment: &Assignment) -> bool {
    // What cannot be read is asked for again in the next life.
    assignment.initial_download == InitialDownload::NamespaceFirst
        && db.note(NOTE_BROUGHT).is_ok_and(|note| note.is_none_or(|note| note.is_empty()))
}

/// Writes down whose database it is. One that comes from another endpoint, whose folder was taken over, has brought nothing for this one.
fn own(db: &mut StateDb, endpoint: EndpointId) -> Result<()> {
    let noted = db.note(NOTE_ENDPOINT)?;
    if noted.as_deref() == Some(&endpoint.0[..]) {
        return Ok(());
    }
    if noted.is_some() {
        db.put_note(NOTE_BROUGHT, &[])?;
    }
    db.put_note(NOTE_ENDPOINT, &endpoint.0)?;
    Ok(db.commit(true)?)
}

/// The instance of this database, drawn when it is new.
fn instance(db: &mut StateDb) -> Result<InstanceId> {
    if let Some(instance) = db.note(NOTE_INSTANCE)?.and_then(|bytes| InstanceId::from_slice(&bytes)) {
        return Ok(instance);
    }
    let instance = InstanceId(random());
    db.put_note(NOTE_INSTANCE, &instance.0)?;
    db.commit(true)?;
    Ok(instance)
}

fn log(line: &LogLine) {
    let node = line.uid.map(|uid| uid.to_string());
    let path = line.path.as_ref().map(ToString::to_string);
    match line.level {
        Level::Debug => tracing::debug!(node, path, "{}", line.text),
        Level::Info => tracing::info!(node, path, "{}", line.text),
        Level::Warn => tracing::warn!(node, path, "{}", line.text),
        Level::Error => tracing::error!(node, path, "{}", line.text),
    }
}
