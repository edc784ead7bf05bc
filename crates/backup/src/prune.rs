//! Which packs go, stay, or are packed anew.
//!
//! The order that makes it safe, with what the service does around it:
//!
//! 1. The service marks every chunk that live, historical, snapshot and endpoint-pinned versions name, as of a sequence
//!    number ([`Look::as_of`]).
//! 2. A live pack without marks is *condemned* under the share's lock, at the head of that moment. From then on no
//!    commit may name its chunks anew. A commit between the marks and the lock may have named one: so condemned packs stay
//!    readable.
//! 3. After the grace period, and with marks taken at or after the head of the condemnation, it is deleted if still nothing
//!    references it, else spared. The grace period is longer than any signed URL or cached answer lives.
//!
//! A chunk counts for the pack that is its *home* in the index, and for no other that happens to hold a copy. Repacking
//! moves homes: seal into a new pack, have it verified, then move the rows. The old pack is left with chunks that
//! nothing references, and goes the way of step 2.

use std::collections::BTreeMap;
use std::iter::Peekable;

use polder_types::{
    PackId, Seq,
    zoo::{Bug, planted},
};

use crate::{Condemn, Delete, Marks, Merge, PrunePlan, Repack, Spare};

/// Seconds of the service's monotone, persisted time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceTime(pub u64);

impl ServiceTime {
    /// Seconds since `earlier`; 0 when that lies ahead.
    fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// What the service's rows (or, for a stray, the store's listing) say of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackFacts {
    /// Which pack.
    pub pack: PackId,
    /// Its state.
    pub state: PackState,
    /// Length of the object.
    pub bytes: u64,
    /// When it was stored.
    pub stored_at: ServiceTime,
    /// Whether it was read back from the store and checked.
    pub verified: bool,
}

/// State of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PackState {
    /// Commits may name its chunks.
    Live,
    /// They may not.
    Condemned {
        /// Since when.
        at: ServiceTime,
        /// Head of the share when it was condemned.
        head: Seq,
    },
    /// It is in the store, and no row knows it: an upload that nobody announced, or a deletion that was cut short.
    Stray {
        /// When it was first noticed.
        seen_at: ServiceTime,
    },
}

/// A row of the chunk index: the pack that is the home of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HomedChunk {
    /// Its home.
    pub pack: PackId,
    /// First half of its id.
    pub key: [u8; 16],
    /// Its sealed length.
    pub stored_bytes: u32,
}

/// When and under which circumstances the plan is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// Now.
    pub now: ServiceTime,
    /// The sequence number up to which the marks see everything.
    pub as_of: Seq,
    /// Whether the service's time jumped and nobody has confirmed it: then nothing expires (promise I15).
    pub expiry_suspended: bool,
}

/// What is small, sparse, young and much. Every value is a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PruneSettings {
    /// From condemning to deleting: 24 h.
    pub grace_secs: u64,
    /// From storing to condemning: 24 h, so that an upload that is resumed for hours still finds its packs.
    pub unnamed_secs: u64,
    /// Packs below this are merged: 4 MiB.
    pub small_bytes: u64,
    /// From storing to merging or repacking: ten minutes, so that what is being written is left alone.
    pub settle_secs: u64,
    /// A merged pack is not larger: 32 MiB.
    pub pack_bytes: u64,
    /// A pack with a smaller part of its bytes referenced is repacked: 50 %. Each byte that is written anew frees another.
    pub live_percent_min: u64,
    /// Most steps of one plan: 10,000.
    pub steps_max: usize,
    /// Most bytes that one plan writes anew: 4 GiB.
    pub rewrite_bytes_max: u64,
}

impl Default for PruneSettings {
    fn default() -> Self {
        Self {
            grace_secs: 24 * 3600,
            unnamed_secs: 24 * 3600,
            small_bytes: 4 << 20,
            settle_secs: 600,
            pack_bytes: polder_chunk::PACK_DATA_BYTES.into(),
            live_percent_min: 50,
            steps_max: 10_000,
            rewrite_bytes_max: 4 << 30,
        }
    }
}

/// Why no plan was made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError<E> {
    /// The rows could not be read.
    #[error("read rows")]
    Rows(#[source] E),
    /// The rows do not come in ascending order of packs, so that nothing follows from their absence.
    #[error("rows of pack {0} are out of order")]
    Unsorted(PackId),
}

/// What is referenced of one pack.
#[derive(Debug, Clone, Copy, Default)]
struct Use {
    chunks: u64,
    bytes: u64,
}

/// Makes the plan for one share. `packs` and `chunks` come in ascending order of packs; one pack's worth of neither is
/// held. Memory follows the size of the plan.
pub fn plan_prune<E>(
    packs: impl IntoIterator<Item = Result<PackFacts, E>>,
    chunks: impl IntoIterator<Item = Result<HomedChunk, E>>,
    marks: &impl Marks,
    look: Look,
    settings: &PruneSettings,
) -> Result<PrunePlan, PlanError<E>> {
    let mut planner =
        Planner { plan: PrunePlan::default(), small: BTreeMap::new(), rewritten: 0, look, settings };
    let mut chunks = Chunks { rows: chunks.into_iter().peekable(), last: None };
    let mut last = None;
    for facts in packs {
        let facts = facts.map_err(PlanError::Rows)?;
        if last.is_some_and(|last| last >= facts.pack) {
            return Err(PlanError::Unsorted(facts.pack));
        }
        last = Some(facts.pack);
        let (used, missing) = chunks.used(Some(facts.pack), marks)?;
        planner.plan.waiting.missing += missing;
        planner.look_at(&facts, used);
    }
    let (_, missing) = chunks.used(None, marks)?;
    planner.plan.waiting.missing += missing;
    planner.merge_small();
    Ok(planner.plan)
}

struct Chunks<I: Iterator> {
    rows: Peekable<I>,
    last: Option<PackId>,
}

impl<E, I: Iterator<Item = Result<HomedChunk, E>>> Chunks<I> {
    /// What is referenced of `pack`, and how many packs before it the index names although they have no row. `None` is
    /// behind all packs.
    fn used(&mut self, pack: Option<PackId>, marks: &impl Marks) -> Result<(Use, u64), PlanError<E>> {
        let (mut used, mut missing) = (Use::default(), 0);
        let comes = |row: &Result<HomedChunk, E>| match (row, pack) {
            (Ok(row), Some(pack)) => row.pack <= pack,
            _ => true,
        };
        while let Some(row) = self.rows.next_if(comes) {
            let row = row.map_err(PlanError::Rows)?;
            if self.last.is_some_and(|last| last > row.pack) {
                return Err(PlanError::Unsorted(row.pack));
            }
            let first_of_pack = self.last != Some(row.pack);
            self.last = Some(row.pack);
            if Some(row.pack) != pack {
                missing += u64::from(first_of_pack);
            } else if marks.contains(&row.key) {
                used.chunks += 1;
                used.bytes += u64::from(row.stored_bytes);
            }
        }
        Ok((used, missing))
    }
}

struct Planner<'a> {
    plan: PrunePlan,
    // Candidates for merging by (referenced bytes, pack), with the time they were stored.
    small: BTreeMap<(u64, PackId), ServiceTime>,
    // Bytes that the plan so far writes anew.
    rewritten: u64,
    look: Look,
    settings: &'a PruneSettings,
}

impl Planner<'_> {
    fn look_at(&mut self, facts: &PackFacts, used: Use) {
        match facts.state {
            PackState::Live if used.chunks == 0 => self.look_at_unused(facts),
            PackState::Live => self.look_at_used(facts, used),
            PackState::Condemned { .. } if used.chunks > 0 && !planted(Bug::NoSecondLook) => {
                // However full the plan is: sparing takes no space and cannot wait.
                self.plan.spare.push(Spare { pack: facts.pack, chunks_referenced: used.chunks });
            }
            PackState::Condemned { at, head } => {
                // Marks that are older than the condemnation may miss a commit that came before it.
                if self.look.as_of < head && !planted(Bug::OldMarksCount) {
                    self.plan.waiting.second_look += 1;
                } else {
                    self.look_at_doomed(facts, at, false);
                }
            }
            // The index names it: it is being taken in at this moment.
            PackState::Stray { .. } if used.chunks > 0 => self.plan.waiting.missing += 1,
            PackState::Stray { seen_at } => self.look_at_doomed(facts, seen_at, true),
        }
    }

    fn look_at_unused(&mut self, facts: &PackFacts) {
        let age_secs = self.look.now.since(facts.stored_at);
        if age_secs < self.settings.unnamed_secs {
            self.plan.waiting.young += 1;
        } else if !facts.verified {
            // It may be the only sound copy of a chunk whose home arrived damaged: reading it back will tell.
            self.plan.waiting.unverified += 1;
        } else if self.look.expiry_suspended {
            self.plan.waiting.suspended += 1;
        } else if self.has_room() {
            self.plan.condemn.push(Condemn { pack: facts.pack, bytes: facts.bytes, age_secs });
        }
    }

    fn look_at_doomed(&mut self, facts: &PackFacts, since: ServiceTime, stray: bool) {
        let waited_secs = self.look.now.since(since);
        if waited_secs < self.settings.grace_secs {
            self.plan.waiting.in_grace += 1;
        } else if self.look.expiry_suspended {
            self.plan.waiting.suspended += 1;
        } else if self.has_room() {
            self.plan.delete.push(Delete { pack: facts.pack, bytes: facts.bytes, waited_secs, stray });
        }
    }

    fn look_at_used(&mut self, facts: &PackFacts, used: Use) {
        let small = facts.bytes < self.settings.small_bytes;
        let sparse =
            used.bytes.saturating_mul(100) < facts.bytes.saturating_mul(self.settings.live_percent_min);
        let settled = self.look.now.since(facts.stored_at) >= self.settings.settle_secs;
        if !(small || sparse) || !settled {
            return;
        }
        if !facts.verified {
            // What cannot be read would be noticed only when it is too late to send it again.
            self.plan.waiting.unverified += 1;
        } else if small {
            self.small.insert((used.bytes, facts.pack), facts.stored_at);
            if self.small.len() > self.settings.steps_max {
                self.small.pop_last();
                self.plan.waiting.next_plan += 1;
            }
        } else if self.may_rewrite(used.bytes) {
            self.plan.repack.push(Repack { pack: facts.pack, bytes: facts.bytes, live_bytes: used.bytes });
        }
    }

    /// Groups of small packs, from the smallest on. A group is merged only if it is at least half as large again as its
    /// largest member, so that a byte that is merged again and again moves a logarithmic number of times.
    fn merge_small(&mut self) {
        let mut group: Vec<(u64, PackId, ServiceTime)> = Vec::new();
        let mut group_bytes = 0;
        for ((bytes, pack), stored_at) in std::mem::take(&mut self.small) {
            if group_bytes + bytes > self.settings.pack_bytes {
                self.merge(std::mem::take(&mut group));
                group_bytes = 0;
            }
            group_bytes += bytes;
            group.push((bytes, pack, stored_at));
        }
        // The last group may end with packs that are too large for it; without them it may still be worth while.
        while let Some((largest, _, _)) = group.last().copied() {
            if 2 * group_bytes >= 3 * largest {
                break;
            }
            group.pop();
            group_bytes -= largest;
        }
        self.merge(group);
    }

    fn merge(&mut self, mut group: Vec<(u64, PackId, ServiceTime)>) {
        let live_bytes = group.iter().map(|(bytes, _, _)| bytes).sum();
        if group.len() < 2 {
            return;
        }
        if self.may_rewrite(live_bytes) {
            // Chunks that were stored together lie together.
            group.sort_by_key(|(_, pack, stored_at)| (*stored_at, *pack));
            let packs = group.into_iter().map(|(_, pack, _)| pack).collect();
            self.plan.merge.push(Merge { packs, live_bytes });
        }
    }

    fn has_room(&mut self) -> bool {
        let room = self.plan.steps() < self.settings.steps_max;
        self.plan.waiting.next_plan += u64::from(!room);
        room
    }

    /// Whether a step that writes so much fits into the plan; then it is counted.
    fn may_rewrite(&mut self, bytes: u64) -> bool {
        let fits = self.rewritten.saturating_add(bytes) <= self.settings.rewrite_bytes_max;
        if !fits {
            self.plan.waiting.next_plan += 1;
        } else if self.has_room() {
            self.rewritten += bytes;
            return true;
        }
        false
    }
}

#[cfg(test)]
#[path = "prune_tests.rs"]
mod tests;
