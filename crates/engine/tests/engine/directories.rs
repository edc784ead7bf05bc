//! Changes of a directory's own attributes that come while something else happens to it: none is missed, none is undone.
//! And what is written down of one that both sides have.

use polder_engine::{ApplyResult, Effect, Engine, Event, FeedRow, LookAt, LookFound, SeenDir, Settings};
use polder_sync::TreeStore;
use polder_types::{Content, InstanceId, NodeState, NodeUid, Placed, Seq, Timestamp};

use crate::bench::{
    Bench, DIR, DIR_INO, LINK_INO, NEW, OLD, ROOT_INO, attrs, is_root, link_gone, name, seen, seen_link,
    stamp,
};

/// Somebody changes the mode of a directory while something is applied in it. The stamp that the directory has afterwards
/// covers that change too; it was taken for our own.
#[test]
pub fn a_mode_that_changes_during_an_apply_is_seen() {
    let mut bench = Bench::at_rest(vec![link_gone()]);
    let job = bench.take_removal();
    let results = vec![ApplyResult::Done { now: None, other: None, exact: true }];
    let dirs = vec![SeenDir { stamp: stamp(DIR_INO, 5), attrs: attrs(NEW).into() }];
    bench.step(Event::Applied { job, results, dirs });
    // The hint comes after that, and finds the stamp that is known.
    bench.hint(DIR_INO, None);
    bench.settle(&mut |_| seen(DIR_INO, "d", NEW, 5));
    assert_eq!(bench.mode_in_share("d"), Some(NEW));
}

/// A directory is looked at by its name and by itself. The answer that was begun first comes last.
#[test]
pub fn an_older_look_does_not_undo_a_younger_one() {
    let mut bench = Bench::at_rest(Vec::new());
    bench.hint(ROOT_INO, Some("d"));
    let by_name = bench.take_look();
    bench.hint(DIR_INO, None);
    let itself = bench.take_look();
    bench.looked(itself, seen(DIR_INO, "d", NEW, 5));
    bench.looked(by_name, seen(DIR_INO, "d", OLD, 1));
    bench.settle(&mut |_| seen(DIR_INO, "d", NEW, 5));
    assert_eq!(bench.mode_in_share("d"), Some(NEW));
}

/// `mkdir`, and `chmod` after the directory was looked at and before that was told: the watcher names a directory that
/// nobody knows yet.
#[test]
pub fn a_mode_that_changes_before_the_directory_is_known_is_seen() {
    const NEW_INO: u64 = 9;
    let mut bench = Bench::at_rest(Vec::new());
    bench.hint(ROOT_INO, Some("x"));
    let look = bench.take_look();
    bench.hint(NEW_INO, None);
    bench.looked(look, seen(NEW_INO, "x", OLD, 1));
    bench.settle(&mut |at| match is_root(at) {
        true => seen(ROOT_INO, "root", 0, 1),
        false => seen(NEW_INO, "x", NEW, 5),
    });
    assert_eq!(bench.mode_in_share("x"), Some(NEW));
}

/// The mode changes after the apply has looked at the directory, and a look tells so before the apply is told to be done.
#[test]
pub fn what_an_apply_saw_does_not_undo_a_younger_look() {
    let mut bench = Bench::at_rest(vec![link_gone()]);
    let job = bench.take_removal();
    bench.hint(DIR_INO, None);
    let look = bench.take_look();
    bench.looked(look, seen(DIR_INO, "d", NEW, 5));
    let results = vec![ApplyResult::Done { now: None, other: None, exact: true }];
    let dirs = vec![SeenDir { stamp: stamp(DIR_INO, 3), attrs: attrs(OLD).into() }];
    bench.step(Event::Applied { job, results, dirs });
    bench.settle(&mut |_| seen(DIR_INO, "d", NEW, 5));
    assert_eq!(bench.mode_in_share("d"), Some(NEW));
}

/// Two changes within one tick of a coarse clock: the stamp is the one that is known.
#[test]
pub fn a_mode_that_changes_within_a_tick_is_seen() {
    let mut bench = Bench::at_rest(Vec::new());
    bench.hint(DIR_INO, None);
    bench.settle(&mut |_| seen(DIR_INO, "d", NEW, 1));
    assert_eq!(bench.mode_in_share("d"), Some(NEW));
}

/// Hints were lost while a look was in flight that was made before what they told of: no other hint comes.
#[test]
pub fn after_lost_hints_an_older_look_says_nothing() {
    let mut bench = Bench::at_rest(Vec::new());
    bench.hint(ROOT_INO, Some("d"));
    let look = bench.take_look();
    bench.step(Event::Overflow);
    bench.looked(look, seen(DIR_INO, "d", OLD, 1));
    bench.settle(&mut |at| match at.name {
        None => seen(ROOT_INO, "root", 0, 1),
        Some(_) => seen(DIR_INO, "d", NEW, 5),
    });
    assert_eq!(bench.mode_in_share("d"), Some(NEW));
}

/// Permissions of the root that were changed while nobody watched: it stands in no directory that a walk would list.
#[test]
pub fn a_mode_of_the_root_from_before_the_start_is_seen() {
    let mut bench = Bench::at_rest(Vec::new());
    bench.engine = Engine::new(Settings::new("here"), [4; 32]);
    bench.start(NEW, 5);
    bench.settle_root(NEW, 5);
    let root = bench.store.cloud(NodeUid::ROOT).expect("maps").expect("the share has a root");
    let mode = bench.store.attrs(root.attrs).expect("maps").map(|attrs| attrs.mode);
    assert_eq!(mode, Some(NEW));
}

/// What a removal has put back because somebody wrote to it may have got another name, and nobody else tells of it.
#[test]
pub fn what_is_put_back_under_another_name_is_looked_at() {
    let mut bench = Bench::at_rest(vec![link_gone()]);
    let job = bench.take_removal();
    let LookFound::Entry(found) = seen(LINK_INO, "l-here", OLD, 5) else { unreachable!("it is one") };
    bench.step(Event::Applied {
        job,
        results: vec![ApplyResult::Refused { found: Some(found) }],
        dirs: Vec::new(),
    });
    let mut looked = Vec::new();
    while let Some(effect) = bench.effects.pop_front() {
        if let Effect::Look { places, .. } = effect {
            looked.extend(places.into_iter().filter_map(|at| at.name));
        }
    }
    assert!(looked.contains(&name("l")) && looked.contains(&name("l-here")), "{looked:?}");
}

/// An agent that was killed had just made a directory; nothing of that is durable. The next life finds it there, as the share
/// has it. A row that says so before it is durable makes a deletion of its loss.
#[test]
pub fn what_both_sides_turn_out_to_have_is_made_durable_before_it_is_written_down() {
    const MADE: NodeUid = NodeUid([9; 16]);
    const MADE_INO: u64 = 9;
    let row = FeedRow::Live(Box::new(NodeState {
        uid: MADE,
        at: Placed { parent: NodeUid::ROOT, name: name("x") },
        mtime: Timestamp::new(1, 0),
        attrs: attrs(OLD),
        content: Content::Directory,
        since: Seq(21),
        by: InstanceId([2; 16]),
    }));
    let mut bench = Bench::new(vec![row]);
    bench.holds_flushes = true;
    bench.hint(ROOT_INO, Some("x"));
    let mut root_or_made = |at: &LookAt| match is_root(at) {
        true => seen(ROOT_INO, "root", 0, 1),
        false => seen(MADE_INO, "x", OLD, 1),
    };
    bench.settle(&mut root_or_made);
    let is_known = |bench: &Bench| bench.store.synced(MADE).expect("maps").is_some();
    let job = bench.take(|effect| match effect {
        Effect::MakeDurable { job } => Some(*job),
        _ => None,
    });
    assert!(!is_known(&bench));
    bench.step(Event::MadeDurable { job });
    bench.settle(&mut root_or_made);
    assert!(is_known(&bench));
    assert!(bench.effects.is_empty(), "{:?}", bench.effects);
}

/// A directory in which something was written at a second: it changed, and its time moved.
fn written(changed: i64) -> LookFound {
    let LookFound::Entry(mut entry) = seen(DIR_INO, "d", OLD, changed) else { unreachable!("it is one") };
    entry.seen.stamp.mtime = Timestamp::new(changed, 0);
    LookFound::Entry(entry)
}

fn time_in_share(bench: &Bench) -> Timestamp {
    bench.store.cloud(DIR).expect("maps").expect("the share has it").mtime
}

/// A program saves by a rename over the old file: the name stands where it stood, and the directory was written.
#[test]
pub fn a_save_by_rename_moves_the_time_of_its_directory() {
    let mut bench = Bench::at_rest(Vec::new());
    bench.hint(DIR_INO, Some("l"));
    bench.settle(&mut |at| match &at.name {
        Some(_) => LookFound::Entry(seen_link(9, "l", "elsewhere", 5)),
        None => written(5),
    });
    assert_eq!(time_in_share(&bench), Timestamp::new(5, 0));
}

/// A file came and went before anybody looked, as lock files of editors do.
#[test]
pub fn what_came_and_went_moves_the_time_of_its_directory() {
    let mut bench = Bench::at_rest(Vec::new());
    bench.hint(DIR_INO, Some("lock"));
    bench.settle(&mut |at| match &at.name {
        Some(_) => LookFound::Nothing,
        None => written(5),
    });
    assert_eq!(time_in_share(&bench), Timestamp::new(5, 0));
}
