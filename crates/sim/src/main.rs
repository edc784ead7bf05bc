//! Runs seeds of the simulation; `--help` says how.

use std::io::Write;
use std::time::Instant;

use anyhow::{Context, bail};
use polder_sim::{Outcome, Plan, World, run_twice, shrink};

const HELP: &str = "\
polder-sim --seeds N [--from S] [--once]   runs N seeds; --once: each once instead of twice
polder-sim --seed S [--trace] [--shrink]   runs one seed; says all that happens; tells a failing one in few lines
polder-sim --told FILE [--trace]           runs a story";

#[derive(Default)]
struct Arguments {
    seeds: u64,
    from: u64,
    one: Option<u64>,
    told: Option<String>,
    trace: bool,
    once: bool,
    shrink: bool,
}

fn arguments() -> anyhow::Result<Arguments> {
    let mut words = std::env::args().skip(1);
    let mut found = Arguments { seeds: 1000, ..Arguments::default() };
    while let Some(word) = words.next() {
        let mut number =
            || -> anyhow::Result<u64> { Ok(words.next().context("a number is missing")?.parse()?) };
        match word.as_str() {
            "--seeds" => found.seeds = number()?,
            "--from" => found.from = number()?,
            "--seed" => found.one = Some(number()?),
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
        return single(Plan { trace: arguments.trace, ..Plan::of(seed) }, arguments.shrink);
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
    let (mut failures, mut steps, mut told) = (0u64, 0u64, Instant::now());
    let seeds = arguments.from..arguments.from + arguments.seeds;
    for (nth, seed) in (1u64..).zip(seeds) {
        let outcome = run(&Plan::of(seed), arguments.once);
        steps += outcome.steps;
        if let Some(failure) = outcome.failure {
            failures += 1;
            let first = failure.lines().next().unwrap_or_default();
            println!("seed {seed}: {}", first.chars().take(400).collect::<String>());
        }
        if told.elapsed().as_secs() >= 10 {
            told = Instant::now();
            eprintln!("{nth} of {} seeds, {failures} failures", arguments.seeds);
            std::io::stdout().flush()?;
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    let per_run = if arguments.once { 1 } else { 2 };
    println!(
        "{} seeds, {steps} steps, {failures} failures; {:.0} runs/s in {seconds:.1} s",
        arguments.seeds,
        (arguments.seeds * per_run) as f64 / seconds
    );
    if failures > 0 { bail!("{failures} seeds fail") } else { Ok(()) }
}
