//! A path below the root of a share: names, never a string that somebody joins.

use std::fmt;

use crate::{Escaped, Name, NameError};

/// Why bytes are not a path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{path}\" is not a path inside a share")]
pub struct PathError {
    /// The whole path, escaped.
    pub path: String,
    /// What is wrong with one of its names.
    #[source]
    pub source: NameError,
}

/// A path relative to a root: zero or more names. No component can leave the root.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelPath(Vec<Name>);

impl RelPath {
    /// The root itself.
    pub fn root() -> Self {
        Self::default()
    }

    /// Parses a path that a person wrote: names separated by one or more slashes; slashes at both ends are ignored.
    pub fn parse(bytes: &[u8]) -> Result<Self, PathError> {
        bytes
            .split(|byte| *byte == b'/')
            .filter(|part| !part.is_empty())
            .map(Name::parse)
            .collect::<Result<_, _>>()
            .map(Self)
            .map_err(|source| PathError { path: Escaped(bytes).to_string(), source })
    }

    /// The names from the root down.
    pub fn names(&self) -> &[Name] {
        &self.0
    }

    /// This path with one more name.
    pub fn join(&self, name: Name) -> Self {
        let mut names = self.0.clone();
        names.push(name);
        Self(names)
    }

    /// The parent's path and the last name; `None` for the root.
    pub fn split_last(&self) -> Option<(Self, &Name)> {
        let (last, parents) = self.0.split_last()?;
        Some((Self(parents.to_vec()), last))
    }

    /// The names joined by slashes, as bytes; empty for the root.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.iter().map(Name::as_bytes).collect::<Vec<_>>().join(&b'/')
    }
}

impl FromIterator<Name> for RelPath {
    fn from_iter<I: IntoIterator<Item = Name>>(names: I) -> Self {
        Self(names.into_iter().collect())
    }
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { f.write_str("/") } else { Escaped(&self.to_bytes()).fmt(f) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_inside() {
        assert_eq!(RelPath::parse(b"/a//b/").expect("legal").to_bytes(), b"a/b");
        assert_eq!(RelPath::parse(b"").expect("the root"), RelPath::root());
        assert!(RelPath::parse(b"a/../b").is_err());
        assert!(RelPath::parse(b"./b").is_err());
    }
}
