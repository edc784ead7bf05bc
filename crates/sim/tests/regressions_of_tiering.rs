//! As `regressions.rs`: stories of runs that tier, as the simulator shortened them.

mod told;

use polder_sim::stories::story_of;
use polder_types::zoo::Bug;

use told::passes;

/// The oracle: a power cut had left zeros in a file that its user had not made durable, and these were uploaded. They arrived as a placeholder of nothing but
/// a hole, were recalled, and counted as what a second cut had left of them.
#[test]
fn regression_the_zeros_of_a_users_file_are_its_content() {
    passes(
        "seed 2029968 hosts 2 active 60000 queue 64 rows 100 tiers 3 power skew damage fanotify arrive
         5728 s0 create c
         6840 s1 rename c b
         7770 s0 restart
         8227 s1 cut b
         8331 s1 edit b
         8365 s0 tier c
         9044 s1 power 227998751069663
         0 s0 lose-answer 5
         10042 s0 mkdir a
         11255 s0 save c
         0 s0 lose-answer 6
         13776 s1 create e.txt
         13958 s1 tier c
         18831 s1 read c-Cloud 2 1
         19686 s1 tier e.txt
         26003 s1 edit e.txt
         28866 s1 tier c-Cloud
         29557 s1 tier e.txt
         0 s1 cut-off 7 3 147800624651041",
    );
}

/// As the one before, with a copy of such a file.
#[test]
fn regression_a_copy_of_zeros_arrives_as_a_hole() {
    passes(
        "seed 2031308 hosts 2 active 60000 queue 64 rows 100 tiers 3 power stepwise arrive
         7916 s0 create d
         7916 s0 create c
         9011 s0 mkdir a
         9619 s0 tier c
         11090 s0 cut c
         11799 s1 create b
         12430 s0 tier c
         13737 s1 kill
         14595 s0 tier c
         16222 s0 create d
         17792 s0 tier d
         19950 s0 tier c
         20109 s0 tier b
         20213 s0 cut b
         21418 s1 tier c
         21842 s0 tier b
         22629 s1 copy d c
         22629 s1 edit c
         0 s1 cut-off 2 1 77411800643696
         25231 s0 tier d
         26760 s0 tier d
         26806 s1 rename c a/e.txt
         26806 s1 copy a/e.txt a/b
         0 s0 cut-off 11 3 219286951042440
         28752 s0 recall a/b",
    );
}

/// The simulation: a hole of a sparse file was to need room on a full disk, and that it did not get it was passed over.
#[test]
fn regression_a_hole_needs_no_room() {
    passes(
        "seed 2010887 hosts 2 active 10000 queue 64 rows 100 tiers 3 fanotify
         536 s1 hide /
         1524 s0 create b
         5666 s0 backup
         6427 s1 tier b
         6666 s1 room 1020
         6885 s0 cut b
         8474 s0 set-back
         9863 s1 read b 0 200",
    );
}

/// As the story of `MarksOutlastTheMerge`; here the placeholder was put aside by an apply, as a conflict copy of a swap.
#[test]
fn regression_a_conflict_copy_that_is_a_placeholder_is_nobodys_leftover() {
    passes(
        "seed 2011646 hosts 3 active 60000 queue 4 rows 100 tiers 7 fanotify arrive far
         6502 s2 mkdir d
         23420 s1 mkdir d/a
         41678 s0 create d/a/c
         48698 s0 create d/b
         48698 s0 create d/d
         48698 s0 office d/a/c
         56255 s1 rename d/a/c d/d
         56573 s2 swap d/d d/b",
    );
}

/// As `regression_a_recalled_file_is_stored_anew_when_the_share_has_lost_it`, with a copy that a conflict had made.
#[test]
fn regression_a_recalled_file_is_stored_anew_when_the_share_has_lost_it_and_its_name() {
    passes(
        "seed 2016226 hosts 2 active 10000 queue 64 rows 100 tiers 3 damage fanotify arrive
         1117 s0 create b
         1337 s0 cut b
         3284 s0 create e.txt
         3528 s0 edit b
         0 s0 lose-answer 7
         4272 s0 create d
         5790 s0 backup
         6482 s1 empty d
         8673 s0 read d-Cloud 0 1178
         9098 s0 set-back
         9136 s1 rm d-Cloud",
    );
}

/// As `regression_a_file_that_is_behind_does_not_leave`; what was read of the feed had counted as applied as well.
#[test]
fn regression_a_file_that_is_behind_stays_with_the_root_hidden() {
    passes(
        "seed 2014810 hosts 2 active 60000 queue 64 rows 100 tiers 7 prune history far
         23601 s0 create c
         23601 s0 create d
         25720 s0 edit c
         25720 s0 save d
         26889 s1 hide /
         29525 s0 rm d
         35502 s1 tier c",
    );
}

/// A directory's row was gone, and rows of two below it were not: the one deeper down had a row above it, and was taken for present, planned and dropped for ever.
#[test]
fn regression_rows_that_lead_nowhere_go_with_all_below() {
    passes(
        "seed 2029633 hosts 3 active 60000 queue 64 rows 100 tiers 7 arrive
         12200 s2 mkdir c
         16185 s0 mkdir c/b
         16185 s0 create c/b/a
         24154 s2 hide c/b
         27025 s2 read c/b/a 0 1
         27643 s0 rm c
         31930 s2 rm c/b
         58318 s2 power 34733787265407",
    );
}

/// A user moved a placeholder and made another file in its place, which took its node. The mark still named that node: what was moved counted as left over
/// from a move in the share, and was removed: its bytes were no file's any more.
#[test]
fn regression_a_placeholder_that_was_moved_is_nobodys_leftover() {
    passes(story_of(Bug::MarksOutlastTheMerge));
}

/// The share was set back to before a file that had just been recalled. It was offered, refused for its missing chunks, and offered again without being read,
/// for ever: what has been recalled counted as stored.
#[test]
fn regression_a_recalled_file_is_stored_anew_when_the_share_has_lost_it() {
    passes(
        "seed 2052062 hosts 3 active 60000 queue 64 rows 100 tiers 7 fanotify arrive
         8638 s0 create c
         9270 s2 replace c
         16649 s0 mode / 449
         17224 s0 backup
         17328 s0 create a
         0 s2 lose-answer 14
         17888 s1 recall a
         18687 s0 set-back
         20046 s0 rm a",
    );
}

/// A directory could not be read, so the newer version waited, and the older one was let go by the share's history: the file here was given up nevertheless.
#[test]
fn regression_a_file_that_is_behind_does_not_leave() {
    passes(
        "seed 2004851 hosts 3 active 60000 queue 64 rows 100 tiers 7 prune history
         4166 s2 create b
         6443 s1 create d
         6443 s1 hide /
         22670 s2 save b
         30861 s1 tier b",
    );
}

/// A placeholder stood for an older version that waited to be replaced, and the feed had been read further: the share let that version go.
#[test]
fn regression_a_placeholder_that_is_behind_is_held() {
    passes(story_of(Bug::PinIsWhatWasRead));
}

/// A server was killed between a placeholder and its row, and before it had told of either. The share let the version go meanwhile, as nobody held it: once it is
/// there again, what the mark names is told.
#[test]
fn regression_a_placeholder_without_its_row_is_told_of() {
    passes(
        "seed 10004815 hosts 2 active 60000 queue 64 rows 100 tiers 3 prune fanotify stepwise alone arrive history
         1103 s0 mkdir d
         1909 s0 rename d b
         2351 s0 create d
         2368 s0 office d
         6821 s0 create c
         0 s1 crash-in 3 1
         11837 s0 replace c
         0 s1 repeat 7 1880
         0 s1 crash-in 4 0
         15751 s0 rm b
         0 s1 crash-in 6 1",
    );
}

/// An agent was killed between the mark and making it durable; the next one took the placeholder for one of which a part is here, and freed its bytes: the power
/// went, and the mark with it, and the file was zeros.
#[test]
fn regression_the_mark_of_an_earlier_life_is_made_durable_before_bytes_are_freed() {
    passes(
        "seed 1 hosts 2 active 60000 tiers 3 power
         6000 s0 create a
         20000 s0 tier a
         0 s0 cut-off 1 3
         22000 s0 tier a
         22500 s0 power 4",
    );
}

/// A piece of a version is on its way when a full disk has its reader served otherwise; the file is written anew, and given up again, before the
/// piece is here. It is not filled into the version that stands there by then.
#[test]
fn regression_a_piece_of_another_version_is_not_filled_in() {
    passes(story_of(Bug::FillsOtherVersion));
}

/// The share was set back to before a file. Who has a placeholder of it offered it first, was refused for its missing chunks, and knew no more what it stands for:
/// it was not equal when the other server had stored the bytes anew, and to be read for ever.
#[test]
fn regression_what_a_refused_placeholder_stands_for_stays_known() {
    passes(story_of(Bug::RefusedIsUnknown));
}

/// The same beside a machine that was set back, and a copy of another one.
#[test]
fn regression_what_a_refused_placeholder_stands_for_stays_known_beside_copies() {
    passes(
        "seed 50241128 hosts 3 active 60000 queue 64 rows 100 tiers 1 power reuse small arrive far
         0 s2 repeat 3 8261
         4108 s0 kill
         16973 s1 create a
         0 s0 repeat 8 2885
         0 s2 crash-in 2 0 25963098937587
         23392 s0 kill
         0 s2 repeat 7 8599
         27313 s0 clone
         0 s3 lose 2
         34288 s2 replace a
         35622 s2 power 279904996005381
         0 s1 crash-in 3 1 60996730537099
         47491 s2 office a-Cloud
         47708 s1 backup
         52263 s2 checkpoint
         52286 s1 set-back
         57274 s2 revert",
    );
}

/// Simulation: the service's prune stood still from the heal on. A pack that it had condemned was readable for ever, and refused for ever: the placeholder of a machine
/// that was set back, which stood for a file in it that the share had let go, counted as one whose bytes can be had.
#[test]
fn regression_what_the_share_has_let_go_is_deleted_in_the_end() {
    passes(
        "seed 50214982 hosts 3 active 60000 queue 64 rows 100 tiers 5 damage prune fanotify arrive history
         13025 s1 create c
         13025 s1 create b
         13052 s0 mkdir e.txt
         13052 s0 mkdir e.txt/e.txt
         18797 s2 power 226673547949538
         41604 s1 create e.txt/e.txt/b
         41604 s1 create e.txt/e.txt/e.txt
         44105 s0 restart
         44387 s2 checkpoint
         45355 s0 rm e.txt/e.txt
         48537 s2 revert",
    );
}

/// Oracle: a machine was off when a copy of it started. To the service both are one endpoint: what is held moved on with what the copy told.
#[test]
fn regression_nothing_is_held_for_a_machine_while_its_copy_speaks() {
    passes(
        "seed 50049263 hosts 2 active 60000 queue 64 rows 100 tiers 3 prune stepwise arrive history far
         0 s1 repeat 2 4218
         4762 s1 mkdir a
         21581 s1 rename a b
         21581 s1 create b/c
         22552 s1 create c
         31789 s0 recall c
         32377 s1 mkdir e.txt
         32377 s1 create e.txt/e.txt
         32377 s1 create e.txt/a
         36026 s0 tier c
         37268 s1 save e.txt/e.txt
         37268 s1 edit e.txt/e.txt
         37625 s0 kill
         39561 s0 clone",
    );
}

/// Simulation: a program waited for a placeholder's bytes when all programs were to end, and had the file open, and busy, for ever after.
#[test]
fn regression_a_program_that_waits_in_the_end_opens_nothing() {
    passes(
        "seed 1 hosts 2 active 10000 tiers 1 arrive
         1000 s1 create a
         9950 s1 time a -678465956
         9995 s0 open a 1",
    );
}

/// A placeholder stood in a directory that could not be read, so that a newer version could not take its place. After a restart what that version left as it was counted
/// as agreed, and the row named it: the share kept that version for the placeholder, and let go of what it stands for.
#[test]
fn regression_a_row_names_the_version_that_has_its_content() {
    passes(story_of(Bug::RowNamesNewerVersion));
}

/// Two placeholders changed places, and the directory of one could not be read any more before anybody had looked. That one had left its place for all that was known, and
/// the share let go of what it stands for.
#[test]
fn regression_nothing_is_let_go_while_a_directory_cannot_be_read() {
    passes(story_of(Bug::PinPassesUnreadable));
}
