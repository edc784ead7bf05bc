//! One suite for a share's rows, run by every form of them: memory is the reference, SQLite is what ships.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod bounds;
mod commits;
mod feed;
mod golden;
mod history;
mod model;
mod packs;
mod reads;
mod rows;
mod store;
mod support;
#[cfg(feature = "zoo")]
mod zoo;
