//! One server: an engine over a store and a disk, and the executor of its effects.
//!
//! The executor does what `crates/agent/src/endpoint` and `crates/replica` do on real disks, in the same order of
//! writes and of making durable: [`life`] begins and ends, [`look`] looks and walks, [`apply`] changes names,
//! [`recycle`] keeps what was displaced, [`packing`] sends and fetches contents.

pub mod apply;
pub mod gate;
pub mod life;
pub mod look;
pub mod packing;
pub mod recycle;
mod steps;

pub(crate) use steps::filter;

use std::collections::{BTreeMap, BTreeSet};

use polder_engine::{Engine, JobId, Status};
use polder_sync::mem::MemStore;
use polder_types::{CaseRule, EndpointId, InstanceId, NodeUid};

use crate::disk::{Disk, ROOT};
use crate::plan::Plan;
use crate::rng::Rng;

/// The way to the service in a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Which session.
    pub session: u64,
    /// The opening that the service accepted in it.
    pub open: Option<InstanceId>,
}

/// What is counted at a server, so that something of its own can be drawn for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// Delays.
    Delay,
    /// Messages to the service.
    Message,
    /// Packs that arrive.
    Pack,
    /// Applies.
    Apply,
    /// Orders at the gate.
    Order,
    /// Reads in the tick of the last change.
    Tick,
}

/// A server.
#[derive(Debug)]
pub struct Host {
    /// Which one.
    pub nth: usize,
    /// Its name.
    pub name: String,
    /// Which endpoint it is.
    pub endpoint: EndpointId,
    /// Its files.
    pub disk: Disk,
    /// Its state database, which lies on the disk too.
    pub store: MemStore,
    /// Its engine; `None` while there is no life.
    pub engine: Option<Engine>,
    /// Whether its agent runs, be it without a life because the root is not there.
    pub running: bool,
    /// Tells one process of the agent from the next.
    pub process: u64,
    /// Counts its lives; what belongs to an earlier one is void.
    pub life: u64,
    /// The instance of this life's state database.
    pub instance: InstanceId,
    /// When this life began.
    pub began_ms: u64,
    /// The session with the service, if any.
    pub link: Option<Link>,
    /// What its wall clock is off by.
    pub skew_ms: i64,
    /// Whether its volume is where it should be.
    pub mounted: bool,
    /// The last status.
    pub status: Option<std::sync::Arc<Status>>,
    /// The moment of the engine's time that it wants to be woken at.
    pub wake: Option<u64>,
    /// Programs of users: which inode each has open.
    pub programs: BTreeMap<u64, u64>,
    /// Files of which a user took a name away.
    pub unlinked: BTreeSet<u64>,
    /// Steps of applies that engines here have asked for.
    pub steps_asked: u64,
    /// Numbers of whatever is counted here: messages, reads, applies.
    pub counts: [u64; 6],
    pub(crate) rng: Rng,
    pub(crate) walks: BTreeMap<JobId, look::Walk>,
    pub(crate) cancelled: BTreeSet<JobId>,
    pub(crate) packing: packing::Packing,
    pub(crate) recycle: recycle::Recycle,
    pub(crate) applying: BTreeMap<JobId, apply::Applying>,
    /// Since when there are rows of applied nodes that a power cut would take.
    pub(crate) rows_to_settle: Option<u64>,
    staged_next: u64,
    /// Whether listing a directory takes time.
    slow: bool,
    /// When the last thing was told that its threads found out.
    pub(crate) told_ms: u64,
    /// What users reach its files through, where it tiers.
    pub gate: gate::Gate,
}

impl Host {
    /// A server whose agent does not run.
    pub fn new(nth: usize, plan: &Plan) -> Self {
        let mut rng = Rng::of(plan.seed, [6, nth as u64, 0]);
        let mut disk = Disk::new(nth as u64, plan.times, plan.reuse);
        if plan.power {
            disk.remember_durable();
        }
        disk.set_queue(plan.queue);
        disk.watch = plan.watch;
        let years = |rng: &mut Rng| (rng.below(20) as i64 - 10) * 365 * 24 * 3_600_000;
        let skew_ms = if plan.skew { years(&mut rng) } else { nth as i64 * 3_600_000 };
        Self {
            nth,
            name: format!("s{nth}"),
            endpoint: EndpointId([nth as u8 + 1; 16]),
            disk,
            store: MemStore::new(CaseRule::Sensitive),
            engine: None,
            running: false,
            process: 0,
            life: 0,
            instance: InstanceId::ZERO,
            began_ms: 0,
            link: None,
            skew_ms,
            mounted: true,
            status: None,
            wake: None,
            programs: BTreeMap::new(),
            unlinked: BTreeSet::new(),
            steps_asked: 0,
            counts: [0; 6],
            rng,
            walks: BTreeMap::new(),
            cancelled: BTreeSet::new(),
            packing: packing::Packing::default(),
            recycle: recycle::Recycle::default(),
            applying: BTreeMap::new(),
            rows_to_settle: None,
            staged_next: 0,
            slow: plan.slow,
            told_ms: 0,
            gate: gate::Gate::new(plan.tiers & (1 << nth) != 0, plan.arrive),
        }
    }

    /// The next number of something that is counted here.
    pub fn count(&mut self, what: Counted) -> u64 {
        let count = &mut self.counts[what as usize];
        *count += 1;
        *count
    }

    /// What its wall clock shows.
    pub fn wall_ms(&self, time_ms: u64) -> u64 {
        // Half a century from 1970, so that no skew leads before it.
        (time_ms as i64 + 50 * 365 * 24 * 3_600_000 + self.skew_ms) as u64
    }

    /// Tells the disk what time it is.
    pub fn set_clock(&mut self, time_ms: u64) {
        let wall_ms = self.wall_ms(time_ms);
        self.disk.set_clock(time_ms, wall_ms);
    }

    /// Whether a job was given up.
    pub fn is_cancelled(&self, job: JobId) -> bool {
        self.cancelled.contains(&job)
    }

    /// What the agent itself does to the disk.
    pub(crate) fn as_agent<T>(&mut self, act: impl FnOnce(&mut Self) -> T) -> T {
        self.disk.own = true;
        let done = act(self);
        self.disk.own = false;
        done
    }

    /// `syncfs` of the volume: what the state database has committed lies on it.
    pub(crate) fn make_durable(&mut self) {
        self.disk.sync_all();
        polder_sync::TreeStore::commit(&mut self.store, true).expect("maps do not fail");
    }

    /// The root directory as it is seen.
    fn root_seen(&self) -> polder_engine::RootSeen {
        polder_engine::RootSeen { stamp: self.disk.stamp(ROOT), attrs: self.disk.inode(ROOT).attrs.clone() }
    }

    /// A random number of 128 bits.
    pub(crate) fn random(&mut self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.rng.next().to_be_bytes());
        bytes[8..].copy_from_slice(&self.rng.next().to_be_bytes());
        bytes
    }

    pub(crate) fn staged_name(&mut self) -> polder_types::Name {
        self.staged_next += 1;
        format!("{:x}", self.staged_next).parse().expect("hex is a plain name")
    }
}

/// A node's id, read from its text.
pub(crate) fn uid_of(text: &str) -> Option<NodeUid> {
    text.parse().ok()
}
