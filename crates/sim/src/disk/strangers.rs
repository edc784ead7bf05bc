//! Further names of files that come and go before anybody has looked at them.
//!
//! The watcher tells of a change under the name through which it was made. Where that is gone before the agent has looked at it even once,
//! nobody knows which file it was a name of: the kernel tells names, and numbers of inodes of directories alone. What was changed is found by
//! the next walk of everything, a day later at most.

use std::collections::BTreeMap;

use polder_types::Name;

use super::{Disk, ROOTS};

/// Names that nobody has looked at, and whether something was changed through them.
pub(super) type Strangers = BTreeMap<(u64, Name), bool>;

impl Disk {
    /// A file got a further name.
    pub(super) fn stranger_came(&mut self, dir: u64, name: &Name) {
        if !ROOTS[1..].contains(&dir) {
            self.strangers.insert((dir, name.clone()), false);
        }
    }

    /// Something was changed through a name.
    pub(super) fn changed_through(&mut self, dir: u64, name: &Name) {
        if let Some(changed) = self.strangers.get_mut(&(dir, name.clone())) {
            *changed = true;
        }
    }

    /// Somebody looks at a name.
    pub fn looked_at(&mut self, dir: u64, name: &Name) {
        self.strangers.remove(&(dir, name.clone()));
    }

    /// A name of a file went, to another place or for good.
    pub(super) fn stranger_went(&mut self, from: (u64, &Name), to: Option<(u64, &Name)>, stays: bool) {
        let Some(changed) = self.strangers.remove(&(from.0, from.1.clone())) else { return };
        match to {
            Some((dir, name)) => drop(self.strangers.insert((dir, name.clone()), changed)),
            None => self.untold |= changed && stays,
        }
    }
}
