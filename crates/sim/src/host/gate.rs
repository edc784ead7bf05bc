//! The gate's side of a server that tiers: what of its placeholders is here in this process, who waits for what, and the
//! calls of [`polder_tiering::order`] on the simulated disk. As `agent/src/tiered` (`files`, `give`, `content`, `queue`) over
//! `replica/src/presence`; the queue of recalls is the real one.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use polder_engine::FailureClass;
use polder_replica::Pledge;
use polder_sync::TreeStore;
use polder_tiering::order::{self, Calls, Carried, Kept};
use polder_tiering::{PIECE_BYTES, Recalls, Stays};
use polder_types::{
    ChunkId, Content, FileIdent, NodeUid, RelPath, Seq, Stamp, Timestamp,
    zoo::{Bug, planted},
};

use super::Host;
use crate::disk::{Disk, EMPTY, Mark, Token, content_of, size_of, spans_of, token_in};
use crate::service::Service;

/// Fetches at once, and readers that may wait.
const FETCHES: usize = 6;
const READERS: usize = 64;
const MAPS: &str = "maps do not fail";

/// A server's gate.
#[derive(Debug)]
pub struct Gate {
    /// Whether the server tiers.
    pub on: bool,
    /// Whether new files arrive as placeholders.
    pub arrive: bool,
    /// Placeholders that were taken up by this process.
    held: BTreeMap<FileIdent, Held>,
    pub(crate) queue: Recalls,
    /// Programs that wait, by number. They outlive the process, as the kernel's messages do.
    pub(crate) waiting: BTreeMap<u64, Waiting>,
    next: u64,
    /// Files whose mark was being removed when a process died: the next makes them durable before it serves.
    removals: BTreeSet<u64>,
    /// Nothing was inherited from a process before.
    pub(crate) is_fresh: bool,
}

/// A placeholder that was taken up.
#[derive(Debug)]
struct Held {
    token: Token,
    at_hand: Vec<bool>,
    wants_whole: bool,
}

/// Somebody who waits for bytes of a file that it has open.
#[derive(Debug, Clone)]
pub(crate) struct Waiting {
    pub ino: u64,
    pub ident: FileIdent,
    pub range: Range<u64>,
    pub want: Want,
    pub since_ms: u64,
}

/// What for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Want {
    /// To read them.
    Read,
    /// To have all of the file here.
    Recall,
    /// To write to it.
    Write,
    /// To open it for writing.
    Open(u64),
    /// To copy it.
    Copy(RelPath),
}

/// Why bytes did not come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failed {
    /// The share cannot be reached.
    Share,
    /// It has lost them.
    Damaged,
    /// There is no room for them.
    NoSpace,
}

/// Why a change of presence was not carried to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The process ended there.
    Ended,
    OtherMark,
    NotWhole,
}

/// What a read gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Given {
    /// The bytes of each span.
    Bytes(Vec<Token>),
    /// They are not here.
    Absent,
}

/// What came of giving a file up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    Tiered,
    Discarded,
    Stays(Stays),
}

/// One file, and what the work on it is about.
struct OnDisk<'a> {
    disk: &'a mut Disk,
    ino: u64,
    mark: Mark,
    expect: Option<Stamp>,
    is_whole: bool,
    /// Calls until the process ends.
    left: &'a mut usize,
    /// Bytes that were freed and not those of a placeholder.
    freed: Option<Token>,
}

impl OnDisk<'_> {
    fn step(&mut self) -> Result<(), Stop> {
        *self.left = self.left.checked_sub(1).ok_or(Stop::Ended)?;
        Ok(())
    }
}

impl Calls for OnDisk<'_> {
    type Error = Stop;

    fn take_lease(&mut self) -> Result<bool, Stop> {
        Ok(self.disk.inode(self.ino).opened == 0)
    }

    fn write_back(&mut self) -> Result<(), Stop> {
        self.step()?;
        self.disk.write_back(self.ino);
        Ok(())
    }

    fn start_writing(&mut self) -> Result<(), Stop> {
        // What reaches the disk before it is asked for is left to the cut.
        Ok(())
    }

    fn is_as_agreed(&mut self) -> Result<bool, Stop> {
        let stamp = self.disk.stamp(self.ino);
        Ok(self.expect == Some(stamp) && self.mark.pledge.size == stamp.size)
    }

    fn carried(&mut self) -> Result<Carried, Stop> {
        Ok(match self.disk.mark(self.ino) {
            None => Carried::Nothing,
            Some(found) if found.pledge.is_same_content(&self.mark.pledge) => {
                self.mark.pledge.mtime = found.pledge.mtime;
                Carried::Pledged
            }
            Some(_) => Carried::Other,
        })
    }

    fn note_content(&mut self) -> Result<(), Stop> {
        self.step()?;
        match self.mark.pledge.is_of(&content_of(self.mark.token)) {
            // Set together with the mark: attributes of one inode reach a disk in their order.
            true => Ok(()),
            false => Err(Stop::OtherMark),
        }
    }

    fn set_mark(&mut self) -> Result<(), Stop> {
        self.step()?;
        self.disk.set_mark(self.ino, Some(self.mark.clone()));
        Ok(())
    }

    fn make_durable(&mut self, _: &'static str) -> Result<(), Stop> {
        self.step()?;
        self.disk.fsync(self.ino);
        Ok(())
    }

    fn punch(&mut self) -> Result<(), Stop> {
        self.step()?;
        self.freed = self.disk.bytes(self.ino);
        self.disk.punch(self.ino, self.mark.pledge.size);
        Ok(())
    }

    fn restore_times(&mut self) -> Result<(), Stop> {
        self.step()?;
        self.disk.set_inode_mtime(self.ino, self.mark.pledge.mtime);
        Ok(())
    }

    fn cut(&mut self) -> Result<(), Stop> {
        self.step()?;
        self.disk.cut(self.ino);
        Ok(())
    }

    fn set_size(&mut self) -> Result<(), Stop> {
        self.step()?;
        self.disk.punch(self.ino, self.mark.pledge.size);
        Ok(())
    }

    fn remove_mark(&mut self) -> Result<(), Stop> {
        self.step()?;
        self.disk.set_mark(self.ino, None);
        Ok(())
    }

    fn remove_note(&mut self) -> Result<(), Stop> {
        self.step()
    }

    fn is_whole(&self) -> bool {
        self.is_whole
    }

    fn not_whole(&self) -> Stop {
        Stop::NotWhole
    }

    fn other_mark(&self) -> Stop {
        Stop::OtherMark
    }
}

impl Gate {
    pub(crate) fn new(on: bool, arrive: bool) -> Self {
        Self {
            on,
            arrive,
            held: BTreeMap::new(),
            queue: Recalls::new(FETCHES, READERS),
            waiting: BTreeMap::new(),
            next: 0,
            removals: BTreeSet::new(),
            is_fresh: true,
        }
    }

    /// The process ends.
    pub(super) fn lose_worker(&mut self) {
        self.held.clear();
        self.queue = Recalls::new(FETCHES, READERS);
    }

    /// The machine does.
    pub(crate) fn lose_machine(&mut self) {
        self.lose_worker();
        self.waiting.clear();
        self.removals.clear();
        self.is_fresh = true;
    }

    /// Somebody waits from now on.
    pub(crate) fn wait(&mut self, waiting: Waiting) -> u64 {
        self.next += 1;
        self.waiting.insert(self.next, waiting);
        self.next
    }

    /// Whether a piece of a file is here.
    fn has_piece(&self, ident: FileIdent, piece: u64) -> bool {
        let range = piece * PIECE_BYTES..(piece + 1) * PIECE_BYTES;
        self.held.get(&ident).is_some_and(|held| held.missing(&range).is_empty())
    }
}

impl Held {
    /// Spans that touch a range and are not at hand, with their chunks.
    fn missing(&self, range: &Range<u64>) -> Vec<(usize, ChunkId)> {
        let spans = spans_of(&content_of(self.token)).into_iter().enumerate();
        let missing = spans.filter(|(nth, (span, _))| {
            span.start < range.end && range.start < span.end && !self.at_hand[*nth]
        });
        missing.filter_map(|(nth, (_, chunk))| Some((nth, chunk?))).collect()
    }

    fn is_whole(&self) -> bool {
        self.at_hand.iter().all(|at_hand| *at_hand)
    }
}

/// A file's key in the queue of recalls.
pub(crate) fn key_of(ident: FileIdent) -> NodeUid {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&ident.ino.to_be_bytes());
    key[8..12].copy_from_slice(&ident.generation.to_be_bytes());
    NodeUid(key)
}

/// The file of a key.
pub(crate) fn ident_of(NodeUid(key): NodeUid) -> FileIdent {
    let (ino, rest) = key.split_first_chunk().expect("sixteen bytes");
    let generation = rest.first_chunk().expect("eight bytes");
    FileIdent { ino: u64::from_be_bytes(*ino), generation: u32::from_be_bytes(*generation) }
}

impl Host {
    /// What placeholders here stand for, each beside this server's number.
    pub(crate) fn stood_for(&self) -> impl Iterator<Item = (usize, Token)> + use<'_> {
        let tokens = self.disk.placeholders().into_iter().filter_map(|ino| self.disk.token(ino));
        tokens.map(|token| (self.nth, token))
    }

    /// Whether programs are served: else they wait, but for what they have open already.
    pub(crate) fn is_served(&self) -> bool {
        self.running && self.mounted
    }

    /// A process begins to serve: what one before left half removed is made durable first.
    pub(crate) fn gate_begins(&mut self) {
        if std::mem::take(&mut self.gate.is_fresh) {
            self.disk.sync_all();
        }
        for ino in std::mem::take(&mut self.gate.removals) {
            self.disk.fsync(ino);
        }
    }

    /// The file that a descriptor stands for, if it is still that one.
    pub(crate) fn file_of(&self, ident: FileIdent) -> Option<u64> {
        let inode = self.disk.get(ident.ino)?;
        (inode.generation == ident.generation).then_some(ident.ino)
    }

    /// Asks the queue for a range; whether everything is here already, or too many wait.
    pub(crate) fn ask(&mut self, reader: u64) -> Option<polder_tiering::Asked> {
        let Waiting { ident, range, .. } = self.gate.waiting.get(&reader)?.clone();
        let size = self.disk.token(self.file_of(ident)?).map_or(0, size_of);
        self.take_up(ident);
        if let Some(held) = self.gate.held.get_mut(&ident) {
            held.wants_whole = true;
        }
        let pieces: BTreeSet<u64> = (range.start / PIECE_BYTES..=range.end / PIECE_BYTES + 32)
            .filter(|piece| self.gate.has_piece(ident, *piece))
            .collect();
        let bytes = (range.start, range.end - range.start, size);
        let number = polder_tiering::Reader(reader);
        let (lane, key) = (polder_tiering::Lane::Access, key_of(ident));
        Some(
            self.gate.queue.ask(number, lane, key, reader % 16, bytes, None, |piece| pieces.contains(&piece)),
        )
    }

    /// Takes a placeholder up, if it is not. `false`: it is none (any more).
    fn take_up(&mut self, ident: FileIdent) -> bool {
        let Some(ino) = self.file_of(ident) else { return false };
        let Some(mark) = self.disk.mark(ino).cloned() else { return false };
        if self.gate.held.get(&ident).is_some_and(|held| held.token == mark.token) {
            return true;
        }
        let spans = spans_of(&content_of(mark.token));
        // A crash in the middle of cutting leaves a mark on a file that is shorter.
        if self.disk.bytes(ino) == Some(EMPTY) {
            self.disk.punch(ino, mark.pledge.size);
        }
        // Of chunks nothing is believed to be here; what an earlier life left in a hole is freed.
        let at_hand: Vec<bool> = spans.iter().map(|(_, chunk)| chunk.is_none()).collect();
        for nth in (0..spans.len()).filter(|nth| at_hand[*nth]) {
            self.disk.fill(ino, (nth, spans.len()), mark.token).expect("a hole needs no room");
        }
        self.gate.held.insert(ident, Held { token: mark.token, at_hand, wants_whole: false });
        true
    }

    /// What is to be fetched for a piece.
    pub(crate) fn wanted(&mut self, ident: FileIdent, piece: u64) -> Vec<(usize, ChunkId)> {
        if !self.take_up(ident) {
            return Vec::new();
        }
        self.gate.held[&ident].missing(&(piece * PIECE_BYTES..(piece + 1) * PIECE_BYTES))
    }

    /// Fetches chunks, and fills them in.
    pub(crate) fn bring(
        &mut self,
        ident: FileIdent,
        wanted: &[(usize, ChunkId)],
        service: &Service,
    ) -> Result<(), Failed> {
        for (nth, chunk) in wanted {
            self.fetch(*chunk, service).map_err(|why| match why.class {
                FailureClass::Damaged => Failed::Damaged,
                _ => Failed::Share,
            })?;
            // Fetched under a mark that may be gone by now: then nobody holds the file.
            let Some(ino) = self.file_of(ident) else { continue };
            let Some(held) = self.gate.held.get_mut(&ident) else { continue };
            let spans = spans_of(&content_of(held.token));
            let is_chunk = spans.get(*nth).is_some_and(|(_, own)| *own == Some(*chunk));
            if !is_chunk && !planted(Bug::FillsOtherVersion) || *nth >= spans.len() {
                continue;
            }
            let filled = self.as_agent(|host| host.disk.fill(ino, (*nth, spans.len()), token_in(*chunk)));
            filled.map_err(|_| Failed::NoSpace)?;
            self.gate.held.get_mut(&ident).expect("looked up above").at_hand[*nth] = true;
        }
        Ok(())
    }

    /// Whether a file is all here, and somebody is to have it whole.
    pub(crate) fn may_settle(&self, ident: FileIdent) -> bool {
        let held = self.gate.held.get(&ident).filter(|held| held.wants_whole);
        let early = |held: &Held| planted(Bug::ResidentBeforeLastByte) && held.at_hand.contains(&true);
        held.is_some_and(|held| held.is_whole() || early(held))
    }

    fn on_disk<'a>(&'a mut self, ino: u64, mark: Mark, left: &'a mut usize) -> OnDisk<'a> {
        OnDisk { disk: &mut self.disk, ino, mark, expect: None, is_whole: false, left, freed: None }
    }

    /// Makes a file resident that is all here; the process ends after so many calls.
    pub(crate) fn settle(&mut self, ident: FileIdent, left: &mut usize) -> Result<(), Stop> {
        let held = self.gate.held.remove(&ident).ok_or(Stop::NotWhole)?;
        let ino = self.file_of(ident).ok_or(Stop::OtherMark)?;
        let mark = self.disk.mark(ino).cloned().ok_or(Stop::OtherMark)?;
        self.gate.removals.insert(ino);
        let settled = self.as_agent(|host| {
            let mut calls = host.on_disk(ino, mark.clone(), left);
            calls.is_whole = held.is_whole();
            order::settle(&mut calls)
        });
        self.as_agent(|host| host.disk.hint_file(ino));
        settled?;
        self.gate.removals.remove(&ino);
        let stamp = self.disk.stamp(ino);
        if (stamp.size, stamp.mtime) == (mark.pledge.size, mark.pledge.mtime) {
            self.disk.known.insert(ino, (stamp, mark.token));
        }
        Ok(())
    }

    /// `truncate(0)`, of whatever stands there.
    pub(crate) fn make_empty(&mut self, ino: u64, left: &mut usize) -> Result<(), Stop> {
        let ident = self.disk.ident(ino);
        let Some(mark) = self.disk.mark(ino).cloned() else {
            self.disk.cut(ino);
            return Ok(());
        };
        self.gate.held.remove(&ident);
        self.gate.removals.insert(ino);
        order::empty(&mut self.on_disk(ino, mark, left))?;
        self.gate.removals.remove(&ino);
        Ok(())
    }

    /// What is to be known of a file before it is given up: its row, and the chunks that the service is to be asked about.
    pub(crate) fn row_of(&self, ino: u64) -> Option<(NodeUid, Seq, Stamp, Content)> {
        let uid = self.store.synced_by_ident(self.disk.ident(ino)).expect(MAPS)?;
        let row = self.store.synced(uid).expect(MAPS)?;
        Some((uid, row.since, row.stamp, row.content))
    }

    /// Gives a file up; `verified` are the chunks of which the service has said that it read them back. The process ends after so many
    /// calls. Beside what came of it, the bytes that were freed.
    pub(crate) fn give_up(
        &mut self,
        ino: u64,
        (uid, since, expect, content): (NodeUid, Seq, Stamp, Content),
        verified: &Result<BTreeSet<ChunkId>, Failed>,
        left: &mut usize,
    ) -> (Result<Left, Stop>, Option<Token>) {
        let stays = |why| (Ok(Left::Stays(why)), None);
        if self.disk.inode(ino).opened > 0 {
            return stays(Stays::InUse);
        }
        let ident = self.disk.ident(ino);
        if let Some(mark) = self.disk.mark(ino).cloned() {
            self.gate.held.remove(&ident);
            let done = self.as_agent(|host| order::free(&mut host.on_disk(ino, mark, left)));
            return (done.map(|()| Left::Discarded), None);
        }
        let chunks = match expect.size {
            0 => Err(Stays::TooSmall),
            _ if expect.ident != ident => Err(Stays::Changed),
            _ => Ok(content.direct_chunks().collect()),
        };
        let there = self.store.cloud(uid).expect(MAPS);
        let caught_up = self.status.as_ref().is_some_and(|status| status.caught_up);
        let caught_up = caught_up || planted(Bug::LeavesBeforeCaughtUp);
        let is_current = caught_up && there.is_some_and(|there| there.content == content);
        match order::why_kept(self.disk.inode(ino).links.into(), is_current, &chunks, verified) {
            Ok(None) => (),
            Ok(Some(why)) => return stays(why),
            Err(_) => return stays(Stays::NotVerified),
        }
        let Some(token) = crate::disk::token_of(&content) else { return stays(Stays::NotAFile) };
        let mark = Mark { pledge: Pledge::new(uid, since, &content, expect.mtime), token };
        self.gate.held.remove(&ident);
        let (done, freed) = self.as_agent(|host| {
            let mut calls = host.on_disk(ino, mark, left);
            calls.expect = Some(expect);
            let done = match order::begin_leaving(&mut calls) {
                Ok(Ok(())) => order::free(&mut calls).map(|()| Left::Tiered),
                Ok(Err(Kept::InUse)) => Ok(Left::Stays(Stays::InUse)),
                Ok(Err(Kept::Changed)) => Ok(Left::Stays(Stays::Changed)),
                Ok(Err(Kept::Marked)) => Ok(Left::Stays(Stays::Tiered)),
                Err(stop) => Err(stop),
            };
            (done, calls.freed)
        });
        self.as_agent(|host| host.disk.hint_file(ino));
        (done, freed)
    }

    /// What may be done for a reader without waiting.
    pub(crate) fn read_here(&self, ino: u64, range: &Range<u64>) -> Given {
        let Some(mark) = self.disk.mark(ino) else {
            return Given::Bytes(vec![self.disk.bytes(ino).unwrap_or(EMPTY)]);
        };
        match self.gate.held.get(&self.disk.ident(ino)) {
            Some(held) if held.token == mark.token && held.missing(range).is_empty() => {
                let spans = spans_of(&content_of(mark.token)).into_iter().enumerate();
                let touched = spans.filter(|(_, (span, chunk))| {
                    chunk.is_some() && span.start < range.end && range.start < span.end
                });
                Given::Bytes(touched.map(|(nth, _)| self.disk.part(ino, nth)).collect())
            }
            _ => Given::Absent,
        }
    }

    /// Whether a content arrives as a placeholder; `over` is what stands in its place.
    pub(super) fn arrives_tiered(&self, content: &Content, over: Option<&Stamp>) -> bool {
        let follows = over.is_some_and(polder_replica::is_stamp_of_mark);
        let may = matches!(content, Content::File { .. }) && content.size() > 0;
        self.gate.on && may && (follows || self.gate.arrive && over.is_none())
    }

    /// Builds a placeholder in staging.
    pub(super) fn mark_staged(
        &mut self,
        ino: u64,
        (uid, since): (NodeUid, Seq),
        content: &Content,
        mtime: Timestamp,
    ) {
        let token = crate::disk::token_of(content).expect("a file's content has bytes");
        let mark = Mark { pledge: Pledge::new(uid, since, content, mtime), token };
        let mut left = usize::MAX;
        let staged = order::stage_placeholder(&mut self.on_disk(ino, mark, &mut left));
        staged.expect("nobody else knows the file");
    }
}
