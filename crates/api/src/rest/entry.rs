//! Direct access to the files of a share.
//!
//! Moments of the past are named by the query parameter `at` ([`At`]); without it the present is meant.

use std::{fmt, str::FromStr};

use polder_types::{Kind, NodeUid, Seq};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{JsonBytes, JsonName, JsonPath, ObjectName, TextError, Time};

/// A file, directory or symlink of a share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Entry {
    /// Its name; absent for the root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<JsonName>,
    /// Kind.
    #[schema(value_type = EntryKind)]
    pub kind: Kind,
    /// Bytes of a file, length of a symlink's target, 0 for a directory.
    pub size: u64,
    /// Modification time.
    pub mtime: Time,
    /// Permission bits as four octal digits, `0644`.
    pub mode: Mode,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// Name of the owner where the version was made; empty when unknown.
    pub owner: String,
    /// Name of the group where the version was made; empty when unknown.
    pub group: String,
    /// Target of a symlink.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<JsonBytes>,
    /// Id of the node, 32 hexadecimal digits; stays through renames.
    #[schema(value_type = String)]
    pub node: NodeUid,
    /// Sequence number of the commit that made this version; give it as `base` to change only what you have seen.
    #[schema(value_type = u64)]
    pub version: Seq,
}

/// Answer to `stat`: the entry and what a list leaves out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EntryStat {
    /// Where it is.
    pub path: JsonPath,
    /// The entry.
    #[serde(flatten)]
    pub entry: Entry,
    /// When this version was committed.
    pub changed_at: Time,
    /// Who made this version: the name of a server, or `direct`.
    pub changed_by: String,
    /// Names of its extended attributes, in order.
    pub xattrs: Vec<JsonBytes>,
    /// Hash of the content in this share: equal hashes mean equal bytes. Absent where the content is not in its
    /// canonical form, and for directories and symlinks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_id: Option<String>,
}

/// Kind of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EntryKind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A symbolic link.
    Symlink,
}

/// Permission bits as four octal digits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, pattern = "^[0-7]{4}$", example = "0644")]
pub struct Mode(u16);

impl Mode {
    /// The mode of `bits`; bits above `0o7777` are dropped.
    pub fn new(bits: u16) -> Self {
        Self(bits & 0o7777)
    }

    /// The bits, `0o7777` at most.
    pub fn bits(self) -> u16 {
        self.0
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

impl FromStr for Mode {
    type Err = ModeError;
    fn from_str(text: &str) -> Result<Self, ModeError> {
        let digits = matches!(text.len(), 3 | 4) && text.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
        let bits = u16::from_str_radix(text, 8).ok().filter(|_| digits);
        bits.map(Self).ok_or_else(|| ModeError(text.escape_default().take(80).collect()))
    }
}

impl From<Mode> for String {
    fn from(mode: Mode) -> Self {
        mode.to_string()
    }
}

impl TryFrom<String> for Mode {
    type Error = ModeError;
    fn try_from(text: String) -> Result<Self, ModeError> {
        text.parse()
    }
}

/// Not permission bits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not three or four octal digits such as 0644")]
pub struct ModeError(String);

/// A moment of a share: `seq:N`, a time, or the name of a snapshot.
///
/// A snapshot whose name reads as a time or begins with `seq:` is hidden by those; the default names of snapshots
/// have dots for the colons and are names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum At {
    /// The state after this sequence number.
    Seq(Seq),
    /// The state at this moment of the service's time.
    Time(Time),
    /// The state that a snapshot names.
    Snapshot(ObjectName),
}

impl FromStr for At {
    type Err = TextError;
    fn from_str(text: &str) -> Result<Self, TextError> {
        if let Some(number) = text.strip_prefix("seq:").and_then(|digits| digits.parse().ok()) {
            return Ok(Self::Seq(Seq(number)));
        }
        if let Ok(time) = text.parse() {
            return Ok(Self::Time(time));
        }
        text.parse().map(Self::Snapshot)
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Seq(seq) => write!(f, "seq:{seq}"),
            Self::Time(time) => time.fmt(f),
            Self::Snapshot(name) => name.fmt(f),
        }
    }
}

/// Query of `PUT …/content/…`. Without `base` and `create_only` the newest content wins: what stood there is kept in
/// the history.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PutQuery {
    /// Modification time to keep; absent: now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtime: Option<Time>,
    /// Permission bits; absent: those of the file that is replaced, else `0644`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// Numeric owner; absent: that of the file that is replaced, else 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Numeric group; absent: that of the file that is replaced, else 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// Replace only this version (`Entry::version`); else `changed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<u64>,
    /// Refuse with `exists` if the name is taken.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub create_only: bool,
    /// Make missing directories on the way.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub parents: bool,
}

/// Answer to a change of one node: put, mkdir, symlink, move.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Changed {
    /// Where it is now.
    pub path: JsonPath,
    /// Id of the node.
    #[schema(value_type = String)]
    pub node: NodeUid,
    /// Its new version.
    #[schema(value_type = u64)]
    pub version: Seq,
    /// Whether the node is new.
    pub created: bool,
    /// Bytes of content that were taken; 0 where no content was sent.
    pub size: u64,
}

/// Answer to a removal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Removed {
    /// What was removed.
    pub path: JsonPath,
    /// Nodes that were removed, or would be with `dry_run`.
    pub nodes: u64,
    /// Bytes of the files among them.
    pub bytes: u64,
    /// Last sequence number of the removal: `at` of the number before it still shows them. Absent on a dry run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub version: Option<Seq>,
}

/// Body of `mkdir`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DirectoryCreate {
    /// Permission bits; absent: `0755`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// Modification time to keep; absent: now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtime: Option<Time>,
    /// Make missing directories on the way, and take one that is there already.
    #[serde(default)]
    pub parents: bool,
}

/// Body of a symlink's creation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SymlinkCreate {
    /// Its target: text that nobody follows, 1 to 4,095 bytes.
    pub target: JsonBytes,
    /// Modification time to keep; absent: now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtime: Option<Time>,
    /// Make missing directories on the way.
    #[serde(default)]
    pub parents: bool,
    /// Replace a symlink or file that has the name.
    #[serde(default)]
    pub replace: bool,
}

/// Body of a move inside one share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MoveRequest {
    /// What.
    pub from: JsonPath,
    /// Its new path. The parent must exist.
    pub to: JsonPath,
    /// Move only this version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<u64>,
    /// Replace a file or symlink (never a directory) that has the new name.
    #[serde(default)]
    pub replace: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read() {
        assert_eq!("seq:17".parse(), Ok(At::Seq(Seq(17))));
        assert!(matches!("2026-11-23T18:00:00Z".parse(), Ok(At::Time(_))));
        assert!(matches!("before-upgrade".parse(), Ok(At::Snapshot(_))));
        assert!(matches!("2026-11-23T18.00.00Z".parse(), Ok(At::Snapshot(_))));
        assert!("not a name".parse::<At>().is_err());
    }

    #[test]
    fn modes_are_octal() {
        assert_eq!("755".parse::<Mode>().expect("octal").to_string(), "0755");
        for bad in ["", "8", "0o755", "+755", "77777", "999"] {
            assert!(bad.parse::<Mode>().is_err(), "{bad}");
        }
    }
}
