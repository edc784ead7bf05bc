//! Stories that catch a bug of the zoo whose situation seeds meet too rarely. Without the bug each must pass: they are regression
//! tests too (`tests/regressions_of_restarts.rs`).

use polder_types::zoo::Bug;

/// The bug, and the story that shows it.
pub const STORIES: &[(Bug, &str)] = &[
    (
        Bug::InodeOfWhoHadItFirst,
        "seed 2048782 hosts 2 active 10000 queue 4 rows 100 fanotify
         1119 s0 create e.txt
         1119 s0 create d
         4393 s0 edit e.txt
         5187 s1 rename d c
         5569 s1 mode c 386
         6367 s0 rename d e.txt
         6585 s1 swap e.txt c
         7013 s0 restart
         8171 s0 rename e.txt c",
    ),
    (
        Bug::InodeOfWhoHadItFirst,
        "seed 2048782 hosts 2 active 12000 queue 4 rows 100 fanotify
         1119 s0 create e.txt
         1119 s0 create d
         4393 s0 edit e.txt
         5187 s1 rename d c
         5569 s1 mode c 386
         6367 s0 rename d e.txt
         6585 s1 swap e.txt c
         7013 s0 kill
         7101 s0 rename e.txt d",
    ),
    (
        Bug::InodeOfWhoHadItFirst,
        "seed 2048782 hosts 2 active 12000 queue 4 rows 100 fanotify
         1119 s0 create e.txt
         1119 s0 create d
         4393 s0 edit e.txt
         5187 s1 rename d c
         5569 s1 mode c 386
         6367 s0 rename d e.txt
         6585 s1 swap e.txt c
         7013 s0 kill
         7101 s0 rename e.txt a",
    ),
    (
        Bug::InodeOfWhoHadItFirst,
        "seed 104759 hosts 2 active 12000 queue 64 rows 100
         655 s1 create a
         1804 s0 create d
         2029 s0 create b
         2780 s0 create c
         5400 s0 swap b c
         5700 s0 rename c a
         6000 s1 swap a b
         6060 s0 swap a b",
    ),
    (
        Bug::GoneWhenAnswered,
        "seed 3226770 hosts 2 active 10000 queue 64 rows 100
         1897 s0 create d
         2174 s1 create a
         2534 s0 mkdir c
         3630 s1 save a
         0 s0 lose 1000001
         3914 s1 mode a 391
         4066 s1 mkdir b
         4066 s1 replace d
         4634 s1 create c/a
         5741 s1 swap c/a a
         5812 s1 empty d/c
         5812 s1 empty b/a
         5869 s1 create d/d
         5944 s1 mkdir c/e.txt
         5944 s1 rename d c/e.txt/d",
    ),
    (
        Bug::GoneWhenAnswered,
        "seed 3238875 hosts 2 active 60000 queue 64 rows 100 stepwise
         1406 s0 mkdir a
         3184 s0 create b
         3184 s0 mkdir a/a
         3985 s1 symlink e.txt 4
         4018 s1 kill
         4389 s1 restart
         4997 s0 office b
         0 s1 crash-in 1 2
         5863 s0 replace b
         0 s0 repeat 11 3033
         12091 s1 kill
         12246 s0 power 244678530107158
         14673 s0 power 132712909461400
         21313 s1 rm e.txt
         21719 s0 rename e.txt a/a/c
         31258 s1 create d
         32728 s0 rename d b/e.txt
         0 s0 crash-in 4 0 71764271278065",
    ),
    (
        Bug::TreeIsWholeWithoutFeed,
        "seed 3015923 hosts 3 active 10000 queue 64 rows 2 far
         1091 s0 create b
         1524 s0 kill
         2629 s2 create b
         3392 s2 create a
         3909 s0 kill
         4802 s2 create e.txt
         5436 s2 rm a
         6438 s2 office e.txt
         7956 s1 backup
         9924 s1 set-back",
    ),
    (
        Bug::SameBytesChangeIds,
        "seed 2048782 hosts 2 active 10000 queue 4 rows 100 fanotify
         1119 s0 create e.txt
         1119 s0 create d
         4393 s0 edit e.txt
         5187 s1 rename d c
         5569 s1 mode c 386
         6367 s0 rename d e.txt
         6585 s1 swap e.txt c
         6900 s0 rename e.txt d
         7013 s0 restart",
    ),
    (
        Bug::KeptAnswersOfNowhere,
        "seed 1051620 hosts 3 active 10000 queue 64 rows 100
         518 s2 mkdir e.txt
         895 s0 backup
         1568 s1 restart
         2563 s0 restart
         3132 s0 set-back",
    ),
    (
        Bug::OfferedStandsAsBefore,
        "seed 1080605 hosts 2 active 60000 queue 64 rows 100
         14130 s0 create b
         18264 s0 create a
         22992 s0 create a
         34362 s0 rename b d
         36170 s0 power 69075171145786
         37152 s0 hide /",
    ),
    (
        Bug::OfferedStandsAsBefore,
        "seed 1031931 hosts 3 active 60000 queue 64 rows 100 stepwise
         3169 s1 kill
         3418 s2 mkdir a
         7239 s2 rename a b
         13994 s0 create a
         15138 s2 replace a
         18966 s1 create b/a
         29151 s1 rm b/a
         29466 s1 unmount",
    ),
    (
        Bug::OfferRowIsWhole,
        "seed 1015126 hosts 3 active 60000 queue 64 rows 100 damage stepwise
         2345 s1 create a
         2708 s2 rm a
         0 s0 crash-in 1 0 257960496701811
         5200 s0 create b
         10357 s0 create d
         13014 s2 clone
         13333 s2 rm b
         17804 s1 rename b a
         20611 s2 rename d e.txt
         21199 s2 edit e.txt
         22518 s0 mkdir c
         25547 s2 kill
         26916 s2 mkdir a
         27914 s0 create d
         27914 s0 mkdir c/b
         29199 s0 create c/a
         0 s2 lose 25",
    ),
    (
        Bug::KeptAnswersIgnored,
        "seed 711485 hosts 2 active 10000 queue 64 rows 100 stepwise
         359 s0 mkdir d
         1239 s0 create c
         1239 s0 mode d 450
         1348 s0 open c 31
         1348 s0 create d/b
         1785 s1 empty b
         1785 s1 copy b a
         1785 s1 edit b
         1876 s0 create d/d
         2514 s1 create a
         2531 s1 save c
         2531 s1 mode d/b 390
         2713 s0 close 31
         2713 s0 edit d/d
         2731 s0 swap d/b c
         0 s0 crash-in 4 1 83438537467589
         5205 s1 office d/b",
    ),
    (
        Bug::WalkKnowsByInode,
        "seed 821762 hosts 2 active 10000 queue 64 rows 2 fanotify slow
         681 s0 mkdir e.txt
         1203 s1 mkdir d
         1894 s0 mkdir e.txt/d
         2760 s0 power 139818557352875
         3779 s0 rename e.txt d/b
         5405 s0 mkdir e.txt",
    ),
    (
        Bug::WaitsInACircle,
        "seed 914131 hosts 3 active 60000 queue 64 rows 100 damage fanotify
         2212 s2 mkdir e.txt
         3090 s2 rename e.txt a
         0 s2 repeat 5 6168
         28087 s1 create a/b
         34170 s0 mkdir d
         56158 s2 link a/b d/d
         56415 s2 rm a
         56450 s1 edit a/b",
    ),
    (
        Bug::YoungestLeftoverFirst,
        "seed 904570 hosts 2 active 60000 queue 64 rows 100 alone
         0 s0 repeat 3 11
         5655 s0 create e.txt
         6939 s0 edit e.txt
         8006 s0 rm e.txt
         0 s0 repeat 8 9196
         0 s1 repeat 7 5861
         0 s1 crash-in 6 1
         15202 s0 create a
         15202 s0 create d
         0 s0 repeat 22 7176
         17848 s0 create c
         18059 s0 create e.txt
         18681 s0 create a
         0 s1 repeat 14 4261
         0 s1 repeat 15 7964
         25966 s0 rename e.txt c
         29493 s0 mkdir e.txt
         29493 s0 mkdir e.txt/d
         32202 s0 rm d
         34030 s0 create e.txt/c
         35234 s0 mode e.txt/d 455
         35234 s0 edit e.txt/c
         0 s1 crash-in 24 1
         35633 s0 edit e.txt/c
         0 s1 crash-in 25 4
         40030 s0 edit e.txt/c
         41580 s0 office e.txt/c",
    ),
    (
        Bug::HalfAgreedIsAgreed,
        "seed 937471 hosts 2 active 60000 queue 64 rows 100 fanotify alone
         4272 s0 mkdir a
         4272 s0 mode / 452
         13710 s0 mkdir a/a
         13923 s0 create a/a/c
         0 s1 crash-in 5 0
         17933 s0 rename a/a/c e.txt
         18020 s0 create a/b
         18164 s0 swap a/b e.txt
         19140 s0 edit a/b
         21708 s0 edit a/b
         0 s1 crash-in 8 1",
    ),
    (
        Bug::WalkPassesTheMoved,
        "seed 616501 hosts 2 active 10000 queue 64 rows 2 fanotify
         460 s1 mkdir a
         460 s1 create a/b
         893 s1 rename a/b c
         2887 s1 replace c
         2902 s1 mkdir a/d
         5439 s0 kill
         5633 s0 hide a
         5867 s0 create a/d/b
         8009 s1 mkdir c/b
         8009 s1 mkdir a/d/c
         8019 s1 rename a/d c/b/a",
    ),
    (
        Bug::LeftPlaceNotLookedAt,
        "seed 503267 hosts 2 active 60000 queue 64 rows 100 damage fanotify
         2889 s1 create e.txt
         2907 s1 rename e.txt a",
    ),
    (
        Bug::GoneBeforeThatWhichStands,
        "seed 512127 hosts 2 active 2000 queue 4 rows 100 fanotify alone
         87 s0 mkdir c
         542 s0 mkdir e.txt
         619 s0 mkdir d
         1397 s0 create c/c
         1477 s0 create c/d
         1477 s0 open c/c 169
         1759 s0 rename c/c c/b
         1759 s0 rm c/d
         1766 s0 rename c d/d
         1950 s0 put 169",
    ),
    (
        Bug::YieldsToTheBusy,
        "seed 523472 hosts 2 active 10000 queue 64 rows 100 damage fanotify alone
         1827 s0 mkdir c
         0 s1 crash-in 1 1
         4313 s0 rm c
         7223 s0 create c",
    ),
    (
        Bug::LostAnswerOfDeletionIgnored,
        "seed 528958 hosts 2 active 10000 queue 64 rows 100 fanotify alone
         5637 s0 mkdir d
         6894 s0 rm d
         7300 s0 mode / 455
         7984 s0 power 190692561112302
         9190 s0 mkdir d",
    ),
    (
        Bug::ReturnTakesOtherId,
        "seed 501534 hosts 3 active 60000 queue 64 rows 100 fanotify
         2434 s2 mkdir e.txt
         16632 s0 create e.txt/a
         30955 s2 rename e.txt/a e.txt/c
         30955 s2 empty e.txt/a
         31645 s2 rename e.txt/c e.txt/a",
    ),
    (
        Bug::MadeDirectoryIsFull,
        "seed 500824 hosts 2 active 10000 queue 64 rows 100 fanotify
         54 s0 mkdir b
         54 s0 mkdir b/d
         528 s0 create b/d/b
         918 s0 mkdir b/b
         1906 s0 rename b/d/b b/b/c
         2817 s0 create e.txt
         3986 s0 rm e.txt
         5778 s0 empty b/b/d
         6692 s0 kill
         7210 s0 rm b
         8706 s1 time b/b/c 1811144412
         9491 s1 edit b/b/d",
    ),
    (
        Bug::EveryRootIsTheFirst,
        "seed 500185 hosts 2 active 10000 queue 64 rows 100 alone
         296 s0 create e.txt
         0 s1 crash-in 1 1
         3697 s0 mode / 451",
    ),
    (
        Bug::OneLeavesTheName,
        "seed 412003 hosts 3 active 10000 queue 64 rows 100 fanotify stepwise
         730 s2 mkdir d
         1096 s1 power 274298957149141
         1586 s0 mkdir a
         1911 s2 create d/e.txt
         2734 s1 create e.txt
         3013 s2 jump -604035554
         3945 s2 edit d/e.txt
         3945 s2 create d/b
         4701 s0 rename d/b a/b
         4701 s0 mode / 455
         5218 s2 swap d/b d/e.txt
         5773 s2 rm d/e.txt
         0 s2 crash-in 4 0
         7895 s2 rm d/b",
    ),
    (
        Bug::LeftoverForgotten,
        "seed 500857 hosts 2 active 60000 queue 64 rows 100 fanotify alone
         7688 s0 create d
         7688 s0 create c
         0 s1 crash-in 2 2
         12822 s0 save c",
    ),
    (
        Bug::FlyingLooksLoseTheirDirectory,
        "seed 50290933 hosts 3 active 10000 queue 4 rows 100 tiers 7 damage
         1165 s2 mkdir b
         2312 s1 create e.txt
         0 s1 crash-in 1 1
         7588 s1 restart
         7696 s0 mkdir b/d
         8786 s1 office e.txt
         8786 s1 replace e.txt
         8786 s1 mkdir b/d
         9259 s1 rename b/d b/b
         9259 s1 create b/b/a",
    ),
    (
        Bug::ReturnsWithItsDeleted,
        "seed 50032092 hosts 2 active 10000 queue 64 rows 100 tiers 6 alone slow history
         1459 s0 create d
         1459 s0 mkdir b
         1876 s0 mkdir b/c
         1951 s0 save d
         2351 s0 rm b
         2351 s0 mkdir c
         0 s0 lose-answer 9
         0 s0 repeat 11 1224
         2746 s0 create c/d
         3199 s0 create b
         3237 s0 rename c/d a
         3735 s0 rename a d
         4583 s0 rm c
         4809 s0 mkdir c",
    ),
    (
        Bug::LeftoverBelowStrangers,
        "seed 50164590 hosts 3 active 60000 queue 64 rows 100 tiers 5 damage fanotify alone history far
         3870 s0 mkdir c
         4859 s0 mkdir c/b
         4859 s0 mkdir c/b/d
         9779 s0 rename c/b/d c/c
         0 s2 crash-in 2 3",
    ),
    // A new directory is offered to a service that is far away, moved into another one, and goes with that.
    (
        Bug::GoneInsideWhileOffered,
        "seed 1 hosts 2 active 40000 far
         6000 s0 mkdir d
         16000 s0 mkdir x
         16120 s0 rename x d/x
         16260 s0 rm d",
    ),
    // A mode is changed back while the answer to the change is on its way.
    (
        Bug::AnswerChangesDisk,
        "seed 1 hosts 2 active 40000
         6000 s0 mkdir d
         10000 s0 mode d 448
         10036 s0 mode d 493",
    ),
    // A new file is edited while nobody knows that the share has taken it.
    (
        Bug::LostAnswerIgnored,
        "seed 1 hosts 2 active 40000
         6000 s0 create a
         6300 s0 edit a
         0 s0 lose-answer 4",
    ),
    // As the regression of the same defect.
    (
        Bug::DroppedRowForgetsFile,
        "seed 159 hosts 2 active 60000 queue 64 rows 100
         17366 s0 create a
         34195 s1 rename a d
         34244 s1 backup
         35816 s1 set-back",
    ),
    // Somebody writes to a file at the moment at which it is replaced.
    (
        Bug::NoLookBack,
        "seed 1 hosts 2 active 40000
         6000 s0 create a
         10000 s0 edit a
         0 s1 race 3 0",
    ),
    // A file is made in a directory that was deleted elsewhere a moment ago.
    (
        Bug::RemovesFullDirectories,
        "seed 1 hosts 2 active 40000
         6000 s0 mkdir d
         6000 s0 create d/a
         12000 s0 rm d
         13200 s1 create d/b",
    ),
    // Two directories are moved into each other at two servers.
    (
        Bug::CycleUnchecked,
        "seed 1 hosts 2 active 40000
         6000 s0 mkdir a
         6000 s0 mkdir b
         12000 s0 rename a b/a
         12010 s1 rename b a/b",
    ),
    // Tiered files: the process ends between two calls, or somebody writes in time.
    (
        Bug::PunchedBeforeMarked,
        "seed 1 hosts 2 active 60000 tiers 3
         6000 s0 create a
         20000 s0 tier a
         0 s0 cut-off 1 2",
    ),
    (
        Bug::LeavesAsItIs,
        "seed 1 hosts 2 active 60000 tiers 3
         6000 s0 create a
         20000 s0 tier a
         20001 s0 edit a",
    ),
    (
        Bug::LeavesUnverified,
        "seed 1 hosts 2 active 60000 tiers 3 damage
         0 s0 bad 1 flipped
         6000 s0 create a
         20000 s0 tier a",
    ),
    (
        Bug::ResidentBeforeLastByte,
        "seed 1 hosts 2 active 60000 tiers 3
         6000 s0 create a
         6000 s0 create b
         6000 s0 create c
         20000 s0 tier a
         20000 s0 tier b
         20000 s0 tier c
         30000 s0 read a 0 1
         30000 s0 read b 0 1
         30000 s0 read c 0 1",
    ),
    (
        Bug::UnmarkedBeforeCut,
        "seed 1 hosts 2 active 60000 tiers 3
         6000 s0 create a
         20000 s0 tier a
         30000 s0 cut a
         0 s0 cut-off 2 3",
    ),
    (
        Bug::AppliedPinsNothing,
        "seed 1 hosts 2 active 60000 tiers 3 history prune
         6000 s0 create a
         20000 s0 tier a
         29000 s0 unmount
         30000 s1 edit a
         55000 s0 mount",
    ),
    (
        Bug::MarksOutlastTheMerge,
        "seed 2023135 hosts 2 active 60000 queue 64 rows 100 tiers 2 fanotify
         38037 s1 create c
         42692 s0 create e.txt
         44945 s1 tier e.txt
         52246 s1 replace c
         52246 s1 rename e.txt c/c
         52246 s1 create e.txt",
    ),
    (
        Bug::RecalledIsStored,
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
    ),
    (
        Bug::FillsOtherVersion,
        "seed 3 hosts 2 active 60000 tiers 3
         6000 s0 create a
         6000 s0 create b
         6000 s0 create c
         6000 s0 create d
         20000 s0 tier a
         20000 s0 tier b
         20000 s0 tier c
         20000 s0 tier d
         29990 s0 room 0
         30000 s0 read a 0 9999
         30000 s0 read b 0 9999
         30000 s0 read c 0 9999
         30000 s0 read d 0 9999
         30300 s0 room
         30310 s0 create d
         34600 s0 tier d
         34850 s0 read d 0 9999",
    ),
    (
        Bug::PinIsWhatWasRead,
        "seed 2035726 hosts 3 active 60000 queue 64 rows 100 tiers 3 prune fanotify arrive history
         3742 s0 create a
         9099 s0 tier a
         13682 s0 hide /
         15381 s2 rm a",
    ),
    (
        Bug::OldRowAnswersOffer,
        "seed 10027153 hosts 2 active 60000 queue 64 rows 100 tiers 7 fanotify alone arrive far
         3768 s0 create b
         4118 s0 rename b c
         5347 s0 cut c
         0 s0 lose-answer 6
         9556 s0 rename c d
         9556 s0 mode d 390
         13905 s0 rename d b
         0 s0 lose-answer 13
         17118 s0 office b",
    ),
    (
        Bug::RowsHoldBesideOthers,
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
    ),
    (
        Bug::LeavesBeforeCaughtUp,
        "seed 10038266 hosts 3 active 10000 queue 64 rows 2 tiers 5 damage prune fanotify history
         19 s1 mkdir c
         827 s1 create c/a
         1494 s1 create a
         0 s0 repeat 2 4866
         3107 s1 create a
         3212 s0 power 29885946384530
         3401 s1 rm c/a
         6177 s2 replace a
         6936 s1 mkdir d
         9942 s0 tier a",
    ),
];

/// The first story of a bug.
///
/// # Panics
/// When it has none.
pub fn story_of(bug: Bug) -> &'static str {
    let found = STORIES.iter().find(|(other, _)| *other == bug);
    found.map(|(_, story)| *story).unwrap_or_else(|| panic!("{bug:?} has no story"))
}
