//! What is open: versions that were offered and not answered, and those of the share that may have been applied without a row.

use polder_sync::{CloudNode, Offer, SyncedNode};
use polder_types::{BatchNo, NodeUid, Stamp};
use rusqlite::types::{ToSql, ValueRef};

use super::rows::{column, corrupt, decode_synced, encode_synced, number, uid};
use super::{StateDb, StateError};

/// Schema 3.
pub(super) const SCHEMA_3: &str = "
CREATE TABLE IF NOT EXISTS superseded(uid BLOB NOT NULL, since INTEGER NOT NULL, version BLOB NOT NULL,
    PRIMARY KEY(uid, since)) WITHOUT ROWID;
";

type Result<T> = std::result::Result<T, StateError>;

impl StateDb {
    pub(super) fn read_offers(&self) -> Result<Vec<Offer>> {
        let sql = "SELECT uid, batch, grp, op, becomes FROM offer ORDER BY uid";
        self.get_all(sql, &[], |row| {
            let small = |at| u32::try_from(number(column(row, at)?)?).map_err(|_| corrupt("an offer"));
            let becomes = match column(row, 4)? {
                ValueRef::Null => None,
                value => Some(row_of(value, "an offer")?),
            };
            let batch = BatchNo(number(column(row, 1)?)?);
            Ok(Offer { uid: uid(column(row, 0)?)?, batch, group: small(2)?, op: small(3)?, becomes })
        })
    }

    pub(super) fn write_offer(&mut self, offer: &Offer) -> Result<()> {
        let sql = "INSERT OR REPLACE INTO offer(uid, batch, grp, op, becomes) VALUES(?1, ?2, ?3, ?4, ?5)";
        let becomes = offer.becomes.as_ref().map(encode_synced);
        let values: [&dyn ToSql; 5] =
            [&offer.uid.0, &(offer.batch.0 as i64), &offer.group, &offer.op, &becomes];
        self.write(sql, &values).map(drop)
    }

    pub(super) fn read_superseded(&self) -> Result<Vec<(NodeUid, CloudNode)>> {
        self.get_all("SELECT uid, version FROM superseded ORDER BY uid, since", &[], |row| {
            let version = row_of(column(row, 1)?, "a version")?;
            Ok((uid(column(row, 0)?)?, CloudNode::from(&version)))
        })
    }

    /// A version is kept as the row that its apply would have written, without what only the disk knows.
    pub(super) fn write_superseded(&mut self, uid: NodeUid, version: &CloudNode) -> Result<()> {
        let row = SyncedNode::applied(version, Stamp::default());
        let sql = "INSERT OR REPLACE INTO superseded(uid, since, version) VALUES(?1, ?2, ?3)";
        self.write(sql, &[&uid.0, &(version.since.0 as i64), &encode_synced(&row)]).map(drop)
    }
}

fn row_of(value: ValueRef<'_>, what: &str) -> Result<SyncedNode> {
    let bytes = value.as_blob().map_err(|_| corrupt(what))?;
    decode_synced(bytes).map_err(|error| corrupt(format!("{what}: {error}")))
}
