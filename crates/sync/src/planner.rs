//! The planner: merge, repair, two differences (`docs/design/2026-11-23-first-line.md`, section 2).

use std::collections::BTreeMap;
use std::sync::Arc;

use polder_types::{CaseRule, FileIdent, NodeUid};

use crate::{
    Held, Plan, Read, Rekeyed, Settled, TreeError, Trees, Waiting, down,
    draft::{Draft, draft},
    node::{Merged, Node},
    up,
    work::Work,
};

/// What the planner must know of the endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Which names the share takes for equal.
    pub case: CaseRule,
    /// How the two sides are merged.
    pub rule: Rule,
    /// Name of this server, for conflict copies of its content.
    pub server: Arc<str>,
    /// Name for conflict copies of the share's content.
    pub cloud: Arc<str>,
    /// Whether a directory's time that changed here, and nothing else of it, is sent. Set when all is quiet: times of
    /// directories follow their children, and would make a version for each. While it is not set, nothing is planned
    /// for such a directory, and it stays changed.
    pub directory_times: bool,
    /// What only this server had after an absence that was too long, by inode: merged as a person has decided since.
    pub extras: Arc<BTreeMap<FileIdent, Extra>>,
    /// Most nodes that one plan looks at: the window and what it pulls in. What needs more, waits.
    pub nodes_max: usize,
}

/// How the two sides are merged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Rule {
    /// Both sides count the same.
    #[default]
    Merge,
    /// What is on disk is right, everywhere (the first sync of an authoritative endpoint). The disk must have been
    /// scanned completely.
    HereWins,
    /// As `Merge`, but nothing is deleted: after one of the two sides was set back in time (promise I7).
    NoDeletes,
    /// As `NoDeletes`, and what only this server has is held for review: after an absence that was too long.
    Review,
    /// As `NoDeletes`, and what only this server has leaves the disk for the recycle area: a person has said so.
    Discard,
}

/// What becomes of a node that only this server had after an absence that was too long. In force while the share has
/// no such node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extra {
    /// Nobody has decided yet: it stays as it is, here alone.
    Waits,
    /// It is wanted: offered to the share, deleted there or not.
    Accepted,
    /// It is not: it leaves the disk for the recycle area.
    Discarded,
}

/// Plans a window of changed nodes.
///
/// The result depends on the arguments alone. `busy` tells the nodes that have work in flight or whose state is not
/// settled yet (a name that vanished a moment ago): they are not planned, and what depends on them waits.
///
/// # Errors
/// Only when a tree cannot be read; then nothing is planned.
pub fn plan(
    trees: &dyn Trees,
    window: &[NodeUid],
    busy: &dyn Fn(NodeUid) -> bool,
    settings: &Settings,
) -> Result<Plan, TreeError> {
    let mut work = Work::gather(trees, window, busy, settings)?;
    let mut plan = Plan::default();
    let mut drafts: Vec<Draft> = work.nodes.iter().map(|node| draft(node, settings)).collect();
    for (node, draft) in work.nodes.iter().zip(&mut drafts) {
        let uid = node.uid;
        match draft {
            Draft::Settle(row) => plan.settled.push(Settled { uid, row: row.take() }),
            Draft::Read(intent) => match adopted_above(&work, node) {
                Some(on) => plan.waiting.push(Waiting { uid, on }),
                None => plan.reads.push(Read { uid, intent: *intent }),
            },
            Draft::Held(why) => plan.held.push(Held { uid, why: why.clone() }),
            Draft::Nothing | Draft::Up(_) | Draft::Down(_) => continue,
        }
        *draft = Draft::Nothing;
    }
    for node in &work.nodes {
        match (&node.merged, &node.here) {
            (Merged::Rekeyed(to), Some(_)) if !node.busy => {
                plan.rekeyed.push(Rekeyed { from: node.uid, to: *to });
            }
            _ => {}
        }
    }
    up::groups(&work, &mut drafts, &mut plan)?;
    down::applies(&mut work, &mut drafts, &mut plan)?;
    Ok(plan)
}

/// The node of the share that a directory above a new node is adopted by in this plan: what lies below may then be adopted
/// in turn, and need not be read to be stored.
fn adopted_above(work: &Work, node: &Node) -> Option<NodeUid> {
    let mut at = node;
    // No way up is longer than there are nodes.
    for _ in 0..work.nodes.len() {
        let here = at.here.as_ref().filter(|_| at.share.is_none() && at.base.is_none())?;
        at = &work.nodes[work.find(here.at.parent)?];
        if let Merged::Rekeyed(to) = at.merged {
            return Some(to);
        }
    }
    None
}
