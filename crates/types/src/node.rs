//! A node as a share holds it.

use crate::{Attrs, Content, InstanceId, Name, NodeUid, Seq, Timestamp};

/// Kind of a node. It never changes: a file replaced by a directory is another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A symbolic link.
    Symlink,
}

/// Where a node stands in its tree.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Placed {
    /// The directory.
    pub parent: NodeUid,
    /// The name in it.
    pub name: Name,
}

/// The whole state of a live node at one sequence number: a row of the feed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NodeState {
    /// Which node.
    pub uid: NodeUid,
    /// Where it stands. For the root: itself, under a name that is never used.
    pub at: Placed,
    /// Modification time.
    pub mtime: Timestamp,
    /// Mode, owner, extended attributes.
    pub attrs: Attrs,
    /// Bytes, target, or nothing.
    pub content: Content,
    /// The operation that made this version: what the next operation names as its base.
    pub since: Seq,
    /// Which endpoint instance made it; zero for a direct change of the share.
    pub by: InstanceId,
}
