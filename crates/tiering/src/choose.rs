//! Who leaves, in which order, for which policy; and who comes back.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use polder_types::NodeUid;

use crate::heat::Heat;
use crate::policy::{Endpoint, Policy, Stays, Volume, file_bytes_min};
use crate::rules::RuleAction;

/// The reserve beyond the free-space policy takes nothing that was used in so many seconds: a week.
const RESERVE_IDLE_S: u64 = 7 * 86_400;

/// What is known of a file without opening it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Index of its endpoint.
    pub endpoint: usize,
    /// Which node.
    pub node: NodeUid,
    /// Size in bytes.
    pub size: u64,
    /// Bytes that it takes on the disk.
    pub on_disk_bytes: u64,
    /// How warm it is.
    pub heat: Heat,
    /// What the endpoint's rules say of it: [`crate::Rules::of`], asked while its path was at hand, so that a million files
    /// cost no paths.
    pub rule: Option<RuleAction>,
    /// What forbids that it leaves, as far as the caller knows; of every placeholder [`Stays::Tiered`].
    pub stays: Option<Stays>,
}

/// A file that is to leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Victim {
    /// Index of the file.
    pub file: usize,
    /// Which policy wants it.
    pub policy: Policy,
}

/// What is to leave, and why the rest stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// In order.
    pub victims: Vec<Victim>,
    /// Files and their bytes on disk, by the reason why they stay.
    pub stays: BTreeMap<Stays, (u64, u64)>,
    /// Bytes that the victims free.
    pub freed_bytes: u64,
    /// Bytes that are missing to the free-space policy even then.
    pub missing_bytes: u64,
    /// Whether the volume is in low disk mode.
    pub is_low: bool,
}

/// A file in the order of leaving, with what is said of it now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed {
    /// Index of the file.
    pub file: usize,
    /// The policy that wants it now, or why it stays.
    pub verdict: Result<Policy, Stays>,
}

/// Coldest first; of equals the one that frees more, then by id, so that two runs agree.
fn order(file: &File) -> (Heat, Reverse<u64>, NodeUid) {
    (file.heat, Reverse(file.on_disk_bytes), file.node)
}

/// Why a file may not leave whatever a policy wants.
fn stays(file: &File, volume: &Volume, endpoints: &[Endpoint]) -> Option<Stays> {
    let Some(endpoint) = endpoints.get(file.endpoint).filter(|endpoint| endpoint.tiering) else {
        return Some(Stays::TieringOff);
    };
    match file.stays {
        // Pieces that were read and not made whole: they are given back like whole files.
        Some(Stays::Tiered) if file.on_disk_bytes > volume.cluster_bytes.saturating_mul(2) => (),
        Some(_) => return file.stays,
        None if file.size < file_bytes_min(volume.cluster_bytes).max(endpoint.file_bytes_min) => {
            return Some(Stays::TooSmall);
        }
        None if file.on_disk_bytes < file.size / 8 || file.on_disk_bytes == 0 => return Some(Stays::Sparse),
        None => (),
    }
    (file.rule == Some(RuleAction::Keep)).then_some(Stays::Rule)
}

struct Choice<'a> {
    files: &'a [File],
    taken: BTreeMap<usize, Policy>,
    victims: Vec<Victim>,
    freed_bytes: u64,
}

impl Choice<'_> {
    fn take(&mut self, file: usize, policy: Policy) {
        if self.taken.insert(file, policy).is_none() {
            self.victims.push(Victim { file, policy });
            self.freed_bytes = self.freed_bytes.saturating_add(self.files[file].on_disk_bytes);
        }
    }
}

/// Chooses who leaves. `files` are the files of all endpoints of the volume, tiered ones too; those that are certain to stay may
/// be left out, their bytes counted in [`Endpoint::other_bytes`].
pub fn plan(volume: &Volume, endpoints: &[Endpoint], files: &[File], now_s: i64) -> Plan {
    let (mut able, mut why) = (Vec::new(), BTreeMap::<Stays, (u64, u64)>::new());
    let mut count = |reason, file: &File| {
        let entry = why.entry(reason).or_default();
        *entry = (entry.0 + 1, entry.1.saturating_add(file.on_disk_bytes));
    };
    for (index, file) in files.iter().enumerate() {
        match stays(file, volume, endpoints) {
            Some(reason) => count(reason, file),
            None => able.push(index),
        }
    }
    able.sort_by_cached_key(|index| order(&files[*index]));
    let mut choice = Choice { files, taken: BTreeMap::new(), victims: Vec::new(), freed_bytes: 0 };
    by_age(&mut choice, &able, endpoints, now_s);
    by_quota(&mut choice, &able, endpoints);
    let is_low = volume.is_low(endpoints);
    let missing_bytes = by_free_space(&mut choice, &able, volume, endpoints, (is_low, now_s));
    for index in able.iter().filter(|index| !choice.taken.contains_key(index)) {
        count(Stays::NotNeeded, &files[*index]);
    }
    let Choice { victims, freed_bytes, .. } = choice;
    Plan { victims, stays: why, freed_bytes, missing_bytes, is_low }
}

/// Rules and the date policy: per file, as soon as it is able to leave.
fn by_age(choice: &mut Choice<'_>, able: &[usize], endpoints: &[Endpoint], now_s: i64) {
    for index in able {
        let file = &choice.files[*index];
        let (endpoint, idle) = (&endpoints[file.endpoint], file.heat.idle_s(now_s));
        match file.rule {
            Some(RuleAction::Tier { idle_s }) if idle >= idle_s => choice.take(*index, Policy::Rule),
            _ if endpoint.idle_s.is_some_and(|idle_s| idle >= idle_s) => choice.take(*index, Policy::Date),
            _ => (),
        }
    }
}

fn by_quota(choice: &mut Choice<'_>, able: &[usize], endpoints: &[Endpoint]) {
    for (number, endpoint) in endpoints.iter().enumerate().filter(|(_, endpoint)| endpoint.tiering) {
        let Some(quota) = endpoint.quota_bytes else { continue };
        let mine = |file: &&File| file.endpoint == number;
        let all: u64 = choice
            .files
            .iter()
            .filter(mine)
            .fold(endpoint.other_bytes, |sum, file| sum.saturating_add(file.on_disk_bytes));
        let taken = choice.victims.iter().map(|victim| &choice.files[victim.file]).filter(mine);
        let mut left = taken.fold(all, |left, file| left.saturating_sub(file.on_disk_bytes));
        for index in able.iter().filter(|index| choice.files[**index].endpoint == number) {
            if left <= quota {
                break;
            }
            if !choice.taken.contains_key(index) {
                left = left.saturating_sub(choice.files[*index].on_disk_bytes);
                choice.take(*index, Policy::Quota);
            }
        }
    }
}

/// Bytes that are still missing to the policy.
fn by_free_space(
    choice: &mut Choice<'_>,
    able: &[usize],
    volume: &Volume,
    endpoints: &[Endpoint],
    (is_low, now_s): (bool, i64),
) -> u64 {
    let Some(percent) = Volume::free_percent(endpoints) else { return 0 };
    let (line, high) = (volume.share(percent), volume.high_mark(percent));
    let free = |choice: &Choice<'_>| volume.free_bytes.saturating_add(choice.freed_bytes);
    let waits = !is_low && endpoints.iter().any(|endpoint| endpoint.tiering && !endpoint.is_uploaded);
    // The mark is the low one until it is crossed: what other policies have freed may be enough.
    if free(choice) < line && !waits {
        for index in able {
            if choice.taken.contains_key(index) {
                continue;
            }
            let after = free(choice).saturating_add(choice.files[*index].on_disk_bytes);
            // Beyond the line only what is cold and fits below the high mark: a reserve is a convenience.
            let is_cold = choice.files[*index].heat.idle_s(now_s) >= RESERVE_IDLE_S;
            if free(choice) >= line && (after > high || !is_cold) {
                break;
            }
            choice.take(*index, Policy::FreeSpace);
        }
    }
    line.saturating_sub(free(choice))
}

/// Why a file does not leave that no policy wants now.
pub fn why_stays(file: &File, volume: &Volume, endpoints: &[Endpoint]) -> Stays {
    stays(file, volume, endpoints).unwrap_or(Stays::NotNeeded)
}

/// Everything in the order of leaving: what a policy wants now, then by heat, with why each of the others stays.
pub fn listed(volume: &Volume, endpoints: &[Endpoint], files: &[File], now_s: i64) -> Vec<Listed> {
    let plan = plan(volume, endpoints, files, now_s);
    let wanted: BTreeMap<usize, Policy> =
        plan.victims.iter().map(|victim| (victim.file, victim.policy)).collect();
    let mut rest: Vec<usize> = (0..files.len()).filter(|index| !wanted.contains_key(index)).collect();
    rest.sort_by_cached_key(|index| order(&files[*index]));
    let first = plan.victims.iter().map(|victim| Listed { file: victim.file, verdict: Ok(victim.policy) });
    let rest = rest.into_iter().map(|index| Listed {
        file: index,
        verdict: Err(stays(&files[index], volume, endpoints).unwrap_or(Stays::NotNeeded)),
    });
    first.chain(rest).collect()
}

/// Whether a rule or the date policy of its endpoint would tier a file again that came back now.
pub fn leaves_again(file: &File, endpoint: &Endpoint, now_s: i64) -> bool {
    let idle = file.heat.idle_s(now_s);
    match file.rule {
        Some(RuleAction::Keep) => false,
        Some(RuleAction::Tier { idle_s }) if idle >= idle_s => true,
        _ => endpoint.idle_s.is_some_and(|idle_s| idle >= idle_s),
    }
}

/// Tiered files that may come back, warmest first: no policy would tier them again at once. The free-space line and the
/// quotas end it.
pub fn recall_order(volume: &Volume, endpoints: &[Endpoint], files: &[File], now_s: i64) -> Vec<usize> {
    let line = Volume::free_percent(endpoints).map_or(0, |percent| volume.share(percent));
    let mut room = volume.free_bytes.saturating_sub(line);
    let mut held: Vec<u64> = endpoints.iter().map(|endpoint| endpoint.other_bytes).collect();
    let mut tiered = Vec::new();
    for (index, file) in files.iter().enumerate() {
        if let Some(held) = held.get_mut(file.endpoint) {
            *held = held.saturating_add(file.on_disk_bytes);
            if file.stays == Some(Stays::Tiered) {
                tiered.push(index);
            }
        }
    }
    tiered.sort_by_cached_key(|index| Reverse((files[*index].heat, files[*index].node)));
    tiered.retain(|index| {
        let file = &files[*index];
        let endpoint = &endpoints[file.endpoint];
        let leaves_again = leaves_again(file, endpoint, now_s);
        let needed = file.size.saturating_sub(file.on_disk_bytes);
        let held = &mut held[file.endpoint];
        let fits =
            needed <= room && endpoint.quota_bytes.is_none_or(|quota| held.saturating_add(needed) <= quota);
        if !leaves_again && fits {
            room -= needed;
            *held = held.saturating_add(needed);
        }
        !leaves_again && fits
    });
    tiered
}
