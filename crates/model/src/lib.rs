//! Model checks: small worlds whose every order of events is tried, with the functions that decide in production.
//!
//! The reason for this crate: some promises hang on orders that a random simulation meets once in a million runs. Where two
//! endpoints, two items and one fault of each kind are enough to break a protocol, a search finds the shortest such
//! story, or has seen that there is none.
//!
//! [`prune`]: a commit is the reference point of chunks. [`commit`]: once-only batches, lost answers, set-backs and epochs.
//! [`clones`]: one identity, two agents. [`presence`]: a file that is tiered, written and recalled. Each says which functions it calls and which it mirrors, and each can be told to
//! leave out one rule ("broken"), so that a test shows that the search finds what that rule prevents.
//!
//! Architecture invariant: for developers only; nothing that ships depends on it.

// The service's own source: the rest of the service is not needed here, and takes minutes to build.
#[path = "../../service/src/chain.rs"]
pub mod chain;
pub mod clones;
pub mod commit;
pub mod presence;
pub mod prune;
pub mod share;

use std::fmt::Debug;
use std::hash::Hash;
use std::time::Instant;

use stateright::{Checker, Model};

/// What a search saw.
#[derive(Debug)]
pub struct Explored<A> {
    /// Different states.
    pub states: usize,
    /// Longest shortest way to one of them.
    pub depth: usize,
    /// For each property that must always hold and does not, or that must hold sometimes and does: its name, and the
    /// shortest story.
    pub stories: Vec<(&'static str, Vec<A>)>,
}

/// Searches all states that can be reached in at most `depth` steps, breadth first, and prints the counts. `usize::MAX`:
/// all states.
pub fn explore<M>(name: &str, model: M, depth: usize) -> Explored<M::Action>
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync,
    M::Action: Clone + Debug + PartialEq + Send + Sync,
{
    let began = Instant::now();
    let checker = model.checker().target_max_depth(depth).threads(1).spawn_bfs().join();
    let mut found: Vec<_> = checker.discoveries().into_iter().collect();
    found.sort_by_key(|(property, _)| *property);
    let (states, depth) = (checker.unique_state_count(), checker.max_depth());
    println!("{name}: {states} states, {depth} steps deep, {:.1} s", began.elapsed().as_secs_f64());
    let mut stories = Vec::new();
    for (property, path) in found {
        let end = format!("{:?}", path.last_state());
        let story = path.into_actions();
        println!("  the shortest story about \"{property}\":");
        story.iter().for_each(|action| println!("    {action:?}"));
        println!("  ends as {end}");
        stories.push((property, story));
    }
    Explored { states, depth, stories }
}
