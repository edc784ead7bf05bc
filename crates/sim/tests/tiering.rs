//! Scenarios of `docs/semantics.md` about tiered files, each as a told run of the simulation: what the gate gives and frees is
//! checked by its oracles, what is said here is what only the story shows.

mod told;

use polder_sim::Outcome;

use told::{run, tree};

/// How often something was noted.
fn count(outcome: &Outcome, what: &[&str]) -> usize {
    outcome.trace.iter().filter(|line| what.iter().all(|what| line.contains(what))).count()
}

/// Runs a story in which something must have been noted as often as is said.
fn tells(story: &str, noted: &[(&[&str], usize)]) -> Outcome {
    let outcome = run(story);
    for (what, times) in noted {
        assert_eq!(count(&outcome, what), *times, "{what:?}\n{}\n{story}", outcome.trace.join("\n"));
    }
    outcome
}

const BEGIN: &str = "seed 1 hosts 2 active 60000 tiers 3\n6000 s0 create a\n20000 s0 tier a\n";
const LEFT: &[&str] = &["gives up", "Some(Tiered)"];
const PIECE: &[&str] = &[" piece "];
const RESIDENT: &[&str] = &["resident: Ok"];
const READ: &[&str] = &["has read"];
const ERROR: &[&str] = &["gets an error"];

/// What was written since it was uploaded stays, be it by the time or by the descriptor.
#[test]
fn s037_who_writes_in_time_keeps_the_file() {
    let story = |line: &str| format!("{BEGIN}{line}");
    let changed: &[&str] = &["Stays(Changed)"];
    let outcome = tells(&story("20001 s0 edit a"), &[(changed, 1), (LEFT, 0)]);
    assert_eq!(tree(&outcome), ["a=2"]);
    let in_use: &[&str] = &["Stays(InUse)"];
    let outcome = tells(&story("20001 s0 open a 7\n30000 s0 put 7"), &[(in_use, 1), (LEFT, 0)]);
    assert_eq!(tree(&outcome), ["a=2"]);
}

/// A reader outlives the agent's process, and gets the right bytes from the next.
#[test]
fn s039_a_reader_outlives_the_agent() {
    let outcome = tells(
        &format!("{BEGIN}30000 s0 read a 0 9999\n30001 s0 kill"),
        &[(LEFT, 1), (READ, 1), (ERROR, 0), (&["s0 is killed"], 1)],
    );
    let at = |what: &str| outcome.trace.iter().position(|line| line.contains(what));
    assert!(at("s0 is killed") < at("has read"));
}

/// Cut to nothing: nothing is recalled, and the new version is empty.
#[test]
fn s043_cut_to_nothing_without_a_recall() {
    let outcome = tells(&format!("{BEGIN}30000 s0 cut a"), &[(LEFT, 1), (PIECE, 0)]);
    assert_eq!(tree(&outcome), ["a=zeros"]);
}

/// Cut to nothing and written anew, as `O_TRUNC` does.
#[test]
fn s043_written_anew_without_a_recall() {
    let outcome = tells(&format!("{BEGIN}30000 s0 create a"), &[(LEFT, 1), (PIECE, 0)]);
    assert_eq!(tree(&outcome), ["a=2"]);
}

/// A write waits for the whole file.
#[test]
fn s044_a_write_recalls_first() {
    let outcome = tells(&format!("{BEGIN}30000 s0 edit a"), &[(LEFT, 1), (RESIDENT, 1)]);
    assert_eq!(tree(&outcome), ["a=2"]);
}

/// A recall that fails leaves everything as it was, and the write does not happen.
#[test]
fn s044_a_write_fails_with_its_recall() {
    let story = "seed 1 hosts 2 active 60000 tiers 2 arrive damage
        0 s0 bad 1 flipped
        6000 s0 create a
        30000 s1 edit a";
    let outcome = tells(story, &[(ERROR, 1), (RESIDENT, 0)]);
    assert_eq!(tree(&outcome), ["a=1"]);
}

/// What changes no byte recalls none, and the placeholder goes with its node.
#[test]
fn s045_names_and_attributes_recall_nothing() {
    let lines = "30000 s0 mkdir d\n30500 s0 rename a d/b\n31000 s0 mode d/b 448\n31500 s0 time d/b 1000\n\
                 32000 s0 link d/b c\n40000 s1 mode d/b 384";
    let outcome = tells(&format!("{BEGIN}{lines}\n50000 s1 rename d/b e.txt"), &[(LEFT, 1), (PIECE, 0)]);
    assert!(tree(&outcome).contains(&"e.txt=1"), "{:?}", outcome.tree);
}

/// The mark tells nothing of a file's attributes: a change that nobody was told of is found by the next walk.
#[test]
fn s045_attributes_of_a_placeholder_are_compared_by_a_walk() {
    let outcome = run(&format!("{BEGIN}30000 s0 mode a 448\n30000 s0 kill"));
    assert!(count(&outcome, &["s0 -> Send", "attrs: Some"]) > 0, "{}", outcome.trace.join("\n"));
}

/// A deletion syncs; that its content stays in the history is an oracle of every run.
#[test]
fn s046_a_deletion_of_a_placeholder_syncs() {
    for host in [0, 1] {
        let outcome = tells(&format!("{BEGIN}30000 s{host} rm a"), &[(LEFT, 1), (PIECE, 0)]);
        assert_eq!(tree(&outcome), ["gone"]);
    }
}

/// Without room bytes are given and not kept; a write gets an error; later all is as before.
#[test]
fn s047_a_full_disk_gives_bytes_and_keeps_none() {
    let full = format!("{BEGIN}29000 s0 room 0\n30000 s0 read a 0 9999");
    tells(&full, &[(LEFT, 1), (READ, 1), (RESIDENT, 0)]);
    let outcome = tells(
        &format!("{BEGIN}29000 s0 room 0\n30000 s0 edit a\n40000 s0 room\n41000 s0 edit a"),
        &[(&["gets no room"], 1), (RESIDENT, 1)],
    );
    assert_eq!(tree(&outcome), ["a=2"]);
}

/// Bytes that are not those of the chunk reach nobody; the file stays a placeholder.
#[test]
fn s048_damaged_bytes_reach_nobody() {
    let story = "seed 1 hosts 2 active 60000 tiers 2 arrive damage
        0 s0 bad 1 torn
        6000 s0 create a
        30000 s1 read a 0 9999
        40000 s1 read a 0 9999";
    tells(story, &[(ERROR, 2), (READ, 0), (RESIDENT, 0)]);
}

/// An edit elsewhere re-points the placeholder, without a byte; then it is the new version that is read.
#[test]
fn s049_an_edit_elsewhere_re_points() {
    let outcome = tells(
        &format!("{BEGIN}30000 s1 edit a\n50000 s0 read a 0 9999"),
        &[(LEFT, 1), (READ, 1), (RESIDENT, 1)],
    );
    assert_eq!(tree(&outcome), ["a=2"]);
    let at = |what: &str| outcome.trace.iter().position(|line| line.contains(what));
    assert!(at(" piece ") > at("50000 s0 read"), "nothing was recalled before");
}

/// Whoever reads while the file is edited elsewhere ends with the version that it has open; whoever opens it later gets the
/// new one.
#[test]
fn s050_a_reader_ends_with_its_version() {
    let reads: String = (0..40).map(|nth| format!("\n{} s0 read a 0 9999", 30_000 + nth * 10)).collect();
    let tiers = "\n30100 s0 tier a\n30200 s0 tier a\n30300 s0 tier a";
    let outcome = tells(&format!("{BEGIN}30000 s1 edit a{reads}{tiers}"), &[(READ, 40), (ERROR, 0)]);
    assert_eq!(tree(&outcome), ["a=2"]);
}

/// While a server is away the share keeps what its placeholders stand for, however old.
#[test]
fn s051_what_a_placeholder_stands_for_is_kept() {
    let story = format!(
        "{}29000 s0 unmount\n30000 s1 edit a\n31000 s1 edit a\n55000 s0 mount",
        BEGIN.replace("tiers 3", "tiers 3 history prune")
    );
    let outcome = tells(&story, &[(LEFT, 1)]);
    assert_eq!(tree(&outcome), ["a=3"]);
}

/// An empty file is no placeholder and becomes none.
#[test]
fn s052_an_empty_file_is_never_given_up() {
    let story = "seed 1 hosts 2 active 60000 tiers 3\n6000 s0 empty a\n20000 s0 tier a";
    tells(story, &[(&["Stays(TooSmall)"], 1), (LEFT, 0)]);
}

/// The process, or the machine, ends after each call of each change of presence: whoever reads afterwards has all bytes.
#[test]
fn s058_a_crash_after_each_call() {
    let mut reached = 0;
    for (order, lines) in [(1, "30000 s0 read a 0 9999"), (2, "25000 s0 recall a"), (2, "25000 s0 cut a")] {
        for calls in 0..9 {
            for power in ["", " 77", " 78", " 79", " 80"] {
                let story = format!(
                    "{}0 s0 cut-off {order} {calls}{power}\n{lines}\n40000 s0 read a 0 9999\n50000 s0 edit a",
                    BEGIN.replace("tiers 3", "tiers 3 power")
                );
                let outcome = run(&story);
                reached += count(&outcome, &["s0 is killed"]) + count(&outcome, &["s0 loses power"]);
                assert_eq!(tree(&outcome), ["a=2"], "{story}");
            }
        }
    }
    assert!(reached > 60, "{reached} crashes");
}

/// The service is set back to before the version that was given up: the file is not deleted, and nobody gets wrong bytes.
#[test]
fn a_service_that_is_set_back_keeps_placeholders() {
    let story = "seed 1 hosts 2 active 60000 tiers 3
        6000 s0 create a
        10000 s0 backup
        12000 s0 edit a
        20000 s0 tier a
        20000 s1 tier a
        30000 s0 set-back
        40000 s0 read a 0 9999";
    run(story);
}

/// A machine is set back to when its file was here, or was a placeholder of an older version.
#[test]
fn a_machine_that_is_set_back_keeps_placeholders() {
    let story = |one: u32, two: u32| {
        format!(
            "seed 1 hosts 2 active 80000 tiers 3
            6000 s0 create a
            {one} s0 tier a
            25000 s0 checkpoint
            {two} s0 tier a
            35000 s1 edit a
            45000 s0 revert
            60000 s0 read a 0 9999"
        )
    };
    for (one, two) in [(20_000, 30_000), (30_000, 31_000)] {
        assert_eq!(tree(&tells(&story(one, two), &[(READ, 1)])), ["a=2"]);
    }
}

/// A placeholder is being recalled while it is deleted elsewhere: the recall ends in the recycle area, where a file that looks
/// otherwise was taken for one that somebody had written to. It came back beside its place, as an edit that nobody made.
#[test]
fn what_is_recalled_in_the_recycle_area_does_not_come_back() {
    let outcome = run("seed 5001773 hosts 3 active 10000 queue 64 rows 100 tiers 6 fanotify
         1800 s0 create c
         1842 s0 mkdir a
         2263 s0 rename c a/e.txt
         3345 s0 office a/e.txt
         3367 s2 symlink e.txt 4
         4136 s2 rename e.txt b
         4176 s0 mkdir d
         4191 s1 rm e.txt
         4288 s1 symlink a/e.txt 4
         4433 s2 tier a/e.txt
         5259 s2 mkdir a/b
         5278 s1 tier a/e.txt
         5415 s2 restart
         5583 s1 tier a/e.txt
         5719 s0 mkdir d/c
         5738 s1 kill
         6714 s1 rm b
         6766 s0 mode / 449
         6801 s1 recall a/e.txt
         9764 s0 rm a");
    assert!(!tree(&outcome).iter().any(|line| line.starts_with("e-s1")), "{:?}", outcome.tree);
}

/// A user gives a placeholder a second name in the moment of a rename: neither name is what a lost row has left.
#[test]
fn a_second_name_of_a_placeholder_is_a_users() {
    let outcome = run("seed 2000641 hosts 2 active 60000 queue 64 rows 100 tiers 3 fanotify alone
         35247 s0 create d
         42033 s0 tier d
         42617 s0 rename d a
         42617 s0 link a b");
    assert_eq!(outcome.tree.len(), 2, "{:?}", outcome.tree);
}

/// A placeholder is renamed over a file that nobody else knows yet.
#[test]
fn a_placeholder_takes_the_name_of_a_new_file() {
    run("seed 2003662 hosts 3 active 10000 queue 64 rows 100 tiers 7 fanotify
         2724 s1 create d
         2802 s0 create e.txt
         2985 s0 rename e.txt d
         5463 s2 tier d-s0
         5843 s2 copy d b
         6050 s2 rename d-s0 b");
}

/// A name that vanished is waited for no longer once nothing of its node is left, here or in the share.
#[test]
fn what_is_gone_on_both_sides_is_not_waited_for() {
    run("seed 2001587 hosts 2 active 10000 queue 64 rows 100 tiers 2 fanotify arrive history
         1407 s1 create d
         2213 s1 mode / 449
         2258 s1 create a
         2316 s1 rename a e.txt
         2329 s1 rename d b
         2354 s1 create c
         4280 s1 rename b c
         5275 s1 swap e.txt c
         5434 s1 rm c");
}
