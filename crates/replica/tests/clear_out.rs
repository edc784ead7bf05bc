//! A root that is cleared out: what the share has goes, all else stays, wherever it is cut off.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use common::{Mounted, name, uid};
use polder_replica::{
    AttrPolicy, Attributes, ClearError, DirAt, GivenUp, Look, Pledge, Root, RootError, StateDb, StateReader,
    Walker, begin_clearing, clear_out, give_up, lay_out, look, remove_cleared, seal_point,
};
use polder_sync::{SyncedNode, TreeStore};
use polder_types::{
    AttrsHash, Body, CaseRule, ChunkId, Content, EndpointId, Extent, ExtentSource, NodeUid, Placed, RelPath,
    Seq, Stamp,
};

const ENDPOINT: EndpointId = EndpointId([7; 16]);
/// Every version up to this one is verified.
const VERIFIED: Seq = Seq(7);
const SIZE: usize = 64 << 10;

fn on(_: &'static str) -> bool {
    true
}

fn everywhere(test: impl Fn(&Path)) {
    let _alone = common::alone();
    for (kind, megabytes) in [("ext4", 64), ("xfs", 320)] {
        if let Some(mounted) = Mounted::new(kind, megabytes, &[]) {
            let path = mounted.path().join("share");
            std::fs::create_dir(&path).unwrap();
            test(&path);
        }
    }
}

/// What stands at a path of the tree now.
fn stamp(root: &Root, path: &str) -> Stamp {
    let path = RelPath::parse(path.as_bytes()).unwrap();
    let (dir, name) = path.split_last().unwrap();
    let mut attributes = Attributes::new(AttrPolicy::default(), Arc::default()).with_marks_of(root);
    let at = DirAt { path: dir, ident: None };
    match look(&mut Walker::new(root).unwrap(), &mut attributes, &at, std::slice::from_ref(name))
        .unwrap()
        .pop()
    {
        Some(Look::Found(found)) => found.seen.stamp,
        other => panic!("{other:?}"),
    }
}

struct World {
    root: Root,
    db: StateDb,
    number: u8,
}

impl World {
    /// A tiered root with an empty tree.
    fn new(path: &Path) -> Self {
        lay_out(&Root::adopt(path, ENDPOINT, &[]).unwrap(), &mut on).unwrap();
        let root = Root::open(path, ENDPOINT).unwrap();
        let db = StateDb::open(&root.database_path(), CaseRule::Sensitive).unwrap();
        Self { root, db, number: 0 }
    }

    /// Agrees that what stands at a path is a version of the share.
    fn agree(&mut self, parent: NodeUid, path: &str, content: Content, since: u64) -> NodeUid {
        self.number += 1;
        let stamp = stamp(&self.root, path);
        let called = path.rsplit('/').next().unwrap();
        let (hash, mtime) = (AttrsHash::default(), stamp.mtime);
        let row = SyncedNode {
            at: Placed { parent, name: name(called) },
            content,
            attrs_share: hash,
            attrs_here: hash,
            mtime_share: mtime,
            stamp,
            since: Seq(since),
        };
        self.db.put_synced(uid(self.number), Some(&row)).unwrap();
        self.db.commit(true).unwrap();
        uid(self.number)
    }

    fn tree(&self, path: &str) -> std::path::PathBuf {
        self.root.path().join(".polder/tree").join(path)
    }

    fn file(&mut self, parent: NodeUid, path: &str, since: u64) {
        std::fs::write(self.tree(path), path).unwrap();
        self.agree(parent, path, file(path.len()), since);
    }
}

fn file(size: usize) -> Content {
    let source = ExtentSource::Chunk { id: ChunkId([3; 32]), skip: 0 };
    let extent = Extent { len: size as u64, source };
    Content::File { size: size as u64, body: Body::Inline(vec![extent]) }
}

/// A root with a file of each sort. The share has all but those whose names begin with "keep".
fn filled(path: &Path) -> (Root, File) {
    let mut world = World::new(path);
    std::fs::create_dir_all(world.tree("dir/deeper")).unwrap();
    std::fs::create_dir(world.tree("keep none")).unwrap();
    let dir = world.agree(NodeUid::ROOT, "dir", Content::Directory, 1);
    let deeper = world.agree(dir, "dir/deeper", Content::Directory, 1);
    world.file(NodeUid::ROOT, "resident", 5);
    world.file(deeper, "dir/deeper/resident", 7);
    world.file(deeper, "dir/deeper/keep: not verified", 8);
    world.file(dir, "dir/keep: edited", 5);
    std::fs::write(world.tree("dir/keep: edited"), "something else").unwrap();
    std::fs::write(world.tree("dir/keep: nobody knows it"), "1").unwrap();
    std::os::unix::fs::symlink("dir", world.tree("link")).unwrap();
    world.agree(NodeUid::ROOT, "link", Content::Symlink(b"dir".as_slice().into()), 2);
    std::fs::write(world.tree("first name"), "first name").unwrap();
    std::fs::hard_link(world.tree("first name"), world.tree("second name")).unwrap();
    for called in ["first name", "second name"] {
        world.agree(NodeUid::ROOT, called, file(10), 3);
    }
    world.file(NodeUid::ROOT, "keep: open", 4);
    let open = File::open(world.tree("keep: open")).unwrap();

    std::fs::write(world.tree("tiered"), vec![1; SIZE]).unwrap();
    let (content, before) = (file(SIZE), stamp(&world.root, "tiered"));
    let pledge = Pledge::new(uid(99), Seq(1), &content, before.mtime);
    let placeholder = OpenOptions::new().read(true).write(true).open(world.tree("tiered")).unwrap();
    let given = give_up(&world.root, &placeholder, (&pledge, &content), &before, &mut on).unwrap();
    assert_eq!(given, GivenUp::Done);
    world.agree(NodeUid::ROOT, "tiered", content, 9);
    assert!(seal_point(&world.root).unwrap());
    (world.root, open)
}

/// Names below a folder, with the sizes of files.
fn names(folder: &Path) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    let mut left = vec![folder.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = path.symlink_metadata().unwrap();
            let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
            if meta.is_dir() {
                left.push(path);
                found.insert(name, 0);
            } else {
                found.insert(name, meta.size());
            }
        }
    }
    found
}

fn left() -> BTreeMap<String, u64> {
    let sizes = [
        ("dir", 0),
        ("dir/deeper", 0),
        ("dir/deeper/keep: not verified", 29),
        ("dir/keep: edited", 14),
        ("dir/keep: nobody knows it", 1),
        ("keep none", 0),
        ("keep: open", 10),
    ];
    BTreeMap::from(sizes.map(|(name, size)| (name.to_owned(), size)))
}

fn clear(root: &Root, pace: &mut dyn FnMut(&'static str) -> bool) -> Result<u64, ClearError> {
    let reader = StateReader::open(&root.database_path(), CaseRule::Sensitive)?;
    let kept = clear_out(root, &reader, pace)?.kept;
    drop(reader);
    remove_cleared(root.path(), pace)?;
    Ok(kept)
}

#[test]
fn what_the_share_has_goes_and_all_else_stays() {
    everywhere(|path| {
        let (root, open) = filled(path);
        begin_clearing(&root, VERIFIED).unwrap();
        assert!(matches!(root.anew(), Err(RootError::Clearing { .. })), "no life may begin");
        assert_eq!(clear(&root, &mut on).unwrap(), 5);
        assert_eq!(names(path), left());
        std::fs::write(path.join("plain"), "a plain folder again").unwrap();
        drop((root, open));
        drop(Root::adopt(path, EndpointId([8; 16]), &[]).unwrap());
    });
}

/// Ended before every single step, and gone on with: nothing else goes, and nobody takes the folder for an endpoint's in between.
#[test]
fn ended_at_every_step() {
    everywhere(|path| {
        for steps in 0.. {
            let (root, open) = filled(path);
            begin_clearing(&root, VERIFIED).unwrap();
            let mut left_over = steps;
            let ended = clear(&root, &mut |_| {
                let goes_on = left_over > 0;
                left_over -= usize::from(goes_on);
                goes_on
            });
            drop(root);
            let is_over = ended.is_ok();
            let again = Root::open(path, ENDPOINT);
            assert!(
                matches!(again, Err(RootError::Clearing { .. } | RootError::NotAdopted { .. })),
                "{steps}: {again:?}"
            );
            match Root::open_clearing(path, ENDPOINT) {
                Ok(root) if path.join(".polder/state.db").exists() => drop(clear(&root, &mut on).unwrap()),
                // It is cleared out, and had begun to go.
                Ok(_) | Err(RootError::NotAdopted { .. }) => remove_cleared(path, &mut on).unwrap(),
                Err(error) => panic!("{steps}: {error}"),
            }
            assert_eq!(names(path), left(), "{steps} steps");
            drop(open);
            for name in names(path).into_keys().rev() {
                let path = path.join(name);
                std::fs::remove_file(&path).or_else(|_| std::fs::remove_dir(&path)).unwrap();
            }
            if is_over {
                assert!(steps > 20, "{steps} steps");
                return;
            }
        }
    });
}

/// What was displaced and is not known to be safe is not ours to remove.
#[test]
fn the_recycle_area_stays_while_something_is_in_it() {
    everywhere(|path| {
        let (root, _open) = filled(path);
        std::fs::create_dir(path.join(".polder/recycle")).unwrap();
        std::fs::write(path.join(".polder/recycle/bytes"), "of somebody").unwrap();
        begin_clearing(&root, VERIFIED).unwrap();
        clear(&root, &mut on).unwrap();
        assert_eq!(std::fs::read(path.join(".polder/recycle/bytes")).unwrap(), b"of somebody");
        assert!(!path.join(".polder/state.db").exists() && !path.join(".polder/identity").exists());
        drop(root);
        drop(Root::adopt(path, EndpointId([8; 16]), &[]).unwrap());
    });
}
