//! Messages about tiering: what is here, giving it up and bringing it back by hand, and what a person keeps.

use serde::{Deserialize, Serialize};

use crate::rest::{JsonBytes, Time};

/// Most rows of one list.
pub const FILES_LISTED_MAX: u64 = 1_000_000;
/// Most files that are recalled or tiered at once by one command.
pub const THREADS_MAX: u32 = 32;

/// Which files a command is about.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileChoice {
    /// Absolute paths on this server: files, or folders with all below them.
    pub paths: Vec<JsonBytes>,
    /// Only files whose path below the endpoint matches; without a slash, whose name does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pattern: Option<String>,
    /// In the order of heat: the coldest leave first, the warmest come first. A recall in that order stops where a policy
    /// would tier the file again, and at the free space that is to be kept.
    #[serde(default)]
    pub by_heat: bool,
}

/// Whether a file's bytes are on this server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileResidency {
    /// All of them.
    Resident,
    /// Some of them.
    Partial,
    /// None.
    Tiered,
    /// Its mark is damaged: its bytes cannot be had here.
    Orphaned,
}

/// A file in a list, or one that could not be tiered or recalled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRow {
    /// Absolute path on this server.
    pub path: JsonBytes,
    /// Size in bytes.
    pub size: u64,
    /// Bytes that it takes on the disk.
    pub on_disk_bytes: u64,
    /// Whether it is here.
    pub residency: FileResidency,
    /// Last use that counts.
    pub used_at: Time,
    /// A stable word: the policy that wants it (`rule`, `date`, `quota`, `free_space`), `recall`, or why it stays.
    pub verdict: String,
    /// The same in a sentence.
    pub reason: String,
}

/// How far a command is, and at the end what came of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// Files that the command is about.
    pub files: u64,
    /// Files that are done, well or not.
    pub files_done: u64,
    /// Files that stayed as they were, or failed.
    pub files_failed: u64,
    /// Bytes to be freed or fetched, as far as that was known at the beginning.
    pub bytes: u64,
    /// Bytes that were.
    pub bytes_done: u64,
}

/// What a person keeps on this server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinRow {
    /// Absolute path on this server.
    pub path: JsonBytes,
}

/// Tiering of one file, for who asks why it is here or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileTiering {
    /// Whether it is here.
    pub residency: FileResidency,
    /// Size in bytes.
    pub size: u64,
    /// Bytes that it takes on the disk.
    pub on_disk_bytes: u64,
    /// Last use that counts.
    pub used_at: Time,
    /// A file that was used once, then, is as warm.
    pub warm_at: Time,
    /// Why it stays on the disk, as a stable word; absent if it may leave as soon as a policy wants it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stays: Option<String>,
    /// That, or what becomes of it, in a sentence.
    pub reason: String,
    /// Who recalled it last, as far as that is remembered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_recall: Option<LastRecall>,
}

/// Who recalled a file last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastRecall {
    /// Name of the program, escaped.
    pub program: String,
    /// User id.
    pub user: u32,
    /// When.
    pub at: Time,
    /// Bytes that were fetched for it since it began with the file; more than its size where the file left in between.
    pub bytes: u64,
}
