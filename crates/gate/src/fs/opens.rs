//! Open files: which way each inode goes, and what keeps it open.
//!
//! Invariant: all opens of an inode go one way, with one backing id, from the first open to the last release; the kernel mixes neither.
//!
//! What ends with the last release (the registration, the descriptor) is put off for a moment, see [`Opens::reap`]: the caller does not wait for
//! it, but its next open would. An inode that is opened again in that moment goes on as it was.

use std::collections::hash_map::Entry as MapEntry;
use std::collections::{HashMap, HashSet, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rustix::io::Errno;

use crate::ports::Opened;
use crate::shared::{OpenSlot, Shared, lock};

/// Registrations of backing files with the kernel.
pub(crate) trait Backings: Send + Sync {
    /// Registers a file; the id is never 0.
    fn open(&self, file: BorrowedFd<'_>) -> Result<u32, Errno>;
    /// Ends a registration. Of an unknown one, nothing.
    fn close(&self, id: u32);
}

/// How an open is to be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Way {
    /// With passthrough.
    pub(crate) backing_id: Option<u32>,
}

/// The real file of an open inode, as it was last found.
#[derive(Debug, Clone)]
pub(crate) enum Real {
    /// Nothing was found yet in this life of the worker.
    Unknown,
    /// For reading; its bytes are the user's.
    Readable(Arc<OwnedFd>),
    /// For reading and writing.
    Writable(Arc<OwnedFd>),
    /// A placeholder.
    Tiered(Arc<OwnedFd>),
}

struct Inode {
    opens: u32,
    writers: u32,
    was_written: bool,
    is_passthrough: bool,
    backing_id: u32,
    real: Real,
}

#[derive(Default)]
struct Table {
    by_handle: HashMap<u64, (u32, OpenSlot)>,
    by_node: HashMap<u64, Inode>,
    /// Passed through and have no open any more; with the slot that tells the next worker so.
    lingering: VecDeque<(u64, u32)>,
    /// Were open for writing, and may still be mapped.
    unsettled: HashSet<u64>,
}

/// What the last release of an inode leaves to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Last {
    pub(crate) node: u64,
    pub(crate) was_written: bool,
}

/// All open files of the connection.
pub(crate) struct Opens {
    table: Mutex<Table>,
    shared: Arc<Shared>,
    backings: Box<dyn Backings>,
    has_passthrough: bool,
    was_refused: AtomicBool,
}

/// What is asked for at an open.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    pub(crate) fh: u64,
    pub(crate) node: u64,
    pub(crate) is_writable: bool,
    pub(crate) is_append: bool,
}

impl Opens {
    /// Takes up what an earlier worker of this connection had open.
    pub(crate) fn take_up(shared: Arc<Shared>, backings: Box<dyn Backings>, has_passthrough: bool) -> Self {
        let mut table = Table::default();
        let (closing, live): (Vec<_>, Vec<_>) =
            shared.opens().into_iter().partition(|(_, open)| open.is_closing);
        let in_use: HashSet<u32> = live.iter().map(|(_, open)| open.backing_id).collect();
        for (slot, open) in closing {
            // Opened again since: it goes on.
            if !in_use.contains(&open.backing_id) {
                backings.close(open.backing_id);
            }
            shared.leave_open(slot);
        }
        for (slot, open) in live {
            let inode = table.by_node.entry(open.node).or_insert(Inode {
                opens: 0,
                writers: 0,
                was_written: false,
                is_passthrough: open.is_passthrough,
                backing_id: open.backing_id,
                real: Real::Unknown,
            });
            inode.opens += 1;
            inode.writers += u32::from(open.is_writable);
            inode.was_written |= open.is_writable;
            table.by_handle.insert(open.fh, (slot, open));
        }
        // Registered by a worker that died before it noted them; ids are given in ascending order.
        let high = shared.backing_high();
        if has_passthrough && high > 0 {
            (high + 1..=high + LOST_IDS_MAX).for_each(|id| backings.close(id));
        }
        let was_refused = AtomicBool::new(false);
        Self { table: Mutex::new(table), shared, backings, has_passthrough, was_refused }
    }

    /// How an inode that is open already goes on; `None` when it is not open.
    pub(crate) fn way(&self, node: u64) -> Option<Way> {
        lock(&self.table).by_node.get(&node).map(Inode::way)
    }

    /// Whether reads and writes of the node pass through now: the file is resident, and stays so.
    pub(crate) fn is_passthrough(&self, node: u64) -> bool {
        lock(&self.table).by_node.get(&node).is_some_and(|inode| inode.is_passthrough)
    }

    /// Notes an open. `found` is the real file: of an inode that is open already, only if something was learnt about it.
    pub(crate) fn enter(&self, asked: &Asked, found: Option<Found>) -> Result<Way, Errno> {
        let mut guard = lock(&self.table);
        let table = &mut *guard;
        if let Some((_, open)) = table.by_handle.get(&asked.fh) {
            // Sent again: it was entered before the worker died.
            debug_assert_eq!(open.node, asked.node);
            return Ok(table.by_node[&asked.node].way());
        }
        let inode = match table.by_node.entry(asked.node) {
            MapEntry::Vacant(entry) => entry.insert(self.first(found.ok_or(Errno::STALE)?)),
            MapEntry::Occupied(entry) => {
                let inode = entry.into_mut();
                if let Some(found) = found {
                    inode.learn(found.real());
                }
                inode
            }
        };
        let open = OpenSlot {
            fh: asked.fh,
            node: asked.node,
            backing_id: inode.backing_id,
            is_passthrough: inode.is_passthrough,
            is_writable: asked.is_writable,
            is_append: asked.is_append,
            is_closing: false,
        };
        let slot = match self.shared.enter_open(&open) {
            Ok(slot) => slot,
            Err(errno) => {
                if inode.opens == 0 {
                    if inode.backing_id != 0 {
                        self.backings.close(inode.backing_id);
                    }
                    table.by_node.remove(&asked.node);
                }
                return Err(errno);
            }
        };
        inode.opens += 1;
        inode.writers += u32::from(asked.is_writable);
        inode.was_written |= asked.is_writable;
        let way = inode.way();
        table.by_handle.insert(asked.fh, (slot, open));
        Ok(way)
    }

    fn first(&self, found: Found) -> Inode {
        let (file, is_resident) = match &found.opened {
            Opened::Resident(file) => (file.as_fd(), true),
            Opened::Tiered(file) => (file.as_fd(), false),
        };
        // Served files too: the kernel keeps the real file open whatever dies.
        // Where the kernel refuses (too few rights, a real file system that is stacked itself) the file is served.
        let registered = self.has_passthrough.then(|| self.backings.open(file));
        if let Some(Err(_)) = registered {
            self.was_refused.store(true, Ordering::Relaxed);
        }
        let backing_id = registered.and_then(Result::ok).unwrap_or(0);
        self.shared.record_backing(backing_id);
        Inode {
            opens: 0,
            writers: 0,
            was_written: false,
            is_passthrough: is_resident && backing_id != 0,
            backing_id,
            real: found.real(),
        }
    }

    /// Notes a release. Released twice, or never entered: nothing.
    pub(crate) fn release(&self, fh: u64) -> Option<Last> {
        let mut guard = lock(&self.table);
        let table = &mut *guard;
        let (slot, mut open) = table.by_handle.remove(&fh)?;
        let inode = table.by_node.get_mut(&open.node)?;
        inode.opens -= 1;
        inode.writers -= u32::from(open.is_writable);
        if inode.opens > 0 {
            self.shared.leave_open(slot);
            return None;
        }
        if inode.was_written {
            table.unsettled.insert(open.node);
        }
        open.is_closing = inode.backing_id != 0;
        self.shared.change_open(slot, &open);
        // A served file is not put off: it may be resident by now, and the next open is to pass through.
        let is_put_off = inode.is_passthrough;
        table.lingering.push_back((open.node, slot));
        if is_put_off && table.lingering.len() <= LINGERING_MAX {
            return None;
        }
        let last = if is_put_off { table.lingering.pop_front() } else { table.lingering.pop_back() };
        last.and_then(|(node, slot)| self.end(table, node, slot))
    }

    /// Ends what was put off of one inode; `None` when there is nothing. To be called when nothing is asked for, until there is nothing.
    pub(crate) fn reap(&self) -> Option<Last> {
        let mut guard = lock(&self.table);
        while let Some((node, slot)) = guard.lingering.pop_front() {
            if let Some(last) = self.end(&mut guard, node, slot) {
                return Some(last);
            }
        }
        None
    }

    fn end(&self, table: &mut Table, node: u64, slot: u32) -> Option<Last> {
        let ended = match table.by_node.entry(node) {
            MapEntry::Occupied(entry) if entry.get().opens == 0 => Some(entry.remove()),
            // Opened again.
            _ => None,
        };
        let last = ended.map(|inode| {
            if inode.backing_id != 0 {
                self.backings.close(inode.backing_id);
            }
            Last { node, was_written: inode.was_written }
        });
        self.shared.leave_open(slot);
        last
    }

    /// The real file of an open inode, for what does not pass through.
    pub(crate) fn real(&self, node: u64) -> Real {
        lock(&self.table).by_node.get(&node).map_or(Real::Unknown, |inode| inode.real.clone())
    }

    /// Remembers the real file of an inode, if it is open.
    pub(crate) fn learn(&self, node: u64, found: Found) -> Real {
        let real = found.real();
        if let Some(inode) = lock(&self.table).by_node.get_mut(&node) {
            inode.learn(real.clone());
        }
        real
    }

    /// Whether the kernel may keep the node's attributes as far as opens tell: `None` when it was open for writing and may be mapped still.
    pub(crate) fn is_quiet(&self, node: u64) -> Option<bool> {
        let table = lock(&self.table);
        match table.by_node.get(&node) {
            Some(inode) if inode.writers > 0 => Some(false),
            _ if table.unsettled.contains(&node) => None,
            _ => Some(true),
        }
    }

    /// Whether an open for writing is the first of the inode.
    pub(crate) fn is_first_writer(&self, node: u64) -> bool {
        lock(&self.table).by_node.get(&node).is_some_and(|inode| inode.writers == 1)
    }

    /// Nobody can write to the node.
    pub(crate) fn settle(&self, node: u64) {
        lock(&self.table).unsettled.remove(&node);
    }

    /// Somebody may be writing to the node.
    pub(crate) fn unsettle(&self, node: u64) {
        lock(&self.table).unsettled.insert(node);
    }

    /// Whether the kernel has refused to register a file.
    pub(crate) fn was_refused(&self) -> bool {
        self.was_refused.load(Ordering::Relaxed)
    }

    /// How many files are open.
    pub(crate) fn count(&self) -> usize {
        lock(&self.table).by_handle.len()
    }
}

/// How many inodes may wait for their end.
const LINGERING_MAX: usize = 64;
/// More than threads could have registered at once when they died.
const LOST_IDS_MAX: u32 = 64;

impl Inode {
    fn way(&self) -> Way {
        Way { backing_id: self.is_passthrough.then_some(self.backing_id) }
    }

    /// What is writable is not forgotten for what is not; a placeholder never takes the place of a resident file.
    fn learn(&mut self, found: Real) {
        match (&self.real, &found) {
            (Real::Writable(_), _)
            | (Real::Readable(_), Real::Readable(_) | Real::Tiered(_))
            | (_, Real::Unknown) => (),
            _ => self.real = found,
        }
    }
}

/// What a port gave.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) opened: Opened,
    /// It was asked for a descriptor that can write.
    pub(crate) can_write: bool,
}

impl Found {
    fn real(self) -> Real {
        match self.opened {
            Opened::Resident(file) if self.can_write => Real::Writable(Arc::new(file)),
            Opened::Resident(file) => Real::Readable(Arc::new(file)),
            Opened::Tiered(file) => Real::Tiered(Arc::new(file)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default, Clone)]
    struct Fake(Arc<Mutex<(u32, Vec<u32>)>>);

    impl Backings for Fake {
        fn open(&self, _: BorrowedFd<'_>) -> Result<u32, Errno> {
            let mut state = lock(&self.0);
            state.0 += 1;
            let id = state.0;
            state.1.push(id);
            Ok(id)
        }
        fn close(&self, id: u32) {
            lock(&self.0).1.retain(|live| *live != id);
        }
    }

    fn file() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    fn resident() -> Option<Found> {
        Some(Found { opened: Opened::Resident(file()), can_write: false })
    }

    fn tiered() -> Option<Found> {
        Some(Found { opened: Opened::Tiered(file()), can_write: false })
    }

    fn shared() -> Arc<Shared> {
        Arc::new(Shared::take_up(Shared::create().unwrap()).unwrap())
    }

    fn asked(fh: u64, node: u64) -> Asked {
        Asked { fh, node, is_writable: false, is_append: false }
    }

    #[test]
    fn one_way_and_one_id_from_the_first_open_to_the_last_release() {
        let kernel = Fake::default();
        let opens = Opens::take_up(shared(), Box::new(kernel.clone()), true);
        let way = opens.enter(&asked(2, 9), tiered()).unwrap();
        assert_eq!(way.backing_id, None, "served");
        let way = opens.enter(&asked(4, 9), resident()).unwrap();
        assert_eq!(way.backing_id, None, "still served, though it is resident now");
        assert!(matches!(opens.real(9), Real::Readable(_)));
        assert_eq!(kernel.0.lock().unwrap().1, [1], "kept open by the kernel");
        assert_eq!(opens.release(2), None);
        assert_eq!(
            opens.release(4),
            Some(Last { node: 9, was_written: false }),
            "a served file ends at once"
        );
        assert!(kernel.0.lock().unwrap().1.is_empty());
        let way = opens.enter(&asked(6, 9), resident()).unwrap();
        assert_eq!(way.backing_id, Some(2), "passes through");
        assert_eq!(opens.enter(&asked(8, 9), None).unwrap().backing_id, Some(2));
    }

    #[test]
    fn the_end_of_an_inode_is_put_off_for_a_moment() {
        let (kernel, shared) = (Fake::default(), shared());
        let opens = Opens::take_up(shared.clone(), Box::new(kernel.clone()), true);
        opens.enter(&asked(2, 9), resident()).unwrap();
        assert_eq!(opens.release(2), None);
        assert_eq!(opens.enter(&asked(4, 9), None).unwrap().backing_id, Some(1), "goes on as it was");
        assert_eq!(opens.reap(), None, "it is open");
        assert_eq!(kernel.0.lock().unwrap().1, [1]);
        // The worker dies while the end is put off, once with the file open again and once without.
        assert_eq!(opens.release(4), None);
        opens.enter(&asked(6, 9), None).unwrap();
        drop(opens);
        let opens = Opens::take_up(shared.clone(), Box::new(kernel.clone()), true);
        assert_eq!((opens.count(), kernel.0.lock().unwrap().1.len()), (1, 1));
        assert_eq!(opens.release(6), None);
        drop(opens);
        let opens = Opens::take_up(shared.clone(), Box::new(kernel.clone()), true);
        assert_eq!((opens.count(), opens.way(9)), (0, None));
        assert!(kernel.0.lock().unwrap().1.is_empty() && shared.opens().is_empty());
        // No more than so many are put off.
        for fh in 1..200 {
            opens.enter(&asked(fh, fh), resident()).unwrap();
            opens.release(fh);
        }
        assert_eq!(kernel.0.lock().unwrap().1.len(), LINGERING_MAX);
        while opens.reap().is_some() {}
        assert!(kernel.0.lock().unwrap().1.is_empty() && shared.opens().is_empty());
    }

    #[test]
    fn the_next_worker_goes_on_and_repeats_nothing() {
        let (kernel, shared) = (Fake::default(), shared());
        let opens = Opens::take_up(shared.clone(), Box::new(kernel.clone()), true);
        opens.enter(&asked(2, 9), resident()).unwrap();
        drop(opens);
        // Registered and not noted.
        kernel.open(file().as_fd()).unwrap();
        let opens = Opens::take_up(shared.clone(), Box::new(kernel.clone()), true);
        assert_eq!(kernel.0.lock().unwrap().1, [1], "what was lost is ended");
        assert_eq!(opens.way(9), Some(Way { backing_id: Some(1) }));
        let again = opens.enter(&asked(2, 9), resident()).unwrap();
        assert_eq!(
            (again.backing_id, opens.count()),
            (Some(1), 1),
            "an open that was sent again is counted once"
        );
        assert_eq!(opens.release(2), None);
        assert_eq!(opens.reap(), Some(Last { node: 9, was_written: false }));
        assert_eq!(opens.release(2), None, "a release that was sent again");
        assert!(shared.opens().is_empty());
    }

    #[test]
    fn a_release_that_was_cut_short_is_ended() {
        let (kernel, shared) = (Fake::default(), shared());
        let id = kernel.open(file().as_fd()).unwrap();
        let open = OpenSlot {
            fh: 2,
            node: 9,
            backing_id: id,
            is_passthrough: true,
            is_writable: false,
            is_append: false,
            is_closing: true,
        };
        shared.enter_open(&open).unwrap();
        let opens = Opens::take_up(shared.clone(), Box::new(kernel.clone()), true);
        assert_eq!((opens.count(), opens.way(9)), (0, None));
        assert!(kernel.0.lock().unwrap().1.is_empty() && shared.opens().is_empty());
    }

    #[test]
    fn what_the_kernel_refuses_is_served() {
        struct Refuses;
        impl Backings for Refuses {
            fn open(&self, _: BorrowedFd<'_>) -> Result<u32, Errno> {
                Err(Errno::LOOP)
            }
            fn close(&self, _: u32) {
                panic!("nothing was registered");
            }
        }
        let opens = Opens::take_up(shared(), Box::new(Refuses), true);
        assert!(!opens.was_refused());
        assert_eq!(opens.enter(&asked(2, 9), resident()).unwrap().backing_id, None);
        assert!(opens.was_refused());
        assert!(opens.release(2).is_some());
    }

    #[test]
    fn attributes_are_not_kept_while_somebody_may_write() {
        let opens = Opens::take_up(shared(), Box::new(Fake::default()), true);
        assert_eq!(opens.is_quiet(9), Some(true));
        let writer = Asked { is_writable: true, ..asked(2, 9) };
        opens.enter(&writer, resident()).unwrap();
        assert!(opens.is_first_writer(9));
        assert_eq!(opens.is_quiet(9), Some(false));
        assert_eq!(opens.release(2), None);
        assert_eq!(opens.is_quiet(9), None);
        assert_eq!(opens.reap(), Some(Last { node: 9, was_written: true }));
        opens.settle(9);
        assert_eq!(opens.is_quiet(9), Some(true));
    }
}
