//! Volumes without a disk, for tests: files that are numbers, and a clock that is moved by hand.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use polder_api::grpc::convert::Tiering;
use polder_tiering::{Heat, Lane, Stays, Volume};
use polder_types::{NodeUid, RelPath};

use super::background::Background;
use super::clock::{Clock, Moment};
use super::desk::Desk;
use super::port::Port;
use super::volume::{Keeper, Seat};
use crate::tiered::{Cancel, Keep, Outcome, Recalled, Residency, SMALL_BYTES, TieredError, TieredFile};

pub(super) const GIB: u64 = 1 << 30;
pub(super) const DAY: i64 = 86_400;
pub(super) const NOW: i64 = 1_700_000_000;

#[derive(Debug)]
pub(super) struct Disk {
    bytes: u64,
    pub(super) other_bytes: AtomicU64,
    unix_s: AtomicI64,
    mono_ms: AtomicU64,
}

impl Clock for Disk {
    fn now(&self) -> Moment {
        Moment { unix_s: self.unix_s.load(Ordering::Relaxed), mono_ms: self.mono_ms.load(Ordering::Relaxed) }
    }
}

#[derive(Debug, Clone)]
pub(super) struct FakeFile {
    pub(super) size: u64,
    pub(super) on_disk: u64,
    at_s: i64,
    pub(super) tiered: bool,
    /// What stays on the disk when it leaves.
    pub(super) residue: u64,
    /// What [`Port::tier`] says of it; [`Port::recall`] then fails: by the share, or for good.
    pub(super) says: Option<Result<Stays, ()>>,
    /// While it leaves, everything beside the endpoints is deleted.
    pub(super) deletes_others: bool,
}

/// The files of one endpoint on a made-up disk.
#[derive(Debug)]
pub(super) struct Fake {
    disk: Arc<Disk>,
    /// All endpoints of the disk, this one too: what is free depends on them.
    all: Arc<Mutex<BTreeMap<(u8, NodeUid), FakeFile>>>,
    number: u8,
    pub(super) heat: Mutex<BTreeMap<NodeUid, Heat>>,
    pub(super) pins: Mutex<Vec<RelPath>>,
    pub(super) asked: Mutex<Vec<u8>>,
    pub(super) recalled: Mutex<Vec<(u8, Lane)>>,
    /// How long a recall takes.
    pub(super) recall_ms: AtomicU64,
}

pub(super) fn node(number: u8) -> NodeUid {
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

    fn tier_one(&self, node: NodeUid) -> Result<Outcome, TieredError> {
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
        let before = file.on_disk;
        file.on_disk = before.min(file.residue);
        Ok(Outcome::Tiered { freed_bytes: before - file.on_disk })
    }

    fn recall_one(&self, node: NodeUid, lane: Lane) -> Result<Recalled, TieredError> {
        std::thread::sleep(Duration::from_millis(self.recall_ms.load(Ordering::Relaxed)));
        self.recalled.lock().unwrap().push((node.0[0], lane));
        let mut all = self.all.lock().unwrap();
        let file = all.get_mut(&(self.number, node)).ok_or(TieredError::NoFile)?;
        match file.says {
            Some(Err(())) => return Err(TieredError::Share("the service is away".into())),
            Some(Ok(_)) => return Err(TieredError::Orphaned),
            None => (),
        }
        let fetched_bytes = file.size - file.on_disk;
        (file.tiered, file.on_disk) = (false, file.size);
        Ok(Recalled { fetched_bytes, residency: Residency::Resident })
    }

    pub(super) fn change(&self, number: u8, change: impl FnOnce(&mut FakeFile)) {
        change(self.all.lock().unwrap().get_mut(&(self.number, node(number))).expect("a file"));
    }

    /// Numbers of the files whose bytes are here.
    pub(super) fn local(&self) -> Vec<u8> {
        let all = self.all.lock().unwrap();
        let mine = all.iter().filter(|((number, _), file)| *number == self.number && !file.tiered);
        mine.map(|((_, node), _)| node.0[0]).collect()
    }

    pub(super) fn take_asked(&self) -> Vec<u8> {
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

    fn tier_files(&self, nodes: &[NodeUid]) -> Vec<Result<Outcome, TieredError>> {
        nodes.iter().map(|node| self.tier_one(*node)).collect()
    }

    fn recall_files(
        &self,
        nodes: &[NodeUid],
        lane: Lane,
        _: Keep,
        _: &Cancel,
    ) -> Vec<Result<Recalled, TieredError>> {
        // As the real one: small files come together, before all others.
        let is_small = |node: NodeUid| {
            let all = self.all.lock().unwrap();
            all.get(&(self.number, node)).is_some_and(|file| file.size <= SMALL_BYTES)
        };
        let (small, large): (Vec<&NodeUid>, Vec<_>) = nodes.iter().partition(|node| is_small(**node));
        let come = small.into_iter().chain(large).map(|node: &NodeUid| (*node, self.recall_one(*node, lane)));
        let mut outcomes: BTreeMap<NodeUid, _> = come.collect();
        nodes.iter().map(|node| outcomes.remove(node).expect("each node is asked for once")).collect()
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
pub(super) struct World {
    pub(super) disk: Arc<Disk>,
    pub(super) ports: Vec<Arc<Fake>>,
    pub(super) seats: Vec<Seat>,
    keeper: Keeper,
    background: Background,
}

impl World {
    /// Endpoints with files of so many bytes and days; files are numbered from 1 through all endpoints.
    pub(super) fn new(gib: u64, endpoints: &[&[(u64, i64)]]) -> Self {
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
                    residue: 0,
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
                recall_ms: AtomicU64::new(0),
            }));
        }
        let seat = |port: &Arc<Fake>| {
            let desk = Arc::<Desk>::default();
            desk.uploaded();
            Seat { port: Arc::clone(port) as Arc<dyn Port>, desk }
        };
        let seats = ports.iter().map(seat).collect();
        Self { disk, ports, seats, keeper: Keeper::default(), background: Background::default() }
    }

    pub(super) fn set(&self, endpoint: usize, percent: u8, change: impl FnOnce(&mut Tiering)) {
        let mut tiering = Tiering { enabled: true, free_space_percent: percent, ..Tiering::default() };
        change(&mut tiering);
        self.seats[endpoint].desk.set_settings(&tiering);
    }

    /// Lets so many seconds pass, one by one; rounds that were carried out.
    pub(super) fn pass(&mut self, seconds: u64) -> usize {
        let mut rounds = 0;
        for _ in 0..seconds {
            self.disk.mono_ms.fetch_add(1000, Ordering::Relaxed);
            self.disk.unix_s.fetch_add(1, Ordering::Relaxed);
            let round = self.keeper.tick(&self.seats, &*self.disk, &Cancel::default());
            rounds += usize::from(round.is_some());
            self.background.tick(&self.seats, &*self.disk, &Cancel::default());
        }
        rounds
    }

    pub(super) fn free_gib(&self) -> u64 {
        self.ports[0].volume().unwrap().free_bytes / GIB
    }
}
