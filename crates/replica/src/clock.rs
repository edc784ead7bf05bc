//! How finely the kernel's change times tell two changes apart.
//!
//! Before Linux 6.13 a file's times move in steps of the timer tick (up to 10 ms): a change in the same tick as a look
//! leaves no trace. Since then the first change after a `statx` gets a time of its own (ext4, XFS, btrfs, tmpfs).

use std::sync::OnceLock;
use std::time::Duration;

use polder_types::Timestamp;
use rustix::time::{ClockId, clock_gettime};

/// Returns once a change made from now on cannot get the same time as `ctime`: at once, unless the kernel's times are
/// coarse and the file was changed within the last tick.
pub(crate) fn let_pass(ctime: Timestamp) {
    if times_are_fine() {
        return;
    }
    // Bounded, in case the clock was set back and `ctime` lies in the future: 20 ms are two of the longest ticks.
    for _ in 0..20 {
        let now = clock_gettime(ClockId::RealtimeCoarse);
        if (now.tv_sec, now.tv_nsec) > (ctime.secs, ctime.nanos.into()) {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn times_are_fine() -> bool {
    static FINE: OnceLock<bool> = OnceLock::new();
    *FINE.get_or_init(|| {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let mut numbers =
            release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0u32));
        (numbers.next(), numbers.next()) >= (Some(6), Some(13))
    })
}
