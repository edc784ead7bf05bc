//! A share of seeds on every change; many more run by themselves (`docs/testing.md`, "The simulator").

use polder_sim::{Plan, Times, World, run_twice};

/// Where they begin. Seeds of one range are as good as those of any other.
const FROM: u64 = 20_000;
const COUNT: u64 = 40;

#[test]
fn seeds_pass_and_repeat_themselves() {
    let failures: Vec<String> = (FROM..FROM + COUNT)
        .filter_map(|seed| Some(format!("seed {seed}: {}", run_twice(&Plan::of(seed)).failure?)))
        .collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// A story that was recorded and is told again leads to the same end, or shrinking would be about something else.
#[test]
fn a_recorded_story_is_told_again() {
    for seed in FROM..FROM + 5 {
        let plan = Plan::of(seed);
        let drawn = World::new(plan.clone()).run();
        let told = World::new(plan.with_script(drawn.story.clone())).run();
        assert_eq!((told.failure, told.story.len()), (None, drawn.story.len()), "seed {seed}");
    }
}

/// What a story begins with is all that its run depends on.
#[test]
fn a_header_tells_all_that_a_story_needs() {
    let plan = Plan { times: Times::Coarse, reuse: true, queue: 4, ..Plan::plain(7, 3, 500) };
    let again = Plan::told(&plan.header());
    assert_eq!(again.header(), plan.header());
}
