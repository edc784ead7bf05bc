//! Watching: whatever a user does leads to a hint about the right directory and name.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use std::collections::BTreeSet;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use common::*;
use polder_replica::{Hint, Method, Noticed, OwnEvents, Quiet, WatchOptions, Watcher};
use polder_types::{FileIdent, Name};

struct Watched {
    e: Endpoint,
    watcher: Watcher,
    told: Receiver<Noticed>,
}

impl Watched {
    fn new(base: &Path, method: Method, prepare: impl FnOnce(&Endpoint)) -> Option<Self> {
        let e = Endpoint::new(base);
        prepare(&e);
        let (sink, told) = channel();
        let options = WatchOptions { method: Some(method), own: OwnEvents::Told(None) };
        match Watcher::start(&e.root, options, Box::new(move |noticed| sink.send(noticed).unwrap_or(()))) {
            Ok(watcher) => Some(Self { e, watcher, told }),
            Err(error) => {
                eprintln!("SKIPPED: {method:?} is not permitted here: {error}");
                None
            }
        }
    }

    fn ident(&self, path: &str) -> FileIdent {
        self.e.dir_at(path).ident.unwrap()
    }

    /// Waits for the hint; everything that came before it and with it comes back.
    fn wait(&self, dir: FileIdent, name: Option<&str>) -> BTreeSet<Hint> {
        let name: Option<Name> = name.map(common::name);
        let deadline = Instant::now() + Duration::from_secs(5);
        let mut all = BTreeSet::new();
        while !all.iter().any(|hint: &Hint| (hint.dir, &hint.name) == (dir, &name)) {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.told.recv_timeout(left) {
                Ok(Noticed::Hints(hints)) => all.extend(hints),
                Ok(other) => panic!("{other:?}"),
                Err(_) => panic!("no hint about {name:?} in {dir:?}, only {all:?}"),
            }
        }
        all
    }

    /// Lets everything that was noticed so far pass.
    fn settle(&self) {
        let root = self.ident("");
        self.e.write("fence", b"x");
        self.wait(root, Some("fence"));
        std::fs::remove_file(self.e.file("fence")).unwrap();
        while self.told.recv_timeout(Duration::from_millis(50)).is_ok() {}
    }
}

fn every_change_is_hinted(base: &Path, method: Method) {
    let prepare = |e: &Endpoint| {
        e.mkdir("d");
        e.mkdir("d/e");
        e.write("d/e/old", b"x");
    };
    let Some(w) = Watched::new(base, method, prepare) else { return };
    assert_eq!(w.watcher.method(), method);
    let (root, d, e) = (w.ident(""), w.ident("d"), w.ident("d/e"));
    type Act<'a> = (&'a str, &'a dyn Fn(), FileIdent, Option<&'a str>);
    let acts: &[Act<'_>] = &[
        ("write", &|| std::fs::write(w.e.file("d/e/new"), b"x").unwrap(), e, Some("new")),
        (
            "chmod",
            &|| {
                let mode = std::fs::Permissions::from_mode(0o600);
                std::fs::set_permissions(w.e.file("d/e/old"), mode).unwrap();
            },
            e,
            Some("old"),
        ),
        (
            "rename away",
            &|| std::fs::rename(w.e.file("d/e/old"), w.e.file("d/moved")).unwrap(),
            e,
            Some("old"),
        ),
        (
            "rename to",
            &|| std::fs::rename(w.e.file("d/moved"), w.e.file("d/again")).unwrap(),
            d,
            Some("again"),
        ),
        ("unlink", &|| std::fs::remove_file(w.e.file("d/again")).unwrap(), d, Some("again")),
        ("symlink", &|| std::os::unix::fs::symlink("x", w.e.file("link")).unwrap(), root, Some("link")),
        (
            "hard link",
            &|| std::fs::hard_link(w.e.file("d/e/new"), w.e.file("d/second")).unwrap(),
            d,
            Some("second"),
        ),
        ("mkdir", &|| w.e.mkdir("d/fresh"), d, Some("fresh")),
        ("rmdir", &|| std::fs::remove_dir(w.e.file("d/fresh")).unwrap(), d, Some("fresh")),
        ("move a directory", &|| std::fs::rename(w.e.file("d/e"), w.e.file("e2")).unwrap(), root, Some("e2")),
        ("write in it", &|| std::fs::write(w.e.file("e2/after"), b"x").unwrap(), e, Some("after")),
    ];
    for (what, act, dir, name) in acts {
        w.settle();
        eprintln!("- {what}");
        act();
        w.wait(*dir, *name);
    }
    // A file that stays open.
    w.settle();
    let mut log = std::fs::File::options().append(true).open(w.e.file("e2/new")).unwrap();
    log.write_all(b"line").unwrap();
    w.wait(e, Some("new"));
    // A tree that comes in at once: where it is, and for inotify what was in it.
    let tree = w.e.outside().join("tree");
    std::fs::create_dir_all(tree.join("sub")).unwrap();
    w.settle();
    std::fs::rename(&tree, w.e.file("tree")).unwrap();
    let hints = w.wait(root, Some("tree"));
    assert!(hints.iter().any(|hint| hint.arrived));
    let sub = w.ident("tree/sub");
    w.settle();
    w.e.write("tree/sub/f", b"x");
    w.wait(sub, Some("f"));
}

#[test]
fn every_change_is_hinted_by_fanotify() {
    let dir = tempfile::tempdir().unwrap();
    every_change_is_hinted(dir.path(), Method::Fanotify);
}

#[test]
fn every_change_is_hinted_by_inotify() {
    let dir = tempfile::tempdir().unwrap();
    every_change_is_hinted(dir.path(), Method::Inotify);
}

#[test]
fn every_change_is_hinted_by_fanotify_on_other_file_systems() {
    for (kind, megabytes) in [("xfs", 320), ("btrfs", 256), ("ext4", 64)] {
        eprintln!("{kind}");
        if let Some(mounted) = Mounted::new(kind, megabytes, &[]) {
            every_change_is_hinted(mounted.path(), Method::Fanotify);
        }
    }
}

/// What happens beside the root, in `.polder`, and by our own hand, is nobody's business.
#[test]
fn foreign_and_own_events_are_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let Some(w) = Watched::new(dir.path(), Method::Fanotify, |e| e.mkdir("d")) else { return };
    let outside = w.e.outside();
    w.settle();
    std::fs::write(outside.join("f"), b"x").unwrap();
    std::fs::create_dir(outside.join("sub")).unwrap();
    std::fs::write(outside.join("sub/f"), b"x").unwrap();
    std::fs::write(w.e.file(".polder/staging/f"), b"x").unwrap();
    std::fs::write(w.e.file(".polder/state.db"), b"x").unwrap();
    std::fs::create_dir(w.e.file(".polder/recycle/dir")).unwrap();
    std::fs::write(w.e.file(".polder/recycle/dir/f"), b"x").unwrap();
    w.e.write("d/last", b"x");
    let hints = w.wait(w.ident("d"), Some("last"));
    assert!(hints.iter().all(|hint| hint.dir == w.ident("d")), "{hints:?}");
    // Moved out: no longer ours; moved back: ours again.
    let d = w.ident("d");
    std::fs::rename(w.e.file("d"), outside.join("d")).unwrap();
    w.settle();
    std::fs::write(outside.join("d/f"), b"x").unwrap();
    std::fs::rename(outside.join("d"), w.e.file("d")).unwrap();
    w.settle();
    w.e.write("d/g", b"x");
    w.wait(d, Some("g"));

    let (sink, told) = channel();
    let sink = Box::new(move |noticed| sink.send(noticed).unwrap_or(()));
    let quiet = Watcher::start(&w.e.root, WatchOptions::default(), sink).unwrap();
    w.e.write("d/ours", b"x");
    assert!(std::process::Command::new("touch").arg(w.e.file("d/theirs")).status().unwrap().success());
    let mut all = BTreeSet::new();
    wait_for("the hint of another process", || {
        if let Ok(Noticed::Hints(hints)) = told.try_recv() {
            all.extend(hints.into_iter().filter_map(|hint| hint.name));
        }
        all.contains(&name("theirs"))
    });
    assert_eq!(all.into_iter().collect::<Vec<_>>(), [name("theirs")]);
    drop(quiet);
}

/// The root of a tiered endpoint lies in the state directory, whose events are left out.
#[test]
fn regression_attributes_of_a_tiered_root_are_told() {
    for method in [Method::Fanotify, Method::Inotify] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("share");
        std::fs::create_dir(&path).unwrap();
        let endpoint = polder_types::EndpointId([7; 16]);
        let plain = polder_replica::Root::adopt(&path, endpoint, &[]).unwrap();
        polder_replica::lay_out(&plain, &mut |_| true).unwrap();
        drop(plain);
        let root = Arc::new(polder_replica::Root::open(&path, endpoint).unwrap());
        assert!(root.is_tiered());
        let (sink, told) = channel();
        let options = WatchOptions { method: Some(method), own: OwnEvents::Told(None) };
        let sink = Box::new(move |noticed| sink.send(noticed).unwrap_or(()));
        let Ok(watcher) = Watcher::start(&root, options, sink) else {
            eprintln!("SKIPPED: {method:?} is not permitted here");
            continue;
        };
        std::fs::write(path.join(".polder/other"), b"x").unwrap();
        std::fs::set_permissions(path.join(".polder/tree"), PermissionsExt::from_mode(0o751)).unwrap();
        let mut all = BTreeSet::new();
        wait_for("the hint about the root", || {
            if let Ok(Noticed::Hints(hints)) = told.try_recv() {
                all.extend(hints.into_iter().map(|hint| (hint.dir, hint.name)));
            }
            all.contains(&(root.ident(), None))
        });
        assert_eq!(all.len(), 1, "{all:?}");
        drop(watcher);
    }
}

/// What a thread does that said it is no news comes once, when it has done, or never; what others do to the same names comes at once.
#[test]
fn quiet_work_is_told_when_it_has_ended() {
    let dir = tempfile::tempdir().unwrap();
    let e = Endpoint::new(dir.path());
    e.mkdir("d");
    let quiet = Quiet::new().unwrap();
    let (sink, told) = channel();
    let sink = Box::new(move |noticed| sink.send(noticed).unwrap_or(()));
    let own = OwnEvents::Told(Some(Arc::clone(&quiet)));
    let options = WatchOptions { method: Some(Method::Fanotify), own };
    let Ok(watcher) = Watcher::start(&e.root, options, sink) else {
        eprintln!("SKIPPED: fanotify is not permitted here");
        return;
    };
    let told_until = |last: &str| {
        let mut names = Vec::new();
        wait_for("the last name", || {
            if let Ok(Noticed::Hints(hints)) = told.try_recv() {
                names.extend(hints.into_iter().filter_map(|hint| hint.name));
            }
            names.contains(&name(last))
        });
        names.iter().map(|name| name.to_string()).collect::<BTreeSet<_>>()
    };
    // What is told at once may be told again: a write is several events.
    let mut loud: BTreeSet<String> = BTreeSet::new();
    let mut only_loud = |last: &str| {
        loud.insert(last.to_owned());
        let names = told_until(last);
        assert!(names.is_subset(&loud), "{names:?}");
    };
    let (outer, inner) = (quiet.begin(), quiet.begin());
    let by_another =
        |path: &str| std::thread::scope(|scope| scope.spawn(|| e.write(path, b"y")).join().unwrap());
    for name in ["loud", "quiet 07"] {
        for at in 0..40 {
            e.write(&format!("d/quiet {at:02}"), b"x");
        }
        by_another(&format!("d/{name}"));
        only_loud(name);
    }
    drop(inner);
    e.write("d/quiet 00", b"z");
    by_another("d/louder");
    only_loud("louder");
    drop(outer);
    let quiet_names: BTreeSet<_> = (0..40).map(|at| format!("quiet {at:02}")).collect();
    assert!(told_until("quiet 39").is_superset(&quiet_names));
    let silent = quiet.silence();
    e.write("d/told otherwise", b"x");
    by_another("d/loudest");
    assert!(!told_until("loudest").contains("told otherwise"));
    drop(silent);
    e.write("d/after", b"x");
    assert!(!told_until("after").contains("told otherwise"));
    drop(watcher);
}

/// Repetitions are merged while the consumer is busy; nothing is lost.
#[test]
fn a_slow_consumer_gets_each_name_once() {
    let dir = tempfile::tempdir().unwrap();
    let e = Endpoint::new(dir.path());
    e.mkdir("d");
    let (sink, told) = channel();
    let (go, wait) = channel::<()>();
    let mut first = true;
    let sink = Box::new(move |noticed| {
        if std::mem::take(&mut first) {
            wait.recv().unwrap_or(());
        }
        sink.send(noticed).unwrap_or(());
    });
    let options = WatchOptions { method: Some(Method::Fanotify), own: OwnEvents::Told(None) };
    let Ok(watcher) = Watcher::start(&e.root, options, sink) else {
        eprintln!("SKIPPED: fanotify is not permitted here");
        return;
    };
    e.write("d/begin", b"");
    for n in 0..2000 {
        e.write(&format!("d/{}", n % 500), b"x");
    }
    e.write("d/end", b"");
    go.send(()).unwrap();
    let mut names = Vec::new();
    wait_for("the last name", || {
        if let Ok(Noticed::Hints(hints)) = told.try_recv() {
            names.extend(hints.into_iter().filter_map(|hint| hint.name));
        }
        names.contains(&name("end"))
    });
    let unique: BTreeSet<_> = names.iter().collect();
    assert_eq!(unique.len(), 502);
    // Twice at most: once in the round that was under way, once in the one after it.
    assert!(names.len() <= 2 * 502, "{}", names.len());
    drop(watcher);
}

/// Figures: `cargo test --release -p polder-replica --test watch -- --ignored --nocapture`.
#[test]
#[ignore = "measures"]
fn latency_from_close_to_hint() {
    let dir = tempfile::tempdir().unwrap();
    for method in [Method::Fanotify, Method::Inotify] {
        let Some(w) = Watched::new(dir.path(), method, |e| e.mkdir("d")) else { continue };
        let d = w.ident("d");
        let mut micros: Vec<_> = (0..300)
            .map(|n| {
                let file = format!("f{n}");
                std::fs::write(w.e.file(&format!("d/{file}")), b"x").unwrap();
                let clock = Instant::now();
                w.wait(d, Some(&file));
                std::thread::sleep(Duration::from_millis(3));
                clock.elapsed().as_micros().saturating_sub(3000)
            })
            .collect();
        micros.sort();
        println!("{method:?}: p50 {} us, p99 {} us, max {} us", micros[150], micros[296], micros[299]);
    }
}
