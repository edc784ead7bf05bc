//! One tiered file in this life: what of it is here, and how it becomes whole.
//!
//! Lock order: the table, then one file, then the queue. A file's lock is held while bytes are filled in and while its mark goes or is set, so
//! that nothing late is ever filled into a file that has no mark. It is never held over the network.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use polder_chunk::{ExtentWalk, TreeNode, VerifiedChunk, WalkStep};
use polder_replica::{Marked, Pledge, Presence, PresenceError, Span, SpanSource, marked, pledged_content};
use polder_tiering::PIECE_BYTES;
use polder_types::{Body, ChunkId, Content, ExtentSource, FileIdent, NodeUid};

use super::queue::Failed;
use super::{Inner, LOCK};
use crate::chunks::{FetchError, Fetcher};

/// Files that are kept in mind; beyond it those that nobody reads are forgotten, and what is here of them.
const FILES_MAX: usize = 8192;

/// Where in a span's chunk its bytes are.
pub(super) type Skip = u32;

/// A placeholder that was taken up.
#[derive(Debug)]
pub(super) struct Held {
    pub presence: Presence,
    pub pledge: Pledge,
    pub content: Content,
    /// By span.
    skips: Vec<Skip>,
    /// The file, for what is to be hidden of fills.
    file: OwnedFd,
    /// Pieces that were fetched and not read to their end yet: what is read of them was not here before.
    fresh: BTreeSet<u64>,
}

/// What was fetched.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Brought {
    /// Of which node; none when there was nothing to fetch.
    pub node: Option<NodeUid>,
    /// Bytes that were filled in.
    pub bytes: u64,
}

/// What is known of a file.
#[derive(Debug, Default)]
pub(super) struct FileState {
    held: Mutex<Option<Held>>,
    /// Somebody is to have it whole: it becomes resident once all of it is here.
    pub wants_whole: AtomicBool,
}

/// A file's state, locked: nobody gets a descriptor to write with.
pub(super) type HeldLock<'a> = MutexGuard<'a, Option<Held>>;

impl FileState {
    pub(super) fn lock(&self) -> HeldLock<'_> {
        self.held.lock().expect(LOCK)
    }

    /// `None` while somebody else has it.
    pub(super) fn try_lock(&self) -> Option<HeldLock<'_>> {
        self.held.try_lock().ok()
    }
}

/// The files of an endpoint by inode.
#[derive(Debug, Default)]
pub(super) struct Files(Mutex<HashMap<FileIdent, Arc<FileState>>>);

impl Files {
    /// The state of a file.
    pub(super) fn get(&self, ident: FileIdent) -> Arc<FileState> {
        let mut files = self.0.lock().expect(LOCK);
        if files.len() >= FILES_MAX && !files.contains_key(&ident) {
            files.retain(|_, state| Arc::strong_count(state) > 1);
        }
        Arc::clone(files.entry(ident).or_default())
    }

    /// Closes all placeholders that were taken up: of none anything is present any more, and who reads one takes it up again.
    pub(super) fn put_down(&self) {
        let states: Vec<_> = self.0.lock().expect(LOCK).values().cloned().collect();
        for state in states {
            *state.lock() = None;
        }
    }

    /// The state of a file, if there is one.
    pub(super) fn find(&self, ident: FileIdent) -> Option<Arc<FileState>> {
        self.0.lock().expect(LOCK).get(&ident).cloned()
    }
}

/// A file's key in the queue of recalls.
pub(super) fn key_of(ident: FileIdent) -> NodeUid {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&ident.ino.to_be_bytes());
    key[8..12].copy_from_slice(&ident.generation.to_be_bytes());
    NodeUid(key)
}

/// The file of a key.
pub(super) fn ident_of(NodeUid(key): NodeUid) -> FileIdent {
    let (ino, rest) = key.split_first_chunk().expect("sixteen bytes");
    let generation = rest.first_chunk().expect("eight bytes");
    FileIdent { ino: u64::from_be_bytes(*ino), generation: u32::from_be_bytes(*generation) }
}

impl Held {
    fn new(
        inner: &Inner,
        file: OwnedFd,
        pledge: Pledge,
        content: Content,
        spans: Spans,
    ) -> Result<Self, Failed> {
        let keep = file.try_clone().map_err(|error| Failed::Disk(crate::status::chain(&error).into()))?;
        let begun = inner.changes.hiding(&keep, || Presence::begin(&inner.root, file, pledge, spans.spans));
        let presence = begun.map_err(|error| failed_fs(&error))?.ok_or(Failed::Orphaned)?;
        Ok(Self { presence, pledge, content, skips: spans.skips, file: keep, fresh: BTreeSet::new() })
    }

    /// Spans that touch a range, as numbers.
    fn spans_in(&self, from: u64, to: u64) -> std::ops::Range<usize> {
        let spans = self.presence.spans();
        let first = spans.partition_point(|span| span.start + span.len <= from);
        let last = spans.partition_point(|span| span.start < to);
        first..last.max(first)
    }

    /// Pieces among `pieces` of which something is missing.
    pub(super) fn absent(&self, pieces: std::ops::Range<u64>) -> BTreeSet<u64> {
        let is_absent = |piece: &u64| {
            let from = piece * PIECE_BYTES;
            self.spans_in(from, from + PIECE_BYTES).any(|span| !self.presence.is_at_hand(span))
        };
        pieces.filter(is_absent).collect()
    }

    /// Bytes were read: how many of them were here before anybody asked for them.
    pub(super) fn passed(&mut self, offset: u64, count: u64) -> u64 {
        let (mut at, end, mut here) = (offset, offset + count, 0);
        while at < end {
            let piece = at / PIECE_BYTES;
            let (to, ends) = ((piece + 1) * PIECE_BYTES, end >= self.pledge.size);
            let is_fresh =
                if end >= to || ends { self.fresh.remove(&piece) } else { self.fresh.contains(&piece) };
            let next = to.min(end);
            here += if is_fresh { 0 } else { next - at };
            at = next;
        }
        here
    }

    /// Chunks that are missing between two bytes, with the spans that want them.
    fn wanted(&self, from: u64, to: u64) -> BTreeMap<ChunkId, Vec<usize>> {
        let mut wanted: BTreeMap<ChunkId, Vec<usize>> = BTreeMap::new();
        for index in self.spans_in(from, to).filter(|index| !self.presence.is_at_hand(*index)) {
            if let SpanSource::Chunk(id) = self.presence.spans()[index].source {
                wanted.entry(id).or_default().push(index);
            }
        }
        wanted
    }

    /// The bytes of a span in its chunk.
    fn part<'a>(&self, index: usize, chunk: &'a VerifiedChunk) -> Option<&'a [u8]> {
        let span = self.presence.spans().get(index)?;
        if span.source != SpanSource::Chunk(chunk.id()) {
            return None;
        }
        chunk.bytes().get(self.skips[index] as usize..)?.get(..usize::try_from(span.len).ok()?)
    }

    /// Bytes that are verified and on disk, or in memory.
    pub(super) fn present_bytes(&self) -> u64 {
        let spans = self.presence.spans().iter().enumerate();
        spans.filter(|(index, _)| self.presence.is_at_hand(*index)).map(|(_, span)| span.len).sum()
    }
}

struct Spans {
    spans: Vec<Span>,
    skips: Vec<Skip>,
}

/// What a failure of a fetch is to those who wait.
pub(super) fn failed_fetch(error: &FetchError) -> Failed {
    if let FetchError::Sink(cause) = error
        && let Some(failed) = cause.downcast_ref::<polder_replica::FsError>()
    {
        return failed_fs(failed);
    }
    let text = crate::status::chain(error).into();
    match error {
        // The fetch has asked for the place anew, and tried again, before it said so.
        FetchError::Missing(_) | FetchError::Damaged(_) => Failed::Damaged(text),
        FetchError::Remote(_) | FetchError::Sink(_) => Failed::Share(text),
    }
}

pub(super) fn failed_fs(error: &polder_replica::FsError) -> Failed {
    match error.class {
        polder_replica::ErrorClass::NoSpace | polder_replica::ErrorClass::Quota => Failed::NoSpace,
        _ => Failed::Disk(crate::status::chain(error).into()),
    }
}

/// The extents of a content. Nodes of its tree are fetched level by level, each level together.
fn spans_of(fetcher: &Fetcher, content: &Content) -> Result<Spans, FetchError> {
    let damaged = |error: &dyn std::error::Error| FetchError::Sink(anyhow::anyhow!(error.to_string()));
    let mut nodes: HashMap<ChunkId, VerifiedChunk> = HashMap::new();
    if let Content::File { body: Body::Tree { root, .. }, .. } = content {
        let mut level = vec![*root];
        while !level.is_empty() {
            let mut below = Vec::new();
            fetcher.fetch(level, &mut |chunk| {
                if let Ok(TreeNode::Children { children, .. }) = TreeNode::decode(chunk.bytes()) {
                    below.extend(children.into_iter().map(|(_, id)| id));
                }
                nodes.insert(chunk.id(), chunk);
                Ok(())
            })?;
            below.retain(|id| !nodes.contains_key(id));
            level = below;
        }
    }
    let mut walk = ExtentWalk::new(content).map_err(|error| damaged(&error))?;
    let mut found = Spans { spans: Vec::new(), skips: Vec::new() };
    while let Some(step) = walk.step() {
        match step {
            WalkStep::Node { id, .. } => {
                let node = nodes.get(&id).ok_or(FetchError::Missing(id))?;
                walk.supply(node).map_err(|error| damaged(&error))?;
            }
            WalkStep::Extent { offset, extent } => {
                let (source, skip) = match extent.source {
                    ExtentSource::Hole => (SpanSource::Hole, 0),
                    ExtentSource::Chunk { id, skip } => (SpanSource::Chunk(id), skip),
                };
                found.spans.push(Span { start: offset, len: extent.len, source });
                found.skips.push(skip);
            }
        }
    }
    Ok(found)
}

/// All chunks that a content names: those of its bytes, and the nodes of its tree.
pub(super) fn chunks_of(fetcher: &Fetcher, content: &Content) -> Result<BTreeSet<ChunkId>, FetchError> {
    let mut ids: BTreeSet<ChunkId> = content.direct_chunks().collect();
    let mut walk = ExtentWalk::new(content).map_err(|error| FetchError::Sink(error.into()))?;
    while let Some(step) = walk.step() {
        match step {
            WalkStep::Node { id, .. } => {
                ids.insert(id);
                let node = fetcher.fetch_one(id)?;
                walk.supply(&node).map_err(|error| FetchError::Sink(error.into()))?;
            }
            WalkStep::Extent { extent, .. } => ids.extend(extent.chunk()),
        }
    }
    Ok(ids)
}

impl Inner {
    /// What a file says of itself.
    pub(super) fn marked(&self, file: impl AsFd) -> Result<Marked, Failed> {
        marked(&self.root, file).map_err(|error| failed_fs(&error))
    }

    /// Takes a placeholder up, if it is not; may wait for the share. `false`: it is no placeholder (any more).
    pub(super) fn take_up(&self, ident: FileIdent, state: &FileState) -> Result<bool, Failed> {
        if state.lock().is_some() {
            return Ok(true);
        }
        let disk = |errno: polder_gate::errno::Errno| Failed::Disk(errno.to_string().into());
        let node = self.node(ident)?;
        let file = self.tree.open_file(node, true, false, false).map_err(disk)?;
        let pledge = match self.marked(&file)? {
            Marked::No => return Ok(false),
            Marked::Ours(pledge) => pledge,
            Marked::Copy(_) | Marked::Damaged => return Err(Failed::Orphaned),
        };
        let content = pledged_content(&file, &pledge).map_err(|error| failed_fs(&error))?;
        let content = content.ok_or(Failed::Orphaned)?;
        let fetcher = self.fetcher()?;
        let spans = spans_of(&fetcher, &content).map_err(|error| failed_fetch(&error))?;
        let mut held = state.lock();
        if held.is_some() {
            return Ok(true);
        }
        // It may have become resident, or have another time, since the look.
        match self.marked(&file)? {
            Marked::Ours(pledge) => {
                *held = Some(Held::new(self, file, pledge, content, spans)?);
                Ok(true)
            }
            Marked::No => Ok(false),
            Marked::Copy(_) | Marked::Damaged => Err(Failed::Orphaned),
        }
    }

    /// Fetches what is missing of a file between two bytes, and fills it in.
    pub(super) fn bring(&self, ident: FileIdent, from: u64, to: u64) -> Result<Brought, Failed> {
        let _quiet = self.quiet.begin();
        let state = self.files.get(ident);
        if !self.take_up(ident, &state)? {
            return Ok(Brought::default());
        }
        let mut brought = [Brought::default()];
        self.bring_parts(&[(&state, from..to)], &mut brought)?;
        self.settle_if_whole(ident, &state);
        Ok(brought[0])
    }

    /// Fetches what is missing of parts of files that were taken up, all together, and fills it in. What came before an error is told too.
    pub(super) fn bring_parts(
        &self,
        parts: &[(&FileState, Range<u64>)],
        brought: &mut [Brought],
    ) -> Result<(), Failed> {
        let mut wanted: BTreeMap<ChunkId, Vec<(usize, usize)>> = BTreeMap::new();
        for (nth, (state, bytes)) in parts.iter().enumerate() {
            let Some(held) = &*state.lock() else { continue };
            for (id, indices) in held.wanted(bytes.start, bytes.end) {
                wanted.entry(id).or_default().extend(indices.into_iter().map(|index| (nth, index)));
            }
        }
        let ids: Vec<ChunkId> = wanted.keys().copied().collect();
        let fetched = self.fetcher()?.fetch(ids, &mut |chunk| {
            for (nth, index) in wanted.remove(&chunk.id()).unwrap_or_default() {
                // Fetched under a mark that may be gone by now: then nobody holds the file.
                let Some(held) = &mut *parts[nth].0.lock() else { continue };
                self.fill(held, index, &chunk)?;
                let (span, brought) = (held.presence.spans()[index], &mut brought[nth]);
                (brought.node, brought.bytes) = (Some(held.pledge.node), brought.bytes + span.len);
                held.fresh.extend(span.start / PIECE_BYTES..(span.start + span.len).div_ceil(PIECE_BYTES));
            }
            Ok(())
        });
        fetched.map_err(|error| failed_fetch(&error))
    }

    fn fill(&self, held: &mut Held, index: usize, chunk: &VerifiedChunk) -> anyhow::Result<()> {
        let part =
            held.part(index, chunk).ok_or_else(|| anyhow::anyhow!("an extent reaches beyond its chunk"))?;
        let Held { presence, file, .. } = held;
        let filled = self.changes.hiding(&*file, || presence.fill(index, part, |id, _| *id == chunk.id()));
        filled??;
        Ok(())
    }

    /// Reads what is at hand; `None` when that is not all.
    pub(super) fn read_held(held: &Held, offset: u64, out: &mut [u8]) -> Result<Option<usize>, Failed> {
        let size = held.pledge.size;
        if offset >= size {
            return Ok(Some(0));
        }
        let count = usize::try_from(size - offset).unwrap_or(usize::MAX).min(out.len());
        let read = held.presence.read(offset, &mut out[..count]).map_err(|error| failed_fs(&error))?;
        Ok(read.then_some(count))
    }

    /// Fetches bytes of a placeholder without keeping them. `None` when it is none any more.
    pub(super) fn read_through(
        &self,
        ident: FileIdent,
        offset: u64,
        out: &mut [u8],
    ) -> Result<Option<usize>, Failed> {
        let state = self.files.get(ident);
        if !self.take_up(ident, &state)? {
            return Ok(None);
        }
        let held = state.lock();
        let Some(known) = &*held else { return Ok(None) };
        let size = known.pledge.size;
        let end = offset.saturating_add(out.len() as u64).min(size);
        if offset >= end {
            return Ok(Some(0));
        }
        let range = known.spans_in(offset, end);
        let spans: Vec<(Span, Skip)> =
            range.map(|index| (known.presence.spans()[index], known.skips[index])).collect();
        drop(held);
        let ids: BTreeSet<ChunkId> = spans
            .iter()
            .filter_map(|(span, _)| match span.source {
                SpanSource::Chunk(id) => Some(id),
                SpanSource::Hole => None,
            })
            .collect();
        let count = usize::try_from(end - offset).unwrap_or(out.len()).min(out.len());
        out[..count].fill(0);
        let fetched = self.fetcher()?.fetch(ids, &mut |chunk| {
            for (span, skip) in spans.iter().filter(|(span, _)| span.source == SpanSource::Chunk(chunk.id()))
            {
                let (from, to) = (span.start.max(offset), (span.start + span.len).min(end));
                let skipped = usize::try_from(from - span.start)? + *skip as usize;
                let len = usize::try_from(to - from)?;
                let part = chunk.bytes().get(skipped..).and_then(|bytes| bytes.get(..len));
                let part = part.ok_or_else(|| anyhow::anyhow!("an extent reaches beyond its chunk"))?;
                let at = usize::try_from(from - offset)?;
                out[at..at + len].copy_from_slice(part);
            }
            Ok(())
        });
        fetched.map_err(|error| failed_fetch(&error))?;
        Ok(Some(count))
    }

    /// Makes a file resident that is all here, if somebody is to have it whole.
    pub(super) fn settle_if_whole(&self, ident: FileIdent, state: &FileState) {
        self.settle_whole(vec![(ident, state, state.lock())]);
    }

    /// Makes those of the files resident that are all here, if somebody is to have them whole. All of them stay locked until the last
    /// removal of a mark is durable.
    pub(super) fn settle_whole(&self, files: Vec<(FileIdent, &FileState, HeldLock<'_>)>) {
        let _quiet = self.quiet.begin();
        let (mut due, mut presences, mut _locks) = (Vec::new(), Vec::new(), Vec::new());
        for (ident, state, mut held) in files {
            let is_whole = held.as_ref().is_some_and(|held| held.presence.is_whole());
            if is_whole
                && state.wants_whole.load(Ordering::Acquire)
                && let Some(Held { presence, content, pledge, file, .. }) = held.take()
            {
                due.push((ident, content, pledge, file));
                presences.push(presence);
                _locks.push(held);
            }
        }
        for (ident, content, pledge, _) in &due {
            self.known.settling(*ident, pledge, content.clone());
        }
        let idents: Vec<_> = due.iter().map(|(ident, ..)| *ident).collect();
        let hidden: Vec<_> = due.iter().map(|(.., file)| file.as_fd()).collect();
        let settle = || {
            let settled = Presence::settle_all(&self.root, presences);
            settled.into_iter().map(|settled| settled.map_err(anyhow::Error::from)).collect()
        };
        match self.changes.hiding_all(&hidden, || self.removals.noting_all(&idents, settle)) {
            Ok(settled) => {
                for ((ident, content, pledge, file), settled) in due.iter().zip(settled) {
                    self.tell_settled(*ident, file.as_fd(), content, pledge, settled.err());
                }
            }
            Err(error) => {
                idents.iter().for_each(|ident| self.known.forget(*ident));
                tracing::warn!(
                    error = format!("{error:#}"),
                    files = due.len(),
                    "it cannot be noted which recalled files lose their marks"
                );
            }
        }
    }

    fn tell_settled(
        &self,
        ident: FileIdent,
        file: BorrowedFd<'_>,
        content: &Content,
        pledge: &Pledge,
        error: Option<anyhow::Error>,
    ) {
        match error {
            None => {
                self.note_resident(ident, file, content.clone(), pledge);
                tracing::info!(node = %pledge.node, bytes = pledge.size, "a tiered file is resident again");
            }
            // It is a placeholder of which nothing is present, and begins again.
            Some(error) => {
                self.known.forget(ident);
                tracing::warn!(
                    node = %pledge.node,
                    error = format!("{error:#}"),
                    "a recalled file could not be made resident"
                );
            }
        }
    }

    /// Remembers what a file that has just become resident holds, so that nobody has to read it to know.
    ///
    /// The file's lock is still held, so nobody has got a descriptor to write with since the mark went.
    fn note_resident(&self, ident: FileIdent, file: BorrowedFd<'_>, content: Content, pledge: &Pledge) {
        match polder_replica::stamp_of_open(file) {
            Ok(stamp) if (stamp.size, stamp.mtime) == (pledge.size, pledge.mtime) => {
                self.known.settled(stamp, content);
            }
            _ => self.known.forget(ident),
        }
    }

    /// Gives back what is present of a placeholder.
    pub(super) fn discard(
        &self,
        file: &OwnedFd,
        pledge: &Pledge,
        state: &FileState,
    ) -> Result<(), PresenceError> {
        let mut held = state.lock();
        *held = None;
        self.changes.hiding(file, || polder_replica::discard(&self.root, file, pledge, &mut |_| true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_waits_for_what_the_share_has_lost() {
        let lost = failed_fetch(&FetchError::Missing(ChunkId([1; 32])));
        assert!(matches!(lost, Failed::Damaged(_)), "{lost:?}");
        let disk = failed_fetch(&FetchError::Sink(anyhow::anyhow!("other")));
        assert!(matches!(disk, Failed::Share(_)), "{disk:?}");
    }
}
