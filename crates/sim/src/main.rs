//! Runs seeds of the simulation; `--help` says how.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use anyhow::{Context, bail};
use polder_sim::{AtGates, Outcome, Plan, Tiering, World, run_twice, shrink};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const HELP: &str = "\
polder-sim --seeds N [--from S] [--once] [--threads T]
                                           runs N seeds; --once: each once instead of twice
           [--tiering never|always]        in no run a server tiers, or in every one (else in half of them); with --seed too
polder-sim --seed S [--trace] [--shrink]   runs one seed; says all that happens; tells a failing one in few lines
polder-sim --told FILE [--trace]           runs a story";

#[derive(Default)]
struct Arguments {
    seeds: u64,
    from: u64,
    threads: u64,
    one: Option<u64>,
    told: Option<String>,
    trace: bool,
    once: bool,
    shrink: bool,
    tiering: Tiering,
}

fn arguments() -> anyhow::Result<Arguments> {
    let mut words = std::env::args().skip(1);
    let mut found = Arguments { seeds: 1000, threads: 1, ..Arguments::default() };
    while let Some(word) = words.next() {
        let mut number =
            || -> anyhow::Result<u64> { Ok(words.next().context("a number is missing")?.parse()?) };
        match word.as_str() {
            "--seeds" => found.seeds = number()?,
            "--from" => found.from = number()?,
            "--threads" => found.threads = number()?.max(1),
            "--seed" => found.one = Some(number()?),
            "--tiering" => {
                found.tiering = match words.next().as_deref() {
                    Some("never") => Tiering::Never,
                    Some("always") => Tiering::Always,
                    _ => bail!("--tiering never or always"),
                };
            }
            "--told" => found.told = Some(words.next().context("a file is missing")?),
            "--trace" => found.trace = true,
            "--once" => found.once = true,
            "--shrink" => found.shrink = true,
            "--help" => {
                println!("{HELP}");
                std::process::exit(0);
            }
            other => bail!("unknown argument \"{other}\"\n{HELP}"),
        }
    }
    Ok(found)
}

fn main() -> anyhow::Result<()> {
    let arguments = arguments()?;
    if let Some(file) = &arguments.told {
        let story = std::fs::read_to_string(file).with_context(|| format!("read \"{file}\""))?;
        return single(Plan { trace: arguments.trace, ..Plan::told(&story) }, false);
    }
    if let Some(seed) = arguments.one {
        return single(
            Plan { trace: arguments.trace, ..Plan::of_kind(seed, arguments.tiering) },
            arguments.shrink,
        );
    }
    many(&arguments)
}

fn single(plan: Plan, shorten: bool) -> anyhow::Result<()> {
    let seed = plan.seed;
    let outcome = World::new(plan.clone()).run();
    outcome.trace.iter().for_each(|line| println!("{line}"));
    println!("seed {seed}: {} steps, hash {:016x}", outcome.steps, outcome.hash);
    let Some(failure) = outcome.failure else { return Ok(()) };
    if shorten {
        match shrink::shrink(&plan) {
            Some(short) => println!("after {} runs:\n{}\n{}", short.runs, short.text(), short.failure),
            None => println!("told again it does not fail: {failure}"),
        }
    }
    bail!("seed {seed}: {failure}")
}

fn run(plan: &Plan, once: bool) -> Outcome {
    match once {
        true => World::new(Plan { hash_all: false, ..plan.clone() }).run(),
        false => run_twice(plan),
    }
}

fn many(arguments: &Arguments) -> anyhow::Result<()> {
    let began = Instant::now();
    let (next, failures, steps) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let gates = Mutex::new(AtGates::default());
    let told = Mutex::new(Instant::now());
    let work = || {
        loop {
            let nth = next.fetch_add(1, Relaxed);
            if nth >= arguments.seeds {
                return;
            }
            let seed = arguments.from + nth;
            let outcome = run(&Plan::of_kind(seed, arguments.tiering), arguments.once);
            steps.fetch_add(outcome.steps, Relaxed);
            gates.lock().expect("nobody panics with the lock").add(outcome.at_gates);
            if let Some(failure) = outcome.failure {
                failures.fetch_add(1, Relaxed);
                let first = failure.lines().next().unwrap_or_default();
                println!("seed {seed}: {}", first.chars().take(400).collect::<String>());
            }
            if let Ok(mut told) = told.try_lock()
                && told.elapsed().as_secs() >= 10
            {
                *told = Instant::now();
                eprintln!("{} of {} seeds, {} failures", nth + 1, arguments.seeds, failures.load(Relaxed));
            }
        }
    };
    std::thread::scope(|scope| (0..arguments.threads).for_each(|_| drop(scope.spawn(work))));
    let seconds = began.elapsed().as_secs_f64();
    let per_run = if arguments.once { 1 } else { 2 };
    let (failures, steps) = (failures.into_inner(), steps.into_inner());
    println!(
        "{} seeds, {steps} steps, {failures} failures; {:.0} runs/s on {} threads in {seconds:.1} s",
        arguments.seeds,
        (arguments.seeds * per_run) as f64 / seconds,
        arguments.threads
    );
    let AtGates { given_up, resident, read, refused } =
        gates.into_inner().expect("nobody panics with the lock");
    println!(
        "{given_up} files given up, {resident} made resident, {read} reads at gates, {refused} errors there"
    );
    if failures > 0 { bail!("{failures} seeds fail") } else { Ok(()) }
}
