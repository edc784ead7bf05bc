//! Which bytes of a placeholder are present in this life, and how more become so.
//!
//! Chunks do not end at blocks. A block is written once, whole, when verified bytes of every span that touches it are at
//! hand; until then they wait in memory, where they can be served from. Chunk borders inside a block that were written
//! piece by piece showed zeros to concurrent readers.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use polder_tiering::order;
use polder_types::ChunkId;
use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::calls::OnDisk;
use super::{Marked, Pace, Pledge, PresenceError, marked};
use crate::Root;
use crate::error::{Doing, FsError};
use crate::walk::retry_interrupted;

/// What a span's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpanSource {
    /// A whole chunk.
    Chunk(ChunkId),
    /// Zeros.
    Hole,
}

/// A run of the file. Spans follow each other without gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Where it begins.
    pub start: u64,
    /// Its bytes; never 0.
    pub len: u64,
    /// What they are.
    pub source: SpanSource,
}

impl Span {
    fn end(&self) -> u64 {
        self.start + self.len
    }
}

/// Bytes that are not those of the chunk, or do not belong into this file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the bytes are not those of the chunk")]
pub struct NotChunk;

#[derive(Debug)]
struct Border {
    bytes: Vec<u8>,
    missing: usize,
}

/// Presence of one placeholder in this life of the agent.
#[derive(Debug)]
pub struct Presence {
    file: OwnedFd,
    pledge: Pledge,
    block: u64,
    spans: Vec<Span>,
    /// By span: verified in this life, its own whole blocks on disk.
    at_hand: Vec<bool>,
    /// Blocks that several spans touch and that are not written yet.
    borders: BTreeMap<u64, Border>,
}

impl Presence {
    /// Takes up a placeholder of ours, opened for reading and writing: nothing of its chunks is present. `None` when the spans are not those of
    /// a file of this size, or the file is not this placeholder.
    pub fn begin(
        root: &Root,
        file: OwnedFd,
        pledge: Pledge,
        spans: Vec<Span>,
    ) -> Result<Option<Self>, FsError> {
        let mut end = 0u64;
        for span in &spans {
            let next = end.checked_add(span.len).filter(|next| *next <= pledge.size && span.len > 0);
            let (Some(next), true) = (next, span.start == end) else { return Ok(None) };
            end = next;
        }
        if end != pledge.size || marked(root, &file)? != Marked::Ours(pledge) {
            return Ok(None);
        }
        let block =
            rustix::fs::fstatvfs(&file).doing("ask the file system of", b"tiered file")?.f_frsize.max(512);
        // A crash in the middle of `empty` leaves a mark on a file that is shorter: it was not told, so the version stands.
        if rustix::fs::fstat(&file).doing("stat", b"tiered file")?.st_size as u64 != pledge.size {
            rustix::fs::ftruncate(&file, pledge.size).doing("set the size of", b"tiered file")?;
        }
        let at_hand = vec![false; spans.len()];
        let mut presence = Self { file, pledge, block, spans, at_hand, borders: BTreeMap::new() };
        // What an earlier life left in a hole is not known.
        for index in 0..presence.spans.len() {
            if presence.spans[index].source == SpanSource::Hole {
                presence.zero(index)?;
            }
        }
        Ok(Some(presence))
    }

    /// Number of the span that holds an offset.
    pub fn span_at(&self, offset: u64) -> Option<usize> {
        let after = self.spans.partition_point(|span| span.start <= offset);
        (offset < self.pledge.size).then_some(after.checked_sub(1)).flatten()
    }

    /// The spans of the file.
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// Whether all of a span's bytes are at hand, on disk or in memory.
    pub fn is_at_hand(&self, span: usize) -> bool {
        self.at_hand.get(span).copied().unwrap_or(false)
    }

    /// Whether every byte of the file is verified and on disk.
    pub fn is_whole(&self) -> bool {
        self.borders.is_empty() && self.at_hand.iter().all(|at_hand| *at_hand)
    }

    fn zero(&mut self, index: usize) -> Result<(), FsError> {
        let span = self.spans[index];
        let (first, last) = self.own_blocks(&span);
        if first < last {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            retry_interrupted(|| rustix::fs::fallocate(&self.file, flags, first, last - first))
                .doing("punch", b"tiered file")?;
        }
        // The bytes of its borders, at most two blocks.
        let head = vec![0; usize::try_from(first.min(span.end()) - span.start).unwrap_or(0)];
        self.put_border(span.start, &head)?;
        if last >= first && last < span.end() {
            self.put_border(last, &vec![0; usize::try_from(span.end() - last).unwrap_or(0)])?;
        }
        self.at_hand[index] = true;
        Ok(())
    }

    /// The blocks that only this span touches, as offsets; the last block of the file counts as whole.
    fn own_blocks(&self, span: &Span) -> (u64, u64) {
        let first = span.start.next_multiple_of(self.block);
        let last =
            if span.end() == self.pledge.size { span.end() } else { span.end() / self.block * self.block };
        (first, last)
    }

    /// Verifies a chunk's bytes and writes what can be written of them. `is_chunk` tells whether bytes are those of an id:
    /// nothing becomes present without it.
    pub fn fill(
        &mut self,
        index: usize,
        bytes: &[u8],
        is_chunk: impl FnOnce(&ChunkId, &[u8]) -> bool,
    ) -> Result<Result<(), NotChunk>, FsError> {
        let Some(span) = self.spans.get(index).copied() else { return Ok(Err(NotChunk)) };
        let SpanSource::Chunk(id) = span.source else { return Ok(Err(NotChunk)) };
        if bytes.len() as u64 != span.len || !is_chunk(&id, bytes) {
            return Ok(Err(NotChunk));
        }
        if self.at_hand[index] {
            return Ok(Ok(()));
        }
        let (first, last) = self.own_blocks(&span);
        let cut = |offset: u64| usize::try_from(offset - span.start).unwrap_or(bytes.len()).min(bytes.len());
        if first < last {
            write_all(self.file.as_fd(), &bytes[cut(first)..cut(last)], first)?;
        }
        // Before the first own block, and after the last: one piece if there is no own block between.
        let head = cut(first.min(span.end()));
        self.put_border(span.start, &bytes[..head])?;
        if last >= first && last < span.end() {
            self.put_border(last, &bytes[cut(last)..])?;
        }
        self.at_hand[index] = true;
        Ok(Ok(()))
    }

    /// Adds verified bytes to a shared block; writes it when they are all there. `bytes` lie within one block.
    fn put_border(&mut self, offset: u64, bytes: &[u8]) -> Result<(), FsError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let start = offset / self.block * self.block;
        let len = usize::try_from(self.block.min(self.pledge.size - start)).unwrap_or(0);
        let border =
            self.borders.entry(start).or_insert_with(|| Border { bytes: vec![0; len], missing: len });
        let at = usize::try_from(offset - start).unwrap_or(len);
        border.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        border.missing -= bytes.len();
        if border.missing == 0 {
            write_all(self.file.as_fd(), &border.bytes, start)?;
            self.borders.remove(&start);
        }
        Ok(())
    }

    /// Reads bytes that are at hand. `false`, and nothing of `out` is of use, unless all of them are.
    pub fn read(&self, offset: u64, out: &mut [u8]) -> Result<bool, FsError> {
        let end = offset.saturating_add(out.len() as u64);
        if end > self.pledge.size {
            return Ok(false);
        }
        let (Some(first), Some(last)) = (self.span_at(offset), self.span_at(end.saturating_sub(1))) else {
            return Ok(out.is_empty());
        };
        if !(first..=last).all(|span| self.at_hand[span]) {
            return Ok(false);
        }
        let mut done = 0;
        while done < out.len() {
            let at = offset + done as u64;
            let got = retry_interrupted(|| rustix::io::pread(&self.file, &mut out[done..], at))
                .doing("read", b"tiered file")?;
            if got == 0 {
                return Err(FsError::new("read", b"tiered file", Errno::IO));
            }
            done += got;
        }
        for (start, border) in self.borders.range(offset / self.block * self.block..end) {
            let (from, to) = ((*start).max(offset), (start + border.bytes.len() as u64).min(end));
            let index = |at: u64, base: u64| usize::try_from(at - base).unwrap_or(usize::MAX);
            out[index(from, offset)..index(to, offset)]
                .copy_from_slice(&border.bytes[index(from, *start)..index(to, *start)]);
        }
        Ok(true)
    }

    /// Makes the whole file resident. After any error it is a placeholder of which nothing is present: begin again.
    pub fn settle(self, root: &Root, pace: Pace<'_>) -> Result<OwnedFd, PresenceError> {
        let mut calls = OnDisk::new(Some(root), self.file.as_fd(), &self.pledge, pace).of_any_time();
        calls.is_whole = self.is_whole();
        order::settle(&mut calls)?;
        drop(calls);
        Ok(self.file)
    }

    /// As [`Presence::settle`], for many at once ([`order::settle_all`]).
    pub fn settle_all(root: &Root, all: Vec<Self>) -> Vec<Result<OwnedFd, PresenceError>> {
        let mut paces: Vec<_> = all.iter().map(|_| |_: &'static str| true).collect();
        let mut calls: Vec<_> = all
            .iter()
            .zip(&mut paces)
            .map(|(presence, pace)| {
                let file = presence.file.as_fd();
                let mut calls = OnDisk::new(Some(root), file, &presence.pledge, pace).of_any_time();
                calls.is_whole = presence.is_whole();
                calls
            })
            .collect();
        let settled = order::settle_all(&mut calls);
        drop(calls);
        settled.into_iter().zip(all).map(|(settled, presence)| settled.map(|()| presence.file)).collect()
    }
}

pub(crate) fn write_all(file: BorrowedFd<'_>, mut bytes: &[u8], mut at: u64) -> Result<(), FsError> {
    while !bytes.is_empty() {
        let written =
            retry_interrupted(|| rustix::io::pwrite(file, bytes, at)).doing("write", b"tiered file")?;
        if written == 0 {
            return Err(FsError::new("write", b"tiered file", Errno::IO));
        }
        bytes = &bytes[written..];
        at += written as u64;
    }
    Ok(())
}
