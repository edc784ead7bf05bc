//! The oracle's own log: every content that a user wrote, and every one that a user took away.

use std::collections::{BTreeMap, BTreeSet};

use crate::disk::{Disk, Node, Token, content_of, token_of};
use crate::host::Host;
use crate::rng::Rng;
use crate::share::Share;
use polder_types::{Content, NodeUid, RelPath};

/// What users did to contents.
#[derive(Debug, Default)]
pub struct Ghost {
    written: BTreeSet<Token>,
    destroyed: BTreeSet<Token>,
}

/// A tree as it is compared: what stands at each path.
pub type Listing = BTreeMap<RelPath, (Content, u16)>;

impl Ghost {
    /// New bytes.
    pub fn fresh(&mut self, rng: &mut Rng) -> Token {
        let token = (self.written.len() as u64 + 1) * 1000 + rng.below(1000);
        self.written.insert(token);
        token
    }

    /// A user took these bytes away, having seen them.
    pub fn destroyed(&mut self, token: Token) {
        self.destroyed.insert(token);
    }

    /// Contents that no user took away and that are nowhere.
    pub fn lost(&self, share: &Share) -> Vec<Token> {
        let live: BTreeSet<Token> = share.nodes().filter_map(|node| token_of(&node.content)).collect();
        self.written.difference(&self.destroyed).filter(|token| !live.contains(token)).copied().collect()
    }
}

/// A disk, path by path.
pub fn listing_of_disk(disk: &Disk) -> Listing {
    let list = disk.everything().into_iter().map(|(path, ino)| {
        let inode = disk.inode(ino);
        let content = match &inode.node {
            Node::Dir(_) => Content::Directory,
            Node::File(token) => content_of(*token),
            Node::Link(target) => Content::Symlink(target.clone()),
        };
        (path, (content, inode.attrs.mode))
    });
    list.collect()
}

/// The share, path by path; an error for a node that hangs in the air.
pub fn listing_of_share(share: &Share) -> Result<Listing, String> {
    let nodes: BTreeMap<NodeUid, _> = share.nodes().map(|node| (node.uid, node)).collect();
    let mut list = Listing::new();
    for node in nodes.values().filter(|node| node.uid != NodeUid::ROOT) {
        let mut names = vec![node.at.name.clone()];
        let mut at = node.at.parent;
        while at != NodeUid::ROOT {
            let dir = nodes.get(&at).ok_or(format!("{} hangs in the air", node.at.name))?;
            names.push(dir.at.name.clone());
            at = dir.at.parent;
            if names.len() > nodes.len() {
                return Err(format!("{} is in a cycle", node.at.name));
            }
        }
        names.reverse();
        let path: RelPath = names.into_iter().collect();
        let twin = list.insert(path.clone(), (node.content.clone(), node.attrs.mode));
        if twin.is_some() {
            return Err(format!("two nodes at {path}"));
        }
    }
    Ok(list)
}

/// What differs between a server and the share, in a few lines.
pub fn differences(host: &Host, share: &Listing) -> Vec<String> {
    let disk = listing_of_disk(&host.disk);
    let paths: BTreeSet<&RelPath> = disk.keys().chain(share.keys()).collect();
    let differ = paths.into_iter().filter(|path| disk.get(path) != share.get(path));
    differ
        .take(8)
        .map(|path| format!("{}: {path}: {:?} / share {:?}", host.name, disk.get(path), share.get(path)))
        .collect()
}
