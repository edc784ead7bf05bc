//! Prune × upload × deduplication × snapshots (promises I9, I14): every order in five small worlds.

use polder_model::explore;
use polder_model::prune::{Broken, Budget, PruneModel, Start};

fn model(budget: Budget) -> PruneModel {
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

/// Deduplication against two runs of prune, step by step.
fn dedup() -> PruneModel {
    let budget = Budget { edits: 1, looks: 2, days: 1, ..Budget::default() };
    PruneModel { start: Start::Waste, ..model(budget) }
}

/// Two upload one chunk, and one copy arrives damaged. The shortest story that breaks a rule has nine steps.
fn damage() -> PruneModel {
    let budget = Budget { edits: 2, looks: 2, days: 2, damage: 1, ..Budget::default() };
    PruneModel { slow_verify: true, prune_at_once: true, page: 9, ..model(budget) }
}

/// A service that stops between an object and its rows, and prune that stops anywhere.
fn strays() -> PruneModel {
    model(Budget { edits: 1, looks: 3, days: 1, lost: 1, ..Budget::default() })
}

/// Snapshots and endpoints with placeholders, and history that ends at some time.
fn history() -> PruneModel {
    let budget = Budget { deletes: 1, looks: 2, days: 2, snapshots: 1, pins: 1, ..Budget::default() };
    PruneModel { start: Start::TwoFiles, page: 9, prune_at_once: true, slow_expire: true, ..model(budget) }
}

/// Merging and repacking, with an edit and a deletion in between.
fn rewrites() -> PruneModel {
    let budget = Budget { edits: 1, deletes: 1, looks: 1, days: 1, ..Budget::default() };
    PruneModel { start: Start::TwoFiles, chunks: 2, page: 9, rewrites: true, ..model(budget) }
}

/// All states.
const DEPTH: usize = usize::MAX;

fn holds(name: &str, model: PruneModel, depth: usize) {
    let found = explore(name, model, depth);
    assert!(found.stories.is_empty(), "{name}: {:#?}", found.stories);
    // Fewer would mean that the world has come to stand still somewhere.
    assert!(found.states > 200, "{name}: {}", found.states);
}

#[test]
fn deduplication_and_prune_lose_nothing() {
    holds("dedup", dedup(), DEPTH);
}

#[test]
fn a_damaged_upload_costs_nobody_else() {
    holds("damage", damage(), 11);
}

#[test]
fn uploads_without_rows_come_to_an_end() {
    holds("strays", strays(), DEPTH);
}

#[test]
fn snapshots_and_placeholders_are_kept() {
    holds("history", history(), DEPTH);
}

#[test]
fn merging_loses_nothing() {
    holds("rewrites", rewrites(), DEPTH);
}

/// Each rule that is left out is noticed.
#[test]
fn broken_rules_are_found() {
    let cases = [
        (Broken::OneLook, dedup()),
        (Broken::UnverifiedHave, damage()),
        (Broken::HomesStay, damage()),
        (Broken::StrayWithoutRow, strays()),
        (Broken::RowsAtOnce, strays()),
        (Broken::LiveMarksOnly, history()),
    ];
    let mut missed = Vec::new();
    for (broken, model) in cases {
        let found = explore(&format!("{broken:?}"), PruneModel { broken: Some(broken), ..model }, DEPTH);
        if found.stories.is_empty() {
            missed.push(broken);
        }
    }
    assert!(missed.is_empty(), "not noticed: {missed:?}");
}
