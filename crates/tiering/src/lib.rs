//! Which files of an endpoint are on its disk: heat, policies, residency, recall.
//!
//! Everything here is a function of its arguments (`docs/design/2026-11-24-tiering.md`): [`plan`] says who leaves and why
//! the others stay, [`recall_order`] who comes back first, [`Residency`] in which order the disk is changed so that
//! a crash shows right bytes or nothing, [`order`] what it does call by call, [`Recalls`] which pieces are fetched next and for whom, [`Programs`]
//! what a program may recall.
//!
//! Architecture invariant: no clock, no disk, no random order. Nothing here frees a byte: the executor checks each
//! expectation again at that moment (`replica`).

mod choose;
mod glob;
mod heat;
pub mod order;
mod policy;
mod programs;
mod recall;
mod residency;
mod rules;

pub use choose::{File, Listed, Plan, Victim, leaves_again, listed, plan, recall_order, why_stays};
pub use glob::{Glob, GlobError};
pub use heat::{Heat, RECORD_BYTES};
pub use policy::{Endpoint, Policy, Stays, Volume, file_bytes_min};
pub use programs::{Allowance, Budget, Program, Programs, Verdict};
pub use recall::{Asked, Cause, Fetch, Lane, PIECE_BYTES, Reader, Recalls, Settled};
pub use residency::{Effect, Event, Residency, Wish};
pub use rules::{Rule, RuleAction, Rules};
