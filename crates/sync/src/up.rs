//! The difference from the share to the target tree: groups of operations for the service.

use std::collections::BTreeSet;

use polder_types::{Content, NodeUid, Placed};

use crate::{
    Change, Plan, PlannedGroup, PlannedOp, TreeError, Waiting, draft::Draft, graph::components, work::Work,
};

/// Children that are looked at in one go.
const PAGE: usize = 256;

/// What an operation needs of others.
#[derive(Debug, Default)]
struct Needs {
    /// Accepted before it.
    after: Vec<usize>,
    /// In one group with it.
    together: Vec<usize>,
    /// Something that is not planned now.
    missing: Option<NodeUid>,
}

/// Adds the groups, and who waits.
pub(crate) fn groups(work: &Work, drafts: &mut [Draft], plan: &mut Plan) -> Result<(), TreeError> {
    let members: Vec<usize> = (0..drafts.len()).filter(|i| matches!(drafts[*i], Draft::Up(_))).collect();
    let mut slot = vec![usize::MAX; drafts.len()];
    members.iter().enumerate().for_each(|(at, i)| slot[*i] = at);
    let mut needs = Vec::with_capacity(members.len());
    for i in &members {
        needs.push(needs_of(work, drafts, *i)?);
    }

    // Nodes that stand together need each other; so do those whose groups would wait for each other.
    let mut edges: Vec<Vec<usize>> =
        needs.iter().map(|needs| needs.after.iter().map(|i| slot[*i]).collect()).collect();
    for (at, needs) in needs.iter().enumerate() {
        for other in &needs.together {
            edges[at].push(slot[*other]);
            edges[slot[*other]].push(at);
        }
    }
    let found = components(&edges);
    let mut group_of = vec![None; members.len()];
    for component in &found {
        // What is needed comes first, so what has no group now is in this component or goes nowhere.
        let mut here = component.clone();
        here.sort_unstable();
        let stays = |other: &&usize| group_of[**other].is_none() && here.binary_search(other).is_err();
        let missing = component.iter().find_map(|at| needs[*at].missing);
        let refused = component.iter().flat_map(|at| &edges[*at]).find(stays);
        if let Some(on) = missing.or(refused.map(|other| work.nodes[members[*other]].uid)) {
            let uids = component.iter().map(|at| work.nodes[members[*at]].uid);
            plan.waiting.extend(uids.map(|uid| Waiting { uid, on }));
            continue;
        }
        let mut after: Vec<usize> =
            component.iter().flat_map(|at| &edges[*at]).filter_map(|other| group_of[*other]).collect();
        after.sort_unstable();
        after.dedup();
        component.iter().for_each(|at| group_of[*at] = Some(plan.groups.len()));
        let ops = in_order(here, &needs, &slot)
            .into_iter()
            .flat_map(|at| match std::mem::replace(&mut drafts[members[at]], Draft::Nothing) {
                Draft::Up(ops) => ops,
                _ => Vec::new(),
            })
            .collect();
        plan.groups.push(PlannedGroup { ops, after });
    }
    Ok(())
}

/// Members of a group, each after what it needs: parents before the children that they get.
fn in_order(sorted: Vec<usize>, needs: &[Needs], slot: &[usize]) -> Vec<usize> {
    if sorted.len() == 1 {
        return sorted;
    }
    let inner: Vec<Vec<usize>> = sorted
        .iter()
        .map(|at| needs[*at].after.iter().filter_map(|i| sorted.binary_search(&slot[*i]).ok()).collect())
        .collect();
    components(&inner).into_iter().flatten().map(|at| sorted[at]).collect()
}

fn own_op(draft: &Draft) -> Option<&PlannedOp> {
    match draft {
        Draft::Up(ops) => ops.first(),
        _ => None,
    }
}

fn leaves(draft: &Draft) -> bool {
    own_op(draft).is_some_and(|op| matches!(op.change, Change::Move { .. } | Change::Delete { .. }))
}

fn needs_of(work: &Work, drafts: &[Draft], i: usize) -> Result<Needs, TreeError> {
    let mut needs = Needs { missing: work.nodes[i].beyond, ..Needs::default() };
    match own_op(&drafts[i]).map(|op| &op.change) {
        Some(Change::Create { at, .. } | Change::Revive { at, .. }) => {
            place(work, drafts, i, at, &mut needs)?;
        }
        Some(Change::Move { to, .. }) => {
            place(work, drafts, i, to, &mut needs)?;
            out_of_the_way(work, drafts, i, to, &mut needs)?;
        }
        Some(Change::Delete { .. }) => emptied(work, drafts, i, &mut needs)?,
        Some(Change::Update { .. }) | None => {}
    }
    Ok(needs)
}

/// The directory is there, and the name is free.
fn place(work: &Work, drafts: &[Draft], i: usize, at: &Placed, needs: &mut Needs) -> Result<(), TreeError> {
    if at.parent != NodeUid::ROOT {
        match work.find(at.parent) {
            Some(p) if work.nodes[p].share.is_some() => {}
            Some(p) if own_op(&drafts[p]).is_some() => needs.after.push(p),
            _ => needs.missing = Some(at.parent),
        }
    }
    if let Some(other) = work.cloud_at(at)?.filter(|other| *other != work.nodes[i].uid) {
        match work.find(other) {
            Some(o) if leaves(&drafts[o]) => needs.together.push(o),
            _ => needs.missing = Some(other),
        }
    }
    Ok(())
}

/// A directory that moves below what was below it needs that moved out, in one group. Groups are taken one after another, so
/// what counts is not only where a directory above stands, but where this plan takes it as well: whatever mixture of the
/// two leads back to the directory itself is taken together.
fn out_of_the_way(
    work: &Work,
    drafts: &[Draft],
    i: usize,
    to: &Placed,
    needs: &mut Needs,
) -> Result<(), TreeError> {
    let node = &work.nodes[i];
    let from = node.share.as_ref().map(|share| share.at.parent);
    if !node.is_directory() || from == Some(to.parent) {
        return Ok(());
    }
    let (mut movers, mut seen, mut comes_back) = (Vec::new(), BTreeSet::new(), false);
    let mut ways = vec![to.parent];
    while let Some(above) = ways.pop() {
        comes_back |= above == node.uid;
        if above == NodeUid::ROOT || above == node.uid || !seen.insert(above) {
            continue;
        }
        let found = work.find(above);
        movers.extend(found.filter(|at| leaves(&drafts[*at])));
        ways.extend(match found {
            Some(at) => work.nodes[at].share.as_ref().map(|share| share.at.parent),
            None => work.trees.cloud(above)?.map(|share| share.at.parent),
        });
        if let Some(Change::Create { at, .. } | Change::Revive { at, .. } | Change::Move { to: at, .. }) =
            found.and_then(|at| own_op(&drafts[at])).map(|op| &op.change)
        {
            ways.push(at.parent);
        }
    }
    if comes_back {
        needs.missing = needs.missing.or(movers.is_empty().then_some(to.parent));
        needs.together.append(&mut movers);
    }
    Ok(())
}

/// A directory is deleted after all that the share has in it.
fn emptied(work: &Work, drafts: &[Draft], i: usize, needs: &mut Needs) -> Result<(), TreeError> {
    let node = &work.nodes[i];
    let Some(share) = node.share.as_ref().filter(|share| share.content == Content::Directory) else {
        return Ok(());
    };
    debug_assert_ne!(share.at.parent, node.uid);
    let mut after: Option<Vec<u8>> = None;
    loop {
        let page = work.trees.cloud_children(node.uid, after.as_deref(), PAGE)?;
        for child in &page {
            match work.find(*child) {
                Some(c) if leaves(&drafts[c]) => needs.after.push(c),
                _ => {
                    needs.missing = Some(*child);
                    return Ok(());
                }
            }
        }
        let last = page.last().filter(|_| page.len() == PAGE).and_then(|last| work.find(*last));
        let Some(share) = last.and_then(|last| work.nodes[last].share.as_ref()) else { return Ok(()) };
        after = Some(work.settings.case.key(share.at.name.as_bytes()).into_owned());
    }
}
