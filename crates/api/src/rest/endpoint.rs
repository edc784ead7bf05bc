//! Server endpoints and their settings.

use polder_types::{EndpointId, GroupId, ServerId, ShareId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{JsonBytes, NewFiles, ObjectName, ProgramRule, TierRule, Time};

/// How an empty or new endpoint gets the share's files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum InitialDownload {
    /// Names only; bytes on demand. Needs tiering.
    NamespaceOnly,
    /// Names first, then bytes, newest first. Needs tiering.
    NamespaceFirst,
    /// Each name appears with its whole content.
    #[default]
    Full,
}

/// What a new endpoint does with files that it already holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum InitialUpload {
    /// Both sides are kept: equal content is taken as equal, other content becomes a conflict copy.
    #[default]
    Merge,
    /// This server is right: what the share has more is deleted, what differs is replaced (and kept in history).
    Authoritative,
}

/// Settings of a server endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EndpointSettings {
    /// Whether cold files may be tiered.
    #[serde(default)]
    pub tiering: bool,
    /// Share of the volume to keep free, in percent (1 to 99); for tiering.
    #[serde(default = "default_free_space_percent")]
    #[schema(minimum = 1, maximum = 99, default = 20)]
    pub free_space_percent: u8,
    /// Tier what nobody touched for so many days; absent: no such rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub older_than_days: Option<u32>,
    /// Most bytes of local content; absent: no such rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_quota_bytes: Option<u64>,
    /// Smallest file that is tiered; absent: 8 KiB or two clusters of the volume, whichever is more. Never less than that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_bytes_min: Option<u64>,
    /// How files arrive that were made or changed elsewhere; for tiering.
    #[serde(default)]
    pub new_files: NewFiles,
    /// Rules about single files, before all policies; the first that fits decides.
    #[serde(default)]
    pub tier_rules: Vec<TierRule>,
    /// Rules about programs, in place of the built-in ones.
    #[serde(default)]
    pub program_rules: Vec<ProgramRule>,
    /// How the share's files come here at first.
    #[serde(default)]
    pub initial_download: InitialDownload,
    /// What happens to the files that are here at first.
    #[serde(default)]
    pub initial_upload: InitialUpload,
    /// Patterns of names and paths that are not synced, beside the default list. A pattern without `/` is matched
    /// against every name, one with `/` against the path from the endpoint's root; `*`, `?`, `**` and `[…]`.
    #[serde(default)]
    pub excludes: Vec<String>,
    /// Whether the default list of names that are never synced (temporary and system files) is in force.
    #[serde(default = "super::yes")]
    #[schema(default = true)]
    pub default_excludes: bool,
    /// Whether setuid, setgid and `security.*` attributes from elsewhere are applied here.
    #[serde(default)]
    pub privileges: bool,
    /// Whether sync rests until somebody turns this off again.
    #[serde(default)]
    pub paused: bool,
}

/// The default of [`EndpointSettings::free_space_percent`].
pub const FREE_SPACE_PERCENT_DEFAULT: u8 = 20;
/// Most patterns of one endpoint.
pub const EXCLUDES_MAX: usize = 1000;
/// Longest pattern in bytes.
pub const EXCLUDE_BYTES_MAX: usize = 4096;

fn default_free_space_percent() -> u8 {
    FREE_SPACE_PERCENT_DEFAULT
}

impl Default for EndpointSettings {
    fn default() -> Self {
        Self {
            tiering: false,
            free_space_percent: FREE_SPACE_PERCENT_DEFAULT,
            older_than_days: None,
            cache_quota_bytes: None,
            file_bytes_min: None,
            new_files: NewFiles::default(),
            tier_rules: Vec::new(),
            program_rules: Vec::new(),
            initial_download: InitialDownload::default(),
            initial_upload: InitialUpload::default(),
            excludes: Vec::new(),
            default_excludes: true,
            privileges: false,
            paused: false,
        }
    }
}

/// A server endpoint: a path on a registered server that follows a share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Endpoint {
    /// Its id, 32 hexadecimal digits.
    #[schema(value_type = String)]
    pub id: EndpointId,
    /// Name of its group.
    pub group: ObjectName,
    /// Id of its group.
    #[schema(value_type = String)]
    pub group_id: GroupId,
    /// Name of the share.
    pub share: ObjectName,
    /// Id of the share.
    #[schema(value_type = String)]
    pub share_id: ShareId,
    /// Name of its server.
    pub server: ObjectName,
    /// Id of its server.
    #[schema(value_type = String)]
    pub server_id: ServerId,
    /// Absolute path on the server.
    pub path: JsonBytes,
    /// Settings in force.
    pub settings: EndpointSettings,
    /// When it was created.
    pub created_at: Time,
    /// There, and true, while it goes: somebody ordered its end, and its agent has not let go of the folder yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub removing: bool,
    /// There once it was removed without a recall: nothing is synced any more, and what is tiered there is held in the share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_behind: Option<LeftBehind>,
}

/// What an endpoint left on its server as names alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LeftBehind {
    /// Files; absent where the agent could not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<u64>,
    /// Their bytes; absent likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// When.
    pub at: Time,
}

/// How an endpoint is removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EndpointRemoval {
    /// Leave a manifest in place of a recall.
    pub force: bool,
    /// Let go of what is held for what was left behind.
    pub forget: bool,
    /// Only make the checks.
    pub dry_run: bool,
}

/// Body of an endpoint's creation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EndpointCreate {
    /// Name or id of the group.
    pub group: String,
    /// Name or id of the server.
    pub server: String,
    /// Absolute path on the server, 1 to 4,095 bytes.
    pub path: JsonBytes,
    /// Settings.
    #[serde(default)]
    pub settings: EndpointSettings,
}

/// Body of an endpoint's change. An absent field stays, `null` clears. Initial modes cannot change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EndpointChange {
    /// See [`EndpointSettings::tiering`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tiering: Option<bool>,
    /// See [`EndpointSettings::free_space_percent`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 99)]
    pub free_space_percent: Option<u8>,
    /// See [`EndpointSettings::older_than_days`]; `null`: no such rule.
    #[serde(default, with = "super::maybe_null", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u32>)]
    pub older_than_days: Option<Option<u32>>,
    /// See [`EndpointSettings::cache_quota_bytes`]; `null`: no such rule.
    #[serde(default, with = "super::maybe_null", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub cache_quota_bytes: Option<Option<u64>>,
    /// See [`EndpointSettings::file_bytes_min`]; `null`: the default.
    #[serde(default, with = "super::maybe_null", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub file_bytes_min: Option<Option<u64>>,
    /// See [`EndpointSettings::new_files`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_files: Option<NewFiles>,
    /// The whole new list of rules about files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier_rules: Option<Vec<TierRule>>,
    /// The whole new list of rules about programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program_rules: Option<Vec<ProgramRule>>,
    /// The whole new list of patterns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub excludes: Option<Vec<String>>,
    /// See [`EndpointSettings::default_excludes`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_excludes: Option<bool>,
    /// See [`EndpointSettings::privileges`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub privileges: Option<bool>,
    /// See [`EndpointSettings::paused`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,
}

impl EndpointChange {
    /// The settings after this change.
    pub fn apply(&self, to: &EndpointSettings) -> EndpointSettings {
        let mut new = to.clone();
        new.tiering = self.tiering.unwrap_or(new.tiering);
        new.free_space_percent = self.free_space_percent.unwrap_or(new.free_space_percent);
        new.older_than_days = self.older_than_days.unwrap_or(new.older_than_days);
        new.cache_quota_bytes = self.cache_quota_bytes.unwrap_or(new.cache_quota_bytes);
        new.file_bytes_min = self.file_bytes_min.unwrap_or(new.file_bytes_min);
        new.new_files = self.new_files.unwrap_or(new.new_files);
        new.tier_rules = self.tier_rules.clone().unwrap_or(new.tier_rules);
        new.program_rules = self.program_rules.clone().unwrap_or(new.program_rules);
        new.excludes = self.excludes.clone().unwrap_or(new.excludes);
        new.default_excludes = self.default_excludes.unwrap_or(new.default_excludes);
        new.privileges = self.privileges.unwrap_or(new.privileges);
        new.paused = self.paused.unwrap_or(new.paused);
        new
    }
}

/// What becomes of the changes that the mass-change brake holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Release {
    /// They are meant: let them go to the share.
    Accept,
    /// They are not: throw the share's state back over them. What they replaced is in the history.
    Revert,
}

/// Body of a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReleaseRequest {
    /// Which way.
    pub decision: Release,
}

/// Answer to a release or a dry run of one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Released {
    /// Which endpoint.
    #[schema(value_type = String)]
    pub endpoint: EndpointId,
    /// Changes that were held, or are with `dry_run`.
    pub held: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_tells_absent_from_null() {
        let before = EndpointSettings {
            older_than_days: Some(30),
            cache_quota_bytes: Some(1),
            ..EndpointSettings::default()
        };
        let change: EndpointChange =
            serde_json::from_str(r#"{"older_than_days":null,"tiering":true}"#).expect("legal");
        let after = change.apply(&before);
        assert_eq!(after.older_than_days, None);
        assert_eq!(after.cache_quota_bytes, Some(1));
        assert!(after.tiering);
        assert_eq!(
            serde_json::to_string(&change).expect("plain"),
            r#"{"tiering":true,"older_than_days":null}"#
        );
    }

    #[test]
    fn unknown_settings_are_errors() {
        assert!(serde_json::from_str::<EndpointSettings>(r#"{"teiring":true}"#).is_err());
        assert_eq!(
            serde_json::from_str::<EndpointSettings>("{}").expect("all have defaults"),
            EndpointSettings::default()
        );
    }
}
