//! The rows in one SQLite file.
//!
//! WAL, every transaction durable (`synchronous=FULL`) and every writing one begun as a writer (`BEGIN IMMEDIATE`),
//! so that processes which share the file wait for each other instead of failing half-way. A table of documents and a
//! table of log entries that triggers keep append-only.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension, TransactionBehavior, params};

use super::ControlError;
use super::rows::{ControlPort, LogRow, Row, Rows, Table};

/// Each step brings a database from its index to the next version. Steps are never changed once released.
const MIGRATIONS: &[&str] = &["
    CREATE TABLE object (
        kind INTEGER NOT NULL, key BLOB NOT NULL, name TEXT, parent BLOB, doc BLOB NOT NULL,
        PRIMARY KEY (kind, key)
    ) WITHOUT ROWID;
    CREATE UNIQUE INDEX object_name ON object (kind, name) WHERE name IS NOT NULL;
    CREATE INDEX object_parent ON object (kind, parent, key) WHERE parent IS NOT NULL;
    CREATE TABLE audit (seq INTEGER PRIMARY KEY, doc BLOB NOT NULL);
    CREATE TRIGGER audit_no_update BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'append only'); END;
    CREATE TRIGGER audit_no_delete BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'append only'); END;
"];

/// How long a process waits for another one's transaction.
const BUSY_WAIT: Duration = Duration::from_secs(30);

/// A store in a file.
pub struct SqliteRows {
    /// Readers do not wait for the writer: each has its connection.
    reader: Mutex<Connection>,
    writer: Mutex<Connection>,
}

impl SqliteRows {
    /// Opens the database at `path`, makes it when there is none, migrates an older one; a newer one is refused
    /// with [`ControlError::Newer`] and left alone.
    pub fn open(path: &Path) -> Result<Self, ControlError> {
        let mut writer = connect(path)?;
        migrate(&mut writer)?;
        Ok(Self { reader: Mutex::new(connect(path)?), writer: Mutex::new(writer) })
    }
}

fn failed(doing: &'static str) -> impl FnOnce(rusqlite::Error) -> ControlError {
    move |source| ControlError::Store { doing, source: source.into() }
}

fn connect(path: &Path) -> Result<Connection, ControlError> {
    let flags =
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags).map_err(failed("open its file"))?;
    let set_up = || {
        crate::ensure_writable(&db)?;
        db.busy_timeout(BUSY_WAIT)?;
        db.pragma_update(None, "journal_mode", "WAL")?;
        db.pragma_update(None, "synchronous", "FULL")
    };
    set_up().map_err(failed("set up its connection"))?;
    Ok(db)
}

fn migrate(db: &mut Connection) -> Result<(), ControlError> {
    let known = MIGRATIONS.len() as i64;
    let tx =
        db.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed("begin a migration"))?;
    let found: i64 =
        tx.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(failed("read its version"))?;
    if found > known {
        return Err(ControlError::Newer { found, known });
    }
    for step in &MIGRATIONS[found.max(0) as usize..] {
        tx.execute_batch(step).map_err(failed("migrate"))?;
    }
    if found < known {
        tx.pragma_update(None, "user_version", known).map_err(failed("write its version"))?;
    }
    tx.commit().map_err(failed("commit a migration"))
}

fn lock(db: &Mutex<Connection>) -> MutexGuard<'_, Connection> {
    // A panic in a transaction drops it, and SQLite rolls it back: the connection is whole.
    db.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ControlPort for SqliteRows {
    fn read(&self, work: &mut dyn FnMut(&dyn Rows) -> Result<(), ControlError>) -> Result<(), ControlError> {
        let mut db = lock(&self.reader);
        let tx = db.transaction().map_err(failed("begin to read"))?;
        work(&Transaction(&tx))
    }

    fn write(
        &self,
        work: &mut dyn FnMut(&mut dyn Rows) -> Result<(), ControlError>,
    ) -> Result<(), ControlError> {
        let mut db = lock(&self.writer);
        let tx =
            db.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed("begin to write"))?;
        work(&mut Transaction(&tx))?;
        tx.commit().map_err(failed("commit"))
    }
}

struct Transaction<'a>(&'a Connection);

fn read_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<Row> {
    Ok(Row { key: row.get(0)?, name: row.get(1)?, parent: row.get(2)?, doc: row.get(3)? })
}

fn read_log(row: &rusqlite::Row<'_>) -> rusqlite::Result<LogRow> {
    Ok(LogRow { seq: row.get::<_, i64>(0)? as u64, doc: row.get(1)? })
}

impl Rows for Transaction<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Row>, ControlError> {
        let read = || {
            let mut find = self
                .0
                .prepare_cached("SELECT key, name, parent, doc FROM object WHERE kind = ?1 AND key = ?2")?;
            find.query_row(params![table as u8, key], read_row).optional()
        };
        read().map_err(failed("read a row"))
    }

    fn find(&self, table: Table, name: &str) -> Result<Option<Row>, ControlError> {
        let read = || {
            let mut find = self
                .0
                .prepare_cached("SELECT key, name, parent, doc FROM object WHERE kind = ?1 AND name = ?2")?;
            find.query_row(params![table as u8, name], read_row).optional()
        };
        read().map_err(failed("find a name"))
    }

    fn list(
        &self,
        table: Table,
        parent: Option<&[u8]>,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Row>, ControlError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        // An empty blob sorts before every key, and no key is empty.
        let after = after.unwrap_or_default();
        let read = || -> rusqlite::Result<Vec<Row>> {
            match parent {
                None => {
                    let mut list = self.0.prepare_cached(
                    "SELECT key, name, parent, doc FROM object WHERE kind = ?1 AND key > ?2 ORDER BY key LIMIT ?3",
                )?;
                    list.query_map(params![table as u8, after, limit], read_row)?.collect()
                }
                Some(parent) => {
                    let mut list = self.0.prepare_cached(
                    "SELECT key, name, parent, doc FROM object WHERE kind = ?1 AND parent = ?2 AND key > ?3
                     ORDER BY key LIMIT ?4",
                )?;
                    list.query_map(params![table as u8, parent, after, limit], read_row)?.collect()
                }
            }
        };
        read().map_err(failed("list rows"))
    }

    fn put(&mut self, table: Table, row: &Row) -> Result<(), ControlError> {
        if let Some(name) = &row.name
            && self.find(table, name)?.is_some_and(|other| other.key != row.key)
        {
            return Err(ControlError::NameTaken { what: table, name: name.clone() });
        }
        let write = || {
            let mut put = self.0.prepare_cached(
                "INSERT INTO object (kind, key, name, parent, doc) VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT (kind, key) DO UPDATE SET name = ?3, parent = ?4, doc = ?5",
            )?;
            put.execute(params![table as u8, row.key, row.name, row.parent, row.doc])
        };
        write().map(drop).map_err(failed("write a row"))
    }

    fn delete(&mut self, table: Table, key: &[u8]) -> Result<bool, ControlError> {
        let delete = || {
            self.0
                .prepare_cached("DELETE FROM object WHERE kind = ?1 AND key = ?2")?
                .execute(params![table as u8, key])
        };
        delete().map(|count| count > 0).map_err(failed("delete a row"))
    }

    fn log_head(&self) -> Result<Option<LogRow>, ControlError> {
        let read = || {
            self.0
                .prepare_cached("SELECT seq, doc FROM audit ORDER BY seq DESC LIMIT 1")?
                .query_row([], read_log)
                .optional()
        };
        read().map_err(failed("read the audit log"))
    }

    fn log_append(&mut self, row: &LogRow) -> Result<(), ControlError> {
        let write = || {
            self.0
                .prepare_cached("INSERT INTO audit (seq, doc) VALUES (?1, ?2)")?
                .execute(params![row.seq as i64, row.doc])
        };
        write().map(drop).map_err(failed("append to the audit log"))
    }

    fn log_range(&self, first: u64, limit: usize) -> Result<Vec<LogRow>, ControlError> {
        let (first, limit) =
            (i64::try_from(first).unwrap_or(i64::MAX), i64::try_from(limit).unwrap_or(i64::MAX));
        let read = || -> rusqlite::Result<Vec<LogRow>> {
            let mut list =
                self.0.prepare_cached("SELECT seq, doc FROM audit WHERE seq >= ?1 ORDER BY seq LIMIT ?2")?;
            list.query_map(params![first, limit], read_log)?.collect()
        };
        read().map_err(failed("read the audit log"))
    }
}
