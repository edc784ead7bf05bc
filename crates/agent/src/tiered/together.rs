//! Many small files brought back at once.
//!
//! A request for each of them costs the service and us more than its bytes do, and what was made together lies together in the share: the
//! chunks of all are asked for at once, and neighbours come with one request. Whatever does not come so is left to the way that
//! waits, asks again and says why ([`super::Tiered::recall_files`]).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use polder_tiering::PIECE_BYTES;
use polder_types::{FileIdent, NodeUid};

use super::files::{Brought, FileState};
use super::{Cancel, Inner, Residency};

/// Larger ones gain nothing by company, and come after all small ones that are asked for with them.
pub(crate) const SMALL_BYTES: u64 = PIECE_BYTES;

struct Small {
    uid: NodeUid,
    ident: FileIdent,
    state: Arc<FileState>,
    size: u64,
}

impl Inner {
    /// Makes those of the files resident that are small and placeholders; how many bytes came for each that is resident now.
    pub(super) fn bring_together(&self, nodes: &[NodeUid], cancel: &Cancel) -> BTreeMap<NodeUid, u64> {
        let live = || nodes.iter().take_while(|_| !cancel.is_cancelled());
        let files: Vec<Small> = live().filter_map(|uid| self.small(*uid)).collect();
        let parts: Vec<_> = files.iter().map(|file| (&*file.state, 0..file.size)).collect();
        let mut brought = vec![Brought::default(); files.len()];
        if let Err(why) = self.bring_parts(&parts, &mut brought) {
            tracing::debug!(?why, files = files.len(), "files did not come together");
        }
        // Locks that somebody has are not waited for: these files are made resident one by one.
        let locked = files.iter().filter_map(|file| Some((file.ident, &*file.state, file.state.try_lock()?)));
        self.settle_whole(locked.collect());
        let mut resident = BTreeMap::new();
        for (file, brought) in files.iter().zip(brought) {
            self.settle_if_whole(file.ident, &file.state);
            if matches!(self.residency_of(file.ident), Ok(Residency::Resident)) {
                resident.insert(file.uid, brought.bytes);
            }
        }
        resident
    }

    /// A small placeholder, taken up.
    fn small(&self, uid: NodeUid) -> Option<Small> {
        let row = self.row(uid).ok()?;
        let ident = row.stamp.ident;
        if row.stamp.size > SMALL_BYTES {
            return None;
        }
        let state = self.files.get(ident);
        if !self.take_up(ident, &state).ok()? {
            return None;
        }
        let size = state.lock().as_ref()?.pledge.size;
        state.wants_whole.store(true, Ordering::Release);
        Some(Small { uid, ident, state, size })
    }
}
