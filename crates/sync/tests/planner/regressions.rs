//! Failures that random cases have found, each as a named case.

use polder_sync::Rule;
use polder_types::CaseRule;

use crate::rows::{Row, check};

#[test]
fn a_conflict_whose_mode_changed_here_makes_one_copy() {
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
fn on_a_folding_share_a_new_node_takes_over_a_name_in_another_case() {
    // An exchange would have left it under the old node's case.
    let row = Row { name: "another case", base: "D:a/", here: "D:a/", share: "E:A/", want: "E:A/" };
    check(&row, CaseRule::Insensitive, Rule::Merge);
}

#[test]
fn on_a_folding_share_a_swap_gives_the_right_case() {
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
fn a_new_file_does_not_adopt_what_was_deleted_here_when_deletes_are_forbidden() {
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
