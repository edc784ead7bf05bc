//! The moment of a decision. It comes in as a value, so that days pass in a test at once.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// A moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Moment {
    /// Seconds since 1970, for heat and the date policy.
    pub unix_s: i64,
    /// Milliseconds of a clock that never goes back, for waiting.
    pub mono_ms: u64,
}

/// Tells the time.
pub(crate) trait Clock: Send + Sync {
    /// Now.
    fn now(&self) -> Moment;
}

/// The machine's clocks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SystemClock(Instant);

impl SystemClock {
    /// From now on.
    pub(crate) fn new() -> Self {
        Self(Instant::now())
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Moment {
        let unix_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs() as i64);
        Moment { unix_s, mono_ms: self.0.elapsed().as_millis() as u64 }
    }
}
