//! What a server is to do: its endpoints and their settings.

use polder_types::{CaseRule, EndpointId, GroupId, ShareId};

use super::{BadMessage, Tiering, at_most, id, limits, some, text};
use crate::grpc::{Secret, pb};

/// One endpoint of a server, with all that its agent needs to follow the share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// Which endpoint.
    pub endpoint: EndpointId,
    /// Rises with each change of the settings.
    pub revision: u64,
    /// The share that it follows.
    pub share: ShareId,
    /// The sync group.
    pub group: GroupId,
    /// The share's name.
    pub share_name: String,
    /// The sync group's name.
    pub group_name: String,
    /// Absolute path on the server, without NUL.
    pub path: Vec<u8>,
    /// Which names the share takes for equal.
    pub case: CaseRule,
    /// Version of the share's chunker; its seed follows from the keys.
    pub chunker: u16,
    /// Keys of the share, in the clear: `polder_chunk::ShareKeys::from_secret_bytes` reads them.
    pub share_keys: Secret,
    /// Most bytes in the share.
    pub quota_bytes: Option<u64>,
    /// What is not synced.
    pub filters: Filters,
    /// What a first upload does.
    pub initial_upload: InitialUpload,
    /// What a first download does.
    pub initial_download: InitialDownload,
    /// Cloud tiering.
    pub tiering: Tiering,
    /// Paused by an administrator.
    pub paused: bool,
    /// The mass-change brake.
    pub brake: Brake,
    /// Whether setuid, setgid and further `security.*` attributes are applied.
    pub apply_privileged_attrs: bool,
    /// Why the service has stopped it, if it has.
    pub stopped_why: Option<String>,
}

/// What is not synced.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filters {
    /// The product's own skip list applies.
    pub default_skip_list: bool,
    /// Further globs.
    pub exclude_globs: Vec<String>,
}

/// What a first upload does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum InitialUpload {
    /// Equal content is adopted, the rest becomes a union; conflicts keep both.
    #[default]
    Merge,
    /// This server's content replaces the share's.
    Authoritative,
}

/// What a first download does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum InitialDownload {
    /// Each name appears with its whole content.
    #[default]
    Full,
    /// All names first, then content.
    NamespaceFirst,
    /// Names; content on demand.
    NamespaceOnly,
}

/// The mass-change brake: more changes than `max(count_min, min(count_max, share of the items))` within the window
/// are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Brake {
    /// On or off.
    pub enabled: bool,
    /// Length of the window.
    pub window_s: u32,
    /// Never held below.
    pub count_min: u64,
    /// Always held above.
    pub count_max: u64,
    /// Hundredths of a percent of the endpoint's items.
    pub share_basis_points: u32,
}

impl Default for Brake {
    fn default() -> Self {
        Self { enabled: true, window_s: 600, count_min: 100, count_max: 1000, share_basis_points: 100 }
    }
}

impl TryFrom<pb::Assignment> for Assignment {
    type Error = BadMessage;

    fn try_from(from: pb::Assignment) -> Result<Self, BadMessage> {
        let case = match from.case_rule() {
            pb::CaseRule::Sensitive => CaseRule::Sensitive,
            pb::CaseRule::Insensitive => CaseRule::Insensitive,
            pb::CaseRule::Unspecified => return Err(BadMessage::Range("case_rule")),
        };
        let initial_upload = match from.initial_upload() {
            pb::InitialUpload::Merge => InitialUpload::Merge,
            pb::InitialUpload::Authoritative => InitialUpload::Authoritative,
            pb::InitialUpload::Unspecified => return Err(BadMessage::Range("initial_upload")),
        };
        let initial_download = match from.initial_download() {
            pb::InitialDownload::Full => InitialDownload::Full,
            pb::InitialDownload::NamespaceFirst => InitialDownload::NamespaceFirst,
            pb::InitialDownload::NamespaceOnly => InitialDownload::NamespaceOnly,
            pb::InitialDownload::Unspecified => return Err(BadMessage::Range("initial_download")),
        };
        at_most(from.path.len(), limits::TEXT_BYTES_MAX, "path")?;
        if from.path.first() != Some(&b'/') || from.path.contains(&0) {
            return Err(BadMessage::Range("path"));
        }
        at_most(from.share_keys.len(), limits::SHARE_KEYS_BYTES_MAX, "share_keys")?;
        Ok(Self {
            endpoint: id(&from.endpoint_id, "endpoint_id", EndpointId::from_slice)?,
            revision: from.revision,
            share: id(&from.share_id, "share_id", ShareId::from_slice)?,
            group: id(&from.group_id, "group_id", GroupId::from_slice)?,
            share_name: text(from.share_name, "share_name")?,
            group_name: text(from.group_name, "group_name")?,
            path: from.path.to_vec(),
            case,
            chunker: u16::try_from(from.chunker).map_err(|_| BadMessage::Range("chunker"))?,
            share_keys: Secret(from.share_keys.to_vec()),
            quota_bytes: some(from.quota_bytes),
            filters: from.filters.unwrap_or_default().try_into()?,
            initial_upload,
            initial_download,
            tiering: from.tiering.unwrap_or_default().try_into()?,
            paused: from.paused,
            brake: from.brake.ok_or(BadMessage::Missing("brake"))?.into(),
            apply_privileged_attrs: from.apply_privileged_attrs,
            stopped_why: Some(text(from.stopped_why, "stopped_why")?).filter(|why| !why.is_empty()),
        })
    }
}

impl From<Assignment> for pb::Assignment {
    fn from(from: Assignment) -> Self {
        let case_rule = match from.case {
            CaseRule::Sensitive => pb::CaseRule::Sensitive,
            CaseRule::Insensitive => pb::CaseRule::Insensitive,
        };
        let initial_upload = match from.initial_upload {
            InitialUpload::Merge => pb::InitialUpload::Merge,
            InitialUpload::Authoritative => pb::InitialUpload::Authoritative,
        };
        let initial_download = match from.initial_download {
            InitialDownload::Full => pb::InitialDownload::Full,
            InitialDownload::NamespaceFirst => pb::InitialDownload::NamespaceFirst,
            InitialDownload::NamespaceOnly => pb::InitialDownload::NamespaceOnly,
        };
        Self {
            endpoint_id: from.endpoint.0.to_vec().into(),
            revision: from.revision,
            share_id: from.share.0.to_vec().into(),
            group_id: from.group.0.to_vec().into(),
            share_name: from.share_name,
            group_name: from.group_name,
            path: from.path.into(),
            case_rule: case_rule.into(),
            chunker: from.chunker.into(),
            share_keys: from.share_keys.0.into(),
            quota_bytes: from.quota_bytes.unwrap_or(0),
            filters: Some(pb::Filters {
                default_skip_list: from.filters.default_skip_list,
                exclude_globs: from.filters.exclude_globs,
            }),
            initial_upload: initial_upload.into(),
            initial_download: initial_download.into(),
            tiering: Some(from.tiering.into()),
            paused: from.paused,
            brake: Some(pb::Brake {
                enabled: from.brake.enabled,
                window_s: from.brake.window_s,
                count_min: from.brake.count_min,
                count_max: from.brake.count_max,
                share_basis_points: from.brake.share_basis_points,
            }),
            apply_privileged_attrs: from.apply_privileged_attrs,
            stopped_why: from.stopped_why.unwrap_or_default(),
        }
    }
}

impl TryFrom<pb::Filters> for Filters {
    type Error = BadMessage;

    fn try_from(from: pb::Filters) -> Result<Self, BadMessage> {
        at_most(from.exclude_globs.len(), limits::GLOBS_MAX, "exclude_globs")?;
        let globs = from.exclude_globs.into_iter().map(|glob| text(glob, "exclude_globs"));
        Ok(Self {
            default_skip_list: from.default_skip_list,
            exclude_globs: globs.collect::<Result<_, _>>()?,
        })
    }
}

impl From<pb::Brake> for Brake {
    fn from(from: pb::Brake) -> Self {
        Self {
            enabled: from.enabled,
            window_s: from.window_s,
            count_min: from.count_min,
            count_max: from.count_max,
            share_basis_points: from.share_basis_points,
        }
    }
}
