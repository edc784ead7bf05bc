//! A node while it is planned: what the three trees say of it, and what it shall be.

use polder_types::{
    AttrsHash, Content, FileIdent, Kind, NodeUid, Placed, Seq, Stamp, Timestamp,
    zoo::{Bug, planted},
};

use crate::{
    Becomes, CloudNode, HeldReason, LocalNode, ReadIntent, Reason, SyncedNode,
    merge::{From, Target},
};

/// What the merge of one node says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Merged {
    /// It shall be on neither side.
    Absent(Reason),
    /// It shall be on both.
    Present(Target),
    /// Nobody knows before its content has been read.
    Unread(ReadIntent),
    /// It stays as it is.
    Held(HeldReason),
    /// It takes another id first; this is the other party.
    Rekeyed(NodeUid),
}

/// A node of the plan's working set.
#[derive(Debug)]
pub(crate) struct Node {
    pub uid: NodeUid,
    pub here: Option<LocalNode>,
    pub share: Option<CloudNode>,
    pub base: Option<SyncedNode>,
    /// It has work in flight: what it shall be is known, but nothing is planned for it.
    pub busy: bool,
    pub merged: Merged,
    /// It was looked at closely: who stands where it shall stand, and its directory, are in the set.
    pub expanded: bool,
    /// Something that it needs to know is beyond the set.
    pub beyond: Option<NodeUid>,
}

impl Node {
    pub fn target(&self) -> Option<&Target> {
        match &self.merged {
            Merged::Present(target) => Some(target),
            _ => None,
        }
    }

    pub fn kind(&self) -> Option<Kind> {
        match (&self.here, &self.share) {
            (Some(here), _) => Some(here.kind),
            (None, Some(share)) => Some(share.content.kind()),
            (None, None) => None,
        }
    }

    pub fn is_directory(&self) -> bool {
        self.kind() == Some(Kind::Directory)
    }

    /// The disk's values as they are; `None` when the node is not there.
    pub fn view_here(&self) -> Option<View> {
        let here = self.here.as_ref()?;
        Some(View {
            at: here.at.clone(),
            content: here.content.known().cloned(),
            attrs: here.attrs,
            mtime: here.mtime,
        })
    }

    /// The share's values as they are; `None` when the node is not there.
    pub fn view_share(&self) -> Option<View> {
        let share = self.share.as_ref()?;
        Some(View {
            at: share.at.clone(),
            content: Some(share.content.clone()),
            attrs: share.attrs,
            mtime: share.mtime,
        })
    }

    /// What the synced row becomes when the sides have these values: each facet in which both agree is agreed on,
    /// the others keep what was agreed before. Without a row from before there is one only when all is agreed,
    /// but for the time of a directory.
    pub fn agree(&self, here: &View, share: &View, stamp: Stamp) -> Becomes {
        let content = share.content.clone();
        let content = content.filter(|_| here.content == share.content || planted(Bug::AgreesTooMuch));
        let mtime_only =
            here.at == share.at && content == Some(Content::Directory) && here.attrs == share.attrs;
        // A row names the version that had its content: by that the share is asked to keep what stands here.
        let since = match (&self.base, &self.share) {
            (Some(base), _) if content.is_none() && !planted(Bug::RowNamesNewerVersion) => base.since,
            (_, share) => share.as_ref().map_or(Seq(0), |share| share.since),
        };
        let row = match (&self.base, content) {
            (None, Some(content)) if here == share || mtime_only => SyncedNode {
                at: share.at.clone(),
                content,
                attrs_share: share.attrs,
                attrs_here: here.attrs,
                mtime_share: share.mtime,
                stamp: Stamp::default(),
                since,
            },
            (None, _) => return Becomes::Unchanged,
            (Some(base), content) => {
                let attrs_share = if here.attrs == share.attrs { share.attrs } else { base.attrs_share };
                let same_attrs = attrs_share == base.attrs_share;
                SyncedNode {
                    at: if here.at == share.at { share.at.clone() } else { base.at.clone() },
                    content: content.unwrap_or_else(|| base.content.clone()),
                    attrs_share,
                    attrs_here: if same_attrs { base.attrs_here } else { attrs_share },
                    mtime_share: if here.mtime == share.mtime { share.mtime } else { base.mtime_share },
                    stamp: base.stamp,
                    since,
                }
            }
        };
        let clean = here.at == row.at
            && here.content.as_ref() == Some(&row.content)
            && here.attrs == row.attrs_share
            && here.mtime == row.mtime_share;
        let stamp = if clean { stamp } else { Stamp { ident: stamp.ident, ..row.stamp } };
        Becomes::Row { row: SyncedNode { stamp, ..row }, clean }
    }

    /// The identity and times of what stands on disk.
    pub fn stamp(&self) -> Stamp {
        self.here
            .as_ref()
            .map_or(Stamp { ident: FileIdent::default(), ..Stamp::default() }, |here| here.stamp)
    }
}

/// The values of one side, as they are or as they will be after a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct View {
    pub at: Placed,
    /// `None` while nobody has read it.
    pub content: Option<Content>,
    pub attrs: AttrsHash,
    pub mtime: Timestamp,
}

impl From {
    /// Whether a side with `other` of the two must change.
    pub fn changes_here(self) -> bool {
        self == Self::Share
    }

    /// Whether the share must change.
    pub fn changes_share(self) -> bool {
        self == Self::Here
    }
}
