//! Tiered files: wishes, recalls, and the oracles of what the gate gives (I2) and of what it frees (I4).

use std::collections::BTreeSet;
use std::ops::Range;

use polder_engine::Pin;
use polder_tiering::{Asked, Fetch, Reader};
use polder_types::{ChunkId, Content, Cursor, FileIdent, InstanceId, NodeUid, RelPath, Seq, Stamp};

use super::{What, World};
use crate::disk::{Token, content_of, is_absent, is_zeros, size_of};
use crate::ghost::all_contents;
use crate::host::gate::{Failed, Given, Left, Stop, Waiting, Want, ident_of};
use crate::host::{Counted, Host};
use crate::service::store::Fetched;
use crate::story::Deed;
use crate::tiers::{self, Wish};
use crate::users::{self, Act};

/// How long a program waits for the share, and how long it is at most until it has its answer.
const RECALL_WAIT_MS: u64 = 30_000;
const ANSWER_MS: u64 = 2 * RECALL_WAIT_MS + 20_000;

/// What goes on at a gate, each in the process that began it.
pub(super) enum At {
    /// What the service said of a file's chunks has arrived.
    Leave(Box<Leave>),
    /// A piece is to be fetched; since when it is tried.
    Piece(Fetch, u64),
    /// Its chunks have arrived.
    Here(Fetch, u64, Vec<(usize, ChunkId)>),
    /// What stands at the endpoint reaches the service.
    Report(InstanceId, Pin),
}

/// A file that is to be given up.
pub(super) struct Leave {
    ino: u64,
    ident: FileIdent,
    row: (NodeUid, Seq, Stamp, Content),
    verified: Result<BTreeSet<ChunkId>, Failed>,
    /// The life of the service that said so.
    boots: u64,
}

impl World {
    /// The next wish is drawn.
    pub(super) fn wish(&mut self, host: usize) -> Option<Deed> {
        if !self.hosts[host].gate.on || self.plan.alone && host != 0 {
            return None;
        }
        tiers::choose(&self.hosts[host], &mut self.wishes).map(Deed::Wish)
    }

    fn at_gate(&mut self, host: usize, delay: u64, at: At) {
        let process = self.hosts[host].process;
        self.push(self.time + delay, What::Gate { host, process, at: Box::new(at) });
    }

    pub(super) fn gate(&mut self, host: usize, process: u64, at: At) {
        if !self.hosts[host].running || self.hosts[host].process != process {
            return;
        }
        if !self.hosts[host].mounted {
            return self.at_gate(host, 500, at);
        }
        self.hosts[host].set_clock(self.time);
        match at {
            At::Leave(leave) => self.leave(host, *leave),
            At::Piece(fetch, since) => {
                let wanted = self.hosts[host].as_agent(|host| host.wanted(ident_of(fetch.node), fetch.piece));
                let late = if self.delay(host, 8) == 0 { self.delay(host, 8_000) } else { 0 };
                let delay = 5 + self.delay(host, 150) + late;
                self.at_gate(host, delay, At::Here(fetch, since, wanted));
            }
            At::Here(fetch, since, wanted) => self.piece_is_here(host, fetch, since, &wanted),
            At::Report(opening, pin) => {
                let endpoint = self.hosts[host].endpoint;
                if self.service.is_open(endpoint, Some(opening)) {
                    self.pins_told.insert(endpoint, pin.cursor.seq);
                    self.service.report(endpoint, &pin);
                    self.copies_are_unheld(host);
                }
            }
        }
    }

    /// A process begins to serve: whoever waits asks again.
    pub(super) fn gate_begins(&mut self, host: usize) {
        if !self.hosts[host].gate.on {
            return;
        }
        self.hosts[host].as_agent(crate::host::Host::gate_begins);
        let waiting: Vec<u64> = self.hosts[host].gate.waiting.keys().copied().collect();
        waiting.into_iter().for_each(|reader| self.ask(host, reader));
    }

    /// What stands at an endpoint is told, so that the share keeps what its placeholders stand for.
    pub(super) fn report(&mut self, host: usize) {
        let open = self.hosts[host].link.and_then(|link| link.open);
        let pin = self.hosts[host].status.as_ref().and_then(|status| status.pin.clone());
        let pin = pin.filter(|pin| pin.cursor != Cursor::default());
        if let (true, Some(opening), Some(pin)) = (self.plan.history, open, pin) {
            let delay = 20 + self.delay(host, 1_000);
            self.at_gate(host, delay, At::Report(opening, pin));
        }
    }

    /// A user's action at a server that tiers. `None`: it goes its way; else whether anything came of it.
    pub(super) fn act_at_gate(&mut self, host: usize, act: &Act) -> Option<bool> {
        if !self.hosts[host].gate.on {
            return None;
        }
        let by_descriptor = matches!(act, Act::Put(_) | Act::Store(_) | Act::Close(_));
        if !self.hosts[host].is_served() {
            return (!by_descriptor).then_some(false);
        }
        let (path, want) = match act {
            Act::Edit(path) => (path, Want::Write),
            Act::Open(path, program) => (path, Want::Open(*program)),
            Act::Copy(path, to) => (path, Want::Copy(to.clone())),
            Act::Create(path) => return self.create_over(host, path),
            _ => return None,
        };
        let ino = self.hosts[host].disk.walk(path)?;
        self.hosts[host].disk.mark(ino)?;
        let size = self.hosts[host].disk.token(ino).map_or(0, size_of);
        self.wait_for(host, ino, 0..size, want);
        Some(true)
    }

    /// A program opens a placeholder to write it anew: it is cut to nothing, and then written.
    fn create_over(&mut self, host: usize, path: &RelPath) -> Option<bool> {
        let ino = self.hosts[host].disk.walk(path)?;
        self.hosts[host].disk.mark(ino)?;
        if self.make_empty(host, ino) {
            users::write_to(&mut self.hosts[host], &mut self.ghost, ino);
        }
        Some(true)
    }

    /// Whether it was done before the process ended.
    fn make_empty(&mut self, host: usize, ino: u64) -> bool {
        let before = self.hosts[host].disk.token(ino);
        let empty = |world: &mut Self, left: &mut usize| world.hosts[host].make_empty(ino, left);
        let done = self.in_order(host, empty).is_ok();
        // The gate tells of what programs do.
        self.hosts[host].disk.hint_file(ino);
        // Whoever cuts a file has taken what was in it away, be it that the answer does not come.
        before.filter(|token| !is_zeros(*token)).into_iter().for_each(|token| self.ghost.taken(token));
        done
    }

    /// Runs what changes a file's presence; a fault may end the process after some of its calls.
    fn in_order<T>(
        &mut self,
        host: usize,
        work: impl FnOnce(&mut Self, &mut usize) -> Result<T, Stop>,
    ) -> Result<T, Stop> {
        let nth = self.hosts[host].count(Counted::Order);
        let (percent, power, alone) = (self.plan.cut_offs, self.plan.power, self.plan.alone);
        let fault = self.fault(host, "order", nth, |rng| {
            let (calls, seed) = (rng.below(9) as usize, rng.next() >> 16);
            let cut = power && rng.chance(60) && !(alone && host != 0);
            rng.chance(percent).then_some(Deed::CutOff(nth, calls, cut.then_some(seed)))
        });
        let (mut left, seed) = match fault {
            Some(Deed::CutOff(_, calls, seed)) => (calls, Some(seed)),
            _ => (usize::MAX, None),
        };
        let done = work(self, &mut left);
        if matches!(done, Err(Stop::Ended)) {
            match seed.flatten() {
                Some(seed) => self.power_cut(host, seed),
                None => self.kill(host),
            }
        }
        self.check_presence(host);
        done
    }

    /// Somebody wishes something of a file. Whether anything came of it.
    pub(super) fn wished(&mut self, host: usize, wish: &Wish) -> bool {
        let server = &self.hosts[host];
        let file = server.disk.walk(wish.path()).filter(|ino| server.disk.token(*ino).is_some());
        let Some(ino) = file.filter(|_| server.is_served() && server.gate.on) else { return false };
        let size = server.disk.token(ino).map_or(0, size_of);
        match wish {
            Wish::Tier(_) => return self.tier(host, ino),
            Wish::Recall(_) if server.disk.mark(ino).is_none() => return false,
            Wish::Recall(_) => self.wait_for(host, ino, 0..size, Want::Recall),
            Wish::Read(_, from, len) => {
                let from = (from * 1024).min(size);
                let range = from..(from + len * 1024).min(size);
                self.wait_for(host, ino, range, Want::Read);
            }
            Wish::Cut(_) => {
                if server.disk.mark(ino).is_none() {
                    return users::cut(&mut self.hosts[host], &mut self.ghost, ino).is_some();
                }
                self.make_empty(host, ino);
            }
        }
        true
    }

    /// A file is to be given up: the service is asked about its chunks first.
    fn tier(&mut self, host: usize, ino: u64) -> bool {
        let server = &self.hosts[host];
        let Some(row) = server.row_of(ino) else { return false };
        let chunks: Vec<ChunkId> = row.3.direct_chunks().collect();
        let verified = match server.link.and_then(|link| link.open) {
            None => Err(Failed::Share),
            Some(_) => Ok(chunks.into_iter().filter(|chunk| self.service.have(*chunk)).collect()),
        };
        let (ident, boots) = (server.disk.ident(ino), self.service.boots);
        let delay = 5 + self.delay(host, 200);
        self.at_gate(host, delay, At::Leave(Box::new(Leave { ino, ident, row, verified, boots })));
        true
    }

    fn leave(&mut self, host: usize, leave: Leave) {
        let Leave { ino, ident, row, verified, boots } = leave;
        if self.hosts[host].file_of(ident) != Some(ino) {
            return;
        }
        let (mut freed, mut left) = (None, None);
        let _ = self.in_order(host, |world, calls| {
            let (done, bytes) = world.hosts[host].give_up(ino, row, &verified, calls);
            (freed, left) = (bytes, done.ok());
            done
        });
        self.note(format_args!("s{host} gives up {ino}: {left:?}"));
        if let Some(token) = freed {
            self.check_left(host, token, boots);
        }
        if left == Some(Left::Tiered) {
            self.at_gates.given_up += 1;
        }
    }

    /// A program waits for bytes of a file, which it has open.
    fn wait_for(&mut self, host: usize, ino: u64, range: Range<u64>, want: Want) {
        let ident = self.hosts[host].disk.ident(ino);
        self.hosts[host].disk.hold_open(ino);
        let waiting = Waiting { ino, ident, range, want, since_ms: self.time };
        let reader = self.hosts[host].gate.wait(waiting);
        self.ask(host, reader);
    }

    fn ask(&mut self, host: usize, reader: u64) {
        let Some(waiting) = self.hosts[host].gate.waiting.get(&reader).cloned() else { return };
        let marked = self.hosts[host].disk.mark(waiting.ino).is_some();
        if !marked {
            return self.answer(host, reader);
        }
        match self.hosts[host].as_agent(|host| host.ask(reader)) {
            Some(Asked::Ready) => {
                // Whoever wants all of it has it here, and nobody has made it resident yet.
                self.settle(host, waiting.ident);
                self.answer(host, reader);
            }
            Some(Asked::Waits) => self.fetch_on(host),
            Some(Asked::Full) | None => self.give_in(host, reader, "too many wait"),
        }
    }

    fn fetch_on(&mut self, host: usize) {
        while let Some((_, fetch)) = self.hosts[host].gate.queue.start_next() {
            self.at_gate(host, 0, At::Piece(fetch, self.time));
        }
    }

    fn piece_is_here(&mut self, host: usize, fetch: Fetch, since: u64, wanted: &[(usize, ChunkId)]) {
        let ident = ident_of(fetch.node);
        let brought = self.hosts[host].bring(ident, wanted, &self.service);
        self.note(format_args!("s{host} piece {} of {}: {brought:?}", fetch.piece, ident.ino));
        if brought == Err(Failed::Share) && self.time < since + RECALL_WAIT_MS {
            let delay = 5 + self.delay(host, 95);
            return self.at_gate(host, delay, At::Piece(fetch, since));
        }
        if brought.is_ok() && self.hosts[host].may_settle(ident) {
            self.settle(host, ident);
        }
        if !self.hosts[host].running {
            return;
        }
        let settled = self.hosts[host].gate.queue.settle(fetch, brought.is_ok());
        for Reader(reader) in settled.ready {
            self.answer(host, reader);
        }
        for Reader(reader) in settled.failed {
            match brought {
                Err(Failed::NoSpace) => self.read_through(host, reader),
                _ => self.give_in(host, reader, "an error"),
            }
        }
        self.fetch_on(host);
    }

    fn settle(&mut self, host: usize, ident: FileIdent) {
        if !self.hosts[host].may_settle(ident) {
            return;
        }
        let settled = self.in_order(host, |world, left| world.hosts[host].settle(ident, left));
        self.note(format_args!("s{host} makes {} resident: {settled:?}", ident.ino));
        if settled.is_ok() {
            self.at_gates.resident += 1;
        }
    }

    /// Somebody who waits gets what it waited for, if it is there.
    fn answer(&mut self, host: usize, reader: u64) {
        let Some(waiting) = self.hosts[host].gate.waiting.get(&reader).cloned() else { return };
        let (ino, marked) = (waiting.ino, self.hosts[host].disk.mark(waiting.ino).is_some());
        let late = self.time > waiting.since_ms + ANSWER_MS;
        if waiting.want == Want::Read || matches!(waiting.want, Want::Copy(_)) {
            match self.hosts[host].read_here(ino, &waiting.range) {
                Given::Bytes(bytes) => self.given(host, reader, &bytes),
                Given::Absent if late => self.give_in(host, reader, "an error"),
                // What was here was given up again.
                Given::Absent => self.ask_again(host, reader),
            }
        } else if !marked {
            self.done(host, reader);
        } else if late {
            self.give_in(host, reader, "an error");
        } else {
            self.ask_again(host, reader);
        }
    }

    fn ask_again(&mut self, host: usize, reader: u64) {
        let Some(waiting) = self.hosts[host].gate.waiting.get(&reader).cloned() else { return };
        match self.hosts[host].as_agent(|host| host.ask(reader)) {
            Some(Asked::Waits) => self.fetch_on(host),
            _ if waiting.want == Want::Read => self.give_in(host, reader, "an error"),
            _ => {
                self.settle(host, waiting.ident);
                match self.hosts[host].disk.mark(waiting.ino) {
                    None => self.done(host, reader),
                    Some(_) if self.hosts[host].running => self.give_in(host, reader, "an error"),
                    Some(_) => (),
                }
            }
        }
    }

    /// There is no room: bytes are given and not kept. Who wants to write gets an error.
    fn read_through(&mut self, host: usize, reader: u64) {
        let Some(waiting) = self.hosts[host].gate.waiting.get(&reader).cloned() else { return };
        let Some(mark) = self.hosts[host].disk.mark(waiting.ino).cloned() else {
            return self.answer(host, reader);
        };
        if waiting.want != Want::Read {
            return self.give_in(host, reader, "no room");
        }
        let chunks: Vec<ChunkId> = content_of(mark.token).direct_chunks().collect();
        let come = chunks.into_iter().all(|chunk| self.hosts[host].fetch(chunk, &self.service).is_ok());
        match come {
            true => self.given(host, reader, &[mark.token]),
            false => self.give_in(host, reader, "an error"),
        }
    }

    /// An error: nothing was changed.
    fn give_in(&mut self, host: usize, reader: u64, why: &str) {
        self.note(format_args!("s{host} {reader} gets {why}"));
        self.at_gates.refused += 1;
        self.over(host, reader);
    }

    fn over(&mut self, host: usize, reader: u64) -> Option<Waiting> {
        self.hosts[host].gate.queue.cancel(Reader(reader));
        let waiting = self.hosts[host].gate.waiting.remove(&reader)?;
        self.hosts[host].disk.close(waiting.ino, None);
        Some(waiting)
    }

    /// A reader gets bytes (I2).
    fn given(&mut self, host: usize, reader: u64, bytes: &[Token]) {
        let Some(waiting) = self.hosts[host].gate.waiting.get(&reader).cloned() else { return };
        let token = self.hosts[host].disk.token(waiting.ino).unwrap_or_default();
        if bytes.iter().any(|other| *other != token || is_absent(*other)) {
            self.violated(format!("s{host}: a reader of {token} got {bytes:?}"));
        }
        self.note(format_args!("s{host} {reader} has read {token}"));
        self.at_gates.read += 1;
        self.done(host, reader);
    }

    /// Somebody has waited for what is there now.
    fn done(&mut self, host: usize, reader: u64) {
        let Some(waiting) = self.over(host, reader) else { return };
        let server = &mut self.hosts[host];
        if server.file_of(waiting.ident).is_none() {
            return;
        }
        match waiting.want {
            Want::Read | Want::Recall => (),
            Want::Write => drop(users::write_to(server, &mut self.ghost, waiting.ino)),
            // All programs have ended by then, and so has this one: it would keep the file open, and its times as they are, for ever.
            Want::Open(_) if self.healed => (),
            Want::Open(program) => drop(users::open(server, waiting.ino, program)),
            Want::Copy(to) => {
                if let Some(token) = server.disk.token(waiting.ino) {
                    users::copy_bytes(server, token, &to);
                }
            }
        }
    }

    /// Bytes were freed that were no placeholder's (I4): they are a version in the share's history, and can be read there.
    fn check_left(&mut self, host: usize, token: Token, boots: u64) {
        let content = content_of(token);
        let sound = |chunk: ChunkId| {
            let at = self.service.locate(chunk);
            self.service.have(chunk)
                && at.is_some_and(|pack| self.service.store.fetch(pack, chunk) == Fetched::Sound)
        };
        let held = !is_absent(token) && content.direct_chunks().all(sound);
        let known = all_contents(&self.service).any(|other| *other == content);
        // Whoever was told that all is there, and gave it up before it heard that the share was set back, cannot know.
        let could_not_know = self.set_back && boots != self.service.boots;
        if !(held && known || could_not_know) {
            self.violated(format!("s{host} freed the bytes {token}, which the share does not hold verified"));
        }
    }

    /// No file without a mark shows what is not here (I2).
    pub(super) fn check_presence(&mut self, host: usize) {
        if let Some(ino) = self.hosts[host].disk.shows_freed().filter(|_| self.hosts[host].gate.on) {
            self.violated(format!("s{host}: file {ino} has no mark, and not all of its bytes"));
        }
    }

    /// What placeholders stand for can be read in the share (I14).
    pub(super) fn check_placeholders(&mut self) {
        if self.plan.damage > 0 {
            return;
        }
        let lost = self.lost_placeholders();
        // An endpoint tells once a second what stands there. A version that came since, and went in the share before it was told of, is not held
        // (docs/semantics.md).
        let is_untold = |(host, ino, _): &(usize, u64, Token)| {
            let told = self.pins_told.get(&self.hosts[*host].endpoint).copied().unwrap_or(Seq(0));
            self.hosts[*host].disk.mark(*ino).is_some_and(|mark| mark.pledge.since > told)
        };
        let (untold, lost): (Vec<_>, Vec<_>) = lost.into_iter().partition(is_untold);
        self.unheld.extend(untold.into_iter().map(|(host, _, token)| (host, token)));
        if let Some((host, _, token)) = lost.first() {
            self.violated(format!("s{host}: a placeholder stands for {token}, which the share has let go"));
        }
    }

    /// To the service a machine and its copy are one endpoint: with what the one tells, what is held moves on, and nobody can know what the other
    /// stands for, which may be off.
    fn copies_are_unheld(&mut self, host: usize) {
        let endpoint = self.hosts[host].endpoint;
        let copies = self.hosts.iter().filter(|copy| copy.nth != host && copy.endpoint == endpoint);
        let stood_for: Vec<_> = copies.flat_map(Host::stood_for).collect();
        self.unheld.extend(stood_for);
    }

    /// What placeholders stand for and the share cannot give: nobody can be equal there.
    pub(super) fn unavailable(&self) -> BTreeSet<Token> {
        let hosts = self.hosts.iter().filter(|host| host.gate.on);
        let tokens = hosts.flat_map(Host::stood_for).map(|(_, token)| token);
        tokens.filter(|token| !self.can_be_read(*token)).collect()
    }

    pub(super) fn can_be_read(&self, token: Token) -> bool {
        content_of(token).direct_chunks().all(|chunk| {
            let at = self.service.locate(chunk);
            at.is_some_and(|pack| self.service.store.fetch(pack, chunk) == Fetched::Sound)
        })
    }

    fn lost_placeholders(&self) -> Vec<(usize, u64, Token)> {
        let of_host = |host: &Host| -> Vec<(usize, u64, Token)> {
            let inodes = host.disk.placeholders().into_iter();
            inodes.filter_map(|ino| Some((host.nth, ino, host.disk.token(ino)?))).collect()
        };
        let stand_for = self.hosts.iter().flat_map(of_host);
        let is_held = |host: usize, token: Token| !self.unheld.contains(&(host, token));
        stand_for.filter(|(host, _, token)| is_held(*host, *token) && !self.can_be_read(*token)).collect()
    }

    /// Whether nobody waits, nor has just written to what was displaced meanwhile. Who has such a file open may keep it so for ever.
    pub(super) fn gates_rest(&self) -> bool {
        let rests = |host: &crate::host::Host| !host.gate.on || host.displaced_are_looked_at();
        self.check_waiting().is_ok() && self.hosts.iter().all(rests)
    }

    /// Nobody waits for ever.
    pub(super) fn check_waiting(&self) -> Result<(), String> {
        let waits = self.hosts.iter().find_map(|host| {
            let first = host.gate.waiting.values().next()?;
            Some(format!("{} still waits for {:?}", host.name, first))
        });
        waits.map_or(Ok(()), Err)
    }
}
