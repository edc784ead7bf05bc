//! The cost of a plan follows what changed, not what the share holds. Counted in reads of the trees.

use std::cell::Cell;

use polder_sync::{CloudNode, LocalNode, Plan, SyncedNode, TreeError, Trees, plan};
use polder_types::{CaseRule, Content, NodeUid, Placed};

use crate::world::{World, attrs, file, name, time};

/// Counts the questions that are put to the trees.
struct Counted<'w> {
    world: &'w World,
    reads: Cell<usize>,
}

impl Counted<'_> {
    fn count(&self) -> &World {
        self.reads.set(self.reads.get() + 1);
        self.world
    }
}

impl Trees for Counted<'_> {
    fn local(&self, uid: NodeUid) -> Result<Option<LocalNode>, TreeError> {
        self.count().local(uid)
    }
    fn cloud(&self, uid: NodeUid) -> Result<Option<CloudNode>, TreeError> {
        self.count().cloud(uid)
    }
    fn synced(&self, uid: NodeUid) -> Result<Option<SyncedNode>, TreeError> {
        Trees::synced(self.count(), uid)
    }
    fn local_at(&self, parent: NodeUid, key: &[u8]) -> Result<Option<NodeUid>, TreeError> {
        self.count().local_at(parent, key)
    }
    fn cloud_at(&self, parent: NodeUid, key: &[u8]) -> Result<Option<NodeUid>, TreeError> {
        self.count().cloud_at(parent, key)
    }
    fn local_children(
        &self,
        parent: NodeUid,
        after: Option<&[u8]>,
        count_max: usize,
    ) -> Result<Vec<NodeUid>, TreeError> {
        let children = self.world.local_children(parent, after, count_max)?;
        self.reads.set(self.reads.get() + children.len());
        Ok(children)
    }
    fn cloud_children(
        &self,
        parent: NodeUid,
        after: Option<&[u8]>,
        count_max: usize,
    ) -> Result<Vec<NodeUid>, TreeError> {
        let children = self.world.cloud_children(parent, after, count_max)?;
        self.reads.set(self.reads.get() + children.len());
        Ok(children)
    }
}

fn counted(world: &World, window: &[NodeUid]) -> (Plan, usize) {
    let trees = Counted { world, reads: Cell::new(0) };
    let plan = plan(&trees, window, &|_| false, &world.settings).expect("maps can be read");
    (plan, trees.reads.get())
}

/// A directory with `count` files that both sides know.
fn directory(count: usize) -> (World, NodeUid, Vec<NodeUid>) {
    let mut world = World::new(CaseRule::Sensitive);
    let dir = world.uid();
    let put = |world: &mut World, uid, parent, text: &str, content| {
        let since = world.next_seq();
        let at = Placed { parent, name: name(text) };
        world.put_share(uid, Some(CloudNode { at, content, attrs: attrs(0), mtime: time(0), since }));
    };
    put(&mut world, dir, NodeUid::ROOT, "dir", Content::Directory);
    let mut files = Vec::new();
    for number in 0..count {
        let uid = world.uid();
        put(&mut world, uid, dir, &format!("file {number}"), file(number as u64 + 1));
        files.push(uid);
    }
    world.agree();
    (world, dir, files)
}

/// Scenario 20, in reads of the trees.
#[test]
fn a_directory_with_many_children_is_renamed_at_the_cost_of_one() {
    let (mut world, dir, _) = directory(20_000);
    let mut node = world.share[&dir].clone();
    node.at.name = name("other");
    node.since = world.next_seq();
    world.put_share(dir, Some(node));
    let (plan, reads) = counted(&world, &[dir]);
    assert_eq!((plan.applies.len(), plan.groups.len()), (1, 0));
    assert!(reads <= 8, "{reads} reads for one renamed directory");
}

#[test]
fn a_window_costs_a_few_reads_a_node() {
    let (mut world, _, files) = directory(8192);
    let window = &files[..4096];
    for (number, uid) in window.iter().enumerate() {
        match number % 3 {
            0 => {
                let mut node = world.share[uid].clone();
                node.content = file(1_000_000 + number as u64);
                node.since = world.next_seq();
                world.put_share(*uid, Some(node));
            }
            1 => world.put_disk(*uid, None),
            _ => {
                let mut node = world.disk[uid].clone();
                node.at.name = name(&format!("moved {number}"));
                world.put_disk(*uid, Some(node));
            }
        }
    }
    let (plan, reads) = counted(&world, window);
    assert_eq!(plan.applies.len() + plan.groups.len(), 4096);
    assert!(reads <= 6 * 4096, "{reads} reads for 4,096 nodes");
}

#[test]
fn deleting_a_large_directory_looks_at_each_child_once() {
    let (mut world, dir, files) = directory(8192);
    for uid in files.iter().chain([&dir]) {
        world.put_share(*uid, None);
    }
    // The directory is last, whatever the windows; until then it looks no further than the first child that stays.
    let half: Vec<NodeUid> = files[4096..].iter().chain([&dir]).copied().collect();
    let (plan, reads) = counted(&world, &half);
    assert_eq!(plan.applies.len(), 4096);
    assert_eq!(plan.waiting.len(), 1);
    assert!(reads <= 6 * 4096, "{reads} reads for a part of a directory");

    let whole: Vec<NodeUid> = files.iter().chain([&dir]).copied().collect();
    let (plan, reads) = counted(&world, &whole);
    assert_eq!(plan.applies.len(), 8193);
    assert_eq!(plan.applies[8192].uid, dir);
    assert!(reads <= 6 * 8193, "{reads} reads for a whole directory");
}

#[test]
fn a_ring_of_names_is_turned_without_looking_at_pairs() {
    let (mut world, _, files) = directory(4096);
    let places: Vec<Placed> = files.iter().map(|uid| world.share[uid].at.clone()).collect();
    let nodes: Vec<CloudNode> = files.iter().map(|uid| world.share[uid].clone()).collect();
    files.iter().for_each(|uid| world.put_share(*uid, None));
    for (at, (uid, node)) in files.iter().zip(nodes).enumerate() {
        let since = world.next_seq();
        let place = places[(at + 1) % places.len()].clone();
        world.put_share(*uid, Some(CloudNode { at: place, since, ..node }));
    }
    let (plan, reads) = counted(&world, &files);
    assert_eq!(plan.applies.len(), 4095);
    assert!(reads <= 6 * 4096, "{reads} reads for a ring of 4,096");
}
