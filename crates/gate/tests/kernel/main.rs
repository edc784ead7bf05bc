//! The gate through a real kernel mount. Needs root and `/dev/fuse`.
//!
//! A process must never touch its own mount: holder and workers are child processes, this test binary started again as `role`.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../support/mod.rs"]
mod support;

mod deaths;
mod model;
mod motion;
mod posix;
mod readers;
mod signals;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const ROLE: &str = "GATE_TEST_ROLE";
const PLACE: &str = "GATE_TEST_PLACE";

fn myself(role: &str) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.args(["role", "--exact", "--nocapture"]).env(ROLE, role);
    command
}

/// Not a test of its own: what child processes run.
#[test]
fn role() {
    let code = match std::env::var(ROLE).as_deref() {
        Ok("work") => support::work(),
        Ok("hold") => {
            let place = PathBuf::from(std::env::var_os(PLACE).unwrap());
            support::hold_and_tell(&place.join("tree"), &place.join("mnt"), &place.join("workers"), || {
                // Of a worker that cannot begin.
                if place.join("die").exists() {
                    return Command::new("false");
                }
                let mut worker = myself("work");
                if place.join("slow").exists() {
                    worker.env(support::NO_PASSTHROUGH, "1");
                }
                worker.env(support::CONTROL, place.join("control")).env(support::AGAIN, place.join("again"));
                worker
            })
        }
        _ => return,
    };
    std::process::exit(if code == std::process::ExitCode::SUCCESS { 0 } else { 1 });
}

/// A mounted gate; gone with this value.
pub struct Mounted {
    dir: tempfile::TempDir,
    holder: Option<Child>,
}

impl Mounted {
    /// Mounts a fresh tree; `None`, and a line that says so, where that cannot be.
    pub fn new() -> Option<Self> {
        Self::on(None, false)
    }

    /// The same, all bytes going through the worker.
    pub fn without_passthrough() -> Option<Self> {
        Self::on(None, true)
    }

    /// The same on a volume of its own, of so many bytes.
    pub fn small(bytes: u64) -> Option<Self> {
        Self::on(Some(bytes), false)
    }

    fn on(volume: Option<u64>, is_slow: bool) -> Option<Self> {
        let can = rustix::process::geteuid().is_root() && Path::new("/dev/fuse").exists();
        if !can {
            println!("SKIPPED: mounting needs root and /dev/fuse");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("tree")).unwrap();
        std::fs::create_dir(dir.path().join("mnt")).unwrap();
        if let Some(bytes) = volume {
            let (good, said) = shell(dir.path(), &format!("mount -t tmpfs -o size={bytes} gate-test tree"));
            assert!(good, "{said}");
        }
        let mut mounted = Self { dir, holder: None };
        mounted.store("ok");
        if is_slow {
            std::fs::write(mounted.place().join("slow"), "").unwrap();
        }
        std::fs::write(mounted.place().join("again"), "").unwrap();
        mounted.mount();
        Some(mounted)
    }

    pub fn mount(&mut self) {
        let holder = myself("hold").env(PLACE, self.dir.path()).stdout(Stdio::null()).spawn().unwrap();
        self.holder = Some(holder);
        self.wait_for(|| self.worker().is_some());
    }

    pub fn place(&self) -> &Path {
        self.dir.path()
    }

    /// A path of the real tree.
    pub fn real(&self, name: &str) -> PathBuf {
        self.dir.path().join("tree").join(name)
    }

    /// A path through the gate.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("mnt").join(name)
    }

    /// What the store does from now on.
    pub fn store(&self, command: &str) {
        let fresh = self.dir.path().join("control.new");
        std::fs::write(&fresh, command).unwrap();
        std::fs::rename(fresh, self.dir.path().join("control")).unwrap();
    }

    /// Numbers of all workers so far.
    pub fn workers(&self) -> Vec<i32> {
        let told = std::fs::read_to_string(self.dir.path().join("workers")).unwrap_or_default();
        told.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')?.parse().ok()).collect()
    }

    pub fn worker(&self) -> Option<i32> {
        self.workers().last().copied()
    }

    pub fn kill_worker(&self) {
        kill(self.worker().unwrap());
    }

    /// Whether the last worker has come so far as to serve. On a machine that is busy with other things that may take longer than the
    /// time between two kills, and then nothing would ever be served.
    pub fn is_served(&self) -> bool {
        let serving = std::fs::read_to_string(self.dir.path().join("serving")).unwrap_or_default();
        self.worker().is_some_and(|worker| worker.to_string() == serving)
    }

    pub fn kill_holder(&mut self) {
        let holder = self.holder.as_mut().unwrap();
        holder.kill().unwrap();
        holder.wait().unwrap();
        self.holder = None;
    }

    pub fn wait_for(&self, what: impl Fn() -> bool) {
        let begin = Instant::now();
        while !what() {
            assert!(begin.elapsed() < Duration::from_secs(20), "waited too long");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Makes a tiered file; its seed is its size.
    pub fn tiered(&self, name: &str, size: u64) {
        support::store::make_tiered(&self.real(name), size, size);
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path("")).stderr(Stdio::null()).status();
        if let Some(mut holder) = self.holder.take() {
            let _ = holder.kill();
            let _ = holder.wait();
        }
        if let Some(worker) = self.worker() {
            kill(worker);
        }
        // If the tree was a volume of its own.
        let _ = Command::new("umount").arg("-l").arg(self.real("")).stderr(Stdio::null()).status();
    }
}

/// Kills a process if it lives.
pub fn kill(pid: i32) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

/// Runs a command of a shell in a directory, bounded in time; its success and output.
pub fn shell(dir: &Path, script: &str) -> (bool, String) {
    let output = Command::new("timeout").args(["30", "sh", "-c", script]).current_dir(dir).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}
