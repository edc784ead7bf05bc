//! What was seen on the disk, in orders in which a change can be missed, undone or taken for another one.

use polder_engine::{
    ApplyAct, ApplyResult, Effect, Event, ListEnd, ListPart, LookAt, LookFound, ReadOutcome, SeenEntry,
    Unreachable,
};
use polder_sync::{Seen, TreeStore};
use polder_types::{Body, Content, Extent, ExtentSource, Kind, NodeUid, Op, Seq, Stamp, Timestamp};

use crate::bench::{
    Bench, DIR, DIR_INO, LINK, LINK_INO, NEW, OLD, ROOT_INO, announce, at, attrs, ident, is_root, link_gone,
    live_row, name, part, row, seen, seen_entry, seen_link, stamp, target,
};

/// An inode that nobody knows in the beginning.
const NEW_INO: u64 = 9;
/// A node that only the share has, or that a test adds.
const OTHER: NodeUid = NodeUid([9; 16]);

fn offline() -> Event {
    Event::Disconnected { why: Unreachable::Network("lost".into()) }
}

/// The root as it always was, and for every other name what is given.
fn all(found: impl Fn(&LookAt) -> LookFound) -> impl FnMut(&LookAt) -> LookFound {
    move |at| if is_root(at) { seen(ROOT_INO, "root", 0, 1) } else { found(at) }
}

fn is_called(at: &LookAt, called: &str) -> bool {
    at.name.as_ref() == Some(&name(called))
}

fn creates(bench: &Bench, called: &str) -> bool {
    bench.sent.iter().any(|op| matches!(op, Op::Create { at, .. } if at.name == name(called)))
}

fn deletes(bench: &Bench) -> bool {
    bench.sent.iter().any(|op| matches!(op, Op::Delete { .. }))
}

/// Two answers about one name may come in any order: the second look waits for the first.
#[test]
pub fn a_name_is_looked_at_once_at_a_time() {
    let mut bench = Bench::at_rest(Vec::new());
    bench.hint(ROOT_INO, Some("d"));
    let first = bench.take_look();
    bench.hint(ROOT_INO, Some("d"));
    assert!(bench.find_look().is_none(), "two looks at one name are in flight");
    bench.looked(first, seen(DIR_INO, "d", OLD, 1));
    let second = bench.take_look();
    bench.looked(second, seen(DIR_INO, "d", NEW, 5));
    bench.settle(&mut all(|_| seen(DIR_INO, "d", NEW, 5)));
    assert_eq!(bench.mode_in_share("d"), Some(NEW));
}

/// A walk has passed a new directory before a file was made in it; the hint about the file comes before the walk's word of the
/// directory.
#[test]
pub fn a_hint_about_what_a_walk_has_not_told_yet_is_kept() {
    let mut bench = Bench::new(Vec::new());
    let (walk, _) = bench.find_list().expect("a start leads to a walk");
    bench.hint(NEW_INO, Some("f"));
    let made = seen_entry(NEW_INO, "x", OLD, 1);
    bench.listed(walk, vec![part(ROOT_INO, vec![made]), part(NEW_INO, Vec::new())]);
    let (_, dir) = bench.find_list().expect("the directory is listed once more");
    assert_eq!(dir.ident, Some(ident(NEW_INO)));
}

/// A directory changed while a walk read it: what the walk has passed over it may hold.
#[test]
pub fn a_listing_of_a_directory_that_changed_is_made_again() {
    let mut bench = Bench::new(Vec::new());
    let (walk, _) = bench.find_list().expect("a start leads to a walk");
    let changed = ListPart {
        dir: ident(DIR_INO),
        rows: Some(DIR),
        differ: Vec::new(),
        missing: vec![LINK],
        end: Some(ListEnd::Void),
    };
    bench.listed(walk, vec![part(ROOT_INO, Vec::new()), changed]);
    let (_, dir) = bench.find_list().expect("the directory is listed once more");
    assert_eq!(dir.uid, DIR);
    assert!(bench.find_look().is_none_or(|(_, places)| places.iter().all(is_root)), "absences are believed");
}

/// A mode is changed, and changed back; the hint of the second change is lost. A walk finds what the row says and tells
/// nothing.
#[test]
pub fn what_differs_is_looked_at_when_a_walk_begins() {
    let mut bench = Bench::at_rest(Vec::new());
    bench.step(offline());
    bench.hint(DIR_INO, None);
    bench.look(&mut |_| seen(DIR_INO, "d", NEW, 5));
    bench.step(Event::Overflow);
    bench.step(Event::Connected);
    bench.settle(&mut all(|_| seen(DIR_INO, "d", OLD, 6)));
    assert!(bench.sent.is_empty(), "{:?}", bench.sent);
}

/// A file is renamed in a directory, which is moved away before anybody looks again, and the file is renamed back there. The
/// walk finds the file as its row says and tells nothing: it must not count as gone.
#[test]
pub fn what_was_gone_with_a_directory_is_back_with_it() {
    let mut bench = Bench::at_rest(Vec::new());
    bench.step(offline());
    bench.hints(&[(DIR_INO, Some("l")), (DIR_INO, Some("m"))]);
    bench.look(&mut |at| match is_called(at, "m") {
        true => LookFound::Entry(seen_link(LINK_INO, "m", "to", 5)),
        false => LookFound::Nothing,
    });
    bench.hint(ROOT_INO, Some("d"));
    bench.look(&mut |_| LookFound::Nothing);
    bench.hint(ROOT_INO, Some("e"));
    bench.look(&mut |_| seen(DIR_INO, "e", OLD, 5));
    bench.step(Event::Connected);
    bench.settle(&mut all(|at| match () {
        () if is_called(at, "l") => LookFound::Entry(seen_link(LINK_INO, "l", "to", 1)),
        () if is_called(at, "e") || at.name.is_none() => seen(DIR_INO, "e", OLD, 5),
        () => LookFound::Nothing,
    }));
    assert!(matches!(bench.sent.as_slice(), [Op::Move { uid: DIR, .. }]), "{:?}", bench.sent);
}

/// A new directory turns out to be one of the share, below which rows have stayed that nobody has compared with it.
#[test]
pub fn a_directory_that_is_adopted_is_compared_with_its_rows() {
    const INSIDE: NodeUid = NodeUid([10; 16]);
    let mut bench =
        Bench::with(vec![live_row(OTHER, at(NodeUid::ROOT, "x"), Content::Directory, 21)], |store| {
            let inside = row(store, at(OTHER, "f"), target("to"), 10);
            store.put_synced(INSIDE, Some(&inside)).expect("maps");
        });
    bench.hint(ROOT_INO, Some("x"));
    let (walk, _) = bench.find_list().expect("a start leads to a walk");
    bench.look(&mut all(|_| seen(NEW_INO, "x", OLD, 1)));
    bench.listed(walk, Vec::new());
    let mut listed = Vec::new();
    while let Some((job, dir)) = bench.find_list() {
        listed.push(dir.uid);
        bench.listed(job, Vec::new());
    }
    assert!(!listed.contains(&OTHER), "it is not adopted yet");
    let announced = bench.take(|effect| match effect {
        Effect::Announce { job, .. } => Some(*job),
        _ => None,
    });
    bench.announced(announced);
    let page = bench.find_feed().expect("the feed is read");
    bench.answer_page(page);
    bench.wait(1, 1);
    let (_, dir) = bench.find_list().expect("it is listed under its new id");
    assert_eq!(dir.uid, OTHER);
}

/// A directory has no row any more (a set-back, and a kill), and before anybody has seen that one stands in its place, a link in it is renamed
/// in the share. Where the link is nobody can say: it counts as gone, until the directory is known again.
#[test]
pub fn what_is_in_a_directory_is_there_again_when_that_is_adopted() {
    const INSIDE: NodeUid = NodeUid([10; 16]);
    let news = vec![
        live_row(OTHER, at(NodeUid::ROOT, "x"), Content::Directory, 21),
        live_row(INSIDE, at(OTHER, "g"), target("to"), 22),
    ];
    let mut bench = Bench::with(news, |store| {
        let inside = row(store, at(OTHER, "f"), target("to"), 10);
        store.put_synced(INSIDE, Some(&inside)).expect("maps");
    });
    let (walk, _) = bench.find_list().expect("a start leads to a walk");
    let announced = bench.take(announce);
    bench.announced(announced);
    let page = bench.find_feed().expect("the feed is read");
    bench.answer_page(page);
    bench.wait(2, 10);
    let making = bench.find_apply().expect("it is to be made");
    let results = vec![ApplyResult::Refused { found: Some(seen_entry(NEW_INO, "x", OLD, 1)) }];
    bench.step(Event::Applied { job: making.job, results, dirs: Vec::new() });
    let mut truth = all(|at| match is_called(at, "f") {
        true => LookFound::Entry(seen_link(10, "f", "to", 1)),
        false => seen(NEW_INO, "x", OLD, 1),
    });
    bench.look(&mut truth);
    bench.listed(walk, Vec::new());
    bench.settle(&mut truth);
    let mut acts = Vec::new();
    while let Some(apply) = bench.find_apply() {
        acts.extend(apply.steps.into_iter().filter(|step| step.uid == INSIDE).map(|step| step.act));
    }
    assert!(matches!(acts[..], [ApplyAct::Move { .. }]), "{acts:?}");
}

/// When a walk came by, the identity of a directory was another node's or nobody's by the rows, and by now it is known. What was missing in it
/// was not told: it is listed for itself. After that nothing is to be asked again.
#[test]
pub fn what_a_walk_compared_with_other_rows_is_listed_for_itself() {
    for rows in [None, Some(OTHER), Some(DIR)] {
        let mut bench = Bench::new(Vec::new());
        let (walk, _) = bench.find_list().expect("a start leads to a walk");
        let part = |rows| ListPart { rows, ..part(DIR_INO, Vec::new()) };
        bench.listed(walk, vec![part(rows)]);
        let again = bench.find_list();
        assert_eq!(again.is_some(), rows != Some(DIR), "{rows:?}");
        if let Some((own, dir)) = again {
            assert_eq!(dir.uid, DIR);
            bench.listed(own, vec![part(Some(DIR))]);
            assert!(bench.find_list().is_none());
        }
    }
}

/// A new directory is adopted by one of the share while a look into it is in flight and another one waits for that.
#[test]
pub fn looks_follow_a_directory_that_gets_another_id() {
    let mut bench = Bench::new(vec![live_row(OTHER, at(NodeUid::ROOT, "x"), Content::Directory, 21)]);
    bench.hint(ROOT_INO, Some("x"));
    bench.look(&mut all(|_| seen(NEW_INO, "x", OLD, 1)));
    bench.hint(NEW_INO, Some("f"));
    let first = bench.take_look();
    bench.hint(NEW_INO, Some("f"));
    let mut truth = all(|at| match () {
        () if is_called(at, "f") => LookFound::Entry(seen_link(10, "f", "to", 5)),
        () => seen(NEW_INO, "x", OLD, 1),
    });
    bench.settle(&mut truth);
    // Begun before the file was made.
    bench.looked(first, LookFound::Nothing);
    bench.settle(&mut truth);
    assert!(creates(&bench, "f"), "{:?}", bench.sent);
}

/// A hint about the inside of a directory that was seen to be gone, and that a walk is about to tell of elsewhere.
#[test]
pub fn a_look_whose_directory_is_not_there_is_made_later() {
    let mut bench = Bench::at_rest(Vec::new());
    bench.step(offline());
    bench.hint(ROOT_INO, Some("d"));
    bench.look(&mut |_| LookFound::Nothing);
    bench.step(Event::Overflow);
    let (walk, _) = bench.find_list().expect("lost hints lead to a walk");
    bench.hint(DIR_INO, Some("f"));
    // The walk was in the directory before the file was.
    let moved = seen_entry(DIR_INO, "e", OLD, 5);
    bench.listed(walk, vec![part(ROOT_INO, vec![moved]), part(DIR_INO, Vec::new())]);
    bench.step(Event::Connected);
    bench.settle(&mut all(|at| match () {
        () if is_called(at, "f") => LookFound::Entry(seen_link(10, "f", "to", 5)),
        () if is_called(at, "d") => LookFound::Nothing,
        () => seen(DIR_INO, "e", OLD, 5),
    }));
    assert!(creates(&bench, "f"), "{:?}", bench.sent);
}

/// Something new is offered, moved into a directory, and goes with that, all before the answer comes: the share hears of it.
#[test]
pub fn what_goes_with_its_directory_while_it_is_offered_is_gone() {
    let link = || LookFound::Entry(seen_link(NEW_INO, "f", "to", 5));
    let mut bench = Bench::at_rest(Vec::new());
    bench.hint(ROOT_INO, Some("f"));
    bench.look(&mut |_| link());
    bench.wait(2, 10);
    let (job, _, groups) = bench.find_send().expect("it is offered");
    bench.hints(&[(ROOT_INO, Some("f")), (DIR_INO, Some("f"))]);
    bench.look(&mut |at| if at.dir.uid == DIR { link() } else { LookFound::Nothing });
    bench.hint(ROOT_INO, Some("d"));
    bench.look(&mut |_| LookFound::Nothing);
    bench.accept(job, &groups);
    bench.settle(&mut all(|_| LookFound::Nothing));
    assert!(creates(&bench, "f") && bench.is_in_sync(), "{:?}", bench.sent);
    assert_eq!(bench.cloud(groups[0].ops[0].uid()), None, "{:?}", bench.sent);
}

/// Two files exchange their names: both move, and nothing is read or sent anew.
#[test]
pub fn a_swap_is_two_moves() {
    swap(&[(DIR_INO, Some("k")), (DIR_INO, Some("l"))]);
}

/// A walk tells of one directory at a time, and hints come when they like: of one of the two that is enough.
#[test]
pub fn a_swap_that_is_seen_by_halves_is_two_moves() {
    swap(&[(DIR_INO, Some("k"))]);
}

fn swap(hints: &[(u64, Option<&str>)]) {
    let mut bench = Bench::with(Vec::new(), |store| {
        let other = row(store, at(DIR, "k"), target("fro"), 4);
        store.put_synced(OTHER, Some(&other)).expect("maps");
    });
    bench.settle_root(0, 1);
    bench.hints(hints);
    bench.settle(&mut all(|at| match () {
        () if is_called(at, "k") => LookFound::Entry(seen_link(LINK_INO, "k", "to", 5)),
        () if is_called(at, "l") => LookFound::Entry(seen_link(4, "l", "fro", 5)),
        () => seen(DIR_INO, "d", OLD, 5),
    }));
    assert!(!bench.sent.is_empty());
    assert!(bench.sent.iter().all(|op| matches!(op, Op::Move { .. })), "{:?}", bench.sent);
}

fn bytes(len: u64) -> Content {
    Content::File { size: len, body: Body::Inline(vec![Extent { len, source: ExtentSource::Hole }]) }
}

fn seen_file(called: &str, changed: i64) -> SeenEntry {
    let stamp = Stamp { mtime: Timestamp::new(3, 0), size: 30, ..stamp(5, changed) };
    let seen = Seen { name: name(called), kind: Some(Kind::File), stamp, links: 1 };
    SeenEntry { seen, attrs: attrs(OLD).into(), target: None, stands_for: None }
}

/// A file is renamed while it is read: what was read stands where the file is now, not where it was.
#[test]
pub fn a_file_that_moves_while_it_is_read_stands_where_it_went() {
    let mut bench = Bench::with(Vec::new(), |store| {
        let file = row(store, at(NodeUid::ROOT, "f"), bytes(20), 5);
        store.put_synced(OTHER, Some(&file)).expect("maps");
    });
    bench.settle_root(0, 1);
    bench.hint(ROOT_INO, Some("f"));
    bench.settle(&mut all(|_| LookFound::Entry(seen_file("f", 5))));
    let read = |effect: &Effect| match effect {
        Effect::Read(read) => Some(read.job),
        _ => None,
    };
    let job = bench.take(read);
    let mut truth = all(|at| match () {
        () if is_called(at, "g") => LookFound::Entry(seen_file("g", 6)),
        () => LookFound::Nothing,
    });
    bench.hints(&[(ROOT_INO, Some("f")), (ROOT_INO, Some("g"))]);
    bench.look(&mut truth);
    let stable = |called, changed| ReadOutcome::Stable {
        entry: seen_file(called, changed),
        content: bytes(30),
        stored: true,
    };
    bench.step(Event::Read { job, outcome: stable("f", 5) });
    bench.settle(&mut truth);
    if let Some(job) = bench.find(read) {
        bench.step(Event::Read { job, outcome: stable("g", 6) });
        bench.settle(&mut truth);
    }
    assert!(!deletes(&bench), "{:?}", bench.sent);
    let node = bench.cloud(OTHER).expect("it lives");
    assert_eq!((node.at, node.content), (at(NodeUid::ROOT, "g"), bytes(30)));
}

/// An apply in a directory moves its time, and sets it back in the end. A look meanwhile tells of nobody's edit, however long
/// the next look takes.
#[test]
pub fn the_time_that_an_apply_moves_is_nobodys_edit() {
    let mut bench = Bench::at_rest(vec![link_gone()]);
    let job = bench.take_removal();
    bench.hint(DIR_INO, None);
    let mut moved = seen_entry(DIR_INO, "d", OLD, 5);
    moved.seen.stamp.mtime = Timestamp::new(50, 0);
    bench.look(&mut |_| LookFound::Entry(moved.clone()));
    let results = vec![polder_engine::ApplyResult::Done { now: None, other: None, exact: true }];
    let dirs = vec![polder_engine::SeenDir { stamp: stamp(DIR_INO, 6), attrs: attrs(OLD).into() }];
    bench.step(Event::Applied { job, results, dirs });
    for _ in 0..10 {
        bench.wait(1, 1_000);
        assert!(bench.find_send().is_none(), "the time is sent");
    }
    assert_eq!(bench.store.synced(DIR).expect("maps").map(|row| row.since), Some(Seq(20)));
}

/// A rename that is seen in two steps: the old name is empty before the new one is known. It waits, and is a rename.
#[test]
pub fn a_rename_that_is_seen_in_two_steps_is_a_rename() {
    let mut bench = Bench::at_rest(Vec::new());
    bench.hint(DIR_INO, Some("l"));
    bench.look(&mut |_| LookFound::Nothing);
    bench.wait(5, 100);
    let mut truth = all(|at| match () {
        () if is_called(at, "m") => LookFound::Entry(seen_link(LINK_INO, "m", "to", 5)),
        () if is_called(at, "l") => LookFound::Nothing,
        () => seen(DIR_INO, "d", OLD, 5),
    });
    bench.hint(DIR_INO, Some("m"));
    bench.look(&mut truth);
    bench.settle(&mut truth);
    assert!(matches!(bench.sent.as_slice(), [Op::Move { uid: LINK, .. }]), "{:?}", bench.sent);
}

/// A directory is removed with two names of one file in it, before anybody has looked. Each name leads to the other one, and
/// neither can be looked at.
#[test]
pub fn names_of_one_file_that_are_gone_with_their_directory_are_not_looked_at_for_ever() {
    let mut bench = Bench::with(Vec::new(), |store| {
        for (uid, called) in [(OTHER, "f"), (NodeUid([10; 16]), "g")] {
            let file = row(store, at(DIR, called), bytes(20), 5);
            store.put_synced(uid, Some(&file)).expect("maps");
        }
    });
    bench.settle_root(0, 1);
    bench.hints(&[(DIR_INO, Some("f")), (DIR_INO, Some("g")), (ROOT_INO, Some("d"))]);
    let mut truth = all(|at| match () {
        () if at.dir.ident == Some(ident(DIR_INO)) => LookFound::DirGone,
        () => LookFound::Nothing,
    });
    bench.look(&mut truth);
    bench.settle(&mut truth);
    assert_eq!(bench.sent.len(), 4, "{:?}", bench.sent);
    assert!(bench.is_in_sync());
}
