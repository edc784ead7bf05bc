//! The hunt: for each bug of the zoo ([`polder_types::zoo`]), seeds are run until an oracle says that something is wrong.
//!
//! A bug that no oracle sees is a hole in the simulation. Whoever adds a bug adds it in the place of the decision that it
//! spoils, runs the hunt, and widens the simulation until it is caught.

use std::collections::BTreeMap;

use polder_types::zoo::{Bug, plant};

use crate::stories::stories;
use crate::{Plan, World};

/// Seeds within which each bug must be caught.
pub const SEEDS_MAX: u64 = 10_000;

/// How a bug was caught.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catch {
    /// Seeds that were run, that of the failure included.
    pub seeds: u64,
    /// The seed of the failure.
    pub seed: u64,
    /// What the oracle said.
    pub failure: String,
}

impl Catch {
    /// The oracle that spoke: the words of the failure without what differs between runs.
    pub fn oracle(&self) -> String {
        let first = self.failure.split([':', '\n']).next().unwrap_or_default();
        let words = first.split_whitespace().filter(|word| !word.contains(|c: char| c.is_ascii_digit()));
        words.take(10).collect::<Vec<_>>().join(" ")
    }
}

/// Bugs of this level that no hunt has caught yet, in 10,000 seeds. They are hunted when they are asked for.
pub const OPEN: &[Bug] = &[];

/// A seed that caught each bug when somebody looked last. It is tried first, so that a hunt of all takes seconds; when the
/// simulation draws otherwise than then, the bug is hunted from the first seed on.
const KNOWN: &[(Bug, u64)] = &[
    (Bug::PunchedBeforeMarkIsDurable, 532),
    (Bug::UnmarkedBeforeDurable, 2708),
    (Bug::DeleteBeatsEditHere, 2),
    (Bug::DeleteBeatsEditInShare, 0),
    (Bug::ConflictCopyDropped, 1),
    (Bug::CycleNotCut, 256),
    (Bug::RevivalWithoutAncestors, 2),
    (Bug::NamesNotSettled, 1),
    (Bug::AgreesTooMuch, 4),
    (Bug::OverflowIgnored, 9),
    (Bug::NoScanAtStart, 1),
    (Bug::MissingIgnored, 4),
    (Bug::YoungestLeftoverFirst, 1594),
    (Bug::StaleLookBelieved, 1178),
    (Bug::LooksDuringApply, 2),
    (Bug::TwoUnderOneName, 242),
    (Bug::SeenInGoneDirectory, 3779),
    (Bug::OtherNamesForgotten, 20),
    (Bug::StoredForOtherBytes, 4),
    (Bug::SyncedBeforeApplied, 5),
    (Bug::SyncedBeforeAnswered, 5),
    (Bug::GoneWhileOffered, 122),
    (Bug::DirectoryTimesForgotten, 0),
    (Bug::BatchNumberReused, 0),
    (Bug::ExistsIsFinal, 200),
    (Bug::OwnCommitSkipsOthers, 46),
    (Bug::BaselineKeepsEverything, 101),
    (Bug::BaselineDeletes, 181),
    (Bug::MissingChunksNotRead, 99),
    (Bug::NoRemotePrecondition, 40),
    (Bug::NameTakenUnchecked, 25),
    (Bug::NotEmptyUnchecked, 86),
    (Bug::ParentUnchecked, 145),
    (Bug::BatchTakenTwice, 98),
    (Bug::TagIgnored, 31),
    (Bug::NoSettleTime, 8726),
    (Bug::OwnApplyIsUserChange, 444),
    (Bug::MadeDirectoryNotListed, 1180),
    (Bug::NoLocalPrecondition, 617),
    (Bug::WalkPassesTheMoved, 1511),
    (Bug::ReturnTakesOtherId, 412),
];

/// Hunts one bug: with its story, with the seed that is known to catch it, then through the seeds from `from` on; `None` when
/// none of `seeds_max` caught it.
pub fn hunt(bug: Bug, from: u64, seeds_max: u64, fresh: bool) -> Option<Catch> {
    let mut own = stories().filter(|(other, _)| *other == bug && !fresh);
    if let Some(failure) = own.find_map(|(_, story)| tell(bug, story)) {
        return Some(Catch { seeds: 0, seed: 0, failure });
    }
    let known = KNOWN.iter().filter(|(other, _)| *other == bug && !fresh).map(|(_, seed)| *seed);
    // A seed may have been found before runs were varied, or since.
    let known = known.flat_map(|seed| [(seed, Plan::drawn(seed)), (seed, Plan::of(seed))]);
    let fresh = (from..from + seeds_max).map(|seed| (seed, Plan::of(seed)));
    known.chain(fresh).zip(1..).find_map(|((seed, plan), seeds)| {
        let plan = lengthened(plan);
        let failure = run(Some(bug), &plan)?;
        // A seed that fails without the bug as well has caught something else.
        let own = run(None, &plan).is_none();
        own.then_some(Catch { seeds, seed, failure })
    })
}

/// In two of three runs much more is done than in the simulation's own runs, so that what is rare is met.
fn lengthened(plan: Plan) -> Plan {
    let times = [1, 4, 4][(plan.seed % 3) as usize];
    Plan { hash_all: false, actions: plan.actions * times, ..plan }
}

/// Runs a plan with a bug, or with none; what the oracles say. A panic is an oracle, too.
pub fn run(bug: Option<Bug>, plan: &Plan) -> Option<String> {
    plant(bug);
    let failure = World::new(plan.clone()).run().failure;
    plant(None);
    failure
}

/// Tells a story with a bug and without; what is wrong with the bug alone, be it only that the share ends otherwise.
pub fn tell(bug: Bug, story: &str) -> Option<String> {
    let told = |bug| {
        plant(bug);
        let outcome = World::new(Plan::told(story)).run();
        plant(None);
        outcome
    };
    let (right, wrong) = (told(None), told(Some(bug)));
    // A story that fails by itself shows nothing.
    if right.failure.is_some() {
        return None;
    }
    let otherwise = || format!("the share ends as {:?}, not as {:?}", wrong.tree, right.tree);
    wrong.failure.clone().or_else(|| (wrong.tree != right.tree).then(otherwise))
}

/// Hunts many bugs on several threads. `told` hears of each as soon as it is decided.
pub fn hunt_all(
    bugs: &[Bug],
    from: u64,
    seeds_max: u64,
    fresh: bool,
    threads: usize,
    told: &(dyn Fn(Bug, Option<&Catch>) + Sync),
) -> BTreeMap<Bug, Option<Catch>> {
    let next = std::sync::atomic::AtomicUsize::new(0);
    let found = std::sync::Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                while let Some(bug) = bugs.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
                    let catch = hunt(*bug, from, seeds_max, fresh);
                    told(*bug, catch.as_ref());
                    found.lock().expect("nobody panics with the lock").insert(*bug, catch);
                }
            });
        }
    });
    found.into_inner().expect("nobody panics with the lock")
}
