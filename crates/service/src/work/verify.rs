//! Verification: every pack is read back from the store soon after it came, and every chunk in it is opened and its
//! hash computed (promise I9). Only then may others rely on it.
//!
//! A pack that fails is flagged: its chunks count as missing, are not offered, and take other packs when they are sent
//! again. Its object stays for whoever wants to look.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use polder_chunk::{PackFooter, Scratch};
use polder_ledger::{LedgerError, NewPack, PackNo, PackState};
use polder_metadata::control::{AuditNote, AuditOutcome, Share};
use polder_packstore::{PackName, StoreError};
use polder_types::{PackId, ShareId};
use std::sync::Arc;

use super::{Done, Reconciler};
use crate::failure::Chain;
use crate::metric;
use crate::packs;
use crate::shares::OpenShare;
use crate::state::ServiceState;

/// Packs that are read before what was found is written: one transaction for all of them.
const BATCH: usize = 16;
/// Rows of packs that are looked at in one transaction.
const PAGE: usize = 1000;

/// Reads packs back.
#[derive(Default)]
pub struct Verify {
    /// Up to where the rows of each share hold no pack that waits.
    clean: Mutex<BTreeMap<ShareId, PackNo>>,
}

/// What reading a pack back found.
enum Found {
    Sound(PackFooter),
    Bad(String),
    /// The store could not be read: later.
    Later(String),
}

#[async_trait]
impl Reconciler for Verify {
    fn name(&self) -> &'static str {
        "verify"
    }

    /// A pack is mostly followed by the commit that names it: reading it back at once would only delay that.
    fn gather(&self) -> Duration {
        Duration::from_millis(200)
    }

    async fn run(&self, state: &ServiceState, by_timer: bool) -> Done {
        let mut done = Done::default();
        loop {
            let waiting = state.work().take_packs(BATCH);
            if waiting.is_empty() {
                break;
            }
            verify_all(state, waiting, &mut done).await;
        }
        if by_timer {
            for row in shares(state).await {
                self.sweep(state, &row, &mut done).await;
            }
        }
        if done.items > 0 {
            done.outcome = format!("read back {} packs", done.items);
        }
        done
    }
}

impl Verify {
    /// Verifies what the rows of a share still hold unverified: what came before the last stop of a process.
    async fn sweep(&self, state: &ServiceState, row: &Share, done: &mut Done) {
        let (for_rows, share_row) = (state.clone(), row.clone());
        let opened = tokio::task::spawn_blocking(move || for_rows.shares().open_row(&share_row));
        let share = match opened.await {
            Ok(Ok(share)) => share,
            Ok(Err(error)) => return done.failed = Some(Chain(&error).to_string()),
            Err(error) => return done.failed = Some(error.to_string()),
        };
        let mut after = self.clean.lock().unwrap_or_else(PoisonError::into_inner).get(&row.id).copied();
        loop {
            let (db, from) = (share.db.clone(), after);
            let page = tokio::task::spawn_blocking(move || {
                db.read(|rows| Ok::<_, LedgerError>(rows.packs(from, PAGE)?))
            });
            let page = match page.await {
                Ok(Ok(page)) => page,
                Ok(Err(error)) => return done.failed = Some(Chain(&error).to_string()),
                Err(error) => return done.failed = Some(error.to_string()),
            };
            let waiting =
                page.iter().filter(|(_, pack)| pack.state == PackState::Live && pack.verified_ms.is_none());
            let waiting: Vec<_> = waiting.map(|(_, pack)| (row.id, pack.id)).collect();
            let (all_sound, last) = (waiting.is_empty(), page.last().map(|(no, _)| *no));
            for batch in waiting.chunks(BATCH) {
                verify_all(state, batch.to_vec(), done).await;
            }
            let Some(last) = last else { return };
            after = Some(last);
            if all_sound {
                let mut clean = self.clean.lock().unwrap_or_else(PoisonError::into_inner);
                let before = clean.get(&row.id).copied();
                // Only what stands right behind the clean part makes it longer.
                if before == from {
                    clean.insert(row.id, last);
                }
            }
        }
    }
}

async fn shares(state: &ServiceState) -> Vec<Share> {
    let state = state.clone();
    let shares = tokio::task::spawn_blocking(move || state.control().all_shares()).await;
    let mut shares = shares.ok().and_then(Result::ok).unwrap_or_default();
    shares.retain(Share::is_live);
    shares
}

async fn verify_all(state: &ServiceState, waiting: Vec<(ShareId, PackId)>, done: &mut Done) {
    let mut sound: BTreeMap<ShareId, Vec<NewPack>> = BTreeMap::new();
    for (share_id, pack) in waiting {
        let for_rows = state.clone();
        let share = tokio::task::spawn_blocking(move || for_rows.shares().open(share_id)).await;
        // A share that was deleted meanwhile needs no verification.
        let Ok(Ok(share)) = share else { continue };
        match read_back(state, &share, pack).await {
            Found::Sound(footer) => {
                sound.entry(share_id).or_default().push(packs::new_pack(&footer, Vec::new()));
            }
            Found::Bad(why) => {
                done.failed = Some(format!("pack {pack} of share {share_id}: {why}"));
                flag(state, &share, pack, why).await;
            }
            Found::Later(why) => done.failed = Some(why),
        }
    }
    for (share, packs) in sound {
        let (for_rows, count, time_ms) = (state.clone(), packs.len() as u64, state.clock().now_ms());
        let written = tokio::task::spawn_blocking(move || {
            let share = for_rows.shares().open(share).map_err(|error| Chain(&error).to_string())?;
            let noted = share.db.write(move |rows| {
                packs
                    .iter()
                    .try_for_each(|pack| polder_ledger::pack_verified(rows, pack.id, &pack.chunks, time_ms))
            });
            noted.map_err(|error: LedgerError| Chain(&error).to_string())
        });
        match written.await {
            Ok(Ok(())) => {
                done.items += count;
                metric::add(metric::PACKS_VERIFIED, count);
            }
            Ok(Err(why)) => done.failed = Some(why),
            Err(error) => done.failed = Some(error.to_string()),
        }
    }
}

async fn read_back(state: &ServiceState, share: &Arc<OpenShare>, pack: PackId) -> Found {
    let name = PackName { share: share.id, pack };
    let object = match whole(state, name).await {
        Ok(object) => object,
        Err(error) if error.is_retriable() => return Found::Later(Chain(&error).to_string()),
        Err(error) => return Found::Bad(Chain(&error).to_string()),
    };
    let keys = share.keys();
    let checked = tokio::task::spawn_blocking(move || {
        PackFooter::verify_pack(&keys, pack, &object, &mut Scratch::new())
    });
    match checked.await {
        Ok(Ok(footer)) => Found::Sound(footer),
        Ok(Err(error)) => Found::Bad(Chain(&error).to_string()),
        Err(error) => Found::Later(error.to_string()),
    }
}

async fn whole(state: &ServiceState, name: PackName) -> Result<Bytes, StoreError> {
    let size = state.packs().size(name).await?;
    state.packs().get(name, 0..size).await
}

async fn flag(state: &ServiceState, share: &Arc<OpenShare>, pack: PackId, why: String) {
    metric::add(metric::PACKS_FAILED, 1);
    tracing::error!(%pack, share = %share.id, why, "a pack is damaged: its chunks are to be sent again");
    let (state, share, time_ms) = (state.clone(), share.clone(), state.clock().now_ms());
    let flagged = tokio::task::spawn_blocking(move || {
        let flagged = share.db.write(move |rows| polder_ledger::pack_failed(rows, pack, time_ms));
        flagged.map_err(|error: LedgerError| Chain(&error).to_string())?;
        let note =
            AuditNote::new("pack.failed", format!("{}/{pack}", share.id), why).with(AuditOutcome::Failed);
        state
            .control()
            .audit(&state.acting_service(), &note)
            .map(drop)
            .map_err(|error| Chain(&error).to_string())
    });
    if let Ok(Err(error)) = flagged.await {
        tracing::error!(%pack, error, "a damaged pack could not be flagged");
    }
}
