//! Runs of zero bytes.

const BLOCK: usize = 64;

/// Length of the zeros that `bytes` begins with.
pub(crate) fn leading(bytes: &[u8]) -> usize {
    let blocks = bytes.chunks_exact(BLOCK).take_while(|block| is_zero(block)).count() * BLOCK;
    blocks + bytes[blocks..].iter().take_while(|byte| **byte == 0).count()
}

/// Length of the zeros that `bytes` ends with.
pub(crate) fn trailing(bytes: &[u8]) -> usize {
    let blocks = bytes.rchunks_exact(BLOCK).take_while(|block| is_zero(block)).count() * BLOCK;
    blocks + bytes[..bytes.len() - blocks].iter().rev().take_while(|byte| **byte == 0).count()
}

/// Start of the first maximal run of at least `len` zeros that lies in `bytes`.
///
/// Looks at one byte in `len` where there are no zeros: a run of `len` bytes that begins in `start..=probe` covers
/// `probe`.
pub(crate) fn find_run(bytes: &[u8], len: usize) -> Option<usize> {
    let mut start = 0;
    while let Some(window) = bytes.get(start..start + len) {
        let zeros = trailing(window);
        if zeros == len {
            return Some(start);
        }
        start += len - zeros;
    }
    None
}

// An OR over the block compiles to vector instructions, where a search for the first other byte does not.
fn is_zero(block: &[u8]) -> bool {
    block.iter().fold(0, |all, byte| all | byte) == 0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn runs() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec((any::<bool>(), 0usize..200), 0..8)
            .prop_map(|parts| parts.into_iter().flat_map(|(zero, len)| vec![u8::from(!zero); len]).collect())
    }

    proptest! {
        #[test]
        fn runs_are_found_as_by_counting(bytes in runs(), len in 1usize..150) {
            prop_assert_eq!(leading(&bytes), bytes.iter().take_while(|b| **b == 0).count());
            prop_assert_eq!(trailing(&bytes), bytes.iter().rev().take_while(|b| **b == 0).count());
            let slow = (0..bytes.len()).find(|at| bytes.get(*at..*at + len).is_some_and(|run| run.iter().all(|b| *b == 0)));
            prop_assert_eq!(find_run(&bytes, len), slow);
        }
    }
}
