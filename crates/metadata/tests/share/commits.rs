//! What is taken and what is refused.

use polder_ledger::{At, Brake, LedgerError, announce, kept_answers, new_epoch};
use polder_types::{
    Author, BatchNo, CaseRule, Cursor, Epoch, Group, GroupAnswer, InstanceId, NodeUid, Op, Refusal, Seq, Tag,
};

use crate::support::*;

on_all_forms! {
    fn a_batch_takes_one_number_and_each_operation_one(share) {
        assert_eq!(share.ok(vec![mkdir(1, ROOT, "d"), file(2, uid(1), "f")]), Seq(2));
        assert_eq!(share.head().seq, Seq(3));
        assert_eq!(share.get("d/f").since, Seq(3));
        assert_eq!(share.ok(vec![file(3, ROOT, "g")]), Seq(5));
        assert_eq!(share.get("g").by, A);
    }

    fn groups_of_a_batch_stand_alone(share) {
        let author = share.next(A);
        let groups = [
            Group { ops: vec![file(1, ROOT, "a")] },
            Group { ops: vec![file(2, ROOT, "b"), file(3, ROOT, "a")] },
            Group { ops: vec![file(4, ROOT, "c")] },
        ];
        let answer = share.send(author, &groups).unwrap();
        let taken = GroupAnswer::Refused { op: 1, why: Refusal::NameTaken { by: uid(1) } };
        assert_eq!(answer.groups, [GroupAnswer::Accepted { first: Seq(2) }, taken, GroupAnswer::Accepted { first: Seq(3) }]);
        assert_eq!(answer.cursor.seq, Seq(3));
        assert_eq!(share.paths(At::Now), ["/a", "/c"]);
    }

    fn swaps_and_chains_are_one_group(share) {
        share.ok(vec![file(1, ROOT, "a"), file(2, ROOT, "b"), file(3, ROOT, "c")]);
        let (a, b, c) = (share.get("a").since, share.get("b").since, share.get("c").since);
        assert_eq!(share.no(vec![mv(1, a, ROOT, "b")]).1, Refusal::NameTaken { by: uid(2) });
        share.ok(vec![mv(1, a, ROOT, "b"), mv(2, b, ROOT, "a")]);
        assert_eq!((share.get("a").uid, share.get("b").uid), (uid(2), uid(1)));
        let (a, b) = (share.get("a").since, share.get("b").since);
        share.ok(vec![mv(2, a, ROOT, "b"), mv(1, b, ROOT, "c"), mv(3, c, ROOT, "a")]);
        assert_eq!((share.get("a").uid, share.get("b").uid, share.get("c").uid), (uid(3), uid(2), uid(1)));
    }

    fn a_replacing_rename_and_a_new_node_under_a_deleted_name(share) {
        share.ok(vec![file(1, ROOT, "a"), file(2, ROOT, "b")]);
        let (a, b) = (share.get("a").since, share.get("b").since);
        share.ok(vec![mv(1, a, ROOT, "b"), rm(2, b)]);
        assert_eq!(share.paths(At::Now), ["/b"]);
        let b = share.get("b").since;
        share.ok(vec![mkdir(3, ROOT, "b"), rm(1, b)]);
        assert_eq!(share.get("b").uid, uid(3));
    }

    fn two_operations_on_one_node_make_one_version(share) {
        let first = share.ok(vec![file(1, ROOT, "a")]);
        let seq = share.ok(vec![mv(1, first, ROOT, "b"), update(1, first, hole(77))]);
        let node = share.get("b");
        assert_eq!((node.since, node.content.size()), (Seq(seq.0 + 1), 77));
        assert_eq!(share.no(vec![update(1, seq, hole(1))]).1, Refusal::BaseChanged { current: Some(node.since) });
        let versions = share.db.read(|rows| polder_ledger::versions(rows, uid(1), Seq(0), 10)).unwrap();
        assert_eq!(versions.len(), 2);
    }

    fn another_base_is_refused(share) {
        let first = share.ok(vec![file(1, ROOT, "a")]);
        let second = share.ok(vec![update(1, first, hole(2))]);
        let changed = Refusal::BaseChanged { current: Some(second) };
        assert_eq!(share.no(vec![update(1, first, hole(3))]), (0, changed.clone()));
        assert_eq!(share.no(vec![mv(1, first, ROOT, "b")]).1, changed);
        assert_eq!(share.no(vec![rm(1, first)]).1, changed);
        share.ok(vec![rm(1, second)]);
        assert_eq!(share.no(vec![update(1, second, hole(3))]).1, Refusal::BaseChanged { current: None });
        assert_eq!(share.no(vec![rm(9, second)]).1, Refusal::BaseChanged { current: None });
    }

    fn a_node_lives_again_under_its_id(share) {
        share.ok(vec![mkdir(1, ROOT, "d"), file(2, uid(1), "f")]);
        let (d, f) = (share.get("d").since, share.get("d/f").since);
        share.ok(vec![rm(2, f), rm(1, d)]);
        assert_eq!(share.no(vec![file(2, ROOT, "x")]).1, Refusal::Exists);
        assert_eq!(share.no(vec![revive(2, uid(1), "f", hole(1))]).1, Refusal::ParentGone { parent: uid(1) });
        assert!(matches!(share.no(vec![revive(2, ROOT, "f", polder_types::Content::Directory)]).1, Refusal::Invalid(_)));
        share.ok(vec![revive(1, ROOT, "d", polder_types::Content::Directory), revive(2, uid(1), "f", hole(5))]);
        assert_eq!(share.get("d/f").uid, uid(2));
        let live = share.get("d/f").since;
        assert_eq!(share.no(vec![revive(2, ROOT, "g", hole(1))]).1, Refusal::BaseChanged { current: Some(live) });
        share.ok(vec![revive(7, ROOT, "never-was", hole(1))]);
        assert_eq!(share.paths(At::Now), ["/d", "/d/f", "/never-was"]);
    }

    fn a_directory_is_deleted_only_when_empty_in_the_end(share) {
        share.ok(vec![mkdir(1, ROOT, "d"), file(2, uid(1), "f"), file(3, uid(1), "g")]);
        let (d, f, g) = (share.get("d").since, share.get("d/f").since, share.get("d/g").since);
        assert_eq!(share.no(vec![rm(1, d)]), (0, Refusal::NotEmpty));
        assert_eq!(share.no(vec![rm(2, f), rm(1, d)]), (1, Refusal::NotEmpty));
        assert_eq!(share.no(vec![rm(1, d), rm(2, f), rm(3, g), file(4, uid(1), "h")]).1, Refusal::ParentGone { parent: uid(1) });
        share.ok(vec![rm(1, d), rm(2, f), mv(3, g, ROOT, "g")]);
        assert_eq!(share.paths(At::Now), ["/g"]);
    }

    /// Scenario 3, at the share: the second of two moves that make a cycle.
    fn cycles_are_refused(share) {
        share.ok(vec![mkdir(1, ROOT, "a"), mkdir(2, uid(1), "b"), mkdir(3, uid(2), "c"), mkdir(4, ROOT, "x")]);
        let since = |share: &Share, path| share.get(path).since;
        let (a, b, x) = (since(share, "a"), since(share, "a/b"), since(share, "x"));
        assert_eq!(share.no(vec![mv(1, a, uid(3), "a")]), (0, Refusal::Cycle));
        assert_eq!(share.no(vec![mv(1, a, uid(1), "a")]), (0, Refusal::Cycle));
        assert_eq!(share.no(vec![mv(1, a, uid(4), "a"), mv(4, x, uid(3), "x")]).1, Refusal::Cycle);
        assert_eq!(share.no(vec![mkdir(5, uid(3), "n"), mv(1, a, uid(5), "a")]).1, Refusal::Cycle);
        // Turned inside out: legal in the end, in whatever order.
        share.ok(vec![mv(1, a, uid(2), "a"), mv(2, b, ROOT, "b")]);
        assert_eq!(share.paths(At::Now), ["/b", "/b/a", "/b/c", "/x"]);
    }

    fn places_that_cannot_be(share) {
        let f = share.ok(vec![file(1, ROOT, "f")]);
        assert_eq!(share.no(vec![file(2, uid(9), "x")]).1, Refusal::ParentGone { parent: uid(9) });
        assert_eq!(share.no(vec![file(2, uid(1), "x")]).1, Refusal::ParentGone { parent: uid(1) });
        assert_eq!(share.no(vec![file(2, uid(3), "x"), mkdir(3, ROOT, "d")]).1, Refusal::ParentGone { parent: uid(3) });
        assert_eq!(share.no(vec![file(2, ROOT, ".polder")]).1, Refusal::BadName(name(".polder")));
        assert_eq!(share.no(vec![mv(1, f, ROOT, ".polder")]).1, Refusal::BadName(name(".polder")));
        share.ok(vec![mkdir(4, ROOT, "d"), file(5, uid(4), ".polder")]);
        assert_eq!(share.no(vec![file(6, ROOT, "y"), file(7, ROOT, "y")]), (1, Refusal::NameTaken { by: uid(6) }));
    }

    fn the_root_only_changes_its_attributes(share) {
        let update = |base| Op::Update {
            uid: NodeUid::ROOT, base, mtime: Some(polder_types::Timestamp::new(7, 0)), attrs: None, content: None,
        };
        let seq = share.ok(vec![update(Seq(0))]);
        assert!(matches!(share.no(vec![Op::Delete { uid: ROOT, base: seq }]).1, Refusal::Invalid(_)));
        assert!(matches!(share.no(vec![Op::Move { uid: ROOT, base: seq, to: place(ROOT, "x") }]).1, Refusal::Invalid(_)));
        let root = share.get("");
        assert_eq!((root.since, root.mtime.secs, root.uid, root.at.parent), (seq, 7, ROOT, ROOT));
    }

    fn invalid_operations_are_refused_and_not_stored(share) {
        let bad = polder_types::Content::File { size: 5, body: polder_types::Body::Inline(vec![]) };
        assert!(matches!(share.no(vec![create(1, ROOT, "a", bad)]).1, Refusal::Invalid(_)));
        let f = share.ok(vec![file(1, ROOT, "a")]);
        assert!(matches!(share.no(vec![update(1, f, polder_types::Content::Directory)]).1, Refusal::Invalid(_)));
        assert!(matches!(share.no(vec![rm(1, f), update(1, f, hole(1))]).1, Refusal::Invalid(_)));
        assert!(matches!(share.no(vec![update(1, f, hole(1)), rm(1, f)]).1, Refusal::Invalid(_)));
        assert!(matches!(share.no(vec![]).1, Refusal::Invalid(_)));
    }

    /// Scenarios 81 and 82: a lost answer, a batch that comes twice.
    fn a_repeat_gets_the_first_answer(share) {
        let author = share.next(A);
        let groups = [Group { ops: vec![file(1, ROOT, "a")] }, Group { ops: vec![file(2, ROOT, "a")] }];
        let first = share.send(author, &groups).unwrap();
        let refused = share.next(A);
        let no = share.send(refused, &groups[1..]).unwrap();
        assert_eq!(no.cursor, first.cursor);
        // What refused the batches is gone; late repeats must not be taken.
        let a = share.get("a").since;
        share.ok(vec![rm(1, a)]);
        let head = share.head();
        share.reopen();
        let open = [author.batch, refused.batch, BatchNo(99)];
        let kept = share.db.read(|rows| kept_answers(rows, A, &open)).unwrap();
        assert_eq!(kept, [(author.batch, first.clone()), (refused.batch, no.clone())]);
        assert_eq!(share.send(author, &groups).unwrap(), first);
        share.known = head;
        assert_eq!(share.send(refused, &groups[1..]).unwrap(), no);
        assert_eq!(share.head(), head);
    }

    /// Scenario 82: a batch that comes days late.
    fn stale_batches_are_refused(share) {
        share.ok(vec![file(1, ROOT, "a")]);
        share.edit(|rows| announce(rows, A, BatchNo(7))).unwrap();
        let stale = |share: &mut Share, batch| share.send(Author { by: A, batch: BatchNo(batch) }, &[Group { ops: vec![file(2, ROOT, "b")] }]);
        assert!(matches!(stale(share, 6), Err(LedgerError::StaleBatch { batch_min: BatchNo(7) })));
        assert_eq!(share.paths(At::Now), ["/a"]);
        share.edit(|rows| announce(rows, A, BatchNo(3))).unwrap();
        assert!(stale(share, 6).is_err());
        assert!(stale(share, 7).is_ok());
    }

    fn direct_changes_need_no_name(share) {
        let nobody = Author { by: InstanceId::ZERO, batch: BatchNo(0) };
        share.send(nobody, &[Group { ops: vec![file(1, ROOT, "a")] }]).unwrap();
        share.send(nobody, &[Group { ops: vec![file(2, ROOT, "b")] }]).unwrap();
        assert_eq!(share.get("b").by, InstanceId::ZERO);
        let named = Author { by: InstanceId::ZERO, batch: BatchNo(0x7fff_ffff_ffff_ffff) };
        let first = share.send(named, &[Group { ops: vec![file(3, ROOT, "c")] }]).unwrap();
        assert_eq!(share.send(named, &[Group { ops: vec![file(3, ROOT, "c")] }]).unwrap(), first);
    }

    /// Scenarios 93 and 95: a cursor that is of no place in this history.
    fn a_share_or_an_author_that_was_set_back_is_noticed(share) {
        share.ok(vec![file(1, ROOT, "a")]);
        let known = share.known;
        share.ok(vec![file(2, ROOT, "b")]);
        let try_with = |share: &mut Share, cursor| {
            share.known = cursor;
            let author = share.next(A);
            share.send(author, &[Group { ops: vec![file(3, ROOT, "c")] }])
        };
        for wrong in [
            Cursor { tag: Tag(1), ..known },
            Cursor { seq: Seq(1), ..known },
            Cursor { seq: Seq(1000), ..known },
            Cursor { epoch: Epoch(1), ..known },
        ] {
            assert!(matches!(try_with(share, wrong), Err(LedgerError::SetBack)), "{wrong:?}");
        }
        assert!(try_with(share, known).is_ok());
        let before = share.head();
        let head = share.edit(|rows| new_epoch(rows, Tag(5), 0)).unwrap();
        assert_eq!(head.seq.0, before.seq.0 + (1 << 40));
        assert!(matches!(try_with(share, before), Err(LedgerError::SetBack)));
        assert!(try_with(share, head).is_ok());
    }

    fn only_growth_meets_the_quota(share) {
        share.ok(vec![create(1, ROOT, "a", hole(100))]);
        let a = share.get("a").since;
        share.quota_bytes = Some(50);
        assert_eq!(share.no(vec![create(2, ROOT, "b", hole(1))]).1, Refusal::Quota { quota_bytes: 50 });
        let a = share.ok(vec![update(1, a, hole(90))]);
        share.ok(vec![mkdir(3, ROOT, "d")]);
        share.quota_bytes = Some(100);
        share.ok(vec![create(2, ROOT, "b", hole(10))]);
        assert_eq!(share.no(vec![update(1, a, hole(91))]).1, Refusal::Quota { quota_bytes: 100 });
        let b = share.get("b").since;
        share.ok(vec![update(1, a, hole(100)), rm(2, b)]);
        share.quota_bytes = None;
        let a = share.get("a").since;
        share.ok(vec![update(1, a, hole(i64::MAX as u64))]);
        assert!(matches!(share.no(vec![create(4, ROOT, "e", hole(1))]).1, Refusal::Quota { .. }));
    }

    /// Scenario 107, at the share.
    fn the_brake_counts_what_others_wrote(share) {
        let ops = (1..=8).map(|n| file(n, ROOT, &format!("f{n}"))).collect();
        share.ok(ops);
        share.brake = Some(Brake { window_ms: 1000, ops_max: 2, held: false });
        let rm_by = |share: &mut Share, by, n: u8| {
            let base = share.get(&format!("f{n}")).since;
            share.group(by, vec![rm(n, base)])
        };
        let held = GroupAnswer::Refused { op: 0, why: Refusal::Held };
        // Its own may go without limit.
        for n in 1..=3 {
            assert_ne!(rm_by(share, A, n), held);
        }
        // What is refused for another reason and sent again counts once.
        for _ in 0..5 {
            let base = share.get("f4").since;
            let answer = share.group(B, vec![update(4, base, bytes(200))]);
            assert!(matches!(answer, GroupAnswer::Refused { why: Refusal::ChunksMissing(_), .. }));
        }
        assert_ne!(rm_by(share, B, 4), held);
        assert_ne!(rm_by(share, B, 5), held);
        assert_eq!(rm_by(share, B, 6), held);
        let base = share.get("f6").since;
        assert_eq!(share.group(B, vec![update(6, base, hole(1))]), held);
        assert_eq!(share.group(B, vec![mv(6, base, ROOT, "g")]), held);
        assert_ne!(share.group(B, vec![file(9, ROOT, "new")]), held);
        share.time_ms += 1000;
        assert_ne!(rm_by(share, B, 6), held);
        share.brake = Some(Brake { window_ms: 1000, ops_max: 2, held: true });
        assert_eq!(rm_by(share, B, 7), held);
        share.brake = None;
        assert_ne!(rm_by(share, B, 7), held);
        // What was let go is forgotten: the count begins anew within the same window.
        share.brake = Some(Brake { window_ms: 1000, ops_max: 1, held: false });
        assert_ne!(rm_by(share, B, 8), held);
    }

    fn an_error_takes_back_the_whole_job(share) {
        let before = share.head();
        let result: Result<(), LedgerError> = share.edit(|rows| {
            let trees = Default::default();
            let context = polder_ledger::CommitContext {
                time_ms: 1, tag: Tag(1), known: Cursor::default(), announced: BatchNo(0), quota_bytes: None, brake: None, trees: &trees,
            };
            let author = Author { by: B, batch: BatchNo(1) };
            polder_ledger::commit(rows, &context, author, &[Group { ops: vec![file(1, ROOT, "a")] }])?;
            Err(LedgerError::FenceLost)
        });
        assert!(matches!(result, Err(LedgerError::FenceLost)));
        assert_eq!(share.head(), before);
        assert!(share.paths(At::Now).is_empty());
        share.ok(vec![file(1, ROOT, "a")]);
    }
}

/// Scenarios 16 and 17, at the share.
#[test]
fn case_only_renames_and_folded_names() {
    for mut share in [Share::memory(CaseRule::Insensitive), Share::sqlite(CaseRule::Insensitive)] {
        let first = share.ok(vec![file(1, ROOT, "Foo")]);
        assert_eq!(share.no(vec![file(2, ROOT, "fOO")]).1, Refusal::NameTaken { by: uid(1) });
        assert_eq!(share.no(vec![file(2, ROOT, ".Polder")]).1, Refusal::BadName(name(".Polder")));
        share.ok(vec![mv(1, first, ROOT, "foo")]);
        assert_eq!(share.get("FOO").at.name, name("foo"));
        assert_eq!(share.at("foo", At::Seq(first)).unwrap().at.name, name("Foo"));
        assert_eq!(share.paths(At::Now), ["/foo"]);
    }
}
