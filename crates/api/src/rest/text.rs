//! Names, paths and times as they travel in JSON and in URLs.
//!
//! A name is bytes. In JSON it is a string where it is UTF-8 and `{"bytes": "<base64>"}` where it is not; in a URL
//! it is percent-encoded. Nowhere is a name changed to fit.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use polder_types::{Escaped, Name, NameError, PathError, RelPath, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Longest path that the API takes, in bytes before encoding: far above `PATH_MAX`, far below a request's bound.
pub const PATH_BYTES_MAX: usize = 65_536;

/// Bytes in JSON: text where they are UTF-8, base64 where they are not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
#[schema(as = Bytes, example = "report.txt")]
enum Repr {
    /// The bytes as text.
    Text(String),
    /// The bytes are not UTF-8.
    Bytes {
        /// Standard base64 with padding.
        bytes: String,
    },
}

impl Repr {
    fn of(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Bytes { bytes: STANDARD.encode(bytes) },
        }
    }

    fn into_bytes(self) -> Result<Vec<u8>, TextError> {
        match self {
            Self::Text(text) => Ok(text.into_bytes()),
            Self::Bytes { bytes } => STANDARD.decode(bytes).map_err(|_| TextError::Base64),
        }
    }
}

/// Why a text from outside is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// Not base64.
    #[error("the field \"bytes\" is not base64")]
    Base64,
    /// A percent sign without two hexadecimal digits.
    #[error("\"{0}\" holds a percent sign without two hexadecimal digits")]
    Percent(String),
    /// Longer than [`PATH_BYTES_MAX`].
    #[error("a path has at most {PATH_BYTES_MAX} bytes, this one has {0}")]
    Long(usize),
    /// Not a name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Not a path.
    #[error(transparent)]
    Path(#[from] PathError),
    /// Not a time.
    #[error("\"{0}\" is not a time such as 2026-11-23T18:00:00Z")]
    Time(String),
    /// Not the name of a share, group, server or snapshot.
    #[error(
        "\"{0}\" is not a name: 1 to 63 letters, digits, \".\", \"_\" or \"-\", the first a letter or digit"
    )]
    Object(String),
}

/// A valid name in JSON.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "Repr", into = "Repr")]
#[schema(value_type = Repr)]
pub struct JsonName(pub Name);

impl From<JsonName> for Repr {
    fn from(name: JsonName) -> Self {
        Self::of(name.0.as_bytes())
    }
}

impl TryFrom<Repr> for JsonName {
    type Error = TextError;
    fn try_from(repr: Repr) -> Result<Self, TextError> {
        Ok(Self(Name::parse(&repr.into_bytes()?)?))
    }
}

impl From<Name> for JsonName {
    fn from(name: Name) -> Self {
        Self(name)
    }
}

impl fmt::Display for JsonName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for JsonName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A path below the root of a share in JSON: names joined by `/`, no slash in front; empty for the root.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "Repr", into = "Repr")]
#[schema(value_type = Repr)]
pub struct JsonPath(pub RelPath);

impl From<JsonPath> for Repr {
    fn from(path: JsonPath) -> Self {
        Self::of(&path.0.to_bytes())
    }
}

impl TryFrom<Repr> for JsonPath {
    type Error = TextError;
    fn try_from(repr: Repr) -> Result<Self, TextError> {
        parse_path(&repr.into_bytes()?).map(Self)
    }
}

impl From<RelPath> for JsonPath {
    fn from(path: RelPath) -> Self {
        Self(path)
    }
}

impl fmt::Display for JsonPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for JsonPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// Any bytes in JSON: a symlink's target, a path on a server.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "Repr", into = "Repr")]
#[schema(value_type = Repr)]
pub struct JsonBytes(pub Vec<u8>);

impl From<JsonBytes> for Repr {
    fn from(bytes: JsonBytes) -> Self {
        Self::of(&bytes.0)
    }
}

impl TryFrom<Repr> for JsonBytes {
    type Error = TextError;
    fn try_from(repr: Repr) -> Result<Self, TextError> {
        match repr.into_bytes()? {
            long if long.len() > PATH_BYTES_MAX => Err(TextError::Long(long.len())),
            bytes => Ok(Self(bytes)),
        }
    }
}

impl From<&str> for JsonBytes {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for JsonBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Escaped(&self.0).fmt(f)
    }
}

impl fmt::Debug for JsonBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// A moment in JSON: RFC 3339 in UTC with up to nine digits after the second, `2026-11-23T18:00:00.5Z`.
///
/// RFC 3339 has years 0 to 9999. A file's time outside of these is shown as the nearest of them; what a share keeps
/// is not touched by this.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, format = DateTime, example = "2026-11-23T18:00:00Z")]
pub struct Time(pub Timestamp);

/// 0000-01-01T00:00:00Z and 9999-12-31T23:59:59Z in seconds since 1970.
const YEARS_SECS: std::ops::RangeInclusive<i64> = -62_167_219_200..=253_402_300_799;

impl Time {
    /// Seconds since 1970.
    pub fn secs(self) -> i64 {
        self.0.secs
    }
}

impl From<Timestamp> for Time {
    fn from(moment: Timestamp) -> Self {
        Self(moment)
    }
}

impl From<Time> for String {
    fn from(time: Time) -> Self {
        time.to_string()
    }
}

impl TryFrom<String> for Time {
    type Error = TextError;
    fn try_from(text: String) -> Result<Self, TextError> {
        text.parse()
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secs = self.0.secs.clamp(*YEARS_SECS.start(), *YEARS_SECS.end());
        let nanos = self.0.nanos.min(999_999_999) as i32;
        // jiff wants seconds and nanoseconds of one sign and brings them to it itself within its range of years.
        match jiff::Timestamp::new(secs, nanos) {
            Ok(moment) => moment.fmt(f),
            Err(_) => f.write_str("9999-12-30T22:00:00Z"),
        }
    }
}

impl FromStr for Time {
    type Err = TextError;
    fn from_str(text: &str) -> Result<Self, TextError> {
        let wrong = || TextError::Time(text.escape_default().take(80).collect());
        let moment: jiff::Timestamp = text.parse().map_err(|_| wrong())?;
        let nanos = moment.subsec_nanosecond();
        let secs = moment.as_second();
        let (secs, nanos) = if nanos < 0 { (secs - 1, nanos + 1_000_000_000) } else { (secs, nanos) };
        if !YEARS_SECS.contains(&secs) {
            return Err(wrong());
        }
        Ok(Self(Timestamp::new(secs, nanos as u32)))
    }
}

/// Name of a share, sync group, server or snapshot: 1 to 63 ASCII letters, digits, `.`, `_` or `-`, beginning with a
/// letter or a digit. 32 hexadecimal digits are an id and no name, so that every place that takes a name takes an id too.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, pattern = "^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$", example = "demo")]
pub struct ObjectName(String);

impl ObjectName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ObjectName {
    type Err = TextError;
    fn from_str(text: &str) -> Result<Self, TextError> {
        let bytes = text.as_bytes();
        let legal = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        let is_id = bytes.len() == 32 && bytes.iter().all(u8::is_ascii_hexdigit);
        let first = bytes.first().is_some_and(u8::is_ascii_alphanumeric);
        if first && bytes.len() <= 63 && bytes.iter().all(legal) && !is_id {
            return Ok(Self(text.to_owned()));
        }
        Err(TextError::Object(text.escape_default().take(80).collect()))
    }
}

impl TryFrom<String> for ObjectName {
    type Error = TextError;
    fn try_from(text: String) -> Result<Self, TextError> {
        text.parse()
    }
}

impl From<ObjectName> for String {
    fn from(name: ObjectName) -> Self {
        name.0
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

fn parse_path(bytes: &[u8]) -> Result<RelPath, TextError> {
    if bytes.len() > PATH_BYTES_MAX {
        return Err(TextError::Long(bytes.len()));
    }
    Ok(RelPath::parse(bytes)?)
}

/// Percent-encodes one segment or query value: everything but unreserved characters (RFC 3986).
pub fn percent_encode(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for byte in bytes {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(*byte as char),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// Undoes [`percent_encode`]; `+` is a plus sign.
pub fn percent_decode(text: &str) -> Result<Vec<u8>, TextError> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        if *first != b'%' {
            out.push(*first);
            rest = tail;
            continue;
        }
        let digit = |at: usize| tail.get(at).and_then(|byte| (*byte as char).to_digit(16));
        let (Some(high), Some(low)) = (digit(0), digit(1)) else {
            return Err(TextError::Percent(text.escape_default().take(80).collect()));
        };
        out.push((high * 16 + low) as u8);
        rest = &tail[2..];
    }
    Ok(out)
}

/// A path as the end of a URL: every name percent-encoded, joined by `/`; empty for the root.
pub fn encode_path(path: &RelPath) -> String {
    path.names().iter().map(|name| percent_encode(name.as_bytes())).collect::<Vec<_>>().join("/")
}

/// The path in the undecoded end of a URL. Takes `%2F` for a slash too, as tools send it.
pub fn decode_path(tail: &str) -> Result<RelPath, TextError> {
    parse_path(&percent_decode(tail)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenarios 59 and 60, in JSON.
    #[test]
    fn names_survive_json() {
        let cases: [(&[u8], &str); 4] = [
            (b"a.txt", r#""a.txt""#),
            ("ü \"x\"".as_bytes(), r#""ü \"x\"""#),
            (b"a\nb", r#""a\nb""#),
            (b"\xff\xfe", r#"{"bytes":"//4="}"#),
        ];
        for (bytes, json) in cases {
            let name = JsonName(Name::parse(bytes).expect("legal"));
            assert_eq!(serde_json::to_string(&name).expect("plain"), json);
            assert_eq!(serde_json::from_str::<JsonName>(json).expect("own text"), name);
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for json in [r#""""#, r#""..""#, r#""a/b""#, r#"{"bytes":"%%"}"#, r#"{"bytes":"YS9i"}"#, "7", "null"]
        {
            assert!(serde_json::from_str::<JsonName>(json).is_err(), "{json}");
        }
        for json in [r#""a/../b""#, r#""./a""#, r#""a\u0000b""#] {
            assert!(serde_json::from_str::<JsonPath>(json).is_err(), "{json}");
        }
    }

    #[test]
    fn paths_survive_urls() {
        let path = RelPath::parse(b"a b/100%/\xff/x+y?").expect("legal");
        assert_eq!(encode_path(&path), "a%20b/100%25/%FF/x%2By%3F");
        assert_eq!(decode_path(&encode_path(&path)), Ok(path.clone()));
        assert_eq!(decode_path("a%20b%2F100%25%2F%ff%2Fx+y%3f"), Ok(path));
        assert_eq!(decode_path(""), Ok(RelPath::root()));
        assert!(decode_path("a%2").is_err());
        assert!(decode_path("a%zz").is_err());
        assert!(decode_path("a/%2e%2e/b").is_err());
    }

    #[test]
    fn times_survive_their_text() {
        let cases = [
            (0, 0, "1970-01-01T00:00:00Z"),
            (1_800_000_000, 123_456_789, "2027-01-15T08:00:00.123456789Z"),
            (-1, 500_000_000, "1969-12-31T23:59:59.5Z"),
        ];
        for (secs, nanos, text) in cases {
            let time = Time(Timestamp::new(secs, nanos));
            assert_eq!(time.to_string(), text);
            assert_eq!(text.parse::<Time>(), Ok(time));
        }
        assert_eq!("2027-01-15T09:00:00+01:00".parse::<Time>().expect("an offset").secs(), 1_800_000_000);
        assert!("yesterday".parse::<Time>().is_err());
        for far in [i64::MAX, i64::MIN] {
            assert!(Time(Timestamp::new(far, 0)).to_string().ends_with('Z'));
        }
    }

    #[test]
    fn object_names_are_checked() {
        for good in ["demo", "a", "site-a.example.org", "X_1"] {
            assert!(good.parse::<ObjectName>().is_ok(), "{good}");
        }
        for bad in ["", "-a", ".a", "a b", "ä", "a/b", &"a".repeat(64), &"0123456789abcdef".repeat(2)] {
            assert!(bad.parse::<ObjectName>().is_err(), "{bad}");
        }
    }
}
