//! One identity, two agents (promise I7).

use polder_model::clones::{Broken, Budget, CloneModel};
use polder_model::explore;

fn model() -> CloneModel {
    let budget = Budget { edits: 3, lost: 0, restarts: 0, openings: 3 };
    CloneModel { budget, broken: None }
}

const PROMISE: &str = "no promise is broken";

#[test]
fn copies_of_a_machine_do_no_harm() {
    let found = explore("clones", model(), usize::MAX);
    assert!(!found.stories.iter().any(|(property, _)| *property == PROMISE), "{:#?}", found.stories);
    assert!(found.stories.iter().any(|(property, _)| *property == "a clone is found"));
    assert!(found.states > 1000);
}

#[test]
fn broken_rules_are_found() {
    for broken in [Broken::AdmittedOnce, Broken::UsedOnce] {
        let found =
            explore(&format!("{broken:?}"), CloneModel { broken: Some(broken), ..model() }, usize::MAX);
        assert!(found.stories.iter().any(|(property, _)| *property == PROMISE), "{broken:?} was not noticed");
    }
}

/// Numbers and bases alone keep copies from harm; but nobody is told that there are two.
#[test]
fn without_the_chain_no_clone_is_found() {
    let found = explore("NoChain", CloneModel { broken: Some(Broken::NoChain), ..model() }, usize::MAX);
    assert!(found.stories.is_empty(), "{:#?}", found.stories);
}
