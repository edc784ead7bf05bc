//! A random case: one tree, changed by users on both sides, planned and carried out in any order until both are equal. And
//! what must hold of it.
//!
//! With `PLANNER_TRACE` set, a case prints its rounds.

use std::collections::BTreeMap;

use polder_sync::Rule;
use polder_types::CaseRule;
use proptest::prelude::*;

use crate::{
    edits::{Edit, User},
    ghost::Ghost,
    literal::show,
    plans::{Schedule, is_traced, settle},
    world::World,
};

/// A whole run, as data.
#[derive(Debug, Clone)]
pub struct Case {
    pub insensitive: bool,
    pub reads_needed: bool,
    /// What users did before both sides agreed.
    pub base: Vec<Edit>,
    pub here: Vec<Edit>,
    pub share: Vec<Edit>,
    /// What they do between a plan and its steps: in which round, whether on disk, what.
    pub later: Vec<(u8, bool, Edit)>,
    /// The order of steps follows from it; 0 is the order of the plan.
    pub seed: u64,
    pub windows: bool,
}

impl Case {
    /// The world before the first plan, with the log of what was written.
    pub fn start(&self, rule: Rule, salt: u64) -> (World, Ghost) {
        let case = if self.insensitive { CaseRule::Insensitive } else { CaseRule::Sensitive };
        let mut world = World::new(case);
        world.settings.rule = rule;
        world.reads_needed = self.reads_needed;
        world.salt = salt;
        let mut ghost = Ghost::default();
        act(&mut world, &mut ghost, false, &self.base);
        world.agree();
        act(&mut world, &mut ghost, true, &self.here);
        act(&mut world, &mut ghost, false, &self.share);
        (world, ghost)
    }

    fn schedule(&self) -> Schedule {
        if self.seed == 0 {
            Schedule { windows: self.windows, ..Schedule::in_order() }
        } else {
            Schedule::disorder(self.seed, self.windows)
        }
    }

    /// Runs to the end, with edits in between.
    pub fn run(&self, rule: Rule, salt: u64) -> (World, Ghost) {
        let (mut world, mut ghost) = self.start(rule, salt);
        if rule == Rule::NoDeletes {
            ghost.forbid_deletes(&world);
        }
        if is_traced() {
            eprintln!("disk:  {}\nshare: {}", sides(&world).0, sides(&world).1);
        }
        settle(&mut world, self.schedule(), &mut |world, _, round| {
            let now = self.later.iter().filter(|(when, ..)| usize::from(*when) == round);
            let edits =
                now.map(|(_, on_disk, edit)| act(world, &mut ghost, *on_disk, std::slice::from_ref(edit)));
            edits.count() > 0
        });
        (world, ghost)
    }
}

fn act(world: &mut World, ghost: &mut Ghost, on_disk: bool, edits: &[Edit]) {
    for edit in edits {
        User { world, on_disk, ghost }.act(edit);
        world.ensure_trees();
    }
}

/// Both sides by path, without ids.
fn sides(world: &World) -> (String, String) {
    let labels = BTreeMap::new();
    (show(world, true, &labels), show(world, false, &labels))
}

/// Two sides changed, perhaps while steps are carried out: both end equal, and nothing is lost.
pub fn nothing_is_lost(case: &Case, rule: Rule) {
    let (world, ghost) = case.run(rule, 0);
    let (disk, share) = sides(&world);
    assert_eq!(disk, share);
    ghost.ensure_kept(&world, 1);
}

pub fn both_sides_end_equal(case: &Case, _: u64) {
    nothing_is_lost(&Case { later: vec![], ..case.clone() }, Rule::Merge);
}

pub fn edits_in_between_are_kept(case: &Case, _: u64) {
    nothing_is_lost(case, Rule::Merge);
}

pub fn nothing_is_deleted(case: &Case, _: u64) {
    nothing_is_lost(&Case { later: vec![], ..case.clone() }, Rule::NoDeletes);
}

/// One side changed: both end exactly like it, under the same ids.
pub fn one_side_is_followed(case: &Case, choice: u64) {
    let mut case = Case { later: vec![], ..case.clone() };
    if choice.is_multiple_of(2) {
        case.share.clear()
    } else {
        case.here.clear()
    }
    let (mut world, _) = case.start(Rule::Merge, 0);
    let on_disk = case.share.is_empty();
    let labels: BTreeMap<_, _> =
        world.disk.keys().chain(world.share.keys()).map(|uid| (*uid, uid.to_string())).collect();
    let want = show(&world, on_disk, &labels);
    settle(&mut world, case.schedule(), &mut |_, _, _| false);
    assert_eq!(show(&world, true, &labels), want);
    assert_eq!(show(&world, false, &labels), want);
}

pub fn authority_is_left_alone(case: &Case, _: u64) {
    let case = Case { later: vec![], ..case.clone() };
    let (world, _) = case.start(Rule::HereWins, 0);
    let want = sides(&world).0;
    let (world, _) = case.run(Rule::HereWins, 0);
    assert_eq!(sides(&world), (want.clone(), want));
}

pub fn ids_mean_nothing(case: &Case, salt: u64) {
    let case = Case { seed: 0, windows: false, later: vec![], ..case.clone() };
    let (one, _) = case.run(Rule::Merge, 0);
    let (two, _) = case.run(Rule::Merge, salt);
    assert_eq!(sides(&one), sides(&two));
}

fn edit() -> impl Strategy<Value = Edit> {
    let (node, mtime) = (any::<u8>(), 0u8..6);
    prop_oneof![
        4 => (any::<u8>(), any::<u8>(), any::<u8>(), mtime.clone())
            .prop_map(|(dir, name, kind, mtime)| Edit::Create { dir, name, kind, mtime }),
        3 => (node, mtime.clone()).prop_map(|(node, mtime)| Edit::Write { node, mtime }),
        1 => (node, any::<u8>(), mtime.clone())
            .prop_map(|(node, content, mtime)| Edit::WriteShared { node, content, mtime }),
        5 => (node, any::<u8>(), any::<u8>()).prop_map(|(node, dir, name)| Edit::Move { node, dir, name }),
        2 => (node, any::<u8>()).prop_map(|(one, two)| Edit::Swap { one, two }),
        2 => node.prop_map(|node| Edit::Delete { node }),
        1 => node.prop_map(|node| Edit::Replace { node }),
        1 => (node, any::<u8>()).prop_map(|(node, mode)| Edit::Chmod { node, mode }),
        1 => (node, mtime).prop_map(|(node, mtime)| Edit::Touch { node, mtime }),
    ]
}

pub fn edits(count_max: usize) -> impl Strategy<Value = Vec<Edit>> {
    prop::collection::vec(edit(), 0..=count_max)
}

pub fn case() -> impl Strategy<Value = Case> {
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), prop_oneof![Just(0u64), any::<u64>()]);
    (flags, edits(14), edits(7), edits(7), prop::collection::vec((0u8..6, any::<bool>(), edit()), 0..4))
        .prop_map(|((insensitive, reads_needed, windows, seed), base, here, share, later)| Case {
            insensitive,
            reads_needed,
            base,
            here,
            share,
            later,
            seed,
            windows,
        })
}
