//! A folder on its way to the layout for tiering and back: nothing is copied, nothing is lost at any point, and nobody opens it half way.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use common::Mounted;
use polder_replica::{Root, RootError, StateDb, go_on, is_empty, lay_back, lay_out};
use polder_types::{CaseRule, EndpointId};

const ENDPOINT: EndpointId = EndpointId([7; 16]);

fn everywhere(test: impl Fn(&Path)) {
    for (kind, megabytes) in [("ext4", 64), ("xfs", 320)] {
        if let Some(mounted) = Mounted::new(kind, megabytes, &[]) {
            let path = mounted.path().join("share");
            std::fs::create_dir(&path).unwrap();
            test(&path);
        }
    }
}

#[test]
fn there_and_back() {
    everywhere(|path| {
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o2750)).unwrap();
        std::fs::create_dir(path.join("dir")).unwrap();
        std::fs::write(path.join("dir/file"), b"bytes").unwrap();
        let inode = std::fs::metadata(path.join("dir/file")).unwrap().ino();
        let root = Root::adopt(path, ENDPOINT, &[]).unwrap();
        assert!(!root.is_tiered() && !is_empty(&root).unwrap());
        let plain = root.ident();
        lay_out(root).unwrap();
        let tree = path.join(".polder/tree");
        assert_eq!(std::fs::metadata(tree.join("dir/file")).unwrap().ino(), inode, "moved, not copied");
        assert_eq!(std::fs::metadata(&tree).unwrap().mode() & 0o7777, 0o2750, "the root's own mode");
        assert_eq!(std::fs::read_dir(path).unwrap().count(), 1, "nothing but the state is seen");
        let root = Root::open(path, ENDPOINT).unwrap();
        assert!(root.is_tiered() && root.ident() != plain);
        root.check().unwrap();
        // By descriptor: the path may lead into a mount.
        drop(StateDb::open(&root.database_path(), CaseRule::Sensitive).unwrap());
        assert!(path.join(".polder/state.db").exists());
        lay_back(&root).unwrap();
        drop(root);
        assert_eq!(std::fs::metadata(path.join("dir/file")).unwrap().ino(), inode);
        let root = Root::open(path, ENDPOINT).unwrap();
        assert!(!root.is_tiered() && root.ident() == plain);
    });
}

/// What a crash leaves between any two renames.
#[test]
fn half_way() {
    everywhere(|path| {
        for back in [false, true] {
            drop(Root::open(path, ENDPOINT).or_else(|_| Root::adopt(path, ENDPOINT, &[])).unwrap());
            let state = path.join(".polder");
            std::fs::create_dir(state.join(if back { "tree.old" } else { "tree.new" })).unwrap();
            let inside = state.join(if back { "tree.old" } else { "tree.new" });
            std::fs::write(inside.join("moved"), b"1").unwrap();
            std::fs::write(path.join("left"), b"2").unwrap();
            assert!(matches!(Root::open(path, ENDPOINT), Err(RootError::Unfinished { .. })));
            go_on(path).unwrap();
            let root = Root::open(path, ENDPOINT).unwrap();
            assert_eq!(root.is_tiered(), !back);
            let folder = if back { path.to_owned() } else { state.join("tree") };
            assert_eq!(std::fs::read(folder.join("moved")).unwrap(), b"1");
            assert_eq!(std::fs::read(folder.join("left")).unwrap(), b"2");
            lay_back(&root).unwrap();
            std::fs::remove_file(path.join("moved")).unwrap();
            std::fs::remove_file(path.join("left")).unwrap();
        }
    });
}

#[test]
fn what_is_tiered_stays_inside() {
    everywhere(|path| {
        lay_out(Root::adopt(path, ENDPOINT, &[]).unwrap()).unwrap();
        let root = Root::open(path, ENDPOINT).unwrap();
        std::fs::create_dir(path.join(".polder/tree/dir")).unwrap();
        let file = path.join(".polder/tree/dir/file");
        std::fs::write(&file, b"").unwrap();
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(&file, c"trusted.polder", b"any mark", flags).unwrap();
        let refused = lay_back(&root).unwrap_err().to_string();
        assert!(refused.contains("/dir/file"), "{refused}");
        assert!(file.exists() && Root::open(path, ENDPOINT).is_err(), "it stays as it is, and locked");
    });
}
