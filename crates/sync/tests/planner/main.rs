//! The planner against models of a disk and a share: tables of named cases, and random ones.

mod case;
mod edits;
mod executor;
mod ghost;
mod literal;
mod plans;
mod property;
mod regressions;
mod rows;
mod scale;
mod servers;
mod world;
#[cfg(feature = "zoo")]
mod zoo;
