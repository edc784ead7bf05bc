//! What a sound group may still be refused for: the mass-change brake, the quota, chunks that lie in no live pack.

use std::collections::BTreeSet;

use polder_types::{
    Body, ChunkId, Content, InstanceId, Refusal,
    zoo::{Bug, planted},
};

use crate::answer::MISSING_CHUNKS_MAX;
use crate::group::{Draft, GroupCheck, Stop, refuse};
use crate::{LedgerError, NodeRow, PackState, RowsError, What};

impl GroupCheck<'_, '_> {
    /// Counts deletes, overwrites and moves of versions that somebody else wrote (promise I18).
    pub(crate) fn check_brake(&mut self) -> Result<(), Stop> {
        let now_ms = self.batch.context.time_ms.max(self.batch.share.time_ms);
        let Some(brake) = self.batch.context.brake else {
            // Let go: what was counted before must not hold again what comes after.
            (self.memory.brake_from_ms, self.memory.brake_ops) = (now_ms, 0);
            return Ok(());
        };
        let mut memory = self.batch.memory;
        if now_ms.saturating_sub(memory.brake_from_ms) >= brake.window_ms {
            (memory.brake_from_ms, memory.brake_ops) = (now_ms, 0);
        }
        for draft in &self.drafts {
            let Some(before) = &draft.before else { continue };
            if !is_destructive(draft) || self.author_of(before)? == Some(self.batch.author.by) {
                continue;
            }
            memory.brake_ops += 1;
            if brake.held || memory.brake_ops > brake.ops_max {
                return refuse(draft.op, Refusal::Held);
            }
        }
        // Kept only if the group is taken: what is refused and sent again must not count twice.
        self.memory = memory;
        Ok(())
    }

    /// Who wrote a version; `None` when its commit is not kept any more.
    fn author_of(&self, row: &NodeRow) -> Result<Option<InstanceId>, RowsError> {
        if row.since >= self.batch.seq {
            return Ok(Some(self.batch.author.by));
        }
        let commit = self.batch.rows.commit_at(row.since)?;
        Ok(commit.filter(|commit| row.since <= commit.last()).map(|commit| commit.author.by))
    }

    /// Only growth is refused: whoever is above the quota can still delete and shrink.
    pub(crate) fn check_quota(&self) -> Result<(), Stop> {
        let size = |row: &Option<NodeRow>| row.as_ref().map_or(0, |row| i128::from(row.content.size()));
        let growth = |draft: &Draft| size(&draft.after) - size(&draft.before);
        let total: i128 = self.drafts.iter().map(growth).sum();
        // The sum is kept in 63 bits: sparse files alone can reach that.
        let quota_bytes = self.batch.context.quota_bytes.unwrap_or(u64::MAX).min(i64::MAX as u64);
        if total <= 0 || i128::from(self.batch.share.live_bytes) + total <= i128::from(quota_bytes) {
            return Ok(());
        }
        let grown =
            self.drafts.iter().find(|draft| growth(draft) > 0).expect("a positive sum has a positive term");
        refuse(grown.content_op.unwrap_or(grown.op), Refusal::Quota { quota_bytes })
    }

    /// A commit is the reference point of chunks: every newly named one lies in a live pack. What a version that the group
    /// itself was derived from names already is exempt, wherever the group names it again.
    pub(crate) fn check_chunks(&mut self) -> Result<(), Stop> {
        let mut used = BTreeSet::new();
        for at in 0..self.drafts.len() {
            let Some((content, op)) = self.drafts[at].new_content() else { continue };
            let mut needed: Vec<ChunkId> = content.direct_chunks().collect();
            if let Some(root) = root_of(content) {
                needed.extend_from_slice(self.chunks_below(root)?);
            }
            let mut missing = Vec::new();
            for id in needed {
                match self.batch.live_pack_of(&id)? {
                    Some(no) => {
                        used.insert(no);
                    }
                    None => missing.push(id),
                }
            }
            if missing.is_empty() {
                continue;
            }
            let exempt = self.inherited();
            missing.retain(|id| !exempt.contains(id));
            if !missing.is_empty() {
                missing.truncate(MISSING_CHUNKS_MAX);
                return refuse(op, Refusal::ChunksMissing(missing));
            }
        }
        for no in used {
            self.batch.packs.entry(no).and_modify(|(_, used)| *used = true);
        }
        Ok(())
    }

    /// Chunks below the root of a tree; none of a tree that a base version named too.
    fn chunks_below(&mut self, root: ChunkId) -> Result<&[ChunkId], LedgerError> {
        if let Some(below) = self.batch.context.trees.get(&root) {
            return Ok(below);
        }
        // A root that lies in no live pack can be read by nobody: it is itself what is missing.
        if self.inherits_root(root) || self.batch.live_pack_of(&root)?.is_none() {
            return Ok(&[]);
        }
        Err(LedgerError::TreeNotRead { root })
    }

    fn inherits_root(&self, root: ChunkId) -> bool {
        let mut bases = self.drafts.iter().filter_map(|draft| draft.before.as_ref());
        bases.any(|before| root_of(&before.content) == Some(root))
    }

    /// Every chunk that the versions before the group name, as far as their trees were brought along.
    fn inherited(&self) -> BTreeSet<ChunkId> {
        let mut all = BTreeSet::new();
        for before in self.drafts.iter().filter_map(|draft| draft.before.as_ref()) {
            all.extend(before.content.direct_chunks());
            let below = root_of(&before.content).and_then(|root| self.batch.context.trees.get(&root));
            all.extend(below.into_iter().flatten());
        }
        all
    }
}

impl crate::commit::Batch<'_> {
    /// The pack that a chunk lies in, if commits may refer to it. Packs cannot change their state while the share's row
    /// is locked, so each is looked at once a batch.
    fn live_pack_of(&mut self, id: &ChunkId) -> Result<Option<crate::PackNo>, RowsError> {
        let Some(chunk) = self.rows.chunk(id.key16())? else { return Ok(None) };
        let live = match self.packs.get(&chunk.pack) {
            Some((live, _)) => *live,
            None => {
                let state = crate::packs::known_pack(self.rows, chunk.pack)?.state;
                let live = state == PackState::Live
                    || state == PackState::Condemned && planted(Bug::CondemnedServes);
                self.packs.insert(chunk.pack, (live, false));
                live
            }
        };
        Ok(live.then_some(chunk.pack))
    }
}

fn root_of(content: &Content) -> Option<ChunkId> {
    match content {
        Content::File { body: Body::Tree { root, .. }, .. } => Some(*root),
        _ => None,
    }
}

fn is_destructive(draft: &Draft) -> bool {
    match draft.what {
        What::Delete | What::Move => true,
        What::Update => draft.new_content().is_some(),
        What::Create | What::Revive => false,
    }
}
