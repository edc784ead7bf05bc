//! The bug zoo at the level of the commit core: `cargo test -p polder-metadata --features zoo --test share zoo`. Each
//! planted bug makes a test of this suite fail.

use polder_types::CaseRule;
use polder_types::zoo::{Bug, Level, assert_all_caught, plant};

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

#[test]
fn zoo_of_the_commit_core() {
    let run = |test: Test| test(&mut Share::memory(CaseRule::Sensitive));
    assert_all_caught(Level::Ledger, &CASES, plant, run);
}
