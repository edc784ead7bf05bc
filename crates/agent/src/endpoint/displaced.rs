//! Displaced files that somebody may still write to: whatever is written gets a name in the share again.
//!
//! A program that has a file open does not notice that another one stands under its name. So what an apply displaced
//! is looked at until nobody can write to it any more, and everything in the recycle area once after each start.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use polder_engine::Event;
use polder_replica::{DirAt, ErrorClass, FsError, Recycle, RecycledName, Since};
use polder_sync::{TreeError, TreeStore};
use polder_types::{Kind, Name, NodeUid, RelPath, Stamp};

use super::Facts;
use super::disk::{Disk, Hands, seen_entry};

/// How often open files are looked at.
const INTERVAL: Duration = Duration::from_millis(500);
const LONG: Duration = Duration::from_secs(3600);
/// Open files that are looked at. Of more, the rest is judged at the next start.
const WATCHED_MAX: usize = 10_000;
/// Entries of the area that are looked at after a start.
const LISTED_MAX: usize = 100_000;
/// The name of a file whose own is not known any more.
const NAMELESS: &[u8] = b"recovered";

/// A file that was displaced.
#[derive(Debug)]
pub(crate) struct Displaced {
    /// Its name in the recycle area.
    pub entry: RecycledName,
    /// Whose place it had.
    pub uid: NodeUid,
    /// Which place that was, if that is known.
    pub at: Option<(DirAt, Name)>,
}

/// Looks after displaced files until the senders are gone.
pub(crate) fn look_after(from: &Receiver<Vec<Displaced>>, disk: &Arc<Disk>, facts: &Facts) {
    let mut hands = disk.hands();
    let mut watched: BTreeMap<RecycledName, Displaced> = BTreeMap::new();
    let mut next_look = Instant::now();
    loop {
        let wait =
            if watched.is_empty() { LONG } else { next_look.saturating_duration_since(Instant::now()) };
        match from.recv_timeout(wait) {
            Ok(more) => {
                let open = more.into_iter().filter(|one| may_be_written(one, disk, &mut hands, facts));
                let room = WATCHED_MAX.saturating_sub(watched.len());
                watched.extend(open.take(room).map(|one| (one.entry.clone(), one)));
            }
            Err(RecvTimeoutError::Timeout) => {
                watched.retain(|_, one| may_be_written(one, disk, &mut hands, facts));
                next_look = Instant::now() + INTERVAL;
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// Looks at one file and rescues what was written; whether it must be looked at again.
fn may_be_written(one: &Displaced, disk: &Disk, hands: &mut Hands, facts: &Facts) -> bool {
    let rescued = match disk.recycle.since(&one.entry) {
        Ok(Since::AtRest) => return false,
        Ok(Since::Open) => return true,
        Ok(Since::Written) => rescue(one, disk, hands),
        Err(error) => Err(error),
    };
    match rescued {
        Ok(event) => {
            facts.send(event);
            false
        }
        Err(error) if error.class == ErrorClass::Gone => false,
        Err(error) => {
            tracing::warn!(
                recycled = %one.entry.name(),
                error = crate::status::chain(&error),
                "what was written to a displaced file has no name yet"
            );
            true
        }
    }
}

fn rescue(one: &Displaced, disk: &Disk, hands: &mut Hands) -> Result<Event, FsError> {
    let nameless = Name::parse(NAMELESS).expect("a plain name");
    let name = one.at.as_ref().map_or(&nameless, |(_, name)| name);
    let root = DirAt { path: RelPath::root(), ident: None };
    let mut at = one.at.as_ref().map_or(&root, |(dir, _)| dir);
    let dir = match hands.walk(|walker, _| walker.dir(at)) {
        // The directory is gone or elsewhere: the top of the share is always there.
        Err(error) if matches!(error.class, ErrorClass::Gone | ErrorClass::Blocked) => {
            at = &root;
            hands.walk(|walker, _| walker.dir(&root))?
        }
        found => found?,
    };
    let given = disk.recycle.rescue(&one.entry, &dir, name, &disk.server_name)?;
    if let Some(tiered) = &disk.tiered {
        tiered.names_changed(dir.ident, [given.as_bytes()]);
    }
    let here = DirAt { path: at.path.clone(), ident: Some(dir.ident) };
    let looks = hands.walk(|walker, attributes| {
        polder_replica::look(walker, attributes, &here, std::slice::from_ref(&given))
    })?;
    match looks.into_iter().next() {
        Some(polder_replica::Look::Found(found)) => {
            Ok(Event::Rescued { dir: dir.ident, entry: seen_entry(found), was: one.uid })
        }
        // Somebody was quicker: everything is to be looked at.
        _ => Ok(Event::Overflow),
    }
}

/// What lies in the recycle area at the start of a life, with the places that the agreed tree has for it.
///
/// What a crash has left there on its way to its place gets a name of its own now, while the share's row still tells what it is: a later life, in
/// which the node may be gone, would take it for something that somebody has written.
pub(crate) fn listed(db: &dyn TreeStore, recycle: &Recycle) -> Result<Vec<Displaced>, FsError> {
    let mut found = Vec::new();
    recycle.list(&mut |entry| {
        if let (Some(uid), Some(Kind::File)) = (entry.uid, entry.kind) {
            found.push((uid, entry.stamp, entry.looks_unchanged, entry.name));
        }
        if found.len() < LISTED_MAX { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    let mut displaced = Vec::with_capacity(found.len());
    for (uid, stamp, looks_unchanged, entry) in found {
        if looks_unchanged || !is_of_the_share(db, uid, stamp).unwrap_or(false) {
            displaced.push(Displaced { entry, uid, at: place(db, uid).ok().flatten() });
        } else if let Err(error) = recycle.name_as_it_looks(&entry, uid, &stamp) {
            // The next start tries again.
            tracing::warn!(recycled = %entry.name(), error = crate::status::chain(&error), "a version keeps another one's name");
        }
    }
    Ok(displaced)
}

/// Whether a file looks like what the share has of a node.
fn is_of_the_share(db: &dyn TreeStore, uid: NodeUid, stamp: Stamp) -> Result<bool, TreeError> {
    let looks = (stamp.size, stamp.mtime);
    let cloud = db.cloud(uid)?.is_some_and(|node| (node.content.size(), node.mtime) == looks);
    Ok(cloud || db.synced(uid)?.is_some_and(|row| (row.content.size(), row.mtime_share) == looks))
}

/// Where a node stands by the agreed tree.
fn place(db: &dyn TreeStore, uid: NodeUid) -> Result<Option<(DirAt, Name)>, TreeError> {
    let Some(row) = db.synced(uid)? else { return Ok(None) };
    let mut names = Vec::new();
    let mut above = row.at.parent;
    while above != NodeUid::ROOT {
        let Some(row) = db.synced(above)? else { return Ok(None) };
        // The agreed tree has no cycle; a damaged one must not keep us.
        if names.len() > 4096 {
            return Ok(None);
        }
        names.push(row.at.name.clone());
        above = row.at.parent;
    }
    let path = names.into_iter().rev().collect();
    Ok(Some((DirAt { path, ident: None }, row.at.name)))
}

#[cfg(test)]
mod tests {
    use polder_replica::Root;
    use polder_sync::{CloudNode, mem::MemStore};
    use polder_types::{AttrsHash, Body, CaseRule, Content, EndpointId, Extent, ExtentSource, Placed, Seq};

    use super::*;

    /// Killed between the two renames that replace a file, killed again after the share has deleted it: nobody wrote, and nothing comes back.
    #[test]
    fn what_a_crash_left_of_a_version_is_no_edit_when_its_node_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::adopt(dir.path(), EndpointId([7; 16]), &[]).unwrap();
        let recycle = Recycle::open(&root).unwrap();
        let uid = NodeUid([9; 16]);
        // The new version, under the name of the old one, which had three bytes.
        let left = dir.path().join(format!(".polder/recycle/{uid}-3-1000.5-0"));
        std::fs::write(&left, b"second").unwrap();
        let mut mtime = None;
        recycle
            .list(&mut |entry| {
                mtime = Some(entry.stamp.mtime);
                ControlFlow::Continue(())
            })
            .unwrap();
        let mtime = mtime.expect("there is an entry");
        let body = Body::Inline(vec![Extent { len: 6, source: ExtentSource::Hole }]);
        let at = Placed { parent: NodeUid::ROOT, name: "f".parse().unwrap() };
        let content = Content::File { size: 6, body };
        let node = CloudNode { at, content, attrs: AttrsHash::default(), mtime, since: Seq(5) };
        let mut db = MemStore::new(CaseRule::Sensitive);
        db.put_cloud(uid, Some(&node)).unwrap();
        assert!(listed(&db, &recycle).unwrap().is_empty());
        // A later life knows nothing of the node.
        db.put_cloud(uid, None).unwrap();
        for one in listed(&db, &recycle).unwrap() {
            assert_eq!(recycle.since(&one.entry).unwrap(), Since::AtRest, "{one:?}");
        }
        // What somebody wrote under such a name is told all the same.
        std::fs::write(dir.path().join(format!(".polder/recycle/{uid}-3-1000.5-7")), b"written").unwrap();
        let written = listed(&db, &recycle).unwrap();
        let is_written = |one: &Displaced| recycle.since(&one.entry).unwrap() == Since::Written;
        assert_eq!(written.iter().filter(|one| is_written(one)).count(), 1);
    }
}
