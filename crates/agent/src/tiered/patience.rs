//! How long those who want bytes wait for the share.
//!
//! The first to meet a share that cannot be reached wait for it: it may be restarting. When that was in vain, it is away, and whoever asks until
//! something comes from it again waits a moment only. Else a program that reads on after an error (`rsync` does, and then once more) waits half a
//! minute for each piece of each file.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long a program waits for bytes that do not come; then it gets an error.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// The same while the share is known to be away. Long enough for a new session, which is tried twice a second while somebody waits; the first bytes end this.
const WAIT_AWAY_MAX: Duration = Duration::from_secs(3);

/// What is known of the share's absence.
#[derive(Debug, Default)]
pub(super) struct Patience {
    is_away: AtomicBool,
}

impl Patience {
    /// Whether who has waited for so long is to wait no more. It may become so at any moment.
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

#[cfg(test)]
mod tests {
    use super::*;

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
