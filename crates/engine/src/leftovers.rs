//! What an apply has left that was cut off, when the share has moved on since.
//!
//! An apply changes the disk first and the synced row afterwards. When the process ends in between, the next life finds a
//! node that nobody has told it of. While the share still has that version the two are equal, and agree. But when the share
//! has gone on, what stands here would count as somebody's own beside the newer version: a conflict copy, a second file, or
//! a deleted one that comes back. So a version that may have been applied is kept when the feed brings another one, until it
//! is known what stands on the disk. It costs nothing where nothing was cut off: an applied version is settled before the next
//! one comes.

use std::collections::{BTreeMap, BTreeSet};

use polder_sync::{CloudNode, LocalContent, LocalNode, ReadIntent, SyncedNode, TreeError, TreeStore, Trees};
use polder_types::{
    Kind, NodeUid, Seq, Stamp, Timestamp,
    zoo::{Bug, planted},
};

use crate::SeenEntry;
use crate::engine::Engine;
use crate::overlay::{DEPTH_MAX, Key, View};
use crate::session::seen;
use crate::work::{State, Why};

/// Most versions that are kept of one node. More are left behind only by as many ends of the process.
const VERSIONS_MAX: usize = 4;

/// How long a node with such versions waits for the first walk of a life at a time.
const WALK_WAIT_MS: u64 = 200;

/// Versions that the share has left and that may stand on the disk.
#[derive(Debug, Default)]
pub(crate) struct Leftovers {
    /// Oldest first.
    versions: BTreeMap<NodeUid, Vec<CloudNode>>,
    places: BTreeMap<Key, BTreeSet<NodeUid>>,
    /// Versions up to this one were known before what is on the disk was looked at: who applied them, nobody knows.
    before: Seq,
}

impl Engine {
    /// Begins to look at the disk: what was kept before, and from which version on this life knows itself.
    pub(crate) fn load_leftovers(&mut self, store: &dyn TreeStore) -> Result<(), TreeError> {
        let before = seen(store)?.max(store.cursor()?.seq);
        self.leftovers = Leftovers { before, ..Leftovers::default() };
        for (uid, version) in store.superseded()? {
            self.keep_leftover(uid, version);
        }
        Ok(())
    }

    fn keep_leftover(&mut self, uid: NodeUid, version: CloudNode) {
        self.leftovers.places.entry(self.overlay.key(&version.at)).or_default().insert(uid);
        self.leftovers.versions.entry(uid).or_default().push(version);
    }

    /// The share has another version of a node: the one before is kept if it may stand here without a row.
    pub(crate) fn supersede(
        &mut self,
        store: &mut dyn TreeStore,
        uid: NodeUid,
        by: Option<&CloudNode>,
    ) -> Result<(), TreeError> {
        let Some(old) = store.cloud(uid)?.filter(|old| Some(old) != by) else { return Ok(()) };
        let flying = matches!(self.work.state(uid), Some(State::Job(job)) if self.applies.is_job(job));
        if !(flying || old.since <= self.leftovers.before) || planted(Bug::LeftoverForgotten) {
            return Ok(());
        }
        let settled = store.synced(uid)?.is_some_and(|row| CloudNode::from(&row) == old);
        let kept = self.leftovers.versions.get(&uid).map_or(0, Vec::len);
        if settled || kept >= VERSIONS_MAX {
            return Ok(());
        }
        store.put_superseded(uid, &old)?;
        self.keep_leftover(uid, old);
        Ok(())
    }

    /// Before a node is planned: whether something is to be found out first about what stands here.
    pub(crate) fn takes_leftover(
        &mut self,
        store: &mut dyn TreeStore,
        uid: NodeUid,
    ) -> Result<bool, TreeError> {
        if self.leftovers.versions.is_empty() {
            return Ok(false);
        }
        let Some(heir) = self.left_from(store, uid)? else { return Ok(false) };
        if !self.scan.done_once {
            // What stands where is not known yet.
            self.work.put(uid, State::Until(self.now.mono_ms + WALK_WAIT_MS, Why::Vanished));
            return Ok(true);
        }
        if heir != uid {
            if self.work.is_under_way(heir) {
                self.work.put(uid, State::Until(self.now.mono_ms + WALK_WAIT_MS, Why::Vanished));
            } else {
                self.rekey(store, uid, heir)?;
            }
            return Ok(true);
        }
        let here = View { store, overlay: &self.overlay }.local(uid)?;
        match here {
            Some(here) => self.compare_leftover(store, uid, &here),
            None => {
                if let Some(twin) = self.twin_of_leftover(store, uid)? {
                    self.rekey(store, twin, uid)?;
                    return Ok(true);
                }
                let waits = self.is_below_strangers(store, uid)? && !planted(Bug::LeftoverBelowStrangers);
                if waits {
                    self.work.put(uid, State::Until(self.now.mono_ms + WALK_WAIT_MS, Why::Vanished));
                }
                Ok(waits)
            }
        }
    }

    /// Whether a version of a node may stand in a directory that the same apply has made, and that is not known as the share's yet: the two
    /// have one name, and will be one at the next plan of either.
    fn is_below_strangers(&self, store: &dyn TreeStore, uid: NodeUid) -> Result<bool, TreeError> {
        let view = View { store, overlay: &self.overlay };
        for version in &self.leftovers.versions[&uid] {
            let mut dir = version.at.parent;
            for _ in 0..DEPTH_MAX {
                let Some(node) = store.cloud(dir)?.filter(|_| dir != NodeUid::ROOT) else { break };
                if view.local(dir)?.is_some() {
                    break;
                }
                if view.stranger_at(&node.at)?.is_some() {
                    return Ok(true);
                }
                let key = self.overlay.key(&node.at);
                if view.local_at(key.0, &key.1)?.is_some() {
                    break;
                }
                dir = node.at.parent;
            }
        }
        Ok(false)
    }

    /// Whether it is to be found out yet what stands here as a node: until then no plan may take it in.
    pub(crate) fn may_be_left(&self, store: &dyn TreeStore, uid: NodeUid) -> Result<bool, TreeError> {
        if self.leftovers.versions.is_empty() {
            return Ok(false);
        }
        Ok(match self.left_from(store, uid)? {
            Some(heir) if heir == uid => {
                View { store, overlay: &self.overlay }.local(uid)?.is_some()
                    || self.twin_of_leftover(store, uid)?.is_some()
            }
            other => other.is_some(),
        })
    }

    /// The node with superseded versions that this one is about: itself, or, if nobody has told us of this one, that whose
    /// version looks like it and stands nowhere.
    fn left_from(&self, store: &dyn TreeStore, uid: NodeUid) -> Result<Option<NodeUid>, TreeError> {
        if self.leftovers.versions.contains_key(&uid) {
            return Ok(Some(uid));
        }
        let Some(Some(here)) = self.overlay.get(uid) else { return Ok(None) };
        let Some(heirs) = self.leftovers.places.get(&self.overlay.key(&here.at)) else { return Ok(None) };
        if store.synced(uid)?.is_some() || store.cloud(uid)?.is_some() {
            return Ok(None);
        }
        let view = View { store, overlay: &self.overlay };
        for heir in heirs {
            let looks_so = self.leftovers.versions[heir].iter().any(|version| looks_like(here, version));
            // It waits itself for what the first walk tells.
            let hides = self.work.is_busy(*heir) && planted(Bug::WaitingHeirPassedOver);
            if looks_so && view.local(*heir)?.is_none() && !hides {
                return Ok(Some(*heir));
            }
        }
        Ok(None)
    }

    /// Who stands in the place of a version of a node, as something new.
    fn twin_of_leftover(&self, store: &dyn TreeStore, uid: NodeUid) -> Result<Option<NodeUid>, TreeError> {
        let view = View { store, overlay: &self.overlay };
        for version in &self.leftovers.versions[&uid] {
            let key = self.overlay.key(&version.at);
            let Some(other) = view.local_at(key.0, &key.1)? else { continue };
            if !self.work.is_under_way(other) && self.left_from(store, other)? == Some(uid) {
                return Ok(Some(other));
            }
        }
        Ok(None)
    }

    /// The node of the share that a new inode under a name must be, if an apply has put it there that was cut off before it was
    /// written down: it looks like a version of that one, which stands nowhere.
    pub(crate) fn placed_before(
        &self,
        store: &dyn TreeStore,
        key: &Key,
        entry: &SeenEntry,
        heir: Option<NodeUid>,
    ) -> Result<Option<NodeUid>, TreeError> {
        if let (Some(Kind::Directory), Some(heir)) = (entry.seen.kind, heir) {
            return self.directory_placed_before(store, key, heir);
        }
        if entry.seen.kind != Some(Kind::File) || planted(Bug::LeftoverForgotten) {
            return Ok(None);
        }
        // A version that stands nowhere here differs from what was agreed. Where nothing does, a new file costs no query.
        if store.cloud_changed_count()?.0 == 0 && self.leftovers.versions.is_empty() {
            return Ok(None);
        }
        let Stamp { size, mtime, .. } = entry.seen.stamp;
        let alike = |version: &CloudNode| is_file_like(version, size, mtime);
        let mut of_share = store.cloud_at(key.0, &key.1)?;
        if let Some(uid) = of_share {
            of_share = store.cloud(uid)?.filter(&alike).map(|_| uid);
        }
        let superseded = self.leftovers.places.get(key).into_iter().flatten().copied();
        let superseded = superseded.filter(|uid| self.leftovers.versions[uid].iter().any(&alike));
        let view = View { store, overlay: &self.overlay };
        for uid in of_share.into_iter().chain(superseded) {
            if store.synced(uid)?.is_none() && view.local(uid)?.is_none() && !self.work.is_under_way(uid) {
                return Ok(Some(uid));
            }
        }
        Ok(None)
    }

    /// The same of a directory: the one that stood under the name has left it in the share, which has another one there.
    fn directory_placed_before(
        &self,
        store: &dyn TreeStore,
        key: &Key,
        heir: NodeUid,
    ) -> Result<Option<NodeUid>, TreeError> {
        let Some(uid) = store.cloud_at(key.0, &key.1)?.filter(|uid| *uid != heir) else { return Ok(None) };
        let is_dir = store.cloud(uid)?.is_some_and(|node| node.content.kind() == Kind::Directory);
        let stands =
            store.synced(uid)?.is_some() || View { store, overlay: &self.overlay }.local(uid)?.is_some();
        let is_free =
            is_dir && !stands && !self.work.is_under_way(uid) && !planted(Bug::LeftoverDirectoryInherits);
        Ok(Some(uid).filter(|_| is_free))
    }

    /// A node that has superseded versions stands here: what it has of one of them was agreed.
    fn compare_leftover(
        &mut self,
        store: &mut dyn TreeStore,
        uid: NodeUid,
        here: &LocalNode,
    ) -> Result<bool, TreeError> {
        let versions = self.leftovers.versions[&uid].clone();
        let synced = store.synced(uid)?;
        // A row that was written between two steps of a version has its number, and not yet all of it.
        let half = |row: &SyncedNode, version: &CloudNode| {
            row.since == version.since
                && CloudNode::from(row) != *version
                && !planted(Bug::HalfAgreedIsAgreed)
        };
        let newer = |version: &&CloudNode| {
            synced.as_ref().is_none_or(|row| row.since < version.since || half(row, version))
        };
        let may_be = |version: &&CloudNode| looks_like(here, version) || here.at == version.at;
        let mut candidates: Vec<&CloudNode> = versions.iter().rev().filter(newer).filter(may_be).collect();
        if !planted(Bug::YoungestLeftoverFirst) {
            // That which has these bytes, and of several that which has its place too: what was moved in the share while it stood
            // here without a row was not moved here; nor were its permissions changed here (directories have no bytes to be told by). The
            // youngest of those that are alike.
            candidates.sort_by_key(|version| {
                (!looks_like(here, version), here.at != version.at, here.attrs != version.attrs)
            });
        }
        for version in candidates {
            if here.content == LocalContent::Unread && looks_like(here, version) {
                self.queue_read(store, uid, ReadIntent::Hash)?;
                return Ok(true);
            }
            let Some(row) = base_of(here, version, synced.as_ref()) else { continue };
            self.settle(store, uid, Some(&row))?;
            if store.synced(uid)?.as_ref() == Some(&row) {
                self.drop_leftover(store, uid)?;
                self.work.touch(uid, self.now.mono_ms);
            }
            return Ok(true);
        }
        self.drop_leftover(store, uid)?;
        Ok(false)
    }

    fn drop_leftover(&mut self, store: &mut dyn TreeStore, uid: NodeUid) -> Result<(), TreeError> {
        for version in self.leftovers.versions.remove(&uid).unwrap_or_default() {
            let key = self.overlay.key(&version.at);
            if let Some(uids) = self.leftovers.places.get_mut(&key) {
                uids.remove(&uid);
                if uids.is_empty() {
                    self.leftovers.places.remove(&key);
                }
            }
        }
        store.drop_superseded(uid)
    }

    /// Nothing is left to do: what is still kept stands nowhere.
    pub(crate) fn forget_leftovers(&mut self, store: &mut dyn TreeStore) -> Result<(), TreeError> {
        if self.scan.done_once && self.session.is_ready() {
            for uid in std::mem::take(&mut self.leftovers.versions).into_keys() {
                store.drop_superseded(uid)?;
            }
            self.leftovers.places.clear();
        }
        Ok(())
    }
}

/// Whether something that nobody has read may be a version: a whole file is given its name together with its time.
fn looks_like(here: &LocalNode, version: &CloudNode) -> bool {
    match here.kind {
        Kind::File => is_file_like(version, here.stamp.size, here.mtime),
        Kind::Directory => version.content.kind() == Kind::Directory,
        Kind::Symlink => here.content.known() == Some(&version.content),
    }
}

fn is_file_like(version: &CloudNode, size: u64, mtime: Timestamp) -> bool {
    version.content.kind() == Kind::File && (version.content.size(), version.mtime) == (size, mtime)
}

/// The row that an apply of a version would have written, as far as what stands here is that version; everything else is as
/// it was agreed before. `None` if nothing of it stands here.
fn base_of(here: &LocalNode, version: &CloudNode, synced: Option<&SyncedNode>) -> Option<SyncedNode> {
    let same_content = here.content.known() == Some(&version.content);
    let before = match synced {
        Some(row) => row.clone(),
        None if same_content => SyncedNode::applied(version, here.stamp),
        None => return None,
    };
    let same_attrs = here.attrs == version.attrs;
    // A directory's time moves with what is made in it, and is set last.
    let is_dir = here.kind == Kind::Directory && same_content;
    let same_mtime = here.mtime == version.mtime;
    let stamp = if same_content { here.stamp } else { before.stamp };
    // Beside an agreed time stands the disk's time that it was agreed for: another one is somebody's edit.
    let mtime = match (is_dir || same_mtime, synced) {
        _ if planted(Bug::LeftoverTakesTime) => stamp.mtime,
        (true, _) => here.stamp.mtime,
        (false, Some(row)) => row.stamp.mtime,
        (false, None) => version.mtime,
    };
    let row = SyncedNode {
        at: if here.at == version.at { version.at.clone() } else { before.at },
        content: if same_content { version.content.clone() } else { before.content },
        attrs_share: if same_attrs { version.attrs } else { before.attrs_share },
        // What was agreed here in another form stays so.
        attrs_here: match same_attrs && before.attrs_share != version.attrs {
            true => version.attrs,
            false => before.attrs_here,
        },
        mtime_share: match (is_dir, same_mtime) {
            (true, _) => here.mtime,
            (false, true) => version.mtime,
            (false, false) => before.mtime_share,
        },
        stamp: Stamp { ctime: Timestamp::default(), mtime, ..stamp },
        // By the version of its content the share is asked to keep what stands here.
        since: if same_content || planted(Bug::RowNamesNewerVersion) { version.since } else { before.since },
    };
    let whole = same_content && same_attrs && here.at == row.at && here.mtime == row.mtime_share;
    // A walk passes over what looks as its row says: only what was agreed whole may.
    Some(if whole { SyncedNode { stamp: here.stamp, ..row } } else { row })
}

#[cfg(test)]
mod tests {
    use polder_types::{AttrsHash, Content, FileIdent, Placed};

    use super::*;

    const APPLIED: Timestamp = Timestamp { secs: 20, nanos: 0 };

    fn stamp(mtime: Timestamp) -> Stamp {
        let ident = FileIdent { ino: 7, generation: 1 };
        Stamp { ident, ctime: Timestamp::new(90, 0), mtime, size: 0 }
    }

    /// The version that an apply has placed, what was agreed before it, and what stands here with this time.
    fn placed_over(mtime: Timestamp) -> (CloudNode, SyncedNode, LocalNode) {
        let at = Placed { parent: NodeUid::ROOT, name: "f".parse().unwrap() };
        let (content, attrs) = (Content::empty_file(), AttrsHash([1; 16]));
        let version =
            CloudNode { at: at.clone(), content: content.clone(), attrs, mtime: APPLIED, since: Seq(5) };
        let before = SyncedNode {
            content: Content::Symlink(b"before"[..].into()),
            since: Seq(4),
            ..SyncedNode::applied(
                &CloudNode { mtime: Timestamp::new(10, 0), ..version.clone() },
                stamp(Timestamp::new(10, 0)),
            )
        };
        let content = LocalContent::Stored(content);
        let here = LocalNode { at, kind: Kind::File, content, attrs, mtime, stamp: stamp(mtime) };
        (version, before, here)
    }

    #[test]
    fn what_an_apply_left_is_agreed_with_its_time() {
        let (version, before, here) = placed_over(APPLIED);
        let row = base_of(&here, &version, Some(&before)).unwrap();
        assert_eq!((row.mtime_share, row.stamp), (APPLIED, here.stamp));
    }

    /// Somebody has set another time since: it is not the one that was agreed, and is sent.
    #[test]
    fn a_time_that_was_set_on_a_leftover_is_not_agreed() {
        let (version, before, here) = placed_over(Timestamp::new(30, 0));
        for synced in [Some(&before), None] {
            let row = base_of(&here, &version, synced).unwrap();
            assert_eq!(row.content, version.content, "its bytes are");
            assert_ne!(row.stamp.mtime, here.stamp.mtime, "{row:?}");
            assert_ne!(row.mtime_share, here.mtime, "{row:?}");
        }
    }
}
