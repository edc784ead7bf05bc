//! The next step of one node towards its target, not yet ordered among the others.

use polder_types::{Content, Kind, NodeUid};

use crate::{
    Act, Apply, Becomes, Change, Displaced, HeldReason, LocalContent, PlannedOp, ReadIntent, Reason,
    Settings, SyncedNode,
    merge::{From, Target},
    node::{Merged, Node, View},
};

/// The next step of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Draft {
    /// Nothing to do or to say.
    Nothing,
    /// Both sides agree; the synced row is to be written.
    Settle(Option<SyncedNode>),
    /// Operations that stand together; the first is the node's own.
    Up(Vec<PlannedOp>),
    /// A step for the disk, its place among the others not known yet.
    Down(Box<Apply>),
    /// The content must be read first.
    Read(ReadIntent),
    /// It stays as it is.
    Held(HeldReason),
}

pub(crate) fn draft(node: &Node, settings: &Settings) -> Draft {
    let half_a_root = node.uid == NodeUid::ROOT && (node.here.is_none() || node.share.is_none());
    if node.busy || half_a_root {
        return Draft::Nothing;
    }
    match &node.merged {
        Merged::Absent(why) => absent(node, *why),
        Merged::Present(target) => present(node, target, settings),
        Merged::Unread(intent) => Draft::Read(*intent),
        Merged::Held(why) => Draft::Held(why.clone()),
        Merged::Rekeyed(_) => Draft::Nothing,
    }
}

fn down(node: &Node, act: Act, why: Reason, becomes: Becomes) -> Draft {
    Draft::Down(Box::new(Apply { uid: node.uid, act, why, after: Vec::new(), becomes }))
}

fn absent(node: &Node, why: Reason) -> Draft {
    match (&node.here, &node.share) {
        (Some(here), None) => {
            let act = Act::Remove { at: here.at.clone(), expect: here.stamp };
            down(node, act, why, Becomes::Gone)
        }
        (None, Some(share)) => {
            let change = Change::Delete { base: share.since };
            Draft::Up(vec![PlannedOp { uid: node.uid, change, why, becomes: Becomes::Gone }])
        }
        // Gone on both sides; with a row there is something to forget.
        _ => node.base.as_ref().map_or(Draft::Nothing, |_| Draft::Settle(None)),
    }
}

fn present(node: &Node, target: &Target, settings: &Settings) -> Draft {
    match (&node.here, &node.share) {
        (Some(here), Some(share)) if here.at != target.at || share.at != target.at => {
            if here.at != target.at { move_here(node, target) } else { move_in_share(node, target) }
        }
        (Some(_), Some(_)) => values(node, target, settings),
        (Some(here), None) if here.at != target.at => move_here(node, target),
        (Some(_), None) => create_in_share(node, target),
        (None, Some(share)) if share.at != target.at => move_in_share(node, target),
        (None, Some(_)) => place_here(node, target),
        (None, None) => Draft::Nothing,
    }
}

fn move_here(node: &Node, target: &Target) -> Draft {
    let (Some(here), Some(before)) = (&node.here, node.view_here()) else { return Draft::Nothing };
    let act = Act::Move { from: here.at.clone(), expect: here.stamp, to: target.at.clone() };
    let after = View { at: target.at.clone(), ..before };
    // A name that the share does not have yet becomes agreed once the share has taken it.
    let becomes = match node.view_share() {
        Some(share) if share.at == target.at => node.agree(&after, &share, here.stamp),
        _ => Becomes::Unchanged,
    };
    down(node, act, target.why_at.unwrap_or(Reason::MovedInShare), becomes)
}

fn move_in_share(node: &Node, target: &Target) -> Draft {
    let (Some(share), Some(before)) = (&node.share, node.view_share()) else { return Draft::Nothing };
    let after = View { at: target.at.clone(), ..before };
    let becomes = match node.view_here() {
        Some(here) => node.agree(&here, &after, node.stamp()),
        None => Becomes::Unchanged,
    };
    let change = Change::Move { base: share.since, to: target.at.clone() };
    let why = target.why_at.unwrap_or(Reason::MovedHere);
    Draft::Up(vec![PlannedOp { uid: node.uid, change, why, becomes }])
}

fn create_in_share(node: &Node, target: &Target) -> Draft {
    let (Some(here), Some(view)) = (&node.here, node.view_here()) else { return Draft::Nothing };
    let Some(content) = offered(&here.content) else { return Draft::Read(ReadIntent::Store) };
    let (at, attrs, mtime) = (here.at.clone(), here.attrs, here.mtime);
    let change = match node.base {
        None => Change::Create { at, content, attrs, mtime },
        Some(_) => Change::Revive { at, content, attrs, mtime },
    };
    let becomes = node.agree(&view, &view, here.stamp);
    let why = target.why_at.or(target.why).unwrap_or(Reason::CreatedHere);
    Draft::Up(vec![PlannedOp { uid: node.uid, change, why, becomes }])
}

fn place_here(node: &Node, target: &Target) -> Draft {
    let (Some(share), Some(view)) = (&node.share, node.view_share()) else { return Draft::Nothing };
    let act = Act::Place {
        at: share.at.clone(),
        content: share.content.clone(),
        attrs: share.attrs,
        mtime: share.mtime,
        over: None,
    };
    let becomes = node.agree(&view, &view, node.stamp());
    down(node, act, target.why.unwrap_or(Reason::CreatedInShare), becomes)
}

/// A content that may be offered: stored, or without any chunk that would have to be.
fn offered(content: &LocalContent) -> Option<Content> {
    match content {
        LocalContent::Stored(content) => Some(content.clone()),
        LocalContent::Hashed(content) if content.direct_chunks().next().is_none() => Some(content.clone()),
        LocalContent::Hashed(_) | LocalContent::Unread => None,
    }
}

/// The node is where it shall be on both sides: its content, attributes and time.
fn values(node: &Node, target: &Target, settings: &Settings) -> Draft {
    if changes_share(node, target, settings) {
        return update_in_share(node, target);
    }
    let [content, attrs, mtime] = [target.content, target.attrs, target.mtime].map(From::changes_here);
    if content {
        return replace_here(node, target);
    }
    if attrs || mtime {
        return touch_here(node, target);
    }
    let (Some(here), Some(share)) = (node.view_here(), node.view_share()) else { return Draft::Nothing };
    match node.agree(&here, &share, node.stamp()) {
        Becomes::Row { row, .. } if node.base.as_ref() != Some(&row) => Draft::Settle(Some(row)),
        _ => Draft::Nothing,
    }
}

fn changes_share(node: &Node, target: &Target, settings: &Settings) -> bool {
    // A directory's time alone waits until all is quiet, else each new file in it would make a version of it.
    let mtime = target.mtime.changes_share() && (settings.directory_times || !node.is_directory());
    target.content.changes_share() || target.attrs.changes_share() || mtime
}

fn update_in_share(node: &Node, target: &Target) -> Draft {
    let (Some(here), Some(share)) = (&node.here, &node.share) else { return Draft::Nothing };
    let (Some(view), Some(mut after)) = (node.view_here(), node.view_share()) else { return Draft::Nothing };
    let mut change = (None, None, None);
    if target.content.changes_share() {
        let Some(content) = offered(&here.content) else { return Draft::Read(ReadIntent::Store) };
        after.content = Some(content.clone());
        change.0 = Some(content);
    }
    if target.attrs.changes_share() {
        after.attrs = here.attrs;
        change.1 = Some(here.attrs);
    }
    if target.mtime.changes_share() {
        after.mtime = here.mtime;
        change.2 = Some(here.mtime);
    }
    let why = match &change.0 {
        None if target.conflict.is_some() => None,
        _ => target.why,
    };
    let why = why.unwrap_or(match (&change.0, &change.1, here.kind) {
        (Some(_), ..) => Reason::EditedHere,
        (None, None, Kind::Directory) => Reason::DirectoryTimeHere,
        _ => Reason::AttributesHere,
    });
    let becomes = node.agree(&view, &after, here.stamp);
    let (content, attrs, mtime) = change;
    let change = Change::Update { base: share.since, content, attrs, mtime };
    let mut ops = vec![PlannedOp { uid: node.uid, change, why, becomes }];
    let copy = target.conflict.as_ref().and_then(|conflict| conflict.copy_at.clone().zip(conflict.copy));
    if let Some((at, uid)) = copy.filter(|_| target.content.changes_share()) {
        // By reference: the share has this content. The disk gets the copy from there. Where the share has had a node of
        // this id, it comes back to life.
        let change =
            Change::Revive { at, content: share.content.clone(), attrs: share.attrs, mtime: share.mtime };
        ops.push(PlannedOp { uid, change, why: Reason::ConflictCopy, becomes: Becomes::Unchanged });
    }
    Draft::Up(ops)
}

fn replace_here(node: &Node, target: &Target) -> Draft {
    let (Some(here), Some(share), Some(view)) = (&node.here, &node.share, node.view_share()) else {
        return Draft::Nothing;
    };
    let attrs = if target.attrs.changes_here() { share.attrs } else { here.attrs };
    let mtime = if target.mtime.changes_here() { share.mtime } else { here.mtime };
    let displaced = match target.conflict.as_ref().and_then(|conflict| conflict.copy_at.clone()) {
        Some(at) => Displaced::Keep(at),
        None => Displaced::Recycle,
    };
    let content = share.content.clone();
    let after = View { at: here.at.clone(), content: Some(content.clone()), attrs, mtime };
    let becomes = node.agree(&after, &view, here.stamp);
    let act = Act::Replace { at: here.at.clone(), expect: here.stamp, content, attrs, mtime, displaced };
    down(node, act, target.why.unwrap_or(Reason::EditedInShare), becomes)
}

fn touch_here(node: &Node, target: &Target) -> Draft {
    let (Some(here), Some(share)) = (&node.here, &node.share) else { return Draft::Nothing };
    let (Some(mut after), Some(view)) = (node.view_here(), node.view_share()) else { return Draft::Nothing };
    let attrs = target.attrs.changes_here().then_some(share.attrs);
    let mtime = target.mtime.changes_here().then_some(share.mtime);
    after.attrs = attrs.unwrap_or(after.attrs);
    after.mtime = mtime.unwrap_or(after.mtime);
    let becomes = node.agree(&after, &view, here.stamp);
    let act = Act::Touch { at: here.at.clone(), expect: here.stamp, attrs, mtime };
    down(node, act, Reason::AttributesInShare, becomes)
}
