//! Carries out plans on the models: the share checks groups as the ledger does, the disk re-checks expectations.

use polder_sync::{
    Act, Apply, Becomes, Change, CloudNode, Displaced, LocalContent, LocalNode, PlannedGroup, PlannedOp,
};
use polder_types::{Content, FileIdent, Kind, NodeUid, Placed, Seq, Stamp, Timestamp};

use crate::world::World;

/// Why nothing of a group or step happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    Base,
    Name,
    Parent,
    Cycle,
    NotEmpty,
    Exists,
    Expectation,
}

impl World {
    /// Takes a group as a whole or not at all: checked on the state after all of it.
    pub fn commit(&mut self, group: &PlannedGroup) -> Result<(), Refused> {
        let mut after = self.clone();
        let mut placed: Vec<(NodeUid, CloudNode)> = Vec::new();
        for op in &group.ops {
            after.check_base(op)?;
            let since = after.next_seq();
            let node = after.node_after(op, since);
            after.put_share(op.uid, None);
            placed.extend(node.map(|node| (op.uid, node)));
        }
        for (uid, node) in placed {
            if after.share_at(&node.at).is_some() {
                return Err(Refused::Name);
            }
            let becomes = group.ops.iter().find(|op| op.uid == uid).map(|op| op.becomes.clone());
            let since = node.since;
            after.put_share(uid, Some(node));
            after.become_row(uid, becomes.unwrap_or(Becomes::Unchanged), Some(since), None);
        }
        for op in &group.ops {
            match &op.change {
                Change::Delete { .. } => {
                    if after.share.values().any(|node| node.at.parent == op.uid) {
                        return Err(Refused::NotEmpty);
                    }
                    after.become_row(op.uid, op.becomes.clone(), None, None);
                }
                Change::Create { at, .. } | Change::Revive { at, .. } | Change::Move { to: at, .. } => {
                    if !after.has_directory(false, at.parent) {
                        return Err(Refused::Parent);
                    }
                    if after.is_cyclic(op.uid) {
                        return Err(Refused::Cycle);
                    }
                }
                Change::Update { .. } => {}
            }
        }
        *self = after;
        Ok(())
    }

    fn is_cyclic(&self, uid: NodeUid) -> bool {
        let mut at = self.share[&uid].at.parent;
        for _ in 0..=self.share.len() {
            match self.share.get(&at) {
                _ if at == NodeUid::ROOT => return false,
                Some(node) => at = node.at.parent,
                None => return false,
            }
        }
        true
    }

    fn check_base(&self, op: &PlannedOp) -> Result<(), Refused> {
        let current = self.share.get(&op.uid).map(|node| node.since);
        match &op.change {
            Change::Create { .. } if self.known.contains(&op.uid) => Err(Refused::Exists),
            Change::Create { .. } => Ok(()),
            Change::Revive { .. } if current.is_some() => Err(Refused::Base),
            Change::Revive { .. } => Ok(()),
            Change::Update { base, .. } | Change::Move { base, .. } | Change::Delete { base } => {
                if current == Some(*base) { Ok(()) } else { Err(Refused::Base) }
            }
        }
    }

    fn node_after(&self, op: &PlannedOp, since: Seq) -> Option<CloudNode> {
        let before = self.share.get(&op.uid);
        match op.change.clone() {
            Change::Create { at, content, attrs, mtime } | Change::Revive { at, content, attrs, mtime } => {
                Some(CloudNode { at, content, attrs, mtime, since })
            }
            Change::Update { content, attrs, mtime, .. } => {
                let before = before.expect("its base was checked");
                Some(CloudNode {
                    at: before.at.clone(),
                    content: content.unwrap_or_else(|| before.content.clone()),
                    attrs: attrs.unwrap_or(before.attrs),
                    mtime: mtime.unwrap_or(before.mtime),
                    since,
                })
            }
            Change::Move { to, .. } => {
                Some(CloudNode { at: to, since, ..before.expect("its base was checked").clone() })
            }
            Change::Delete { .. } => None,
        }
    }

    fn become_row(&mut self, uid: NodeUid, becomes: Becomes, since: Option<Seq>, stamp: Option<Stamp>) {
        match becomes {
            Becomes::Unchanged => {}
            Becomes::Gone => {
                self.synced.remove(&uid);
            }
            Becomes::Row { mut row, clean } => {
                row.since = since.unwrap_or(row.since);
                match stamp {
                    Some(stamp) if clean => row.stamp = stamp,
                    Some(stamp) => row.stamp.ident = stamp.ident,
                    None => {}
                }
                self.synced.insert(uid, row);
            }
        }
    }

    /// Does one step on disk, or refuses it because the disk is not as expected.
    pub fn apply(&mut self, step: &Apply) -> Result<(), Refused> {
        let uid = step.uid;
        let stamp = match &step.act {
            Act::Place { at, content, attrs, mtime, over } => {
                if !self.has_directory(true, at.parent) || self.disk.contains_key(&uid) {
                    return Err(Refused::Parent);
                }
                if let Some(over) = over {
                    if self.disk_at(at) != Some(over.uid) {
                        return Err(Refused::Expectation);
                    }
                    match &over.to {
                        None => self.remove(over.uid, at, over.expect)?,
                        Some(to) => self.rename(over.uid, at, over.expect.ident, to)?,
                    }
                    let stamp = self.disk.get(&over.uid).map(|node| node.stamp);
                    self.become_row(over.uid, over.becomes.clone(), None, stamp);
                }
                if self.disk_at(at).is_some() {
                    return Err(Refused::Name);
                }
                self.place(uid, at, content, *attrs, *mtime)
            }
            Act::Replace { at, expect, content, attrs, mtime, displaced } => {
                self.expect(uid, at, *expect)?;
                let before = self.disk[&uid].clone();
                let unread = self.unread.get(&uid).cloned();
                self.put_disk(uid, None);
                if let Displaced::Keep(copy_at) = displaced {
                    if self.disk_at(copy_at).is_some() {
                        self.put_disk(uid, Some(before));
                        return Err(Refused::Name);
                    }
                    let copy = self.uid();
                    self.put_disk(copy, Some(LocalNode { at: copy_at.clone(), ..before }));
                    self.unread.extend(unread.map(|content| (copy, content)));
                }
                self.place(uid, at, content, *attrs, *mtime)
            }
            Act::Touch { at, expect, attrs, mtime } => {
                self.expect(uid, at, *expect)?;
                let mut node = self.disk[&uid].clone();
                node.attrs = attrs.unwrap_or(node.attrs);
                node.mtime = mtime.unwrap_or(node.mtime);
                node.stamp = self.stamp(Some(node.stamp.ident));
                let stamp = node.stamp;
                self.disk.insert(uid, node);
                stamp
            }
            Act::Move { from, expect, to } => {
                self.rename(uid, from, expect.ident, to)?;
                self.disk[&uid].stamp
            }
            Act::Exchange { from, expect, with, to, expect_with, becomes_with } => {
                self.exchange((uid, from, expect.ident), (*with, to, expect_with.ident))?;
                let stamp = self.disk[with].stamp;
                self.become_row(*with, becomes_with.clone(), None, Some(stamp));
                self.disk[&uid].stamp
            }
            Act::Remove { at, expect } => {
                self.remove(uid, at, *expect)?;
                Stamp::default()
            }
        };
        self.become_row(uid, step.becomes.clone(), None, Some(stamp));
        Ok(())
    }

    /// The node stands there, and unless it is a directory, untouched.
    fn expect(&self, uid: NodeUid, at: &Placed, expect: Stamp) -> Result<(), Refused> {
        let node = self.disk.get(&uid).filter(|node| node.at == *at).ok_or(Refused::Expectation)?;
        let same = if node.kind == Kind::Directory {
            node.stamp.ident == expect.ident
        } else {
            node.stamp == expect
        };
        if same { Ok(()) } else { Err(Refused::Expectation) }
    }

    fn place(
        &mut self,
        uid: NodeUid,
        at: &Placed,
        content: &Content,
        attrs: polder_types::AttrsHash,
        mtime: Timestamp,
    ) -> Stamp {
        let stamp = self.stamp(None);
        let node = LocalNode {
            at: at.clone(),
            kind: content.kind(),
            content: LocalContent::Stored(content.clone()),
            attrs,
            mtime,
            stamp,
        };
        self.put_disk(uid, Some(node));
        stamp
    }

    fn remove(&mut self, uid: NodeUid, at: &Placed, expect: Stamp) -> Result<(), Refused> {
        self.expect(uid, at, expect)?;
        if self.disk.values().any(|node| node.at.parent == uid) {
            return Err(Refused::NotEmpty);
        }
        self.put_disk(uid, None);
        Ok(())
    }

    pub fn rename(
        &mut self,
        uid: NodeUid,
        from: &Placed,
        ident: FileIdent,
        to: &Placed,
    ) -> Result<(), Refused> {
        let node = self.disk.get(&uid).filter(|node| node.at == *from && node.stamp.ident == ident);
        let mut node = node.cloned().ok_or(Refused::Expectation)?;
        if !self.has_directory(true, to.parent) || self.is_below(true, to.parent, uid) {
            return Err(Refused::Parent);
        }
        if self.disk_at(to).is_some_and(|other| other != uid) {
            return Err(Refused::Name);
        }
        let unread = self.unread.get(&uid).cloned();
        node.at = to.clone();
        node.stamp = self.stamp(Some(ident));
        self.put_disk(uid, Some(node));
        self.unread.extend(unread.map(|content| (uid, content)));
        Ok(())
    }

    fn exchange(
        &mut self,
        one: (NodeUid, &Placed, FileIdent),
        two: (NodeUid, &Placed, FileIdent),
    ) -> Result<(), Refused> {
        for (uid, at, ident) in [one, two] {
            let node = self.disk.get(&uid).ok_or(Refused::Expectation)?;
            if node.at != *at || node.stamp.ident != ident {
                return Err(Refused::Expectation);
            }
        }
        if self.is_below(true, one.1.parent, two.0) || self.is_below(true, two.1.parent, one.0) {
            return Err(Refused::Parent);
        }
        let unread = [one.0, two.0].map(|uid| (uid, self.unread.get(&uid).cloned()));
        let mut first = self.disk[&one.0].clone();
        let mut second = self.disk[&two.0].clone();
        std::mem::swap(&mut first.at, &mut second.at);
        first.stamp = self.stamp(Some(first.stamp.ident));
        second.stamp = self.stamp(Some(second.stamp.ident));
        self.put_disk(one.0, None);
        self.put_disk(two.0, None);
        self.put_disk(one.0, Some(first));
        self.put_disk(two.0, Some(second));
        for (uid, content) in unread {
            self.unread.extend(content.map(|content| (uid, content)));
        }
        Ok(())
    }
}
