//! Stories that failed once, as the simulator shortened them: each must pass for ever.
//!
//! A story is read by `Plan::told`. It goes on telling what it told as long as the delays that its seed draws stay the
//! same; the defect itself is described where it was mended.

mod told;

use polder_sim::stories::story_of;
use polder_types::zoo::Bug;

use told::passes;

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
    passes(story_of(Bug::DroppedRowForgetsFile));
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

/// The reading of the whole tree was broken off and begun anew. What had been read of a node that was deleted meanwhile
/// stayed, and the node was placed on the disk for good.
#[test]
fn regression_the_whole_tree_read_anew_forgets_what_was_read_before() {
    passes(
        "seed 355 hosts 2 active 10000 queue 64 rows 2
         1671 s1 create c
         1846 s1 mkdir d
         1900 s1 mkdir d/d
         2534 s1 rm d
         0 s0 lose-answer 4",
    );
}

/// A directory was removed with all that was in it and made anew while the agent was down. The walk knew no row of the
/// new one, found nothing in it and told nothing: what had been in the old one was thought to be there.
#[test]
fn regression_a_directory_in_the_place_of_another_is_listed() {
    passes(
        "seed 166 hosts 2 active 60000 queue 64 rows 100
         6574 s0 symlink a 0
         12909 s1 mkdir d
         13257 s0 hide d
         14749 s0 kill
         22809 s1 create d/e.txt
         0 s1 repeat 9 6232
         23689 s0 rename d b
         32007 s0 create d
         32007 s0 link d c
         0 s1 crash-in 3 0 46885209997526
         34350 s1 rm d
         35911 s1 mkdir d",
    );
}

/// A directory was renamed while the first scan was on its way to it: it was passed over, with what had come into it
/// before the start.
#[test]
fn regression_a_directory_that_moves_during_the_scan_is_scanned() {
    passes(
        "seed 713 hosts 3 active 2000 queue 64 rows 100
         590 s2 create d
         1043 s2 rename d c
         1043 s2 mkdir e.txt
         1106 s2 rename c e.txt/e.txt
         1204 s2 rename e.txt c",
    );
}

/// A new directory that cannot be read is in the share all the same. Then its problem was taken for solved, and all was
/// said to be in sync.
#[test]
fn regression_an_unreadable_directory_is_told_until_it_can_be_read() {
    passes(
        "seed 1079 hosts 2 active 2000 queue 64 rows 100
         1697 s0 mkdir d
         1720 s0 mkdir d/e.txt
         1725 s0 hide d",
    );
}

/// The share had taken a file that was not durable here yet; the answer came after the power cut. The next start took
/// the file that was lost for one that a user had deleted.
#[test]
fn regression_what_the_share_was_told_is_not_lost_by_a_power_cut() {
    passes(
        "seed 530 hosts 3 active 60000 queue 64 rows 100 power
         15196 s2 mkdir b
         20112 s2 mkdir b/c
         20570 s0 create a
         20570 s0 create b/d
         20782 s0 power 206386327021554",
    );
}

/// The first pages of an answer came, the service was set back, and the cursor of before these pages fitted.
#[test]
fn regression_pages_of_a_history_that_is_gone_are_noticed() {
    passes(
        "seed 4943 hosts 2 active 10000 queue 64 rows 2 power skew expiry reuse
         917 s0 mkdir a
         2403 s0 create c
         0 s0 lose-answer 2
         3543 s0 mkdir a/e.txt
         3543 s0 replace c
         3706 s1 backup
         0 s0 lose 5
         4102 s0 clone
         0 s1 lose-answer 5
         0 s1 lose 6
         0 s2 repeat 6 1850
         7305 s1 set-back",
    );
}

/// The id of a conflict copy follows from a number of the history; after a set-back it named a copy that was there, and
/// the conflict was refused for ever.
#[test]
fn regression_a_conflict_copy_may_exist_already() {
    passes(
        "seed 5883 hosts 2 active 10000 queue 64 rows 100
         877 s1 create c
         2767 s0 edit c
         0 s1 crash-in 1 0 168963429274988
         6463 s1 create c
         7550 s0 backup
         9966 s0 set-back",
    );
}

/// After a set-back another server brought back an old version of a file, under a number above the one that the lost
/// history had for the newest. The newest was taken for its base, and replaced.
#[test]
fn regression_a_newer_number_of_another_history_proves_nothing() {
    passes(
        "seed 4857 hosts 3 active 10000 queue 4 rows 2
         1439 s1 create e.txt
         1678 s1 create b
         2682 s2 create d
         2791 s0 create d
         2791 s0 office d
         0 s0 lose-answer 3
         3236 s0 rename d b
         3395 s2 link d c
         4143 s0 office b
         4222 s1 backup
         0 s2 lose 4
         5287 s2 mode / 449
         5287 s2 rm c
         5842 s2 restart
         6211 s1 office b
         7102 s2 copy d c
         0 s2 lose-answer 8
         7345 s1 rm b
         8025 s2 replace c
         8339 s2 save d
         8921 s0 kill
         9011 s1 set-back",
    );
}

/// As above, with the old version coming by the feed after the tree was read.
#[test]
fn regression_what_comes_back_after_a_set_back_is_no_base() {
    passes(
        "seed 9570 hosts 2 active 10000 queue 64 rows 2 stepwise
         1017 s0 create c
         2668 s0 backup
         3752 s0 create a
         3752 s0 mkdir d
         4692 s0 save a
         4722 s1 create e.txt
         0 s1 lose 8
         5283 s0 create a
         5283 s0 mode / 449
         6082 s0 set-back",
    );
}

/// A power cut came between the removal of a directory's row and that of a row in it. The orphan was a problem for ever:
/// its place in the tree was not known.
#[test]
fn regression_a_row_that_outlived_its_directory_is_settled() {
    passes(
        "seed 1303 hosts 3 active 60000 queue 64 rows 100 power
         12137 s2 create e.txt
         14343 s0 create d
         0 s1 crash-in 4 1 251922043533311
         30319 s1 office d
         30481 s1 rename d c
         30856 s2 create b
         32025 s1 mkdir a
         32025 s1 mkdir a/e.txt
         34234 s1 symlink a/e.txt/b 3
         34234 s1 replace e.txt
         34937 s1 create c
         37027 s1 rm c
         38216 s0 rm b
         38820 s0 rm a/e.txt/b
         41389 s2 mkdir b
         41389 s2 create a/e.txt/a
         44265 s0 mkdir b/b
         44265 s0 create e.txt/b
         48582 s0 create e.txt/a
         48651 s2 rm b
         0 s1 crash-in 15 1
         0 s1 crash-in 16 2 124096656727793
         53964 s1 backup
         56954 s1 set-back",
    );
}

/// An agent was killed after it had made a directory and before that was durable. The next life found the directory as the
/// share has it and wrote that down; then the power went, and the directory with it: its loss was told as a deletion.
#[test]
fn regression_what_is_agreed_without_a_message_is_durable_first() {
    passes(
        "seed 400443 hosts 2 active 60000 queue 4 rows 100 power expiry stepwise small
         2092 s1 create a
         6718 s0 clone
         0 s2 lose-answer 2
         16386 s0 time a 1981564895
         16386 s0 mkdir c
         0 s1 lose 6
         23174 s0 rm c
         23174 s0 rm a
         24506 s2 mkdir d
         24506 s2 mkdir d/c
         0 s0 lose 24
         0 s2 lose-answer 10
         0 s0 lose-answer 26
         0 s1 lose 7
         0 s0 lose-answer 30
         28318 s0 restart
         32133 s2 create b
         0 s1 lose-answer 13
         43782 s2 rm d
         0 s1 crash-in 6 1
         0 s0 crash-in 8 1 250130215508127
         46685 s2 rm a
         0 s1 lose-answer 21
         0 s0 lose-answer 36
         51290 s0 create d/e.txt
         0 s0 lose-answer 39
         0 s1 crash-in 11 2
         0 s1 crash-in 13 0 182135698711230",
    );
}

/// Permissions were changed through one name of a file with two, and that name was gone before anybody looked: the other
/// name was not looked at.
#[test]
fn regression_a_name_that_is_gone_may_have_told_of_another() {
    passes(
        "seed 31064 hosts 2 active 60000 queue 64 rows 100
         15206 s1 mkdir c
         35971 s0 create c/d
         37226 s0 link c/d c/a
         39017 s0 mode c/d 385
         39017 s0 rm c/d",
    );
}

/// A new file was removed while it was offered, and the queue overflowed. The walk found nothing where no row said anything,
/// and told nothing; then the share took the file, and all was said to be in sync.
#[test]
fn regression_after_lost_hints_what_no_row_knows_is_looked_at() {
    passes(
        "seed 107602 hosts 3 active 60000 queue 4 rows 100
         10686 s1 empty a
         14619 s1 rename a c
         15771 s0 create c
         23468 s2 mkdir e.txt
         33816 s0 mkdir a
         41847 s0 mkdir e.txt/e.txt
         42939 s2 create e.txt/e.txt/c
         56324 s0 create a/c
         56517 s0 rm a/c
         56517 s0 edit e.txt/e.txt/c
         56517 s0 save c-s0",
    );
}

/// A new file could not be stored, and took an old one's id then: the problem stayed with the id that was gone.
#[test]
fn regression_a_problem_ends_with_the_id_that_had_it() {
    passes(
        "seed 202015 hosts 2 active 10000 queue 64 rows 100
         6756 s1 mkdir b
         6926 s1 create b/d
         7242 s1 create b/e.txt
         7398 s1 edit b/e.txt
         7500 s0 restart
         7859 s1 swap b/d b/e.txt
         8445 s1 replace b/e.txt",
    );
}

/// A directory was seen to be gone, with a file in it of which an edit was on its way, and then found under its new place.
/// The walk found the file as the share's answer had just written it down, and told nothing: it stayed gone, and was deleted
/// in the share.
#[test]
fn regression_what_is_in_a_directory_that_is_back_is_back_too() {
    passes(
        "seed 400974 hosts 3 active 10000 queue 64 rows 100 damage stepwise
         1714 s2 create c
         1714 s2 mkdir a
         1765 s0 mkdir b
         2651 s0 create a/b
         3214 s0 create c
         3223 s1 create c
         5258 s0 edit a/b
         5653 s0 create a/b
         5653 s0 mode c 389
         0 s0 lose 1000004
         5981 s0 replace c
         5981 s0 rename a c/c",
    );
}

/// A program wrote to a file that the filter leaves out, after its directory had been deleted elsewhere: the file lies in
/// the recycle area, and no share has what is in it. The oracle missed it.
#[test]
fn regression_what_is_left_out_is_not_missed_in_the_recycle_area() {
    passes(
        "seed 411217 hosts 2 active 60000 queue 64 rows 100
         5652 s0 mkdir e.txt
         5652 s0 create e.txt/x.tmp
         9311 s0 open e.txt/x.tmp 840
         9563 s1 rm e.txt
         29208 s0 put 840",
    );
}

/// After a re-baseline a directory was taken for one of the share again, under whose id rows had stayed. A file in it had
/// been removed while the agent was down; the walk had not known the rows, and nobody compared them.
#[test]
fn regression_an_adopted_directory_is_compared_with_the_rows_below_it() {
    passes(
        "seed 400101 hosts 3 active 60000 queue 64 rows 2 fanotify
         5801 s1 restart
         6358 s2 create c
         6358 s2 create a
         7712 s0 mkdir e.txt
         0 s0 crash-in 2 0 6940622016362
         0 s0 crash-in 3 2 259442113292657
         13278 s0 create e.txt/e.txt
         13798 s2 edit a
         15063 s2 rename a e.txt/b
         15063 s2 rm c
         0 s2 crash-in 2 1
         18186 s1 replace e.txt/e.txt
         0 s2 crash-in 7 0
         31969 s1 backup
         33448 s2 rm e.txt/e-s2.txt
         35862 s1 set-back
         40608 s2 rm e.txt/b",
    );
}

/// A crash came between the removal of a directory's row and that of a row in it, which the share had deleted. It was taken
/// for present, and its removal was planned and dropped for ever.
#[test]
fn regression_a_row_whose_directory_has_none_is_gone() {
    passes(
        "seed 417149 hosts 3 active 60000 queue 64 rows 100 fanotify
         0 s1 lose-answer 2
         4928 s1 backup
         7806 s2 mkdir d
         9846 s1 set-back
         10216 s1 create b
         0 s1 lose-answer 7
         0 s1 lose 15
         15372 s0 replace b
         15372 s0 mkdir e.txt
         16540 s1 rm b
         0 s1 repeat 17 9042
         19858 s1 mkdir e.txt/d
         19858 s1 rename e.txt d/b
         0 s0 repeat 23 1234
         0 s1 repeat 24 2340
         25093 s1 rename d b/b
         29609 s0 rm b
         0 s1 crash-in 4 1
         0 s1 crash-in 6 1",
    );
}

/// A receiver was killed when it had placed a file and had not written its row. When it was back the share had the next
/// version: what the apply had left counted as somebody's own, and a conflict copy of it went to the share.
#[test]
fn regression_what_a_killed_apply_left_is_known_when_the_share_has_moved_on() {
    passes(story_of(Bug::LeftoverForgotten));
}

/// A receiver was killed when it had made a directory and another one in it, and the share moved the inner one away meanwhile: what was left of it counted as somebody's.
#[test]
fn regression_what_a_killed_apply_left_in_a_directory_that_it_made_is_known() {
    passes(story_of(Bug::LeftoverBelowStrangers));
}

/// A receiver was killed when it had exchanged two files of two directories. The walk of the next life saw one of them first: it counted as an edit of the one
/// that had stood there, and the share's file, moved on by then, took the other one's bytes.
#[test]
fn regression_two_files_that_have_changed_places_are_seen_together() {
    passes(
        "seed 50116173 hosts 3 active 60000 queue 64 rows 100 tiers 2 alone arrive
         1001 s0 create c
         3549 s0 rm c
         4551 s2 restart
         5507 s0 mkdir e.txt
         7467 s0 mkdir a
         17589 s0 create e.txt/e.txt
         0 s0 lose 19
         0 s2 lose-answer 9
         21204 s0 edit e.txt/e.txt
         0 s2 lose-answer 12
         21887 s0 edit e.txt/e.txt
         0 s2 lose 14
         24712 s0 create a/a
         25360 s0 power 68198660657768
         26031 s0 create e.txt/d
         0 s0 lose-answer 35
         29271 s0 create e.txt/d
         0 s2 crash-in 11 0
         29495 s2 restart
         0 s2 lose-answer 22
         0 s0 lose-answer 43
         36732 s0 rm e.txt/e.txt
         37789 s0 mkdir e.txt/e.txt
         38024 s0 mkdir e.txt/e.txt/b
         41187 s0 rm e.txt/d
         41234 s0 create e.txt/e.txt/e.txt
         43828 s0 swap e.txt/e.txt/e.txt a/a
         43828 s0 create e.txt/e.txt/a
         0 s0 lose-answer 64
         44387 s2 kill
         45184 s0 rm e.txt/e.txt/b
         47633 s0 rename e.txt/e.txt e.txt/a
         48238 s0 create e.txt/a/e.txt
         48242 s0 mkdir e.txt/a/d
         48619 s0 swap e.txt/a/a e.txt/a/e.txt
         49320 s0 swap e.txt/a/e.txt a/a
         0 s2 crash-in 22 1",
    );
}

/// A new directory was moved while a name in it was looked at, and united with the share's: the answer, that it was not there, was about an id that nobody had any more.
#[test]
fn regression_names_in_a_directory_that_gets_its_id_are_looked_at_again() {
    passes(story_of(Bug::FlyingLooksLoseTheirDirectory));
}

/// A directory was removed, and made again while the deletion of what had been in it was on its way: the file stood there for ever, as far as its server said.
#[test]
fn regression_what_is_being_deleted_does_not_come_back_with_its_directory() {
    passes(story_of(Bug::ReturnsWithItsDeleted));
}

/// A file was renamed away, another one made in its place, and the first renamed back over it. It took the id of the other one,
/// whose state was inherited by its own: both were thought to stand there, one of them with the other's bytes.
#[test]
fn regression_a_file_that_comes_back_keeps_its_id() {
    passes(story_of(Bug::ReturnTakesOtherId));
}

/// Directories that had been deleted here came back for a file that was edited elsewhere. Another file's deletion was on its
/// way: its row said that it stood in the new directory, and when the row was gone it counted as a new file.
#[test]
fn regression_a_directory_that_is_made_anew_is_empty() {
    passes(story_of(Bug::MadeDirectoryIsFull));
}

/// The root's permissions were changed elsewhere before any endpoint had said a word of the root: the change counted as
/// agreed, and what stood here as a newer one.
#[test]
fn regression_the_first_change_of_the_root_is_a_change() {
    passes(story_of(Bug::EveryRootIsTheFirst));
}

/// Two rows told of one name, of which one node had left and the other come, when the name was empty: one alone was gone.
#[test]
fn regression_nobody_stands_under_an_empty_name() {
    passes(story_of(Bug::OneLeavesTheName));
}

/// A file was renamed, and the look at its new name was answered before the older one at its old name: the file went back to
/// where it was not, and was forgotten.
#[test]
fn regression_a_place_that_a_node_has_left_is_looked_at_again() {
    passes(story_of(Bug::LeftPlaceNotLookedAt));
}

/// The row of what was offered was lost with the power, and a directory made in its place. When the feed told that the offer
/// had been taken, the file counted as standing there, and the directory was renamed.
#[test]
fn regression_an_offer_does_not_stand_where_somebody_else_does() {
    passes(
        "seed 511510 hosts 2 active 10000 queue 64 rows 100 fanotify alone
         4821 s0 create b
         5616 s0 power 94222639951
         7315 s0 replace b",
    );
}

/// A directory moved while its creation was being sent: it had two rows, one of which was gone. Hints went to that one.
#[test]
fn regression_of_two_nodes_with_one_inode_the_one_that_stands_is_told() {
    passes(story_of(Bug::GoneBeforeThatWhichStands));
}

/// What a cut-off apply had left was about to be deleted when a file of its name came: the file got another name in the share.
#[test]
fn regression_a_node_does_not_yield_to_one_whose_fate_is_not_known() {
    passes(story_of(Bug::YieldsToTheBusy));
}

/// A deletion was sent, its row lost with the power, and a new directory made: it was taken for the deleted one and removed.
#[test]
fn regression_a_deletion_whose_answer_was_lost_was_taken() {
    passes(story_of(Bug::LostAnswerOfDeletionIgnored));
}

/// The time of the root had been applied when the agent was killed. Its permissions, which stand here in another form than in
/// the share, counted as changed.
#[test]
fn regression_a_leftover_keeps_what_was_agreed_in_another_form() {
    passes(
        "seed 516519 hosts 2 active 60000 queue 64 rows 100 fanotify alone
         2085 s0 mode / 454
         0 s1 repeat 2 6449
         10783 s0 create c
         13934 s0 rm c
         14210 s0 mkdir e.txt
         0 s1 crash-in 6 1
         17135 s0 mkdir c",
    );
}

/// An agent was killed when it had placed a directory and a file in it: the file was forgotten before its directory was known
/// again.
#[test]
fn regression_a_leftover_waits_for_its_directory() {
    passes(
        "seed 515907 hosts 3 active 10000 queue 64 rows 100 alone
         19 s0 mkdir e.txt
         750 s0 rename e.txt b
         2140 s0 create b/d
         3337 s0 create b/d
         3352 s2 restart
         0 s1 crash-in 1 7",
    );
}

/// Two files in two directories had been exchanged when the agent was killed. The walk saw one after the other, and took them
/// for two edits.
#[test]
fn regression_an_exchange_that_was_cut_off_is_no_edit() {
    passes(
        "seed 526201 hosts 2 active 10000 queue 64 rows 100 fanotify alone
         832 s0 mkdir a
         1103 s0 rename a d
         1318 s0 create d/c
         3241 s0 create b
         5461 s0 swap b d/c
         0 s1 crash-in 4 4",
    );
}

/// A directory that had been hidden was moved, as the share said, while a walk passed by: what had been made in it meanwhile
/// was not seen.
#[test]
fn regression_a_directory_that_is_moved_beside_a_walk_is_listed() {
    passes(story_of(Bug::WalkPassesTheMoved));
}

/// A file was placed over another one that the share had deleted, and the agent killed: what stood there counted as an edit of the
/// deleted one, which came back.
#[test]
fn regression_what_was_placed_over_another_is_not_its_edit() {
    passes(
        "seed 705034 hosts 3 active 60000 queue 64 rows 100 fanotify alone
         4098 s0 create d
         11294 s0 rename d c
         11294 s0 edit c
         0 s2 crash-in 2 2
         13516 s0 create e.txt
         0 s2 repeat 9 3673
         22762 s0 rename c a
         22762 s0 create b
         0 s2 crash-in 10 0
         24827 s0 rename b c
         27454 s0 swap a c
         31973 s0 mkdir d
         0 s2 crash-in 17 0
         34605 s0 rm c
         0 s2 crash-in 18 1
         37139 s0 create c",
    );
}

/// The volume was away while one look was made, and back before anybody had noticed: a removal was missed.
#[test]
fn regression_what_a_look_at_an_absent_volume_was_for_is_looked_at_again() {
    passes(
        "seed 822697 hosts 2 active 2000 queue 64 rows 100
         203 s1 mkdir b
         1627 s1 rm b
         1639 s1 unmount",
    );
}

/// A new file had been moved into a directory about which nothing differed, and was not in the share yet, when all above it was removed. It counted as standing there:
/// its directories came back.
#[test]
fn regression_what_is_new_deep_in_a_directory_goes_with_it() {
    passes(story_of(Bug::StaysInAgreedDirectories));
}

/// A directory returned in which a file had been replaced before it went: the row of the one that had stood there held beside the other, which got a conflict's name.
#[test]
fn regression_what_was_replaced_before_its_directory_went_does_not_return_with_it() {
    passes(
        "seed 10043005 hosts 2 active 60000 queue 64 rows 100 alone far
         22644 s0 mkdir e.txt
         24996 s0 mkdir e.txt/b
         26832 s0 create e.txt/b/c
         27363 s0 create d
         32976 s0 create e.txt/a
         32976 s0 replace e.txt/b/c
         33511 s0 rm e.txt/a
         35276 s0 replace d
         35276 s0 rename e.txt d/e.txt",
    );
}
