//! Plans and carries out, again and again, until the trees are equal.

use polder_sync::{Act, Change, Extra, LocalContent, Plan, ReadIntent, Rule, plan};
use polder_types::NodeUid;

use crate::{executor::Refused, world::World};

/// More rounds than this are no convergence (promise I11).
pub const ROUNDS_MAX: usize = 200;
/// After so many rounds everything is carried out in order, so that luck plays no part in the bound.
const ROUNDS_OF_DISORDER: usize = 60;

/// Whether rounds are printed.
pub fn is_traced() -> bool {
    static TRACED: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *TRACED.get_or_init(|| std::env::var_os("PLANNER_TRACE").is_some())
}

/// A small generator (xorshift): a run follows from its seed.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % bound.max(1)
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            items.swap(at, self.below(at + 1));
        }
    }
}

/// How plans are carried out.
#[derive(Debug, Clone)]
pub struct Schedule {
    pub rng: Rng,
    /// Steps are done in any order, and only some of them.
    pub disorder: bool,
    /// Only some of the changed nodes are planned at once.
    pub windows: bool,
}

impl Schedule {
    pub fn in_order() -> Self {
        Self { rng: Rng::new(0), disorder: false, windows: false }
    }

    pub fn disorder(seed: u64, windows: bool) -> Self {
        Self { rng: Rng::new(seed), disorder: true, windows }
    }
}

/// Plans what differs, or a part of it.
pub fn plan_changed(world: &World, schedule: &mut Schedule) -> Plan {
    let mut window = world.changed();
    if schedule.windows {
        schedule.rng.shuffle(&mut window);
        let size = 1 + schedule.rng.below(window.len());
        window.truncate(size);
    }
    let mut settings = world.settings.clone();
    let mut busy = Vec::new();
    if schedule.disorder && schedule.rng.below(3) == 0 {
        settings.nodes_max = 1 + schedule.rng.below(8);
        settings.directory_times = schedule.rng.below(2) == 0;
        busy = window.iter().copied().filter(|_| schedule.rng.below(4) == 0).collect();
    }
    let plan = plan(world, &window, &|uid| busy.contains(&uid), &settings).expect("maps can be read");
    ensure_sound(&plan, &busy);
    plan
}

/// What holds for every plan: one step a node (but in a ring), none for busy nodes, all needs before.
fn ensure_sound(plan: &Plan, busy: &[NodeUid]) {
    let mut seen = std::collections::BTreeSet::new();
    for (at, group) in plan.groups.iter().enumerate() {
        assert!(group.after.iter().all(|before| *before < at) && !group.ops.is_empty());
        for op in &group.ops {
            assert!(seen.insert(op.uid) && !busy.contains(&op.uid), "a second step, or a busy node");
        }
    }
    for (at, apply) in plan.applies.iter().enumerate() {
        assert!(apply.after.iter().all(|before| *before < at) && !busy.contains(&apply.uid));
        match &apply.act {
            Act::Exchange { with, .. } => {
                seen.insert(apply.uid);
                seen.insert(*with);
            }
            Act::Place { over: Some(over), .. } => {
                assert!(seen.insert(apply.uid) && seen.insert(over.uid), "a second step");
            }
            _ => assert!(seen.insert(apply.uid), "a second step"),
        }
    }
}

/// Runs until nothing differs. `between` sees each plan before it is carried out, and may change the world; it says whether it did.
pub fn settle(
    world: &mut World,
    mut schedule: Schedule,
    between: &mut dyn FnMut(&mut World, &Plan, usize) -> bool,
) {
    for round in 0..ROUNDS_MAX {
        if round >= ROUNDS_OF_DISORDER {
            schedule.disorder = false;
            schedule.windows &= round % 2 == 0;
        }
        let plan = plan_changed(world, &mut schedule);
        if is_traced() {
            let none = std::collections::BTreeMap::new();
            let label = |uid: NodeUid| format!("{}/{}", uid.0[15], uid.0[0]);
            eprintln!("--- round {round}\ndisk:  {}", crate::literal::show(world, true, &none));
            eprintln!("share: {}", crate::literal::show(world, false, &none));
            eprintln!("{}", summary(&plan, &label).join("\n"));
            eprintln!("waiting {:?}", plan.waiting);
        }
        let is_stale = between(world, &plan, round);
        if world.changed().is_empty() {
            return;
        }
        carry_out(world, plan, &mut schedule, is_stale);
        world.ensure_trees();
    }
    let plan = plan_changed(world, &mut schedule);
    panic!("not settled after {ROUNDS_MAX} rounds: {:?}", summary(&plan, &|uid| uid.to_string()));
}

/// Carries a plan out, whose world is another by now if it `is_stale`.
pub fn carry_out(world: &mut World, plan: Plan, schedule: &mut Schedule, is_stale: bool) {
    for pair in &plan.rekeyed {
        world.rekey(pair.from, pair.to);
    }
    for settled in plan.settled {
        match settled.row {
            Some(row) => world.synced.insert(settled.uid, row),
            None => world.synced.remove(&settled.uid),
        };
    }
    for read in &plan.reads {
        if !schedule.disorder || schedule.rng.below(3) > 0 {
            read_file(world, read.uid, read.intent);
        }
    }
    let mut steps: Vec<Result<_, _>> =
        plan.groups.into_iter().map(Ok).chain(plan.applies.into_iter().map(Err)).collect();
    if schedule.disorder {
        schedule.rng.shuffle(&mut steps);
        let keep = 1 + schedule.rng.below(steps.len());
        steps.truncate(keep);
    }
    for step in steps {
        ensure_provenance(world, &step);
        let (refused, uids) = match &step {
            Ok(group) => (world.commit(group), group.ops.iter().map(|op| op.uid).collect()),
            Err(apply) => (world.apply(apply), vec![apply.uid]),
        };
        if let Err(why) = refused {
            let may_cycle = schedule.disorder || is_stale;
            assert!(may_cycle || why != Refused::Cycle, "a plan in order, of this world, makes no cycle");
            if why == Refused::Exists {
                rename_known(world, &uids);
            }
        }
        if let Ok(group) = &step
            && group.ops.iter().any(|op| matches!(op.change, Change::Delete { .. }))
        {
            world.ensure_trees();
        }
    }
}

/// Under the rule that counts both sides, sync deletes on one side only what is on that side as it was agreed on. That
/// it does so because the other side has deleted it is the ghost's to check.
fn ensure_provenance(world: &World, step: &Result<polder_sync::PlannedGroup, polder_sync::Apply>) {
    if world.settings.rule == Rule::HereWins {
        return;
    }
    match step {
        Ok(group) => {
            for op in &group.ops {
                let Change::Delete { base } = op.change else { continue };
                let Some(share) = world.share.get(&op.uid).filter(|share| share.since == base) else {
                    continue;
                };
                let row = world.synced.get(&op.uid).expect("only what was agreed on is deleted");
                assert_eq!(
                    (&share.at, &share.content),
                    (&row.at, &row.content),
                    "deleted in the share unseen"
                );
            }
        }
        Err(apply) => {
            let Act::Remove { at, expect } = &apply.act else { return };
            let Some(here) = world.disk.get(&apply.uid) else { return };
            // A person has said so.
            let discarded = world.settings.extras.get(&here.stamp.ident) == Some(&Extra::Discarded);
            if here.at == *at && here.stamp == *expect && !discarded {
                let row = world.synced.get(&apply.uid).expect("only what was agreed on is deleted");
                let content = world.content_on_disk(apply.uid);
                assert_eq!((at, content), (&row.at, Some(&row.content)), "deleted on disk unseen");
            }
        }
    }
}

/// A new local node whose id the share has known before gets another one, as the engine does.
fn rename_known(world: &mut World, uids: &[NodeUid]) {
    for uid in uids {
        if world.known.contains(uid) && !world.share.contains_key(uid) && world.disk.contains_key(uid) {
            let fresh = world.uid();
            world.rekey(*uid, fresh);
        }
    }
}

fn read_file(world: &mut World, uid: NodeUid, intent: ReadIntent) {
    let Some(mut node) = world.disk.get(&uid).cloned() else { return };
    let Some(content) = world.content_on_disk(uid).cloned() else { return };
    node.content = match intent {
        ReadIntent::Hash => LocalContent::Hashed(content),
        ReadIntent::Store => LocalContent::Stored(content),
    };
    world.put_disk(uid, Some(node));
    world.unread.remove(&uid);
}

/// The steps of a plan in one line each, for tables: what happens to whom.
pub fn summary(plan: &Plan, label: &dyn Fn(NodeUid) -> String) -> Vec<String> {
    let mut lines = Vec::new();
    for group in &plan.groups {
        let ops = group.ops.iter().map(|op| {
            let what = match op.change {
                Change::Create { .. } => "create",
                Change::Revive { .. } => "revive",
                Change::Update { .. } => "update",
                Change::Move { .. } => "move",
                Change::Delete { .. } => "delete",
            };
            format!("{what} {}", label(op.uid))
        });
        let mut ops: Vec<String> = ops.collect();
        ops.sort();
        lines.push(format!("up {}", ops.join(" + ")));
    }
    for apply in &plan.applies {
        let uid = label(apply.uid);
        lines.push(match &apply.act {
            Act::Place { over: Some(over), .. } => format!("down place {uid} over {}", label(over.uid)),
            Act::Place { .. } => format!("down place {uid}"),
            Act::Replace { .. } => format!("down replace {uid}"),
            Act::Touch { .. } => format!("down touch {uid}"),
            Act::Move { .. } => format!("down move {uid}"),
            Act::Exchange { with, .. } => format!("down exchange {uid} {}", label(*with)),
            Act::Remove { .. } => format!("down remove {uid}"),
        });
    }
    lines.extend(plan.rekeyed.iter().map(|pair| format!("rekey {} to {}", label(pair.from), label(pair.to))));
    lines.extend(plan.reads.iter().map(|read| format!("read {} {:?}", label(read.uid), read.intent)));
    lines.extend(plan.held.iter().map(|held| format!("held {}: {}", label(held.uid), held.why)));
    lines
}
