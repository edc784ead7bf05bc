//! What is referenced, in little memory.

use std::collections::BTreeSet;

use polder_types::ChunkId;

/// Says which chunks are referenced by anything that must stay readable. May say so of a chunk that is not, never the other
/// way round.
pub trait Marks {
    /// Whether the chunk whose id begins with these bytes may be referenced.
    fn contains(&self, key: &[u8; 16]) -> bool;
}

impl Marks for BTreeSet<[u8; 16]> {
    fn contains(&self, key: &[u8; 16]) -> bool {
        BTreeSet::contains(self, key)
    }
}

/// More marks than memory was granted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("more than {marks_max} chunks are referenced, for which no memory was granted")]
pub struct TooManyMarks {
    /// The bound.
    pub marks_max: usize,
}

/// Gathers marks, in any order and as often as they come.
#[derive(Debug)]
pub struct MarkSetBuilder {
    prints: Vec<u64>,
    // How many at the beginning are sorted and distinct.
    sorted: usize,
    marks_max: usize,
}

/// Marks as sorted 64-bit prints of chunk ids: 8 bytes a chunk (8 MB for a million, 800 MB for 12 TB of data).
///
/// Ids are hashes, so a chunk that is not referenced passes for one that is with a chance of n / 2^64. A filter of few
/// bits will not do here: a pack of 8,000 small chunks is condemned only if *all* of them are unmarked, and with one
/// error in a thousand none ever would be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MarkSet(Vec<u64>);

fn print(key: &[u8; 16]) -> u64 {
    u64::from_be_bytes(key[..8].try_into().expect("eight bytes"))
}

impl MarkSetBuilder {
    /// For at most `marks_max` distinct chunks; takes at most twice 8 bytes for each while it gathers.
    pub fn new(marks_max: usize) -> Self {
        Self { prints: Vec::new(), sorted: 0, marks_max }
    }

    /// The chunk is referenced.
    pub fn mark(&mut self, id: ChunkId) -> Result<(), TooManyMarks> {
        // Chunks that are referenced often (versions of one file) would fill memory: squeeze when the unsorted part is as
        // long as the sorted one, so that each mark is sorted a bounded number of times.
        if self.prints.len() >= (2 * self.sorted).max(4096) {
            self.squeeze();
        }
        if self.sorted > self.marks_max {
            return Err(TooManyMarks { marks_max: self.marks_max });
        }
        self.prints.push(print(&id.key16()));
        Ok(())
    }

    /// The marks.
    pub fn finish(mut self) -> Result<MarkSet, TooManyMarks> {
        self.squeeze();
        if self.sorted > self.marks_max {
            return Err(TooManyMarks { marks_max: self.marks_max });
        }
        self.prints.shrink_to_fit();
        Ok(MarkSet(self.prints))
    }

    fn squeeze(&mut self) {
        // A stable sort recognises the sorted run at the beginning and merges.
        self.prints.sort();
        self.prints.dedup();
        self.sorted = self.prints.len();
    }
}

impl MarkSet {
    /// How many distinct chunks are marked.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is marked: then everything would be condemned, which a caller may want to doubt.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Marks for MarkSet {
    fn contains(&self, key: &[u8; 16]) -> bool {
        self.0.binary_search(&print(key)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(number: u16) -> ChunkId {
        ChunkId(*blake3::hash(&number.to_le_bytes()).as_bytes())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn all_that_is_marked_is_contained(marks in prop::collection::vec(0u16..6000, 0..20_000)) {
            let mut builder = MarkSetBuilder::new(6000);
            marks.iter().for_each(|mark| builder.mark(id(*mark)).expect("few enough"));
            let distinct: BTreeSet<u16> = marks.into_iter().collect();
            let set = builder.finish().expect("few enough");
            prop_assert_eq!(set.len(), distinct.len());
            for number in 0..6000 {
                prop_assert_eq!(set.contains(&id(number).key16()), distinct.contains(&number));
            }
        }
    }

    #[test]
    fn memory_is_bounded() {
        let mut builder = MarkSetBuilder::new(10_000);
        for mark in (0..u16::MAX).cycle().take(500_000).map(|mark| mark % 10_000) {
            // Hashing each is not the point.
            builder.mark(ChunkId([(mark >> 8) as u8 ^ mark as u8; 32])).expect("256 distinct ones");
            assert!(builder.prints.len() <= 4096);
        }
        let refused = (0..u16::MAX).find_map(|mark| builder.mark(id(mark)).err());
        assert_eq!(refused, Some(TooManyMarks { marks_max: 10_000 }));
        assert!(builder.prints.len() <= 40_000);
    }
}
