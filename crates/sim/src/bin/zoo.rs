//! Hunts the bugs of the zoo: `cargo run --release -p polder-sim --features zoo --bin zoo -- [--seeds N] [--from S]
//! [--threads T] [--fresh] [--open] [--only BUG] [--told] [--story FILE]`.
//!
//! One line a bug: after how many seeds it was caught, and by which oracle. Fails when one is not caught within N seeds
//! (10,000 when nothing is said). What is known to catch a bug (a story or a seed) is tried first, but for `--fresh`. `--open` hunts those
//! that nobody has caught yet, `--only` one, and may be repeated; `--told` prints what the oracle said. `--story` tells the
//! story of a file with each of them instead. Bugs of other levels are hunted by the tests of those.

use anyhow::{Context, bail};
use polder_sim::zoo::{Catch, OPEN, SEEDS_MAX, hunt_all, tell};
use polder_types::zoo::{Bug, Level};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<()> {
    let mut words = std::env::args().skip(1);
    let (mut seeds, mut from, mut threads, mut only) = (SEEDS_MAX, 0, 2, Vec::new());
    let (mut fresh, mut open, mut told, mut stories) = (false, false, false, Vec::new());
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} needs a value"));
        match word.as_str() {
            "--seeds" => seeds = value()?.parse()?,
            "--from" => from = value()?.parse()?,
            "--threads" => threads = value()?.parse()?,
            "--only" => {
                let name = value()?;
                let bug = Bug::ALL.iter().find(|bug| format!("{bug:?}") == name);
                only.push(*bug.with_context(|| format!("there is no bug \"{name}\""))?);
            }
            "--fresh" => fresh = true,
            "--open" => open = true,
            "--story" => stories.push(std::fs::read_to_string(value()?)?),
            "--told" => told = true,
            other => bail!("unknown argument \"{other}\""),
        }
    }
    // An assertion that fails in a world with a bug is told as what caught it.
    std::panic::set_hook(Box::new(|_| ()));
    let say = |bug: Bug, catch: Option<&Catch>| match catch {
        Some(catch) => {
            println!("{bug:?}: {} seeds (seed {}), {}", catch.seeds, catch.seed, catch.oracle());
            if told {
                println!("  {}", catch.failure);
            }
        }
        None => println!("{bug:?}: NOT CAUGHT by {seeds} seeds: {}", bug.what().trim()),
    };
    let bugs: Vec<Bug> = match only.is_empty() {
        true => Bug::of(Level::Simulator).filter(|bug| OPEN.contains(bug) == open).collect(),
        false => only,
    };
    for story in &stories {
        for bug in &bugs {
            println!("{bug:?}: {}", tell(*bug, story).unwrap_or_else(|| "not caught".into()));
        }
    }
    if !stories.is_empty() {
        return Ok(());
    }
    let found = hunt_all(&bugs, from, seeds, fresh, threads, &say);
    let escaped: Vec<_> = found.iter().filter(|(_, catch)| catch.is_none()).map(|(bug, _)| *bug).collect();
    println!("{} bugs, {} caught", found.len(), found.len() - escaped.len());
    if escaped.is_empty() { Ok(()) } else { bail!("not caught: {escaped:?}") }
}
