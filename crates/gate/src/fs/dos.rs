//! The attributes that Windows clients see, as Samba keeps them: `user.DOSATTRIB`.
//!
//! Samba shows the attribute OFFLINE when it stands there and never writes it, because it expects a file system to tell of it. So the gate
//! adds it while a file is not resident, for Samba alone: what anybody else copies is what is stored. It is never stored, whoever
//! writes: a copy of a tiered file, or the file itself once it is here, would look away for ever.
//!
//! A value is (`xattr_DOSATTRIB`): text to its NUL, up to a multiple of two; version and switch (two `u16`), up to a multiple of four; then, in
//! versions 3 to 5, flags and attributes (two little-endian `u32`), and times.

use std::ops::Range;

/// Where Samba keeps the attributes.
pub(super) const DOS: &[u8] = b"user.DOSATTRIB";
/// `FILE_ATTRIBUTE_OFFLINE`.
const OFFLINE: u32 = 0x1000;
/// Attributes and nothing else (the flag is `XATTR_DOSINFO_ATTRIB`), version 5: the creation time stays the file system's.
const ONLY_ATTRIBUTES: [u8; 24] = [0, 0, 5, 0, 5, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Where the attributes stand in a value of a version that is known.
fn attributes(value: &[u8]) -> Option<Range<usize>> {
    const TEXT_LEN_MAX: usize = 16;
    let len = value.iter().take(TEXT_LEN_MAX).position(|byte| *byte == 0)?;
    let at = (len + 1).next_multiple_of(2);
    let is_known = matches!(value.get(at..at + 4)?, [3, 0, 3, 0] | [4, 0, 4, 0] | [5, 0, 5, 0]);
    let at = (at + 4).next_multiple_of(4) + 4;
    (is_known && value.len() >= at + 4).then_some(at..at + 4)
}

fn change(value: &mut [u8], how: impl FnOnce(u32) -> u32) {
    if let Some(found) = attributes(value).and_then(|at| value[at].first_chunk_mut()) {
        *found = how(u32::from_le_bytes(*found)).to_le_bytes();
    }
}

/// What Samba is told of a file that is not resident. `None`: nothing is stored. A value that is not understood stays as it is.
pub(super) fn offline(stored: Option<Vec<u8>>) -> Vec<u8> {
    let mut value = stored.unwrap_or_else(|| ONLY_ATTRIBUTES.to_vec());
    change(&mut value, |attributes| attributes | OFFLINE);
    value
}

/// What is stored of a value.
pub(super) fn stored(value: &[u8]) -> Vec<u8> {
    let mut value = value.to_vec();
    change(&mut value, |attributes| attributes & !OFFLINE);
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Samba 4.17 writes it for a hidden file.
    const HIDDEN: [u8; 24] =
        [0, 0, 5, 0, 5, 0, 0, 0, 0x11, 0, 0, 0, 2, 0, 0, 0, 0xfb, 0xd6, 0xc0, 0xca, 0xb1, 0x80, 0xdd, 1];

    #[test]
    fn offline_is_one_bit() {
        let told = offline(Some(HIDDEN.to_vec()));
        assert_eq!(told[12..16], [2, 0x10, 0, 0]);
        assert_eq!((&told[..12], &told[16..]), (&HIDDEN[..12], &HIDDEN[16..]));
        assert_eq!(stored(&told), HIDDEN);
        assert_eq!(stored(&HIDDEN), HIDDEN);
        assert_eq!(offline(None)[12..16], [0, 0x10, 0, 0]);
        assert_eq!(stored(&offline(None)), ONLY_ATTRIBUTES);
        // Version 3 with its text.
        let mut third = b"0x20\0\0\x03\0\x03\0\0\0\x01\0\0\0\x20\0\0\0".to_vec();
        third.extend([7; 40]);
        assert_eq!(offline(Some(third.clone()))[16..20], [0x20, 0x10, 0, 0]);
        assert_eq!(stored(&offline(Some(third.clone()))), third);
    }

    #[test]
    fn what_is_not_understood_stays() {
        for value in [
            &b""[..],
            b"0x20",
            b"0x20\0",
            b"\0\0\x05\0\x05\0",
            &[0, 0, 5, 0, 5, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0],
            &[0, 0, 6, 0, 6, 0, 0, 0, 1, 0, 0, 0, 0, 0x10, 0, 0],
            &[0xff; 40],
        ] {
            assert_eq!(offline(Some(value.to_vec())), value);
            assert_eq!(stored(value), value);
        }
    }
}
