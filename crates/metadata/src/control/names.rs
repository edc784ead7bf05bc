//! Words of people, parsed once: a value of these types is valid.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a text is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{found}\" is not {expected}")]
pub struct ParseError {
    /// What was found, escaped and cut.
    pub found: String,
    /// What is allowed.
    pub expected: &'static str,
}

impl ParseError {
    pub(super) fn new(found: impl fmt::Display, expected: &'static str) -> Self {
        let found = polder_types::Escaped(found.to_string().as_bytes()).to_string();
        Self { found: found.chars().take(80).collect(), expected }
    }
}

macro_rules! parsed_text {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl TryFrom<String> for $name {
            type Error = ParseError;
            fn try_from(text: String) -> Result<Self, ParseError> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.0.into()
            }
        }
        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
    };
}

/// Name of a share, sync group, server, token or snapshot: 1–63 ASCII letters, digits, `.`, `-` and `_`, the first a
/// letter or digit; not 32 hexadecimal digits, which are an id. Two names that differ only in case are one name, because
/// shares are exported to clients for which they are.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ObjectName(Box<str>);
parsed_text!(ObjectName);

impl std::str::FromStr for ObjectName {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let sound = (1..=63).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
            && text.as_bytes()[0].is_ascii_alphanumeric()
            && !(text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit()));
        if sound {
            Ok(Self(text.into()))
        } else {
            Err(ParseError::new(
                text,
                "a name: 1 to 63 letters, digits, \".\", \"-\" or \"_\", beginning with a letter or digit, and no id",
            ))
        }
    }
}

impl ObjectName {
    /// The form that is unique.
    pub fn key(&self) -> String {
        self.0.to_ascii_lowercase()
    }
}

/// A pattern of names that an endpoint leaves alone: 1–4,096 bytes without NUL. What it means is the agent's to say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Glob(Box<str>);
parsed_text!(Glob);

impl std::str::FromStr for Glob {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let sound = (1..=4096).contains(&text.len()) && !text.contains('\0');
        if sound {
            Ok(Self(text.into()))
        } else {
            Err(ParseError::new(text, "a pattern of 1 to 4,096 bytes"))
        }
    }
}

/// A pattern of a rule about files: 1–512 bytes without NUL, relative to the endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RuleGlob(Box<str>);
parsed_text!(RuleGlob);

impl std::str::FromStr for RuleGlob {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let sound = (1..=512).contains(&text.len()) && !text.starts_with('/') && !text.contains('\0');
        if sound {
            Ok(Self(text.into()))
        } else {
            Err(ParseError::new(text, "a pattern of 1 to 512 bytes, relative to the endpoint"))
        }
    }
}

/// A program's name of 1–255 bytes, or `*` for all that no rule names. The kernel tells 15 bytes of a name; a longer one
/// is cut where it is compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ProgramName(Box<str>);
parsed_text!(ProgramName);

impl std::str::FromStr for ProgramName {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        if (1..=255).contains(&text.len()) && !text.contains(['\0', '/']) {
            Ok(Self(text.into()))
        } else {
            Err(ParseError::new(text, "a program's name of 1 to 255 bytes without a slash"))
        }
    }
}

/// A share of a whole, 1–99 %.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Percent(u8);

impl Percent {
    /// Free space that is kept on a tiered volume unless somebody chooses otherwise.
    pub const DEFAULT_FREE_SPACE: Self = Self(20);

    /// The number.
    pub fn get(self) -> u8 {
        self.0
    }
}

impl TryFrom<u8> for Percent {
    type Error = ParseError;
    fn try_from(value: u8) -> Result<Self, ParseError> {
        if (1..=99).contains(&value) {
            Ok(Self(value))
        } else {
            Err(ParseError::new(value, "a percentage from 1 to 99"))
        }
    }
}

impl From<Percent> for u8 {
    fn from(value: Percent) -> Self {
        value.0
    }
}

/// Days of the date policy, 1–36,500.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct OlderThan(u32);

impl OlderThan {
    /// The number of days.
    pub fn days(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for OlderThan {
    type Error = ParseError;
    fn try_from(value: u32) -> Result<Self, ParseError> {
        if (1..=36_500).contains(&value) {
            Ok(Self(value))
        } else {
            Err(ParseError::new(value, "a number of days from 1 to 36,500"))
        }
    }
}

impl From<OlderThan> for u32 {
    fn from(value: OlderThan) -> Self {
        value.0
    }
}

/// What the holder of a token may do. A later role may do all that an earlier one may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Looks.
    Reader,
    /// Works: shares' content, endpoints, snapshots, conflicts.
    Operator,
    /// Decides: tokens, servers' trust, deletion of shares.
    Owner,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reader => "reader",
            Self::Operator => "operator",
            Self::Owner => "owner",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        let long = "x".repeat(64);
        let id = "0123456789abcdef".repeat(2);
        for bad in ["", ".", "-a", "a b", "a/b", "é", long.as_str(), id.as_str(), "a\n"] {
            assert!(bad.parse::<ObjectName>().is_err(), "{bad:?}");
        }
        for good in ["a", "Site-A", "0", "files.example.org", "x_y"] {
            assert_eq!(good.parse::<ObjectName>().expect("legal").as_str(), good);
        }
        assert!(serde_json::from_str::<ObjectName>("\"../x\"").is_err());
    }

    #[test]
    fn roles_are_ordered() {
        assert!(Role::Owner > Role::Operator && Role::Operator > Role::Reader);
    }
}
