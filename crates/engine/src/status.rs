//! What people are told: honest, bounded, with exact counts (promise I17).

use polder_types::{Cursor, Kind, NodeUid, RelPath, Timestamp};

use crate::{FailureClass, Pin, Unreachable};

/// Most items that a status lists; the counts beside the list are always exact.
pub const PROBLEMS_LISTED_MAX: usize = 1000;

/// State of one endpoint.
#[derive(Debug, Clone, PartialEq, Hash)]
pub struct Status {
    /// The one word.
    pub phase: Phase,
    /// Why local work stands still, if it does.
    pub root_lost: Option<Box<str>>,
    /// Why there is no session, if there is none.
    pub unreachable: Option<Unreachable>,
    /// Whether a scan runs (or waits): until it is over, nothing that is missing counts as deleted.
    pub scanning: bool,
    /// Whether the whole tree is read anew and nothing is deleted meanwhile; why.
    pub rebaseline: Option<Box<str>>,
    /// Why the service's answers about the tree are not taken, while they are not.
    pub answer_refused: Option<Box<str>>,
    /// What the mass-change brake holds.
    pub held: Option<Held>,
    /// How far the share's history is known here.
    pub cursor: Cursor,
    /// The share's head, as last heard.
    pub head: Cursor,
    /// What the share is to keep for what stands here; `None`: what it was told before.
    pub pin: Option<Pin>,
    /// Whether the share is known as it was when this session was opened, at least. Before that, what was agreed may be an old version, which the share
    /// has let go: no bytes of it may be given up. A change of it is told at once.
    pub caught_up: bool,
    /// Local changes that are not in the share yet.
    pub up: Remaining,
    /// Changes of the share that are not here yet.
    pub down: Remaining,
    /// Items of the endpoint at the last whole scan.
    pub entry_count: u64,
    /// Names left out by the filter, special files, nested mounts: listed, never synced.
    pub skipped_count: u64,
    /// All items with a problem, also beyond the list.
    pub problem_count: u64,
    /// Those among them that wait for a person's decision: extras of a long absence.
    pub review_count: u64,
    /// The oldest of them, at most [`PROBLEMS_LISTED_MAX`].
    pub problems: Vec<Problem>,
    /// Skipped items, at most [`PROBLEMS_LISTED_MAX`].
    pub skipped: Vec<Skipped>,
}

/// State in one word, the most important first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Nothing was heard yet.
    Starting,
    /// The root is not ours or not there: nothing is read, sent or applied.
    RootLost,
    /// Paused by a person.
    Paused,
    /// Revoked, cloned or of another version: needs a person.
    Refused,
    /// No session; local changes are gathered.
    Unreachable,
    /// Outgoing changes are held by the mass-change brake.
    Held,
    /// Work is going on.
    Syncing,
    /// Everything that can be done is done, some items have problems.
    Problems,
    /// Both sides are equal, as far as both have told.
    InSync,
}

/// What is left to do on one side.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Remaining {
    /// Items.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Items done since the start.
    pub done_count: u64,
    /// Bytes moved since the start.
    pub done_bytes: u64,
}

/// What the brake holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Held {
    /// Deletes that were about to leave within the window.
    pub deletes: u64,
    /// Overwrites of items.
    pub overwrites: u64,
    /// Renames.
    pub renames: u64,
    /// What the window allows.
    pub allowed: u64,
    /// Held by the service, not by this agent.
    pub by_service: bool,
}

/// An item that is not in sync although it was tried.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Problem {
    /// Which.
    pub uid: NodeUid,
    /// Where, as far as known.
    pub path: RelPath,
    /// Why.
    pub reason: Reason,
    /// More of it, lower case, if there is more to say.
    pub text: Box<str>,
    /// Since when, in milliseconds since 1970 (for display).
    pub since_unix_ms: u64,
    /// How often it was tried.
    pub tries: u32,
    /// What stands on disk, of an item that waits for a review.
    pub found: Option<Found>,
}

/// What stands on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Found {
    /// Kind.
    pub kind: Kind,
    /// Bytes.
    pub size: u64,
    /// Modification time.
    pub mtime: Timestamp,
}

/// Why an item is not in sync. Each has one hint in the programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// It changes all the time or is open for writing.
    Busy,
    /// The directory cannot be read: everything below is frozen.
    DirUnreadable,
    /// Reading it here failed.
    Read(FailureClass),
    /// Storing its content failed.
    Store(FailureClass),
    /// Applying the share's version failed.
    Apply(FailureClass),
    /// The share's quota.
    ShareQuota,
    /// The share cannot have the name.
    BadName,
    /// The service refuses it by a rule that no waiting changes.
    Invalid,
    /// The expectation was refused again and again.
    Refused,
    /// Held by the service's brake.
    Held,
    /// An extra of a server that was away beyond the horizon: waits for a review.
    Review,
    /// What the service says of it cannot be true, and is not believed.
    Untrue,
}

/// A name that is left out.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Skipped {
    /// Where.
    pub path: RelPath,
    /// Why.
    pub why: SkipReason,
}

/// Why a name is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SkipReason {
    /// FIFO, socket or device.
    Special,
    /// The filter.
    Excluded,
}

/// A line for the log.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LogLine {
    /// How loud.
    pub level: Level,
    /// Whether it belongs in the audit log too.
    pub audit: bool,
    /// The sentence, lower case: "local change of \"a\" lost against the share; kept as \"a-site\"".
    pub text: Box<str>,
    /// The node, if it is about one.
    pub uid: Option<NodeUid>,
    /// Its path, if known.
    pub path: Option<RelPath>,
}

/// How loud a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// For those who look for a fault.
    Debug,
    /// A change of state.
    Info,
    /// Something that a person should know.
    Warn,
    /// Something that must not be: a person should look at it soon.
    Error,
}
