//! Runs seeds of the simulation: `polder-sim --seeds N [--from S]`, `polder-sim --seed S [--trace]`.

use anyhow::{Context, bail};
use polder_sim::{Plan, World, run_twice};

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (mut seeds, mut from, mut one, mut trace) = (1000u64, 0u64, None, false);
    while let Some(argument) = arguments.next() {
        let mut number =
            || -> anyhow::Result<u64> { Ok(arguments.next().context("a number is missing")?.parse()?) };
        match argument.as_str() {
            "--seeds" => seeds = number()?,
            "--from" => from = number()?,
            "--seed" => one = Some(number()?),
            "--trace" => trace = true,
            other => bail!("unknown argument \"{other}\""),
        }
    }
    if let Some(seed) = one {
        let outcome = World::new(Plan { trace, ..Plan::of(seed) }).run();
        outcome.trace.iter().for_each(|line| println!("{line}"));
        println!("seed {seed}: {} steps, hash {:016x}", outcome.steps, outcome.hash);
        return outcome.failure.map_or(Ok(()), |failure| bail!("seed {seed}: {failure}"));
    }
    let mut failures = 0;
    let mut steps = 0;
    for seed in from..from + seeds {
        let outcome = run_twice(&Plan::of(seed));
        steps += outcome.steps;
        if let Some(failure) = outcome.failure {
            failures += 1;
            println!("seed {seed}: {failure}");
        }
    }
    println!("{seeds} seeds, {steps} steps, {failures} failures");
    if failures > 0 { bail!("{failures} seeds fail") } else { Ok(()) }
}
