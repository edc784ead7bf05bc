//! The port: transactions over a few tables of documents, and one append-only log.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::ControlError;

/// A table. The numbers are stored and never change their meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Table {
    /// Shares, by id.
    Share = 1,
    /// Sync groups, by id.
    Group = 2,
    /// Registered servers, by id.
    Server = 3,
    /// Join tokens, by hash.
    JoinToken = 4,
    /// Client certificates, by serial.
    Certificate = 5,
    /// Server endpoints: settings, by id.
    Endpoint = 6,
    /// Server endpoints: what was last heard of them, by id.
    Progress = 7,
    /// Tokens of people, by id.
    UserToken = 8,
    /// Leases, by name.
    Lease = 9,
    /// Last runs of reconcilers, by name and subject.
    Reconciler = 10,
    /// Single values of the service, by name.
    Setting = 11,
    /// Which server an endpoint instance was on, for ever: history names instances.
    Instance = 12,
    /// Conflict copies that somebody wants to keep, by share and node.
    KeptCopy = 13,
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Share => "share",
            Self::Group => "sync group",
            Self::Server => "server",
            Self::JoinToken => "join token",
            Self::Certificate => "certificate",
            Self::Endpoint | Self::Progress => "endpoint",
            Self::Instance => "endpoint instance",
            Self::KeptCopy => "conflict copy",
            Self::UserToken => "token",
            Self::Lease => "lease",
            Self::Reconciler => "reconciler",
            Self::Setting => "setting",
        })
    }
}

/// One document with the columns that it is found by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Unique in its table.
    pub key: Vec<u8>,
    /// Unique in its table where there is one.
    pub name: Option<String>,
    /// What it belongs to, for lists.
    pub parent: Option<Vec<u8>>,
    /// The document, JSON.
    pub doc: Vec<u8>,
}

/// One entry of the log, as stored: the chain is computed above.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRow {
    /// 1 for the first, without gaps.
    pub seq: u64,
    /// The entry, JSON.
    pub doc: Vec<u8>,
}

/// What a transaction can do.
pub trait Rows {
    /// The row with a key.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Row>, ControlError>;
    /// The row with a name.
    fn find(&self, table: Table, name: &str) -> Result<Option<Row>, ControlError>;
    /// Rows in order of their keys, those above `after`, at most `limit`; of one parent where one is given.
    fn list(
        &self,
        table: Table,
        parent: Option<&[u8]>,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Row>, ControlError>;
    /// Inserts or replaces the row with this key. Fails with [`ControlError::NameTaken`] when another row has the name.
    fn put(&mut self, table: Table, row: &Row) -> Result<(), ControlError>;
    /// Removes a row; whether it was there.
    fn delete(&mut self, table: Table, key: &[u8]) -> Result<bool, ControlError>;
    /// The newest entry of the log.
    fn log_head(&self) -> Result<Option<LogRow>, ControlError>;
    /// Appends to the log. The caller has read [`Rows::log_head`] in this transaction; `row.seq` is one above it.
    fn log_append(&mut self, row: &LogRow) -> Result<(), ControlError>;
    /// Entries from `first` on, ascending, at most `limit`.
    fn log_range(&self, first: u64, limit: usize) -> Result<Vec<LogRow>, ControlError>;
}

/// A store of the control plane.
///
/// `work` may be called again when a transaction has to be repeated, so it must not act outside the rows.
pub trait ControlPort: Send + Sync {
    /// Runs `work` on one consistent state.
    fn read(&self, work: &mut dyn FnMut(&dyn Rows) -> Result<(), ControlError>) -> Result<(), ControlError>;
    /// Runs `work` alone among all writers, of all processes; durable when it returns `Ok`, without any effect
    /// when it fails.
    fn write(
        &self,
        work: &mut dyn FnMut(&mut dyn Rows) -> Result<(), ControlError>,
    ) -> Result<(), ControlError>;
}

/// A value that is one row.
pub(super) trait Object: Serialize + DeserializeOwned {
    const TABLE: Table;
    fn key(&self) -> Vec<u8>;
    /// The unique name, in the form that is compared.
    fn name(&self) -> Option<String> {
        None
    }
    fn parent(&self) -> Option<Vec<u8>> {
        None
    }
    /// How the audit log and errors call it.
    fn shown(&self) -> String;
}

fn read_row<T: Object>(row: &Row) -> Result<T, ControlError> {
    serde_json::from_slice(&row.doc)
        .map_err(|source| ControlError::Damaged { what: T::TABLE, source: source.into() })
}

pub(super) fn get<T: Object>(rows: &dyn Rows, key: &[u8]) -> Result<Option<T>, ControlError> {
    rows.get(T::TABLE, key)?.as_ref().map(read_row).transpose()
}

pub(super) fn find<T: Object>(rows: &dyn Rows, name: &str) -> Result<Option<T>, ControlError> {
    rows.find(T::TABLE, name)?.as_ref().map(read_row).transpose()
}

/// The object with a key, or the error that says which one is missing.
pub(super) fn need<T: Object>(rows: &dyn Rows, key: &[u8]) -> Result<T, ControlError> {
    get(rows, key)?.ok_or_else(|| {
        let which = key.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        ControlError::not_found(T::TABLE, which)
    })
}

pub(super) fn put<T: Object>(rows: &mut dyn Rows, object: &T) -> Result<(), ControlError> {
    let doc = serde_json::to_vec(object)
        .map_err(|source| ControlError::Damaged { what: T::TABLE, source: source.into() })?;
    rows.put(T::TABLE, &Row { key: object.key(), name: object.name(), parent: object.parent(), doc })
}

/// A new object: its key must be free.
pub(super) fn insert<T: Object>(rows: &mut dyn Rows, object: &T) -> Result<(), ControlError> {
    if rows.get(T::TABLE, &object.key())?.is_some() {
        return Err(ControlError::NameTaken { what: T::TABLE, name: object.shown() });
    }
    put(rows, object)
}

pub(super) fn list<T: Object>(
    rows: &dyn Rows,
    parent: Option<&[u8]>,
    after: Option<&[u8]>,
    limit: usize,
) -> Result<Vec<T>, ControlError> {
    rows.list(T::TABLE, parent, after, limit.min(super::PAGE_ROWS_MAX))?.iter().map(read_row).collect()
}

/// All objects, page by page: for tables of some thousands of rows.
pub(super) fn all<T: Object>(rows: &dyn Rows, parent: Option<&[u8]>) -> Result<Vec<T>, ControlError> {
    let mut out: Vec<T> = Vec::new();
    loop {
        let after = out.last().map(Object::key);
        let page = list::<T>(rows, parent, after.as_deref(), super::PAGE_ROWS_MAX)?;
        let last = page.len() < super::PAGE_ROWS_MAX;
        out.extend(page);
        if last {
            return Ok(out);
        }
    }
}
