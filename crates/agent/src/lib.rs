//! The agent: composition root on a registered server.
//!
//! The reason for this crate: the engine decides, `replica` touches the disk, `chunk` makes bytes into chunks, `api`
//! speaks to the service, and none of them knows another. Here their facts and effects meet.
//!
//! ```text
//! holder ── starts, again and again ──► worker
//!                                        ├─ session        one standing connection to the service
//!                                        ├─ control socket for the command line
//!                                        └─ endpoint (each)
//!                                             ├─ control thread: event → engine::step → commit → effects
//!                                             ├─ disk jobs:   look, list, watch, apply
//!                                             ├─ store lanes: read → chunk → pack → put
//!                                             └─ fetch:       locate → get → open → stage
//! ```
//!
//! Architecture invariant: nothing here decides what happens to a file. A job does what its effect says, under the
//! expectations that the effect names, and reports a fact.
//!
//! Architecture invariant: an effect is begun only after the state database's transaction that it came with was
//! committed ([`endpoint`]); durably, where the effect says so.
//!
//! What a crash leaves behind: staged files (emptied at start), packs that nothing names (prune takes them), and a
//! recycle area that is judged by content at the next start.

mod chunks;
mod connection;
mod control;
mod detach;
mod endpoint;
mod enrol;
mod holder;
mod left_behind;
mod noted;
mod policy;
mod session;
mod state_dir;
mod status;
mod survey;
mod sync;
mod tiered;
mod worker;

pub use enrol::{RegisterOptions, Registered, default_name, register};
pub use holder::{HolderOptions, hold};
pub use left_behind::{LeftFile, Recall, Recalled, Versions, make_changeable, recall};
pub use state_dir::{Identity, StateDir, StateDirError};
pub use survey::{Survey, ensure_can_tier, is_left_out, is_mounted, survey};
pub use worker::{WorkerOptions, work};
