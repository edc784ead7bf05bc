//! How long files may be: about 400 lines, never above 600 without their tests. Clippy counts functions.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

const LINES_MAX: usize = 600;

/// Fails with every source file that is too long, one a line.
pub(crate) fn check() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the workspace's folder")?;
    let mut found = Vec::new();
    for folder in ["crates", "xtask"] {
        sources(&root.join(folder), &mut found)?;
    }
    let mut long = Vec::new();
    for path in found {
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        // Tests stand last in a file, so what comes before them is the code.
        let lines = text.lines().take_while(|line| !line.starts_with("#[cfg(test)]")).count();
        if lines > LINES_MAX && !path.components().any(|part| part.as_os_str() == "tests") {
            long.push(format!("{} has {lines} lines", path.strip_prefix(root).unwrap_or(&path).display()));
        }
    }
    if long.is_empty() { Ok(()) } else { bail!("files above {LINES_MAX} lines:\n  {}", long.join("\n  ")) }
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            sources(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn files_are_short() {
        super::check().expect("no file is too long");
    }
}
