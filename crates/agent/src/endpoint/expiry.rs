//! The end of what was displaced: after a week, or earlier when the volume is short of room, or the folder is to go.
//!
//! Age alone lets nothing go. A file leaves when nobody has it open and the service says of every chunk of the bytes
//! that it holds now that it lies in a verified pack. What the share does not know stays for as long as it does not.
//! Nothing here is remembered over a restart: the area itself is the only book.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use polder_chunk::{BuildError, ContentBuilder};
use polder_replica::{FsError, Piece, Recycle, Recycled, RecycledName, Released};
use polder_types::{ChunkId, Kind, Stamp};

use super::disk::Disk;
use crate::chunks::{Fetcher, Share};

/// How often the area is looked at.
const INTERVAL: Duration = Duration::from_secs(60);
/// How long known content stays (docs/defaults.md, "recycle area").
const KEPT_SECS: i64 = 7 * 24 * 3600;
/// What the share did not know is read again after so many rounds.
const ROUNDS_UNTIL_READ_AGAIN: u32 = 60;
/// Chunks that are asked for at once.
const ASKED_MAX: usize = 1024;

/// Whether the share holds all of these chunks verified; `None` when nobody can say now.
type Known<'a> = &'a mut dyn FnMut(&[ChunkId]) -> Option<bool>;

/// What was read in vain: its stamp then, and the rounds until it is read again.
type Unknown = BTreeMap<RecycledName, (Stamp, u32)>;

/// What is to become of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Gone,
    /// The share lacks some of it.
    Unknown,
    /// Somebody uses it, or has written to it.
    InUse,
    /// The service cannot be asked.
    NobodyToAsk,
}

/// Looks after the area until the sender is gone.
pub(crate) fn look_after(until: &Receiver<()>, disk: &Arc<Disk>, fetcher: &Fetcher) {
    let mut unknown = Unknown::new();
    loop {
        let mut known = |ids: &[ChunkId]| are_known(fetcher, ids);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs() as i64);
        if let Err(error) = round(disk, &fetcher.share, now, &mut unknown, &mut known) {
            tracing::warn!(error = crate::status::chain(&error), "the recycle area cannot be looked at");
        }
        match until.recv_timeout(INTERVAL) {
            Err(RecvTimeoutError::Timeout) => (),
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn are_known(fetcher: &Fetcher, ids: &[ChunkId]) -> Option<bool> {
    let have = fetcher.runtime.block_on(fetcher.remote.have(ids)).ok()?;
    Some(have.into_iter().all(|there| there))
}

/// Lets go of all files that the share holds verified and nobody uses, however young: for a folder that is to be empty. Folders stay, with the names in
/// them that the filter leaves out.
pub(crate) fn let_go_of_known(recycle: &Recycle, fetcher: &Fetcher) -> Result<(), FsError> {
    let_go_of_all(recycle, &fetcher.share, &mut |ids| are_known(fetcher, ids))
}

fn let_go_of_all(recycle: &Recycle, share: &Share, known: Known<'_>) -> Result<(), FsError> {
    for entry in listed(recycle)?.iter().filter(|entry| entry.uid.is_some()) {
        match let_go(recycle, share, entry, false, known) {
            Ok(Fate::Gone) => (),
            Ok(fate) => tracing::info!(recycled = %entry.name.name(), ?fate, "it stays"),
            Err(error) => {
                tracing::info!(recycled = %entry.name.name(), error = crate::status::chain(&error), "it stays");
            }
        }
    }
    Ok(())
}

fn listed(recycle: &Recycle) -> Result<Vec<Recycled>, FsError> {
    let mut entries = Vec::new();
    recycle.list(&mut |entry| {
        entries.push(entry);
        ControlFlow::Continue(())
    })?;
    Ok(entries)
}

/// One look at the area: lets go of what may go and tells how much is left.
fn round(
    disk: &Disk,
    share: &Share,
    now_secs: i64,
    unknown: &mut Unknown,
    known: Known<'_>,
) -> Result<(), FsError> {
    let mut entries = listed(&disk.recycle)?;
    // The displacement moved the change time; whatever moved it later only lets the entry stay longer.
    entries.sort_by_key(|entry| entry.stamp.ctime);
    let mut bytes: u64 = entries.iter().map(bytes_of).sum();
    disk.recycled_bytes.store(bytes, Ordering::Relaxed);
    unknown.retain(|_, (_, rounds)| {
        *rounds -= 1;
        *rounds > 0
    });
    let wanted = disk.staging.take_missed();
    for entry in entries {
        let is_old = now_secs.saturating_sub(entry.stamp.ctime.secs) >= KEPT_SECS;
        if !is_old && !disk.root.is_short(wanted)? {
            break;
        }
        let read_in_vain = unknown.get(&entry.name).is_some_and(|(stamp, _)| *stamp == entry.stamp);
        if entry.uid.is_none() || read_in_vain {
            continue;
        }
        match let_go(&disk.recycle, share, &entry, is_old, known) {
            Ok(Fate::Gone) => {
                bytes -= bytes_of(&entry);
                disk.recycled_bytes.store(bytes, Ordering::Relaxed);
            }
            Ok(Fate::Unknown) => {
                tracing::info!(recycled = %entry.name.name(), "displaced bytes stay: the share does not have them");
                unknown.insert(entry.name, (entry.stamp, ROUNDS_UNTIL_READ_AGAIN));
            }
            Ok(Fate::InUse) => (),
            Ok(Fate::NobodyToAsk) => break,
            Err(error) => {
                tracing::info!(recycled = %entry.name.name(), error = crate::status::chain(&error), "it stays");
            }
        }
    }
    Ok(())
}

fn bytes_of(entry: &Recycled) -> u64 {
    if entry.kind == Some(Kind::File) { entry.stamp.size } else { 0 }
}

fn let_go(
    recycle: &Recycle,
    share: &Share,
    entry: &Recycled,
    is_old: bool,
    known: Known<'_>,
) -> Result<Fate, FsError> {
    let read_at = match entry.kind {
        // It has no bytes: what it stands for is a version of the share.
        Some(Kind::File) if polder_replica::is_stamp_of_mark(&entry.stamp) => entry.stamp,
        Some(Kind::File) => match judge(recycle, share, &entry.name, known)? {
            Ok(read_at) => read_at,
            Err(fate) => return Ok(fate),
        },
        Some(Kind::Symlink) => entry.stamp,
        // Names that the filter leaves out, which no share has: want of room is no reason to drop them.
        Some(Kind::Directory) if is_old => {
            recycle.remove_leftovers(&entry.name)?;
            return Ok(Fate::Gone);
        }
        _ => return Ok(Fate::InUse),
    };
    Ok(match recycle.release(&entry.name, read_at)? {
        Released::Gone => Fate::Gone,
        Released::InUse | Released::Changed => Fate::InUse,
    })
}

/// Reads a file and asks for its chunks; its stamp if the share has them all.
fn judge(
    recycle: &Recycle,
    share: &Share,
    name: &RecycledName,
    known: Known<'_>,
) -> Result<Result<Stamp, Fate>, FsError> {
    let mut builder = ContentBuilder::new(share.rules.clone(), share.ids);
    let mut ids: Vec<ChunkId> = Vec::new();
    let mut ask = |ids: &mut Vec<ChunkId>| {
        let there = if ids.is_empty() { Some(true) } else { known(ids) };
        ids.clear();
        match there {
            Some(true) => Ok(()),
            Some(false) => Err(Fate::Unknown),
            None => Err(Fate::NobodyToAsk),
        }
    };
    let mut sink = |chunk: polder_chunk::NewChunk<'_>| {
        ids.push(chunk.id);
        if ids.len() < ASKED_MAX { Ok(()) } else { ask(&mut ids) }
    };
    let mut failed = None;
    let read_at = recycle.read(name, &mut |piece| {
        let pushed = match piece {
            Piece::Data(bytes) => builder.push(bytes, &mut sink),
            Piece::Hole(len) => builder.push_zeros(len, &mut sink),
        };
        match pushed {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failed = Some(fate(&error));
                ControlFlow::Break(())
            }
        }
    })?;
    if let Some(fate) = failed {
        return Ok(Err(fate));
    }
    let Some(read_at) = read_at else { return Ok(Err(Fate::InUse)) };
    if let Err(error) = builder.finish(&mut sink) {
        return Ok(Err(fate(&error)));
    }
    Ok(ask(&mut ids).map(|()| read_at))
}

fn fate(error: &BuildError<Fate>) -> Fate {
    match error {
        BuildError::Sink(fate) => *fate,
        BuildError::TooLarge => Fate::Unknown,
    }
}

#[cfg(test)]
mod tests;
