//! Harnesses: each takes bytes, gives them to everything that reads such bytes from outside, and panics when a promise about
//! decoders does not hold: no panic, no unbounded work, and what is read and written again is read as the same.
//!
//! The same functions are run by a fuzzer without end (`fuzz/`, in the layout of `cargo-fuzz`) and by bounded property tests
//! on every change (`tests`). Each also has [`Target::seeds`]: valid bytes to begin from, without which random bytes stay at the
//! door.

mod addresses;
mod chunks;
mod messages;
mod operations;
mod texts;
mod values;

// Of the service only what reads addresses: the rest of it takes minutes to build.
#[allow(dead_code)]
#[path = "../../service/src/packs/address.rs"]
mod address;
#[allow(dead_code)]
#[path = "../../service/src/hex.rs"]
mod hex;

// The models of a disk and a share that the planner's own tests use, with their oracles.
#[allow(dead_code, missing_docs, clippy::unwrap_used)]
#[path = "../../sync/tests/planner/case.rs"]
mod case;
#[allow(dead_code, missing_docs, clippy::unwrap_used)]
#[path = "../../sync/tests/planner/edits.rs"]
mod edits;
#[allow(dead_code, missing_docs, clippy::unwrap_used)]
#[path = "../../sync/tests/planner/executor.rs"]
mod executor;
#[allow(dead_code, missing_docs, clippy::unwrap_used)]
#[path = "../../sync/tests/planner/ghost.rs"]
mod ghost;
#[allow(dead_code, missing_docs, clippy::unwrap_used)]
#[path = "../../sync/tests/planner/literal.rs"]
mod literal;
#[allow(dead_code, missing_docs, clippy::unwrap_used)]
#[path = "../../sync/tests/planner/plans.rs"]
mod plans;
#[allow(dead_code, missing_docs, clippy::unwrap_used)]
#[path = "../../sync/tests/planner/world.rs"]
mod world;

/// One harness.
#[derive(Clone, Copy)]
pub struct Target {
    /// As the fuzzer calls it.
    pub name: &'static str,
    /// What is done with bytes.
    pub run: fn(&[u8]),
    /// Valid bytes.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "values", run: values::values, seeds: values::value_seeds },
    Target { name: "names", run: values::names, seeds: values::name_seeds },
    Target { name: "chunks", run: chunks::chunks, seeds: chunks::chunk_seeds },
    Target { name: "pack", run: chunks::pack, seeds: chunks::pack_seeds },
    Target { name: "messages", run: messages::messages, seeds: messages::seeds },
    Target { name: "rest", run: texts::rest, seeds: texts::rest_seeds },
    Target { name: "globs", run: texts::globs, seeds: texts::glob_seeds },
    Target { name: "arguments", run: texts::arguments, seeds: texts::argument_seeds },
    Target { name: "state_database", run: values::state_database, seeds: values::state_database_seeds },
    Target { name: "identity", run: values::identity, seeds: values::identity_seeds },
    Target { name: "addresses", run: addresses::addresses, seeds: addresses::seeds },
    Target { name: "operations", run: operations::operations, seeds: operations::seeds },
    Target { name: "world", run: operations::world, seeds: operations::world_seeds },
];

/// Runs the harness of this name.
///
/// # Panics
/// When there is none, or when a promise does not hold.
pub fn run(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    (target.expect("a harness of this name").run)(bytes);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::test_runner::TestRunner;

    use super::{TARGETS, Target};

    /// What is done to valid bytes.
    #[derive(Debug, Clone)]
    enum Change {
        Set(usize, u8),
        Flip(usize, u8),
        Cut(usize),
        Insert(usize, Vec<u8>),
        Repeat(usize, usize),
    }

    fn change() -> impl Strategy<Value = Change> {
        prop_oneof![
            (any::<usize>(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
            (any::<usize>(), 0u8..8).prop_map(|(at, bit)| Change::Flip(at, bit)),
            any::<usize>().prop_map(Change::Cut),
            (any::<usize>(), prop::collection::vec(any::<u8>(), 1..12))
                .prop_map(|(at, new)| Change::Insert(at, new)),
            (any::<usize>(), 1usize..64).prop_map(|(at, times)| Change::Repeat(at, times)),
        ]
    }

    fn changed(mut bytes: Vec<u8>, changes: &[Change]) -> Vec<u8> {
        for change in changes {
            let len = bytes.len();
            match change {
                _ if len == 0 => bytes.push(0),
                Change::Set(at, byte) => bytes[at % len] = *byte,
                Change::Flip(at, bit) => bytes[at % len] ^= 1 << bit,
                Change::Cut(at) => bytes.truncate(at % len),
                Change::Insert(at, new) => drop(bytes.splice(at % len..at % len, new.iter().copied())),
                Change::Repeat(at, times) => {
                    let byte = bytes[at % len];
                    drop(bytes.splice(at % len..at % len, std::iter::repeat_n(byte, *times)));
                }
            }
        }
        bytes
    }

    fn bounded(target: &Target, cases: u32) {
        let seeds = (target.seeds)();
        seeds.iter().for_each(|seed| (target.run)(seed));
        let from_seed = (prop::sample::select(seeds), prop::collection::vec(change(), 1..6))
            .prop_map(|(seed, changes)| changed(seed, &changes));
        let input = prop_oneof![4 => from_seed, 1 => prop::collection::vec(any::<u8>(), 0..200)];
        let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
        TestRunner::new(config)
            .run(&input, |bytes| {
                (target.run)(&bytes);
                Ok(())
            })
            .unwrap_or_else(|error| panic!("{}: {error}", target.name));
    }

    /// Scenario 115.
    #[test]
    fn no_bytes_from_outside_break_a_decoder() {
        for target in TARGETS {
            let cases = match target.name {
                "world" => 30,
                "state_database" | "arguments" | "pack" => 150,
                "operations" => 600,
                _ => 4000,
            };
            bounded(target, cases);
        }
    }
}
