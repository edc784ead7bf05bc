//! What an endpoint asks of the service: batches of groups of operations, and the answers.

use crate::{Attrs, BatchNo, ChunkId, Content, Cursor, InstanceId, Name, NodeUid, Placed, Seq, Timestamp};

/// Most operations in one group: larger moves of the world are several groups.
pub const GROUP_OPS_MAX: usize = 65_536;

/// Who wrote a batch, and which one it is: together the identity by which it takes effect once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Author {
    /// The endpoint instance; zero for a direct change.
    pub by: InstanceId,
    /// Its batch.
    pub batch: BatchNo,
}

/// Operations that are taken together or not at all, checked on the state after all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Group {
    /// In any order that names parents before children that they create.
    pub ops: Vec<Op>,
}

/// One operation. `base` is the version it was derived from ([`crate::NodeState::since`]); any other live version
/// refuses the group.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Op {
    /// A new node.
    Create {
        /// Made by the author.
        uid: NodeUid,
        /// Where.
        at: Placed,
        /// Modification time.
        mtime: Timestamp,
        /// Permissions and extended attributes.
        attrs: Attrs,
        /// Content; its kind is the node's.
        content: Content,
    },
    /// New content, times or attributes of a live node; what is `None` stays.
    Update {
        /// Which node.
        uid: NodeUid,
        /// Version it was derived from.
        base: Seq,
        /// New modification time.
        mtime: Option<Timestamp>,
        /// New attributes.
        attrs: Option<Attrs>,
        /// New content, of the same kind.
        content: Option<Content>,
    },
    /// Another name, another directory, or both.
    Move {
        /// Which node.
        uid: NodeUid,
        /// Version it was derived from.
        base: Seq,
        /// Its new place.
        to: Placed,
    },
    /// The end of a live node. A directory must be empty after the group.
    Delete {
        /// Which node.
        uid: NodeUid,
        /// Version it was derived from.
        base: Seq,
    },
    /// A deleted node lives again under its old id (an edit or a rename beats a delete). If it never was, or its
    /// history is gone, it is created; if it is live, the group is refused as [`Refusal::BaseChanged`].
    Revive {
        /// Which node.
        uid: NodeUid,
        /// Where.
        at: Placed,
        /// Modification time.
        mtime: Timestamp,
        /// Permissions and extended attributes.
        attrs: Attrs,
        /// Content, of the kind that the node had.
        content: Content,
    },
}

impl Op {
    /// The node that it is about.
    pub fn uid(&self) -> NodeUid {
        match self {
            Self::Create { uid, .. }
            | Self::Update { uid, .. }
            | Self::Move { uid, .. }
            | Self::Delete { uid, .. }
            | Self::Revive { uid, .. } => *uid,
        }
    }

    /// The content that it brings, if any.
    pub fn content(&self) -> Option<&Content> {
        match self {
            Self::Create { content, .. } | Self::Revive { content, .. } => Some(content),
            Self::Update { content, .. } => content.as_ref(),
            Self::Move { .. } | Self::Delete { .. } => None,
        }
    }
}

/// Answer to a batch: one answer a group, in order.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BatchAnswer {
    /// The commit's place in history: its last number and its tag; the unchanged head when every group was refused.
    pub cursor: Cursor,
    /// One a group.
    pub groups: Vec<GroupAnswer>,
}

/// Answer to one group.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum GroupAnswer {
    /// Taken; the number of its first operation, the others follow one by one.
    Accepted {
        /// New version of the node of the first operation.
        first: Seq,
    },
    /// Refused as a whole; nothing of it happened.
    Refused {
        /// Which operation of the group.
        op: u32,
        /// Why.
        why: Refusal,
    },
}

/// Why a group was refused. None of these is an error: the author observes again and plans again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Hash)]
pub enum Refusal {
    /// The node has another version than the base, or is gone (`None`), or is live where it must not be.
    #[error("the node has changed")]
    BaseChanged {
        /// The live version.
        current: Option<Seq>,
    },
    /// Another node has the name.
    #[error("the name is taken")]
    NameTaken {
        /// Which one.
        by: NodeUid,
    },
    /// The parent is not a live directory.
    #[error("the directory is gone")]
    ParentGone {
        /// Which one.
        parent: NodeUid,
    },
    /// The move would put a directory below itself.
    #[error("the move would make a cycle")]
    Cycle,
    /// A deleted directory still has children after the group.
    #[error("the directory is not empty")]
    NotEmpty,
    /// A node with this id is known, live or deleted.
    #[error("the node exists already")]
    Exists,
    /// The share's quota.
    #[error("the share's quota of {quota_bytes} bytes is reached")]
    Quota {
        /// The quota.
        quota_bytes: u64,
    },
    /// Chunks that lie in no live pack: they must be sent again.
    #[error("{} chunks are to be sent again", .0.len())]
    ChunksMissing(
        /// Which ones; at least one, perhaps not all.
        Vec<ChunkId>,
    ),
    /// Held by the mass-change brake until somebody lets go.
    #[error("held by the mass-change brake")]
    Held,
    /// Breaks a rule that no state can change.
    #[error("invalid: {0}")]
    Invalid(
        /// The rule.
        String,
    ),
    /// A name that this share cannot have.
    #[error("the name {0} cannot be used in this share")]
    BadName(
        /// The name.
        Name,
    ),
}
