//! The bug zoo: bugs that can be planted, one at a time, to see that the simulator catches them.
//!
//! Each is one line at the place of the decision that it spoils: bugs that were found and mended once, and others of the
//! kind that sync programs have. Without the feature `zoo` of this crate [`planted`] is the constant `false`, so that
//! nothing of them is in a program that ships (`polder` can be built with it only without optimisation, and with a feature of its own). With the feature, nothing is
//! planted until a thread says so with `plant`, for itself alone, or a test with `plant_everywhere`, for all threads.
//!
//! [`Bug::level`] says which tests must catch it.

/// Makes the list of bugs with their names and words.
macro_rules! bugs {
    ($($(#[doc = $what:literal])+ $bug:ident,)+) => {
        /// A bug that can be planted.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Bug {
            $($(#[doc = $what])+ $bug,)+
        }

        impl Bug {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$bug),+];

            /// What goes wrong.
            pub const fn what(self) -> &'static str {
                match self {
                    $(Self::$bug => concat!($($what),+),)+
                }
            }
        }
    };
}

bugs! {
    // The planner.

    /// A deletion in the share removes a file that was edited here.
    DeleteBeatsEditHere,
    /// A deletion here removes a file that was edited in the share.
    DeleteBeatsEditInShare,
    /// The content that lost a conflict is not kept beside the winner.
    ConflictCopyDropped,
    /// Moves on two sides that make a cycle together are not undone.
    CycleNotCut,
    /// A deleted directory is not revived for what lives in it.
    RevivalWithoutAncestors,
    /// Two nodes may be to stand under one name.
    NamesNotSettled,
    /// A new file adopts the node that both sides knew and that was deleted here, so that it counts as an edit.
    AdoptsWhatWasDeleted,
    /// A step agrees on values that one of the two sides does not have.
    AgreesTooMuch,
    /// A knot of moves is turned as a ring although one lies in another.
    TurnsEveryKnot,

    /// A version of which one step was written down counts as applied, whatever a cut-off apply has left of the others.
    HalfAgreedIsAgreed,
    /// A time that somebody set on what an apply has left counts as the version's.
    LeftoverTakesTime,
    /// A directory that a cut-off apply has made in the place of another one is taken for that.
    LeftoverDirectoryInherits,
    /// What a cut-off apply has left in a directory that it had made as well is not looked for there before that is known as the share's.
    LeftoverBelowStrangers,
    /// Of two files that have changed places, in two directories, one is seen before the other: it counts as an edit of the one that stood there.
    HalfSwapIsEdit,
    /// A directory is there again while the deletion of a file that was in it is on its way: that it is not there any more is not found out.
    ReturnsWithItsDeleted,
    /// A directory gets its id while names in it are being looked at, and has moved meanwhile: they are not looked at again.
    FlyingLooksLoseTheirDirectory,
    /// Of two versions that cut-off applies may have left, the younger is taken although the older has the bytes or the place.
    YoungestLeftoverFirst,
    /// What an apply has left is a new file while the node that it is waits for the first walk itself.
    WaitingHeirPassedOver,
    /// Nodes that were planned apart wait for each other for as long as anything is looked at.
    WaitsInACircle,

    // The engine: what was seen.

    /// A queue of hints that overflowed is not followed by a scan.
    OverflowIgnored,
    /// A start is not followed by a scan.
    NoScanAtStart,
    /// What a listing does not name is gone, without a look.
    AbsenceIsDeletion,
    /// A directory that changed while it was listed is believed.
    VoidListingBelieved,
    /// A directory that changed while it was listed is not listed again.
    VoidNotListedAgain,
    /// What a scan missed is not looked at.
    MissingIgnored,
    /// A look or listing older than our own change of a name is believed.
    StaleLookBelieved,
    /// A name is looked at while an apply changes it.
    LooksDuringApply,
    /// Two looks at one name are in flight at once.
    TwoLooksAtOnce,
    /// A hint about a directory that nobody knows yet is dropped though a walk has passed there already.
    StrangerForgotten,
    /// What both sides turn out to have is written down before the disk has it for good.
    SettledBeforeDurable,
    /// A directory is given its new time while a batch that knows the old one works in it.
    TimesCollide,
    /// The time that a directory has while something is applied in it counts as somebody's.
    OurWorkMovesTimes,
    /// A directory whose attributes change while a look at its name is in flight is not looked at again.
    StrangerItselfForgotten,
    /// What a look brought may be overwritten by an older one that came later.
    OlderLookOverYounger,
    /// After hints were lost, looks that are older than that are believed.
    LostHintsLeaveOldLooks,
    /// A walk that tells nothing is taken to say that what differs from the rows is as it was.
    SilentWalkBelieved,
    /// What was gone with a directory stays gone when the directory is back.
    ReturnsWithoutItsInside,
    /// A directory that is taken for one of the share is not compared with the rows below that.
    AdoptedWithoutItsInside,
    /// What is new deep in a directory, in one about which nothing differs, stays when that is removed.
    StaysInAgreedDirectories,
    /// What is in a directory of the share counts as gone although one stands in its place that nobody knows yet.
    AdriftBesideStrangers,
    /// A look whose directory is not known yet is forgotten.
    LookWithoutDirectoryForgotten,
    /// Looks do not follow a directory that gets another id.
    LooksLoseTheirDirectory,
    /// What has rows below a directory stands in it when it was made anew.
    MadeDirectoryIsFull,
    /// A directory that we made is not listed.
    MadeDirectoryNotListed,
    /// A directory that a walk has compared with nobody's rows is not compared with its own.
    ReplacedDirectoryNotCompared,
    /// A vanished name does not wait: a rename or a save is a deletion and a new file.
    NoSettleTime,
    /// What was seen elsewhere just now is thought to stand where it stood as well.
    MovedIsStillThere,
    /// As long as no endpoint has said anything of the root, whatever is said of it counts as agreed.
    EveryRootIsTheFirst,
    /// The place that a node has left is not looked at: what tells of it may be older than what was seen there.
    LeftPlaceNotLookedAt,
    /// What was offered and taken stands where this life has seen somebody else.
    OfferStandsWhereOthersDo,
    /// Of two nodes with one inode the one that is gone is taken, though the other stands there.
    GoneBeforeThatWhichStands,
    /// Of nodes with one inode that are gone, not the one that had it last is taken.
    InodeOfWhoHadItFirst,
    /// A file that is moved over another one with the same agreed bytes becomes that one.
    SameBytesChangeIds,
    /// A node takes another name because of one whose fate is not known yet.
    YieldsToTheBusy,
    /// Whether a deletion whose answer was lost was taken, the feed does not tell.
    LostAnswerOfDeletionIgnored,
    /// A walk compares every directory with the rows of the node that it is known by, also where it is another node's now.
    WalkKnowsByInode,
    /// A directory that was moved while a walk ran is not listed again.
    WalkPassesTheMoved,
    /// Of two rows under an empty name one alone is gone.
    OneLeavesTheName,
    /// A file that is back in its agreed place takes the id of what stood there meanwhile.
    ReturnTakesOtherId,
    /// Others that are thought to stand under a taken name stay there.
    TwoUnderOneName,
    /// What was seen in a directory that is gone meanwhile still counts.
    SeenInGoneDirectory,
    /// The other names of a changed file are not looked at.
    OtherNamesForgotten,

    // The engine: what was read and agreed.

    /// Bytes that took long to store are taken for those that the file has by then.
    StoredForOtherBytes,
    /// A file that moved while it was read is where it was.
    ReadOfMovedFile,
    /// The synced row is written before the disk was changed.
    SyncedBeforeApplied,
    /// The synced row is written before the share has answered.
    SyncedBeforeAnswered,
    /// What a step did not set on a directory counts as agreed.
    StepSwallowsEdit,
    /// The row of what was applied does not get the stamp that the disk has.
    OwnApplyIsUserChange,
    /// What a cut-off apply has left counts as somebody's own once the share has moved on.
    LeftoverForgotten,
    /// An answer changes what is thought to be on disk.
    AnswerChangesDisk,
    /// What has a row below a directory whose row is gone does not say so itself.
    ChildrenOfGoneForgotten,
    /// A node that went while it was offered is forgotten at once.
    GoneWhileOffered,
    /// The same where its directory goes, and it with that.
    GoneInsideWhileOffered,
    /// What is gone when the answer to its offer comes stays gone, though nobody has looked where that says it stands.
    GoneWhenAnswered,
    /// What is kept of a conflict is seen before its node has the new content.
    KeptSeenTooEarly,
    /// What is kept of a conflict is not looked at afterwards.
    KeptNotLookedAt,
    /// A node that turns out to be another file is not looked for where that one stood.
    OtherOfTwoForgotten,
    /// A row that stands nowhere, for its directory has none, is planned and dropped for ever.
    AdriftStays,
    /// Steps that cannot be carried out any more wait for ever.
    LostStepsWait,
    /// Directories whose times alone differ are not planned.
    DirectoryTimesForgotten,

    // The engine: what was sent and heard.

    /// The number of a batch is used again.
    BatchNumberReused,
    /// Offers are not durable before their batch leaves.
    OffersNotDurable,
    /// An answer that was lost is not asked for: what was accepted is sent again.
    LostAnswerIgnored,
    /// What the service keeps of a batch is not taken: the feed alone tells what became of it, and only of a node that nobody
    /// changed since.
    KeptAnswersIgnored,
    /// Answers that an opening has kept are taken, and the place in history that they are of is not remembered.
    KeptAnswersOfNowhere,
    /// All of an offer's row is what the share has, also what the offer did not change.
    OfferRowIsWhole,
    /// What was seen before a lost answer was known stays a node of its own.
    LostAnswerMakesTwins,
    /// What was offered before this life, and accepted, stands as its old row says, although nobody has seen it so.
    OfferedStandsAsBefore,
    /// A batch whose answer was lost is planned again before the feed was read.
    RetriesBeforeFeed,
    /// An id that the share has known is offered again and again.
    ExistsIsFinal,
    /// A refusal does not lead to the feed.
    RefusalNotFollowed,
    /// The planner runs while pages of an answer are still to come.
    CutIgnored,
    /// The feed is read on from our own commit, past those of others.
    OwnCommitSkipsOthers,
    /// Rows of the feed older than our own commits overrule them.
    OldRowsOverrule,
    /// Rows without a place in history are taken over after a change of history.
    BaselineKeepsEverything,
    /// After a change of history deletions go on.
    BaselineDeletes,
    /// The comparison after a change of history ends while a node is not united yet.
    MergeEndsTooEarly,
    /// A row that a change of history makes void takes the knowledge of its file along.
    DroppedRowForgetsFile,
    /// All pages of the tree are the whole tree, though they leave to the feed what changed while they were read.
    TreeIsWholeWithoutFeed,
    /// Pages of a tree whose reading was broken off count beside those of the next reading.
    OldPagesStay,
    /// What stands in a directory as its row says does not go over to the id that the directory gets.
    InsideOfOldIdIsGone,
    /// Of two nodes that were thought to stand under one name, the one that does not stays.
    DoubtedStays,
    /// A file that is refused for its missing chunks is not read again when it equals its synced row.
    MissingChunksNotRead,

    // The executor, as the simulator has it.

    /// A file is replaced or removed without a look whether it is still the one that was planned with.
    NoLocalPrecondition,
    /// What was displaced is not looked at again: a write at the last moment goes with it.
    NoLookBack,
    /// A directory is removed with what stands in it.
    RemovesFullDirectories,

    // The share: the commit core.

    /// An operation is taken although the node has another version by now.
    NoRemotePrecondition,
    /// A name is given twice.
    NameTakenUnchecked,
    /// A directory is moved below itself.
    CycleUnchecked,
    /// A directory is deleted with children in it.
    NotEmptyUnchecked,
    /// A node is put into a directory that is gone.
    ParentUnchecked,
    /// A repeated batch is taken again.
    BatchTakenTwice,
    /// A batch that was announced to be over is taken.
    StaleBatchTaken,
    /// A cursor is good whatever its tag and epoch.
    TagIgnored,

    // The share: packs and prune.

    /// A commit may name chunks of a condemned pack.
    CondemnedServes,
    /// A pack is condemned although a commit used it since the mark.
    UsedPackCondemned,
    /// A condemned pack that is referenced after all is deleted.
    NoSecondLook,
    /// Marks from before the condemnation count as the second look.
    OldMarksCount,
    /// Chunks count as stored before their pack was verified.
    UnverifiedServes,
    /// A pack that was made of others does not become the home of their chunks, and they are waste all the same.
    RepackedChunksStay,

    // State that threads share.

    /// A job is told that it is done before its transaction is durable.
    AnsweredBeforeDurable,
    /// A job that came while others were written is dropped without a word.
    GatheredJobLost,
    /// Who waits for a connection is not told that a place is free.
    FreedPlaceNotTold,

    // Tiered files.

    /// The bytes go before the mark is set.
    PunchedBeforeMarked,
    /// The bytes go while the mark is not durable.
    PunchedBeforeMarkIsDurable,
    /// A file goes although it is not what was hashed.
    LeavesAsItIs,
    /// What was stored through a mapping is not written back before the times are looked at.
    LeavesWithoutWriteBack,
    /// A file goes although the share has not verified its chunks.
    LeavesUnverified,
    /// A recalled file becomes resident before its last bytes are here.
    ResidentBeforeLastByte,
    /// The mark goes before what was recalled is durable.
    UnmarkedBeforeDurable,
    /// Nothing of a tiered file is made durable: neither its bytes, nor its mark, nor that the mark is gone.
    PresenceNotDurable,
    /// A placeholder that is cut to nothing loses its mark first.
    UnmarkedBeforeCut,
    /// What was fetched for one version is filled into the next.
    FillsOtherVersion,
    /// What an endpoint has applied holds no version.
    AppliedPinsNothing,
    /// What an endpoint has read of the feed counts as applied: a placeholder that is held at an older version holds nothing.
    PinIsWhatWasRead,
    /// A row that takes over a newer version's place, attributes or time, and not yet its content, names that version: what the share keeps for
    /// a placeholder is not what it stands for.
    RowNamesNewerVersion,
    /// What the share is asked to keep moves on while a directory cannot be read, into which a placeholder may have been moved.
    PinPassesUnreadable,
    /// What counted as gone from a directory that could not be read still does when it can be read again, and is as its row says.
    ThawedCountsAsBefore,
    /// What is known of a file's content is forgotten when the share refuses it for its missing chunks: a placeholder cannot be read, and is
    /// never equal again.
    RefusedIsUnknown,
    /// What a mark says of a placeholder without a row still counts when both sides were united long ago.
    MarksOutlastTheMerge,
    /// A row of an older version of ours is taken for the answer to an offer that was made after it: the offer is forgotten, and its answer may be lost.
    OldRowAnswersOffer,
    /// Bytes are given up before the share is known as it was when the session was opened.
    LeavesBeforeCaughtUp,
    /// A placeholder that a crash has left without its row holds nothing.
    MarksPinNothing,
}

/// The tests that must catch a bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// The hunt of `polder-sim`: a run, or a story that is told.
    Simulator,
    /// The planner's own tests and properties, in `polder-sync`: what is wrong is no loss by the rules of a whole run.
    Planner,
    /// The tests of the commit core over rows, in `polder-metadata`.
    Ledger,
    /// The tests of the prune plan, in `polder-backup`.
    Prune,
    /// The tests of the orders in which the presence of a file is changed, in `polder-tiering`: a run that stores through a mapping between
    /// the last read and the file's leaving, and closes it without writing back, is too rare.
    Tiering,
    /// The tests of single decisions of the engine, in `polder-engine`.
    Engine,
    /// Those tests, with another bug beside it: alone it does no harm, since a second rule stands behind it.
    SecondLine,
    /// The model checks, in `polder-model`: harm needs an order that no random run meets.
    Model,
    /// The orders of threads, in `polder-metadata`.
    ThreadsOfRows,
    /// `bench/fills.py --planted`: a real file system on a disk that is cut off.
    PowerCuts,
}

impl Bug {
    /// The tests that must catch it.
    pub const fn level(self) -> Level {
        match self {
            Self::AnsweredBeforeDurable | Self::GatheredJobLost | Self::FreedPlaceNotTold => {
                Level::ThreadsOfRows
            }
            Self::PresenceNotDurable => Level::PowerCuts,
            Self::LeavesWithoutWriteBack => Level::Tiering,
            // What a new file would overwrite is what its user has deleted; and the executor refuses what cannot be exchanged.
            Self::AdoptsWhatWasDeleted | Self::TurnsEveryKnot => Level::Planner,
            // Each is the other's second line: a pack in use is not condemned, and one that was condemned all the same is spared
            // by the second look, whose marks and rules say twice that they are young enough.
            Self::UsedPackCondemned => Level::Ledger,
            Self::NoSecondLook | Self::OldMarksCount => Level::Prune,
            // Late messages of an opening that is over do not come so far.
            Self::StaleBatchTaken => Level::Ledger,
            // With a commit in a window of one page of marks.
            Self::CondemnedServes | Self::UnverifiedServes | Self::RepackedChunksStay => Level::Model,
            // The share tells of its new head as well, so that the feed is read a moment later; what is sent too early, it refuses.
            // What is absent for a moment only, a hint tells of.
            Self::RefusalNotFollowed | Self::RetriesBeforeFeed | Self::AbsenceIsDeletion => Level::Engine,
            // Orders of answers that a run meets too rarely, or that a second rule mends a moment later.
            Self::StrangerItselfForgotten
            | Self::OlderLookOverYounger
            | Self::LostHintsLeaveOldLooks
            | Self::SettledBeforeDurable
            | Self::TwoLooksAtOnce
            | Self::StrangerForgotten
            | Self::VoidListingBelieved
            | Self::VoidNotListedAgain
            | Self::SilentWalkBelieved
            | Self::ReturnsWithoutItsInside
            | Self::AdoptedWithoutItsInside
            | Self::RowNamesNewerVersion
            | Self::LooksLoseTheirDirectory
            | Self::LookWithoutDirectoryForgotten
            | Self::MovedIsStillThere
            | Self::GoneInsideWhileOffered
            | Self::OfferStandsWhereOthersDo
            | Self::LeftoverTakesTime
            | Self::LeftoverDirectoryInherits
            | Self::HalfSwapIsEdit
            | Self::ReadOfMovedFile
            | Self::OurWorkMovesTimes
            | Self::TimesCollide
            | Self::StepSwallowsEdit
            | Self::LostStepsWait
            | Self::OldRowsOverrule
            | Self::CutIgnored
            | Self::OldPagesStay
            | Self::InsideOfOldIdIsGone
            | Self::ReplacedDirectoryNotCompared
            | Self::LostAnswerMakesTwins
            | Self::OfferRowIsWhole
            | Self::WaitingHeirPassedOver
            | Self::DoubtedStays
            | Self::TreeIsWholeWithoutFeed
            | Self::MergeEndsTooEarly
            | Self::OffersNotDurable
            | Self::MarksPinNothing => Level::Engine,
            // What one of each group leaves undone, another does a moment later.
            Self::ChildrenOfGoneForgotten | Self::AdriftStays => Level::SecondLine,
            Self::KeptSeenTooEarly | Self::OtherOfTwoForgotten | Self::KeptNotLookedAt => Level::SecondLine,
            _ => Level::Simulator,
        }
    }

    /// All that tests of one level must catch.
    pub fn of(level: Level) -> impl Iterator<Item = Self> {
        Self::ALL.iter().copied().filter(move |bug| bug.level() == level)
    }
}

#[cfg(feature = "zoo")]
mod choice {
    use std::cell::Cell;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::{Bug, Level};

    std::thread_local! {
        static PLANTED: Cell<Bugs> = const { Cell::new(NONE) };
    }
    /// One more than the number of the bug; 0: none.
    static EVERYWHERE: AtomicUsize = AtomicUsize::new(0);

    /// Each has a bit.
    type Bugs = [u128; 2];
    const NONE: Bugs = [0; 2];

    const fn with(mut bugs: Bugs, bug: Bug) -> Bugs {
        const { assert!(Bug::ALL.len() <= 256, "each has a bit") };
        bugs[bug as usize / 128] |= 1 << (bug as usize % 128);
        bugs
    }

    const fn has(bugs: &Bugs, bug: Bug) -> bool {
        bugs[bug as usize / 128] >> (bug as usize % 128) & 1 != 0
    }

    /// Whether this thread has the bug.
    pub fn planted(bug: Bug) -> bool {
        has(&PLANTED.get(), bug) || EVERYWHERE.load(Ordering::Relaxed) == bug as usize + 1
    }

    /// Plants a bug in all threads, or none: for tests whose work is done by threads that are not theirs. One test of a
    /// process may do so.
    pub fn plant_everywhere(bug: Option<Bug>) {
        EVERYWHERE.store(bug.map_or(0, |bug| bug as usize + 1), Ordering::Relaxed);
    }

    /// Plants a bug in this thread, or none.
    pub fn plant(bug: Option<Bug>) {
        PLANTED.set(bug.map_or(NONE, |bug| with(NONE, bug)));
    }

    /// Checks for bugs that do no harm alone that a test passes as long as one of several is missing and fails with all of
    /// them, and that every bug of this kind has a test.
    ///
    /// # Panics
    ///
    /// Where that is not so.
    pub fn assert_second_lines(cases: &[(&[Bug], fn())]) {
        let passes = |bugs: &[Bug], but: Option<Bug>, test: fn()| {
            let bugs = bugs.iter().filter(|bug| Some(**bug) != but);
            PLANTED.set(bugs.fold(NONE, |bugs, bug| with(bugs, *bug)));
            let passed = catch_unwind(test).is_ok();
            PLANTED.set(NONE);
            passed
        };
        for (bugs, test) in cases {
            assert!(passes(&[], None, *test), "the test fails without {bugs:?}");
            for but in *bugs {
                assert!(passes(bugs, Some(*but), *test), "the test fails although {but:?} is missing");
            }
            assert!(!passes(bugs, None, *test), "not caught: {bugs:?}");
        }
        let without: Vec<_> = Bug::of(Level::SecondLine)
            .filter(|bug| cases.iter().all(|(bugs, _)| !bugs.contains(bug)))
            .collect();
        assert!(without.is_empty(), "no test for {without:?}");
    }

    /// Checks for the tests of one level that each passes as it is and fails with its bug, and that every bug of the level has
    /// one. `put` plants a bug, `run` carries a test out and panics when that fails.
    ///
    /// # Panics
    ///
    /// Where that is not so.
    pub fn assert_all_caught<T: Copy>(
        level: Level,
        cases: &[(Bug, T)],
        put: fn(Option<Bug>),
        run: impl Fn(T),
    ) {
        let passes = |bug: Option<Bug>, test: T| {
            put(bug);
            let passed = catch_unwind(AssertUnwindSafe(|| run(test))).is_ok();
            put(None);
            passed
        };
        let (mut failing, mut missed) = (Vec::new(), Vec::new());
        for (bug, test) in cases {
            if !passes(None, *test) {
                failing.push(bug);
            } else if passes(Some(*bug), *test) {
                missed.push(bug);
            }
        }
        assert!(failing.is_empty(), "the tests fail without {failing:?}");
        assert!(missed.is_empty(), "not caught: {missed:?}");
        let without: Vec<_> =
            Bug::of(level).filter(|bug| cases.iter().all(|(other, _)| other != bug)).collect();
        assert!(without.is_empty(), "no test for {without:?}");
    }
}

#[cfg(feature = "zoo")]
pub use choice::{assert_all_caught, assert_second_lines, plant, plant_everywhere, planted};

/// Whether the bug is planted: never, in a build without the zoo.
#[cfg(not(feature = "zoo"))]
#[inline(always)]
pub const fn planted(_bug: Bug) -> bool {
    false
}

/// Whether bugs can be planted in this build. What ships asserts that they cannot.
pub const PLANTABLE: bool = cfg!(feature = "zoo");
