//! Packs and the chunk index: which chunks the share has, where, and which packs may go.
//!
//! A pack is deleted in four steps, each its own transaction, so that no commit can come to refer to bytes that go:
//!
//! 1. *Mark*: note the head, then read every reference page by page ([`references`]). Commits go on meanwhile; each
//!    stamps the packs it refers to ([`PackRow::used`]).
//! 2. *Condemn* under the share's lock: a pack that was used after the mark began is spared. From here on commits that
//!    need a chunk of it are told to send it again.
//! 3. *Second look*: after a grace period longer than any signed URL lives, mark again. A reference that was found puts the
//!    pack back ([`spare_packs`]).
//! 4. *Delete*: [`delete_packs`], then the object, then the rows ([`forget_step`]). A crash in between leaves an object
//!    that nothing refers to. An object that never had rows gets one for its end ([`delete_stray`]).
//!
//! `crates/model` tries every order of these steps, uploads, commits and damage in a small world.

use polder_types::{
    ChunkId, PackId, Seq,
    zoo::{Bug, planted},
};

use crate::share::share_row;
use crate::{
    ChunkRow, LedgerError, PACK_META_BYTES_MAX, PackNo, PackRow, PackState, Rows, RowsError, RowsMut, Slot,
};

/// Most chunks of one pack.
pub const PACK_CHUNKS_MAX: usize = 65_536;

/// A pack that is durable in the object store and whose footer was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewPack {
    /// Its name.
    pub id: PackId,
    /// Bytes of the object.
    pub bytes: u64,
    /// Generation of the share's key that sealed it.
    pub key_gen: u32,
    /// What else a reader must know of it; at most [`PACK_META_BYTES_MAX`] bytes.
    pub meta: Box<[u8]>,
    /// Its chunks.
    pub chunks: Vec<(ChunkId, Slot)>,
    /// Packs whose chunks this one takes over, because it was made of them (repacking).
    pub replaces: Vec<PackId>,
}

/// Where a chunk can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// The pack.
    pub pack: PackId,
    /// State of the pack. A condemned one can still be read; ask again when its object is gone.
    pub state: PackState,
    /// Whether the pack was read back and checked.
    pub verified: bool,
    /// Generation of the share's key that sealed it.
    pub key_gen: u32,
    /// What else a reader must know of the pack.
    pub meta: Box<[u8]>,
    /// Where in the pack.
    pub slot: Slot,
}

/// Registers a pack with its chunks. Registering it again is a repeat and changes nothing. A chunk that the share has
/// stays where it is, unless its pack is not live or is among `replaces`. `verified_ms`: the pack was made from verified
/// bytes and read back.
pub fn register_pack(
    rows: &mut dyn RowsMut,
    pack: &NewPack,
    time_ms: u64,
    verified_ms: Option<u64>,
) -> Result<PackNo, LedgerError> {
    if let Some(no) = rows.pack_no(pack.id)? {
        return Ok(no);
    }
    if pack.meta.len() > PACK_META_BYTES_MAX || pack.chunks.is_empty() || pack.chunks.len() > PACK_CHUNKS_MAX
    {
        return Err(LedgerError::Invalid(format!("a pack has 1 to {PACK_CHUNKS_MAX} chunks")));
    }
    let head = share_row(rows)?.head.seq;
    let no = rows.insert_pack(&PackRow {
        id: pack.id,
        state: PackState::Live,
        bytes: pack.bytes,
        chunks: pack.chunks.len() as u32,
        key_gen: pack.key_gen,
        meta: pack.meta.clone(),
        registered_ms: time_ms,
        verified_ms,
        state_seq: head,
        state_ms: time_ms,
        used: head,
    })?;
    let mut replaced = Vec::new();
    for id in &pack.replaces {
        replaced.extend(rows.pack_no(*id)?);
    }
    // Neighbours of one pack usually lie together in another as well: its state is asked once in a row.
    let mut last: Option<(PackNo, bool)> = None;
    for (id, slot) in &pack.chunks {
        if let Some(old) = rows.chunk(id.key16())? {
            let stays = match last {
                Some((no, stays)) if no == old.pack => stays,
                _ => {
                    let is_replaced = replaced.contains(&old.pack) && !planted(Bug::RepackedChunksStay);
                    !is_replaced && known_pack(rows, old.pack)?.state == PackState::Live
                }
            };
            last = Some((old.pack, stays));
            if stays {
                continue;
            }
        }
        rows.put_chunk(id.key16(), &ChunkRow { pack: no, slot: *slot })?;
    }
    Ok(no)
}

/// Whether each chunk need not be sent: it lies in a live pack that was verified. Advice, from any process.
pub fn have(rows: &dyn Rows, ids: &[ChunkId]) -> Result<Vec<bool>, LedgerError> {
    let found = locate(rows, ids)?;
    Ok(found
        .iter()
        .map(|at| {
            at.as_ref().is_some_and(|at| {
                (at.verified || planted(Bug::UnverifiedServes)) && at.state == PackState::Live
            })
        })
        .collect())
}

/// Where each chunk can be read; `None` for chunks that the share does not have.
pub fn locate(rows: &dyn Rows, ids: &[ChunkId]) -> Result<Vec<Option<Located>>, LedgerError> {
    let mut last: Option<(PackNo, PackRow)> = None;
    let mut found = Vec::with_capacity(ids.len());
    for id in ids {
        let Some(chunk) = rows.chunk(id.key16())? else {
            found.push(None);
            continue;
        };
        if last.as_ref().is_none_or(|(no, _)| *no != chunk.pack) {
            last = Some((chunk.pack, known_pack(rows, chunk.pack)?));
        }
        let pack = &last.as_ref().expect("just read").1;
        let readable = matches!(pack.state, PackState::Live | PackState::Condemned);
        found.push(readable.then(|| Located {
            pack: pack.id,
            state: pack.state,
            verified: pack.verified_ms.is_some(),
            key_gen: pack.key_gen,
            meta: pack.meta.clone(),
            slot: chunk.slot,
        }));
    }
    Ok(found)
}

/// A pack by its id.
pub fn pack(rows: &dyn Rows, id: PackId) -> Result<Option<PackRow>, LedgerError> {
    match rows.pack_no(id)? {
        Some(no) => Ok(rows.pack(no)?),
        None => Ok(None),
    }
}

/// A pack was read back from the store and every chunk in it is sound; `chunks` are those that were found in it. A chunk
/// whose home is not known to be sound gets this pack for its home: else a copy that arrived well would be waste, and
/// pruned, because one that did not was sent before it.
pub fn pack_verified(
    rows: &mut dyn RowsMut,
    id: PackId,
    chunks: &[(ChunkId, Slot)],
    time_ms: u64,
) -> Result<(), LedgerError> {
    let (no, mut pack) = known(rows, id)?;
    match pack.state {
        PackState::Live => (),
        PackState::Condemned => {
            pack.verified_ms = Some(time_ms);
            return Ok(rows.put_pack(no, &pack)?);
        }
        // What was found out comes too late.
        PackState::Deleted | PackState::Failed => return Ok(()),
    }
    pack.verified_ms = Some(time_ms);
    rows.put_pack(no, &pack)?;
    let mut last: Option<(PackNo, bool)> = None;
    for (id, slot) in chunks {
        if let Some(home) = rows.chunk(id.key16())? {
            let stays = match last {
                Some((no, stays)) if no == home.pack => stays,
                _ if home.pack == no => true,
                _ => {
                    let home = known_pack(rows, home.pack)?;
                    home.state == PackState::Live && home.verified_ms.is_some()
                }
            };
            last = Some((home.pack, stays));
            if stays {
                continue;
            }
        }
        rows.put_chunk(id.key16(), &ChunkRow { pack: no, slot: *slot })?;
    }
    Ok(())
}

/// A pack's object is damaged or gone. Its chunks count as missing from now on, and take other packs when they are sent
/// again. One that was deleted meanwhile is not damaged.
pub fn pack_failed(rows: &mut dyn RowsMut, id: PackId, time_ms: u64) -> Result<(), LedgerError> {
    let head = share_row(rows)?.head.seq;
    let (no, mut pack) = known(rows, id)?;
    if pack.state == PackState::Deleted {
        return Ok(());
    }
    (pack.state, pack.verified_ms) = (PackState::Failed, None);
    (pack.state_seq, pack.state_ms) = (head, time_ms);
    Ok(rows.put_pack(no, &pack)?)
}

/// An object in the store that no row knows is to be deleted. First a row says so: whoever is about to register it then
/// finds it deleted, and commits ask for its chunks again. Nothing happens where a row came to be meanwhile.
pub fn delete_stray(rows: &mut dyn RowsMut, id: PackId, bytes: u64, time_ms: u64) -> Result<(), LedgerError> {
    if rows.pack_no(id)?.is_some() {
        return Ok(());
    }
    let head = share_row(rows)?.head.seq;
    rows.insert_pack(&PackRow {
        id,
        state: PackState::Deleted,
        bytes,
        chunks: 0,
        key_gen: 0,
        meta: Box::default(),
        registered_ms: time_ms,
        verified_ms: None,
        state_seq: head,
        state_ms: time_ms,
        used: head,
    })?;
    Ok(())
}

/// Condemns those of `packs` that no commit has referred to since the mark that found them unreferenced began, and
/// answers them. `marked_from` is the head that was noted before the mark's first page.
pub fn condemn_packs(
    rows: &mut dyn RowsMut,
    packs: &[PackId],
    marked_from: Seq,
    time_ms: u64,
) -> Result<Vec<PackId>, LedgerError> {
    let head = share_row(rows)?.head.seq;
    let mut condemned = Vec::new();
    for id in packs {
        let (no, mut pack) = known(rows, *id)?;
        let used_since = pack.used > marked_from && !planted(Bug::UsedPackCondemned);
        if pack.state == PackState::Live && !used_since {
            (pack.state, pack.state_seq, pack.state_ms) = (PackState::Condemned, head, time_ms);
            rows.put_pack(no, &pack)?;
            condemned.push(*id);
        }
    }
    Ok(condemned)
}

/// Puts condemned packs back: the second look found references.
pub fn spare_packs(rows: &mut dyn RowsMut, packs: &[PackId], time_ms: u64) -> Result<(), LedgerError> {
    let head = share_row(rows)?.head.seq;
    for id in packs {
        let (no, mut pack) = known(rows, *id)?;
        if pack.state == PackState::Condemned {
            (pack.state, pack.state_seq, pack.state_ms) = (PackState::Live, head, time_ms);
            rows.put_pack(no, &pack)?;
        }
    }
    Ok(())
}

/// Takes those of `packs` for deleted that were condemned at least `grace_ms` ago, and before the second mark (which
/// found no reference to them) noted the head `marked_from`. Only then may their objects be deleted; answers them.
pub fn delete_packs(
    rows: &mut dyn RowsMut,
    packs: &[PackId],
    marked_from: Seq,
    marked_from_ms: u64,
    grace_ms: u64,
    time_ms: u64,
) -> Result<Vec<PackId>, LedgerError> {
    let head = share_row(rows)?.head.seq;
    let mut deleted = Vec::new();
    for id in packs {
        let (no, mut pack) = known(rows, *id)?;
        let looked_twice =
            pack.state_seq <= marked_from && pack.state_ms <= marked_from_ms || planted(Bug::OldMarksCount);
        let waited = time_ms.saturating_sub(pack.state_ms) >= grace_ms;
        if pack.state == PackState::Condemned && looked_twice && waited {
            (pack.state, pack.state_seq, pack.state_ms) = (PackState::Deleted, head, time_ms);
            rows.put_pack(no, &pack)?;
            deleted.push(*id);
        }
    }
    Ok(deleted)
}

/// One step of forgetting the chunks of deleted packs: looks at up to `limit` rows of the chunk index after `after`,
/// drops those that lie in a deleted pack, and answers where to go on; `None` when the index was walked to its end.
/// A walk from beginning to end that began after `delete_packs` leaves none of their chunks.
pub fn forget_step(
    rows: &mut dyn RowsMut,
    after: Option<[u8; 16]>,
    limit: usize,
) -> Result<Option<[u8; 16]>, LedgerError> {
    let page = rows.chunks(after, limit.max(1))?;
    let mut states = std::collections::BTreeMap::new();
    for (key, chunk) in &page {
        let state = match states.get(&chunk.pack) {
            Some(state) => *state,
            None => {
                let state = known_pack(rows, chunk.pack)?.state;
                states.insert(chunk.pack, state);
                state
            }
        };
        if state == PackState::Deleted {
            rows.remove_chunk(*key)?;
        }
    }
    Ok(page.last().filter(|_| page.len() == limit.max(1)).map(|(key, _)| *key))
}

/// Forgets a deleted pack, once its object is gone and a whole walk of [`forget_step`] has dropped its chunks.
pub fn forget_pack(rows: &mut dyn RowsMut, id: PackId) -> Result<(), LedgerError> {
    let (no, pack) = known(rows, id)?;
    if pack.state != PackState::Deleted {
        return Err(LedgerError::Invalid(format!("pack {id} is not deleted")));
    }
    Ok(rows.remove_pack(no)?)
}

fn known(rows: &dyn Rows, id: PackId) -> Result<(PackNo, PackRow), LedgerError> {
    let no = rows.pack_no(id)?.ok_or_else(|| LedgerError::Unknown { what: format!("pack {id}") })?;
    Ok((no, known_pack(rows, no)?))
}

pub(crate) fn known_pack(rows: &dyn Rows, no: PackNo) -> Result<PackRow, RowsError> {
    rows.pack(no)?.ok_or_else(|| RowsError::corrupt(format!("pack number {} is named and not known", no.0)))
}
