//! What of tiering the endpoint's thread writes down: heat, and what a person keeps here.

use anyhow::Result;
use polder_replica::{HeatBefore, HeatRow, PINS_MAX, StateDb};
use polder_sync::TreeStore;
use polder_tiering::Heat;
use polder_types::{CaseRule, NodeUid, RelPath};

use super::Pinned;

/// What a use makes of what was known.
pub(super) fn after_use(before: HeatBefore, used_s: u32) -> HeatRow {
    let now_s = i64::from(used_s);
    let before = match before {
        HeatBefore::Noted(HeatRow { warm, used }) => Heat::from_parts(warm, used),
        HeatBefore::Modified(mtime_s) => Heat::of_times(mtime_s, mtime_s, now_s),
    };
    let (warm, used) = before.used(now_s).parts();
    HeatRow { warm, used }
}

/// The node at a path, as agreed with the share.
pub(super) fn node_at(db: &StateDb, case: CaseRule, path: &RelPath) -> Result<Option<NodeUid>> {
    let mut at = NodeUid::ROOT;
    for name in path.names() {
        match db.synced_at(at, &case.key(name.as_bytes()))? {
            Some(node) => at = node,
            None => return Ok(None),
        }
    }
    Ok(Some(at))
}

/// Keeps what stands at a path on this server, or no longer. Durable when it returns.
pub(super) fn set(db: &mut StateDb, case: CaseRule, path: &RelPath, pinned: bool) -> Result<Pinned> {
    let Some(node) = node_at(db, case, path)? else { return Ok(Pinned::NoSuch) };
    if db.set_pin(node, pinned)? {
        db.commit(true)?;
        return Ok(Pinned::Changed);
    }
    let is_full = pinned && db.pin_count()? >= PINS_MAX && !db.is_pinned(node)?;
    Ok(if is_full { Pinned::TooMany } else { Pinned::Already })
}

#[cfg(test)]
mod tests {
    use polder_sync::SyncedNode;
    use polder_types::{AttrsHash, Content, Name, Placed, Seq, Stamp, Timestamp};

    use super::*;

    fn put(db: &mut StateDb, number: u8, parent: NodeUid, name: &str, content: Content) -> NodeUid {
        let uid = NodeUid([number; 16]);
        let row = SyncedNode {
            at: Placed { parent, name: Name::parse(name.as_bytes()).unwrap() },
            content,
            attrs_share: AttrsHash::default(),
            attrs_here: AttrsHash::default(),
            mtime_share: Timestamp::default(),
            stamp: Stamp::default(),
            since: Seq(1),
        };
        db.put_synced(uid, Some(&row)).unwrap();
        uid
    }

    #[test]
    fn pins_follow_paths_to_nodes() {
        let dir = tempfile::tempdir().unwrap();
        let mut db = StateDb::open(&dir.path().join("state.db"), CaseRule::Insensitive).unwrap();
        let folder = put(&mut db, 1, NodeUid::ROOT, "Media", Content::Directory);
        let file = put(&mut db, 2, folder, "a.iso", Content::empty_file());
        let path = |text: &str| RelPath::parse(text.as_bytes()).unwrap();
        let mut pin = |text: &str, on| set(&mut db, CaseRule::Insensitive, &path(text), on).unwrap();
        assert_eq!(pin("media/A.ISO", true), Pinned::Changed);
        assert_eq!(pin("Media/a.iso", true), Pinned::Already);
        assert_eq!(pin("Media/none", true), Pinned::NoSuch);
        assert_eq!(pin("Media", false), Pinned::Already);
        assert_eq!(db.reader().unwrap().pins().unwrap(), [file]);
    }

    #[test]
    fn a_use_warms_as_the_policies_say() {
        let used = after_use(HeatBefore::Modified(1_000), 2_000_000_000);
        assert_eq!(used.used, 2_000_000_000);
        let again = after_use(HeatBefore::Noted(used), 2_000_000_300);
        assert_eq!(again, used, "uses within ten minutes are one");
        let later = after_use(HeatBefore::Noted(used), 2_000_100_000);
        assert!(later.warm > 2_000_100_000, "two uses are warmer than one");
    }
}
