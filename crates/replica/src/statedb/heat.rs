//! How warm files are, and which a person keeps here. Neither is part of the three trees.
//!
//! A heat table that is lost costs the order of tiering and nothing else; so its writes are never made durable by themselves.
//! Pins are by node: they follow renames.

use polder_types::NodeUid;
use rusqlite::params;
use rusqlite::types::ToSql;

use super::rows::{column, corrupt, time, uid};
use super::{StateDb, StateError, StateReader};

/// Schema 2. A row takes under 64 bytes. Tables that are missing are made again: they cost order, not truth.
pub(super) const SCHEMA_2: &str = "
CREATE TABLE IF NOT EXISTS heat(uid BLOB PRIMARY KEY, warm INTEGER NOT NULL, used INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS pin(uid BLOB PRIMARY KEY) WITHOUT ROWID;
";

/// Most pins of an endpoint: they are matched against every path.
pub const PINS_MAX: usize = 4096;

type Result<T> = std::result::Result<T, StateError>;

/// How warm a file is, as `polder_tiering::Heat` says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeatRow {
    /// A file that was used once, at this second since 1970, is as warm.
    pub warm: i64,
    /// Second of the last use.
    pub used: u32,
}

/// What is known of a file's heat before a use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeatBefore {
    /// It was noted.
    Noted(HeatRow),
    /// It was never: only when the file was last modified, in seconds since 1970.
    Modified(i64),
}

fn heat_in(row: &rusqlite::Row<'_>, at: usize) -> Result<HeatRow> {
    let number = |at| column(row, at)?.as_i64().map_err(|_| corrupt("a heat"));
    let used = u32::try_from(number(at + 1)?).map_err(|_| corrupt("a heat"))?;
    Ok(HeatRow { warm: number(at)?, used })
}

impl StateDb {
    /// Notes uses that count, each at a second since 1970; `after` is what a use makes of what was known. Nodes that were
    /// never agreed on are passed over.
    pub fn note_uses(
        &mut self,
        uses: &[(NodeUid, u32)],
        after: impl Fn(HeatBefore, u32) -> HeatRow,
    ) -> Result<()> {
        for (node, used_s) in uses {
            let Some(before) = self.heat_before(*node)? else { continue };
            let HeatRow { warm, used } = after(before, *used_s);
            let values: [&dyn ToSql; 3] = [&node.0, &warm, &used];
            self.write("INSERT OR REPLACE INTO heat(uid, warm, used) VALUES(?1, ?2, ?3)", &values)?;
        }
        Ok(())
    }

    fn heat_before(&self, node: NodeUid) -> Result<Option<HeatBefore>> {
        let sql = "SELECT warm, used FROM heat WHERE uid = ?1";
        if let Some(heat) = self.get(sql, &[&node.0], |row| heat_in(row, 0))? {
            return Ok(Some(HeatBefore::Noted(heat)));
        }
        self.get("SELECT mtime FROM synced WHERE uid = ?1", &[&node.0], |row| {
            let mtime = time(column(row, 0)?)?.ok_or_else(|| corrupt("a missing time"))?;
            Ok(HeatBefore::Modified(mtime.secs))
        })
    }

    /// Keeps a node, with all below it, on this server; or no longer. `false`: nothing was changed, because it was so already or
    /// there are [`PINS_MAX`] already.
    pub fn set_pin(&mut self, node: NodeUid, pinned: bool) -> Result<bool> {
        if !pinned {
            return Ok(self.write("DELETE FROM pin WHERE uid = ?1", &[&node.0])? > 0);
        }
        let sql = "INSERT OR IGNORE INTO pin(uid) SELECT ?1 WHERE (SELECT count(*) FROM pin) < ?2";
        Ok(self.write(sql, &[&node.0, &(PINS_MAX as i64)])? > 0)
    }
}

impl StateDb {
    /// How many pins there are.
    pub fn pin_count(&self) -> Result<usize> {
        let count = self.get("SELECT count(*) FROM pin", &[], |row| Ok(row.get::<_, i64>(0)?))?;
        Ok(count.and_then(|count| usize::try_from(count).ok()).unwrap_or(0))
    }

    /// Whether exactly this node is pinned.
    pub fn is_pinned(&self, node: NodeUid) -> Result<bool> {
        Ok(self.get("SELECT 1 FROM pin WHERE uid = ?1", &[&node.0], |_| Ok(()))?.is_some())
    }
}

impl StateReader {
    /// How warm a node is, if that was ever noted.
    pub fn heat(&self, node: NodeUid) -> Result<Option<HeatRow>> {
        let mut statement = self.connection.prepare_cached("SELECT warm, used FROM heat WHERE uid = ?1")?;
        let mut rows = statement.query(params![node.0])?;
        rows.next()?.map(|row| heat_in(row, 0)).transpose()
    }

    /// What was noted of nodes with ids after `after` and up to `last`, in the order of ids.
    pub fn heat_between(&self, after: Option<NodeUid>, last: NodeUid) -> Result<Vec<(NodeUid, HeatRow)>> {
        // Without an `after`, every id is larger than nothing.
        let after = after.as_ref().map_or(&[][..], |node| &node.0[..]);
        let sql = "SELECT uid, warm, used FROM heat WHERE uid > ?1 AND uid <= ?2 ORDER BY uid";
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query(params![after, last.0])?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            found.push((uid(column(row, 0)?)?, heat_in(row, 1)?));
        }
        Ok(found)
    }

    /// Every pinned node.
    pub fn pins(&self) -> Result<Vec<NodeUid>> {
        let mut statement = self.connection.prepare_cached("SELECT uid FROM pin ORDER BY uid")?;
        let mut rows = statement.query([])?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            found.push(uid(column(row, 0)?)?);
        }
        Ok(found)
    }
}
