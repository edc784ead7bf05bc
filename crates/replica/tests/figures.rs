//! Measured figures: `POLDER_BENCH_DIR=… cargo test --release -p polder-replica --test figures -- --ignored --nocapture`.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use common::*;
use polder_replica::{Act, Batch, DirAt, Piece, Place, ReadOptions, Step, Walker, apply, look, read};
use polder_sync::Filter;
use polder_types::RelPath;

fn base() -> std::path::PathBuf {
    std::env::var_os("POLDER_BENCH_DIR").map_or_else(std::env::temp_dir, Into::into)
}

/// 20,000 files of 4 KiB in 200 directories: staged, made durable and placed in batches of 500; read; looked at.
#[test]
#[ignore = "measures"]
fn small_files() {
    let dir = tempfile::tempdir_in(base()).unwrap();
    let e = Endpoint::new(dir.path());
    let count = 20_000;
    let bytes = vec![7; 4096];
    let dirs: Vec<_> = (0..200)
        .map(|n| {
            e.mkdir(&format!("d{n}"));
            e.dir_at(&format!("d{n}"))
        })
        .collect();
    let place = |n: usize| Place { dir: dirs[n / 100].clone(), name: name(&format!("file number {n}.txt")) };
    let filter = Filter::defaults();
    let mut attributes = e.attributes();
    let (clock, cpu) = (Instant::now(), cpu_seconds());
    let mut staging = 0.0;
    for batch in 0..count / 500 {
        let begun = Instant::now();
        let steps = (batch * 500..(batch + 1) * 500).map(|n| {
            let mut staged = e.staging.file(bytes.len() as u64, bytes.len() as u64).unwrap();
            staged.write_at(0, &bytes).unwrap();
            staged.finish(&mut attributes, &plain(0o644), MTIME).unwrap();
            Step { uid: uid(1), act: Act::Place { at: place(n), staged, over: None }, after: Vec::new() }
        });
        let steps = steps.collect();
        staging += begun.elapsed().as_secs_f64();
        let batch = Batch { steps, dir_times: Vec::new(), server: "site-a", filter: &filter };
        let result = apply(&e.root, &e.recycle, &mut attributes, batch);
        assert!(result.steps.iter().all(is_done));
    }
    let seconds = clock.elapsed().as_secs_f64();
    println!(
        "applied: {:.0} files/s, of the time {:.0} % is staging",
        count as f64 / seconds,
        staging / seconds * 100.0
    );
    println!("  processor: {:.0} us a file", (cpu_seconds() - cpu) / count as f64 * 1e6);

    let mut walker = Walker::new(&e.root).unwrap();
    let clock = Instant::now();
    let mut sum = 0;
    for n in 0..count {
        let Place { dir, name } = place(n);
        read(&mut walker, &mut attributes, &dir, &name, ReadOptions::default(), &mut |piece| {
            sum += if let Piece::Data(bytes) = piece { bytes.len() } else { 0 };
            ControlFlow::Continue(())
        })
        .unwrap();
    }
    assert_eq!(sum, count * 4096);
    println!("read under a lease: {:.0} files/s", count as f64 / clock.elapsed().as_secs_f64());

    let clock = Instant::now();
    for n in 0..count {
        let Place { dir, name } = place(n);
        look(&mut walker, &mut attributes, &dir, &[name]).unwrap();
    }
    println!("looks: {:.0}/s", count as f64 / clock.elapsed().as_secs_f64());
}

/// One file of 1 GiB: staged and applied, then read.
#[test]
#[ignore = "measures"]
fn a_large_file() {
    let dir = tempfile::tempdir_in(base()).unwrap();
    let e = Endpoint::new(dir.path());
    let size = 1u64 << 30;
    let bytes: Vec<u8> = (0..1 << 20).map(|n: u32| n as u8).collect();
    let clock = Instant::now();
    let mut staged = e.staging.file(size, size).unwrap();
    for at in (0..size).step_by(bytes.len()) {
        staged.write_at(at, &bytes).unwrap();
    }
    staged.finish(&mut e.attributes(), &plain(0o644), MTIME).unwrap();
    println!("staged: {:.0} MB/s", size as f64 / 1e6 / clock.elapsed().as_secs_f64());
    assert!(is_done(&e.apply_one(Act::Place { at: e.place("f"), staged, over: None })));
    println!("staged and durable: {:.0} MB/s", size as f64 / 1e6 / clock.elapsed().as_secs_f64());
    let clock = Instant::now();
    let mut sum = 0;
    let at = Arc::new(DirAt { path: RelPath::root(), ident: None });
    let mut walker = Walker::new(&e.root).unwrap();
    read(&mut walker, &mut e.attributes(), &at, &name("f"), ReadOptions::default(), &mut |piece| {
        sum += if let Piece::Data(bytes) = piece { bytes.len() as u64 } else { 0 };
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(sum, size);
    println!("read: {:.0} MB/s", size as f64 / 1e6 / clock.elapsed().as_secs_f64());
}
