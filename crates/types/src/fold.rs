//! Which names a share takes for equal.

use std::borrow::Cow;

use crate::fold_table::FOLD_V1;

/// Whether names that differ only in case are one name. Chosen when a share is created, for ever.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, Hash)]
#[serde(rename_all = "snake_case")]
pub enum CaseRule {
    /// Names are bytes.
    #[default]
    Sensitive,
    /// Names are compared by [`fold_v1`], for shares that Windows clients use over SMB.
    Insensitive,
}

impl CaseRule {
    /// What makes a name unique in its directory.
    pub fn key<'a>(&self, name: &'a [u8]) -> Cow<'a, [u8]> {
        match self {
            Self::Sensitive => Cow::Borrowed(name),
            Self::Insensitive => fold_v1(name),
        }
    }
}

/// Unicode simple case folding with the frozen table of `docs/formats/fold.md`; bytes that are not UTF-8 stay.
/// Folding twice changes nothing more.
pub fn fold_v1(name: &[u8]) -> Cow<'_, [u8]> {
    let folded_ascii = name.iter().all(|byte| byte.is_ascii() && !byte.is_ascii_uppercase());
    if folded_ascii {
        return Cow::Borrowed(name);
    }
    let mut out = Vec::with_capacity(name.len());
    let mut room = [0u8; 4];
    for part in name.utf8_chunks() {
        for char in part.valid().chars() {
            out.extend_from_slice(fold_char(char).encode_utf8(&mut room).as_bytes());
        }
        out.extend_from_slice(part.invalid());
    }
    Cow::Owned(out)
}

fn fold_char(char: char) -> char {
    let code = char as u32;
    let after = FOLD_V1.partition_point(|(first, ..)| *first <= code);
    let Some((first, last, stride, offset)) = after.checked_sub(1).map(|at| FOLD_V1[at]) else { return char };
    if code <= last && (code - first).is_multiple_of(stride) {
        char::from_u32(code.wrapping_add_signed(offset)).expect("the table folds characters to characters")
    } else {
        char
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folds_like_ntfs_and_not_further() {
        let cases = [
            ("Foo.TXT", "foo.txt"),
            ("STRASSE", "strasse"),
            ("Straße", "straße"),
            ("ΣΊΣΥΦΟΣ", "σίσυφοσ"),
            ("ǅ", "ǆ"),
            ("K", "k"),
        ];
        for (name, key) in cases {
            assert_eq!(fold_v1(name.as_bytes()), key.as_bytes(), "{name}");
        }
        assert_eq!(&*fold_v1(b"A\xff\xc3B"), b"a\xff\xc3b");
    }

    #[test]
    fn folding_twice_changes_nothing() {
        for code in 0..=u32::from(char::MAX) {
            let Some(char) = char::from_u32(code) else { continue };
            assert_eq!(fold_char(fold_char(char)), fold_char(char), "{code:x}");
        }
    }

    /// Pins the whole table: a change of one entry would change which names are equal in existing shares.
    #[test]
    fn the_table_is_frozen() {
        let bytes: Vec<u8> = FOLD_V1
            .iter()
            .flat_map(|(first, last, stride, offset)| {
                [first.to_le_bytes(), last.to_le_bytes(), stride.to_le_bytes(), offset.to_le_bytes()]
            })
            .flatten()
            .collect();
        assert_eq!(
            blake3::hash(&bytes).to_hex().as_str(),
            "11bfa720dfcac03f42c025b1d627aed83f3a3738b209f2886225be029e00b990"
        );
        let folded =
            (0..=u32::from(char::MAX)).filter_map(char::from_u32).filter(|char| fold_char(*char) != *char);
        assert_eq!(folded.count(), 1454);
    }
}
