//! The handle on a share's rows.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};

use polder_ledger::{Rows, RowsError, RowsMut};

use super::open::{self, OpenError};
use super::pool::Pool;
use super::writer::{self, Job, Writer};
use super::{MemoryRows, sqlite};

/// Connections that read at the same time.
const READERS_MAX: usize = 4;

/// A share's rows, shared by all threads of a process. Clones are the same database.
#[derive(Clone)]
pub struct ShareDb {
    form: Form,
}

#[derive(Clone)]
enum Form {
    Sqlite { writer: Arc<Writer>, readers: Arc<Pool<sqlite::SqliteRows>> },
    Memory(Arc<Mutex<MemoryRows>>),
}

impl ShareDb {
    /// Opens the database file of a share, makes it where it is missing, brings an older one up to date, and refuses a newer
    /// one. Blocks for disk.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let connection = open::writer(path)?;
        let writer = Arc::new(Writer::start(sqlite::SqliteRows::new(connection)));
        Ok(Self { form: Form::Sqlite { writer, readers: Arc::new(Pool::new(path, READERS_MAX)) } })
    }

    /// An empty database in memory.
    pub fn memory() -> Self {
        Self { form: Form::Memory(Arc::new(Mutex::new(MemoryRows::new()))) }
    }

    /// Runs `job` in a transaction that writes, and answers when it is durable. An error of the job takes back all that
    /// it wrote, and nothing that other jobs wrote in the same transaction. Blocks: on a thread that must not, use
    /// [`ShareDb::submit`].
    ///
    /// A job should be short (some thousand rows): all others wait for it.
    pub fn write<T, E>(
        &self,
        job: impl FnOnce(&mut dyn RowsMut) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<RowsError> + Send + 'static,
    {
        let (send, receive) = mpsc::sync_channel(1);
        self.submit(job, move |answer| {
            // Nobody is left to tell when the receiver is gone; it waits below, so it is not.
            let _ = send.send(answer);
        });
        receive.recv().unwrap_or_else(|_| Err(closed().into()))
    }

    /// Queues `job` as [`ShareDb::write`] does, and calls `done` on another thread when it is durable or has failed. `done`
    /// must be quick and must not wait for this database. Waits itself only while thousands of jobs wait already.
    pub fn submit<T, E>(
        &self,
        job: impl FnOnce(&mut dyn RowsMut) -> Result<T, E> + Send + 'static,
        done: impl FnOnce(Result<T, E>) + Send + 'static,
    ) where
        T: Send + 'static,
        E: From<RowsError> + Send + 'static,
    {
        match &self.form {
            Form::Sqlite { writer, .. } => writer.queue(Job::new(job, done)),
            Form::Memory(rows) => {
                let mut rows = lock(rows);
                let answer = writer::caught(|| job(&mut *rows));
                if answer.is_ok() {
                    rows.keep();
                } else {
                    rows.take_back();
                }
                drop(rows);
                done(answer);
            }
        }
    }

    /// Runs `job` on one moment of the share: the head does not move under it. Blocks for disk, and while all readers are
    /// busy.
    pub fn read<T, E>(&self, job: impl FnOnce(&dyn Rows) -> Result<T, E>) -> Result<T, E>
    where
        E: From<RowsError>,
    {
        match &self.form {
            Form::Sqlite { readers, .. } => readers.read(job),
            Form::Memory(rows) => job(&*lock(rows)),
        }
    }
}

fn lock(rows: &Mutex<MemoryRows>) -> MutexGuard<'_, MemoryRows> {
    rows.lock().unwrap_or_else(|poisoned: PoisonError<_>| {
        // A job panicked in the middle: its transaction is void.
        let mut rows = poisoned.into_inner();
        rows.take_back();
        rows
    })
}

/// The database was closed while a job waited.
pub(super) fn closed() -> RowsError {
    RowsError::Failed { doing: "wait for the share's writer", source: "the database was closed".into() }
}
