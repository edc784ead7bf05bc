//! The difference from the disk to the target tree: steps for the disk.
//!
//! A disk does one thing after another, so steps that need each other's places are a knot. A ring of names is turned
//! by exchanges. Any other knot is loosened by one step that makes room, and the next plan sees the rest: a crash in
//! between leaves a tree like any other, with every node at one place.

use std::collections::BTreeSet;

use polder_types::{
    NodeUid, Placed, Stamp,
    zoo::{Bug, planted},
};

use crate::{
    Act, Apply, Becomes, Held, HeldReason, Over, Plan, Reason, SyncedNode, TreeError, Waiting, draft::Draft,
    graph::components, node::Node, work::Work,
};

/// Children that are looked at in one go.
const PAGE: usize = 256;

/// Adds the steps, and who waits.
pub(crate) fn applies(work: &mut Work, drafts: &mut [Draft], plan: &mut Plan) -> Result<(), TreeError> {
    let members: Vec<usize> = (0..drafts.len()).filter(|i| matches!(drafts[*i], Draft::Down(_))).collect();
    let mut slot = vec![usize::MAX; drafts.len()];
    members.iter().enumerate().for_each(|(at, i)| slot[*i] = at);
    let mut steps = Vec::with_capacity(members.len());
    for i in &members {
        let needs = needs_of(work, drafts, *i)?;
        let to_slot = |others: Vec<usize>| others.into_iter().map(|other| slot[other]).collect();
        steps.push(Step {
            node: *i,
            uid: work.nodes[*i].uid,
            name: needs.name.map(|other| slot[other]),
            after: to_slot(needs.after),
            missing: needs.missing,
            clash: needs.clash,
            going: false,
            over: false,
            done: None,
        });
    }
    let edges: Vec<Vec<usize>> =
        steps.iter().map(|step| step.after.iter().chain(&step.name).copied().collect()).collect();
    let found = components(&edges);
    let mut down = Down { work, drafts, steps, edges };
    down.find_going(&found, plan);
    down.find_over();
    for component in &found {
        match component[..] {
            [at] => down.emit(at, plan),
            _ => down.loosen(component, plan)?,
        }
    }
    Ok(())
}

/// A drafted step with what it needs. Numbers are places in [`Down::steps`].
struct Step {
    node: usize,
    uid: NodeUid,
    /// Who must leave the name.
    name: Option<usize>,
    /// Who else must be done before.
    after: Vec<usize>,
    /// Something that is not planned now.
    missing: Option<NodeUid>,
    /// The disk cannot have the name.
    clash: Option<NodeUid>,
    /// It needs nothing but steps that go, too.
    going: bool,
    /// Whoever takes its name takes it in one exchange with this step.
    over: bool,
    /// Its place in the plan.
    done: Option<usize>,
}

struct Down<'w, 'a> {
    work: &'w mut Work<'a>,
    drafts: &'w mut [Draft],
    steps: Vec<Step>,
    edges: Vec<Vec<usize>>,
}

impl Down<'_, '_> {
    /// Who can go on its own now, and who waits for what.
    fn find_going(&mut self, found: &[Vec<usize>], plan: &mut Plan) {
        for component in found {
            for at in component {
                let step = &self.steps[*at];
                let uid = step.uid;
                let not_going = self.edges[*at].iter().find(|other| !self.steps[**other].going);
                if let Some(with) = step.clash {
                    plan.held.push(Held { uid, why: HeldReason::CaseClash { with } });
                } else if let Some(on) = step.missing {
                    plan.waiting.push(Waiting { uid, on });
                } else if let (Some(other), 1) = (not_going, component.len()) {
                    plan.waiting.push(Waiting { uid, on: self.steps[*other].uid });
                } else if component.len() == 1 {
                    self.steps[*at].going = true;
                }
            }
        }
    }

    /// What is placed goes over what leaves the name, in one exchange: the path is never missing in between.
    fn find_over(&mut self) {
        for at in 0..self.steps.len() {
            let Some(other) = self.steps[at].name else { continue };
            let Some(Act::Place { at: to, .. }) = self.act(at) else { continue };
            // Under another case of the name it is not an exchange, and goes one after the other.
            let leaving = match &self.drafts[self.steps[other].node] {
                Draft::Down(step) => match &step.act {
                    Act::Remove { at, .. } => at == to,
                    Act::Move { from, .. } => {
                        from == to && matches!(step.why, Reason::NameTaken | Reason::DirectoryKeepsName)
                    }
                    _ => false,
                },
                _ => false,
            };
            self.steps[other].over = leaving && self.steps[at].going && self.steps[other].going;
        }
    }

    fn act(&self, at: usize) -> Option<&Act> {
        own_act(&self.drafts[self.steps[at].node])
    }

    fn take(&mut self, at: usize) -> Option<Apply> {
        match std::mem::replace(&mut self.drafts[self.steps[at].node], Draft::Nothing) {
            Draft::Down(step) => Some(*step),
            _ => None,
        }
    }

    fn emit(&mut self, at: usize, plan: &mut Plan) {
        if !self.steps[at].going || self.steps[at].over {
            return;
        }
        let Some(mut step) = self.take(at) else { return };
        let mut before = self.edges[at].clone();
        if let (Act::Place { over, .. }, Some(other)) = (&mut step.act, self.steps[at].name)
            && self.steps[other].over
        {
            before.extend(&self.edges[other]);
            *over = self.take(other).and_then(over_of);
        }
        step.after = before.into_iter().filter_map(|other| self.steps[other].done).collect();
        step.after.sort_unstable();
        step.after.dedup();
        self.steps[at].done = Some(plan.applies.len());
        plan.applies.push(step);
    }

    fn loosen(&mut self, knot: &[usize], plan: &mut Plan) -> Result<(), TreeError> {
        let stuck = |step: &Step| step.missing.is_some() || step.clash.is_some();
        if knot.iter().any(|at| stuck(&self.steps[*at])) {
            // Those that are stuck have said so; the others wait for the first of them.
            let on = knot.iter().find(|at| stuck(&self.steps[**at])).map(|at| self.steps[*at].uid);
            let others = knot.iter().filter(|at| !stuck(&self.steps[**at]));
            plan.waiting
                .extend(others.filter_map(|at| on.map(|on| Waiting { uid: self.steps[*at].uid, on })));
            return Ok(());
        }
        match self.ring(knot)? {
            Some(ring) => self.turn(&ring, plan),
            None => self.make_room(knot, plan)?,
        }
        Ok(())
    }

    /// The knot as a ring in which each takes the name of the next, if it is one and no member is above another's place.
    fn ring(&self, knot: &[usize]) -> Result<Option<Vec<usize>>, TreeError> {
        let mut ring = vec![knot[0]];
        loop {
            let at = ring[ring.len() - 1];
            let Some(next) = self.steps[at].name else { return Ok(None) };
            let (Some(Act::Move { to, .. }), Some(Act::Move { from, .. })) = (self.act(at), self.act(next))
            else {
                return Ok(None);
            };
            // Under another case of the name an exchange would not give the right one. A second need makes it more
            // than a ring; so does a way that does not come back after as many steps as the knot has.
            if to != from || self.edges[at].len() != 1 || ring.len() > knot.len() {
                return Ok(None);
            }
            if next == knot[0] {
                break;
            }
            ring.push(next);
        }
        if ring.len() != knot.len() {
            return Ok(None);
        }
        let members: BTreeSet<NodeUid> = ring.iter().map(|at| self.steps[*at].uid).collect();
        let mut sound = BTreeSet::from([NodeUid::ROOT]);
        for at in &ring {
            let node = &self.work.nodes[self.steps[*at].node];
            let mut above = node.here.as_ref().map(|here| here.at.parent);
            while let Some(uid) = above.filter(|uid| !sound.contains(uid)) {
                if members.contains(&uid) && !planted(Bug::TurnsEveryKnot) {
                    return Ok(None);
                }
                sound.insert(uid);
                above = parent_here(self.work, uid)?;
            }
        }
        Ok(Some(ring))
    }

    /// Turns a ring: the first place is exchanged with each next one, and every exchange brings one more node home.
    fn turn(&mut self, ring: &[usize], plan: &mut Plan) {
        let mut homeless: Option<(Apply, Placed, Stamp)> = None;
        for (turned, at) in ring.iter().enumerate() {
            let Some(next) = self.take(*at) else { return };
            let Act::Move { from, expect, .. } = next.act.clone() else { return };
            let Some((mut step, first, expect_first)) = homeless.take() else {
                homeless = Some((next, from, expect));
                continue;
            };
            let last = turned + 1 == ring.len();
            step.act = Act::Exchange {
                from: first.clone(),
                expect: expect_first,
                with: next.uid,
                to: from,
                expect_with: expect,
                becomes_with: if last { next.becomes.clone() } else { Becomes::Unchanged },
            };
            step.after = if turned == 1 { Vec::new() } else { vec![plan.applies.len() - 1] };
            plan.applies.push(step);
            homeless = Some((next, first, expect));
        }
    }

    /// Moves one of a knot one directory up, to a free name; all others wait.
    fn make_room(&mut self, knot: &[usize], plan: &mut Plan) -> Result<(), TreeError> {
        let Some(at) = knot.iter().copied().find(|at| matches!(self.act(*at), Some(Act::Move { .. }))) else {
            return Ok(());
        };
        let Some(mut step) = self.take(at) else { return Ok(()) };
        let Act::Move { from, expect, .. } = step.act else { return Ok(()) };
        let up = parent_here(self.work, from.parent)?.unwrap_or(NodeUid::ROOT);
        let (i, label) = (self.steps[at].node, self.work.settings.server.clone());
        let others = knot.iter().filter(|other| **other != at);
        plan.waiting.extend(others.map(|other| Waiting { uid: self.steps[*other].uid, on: step.uid }));
        match self.work.claim_free_name(i, up, &from.name, &label)? {
            Some(to) => {
                step.becomes = aside(&self.work.nodes[i], &to);
                step.why = Reason::MakeRoom;
                step.act = Act::Move { from, expect, to };
                plan.applies.push(step);
            }
            None => plan.held.push(Held { uid: step.uid, why: HeldReason::NoFreeName }),
        }
        Ok(())
    }
}

/// A node that makes room is agreed to be where it waits: the share's place is then the one that changed, and the next
/// plan takes it there.
fn aside(node: &Node, to: &Placed) -> Becomes {
    match &node.base {
        Some(base) => {
            let stamp = Stamp { ident: node.stamp().ident, ..base.stamp };
            let row = SyncedNode { at: to.clone(), stamp, ..base.clone() };
            Becomes::Row { row, clean: false }
        }
        None => Becomes::Unchanged,
    }
}

fn over_of(leaving: Apply) -> Option<Over> {
    let (expect, to) = match leaving.act {
        Act::Remove { expect, .. } => (expect, None),
        Act::Move { expect, to, .. } => (expect, Some(to)),
        _ => return None,
    };
    Some(Over { uid: leaving.uid, expect, to, becomes: leaving.becomes })
}

/// What a step needs, by places in the working set.
#[derive(Default)]
struct Needs {
    name: Option<usize>,
    after: Vec<usize>,
    missing: Option<NodeUid>,
    clash: Option<NodeUid>,
}

fn own_act(draft: &Draft) -> Option<&Act> {
    match draft {
        Draft::Down(step) => Some(&step.act),
        _ => None,
    }
}

fn leaves(draft: &Draft) -> bool {
    matches!(own_act(draft), Some(Act::Move { .. } | Act::Remove { .. }))
}

fn needs_of(work: &Work, drafts: &[Draft], i: usize) -> Result<Needs, TreeError> {
    let mut needs = Needs { missing: work.nodes[i].beyond, ..Needs::default() };
    match own_act(&drafts[i]) {
        Some(Act::Place { at, .. }) => place(work, drafts, i, at, &mut needs)?,
        Some(Act::Move { to, .. }) => {
            place(work, drafts, i, to, &mut needs)?;
            out_of_the_way(work, drafts, i, to, &mut needs)?;
        }
        Some(Act::Remove { .. }) => emptied(work, drafts, i, &mut needs)?,
        _ => {}
    }
    Ok(needs)
}

/// The directory is there, and the name is free.
fn place(work: &Work, drafts: &[Draft], i: usize, at: &Placed, needs: &mut Needs) -> Result<(), TreeError> {
    let uid = work.nodes[i].uid;
    if at.parent != NodeUid::ROOT {
        match work.find(at.parent) {
            Some(p) if work.nodes[p].here.is_some() => {}
            Some(p) if own_act(&drafts[p]).is_some() => needs.after.push(p),
            _ => needs.missing = Some(at.parent),
        }
    }
    if let Some(other) = work.local_at(at)?.filter(|other| *other != uid) {
        match work.find(other) {
            Some(o) if leaves(&drafts[o]) => needs.name = Some(o),
            _ => needs.missing = Some(other),
        }
    } else if let Some(other) = work.trees.local_clash(at)?.filter(|other| *other != uid) {
        match work.find(other) {
            Some(o) if leaves(&drafts[o]) => needs.name = Some(o),
            _ => needs.clash = Some(other),
        }
    }
    Ok(())
}

/// A directory that moves below what is below it needs that moved out first.
fn out_of_the_way(
    work: &Work,
    drafts: &[Draft],
    i: usize,
    to: &Placed,
    needs: &mut Needs,
) -> Result<(), TreeError> {
    let node = &work.nodes[i];
    let from = node.here.as_ref().map(|here| here.at.parent);
    if !node.is_directory() || from == Some(to.parent) {
        return Ok(());
    }
    let mut movers = Vec::new();
    let mut above = to.parent;
    while above != NodeUid::ROOT {
        if above == node.uid {
            needs.missing = needs.missing.or(movers.is_empty().then_some(to.parent));
            needs.after.append(&mut movers);
            return Ok(());
        }
        movers.extend(work.find(above).filter(|at| leaves(&drafts[*at])));
        let parent = match work.find(above).and_then(|at| own_act(&drafts[at])) {
            // It comes to stand there in this plan.
            Some(Act::Place { at, .. }) => Some(at.parent),
            _ => parent_here(work, above)?,
        };
        let Some(parent) = parent else { return Ok(()) };
        above = parent;
    }
    Ok(())
}

/// A directory is removed after all that stands in it.
fn emptied(work: &Work, drafts: &[Draft], i: usize, needs: &mut Needs) -> Result<(), TreeError> {
    let node = &work.nodes[i];
    if !node.is_directory() {
        return Ok(());
    }
    let mut after: Option<Vec<u8>> = None;
    loop {
        let page = work.trees.local_children(node.uid, after.as_deref(), PAGE)?;
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
        let Some(here) = last.and_then(|last| work.nodes[last].here.as_ref()) else { return Ok(()) };
        after = Some(work.settings.case.key(here.at.name.as_bytes()).into_owned());
    }
}

fn parent_here(work: &Work, uid: NodeUid) -> Result<Option<NodeUid>, TreeError> {
    if uid == NodeUid::ROOT {
        return Ok(None);
    }
    match work.find(uid) {
        Some(at) => Ok(work.nodes[at].here.as_ref().map(|here| here.at.parent)),
        None => Ok(work.trees.local(uid)?.map(|here| here.at.parent)),
    }
}
