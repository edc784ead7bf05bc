//! Rows that were read or written lately.

use std::collections::HashMap;

use polder_types::NodeUid;

/// Most rows of one generation: some 4 MiB for the two tables at most.
const GENERATION_ROWS: usize = 4096;

/// A bounded map of two generations: what is asked for again lives on, the rest goes when the younger one is full.
///
/// One file on its way through the engine is asked for some ten times, by node, within a few batches; without this each
/// is a statement (measured: a third of the time of the engine's thread at many small files).
///
/// Invariant: what is here equals the table inside the open transaction. Every write comes through here or clears it.
#[derive(Debug)]
pub(super) struct Recent<V> {
    young: HashMap<NodeUid, V>,
    old: HashMap<NodeUid, V>,
}

impl<V> Default for Recent<V> {
    fn default() -> Self {
        Self { young: HashMap::new(), old: HashMap::new() }
    }
}

impl<V: Clone> Recent<V> {
    pub(super) fn get(&mut self, uid: NodeUid) -> Option<V> {
        if let Some(value) = self.young.get(&uid) {
            return Some(value.clone());
        }
        let value = self.old.remove(&uid)?;
        self.put(uid, value.clone());
        Some(value)
    }

    pub(super) fn put(&mut self, uid: NodeUid, value: V) {
        if self.young.len() >= GENERATION_ROWS {
            self.old = std::mem::take(&mut self.young);
        }
        self.old.remove(&uid);
        self.young.insert(uid, value);
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uid(at: usize) -> NodeUid {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&at.to_le_bytes());
        NodeUid(bytes)
    }

    #[test]
    fn asked_for_again_stays_and_the_rest_goes() {
        let mut recent = Recent::default();
        for at in 0..GENERATION_ROWS * 5 {
            recent.put(uid(at), at);
            assert_eq!(recent.get(uid(0)), Some(0));
        }
        assert_eq!(recent.get(uid(1)), None);
        assert!(recent.young.len() + recent.old.len() <= 2 * GENERATION_ROWS);
    }

    #[test]
    fn a_new_value_never_gives_way_to_the_older_one() {
        let mut recent = Recent::default();
        recent.put(uid(0), 1);
        for at in 1..=GENERATION_ROWS {
            recent.put(uid(at), 0);
        }
        recent.put(uid(0), 2);
        for at in GENERATION_ROWS + 1..GENERATION_ROWS * 2 {
            recent.put(uid(at), 0);
        }
        assert_eq!(recent.get(uid(0)), Some(2));
        recent.clear();
        assert_eq!(recent.get(uid(0)), None);
    }
}
