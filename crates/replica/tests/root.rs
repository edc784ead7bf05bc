//! The root's identity: whatever is not the root that was adopted stops the endpoint.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use std::path::Path;
use std::process::Command;

use common::*;
use polder_replica::{Overlap, Root, RootError, Volume, overlap};
use polder_types::EndpointId;

/// Opens a root that was closed just now. A child process that another test is starting has a copy of the lock until it
/// runs its program.
fn unlocked(open: impl Fn() -> Result<Root, RootError>) -> Result<Root, RootError> {
    for _ in 0..1000 {
        match open() {
            Err(RootError::InUse { .. }) => std::thread::sleep(std::time::Duration::from_millis(1)),
            other => return other,
        }
    }
    open()
}

#[test]
fn a_root_is_adopted_once_and_opened_by_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    assert!(matches!(Root::open(path, ENDPOINT), Err(RootError::NotAdopted { .. })));
    let root = Root::adopt(path, ENDPOINT, &[]).unwrap();
    root.check().unwrap();
    assert!(matches!(Root::open(path, ENDPOINT), Err(RootError::InUse { .. })));
    drop(root);
    assert!(matches!(unlocked(|| Root::adopt(path, ENDPOINT, &[])), Err(RootError::AlreadyAdopted { .. })));
    let other = EndpointId([8; 16]);
    let refused = unlocked(|| Root::open(path, other));
    assert!(matches!(refused, Err(RootError::OtherEndpoint { found, .. }) if found == ENDPOINT));
    let root = unlocked(|| Root::open(path, ENDPOINT)).unwrap();
    assert!(Volume::of(&root).unwrap().free_bytes > 0);
    assert!(matches!(Root::open(&path.join("no"), ENDPOINT), Err(RootError::Missing { .. })));
}

/// Promise I5, scenarios 89 to 91.
#[test]
fn i5_a_root_that_is_not_the_same_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("share");
    std::fs::create_dir(&path).unwrap();
    let root = Root::adopt(&path, ENDPOINT, &[]).unwrap();
    // Emptied, as by a wild `rm -rf`.
    let away = dir.path().join("away");
    std::fs::rename(path.join(".polder"), &away).unwrap();
    assert!(matches!(root.check(), Err(RootError::NotAdopted { .. })));
    std::fs::rename(&away, path.join(".polder")).unwrap();
    root.check().unwrap();
    // Another directory at the path: nothing in it counts.
    std::fs::rename(&path, &away).unwrap();
    assert!(matches!(root.check(), Err(RootError::Missing { .. })));
    std::fs::create_dir(&path).unwrap();
    assert!(matches!(root.check(), Err(RootError::NotAdopted { .. })));
    // A copy of the folder, state and all.
    std::fs::remove_dir(&path).unwrap();
    let copied = Command::new("cp").arg("-a").arg(&away).arg(&path).status().unwrap();
    assert!(copied.success());
    assert!(matches!(root.check(), Err(RootError::Replaced { .. })));
    drop(root);
    assert!(matches!(Root::open(&path, ENDPOINT), Err(RootError::Copied { .. })));
    // Damage is not absence.
    std::fs::write(away.join(".polder/identity"), b"polder root 1\nendpoint zz\n").unwrap();
    assert!(matches!(Root::open(&away, ENDPOINT), Err(RootError::BadIdentity { .. })));
}

/// Scenarios 89 and 90: a volume that goes away, and a mount point without it.
#[test]
fn i5_an_unmounted_volume_is_told() {
    let Some(mounted) = Mounted::new("ext4", 16, &[]) else { return };
    let path = mounted.path().to_owned();
    let root = Root::adopt(&path, ENDPOINT, &[]).unwrap();
    let on = |command: &mut Command| assert!(command.status().unwrap().success());
    // Mounted over by something empty.
    on(Command::new("mount").args(["-t", "tmpfs", "none"]).arg(&path));
    let over = root.check();
    on(Command::new("umount").arg(&path));
    assert!(matches!(over, Err(RootError::NotAdopted { .. })), "{over:?}");
    root.check().unwrap();
    // Lazily unmounted while it is held open: what is at the path is the bare mount point.
    on(Command::new("umount").arg("-l").arg(&path));
    assert!(matches!(root.check(), Err(RootError::NotAdopted { .. })));
    std::fs::write(path.join("not on the volume"), b"x").unwrap();
    assert!(matches!(root.check(), Err(RootError::NotAdopted { .. })));
}

/// Scenario 111: what a user plants in place of our directories is refused.
#[test]
fn i19_planted_state_directories_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let planted = |name: &str, plant: &dyn Fn(&Path)| {
        let path = dir.path().join(name);
        std::fs::create_dir(&path).unwrap();
        plant(&path);
        assert!(matches!(Root::adopt(&path, ENDPOINT, &[]), Err(RootError::Unsafe { .. })), "{name}");
    };
    planted("symlink", &|path| std::os::unix::fs::symlink("/tmp", path.join(".polder")).unwrap());
    planted("file", &|path| std::fs::write(path.join(".polder"), b"").unwrap());
    planted("open", &|path| {
        std::fs::create_dir(path.join(".polder")).unwrap();
        Command::new("chmod").arg("755").arg(path.join(".polder")).status().unwrap();
    });
    planted("foreign", &|path| {
        std::fs::create_dir(path.join(".polder")).unwrap();
        Command::new("chmod").arg("700").arg(path.join(".polder")).status().unwrap();
        Command::new("chown").arg("1").arg(path.join(".polder")).status().unwrap();
    });
    let e = Endpoint::new(dir.path());
    std::fs::remove_dir(e.file(".polder/staging")).unwrap();
    std::os::unix::fs::symlink("/tmp", e.file(".polder/staging")).unwrap();
    assert!(polder_replica::Staging::open(&e.root).is_err());
}

/// Scenario 99: endpoints that overlap or nest, also through a bind mount.
#[test]
fn overlapping_endpoints_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (outer, inner, beside) = (dir.path().join("a"), dir.path().join("a/b/c"), dir.path().join("ab"));
    for path in [&inner, &beside] {
        std::fs::create_dir_all(path).unwrap();
    }
    assert_eq!(overlap(&inner, &outer).unwrap(), Some(Overlap::Inside));
    assert_eq!(overlap(&outer, &inner).unwrap(), Some(Overlap::Around));
    assert_eq!(overlap(&outer, &outer.join(".")).unwrap(), Some(Overlap::Same));
    assert_eq!(overlap(&outer, &beside).unwrap(), None);
    assert_eq!(overlap(&outer, &dir.path().join("no")).unwrap(), None);
    let _root = Root::adopt(&outer, ENDPOINT, &[&beside]).unwrap();
    let refused = Root::adopt(&inner, EndpointId([8; 16]), &[]);
    assert!(matches!(refused, Err(RootError::Overlaps { .. })), "{refused:?}");
    let refused = Root::adopt(dir.path(), EndpointId([8; 16]), &[&outer]);
    assert!(matches!(refused, Err(RootError::Overlaps { .. })), "{refused:?}");
    let on = |command: &mut Command| command.status().is_ok_and(|status| status.success());
    if on(Command::new("mount").arg("--bind").arg(&inner).arg(&beside)) {
        let seen = overlap(&beside, &outer);
        let around = overlap(&outer, &beside);
        assert!(on(Command::new("umount").arg(&beside)));
        assert_eq!(seen.unwrap(), Some(Overlap::Inside));
        assert_eq!(around.unwrap(), Some(Overlap::Around));
    } else {
        eprintln!("SKIPPED: bind mounts are not permitted here");
    }
}
