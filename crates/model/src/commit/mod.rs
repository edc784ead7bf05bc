//! Commits, lost answers, repeated messages, and parties that are set back in time.
//!
//! Production functions: of `polder_ledger` `commit`, `announce`, `check_cursor`, `changes`, `bootstrap`; the chain of openings of
//! `polder_service::chain`; the rows in memory of `polder_metadata`.
//!
//! Mirrored ([`agent`]): what `polder_engine` does in its `session` (announcement, feed, offers whose answer was lost,
//! re-baseline), its `sends` (number and offer durable before the batch leaves) and, for two files with fixed ids, what
//! `polder_sync::plan` decides; and the order of `polder_service::grpc::opening` (cursor, chain, announcement). A machine is
//! set back with its disk and its database, a service with the rows of the share and of the control plane; no new
//! epoch is begun, so numbers are used again.
//!
//! Promises: every value that a user ever wrote is on a disk, in a conflict copy or live in the share, unless a user who had
//! seen it replaced or deleted it (or the only machine with it was set back); no operation closes a version that its author had not
//! seen; no batch is carried out twice, and a repeat gets the first answer; where nothing is set back, no user's edit is
//! taken for a conflict with what that user had seen; a machine that was set back is noticed before it changes the share.

mod agent;

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};

use polder_ledger::{CommitContext, LedgerError, TreeChunks};
use polder_metadata::control::EndpointProgress;
use polder_types::{
    Author, BatchAnswer, BatchNo, Body, Content, Cursor, EndpointId, Extent, ExtentSource, Group,
    GroupAnswer, InstanceId, Op, Tag,
};
use stateright::{Model, Property};

pub use agent::Agent;
use agent::Message;

use crate::share::{Share, item, new_op, print_of};

/// Endpoints of the world.
pub const AGENTS: usize = 2;
/// Files of the world. Both are in the share in the beginning, and on both disks.
pub const ITEMS: usize = 2;

/// How often each thing may happen in one story.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Budget {
    /// A user writes a file.
    pub edits: u8,
    /// A user deletes a file.
    pub deletes: u8,
    /// An answer is lost, or an agent does not wait for it.
    pub lost: u8,
    /// A message arrives once more.
    pub repeats: u8,
    /// An agent's process ends.
    pub crashes: u8,
    /// The service is set back to its backup.
    pub service_back: u8,
    /// A machine is set back to its checkpoint.
    pub agent_back: u8,
    /// Somebody changes something else in the share, so that numbers move on.
    pub directs: u8,
}

/// A rule that is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// Every commit has the same tag.
    OneTag,
    /// A message that comes late is taken: the opening that it was sent under is not looked at, and no announcement refuses
    /// what was sent before it.
    LateMessages,
    /// The opening that a batch was sent under is not looked at.
    AnyOpening,
    /// The next number is not durable before the batch leaves (and any opening will do, which alone would be enough).
    NumbersAgain,
    /// Openings are no chain, and nobody looks whether the next number was used.
    NoChain,
    /// After the service was set back, older rows stay the base of a merge.
    BaseOfLostHistory,
    /// What is offered has no base: the present version is closed, whatever it is.
    NoBase,
}

/// The world and how it is searched.
#[derive(Debug, Clone)]
pub struct CommitModel {
    /// How often what may happen.
    pub budget: Budget,
    /// Files that users touch.
    pub items: u8,
    /// Whether the backup was made in the beginning; else at any time.
    pub backed_up: bool,
    /// A rule that is left out.
    pub broken: Option<Broken>,
}

/// What a backup of the service holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    pub(crate) share: Share,
    pub(crate) progress: [EndpointProgress; AGENTS],
    /// What was carried out, with the print of its answer.
    pub(crate) carried: BTreeMap<Author, u64>,
}

/// A state of the world.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    pub(crate) service: Service,
    pub(crate) backup: Option<Box<Service>>,
    pub(crate) agents: [Agent; AGENTS],
    pub(crate) checkpoints: [Option<Box<Agent>>; AGENTS],
    pub(crate) messages: Vec<Message>,
    pub(crate) answers: Vec<(usize, BatchNo, Answer)>,
    pub(crate) left: Budget,
    pub(crate) draws: u64,
    /// Of each value: which values its author had seen at that file, those that they had seen included.
    pub(crate) saw: Vec<u32>,
    /// Values that a user who had seen them replaced or deleted, or that went with a machine that was set back.
    pub(crate) done: u32,
    /// Values in conflict copies.
    pub(crate) copies: u32,
    /// Machines that were set back to before an opening, and have not compared themselves with the share since.
    pub(crate) behind: [bool; AGENTS],
    pub(crate) fault: Option<String>,
}

/// What the service says to a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Decided.
    Decided(BatchAnswer),
    /// Its number is too low.
    Stale,
    /// The histories do not fit.
    SetBack,
}

/// A step of the world.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// A user writes a file.
    Write(usize, u8),
    /// A user deletes a file.
    Remove(usize, u8),
    /// An agent opens its endpoint; with `false` the answer is lost.
    Open(usize, bool),
    /// It reads the tree or the feed to the head.
    Read(usize),
    /// It plans a file, and applies or offers.
    Plan(usize, u8),
    /// Something else in the share changes.
    Direct,
    /// A message arrives; with `true` it will arrive again. One that never does is one that the story leaves lying.
    Deliver(usize, bool),
    /// An answer arrives.
    Answer(usize),
    /// The agent does not wait any longer.
    Timeout(usize),
    /// Its process ends and begins again.
    Crash(usize),
    /// The machine is saved.
    Checkpoint(usize),
    /// And set back.
    SetBackAgent(usize),
    /// The service is saved.
    Backup,
    /// And set back.
    SetBackService,
}

impl Hash for State {
    fn hash<H: Hasher>(&self, to: &mut H) {
        print_of(self).hash(to);
    }
}

impl Model for CommitModel {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut share = Share::new();
        let ops = (0..ITEMS as u8).map(|at| new_op(at, value(u64::from(at)), false)).collect();
        let author = Author { by: InstanceId::ZERO, batch: BatchNo(0) };
        let head = commit(&mut share, Cursor::default(), Tag(7), author, ops).expect("an empty share").cursor;
        let agents = std::array::from_fn(|at| Agent::synced(at, &share, head));
        let progress = std::array::from_fn(|at| unknown(EndpointId([at as u8 + 1; 16])));
        let mut state = State {
            service: Service { share, progress, carried: BTreeMap::new() },
            backup: None,
            agents,
            checkpoints: [None, None],
            messages: Vec::new(),
            answers: Vec::new(),
            left: self.budget,
            draws: 10,
            saw: (0..ITEMS).map(|at| 1 << at).collect(),
            done: 0,
            copies: 0,
            behind: [false; AGENTS],
            fault: None,
        };
        for at in 0..AGENTS {
            let opened =
                agent::open(self, &mut state, at, true).and_then(|()| agent::read(self, &mut state, at));
            opened.expect("the first opening of a new share");
        }
        state.backup = self.backed_up.then(|| Box::new(state.service.clone()));
        vec![state]
    }

    fn actions(&self, state: &State, out: &mut Vec<Action>) {
        if state.fault.is_some() {
            return;
        }
        let left = &state.left;
        for at in 0..AGENTS {
            self.agent_actions(state, at, out);
        }
        for at in 0..state.messages.len() {
            out.push(Action::Deliver(at, false));
            if left.repeats > 0 {
                out.push(Action::Deliver(at, true));
            }
        }
        out.extend((0..state.answers.len()).map(Action::Answer));
        if left.directs > 0 {
            out.push(Action::Direct);
        }
        if left.service_back > 0 {
            out.push(if state.backup.is_some() { Action::SetBackService } else { Action::Backup });
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        if let Err(error) = self.step(&mut state, &action) {
            state.fault.get_or_insert(format!("{action:?}: {error}"));
        }
        state.check();
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![Property::always("no promise is broken", |_, state: &State| state.fault.is_none())]
    }
}

impl CommitModel {
    fn agent_actions(&self, state: &State, at: usize, out: &mut Vec<Action>) {
        let (left, agent) = (&state.left, &state.agents[at]);
        for file in 0..self.items {
            // In the beginning the agents are alike, and so are the files: one of each may be the first.
            let first = state.saw.len() == ITEMS && state.done == 0;
            if first && (at, file) != (0, 0) {
                continue;
            }
            if left.edits > 0 {
                out.push(Action::Write(at, file));
            }
            if left.deletes > 0 && agent.disk[usize::from(file)].is_some() {
                out.push(Action::Remove(at, file));
            }
            if agent.may_plan(file) {
                out.push(Action::Plan(at, file));
            }
        }
        if !agent.announced {
            out.push(Action::Open(at, true));
            if left.lost > 0 {
                out.push(Action::Open(at, false));
            }
        } else {
            out.push(Action::Read(at));
        }
        if agent.flying.is_some() && left.lost > 0 {
            out.push(Action::Timeout(at));
        }
        if left.crashes > 0 {
            out.push(Action::Crash(at));
        }
        if left.agent_back > 0 {
            let saved = state.checkpoints[at].is_some();
            out.push(if saved { Action::SetBackAgent(at) } else { Action::Checkpoint(at) });
        }
    }

    fn step(&self, state: &mut State, action: &Action) -> Result<(), LedgerError> {
        match *action {
            Action::Write(at, file) => {
                state.left.edits -= 1;
                let new = state.saw.len() as u64;
                let seen = state.agents[at].disk[usize::from(file)].map_or(0, |old| state.saw[old as usize]);
                state.done |= seen;
                state.saw.push(seen | 1 << new);
                state.agents[at].disk[usize::from(file)] = Some(new);
            }
            Action::Remove(at, file) => {
                state.left.deletes -= 1;
                if let Some(old) = state.agents[at].disk[usize::from(file)].take() {
                    state.done |= state.saw[old as usize];
                }
            }
            Action::Open(at, answered) => return agent::open(self, state, at, answered),
            Action::Read(at) => return agent::read(self, state, at),
            Action::Plan(at, file) => agent::plan(self, state, at, file),
            Action::Direct => {
                state.left.directs -= 1;
                let tag = self.tag(state);
                let author = Author { by: InstanceId::ZERO, batch: BatchNo(0) };
                let op = new_op(9, value(0), false);
                return commit(&mut state.service.share, Cursor::default(), tag, author, vec![op]).map(drop);
            }
            Action::Deliver(which, again) => return self.deliver(state, which, again),
            Action::Answer(which) => {
                let (at, batch, answer) = state.answers.remove(which);
                agent::answered(self, state, at, batch, &answer);
            }
            Action::Timeout(at) => {
                state.left.lost -= 1;
                state.agents[at].disconnect();
            }
            Action::Crash(at) => {
                state.left.crashes -= 1;
                state.agents[at].crash(self.broken == Some(Broken::NumbersAgain));
            }
            Action::Checkpoint(at) => state.checkpoints[at] = Some(Box::new(state.agents[at].clone())),
            Action::SetBackAgent(at) => {
                state.left.agent_back -= 1;
                let before = state.kept();
                let openings = state.agents[at].openings.clone();
                state.agents[at] = *state.checkpoints[at].take().expect("saved before");
                state.agents[at].crash(false);
                state.behind[at] = state.agents[at].openings != openings;
                state.done |= before & !state.kept();
            }
            Action::Backup => state.backup = Some(Box::new(state.service.clone())),
            Action::SetBackService => {
                state.left.service_back -= 1;
                let before = state.kept();
                state.service = *state.backup.take().expect("saved before");
                // Its process has ended for that, and with it all sessions.
                state.answers.clear();
                state.agents.iter_mut().for_each(Agent::disconnect);
                state.done |= before & !state.kept();
            }
        }
        Ok(())
    }

    fn deliver(&self, state: &mut State, which: usize, again: bool) -> Result<(), LedgerError> {
        let message = state.messages[which].clone();
        if again {
            state.left.repeats -= 1;
        } else {
            state.messages.remove(which);
        }
        let late = [Broken::LateMessages, Broken::AnyOpening, Broken::NumbersAgain];
        let checks = self.broken.is_none_or(|broken| !late.contains(&broken));
        if checks && state.service.progress[message.agent].opening != Some(message.opening) {
            // "The endpoint was opened again": whoever waits opens anew.
            if state.agents[message.agent].flying == Some(message.author.batch) {
                state.agents[message.agent].disconnect();
            }
            return Ok(());
        }
        let tag = self.tag(state);
        let op = message.op.clone();
        let op = match (self.broken, state.service.share.live(op.uid())) {
            (Some(Broken::NoBase), Some((base, _))) => with_base(op, base),
            _ => op,
        };
        let before = state.service.share.live(op.uid()).map(|(_, content)| value_of(&content));
        let head = head(&state.service.share);
        let answer = commit(&mut state.service.share, message.known, tag, message.author, vec![op.clone()]);
        let answer = match answer {
            Ok(answer) => {
                let moved = self::head(&state.service.share) != head;
                state.note_answer(message.author, &answer, moved);
                if moved {
                    if message.behind {
                        state.fault = Some("a machine that was set back changes the share unseen".to_owned());
                    }
                    state.note_closed(before, op.content().map(value_of), message.agent);
                }
                Answer::Decided(answer)
            }
            Err(LedgerError::StaleBatch { .. }) => Answer::Stale,
            Err(LedgerError::SetBack | LedgerError::CursorTooOld) => Answer::SetBack,
            Err(error) => return Err(error),
        };
        // Only the process that sent it hears the answer.
        if state.agents[message.agent].flying == Some(message.author.batch) {
            state.answers.push((message.agent, message.author.batch, answer));
        }
        Ok(())
    }

    fn tag(&self, state: &mut State) -> Tag {
        state.draws += 1;
        if self.broken == Some(Broken::OneTag) { Tag(7) } else { Tag(state.draws) }
    }
}

impl State {
    /// A batch is carried out once, and its answer never changes.
    fn note_answer(&mut self, author: Author, answer: &BatchAnswer, moved: bool) {
        let print = print_of(answer);
        match self.service.carried.get(&author) {
            Some(_) if moved => self.fault = Some(format!("{author:?} was carried out twice")),
            Some(first) if *first != print => self.fault = Some(format!("{author:?} has another answer now")),
            _ => drop(self.service.carried.insert(author, print)),
        }
    }

    /// Whoever closes a version has seen it, or it is kept beside.
    fn note_closed(&mut self, closed: Option<u64>, new: Option<u64>, agent: usize) {
        let Some(closed) = closed else { return };
        let seen = self.done | self.copies | new.map_or(0, |new| self.saw[new as usize]);
        if seen & 1 << closed == 0 {
            self.fault = Some(format!("agent {agent} closes value {closed}, which nobody there had seen"));
        }
    }

    /// Values that are on a disk, in a copy, or live in the share.
    fn kept(&self) -> u32 {
        let disks = self.agents.iter().flat_map(|agent| agent.disk).flatten();
        let live = (0..ITEMS as u8).filter_map(|at| self.service.share.live(item(at)));
        let all = disks.chain(live.map(|(_, content)| value_of(&content)));
        all.fold(self.copies, |mask, value| mask | 1 << value)
    }

    fn check(&mut self) {
        let all = (1u32 << self.saw.len()) - 1;
        let lost = all & !self.done & !self.kept();
        if lost != 0 && self.fault.is_none() {
            self.fault = Some(format!("values lost: {lost:b}"));
        }
    }
}

/// A file whose size is the value: needs no chunk.
pub(crate) fn value(number: u64) -> Content {
    let len = number + 1;
    let extents = vec![Extent { len, source: ExtentSource::Hole }];
    Content::File { size: len, body: Body::Inline(extents) }
}

pub(crate) fn value_of(content: &Content) -> u64 {
    content.size() - 1
}

pub(crate) fn head(share: &Share) -> Cursor {
    polder_ledger::share_row(share.rows()).map(|row| row.head).unwrap_or_default()
}

fn commit(
    share: &mut Share,
    known: Cursor,
    tag: Tag,
    author: Author,
    ops: Vec<Op>,
) -> Result<BatchAnswer, LedgerError> {
    let (trees, announced) = (TreeChunks::new(), BatchNo(0));
    let context =
        CommitContext { time_ms: 0, tag, known, announced, quota_bytes: None, brake: None, trees: &trees };
    share.write(|rows| polder_ledger::commit(rows, &context, author, &[Group { ops }]))
}

fn with_base(op: Op, base: polder_types::Seq) -> Op {
    match op {
        Op::Update { uid, mtime, attrs, content, .. } => Op::Update { uid, base, mtime, attrs, content },
        Op::Delete { uid, .. } => Op::Delete { uid, base },
        other => other,
    }
}

/// Whether the only group was taken, and with which number.
pub(crate) fn accepted(answer: &BatchAnswer) -> Option<polder_types::Seq> {
    match answer.groups.first() {
        Some(GroupAnswer::Accepted { first }) => Some(*first),
        _ => None,
    }
}

pub(crate) fn unknown(endpoint: EndpointId) -> EndpointProgress {
    EndpointProgress {
        endpoint,
        instance: None,
        opening: None,
        process: None,
        cloned: false,
        stopped_why: None,
        disk_folds_case: None,
        next_batch: BatchNo(0),
        cursor: None,
        seen_at: None,
        report: None,
    }
}
