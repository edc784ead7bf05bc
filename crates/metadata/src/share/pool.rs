//! Connections that read, opened when first needed.

use std::path::Path;

use polder_ledger::{Rows, RowsError};
use polder_types::zoo::{Bug, planted};

use super::open;
use super::sqlite::SqliteRows;
use super::sync::{Condvar, Mutex, PoisonError};

/// What a pool holds.
pub(super) trait Connection: Sized {
    /// Whether it is in the middle of nothing, so that somebody else may use it.
    fn is_idle(&self) -> bool;
}

impl Connection for SqliteRows {
    fn is_idle(&self) -> bool {
        Self::is_idle(self)
    }
}

/// A bounded set of reading connections.
pub(super) struct Pool<C: Connection> {
    open: Box<dyn Fn() -> Result<C, RowsError> + Send + Sync>,
    max: usize,
    state: Mutex<State<C>>,
    freed: Condvar,
}

struct State<C> {
    idle: Vec<C>,
    open: usize,
}

impl Pool<SqliteRows> {
    pub fn new(path: &Path, max: usize) -> Self {
        let path = path.to_owned();
        Self::over(max, move || Ok(SqliteRows::new(open::reader(&path)?)))
    }

    /// Runs `job` inside one reading transaction.
    pub fn read<T, E: From<RowsError>>(&self, job: impl FnOnce(&dyn Rows) -> Result<T, E>) -> Result<T, E> {
        let mut lease = self.lease()?;
        let rows = lease.connection();
        rows.begin_reading()?;
        let answer = job(&*rows);
        rows.end_reading()?;
        answer
    }
}

impl<C: Connection> Pool<C> {
    /// Of connections that `open` makes.
    pub fn over(max: usize, open: impl Fn() -> Result<C, RowsError> + Send + Sync + 'static) -> Self {
        let state = Mutex::new(State { idle: Vec::new(), open: 0 });
        Self { open: Box::new(open), max, state, freed: Condvar::new() }
    }

    /// A connection for as long as the lease lives; waits while all are in use.
    pub fn lease(&self) -> Result<Lease<'_, C>, RowsError> {
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
        lease.rows = Some((self.open)()?);
        Ok(lease)
    }
}

/// A connection while it is used.
pub(super) struct Lease<'a, C: Connection> {
    pool: &'a Pool<C>,
    rows: Option<C>,
}

impl<C: Connection> Lease<'_, C> {
    /// The connection.
    pub fn connection(&mut self) -> &mut C {
        self.rows.as_mut().expect("leased with a connection")
    }
}

impl<C: Connection> Drop for Lease<'_, C> {
    fn drop(&mut self) {
        let mut state = self.pool.state.lock().unwrap_or_else(PoisonError::into_inner);
        // A connection in the middle of something (its job panicked, or it failed) is closed and not used again.
        match self.rows.take().filter(C::is_idle) {
            Some(rows) => state.idle.push(rows),
            None => state.open -= 1,
        }
        drop(state);
        if !planted(Bug::FreedPlaceNotTold) {
            self.pool.freed.notify_one();
        }
    }
}
