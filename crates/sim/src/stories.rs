//! Stories that catch a bug of the zoo whose situation seeds meet too rarely. Without the bug each must pass: they are regression
//! tests too (`tests/regressions_of_restarts.rs`).

use polder_types::zoo::Bug;

/// Of each story a line `= Bug`, or `= Bug: what happens`, and its own.
const STORIES: &str = include_str!("../stories.txt");

/// Each story with the bug that it shows. Several may show one.
///
/// # Panics
/// When a heading names no bug.
pub fn stories() -> impl Iterator<Item = (Bug, &'static str)> {
    let named = |name: &str| Bug::ALL.iter().copied().find(|bug| format!("{bug:?}") == name);
    STORIES.split("\n= ").map(move |story| {
        let (heading, story) = story.trim_start_matches("= ").split_once('\n').expect("a heading, and lines");
        let name = heading.split(':').next().unwrap_or(heading);
        (named(name).unwrap_or_else(|| panic!("no bug is called {name}")), story)
    })
}

/// The first story of a bug.
///
/// # Panics
/// When it has none.
pub fn story_of(bug: Bug) -> &'static str {
    let found = stories().find(|(other, _)| *other == bug);
    found.map(|(_, story)| story).unwrap_or_else(|| panic!("{bug:?} has no story"))
}
