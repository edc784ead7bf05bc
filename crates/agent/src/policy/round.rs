//! One round on one volume: look at everything, choose, carry out.
//!
//! What was chosen is carried out in slices, by several threads; before each slice the volume is asked again, so that a user
//! who makes room himself keeps his files. Every condition is checked once more by [`Port::tier`] at that moment; a file that stays
//! is left alone for a while ([`Refusals`]).

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use polder_tiering::{Endpoint, File, Lane, Policy, Stays, Victim, Volume, plan, why_stays};

use super::clock::Clock;
use super::inventory::{self, Held, Refusals, Sum, Wanted};
use super::port::Port;
use crate::tiered::{Cancel, Keep, Outcome, TieredError, TieredFile};

/// Files that are carried out between two looks at the volume.
const SLICE_FILES: usize = 512;
/// Files about which the service is asked at once. Few: between two of them a round can be ended.
const TOGETHER: usize = 16;
/// Failures in a row after which a round ends: the service or the disk is away.
const FAILURES_MAX: usize = 16;
/// Bytes that a slice frees at most, unless it is one file.
const SLICE_BYTES: u64 = 4 << 30;
const LOCK: &str = "no holder of this lock panics";

/// An endpoint of the volume.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    /// Its files.
    pub port: Arc<dyn Port>,
    /// What it wants.
    pub policy: Endpoint,
    /// What stayed lately.
    pub refusals: Arc<Mutex<Refusals>>,
}

/// What came of a round.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Rounded {
    /// Files that left, and the bytes that the disk has more.
    pub left: Sum,
    /// Files that were asked to leave and stayed.
    pub stayed: u64,
    /// Pinned files that came back.
    pub recalled: u64,
    /// Bytes that are missing to the free-space policy even if everything leaves that may.
    pub missing_bytes: u64,
    /// Whether the volume was in low disk mode.
    pub is_low: bool,
    /// Of each endpoint: what it holds, and why its files stay.
    pub held: Vec<Held>,
    /// The round ended early.
    pub failed: Option<Box<str>>,
}

/// Goes on until it is told to stop.
pub(crate) struct Hands<'a> {
    /// How many files leave at once.
    pub threads: usize,
    /// The time.
    pub clock: &'a dyn Clock,
    /// Ends the round.
    pub cancel: &'a Cancel,
}

/// Carries out one round.
pub(crate) fn round(members: &[Member], hands: &Hands<'_>) -> Result<Rounded, TieredError> {
    let Some(first) = members.first() else { return Ok(Rounded::default()) };
    let now = hands.clock.now();
    let volume = first.port.volume()?;
    let mut files = Vec::new();
    let mut policies = Vec::with_capacity(members.len());
    let mut rounded = Rounded::default();
    for (index, member) in members.iter().enumerate() {
        let mut each = |file: File, _: &TieredFile| files.push(File { endpoint: index, ..file });
        let Member { port, policy, refusals } = member;
        let held = inventory::take(&**port, policy, &volume, now, refusals, Wanted::Able, &mut each)?;
        policies.push(Endpoint { other_bytes: held.unlisted_bytes(), ..member.policy.clone() });
        rounded.held.push(held);
    }
    let plan = plan(&volume, &policies, &files, now.unix_s);
    (rounded.missing_bytes, rounded.is_low) = (plan.missing_bytes, plan.is_low);
    count_stays(&mut rounded.held, &files, &plan.victims, &volume, &policies);
    let mut work = Work { members, policies: &policies, files: &files, hands, rounded };
    work.carry_out(&plan.victims)?;
    if !plan.is_low {
        work.bring_pinned();
    }
    Ok(work.rounded)
}

/// Adds why the files of the list stay to the sums of their endpoints.
fn count_stays(
    held: &mut [Held],
    files: &[File],
    victims: &[Victim],
    volume: &Volume,
    policies: &[Endpoint],
) {
    let mut leaves = vec![false; files.len()];
    victims.iter().for_each(|victim| leaves[victim.file] = true);
    for (file, _) in files.iter().zip(leaves).filter(|(_, leaves)| !leaves) {
        held[file.endpoint].stay(why_stays(file, volume, policies), file.on_disk_bytes);
    }
}

struct Work<'a> {
    members: &'a [Member],
    policies: &'a [Endpoint],
    files: &'a [File],
    hands: &'a Hands<'a>,
    rounded: Rounded,
}

impl Work<'_> {
    fn carry_out(&mut self, victims: &[Victim]) -> Result<(), TieredError> {
        let mut rest = victims;
        let mut failures = 0;
        while !rest.is_empty() && !self.hands.cancel.is_cancelled() {
            let (slice, after) = rest.split_at(self.slice(rest));
            rest = after;
            let volume = self.members[0].port.volume()?;
            let has_room = Volume::free_percent(self.policies)
                .is_none_or(|percent| volume.free_bytes >= volume.high_mark(percent));
            // Somebody else has made room: nothing more leaves for want of it.
            let is_needed = |victim: &&Victim| victim.policy != Policy::FreeSpace || !has_room;
            let (wanted, spared): (Vec<&Victim>, Vec<&Victim>) = slice.iter().partition(is_needed);
            for victim in spared {
                let file = &self.files[victim.file];
                self.rounded.held[file.endpoint].stay(Stays::NotNeeded, file.on_disk_bytes);
            }
            let wanted: Vec<&File> = wanted.iter().map(|victim| &self.files[victim.file]).collect();
            for (file, outcome) in self.at_once(&wanted) {
                self.note(file, outcome, &mut failures);
            }
            if failures >= FAILURES_MAX {
                break;
            }
        }
        Ok(())
    }

    /// How many of the next files make a slice.
    fn slice(&self, victims: &[Victim]) -> usize {
        let mut bytes = 0u64;
        let fits = |victim: &&Victim| {
            bytes = bytes.saturating_add(self.files[victim.file].on_disk_bytes);
            bytes <= SLICE_BYTES
        };
        victims.iter().take(SLICE_FILES).take_while(fits).count().max(1)
    }

    /// Asks the files to leave, several at once; answers in no order.
    fn at_once<'f>(&self, files: &[&'f File]) -> Vec<(&'f File, Result<Outcome, TieredError>)> {
        let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::with_capacity(files.len())));
        let (members, hands) = (self.members, self.hands);
        // Few files go to several threads too: their waits for the disk are one. Of one endpoint each.
        let count = files.len().div_ceil(hands.threads.max(1)).clamp(1, TOGETHER);
        let parts: Vec<&[&File]> = files
            .chunk_by(|one, other| one.endpoint == other.endpoint)
            .flat_map(|alike| alike.chunks(count))
            .collect();
        let work = || {
            while let Some(part) = parts.get(next.fetch_add(1, Ordering::Relaxed)) {
                if hands.cancel.is_cancelled() {
                    return;
                }
                let nodes: Vec<_> = part.iter().map(|file| file.node).collect();
                let outcomes = members[part[0].endpoint].port.tier_files(&nodes);
                done.lock().expect(LOCK).extend(part.iter().copied().zip(outcomes));
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..hands.threads.min(parts.len()) {
                scope.spawn(work);
            }
            work();
        });
        done.into_inner().expect(LOCK)
    }

    fn note(&mut self, file: &File, outcome: Result<Outcome, TieredError>, failures: &mut usize) {
        let (node, now) = (file.node, self.hands.clock.now());
        let mut refusals = self.members[file.endpoint].refusals.lock().expect(LOCK);
        let held = &mut self.rounded.held[file.endpoint];
        match outcome {
            // What a placeholder takes by itself cannot be given back. Who asks it again in each round believes that it would be enough, and
            // the next one never leaves.
            Ok(Outcome::Tiered { freed_bytes: 0 }) => {
                *failures = 0;
                refusals.note(node, Stays::Tiered, now);
            }
            Ok(Outcome::Tiered { freed_bytes }) => {
                *failures = 0;
                refusals.forget(node);
                self.rounded.left =
                    (self.rounded.left.0 + 1, self.rounded.left.1.saturating_add(freed_bytes));
                held.leave(file, freed_bytes);
            }
            Ok(Outcome::Stays(why)) => {
                *failures = 0;
                self.rounded.stayed += 1;
                refusals.note(node, why, now);
                held.stay(why, file.on_disk_bytes);
            }
            // Gone meanwhile.
            Err(TieredError::NoFile) => refusals.forget(node),
            Err(error) => {
                *failures += 1;
                self.rounded.stayed += 1;
                refusals.note(node, Stays::Failed, now);
                held.stay(Stays::Failed, file.on_disk_bytes);
                self.rounded.failed = Some(crate::status::chain(&error).into());
            }
        }
    }

    /// Brings back what a person keeps here and is not; as much as fits above the free-space line.
    fn bring_pinned(&mut self) {
        for index in 0..self.members.len() {
            for node in std::mem::take(&mut self.rounded.held[index].wanted) {
                let Member { port, refusals, .. } = &self.members[index];
                let now = self.hands.clock.now();
                if self.hands.cancel.is_cancelled() || refusals.lock().expect(LOCK).of(node, now).is_some() {
                    continue;
                }
                let (Ok(file), Ok(volume)) = (port.file(node), port.volume()) else { continue };
                let line = Volume::free_percent(self.policies).map_or(0, |percent| volume.share(percent));
                let needed = file.size.saturating_sub(file.on_disk_bytes);
                if volume.free_bytes < line.saturating_add(needed) {
                    continue;
                }
                match port.recall(node, Lane::Background, Keep::Resident, self.hands.cancel) {
                    Ok(_) => self.rounded.recalled += 1,
                    Err(TieredError::NoFile | TieredError::Cancelled) => (),
                    Err(error) => {
                        refusals.lock().expect(LOCK).note(node, Stays::Failed, now);
                        self.rounded.failed = Some(crate::status::chain(&error).into());
                    }
                }
            }
        }
    }
}

impl Held {
    /// A file became a placeholder.
    fn leave(&mut self, file: &File, freed_bytes: u64) {
        self.cached_bytes = self.cached_bytes.saturating_sub(freed_bytes);
        if file.stays != Some(Stays::Tiered) {
            self.tiered_files += 1;
            self.tiered_bytes = self.tiered_bytes.saturating_add(file.size);
        } else {
            self.tiered_bytes = self.tiered_bytes.saturating_add(freed_bytes);
        }
        let sum = self.stays.entry(Stays::Tiered).or_default();
        sum.0 += 1;
    }
}
