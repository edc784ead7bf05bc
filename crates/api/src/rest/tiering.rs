//! What a person may say about tiering beyond percentages: rules about files, rules about programs.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Time;

/// Most rules about files of one endpoint, and as many about programs.
pub const RULES_MAX: usize = 200;
/// Longest pattern of a rule in bytes.
pub const RULE_GLOB_BYTES_MAX: usize = 512;

/// How files arrive that were made or changed elsewhere. For tiering alone; without it every file arrives whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum NewFiles {
    /// As names and sizes; bytes on demand.
    #[default]
    Tiered,
    /// With their whole content.
    Full,
}

/// What a rule says of the files that it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TierAction {
    /// They stay on the disk.
    Keep,
    /// They are tiered once nobody has used them for `after_days`.
    Tier,
}

/// A rule about single files. All of its conditions must hold; of several rules the first that fits decides, before every
/// policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TierRule {
    /// What follows.
    pub action: TierAction,
    /// For `tier`: days without a use; 0: as soon as the share holds the file.
    #[serde(default)]
    pub after_days: u32,
    /// Which paths, relative to the endpoint; without a slash it is compared with names. Absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub glob: Option<String>,
    /// Only files of at least so many bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes_min: Option<u64>,
    /// Only files of at most so many bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes_max: Option<u64>,
    /// Only files that nobody has used for so many days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unused_days_min: Option<u32>,
}

/// What a program's read of a tiered file does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProgramAction {
    /// Its bytes are fetched and stay.
    Recall,
    /// Its bytes are fetched and not kept.
    Serve,
    /// It is an error.
    Refuse,
}

/// A rule about a program, in place of the built-in one. A name proves nothing and gives no right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ProgramRule {
    /// Its name, of which the kernel tells 15 bytes; `*` is every program that no rule names.
    pub name: String,
    /// What its reads of tiered files do.
    pub action: ProgramAction,
    /// Most bytes fetched for it, an hour and user; what exceeds it is refused and told of. Absent: no bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_hour: Option<u64>,
    /// Whether its uses make a file warmer.
    #[serde(default = "super::yes")]
    #[schema(default = true)]
    pub counts: bool,
}

/// How tiering goes on an endpoint. Counts are since its agent started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TieringStatus {
    /// Bytes of the endpoint's files on the disk.
    pub cached_bytes: u64,
    /// Files that are placeholders.
    pub tiered_files: u64,
    /// Bytes that are only in the share: the space that is saved.
    pub saved_bytes: u64,
    /// Opens of files that are not empty.
    pub opens: u64,
    /// Those of them that found all bytes here.
    pub opens_here: u64,
    /// Bytes that were read. A whole file counts with its size at each open: the kernel reads it past the agent.
    pub read_bytes: u64,
    /// Those of them that were here.
    pub read_bytes_here: u64,
    /// Whether recalls are served without being kept, because there is too little room.
    pub low_disk: bool,
    /// What is missing to the free-space policy even if everything leaves that may.
    pub missing_bytes: u64,
    /// Files whose mark is damaged: their bytes cannot be had.
    pub orphaned_files: u64,
    /// What was recalled, by program.
    pub programs: Vec<ProgramRecalls>,
    /// Files that do not leave, by reason.
    pub stays: Vec<StayingFiles>,
    /// When the files were last looked at; absent: not yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub looked_at: Option<Time>,
    /// What people should know, such as a budget that was exceeded, in sentences.
    pub notices: Vec<String>,
}

/// What a program has recalled.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProgramRecalls {
    /// As the kernel names it, escaped.
    pub program: String,
    /// Reads that waited for the share.
    pub reads: u64,
    /// Bytes that were fetched.
    pub bytes: u64,
    /// Reads that were refused.
    pub refused: u64,
}

/// Files that do not leave, by reason.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StayingFiles {
    /// A stable word, such as `in_use`, `not_verified`, `pinned`, `too_small`.
    pub reason: String,
    /// How many.
    pub files: u64,
    /// Their bytes on the disk.
    pub bytes: u64,
}

/// A part of a whole in percent with one digit; absent where there is no whole.
pub fn percent(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| (part as f64 * 1000.0 / whole as f64).round() / 10.0)
}
