//! How fast things move: means over the last seconds.

use std::collections::VecDeque;

/// How far back a mean looks.
const WINDOW_MS: u64 = 10_000;

/// What was moved since the start; or, of a mean, in a second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Moved {
    /// Bytes to the service.
    pub sent_bytes: u64,
    /// Bytes from the service.
    pub received_bytes: u64,
    /// Changes of this server that the share has taken.
    pub sent_nodes: u64,
    /// Changes of the share that were applied here.
    pub received_nodes: u64,
}

/// Counts of the last seconds.
#[derive(Debug, Default)]
pub(super) struct Rate {
    past: VecDeque<(u64, Moved)>,
}

impl Rate {
    /// Takes the counts of this moment; gives their means since ten seconds ago, or since the start.
    pub(super) fn a_second(&mut self, now: Moved, mono_ms: u64) -> Moved {
        while self.past.front().is_some_and(|(at, _)| at + WINDOW_MS < mono_ms) {
            self.past.pop_front();
        }
        self.past.push_back((mono_ms, now));
        let (at, then) = self.past[0];
        // What came in the first moments is not taken for a rate that holds.
        let ms = (mono_ms - at).max(1000);
        let mean = |now: u64, then: u64| now.saturating_sub(then).saturating_mul(1000) / ms;
        Moved {
            sent_bytes: mean(now.sent_bytes, then.sent_bytes),
            received_bytes: mean(now.received_bytes, then.received_bytes),
            sent_nodes: mean(now.sent_nodes, then.sent_nodes),
            received_nodes: mean(now.received_nodes, then.received_nodes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_forget_what_is_older_than_the_window() {
        let moved = |nodes| Moved { sent_nodes: nodes, ..Moved::default() };
        let mut rate = Rate::default();
        assert_eq!(rate.a_second(moved(0), 0), moved(0));
        assert_eq!(rate.a_second(moved(50), 100), moved(50), "a tenth of a second is no rate yet");
        assert_eq!(rate.a_second(moved(4_000), 4_000), moved(1_000));
        assert_eq!(rate.a_second(moved(4_000), 20_000), moved(0));
    }
}
