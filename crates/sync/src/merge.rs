//! The three values of one node, merged facet by facet: whether it is there, where, its content with its time, its
//! attributes. Everything that concerns more than one node is in `repair`.

use polder_types::{AttrsHash, Content, Kind, NodeUid, Placed, Timestamp};

use crate::{
    CloudNode, HeldReason, LocalContent, LocalNode, ReadIntent, Reason, Rule, SyncedNode, node::Merged,
};

/// Which side has the value that both shall have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum From {
    /// Both have it.
    Both,
    /// The disk.
    Here,
    /// The share.
    Share,
    /// Neither: the name of a conflict copy.
    New,
}

/// What a node shall be on both sides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub at: Placed,
    pub at_from: From,
    pub content: From,
    /// Both sides have a content of their own: `content` says who won, the other is kept under this name.
    pub conflict: Option<Conflict>,
    pub attrs: From,
    pub mtime: From,
    /// Why it is there, where that is not plain from one side's change.
    pub why: Option<Reason>,
    /// Why it is at `at`, in the same way.
    pub why_at: Option<Reason>,
}

/// A conflict of contents. The name of the copy is found once all places are known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Conflict {
    pub copy_at: Option<Placed>,
    /// The id of a copy that the share makes; `None` while it has no name, or when the share has it already.
    pub copy: Option<NodeUid>,
}

/// Merges one node under a rule.
pub(crate) fn merge(
    here: Option<&LocalNode>,
    share: Option<&CloudNode>,
    base: Option<&SyncedNode>,
    rule: Rule,
) -> Merged {
    match (here, share) {
        (None, None) => Merged::Absent(Reason::DeletedHere),
        (Some(here), None) => only_here(here, base, rule),
        (None, Some(share)) => only_in_share(share, base, rule),
        (Some(here), Some(share)) if here.kind != share.content.kind() => Merged::Held(HeldReason::Adrift),
        (Some(here), Some(share)) => match here.content.known() {
            None => Merged::Unread(intent(share, base)),
            Some(content) => both(here, content, share, base, rule),
        },
    }
}

/// The share may hold the bytes that nobody has read here, unless it still has the base from which they were edited.
fn intent(share: &CloudNode, base: Option<&SyncedNode>) -> ReadIntent {
    match base {
        Some(base) if base.content == share.content => ReadIntent::Store,
        _ => ReadIntent::Hash,
    }
}

fn only_here(here: &LocalNode, base: Option<&SyncedNode>, rule: Rule) -> Merged {
    let unread = here.content == LocalContent::Unread;
    let why = match (rule, base) {
        (Rule::Review, _) => return Merged::Held(HeldReason::Extra),
        (_, None) if unread => return Merged::Unread(ReadIntent::Store),
        (_, None) => Reason::CreatedHere,
        (_, Some(_)) if unread => return Merged::Unread(ReadIntent::Hash),
        (Rule::HereWins, Some(_)) => Reason::Authoritative,
        (Rule::NoDeletes, Some(_)) => Reason::DeletesForbidden,
        (Rule::Merge, Some(base)) if here.content.known() != Some(&base.content) => {
            Reason::EditHereBeatsDelete
        }
        (Rule::Merge, Some(base)) if here.at != base.at => Reason::MoveHereBeatsDelete,
        (Rule::Merge, Some(_)) => return Merged::Absent(Reason::DeletedInShare),
    };
    Merged::Present(all_from(From::Here, here.at.clone(), why))
}

fn only_in_share(share: &CloudNode, base: Option<&SyncedNode>, rule: Rule) -> Merged {
    let why = match (rule, base) {
        (Rule::HereWins, _) => return Merged::Absent(Reason::Authoritative),
        (_, None) => Reason::CreatedInShare,
        (Rule::NoDeletes | Rule::Review, Some(_)) => Reason::DeletesForbidden,
        (Rule::Merge, Some(base)) if share.content != base.content => Reason::EditInShareBeatsDelete,
        (Rule::Merge, Some(base)) if share.at != base.at => Reason::MoveInShareBeatsDelete,
        (Rule::Merge, Some(_)) => return Merged::Absent(Reason::DeletedHere),
    };
    Merged::Present(all_from(From::Share, share.at.clone(), why))
}

/// A target that one side has as it is.
pub(crate) fn all_from(from: From, at: Placed, why: Reason) -> Target {
    Target {
        at,
        at_from: from,
        content: from,
        conflict: None,
        attrs: from,
        mtime: from,
        why: Some(why),
        why_at: None,
    }
}

fn both(
    here: &LocalNode,
    content_here: &Content,
    share: &CloudNode,
    base: Option<&SyncedNode>,
    rule: Rule,
) -> Merged {
    let authoritative = rule == Rule::HereWins;
    let pick = |choice: Choice, newer: From| match choice {
        Choice::Same => From::Both,
        _ if authoritative => From::Here,
        Choice::Here => From::Here,
        Choice::Share => From::Share,
        Choice::Differ => newer,
    };
    // Of two contents the newer keeps the name; equal times: the first commit, which is the share's. Times of
    // directories follow their children and decide nothing.
    let newer =
        if here.kind != Kind::Directory && here.mtime > share.mtime { From::Here } else { From::Share };

    let place = choose(&here.at, &share.at, base.map(|base| &base.at));
    let at_from = pick(place, From::Share);
    let at = if at_from == From::Here { here.at.clone() } else { share.at.clone() };

    let contents = choose(content_here, &share.content, base.map(|base| &base.content));
    let content = pick(contents, newer);
    let attrs =
        pick(choose::<AttrsHash>(&here.attrs, &share.attrs, base.map(|base| &base.attrs_share)), newer);
    let times = choose::<Timestamp>(&here.mtime, &share.mtime, base.map(|base| &base.mtime_share));
    // A content brings its own time; a touch of the old content on the other side is nothing beside it.
    let mtime = match (times, content) {
        (Choice::Same, _) => From::Both,
        (_, From::Here | From::Share) => content,
        (choice, _) => pick(choice, newer),
    };
    let conflict =
        (contents == Choice::Differ && !authoritative).then_some(Conflict { copy_at: None, copy: None });
    let why = match (&conflict, content) {
        (Some(_), From::Here) => Some(Reason::ConflictHereNewer),
        (Some(_), _) => Some(Reason::ConflictShareNewer),
        (None, _) => authoritative.then_some(Reason::Authoritative),
    };
    let why_at = match (place, base) {
        _ if authoritative => Some(Reason::Authoritative),
        (Choice::Differ, Some(_)) => Some(Reason::MovedTwice),
        _ => None,
    };
    Merged::Present(Target { at, at_from, content, conflict, attrs, mtime, why, why_at })
}

/// Which side changed a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Choice {
    /// Both have the same.
    Same,
    /// Only the disk changed it.
    Here,
    /// Only the share changed it.
    Share,
    /// Both did, or there is no base.
    Differ,
}

fn choose<T: PartialEq>(here: &T, share: &T, base: Option<&T>) -> Choice {
    match base {
        _ if here == share => Choice::Same,
        Some(base) if here == base => Choice::Share,
        Some(base) if share == base => Choice::Here,
        _ => Choice::Differ,
    }
}
