//! A volume with the endpoints on it: asked every second, looked at when that is due.

use std::sync::Arc;

use polder_tiering::{Endpoint, Volume};

use super::clock::Clock;
use super::desk::{Desk, Looked};
use super::inventory::Held;
use super::port::Port;
use super::round::{Hands, Member, Rounded, round};
use super::schedule::{Need, Schedule};
use crate::tiered::Cancel;

/// Files that leave at once. Each waits for the disk and for the service's word on its packs.
const THREADS: usize = 8;
const LOCK: &str = "no holder of this lock panics";

/// An endpoint on the volume.
#[derive(Debug, Clone)]
pub(crate) struct Seat {
    /// Its files.
    pub port: Arc<dyn Port>,
    /// Its settings, its book, and what is told of it.
    pub desk: Arc<Desk>,
}

impl Seat {
    /// As a round takes it.
    pub(crate) fn member(&self, policy: Endpoint) -> Member {
        Member { port: Arc::clone(&self.port), policy, refusals: Arc::clone(&self.desk.refusals) }
    }
}

/// What is remembered of a volume between ticks.
#[derive(Debug, Default)]
pub(crate) struct Keeper {
    schedule: Schedule,
    said_low: bool,
}

impl Keeper {
    /// Once a second: tells the books of low disk mode, and carries out a round when one is due. `None`: none was.
    pub(crate) fn tick(&mut self, seats: &[Seat], clock: &dyn Clock, cancel: &Cancel) -> Option<Rounded> {
        let first = seats.first()?;
        let policies: Vec<_> = seats.iter().map(|seat| seat.desk.wants()).collect();
        let volume = first.port.volume().ok()?;
        let is_low = volume.is_low(&policies);
        for seat in seats {
            seat.desk.book.set_low(is_low);
            seat.desk.refusals.lock().expect(LOCK).set_low(is_low);
        }
        let is_short =
            Volume::free_percent(&policies).is_some_and(|percent| volume.free_bytes < volume.share(percent));
        let need = match (is_low, is_short) {
            (true, _) => Need::Low,
            (false, true) => Need::Short,
            (false, false) => Need::None,
        };
        if need == Need::None {
            self.schedule.has_room();
        }
        // Every wish is taken, not only the first.
        let is_wished = seats.iter().filter(|seat| seat.desk.take_wish()).count() > 0;
        let began = clock.now();
        if !self.schedule.is_due(began.mono_ms, need, is_wished) {
            return None;
        }
        self.say_low(is_low, &volume);
        let members: Vec<Member> =
            seats.iter().zip(policies).map(|(seat, policy)| seat.member(policy)).collect();
        let hands = Hands { threads: THREADS, clock, cancel };
        let outcome = round(&members, &hands);
        let now = clock.now();
        let freed_bytes = outcome.as_ref().map_or(0, |rounded| rounded.left.1);
        self.schedule.looked(began.mono_ms, now.mono_ms, freed_bytes);
        match outcome {
            Ok(mut rounded) => {
                told(&rounded, now.mono_ms.saturating_sub(began.mono_ms));
                for (seat, held) in seats.iter().zip(std::mem::take(&mut rounded.held)) {
                    seat.desk.looked(looked(&rounded, held, now.unix_s));
                }
                Some(rounded)
            }
            Err(error) => {
                tracing::info!(error = crate::status::chain(&error), "a volume cannot be looked at now");
                None
            }
        }
    }

    fn say_low(&mut self, is_low: bool, volume: &Volume) {
        if is_low != self.said_low {
            self.said_low = is_low;
            match is_low {
                true => tracing::warn!(
                    free_bytes = volume.free_bytes,
                    "low disk mode: recalls are served without being kept"
                ),
                false => tracing::info!(free_bytes = volume.free_bytes, "low disk mode is over"),
            }
        }
    }
}

fn looked(rounded: &Rounded, held: Held, at_s: i64) -> Looked {
    Looked {
        at_s,
        held,
        is_low: rounded.is_low,
        missing_bytes: rounded.missing_bytes,
        failed: rounded.failed.clone(),
    }
}

fn told(rounded: &Rounded, took_ms: u64) {
    let (files, bytes) = rounded.left;
    if files + rounded.stayed + rounded.recalled > 0 {
        let failed = rounded.failed.as_deref();
        tracing::info!(
            files,
            bytes,
            stayed = rounded.stayed,
            recalled = rounded.recalled,
            missing_bytes = rounded.missing_bytes,
            took_ms,
            failed,
            "files were tiered"
        );
    }
}
