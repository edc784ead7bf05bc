//! Measures durable puts and ranged gets of the folder form, one line a figure.
//!
//! `cargo run --release -p polder-packstore --example folder_speed -- FOLDER`

#![allow(clippy::unwrap_used, reason = "a measurement may panic")]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use polder_packstore::{FolderStore, PackName, PackStore};
use polder_types::{PackId, ShareId};

fn name(number: u32) -> PackName {
    // Spread over the directories as random ids are.
    let spread = u128::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    PackName { share: ShareId([1; 16]), pack: PackId(spread.to_be_bytes()) }
}

async fn run<F: Future<Output = ()> + Send + 'static>(
    what: &str,
    count: u32,
    bytes: usize,
    lanes: u32,
    job: impl Fn(u32) -> F + Send + Sync + 'static,
) {
    let job = Arc::new(job);
    let start = Instant::now();
    let tasks = (0..lanes).map(|lane| {
        let job = Arc::clone(&job);
        tokio::spawn(async move {
            let mut times = Vec::new();
            for number in (lane..count).step_by(lanes as usize) {
                let start = Instant::now();
                job(number).await;
                times.push(start.elapsed());
            }
            times
        })
    });
    let mut times: Vec<Duration> = Vec::new();
    for task in tasks.collect::<Vec<_>>() {
        times.extend(task.await.unwrap());
    }
    let secs = start.elapsed().as_secs_f64();
    times.sort();
    let (p50, p99) = (times[times.len() / 2], times[times.len() * 99 / 100]);
    let (per_sec, rate) = (f64::from(count) / secs, f64::from(count) * bytes as f64 / secs / 1e6);
    println!(
        "{what}, {lanes:>2} at once: {per_sec:>8.0}/s {rate:>7.0} MB/s   p50 {p50:>9.1?} p99 {p99:>9.1?}"
    );
}

#[tokio::main]
async fn main() {
    let root = std::env::args().nth(1).expect("the folder to measure in");
    let store = Arc::new(FolderStore::open(Path::new(&root)).unwrap());
    let mut first = 0;
    for (what, bytes, count) in
        [("put 5 KiB", 5 << 10, 2000), ("put 1 MiB", 1 << 20, 200), ("put 32 MiB", 32 << 20, 16)]
    {
        let body = Bytes::from(vec![7; bytes]);
        for lanes in [1, 4, 16] {
            let (store, body, base) = (Arc::clone(&store), body.clone(), first);
            first += count;
            run(what, count, bytes, lanes, move |number| {
                let (store, body) = (Arc::clone(&store), body.clone());
                async move {
                    store.put(name(base + number), vec![body]).await.unwrap();
                }
            })
            .await;
        }
    }
    for lanes in [1, 16] {
        let store = Arc::clone(&store);
        run("get 128 KiB", 4000, 128 << 10, lanes, move |number| {
            let store = Arc::clone(&store);
            let start = u64::from(number % 200) * (128 << 10);
            async move { drop(store.get(name(6600 + number % 16), start..start + (128 << 10)).await.unwrap()) }
        })
        .await;
    }
}
