//! Several servers at one share: each plans on what it last read of the share, and finds it changed when it commits.

use std::collections::BTreeMap;

use polder_sync::Rule;
use polder_types::CaseRule;
use proptest::prelude::*;

use crate::{
    case::edits,
    edits::{Edit, User},
    ghost::Ghost,
    literal::show,
    plans::{ROUNDS_MAX, Rng, Schedule, carry_out, is_traced, plan_changed, summary},
    world::World,
};

const NAMES: [&str; 3] = ["A", "B", "C"];

/// A run of several servers.
#[derive(Debug, Clone)]
pub struct Run {
    insensitive: bool,
    base: Vec<Edit>,
    /// What users do at each server before any of them plans.
    servers: Vec<Vec<Edit>>,
    /// In which round, at which server, what.
    later: Vec<(u8, u8, Edit)>,
    seed: u64,
}

fn start(run: &Run, ghost: &mut Ghost) -> Vec<World> {
    let case = if run.insensitive { CaseRule::Insensitive } else { CaseRule::Sensitive };
    let mut first = World::new(case);
    for edit in &run.base {
        User { world: &mut first, on_disk: false, ghost }.act(edit);
    }
    first.agree();
    let servers = run.servers.iter().zip(NAMES).enumerate();
    let servers = servers.map(|(at, (edits, server))| {
        let mut world = first.clone();
        world.settings.server = server.into();
        world.salt = at as u64 * 0x1234_5678;
        for edit in edits {
            User { world: &mut world, on_disk: true, ghost }.act(edit);
        }
        world
    });
    servers.collect()
}

fn converge(run: &Run) -> (Vec<World>, Ghost) {
    let mut ghost = Ghost::default();
    let mut servers = start(run, &mut ghost);
    let mut share = servers[0].clone();
    let mut rng = Rng::new(run.seed);
    for round in 0..ROUNDS_MAX * servers.len() {
        let at = if round < 100 { rng.below(servers.len()) } else { round % servers.len() };
        for (_, server, edit) in run.later.iter().filter(|(when, ..)| usize::from(*when) == round) {
            let world = &mut servers[usize::from(*server) % NAMES.len()];
            User { world, on_disk: true, ghost: &mut ghost }.act(edit);
        }
        let world = &mut servers[at];
        // Early on, a server plans on what it read before others have committed.
        let stale = round < 100 && rng.below(2) == 0;
        if !stale {
            world.read_share(&share);
        }
        let mut schedule = Schedule::disorder(rng.below(usize::MAX) as u64, round % 2 == 0);
        if round >= 100 {
            schedule = Schedule::in_order();
        }
        let plan = plan_changed(world, &mut schedule);
        if is_traced() && round < 100 {
            let none = BTreeMap::new();
            let label = |uid: polder_types::NodeUid| format!("{}/{}", uid.0[15], uid.0[0]);
            eprintln!("--- round {round} at {}, stale: {stale}", world.settings.server);
            eprintln!("disk:  {}\nshare: {}", show(world, true, &none), show(&share, false, &none));
            eprintln!("{}", summary(&plan, &label).join("\n"));
        }
        world.read_share(&share);
        carry_out(world, plan, &mut schedule, stale);
        world.ensure_trees();
        share.read_share(world);
        if round >= 100
            && servers.iter_mut().all(|world| {
                world.read_share(&share);
                world.changed().is_empty()
            })
        {
            return (servers, ghost);
        }
    }
    panic!("not settled");
}

pub fn run() -> impl Strategy<Value = Run> {
    let later = prop::collection::vec((0u8..12, any::<u8>(), edits(1)), 0..4);
    (any::<bool>(), edits(10), prop::collection::vec(edits(5), 3), later, any::<u64>()).prop_map(
        |(insensitive, base, servers, later, seed)| {
            let later = later.into_iter();
            let later =
                later.flat_map(|(when, at, edits)| edits.into_iter().map(move |edit| (when, at, edit)));
            Run { insensitive, base, servers, later: later.collect(), seed }
        },
    )
}

/// All servers end equal to the share, and nothing is lost.
pub fn all_end_equal(run: &Run) {
    let (servers, ghost) = converge(run);
    let labels = BTreeMap::new();
    for world in &servers {
        assert_eq!(world.settings.rule, Rule::Merge);
        assert_eq!(show(world, true, &labels), show(&servers[0], false, &labels));
    }
    // Twice: one server made a copy of it while another, which had not heard of that, renamed the node itself.
    ghost.ensure_kept(&servers[0], 2);
}
