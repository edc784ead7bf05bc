//! One identity, two agents: a machine that was copied, with both copies running, stopping and starting.
//!
//! Production functions: the chain of openings of `polder_service::chain`; `commit`, `announce`, `stat` of `polder_ledger`;
//! the rows in memory of `polder_metadata`.
//!
//! Mirrored: `polder_service::grpc::opening` (look whether the number was used; move the chain; announce and look again) and
//! `grpc::commit` (admit by the last opening; carry out, after looking again) with their steps apart from each other;
//! `polder_service::agents` (whether a process lives is what the service believes: a dead one never does, a living one
//! may have fallen silent); `polder_agent::endpoint::life` (openings written down before they are asked for).
//!
//! Promises: what an agent holds for agreed is what the share holds; once the
//! second of two copies has changed the share, the first one never does again under their common instance.

use std::hash::{Hash, Hasher};

use polder_ledger::{At, CommitContext, LedgerError, TreeChunks};
use polder_metadata::control::EndpointProgress;
use polder_types::{Author, BatchNo, Cursor, EndpointId, Group, InstanceId, Op, Seq, Tag};
use stateright::{Model, Property};

use crate::chain::{self, Judgement, Opening};
use crate::commit::{accepted, unknown, value, value_of};
use crate::share::{Share, item, new_op, print_of};

/// How often each thing may happen in one story.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Budget {
    /// A user writes the file.
    pub edits: u8,
    /// An answer is lost.
    pub lost: u8,
    /// A process ends and begins again.
    pub restarts: u8,
    /// Openings in all: two agents could refuse each other for ever.
    pub openings: u8,
}

/// A rule that is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// Whoever knows the instance may open: no chain.
    NoChain,
    /// The last opening is asked for when a batch comes in, and not again when it is carried out.
    AdmittedOnce,
    /// Whether the next number was used is not asked again when it is announced.
    UsedOnce,
}

/// The world and how it is searched.
#[derive(Debug, Clone)]
pub struct CloneModel {
    /// How often what may happen.
    pub budget: Budget,
    /// A rule that is left out.
    pub broken: Option<Broken>,
}

/// What a machine has on its disk, and its process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    disk: u64,
    /// Agreed: a value and the number of its version.
    synced: (u64, Seq),
    instance: InstanceId,
    openings: Vec<InstanceId>,
    next_batch: u64,
    /// Compares everything anew: out of the protocol's way, and of the model.
    merges: bool,
    stopped: bool,
    process: InstanceId,
    open: Option<InstanceId>,
    opening: Option<Asked>,
    sending: Option<Sending>,
}

/// An opening on its way through the service.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Asked {
    opening: Opening,
    /// What the look found; then the judgement.
    stage: Stage,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Stage {
    Looked { used: bool },
    Judged(Judgement),
}

/// A batch on its way: admitted under an opening.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Sending {
    author: Author,
    opening: InstanceId,
    value: u64,
    base: Seq,
    admitted: bool,
}

/// A state of the world.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    share: Share,
    progress: EndpointProgress,
    agents: Vec<Agent>,
    left: Budget,
    draws: u8,
    values: u64,
    /// Which agents changed the share since the copy was made, in order.
    changed: Vec<usize>,
    fault: Option<String>,
}

/// A step of the world.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// The machine is copied; the copy starts.
    Copy,
    /// A user writes the file.
    Write(usize),
    /// An agent reads the feed and applies it, when nobody wrote here.
    Read(usize),
    /// An agent asks to open; the service looks whether its number was used.
    Look(usize),
    /// The service moves the chain; it believes that the other process lives, or not.
    Judge(usize, bool),
    /// The service announces; with `false` the answer is lost.
    Announce(usize, bool),
    /// A batch leaves.
    Send(usize),
    /// It is admitted.
    Admit(usize),
    /// It is carried out; with `false` the answer is lost.
    Carry(usize, bool),
    /// The process ends and begins again.
    Restart(usize),
}

impl Hash for State {
    fn hash<H: Hasher>(&self, to: &mut H) {
        print_of(self).hash(to);
    }
}

impl Model for CloneModel {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut share = Share::new();
        let author = Author { by: InstanceId::ZERO, batch: BatchNo(0) };
        let op = new_op(0, value(0), false);
        let first = commit(&mut share, author, 1, op).ok().flatten().expect("an empty share");
        let agent = Agent {
            disk: 0,
            synced: (0, first),
            instance: InstanceId([1; 16]),
            openings: Vec::new(),
            next_batch: 1,
            merges: false,
            stopped: false,
            process: InstanceId([2; 16]),
            open: None,
            opening: None,
            sending: None,
        };
        vec![State {
            share,
            progress: unknown(EndpointId([1; 16])),
            agents: vec![agent],
            left: self.budget,
            draws: 10,
            values: 1,
            changed: Vec::new(),
            fault: None,
        }]
    }

    fn actions(&self, state: &State, out: &mut Vec<Action>) {
        if state.fault.is_some() {
            return;
        }
        if state.agents.len() == 1 {
            out.push(Action::Copy);
        }
        let (left, lost) = (&state.left, state.left.lost > 0);
        for (at, agent) in state.agents.iter().enumerate() {
            match &agent.opening {
                Some(Asked { stage: Stage::Looked { .. }, .. }) => {
                    out.extend([Action::Judge(at, true), Action::Judge(at, false)]);
                }
                Some(_) => {
                    out.push(Action::Announce(at, true));
                    out.extend(lost.then_some(Action::Announce(at, false)));
                }
                None if agent.open.is_none() && agent.works() && left.openings > 0 => {
                    out.push(Action::Look(at))
                }
                None => (),
            }
            match &agent.sending {
                Some(sending) if sending.admitted => {
                    out.push(Action::Carry(at, true));
                    out.extend(lost.then_some(Action::Carry(at, false)));
                }
                Some(_) => out.push(Action::Admit(at)),
                None if agent.open.is_some() && agent.works() && agent.disk != agent.synced.0 => {
                    out.push(Action::Send(at));
                }
                None => (),
            }
            if agent.open.is_some()
                && agent.works()
                && agent.sending.is_none()
                && agent.disk == agent.synced.0
            {
                out.push(Action::Read(at));
            }
            if left.edits > 0 && agent.works() {
                out.push(Action::Write(at));
            }
            if left.restarts > 0 && agent.works() {
                out.push(Action::Restart(at));
            }
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
        vec![
            Property::always("no promise is broken", |_, state: &State| state.fault.is_none()),
            // Searches that never see a clone prove nothing.
            Property::sometimes("a clone is found", |_, state: &State| state.progress.cloned),
        ]
    }
}

impl CloneModel {
    fn step(&self, state: &mut State, action: &Action) -> Result<(), LedgerError> {
        match *action {
            Action::Copy => {
                let mut copy = state.agents[0].clone();
                copy.restart(state.draw());
                state.agents.push(copy);
                state.changed.clear();
            }
            Action::Write(at) => {
                state.left.edits -= 1;
                state.agents[at].disk = state.values;
                state.values += 1;
            }
            Action::Read(at) => {
                if let Some((since, content)) = state.share.live(item(0)) {
                    let agent = &mut state.agents[at];
                    agent.disk = value_of(&content);
                    agent.synced = (agent.disk, since);
                }
            }
            Action::Look(at) => return self.look(state, at),
            Action::Judge(at, lives) => self.judge(state, at, lives),
            Action::Announce(at, answered) => return self.announce(state, at, answered),
            Action::Send(at) => state.agents[at].send(),
            Action::Admit(at) => {
                let last = (state.progress.opening, state.progress.stopped_why.is_some());
                let agent = &mut state.agents[at];
                let Some(sending) = &mut agent.sending else { return Ok(()) };
                if last == (Some(sending.opening), false) {
                    sending.admitted = true;
                } else {
                    agent.close();
                }
            }
            Action::Carry(at, answered) => return self.carry(state, at, answered),
            Action::Restart(at) => {
                state.left.restarts -= 1;
                let process = state.draw();
                state.agents[at].restart(process);
            }
        }
        Ok(())
    }

    fn look(&self, state: &mut State, at: usize) -> Result<(), LedgerError> {
        state.left.openings -= 1;
        let opening = state.draw();
        let agent = &mut state.agents[at];
        let previous = agent.openings.clone();
        agent.openings.push(opening);
        let (instance, next_batch) = (agent.instance, BatchNo(agent.next_batch));
        let opening = Opening { instance, opening, previous, next_batch, process: agent.process };
        let used = is_used(&state.share, &opening)?;
        state.agents[at].opening = Some(Asked { opening, stage: Stage::Looked { used } });
        Ok(())
    }

    fn judge(&self, state: &mut State, at: usize, lives: bool) {
        let Some(Asked { opening, stage: Stage::Looked { used } }) = state.agents[at].opening.clone() else {
            return;
        };
        if self.broken == Some(Broken::NoChain) {
            state.progress.opening = None;
        }
        // A process that does not run never lives; one that runs may have fallen silent.
        let runs: Vec<InstanceId> = state.agents.iter().map(|agent| agent.process).collect();
        let believed = |process: InstanceId| lives && runs.contains(&process);
        let judgement = chain::open(&mut state.progress, &opening, used, believed);
        state.agents[at].opening = Some(Asked { opening, stage: Stage::Judged(judgement) });
    }

    fn announce(&self, state: &mut State, at: usize, answered: bool) -> Result<(), LedgerError> {
        let Some(Asked { opening, stage: Stage::Judged(mut judgement) }) = state.agents[at].opening.take()
        else {
            return Ok(());
        };
        if judgement == Judgement::Opened {
            if self.broken != Some(Broken::UsedOnce) && is_used(&state.share, &opening)? {
                judgement = Judgement::SetBack("used meanwhile");
            } else {
                let (by, next) = (opening.instance, opening.next_batch);
                state.share.write(|rows| polder_ledger::announce(rows, by, next))?;
            }
        }
        let agent = &mut state.agents[at];
        if !answered {
            state.left.lost -= 1;
            return Ok(());
        }
        match judgement {
            Judgement::Opened => {
                (agent.openings, agent.open) = (vec![opening.opening], Some(opening.opening));
            }
            Judgement::SetBack(_) => agent.merges = true,
            Judgement::Late => (),
            Judgement::Clone | Judgement::Stopped(_) => agent.stopped = true,
        }
        Ok(())
    }

    fn carry(&self, state: &mut State, at: usize, answered: bool) -> Result<(), LedgerError> {
        let Some(sending) = state.agents[at].sending.clone() else { return Ok(()) };
        let last = (state.progress.opening, state.progress.stopped_why.is_some());
        if self.broken != Some(Broken::AdmittedOnce) && last != (Some(sending.opening), false) {
            state.agents[at].close();
            return Ok(());
        }
        let uid = item(0);
        let op = Op::Update {
            uid,
            base: sending.base,
            mtime: None,
            attrs: None,
            content: Some(value(sending.value)),
        };
        let tag = state.draw().0[0];
        let before = polder_ledger::share_row(state.share.rows())?.head;
        let done = commit(&mut state.share, sending.author, tag.into(), op);
        if polder_ledger::share_row(state.share.rows())?.head != before {
            state.changed.push(at);
        }
        let agent = &mut state.agents[at];
        if !answered {
            state.left.lost -= 1;
            agent.close();
            return Ok(());
        }
        agent.sending = None;
        match done {
            Ok(Some(since)) => agent.synced = (sending.value, since),
            // A refusal: the feed tells the rest.
            Ok(None) => agent.merges = true,
            Err(LedgerError::StaleBatch { .. }) => agent.close(),
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

impl Agent {
    fn works(&self) -> bool {
        !self.merges && !self.stopped
    }

    fn close(&mut self) {
        (self.open, self.opening, self.sending) = (None, None, None);
    }

    fn restart(&mut self, process: InstanceId) {
        self.close();
        self.process = process;
    }

    fn send(&mut self) {
        let Some(opening) = self.open else { return };
        let author = Author { by: self.instance, batch: BatchNo(self.next_batch) };
        self.next_batch += 1;
        self.sending =
            Some(Sending { author, opening, value: self.disk, base: self.synced.1, admitted: false });
    }
}

impl State {
    fn draw(&mut self) -> InstanceId {
        self.draws += 1;
        InstanceId([self.draws; 16])
    }

    fn check(&mut self) {
        if self.fault.is_some() {
            return;
        }
        for (at, agent) in self.agents.iter().enumerate() {
            let (agreed, since) = agent.synced;
            let there = polder_ledger::stat(self.share.rows(), item(0), At::Seq(since));
            let there = there.ok().flatten().map(|node| value_of(&node.content));
            if there != Some(agreed) {
                self.fault = Some(format!("agent {at} agreed on {agreed}, and the share holds {there:?}"));
            }
        }
        // Merges begin new instances and are out of the model, so all of these are of the common one.
        if self.changed.windows(2).filter(|pair| pair[0] != pair[1]).count() > 1 {
            self.fault = Some("a copy changed the share after the other one had taken over".to_owned());
        }
    }
}

/// `polder_service::grpc::opening`: whether the next number names a batch already.
fn is_used(share: &Share, opening: &Opening) -> Result<bool, LedgerError> {
    let (by, batch) = (opening.instance, opening.next_batch);
    let announced = share.rows().author(by)?.is_some_and(|row| row.batch_min > batch);
    Ok(announced || share.rows().answer(Author { by, batch })?.is_some())
}

fn commit(share: &mut Share, author: Author, tag: u64, op: Op) -> Result<Option<Seq>, LedgerError> {
    let (trees, known) = (TreeChunks::new(), Cursor::default());
    let context = CommitContext {
        time_ms: 0,
        tag: Tag(tag),
        known,
        announced: BatchNo(0),
        quota_bytes: None,
        brake: None,
        trees: &trees,
    };
    let answer =
        share.write(|rows| polder_ledger::commit(rows, &context, author, &[Group { ops: vec![op] }]))?;
    Ok(accepted(&answer))
}
