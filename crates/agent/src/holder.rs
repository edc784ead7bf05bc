//! The holder: a small process that outlives the worker and starts it again.
//!
//! It parses nothing that comes from outside, so it has little to die of. With the gate it will keep the mounts; today
//! its work is that a crash of the worker costs a moment and not a night. The worker ends with its holder: it reads
//! its standard input, which ends when the holder does.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use std::pin::Pin;

use anyhow::{Context, Result, bail};
use tokio::process::{Child, ChildStdin, Command};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::StateDir;

/// How a worker is started: `executable agent worker --state DIR`, with what else the holder was given.
#[derive(Debug, Clone)]
pub struct HolderOptions {
    /// The state folder.
    pub state: PathBuf,
    /// The executable of the worker; read anew at every start, so that an upgrade is a replaced file and a reload.
    pub executable: PathBuf,
    /// Arguments that make it a worker.
    pub arguments: Vec<std::ffi::OsString>,
}

const RESTART_WAIT_MIN: Duration = Duration::from_millis(50);
const RESTART_WAIT_MAX: Duration = Duration::from_secs(10);
/// A worker that lived so long was healthy: its death begins a new series.
const HEALTHY: Duration = Duration::from_secs(10);
/// A worker that exits with this code says that starting it again is of no use (not registered, revoked folder).
pub(crate) const EXIT_HOPELESS: i32 = 78;

/// Keeps a worker running until `stop` is ready; SIGHUP replaces it. Returns when the worker has ended for good.
pub async fn hold(options: HolderOptions, stop_it: impl Future<Output = ()>) -> Result<()> {
    let state = StateDir::open(&options.state)?;
    state.identity()?;
    let mut signals = Signals {
        hangup: signal(SignalKind::hangup()).context("listen to signals")?,
        stop: std::pin::pin!(stop_it),
    };
    let mut wait = RESTART_WAIT_MIN;
    loop {
        let began = Instant::now();
        let mut worker = start(&options)?;
        // Taken out, because `wait` closes what it finds, and that is how a worker is asked to end.
        let input = worker.stdin.take();
        let ended = tokio::select! {
            status = worker.wait() => Ended::ByItself(status.context("wait for the worker")?),
            signal = signals.next() => signal,
        };
        match ended {
            Ended::Stop => return stop(worker, input).await,
            Ended::Reload => {
                tracing::info!("the worker is replaced");
                stop(worker, input).await?;
                wait = RESTART_WAIT_MIN;
                continue;
            }
            Ended::ByItself(status) if status.code() == Some(crate::control::EXIT_RELOAD) => {
                tracing::info!("the worker is replaced");
                wait = RESTART_WAIT_MIN;
                continue;
            }
            Ended::ByItself(status) if status.code() == Some(EXIT_HOPELESS) => {
                bail!("the worker gave up; its last message says why");
            }
            Ended::ByItself(status) => tracing::error!(%status, "the worker ended and is started again"),
        }
        wait = if began.elapsed() > HEALTHY { RESTART_WAIT_MIN } else { (wait * 2).min(RESTART_WAIT_MAX) };
        tokio::select! {
            () = tokio::time::sleep(wait) => (),
            ended = signals.next() => if matches!(ended, Ended::Stop) { return Ok(()) },
        }
    }
}

enum Ended {
    ByItself(std::process::ExitStatus),
    Stop,
    Reload,
}

struct Signals<'a, F> {
    hangup: Signal,
    stop: Pin<&'a mut F>,
}

impl<F: Future<Output = ()>> Signals<'_, F> {
    async fn next(&mut self) -> Ended {
        tokio::select! {
            () = self.stop.as_mut() => Ended::Stop,
            _ = self.hangup.recv() => Ended::Reload,
        }
    }
}

fn start(options: &HolderOptions) -> Result<Child> {
    Command::new(&options.executable)
        .args(&options.arguments)
        .stdin(Stdio::piped())
        .spawn()
        .with_context(|| format!("start the worker \"{}\"", options.executable.display()))
}

/// Ends the worker: closing its standard input asks it to, a kill follows if it does not.
async fn stop(mut worker: Child, input: Option<ChildStdin>) -> Result<()> {
    drop(input);
    if tokio::time::timeout(Duration::from_secs(10), worker.wait()).await.is_err() {
        tracing::warn!("the worker did not end within 10 s and is killed");
        worker.kill().await.context("kill the worker")?;
    }
    Ok(())
}
