//! What the share is told to keep for what stands here.

use polder_engine::{ApplyResult, Event, Pin, SeenEntry};
use polder_sync::{Seen, StandsFor, TreeStore};
use polder_types::{Body, Content, Extent, ExtentSource, Kind, NodeUid, Seq, Stamp};

use crate::bench::{
    Bench, OLD, ROOT_INO, at, attrs, cursor, gone, is_root, live_row, name, part, row, seen, stamp,
};

const FILE_INO: u64 = 9;
const NODE: NodeUid = NodeUid([9; 16]);

fn bytes(len: u64) -> Content {
    Content::File { size: len, body: Body::Inline(vec![Extent { len, source: ExtentSource::Hole }]) }
}

fn file(version: i64) -> SeenEntry {
    let stamp = Stamp { size: 30, ..stamp(FILE_INO, version) };
    let seen = Seen { name: name("f"), kind: Some(Kind::File), stamp, links: 1 };
    SeenEntry { seen, attrs: attrs(OLD).into(), target: None, stands_for: None }
}

fn pinned(seq: u64, behind: &[(NodeUid, Seq)]) -> Option<Pin> {
    Some(Pin { cursor: cursor(Seq(seq)), behind: behind.into() })
}

/// A file `f` as of version 20 stands below the root, and the share has something else by now.
fn waits(news: polder_engine::FeedRow) -> Bench {
    let mut bench = Bench::with(vec![news], |store| {
        let file = row(store, at(NodeUid::ROOT, "f"), bytes(20), FILE_INO);
        store.put_synced(NODE, Some(&file)).expect("maps");
    });
    let (walk, _) = bench.find_list().expect("a start leads to a walk");
    let mut truth = |at: &polder_engine::LookAt| match is_root(at) {
        true => seen(ROOT_INO, "root", 0, 1),
        false => polder_engine::LookFound::Entry(file(1)),
    };
    bench.settle(&mut truth);
    bench.listed(walk, vec![part(ROOT_INO, Vec::new())]);
    for _ in 0..3 {
        bench.settle(&mut truth);
        bench.wait(1, 300);
    }
    bench
}

/// The feed was read, and nothing was applied: the older version is told of until the newer one stands.
#[test]
pub fn what_waits_for_an_apply_is_held() {
    let bench = waits(live_row(NODE, at(NodeUid::ROOT, "f"), bytes(30), 21));
    assert_eq!(bench.pin, pinned(21, &[(NODE, Seq(20))]));
}

#[test]
pub fn what_is_to_be_removed_is_held() {
    let bench = waits(gone(NODE, 21));
    assert_eq!(bench.pin, pinned(21, &[(NODE, Seq(20))]));
}

/// The bytes are what is held: a file that only moves is as the share has it.
#[test]
pub fn what_only_moves_is_not_behind() {
    let bench = waits(live_row(NODE, at(NodeUid::ROOT, "g"), bytes(20), 21));
    assert_eq!(bench.pin, pinned(21, &[]));
}

/// A newer version has another name, which is given here first, and other bytes, which come later: meanwhile the older version's bytes stand
/// under the newer one's name.
#[test]
pub fn what_has_moved_and_waits_for_its_bytes_is_held_as_what_it_is() {
    let mut bench = waits(live_row(NODE, at(NodeUid::ROOT, "g"), bytes(30), 21));
    let job = bench.find_apply().expect("it is moved").job;
    let seen = Seen { name: name("g"), ..file(1).seen };
    let now = Some(SeenEntry { seen, ..file(1) });
    let results = vec![ApplyResult::Done { now, other: None, exact: true }];
    bench.step(Event::Applied { job, results, dirs: Vec::new() });
    bench.wait(3, 300);
    let row = bench.synced(NODE).expect("it has a row");
    assert_eq!((row.at, row.content), (at(NodeUid::ROOT, "g"), bytes(20)));
    assert_eq!(bench.pin, pinned(21, &[(NODE, Seq(20))]));
}

/// Until both sides were united what stands here without a row is not known, and what the share was told before holds on.
#[test]
fn nothing_is_told_before_both_sides_are_united() {
    let mut bench = Bench::with(Vec::new(), |store| store.put_note("merge", b"initial").expect("maps"));
    let (walk, _) = bench.find_list().expect("a start leads to a walk");
    bench.settle(&mut |_| seen(ROOT_INO, "root", 0, 1));
    bench.wait(1, 300);
    assert_eq!(bench.pin, None);
    bench.listed(walk, vec![part(ROOT_INO, Vec::new())]);
    bench.settle(&mut |_| seen(ROOT_INO, "root", 0, 1));
    bench.wait(3, 300);
    assert_eq!(bench.pin, pinned(21, &[]));
}

/// A crash came between a placeholder and its row: its mark tells which version it stands for. Before the walk has found what there is, nothing is told.
#[test]
pub fn what_only_a_mark_names_is_held() {
    let mut bench = Bench::with(vec![gone(NODE, 21)], |_| ());
    let (walk, _) = bench.find_list().expect("a start leads to a walk");
    let stands_for = StandsFor { content: bytes(30), version: Some((NODE, Seq(20))) };
    let placeholder = SeenEntry { stands_for: Some(Box::new(stands_for)), ..file(1) };
    let mut truth = |at: &polder_engine::LookAt| match is_root(at) {
        true => seen(ROOT_INO, "root", 0, 1),
        false => unreachable!("{at:?} is looked at"),
    };
    bench.settle(&mut truth);
    bench.wait(1, 300);
    assert_eq!(bench.pin, None);
    bench.listed(walk, vec![part(ROOT_INO, vec![placeholder])]);
    bench.wait(4, 300);
    assert_eq!(bench.pin, pinned(21, &[(NODE, Seq(20))]));
}

#[test]
pub fn what_was_applied_is_let_go() {
    let mut bench = waits(live_row(NODE, at(NodeUid::ROOT, "f"), bytes(30), 21));
    let apply = bench.find_apply().expect("the newer version is applied");
    let done = ApplyResult::Done { now: Some(file(2)), other: None, exact: true };
    bench.step(Event::Applied { job: apply.job, results: vec![done], dirs: Vec::new() });
    bench.wait(2, 300);
    assert_eq!(bench.pin, pinned(21, &[]));
}
