//! Simulation in one process: servers with real engines, the service's commit core, packs, users, faults, and oracles;
//! everything drawn from a seed.
//!
//! The reason for this crate: what goes wrong between several servers goes wrong in orders of events that nobody thinks
//! of. Here a seed draws the order, and a failing seed is a story that can be told again.
//!
//! Parts: [`plan`] (what a seed switches on), [`world`] (time, network, faults, oracles), [`host`] (a server: engine,
//! store, disk, executor), [`disk`], [`service`], [`users`] (actors), [`tiers`] (what is wanted of tiered files), [`ghost`] (what users did), [`story`] (a run in
//! words), [`stories`] (those of the bug zoo), [`scene`] (what a told run leaves).
//!
//! Architecture invariant: for developers only; nothing that ships depends on it.

pub mod disk;
pub mod ghost;
pub mod host;
pub mod plan;
pub mod rng;
pub mod scene;
pub mod service;
pub mod shrink;
pub mod stories;
pub mod story;
pub mod tiers;
mod trace;
pub mod users;
pub mod world;
#[cfg(feature = "zoo")]
pub mod zoo;

pub use disk::Times;
pub use plan::{Plan, Tiering};
pub use world::{AtGates, Outcome, World};

/// Runs a seed twice: the second run must be the first again.
pub fn run_twice(plan: &Plan) -> Outcome {
    let first = World::new(plan.clone()).run();
    let second = World::new(plan.clone()).run();
    let failure = first
        .failure
        .or_else(|| (first.hash != second.hash).then(|| "two runs of one seed differ".to_owned()));
    Outcome { failure, ..second }
}
