//! Mounts a directory through the gate, with a store for tests behind it:
//!
//! ```text
//! gate TREE POINT [CONTROL]    mount TREE at POINT; CONTROL is the store's file of commands
//! gate --tier FILE SEED SIZE   make a tiered file in a real tree
//! gate --check FILE SEED       whether a file has the bytes of a seed
//! ```
//!
//! Ends when the mount is taken away.
#![allow(missing_docs)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::path::Path;
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["--worker"] => support::work(),
        ["--tier", file, seed, size] => {
            let (Ok(seed), Ok(size)) = (seed.parse(), size.parse()) else { return ExitCode::FAILURE };
            support::store::make_tiered(Path::new(file), seed, size);
            ExitCode::SUCCESS
        }
        ["--check", file, seed] => {
            let (Ok(seed), Ok(held)) = (seed.parse(), std::fs::read(file)) else { return ExitCode::FAILURE };
            let is_right = held == support::store::content(seed, held.len() as u64);
            if is_right { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        [tree, point] | [tree, point, _] => {
            let worker = || {
                let mut command = Command::new("/proc/self/exe");
                command.arg("--worker");
                if let Some(control) = arguments.get(2) {
                    command.env(support::CONTROL, control);
                }
                command
            };
            support::hold(Path::new(tree), Path::new(point), worker, |worker| println!("worker {worker}"))
        }
        _ => {
            eprintln!("gate TREE POINT [CONTROL]");
            ExitCode::FAILURE
        }
    }
}
