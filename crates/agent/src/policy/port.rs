//! What the policy runner and the commands need of an endpoint's tiered files; a fake stands in for it in tests.

use std::fmt::Debug;

use polder_replica::{HeatRow, StateError, StateReader};
use polder_tiering::{Heat, Lane, Volume};
use polder_types::{NodeUid, RelPath};

use crate::tiered::{Cancel, Keep, Outcome, Recalled, Tiered, TieredError, TieredFile};

/// The tiered files of one endpoint. Every call may wait for the disk or the network.
pub(crate) trait Port: Debug + Send + Sync {
    /// See [`Tiered::volume`].
    fn volume(&self) -> Result<Volume, TieredError>;
    /// See [`Tiered::files`].
    fn files(&self, after: Option<NodeUid>, count_max: usize) -> Result<Vec<TieredFile>, TieredError>;
    /// See [`Tiered::file`].
    fn file(&self, node: NodeUid) -> Result<TieredFile, TieredError>;
    /// See [`Tiered::tier_files`].
    fn tier_files(&self, nodes: &[NodeUid]) -> Vec<Result<Outcome, TieredError>>;
    /// See [`Tiered::recall_files`].
    fn recall_files(
        &self,
        nodes: &[NodeUid],
        lane: Lane,
        keep: Keep,
        cancel: &Cancel,
    ) -> Vec<Result<Recalled, TieredError>>;
    /// One file alone.
    fn recall(
        &self,
        node: NodeUid,
        lane: Lane,
        keep: Keep,
        cancel: &Cancel,
    ) -> Result<Recalled, TieredError> {
        self.recall_files(&[node], lane, keep, cancel).pop().expect("one answer a node")
    }
    /// What was noted of the heat of nodes after `after` and up to `last`, in the order of ids.
    fn heat(&self, after: Option<NodeUid>, last: NodeUid) -> Result<Vec<(NodeUid, Heat)>, TieredError>;
    /// Paths of what a person keeps here, each with all below it. A pin of a node that is gone has none.
    fn pins(&self) -> Result<Vec<RelPath>, TieredError>;
}

fn failed(error: StateError) -> TieredError {
    TieredError::Disk(crate::status::chain(&error).into())
}

fn with<T>(
    tiered: &Tiered,
    read: impl FnOnce(&StateReader) -> Result<T, StateError>,
) -> Result<T, TieredError> {
    let reader = tiered.readers().get().map_err(failed)?;
    read(std::borrow::Borrow::borrow(&reader)).map_err(failed)
}

impl Port for Tiered {
    fn volume(&self) -> Result<Volume, TieredError> {
        self.volume()
    }

    fn files(&self, after: Option<NodeUid>, count_max: usize) -> Result<Vec<TieredFile>, TieredError> {
        self.files(after, count_max)
    }

    fn file(&self, node: NodeUid) -> Result<TieredFile, TieredError> {
        self.file(node)
    }

    fn tier_files(&self, nodes: &[NodeUid]) -> Vec<Result<Outcome, TieredError>> {
        self.tier_files(nodes)
    }

    fn recall_files(
        &self,
        nodes: &[NodeUid],
        lane: Lane,
        keep: Keep,
        cancel: &Cancel,
    ) -> Vec<Result<Recalled, TieredError>> {
        self.recall_files(nodes, lane, keep, cancel)
    }

    fn heat(&self, after: Option<NodeUid>, last: NodeUid) -> Result<Vec<(NodeUid, Heat)>, TieredError> {
        let rows = with(self, |reader| reader.heat_between(after, last))?;
        Ok(rows
            .into_iter()
            .map(|(node, HeatRow { warm, used })| (node, Heat::from_parts(warm, used)))
            .collect())
    }

    fn pins(&self) -> Result<Vec<RelPath>, TieredError> {
        with(self, |reader| {
            let mut paths = Vec::new();
            for pin in reader.pins()? {
                paths.extend(reader.path(pin)?.map(RelPath::from_iter));
            }
            Ok(paths)
        })
    }
}
