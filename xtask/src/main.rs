//! Checks of the workspace: `cargo xtask check` is what CI runs, step by step and in the same order.
//!
//! ```text
//! cargo xtask check            # everything: format, lints, layers, tests, documents
//! cargo xtask check --fast     # format, lints and layers only
//! ```

mod layers;
mod scenarios;
mod sizes;

use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let outcome = match args.as_slice() {
        ["check"] => check(false),
        ["check", "--fast"] => check(true),
        ["layers"] => layers::check(),
        ["scenarios"] => scenarios::check(),
        ["sizes"] => sizes::check(),
        _ => {
            eprintln!("usage: cargo xtask check [--fast] | layers | scenarios | sizes");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Every check in the order of what fails soonest.
fn check(fast: bool) -> Result<()> {
    cargo(&["fmt", "--all", "--check"], &[])?;
    layers::check()?;
    sizes::check()?;
    scenarios::check()?;
    cargo(&["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"], &[])?;
    if fast {
        return Ok(());
    }
    cargo(&["test", "--workspace", "--locked", "--quiet"], &[])?;
    cargo(
        &["doc", "--workspace", "--no-deps", "--locked", "--quiet"],
        &[("RUSTDOCFLAGS", "-D warnings -A rustdoc::private_intra_doc_links")],
    )?;
    if Command::new("cargo-deny").arg("--version").output().is_ok() {
        cargo(&["deny", "check", "bans", "licenses", "sources"], &[])
    } else {
        println!("SKIPPED: cargo-deny is not installed (cargo install cargo-deny --locked)");
        Ok(())
    }
}

fn cargo(args: &[&str], env: &[(&str, &str)]) -> Result<()> {
    println!("+ cargo {}", args.join(" "));
    let status = Command::new(env!("CARGO")).args(args).envs(env.iter().copied()).status();
    match status.with_context(|| format!("start cargo {}", args[0]))? {
        status if status.success() => Ok(()),
        status => bail!("cargo {} ended with {status}", args[0]),
    }
}
