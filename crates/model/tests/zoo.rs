//! The bug zoo at the level of the models: `cargo test -p polder-model --features zoo --test zoo`. Each planted bug is in
//! the production code that the models call, and the search finds the harm that it does. Every world has its bug: a check
//! that cannot fail proves nothing.
#![cfg(feature = "zoo")]

use std::hash::Hash;

use polder_model::commit::{self, CommitModel};
use polder_model::explore;
use polder_model::prune::{self, PruneModel, Start};
use polder_types::zoo::{Bug, Level, plant_everywhere};
use stateright::Model;

fn prune(budget: prune::Budget) -> PruneModel {
    PruneModel {
        budget,
        chunks: 1,
        page: 1,
        start: Start::Empty,
        prune_at_once: false,
        rewrites: false,
        slow_verify: false,
        slow_expire: false,
        broken: None,
    }
}

/// As `dedup` of the prune models, with a second day: a commit comes between the second marks and the deletion.
fn dedup_late() -> PruneModel {
    let budget = prune::Budget { edits: 1, looks: 2, days: 2, ..Default::default() };
    PruneModel { start: Start::Waste, ..prune(budget) }
}

/// As `damage`.
fn damage() -> PruneModel {
    let budget = prune::Budget { edits: 2, looks: 2, days: 2, damage: 1, ..Default::default() };
    PruneModel { slow_verify: true, prune_at_once: true, page: 9, ..prune(budget) }
}

/// As `rewrites`.
fn rewrites() -> PruneModel {
    let budget = prune::Budget { edits: 1, deletes: 1, looks: 1, days: 1, ..Default::default() };
    PruneModel { start: Start::TwoFiles, chunks: 2, page: 9, rewrites: true, ..prune(budget) }
}

/// As `lost_answers` of the commit models.
fn lost_answers() -> CommitModel {
    let budget = commit::Budget { edits: 2, lost: 1, repeats: 1, ..Default::default() };
    CommitModel { budget, items: 1, backed_up: false, broken: None }
}

/// As `service_back`.
fn service_back() -> CommitModel {
    let budget = commit::Budget { edits: 2, service_back: 1, ..Default::default() };
    CommitModel { budget, items: 1, backed_up: false, broken: None }
}

/// As `two_files`.
fn two_files() -> CommitModel {
    let budget = commit::Budget { edits: 1, deletes: 1, ..Default::default() };
    CommitModel { budget, items: 2, backed_up: false, broken: None }
}

fn is_caught<M>(bug: Bug, model: M, depth: usize) -> bool
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + std::fmt::Debug + Hash + PartialEq + Send + Sync,
    M::Action: Clone + std::fmt::Debug + PartialEq + Send + Sync,
{
    plant_everywhere(Some(bug));
    let found = explore(&format!("{bug:?}"), model, depth);
    plant_everywhere(None);
    !found.stories.is_empty()
}

/// One test: the bug is planted in the whole process.
#[test]
fn zoo_of_the_models() {
    let prunes = [
        (Bug::UnverifiedServes, damage()),
        (Bug::CondemnedServes, dedup_late()),
        (Bug::RepackedChunksStay, rewrites()),
    ];
    let commits = [
        (Bug::NoRemotePrecondition, lost_answers()),
        (Bug::BatchTakenTwice, lost_answers()),
        (Bug::TagIgnored, service_back()),
        (Bug::NoRemotePrecondition, two_files()),
    ];
    let mut missed = Vec::new();
    for (bug, model) in prunes.clone() {
        if !is_caught(bug, model, usize::MAX) {
            missed.push(bug);
        }
    }
    for (bug, model) in commits.clone() {
        if !is_caught(bug, model, 16) {
            missed.push(bug);
        }
    }
    assert!(missed.is_empty(), "not caught: {missed:?}");
    let here: Vec<Bug> = prunes.iter().map(|case| case.0).chain(commits.iter().map(|case| case.0)).collect();
    let forgotten: Vec<_> = Bug::of(Level::Model).filter(|bug| !here.contains(bug)).collect();
    assert!(forgotten.is_empty(), "no world for {forgotten:?}");
}
