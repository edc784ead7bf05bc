//! What must be done once, though the kernel may ask twice.
//!
//! The kernel holds the lock of a directory until a change in it is answered, also while there is no worker. So what stands at the names of a
//! resent request was put there by the request itself, or was there before it; what was there before is in the ring.
//!
//! RACE: a change that sync makes at the same name between the death and the resent request. Worst outcome: an error in place of
//! success, or the reverse, for a change that another one has overtaken anyway.

use rustix::io::Errno;

use super::{Answer, Call, FileSystem, Stop};
use crate::motion::At;
use crate::ports::{Component, Node};
use crate::shared::{Progress, RingSlot};

/// What stood at the names before; 0 for nothing.
#[derive(Debug, Clone, Copy)]
pub(super) struct Before {
    pub(super) subject: u64,
    pub(super) displaced: u64,
}

/// Whether an action was carried out now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Acted<T> {
    /// With this result.
    Now(T),
    /// By a worker that died before it answered.
    Earlier,
}

impl FileSystem {
    /// Carries out what cannot be repeated. `before` looks at the names, `is_done` tells by what stands there now whether it was carried out.
    /// `ESTALE` while the kernel shows something else at one of the names.
    pub(super) fn once<T>(
        &self,
        call: &mut Call<'_>,
        names: &[At<'_>],
        before: impl FnOnce() -> Result<Before, Errno>,
        is_done: impl FnOnce(Before) -> Result<bool, Errno>,
        act: impl FnOnce() -> Result<T, Errno>,
    ) -> Result<Acted<T>, Stop> {
        let unique = call.unique();
        let noted = if call.is_resent() { self.shared.progress(unique) } else { None };
        // What was begun was allowed to be; refused now, the kernel would have it done a second time, to whatever stands there since.
        let is_new = noted.is_none();
        let carry_out = || self.once_noted(call, noted, before, is_done, act);
        self.motion.through(&*self.namespace, names, is_new, carry_out)
    }

    fn once_noted<T>(
        &self,
        call: &mut Call<'_>,
        noted: Option<(Progress, RingSlot<'_>)>,
        before: impl FnOnce() -> Result<Before, Errno>,
        is_done: impl FnOnce(Before) -> Result<bool, Errno>,
        act: impl FnOnce() -> Result<T, Errno>,
    ) -> Result<Acted<T>, Stop> {
        let slot = match noted {
            Some((Progress::Done, slot)) => {
                call.leaves.ring = Some(slot.keep());
                return Ok(Acted::Earlier);
            }
            Some((Progress::Begun { subject, displaced }, slot)) => {
                if is_done(Before { subject, displaced })? {
                    slot.done();
                    call.leaves.ring = Some(slot.keep());
                    return Ok(Acted::Earlier);
                }
                slot
            }
            None => {
                let Before { subject, displaced } = before()?;
                self.shared.begin(call.unique(), subject, displaced)
            }
        };
        match act() {
            Ok(result) => {
                slot.done();
                call.leaves.ring = Some(slot.keep());
                Ok(Acted::Now(result))
            }
            Err(errno) => {
                slot.forget();
                Err(errno.into())
            }
        }
    }

    /// Which node stands at a name; 0 for none.
    pub(super) fn at(&self, parent: Node, name: Component<'_>) -> Result<u64, Errno> {
        match self.namespace.node_at(parent, name) {
            Ok(node) => Ok(node.0),
            Err(Errno::NOENT) => Ok(0),
            Err(errno) => Err(errno),
        }
    }

    /// Makes a name, and answers with what it stands for.
    pub(super) fn make_once<T>(
        &self,
        call: &mut Call<'_>,
        name: Component<'_>,
        act: impl FnOnce() -> Result<T, Errno>,
    ) -> Result<Acted<T>, Stop> {
        let parent = call.node();
        let before = || Ok(Before { subject: 0, displaced: self.at(parent, name)? });
        // A name that was free and is taken now was made by us.
        let is_done = |before: Before| Ok(before.displaced == 0 && self.at(parent, name)? != 0);
        self.once(call, &[(parent, name)], before, is_done, act)
    }

    /// The entry that was made, now or earlier, as the reply.
    pub(super) fn answer_made(
        &self,
        call: &mut Call<'_>,
        name: Component<'_>,
        made: Acted<crate::ports::Entry>,
    ) -> Answer {
        let entry = match made {
            Acted::Now(entry) => entry,
            Acted::Earlier => self.namespace.lookup(call.node(), name)?,
        };
        self.put_entry(call.out, &entry);
        Ok(())
    }
}
