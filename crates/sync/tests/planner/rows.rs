//! `promises.md` section 2.1, row by row, over tiny trees.

use std::sync::Arc;

use polder_sync::{Change, Extra, ReadIntent, Rule};
use polder_types::CaseRule;

use crate::{
    literal::{show, world},
    plans::{Schedule, carry_out, plan_changed, settle, summary},
    world::{World, time},
};

/// A row: what both sides last agreed on, what is on disk, what the share holds, and what both shall hold.
pub struct Row {
    pub name: &'static str,
    pub base: &'static str,
    pub here: &'static str,
    pub share: &'static str,
    pub want: &'static str,
}

fn fresh(case: CaseRule, rule: Rule) -> World {
    let mut fresh = World::new(case);
    fresh.settings.rule = rule;
    fresh
}

/// Runs a row in the order of the plans and out of it, with contents read and not, and compares.
pub fn check(row: &Row, case: CaseRule, rule: Rule) {
    for reads_needed in [false, true] {
        for seed in 0..12 {
            let mut start = fresh(case, rule);
            start.reads_needed = reads_needed;
            let (mut trees, labels) = world(start, row.base, row.here, row.share);
            let schedule =
                if seed == 0 { Schedule::in_order() } else { Schedule::disorder(seed, seed % 2 == 0) };
            settle(&mut trees, schedule, &mut |_, _, _| false);
            let disk = show(&trees, true, &labels);
            assert_eq!(disk, show(&trees, false, &labels), "{} (seed {seed}): the sides differ", row.name);
            assert_eq!(disk, row.want, "{} (seed {seed}, reads {reads_needed})", row.name);
        }
    }
}

fn check_all(rows: &[Row]) {
    rows.iter().for_each(|row| check(row, CaseRule::Sensitive, Rule::Merge));
}

/// What the first plan does.
pub fn first_plan(base: &str, here: &str, share: &str) -> Vec<String> {
    let (trees, labels) = world(fresh(CaseRule::Sensitive, Rule::Merge), base, here, share);
    let plan = plan_changed(&trees, &mut Schedule::in_order());
    let label = |uid| labels.get(&uid).cloned().unwrap_or_else(|| "*".into());
    summary(&plan, &label)
}

#[test]
pub fn one_side_alone_is_followed() {
    check_all(&[
        Row { name: "nothing", base: "F:f=1", here: "F:f=1", share: "F:f=1", want: "F:f=1" },
        Row {
            name: "created here",
            base: "",
            here: "D:d/ F:d/f=1 L:l>x",
            share: "",
            want: "D:d/ F:d/f=1 L:l>x",
        },
        Row { name: "created there", base: "", here: "", share: "D:d/ F:d/f=1", want: "D:d/ F:d/f=1" },
        Row { name: "edited here", base: "F:f=1", here: "F:f=2@5", share: "F:f=1", want: "F:f=2@5" },
        Row { name: "edited there", base: "F:f=1", here: "F:f=1", share: "F:f=2@5", want: "F:f=2@5" },
        Row { name: "mode here", base: "F:f=1", here: "F:f=1%7", share: "F:f=1", want: "F:f=1%7" },
        Row { name: "touched there", base: "F:f=1", here: "F:f=1", share: "F:f=1@9", want: "F:f=1@9" },
        Row {
            name: "moved here and edited",
            base: "D:d/ F:f=1",
            here: "D:d/ F:d/g=2@1%3",
            share: "D:d/ F:f=1",
            want: "D:d/ F:d/g=2@1%3",
        },
        Row {
            name: "moved there",
            base: "D:d/ F:f=1",
            here: "D:d/ F:f=1",
            share: "D:d/ F:d/g=2",
            want: "D:d/ F:d/g=2",
        },
        Row {
            name: "tree deleted here",
            base: "D:d/ E:d/e/ F:d/e/f=1",
            here: "",
            share: "D:d/ E:d/e/ F:d/e/f=1",
            want: "",
        },
        Row {
            name: "tree deleted there",
            base: "D:d/ E:d/e/ F:d/e/f=1",
            here: "D:d/ E:d/e/ F:d/e/f=1",
            share: "",
            want: "",
        },
    ]);
}

#[test]
pub fn row_1_one_file_renamed_to_two_names_has_the_first_committed() {
    check_all(&[Row { name: "1", base: "F:f=1", here: "F:y=1", share: "F:x=1", want: "F:x=1" }]);
}

#[test]
pub fn row_2_two_files_renamed_to_one_name_are_both_kept() {
    check_all(&[
        Row {
            name: "2",
            base: "F:f.txt=1 G:g.txt=2",
            here: "F:x.txt=1 G:g.txt=2",
            share: "F:f.txt=1 G:x.txt=2",
            want: "F:x-B.txt=1 G:x.txt=2",
        },
        Row {
            name: "2, edited on the way",
            base: "F:f.txt=1 G:g.txt=2",
            here: "F:x.txt=3@9 G:g.txt=4@9",
            share: "F:f.txt=1 G:x.txt=2",
            want: "F:x-B.txt=3@9 G:x.txt=4@9",
        },
    ]);
}

#[test]
pub fn row_3_a_cycle_is_cut_at_the_move_here() {
    check_all(&[
        Row {
            name: "3",
            base: "X:x/ Y:y/ F:x/f=1",
            here: "Y:y/ X:y/x/ F:y/x/f=2@3",
            share: "X:x/ Y:x/y/ F:x/f=1",
            want: "X:x/ F:x/f=2@3 Y:x/y/",
        },
        Row {
            name: "3, by way of a third",
            base: "X:x/ Y:y/ Z:z/",
            here: "Y:y/ X:y/x/ Z:y/x/z/",
            share: "X:x/ Z:z/ Y:z/y/",
            want: "X:x/ Z:x/z/ Y:x/z/y/",
        },
    ]);
}

#[test]
pub fn row_4_late_edits_follow_a_directory_that_moved_twice() {
    check_all(&[Row {
        name: "4",
        base: "A:a/ B:b/ D:d/ F:d/f=1",
        here: "A:a/ B:b/ D:b/d/ F:b/d/f=2@3 N:b/d/n=4",
        share: "A:a/ B:b/ D:a/d/ F:a/d/f=1",
        want: "A:a/ D:a/d/ F:a/d/f=2@3 N:a/d/n=4 B:b/",
    }]);
}

#[test]
pub fn rows_5_and_6_a_deleted_directory_lives_again_for_what_lives_in_it() {
    check_all(&[
        Row {
            name: "5, renamed into it here",
            base: "D:d/ F:d/f=1 G:g=2",
            here: "D:d/ F:d/f=1 G:d/g=2",
            share: "G:g=2",
            want: "D:d/ G:d/g=2",
        },
        Row {
            name: "5, renamed into it there",
            base: "D:d/ F:d/f=1 G:g=2",
            here: "G:g=2",
            share: "D:d/ F:d/f=1 G:d/g=2",
            want: "D:d/ G:d/g=2",
        },
        Row {
            name: "6, created deep inside here",
            base: "D:d/ E:d/e/ F:d/e/f=1",
            here: "D:d/ E:d/e/ F:d/e/f=1 N:d/e/n=2",
            share: "",
            want: "D:d/ E:d/e/ N:d/e/n=2",
        },
        Row {
            name: "6, edited inside there",
            base: "D:d/ E:d/e/ F:d/e/f=1 G:d/g=3",
            here: "",
            share: "D:d/ E:d/e/ F:d/e/f=2 G:d/g=3",
            want: "D:d/ E:d/e/ F:d/e/f=2",
        },
        Row {
            name: "6, and another has the name now",
            base: "D:d/ F:d/f=1",
            here: "D:d/ F:d/f=2@1",
            share: "N:d=7",
            want: "D:d/ F:d/f=2@1 N:d-Cloud=7",
        },
    ]);
}

#[test]
pub fn row_7_an_edit_beats_a_delete() {
    check_all(&[
        Row { name: "7, edited here", base: "F:f=1", here: "F:f=2@1", share: "", want: "F:f=2@1" },
        Row { name: "7, edited there", base: "F:f=1", here: "", share: "F:f=2@1", want: "F:f=2@1" },
    ]);
}

#[test]
pub fn row_8_a_delete_beats_metadata() {
    check_all(&[
        Row { name: "8, mode here", base: "F:f=1", here: "F:f=1@4%7", share: "", want: "" },
        Row { name: "8, mode there", base: "F:f=1", here: "", share: "F:f=1@4%7", want: "" },
        Row { name: "8, a directory's time", base: "D:d/", here: "D:d/@9", share: "", want: "" },
    ]);
}

#[test]
pub fn row_9_a_rename_beats_a_delete() {
    check_all(&[
        Row { name: "9, renamed here", base: "F:f=1", here: "F:g=1", share: "", want: "F:g=1" },
        Row { name: "9, renamed there", base: "F:f=1", here: "", share: "F:g=1", want: "F:g=1" },
        Row { name: "9, renamed there and edited", base: "F:f=1", here: "", share: "F:g=2", want: "F:g=2" },
    ]);
}

#[test]
pub fn row_10_of_two_edits_the_newer_keeps_the_name() {
    check_all(&[
        Row {
            name: "10, newer here",
            base: "F:f.c=1",
            here: "F:f.c=2@9",
            share: "F:f.c=3@5",
            want: "*:f-Cloud.c=3@5 F:f.c=2@9",
        },
        Row {
            name: "10, newer there",
            base: "F:f.c=1",
            here: "F:f.c=2@5",
            share: "F:f.c=3@9",
            want: "*:f-B.c=2@5 F:f.c=3@9",
        },
        Row {
            name: "10, a tie",
            base: "F:f=1",
            here: "F:f=2@5",
            share: "F:f=3@5",
            want: "F:f=3@5 *:f-B=2@5",
        },
        Row {
            name: "10, links",
            base: "L:l>a",
            here: "L:l>b@9",
            share: "L:l>c@5",
            want: "L:l>b@9 *:l-Cloud>c@5",
        },
        Row {
            name: "10, and moved there",
            base: "D:d/ F:f=1",
            here: "D:d/ F:f=2@9",
            share: "D:d/ F:d/g=3@5",
            want: "D:d/ F:d/g=2@9 *:d/g-Cloud=3@5",
        },
        Row {
            name: "10, and the copy's name is taken",
            base: "F:f=1",
            here: "F:f=2@5 N:f-B=8",
            share: "F:f=3@9 M:f-B-1=7",
            want: "F:f=3@9 N:f-B=8 M:f-B-1=7 *:f-B-2=2@5",
        },
    ]);
    assert_eq!(first_plan("F:f=1", "F:f=2@9", "F:f=3@5"), ["up revive * + update F"]);
    assert_eq!(first_plan("F:f=1", "F:f=2@5", "F:f=3@9"), ["down replace F"]);
}

#[test]
pub fn row_11_equal_edits_are_none() {
    check_all(&[
        Row {
            name: "11, newer here",
            base: "F:f=1",
            here: "F:f=2@9%7",
            share: "F:f=2@5%3",
            want: "F:f=2@9%7",
        },
        Row {
            name: "11, newer there",
            base: "F:f=1",
            here: "F:f=2@5%7",
            share: "F:f=2@9%3",
            want: "F:f=2@9%3",
        },
        Row { name: "11, created twice", base: "", here: "F:f=2@5", share: "G:f=2@9", want: "G:f=2@9" },
    ]);
}

#[test]
pub fn row_12_a_directory_keeps_its_name_before_a_file() {
    check_all(&[
        Row {
            name: "12, directory here",
            base: "",
            here: "D:n.x/ F:n.x/f=1",
            share: "G:n.x=2",
            want: "G:n-Cloud.x=2 D:n.x/ F:n.x/f=1",
        },
        Row {
            name: "12, directory there",
            base: "",
            here: "G:n.x=2",
            share: "D:n.x/ F:n.x/f=1",
            want: "G:n-B.x=2 D:n.x/ F:n.x/f=1",
        },
        Row {
            name: "12, two directories merge",
            base: "",
            here: "D:d/ F:d/f=1",
            share: "E:d/ G:d/g=2",
            want: "E:d/ F:d/f=1 G:d/g=2",
        },
        Row { name: "12, two files", base: "", here: "F:f=1@5", share: "G:f=2@9", want: "G:f=2@9 *:f-B=1@5" },
        Row {
            name: "12, two files, newer here",
            base: "",
            here: "F:f=1@9",
            share: "G:f=2@5",
            want: "G:f=1@9 *:f-Cloud=2@5",
        },
        Row {
            name: "12, a file and a link",
            base: "",
            here: "F:f=1@9",
            share: "L:f>x",
            want: "L:f>x F:f-B=1@9",
        },
    ]);
    assert_eq!(first_plan("", "D:n/", "G:n=2"), ["up create D + move G"]);
    assert_eq!(first_plan("", "G:n=2", "D:n/"), ["down place D over G"]);
}

#[test]
pub fn row_13_a_file_replaced_by_a_directory_and_edited_is_kept_beside_it() {
    check_all(&[
        Row {
            name: "13, replaced here",
            base: "F:f=1",
            here: "D:f/ N:f/n=2",
            share: "F:f=3@9",
            want: "D:f/ N:f/n=2 F:f-Cloud=3@9",
        },
        Row {
            name: "13, replaced there",
            base: "F:f=1",
            here: "F:f=3@9",
            share: "D:f/ N:f/n=2",
            want: "D:f/ N:f/n=2 F:f-B=3@9",
        },
        Row {
            name: "13, not edited",
            base: "F:f=1",
            here: "F:f=1",
            share: "D:f/ N:f/n=2",
            want: "D:f/ N:f/n=2",
        },
        Row {
            name: "13, back, not edited",
            base: "D:d/ F:d/f=1",
            here: "N:d=2",
            share: "D:d/ F:d/f=1",
            want: "N:d=2",
        },
    ]);
    assert_eq!(first_plan("F:f=1", "F:f=3@9", "D:f/"), ["down place D over F"]);
    assert_eq!(first_plan("F:f=1", "D:f/", "F:f=1"), ["up create D + delete F"]);
}

#[test]
pub fn row_14_swaps_and_rings() {
    check_all(&[
        Row {
            name: "14, swap here",
            base: "F:a=1 G:b=2",
            here: "F:b=1 G:a=2",
            share: "F:a=1 G:b=2",
            want: "G:a=2 F:b=1",
        },
        Row {
            name: "14, swap there",
            base: "F:a=1 G:b=2",
            here: "F:a=1 G:b=2",
            share: "F:b=1 G:a=2",
            want: "G:a=2 F:b=1",
        },
        Row {
            name: "14, ring here",
            base: "F:a=1 G:b=2 H:c=3",
            here: "F:b=1 G:c=2 H:a=3",
            share: "F:a=1 G:b=2 H:c=3",
            want: "H:a=3 F:b=1 G:c=2",
        },
        Row {
            name: "14, ring there",
            base: "F:a=1 G:b=2 H:c=3",
            here: "F:a=1 G:b=2 H:c=3",
            share: "F:b=1 G:c=2 H:a=3",
            want: "H:a=3 F:b=1 G:c=2",
        },
        Row {
            name: "14, chain there",
            base: "F:a=1 G:b=2",
            here: "F:a=1 G:b=2",
            share: "F:b=1 G:c=2",
            want: "F:b=1 G:c=2",
        },
        Row {
            name: "14, parent and child change places",
            base: "P:p/ C:p/c/ F:p/c/f=1",
            here: "P:p/ C:p/c/ F:p/c/f=1",
            share: "C:p/ P:p/c/ F:p/f=1",
            want: "C:p/ P:p/c/ F:p/f=1",
        },
        Row {
            name: "14, parent and child change places here",
            base: "P:p/ C:p/c/ F:p/c/f=1",
            here: "C:p/ P:p/c/ F:p/f=1",
            share: "P:p/ C:p/c/ F:p/c/f=1",
            want: "C:p/ P:p/c/ F:p/f=1",
        },
    ]);
    assert_eq!(first_plan("F:a=1 G:b=2", "F:b=1 G:a=2", "F:a=1 G:b=2"), ["up move F + move G"]);
    assert_eq!(first_plan("F:a=1 G:b=2", "F:a=1 G:b=2", "F:b=1 G:a=2").len(), 1);
    let ring = first_plan("F:a=1 G:b=2 H:c=3", "F:a=1 G:b=2 H:c=3", "F:b=1 G:c=2 H:a=3");
    assert!(ring.len() == 2 && ring.iter().all(|line| line.starts_with("down exchange")), "{ring:?}");
}

#[test]
pub fn row_15_a_new_file_at_the_old_name_is_another_item() {
    check_all(&[
        Row { name: "15, here", base: "F:f=1", here: "F:g=1 N:f=2", share: "F:f=1", want: "N:f=2 F:g=1" },
        Row { name: "15, there", base: "F:f=1", here: "F:f=1", share: "F:g=1 N:f=2", want: "N:f=2 F:g=1" },
        Row {
            name: "15, edited elsewhere",
            base: "F:f=1",
            here: "F:g=1 N:f=2",
            share: "F:f=5@9",
            want: "N:f=2 F:g=5@9",
        },
    ]);
    assert_eq!(first_plan("F:f=1", "F:g=1 N:f=2", "F:f=1"), ["up create N + move F"]);
}

#[test]
pub fn rows_16_to_18_names_that_differ_in_case_or_form() {
    let rename = Row { name: "16", base: "F:Foo=1", here: "F:foo=1", share: "F:Foo=1", want: "F:foo=1" };
    let back = Row { name: "16, there", base: "F:Foo=1", here: "F:Foo=1", share: "F:foo=1", want: "F:foo=1" };
    for case in [CaseRule::Sensitive, CaseRule::Insensitive] {
        check(&rename, case, Rule::Merge);
        check(&back, case, Rule::Merge);
    }
    let both = Row { name: "17", base: "", here: "F:Foo=1", share: "G:foo=2", want: "F:Foo=1 G:foo=2" };
    check(&both, CaseRule::Sensitive, Rule::Merge);
    let one =
        Row { name: "17", base: "", here: "F:Foo=1@5", share: "G:foo=2@9", want: "G:foo=2@9 *:foo-B=1@5" };
    check(&one, CaseRule::Insensitive, Rule::Merge);
    let forms = Row {
        name: "18",
        base: "",
        here: "F:e\u{301}=1",
        share: "G:\u{e9}=2",
        want: "F:e\u{301}=1 G:\u{e9}=2",
    };
    check(&forms, CaseRule::Sensitive, Rule::Merge);
    check(&forms, CaseRule::Insensitive, Rule::Merge);
}

#[test]
pub fn row_19_the_same_on_both_sides_is_no_conflict() {
    check_all(&[
        Row { name: "19, deleted", base: "D:d/ F:d/f=1", here: "", share: "", want: "" },
        Row { name: "19, renamed", base: "F:f=1", here: "F:g=1", share: "F:g=1", want: "F:g=1" },
    ]);
    assert_eq!(first_plan("F:f=1", "F:g=1", "F:g=1"), Vec::<String>::new());
}

#[test]
pub fn row_20_a_renamed_directory_is_one_operation_and_edits_land_inside() {
    check_all(&[Row {
        name: "20",
        base: "D:d/ F:d/f=1 G:d/g=2",
        here: "D:e/ F:e/f=1 G:e/g=2",
        share: "D:d/ F:d/f=5 G:d/g=6",
        want: "D:e/ F:e/f=5 G:e/g=6",
    }]);
    assert_eq!(first_plan("D:d/ F:d/f=1", "D:e/ F:e/f=1", "D:d/ F:d/f=1"), ["up move D"]);
}

#[test]
pub fn rows_21_and_22_conflicts_of_conflicts() {
    check_all(&[
        Row {
            name: "21",
            base: "F:f-B.c=1",
            here: "F:f-B.c=2@5",
            share: "F:f-B.c=3@9",
            want: "*:f-B-B.c=2@5 F:f-B.c=3@9",
        },
        Row {
            name: "22, the same copy was made elsewhere",
            base: "",
            here: "F:f-B=1@2",
            share: "G:f-B=1@2",
            want: "G:f-B=1@2",
        },
    ]);
}

#[test]
pub fn row_28_a_touch_moves_no_content() {
    check_all(&[
        Row { name: "28, here", base: "F:f=1", here: "F:f=1@9", share: "F:f=1", want: "F:f=1@9" },
        Row { name: "28, there", base: "F:f=1", here: "F:f=1", share: "F:f=1@9", want: "F:f=1@9" },
        Row { name: "28, set back", base: "F:f=1@9", here: "F:f=1@1", share: "F:f=1@9", want: "F:f=1@1" },
        Row { name: "28, both", base: "F:f=1", here: "F:f=1@5", share: "F:f=1@9", want: "F:f=1@9" },
    ]);
    let (trees, _) = world(fresh(CaseRule::Sensitive, Rule::Merge), "F:f=1", "F:f=1@9", "F:f=1");
    let plan = plan_changed(&trees, &mut Schedule::in_order());
    let Change::Update { content, attrs, mtime, .. } = &plan.groups[0].ops[0].change else {
        panic!("{plan:?}")
    };
    assert_eq!((content, attrs, *mtime), (&None, &None, Some(time(9))));
    assert_eq!(first_plan("F:f=1", "F:f=1", "F:f=1@9"), ["down touch F"]);
}

#[test]
pub fn row_29_attributes_merge_with_an_edit() {
    check_all(&[
        Row { name: "29, mode here", base: "F:f=1", here: "F:f=1%7", share: "F:f=2@5", want: "F:f=2@5%7" },
        Row { name: "29, mode there", base: "F:f=1", here: "F:f=2@5", share: "F:f=1%7", want: "F:f=2@5%7" },
        Row {
            name: "29, a touch beside an edit",
            base: "F:f=1",
            here: "F:f=1@9",
            share: "F:f=2@5",
            want: "F:f=2@5",
        },
        Row { name: "29, directories", base: "D:d/", here: "D:d/%7", share: "D:d/@4", want: "D:d/@4%7" },
    ]);
}

#[test]
pub fn row_36_names_like_ours_are_names() {
    check_all(&[Row {
        name: "36",
        base: "",
        here: "D:.polder-x/ F:.polder-x/f-B-Cloud-1=1",
        share: "",
        want: "D:.polder-x/ F:.polder-x/f-B-Cloud-1=1",
    }]);
}

#[test]
pub fn row_61_a_conflict_name_never_grows_too_long() {
    let long = "n".repeat(255);
    let (mut trees, labels) = world(
        fresh(CaseRule::Sensitive, Rule::Merge),
        &format!("F:{long}=1"),
        &format!("F:{long}=2@5"),
        &format!("F:{long}=3@9"),
    );
    settle(&mut trees, Schedule::in_order(), &mut |_, _, _| false);
    let copy = format!("{}-B", "n".repeat(253));
    assert_eq!(show(&trees, true, &labels), format!("*:{copy}=2@5 F:{long}=3@9"));
}

/// Scenario 97: what both hold is adopted, level by level, and nothing is read to be stored.
#[test]
pub fn row_97_what_a_directory_holds_is_adopted_after_it() {
    let mut start = fresh(CaseRule::Sensitive, Rule::Merge);
    start.reads_needed = true;
    let here = "D:d/ E:d/e/ F:d/e/f=1 G:g=2";
    let (mut trees, labels) = world(start, "", here, "A:d/ B:d/e/ C:d/e/f=1 H:g=2");
    settle(&mut trees, Schedule::in_order(), &mut |_, plan, _| {
        assert!(plan.reads.iter().all(|read| read.intent == ReadIntent::Hash), "{plan:?}");
        assert!(plan.groups.is_empty() && plan.applies.is_empty(), "{plan:?}");
        false
    });
    assert_eq!(show(&trees, false, &labels), "A:d/ B:d/e/ C:d/e/f=1 H:g=2");
}

#[test]
pub fn row_104_what_is_put_back_while_it_is_deleted_elsewhere_lives() {
    check_all(&[
        Row {
            name: "104, put back as new files",
            base: "D:d/ F:d/f=1 G:d/g=2",
            here: "E:d/ N:d/f=1 M:d/g=2",
            share: "",
            want: "E:d/ N:d/f=1 M:d/g=2",
        },
        Row {
            name: "104, an older content put back over the file",
            base: "D:d/ F:d/f=2@9 G:d/g=3",
            here: "D:d/ F:d/f=1@5 G:d/g=3",
            share: "",
            want: "D:d/ F:d/f=1@5",
        },
    ]);
}

#[test]
pub fn an_authoritative_server_wins_everywhere() {
    let rows = [
        Row { name: "only in the share", base: "", here: "F:f=1", share: "D:d/ G:d/g=2", want: "F:f=1" },
        Row { name: "differs", base: "", here: "F:f=1@1", share: "G:f=2@9%7", want: "G:f=1@1" },
        Row { name: "equal", base: "", here: "F:f=1@1", share: "G:f=1@1", want: "G:f=1@1" },
        Row {
            name: "a directory for a file",
            base: "",
            here: "D:n/ F:n/f=1",
            share: "G:n=2",
            want: "D:n/ F:n/f=1",
        },
        Row { name: "a file for a directory", base: "", here: "F:n=1", share: "D:n/ G:n/g=2", want: "F:n=1" },
        Row {
            name: "merged directories",
            base: "",
            here: "D:d/ F:d/f=1",
            share: "E:d/ G:d/g=2",
            want: "E:d/ F:d/f=1",
        },
        Row { name: "edited there meanwhile", base: "F:f=1", here: "F:f=1", share: "F:f=2@9", want: "F:f=1" },
        Row { name: "deleted there meanwhile", base: "F:f=1", here: "F:f=1", share: "", want: "F:f=1" },
    ];
    rows.iter().for_each(|row| check(row, CaseRule::Sensitive, Rule::HereWins));
}

#[test]
pub fn nothing_is_deleted_while_both_sides_are_compared_anew() {
    let rows = [
        Row {
            name: "gone here",
            base: "D:d/ F:d/f=1",
            here: "",
            share: "D:d/ F:d/f=1",
            want: "D:d/ F:d/f=1",
        },
        Row {
            name: "gone there",
            base: "D:d/ F:d/f=1",
            here: "D:d/ F:d/f=1",
            share: "",
            want: "D:d/ F:d/f=1",
        },
        Row { name: "older here", base: "F:f=1", here: "F:f=1", share: "F:f=2@9", want: "F:f=2@9" },
        Row { name: "both", base: "F:f=1", here: "F:f=3@1", share: "F:f=2@9", want: "F:f=2@9 *:f-B=3@1" },
    ];
    rows.iter().for_each(|row| check(row, CaseRule::Sensitive, Rule::NoDeletes));
}

/// Scenario 105, as far as it is the planner's.
#[test]
pub fn after_a_long_absence_extras_are_held_for_review() {
    let (trees, labels) =
        world(fresh(CaseRule::Sensitive, Rule::Review), "D:d/ F:d/f=1", "D:d/ F:d/f=1 N:n=2", "G:g=3");
    let plan = plan_changed(&trees, &mut Schedule::in_order());
    let mut lines = summary(&plan, &|uid| labels[&uid].clone());
    lines.sort();
    let why = "only this server has it after a long absence: review whether it was deleted elsewhere";
    let held = ["D", "F", "N"].map(|label| format!("held {label}: {why}"));
    assert_eq!(lines, ["down place G".to_owned(), held[0].clone(), held[1].clone(), held[2].clone()]);
}

/// I16: extras wait for a person, each by itself, while everything else is synced as ever.
#[test]
pub fn s105_extras_become_what_a_person_decides() {
    let decided = |waits: &[&str], accepted: &[&str], discarded: &[&str]| {
        let (mut trees, labels) = world(
            fresh(CaseRule::Sensitive, Rule::Merge),
            "D:d/ F:d/f=1 E:e/ H:e/h=4",
            "D:d/ F:d/f=1 E:e/ H:e/h=4 N:n=2 C:c=6",
            "G:g=3",
        );
        let ident = |label: &str| {
            let uid = labels.iter().find(|(_, other)| *other == label).map(|(uid, _)| *uid);
            trees.disk[&uid.expect("a label of this row")].stamp.ident
        };
        let all = [(waits, Extra::Waits), (accepted, Extra::Accepted), (discarded, Extra::Discarded)];
        let all = all.iter().flat_map(|(labels, what)| labels.iter().map(|label| (ident(label), *what)));
        trees.settings.extras = Arc::new(all.collect());
        for _ in 0..8 {
            let plan = plan_changed(&trees, &mut Schedule::in_order());
            carry_out(&mut trees, plan, &mut Schedule::in_order(), false);
            trees.ensure_trees();
        }
        (show(&trees, true, &labels), show(&trees, false, &labels))
    };
    let (here, share) = decided(&["D", "F", "E", "H", "N"], &[], &[]);
    assert_eq!(
        here, "C:c=6 D:d/ F:d/f=1 E:e/ H:e/h=4 G:g=3 N:n=2",
        "what waits stays, what is new is synced"
    );
    assert_eq!(share, "C:c=6 G:g=3");
    let (here, share) = decided(&["D", "F"], &["N", "H", "E"], &["C"]);
    assert_eq!(here, "D:d/ F:d/f=1 E:e/ H:e/h=4 G:g=3 N:n=2");
    assert_eq!(share, "E:e/ H:e/h=4 G:g=3 N:n=2");
    let (here, share) = decided(&[], &["F"], &["D", "E", "H", "N", "C"]);
    assert_eq!(here, "D:d/ F:d/f=1 G:g=3", "a directory in which something is wanted stays");
    assert_eq!(share, here);
}
