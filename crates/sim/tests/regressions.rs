//! Stories that failed once, as the simulator shortened them: each must pass for ever.
//!
//! A story is read by `Plan::told`. It goes on telling what it told as long as the delays that its seed draws stay the
//! same; the defect itself is described where it was mended.

use polder_sim::{Plan, run_twice};

fn passes(story: &str) {
    let outcome = run_twice(&Plan::told(story));
    assert_eq!(outcome.failure, None, "{story}");
}

/// The service was set back to a backup from before the file's pack. Its content was refused for its missing chunks,
/// the file, which equalled its synced row, was not read again, the merge was taken for done, and the steady plan
/// deleted the file here.
#[test]
fn regression_a_merge_does_not_end_while_a_node_is_refused() {
    passes(
        "seed 50 hosts 3 active 60000 queue 64 rows 100
         45373 s2 backup
         49441 s2 create d
         50477 s2 set-back",
    );
}

/// After a set-back the row of a node that the share has in an older version is dropped. The scan had passed its file
/// over already, because it equalled the row: nobody knew it any more, and it was placed a second time.
#[test]
fn regression_a_dropped_row_leaves_its_file_known() {
    passes(
        "seed 159 hosts 2 active 60000 queue 64 rows 100
         17366 s0 create a
         34195 s1 rename a d
         34244 s1 backup
         35816 s1 set-back",
    );
}

/// A directory that could not be read during the scan was listed later, but not what lay deeper.
#[test]
fn regression_what_lies_below_an_unreadable_directory_is_scanned_later() {
    passes(
        "seed 106 hosts 3 active 60000 queue 64 rows 100
         6923 s2 create a
         6923 s2 replace a
         10796 s1 hide /
         27201 s2 rename a b
         28323 s1 mkdir b/c
         51083 s1 unmount
         52408 s1 mount",
    );
}

/// The permissions of the root itself could not be applied: it has no name in any directory.
#[test]
fn regression_the_mode_of_the_root_travels() {
    passes(
        "seed 5 hosts 3 active 60000 queue 64 rows 100
         5654 s2 create e.txt
         11400 s0 mode / 452",
    );
}
