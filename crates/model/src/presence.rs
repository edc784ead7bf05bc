//! One file that is given up, read, written and recalled, while workers are killed and the power fails.
//!
//! Mirrored: the order of writes of `polder_replica::presence` (`Leaving`, `Presence::fill`, `Presence::settle`) and who waits for whom in
//! `polder_agent::tiered` (a lease while a file leaves; no fill without a mark; no writer before it is noted what a recalled file holds). A disk
//! that may keep any subset of what was not synced is more than a journal allows.
//!
//! Promises: whoever reads gets the user's bytes (I2); after a power cut every block is one that it was since the user's last sync;
//! nothing is freed that the share does not hold (I4).

use std::collections::BTreeSet;

use stateright::{Model, Property};

/// Blocks of the file.
const BLOCKS: usize = 2;
/// Threads that fetch.
const FETCHERS: usize = 2;

/// How often each thing may happen in one story.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Budget {
    /// A user writes a block.
    pub writes: u8,
    /// A user changes a block through a mapping.
    pub stores: u8,
    /// A user syncs.
    pub syncs: u8,
    /// The file is given up.
    pub tiers: u8,
    /// The worker is killed.
    pub kills: u8,
    /// The power fails.
    pub cuts: u8,
}

/// A rule that is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// A file leaves while somebody has it open.
    NoLease,
    /// What was changed through a mapping is not written back before the stamp is looked at.
    NoWriteBack,
    /// The mark is set after the bytes are gone.
    PunchBeforeMark,
    /// The mark is not durable when the bytes go.
    MarkNotDurable,
    /// What was fetched is written without a look at the mark.
    LateFill,
    /// The mark goes before the bytes are durable.
    UnmarkBeforeDurable,
    /// A writer is let in before it is noted what a recalled file holds.
    WriterBeforeNote,
}

/// The world and how it is searched.
#[derive(Debug, Clone)]
pub struct PresenceModel {
    /// How often what may happen.
    pub budget: Budget,
    /// A rule that is left out.
    pub broken: Option<Broken>,
}

/// Bytes of a block; `None`: a hole, which reads as zeros.
type Block = Option<u8>;

/// The file as the kernel has it, or as it is after the power failed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Inode {
    /// Stands for this version of the share.
    mark: Option<u8>,
    blocks: [Block; BLOCKS],
}

/// A change that is not durable yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Change {
    Mark(Option<u8>),
    Block(usize, Block),
}

impl Inode {
    fn make(&mut self, change: Change) {
        match change {
            Change::Mark(mark) => self.mark = mark,
            Change::Block(at, block) => self.blocks[at] = block,
        }
    }
}

/// One call of giving up or of making resident.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Call {
    Lease,
    Check,
    Mark,
    Sync,
    Punch(usize),
    Unmark,
    End,
}

/// A state of the world.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    now: Inode,
    durable: Inode,
    pending: Vec<Change>,
    /// Versions that the share holds verified.
    share: Vec<[u8; BLOCKS]>,
    /// The version that the file's stamp stands for.
    agreed: Option<u8>,
    is_open: bool,
    /// A mapping was written to, and nothing tells so yet.
    hidden: bool,
    /// How far giving up, and making resident, have come.
    leaving: Option<usize>,
    settling: Option<usize>,
    noting: Option<u8>,
    /// Memory of the worker: blocks at hand, while the file is taken up.
    held: Option<[bool; BLOCKS]>,
    fetched: [Option<(usize, u8)>; FETCHERS],
    /// What the user's file is, and what each block may be after a power cut.
    wanted: [u8; BLOCKS],
    allowed: [BTreeSet<u8>; BLOCKS],
    left: Budget,
    values: u8,
    fault: Option<&'static str>,
}

/// A step of the world.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// A program opens the file for writing.
    Open,
    /// It closes it.
    Close,
    /// It writes a block.
    Write(usize),
    /// It changes a block through a mapping.
    Store(usize),
    /// It syncs.
    UserSync,
    /// The content is read, sent, and verified by the service.
    Upload,
    /// The next call of giving up.
    Leave,
    /// A placeholder is taken up.
    TakeUp,
    /// A thread has fetched a block.
    Fetch(usize, usize),
    /// It writes it.
    Fill(usize),
    /// The next call of making resident.
    Settle,
    /// The worker is killed.
    Kill,
    /// The power fails; which of the changes that were not durable are kept.
    Cut(u32),
}

impl PresenceModel {
    fn leaving(&self) -> Vec<Call> {
        use Call::{Check, End, Lease, Mark, Punch, Sync};
        match self.broken {
            Some(Broken::NoLease) => vec![Check, Mark, Sync, Punch(0), Punch(1), End],
            Some(Broken::PunchBeforeMark) => vec![Lease, Check, Punch(0), Punch(1), Mark, Sync, End],
            Some(Broken::MarkNotDurable) => vec![Lease, Check, Mark, Punch(0), Punch(1), Sync, End],
            _ => vec![Lease, Check, Mark, Sync, Punch(0), Punch(1), End],
        }
    }

    fn settling(&self) -> Vec<Call> {
        use Call::{End, Sync, Unmark};
        match self.broken {
            Some(Broken::UnmarkBeforeDurable) => vec![Unmark, Sync, End],
            _ => vec![Sync, Unmark, Sync, End],
        }
    }

    fn may_open(&self, state: &State) -> bool {
        let noted = state.settling.is_none() || self.broken == Some(Broken::WriterBeforeNote);
        let leased = state.leaving.is_some() && self.broken != Some(Broken::NoLease);
        !state.is_open && !leased && noted && state.now.mark.is_none()
    }
}

impl Model for PresenceModel {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let inode = Inode { mark: None, blocks: [Some(1), Some(2)] };
        vec![State {
            now: inode.clone(),
            durable: inode,
            pending: Vec::new(),
            share: vec![[1, 2]],
            agreed: Some(0),
            is_open: false,
            hidden: false,
            leaving: None,
            settling: None,
            noting: None,
            held: None,
            fetched: [None; FETCHERS],
            wanted: [1, 2],
            allowed: [BTreeSet::from([1]), BTreeSet::from([2])],
            left: self.budget,
            values: 3,
            fault: None,
        }]
    }

    fn actions(&self, state: &State, out: &mut Vec<Action>) {
        if state.fault.is_some() {
            return;
        }
        let left = &state.left;
        if self.may_open(state) && left.writes + left.stores > 0 {
            out.push(Action::Open);
        }
        if state.is_open {
            out.push(Action::Close);
            for at in 0..BLOCKS {
                out.extend((left.writes > 0).then_some(Action::Write(at)));
                out.extend((left.stores > 0).then_some(Action::Store(at)));
            }
            out.extend((left.syncs > 0).then_some(Action::UserSync));
        }
        let is_still = state.leaving.is_none() && state.settling.is_none();
        if state.now.mark.is_none() && is_still && state.agreed.is_none() && state.share.len() < 4 {
            out.push(Action::Upload);
        }
        if state.leaving.is_some() || (left.tiers > 0 && state.settling.is_none() && state.agreed.is_some()) {
            out.push(Action::Leave);
        }
        if state.now.mark.is_some() && is_still && state.held.is_none() {
            out.push(Action::TakeUp);
        }
        for thread in 0..FETCHERS {
            match (state.fetched[thread], state.held) {
                (Some(_), _) => out.push(Action::Fill(thread)),
                (None, Some(held)) => {
                    out.extend((0..BLOCKS).filter(|at| !held[*at]).map(|at| Action::Fetch(thread, at)));
                }
                (None, None) => (),
            }
        }
        if state.settling.is_some() || state.held == Some([true; BLOCKS]) {
            out.push(Action::Settle);
        }
        out.extend((left.kills > 0).then_some(Action::Kill));
        if left.cuts > 0 {
            out.extend((0..1u32 << state.pending.len()).map(Action::Cut));
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Open => state.is_open = true,
            Action::Close => state.is_open = false,
            Action::Write(at) => {
                state.left.writes -= 1;
                state.user(at);
                state.agreed = None;
            }
            Action::Store(at) => {
                state.left.stores -= 1;
                state.user(at);
                state.hidden = true;
            }
            Action::UserSync => {
                state.left.syncs -= 1;
                state.sync();
                state.allowed = state.wanted.map(|value| BTreeSet::from([value]));
            }
            Action::Upload => state.upload(),
            Action::Leave => self.leave(&mut state),
            Action::TakeUp => state.held = Some([false; BLOCKS]),
            Action::Fetch(thread, at) => {
                let version = usize::from(state.now.mark?);
                state.fetched[thread] = Some((at, state.share[version][at]));
            }
            Action::Fill(thread) => self.fill(&mut state, thread),
            Action::Settle => self.settle(&mut state),
            Action::Kill => {
                state.left.kills -= 1;
                state.forget();
            }
            Action::Cut(kept) => state.cut(kept),
        }
        state.check();
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("no promise is broken", |_, state: &State| state.fault.is_none()),
            // Searches in which nothing comes back prove nothing.
            Property::sometimes("it left, came back and was edited", |_, state: &State| {
                state.left.tiers == 0 && state.now.mark.is_none() && state.share.len() > 1
            }),
        ]
    }
}

impl PresenceModel {
    fn leave(&self, state: &mut State) {
        let calls = self.leaving();
        let at = state.leaving.unwrap_or_else(|| {
            state.left.tiers -= 1;
            0
        });
        state.leaving = Some(at + 1);
        match calls[at] {
            Call::Lease if state.is_open => state.leaving = None,
            Call::Check => {
                if self.broken != Some(Broken::NoWriteBack) {
                    state.write_back();
                }
                if state.now.mark.is_some() || state.agreed.is_none() {
                    state.leaving = None;
                }
                state.held = None;
            }
            Call::Mark => state.make(Change::Mark(state.agreed)),
            Call::Sync => state.sync(),
            Call::Punch(block) => state.make(Change::Block(block, None)),
            Call::End => state.leaving = None,
            Call::Lease | Call::Unmark => (),
        }
    }

    fn fill(&self, state: &mut State, thread: usize) {
        let Some((at, value)) = state.fetched[thread].take() else { return };
        let is_chunk = state.now.mark.is_some_and(|version| state.share[usize::from(version)][at] == value);
        match &mut state.held {
            // Bytes of another version are not those of the chunk that belongs there.
            Some(held) if !held[at] && is_chunk => {
                held[at] = true;
                state.make(Change::Block(at, Some(value)));
            }
            Some(_) => (),
            None if self.broken == Some(Broken::LateFill) => state.make(Change::Block(at, Some(value))),
            None => (),
        }
    }

    fn settle(&self, state: &mut State) {
        let at = state.settling.unwrap_or(0);
        state.settling = Some(at + 1);
        if at == 0 {
            state.held = None;
        }
        match self.settling()[at] {
            Call::Sync => state.sync(),
            Call::Unmark => {
                state.noting = state.now.mark;
                state.make(Change::Mark(None));
            }
            _ => {
                // It is noted what the file holds, by how it looks now.
                state.agreed = state.noting.take();
                state.settling = None;
            }
        }
    }
}

impl State {
    fn make(&mut self, change: Change) {
        self.now.make(change);
        self.pending.push(change);
    }

    fn sync(&mut self) {
        self.durable = self.now.clone();
        self.pending.clear();
    }

    fn user(&mut self, at: usize) {
        let value = self.values;
        self.values += 1;
        self.make(Change::Block(at, Some(value)));
        self.wanted[at] = value;
        self.allowed[at].insert(value);
    }

    /// From now on the stamp tells of what came through mappings.
    fn write_back(&mut self) {
        if std::mem::take(&mut self.hidden) {
            self.agreed = None;
        }
    }

    fn upload(&mut self) {
        self.hidden = false;
        self.share.push(self.now.blocks.map(Option::unwrap_or_default));
        self.agreed = Some(self.share.len() as u8 - 1);
    }

    /// A worker's memory, its leases and its work are gone.
    fn forget(&mut self) {
        (self.leaving, self.settling, self.held) = (None, None, None);
        self.noting = None;
        self.fetched = [None; FETCHERS];
    }

    fn cut(&mut self, kept: u32) {
        self.left.cuts -= 1;
        self.forget();
        (self.is_open, self.hidden, self.agreed) = (false, false, None);
        for (nth, change) in std::mem::take(&mut self.pending).into_iter().enumerate() {
            if kept & (1 << nth) != 0 {
                self.durable.make(change);
            }
        }
        self.now = self.durable.clone();
        for at in 0..BLOCKS {
            match self.read(at) {
                Some(value) if self.allowed[at].contains(&value) => self.wanted[at] = value,
                _ => self.fault = Some("after a power cut a block is what it never was"),
            }
            self.allowed[at] = BTreeSet::from([self.wanted[at]]);
        }
    }

    /// What a reader gets of a block: of a placeholder the share's bytes, or those that were filled in in this life.
    fn read(&self, at: usize) -> Block {
        match self.now.mark {
            Some(_) if self.held.is_some_and(|held| held[at]) => self.now.blocks[at],
            Some(version) => self.share.get(usize::from(version)).map(|blocks| blocks[at]),
            None => self.now.blocks[at],
        }
    }

    fn check(&mut self) {
        for at in 0..BLOCKS {
            if self.fault.is_none() && self.read(at) != Some(self.wanted[at]) {
                self.fault = Some("a reader gets other bytes");
            }
        }
    }
}
