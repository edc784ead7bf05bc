//! The bug zoo at the level of the engine: `cargo test -p polder-engine --features zoo --test engine zoo_of`.

use polder_types::zoo::{Bug, Level, assert_all_caught, assert_second_lines, plant};

use crate::{directories, leftovers, pin, refusal, seen, told};

#[test]
fn zoo_of_the_engine() {
    let cases: &[(Bug, fn())] = &[
        (Bug::RefusalNotFollowed, refusal::a_refusal_leads_to_the_feed),
        (Bug::AbsenceIsDeletion, refusal::absence_in_a_listing_is_no_deletion),
        (Bug::RetriesBeforeFeed, refusal::a_lost_answer_is_not_made_up_for_before_the_feed),
        (
            Bug::StrangerItselfForgotten,
            directories::a_mode_that_changes_before_the_directory_is_known_is_seen,
        ),
        (Bug::OlderLookOverYounger, directories::an_older_look_does_not_undo_a_younger_one),
        (Bug::LostHintsLeaveOldLooks, directories::after_lost_hints_an_older_look_says_nothing),
        (
            Bug::SettledBeforeDurable,
            directories::what_both_sides_turn_out_to_have_is_made_durable_before_it_is_written_down,
        ),
        (Bug::TwoLooksAtOnce, seen::a_name_is_looked_at_once_at_a_time),
        (Bug::StrangerForgotten, seen::a_hint_about_what_a_walk_has_not_told_yet_is_kept),
        (Bug::VoidListingBelieved, seen::a_listing_of_a_directory_that_changed_is_made_again),
        (Bug::VoidNotListedAgain, seen::a_listing_of_a_directory_that_changed_is_made_again),
        (Bug::SilentWalkBelieved, seen::what_differs_is_looked_at_when_a_walk_begins),
        (Bug::ReplacedDirectoryNotCompared, seen::what_a_walk_compared_with_other_rows_is_listed_for_itself),
        (Bug::ReturnsWithoutItsInside, seen::what_was_gone_with_a_directory_is_back_with_it),
        (Bug::AdoptedWithoutItsInside, seen::a_directory_that_is_adopted_is_compared_with_its_rows),
        (Bug::LooksLoseTheirDirectory, seen::looks_follow_a_directory_that_gets_another_id),
        (Bug::LookWithoutDirectoryForgotten, seen::a_look_whose_directory_is_not_there_is_made_later),
        (Bug::GoneInsideWhileOffered, seen::what_goes_with_its_directory_while_it_is_offered_is_gone),
        (Bug::WaitingHeirPassedOver, leftovers::what_an_apply_has_left_is_known_while_its_node_waits),
        (Bug::LostAnswerMakesTwins, leftovers::what_was_offered_and_is_seen_anew_is_one_node),
        (Bug::OfferRowIsWhole, leftovers::what_the_feed_has_told_of_an_offer_stays),
        (Bug::LeftoverTakesTime, leftovers::a_time_that_was_set_on_what_an_apply_has_left_is_sent),
        (Bug::LeftoverDirectoryInherits, leftovers::a_directory_that_an_apply_has_left_is_not_the_one_before),
        (
            Bug::OfferStandsWhereOthersDo,
            leftovers::what_was_offered_does_not_stand_where_somebody_else_was_seen,
        ),
        (Bug::MovedIsStillThere, seen::a_swap_is_two_moves),
        (Bug::HalfSwapIsEdit, seen::a_swap_that_is_seen_by_halves_is_two_moves),
        (Bug::ReadOfMovedFile, seen::a_file_that_moves_while_it_is_read_stands_where_it_went),
        (Bug::OurWorkMovesTimes, seen::the_time_that_an_apply_moves_is_nobodys_edit),
        (Bug::TimesCollide, told::a_directory_is_not_worked_in_while_it_is_given_its_time),
        (Bug::StepSwallowsEdit, told::a_time_that_a_move_finds_is_an_edit),
        (Bug::LostStepsWait, told::a_step_whose_directory_is_gone_is_given_up),
        (Bug::OldRowsOverrule, told::a_row_from_before_our_own_deletion_brings_nothing_back),
        (Bug::CutIgnored, told::half_an_answer_changes_nothing),
        (Bug::OldPagesStay, told::a_tree_that_is_read_again_forgets_the_first_reading),
        (Bug::InsideOfOldIdIsGone, told::what_is_in_a_directory_follows_it_to_another_id),
        (Bug::DoubtedStays, told::of_two_whose_rows_name_one_place_one_stands_there),
        (Bug::TreeIsWholeWithoutFeed, told::a_tree_is_whole_once_the_feed_was_read_in_its_session),
        (Bug::MergeEndsTooEarly, told::a_merge_goes_on_while_what_it_brings_back_is_refused),
        (Bug::OffersNotDurable, told::what_a_batch_offers_is_durable_before_it_leaves),
        (Bug::RowNamesNewerVersion, pin::what_has_moved_and_waits_for_its_bytes_is_held_as_what_it_is),
        (Bug::MarksPinNothing, pin::what_only_a_mark_names_is_held),
    ];
    assert_all_caught(Level::Engine, cases, plant, |test| test());
}

#[test]
fn zoo_of_second_lines() {
    assert_second_lines(&[
        (&[Bug::ChildrenOfGoneForgotten, Bug::AdriftStays], told::what_a_gone_directory_held_is_gone),
        (
            &[Bug::KeptSeenTooEarly, Bug::OtherOfTwoForgotten, Bug::KeptNotLookedAt],
            told::what_a_conflict_has_put_aside_is_a_node,
        ),
    ]);
}
