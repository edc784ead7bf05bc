//! The state database of an endpoint: what must survive a restart and cannot be observed again.
//!
//! One SQLite file in `.polder`, in WAL mode: the synced rows, the cloud rows where they differ from them, attributes
//! by hash, the cursor, the next batch number, offers, superseded versions and notes; beside them heat and pins, for tiering. The local tree is not in it: the scan observes it.
//!
//! Order of use: [`StateDb::open`]; then the [`polder_sync::TreeStore`] of the one control thread, while scans read
//! what is committed through [`StateReader`]s of their own.
//!
//! A commit that is not durable is lost in a power cut together with everything after it (`synchronous = NORMAL` keeps
//! the order); a durable one also makes the write-ahead log itself durable. After any failed write the connection
//! refuses to go on: its transaction can no longer be trusted, and opening again takes it back.
//!
//! A database of a newer version is refused. One that is damaged gives [`StateError::Corrupt`]: the agent moves it aside
//! and re-baselines (I8), it never repairs.

mod heat;
mod open;
mod order;
mod reader;
mod recent;
mod rows;
mod store;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use polder_sync::{CloudNode, SyncedNode, TreeError};
use polder_types::{Attrs, AttrsHash, CaseRule, NodeUid};
use rusqlite::{Connection, OpenFlags};

use heat::SCHEMA_2;
use open::SCHEMA_3;
use order::Ages;
use recent::Recent;

pub use heat::{HeatBefore, HeatRow, PINS_MAX};
pub use reader::{Child, FileRow, PlacedFile, PooledReader, StateReader, StateReaders};

/// Version of the schema, in `user_version`.
const VERSION: i64 = 3;
/// Tells our databases from others, in `application_id`: "plds".
const APPLICATION_ID: i64 = 0x706c_6473;
/// Most attributes and depths that are kept in memory; beyond it they are read again.
const CACHED_MAX: usize = 65_536;

/// Schema 1. The rows are clustered by node id, whose time prefix keeps what was made together together. `name` is
/// stored only where it differs from `key`; a share's mtime only where it differs from the one on disk.
/// A row with a short name and one chunk takes about 240 bytes with its two indexes.
const SCHEMA_1: &str = "
CREATE TABLE synced(
    uid BLOB PRIMARY KEY, parent BLOB NOT NULL, key BLOB NOT NULL, name BLOB, content BLOB NOT NULL,
    attrs INTEGER NOT NULL, attrs_here INTEGER, mtime_share, ctime NOT NULL, mtime NOT NULL,
    size INTEGER NOT NULL, ino INTEGER NOT NULL, gen INTEGER NOT NULL, since INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX synced_place ON synced(parent, key);
CREATE INDEX synced_ident ON synced(ino);
-- class: 0 a directory (rank: its depth), 1 a file or symlink (rank: its class of age, see order.rs), 2 deleted in the share.
CREATE TABLE cloud(
    uid BLOB PRIMARY KEY, class INTEGER NOT NULL, rank INTEGER NOT NULL, size INTEGER NOT NULL,
    parent BLOB, key BLOB, name BLOB, content BLOB, attrs INTEGER, mtime, since INTEGER) WITHOUT ROWID;
CREATE INDEX cloud_place ON cloud(parent, key) WHERE parent IS NOT NULL;
CREATE INDEX cloud_order ON cloud(class, rank);
CREATE TABLE attrs(id INTEGER PRIMARY KEY, hash BLOB NOT NULL UNIQUE, body BLOB);
CREATE TABLE offer(uid BLOB PRIMARY KEY, batch INTEGER NOT NULL, grp INTEGER NOT NULL, op INTEGER NOT NULL,
    becomes BLOB) WITHOUT ROWID;
CREATE TABLE note(key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE head(one INTEGER PRIMARY KEY CHECK(one = 1), epoch INTEGER NOT NULL, seq INTEGER NOT NULL,
    tag INTEGER NOT NULL, next_batch INTEGER NOT NULL);
INSERT INTO head VALUES(1, 0, 0, 0, 1);
";

/// Why the state database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It was written by a newer version.
    #[error(
        "the state database has version {found}, this program knows {VERSION}; install the newer program again"
    )]
    Newer {
        /// Its version.
        found: i64,
    },
    /// It is no state database, or damaged: to be moved aside, and the endpoint re-baselined.
    #[error("the state database is damaged: {what}")]
    Corrupt {
        /// What was found.
        what: String,
    },
    /// A write failed before; open it again.
    #[error("the state database is closed after a failed write")]
    Closed,
    /// SQLite could not do it: the disk, a lock, or memory.
    #[error("use the state database")]
    Sqlite(#[source] rusqlite::Error),
    /// The write-ahead log could not be made durable.
    #[error("make the state database durable")]
    Sync(#[source] std::io::Error),
}

impl StateError {
    /// Whether only a re-baseline helps.
    pub fn is_corrupt(&self) -> bool {
        matches!(self, Self::Corrupt { .. })
    }

    /// The state error behind an error of the port, if it is one.
    pub fn of(error: &TreeError) -> Option<&Self> {
        error.source.downcast_ref()
    }
}

impl From<rusqlite::Error> for StateError {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
        let damaged = match &error {
            rusqlite::Error::SqliteFailure(failure, _) => {
                matches!(failure.code, DatabaseCorrupt | NotADatabase)
            }
            // A value that is not what the schema says.
            rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::IntegralValueOutOfRange(..)
            | rusqlite::Error::InvalidColumnType(..) => true,
            _ => false,
        };
        if damaged { Self::Corrupt { what: error.to_string() } } else { Self::Sqlite(error) }
    }
}

/// Attributes by hash, and in full where somebody has brought them.
type AttrsEntry = (AttrsHash, Option<Arc<Attrs>>);

/// The one writing connection.
pub struct StateDb {
    connection: Connection,
    case: CaseRule,
    ages: Ages,
    path: PathBuf,
    /// The write-ahead log, for making it durable. Opened at the first durable commit; it lives as long as we do.
    wal: Option<File>,
    /// Everything between two commits is one transaction, reads too: each would take and give back a lock by itself.
    in_transaction: Cell<bool>,
    failed: Cell<bool>,
    attrs_ids: RefCell<HashMap<AttrsHash, i64>>,
    attrs_by_id: RefCell<HashMap<i64, AttrsEntry>>,
    depths: RefCell<HashMap<NodeUid, u32>>,
    /// The synced rows, and that there is none.
    recent_synced: RefCell<Recent<Option<SyncedNode>>>,
    /// The stored differences: none, a deleted node, or a node.
    recent_cloud: RefCell<Recent<Option<Option<CloudNode>>>>,
    /// Number of cloud rows and the sum of their sizes.
    differing: (u64, u64),
    /// Number of synced rows without the root's, and the sum of the sizes of their contents.
    agreed: (u64, u64),
}

impl std::fmt::Debug for StateDb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StateDb").field("path", &self.path).finish_non_exhaustive()
    }
}

impl StateDb {
    /// Opens or makes the database of a share with this rule of names.
    pub fn open(path: &Path, case: CaseRule) -> Result<Self, StateError> {
        let connection = connect(path, OpenFlags::default())?;
        ensure_writable(&connection, path)?;
        configure(&connection, false)?;
        migrate(&connection)?;
        let ages = Ages::of(&connection)?;
        connection.set_prepared_statement_cache_capacity(64);
        let mut db = Self {
            connection,
            case,
            ages,
            path: path.to_owned(),
            wal: None,
            in_transaction: Cell::new(false),
            failed: Cell::new(false),
            attrs_ids: RefCell::default(),
            attrs_by_id: RefCell::default(),
            depths: RefCell::default(),
            recent_synced: RefCell::default(),
            recent_cloud: RefCell::default(),
            differing: (0, 0),
            agreed: (0, 0),
        };
        db.differing = db.count("SELECT count(*), coalesce(sum(size), 0) FROM cloud")?;
        // The second byte of a content is its kind: 2 and 3 are files.
        let files =
            "SELECT count(*), coalesce(sum(size) FILTER (WHERE substr(content, 2, 1) IN (x'02', x'03')), 0)
                     FROM synced WHERE uid <> x'00000000000000000000000000000000'";
        db.agreed = db.count(files)?;
        Ok(db)
    }

    /// Checks the whole file, page by page and index by index. Takes seconds for a million nodes.
    pub fn verify(&self) -> Result<(), StateError> {
        let answer: String = self.connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
        if answer == "ok" { Ok(()) } else { Err(StateError::Corrupt { what: answer }) }
    }

    /// Another connection for reading what is committed.
    pub fn reader(&self) -> Result<StateReader, StateError> {
        StateReader::open(&self.path, self.case)
    }

    /// How many items below the root both sides have agreed on, and the sum of the sizes of their contents.
    pub fn agreed(&self) -> (u64, u64) {
        self.agreed
    }

    fn count(&self, sql: &str) -> Result<(u64, u64), StateError> {
        let (count, bytes): (i64, i64) =
            self.connection.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok((count.unsigned_abs(), bytes.unsigned_abs()))
    }

    /// Makes everything that is committed durable.
    fn sync(&mut self) -> Result<(), StateError> {
        if self.wal.is_none() {
            let mut path = self.path.clone().into_os_string();
            path.push("-wal");
            self.wal = Some(File::open(path).map_err(StateError::Sync)?);
        }
        self.wal.as_ref().expect("just opened").sync_data().map_err(StateError::Sync)
    }
}

/// Connects. A path by descriptor is taken as it is: SQLite would follow it to the text of a path, which may lead into our own mount.
fn connect(path: &Path, flags: OpenFlags) -> Result<Connection, StateError> {
    if !path.starts_with(crate::sys::BY_DESCRIPTOR) {
        return Ok(Connection::open_with_flags(path, flags)?);
    }
    let vfs = crate::sys::sqlite_without_paths().ok_or(StateError::Closed)?;
    Ok(Connection::open_with_flags_and_vfs(path, flags, vfs)?)
}

/// SQLite opens a file for reading alone when it may not be written *now*, for whatever reason, and the connection stays so for
/// ever: an error of a moment would end only with the process.
fn ensure_writable(connection: &Connection, path: &Path) -> Result<(), StateError> {
    if !connection.is_readonly(rusqlite::MAIN_DB)? {
        return Ok(());
    }
    // SQLite keeps the reason to itself; the kernel says it again.
    let why = std::fs::OpenOptions::new().write(true).open(path).err();
    let why = why.map_or_else(|| "it could a moment later".into(), |error| error.to_string());
    let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CANTOPEN);
    let text = format!("the file cannot be opened for writing: {why}");
    Err(rusqlite::Error::SqliteFailure(code, Some(text)).into())
}

fn configure(connection: &Connection, read_only: bool) -> Result<(), StateError> {
    connection.busy_timeout(std::time::Duration::from_secs(10))?;
    // Without this the bundled SQLite plans a statement again whenever a bound of a range gets another value: measured on a
    // share's rows, 20 µs a call instead of 2.
    connection.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    // Pages of the one that writes: the database of a million nodes is 15 times that, and the kernel caches the rest. Readers
    // go through it in order, and there are several.
    let pages_kib = if read_only { 2_048 } else { 16_384 };
    connection.pragma_update(None, "cache_size", -pages_kib)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    if !read_only {
        // Readers must see a WAL database; the answer tells whether the file system can hold one.
        let mode: String =
            connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
        if mode != "wal" {
            return Err(StateError::Corrupt { what: format!("journal mode is {mode}") });
        }
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        // 16 MiB of log between checkpoints: each costs two fsyncs.
        connection.pragma_update(None, "wal_autocheckpoint", 4096)?;
    }
    Ok(())
}

fn migrate(connection: &Connection) -> Result<(), StateError> {
    let get = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let (version, application) = (get("user_version")?, get("application_id")?);
    match version {
        0 => {
            let tables: i64 =
                connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
            if tables > 0 {
                return Err(StateError::Corrupt { what: "it is another program's database".into() });
            }
            connection.execute_batch(&format!("BEGIN IMMEDIATE; {SCHEMA_1}{SCHEMA_2}{SCHEMA_3}"))?;
            Ages::begin(connection)?;
            let sql =
                format!("PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION}; COMMIT;");
            connection.execute_batch(&sql)?;
            Ok(())
        }
        1 | 2 if application == APPLICATION_ID => {
            let sql =
                format!("BEGIN IMMEDIATE; {SCHEMA_2}{SCHEMA_3} PRAGMA user_version = {VERSION}; COMMIT;");
            Ok(connection.execute_batch(&sql)?)
        }
        VERSION if application == APPLICATION_ID => Ok(connection.execute_batch(SCHEMA_2)?),
        1 | 2 | VERSION => Err(StateError::Corrupt { what: "it is another program's database".into() }),
        found => Err(StateError::Newer { found }),
    }
}

/// Opens a database for reading only.
fn open_read_only(path: &Path) -> Result<Connection, StateError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = connect(path, flags)?;
    configure(&connection, true)?;
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if version == VERSION { Ok(connection) } else { Err(StateError::Newer { found: version }) }
}
