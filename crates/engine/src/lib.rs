//! The control core of the agent for one endpoint, as a state machine: [`Engine::step`].
//!
//! The reason for this crate: everything that the agent decides in time (what to look at, read, offer, apply, and
//! when) is one function of facts, so that the simulator can draw every order of events and every crash from a seed
//! (`docs/design/2026-11-23-first-line.md`, section 3). What is decided about a file is `polder_sync::plan`; this
//! crate decides when there is enough to decide it, and carries it out once.
//!
//! Architecture invariant: no clock, thread, random source, file or socket. Time is an argument, ids come from a seed,
//! rows from a [`polder_sync::TreeStore`].
//!
//! Architecture invariant: nothing that is to be done is persisted, only what was observed and agreed. After a crash
//! the scan and the feed lead to the same plan again.

mod applies;
mod brake;
mod durable;
mod effect;
mod engine;
mod event;
mod identity;
mod inside;
mod leftovers;
mod looks;
mod mode;
mod names;
mod observe;
mod overlay;
mod pin;
mod planning;
mod pledges;
mod problems;
mod rand;
mod reads;
mod refused;
mod report;
mod review;
mod rows;
mod scan;
mod sends;
mod session;
mod settings;
mod status;
mod step;
mod words;
mod work;

pub use effect::{Apply, ApplyAct, ApplyOver, ApplyStep, Effect, LookAt, PageToken, Read};
pub use engine::{Engine, EngineError};
pub use event::{
    Anew, Announced, ApplyResult, BatchError, Command, Event, FeedError, FeedRow, Hint, Kept, ListEnd,
    ListPart, Look, LookFound, Page, ReadOutcome, RootSeen, Started, Unreachable,
};
pub use pin::{BEHIND_MAX, Pin};
pub use settings::{BrakeSettings, InitialMode, LARGE_BYTES, Limits, Settings};
pub use status::{
    Found, Held, Level, LogLine, PROBLEMS_LISTED_MAX, Phase, Problem, Reason, Remaining, SkipReason, Skipped,
    Status,
};
pub use words::{Dir, Failure, FailureClass, JobId, Lane, Now, Place, SeenDir, SeenEntry};
