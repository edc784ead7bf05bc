//! What lies on a volume: everything that may leave, and sums of the rest.
//!
//! Pages of files are joined with pages of heat, both in the order of node ids. Only files that may leave are kept, without
//! their paths: a million of them take some 80 MB, everything else nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Mutex;

use polder_tiering::{Endpoint, File, Heat, Stays, Volume, file_bytes_min};
use polder_types::{NodeUid, RelPath};

use super::clock::Moment;
use super::port::Port;
use crate::tiered::{Residency, TieredError, TieredFile};

/// Files of a page.
const PAGE_FILES: usize = 4096;
/// Refusals that are remembered.
const REFUSALS_MAX: usize = 100_000;
/// First and longest time for which a file is left alone that did not leave.
const REFUSAL_MS: (u64, u64) = (5_000, 600_000);
/// The longest in low disk mode, where each file that may leave by now is missing.
const REFUSAL_LOW_MS: u64 = 60_000;
/// Tiered files below a pin that are told of; the next inventory finds more.
const WANTED_MAX: usize = 1024;

const LOCK: &str = "no holder of this lock panics";

/// Files and their bytes on the disk.
pub(crate) type Sum = (u64, u64);

/// What an endpoint holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Held {
    /// Files in all.
    pub files: u64,
    /// Bytes on the disk.
    pub cached_bytes: u64,
    /// Placeholders.
    pub tiered_files: u64,
    /// Bytes of placeholders that are not on the disk.
    pub tiered_bytes: u64,
    /// Files whose bytes cannot be had: their mark is damaged.
    pub orphaned_files: u64,
    /// Files that were left out of the list, by the reason why they stay.
    pub stays: BTreeMap<Stays, Sum>,
    /// Placeholders that a person keeps here: they are to come back.
    pub wanted: Vec<NodeUid>,
}

/// Files of an endpoint that did not leave when they were asked to, and until when they are left alone.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    of: HashMap<NodeUid, Refusal>,
    is_low: bool,
}

#[derive(Debug, Clone, Copy)]
struct Refusal {
    why: Stays,
    until_ms: u64,
    wait_ms: u64,
}

impl Refusals {
    /// In low disk mode nothing is left alone for long.
    pub(crate) fn set_low(&mut self, is_low: bool) {
        self.is_low = is_low;
    }

    /// What failed for want of the service may not fail now.
    pub(crate) fn forget_failures(&mut self) {
        self.of.retain(|_, refusal| refusal.why != Stays::Failed);
    }

    /// A file stayed. Each time in succession it is left alone twice as long.
    pub(crate) fn note(&mut self, node: NodeUid, why: Stays, now: Moment) {
        let last = self.of.get(&node).map_or(REFUSAL_MS.0 / 2, |refusal| refusal.wait_ms);
        let wait_ms = (last * 2).min(REFUSAL_MS.1);
        if self.of.len() >= REFUSALS_MAX {
            // Those whose time is over first; if that is none, all: they are asked again, which costs time alone.
            self.of.retain(|_, refusal| refusal.until_ms > now.mono_ms);
            if self.of.len() >= REFUSALS_MAX {
                self.of.clear();
            }
        }
        self.of.insert(node, Refusal { why, until_ms: now.mono_ms + wait_ms, wait_ms });
    }

    /// A file left.
    pub(crate) fn forget(&mut self, node: NodeUid) {
        self.of.remove(&node);
    }

    /// Why a file stayed when it was last asked to leave.
    pub(crate) fn last(&self, node: NodeUid) -> Option<Stays> {
        self.of.get(&node).map(|refusal| refusal.why)
    }

    /// Why a file is left alone now.
    pub(crate) fn of(&self, node: NodeUid, now: Moment) -> Option<Stays> {
        // Taken off the end of what it waits.
        let spared_ms = |wait_ms: u64| if self.is_low { wait_ms.saturating_sub(REFUSAL_LOW_MS) } else { 0 };
        let rests = |refusal: &&Refusal| refusal.until_ms > now.mono_ms + spared_ms(refusal.wait_ms);
        self.of.get(&node).filter(rests).map(|refusal| refusal.why)
    }
}

/// Paths with all below them.
#[derive(Debug, Default)]
pub(crate) struct Pins(BTreeSet<Vec<u8>>);

impl Pins {
    /// Of these paths.
    pub(crate) fn new(paths: Vec<RelPath>) -> Self {
        Self(paths.iter().map(RelPath::to_bytes).collect())
    }

    /// Whether a path is one of them or below one.
    pub(crate) fn holds(&self, path: &[u8]) -> bool {
        if self.0.is_empty() {
            return false;
        }
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        // The root has the empty path, and everything is below it.
        self.0.contains(&b""[..]) || ends.chain([path.len()]).any(|end| self.0.contains(&path[..end]))
    }
}

/// A file as the policies see it, and its heat.
pub(crate) fn seen(
    file: &TieredFile,
    path: &[u8],
    noted: Option<Heat>,
    policy: &Endpoint,
    pins: &Pins,
    now: Moment,
) -> File {
    let heat = noted.unwrap_or_else(|| Heat::of_times(file.mtime_s, file.ctime_s, now.unix_s));
    File {
        endpoint: 0,
        node: file.node,
        size: file.size,
        on_disk_bytes: file.on_disk_bytes,
        heat,
        rule: policy.rules.of(path, file.size, heat, now.unix_s),
        stays: if pins.holds(path) { Some(Stays::Pinned) } else { file.stays },
    }
}

/// Which files are wanted one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Those that may leave; of the others only sums are kept.
    Able,
    /// All.
    All,
}

/// Goes through all files of an endpoint; `each` gets those that are wanted, with their paths.
pub(crate) fn take(
    port: &dyn Port,
    policy: &Endpoint,
    volume: &Volume,
    now: Moment,
    refusals: &Mutex<Refusals>,
    wanted: Wanted,
    each: &mut dyn FnMut(File, &TieredFile),
) -> Result<Held, TieredError> {
    let pins = Pins::new(port.pins()?);
    let size_min = file_bytes_min(volume.cluster_bytes).max(policy.file_bytes_min);
    let has_some = volume.cluster_bytes.saturating_mul(2);
    let mut held = Held::default();
    let mut after = None;
    loop {
        let page = port.files(after, PAGE_FILES)?;
        let Some(last) = page.last().map(|file| file.node) else { return Ok(held) };
        let mut noted = port.heat(after, last)?.into_iter().peekable();
        for file in &page {
            while noted.next_if(|(node, _)| *node < file.node).is_some() {}
            let heat = noted.next_if(|(node, _)| *node == file.node).map(|(_, heat)| heat);
            held.count(file);
            let mut seen = seen(file, &file.path.to_bytes(), heat, policy, &pins, now);
            let is_placeholder = file.stays == Some(Stays::Tiered);
            if is_placeholder && seen.stays == Some(Stays::Pinned) && held.wanted.len() < WANTED_MAX {
                held.wanted.push(file.node);
            }
            if seen.stays.is_none() && file.size < size_min {
                seen.stays = Some(Stays::TooSmall);
            }
            let mut is_refused = false;
            if seen.stays.is_none_or(|stays| stays == Stays::Tiered) {
                let refused = refusals.lock().expect(LOCK).of(file.node, now);
                (is_refused, seen.stays) = (refused.is_some(), refused.or(seen.stays));
            }
            match seen.stays {
                // A placeholder is for the plan only if some of it is here that can be given back. The mark itself takes a block on ext4.
                None => each(seen, file),
                Some(Stays::Tiered) if file.on_disk_bytes > has_some && !is_refused => each(seen, file),
                _ if wanted == Wanted::All => each(seen, file),
                Some(why) => held.stay(why, file.on_disk_bytes),
            }
        }
        if page.len() < PAGE_FILES {
            return Ok(held);
        }
        after = Some(last);
    }
}

impl Held {
    fn count(&mut self, file: &TieredFile) {
        self.files += 1;
        self.cached_bytes = self.cached_bytes.saturating_add(file.on_disk_bytes);
        match file.residency {
            Residency::Resident => (),
            Residency::Tiered { .. } => {
                self.tiered_files += 1;
                let absent = file.size.saturating_sub(file.on_disk_bytes);
                self.tiered_bytes = self.tiered_bytes.saturating_add(absent);
            }
            Residency::Orphaned => self.orphaned_files += 1,
        }
    }

    pub(super) fn stay(&mut self, why: Stays, bytes: u64) {
        let sum = self.stays.entry(why).or_default();
        *sum = (sum.0 + 1, sum.1.saturating_add(bytes));
    }

    /// Bytes on the disk of the files that were left out of the list.
    pub(crate) fn unlisted_bytes(&self) -> u64 {
        self.stays.values().fold(0, |sum, (_, bytes)| sum.saturating_add(*bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_hold_what_is_below_them() {
        let path = |text: &str| RelPath::parse(text.as_bytes()).expect("a path");
        let pins = Pins::new(vec![path("a/b"), path("c")]);
        for (text, wanted) in
            [("a/b", true), ("a/b/x", true), ("a", false), ("a/bc", false), ("c/d/e", true), ("d/c", false)]
        {
            assert_eq!(pins.holds(text.as_bytes()), wanted, "{text}");
        }
        assert!(!Pins::default().holds(b"a"));
        assert!(Pins::new(vec![RelPath::root()]).holds(b"a/b"), "the whole endpoint");
    }

    #[test]
    fn a_refusal_is_waited_out_longer_each_time() {
        let mut refusals = Refusals::default();
        let file = NodeUid([1; 16]);
        let at = |mono_ms| Moment { unix_s: 0, mono_ms };
        assert_eq!(refusals.of(file, at(0)), None);
        refusals.note(file, Stays::InUse, at(0));
        assert_eq!(refusals.of(file, at(4_999)), Some(Stays::InUse));
        assert_eq!(refusals.of(file, at(5_000)), None);
        refusals.note(file, Stays::NotVerified, at(5_000));
        assert_eq!(refusals.of(file, at(14_999)), Some(Stays::NotVerified));
        assert_eq!(refusals.of(file, at(15_000)), None);
        for _ in 0..20 {
            refusals.note(file, Stays::InUse, at(20_000));
        }
        assert_eq!(refusals.of(file, at(20_000 + REFUSAL_MS.1)), None, "ten minutes at most");
        refusals.set_low(true);
        assert_eq!(refusals.of(file, at(20_000 + REFUSAL_LOW_MS - 1)), Some(Stays::InUse));
        assert_eq!(refusals.of(file, at(20_000 + REFUSAL_LOW_MS)), None, "a minute in low disk mode");
        refusals.forget_failures();
        assert_eq!(refusals.of(file, at(20_000)), Some(Stays::InUse), "it did not fail");
        refusals.forget(file);
        refusals.note(file, Stays::InUse, at(0));
        assert_eq!(refusals.of(file, at(5_000)), None, "a file that left begins anew");
    }
}
