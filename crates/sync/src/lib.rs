//! Three trees and the planner: `plan(local, cloud, synced)`.
//!
//! The reason for this crate: what is decided about files must be a function that can be tested a hundred million
//! times, without a disk, a network or a clock (`docs/design/2026-11-23-first-line.md`, section 2).
//!
//! Architecture invariant: nothing here acts. A plan says what to do, what it expects to find and why; whoever carries
//! it out re-checks, refuses where the world has moved on, and asks for the next plan. Pending work is never stored.

mod down;
mod draft;
mod filter;
mod graph;
mod listing;
pub mod mem;
mod merge;
mod node;
mod plan;
mod planner;
mod trees;
mod up;
mod work;

pub use filter::{DEFAULT_PATTERNS, Filter, FilterError, PATTERN_BYTES_MAX};
pub use listing::{Differences, compare_listing};
pub use plan::{
    Act, Apply, Becomes, Change, Displaced, Held, HeldReason, Over, Plan, PlannedGroup, PlannedOp, Read,
    ReadIntent, Reason, Rekeyed, Settled, Waiting,
};
pub use planner::{Extra, Rule, Settings, plan};
pub use trees::{
    CloudNode, LocalContent, LocalNode, Offer, Seen, StandsFor, SyncedNode, TreeError, TreeStore, Trees,
};
