//! Reading committed rows from other threads: what a scan compares directories with.

use std::borrow::Borrow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use polder_types::{CaseRule, FileIdent, Kind, NodeUid, Stamp};
use rusqlite::{Connection, params};

use super::rows::{column, kind, stamp, uid};
use super::{StateError, open_read_only};

/// Readers kept open: two walks of two threads.
const IDLE_MAX: usize = 4;
const LOCK: &str = "no holder of this lock panics";

/// What a scan needs to know of a synced child.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Child {
    /// Which node.
    pub uid: NodeUid,
    /// Its key in the directory.
    pub key: Box<[u8]>,
    /// What it is.
    pub kind: Kind,
    /// What it looked like when it was agreed.
    pub stamp: Stamp,
}

/// A reading connection. One a thread; sees whole committed transactions.
#[derive(Debug)]
pub struct StateReader {
    pub(super) connection: Connection,
    case: CaseRule,
}

impl StateReader {
    /// Opens an existing database for reading.
    pub fn open(path: &Path, case: CaseRule) -> Result<Self, StateError> {
        Ok(Self { connection: open_read_only(path)?, case })
    }

    /// The share's rule of names.
    pub fn case(&self) -> CaseRule {
        self.case
    }

    /// Which synced directory has this identity.
    pub fn directory(&self, ident: FileIdent) -> Result<Option<NodeUid>, StateError> {
        let sql = "SELECT uid, content FROM synced WHERE ino = ?1 AND gen = ?2 ORDER BY uid";
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query(params![ident.ino as i64, ident.generation])?;
        while let Some(row) = rows.next()? {
            if kind(column(row, 1)?)? == Kind::Directory {
                return uid(column(row, 0)?).map(Some);
            }
        }
        Ok(None)
    }

    /// Synced children with a key after `after`, in the order of keys, at most `count_max`.
    pub fn children(
        &self,
        parent: NodeUid,
        after: Option<&[u8]>,
        count_max: usize,
    ) -> Result<Vec<Child>, StateError> {
        // Without an `after`, every key is larger: none is empty.
        let sql = "SELECT uid, key, content, ctime, mtime, size, ino, gen FROM synced INDEXED BY synced_place
                   WHERE parent = ?1 AND key > ?2 ORDER BY key LIMIT ?3";
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query(params![parent.0, after.unwrap_or_default(), count_max as i64])?;
        let mut children = Vec::new();
        while let Some(row) = rows.next()? {
            let uid = uid(column(row, 0)?)?;
            if uid == NodeUid::ROOT {
                continue;
            }
            let key = column(row, 1)?.as_blob().map_err(|_| super::rows::corrupt("a key"))?.into();
            children.push(Child { uid, key, kind: kind(column(row, 2)?)?, stamp: stamp(row, 3)? });
        }
        Ok(children)
    }

    /// The synced child under one key.
    pub fn child(&self, parent: NodeUid, key: &[u8]) -> Result<Option<Child>, StateError> {
        let sql = "SELECT uid, content, ctime, mtime, size, ino, gen FROM synced INDEXED BY synced_place
                   WHERE parent = ?1 AND key = ?2 ORDER BY uid";
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query(params![parent.0, key])?;
        while let Some(row) = rows.next()? {
            let uid = uid(column(row, 0)?)?;
            if uid != NodeUid::ROOT {
                let (kind, stamp) = (kind(column(row, 1)?)?, stamp(row, 2)?);
                return Ok(Some(Child { uid, key: key.into(), kind, stamp }));
            }
        }
        Ok(None)
    }
}

/// Readers of one database that are used again: opening one reads the whole schema.
#[derive(Debug, Clone)]
pub struct StateReaders(Arc<Readers>);

#[derive(Debug)]
struct Readers {
    path: PathBuf,
    case: CaseRule,
    idle: Mutex<Vec<StateReader>>,
}

/// A reader that goes back when it is dropped.
#[derive(Debug)]
pub struct PooledReader {
    /// There until the drop.
    reader: Option<StateReader>,
    home: Arc<Readers>,
}

impl StateReaders {
    /// Readers of this database, none of them open yet.
    pub fn new(path: PathBuf, case: CaseRule) -> Self {
        Self(Arc::new(Readers { path, case, idle: Mutex::default() }))
    }

    /// One that is idle, or a new one.
    pub fn get(&self) -> Result<PooledReader, StateError> {
        let idle = self.0.idle.lock().expect(LOCK).pop();
        let reader = match idle {
            Some(reader) => reader,
            None => StateReader::open(&self.0.path, self.0.case)?,
        };
        Ok(PooledReader { reader: Some(reader), home: Arc::clone(&self.0) })
    }
}

impl Borrow<StateReader> for PooledReader {
    fn borrow(&self) -> &StateReader {
        self.reader.as_ref().expect("a reader is taken only by the drop")
    }
}

impl Drop for PooledReader {
    fn drop(&mut self) {
        let mut idle = self.home.idle.lock().expect(LOCK);
        if idle.len() < IDLE_MAX {
            idle.extend(self.reader.take());
        }
    }
}
