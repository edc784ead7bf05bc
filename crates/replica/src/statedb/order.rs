//! The order in which a new server gets its files: newest first, as finely as it helps, neighbours together.

use std::time::{SystemTime, UNIX_EPOCH};

use polder_types::Timestamp;
use rusqlite::{Connection, OptionalExtension};

use super::StateError;

/// Key of the note that holds the reference: eight bytes, big-endian.
const NOTE: &str = "order.reference";
const HOUR_SECS: i64 = 3600;

/// Ranks files by classes of age that double: the last hour, the two before, the four before those, and so on.
///
/// Within a class files come in the order of their ids, which is the order in which they were uploaded and so that of
/// their packs. Strictly by time, a batch of small files was scattered over all packs of a share: one request a file
/// (measured, `docs/benchmarks.md`); by classes some hundred files come with one.
///
/// The reference is the clock at the making of the database. It is noted in it, so that ranks of all times compare. A
/// wrong clock makes the classes finer or coarser, nothing else (promise I15).
#[derive(Debug, Clone, Copy)]
pub(super) struct Ages {
    reference_secs: i64,
}

impl Ages {
    /// Notes the clock in a new database.
    pub(super) fn begin(connection: &Connection) -> Result<(), StateError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
        connection.execute("INSERT INTO note(key, value) VALUES(?1, ?2)", (NOTE, now.to_be_bytes()))?;
        Ok(())
    }

    /// The reference of a database; one without has the year 1970, so that all its classes are single hours.
    pub(super) fn of(connection: &Connection) -> Result<Self, StateError> {
        let sql = "SELECT value FROM note WHERE key = ?1";
        let noted: Option<Vec<u8>> = connection.query_row(sql, [NOTE], |row| row.get(0)).optional()?;
        let noted = noted.and_then(|bytes| bytes.try_into().ok()).map(i64::from_be_bytes);
        Ok(Self { reference_secs: noted.unwrap_or(0) })
    }

    /// The rank of a file: the lower the sooner.
    pub(super) fn rank(self, mtime: Timestamp) -> i64 {
        let hours = self.reference_secs.saturating_sub(mtime.secs).div_euclid(HOUR_SECS);
        if hours < 0 { hours } else { i64::from(i64::BITS - (hours + 1).leading_zeros()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newer_classes_come_first_and_double_in_width() {
        let ages = Ages { reference_secs: 1_000_000_000 };
        let rank = |hours_before: i64| ages.rank(Timestamp::new(1_000_000_000 - hours_before * HOUR_SECS, 0));
        assert_eq!([rank(-2), rank(-1), rank(0), rank(1), rank(2), rank(3)], [-2, -1, 1, 2, 2, 3]);
        assert_eq!((rank(24 * 365), rank(24 * 365 * 10)), (14, 17));
        let ranks: Vec<i64> = (-1000..100_000).map(rank).collect();
        assert!(ranks.is_sorted());
    }

    #[test]
    fn any_time_has_a_rank() {
        for reference_secs in [i64::MIN, 0, i64::MAX] {
            for secs in [i64::MIN, -1, 0, i64::MAX] {
                Ages { reference_secs }.rank(Timestamp::new(secs, 999_999_999));
            }
        }
    }
}
