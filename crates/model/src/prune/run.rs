//! A run of prune, step by step: `polder_service::work::prune` and `repack`.

use std::collections::{BTreeMap, BTreeSet};

use polder_backup::{HomedChunk, Look, PackFacts, PruneSettings, ServiceTime, plan_prune};
use polder_ledger::{LedgerError, MarkFrom, PackRow, PackState};
use polder_types::Seq;

use super::{Broken, DAY_MS, Object, Packs, PruneModel, State, lane, pack_id};

/// How far a run has come, and what it knows. Gone with its process.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    stage: Stage,
    marked_from: Seq,
    marked_ms: u64,
    marks: BTreeSet<[u8; 16]>,
    spare: Packs,
    condemn: Packs,
    /// Condemned packs that are to be deleted.
    delete: Packs,
    strays: Packs,
    /// Packs whose objects are being deleted; in the end those of them whose object was gone already.
    deleted: Packs,
    rewrite: Vec<Vec<u8>>,
}

impl Eq for Run {}

#[derive(Debug, Clone, PartialEq)]
enum Stage {
    /// Deletes objects whose rows say so already; afterwards marks, or goes on.
    Finish {
        part: Finish,
        then_mark: bool,
    },
    Marking(MarkFrom),
    ListRows,
    ListStore {
        packs: Vec<PackFacts>,
        used: Vec<HomedChunk>,
    },
    Condemn,
    Strays,
    /// The stray's row was looked for, and there was none.
    StrayObject(u8),
    Delete,
    Rewrite,
    RegisterRewrite {
        pack: u8,
        chunks: Vec<u8>,
        replaces: Vec<u8>,
    },
}

#[derive(Debug, Clone, PartialEq)]
enum Finish {
    Objects(Packs),
    Walk(Option<[u8; 16]>),
    Rows,
}

pub(super) fn step(model: &PruneModel, state: &mut State) -> Result<(), LedgerError> {
    let Some(mut run) = state.run.take() else {
        state.left.looks -= 1;
        let deleted = deleted(state)?;
        let finish = Stage::Finish { part: Finish::Objects(deleted.clone()), then_mark: true };
        let empty = Packs::new();
        let mut run = Run {
            stage: finish,
            marked_from: Seq(0),
            marked_ms: 0,
            marks: BTreeSet::new(),
            spare: empty.clone(),
            condemn: empty.clone(),
            delete: empty.clone(),
            strays: empty,
            deleted,
            rewrite: Vec::new(),
        };
        if run.deleted.is_empty() {
            run.begin_marks(state)?;
        }
        state.run = Some(run);
        return Ok(());
    };
    let next = match run.stage.clone() {
        Stage::Finish { part, then_mark } => run.finish(model, state, part, then_mark)?,
        Stage::Marking(from) => run.mark(model, state, from)?,
        Stage::ListRows => Some(run.list_rows(state)?),
        Stage::ListStore { packs, used } => run.plan(model, state, packs, used),
        Stage::Condemn => Some(run.condemn(model, state)?),
        Stage::Strays => Some(run.stray(model, state)?),
        Stage::StrayObject(pack) => {
            state.store.remove(&pack);
            Some(Stage::Strays)
        }
        Stage::Delete => run.delete(model, state)?,
        Stage::Rewrite => run.rewrite(state)?,
        Stage::RegisterRewrite { pack, chunks, replaces } => {
            let (new, now_ms) = (lane::new_pack(pack, &chunks, &replaces), state.now_ms);
            state.share.write(|rows| polder_ledger::register_pack(rows, &new, now_ms, Some(now_ms)))?;
            // Else what was packed anew is waste, and is packed anew again and again.
            if let Some(number) = chunks.iter().find(|number| stays_in(state, **number, &replaces)) {
                state.fault = Some(format!("chunk {number} stays in a pack that was packed anew"));
            }
            run.after_rewrite()
        }
    };
    state.run = next.map(|stage| Run { stage, ..run });
    Ok(())
}

impl Run {
    fn begin_marks(&mut self, state: &State) -> Result<(), LedgerError> {
        let (from, head) = MarkFrom::start(state.share.rows())?;
        (self.marked_from, self.marked_ms) = (head, state.now_ms);
        self.stage = Stage::Marking(from);
        Ok(())
    }

    fn mark(
        &mut self,
        model: &PruneModel,
        state: &State,
        from: MarkFrom,
    ) -> Result<Option<Stage>, LedgerError> {
        let page = polder_ledger::references(state.share.rows(), from, model.page)?;
        let ids = page.contents.iter().flat_map(|content| content.direct_chunks().collect::<Vec<_>>());
        self.marks.extend(ids.map(|id| id.key16()));
        let next = match page.next {
            Some(MarkFrom::Past(_)) if model.broken == Some(Broken::LiveMarksOnly) => None,
            next => next,
        };
        Ok(Some(next.map_or(Stage::ListRows, Stage::Marking)))
    }

    /// `all_packs`, then `add_up`.
    fn list_rows(&self, state: &State) -> Result<Stage, LedgerError> {
        let rows = state.share.rows();
        let packs: BTreeMap<_, _> = rows.packs(None, usize::MAX)?.into_iter().collect();
        let mut used = BTreeMap::new();
        for (key, row) in rows.chunks(None, usize::MAX)? {
            if self.marks.contains(&key)
                && let Some(pack) = packs.get(&row.pack)
            {
                let sum = used.entry(pack.id).or_insert(HomedChunk { pack: pack.id, key, stored_bytes: 0 });
                sum.stored_bytes += 10;
            }
        }
        let packs = packs.values().filter_map(facts_of).collect();
        Ok(Stage::ListStore { packs, used: used.into_values().collect() })
    }

    /// `Prune::strays`, then the plan.
    fn plan(
        &mut self,
        model: &PruneModel,
        state: &mut State,
        packs: Vec<PackFacts>,
        used: Vec<HomedChunk>,
    ) -> Option<Stage> {
        // Rows of deleted and failed packs are no facts, and their objects are no strays.
        let rows = state.share.rows().packs(None, usize::MAX).unwrap_or_default();
        let known: Packs = rows.iter().map(|(_, row)| row.id.0[0]).collect();
        let in_facts: Packs = packs.iter().map(|facts| facts.pack.0[0]).collect();
        let found: Packs = state
            .store
            .keys()
            .copied()
            .filter(|pack| !known.contains(pack) && !in_facts.contains(pack))
            .collect();
        state.strays.retain(|pack, _| found.contains(pack));
        let mut facts: BTreeMap<_, _> = packs.into_iter().map(|facts| (facts.pack, facts)).collect();
        for pack in found {
            let seen_at = secs(*state.strays.entry(pack).or_insert(state.now_ms));
            let (pack, doomed) = (pack_id(pack), polder_backup::PackState::Stray { seen_at });
            facts.insert(
                pack,
                PackFacts { pack, state: doomed, bytes: 10, stored_at: seen_at, verified: false },
            );
        }
        let look = Look { now: secs(state.now_ms), as_of: self.marked_from, expiry_suspended: false };
        let plan = plan_prune(
            facts.into_values().map(Ok::<_, LedgerError>),
            used.into_iter().map(Ok),
            &self.marks,
            look,
            &settings(model),
        );
        let Ok(plan) = plan else {
            state.fault = Some(format!("{plan:?}"));
            return None;
        };
        let number = |pack: polder_types::PackId| pack.0[0];
        self.spare = plan.spare.iter().map(|step| number(step.pack)).collect();
        self.condemn = plan.condemn.iter().map(|step| number(step.pack)).collect();
        self.delete = plan.delete.iter().filter(|step| !step.stray).map(|step| number(step.pack)).collect();
        self.strays = plan.delete.iter().filter(|step| step.stray).map(|step| number(step.pack)).collect();
        let merges = plan.merge.iter().map(|merge| merge.packs.iter().copied().map(number).collect());
        self.rewrite = merges.chain(plan.repack.iter().map(|step| vec![number(step.pack)])).collect();
        (!plan.is_empty()).then_some(Stage::Condemn)
    }

    fn condemn(&mut self, model: &PruneModel, state: &mut State) -> Result<Stage, LedgerError> {
        let (spare, condemn) = (ids(&self.spare), ids(&self.condemn));
        let marked_from = match model.broken {
            Some(Broken::OneLook) => Seq(u64::MAX),
            _ => self.marked_from,
        };
        let now_ms = state.now_ms;
        let condemned = state.share.write(|rows| {
            polder_ledger::spare_packs(rows, &spare, now_ms)?;
            polder_ledger::condemn_packs(rows, &condemn, marked_from, now_ms)
        })?;
        if model.broken == Some(Broken::OneLook) {
            self.delete.extend(condemned.iter().map(|pack| pack.0[0]));
        }
        Ok(Stage::Strays)
    }

    fn stray(&mut self, model: &PruneModel, state: &mut State) -> Result<Stage, LedgerError> {
        let Some(pack) = self.strays.pop_first() else { return Ok(Stage::Delete) };
        if model.broken == Some(Broken::StrayWithoutRow) {
            let row = polder_ledger::pack(state.share.rows(), pack_id(pack))?;
            return Ok(if row.is_none() { Stage::StrayObject(pack) } else { Stage::Strays });
        }
        let now_ms = state.now_ms;
        state.share.write(|rows| polder_ledger::delete_stray(rows, pack_id(pack), 10, now_ms))?;
        Ok(Stage::Strays)
    }

    fn delete(&mut self, model: &PruneModel, state: &mut State) -> Result<Option<Stage>, LedgerError> {
        let packs = ids(&self.delete);
        let (from, from_ms, grace_ms) = match model.broken {
            Some(Broken::OneLook) => (Seq(u64::MAX), u64::MAX, 0),
            _ => (self.marked_from, self.marked_ms, settings(model).grace_secs * 1000),
        };
        let now_ms = state.now_ms;
        state.share.write(|rows| {
            polder_ledger::delete_packs(rows, &packs, from, from_ms, grace_ms, now_ms).map(drop)
        })?;
        self.deleted = deleted(state)?;
        let part = Finish::Objects(self.deleted.clone());
        Ok(match self.deleted.is_empty() {
            true => self.after_rewrite(),
            false => Some(Stage::Finish { part, then_mark: false }),
        })
    }

    /// `finish_deletions`.
    fn finish(
        &mut self,
        model: &PruneModel,
        state: &mut State,
        part: Finish,
        then_mark: bool,
    ) -> Result<Option<Stage>, LedgerError> {
        let part = match part {
            Finish::Objects(mut left) => {
                if let Some(pack) = left.pop_first()
                    && state.store.remove(&pack).is_some()
                    && model.broken != Some(Broken::RowsAtOnce)
                {
                    self.deleted.remove(&pack);
                }
                match left.is_empty() {
                    false => Finish::Objects(left),
                    true if self.deleted.is_empty() => return self.finished(state, then_mark),
                    true => Finish::Walk(None),
                }
            }
            Finish::Walk(after) => {
                let next = state.share.write(|rows| polder_ledger::forget_step(rows, after, 1))?;
                next.map_or(Finish::Rows, |after| Finish::Walk(Some(after)))
            }
            Finish::Rows => {
                for pack in ids(&std::mem::take(&mut self.deleted)) {
                    state.share.write(|rows| polder_ledger::forget_pack(rows, pack))?;
                }
                return self.finished(state, then_mark);
            }
        };
        Ok(Some(Stage::Finish { part, then_mark }))
    }

    fn finished(&mut self, state: &State, then_mark: bool) -> Result<Option<Stage>, LedgerError> {
        if then_mark {
            self.begin_marks(state)?;
            return Ok(Some(self.stage.clone()));
        }
        Ok(self.after_rewrite())
    }

    fn after_rewrite(&self) -> Option<Stage> {
        (!self.rewrite.is_empty()).then_some(Stage::Rewrite)
    }

    /// `repack`: reads the group, seals what is marked and at home there, puts it.
    fn rewrite(&mut self, state: &mut State) -> Result<Option<Stage>, LedgerError> {
        let replaces = self.rewrite.remove(0);
        let mut chunks = Vec::new();
        for old in &replaces {
            // What cannot be read or proven ends the run.
            let Some(object) = state.store.get(old).filter(|object| object.sound) else { return Ok(None) };
            for number in &object.chunks {
                let id = crate::share::chunk(*number);
                let home = polder_ledger::locate(state.share.rows(), &[id])?.remove(0);
                if self.marks.contains(&id.key16()) && home.is_some_and(|home| home.pack == pack_id(*old)) {
                    chunks.push(*number);
                }
            }
        }
        if chunks.is_empty() {
            return Ok(self.after_rewrite());
        }
        let pack = state.next_pack;
        state.next_pack += 1;
        state.store.insert(pack, Object { chunks: chunks.clone(), sound: true });
        Ok(Some(Stage::RegisterRewrite { pack, chunks, replaces }))
    }
}

/// `facts_of`.
fn facts_of(row: &PackRow) -> Option<PackFacts> {
    let state = match row.state {
        PackState::Live => polder_backup::PackState::Live,
        PackState::Condemned => {
            polder_backup::PackState::Condemned { at: secs(row.state_ms), head: row.state_seq }
        }
        PackState::Deleted | PackState::Failed => return None,
    };
    let (stored_at, verified) = (secs(row.registered_ms), row.verified_ms.is_some());
    Some(PackFacts { pack: row.id, state, bytes: row.bytes, stored_at, verified })
}

fn settings(model: &PruneModel) -> PruneSettings {
    let day_secs = DAY_MS / 1000;
    PruneSettings {
        grace_secs: day_secs,
        unnamed_secs: day_secs,
        small_bytes: if model.rewrites { 15 } else { 0 },
        settle_secs: 0,
        live_percent_min: if model.rewrites { 60 } else { 0 },
        ..PruneSettings::default()
    }
}

/// Whether a row leads to one of these packs.
fn stays_in(state: &State, number: u8, packs: &[u8]) -> bool {
    let found = polder_ledger::locate(state.share.rows(), &[crate::share::chunk(number)]);
    let home = found.ok().and_then(|found| found.into_iter().next()?);
    home.is_some_and(|home| packs.contains(&home.pack.0[0]))
}

fn deleted(state: &State) -> Result<Packs, LedgerError> {
    let rows = state.share.rows().packs(None, usize::MAX)?;
    Ok(rows.iter().filter(|(_, row)| row.state == PackState::Deleted).map(|(_, row)| row.id.0[0]).collect())
}

fn ids(packs: &Packs) -> Vec<polder_types::PackId> {
    packs.iter().copied().map(pack_id).collect()
}

fn secs(ms: u64) -> ServiceTime {
    ServiceTime(ms / 1000)
}
