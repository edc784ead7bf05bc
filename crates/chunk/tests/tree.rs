//! Extent trees: what is listed is what is read, in any form and any range, and an edit changes few nodes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

use polder_chunk::{
    ChunkIdKey, ContentBuilder, ExtentWalk, NODE_BYTES_MAX, NODE_ENTRIES_MAX, NewChunk, ShareKeys,
    TreeBuilder, TreeError, TreeNode, VerifiedChunk, WalkStep,
};
use polder_types::{Body, ChunkId, Content, Extent, ExtentSource, ShareId};
use proptest::prelude::*;

fn keys() -> ShareKeys {
    ShareKeys::new(ShareId([1; 16]), [2; 32], [3; 32])
}

fn ids() -> ChunkIdKey {
    keys().chunk_ids()
}

fn random(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

type Store = BTreeMap<ChunkId, Vec<u8>>;

fn list(extents: &[Extent]) -> (Content, Store) {
    let mut store = Store::new();
    let mut sink = |chunk: NewChunk<'_>| {
        assert!(chunk.is_node && chunk.bytes.len() <= NODE_BYTES_MAX);
        store.insert(chunk.id, chunk.bytes.to_vec());
        Ok::<_, Infallible>(())
    };
    let mut tree = TreeBuilder::new(ids());
    extents.iter().for_each(|extent| tree.push(*extent, &mut sink).unwrap());
    let content = tree.finish(&mut sink).unwrap();
    (content, store)
}

fn verified(store: &Store, id: ChunkId) -> VerifiedChunk {
    ids().verify(id, store[&id].clone()).unwrap()
}

/// All extents that the walk gives, and the nodes that it asked for.
fn walk(mut walk: ExtentWalk, store: &Store) -> (Vec<(u64, Extent)>, Vec<ChunkId>) {
    let (mut extents, mut nodes) = (Vec::new(), Vec::new());
    while let Some(step) = walk.step() {
        match step {
            WalkStep::Node { id, .. } => {
                assert_eq!(walk.step(), Some(step), "a node is named until it comes");
                walk.supply(&verified(store, id)).unwrap();
                nodes.push(id);
            }
            WalkStep::Extent { offset, extent } => extents.push((offset, extent)),
        }
    }
    (extents, nodes)
}

fn chunk_extent(seed: u64, len: u64, skip: u32) -> Extent {
    let id = ids().id(&seed.to_le_bytes());
    Extent { len, source: ExtentSource::Chunk { id, skip } }
}

/// Lists of few to many extents; a small alphabet of chunks in some, so that ids repeat.
fn extents() -> impl Strategy<Value = Vec<Extent>> {
    let count = prop_oneof![0usize..6, 60usize..70, 300usize..3000, 1020usize..1030];
    (count, prop_oneof![Just(2u64), Just(u64::MAX)], any::<u64>()).prop_map(|(count, alphabet, seed)| {
        let draws = random(seed, count * 16);
        let draw = |at: usize| u64::from_le_bytes(draws[at * 8..at * 8 + 8].try_into().unwrap());
        (0..count)
            .map(|at| {
                let (kind, which) = (draw(at * 2), draw(at * 2 + 1));
                match kind % 8 {
                    0 => Extent { len: which % (1 << 40) + 1, source: ExtentSource::Hole },
                    1 => chunk_extent(which % alphabet, kind % 1000 + 1, (which % 1000) as u32),
                    _ => chunk_extent(which % alphabet, kind % 1000 + 1, 0),
                }
            })
            .collect()
    })
}

fn joined(extents: &[Extent]) -> Vec<(u64, Extent)> {
    let mut out: Vec<(u64, Extent)> = Vec::new();
    let mut offset = 0;
    for extent in extents {
        match out.last_mut() {
            Some((_, last)) if last.source == ExtentSource::Hole && extent.source == ExtentSource::Hole => {
                last.len += extent.len
            }
            _ => out.push((offset, *extent)),
        }
        offset += extent.len;
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_listed_is_read(extents in extents(), from: u64, len: u64) {
        let (content, store) = list(&extents);
        prop_assert_eq!(content.ensure_valid(), Ok(()));
        prop_assert_eq!(Content::decode(&content.encode()), Ok(content.clone()));
        let wanted = joined(&extents);
        let inline = matches!(content, Content::File { body: Body::Inline(_), .. });
        prop_assert_eq!(inline, wanted.len() <= 4);
        let (all, nodes) = walk(ExtentWalk::new(&content).unwrap(), &store);
        prop_assert_eq!(&all, &wanted);
        prop_assert_eq!(nodes.into_iter().collect::<BTreeSet<_>>(), store.keys().copied().collect::<BTreeSet<_>>());

        let start = from % (content.size() + 2);
        let end = start + len % (content.size() + 2);
        let touched = wanted.into_iter().filter(|(offset, extent)| *offset < end && offset + extent.len > start);
        let (part, nodes) = walk(ExtentWalk::range(&content, start..end).unwrap(), &store);
        prop_assert_eq!(part, touched.collect::<Vec<_>>());
        if end == start + 1 {
            prop_assert!(nodes.len() <= 3);
        }
    }

    #[test]
    fn what_decodes_as_a_node_encodes_the_same(extents in extents(), at: usize, flip in 1u8..) {
        for bytes in list(&extents).1.values().take(3) {
            let node = TreeNode::decode(bytes).unwrap();
            prop_assert_eq!(&node.encode(), bytes);
            let mut other = bytes.clone();
            other[at % bytes.len()] ^= flip;
            if let Ok(node) = TreeNode::decode(&other) {
                prop_assert_eq!(node.encode(), other);
            }
        }
    }
}

/// Scenario 69: an edit of a large file costs a few nodes of its tree.
#[test]
fn an_edit_in_the_middle_changes_a_few_nodes() {
    let extents: Vec<Extent> = (0..200_000).map(|seed| chunk_extent(seed, 131_072, 0)).collect();
    let (before, store) = list(&extents);
    let Content::File { body: Body::Tree { height, canonical, .. }, .. } = before else { panic!("a tree") };
    assert_eq!((height, canonical), (2, false));
    let mean = extents.len() / store.len();
    assert!((200..320).contains(&mean), "mean {mean}");
    type Edit = Box<dyn Fn(&mut Vec<Extent>)>;
    let edits: [(&str, Edit); 3] = [
        ("replace", Box::new(|list| list[100_000] = chunk_extent(999_999, 5, 0))),
        ("insert", Box::new(|list| list.insert(0, chunk_extent(999_999, 5, 0)))),
        (
            "remove",
            Box::new(|list| {
                list.remove(100_000);
            }),
        ),
    ];
    for (name, edit) in edits {
        let mut edited = extents.clone();
        edit(&mut edited);
        let (_, after) = list(&edited);
        let fresh: Vec<usize> =
            after.iter().filter(|(id, _)| !store.contains_key(*id)).map(|(_, bytes)| bytes.len()).collect();
        assert!(fresh.len() <= 6 && fresh.iter().sum::<usize>() < 80_000, "{name}: {fresh:?}");
    }
}

#[test]
fn trees_are_compared_by_skipping_what_is_known() {
    let mut extents: Vec<Extent> = (0..20_000).map(|seed| chunk_extent(seed, 100, 0)).collect();
    let (_, before) = list(&extents);
    extents[7_000] = chunk_extent(1 << 40, 100, 0);
    let (content, after) = list(&extents);
    let mut walk = ExtentWalk::new(&content).unwrap();
    let (mut seen, mut asked) = (Vec::new(), 0);
    while let Some(step) = walk.step() {
        match step {
            WalkStep::Node { id, .. } if before.contains_key(&id) => walk.skip().unwrap(),
            WalkStep::Node { id, .. } => {
                asked += 1;
                let ahead = walk.upcoming(3);
                assert!(ahead.len() <= 3 && !ahead.contains(&id));
                walk.supply(&verified(&after, id)).unwrap();
            }
            WalkStep::Extent { offset, extent } => seen.push((offset, extent)),
        }
    }
    assert!(asked <= 4 && seen.len() <= 3 * NODE_ENTRIES_MAX, "{asked} nodes, {} extents", seen.len());
    assert!(seen.contains(&(700_000, extents[7_000])));
}

#[test]
fn a_forged_tree_is_refused() {
    let extents: Vec<Extent> = (0..2_000).map(|seed| chunk_extent(seed, 100, 0)).collect();
    let (content, store) = list(&extents);
    let Content::File { size, body: Body::Tree { root, height, .. } } = content.clone() else {
        panic!("a tree")
    };
    let supply = |content: &Content, chunk: &VerifiedChunk| {
        let mut walk = ExtentWalk::new(content).unwrap();
        walk.step();
        walk.supply(chunk)
    };
    let other = *store.keys().find(|id| **id != root).unwrap();
    assert!(matches!(supply(&content, &verified(&store, other)), Err(TreeError::OtherChunk { .. })));
    let tree = |size, height| Content::File { size, body: Body::Tree { root, height, canonical: true } };
    assert!(matches!(
        supply(&tree(size, height + 1), &verified(&store, root)),
        Err(TreeError::Decode { .. })
    ));
    assert!(matches!(
        supply(&tree(size + 1, height), &verified(&store, root)),
        Err(TreeError::Length { .. })
    ));
    let mut idle = ExtentWalk::new(&Content::Directory).unwrap();
    assert_eq!((idle.step(), idle.skip()), (None, Err(TreeError::NotAsked)));

    let hole = Extent { len: 1, source: ExtentSource::Hole };
    let marking = Extent { len: 1, source: ExtentSource::Chunk { id: ChunkId([0; 32]), skip: 0 } };
    assert!(TreeNode::decode(&TreeNode::Extents(vec![marking; 64]).encode()).is_ok());
    let bad = [
        ("no entries", vec![]),
        ("two holes", vec![hole, hole]),
        ("too many", vec![chunk_extent(1, 1, 0); NODE_ENTRIES_MAX + 1]),
        ("an empty extent", vec![Extent { len: 0, ..hole }]),
        ("a chunk that is too large", vec![chunk_extent(1, 1 << 25, 0)]),
        ("a border passed over", vec![marking; 65]),
    ];
    for (name, extents) in bad {
        assert!(TreeNode::decode(&TreeNode::Extents(extents).encode()).is_err(), "{name}");
    }
    // A count that is larger than the bytes is refused before anything is allocated for it.
    assert!(TreeNode::decode(&[1, 0, 0xff, 0xff, 0xff, 0xff, 0x0f]).is_err());
}

#[test]
fn a_tree_that_repeats_itself_is_walked_once() {
    let mut store = Store::new();
    let mut keep = |node: &TreeNode| {
        let bytes = node.encode();
        let id = ids().id(&bytes);
        store.insert(id, bytes);
        id
    };
    let one = Extent { len: 1, source: ExtentSource::Chunk { id: ChunkId([0xff; 32]), skip: 0 } };
    let mut root = keep(&TreeNode::Extents(vec![one; 1000]));
    let mut size = 1000;
    for level in 1..=5 {
        // Whether a node may repeat a child depends on its id: where that marks, 64 is all it may.
        let count = if root.0[31] == 0 && root.0[30] < 85 { 64 } else { 1000 };
        root = keep(&TreeNode::Children { level, children: vec![(size, root); count] });
        size *= count as u64;
    }
    let content = Content::File { size, body: Body::Tree { root, height: 5, canonical: true } };
    let mut walk = ExtentWalk::new(&content).unwrap();
    let (mut seen, mut steps, mut chunks) = (BTreeSet::new(), 0, BTreeSet::new());
    while let Some(step) = walk.step() {
        steps += 1;
        match step {
            WalkStep::Node { id, .. } if !seen.insert(id) => walk.skip().unwrap(),
            WalkStep::Node { id, .. } => walk.supply(&verified(&store, id)).unwrap(),
            WalkStep::Extent { extent, .. } => chunks.extend(extent.chunk()),
        }
    }
    assert!(size > 1 << 40 && steps < 10_000, "{steps} steps for {size} bytes");
    assert_eq!((seen.len(), chunks.len()), (6, 1));
}

#[test]
fn equal_files_have_equal_contents_however_they_were_read() {
    let mut bytes = random(5, 3_000_000);
    bytes[1_000_000..1_100_000].fill(0);
    let (rules, ids) = (keys().chunk_rules(), ids());
    let build = |slice: usize, holes: bool| {
        let mut store = Store::new();
        let mut sink = |chunk: NewChunk<'_>| {
            assert_eq!(chunk.id, ids.id(chunk.bytes));
            store.insert(chunk.id, chunk.bytes.to_vec());
            Ok::<_, Infallible>(())
        };
        let mut builder = ContentBuilder::new(rules.clone(), ids);
        for part in bytes.chunks(slice) {
            if holes && part.iter().all(|byte| *byte == 0) {
                builder.push_zeros(part.len() as u64, &mut sink).unwrap();
            } else {
                builder.push(part, &mut sink).unwrap();
            }
        }
        (builder.finish(&mut sink).unwrap(), store)
    };
    let (content, store) = build(1 << 20, false);
    assert_eq!((content.clone(), store.clone()), build(4096, true));
    assert!(matches!(content, Content::File { body: Body::Tree { canonical: true, height: 0, .. }, .. }));
    let (extents, _) = walk(ExtentWalk::new(&content).unwrap(), &store);
    let read: Vec<u8> = extents
        .iter()
        .flat_map(|(_, extent)| match extent.source {
            ExtentSource::Hole => vec![0; extent.len as usize],
            ExtentSource::Chunk { id, skip } => {
                assert_eq!(skip, 0);
                store[&id].clone()
            }
        })
        .collect();
    assert_eq!(read, bytes);
}

#[test]
fn a_failing_sink_stops_the_reading() {
    let mut builder = ContentBuilder::new(keys().chunk_rules(), ids());
    builder.push(b"abc", &mut |_| Err("full")).unwrap();
    assert_eq!(builder.finish(&mut |_| Err("full")), Err(polder_chunk::BuildError::Sink("full")));
}
