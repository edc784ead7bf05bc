//! A moment in nanoseconds, as file systems keep it.

use serde::{Deserialize, Serialize};

/// Seconds and nanoseconds since 1970; before 1970 the seconds are negative and the nanoseconds still count upward.
///
/// A file's time is data: it may lie in any year. Nothing is ordered by it but which of two conflicting contents
/// keeps a name (promise I15).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Timestamp {
    /// Whole seconds since 1970-01-01T00:00:00Z.
    pub secs: i64,
    /// Nanoseconds after `secs`; below 1,000,000,000.
    pub nanos: u32,
}

impl Timestamp {
    /// A moment; nanoseconds above the second are cut to its last nanosecond.
    pub fn new(secs: i64, nanos: u32) -> Self {
        Self { secs, nanos: nanos.min(999_999_999) }
    }

    /// Nanoseconds since 1970, saturated at the range of `i64` (years 1677 to 2262).
    pub fn as_nanos_saturated(self) -> i64 {
        self.secs.saturating_mul(1_000_000_000).saturating_add(i64::from(self.nanos))
    }

    /// The moment `millis` milliseconds after 1970.
    pub fn from_unix_millis(millis: u64) -> Self {
        Self { secs: (millis / 1000) as i64, nanos: (millis % 1000) as u32 * 1_000_000 }
    }
}
