//! Permissions and extended attributes of a node: what a version keeps beside its content and its times.

use std::collections::BTreeMap;

use crate::{DecodeError, Reader, Writer};

/// Most extended attributes of one node.
pub const XATTR_COUNT_MAX: usize = 4096;
/// Longest name of an extended attribute (Linux: `XATTR_NAME_MAX`).
pub const XATTR_NAME_LEN_MAX: usize = 255;
/// Most bytes of all names and values of one node together. Linux allows 64 KiB a value.
pub const XATTR_TOTAL_BYTES_MAX: usize = 1024 * 1024;

const FORMAT: u8 = 1;
const OWNER_NAME_LEN_MAX: usize = 255;

/// Mode, owner, group and extended attributes (`user.*`, POSIX ACLs, `security.NTACL`; which ones are taken and
/// applied is the endpoint's policy).
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Attrs {
    /// Permission bits, `0o7777` at most; always 0 for a symlink, whose mode Linux does not keep.
    pub mode: u16,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// Name of the owner where the version was made; empty when unknown there.
    pub owner: Box<str>,
    /// Name of the group where the version was made; empty when unknown there.
    pub group: Box<str>,
    /// Extended attributes by name.
    pub xattrs: BTreeMap<Box<[u8]>, Box<[u8]>>,
}

/// Hash of [`Attrs::encode`]: equal hashes mean equal attributes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttrsHash(pub [u8; 16]);

impl Attrs {
    /// The canonical bytes (`docs/formats/content.md`): equal attributes have equal bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.byte(FORMAT).number(self.mode.into()).number(self.uid.into()).number(self.gid.into());
        out.bytes(self.owner.as_bytes()).bytes(self.group.as_bytes());
        out.number(self.xattrs.len() as u64);
        for (name, value) in &self.xattrs {
            out.bytes(name).bytes(value);
        }
        out.finish()
    }

    /// Reads [`Attrs::encode`]; refuses everything that it could not have written.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut from = Reader::new(bytes);
        match from.byte()? {
            FORMAT => (),
            other => return Err(DecodeError::Version(other)),
        }
        let mode = u16::try_from(from.number()?).ok().filter(|mode| *mode <= 0o7777);
        let mode = mode.ok_or(DecodeError::Bad("mode"))?;
        let uid = u32::try_from(from.number()?).map_err(|_| DecodeError::Bad("owner"))?;
        let gid = u32::try_from(from.number()?).map_err(|_| DecodeError::Bad("group"))?;
        let owner = text(&mut from)?;
        let group = text(&mut from)?;
        let count = from.number()?;
        let mut xattrs = BTreeMap::new();
        let mut total = 0;
        for _ in 0..count {
            let name: Box<[u8]> = from.bytes(XATTR_NAME_LEN_MAX)?.into();
            let value: Box<[u8]> = from.bytes(XATTR_TOTAL_BYTES_MAX)?.into();
            total += name.len() + value.len();
            let ascending = xattrs.last_key_value().is_none_or(|(last, _)| *last < name);
            if name.is_empty()
                || !ascending
                || total > XATTR_TOTAL_BYTES_MAX
                || xattrs.len() == XATTR_COUNT_MAX
            {
                return Err(DecodeError::Bad("extended attribute"));
            }
            xattrs.insert(name, value);
        }
        from.end()?;
        Ok(Self { mode, uid, gid, owner, group, xattrs })
    }

    /// Hash of the canonical bytes.
    pub fn hash(&self) -> AttrsHash {
        let mut short = [0u8; 16];
        short.copy_from_slice(&blake3::hash(&self.encode()).as_bytes()[..16]);
        AttrsHash(short)
    }
}

fn text(from: &mut Reader<'_>) -> Result<Box<str>, DecodeError> {
    let bytes = from.bytes(OWNER_NAME_LEN_MAX)?;
    std::str::from_utf8(bytes).map(Into::into).map_err(|_| DecodeError::Bad("owner name"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn attributes_survive_their_bytes(
            mode in 0u16..=0o7777, uid: u32, gid: u32, owner in "[a-z]{0,8}", group in "[a-z]{0,8}",
            xattrs in prop::collection::btree_map(prop::collection::vec(any::<u8>(), 1..40), prop::collection::vec(any::<u8>(), 0..40), 0..5),
        ) {
            let xattrs = xattrs.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
            let attrs = Attrs { mode, uid, gid, owner: owner.into(), group: group.into(), xattrs };
            prop_assert_eq!(Attrs::decode(&attrs.encode()), Ok(attrs));
        }

        #[test]
        fn whatever_decodes_encodes_to_the_same_bytes(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(attrs) = Attrs::decode(&bytes) {
                prop_assert_eq!(attrs.encode(), bytes);
            }
        }
    }
}
