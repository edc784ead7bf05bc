//! Pins, thinning, expiry.

use polder_ledger::{
    At, HistoryPolicy, LedgerError, StepDone, ThinStep, changes, create_snapshot, delete_snapshot,
    drop_endpoint, expire_step, hold, is_applied_but, list_snapshots, release, set_applied, set_applied_but,
    snapshot, thin_step, versions,
};
use polder_types::{BatchNo, Cursor, EndpointId, Group, Seq};

use crate::support::*;

const ENDPOINT: EndpointId = EndpointId([3; 16]);

fn policy() -> HistoryPolicy {
    HistoryPolicy {
        thin: vec![
            ThinStep { age_ms: 10_000, slot_ms: 1_000 },
            ThinStep { age_ms: 100_000, slot_ms: 10_000 },
        ],
        history_ms: 1_000_000,
        absence_ms: 3_000_000,
    }
}

pub fn all(
    share: &Share,
    limit: usize,
    step: fn(&mut dyn polder_ledger::RowsMut, &HistoryPolicy, u64, usize) -> Result<StepDone, LedgerError>,
    policy: &HistoryPolicy,
) -> usize {
    let mut dropped = 0;
    for _ in 0..100_000 {
        let (policy, time_ms) = (policy.clone(), share.time_ms);
        let done = share.edit(move |rows| step(rows, &policy, time_ms, limit)).unwrap();
        dropped += done.dropped;
        if !done.more {
            return dropped;
        }
    }
    panic!("never ends");
}

fn count(share: &Share, n: u8) -> usize {
    share.db.read(|rows| versions(rows, uid(n), Seq(0), 1000)).unwrap().len()
}

/// Updates the file 1 at "log" every `step_ms`, `times` times.
fn scribble(share: &mut Share, times: u64, step_ms: u64) {
    for n in 0..times {
        share.time_ms += step_ms;
        let base = share.get("log").since;
        share.ok(vec![update(1, base, hole(n + 100))]);
    }
}

on_all_forms! {
    fn thinning_keeps_every_border_of_slots(share) {
        share.ok(vec![file(1, ROOT, "log")]);
        let start = share.time_ms;
        scribble(share, 200, 100);
        let before: Vec<_> = (0..20).map(|slot| {
            let ms = start + slot * 1000;
            let seq = share.db.read(|rows| polder_ledger::seq_at(rows, ms)).unwrap().unwrap();
            (seq, share.tree(At::Seq(seq)))
        }).collect();
        let young = share.head().seq;
        share.time_ms += 10_000;
        assert!(all(share, 7, thin_step, &policy()) > 150);
        assert_eq!(all(share, 7, thin_step, &policy()), 0);
        for (seq, tree) in before {
            assert_eq!(share.tree(At::Seq(seq)), tree, "as of {seq}");
        }
        // No gap: the file was there at every commit.
        for seq in 2..young.0 {
            assert_eq!(share.paths(At::Seq(Seq(seq))), ["/log"]);
        }
        let fine = count(share, 1);
        share.time_ms += 100_000;
        all(share, 1000, thin_step, &policy());
        assert!((2..8).contains(&count(share, 1)), "{fine} then {}", count(share, 1));
    }

    fn thinning_spares_the_young_pins_holds_and_names(share) {
        share.ok(vec![file(1, ROOT, "log")]);
        scribble(share, 5, 1);
        let pinned = share.edit(|rows| create_snapshot(rows, "s", "", 1)).unwrap().cursor;
        let kept = share.tree(At::Seq(pinned.seq));
        scribble(share, 5, 1);
        let held = share.get("log").since;
        share.edit(move |rows| hold(rows, ENDPOINT, uid(1), held)).unwrap();
        scribble(share, 5, 1);
        let base = share.get("log").since;
        let moved = share.ok(vec![mv(1, base, ROOT, "other")]);
        share.ok(vec![mv(1, moved, ROOT, "log")]);
        assert_eq!(all(share, 3, thin_step, &policy()), 0, "too young");
        share.time_ms += 20_000;
        all(share, 3, thin_step, &policy());
        assert_eq!(share.tree(At::Seq(pinned.seq)), kept);
        assert_eq!(share.paths(At::Seq(moved)), ["/other"]);
        let left: Vec<_> = share.db.read(|rows| versions(rows, uid(1), Seq(0), 100)).unwrap().into_iter().map(|version| version.state.since).collect();
        assert!(left.contains(&held));
        let before = left.len();
        share.edit(|rows| delete_snapshot(rows, "s")).unwrap();
        all(share, 3, thin_step, &policy());
        assert_eq!(count(share, 1), before - 1);
    }

    fn outside_the_window_only_pins_can_be_read(share) {
        share.ok(vec![mkdir(1, ROOT, "d"), file(2, uid(1), "a"), file(3, ROOT, "b")]);
        let first = share.head();
        share.edit(|rows| create_snapshot(rows, "first", "note", 1)).unwrap();
        let old = share.tree(At::Now);
        share.time_ms += 1000;
        let b = share.get("b").since;
        share.ok(vec![rm(3, b), update(2, Seq(3), hole(7))]);
        let second = share.head();
        share.edit(move |rows| set_applied(rows, ENDPOINT, second)).unwrap();
        let middle = share.tree(At::Now);
        share.time_ms += 1000;
        let base = share.get("d/a").since;
        share.ok(vec![mv(2, base, ROOT, "a")]);
        let third = share.head();
        share.time_ms += 1000;
        let base = share.get("a").since;
        share.ok(vec![rm(2, base)]);
        let fourth = share.head();
        share.time_ms += 2_000_000;
        share.ok(vec![file(9, ROOT, "now")]);
        assert!(all(share, 1, expire_step, &policy()) > 0);
        assert_eq!(share.tree(At::Seq(first.seq)), old);
        assert_eq!(share.tree(At::Seq(second.seq)), middle);
        let read = |share: &Share, seq| share.db.read(|rows| polder_ledger::stat(rows, ROOT, At::Seq(seq)));
        assert!(matches!(read(share, third.seq), Err(LedgerError::NotKept { .. })));
        assert!(read(share, fourth.seq).is_ok());
        // The feed is still whole for the old cursor.
        assert_eq!(share.db.read(|rows| changes(rows, first, None, 100)).unwrap().rows.len(), 3);
        // The version between the pins and the window is gone already: the move's.
        assert_eq!(count(share, 2), 2);
        share.edit(|rows| delete_snapshot(rows, "first")).unwrap();
        all(share, 1, expire_step, &policy());
        assert_eq!(count(share, 2), 1);
        assert_eq!(share.tree(At::Seq(second.seq)), middle);
        assert!(matches!(read(share, first.seq), Err(LedgerError::NotKept { .. })));
        share.edit(|rows| drop_endpoint(rows, ENDPOINT)).unwrap();
        all(share, 1, expire_step, &policy());
        assert_eq!(count(share, 2), 0);
        assert!(share.db.read(|rows| rows.ident(uid(2)).map_err(LedgerError::from)).unwrap().is_some(), "the feed still names it");
        share.time_ms += 2_000_000;
        share.ok(vec![file(10, ROOT, "later")]);
        all(share, 1, expire_step, &policy());
        assert!(share.db.read(|rows| rows.ident(uid(2)).map_err(LedgerError::from)).unwrap().is_none());
        assert!(matches!(share.db.read(|rows| changes(rows, first, None, 100)), Err(LedgerError::CursorTooOld)));
        assert!(matches!(share.db.read(|rows| changes(rows, Cursor::default(), None, 100)), Err(LedgerError::CursorTooOld)));
        share.ok(vec![revive(2, ROOT, "again", hole(1))]);
        assert_eq!(share.paths(At::Now), ["/again", "/d", "/later", "/now"]);
    }

    fn a_hold_spares_one_version(share) {
        let first = share.ok(vec![file(1, ROOT, "log")]);
        scribble(share, 3, 1);
        let held = share.get("log").since;
        share.edit(move |rows| hold(rows, ENDPOINT, uid(1), held)).unwrap();
        scribble(share, 3, 1);
        share.time_ms += 2_000_000;
        share.ok(vec![file(2, ROOT, "x")]);
        all(share, 2, expire_step, &policy());
        let left: Vec<_> = share.db.read(|rows| versions(rows, uid(1), Seq(0), 100)).unwrap().into_iter().map(|version| version.state.since).collect();
        assert_eq!(left, [held, share.get("log").since]);
        assert!(first < held);
        share.edit(move |rows| release(rows, ENDPOINT, uid(1), held)).unwrap();
        all(share, 2, expire_step, &policy());
        assert_eq!(count(share, 1), 1);
    }

    fn what_is_behind_an_applied_cursor_stays_until_it_is_told_no_more(share) {
        let first = share.ok(vec![file(1, ROOT, "log")]);
        scribble(share, 3, 1);
        let stands = share.get("log").since;
        let read = share.head();
        let told = |share: &mut Share, behind: Vec<_>| {
            let head = share.head();
            share.edit(move |rows| set_applied_but(rows, ENDPOINT, head, &behind)).unwrap();
        };
        share.edit(move |rows| set_applied(rows, ENDPOINT, read)).unwrap();
        scribble(share, 3, 1);
        // A node that nobody knows is no obstacle.
        let behind = vec![(uid(1), stands), (uid(9), first)];
        told(share, behind.clone());
        let head = share.head();
        assert!(share.db.read(|rows| is_applied_but(rows, ENDPOINT, head, &behind)).unwrap());
        assert!(!share.db.read(|rows| is_applied_but(rows, ENDPOINT, head, &[])).unwrap());
        share.time_ms += 2_000_000;
        share.ok(vec![file(2, ROOT, "x")]);
        all(share, 2, expire_step, &policy());
        let left = |share: &Share| -> Vec<_> {
            share.db.read(|rows| versions(rows, uid(1), Seq(0), 100)).unwrap().into_iter().map(|version| version.state.since).collect()
        };
        assert_eq!(left(share), [stands, share.get("log").since]);
        // A forged cursor changes nothing of what is held.
        let forged = Cursor { tag: polder_types::Tag(1), ..share.head() };
        assert!(share.edit(move |rows| set_applied_but(rows, ENDPOINT, forged, &[])).is_err());
        told(share, Vec::new());
        all(share, 2, expire_step, &policy());
        assert_eq!(count(share, 1), 1);
    }

    fn an_applied_cursor_that_moves_on_frees_what_it_kept(share) {
        share.ok(vec![file(1, ROOT, "log")]);
        let old = share.head();
        share.edit(move |rows| set_applied(rows, ENDPOINT, old)).unwrap();
        scribble(share, 3, 1);
        share.time_ms += 2_000_000;
        share.ok(vec![file(2, ROOT, "x")]);
        all(share, 2, expire_step, &policy());
        assert_eq!(count(share, 1), 2);
        let head = share.head();
        share.edit(move |rows| set_applied(rows, ENDPOINT, head)).unwrap();
        all(share, 2, expire_step, &policy());
        assert_eq!(count(share, 1), 1);
        let forged = Cursor { tag: polder_types::Tag(1), ..head };
        assert!(share.edit(move |rows| set_applied(rows, ENDPOINT, forged)).is_err());
    }

    fn dropped_commits_leave_their_numbers_stale(share) {
        let author = share.next(A);
        let groups = [Group { ops: vec![file(1, ROOT, "a")] }];
        share.send(author, &groups).unwrap();
        share.time_ms += 4_000_000;
        share.ok(vec![file(2, ROOT, "b")]);
        let last = share.head();
        share.time_ms += 4_000_000;
        share.ok(vec![file(3, ROOT, "c")]);
        all(share, 3, expire_step, &policy());
        share.known = share.head();
        assert!(matches!(share.send(author, &groups), Err(LedgerError::StaleBatch { batch_min: BatchNo(2) })));
        // The commit at the horizon stays: a cursor may name it.
        assert_eq!(share.db.read(|rows| changes(rows, last, None, 9)).unwrap().rows.len(), 1);
        assert_eq!(share.get("a").by, polder_types::InstanceId::ZERO);
        assert_eq!(share.get("c").by, A);
    }

    /// Scenario 101: a snapshot is the head of its moment.
    fn snapshots_are_one_row(share) {
        share.ok(vec![file(1, ROOT, "a")]);
        for name in ["b", "a", "c"] {
            share.edit(move |rows| create_snapshot(rows, name, "note", 5)).unwrap();
        }
        let names = |after| share.db.read(|rows| list_snapshots(rows, after, 2)).unwrap().into_iter().map(|row| row.name.into_string()).collect::<Vec<_>>();
        assert_eq!(names(None), ["a", "b"]);
        assert_eq!(names(Some("b")), ["c"]);
        let found = share.db.read(|rows| snapshot(rows, "b")).unwrap();
        assert_eq!((found.cursor, found.time_ms, &*found.note), (share.head(), 5, "note"));
        assert!(matches!(share.edit(|rows| create_snapshot(rows, "a", "", 5)), Err(LedgerError::Exists { .. })));
        assert!(matches!(share.edit(|rows| delete_snapshot(rows, "z")), Err(LedgerError::Unknown { .. })));
        for bad in ["", "a\nb"] {
            assert!(matches!(share.edit(move |rows| create_snapshot(rows, bad, "", 5)), Err(LedgerError::Invalid(_))));
        }
    }
}
