//! Applying: every expectation is re-checked, nothing that a user has is lost.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::*;
use polder_replica::{Act, BatchResult, DirAt, ErrorClass, Over, Place, Step, StepResult, Unknown};
use polder_types::{FileIdent, Kind, RelPath, Stamp, Timestamp};

type Case = (&'static str, fn(&Path));

/// All of these hold on every file system.
const EVERYWHERE: &[Case] = &[
    ("new things appear whole", new_things_appear_whole),
    ("a taken name is refused", a_taken_name_is_refused),
    ("replacing keeps the old bytes", replacing_keeps_the_old_bytes),
    ("an edit before the exchange refuses", an_edit_refuses_the_replacement),
    ("what is kept gets a name", what_is_kept_gets_a_name),
    ("moves and exchanges", moves_and_exchanges),
    ("directories move with what follows", directories_move_with_what_follows),
    ("removal", removal),
    ("touching", touching),
    ("the root is touched without a name", the_root_is_touched),
    ("a file over a directory and back", kinds_change_in_one_exchange),
    ("staging is emptied", staging_is_emptied),
];

#[test]
fn i3_i6_steps_are_conditional_and_whole() {
    let dir = tempfile::tempdir().unwrap();
    for (what, test) in EVERYWHERE {
        eprintln!("- {what}");
        test(dir.path());
    }
}

fn on_image(kind: &str, megabytes: u64) {
    let Some(mounted) = Mounted::new(kind, megabytes, &[]) else { return };
    for (what, test) in EVERYWHERE {
        eprintln!("- {what}");
        test(mounted.path());
    }
}

#[test]
fn i3_i6_on_ext4() {
    on_image("ext4", 64);
}

#[test]
fn i3_i6_on_xfs() {
    on_image("xfs", 320);
}

#[test]
fn i3_i6_on_btrfs() {
    on_image("btrfs", 256);
}

fn new_things_appear_whole(base: &Path) {
    let e = Endpoint::new(base);
    let mut link = e.staging.symlink(b"../nowhere").unwrap();
    link.finish(&mut e.attributes(), &plain(0), MTIME).unwrap();
    let below =
        Place { dir: Arc::new(DirAt { path: RelPath::parse(b"d").unwrap(), ident: None }), name: name("f") };
    let place =
        |at, staged| Step { uid: uid(1), act: Act::Place { at, staged, over: None }, after: Vec::new() };
    let mut last = place(below, e.staged(b"inside"));
    last.after = vec![0];
    let steps = vec![
        place(e.place("d"), e.staged_dir()),
        place(e.place("link"), link),
        place(e.place("empty"), e.staged(b"")),
        last,
    ];
    let filter = polder_sync::Filter::none();
    let dir_times = vec![(Arc::new(DirAt { path: RelPath::parse(b"d").unwrap(), ident: None }), MTIME)];
    let batch = polder_replica::Batch { steps, dir_times, server: "site-a", filter: &filter };
    let result = polder_replica::apply(&e.root, &e.recycle, &mut e.attributes(), batch);
    assert!(result.steps.iter().all(is_done), "{:?}", result.steps);
    assert_eq!(e.bytes("d/f").unwrap(), b"inside");
    assert_eq!(e.stamp("d/f").mtime, MTIME);
    assert_eq!(e.stamp("d").mtime, MTIME);
    assert_eq!(e.stamp("link").mtime, MTIME);
    assert!(result.dirs.iter().any(|(stamp, _)| *stamp == e.stamp("d")), "{:?}", result.dirs);
    assert_eq!(&*e.look("link").unwrap().target.unwrap(), b"../nowhere");
    let meta = std::fs::metadata(e.file("d/f")).unwrap();
    assert_eq!(meta.permissions().mode() & 0o7777, 0o644);
    // What is told is what a later look finds: our own applying is recognised.
    for (result, path) in result.steps.into_iter().zip(["d", "link", "empty", "d/f"]).skip(1) {
        assert_eq!(done(result), e.look(path), "{path}");
    }
    assert_eq!(std::fs::read_dir(e.file(".polder/staging")).unwrap().count(), 0);
}

fn a_taken_name_is_refused(base: &Path) {
    let e = Endpoint::new(base);
    e.write("f", b"mine");
    let result = e.apply_one(Act::Place { at: e.place("f"), staged: e.staged(b"theirs"), over: None });
    let StepResult::Refused { found: Some(found) } = result else { panic!("{result:?}") };
    assert_eq!(found.seen.stamp, e.stamp("f"));
    assert_eq!(e.bytes("f").unwrap(), b"mine");
    let gone =
        Place { dir: Arc::new(DirAt { path: RelPath::parse(b"no").unwrap(), ident: None }), name: name("f") };
    let result = e.apply_one(Act::Place { at: gone, staged: e.staged(b"x"), over: None });
    assert!(matches!(result, StepResult::Refused { found: None }), "{result:?}");
    assert_eq!(e.names(), ["f"]);
}

fn replacing_keeps_the_old_bytes(base: &Path) {
    let e = Endpoint::new(base);
    let expect = e.write("f", b"old");
    let act = Act::Replace { at: e.place("f"), expect, staged: e.staged(b"new"), keep: None };
    let BatchResult { mut steps, displaced, .. } =
        e.apply(vec![Step { uid: uid(1), act, after: Vec::new() }]);
    assert_eq!(done(steps.remove(0)), e.look("f"));
    assert_eq!(e.bytes("f").unwrap(), b"new");
    assert_eq!(e.recycled(), [b"old"]);
    let mut entries = Vec::new();
    e.recycle
        .list(&mut |entry| {
            entries.push(entry);
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(entries[0].uid, Some(uid(1)));
    assert_eq!(displaced, [(uid(1), entries[0].name.clone())]);
    assert!(entries[0].looks_unchanged && entries[0].untouched == Some(true), "{entries:?}");
}

fn an_edit_refuses_the_replacement(base: &Path) {
    let e = Endpoint::new(base);
    let expect = e.write("f", b"old");
    e.write("f", b"edited");
    let staged = e.staged(b"new");
    let result = e.apply_one(Act::Replace { at: e.place("f"), expect, staged, keep: None });
    assert!(matches!(result, StepResult::Refused { found: Some(_) }), "{result:?}");
    let result = e.apply_one(Act::Remove { at: e.place("f"), kind: Kind::File, expect });
    assert!(matches!(result, StepResult::Refused { found: Some(_) }), "{result:?}");
    assert_eq!(e.bytes("f").unwrap(), b"edited");
    // Same size and same times but for ctime, as after `cp -p` over it: still another version (scenario 26).
    let expect = e.stamp("f");
    let times = std::fs::metadata(e.file("f")).unwrap().modified().unwrap();
    std::fs::write(e.file("f"), b"EDITED").unwrap();
    std::fs::File::options().write(true).open(e.file("f")).unwrap().set_modified(times).unwrap();
    assert_eq!(e.stamp("f").mtime, expect.mtime);
    let result = e.apply_one(Act::Replace { at: e.place("f"), expect, staged: e.staged(b"new"), keep: None });
    assert!(matches!(result, StepResult::Refused { found: Some(_) }), "{result:?}");
    assert_eq!(e.bytes("f").unwrap(), b"EDITED");
    assert_eq!(e.recycled().len(), 0);
}

fn what_is_kept_gets_a_name(base: &Path) {
    let e = Endpoint::new(base);
    let expect = e.write("f.txt", b"edit");
    e.write("f-site-a.txt", b"taken");
    let keep = Some(e.place("f-site-a.txt"));
    let result = e.apply_one(Act::Replace { at: e.place("f.txt"), expect, staged: e.staged(b"new"), keep });
    let StepResult::Done { now, other, unknown: None, exact: true } = result else { panic!("{result:?}") };
    assert_eq!(now, e.look("f.txt"));
    assert_eq!(other, e.look("f-site-a-1.txt"));
    assert_eq!(e.bytes("f.txt").unwrap(), b"new");
    assert_eq!(e.bytes("f-site-a.txt").unwrap(), b"taken");
    assert_eq!(e.bytes("f-site-a-1.txt").unwrap(), b"edit");
    assert_eq!(e.recycled().len(), 0);
}

fn moves_and_exchanges(base: &Path) {
    let e = Endpoint::new(base);
    let (a, b) = (e.write("a", b"A"), e.write("b", b"B"));
    e.mkdir("d");
    let result = e.apply_one(Act::Move { from: e.place("a"), expect: a, to: e.place("b") });
    assert!(
        matches!(&result, StepResult::Refused { found: Some(found) } if found.seen.stamp == b),
        "{result:?}"
    );
    let result = e.apply_one(Act::Move { from: e.place("a"), expect: b, to: e.place("c") });
    assert!(matches!(result, StepResult::Refused { .. }), "{result:?}");
    let act = Act::Exchange { from: e.place("a"), expect: a, to: e.place("b"), expect_with: b };
    let StepResult::Done { now, other, .. } = e.apply_one(act) else { panic!("not exchanged") };
    assert_eq!((now, other), (e.look("b"), e.look("a")));
    assert_eq!((e.bytes("a").unwrap(), e.bytes("b").unwrap()), (b"B".to_vec(), b"A".to_vec()));
    // Two names of one file that differ in case alone are two names here.
    std::fs::hard_link(e.file("a"), e.file("A")).unwrap();
    let result = e.apply_one(Act::Move { from: e.place("a"), expect: e.stamp("a"), to: e.place("A") });
    assert!(matches!(result, StepResult::Refused { found: Some(_) }), "{result:?}");
    assert_eq!(e.names(), ["A", "a", "b", "d"]);
    std::fs::remove_file(e.file("A")).unwrap();
    // Edits follow the node: only the identity counts.
    e.write("b", b"A and more");
    let result = e.apply_one(Act::Move { from: e.place("b"), expect: a, to: e.place("d/b") });
    assert!(matches!(result, StepResult::Done { exact: false, .. }), "the edit is told: {result:?}");
    assert_eq!(done(result), e.look("d/b"));
    assert_eq!(e.names(), ["a", "d"]);
}

/// Paths are those before the batch, whatever earlier steps have moved.
fn directories_move_with_what_follows(base: &Path) {
    let e = Endpoint::new(base);
    e.mkdir("x");
    e.mkdir("y");
    e.mkdir("x/in");
    e.mkdir("z");
    let inner = e.write("x/in/f", b"f");
    let (x, y, z) = (e.stamp("x"), e.stamp("y"), e.stamp("z"));
    let step = |act| Step { uid: uid(1), act, after: Vec::new() };
    let steps = vec![
        step(Act::Exchange { from: e.place("x"), expect: x, to: e.place("y"), expect_with: y }),
        step(Act::Move { from: e.place("y"), expect: x, to: e.place("z/y") }),
        step(Act::Move { from: e.place("x/in/f"), expect: inner, to: e.place("x/in/g") }),
        step(Act::Place { at: e.place("x/in/new"), staged: e.staged(b"new"), over: None }),
    ];
    let _ = z;
    let result = e.apply(steps);
    assert!(result.steps.iter().all(is_done), "{:?}", result.steps);
    assert_eq!(e.bytes("z/y/in/g").unwrap(), b"f");
    assert_eq!(e.bytes("z/y/in/new").unwrap(), b"new");
    assert_eq!(e.names(), ["x", "z"]);
}

fn removal(base: &Path) {
    let e = Endpoint::new(base);
    let f = e.write("f", b"bytes");
    assert_eq!(done(e.apply_one(Act::Remove { at: e.place("f"), kind: Kind::File, expect: f })), None);
    assert_eq!(e.recycled(), [b"bytes"]);
    e.mkdir("d");
    e.write("d/~$lock.docx", b"");
    e.write("d/x.tmp", b"left");
    e.write("d/user", b"mine");
    let d = e.stamp("d");
    let remove = || e.apply_one(Act::Remove { at: e.place("d"), kind: Kind::Directory, expect: d });
    assert!(matches!(remove(), StepResult::Refused { found: Some(_) }));
    std::fs::remove_file(e.file("d/user")).unwrap();
    // Left-out names never block a removal (scenario 32), and are not lost.
    assert_eq!(done(remove()), None);
    assert_eq!(e.names(), [""; 0]);
    let left = std::fs::read_dir(e.file(".polder/recycle")).unwrap();
    let left: Vec<_> =
        left.filter_map(|entry| std::fs::read(entry.unwrap().path().join("x.tmp")).ok()).collect();
    assert_eq!(left, [b"left"]);
    // Later they are removed for good, however deep they go and whatever they point to.
    let mut entry = None;
    e.recycle
        .list(&mut |recycled| {
            if recycled.kind == Some(Kind::Directory) {
                entry = Some(recycled.name);
            }
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    let entry = entry.unwrap();
    let top = e.file(".polder/recycle").join(entry.name().as_str().unwrap());
    std::fs::create_dir_all(top.join("a/b/c")).unwrap();
    std::fs::write(top.join("a/b/c/f"), b"x").unwrap();
    std::os::unix::fs::symlink(e.file(""), top.join("a/link")).unwrap();
    e.recycle.remove_leftovers(&entry).unwrap();
    assert_eq!(e.recycled(), [b"bytes"]);
    e.mkdir("empty");
    let expect = e.stamp("empty");
    assert_eq!(done(e.apply_one(Act::Remove { at: e.place("empty"), kind: Kind::Directory, expect })), None);
}

fn touching(base: &Path) {
    let e = Endpoint::new(base);
    let f = e.write("f", b"bytes");
    e.mkdir("d");
    std::os::unix::fs::symlink("t", e.file("l")).unwrap();
    let attrs = Some(Arc::new(plain(0o600)));
    let touch = |path: &str, kind, expect| {
        let act = Act::Touch { at: e.place(path), kind, expect, attrs: attrs.clone(), mtime: Some(MTIME) };
        e.apply_one(act)
    };
    for (path, kind) in [("f", Kind::File), ("d", Kind::Directory), ("l", Kind::Symlink)] {
        assert_eq!(done(touch(path, kind, e.stamp(path))), e.look(path), "{path}");
        assert_eq!(e.stamp(path).mtime, MTIME, "{path}");
    }
    assert_eq!(std::fs::metadata(e.file("f")).unwrap().mode() & 0o7777, 0o600);
    assert!(matches!(touch("f", Kind::File, f), StepResult::Refused { .. }));
    assert!(matches!(touch("f", Kind::Directory, f), StepResult::Refused { .. }));
    // While somebody can write, a time would hide what they write.
    let writer = std::fs::File::options().append(true).open(e.file("f")).unwrap();
    let busy = touch("f", Kind::File, e.stamp("f"));
    assert!(matches!(&busy, StepResult::Failed(error) if error.class == ErrorClass::Busy), "{busy:?}");
    drop(writer);
    assert!(is_done(&touch("f", Kind::File, e.stamp("f"))));
}

/// A user sets permissions while ours are set. Theirs are never told as ours, and where others stand there, the stamp that
/// was told does not: the next look finds them. Told as what was applied, they would never have travelled.
#[test]
fn i1_a_chmod_beside_ours_is_not_taken_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let e = Endpoint::new(dir.path());
    e.write("f", b"bytes");
    e.mkdir("d");
    let stop = Arc::new(AtomicBool::new(false));
    let user = {
        let (stop, path) = (stop.clone(), e.path.clone());
        std::thread::spawn(move || {
            let theirs = std::fs::Permissions::from_mode(0o640);
            while !stop.load(Ordering::Relaxed) {
                for name in ["f", "d"] {
                    std::fs::set_permissions(path.join(name), theirs.clone()).unwrap();
                }
            }
        })
    };
    let attrs = Some(Arc::new(plain(0o751)));
    let (mut done, mut beside) = (0, 0);
    let begun = std::time::Instant::now();
    while begun.elapsed().as_millis() < 1500 {
        for (path, kind) in [("f", Kind::File), ("d", Kind::Directory)] {
            let before = e.stamp(path);
            let act =
                Act::Touch { at: e.place(path), kind, expect: before, attrs: attrs.clone(), mtime: None };
            let StepResult::Done { now: Some(told), .. } = e.apply_one(act) else { continue };
            done += 1;
            assert_eq!(told.attrs.as_ref().unwrap().0.mode, 0o751, "{path}");
            let now = e.look(path).unwrap();
            beside += u32::from(now.attrs != told.attrs);
            assert!(now.attrs == told.attrs || now.seen.stamp != told.seen.stamp, "{path}");
        }
    }
    stop.store(true, Ordering::Relaxed);
    user.join().unwrap();
    eprintln!("{done} done, {beside} with others beside them");
    assert!(done > 0 && beside > 0);
}

/// The root stands in no directory: its own permissions once could never be set, and its endpoint never came to rest.
fn the_root_is_touched(base: &Path) {
    let e = Endpoint::new(base);
    let ident = e.dir(&RelPath::root()).ident.unwrap();
    let expect = Stamp { ident, ..Stamp::default() };
    let attrs = Some(Arc::new(plain(0o750)));
    let touch = |expect| {
        let at = e.place("root");
        let act = Act::Touch { at, kind: Kind::Directory, expect, attrs: attrs.clone(), mtime: Some(MTIME) };
        let steps = vec![Step { uid: polder_types::NodeUid::ROOT, act, after: Vec::new() }];
        e.apply(steps).steps.remove(0)
    };
    let now = done(touch(expect)).unwrap();
    assert_eq!((now.seen.stamp.ident, now.seen.stamp.mtime), (expect.ident, MTIME));
    assert_eq!(std::fs::metadata(e.file("")).unwrap().mode() & 0o7777, 0o750);
    let other = Stamp { ident: FileIdent { ino: ident.ino + 1, ..ident }, ..expect };
    assert!(matches!(touch(other), StepResult::Refused { .. }));
}

/// Scenario 13: one exchange, both kept.
fn kinds_change_in_one_exchange(base: &Path) {
    let e = Endpoint::new(base);
    let f = e.write("x", b"file");
    let over = Some(Over { uid: uid(2), expect: f, to: None });
    let placed = e.apply_one(Act::Place { at: e.place("x"), staged: e.staged_dir(), over });
    assert_eq!(done(placed), e.look("x"));
    assert_eq!(e.recycled(), [b"file"]);
    e.write("x/kept", b"in");
    let expect = e.stamp("x");
    let over = |to| Some(Over { uid: uid(2), expect, to });
    let full = e.apply_one(Act::Place { at: e.place("x"), staged: e.staged(b"new"), over: over(None) });
    assert!(matches!(full, StepResult::Refused { .. }), "{full:?}");
    let to = over(Some(e.place("y")));
    let StepResult::Done { now, other, unknown: None, exact: _ } =
        e.apply_one(Act::Place { at: e.place("x"), staged: e.staged(b"new"), over: to })
    else {
        panic!("not placed")
    };
    assert_eq!((now, other), (e.look("x"), e.look("y")));
    assert_eq!((e.bytes("x").unwrap(), e.bytes("y/kept").unwrap()), (b"new".to_vec(), b"in".to_vec()));
}

fn staging_is_emptied(base: &Path) {
    let e = Endpoint::new(base);
    for n in 0..300 {
        std::fs::write(e.file(&format!(".polder/staging/left-{n}")), b"half").unwrap();
    }
    std::fs::create_dir(e.file(".polder/staging/dir")).unwrap();
    std::os::unix::fs::symlink("/etc", e.file(".polder/staging/link")).unwrap();
    polder_replica::Staging::open(&e.root).unwrap();
    assert_eq!(std::fs::read_dir(e.file(".polder/staging")).unwrap().count(), 0);
}

/// I19, scenario 110: a user swaps a directory for a symlink to the outside, again and again, during applies.
#[test]
fn i19_no_step_leaves_the_root_while_directories_are_swapped() {
    let dir = tempfile::tempdir().unwrap();
    let e = Endpoint::new(dir.path());
    let outside = e.outside();
    std::fs::write(outside.join("f"), b"sentinel").unwrap();
    std::fs::set_permissions(outside.join("f"), std::fs::Permissions::from_mode(0o640)).unwrap();
    let sentinel = |path: &Path| {
        let meta = std::fs::metadata(path.join("f")).unwrap();
        (std::fs::read(path.join("f")).unwrap(), meta.mode(), meta.ctime(), meta.ctime_nsec(), meta.ino())
    };
    let before = (sentinel(&outside), std::fs::read_dir(&outside).unwrap().count());
    e.mkdir("d");
    e.mkdir("d/in");
    std::os::unix::fs::symlink(&outside, e.file("decoy")).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let swapper = {
        let (stop, d, decoy) = (stop.clone(), e.file("d/in"), e.file("decoy"));
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let cwd = rustix::fs::CWD;
                rustix::fs::renameat_with(cwd, &d, cwd, &decoy, rustix::fs::RenameFlags::EXCHANGE).unwrap();
            }
        })
    };
    let dir =
        || Arc::new(DirAt { path: RelPath::parse(b"d/in").unwrap(), ident: Some(FileIdent::default()) });
    let ident = e.dir_at("d");
    let real = Arc::new(DirAt { path: RelPath::parse(b"d/in").unwrap(), ident: find_in(&e, &ident) });
    let (mut done, mut not) = (0, 0);
    for round in 0..400u32 {
        let at = |name: &str| Place {
            dir: if round % 7 == 0 { dir() } else { real.clone() },
            name: name.parse().unwrap(),
        };
        let expect = e.look_in(&DirAt { path: RelPath::root(), ident: None }, &name("f"));
        assert_eq!(expect, None);
        let acts = vec![
            Act::Place { at: at(&format!("new-{round}")), staged: e.staged(b"new"), over: None },
            Act::Touch {
                at: at("f"),
                kind: Kind::File,
                expect: outside_stamp(&outside),
                attrs: Some(Arc::new(plain(0o777))),
                mtime: Some(MTIME),
            },
            Act::Remove { at: at("f"), kind: Kind::File, expect: outside_stamp(&outside) },
            Act::Replace {
                at: at("f"),
                expect: outside_stamp(&outside),
                staged: e.staged(b"evil"),
                keep: None,
            },
        ];
        let result =
            e.apply(acts.into_iter().map(|act| Step { uid: uid(1), act, after: Vec::new() }).collect());
        done += result.steps.iter().filter(|step| is_done(step)).count();
        not += result.steps.iter().filter(|step| !is_done(step)).count();
    }
    stop.store(true, Ordering::Relaxed);
    swapper.join().unwrap();
    assert!(done > 0 && not > 0, "{done} done, {not} not: the race was not run");
    assert_eq!((sentinel(&outside), std::fs::read_dir(&outside).unwrap().count()), before);
}

fn find_in(e: &Endpoint, dir: &DirAt) -> Option<FileIdent> {
    (0..10_000).find_map(|_| {
        let found = e.look_in(dir, &name("in")).filter(|found| found.seen.kind == Some(Kind::Directory));
        found.map(|found| found.seen.stamp.ident)
    })
}

fn outside_stamp(outside: &Path) -> Stamp {
    let meta = std::fs::metadata(outside.join("f")).unwrap();
    Stamp {
        ident: FileIdent { ino: meta.ino(), generation: 0 },
        ctime: Timestamp::new(meta.ctime(), meta.ctime_nsec() as u32),
        mtime: Timestamp::new(meta.mtime(), meta.mtime_nsec() as u32),
        size: meta.len(),
    }
}

/// I1: a user who saves again and again while the file is being replaced never loses a save that was whole.
#[test]
fn i1_no_save_is_lost_in_the_race_with_a_replacement() {
    let dir = tempfile::tempdir().unwrap();
    let e = Endpoint::new(dir.path());
    e.write("f", b"save 0");
    let stop = Arc::new(AtomicBool::new(false));
    let saver = {
        let (stop, path) = (stop.clone(), e.path.clone());
        std::thread::spawn(move || {
            let mut saves = 0u32;
            while !stop.load(Ordering::Relaxed) {
                saves += 1;
                // In place and by rename, as programs do.
                let (text, f) = (format!("save {saves}"), path.join("f"));
                if saves.is_multiple_of(2) {
                    std::fs::write(&f, text).unwrap();
                } else {
                    std::fs::write(path.join("f.new"), text).unwrap();
                    std::fs::rename(path.join("f.new"), &f).unwrap();
                }
                if saves.is_multiple_of(16) {
                    // So that some replacements find the file at rest.
                    std::thread::sleep(std::time::Duration::from_millis(2));
                }
            }
            saves
        })
    };
    let (mut done, mut refused, mut rescued) = (0, 0, 0);
    let begun = std::time::Instant::now();
    while begun.elapsed().as_millis() < 1500 {
        let Some(found) = e.look("f") else { continue };
        let staged = e.staged(b"from the share");
        match e.apply_one(Act::Replace { at: e.place("f"), expect: found.seen.stamp, staged, keep: None }) {
            StepResult::Done { unknown, .. } => {
                done += 1;
                rescued += u32::from(matches!(unknown, Some(Unknown::Rescued)));
            }
            StepResult::Refused { .. } => refused += 1,
            other => panic!("{other:?}"),
        }
    }
    stop.store(true, Ordering::Relaxed);
    let saves = saver.join().unwrap();
    eprintln!("{saves} saves; {done} replaced, {refused} refused, {rescued} rescued");
    assert!(done > 0 && refused > 0);
    // Every file anywhere is whole: nothing was overwritten in part, and each displaced content is still there.
    let whole = |bytes: &[u8]| bytes.is_empty() || bytes.starts_with(b"save ") || bytes == b"from the share";
    assert!(e.names().iter().all(|name| whole(&e.bytes(name).unwrap())));
    assert!(e.recycled().iter().all(|bytes| whole(bytes)));
    assert_eq!(e.recycled().len() as u32 + rescued, done);
}

/// I1: an edit made the moment a file appears is never taken for what was applied: either the told stamp is still that of
/// the placed bytes, or the next look differs from it.
#[test]
fn i1_an_edit_right_after_placing_is_not_swallowed() {
    let dir = tempfile::tempdir().unwrap();
    let e = Endpoint::new(dir.path());
    let stop = Arc::new(AtomicBool::new(false));
    let editor = {
        let (stop, f) = (stop.clone(), e.file("f"));
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                if let Ok(mut file) = std::fs::File::options().append(true).open(&f) {
                    std::io::Write::write_all(&mut file, b"!").unwrap();
                }
            }
        })
    };
    let mut edited = 0;
    for _ in 0..300 {
        let now = done(e.apply_one(Act::Place { at: e.place("f"), staged: e.staged(b"placed"), over: None }))
            .unwrap();
        let bytes = e.bytes("f").unwrap();
        edited += u32::from(bytes != b"placed");
        // The bytes first: an edit between the two only makes them differ.
        let bytes = e.bytes("f").unwrap();
        assert!(now.seen.stamp != e.stamp("f") || bytes == b"placed", "{now:?}");
        std::fs::remove_file(e.file("f")).unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    editor.join().unwrap();
    assert!(edited > 0, "nobody was quick enough");
    // Without luck: what was finished is what is told.
    let mut staged = e.staged(b"placed");
    staged.write_at(0, b"PLACED").unwrap();
    let now = done(e.apply_one(Act::Place { at: e.place("f"), staged, over: None })).unwrap();
    assert_eq!(now.seen.stamp.mtime, MTIME);
    assert_ne!(now.seen.stamp, e.stamp("f"));
}

/// Scenario 72: an immutable file is held with its reason, the others go on.
#[test]
fn an_immutable_file_fails_alone() {
    let dir = tempfile::tempdir().unwrap();
    let e = Endpoint::new(dir.path());
    let expect = e.write("fixed", b"old");
    let chattr = |flag| std::process::Command::new("chattr").arg(flag).arg(e.file("fixed")).status();
    if !chattr("+i").is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: cannot set the immutable flag here");
        return;
    }
    let expect = Stamp { ctime: e.stamp("fixed").ctime, ..expect };
    let steps = vec![
        Step {
            uid: uid(1),
            act: Act::Replace { at: e.place("fixed"), expect, staged: e.staged(b"new"), keep: None },
            after: vec![],
        },
        Step {
            uid: uid(2),
            act: Act::Place { at: e.place("other"), staged: e.staged(b"new"), over: None },
            after: vec![],
        },
        Step {
            uid: uid(3),
            act: Act::Remove { at: e.place("fixed"), kind: Kind::File, expect },
            after: vec![],
        },
        Step {
            uid: uid(4),
            act: Act::Place { at: e.place("third"), staged: e.staged(b"new"), over: None },
            after: vec![2],
        },
    ];
    let result = e.apply(steps);
    chattr("-i").unwrap();
    let failed = |result: &StepResult| matches!(result, StepResult::Failed(error) if error.class == ErrorClass::Permission);
    assert!(failed(&result.steps[0]) && failed(&result.steps[2]), "{:?}", result.steps);
    assert!(is_done(&result.steps[1]));
    assert!(matches!(result.steps[3], StepResult::Skipped));
    assert_eq!(e.bytes("fixed").unwrap(), b"old");
    assert_eq!(e.recycled().len(), 0);
}

/// Scenario 65: a remote edit never writes through a hard link to the outside.
#[test]
fn i19_a_hard_link_is_never_written_through() {
    let dir = tempfile::tempdir().unwrap();
    let e = Endpoint::new(dir.path());
    let outside = e.outside().join("linked");
    std::fs::write(&outside, b"old").unwrap();
    std::fs::hard_link(&outside, e.file("f")).unwrap();
    let found = e.look("f").unwrap();
    assert_eq!(found.seen.links, 2);
    let act =
        Act::Replace { at: e.place("f"), expect: found.seen.stamp, staged: e.staged(b"new"), keep: None };
    assert!(is_done(&e.apply_one(act)));
    assert_eq!(std::fs::read(&outside).unwrap(), b"old");
    assert_eq!(e.bytes("f").unwrap(), b"new");
}

/// Scenario 77: a full volume fails the item before anything of it is visible.
#[test]
fn i10_a_full_volume_leaves_the_old_version() {
    let Some(mounted) = Mounted::new("ext4", 16, &[]) else { return };
    let e = Endpoint::new(mounted.path());
    e.write("f", b"old");
    let error = e.staging.file(1 << 30, 1 << 30).unwrap_err();
    assert_eq!(error.class, ErrorClass::NoSpace);
    assert_eq!(std::fs::read_dir(e.file(".polder/staging")).unwrap().count(), 0);
    // Also when the space goes while the bytes come in.
    let mut staged = e.staging.file(1 << 30, 0).unwrap();
    let megabyte = vec![1; 1 << 20];
    let error = (0..64).find_map(|n| staged.write_at(n << 20, &megabyte).err()).unwrap();
    assert_eq!(error.class, ErrorClass::NoSpace);
    drop(staged);
    assert_eq!(e.bytes("f").unwrap(), b"old");
    assert!(is_done(&e.apply_one(Act::Place { at: e.place("g"), staged: e.staged(b"fits"), over: None })));
}

/// Promise I5: below a root that is not proven, nothing is changed either.
#[test]
fn i5_nothing_is_applied_to_a_lost_root() {
    let dir = tempfile::tempdir().unwrap();
    let e = Endpoint::new(dir.path());
    let expect = e.write("f", b"old");
    std::fs::rename(e.file(".polder/identity"), e.file(".polder/elsewhere")).unwrap();
    let result = e.apply_one(Act::Replace { at: e.place("f"), expect, staged: e.staged(b"new"), keep: None });
    assert!(matches!(result, StepResult::Failed(_)), "{result:?}");
    assert_eq!(e.bytes("f").unwrap(), b"old");
}

/// `.polder` is nobody's business.
/// Scenario 36.
#[test]
fn the_state_directory_is_out_of_reach() {
    let dir = tempfile::tempdir().unwrap();
    let e = Endpoint::new(dir.path());
    let at = |path: &str, last: &str| Place {
        dir: Arc::new(DirAt { path: RelPath::parse(path.as_bytes()).unwrap(), ident: None }),
        name: name(last),
    };
    for place in [at("", ".polder"), at(".polder", "x"), at(".polder/staging", "x")] {
        let result = e.apply_one(Act::Place { at: place, staged: e.staged(b"x"), over: None });
        assert!(
            matches!(&result, StepResult::Failed(error) if error.class == ErrorClass::Permission),
            "{result:?}"
        );
    }
    assert_eq!(e.look(".polder"), None);
    let expect = Stamp {
        ident: FileIdent { ino: std::fs::metadata(e.file(".polder")).unwrap().ino(), generation: 0 },
        ..Stamp::default()
    };
    let result = e.apply_one(Act::Move { from: at("", ".polder"), expect, to: at("", "x") });
    assert!(matches!(result, StepResult::Failed(_)));
}
