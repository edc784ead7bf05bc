//! What users do on either side.

use std::collections::BTreeMap;

use polder_sync::{CloudNode, LocalContent, LocalNode};
use polder_types::{Content, Kind, NodeUid, Placed, Seq};

use crate::{
    ghost::{Ghost, SHARED},
    literal::path_of,
    world::{World, attrs, file, name, number_of, time},
};

/// Few names, so that they collide; two that differ in case.
const NAMES: [&str; 5] = ["a", "b", "A", "c.x", "a-B"];

/// One thing that a user does. Numbers choose among what is there, so that every edit can be done in some way.
#[derive(Debug, Clone)]
pub enum Edit {
    Create {
        dir: u8,
        name: u8,
        kind: u8,
        mtime: u8,
    },
    Write {
        node: u8,
        mtime: u8,
    },
    /// Writes one of a few contents that others write, too.
    WriteShared {
        node: u8,
        content: u8,
        mtime: u8,
    },
    Move {
        node: u8,
        dir: u8,
        name: u8,
    },
    Swap {
        one: u8,
        two: u8,
    },
    /// With everything in it.
    Delete {
        node: u8,
    },
    /// A file for a directory or the other way round.
    Replace {
        node: u8,
    },
    Chmod {
        node: u8,
        mode: u8,
    },
    Touch {
        node: u8,
        mtime: u8,
    },
}

/// A node of one side, whichever it is.
#[derive(Debug, Clone)]
struct Seen {
    at: Placed,
    content: Content,
}

/// One side of a world, as its users see it.
pub struct User<'w> {
    pub world: &'w mut World,
    pub on_disk: bool,
    pub ghost: &'w mut Ghost,
}

impl User<'_> {
    pub fn act(&mut self, edit: &Edit) {
        match *edit {
            Edit::Create { dir, name, kind, mtime } => {
                let at = self.place(dir, name);
                let content = match kind % 8 {
                    0..=2 => Content::Directory,
                    3 => Content::Symlink([b'x', b'0' + mtime].into()),
                    4 => Content::empty_file(),
                    _ => file(self.ghost.write()),
                };
                if !self.is_taken(&at) {
                    self.create(at, content, mtime);
                } else if let Some(number) = number_of(&content) {
                    self.ghost.delete(Some(number));
                    self.ghost.replace(Some(number));
                }
            }
            Edit::Write { node, mtime } => self.write(node, None, mtime),
            Edit::WriteShared { node, content, mtime } => {
                self.write(node, Some(file(SHARED + u64::from(content % 3))), mtime);
            }
            Edit::Move { node, dir, name } => self.rename(node, dir, name),
            Edit::Swap { one, two } => self.swap(one, two),
            Edit::Delete { node } => {
                if let Some(uid) = self.pick(node) {
                    self.delete(uid);
                }
            }
            Edit::Replace { node } => self.replace(node),
            Edit::Chmod { node, mode } => self.attributes(node, Some(mode), None),
            Edit::Touch { node, mtime } => self.attributes(node, None, Some(mtime)),
        }
    }

    fn all(&self) -> BTreeMap<NodeUid, Placed> {
        if self.on_disk {
            self.world.disk.iter().map(|(uid, node)| (*uid, node.at.clone())).collect()
        } else {
            self.world.share.iter().map(|(uid, node)| (*uid, node.at.clone())).collect()
        }
    }

    /// In the order of paths, which does not depend on ids.
    fn pick(&self, node: u8) -> Option<NodeUid> {
        let places = self.all();
        let mut sorted: Vec<(String, NodeUid)> =
            places.keys().map(|uid| (path_of(&places, *uid), *uid)).collect();
        sorted.sort();
        let count = sorted.len();
        (count > 0).then(|| sorted[usize::from(node) % count].1)
    }

    fn place(&self, dir: u8, which: u8) -> Placed {
        let parent = match self.pick(dir) {
            Some(uid) if !dir.is_multiple_of(4) => {
                if self.world.has_directory(self.on_disk, uid) {
                    uid
                } else {
                    self.get(uid).at.parent
                }
            }
            _ => NodeUid::ROOT,
        };
        Placed { parent, name: name(NAMES[usize::from(which) % NAMES.len()]) }
    }

    fn is_taken(&self, at: &Placed) -> bool {
        let taken = if self.on_disk { self.world.disk_at(at) } else { self.world.share_at(at) };
        taken.is_some()
    }

    fn get(&self, uid: NodeUid) -> Seen {
        if self.on_disk {
            let content = self.world.content_on_disk(uid).cloned().expect("a file has a content");
            Seen { at: self.world.disk[&uid].at.clone(), content }
        } else {
            let node = &self.world.share[&uid];
            Seen { at: node.at.clone(), content: node.content.clone() }
        }
    }

    fn create(&mut self, at: Placed, content: Content, mtime: u8) {
        let uid = self.world.uid();
        let mtime = time(mtime.into());
        if self.on_disk {
            let kind = content.kind();
            let stamp = self.world.stamp(None);
            self.touch_directory(at.parent);
            let node =
                LocalNode { at, kind, content: LocalContent::Stored(content), attrs: attrs(0), mtime, stamp };
            self.world.put_disk(uid, Some(node));
            self.forget(uid);
        } else {
            let since = self.world.next_seq();
            self.world.put_share(uid, Some(CloudNode { at, content, attrs: attrs(0), mtime, since }));
        }
    }

    /// A file system changes a directory's time with each entry.
    fn touch_directory(&mut self, uid: NodeUid) {
        if let Some(mut node) = self.world.disk.get(&uid).cloned() {
            node.stamp = self.world.stamp(Some(node.stamp.ident));
            node.mtime = time(node.mtime.secs + 1);
            self.world.disk.insert(uid, node);
        }
    }

    /// The agent has seen a change, and read nothing yet.
    fn forget(&mut self, uid: NodeUid) {
        let Some(mut node) = self.world.disk.get(&uid).cloned() else { return };
        if self.world.reads_needed && node.kind == Kind::File {
            let content = self.world.content_on_disk(uid).cloned();
            node.content = LocalContent::Unread;
            self.world.put_disk(uid, Some(node));
            self.world.unread.extend(content.map(|content| (uid, content)));
        }
    }

    fn write(&mut self, node: u8, content: Option<Content>, mtime: u8) {
        let Some(uid) = self.pick(node) else { return };
        let old = self.get(uid).content;
        let content = match old {
            Content::Directory => return,
            Content::Symlink(_) => Content::Symlink([b'y', b'0' + mtime].into()),
            Content::File { .. } => content.unwrap_or_else(|| file(self.ghost.write())),
        };
        if content == old {
            return;
        }
        self.ghost.replace(number_of(&old));
        self.change(uid, |node| {
            node.content = content;
            node.mtime = time(mtime.into());
        });
        self.forget(uid);
    }

    /// Changes a node where it stands.
    fn change(&mut self, uid: NodeUid, change: impl FnOnce(&mut CloudNode)) {
        if self.on_disk {
            let content = self.world.content_on_disk(uid).cloned().expect("a file has a content");
            let old = self.world.disk[&uid].clone();
            let unread = self.world.unread.contains_key(&uid);
            let mut node = CloudNode {
                at: old.at.clone(),
                content: content.clone(),
                attrs: old.attrs,
                mtime: old.mtime,
                since: Seq(0),
            };
            change(&mut node);
            let stamp = self.world.stamp(Some(old.stamp.ident));
            let known = if node.content == content {
                old.content
            } else {
                LocalContent::Stored(node.content.clone())
            };
            let still_unread = unread && known == LocalContent::Unread;
            let new = LocalNode {
                at: node.at,
                kind: old.kind,
                content: known,
                attrs: node.attrs,
                mtime: node.mtime,
                stamp,
            };
            self.world.put_disk(uid, Some(new));
            if still_unread {
                self.world.unread.insert(uid, node.content);
            }
        } else {
            let mut node = self.world.share[&uid].clone();
            change(&mut node);
            node.since = self.world.next_seq();
            self.world.put_share(uid, Some(node));
        }
    }

    fn rename(&mut self, node: u8, dir: u8, which: u8) {
        let Some(uid) = self.pick(node) else { return };
        let to = self.place(dir, which);
        if self.is_taken(&to) || self.world.is_below(self.on_disk, to.parent, uid) {
            return;
        }
        let from = self.get(uid).at.parent;
        self.change(uid, |node| node.at = to.clone());
        if self.on_disk {
            self.touch_directory(from);
            self.touch_directory(to.parent);
        }
    }

    fn swap(&mut self, one: u8, two: u8) {
        let (Some(one), Some(two)) = (self.pick(one), self.pick(two)) else { return };
        let below = |a, b| self.world.is_below(self.on_disk, a, b);
        if below(one, two) || below(two, one) {
            return;
        }
        let (first, second) = (self.get(one).at, self.get(two).at);
        let temporary = Placed { parent: first.parent, name: name("temporary") };
        self.change(one, |node| node.at = temporary);
        self.change(two, |node| node.at = first);
        self.change(one, |node| node.at = second);
    }

    fn delete(&mut self, uid: NodeUid) {
        let below: Vec<NodeUid> =
            self.all().iter().filter(|(_, at)| at.parent == uid).map(|(uid, _)| *uid).collect();
        below.into_iter().for_each(|child| self.delete(child));
        let seen = self.get(uid);
        self.ghost.delete(number_of(&seen.content));
        if self.on_disk {
            self.world.put_disk(uid, None);
            self.touch_directory(seen.at.parent);
        } else {
            self.world.put_share(uid, None);
        }
    }

    fn replace(&mut self, node: u8) {
        let Some(uid) = self.pick(node) else { return };
        let seen = self.get(uid);
        self.delete(uid);
        let content = match seen.content {
            Content::Directory => file(self.ghost.write()),
            _ => Content::Directory,
        };
        self.create(seen.at, content, 7);
    }

    fn attributes(&mut self, node: u8, mode: Option<u8>, mtime: Option<u8>) {
        let Some(uid) = self.pick(node) else { return };
        self.change(uid, |node| {
            node.attrs = mode.map_or(node.attrs, |mode| attrs(u16::from(mode % 4)));
            node.mtime = mtime.map_or(node.mtime, |mtime| time(mtime.into()));
        });
    }
}
