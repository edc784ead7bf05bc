//! Three trees and the planner: `plan(local, cloud, synced)`.
//!
//! The reason for this crate: what is decided about files must be a function that can be tested a hundred million
//! times, without a disk, a network or a clock (`docs/design/2026-11-23-first-line.md`, section 2).

mod trees;

pub use trees::{CloudNode, LocalContent, LocalNode, Offer, Seen, SyncedNode, TreeError, TreeStore, Trees};
