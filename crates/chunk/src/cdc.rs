//! The chunker: bytes in pieces of any size come out as chunks and holes (`docs/formats/content.md` §4).
//!
//! A hole is a maximal run of at least [`HOLE_BYTES_MIN`] zeros; what lies between two holes is a segment, and every
//! segment is cut by FastCDC for itself. So the result depends on the bytes alone. At most one chunk and one undecided
//! run of zeros are buffered, beside the piece that was pushed.

use std::sync::Arc;

use fastcdc::v2020::{Normalization, cut_gear, get_gear_with_seed, select_masks};

use crate::zeros;

/// Smallest chunk, but for the last one of a segment. A file of at most this size is one chunk.
pub const CHUNK_MIN_BYTES: usize = 32 * 1024;
/// Size around which chunks lie.
pub const CHUNK_AVG_BYTES: usize = 128 * 1024;
/// Largest chunk.
pub const CHUNK_MAX_BYTES: usize = 512 * 1024;
/// Zeros in a row that make a hole.
pub const HOLE_BYTES_MIN: usize = 64 * 1024;

// Bounds the buffer when a caller pushes a whole large file at once.
const PIECE_BYTES_MAX: usize = 1024 * 1024;

/// How a share's files are cut. Cloning shares the tables.
#[derive(Debug, Clone)]
pub struct ChunkRules(Arc<Tables>);

struct Tables {
    gear: Vec<u64>,
    gear_shifted: Vec<u64>,
    mask_small: u64,
    mask_large: u64,
}

impl std::fmt::Debug for Tables {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The tables give the seed away.
        f.write_str("v1")
    }
}

impl ChunkRules {
    /// Version 1.
    pub(crate) fn v1(seed: u64) -> Self {
        let (gear, gear_shifted) = get_gear_with_seed(seed);
        // Level 2: fewer chunks are cut at the maximum, where a cut does not find itself again after an insertion.
        let (mask_small, mask_large) = select_masks(CHUNK_AVG_BYTES, Normalization::Level2);
        Self(Arc::new(Tables {
            gear: gear.into_owned(),
            gear_shifted: gear_shifted.into_owned(),
            mask_small,
            mask_large,
        }))
    }

    /// Length of the first chunk of `segment`, which is not empty and ends where the segment ends or holds at least
    /// [`CHUNK_MAX_BYTES`].
    fn cut(&self, segment: &[u8]) -> usize {
        let t = &*self.0;
        let (_, len) = cut_gear(
            segment,
            CHUNK_MIN_BYTES,
            CHUNK_AVG_BYTES,
            CHUNK_MAX_BYTES,
            t.mask_small,
            t.mask_large,
            t.mask_small << 1,
            t.mask_large << 1,
            &t.gear,
            &t.gear_shifted,
        );
        len
    }
}

/// What the chunker found next, in the order of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Bytes of one chunk.
    Chunk(&'a [u8]),
    /// Zeros that are stored nowhere.
    Hole(u64),
}

/// Cuts one file. Push its bytes in order, then [`Chunker::finish`].
#[derive(Debug)]
pub struct Chunker {
    rules: ChunkRules,
    // Bytes of the segment that are not yet cut.
    segment: Vec<u8>,
    // Zeros at the end of `segment`, which may turn out to belong to a hole; below HOLE_BYTES_MIN.
    tail_zeros: usize,
    // Zeros of the hole that we are in; then the segment is empty.
    hole: u64,
}

impl Chunker {
    /// For one file.
    pub fn new(rules: ChunkRules) -> Self {
        Self { rules, segment: Vec::new(), tail_zeros: 0, hole: 0 }
    }

    /// The next bytes of the file; `sink` takes what is certain by now. After an error of the sink the chunker is of
    /// no more use.
    pub fn push<E>(
        &mut self,
        mut bytes: &[u8],
        sink: &mut impl FnMut(Piece<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        while !bytes.is_empty() {
            let taken =
                if self.hole > 0 { self.push_in_hole(bytes, sink)? } else { self.push_data(bytes, sink)? };
            bytes = &bytes[taken..];
        }
        Ok(())
    }

    /// The next `len` bytes are zeros that need not be read. The same as pushing them.
    pub fn push_zeros<E>(
        &mut self,
        len: u64,
        sink: &mut impl FnMut(Piece<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.hole > 0 {
            self.hole = self.hole.saturating_add(len);
        } else if len.saturating_add(self.tail_zeros as u64) >= HOLE_BYTES_MIN as u64 {
            let zeros = len.saturating_add(self.tail_zeros as u64);
            self.end_segment(sink)?;
            self.hole = zeros;
        } else {
            self.segment.resize(self.segment.len() + len as usize, 0);
            self.tail_zeros += len as usize;
            self.cut_certain(sink)?;
        }
        Ok(())
    }

    /// The file ends here.
    pub fn finish<E>(mut self, sink: &mut impl FnMut(Piece<'_>) -> Result<(), E>) -> Result<(), E> {
        if self.hole > 0 {
            return sink(Piece::Hole(self.hole));
        }
        // Fewer zeros than make a hole are data.
        self.tail_zeros = 0;
        self.end_segment(sink)
    }

    fn push_in_hole<E>(
        &mut self,
        bytes: &[u8],
        sink: &mut impl FnMut(Piece<'_>) -> Result<(), E>,
    ) -> Result<usize, E> {
        let zeros = zeros::leading(bytes);
        self.hole = self.hole.saturating_add(zeros as u64);
        if zeros < bytes.len() {
            sink(Piece::Hole(std::mem::take(&mut self.hole)))?;
        }
        Ok(zeros)
    }

    fn push_data<E>(
        &mut self,
        bytes: &[u8],
        sink: &mut impl FnMut(Piece<'_>) -> Result<(), E>,
    ) -> Result<usize, E> {
        let piece = &bytes[..bytes.len().min(PIECE_BYTES_MAX)];
        // A run that began before this piece reaches the length of a hole?
        let reach = piece.len().min(HOLE_BYTES_MIN - self.tail_zeros);
        let leading = if self.tail_zeros > 0 { zeros::leading(&piece[..reach]) } else { 0 };
        if self.tail_zeros + leading == HOLE_BYTES_MIN {
            self.end_segment(sink)?;
            self.hole = HOLE_BYTES_MIN as u64;
            return Ok(leading);
        }
        // Or one inside?
        if let Some(start) = zeros::find_run(piece, HOLE_BYTES_MIN) {
            // Not joined to the tail: else that branch would have been taken.
            self.segment.extend_from_slice(&piece[..start]);
            self.tail_zeros = 0;
            self.end_segment(sink)?;
            self.hole = HOLE_BYTES_MIN as u64;
            return Ok(start + HOLE_BYTES_MIN);
        }
        let trailing = zeros::trailing(piece);
        self.tail_zeros = if trailing == piece.len() { self.tail_zeros + trailing } else { trailing };
        self.segment.extend_from_slice(piece);
        self.cut_certain(sink)?;
        Ok(piece.len())
    }

    /// Cuts what no later byte can change: a cut looks at CHUNK_MAX_BYTES that surely belong to the segment.
    fn cut_certain<E>(&mut self, sink: &mut impl FnMut(Piece<'_>) -> Result<(), E>) -> Result<(), E> {
        let certain = self.segment.len() - self.tail_zeros;
        let mut at = 0;
        while certain - at >= CHUNK_MAX_BYTES {
            let len = self.rules.cut(&self.segment[at..certain]);
            sink(Piece::Chunk(&self.segment[at..at + len]))?;
            at += len;
        }
        self.segment.drain(..at);
        Ok(())
    }

    /// The segment ends before its undecided zeros, which the caller takes over.
    fn end_segment<E>(&mut self, sink: &mut impl FnMut(Piece<'_>) -> Result<(), E>) -> Result<(), E> {
        let mut rest = &self.segment[..self.segment.len() - self.tail_zeros];
        while !rest.is_empty() {
            let (chunk, after) = rest.split_at(self.rules.cut(rest));
            sink(Piece::Chunk(chunk))?;
            rest = after;
        }
        self.segment.clear();
        self.tail_zeros = 0;
        Ok(())
    }
}

#[cfg(test)]
#[path = "cdc_tests.rs"]
mod tests;
