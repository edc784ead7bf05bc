//! The policies of tiering at work: who leaves, when, and what is told of it.
//!
//! One thread looks after everything ([`start`]): it finds endpoints that tier, and keeps a thread for each volume ([`volume::Keeper`]), on which all endpoints of that volume are one decision. Uses go to
//! the state database every ten seconds.
//!
//! ```text
//! gate ── opens, recalls ──► Book ── every 10 s ──► endpoint's thread ── heat(uid, warm, used)
//!                             │ counts
//! volume ── every second ──► Keeper ── when due ──► round: inventory → plan → tier … ──► Desk ──► status, metrics, explain
//! ```
//!
//! Architecture invariant: nothing here frees or fetches a byte by itself. [`crate::tiered::Tiered`] checks every condition at the moment
//! of acting, and being refused is normal.
//!
//! What a crash leaves behind: up to ten seconds of uses are forgotten, and budgets of programs begin anew.

mod background;
mod book;
mod clock;
mod command;
#[cfg(test)]
mod command_tests;
mod desk;
#[cfg(test)]
mod fake;
mod inventory;
mod port;
pub(crate) mod report;
mod round;
mod schedule;
pub(crate) mod serve;
#[cfg(test)]
mod tests;
mod volume;
mod wants;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use polder_engine::Phase;
use polder_types::EndpointId;

pub(crate) use desk::Desk;

use crate::endpoint::{Endpoint, Input, spawn_thread};
use crate::tiered::{Cancel, Tiered};
use crate::worker::Hub;
use background::Background;
use clock::SystemClock;
use volume::{Keeper, Seat};

/// How often volumes are asked for their free space, and endpoints for new handles.
const TICK: Duration = Duration::from_secs(1);
/// Uses are noted every so many ticks.
const NOTE_TICKS: u64 = 10;
const LOCK: &str = "no holder of this lock panics";

/// Looks after the endpoints of a hub until the hub is gone.
pub(crate) fn start(hub: &Arc<Hub>) {
    let hub = Arc::downgrade(hub);
    drop(spawn_thread("policy", move || Supervisor::default().run(&hub)));
}

/// A volume's thread, from outside.
#[derive(Debug)]
struct VolumeThread {
    seats: Arc<Mutex<Vec<Seat>>>,
    cancel: Cancel,
}

#[derive(Debug, Default)]
struct Supervisor {
    known: BTreeMap<EndpointId, Tiered>,
    volumes: BTreeMap<u64, VolumeThread>,
    ticks: u64,
}

impl Supervisor {
    fn run(mut self, hub: &Weak<Hub>) {
        while let Some(hub) = hub.upgrade() {
            self.tick(&hub.endpoints());
            drop(hub);
            std::thread::sleep(TICK);
        }
        self.volumes.values().for_each(|volume| volume.cancel.cancel());
    }

    fn tick(&mut self, endpoints: &BTreeMap<EndpointId, Arc<Endpoint>>) {
        let mut seats: BTreeMap<u64, Vec<Seat>> = BTreeMap::new();
        self.known.retain(|id, _| endpoints.contains_key(id));
        for (id, endpoint) in endpoints {
            let Some(tiered) = endpoint.tiered() else {
                self.known.remove(id);
                continue;
            };
            self.look(*id, endpoint, &tiered);
            let seat = Seat { port: Arc::new(tiered.clone()), desk: Arc::clone(&endpoint.desk) };
            seats.entry(tiered.device()).or_default().push(seat);
        }
        self.keep_volumes(seats);
        self.ticks += 1;
        if self.ticks.is_multiple_of(NOTE_TICKS) {
            endpoints.values().for_each(|endpoint| note(endpoint));
        }
    }

    /// A new mount is looked at soon; the ends of the first upload and of the background recall are passed on.
    fn look(&mut self, id: EndpointId, endpoint: &Endpoint, tiered: &Tiered) {
        if self.known.get(&id).is_none_or(|known| !known.is_same(tiered)) {
            self.known.insert(id, tiered.clone());
            endpoint.desk.wish();
        }
        let status = endpoint.shown().status;
        let is_live = |status: &&polder_engine::Status| {
            matches!(status.phase, Phase::Syncing | Phase::Problems | Phase::InSync)
        };
        let live = status.as_deref().filter(is_live);
        endpoint.desk.set_reachable(live.is_some());
        if live.is_some_and(|status| !status.scanning && status.up.count == 0) {
            endpoint.desk.uploaded();
        }
        if endpoint.desk.take_brought() {
            endpoint.tell(Input::Brought);
        }
    }

    fn keep_volumes(&mut self, mut seats: BTreeMap<u64, Vec<Seat>>) {
        self.volumes.retain(|device, volume| {
            let stays = seats.contains_key(device);
            if !stays {
                volume.cancel.cancel();
            }
            stays
        });
        while let Some((device, seats)) = seats.pop_first() {
            match self.volumes.get(&device) {
                Some(volume) => *volume.seats.lock().expect(LOCK) = seats,
                None => {
                    let (seats, cancel) = (Arc::new(Mutex::new(seats)), Cancel::default());
                    let (of_thread, ended) = (Arc::clone(&seats), cancel.clone());
                    let of_background = (Arc::clone(&seats), cancel.clone());
                    drop(spawn_thread("volume", move || keep(&of_thread, &ended)));
                    drop(spawn_thread("background", move || bring(&of_background.0, &of_background.1)));
                    self.volumes.insert(device, VolumeThread { seats, cancel });
                }
            }
        }
    }
}

/// A volume's thread.
fn keep(seats: &Mutex<Vec<Seat>>, ended: &Cancel) {
    let (mut keeper, clock) = (Keeper::default(), SystemClock::new());
    while !ended.is_cancelled() {
        let now: Vec<Seat> = seats.lock().expect(LOCK).clone();
        keeper.tick(&now, &clock, ended);
        std::thread::sleep(TICK);
    }
}

/// A volume's thread for what came as names alone: beside the other one, which is to make room at any time.
fn bring(seats: &Mutex<Vec<Seat>>, ended: &Cancel) {
    let (mut background, clock) = (Background::default(), SystemClock::new());
    while !ended.is_cancelled() {
        let now: Vec<Seat> = seats.lock().expect(LOCK).clone();
        background.tick(&now, &clock, ended);
        std::thread::sleep(TICK);
    }
}

/// Hands the uses of the last seconds to the endpoint's thread, and tells who recalled what.
fn note(endpoint: &Endpoint) {
    let uses = endpoint.desk.book.take_uses();
    if !uses.is_empty() {
        endpoint.tell(Input::Uses(uses));
    }
    let (recalls, unlogged) = endpoint.desk.book.take_log();
    let id = endpoint.assignment.lock().expect(LOCK).endpoint;
    let tiered = endpoint.tiered();
    for (node, program, user, bytes) in recalls {
        let file = tiered.as_ref().zip(node).and_then(|(tiered, node)| tiered.file(node).ok());
        let path = file.map(|file| file.path.to_string());
        let node = node.map(|node| node.to_string());
        let program = polder_types::Escaped(program.as_bytes()).to_string();
        tracing::info!(endpoint = %id, node, path, program, user, bytes, "recalled");
    }
    if unlogged > 0 {
        tracing::info!(endpoint = %id, bytes = unlogged, "further recalls, too many to be told one by one");
    }
}
