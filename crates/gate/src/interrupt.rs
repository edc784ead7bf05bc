//! Whether somebody who waits for an answer still wants it.
//!
//! The kernel says that a signal is pending, not which. Programs do not expect a read of a plain file to fail because a timer fired, so
//! only signals that end a program, or are meant to, end a wait. Which they are is asked of `/proc`, on the waiting thread.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How often a wait should look at its interrupt: a signal is to be answered within 100 ms.
pub const INTERRUPT_POLL: Duration = Duration::from_millis(20);

/// Tells a waiting call whether to give up. Cheap to clone; cheap to ask.
#[derive(Debug, Clone)]
pub struct Interrupt(Arc<State>);

#[derive(Debug)]
struct State {
    /// The kernel told of a pending signal.
    noticed: AtomicBool,
    /// The wait is to end.
    raised: AtomicBool,
    pid: u32,
}

impl Interrupt {
    /// For the wait of a thread; 0 when it cannot be looked at, in which case every signal counts.
    pub fn new(pid: u32) -> Self {
        Self(Arc::new(State { noticed: AtomicBool::new(false), raised: AtomicBool::new(false), pid }))
    }

    /// Ends the wait.
    pub fn raise(&self) {
        self.0.raised.store(true, Ordering::Release);
    }

    /// The kernel says that a signal is pending.
    pub(crate) fn notice(&self) {
        self.0.noticed.store(true, Ordering::Release);
    }

    /// Whether the wait is to end with `EINTR`. To be asked at least every [`INTERRUPT_POLL`].
    pub fn is_raised(&self) -> bool {
        if self.0.raised.load(Ordering::Acquire) {
            return true;
        }
        if !self.0.noticed.load(Ordering::Acquire) || !ends_a_wait(self.0.pid) {
            return false;
        }
        self.raise();
        true
    }
}

const fn set(signals: &[u32]) -> u64 {
    let mut mask = 0;
    let mut at = 0;
    while at < signals.len() {
        mask |= 1 << (signals[at] - 1);
        at += 1;
    }
    mask
}

/// Signals that do nothing by default, or stop and go on: CHLD, CONT, STOP, TSTP, TTIN, TTOU, URG, WINCH.
const HARMLESS: u64 = set(&[17, 18, 19, 20, 21, 22, 23, 28]);
/// Sent to make a program end, also one that has a handler: HUP, INT, QUIT, TERM.
const MEANT_TO_END: u64 = set(&[1, 2, 3, 15]);

/// Whether a pending signal of the thread ends a wait. A thread that is gone, or cannot be looked at, waits no more.
fn ends_a_wait(pid: u32) -> bool {
    if pid == 0 {
        return true;
    }
    let mut path = String::with_capacity(24);
    let _ = write!(path, "/proc/{pid}/status");
    match std::fs::read_to_string(path) {
        Ok(status) => judge(&status),
        Err(_) => true,
    }
}

fn judge(status: &str) -> bool {
    let mask = |field: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(field))?;
        u64::from_str_radix(line.trim_start_matches(':').trim(), 16).ok()
    };
    let all = (mask("SigPnd"), mask("ShdPnd"), mask("SigBlk"), mask("SigIgn"), mask("SigCgt"));
    let (Some(own), Some(shared), Some(blocked), Some(ignored), Some(caught)) = all else { return true };
    let pending = (own | shared) & !blocked & !ignored;
    pending & MEANT_TO_END != 0 || pending & !caught & !HARMLESS != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(pending: u64, blocked: u64, ignored: u64, caught: u64) -> String {
        format!(
            "Name:\tx\nSigPnd:\t{pending:016x}\nShdPnd:\t{:016x}\nSigBlk:\t{blocked:016x}\nSigIgn:\t{ignored:016x}\nSigCgt:\t{caught:016x}\n",
            0
        )
    }

    #[test]
    fn what_ends_a_wait() {
        let (int, kill, alarm, urgent, child) = (set(&[2]), set(&[9]), set(&[14]), set(&[23]), set(&[17]));
        for (pending, blocked, ignored, caught, ends) in [
            (0, 0, 0, 0, false),
            (kill, 0, 0, 0, true),
            (int, 0, 0, 0, true),
            (int, 0, 0, int, true),
            (int, int, 0, 0, false),
            (int, 0, int, 0, false),
            (alarm, 0, 0, 0, true),
            (alarm, 0, 0, alarm, false),
            (urgent, 0, 0, 0, false),
            (child | urgent, 0, 0, urgent, false),
            (child | kill, 0, 0, child, true),
        ] {
            assert_eq!(judge(&status(pending, blocked, ignored, caught)), ends, "{pending:x} {caught:x}");
        }
        assert!(judge("nothing"), "who cannot be looked at does not wait for ever");
    }

    #[test]
    fn a_thread_that_is_gone_does_not_wait() {
        let interrupt = Interrupt::new(u32::MAX - 1);
        assert!(!interrupt.is_raised());
        interrupt.notice();
        assert!(interrupt.is_raised());
        let mine = Interrupt::new(std::process::id());
        mine.notice();
        assert!(!mine.is_raised(), "no signal is pending here");
    }
}
