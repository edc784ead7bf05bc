//! A folder on its way to the layout for tiering and back: nothing is copied, nothing is lost at any point, and nobody opens it half way.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use common::Mounted;
use polder_replica::{
    Root, RootError, StateDb, ensure_unmarked, go_on, is_empty, lay_back, lay_out, seal_point, take_in,
    unseal_point,
};
use polder_types::{CaseRule, EndpointId};

const ENDPOINT: EndpointId = EndpointId([7; 16]);

/// Nothing ends the work.
fn on(_: &'static str) -> bool {
    true
}

/// Ends the work before its `count`th system call, as a crash does.
fn until(count: usize) -> impl FnMut(&'static str) -> bool {
    let mut left = count;
    move |_| {
        let goes_on = left > 0;
        left = left.saturating_sub(1);
        goes_on
    }
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
        lay_out(&root, &mut on).unwrap();
        drop(root);
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
        lay_back(&root, &mut on).unwrap();
        let anew = root.anew().unwrap();
        assert!(!anew.is_tiered() && anew.ident() == plain, "under the same lock");
        drop((root, anew));
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
            go_on(path, &mut on).unwrap();
            let root = Root::open(path, ENDPOINT).unwrap();
            assert_eq!(root.is_tiered(), !back);
            let folder = if back { path.to_owned() } else { state.join("tree") };
            assert_eq!(std::fs::read(folder.join("moved")).unwrap(), b"1");
            assert_eq!(std::fs::read(folder.join("left")).unwrap(), b"2");
            lay_back(&root, &mut on).unwrap();
            std::fs::remove_file(path.join("moved")).unwrap();
            std::fs::remove_file(path.join("left")).unwrap();
        }
    });
}

#[test]
fn what_is_tiered_stays_inside() {
    everywhere(|path| {
        lay_out(&Root::adopt(path, ENDPOINT, &[]).unwrap(), &mut on).unwrap();
        let root = Root::open(path, ENDPOINT).unwrap();
        std::fs::create_dir(path.join(".polder/tree/dir")).unwrap();
        let file = path.join(".polder/tree/dir/file");
        std::fs::write(&file, b"").unwrap();
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(&file, c"trusted.polder", b"any mark", flags).unwrap();
        let refused = lay_back(&root, &mut on).unwrap_err().to_string();
        assert!(refused.contains("\"dir/file\" is tiered"), "{refused}");
        assert!(ensure_unmarked(&root).unwrap_err().to_string().contains("\"dir/file\" is tiered"));
        assert!(file.exists() && Root::open(path, ENDPOINT).is_err(), "it stays as it is, and locked");
    });
}

/// A folder as a user has it: names with their inodes and bytes, and the root's own mode.
fn seen(folder: &Path) -> (u32, Vec<(String, u64, Vec<u8>)>) {
    let mut found: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_name() != ".polder")
        .map(|entry| {
            let bytes = std::fs::read(entry.path()).unwrap_or_default();
            (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().ino(), bytes)
        })
        .collect();
    found.sort();
    (std::fs::metadata(folder).unwrap().mode(), found)
}

/// Killed before every single step, on the way and on the way of going on, and on the way back.
#[test]
fn killed_at_every_step() {
    everywhere(|path| {
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o2751)).unwrap();
        for number in 0..4 {
            std::fs::write(path.join(format!("file {number}")), format!("{number}")).unwrap();
        }
        std::fs::create_dir(path.join("dir")).unwrap();
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(path, c"user.kept", b"yes", flags).unwrap();
        drop(Root::adopt(path, ENDPOINT, &[]).unwrap());
        let was = seen(path);
        let tree = path.join(".polder/tree");
        let finish = |again: usize| {
            // Killed once more while it goes on; then let alone.
            if let Err(error) = Root::open(path, ENDPOINT) {
                assert!(matches!(error, RootError::Unfinished { .. }), "{error}");
                let _ = go_on(path, &mut until(again));
            }
            match Root::open(path, ENDPOINT) {
                Err(RootError::Unfinished { .. }) => go_on(path, &mut on).unwrap(),
                opened => drop(opened.unwrap()),
            }
            Root::open(path, ENDPOINT).unwrap()
        };
        for steps in 0.. {
            let mut is_over = false;
            for again in [0, 1, 3, 7, 100] {
                let outcome = lay_out(&Root::open(path, ENDPOINT).unwrap(), &mut until(steps));
                is_over = outcome.is_ok();
                let root = match finish(again) {
                    root if root.is_tiered() => root,
                    // Nothing had begun.
                    root => {
                        assert_eq!((seen(path), steps), (was.clone(), 0));
                        lay_out(&root, &mut on).unwrap();
                        root.anew().unwrap()
                    }
                };
                assert_eq!(seen(&tree), was, "{steps} {again}");
                assert!(is_empty(&root).unwrap());
                let mut value = [0; 8];
                let len = rustix::fs::getxattr(&tree, c"user.kept", &mut value).unwrap();
                assert_eq!(&value[..len], b"yes");
                assert!(seal_point(&root).unwrap());
                let _ = lay_back(&root, &mut until(steps));
                drop(root);
                let mut root = finish(again);
                if root.is_tiered() {
                    assert_eq!(steps, 0, "nothing had begun");
                    lay_back(&root, &mut on).unwrap();
                    root = root.anew().unwrap();
                }
                assert!(!root.is_tiered());
                assert_eq!(seen(path), was, "{steps} {again}");
            }
            if is_over {
                assert!(steps > 12, "{steps} steps");
                break;
            }
        }
    });
}

/// What cannot be moved leaves all as it was.
#[test]
fn refused_is_as_it_was() {
    everywhere(|path| {
        for number in 0..9 {
            std::fs::write(path.join(format!("file {number}")), b"").unwrap();
        }
        drop(Root::adopt(path, ENDPOINT, &[]).unwrap());
        let was = seen(path);
        let set = |what: &Path, flag| {
            let file = std::fs::File::open(what).unwrap();
            rustix::fs::ioctl_setflags(&file, flag).unwrap();
        };
        for what in [path.join("file 4"), path.to_owned()] {
            set(&what, rustix::fs::IFlags::IMMUTABLE);
            let refused = lay_out(&Root::open(path, ENDPOINT).unwrap(), &mut on);
            set(&what, rustix::fs::IFlags::empty());
            assert!(matches!(refused, Err(RootError::NotForTiering { .. })), "{refused:?}");
            assert!(!Root::open(path, ENDPOINT).unwrap().is_tiered());
            assert_eq!(seen(path), was);
        }
        lay_out(&Root::open(path, ENDPOINT).unwrap(), &mut on).unwrap();
    });
}

/// What somebody puts into the folder while the gate is not mounted is taken in, and hides nothing.
#[test]
fn newcomers_are_taken_in() {
    everywhere(|path| {
        std::fs::write(path.join("taken"), b"ours").unwrap();
        std::fs::create_dir_all(path.join("dir/sub")).unwrap();
        lay_out(&Root::adopt(path, ENDPOINT, &[]).unwrap(), &mut on).unwrap();
        let come = || {
            std::fs::write(path.join("taken"), b"theirs").unwrap();
            std::fs::write(path.join("new"), b"new").unwrap();
            std::fs::create_dir(path.join("dir")).unwrap();
        };
        let there = |folder: &Path, taken: &str| {
            assert_eq!(std::fs::read(folder.join("taken")).unwrap(), b"ours");
            assert_eq!(std::fs::read(folder.join(taken)).unwrap(), b"theirs");
            assert_eq!(std::fs::read(folder.join("new")).unwrap(), b"new");
            assert!(folder.join("dir/sub").is_dir() && !folder.join("dir-unmounted").exists());
        };
        come();
        let root = Root::open(path, ENDPOINT).unwrap();
        assert_eq!(take_in(&root).unwrap(), 3);
        assert_eq!(take_in(&root).unwrap(), 0);
        there(&path.join(".polder/tree"), "taken-unmounted");
        std::fs::remove_file(path.join(".polder/tree/new")).unwrap();
        come();
        lay_back(&root, &mut on).unwrap();
        there(path, "taken-unmounted-2");
        assert_eq!(std::fs::read(path.join("taken-unmounted")).unwrap(), b"theirs");
    });
}

/// While no gate is mounted nothing can be put where it would be hidden; what is put there by force is taken in; a plain folder is as any other.
#[test]
fn the_bare_mount_point_is_immutable() {
    everywhere(|path| {
        let plain = Root::adopt(path, ENDPOINT, &[]).unwrap();
        assert!(!seal_point(&plain).unwrap(), "a plain folder is its users'");
        std::fs::write(path.join("file"), b"ours").unwrap();
        lay_out(&plain, &mut on).unwrap();
        let root = plain.anew().unwrap();
        drop(plain);
        assert!(seal_point(&root).unwrap() && seal_point(&root).unwrap());
        for denied in [
            std::fs::write(path.join("new"), b"").unwrap_err(),
            std::fs::create_dir(path.join("dir")).unwrap_err(),
            std::fs::rename(path.join(".polder"), path.join("moved")).unwrap_err(),
            std::fs::set_permissions(path, PermissionsExt::from_mode(0o777)).unwrap_err(),
        ] {
            assert_eq!(denied.kind(), std::io::ErrorKind::PermissionDenied, "{denied}");
        }
        // What lies in the endpoint's own folder changes as before.
        std::fs::write(path.join(".polder/tree/another"), b"2").unwrap();
        drop(StateDb::open(&root.database_path(), CaseRule::Sensitive).unwrap());
        unseal_point(&root).unwrap();
        std::fs::write(path.join("new"), b"new").unwrap();
        assert!(seal_point(&root).unwrap());
        assert_eq!(take_in(&root).unwrap(), 1);
        assert!(seal_point(&root).unwrap());
        drop(root);
        // So is a folder that is opened again, and the way back.
        let root = Root::open(path, ENDPOINT).unwrap();
        assert!(std::fs::write(path.join("new"), b"").is_err());
        lay_back(&root, &mut on).unwrap();
        let found: Vec<_> = seen(path).1.into_iter().map(|(name, _, bytes)| (name, bytes)).collect();
        let file = |name: &str, bytes: &[u8]| (name.to_owned(), bytes.to_vec());
        assert_eq!(found, [file("another", b"2"), file("file", b"ours"), file("new", b"new")]);
        std::fs::write(path.join("new"), b"changed").unwrap();
    });
}

/// What users change of the folder itself while it is tiered is there when it is a plain one again: owner, mode, times, attributes.
#[test]
fn the_folder_keeps_what_was_changed_through_the_gate() {
    everywhere(|path| {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(path, c"user.old", b"1", flags).unwrap();
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
        lay_out(&Root::adopt(path, ENDPOINT, &[]).unwrap(), &mut on).unwrap();
        let root = Root::open(path, ENDPOINT).unwrap();
        assert!(seal_point(&root).unwrap());
        let tree = path.join(".polder/tree");
        std::fs::write(tree.join("file"), b"1").unwrap();
        std::os::unix::fs::chown(&tree, Some(1234), Some(4321)).unwrap();
        std::fs::set_permissions(&tree, PermissionsExt::from_mode(0o2770)).unwrap();
        rustix::fs::removexattr(&tree, c"user.old").unwrap();
        rustix::fs::setxattr(&tree, c"user.new", b"2", flags).unwrap();
        let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_007);
        std::fs::File::open(&tree).unwrap().set_modified(time).unwrap();
        lay_back(&root, &mut on).unwrap();
        let meta = std::fs::metadata(path).unwrap();
        assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (1234, 4321, 0o2770));
        assert_eq!(meta.modified().unwrap(), time);
        let mut value = [0; 8];
        assert_eq!(rustix::fs::getxattr(path, c"user.new", &mut value), Ok(1));
        assert_eq!(rustix::fs::getxattr(path, c"user.old", &mut value), Err(rustix::io::Errno::NODATA));
    });
}
