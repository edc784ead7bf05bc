//! A whole run of the planner as data, and what must hold of it. Without a generator, so that a fuzzer can bring its own.

use std::collections::BTreeMap;

use polder_sync::Rule;
use polder_types::CaseRule;

use crate::{
    edits::{Edit, User},
    ghost::Ghost,
    literal::show,
    plans::{Schedule, settle},
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
        if std::env::var_os("PLANNER_TRACE").is_some() {
            eprintln!("disk:  {}\nshare: {}", sides(&world).0, sides(&world).1);
        }
        settle(&mut world, self.schedule(), &mut |world, _, round| {
            for (when, on_disk, edit) in &self.later {
                if usize::from(*when) == round {
                    act(world, &mut ghost, *on_disk, std::slice::from_ref(edit));
                }
            }
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
pub fn sides(world: &World) -> (String, String) {
    let labels = BTreeMap::new();
    (show(world, true, &labels), show(world, false, &labels))
}

/// Two sides changed, perhaps while steps are carried out: both end equal, and nothing is lost.
pub fn nothing_is_lost(case: &Case, rule: Rule) {
    let (world, ghost) = case.run(rule, 0);
    let (disk, share) = sides(&world);
    assert_eq!(disk, share);
    ghost.ensure_kept(&world);
}

/// One side changed: both end exactly like it, under the same ids.
pub fn one_side_is_followed(case: &Case) {
    let (mut world, _) = case.start(Rule::Merge, 0);
    let on_disk = case.share.is_empty();
    let labels: BTreeMap<_, _> =
        world.disk.keys().chain(world.share.keys()).map(|uid| (*uid, uid.to_string())).collect();
    let want = show(&world, on_disk, &labels);
    settle(&mut world, case.schedule(), &mut |_, _, _| {});
    assert_eq!(show(&world, true, &labels), want);
    assert_eq!(show(&world, false, &labels), want);
}
