//! What an endpoint and its volume want, and why a file stays.

use crate::rules::Rules;

/// Files below this never leave: a placeholder takes an inode and a mark anyway.
const FILE_BYTES_MIN: u64 = 8 * 1024;
/// Low disk mode begins below this much free, on volumes however large.
const LOW_DISK_BYTES_MAX: u64 = 20 << 30;
/// Points of the volume beyond the free-space policy that are made free at once.
const RESERVE_POINTS: u8 = 5;

/// Smallest file that is tiered on a volume with clusters of this size.
pub fn file_bytes_min(cluster_bytes: u64) -> u64 {
    FILE_BYTES_MIN.max(cluster_bytes.saturating_mul(2))
}

/// The volume that holds the endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Volume {
    /// Bytes in all.
    pub bytes: u64,
    /// Bytes that are free.
    pub free_bytes: u64,
    /// Bytes of a cluster (file system block).
    pub cluster_bytes: u64,
}

/// What one endpoint wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Whether it tiers at all.
    pub tiering: bool,
    /// Share of the volume to keep free: 1 to 99.
    pub free_percent: u8,
    /// Date policy: what nobody used for so many seconds leaves.
    pub idle_s: Option<u64>,
    /// Most bytes of the endpoint on the disk.
    pub quota_bytes: Option<u64>,
    /// Bytes on the disk of its files that are not in the list.
    pub other_bytes: u64,
    /// Smallest file that leaves, where it is more than the volume's own ([`file_bytes_min`]).
    pub file_bytes_min: u64,
    /// Rules about single files.
    pub rules: Rules,
    /// Whether everything that was here at the beginning is in the share.
    pub is_uploaded: bool,
}

/// Which policy wants a file to leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Policy {
    /// A rule about the file itself.
    Rule,
    /// Nobody used it for long.
    Date,
    /// The endpoint holds more than its quota.
    Quota,
    /// The volume has too little free.
    FreeSpace,
}

/// Why a file does not leave. One list, for people, metrics and tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stays {
    /// The endpoint does not tier.
    TieringOff,
    /// It is not a regular file.
    NotAFile,
    /// It is tiered already.
    Tiered,
    /// Smaller than 8 KiB or two clusters.
    TooSmall,
    /// A user pinned it.
    Pinned,
    /// A rule keeps it.
    Rule,
    /// The share does not have its current content.
    NotSynced,
    /// The share has it, but its packs were not read back and verified yet.
    NotVerified,
    /// Its version is waiting for compaction: an extent is only part of its chunk.
    NotCanonical,
    /// It has several names here; the mark belongs to one node.
    HardLinked,
    /// Most of it is holes: tiering would free nothing.
    Sparse,
    /// Somebody has it open or mapped.
    InUse,
    /// It was changed since its content was hashed.
    Changed,
    /// This file system was not tested for tiering.
    FileSystem,
    /// The last try failed; there will be another.
    Failed,
    /// Nothing wants it to leave.
    NotNeeded,
}

impl Stays {
    /// The reason as a stable word, for metrics and JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::TieringOff => "tiering_off",
            Self::NotAFile => "not_a_file",
            Self::Tiered => "tiered",
            Self::TooSmall => "too_small",
            Self::Pinned => "pinned",
            Self::Rule => "rule",
            Self::NotSynced => "not_synced",
            Self::NotVerified => "not_verified",
            Self::NotCanonical => "not_canonical",
            Self::HardLinked => "hard_linked",
            Self::Sparse => "sparse",
            Self::InUse => "in_use",
            Self::Changed => "changed",
            Self::FileSystem => "file_system",
            Self::Failed => "failed",
            Self::NotNeeded => "not_needed",
        }
    }

    /// The reason as a part of a sentence: "stays because …".
    pub fn text(self) -> &'static str {
        match self {
            Self::TieringOff => "tiering is off for this endpoint",
            Self::NotAFile => "it is not a regular file",
            Self::Tiered => "it is tiered already",
            Self::TooSmall => "it is smaller than 8 KiB or two clusters",
            Self::Pinned => "it is pinned",
            Self::Rule => "a rule keeps it",
            Self::NotSynced => "the share does not have its current content",
            Self::NotVerified => "its packs are not verified yet",
            Self::NotCanonical => "its version waits for compaction",
            Self::HardLinked => "it has several names",
            Self::Sparse => "most of it is holes",
            Self::InUse => "somebody has it open",
            Self::Changed => "it was changed since it was last hashed",
            Self::Failed => "the last try failed; there will be another",
            Self::FileSystem => "this file system was not tested for tiering",
            Self::NotNeeded => "there is room for it",
        }
    }
}

impl Volume {
    /// The free-space policy of all tiering endpoints together: the largest; `None` if none tiers.
    pub fn free_percent(endpoints: &[Endpoint]) -> Option<u8> {
        endpoints
            .iter()
            .filter(|endpoint| endpoint.tiering)
            .map(|endpoint| endpoint.free_percent.clamp(1, 99))
            .max()
    }

    /// That share of the volume in bytes, rounded up.
    pub fn share(&self, percent: u8) -> u64 {
        let bytes = (u128::from(self.bytes) * u128::from(percent)).div_ceil(100);
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }

    /// What is made free at once when the policy is broken: five points more.
    pub fn high_mark(&self, percent: u8) -> u64 {
        self.share(percent.saturating_add(RESERVE_POINTS).min(99))
    }

    /// Below this much free, recalls are served without being kept.
    pub fn low_disk_bytes(&self, percent: u8) -> u64 {
        self.share(10).min(self.share(percent)).min(LOW_DISK_BYTES_MAX)
    }

    /// Whether the volume is in low disk mode under the policy of these endpoints.
    pub fn is_low(&self, endpoints: &[Endpoint]) -> bool {
        Self::free_percent(endpoints).is_some_and(|percent| self.free_bytes < self.low_disk_bytes(percent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn endpoint(free_percent: u8) -> Endpoint {
        Endpoint {
            tiering: true,
            free_percent,
            idle_s: None,
            quota_bytes: None,
            other_bytes: 0,
            file_bytes_min: 0,
            rules: Rules::default(),
            is_uploaded: true,
        }
    }

    #[test]
    fn smallest_files_follow_the_cluster() {
        for (cluster, min) in [(512, 8), (4096, 8), (8192, 16), (65_536, 128), (2 << 20, 4096)] {
            assert_eq!(file_bytes_min(cluster), min * 1024, "{cluster}");
        }
    }

    /// The worked examples of low disk mode: 10 %, the policy, and 20 GiB, whichever is least.
    #[test]
    fn low_disk_mode() {
        for (gib, percent, free, low) in [
            (100, 7, 9, false),
            (100, 7, 5, true),
            (300, 8, 21, false),
            (300, 8, 18, true),
            (100, 50, 10, false),
            (100, 50, 9, true),
        ] {
            let volume = Volume { bytes: gib * GIB, free_bytes: free * GIB, cluster_bytes: 4096 };
            assert_eq!(volume.is_low(&[endpoint(percent)]), low, "{gib} GiB, {percent} %, {free} free");
        }
        let volume = Volume { bytes: 100 * GIB, free_bytes: 0, cluster_bytes: 4096 };
        assert!(!volume.is_low(&[Endpoint { tiering: false, ..endpoint(20) }]), "only with tiering");
    }

    #[test]
    fn the_largest_policy_of_a_volume_counts() {
        let off = Endpoint { tiering: false, ..endpoint(90) };
        assert_eq!(Volume::free_percent(&[endpoint(10), endpoint(30), off.clone()]), Some(30));
        assert_eq!(Volume::free_percent(&[off]), None);
    }
}
