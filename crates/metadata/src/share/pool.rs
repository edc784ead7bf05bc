//! Connections that read, opened when first needed.

use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, PoisonError};

use polder_ledger::{Rows, RowsError};

use super::open;
use super::sqlite::SqliteRows;

/// A bounded set of reading connections.
pub(super) struct Pool {
    path: PathBuf,
    max: usize,
    state: Mutex<State>,
    freed: Condvar,
}

#[derive(Default)]
struct State {
    idle: Vec<SqliteRows>,
    open: usize,
}

impl Pool {
    pub fn new(path: &Path, max: usize) -> Self {
        Self { path: path.into(), max, state: Mutex::default(), freed: Condvar::new() }
    }

    /// Runs `job` inside one reading transaction.
    pub fn read<T, E: From<RowsError>>(&self, job: impl FnOnce(&dyn Rows) -> Result<T, E>) -> Result<T, E> {
        let mut lease = self.lease()?;
        let rows = lease.rows.as_mut().expect("leased with rows");
        rows.begin_reading()?;
        let answer = job(&*rows);
        rows.end_reading()?;
        answer
    }

    fn lease(&self) -> Result<Lease<'_>, RowsError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.idle.is_empty() && state.open == self.max {
            state = self.freed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if let Some(rows) = state.idle.pop() {
            return Ok(Lease { pool: self, rows: Some(rows) });
        }
        state.open += 1;
        drop(state);
        // From here on the place is counted, and given back by the lease also when opening fails or a job panics.
        let mut lease = Lease { pool: self, rows: None };
        lease.rows = Some(SqliteRows::new(open::reader(&self.path)?));
        Ok(lease)
    }
}

/// A connection while it is used.
struct Lease<'a> {
    pool: &'a Pool,
    rows: Option<SqliteRows>,
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        let mut state = self.pool.state.lock().unwrap_or_else(PoisonError::into_inner);
        // A connection in the middle of something (its job panicked, or it failed) is closed and not used again.
        match self.rows.take().filter(SqliteRows::is_idle) {
            Some(rows) => state.idle.push(rows),
            None => state.open -= 1,
        }
        drop(state);
        self.pool.freed.notify_one();
    }
}
