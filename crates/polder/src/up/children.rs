//! The child processes: this executable again, each with its own log file and process group, ended with us.

use std::{
    fs::OpenOptions,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use polder_cli::CliError;
use tokio::process::{Child, Command};

use crate::parent;

/// How long a child may take to end by itself.
const END_WITHIN: Duration = Duration::from_secs(10);
/// How often the children are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// The children that run.
pub struct Children {
    executable: PathBuf,
    logs: PathBuf,
    running: Vec<(String, Child)>,
}

impl Children {
    /// None yet; their logs go to `dir/logs`.
    pub fn new(dir: &Path) -> Result<Self, CliError> {
        let executable =
            std::env::current_exe().map_err(|error| CliError::io("find this executable", error))?;
        Ok(Self { executable, logs: dir.join("logs"), running: Vec::new() })
    }

    /// Starts a child that runs until the end.
    pub fn start(&mut self, name: &str, arguments: &[&std::ffi::OsStr]) -> Result<(), CliError> {
        let mut command = self.command(name, arguments)?;
        let child = command
            .env(parent::VARIABLE, "1")
            .stdin(Stdio::piped())
            .spawn()
            .map_err(|error| CliError::io(format!("start {name}"), error))?;
        self.running.push((name.to_owned(), child));
        Ok(())
    }

    /// Runs a child to its end, which must be a good one.
    pub async fn complete(&self, name: &str, arguments: &[&std::ffi::OsStr]) -> Result<(), CliError> {
        let mut command = self.command(name, arguments)?;
        let status = command
            .stdin(Stdio::null())
            .status()
            .await
            .map_err(|error| CliError::io(format!("start {name}"), error))?;
        if status.success() { Ok(()) } else { Err(self.obituary(name, status)) }
    }

    fn command(&self, name: &str, arguments: &[&std::ffi::OsStr]) -> Result<Command, CliError> {
        let path = self.log(name);
        let failed = |error| CliError::io(format!("write \"{}\"", path.display()), error);
        let log = OpenOptions::new().create(true).append(true).open(&path).map_err(failed)?;
        let also = log.try_clone().map_err(failed)?;
        let mut command = Command::new(&self.executable);
        command
            .args(arguments)
            .stdout(log)
            .stderr(also)
            // Ctrl-C is ours: children end in an order, and after we have said so.
            .process_group(0)
            .kill_on_drop(true);
        Ok(command)
    }

    fn log(&self, name: &str) -> PathBuf {
        self.logs.join(format!("{name}.log"))
    }

    /// Ready when a child has ended, which none should.
    pub async fn died(&mut self) -> CliError {
        loop {
            if let Some(error) = self.dead() {
                return error;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// A child that has ended.
    pub fn dead(&mut self) -> Option<CliError> {
        let ended = self.running.iter_mut().find_map(|(name, child)| match child.try_wait() {
            Ok(Some(status)) => Some((name.clone(), status)),
            _ => None,
        });
        ended.map(|(name, status)| self.obituary(&name, status))
    }

    fn obituary(&self, name: &str, status: ExitStatus) -> CliError {
        let log = self.log(name);
        let text = std::fs::read(&log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text[text.len().saturating_sub(8192)..]).into_owned();
        let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
        CliError::new(format!("{name} ended ({status}): {last}"))
            .hint(format!("all that it said is in \"{}\"", log.display()))
    }

    /// Ends all, the last one started first: agents before their service.
    pub async fn stop(mut self) {
        while let Some((_, mut child)) = self.running.pop() {
            // The end of its input tells it to end.
            drop(child.stdin.take());
            if tokio::time::timeout(END_WITHIN, child.wait()).await.is_err() {
                // It may be gone by now; either way nothing of it is left.
                let _ = child.kill().await;
            }
        }
    }
}
