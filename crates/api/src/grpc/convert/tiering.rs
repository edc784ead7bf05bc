//! What an endpoint is told of tiering.

use super::{BadMessage, at_most, limits, some, text};
use crate::grpc::pb;

/// Cloud tiering.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tiering {
    /// On or off.
    pub enabled: bool,
    /// How much of the volume is kept free, at most 99.
    pub free_space_percent: u8,
    /// What was not used for so long is tiered.
    pub older_than_s: Option<u64>,
    /// Most bytes kept locally.
    pub cache_quota_bytes: Option<u64>,
    /// Smallest file that is tiered, where it is more than the volume's own.
    pub file_bytes_min: u64,
    /// How files arrive that were made or changed elsewhere.
    pub new_files: NewFiles,
    /// Rules about files; the first that fits decides.
    pub rules: Vec<TierRule>,
    /// Rules about programs.
    pub programs: Vec<ProgramRule>,
}

/// How files arrive that were made or changed elsewhere, on an endpoint that tiers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum NewFiles {
    /// As names and sizes.
    #[default]
    Tiered,
    /// With their whole content.
    Full,
}

/// What a rule says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TierAction {
    /// The file stays.
    Keep,
    /// It is tiered after so many seconds without a use.
    Tier {
        /// Seconds.
        after_s: u64,
    },
}

/// A rule about files. All conditions must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TierRule {
    /// What follows.
    pub action: TierAction,
    /// Which paths; empty: all.
    pub glob: String,
    /// From this size on.
    pub size_bytes_min: u64,
    /// Up to and with this size.
    pub size_bytes_max: Option<u64>,
    /// Only what nobody has used for so many seconds.
    pub unused_s_min: u64,
}

/// What a program's read of a tiered file does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProgramAction {
    /// Bytes are fetched and stay.
    Recall,
    /// Bytes are fetched and not kept.
    Serve,
    /// The read is an error.
    Refuse,
}

/// A rule about a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramRule {
    /// Its name; `*`: every program that no rule names.
    pub name: String,
    /// What its reads do.
    pub action: ProgramAction,
    /// Most bytes an hour and user.
    pub bytes_per_hour: Option<u64>,
    /// Whether its uses warm a file.
    pub counts: bool,
}

impl TryFrom<pb::Tiering> for Tiering {
    type Error = BadMessage;

    fn try_from(from: pb::Tiering) -> Result<Self, BadMessage> {
        at_most(from.rules.len(), limits::RULES_MAX, "rules")?;
        at_most(from.programs.len(), limits::RULES_MAX, "programs")?;
        let new_files = match from.new_files() {
            // A service that knows no other.
            pb::NewFiles::Tiered | pb::NewFiles::Unspecified => NewFiles::Tiered,
            pb::NewFiles::Full => NewFiles::Full,
        };
        let percent = u8::try_from(from.free_space_percent).ok().filter(|percent| *percent <= 99);
        Ok(Self {
            enabled: from.enabled,
            free_space_percent: percent.ok_or(BadMessage::Range("free_space_percent"))?,
            older_than_s: some(from.older_than_s),
            cache_quota_bytes: some(from.cache_quota_bytes),
            file_bytes_min: from.file_bytes_min,
            new_files,
            rules: from.rules.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            programs: from.programs.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
        })
    }
}

impl From<Tiering> for pb::Tiering {
    fn from(from: Tiering) -> Self {
        let new_files = match from.new_files {
            NewFiles::Tiered => pb::NewFiles::Tiered,
            NewFiles::Full => pb::NewFiles::Full,
        };
        Self {
            enabled: from.enabled,
            free_space_percent: from.free_space_percent.into(),
            older_than_s: from.older_than_s.unwrap_or(0),
            cache_quota_bytes: from.cache_quota_bytes.unwrap_or(0),
            file_bytes_min: from.file_bytes_min,
            new_files: new_files.into(),
            rules: from.rules.into_iter().map(Into::into).collect(),
            programs: from.programs.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<pb::TierRule> for TierRule {
    type Error = BadMessage;

    fn try_from(from: pb::TierRule) -> Result<Self, BadMessage> {
        let action = match from.action() {
            pb::TierAction::Keep => TierAction::Keep,
            pb::TierAction::Tier => TierAction::Tier { after_s: from.after_s },
            pb::TierAction::Unspecified => return Err(BadMessage::Range("action")),
        };
        Ok(Self {
            action,
            glob: text(from.glob, "glob")?,
            size_bytes_min: from.size_bytes_min,
            size_bytes_max: some(from.size_bytes_max),
            unused_s_min: from.unused_s_min,
        })
    }
}

impl From<TierRule> for pb::TierRule {
    fn from(from: TierRule) -> Self {
        let (action, after_s) = match from.action {
            TierAction::Keep => (pb::TierAction::Keep, 0),
            TierAction::Tier { after_s } => (pb::TierAction::Tier, after_s),
        };
        Self {
            action: action.into(),
            after_s,
            glob: from.glob,
            size_bytes_min: from.size_bytes_min,
            size_bytes_max: from.size_bytes_max.unwrap_or(0),
            unused_s_min: from.unused_s_min,
        }
    }
}

impl TryFrom<pb::ProgramRule> for ProgramRule {
    type Error = BadMessage;

    fn try_from(from: pb::ProgramRule) -> Result<Self, BadMessage> {
        let action = match from.action() {
            pb::ProgramAction::Recall => ProgramAction::Recall,
            pb::ProgramAction::Serve => ProgramAction::Serve,
            pb::ProgramAction::Refuse => ProgramAction::Refuse,
            pb::ProgramAction::Unspecified => return Err(BadMessage::Range("action")),
        };
        Ok(Self {
            action,
            bytes_per_hour: some(from.bytes_per_hour),
            counts: from.counts,
            name: text(from.name, "name")?,
        })
    }
}

impl From<ProgramRule> for pb::ProgramRule {
    fn from(from: ProgramRule) -> Self {
        let action = match from.action {
            ProgramAction::Recall => pb::ProgramAction::Recall,
            ProgramAction::Serve => pb::ProgramAction::Serve,
            ProgramAction::Refuse => pb::ProgramAction::Refuse,
        };
        Self {
            name: from.name,
            action: action.into(),
            bytes_per_hour: from.bytes_per_hour.unwrap_or(0),
            counts: from.counts,
        }
    }
}
