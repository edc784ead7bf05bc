//! The table of scenarios in `docs/semantics.md` cannot rot: every number stands in it once, every test that it names is
//! in the tree, and every such test says the number itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The heading of the table.
const HEADING: &str = "## Scenarios";
/// Numbers go from 1 to this one.
const NUMBER_MAX: u32 = 115;

/// A test, as it stands in the tree.
#[derive(Debug, Default)]
struct Test {
    /// The numbers that its name and its comments say.
    numbers: BTreeSet<u32>,
}

/// Fails with everything in the table that is not so, one a line.
pub(crate) fn check() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the workspace's folder")?;
    let semantics = root.join("docs/semantics.md");
    let text = fs::read_to_string(&semantics).with_context(|| format!("read {}", semantics.display()))?;
    let tests = tests_of(root)?;
    let wrong = faults(&text, &tests);
    if wrong.is_empty() { Ok(()) } else { bail!("docs/semantics.md:\n  {}", wrong.join("\n  ")) }
}

fn faults(text: &str, tests: &BTreeMap<String, Test>) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    for line in table(text) {
        let cells: Vec<&str> = line.trim().trim_matches('|').split('|').map(str::trim).collect();
        let Ok(number) = cells[0].parse::<u32>() else { continue };
        if !(1..=NUMBER_MAX).contains(&number) || !seen.insert(number) {
            wrong.push(format!("scenario {number} is none, or stands there twice"));
        }
        let proof = cells.last().copied().unwrap_or_default();
        let named: Vec<&str> = proof.split('`').skip(1).step_by(2).collect();
        let waits = proof.split_once("waits: ").is_some_and(|(_, why)| why.len() > 3);
        if named.is_empty() && !waits {
            wrong.push(format!("scenario {number} names no test and no reason to wait"));
        }
        for name in named {
            match tests.get(name) {
                None => wrong.push(format!("scenario {number}: there is no test `{name}`")),
                Some(test) if !test.numbers.contains(&number) => {
                    wrong.push(format!("scenario {number}: `{name}` does not say the number"));
                }
                Some(_) => (),
            }
        }
    }
    wrong.extend((1..=NUMBER_MAX).filter(|n| !seen.contains(n)).map(|n| format!("scenario {n} is missing")));
    wrong
}

/// The rows below the heading, up to the next one.
fn table(text: &str) -> impl Iterator<Item = &str> {
    let rows = text.lines().skip_while(|line| *line != HEADING).skip(1);
    rows.take_while(|line| !line.starts_with("## ")).filter(|line| line.starts_with('|'))
}

/// All functions under `crates` and `bench` by name: `name` in Rust, `bench/file.py name` in Python, whose files are named
/// by their path as well.
fn tests_of(root: &Path) -> Result<BTreeMap<String, Test>> {
    let mut found = BTreeMap::new();
    let mut paths = Vec::new();
    for folder in ["crates", "bench"] {
        files(&root.join(folder), &mut paths)?;
    }
    for path in paths {
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let shown = path.strip_prefix(root).unwrap_or(&path).display().to_string();
        if shown.ends_with(".py") {
            let head: String = text.lines().take(40).collect::<Vec<_>>().join("\n");
            note(&mut found, shown.clone(), &head);
            functions(&text, "def ", &mut |name, words| note(&mut found, format!("{shown} {name}"), words));
        } else {
            functions(&text, "fn ", &mut |name, words| note(&mut found, name.to_owned(), words));
        }
    }
    Ok(found)
}

fn note(found: &mut BTreeMap<String, Test>, name: String, words: &str) {
    found.entry(name).or_default().numbers.extend(numbers(words));
}

/// Tells each function with what it says of itself: its name, the comments above it, and the lines in it that speak of
/// scenarios.
fn functions(text: &str, keyword: &str, told: &mut dyn FnMut(&str, &str)) {
    let mut above = String::new();
    let mut current: Option<(String, String)> = None;
    for line in text.lines() {
        let bare = line.trim_start();
        let name = name_of(bare, keyword);
        if let Some(name) = name {
            if let Some((name, words)) = current.take() {
                told(&name, &words);
            }
            current = Some((name.to_owned(), format!("{}\n{name}", std::mem::take(&mut above))));
        } else if bare.starts_with("//") || bare.starts_with('#') {
            above.push_str(bare);
            above.push('\n');
        } else {
            above.clear();
        }
        if name.is_none()
            && let Some((_, words)) = &mut current
            && bare.to_lowercase().contains("scenario")
            && !bare.starts_with("///")
        {
            words.push('\n');
            words.push_str(bare);
        }
    }
    if let Some((name, words)) = current {
        told(&name, &words);
    }
}

/// The name of the function that a line begins.
fn name_of<'a>(line: &'a str, keyword: &str) -> Option<&'a str> {
    let at = line.find(keyword)?;
    let before = line[..at].trim_end();
    let only_words = before
        .split_whitespace()
        .all(|word| ["pub", "async", "pub(crate)", "pub(super)", "const", "unsafe"].contains(&word));
    if !only_words {
        return None;
    }
    let rest = &line[at + keyword.len()..];
    let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))?;
    (end > 0 && rest[end..].starts_with(['(', '<'])).then_some(&rest[..end])
}

/// The numbers in a text; `5 to 8` (and `5_to_8`) are all of them.
fn numbers(text: &str) -> BTreeSet<u32> {
    let words: Vec<&str> = text.split(|c: char| !c.is_ascii_alphanumeric()).collect();
    let mut found = BTreeSet::new();
    for (at, word) in words.iter().enumerate() {
        let Some(number) = number_of(word) else { continue };
        found.insert(number);
        if let (Some(&"to"), Some(last)) = (words.get(at + 1), words.get(at + 2))
            && let Some(last) = number_of(last)
        {
            found.extend(number..=last.min(NUMBER_MAX));
        }
    }
    found
}

/// A number as it is written in texts and, as `s012`, in names.
fn number_of(word: &str) -> Option<u32> {
    let digits = word.strip_prefix('s').filter(|rest| rest.len() == 3).unwrap_or(word);
    digits.parse().ok().filter(|number| *number <= NUMBER_MAX)
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            files(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs" || extension == "py") {
            found.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_has_its_test() {
        check().expect("the table of scenarios is true");
    }

    #[test]
    fn a_table_that_rots_is_noticed() {
        let mut tests = BTreeMap::new();
        let source =
            "/// Scenarios 2 to 4.\n#[test]\nfn good() {\n    // Scenario 9.\n}\nfn s012_other() {}\n";
        functions(source, "fn ", &mut |name, words| note(&mut tests, name.to_owned(), words));
        assert_eq!(Vec::from_iter(tests["good"].numbers.clone()), [2, 3, 4, 9]);
        assert_eq!(Vec::from_iter(tests["s012_other"].numbers.clone()), [12]);
        let rows: String = (1..=NUMBER_MAX).map(|n| format!("| {n} | case | waits: the gate |\n")).collect();
        let text = format!("# Page\n{HEADING}\n\n{rows}\n## Next\n| 1 | no row | |\n");
        let with = |row: &str, new: &str| faults(&text.replace(row, new), &tests);
        assert_eq!(faults(&text, &tests), [""; 0]);
        assert_eq!(with("| 3 | case | waits: the gate |", "| 3 | case | `good` |"), [""; 0]);
        for (new, said) in [
            ("| 5 | case | `gone` |", "no test `gone`"),
            ("| 5 | case | `good` |", "does not say"),
            ("| 5 | case | |", "names no test"),
            ("| 6 | case | waits: the gate |", "twice"),
            ("", "scenario 5 is missing"),
        ] {
            let faults = with("| 5 | case | waits: the gate |", new);
            assert!(faults.iter().any(|fault| fault.contains(said)), "{new}: {faults:?}");
        }
    }
}
