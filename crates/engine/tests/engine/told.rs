//! What the share tells, and what an apply tells of itself, in orders in which an older word could count for more than a
//! younger one.

use polder_engine::{Anew, Announced, ApplyAct, ApplyResult, Effect, Event, LookFound, Page, PageToken};
use polder_sync::TreeStore;
use polder_types::{Content, NodeUid, Op, Refusal, Seq, Timestamp};

use crate::bench::{
    Bench, DIR, DIR_INO, LINK, LINK_INO, OLD, ROOT_INO, announce, at, cursor, fetch_tree, gone, is_root,
    link_gone, live, live_row, name, row, seen, seen_entry, seen_link, target,
};

const OTHER: NodeUid = NodeUid([9; 16]);

fn is_time(act: &ApplyAct) -> bool {
    matches!(act, ApplyAct::Touch { attrs: None, .. })
}

/// The directory `d` with another time in the share.
fn other_time(uid: NodeUid, place: polder_types::Placed, since: u64) -> polder_engine::FeedRow {
    let mut node = live(uid, place, Content::Directory, since);
    node.mtime = Timestamp::new(90, 0);
    polder_engine::FeedRow::Live(Box::new(node))
}

/// A directory is given its time while something in it is to be removed: the removal waits, since it would set back the
/// time that it knows.
#[test]
pub fn a_directory_is_not_worked_in_while_it_is_given_its_time() {
    let mut bench = Bench::at_rest(vec![other_time(DIR, at(NodeUid::ROOT, "d"), 21)]);
    let first = bench.find_apply().expect("the time is applied");
    assert!(is_time(&first.steps[0].act), "{first:?}");
    bench.hear(vec![gone(LINK, 22)], 22);
    let page = bench.find_feed().expect("the feed is read");
    bench.answer_page(page);
    bench.wait(2, 10);
    assert!(bench.find_apply().is_none(), "both at once");
    let mut now = seen_entry(DIR_INO, "d", OLD, 5);
    now.seen.stamp.mtime = Timestamp::new(90, 0);
    let results = vec![ApplyResult::Done { now: Some(now), other: None, exact: true }];
    bench.step(Event::Applied { job: first.job, results, dirs: Vec::new() });
    let second = bench.find_apply().expect("the removal is carried out");
    let time = second.dir_times.iter().find(|(dir, _)| dir.uid == DIR).map(|(_, time)| *time);
    assert_eq!(time, Some(Timestamp::new(90, 0)));
}

/// A directory is moved, as the share says, and has another time by then, which somebody has set: that is told.
#[test]
pub fn a_time_that_a_move_finds_is_an_edit() {
    let mut bench = Bench::at_rest(vec![live_row(DIR, at(NodeUid::ROOT, "e"), Content::Directory, 21)]);
    let apply = bench.find_apply().expect("the move is carried out");
    assert!(matches!(apply.steps[0].act, ApplyAct::Move { .. }), "{apply:?}");
    let mut now = seen_entry(DIR_INO, "e", OLD, 5);
    now.seen.stamp.mtime = Timestamp::new(77, 0);
    let results = vec![ApplyResult::Done { now: Some(now.clone()), other: None, exact: true }];
    bench.step(Event::Applied { job: apply.job, results, dirs: Vec::new() });
    bench.settle(&mut |at| match is_root(at) {
        true => seen(ROOT_INO, "root", 0, 1),
        false => LookFound::Entry(now.clone()),
    });
    assert_eq!(bench.cloud(DIR).map(|node| node.mtime), Some(Timestamp::new(77, 0)));
}

/// What the share has made is on the disk, as it was told: nobody here has changed it.
#[test]
pub fn what_was_applied_is_in_sync() {
    let mut bench = Bench::at_rest(vec![live_row(OTHER, at(NodeUid::ROOT, "x"), target("to"), 21)]);
    let apply = bench.find_apply().expect("it is placed");
    let now = seen_link(9, "x", "to", 5);
    let results = vec![ApplyResult::Done { now: Some(now.clone()), other: None, exact: true }];
    bench.step(Event::Applied { job: apply.job, results, dirs: Vec::new() });
    assert_eq!(bench.store.synced(OTHER).expect("maps").map(|row| row.stamp), Some(now.seen.stamp));
    bench.settle_root(0, 1);
    assert!(bench.is_in_sync() && bench.sent.is_empty(), "{:?}", bench.sent);
}

/// A step waits for another one; meanwhile its user removes all that is about. It is given up, and the rest goes on.
#[test]
pub fn a_step_whose_directory_is_gone_is_given_up() {
    const INNER: NodeUid = NodeUid([10; 16]);
    const INSIDE: NodeUid = NodeUid([11; 16]);
    let mut bench = Bench::with(vec![other_time(INNER, at(DIR, "i"), 21)], |store| {
        let inner = row(store, at(DIR, "i"), Content::Directory, 10);
        let inside = row(store, at(INNER, "k"), target("to"), 11);
        store.put_synced(INNER, Some(&inner)).expect("maps");
        store.put_synced(INSIDE, Some(&inside)).expect("maps");
    });
    bench.settle_root(0, 1);
    let first = bench.find_apply().expect("the time is applied");
    assert!(is_time(&first.steps[0].act), "{first:?}");
    bench.hear(vec![gone(INSIDE, 22)], 22);
    let page = bench.find_feed().expect("the feed is read");
    bench.answer_page(page);
    bench.wait(2, 10);
    bench.hint(ROOT_INO, Some("d"));
    bench.look(&mut |_| LookFound::Nothing);
    let results = vec![ApplyResult::Refused { found: None }];
    bench.step(Event::Applied { job: first.job, results, dirs: Vec::new() });
    bench.settle(&mut |at| match is_root(at) {
        true => seen(ROOT_INO, "root", 0, 1),
        false => LookFound::Nothing,
    });
    assert!(bench.is_in_sync(), "{:?}", bench.engine);
    let deleted: Vec<_> = bench.sent.iter().map(Op::uid).collect();
    assert_eq!(deleted.len(), 3, "{deleted:?}");
}

/// A page of the feed was cut after our rename was taken and before our deletion was: it says that the node lives.
#[test]
pub fn a_row_from_before_our_own_deletion_brings_nothing_back() {
    let mut bench = Bench::at_rest(Vec::new());
    bench.hear(Vec::new(), 22);
    let page = bench.find_feed().expect("the feed is read");
    bench.hints(&[(DIR_INO, Some("l")), (DIR_INO, Some("m"))]);
    let mut truth = |at: &polder_engine::LookAt| match () {
        () if is_root(at) => seen(ROOT_INO, "root", 0, 1),
        () if at.name == Some(name("m")) => LookFound::Entry(seen_link(LINK_INO, "m", "to", 5)),
        () if at.name == Some(name("l")) => LookFound::Nothing,
        () => seen(DIR_INO, "d", OLD, 5),
    };
    bench.look(&mut truth);
    bench.wait(30, 100);
    let (job, _, groups) = bench.find_send().expect("the rename is sent");
    assert!(matches!(groups[0].ops[..], [Op::Move { .. }]), "{groups:?}");
    bench.accept(job, &groups);
    let upto = bench.head;
    bench.hint(DIR_INO, Some("m"));
    bench.look(&mut |at| if at.name.is_some() { LookFound::Nothing } else { truth(at) });
    bench.wait(30, 100);
    let (job, _, groups) = bench.find_send().expect("the deletion is sent");
    assert!(matches!(groups[0].ops[..], [Op::Delete { .. }]), "{groups:?}");
    bench.accept(job, &groups);
    let rows = vec![live_row(LINK, at(DIR, "m"), target("to"), 23)];
    bench.step(Event::Page { job: page, page: Ok(Page { rows, upto: cursor(upto), next: None }) });
    assert!(bench.find_apply().is_none(), "it comes back");
    assert_eq!(bench.cloud(LINK), None);
}

/// Pages of one answer belong together: nothing is planned before the last one.
#[test]
pub fn half_an_answer_changes_nothing() {
    let mut bench = Bench::at_rest(Vec::new());
    bench.hear(Vec::new(), 22);
    let job = bench.find_feed().expect("the feed is read");
    let upto = cursor(Seq(22));
    let page = Page { rows: vec![gone(LINK, 22)], upto, next: Some(PageToken(vec![1])) };
    bench.step(Event::Page { job, page: Ok(page) });
    bench.wait(3, 100);
    assert!(bench.find_apply().is_none(), "half an answer is carried out");
    let job = bench.find_feed().expect("the next page is read");
    let rows = vec![live_row(OTHER, at(DIR, "l"), target("fro"), 22)];
    bench.step(Event::Page { job, page: Ok(Page { rows, upto, next: None }) });
    assert!(bench.find_apply().is_some());
}

/// The reading of the whole tree is broken off, and a node of its first page is gone when it is read again.
#[test]
pub fn a_tree_that_is_read_again_forgets_the_first_reading() {
    let mut bench = Bench::with(Vec::new(), |store| store.put_note("tree", &[]).expect("maps"));
    let announced = bench.take(announce);
    bench.announced(announced);
    let first = bench.take(fetch_tree);
    let upto = cursor(Seq(21));
    let rows = vec![live_row(OTHER, at(NodeUid::ROOT, "x"), target("to"), 19)];
    let page = Page { rows, upto, next: Some(PageToken(vec![1])) };
    bench.step(Event::Page { job: first, page: Ok(page) });
    bench.step(Event::Disconnected { why: polder_engine::Unreachable::Network("lost".into()) });
    bench.step(Event::Connected);
    let announced = bench.take(announce);
    bench.announced(announced);
    let second = bench.take(fetch_tree);
    let stay = [(DIR, at(NodeUid::ROOT, "d"), Content::Directory), (LINK, at(DIR, "l"), target("to"))];
    let rows = stay.into_iter().map(|(uid, at, content)| live_row(uid, at, content, 20)).collect();
    bench.step(Event::Page { job: second, page: Ok(Page { rows, upto, next: None }) });
    bench.settle_root(0, 1);
    assert!(bench.find_apply().is_none(), "what is gone is placed");
    assert_eq!(bench.cloud(OTHER), None);
}

/// Pages of the tree leave out what changed since the first, for the feed brings it. The session ends before that: the service may be set back
/// to before the change, and neither would tell of it.
#[test]
pub fn a_tree_is_whole_once_the_feed_was_read_in_its_session() {
    let mut bench = Bench::with(Vec::new(), |store| store.put_note("tree", &[]).expect("maps"));
    for _ in 0..2 {
        let announced = bench.take(announce);
        bench.announced(announced);
        let job = bench.take(fetch_tree);
        bench.step(Event::Page {
            job,
            page: Ok(Page { rows: Vec::new(), upto: cursor(Seq(21)), next: None }),
        });
        assert!(bench.find_feed().is_some(), "the feed follows");
        bench.step(Event::Disconnected { why: polder_engine::Unreachable::Network("lost".into()) });
        bench.step(Event::Connected);
    }
}

/// After a set-back the tree tells of another version of a directory, so that its row is dropped; when it is read again the directory is gone,
/// and what stands here gets another id: a new one, for the share refuses the old one, or that of the directory that the share has there now.
/// What is in it stands as its rows say, under the id that nobody has any more, and is brought back in the new one.
#[test]
pub fn what_is_in_a_directory_follows_it_to_another_id() {
    for other in [false, true] {
        let mut bench = Bench::new(Vec::new());
        let (walk, _) = bench.find_list().expect("a start leads to a walk");
        bench.listed(walk, Vec::new());
        read_other_history(&mut bench, vec![other_time(DIR, at(NodeUid::ROOT, "d"), 19)]);
        assert!(bench.find_feed().is_some(), "the feed follows, and is not answered");
        bench.step(Event::Disconnected { why: polder_engine::Unreachable::Network("lost".into()) });
        bench.step(Event::Connected);
        let made = other.then(|| live_row(OTHER, at(NodeUid::ROOT, "d"), Content::Directory, 23));
        read_tree(&mut bench, made.into_iter().collect());
        let feed = bench.find_feed().expect("the feed is read");
        bench.answer_page(feed);
        let mut truth = |at: &polder_engine::LookAt| match is_root(at) {
            true => seen(ROOT_INO, "root", 0, 1),
            false => seen(DIR_INO, "d", OLD, 1),
        };
        bench.look(&mut truth);
        if let Some((job, _, groups)) = bench.find_send() {
            assert!(!other, "{groups:?}");
            bench.refusal = Some(Refusal::Exists);
            bench.accept(job, &groups);
            bench.refusal = None;
        } else {
            assert!(other, "{:?}", bench.effects);
        }
        bench.settle(&mut truth);
        let dir = bench.store.cloud_at(NodeUid::ROOT, b"d").expect("maps").expect("it is in the share");
        assert!(dir != DIR && (dir == OTHER) == other, "{:?}", bench.sent);
        let inside = bench.store.cloud_at(dir, b"l").expect("maps");
        assert!(inside.is_some(), "{:?}", bench.sent);
    }
}

/// Two rows name one place, for a link was replaced by a directory and the share moved the link. In the next life, before anybody has looked
/// there, the share is another one and both rows are dropped. The look tells of the directory: the link is nowhere, and is placed anew.
#[test]
pub fn of_two_whose_rows_name_one_place_one_stands_there() {
    for turned in [false, true] {
        let mut bench = Bench::with(Vec::new(), |store| {
            let link = row(store, at(NodeUid::ROOT, "d"), target("fro"), 30);
            store.put_synced(OTHER, Some(&link)).expect("maps");
        });
        let mut rows = vec![
            other_time(DIR, at(NodeUid::ROOT, "e"), 19),
            live_row(OTHER, at(NodeUid::ROOT, "x"), target("far"), 19),
            live_row(LINK, at(DIR, "l"), target("to"), 20),
        ];
        rows[..2].rotate_left(usize::from(turned));
        read_other_history(&mut bench, rows);
        let mut truth = |at: &polder_engine::LookAt| match is_root(at) {
            true => seen(ROOT_INO, "root", 0, 1),
            false => seen(DIR_INO, "d", OLD, 1),
        };
        bench.look(&mut truth);
        bench.settle(&mut truth);
        let mut acts = Vec::new();
        while let Some(apply) = bench.find_apply() {
            acts.extend(apply.steps.into_iter().filter(|step| step.uid == OTHER).map(|step| step.act));
        }
        assert!(matches!(acts[..], [ApplyAct::Place { over: None, .. }]), "{acts:?}");
    }
}

/// The share is of another history, and this is its tree.
fn read_other_history(bench: &mut Bench, rows: Vec<polder_engine::FeedRow>) {
    let job = bench.take(announce);
    let anew = Anew { why: "another history".into(), other_history: true };
    bench.step(Event::Announced { job, answer: Announced::Rebaseline(anew) });
    read_tree(bench, rows);
}

fn read_tree(bench: &mut Bench, rows: Vec<polder_engine::FeedRow>) {
    let announced = bench.take(announce);
    bench.announced(announced);
    let job = bench.take(fetch_tree);
    bench.step(Event::Page { job, page: Ok(Page { rows, upto: cursor(Seq(21)), next: None }) });
}

/// After a set-back what only this side has is brought back; while the share refuses that, nothing is deleted here.
#[test]
pub fn a_merge_goes_on_while_what_it_brings_back_is_refused() {
    let mut bench = Bench::with(Vec::new(), |store| {
        store.put_note("merge", b"no deletes").expect("maps");
        store.put_cloud(LINK, None).expect("maps");
    });
    bench.refusal = Some(Refusal::Quota { quota_bytes: 0 });
    for _ in 0..20 {
        bench.settle_root(0, 1);
        bench.wait(1, 70_000);
    }
    assert!(bench.find_apply().is_none(), "it is deleted here");
    bench.refusal = None;
    for _ in 0..3 {
        bench.settle_root(0, 1);
        bench.wait(1, 70_000);
    }
    assert!(bench.find_apply().is_none());
    assert!(bench.cloud(LINK).is_some());
}

/// What a batch offers is known after any crash: else its answer is lost, and the agent conflicts with itself.
#[test]
pub fn what_a_batch_offers_is_durable_before_it_leaves() {
    let mut bench = Bench::at_rest(vec![link_gone()]);
    bench.hint(ROOT_INO, Some("x"));
    bench.look(&mut |_| LookFound::Entry(seen_link(9, "x", "to", 5)));
    bench.wait(2, 10);
    let send = bench.take(|effect| matches!(effect, Effect::Send { .. }).then(|| effect.clone()));
    assert!(send.needs_durable_store());
    assert_eq!(bench.store.offers().expect("maps").len(), 1);
}

/// A user removes a directory while the share moves something out of it. Its row is gone first, and what had its row below it
/// stands nowhere then: it is placed anew, also when the first try is refused.
#[test]
pub fn what_a_gone_directory_held_is_gone() {
    let mut bench = Bench::at_rest(Vec::new());
    bench.hint(ROOT_INO, Some("d"));
    bench.look(&mut |_| LookFound::Nothing);
    bench.hear(vec![live_row(LINK, at(NodeUid::ROOT, "k"), target("to"), 22)], 22);
    let page = bench.find_feed().expect("the feed is read");
    bench.answer_page(page);
    let first = bench.find_apply().expect("it is placed");
    let mut truth = |at: &polder_engine::LookAt| match is_root(at) {
        true => seen(ROOT_INO, "root", 0, 1),
        false => LookFound::Nothing,
    };
    bench.settle(&mut truth);
    assert!(matches!(bench.sent[..], [Op::Delete { uid: DIR, .. }]), "{:?}", bench.sent);
    let results = vec![ApplyResult::Refused { found: None }];
    bench.step(Event::Applied { job: first.job, results, dirs: Vec::new() });
    bench.settle(&mut truth);
    let second = bench.find_apply().expect("it is placed at last");
    assert!(matches!(second.steps[0].act, ApplyAct::Place { .. }), "{second:?}");
}

/// Both sides have changed a link, and the share's is the newer one: what stood here is kept under another name, and is a
/// node of its own.
#[test]
pub fn what_a_conflict_has_put_aside_is_a_node() {
    const MINE: u64 = 20;
    const THEIRS: u64 = 21;
    let mut bench = Bench::at_rest(Vec::new());
    bench.step(Event::Disconnected { why: polder_engine::Unreachable::Network("lost".into()) });
    bench.hint(DIR_INO, Some("l"));
    bench.look(&mut |_| LookFound::Entry(seen_link(MINE, "l", "mine", 5)));
    (bench.news, bench.head) = (vec![live_row(LINK, at(DIR, "l"), target("theirs"), 22)], Seq(22));
    bench.step(Event::Connected);
    let mut before = |at: &polder_engine::LookAt| match at.name {
        None => seen(DIR_INO, "d", OLD, 5),
        Some(_) => LookFound::Entry(seen_link(MINE, "l", "mine", 5)),
    };
    bench.settle(&mut before);
    let apply = bench.find_apply().expect("the conflict is settled here");
    let ApplyAct::Replace { keep: Some(keep), .. } = &apply.steps[0].act else { panic!("{apply:?}") };
    let kept = seen_link(MINE, &keep.name.to_string(), "mine", 6);
    let now = seen_link(THEIRS, "l", "theirs", 6);
    let results = vec![ApplyResult::Done { now: Some(now.clone()), other: Some(kept.clone()), exact: true }];
    bench.step(Event::Applied { job: apply.job, results, dirs: Vec::new() });
    bench.settle(&mut |at| match &at.name {
        None if is_root(at) => seen(ROOT_INO, "root", 0, 1),
        None => seen(DIR_INO, "d", OLD, 6),
        Some(called) if *called == keep.name => LookFound::Entry(kept.clone()),
        Some(_) => LookFound::Entry(now.clone()),
    });
    assert_eq!(bench.cloud(LINK).map(|node| node.content), Some(target("theirs")));
    let copies: Vec<_> = bench.sent.iter().filter(|op| matches!(op, Op::Create { .. })).collect();
    assert!(matches!(copies[..], [Op::Create { at, .. }] if at.name == keep.name), "{:?}", bench.sent);
}
