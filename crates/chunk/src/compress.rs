//! zstd where it helps (`docs/formats/pack.md` §4), and bounded decompression.

use zstd::bulk::{Compressor, Decompressor};

/// Level 1: on two cores that also hash and seal, a higher one costs more time than it saves bytes.
const LEVEL: i32 = 1;
const TRY_BYTES_MIN: usize = 64;
const SAMPLE_BYTES: usize = 1024;
const SAMPLES: usize = 4;
// Below this a sample of 1 KiB in all must do: reading 4 KiB would cost more than hashing the chunk.
const SMALL_BYTES: usize = 32 * 1024;

/// Buffers and codecs that are kept from chunk to chunk. One per thread; cheap until first used.
#[derive(Default)]
pub struct Scratch {
    compressor: Option<Compressor<'static>>,
    decompressor: Option<Decompressor<'static>>,
    packed: Vec<u8>,
    pub(crate) opened: Vec<u8>,
    pub(crate) unpacked: Vec<u8>,
}

impl std::fmt::Debug for Scratch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Scratch")
    }
}

impl Scratch {
    /// With nothing in it.
    pub fn new() -> Self {
        Self::default()
    }

    /// The bytes compressed, if that saves at least 1/32 of them.
    pub(crate) fn compress(&mut self, raw: &[u8]) -> Option<&[u8]> {
        if raw.len() < TRY_BYTES_MIN || looks_random(raw) {
            return None;
        }
        // A codec that cannot be made (no memory) only costs space: the chunk is stored as it is.
        if self.compressor.is_none() {
            self.compressor = Compressor::new(LEVEL).ok();
        }
        let worth = raw.len() - raw.len() / 32;
        if self.packed.len() < worth {
            self.packed.resize(worth, 0);
        }
        // A buffer of that size makes zstd give up by itself when it saves less.
        let len = self.compressor.as_mut()?.compress_to_buffer(raw, &mut self.packed[..worth]).ok()?;
        Some(&self.packed[..len])
    }
}

/// Fills `out` with exactly what `packed` decompresses to; `None` when that has another length or is damaged.
pub(crate) fn decompress(
    codec: &mut Option<Decompressor<'static>>,
    packed: &[u8],
    out: &mut [u8],
) -> Option<()> {
    if codec.is_none() {
        *codec = Decompressor::new().ok();
    }
    let len = codec.as_mut()?.decompress_to_buffer(packed, out).ok()?;
    (len == out.len()).then_some(())
}

impl Scratch {
    /// Opened but still compressed bytes, the buffer for plain ones, and the codec: apart, so that all can be borrowed.
    pub(crate) fn parts(&mut self) -> (&mut Vec<u8>, &mut Vec<u8>, &mut Option<Decompressor<'static>>) {
        (&mut self.opened, &mut self.unpacked, &mut self.decompressor)
    }
}

/// Whether the frequencies of bytes are those of random data, which no codec makes smaller.
///
/// The sum of squared counts of `n` random bytes is around `n + n(n-1)/256`, with a deviation of about `n/11`. 8 % above
/// that means at most 0.11 bit to save in a byte; for a sample of 1 KiB it is four deviations away, for 4 KiB fourteen.
fn looks_random(raw: &[u8]) -> bool {
    // Four tables, so that equal bytes in a row do not wait for each other's store.
    let mut counts = [[0u16; 256]; 4];
    let mut sampled = 0u64;
    let part_len = if raw.len() < SMALL_BYTES { SAMPLE_BYTES / SAMPLES } else { SAMPLE_BYTES };
    let mut sample = |part: &[u8]| {
        for quad in part.chunks(4) {
            quad.iter().zip(&mut counts).for_each(|(byte, table)| table[usize::from(*byte)] += 1);
        }
        sampled += part.len() as u64;
    };
    if raw.len() <= part_len * SAMPLES {
        sample(raw);
    } else {
        let stride = (raw.len() - part_len) / (SAMPLES - 1);
        (0..SAMPLES).for_each(|at| sample(&raw[at * stride..at * stride + part_len]));
    }
    let count = |byte: usize| counts.iter().map(|table| u64::from(table[byte])).sum::<u64>();
    let squares: u64 = (0..256).map(|byte| count(byte) * count(byte)).sum();
    let random = sampled + sampled * (sampled - 1) / 256;
    squares <= random + random * 8 / 100
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        blake3::Hasher::new().finalize_xof().fill(&mut out);
        out
    }

    #[test]
    fn random_bytes_are_not_tried_and_others_are() {
        for len in [4096, 32 * 1024, 200_001] {
            assert!(looks_random(&random(len)), "{len}");
            assert!(Scratch::new().compress(&random(len)).is_none());
        }
        let text: Vec<u8> = b"the quick brown fox jumps over the lazy dog. ".repeat(300);
        let table: Vec<u8> = random(20_000).chunks(3).flat_map(|c| [c[0], c[1], 0, 1]).collect();
        for data in [text, table, vec![7; 100]] {
            assert!(!looks_random(&data));
            let mut scratch = Scratch::new();
            let packed = scratch.compress(&data).expect("compressible").to_vec();
            assert!(packed.len() + data.len() / 32 <= data.len());
            let mut out = vec![0; data.len()];
            assert_eq!(decompress(&mut None, &packed, &mut out), Some(()));
            assert_eq!(out, data);
        }
    }

    /// Scenario 115.
    #[test]
    fn a_bomb_fills_no_more_than_was_said() {
        let bomb = zstd::bulk::compress(&vec![0; 10_000_000], 19).unwrap();
        let mut out = vec![1; 1000];
        assert_eq!(decompress(&mut None, &bomb, &mut out), None);
        let short = zstd::bulk::compress(&[0; 999], 1).unwrap();
        assert_eq!(decompress(&mut None, &short, &mut out), None, "too few bytes");
        assert_eq!(decompress(&mut None, &[1, 2, 3], &mut out), None);
    }
}
