//! What equal runs have in common.

use std::fmt;
use std::hash::Hasher;

/// All that was noted, in one number. Equal runs write equal pieces: it need not be the same for other cuts of a text.
#[derive(Debug)]
pub(crate) struct TraceHash(pub(crate) u64);

impl Default for TraceHash {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl TraceHash {
    fn mix(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

impl Hasher for TraceHash {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, piece: &[u8]) {
        let mut words = piece.chunks_exact(8);
        for word in &mut words {
            self.mix(u64::from_le_bytes(word.try_into().expect("eight bytes")));
        }
        let rest = words.remainder();
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.mix(u64::from_le_bytes(last) ^ ((rest.len() as u64) << 56));
    }

    fn write_u64(&mut self, word: u64) {
        self.mix(word);
    }
}

impl fmt::Write for TraceHash {
    fn write_str(&mut self, piece: &str) -> fmt::Result {
        self.write(piece.as_bytes());
        Ok(())
    }
}
