//! Rows in SQLite. One connection; its statements stay prepared.

mod attrs;
mod columns;
mod read;
mod volatile;
mod write;

use std::cell::RefCell;

use polder_ledger::RowsError;
use rusqlite::{Connection, ErrorCode, Params, Row};

use self::attrs::AttrCache;
use self::columns::Bad;

type Result<T> = std::result::Result<T, RowsError>;

/// A share's rows over one connection.
pub(super) struct SqliteRows {
    connection: Connection,
    attrs: RefCell<AttrCache>,
}

impl SqliteRows {
    pub fn new(connection: Connection) -> Self {
        Self { connection, attrs: RefCell::default() }
    }

    /// Begins a transaction that writes, which locks the share against other writers.
    pub fn begin(&mut self) -> Result<()> {
        self.run("begin a transaction", "BEGIN IMMEDIATE", [])
    }

    /// Begins a part of it that can fail alone.
    pub fn begin_part(&mut self) -> Result<()> {
        self.run("begin a part of a transaction", "SAVEPOINT part", [])
    }

    /// Ends a part: keeps it, or takes back what it wrote.
    pub fn end_part(&mut self, keep: bool) -> Result<()> {
        if !keep {
            // Attributes that the part wrote are gone from the table, so they must not be remembered.
            self.attrs.take();
            self.run("take back a part of a transaction", "ROLLBACK TO part", [])?;
        }
        self.run("end a part of a transaction", "RELEASE part", [])
    }

    /// Makes the transaction durable.
    pub fn commit(&mut self) -> Result<()> {
        let ended = self.run("commit", "COMMIT", []);
        if ended.is_err() {
            self.roll_back();
        }
        ended
    }

    /// Takes everything back. SQLite may have done so itself after an error; the connection is then idle already.
    pub fn roll_back(&mut self) {
        self.attrs.take();
        if !self.is_idle()
            && let Err(error) = self.connection.execute_batch("ROLLBACK")
        {
            // The next BEGIN fails and says so to whoever asks for it.
            debug_assert!(!self.is_idle(), "{error}");
        }
    }

    /// Begins a transaction that reads: from here on one moment is seen.
    pub fn begin_reading(&mut self) -> Result<()> {
        self.run("begin to read", "BEGIN", [])
    }

    /// Ends it.
    pub fn end_reading(&mut self) -> Result<()> {
        self.run("end reading", "COMMIT", [])
    }

    /// Whether no transaction is open.
    pub fn is_idle(&self) -> bool {
        self.connection.is_autocommit()
    }

    /// Runs a statement that answers no row.
    fn run(&self, doing: &'static str, sql: &'static str, params: impl Params) -> Result<()> {
        self.change(doing, sql, params).map(drop)
    }

    /// Runs a statement; how many rows it changed.
    fn change(&self, doing: &'static str, sql: &'static str, params: impl Params) -> Result<usize> {
        let run = || self.connection.prepare_cached(sql)?.execute(params);
        run().map_err(|error| failed(doing, error))
    }

    /// Runs a statement that must change exactly one row.
    fn change_one(&self, doing: &'static str, sql: &'static str, params: impl Params) -> Result<()> {
        match self.change(doing, sql, params)? {
            1 => Ok(()),
            0 => Err(RowsError::corrupt(format!("{doing}: the row is missing"))),
            _ => Err(RowsError::corrupt(format!("{doing}: there is more than one row"))),
        }
    }

    /// The first row of a query.
    fn first<T>(
        &self,
        doing: &'static str,
        sql: &'static str,
        params: impl Params,
        decode: impl FnOnce(&Row<'_>) -> std::result::Result<T, Bad>,
    ) -> Result<Option<T>> {
        let find = || -> std::result::Result<Option<T>, Bad> {
            let mut statement = self.connection.prepare_cached(sql)?;
            let mut rows = statement.query(params)?;
            rows.next()?.map(decode).transpose()
        };
        find().map_err(|bad| bad.during(doing))
    }

    /// All rows of a query, which bounds their number itself.
    fn all<T>(
        &self,
        doing: &'static str,
        sql: &'static str,
        params: impl Params,
        mut decode: impl FnMut(&Row<'_>) -> std::result::Result<T, Bad>,
    ) -> Result<Vec<T>> {
        let find = || -> std::result::Result<Vec<T>, Bad> {
            let mut statement = self.connection.prepare_cached(sql)?;
            let mut rows = statement.query(params)?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                found.push(decode(row)?);
            }
            Ok(found)
        };
        find().map_err(|bad| bad.during(doing))
    }
}

/// What an error of SQLite means to the core.
pub(super) fn failed(doing: &'static str, error: rusqlite::Error) -> RowsError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => RowsError::Busy { doing },
        Some(
            ErrorCode::DiskFull | ErrorCode::ReadOnly | ErrorCode::SystemIoFailure | ErrorCode::CannotOpen,
        ) => RowsError::Disk { doing, why: error.to_string() },
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            RowsError::corrupt(format!("{doing}: {error}"))
        }
        // The core looked before it wrote, inside the same transaction: a second row is damage, not a race.
        Some(ErrorCode::ConstraintViolation) => RowsError::corrupt(format!("{doing}: {error}")),
        _ => RowsError::Failed { doing, source: Box::new(error) },
    }
}

#[cfg(test)]
mod tests {
    use polder_ledger::{Rows, RowsMut, SnapshotRow};
    use polder_types::Cursor;

    use super::*;

    fn snapshot(nth: u32) -> SnapshotRow {
        let (name, note) = (format!("{nth:06}").into(), "x".repeat(200).into());
        SnapshotRow { name, cursor: Cursor::default(), time_ms: 1, note }
    }

    /// The whole way of the writer thread: what was committed stays, what was not is gone, and it goes on.
    #[test]
    fn a_full_disk_voids_the_transaction_and_passes() {
        let dir = tempfile::tempdir().unwrap();
        let mut rows = SqliteRows::new(super::super::open::writer(&dir.path().join("share.db")).unwrap());
        rows.begin().unwrap();
        rows.insert_snapshot(&snapshot(0)).unwrap();
        rows.commit().unwrap();
        let pages: i64 = rows.connection.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
        rows.connection.pragma_update(None, "max_page_count", pages + 3).unwrap();

        rows.begin().unwrap();
        rows.begin_part().unwrap();
        let full = (1..10_000).find_map(|nth| rows.insert_snapshot(&snapshot(nth)).err()).unwrap();
        assert!(matches!(full, RowsError::Disk { .. }) && full.is_temporary(), "{full}");
        if rows.end_part(false).is_ok() {
            rows.commit().unwrap();
        } else {
            rows.roll_back();
        }
        assert!(rows.is_idle());
        assert_eq!(rows.snapshots(None, 100).unwrap().len(), 1);

        rows.connection.pragma_update(None, "max_page_count", 1_000_000).unwrap();
        rows.begin().unwrap();
        rows.insert_snapshot(&snapshot(1)).unwrap();
        rows.commit().unwrap();
        assert_eq!(rows.snapshots(None, 100).unwrap().len(), 2);
    }
}
