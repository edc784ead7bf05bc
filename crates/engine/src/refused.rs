//! What the service says that cannot be true: a name that is a path, a root that is a file, a page that is no page.
//!
//! Nothing of such a row is believed: the node stays what it was, or unknown, and everything else goes on. The cut moves
//! past it, so it never comes again; it is therefore written down, and shown until a sound row about the node comes. A
//! service that says too much of it is not believed at all: the page is refused, and asked for again and again.

use std::collections::BTreeMap;

use polder_sync::{TreeError, TreeStore};
use polder_types::{Content, Cursor, Epoch, NodeState, NodeUid, Seq, Tag};

use crate::engine::Engine;
use crate::{Effect, Failure, FailureClass, Level, LogLine, Reason};

/// Note: nodes whose rows were refused.
const NOTE_REFUSED: &str = "refused";
/// Rows that are written down. More are told in the log alone.
const REFUSED_MAX: usize = 1000;
/// Longest reason that is written down.
const WHY_BYTES_MAX: usize = 300;

/// What is not believed at present.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    rows: BTreeMap<NodeUid, (Seq, Box<str>)>,
    /// Why the last answer about the tree was refused as a whole.
    pub(crate) answer: Option<Box<str>>,
}

impl Engine {
    pub(crate) fn load_refusals(&mut self, store: &mut dyn TreeStore) -> Result<(), TreeError> {
        let bytes = store.note(NOTE_REFUSED)?.unwrap_or_default();
        self.session.refusals.rows = decode(&bytes);
        let rows = self.session.refusals.rows.clone();
        for (uid, (_, why)) in rows {
            let path = self.path(store, uid)?;
            self.problems.refuse(uid, path, Reason::Untrue, why, self.now.unix_ms);
        }
        Ok(())
    }

    /// A row that is not believed. The node stays what it was.
    pub(crate) fn refuse_row(
        &mut self,
        store: &mut dyn TreeStore,
        uid: NodeUid,
        since: Seq,
        why: Box<str>,
    ) -> Result<NodeUid, TreeError> {
        let path = self.path(store, uid)?;
        self.out.push(Effect::Log(LogLine {
            level: Level::Error,
            audit: true,
            text: format!("what the service says of a node cannot be true and is refused: {why}").into(),
            uid: Some(uid),
            path: Some(path.clone()),
        }));
        let rows = &mut self.session.refusals.rows;
        if rows.len() < REFUSED_MAX || rows.contains_key(&uid) {
            rows.insert(uid, (since, cut(&why).into()));
            store.put_note(NOTE_REFUSED, &encode(rows))?;
        }
        self.problems.refuse(uid, path, Reason::Untrue, why, self.now.unix_ms);
        Ok(uid)
    }

    /// A sound row about a node: what was refused of it before is over, unless it is older.
    pub(crate) fn believe_row(
        &mut self,
        store: &mut dyn TreeStore,
        uid: NodeUid,
        since: Seq,
    ) -> Result<(), TreeError> {
        let rows = &mut self.session.refusals.rows;
        if rows.get(&uid).is_some_and(|(refused, _)| *refused <= since) {
            rows.remove(&uid);
            store.put_note(NOTE_REFUSED, &encode(rows))?;
            self.problems.believe(uid);
        }
        Ok(())
    }

    /// The whole tree is read anew: what is untrue in it will be said again.
    pub(crate) fn forget_refusals(&mut self, store: &mut dyn TreeStore) -> Result<(), TreeError> {
        let rows = std::mem::take(&mut self.session.refusals.rows);
        rows.into_keys().for_each(|uid| self.problems.believe(uid));
        store.put_note(NOTE_REFUSED, &[])
    }

    /// An answer about the tree that cannot be read: said loudly, once a reason, and shown until one can be read.
    pub(crate) fn answer_refused(&mut self, why: &Failure) {
        let news = self.session.refusals.answer.as_ref() != Some(&why.text);
        if why.class == FailureClass::Damaged && news {
            self.session.refusals.answer = Some(why.text.clone());
            self.log(Level::Error, format!("what the service says of the share is refused: {}", why.text));
        }
    }
}

/// What no row of a sound service says, whatever is in the share.
pub(crate) fn untrue(state: &NodeState) -> Option<&'static str> {
    let is_root = state.uid == NodeUid::ROOT;
    match (is_root, state.at.parent == state.uid) {
        (true, _) if state.content != Content::Directory => Some("the root is no directory"),
        (true, false) => Some("the root stands in another directory"),
        (false, true) => Some("it stands in itself"),
        _ => None,
    }
}

fn cut(why: &str) -> &str {
    let end = (0..=WHY_BYTES_MAX.min(why.len())).rev().find(|at| why.is_char_boundary(*at));
    &why[..end.unwrap_or(0)]
}

/// Id, number, length of the reason in two bytes, the reason.
fn encode(rows: &BTreeMap<NodeUid, (Seq, Box<str>)>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (uid, (since, why)) in rows {
        bytes.extend(uid.0);
        bytes.extend(since.0.to_be_bytes());
        bytes.extend((why.len() as u16).to_be_bytes());
        bytes.extend(why.as_bytes());
    }
    bytes
}

/// What cannot be read is dropped: it was for people.
fn decode(mut bytes: &[u8]) -> BTreeMap<NodeUid, (Seq, Box<str>)> {
    let mut rows = BTreeMap::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<26>() {
        let uid = NodeUid::from_slice(&head[..16]);
        let since = head[16..24].try_into().map(u64::from_be_bytes);
        let len = usize::from(u16::from_be_bytes([head[24], head[25]]));
        let why = rest.get(..len).and_then(|why| std::str::from_utf8(why).ok());
        let (Some(uid), Ok(since), Some(why)) = (uid, since, why) else { break };
        rows.insert(uid, (Seq(since), why.into()));
        bytes = &rest[len..];
    }
    rows
}

pub(crate) fn encode_cursor(cursor: Cursor) -> Vec<u8> {
    [cursor.epoch.0, cursor.seq.0, cursor.tag.0].iter().flat_map(|number| number.to_be_bytes()).collect()
}

pub(crate) fn decode_cursor(bytes: &[u8]) -> Option<Cursor> {
    let number =
        |at: usize| bytes.get(at..at + 8).and_then(|part| part.try_into().ok()).map(u64::from_be_bytes);
    Some(Cursor { epoch: Epoch(number(0)?), seq: Seq(number(8)?), tag: Tag(number(16)?) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_read_as_they_were_written() {
        let rows: BTreeMap<_, _> = [(1, "a name"), (2, ""), (3, "größer")]
            .map(|(n, why)| (NodeUid([n; 16]), (Seq(n.into()), why.into())))
            .into();
        let bytes = encode(&rows);
        assert_eq!(decode(&bytes), rows);
        for len in 0..bytes.len() {
            assert!(decode(&bytes[..len]).len() < 3, "{len}");
        }
        assert_eq!(cut(&"ü".repeat(200)).len(), 300);
    }
}
