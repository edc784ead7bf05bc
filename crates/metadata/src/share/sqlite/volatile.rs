//! Which bytes of an attribute differ from file to file although the attribute is otherwise shared.
//!
//! Samba keeps a time in `security.NTACL` and the creation time in `user.DOSATTRIB`, so no two files would share them. Those
//! bytes are cut out and kept in the node's row. A cut is a place in the value and nothing more, so putting it back
//! gives the same bytes whatever they meant; where a value is not of the form that we know, there is no cut.

use std::ops::Range;

/// Where to cut a value.
pub(super) fn cut(name: &[u8], value: &[u8]) -> Option<Range<usize>> {
    match name {
        b"security.NTACL" => ntacl_time(value),
        b"user.DOSATTRIB" => dosattrib_times(value),
        _ => None,
    }
}

/// Version 4 of `xattr_NTACL`: version and switch (two `u16`), two referents (two `u32`), type of the hash (`u16`), hash (64
/// bytes), description (text to its NUL, then up to a multiple of four), time (8 bytes), another hash, the descriptor.
fn ntacl_time(value: &[u8]) -> Option<Range<usize>> {
    const DESCRIPTION_AT: usize = 4 + 8 + 2 + 64;
    const DESCRIPTION_LEN_MAX: usize = 64;
    if value.get(..4)? != [4, 0, 4, 0] {
        return None;
    }
    let description = value.get(DESCRIPTION_AT..)?;
    let len = description.iter().take(DESCRIPTION_LEN_MAX).position(|byte| *byte == 0)?;
    let at = (DESCRIPTION_AT + len + 1).next_multiple_of(4);
    (value.len() >= at + 8 + 64).then_some(at..at + 8)
}

/// Versions 3 to 5 of `xattr_DOSATTRIB` end with times: creation and change; number and creation; creation. Before them:
/// text to its NUL, up to a multiple of two, version and switch (two `u16`).
fn dosattrib_times(value: &[u8]) -> Option<Range<usize>> {
    const TEXT_LEN_MAX: usize = 16;
    let len = value.iter().take(TEXT_LEN_MAX).position(|byte| *byte == 0)?;
    let at = (len + 1).next_multiple_of(2);
    let version = value.get(at..at + 4)?;
    let times = match version {
        [3, 0, 3, 0] | [4, 0, 4, 0] => 16,
        [5, 0, 5, 0] => 8,
        _ => return None,
    };
    // Flags and attributes (two `u32`) stand between.
    (value.len() >= at + 4 + 8 + times).then(|| value.len() - times..value.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_samba_are_found() {
        let mut dos5 = vec![0, 0, 5, 0, 5, 0, 0, 0, 0x11, 0, 0, 0, 0x20, 0, 0, 0];
        dos5.extend([0xf8, 0xa6, 0xa6, 0x9f, 0xd1, 0xb4, 0xd7, 1]);
        assert_eq!(cut(b"user.DOSATTRIB", &dos5), Some(16..24));
        let mut dos4 = vec![0, 0, 4, 0, 4, 0, 0, 0, 0x51, 0, 0, 0, 0x20, 0, 0, 0];
        dos4.extend([7; 16]);
        assert_eq!(cut(b"user.DOSATTRIB", &dos4), Some(16..32));

        let mut acl = vec![4, 0, 4, 0, 0, 0, 2, 0, 4, 0, 2, 0, 1, 0];
        acl.extend([9; 64]);
        acl.extend(b"posix_acl\0");
        assert_eq!(acl.len(), 88);
        acl.extend([1; 8 + 64 + 100]);
        assert_eq!(cut(b"security.NTACL", &acl), Some(88..96));
    }

    #[test]
    fn other_forms_are_left_whole() {
        for value in [&b""[..], b"0x20\0", &[3, 0, 3, 0], &[4, 0, 4, 0, 1], &[0; 200], &[255; 300]] {
            assert_eq!(cut(b"security.NTACL", value), None);
            assert_eq!(cut(b"user.DOSATTRIB", value), None);
            assert_eq!(cut(b"user.other", value), None);
        }
    }
}
