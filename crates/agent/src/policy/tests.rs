//! Volumes without a disk: what the runner does in days, tried in milliseconds.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use polder_api::grpc::convert::{TierAction, TierRule, Tiering};
use polder_tiering::{Heat, Lane, Stays, Volume};
use polder_types::{NodeUid, RelPath};

use super::clock::{Clock, Moment};
use super::desk::Desk;
use super::port::Port;
use super::volume::{Keeper, Seat};
use crate::tiered::{Cancel, Keep, Outcome, Recalled, Residency, TieredError, TieredFile};

const GIB: u64 = 1 << 30;
const DAY: i64 = 86_400;
const NOW: i64 = 1_700_000_000;

#[derive(Debug)]
struct Disk {
    bytes: u64,
    other_bytes: AtomicU64,
    unix_s: AtomicI64,
    mono_ms: AtomicU64,
}

impl Clock for Disk {
    fn now(&self) -> Moment {
        Moment { unix_s: self.unix_s.load(Ordering::Relaxed), mono_ms: self.mono_ms.load(Ordering::Relaxed) }
    }
}

#[derive(Debug, Clone)]
struct FakeFile {
    size: u64,
    on_disk: u64,
    at_s: i64,
    tiered: bool,
    /// What [`Port::tier`] says of it.
    says: Option<Result<Stays, ()>>,
    /// While it leaves, everything beside the endpoints is deleted.
    deletes_others: bool,
}

/// The files of one endpoint on a made-up disk.
#[derive(Debug)]
struct Fake {
    disk: Arc<Disk>,
    /// All endpoints of the disk, this one too: what is free depends on them.
    all: Arc<Mutex<BTreeMap<(u8, NodeUid), FakeFile>>>,
    number: u8,
    heat: Mutex<BTreeMap<NodeUid, Heat>>,
    pins: Mutex<Vec<RelPath>>,
    asked: Mutex<Vec<u8>>,
    recalled: Mutex<Vec<u8>>,
}

fn node(number: u8) -> NodeUid {
    NodeUid([number; 16])
}

impl Fake {
    fn shown(&self, node: NodeUid, file: &FakeFile) -> TieredFile {
        TieredFile {
            node,
            path: RelPath::parse(format!("d/{}", node.0[0]).as_bytes()).expect("a path"),
            size: file.size,
            on_disk_bytes: file.on_disk,
            mtime_s: file.at_s,
            ctime_s: file.at_s,
            residency: match file.tiered {
                true => Residency::Tiered { present_bytes: file.on_disk },
                false => Residency::Resident,
            },
            stays: file.tiered.then_some(Stays::Tiered),
        }
    }

    fn change(&self, number: u8, change: impl FnOnce(&mut FakeFile)) {
        change(self.all.lock().unwrap().get_mut(&(self.number, node(number))).expect("a file"));
    }

    /// Numbers of the files whose bytes are here.
    fn local(&self) -> Vec<u8> {
        let all = self.all.lock().unwrap();
        let mine = all.iter().filter(|((number, _), file)| *number == self.number && !file.tiered);
        mine.map(|((_, node), _)| node.0[0]).collect()
    }

    fn take_asked(&self) -> Vec<u8> {
        let mut asked = std::mem::take(&mut *self.asked.lock().unwrap());
        asked.sort_unstable();
        asked
    }
}

impl Port for Fake {
    fn volume(&self) -> Result<Volume, TieredError> {
        let used: u64 = self.all.lock().unwrap().values().map(|file| file.on_disk).sum();
        let used = used + self.disk.other_bytes.load(Ordering::Relaxed);
        Ok(Volume { bytes: self.disk.bytes, free_bytes: self.disk.bytes - used, cluster_bytes: 4096 })
    }

    fn files(&self, after: Option<NodeUid>, count_max: usize) -> Result<Vec<TieredFile>, TieredError> {
        let all = self.all.lock().unwrap();
        let mine = all.iter().filter(|((number, node), _)| *number == self.number && Some(*node) > after);
        Ok(mine.map(|((_, node), file)| self.shown(*node, file)).take(count_max).collect())
    }

    fn file(&self, node: NodeUid) -> Result<TieredFile, TieredError> {
        let all = self.all.lock().unwrap();
        all.get(&(self.number, node)).map(|file| self.shown(node, file)).ok_or(TieredError::NoFile)
    }

    fn tier(&self, node: NodeUid) -> Result<Outcome, TieredError> {
        self.asked.lock().unwrap().push(node.0[0]);
        let mut all = self.all.lock().unwrap();
        let file = all.get_mut(&(self.number, node)).ok_or(TieredError::NoFile)?;
        match file.says {
            Some(Ok(why)) => return Ok(Outcome::Stays(why)),
            Some(Err(())) => return Err(TieredError::Share("the service is away".into())),
            None => (),
        }
        if file.deletes_others {
            self.disk.other_bytes.store(0, Ordering::Relaxed);
        }
        file.tiered = true;
        Ok(Outcome::Tiered { freed_bytes: std::mem::take(&mut file.on_disk) })
    }

    fn recall(&self, node: NodeUid, lane: Lane, _: Keep, _: &Cancel) -> Result<Recalled, TieredError> {
        assert_eq!(lane, Lane::Background);
        self.recalled.lock().unwrap().push(node.0[0]);
        let mut all = self.all.lock().unwrap();
        let file = all.get_mut(&(self.number, node)).ok_or(TieredError::NoFile)?;
        let fetched_bytes = file.size - file.on_disk;
        (file.tiered, file.on_disk) = (false, file.size);
        Ok(Recalled { fetched_bytes, residency: Residency::Resident })
    }

    fn heat(&self, after: Option<NodeUid>, last: NodeUid) -> Result<Vec<(NodeUid, Heat)>, TieredError> {
        let heat = self.heat.lock().unwrap();
        let page = heat.iter().filter(|(node, _)| Some(**node) > after && **node <= last);
        Ok(page.map(|(node, heat)| (*node, *heat)).collect())
    }

    fn pins(&self) -> Result<Vec<RelPath>, TieredError> {
        Ok(self.pins.lock().unwrap().clone())
    }
}

/// A volume with its keeper.
struct World {
    disk: Arc<Disk>,
    ports: Vec<Arc<Fake>>,
    seats: Vec<Seat>,
    keeper: Keeper,
}

impl World {
    /// Endpoints with files of so many bytes and days; files are numbered from 1 through all endpoints.
    fn new(gib: u64, endpoints: &[&[(u64, i64)]]) -> Self {
        let disk = Arc::new(Disk {
            bytes: gib * GIB,
            other_bytes: AtomicU64::new(0),
            unix_s: AtomicI64::new(NOW),
            mono_ms: AtomicU64::new(0),
        });
        let all: Arc<Mutex<BTreeMap<_, _>>> = Arc::default();
        let mut number = 0;
        let mut ports = Vec::new();
        for (index, files) in endpoints.iter().enumerate() {
            for (bytes, days) in *files {
                number += 1;
                let at_s = NOW - days * DAY;
                let file = FakeFile {
                    size: *bytes,
                    on_disk: *bytes,
                    at_s,
                    tiered: false,
                    says: None,
                    deletes_others: false,
                };
                all.lock().unwrap().insert((index as u8, node(number)), file);
            }
            ports.push(Arc::new(Fake {
                disk: Arc::clone(&disk),
                all: Arc::clone(&all),
                number: index as u8,
                heat: Mutex::default(),
                pins: Mutex::default(),
                asked: Mutex::default(),
                recalled: Mutex::default(),
            }));
        }
        let seat = |port: &Arc<Fake>| {
            let desk = Arc::<Desk>::default();
            desk.uploaded();
            Seat { port: Arc::clone(port) as Arc<dyn Port>, desk }
        };
        let seats = ports.iter().map(seat).collect();
        Self { disk, ports, seats, keeper: Keeper::default() }
    }

    fn set(&self, endpoint: usize, percent: u8, change: impl FnOnce(&mut Tiering)) {
        let mut tiering = Tiering { enabled: true, free_space_percent: percent, ..Tiering::default() };
        change(&mut tiering);
        self.seats[endpoint].desk.set_settings(&tiering);
    }

    /// Lets so many seconds pass, one by one; rounds that were carried out.
    fn pass(&mut self, seconds: u64) -> usize {
        let mut rounds = 0;
        for _ in 0..seconds {
            self.disk.mono_ms.fetch_add(1000, Ordering::Relaxed);
            self.disk.unix_s.fetch_add(1, Ordering::Relaxed);
            let round = self.keeper.tick(&self.seats, &*self.disk, &Cancel::default());
            rounds += usize::from(round.is_some());
        }
        rounds
    }

    fn free_gib(&self) -> u64 {
        self.ports[0].volume().unwrap().free_bytes / GIB
    }
}

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

#[test]
fn nothing_spins_when_nothing_can_leave() {
    let mut world = World::new(100, &[&[(10 * GIB, 30), (10 * GIB, 20)]]);
    world.disk.other_bytes.store(75 * GIB, Ordering::Relaxed);
    for number in [1, 2] {
        world.ports[0].change(number, |file| file.says = Some(Ok(Stays::NotVerified)));
    }
    world.set(0, 20, |_| ());
    world.pass(3);
    let look = world.seats[0].desk.last_look().unwrap();
    assert_eq!(look.missing_bytes, 15 * GIB, "what is missing is told");
    let rounds = world.pass(3600);
    assert!((60..80).contains(&rounds), "{rounds} rounds in an hour");
    let asked = world.ports[0].take_asked().len();
    assert!((15..40).contains(&asked), "{asked} tries of two files in an hour");
    // The packs are verified: they leave as soon as they are asked again.
    for number in [1, 2] {
        world.ports[0].change(number, |file| file.says = None);
    }
    world.pass(700);
    assert_eq!(world.ports[0].local(), []);
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
    assert_eq!(*world.ports[0].recalled.lock().unwrap(), [1]);
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
