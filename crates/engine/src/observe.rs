//! Observation: what was seen under a name becomes the state of a node.
//!
//! Identity, in this order: the node that stands there with this inode; the node known by this inode elsewhere (it
//! moved); the node that stands there, or vanished from there, with another inode (an atomic save: it keeps its id);
//! a new node.
//!
//! Facts of one step are taken in phases: first entries whose inode is known, then names that are empty, then new
//! inodes. So a rename is a rename whatever the order in which its two names were looked at.

use std::collections::{BTreeMap, BTreeSet};

use polder_sync::{LocalContent, LocalNode, Seen, TreeError, TreeStore, Trees};
use polder_types::{
    AttrsHash, Content, FileIdent, Kind, NodeUid, Placed, Stamp,
    zoo::{Bug, planted},
};

use crate::engine::Engine;
use crate::overlay::{Key, View, is_as_agreed, stored_if_agreed};
use crate::pledges::stored;
use crate::work::State;
use crate::{JobId, SeenDir, SeenEntry, SkipReason};

/// What was seen under one name of a directory.
#[derive(Debug, Clone)]
pub(crate) struct Sight {
    pub(crate) at: Placed,
    pub(crate) entry: Option<SeenEntry>,
    /// Whether the other name of a file with several was looked at just before, in the same facts.
    pub(crate) links_checked: bool,
    /// The look or walk that has seen it.
    pub(crate) seen_by: Option<JobId>,
}

/// What was seen together.
struct Batch {
    /// Names that are empty.
    empty: BTreeSet<Key>,
    /// Where each inode was seen.
    idents: BTreeMap<FileIdent, Key>,
    /// The oldest job that saw any of it.
    seen_by: Option<JobId>,
}

impl Batch {
    fn of(sights: &[Sight], key: impl Fn(&Placed) -> Key) -> Self {
        let empty = sights.iter().filter(|sight| sight.entry.is_none()).map(|sight| key(&sight.at));
        let idents =
            sights.iter().filter_map(|sight| Some((sight.entry.as_ref()?.seen.stamp.ident, key(&sight.at))));
        let seen_by = sights.iter().filter_map(|sight| sight.seen_by).min();
        Self { empty: empty.collect(), idents: idents.collect(), seen_by }
    }

    fn is_elsewhere(&self, ident: FileIdent, than: &Key) -> bool {
        self.idents.get(&ident).is_some_and(|key| key != than) && !planted(Bug::MovedIsStillThere)
    }
}

impl Engine {
    /// Takes what was seen, in phases.
    pub(crate) fn observe(&mut self, store: &mut dyn TreeStore, sights: Vec<Sight>) -> Result<(), TreeError> {
        let mut empty = Vec::new();
        let mut known = Vec::new();
        let mut new = Vec::new();
        let batch = Batch::of(&sights, |at| self.overlay.key(at));
        for sight in sights {
            if let Some(entry) = &sight.entry {
                self.retry_frozen(store, entry.seen.stamp.ident)?;
            }
            match &sight.entry {
                None => {
                    self.name_came_or_went(sight.at.parent);
                    empty.push(sight.at);
                }
                Some(entry) if self.leaves_out(store, &sight.at, entry)? => {
                    self.name_came_or_went(sight.at.parent);
                    if entry.seen.kind.is_none() {
                        // A special file: whatever node stood there is there no more.
                        empty.push(sight.at);
                    }
                }
                Some(entry) => {
                    let view = View { store, overlay: &self.overlay };
                    let list =
                        if view.by_ident(entry.seen.stamp.ident)?.is_some() { &mut known } else { &mut new };
                    list.push(sight);
                }
            }
        }
        for sight in known.into_iter().chain(new.extract_if(.., |sight| sight.links_checked)) {
            self.observe_entry(store, sight, &batch)?;
        }
        for at in empty {
            self.observe_nothing(store, &at)?;
        }
        for sight in new {
            self.observe_entry(store, sight, &batch)?;
        }
        Ok(())
    }

    /// A name that nobody knows, as programs make and remove while they save, moves the time of its directory too.
    fn name_came_or_went(&mut self, dir: NodeUid) {
        if self.looks.telling {
            self.looks.dirs_touched.insert(dir);
        }
    }

    /// Whether a name takes no part: the filter, or a special file.
    fn leaves_out(
        &mut self,
        store: &mut dyn TreeStore,
        at: &Placed,
        entry: &SeenEntry,
    ) -> Result<bool, TreeError> {
        let why = match entry.seen.kind {
            None => SkipReason::Special,
            Some(kind) => {
                let Some(dir) = self.dir_path(store, at.parent)? else { return Ok(false) };
                if !self.settings.filter.excludes(dir.names(), &at.name, kind == Kind::Directory) {
                    return Ok(false);
                }
                SkipReason::Excluded
            }
        };
        self.skip(store, at, why)?;
        Ok(true)
    }

    fn observe_entry(
        &mut self,
        store: &mut dyn TreeStore,
        sight: Sight,
        batch: &Batch,
    ) -> Result<(), TreeError> {
        let Sight { at, entry: Some(entry), links_checked, .. } = sight else { return Ok(()) };
        let Some(kind) = entry.seen.kind else { return Ok(()) };
        let ident = entry.seen.stamp.ident;
        let key = self.overlay.key(&at);
        let view = View { store, overlay: &self.overlay };
        let standing = match self.overlay.all_by_ident(ident).find(|uid| self.stands_under(*uid, &key)) {
            Some(uid) => Some(uid),
            None => view.local_at(key.0, &key.1)?,
        };
        let standing_node = match standing {
            Some(uid) => view.local(uid)?.map(|node| (uid, node)),
            None => None,
        };
        if let Some((uid, node)) = &standing_node
            && node.stamp.ident == ident
            && node.kind == kind
        {
            let uid = *uid;
            self.set_present(store, uid, at, entry)?;
            return self.evict_others(store, &key, uid);
        }
        let known = match view.by_ident(ident)? {
            Some(uid) => self.known_elsewhere(store, uid, kind, &at)?,
            None => None,
        };
        if let Some((uid, old_place)) = &known
            && kind == Kind::File
            && entry.seen.links > 1
            && let Some(old_place) = old_place
        {
            // Another name of the same file, or a rename of a file that has yet another name.
            if !batch.empty.contains(&self.overlay.key(old_place)) {
                if !links_checked {
                    self.look_at_links(old_place.clone(), at);
                    return Ok(());
                }
                return self.take_name(store, at, entry, standing_node, None, batch);
            }
            let uid = *uid;
            return self.take_name(store, at, entry, standing_node, Some(uid), batch);
        }
        if let Some((_, Some(left))) = &known
            && let Some((_, before)) = &standing_node
            && kind != Kind::Directory
            && !links_checked
            && !batch.is_elsewhere(before.stamp.ident, &key)
            && !batch.empty.contains(&self.overlay.key(left))
            && !planted(Bug::HalfSwapIsEdit)
        {
            // Two files may have changed places, and a walk tells of one directory at a time: by halves that would be an edit of each.
            self.look_at_links(left.clone(), at);
            return Ok(());
        }
        if let Some((_, Some(left))) = &known
            && !batch.empty.contains(&self.overlay.key(left))
            && !planted(Bug::LeftPlaceNotLookedAt)
        {
            // This may be the older of two looks, and it has moved there meanwhile.
            self.looks.pend(left.parent, Some(left.name.clone()));
        }
        self.take_name(store, at, entry, standing_node, known.map(|(uid, _)| uid), batch)
    }

    /// A name is taken by an inode that did not stand there before.
    fn take_name(
        &mut self,
        store: &mut dyn TreeStore,
        at: Placed,
        entry: SeenEntry,
        standing: Option<(NodeUid, LocalNode)>,
        known: Option<NodeUid>,
        batch: &Batch,
    ) -> Result<(), TreeError> {
        let kind = entry.seen.kind.expect("special files were left out");
        let ident = entry.seen.stamp.ident;
        let is_dir = kind == Kind::Directory;
        let heir = match &standing {
            // In a swap or a chain the old one has moved on: it was seen elsewhere just now.
            Some((_, node)) if batch.is_elsewhere(node.stamp.ident, &self.overlay.key(&at)) => None,
            Some((uid, node)) if node.kind == kind => Some(*uid),
            _ => self.vanished_from(store, &at, kind, known)?,
        };
        let key = self.overlay.key(&at);
        let belongs = match known {
            Some(known) => self.belongs_at(store, known, &key)?,
            None => false,
        };
        let ours = if known.is_none() { self.placed_before(store, &key, &entry, heir)? } else { None };
        let uid = match (heir, known.or(ours)) {
            // What a cut-off apply has placed over another node is not that one's edit.
            (_, Some(uid)) if Some(uid) == ours => uid,
            // A directory that is known keeps its id, and with it everything inside.
            (_, Some(uid)) if is_dir => uid,
            // Back in its agreed place, or in the one that the share gave it: what stood there does not take its id over.
            (_, Some(uid)) if belongs && !planted(Bug::ReturnTakesOtherId) => uid,
            (Some(heir), Some(uid)) if self.brings_the_same(store, uid, heir)? => uid,
            (Some(heir), _) => heir,
            (None, Some(known)) => known,
            (None, None) => self.new_uid(),
        };
        let leaves = standing.map(|(old, _)| old).into_iter().chain(known).filter(|old| *old != uid);
        for old in leaves.collect::<Vec<_>>() {
            self.set_gone(store, old)?;
        }
        if let Some(known) = known.filter(|known| *known != uid) {
            self.give_up_inode(store, known, ident)?;
        }
        let returns = matches!(self.overlay.get(uid), Some(None));
        let old = if is_dir { View { store, overlay: &self.overlay }.local_row(uid)? } else { None };
        let moves = old.is_some_and(|old| old.at != at);
        self.set_present(store, uid, at, entry)?;
        if is_dir && returns {
            self.rows_hold_below(store, uid)?;
        }
        if is_dir && (returns || known != Some(uid)) {
            self.want_list(uid);
        }
        if let Some(job) = batch.seen_by.filter(|_| moves) {
            self.moved_beside_walk(uid, job);
        }
        self.evict_others(store, &key, uid)
    }

    /// Whether a node that differs from its row stands under a key.
    fn stands_under(&self, uid: NodeUid, key: &Key) -> bool {
        self.overlay.get(uid).flatten().is_some_and(|node| self.overlay.key(&node.at) == *key)
    }

    /// Whoever else is thought to stand under a name that is taken stands there no more.
    fn evict_others(&mut self, store: &mut dyn TreeStore, key: &Key, keep: NodeUid) -> Result<(), TreeError> {
        for other in self.overlay.all_at(key) {
            if other != keep && !planted(Bug::DoubtedStays) {
                self.set_gone(store, other)?;
            }
        }
        for other in store.synced_all_at(key.0, &key.1)? {
            if other != keep && self.overlay.get(other).is_none() && !planted(Bug::TwoUnderOneName) {
                self.set_gone(store, other)?;
            }
        }
        Ok(())
    }

    /// An empty name: nobody stands there. Two rows may say so while one of them has left and the other has come.
    fn observe_nothing(&mut self, store: &mut dyn TreeStore, at: &Placed) -> Result<(), TreeError> {
        let key = self.overlay.key(at);
        for uid in self.overlay.all_at(&key).into_iter().chain(store.synced_all_at(key.0, &key.1)?) {
            // Under a rule that folds names, "nothing" speaks of these very bytes only.
            let here = View { store, overlay: &self.overlay }.local(uid)?;
            if here.is_some_and(|node| node.at.parent == at.parent && node.at.name == at.name) {
                self.set_gone(store, uid)?;
                if planted(Bug::OneLeavesTheName) {
                    break;
                }
            }
        }
        Ok(())
    }

    /// A node stands at a place and looks like this.
    pub(crate) fn set_present(
        &mut self,
        store: &mut dyn TreeStore,
        uid: NodeUid,
        at: Placed,
        entry: SeenEntry,
    ) -> Result<(), TreeError> {
        let row = store.synced(uid)?;
        let kind = entry.seen.kind.expect("special files were left out");
        let mut stamp = entry.seen.stamp;
        let old = View { store, overlay: &self.overlay }.local_row_of(uid, row.as_ref());
        if kind == Kind::Directory
            && self.applies.works_in(uid)
            && let Some(old) = old.as_ref().filter(|old| old.stamp.ident == stamp.ident)
            && !planted(Bug::OurWorkMovesTimes)
        {
            // It moves by what we do in it, and is set back in the end.
            stamp.mtime = old.stamp.mtime;
        }
        let hash = entry.attrs.hash();
        let (mut attrs, mut mtime) = (hash, stamp.mtime);
        if let Some(row) = &row {
            if hash == row.attrs_here {
                attrs = row.attrs_share;
            }
            if stamp.mtime == row.stamp.mtime {
                mtime = row.mtime_share;
            }
        }
        if attrs == hash {
            store.put_attrs(&entry.attrs)?;
        }
        let stands_as_known = old
            .as_ref()
            .is_some_and(|old| old.at == at && old.stamp.ident == stamp.ident && old.kind == kind);
        if kind == Kind::Directory && !stands_as_known {
            self.dirs_known.clear();
        }
        let pledged = entry.stands_for.as_ref().and_then(|stands_for| stands_for.version);
        let content = match kind {
            Kind::Directory => LocalContent::Stored(Content::Directory),
            Kind::Symlink => LocalContent::Stored(Content::Symlink(entry.target.unwrap_or_default())),
            Kind::File => match (stored(entry.stands_for, old.as_ref(), &stamp), &old, &row) {
                (Some(content), ..) => LocalContent::Stored(content),
                (_, Some(old), _) if old.stamp == stamp => old.content.clone(),
                (_, _, Some(row)) if row.stamp == stamp => LocalContent::Stored(row.content.clone()),
                _ => LocalContent::Unread,
            },
        };
        self.note_pledge(uid, pledged.filter(|_| row.is_none()));
        self.note_mark(stamp.ident, pledged, row.as_ref().map(|row| row.since));
        let node = LocalNode { at, kind, content, attrs, mtime, stamp };
        if let Some(old) = old.as_ref().filter(|old| old.stamp.ident != stamp.ident) {
            if old.at != node.at && !planted(Bug::OtherOfTwoForgotten) {
                // Two files were taken for this node; what becomes of the other one is to be seen.
                self.looks.pend(old.at.parent, Some(old.at.name.clone()));
            }
            self.look_at_rest(store, uid, old)?;
        }
        let is_other = |old: &LocalNode| (old.stamp, old.attrs) != (stamp, attrs);
        if kind == Kind::File && entry.seen.links > 1 && old.as_ref().is_none_or(is_other) {
            self.look_at_other_names(store, uid, (stamp, attrs))?;
        }
        // A file saved by a rename over it has its name and another inode: the directory was written all the same.
        if old.as_ref().is_none_or(|old| old.at != node.at || old.stamp.ident != stamp.ident) {
            self.looks.dirs_touched.extend(old.map(|old| old.at.parent));
            self.looks.dirs_touched.insert(node.at.parent);
        }
        self.put_local(store, uid, node, row)
    }

    /// Attributes seen here, as they are in the share if they are what was applied.
    pub(crate) fn as_agreed(
        &self,
        store: &dyn TreeStore,
        uid: NodeUid,
        seen: AttrsHash,
    ) -> Result<AttrsHash, TreeError> {
        let row = store.synced(uid)?.filter(|row| row.attrs_here == seen);
        Ok(row.map_or(seen, |row| row.attrs_share))
    }

    /// A directory itself looks like this, and stands where it stood.
    pub(crate) fn set_dir_present(
        &mut self,
        store: &mut dyn TreeStore,
        uid: NodeUid,
        dir: SeenDir,
    ) -> Result<(), TreeError> {
        let Some(node) = (View { store, overlay: &self.overlay }).local_row(uid)? else { return Ok(()) };
        let SeenDir { stamp, attrs } = dir;
        let seen = Seen { name: node.at.name.clone(), kind: Some(Kind::Directory), stamp, links: 1 };
        self.set_present(store, uid, node.at, SeenEntry { seen, attrs, target: None, stands_for: None })
    }

    /// Stores a local state: in the overlay while it differs from the synced row; a stamp that alone differs, and
    /// means nothing, goes into the row.
    pub(crate) fn put_local(
        &mut self,
        store: &mut dyn TreeStore,
        uid: NodeUid,
        node: LocalNode,
        row: Option<polder_sync::SyncedNode>,
    ) -> Result<(), TreeError> {
        let mut node = node;
        if let Some(row) = row {
            node.content = stored_if_agreed(node.content, &row);
            if is_as_agreed(&node, &row) {
                self.overlay.forget(uid);
                self.holds.remove(&uid);
                if node.stamp != row.stamp {
                    let cloud = store.cloud(uid)?;
                    store.put_synced(uid, Some(&polder_sync::SyncedNode { stamp: node.stamp, ..row }))?;
                    store.put_cloud(uid, cloud.as_ref())?;
                }
                self.changed(uid);
                return Ok(());
            }
            // A file that left its agreed place may be on its way to a backup name (office save): the name waits.
            let left = node.kind != Kind::Directory && node.at != row.at;
            let was_there = !matches!(self.overlay.get(uid), Some(Some(old)) if old.at != row.at);
            self.overlay.put(uid, node);
            match (left, was_there) {
                (true, true) => self.hold(uid),
                (true, false) => (),
                (false, _) => drop(self.holds.remove(&uid)),
            }
        } else {
            self.overlay.put(uid, node);
        }
        self.changed(uid);
        Ok(())
    }

    /// A node is not on disk any more, as far as was seen.
    pub(crate) fn set_gone(&mut self, store: &mut dyn TreeStore, uid: NodeUid) -> Result<(), TreeError> {
        let Some(old) = (View { store, overlay: &self.overlay }).local_row(uid)? else { return Ok(()) };
        let is_dir = old.kind == Kind::Directory;
        self.looks.dirs_touched.insert(old.at.parent);
        self.look_at_rest(store, uid, &old)?;
        if is_dir {
            self.dirs_known.clear();
            self.forget_inside(store, uid)?;
        }
        match store.synced(uid)? {
            // It may be in the share by now: the answer will find that it is gone.
            None if self.work.is_busy(uid) && !planted(Bug::GoneWhileOffered) => {
                self.overlay.put_gone(uid, is_dir);
                self.hold(uid);
                self.changed(uid);
            }
            None => {
                self.overlay.forget(uid);
                self.holds.remove(&uid);
                self.problems.solved(uid);
                self.changed(uid);
            }
            Some(row) => {
                let key = self.overlay.key(&row.at);
                let newcomer = View { store, overlay: &self.overlay }.local_at(key.0, &key.1)?;
                let was_here = self.overlay.get(uid).is_none();
                self.overlay.put_gone(uid, is_dir);
                if was_here {
                    self.overlay.note_left(uid, old.stamp.ident);
                }
                self.hold(uid);
                self.changed(uid);
                if let Some(newcomer) = newcomer.filter(|other| *other != uid && !is_dir) {
                    self.inherit(store, uid, newcomer, row.content.kind())?;
                }
            }
        }
        Ok(())
    }

    /// An office save is over: the backup is gone, and the new file stands at the old place. It takes the old id, if
    /// nobody has heard of it under another one.
    fn inherit(
        &mut self,
        store: &mut dyn TreeStore,
        heir: NodeUid,
        newcomer: NodeUid,
        kind: Kind,
    ) -> Result<(), TreeError> {
        let unknown = store.synced(newcomer)?.is_none()
            && store.cloud(newcomer)?.is_none()
            && !matches!(self.work.state(newcomer), Some(State::Queued | State::Job(_)));
        let Some(Some(node)) = self.overlay.get(newcomer) else { return Ok(()) };
        if !unknown || node.kind != kind {
            return Ok(());
        }
        let node = node.clone();
        self.overlay.forget(newcomer);
        self.work.remove(newcomer);
        // What could not be done about it under its own id is tried under the old one.
        self.problems.solved(newcomer);
        self.holds.remove(&heir);
        let row = store.synced(heir)?;
        self.put_local(store, heir, node, row)
    }

    /// Whether a stamp is the one that the local tree has.
    pub(crate) fn stands_as(
        &self,
        store: &dyn TreeStore,
        uid: NodeUid,
        stamp: Stamp,
    ) -> Result<bool, TreeError> {
        let view = View { store, overlay: &self.overlay };
        Ok(view.local_row(uid)?.is_some_and(|node| node.stamp == stamp || planted(Bug::StoredForOtherBytes)))
    }
}
