//! The object store: packs with one chunk a file, some of them lost, torn, damaged or slow.

use std::collections::{BTreeMap, BTreeSet};

use polder_types::{ChunkId, PackId};

/// What is wrong with an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    /// The store acknowledged it and does not have it.
    Lost,
    /// Only part of it was written.
    Torn,
    /// Some of its bits are others.
    Flipped,
}

/// An object.
#[derive(Debug, Clone)]
struct Object {
    chunks: BTreeSet<ChunkId>,
    damage: Option<Damage>,
}

/// What reading a chunk gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fetched {
    /// Its bytes.
    Sound,
    /// No such object, or no such chunk in it.
    Gone,
    /// Other bytes.
    Damaged,
}

/// The store of one share.
#[derive(Debug, Clone, Default)]
pub struct Store {
    objects: BTreeMap<PackId, Object>,
}

impl Store {
    /// Puts an object, if there is none of the name.
    pub fn put(&mut self, pack: PackId, chunks: BTreeSet<ChunkId>, damage: Option<Damage>) {
        self.objects.entry(pack).or_insert(Object { chunks, damage });
    }

    /// Deletes an object.
    pub fn delete(&mut self, pack: PackId) {
        self.objects.remove(&pack);
    }

    /// Names of all objects.
    pub fn list(&self) -> Vec<PackId> {
        let there = self.objects.iter().filter(|(_, object)| object.damage != Some(Damage::Lost));
        there.map(|(pack, _)| *pack).collect()
    }

    /// The chunks of an object whose footer can be read.
    pub fn chunks(&self, pack: PackId) -> Option<&BTreeSet<ChunkId>> {
        self.objects.get(&pack).filter(|object| object.damage.is_none()).map(|object| &object.chunks)
    }

    /// Reads a chunk; whoever reads computes its hash.
    pub fn fetch(&self, pack: PackId, chunk: ChunkId) -> Fetched {
        match self.objects.get(&pack) {
            Some(Object { damage: Some(Damage::Lost), .. }) | None => Fetched::Gone,
            Some(object) if !object.chunks.contains(&chunk) => Fetched::Gone,
            Some(Object { damage: Some(_), .. }) => Fetched::Damaged,
            Some(_) => Fetched::Sound,
        }
    }
}
