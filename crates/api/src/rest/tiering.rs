//! What a person may say about tiering beyond percentages: rules about files, rules about programs.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

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
