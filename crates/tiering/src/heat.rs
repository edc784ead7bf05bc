//! How warm a file is: a score that halves every week, kept as a moment.
//!
//! With one half-life for all, the order of two decaying scores never changes by itself. So what is kept is the
//! moment `warm` at which a single use would have made a file as warm as this one. Integers only: every machine, and
//! the simulator, orders alike.

use polder_types::{DecodeError, Reader};

/// Seconds in which a score halves. A week is the rhythm of people's work.
const HALF_LIFE_S: i64 = 7 * 24 * 3600;
/// Uses that are closer than this are one.
const USE_S: i64 = 600;
/// A score is at most 2⁴: nothing outranks a fresh use for more than this many half-lives after its last use.
const SCORE_LOG2_MAX: i64 = 4;
/// `1024 · log2(1 + 2^(−k/2))`: what an older score adds to a fresh use, by its age in half half-lives.
const GAIN: [i64; 18] = [1024, 790, 599, 447, 330, 240, 174, 125, 90, 64, 45, 32, 23, 16, 11, 8, 6, 0];

/// Bytes of a record.
pub const RECORD_BYTES: usize = 12;

/// Heat of one file. Greater is warmer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Heat {
    /// A file that was used once, at this second since 1970, is as warm.
    warm_s: i64,
    /// Second of the last use.
    used_s: u32,
}

impl Heat {
    /// Heat of a file without a record: as if used once when it last changed. A time in the future is now.
    pub fn of_times(mtime_s: i64, ctime_s: i64, now_s: i64) -> Self {
        let at = mtime_s.max(ctime_s).min(now_s);
        Self { warm_s: at, used_s: seconds(at) }
    }

    /// After a use that counts.
    #[must_use]
    pub fn used(self, now_s: i64) -> Self {
        // A clock that was set back: the record is not worth more than a use now.
        let ceiling = now_s.saturating_add(SCORE_LOG2_MAX * HALF_LIFE_S);
        let (warm_s, used_s) = (self.warm_s.min(ceiling), i64::from(self.used_s).min(now_s));
        if now_s - used_s < USE_S && used_s > 0 && warm_s >= used_s {
            return Self { warm_s, used_s: seconds(used_s) };
        }
        let (later, earlier) = (warm_s.max(now_s), warm_s.min(now_s));
        let warm_s = later.saturating_add(gain(later - earlier)).min(ceiling);
        Self { warm_s, used_s: seconds(now_s) }
    }

    /// Second of the last use, for the date policy.
    pub fn used_s(self) -> i64 {
        self.used_s.into()
    }

    /// Seconds without a use.
    pub fn idle_s(self, now_s: i64) -> u64 {
        now_s.saturating_sub(self.used_s.into()).max(0).unsigned_abs()
    }

    /// What is kept of it: `warm`, and the second of the last use.
    pub fn parts(self) -> (i64, u32) {
        (self.warm_s, self.used_s)
    }

    /// From what was kept.
    pub fn from_parts(warm_s: i64, used_s: u32) -> Self {
        Self { warm_s, used_s }
    }

    /// The record: `warm`, last use; little-endian.
    pub fn encode(self) -> [u8; RECORD_BYTES] {
        let mut out = [0; RECORD_BYTES];
        out[..8].copy_from_slice(&self.warm_s.to_le_bytes());
        out[8..].copy_from_slice(&self.used_s.to_le_bytes());
        out
    }

    /// Reads a record.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let warm = reader.raw(8)?.try_into().map_err(|_| DecodeError::Short)?;
        let used = reader.raw(4)?.try_into().map_err(|_| DecodeError::Short)?;
        reader.end()?;
        Ok(Self { warm_s: i64::from_le_bytes(warm), used_s: u32::from_le_bytes(used) })
    }
}

fn seconds(at: i64) -> u32 {
    u32::try_from(at.max(0)).unwrap_or(u32::MAX)
}

/// Seconds that a score of age `gap` adds; linear between the points of the table.
fn gain(gap: i64) -> i64 {
    let half = HALF_LIFE_S / 2;
    let at = (gap / half).max(0);
    let (Ok(index), rest) = (usize::try_from(at), gap % half) else { return 0 };
    let (Some(from), Some(to)) = (GAIN.get(index), GAIN.get(index + 1)) else { return 0 };
    (from * half + (to - from) * rest) / half * HALF_LIFE_S / 1024
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: i64 = 86_400;
    const NOW: i64 = 1_700_000_000;

    fn once(at: i64) -> Heat {
        Heat::of_times(at, at, NOW)
    }

    #[test]
    fn frequency_adds_to_recency() {
        let daily = (0..7).fold(once(NOW - 400 * DAY), |heat, day| heat.used(NOW - (8 - day) * DAY));
        assert!(daily > once(NOW - DAY), "seven uses last week are warmer than one yesterday");
        assert!(daily > once(NOW), "and even than one now");
        assert!(daily < once(NOW).used(NOW + 30 * DAY), "but not for ever");
    }

    #[test]
    fn a_loop_is_one_use() {
        let first = once(NOW - 100 * DAY).used(NOW);
        let looped = (0..500).fold(first, |heat, _| heat.used(NOW + 5));
        assert_eq!(looped, first);
    }

    #[test]
    fn a_clock_set_back_leaves_no_eternal_heat() {
        let wild = once(NOW).used(NOW + 100 * 365 * DAY);
        assert!(wild.used(NOW) <= Heat { warm_s: NOW + 4 * HALF_LIFE_S, used_s: u32::MAX });
        assert_eq!(Heat::of_times(NOW + 9 * DAY, 0, NOW), once(NOW));
    }

    #[test]
    fn the_record_is_twelve_bytes() {
        let heat = once(NOW - 5).used(NOW + DAY);
        assert_eq!(Heat::decode(&heat.encode()), Ok(heat));
        assert!(Heat::decode(&[0; 11]).is_err() && Heat::decode(&[0; 13]).is_err());
    }

    proptest! {
        #[test]
        fn a_use_never_cools_and_stays_bounded(warm in any::<i64>(), used in any::<u32>(), now in 1i64..1 << 33) {
            let before = Heat { warm_s: warm, used_s: used };
            let after = before.used(now);
            prop_assert!(after.warm_s <= now + SCORE_LOG2_MAX * HALF_LIFE_S);
            prop_assert!(after.warm_s >= warm.min(now));
            prop_assert!(after.used_s() <= now.min(u32::MAX.into()));
        }

        #[test]
        fn who_is_warmer_stays_warmer_after_the_same_use(a in 0i64..NOW, b in 0i64..NOW, later in 700i64..DAY * 50) {
            let (a, b) = (once(a.min(b)), once(a.max(b)));
            prop_assert!(a.used(NOW + later).warm_s <= b.used(NOW + later).warm_s + 1);
        }
    }
}
