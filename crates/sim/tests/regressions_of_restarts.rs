//! As `regressions.rs`: stories of answers that were lost, several ends of an agent, walks beside changes, and files that take each other's
//! places.

mod told;

use polder_sim::stories::{stories, story_of};
use polder_sim::{Plan, run_twice};
use polder_types::zoo::Bug;

use told::passes;

/// A new file was offered while its directory was moved: it went with that, and the answer wrote its row just before the walk came to it, which had
/// nothing to tell. The file stayed gone, and was deleted in the share.
#[test]
fn regression_what_went_with_its_directory_while_it_was_offered_is_looked_for() {
    passes(story_of(Bug::GoneWhenAnswered));
}

/// A file changed while the tree was read, whose pages leave such a one to the feed. Before that was read the service was set back to before
/// the change: neither told of the file.
#[test]
fn regression_the_tree_is_whole_once_the_feed_was_read() {
    passes(story_of(Bug::TreeIsWholeWithoutFeed));
}

/// After a set-back the row of a directory was dropped, and the agent was killed: the next life found a directory that it did not know, and could
/// not read it. What the share changed in it meanwhile was nowhere, and counted as gone: a renamed file stayed beside the one that was placed
/// under its new name, and a deleted one came back.
#[test]
fn regression_what_is_in_a_directory_that_nobody_knows_yet_waits_for_it() {
    passes(story_of(Bug::AdriftBesideStrangers));
}

/// Half of a swap was told when the power went, and its answer lost. Somebody edited that half: the feed had the edit alone, the row stayed
/// at what had been there before, and the other half counted as an old version, and was replaced.
#[test]
fn regression_an_opening_tells_of_offers_that_others_have_edited_since() {
    passes(story_of(Bug::KeptAnswersIgnored));
}

/// The oracle: half of a swap was on the wire when the machine was set back, and with it the other half was gone.
#[test]
fn regression_what_is_on_the_wire_when_a_machine_is_set_back_is_half_told() {
    passes(
        "seed 703167 hosts 2 active 10000 queue 4 rows 100 slow
         1238 s0 mkdir c
         1312 s1 create d
         1906 s1 create a
         1997 s1 create c
         3944 s0 replace a
         3987 s0 create a/b
         4310 s1 checkpoint
         0 s1 lose-answer 1000003
         5480 s0 mode c 452
         6340 s0 mkdir a/c
         6340 s0 create a/a
         6594 s0 create c/c
         6854 s1 create e.txt
         7105 s0 edit c/c
         7187 s0 create a/c/a
         8392 s1 rename c a/c/d
         9342 s1 swap e.txt a/c/d/c
         9496 s1 revert",
    );
}

/// A directory was moved and another one made in its place, which took its id. The walk compared the moved one with the rows of that id:
/// what was in it was not told.
#[test]
fn regression_a_walk_compares_with_the_rows_of_whom_it_was_sent_to() {
    passes(story_of(Bug::WalkKnowsByInode));
}

/// A directory was removed and made anew; its row had the new inode before its listing was there, which had been compared with no rows:
/// a file that was gone stayed in the share.
#[test]
fn regression_a_directory_made_anew_is_compared_with_its_own_rows() {
    passes(
        "seed 932107 hosts 2 active 10000 queue 64 rows 100 power fanotify alone
         1129 s0 mkdir b
         2035 s0 mkdir b/d
         2442 s0 power 38054845066288
         2796 s0 create d
         3100 s0 create b/d
         5092 s0 create b/c
         5135 s0 mkdir b/b
         5403 s0 mkdir c
         6473 s0 create c/d
         6499 s0 rm b/d
         6632 s0 create b/b/a
         6736 s0 rename b c/b
         6736 s0 rm c/b/b
         7335 s0 create c/e.txt
         7768 s0 mkdir c/b/e.txt
         8719 s0 rm c/b/c
         8871 s0 mkdir c/b/b
         8871 s0 edit c/e.txt
         9091 s0 rm c/b
         9091 s0 replace c/e.txt
         9439 s0 mkdir c/b",
    );
}

/// A directory was removed here while the share had changed what was in it. Its deletion waited for the file, the file for the directory,
/// and looks at what was in it kept anybody from trying again.
#[test]
fn regression_nodes_that_wait_for_each_other_are_planned_together() {
    passes(story_of(Bug::WaitsInACircle));
}

/// A file was placed, its agent killed, and moved in the share; killed again, and deleted there. It stood where the first version was,
/// and counted as moved here, so that it came back.
#[test]
fn regression_of_versions_with_the_same_bytes_the_one_at_this_place_was_applied() {
    passes(
        "seed 937000 hosts 2 active 10000 queue 64 rows 100 fanotify small alone
         1705 s0 create b
         1963 s0 mkdir c
         2148 s0 create c/a
         2148 s0 create d
         2348 s0 mkdir c/e.txt
         3174 s0 rename d c/e.txt/b
         3826 s0 swap b c/e.txt/b
         3826 s0 create c/e.txt/d
         0 s1 crash-in 2 4
         5297 s0 create a
         5566 s0 edit c/a
         6383 s0 rm c/e.txt
         0 s1 crash-in 6 0",
    );
}

/// A version moved a file and gave it other bytes. The row was written after the first step and had the version's number; the agent was
/// killed after the second, and what stood there counted as an edit.
#[test]
fn regression_a_version_of_which_one_step_was_written_down_is_not_agreed() {
    passes(story_of(Bug::HalfAgreedIsAgreed));
}

/// Killed while it applied a version, and once more when a younger one had been read: of the younger one only the place was agreed, and
/// the older one forgotten, so that its bytes conflicted with the next.
#[test]
fn regression_of_several_versions_the_one_with_the_same_bytes_was_applied() {
    passes(story_of(Bug::YoungestLeftoverFirst));
}

/// The oracle: a displaced file that somebody had written to was put back, and the fact of that was on its way to the engine.
#[test]
fn regression_what_an_agent_has_put_back_it_hears_of_a_moment_later() {
    passes(
        "seed 906798 hosts 2 active 60000 queue 64 rows 100 fanotify
         1145 s1 create b
         4524 s0 create c
         5746 s0 edit b
         10254 s1 create a
         11116 s0 create b
         11116 s0 create d
         13946 s0 open b 454
         17541 s0 mode a 388
         17541 s0 rename b d
         18775 s0 create d
         21280 s1 mode a 388
         21280 s1 create d
         28951 s0 rename c b
         29021 s0 mode b 386
         36507 s1 create c
         40490 s0 create c
         46914 s0 put 454
         46914 s0 save d",
    );
}

/// The oracle: all was equal but for the time of a directory, which was on its way.
#[test]
fn regression_all_is_equal_only_when_nothing_is_on_its_way() {
    passes(
        "seed 901608 hosts 2 active 10000 queue 64 rows 100 fanotify stepwise
         1588 s1 create e.txt
         2139 s1 create b
         3324 s0 mkdir d
         3517 s0 create b
         3904 s1 rename e.txt a
         4632 s1 restart
         4956 s0 office b
         5131 s0 create e.txt
         5651 s1 create d/a
         5807 s1 mkdir d/c
         0 s0 repeat 12 540
         6331 s0 rename b-Cloud d/b
         9629 s0 rm a
         9629 s0 rm d",
    );
}

/// A walk of everything listed the root while a directory was moved in it: that was listed neither at its old place nor at its
/// new one, and an edit in it, the hint of which was lost, not seen. A seed, for its story goes another way.
#[test]
fn regression_a_directory_that_is_moved_by_a_user_beside_a_walk_is_listed() {
    let outcome = run_twice(&Plan::of(903_427));
    assert_eq!(outcome.failure, None);
}

/// The simulation: a batch of an original whose copy had been opened since was taken, so that the copy got its answer.
#[test]
fn regression_a_batch_asks_for_its_opening_again() {
    let outcome = run_twice(&Plan::of(903_784));
    assert_eq!(outcome.failure, None);
}

/// A rename was offered while somebody else had changed the content, and its answer was lost: the offer's row has the content that was agreed on
/// before, and was taken for what the share has. An edit here then went over the other's (a loss, 1015126).
#[test]
fn regression_an_offer_tells_only_of_what_it_changed() {
    passes(story_of(Bug::OfferRowIsWhole));
}

/// After a set-back the row of a directory was dropped while a walk that had told of it was on its way into it: it found no rows by its inode, and
/// what had been removed in it was not missed (1036543).
#[test]
fn regression_a_directory_whose_row_is_dropped_beside_a_walk_is_listed() {
    passes(
        "seed 1036543 hosts 3 active 10000 queue 4 rows 100 fanotify slow
         259 s1 mkdir d
         390 s1 mkdir b
         1958 s1 rename d e.txt
         2242 s2 mkdir d
         3397 s0 symlink d/c 0
         3397 s0 create d/b
         3612 s1 backup
         3698 s0 office d/b
         5082 s1 set-back
         5514 s1 rm d/c",
    );
}

/// A file was deleted, and the answer lost with the life. The next life heard of it before its walk came by: what the row had said counted as what
/// stood on the disk, and was created anew (1031931).
#[test]
fn regression_what_was_deleted_before_this_life_does_not_stand_here() {
    passes(story_of(Bug::OfferedStandsAsBefore));
}

/// Whatever shows a bug of the zoo shows nothing without it.
#[test]
fn every_story_of_the_zoo_passes() {
    for (_, story) in stories() {
        passes(story);
    }
}

/// A time was set on what a cut-off apply had left: it counted as the version's. (It speaks no more since looks at directories are drawn otherwise;
/// the engine's test of it does.)
#[test]
fn regression_a_time_that_was_set_on_a_leftover_is_sent() {
    passes(
        "seed 1027320 hosts 3 active 60000 queue 64 rows 100 stepwise
         1123 s0 mkdir e.txt
         0 s0 lose-answer 4
         0 s0 lose 6
         3864 s2 rename e.txt d
         0 s2 lose 6
         4291 s1 mkdir d/c
         4604 s2 create c
         5330 s0 create a
         7348 s1 symlink d/b 0
         0 s2 lose 14
         8107 s1 save c
         8147 s1 swap a c
         0 s0 crash-in 4 0 128187409506592
         0 s2 lose-answer 15
         11619 s2 rm a
         11660 s0 edit a
         11681 s1 rm a
         12030 s0 mode / 450
         12394 s0 create b
         12408 s0 rm d/b
         12423 s1 rm d/c
         12554 s0 create d/c/e.txt
         0 s2 lose 19
         0 s1 lose-answer 25
         0 s0 lose 18
         0 s1 lose-answer 30
         0 s0 crash-in 5 0
         19193 s0 mkdir d/a
         0 s1 lose-answer 34
         22207 s0 mode a 385
         22209 s1 replace b
         0 s1 crash-in 12 0 13161863459968
         24120 s0 swap d/c/e.txt a
         24183 s1 time a 1707356119",
    );
}

/// A directory that a cut-off apply had made in the place of another one, which the share had deleted, was taken for that one. (As above.)
#[test]
fn regression_a_directory_that_is_a_leftover_is_the_shares() {
    passes(
        "seed 1080684 hosts 3 active 60000 queue 64 rows 100 damage fanotify stepwise small alone
         354 s0 create d
         3178 s0 create e.txt
         3178 s0 create a
         0 s0 repeat 2 5396
         0 s2 crash-in 3 0
         9653 s0 kill
         10848 s0 rm e.txt
         12628 s0 save a
         14062 s0 mode / 453
         15348 s1 kill
         16705 s0 save d
         0 s2 crash-in 9 1
         19289 s0 create c
         19289 s0 rename d e.txt
         19289 s0 create e.txt
         0 s1 repeat 12 3437
         25599 s0 mkdir d
         25757 s0 save e.txt
         25757 s0 create d/e.txt
         27845 s0 mkdir d/d
         27845 s0 rename d/e.txt d/d/b
         28703 s1 kill
         29002 s0 rename c d/c
         29564 s0 mkdir d/d/c
         34373 s0 mkdir d/d/a
         34373 s0 rename e.txt d/c
         35817 s0 rename d/d d/e.txt
         38349 s0 rm d
         38349 s0 office a
         0 s1 crash-in 24 1
         41126 s0 rename a e.txt
         41802 s0 create b
         42598 s0 mkdir d
         43601 s0 create a
         0 s1 crash-in 28 1
         45430 s0 edit e.txt
         46361 s0 symlink d/d 2
         0 s1 crash-in 29 2",
    );
}

/// A file was moved over another one, and from there under the name that the share had given to the node it came from: it counted as that
/// node's old version, and was replaced, while the node that it had become was deleted. Its bytes were gone from the share.
#[test]
fn regression_an_inode_is_of_the_node_that_had_it_last() {
    passes(story_of(Bug::InodeOfWhoHadItFirst));
}

/// The same, but that it was moved back under its first name: it became the old version of the node that had left that name. As an edit of that
/// node the same bytes were none.
#[test]
fn regression_who_brings_the_same_bytes_keeps_its_id() {
    passes(story_of(Bug::SameBytesChangeIds));
}

/// The oracle: a file got a second name, its permissions were changed through that, and it was gone, all before anybody looked. The kernel
/// tells that name alone: the next walk of everything finds the change.
#[test]
fn regression_what_was_changed_through_a_name_that_nobody_saw_is_found_by_a_walk() {
    passes(
        "seed 2037761 hosts 2 active 60000 queue 64 rows 100 alone
         12147 s0 mkdir d
         12147 s0 create b
         25222 s0 mkdir c
         25650 s0 rename b d/e.txt
         40930 s0 replace d/e.txt
         42516 s0 create d/e.txt/b
         44415 s0 rename d/e.txt c/e.txt
         48677 s0 link c/e.txt/b d/d
         48677 s0 mode d/d 390
         48677 s0 rm d/d",
    );
}

/// An agent was killed between a file and its row, and its folder was away while the share deleted the file. The deleted node waited for the walk, and what the walk
/// then found was not taken for it, since it waited: the file came back everywhere.
#[test]
fn regression_what_an_apply_left_is_found_by_the_node_that_waits_for_it() {
    passes(
        "seed 10027450 hosts 2 active 60000 queue 64 rows 100 tiers 2 damage alone slow
         563 s0 create c
         0 s1 crash-in 1 1
         4702 s1 unmount
         4922 s0 rm c",
    );
}

/// A directory was made by an apply that was cut off, and its permissions changed in the share. The next life was killed before it had written
/// down which version stood there: the youngest was taken for it, and the old permissions for a user's own (5203234).
#[test]
fn regression_of_versions_of_a_directory_the_one_with_its_permissions_was_left() {
    passes(
        "seed 5203234 hosts 3 active 10000 queue 64 rows 100 fanotify alone
         369 s0 mkdir e.txt
         2147 s0 create e.txt/d
         0 s2 crash-in 1 1
         4235 s0 mode e.txt 453
         6945 s0 rename e.txt/d e.txt/e.txt
         0 s2 crash-in 2 1",
    );
}

/// A rename into a directory that cannot be read any more was told, and its answer lost with the agent. The next life found the file gone from its old place, and could not see its
/// new one: when the directory could be read again, it was as the row said, which tells nothing, and the file was deleted in the share.
#[test]
fn regression_what_cannot_be_read_for_a_while_is_looked_at_after_it() {
    passes(story_of(Bug::ThawedCountsAsBefore));
}
