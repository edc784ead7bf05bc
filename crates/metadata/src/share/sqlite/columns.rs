//! Between columns and values. What cannot have been written by us is an error, never a default.

use polder_ledger::{RowsError, Slot, What};
use polder_types::{CaseRule, DecodeError, Name, Nid, Seq, Timestamp};
use rusqlite::Row;
use rusqlite::types::{Null, ToSqlOutput, Value, ValueRef};

/// Why a row was not read.
pub(super) enum Bad {
    Sql(rusqlite::Error),
    Rows(RowsError),
    Damaged(String),
}

impl Bad {
    /// What that means to the core.
    pub fn during(self, doing: &'static str) -> RowsError {
        match self {
            Self::Sql(
                error @ (rusqlite::Error::FromSqlConversionFailure(..)
                | rusqlite::Error::InvalidColumnType(..)
                | rusqlite::Error::IntegralValueOutOfRange(..)),
            ) => RowsError::corrupt(format!("{doing}: {error}")),
            Self::Sql(error) => super::failed(doing, error),
            Self::Rows(error) => error,
            Self::Damaged(what) => RowsError::corrupt(format!("{doing}: {what}")),
        }
    }
}

impl From<rusqlite::Error> for Bad {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<RowsError> for Bad {
    fn from(error: RowsError) -> Self {
        Self::Rows(error)
    }
}

impl From<DecodeError> for Bad {
    fn from(error: DecodeError) -> Self {
        Self::Damaged(format!("a value {error}"))
    }
}

pub(super) fn damaged(what: &str) -> Bad {
    Bad::Damaged(what.into())
}

type Got<T> = Result<T, Bad>;

/// A number of 63 bits. Bounds of ranges may be larger and are cut.
pub(super) fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// A number of 64 bits that is never compared by order.
pub(super) fn bits(value: u64) -> i64 {
    value.cast_signed()
}

/// How many rows to read at most.
pub(super) fn limit(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

pub(super) fn get_int(row: &Row<'_>, column: usize) -> Got<u64> {
    let value: i64 = row.get(column)?;
    u64::try_from(value).map_err(|_| damaged("a number is negative"))
}

pub(super) fn get_u32(row: &Row<'_>, column: usize) -> Got<u32> {
    u32::try_from(get_int(row, column)?).map_err(|_| damaged("a number is too large"))
}

pub(super) fn get_bits(row: &Row<'_>, column: usize) -> Got<u64> {
    Ok(row.get::<_, i64>(column)?.cast_unsigned())
}

pub(super) fn get_seq(row: &Row<'_>, column: usize) -> Got<Seq> {
    get_int(row, column).map(Seq)
}

pub(super) fn get_nid(row: &Row<'_>, column: usize) -> Got<Nid> {
    get_int(row, column).map(Nid)
}

pub(super) fn get_blob<'a>(row: &'a Row<'_>, column: usize) -> Got<&'a [u8]> {
    match row.get_ref(column)? {
        ValueRef::Blob(bytes) => Ok(bytes),
        _ => Err(damaged("a column holds no bytes")),
    }
}

pub(super) fn get_id<const N: usize>(row: &Row<'_>, column: usize) -> Got<[u8; N]> {
    get_blob(row, column)?.try_into().map_err(|_| damaged("an id has a wrong length"))
}

pub(super) fn get_text(row: &Row<'_>, column: usize) -> Got<Box<str>> {
    match row.get_ref(column)? {
        ValueRef::Text(bytes) => {
            std::str::from_utf8(bytes).map(Into::into).map_err(|_| damaged("a text is not UTF-8"))
        }
        _ => Err(damaged("a column holds no text")),
    }
}

pub(super) fn name(bytes: &[u8]) -> Got<Name> {
    Name::parse(bytes).map_err(|error| Bad::Damaged(error.to_string()))
}

/// A name that is kept only where it differs from its key.
pub(super) fn name_or_key(row: &Row<'_>, column: usize, key: &[u8]) -> Got<Name> {
    match row.get_ref(column)? {
        ValueRef::Null => name(key),
        ValueRef::Blob(bytes) => name(bytes),
        _ => Err(damaged("a name is not bytes")),
    }
}

/// The column for a name beside its key.
pub(super) fn name_column<'a>(name: &'a Name, key: &[u8]) -> Option<&'a [u8]> {
    (name.as_bytes() != key).then_some(name.as_bytes())
}

pub(super) fn get_slot(row: &Row<'_>, column: usize) -> Got<Slot> {
    Slot::new(get_blob(row, column)?).ok_or_else(|| damaged("a chunk's place is too long"))
}

/// Nanoseconds since 1970 where they fit, else the two parts.
pub(super) fn time_column(time: Timestamp) -> ToSqlOutput<'static> {
    let nanos = time.secs.checked_mul(1_000_000_000).and_then(|nanos| nanos.checked_add(time.nanos.into()));
    match nanos {
        Some(nanos) => ToSqlOutput::Owned(Value::Integer(nanos)),
        None => {
            let parts = [&time.secs.to_be_bytes()[..], &time.nanos.to_be_bytes()];
            ToSqlOutput::Owned(Value::Blob(parts.concat()))
        }
    }
}

pub(super) fn get_time(row: &Row<'_>, column: usize) -> Got<Timestamp> {
    match row.get_ref(column)? {
        ValueRef::Integer(nanos) => Ok(Timestamp {
            secs: nanos.div_euclid(1_000_000_000),
            nanos: nanos.rem_euclid(1_000_000_000) as u32,
        }),
        ValueRef::Blob(parts) if parts.len() == 12 => {
            let (secs, nanos) = parts.split_at(8);
            let secs = i64::from_be_bytes(secs.try_into().expect("eight bytes"));
            let nanos = u32::from_be_bytes(nanos.try_into().expect("four bytes"));
            if nanos > 999_999_999 {
                Err(damaged("a time is out of range"))
            } else {
                Ok(Timestamp { secs, nanos })
            }
        }
        _ => Err(damaged("a time is no time")),
    }
}

pub(super) fn what_column(what: What) -> i64 {
    match what {
        What::Create => 0,
        What::Update => 1,
        What::Move => 2,
        What::Delete => 3,
        What::Revive => 4,
    }
}

pub(super) fn get_what(row: &Row<'_>, column: usize) -> Got<What> {
    match get_int(row, column)? {
        0 => Ok(What::Create),
        1 => Ok(What::Update),
        2 => Ok(What::Move),
        3 => Ok(What::Delete),
        4 => Ok(What::Revive),
        _ => Err(damaged("a change of an unknown kind")),
    }
}

/// Number of the fold that makes keys: 0 none, 1 `fold_v1`.
pub(super) fn case_column(case: CaseRule) -> i64 {
    match case {
        CaseRule::Sensitive => 0,
        CaseRule::Insensitive => 1,
    }
}

pub(super) fn get_case(row: &Row<'_>, column: usize) -> Got<CaseRule> {
    match get_int(row, column)? {
        0 => Ok(CaseRule::Sensitive),
        1 => Ok(CaseRule::Insensitive),
        _ => Err(damaged("a fold that is not known")),
    }
}

/// Bytes that may be absent.
pub(super) fn bytes_or_null(bytes: Option<&[u8]>) -> ToSqlOutput<'_> {
    match bytes {
        Some(bytes) => ToSqlOutput::Borrowed(ValueRef::Blob(bytes)),
        None => ToSqlOutput::from(Null),
    }
}
