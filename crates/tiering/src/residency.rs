//! One file between disk and share: which change of the disk may follow which.
//!
//! The executor carries the effects of a step out in order. Each effect is answered by one [`Event::Done`] or
//! [`Event::Failed`] before the next step's effects begin; reads and writes of users come as wishes in between.
//!
//! Invariants (`tests/residency.rs` checks them on a disk that loses whatever was not made durable):
//! - nothing is punched before the mark is durable;
//! - the mark goes only after every byte is verified, written and durable;
//! - no write and no passthrough before the mark's removal is durable;
//! - without a mark, on disk, the file's bytes are the user's: at every moment, after every crash.

use std::collections::BTreeSet;

/// What a user or the engine wants of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Wish {
    /// Give its bytes up: the share has them verified.
    Tier,
    /// The whole file on disk.
    Recall,
    /// Write to it, or change its size to other than 0.
    Write,
    /// Change its size to 0.
    Empty,
    /// The share has another version.
    Repoint,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// Somebody wants something.
    Wish(Wish),
    /// The effects of the last step are carried out, all of them.
    Done,
    /// One of them failed; the effects after it were not begun.
    Failed,
    /// Block `n` is on disk, each of its bytes verified in this life.
    Present(u64),
    /// What the file carries: when the agent starts, after the volume was made durable as a whole; and when a failure
    /// left open whether the mark stands.
    Found {
        /// Whether it carries a mark of ours.
        marked: bool,
    },
}

/// A change of the disk, or an answer. In this order only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Take a write lease; then compare the stamp with the one of the last hash.
    TakeLease,
    /// Make data, size and attributes durable.
    Sync,
    /// Set the mark.
    Mark,
    /// Free all blocks.
    Punch,
    /// Set the times that the mark tells.
    RestoreTimes,
    /// End the lease: whoever waits to open it goes on.
    EndLease,
    /// Fetch what is missing, and fill.
    Fill,
    /// Make the file's data durable.
    SyncData,
    /// Remove the mark.
    Unmark,
    /// Set the size to 0.
    Truncate,
    /// Put a new marked sparse file, durable, in its place by exchange.
    Exchange,
    /// Let the writes through that wait.
    AllowWrites,
    /// Answer those that wait with an error; nothing was changed.
    Refuse,
}

use Effect::{
    AllowWrites, EndLease, Exchange, Fill, Mark, Punch, Refuse, RestoreTimes, Sync, SyncData, TakeLease,
    Truncate, Unmark,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum State {
    /// Nobody has looked yet.
    Unknown,
    /// No mark: passthrough.
    Resident,
    /// Under the lease: checked, marked, made durable.
    Marking,
    /// Durably marked, blocks being freed.
    Punching,
    /// Marked; what is present is in `present`.
    Tiered,
    /// Marked, everything is wanted.
    Filling,
    /// Marked, every block present in this life, being made durable.
    Settling,
    /// Durable and whole, the mark being removed.
    Unmarking,
    /// Being emptied.
    Emptying,
    /// A new placeholder takes the place.
    Repointing,
}

/// Residency of one file in this life of the agent.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Residency {
    state: State,
    blocks: u64,
    present: BTreeSet<u64>,
    /// A write waits for the file to be whole.
    is_write_waiting: bool,
    /// A step failed half way: whether the mark stands, and how durably, is not known.
    is_doubtful: bool,
}

impl Residency {
    /// A file of so many blocks, about which nothing is known.
    pub fn new(blocks: u64) -> Self {
        Self {
            state: State::Unknown,
            blocks,
            present: BTreeSet::new(),
            is_write_waiting: false,
            is_doubtful: false,
        }
    }

    /// Whether users may reach the real file without the agent.
    pub fn is_resident(&self) -> bool {
        self.state == State::Resident
    }

    /// Whether a step is being carried out: no other wish is taken.
    pub fn is_busy(&self) -> bool {
        !matches!(self.state, State::Unknown | State::Resident | State::Tiered | State::Filling)
    }

    /// Whether a block may be read from the disk. Never true on a word of the file system alone.
    pub fn is_present(&self, block: u64) -> bool {
        match self.state {
            State::Resident | State::Marking => true,
            State::Unknown | State::Punching => false,
            _ => self.present.contains(&block),
        }
    }

    /// What follows from an event. An event that does not fit changes nothing: it is late, and observed again.
    pub fn step(&mut self, event: Event) -> Vec<Effect> {
        match event {
            Event::Found { marked } => self.found(marked),
            Event::Wish(wish) if !self.is_busy() => self.wish(wish),
            // Tried again by whoever wishes, once the step is over.
            Event::Wish(Wish::Write | Wish::Empty) => vec![Refuse],
            Event::Wish(_) => Vec::new(),
            Event::Present(block) => self.is_here(block),
            Event::Done => self.done(),
            Event::Failed => self.failed(),
        }
    }

    fn found(&mut self, marked: bool) -> Vec<Effect> {
        self.present.clear();
        self.is_write_waiting = false;
        let is_doubtful = std::mem::take(&mut self.is_doubtful);
        self.state = match (marked, is_doubtful) {
            (true, _) => State::Tiered,
            (false, false) => State::Resident,
            // The mark is gone, but perhaps not durably: it would come back in a crash and void what is written now.
            (false, true) => State::Unmarking,
        };
        if self.state == State::Unmarking { vec![Sync] } else { Vec::new() }
    }

    fn wish(&mut self, wish: Wish) -> Vec<Effect> {
        match (self.state, wish) {
            (State::Unknown, Wish::Write | Wish::Empty) => vec![Refuse],
            (State::Resident, Wish::Tier) => {
                self.state = State::Marking;
                vec![TakeLease, Sync, Mark, Sync]
            }
            (State::Resident, Wish::Write) => vec![AllowWrites],
            (State::Resident, Wish::Empty) => vec![Truncate],
            (State::Tiered | State::Filling, Wish::Recall | Wish::Write) => {
                self.is_write_waiting |= wish == Wish::Write;
                self.fill()
            }
            (State::Tiered | State::Filling, Wish::Empty) => {
                self.state = State::Emptying;
                vec![Truncate, Unmark, Sync]
            }
            (State::Tiered | State::Filling, Wish::Repoint) => {
                self.state = State::Repointing;
                vec![Exchange]
            }
            // What was partly present is given up; the mark stands already.
            (State::Tiered, Wish::Tier) if !self.present.is_empty() => {
                self.present.clear();
                self.state = State::Punching;
                vec![TakeLease, Punch, RestoreTimes, EndLease]
            }
            _ => Vec::new(),
        }
    }

    fn fill(&mut self) -> Vec<Effect> {
        if self.present.len() as u64 == self.blocks {
            self.state = State::Settling;
            return vec![SyncData, RestoreTimes, Sync];
        }
        self.state = State::Filling;
        vec![Fill]
    }

    fn is_here(&mut self, block: u64) -> Vec<Effect> {
        if !matches!(self.state, State::Tiered | State::Filling) || block >= self.blocks {
            return Vec::new();
        }
        self.present.insert(block);
        let whole = self.state == State::Filling && self.present.len() as u64 == self.blocks;
        if whole { self.fill() } else { Vec::new() }
    }

    fn done(&mut self) -> Vec<Effect> {
        match self.state {
            State::Marking => {
                self.present.clear();
                self.state = State::Punching;
                vec![Punch, RestoreTimes, EndLease]
            }
            State::Settling => {
                self.state = State::Unmarking;
                vec![Unmark, Sync]
            }
            State::Unmarking => {
                self.state = State::Resident;
                let waits = std::mem::take(&mut self.is_write_waiting);
                if waits { vec![AllowWrites] } else { Vec::new() }
            }
            State::Emptying => {
                self.state = State::Resident;
                self.blocks = 0;
                self.present.clear();
                let waits = std::mem::take(&mut self.is_write_waiting);
                if waits { vec![AllowWrites] } else { Vec::new() }
            }
            State::Punching | State::Repointing => {
                self.present.clear();
                self.state = State::Tiered;
                let waits = std::mem::take(&mut self.is_write_waiting);
                if waits { vec![Refuse] } else { Vec::new() }
            }
            // Fill tells by `Present`; `Truncate` and `AllowWrites` of a resident file need no answer.
            State::Unknown | State::Resident | State::Tiered | State::Filling => Vec::new(),
        }
    }

    fn failed(&mut self) -> Vec<Effect> {
        let waits = std::mem::take(&mut self.is_write_waiting);
        let refusal = |mut effects: Vec<Effect>| {
            effects.extend(waits.then_some(Refuse));
            effects
        };
        match self.state {
            // The file is whole, but whether the mark stands is not known: look.
            State::Marking | State::Unmarking | State::Emptying => {
                (self.state, self.is_doubtful) = (State::Unknown, true);
                self.present.clear();
                refusal(vec![EndLease])
            }
            // Durably marked; which blocks are left is not known, and does not matter.
            State::Punching | State::Settling => {
                self.present.clear();
                self.state = State::Tiered;
                refusal(vec![EndLease])
            }
            State::Filling | State::Repointing => {
                self.state = State::Tiered;
                refusal(Vec::new())
            }
            State::Unknown | State::Resident | State::Tiered => refusal(Vec::new()),
        }
    }
}
