//! Measures the way of bytes through this crate, on one thread, one line a figure.
//!
//! `cargo run --release -p polder-chunk --example speed -- [megabytes]`

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a measurement reads the clock and may panic"
)]

use std::convert::Infallible;
use std::time::Instant;

use polder_chunk::{
    Chunker, ContentBuilder, ExtentWalk, NewChunk, Pack, PackBuilder, PackFooter, PackNonce, Piece, Reserved,
    Scratch, ShareKeys, TreeBuilder,
};
use polder_types::{Extent, ExtentSource, PackId, ShareId};

fn random(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

/// Words in random order: compresses about as text does.
fn text(len: usize) -> Vec<u8> {
    let words: Vec<String> =
        random(3, 4096).chunks(4).map(|c| format!("{:02x}{:x} ", c[0], c[1] as u16 * 7)).collect();
    let draws = random(4, len);
    let mut out = Vec::with_capacity(len + 16);
    draws.chunks_exact(2).map(|draw| usize::from(u16::from_le_bytes([draw[0], draw[1]]))).find(|at| {
        out.extend_from_slice(words[at % words.len()].as_bytes());
        out.len() >= len
    });
    out.truncate(len);
    out
}

fn report(what: &str, bytes: usize, count: usize, run: impl FnOnce()) {
    let start = Instant::now();
    run();
    let secs = start.elapsed().as_secs_f64();
    println!("{what:<44} {:>8.0} MB/s {:>10.0}/s", bytes as f64 / secs / 1e6, count as f64 / secs);
}

struct Packs {
    keys: ShareKeys,
    open: PackBuilder,
    // What an uploaded pack leaves behind for the next one.
    spare: Vec<u8>,
    stored: usize,
    last: Option<Pack>,
    scratch: Scratch,
}

impl Packs {
    fn new(keys: &ShareKeys) -> Self {
        let open = PackBuilder::new(keys, PackId([0; 16]), PackNonce([0; 32]));
        Self { keys: keys.clone(), open, spare: Vec::new(), stored: 0, last: None, scratch: Scratch::new() }
    }

    fn add(&mut self, chunk: NewChunk<'_>) -> Result<(), Infallible> {
        while self.open.seal(chunk.id, chunk.bytes, &mut self.scratch).unwrap() == Reserved::Full {
            self.flush();
        }
        Ok(())
    }

    fn flush(&mut self) {
        let id = self.open.pack().id.0[0].wrapping_add(1);
        let buffer = std::mem::take(&mut self.spare);
        let next = PackBuilder::with_buffer(&self.keys, PackId([id; 16]), PackNonce([id; 32]), buffer);
        if let Some(pack) = std::mem::replace(&mut self.open, next).finish().unwrap() {
            self.stored += pack.bytes.len();
            self.spare = self.last.replace(pack).map(|pack| pack.bytes).unwrap_or_default();
        }
    }
}

fn file(keys: &ShareKeys, packs: &mut Packs, bytes: &[u8]) {
    let mut builder = ContentBuilder::new(keys.chunk_rules(), keys.chunk_ids());
    for part in bytes.chunks(1 << 20) {
        builder.push(part, &mut |chunk| packs.add(chunk)).unwrap();
    }
    builder.finish(&mut |chunk| packs.add(chunk)).unwrap();
}

fn main() {
    let megabytes: usize = std::env::args().nth(1).and_then(|arg| arg.parse().ok()).unwrap_or(512);
    let keys = ShareKeys::new(ShareId([1; 16]), [2; 32], [3; 32]);
    let data = random(1, megabytes * 1_000_000);
    let words = text(data.len() / 4);
    let nothing = vec![0; data.len()];

    let mut parts = 0;
    report("chunker, random", data.len(), 1, || {
        let mut chunker = Chunker::new(keys.chunk_rules());
        let mut sink = |piece: Piece<'_>| {
            parts += usize::from(matches!(piece, Piece::Chunk(_)));
            Ok::<_, Infallible>(())
        };
        data.chunks(1 << 20).for_each(|part| chunker.push(part, &mut sink).unwrap());
        chunker.finish(&mut sink).unwrap();
    });
    let ids = keys.chunk_ids();
    report("chunk ids, random, 128 KiB each", data.len(), parts, || {
        data.chunks(128 * 1024).for_each(|chunk| drop(std::hint::black_box(ids.id(chunk).to_string())));
    });
    report("hash only: chunker and ids, random", data.len(), parts, || {
        let mut builder = ContentBuilder::new(keys.chunk_rules(), ids);
        let mut sink = |_: NewChunk<'_>| Ok::<_, Infallible>(());
        data.chunks(1 << 20).for_each(|part| builder.push(part, &mut sink).unwrap());
        builder.finish(&mut sink).unwrap();
    });
    for (what, bytes) in [("random", &data), ("text", &words), ("zeros", &nothing)] {
        let mut packs = Packs::new(&keys);
        report(&format!("store, with read-back: {what}"), bytes.len(), 1, || {
            file(&keys, &mut packs, bytes);
            packs.flush();
        });
        println!(
            "{:<44} {:>8.3}",
            format!("stored / plain: {what}"),
            packs.stored as f64 / bytes.len() as f64
        );
        let Some(pack) = &packs.last else { continue };
        let plain: usize = pack.footer.entries.iter().map(|entry| entry.slot.raw_bytes as usize).sum();
        report(&format!("verify a pack: {what}"), plain, pack.footer.entries.len(), || {
            PackFooter::verify_pack(&keys, pack.footer.pack.id, &pack.bytes, &mut packs.scratch).unwrap();
        });
    }
    let rules = keys.chunk_rules();
    for (what, bytes) in [("random", &data), ("text", &words)] {
        let mut packs = Packs::new(&keys);
        let files: Vec<_> = bytes.chunks_exact(4096).take(100_000).collect();
        report(&format!("store files of 4 KiB: {what}"), files.len() * 4096, files.len(), || {
            for file in &files {
                let mut builder = ContentBuilder::new(rules.clone(), ids);
                builder.push(file, &mut |chunk| packs.add(chunk)).unwrap();
                builder.finish(&mut |chunk| packs.add(chunk)).unwrap();
            }
            packs.flush();
        });
    }
    tree(&keys);
}

fn tree(keys: &ShareKeys) {
    let ids = keys.chunk_ids();
    let extents: Vec<Extent> = (0..1_000_000u64)
        .map(|at| Extent {
            len: 131_072,
            source: ExtentSource::Chunk { id: ids.id(&at.to_le_bytes()), skip: 0 },
        })
        .collect();
    let mut store = std::collections::BTreeMap::new();
    let mut content = None;
    report("list extents", extents.len() * 131_072, extents.len(), || {
        let mut tree = TreeBuilder::new(ids);
        let mut sink = |chunk: NewChunk<'_>| {
            store.insert(chunk.id, chunk.bytes.to_vec());
            Ok::<_, Infallible>(())
        };
        extents.iter().for_each(|extent| tree.push(*extent, &mut sink).unwrap());
        content = Some(tree.finish(&mut sink).unwrap());
    });
    report("walk extents", extents.len() * 131_072, extents.len(), || {
        let mut walk = ExtentWalk::new(content.as_ref().unwrap()).unwrap();
        while let Some(step) = walk.step() {
            if let polder_chunk::WalkStep::Node { id, .. } = step {
                walk.supply(&ids.verify(id, store[&id].clone()).unwrap()).unwrap();
            }
        }
    });
}
