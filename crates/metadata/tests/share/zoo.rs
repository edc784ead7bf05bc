//! The bug zoo at the level of the commit core: `cargo test -p polder-metadata --features zoo --test share zoo`. Each
//! planted bug makes a test of this suite fail.

use std::panic::{AssertUnwindSafe, catch_unwind};

use polder_types::CaseRule;
use polder_types::zoo::{Bug, Level, plant};

use crate::support::Share;
use crate::{commits, packs};

type Test = fn(&mut Share);

/// The test that each bug must fail.
const CASES: [(Bug, Test); 13] = [
    (Bug::NoRemotePrecondition, commits::another_base_is_refused),
    (Bug::NameTakenUnchecked, commits::swaps_and_chains_are_one_group),
    (Bug::CycleUnchecked, commits::cycles_are_refused),
    (Bug::NotEmptyUnchecked, commits::a_directory_is_deleted_only_when_empty_in_the_end),
    (Bug::ParentUnchecked, commits::places_that_cannot_be),
    (Bug::BatchTakenTwice, commits::a_repeat_gets_the_first_answer),
    (Bug::StaleBatchTaken, commits::stale_batches_are_refused),
    (Bug::TagIgnored, commits::a_share_or_an_author_that_was_set_back_is_noticed),
    (Bug::CondemnedServes, packs::a_commit_needs_its_chunks_in_a_live_pack),
    (Bug::UsedPackCondemned, packs::prune_looks_twice),
    (Bug::OldMarksCount, packs::prune_looks_twice),
    (Bug::RepackedChunksStay, packs::a_chunk_stays_with_its_first_pack_unless_repacked),
    (Bug::UnverifiedServes, packs::only_verified_packs_serve_deduplication),
];

/// Whether a test passes in this thread, with a bug or without.
fn passes(bug: Option<Bug>, test: Test) -> bool {
    plant(bug);
    let passed = catch_unwind(AssertUnwindSafe(|| test(&mut Share::memory(CaseRule::Sensitive)))).is_ok();
    plant(None);
    passed
}

#[test]
fn zoo_of_the_commit_core() {
    for (bug, test) in CASES {
        assert!(passes(None, test), "the test fails without {bug:?}");
        assert!(!passes(Some(bug), test), "{bug:?} was not caught");
    }
    let missing: Vec<_> =
        Bug::of(Level::Ledger).filter(|bug| CASES.iter().all(|(other, _)| other != bug)).collect();
    assert!(missing.is_empty(), "no test for {missing:?}");
}
