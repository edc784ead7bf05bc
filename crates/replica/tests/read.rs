//! Reading: nothing torn is ever taken for a version.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use std::io::{Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::*;
use polder_replica::{DirAt, ErrorClass, Piece, Proof, Read, ReadOptions, Walker, read};
use polder_types::{Kind, RelPath};

#[test]
fn a_file_at_rest_is_read_under_a_lease() {
    let dir = tempfile::tempdir().unwrap();
    let e = Endpoint::new(dir.path());
    let big: Vec<u8> = (0..3_000_001u32).map(|n| (n % 251) as u8).collect();
    for bytes in [&b""[..], b"small", &big] {
        let stamp = e.write("f", bytes);
        let (done, read) = e.read_whole("f");
        assert_eq!((done.proof, done.durable), (Proof::Lease, false));
        assert_eq!(done.found, e.look("f").unwrap());
        assert_eq!(done.found.seen.stamp, stamp);
        assert!(read == bytes);
    }
}

/// Scenario 23: somebody has it open for writing but rests.
#[test]
fn an_open_file_at_rest_takes_two_passes() {
    let dir = tempfile::tempdir().unwrap();
    let e = Endpoint::new(dir.path());
    let mut log = std::fs::File::create(e.file("log")).unwrap();
    log.write_all(b"line\n").unwrap();
    let (done, bytes) = e.read_whole("log");
    assert_eq!((done.proof, done.durable, &bytes[..]), (Proof::TwoPasses, true, &b"line\n"[..]));
}

#[test]
fn what_is_no_file_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let e = Endpoint::new(dir.path());
    e.mkdir("d");
    std::os::unix::fs::symlink("/etc/passwd", e.file("l")).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(e.file("fifo")).status().unwrap().success());
    for name in ["d", "l", "fifo", "nothing"] {
        // A FIFO that was opened would hang here (scenario 67); a symlink would be read through (66).
        match read(
            &mut Walker::new(&e.root).unwrap(),
            &mut e.attributes(),
            &DirAt { path: RelPath::root(), ident: None },
            &name.parse().unwrap(),
            ReadOptions::default(),
            &mut |_| panic!("{name} was read"),
        ) {
            Ok(Read::Gone) => (),
            other => panic!("{name}: {other:?}"),
        }
    }
    assert_eq!(e.look("fifo").unwrap().seen.kind, None);
    assert_eq!(&*e.look("l").unwrap().target.unwrap(), b"/etc/passwd");
}

/// Scenarios 52 and 70: holes are told as holes and not read; the file may be a terabyte.
#[test]
fn holes_are_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let e = Endpoint::new(dir.path());
    let file = std::fs::File::create(e.file("sparse")).unwrap();
    let tebi = 1u64 << 40;
    file.write_all_at(b"begin", 0).unwrap();
    file.write_all_at(&[7; 100_000], tebi / 2).unwrap();
    file.set_len(tebi).unwrap();
    drop(file);
    let (mut data, mut holes, mut end) = (0, 0, 0);
    let outcome = read(
        &mut Walker::new(&e.root).unwrap(),
        &mut e.attributes(),
        &DirAt { path: RelPath::root(), ident: None },
        &name("sparse"),
        ReadOptions::default(),
        &mut |piece| {
            let len = match piece {
                Piece::Data(bytes) => {
                    data += bytes.len() as u64;
                    bytes.len() as u64
                }
                Piece::Hole(len) => {
                    holes += len;
                    len
                }
            };
            end += len;
            ControlFlow::Continue(())
        },
    )
    .unwrap();
    assert!(matches!(outcome, Read::Whole(_)));
    assert_eq!(end, tebi);
    assert!((100_005..1 << 20).contains(&data), "{data}");
    assert_eq!(holes, tebi - data);
}

/// A writer is not kept waiting by a reader whose consumer takes its time, and that read is void.
#[test]
fn a_writer_who_knocks_goes_first() {
    let dir = tempfile::tempdir().unwrap();
    let e = Endpoint::new(dir.path());
    e.write("f", &vec![1; 4 << 20]);
    let waited = Arc::new(AtomicU64::new(0));
    let mut writer = None;
    let outcome = read(
        &mut Walker::new(&e.root).unwrap(),
        &mut e.attributes(),
        &DirAt { path: RelPath::root(), ident: None },
        &name("f"),
        ReadOptions::default(),
        &mut |_| {
            if writer.is_none() {
                let (path, opened) = (e.file("f"), waited.clone());
                writer = Some(std::thread::spawn(move || {
                    let clock = Instant::now();
                    let file = std::fs::File::options().write(true).open(path).unwrap();
                    opened.store(clock.elapsed().as_millis() as u64 + 1, Ordering::SeqCst);
                    file.write_all_at(b"written", 1 << 20).unwrap();
                }));
                // As if the network stood still.
                wait_for("the writer to get in", || waited.load(Ordering::SeqCst) > 0);
            }
            ControlFlow::Continue(())
        },
    )
    .unwrap();
    writer.unwrap().join().unwrap();
    assert!(matches!(outcome, Read::Changed), "{outcome:?}");
    let millis = waited.load(Ordering::SeqCst);
    assert!(millis < 1000, "the writer waited {millis} ms");
}

/// Whether the file held exactly these bytes at some moment, written from front to back with one number a version: a
/// beginning of the next version, then the rest of the last one. Inside the page of the border the two may be mixed:
/// nobody promises in which order one copy stores its bytes.
fn is_a_moment(bytes: &[u8]) -> bool {
    let number = |chunk: &[u8]| u64::from_ne_bytes(chunk.try_into().unwrap());
    let (newer, older) = (number(&bytes[..8]), number(&bytes[bytes.len() - 8..]));
    let mut border_passed = false;
    newer == older && bytes.chunks_exact(8).all(|chunk| number(chunk) == newer)
        || newer == older + 1
            && bytes.chunks_exact(4096).all(|page| {
                let all = |wanted| page.chunks_exact(8).all(|chunk| number(chunk) == wanted);
                let mixed = page.chunks_exact(8).all(|chunk| (older..=newer).contains(&number(chunk)));
                match (all(newer), all(older)) {
                    (true, _) => !border_passed,
                    (_, true) => {
                        border_passed = true;
                        true
                    }
                    _ => mixed && !std::mem::replace(&mut border_passed, true),
                }
            })
}

#[test]
fn the_judge_of_torn_reads_can_say_no() {
    let file = |numbers: &[u64]| numbers.iter().flat_map(|n| n.to_ne_bytes().repeat(512)).collect::<Vec<_>>();
    assert!(
        is_a_moment(&file(&[4, 4, 4])) && is_a_moment(&file(&[5, 4, 4])) && is_a_moment(&file(&[5, 5, 4]))
    );
    for torn in [[4, 5, 4], [4, 4, 5], [5, 4, 5], [6, 5, 4], [6, 4, 4]] {
        assert!(!is_a_moment(&file(&torn)), "{torn:?}");
    }
    let mut inside = file(&[5, 4, 4]);
    inside[4096..4104].copy_from_slice(&5u64.to_ne_bytes());
    assert!(is_a_moment(&inside));
    inside[8192..8200].copy_from_slice(&5u64.to_ne_bytes());
    assert!(!is_a_moment(&inside));
}

/// Reads again and again while `writer` writes versions, each of which fills the file with one number. What is accepted
/// is torn unless it is what the file held at one moment; under a lease, at which nobody can be in the middle of
/// writing, it must be one version as a whole.
fn torn_reads(
    base: &Path,
    millis: u64,
    writer: impl FnOnce(&Path, &AtomicBool) + Send + 'static,
) -> (usize, u32, u32) {
    let e = Endpoint::new(base);
    e.write("f", &[0; SIZE]);
    let stop = Arc::new(AtomicBool::new(false));
    let thread = {
        let (stop, path) = (stop.clone(), e.file("f"));
        std::thread::spawn(move || writer(&path, &stop))
    };
    let (mut versions, mut changed, mut torn) = (std::collections::BTreeSet::new(), 0, 0);
    let clock = Instant::now();
    while clock.elapsed() < Duration::from_millis(millis) {
        match e.read("f", ReadOptions::default()) {
            (Read::Whole(done), bytes) => {
                versions.insert(bytes[SIZE - 8..].to_vec());
                let sound = match done.proof {
                    Proof::Lease => bytes.windows(16).step_by(8).all(|pair| pair[..8] == pair[8..]),
                    _ => is_a_moment(&bytes),
                };
                torn += u32::from(!sound);
            }
            (Read::Changed | Read::Gone, _) => changed += 1,
            (other, _) => panic!("{other:?}"),
        }
    }
    stop.store(true, Ordering::SeqCst);
    thread.join().unwrap();
    (versions.len(), changed, torn)
}

const SIZE: usize = 256 * 1024;

fn version(number: u64) -> Vec<u8> {
    number.to_ne_bytes().repeat(SIZE / 8)
}

fn write_in_place(path: &Path, stop: &AtomicBool) {
    let mut number = 0;
    while !stop.load(Ordering::SeqCst) {
        number += 1;
        let bytes = version(number);
        let mut file = std::fs::File::options().write(true).open(path).unwrap();
        for (n, part) in bytes.chunks(16 * 1024).enumerate() {
            file.seek(SeekFrom::Start(n as u64 * 16 * 1024)).unwrap();
            file.write_all(part).unwrap();
        }
        drop(file);
        std::thread::sleep(Duration::from_micros(number % 7 * 300));
    }
}

/// Scenarios 23 and 26 (promise I2 for what goes up): a writer who never stops.
#[test]
fn i2_a_torn_read_is_never_accepted_with_a_writer() {
    let dir = tempfile::tempdir().unwrap();
    let (versions, changed, torn) = torn_reads(dir.path(), 2000, write_in_place);
    eprintln!("{versions} versions read, {changed} changed, {torn} torn");
    assert_eq!(torn, 0);
    assert!(versions > 1, "the writer did not run");
}

/// The writer of the child process that stores through a mapping: each version into every word, one after another, with
/// the file's descriptor closed.
const MMAP_WRITER: &str = "
import mmap, os, sys, time
fd = os.open(sys.argv[1], os.O_RDWR)
m = mmap.mmap(fd, 0)
os.close(fd)
n = 0
while True:
    n += 1
    word = n.to_bytes(8, 'little') * 512
    for at in range(0, len(m), 4096):
        m[at:at + 4096] = word
    if n % 5 == 0:
        time.sleep(0.002)
";

/// Scenario 24: a writer with a mapping, whose stores leave no trace in the times until they are written back. Under a
/// mapping no lease is granted, so this is the order `stat, fsync, read, stat`, twice.
#[test]
fn i2_a_torn_read_is_never_accepted_with_a_mapping() {
    // On a busy machine the writer may take seconds to begin.
    let ran = (0..5).any(|_| {
        let dir = tempfile::tempdir().unwrap();
        let child = Arc::new(std::sync::Mutex::new(None));
        let spawned = child.clone();
        let (versions, changed, torn) = torn_reads(dir.path(), 4000, move |path, _| {
            let mut command = std::process::Command::new("python3");
            *spawned.lock().unwrap() = command.args(["-c", MMAP_WRITER]).arg(path).spawn().ok();
        });
        let Some(mut writer) = child.lock().unwrap().take() else {
            eprintln!("SKIPPED: no python3 to store through a mapping");
            return true;
        };
        let alive = writer.try_wait().unwrap().is_none();
        writer.kill().unwrap();
        writer.wait().unwrap();
        eprintln!("{versions} versions read, {changed} changed, {torn} torn");
        assert_eq!(torn, 0);
        alive && versions + changed as usize > 1
    });
    assert!(ran, "the mapping was not there");
}

/// Scenario 25: a file that never rests is taken from a clone, where the file system can, and said to be one.
#[test]
fn a_restless_file_is_cloned_where_possible() {
    let options = |e: &Endpoint, clone: bool, path: &str| {
        let clone_in = clone.then_some(&e.staging);
        e.read(path, ReadOptions { durable: false, clone_in })
    };
    if let Some(mounted) = Mounted::new("xfs", 320, &[]) {
        let e = Endpoint::new(mounted.path());
        let _open = std::fs::File::create(e.file("f")).unwrap().write_all(&version(3));
        let writer = std::fs::File::options().write(true).open(e.file("f")).unwrap();
        let (Read::Whole(done), bytes) = options(&e, true, "f") else { panic!("not cloned") };
        assert_eq!(done.proof, Proof::Clone);
        assert!(bytes == version(3));
        drop(writer);
        assert_eq!(std::fs::read_dir(e.file(".polder/staging")).unwrap().count(), 0);
    }
    if let Some(mounted) = Mounted::new("ext4", 16, &[]) {
        let e = Endpoint::new(mounted.path());
        e.write("f", b"x");
        let _writer = std::fs::File::options().write(true).open(e.file("f")).unwrap();
        let mut walker = Walker::new(&e.root).unwrap();
        let at = DirAt { path: RelPath::root(), ident: None };
        let clone = ReadOptions { durable: false, clone_in: Some(&e.staging) };
        let error =
            read(
                &mut walker,
                &mut e.attributes(),
                &at,
                &name("f"),
                clone,
                &mut |_| ControlFlow::Continue(()),
            );
        assert!(matches!(error, Err(error) if error.class == ErrorClass::Unsupported));
    }
}

/// Scenario 34: what counts is the file that was opened, not the name.
#[test]
fn the_opened_file_is_what_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let e = Endpoint::new(dir.path());
    let old = e.write("f", &vec![1; 2 << 20]);
    e.write("new", b"another");
    let mut swapped = false;
    let at = DirAt { path: RelPath::root(), ident: None };
    let outcome = read(
        &mut Walker::new(&e.root).unwrap(),
        &mut e.attributes(),
        &at,
        &name("f"),
        ReadOptions::default(),
        &mut |_| {
            if !std::mem::replace(&mut swapped, true) {
                std::fs::rename(e.file("new"), e.file("f")).unwrap();
            }
            ControlFlow::Continue(())
        },
    );
    let Ok(Read::Whole(done)) = outcome else { panic!("{outcome:?}") };
    assert_eq!(done.found.seen.stamp.ident, old.ident);
    assert_eq!(done.found.seen.kind, Some(Kind::File));
    assert_ne!(e.stamp("f").ident, old.ident);
}

/// Expiry takes a file for itself to look at it; whoever watches for writes meanwhile comes again, and tells nobody of an error.
#[test]
fn who_has_a_displaced_file_for_himself_is_waited_for() {
    use polder_replica::{Act, Since};
    use std::io::BufRead;
    use std::process::{Command, Stdio};
    let dir = tempfile::tempdir().unwrap();
    let e = Endpoint::new(dir.path());
    let expect = e.write("f", b"old");
    let act = Act::Remove { at: e.place("f"), kind: Kind::File, expect };
    assert!(is_done(&e.apply_one(act)));
    let mut entries = Vec::new();
    let mut take = |entry| {
        entries.push(entry);
        ControlFlow::Continue(())
    };
    e.recycle.list(&mut take).unwrap();
    let entry = entries.pop().unwrap();
    let script = "import fcntl, os, signal, sys\n\
        signal.signal(signal.SIGIO, signal.SIG_IGN)\n\
        file = os.open(sys.argv[1], os.O_RDONLY)\n\
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)\n\
        print('held', flush=True)\n\
        sys.stdin.read()";
    let area = e.file(".polder/recycle");
    let file = std::fs::read_dir(area).unwrap().next().unwrap().unwrap().path();
    let mut holder = Command::new("python3")
        .args(["-c", script])
        .arg(file)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut held = String::new();
    std::io::BufReader::new(holder.stdout.as_mut().unwrap()).read_line(&mut held).unwrap();
    assert_eq!(held, "held\n");
    assert_eq!(e.recycle.since(&entry.name).unwrap(), Since::Open);
    drop(holder.stdin.take());
    assert!(holder.wait().unwrap().success());
    assert_eq!(e.recycle.since(&entry.name).unwrap(), Since::AtRest);
}

/// The recycle area lets go of nothing that somebody still uses, or that is not what was read (I4).
#[test]
fn i4_recycled_bytes_leave_only_at_rest() {
    use polder_replica::{Act, Released, Since};
    let dir = tempfile::tempdir().unwrap();
    let e = Endpoint::new(dir.path());
    let expect = e.write("f", b"old");
    let mut program = std::fs::File::options().append(true).open(e.file("f")).unwrap();
    assert!(is_done(&e.apply_one(Act::Replace {
        at: e.place("f"),
        expect,
        staged: e.staged(b"new"),
        keep: None
    })));
    let entry = || {
        let mut entries = Vec::new();
        e.recycle
            .list(&mut |entry| {
                entries.push(entry);
                ControlFlow::Continue(())
            })
            .unwrap();
        entries.pop().unwrap()
    };
    let first = entry();
    assert!(first.looks_unchanged && first.untouched == Some(true));
    assert_eq!(e.recycle.since(&first.name).unwrap(), Since::Open);
    // Still open for writing: not even read.
    let mut none = |_: Piece<'_>| ControlFlow::Continue(());
    assert_eq!(e.recycle.read(&first.name, &mut none).unwrap(), None);
    assert_eq!(e.recycle.release(&first.name, first.stamp).unwrap(), Released::InUse);
    // The program goes on writing to what it thinks is the file.
    program.write_all(b" and more").unwrap();
    assert_eq!(e.recycle.since(&first.name).unwrap(), Since::Written);
    drop(program);
    let written = entry();
    assert!(!written.looks_unchanged && written.untouched == Some(false));
    assert_eq!(e.recycle.release(&first.name, first.stamp).unwrap(), Released::Changed);
    // Its bytes get a name again; nothing was lost.
    let root = Walker::new(&e.root).unwrap().path(&[]).unwrap();
    let given = e.recycle.rescue(&first.name, &root, &name("f"), "site-a").unwrap();
    assert_eq!(given, name("f-site-a"));
    assert_eq!(e.bytes("f-site-a").unwrap(), b"old and more");
    // What was read and found known may go.
    let expect = e.stamp("f");
    assert!(is_done(&e.apply_one(Act::Remove { at: e.place("f"), kind: Kind::File, expect })));
    let removed = entry();
    assert_eq!(e.recycle.since(&removed.name).unwrap(), Since::AtRest);
    let read_at = e.recycle.read(&removed.name, &mut none).unwrap().unwrap();
    assert_eq!(e.recycle.release(&removed.name, read_at).unwrap(), Released::Gone);
    assert_eq!(e.recycled().len(), 0);
}
