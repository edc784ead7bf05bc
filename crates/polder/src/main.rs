//! The binary: dispatches, and runs one machine with one command.
//!
//! The reason for this crate: `cli` parses and renders, `service` and `agent` are composition roots, and none of them
//! knows another. Here they meet, one process each: `up` starts this same executable as child processes, because a
//! process that reads its own mount can deadlock, and because a killed agent must be a process.
//!
//! Architecture invariant: no decision about files or shares is made here.

mod agent;
mod evaluate;
mod host;
mod logging;
mod memory;
mod mount;
mod parent;
mod recall;
mod service;
mod up;

use std::process::ExitCode;

const _: () = assert!(
    !polder_types::zoo::PLANTABLE || cfg!(all(feature = "zoo", debug_assertions)),
    "the bug zoo is not for what ships"
);

/// Plants the bug that the environment names, in all threads of this process and of those that it starts.
#[cfg(feature = "zoo")]
fn plant() {
    use polder_types::zoo::{Bug, plant_everywhere};
    let Ok(name) = std::env::var("POLDER_ZOO") else { return };
    let bug = Bug::ALL.iter().copied().find(|bug| format!("{bug:?}") == name);
    plant_everywhere(Some(bug.expect("POLDER_ZOO names a bug of the zoo")));
}

fn main() -> ExitCode {
    #[cfg(feature = "zoo")]
    plant();
    memory::set_up();
    // The only provider of cryptography in the process, before anybody speaks TLS. Fails only if there is one already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let arguments = std::env::args_os().collect();
    let exit = polder_cli::run(arguments, polder_cli::Environment::of_process(), &host::Binary);
    ExitCode::from(exit as u8)
}
