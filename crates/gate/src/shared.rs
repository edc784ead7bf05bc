//! What outlives a worker: a memfd that the holder keeps and each worker maps.
//!
//! Everything is written word by word in an order in which a SIGKILL between any two stores leaves something that can be read: a slot's
//! key is stored last when it is filled and first when it is cleared. Nobody else maps it while a worker lives.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Mutex;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use rustix::fs::MemfdFlags;
use rustix::io::Errno;

use crate::sys::SharedMemory;

/// `PoldGat` and the version of the layout.
const MAGIC: u64 = u64::from_le_bytes(*b"PoldGat\x01");

const WORD_MAGIC: usize = 0;
/// Flags that were agreed on; 0 before INIT was answered.
const WORD_FLAGS: usize = 1;
/// Replies that were written since the mount.
const WORD_ANSWERED: usize = 2;
/// The highest backing id that was ever recorded.
const WORD_BACKING: usize = 3;
/// Slots of opens that were ever used: only those are looked at.
const WORD_OPENS: usize = 4;

/// Set by the holder: the last worker crashed, it was not killed from outside.
const WORD_CRASHED: usize = 5;

/// Requests that have crashed workers, each with how many.
const BLAMED_AT: usize = 64;
const BLAMED_SLOTS: usize = 32;
/// Requests that are being answered, a word for each thread.
const FLIGHT_AT: usize = BLAMED_AT + BLAMED_SLOTS * 2;
/// Threads whose requests are noted; more than there are.
pub(crate) const FLIGHT_SLOTS: usize = 1536;
/// A request that was under way at so many crashes is answered with an error.
const CRASHES_MAX: u64 = 2;

const OPENS_AT: usize = FLIGHT_AT + FLIGHT_SLOTS;
/// Files that can be open at once.
pub const OPENS_MAX: usize = 1 << 18;
const OPEN_WORDS: usize = 4;
const RING_AT: usize = OPENS_AT + OPENS_MAX * OPEN_WORDS;
/// More than requests are ever carried out at once, so that what a dead worker left is not overwritten before it was asked about.
const RING_SLOTS: usize = 4096;
const RING_WORDS: usize = 4;
const WORDS: usize = RING_AT + RING_SLOTS * RING_WORDS;
/// Bytes of a connection's state that are the gate's. What lies behind them is of those who implement the ports, and outlives a worker as well.
pub const STATE_BYTES: u64 = (WORDS * 8) as u64;

/// An open file, as it is told to the next worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OpenSlot {
    /// Handle: the number of the request that opened it.
    pub(crate) fh: u64,
    /// Which file.
    pub(crate) node: u64,
    /// 0: there is none (no passthrough on this connection).
    pub(crate) backing_id: u32,
    /// Reads and writes pass through.
    pub(crate) is_passthrough: bool,
    /// It can write.
    pub(crate) is_writable: bool,
    /// It was opened with `O_APPEND`.
    pub(crate) is_append: bool,
    /// The last release is under way: only the registration is left to be ended.
    pub(crate) is_closing: bool,
}

impl OpenSlot {
    fn meta(&self) -> u64 {
        let flag = |set: bool, bit: u64| if set { 1 << (32 + bit) } else { 0 };
        u64::from(self.backing_id)
            | flag(self.is_passthrough, 0)
            | flag(self.is_writable, 1)
            | flag(self.is_closing, 2)
            | flag(self.is_append, 3)
    }

    fn from_words(fh: u64, node: u64, meta: u64) -> Self {
        let flag = |bit: u64| meta & (1 << (32 + bit)) != 0;
        Self {
            fh,
            node,
            backing_id: meta as u32,
            is_passthrough: flag(0),
            is_writable: flag(1),
            is_closing: flag(2),
            is_append: flag(3),
        }
    }
}

/// How far a request that cannot be repeated had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// The system call may or may not have been made. Before it, these nodes stood at the names (0: none).
    Begun {
        /// What the request is about.
        subject: u64,
        /// What stood at the second name.
        displaced: u64,
    },
    /// It was made, and succeeded.
    Done,
}

/// The memory, mapped.
pub(crate) struct Shared {
    memory: SharedMemory,
    free_opens: Mutex<Vec<u32>>,
    ring_next: Mutex<usize>,
}

impl Shared {
    /// Fresh memory for a new connection.
    pub(crate) fn create() -> Result<OwnedFd, Errno> {
        let file = rustix::fs::memfd_create(c"polder-gate", MemfdFlags::CLOEXEC)?;
        rustix::fs::ftruncate(&file, STATE_BYTES)?;
        Ok(file)
    }

    /// Takes up what a holder keeps; `EINVAL` when it is of another layout.
    pub(crate) fn take_up(file: impl AsFd) -> Result<Self, Errno> {
        if rustix::fs::fstat(&file)?.st_size < STATE_BYTES as i64 {
            return Err(Errno::INVAL);
        }
        let memory = SharedMemory::map(&file, WORDS)?;
        match memory.word(WORD_MAGIC).load(Acquire) {
            0 => memory.word(WORD_MAGIC).store(MAGIC, Release),
            MAGIC => (),
            _ => return Err(Errno::INVAL),
        }
        let shared = Self { memory, free_opens: Mutex::default(), ring_next: Mutex::new(0) };
        let free = (0..shared.opens_high()).filter(|slot| shared.open_word(*slot, 0).load(Acquire) == 0);
        let free = free.map(|slot| slot as u32).collect();
        *lock(&shared.free_opens) = free;
        Ok(shared)
    }

    /// Flags that were agreed on, once INIT was answered.
    pub(crate) fn init_flags(&self) -> Option<u64> {
        Some(self.memory.word(WORD_FLAGS).load(Acquire)).filter(|flags| *flags != 0)
    }

    pub(crate) fn set_init_flags(&self, flags: u64) {
        self.memory.word(WORD_FLAGS).store(flags, Release);
    }

    /// Counts a reply.
    pub(crate) fn count_answer(&self) {
        self.memory.word(WORD_ANSWERED).fetch_add(1, Relaxed);
    }

    pub(crate) fn answered(&self) -> u64 {
        self.memory.word(WORD_ANSWERED).load(Relaxed)
    }

    /// The highest backing id that a worker recorded.
    pub(crate) fn backing_high(&self) -> u32 {
        self.memory.word(WORD_BACKING).load(Acquire) as u32
    }

    pub(crate) fn record_backing(&self, id: u32) {
        self.memory.word(WORD_BACKING).fetch_max(u64::from(id), Release);
    }

    /// By the holder, after a worker's death.
    pub(crate) fn set_crashed(&self, crashed: bool) {
        self.memory.word(WORD_CRASHED).store(u64::from(crashed), Release);
    }

    /// Notes which request a thread is answering; 0 for none.
    pub(crate) fn note_flight(&self, thread: usize, unique: u64) {
        self.memory.word(FLIGHT_AT + thread).store(unique, Release);
    }

    /// At a worker's start: whatever was under way when the last one crashed is suspect.
    pub(crate) fn blame(&self) {
        let crashed = self.memory.word(WORD_CRASHED).swap(0, Release) != 0;
        for slot in 0..FLIGHT_SLOTS {
            let unique = self.memory.word(FLIGHT_AT + slot).swap(0, Release);
            if crashed && unique != 0 {
                self.blame_one(unique);
            }
        }
    }

    fn blamed_word(&self, slot: usize, word: usize) -> &std::sync::atomic::AtomicU64 {
        self.memory.word(BLAMED_AT + slot * 2 + word)
    }

    fn blame_one(&self, unique: u64) {
        let find =
            |wanted: u64| (0..BLAMED_SLOTS).find(|slot| self.blamed_word(*slot, 0).load(Acquire) == wanted);
        if let Some(slot) = find(unique) {
            self.blamed_word(slot, 1).fetch_add(1, Release);
            return;
        }
        // The oldest makes room: numbers ascend.
        let oldest = || (0..BLAMED_SLOTS).min_by_key(|slot| self.blamed_word(*slot, 0).load(Acquire));
        if let Some(slot) = find(0).or_else(oldest) {
            self.blamed_word(slot, 1).store(1, Release);
            self.blamed_word(slot, 0).store(unique, Release);
        }
    }

    /// Whether a request that is sent again has crashed too many workers.
    pub(crate) fn is_poison(&self, unique: u64) -> bool {
        (0..BLAMED_SLOTS).any(|slot| {
            let blamed = self.blamed_word(slot, 0).load(Acquire) == unique;
            blamed && self.blamed_word(slot, 1).load(Acquire) >= CRASHES_MAX
        })
    }

    fn open_word(&self, slot: usize, word: usize) -> &std::sync::atomic::AtomicU64 {
        self.memory.word(OPENS_AT + slot * OPEN_WORDS + word)
    }

    fn opens_high(&self) -> usize {
        (self.memory.word(WORD_OPENS).load(Acquire) as usize).min(OPENS_MAX)
    }

    /// All open files, each with the number of its slot.
    pub(crate) fn opens(&self) -> Vec<(u32, OpenSlot)> {
        let mut found = Vec::new();
        for slot in 0..self.opens_high() {
            let fh = self.open_word(slot, 0).load(Acquire);
            if fh != 0 {
                let (node, meta) =
                    (self.open_word(slot, 1).load(Relaxed), self.open_word(slot, 2).load(Relaxed));
                found.push((slot as u32, OpenSlot::from_words(fh, node, meta)));
            }
        }
        found
    }

    /// Notes an open file; `ENFILE` when there are too many.
    pub(crate) fn enter_open(&self, open: &OpenSlot) -> Result<u32, Errno> {
        let slot = {
            let mut free = lock(&self.free_opens);
            let high = self.opens_high();
            match free.pop() {
                Some(slot) => slot,
                None if high == OPENS_MAX => return Err(Errno::NFILE),
                None => {
                    self.memory.word(WORD_OPENS).store(high as u64 + 1, Release);
                    high as u32
                }
            }
        };
        self.open_word(slot as usize, 1).store(open.node, Relaxed);
        self.open_word(slot as usize, 2).store(open.meta(), Relaxed);
        self.open_word(slot as usize, 0).store(open.fh, Release);
        Ok(slot)
    }

    /// Changes what is noted of an open file.
    pub(crate) fn change_open(&self, slot: u32, open: &OpenSlot) {
        self.open_word(slot as usize, 2).store(open.meta(), Release);
    }

    /// Forgets an open file.
    pub(crate) fn leave_open(&self, slot: u32) {
        self.open_word(slot as usize, 0).store(0, Release);
        lock(&self.free_opens).push(slot);
    }

    fn ring_word(&self, slot: usize, word: usize) -> &std::sync::atomic::AtomicU64 {
        self.memory.word(RING_AT + slot * RING_WORDS + word)
    }

    /// Notes a request before its system call.
    pub(crate) fn begin(&self, unique: u64, subject: u64, displaced: u64) -> RingSlot<'_> {
        let slot = {
            let mut next = lock(&self.ring_next);
            let free = (0..RING_SLOTS).map(|step| (*next + step) % RING_SLOTS);
            let slot =
                free.into_iter().find(|slot| self.ring_word(*slot, 0).load(Acquire) == 0).unwrap_or(*next);
            *next = (slot + 1) % RING_SLOTS;
            // Taken under the lock; the rest is this thread's alone.
            self.ring_word(slot, 0).store(u64::MAX, Release);
            slot
        };
        self.ring_word(slot, 1).store(subject, Relaxed);
        self.ring_word(slot, 2).store(displaced, Relaxed);
        self.ring_word(slot, 3).store(0, Relaxed);
        self.ring_word(slot, 0).store(unique, Release);
        RingSlot { shared: self, slot }
    }

    /// What a dead worker noted of a request.
    pub(crate) fn progress(&self, unique: u64) -> Option<(Progress, RingSlot<'_>)> {
        let slot = (0..RING_SLOTS).find(|slot| self.ring_word(*slot, 0).load(Acquire) == unique)?;
        let word = |word| self.ring_word(slot, word).load(Acquire);
        let progress = match word(3) {
            0 => Progress::Begun { subject: word(1), displaced: word(2) },
            _ => Progress::Done,
        };
        Some((progress, RingSlot { shared: self, slot }))
    }
}

/// A request that is noted. To be forgotten once its reply is written, not before.
#[must_use]
pub(crate) struct RingSlot<'a> {
    shared: &'a Shared,
    slot: usize,
}

impl RingSlot<'_> {
    /// The system call has succeeded.
    pub(crate) fn done(&self) {
        self.shared.ring_word(self.slot, 3).store(1, Release);
    }

    /// The reply is written, or nothing was changed.
    pub(crate) fn forget(self) {
        self.shared.ring_word(self.slot, 0).store(0, Release);
    }

    /// Keeps it until [`Shared::forget`].
    pub(crate) fn keep(self) -> u32 {
        self.slot as u32
    }
}

impl Shared {
    /// Forgets a request that was kept.
    pub(crate) fn forget(&self, slot: u32) {
        RingSlot { shared: self, slot: slot as usize }.forget();
    }
}

/// A lock whose holder panicked is as good as any: the process ends then (`session.rs`).
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> (OwnedFd, Shared) {
        let file = Shared::create().unwrap();
        let shared = Shared::take_up(&file).unwrap();
        (file, shared)
    }

    fn again(file: &OwnedFd) -> Shared {
        Shared::take_up(file).unwrap()
    }

    fn open(fh: u64) -> OpenSlot {
        OpenSlot {
            fh,
            node: 7,
            backing_id: 3,
            is_passthrough: true,
            is_writable: false,
            is_append: true,
            is_closing: false,
        }
    }

    #[test]
    fn opens_are_found_by_the_next_worker() {
        let (file, shared) = memory();
        let slot = shared.enter_open(&open(9)).unwrap();
        shared.enter_open(&open(11)).unwrap();
        let closing = OpenSlot { is_closing: true, is_writable: true, ..open(9) };
        shared.change_open(slot, &closing);
        let next = again(&file);
        assert_eq!(next.opens().iter().map(|(_, open)| *open).collect::<Vec<_>>(), [closing, open(11)]);
        next.leave_open(slot);
        assert_eq!(again(&file).opens().len(), 1);
    }

    #[test]
    fn a_request_is_remembered_until_it_is_forgotten() {
        let (file, shared) = memory();
        assert!(shared.progress(4).is_none());
        let slot = shared.begin(4, 5, 6);
        let next = again(&file);
        assert!(matches!(next.progress(4), Some((Progress::Begun { subject: 5, displaced: 6 }, _))));
        slot.done();
        assert!(matches!(next.progress(4), Some((Progress::Done, _))));
        slot.forget();
        assert!(again(&file).progress(4).is_none());
    }

    #[test]
    fn a_full_ring_takes_more() {
        let (_file, shared) = memory();
        for unique in 1..=(RING_SLOTS as u64 + 5) {
            let _kept = shared.begin(unique, 0, 0).keep();
        }
        assert!(shared.progress(RING_SLOTS as u64 + 5).is_some());
    }

    #[test]
    fn a_request_that_crashes_workers_is_known() {
        let (file, shared) = memory();
        for crash in 1..=2 {
            shared.note_flight(0, 8);
            shared.note_flight(3, 10 + crash);
            shared.set_crashed(true);
            again(&file).blame();
            assert_eq!(shared.is_poison(8), crash == 2);
        }
        assert!(!shared.is_poison(11) && !shared.is_poison(12), "they were there once");
        // Killed from outside.
        for _ in 0..3 {
            shared.note_flight(0, 20);
            shared.set_crashed(false);
            shared.blame();
        }
        assert!(!shared.is_poison(20));
        for unique in 100..200 {
            shared.blame_one(unique);
        }
        shared.blame_one(199);
        assert!(shared.is_poison(199) && !shared.is_poison(8), "the oldest were forgotten");
    }

    #[test]
    fn another_layout_is_refused() {
        let file = Shared::create().unwrap();
        SharedMemory::map(&file, WORDS).unwrap().word(WORD_MAGIC).store(1, Release);
        assert_eq!(Shared::take_up(file).err(), Some(Errno::INVAL));
        let short = rustix::fs::memfd_create(c"short", MemfdFlags::CLOEXEC).unwrap();
        assert_eq!(Shared::take_up(short).err(), Some(Errno::INVAL));
    }
}
