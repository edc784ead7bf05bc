//! Which names and nodes a batch changes beneath the gate, so that the kernel asks for them again.

use std::collections::BTreeSet;

use polder_engine::{Apply, ApplyAct, Place};
use polder_gate::Moving;
use polder_replica::{BatchResult, Found, StepResult};
use polder_types::{FileIdent, Name};

use crate::tiered::Tiered;

/// What a batch may change. Told after it, whatever came of it: asking in vain does no harm.
pub(crate) struct Changes {
    names: BTreeSet<(Option<FileIdent>, Name)>,
    nodes: BTreeSet<FileIdent>,
    /// Directories of each step: what was displaced may have got another name in one of them.
    dirs: Vec<Vec<Option<FileIdent>>>,
    /// The gate knows of the names from here on, until it has told the kernel.
    moving: Option<Moving>,
}

impl Changes {
    /// Of a batch, which begins now.
    pub(crate) fn of(apply: &Apply, tiered: &Tiered) -> Self {
        let mut changes =
            Self { names: BTreeSet::new(), nodes: BTreeSet::new(), dirs: Vec::new(), moving: None };
        for step in &apply.steps {
            let (places, node) = match &step.act {
                ApplyAct::Place { at, over, .. } => {
                    let to = over.as_ref().and_then(|over| over.to.as_ref());
                    (std::iter::once(at).chain(to).collect(), None)
                }
                ApplyAct::Replace { at, keep, .. } => {
                    (std::iter::once(at).chain(keep.as_ref()).collect(), None)
                }
                ApplyAct::Touch { at, expect, .. } => (vec![at], Some(expect.ident)),
                ApplyAct::Move { from, to, .. } | ApplyAct::Exchange { from, to, .. } => {
                    (vec![from, to], None)
                }
                ApplyAct::Remove { at, .. } => (vec![at], None),
            };
            changes.nodes.extend(node);
            changes.dirs.push(places.iter().map(|place| place.dir.ident).collect());
            changes.names.extend(places.into_iter().map(|Place { dir, name }| (dir.ident, name.clone())));
        }
        changes.nodes.extend(apply.dir_times.iter().filter_map(|(dir, _)| dir.ident));
        changes.moving = tiered.names_move(changes.names.iter().map(|(dir, name)| (*dir, name.as_bytes())));
        changes
    }

    /// Carries out a step of it while no name is changed through the gate.
    pub(crate) fn alone(&self, step: &mut dyn FnMut()) {
        match &self.moving {
            Some(moving) => moving.alone(step),
            None => step(),
        }
    }

    /// Has the kernel ask again. No lock may be held that a reader needs.
    pub(crate) fn tell(mut self, tiered: &Tiered, done: &BatchResult) {
        let others = done.steps.iter().filter_map(|step| match step {
            StepResult::Done { other: Some(Found { seen, .. }), .. } => Some(seen.name.clone()),
            _ => None,
        });
        let dirs: BTreeSet<_> = self.dirs.iter().flatten().copied().collect();
        for name in others {
            self.names.extend(dirs.iter().map(|dir| (*dir, name.clone())));
        }
        self.nodes.extend(done.dirs.iter().map(|(stamp, _)| stamp.ident));
        let names: Vec<_> = self.names.iter().collect();
        for of_dir in names.chunk_by(|(one, _), (other, _)| one == other) {
            // A directory that has just been made is not in the kernel's cache.
            let Some(dir) = of_dir[0].0 else { continue };
            tiered.names_changed(dir, of_dir.iter().map(|(_, name)| name.as_bytes()));
            self.nodes.remove(&dir);
        }
        drop(self.moving.take());
        for node in self.nodes {
            tiered.node_changed(node);
        }
    }
}
