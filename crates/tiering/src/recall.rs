//! Which pieces are fetched next, and who is answered by them.
//!
//! A queue as a state machine: [`Recalls::ask`] notes what a reader wants, [`Recalls::start_next`] says what may start now,
//! [`Recalls::settle`] says who may go on. Fetching itself is elsewhere. A piece is fetched once however many want it.

use std::collections::{BTreeMap, BTreeSet};

use polder_types::NodeUid;

use crate::programs::Program;

/// Bytes of a piece: a read in the middle of a large file fetches at most two of them and the chunks at their borders.
pub const PIECE_BYTES: u64 = 1 << 20;
/// Most pieces ahead of a reader that reads on.
const AHEAD_MAX: u64 = 16;
/// Fetches that are left free for readers.
const KEPT_FOR_READERS: usize = 4;

/// Number of somebody who waits, chosen by the caller; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reader(pub u64);

/// For whom a piece is fetched: the program and its user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// Which program.
    pub program: Program,
    /// Which user's.
    pub user: u32,
}

/// Who goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// A program waits for it.
    Access,
    /// Will be wanted if the reader reads on.
    Ahead,
    /// A person asked by command.
    Command,
    /// After a namespace-first download.
    Background,
}

/// A piece of a file to fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fetch {
    /// Which file.
    pub node: NodeUid,
    /// Number of the piece: bytes from `piece · PIECE_BYTES`.
    pub piece: u64,
}

/// What came of asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// Everything is present.
    Ready,
    /// The reader waits; it will be named by [`Recalls::settle`].
    Waits,
    /// Too many wait: ask again later.
    Full,
}

/// Who may go on after a piece came or failed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settled {
    /// Readers all of whose pieces are present.
    pub ready: Vec<Reader>,
    /// Readers that are to get an error.
    pub failed: Vec<Reader>,
    /// The first program that wanted the piece, or whose reading on did; none when only commands did.
    pub cause: Option<Cause>,
}

#[derive(Debug, Default)]
struct Wanted {
    lane: Option<(Lane, u64)>,
    is_running: bool,
    readers: BTreeSet<Reader>,
    cause: Option<Cause>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Stream {
    /// Where the last read ended that had to be asked for.
    next: u64,
    /// Where the pieces end that were asked for.
    until: u64,
    ahead: u64,
}

/// The recalls of an endpoint.
#[derive(Debug)]
pub struct Recalls {
    parallel_max: usize,
    readers_max: usize,
    turn: u64,
    running: usize,
    wanted: BTreeMap<Fetch, Wanted>,
    order: BTreeSet<(Lane, u64, Fetch)>,
    missing: BTreeMap<Reader, BTreeSet<Fetch>>,
    streams: BTreeMap<(NodeUid, u64), Stream>,
}

impl Recalls {
    /// At most so many fetches at once (at least 5), and so many readers that wait.
    pub fn new(parallel_max: usize, readers_max: usize) -> Self {
        Self {
            parallel_max: parallel_max.max(KEPT_FOR_READERS + 1),
            readers_max,
            turn: 0,
            running: 0,
            wanted: BTreeMap::new(),
            order: BTreeSet::new(),
            missing: BTreeMap::new(),
            streams: BTreeMap::new(),
        }
    }

    /// A reader wants `len` bytes from `offset` of a file of `size` bytes. `is_present` tells of pieces; `open` is the
    /// open file that it reads through, for read-ahead; `cause` is the program that reads, if one does.
    #[allow(clippy::too_many_arguments, reason = "a read is all of these")]
    pub fn ask(
        &mut self,
        reader: Reader,
        lane: Lane,
        node: NodeUid,
        open: u64,
        (offset, len, size): (u64, u64, u64),
        cause: Option<&Cause>,
        is_present: impl Fn(u64) -> bool,
    ) -> Asked {
        let end = offset.saturating_add(len).min(size);
        if offset >= end {
            return Asked::Ready;
        }
        let (first, last) = (offset / PIECE_BYTES, (end - 1) / PIECE_BYTES);
        let missing: BTreeSet<Fetch> =
            (first..=last).filter(|piece| !is_present(*piece)).map(|piece| Fetch { node, piece }).collect();
        if !missing.is_empty() && self.missing.len() >= self.readers_max {
            return Asked::Full;
        }
        for fetch in &missing {
            self.want(*fetch, lane, Some(reader), cause);
        }
        if lane == Lane::Access {
            self.read_ahead(node, open, (offset, end, size), cause, &is_present);
        }
        if missing.is_empty() {
            return Asked::Ready;
        }
        self.missing.insert(reader, missing);
        Asked::Waits
    }

    fn read_ahead(
        &mut self,
        node: NodeUid,
        open: u64,
        (offset, end, size): (u64, u64, u64),
        cause: Option<&Cause>,
        is_present: &impl Fn(u64) -> bool,
    ) {
        let stream = self.streams.entry((node, open)).or_default();
        // Of pieces that are here no read is asked for: who reads on is next seen where they end.
        let goes_on = offset > 0 && (stream.next..=stream.until).contains(&offset);
        stream.ahead = if goes_on { (stream.ahead * 2).clamp(1, AHEAD_MAX) } else { 0 };
        stream.next = end;
        let (from, ahead) = ((end - 1) / PIECE_BYTES + 1, stream.ahead);
        let to = from.saturating_add(ahead).min(size.div_ceil(PIECE_BYTES));
        stream.until = to.max(from).saturating_mul(PIECE_BYTES);
        for piece in (from..to).filter(|piece| !is_present(*piece)) {
            self.want(Fetch { node, piece }, Lane::Ahead, None, cause);
        }
    }

    /// Notes a piece; one that waits in a lower lane moves up.
    fn want(&mut self, fetch: Fetch, lane: Lane, reader: Option<Reader>, cause: Option<&Cause>) {
        let wanted = self.wanted.entry(fetch).or_default();
        wanted.readers.extend(reader);
        if wanted.cause.is_none() {
            wanted.cause = cause.cloned();
        }
        if wanted.is_running || wanted.lane.is_some_and(|(now, _)| now <= lane) {
            return;
        }
        if let Some((now, turn)) = wanted.lane {
            self.order.remove(&(now, turn, fetch));
        }
        self.turn += 1;
        wanted.lane = Some((lane, self.turn));
        self.order.insert((lane, self.turn, fetch));
    }

    /// The next fetch that may start; `None` when all places are taken or nothing waits.
    pub fn start_next(&mut self) -> Option<(Lane, Fetch)> {
        let (lane, turn, fetch) = *self.order.first()?;
        let places =
            if lane == Lane::Access { self.parallel_max } else { self.parallel_max - KEPT_FOR_READERS };
        if self.running >= places {
            return None;
        }
        self.order.remove(&(lane, turn, fetch));
        if let Some(wanted) = self.wanted.get_mut(&fetch) {
            (wanted.is_running, wanted.lane) = (true, None);
        }
        self.running += 1;
        Some((lane, fetch))
    }

    /// A fetch ended. Its readers go on, wait for other pieces, or fail.
    pub fn settle(&mut self, fetch: Fetch, is_present: bool) -> Settled {
        let mut settled = Settled::default();
        let Some(wanted) = self.wanted.remove_entry(&fetch).map(|(_, wanted)| wanted) else { return settled };
        match wanted.lane {
            // Never started: nothing to free, only its turn.
            Some((lane, turn)) => drop(self.order.remove(&(lane, turn, fetch))),
            None => self.running = self.running.saturating_sub(1),
        }
        settled.cause = wanted.cause;
        for reader in wanted.readers {
            if !is_present {
                self.cancel(reader);
                settled.failed.push(reader);
                continue;
            }
            let Some(missing) = self.missing.get_mut(&reader) else { continue };
            missing.remove(&fetch);
            if missing.is_empty() {
                self.missing.remove(&reader);
                settled.ready.push(reader);
            }
        }
        settled
    }

    /// A reader waits no more (a signal, a time-out). What nobody else wants and has not begun is dropped.
    pub fn cancel(&mut self, reader: Reader) {
        for fetch in self.missing.remove(&reader).unwrap_or_default() {
            let Some(wanted) = self.wanted.get_mut(&fetch) else { continue };
            wanted.readers.remove(&reader);
            if let (true, false, Some((lane, turn))) =
                (wanted.readers.is_empty(), wanted.is_running, wanted.lane)
            {
                self.order.remove(&(lane, turn, fetch));
                self.wanted.remove(&fetch);
            }
        }
    }

    /// An open file was closed: its read-ahead is forgotten.
    pub fn closed(&mut self, node: NodeUid, open: u64) {
        self.streams.remove(&(node, open));
    }

    /// Readers that wait, and fetches that run.
    pub fn load(&self) -> (usize, usize) {
        (self.missing.len(), self.running)
    }
}
