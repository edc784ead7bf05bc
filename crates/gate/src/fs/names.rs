//! Names: making, removing, renaming, listing.

use std::ffi::CStr;

use rustix::io::Errno;

use super::once::{Acted, Before};
use super::{Answer, Call, FileSystem, Stop, is_hidden};
use crate::ports::{Component, DirEntry, Entry, Make, Node};
use crate::proto::{DirectoryOut, EntryOut, Lifetime, ReadIn};

const S_IFMT: u32 = 0o170_000;
const S_IFREG: u32 = 0o100_000;

/// A name that is to be made in a directory.
pub(super) fn new_name(parent: Node, name: &CStr) -> Result<Component<'_>, Stop> {
    if is_hidden(parent, name.to_bytes()) {
        return Err(Errno::PERM.into());
    }
    Ok(Component::new(name)?)
}

/// A name that is to be there.
fn old_name(parent: Node, name: &CStr) -> Result<Component<'_>, Stop> {
    if is_hidden(parent, name.to_bytes()) {
        return Err(Errno::NOENT.into());
    }
    Ok(Component::new(name)?)
}

/// The kernel's number of a device in messages, as `makedev` encodes it.
fn device(rdev: u32) -> u64 {
    rustix::fs::makedev((rdev & 0xfff00) >> 8, (rdev & 0xff) | ((rdev >> 12) & 0xfff00))
}

impl FileSystem {
    pub(super) fn symlink(&self, call: &mut Call<'_>, name: &CStr, text: &CStr) -> Answer {
        let (parent, caller) = (call.node(), call.caller(0));
        let name = new_name(parent, name)?;
        let act = || self.namespace.make(&caller, parent, name, 0o777, Make::Symlink(text));
        let made = self.make_once(call, name, act)?;
        self.answer_made(call, name, made)
    }

    pub(super) fn make_directory(&self, call: &mut Call<'_>, name: &CStr, mode: u32, umask: u32) -> Answer {
        let (parent, caller) = (call.node(), call.caller(umask));
        let name = new_name(parent, name)?;
        let act = || self.namespace.make(&caller, parent, name, mode & 0o7777, Make::Directory);
        let made = self.make_once(call, name, act)?;
        self.answer_made(call, name, made)
    }

    pub(super) fn make_node(
        &self,
        call: &mut Call<'_>,
        name: &CStr,
        mode: u32,
        rdev: u32,
        umask: u32,
    ) -> Answer {
        let (parent, caller) = (call.node(), call.caller(umask));
        let name = new_name(parent, name)?;
        let act = || match mode & S_IFMT {
            0 | S_IFREG => Ok(self.namespace.create(&caller, parent, name, mode & 0o7777)?.0),
            _ => self.namespace.make(&caller, parent, name, mode, Make::Special { rdev: device(rdev) }),
        };
        let made = self.make_once(call, name, act)?;
        self.answer_made(call, name, made)
    }

    pub(super) fn link(&self, call: &mut Call<'_>, old: Node, name: &CStr) -> Answer {
        let parent = call.node();
        let name = new_name(parent, name)?;
        let made = self.make_once(call, name, || self.namespace.link(old, parent, name))?;
        self.answer_made(call, name, made)
    }

    pub(super) fn remove(&self, call: &mut Call<'_>, name: &CStr, is_directory: bool) -> Answer {
        let parent = call.node();
        let name = old_name(parent, name)?;
        let before = || Ok(Before { subject: self.namespace.node_at(parent, name)?.0, displaced: 0 });
        let is_done = |before: Before| Ok(self.at(parent, name)? != before.subject);
        let act = || match is_directory {
            true => self.namespace.remove_directory(parent, name),
            false => self.namespace.unlink(parent, name),
        };
        self.once(call, &[(parent, name)], before, is_done, act)?;
        Ok(())
    }

    pub(super) fn rename(
        &self,
        call: &mut Call<'_>,
        name: &CStr,
        (new_parent, new_name): (Node, &CStr),
        flags: u32,
    ) -> Answer {
        let parent = call.node();
        let from = (parent, old_name(parent, name)?);
        let to = (new_parent, self::new_name(new_parent, new_name)?);
        let before = || {
            let subject = self.namespace.node_at(from.0, from.1)?.0;
            Ok(Before { subject, displaced: self.at(to.0, to.1)? })
        };
        let is_done = |before: Before| {
            // Two names of one inode: renaming one to the other changes nothing, so it may be done again.
            let moved = self.at(to.0, to.1)? == before.subject;
            Ok(moved && self.at(from.0, from.1)? != before.subject)
        };
        self.once(call, &[from, to], before, is_done, || self.namespace.rename(from, to, flags))?;
        Ok(())
    }

    /// What stands at a name that was listed. A name in motion is left to a look-up.
    fn listed(&self, directory: Node, name: Component<'_>) -> Result<Entry, Errno> {
        match self.motion.told((directory, name)) {
            Some(_) => Err(Errno::AGAIN),
            None => self.namespace.lookup(directory, name),
        }
    }

    pub(super) fn read_directory(&self, call: &mut Call<'_>, read: &ReadIn, is_plus: bool) -> Answer {
        let directory = call.node();
        let mut page = DirectoryOut { out: call.out, room: read.size as usize };
        let mut take = |entry: &DirEntry<'_>| {
            let name = entry.name.to_bytes();
            if is_hidden(directory, name) {
                return true;
            }
            if !is_plus {
                return page.put(entry, None);
            }
            // Of `.` and `..` the kernel takes no node.
            let found = match name {
                b"." | b".." => None,
                _ => {
                    let found = Component::new(entry.name).and_then(|name| self.listed(directory, name));
                    match found {
                        Ok(found) => Some(found),
                        // Vanished since it was listed.
                        Err(Errno::NOENT) => return true,
                        // Whoever asks for it is told why.
                        Err(_) => None,
                    }
                }
            };
            let attributes_lifetime = found.map_or(Lifetime::None, |entry| self.lifetime(entry.node));
            // Node 0 here means "not told": the kernel looks up itself.
            let name_lifetime = found.map_or(Lifetime::None, |_| Lifetime::Unlimited);
            page.put(entry, Some(&EntryOut { entry: found.as_ref(), name_lifetime, attributes_lifetime }))
        };
        Ok(self.namespace.read_directory(directory, read.offset, &mut take)?)
    }
}

/// Whether an entry was made by this very call.
pub(super) fn now<T>(acted: Acted<T>) -> Option<T> {
    match acted {
        Acted::Now(result) => Some(result),
        Acted::Earlier => None,
    }
}
