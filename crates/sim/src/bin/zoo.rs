//! Hunts the bugs of the zoo: `cargo run --release -p polder-sim --features zoo --bin zoo -- [--seeds N] [--from S]
//! [--threads T] [--only BUG] [--told]`.
//!
//! One line a bug: after how many seeds it was caught, and by which oracle. Fails when one is not caught within N seeds
//! (10,000 when nothing is said). `--told` prints what the oracle said.

use anyhow::{Context, bail};
use polder_sim::zoo::{Catch, SEEDS_MAX, hunt_all};
use polder_types::zoo::Bug;

fn main() -> anyhow::Result<()> {
    let mut words = std::env::args().skip(1);
    let (mut seeds, mut from, mut threads, mut bugs, mut told) = (SEEDS_MAX, 0, 2, Bug::ALL.to_vec(), false);
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} needs a value"));
        match word.as_str() {
            "--seeds" => seeds = value()?.parse()?,
            "--from" => from = value()?.parse()?,
            "--threads" => threads = value()?.parse()?,
            "--only" => {
                let name = value()?;
                bugs.retain(|bug| format!("{bug:?}") == name);
                if bugs.is_empty() {
                    bail!("there is no bug \"{name}\"");
                }
            }
            "--told" => told = true,
            other => bail!("unknown argument \"{other}\""),
        }
    }
    // An assertion that fails in a world with a bug is told as what caught it.
    std::panic::set_hook(Box::new(|_| ()));
    let tell = |bug: Bug, catch: Option<&Catch>| match catch {
        Some(catch) => {
            println!("{bug:?}: {} seeds (seed {}), {}", catch.seeds, catch.seed, catch.oracle());
            if told {
                println!("  {}", catch.failure);
            }
        }
        None => println!("{bug:?}: NOT CAUGHT by {seeds} seeds: {}", bug.what().trim()),
    };
    let found = hunt_all(&bugs, from, seeds, threads, &tell);
    let escaped: Vec<_> = found.iter().filter(|(_, catch)| catch.is_none()).map(|(bug, _)| *bug).collect();
    println!("{} bugs, {} caught", found.len(), found.len() - escaped.len());
    if escaped.is_empty() { Ok(()) } else { bail!("not caught: {escaped:?}") }
}
