//! Facts of files, for policies and people.

use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use polder_replica::{FileRow, PlacedFile};
use polder_tiering::Stays;
use polder_types::{NodeUid, RelPath};
use std::borrow::Borrow;

use super::{Inner, Residency, TieredError, TieredFile, disk};

/// Rows that are read at once.
const PAGE_ROWS: usize = 1024;

impl Inner {
    /// The agreed row of a file.
    pub(super) fn row(&self, node: NodeUid) -> Result<FileRow, TieredError> {
        let reader = self.source()?.readers.get().map_err(|error| disk(&error))?;
        let reader: &polder_replica::StateReader = reader.borrow();
        reader.file(node).map_err(|error| disk(&error))?.ok_or(TieredError::NoFile)
    }

    /// Whether a file's agreed content is what the share has of it now, as far as is known here.
    pub(super) fn is_current(&self, row: &FileRow) -> Result<bool, TieredError> {
        if !self.caught_up.load(std::sync::atomic::Ordering::Acquire) {
            return Ok(false);
        }
        let reader = self.source()?.readers.get().map_err(|error| disk(&error))?;
        let reader: &polder_replica::StateReader = reader.borrow();
        reader.is_current(row).map_err(|error| disk(&error))
    }

    pub(super) fn path_of(&self, node: NodeUid) -> Result<Option<RelPath>, TieredError> {
        let reader = self.source()?.readers.get().map_err(|error| disk(&error))?;
        let reader: &polder_replica::StateReader = reader.borrow();
        Ok(reader.path(node).map_err(|error| disk(&error))?.map(|names| names.into_iter().collect()))
    }

    pub(super) fn node_at(&self, path: &RelPath) -> Result<Option<NodeUid>, TieredError> {
        let reader = self.source()?.readers.get().map_err(|error| disk(&error))?;
        let reader: &polder_replica::StateReader = reader.borrow();
        let mut at = NodeUid::ROOT;
        for name in path.names() {
            let key = reader.case().key(name.as_bytes());
            match reader.child(at, &key).map_err(|error| disk(&error))? {
                Some(child) => at = child.uid,
                None => return Ok(None),
            }
        }
        Ok(Some(at))
    }

    pub(super) fn list(
        &self,
        after: Option<NodeUid>,
        count_max: usize,
    ) -> Result<Vec<TieredFile>, TieredError> {
        let (mut found, mut after) = (Vec::new(), after);
        while found.len() < count_max {
            let reader = self.source()?.readers.get().map_err(|error| disk(&error))?;
            let reader: &polder_replica::StateReader = reader.borrow();
            let rows_max = PAGE_ROWS.min(count_max - found.len());
            let (files, last) = reader.files_after(after, rows_max).map_err(|error| disk(&error))?;
            for PlacedFile { row, path } in files {
                match self.facts(&row, path.into_iter().collect()) {
                    Ok(facts) => found.push(facts),
                    // Gone, or another file by now.
                    Err(TieredError::NoFile) => (),
                    Err(error) => return Err(error),
                }
            }
            match last {
                Some(last) => after = Some(last),
                None => break,
            }
        }
        Ok(found)
    }

    /// What the disk tells of a file, without opening it.
    pub(super) fn facts(&self, row: &FileRow, path: RelPath) -> Result<TieredFile, TieredError> {
        let node = self.node(row.stamp.ident)?;
        let file = std::fs::File::from(self.tree.path_to(node).map_err(|_| TieredError::NoFile)?);
        let meta = file.metadata().map_err(|error| disk(&error))?;
        let residency = self.residency_in(file.as_fd(), row.stamp.ident)?;
        let stays = match residency {
            Residency::Tiered { .. } => Some(Stays::Tiered),
            Residency::Orphaned => Some(Stays::NotSynced),
            Residency::Resident if meta.nlink() > 1 => Some(Stays::HardLinked),
            Residency::Resident if meta.len() != row.stamp.size => Some(Stays::NotSynced),
            Residency::Resident if !super::give::is_canonical(&row.content) => Some(Stays::NotCanonical),
            Residency::Resident => None,
        };
        let mtime_s = row.stamp.mtime.secs;
        let ctime_s = if residency == Residency::Resident { meta.ctime() } else { mtime_s };
        Ok(TieredFile {
            node: row.uid,
            path,
            size: row.stamp.size,
            on_disk_bytes: meta.blocks().saturating_mul(512),
            mtime_s,
            ctime_s,
            residency,
            stays,
        })
    }
}
