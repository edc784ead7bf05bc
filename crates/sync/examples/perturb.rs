//! The planner's properties by the million: `cargo run --release -p polder-sync --example perturb -- --cases N [--from S]
//! [--threads T]`.
//!
//! One random tree is perturbed on two sides (or at three servers), planned and carried out until all are equal. A case
//! is a number: which property it tries, and the tree with its edits, follow from it. So a case that fails is told by its
//! number, and `--from S --cases 1` is that case again (with `PLANNER_TRACE=1` round by round). The properties and the
//! trees are those of the tests.
#![allow(dead_code, reason = "what draws the tests' tables")]

#[path = "../tests/planner/case.rs"]
mod case;
#[path = "../tests/planner/edits.rs"]
mod edits;
#[path = "../tests/planner/executor.rs"]
mod executor;
#[path = "../tests/planner/ghost.rs"]
mod ghost;
#[path = "../tests/planner/literal.rs"]
mod literal;
#[path = "../tests/planner/plans.rs"]
mod plans;
#[path = "../tests/planner/servers.rs"]
mod servers;
#[path = "../tests/planner/world.rs"]
mod world;

use std::{
    panic::catch_unwind,
    process::ExitCode,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

/// What must hold of a case. The number is drawn with the case, for properties that need one more choice.
type Property = fn(&case::Case, u64);

const PROPERTIES: [(&str, Property); 6] = [
    ("both sides end equal and nothing is lost", case::both_sides_end_equal),
    ("edits between plan and step are kept", case::edits_in_between_are_kept),
    ("nothing is deleted when deletes are forbidden", case::nothing_is_deleted),
    ("an edit on one side ends as that edit", case::one_side_is_followed),
    ("an authoritative side is left alone", case::authority_is_left_alone),
    ("other ids give the same trees", case::ids_mean_nothing),
];

/// How often the rate is told.
const TOLD_EVERY: Duration = Duration::from_secs(30);
/// Cases that a thread takes at a time.
const STRIDE: u64 = 64;

struct Arguments {
    cases: u64,
    from: u64,
    threads: u64,
}

fn main() -> ExitCode {
    let Some(arguments) = arguments() else {
        eprintln!("usage: perturb [--cases N] [--from S] [--threads T]");
        return ExitCode::from(2);
    };
    let Arguments { cases, from, threads } = arguments;
    println!("cases {from} to {} on {threads} threads", from + cases);
    let (next, done, failed) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let started = now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| work(&arguments, &next, &done, &failed));
        }
        let mut told = now();
        while done.load(Relaxed) < cases {
            std::thread::park_timeout(Duration::from_millis(100));
            if told.elapsed() >= TOLD_EVERY {
                told = now();
                tell(done.load(Relaxed), failed.load(Relaxed), started);
            }
        }
    });
    tell(done.load(Relaxed), failed.load(Relaxed), started);
    if failed.load(Relaxed) == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn arguments() -> Option<Arguments> {
    let mut arguments = Arguments { cases: 100_000, from: 0, threads: 1 };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let number = words.next()?.replace('_', "").parse().ok()?;
        match word.as_str() {
            "--cases" => arguments.cases = number,
            "--from" => arguments.from = number,
            "--threads" => arguments.threads = number,
            _ => return None,
        }
    }
    Some(arguments)
}

#[expect(clippy::disallowed_methods, reason = "a rate needs a clock; no case does")]
fn now() -> Instant {
    Instant::now()
}

fn tell(done: u64, failed: u64, started: Instant) {
    let seconds = started.elapsed().as_secs_f64();
    let rate = done as f64 / seconds.max(0.001);
    println!("{done} cases in {seconds:.0} s, {rate:.0} a second, {failed} failed");
}

fn work(arguments: &Arguments, next: &AtomicU64, done: &AtomicU64, failed: &AtomicU64) {
    loop {
        let first = next.fetch_add(STRIDE, Relaxed);
        if first >= arguments.cases {
            return;
        }
        let last = (first + STRIDE).min(arguments.cases);
        for nth in first..last {
            let number = arguments.from + nth;
            if catch_unwind(|| one(number)).is_err() {
                failed.fetch_add(1, Relaxed);
                eprintln!("case {number} fails: {}", describe(number));
            }
        }
        done.fetch_add(last - first, Relaxed);
    }
}

/// The property that a case tries: an index into the properties of one server, or else several servers.
fn property_of(number: u64) -> usize {
    (number % (PROPERTIES.len() as u64 + 1)) as usize
}

fn draw<S: Strategy>(number: u64, strategy: S) -> S::Value {
    let mut seed = [0; 16];
    seed[..8].copy_from_slice(&number.to_le_bytes());
    seed[8..].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::XorShift, &seed);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    strategy.new_tree(&mut runner).expect("nothing is filtered").current()
}

fn one(number: u64) {
    match PROPERTIES.get(property_of(number)) {
        Some((_, property)) => {
            let (case, choice) = draw(number, (case::case(), proptest::num::u64::ANY));
            property(&case, choice);
        }
        None => servers::all_end_equal(&draw(number, servers::run())),
    }
}

fn describe(number: u64) -> String {
    match PROPERTIES.get(property_of(number)) {
        Some((name, _)) => format!("{name}: {:#?}", draw(number, (case::case(), proptest::num::u64::ANY))),
        None => format!("several servers: {:#?}", draw(number, servers::run())),
    }
}
