//! The bug zoo at the level of the planner: `cargo test -p polder-sync --features zoo --test planner zoo`. Each planted bug
//! makes a named case fail.

use polder_types::zoo::{Bug, Level, assert_all_caught, plant};

use crate::{regressions, rows};

type Test = fn();

/// The test that each bug must fail.
const CASES: [(Bug, Test); 9] = [
    (Bug::DeleteBeatsEditHere, rows::row_7_an_edit_beats_a_delete),
    (Bug::DeleteBeatsEditInShare, rows::row_7_an_edit_beats_a_delete),
    (Bug::ConflictCopyDropped, rows::row_10_of_two_edits_the_newer_keeps_the_name),
    (Bug::CycleNotCut, rows::row_3_a_cycle_is_cut_at_the_move_here),
    (Bug::RevivalWithoutAncestors, rows::rows_5_and_6_a_deleted_directory_lives_again_for_what_lives_in_it),
    (Bug::NamesNotSettled, rows::row_2_two_files_renamed_to_one_name_are_both_kept),
    (
        Bug::AdoptsWhatWasDeleted,
        regressions::a_new_file_does_not_adopt_what_was_deleted_here_when_deletes_are_forbidden,
    ),
    (Bug::AgreesTooMuch, rows::row_29_attributes_merge_with_an_edit),
    (Bug::TurnsEveryKnot, regressions::a_ring_of_which_one_lies_in_another_is_no_ring),
];

#[test]
fn zoo_of_the_planner() {
    assert_all_caught(Level::Planner, &CASES, plant, |test| test());
}
