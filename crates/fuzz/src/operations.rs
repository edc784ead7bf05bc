//! Bytes as lists of operations: what users do on a disk and in a share, with the planner in between; and whole worlds.

use polder_sim::Plan;
use polder_sync::Rule;

use crate::case::{Case, nothing_is_lost, one_side_is_followed};
use crate::edits::Edit;

/// Bytes of one operation: where and what, then what it chooses.
const OPERATION_BYTES: usize = 4;
/// Longest lists: longer ones find nothing that shorter ones do not, and are slow.
const BASE_MAX: usize = 14;
const SIDE_MAX: usize = 8;
const LATER_MAX: usize = 4;
/// Rounds of the planner in which something may happen in between.
const ROUNDS: u8 = 6;

/// The planner between two sides: both end equal and nothing is lost; one side alone is followed to the letter.
pub(crate) fn operations(bytes: &[u8]) {
    let Some((case, rule)) = case(bytes) else { return };
    nothing_is_lost(&case, rule);
    if case.later.is_empty() && (case.here.is_empty() || case.share.is_empty()) {
        one_side_is_followed(&case, u64::from(!case.share.is_empty()));
    }
}

/// Two bytes of flags and order, then operations.
fn case(bytes: &[u8]) -> Option<(Case, Rule)> {
    let (flags, rest) = bytes.split_first()?;
    let (seed, rest) = rest.split_first()?;
    let rule = if flags & 8 == 0 { Rule::Merge } else { Rule::NoDeletes };
    let mut case = Case {
        insensitive: flags & 1 != 0,
        reads_needed: flags & 2 != 0,
        base: Vec::new(),
        here: Vec::new(),
        share: Vec::new(),
        later: Vec::new(),
        seed: (*seed).into(),
        windows: flags & 4 != 0,
    };
    for operation in rest.chunks_exact(OPERATION_BYTES) {
        let &[head, one, two, three] = operation else { continue };
        let edit = edit(head >> 4, one, two, three);
        match head & 15 {
            0..5 => push(&mut case.base, BASE_MAX, edit),
            5..9 => push(&mut case.here, SIDE_MAX, edit),
            9..13 => push(&mut case.share, SIDE_MAX, edit),
            // What happens in between is for merges: forbidden deletions are judged by the state before.
            13..16 if rule == Rule::Merge => {
                push(&mut case.later, LATER_MAX, (three % ROUNDS, head & 15 == 13, edit));
            }
            _ => (),
        }
    }
    Some((case, rule))
}

fn push<T>(list: &mut Vec<T>, len_max: usize, item: T) {
    if list.len() < len_max {
        list.push(item);
    }
}

fn edit(what: u8, one: u8, two: u8, three: u8) -> Edit {
    let mtime = three % 6;
    match what {
        0..4 => Edit::Create { dir: one, name: two, kind: three >> 3, mtime },
        4..6 => Edit::Write { node: one, mtime },
        6 => Edit::WriteShared { node: one, content: two, mtime },
        7..11 => Edit::Move { node: one, dir: two, name: three },
        11 => Edit::Swap { one, two },
        12 => Edit::Delete { node: one },
        13 => Edit::Replace { node: one },
        14 => Edit::Chmod { node: one, mode: two },
        _ => Edit::Touch { node: one, mtime },
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    // A tree; then a rename against a deletion, two edits, a move into each other, one side alone, and all at once.
    let base = [0x00, 0, 0, 0, 0x00, 1, 1, 0, 0x00, 1, 3, 56, 0x00, 0, 3, 56];
    let with = |flags: u8, seed: u8, rest: &[u8]| [&[flags, seed][..], &base, rest].concat();
    vec![
        with(0, 0, &[0x75, 2, 0, 1, 0xc9, 2, 0, 0]),
        with(2, 3, &[0x45, 3, 0, 1, 0x49, 3, 0, 2]),
        with(4, 9, &[0x75, 0, 1, 0, 0x79, 1, 0, 0]),
        with(1, 0, &[0xb5, 2, 3, 0, 0x05, 0, 2, 56, 0xd5, 1, 0, 0]),
        with(8, 5, &[0xc5, 0, 0, 0, 0x49, 2, 0, 3]),
        with(6, 200, &[0x75, 3, 1, 2, 0x4d, 2, 0, 1, 0xce, 3, 0, 2, 0x6f, 1, 1, 3]),
    ]
}

/// Servers, a share, users and faults: bytes choose how many, and the seed of the rest.
pub(crate) fn world(bytes: &[u8]) {
    let &[seed_low, seed_high, hosts, actions, active, loss, repeat, crashes, ..] = bytes else { return };
    let plan = Plan {
        hosts: 2 + usize::from(hosts % 2),
        actions: 3 + u64::from(actions % 40),
        active_ms: [2_000, 10_000, 60_000][usize::from(active % 3)],
        loss: u64::from(loss % 12),
        repeat: u64::from(repeat % 25),
        crashes: u64::from(crashes % 5),
        ..Plan::of(u64::from(seed_low) | u64::from(seed_high) << 8)
    };
    let shown = format!("{plan:?}");
    let outcome = polder_sim::run_twice(&plan);
    assert_eq!(outcome.failure, None, "{shown}");
}

pub(crate) fn world_seeds() -> Vec<Vec<u8>> {
    (0..4u8).map(|seed| vec![seed, 0, seed, 10 * seed, seed, seed, 5 * seed, seed]).collect()
}
