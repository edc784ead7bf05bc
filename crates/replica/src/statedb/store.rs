//! [`TreeStore`] on SQLite. The meaning of every method is the port's; what `polder_sync::mem` does with maps, this does
//! with rows (compared operation by operation in the tests).

use std::sync::Arc;

use polder_sync::{CloudNode, Offer, SyncedNode, TreeError, TreeStore};
use polder_types::{Attrs, AttrsHash, BatchNo, Content, Cursor, Epoch, FileIdent, NodeUid, Placed, Seq, Tag};
use rusqlite::types::ValueRef;
use rusqlite::{OptionalExtension, Row, ToSql, params};

use super::rows::{Time, column, content, corrupt, name, number, stamp, time, uid};
use super::{AttrsEntry, CACHED_MAX, StateDb, StateError};

const DIRECTORY: i64 = 0;
const OTHER: i64 = 1;
const DELETED: i64 = 2;
/// Who is synced under a key, and with an inode: asked for the first, or for all.
const SYNCED_AT: &str = "SELECT uid FROM synced INDEXED BY synced_place
    WHERE parent = ?1 AND key = ?2 AND uid <> ?3 ORDER BY uid";
const SYNCED_BY_IDENT: &str = "SELECT uid FROM synced WHERE ino = ?1 AND gen = ?2 ORDER BY uid";
/// Depth of a directory whose ancestors are not known yet: after all others.
const DEPTH_UNKNOWN: u32 = 1 << 30;
/// Longest chain that is followed for a depth.
pub(super) const DEPTH_MAX: u32 = 16_384;

type Result<T> = std::result::Result<T, StateError>;

/// Attaches what was being done.
fn doing<T>(what: &'static str, result: Result<T>) -> std::result::Result<T, TreeError> {
    result.map_err(|error| TreeError { doing: what, source: Box::new(error) })
}

impl StateDb {
    /// Runs a statement that writes, inside the transaction, which it begins if need be.
    pub(super) fn write(&mut self, sql: &str, values: &[&dyn ToSql]) -> Result<usize> {
        self.ensure_open()?;
        let result = self.begin().and_then(|()| {
            let mut statement = self.connection.prepare_cached(sql)?;
            Ok(statement.execute(values)?)
        });
        self.failed.set(result.is_err());
        result
    }

    /// Nobody else writes, so a transaction that has only read so far can always begin to write.
    fn begin(&self) -> Result<()> {
        if !self.in_transaction.get() {
            self.connection.prepare_cached("BEGIN")?.execute([])?;
            self.in_transaction.set(true);
        }
        Ok(())
    }

    fn ensure_open(&self) -> Result<()> {
        if self.failed.get() { Err(StateError::Closed) } else { Ok(()) }
    }

    pub(super) fn get<T>(
        &self,
        sql: &str,
        values: &[&dyn ToSql],
        read: impl FnOnce(&Row<'_>) -> Result<T>,
    ) -> Result<Option<T>> {
        self.ensure_open()?;
        self.begin()?;
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query(values)?;
        rows.next()?.map(read).transpose()
    }

    pub(super) fn get_all<T>(
        &self,
        sql: &str,
        values: &[&dyn ToSql],
        mut read: impl FnMut(&Row<'_>) -> Result<T>,
    ) -> Result<Vec<T>> {
        self.ensure_open()?;
        self.begin()?;
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query(values)?;
        let mut all = Vec::new();
        while let Some(row) = rows.next()? {
            all.push(read(row)?);
        }
        Ok(all)
    }

    fn synced_row(&self, uid: NodeUid) -> Result<Option<SyncedNode>> {
        self.ensure_open()?;
        if let Some(known) = self.recent_synced.borrow_mut().get(uid) {
            return Ok(known);
        }
        let row = self.read_synced(uid)?;
        self.recent_synced.borrow_mut().put(uid, row.clone());
        Ok(row)
    }

    fn read_synced(&self, uid: NodeUid) -> Result<Option<SyncedNode>> {
        let sql =
            "SELECT parent, key, name, content, attrs, attrs_here, mtime_share, ctime, mtime, size, ino, gen,
                   since FROM synced WHERE uid = ?1";
        self.get(sql, &[&uid.0], |row| {
            let parent = super::rows::uid(column(row, 0)?)?;
            let at = Placed { parent, name: name(column(row, 1)?, column(row, 2)?)? };
            let attrs_share = self.attrs_hash(column(row, 4)?)?;
            let attrs_here = match column(row, 5)? {
                ValueRef::Null => attrs_share,
                id => self.attrs_hash(id)?,
            };
            let stamp = stamp(row, 7)?;
            let mtime_share = time(column(row, 6)?)?.unwrap_or(stamp.mtime);
            let since = Seq(number(column(row, 12)?)?);
            let content = content(column(row, 3)?)?;
            Ok(SyncedNode { at, content, attrs_share, attrs_here, mtime_share, stamp, since })
        })
    }

    /// The stored difference: `None` when there is none, `Some(None)` for a deleted node.
    fn stored_cloud(&self, uid: NodeUid) -> Result<Option<Option<CloudNode>>> {
        self.ensure_open()?;
        if let Some(known) = self.recent_cloud.borrow_mut().get(uid) {
            return Ok(known);
        }
        let stored = self.read_cloud(uid)?;
        self.recent_cloud.borrow_mut().put(uid, stored.clone());
        Ok(stored)
    }

    fn read_cloud(&self, uid: NodeUid) -> Result<Option<Option<CloudNode>>> {
        let sql = "SELECT class, parent, key, name, content, attrs, mtime, since FROM cloud WHERE uid = ?1";
        self.get(sql, &[&uid.0], |row| {
            if column(row, 0)?.as_i64().ok() == Some(DELETED) {
                return Ok(None);
            }
            let parent = super::rows::uid(column(row, 1)?)?;
            Ok(Some(CloudNode {
                at: Placed { parent, name: name(column(row, 2)?, column(row, 3)?)? },
                content: content(column(row, 4)?)?,
                attrs: self.attrs_hash(column(row, 5)?)?,
                mtime: time(column(row, 6)?)?.ok_or_else(|| corrupt("a missing time"))?,
                since: Seq(number(column(row, 7)?)?),
            }))
        })
    }

    fn cloud_node(&self, uid: NodeUid) -> Result<Option<CloudNode>> {
        match self.stored_cloud(uid)? {
            Some(stored) => Ok(stored),
            None => Ok(self.synced_row(uid)?.as_ref().map(CloudNode::from)),
        }
    }

    /// Counts a row in or out.
    fn count_synced(&mut self, uid: NodeUid, row: Option<&SyncedNode>) -> Result<()> {
        if uid == NodeUid::ROOT {
            return Ok(());
        }
        let old = self.synced_row(uid)?.map(|row| row.content.size());
        let (count, bytes) = self.agreed;
        let count = count - u64::from(old.is_some()) + u64::from(row.is_some());
        let bytes = bytes.saturating_sub(old.unwrap_or(0));
        self.agreed = (count, bytes.saturating_add(row.map_or(0, |row| row.content.size())));
        Ok(())
    }

    fn write_synced(&mut self, uid: NodeUid, row: &SyncedNode) -> Result<()> {
        self.count_synced(uid, Some(row))?;
        let attrs = self.attrs_id(row.attrs_share)?;
        let here = match row.attrs_here == row.attrs_share {
            true => None,
            false => Some(self.attrs_id(row.attrs_here)?),
        };
        let (name, stamp) = (row.at.name.as_bytes(), &row.stamp);
        let key = self.case.key(name);
        let sql = "INSERT INTO synced(uid, parent, key, name, content, attrs, attrs_here, mtime_share, ctime, mtime,
                   size, ino, gen, since) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)
                   ON CONFLICT(uid) DO UPDATE SET parent = ?2, key = ?3, name = ?4, content = ?5, attrs = ?6,
                   attrs_here = ?7, mtime_share = ?8, ctime = ?9, mtime = ?10, size = ?11, ino = ?12, gen = ?13,
                   since = ?14";
        self.write(
            sql,
            &[
                &uid.0,
                &row.at.parent.0,
                &&*key,
                &(*key != *name).then_some(name),
                &row.content.encode(),
                &attrs,
                &here,
                &(row.mtime_share != stamp.mtime).then_some(Time(row.mtime_share)),
                &Time(stamp.ctime),
                &Time(stamp.mtime),
                &(stamp.size as i64),
                &(stamp.ident.ino as i64),
                &stamp.ident.generation,
                &(row.since.0 as i64),
            ],
        )?;
        self.recent_synced.borrow_mut().put(uid, Some(row.clone()));
        Ok(())
    }

    fn drop_synced(&mut self, uid: NodeUid) -> Result<()> {
        self.count_synced(uid, None)?;
        self.write("DELETE FROM synced WHERE uid = ?1", &[&uid.0])?;
        self.write("DELETE FROM heat WHERE uid = ?1", &[&uid.0])?;
        self.recent_synced.borrow_mut().put(uid, None);
        Ok(())
    }

    fn write_cloud(&mut self, uid: NodeUid, node: Option<&CloudNode>) -> Result<()> {
        let Some(node) = node else {
            let sql = "INSERT INTO cloud(uid, class, rank, size) VALUES(?1, ?2, 0, 0)";
            self.write(sql, &[&uid.0, &DELETED])?;
            self.recent_cloud.borrow_mut().put(uid, Some(None));
            self.differing.0 += 1;
            return Ok(());
        };
        let attrs = self.attrs_id(node.attrs)?;
        let (class, rank) = match node.content {
            Content::Directory => (DIRECTORY, i64::from(self.depth(uid, node)?)),
            _ => (OTHER, self.ages.rank(node.mtime)),
        };
        let name = node.at.name.as_bytes();
        let key = self.case.key(name);
        let size = node.content.size();
        let sql = "INSERT INTO cloud(uid, class, rank, size, parent, key, name, content, attrs, mtime, since)
                   VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";
        self.write(
            sql,
            &[
                &uid.0,
                &class,
                &rank,
                &(size as i64),
                &node.at.parent.0,
                &&*key,
                &(*key != *name).then_some(name),
                &node.content.encode(),
                &attrs,
                &Time(node.mtime),
                &(node.since.0 as i64),
            ],
        )?;
        self.recent_cloud.borrow_mut().put(uid, Some(Some(node.clone())));
        self.differing = (self.differing.0 + 1, self.differing.1.saturating_add(size));
        Ok(())
    }

    /// How deep a directory lies in the share, as far as its ancestors are known now. A directory that moves later takes
    /// those below it along without their ranks: the order is a help for the planner, which pulls in what it needs.
    fn depth(&self, uid: NodeUid, node: &CloudNode) -> Result<u32> {
        let mut steps = 1;
        let mut at = node.at.parent;
        let depth = loop {
            if at == NodeUid::ROOT {
                break steps;
            }
            if let Some(known) = self.depths.borrow().get(&at) {
                break known.saturating_add(steps);
            }
            match self.cloud_node(at)? {
                Some(parent) if steps < DEPTH_MAX => at = parent.at.parent,
                _ => break DEPTH_UNKNOWN,
            }
            steps += 1;
        };
        let depth = if uid == NodeUid::ROOT { 0 } else { depth.min(DEPTH_UNKNOWN) };
        let mut depths = self.depths.borrow_mut();
        if depths.len() >= CACHED_MAX {
            depths.clear();
        }
        if depth < DEPTH_UNKNOWN {
            depths.insert(uid, depth);
        }
        Ok(depth)
    }

    fn drop_cloud(&mut self, uid: NodeUid) -> Result<()> {
        let Some(stored) = self.stored_cloud(uid)? else { return Ok(()) };
        self.write("DELETE FROM cloud WHERE uid = ?1", &[&uid.0])?;
        self.recent_cloud.borrow_mut().put(uid, None);
        let size = stored.map_or(0, |node| node.content.size());
        self.differing = (self.differing.0 - 1, self.differing.1.saturating_sub(size));
        Ok(())
    }

    /// The number of attributes by hash; a row without a body until somebody brings it.
    fn attrs_id(&mut self, hash: AttrsHash) -> Result<i64> {
        if let Some(id) = self.attrs_ids.borrow().get(&hash) {
            return Ok(*id);
        }
        let find = |db: &Self| {
            db.get("SELECT id FROM attrs WHERE hash = ?1", &[&hash.0], |row| {
                column(row, 0)?.as_i64().map_err(|_| corrupt("a number"))
            })
        };
        let id = match find(self)? {
            Some(id) => id,
            None => {
                self.write("INSERT INTO attrs(hash) VALUES(?1)", &[&hash.0])?;
                self.connection.last_insert_rowid()
            }
        };
        let mut ids = self.attrs_ids.borrow_mut();
        if ids.len() >= CACHED_MAX {
            ids.clear();
        }
        ids.insert(hash, id);
        Ok(id)
    }

    fn attrs_hash(&self, id: ValueRef<'_>) -> Result<AttrsHash> {
        let id = id.as_i64().map_err(|_| corrupt("a number"))?;
        Ok(self.attrs_entry(id)?.0)
    }

    fn attrs_entry(&self, id: i64) -> Result<AttrsEntry> {
        if let Some(entry) = self.attrs_by_id.borrow().get(&id) {
            return Ok(entry.clone());
        }
        let entry = self.get("SELECT hash, body FROM attrs WHERE id = ?1", &[&id], |row| {
            let hash = column(row, 0)?.as_blob().ok().and_then(|bytes| bytes.try_into().ok()).map(AttrsHash);
            let body = match column(row, 1)? {
                ValueRef::Null => None,
                value => {
                    let bytes = value.as_blob().map_err(|_| corrupt("attributes"))?;
                    Some(Arc::new(Attrs::decode(bytes).map_err(|_| corrupt("attributes"))?))
                }
            };
            Ok((hash.ok_or_else(|| corrupt("a hash"))?, body))
        })?;
        let entry = entry.ok_or_else(|| corrupt("attributes that are named and not there"))?;
        let mut by_id = self.attrs_by_id.borrow_mut();
        if by_id.len() >= CACHED_MAX {
            by_id.clear();
        }
        by_id.insert(id, entry.clone());
        Ok(entry)
    }

    fn read_head(&self) -> Result<(Cursor, BatchNo)> {
        let head = self.get("SELECT epoch, seq, tag, next_batch FROM head", &[], |row| {
            let value = |at| number(column(row, at)?);
            let cursor = Cursor { epoch: Epoch(value(0)?), seq: Seq(value(1)?), tag: Tag(value(2)?) };
            Ok((cursor, BatchNo(value(3)?)))
        })?;
        head.ok_or_else(|| corrupt("no head"))
    }

    fn commit_now(&mut self, durable: bool) -> Result<()> {
        self.ensure_open()?;
        let mut result = Ok(());
        if self.in_transaction.replace(false) {
            result =
                self.connection.prepare_cached("COMMIT").and_then(|mut commit| commit.execute([])).map(drop);
        }
        let result =
            result.map_err(StateError::from).and_then(|()| if durable { self.sync() } else { Ok(()) });
        self.failed.set(result.is_err());
        result
    }
}

impl TreeStore for StateDb {
    fn synced(&self, uid: NodeUid) -> std::result::Result<Option<SyncedNode>, TreeError> {
        doing("read synced row", self.synced_row(uid))
    }

    fn synced_at(&self, parent: NodeUid, key: &[u8]) -> std::result::Result<Option<NodeUid>, TreeError> {
        let found = self.get(SYNCED_AT, &[&parent.0, &key, &NodeUid::ROOT.0], |row| uid(column(row, 0)?));
        doing("find synced name", found)
    }

    fn synced_all_at(&self, parent: NodeUid, key: &[u8]) -> std::result::Result<Vec<NodeUid>, TreeError> {
        let found = self.get_all(SYNCED_AT, &[&parent.0, &key, &NodeUid::ROOT.0], |row| uid(column(row, 0)?));
        doing("find synced names", found)
    }

    fn synced_children(
        &self,
        parent: NodeUid,
        after: Option<&[u8]>,
        count_max: usize,
    ) -> std::result::Result<Vec<NodeUid>, TreeError> {
        let sql =
            "SELECT uid FROM synced INDEXED BY synced_place WHERE parent = ?1 AND key > ?2 AND uid <> ?3
                   ORDER BY key, uid LIMIT ?4";
        let (after, count) = (after.unwrap_or_default(), count_max.min(i64::MAX as usize) as i64);
        let found =
            self.get_all(sql, &[&parent.0, &after, &NodeUid::ROOT.0, &count], |row| uid(column(row, 0)?));
        doing("list synced children", found)
    }

    fn synced_by_ident(&self, ident: FileIdent) -> std::result::Result<Option<NodeUid>, TreeError> {
        let values: [&dyn ToSql; 2] = [&(ident.ino as i64), &ident.generation];
        doing("find synced inode", self.get(SYNCED_BY_IDENT, &values, |row| uid(column(row, 0)?)))
    }

    fn synced_all_by_ident(&self, ident: FileIdent) -> std::result::Result<Vec<NodeUid>, TreeError> {
        let values: [&dyn ToSql; 2] = [&(ident.ino as i64), &ident.generation];
        doing("find synced inodes", self.get_all(SYNCED_BY_IDENT, &values, |row| uid(column(row, 0)?)))
    }

    fn put_synced(&mut self, uid: NodeUid, row: Option<&SyncedNode>) -> std::result::Result<(), TreeError> {
        let written = match row {
            Some(row) => self.write_synced(uid, row),
            None => self.drop_synced(uid),
        };
        self.depths.borrow_mut().remove(&uid);
        doing("write synced row", written)
    }

    fn cloud(&self, uid: NodeUid) -> std::result::Result<Option<CloudNode>, TreeError> {
        doing("read cloud row", self.cloud_node(uid))
    }

    fn cloud_at(&self, parent: NodeUid, key: &[u8]) -> std::result::Result<Option<NodeUid>, TreeError> {
        let stored = "SELECT uid FROM cloud INDEXED BY cloud_place
                      WHERE parent = ?1 AND parent IS NOT NULL AND key = ?2 ORDER BY uid LIMIT 1";
        let same =
            "SELECT uid FROM synced INDEXED BY synced_place WHERE parent = ?1 AND key = ?2 AND uid <> ?3
                    AND NOT EXISTS(SELECT 1 FROM cloud WHERE cloud.uid = synced.uid) ORDER BY uid LIMIT 1";
        let found = match self.get(stored, &[&parent.0, &key], |row| uid(column(row, 0)?)) {
            Ok(None) => self.get(same, &[&parent.0, &key, &NodeUid::ROOT.0], |row| uid(column(row, 0)?)),
            found => found,
        };
        doing("find name in the share", found)
    }

    fn cloud_children(
        &self,
        parent: NodeUid,
        after: Option<&[u8]>,
        count_max: usize,
    ) -> std::result::Result<Vec<NodeUid>, TreeError> {
        let stored = "SELECT key, uid FROM cloud INDEXED BY cloud_place
                      WHERE parent = ?1 AND parent IS NOT NULL AND key > ?2 AND uid <> ?3 ORDER BY key, uid LIMIT ?4";
        let same = "SELECT key, uid FROM synced INDEXED BY synced_place
                    WHERE parent = ?1 AND key > ?2 AND uid <> ?3
                    AND NOT EXISTS(SELECT 1 FROM cloud WHERE cloud.uid = synced.uid) ORDER BY key, uid LIMIT ?4";
        let (after, count) = (after.unwrap_or_default(), count_max.min(i64::MAX as usize) as i64);
        let children = |sql| {
            self.get_all(sql, &[&parent.0, &after, &NodeUid::ROOT.0, &count], |row| {
                let key: Box<[u8]> = column(row, 0)?.as_blob().map_err(|_| corrupt("a key"))?.into();
                Ok((key, uid(column(row, 1)?)?))
            })
        };
        let both = children(stored).and_then(|mut both| {
            both.extend(children(same)?);
            both.sort();
            both.truncate(count_max);
            Ok(both.into_iter().map(|(_, uid)| uid).collect())
        });
        doing("list children in the share", both)
    }

    fn put_cloud(&mut self, uid: NodeUid, node: Option<&CloudNode>) -> std::result::Result<(), TreeError> {
        self.depths.borrow_mut().remove(&uid);
        let written = self.synced_row(uid).and_then(|synced| {
            self.drop_cloud(uid)?;
            let same = synced.as_ref().map(CloudNode::from).as_ref() == node;
            if same { Ok(()) } else { self.write_cloud(uid, node) }
        });
        doing("write cloud row", written)
    }

    fn cloud_changed(
        &self,
        except: &dyn Fn(NodeUid) -> bool,
        count_max: usize,
    ) -> std::result::Result<Vec<NodeUid>, TreeError> {
        let changed = self.ensure_open().and_then(|()| {
            let sql = "SELECT uid FROM cloud INDEXED BY cloud_order ORDER BY class, rank, uid";
            let mut statement = self.connection.prepare_cached(sql)?;
            let mut rows = statement.query([])?;
            let mut changed = Vec::new();
            while changed.len() < count_max {
                let Some(row) = rows.next()? else { break };
                let uid = uid(column(row, 0)?)?;
                if !except(uid) {
                    changed.push(uid);
                }
            }
            Ok(changed)
        });
        doing("list what differs in the share", changed)
    }

    fn cloud_changed_count(&self) -> std::result::Result<(u64, u64), TreeError> {
        doing("count what differs in the share", self.ensure_open().map(|()| self.differing))
    }

    fn forget_cloud(&mut self) -> std::result::Result<(), TreeError> {
        let forgotten = self.write("DELETE FROM cloud", &[]).and_then(|_| {
            let sql = "INSERT INTO cloud(uid, class, rank, size) SELECT uid, ?1, 0, 0 FROM synced";
            let count = self.write(sql, &[&DELETED])?;
            self.differing = (count as u64, 0);
            self.depths.borrow_mut().clear();
            self.recent_cloud.borrow_mut().clear();
            Ok(())
        });
        doing("forget the share's tree", forgotten)
    }

    fn attrs(&self, hash: AttrsHash) -> std::result::Result<Option<Arc<Attrs>>, TreeError> {
        let known = self.attrs_ids.borrow().get(&hash).copied();
        let id = match known {
            Some(id) => Ok(Some(id)),
            None => self.get("SELECT id FROM attrs WHERE hash = ?1", &[&hash.0], |row| {
                column(row, 0)?.as_i64().map_err(|_| corrupt("a number"))
            }),
        };
        let found = id.and_then(|id| match id {
            Some(id) => Ok(self.attrs_entry(id)?.1),
            None => Ok(None),
        });
        doing("read attributes", found)
    }

    fn put_attrs(&mut self, attrs: &Attrs) -> std::result::Result<AttrsHash, TreeError> {
        let hash = attrs.hash();
        let written = self.attrs_id(hash).and_then(|id| {
            if self.attrs_entry(id)?.1.is_some() {
                return Ok(hash);
            }
            self.write("UPDATE attrs SET body = ?2 WHERE id = ?1", &[&id, &attrs.encode()])?;
            self.attrs_by_id.borrow_mut().insert(id, (hash, Some(Arc::new(attrs.clone()))));
            Ok(hash)
        });
        doing("write attributes", written)
    }

    fn cursor(&self) -> std::result::Result<Cursor, TreeError> {
        doing("read cursor", self.read_head().map(|head| head.0))
    }

    fn put_cursor(&mut self, cursor: Cursor) -> std::result::Result<(), TreeError> {
        let Cursor { epoch, seq, tag } = cursor;
        let sql = "UPDATE head SET epoch = ?1, seq = ?2, tag = ?3";
        doing(
            "write cursor",
            self.write(sql, &[&(epoch.0 as i64), &(seq.0 as i64), &(tag.0 as i64)]).map(drop),
        )
    }

    fn next_batch(&self) -> std::result::Result<BatchNo, TreeError> {
        doing("read batch number", self.read_head().map(|head| head.1))
    }

    fn put_next_batch(&mut self, next: BatchNo) -> std::result::Result<(), TreeError> {
        doing(
            "write batch number",
            self.write("UPDATE head SET next_batch = ?1", &[&(next.0 as i64)]).map(drop),
        )
    }

    fn offers(&self) -> std::result::Result<Vec<Offer>, TreeError> {
        doing("read offers", self.read_offers())
    }

    fn put_offer(&mut self, offer: &Offer) -> std::result::Result<(), TreeError> {
        doing("write offer", self.write_offer(offer))
    }

    fn drop_offer(&mut self, uid: NodeUid) -> std::result::Result<(), TreeError> {
        doing("drop offer", self.write("DELETE FROM offer WHERE uid = ?1", &[&uid.0]).map(drop))
    }

    fn superseded(&self) -> std::result::Result<Vec<(NodeUid, CloudNode)>, TreeError> {
        doing("read superseded versions", self.read_superseded())
    }

    fn put_superseded(&mut self, uid: NodeUid, version: &CloudNode) -> std::result::Result<(), TreeError> {
        doing("write superseded version", self.write_superseded(uid, version))
    }

    fn drop_superseded(&mut self, uid: NodeUid) -> std::result::Result<(), TreeError> {
        let sql = "DELETE FROM superseded WHERE uid = ?1";
        doing("drop superseded versions", self.write(sql, &[&uid.0]).map(drop))
    }

    fn note(&self, key: &str) -> std::result::Result<Option<Vec<u8>>, TreeError> {
        let value = self.ensure_open().and_then(|()| {
            let mut statement = self.connection.prepare_cached("SELECT value FROM note WHERE key = ?1")?;
            Ok(statement.query_row(params![key], |row| row.get(0)).optional()?)
        });
        doing("read note", value)
    }

    fn put_note(&mut self, key: &str, value: &[u8]) -> std::result::Result<(), TreeError> {
        let sql = "INSERT OR REPLACE INTO note(key, value) VALUES(?1, ?2)";
        doing("write note", self.write(sql, &[&key, &value]).map(drop))
    }

    fn commit(&mut self, durable: bool) -> std::result::Result<(), TreeError> {
        doing("commit the state database", self.commit_now(durable))
    }
}
