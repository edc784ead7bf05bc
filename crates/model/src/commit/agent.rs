//! An agent: `polder_engine::session` and `sends`, for files with fixed ids.

use std::collections::BTreeMap;

use polder_ledger::{FeedRow, LedgerError};
use polder_types::{Author, BatchNo, Cursor, InstanceId, NodeState, NodeUid, Op, Seq};

use super::{Answer, Broken, CommitModel, ITEMS, State, accepted, value, value_of};
use crate::chain::{self, Judgement, Opening};
use crate::share::{Share, item, new_op};

/// A value and the number of its version.
type Version = Option<(u64, Seq)>;

/// An agent with its machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    /// The user's files.
    pub(crate) disk: [Option<u64>; ITEMS],
    /// The state database.
    synced: [Version; ITEMS],
    cloud: [Version; ITEMS],
    cursor: Cursor,
    known: Cursor,
    instance: InstanceId,
    pub(crate) openings: Vec<InstanceId>,
    next_batch: u64,
    offers: BTreeMap<usize, Offer>,
    tree_whole: bool,
    /// After a re-baseline, until both sides are equal.
    no_deletes: bool,
    /// Whether the share's history was another one before: no row older than the tree proves anything.
    history_lost: bool,
    /// The process.
    pub(crate) announced: bool,
    at_cut: bool,
    pub(crate) flying: Option<BatchNo>,
    process: InstanceId,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Offer {
    batch: BatchNo,
    becomes: Option<u64>,
}

/// A batch on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub(crate) agent: usize,
    pub(crate) opening: InstanceId,
    /// Whether its machine was set back and has not noticed.
    pub(crate) behind: bool,
    pub(crate) author: Author,
    pub(crate) known: Cursor,
    pub(crate) op: Op,
}

impl Agent {
    /// An agent that has everything of the share.
    pub(crate) fn synced(at: usize, share: &Share, head: Cursor) -> Self {
        let all = std::array::from_fn(|file| {
            share.live(item(file as u8)).map(|(since, content)| (value_of(&content), since))
        });
        Self {
            disk: all.map(|version: Version| version.map(|(value, _)| value)),
            synced: all,
            cloud: all,
            cursor: head,
            known: head,
            instance: InstanceId([at as u8 + 1; 16]),
            openings: Vec::new(),
            next_batch: 1,
            offers: BTreeMap::new(),
            tree_whole: true,
            no_deletes: false,
            history_lost: false,
            announced: false,
            at_cut: false,
            flying: None,
            process: InstanceId([at as u8 + 1; 16]),
        }
    }

    /// `Session::is_ready`, and nothing of the file is on its way.
    pub(crate) fn may_plan(&self, file: u8) -> bool {
        let at = usize::from(file);
        let ready = self.announced && self.at_cut && self.tree_whole && self.flying.is_none();
        let value = |version: Version| version.map(|(value, _)| value);
        ready && (self.disk[at] != value(self.synced[at]) || self.cloud[at] != self.synced[at])
    }

    pub(crate) fn disconnect(&mut self) {
        (self.announced, self.at_cut, self.flying) = (false, false, None);
    }

    /// The process ends: what is durable stays.
    pub(crate) fn crash(&mut self, number_is_lost: bool) {
        if number_is_lost && self.flying.is_some() {
            self.next_batch -= 1;
            self.offers.clear();
        }
        self.disconnect();
    }

    fn rebaseline(&mut self, history_lost: bool) {
        self.disconnect();
        (self.cursor, self.known) = (Cursor::default(), Cursor::default());
        (self.tree_whole, self.no_deletes) = (false, true);
        self.history_lost |= history_lost;
        self.cloud = [None; ITEMS];
        self.offers.clear();
    }

    /// `Session::take_offer`.
    fn take_offer(&mut self, file: usize, becomes: Option<u64>, since: Seq) {
        if self.synced[file].is_some_and(|(_, row)| row >= since) {
            return;
        }
        let row = becomes.map(|value| (value, since));
        self.synced[file] = row;
        let newer = self.cloud[file].filter(|(_, cloud)| *cloud > since);
        self.cloud[file] = newer.or(row);
    }

    fn end_mode(&mut self) {
        let equal = (0..ITEMS).all(|at| {
            self.cloud[at] == self.synced[at] && self.disk[at] == self.synced[at].map(|(value, _)| value)
        });
        if equal && self.at_cut && self.flying.is_none() {
            (self.no_deletes, self.history_lost) = (false, false);
        }
    }
}

fn draw(state: &mut State) -> InstanceId {
    state.draws += 1;
    InstanceId([state.draws as u8; 16])
}

/// `polder_agent::endpoint::life`, and the order of `polder_service::grpc::opening`.
pub(super) fn open(
    model: &CommitModel,
    state: &mut State,
    at: usize,
    answered: bool,
) -> Result<(), LedgerError> {
    let opening = draw(state);
    let agent = &mut state.agents[at];
    let previous = agent.openings.clone();
    agent.openings.push(opening);
    let (by, batch) = (agent.instance, BatchNo(agent.next_batch));
    let asked = Opening { instance: by, opening, previous, next_batch: batch, process: agent.process };
    let (known, author) = (agent.known, Author { by, batch });
    if !answered {
        state.left.lost -= 1;
    }
    let rows = state.service.share.rows();
    match polder_ledger::check_cursor(rows, known) {
        Ok(()) => (),
        Err(LedgerError::SetBack | LedgerError::CursorTooOld) => {
            if answered {
                new_instance(state, at, true);
            }
            return Ok(());
        }
        Err(error) => return Err(error),
    }
    let announced = rows.author(by)?.is_some_and(|row| row.batch_min > batch);
    let mut used = announced || rows.answer(author)?.is_some();
    let progress = &mut state.service.progress[at];
    if model.broken == Some(Broken::NoChain) {
        (progress.opening, used) = (None, false);
    }
    match chain::open(progress, &asked, used, |_| false) {
        Judgement::Opened => {
            if model.broken != Some(Broken::LateMessages) {
                state.service.share.write(|rows| polder_ledger::announce(rows, by, batch))?;
            }
            if answered {
                let agent = &mut state.agents[at];
                agent.openings = vec![opening];
                (agent.announced, agent.at_cut) = (true, false);
            }
        }
        Judgement::SetBack(_) if answered => new_instance(state, at, false),
        Judgement::SetBack(_) => (),
        other => state.fault = Some(format!("opening was judged {other:?}")),
    }
    Ok(())
}

fn new_instance(state: &mut State, at: usize, history_lost: bool) {
    let instance = draw(state);
    let agent = &mut state.agents[at];
    agent.rebaseline(history_lost);
    state.behind[at] = false;
    (agent.instance, agent.openings) = (instance, Vec::new());
}

/// The whole tree, or the feed, to the head.
pub(super) fn read(model: &CommitModel, state: &mut State, at: usize) -> Result<(), LedgerError> {
    let rows = state.service.share.rows();
    let agent = &mut state.agents[at];
    if !agent.tree_whole {
        let page = polder_ledger::bootstrap(rows, None, None, 1000)?;
        for node in &page.rows {
            if let Some(file) = file_of(node.uid) {
                tree_row(model, agent, file, node);
            }
        }
        (agent.tree_whole, agent.cursor) = (true, page.from);
        agent.known = agent.known.max(page.from);
        return Ok(());
    }
    let page = match polder_ledger::changes(rows, agent.cursor, None, 1000) {
        Ok(page) => page,
        Err(LedgerError::SetBack | LedgerError::CursorTooOld) => {
            agent.rebaseline(true);
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    for row in page.rows {
        match row {
            FeedRow::Node(node) => feed_row(agent, node.uid, node.since, node.by, Some(&node)),
            FeedRow::Gone { uid, seq, by } => feed_row(agent, uid, seq, by, None),
        }
    }
    agent.cursor = page.upto;
    agent.known = agent.known.max(page.upto);
    if !agent.at_cut {
        let flying = agent.flying;
        agent.offers.retain(|_, offer| Some(offer.batch) == flying);
        agent.at_cut = true;
    }
    agent.end_mode();
    Ok(())
}

/// `Session::rebase`.
fn tree_row(model: &CommitModel, agent: &mut Agent, file: usize, node: &NodeState) {
    let here = (value_of(&node.content), node.since);
    agent.cloud[file] = Some(here);
    let Some((value, since)) = agent.synced[file] else { return };
    let distrust = agent.history_lost && model.broken != Some(Broken::BaseOfLostHistory);
    if value == here.0 {
        agent.synced[file] = Some(here);
    } else if node.since <= since || distrust {
        agent.synced[file] = None;
    }
}

/// `Session::row`.
fn feed_row(agent: &mut Agent, uid: NodeUid, since: Seq, by: InstanceId, node: Option<&NodeState>) {
    let Some(file) = file_of(uid) else { return };
    let becomes = node.map(|node| value_of(&node.content));
    if by == agent.instance && agent.offers.get(&file).is_some_and(|offer| offer.becomes == becomes) {
        agent.offers.remove(&file);
        agent.take_offer(file, becomes, since);
    }
    if agent.cloud[file].is_none_or(|(_, cloud)| cloud <= since) {
        agent.cloud[file] = becomes.map(|value| (value, since));
    }
}

/// What `polder_sync::plan` decides for a file whose name never changes: an edit beats a deletion, two edits leave a copy.
pub(super) fn plan(model: &CommitModel, state: &mut State, at: usize, file: u8) {
    let agent = &mut state.agents[at];
    let index = usize::from(file);
    let (here, base, there) = (agent.disk[index], agent.synced[index], agent.cloud[index]);
    let (base_value, there_value) = (base.map(|row| row.0), there.map(|row| row.0));
    let apply = |agent: &mut Agent| {
        agent.disk[index] = there_value;
        agent.synced[index] = there;
    };
    match (here, there) {
        _ if here == there_value => agent.synced[index] = there,
        // Only the share changed; a deletion that nobody may make is answered with the file.
        _ if here == base_value && (there.is_some() || !agent.no_deletes) => apply(agent),
        // Only this side changed.
        (None, Some((_, since))) if there == base && !agent.no_deletes => {
            offer(model, state, at, file, None, since);
        }
        (None, _) => apply(agent),
        (Some(value), Some((_, since))) if there == base => offer(model, state, at, file, Some(value), since),
        (Some(value), None) => offer(model, state, at, file, Some(value), Seq(0)),
        (Some(value), Some(_)) => {
            let seen = there_value.is_some_and(|there| state.saw[value as usize] & 1 << there != 0);
            if seen && model.budget.agent_back + model.budget.service_back == 0 {
                state.fault = Some(format!("value {value} conflicts with one that its author had seen"));
            }
            state.copies |= 1 << value;
            apply(&mut state.agents[at]);
        }
    }
    state.agents[at].end_mode();
}

/// `Engine::send`: number and offer are durable before the batch leaves.
fn offer(_: &CommitModel, state: &mut State, at: usize, file: u8, becomes: Option<u64>, base: Seq) {
    let knows = state.service.share.knows(item(file));
    let agent = &mut state.agents[at];
    let batch = BatchNo(agent.next_batch);
    agent.next_batch += 1;
    agent.offers.insert(usize::from(file), Offer { batch, becomes });
    agent.flying = Some(batch);
    let uid = item(file);
    let op = match becomes {
        None => Op::Delete { uid, base },
        Some(new) if base == Seq(0) => new_op(file, value(new), knows),
        Some(new) => Op::Update { uid, base, mtime: None, attrs: None, content: Some(value(new)) },
    };
    let author = Author { by: agent.instance, batch };
    let known = agent.known;
    // The last accepted one stands first.
    let opening = agent.openings.first().copied().unwrap_or(InstanceId::ZERO);
    let behind = state.behind[at];
    state.messages.push(Message { agent: at, opening, behind, author, known, op });
}

/// `Engine::answered`.
pub(super) fn answered(_: &CommitModel, state: &mut State, at: usize, batch: BatchNo, answer: &Answer) {
    let agent = &mut state.agents[at];
    if agent.flying != Some(batch) {
        return;
    }
    agent.flying = None;
    let answer = match answer {
        Answer::Decided(answer) => answer,
        Answer::Stale => return agent.disconnect(),
        Answer::SetBack => return agent.rebaseline(true),
    };
    let offers: Vec<_> =
        agent.offers.iter().filter(|(_, offer)| offer.batch == batch).map(|(at, _)| *at).collect();
    for file in offers {
        let Some(offer) = agent.offers.remove(&file) else { continue };
        let Some(since) = accepted(answer) else { continue };
        // `Engine::accepted`: the feed may have been quicker.
        let row = offer.becomes.map(|value| (value, since));
        if agent.cloud[file].is_none_or(|(_, cloud)| cloud < since) {
            (agent.synced[file], agent.cloud[file]) = (row, row);
        } else if agent.synced[file].is_none_or(|(_, synced)| synced < since) {
            agent.synced[file] = row;
        }
    }
    if accepted(answer).is_some() {
        agent.known = agent.known.max(answer.cursor);
    }
    agent.end_mode();
}

fn file_of(uid: NodeUid) -> Option<usize> {
    (0..ITEMS).find(|at| item(*at as u8) == uid)
}
