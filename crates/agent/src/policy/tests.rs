//! What the runner does in days, tried in milliseconds.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use polder_api::grpc::convert::{TierAction, TierRule};
use polder_tiering::{Heat, Lane, Stays};
use polder_types::RelPath;

use super::fake::{GIB, NOW, World, node};

/// The reference's worked example (§4.3), by the runner: settings come in while it runs, and nobody restarts it.
#[test]
fn the_worked_example_takes_effect_without_a_restart() {
    let ages = [(10, 2), (30, 10), (200, 365), (120, 367), (140, 731)];
    let files: Vec<_> = ages.iter().map(|(gib, days)| (gib * GIB, *days)).collect();
    let mut world = World::new(500, &[&files]);
    world.set(0, 20, |_| ());
    world.pass(3);
    let port = Arc::clone(&world.ports[0]);
    assert_eq!(port.local(), [1, 2, 3, 4]);
    port.change(5, |file| (file.tiered, file.on_disk) = (false, file.size));
    port.heat.lock().unwrap().insert(node(5), Heat::of_times(NOW, NOW, NOW));
    world.pass(3);
    assert_eq!(port.local(), [1, 2, 3, 5], "reading 5 pushes 4 out, within seconds");
    world.set(0, 70, |tiering| tiering.older_than_s = Some(60 * 86_400));
    world.pass(1);
    assert_eq!(port.local(), [1, 5], "2 leaves although young");
    world.set(0, 20, |tiering| tiering.older_than_s = Some(60 * 86_400));
    world.pass(300);
    assert_eq!(port.local(), [1, 5], "relaxing recalls nothing by itself");
}

/// Low disk mode (§4.7): entered and left by itself, told to the gate's hook, and without a wait for the initial upload.
#[test]
fn low_disk_mode_comes_and_goes() {
    for (gib, percent, free, low) in
        [(100, 7, 9, false), (100, 7, 5, true), (300, 8, 21, false), (300, 8, 18, true)]
    {
        let mut world = World::new(gib, &[&[(GIB, 10), (GIB, 100)]]);
        world.disk.other_bytes.store((gib - free - 2) * GIB, Ordering::Relaxed);
        world.seats[0].desk = Arc::default();
        world.set(0, percent, |_| ());
        world.pass(1);
        let desk = &world.seats[0].desk;
        assert_eq!(desk.last_look().unwrap().is_low, low, "{gib} GiB, {percent} %, {free} free");
        let tiered = 2 - world.ports[0].local().len();
        // Nothing of the initial upload is over yet: only need counts.
        assert_eq!(tiered > 0, low, "{gib} GiB, {percent} %, {free} free");
        world.disk.other_bytes.store(0, Ordering::Relaxed);
        world.pass(61);
        assert!(!world.seats[0].desk.last_look().unwrap().is_low, "it is left by itself");
    }
}

#[test]
fn the_free_space_policy_waits_for_the_initial_upload() {
    let mut world = World::new(100, &[&[(10 * GIB, 10), (10 * GIB, 20)]]);
    world.disk.other_bytes.store(65 * GIB, Ordering::Relaxed);
    world.seats[0].desk = Arc::default();
    world.set(0, 20, |_| ());
    world.pass(120);
    assert_eq!(world.ports[0].local(), [1, 2]);
    world.seats[0].desk.uploaded();
    world.pass(61);
    assert_eq!(world.ports[0].local(), [1]);
}

#[test]
fn a_file_in_use_is_left_alone_and_the_next_one_leaves() {
    let mut world = World::new(100, &[&[(10 * GIB, 30), (10 * GIB, 20), (10 * GIB, 10)]]);
    world.disk.other_bytes.store(55 * GIB, Ordering::Relaxed);
    world.ports[0].change(1, |file| file.says = Some(Ok(Stays::InUse)));
    world.set(0, 20, |_| ());
    world.pass(1);
    assert_eq!(world.ports[0].local(), [1, 2, 3]);
    let why = world.seats[0].desk.last_look().unwrap();
    assert_eq!(why.held.stays[&Stays::InUse].0, 1);
    world.pass(2);
    assert_eq!(world.ports[0].local(), [1, 3], "the next coldest leaves in its place");
    assert_eq!(world.ports[0].take_asked(), [1, 2], "and the first is not asked again and again");
}

/// Without room, and in low disk mode, where each file is asked once a minute.
#[test]
fn nothing_spins_when_nothing_can_leave() {
    for (others_gib, missing_gib, tries, stay) in [(65, 5, 15..40, 1), (75, 15, 110..130, 0)] {
        let mut world = World::new(100, &[&[(10 * GIB, 30), (10 * GIB, 20)]]);
        world.disk.other_bytes.store(others_gib * GIB, Ordering::Relaxed);
        for number in [1, 2] {
            world.ports[0].change(number, |file| file.says = Some(Ok(Stays::NotVerified)));
        }
        world.set(0, 20, |_| ());
        world.pass(5);
        let look = world.seats[0].desk.last_look().unwrap();
        assert_eq!(look.missing_bytes, missing_gib * GIB, "what is missing is told");
        let rounds = world.pass(3600);
        assert!((60..80).contains(&rounds), "{rounds} rounds in an hour");
        let asked = world.ports[0].take_asked().len();
        assert!(tries.contains(&asked), "{asked} tries of two files in an hour");
        // The packs are verified: they leave as soon as they are asked again.
        for number in [1, 2] {
            world.ports[0].change(number, |file| file.says = None);
        }
        world.pass(700);
        assert_eq!(world.ports[0].local().len(), stay);
    }
}

#[test]
fn a_service_that_is_away_ends_the_round() {
    let files: Vec<_> = (0..100).map(|days| (GIB, 100 + days)).collect();
    let mut world = World::new(101, &[&files]);
    for number in 1..=100 {
        world.ports[0].change(number, |file| file.says = Some(Err(())));
    }
    world.set(0, 90, |_| ());
    world.pass(1);
    // The slice that met the failures is finished; 100 files of 1 GiB are many slices of 4 GiB.
    let asked = world.ports[0].take_asked().len();
    assert!((16..=20).contains(&asked), "{asked}");
    assert_eq!(
        world.seats[0].desk.last_look().unwrap().failed.as_deref(),
        Some("fetch from the share: the service is away")
    );
    world
        .ports
        .iter()
        .for_each(|port| (1..=100).for_each(|number| port.change(number, |file| file.says = None)));
    world.pass(120);
    assert_eq!(
        world.ports[0].local().len(),
        6,
        "it goes on when the service is back, with five points of reserve"
    );
}

/// A service that is away while a volume fills: what failed is not left alone for ten minutes once it is back.
#[test]
fn a_service_that_is_back_is_asked_at_once() {
    let mut world = World::new(100, &[&[(10 * GIB, 30), (10 * GIB, 20)]]);
    world.disk.other_bytes.store(65 * GIB, Ordering::Relaxed);
    for number in [1, 2] {
        world.ports[0].change(number, |file| file.says = Some(Err(())));
    }
    world.set(0, 20, |_| ());
    world.pass(7200);
    for number in [1, 2] {
        world.ports[0].change(number, |file| file.says = None);
    }
    world.seats[0].desk.set_reachable(true);
    world.pass(2);
    assert_eq!(world.ports[0].local(), [2]);
}

/// Placeholders of which some stays on the disk whatever is done are not taken for room again and again.
#[test]
fn what_cannot_be_freed_makes_no_room() {
    let mut world = World::new(100, &[&[(10 * GIB, 40), (10 * GIB, 30), (10 * GIB, 20), (10 * GIB, 10)]]);
    for number in [1, 2] {
        let stays = |file: &mut super::fake::FakeFile| {
            (file.tiered, file.on_disk, file.residue) = (true, 5 * GIB, 5 * GIB);
        };
        world.ports[0].change(number, stays);
    }
    world.disk.other_bytes.store(55 * GIB, Ordering::Relaxed);
    world.set(0, 20, |_| ());
    world.pass(5);
    assert_eq!(world.free_gib(), 25);
    assert_eq!(world.ports[0].local(), [4], "the coldest that has something to give");
    world.ports[0].take_asked();
    world.disk.other_bytes.store(60 * GIB, Ordering::Relaxed);
    world.pass(5);
    assert_eq!(world.ports[0].local(), [4], "there is room enough");
}

#[test]
fn endpoints_of_one_volume_are_one_decision() {
    let mut world = World::new(100, &[&[(10 * GIB, 1), (10 * GIB, 40)], &[(10 * GIB, 30), (10 * GIB, 20)]]);
    world.set(0, 10, |_| ());
    world.set(1, 80, |_| ());
    world.pass(2);
    assert_eq!(world.free_gib(), 80, "the largest policy counts for all");
    assert_eq!(
        (world.ports[0].local(), world.ports[1].local()),
        (vec![1], vec![4]),
        "coldest first, of both"
    );
    world.set(1, 80, |tiering| tiering.enabled = false);
    world.set(0, 99, |_| ());
    world.pass(2);
    assert_eq!((world.ports[0].local(), world.ports[1].local()), (vec![], vec![4]), "tiering is off there");
    let look = world.seats[1].desk.last_look().unwrap();
    assert_eq!(look.held.stays[&Stays::TieringOff], (1, 10 * GIB));
}

#[test]
fn a_quota_is_held_without_want_of_room() {
    let mut world = World::new(500, &[&[(10 * GIB, 1), (10 * GIB, 40), (10 * GIB, 30)]]);
    world.set(0, 20, |tiering| tiering.cache_quota_bytes = Some(15 * GIB));
    world.pass(1);
    assert_eq!(world.ports[0].local(), [1]);
}

#[test]
fn rules_and_pins_come_first() {
    let mut world = World::new(500, &[&[(GIB, 400), (GIB, 400), (GIB, 400), (4096, 400)]]);
    let rule = |action, glob: &str| TierRule {
        action,
        glob: glob.into(),
        size_bytes_min: 0,
        size_bytes_max: None,
        unused_s_min: 0,
    };
    *world.ports[0].pins.lock().unwrap() = vec![RelPath::parse(b"d/2").unwrap()];
    world.set(0, 20, |tiering| {
        tiering.older_than_s = Some(30 * 86_400);
        tiering.rules = vec![rule(TierAction::Keep, "1")];
    });
    world.pass(1);
    assert_eq!(world.ports[0].local(), [1, 2, 4]);
    let stays = world.seats[0].desk.last_look().unwrap().held.stays.clone();
    let told: Vec<_> = stays.iter().map(|(why, (files, _))| (*why, *files)).collect();
    assert_eq!(told, [(Stays::Tiered, 1), (Stays::TooSmall, 1), (Stays::Pinned, 1), (Stays::Rule, 1)]);
}

#[test]
fn what_is_pinned_comes_back_while_there_is_room() {
    let mut world = World::new(100, &[&[(10 * GIB, 1), (50 * GIB, 1)]]);
    for number in [1, 2] {
        world.ports[0].change(number, |file| (file.tiered, file.on_disk) = (true, 0));
    }
    world.disk.other_bytes.store(50 * GIB, Ordering::Relaxed);
    *world.ports[0].pins.lock().unwrap() = vec![RelPath::root()];
    world.set(0, 20, |_| ());
    world.pass(200);
    assert_eq!(world.ports[0].local(), [1], "the other one would cross the line");
    assert_eq!(*world.ports[0].recalled.lock().unwrap(), [(1, Lane::Background)]);
}

#[test]
fn what_was_read_of_a_placeholder_is_given_back() {
    let mut world = World::new(100, &[&[(10 * GIB, 300), (10 * GIB, 1)]]);
    world.ports[0].change(1, |file| (file.tiered, file.on_disk) = (true, 5 * GIB));
    world.disk.other_bytes.store(68 * GIB, Ordering::Relaxed);
    world.set(0, 20, |_| ());
    world.pass(2);
    assert_eq!((world.ports[0].local(), world.free_gib()), (vec![2], 22));
    let look = world.seats[0].desk.last_look().unwrap();
    assert_eq!(
        (look.held.cached_bytes, look.held.tiered_bytes, look.held.tiered_files),
        (10 * GIB, 10 * GIB, 1)
    );
}

#[test]
fn nobody_leaves_for_room_that_somebody_else_has_made() {
    let files: Vec<_> = (0..40).map(|days| (2 * GIB, 100 + days)).collect();
    let mut world = World::new(100, &[&files]);
    world.disk.other_bytes.store(19 * GIB, Ordering::Relaxed);
    // While the coldest file leaves, somebody deletes what lies beside the endpoint.
    world.ports[0].change(40, |file| file.deletes_others = true);
    world.set(0, 50, |_| ());
    world.pass(1);
    let left = 40 - world.ports[0].local().len();
    assert!((17..=20).contains(&left), "{left} files; 27 were chosen");
    assert!(world.free_gib() >= 55);
}

/// An endpoint of which only names have come.
fn names_only(gib: u64, files: &[(u64, i64)], other_bytes: u64) -> World {
    let world = World::new(gib, &[files]);
    for number in 1..=files.len() as u8 {
        world.ports[0].change(number, |file| (file.tiered, file.on_disk) = (true, 0));
    }
    world.disk.other_bytes.store(other_bytes, Ordering::Relaxed);
    world.seats[0].desk.set_background(true);
    world
}

#[test]
fn after_names_the_newest_comes_first_in_the_lowest_lane_up_to_the_line() {
    let mut world = names_only(100, &[(9 * GIB, 3), (9 * GIB, 1), (9 * GIB, 4), (9 * GIB, 2)], 50 * GIB);
    world.set(0, 20, |_| ());
    world.pass(3);
    assert_eq!(world.ports[0].local(), [1, 2, 4], "the oldest would cross the line");
    let lanes: Vec<_> = world.ports[0].recalled.lock().unwrap().iter().map(|(_, lane)| *lane).collect();
    assert_eq!(lanes, [Lane::Background; 3]);
    let desk = &world.seats[0].desk;
    assert!(!desk.is_background_due() && desk.take_brought() && !desk.take_brought(), "over, told once");
    world.disk.other_bytes.store(0, Ordering::Relaxed);
    world.pass(200);
    assert_eq!(world.ports[0].local(), [1, 2, 4], "it does not begin again");
}

#[test]
fn regression_an_older_file_never_takes_the_room_of_a_newer_one() {
    // Several threads: which of them asked first once decided which file came.
    let files: Vec<_> = (0..60).map(|number| (GIB, 1 + (number * 7) % 60)).collect();
    let mut world = names_only(100, &files, 60 * GIB);
    world.set(0, 20, |_| ());
    world.pass(3);
    let mut days: Vec<_> =
        world.ports[0].local().iter().map(|&number| files[usize::from(number) - 1].1).collect();
    days.sort_unstable();
    assert_eq!(days, (1..=20).collect::<Vec<_>>());
}

#[test]
fn after_names_a_share_that_is_away_is_waited_for_and_a_damaged_file_is_left() {
    let mut world = names_only(100, &[(GIB, 3), (GIB, 1), (GIB, 4), (GIB, 2), (GIB, 5)], 0);
    world.set(0, 20, |_| ());
    (1..=5).for_each(|number| world.ports[0].change(number, |file| file.says = Some(Err(()))));
    world.pass(600);
    assert!(world.seats[0].desk.is_background_due());
    let tries = world.ports[0].recalled.lock().unwrap().len();
    assert!(tries < 120, "{tries} tries in ten minutes");
    world.ports[0].change(3, |file| file.says = Some(Ok(Stays::Changed)));
    for number in [1, 2, 4, 5] {
        world.ports[0].change(number, |file| file.says = None);
    }
    world.pass(62);
    assert_eq!(world.ports[0].local(), [1, 2, 4, 5]);
    assert!(!world.seats[0].desk.is_background_due(), "what cannot be had does not keep it from its end");
}

#[test]
fn after_names_nothing_comes_that_a_policy_would_tier_again() {
    let mut world = names_only(100, &[(GIB, 3), (GIB, 40), (20 * GIB, 1), (GIB, 2)], 0);
    world.set(0, 20, |tiering| {
        tiering.older_than_s = Some(30 * 86_400);
        tiering.cache_quota_bytes = Some(10 * GIB);
    });
    world.pass(5);
    assert_eq!(world.ports[0].local(), [1, 4], "2 is too old, 3 beyond the quota");
    assert!(!world.seats[0].desk.is_background_due());
}
