//! A directory's listing against its synced children: what differs, and what is missing.

use std::borrow::Cow;
use std::cmp::Ordering;

use polder_types::{CaseRule, NodeUid};

use crate::{Seen, SyncedNode};

/// What a listing says that the synced rows do not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Differences<'a> {
    /// Entries without a row, and entries whose name, kind or stamp is not that of the row under their key, each with
    /// the row's node. Special files are among them.
    pub differ: Vec<(&'a Seen, Option<NodeUid>)>,
    /// Nodes under whose key nothing was seen. Empty when the listing is not complete.
    pub missing: Vec<NodeUid>,
}

/// Compares the entries of one directory with its synced children, both in any order.
///
/// `complete`: the directory was read to its end without error and is still the one that was asked for. A listing that
/// met an error adds and changes, but nothing that it did not see is missing (promise I5b).
///
/// Where two names have one key, the row goes to the one that has its exact name, else to the first by bytes.
pub fn compare_listing<'a>(
    seen: &'a [Seen],
    synced: &[(NodeUid, SyncedNode)],
    case: CaseRule,
    complete: bool,
) -> Differences<'a> {
    let key = |name: &'a [u8]| case.key(name);
    let mut entries: Vec<(Cow<'a, [u8]>, &'a Seen)> =
        seen.iter().map(|entry| (key(entry.name.as_bytes()), entry)).collect();
    entries.sort_by(|a, b| a.0.cmp(&b.0).then_with(|| a.1.name.cmp(&b.1.name)));
    let mut rows: Vec<(Cow<'_, [u8]>, NodeUid, &SyncedNode)> =
        synced.iter().map(|(uid, row)| (case.key(row.at.name.as_bytes()), *uid, row)).collect();
    rows.sort_by(|a, b| a.0.cmp(&b.0));

    let mut found = Differences::default();
    let mut rows = rows.into_iter().peekable();
    for same_key in entries.chunk_by(|a, b| a.0 == b.0) {
        let key = &same_key[0].0;
        let mut row = None;
        while let Some(order) = rows.peek().map(|next| next.0.cmp(key)).filter(|order| order.is_le()) {
            let next = rows.next().map(|(_, uid, row)| (uid, row));
            match order {
                Ordering::Equal if row.is_none() => row = next,
                _ => found.missing.extend(next.map(|(uid, _)| uid)),
            }
        }
        let exact = |row: &SyncedNode| same_key.iter().position(|(_, entry)| entry.name == row.at.name);
        let heir = row.map(|(_, row)| exact(row).unwrap_or(0));
        for (at, (_, entry)) in same_key.iter().enumerate() {
            match row.filter(|_| heir == Some(at)) {
                Some((_, row)) if is_unchanged(entry, row) => {}
                row => found.differ.push((entry, row.map(|(uid, _)| uid))),
            }
        }
    }
    found.missing.extend(rows.map(|(_, uid, _)| uid));
    if !complete {
        found.missing.clear();
    }
    found
}

fn is_unchanged(seen: &Seen, row: &SyncedNode) -> bool {
    seen.name == row.at.name && seen.kind == Some(row.content.kind()) && seen.stamp == row.stamp
}

#[cfg(test)]
mod tests {
    use polder_types::{AttrsHash, Content, FileIdent, Kind, Placed, Seq, Stamp, Timestamp};

    use super::*;

    fn stamp(ino: u64) -> Stamp {
        Stamp { ident: FileIdent { ino, generation: 0 }, ..Stamp::default() }
    }

    fn seen(name: &str, ino: u64, kind: Option<Kind>) -> Seen {
        Seen { name: name.parse().expect("legal"), kind, stamp: stamp(ino), links: 1 }
    }

    fn row(name: &str, ino: u8) -> (NodeUid, SyncedNode) {
        let at = Placed { parent: NodeUid::ROOT, name: name.parse().expect("legal") };
        let row = SyncedNode {
            at,
            content: Content::empty_file(),
            attrs_share: AttrsHash::default(),
            attrs_here: AttrsHash::default(),
            mtime_share: Timestamp::default(),
            stamp: stamp(ino.into()),
            since: Seq(1),
        };
        (NodeUid([ino; 16]), row)
    }

    /// What differs, as "name row?" texts, and the missing nodes.
    fn compare(
        seen: &[Seen],
        rows: &[(NodeUid, SyncedNode)],
        case: CaseRule,
        complete: bool,
    ) -> (Vec<String>, Vec<u8>) {
        let found = compare_listing(seen, rows, case, complete);
        let differ = found.differ.iter().map(|(entry, row)| match row {
            Some(uid) => format!("{} was {}", entry.name, uid.0[0]),
            None => format!("{} is new", entry.name),
        });
        (differ.collect(), found.missing.iter().map(|uid| uid.0[0]).collect())
    }

    #[test]
    fn only_differences_are_told() {
        let file = Some(Kind::File);
        let entries = [
            seen("new", 9, file),
            seen("same", 1, file),
            seen("edited", 8, file),
            seen("directory", 3, Some(Kind::Directory)),
            seen("pipe", 5, None),
        ];
        let rows = [row("same", 1), row("edited", 2), row("directory", 3), row("gone", 4), row("pipe", 5)];
        let differ: Vec<String> =
            ["directory was 3", "edited was 2", "new is new", "pipe was 5"].map(str::to_owned).into();
        let case = CaseRule::Sensitive;
        assert_eq!(compare(&entries, &rows, case, true), (differ.clone(), vec![4]));
        assert_eq!(
            compare(&entries, &rows, case, false),
            (differ, vec![]),
            "nothing is missing by half a listing"
        );
        assert_eq!(compare(&[], &rows[..2], case, true), (vec![], vec![2, 1]));
    }

    #[test]
    fn names_that_a_share_takes_for_one_share_a_row() {
        let file = Some(Kind::File);
        let case = CaseRule::Insensitive;
        let rows = [row("Foo", 1)];
        let both = [seen("FOO", 2, file), seen("Foo", 1, file)];
        assert_eq!(compare(&both, &rows, case, true), (vec!["FOO is new".to_owned()], vec![]));
        let renamed = [seen("foo", 1, file)];
        assert_eq!(compare(&renamed, &rows, case, true), (vec!["foo was 1".to_owned()], vec![]));
        assert_eq!(compare(&renamed, &rows, CaseRule::Sensitive, true).1, [1]);
    }
}
