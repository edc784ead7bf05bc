//! Random reads and writes through the gate, compared with a model in memory, while the files are tiered whenever nobody has them open
//! and workers are killed. Row 3 of the third issue, in small. Promises I1, I2.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::Mounted;
use crate::support::store::tier_to;

const SIZE_MAX: u64 = 500_000;
const LONGEST: Duration = Duration::from_secs(120);

/// A small generator: the seed is printed by a failure.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound.max(1)
    }

    fn bytes(&mut self, count: u64) -> Vec<u8> {
        let first = self.below(255) as u8 + 1;
        (0..count).map(|index| first.wrapping_add((index % 251) as u8) | 1).collect()
    }
}

/// A file, and what it must hold.
struct Modelled<'a> {
    path: &'a Path,
    bytes: Vec<u8>,
    /// Kept open over several operations.
    kept: Option<File>,
    dice: Dice,
    /// What was done last.
    done: Vec<String>,
}

impl Modelled<'_> {
    fn note(&mut self, what: String) {
        if self.done.len() == 12 {
            self.done.remove(0);
        }
        self.done.push(format!("{what} kept={}", self.kept.is_some()));
    }

    /// Fails with where bytes differ and what was done before.
    fn compare(&self, what: &str, at: usize, found: &[u8]) {
        let expected = &self.bytes[at.min(self.bytes.len())..(at + found.len()).min(self.bytes.len())];
        if found == expected {
            return;
        }
        let wrong: Vec<usize> =
            (0..found.len().min(expected.len())).filter(|i| found[*i] != expected[*i]).collect();
        let (first, last) = (wrong.first().map(|i| i + at), wrong.last().map(|i| i + at));
        let zeros = wrong.iter().filter(|i| found[**i] == 0).count();
        panic!(
            "{what}: {} of {} bytes at {at}, {} wrong ({zeros} zeros) in {first:?}..={last:?}, size {}; before: {:#?}",
            found.len(),
            expected.len(),
            wrong.len(),
            self.bytes.len(),
            self.done
        );
    }

    fn file(&mut self) -> File {
        match &self.kept {
            Some(kept) => kept.try_clone().unwrap(),
            None => OpenOptions::new().read(true).write(true).open(self.path).unwrap(),
        }
    }

    fn range(&mut self) -> (usize, usize) {
        let begin = self.dice.below(self.bytes.len() as u64 + 1);
        let len = self.dice.below(200_000).min(self.bytes.len() as u64 - begin);
        (begin as usize, (begin + len) as usize)
    }

    fn write_at(&mut self, at: usize, data: &[u8]) {
        if self.bytes.len() < at + data.len() {
            self.bytes.resize(at + data.len(), 0);
        }
        self.bytes[at..at + data.len()].copy_from_slice(data);
    }

    fn read_some(&mut self) {
        let (begin, end) = self.range();
        let file = if self.dice.below(2) == 0 { self.file() } else { File::open(self.path).unwrap() };
        let mut out = vec![0; end - begin];
        file.read_exact_at(&mut out, begin as u64).unwrap();
        self.compare("read", begin, &out);
        self.note(format!("read {begin}..{end}"));
    }

    fn holes(&mut self) {
        let file = self.file();
        let mut at = 0;
        while at < self.bytes.len() as u64 {
            let data = match rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(at)) {
                Ok(data) => data,
                Err(rustix::io::Errno::NXIO) => self.bytes.len() as u64,
                Err(errno) => panic!("{errno}"),
            };
            assert!(self.bytes[at as usize..data as usize].iter().all(|byte| *byte == 0), "a hole has data");
            if data >= self.bytes.len() as u64 {
                break;
            }
            at = rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(data)).unwrap();
        }
    }

    fn punch(&mut self) {
        let (begin, end) = self.range();
        if begin < end {
            let flags = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(self.file(), flags, begin as u64, (end - begin) as u64).unwrap();
            self.bytes[begin..end].fill(0);
            self.note(format!("punch {begin}..{end}"));
        }
    }

    fn step(&mut self) {
        match self.dice.below(14) {
            0..=3 => self.read_some(),
            4 | 5 => {
                let at = self.dice.below(SIZE_MAX - 100_000) as usize;
                let len = self.dice.below(100_000);
                let data = self.dice.bytes(len);
                self.file().write_all_at(&data, at as u64).unwrap();
                self.write_at(at, &data);
                self.note(format!("write {at}..{}", at + data.len()));
            }
            6 if (self.bytes.len() as u64) < SIZE_MAX => {
                let data = self.dice.bytes(5000);
                OpenOptions::new().append(true).open(self.path).unwrap().write_all(&data).unwrap();
                self.bytes.extend(data);
                self.note("append".to_owned());
            }
            7 => {
                let size = if self.dice.below(4) == 0 { 0 } else { self.dice.below(SIZE_MAX) };
                self.file().set_len(size).unwrap();
                self.bytes.resize(size as usize, 0);
                self.note(format!("cut to {size}"));
            }
            8 => self.punch(),
            9 => self.holes(),
            10 => {
                let mut all = Vec::new();
                let mut file = self.file();
                file.seek(SeekFrom::Start(0)).unwrap();
                file.read_to_end(&mut all).unwrap();
                assert_eq!(all.len(), self.bytes.len(), "before: {:#?}", self.done);
                self.compare("the whole file", 0, &all);
                self.note("read all".to_owned());
            }
            11 => assert_eq!(fs::metadata(self.path).unwrap().len(), self.bytes.len() as u64),
            12 => {
                self.kept = if self.kept.is_none() { Some(self.file()) } else { None };
                self.note("keep".to_owned());
            }
            _ => {
                self.kept = None;
                self.note("rest".to_owned());
                // So that it can be tiered.
                std::thread::sleep(Duration::from_millis(self.dice.below(6)));
            }
        }
    }
}

fn run(deadly: bool, mounted: Option<Mounted>) {
    let Some(mounted) = mounted else { return };
    let secs = std::env::var("GATE_MODEL_SECS").ok().and_then(|secs| secs.parse().ok()).unwrap_or(5);
    let share = mounted.place().join("share");
    fs::create_dir(&share).unwrap();
    let (stop, tiered, ids) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(1 << 40));
    let counts: [AtomicU64; 3] = Default::default();
    let seed = Instant::now().elapsed().as_nanos() as u64 ^ u64::from(std::process::id());
    println!("seed {seed}");
    // On a slow machine it takes longer.
    let is_enough = || {
        tiered.load(Ordering::Relaxed) > 5 && counts.iter().all(|count| count.load(Ordering::Relaxed) > 20)
    };
    std::thread::scope(|scope| {
        let (mounted, stop, tiered, ids, share) = (&mounted, &stop, &tiered, &ids, &share);
        let users: Vec<_> = (0..)
            .zip(&counts)
            .map(|(number, count)| {
                let path = mounted.path(&format!("f{number}"));
                fs::write(&path, b"").unwrap();
                scope.spawn(move || {
                    let dice = Dice(seed ^ (number + 1) << 40);
                    let mut file =
                        Modelled { path: &path, bytes: Vec::new(), kept: None, dice, done: Vec::new() };
                    while !stop.load(Ordering::Relaxed) {
                        file.step();
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                    file.kept = None;
                    assert!(fs::read(&path).unwrap() == file.bytes, "in the end");
                })
            })
            .collect();
        scope.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                for number in 0..3 {
                    let id = ids.fetch_add(1, Ordering::Relaxed);
                    if tier_to(&mounted.real(&format!("f{number}")), share, id).unwrap().is_some() {
                        tiered.fetch_add(1, Ordering::Relaxed);
                    }
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let begin = Instant::now();
        let is_over = || match begin.elapsed() {
            elapsed if elapsed < Duration::from_secs(secs) => false,
            elapsed => is_enough() || elapsed > LONGEST,
        };
        while !is_over() && !users.iter().any(|user| user.is_finished()) {
            std::thread::sleep(Duration::from_millis(150));
            if deadly && mounted.is_served() {
                mounted.kill_worker();
            }
        }
        stop.store(true, Ordering::Relaxed);
        users.into_iter().for_each(|user| user.join().unwrap());
    });
    println!("operations {counts:?}, tiered {tiered:?} times, {} workers", mounted.workers().len());
    assert!(is_enough(), "operations {counts:?}, tiered {tiered:?} times");
}

#[test]
fn i2_random_operations_while_files_are_tiered() {
    run(false, Mounted::new());
}

#[test]
fn i2_random_operations_while_files_are_tiered_and_workers_die() {
    run(true, Mounted::new());
}

/// Where the kernel cannot let files pass through, all bytes go through the worker.
#[test]
fn i2_random_operations_without_passthrough() {
    run(true, Mounted::without_passthrough());
}
