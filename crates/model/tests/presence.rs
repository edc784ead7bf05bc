//! One file that leaves and comes back (promises I2 and I4; scenarios 37, 38, 44 and 58).

use polder_model::explore;
use polder_model::presence::{Broken, Budget, PresenceModel};

const PROMISE: &str = "no promise is broken";

fn search(name: &str, budget: Budget, broken: Option<Broken>) -> bool {
    let found = explore(name, PresenceModel { budget, broken }, usize::MAX);
    found.stories.iter().any(|(property, _)| *property == PROMISE)
}

#[test]
fn readers_get_the_users_bytes_whatever_dies() {
    let killed = Budget { writes: 2, stores: 0, syncs: 1, tiers: 2, kills: 2, cuts: 0 };
    assert!(!search("killed", killed, None));
    let found = explore(
        "cut",
        PresenceModel { budget: Budget { kills: 0, cuts: 2, ..killed }, broken: None },
        usize::MAX,
    );
    assert!(found.stories.iter().any(|(property, _)| *property == "it left, came back and was edited"));
    assert!(found.states > 10_000 && !found.stories.iter().any(|(property, _)| *property == PROMISE));
    assert!(!search("mapped", Budget { writes: 1, stores: 2, kills: 1, cuts: 1, ..killed }, None));
}

#[test]
fn broken_rules_are_found() {
    let budget = Budget { writes: 1, stores: 1, syncs: 0, tiers: 2, kills: 1, cuts: 1 };
    for broken in [
        Broken::NoLease,
        Broken::NoWriteBack,
        Broken::PunchBeforeMark,
        Broken::MarkNotDurable,
        Broken::LateFill,
        Broken::UnmarkBeforeDurable,
        Broken::WriterBeforeNote,
    ] {
        assert!(search(&format!("{broken:?}"), budget, Some(broken)), "{broken:?} was not noticed");
    }
}
