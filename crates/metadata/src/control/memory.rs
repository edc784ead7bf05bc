//! The rows in memory: for tests and the simulator. One lock, and an undo list for a transaction that fails.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::ControlError;
use super::rows::{ControlPort, LogRow, Row, Rows, Table};

/// A store that forgets everything with the process.
#[derive(Debug, Default)]
pub struct MemoryRows(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    rows: BTreeMap<(Table, Vec<u8>), Row>,
    log: Vec<LogRow>,
    /// Rows as they were before this transaction, the oldest first.
    undo: Vec<(Table, Vec<u8>, Option<Row>)>,
    log_len_before: usize,
}

impl MemoryRows {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic inside a transaction leaves its undo list; the next one rolls back first.
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.roll_back();
        state
    }
}

impl ControlPort for MemoryRows {
    fn read(&self, work: &mut dyn FnMut(&dyn Rows) -> Result<(), ControlError>) -> Result<(), ControlError> {
        work(&*self.lock())
    }

    fn write(
        &self,
        work: &mut dyn FnMut(&mut dyn Rows) -> Result<(), ControlError>,
    ) -> Result<(), ControlError> {
        let mut state = self.lock();
        let done = work(&mut *state);
        if done.is_ok() {
            state.keep()
        } else {
            state.roll_back()
        }
        done
    }
}

impl State {
    fn keep(&mut self) {
        self.undo.clear();
        self.log_len_before = self.log.len();
    }

    fn roll_back(&mut self) {
        while let Some((table, key, row)) = self.undo.pop() {
            match row {
                Some(row) => self.rows.insert((table, key), row),
                None => self.rows.remove(&(table, key)),
            };
        }
        self.log.truncate(self.log_len_before);
    }
}

impl Rows for State {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Row>, ControlError> {
        Ok(self.rows.get(&(table, key.to_vec())).cloned())
    }

    fn find(&self, table: Table, name: &str) -> Result<Option<Row>, ControlError> {
        let mut rows = self.list(table, None, None, usize::MAX)?.into_iter();
        Ok(rows.find(|row| row.name.as_deref() == Some(name)))
    }

    fn list(
        &self,
        table: Table,
        parent: Option<&[u8]>,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Row>, ControlError> {
        let first = match after {
            Some(key) => Bound::Excluded((table, key.to_vec())),
            None => Bound::Included((table, Vec::new())),
        };
        let of_table =
            self.rows.range((first, Bound::Unbounded)).take_while(|((other, _), _)| *other == table);
        let of_parent = of_table.filter(|(_, row)| parent.is_none() || row.parent.as_deref() == parent);
        Ok(of_parent.take(limit).map(|(_, row)| row.clone()).collect())
    }

    fn put(&mut self, table: Table, row: &Row) -> Result<(), ControlError> {
        if let Some(name) = &row.name
            && self.find(table, name)?.is_some_and(|other| other.key != row.key)
        {
            return Err(ControlError::NameTaken { what: table, name: name.clone() });
        }
        let before = self.rows.insert((table, row.key.clone()), row.clone());
        self.undo.push((table, row.key.clone(), before));
        Ok(())
    }

    fn delete(&mut self, table: Table, key: &[u8]) -> Result<bool, ControlError> {
        let before = self.rows.remove(&(table, key.to_vec()));
        let was_there = before.is_some();
        self.undo.push((table, key.to_vec(), before));
        Ok(was_there)
    }

    fn log_head(&self) -> Result<Option<LogRow>, ControlError> {
        Ok(self.log.last().cloned())
    }

    fn log_append(&mut self, row: &LogRow) -> Result<(), ControlError> {
        assert_eq!(row.seq, self.log.len() as u64 + 1, "the caller numbers entries without gaps");
        self.log.push(row.clone());
        Ok(())
    }

    fn log_range(&self, first: u64, limit: usize) -> Result<Vec<LogRow>, ControlError> {
        Ok(self.log.iter().filter(|row| row.seq >= first).take(limit).cloned().collect())
    }
}
