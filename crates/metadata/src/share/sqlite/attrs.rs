//! Attributes piece by piece: mode and owners are one piece, each extended attribute is one; a row names its pieces.

use std::collections::HashMap;
use std::sync::Arc;

use polder_ledger::RowsError;
use polder_types::{Attrs, Reader, Writer, XATTR_COUNT_MAX, XATTR_NAME_LEN_MAX, XATTR_TOTAL_BYTES_MAX};
use rusqlite::params;

use super::columns::{Bad, damaged, get_blob, get_int, int};
use super::volatile::cut;
use super::{Result, SqliteRows};

/// Sets of pieces that a connection remembers. Past this many it forgets all: a share has few or very many.
const REMEMBERED_MAX: usize = 4096;

const FORM_BASE: u8 = 0;
const FORM_WHOLE: u8 = 1;
const FORM_CUT: u8 = 2;

/// What a connection remembers of pieces. Pieces are never changed or removed while a transaction stands, so only taking one
/// back makes this stale.
#[derive(Default)]
pub(super) struct AttrCache {
    /// Attributes without volatile bytes, by the list of their pieces.
    whole: HashMap<Box<[u8]>, Arc<Attrs>>,
    /// Pieces by hash.
    ids: HashMap<[u8; 16], u64>,
    /// What was written last.
    last: Option<(Arc<Attrs>, AttrColumns)>,
}

/// The two columns of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AttrColumns {
    /// Numbers of the pieces, ascending.
    pub pieces: Vec<u8>,
    /// What was cut out of them, in the same order.
    pub volatile: Option<Vec<u8>>,
}

/// A piece and what was cut out of it.
fn xattr_piece(name: &[u8], value: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let mut out = Writer::new();
    match cut(name, value) {
        None => {
            out.byte(FORM_WHOLE).bytes(name).raw(value);
            (out.finish(), Vec::new())
        }
        Some(range) => {
            out.byte(FORM_CUT).bytes(name).number(range.start as u64).number(range.len() as u64);
            out.raw(&value[..range.start]).raw(&value[range.end..]);
            (out.finish(), value[range].to_vec())
        }
    }
}

fn base_piece(attrs: &Attrs) -> Vec<u8> {
    let base = Attrs {
        xattrs: Default::default(),
        owner: attrs.owner.clone(),
        group: attrs.group.clone(),
        ..*attrs
    };
    let mut out = Writer::new();
    out.byte(FORM_BASE).raw(&base.encode());
    out.finish()
}

impl SqliteRows {
    /// The columns of attributes; writes the pieces that are new.
    pub(super) fn attr_columns(&self, attrs: &Arc<Attrs>) -> Result<AttrColumns> {
        if let Some((last, columns)) = &self.attrs.borrow().last
            && (Arc::ptr_eq(last, attrs) || last == attrs)
        {
            return Ok(columns.clone());
        }
        let mut pieces = vec![(self.piece_id(&base_piece(attrs))?, Vec::new())];
        for (name, value) in &attrs.xattrs {
            let (piece, cut_out) = xattr_piece(name, value);
            pieces.push((self.piece_id(&piece)?, cut_out));
        }
        pieces.sort_unstable();
        let mut ids = Writer::new();
        pieces.iter().for_each(|(id, _)| {
            ids.number(*id);
        });
        let volatile: Vec<u8> = pieces.into_iter().flat_map(|(_, cut_out)| cut_out).collect();
        let columns =
            AttrColumns { pieces: ids.finish(), volatile: (!volatile.is_empty()).then_some(volatile) };
        self.attrs.borrow_mut().last = Some((attrs.clone(), columns.clone()));
        Ok(columns)
    }

    fn piece_id(&self, piece: &[u8]) -> Result<u64> {
        let mut hash = [0; 16];
        hash.copy_from_slice(&blake3::hash(piece).as_bytes()[..16]);
        if let Some(id) = self.attrs.borrow().ids.get(&hash) {
            return Ok(*id);
        }
        let doing = "find an attribute";
        let found =
            self.first(doing, "SELECT id FROM attr WHERE hash = ?1", [&hash[..]], |row| get_int(row, 0))?;
        let id = match found {
            Some(id) => id,
            None => {
                let sql = "INSERT INTO attr (hash, piece) VALUES (?1, ?2) RETURNING id";
                let made =
                    self.first("write an attribute", sql, params![&hash[..], piece], |row| get_int(row, 0))?;
                made.ok_or_else(|| RowsError::corrupt("a new attribute has no number"))?
            }
        };
        let mut cache = self.attrs.borrow_mut();
        if cache.ids.len() == REMEMBERED_MAX {
            cache.ids.clear();
        }
        cache.ids.insert(hash, id);
        Ok(id)
    }

    /// The attributes that two columns name.
    pub(super) fn attrs(
        &self,
        pieces: &[u8],
        volatile: Option<&[u8]>,
    ) -> std::result::Result<Arc<Attrs>, Bad> {
        if volatile.is_none()
            && let Some(attrs) = self.attrs.borrow().whole.get(pieces)
        {
            return Ok(attrs.clone());
        }
        let attrs = Arc::new(self.assemble(pieces, volatile.unwrap_or_default())?);
        if volatile.is_none() {
            let mut cache = self.attrs.borrow_mut();
            if cache.whole.len() == REMEMBERED_MAX {
                cache.whole.clear();
            }
            cache.whole.insert(pieces.into(), attrs.clone());
        }
        Ok(attrs)
    }

    fn assemble(&self, pieces: &[u8], volatile: &[u8]) -> std::result::Result<Attrs, Bad> {
        let mut ids = Reader::new(pieces);
        let mut volatile = Reader::new(volatile);
        let mut base = None;
        let mut xattrs = std::collections::BTreeMap::new();
        let mut bytes = 0;
        while ids.left() > 0 {
            let piece = self.piece(ids.number()?)?;
            let mut from = Reader::new(&piece);
            let form = from.byte()?;
            if form == FORM_BASE {
                let rest = from.raw(from.left())?;
                if base.replace(Attrs::decode(rest)?).is_some() {
                    return Err(damaged("attributes with two modes"));
                }
                continue;
            }
            let name: Box<[u8]> = from.bytes(XATTR_NAME_LEN_MAX)?.into();
            let value = value(form, from, &mut volatile)?;
            bytes += name.len() + value.len();
            let fits = xattrs.len() < XATTR_COUNT_MAX && bytes <= XATTR_TOTAL_BYTES_MAX;
            if !fits || xattrs.insert(name, value).is_some() {
                return Err(damaged("attributes that are too many, or one twice"));
            }
        }
        volatile.end()?;
        let base = base.ok_or_else(|| damaged("attributes without a mode"))?;
        Ok(Attrs { xattrs, ..base })
    }

    fn piece(&self, id: u64) -> Result<Vec<u8>> {
        let sql = "SELECT piece FROM attr WHERE id = ?1";
        let found = self.first("read an attribute", sql, [int(id)], |row| Ok(get_blob(row, 0)?.to_vec()))?;
        found.ok_or_else(|| RowsError::corrupt(format!("attribute {id} is missing")))
    }
}

/// The value of an extended attribute, with what was cut out of it put back.
fn value(form: u8, mut from: Reader<'_>, volatile: &mut Reader<'_>) -> std::result::Result<Box<[u8]>, Bad> {
    if form == FORM_WHOLE {
        return Ok(from.raw(from.left())?.into());
    }
    if form != FORM_CUT {
        return Err(damaged("an attribute of an unknown form"));
    }
    let at = from.number()?;
    let len = from.number()?;
    let rest = from.raw(from.left())?;
    let (at, len) = (at.min(usize::MAX as u64) as usize, len.min(usize::MAX as u64) as usize);
    let (before, after) = rest.split_at_checked(at).ok_or_else(|| damaged("a cut beyond its attribute"))?;
    Ok([before, volatile.raw(len)?, after].concat().into())
}
