//! Reading, now and as of a sequence.

use polder_ledger::{At, LedgerError, list, path_of, seq_at, stat, versions};
use polder_types::{CaseRule, Content, Seq};

use crate::support::*;

on_all_forms! {
    /// Scenario 101: a snapshot is a number, and the tree of any number can be read.
    fn every_past_tree_can_be_read(share) {
        let mut trees = vec![(Seq(0), share.tree(At::Now))];
        let keep = |share: &Share, trees: &mut Vec<_>| trees.push((share.head().seq, share.tree(At::Now)));
        share.ok(vec![mkdir(1, ROOT, "d"), mkdir(2, uid(1), "e"), file(3, uid(2), "f"), file(4, ROOT, "g")]);
        keep(share, &mut trees);
        let (d, f, g) = (share.get("d").since, share.get("d/e/f").since, share.get("g").since);
        share.ok(vec![mv(4, g, uid(2), "f"), mv(3, f, ROOT, "g")]);
        keep(share, &mut trees);
        share.ok(vec![mv(1, d, ROOT, "z")]);
        keep(share, &mut trees);
        let (f, e) = (share.get("z/e/f").since, share.get("z/e").since);
        share.ok(vec![rm(4, f), rm(2, e)]);
        keep(share, &mut trees);
        share.ok(vec![revive(2, ROOT, "e", Content::Directory), revive(4, uid(2), "f", hole(9))]);
        keep(share, &mut trees);
        share.reopen();
        for (seq, tree) in &trees {
            assert_eq!(share.tree(At::Seq(*seq)), *tree, "as of {seq}");
        }
        // Inside a commit: the one before.
        assert_eq!(share.tree(At::Seq(Seq(3))), trees[0].1);
        assert!(share.db.read(|rows| stat(rows, ROOT, At::Seq(Seq(99)))).is_err());
        let past = At::Seq(trees[1].0);
        let path = |uid, at| share.db.read(|rows| path_of(rows, uid, at)).unwrap().map(|path| path.to_string());
        assert_eq!(path(uid(3), past).as_deref(), Some("d/e/f"));
        assert_eq!(path(uid(3), At::Now).as_deref(), Some("g"));
        assert_eq!(path(uid(4), At::Seq(trees[4].0)), None);
        assert_eq!(path(ROOT, At::Now).as_deref(), Some("/"));
        assert_eq!(share.at("d/e/f", past).unwrap().uid, uid(3));
        assert_eq!(share.at("d/nothing", past), None);
    }

    fn pages_of_a_directory(share) {
        let ops = (1..=20).map(|n| file(n, ROOT, &format!("f{n:02}"))).collect();
        share.ok(ops);
        let then = share.head().seq;
        let base = share.get("f07").since;
        share.ok(vec![mv(7, base, ROOT, "moved"), rm(9, Seq(10))]);
        for (at, count) in [(At::Now, 19), (At::Seq(then), 20)] {
            for limit in [1, 3, 19, 20, 100] {
                let mut names = Vec::new();
                let mut after: Option<Box<[u8]>> = None;
                loop {
                    let page = share.db.read(|rows| list(rows, ROOT, after.as_deref(), limit, at)).unwrap().unwrap();
                    assert!(page.nodes.len() <= limit);
                    names.extend(page.nodes.into_iter().map(|node| node.at.name));
                    after = page.next;
                    if after.is_none() {
                        break;
                    }
                }
                assert_eq!(names.len(), count);
                assert!(names.is_sorted());
            }
        }
        assert_eq!(share.db.read(|rows| list(rows, uid(1), None, 5, At::Now)).unwrap(), None);
        assert_eq!(share.db.read(|rows| list(rows, uid(99), None, 5, At::Now)).unwrap(), None);
    }

    fn history_of_a_node_shows_its_gaps(share) {
        let first = share.ok(vec![file(1, ROOT, "a")]);
        share.time_ms += 500;
        let second = share.ok(vec![update(1, first, hole(50))]);
        let third = share.ok(vec![rm(1, second)]);
        share.time_ms += 500;
        let fourth = share.ok(vec![revive(1, ROOT, "b", hole(51))]);
        let found = share.db.read(|rows| versions(rows, uid(1), Seq(0), 10)).unwrap();
        let spans: Vec<_> = found.iter().map(|version| (version.state.since, version.until, version.state.content.size())).collect();
        assert_eq!(spans, [(first, Some(second), 1), (second, Some(third), 50), (fourth, None, 51)]);
        assert_eq!(found[2].time_ms, Some(share.time_ms));
        assert_eq!(share.db.read(|rows| versions(rows, uid(1), second, 1)).unwrap().len(), 1);
        assert!(share.db.read(|rows| versions(rows, uid(9), Seq(0), 10)).unwrap().is_empty());
    }

    fn moments_become_sequences(share) {
        let start = share.time_ms;
        let mut ends = Vec::new();
        for n in 1..=20u8 {
            share.time_ms = start + 1000 * u64::from(n);
            share.ok(vec![file(n, ROOT, &format!("f{n}")), file(n + 100, ROOT, &format!("g{n}"))]);
            ends.push((share.time_ms, share.head().seq));
        }
        let at = |share: &Share, ms| share.db.read(|rows| seq_at(rows, ms)).unwrap();
        assert_eq!(at(share, start), None);
        for (ms, seq) in ends {
            assert_eq!(at(share, ms), Some(seq));
            assert_eq!(at(share, ms + 999), Some(seq));
        }
        // A clock that went back does not move the share's time back.
        share.time_ms = start;
        share.ok(vec![file(50, ROOT, "late")]);
        assert_eq!(at(share, start), None);
        assert_eq!(at(share, start + 20_000), Some(share.head().seq));
    }
}

/// Scenario 62, at the share.
#[test]
fn deep_trees_need_no_stack() -> Result<(), LedgerError> {
    let mut share = Share::sqlite(CaseRule::Sensitive);
    let uid = |n: u32| polder_types::NodeUid::from_parts(n.into(), [1; 10]);
    let ops = (0..5000).map(|n| polder_types::Op::Create {
        uid: uid(n + 1),
        at: place(if n == 0 { ROOT } else { uid(n) }, "d"),
        mtime: Default::default(),
        attrs: Default::default(),
        content: Content::Directory,
    });
    share.ok(ops.collect());
    share.ok(vec![mkdir(1, ROOT, "x")]);
    let x = share.get("x").since;
    let path = share.db.read(|rows| path_of(rows, uid(5000), At::Now))?.unwrap();
    assert_eq!(path.names().len(), 5000);
    share.ok(vec![polder_types::Op::Move {
        uid: crate::support::uid(1),
        base: x,
        to: place(uid(5000), "x"),
    }]);
    Ok(())
}
