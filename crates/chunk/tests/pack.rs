//! Packs: what is sealed is read, by many threads and by range; what was touched is refused.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use polder_chunk::{
    ChunkLocation, Compression, FooterError, KeyGeneration, OpenError, PACK_DATA_BYTES, Pack, PackBuilder,
    PackError, PackFooter, PackNonce, Reserved, Scratch, SealError, ShareKeys, TRAILER_BYTES, Trailer,
};
use polder_types::{ChunkId, PackId, ShareId};
use proptest::prelude::*;

fn keys() -> ShareKeys {
    ShareKeys::new(ShareId([1; 16]), [2; 32], [3; 32])
}

fn random(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

fn builder(keys: &ShareKeys) -> PackBuilder {
    PackBuilder::new(keys, PackId([7; 16]), PackNonce([8; 32]))
}

fn pack(keys: &ShareKeys, chunks: &[Vec<u8>]) -> Pack {
    let (mut builder, mut scratch) = (builder(keys), Scratch::new());
    for chunk in chunks {
        let sealed = builder.seal(keys.chunk_ids().id(chunk), chunk, &mut scratch);
        assert_eq!(sealed, Ok(Reserved::New(())));
    }
    builder.finish().unwrap().unwrap()
}

fn samples() -> Vec<Vec<u8>> {
    vec![random(1, 5000), b"text ".repeat(500), vec![1], vec![0; 20_000], random(2, 40)]
}

#[test]
fn what_is_sealed_is_read_by_its_location_alone() {
    let keys = keys();
    let pack = pack(&keys, &samples());
    let verified = PackFooter::verify_pack(&keys, PackId([7; 16]), &pack.bytes, &mut Scratch::new());
    assert_eq!(verified, Ok(pack.footer.clone()));
    let kinds: Vec<_> = pack.footer.entries.iter().map(|entry| entry.slot.compression).collect();
    use Compression::{None, Zstd};
    assert_eq!(kinds, [None, Zstd, None, Zstd, None]);
    for ((id, location), raw) in pack.footer.locations().zip(samples()) {
        let location = ChunkLocation::decode(&location.encode()).unwrap();
        let range = location.slot.range();
        let sealed = &pack.bytes[range.start as usize..range.end as usize];
        let opened = keys.open_chunk(id, &location, sealed, &mut Scratch::new()).unwrap();
        assert_eq!((opened.id(), opened.bytes()), (id, &raw[..]));
        assert_eq!(opened.into_bytes(), raw);
    }
}

#[test]
fn many_threads_fill_one_pack() {
    let keys = keys();
    let mut builder = builder(&keys);
    let key = builder.key();
    let chunks: Vec<_> = (0..40).map(|seed| random(seed, 10_000 + seed as usize)).collect();
    let (jobs, results) = (std::sync::Mutex::new(Vec::new()), std::sync::mpsc::channel());
    for raw in &chunks {
        let id = keys.chunk_ids().id(raw);
        let Reserved::New(slot) = builder.reserve(id, raw.len() as u32) else { panic!("room") };
        assert_eq!(builder.reserve(id, raw.len() as u32), Reserved::Known);
        jobs.lock().unwrap().push((slot, raw));
    }
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let (key, jobs, done) = (Arc::clone(&key), &jobs, results.0.clone());
            scope.spawn(move || {
                let mut scratch = Scratch::new();
                loop {
                    let job = jobs.lock().unwrap().pop();
                    let Some((slot, raw)) = job else { break };
                    done.send(key.seal(slot, raw, &mut scratch).unwrap()).unwrap();
                }
            });
        }
    });
    drop(results.0);
    results.1.iter().for_each(|sealed| builder.add(sealed).unwrap());
    let pack = builder.finish().unwrap().unwrap();
    assert_eq!(pack.footer.entries.len(), chunks.len());
    PackFooter::verify_pack(&keys, PackId([7; 16]), &pack.bytes, &mut Scratch::new()).unwrap();
}

/// Scenario 86, in a store.
#[test]
fn a_changed_byte_anywhere_is_noticed() {
    let keys = keys();
    let chunks = [random(1, 100), b"text ".repeat(30)];
    let pack = pack(&keys, &chunks);
    for at in 0..pack.bytes.len() {
        let mut bytes = pack.bytes.clone();
        bytes[at] ^= 0x10;
        let found = PackFooter::verify_pack(&keys, PackId([7; 16]), &bytes, &mut Scratch::new());
        let data = at < pack.footer.entries.iter().map(|e| e.slot.stored_bytes as usize).sum();
        match found {
            Err(PackError::Chunk(OpenError::Damaged { .. })) => assert!(data, "byte {at}"),
            Err(PackError::Footer(_)) => assert!(!data, "byte {at}"),
            other => panic!("byte {at}: {other:?}"),
        }
        let cut = PackFooter::verify_pack(&keys, PackId([7; 16]), &pack.bytes[..at], &mut Scratch::new());
        assert!(matches!(cut, Err(PackError::Footer(_))), "cut at {at}: {cut:?}");
    }
}

#[test]
fn a_forged_end_is_noticed_although_its_checksum_holds() {
    let mut keys = keys();
    let good = pack(&keys, &[random(1, 100)]).bytes;
    keys.add_generation([9; 32]).unwrap();
    let check = |bytes: &[u8], keys: &ShareKeys, id: [u8; 16]| {
        PackFooter::parse(keys, PackId(id), bytes.len() as u64, bytes).map(drop)
    };
    assert_eq!(check(&good, &keys, [7; 16]), Ok(()));
    assert_eq!(check(&good, &keys, [6; 16]), Err(FooterError::Forged), "another pack's bytes");
    let stranger = ShareKeys::new(ShareId([4; 16]), [2; 32], [3; 32]);
    assert_eq!(check(&good, &stranger, [7; 16]), Err(FooterError::Forged), "another share's bytes");
    let other_key = ShareKeys::new(ShareId([1; 16]), [2; 32], [5; 32]);
    assert_eq!(check(&good, &other_key, [7; 16]), Err(FooterError::Forged), "another key");

    let end = good.len() - TRAILER_BYTES;
    let footer_len = Trailer::parse(good.len() as u64, &good).unwrap().footer_bytes as usize;
    let reseal = |bytes: &mut [u8]| {
        let hash = blake3::Hasher::new()
            .update(&bytes[end..end + 80])
            .update(&bytes[end - footer_len..end])
            .finalize();
        bytes[end + 80..end + 104].copy_from_slice(&hash.as_bytes()[..24]);
    };
    for (at, wanted) in [
        (0, FooterError::Forged),
        (16, FooterError::Forged),
        (32, FooterError::Forged),
        (64, FooterError::Key(polder_chunk::KeyError::NoGeneration(KeyGeneration(0)))),
        (68, FooterError::Bad("number of chunks")),
        (72, FooterError::Bad("length")),
        (76, FooterError::Bad("length")),
    ] {
        let mut forged = good.clone();
        forged[end + at] ^= 1;
        reseal(&mut forged);
        assert_eq!(check(&forged, &keys, [7; 16]), Err(wanted), "field at {at}");
    }
    let mut generation = good.clone();
    generation[end + 64] = 2;
    reseal(&mut generation);
    assert_eq!(check(&generation, &keys, [7; 16]), Err(FooterError::Forged), "another generation");
}

#[test]
fn the_end_of_a_pack_is_asked_for_as_far_as_needed() {
    let keys = keys();
    let chunks: Vec<_> = (0..200u64).map(|seed| random(seed, 100)).collect();
    let bytes = pack(&keys, &chunks).bytes;
    let parse = |tail: usize| {
        PackFooter::parse(&keys, PackId([7; 16]), bytes.len() as u64, &bytes[bytes.len() - tail..])
    };
    assert_eq!(parse(10), Err(FooterError::NeedTail(TRAILER_BYTES)));
    let Err(FooterError::NeedTail(need)) = parse(TRAILER_BYTES) else { panic!("the footer is missing") };
    assert_eq!(parse(need).map(|footer| footer.entries.len()), Ok(200));
    assert_eq!(parse(need - 1), Err(FooterError::NeedTail(need)));
    assert_eq!(Trailer::parse(50, &[0; 50]), Err(FooterError::NotAPack));
    assert_eq!(Trailer::parse(1 << 40, &bytes), Err(FooterError::NotAPack));
    assert_eq!(Trailer::parse(200, &[0; 200]), Err(FooterError::NotAPack));
    let mut newer = bytes.clone();
    *newer.last_mut().unwrap() = 2;
    assert_eq!(Trailer::parse(newer.len() as u64, &newer), Err(FooterError::Version(2)));
}

#[test]
fn chunks_do_not_open_elsewhere() {
    let keys = keys();
    let pack = pack(&keys, &[random(1, 100), random(2, 100)]);
    let [first, second] = pack.footer.entries[..] else { panic!("two") };
    let bytes = |range: std::ops::Range<u64>| &pack.bytes[range.start as usize..range.end as usize];
    let key = keys.pack_key(pack.footer.pack).unwrap();
    let mut scratch = Scratch::new();
    let mut open = |id, slot, sealed| key.open(id, &slot, sealed, &mut scratch).map(drop);
    assert_eq!(open(first.id, first.slot, bytes(first.slot.range())), Ok(()));
    let damaged = Err(OpenError::Damaged { id: first.id });
    assert_eq!(open(first.id, first.slot, bytes(second.slot.range())), damaged, "another chunk's bytes");
    assert_eq!(
        open(second.id, first.slot, bytes(first.slot.range())),
        Err(OpenError::Damaged { id: second.id })
    );
    let mut slot = first.slot;
    slot.number = 1;
    assert_eq!(open(first.id, slot, bytes(first.slot.range())), damaged, "another number");
    let mut slot = first.slot;
    slot.raw_bytes = 4000;
    slot.compression = Compression::Zstd;
    assert_eq!(open(first.id, slot, bytes(first.slot.range())), damaged, "another length");
    let short = &bytes(first.slot.range())[1..];
    assert!(matches!(open(first.id, first.slot, short), Err(OpenError::Length { .. })));
    let mut other = pack.footer.pack;
    other.nonce = PackNonce([1; 32]);
    let location = ChunkLocation { pack: other, slot: first.slot };
    let opened = keys.open_chunk(first.id, &location, bytes(first.slot.range()), &mut Scratch::new());
    assert_eq!(opened.map(drop), damaged);
    let location = ChunkLocation {
        pack: polder_chunk::PackRef { generation: KeyGeneration(9), ..other },
        slot: first.slot,
    };
    let opened = keys.open_chunk(first.id, &location, bytes(first.slot.range()), &mut Scratch::new());
    assert_eq!(opened.map(drop), Err(OpenError::Key(polder_chunk::KeyError::NoGeneration(KeyGeneration(9)))));
}

/// Scenario 86, in memory before the upload.
#[test]
fn a_wrong_id_is_never_packed() {
    let (keys, mut scratch) = (keys(), Scratch::new());
    let mut builder = builder(&keys);
    let wrong = ChunkId([5; 32]);
    for raw in [random(1, 100), b"text ".repeat(100)] {
        let sealed = builder.seal(wrong, &raw, &mut scratch);
        assert_eq!(sealed, Err(SealError::ReadBack(OpenError::WrongBytes { id: wrong })));
    }
    assert_eq!((builder.data_bytes(), builder.chunk_count(), builder.contains(wrong)), (0, 0, false));
    assert!(builder.finish().unwrap().is_none());
}

#[test]
fn a_pack_takes_what_fits_and_each_chunk_once() {
    let (keys, mut scratch) = (keys(), Scratch::new());
    let mut pack = builder(&keys);
    assert_eq!(pack.seal(ChunkId([0; 32]), &[], &mut scratch), Err(SealError::Size(0)));
    let large = vec![0u8; (16 << 20) + 1];
    assert_eq!(pack.seal(ChunkId([0; 32]), &large, &mut scratch), Err(SealError::Size(large.len() as u64)));
    let raw = random(1, 500_000);
    let id = keys.chunk_ids().id(&raw);
    assert_eq!(pack.seal(id, &raw, &mut scratch), Ok(Reserved::New(())));
    assert_eq!(pack.seal(id, &raw, &mut scratch), Ok(Reserved::Known));
    let mut slots = Vec::new();
    let full = loop {
        let next = ChunkId([slots.len() as u8 + 1; 32]);
        match pack.reserve(next, 500_000) {
            Reserved::New(slot) => slots.push(slot),
            other => break other,
        }
    };
    assert_eq!((full, slots.len()), (Reserved::Full, PACK_DATA_BYTES as usize / 500_016 - 1));

    let mut other = PackBuilder::new(&keys, PackId([9; 16]), PackNonce([8; 32]));
    let slot = slots.pop().unwrap();
    assert_eq!(
        other.key().seal(slot, &raw, &mut scratch).map(drop),
        Err(SealError::OtherPack(PackId([7; 16])))
    );
    let Reserved::New(slot) = other.reserve(id, 500_000) else { panic!("room") };
    let sealed = other.key().seal(slot, &raw, &mut scratch).unwrap();
    assert_eq!(pack.add(sealed), Err(SealError::OtherPack(PackId([9; 16]))));
}

proptest! {
    /// Ends that are made up, with a checksum that holds, so that everything behind it is reached.
    #[test]
    fn no_end_of_a_pack_is_trusted(
        footer in prop::collection::vec(any::<u8>(), 0..200), data: u16, count in 0u32..40, generation in 0u32..3, sealed: bool, lie in 0u32..3,
    ) {
        let keys = keys();
        let mut fields = [[1; 16], [7; 16], [8; 16], [8; 16]].concat();
        let tag = if sealed { 16 } else { 0 };
        for field in [generation, count, data.into(), footer.len() as u32 + tag + lie] {
            fields.extend_from_slice(&field.to_le_bytes());
        }
        let mut end = footer;
        if sealed {
            let key = blake3::keyed_hash(&[3; 32], &[&b"polder pack key v1"[..], &[8; 32]].concat());
            let key = aws_lc_rs::aead::UnboundKey::new(&aws_lc_rs::aead::AES_256_GCM, key.as_bytes()).unwrap();
            let mut nonce = [0; 12];
            nonce[0] = 1;
            let aad = [&fields[..], b"PLDPACK\x01"].concat();
            aws_lc_rs::aead::LessSafeKey::new(key)
                .seal_in_place_append_tag(
                    aws_lc_rs::aead::Nonce::assume_unique_for_key(nonce),
                    aws_lc_rs::aead::Aad::from(aad),
                    &mut end,
                )
                .unwrap();
        }
        let checksum = blake3::Hasher::new().update(&fields).update(&end).finalize();
        let object = [&vec![0; data.into()][..], &end, &fields, &checksum.as_bytes()[..24], b"PLDPACK\x01"].concat();
        let found = PackFooter::parse(&keys, PackId([7; 16]), object.len() as u64, &object);
        match found {
            // A list of chunks that is genuine and sound by chance must at least add up.
            Ok(footer) => {
                let stored: u64 = footer.entries.iter().map(|entry| u64::from(entry.slot.stored_bytes)).sum();
                prop_assert_eq!(stored, u64::from(data));
            }
            Err(error) => {
                let opened = sealed && lie == 0 && generation == 1 && count > 0;
                prop_assert_eq!(error == FooterError::Bad("list of chunks"), opened, "{}", error);
            }
        }
    }
}

#[test]
fn equal_chunks_in_two_packs_share_no_bytes() {
    let keys = keys();
    let raw = random(1, 1000);
    let seal = |nonce: u8| {
        let mut builder = PackBuilder::new(&keys, PackId([7; 16]), PackNonce([nonce; 32]));
        builder.seal(keys.chunk_ids().id(&raw), &raw, &mut Scratch::new()).unwrap();
        builder.finish().unwrap().unwrap().bytes
    };
    let (one, two) = (seal(1), seal(2));
    assert_ne!(one[..1016], two[..1016]);
    assert_eq!(one, seal(1), "sealing is a function of its arguments");
}
