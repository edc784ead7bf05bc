//! The file system: requests in, answers out, over the two ports. No kernel is needed to run it.
//!
//! Order of use: [`FileSystem::answer`] for each request; then, once the reply is written or was not taken,
//! [`FileSystem::delivered`] with what the answer left. A request that is not answered because it would wait
//! ([`Stop::WouldWait`]) is given again with `may_wait`.
//!
//! Invariants: a served read is whole or an error; what cannot be repeated is noted in the ring before it is done; no lock is held while
//! a port is called.

mod bytes;
mod dos;
mod names;
mod once;
mod opens;
mod xattrs;

use std::ffi::CString;
use std::sync::Arc;

use rustix::io::Errno;

use crate::interrupt::Interrupt;
use crate::motion::Motion;
use crate::ports::{Attributes, Caller, Component, Content, Entry, Namespace, Node};
use crate::proto::{
    AttributesOut, EntryOut, Header, Lifetime, Operation, RESENT, Request, SetAttrIn, StatxOut,
};
use crate::shared::Shared;

pub(crate) use opens::{Backings, Opens};

/// Tells the kernel that what it keeps has changed. Must not be called with a lock held.
pub(crate) trait Tell: Send + Sync {
    /// Attributes of a node are to be asked for again.
    fn attributes_changed(&self, node: Node);
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The answer is an error.
    Error(Errno),
    /// It would wait, and must not.
    WouldWait,
    /// No reply is expected.
    Silent,
}

impl From<Errno> for Stop {
    fn from(errno: Errno) -> Self {
        Self::Error(errno)
    }
}

pub(crate) type Answer = Result<(), Stop>;

/// What an answer leaves to be done once its reply is written.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Leaves {
    /// Slot of the ring.
    ring: Option<u32>,
    /// A file that was opened by it.
    opened: Option<u64>,
    /// Whose attributes the kernel must not keep longer.
    changed: Option<Node>,
    /// The last release of a file.
    released: Option<(Node, bool)>,
}

/// One request on its way.
pub(crate) struct Call<'a> {
    pub(crate) header: &'a Header,
    pub(crate) interrupt: &'a Interrupt,
    pub(crate) may_wait: bool,
    /// The reply without its header. Cleared by whoever answers with an error.
    pub(crate) out: &'a mut Vec<u8>,
    pub(crate) leaves: Leaves,
}

impl Call<'_> {
    /// The request's number, the same when it is sent again.
    fn unique(&self) -> u64 {
        self.header.unique & !RESENT
    }

    fn is_resent(&self) -> bool {
        self.header.unique & RESENT != 0
    }

    fn node(&self) -> Node {
        Node(self.header.node)
    }

    fn caller(&self, umask: u32) -> Caller {
        Caller { uid: self.header.uid, gid: self.header.gid, pid: self.header.pid, umask: umask & 0o777 }
    }

    fn ensure_may_wait(&self) -> Answer {
        if self.may_wait { Ok(()) } else { Err(Stop::WouldWait) }
    }
}

/// The name under the root that is the tree's own.
const STATE_DIR: &[u8] = b".polder";

fn is_hidden(parent: Node, name: &[u8]) -> bool {
    parent == Node::ROOT && name == STATE_DIR
}

/// The file system of one connection.
pub(crate) struct FileSystem {
    namespace: Arc<dyn Namespace>,
    content: Arc<dyn Content>,
    shared: Arc<Shared>,
    opens: Opens,
    motion: Motion,
    tell: Box<dyn Tell>,
}

impl FileSystem {
    pub(crate) fn new(
        namespace: Arc<dyn Namespace>,
        content: Arc<dyn Content>,
        shared: Arc<Shared>,
        opens: Opens,
        tell: Box<dyn Tell>,
    ) -> Self {
        Self { namespace, content, shared, opens, motion: Motion::default(), tell }
    }

    /// Names will be changed beneath the mount; until [`FileSystem::end_motion`], which comes after the kernel was told.
    pub(crate) fn begin_motion(&self, names: &[(Node, CString)]) {
        self.motion.begin(&*self.namespace, names);
    }

    /// The kernel was told of them.
    pub(crate) fn end_motion(&self, names: &[(Node, CString)]) {
        self.motion.end(names);
    }

    /// Runs a change beneath the mount while no name is changed through it.
    pub(crate) fn alone<T>(&self, change: impl FnOnce() -> T) -> T {
        self.motion.alone(change)
    }

    /// Nobody can write to the node any more.
    pub(crate) fn settle(&self, node: Node) {
        self.opens.settle(node.0);
    }

    /// Somebody may be writing to the node, unseen.
    pub(crate) fn unsettle(&self, node: Node) {
        self.opens.unsettle(node.0);
    }

    /// Does what was put off. To be called when no request waits.
    pub(crate) fn idle(&self) {
        while let Some(last) = self.opens.reap() {
            self.content.released(Node(last.node), last.was_written);
        }
    }

    /// Whether the kernel has refused to let a file pass through.
    pub(crate) fn was_passthrough_refused(&self) -> bool {
        self.opens.was_refused()
    }

    /// How many files are open.
    pub(crate) fn open_count(&self) -> usize {
        self.opens.count()
    }

    /// Answers a request.
    pub(crate) fn answer(&self, request: &Request<'_>, call: &mut Call<'_>) -> Answer {
        match request.operation {
            Operation::Lookup { name } => self.lookup(call, name),
            Operation::GetAttr => self.get_attributes(call),
            Operation::Statx { .. } => self.statx(call),
            Operation::SetAttr(changes) => self.set_attributes(call, &changes),
            Operation::ReadLink => {
                let text = self.namespace.read_link(call.node())?;
                call.out.extend(text);
                Ok(())
            }
            Operation::Symlink { name, text } => self.symlink(call, name, text),
            Operation::MkNod { mode, rdev, umask, name } => self.make_node(call, name, mode, rdev, umask),
            Operation::MkDir { mode, umask, name } => self.make_directory(call, name, mode, umask),
            Operation::Unlink { name } => self.remove(call, name, false),
            Operation::RmDir { name } => self.remove(call, name, true),
            Operation::Rename { new_parent, flags, name, new_name } => {
                self.rename(call, name, (Node(new_parent), new_name), flags)
            }
            Operation::Link { old, name } => self.link(call, Node(old), name),
            Operation::ReadDir(read) => self.read_directory(call, &read, false),
            Operation::ReadDirPlus(read) => self.read_directory(call, &read, true),
            Operation::StatFs => {
                let space = self.namespace.space(call.node())?;
                crate::proto::put_space(call.out, &space);
                Ok(())
            }
            Operation::FSyncDir => {
                call.ensure_may_wait()?;
                Ok(self.namespace.sync_directory(call.node())?)
            }
            Operation::SyncFs => {
                call.ensure_may_wait()?;
                Ok(self.namespace.sync_all()?)
            }
            Operation::SetXattr { name, value, flags, kill_sgid } => {
                self.set_xattr(call, name, value, flags, !kill_sgid)
            }
            Operation::GetXattr { name, size } => self.get_xattr(call, name, size),
            Operation::ListXattr { size } => self.list_xattrs(call, size),
            Operation::RemoveXattr { name } => self.remove_xattr(call, name),
            Operation::Forget(_) | Operation::Interrupt { .. } => Err(Stop::Silent),
            // Once answered so, the kernel asks no more: a close needs no answer, a directory is read by node and cookie.
            Operation::Flush | Operation::OpenDir => Err(Errno::NOSYS.into()),
            Operation::ReleaseDir | Operation::Destroy => Ok(()),
            Operation::Init(_) => Err(Errno::PROTO.into()),
            Operation::Other => Err(Errno::NOSYS.into()),
            _ => self.answer_bytes(request, call),
        }
    }

    /// Tells what became of the reply. A file whose opener is gone is released.
    pub(crate) fn delivered(&self, leaves: Leaves, was_taken: bool) {
        if let Some(slot) = leaves.ring {
            self.shared.forget(slot);
        }
        if let Some(node) = leaves.changed {
            self.tell.attributes_changed(node);
        }
        let released = match leaves.opened {
            Some(fh) if !was_taken => self.opens.release(fh).map(|last| (Node(last.node), last.was_written)),
            _ => leaves.released,
        };
        if let Some((node, was_written)) = released {
            self.content.released(node, was_written);
        }
    }

    /// For how long the kernel may keep a node's attributes.
    fn lifetime(&self, node: Node) -> Lifetime {
        match self.opens.is_quiet(node.0) {
            Some(true) => Lifetime::Unlimited,
            Some(false) => Lifetime::None,
            None if self.content.is_at_rest(node) => {
                self.opens.settle(node.0);
                Lifetime::Unlimited
            }
            None => Lifetime::None,
        }
    }

    fn put_entry(&self, out: &mut Vec<u8>, entry: &Entry) {
        let attributes_lifetime = self.lifetime(entry.node);
        EntryOut { entry: Some(entry), name_lifetime: Lifetime::Unlimited, attributes_lifetime }.put(out);
    }

    fn put_attributes(&self, call: &mut Call<'_>, attributes: &Attributes) {
        let lifetime = self.lifetime(call.node());
        AttributesOut(attributes, lifetime).put(call.out);
    }

    fn lookup(&self, call: &mut Call<'_>, name: &std::ffi::CStr) -> Answer {
        let parent = call.node();
        if is_hidden(parent, name.to_bytes()) {
            return Err(Errno::NOENT.into());
        }
        let found = match name.to_bytes() {
            // By who exports the mount by handle.
            b"." => self.namespace.entry(parent),
            b".." => self.namespace.parent(parent),
            _ => {
                let name = Component::new(name)?;
                let found = self.namespace.lookup(parent, name);
                match &found {
                    Ok(entry) => self.motion.tell((parent, name), entry.node.0),
                    Err(Errno::NOENT) => self.motion.tell((parent, name), 0),
                    Err(_) => (),
                }
                found
            }
        };
        match found {
            Ok(entry) => self.put_entry(call.out, &entry),
            Err(Errno::NOENT) => {
                let (name_lifetime, attributes_lifetime) = (Lifetime::Unlimited, Lifetime::None);
                EntryOut { entry: None, name_lifetime, attributes_lifetime }.put(call.out);
            }
            Err(errno) => return Err(errno.into()),
        }
        Ok(())
    }

    fn get_attributes(&self, call: &mut Call<'_>) -> Answer {
        let attributes = self.namespace.attributes(call.node())?;
        self.put_attributes(call, &attributes);
        Ok(())
    }

    fn statx(&self, call: &mut Call<'_>) -> Answer {
        let attributes = self.namespace.attributes(call.node())?;
        StatxOut(&attributes, self.lifetime(call.node())).put(call.out);
        Ok(())
    }

    fn set_attributes(&self, call: &mut Call<'_>, asked: &SetAttrIn) -> Answer {
        use crate::ports::{SetAttributes, SetTime};
        use crate::proto::setattr as valid;
        let has = |bit: u32| asked.valid & bit != 0;
        if has(valid::SIZE) {
            self.set_size(call, asked.size, has(valid::KILL_SUIDGID))?;
        }
        let time = |set: u32, now: u32, to| match (has(set), has(now)) {
            (true, true) => Some(SetTime::Now),
            (true, false) => Some(SetTime::To(to)),
            (false, _) => None,
        };
        let changes = SetAttributes {
            mode: has(valid::MODE).then_some(asked.mode & 0o7777),
            uid: has(valid::UID).then_some(asked.uid),
            gid: has(valid::GID).then_some(asked.gid),
            atime: time(valid::ATIME, valid::ATIME_NOW, asked.atime),
            mtime: time(valid::MTIME, valid::MTIME_NOW, asked.mtime),
        };
        let attributes = if changes == SetAttributes::default() {
            self.namespace.attributes(call.node())?
        } else {
            self.namespace.set_attributes(call.node(), &changes)?
        };
        self.put_attributes(call, &attributes);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
