//! Workers die, and nobody sees it; holders die, and callers get an error. Promises I2, 39.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::support::store::content;
use crate::{Mounted, kill};

const SIZE: u64 = 700_001;

#[test]
fn i2_a_worker_that_is_dead_is_waited_for() {
    let Some(mounted) = Mounted::new() else { return };
    for round in 0..10 {
        let name = format!("t{round}");
        mounted.tiered(&name, SIZE + round);
        mounted.kill_worker();
        assert!(fs::read(mounted.path(&name)).unwrap() == content(SIZE + round, SIZE + round));
    }
    assert!(mounted.workers().len() > 9);
}

#[test]
fn i2_a_worker_that_dies_while_a_reader_waits() {
    let Some(mounted) = Mounted::new() else { return };
    mounted.tiered("t", SIZE);
    mounted.store("hang");
    let path = mounted.path("t");
    let reader = std::thread::spawn(move || fs::read(path).unwrap());
    for _ in 0..5 {
        std::thread::sleep(Duration::from_millis(100));
        assert!(!reader.is_finished());
        mounted.kill_worker();
    }
    mounted.store("ok");
    assert!(reader.join().unwrap() == content(SIZE, SIZE));
}

#[test]
fn i2_an_unlinked_file_outlives_the_worker() {
    let Some(mounted) = Mounted::new() else { return };
    mounted.tiered("t", SIZE);
    fs::write(mounted.path("r"), b"resident").unwrap();
    let (mut tiered, mut resident) =
        (File::open(mounted.path("t")).unwrap(), File::open(mounted.path("r")).unwrap());
    fs::remove_file(mounted.path("t")).unwrap();
    fs::remove_file(mounted.path("r")).unwrap();
    mounted.kill_worker();
    let (mut bytes, mut text) = (Vec::new(), String::new());
    tiered.read_to_end(&mut bytes).unwrap();
    resident.read_to_string(&mut text).unwrap();
    assert!(bytes == content(SIZE, SIZE));
    assert_eq!(text, "resident");
    assert_eq!(tiered.metadata().unwrap().len(), SIZE);
}

#[test]
fn i2_with_the_holder_dead_there_is_an_error_and_the_next_one_cleans_up() {
    let Some(mut mounted) = Mounted::new() else { return };
    mounted.tiered("t", SIZE);
    let mut open = File::open(mounted.path("t")).unwrap();
    let mut first = [0; 100];
    open.read_exact(&mut first).unwrap();
    mounted.kill_holder();
    kill(mounted.worker().unwrap());
    let is_dead = |error: std::io::Error| matches!(error.raw_os_error(), Some(107 | 103));
    mounted.wait_for(|| fs::read(mounted.path("t")).is_err_and(is_dead));
    let mut rest = Vec::new();
    // What the kernel has read ahead may come; then an error.
    assert!(open.read_to_end(&mut rest).is_err());
    assert!(content(SIZE, SIZE)[100..].starts_with(&rest));
    let before = mounted.workers().len();
    mounted.mount();
    mounted.wait_for(|| mounted.workers().len() > before);
    assert!(fs::read(mounted.path("t")).unwrap() == content(SIZE, SIZE));
}

/// The longest time that an operation took, in microseconds.
struct Stall(AtomicU64);

impl Stall {
    fn time<T>(&self, what: impl FnOnce() -> std::io::Result<T>) -> T {
        let begin = Instant::now();
        let result = what().unwrap();
        self.0.fetch_max(begin.elapsed().as_micros() as u64, Ordering::Relaxed);
        result
    }
}

/// Creates, renames, links, removes: each must succeed once, and be seen.
fn change_names(dir: &Path, stop: &AtomicBool, stall: &Stall) -> u64 {
    fs::create_dir(dir).unwrap();
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        let at = |name: &str| dir.join(format!("{name}{count}"));
        let text = format!("text {count}");
        let mut file = stall.time(|| OpenOptions::new().write(true).create_new(true).open(at("new")));
        stall.time(|| file.write_all(text.as_bytes()));
        drop(file);
        stall.time(|| fs::rename(at("new"), at("named")));
        assert!(!at("new").exists());
        stall.time(|| fs::hard_link(at("named"), at("link")));
        stall.time(|| fs::remove_file(at("named")));
        assert_eq!(stall.time(|| fs::read_to_string(at("link"))), text);
        stall.time(|| std::os::unix::fs::symlink("target", at("sym")));
        stall.time(|| fs::remove_file(at("sym")));
        stall.time(|| fs::create_dir(at("dir")));
        stall.time(|| fs::rename(at("link"), at("dir").join("in")));
        stall.time(|| fs::remove_file(at("dir").join("in")));
        stall.time(|| fs::remove_dir(at("dir")));
        count += 1;
    }
    assert_eq!(fs::read_dir(dir).unwrap().count(), 0, "nothing is left over, nothing came back");
    count
}

fn append(path: &Path, start: &[u8], stop: &AtomicBool, stall: &Stall) -> u64 {
    let mut count = 0;
    let mut expected = start.to_vec();
    let mut kept = OpenOptions::new().append(true).create(true).open(path).unwrap();
    while !stop.load(Ordering::Relaxed) {
        let line = format!("line {count}\n");
        if count % 3 == 0 {
            let mut fresh = stall.time(|| OpenOptions::new().append(true).open(path));
            stall.time(|| fresh.write_all(line.as_bytes()));
        } else {
            stall.time(|| kept.write_all(line.as_bytes()));
        }
        expected.extend(line.bytes());
        count += 1;
    }
    assert!(fs::read(path).unwrap() == expected, "every line once, in order: {}", path.display());
    count
}

fn read_all(files: &[(PathBuf, Vec<u8>)], stop: &AtomicBool, stall: &Stall) -> u64 {
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        let (path, expected) = &files[count as usize % files.len()];
        assert!(stall.time(|| fs::read(path)) == *expected, "{}", path.display());
        count += 1;
    }
    count
}

/// SIGKILL of the worker every 50 ms under readers, writers, appends, creates, renames, unlinks, each checked by its own program.
/// `GATE_TORTURE_SECS` makes it longer.
#[test]
fn i2_every_operation_is_carried_out_once_though_workers_die() {
    let Some(mounted) = Mounted::new() else { return };
    let secs = std::env::var("GATE_TORTURE_SECS").ok().and_then(|secs| secs.parse().ok()).unwrap_or(4);
    let mut files = Vec::new();
    for size in [10_000, 300_000, 900_000] {
        mounted.tiered(&format!("tiered{size}"), size);
        fs::write(mounted.path(&format!("resident{size}")), content(size, size)).unwrap();
        for name in ["tiered", "resident"] {
            files.push((mounted.path(&format!("{name}{size}")), content(size, size)));
        }
    }
    mounted.tiered("log", 5000);
    let (stop, stall) = (AtomicBool::new(false), Stall(AtomicU64::new(0)));
    let begin = Instant::now();
    let (mut kills, mut counts) = (0, Vec::new());
    std::thread::scope(|scope| {
        let (stop, stall, files, mounted) = (&stop, &stall, &files, &mounted);
        let mut threads = Vec::new();
        for number in 0..2 {
            threads.push(scope.spawn(move || read_all(files, stop, stall)));
            let dir = mounted.path(&format!("names{number}"));
            threads.push(scope.spawn(move || change_names(&dir, stop, stall)));
        }
        // Appends to a file that passes through, and to one that is served.
        threads.push(scope.spawn(move || append(&mounted.path("fresh"), b"", stop, stall)));
        threads.push(scope.spawn(move || append(&mounted.path("log"), &content(5000, 5000), stop, stall)));
        while begin.elapsed() < Duration::from_secs(secs)
            && !threads.iter().any(|thread| thread.is_finished())
        {
            std::thread::sleep(Duration::from_millis(50));
            // Some are killed while they begin.
            if kills % 5 != 0 && !mounted.is_served() {
                continue;
            }
            kills += 1;
            // Every fourth ends of itself, as for an upgrade.
            match kills % 4 {
                0 => {
                    let worker = mounted.worker().unwrap().to_string();
                    fs::write(mounted.place().join("again"), worker).unwrap();
                }
                _ => mounted.kill_worker(),
            }
        }
        stop.store(true, Ordering::Relaxed);
        counts.extend(threads.into_iter().map(|thread| thread.join().unwrap()));
    });
    let stalled = stall.0.load(Ordering::Relaxed) as f64 / 1000.0;
    println!(
        "{kills} kills, {} workers; operations {counts:?}; longest stall {stalled:.1} ms",
        mounted.workers().len()
    );
    assert!(counts.iter().all(|count| *count > 10), "all came on: {counts:?}");
}

/// One request that crashes workers is an error to its caller, and not the end of the mount.
#[test]
fn a_request_that_crashes_workers_is_an_error() {
    let Some(mounted) = Mounted::new() else { return };
    mounted.tiered("t", 5000);
    fs::write(mounted.path("other"), b"other").unwrap();
    mounted.store("crash");
    let error = fs::read(mounted.path("t")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(5));
    assert_eq!(fs::read(mounted.path("other")).unwrap(), b"other");
    mounted.store("ok");
    assert!(fs::read(mounted.path("t")).unwrap() == content(5000, 5000));
    assert!((3..=5).contains(&mounted.workers().len()), "{:?}", mounted.workers());
}

/// The holder itself is exchanged: whoever has the mount's descriptors goes on with it.
#[test]
fn i2_another_holder_goes_on_with_the_mount() {
    let Some(mut mounted) = Mounted::new() else { return };
    mounted.kill_holder();
    kill(mounted.worker().unwrap());
    let _ = std::process::Command::new("umount").arg("-l").arg(mounted.path("")).status();
    let (tree, point) = (mounted.real(""), fs::canonicalize(mounted.path("")).unwrap());
    let worker = || {
        let mut worker = crate::myself("work");
        worker.env(crate::support::AGAIN, mounted.place().join("again")).stdout(std::process::Stdio::null());
        worker
    };
    let first = polder_gate::Holder::mount(&tree, &point).unwrap();
    let mut child = first.start(worker()).unwrap();
    mounted.tiered("t", SIZE);
    let mut open = File::open(mounted.path("t")).unwrap();
    let mut begin = [0; 1000];
    open.read_exact(&mut begin).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let kept = first.kept().unwrap();
    first.leave();
    let path = mounted.path("t");
    let waits = std::thread::spawn(move || fs::read(path).unwrap());
    let second = polder_gate::Holder::resume(kept, &point).unwrap();
    let mut child = second.start(worker()).unwrap();
    assert!(waits.join().unwrap() == content(SIZE, SIZE));
    let mut rest = Vec::new();
    open.read_to_end(&mut rest).unwrap();
    assert!([&begin[..], &rest].concat() == content(SIZE, SIZE));
    drop(open);
    drop(second);
    child.wait().unwrap();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(point.to_str().unwrap()), "taken away with its holder");
}

/// Workers that die of themselves end in an error, not in an endless wait.
#[test]
fn a_worker_that_always_dies_is_given_up() {
    let Some(mut mounted) = Mounted::new() else { return };
    mounted.kill_holder();
    kill(mounted.worker().unwrap());
    fs::write(mounted.place().join("die"), b"").unwrap();
    let mut holder = crate::myself("hold");
    let status =
        holder.env(crate::PLACE, mounted.place()).stdout(std::process::Stdio::null()).status().unwrap();
    assert!(!status.success());
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(mounted.place().to_str().unwrap()), "the mount is gone");
}
