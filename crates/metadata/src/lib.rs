//! The rows of shares and of the control plane, in SQLite and in memory.
//!
//! What the rows mean is decided elsewhere: `ledger` for a share, `service` for the control plane. This crate stores
//! and finds them, makes transactions durable, migrates old databases and refuses newer ones.
//!
//! Architecture invariant: no decision of the commit core is made here, and SQL is written nowhere else in the
//! service. Nothing assumes that one process alone uses a database: another process may hold the same share.

pub mod control;
pub mod share;
