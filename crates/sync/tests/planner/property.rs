//! One random tree, changed by users on both sides, planned and carried out in any order until both are equal.
//!
//! Each property tries four times as many cases as `PROPTEST_CASES` says (256 when it says nothing). With `PLANNER_TRACE`
//! set, a failing case prints its rounds.

use polder_sync::Rule;
use proptest::{prelude::*, test_runner::Config};

use crate::{
    case::{Case, nothing_is_lost, one_side_is_followed, sides},
    edits::Edit,
};

fn edit() -> impl Strategy<Value = Edit> {
    let (node, mtime) = (any::<u8>(), 0u8..6);
    prop_oneof![
        4 => (any::<u8>(), any::<u8>(), any::<u8>(), mtime.clone())
            .prop_map(|(dir, name, kind, mtime)| Edit::Create { dir, name, kind, mtime }),
        3 => (node, mtime.clone()).prop_map(|(node, mtime)| Edit::Write { node, mtime }),
        1 => (node, any::<u8>(), mtime.clone())
            .prop_map(|(node, content, mtime)| Edit::WriteShared { node, content, mtime }),
        5 => (node, any::<u8>(), any::<u8>()).prop_map(|(node, dir, name)| Edit::Move { node, dir, name }),
        2 => (node, any::<u8>()).prop_map(|(one, two)| Edit::Swap { one, two }),
        2 => node.prop_map(|node| Edit::Delete { node }),
        1 => node.prop_map(|node| Edit::Replace { node }),
        1 => (node, any::<u8>()).prop_map(|(node, mode)| Edit::Chmod { node, mode }),
        1 => (node, mtime).prop_map(|(node, mtime)| Edit::Touch { node, mtime }),
    ]
}

pub fn edits(count_max: usize) -> impl Strategy<Value = Vec<Edit>> {
    prop::collection::vec(edit(), 0..=count_max)
}

fn case() -> impl Strategy<Value = Case> {
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), prop_oneof![Just(0u64), any::<u64>()]);
    (flags, edits(14), edits(7), edits(7), prop::collection::vec((0u8..6, any::<bool>(), edit()), 0..4))
        .prop_map(|((insensitive, reads_needed, windows, seed), base, here, share, later)| Case {
            insensitive,
            reads_needed,
            base,
            here,
            share,
            later,
            seed,
            windows,
        })
}

pub fn config(times: u32) -> Config {
    let cases = times * Config::default().cases;
    Config { cases, failure_persistence: None, max_shrink_iters: 20_000, ..Config::default() }
}

proptest! {
    #![proptest_config(config(4))]

    #[test]
    fn both_sides_end_equal_and_nothing_is_lost(case in case()) {
        nothing_is_lost(&Case { later: vec![], ..case }, Rule::Merge);
    }

    #[test]
    fn edits_between_plan_and_step_are_kept(case in case()) {
        nothing_is_lost(&case, Rule::Merge);
    }

    #[test]
    fn nothing_is_deleted_when_deletes_are_forbidden(case in case()) {
        nothing_is_lost(&Case { later: vec![], ..case }, Rule::NoDeletes);
    }

    #[test]
    fn an_edit_on_one_side_ends_as_that_edit(case in case(), on_disk: bool) {
        let mut case = Case { later: vec![], ..case };
        if on_disk { case.share.clear() } else { case.here.clear() }
        one_side_is_followed(&case);
    }

    #[test]
    fn an_authoritative_side_is_left_alone(case in case()) {
        let case = Case { later: vec![], ..case };
        let (world, _) = case.start(Rule::HereWins, 0);
        let want = sides(&world).0;
        let (world, _) = case.run(Rule::HereWins, 0);
        prop_assert_eq!(sides(&world), (want.clone(), want));
    }

    #[test]
    fn other_ids_give_the_same_trees(case in case(), salt: u64) {
        let case = Case { seed: 0, windows: false, later: vec![], ..case };
        let (one, _) = case.run(Rule::Merge, 0);
        let (two, _) = case.run(Rule::Merge, salt);
        prop_assert_eq!(sides(&one), sides(&two));
    }
}
