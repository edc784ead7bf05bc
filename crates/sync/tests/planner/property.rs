//! The properties of random cases, under a runner that shrinks what fails.
//!
//! Each tries four times as many cases as `PROPTEST_CASES` says (256 when it says nothing), that of several servers as
//! many. The example `perturb` runs
//! the same properties by the million.

use proptest::{prelude::*, test_runner::Config};

use crate::{
    case::{self, case},
    servers::{self, run},
};

pub fn config(times: u32) -> Config {
    let cases = times * Config::default().cases;
    Config { cases, failure_persistence: None, max_shrink_iters: 20_000, ..Config::default() }
}

proptest! {
    #![proptest_config(config(4))]

    #[test]
    fn both_sides_end_equal_and_nothing_is_lost(case in case()) {
        case::both_sides_end_equal(&case, 0);
    }

    #[test]
    fn edits_between_plan_and_step_are_kept(case in case()) {
        case::edits_in_between_are_kept(&case, 0);
    }

    #[test]
    fn nothing_is_deleted_when_deletes_are_forbidden(case in case()) {
        case::nothing_is_deleted(&case, 0);
    }

    #[test]
    fn an_edit_on_one_side_ends_as_that_edit(case in case(), choice: u64) {
        case::one_side_is_followed(&case, choice);
    }

    #[test]
    fn an_authoritative_side_is_left_alone(case in case()) {
        case::authority_is_left_alone(&case, 0);
    }

    #[test]
    fn other_ids_give_the_same_trees(case in case(), salt: u64) {
        case::ids_mean_nothing(&case, salt);
    }
}

proptest! {
    #![proptest_config(config(1))]

    #[test]
    fn all_servers_end_equal_and_nothing_is_lost(run in run()) {
        servers::all_end_equal(&run);
    }
}
