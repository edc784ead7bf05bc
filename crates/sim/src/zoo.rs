//! The hunt: for each bug of the zoo ([`polder_types::zoo`]), seeds are run until an oracle says that something is wrong.
//!
//! A bug that no oracle sees is a hole in the simulation. Whoever adds a bug adds it in the place of the decision that it
//! spoils, runs the hunt, and widens the simulation until it is caught.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

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
    /// Which oracle spoke.
    pub oracle: String,
    /// What it said.
    pub failure: String,
}

/// Hunts one bug through the seeds from `from` on; `None` when none of `seeds_max` caught it.
pub fn hunt(bug: Bug, from: u64, seeds_max: u64) -> Option<Catch> {
    (from..from + seeds_max).find_map(|seed| {
        let failure = run(Some(bug), seed)?;
        Some(Catch { seeds: seed - from + 1, seed, oracle: oracle_of(&failure), failure })
    })
}

/// Runs one seed with a bug, or with none; what the oracles say.
pub fn run(bug: Option<Bug>, seed: u64) -> Option<String> {
    plant(bug);
    let outcome = catch_unwind(AssertUnwindSafe(|| World::new(Plan::of(seed)).run().failure));
    plant(None);
    match outcome {
        Ok(failure) => failure,
        // What an assertion says in a world that is wrong is as good as an oracle's word.
        Err(panic) => Some(format!("panic: {}", words_of(&*panic))),
    }
}

fn words_of(panic: &(dyn std::any::Any + Send)) -> &str {
    let words = panic.downcast_ref::<&str>().copied();
    words.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without words")
}

/// The oracle that a failure's words are from, without what differs between runs.
fn oracle_of(failure: &str) -> String {
    let first = failure.split([':', '\n']).next().unwrap_or_default();
    let words = first.split_whitespace().filter(|word| !word.contains(|c: char| c.is_ascii_digit()));
    words.take(8).collect::<Vec<_>>().join(" ")
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
