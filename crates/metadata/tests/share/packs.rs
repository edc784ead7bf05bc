//! Chunks, packs, and what prune may do to them.

use polder_ledger::{
    LedgerError, MarkFrom, NewPack, PackState, Slot, condemn_packs, delete_packs, delete_stray, forget_pack,
    forget_step, have, locate, pack_failed, pack_verified, references, register_pack, spare_packs,
};
use polder_types::{Body, ChunkId, Content, Op, PackId, Refusal, Seq};

use crate::support::*;

fn tree(root: u8) -> Content {
    Content::File { size: 1 << 20, body: Body::Tree { root: chunk(root), height: 0, canonical: true } }
}

/// Every chunk that any version names directly, and the head noted before.
fn mark(share: &Share) -> (Vec<ChunkId>, Seq) {
    let (mut from, head) = share.db.read(MarkFrom::start).unwrap();
    let mut found = Vec::new();
    loop {
        let page = share.db.read(|rows| references(rows, from, 2)).unwrap();
        found.extend(page.contents.iter().flat_map(Content::direct_chunks));
        match page.next {
            Some(next) => from = next,
            None => break,
        }
    }
    found.sort_unstable();
    found.dedup();
    (found, head)
}

fn forget_all(share: &Share) {
    let mut after = None;
    loop {
        after = share.edit(move |rows| forget_step(rows, after, 2)).unwrap();
        if after.is_none() {
            return;
        }
    }
}

on_all_forms! {
    /// Scenario 102: a hit was advice, and the pack is condemned by the time of the commit.
    fn a_commit_needs_its_chunks_in_a_live_pack(share) {
        assert_eq!(share.no(vec![create(1, ROOT, "a", bytes(1))]).1, Refusal::ChunksMissing(vec![chunk(1)]));
        let pack = share.pack(7, &[1, 2]);
        share.ok(vec![create(1, ROOT, "a", bytes(1))]);
        share.edit(move |rows| condemn_packs(rows, &[pack], Seq(99), 0)).unwrap();
        assert_eq!(share.no(vec![create(2, ROOT, "b", bytes(2))]), (0, Refusal::ChunksMissing(vec![chunk(2)])));
        // What the group was derived from is exempt, also in a copy by reference.
        let a = share.get("a").since;
        share.ok(vec![update(1, a, hole(1)), create(3, ROOT, "a-copy", bytes(1))]);
        assert_eq!(share.no(vec![create(4, ROOT, "c", bytes(1))]).1, Refusal::ChunksMissing(vec![chunk(1)]));
    }

    fn trees_are_checked_to_their_leaves(share) {
        assert_eq!(share.no(vec![create(1, ROOT, "a", tree(1))]).1, Refusal::ChunksMissing(vec![chunk(1)]));
        share.pack(7, &[1, 2, 3]);
        let author = share.next(A);
        let unread = share.send(author, &[polder_types::Group { ops: vec![create(1, ROOT, "a", tree(1))] }]);
        assert!(matches!(unread, Err(LedgerError::TreeNotRead { root }) if root == chunk(1)));
        share.trees.insert(chunk(1), vec![chunk(2), chunk(9)]);
        assert_eq!(share.no(vec![create(1, ROOT, "a", tree(1))]).1, Refusal::ChunksMissing(vec![chunk(9)]));
        share.trees.insert(chunk(1), vec![chunk(2), chunk(3)]);
        let a = share.ok(vec![create(1, ROOT, "a", tree(1))]);
        // The same tree again needs no reading.
        share.trees.clear();
        share.ok(vec![Op::Update { uid: uid(1), base: a, mtime: None, attrs: None, content: Some(tree(1)) }, create(2, ROOT, "b", tree(1))]);
    }

    fn only_verified_packs_serve_deduplication(share) {
        let pack = share.pack(7, &[1, 2]);
        let ask = |share: &Share| share.db.read(|rows| have(rows, &[chunk(1), chunk(5)])).unwrap();
        assert_eq!(ask(share), [false, false]);
        share.edit(move |rows| pack_verified(rows, pack, &[], 5)).unwrap();
        assert_eq!(ask(share), [true, false]);
        let found = share.db.read(|rows| locate(rows, &[chunk(2), chunk(5)])).unwrap();
        let at = found[0].as_ref().unwrap();
        assert_eq!((at.pack, at.slot.as_bytes(), at.verified, at.key_gen), (pack, &[1u8; 9][..], true, 1));
        assert_eq!(*at.meta, [7u8; 36]);
        assert!(found[1].is_none());
        share.edit(move |rows| pack_failed(rows, pack, 6)).unwrap();
        assert_eq!(ask(share), [false, false]);
        assert!(share.db.read(|rows| locate(rows, &[chunk(2)])).unwrap()[0].is_none());
        // Sent again, the chunk takes the new pack.
        let again = share.pack(8, &[2]);
        assert_eq!(share.db.read(|rows| locate(rows, &[chunk(2)])).unwrap()[0].as_ref().unwrap().pack, again);
    }

    fn a_chunk_stays_with_its_first_pack_unless_repacked(share) {
        let first = share.pack(1, &[1, 2]);
        share.pack(2, &[1, 3]);
        let pack_of = |share: &Share, byte| share.db.read(|rows| locate(rows, &[chunk(byte)])).unwrap()[0].as_ref().unwrap().pack;
        assert_eq!(pack_of(share, 1), first);
        let merged = NewPack {
            id: PackId([3; 16]), bytes: 1, key_gen: 1, meta: Box::new([]), replaces: vec![first],
            chunks: vec![(chunk(1), Slot::new(&[1]).unwrap()), (chunk(3), Slot::new(&[2]).unwrap())],
        };
        let again = merged.clone();
        let no = share.edit(move |rows| register_pack(rows, &merged, 0, Some(1))).unwrap();
        assert_eq!(share.edit(move |rows| register_pack(rows, &again, 0, None)).unwrap(), no);
        assert_eq!((pack_of(share, 1), pack_of(share, 2), pack_of(share, 3)), (PackId([3; 16]), first, PackId([2; 16])));
    }

    /// Scenario 102: a commit refers to a pack between the marks and the lock.
    fn prune_looks_twice(share) {
        let (used, unused) = (share.pack(1, &[1, 2]), share.pack(2, &[3, 4]));
        let a = share.ok(vec![create(1, ROOT, "a", bytes(1))]);
        share.ok(vec![update(1, a, bytes(2))]);
        let (marked, head) = mark(share);
        assert_eq!(marked, [chunk(1), chunk(2)]);
        // A commit after the mark began refers to the pack that looked unused.
        share.ok(vec![create(2, ROOT, "b", bytes(3))]);
        assert_eq!(share.edit(move |rows| condemn_packs(rows, &[unused], head, 10)).unwrap(), []);
        let b = share.get("b").since;
        share.ok(vec![rm(2, b)]);
        // Without history of the deleted file the pack is free; the test plays that by not asking the past.
        let head = share.head().seq;
        assert_eq!(share.edit(move |rows| condemn_packs(rows, &[unused, used], head, 10)).unwrap(), [unused, used]);
        share.edit(move |rows| spare_packs(rows, &[used], 11)).unwrap();
        let delete = |share: &Share, from, from_ms, now| {
            share.edit(move |rows| delete_packs(rows, &[unused, used], from, from_ms, 100, now)).unwrap()
        };
        assert_eq!(delete(share, Seq(head.0 - 1), 10, 500), [], "the second mark began too early");
        assert_eq!(delete(share, head, 9, 500), [], "the second mark began too early");
        assert_eq!(delete(share, head, 10, 109), [], "the grace period is not over");
        assert!(share.edit(move |rows| forget_pack(rows, unused)).is_err());
        assert_eq!(delete(share, head, 10, 110), [unused]);
        assert!(share.db.read(|rows| locate(rows, &[chunk(3)])).unwrap()[0].is_none());
        forget_all(share);
        share.edit(move |rows| forget_pack(rows, unused)).unwrap();
        assert_eq!(share.db.read(|rows| polder_ledger::pack(rows, unused)).unwrap(), None);
        assert_eq!(share.db.read(|rows| polder_ledger::pack(rows, used)).unwrap().unwrap().state, PackState::Live);
        assert_eq!(share.no(vec![create(5, ROOT, "c", bytes(4))]).1, Refusal::ChunksMissing(vec![chunk(4)]));
        // A number is never used again.
        share.pack(9, &[4]);
        share.ok(vec![create(5, ROOT, "c", bytes(4))]);
    }

    /// Two send one chunk, and what arrives first is damaged: the copy that arrived well is the one that is read.
    fn a_verified_pack_is_the_home_of_what_has_no_sound_one(share) {
        let slot = |at: usize| Slot::new(&[at as u8; 9]).unwrap();
        let home = |share: &Share| share.db.read(|rows| locate(rows, &[chunk(1)])).unwrap()[0].as_ref().map(|at| at.pack);
        // The damage is found first.
        let (bad, good) = (share.pack(1, &[1]), share.pack(2, &[1]));
        share.edit(move |rows| pack_failed(rows, bad, 5)).unwrap();
        assert_eq!(home(share), None);
        share.edit(move |rows| pack_verified(rows, good, &[(chunk(1), slot(0))], 6)).unwrap();
        assert_eq!(home(share), Some(good));
        // A verified home stays.
        let third = share.pack(3, &[1]);
        share.edit(move |rows| pack_verified(rows, third, &[(chunk(1), slot(0))], 7)).unwrap();
        assert_eq!(home(share), Some(good));
        // The good copy is found first.
        let (bad, good) = (share.pack(4, &[9, 8]), share.pack(5, &[7, 9]));
        share.edit(move |rows| pack_verified(rows, good, &[(chunk(7), slot(0)), (chunk(9), slot(1))], 8)).unwrap();
        share.edit(move |rows| pack_failed(rows, bad, 9)).unwrap();
        let found = share.db.read(|rows| locate(rows, &[chunk(9), chunk(8)])).unwrap();
        assert_eq!(found[0].as_ref().map(|at| (at.pack, at.slot)), Some((good, slot(1))));
        assert!(found[1].is_none());
        // What is found out about a pack that went meanwhile changes nothing.
        let gone = share.pack(6, &[6]);
        share.edit(move |rows| condemn_packs(rows, &[gone], Seq(99), 10)).unwrap();
        share.edit(move |rows| delete_packs(rows, &[gone], Seq(99), 10, 0, 10)).unwrap();
        share.edit(move |rows| pack_failed(rows, gone, 11)).unwrap();
        share.edit(move |rows| pack_verified(rows, gone, &[(chunk(6), slot(0))], 11)).unwrap();
        let row = share.db.read(|rows| polder_ledger::pack(rows, gone)).unwrap().unwrap();
        assert_eq!((row.state, row.verified_ms), (PackState::Deleted, None));
        // A condemned one is sound, and no commit may rely on it.
        let condemned = share.pack(10, &[5]);
        share.edit(move |rows| condemn_packs(rows, &[condemned], Seq(99), 12)).unwrap();
        share.edit(move |rows| pack_verified(rows, condemned, &[(chunk(5), slot(0))], 13)).unwrap();
        let row = share.db.read(|rows| polder_ledger::pack(rows, condemned)).unwrap().unwrap();
        assert_eq!((row.state, row.verified_ms), (PackState::Condemned, Some(13)));
    }

    /// An upload without rows is on its way out when its author comes back with it after all.
    fn a_stray_that_is_registered_late_is_deleted_already(share) {
        let stray = PackId([7; 16]);
        share.edit(move |rows| delete_stray(rows, stray, 1000, 5)).unwrap();
        share.pack(7, &[1]);
        assert_eq!(share.no(vec![create(1, ROOT, "a", bytes(1))]).1, Refusal::ChunksMissing(vec![chunk(1)]));
        forget_all(share);
        share.edit(move |rows| forget_pack(rows, stray)).unwrap();
        // Registered in time, it is no stray.
        let pack = share.pack(8, &[1]);
        share.edit(move |rows| delete_stray(rows, pack, 1000, 6)).unwrap();
        share.ok(vec![create(1, ROOT, "a", bytes(1))]);
    }

    fn packs_out_of_bounds_are_refused(share) {
        let bad = |share: &Share, pack: NewPack| share.edit(move |rows| register_pack(rows, &pack, 0, None)).is_err();
        let pack = NewPack { id: PackId([1; 16]), bytes: 1, key_gen: 1, meta: Box::new([]), chunks: vec![], replaces: vec![] };
        assert!(bad(share, pack.clone()));
        let chunks = vec![(chunk(1), Slot::new(&[]).unwrap())];
        assert!(bad(share, NewPack { meta: Box::new([0; 65]), chunks, ..pack }));
        assert!(Slot::new(&[0; 25]).is_none());
        assert!(share.edit(|rows| pack_verified(rows, PackId([5; 16]), &[], 1)).is_err());
    }
}
