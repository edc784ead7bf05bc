//! Moves the referenced chunks of sparse or small packs into one new pack: read, proven, sealed again, stored, read back,
//! and only then are the rows moved. The old packs keep what they have until a later plan condemns them.

use std::sync::Arc;

use bytes::Bytes;
use polder_backup::Marks;
use polder_chunk::{Pack, PackBuilder, PackFooter, PackNonce, Reserved, Scratch};
use polder_packstore::PackName;
use polder_types::PackId;

use super::rows;
use crate::failure::Chain;
use crate::packs;
use crate::shares::OpenShare;
use crate::state::ServiceState;

/// Packs `group` anew.
pub async fn repack(
    state: &ServiceState,
    share: &Arc<OpenShare>,
    group: &[PackId],
    marks: &impl Marks,
) -> Result<(), String> {
    let (mut id, mut nonce) = ([0; 16], [0; 32]);
    getrandom::fill(&mut id).and_then(|()| getrandom::fill(&mut nonce)).map_err(|error| error.to_string())?;
    let keys = share.keys();
    let mut builder = PackBuilder::new(&keys, PackId(id), PackNonce(nonce));
    let mut moved = Vec::new();
    for old in group {
        let name = PackName { share: share.id, pack: *old };
        let object = whole(state, name).await?;
        let footer = PackFooter::parse(&keys, *old, object.len() as u64, &object);
        let footer = footer.map_err(|error| Chain(&error).to_string())?;
        if add(share, &mut builder, &footer, &object, marks).await? {
            moved.push(*old);
        } else {
            // The new pack is full: the others wait for the next plan.
            break;
        }
    }
    let Some(pack) = builder.finish().map_err(|error| Chain(&error).to_string())? else { return Ok(()) };
    store(state, share, pack, moved).await
}

/// Adds the chunks of a pack that are referenced and at home in it; `false` when they do not fit.
async fn add(
    share: &Arc<OpenShare>,
    builder: &mut PackBuilder,
    footer: &PackFooter,
    object: &Bytes,
    marks: &impl Marks,
) -> Result<bool, String> {
    let keys = share.keys();
    let key = keys.pack_key(footer.pack).map_err(|error| Chain(&error).to_string())?;
    let wanted: Vec<_> =
        footer.entries.iter().filter(|entry| marks.contains(&entry.id.key16())).copied().collect();
    let (asked, old) = (wanted.iter().map(|entry| entry.id).collect::<Vec<_>>(), footer.pack.id);
    let homes = rows::read(share, move |rows| polder_ledger::locate(rows, &asked)).await?;
    let mut scratch = Scratch::new();
    for (entry, home) in wanted.iter().zip(homes) {
        if home.is_none_or(|home| home.pack != old) {
            continue;
        }
        let range = entry.slot.range();
        let sealed =
            object.get(range.start as usize..range.end as usize).ok_or("a slot lies outside its pack")?;
        let chunk = key
            .open(entry.id, &entry.slot, sealed, &mut scratch)
            .map_err(|error| Chain(&error).to_string())?;
        match builder
            .seal(entry.id, chunk.bytes(), &mut scratch)
            .map_err(|error| Chain(&error).to_string())?
        {
            Reserved::New(()) | Reserved::Known => (),
            Reserved::Full => return Ok(false),
        }
    }
    Ok(true)
}

async fn store(
    state: &ServiceState,
    share: &Arc<OpenShare>,
    pack: Pack,
    replaces: Vec<PackId>,
) -> Result<(), String> {
    let Pack { bytes, footer } = pack;
    let name = PackName { share: share.id, pack: footer.pack.id };
    state.packs().put(name, vec![bytes.into()]).await.map_err(|error| Chain(&error).to_string())?;
    let object = whole(state, name).await?;
    let (keys, id) = (share.keys(), name.pack);
    rows::blocking(move || PackFooter::verify_pack(&keys, id, &object, &mut Scratch::new())).await?;
    let new = packs::new_pack(&footer, replaces.clone());
    let time_ms = state.clock().now_ms();
    rows::write(share, move |rows| polder_ledger::register_pack(rows, &new, time_ms, Some(time_ms))).await?;
    tracing::info!(pack = %name.pack, share = %share.id, from = replaces.len(), "packs were packed anew");
    Ok(())
}

/// A whole pack.
pub async fn whole(state: &ServiceState, name: PackName) -> Result<Bytes, String> {
    let read = async {
        let size = state.packs().size(name).await?;
        state.packs().get(name, 0..size).await
    };
    read.await.map_err(|error: polder_packstore::StoreError| Chain(&error).to_string())
}
