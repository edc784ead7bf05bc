//! Failures that random cases have found, each as a named case.

use polder_sync::Rule;
use polder_types::CaseRule;

use crate::rows::{Row, check, first_plan};

#[test]
pub fn a_conflict_whose_mode_changed_here_makes_one_copy() {
    // The mode went up first, and took a copy of the share's content along, which was the winner.
    let row = Row {
        name: "the share wins the content, this side the mode",
        base: "F:f=1%1",
        here: "F:f=2",
        share: "F:f=3%1",
        want: "F:f=3 *:f-B=2",
    };
    check(&row, CaseRule::Sensitive, Rule::Merge);
}

#[test]
pub fn on_a_folding_share_a_new_node_takes_over_a_name_in_another_case() {
    // An exchange would have left it under the old node's case.
    let row = Row { name: "another case", base: "D:a/", here: "D:a/", share: "E:A/", want: "E:A/" };
    check(&row, CaseRule::Insensitive, Rule::Merge);
}

#[test]
pub fn on_a_folding_share_a_swap_gives_the_right_case() {
    // An exchange gives each node the other's name as it stands.
    let row = Row {
        name: "a swap",
        base: "F:A=1 G:b=2",
        here: "F:A=1 G:b=2",
        share: "F:B=1 G:a=2",
        want: "F:B=1 G:a=2",
    };
    check(&row, CaseRule::Insensitive, Rule::Merge);
}

#[test]
pub fn a_new_file_does_not_adopt_what_was_deleted_here_when_deletes_are_forbidden() {
    // It would have counted as an edit, and overwritten what nobody may overwrite.
    let row = Row {
        name: "deleted here, and a new file at the name",
        base: "F:f=1",
        here: "N:g=2@9",
        share: "F:g=1",
        want: "F:g=1 N:g-B=2@9",
    };
    check(&row, CaseRule::Sensitive, Rule::NoDeletes);
    check(&row, CaseRule::Sensitive, Rule::Merge);
}

/// Every group of an ordered plan is taken; `carry_out` would say so if one made a cycle.
#[test]
pub fn a_way_through_what_the_plan_makes_or_moves_is_no_cycle() {
    let rows = [
        Row {
            name: "parent and child change places around a new directory",
            base: "A:c/ B:c/b/",
            here: "B:b/ N:b/a/ A:b/a/c/",
            share: "A:c/ B:c/b/",
            want: "B:b/ N:b/a/ A:b/a/c/",
        },
        Row {
            name: "the same, made in the share",
            base: "A:c/ B:c/b/",
            here: "A:c/ B:c/b/",
            share: "B:b/ N:b/a/ A:b/a/c/",
            want: "B:b/ N:b/a/ A:b/a/c/",
        },
        Row {
            name: "a third one comes in between",
            base: "A:a/ B:a/b/ D:d/",
            here: "B:b/ D:b/d/ A:b/d/a/",
            share: "A:a/ B:a/b/ D:d/",
            want: "B:b/ D:b/d/ A:b/d/a/",
        },
        Row {
            name: "a third one comes in between, in the share",
            base: "A:a/ B:a/b/ D:d/",
            here: "A:a/ B:a/b/ D:d/",
            share: "B:b/ D:b/d/ A:b/d/a/",
            want: "B:b/ D:b/d/ A:b/d/a/",
        },
    ];
    rows.iter().for_each(|row| check(row, CaseRule::Sensitive, Rule::Merge));
}

/// Three nodes take each other's names, and one of them lies in another: turned as a ring, the outer one would be
/// exchanged with what is in it.
#[test]
pub fn a_ring_of_which_one_lies_in_another_is_no_ring() {
    for labels in [["A", "B", "C"], ["B", "C", "A"], ["C", "A", "B"], ["C", "B", "A"]] {
        let [a, b, c] = labels;
        let before = format!("{a}:x/ {b}:z/ {c}:x/y/ F:x/y/f=1 G:z/g=2");
        let after = format!("{a}:z/ {b}:z/y/ {c}:x/ F:x/f=1 G:z/y/g=2");
        let row = Row {
            name: "a ring in itself",
            base: before.clone().leak(),
            here: before.leak(),
            share: after.clone().leak(),
            want: format!("{c}:x/ F:x/f=1 {a}:z/ {b}:z/y/ G:z/y/g=2").leak(),
        };
        check(&row, CaseRule::Sensitive, Rule::Merge);
        let plan = first_plan(row.base, row.here, row.share);
        assert!(!plan.iter().any(|line| line.starts_with("down exchange")), "{plan:?}");
    }
}
