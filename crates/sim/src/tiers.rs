//! What people and policies want of tiered files, in words.

use std::fmt;

use polder_types::RelPath;

use crate::disk::{Node, size_of};
use crate::host::Host;
use crate::rng::Rng;

/// One wish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    /// Give its bytes up.
    Tier(RelPath),
    /// The whole file on disk.
    Recall(RelPath),
    /// Read so many KiB from so many on.
    Read(RelPath, u64, u64),
    /// Change its size to 0.
    Cut(RelPath),
}

impl fmt::Display for Wish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tier(path) => write!(f, "tier {path}"),
            Self::Recall(path) => write!(f, "recall {path}"),
            Self::Read(path, from, len) => write!(f, "read {path} {from} {len}"),
            Self::Cut(path) => write!(f, "cut {path}"),
        }
    }
}

impl Wish {
    /// Reads the words of `Display`.
    pub(crate) fn read(words: &[&str]) -> Option<Self> {
        let path = RelPath::parse(words.get(1)?.as_bytes()).ok();
        let number = |nth: usize| words.get(nth)?.parse::<u64>().ok();
        Some(match *words.first()? {
            "tier" => Self::Tier(path?),
            "recall" => Self::Recall(path?),
            "read" => Self::Read(path?, number(2)?, number(3)?),
            "cut" => Self::Cut(path?),
            _ => return None,
        })
    }

    /// Which file it is about.
    pub fn path(&self) -> &RelPath {
        match self {
            Self::Tier(path) | Self::Recall(path) | Self::Read(path, ..) | Self::Cut(path) => path,
        }
    }
}

/// Chooses a wish for a file of this server.
pub(crate) fn choose(host: &Host, rng: &mut Rng) -> Option<Wish> {
    let all = host.disk.everything();
    let files: Vec<(&RelPath, u64)> = all
        .iter()
        .filter(|(_, ino)| matches!(host.disk.inode(*ino).node, Node::File(_)))
        .map(|(path, ino)| (path, *ino))
        .collect();
    let kind = rng.below(100);
    if files.is_empty() {
        return None;
    }
    // Of placeholders more is wanted than of other files.
    let marked: Vec<_> = files.iter().filter(|(_, ino)| host.disk.mark(*ino).is_some()).copied().collect();
    let from = if kind >= 45 && !marked.is_empty() && rng.chance(80) { &marked } else { &files };
    let (path, ino) = *rng.pick(from);
    let path = path.clone();
    let kib = host.disk.token(ino).map_or(0, size_of).div_ceil(1024);
    Some(match kind {
        0..45 => Wish::Tier(path),
        45..55 => Wish::Recall(path),
        55..93 => {
            let start = if rng.chance(50) { 0 } else { rng.below(kib) };
            let len = if rng.chance(40) { kib - start } else { 1 + rng.below(kib - start + 1) };
            Wish::Read(path, start, len.max(1))
        }
        _ => Wish::Cut(path),
    })
}
