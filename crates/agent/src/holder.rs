//! The holder: a small process that outlives the worker and starts it again.
//!
//! It parses nothing that comes from outside, so it has little to die of. A crash of the worker costs a moment and not a night: the holder
//! keeps the mounts of tiered endpoints, and hands them to the next worker, so that nobody who reads there notices. The worker ends with
//! its holder: it reads its standard input, which ends when the holder does.

use std::path::PathBuf;
use std::pin::Pin;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use polder_gate::HeldMounts;
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
const SIGKILL: i32 = 9;
const LOCK: &str = "no holder of this lock panics";

/// How long it is waited for what a worker said last. It has ended by then, so only somebody who inherited its end of the channel could hold it up.
const LAST_WORD_WITHIN: Duration = Duration::from_secs(5);
const LAST_WORD_LOOK: Duration = Duration::from_millis(1);

/// Keeps a worker running until `stop` is ready; SIGHUP replaces it. Returns when the worker has ended for good, and its mounts with it.
pub async fn hold(options: HolderOptions, stop_it: impl Future<Output = ()>) -> Result<()> {
    let mounts: Mounts = Arc::default();
    let held = keep_running(options, stop_it, &mounts).await;
    // Here, and not with the last reference: that may be the one of a listening thread, which the end of the process overtakes.
    drop(std::mem::take(&mut *mounts.lock().expect(LOCK)));
    held
}

async fn keep_running(
    options: HolderOptions,
    stop_it: impl Future<Output = ()>,
    mounts: &Mounts,
) -> Result<()> {
    let state = StateDir::open(&options.state)?;
    state.identity()?;
    let mut signals = Signals {
        hangup: signal(SignalKind::hangup()).context("listen to signals")?,
        stop: std::pin::pin!(stop_it),
    };
    let mut wait = RESTART_WAIT_MIN;
    loop {
        let began = Instant::now();
        let (mut worker, listening) = start(&options, mounts)?;
        // Taken out, because `wait` closes what it finds, and that is how a worker is asked to end.
        let input = worker.stdin.take();
        let ended = tokio::select! {
            status = worker.wait() => Ended::ByItself(status.context("wait for the worker")?),
            signal = signals.next() => signal,
        };
        let status = match ended {
            Ended::Stop => {
                let stopped = stop(worker, input).await;
                last_word(&listening).await;
                return stopped.map(drop);
            }
            Ended::Reload => {
                tracing::info!("the worker is replaced");
                stop(worker, input).await?
            }
            Ended::ByItself(status) => status,
        };
        // The next one is handed all that this one has made.
        last_word(&listening).await;
        let (given_up, pause) = mounts.lock().expect(LOCK).worker_ended(as_asked(status), began.elapsed());
        if given_up > 0 {
            tracing::error!(
                given_up,
                "mounts were given up: workers die of them, or none came to serve them"
            );
        }
        use std::os::unix::process::ExitStatusExt;
        match status.code() {
            Some(0 | crate::control::EXIT_RELOAD) => {
                wait = RESTART_WAIT_MIN;
                continue;
            }
            Some(EXIT_HOPELESS) => bail!("the worker gave up; its last message says why"),
            _ => tracing::error!(%status, "the worker ended and is started again"),
        }
        wait = if began.elapsed() > HEALTHY { RESTART_WAIT_MIN } else { (wait * 2).min(RESTART_WAIT_MAX) };
        if mounts.lock().expect(LOCK).count() > 0 {
            // Programs wait for the next worker. One that was killed from outside has done nothing wrong.
            wait = if status.signal() == Some(SIGKILL) { Duration::ZERO } else { pause };
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => (),
            ended = signals.next() => if matches!(ended, Ended::Stop) { return Ok(()) },
        }
    }
}

/// Mounts are noted by the thread that listens to a worker.
type Mounts = Arc<Mutex<HeldMounts>>;

/// A worker that was asked to end has not failed, whatever the gate takes its code for.
fn as_asked(status: ExitStatus) -> ExitStatus {
    use std::os::unix::process::ExitStatusExt;
    match status.code() {
        Some(0 | crate::control::EXIT_RELOAD) => ExitStatus::from_raw(polder_gate::EXIT_AGAIN << 8),
        _ => status,
    }
}

enum Ended {
    ByItself(ExitStatus),
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

/// Starts a worker, and a thread that listens to it.
fn start(options: &HolderOptions, mounts: &Mounts) -> Result<(Child, JoinHandle<()>)> {
    let (from_worker, to_holder) = polder_gate::channel()?;
    let mut command = Command::new(&options.executable);
    command.args(&options.arguments).stdin(Stdio::piped());
    let started =
        mounts.lock().expect(LOCK).handing_on(&to_holder, |environment| command.envs(environment).spawn());
    let child = started.with_context(|| format!("start the worker \"{}\"", options.executable.display()))?;
    drop(to_holder);
    let mounts = Arc::clone(mounts);
    // Ends with the worker, whose end of the channel is the only one.
    let listening = std::thread::spawn(move || {
        while let Some(told) = from_worker.receive() {
            match mounts.lock().expect(LOCK).take(told) {
                Ok(()) => from_worker.noted(),
                // Not answered: the worker gives the mount up.
                Err(error) => tracing::error!(error = crate::status::chain(&error), "a mount cannot be kept"),
            }
        }
    });
    Ok((child, listening))
}

/// Waits until all that a worker said before it ended is noted.
async fn last_word(listening: &JoinHandle<()>) {
    let until = Instant::now() + LAST_WORD_WITHIN;
    while !listening.is_finished() && Instant::now() < until {
        tokio::time::sleep(LAST_WORD_LOOK).await;
    }
}

/// Ends the worker: closing its standard input asks it to, a kill follows if it does not.
async fn stop(mut worker: Child, input: Option<ChildStdin>) -> Result<ExitStatus> {
    drop(input);
    match tokio::time::timeout(Duration::from_secs(10), worker.wait()).await {
        Ok(status) => status.context("wait for the worker"),
        Err(_) => {
            tracing::warn!("the worker did not end within 10 s and is killed");
            worker.kill().await.context("kill the worker")?;
            worker.wait().await.context("wait for the worker")
        }
    }
}
