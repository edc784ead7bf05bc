//! Values of the port in columns, and back. Whatever a column holds that we could not have written is damage.

use polder_sync::SyncedNode;
use polder_types::{
    AttrsHash, Content, DecodeError, FileIdent, Kind, Name, NodeUid, Placed, Reader, Seq, Stamp, Timestamp,
    Writer,
};
use rusqlite::Row;
use rusqlite::types::{ToSql, ToSqlOutput, Value, ValueRef};

use super::StateError;

/// Longest encoded content: a symlink's target, or four extents.
const CONTENT_BYTES_MAX: usize = 8192;
const OFFER_FORMAT: u8 = 1;

pub(super) fn corrupt(what: impl Into<String>) -> StateError {
    StateError::Corrupt { what: what.into() }
}

/// A time as one integer of nanoseconds where it fits (years 1677 to 2262), else as twelve bytes.
pub(super) struct Time(pub Timestamp);

impl ToSql for Time {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        let Timestamp { secs, nanos } = self.0;
        let whole = secs.checked_mul(1_000_000_000).and_then(|whole| whole.checked_add(nanos.into()));
        Ok(ToSqlOutput::Owned(match whole {
            Some(nanos) => Value::Integer(nanos),
            None => Value::Blob([&secs.to_be_bytes()[..], &nanos.to_be_bytes()].concat()),
        }))
    }
}

/// `None` for NULL.
pub(super) fn time(value: ValueRef<'_>) -> Result<Option<Timestamp>, StateError> {
    match value {
        ValueRef::Null => Ok(None),
        ValueRef::Integer(nanos) => Ok(Some(Timestamp {
            secs: nanos.div_euclid(1_000_000_000),
            nanos: nanos.rem_euclid(1_000_000_000) as u32,
        })),
        ValueRef::Blob(bytes) => {
            let (secs, nanos) = bytes.split_first_chunk::<8>().ok_or_else(|| corrupt("a time"))?;
            let nanos = nanos.try_into().map(u32::from_be_bytes).map_err(|_| corrupt("a time"))?;
            Ok(Some(Timestamp { secs: i64::from_be_bytes(*secs), nanos }))
        }
        _ => Err(corrupt("a time")),
    }
}

pub(super) fn uid(value: ValueRef<'_>) -> Result<NodeUid, StateError> {
    value.as_blob().ok().and_then(NodeUid::from_slice).ok_or_else(|| corrupt("a node id"))
}

pub(super) fn number(value: ValueRef<'_>) -> Result<u64, StateError> {
    // Stored bit by bit: inode numbers use all 64 of them.
    value.as_i64().map(|number| number as u64).map_err(|_| corrupt("a number"))
}

pub(super) fn content(value: ValueRef<'_>) -> Result<Content, StateError> {
    let bytes = value.as_blob().map_err(|_| corrupt("a content"))?;
    Content::decode(bytes).map_err(|error| corrupt(format!("a content {error}")))
}

/// The kind alone, without decoding: the second byte of [`Content::encode`].
pub(super) fn kind(value: ValueRef<'_>) -> Result<Kind, StateError> {
    match value.as_blob().ok().and_then(|bytes| bytes.get(1)) {
        Some(0) => Ok(Kind::Directory),
        Some(1) => Ok(Kind::Symlink),
        Some(2 | 3) => Ok(Kind::File),
        _ => Err(corrupt("a kind")),
    }
}

pub(super) fn name(key: ValueRef<'_>, name: ValueRef<'_>) -> Result<Name, StateError> {
    let bytes = if name == ValueRef::Null { key } else { name };
    bytes.as_blob().ok().and_then(|bytes| Name::parse(bytes).ok()).ok_or_else(|| corrupt("a name"))
}

pub(super) fn column<'a>(row: &'a Row<'_>, at: usize) -> Result<ValueRef<'a>, StateError> {
    Ok(row.get_ref(at)?)
}

/// The stamp in columns `ctime, mtime, size, ino, gen`, of which the first is number `at`.
pub(super) fn stamp(row: &Row<'_>, at: usize) -> Result<Stamp, StateError> {
    let time_at = |at| time(column(row, at)?)?.ok_or_else(|| corrupt("a missing time"));
    let generation = u32::try_from(number(column(row, at + 4)?)?).map_err(|_| corrupt("a generation"))?;
    Ok(Stamp {
        ctime: time_at(at)?,
        mtime: time_at(at + 1)?,
        size: number(column(row, at + 2)?)?,
        ident: FileIdent { ino: number(column(row, at + 3)?)?, generation },
    })
}

/// The bytes of an offer's row, whose attributes are named by hash.
pub(super) fn encode_synced(row: &SyncedNode) -> Vec<u8> {
    let mut out = Writer::new();
    out.byte(OFFER_FORMAT).raw(&row.at.parent.0).bytes(row.at.name.as_bytes()).bytes(&row.content.encode());
    out.raw(&row.attrs_share.0).raw(&row.attrs_here.0);
    for time in [row.mtime_share, row.stamp.ctime, row.stamp.mtime] {
        out.raw(&time.secs.to_be_bytes()).raw(&time.nanos.to_be_bytes());
    }
    let FileIdent { ino, generation } = row.stamp.ident;
    out.number(row.stamp.size).number(ino).number(generation.into()).number(row.since.0);
    out.finish()
}

pub(super) fn decode_synced(bytes: &[u8]) -> Result<SyncedNode, DecodeError> {
    let mut from = Reader::new(bytes);
    match from.byte()? {
        OFFER_FORMAT => (),
        other => return Err(DecodeError::Version(other)),
    }
    let parent = NodeUid::from_slice(from.raw(NodeUid::LEN)?).ok_or(DecodeError::Short)?;
    let name =
        Name::parse(from.bytes(polder_types::NAME_BYTES_MAX)?).map_err(|_| DecodeError::Bad("name"))?;
    let content = Content::decode(from.bytes(CONTENT_BYTES_MAX)?)?;
    let mut hash = || from.raw(16).map(|bytes| AttrsHash(bytes.try_into().expect("16 bytes were taken")));
    let (attrs_share, attrs_here) = (hash()?, hash()?);
    let mut time = || {
        let (secs, nanos) = from.raw(12)?.split_at(8);
        let secs = i64::from_be_bytes(secs.try_into().expect("eight of twelve bytes"));
        Ok(Timestamp { secs, nanos: u32::from_be_bytes(nanos.try_into().expect("the other four")) })
    };
    let (mtime_share, ctime, mtime) = (time()?, time()?, time()?);
    let (size, ino) = (from.number()?, from.number()?);
    let generation = u32::try_from(from.number()?).map_err(|_| DecodeError::Bad("generation"))?;
    let since = Seq(from.number()?);
    from.end()?;
    let stamp = Stamp { ident: FileIdent { ino, generation }, ctime, mtime, size };
    Ok(SyncedNode {
        at: Placed { parent, name },
        content,
        attrs_share,
        attrs_here,
        mtime_share,
        stamp,
        since,
    })
}
