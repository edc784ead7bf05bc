//! The last that is taken and the first that is refused: bounds that examples and random batches do not come near.

use polder_ledger::{At, BATCH_OPS_MAX, Brake, LedgerError, REFUSED_BATCHES_KEPT, SEQ_MAX, kept_answers};
use polder_types::{
    Attrs, Author, BatchNo, GROUP_OPS_MAX, Group, GroupAnswer, NodeUid, Op, Refusal, Seq, Timestamp,
};

use crate::support::*;

/// Operations on nodes that nobody knows: each group is refused at its first, so the number of them costs nothing.
fn unknown(count: usize) -> Group {
    Group { ops: vec![rm(200, Seq(1)); count] }
}

fn with_attrs(n: u8, attrs: Attrs) -> Op {
    let mtime = Timestamp::new(1, 0);
    Op::Create { uid: uid(n), at: place(ROOT, &format!("n{n}")), mtime, attrs, content: hole(1) }
}

fn is_invalid(refused: &(u32, Refusal)) -> bool {
    matches!(refused.1, Refusal::Invalid(_))
}

on_all_forms! {
    fn a_group_has_so_many_operations_and_no_more(share) {
        let gone = GroupAnswer::Refused { op: 0, why: Refusal::BaseChanged { current: None } };
        assert_eq!(share.group(A, unknown(GROUP_OPS_MAX).ops), gone);
        assert!(is_invalid(&share.no(unknown(GROUP_OPS_MAX + 1).ops)));
    }

    fn a_batch_has_so_many_operations_and_no_more(share) {
        let author = share.next(A);
        let mut groups = vec![unknown(GROUP_OPS_MAX); BATCH_OPS_MAX / GROUP_OPS_MAX];
        assert_eq!(share.send(author, &groups).unwrap().groups.len(), groups.len());
        groups.push(unknown(1));
        let author = share.next(A);
        assert!(matches!(share.send(author, &groups), Err(LedgerError::Invalid(_))));
    }

    fn a_batch_has_a_number_of_63_bits(share) {
        let named = |batch| Author { by: A, batch: BatchNo(batch) };
        let group = [Group { ops: vec![file(1, ROOT, "a")] }];
        assert!(matches!(share.send(named(SEQ_MAX + 1), &group), Err(LedgerError::Invalid(_))));
        share.send(named(SEQ_MAX), &group).unwrap();
    }

    fn the_numbers_of_a_share_end(share) {
        // Room for a batch of one operation: the batch's own number and the operation's.
        let head = share.edit(|rows| {
            let mut row = polder_ledger::share_row(rows)?;
            row.head.seq = Seq(SEQ_MAX - 2);
            rows.put_share(&row)?;
            Ok(row.head)
        }).unwrap();
        share.known = head;
        let author = share.next(A);
        let two = [Group { ops: vec![file(1, ROOT, "a"), file(2, ROOT, "b")] }];
        assert!(matches!(share.send(author, &two), Err(LedgerError::Invalid(_))));
        assert_eq!(share.ok(vec![file(1, ROOT, "a")]), Seq(SEQ_MAX));
        let author = share.next(A);
        assert!(matches!(share.send(author, &[unknown(1)]), Err(LedgerError::Invalid(_))));
    }

    fn answers_to_the_last_refused_batches_are_kept(share) {
        share.ok(vec![file(1, ROOT, "a")]);
        let group = [Group { ops: vec![file(2, ROOT, "a")] }];
        let mut authors = Vec::new();
        for _ in 0..=REFUSED_BATCHES_KEPT {
            let author = share.next(A);
            share.send(author, &group).unwrap();
            authors.push(author);
        }
        let batches: Vec<BatchNo> = authors.iter().map(|author| author.batch).collect();
        let kept = share.db.read(|rows| kept_answers(rows, A, &batches)).unwrap();
        assert_eq!(kept.iter().map(|(batch, _)| *batch).collect::<Vec<_>>(), batches);
        // One more, and the first answer goes; who comes back with that number has come too late.
        let last = share.next(A);
        share.send(last, &group).unwrap();
        let kept = share.db.read(|rows| kept_answers(rows, A, &batches)).unwrap();
        assert_eq!(kept.len(), batches.len() - 1);
        assert_eq!(kept[0].0, batches[1]);
        assert!(matches!(share.send(authors[0], &group), Err(LedgerError::StaleBatch { batch_min }) if batch_min == batches[1]));
    }

    fn a_time_has_less_than_a_second_of_nanoseconds(share) {
        let at = |n, nanos| match create(n, ROOT, "t", hole(1)) {
            Op::Create { uid, at, attrs, content, .. } => Op::Create { uid, at, mtime: Timestamp { secs: 1, nanos }, attrs, content },
            _ => unreachable!(),
        };
        assert!(is_invalid(&share.no(vec![at(1, 1_000_000_000)])));
        let first = share.ok(vec![at(1, 999_999_999)]);
        let touch = |nanos| Op::Update { uid: uid(1), base: first, mtime: Some(Timestamp { secs: 1, nanos }), attrs: None, content: None };
        assert!(is_invalid(&share.no(vec![touch(1_000_000_000)])));
        share.ok(vec![touch(999_999_998)]);
        assert_eq!(share.get("t").mtime.nanos, 999_999_998);
    }

    fn attributes_that_could_not_be_read_back_are_refused(share) {
        let long = |len| "o".repeat(len).into_boxed_str();
        let xattrs = |len: usize| [(vec![b'x'; len].into_boxed_slice(), Box::from(*b"v"))].into();
        let first = share.ok(vec![file(2, ROOT, "f")]);
        for bad in [
            Attrs { mode: 0o10000, ..Attrs::default() },
            Attrs { owner: long(256), ..Attrs::default() },
            Attrs { group: long(256), ..Attrs::default() },
            Attrs { xattrs: xattrs(256), ..Attrs::default() },
        ] {
            assert!(is_invalid(&share.no(vec![with_attrs(1, bad.clone())])), "{bad:?}");
            let change = Op::Update { uid: uid(2), base: first, mtime: None, attrs: Some(bad), content: None };
            assert!(is_invalid(&share.no(vec![change])));
        }
        for (n, good) in [
            Attrs { mode: 0o7777, ..Attrs::default() },
            Attrs { owner: long(255), group: long(255), ..Attrs::default() },
            Attrs { xattrs: xattrs(255), ..Attrs::default() },
        ].into_iter().enumerate() {
            let n = 10 + n as u8;
            share.ok(vec![with_attrs(n, good.clone())]);
            assert_eq!(share.get(&format!("n{n}")).attrs, good);
        }
    }

    fn the_operation_that_grows_is_to_blame_for_the_quota(share) {
        share.quota_bytes = Some(50);
        let ops = vec![mkdir(1, ROOT, "d"), create(2, ROOT, "small", hole(0)), create(3, ROOT, "big", hole(51))];
        assert_eq!(share.no(ops), (2, Refusal::Quota { quota_bytes: 50 }));
    }

    fn the_brake_lets_attributes_pass(share) {
        let seq = share.ok((1..=4).map(|n| file(n, ROOT, &format!("f{n}"))).collect());
        share.brake = Some(Brake { window_ms: 1000, ops_max: 1, held: false });
        for n in 1..=4u8 {
            let base = Seq(seq.0 + u64::from(n) - 1);
            let touch = Op::Update { uid: uid(n), base, mtime: Some(Timestamp::new(9, 0)), attrs: None, content: None };
            assert!(matches!(share.group(B, vec![touch]), GroupAnswer::Accepted { .. }));
        }
    }

    fn what_a_batch_makes_itself_it_may_take_away(share) {
        share.brake = Some(Brake { window_ms: 1000, ops_max: 0, held: false });
        let author = share.next(B);
        let head = share.head().seq.0;
        let groups = [Group { ops: vec![file(1, ROOT, "a")] }, Group { ops: vec![rm(1, Seq(head + 2))] }];
        let answer = share.send(author, &groups).unwrap();
        assert!(matches!(answer.groups[1], GroupAnswer::Accepted { .. }), "{answer:?}");
        assert!(share.paths(At::Now).is_empty());
    }

    /// The children of a directory are looked at in pages: one that stays may be on the second.
    fn a_child_on_a_later_page_keeps_a_directory(share) {
        let wide = |n: u16| { let mut id = [7u8; 16]; id[..2].copy_from_slice(&n.to_be_bytes()); NodeUid(id) };
        let ops = (0..300).map(|n| match file(9, uid(1), &format!("{n:03}")) {
            Op::Create { at, mtime, attrs, content, .. } => Op::Create { uid: wide(n), at, mtime, attrs, content },
            _ => unreachable!(),
        });
        share.ok(std::iter::once(mkdir(1, ROOT, "d")).chain(ops).collect());
        let dir = share.get("d").since;
        let gone = |count: u16| -> Vec<Op> {
            let children = (0..count).map(|n| Op::Delete { uid: wide(n), base: Seq(dir.0 + 1 + u64::from(n)) });
            std::iter::once(rm(1, dir)).chain(children).collect()
        };
        assert_eq!(share.no(gone(299)), (0, Refusal::NotEmpty));
        share.ok(gone(300));
        assert!(share.paths(At::Now).is_empty());
    }
}
