//! What followers are told.

use std::collections::BTreeMap;

use polder_ledger::{At, FeedFrom, FeedPage, FeedRow, LedgerError, bootstrap, changes, new_epoch};
use polder_types::{Cursor, NodeState, NodeUid, Seq, Tag};

use crate::support::*;

/// A follower's tree.
#[derive(Default, Clone, Debug, PartialEq)]
pub struct Replica {
    pub nodes: BTreeMap<NodeUid, NodeState>,
    pub cursor: Cursor,
}

impl Replica {
    /// Reads the whole tree in pages of `limit`, letting `between` run after each page.
    pub fn begin(share: &mut Share, limit: usize, mut between: impl FnMut(&mut Share)) -> Self {
        let mut replica = Self::default();
        let (mut from, mut after) = (None, None);
        loop {
            let page = share.db.read(|rows| bootstrap(rows, from, after, limit)).unwrap();
            for node in page.rows {
                replica.nodes.insert(node.uid, node);
            }
            from = Some(page.from);
            after = page.next;
            between(share);
            if after.is_none() {
                replica.cursor = page.from;
                return replica;
            }
        }
    }

    /// Reads the feed up to a cut in pages of `limit`.
    pub fn follow(&mut self, share: &mut Share, limit: usize, mut between: impl FnMut(&mut Share)) {
        let mut next: Option<FeedFrom> = None;
        loop {
            let after = self.cursor;
            let page = share.db.read(|rows| changes(rows, after, next, limit)).unwrap();
            assert!(page.rows.len() <= limit);
            self.take(&page);
            between(share);
            next = page.next;
            if next.is_none() {
                self.cursor = page.upto;
                return;
            }
        }
    }

    fn take(&mut self, page: &FeedPage) {
        for row in &page.rows {
            match row {
                FeedRow::Node(node) => drop(self.nodes.insert(node.uid, node.clone())),
                FeedRow::Gone { uid, .. } => drop(self.nodes.remove(uid)),
            }
        }
    }

    /// Its nodes equal the share's tree at its cursor.
    pub fn assert_equals(&self, share: &Share) {
        let tree: BTreeMap<_, _> =
            share.tree(At::Seq(self.cursor.seq)).into_values().map(|node| (node.uid, node)).collect();
        let mut nodes = self.nodes.clone();
        nodes.remove(&ROOT);
        assert_eq!(nodes, tree);
    }
}

/// The deletions that the feed tells of, read in pages of one row; `between` runs after the first.
fn deletions(share: &mut Share, after: Cursor, mut between: impl FnMut(&mut Share)) -> Vec<(NodeUid, Seq)> {
    let (mut gone, mut next) = (Vec::new(), None);
    loop {
        let page = share.db.read(|rows| changes(rows, after, next, 1)).unwrap();
        gone.extend(page.rows.into_iter().filter_map(|row| match row {
            FeedRow::Gone { uid, seq, .. } => Some((uid, seq)),
            FeedRow::Node(_) => None,
        }));
        if next.is_none() {
            between(share);
        }
        next = page.next;
        if next.is_none() {
            return gone;
        }
    }
}

fn page(share: &Share, after: Cursor, limit: usize) -> Result<FeedPage, LedgerError> {
    share.db.read(|rows| changes(rows, after, None, limit))
}

on_all_forms! {
    fn an_empty_share_has_a_root_and_no_changes(share) {
        let replica = Replica::begin(share, 10, |_| ());
        assert_eq!(replica.nodes.keys().collect::<Vec<_>>(), [&ROOT]);
        assert_eq!(replica.cursor, Cursor::default());
        let page = page(share, Cursor::default(), 10).unwrap();
        assert_eq!((page.rows.len(), page.upto, page.next), (0, Cursor::default(), None));
    }

    fn each_node_comes_once_with_its_last_state(share) {
        let a = share.ok(vec![file(1, ROOT, "a"), file(2, ROOT, "b"), file(3, ROOT, "c")]);
        let start = share.head();
        let a = share.ok(vec![update(1, a, hole(5))]);
        let a = share.ok(vec![mv(1, a, ROOT, "x")]);
        share.ok(vec![update(1, a, hole(6))]);
        let b = share.get("b").since;
        share.ok(vec![rm(2, b)]);
        share.ok(vec![file(4, ROOT, "short-lived")]);
        let short = share.get("short-lived").since;
        share.ok(vec![rm(4, short)]);
        let page = page(share, start, 100).unwrap();
        assert_eq!(page.rows.len(), 3);
        let FeedRow::Node(node) = &page.rows[0] else { panic!() };
        assert_eq!((node.uid, &node.at.name, node.content.size(), node.by), (uid(1), &name("x"), 6, A));
        assert!(matches!(page.rows[1], FeedRow::Gone { uid: gone, by: A, .. } if gone == uid(2)));
        assert!(matches!(page.rows[2], FeedRow::Gone { uid: gone, .. } if gone == uid(4)));
        assert_eq!(page.upto, share.head());
    }

    /// A reader may know the version between the two, to which the first deletion is past.
    fn a_node_that_was_deleted_twice_is_told_with_its_last_deletion(share) {
        let first = share.ok(vec![file(1, ROOT, "a"), file(2, ROOT, "b")]);
        let start = share.head();
        share.ok(vec![rm(1, first)]);
        let again = share.ok(vec![revive(1, ROOT, "a", hole(2))]);
        let last = share.ok(vec![rm(1, again)]);
        assert_eq!(deletions(share, start, |_| ()), [(uid(1), last)]);
        let page = page(share, start, 100).unwrap();
        assert!(matches!(page.rows[..], [FeedRow::Gone { seq, .. }] if seq == last), "{page:?}");
        // It changes again while the pages of the cut are read: which deletion was the last one there is in the order alone.
        let told = deletions(share, start, |share| {
            share.ok(vec![revive(1, ROOT, "a", hole(3))]);
        });
        assert_eq!(told.last(), Some(&(uid(1), last)));
    }

    fn a_cut_stays_while_commits_go_on(share) {
        share.ok((1..=9).map(|n| file(n, ROOT, &format!("f{n}"))).collect());
        let mut replica = Replica::default();
        let mut n = 9;
        replica.follow(share, 2, |share| {
            // Deletes one that was told, changes one that comes, and adds one.
            n += 1;
            let (old, new) = (format!("f{}", n - 9), format!("f{}", n - 5));
            if n < 14 {
                let (gone, changed) = (share.get(&old), share.get(&new));
                let uid = |node: &NodeState| node.uid.0[0];
                share.ok(vec![rm(uid(&gone), gone.since), update(uid(&changed), changed.since, hole(1000)), file(n + 100, ROOT, &format!("n{n}"))]);
            }
        });
        assert!(replica.cursor.seq < share.head().seq);
        replica.nodes.insert(ROOT, share.get(""));
        replica.assert_equals(share);
        replica.follow(share, 3, |_| ());
        assert_eq!(replica.cursor, share.head());
        replica.assert_equals(share);
    }

    fn a_beginning_while_commits_go_on_is_whole_at_the_next_cut(share) {
        share.ok(vec![mkdir(1, ROOT, "d"), file(2, uid(1), "a"), file(3, uid(1), "b"), mkdir(4, ROOT, "e")]);
        let mut step = 0;
        let mut replica = Replica::begin(share, 1, |share| {
            step += 1;
            match step {
                2 => drop(share.ok(vec![mv(2, Seq(3), uid(4), "a"), file(5, uid(4), "c")])),
                3 => drop(share.ok(vec![rm(3, Seq(4))])),
                4 => drop(share.ok(vec![file(6, uid(1), "b")])),
                _ => (),
            }
        });
        assert!(step >= 4);
        replica.follow(share, 2, |_| ());
        replica.assert_equals(share);
        assert_eq!(share.paths(At::Now), ["/d", "/d/b", "/e", "/e/a", "/e/c"]);
    }

    fn foreign_cursors_are_refused(share) {
        share.ok(vec![file(1, ROOT, "a"), file(2, ROOT, "b")]);
        let head = share.head();
        for wrong in [
            Cursor { tag: Tag(99), ..head },
            Cursor { seq: Seq(2), ..head },
            Cursor { seq: Seq(77), ..head },
        ] {
            assert!(matches!(page(share, wrong, 10), Err(LedgerError::SetBack)), "{wrong:?}");
            assert!(matches!(share.db.read(|rows| bootstrap(rows, Some(wrong), None, 5)), Err(LedgerError::SetBack)));
        }
        let beyond = FeedFrom { upto: head, seq: Seq(90) };
        assert!(share.db.read(|rows| changes(rows, head, Some(beyond), 5)).is_err());
        share.edit(|rows| new_epoch(rows, Tag(3), 1)).unwrap();
        assert!(matches!(page(share, head, 10), Err(LedgerError::SetBack)));
        let head = share.head();
        share.known = head;
        share.ok(vec![file(3, ROOT, "c")]);
        assert_eq!(page(share, head, 10).unwrap().rows.len(), 1);
    }
}
