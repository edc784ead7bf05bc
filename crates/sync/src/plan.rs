//! The plan: a plain value, printable, without a choice left to whoever carries it out.
//!
//! Two rules make every prefix of a plan safe, whatever crashes when:
//!
//! - *What goes up is on disk now; what comes down is in the share now.* A group offers values of the local tree (or
//!   copies a content that the share has); an apply brings the disk to values of the cloud tree. A value that neither
//!   side has (the name of a conflict copy) is made on one side first, and travels to the other in a later plan.
//! - *One step a node and plan.* A node that needs several gets the next one when the facts of the first have changed
//!   the trees. So expectations never depend on a step of the same plan for the same node, exchanges of more
//!   than two places apart.
//!
//! Each step says what the synced row becomes when it succeeds ([`Becomes`]), computed from the values that the step
//! carries and not from what the trees hold when the answer comes: an edit made in between stays visible as an edit.

use std::fmt;

use polder_types::{AttrsHash, Content, NodeUid, Placed, Seq, Stamp, Timestamp};

use crate::SyncedNode;

/// What to do so that the three trees become equal. All vectors are in an order that may be followed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// For the service: each is one [`polder_types::Group`]. A group comes after those that it waits for.
    pub groups: Vec<PlannedGroup>,
    /// For the disk. A step comes after those that it waits for.
    pub applies: Vec<Apply>,
    /// Synced rows to write at once, because both sides agree already.
    pub settled: Vec<Settled>,
    /// New local nodes that are nodes of the share. To be done before anything else; everything about both ids is
    /// planned afterwards.
    pub rekeyed: Vec<Rekeyed>,
    /// Files that must be read before their nodes can be planned further.
    pub reads: Vec<Read>,
    /// Nodes that stay as they are until something else changes, for people to see.
    pub held: Vec<Held>,
    /// Nodes that go on by themselves once another node has.
    pub waiting: Vec<Waiting>,
}

impl Plan {
    /// Whether nothing at all is to be done, read, or waited for.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Operations that the service takes together or not at all. No node appears twice in a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedGroup {
    /// In an order that names parents before children that they create.
    pub ops: Vec<PlannedOp>,
    /// Indices of earlier groups of this plan that must be accepted before. They may be in the same batch, whose
    /// groups are checked one after another; when one is refused, this one will be refused too.
    pub after: Vec<usize>,
}

/// One operation of a group. Attributes are named by hash; [`crate::TreeStore::attrs`] has them in full.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedOp {
    /// Which node.
    pub uid: NodeUid,
    /// What happens to it.
    pub change: Change,
    /// Why.
    pub why: Reason,
    /// The synced row once the group is accepted; its `since` is to be replaced by the new version's number.
    pub becomes: Becomes,
}

/// What an operation does; the fields mean the same as in [`polder_types::Op`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A new node. Its values are those on disk, or, for a conflict copy, those of a version that the share has. When
    /// the id turns out to be known ([`polder_types::Refusal::Exists`]: the node was adopted here and deleted in the
    /// share since), the local node is to be given a new one.
    Create {
        /// Where.
        at: Placed,
        /// Content.
        content: Content,
        /// Permissions and extended attributes.
        attrs: AttrsHash,
        /// Modification time.
        mtime: Timestamp,
    },
    /// A deleted node lives again with the values on disk.
    Revive {
        /// Where.
        at: Placed,
        /// Content.
        content: Content,
        /// Permissions and extended attributes.
        attrs: AttrsHash,
        /// Modification time.
        mtime: Timestamp,
    },
    /// New content, attributes or time; what is `None` stays.
    Update {
        /// Version it was derived from.
        base: Seq,
        /// New content.
        content: Option<Content>,
        /// New attributes.
        attrs: Option<AttrsHash>,
        /// New modification time.
        mtime: Option<Timestamp>,
    },
    /// Another place.
    Move {
        /// Version it was derived from.
        base: Seq,
        /// The new place.
        to: Placed,
    },
    /// The end of the node.
    Delete {
        /// Version it was derived from.
        base: Seq,
    },
}

/// One step for the disk. `Placed` names a directory by its node: where that stands is looked up when the step is
/// carried out. A step whose expectation does not hold is refused and changes nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Apply {
    /// Which node.
    pub uid: NodeUid,
    /// What happens to it.
    pub act: Act,
    /// Why.
    pub why: Reason,
    /// Indices of earlier steps of this plan that must have succeeded before.
    pub after: Vec<usize>,
    /// The synced row once the step has succeeded.
    pub becomes: Becomes,
}

/// What a step does. Of a directory's expected stamp only the identity counts: its times follow its children.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Makes the node. Expects the name to be free, or exactly what it goes over.
    Place {
        /// Where.
        at: Placed,
        /// A directory, a link's target or a file's bytes.
        content: Content,
        /// Permissions and extended attributes.
        attrs: AttrsHash,
        /// Modification time.
        mtime: Timestamp,
        /// Another node that leaves the name in the same exchange, so that the path is never missing.
        over: Option<Over>,
    },
    /// Exchanges a staged file or link with the one that stands there.
    Replace {
        /// Where it stands.
        at: Placed,
        /// What must stand there.
        expect: Stamp,
        /// New content, of the same kind.
        content: Content,
        /// Permissions and extended attributes.
        attrs: AttrsHash,
        /// Modification time.
        mtime: Timestamp,
        /// What becomes of what stood there.
        displaced: Displaced,
    },
    /// Changes attributes or the modification time in place; what is `None` stays.
    Touch {
        /// Where it stands.
        at: Placed,
        /// What must stand there.
        expect: Stamp,
        /// New attributes.
        attrs: Option<AttrsHash>,
        /// New modification time.
        mtime: Option<Timestamp>,
    },
    /// Renames. Only the identity of what stands at `from` counts: edits follow the node. Expects `to` to be free,
    /// or to be the same entry under another case.
    Move {
        /// Where it stands.
        from: Placed,
        /// What must stand there.
        expect: Stamp,
        /// Where it goes.
        to: Placed,
    },
    /// Exchanges the places of two nodes at once; identities count as for a move.
    Exchange {
        /// Where the node stands.
        from: Placed,
        /// What must stand there.
        expect: Stamp,
        /// The other node.
        with: NodeUid,
        /// Where the other one stands.
        to: Placed,
        /// What must stand there.
        expect_with: Stamp,
        /// The synced row of the other node.
        becomes_with: Becomes,
    },
    /// Removes a file or link (it goes to the recycle area), or a directory that has nothing in it, not even things that
    /// are never synced.
    Remove {
        /// Where it stands.
        at: Placed,
        /// What must stand there.
        expect: Stamp,
    },
}

/// A node that another one takes the name of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Over {
    /// Which node stands there.
    pub uid: NodeUid,
    /// What must stand there; a directory must be empty.
    pub expect: Stamp,
    /// Where it goes (expects the name to be free, and that only the identity is as expected); `None`: it equals
    /// what was deleted in the share, and goes to the recycle area.
    pub to: Option<Placed>,
    /// Its synced row.
    pub becomes: Becomes,
}

/// What becomes of a file that is replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Displaced {
    /// It equals a version that the share has: to the recycle area.
    Recycle,
    /// It holds an edit that the share does not have: it stays as a new node under this name, or under the next free
    /// conflict name. Until it stands there it lies in the recycle area as an unknown content, which is never dropped.
    Keep(Placed),
}

/// What a step makes of a synced row.
#[expect(clippy::large_enum_variant, reason = "nearly all steps leave a row")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Becomes {
    /// Nothing: it does not change what both sides agree on.
    Unchanged,
    /// There is none any more.
    Gone,
    /// This one.
    Row {
        /// The row. Its `attrs_here` equal `attrs_share` where the step has brought new ones.
        row: SyncedNode,
        /// Whether the disk equals the whole row after the step: then the row takes the stamp (and the attributes as
        /// applied) that the executor reports. If not, it takes the identity alone, and keeps times that the disk's do
        /// not equal. A row of a group holds the right stamp already.
        clean: bool,
    },
}

/// A synced row to write because both sides agree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// Which node.
    pub uid: NodeUid,
    /// The row; `None` when the node is gone on both sides.
    pub row: Option<SyncedNode>,
}

/// A new local node that is a node of the share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rekeyed {
    /// The id that it was given when it was seen.
    pub from: NodeUid,
    /// The share's.
    pub to: NodeUid,
}

/// A file to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Read {
    /// Which node.
    pub uid: NodeUid,
    /// What for.
    pub intent: ReadIntent,
}

/// What a file is read for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReadIntent {
    /// To compare: the share may hold the same bytes.
    Hash,
    /// To store what the share lacks: the content will be offered.
    Store,
}

/// A node that stays as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Which node.
    pub uid: NodeUid,
    /// Why.
    pub why: HeldReason,
}

/// Why a node stays as it is until something else changes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeldReason {
    /// The disk takes two names of the share for one.
    #[error("this disk cannot tell its name from that of another item")]
    CaseClash {
        /// Who has the name on disk.
        with: NodeUid,
    },
    /// Only this server has it, after an absence in which it may have been deleted elsewhere.
    #[error("only this server has it after a long absence: review whether it was deleted elsewhere")]
    Extra,
    /// All conflict names that were tried are taken.
    #[error("no free name was found for a conflict copy")]
    NoFreeName,
    /// The trees contradict themselves, for example a node whose directory no tree has.
    #[error("its place in the tree is not known")]
    Adrift,
}

/// A node that goes on once another one has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// Which node.
    pub uid: NodeUid,
    /// For which other one; itself when it waits for its own read.
    pub on: NodeUid,
}

/// Why a step was chosen: what `polder explain` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// New here.
    CreatedHere,
    /// New in the share.
    CreatedInShare,
    /// Content changed here.
    EditedHere,
    /// Content changed in the share.
    EditedInShare,
    /// Renamed or moved here.
    MovedHere,
    /// Renamed or moved in the share.
    MovedInShare,
    /// Permissions, attributes or times changed here.
    AttributesHere,
    /// Permissions, attributes or times changed in the share.
    AttributesInShare,
    /// Only the time of a directory changed here.
    DirectoryTimeHere,
    /// Deleted here.
    DeletedHere,
    /// Deleted in the share.
    DeletedInShare,
    /// Deleted in the share, but edited here.
    EditHereBeatsDelete,
    /// Deleted here, but edited in the share.
    EditInShareBeatsDelete,
    /// Deleted in the share, but renamed here.
    MoveHereBeatsDelete,
    /// Deleted here, but renamed in the share.
    MoveInShareBeatsDelete,
    /// A deleted directory in which something lives.
    DirectoryNeeded,
    /// Edited on both sides; the one here is newer and keeps the name.
    ConflictHereNewer,
    /// Edited on both sides; the share's is newer (or as new) and keeps the name.
    ConflictShareNewer,
    /// The content that lost, kept beside the winner.
    ConflictCopy,
    /// Moved on both sides; the share's place stands.
    MovedTwice,
    /// The move here would put a directory below itself, together with a move in the share.
    MoveUndone,
    /// Another node has the name in the share.
    NameTaken,
    /// A directory keeps the name, a file yields.
    DirectoryKeepsName,
    /// Out of the way for a moment, because two moves need each other's place.
    MakeRoom,
    /// This server is the authority until its first sync is over.
    Authoritative,
    /// Nothing is deleted while both sides are compared anew.
    DeletesForbidden,
    /// An extra of a long absence that a person does not want.
    Discarded,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CreatedHere => "created on this server",
            Self::CreatedInShare => "created in the share",
            Self::EditedHere => "edited on this server",
            Self::EditedInShare => "edited in the share",
            Self::MovedHere => "moved on this server",
            Self::MovedInShare => "moved in the share",
            Self::AttributesHere => "attributes changed on this server",
            Self::AttributesInShare => "attributes changed in the share",
            Self::DirectoryTimeHere => "the directory's time changed on this server",
            Self::DeletedHere => "deleted on this server",
            Self::DeletedInShare => "deleted in the share",
            Self::EditHereBeatsDelete => "edited on this server, which beats the deletion in the share",
            Self::EditInShareBeatsDelete => "edited in the share, which beats the deletion on this server",
            Self::MoveHereBeatsDelete => "moved on this server, which beats the deletion in the share",
            Self::MoveInShareBeatsDelete => "moved in the share, which beats the deletion on this server",
            Self::DirectoryNeeded => "deleted, but something in it lives",
            Self::ConflictHereNewer => "edited on both sides; this server's version is newer",
            Self::ConflictShareNewer => "edited on both sides; the share's version is not older",
            Self::ConflictCopy => "the version that lost a conflict, kept beside the winner",
            Self::MovedTwice => "moved on both sides; the share's place stands",
            Self::MoveUndone => "moved back: with a move in the share it would lie below itself",
            Self::NameTaken => "another item has the name in the share",
            Self::DirectoryKeepsName => "a directory keeps the name, the file yields",
            Self::MakeRoom => "out of the way for a moment: two moves need each other's place",
            Self::Authoritative => "this server is the authority until its first sync is over",
            Self::DeletesForbidden => "kept: nothing is deleted while both sides are compared anew",
            Self::Discarded => "an extra of a long absence that a person discarded",
        })
    }
}
