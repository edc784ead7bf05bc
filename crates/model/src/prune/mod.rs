//! Prune × upload × deduplication × snapshots × placeholders × damage.
//!
//! Production functions: of `polder_ledger` `have`, `register_pack`, `commit`, `pack_verified`, `pack_failed`, `references`,
//! `condemn_packs`, `spare_packs`, `delete_stray`, `delete_packs`, `forget_step`, `forget_pack`, `create_snapshot`,
//! `delete_snapshot`, `set_applied`, `expire_step`, `stat`, `locate`; `polder_backup::plan_prune`; the rows in memory
//! of `polder_metadata`.
//!
//! Mirrored, because they wait for a store: the order of steps of `polder_service::work::prune` ([`run`]; a page of
//! marks, a listing, a transaction, the deletion of an object are one step each, and a crash may come after any), of
//! `work::repack`, of `packs::http` (an object first, then its rows) and of the agent's lane ([`lane`]).
//!
//! Promises: whatever can be reached (live, in a snapshot, as of the cursor of an endpoint) keeps a sound copy of its
//! chunk in the store that a row leads to or will lead to; no commit is taken that names a chunk which lies in no durable
//! live pack; "you need not send it" is said only of chunks of which a sound copy is there; a pack fails only when it
//! was damaged.

mod lane;
mod run;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};

use polder_ledger::{At, HistoryPolicy, LedgerError, PackState};
use polder_types::{EndpointId, PackId, Seq};
use stateright::{Model, Property};

use crate::share::{Share, chunk, chunk_of, item, print_of};
pub use lane::Lane;
pub use run::Run;

/// Endpoints of the world.
pub const AGENTS: usize = 2;
/// Items of the world.
pub const ITEMS: usize = 2;

/// How often each thing may happen in one story.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Budget {
    /// An agent begins to send a version.
    pub edits: u8,
    /// An item is deleted.
    pub deletes: u8,
    /// Prune begins a run.
    pub looks: u8,
    /// A day goes by: longer than any grace.
    pub days: u8,
    /// The service stops between an object and its rows.
    pub lost: u8,
    /// An upload arrives damaged although its footer is sound.
    pub damage: u8,
    /// A snapshot is taken; it may be deleted again.
    pub snapshots: u8,
    /// An endpoint says that it has applied everything.
    pub pins: u8,
    /// Prune's process ends in the middle.
    pub crashes: u8,
    /// An agent leaves an upload behind.
    pub give_ups: u8,
}

/// A rule that is left out, to see that the search finds what it is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// The head of the condemnation is noted after the marks, and the second look is the first one.
    OneLook,
    /// Unverified packs serve for deduplication.
    UnverifiedHave,
    /// An object without a row is deleted with no row that says so.
    StrayWithoutRow,
    /// The row of a deleted pack goes in the run in which its object goes.
    RowsAtOnce,
    /// Only live versions are marked.
    LiveMarksOnly,
    /// Verification does not give a chunk a home whose first pack is not known to be sound.
    HomesStay,
}

/// The world and how it is searched.
#[derive(Debug, Clone)]
pub struct PruneModel {
    /// How often what may happen.
    pub budget: Budget,
    /// Chunks that the items may consist of.
    pub chunks: u8,
    /// References of one page of marks.
    pub page: usize,
    /// What is there in the beginning.
    pub start: Start,
    /// Whether prune runs as one step; else others come between its steps.
    pub prune_at_once: bool,
    /// Whether packs are merged and repacked.
    pub rewrites: bool,
    /// Whether packs are read back at some time, in two steps; else at once.
    pub slow_verify: bool,
    /// Whether history ends at some time; else at once.
    pub slow_expire: bool,
    /// A rule that is left out.
    pub broken: Option<Broken>,
}

/// What is there in the beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Nothing.
    Empty,
    /// A verified pack of yesterday that nothing refers to.
    Waste,
    /// Two files of yesterday, each with a verified pack.
    TwoFiles,
}

/// An object of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// The chunks in it.
    pub chunks: Vec<u8>,
    /// Whether its bytes are what they should be.
    pub sound: bool,
}

/// What an item consists of, as the harness remembers it: its chunk, and whether its author sent that in vain, because the
/// copy arrived damaged.
pub type Cell = Option<(u8, bool)>;
/// All items at one moment.
pub type Cells = [Cell; ITEMS];

/// A state of the world.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    pub(crate) share: Share,
    pub(crate) store: BTreeMap<u8, Object>,
    pub(crate) now_ms: u64,
    pub(crate) left: Budget,
    pub(crate) lanes: [Lane; AGENTS],
    pub(crate) run: Option<Run>,
    /// Packs in the store without a row, and since when prune knows: `polder_service::work::prune::Prune::strays`.
    pub(crate) strays: BTreeMap<u8, u64>,
    pub(crate) verifying: Option<(u8, bool)>,
    pub(crate) next_pack: u8,
    pub(crate) batches: u64,
    pub(crate) live: Cells,
    pub(crate) snapshot: Option<(Seq, Cells)>,
    pub(crate) pins: [Option<(Seq, Cells)>; AGENTS],
    pub(crate) fault: Option<String>,
}

impl Hash for State {
    fn hash<H: Hasher>(&self, to: &mut H) {
        print_of(self).hash(to);
    }
}

/// A step of the world.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// An agent has a new version of an item and asks whether its chunk is known.
    Ask(usize, u8, u8),
    /// Its pack becomes durable in the store; sound or not.
    Put(usize, bool),
    /// The service registers that pack and answers.
    Register(usize),
    /// The service stops before it registered; the agent will put the same pack again.
    Lose(usize),
    /// The agent drops what it was about to send.
    GiveUp(usize),
    /// The agent offers the version; with `true` the old content goes to the other item in the same group.
    Commit(usize, bool),
    /// The agent deletes an item.
    Delete(u8),
    /// A pack is read back.
    Verify(u8),
    /// What reading it found is noted.
    Verified,
    /// Prune makes its next step, or begins.
    Prune,
    /// Prune's process ends and forgets.
    Crash,
    /// A day goes by.
    Day,
    /// History ends as far as it may.
    Expire,
    /// A snapshot is taken.
    Snapshot,
    /// It is deleted.
    DeleteSnapshot,
    /// An endpoint has applied everything, with placeholders.
    Apply(usize),
}

/// A day of the model in milliseconds: one second, which is every period of its settings.
const DAY_MS: u64 = 1000;

impl Model for PruneModel {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut state = State {
            share: Share::new(),
            store: BTreeMap::new(),
            now_ms: DAY_MS,
            left: self.budget,
            lanes: Default::default(),
            run: None,
            strays: BTreeMap::new(),
            verifying: None,
            next_pack: 1,
            batches: 0,
            live: [None; ITEMS],
            snapshot: None,
            pins: [None; AGENTS],
            fault: None,
        };
        let files: &[u8] = if self.start == Start::Empty { &[] } else { &[0, 1][..] };
        for item in files.iter().copied().filter(|item| *item == 0 || self.start == Start::TwoFiles) {
            let commits = self.start == Start::TwoFiles;
            self.begin_with(&mut state, item, commits).expect("a new share takes packs and commits");
        }
        state.now_ms += DAY_MS;
        vec![state]
    }

    fn actions(&self, state: &State, out: &mut Vec<Action>) {
        if state.fault.is_some() {
            return;
        }
        let left = &state.left;
        for agent in 0..AGENTS {
            lane::actions(self, state, agent, out);
            if left.pins > 0 {
                out.push(Action::Apply(agent));
            }
        }
        if left.deletes > 0 {
            out.extend(
                (0..ITEMS as u8).filter(|at| state.live[usize::from(*at)].is_some()).map(Action::Delete),
            );
        }
        match state.verifying {
            Some(_) => out.push(Action::Verified),
            None if self.slow_verify => out.extend(state.unverified().into_iter().map(Action::Verify)),
            None => (),
        }
        if state.run.is_some() && left.crashes > 0 {
            out.push(Action::Crash);
        }
        // From an object to its rows takes a moment of one request: less than a day, and than the pause between two runs.
        let stored = state.lanes.iter().any(|lane| matches!(lane, Lane::Stored(_)));
        if state.run.is_some() || (left.looks > 0 && !stored) {
            out.push(Action::Prune);
        }
        if left.days > 0 && !stored {
            out.push(Action::Day);
        }
        if self.slow_expire {
            out.push(Action::Expire);
        }
        if state.snapshot.is_some() {
            out.push(Action::DeleteSnapshot);
        } else if left.snapshots > 0 {
            out.push(Action::Snapshot);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        if let Err(error) = self.step(&mut state, &action) {
            state.fault.get_or_insert(format!("{action:?}: {error}"));
        }
        if let Err(error) = self.at_once(&mut state) {
            state.fault.get_or_insert(error.to_string());
        }
        state.check();
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![Property::always("no promise is broken", |_, state: &State| state.fault.is_none())]
    }
}

impl PruneModel {
    fn step(&self, state: &mut State, action: &Action) -> Result<(), LedgerError> {
        match action {
            Action::Ask(agent, item, chunk) => lane::ask(self, state, *agent, *item, *chunk),
            Action::Put(agent, sound) => lane::put(state, *agent, *sound),
            Action::Register(agent) => lane::register(state, *agent),
            Action::Lose(agent) => lane::lose(state, *agent),
            Action::GiveUp(agent) => {
                state.left.give_ups -= 1;
                state.lanes[*agent] = Lane::Idle;
                Ok(())
            }
            Action::Commit(agent, beside) => lane::commit_version(state, *agent, *beside),
            Action::Delete(item) => lane::delete(state, *item),
            Action::Verify(pack) => {
                let sound = state.store.get(pack).is_some_and(|object| object.sound);
                state.verifying = Some((*pack, sound));
                Ok(())
            }
            Action::Verified => self.verified(state),
            Action::Prune => {
                run::step(self, state)?;
                while self.prune_at_once && state.run.is_some() && state.fault.is_none() {
                    run::step(self, state)?;
                }
                Ok(())
            }
            Action::Crash => {
                state.left.crashes -= 1;
                (state.run, state.strays) = (None, BTreeMap::new());
                Ok(())
            }
            Action::Day => {
                state.left.days -= 1;
                state.now_ms += DAY_MS;
                Ok(())
            }
            Action::Expire => state.expire(),
            Action::Snapshot => {
                state.left.snapshots -= 1;
                let now_ms = state.now_ms;
                let row = state.share.write(|rows| polder_ledger::create_snapshot(rows, "s", "", now_ms))?;
                state.snapshot = Some((row.cursor.seq, state.live));
                Ok(())
            }
            Action::DeleteSnapshot => {
                state.snapshot = None;
                state.share.write(|rows| polder_ledger::delete_snapshot(rows, "s"))
            }
            Action::Apply(agent) => {
                state.left.pins -= 1;
                let head = polder_ledger::share_row(state.share.rows())?.head;
                state.pins[*agent] = Some((head.seq, state.live));
                let endpoint = EndpointId([*agent as u8 + 1; 16]);
                state.share.write(|rows| polder_ledger::set_applied(rows, endpoint, head))
            }
        }
    }

    /// A pack with a chunk of its own, verified, and perhaps an item that consists of it.
    fn begin_with(&self, state: &mut State, item: u8, commits: bool) -> Result<(), LedgerError> {
        state.left.edits += 1;
        lane::ask(self, state, 0, item, item + 1)?;
        lane::put(state, 0, true)?;
        lane::register(state, 0)?;
        state.verifying = Some((state.next_pack - 1, true));
        self.verified(state)?;
        match commits {
            true => lane::commit_version(state, 0, false),
            false => {
                state.lanes[0] = Lane::Idle;
                Ok(())
            }
        }
    }

    /// What is not left to the order of things.
    fn at_once(&self, state: &mut State) -> Result<(), LedgerError> {
        if !self.slow_verify {
            for pack in state.unverified() {
                let sound = state.store.get(&pack).is_some_and(|object| object.sound);
                state.verifying = Some((pack, sound));
                self.verified(state)?;
            }
        }
        if self.slow_expire { Ok(()) } else { state.expire() }
    }

    /// `polder_service::work::verify`: what reading a pack back found.
    fn verified(&self, state: &mut State) -> Result<(), LedgerError> {
        let Some((pack, sound)) = state.verifying.take() else { return Ok(()) };
        let (id, now_ms) = (pack_id(pack), state.now_ms);
        // Its row may have gone meanwhile.
        if polder_ledger::pack(state.share.rows(), id)?.is_none() {
            return Ok(());
        }
        let object = state.store.get(&pack);
        let chunks = object.map_or(&[][..], |object| &object.chunks);
        let slots: Vec<_> = match self.broken {
            Some(Broken::HomesStay) => Vec::new(),
            _ => chunks.iter().map(|number| (chunk(*number), slot())).collect(),
        };
        match sound {
            true => state.share.write(|rows| polder_ledger::pack_verified(rows, id, &slots, now_ms)),
            false => state.share.write(|rows| polder_ledger::pack_failed(rows, id, now_ms)),
        }
    }
}

impl State {
    /// `polder_service::work::verify::Verify::sweep`: live packs that nobody has read back.
    fn unverified(&self) -> Vec<u8> {
        let packs = self.share.rows().packs(None, usize::MAX).unwrap_or_default();
        let waiting =
            packs.iter().filter(|(_, row)| row.state == PackState::Live && row.verified_ms.is_none());
        waiting.map(|(_, row)| row.id.0[0]).collect()
    }

    /// Until nothing is left to do, with no history but what is pinned.
    fn expire(&mut self) -> Result<(), LedgerError> {
        let policy = HistoryPolicy { thin: Vec::new(), history_ms: 0, absence_ms: 0 };
        let now_ms = self.now_ms;
        while self.share.write(|rows| polder_ledger::expire_step(rows, &policy, now_ms, 100))?.more {}
        Ok(())
    }

    /// The oracle.
    fn check(&mut self) {
        if self.fault.is_some() {
            return;
        }
        let mut views = vec![("now", At::Now, self.live)];
        views.extend(self.snapshot.map(|(seq, cells)| ("snapshot", At::Seq(seq), cells)));
        views.extend(self.pins.into_iter().flatten().map(|(seq, cells)| ("endpoint", At::Seq(seq), cells)));
        let mut found = views.into_iter().find_map(|(name, at, cells)| self.view_fault(name, at, &cells));
        if found.is_none() {
            found = self.pack_fault();
        }
        self.fault = found;
    }

    fn view_fault(&self, name: &str, at: At, cells: &Cells) -> Option<String> {
        for (number, cell) in cells.iter().enumerate() {
            let stat = polder_ledger::stat(self.share.rows(), item(number as u8), at);
            let there = match stat {
                Ok(state) => state.and_then(|state| chunk_of(&state.content)),
                Err(error) => return Some(format!("{name}: item {number}: {error}")),
            };
            if there != cell.map(|(chunk, _)| chunk) {
                return Some(format!("{name}: item {number} is {there:?} instead of {cell:?}"));
            }
            if let Some((chunk, false)) = cell
                && !self.is_kept(*chunk)
            {
                return Some(format!("{name}: chunk {chunk} of item {number} is gone"));
            }
        }
        None
    }

    /// Whether a sound copy lies where its row says, or in a live pack that is yet to be read back.
    fn is_kept(&self, number: u8) -> bool {
        let rows = self.share.rows();
        let holds = |pack: u8| {
            self.store.get(&pack).is_some_and(|object| object.sound && object.chunks.contains(&number))
        };
        let home =
            polder_ledger::locate(rows, &[chunk(number)]).ok().and_then(|found| found.into_iter().next()?);
        home.is_some_and(|home| holds(home.pack.0[0])) || self.unverified().into_iter().any(holds)
    }

    /// Rows and store fit: advice is sound, and nothing fails that was not damaged.
    fn pack_fault(&self) -> Option<String> {
        let rows = self.share.rows();
        let packs = rows.packs(None, usize::MAX).unwrap_or_default();
        for (_, row) in &packs {
            let object = self.store.get(&row.id.0[0]);
            match row.state {
                PackState::Live | PackState::Condemned if object.is_none() => {
                    return Some(format!("pack {} has a row and no object", row.id.0[0]));
                }
                PackState::Failed if object.is_none_or(|object| object.sound) => {
                    return Some(format!("pack {} failed and was never damaged", row.id.0[0]));
                }
                _ => (),
            }
        }
        None
    }

    /// Whether the sound copies of a chunk that a commit may rely on are at least one.
    pub(crate) fn has_durable_live_pack(&self, number: u8) -> bool {
        let found = polder_ledger::locate(self.share.rows(), &[chunk(number)]);
        let home = found.ok().and_then(|found| found.into_iter().next()?);
        home.is_some_and(|home| home.state == PackState::Live && self.store.contains_key(&home.pack.0[0]))
    }
}

pub(crate) fn pack_id(number: u8) -> PackId {
    PackId([number; 16])
}

pub(crate) fn slot() -> polder_ledger::Slot {
    polder_ledger::Slot::new(&[1]).expect("short")
}

/// Numbers of packs.
pub(crate) type Packs = BTreeSet<u8>;
