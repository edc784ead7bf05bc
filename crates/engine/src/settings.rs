//! Settings of one endpoint: what `docs/defaults.md` lists, as values.

use std::sync::{Arc, LazyLock};

use polder_sync::Filter;
use polder_types::CaseRule;

/// Larger files travel in the lane for large ones.
pub const LARGE_BYTES: u64 = 8 * 1024 * 1024;

/// Settings of one endpoint.
#[derive(Debug, Clone, Hash)]
pub struct Settings {
    /// The server's name, for conflict copies.
    pub server_name: Arc<str>,
    /// The share's rule for names.
    pub case: CaseRule,
    /// Names that are left out.
    pub filter: Arc<Filter>,
    /// What happens when a folder with content meets a share with content.
    pub initial: InitialMode,
    /// Bounds of work.
    pub limits: Limits,
    /// The mass-change brake.
    pub brake: BrakeSettings,
    /// How long a vanished name waits for a new file, in ms.
    pub settle_ms: u64,
    /// First and longest interval between uploads of one file that keeps changing, in ms.
    pub hot_ms: (u64, u64),
    /// First and longest wait after a failure, in ms; doubling, with jitter.
    pub backoff_ms: (u64, u64),
    /// Between two scans of everything, as a safety net; 0: never.
    pub rescan_ms: u64,
}

/// Initial mode of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum InitialMode {
    /// Unite both; equal contents are adopted, different ones end as conflict copies. Deletes nothing.
    Merge,
    /// Make the share like the folder; what only the share has is deleted there (under the brake).
    Authoritative,
}

/// Bounds of what is in memory and in flight.
#[derive(Debug, Clone, Copy, Hash)]
pub struct Limits {
    /// Differing nodes in memory before the scan must wait.
    pub overlay: u32,
    /// Nodes planned at once.
    pub window: usize,
    /// Reads of small files in flight.
    pub reads_small: usize,
    /// Reads of large files in flight.
    pub reads_large: usize,
    /// Operations in a batch.
    pub batch_ops: usize,
    /// Estimated bytes of a batch.
    pub batch_bytes: usize,
    /// Batches in flight.
    pub batches: usize,
    /// Operations of one apply.
    pub apply_ops: usize,
    /// Bytes of small contents in one apply.
    pub apply_bytes: u64,
    /// Applies of small files in flight: more than are carried out at once, so that nobody who does waits for the next plan.
    pub applies_small: usize,
    /// Applies of large files in flight.
    pub applies_large: usize,
}

/// When outgoing changes are held.
#[derive(Debug, Clone, Copy, Hash)]
pub struct BrakeSettings {
    /// Length of the window in ms.
    pub window_ms: u64,
    /// At least so many are always allowed.
    pub floor: u64,
    /// Never more than so many.
    pub ceiling: u64,
    /// Between the two: one part in so many of the endpoint's items.
    pub one_in: u64,
}

/// The product's list, compiled once for all endpoints.
static FILTER: LazyLock<Arc<Filter>> = LazyLock::new(|| Arc::new(Filter::defaults()));

impl Settings {
    /// The defaults for a server of this name.
    pub fn new(server_name: &str) -> Self {
        Self {
            server_name: server_name.into(),
            case: CaseRule::Sensitive,
            filter: Arc::clone(&FILTER),
            initial: InitialMode::Merge,
            limits: Limits::default(),
            brake: BrakeSettings::default(),
            settle_ms: 1000,
            hot_ms: (1000, 60_000),
            backoff_ms: (200, 60_000),
            rescan_ms: 24 * 3600 * 1000,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            overlay: 20_000,
            window: 2_000,
            reads_small: 1_024,
            reads_large: 2,
            batch_ops: 1_024,
            batch_bytes: 3 * 1024 * 1024,
            batches: 4,
            apply_ops: 1_024,
            apply_bytes: 64 * 1024 * 1024,
            applies_small: 5,
            applies_large: 2,
        }
    }
}

impl Default for BrakeSettings {
    fn default() -> Self {
        Self { window_ms: 600_000, floor: 100, ceiling: 1000, one_in: 100 }
    }
}

impl BrakeSettings {
    /// How many deletes, overwrites and renames of others' items may leave within one window.
    pub fn allowed(&self, item_count: u64) -> u64 {
        (item_count / self.one_in.max(1)).clamp(self.floor, self.ceiling.max(self.floor))
    }
}
