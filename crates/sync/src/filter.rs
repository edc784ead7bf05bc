//! Names that are left out: the product's list by default, and globs of the endpoint.
//!
//! A name that is left out is never looked into, never sent, never overwritten and never blocks the removal of its
//! directory. Patterns compare without regard to ASCII case, as the product's list does.

use polder_types::Name;

/// The list that every endpoint begins with (`docs/defaults.md`): what Azure File Sync skips, and the lock and
/// temporary files of common editors on Linux.
pub const DEFAULT_PATTERNS: &[&str] = &[
    "pagefile.sys",
    "Desktop.ini",
    "thumbs.db",
    "ehthumbs.db",
    "~$*.*",
    "*.tmp",
    "*.laccdb",
    "635D02A9D91C401B97884B82B3BCDAEA.*",
    "/System Volume Information",
    "$RECYCLE.BIN",
    "/SyncShareState",
    ".SystemShareInformation",
    ".~lock.*#",
    ".goutputstream-*",
    "/lost+found",
    "/.polder",
];

/// Longest pattern in bytes: matching is quadratic in the worst case.
pub const PATTERN_BYTES_MAX: usize = 4096;

/// Why a pattern is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the pattern \"{pattern}\" {why}")]
pub struct FilterError {
    /// The pattern as written.
    pub pattern: String,
    /// What is wrong with it.
    pub why: &'static str,
}

/// A compiled list of patterns.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Filter {
    patterns: Vec<Pattern>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Pattern {
    /// One glob per component. A single one without a leading slash matches at any depth.
    parts: Vec<Part>,
    anchored: bool,
    dirs_only: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Part {
    /// `**`: any number of names.
    Deep,
    /// Lower-case bytes with `*` and `?`.
    Glob(Box<[u8]>),
}

impl Filter {
    /// Nothing is left out but Polder's own directory.
    pub fn none() -> Self {
        Self::parse(&["/.polder"]).expect("a plain pattern")
    }

    /// [`DEFAULT_PATTERNS`].
    pub fn defaults() -> Self {
        Self::parse(DEFAULT_PATTERNS).expect("the default patterns are plain")
    }

    /// Compiles patterns: `*` and `?` inside a name, `**` for any number of names; with a slash inside or in front it
    /// is matched from the root, else at any depth; a slash at the end means directories only.
    pub fn parse<S: AsRef<str>>(patterns: &[S]) -> Result<Self, FilterError> {
        patterns
            .iter()
            .map(|pattern| Pattern::parse(pattern.as_ref()))
            .collect::<Result<_, _>>()
            .map(|patterns| Self { patterns })
    }

    /// This list and more patterns.
    pub fn with<S: AsRef<str>>(mut self, patterns: &[S]) -> Result<Self, FilterError> {
        self.patterns.extend(Self::parse(patterns)?.patterns);
        Ok(self)
    }

    /// Whether a name is left out. `dir` gives the names of its directory from the root down; what is below a
    /// directory that is left out is never asked for.
    pub fn excludes(&self, dir: &[Name], name: &Name, is_dir: bool) -> bool {
        self.patterns.iter().any(|pattern| pattern.matches(dir, name, is_dir))
    }
}

impl Pattern {
    fn parse(text: &str) -> Result<Self, FilterError> {
        let fail = |why| FilterError { pattern: text.chars().take(200).collect(), why };
        if text.len() > PATTERN_BYTES_MAX {
            return Err(fail("is longer than 4096 bytes"));
        }
        let parts: Vec<Part> = text
            .split('/')
            .filter(|part| !part.is_empty())
            .map(|part| match part {
                "**" => Part::Deep,
                _ => Part::Glob(part.to_ascii_lowercase().into_bytes().into()),
            })
            .collect();
        if parts.is_empty() {
            return Err(fail("names nothing"));
        }
        if parts.iter().any(|part| matches!(part, Part::Glob(glob) if matches!(&**glob, b"." | b".."))) {
            return Err(fail("holds \".\" or \"..\""));
        }
        let anchored = text.trim_end_matches('/').contains('/');
        Ok(Self { parts, anchored, dirs_only: text.ends_with('/') })
    }

    fn matches(&self, dir: &[Name], name: &Name, is_dir: bool) -> bool {
        if self.dirs_only && !is_dir {
            return false;
        }
        if !self.anchored {
            return match &self.parts[0] {
                Part::Deep => true,
                Part::Glob(glob) => glob_matches(glob, name.as_bytes()),
            };
        }
        let names = dir.iter().chain([name]);
        if !self.parts.contains(&Part::Deep) {
            let each = |(part, name): (&Part, &Name)| matches!(part, Part::Glob(glob) if glob_matches(glob, name.as_bytes()));
            return self.parts.len() == dir.len() + 1 && self.parts.iter().zip(names).all(each);
        }
        // Dynamic programming over (parts, names): bounded by their product, whatever the pattern.
        let mut reached = vec![false; self.parts.len() + 1];
        reached[0] = true;
        self.pass_deep(&mut reached);
        for name in names {
            let mut next = vec![false; self.parts.len() + 1];
            for (at, part) in self.parts.iter().enumerate().filter(|(at, _)| reached[*at]) {
                match part {
                    Part::Deep => next[at] = true,
                    Part::Glob(glob) => next[at + 1] |= glob_matches(glob, name.as_bytes()),
                }
            }
            self.pass_deep(&mut next);
            reached = next;
        }
        reached[self.parts.len()]
    }

    /// `**` also stands for no name at all.
    fn pass_deep(&self, reached: &mut [bool]) {
        for (at, part) in self.parts.iter().enumerate() {
            if reached[at] && *part == Part::Deep {
                reached[at + 1] = true;
            }
        }
    }
}

/// `*` and `?` over bytes, ASCII case ignored: the usual two-pointer walk that goes back to the last `*` only.
fn glob_matches(glob: &[u8], name: &[u8]) -> bool {
    let (mut at, mut pos) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while pos < name.len() {
        match glob.get(at) {
            Some(b'*') => {
                star = Some((at, pos));
                at += 1;
            }
            Some(b'?') => (at, pos) = (at + 1, pos + 1),
            Some(byte) if *byte == name[pos].to_ascii_lowercase() => (at, pos) = (at + 1, pos + 1),
            _ => match star {
                Some((star_at, star_pos)) => {
                    star = Some((star_at, star_pos + 1));
                    (at, pos) = (star_at + 1, star_pos + 1);
                }
                None => return false,
            },
        }
    }
    glob[at..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(path: &str) -> (Vec<Name>, Name) {
        let mut names: Vec<Name> = path.split('/').map(|name| name.parse().unwrap()).collect();
        let last = names.pop().unwrap();
        (names, last)
    }

    #[test]
    fn the_default_list_is_the_products() {
        let filter = Filter::defaults();
        let cases = [
            ("a/b/THUMBS.DB", true),
            ("a/~$report.docx", true),
            ("x.tmp", true),
            ("x.tmpl", false),
            ("System Volume Information", true),
            ("a/System Volume Information", false),
            ("a/.polder", false),
            (".polder", true),
            ("a/.~lock.x.odt#", true),
            ("report.docx", false),
            ("~$", false),
        ];
        for (path, expected) in cases {
            let (dir, name) = names(path);
            assert_eq!(filter.excludes(&dir, &name, false), expected, "{path}");
        }
    }

    #[test]
    fn globs_with_slashes_begin_at_the_root() {
        let filter = Filter::parse(&["build/*.o", "/top", "**/cache/*", "node_modules/", "a/**/z"]).unwrap();
        let cases = [
            ("build/x.o", false, true),
            ("src/build/x.o", false, false),
            ("top", false, true),
            ("a/top", false, false),
            ("cache/x", false, true),
            ("a/b/cache/x", false, true),
            ("a/b/cache", true, false),
            ("a/node_modules", true, true),
            ("a/node_modules", false, false),
            ("a/z", false, true),
            ("a/b/c/z", false, true),
        ];
        for (path, is_dir, expected) in cases {
            let (dir, name) = names(path);
            assert_eq!(filter.excludes(&dir, &name, is_dir), expected, "{path}");
        }
    }

    #[test]
    fn bad_patterns_are_refused() {
        for bad in ["", "/", "a/../b", &"x".repeat(5000)] {
            assert!(Filter::parse(&[bad]).is_err(), "{bad:.20}");
        }
    }
}
