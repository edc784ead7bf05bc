//! A life of an agent over a root: as `agent/src/endpoint/life.rs`.

use polder_engine::{Anew, Announced, Effect, Engine, Event, Now, Settings, Started};
use polder_sync::TreeStore;
use polder_types::{BatchNo, Cursor, InstanceId};

use super::Host;
use crate::disk::STAGING;
use crate::service::opening::{Asked, Decided, OPENINGS_MAX};

const NOTE_INSTANCE: &str = "agent/instance";
const NOTE_OPENINGS: &str = "agent/openings";
/// What was applied is known to the state database, power cuts included, after so long.
pub const ROWS_SETTLE_MS: u64 = 100;

const MAPS: &str = "maps do not fail";

impl Host {
    /// Opens the root and begins a life: its first fact. `None` when the root is not there.
    pub fn begin(&mut self, time_ms: u64, settings: Settings) -> Option<Event> {
        if !self.mounted {
            return None;
        }
        self.life += 1;
        self.began_ms = time_ms;
        self.instance = self.noted_instance();
        let instance = self.instance;
        self.empty_staging();
        self.list_recycled();
        let mut seed = [0u8; 32];
        seed[..16].copy_from_slice(&self.random());
        self.engine = Some(Engine::new(settings, seed));
        self.disk.watched = true;
        Some(Event::Started(Started { instance, root: Ok(self.root_seen()) }))
    }

    fn empty_staging(&mut self) {
        let names: Vec<_> =
            self.disk.names(STAGING).into_iter().flatten().map(|(name, _)| name.clone()).collect();
        names.iter().for_each(|name| self.disk.detach(STAGING, name));
    }

    /// The instance of the state database, drawn when it is new.
    fn noted_instance(&mut self) -> InstanceId {
        let noted = self.store.note(NOTE_INSTANCE).expect(MAPS);
        if let Some(instance) = noted.and_then(|bytes| InstanceId::from_slice(&bytes)) {
            return instance;
        }
        self.new_instance();
        self.store.commit(true).expect(MAPS);
        self.noted_instance()
    }

    fn new_instance(&mut self) {
        let instance = self.random();
        self.store.put_note(NOTE_INSTANCE, &instance).expect(MAPS);
    }

    /// The life ends: everything that it had in memory is gone.
    pub fn end_life(&mut self) {
        self.engine = None;
        self.life += 1;
        self.status = None;
        self.wake = None;
        self.walks.clear();
        self.cancelled.clear();
        self.applying.clear();
        self.packing = super::packing::Packing::default();
        self.recycle.forget();
        self.rows_to_settle = None;
        self.disk.watched = false;
        self.disk.untold = true;
        self.disk.take_hints();
    }

    /// The agent's process is killed: what it wrote is in the page cache.
    pub fn kill(&mut self) {
        self.end_life();
        self.running = false;
        self.link = None;
        self.gate.lose_worker();
        self.disk.known.clear();
    }

    /// The machine loses power: of what was not made durable, some is there afterwards.
    pub fn power_cut(&mut self, rng: &mut crate::rng::Rng) {
        self.kill();
        self.gate.lose_machine();
        self.programs.clear();
        let kept = rng.below(self.store.volatile_commits() as u64 + 1) as usize;
        self.store.crash(kept);
        self.disk.power_cut(rng);
    }

    /// One step, with the commit that its effects need.
    pub fn step(&mut self, time_ms: u64, event: Event) -> Vec<Effect> {
        let unix_ms = self.wall_ms(time_ms);
        let now = Now { mono_ms: time_ms - self.began_ms, unix_ms };
        self.before(time_ms, &event);
        let Some(engine) = &mut self.engine else { return Vec::new() };
        let effects = engine.step(&mut self.store, now, event).expect(MAPS);
        self.after(time_ms, &effects);
        effects
    }

    fn before(&mut self, time_ms: u64, event: &Event) {
        match event {
            Event::Applied { .. } => drop(self.rows_to_settle.get_or_insert(time_ms)),
            Event::Answered { answer: Ok(answer), .. } => {
                self.missing_chunks(answer);
            }
            _ => (),
        }
    }

    fn after(&mut self, time_ms: u64, effects: &[Effect]) {
        for effect in effects {
            match effect {
                Effect::Cancel(job) => {
                    self.walks.remove(job);
                    self.cancelled.insert(*job);
                }
                Effect::Status(status) => self.status = Some(status.clone()),
                _ => (),
            }
        }
        // What the share is told must not be lost here by a power cut.
        let sends = effects.iter().any(|effect| matches!(effect, Effect::Send { .. }));
        if sends {
            self.disk.sync_all();
        }
        let durable = effects.iter().any(Effect::needs_durable_store) || self.settles_rows(time_ms, effects);
        self.commit(durable);
    }

    fn settles_rows(&self, time_ms: u64, effects: &[Effect]) -> bool {
        let changes = |effect: &Effect| matches!(effect, Effect::Apply(apply) if !apply.only_makes());
        let due = |since: u64| time_ms >= since + ROWS_SETTLE_MS || effects.iter().any(changes);
        self.rows_to_settle.is_some_and(due)
    }

    /// Commits the state database.
    pub fn commit(&mut self, durable: bool) {
        self.store.commit(durable).expect(MAPS);
        if durable {
            self.rows_to_settle = None;
        }
    }

    /// What an announcement says; its opening is written down first, to be durable before it is sent.
    pub fn prepare_opening(&mut self, next: BatchNo, known: Cursor, open: &[BatchNo]) -> Asked {
        let instance = self.instance;
        let noted = self.store.note(NOTE_OPENINGS).expect(MAPS).unwrap_or_default();
        let nonce = |bytes: &[u8]| InstanceId::from_slice(bytes).expect("sixteen bytes");
        let previous: Vec<InstanceId> = noted.chunks_exact(16).map(nonce).collect();
        let opening = InstanceId(self.random());
        let mut kept = previous.clone();
        while kept.len() + 1 > OPENINGS_MAX {
            kept.remove(1);
        }
        kept.push(opening);
        let bytes: Vec<u8> = kept.iter().flat_map(|opening| opening.0).collect();
        self.store.put_note(NOTE_OPENINGS, &bytes).expect(MAPS);
        self.commit(true);
        let (endpoint, process) = (self.endpoint, self.process);
        Asked { endpoint, instance, opening, previous, next_batch: next, known, process, open: open.to_vec() }
    }

    /// What the answer to an opening means.
    pub fn opened(&mut self, asked: &Asked, decided: &Decided) -> Opening {
        match decided {
            Decided::Opened { head, kept } => {
                self.store.put_note(NOTE_OPENINGS, &asked.opening.0).expect(MAPS);
                if let Some(link) = &mut self.link {
                    link.open = Some(asked.opening);
                }
                let (head, answers) = (*head, kept.clone());
                Opening::Accepted(Announced::Accepted { head, answers, answers_known: true, held: false })
            }
            Decided::SetBack(why) => self.anew(why, false),
            Decided::OtherHistory => self.anew("the share's history is another one", true),
            Decided::Clone | Decided::Stopped | Decided::Late => Opening::Refused,
        }
    }

    fn anew(&mut self, why: &str, other_history: bool) -> Opening {
        self.new_instance();
        self.store.put_note(NOTE_OPENINGS, &[]).expect(MAPS);
        Opening::Anew(Announced::Rebaseline(Anew { why: why.into(), other_history }))
    }

    /// The folder is taken over by another endpoint, or its state is deleted: the state database is empty.
    pub fn forget_state(&mut self) {
        self.store = polder_sync::mem::MemStore::new(polder_types::CaseRule::Sensitive);
    }
}

/// What an opening means for the agent.
pub enum Opening {
    /// The engine goes on.
    Accepted(Announced),
    /// The engine merges; the life ends with it.
    Anew(Announced),
    /// There is no session for the endpoint.
    Refused,
}
