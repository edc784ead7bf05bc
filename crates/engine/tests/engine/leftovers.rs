//! What a process that was killed has left: applies that were carried out and not written down, offers whose answer was lost.

use polder_engine::{
    Announced, ApplyAct, ApplyResult, ApplyStep, Effect, Event, Kept, LookAt, LookFound, SeenEntry,
    Unreachable,
};
use polder_sync::{CloudNode, Offer, TreeStore};
use polder_types::{BatchNo, Content, NodeUid, Op, Seq, Stamp, Timestamp};

use crate::bench::{
    Bench, DIR, DIR_INO, LINK, LINK_INO, NEW, OLD, ROOT_INO, announce, at, attrs, cursor, gone, is_root,
    name, part, row, seen, seen_entry, seen_link, stamp, target,
};

/// An inode that nobody knows in the beginning.
const NEW_INO: u64 = 9;
/// A node of the share that has no row here.
const OTHER: NodeUid = NodeUid([9; 16]);

/// The time that the share has of `x`, and the one that somebody gave it.
const THEIRS: Timestamp = Timestamp { secs: 20, nanos: 0 };
const MINE: Timestamp = Timestamp { secs: 30, nanos: 0 };

fn is_called(at: &LookAt, called: &str) -> bool {
    at.name.as_ref() == Some(&name(called))
}

/// The symlink `x` as a cut-off apply has placed it, with the time that somebody has given it since.
fn placed() -> SeenEntry {
    let mut entry = seen_link(NEW_INO, "x", "to", 5);
    entry.seen.stamp = Stamp { mtime: MINE, ..stamp(NEW_INO, 5) };
    entry
}

/// An apply had placed a link when the process was killed, and the share has gone on. Somebody has set its time since. The update is on its
/// way when the connection is lost, and the link is looked at once more: its time is still somebody's.
#[test]
pub fn a_time_that_was_set_on_what_an_apply_has_left_is_sent() {
    let mut bench = Bench::with(Vec::new(), |store| {
        let hash = store.put_attrs(&attrs(OLD)).expect("maps");
        let place = at(NodeUid::ROOT, "x");
        let left = CloudNode { at: place, content: target("to"), attrs: hash, mtime: THEIRS, since: Seq(19) };
        store.put_superseded(OTHER, &left).expect("maps");
        let attrs = store.put_attrs(&attrs(NEW)).expect("maps");
        store.put_cloud(OTHER, Some(&CloudNode { attrs, since: Seq(20), ..left })).expect("maps");
    });
    let (walk, _) = bench.find_list().expect("a start leads to a walk");
    bench.listed(walk, vec![part(ROOT_INO, vec![placed()])]);
    let announced = bench.take(announce);
    bench.announced(announced);
    let page = bench.find_feed().expect("the feed is read");
    bench.answer_page(page);
    while let Some(job) = bench.find(|effect| match effect {
        Effect::MakeDurable { job } => Some(*job),
        _ => None,
    }) {
        bench.step(Event::MadeDurable { job });
    }
    bench.wait(10, 300);
    assert!(bench.find_send().is_some(), "the time is sent");
    bench.step(Event::Disconnected { why: Unreachable::Network("lost".into()) });
    bench.hint(ROOT_INO, Some("x"));
    bench.look(&mut |at| if is_root(at) { root() } else { LookFound::Entry(placed()) });
    bench.step(Event::Connected);
    bench.settle(&mut |at| if is_root(at) { root() } else { LookFound::Entry(placed()) });
    let sent = |op: &Op| matches!(op, Op::Update { uid: OTHER, mtime: Some(time), .. } if *time == MINE);
    assert!(bench.sent.iter().any(sent), "{:?}", bench.sent);
}

fn root() -> LookFound {
    seen(ROOT_INO, "root", 0, 1)
}

/// An apply had placed a link in a directory when the process was killed, and the share has deleted all. The feed is here before the walk comes
/// into the directory, so that the link's node waits for the walk while the link turns up: it is that node, and goes. Nothing is brought back.
#[test]
pub fn what_an_apply_has_left_is_known_while_its_node_waits() {
    const INNER: NodeUid = NodeUid([10; 16]);
    const INNER_INO: u64 = 10;
    let news = [OTHER, LINK, INNER, DIR].map(|uid| gone(uid, 21));
    let mut bench = Bench::with(news.into(), |store| {
        let inner = row(store, at(DIR, "i"), Content::Directory, INNER_INO);
        store.put_synced(INNER, Some(&inner)).expect("maps");
        let hash = store.put_attrs(&attrs(OLD)).expect("maps");
        let (at, content, mtime) = (at(INNER, "x"), target("to"), Timestamp::new(1, 0));
        store
            .put_cloud(OTHER, Some(&CloudNode { at, content, attrs: hash, mtime, since: Seq(20) }))
            .expect("maps");
    });
    let (walk, _) = bench.find_list().expect("a start leads to a walk");
    let announced = bench.take(announce);
    bench.announced(announced);
    let page = bench.find_feed().expect("the feed is read");
    bench.answer_page(page);
    let first = bench.find_apply().expect("all but the link is removed");
    let result = |step: &ApplyStep| match step.uid {
        INNER => ApplyResult::Refused { found: None },
        DIR => ApplyResult::Skipped,
        _ => ApplyResult::Done { now: None, other: None, exact: true },
    };
    let results: Vec<_> = first.steps.iter().map(result).collect();
    assert_eq!(results.len(), 3, "{first:?}");
    let x = || seen_link(NEW_INO, "x", "to", 5);
    bench.step(Event::Listed { job: walk, parts: vec![part(INNER_INO, vec![x()])] });
    bench.wait(2, 5);
    bench.step(Event::Applied { job: first.job, results, dirs: Vec::new() });
    let mut truth = |at: &LookAt| match () {
        () if is_root(at) => root(),
        () if is_called(at, "x") => LookFound::Entry(x()),
        () if is_called(at, "l") => LookFound::Nothing,
        () if at.dir.uid == INNER || is_called(at, "i") => seen(INNER_INO, "i", OLD, 1),
        () => seen(DIR_INO, "d", OLD, 1),
    };
    bench.look(&mut truth);
    bench.wait(2, 5);
    bench.step(Event::ListDone { job: walk, entry_count: 3, complete: true });
    bench.settle(&mut truth);
    assert!(bench.sent.is_empty(), "{:?}", bench.sent);
    let second = bench.find_apply().expect("the link is removed first");
    assert_eq!(second.steps.iter().map(|step| step.uid).collect::<Vec<_>>(), [OTHER]);
}

/// The share has deleted a directory, and has another one in its place. Both had been carried out when the process was killed: what stands
/// there is the other one, and not the deleted one anew.
#[test]
pub fn a_directory_that_an_apply_has_left_is_not_the_one_before() {
    let mut bench = Bench::with(Vec::new(), |store| {
        let hash = store.put_attrs(&attrs(OLD)).expect("maps");
        let made = CloudNode {
            at: at(NodeUid::ROOT, "d"),
            content: Content::Directory,
            attrs: hash,
            mtime: Timestamp::new(1, 0),
            since: Seq(20),
        };
        store.put_cloud(LINK, None).expect("maps");
        store.put_cloud(DIR, None).expect("maps");
        store.put_cloud(OTHER, Some(&made)).expect("maps");
    });
    let (walk, _) = bench.find_list().expect("a start leads to a walk");
    let made = seen_entry(NEW_INO, "d", OLD, 5);
    bench.listed(walk, vec![part(ROOT_INO, vec![made.clone()]), part(NEW_INO, Vec::new())]);
    bench.settle(&mut |at| match () {
        () if is_root(at) => root(),
        () if is_called(at, "d") || at.name.is_none() => LookFound::Entry(made.clone()),
        () => LookFound::Nothing,
    });
    assert!(bench.find_apply().is_none(), "{:?}", bench.engine);
    assert!(bench.is_in_sync(), "{:?}", bench.engine);
    assert!(bench.sent.is_empty(), "{:?}", bench.sent);
    assert!(bench.store.synced(OTHER).expect("maps").is_some());
}

/// The opening after a kill, before the feed was read: the offer was taken as this version.
fn opens(bench: &mut Bench, since: u64) {
    let job = bench.take(announce);
    let answers = vec![Kept { batch: BatchNo(1), accepted: vec![Some(Seq(since))] }];
    let answer = Announced::Accepted { head: cursor(bench.head), answers, answers_known: true, held: false };
    bench.step(Event::Announced { job, answer });
}

/// A new directory was offered when the process was killed, and the walk of the next life has seen it before it is known that the share has
/// taken it: it is one directory, and nothing is sent.
#[test]
pub fn what_was_offered_and_is_seen_anew_is_one_node() {
    let mut bench = Bench::with(Vec::new(), |store| {
        let becomes = Some(row(store, at(NodeUid::ROOT, "x"), Content::Directory, NEW_INO));
        let offer = Offer { uid: OTHER, batch: BatchNo(1), group: 0, op: 0, becomes };
        store.put_offer(&offer).expect("maps");
    });
    let (walk, _) = bench.find_list().expect("a start leads to a walk");
    let made = seen_entry(NEW_INO, "x", OLD, 1);
    bench.listed(walk, vec![part(ROOT_INO, vec![made.clone()]), part(NEW_INO, Vec::new())]);
    opens(&mut bench, 21);
    bench.settle(&mut |at| if is_root(at) { root() } else { LookFound::Entry(made.clone()) });
    assert!(bench.sent.is_empty(), "{:?}", bench.sent);
    assert!(bench.store.synced(OTHER).expect("maps").is_some() && bench.is_in_sync());
}

/// A rename was offered while somebody else changed where the link leads. The feed has told of both in one when the process is killed: what
/// the opening tells of the rename takes nothing of the other change back, of which nobody would tell again.
#[test]
pub fn what_the_feed_has_told_of_an_offer_stays() {
    let mut bench = Bench::with(Vec::new(), |store| {
        let renamed = row(store, at(DIR, "m"), target("to"), LINK_INO);
        let becomes = Some(renamed.clone());
        store.put_offer(&Offer { uid: LINK, batch: BatchNo(1), group: 0, op: 0, becomes }).expect("maps");
        let told = CloudNode { content: target("theirs"), since: Seq(21), ..CloudNode::from(&renamed) };
        store.put_cloud(LINK, Some(&told)).expect("maps");
        store.put_cursor(cursor(Seq(21))).expect("maps");
    });
    let (walk, _) = bench.find_list().expect("a start leads to a walk");
    let moved = seen_link(LINK_INO, "m", "to", 1);
    bench.listed(walk, vec![part(DIR_INO, vec![moved.clone()])]);
    opens(&mut bench, 21);
    bench.settle(&mut |at| match () {
        () if is_root(at) => root(),
        () if is_called(at, "m") => LookFound::Entry(moved.clone()),
        () if at.name.is_none() => seen(DIR_INO, "d", OLD, 1),
        () => LookFound::Nothing,
    });
    let apply = bench.find_apply().expect("the other change is applied");
    let brings =
        |act: &ApplyAct| matches!(act, ApplyAct::Replace { content, .. } if *content == target("theirs"));
    assert!(brings(&apply.steps[0].act), "{apply:?}");
}

/// A new link was offered when the process was killed, and somebody has put a directory in its place before the next one looked. The answer
/// says that the link was taken: it stands nowhere, and the directory keeps its name.
#[test]
pub fn what_was_offered_does_not_stand_where_somebody_else_was_seen() {
    let mut bench = Bench::with(Vec::new(), |store| {
        let becomes = Some(row(store, at(NodeUid::ROOT, "x"), target("to"), 30));
        let offer = Offer { uid: OTHER, batch: BatchNo(1), group: 0, op: 0, becomes };
        store.put_offer(&offer).expect("maps");
    });
    let (walk, _) = bench.find_list().expect("a start leads to a walk");
    let made = seen_entry(NEW_INO, "x", OLD, 5);
    bench.listed(walk, vec![part(ROOT_INO, vec![made.clone()]), part(NEW_INO, Vec::new())]);
    opens(&mut bench, 21);
    // The feed is here before anybody has looked again.
    let page = bench.find_feed().expect("the feed is read");
    bench.answer_page(page);
    bench.settle(&mut |at| match () {
        () if is_root(at) => root(),
        () if is_called(at, "x") || at.name.is_none() => LookFound::Entry(made.clone()),
        () => LookFound::Nothing,
    });
    assert!(bench.find_apply().is_none(), "{:?}", bench.engine);
    let made = bench.sent.iter().filter_map(|op| match op {
        Op::Create { at, .. } => Some(at.name.clone()),
        _ => None,
    });
    assert_eq!(made.collect::<Vec<_>>(), [name("x")], "{:?}", bench.sent);
    let deleted = |op: &Op| matches!(op, Op::Delete { uid: OTHER, .. });
    assert!(bench.sent.iter().any(deleted), "{:?}", bench.sent);
    assert_eq!(bench.sent.len(), 2, "{:?}", bench.sent);
}
