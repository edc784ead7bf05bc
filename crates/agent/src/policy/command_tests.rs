//! Tiering by hand, on the volume without a disk.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use polder_api::control::{Answer, FileResidency, FileRow, Moved};
use polder_tiering::{Glob, Heat, Lane, Stays};
use polder_types::RelPath;

use super::clock::Clock;
use super::command::{Chosen, Deed, Order, carry_out, list};
use super::fake::{DAY, GIB, NOW, World, node};

fn path(text: &str) -> RelPath {
    RelPath::parse(text.as_bytes()).expect("a path")
}

fn chosen(world: &World, endpoint: usize, below: &[&str]) -> Chosen {
    let below = below.iter().map(|text| path(text)).collect();
    Chosen { seat: world.seats[endpoint].clone(), root: b"/srv/a".to_vec(), below }
}

fn order<'a>(world: &'a World, by_heat: bool) -> Order<'a> {
    Order { glob: None, by_heat, threads: 1, clock: &*world.disk as &dyn Clock }
}

/// Carries a command out; what came of it, and the rows of what stayed, as number and verdict.
fn run(deed: Deed, one: Chosen, order: &Order<'_>) -> (Moved, Vec<(String, String)>) {
    let mut rows = Vec::new();
    let mut say = |answer: Answer| {
        if let Answer::File(FileRow { path, verdict, .. }) = answer {
            rows.push((path.to_string(), verdict));
        }
        true
    };
    let moved = carry_out(deed, &[one], order, &mut say).expect("the volume answers");
    (moved, rows)
}

fn world() -> World {
    let world = World::new(100, &[&[(GIB, 30), (GIB, 20), (GIB, 10), (4096, 5)]]);
    world.set(0, 20, |_| ());
    world
}

#[test]
fn tiering_by_hand_says_what_stays() {
    let world = world();
    world.ports[0].change(2, |file| file.says = Some(Ok(Stays::InUse)));
    *world.ports[0].pins.lock().unwrap() = vec![path("d/3")];
    let (moved, mut rows) = run(Deed::Tier, chosen(&world, 0, &[""]), &order(&world, false));
    assert_eq!(world.ports[0].local(), [2, 3, 4]);
    assert_eq!((moved.files, moved.files_done, moved.files_failed, moved.bytes_done), (4, 4, 3, GIB));
    rows.sort();
    let told: Vec<_> = rows.iter().map(|(path, why)| (path.as_str(), why.as_str())).collect();
    assert_eq!(told, [("/srv/a/d/2", "in_use"), ("/srv/a/d/3", "pinned"), ("/srv/a/d/4", "too_small")]);
    assert_eq!(world.ports[0].take_asked(), [1, 2], "the others are not even asked");
}

#[test]
fn only_what_is_named_and_matches_leaves() {
    let world = world();
    let one = Glob::parse(b"1").expect("a pattern");
    let narrow = Order { glob: Some(&one), ..order(&world, true) };
    run(Deed::Tier, chosen(&world, 0, &["d"]), &narrow);
    assert_eq!(world.ports[0].take_asked(), [1]);
    run(Deed::Tier, chosen(&world, 0, &["d/2", "d/9"]), &order(&world, true));
    assert_eq!(world.ports[0].take_asked(), [2]);
    let (moved, _) = run(Deed::Tier, chosen(&world, 0, &["e"]), &order(&world, true));
    assert_eq!(moved, Moved::default());
}

#[test]
fn a_recall_by_heat_stops_where_the_policies_do() {
    let world = World::new(100, &[&[(10 * GIB, 30), (10 * GIB, 3), (10 * GIB, 2), (10 * GIB, 1)]]);
    for number in 1..=4 {
        world.ports[0].change(number, |file| (file.tiered, file.on_disk) = (true, 0));
    }
    world.disk.other_bytes.store(55 * GIB, Ordering::Relaxed);
    world.set(0, 20, |tiering| tiering.older_than_s = Some(20 * 86_400));
    let (moved, rows) = run(Deed::Recall, chosen(&world, 0, &[""]), &order(&world, true));
    let recalled: Vec<_> = world.ports[0].recalled.lock().unwrap().clone();
    assert_eq!(recalled, [(4, Lane::Command), (3, Lane::Command)], "warmest first, to the line of 20 GiB");
    assert_eq!((moved.files, moved.bytes_done, rows.len()), (2, 20 * GIB, 0));
    // Without the order everything is wished, and what would fill the volume is refused one by one.
    world.disk.other_bytes.store(64 * GIB, Ordering::Relaxed);
    let (moved, rows) = run(Deed::Recall, chosen(&world, 0, &[""]), &order(&world, false));
    assert_eq!((moved.files, moved.files_failed), (2, 2));
    assert!(rows.iter().all(|(_, verdict)| verdict == "no_space"), "{rows:?}");
}

#[test]
fn regression_a_colder_file_is_not_recalled_first_for_being_small() {
    let (small, large) = (1 << 20, (1 << 20) + 1);
    let world = World::new(100, &[&[(small, 4), (large, 3), (large, 2), (small, 1)]]);
    for number in 1..=4 {
        world.ports[0].change(number, |file| (file.tiered, file.on_disk) = (true, 0));
    }
    let (moved, _) = run(Deed::Recall, chosen(&world, 0, &[""]), &order(&world, true));
    let recalled: Vec<_> = world.ports[0].recalled.lock().unwrap().iter().map(|(node, _)| *node).collect();
    assert_eq!((moved.files_done, recalled), (4, vec![4, 3, 2, 1]), "the warmest first");
}

#[test]
fn progress_is_told_while_one_file_follows_the_other() {
    let files: Vec<_> = (0..40).map(|days| (GIB, days)).collect();
    let world = World::new(100, &[&files]);
    (1..=40).for_each(|number| world.ports[0].change(number, |file| (file.tiered, file.on_disk) = (true, 0)));
    world.ports[0].recall_ms.store(40, Ordering::Relaxed);
    let mut told = Vec::new();
    let mut say = |answer: Answer| {
        if let Answer::Moved(Moved { files, files_done, bytes, bytes_done, .. }) = answer {
            assert_eq!((files, bytes), (40, 40 * GIB));
            told.push((files_done, bytes_done));
        }
        true
    };
    let one = chosen(&world, 0, &[""]);
    let moved = carry_out(Deed::Recall, &[one], &order(&world, false), &mut say).expect("the volume answers");
    assert_eq!((moved.files_done, moved.bytes_done), (40, 40 * GIB));
    assert!(told.len() >= 2 && told.is_sorted(), "{told:?}");
    assert!(told.iter().any(|(files, _)| (1..40).contains(files)), "{told:?}");
}

#[test]
fn a_client_that_goes_away_ends_the_command() {
    let files: Vec<_> = (0..200).map(|days| (GIB, 10 + days)).collect();
    let world = World::new(300, &[&files]);
    world.set(0, 20, |_| ());
    for number in 1..=200 {
        world.ports[0].change(number, |file| file.says = Some(Ok(Stays::InUse)));
    }
    let mut said = 0;
    let mut say = |_: Answer| {
        said += 1;
        false
    };
    let one = chosen(&world, 0, &[""]);
    let moved = carry_out(Deed::Tier, &[one], &order(&world, false), &mut say).expect("the volume answers");
    assert_eq!((said, moved.files_done), (1, 1), "nothing more is told");
}

#[test]
fn lists_show_the_order_of_the_whole_volume() {
    let world = World::new(100, &[&[(10 * GIB, 30), (10 * GIB, 20)], &[(10 * GIB, 25), (10 * GIB, 1)]]);
    world.disk.other_bytes.store(45 * GIB, Ordering::Relaxed);
    world.set(0, 20, |_| ());
    world.set(1, 20, |_| ());
    world.ports[0].heat.lock().unwrap().insert(node(1), Heat::of_times(NOW - 2 * DAY, NOW - 2 * DAY, NOW));
    let rows = |deed, endpoints: &[usize], count_max| {
        let chosen: BTreeMap<usize, Chosen> =
            endpoints.iter().map(|index| (*index, chosen(&world, *index, &[""]))).collect();
        let mut rows = Vec::new();
        let mut say = |answer: Answer| {
            let Answer::File(row) = answer else { return true };
            rows.push((row.path.to_string(), row.verdict, row.residency));
            true
        };
        list(deed, &world.seats, &chosen, &order(&world, true), count_max, &mut say)
            .expect("the volume answers");
        rows
    };
    // 15 GiB are free of 20: one file has to go, the coldest of both endpoints.
    let here = FileResidency::Resident;
    let row = |number: u8, verdict: &str| (format!("/srv/a/d/{number}"), verdict.to_owned(), here);
    let all = [row(3, "free_space"), row(2, "not_needed"), row(1, "not_needed"), row(4, "not_needed")];
    assert_eq!(rows(Deed::Tier, &[0, 1], 9), all);
    assert_eq!(rows(Deed::Tier, &[0], 9), all[1..3], "of one endpoint, in the order of both");
    assert_eq!(rows(Deed::Tier, &[0, 1], 2), all[..2]);
    assert_eq!(rows(Deed::Recall, &[0, 1], 9), []);
    world.ports[0].change(2, |file| (file.tiered, file.on_disk) = (true, 0));
    world.disk.other_bytes.store(0, Ordering::Relaxed);
    let back = ("/srv/a/d/2".to_owned(), "recall".to_owned(), FileResidency::Tiered);
    assert_eq!(rows(Deed::Recall, &[0, 1], 9), [back]);
}
