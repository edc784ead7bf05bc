//! The rows of shares and of the control plane, in SQLite and in memory.
//!
//! What the rows mean is decided elsewhere: `ledger` for a share, `service` for the control plane. This crate stores
//! and finds them, makes transactions durable, migrates old databases and refuses newer ones.
//!
//! Architecture invariant: no decision of the commit core is made here, and SQL is written nowhere else in the
//! service. Nothing assumes that one process alone uses a database: another process may hold the same share.

pub mod control;
pub mod share;

/// SQLite opens a file for reading alone when it may not be written *now*, for whatever reason, and the connection stays
/// so for ever: an error of a moment would end only with the process.
fn ensure_writable(connection: &rusqlite::Connection) -> Result<(), rusqlite::Error> {
    if !connection.is_readonly(rusqlite::MAIN_DB)? {
        return Ok(());
    }
    let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CANTOPEN);
    Err(rusqlite::Error::SqliteFailure(code, Some("the file cannot be opened for writing".into())))
}
