//! Background work on packs: reading back, and prune as `service/src/work/prune.rs` runs it: marks page by page while
//! commits go on, then `polder_backup`'s plan, then condemning, deleting, packing anew.

use std::collections::{BTreeMap, BTreeSet};

use polder_backup::{
    HomedChunk, Look, MarkSet, MarkSetBuilder, PackFacts, PruneSettings, ServiceTime, plan_prune,
};
use polder_ledger::{LedgerError, MarkFrom, NewPack, PackRow, PackState, Slot};
use polder_types::{ChunkId, PackId, Seq};

use super::{MAPS, Service};
use crate::disk::{size_of, token_in};

/// Rows of a page of marks: few, so that commits come in between.
const PAGE: usize = 4;

/// A prune that is going on, and what is remembered from one to the next.
#[derive(Debug, Default)]
pub struct Prune {
    strays: BTreeMap<PackId, u64>,
    run: Option<Run>,
}

#[derive(Debug)]
struct Run {
    marks: MarkSetBuilder,
    from: Option<MarkFrom>,
    marked_from: Seq,
    marked_ms: u64,
    /// Packs that are being packed anew: read, and not stored yet.
    repack: Vec<(Vec<PackId>, BTreeSet<ChunkId>)>,
}

impl Prune {
    pub(super) fn restart(&mut self) {
        *self = Self::default();
    }
}

/// What a step of background work did.
#[derive(Debug, Default)]
pub struct Worked {
    /// What to note.
    pub notes: Vec<String>,
    /// Objects that were deleted.
    pub deleted: Vec<PackId>,
    /// Whether the run is over.
    pub over: bool,
}

impl Service {
    /// Reads one pack back; the pack and whether it is sound.
    pub fn verify(&mut self) -> Option<(PackId, bool)> {
        let pack = self.unverified.pop_first()?;
        let sound = self.store.chunks(pack).is_some();
        let time_ms = self.time_ms;
        let noted = self.write(|rows| {
            if polder_ledger::pack(rows, pack)?.is_none_or(|row| row.state == PackState::Deleted) {
                return Ok(());
            }
            match sound {
                true => polder_ledger::pack_verified(rows, pack, time_ms),
                false => polder_ledger::pack_failed(rows, pack, time_ms),
            }
        });
        noted.expect(MAPS);
        Some((pack, sound))
    }

    /// The next step of a prune, each a transaction of its own.
    pub fn prune_step(&mut self) -> Worked {
        let mut worked = Worked::default();
        let Some(run) = self.prune.run.take() else {
            self.finish_deletions(&mut worked);
            let (from, marked_from) = MarkFrom::start(&self.rows).expect(MAPS);
            let marks = MarkSetBuilder::new(1 << 20);
            let marked_ms = self.time_ms;
            self.prune.run =
                Some(Run { marks, from: Some(from), marked_from, marked_ms, repack: Vec::new() });
            return worked;
        };
        match run {
            Run { from: Some(from), .. } => self.mark_page(run, from),
            Run { ref repack, .. } if !repack.is_empty() => {
                self.repack(run, &mut worked);
            }
            run => self.decide(run, &mut worked),
        }
        worked.over = self.prune.run.is_none();
        worked
    }

    fn mark_page(&mut self, mut run: Run, from: MarkFrom) {
        let page = polder_ledger::references(&self.rows, from, PAGE).expect(MAPS);
        for content in &page.contents {
            content.direct_chunks().for_each(|id| run.marks.mark(id).expect("few"));
        }
        run.from = page.next;
        self.prune.run = Some(run);
    }

    fn decide(&mut self, run: Run, worked: &mut Worked) {
        let Run { marks, marked_from, marked_ms, .. } = run;
        let marks = marks.finish().expect("few");
        let settings = settings();
        let (facts, chunks) = (self.facts(), self.homed_chunks());
        let look =
            Look { now: ServiceTime(self.time_ms / 1000), as_of: marked_from, expiry_suspended: false };
        let facts = facts.into_values().map(Ok::<_, LedgerError>);
        let plan = plan_prune(facts, chunks.into_iter().map(Ok), &marks, look, &settings);
        let plan = plan.expect("rows are sorted");
        if plan.is_empty() {
            return;
        }
        worked.notes.push(format!("prune: {plan}"));
        let time_ms = self.time_ms;
        let spare: Vec<PackId> = plan.spare.iter().map(|step| step.pack).collect();
        let condemn: Vec<PackId> = plan.condemn.iter().map(|step| step.pack).collect();
        let done = self.write(|rows| {
            polder_ledger::spare_packs(rows, &spare, time_ms)?;
            polder_ledger::condemn_packs(rows, &condemn, marked_from, time_ms)
        });
        done.expect(MAPS);
        let (strays, known): (Vec<_>, Vec<_>) = plan.delete.iter().partition(|delete| delete.stray);
        for stray in strays {
            if polder_ledger::pack(&self.rows, stray.pack).expect(MAPS).is_none() {
                self.store.delete(stray.pack);
                worked.deleted.push(stray.pack);
            }
        }
        let known: Vec<PackId> = known.iter().map(|delete| delete.pack).collect();
        let grace_ms = settings.grace_secs * 1000;
        let deleted = self.write(|rows| {
            polder_ledger::delete_packs(rows, &known, marked_from, marked_ms, grace_ms, time_ms)
        });
        deleted.expect(MAPS);
        self.finish_deletions(worked);
        let groups = plan.merge.iter().map(|merge| merge.packs.clone());
        let groups = groups.chain(plan.repack.iter().map(|step| vec![step.pack]));
        let repack = groups.filter_map(|group| self.gather(group, &marks)).collect::<Vec<_>>();
        if !repack.is_empty() {
            let marks = MarkSetBuilder::new(1);
            self.prune.run = Some(Run { marks, from: None, marked_from, marked_ms, repack });
        }
    }

    /// Reads what of some packs is to be packed anew.
    fn gather(&self, group: Vec<PackId>, marks: &MarkSet) -> Option<(Vec<PackId>, BTreeSet<ChunkId>)> {
        let mut wanted = BTreeSet::new();
        for pack in &group {
            let chunks = self.store.chunks(*pack)?;
            let marked = chunks.iter().filter(|id| polder_backup::Marks::contains(marks, &id.key16()));
            wanted.extend(marked.filter(|id| self.locate(**id) == Some(*pack)).copied());
        }
        (!wanted.is_empty()).then_some((group, wanted))
    }

    /// Stores what was gathered, reads it back and registers it.
    fn repack(&mut self, mut run: Run, worked: &mut Worked) {
        let Some((replaces, chunks)) = run.repack.pop() else { return };
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.rng.next().to_be_bytes());
        let pack = PackId(id);
        worked.notes.push(format!("{} packs become {pack}", replaces.len()));
        self.store.put(pack, chunks.clone(), None);
        let slot = Slot::new(&[]).expect("nothing fits");
        let new = NewPack {
            id: pack,
            bytes: chunks.iter().map(|chunk| size_of(token_in(*chunk))).sum(),
            key_gen: 1,
            meta: Box::default(),
            chunks: chunks.iter().map(|chunk| (*chunk, slot)).collect(),
            replaces,
        };
        let time_ms = self.time_ms;
        self.write(|rows| polder_ledger::register_pack(rows, &new, time_ms, Some(time_ms))).expect(MAPS);
        if !run.repack.is_empty() {
            self.prune.run = Some(run);
        }
    }

    fn facts(&mut self) -> BTreeMap<PackId, PackFacts> {
        let rows = self.all_packs();
        let known: BTreeSet<PackId> = rows.iter().map(|row| row.id).collect();
        let found: Vec<PackId> = self.store.list().into_iter().filter(|pack| !known.contains(pack)).collect();
        let now_ms = self.time_ms;
        self.prune.strays.retain(|pack, _| found.contains(pack));
        let mut facts = BTreeMap::new();
        for pack in found {
            let since = *self.prune.strays.entry(pack).or_insert(now_ms);
            let seen_at = ServiceTime(since / 1000);
            let state = polder_backup::PackState::Stray { seen_at };
            facts.insert(pack, PackFacts { pack, state, bytes: 1, stored_at: seen_at, verified: false });
        }
        facts.extend(rows.iter().filter_map(facts_of).map(|facts| (facts.pack, facts)));
        facts
    }

    fn homed_chunks(&self) -> Vec<HomedChunk> {
        let packs: BTreeMap<_, _> =
            polder_ledger::Rows::packs(&self.rows, None, usize::MAX).expect(MAPS).into_iter().collect();
        let chunks = polder_ledger::Rows::chunks(&self.rows, None, usize::MAX).expect(MAPS);
        let mut homed: Vec<HomedChunk> = chunks
            .into_iter()
            .map(|(key, row)| HomedChunk { pack: packs[&row.pack].id, key, stored_bytes: 1000 })
            .collect();
        homed.sort_by_key(|chunk| chunk.pack);
        homed
    }

    /// Deletes the objects of packs whose rows say so already, then their chunks, then the rows.
    fn finish_deletions(&mut self, worked: &mut Worked) {
        let all = self.all_packs().into_iter().filter(|pack| pack.state == PackState::Deleted);
        let deleted: Vec<PackId> = all.map(|pack| pack.id).collect();
        if deleted.is_empty() {
            return;
        }
        deleted.iter().for_each(|pack| self.store.delete(*pack));
        let mut after = None;
        loop {
            after = self.write(|rows| polder_ledger::forget_step(rows, after, PAGE)).expect(MAPS);
            if after.is_none() {
                break;
            }
        }
        self.write(|rows| deleted.iter().try_for_each(|pack| polder_ledger::forget_pack(rows, *pack)))
            .expect(MAPS);
        worked.deleted.extend(deleted);
    }
}

fn facts_of(row: &PackRow) -> Option<PackFacts> {
    let state = match row.state {
        PackState::Live => polder_backup::PackState::Live,
        PackState::Condemned => {
            polder_backup::PackState::Condemned { at: ServiceTime(row.state_ms / 1000), head: row.state_seq }
        }
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

/// Hours become seconds: a run is a minute long.
fn settings() -> PruneSettings {
    PruneSettings { grace_secs: 6, unnamed_secs: 4, settle_secs: 2, ..PruneSettings::default() }
}
