//! Scenarios of `docs/semantics.md` that need several servers and time, each as a told run of the simulation: all its
//! oracles hold (no loss, everybody equal in the end, no deletion that nobody did), and the share holds what is said here.
//!
//! In a tree `a=2` is the file `a` with the second content that anybody wrote, `d/` a directory, `gone` a node that was
//! deleted.

mod told;

use polder_sim::Outcome;

use told::{run, tree};

/// Runs a story and compares what the share holds in the end.
fn tells(story: &str, want: &[&str]) -> Outcome {
    let outcome = run(story);
    assert_eq!(tree(&outcome), want, "{story}");
    outcome
}

/// Whether something was noted in a run.
fn noted(outcome: &Outcome, what: &str) -> bool {
    outcome.trace.iter().any(|line| line.contains(what))
}

/// Lines of a story that keep a server away from the service from a moment on: so many of its messages are lost.
fn away(story: &str, host: usize, from_ms: u64, count: usize) -> String {
    let sent = run(story).trace;
    let sent = sent.iter().filter(|line| {
        let at: u64 = line.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0);
        let message = ["Announce", "FetchFeed", "FetchTree", "Send"];
        at < from_ms && message.iter().any(|word| line.contains(&format!("s{host} -> {word} {{")))
    });
    let first = sent.count() + 1;
    (first..first + count).map(|nth| format!("\n0 s{host} lose {nth}")).collect()
}

/// A save by a temporary file and a rename is a version of the same node; the temporary name never leaves the server.
#[test]
fn s030_a_save_through_a_temporary_file_is_a_version() {
    let outcome = run("seed 1 hosts 2 active 20000
         6000 s0 create a
         10000 s0 save a
         14000 s1 save a");
    assert_eq!(outcome.tree, ["a=3 #2"], "the node that was made first");
}

/// A save as an office does it: the old file becomes a backup that is deleted. The node stays, and nothing is deleted.
#[test]
fn s031_an_office_save_is_a_version() {
    let outcome = run("seed 1 hosts 2 active 20000
         6000 s0 create a
         10000 s0 office a
         14000 s1 office a");
    assert_eq!(outcome.tree, ["a=3 #2"], "the node that was made first");
}

/// More hints than the queue holds: what was lost is found by a scan.
#[test]
fn s033_hints_that_were_lost_are_made_good_by_a_scan() {
    let outcome = tells(
        "seed 1 hosts 2 active 20000 queue 4
         6000 s0 mkdir d
         9000 s0 create d/a
         9000 s0 create d/b
         9000 s0 create d/c
         9000 s0 create b
         9000 s0 create c
         9000 s0 rename d/a d/d
         9000 s0 rm d/b",
        &["b=4", "c=5", "d/", "d/c=3", "d/d=1"],
    );
    assert!(noted(&outcome, "s0 <- Overflow"));
}

/// Two names of one file are two nodes; a change through one name makes a version of both.
#[test]
fn s064_a_change_through_one_name_is_a_version_of_all() {
    tells(
        "seed 1 hosts 2 active 40000
         6000 s0 create a
         9000 s0 link a b
         14000 s0 edit a
         20000 s0 rm a
         26000 s0 edit b",
        &["b=3", "gone"],
    );
}

/// A directory that cannot be read, met by a whole scan: nothing in it is deleted or overwritten, work goes on elsewhere.
#[test]
fn s074_below_a_directory_that_cannot_be_read_nothing_is_deleted() {
    let outcome = tells(
        "seed 1 hosts 2 active 60000
         6000 s0 mkdir d
         6000 s0 create d/a
         6000 s0 create b
         12000 s0 hide d
         12500 s0 kill
         20000 s0 create c
         20000 s1 create e.txt",
        &["b=2", "c=3", "d/", "d/a=1", "e.txt=4"],
    );
    assert!(noted(&outcome, "Unreadable"));
}

/// The answer to any message is lost with its connection, be it a commit: what was taken is not sent again as new, and
/// nobody is in conflict with himself.
#[test]
fn s081_a_lost_answer_makes_no_conflict() {
    for nth in 1..=16 {
        let outcome = run(&format!(
            "seed 1 hosts 2 active 40000
             6000 s0 create a
             6000 s0 mkdir d
             9000 s0 edit a
             12000 s0 rename a d/b
             15000 s0 edit d/b
             18000 s0 rm d/b
             20000 s0 create c
             0 s0 lose-answer {nth}"
        ));
        assert_eq!(tree(&outcome), ["c=4", "d/", "gone"], "answer {nth}");
    }
}

/// Any message comes once more, up to seconds later: nothing happens twice.
#[test]
fn s082_a_message_that_comes_again_changes_nothing() {
    let story = "seed 1 hosts 2 active 40000
         6000 s0 create a
         6000 s0 mkdir d
         9000 s0 edit a
         12000 s0 rename a d/b
         15000 s0 edit d/b";
    let tree = run(story).tree;
    assert_eq!(tree.len(), 2);
    for nth in 1..=16 {
        for ms in [30, 5_000] {
            assert_eq!(
                run(&format!("{story}\n0 s0 repeat {nth} {ms}")).tree,
                tree,
                "message {nth} after {ms}"
            );
        }
    }
}

/// A server that was away, with a clock that went on for a month: deletions of files that nobody edited are done on both
/// sides, edits beat deletions, two edits are both kept.
#[test]
fn s083_after_a_month_apart_edits_are_united() {
    let story = "seed 1 hosts 2 active 60000
         6000 s0 mkdir d
         6000 s0 create d/a
         6000 s0 create d/b
         6000 s0 create c
         6000 s0 create e.txt
         13000 s1 jump 2592000000
         14000 s1 edit d/a
         14000 s1 rm c
         14000 s1 rm e.txt
         14000 s1 create b
         15000 s0 edit d/a
         15000 s0 rm d/b
         15000 s0 edit c";
    let story = format!("{story}{}", away(story, 1, 12_000, 12));
    tells(&story, &["b=6", "c=8", "d/", "d/a=5", "d/a-Cloud=7", "gone", "gone"]);
}

/// The state database is gone, and users went on while the agent was down: equal files are adopted, different ones are
/// both kept, and what is missing here comes back. A deletion that comes after both were
/// united is a deletion.
#[test]
fn s087_without_its_state_database_a_server_merges_and_deletes_nothing() {
    tells(
        "seed 1 hosts 2 active 60000
         6000 s0 create a
         6000 s0 create b
         6000 s0 create c
         15000 s1 forget
         15001 s1 edit a
         15001 s1 rm b
         20000 s0 rm c",
        &["a=4", "a-Cloud=1", "b=2", "gone"],
    );
}

/// A volume is put back from a backup, with the state database on it. A server that has sent nothing since is as one that
/// was away: newer versions arrive, deletions too.
#[test]
fn s092_a_volume_from_a_backup_is_as_if_it_had_been_away() {
    tells(
        "seed 1 hosts 2 active 60000
         6000 s0 create a
         6000 s0 create b
         12000 s1 checkpoint
         13000 s0 edit a
         13000 s0 rm b
         13000 s0 create c
         20000 s1 revert",
        &["a=3", "c=4", "gone"],
    );
}

/// A server that has sent something since the backup is noticed: versions of the share win over files that nobody has
/// changed since, real differences are both kept, and nothing is deleted.
#[test]
fn s092_a_volume_from_a_backup_deletes_and_overwrites_nothing() {
    tells(
        "seed 1 hosts 2 active 60000
         6000 s0 create a
         6000 s0 create b
         6000 s0 create d
         12000 s1 checkpoint
         13000 s0 edit a
         13000 s0 rm b
         13000 s1 create c
         20000 s1 revert
         20001 s1 edit d",
        &["a=4", "b=2", "c=5", "d=6"],
    );
}

/// An agent that was set back in time, after its own work had left: what it has done since is in the share and stays.
#[test]
fn s093_an_agent_that_was_set_back_takes_nothing_back() {
    tells(
        "seed 1 hosts 2 active 60000
         6000 s1 create a
         6000 s1 create b
         12000 s1 checkpoint
         13000 s1 edit a
         13000 s1 rm b
         13000 s1 create c
         20000 s1 revert",
        &["a=3", "b=2", "c=4"],
    );
}

/// The service is set back to a backup: what it has lost is offered again by those who have it, and nothing is deleted.
/// Nobody can tell an old content of the share from a new one then, so it is kept beside the newer.
#[test]
fn s095_what_a_service_lost_is_offered_again() {
    tells(
        "seed 1 hosts 2 active 60000
         6000 s0 create a
         6000 s0 create b
         12000 s0 backup
         13000 s0 edit a
         13000 s0 rm b
         13000 s0 create c
         20000 s0 set-back",
        &["a=3", "a-Cloud=1", "b=2", "c=4"],
    );
}

/// A server is added again with the files that it has: nothing is sent, nothing is deleted.
#[test]
fn s097_a_server_that_is_added_again_sends_nothing() {
    let outcome = tells(
        "seed 1 hosts 2 active 60000
         6000 s0 mkdir d
         6000 s0 create d/a
         6000 s0 create b
         15000 s1 forget",
        &["b=2", "d/", "d/a=1"],
    );
    assert!(!noted(&outcome, "s1 stores"));
}

/// A server with other files is added: both sides are united, nothing is overwritten or deleted.
#[test]
fn s098_a_server_with_other_files_is_united_with_the_share() {
    let outcome = run("seed 1 hosts 2 active 60000
         0 s0 create a
         0 s0 create b
         0 s1 mkdir d
         0 s1 create d/c
         100 s1 create a");
    let names = tree(&outcome);
    assert_eq!(names.len(), 5, "{names:?}");
    assert!(names.contains(&"a=4") && names.contains(&"b=2") && names.contains(&"d/c=3"), "{names:?}");
    assert!(names.iter().any(|name| name.starts_with("a-") && name.ends_with("=1")), "{names:?}");
}
