//! Placeholders of which no row tells, and whose marks do.

use polder_engine::{ApplyAct, LookAt, LookFound, SeenEntry};
use polder_sync::{Seen, StandsFor, TreeStore};
use polder_types::{Body, Content, Extent, ExtentSource, Kind, NodeUid, Op, Seq, Stamp};

use crate::bench::{
    Bench, DIR, OLD, ROOT_INO, at, attrs, is_root, live_row, name, part, seen, seen_entry, stamp,
};

/// The file's inode, and that of a directory that only this disk has.
const FILE_INO: u64 = 9;
const OWN_INO: u64 = 10;
/// The node that the mark names.
const NODE: NodeUid = NodeUid([9; 16]);
const SIZE: u64 = 20;

fn bytes(len: u64) -> Content {
    Content::File { size: len, body: Body::Inline(vec![Extent { len, source: ExtentSource::Hole }]) }
}

/// A placeholder `f` that was made of a version of [`NODE`].
fn placeholder(since: u64) -> SeenEntry {
    let stamp = Stamp { size: SIZE, ..stamp(FILE_INO, 1) };
    let seen = Seen { name: name("f"), kind: Some(Kind::File), stamp, links: 1 };
    let stands_for = StandsFor { content: bytes(SIZE), version: Some((NODE, Seq(since))) };
    let stands_for = Some(Box::new(stands_for));
    SeenEntry { seen, attrs: attrs(OLD).into(), target: None, stands_for }
}

/// A life whose state database is new: both sides are not united yet.
fn lost(news: Vec<polder_engine::FeedRow>) -> Bench {
    Bench::with(news, |store| store.put_note("merge", b"initial").expect("maps"))
}

/// Such a life that finds `f` below the root, or in a directory `own` that the share does not have, and no row of it.
fn found(news: Vec<polder_engine::FeedRow>, since: u64, is_inside: bool) -> Bench {
    found_by(lost(news), since, is_inside)
}

fn found_by(mut bench: Bench, since: u64, is_inside: bool) -> Bench {
    let (walk, _) = bench.find_list().expect("a start leads to a walk");
    let own = seen_entry(OWN_INO, "own", OLD, 1);
    let parts = match is_inside {
        false => vec![part(ROOT_INO, vec![placeholder(since)])],
        true => vec![part(ROOT_INO, vec![own.clone()]), part(OWN_INO, vec![placeholder(since)])],
    };
    bench.listed(walk, parts);
    let mut truth = |at: &LookAt| match &at.name {
        _ if is_root(at) => seen(ROOT_INO, "root", 0, 1),
        Some(called) if *called == name("f") => LookFound::Entry(placeholder(since)),
        _ => LookFound::Entry(own.clone()),
    };
    for _ in 0..4 {
        bench.settle(&mut truth);
        bench.wait(1, 300);
    }
    bench
}

/// The one step that is carried out, about the node.
fn step(bench: &mut Bench) -> ApplyAct {
    let apply = bench.find_apply().expect("something is carried out");
    assert_eq!(apply.steps.len(), 1);
    assert_eq!(apply.steps[0].uid, NODE);
    apply.steps[0].act.clone()
}

/// A placeholder of an older version is no edit: the newer one takes its place, and nothing is kept beside it.
#[test]
pub fn s087_a_newer_version_takes_a_placeholders_place() {
    let mut bench = found(vec![live_row(NODE, at(NodeUid::ROOT, "f"), bytes(30), 21)], 20, false);
    let ApplyAct::Replace { content, keep, .. } = step(&mut bench) else { panic!("it is replaced") };
    assert_eq!((content, keep), (bytes(30), None));
    assert!(bench.sent.is_empty(), "{:?}", bench.sent);
}

/// Its node was deleted in the share: it goes, and is not made anew there.
#[test]
pub fn s087_a_deleted_one_does_not_come_back() {
    let mut bench = found(Vec::new(), 20, false);
    assert!(matches!(step(&mut bench), ApplyAct::Remove { .. }));
    assert!(bench.sent.is_empty(), "{:?}", bench.sent);
}

/// In a directory of which the share knows nothing either: that one comes back, empty.
#[test]
pub fn a_deleted_one_in_a_deleted_directory_does_not_come_back() {
    let mut bench = found(Vec::new(), 20, true);
    assert!(matches!(step(&mut bench), ApplyAct::Remove { .. }));
    let made: Vec<_> =
        bench.sent.iter().map(|op| matches!(op, Op::Create { at, .. } if at.name == name("own"))).collect();
    assert_eq!(made, [true], "{:?}", bench.sent);
}

/// It was moved in the share: it moves here.
#[test]
pub fn a_move_in_the_share_moves_it() {
    let mut bench = found(vec![live_row(NODE, at(DIR, "g"), bytes(SIZE), 21)], 20, false);
    let ApplyAct::Move { to, .. } = step(&mut bench) else { panic!("it is moved") };
    assert_eq!((to.dir.uid, to.name), (DIR, name("g")));
    assert!(bench.sent.is_empty(), "{:?}", bench.sent);
}

/// The share has not reached the version that it was made of: it was set back, and what it lost is offered.
#[test]
pub fn what_the_share_lost_is_offered() {
    let bench = found(Vec::new(), 99, false);
    assert!(matches!(&bench.sent[..], [Op::Create { at, .. }] if at.name == name("f")), "{:?}", bench.sent);
}

/// Both sides were united long ago, so somebody has brought it here, from a name that is left out or a directory that could not be read: what its
/// mark names is no reason to take it away.
#[test]
fn what_somebody_put_there_is_a_new_file() {
    for news in [Vec::new(), vec![live_row(NODE, at(DIR, "g"), bytes(30), 21)]] {
        let bench = found_by(Bench::new(news), 20, false);
        let made = |op: &Op| matches!(op, Op::Create { at, .. } if at.name == name("f"));
        assert!(bench.sent.iter().any(made), "{:?}", bench.sent);
    }
}

/// The share has just that version: both agree, and nothing is done.
#[test]
pub fn an_equal_one_is_agreed_on() {
    let mut bench = found(vec![live_row(NODE, at(NodeUid::ROOT, "f"), bytes(SIZE), 20)], 20, false);
    assert!(bench.find_apply().is_none() && bench.sent.is_empty() && bench.is_in_sync());
}

/// It was moved in the share, and has come to its new place before the walk finds what is left of it: that goes, and does not come back.
#[test]
pub fn what_is_left_in_the_old_place_goes() {
    let mut bench = lost(vec![live_row(NODE, at(DIR, "g"), bytes(SIZE), 21)]);
    let (walk, _) = bench.find_list().expect("a start leads to a walk");
    let mut truth = |at: &LookAt| match is_root(at) {
        true => seen(ROOT_INO, "root", 0, 1),
        false => LookFound::Entry(placeholder(20)),
    };
    bench.settle(&mut truth);
    let placed = bench.find_apply().expect("the share's node comes");
    assert!(matches!(&placed.steps[0].act, ApplyAct::Place { .. }));
    bench.listed(walk, vec![part(ROOT_INO, vec![placeholder(20)])]);
    for _ in 0..4 {
        bench.settle(&mut truth);
        bench.wait(1, 300);
    }
    let removed = bench.find_apply().expect("what is left goes");
    assert!(matches!(&removed.steps[0].act, ApplyAct::Remove { at, .. } if at.name == name("f")));
    assert!(bench.sent.is_empty(), "{:?}", bench.sent);
}
