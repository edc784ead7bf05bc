//! Contents on their way to the service and back: which chunks are in which pack, which reads wait for them, and where
//! chunks are fetched. As `agent/src/chunks`, with one chunk a file.

use std::collections::{BTreeMap, BTreeSet};

use polder_engine::{Failure, FailureClass, JobId};
use polder_types::{BatchAnswer, ChunkId, Content, GroupAnswer, PackId, Refusal};

use super::Host;
use crate::service::Service;
use crate::service::store::Fetched;

/// Below so many bytes nobody asks whether the share has them.
const ASK_BYTES_MIN: u64 = 128 * 1024;

/// What an agent knows of packs in one life.
#[derive(Debug, Default)]
pub struct Packing {
    /// The pack that is being filled.
    pub filling: Option<PackId>,
    /// Packs that are not acknowledged yet, with their chunks.
    pub on_their_way: BTreeMap<PackId, BTreeSet<ChunkId>>,
    /// Reads that wait for packs.
    waiting: BTreeMap<JobId, BTreeSet<PackId>>,
    /// Where chunks were put by this life.
    recent: BTreeMap<ChunkId, PackId>,
    /// Where chunks are, as the service said.
    places: BTreeMap<ChunkId, PackId>,
}

impl Host {
    /// Takes the content of a read: `Ok(true)` when nothing of it is on its way. A new pack may have been begun.
    pub fn pack(&mut self, job: JobId, content: &Content, service: &Service) -> Result<bool, Failure> {
        for chunk in content.direct_chunks().collect::<Vec<_>>() {
            if let Some(pack) = self.packing.recent.get(&chunk).copied() {
                self.packing.wait(job, pack);
                continue;
            }
            if content.size() >= ASK_BYTES_MIN {
                self.link.and_then(|link| link.open).ok_or_else(not_open)?;
                if service.have(chunk) {
                    continue;
                }
            }
            let pack = match self.packing.filling {
                Some(pack) => pack,
                None => {
                    let pack = PackId(self.random());
                    self.packing.filling = Some(pack);
                    pack
                }
            };
            self.packing.on_their_way.entry(pack).or_default().insert(chunk);
            self.packing.recent.insert(chunk, pack);
            self.packing.wait(job, pack);
        }
        Ok(!self.packing.waiting.contains_key(&job))
    }

    /// The service lacks chunks that were thought to be there.
    pub(crate) fn missing_chunks(&mut self, answer: &BatchAnswer) {
        for group in &answer.groups {
            if let GroupAnswer::Refused { why: Refusal::ChunksMissing(ids), .. } = group {
                ids.iter().for_each(|id| {
                    self.packing.recent.remove(id);
                });
            }
        }
    }

    /// A pack was acknowledged or given up: the reads that are stored now, or that failed.
    pub fn settle_pack(&mut self, pack: PackId, stored: bool) -> Vec<JobId> {
        let Some(chunks) = self.packing.on_their_way.remove(&pack) else { return Vec::new() };
        if !stored {
            self.packing.recent.retain(|chunk, at| *at != pack || !chunks.contains(chunk));
        }
        let mut settled = Vec::new();
        self.packing.waiting.retain(|job, packs| {
            let waited = packs.remove(&pack);
            let done = waited && (packs.is_empty() || !stored);
            if done {
                settled.push(*job);
            }
            !done
        });
        settled
    }

    /// The feed said where chunks are.
    pub fn learn_places(&mut self, places: impl IntoIterator<Item = (ChunkId, PackId)>) {
        self.packing.places.extend(places);
    }

    /// Gets a chunk, asking again where it is when it is not where it was said to be.
    pub fn fetch(&mut self, chunk: ChunkId, service: &Service) -> Result<(), Failure> {
        self.link.and_then(|link| link.open).ok_or_else(not_open)?;
        for _ in 0..2 {
            let known = self.packing.places.get(&chunk).copied().or_else(|| service.locate(chunk));
            let Some(pack) = known else { return Err(damaged("nobody has the chunk")) };
            self.packing.places.insert(chunk, pack);
            match service.store.fetch(pack, chunk) {
                Fetched::Sound => return Ok(()),
                Fetched::Gone | Fetched::Damaged => drop(self.packing.places.remove(&chunk)),
            }
        }
        Err(damaged("its chunk is damaged"))
    }

    /// Whether the share says that it holds all chunks of a content, verified; `None` when it cannot be asked.
    pub fn is_known(&self, content: &Content, service: &Service) -> Option<bool> {
        self.link.and_then(|link| link.open)?;
        Some(content.direct_chunks().all(|chunk| service.have(chunk)))
    }
}

impl Packing {
    /// The read needs the pack, unless that is acknowledged already.
    fn wait(&mut self, job: JobId, pack: PackId) {
        if self.on_their_way.contains_key(&pack) {
            self.waiting.entry(job).or_default().insert(pack);
        }
    }

    /// A read came to nothing.
    pub fn forget(&mut self, job: JobId) {
        self.waiting.remove(&job);
    }
}

fn not_open() -> Failure {
    Failure { class: FailureClass::Unreachable, text: "the endpoint is not open in a session".into() }
}

fn damaged(text: &str) -> Failure {
    Failure { class: FailureClass::Damaged, text: text.into() }
}
