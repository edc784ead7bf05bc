//! The shares that this process has open: their rows, their keys, their heads.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use polder_chunk::{KeyError, ShareKeys};
use polder_ledger::{LedgerError, ShareSettings};
use polder_metadata::control::{Acting, Control, ControlError, ObjectName, Share, ShareState, WrappedKeys};
use polder_metadata::share::{OpenError, ShareDb};
use polder_types::{CaseRule, Cursor, ShareId};

use crate::trust::Trust;

/// Version of the chunker that new shares have.
const CHUNKER: u16 = 1;

/// Why a share cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ShareError {
    /// There is none, or it was deleted.
    #[error("there is no share {0}")]
    Unknown(
        /// Which one.
        ShareId,
    ),
    /// Its row.
    #[error("read the row of a share")]
    Control(#[from] ControlError),
    /// Its rows.
    #[error("open the database of share {share}")]
    Open {
        /// Which one.
        share: ShareId,
        /// Why.
        #[source]
        source: OpenError,
    },
    /// Its folder.
    #[error("make the folder \"{folder}\"")]
    Folder {
        /// Where.
        folder: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Its database, once it is deleted.
    #[error("remove the file \"{file}\"")]
    Remove {
        /// Where.
        file: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Its history.
    #[error("share {share}")]
    Ledger {
        /// Which one.
        share: ShareId,
        /// Why.
        #[source]
        source: LedgerError,
    },
    /// Its keys.
    #[error("unwrap the keys of share {share}")]
    Keys {
        /// Which one.
        share: ShareId,
        /// Why.
        #[source]
        source: KeyError,
    },
    /// No randomness.
    #[error("draw random bytes: {0}")]
    Random(
        /// Why.
        getrandom::Error,
    ),
}

/// All shares of this process. What is open is a cache: closing it loses nothing.
pub struct Shares {
    folder: PathBuf,
    control: Control,
    trust: Arc<Trust>,
    open: Mutex<HashMap<ShareId, Arc<OpenShare>>>,
}

/// A share whose rows are open.
pub struct OpenShare {
    /// Which one.
    pub id: ShareId,
    /// Its rows.
    pub db: ShareDb,
    keys: RwLock<KnownKeys>,
    head: Mutex<Cursor>,
}

struct KnownKeys {
    wrapped: WrappedKeys,
    keys: Arc<ShareKeys>,
}

impl Shares {
    /// None open yet; databases are files of `folder`.
    pub fn new(folder: PathBuf, control: Control, trust: Arc<Trust>) -> Self {
        Self { folder, control, trust, open: Mutex::default() }
    }

    /// Makes a share: its row and its database. Waits for the disk.
    pub fn create(
        &self,
        acting: &Acting,
        name: &ObjectName,
        case: CaseRule,
        quota_bytes: Option<u64>,
    ) -> Result<Share, ShareError> {
        let (mut id, mut id_key, mut first, mut nonce) = ([0; 16], [0; 32], [0; 32], [0; 32]);
        for bytes in [&mut id[..], &mut id_key, &mut first, &mut nonce] {
            getrandom::fill(bytes).map_err(ShareError::Random)?;
        }
        let id = ShareId(id);
        let keys = WrappedKeys(self.trust.master.wrap(&ShareKeys::new(id, id_key, first), nonce));
        let share = Share {
            id,
            name: name.clone(),
            case,
            chunker: CHUNKER,
            quota_bytes,
            keys,
            state: ShareState::Live,
            created_at: acting.now,
        };
        // The row first: without it the database is nobody's. Opening makes a missing database.
        self.control.create_share(acting, &share)?;
        self.open(id)?;
        Ok(share)
    }

    /// Begins a generation of a share's sealing keys: a server that is no longer trusted knows the older ones. Waits for
    /// the disk.
    pub fn begin_generation(&self, acting: &Acting, id: ShareId) -> Result<(), ShareError> {
        let (mut key, mut nonce) = ([0; 32], [0; 32]);
        for bytes in [&mut key, &mut nonce] {
            getrandom::fill(bytes).map_err(ShareError::Random)?;
        }
        let share = self.open(id)?;
        let mut keys = (*share.keys()).clone();
        keys.add_generation(key).map_err(|source| ShareError::Keys { share: id, source })?;
        let wrapped = WrappedKeys(self.trust.master.wrap(&keys, nonce));
        let row = self.control.set_keys(acting, id, &wrapped)?;
        self.open_row(&row).map(drop)
    }

    /// The share with this row in use. Waits for the disk when it is not open yet, and for one row when it is.
    pub fn open(&self, id: ShareId) -> Result<Arc<OpenShare>, ShareError> {
        let row = self.control.share(id)?.filter(Share::is_live).ok_or(ShareError::Unknown(id))?;
        self.open_row(&row)
    }

    /// The share of a row that was just read.
    pub fn open_row(&self, row: &Share) -> Result<Arc<OpenShare>, ShareError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let share = match open.get(&row.id) {
            Some(share) => share.clone(),
            None => {
                let share = Arc::new(self.open_files(row)?);
                open.insert(row.id, share.clone());
                share
            }
        };
        drop(open);
        share.renew_keys(&self.trust, row)?;
        Ok(share)
    }

    /// A commit of a share is durable: the newest head that is known now. `None` when the share is not open here: then
    /// nobody here follows it either.
    pub fn publish(&self, share: ShareId, head: Cursor) -> Option<Cursor> {
        let share = self.open.lock().unwrap_or_else(PoisonError::into_inner).get(&share).cloned()?;
        Some(share.publish(head))
    }

    /// Removes the database of a share that was deleted for good. One that is gone already is no error.
    pub fn destroy(&self, share: ShareId) -> Result<(), ShareError> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&share);
        // The journal first: a database without it is whole, a journal without its database is nobody's.
        for suffix in ["-wal", "-shm", ""] {
            let path = self.folder.join(format!("{share}.db{suffix}"));
            match std::fs::remove_file(&path) {
                Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                    return Err(ShareError::Remove { file: path.display().to_string(), source });
                }
                _ => (),
            }
        }
        Ok(())
    }

    fn open_files(&self, row: &Share) -> Result<OpenShare, ShareError> {
        let share = row.id;
        std::fs::create_dir_all(&self.folder)
            .map_err(|source| ShareError::Folder { folder: self.folder.display().to_string(), source })?;
        let path = self.folder.join(format!("{share}.db"));
        let db = ShareDb::open(&path).map_err(|source| ShareError::Open { share, source })?;
        let settings = ShareSettings { id: share, case: row.case, chunker: row.chunker };
        let created_ms = u64::try_from(row.created_at.secs).unwrap_or(0) * 1000;
        let head = db.write(move |rows| {
            // A crash between the row and the database, or a database that is gone: the latter is told by cursors.
            if rows.share()?.is_none() {
                polder_ledger::create_share(rows, &settings, created_ms)?;
            }
            Ok::<_, LedgerError>(polder_ledger::share_row(rows)?.head)
        });
        let head = head.map_err(|source| ShareError::Ledger { share, source })?;
        let keys = unwrap_keys(&self.trust, row)?;
        Ok(OpenShare { id: share, db, keys: RwLock::new(keys), head: Mutex::new(head) })
    }
}

fn unwrap_keys(trust: &Trust, row: &Share) -> Result<KnownKeys, ShareError> {
    let keys = trust.master.unwrap(row.id, &row.keys.0);
    let keys = keys.map_err(|source| ShareError::Keys { share: row.id, source })?;
    Ok(KnownKeys { wrapped: row.keys.clone(), keys: Arc::new(keys) })
}

impl OpenShare {
    /// Its keys.
    pub fn keys(&self) -> Arc<ShareKeys> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).keys.clone()
    }

    /// The newest head that this process knows.
    pub fn head(&self) -> Cursor {
        *self.head.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers from two threads may come in the other order than their commits.
    fn publish(&self, head: Cursor) -> Cursor {
        let mut known = self.head.lock().unwrap_or_else(PoisonError::into_inner);
        if (head.epoch, head.seq) > (known.epoch, known.seq) {
            *known = head;
        }
        *known
    }

    fn renew_keys(&self, trust: &Trust, row: &Share) -> Result<(), ShareError> {
        if self.keys.read().unwrap_or_else(PoisonError::into_inner).wrapped == row.keys {
            return Ok(());
        }
        let keys = unwrap_keys(trust, row)?;
        let mut known = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        // The row may have been read before another thread brought a newer one: a generation that has begun does not end.
        if keys.keys.current() >= known.keys.current() {
            *known = keys;
        }
        Ok(())
    }
}
