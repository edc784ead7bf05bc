//! Scanning: only differences travel, and an absence is told only when it is proven.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::*;
use polder_replica::{AttrPolicy, DirAt, Found, PartEnd, Scan, ScanOptions, ScanPart, Scanned, StateDb};
use polder_sync::{SyncedNode, TreeStore};
use polder_types::{Body, CaseRule, Content, FileIdent, Kind, Name, NodeUid, Placed, RelPath, Seq, Stamp};

/// An endpoint with a state database.
struct Synced {
    e: Endpoint,
    db: StateDb,
    next: u64,
}

fn content(found: &Found) -> Content {
    match found.seen.kind.unwrap() {
        Kind::Directory => Content::Directory,
        Kind::Symlink => Content::Symlink(found.target.clone().unwrap()),
        Kind::File if found.seen.stamp.size == 0 => Content::empty_file(),
        Kind::File => {
            let source = polder_types::ExtentSource::Hole;
            let extent = polder_types::Extent { len: found.seen.stamp.size, source };
            Content::File { size: extent.len, body: Body::Inline(vec![extent]) }
        }
    }
}

impl Synced {
    fn new(base: &Path) -> Self {
        let e = Endpoint::new(base);
        let db = StateDb::open(&e.root.database_path(), CaseRule::Sensitive).unwrap();
        let mut synced = Self { e, db, next: 1 };
        let root = synced.e.dir(&RelPath::root()).ident.unwrap();
        let row = row(
            NodeUid::ROOT,
            &name("never used"),
            Content::Directory,
            Stamp { ident: root, ..Stamp::default() },
        );
        synced.db.put_synced(NodeUid::ROOT, Some(&row)).unwrap();
        synced
    }

    fn scan(&self, recursive: bool, from: &DirAt) -> Scan {
        let options = ScanOptions { recursive, ..options() };
        let readers = || self.db.reader();
        Scan::start(self.e.root.clone(), Arc::default(), readers, from, options).unwrap()
    }

    fn everything(&self) -> (Vec<ScanPart>, u64) {
        let root = DirAt { path: RelPath::root(), ident: None };
        finish(&self.scan(true, &root))
    }

    /// Makes the synced rows what the disk holds now.
    fn settle(&mut self) {
        loop {
            let (parts, _) = self.everything();
            let mut changed = false;
            for part in parts {
                let parent = self.db.synced_by_ident(part.dir).unwrap();
                // Rows of new directories are written before those inside.
                let Some(parent) = parent else { continue };
                for uid in part.missing {
                    self.db.put_synced(uid, None).unwrap();
                    changed = true;
                }
                for found in part.differ.iter().filter(|found| found.seen.kind.is_some()) {
                    let key = found.seen.name.as_bytes();
                    let uid = self.db.synced_at(parent, key).unwrap().unwrap_or_else(|| {
                        self.next += 1;
                        NodeUid::from_parts(self.next, [1; 10])
                    });
                    let row = row(parent, &found.seen.name, content(found), found.seen.stamp);
                    self.db.put_synced(uid, Some(&row)).unwrap();
                    changed = true;
                }
            }
            self.db.commit(false).unwrap();
            if !changed {
                return;
            }
        }
    }
}

fn options() -> ScanOptions {
    ScanOptions { threads: 2, recursive: true, credit: u64::MAX, rows: None, policy: AttrPolicy::default() }
}

fn row(parent: NodeUid, name: &Name, content: Content, stamp: Stamp) -> SyncedNode {
    SyncedNode {
        at: Placed { parent, name: name.clone() },
        content,
        attrs_share: Default::default(),
        attrs_here: Default::default(),
        mtime_share: stamp.mtime,
        stamp,
        since: Seq(1),
    }
}

fn finish(scan: &Scan) -> (Vec<ScanPart>, u64) {
    let mut parts = Vec::new();
    loop {
        match scan.next_within(Duration::from_secs(60)).expect("the scan ends") {
            Some(Scanned::Part(part)) => parts.push(part),
            Some(Scanned::Done { entry_count }) => return (parts, entry_count),
            other => panic!("{other:?}"),
        }
    }
}

/// The differences by name.
fn differ(parts: &[ScanPart]) -> Vec<String> {
    let mut names: Vec<_> =
        parts.iter().flat_map(|part| &part.differ).map(|found| found.seen.name.to_string()).collect();
    names.sort();
    names
}

fn missing(parts: &[ScanPart]) -> usize {
    parts.iter().map(|part| part.missing.len()).sum()
}

#[test]
fn only_differences_travel() {
    let dir = tempfile::tempdir().unwrap();
    let mut s = Synced::new(dir.path());
    for dir in ["a", "b", "b/c", "b/c/d"] {
        s.e.mkdir(dir);
        for n in 0..10 {
            s.e.write(&format!("{dir}/f{n}"), b"x");
        }
    }
    std::os::unix::fs::symlink("loop", s.e.file("loop")).unwrap();
    s.settle();
    let (parts, count) = s.everything();
    assert!(parts.is_empty(), "{parts:?}");
    assert_eq!(count, 4 + 40 + 1);
    // A change of bytes, of a name, of attributes, and a new file.
    s.e.write("b/c/f3", b"longer");
    std::fs::rename(s.e.file("a/f1"), s.e.file("b/moved")).unwrap();
    std::fs::remove_file(s.e.file("loop")).unwrap();
    let (parts, _) = s.everything();
    assert_eq!(differ(&parts), ["a", "b", "f3", "moved"]);
    assert_eq!(missing(&parts), 2);
    // A directory's own entry comes before what is in it.
    let at = |name: &str| {
        parts
            .iter()
            .position(|part| part.differ.iter().any(|found| found.seen.name.as_bytes() == name.as_bytes()))
    };
    assert!(at("b") < at("moved"));
    s.settle();
    // A moved directory compares equal inside: one entry, one absence, whatever it holds.
    std::fs::rename(s.e.file("b/c"), s.e.file("a/c2")).unwrap();
    let (parts, _) = s.everything();
    assert_eq!(differ(&parts), ["a", "b", "c2"]);
    assert_eq!(missing(&parts), 1);
}

/// One directory is answered in any case.
#[test]
fn one_directory_is_listed_without_its_insides() {
    let dir = tempfile::tempdir().unwrap();
    let mut s = Synced::new(dir.path());
    s.e.mkdir("d");
    s.e.mkdir("d/e");
    s.e.write("d/e/f", b"x");
    let (parts, count) = finish(&s.scan(false, &s.e.dir_at("d")));
    assert_eq!((differ(&parts), count), (vec!["e".to_owned()], 1));
    s.settle();
    let (parts, _) = finish(&s.scan(false, &s.e.dir_at("d")));
    assert!(matches!(parts[..], [ScanPart { end: Some(PartEnd::Complete), .. }]), "{parts:?}");
    let wrong = DirAt { ident: Some(FileIdent { ino: 1, generation: 1 }), ..(*s.e.dir_at("d")).clone() };
    let (parts, _) = finish(&s.scan(false, &wrong));
    assert!(matches!(parts[..], [ScanPart { end: Some(PartEnd::Gone), .. }]), "{parts:?}");
}

/// A directory is another node's by the rows than the one that it is looked at for: a moved one, in whose place another has
/// been made that took its id. What equals the rows of the former is news to the latter.
#[test]
fn a_directory_is_compared_with_the_rows_of_the_node_that_was_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let mut s = Synced::new(dir.path());
    for dir in ["moved", "moved/deep", "other"] {
        s.e.mkdir(dir);
    }
    for file in ["moved/deep/inside", "moved/plain", "other/expected"] {
        s.e.write(file, b"x");
    }
    s.settle();
    let moved = s.e.dir_at("moved");
    let other = s.db.synced_at(NodeUid::ROOT, b"other").unwrap();
    let scan = |rows| {
        let readers = || s.db.reader();
        let options = ScanOptions { rows, ..options() };
        finish(&Scan::start(s.e.root.clone(), Arc::default(), readers, &moved, options).unwrap()).0
    };
    let parts = scan(other);
    // What lies in "deep" is still known by its identity.
    assert_eq!(
        (differ(&parts), missing(&parts)),
        (vec!["deep".to_owned(), "plain".to_owned()], 1),
        "{parts:?}"
    );
    let parts = scan(None);
    assert_eq!((differ(&parts).len(), missing(&parts)), (0, 0), "{parts:?}");
}

/// Promise I5, scenario 68: a directory with another volume mounted over it says nothing about what it holds.
#[test]
fn i5_a_directory_under_a_mount_has_no_absences() {
    let Some(mounted) = Mounted::new("ext4", 16, &[]) else { return };
    let mut s = Synced::new(mounted.path());
    s.e.mkdir("d");
    s.e.mkdir("d/mnt");
    s.e.write("d/f", b"x");
    s.settle();
    // A mount over a directory hides its inside: nothing in it is missing, nor is the directory itself.
    std::fs::write(s.e.file("d/mnt/inside"), b"x").unwrap();
    s.settle();
    let status =
        std::process::Command::new("mount").args(["-t", "tmpfs", "none"]).arg(s.e.file("d/mnt")).status();
    assert!(status.unwrap().success());
    std::fs::write(s.e.file("d/mnt/foreign"), b"x").unwrap();
    let (parts, _) = s.everything();
    std::process::Command::new("umount").arg(s.e.file("d/mnt")).status().unwrap();
    assert_eq!(missing(&parts), 0);
    assert_eq!(differ(&parts), [""; 0]);
    assert!(parts.iter().any(|part| part.mounts == [name("mnt")]), "{parts:?}");
}

/// Promise I5, scenario 89: when the root is not what was adopted, nothing is missing at all.
#[test]
fn i5_a_lost_root_has_no_absences() {
    let dir = tempfile::tempdir().unwrap();
    let mut s = Synced::new(dir.path());
    s.e.write("f", b"x");
    s.settle();
    std::fs::remove_file(s.e.file("f")).unwrap();
    std::fs::rename(s.e.file(".polder/identity"), s.e.file(".polder/elsewhere")).unwrap();
    let root = DirAt { path: RelPath::root(), ident: None };
    let scan = s.scan(true, &root);
    let mut lost = false;
    while let Some(word) = scan.next() {
        match word {
            Scanned::Part(part) => assert!(part.missing.is_empty()),
            Scanned::RootLost(_) => lost = true,
            other => panic!("{other:?}"),
        }
    }
    assert!(lost);
}

/// Scenario 35: absences seen while a directory changes are void.
#[test]
fn i5_a_directory_in_motion_has_no_absences() {
    let dir = tempfile::tempdir().unwrap();
    let mut s = Synced::new(dir.path());
    s.e.mkdir("d");
    for n in 0..2000 {
        s.e.write(&format!("d/{n}"), b"");
    }
    s.settle();
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mover = {
        let (stop, d) = (stop.clone(), s.e.file("d"));
        std::thread::spawn(move || {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                for n in 0..2000 {
                    std::fs::rename(d.join(n.to_string()), d.join(format!("moved-{n}"))).unwrap();
                    std::fs::rename(d.join(format!("moved-{n}")), d.join(n.to_string())).unwrap();
                }
            }
        })
    };
    let mut void = 0;
    for _ in 0..30 {
        let (parts, _) = s.everything();
        void += parts.iter().filter(|part| matches!(part.end, Some(PartEnd::Void | PartEnd::Gone))).count();
        assert_eq!(missing(&parts), 0);
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    mover.join().unwrap();
    assert!(void > 0, "nothing moved in time");
}

/// Scenario 32: names that are left out are neither told nor looked into.
#[test]
fn left_out_names_are_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let mut s = Synced::new(dir.path());
    s.e.mkdir("d");
    s.e.mkdir("d/cache");
    for file in ["d/cache/inside", "d/x.tmp", "d/plain", "cache"] {
        s.e.write(file, b"x");
    }
    let filter = Arc::new(polder_sync::Filter::parse(&["*.tmp", "/d/cache/"]).unwrap());
    let scan = |s: &Synced| {
        let root = DirAt { path: RelPath::root(), ident: None };
        let readers = || s.db.reader();
        let scan =
            Scan::start_filtered(s.e.root.clone(), Arc::default(), readers, &root, options(), filter.clone());
        finish(&scan.unwrap()).0
    };
    assert_eq!(differ(&scan(&s)), ["cache", "d", "plain"]);
    // Synced before they were left out: they are still there.
    s.settle();
    s.e.write("d/x.tmp", b"changed");
    let parts = scan(&s);
    assert_eq!((differ(&parts).len(), missing(&parts)), (0, 0), "{parts:?}");
}

/// Back-pressure: without credit the scan stands still, in bounded memory.
#[test]
fn a_scan_waits_for_credit() {
    let dir = tempfile::tempdir().unwrap();
    let s = Synced::new(dir.path());
    for dir in 0..20 {
        s.e.mkdir(&dir.to_string());
        for file in 0..20 {
            s.e.write(&format!("{dir}/{file}"), b"");
        }
    }
    let options = ScanOptions { credit: 50, ..options() };
    let root = DirAt { path: RelPath::root(), ident: None };
    let scan = Scan::start(s.e.root.clone(), Arc::default(), || s.db.reader(), &root, options).unwrap();
    let mut seen = 0;
    let mut waits = 0;
    loop {
        match scan.next_within(Duration::from_millis(200)) {
            Ok(Some(Scanned::Part(part))) => seen += part.differ.len(),
            Ok(Some(Scanned::Done { .. })) => break,
            Ok(other) => panic!("{other:?}"),
            Err(_) => {
                assert!(seen <= 50 * (waits + 1) + 2 * 20, "{seen} after {waits} waits");
                waits += 1;
                scan.credit(50);
            }
        }
    }
    assert_eq!(seen, 420);
    assert!(waits >= 5, "{waits}");
}

/// Scenarios 59 to 62 and 67: any bytes, 255 of them, any depth, and special files that nobody opens.
#[test]
fn odd_names_depths_and_files_are_seen() {
    let dir = tempfile::tempdir().unwrap();
    let mut s = Synced::new(dir.path());
    s.e.mkdir("odd");
    let mut count = 0;
    for byte in (1..=255u8).filter(|byte| *byte != b'/') {
        let name = if byte == b'.' { vec![b'.'; 3] } else { vec![byte] };
        std::fs::write(s.e.file("odd").join(std::ffi::OsStr::from_bytes(&name)), b"x").unwrap();
        count += 1;
    }
    for name in
        [&[b'\n'; 255][..], &[0xff; 255], "e\u{301}".as_bytes(), "\u{e9}".as_bytes(), b"CON", b"a:b ", b"-rf"]
    {
        std::fs::write(s.e.file("odd").join(std::ffi::OsStr::from_bytes(name)), b"x").unwrap();
        count += 1;
    }
    let mkfifo = std::process::Command::new("mkfifo").arg(s.e.file("odd/fifo")).status().unwrap();
    assert!(mkfifo.success());
    std::os::unix::net::UnixListener::bind(s.e.file("odd/socket")).unwrap();
    let (parts, _) = s.everything();
    let special: Vec<_> =
        parts.iter().flat_map(|part| &part.differ).filter(|found| found.seen.kind.is_none()).collect();
    assert_eq!(special.len(), 2);
    s.settle();
    let (parts, seen) = s.everything();
    assert_eq!(differ(&parts), ["fifo", "socket"]);
    assert_eq!(seen, count + 3);
}

/// Scenario 62.
#[test]
fn a_tree_of_depth_5000_is_walked() {
    // In memory where there is such a place: ext4 takes 3 ms to remove each level.
    let base = Path::new("/dev/shm");
    let dir = if base.is_dir() { tempfile::tempdir_in(base) } else { tempfile::tempdir() }.unwrap();
    let s = Synced::new(dir.path());
    let names = deep(&s.e.path, 5000);
    let (parts, count) = s.everything();
    assert_eq!(count, 5001);
    assert_eq!(parts.len(), 5001);
    // And reached by its names, far beyond PATH_MAX.
    let at = DirAt { path: names.into_iter().collect(), ident: None };
    assert_eq!(s.e.look_in(&at, &name("leaf")).unwrap().seen.stamp.size, 4);
    remove_deep(&s.e.path);
}

/// A chain of directories, made by descriptor, with a file at its end.
fn deep(base: &Path, depth: usize) -> Vec<Name> {
    use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let mut dir = openat(CWD, base, flags, Mode::empty()).unwrap();
    let names: Vec<_> = (0..depth).map(|n| name(&format!("level-{n}"))).collect();
    for name in &names {
        mkdirat(&dir, name.as_bytes(), Mode::RWXU).unwrap();
        dir = openat(&dir, name.as_bytes(), flags, Mode::empty()).unwrap();
    }
    let leaf = openat(&dir, "leaf", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).unwrap();
    rustix::io::write(&leaf, b"leaf").unwrap();
    names
}

/// The library's own removal keeps a descriptor a level.
fn remove_deep(base: &Path) {
    assert!(
        std::process::Command::new("rm").arg("-rf").arg(base.join("level-0")).status().unwrap().success()
    );
}

/// Figures: `POLDER_BENCH_DIR=… cargo test --release -p polder-replica --test scan -- --ignored --nocapture`.
#[test]
#[ignore = "measures"]
fn a_hot_rescan() {
    let base = std::env::var_os("POLDER_BENCH_DIR").unwrap_or("/tmp".into());
    let dir = tempfile::tempdir_in(base).unwrap();
    let count: u64 = std::env::var("POLDER_BENCH_NODES").map_or(200_000, |n| n.parse().unwrap());
    let mut s = Synced::new(dir.path());
    for n in 0..count {
        if n % 40 == 0 {
            s.e.mkdir(&format!("dir-{}", n / 40));
        } else {
            std::fs::File::create(s.e.file(&format!("dir-{}/document number {n}.txt", n / 40))).unwrap();
        }
    }
    let (clock, cpu) = (Instant::now(), cpu_seconds());
    let (parts, found) = s.everything();
    let seconds = clock.elapsed().as_secs_f64();
    println!("discovery: processor {:.2} us a node", (cpu_seconds() - cpu) / found as f64 * 1e6);
    println!(
        "discovery: {found} nodes in {seconds:.2} s, {:.0}/s, {} parts",
        found as f64 / seconds,
        parts.len()
    );
    drop(parts);
    s.settle();
    s.db.commit(true).unwrap();
    for threads in [1, 2, 3, 4] {
        let options = ScanOptions { threads, ..options() };
        let root = DirAt { path: RelPath::root(), ident: None };
        let (clock, cpu) = (Instant::now(), cpu_seconds());
        let scan = Scan::start(s.e.root.clone(), Arc::default(), || s.db.reader(), &root, options).unwrap();
        let (parts, found) = finish(&scan);
        let seconds = clock.elapsed().as_secs_f64();
        assert!(parts.is_empty());
        println!("processor: {:.2} us a node", (cpu_seconds() - cpu) / found as f64 * 1e6);
        println!(
            "rescan with {threads} threads: {found} nodes in {seconds:.2} s, {:.0}/s",
            found as f64 / seconds
        );
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    println!("{}", status.lines().find(|line| line.starts_with("VmHWM")).unwrap());
}
