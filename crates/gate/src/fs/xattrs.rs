//! Extended attributes: the gate's own, the hidden one, Samba's, and all others.

use std::borrow::Cow;
use std::ffi::CStr;

use rustix::io::Errno;

use super::dos::{self, DOS};
use super::once::Before;
use super::{Answer, Call, FileSystem, Stop};
use crate::ports::{Residency, SetXattr};

/// The mark and what stands beside it. Nobody sees them through the mount, nobody sets them.
const MARK: &[u8] = b"trusted.polder";
/// Tells whether a file's bytes are here.
const RESIDENCY: &[u8] = b"user.polder.residency";

/// Answers with a value, or with its length when the caller asks for room.
fn put(call: &mut Call<'_>, value: &[u8], room: u32) -> Answer {
    if room == 0 {
        crate::proto::put_size(call.out, value.len() as u32);
    } else if value.len() > room as usize {
        return Err(Errno::RANGE.into());
    } else {
        call.out.extend(value);
    }
    Ok(())
}

fn is_hidden(name: &[u8]) -> bool {
    name.strip_prefix(MARK).is_some_and(|rest| matches!(rest, [] | [b'.', ..]))
}

fn ensure_settable(name: &CStr) -> Result<(), Stop> {
    if is_hidden(name.to_bytes()) || name.to_bytes() == RESIDENCY { Err(Errno::PERM.into()) } else { Ok(()) }
}

impl FileSystem {
    pub(super) fn get_xattr(&self, call: &mut Call<'_>, name: &CStr, room: u32) -> Answer {
        match name.to_bytes() {
            name if is_hidden(name) => Err(Errno::NODATA.into()),
            RESIDENCY => {
                let text = match self.content.residency(call.node())? {
                    Residency::Resident => "resident",
                    Residency::Tiered { present_bytes: 0 } => "tiered",
                    Residency::Tiered { .. } => "partial",
                    Residency::Orphaned => "orphaned",
                };
                put(call, text.as_bytes(), room)
            }
            DOS => {
                let value = self.dos_attributes(call, name)?;
                put(call, &value, room)
            }
            _ => {
                let value = self.namespace.xattr(call.node(), name)?;
                put(call, &value, room)
            }
        }
    }

    /// Samba's attributes, for Samba with what it is to show of a file that is not here.
    fn dos_attributes(&self, call: &Call<'_>, name: &CStr) -> Result<Vec<u8>, Errno> {
        let stored = self.namespace.xattr(call.node(), name);
        if !self.content.is_samba(&call.caller(0))
            || self.content.residency(call.node())? == Residency::Resident
        {
            return stored;
        }
        match stored {
            Ok(value) => Ok(dos::offline(Some(value))),
            Err(Errno::NODATA) => Ok(dos::offline(None)),
            Err(errno) => Err(errno),
        }
    }

    pub(super) fn list_xattrs(&self, call: &mut Call<'_>, room: u32) -> Answer {
        let all = self.namespace.xattr_names(call.node())?;
        // `user.polder.residency` is not listed: a copy would try to carry it along.
        let shown: Vec<u8> = all
            .split_inclusive(|byte| *byte == 0)
            .filter(|name| !name.strip_suffix(b"\0").is_some_and(is_hidden))
            .flatten()
            .copied()
            .collect();
        put(call, &shown, room)
    }

    pub(super) fn set_xattr(
        &self,
        call: &mut Call<'_>,
        name: &CStr,
        value: &[u8],
        flags: u32,
        keep_setgid: bool,
    ) -> Answer {
        ensure_settable(name)?;
        let value =
            if name.to_bytes() == DOS { Cow::Owned(dos::stored(value)) } else { Cow::Borrowed(value) };
        let node = call.node();
        let how = match flags {
            0 => SetXattr::Either,
            1 => SetXattr::Create,
            2 => SetXattr::Replace,
            _ => return Err(Errno::INVAL.into()),
        };
        let act = || self.namespace.set_xattr(node, name, &value, how, keep_setgid);
        if how != SetXattr::Create {
            // The same twice is the same.
            return Ok(act()?);
        }
        let has = |found: Result<Vec<u8>, Errno>| match found {
            Ok(_) => Ok(true),
            Err(Errno::NODATA) => Ok(false),
            Err(errno) => Err(errno),
        };
        let before =
            || Ok(Before { subject: u64::from(has(self.namespace.xattr(node, name))?), displaced: 0 });
        let is_done = |before: Before| Ok(before.subject == 0 && has(self.namespace.xattr(node, name))?);
        self.once(call, &[], before, is_done, act)?;
        Ok(())
    }

    pub(super) fn remove_xattr(&self, call: &mut Call<'_>, name: &CStr) -> Answer {
        ensure_settable(name)?;
        let node = call.node();
        let before = || self.namespace.xattr(node, name).map(|_| Before { subject: 1, displaced: 0 });
        let is_done = |_| match self.namespace.xattr(node, name) {
            Ok(_) => Ok(false),
            Err(Errno::NODATA) => Ok(true),
            Err(errno) => Err(errno),
        };
        self.once(call, &[], before, is_done, || self.namespace.remove_xattr(node, name))?;
        Ok(())
    }
}
