//! Whether to look again before sleeping.
//!
//! Waking a sleeping thread costs more than most answers do (15 to 50 µs against 3), so it pays to look again for some tens of microseconds; but only
//! while requests come that fast, and while there is a processor to spare. Both are learnt from whether looking again succeeds: a miss
//! costs four hits, and where nearly all miss, one in thirty-two tries is made.

use std::time::{Duration, Instant};

/// How long to look again.
const SPIN: Duration = Duration::from_micros(60);
const CREDIT_MAX: i32 = 16;
const MISS: i32 = 4;
/// Requests after which a try is made without credit.
const RETRY: u32 = 32;

/// What has been learnt.
pub(crate) struct Spin {
    can: bool,
    credit: i32,
    idle: u32,
    /// When the last request was answered; `None` while it is not worth to look again.
    since: Option<Instant>,
}

impl Spin {
    /// For a machine with or without a processor to spare.
    pub(crate) fn new(can: bool) -> Self {
        Self { can, credit: MISS, idle: 0, since: None }
    }

    /// A request was answered.
    pub(crate) fn answered(&mut self, now: Instant) {
        if !self.can {
            return;
        }
        if self.since.take().is_some() {
            // The request before it was found by looking again.
            self.credit = (self.credit + 1).min(CREDIT_MAX);
        }
        if self.credit > 0 {
            self.since = Some(now);
            return;
        }
        self.idle += 1;
        if self.idle >= RETRY {
            (self.idle, self.credit) = (0, 1);
            self.since = Some(now);
        }
    }

    /// Whether to look again now that nothing was found.
    pub(crate) fn goes_on(&mut self, now: impl FnOnce() -> Instant) -> bool {
        let Some(since) = self.since else { return false };
        if now().duration_since(since) < SPIN {
            return true;
        }
        self.since = None;
        self.credit -= MISS;
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Requests that come after gaps; how many of them are looked for again at all.
    fn tries(spin: &mut Spin, gap: Duration, count: usize) -> usize {
        let mut tried = 0;
        let now = Instant::now();
        for _ in 0..count {
            spin.answered(now);
            if spin.goes_on(|| now + gap.min(SPIN / 2)) {
                tried += 1;
                if gap >= SPIN {
                    assert!(!spin.goes_on(|| now + gap));
                }
            }
        }
        tried
    }

    #[test]
    fn it_is_learnt_from_success() {
        let mut spin = Spin::new(true);
        assert_eq!(tries(&mut spin, Duration::from_micros(10), 1000), 1000);
        let slow = tries(&mut spin, Duration::from_micros(200), 1000);
        assert!((20..60).contains(&slow), "{slow}");
        let fast = tries(&mut spin, Duration::from_micros(10), 1000);
        assert!(fast > 950, "it comes back: {fast}");
        assert_eq!(tries(&mut Spin::new(false), Duration::from_micros(10), 1000), 0);
    }
}
