//! Golden files: what version 1 wrote is read for ever, and version 1 is still written the same.
//!
//! `cargo test -p polder-chunk --test golden -- --ignored` writes those of a new version; files of a released version
//! are never written again.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::convert::Infallible;

use polder_chunk::{
    ChunkLocation, ContentBuilder, MasterKey, NewChunk, PackBuilder, PackFooter, PackNonce, Piece, Reserved,
    Scratch, ShareKeys, TreeNode,
};
use polder_types::{Content, Extent, ExtentSource, PackId, ShareId};

const PACK: &[u8] = include_bytes!("golden/pack.v1");
const PACK_PLAIN: &[u8] = include_bytes!("golden/pack-plain.v1");
const KEYS: &[u8] = include_bytes!("golden/share-keys.v1");
const WRAPPED: &[u8] = include_bytes!("golden/wrapped-keys.v1");
const LOCATION: &[u8] = include_bytes!("golden/location.v1");
const NODE: &[u8] = include_bytes!("golden/node.v1");
const CUTS: &str = include_str!("golden/cuts.v1.txt");

fn keys() -> ShareKeys {
    let mut keys = ShareKeys::new(ShareId([0x11; 16]), [0x22; 32], [0x33; 32]);
    keys.add_generation([0x44; 32]).unwrap();
    keys
}

fn bytes(label: &str, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(label.as_bytes()).finalize_xof().fill(&mut out);
    out
}

fn chunks(with_text: bool) -> Vec<Vec<u8>> {
    let mut chunks = vec![bytes("first", 300), b"x".to_vec(), bytes("last", 40)];
    if with_text {
        chunks.insert(1, b"a line of text that compresses well\n".repeat(40));
    }
    chunks
}

fn pack(with_text: bool) -> Vec<u8> {
    let keys = keys();
    let mut builder = PackBuilder::new(&keys, PackId([0x55; 16]), PackNonce([0x66; 32]));
    for chunk in chunks(with_text) {
        let sealed = builder.seal(keys.chunk_ids().id(&chunk), &chunk, &mut Scratch::new());
        assert_eq!(sealed, Ok(Reserved::New(())));
    }
    builder.finish().unwrap().unwrap().bytes
}

fn wrapped() -> Vec<u8> {
    MasterKey::new([0x77; 32]).wrap(&keys(), [0x88; 32])
}

fn location(pack: &[u8]) -> Vec<u8> {
    let footer = PackFooter::parse(&keys(), PackId([0x55; 16]), pack.len() as u64, pack).unwrap();
    footer.locations().nth(1).unwrap().1.encode()
}

fn node() -> TreeNode {
    let id = |label: &str| keys().chunk_ids().id(label.as_bytes());
    TreeNode::Extents(vec![
        Extent { len: 131_072, source: ExtentSource::Chunk { id: id("a"), skip: 0 } },
        Extent { len: 1 << 40, source: ExtentSource::Hole },
        Extent { len: 77, source: ExtentSource::Chunk { id: id("b"), skip: 300 } },
    ])
}

/// Lengths of chunks and holes of a file that has both, its content, and that of a small one.
fn cuts() -> String {
    let keys = keys();
    let mut file = bytes("file", 1_500_000);
    file[700_000..800_000].fill(0);
    let mut text = String::new();
    let mut chunker = polder_chunk::Chunker::new(keys.chunk_rules());
    let mut sink = |piece: Piece<'_>| {
        match piece {
            Piece::Chunk(bytes) => text += &format!("chunk {} {}\n", bytes.len(), keys.chunk_ids().id(bytes)),
            Piece::Hole(len) => text += &format!("hole {len}\n"),
        }
        Ok::<_, Infallible>(())
    };
    chunker.push(&file, &mut sink).unwrap();
    chunker.finish(&mut sink).unwrap();
    for part in [&file[..], &file[..1000]] {
        let mut builder = ContentBuilder::new(keys.chunk_rules(), keys.chunk_ids());
        let mut sink = |_: NewChunk<'_>| Ok::<_, Infallible>(());
        builder.push(part, &mut sink).unwrap();
        let content = builder.finish(&mut sink).unwrap().encode();
        text +=
            &format!("content {}\n", content.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    }
    text
}

#[test]
fn packs_of_version_1_are_read() {
    for (pack, with_text) in [(PACK, true), (PACK_PLAIN, false)] {
        let footer = PackFooter::verify_pack(&keys(), PackId([0x55; 16]), pack, &mut Scratch::new()).unwrap();
        let wanted: Vec<_> = chunks(with_text).iter().map(|chunk| keys().chunk_ids().id(chunk)).collect();
        assert_eq!(footer.entries.iter().map(|entry| entry.id).collect::<Vec<_>>(), wanted);
    }
}

#[test]
fn a_location_of_version_1_opens_its_chunk() {
    let location = ChunkLocation::decode(LOCATION).unwrap();
    let range = location.slot.range();
    let chunk = &chunks(true)[1];
    let sealed = &PACK[range.start as usize..range.end as usize];
    let opened =
        keys().open_chunk(keys().chunk_ids().id(chunk), &location, sealed, &mut Scratch::new()).unwrap();
    assert_eq!(opened.bytes(), &chunk[..]);
}

#[test]
fn keys_of_version_1_are_read() {
    assert_eq!(ShareKeys::from_secret_bytes(KEYS), Ok(keys()));
    assert_eq!(MasterKey::new([0x77; 32]).unwrap(ShareId([0x11; 16]), WRAPPED), Ok(keys()));
}

#[test]
fn a_node_of_version_1_is_read() {
    assert_eq!(TreeNode::decode(NODE), Ok(node()));
}

/// A chunker that cuts otherwise, after an update of a dependency say, would store every file again.
#[test]
fn version_1_is_written_the_same() {
    assert_eq!(cuts(), CUTS);
    let contents = CUTS.lines().filter_map(|line| line.strip_prefix("content "));
    for hex in contents {
        let bytes: Vec<u8> =
            (0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[at * 2..at * 2 + 2], 16).unwrap()).collect();
        assert_eq!(Content::decode(&bytes).unwrap().encode(), bytes);
    }
    // Compression may give other bytes in another version of zstd; all else may not.
    assert_eq!(pack(false), PACK_PLAIN);
    assert_eq!(
        (keys().to_secret_bytes(), wrapped(), location(PACK)),
        (KEYS.to_vec(), WRAPPED.to_vec(), LOCATION.to_vec())
    );
    assert_eq!(node().encode(), NODE);
}

#[test]
#[ignore = "writes the golden files of a version that is not released"]
#[allow(clippy::disallowed_methods, reason = "a test that writes its own expectations")]
fn write_golden_files() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");
    for (name, bytes) in [
        ("pack.v1", pack(true)),
        ("pack-plain.v1", pack(false)),
        ("share-keys.v1", keys().to_secret_bytes()),
        ("wrapped-keys.v1", wrapped()),
        ("location.v1", location(&pack(true))),
        ("node.v1", node().encode()),
        ("cuts.v1.txt", cuts().into_bytes()),
    ] {
        std::fs::write(format!("{folder}/{name}"), bytes).unwrap();
    }
}
