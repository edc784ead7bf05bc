//! What the service does in a second, over TLS on loopback, with everything durable: packs in and out, commits, feed.
//!
//! `cargo run --release -p polder-service --example speed -- [MIB] [FILES]`; prints one line a figure.

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::{Duration, Instant};

use common::{Agent, World, create, file, pack};
use futures::StreamExt;
use polder_api::grpc::convert::{self, CommitOutcome, OfferedBatch};
use polder_types::{Author, BatchNo, Content, Cursor, Group};

#[tokio::main]
async fn main() {
    let mut args = std::env::args().skip(1).map(|arg| arg.parse::<usize>().expect("a number"));
    let (mib, files) = (args.next().unwrap_or(1024), args.next().unwrap_or(50_000));
    let world = World::start().await;
    let (share, group) = world.share("speed");
    let keys = world.keys(&share);
    let server = world.register("site").await;
    let endpoint = world.endpoint(group.id, server.id, "/srv");
    let mut agent = Agent::new(world.client(&server).await, endpoint);
    agent.opened().await;
    packs(&world, &mut agent, &keys, mib / 32).await;
    singles(&world, &mut agent, &keys).await;
    batches(&mut agent, files).await;
    world.service.stop().await;
}

async fn packs(world: &World, agent: &mut Agent, keys: &polder_chunk::ShareKeys, count: usize) {
    let mut noise = vec![0u8; 128 * 1024];
    let mut made = Vec::new();
    for number in 0..count {
        let chunks: Vec<Vec<u8>> = (0..240)
            .map(|_| {
                getrandom::fill(&mut noise).expect("random bytes");
                noise.clone()
            })
            .collect();
        let chunks: Vec<&[u8]> = chunks.iter().map(Vec::as_slice).collect();
        let (_, id, bytes) = pack(keys, &chunks);
        let url = agent.pack_url(id, bytes.len()).await.expect("an address");
        made.push((number, world.url(&url), bytes::Bytes::from(bytes)));
    }
    let total: usize = made.iter().map(|(_, _, bytes)| bytes.len()).sum();
    let http = world.http();
    let began = Instant::now();
    let puts = made.iter().map(|(_, url, bytes)| {
        let request = http.put(url).body(bytes.clone());
        async move { assert_eq!(request.send().await.expect("sent").status(), 200) }
    });
    futures::stream::iter(puts).buffer_unordered(4).collect::<Vec<_>>().await;
    rate("packs put, 4 at a time", total, began.elapsed());

    let places = located(agent, keys, &made).await;
    let began = Instant::now();
    let gets = places.iter().flat_map(|(url, size)| {
        (0..*size).step_by(4 << 20).map(move |at| (url.clone(), at, (at + (4 << 20)).min(*size) - 1))
    });
    let gets = gets.map(|(url, from, to)| {
        let request = http.get(world.url(&url)).header("range", format!("bytes={from}-{to}"));
        async move { request.send().await.expect("sent").bytes().await.expect("bytes").len() }
    });
    let read: usize =
        futures::stream::iter(gets).buffer_unordered(4).collect::<Vec<_>>().await.into_iter().sum();
    rate("packs got in ranges of 4 MiB, 4 at a time", read, began.elapsed());
}

/// Addresses of all packs.
async fn located(
    agent: &mut Agent,
    keys: &polder_chunk::ShareKeys,
    made: &[(usize, String, bytes::Bytes)],
) -> Vec<(String, u64)> {
    let mut places = Vec::new();
    for (_, url, bytes) in made {
        let id = url.split(['/', '?']).nth(6).expect("a pack").parse().expect("an id");
        let footer = polder_chunk::PackFooter::parse(keys, id, bytes.len() as u64, bytes).expect("own pack");
        let request = polder_api::grpc::pb::LocateRequest {
            opening: agent.opening(),
            chunk_ids: convert::encode_chunk_ids(&[footer.entries[0].id]),
        };
        let reply = agent.client.locate(request).await.expect("located").into_inner();
        let (packs, _) = convert::decode_located(reply, &[footer.entries[0].id]).expect("sound");
        places.push((packs[0].url.clone(), packs[0].size_bytes));
    }
    places
}

/// One small file at a time: pack, commit, feed, bytes.
async fn singles(world: &World, agent: &mut Agent, keys: &polder_chunk::ShareKeys) {
    let (mut address, mut put, mut commit, mut feed) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let http = world.http();
    for number in 0..200u32 {
        let bytes = common::random::<4096>();
        let (ids, id, sealed) = pack(keys, &[&bytes]);
        let began = Instant::now();
        let url = agent.pack_url(id, sealed.len()).await.expect("an address");
        address.push(began.elapsed());
        let began = Instant::now();
        let sent = http.put(world.url(&url)).body(sealed).send().await.expect("sent");
        assert_eq!(sent.bytes().await.expect("an answer").len(), 0);
        put.push(began.elapsed());
        let began = Instant::now();
        let before = agent.known;
        agent.commit(vec![create(&format!("single-{number}"), file(ids[0], 4096)).1]).await.expect("decided");
        commit.push(began.elapsed());
        let began = Instant::now();
        agent.changes(before).await.expect("the feed");
        feed.push(began.elapsed());
    }
    median("address of a pack", address);
    median("pack of 4 KiB put", put);
    median("commit of one operation", commit);
    median("feed of one row", feed);
}

async fn batches(agent: &mut Agent, files: usize) {
    let from = agent.known;
    agent.page_rows = 0;
    let began = Instant::now();
    for batch in 0..files / 1000 {
        let groups = (0..1000).map(|number| Group {
            ops: vec![create(&format!("batch-{batch}-{number}"), Content::empty_file()).1],
        });
        let offered = OfferedBatch {
            endpoint: agent.endpoint,
            opening: *agent.openings.last().expect("opened"),
            author: Author { by: agent.instance, batch: BatchNo(agent.next_batch) },
            known: agent.known,
            groups: groups.collect(),
        };
        agent.next_batch += 1;
        let reply =
            agent.client.commit(convert::encode_commit(&offered)).await.expect("decided").into_inner();
        match convert::decode_reply(reply, 1000).expect("sound") {
            CommitOutcome::Answer(answer) => agent.known = answer.cursor,
            other => panic!("{other:?}"),
        }
    }
    let took = began.elapsed();
    println!("creates in batches of 1,000: {:.0}/s", files as f64 / took.as_secs_f64());
    let began = Instant::now();
    let (rows, _, _) = agent.changes(from).await.expect("the feed");
    println!("feed: {:.0} rows/s", rows.len() as f64 / began.elapsed().as_secs_f64());
    let began = Instant::now();
    let (rows, _, _) = agent.bootstrap().await.expect("the tree");
    println!("bootstrap: {:.0} rows/s", rows.len() as f64 / began.elapsed().as_secs_f64());
    assert!(rows.len() > files && agent.known > Cursor::default());
}

fn rate(what: &str, bytes: usize, took: Duration) {
    println!("{what}: {:.0} MB/s", bytes as f64 / 1e6 / took.as_secs_f64());
}

fn median(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |part: usize| times[times.len() * part / 100].as_secs_f64() * 1e3;
    println!("{what}: p50 {:.2} ms, p99 {:.2} ms", at(50), at(99));
}
