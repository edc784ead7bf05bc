//! Giving a file's bytes up: everything that must hold, and then `replica`'s order of writes.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use polder_gate::errno::Errno;
use polder_gate::ports::Node;
use polder_replica::{FileRow, GivenUp, Leaving, Marked, Pledge, PresenceError};
use polder_tiering::Stays;
use polder_types::{Body, ChunkId, Content, ExtentSource, NodeUid};

use super::files::{chunks_of, failed_fetch, failed_fs};
use super::queue::Failed;
use super::{Inner, Outcome, Residency, TieredError, disk};

/// Chunks that are asked for at once.
const ASKED_MAX: usize = 1024;

/// Whether all of a content is whole chunks. Others wait for compaction.
pub(super) fn is_canonical(content: &Content) -> bool {
    match content {
        Content::File { body: Body::Inline(extents), .. } => {
            extents.iter().all(|extent| !matches!(extent.source, ExtentSource::Chunk { skip: 1.., .. }))
        }
        Content::File { body: Body::Tree { canonical, .. }, .. } => *canonical,
        Content::Directory | Content::Symlink(_) => false,
    }
}

/// What is to be known of a file before it is looked at.
struct Wish {
    uid: NodeUid,
    row: FileRow,
    /// Its chunks, or why it stays.
    chunks: Result<BTreeSet<ChunkId>, Stays>,
}

/// A file that may go, opened.
struct Going {
    row: FileRow,
    node: Node,
    file: OwnedFd,
    pledge: Pledge,
    /// Bytes on the disk.
    before: u64,
}

/// A file that is marked, or why it stays.
type Begun<'a> = Result<Result<Leaving<'a>, GivenUp>, PresenceError>;

enum Looked {
    Going(Box<Going>),
    Over(Outcome),
}

impl Looked {
    fn going(&self) -> Option<&Going> {
        match self {
            Looked::Going(going) => Some(going),
            Looked::Over(_) => None,
        }
    }
}

impl Inner {
    /// See [`super::Tiered::tier_files`].
    pub(super) fn give_up_all(&self, uids: &[NodeUid]) -> Vec<Result<Outcome, TieredError>> {
        if let Err(error) = self.may_give_up() {
            return uids.iter().map(|_| Err(error.clone())).collect();
        }
        let wishes: Vec<_> = uids.iter().map(|uid| self.wish(*uid)).collect();
        let chunks = wishes.iter().flatten().flat_map(|wish| wish.chunks.iter().flatten());
        let verified = self.verified(&chunks.copied().collect());
        let looked: Vec<_> = wishes.into_iter().map(|wish| self.look(wish?, &verified)).collect();
        let _quiet = self.quiet.begin();
        // All are marked before the first mark is made durable ([`Leaving`]).
        let leaving: Vec<_> =
            looked.iter().map(|looked| Some(self.begin(looked.as_ref().ok()?.going()?))).collect();
        let given: Vec<_> = looked
            .iter()
            .zip(leaving)
            .map(|(looked, leaving)| Some(self.finish(looked.as_ref().ok()?.going()?, leaving?)))
            .collect();
        // Where it was given up, for marks or for the state database, it is taken again as soon as there is room.
        if let Err(error) = self.root.keep_reserve() {
            tracing::debug!(error = crate::status::chain(&error), "no room is kept for marks");
        }
        let told = looked.into_iter().zip(given).map(|(looked, given)| match (looked?, given) {
            (Looked::Over(outcome), _) => Ok(outcome),
            (Looked::Going(going), given) => self.told(*going, given.expect("each that goes was given up")),
        });
        told.collect()
    }

    /// Whether anything may be given up now.
    fn may_give_up(&self) -> Result<(), TieredError> {
        // Nothing is punched that somebody could read without us.
        if self.gate().is_none() || !polder_gate::is_mounted(&self.point) {
            return Err(TieredError::NotMounted);
        }
        self.watch.ensure_free()
    }

    fn wish(&self, uid: NodeUid) -> Result<Wish, TieredError> {
        let row = self.row(uid)?;
        let is_here = self.residency_of(row.stamp.ident)? == Residency::Resident;
        let chunks = match row.stamp.size {
            // What is present of a placeholder may go, whatever the share says: it is not a version.
            _ if !is_here => Err(Stays::Changed),
            0 => Err(Stays::TooSmall),
            _ if !is_canonical(&row.content) => Err(Stays::NotCanonical),
            _ => Ok(chunks_of(&self.fetcher()?, &row.content).map_err(|error| failed_fetch(&error))?),
        };
        Ok(Wish { uid, row, chunks })
    }

    /// Opens a file and looks whether it may go.
    fn look(
        &self,
        wish: Wish,
        verified: &Result<BTreeSet<ChunkId>, TieredError>,
    ) -> Result<Looked, TieredError> {
        let stays = |why| Ok(Looked::Over(Outcome::Stays(why)));
        let Wish { uid, row, chunks } = wish;
        if !self.takes_arrivals.load(std::sync::atomic::Ordering::Acquire) {
            return stays(Stays::TieringOff);
        }
        let ident = row.stamp.ident;
        let node = self.node(ident)?;
        let file = match self.tree.open_file(node, true, false, true) {
            Ok(file) => file,
            Err(Errno::STALE | Errno::NOENT) => return stays(Stays::Changed),
            Err(Errno::AGAIN | Errno::TXTBSY) => return stays(Stays::InUse),
            Err(errno) => return Err(disk(&errno)),
        };
        let before = blocks(&file)?;
        match self.marked(&file)? {
            Marked::No => (),
            Marked::Ours(pledge) => {
                self.discard(&file, &pledge, &self.files.get(ident)).map_err(|error| failed(&error))?;
                let freed_bytes = before.saturating_sub(blocks(&file)?);
                return Ok(Looked::Over(Outcome::Tiered { freed_bytes }));
            }
            Marked::Copy(_) | Marked::Damaged => return Err(TieredError::Orphaned),
        }
        let is_current = self.is_current(&row)?;
        let kept = polder_tiering::order::why_kept(file_of(&file)?.nlink(), is_current, &chunks, verified);
        if let Some(why) = kept.map_err(TieredError::clone)? {
            return stays(why);
        }
        let pledge = Pledge::new(uid, row.since, &row.content, row.stamp.mtime);
        Ok(Looked::Going(Box::new(Going { row, node, file, pledge, before })))
    }

    /// Marks a file; from then on nobody can open it.
    fn begin<'a>(&self, going: &'a Going) -> Begun<'a> {
        let Going { row, file, pledge, .. } = going;
        let state = self.files.get(row.stamp.ident);
        let mut held = state.lock();
        *held = None;
        state.wants_whole.store(false, std::sync::atomic::Ordering::Release);
        self.changes.hiding(file, || {
            let version = (pledge, &row.content);
            Leaving::begin(&self.root, file.as_fd(), version, &row.stamp, &mut |_| true)
        })
    }

    /// Frees the bytes of a marked file.
    fn finish(&self, going: &Going, leaving: Begun<'_>) -> Result<GivenUp, PresenceError> {
        match leaving? {
            Ok(leaving) => self
                .changes
                .hiding(&going.file, || leaving.finish(&self.root, &mut |_| true))
                .map(|()| GivenUp::Done),
            Err(stays) => Ok(stays),
        }
    }

    fn told(&self, going: Going, given: Result<GivenUp, PresenceError>) -> Result<Outcome, TieredError> {
        let Going { node, file, before, .. } = going;
        let outcome = match given {
            Ok(GivenUp::Done) => Outcome::Tiered { freed_bytes: before.saturating_sub(blocks(&file)?) },
            Ok(GivenUp::Marked) => Outcome::Stays(Stays::Tiered),
            Ok(GivenUp::InUse) => Outcome::Stays(Stays::InUse),
            Ok(GivenUp::Changed) => Outcome::Stays(Stays::Changed),
            Err(PresenceError::Untested(_)) => Outcome::Stays(Stays::FileSystem),
            Err(error) => return Err(failed(&error)),
        };
        drop(file);
        if let (Outcome::Tiered { .. }, Some(gate)) = (&outcome, self.gate()) {
            let _ = gate.node_changed(node);
        }
        Ok(outcome)
    }

    /// Those chunks of which the service says that it read them back from the store and found them right.
    pub(super) fn verified(&self, ids: &BTreeSet<ChunkId>) -> Result<BTreeSet<ChunkId>, TieredError> {
        let fetcher = self.fetcher()?;
        let ids: Vec<ChunkId> = ids.iter().copied().collect();
        let mut verified = BTreeSet::new();
        for part in ids.chunks(ASKED_MAX) {
            let have = fetcher.runtime.block_on(fetcher.remote.have(part));
            let have = have.map_err(|error| Failed::Share(crate::status::chain(&error).into()))?;
            verified.extend(part.iter().zip(have).filter(|(_, have)| *have).map(|(id, _)| *id));
        }
        Ok(verified)
    }
}

fn failed(error: &PresenceError) -> TieredError {
    match error {
        PresenceError::Fs(error) => failed_fs(error).into(),
        error => disk(error),
    }
}

fn file_of(file: &OwnedFd) -> Result<std::fs::Metadata, TieredError> {
    let file = file.try_clone().map_err(|error| disk(&error))?;
    std::fs::File::from(file).metadata().map_err(|error| disk(&error))
}

fn blocks(file: &OwnedFd) -> Result<u64, TieredError> {
    Ok(file_of(file)?.blocks().saturating_mul(512))
}
