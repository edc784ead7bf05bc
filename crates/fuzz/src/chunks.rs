//! Packs, footers, trees, keys and places of chunks.

use polder_chunk::{
    ChunkLocation, ChunkSlot, MasterKey, PackBuilder, PackFooter, PackNonce, PackRef, Reserved, Scratch,
    ShareKeys, Trailer, TreeNode,
};
use polder_types::{Extent, ExtentSource, PackId, Reader, ShareId, Writer};

const PACK: PackId = PackId([5; 16]);

fn keys() -> ShareKeys {
    ShareKeys::new(ShareId([1; 16]), [2; 32], [3; 32])
}

fn whole_pack() -> Vec<u8> {
    let keys = keys();
    let mut builder = PackBuilder::new(&keys, PACK, PackNonce([6; 32]));
    for chunk in [b"text ".repeat(300), vec![1], (0..=255).collect()] {
        let sealed = builder.seal(keys.chunk_ids().id(&chunk), &chunk, &mut Scratch::new());
        assert_eq!(sealed, Ok(Reserved::New(())));
    }
    builder.finish().expect("a small pack").expect("with chunks").bytes
}

/// The pieces, each by its own decoder.
pub(crate) fn chunks(bytes: &[u8]) {
    if let Ok(node) = TreeNode::decode(bytes) {
        assert_eq!(TreeNode::decode(&node.encode()), Ok(node));
    }
    if let Ok(location) = ChunkLocation::decode(bytes) {
        assert_eq!(ChunkLocation::decode(&location.encode()), Ok(location));
    }
    let mut from = Reader::new(bytes);
    if let Ok(slot) = ChunkSlot::decode(&mut from) {
        let mut out = Writer::new();
        slot.encode(&mut out);
        assert_eq!(ChunkSlot::decode(&mut Reader::new(&out.finish())), Ok(slot));
    }
    let _ = PackRef::decode(&mut Reader::new(bytes));
    if let Ok(keys) = ShareKeys::from_secret_bytes(bytes) {
        let again = keys.to_secret_bytes();
        assert!(ShareKeys::from_secret_bytes(&again).is_ok());
    }
    assert!(
        MasterKey::new([9; 32]).unwrap(ShareId([1; 16]), bytes).is_err() || bytes == wrapped(),
        "keys that were not wrapped by us are not unwrapped"
    );
}

fn wrapped() -> Vec<u8> {
    MasterKey::new([9; 32]).wrap(&keys(), [4; 32])
}

pub(crate) fn chunk_seeds() -> Vec<Vec<u8>> {
    let keys = keys();
    let id = keys.chunk_ids().id(b"a");
    let node = TreeNode::Extents(vec![
        Extent { len: 131_072, source: ExtentSource::Chunk { id, skip: 0 } },
        Extent { len: 1 << 40, source: ExtentSource::Hole },
    ]);
    let pack = whole_pack();
    let footer = PackFooter::parse(&keys, PACK, pack.len() as u64, &pack).expect("our own pack");
    let location = footer.locations().next().expect("a chunk").1;
    let mut slot = Writer::new();
    location.slot.encode(&mut slot);
    vec![node.encode(), location.encode(), slot.finish(), keys.to_secret_bytes(), wrapped()]
}

/// A pack from a store: only the one that was built passes; whatever was changed in it is found.
pub(crate) fn pack(bytes: &[u8]) {
    let len = bytes.len() as u64;
    let _ = Trailer::parse(len, bytes);
    let _ = Trailer::parse(len.saturating_mul(1 << 20), bytes);
    let keys = keys();
    let _ = PackFooter::parse(&keys, PACK, len, bytes);
    if PackFooter::verify_pack(&keys, PACK, bytes, &mut Scratch::new()).is_ok() {
        assert_eq!(bytes, whole_pack(), "a changed pack was taken for whole");
    }
}

pub(crate) fn pack_seeds() -> Vec<Vec<u8>> {
    vec![whole_pack()]
}
