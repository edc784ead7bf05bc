//! The chunker against a model that has the whole file in memory, however the file is sliced.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Chunk(Vec<u8>),
    Hole(u64),
}

fn rules() -> ChunkRules {
    ChunkRules::v1(0x0123_4567_89ab_cdef)
}

fn random(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

/// `docs/formats/content.md` §4 word for word, on the whole file.
fn model(bytes: &[u8]) -> Vec<Part> {
    let mut parts = Vec::new();
    let (mut start, mut at) = (0, 0);
    while at < bytes.len() {
        let zeros = bytes[at..].iter().take_while(|byte| **byte == 0).count();
        if zeros >= 65_536 {
            parts.extend(model_segment(&bytes[start..at]));
            parts.push(Part::Hole(zeros as u64));
            start = at + zeros;
        }
        at += zeros.max(1);
    }
    parts.extend(model_segment(&bytes[start..]));
    parts
}

fn model_segment(segment: &[u8]) -> impl Iterator<Item = Part> + '_ {
    let (level, seed) = (Normalization::Level2, 0x0123_4567_89ab_cdef);
    let cutter = fastcdc::v2020::FastCDC::with_level_and_seed(segment, 32_768, 131_072, 524_288, level, seed);
    cutter.map(|c| Part::Chunk(segment[c.offset..c.offset + c.length].to_vec()))
}

fn collect(run: impl FnOnce(&mut dyn FnMut(Piece<'_>))) -> Vec<Part> {
    let mut parts = Vec::new();
    run(&mut |piece| {
        parts.push(match piece {
            Piece::Chunk(bytes) => Part::Chunk(bytes.to_vec()),
            Piece::Hole(len) => Part::Hole(len),
        });
    });
    parts
}

/// Pushes slices of the lengths in `cuts`, again and again; slices of zeros as zeros where `holes` says so.
fn sliced(bytes: &[u8], cuts: &[usize], holes: bool) -> Vec<Part> {
    collect(|take| {
        let mut sink = |piece: Piece<'_>| {
            take(piece);
            Ok::<_, std::convert::Infallible>(())
        };
        let mut chunker = Chunker::new(rules());
        let mut rest = bytes;
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (now, later) = rest.split_at(rest.len().min((*cut).max(1)));
            rest = later;
            if holes && now.iter().all(|byte| *byte == 0) {
                chunker.push_zeros(now.len() as u64, &mut sink).unwrap();
            } else {
                chunker.push(now, &mut sink).unwrap();
            }
            let buffered = chunker.segment.len();
            assert!(buffered < CHUNK_MAX_BYTES + HOLE_BYTES_MIN, "{buffered} bytes are buffered");
        }
        chunker.finish(&mut sink).unwrap();
    })
}

/// Files of runs of random bytes and of zeros whose lengths lie around the borders that matter.
fn file() -> impl Strategy<Value = Vec<u8>> {
    let len = prop_oneof![
        0usize..100,
        65_530usize..65_542,
        30_000usize..40_000,
        100_000usize..200_000,
        520_000usize..530_000,
        131_000usize..131_200,
    ];
    let part = (0u8..3, len, any::<u64>());
    prop::collection::vec(part, 0..6).prop_map(|parts| {
        parts
            .into_iter()
            .flat_map(|(kind, len, seed)| match kind {
                0 => vec![0; len],
                1 => random(seed, len),
                // Nearly zeros: one byte in the middle of a run.
                _ => {
                    let mut out = vec![0; len];
                    if let Some(byte) = out.get_mut(len / 2) {
                        *byte = 1;
                    }
                    out
                }
            })
            .collect()
    })
}

fn cut() -> impl Strategy<Value = usize> {
    prop_oneof![4096usize..4097, 1usize..70_000, 65_535usize..65_538, 1_000_000usize..1_200_000]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn the_form_is_a_function_of_the_bytes(
        bytes in file(), cuts in prop::collection::vec(cut(), 1..5), holes: bool,
    ) {
        let parts = sliced(&bytes, &cuts, holes);
        prop_assert_eq!(&parts, &model(&bytes));
        let whole: Vec<u8> = parts.iter().flat_map(|part| match part {
            Part::Chunk(bytes) => bytes.clone(),
            Part::Hole(len) => vec![0; *len as usize],
        }).collect();
        prop_assert_eq!(whole, bytes);
    }
}

#[test]
fn small_files_are_one_chunk() {
    assert_eq!(sliced(&[], &[1], false), []);
    for bytes in [vec![0; 1], vec![0; 32_768], random(1, 32_768), random(2, 5)] {
        assert_eq!(sliced(&bytes, &[1000], true), [Part::Chunk(bytes)]);
    }
    assert_eq!(sliced(&vec![0; 65_536], &[1000], true), [Part::Hole(65_536)]);
    assert!(matches!(sliced(&vec![0; 65_535], &[1000], true)[..], [Part::Chunk(_)]));
}

/// Scenario 69: sizes have 63 bits.
#[test]
fn a_huge_hole_needs_no_memory() {
    let parts = collect(|take| {
        let mut sink = |piece: Piece<'_>| {
            take(piece);
            Ok::<_, std::convert::Infallible>(())
        };
        let mut chunker = Chunker::new(rules());
        chunker.push(b"a", &mut sink).unwrap();
        chunker.push_zeros(1 << 62, &mut sink).unwrap();
        chunker.push(b"\0z", &mut sink).unwrap();
        chunker.finish(&mut sink).unwrap();
    });
    assert_eq!(parts, [Part::Chunk(b"a".to_vec()), Part::Hole((1 << 62) + 1), Part::Chunk(b"z".to_vec())]);
}

#[test]
fn an_insertion_changes_few_chunks() {
    let before = random(7, 20_000_000);
    let after = [&b"x"[..], &before].concat();
    let known: std::collections::BTreeSet<Vec<u8>> = chunks(&before).into_iter().collect();
    let sizes: Vec<usize> = known.iter().map(Vec::len).collect();
    let mean = sizes.iter().sum::<usize>() / sizes.len();
    assert!((120_000..170_000).contains(&mean), "mean {mean}");
    let sent: usize = chunks(&after).iter().filter(|chunk| !known.contains(*chunk)).map(Vec::len).sum();
    assert!(sent < 600_000, "{sent} bytes are new");
}

fn chunks(bytes: &[u8]) -> Vec<Vec<u8>> {
    let parts = sliced(bytes, &[1 << 20], false).into_iter();
    parts
        .map(|part| match part {
            Part::Chunk(bytes) => bytes,
            Part::Hole(len) => vec![0; len as usize],
        })
        .collect()
}

#[test]
fn another_seed_cuts_elsewhere() {
    let bytes = random(9, 3_000_000);
    let other = ChunkRules::v1(1);
    assert_ne!(rules().cut(&bytes), other.cut(&bytes));
}
