//! Prune: marks what is referenced, has `polder_backup` make the plan, and runs it. Doubt keeps.
//!
//! What a crash leaves behind: condemned packs (the next look decides), deleted rows whose object is still there (deleted
//! first at the next run), a new pack of a merge without rows (a stray, deleted after the grace period).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use polder_backup::{
    Delete, HomedChunk, Look, MarkSet, MarkSetBuilder, Marks, PackFacts, PruneSettings, ServiceTime,
    plan_prune,
};
use polder_chunk::ChunkSlot;
use polder_ledger::{LedgerError, MarkFrom, PackNo, PackRow, PackState};
use polder_packstore::{PackName, StoreError};
use polder_types::{Content, PackId, Reader, Seq};

use super::{Done, Reconciler, repack, rows};
use crate::failure::Chain;
use crate::packs;
use crate::shares::OpenShare;
use crate::state::ServiceState;

/// Rows of one transaction that reads.
const PAGE: usize = 2000;
/// Memory for marks: 16 bytes each while they are gathered. More data than this needs a larger process.
const MARKS_MAX: usize = 64 << 20;
/// Bytes that one run writes anew.
const REWRITE_BYTES_MAX: u64 = 512 << 20;

/// Condemns, spares, deletes, repacks and merges.
#[derive(Default)]
pub struct Prune {
    /// Packs in the store without a row, and since when that is known here. A restart forgets it: they stay longer.
    strays: Mutex<BTreeMap<PackName, u64>>,
}

#[async_trait]
impl Reconciler for Prune {
    fn name(&self) -> &'static str {
        "prune"
    }

    fn every(&self, _: &ServiceState) -> Duration {
        Duration::from_secs(15 * 60)
    }

    /// Nothing of it is urgent, and after a start everybody else is.
    fn first_after(&self) -> Duration {
        Duration::from_secs(10 * 60)
    }

    async fn run(&self, state: &ServiceState, _: bool) -> Done {
        let mut done = Done::default();
        let shares = match rows::live_shares(state).await {
            Ok(shares) => shares,
            Err(error) => return Done { failed: Some(error), ..done },
        };
        for row in shares {
            let pruned = async {
                let share = rows::open(state, &row).await?;
                self.prune(state, &share).await
            };
            match pruned.await {
                Ok(0) => (),
                Ok(steps) => {
                    done.items += steps;
                    done.outcome = format!("changed {} packs", done.items);
                }
                Err(error) => done.failed = Some(format!("share {}: {error}", row.id)),
            }
        }
        done
    }
}

/// What a look found.
struct Seen {
    marks: MarkSet,
    /// Head before the first page of the marks, and when that was.
    marked_from: Seq,
    marked_ms: u64,
    packs: BTreeMap<PackId, PackRow>,
    /// Referenced chunks of each pack as one row: their bytes together, and one of their keys.
    used: BTreeMap<PackId, HomedChunk>,
}

impl Prune {
    async fn prune(&self, state: &ServiceState, share: &Arc<OpenShare>) -> Result<u64, String> {
        let mut steps = finish_deletions(state, share).await?;
        let seen = look(state, share).await?;
        let strays = self.strays(state, share, &seen).await?;
        let settings = PruneSettings { rewrite_bytes_max: REWRITE_BYTES_MAX, ..PruneSettings::default() };
        let plan = {
            let now_ms = state.clock().now_ms();
            let look = Look {
                now: ServiceTime(now_ms / 1000),
                as_of: seen.marked_from,
                expiry_suspended: !state.clock().may_expire(),
            };
            let mut facts: BTreeMap<PackId, PackFacts> = strays;
            facts.extend(seen.packs.values().filter_map(facts_of).map(|facts| (facts.pack, facts)));
            let packs = facts.into_values().map(Ok::<_, LedgerError>);
            let chunks = seen.used.values().copied().map(Ok);
            plan_prune(packs, chunks, &seen.marks, look, &settings)
                .map_err(|error| Chain(&error).to_string())?
        };
        if plan.waiting.missing > 0 {
            tracing::error!(share = %share.id, packs = plan.waiting.missing, "the chunk index names packs that have no row");
        }
        if plan.is_empty() {
            return Ok(steps);
        }
        tracing::info!(share = %share.id, plan = %plan, "prune");
        let time_ms = state.clock().now_ms();
        let marked_from = seen.marked_from;
        let spare: Vec<PackId> = plan.spare.iter().map(|step| step.pack).collect();
        let condemn: Vec<PackId> = plan.condemn.iter().map(|step| step.pack).collect();
        steps += spare.len() as u64;
        steps += rows::write(share, move |rows| {
            polder_ledger::spare_packs(rows, &spare, time_ms)?;
            polder_ledger::condemn_packs(rows, &condemn, marked_from, time_ms)
        })
        .await?
        .len() as u64;
        steps += self.delete(state, share, &plan.delete, &seen, settings.grace_secs).await?;
        let groups = plan.merge.iter().map(|merge| merge.packs.clone());
        for group in groups.chain(plan.repack.iter().map(|step| vec![step.pack])) {
            repack::repack(state, share, &group, &seen.marks).await?;
            steps += group.len() as u64;
        }
        Ok(steps)
    }

    /// Packs that are in the store and in no row.
    async fn strays(
        &self,
        state: &ServiceState,
        share: &Arc<OpenShare>,
        seen: &Seen,
    ) -> Result<BTreeMap<PackId, PackFacts>, String> {
        let now_ms = state.clock().now_ms();
        let (mut found, mut after) = (BTreeMap::new(), None);
        loop {
            let page = state.packs().list(share.id, after, polder_packstore::LIST_MAX).await;
            let page = page.map_err(|error| Chain(&error).to_string())?;
            let Some(last) = page.last() else { break };
            after = Some(last.pack);
            for listed in page.iter().filter(|listed| !seen.packs.contains_key(&listed.pack)) {
                found.insert(listed.pack, listed.bytes);
            }
        }
        let mut known = self.strays.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|name, _| name.share != share.id || found.contains_key(&name.pack));
        let facts = found.into_iter().map(|(pack, bytes)| {
            let since = *known.entry(PackName { share: share.id, pack }).or_insert(now_ms);
            let seen_at = ServiceTime(since / 1000);
            let state = polder_backup::PackState::Stray { seen_at };
            (pack, PackFacts { pack, state, bytes, stored_at: seen_at, verified: false })
        });
        Ok(facts.collect())
    }

    async fn delete(
        &self,
        state: &ServiceState,
        share: &Arc<OpenShare>,
        deletes: &[Delete],
        seen: &Seen,
        grace_secs: u64,
    ) -> Result<u64, String> {
        let (strays, known): (Vec<&Delete>, Vec<&Delete>) = deletes.iter().partition(|delete| delete.stray);
        for stray in &strays {
            let (pack, bytes, time_ms) = (stray.pack, stray.bytes, state.clock().now_ms());
            // A row first: it may be registered at this moment, or have been since the look.
            rows::write(share, move |rows| polder_ledger::delete_stray(rows, pack, bytes, time_ms)).await?;
        }
        let known: Vec<PackId> = known.iter().map(|delete| delete.pack).collect();
        if deletes.is_empty() {
            return Ok(0);
        }
        let (marked_from, marked_ms) = (seen.marked_from, seen.marked_ms);
        let (grace_ms, time_ms) = (grace_secs * 1000, state.clock().now_ms());
        let deleted = rows::write(share, move |rows| {
            polder_ledger::delete_packs(rows, &known, marked_from, marked_ms, grace_ms, time_ms)
        });
        deleted.await?;
        finish_deletions(state, share).await
    }
}

async fn delete_object(state: &ServiceState, name: PackName) -> Result<(), String> {
    tracing::info!(pack = %name.pack, share = %name.share, "a pack is deleted");
    state.packs().delete(name).await.map_err(|error| Chain(&error).to_string())
}

/// Deletes the objects of packs whose rows say so already; where the object is gone already, their chunks and then the rows.
///
/// A row outlives its object until a later run finds the object gone: an upload of the same pack may have found the object just
/// before it went, and registers it just after. Without the row that would be a pack without bytes.
async fn finish_deletions(state: &ServiceState, share: &Arc<OpenShare>) -> Result<u64, String> {
    let all = all_packs(share).await?;
    let (mut count, mut gone) = (0, Vec::new());
    for pack in all.into_values().filter(|pack| pack.state == PackState::Deleted).map(|pack| pack.id) {
        let name = PackName { share: share.id, pack };
        match state.packs().size(name).await {
            Err(StoreError::NotFound { .. }) => gone.push(pack),
            _ => {
                delete_object(state, name).await?;
                count += 1;
            }
        }
    }
    if gone.is_empty() {
        return Ok(count);
    }
    let mut after = None;
    loop {
        after = rows::write(share, move |rows| polder_ledger::forget_step(rows, after, PAGE)).await?;
        if after.is_none() {
            break;
        }
    }
    rows::write(share, move |rows| gone.iter().try_for_each(|pack| polder_ledger::forget_pack(rows, *pack)))
        .await?;
    Ok(count)
}

async fn all_packs(share: &Arc<OpenShare>) -> Result<BTreeMap<PackNo, PackRow>, String> {
    let (mut all, mut after) = (BTreeMap::new(), None);
    loop {
        let page = rows::read(share, move |rows| Ok(rows.packs(after, PAGE)?)).await?;
        let Some((last, _)) = page.last() else { return Ok(all) };
        after = Some(*last);
        all.extend(page);
    }
}

fn facts_of(row: &PackRow) -> Option<PackFacts> {
    let state = match row.state {
        PackState::Live => polder_backup::PackState::Live,
        PackState::Condemned => {
            polder_backup::PackState::Condemned { at: ServiceTime(row.state_ms / 1000), head: row.state_seq }
        }
        // On its way out already; damaged ones stay for whoever wants to look.
        PackState::Deleted | PackState::Failed => return None,
    };
    Some(PackFacts {
        pack: row.id,
        state,
        bytes: row.bytes,
        stored_at: ServiceTime(row.registered_ms / 1000),
        verified: row.verified_ms.is_some(),
    })
}

/// Marks everything that is referenced, then adds up what of each pack that is.
async fn look(state: &ServiceState, share: &Arc<OpenShare>) -> Result<Seen, String> {
    let marked_ms = state.clock().now_ms();
    let (from, marked_from) = rows::read(share, MarkFrom::start).await?;
    let mut marks = MarkSetBuilder::new(MARKS_MAX);
    let mut roots = BTreeSet::new();
    let mut from = Some(from);
    while let Some(at) = from {
        let page = rows::read(share, move |rows| polder_ledger::references(rows, at, PAGE)).await?;
        for content in &page.contents {
            content.direct_chunks().try_for_each(|id| marks.mark(id)).map_err(|error| error.to_string())?;
        }
        let trees: Vec<&Content> =
            page.contents.iter().filter(|content| is_new_tree(content, &mut roots)).collect();
        let below = packs::trees_below(&**state.packs(), state.trees(), share, trees.into_iter()).await;
        // A tree that cannot be read may name anything: nothing is pruned before it can.
        let below = below.map_err(|error| Chain(&error).to_string())?;
        let ids = below.values().flatten();
        ids.copied().try_for_each(|id| marks.mark(id)).map_err(|error| error.to_string())?;
        from = page.next;
    }
    let marks = marks.finish().map_err(|error| error.to_string())?;
    let by_no = all_packs(share).await?;
    let used = add_up(share, &marks, &by_no).await?;
    let packs = by_no.into_values().map(|row| (row.id, row)).collect();
    Ok(Seen { marks, marked_from, marked_ms, packs, used })
}

fn is_new_tree(content: &Content, roots: &mut BTreeSet<polder_types::ChunkId>) -> bool {
    match content {
        Content::File { body: polder_types::Body::Tree { root, .. }, .. } => roots.insert(*root),
        _ => false,
    }
}

async fn add_up(
    share: &Arc<OpenShare>,
    marks: &MarkSet,
    packs: &BTreeMap<PackNo, PackRow>,
) -> Result<BTreeMap<PackId, HomedChunk>, String> {
    let (mut used, mut after): (BTreeMap<PackId, HomedChunk>, _) = (BTreeMap::new(), None);
    loop {
        let page = rows::read(share, move |rows| Ok(rows.chunks(after, PAGE)?)).await?;
        let Some((last, _)) = page.last() else { return Ok(used) };
        after = Some(*last);
        for (key, row) in page.iter().filter(|(key, _)| marks.contains(key)) {
            // A pack that was registered after the list was read is young: it is not in the plan.
            let Some(pack) = packs.get(&row.pack) else { continue };
            let slot = ChunkSlot::decode(&mut Reader::new(row.slot.as_bytes()))
                .map_err(|error| error.to_string())?;
            let sum = used.entry(pack.id).or_insert(HomedChunk { pack: pack.id, key: *key, stored_bytes: 0 });
            sum.stored_bytes = sum.stored_bytes.saturating_add(slot.stored_bytes);
        }
    }
}
