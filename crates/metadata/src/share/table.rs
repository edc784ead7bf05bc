//! An ordered table in memory that can take back what was written since it was last kept.

use std::collections::BTreeMap;
use std::ops::RangeBounds;

/// Rows by key, with what they were before the present transaction.
#[derive(Debug, Clone)]
pub(super) struct Table<K, V> {
    rows: BTreeMap<K, V>,
    undo: Vec<(K, Option<V>)>,
}

impl<K: Ord + Clone, V: Clone> Table<K, V> {
    pub fn new() -> Self {
        Self { rows: BTreeMap::new(), undo: Vec::new() }
    }

    pub fn get(&self, key: &K) -> Option<&V> {
        self.rows.get(key)
    }

    pub fn range<R: RangeBounds<K>>(&self, range: R) -> std::collections::btree_map::Range<'_, K, V> {
        self.rows.range(range)
    }

    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.rows.values()
    }

    pub fn keys(&self) -> impl DoubleEndedIterator<Item = &K> {
        self.rows.keys()
    }

    /// Writes a row and answers the one that was there.
    pub fn put(&mut self, key: K, row: V) -> Option<V> {
        let before = self.rows.insert(key.clone(), row);
        self.undo.push((key, before.clone()));
        before
    }

    /// Removes a row and answers it.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let before = self.rows.remove(key)?;
        self.undo.push((key.clone(), Some(before.clone())));
        Some(before)
    }

    /// Everything written stays.
    pub fn keep(&mut self) {
        self.undo.clear();
    }

    /// Everything written since the last [`Table::keep`] is taken back.
    pub fn take_back(&mut self) {
        while let Some((key, before)) = self.undo.pop() {
            match before {
                Some(row) => self.rows.insert(key, row),
                None => self.rows.remove(&key),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_kept_is_taken_back() {
        let mut table = Table::new();
        table.put(1, "a");
        table.put(2, "b");
        table.keep();
        table.put(1, "c");
        table.put(1, "d");
        table.remove(&2);
        table.put(3, "e");
        table.take_back();
        let rows: Vec<_> = table.range(..).map(|(key, row)| (*key, *row)).collect();
        assert_eq!(rows, [(1, "a"), (2, "b")]);
    }
}
