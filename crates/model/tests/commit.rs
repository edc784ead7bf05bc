//! Commits, lost answers, repeats, set-backs (promises I1, I7, I12).

use polder_model::commit::{Broken, Budget, CommitModel};
use polder_model::explore;

/// Two users at two files; answers are lost and messages come twice.
fn lost_answers() -> CommitModel {
    let budget = Budget { edits: 2, lost: 1, repeats: 1, ..Budget::default() };
    CommitModel { budget, items: 1, backed_up: false, broken: None }
}

/// The service is set back to a backup, and its numbers are used again.
fn service_back() -> CommitModel {
    let budget = Budget { edits: 2, service_back: 1, ..Budget::default() };
    CommitModel { budget, items: 1, backed_up: false, broken: None }
}

/// The same, with numbers that have gone further after it than before.
fn service_far_back() -> CommitModel {
    let budget = Budget { edits: 2, service_back: 1, directs: 1, ..Budget::default() };
    CommitModel { budget, items: 1, backed_up: true, broken: None }
}

/// A process ends.
fn crash() -> CommitModel {
    let budget = Budget { edits: 2, crashes: 1, ..Budget::default() };
    CommitModel { budget, items: 1, backed_up: false, broken: None }
}

/// A machine is set back to a checkpoint.
fn agent_back() -> CommitModel {
    let budget = Budget { edits: 1, crashes: 1, agent_back: 1, ..Budget::default() };
    CommitModel { budget, items: 1, backed_up: false, broken: None }
}

/// The same with two edits, which the first one's late message may meet.
fn agent_back_twice() -> CommitModel {
    let budget = Budget { edits: 2, agent_back: 1, ..Budget::default() };
    CommitModel { budget, items: 1, backed_up: false, broken: None }
}

/// Two files.
fn two_files() -> CommitModel {
    let budget = Budget { edits: 1, deletes: 1, ..Budget::default() };
    CommitModel { budget, items: 2, backed_up: false, broken: None }
}

/// Steps of the longest stories: the shortest ones that break a rule have 6 to 15, and the search counts the
/// beginning.
const DEPTH: usize = 16;

fn holds(name: &str, model: CommitModel) {
    let found = explore(name, model, DEPTH);
    assert!(found.stories.is_empty(), "{name}: {:#?}", found.stories);
    assert!(found.states > 200, "{name}: {}", found.states);
}

#[test]
fn lost_answers_and_repeats_do_no_harm() {
    holds("lost answers", lost_answers());
    holds("crash", crash());
}

#[test]
fn a_service_that_was_set_back_overwrites_nothing() {
    holds("service set back", service_back());
    holds("service set back, numbers beyond", service_far_back());
}

#[test]
fn a_machine_that_was_set_back_overwrites_nothing() {
    holds("machine set back", agent_back());
}

#[test]
fn two_files_do_not_disturb_each_other() {
    holds("two files", two_files());
}

#[test]
fn broken_rules_are_found() {
    let cases = [
        (Broken::OneTag, service_back()),
        (Broken::LateMessages, lost_answers()),
        (Broken::NumbersAgain, crash()),
        (Broken::NoBase, lost_answers()),
        (Broken::AnyOpening, agent_back_twice()),
        (Broken::NoChain, agent_back()),
        (Broken::BaseOfLostHistory, service_far_back()),
    ];
    let mut missed = Vec::new();
    for (broken, model) in cases {
        let found = explore(&format!("{broken:?}"), CommitModel { broken: Some(broken), ..model }, DEPTH);
        if found.stories.is_empty() {
            missed.push(broken);
        }
    }
    assert!(missed.is_empty(), "not noticed: {missed:?}");
}
