//! What a person says about tiering beyond percentages. What it means is the agent's to say.

use serde::{Deserialize, Serialize};

use super::{ProgramName, RuleGlob};

/// Most rules about files of an endpoint, and as many about programs.
pub const RULES_MAX: usize = 200;

/// How files arrive that were made or changed elsewhere.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NewFiles {
    /// As names and sizes; bytes on demand.
    #[default]
    Tiered,
    /// With their whole content.
    Full,
}

/// What a rule says of the files that it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TierAction {
    /// They stay.
    Keep,
    /// They are tiered after so many days without a use.
    Tier {
        /// Days.
        after_days: u32,
    },
}

/// A rule about single files. All of its conditions must hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TierRule {
    /// What follows.
    pub action: TierAction,
    /// Which paths.
    pub glob: Option<RuleGlob>,
    /// From this size on.
    pub size_bytes_min: Option<u64>,
    /// Up to and with this size.
    pub size_bytes_max: Option<u64>,
    /// Only what nobody has used for so many days.
    pub unused_days_min: Option<u32>,
}

/// What a program's read of a tiered file does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProgramAction {
    /// Bytes are fetched and stay.
    Recall,
    /// Bytes are fetched and not kept.
    Serve,
    /// The read is an error.
    Refuse,
}

/// A rule about a program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramRule {
    /// Which.
    pub name: ProgramName,
    /// What its reads do.
    pub action: ProgramAction,
    /// Most bytes an hour and user.
    pub bytes_per_hour: Option<u64>,
    /// Whether its uses warm a file.
    pub counts: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_checked() {
        let long = "x".repeat(513);
        for bad in ["", "/a", "a\0", long.as_str()] {
            assert!(bad.parse::<RuleGlob>().is_err(), "{bad:?}");
        }
        for bad in ["", "a/b", "a\0", &long[..256]] {
            assert!(bad.parse::<ProgramName>().is_err(), "{bad:?}");
        }
        assert_eq!("*.iso".parse::<RuleGlob>().expect("sound").to_string(), "*.iso");
        assert_eq!("*".parse::<ProgramName>().expect("sound").to_string(), "*");
    }

    /// Rows of earlier versions have none of these fields.
    #[test]
    fn an_older_row_is_read() {
        let mut row = serde_json::to_value(crate::control::EndpointSettings::default()).expect("plain");
        let fields = row.as_object_mut().expect("an object");
        for name in ["file_bytes_min", "new_files", "tier_rules", "program_rules"] {
            assert!(fields.remove(name).is_some(), "{name}");
        }
        let read: crate::control::EndpointSettings = serde_json::from_value(row).expect("an older row");
        assert_eq!(read, crate::control::EndpointSettings::default());
    }
}
