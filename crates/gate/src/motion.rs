//! Names that are changed beneath the mount, until the kernel has been told.
//!
//! Between such a change and the kernel's being told, a program's request by that name is about what the kernel still shows there, and would be carried
//! out on what stands there now: a rename would give the new file another name, behind which the kernel goes on showing the old one. So for each name
//! that is being changed there is noted which node the kernel was last told of. A change through the mount whose name stands for another one is answered
//! with ESTALE; the kernel then looks up anew, and asks again if there is still something to ask for.
//!
//! Order of use: [`Motion::begin`]; [`Motion::alone`] around each change beneath the mount; the kernel is told, with nothing held; [`Motion::end`].
//!
//! Nobody waits here for the kernel: it takes the lock of a directory to be told, and whose request is being answered holds that lock.
//!
//! RACE: an answer to a look-up that was given before a change and reaches the kernel after a later answer of the same name. Worst outcome: the next
//! rename is carried out though the kernel showed the old file for these microseconds; it is a program's word against sync's at one moment.

use std::collections::HashMap;
use std::ffi::CString;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::io::Errno;

use crate::ports::{Component, Namespace, Node};
use crate::rooms::{Room, Rooms};
use crate::shared::lock;

/// A name in a directory.
pub(crate) type At<'a> = (Node, Component<'a>);

/// Stands for "nobody knows": no node has it.
const UNKNOWN: u64 = u64::MAX;

struct Moving {
    /// Changes under way that are about it.
    changes: u32,
    /// What the kernel was last told that it stands for; 0 for nothing.
    told: u64,
}

/// All names that are in motion.
#[derive(Default)]
pub(crate) struct Motion {
    names: Mutex<HashMap<u64, HashMap<CString, Moving>>>,
    /// How many they are: mostly none, and then nobody asks further.
    count: AtomicUsize,
    /// A change beneath the mount does not overlap with those through it. Changes beneath are about different names, and need not wait for each other.
    rooms: Rooms,
}

/// Which node stands at a name; 0 for none.
fn at(namespace: &dyn Namespace, (parent, name): At<'_>) -> Result<u64, Errno> {
    match namespace.node_at(parent, name) {
        Ok(node) => Ok(node.0),
        Err(Errno::NOENT) => Ok(0),
        Err(errno) => Err(errno),
    }
}

impl Motion {
    /// Names will be changed beneath the mount.
    pub(crate) fn begin(&self, namespace: &dyn Namespace, names: &[(Node, CString)]) {
        // What the kernel was told so far is what stands there, once no request is half done.
        let _inside = self.rooms.enter(Room::Beneath);
        for (parent, name) in names {
            let here = Component::new(name).and_then(|name| at(namespace, (*parent, name)));
            let mut all = lock(&self.names);
            let names = all.entry(parent.0).or_default();
            let new = || Moving { changes: 0, told: here.unwrap_or(UNKNOWN) };
            names.entry(name.clone()).or_insert_with(new).changes += 1;
            self.count.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// The kernel has been told of them.
    pub(crate) fn end(&self, names: &[(Node, CString)]) {
        let mut all = lock(&self.names);
        for (parent, name) in names {
            let Some(names) = all.get_mut(&parent.0) else { continue };
            if let Some(moving) = names.get_mut(name) {
                moving.changes -= 1;
                if moving.changes == 0 {
                    names.remove(name);
                }
            }
            if names.is_empty() {
                all.remove(&parent.0);
            }
            self.count.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Runs a change beneath the mount while no name is changed through it.
    pub(crate) fn alone<T>(&self, change: impl FnOnce() -> T) -> T {
        let _inside = self.rooms.enter(Room::Beneath);
        change()
    }

    /// Runs a change through the mount, if the kernel knows what stands at its names: else `ESTALE`. What is not new is run in any case.
    pub(crate) fn through<T, E: From<Errno>>(
        &self,
        namespace: &dyn Namespace,
        names: &[At<'_>],
        is_new: bool,
        change: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        let _inside = self.rooms.enter(Room::Through);
        if !self.is_any() {
            return change();
        }
        let moving: Vec<At<'_>> = names.iter().copied().filter(|name| self.told(*name).is_some()).collect();
        for name in &moving {
            if is_new && self.told(*name) != Some(at(namespace, *name)?) {
                return Err(Errno::STALE.into());
            }
        }
        let changed = change()?;
        for name in moving {
            self.tell(name, at(namespace, name).unwrap_or(UNKNOWN));
        }
        Ok(changed)
    }

    /// The kernel is told what a name stands for; 0 for nothing.
    pub(crate) fn tell(&self, (parent, name): At<'_>, node: u64) {
        if self.is_any()
            && let Some(names) = lock(&self.names).get_mut(&parent.0)
            && let Some(moving) = names.get_mut(name.as_c_str())
        {
            moving.told = node;
        }
    }

    /// What the kernel was last told of a name; `None` when the name is not in motion.
    pub(crate) fn told(&self, (parent, name): At<'_>) -> Option<u64> {
        if !self.is_any() {
            return None;
        }
        Some(lock(&self.names).get(&parent.0)?.get(name.as_c_str())?.told)
    }

    fn is_any(&self) -> bool {
        self.count.load(Ordering::SeqCst) != 0
    }
}
