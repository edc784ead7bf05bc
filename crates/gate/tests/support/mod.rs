//! What the tests and the example mount: a tree with tiered files in it, behind a holder and its workers.
#![allow(dead_code, missing_docs, clippy::unwrap_used)]

pub mod store;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;

use polder_gate::ports::Node;
use polder_gate::tree::Tree;
use polder_gate::{EXIT_AGAIN, Gate, Handed, Holder, Settings};
use rustix::fs::CWD;

use store::{Marks, Store};

/// Where a worker finds the store's control file.
pub const CONTROL: &str = "GATE_TEST_CONTROL";

/// Where a worker finds the file that tells it to ask for being started again.
pub const AGAIN: &str = "GATE_TEST_AGAIN";

/// Says to a worker that all bytes go through it.
pub const NO_PASSTHROUGH: &str = "GATE_TEST_NO_PASSTHROUGH";

/// The whole life of a worker process.
pub fn work() -> ExitCode {
    let Some(handed) = Handed::take() else {
        eprintln!("not started by a holder");
        return ExitCode::FAILURE;
    };
    let served = || -> Result<(), Box<dyn std::error::Error>> {
        let settings = Settings { passthrough: std::env::var_os(NO_PASSTHROUGH).is_none() };
        let marks = Marks::default();
        let changes = marks.0.clone();
        let tree = Arc::new(Tree::open(handed.tree, Arc::new(marks))?);
        let store = Arc::new(Store::new(tree.clone(), changes, std::env::var_os(CONTROL).map(PathBuf::from)));
        let gate = Gate::start(handed.connection, tree, store, &settings)?;
        if let Some(again) = std::env::var_os(AGAIN) {
            std::fs::write(Path::new(&again).with_file_name("serving"), std::process::id().to_string())?;
            let names = Path::new(&again).with_file_name("motion");
            std::thread::spawn(move || exit_when_told(Path::new(&again)));
            let gate = gate.clone();
            std::thread::spawn(move || move_when_told(&gate, &names));
        }
        Ok(gate.wait()?)
    };
    match served() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("worker: {error}: {:?}", error.source());
            ExitCode::FAILURE
        }
    }
}

/// The whole life of a holder process.
pub fn hold(
    tree: &Path,
    point: &Path,
    worker: impl Fn() -> Command,
    mut started: impl FnMut(u32),
) -> ExitCode {
    let _ = polder_gate::clear_stale(point);
    let held = Holder::mount(tree, point).and_then(|holder| holder.run(&worker, |child| started(child.id())));
    match held {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("holder: {error}: {:?}", std::error::Error::source(&error));
            ExitCode::FAILURE
        }
    }
}

/// As [`hold`]; the number of each worker goes to a file, a line each.
pub fn hold_and_tell(tree: &Path, point: &Path, told: &Path, worker: impl Fn() -> Command) -> ExitCode {
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(told).unwrap();
    hold(tree, point, worker, |worker| writeln!(file, "{worker}").unwrap())
}

/// While a file is there, the names in it (one a line, at the root) are in motion; then the kernel is told of them. Each is answered by a file
/// that comes, or goes. What lies staged under such a name is exchanged for it.
fn move_when_told(gate: &Gate, told: &Path) {
    let answer = told.with_file_name("in-motion");
    let pause = || std::thread::sleep(std::time::Duration::from_millis(2));
    loop {
        let Ok(text) = std::fs::read_to_string(told) else {
            pause();
            continue;
        };
        let moving = gate.moving(text.lines().map(|name| (Node::ROOT, name.as_bytes())));
        for name in text.lines() {
            let (staged, at) =
                (told.with_file_name("staged").join(name), told.with_file_name("tree").join(name));
            if staged.exists() {
                let flags = rustix::fs::RenameFlags::EXCHANGE;
                moving.alone(|| rustix::fs::renameat_with(CWD, &staged, CWD, &at, flags)).unwrap();
            }
        }
        std::fs::write(&answer, "").unwrap();
        while told.exists() {
            pause();
        }
        gate.names_changed(Node::ROOT, text.lines().map(str::as_bytes)).unwrap();
        drop(moving);
        std::fs::remove_file(&answer).unwrap();
    }
}

/// Ends this worker, in the middle of whatever it does, when its number stands in a file.
fn exit_when_told(told: &Path) {
    let me = std::process::id().to_string();
    while std::fs::read_to_string(told).is_ok_and(|text| text != me) {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    std::process::exit(EXIT_AGAIN)
}
