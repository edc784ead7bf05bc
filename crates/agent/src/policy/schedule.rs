//! When a volume is looked at. Free space is asked every second and costs nothing; a look at all files costs time, so it waits
//! for a reason: too little room, somebody's wish, or that the last one is old.
//!
//! Never spins: a round that freed nothing is followed by a wait that doubles to a minute, and no more than one part in
//! [`REST`] of the time goes into looks that nobody needs.

/// Between two looks without a reason.
const REGULAR_MS: u64 = 60_000;
/// A look that took so long is followed by a rest of so many times that.
const REST: u64 = 50;
/// First and longest wait after a round that freed nothing though room is short.
const WAIT_MS: (u64, u64) = (1_000, 60_000);

/// How much room is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// There is as much as the policy wants.
    None,
    /// Less than that is free.
    Short,
    /// The volume is in low disk mode: soon somebody waits for room.
    Low,
}

/// When the next look is due, in milliseconds of the monotone clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Schedule {
    needed_at_ms: u64,
    low_at_ms: u64,
    regular_at_ms: u64,
    wait_ms: u64,
}

impl Schedule {
    /// Whether to look now.
    pub(crate) fn is_due(&self, now_ms: u64, need: Need, is_wished: bool) -> bool {
        let is_needed = match need {
            Need::None => false,
            Need::Short => now_ms >= self.needed_at_ms,
            Need::Low => now_ms >= self.low_at_ms,
        };
        is_wished || now_ms >= self.regular_at_ms || is_needed
    }

    /// A look is over: it began then, and freed so much.
    pub(crate) fn looked(&mut self, began_ms: u64, now_ms: u64, freed_bytes: u64) {
        let took_ms = now_ms.saturating_sub(began_ms);
        self.wait_ms = match freed_bytes {
            0 => (self.wait_ms * 2).clamp(WAIT_MS.0, WAIT_MS.1),
            _ => 0,
        };
        // Also under need half of the time is left to others, but not while a volume fills: who writes now waits for what leaves.
        self.low_at_ms = now_ms + self.wait_ms.max(WAIT_MS.0);
        self.needed_at_ms = self.low_at_ms.max(now_ms + took_ms);
        self.regular_at_ms = now_ms + REGULAR_MS.max(took_ms.saturating_mul(REST));
    }

    /// There is room again: the next want of it is not the old one.
    pub(crate) fn has_room(&mut self) {
        self.wait_ms = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_that_frees_nothing_is_not_repeated_at_once() {
        let mut schedule = Schedule::default();
        let (mut now, mut looks) = (0, 0);
        while now < 3_600_000 {
            if schedule.is_due(now, Need::Low, false) {
                looks += 1;
                schedule.looked(now, now + 10, 0);
            }
            now += 1_000;
        }
        assert!((60..75).contains(&looks), "{looks} looks in an hour without room");
    }

    #[test]
    fn need_is_answered_within_seconds() {
        let mut schedule = Schedule::default();
        schedule.looked(0, 100, 0);
        assert!(!schedule.is_due(30_000, Need::None, false));
        assert!(schedule.is_due(30_000, Need::Short, false));
        schedule.looked(30_000, 30_500, 1);
        assert!(!schedule.is_due(31_000, Need::Short, false), "others get a second");
        assert!(schedule.is_due(31_500, Need::Short, false));
        schedule.looked(40_000, 49_000, 1);
        assert!(!schedule.is_due(57_999, Need::Short, false), "half of the time is for others");
        assert!(schedule.is_due(50_000, Need::Low, false), "unless the volume fills");
        assert!(schedule.is_due(30_600, Need::None, true), "a wish is carried out at once");
    }

    #[test]
    fn what_nobody_needs_takes_little_of_the_time() {
        let mut schedule = Schedule::default();
        schedule.looked(0, 10_000, 5);
        assert!(!schedule.is_due(500_000, Need::None, false));
        assert!(schedule.is_due(510_000, Need::None, false));
        schedule.has_room();
        assert!(schedule.is_due(20_000, Need::Short, false));
    }
}
