//! The hunt: for each bug of the zoo ([`polder_types::zoo`]), seeds are run until an oracle says that something is wrong.
//!
//! A bug that no oracle sees is a hole in the simulation. Whoever adds a bug adds it in the place of the decision that it
//! spoils, runs the hunt, and widens the simulation until it is caught.

use std::collections::BTreeMap;

use polder_types::zoo::{Bug, plant};

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

/// Hunts one bug through the seeds from `from` on; `None` when none of `seeds_max` caught it. A seed that fails without
/// the bug as well has caught something else.
pub fn hunt(bug: Bug, from: u64, seeds_max: u64) -> Option<Catch> {
    (from..from + seeds_max).find_map(|seed| {
        let failure = run(Some(bug), seed)?;
        let own = run(None, seed).is_none();
        own.then_some(Catch { seeds: seed - from + 1, seed, failure })
    })
}

/// Runs one seed with a bug, or with none; what the oracles say. A panic is an oracle, too.
pub fn run(bug: Option<Bug>, seed: u64) -> Option<String> {
    plant(bug);
    let failure = World::new(Plan { hash_all: false, ..Plan::of(seed) }).run().failure;
    plant(None);
    failure
}

/// Hunts many bugs on several threads. `told` hears of each as soon as it is decided.
pub fn hunt_all(
    bugs: &[Bug],
    from: u64,
    seeds_max: u64,
    threads: usize,
    told: &(dyn Fn(Bug, Option<&Catch>) + Sync),
) -> BTreeMap<Bug, Option<Catch>> {
    let next = std::sync::atomic::AtomicUsize::new(0);
    let found = std::sync::Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                while let Some(bug) = bugs.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
                    let catch = hunt(*bug, from, seeds_max);
                    told(*bug, catch.as_ref());
                    found.lock().expect("nobody panics with the lock").insert(*bug, catch);
                }
            });
        }
    });
    found.into_inner().expect("nobody panics with the lock")
}
