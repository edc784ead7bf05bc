//! After a namespace-first download: what came as names alone is fetched in the lowest lane, newest first, until all of it is here or the
//! volume has no more room above its free-space line.
//!
//! The newest [`PART_FILES`] placeholders are taken at a time, so that memory does not grow with the endpoint. What a policy would tier
//! again at once is left where it is. Once it is over the endpoint notes so, and it never begins again: a file that left by a policy
//! stays away.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex};

use polder_tiering::{Endpoint, File, Lane, Stays, Volume, leaves_again};
use polder_types::NodeUid;

use super::clock::Clock;
use super::inventory::{self, Wanted};
use super::volume::Seat;
use crate::tiered::{Cancel, Keep, Residency, TieredError, TieredFile};

/// Placeholders that are chosen together.
const PART_FILES: usize = 1024;
/// Files at once: as many as the lowest lane has fetches.
const THREADS: usize = 4;
/// First and longest wait while the share cannot be reached.
const WAIT_MS: (u64, u64) = (1_000, 60_000);
/// Failures in a row after which a part ends: the share is away.
const FAILURES_MAX: usize = 4;

const LOCK: &str = "no holder of this lock panics";

/// What is remembered of a volume's background recalls between ticks.
#[derive(Debug, Default)]
pub(crate) struct Background {
    not_before_ms: u64,
    wait_ms: u64,
}

/// What came of one part.
#[derive(Debug, Default)]
struct Part {
    files: u64,
    bytes: u64,
    /// Something did not fit above the free-space line, or into the quota.
    is_full: bool,
    /// Failures in a row.
    failures: usize,
    why: Option<TieredError>,
    /// Bytes that are on their way.
    reserved: u64,
    /// Files that were begun or passed over: the next one is the newest of the others.
    begun: usize,
}

impl Part {
    fn is_over(&self) -> bool {
        self.failures >= FAILURES_MAX
    }
}

impl Background {
    /// Once a second: a part of each endpoint of the volume whose names came first.
    pub(crate) fn tick(&mut self, seats: &[Seat], clock: &dyn Clock, cancel: &Cancel) {
        for index in 0..seats.len() {
            let desk = &seats[index].desk;
            if !desk.is_background_due() || clock.now().mono_ms < self.not_before_ms {
                continue;
            }
            match part(seats, index, clock, cancel) {
                Ok((part, is_last)) => {
                    let Part { files, bytes, is_full, .. } = part;
                    self.wait_ms = 0;
                    if is_last && !cancel.is_cancelled() {
                        desk.brought();
                        tracing::info!(files, bytes, is_full, "the background recall is over");
                    } else {
                        tracing::info!(files, bytes, "files were recalled in the background");
                    }
                }
                Err(error) => {
                    self.wait_ms = (self.wait_ms * 2).clamp(WAIT_MS.0, WAIT_MS.1);
                    self.not_before_ms = clock.now().mono_ms + self.wait_ms;
                    tracing::info!(error = crate::status::chain(&error), "the background recall waits");
                }
            }
        }
    }
}

/// Recalls the newest placeholders of an endpoint. `true`: nothing is left to be done.
fn part(
    seats: &[Seat],
    index: usize,
    clock: &dyn Clock,
    cancel: &Cancel,
) -> Result<(Part, bool), TieredError> {
    let seat = &seats[index];
    let policies: Vec<Endpoint> = seats.iter().map(|seat| seat.desk.wants()).collect();
    let policy = &policies[index];
    if !policy.tiering {
        // All of it comes back by other ways.
        return Ok((Part::default(), true));
    }
    let (now, volume) = (clock.now(), seat.port.volume()?);
    let mut newest: BTreeMap<(i64, NodeUid), u64> = BTreeMap::new();
    let mut count = 0usize;
    let mut each = |file: File, shown: &TieredFile| {
        let may_come = matches!(file.stays, Some(Stays::Tiered | Stays::Pinned));
        if matches!(shown.residency, Residency::Tiered { .. })
            && may_come
            && !leaves_again(&file, policy, now.unix_s)
        {
            count += 1;
            newest.insert((shown.mtime_s, shown.node), shown.size.saturating_sub(shown.on_disk_bytes));
            if newest.len() > PART_FILES {
                newest.pop_first();
            }
        }
    };
    let refusals = &seat.desk.refusals;
    let held = inventory::take(&*seat.port, policy, &volume, now, refusals, Wanted::All, &mut each)?;
    let room = policy.quota_bytes.map_or(u64::MAX, |quota| quota.saturating_sub(held.cached_bytes));
    let line = Volume::free_percent(&policies).map_or(0, |percent| volume.share(percent));
    let items: Vec<(NodeUid, u64)> =
        newest.into_iter().rev().map(|((_, node), needed)| (node, needed)).collect();
    let threads = THREADS.min(items.len());
    let work = Work { seat, items, line, room, clock, cancel, part: Mutex::default(), came: Condvar::new() };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some((node, needed)) = work.next() {
                    work.recall(node, needed);
                }
            });
        }
    });
    let mut part = work.part.into_inner().expect(LOCK);
    match part.why.take() {
        Some(why) if part.is_over() => Err(why),
        // One that failed because the share was away for a moment is in the next part.
        Some(_) => Ok((part, false)),
        None => {
            let is_last = part.is_full || count <= PART_FILES;
            Ok((part, is_last))
        }
    }
}

struct Work<'a> {
    seat: &'a Seat,
    /// The newest first, with the bytes that each of them lacks.
    items: Vec<(NodeUid, u64)>,
    /// Bytes of the volume that stay free.
    line: u64,
    /// Bytes that the endpoint may hold more than it did.
    room: u64,
    clock: &'a dyn Clock,
    cancel: &'a Cancel,
    part: Mutex<Part>,
    /// Something on its way has come, or has not.
    came: Condvar,
}

impl Work<'_> {
    /// The newest file that was not begun and for which there is room, now reserved for it. `None`: no more.
    ///
    /// Chosen and reserved under one lock: an older file never takes the room of a newer one that merely asks a moment later.
    fn next(&self) -> Option<(NodeUid, u64)> {
        let mut part = self.part.lock().expect(LOCK);
        loop {
            if self.cancel.is_cancelled() || part.is_over() {
                return None;
            }
            let (node, needed) = *self.items.get(part.begun)?;
            // Asked under the lock: nothing that has come meanwhile counts as room.
            let volume = self.seat.port.volume().ok()?;
            let on_its_way = part.reserved.saturating_add(needed);
            if volume.free_bytes >= self.line.saturating_add(on_its_way)
                && part.bytes.saturating_add(on_its_way) <= self.room
            {
                part.reserved = on_its_way;
                part.begun += 1;
                return Some((node, needed));
            }
            if part.reserved > 0 {
                // What is on its way may be on the disk by now: counted twice, until it has come.
                part = self.came.wait(part).expect(LOCK);
            } else {
                part.is_full = true;
                part.begun += 1;
            }
        }
    }

    /// Recalls one file, for which there is room.
    fn recall(&self, node: NodeUid, needed: u64) {
        let outcome = self.seat.port.recall(node, Lane::Background, Keep::Resident, self.cancel);
        let mut part = self.part.lock().expect(LOCK);
        part.reserved = part.reserved.saturating_sub(needed);
        self.came.notify_all();
        let refuse = || {
            let now = self.clock.now();
            self.seat.desk.refusals.lock().expect(LOCK).note(node, Stays::Failed, now);
        };
        match outcome {
            Ok(recalled) => {
                part.failures = 0;
                part.bytes = part.bytes.saturating_add(recalled.fetched_bytes);
                match recalled.residency {
                    Residency::Resident => part.files += 1,
                    _ => refuse(),
                }
            }
            Err(TieredError::NoFile | TieredError::Cancelled) => (),
            Err(TieredError::NoSpace) => part.is_full = true,
            Err(error @ (TieredError::Share(_) | TieredError::NotMounted)) => {
                part.failures += 1;
                part.why = Some(error);
            }
            // Damaged, or the disk refuses it: whoever reads it is told.
            Err(_) => refuse(),
        }
    }
}
