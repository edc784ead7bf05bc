//! Trees as text. Items are separated by spaces:
//!
//! - `D:a/` is a directory with the label `D`; its parents must be named before it or exist as items
//! - `F:a/f=1` is a file with content number 1, `L:a/l>target` a symlink
//! - `@5` behind it is a modification time of 5 s, `%7` are attributes of mode 7; 0 when not given
//!
//! A label is an identity: the same label at another path is the same node, moved. In results `*` is a node that no
//! literal named.

use std::collections::BTreeMap;

use polder_sync::{CloudNode, LocalContent, LocalNode};
use polder_types::{Content, Kind, NodeUid, Placed};

use crate::world::{World, attrs, file, mode_of, name, number_of, time};

#[derive(Debug, Clone)]
struct Item {
    label: String,
    path: String,
    content: Content,
    mtime: i64,
    mode: u16,
}

fn parse(text: &str) -> Vec<Item> {
    let mut items: Vec<Item> = text.split_whitespace().map(parse_item).collect();
    items.sort_by_key(|item| item.path.matches('/').count());
    items
}

fn parse_item(text: &str) -> Item {
    let (label, rest) = text.split_once(':').expect("an item has a label");
    let (rest, mode) = rest.split_once('%').unwrap_or((rest, "0"));
    let (rest, mtime) = rest.split_once('@').unwrap_or((rest, "0"));
    let (path, content) = if let Some((path, number)) = rest.split_once('=') {
        (path, file(number.parse().expect("a content is a number")))
    } else if let Some((path, target)) = rest.split_once('>') {
        (path, Content::Symlink(target.as_bytes().into()))
    } else {
        (rest.strip_suffix('/').expect("a file has a content"), Content::Directory)
    };
    let mtime = mtime.parse().expect("a time is a number");
    let mode = mode.parse().expect("a mode is a number");
    Item { label: label.into(), path: path.into(), content, mtime, mode }
}

/// Three literals as a world, with the labels of its nodes.
pub fn world(mut world: World, base: &str, here: &str, share: &str) -> (World, BTreeMap<NodeUid, String>) {
    let mut uids: BTreeMap<String, NodeUid> = BTreeMap::new();
    for item in [base, here, share].into_iter().flat_map(parse) {
        uids.entry(item.label).or_insert_with(|| world.uid());
    }
    set_share(&mut world, &uids, base);
    world.agree();
    set_disk(&mut world, &uids, here);
    set_share(&mut world, &uids, share);
    (world, uids.into_iter().map(|(label, uid)| (uid, label)).collect())
}

fn place(paths: &mut BTreeMap<String, NodeUid>, item: &Item, uid: NodeUid) -> Placed {
    let (parent, last) = item.path.rsplit_once('/').unwrap_or(("", &item.path));
    let parent = if parent.is_empty() { NodeUid::ROOT } else { paths[parent] };
    paths.insert(item.path.clone(), uid);
    Placed { parent, name: name(last) }
}

fn set_share(world: &mut World, uids: &BTreeMap<String, NodeUid>, text: &str) {
    let before = world.share.clone();
    before.keys().for_each(|uid| world.put_share(*uid, None));
    let mut paths = BTreeMap::new();
    for item in parse(text) {
        let uid = uids[&item.label];
        let at = place(&mut paths, &item, uid);
        let (attrs, mtime) = (attrs(item.mode), time(item.mtime));
        let same = before.get(&uid).filter(|old| {
            (&old.at, &old.content, old.attrs, old.mtime) == (&at, &item.content, attrs, mtime)
        });
        let since = match same {
            Some(old) => old.since,
            None => world.next_seq(),
        };
        world.put_share(uid, Some(CloudNode { at, content: item.content, attrs, mtime, since }));
    }
}

fn set_disk(world: &mut World, uids: &BTreeMap<String, NodeUid>, text: &str) {
    let before = world.disk.clone();
    before.keys().for_each(|uid| world.put_disk(*uid, None));
    let mut paths = BTreeMap::new();
    for item in parse(text) {
        let uid = uids[&item.label];
        let at = place(&mut paths, &item, uid);
        let kind = item.content.kind();
        let old = before.get(&uid);
        let stamp = world.stamp(old.map(|old| old.stamp.ident));
        let content = LocalContent::Stored(item.content);
        let mut node =
            LocalNode { at, kind, content, attrs: attrs(item.mode), mtime: time(item.mtime), stamp };
        if let Some(old) = old {
            let same = LocalNode { stamp: old.stamp, ..node.clone() };
            if same == *old {
                node = same;
            }
        }
        world.put_disk(uid, Some(node));
    }
    if world.reads_needed {
        world.forget_contents();
    }
}

impl World {
    /// Files whose content differs from the synced row have not been read yet.
    pub fn forget_contents(&mut self) {
        let files: Vec<NodeUid> = self
            .disk
            .iter()
            .filter(|(uid, node)| {
                node.kind == Kind::File
                    && self.synced.get(uid).map(|row| &row.content) != node.content.known()
            })
            .map(|(uid, _)| *uid)
            .collect();
        for uid in files {
            let mut node = self.disk[&uid].clone();
            let Some(content) = node.content.known().cloned() else { continue };
            node.content = LocalContent::Unread;
            self.put_disk(uid, Some(node));
            self.unread.insert(uid, content);
        }
    }
}

/// A side as a literal, in the order of paths.
pub fn show(world: &World, on_disk: bool, labels: &BTreeMap<NodeUid, String>) -> String {
    let nodes: Vec<(NodeUid, Placed, Content, _, _)> = if on_disk {
        let content = |uid| world.content_on_disk(uid).cloned().expect("a file has a content");
        let disk = world.disk.iter();
        disk.map(|(uid, n)| (*uid, n.at.clone(), content(*uid), n.mtime, n.attrs)).collect()
    } else {
        let share = world.share.iter();
        share.map(|(uid, n)| (*uid, n.at.clone(), n.content.clone(), n.mtime, n.attrs)).collect()
    };
    let places: BTreeMap<NodeUid, Placed> = nodes.iter().map(|(uid, at, ..)| (*uid, at.clone())).collect();
    let mut shown: Vec<(Vec<String>, String)> = Vec::new();
    for (uid, _, content, mtime, mode) in nodes {
        let path = path_of(&places, uid);
        let label = labels.get(&uid).map_or("*", String::as_str);
        let mut text = format!("{label}:{path}");
        text += &match &content {
            Content::Directory => "/".to_owned(),
            Content::Symlink(target) => format!(">{}", String::from_utf8_lossy(target)),
            Content::File { .. } => format!("={}", number_of(&content).unwrap_or(0)),
        };
        if mtime.secs != 0 {
            text += &format!("@{}", mtime.secs);
        }
        if let Some(mode) = mode_of(mode).filter(|mode| *mode > 0) {
            text += &format!("%{mode}");
        }
        shown.push((path.split('/').map(str::to_owned).collect(), text));
    }
    shown.sort();
    shown.into_iter().map(|(_, text)| text).collect::<Vec<_>>().join(" ")
}

/// A node's path, from the places of one side.
pub fn path_of(places: &BTreeMap<NodeUid, Placed>, uid: NodeUid) -> String {
    let mut names = Vec::new();
    let mut at = uid;
    while at != NodeUid::ROOT {
        let Some(place) = places.get(&at) else {
            names.push("?".to_owned());
            break;
        };
        names.push(place.name.to_string());
        at = place.parent;
        assert!(names.len() <= places.len(), "a cycle");
    }
    names.reverse();
    names.join("/")
}
