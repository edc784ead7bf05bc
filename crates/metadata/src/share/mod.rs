//! Rows of one share (`docs/formats/share.md`): in memory, and in SQLite, one file a share.
//!
//! [`ShareDb`] is the handle that many threads use. Writers queue for one thread, which runs what waits in one
//! transaction (one fsync) and answers when that is durable; readers have connections of their own and see whole commits
//! only. A process that dies leaves a database of whole commits, by SQLite's write-ahead log.

mod db;
mod memory;
mod open;
#[cfg(all(test, feature = "shuttle"))]
mod orders;
mod pool;
mod sqlite;
mod sync;
mod table;
mod writer;

pub use db::ShareDb;
pub use memory::MemoryRows;
pub use open::{OpenError, SHARE_DB_VERSION};
