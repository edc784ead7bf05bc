//! An agent that sends versions: ask, pack, put, commit; `polder_agent::chunks` and `polder_service::packs::http`.

use polder_ledger::{CommitContext, LedgerError, NewPack, TreeChunks};
use polder_types::{Author, BatchNo, Cursor, Group, GroupAnswer, InstanceId, Op, Refusal, Tag};

use super::{Action, Broken, Lane::*, Object, PruneModel, Start, State, pack_id, slot};
use crate::share::{Share, chunk, chunk_of, file, item, new_op, put_op};

/// Where an agent is with a version that it sends. Which copy of the chunk it relies on: its own, sound or not, or
/// the share's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Lane {
    /// Nothing to send.
    #[default]
    Idle,
    /// The chunk is in a pack that is to be put.
    Packed(Upload),
    /// The pack is durable in the store, and the request goes on.
    Stored(Upload),
    /// The version can be offered.
    Ready(Version),
}

/// A pack with one chunk, on its way for an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Upload {
    item: u8,
    chunk: u8,
    pack: u8,
}

/// A version that can be offered, and the pack that its author sent for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    item: u8,
    chunk: u8,
    own: Option<u8>,
}

pub(super) fn actions(model: &PruneModel, state: &State, agent: usize, out: &mut Vec<Action>) {
    let left = &state.left;
    match state.lanes[agent] {
        Idle if left.edits > 0 => {
            // In the beginning agents, items and chunks are alike: one of each may be the first.
            let first = left.edits == model.budget.edits && model.start != Start::TwoFiles;
            if first {
                out.extend((agent == 0).then_some(Action::Ask(0, 0, 1)));
                return;
            }
            for item in 0..super::ITEMS as u8 {
                out.extend((1..=model.chunks).map(|chunk| Action::Ask(agent, item, chunk)));
            }
        }
        Idle => (),
        Packed(_) => {
            out.push(Action::Put(agent, true));
            if left.damage > 0 {
                out.push(Action::Put(agent, false));
            }
        }
        Stored(_) => {
            out.push(Action::Register(agent));
            if left.lost > 0 {
                out.push(Action::Lose(agent));
            }
        }
        Ready(Version { item, .. }) => {
            out.push(Action::Commit(agent, false));
            if state.live[usize::from(item)].is_some() && state.live[usize::from(1 - item)].is_none() {
                out.push(Action::Commit(agent, true));
            }
        }
    }
    if left.give_ups > 0 && state.lanes[agent] != Idle {
        out.push(Action::GiveUp(agent));
    }
}

/// "Do you have this chunk?"
pub(super) fn ask(
    model: &PruneModel,
    state: &mut State,
    agent: usize,
    item: u8,
    number: u8,
) -> Result<(), LedgerError> {
    state.left.edits -= 1;
    let rows = state.share.rows();
    let known = match model.broken {
        Some(Broken::UnverifiedHave) => polder_ledger::locate(rows, &[chunk(number)])?[0].is_some(),
        _ => polder_ledger::have(rows, &[chunk(number)])?[0],
    };
    if known {
        state.lanes[agent] = Ready(Version { item, chunk: number, own: None });
        if !state.is_kept(number) {
            state.fault = Some(format!("chunk {number} need not be sent, and there is no sound copy"));
        }
    } else {
        state.pack(agent, item, number);
    }
    Ok(())
}

/// The object first, if it is not there.
pub(super) fn put(state: &mut State, agent: usize, sound: bool) -> Result<(), LedgerError> {
    if let Packed(upload) = state.lanes[agent] {
        state.left.damage -= u8::from(!sound);
        state.store.entry(upload.pack).or_insert(Object { chunks: vec![upload.chunk], sound });
        state.lanes[agent] = Stored(upload);
    }
    Ok(())
}

/// Then its rows, and the answer.
pub(super) fn register(state: &mut State, agent: usize) -> Result<(), LedgerError> {
    if let Stored(Upload { item, chunk: number, pack }) = state.lanes[agent] {
        let new = new_pack(pack, &[number], &[]);
        let now_ms = state.now_ms;
        state.share.write(|rows| polder_ledger::register_pack(rows, &new, now_ms, None))?;
        state.lanes[agent] = Ready(Version { item, chunk: number, own: Some(pack) });
    }
    Ok(())
}

pub(super) fn lose(state: &mut State, agent: usize) -> Result<(), LedgerError> {
    if let Stored(upload) = state.lanes[agent] {
        state.left.lost -= 1;
        state.lanes[agent] = Packed(upload);
    }
    Ok(())
}

/// Offers the version. With `beside`, the old content goes to the other item in the same group, as a conflict copy does.
pub(super) fn commit_version(state: &mut State, agent: usize, beside: bool) -> Result<(), LedgerError> {
    let Ready(Version { item: number, chunk, own }) = state.lanes[agent] else { return Ok(()) };
    let other = 1 - number;
    let mut ops = vec![put_op(&state.share, number, file(chunk))];
    let old = state.share.live(item(number)).map(|(_, content)| content);
    if let Some(old) = old.clone().filter(|_| beside) {
        ops.push(new_op(other, old, state.share.knows(item(other))));
    }
    let unchanged = old.as_ref().and_then(chunk_of) == Some(chunk);
    let durable = unchanged || state.has_durable_live_pack(chunk);
    match commit(state, agent, ops)? {
        GroupAnswer::Accepted { .. } => {
            if !durable {
                state.fault =
                    Some(format!("a commit names chunk {chunk}, which lies in no durable live pack"));
            }
            let in_vain = own.is_some_and(|pack| state.store.get(&pack).is_none_or(|object| !object.sound));
            if beside {
                state.live[usize::from(other)] = state.live[usize::from(number)];
            }
            if !unchanged {
                state.live[usize::from(number)] = Some((chunk, in_vain && !state.is_kept(chunk)));
            }
            state.lanes[agent] = Idle;
        }
        // Told to send it again: a fresh pack with a fresh nonce.
        GroupAnswer::Refused { why: Refusal::ChunksMissing(_), .. } => state.pack(agent, number, chunk),
        GroupAnswer::Refused { why, .. } => state.fault = Some(format!("refused: {why:?}")),
    }
    Ok(())
}

pub(super) fn delete(state: &mut State, number: u8) -> Result<(), LedgerError> {
    state.left.deletes -= 1;
    if let Some((base, _)) = state.share.live(item(number)) {
        commit(state, 0, vec![Op::Delete { uid: item(number), base }])?;
        state.live[usize::from(number)] = None;
    }
    Ok(())
}

fn commit(state: &mut State, agent: usize, ops: Vec<Op>) -> Result<GroupAnswer, LedgerError> {
    state.batches += 1;
    let author = Author { by: InstanceId([agent as u8 + 1; 16]), batch: BatchNo(state.batches) };
    let (time_ms, tag, trees) = (state.now_ms, Tag(state.batches), TreeChunks::new());
    let context = CommitContext {
        time_ms,
        tag,
        known: Cursor::default(),
        announced: BatchNo(0),
        quota_bytes: None,
        brake: None,
        trees: &trees,
    };
    let share: &mut Share = &mut state.share;
    let mut answer = share.write(|rows| polder_ledger::commit(rows, &context, author, &[Group { ops }]))?;
    Ok(answer.groups.remove(0))
}

impl State {
    fn pack(&mut self, agent: usize, item: u8, chunk: u8) {
        self.lanes[agent] = Packed(Upload { item, chunk, pack: self.next_pack });
        self.next_pack += 1;
    }
}

pub(super) fn new_pack(number: u8, chunks: &[u8], replaces: &[u8]) -> NewPack {
    NewPack {
        id: pack_id(number),
        bytes: 10 * chunks.len() as u64,
        key_gen: 1,
        meta: Box::new([]),
        chunks: chunks.iter().map(|number| (chunk(*number), slot())).collect(),
        replaces: replaces.iter().copied().map(pack_id).collect(),
    }
}
