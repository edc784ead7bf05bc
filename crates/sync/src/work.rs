//! The working set of one plan: the window, what it pulls in, and the repair of the target tree.
//!
//! A node is *expanded* by pulling in who stands, on either side, where it shall stand, and its directory. Everything
//! that can contradict its target is then in the set: a target is always a place that the node has on one of the two
//! sides, so whoever else wants the same place stands there on one of them too.

use std::collections::{BTreeMap, btree_map::Entry};

use polder_types::{
    Kind, Name, NodeUid, Placed, conflict_name,
    zoo::{Bug, planted},
};

use crate::{
    Extra, HeldReason, LocalNode, Reason, Rule, Settings, TreeError, Trees,
    merge::{From, all_from, merge},
    node::{Merged, Node},
};

/// First conflict names that are tried one by one; after them the numbers double, so that the search for a free one
/// stays short however many copies there are.
const NAME_ATTEMPTS_IN_A_ROW: u32 = 64;

pub(crate) struct Work<'a> {
    pub trees: &'a dyn Trees,
    pub settings: &'a Settings,
    pub nodes: Vec<Node>,
    busy: &'a dyn Fn(NodeUid) -> bool,
    index: BTreeMap<NodeUid, usize>,
    to_expand: Vec<usize>,
    /// Places that targets and copies claim, by directory and key.
    claims: BTreeMap<(NodeUid, Vec<u8>), usize>,
}

impl<'a> Work<'a> {
    /// Loads the window, pulls in what it touches, and repairs the target tree.
    pub fn gather(
        trees: &'a dyn Trees,
        window: &[NodeUid],
        busy: &'a dyn Fn(NodeUid) -> bool,
        settings: &'a Settings,
    ) -> Result<Self, TreeError> {
        let (index, claims) = (BTreeMap::new(), BTreeMap::new());
        // Most of what a window pulls in are directories that many of its nodes share.
        let nodes = Vec::with_capacity(window.len() + window.len() / 4);
        let mut work = Self { trees, settings, busy, index, claims, nodes, to_expand: Vec::new() };
        for uid in window {
            work.load(*uid)?;
        }
        loop {
            work.expand_all()?;
            if planted(Bug::CycleNotCut) || !work.cut_cycles() {
                break;
            }
        }
        if !planted(Bug::NamesNotSettled) {
            work.settle_names()?;
        }
        work.name_copies()?;
        Ok(work)
    }

    pub fn find(&self, uid: NodeUid) -> Option<usize> {
        self.index.get(&uid).copied()
    }

    pub fn local_at(&self, at: &Placed) -> Result<Option<NodeUid>, TreeError> {
        self.trees.local_at(at.parent, &self.settings.case.key(at.name.as_bytes()))
    }

    pub fn cloud_at(&self, at: &Placed) -> Result<Option<NodeUid>, TreeError> {
        self.trees.cloud_at(at.parent, &self.settings.case.key(at.name.as_bytes()))
    }

    fn load(&mut self, uid: NodeUid) -> Result<usize, TreeError> {
        if let Some(at) = self.find(uid) {
            return Ok(at);
        }
        let here = self.trees.local(uid)?;
        let share = self.trees.cloud(uid)?;
        let base = self.trees.synced(uid)?;
        let merged = merge(here.as_ref(), share.as_ref(), base.as_ref(), self.rule(here.as_ref()));
        let busy = (self.busy)(uid);
        let at = self.nodes.len();
        self.nodes.push(Node { uid, here, share, base, busy, merged, expanded: false, beyond: None });
        self.index.insert(uid, at);
        self.to_expand.push(at);
        Ok(at)
    }

    /// The rule for a node that is here: its own, if a person is to decide or has decided on it.
    fn rule(&self, here: Option<&LocalNode>) -> Rule {
        let extra = here.and_then(|here| self.settings.extras.get(&here.stamp.ident));
        match extra {
            None => self.settings.rule,
            Some(Extra::Waits) => Rule::Review,
            Some(Extra::Accepted) => Rule::NoDeletes,
            Some(Extra::Discarded) => Rule::Discard,
        }
    }

    /// Pulls in a node on behalf of another one, unless the set is full: then the other one waits for it.
    fn pull(&mut self, uid: NodeUid, on_behalf: usize) -> Result<Option<usize>, TreeError> {
        if self.nodes.len() >= self.settings.nodes_max && self.find(uid).is_none() {
            self.nodes[on_behalf].beyond = Some(uid);
            return Ok(None);
        }
        self.load(uid).map(Some)
    }

    fn expand_all(&mut self) -> Result<(), TreeError> {
        while let Some(at) = self.to_expand.pop() {
            if self.nodes[at].uid != NodeUid::ROOT && !self.nodes[at].expanded {
                self.nodes[at].expanded = true;
                self.adopt(at)?;
                self.expand(at)?;
            }
        }
        Ok(())
    }

    fn expand(&mut self, i: usize) -> Result<(), TreeError> {
        let node = &self.nodes[i];
        let (uid, Some(target)) = (node.uid, node.target()) else { return Ok(()) };
        let at = target.at.clone();
        // Whoever stands there on the side where this node does stand there is this node.
        if node.here.as_ref().is_none_or(|here| here.at != at)
            && let Some(other) = self.local_at(&at)?.filter(|other| *other != uid)
            && let Some(o) = self.pull(other, i)?
        {
            // Once more: this node may have been revived since the other one was looked at.
            self.adopt(o)?;
        }
        let node = &self.nodes[i];
        if node.share.as_ref().is_none_or(|share| share.at != at)
            && let Some(other) = self.cloud_at(&at)?.filter(|other| *other != uid)
        {
            self.pull(other, i)?;
        }
        self.need_directory(i, at.parent)
    }

    /// The directory of a present node is present: revived from the side that has it, without its other children.
    fn need_directory(&mut self, i: usize, parent: NodeUid) -> Result<(), TreeError> {
        if parent == NodeUid::ROOT {
            return Ok(());
        }
        // Directories are pulled in even when the set is full: there are no more of them than the tree is deep.
        let p = self.load(parent)?;
        let directory = &mut self.nodes[p];
        let known = directory.here.is_some() || directory.share.is_some();
        if !known || !directory.is_directory() {
            let node = &mut self.nodes[i];
            let stood_there = node.here.as_ref().is_some_and(|here| here.at.parent == parent);
            if !known && stood_there && node.share.is_none() {
                // A row that has outlived its directory's, and that the share does not have either: a crash came between
                // the two. Nothing stands below what is nowhere.
                node.here = None;
                node.merged = Merged::Absent(Reason::DeletedHere);
            } else {
                node.merged = Merged::Held(HeldReason::Adrift);
            }
            return Ok(());
        }
        if matches!(directory.merged, Merged::Absent(_)) && !planted(Bug::RevivalWithoutAncestors) {
            let (from, at) = match (&directory.share, &directory.here) {
                (Some(share), _) => (From::Share, share.at.clone()),
                (None, Some(here)) => (From::Here, here.at.clone()),
                (None, None) => return Ok(()),
            };
            directory.merged = Merged::Present(all_from(from, at, Reason::DirectoryNeeded));
            directory.expanded = false;
            self.to_expand.push(p);
        }
        Ok(())
    }

    /// A node that is new here, under a name that the share's node has which is missing here, is that node: two servers
    /// that hold the same data are merged so, and a file that was deleted and made anew while it was edited elsewhere
    /// is an edit.
    fn adopt(&mut self, i: usize) -> Result<(), TreeError> {
        let node = &self.nodes[i];
        let (Some(here), None, None) = (&node.here, &node.share, &node.base) else {
            return self.seek_adopter(i);
        };
        if matches!(node.merged, Merged::Rekeyed(_)) {
            return Ok(());
        }
        let (at, kind) = (here.at.clone(), here.kind);
        let Some(other) = self.cloud_at(&at)? else { return Ok(()) };
        let Some(o) = self.pull(other, i)? else { return Ok(()) };
        let other = &self.nodes[o];
        let wanted = match &other.merged {
            Merged::Present(target) => other.share.as_ref().is_some_and(|share| share.at == target.at),
            Merged::Absent(_) => self.settings.rule == Rule::HereWins && other.base.is_none(),
            _ => false,
        };
        // What both sides knew and the share did not edit since would read as edited here, and be overwritten.
        let overwrites = match (&other.base, &other.share) {
            (Some(base), Some(share)) if kind != Kind::Directory => {
                self.settings.rule != Rule::Merge || base.content == share.content
            }
            _ => false,
        };
        let alike = other.here.is_none() && other.kind() == Some(kind);
        if alike && wanted && (!overwrites || planted(Bug::AdoptsWhatWasDeleted)) {
            let (new, shared) = (self.nodes[i].uid, other.uid);
            if other.busy || self.nodes[i].busy {
                // Later: until then neither takes the name from the other.
                self.nodes[i].beyond = Some(shared);
                self.nodes[o].beyond = Some(new);
                return Ok(());
            }
            self.nodes[o].merged = Merged::Rekeyed(new);
            self.nodes[i].merged = Merged::Rekeyed(shared);
        }
        Ok(())
    }

    /// Pulls in who may adopt a node of the share that would be deleted because this server is the authority.
    fn seek_adopter(&mut self, i: usize) -> Result<(), TreeError> {
        let node = &self.nodes[i];
        let (None, Some(share), None) = (&node.here, &node.share, &node.base) else { return Ok(()) };
        if self.settings.rule == Rule::HereWins
            && let Some(other) = self.local_at(&share.at.clone())?
        {
            self.pull(other, i)?;
        }
        Ok(())
    }

    /// Cuts the cycles that moves on the two sides make together: a move of this side is undone. Neither side has a cycle
    /// of its own, so each cycle holds such a move. Says whether anything changed.
    fn cut_cycles(&mut self) -> bool {
        let mut visited = vec![Visited::Not; self.nodes.len()];
        let mut changed = false;
        for start in 0..self.nodes.len() {
            if visited[start] != Visited::Not || !self.nodes[start].may_close_a_cycle() {
                continue;
            }
            let mut path = vec![];
            let mut next = Some(start);
            while let Some(at) = next {
                match visited[at] {
                    Visited::Sound => break,
                    Visited::OnPath => {
                        let from = path.iter().position(|on_path| *on_path == at).unwrap_or(0);
                        self.undo_move(&path[from..]);
                        changed = true;
                        break;
                    }
                    Visited::Not => {
                        visited[at] = Visited::OnPath;
                        path.push(at);
                        // The root stands in itself, which is no cycle.
                        let node = &self.nodes[at];
                        let target = node.target().filter(|_| node.uid != NodeUid::ROOT);
                        next = target.and_then(|target| self.find(target.at.parent));
                    }
                }
            }
            path.iter().for_each(|at| visited[*at] = Visited::Sound);
        }
        changed
    }

    /// Undoes one move of this side. Which one depends on names and not on ids, so that it stays the same one however
    /// much of the plan is carried out before the next.
    fn undo_move(&mut self, cycle: &[usize]) {
        let undoable = cycle.iter().copied().filter(|i| {
            let node = &self.nodes[*i];
            node.share.is_some() && node.target().is_some_and(|target| target.at_from == From::Here)
        });
        let name = |i: &usize| self.nodes[*i].share.as_ref().map(|share| share.at.name.clone());
        let Some(i) = undoable.min_by_key(name) else {
            // Only a tree that has a cycle of its own comes here. Nothing of it is touched.
            cycle.iter().for_each(|i| self.nodes[*i].merged = Merged::Held(HeldReason::Adrift));
            return;
        };
        let node = &mut self.nodes[i];
        if let (Merged::Present(target), Some(share)) = (&mut node.merged, &node.share) {
            target.at = share.at.clone();
            target.at_from = From::Share;
            target.why_at = Some(Reason::MoveUndone);
            node.expanded = false;
            self.to_expand.push(i);
        }
    }

    /// Two nodes under one key: the one that the share has there keeps it.
    fn settle_names(&mut self) -> Result<(), TreeError> {
        let mut yielding = Vec::new();
        for i in 0..self.nodes.len() {
            let node = &self.nodes[i];
            let Some(target) = node.target() else { continue };
            let key = self.claim_key(&target.at);
            let mut claim = match self.claims.entry(key) {
                Entry::Occupied(claim) => claim,
                Entry::Vacant(free) => {
                    free.insert(i);
                    continue;
                }
            };
            let other = *claim.get();
            let (keeper, loser) = if self.nodes[i].holds_target_in_share() { (i, other) } else { (other, i) };
            let only_shared = self.nodes[keeper].here.is_none() && !self.nodes[keeper].is_directory();
            if only_shared && self.nodes[loser].is_directory() {
                claim.insert(loser);
                yielding.push((keeper, loser, Reason::DirectoryKeepsName));
            } else {
                claim.insert(keeper);
                let directory = self.nodes[keeper].is_directory() && !self.nodes[loser].is_directory();
                let why = if directory { Reason::DirectoryKeepsName } else { Reason::NameTaken };
                yielding.push((loser, keeper, why));
            }
        }
        for (i, to, why) in yielding {
            let keeper = &self.nodes[to];
            let here_alone = keeper.here.is_some() && keeper.share.is_none();
            if keeper.busy && here_alone && !planted(Bug::YieldsToTheBusy) {
                // Whether that one stays is about to be seen.
                self.nodes[i].beyond = Some(keeper.uid);
                continue;
            }
            let label =
                if self.nodes[i].here.is_none() { &self.settings.cloud } else { &self.settings.server };
            let Some(at) = self.nodes[i].target().map(|target| target.at.clone()) else { continue };
            let free = self.claim_free_name(i, at.parent, &at.name, label)?;
            let Merged::Present(target) = &mut self.nodes[i].merged else { continue };
            match free {
                Some(at) => {
                    target.at = at;
                    target.at_from = From::New;
                    target.why_at = Some(why);
                }
                None => self.nodes[i].merged = Merged::Held(HeldReason::NoFreeName),
            }
        }
        Ok(())
    }

    /// Names for the copies of conflicts that can be resolved now: once the node has its place on both sides.
    fn name_copies(&mut self) -> Result<(), TreeError> {
        for i in 0..self.nodes.len() {
            let node = &self.nodes[i];
            let Some(target) = node.target() else { continue };
            if target.conflict.is_none() || !node.stands_on_both_sides() || node.busy {
                continue;
            }
            let share_loses = target.content == From::Here;
            let label = if share_loses { &self.settings.cloud } else { &self.settings.server };
            let at = target.at.clone();
            let free = self.claim_free_name(i, at.parent, &at.name, label)?;
            let copy = if share_loses { self.free_copy(i)? } else { None };
            let Merged::Present(target) = &mut self.nodes[i].merged else { continue };
            match (&mut target.conflict, free) {
                (Some(conflict), Some(at)) => (conflict.copy_at, conflict.copy) = (Some(at), copy),
                _ => self.nodes[i].merged = Merged::Held(HeldReason::NoFreeName),
            }
        }
        Ok(())
    }

    /// The id of the copy that keeps the share's content; `None` when the share has that copy already. It follows from
    /// the version, and the numbers of versions come again when a service was set back: then an id may be taken by a
    /// copy of what another history had there.
    fn free_copy(&self, i: usize) -> Result<Option<NodeUid>, TreeError> {
        let node = &self.nodes[i];
        let Some(share) = &node.share else { return Ok(None) };
        let mut uid = node.uid.copy_of(share.since);
        while let Some(copy) = self.trees.cloud(uid)? {
            if copy.content == share.content {
                return Ok(None);
            }
            uid = uid.copy_of(share.since);
        }
        Ok(Some(uid))
    }

    /// A conflict name that nobody has on either side or is to get in this plan.
    pub fn claim_free_name(
        &mut self,
        i: usize,
        parent: NodeUid,
        name: &Name,
        label: &str,
    ) -> Result<Option<Placed>, TreeError> {
        let doubling = (0..31).map(|power| 1u32 << power).filter(|n| *n >= NAME_ATTEMPTS_IN_A_ROW);
        for attempt in (0..NAME_ATTEMPTS_IN_A_ROW).chain(doubling) {
            let at = Placed { parent, name: conflict_name(name, label, attempt) };
            let key = self.claim_key(&at);
            if !self.claims.contains_key(&key)
                && self.local_at(&at)?.is_none()
                && self.cloud_at(&at)?.is_none()
                && self.trees.local_clash(&at)?.is_none()
            {
                self.claims.insert(key, i);
                return Ok(Some(at));
            }
        }
        Ok(None)
    }

    fn claim_key(&self, at: &Placed) -> (NodeUid, Vec<u8>) {
        (at.parent, self.settings.case.key(at.name.as_bytes()).into_owned())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Visited {
    Not,
    OnPath,
    Sound,
}

impl Node {
    /// Whether its target is where it stands on both sides: then nobody else can want the place.
    pub fn stands_on_both_sides(&self) -> bool {
        match (self.target(), &self.here, &self.share) {
            (Some(target), Some(here), Some(share)) => here.at == target.at && share.at == target.at,
            _ => false,
        }
    }

    fn holds_target_in_share(&self) -> bool {
        match (self.target(), &self.share) {
            (Some(target), Some(share)) => share.at == target.at,
            _ => false,
        }
    }

    /// A cycle of the target tree has a directory whose parent differs between the sides.
    fn may_close_a_cycle(&self) -> bool {
        let Some(target) = self.target().filter(|_| self.is_directory()) else { return false };
        let parent = target.at.parent;
        let here = self.here.as_ref().map(|here| here.at.parent);
        let share = self.share.as_ref().map(|share| share.at.parent);
        here != Some(parent) || share != Some(parent)
    }
}
