//! What an agent puts into `CommandAnswer.json`, by the command that it answers.

use polder_types::Kind;
use serde::{Deserialize, Serialize};

use crate::rest::{Direction, ItemState, JsonPath, Time};

/// Answer to `ListProblems`: a page of the items that are not in sync, in the order of their paths. Extras under review
/// are among them, with the code [`REVIEW`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProblemList {
    /// How many there are in all.
    pub total: u64,
    /// Those from the asked place on; fewer than asked for where the answer would become too long.
    pub items: Vec<ProblemItem>,
}

/// The code of an extra that waits for a decision.
pub const REVIEW: &str = "review";

/// An item that is not in sync.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProblemItem {
    /// Below the endpoint's root.
    pub path: JsonPath,
    /// Which way it was going.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direction: Option<Direction>,
    /// Stable code.
    pub code: String,
    /// Why, in a sentence.
    pub reason: String,
    /// What to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Since when.
    pub since: Time,
    /// How often it was tried.
    pub attempts: u32,
    /// When it is tried next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_at: Option<Time>,
    /// What stands there, of an extra.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<FoundItem>,
}

/// What stands on a server's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundItem {
    /// Kind.
    pub kind: Kind,
    /// Bytes.
    pub size: u64,
    /// Modification time.
    pub mtime: Time,
}

/// Answer to `Explain`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explained {
    /// State of the item there.
    pub state: ItemState,
    /// Why, in a sentence.
    pub reason: String,
    /// What to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// Answer to `Detach` with force.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftBehind {
    /// Files that are in the manifest, and their bytes; none where the folder could not be looked at: then there may be any, and no
    /// manifest was written.
    pub count: Option<(u64, u64)>,
    /// Files whose mark is damaged, so that nobody knows what they stood for.
    pub orphans: u64,
}

/// Answer to `Release` and `Review`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decided {
    /// Items that it was about.
    pub items: u64,
}
