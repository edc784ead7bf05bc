//! One component of a path. Names are bytes; a [`Name`] exists only if it is valid.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};

use crate::Escaped;

/// Longest name, as on every Linux file system.
pub const NAME_BYTES_MAX: usize = 255;

/// Why bytes are not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// No bytes at all.
    #[error("a name has at least one byte")]
    Empty,
    /// Longer than [`NAME_BYTES_MAX`].
    #[error("a name has at most 255 bytes, this one has {0}")]
    TooLong(usize),
    /// `.` or `..`.
    #[error("\".\" and \"..\" are not names")]
    Dots,
    /// Holds `/` or NUL.
    #[error("the name \"{0}\" holds a slash or a NUL byte")]
    BadByte(String),
}

/// A valid name: 1–255 bytes, no `/`, no NUL, not `.` or `..`. Any other byte is legal.
#[derive(Clone)]
pub struct Name(Bytes);

/// Most names are short, and every row of a node that is read or handed on has a copy of its name: a short one takes no memory of its
/// own.
#[derive(Clone)]
enum Bytes {
    /// So many of these.
    Short(u8, [u8; SHORT_BYTES_MAX]),
    Long(Box<[u8]>),
}

/// As many as fit beside the length into three words.
const SHORT_BYTES_MAX: usize = 22;

impl Name {
    /// Parses a name from outside.
    pub fn parse(bytes: &[u8]) -> Result<Self, NameError> {
        match bytes {
            [] => Err(NameError::Empty),
            b"." | b".." => Err(NameError::Dots),
            _ if bytes.len() > NAME_BYTES_MAX => Err(NameError::TooLong(bytes.len())),
            _ if bytes.iter().any(|byte| matches!(byte, 0 | b'/')) => {
                Err(NameError::BadByte(Escaped(bytes).to_string()))
            }
            _ => Ok(Self(Bytes::of(bytes))),
        }
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Bytes::Short(len, bytes) => &bytes[..usize::from(*len)],
            Bytes::Long(bytes) => bytes,
        }
    }

    /// The name as text, where it is UTF-8.
    pub fn as_str(&self) -> Option<&str> {
        std::str::from_utf8(self.as_bytes()).ok()
    }
}

impl Bytes {
    fn of(bytes: &[u8]) -> Self {
        let mut short = [0; SHORT_BYTES_MAX];
        match short.get_mut(..bytes.len()) {
            Some(room) => {
                room.copy_from_slice(bytes);
                Self::Short(bytes.len() as u8, short)
            }
            None => Self::Long(bytes.into()),
        }
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Name {}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Name {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Escaped(self.as_bytes()).fmt(f)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", Escaped(self.as_bytes()))
    }
}

impl std::str::FromStr for Name {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::parse(text.as_bytes())
    }
}

/// The name of a conflict copy: `<stem>-<server>[-n].<ext>`, the stem trimmed at a UTF-8 border so that the whole
/// has at most 255 bytes. `attempt` 0 has no number, 1 gives `-1`, as in the product that Polder answers.
///
/// The extension is what follows the last dot, unless the name begins with it (`.bashrc` has none). An extension
/// of more than 64 bytes is treated as part of the stem. A conflict copy of a conflict copy gets a second suffix.
pub fn conflict_name(name: &Name, server: &str, attempt: u32) -> Name {
    let bytes = name.as_bytes();
    let dot = bytes.iter().rposition(|byte| *byte == b'.').filter(|at| *at > 0 && bytes.len() - at <= 65);
    let (stem, extension) = bytes.split_at(dot.unwrap_or(bytes.len()));
    let server: String = server.chars().filter(|char| !matches!(char, '/' | '\0')).take(63).collect();
    let number = if attempt == 0 { String::new() } else { format!("-{attempt}") };
    // A server name of 63 characters may have 252 bytes; keep 64 bytes of it, at a border.
    let server = trim(server.as_bytes(), 64);
    let room = NAME_BYTES_MAX - server.len() - number.len() - extension.len() - 1;
    let whole = [trim(stem, room), b"-", server, number.as_bytes(), extension].concat();
    Name::parse(&whole).expect("parts of a valid name, joined by a dash, within 255 bytes")
}

/// The longest prefix of at most `len` bytes that does not cut a UTF-8 character.
fn trim(bytes: &[u8], len: usize) -> &[u8] {
    if bytes.len() <= len {
        return bytes;
    }
    let mut end = len;
    // A continuation byte is 0b10xxxxxx; at most three follow a first byte, more is not UTF-8 and is cut anywhere.
    while end > 0 && len - end < 4 && bytes[end] & 0xc0 == 0x80 {
        end -= 1;
    }
    if bytes[end] & 0xc0 == 0x80 { &bytes[..len] } else { &bytes[..end] }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> Name {
        text.parse().expect("valid in this test")
    }

    #[test]
    fn names_are_checked() {
        for bad in [&b""[..], b".", b"..", b"a/b", b"a\0b", &[b'x'; 256]] {
            assert!(Name::parse(bad).is_err(), "{}", Escaped(bad));
        }
        for good in [&b"a"[..], b"...", b"\xff\xfe", b"a\nb", &[b'x'; 255], b" ", b"CON", b"a:b"] {
            assert_eq!(Name::parse(good).expect("legal").as_bytes(), good);
        }
    }

    /// Where a name has its bytes changes nothing that can be seen of it.
    #[test]
    fn short_and_long_names_are_alike() {
        assert_eq!(size_of::<Name>(), 24);
        let lens = [1, SHORT_BYTES_MAX - 1, SHORT_BYTES_MAX, SHORT_BYTES_MAX + 1, NAME_BYTES_MAX];
        let names: Vec<Name> = lens.iter().map(|len| name(&"m".repeat(*len))).collect();
        assert!(names.is_sorted_by(|shorter, longer| shorter < longer));
        for (name, len) in names.iter().zip(lens) {
            assert_eq!(name.as_bytes(), vec![b'm'; len]);
            assert_eq!((name.clone(), name.to_string().len()), (name.clone(), len));
            assert_ne!(*name, self::name("a"));
        }
        assert!(name(&"m".repeat(40)) < name("n") && name("l") < name(&"m".repeat(40)));
    }

    #[test]
    fn conflict_names_follow_the_product() {
        let cases = [
            ("report.docx", 0, "report-site-a.docx"),
            ("report.docx", 2, "report-site-a-2.docx"),
            ("README", 0, "README-site-a"),
            (".bashrc", 1, ".bashrc-site-a-1"),
            ("a.tar.gz", 0, "a.tar-site-a.gz"),
            ("report-site-a.docx", 0, "report-site-a-site-a.docx"),
        ];
        for (from, attempt, to) in cases {
            assert_eq!(conflict_name(&name(from), "site-a", attempt), name(to));
        }
    }

    /// Scenario 61.
    #[test]
    fn a_long_stem_is_trimmed_at_a_character() {
        let long = name(&format!("{}.txt", "é".repeat(125)));
        let copy = conflict_name(&long, "site-a", 0);
        assert!(copy.as_bytes().len() <= NAME_BYTES_MAX);
        assert!(copy.as_str().expect("still UTF-8").ends_with("é-site-a.txt"));
    }

    proptest! {
        #[test]
        fn any_conflict_name_is_a_name(bytes in prop::collection::vec(1u8.., 1..=255), server in ".{0,80}", n in 0u32..) {
            if let Ok(name) = Name::parse(&bytes) {
                let copy = conflict_name(&name, &server, n);
                prop_assert!(copy.as_bytes().len() <= NAME_BYTES_MAX);
                prop_assert_ne!(copy, name);
            }
        }
    }
}
