//! Opening a share's file: settings of SQLite, migrations, and refusal of what we do not know.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, TransactionBehavior};

/// Version of the tables that this program writes.
pub const SHARE_DB_VERSION: u32 = MIGRATIONS.len() as u32;

/// Marks the file as a share's ("PLDS").
const APPLICATION_ID: i32 = 0x504c_4453;
/// One script a version; what was released is never edited.
const MIGRATIONS: [&str; 1] = [include_str!("v1.sql")];
/// How long a statement waits for another process.
const BUSY_MAX: Duration = Duration::from_secs(10);
/// Statements that a connection keeps prepared: all of `sqlite`.
const STATEMENTS_MAX: usize = 128;

/// Why a share's file could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Written by a newer program: it is refused, never repaired.
    #[error("the share database \"{path}\" has version {found}; this program knows versions up to {known}: use a newer one", path = path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// Some other database.
    #[error("\"{path}\" is not a share database", path = path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// SQLite or the disk failed.
    #[error("open share database \"{path}\"", path = path.display())]
    Failed {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: rusqlite::Error,
    },
}

/// The connection that writes: makes the file where it is missing, and brings it up to date.
pub(super) fn writer(path: &Path) -> Result<Connection, OpenError> {
    let failed = |source| OpenError::Failed { path: path.into(), source };
    let mut connection = Connection::open(path).map_err(failed)?;
    crate::ensure_writable(&connection).map_err(failed)?;
    prepare(&connection).map_err(failed)?;
    match look(&connection, path)? {
        SHARE_DB_VERSION => (),
        _ => migrate(&mut connection, path)?,
    }
    Ok(connection)
}

/// A connection that reads a file which the writer has opened before.
pub(super) fn reader(path: &Path) -> Result<Connection, polder_ledger::RowsError> {
    let open = || {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(BUSY_MAX)?;
        steady_plans(&connection)?;
        connection.pragma_update(None, "cache_size", -8_192)?;
        Ok(connection)
    };
    open().map_err(|source: rusqlite::Error| super::sqlite::failed("open share database", source))
}

fn prepare(connection: &Connection) -> Result<(), rusqlite::Error> {
    connection.busy_timeout(BUSY_MAX)?;
    steady_plans(connection)?;
    // FULL: a commit that was answered survives a power cut. The write-ahead log lets readers go on meanwhile.
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    // 32 MiB of pages; a checkpoint every 16 MiB of log, so that it pays for many commits at once; the log's file is cut
    // back to 64 MiB.
    connection.pragma_update(None, "cache_size", -32_768)?;
    connection.pragma_update(None, "wal_autocheckpoint", 4_096)?;
    connection.pragma_update(None, "journal_size_limit", 64 * 1024 * 1024)?;
    connection.pragma_update(None, "foreign_keys", false)
}

/// Keeps statements prepared. The bundled SQLite otherwise plans a statement again whenever a bound of a range is bound
/// to another value: measured, 20 µs a call instead of 2.
fn steady_plans(connection: &Connection) -> Result<(), rusqlite::Error> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    Ok(())
}

/// The file's version, if it is a share's (or empty) and not newer than we are.
fn look(connection: &Connection, path: &Path) -> Result<u32, OpenError> {
    let number = |pragma| {
        let value: Result<i64, _> = connection.pragma_query_value(None, pragma, |row| row.get(0));
        value.map_err(|source| OpenError::Failed { path: path.into(), source })
    };
    let found = number("user_version")? as u32;
    let tables: Result<i64, _> =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0));
    let tables = tables.map_err(|source| OpenError::Failed { path: path.into(), source })?;
    let ours = number("application_id")? == i64::from(APPLICATION_ID);
    if !ours && (tables > 0 || found > 0) {
        return Err(OpenError::Foreign { path: path.into() });
    }
    if found > SHARE_DB_VERSION {
        return Err(OpenError::Newer { path: path.into(), found, known: SHARE_DB_VERSION });
    }
    Ok(found)
}

/// Each version is one transaction. Another process may do the same at the same time: the version is asked again inside.
fn migrate(connection: &mut Connection, path: &Path) -> Result<(), OpenError> {
    let failed = |source| OpenError::Failed { path: path.into(), source };
    for _ in 0..MIGRATIONS.len() {
        let transaction =
            connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
        let version = look(&transaction, path)?;
        let Some(script) = MIGRATIONS.get(version as usize) else { break };
        transaction.execute_batch(script).map_err(failed)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID).map_err(failed)?;
        transaction.pragma_update(None, "user_version", version + 1).map_err(failed)?;
        transaction.commit().map_err(failed)?;
    }
    Ok(())
}
