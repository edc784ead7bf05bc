//! Reading committed rows from other threads: what a scan compares directories with.

use std::borrow::Borrow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use polder_types::{AttrsHash, CaseRule, Content, FileIdent, Kind, Name, NodeUid, Seq, Stamp};
use rusqlite::{Connection, params};

use super::rows::{column, content, kind, name, number, stamp, uid};
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

/// A regular file as it is agreed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileRow {
    /// Which node.
    pub uid: NodeUid,
    /// Its bytes.
    pub content: Content,
    /// The share's version.
    pub since: Seq,
    /// What it looked like when it was agreed.
    pub stamp: Stamp,
}

/// A regular file with where it stands by the agreed tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacedFile {
    /// What is agreed of it.
    pub row: FileRow,
    /// Names from the root down.
    pub path: Vec<Name>,
}

const FILE_COLUMNS: &str = "SELECT uid, content, since, ctime, mtime, size, ino, gen FROM synced";
/// Deeper trees are not followed.
const PATH_NAMES_MAX: usize = 4096;

fn file_row(row: &rusqlite::Row<'_>) -> Result<Option<FileRow>, StateError> {
    if kind(column(row, 1)?)? != Kind::File {
        return Ok(None);
    }
    let (uid, content) = (uid(column(row, 0)?)?, content(column(row, 1)?)?);
    Ok(Some(FileRow { uid, content, since: Seq(number(column(row, 2)?)?), stamp: stamp(row, 3)? }))
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

    /// A regular file that is agreed on; `None` for anything else.
    pub fn file(&self, uid: NodeUid) -> Result<Option<FileRow>, StateError> {
        let sql = format!("{FILE_COLUMNS} WHERE uid = ?1");
        let mut statement = self.connection.prepare_cached(&sql)?;
        let mut rows = statement.query(params![uid.0])?;
        match rows.next()? {
            Some(row) => file_row(row),
            None => Ok(None),
        }
    }

    /// Whether a file's agreed content is what the share has of it, as far as the feed was read.
    pub fn is_current(&self, row: &FileRow) -> Result<bool, StateError> {
        let mut statement = self.connection.prepare_cached("SELECT content FROM cloud WHERE uid = ?1")?;
        let mut rows = statement.query(params![row.uid.0])?;
        let Some(there) = rows.next()? else { return Ok(true) };
        // Without a content the share has deleted it.
        Ok(column(there, 0)?.as_blob_or_null().is_ok_and(|there| there == Some(&*row.content.encode())))
    }

    /// The attributes of a node as they were agreed, as they are here.
    pub fn attributes(&self, uid: NodeUid) -> Result<Option<AttrsHash>, StateError> {
        let sql = "SELECT hash FROM attrs WHERE id =
                   (SELECT COALESCE(attrs_here, attrs) FROM synced WHERE uid = ?1)";
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query(params![uid.0])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        let hash = column(row, 0)?.as_blob().map_err(|_| super::rows::corrupt("a hash"))?;
        Ok(Some(AttrsHash(hash.try_into().map_err(|_| super::rows::corrupt("a hash"))?)))
    }

    /// Regular files with ids after `after` and their paths, in the order of ids, among the next `rows_max` rows; and the last id that was
    /// looked at, if there may be more. Files to which the agreed tree does not lead are left out.
    pub fn files_after(
        &self,
        after: Option<NodeUid>,
        rows_max: usize,
    ) -> Result<(Vec<PlacedFile>, Option<NodeUid>), StateError> {
        // One view of all: else each step up a path would lock the database anew.
        let _view = self.connection.unchecked_transaction()?;
        let (files, last) = self.rows_after(after, rows_max)?;
        let mut placed = Vec::with_capacity(files.len());
        for row in files {
            if let Some(path) = self.path(row.uid)? {
                placed.push(PlacedFile { row, path });
            }
        }
        Ok((placed, last))
    }

    fn rows_after(
        &self,
        after: Option<NodeUid>,
        rows_max: usize,
    ) -> Result<(Vec<FileRow>, Option<NodeUid>), StateError> {
        // The root's id is the smallest, and it is no file.
        let after = after.unwrap_or(NodeUid::ROOT);
        let sql = format!("{FILE_COLUMNS} WHERE uid > ?1 ORDER BY uid LIMIT ?2");
        let mut statement = self.connection.prepare_cached(&sql)?;
        let mut rows = statement.query(params![after.0, rows_max as i64])?;
        let (mut files, mut count, mut last) = (Vec::new(), 0, None);
        while let Some(row) = rows.next()? {
            count += 1;
            last = Some(uid(column(row, 0)?)?);
            files.extend(file_row(row)?);
        }
        Ok((files, last.filter(|_| count == rows_max)))
    }

    /// Which agreed node has this inode.
    pub fn by_ident(&self, ident: FileIdent) -> Result<Option<NodeUid>, StateError> {
        let sql = "SELECT uid FROM synced WHERE ino = ?1 AND gen = ?2 ORDER BY uid LIMIT 1";
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query(params![ident.ino as i64, ident.generation])?;
        match rows.next()? {
            Some(row) => uid(column(row, 0)?).map(Some),
            None => Ok(None),
        }
    }

    /// Where a node stands by the agreed tree: names from the root down. `None` when the tree does not lead there.
    pub fn path(&self, node: NodeUid) -> Result<Option<Vec<Name>>, StateError> {
        let mut statement =
            self.connection.prepare_cached("SELECT parent, key, name FROM synced WHERE uid = ?1")?;
        let (mut names, mut at) = (Vec::new(), node);
        while at != NodeUid::ROOT {
            let mut rows = statement.query(params![at.0])?;
            let Some(row) = rows.next()? else { return Ok(None) };
            // The agreed tree has no cycle; a damaged one must not keep us.
            if names.len() >= PATH_NAMES_MAX {
                return Ok(None);
            }
            names.push(name(column(row, 1)?, column(row, 2)?)?);
            at = uid(column(row, 0)?)?;
        }
        names.reverse();
        Ok(Some(names))
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
