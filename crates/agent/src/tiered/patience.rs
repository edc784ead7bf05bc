//! How long those who want bytes wait for the share: as long as any come, however slow the line; when none come, for a while.
//!
//! The first to meet a share that cannot be reached wait for it: it may be restarting. When that was in vain, it is away, and whoever asks until
//! something comes from it again waits a moment only. Else a program that reads on after an error (`rsync` does, and then once more) waits half a
//! minute for each piece of each file.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long a program waits while no byte comes from the share; then it gets an error.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// The same while the share is known to be away. Long enough for a new session, which is tried twice a second while somebody waits; the first bytes end this.
const WAIT_AWAY_MAX: Duration = Duration::from_secs(3);

/// What is known of the share's absence.
#[derive(Debug, Default)]
pub(super) struct Patience {
    is_away: AtomicBool,
}

impl Patience {
    /// Whether who has waited in vain for so long is to wait no more. It may become so at any moment.
    pub(super) fn is_over(&self, waited: Duration) -> bool {
        waited >= if self.is_away.load(Ordering::Relaxed) { WAIT_AWAY_MAX } else { WAIT_MAX }
    }

    /// The share was asked again and again for as long as is waited, and could not be reached.
    pub(super) fn was_in_vain(&self) {
        if !self.is_away.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "the share cannot be reached: until it can, reads of what is not here fail after three seconds"
            );
        }
    }

    /// Something came from it.
    pub(super) fn came(&self) {
        if self.is_away.swap(false, Ordering::Relaxed) {
            tracing::info!("the share can be reached again");
        }
    }
}

/// One wait. Bytes that come for others count too: whoever waits has its turn, and a transfer that stands still ends by itself.
pub(super) struct Wait<'a, M> {
    patience: &'a Patience,
    /// How many bytes have come from the share.
    meter: M,
    /// How many had come when it was looked last, and since when it is as many.
    seen: Cell<(u64, Instant)>,
}

impl<'a, M: Fn() -> u64> Wait<'a, M> {
    pub(super) fn new(patience: &'a Patience, meter: M) -> Self {
        let seen = Cell::new((meter(), Instant::now()));
        Self { patience, meter, seen }
    }

    /// Whether to wait no more. To be asked again and again: only what is asked sees that bytes come.
    pub(super) fn is_over(&self) -> bool {
        self.is_over_at(Instant::now())
    }

    fn is_over_at(&self, now: Instant) -> bool {
        let (came, (seen, since)) = ((self.meter)(), self.seen.get());
        if came != seen {
            self.seen.set((came, now));
            return false;
        }
        self.patience.is_over(now.saturating_duration_since(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regression_a_wait_lasts_as_long_as_bytes_come() {
        let (patience, came) = (Patience::default(), Cell::new(0));
        let begin = Instant::now();
        let wait = Wait::new(&patience, || came.get());
        let is_over = |secs| wait.is_over_at(begin + Duration::from_secs(secs));
        for secs in (0..600).step_by(20) {
            assert!(!is_over(secs), "something came 20 seconds ago");
            came.set(came.get() + 1);
            assert!(!is_over(secs));
        }
        assert!(!is_over(580 + 29) && is_over(580 + 31), "nothing came since");
        patience.was_in_vain();
        assert!(is_over(580 + 4));
        came.set(came.get() + 1);
        assert!(!is_over(700) && is_over(704), "known to be away");
    }

    #[test]
    fn one_waits_long_and_the_next_do_not_until_something_comes() {
        let (patience, moment) = (Patience::default(), Duration::from_secs(4));
        assert!(!patience.is_over(moment));
        assert!(patience.is_over(WAIT_MAX));
        patience.was_in_vain();
        assert!(patience.is_over(moment));
        assert!(!patience.is_over(Duration::from_millis(2900)));
        patience.came();
        assert!(!patience.is_over(moment));
    }
}
