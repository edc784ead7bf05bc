//! Told runs, as tests tell them.
#![allow(dead_code, reason = "each test binary uses a part")]

use polder_sim::{Outcome, Plan, World, run_twice};

/// Runs a story twice: both runs are alike, and all oracles content.
pub fn passes(story: &str) {
    let outcome = run_twice(&Plan::told(story));
    assert_eq!(outcome.failure, None, "{story}");
}

/// Runs a story; its outcome, once all oracles were content.
pub fn run(story: &str) -> Outcome {
    let outcome = World::new(Plan { trace: true, ..Plan::told(story) }).run();
    if let Some(failure) = &outcome.failure {
        panic!("{}\n{failure}\n{story}", outcome.trace.join("\n"));
    }
    outcome
}

/// What the share holds in the end, without the numbers of nodes.
pub fn tree(outcome: &Outcome) -> Vec<&str> {
    outcome.tree.iter().filter_map(|line| line.split(" #").next()).collect()
}
