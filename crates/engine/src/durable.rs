//! What both sides agree on without a message is made durable before it is written down.
//!
//! A synced row says "this stood here": when the disk does not show it later, its user has deleted it. So a row may only
//! tell of what a power cut cannot take away. An apply makes durable what it did, and a batch leaves after a flush; what remains
//! is a node that both sides turned out to have (two copies of one file; what an agent that was killed had just made).

use std::collections::BTreeMap;

use polder_sync::{SyncedNode, TreeError, TreeStore};
use polder_types::{
    NodeUid, Placed, Stamp,
    zoo::{Bug, planted},
};

use crate::engine::Engine;
use crate::work::State;
use crate::{Effect, JobId};

/// Where a node was seen, and as what.
type Claim = (Placed, Stamp);

/// Agreements that wait for a flush, and what the last ones made durable.
#[derive(Debug, Default)]
pub(crate) struct Durable {
    waiting: BTreeMap<NodeUid, Claim>,
    flying: Option<(JobId, BTreeMap<NodeUid, Claim>)>,
    done: BTreeMap<NodeUid, Claim>,
}

impl Engine {
    /// Both sides agree already.
    pub(crate) fn settle(
        &mut self,
        store: &mut dyn TreeStore,
        uid: NodeUid,
        row: Option<&SyncedNode>,
    ) -> Result<(), TreeError> {
        if let Some(row) = row
            && !self.is_durable(store, uid, row)?
        {
            self.durable.waiting.insert(uid, (row.at.clone(), row.stamp));
            self.work.put(uid, State::Queued);
            return Ok(());
        }
        self.durable.done.remove(&uid);
        let cloud = store.cloud(uid)?;
        store.put_synced(uid, row)?;
        store.put_cloud(uid, cloud.as_ref())?;
        self.problems.solved(uid);
        self.after_synced(store, uid)?;
        self.work.finish(uid, false, self.now.mono_ms);
        Ok(())
    }

    /// Whether what a row claims of the disk was written down before, or flushed since it was seen.
    fn is_durable(&self, store: &dyn TreeStore, uid: NodeUid, row: &SyncedNode) -> Result<bool, TreeError> {
        let known = store.synced(uid)?.is_some_and(|old| old.at == row.at && old.stamp == row.stamp);
        let flushed =
            self.durable.done.get(&uid).is_some_and(|(at, stamp)| *at == row.at && *stamp == row.stamp);
        Ok(known || flushed || planted(Bug::SettledBeforeDurable))
    }

    pub(crate) fn pump_durable(&mut self) {
        if self.durable.flying.is_some() || self.durable.waiting.is_empty() {
            return;
        }
        let job = self.job();
        let claims = std::mem::take(&mut self.durable.waiting);
        claims.keys().for_each(|uid| self.work.put(*uid, State::Job(job)));
        self.durable.flying = Some((job, claims));
        self.out.push(Effect::MakeDurable { job });
    }

    /// All that was on the disk when it was asked for is durable: those nodes are planned again, and agreed on if nothing
    /// has changed.
    pub(crate) fn made_durable(&mut self, job: JobId) {
        let Some((_, claims)) = self.durable.flying.take_if(|(flying, _)| *flying == job) else { return };
        self.durable.done.retain(|uid, _| self.work.contains(*uid));
        for (uid, claim) in claims {
            if self.work.state(uid) == Some(State::Job(job)) {
                self.durable.done.insert(uid, claim);
                self.work.finish(uid, true, self.now.mono_ms);
            }
        }
    }
}
