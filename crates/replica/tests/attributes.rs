//! Attributes there and back, and what is never applied.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::sync::Arc;

use common::*;
use polder_replica::{Act, OwnerPolicy};
use polder_types::{Attrs, Kind, Timestamp};

fn with_xattrs(mode: u16, xattrs: &[(&[u8], &[u8])]) -> Attrs {
    let xattrs = xattrs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    Attrs { mode, xattrs, ..Attrs::default() }
}

fn run(command: &str, args: &[&str], path: &std::path::Path) -> Option<String> {
    let output = Command::new(command).args(args).arg(path).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Scenario 29: modes, owners, attributes and ACLs of files and directories, on every file system.
#[test]
fn attributes_survive_the_way_there_and_back() {
    let dir = tempfile::tempdir().unwrap();
    let images: Vec<_> = [("ext4", 64, &["-b", "4096"][..]), ("xfs", 320, &[]), ("btrfs", 256, &[])]
        .iter()
        .filter_map(|(kind, size, mkfs)| Mounted::new(kind, *size, mkfs))
        .collect();
    for base in images.iter().map(Mounted::path).chain([dir.path()]) {
        let e = Endpoint::new(base);
        e.write("f", b"x");
        e.mkdir("d");
        let big = vec![b'v'; 3000];
        for path in ["f", "d"] {
            let file = e.file(path);
            run("setfattr", &["-n", "user.DOSATTRIB", "-v", "0sAAAA"], &file).expect("setfattr is there");
            run("setfattr", &["-n", "user.empty"], &file).unwrap();
            run("setfattr", &["-n", "user.big", "-v", std::str::from_utf8(&big).unwrap()], &file).unwrap();
            run("setfattr", &["-n", "security.NTACL", "-v", "acl"], &file).unwrap();
            run("setfattr", &["-n", "trusted.secret", "-v", "no"], &file).unwrap();
            run("setfacl", &["-m", "u:12345:rw,g:54321:r"], &file).unwrap();
            run("chown", &["4242:4343"], &file).unwrap();
        }
        run("setfacl", &["-d", "-m", "u:12345:rwx"], &e.file("d")).unwrap();
        for path in ["f", "d"] {
            let found = e.look(path).unwrap();
            let (attrs, hash) = found.attrs.unwrap();
            assert_eq!((attrs.uid, attrs.gid, &*attrs.owner), (4242, 4343, ""));
            let names: Vec<_> =
                attrs.xattrs.keys().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
            assert!(
                names.contains(&"security.NTACL".into()) && names.contains(&"system.posix_acl_access".into())
            );
            assert!(!names.iter().any(|name| name.starts_with("trusted.")), "{names:?}");
            assert_eq!(attrs.xattrs[&b"user.big"[..]].len(), 3000);
            // Onto a new node: there it is the same.
            let mut staged = if path == "d" { e.staging.directory() } else { e.staging.file(0, 0) }.unwrap();
            staged.finish(&mut e.attributes(), &attrs, MTIME).unwrap();
            let copy = format!("{path}-copy");
            let now = done(e.apply_one(Act::Place { at: e.place(&copy), staged, over: None })).unwrap();
            assert_eq!(now.attrs.unwrap(), (attrs, hash), "{copy}");
            let acl = |path: &str| run("getfacl", &["-cn", "--absolute-names"], &e.file(path)).unwrap();
            assert_eq!(acl(path), acl(&copy));
        }
        // And off again: attributes that the share does not have are removed.
        let touch = Act::Touch {
            at: e.place("d-copy"),
            kind: Kind::Directory,
            expect: e.stamp("d-copy"),
            attrs: Some(Arc::new(plain(0o750))),
            mtime: None,
        };
        let now = done(e.apply_one(touch)).unwrap();
        assert_eq!(
            *now.attrs.unwrap().0,
            Attrs { owner: "root".into(), group: "root".into(), ..plain(0o750) }
        );
    }
}

/// Scenario 71 (promises.md section 4, 7): no privilege comes from the share.
#[test]
fn no_privilege_comes_from_the_share() {
    let dir = tempfile::tempdir().unwrap();
    let mut e = Endpoint::new(dir.path());
    let evil = with_xattrs(
        0o6755,
        &[
            (b"security.capability", &[1; 20]),
            (b"trusted.polder", b"mark"),
            (b"user.polder.residency", b"x"),
            (b"user.ok", b"y"),
        ],
    );
    let place = |e: &Endpoint, name: &str, attrs: &Attrs| {
        let mut staged = e.staging.file(0, 0).unwrap();
        staged.finish(&mut e.attributes(), attrs, MTIME).unwrap();
        done(e.apply_one(Act::Place { at: e.place(name), staged, over: None })).unwrap()
    };
    let now = place(&e, "f", &evil);
    assert_eq!(
        *now.attrs.unwrap().0,
        Attrs { owner: "root".into(), group: "root".into(), ..with_xattrs(0o755, &[(b"user.ok", b"y")]) }
    );
    let all = run("getfattr", &["-d", "-m", "-", "--absolute-names"], &e.file("f")).unwrap();
    assert!(!all.contains("capability") && !all.contains("trusted") && !all.contains("residency"), "{all}");
    // A directory's setgid and sticky bits give nobody more than it has; setuid on it means nothing.
    let mut staged = e.staging.directory().unwrap();
    staged.finish(&mut e.attributes(), &plain(0o7775), MTIME).unwrap();
    done(e.apply_one(Act::Place { at: e.place("d"), staged, over: None }));
    assert_eq!(std::fs::metadata(e.file("d")).unwrap().mode() & 0o7777, 0o3775);
    e.policy.privilege_bits = true;
    place(&e, "allowed", &plain(0o4755));
    assert_eq!(std::fs::metadata(e.file("allowed")).unwrap().mode() & 0o7777, 0o4755);
}

/// Scenario 73: owners by name where there is one, else by number; or left alone.
#[test]
fn owners_are_mapped_by_policy() {
    let dir = tempfile::tempdir().unwrap();
    let mut e = Endpoint::new(dir.path());
    let owned = |owner: &str, uid| Attrs {
        owner: owner.into(),
        uid,
        gid: 77,
        group: "no such group".into(),
        ..plain(0o644)
    };
    let place = |e: &Endpoint, name: &str, attrs: &Attrs| {
        let mut staged = e.staging.file(0, 0).unwrap();
        staged.finish(&mut e.attributes(), attrs, MTIME).unwrap();
        done(e.apply_one(Act::Place { at: e.place(name), staged, over: None })).unwrap();
        let meta = std::fs::metadata(e.file(name)).unwrap();
        (meta.uid(), meta.gid())
    };
    // "daemon" is user 1 on every Linux.
    assert_eq!(place(&e, "by-name", &owned("daemon", 4711)), (1, 77));
    assert_eq!(place(&e, "unknown", &owned("nobody knows", 4711)), (4711, 77));
    e.policy.owners = OwnerPolicy::ByNumber;
    assert_eq!(place(&e, "by-number", &owned("daemon", 4711)), (4711, 77));
    e.policy.owners = OwnerPolicy::Keep;
    assert_eq!(place(&e, "kept", &owned("daemon", 4711)), (0, 0));
}

/// A value that this file system cannot hold is the item's problem and no full disk.
#[test]
fn a_value_too_large_for_the_file_system_is_told_as_such() {
    let Some(mounted) = Mounted::new("ext4", 16, &["-b", "1024"]) else { return };
    let e = Endpoint::new(mounted.path());
    let mut staged = e.staging.file(0, 0).unwrap();
    let error = staged.finish(&mut e.attributes(), &with_xattrs(0o644, &[(b"user.big", &[1; 3000])]), MTIME);
    assert_eq!(error.unwrap_err().class, polder_replica::ErrorClass::TooLong);
}

/// Scenario 27: any time is data.
#[test]
fn odd_times_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let e = Endpoint::new(dir.path());
    // ext4 with large inodes keeps the years 1901 to 2446.
    for (n, secs) in [0, -1, -2_000_000_000, 1, 9_224_318_015, 15_000_000_000].into_iter().enumerate() {
        let time = Timestamp { secs, nanos: 999_999_999 };
        let mut staged = e.staging.file(0, 0).unwrap();
        staged.finish(&mut e.attributes(), &plain(0o644), time).unwrap();
        let now = done(e.apply_one(Act::Place { at: e.place(&n.to_string()), staged, over: None })).unwrap();
        assert_eq!(now.seen.stamp.mtime, time);
    }
}

/// Holes stay holes on the way in, and space is taken before the bytes come.
/// Scenario 70.
#[test]
fn staged_holes_stay_holes() {
    let dir = tempfile::tempdir().unwrap();
    let e = Endpoint::new(dir.path());
    let mut sparse = e.staging.file(1 << 30, 0).unwrap();
    sparse.write_at(512 << 20, b"middle").unwrap();
    sparse.finish(&mut e.attributes(), &plain(0o644), MTIME).unwrap();
    assert!(sparse.write_at((1 << 30) - 3, b"over the end").is_err());
    assert!(is_done(&e.apply_one(Act::Place { at: e.place("sparse"), staged: sparse, over: None })));
    let meta = std::fs::metadata(e.file("sparse")).unwrap();
    assert_eq!(meta.len(), 1 << 30);
    assert!(meta.blocks() < 100, "{}", meta.blocks());
    let dense = e.staging.file(8 << 20, 8 << 20).unwrap();
    let path = std::fs::read_dir(e.file(".polder/staging")).unwrap().next().unwrap().unwrap().path();
    assert!(std::fs::metadata(path).unwrap().blocks() * 512 >= 8 << 20);
    drop(dense);
}
