//! Retention, schedules and the prune plan.
//!
//! Here now: prune. [`plan_prune`] decides from the rows of a share's packs, from its chunk index and from the marks of all that is
//! referenced, which packs are condemned, spared, deleted, repacked or merged, and says why. The service runs the plan.
//! Retention and schedules come with backup policies.
//!
//! Architecture invariant: a plan is a value without choices left to whoever runs it, and the same inputs give the same
//! plan. Time comes in as the service's own monotone time; nothing here reads a clock, a row or a store.
//!
//! Architecture invariant: doubt keeps. A mark that is wrong, a pack that is young, a look that is old, time that jumped: each
//! leaves a pack where it is.

mod marks;
mod plan;
mod prune;

pub use marks::{MarkSet, MarkSetBuilder, Marks, TooManyMarks};
pub use plan::{Condemn, Delete, Merge, PrunePlan, Repack, Spare, Waiting};
pub use prune::{HomedChunk, Look, PackFacts, PackState, PlanError, PruneSettings, ServiceTime, plan_prune};
