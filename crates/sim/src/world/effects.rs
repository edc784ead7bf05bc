//! What engines want of their disks, carried out over time.

use polder_engine::{Effect, Event, JobId, ReadOutcome};
use polder_sync::ReadIntent;
use polder_types::{PackId, Stamp};

use super::{What, World};
use crate::disk::{Token, content_of, is_absent};
use crate::host::apply::Race;
use crate::host::look::WalkStep;
use crate::host::recycle::Displaced;
use crate::host::{Counted, Host};
use crate::rng::Rng;
use crate::service::store::Damage;
use crate::story::{Deed, Line};

/// How often open displaced files are looked at.
const DISPLACED_MS: u64 = 500;
/// How often the recycle area is looked at, and how long known content stays there, when it is let go in a run.
const EXPIRE_MS: u64 = 3_000;
const KEPT_MS: u64 = 8_000;
/// A put is tried so often.
const PUT_TRIES: u32 = 5;

impl World {
    pub(super) fn carry_out(&mut self, host: usize, life: u64, effect: Effect) {
        match effect {
            Effect::WakeAt(at) => {
                self.hosts[host].wake = Some(at);
                let at = at + self.hosts[host].began_ms;
                self.push(at, What::Fact { host, life, session: None, event: Box::new(Event::Woke) });
            }
            Effect::Status(status) => {
                self.check_status(host, &status);
                self.report(host);
            }
            Effect::Cancel(_) => (),
            Effect::Log(line) => self.note(format_args!("s{host} log: {}", line.text)),
            Effect::Credit { job, more } => {
                self.hosts[host].credit(job, more);
                self.push(self.time + 1, What::Walk { host, life, job });
            }
            Effect::Announce { .. }
            | Effect::FetchFeed { .. }
            | Effect::FetchTree { .. }
            | Effect::Send { .. } => self.send_request(host, life, effect),
            effect => {
                if let Effect::Apply(apply) = &effect {
                    self.check_apply(host, apply);
                    self.moves += 1;
                }
                let delay = self.delay(host, 30);
                self.push(self.time + delay, What::Disk { host, life, effect: Box::new(effect) });
            }
        }
    }

    /// A fact comes back after a while.
    pub(super) fn reply(&mut self, host: usize, life: u64, session: Option<u64>, event: Event) {
        let delay = match session {
            Some(_) => self.way(host),
            None => self.delay(host, 20),
        };
        self.push(self.time + delay, What::Fact { host, life, session, event: Box::new(event) });
    }

    /// Work of a server's threads.
    pub(super) fn work(&mut self, what: What) {
        let (host, life) = match &what {
            What::Disk { host, life, .. }
            | What::ReadEnd { host, life, .. }
            | What::Walk { host, life, .. }
            | What::Step { host, life, .. }
            | What::Displaced { host, life, .. }
            | What::Expire { host, life }
            | What::Settle { host, life }
            | What::CheckRoot { host, life }
            | What::PackLeaves { host, life, .. }
            | What::PackArrives { host, life, .. }
            | What::PackSettled { host, life, .. } => (*host, *life),
            _ => return,
        };
        if !self.is_alive(host, life) {
            return;
        }
        self.hosts[host].set_clock(self.time);
        match what {
            What::Disk { effect, .. } => self.disk(host, life, *effect),
            What::ReadEnd { read, .. } => self.read_end(host, life, &read.0, read.1),
            What::Walk { job, .. } => self.walk(host, life, job),
            What::Step { job, .. } => self.apply_step(host, life, job),
            What::Displaced { displaced, .. } => self.displaced(host, life, displaced),
            What::Expire { .. } => self.expire(host, life),
            What::Settle { .. } => self.hosts[host].commit(true),
            What::CheckRoot { .. } => match self.hosts[host].mounted {
                true => self.push(self.time + 1_000, What::CheckRoot { host, life }),
                false => self.end_life(host),
            },
            What::PackLeaves { pack, .. } => {
                self.hosts[host].packing.filling = None;
                let delay = 20 + self.delay(host, 200);
                self.push(self.time + delay, What::PackArrives { host, life, pack, tries: PUT_TRIES });
            }
            What::PackArrives { pack, tries, .. } => self.pack_arrives(host, life, pack, tries),
            What::PackSettled { pack, stored, .. } => match self.hosts[host].told_ms {
                at if at > self.time => self.push(at, What::PackSettled { host, life, pack, stored }),
                _ => self.pack_settled(host, life, pack, stored),
            },
            _ => unreachable!("all others have no life"),
        }
    }

    fn disk(&mut self, host: usize, life: u64, effect: Effect) {
        match effect {
            Effect::Look { job, places } => {
                let looks = self.hosts[host].look(&places);
                self.reply(host, life, None, Event::Looked { job, looks });
            }
            Effect::MakeDurable { job } => {
                self.hosts[host].disk.sync_all();
                self.reply(host, life, None, Event::MadeDurable { job });
            }
            Effect::List { job, dir, recursive, credit } => {
                if recursive && dir.path.names().is_empty() {
                    self.hosts[host].disk.untold = false;
                }
                self.hosts[host].begin_walk(job, &dir, recursive, credit);
                self.walk(host, life, job);
            }
            Effect::Read(read) => {
                if self.hosts[host].is_cancelled(read.job) {
                    return;
                }
                // Whoever reads in the tick of the last change waits for the next.
                let ctime = self.hosts[host].read_look(&read).map(|(_, (stamp, _))| stamp.ctime);
                if ctime.is_some_and(|ctime| !self.hosts[host].disk.has_passed(ctime))
                    && !self.hosts[host].count(Counted::Tick).is_multiple_of(6)
                {
                    let effect = Box::new(Effect::Read(read));
                    return self.push(self.time + 1, What::Disk { host, life, effect });
                }
                let began = self.hosts[host].read_begin(&read);
                let delay = self.delay(host, 100);
                self.push(self.time + delay, What::ReadEnd { host, life, read: Box::new((read, began)) });
            }
            Effect::Apply(apply) => {
                if !self.hosts[host].is_cancelled(apply.job) {
                    self.begin_apply(host, life, apply);
                }
            }
            _ => unreachable!("all others are carried out elsewhere"),
        }
    }

    fn walk(&mut self, host: usize, life: u64, job: JobId) {
        match self.hosts[host].walk_on(job) {
            WalkStep::Void | WalkStep::Wait => (),
            WalkStep::Silent => {
                let delay = 1 + self.delay(host, 15);
                self.push(self.time + delay, What::Walk { host, life, job });
            }
            WalkStep::Reading => {
                let delay = 1 + self.delay(host, 30);
                self.push(self.time + delay, What::Walk { host, life, job });
            }
            WalkStep::Fact(event) => {
                let more = matches!(*event, Event::Listed { .. });
                // Facts of one walk stay in order: the fact comes before the walk goes on.
                let at = self.told_at(host);
                self.push(at, What::Fact { host, life, session: None, event });
                if more {
                    let delay = 1 + self.delay(host, 15);
                    self.push(self.time + delay, What::Walk { host, life, job });
                }
            }
        }
    }

    /// When a server's engine hears what its threads find out now, in the order in which they did.
    fn told_at(&mut self, host: usize) -> u64 {
        if !self.plan.slow {
            return self.time;
        }
        let at = self.time + self.delay(host, 40);
        let told_ms = &mut self.hosts[host].told_ms;
        *told_ms = at.max(*told_ms);
        *told_ms
    }

    fn read_end(
        &mut self,
        host: usize,
        life: u64,
        read: &polder_engine::Read,
        began: Option<(Stamp, Token)>,
    ) {
        let job = read.job;
        let outcome = self.read_outcome(host, life, read, began);
        if !matches!(outcome, ReadOutcome::Stable { .. }) {
            self.hosts[host].packing.forget(job);
        }
        self.tell(host, life, Event::Read { job, outcome });
    }

    /// What a server's threads found out, in their order: that a pack is stored must not overtake the read that waits for it.
    fn tell(&mut self, host: usize, life: u64, event: Event) {
        match self.told_at(host) {
            at if at == self.time => self.step(host, event),
            at => self.push(at, What::Fact { host, life, session: None, event: Box::new(event) }),
        }
    }

    fn read_outcome(
        &mut self,
        host: usize,
        life: u64,
        read: &polder_engine::Read,
        began: Option<(Stamp, Token)>,
    ) -> ReadOutcome {
        if let Some(why) = self.hosts[host].why_unreadable(read) {
            return ReadOutcome::Failed(why);
        }
        let ended = self.hosts[host].read_look(read).map(|(_, found)| found);
        let (Some(began), Some(ended)) = (began, ended) else { return ReadOutcome::Gone };
        // The attributes may change under a lease, the content cannot.
        if (Stamp { ctime: ended.0.ctime, ..began.0 }, began.1) != ended {
            return ReadOutcome::Changed;
        }
        let entry =
            self.hosts[host].read_entry((&read.at.dir, &read.at.name)).expect("it stood there just now");
        if is_absent(ended.1) {
            self.violated(format!("s{host} reads freed bytes of {:?}", read.at.name));
        }
        let content = content_of(ended.1);
        if read.intent == ReadIntent::Hash {
            self.hosts[host].make_durable();
            return ReadOutcome::Stable { entry, content, stored: false };
        }
        let filling = self.hosts[host].packing.filling;
        let packed = self.hosts[host].pack(read.job, &content, &self.service);
        if let Some(pack) = self.hosts[host].packing.filling.filter(|now| filling != Some(*now)) {
            let delay = self.delay(host, 50);
            self.push(self.time + delay, What::PackLeaves { host, life, pack });
        }
        match packed {
            Ok(stored) => ReadOutcome::Stable { entry, content, stored },
            Err(why) => ReadOutcome::Failed(why),
        }
    }

    fn pack_arrives(&mut self, host: usize, life: u64, pack: PackId, tries: u32) {
        let Some(open) = self.hosts[host].link.and_then(|link| link.open) else {
            return self.push(self.time, What::PackSettled { host, life, pack, stored: false });
        };
        let endpoint = self.hosts[host].endpoint;
        if !self.service.is_open(endpoint, Some(open)) {
            self.open_anew(host);
            return self.push(self.time, What::PackSettled { host, life, pack, stored: false });
        }
        let nth = self.hosts[host].count(Counted::Pack);
        let percent = self.plan.damage;
        let bad = self.fault(host, "pack", nth, |rng| {
            let damage = *rng.pick(&[Damage::Lost, Damage::Torn, Damage::Flipped]);
            rng.chance(percent).then_some(Deed::Bad(nth, damage))
        });
        let damage = match bad {
            Some(Deed::Bad(_, damage)) => Some(damage),
            _ => None,
        };
        let percent = self.plan.loss;
        let lost = self.fault(host, "put", nth, |rng| {
            rng.chance(percent).then_some(Deed::Lose(1_000_000 + nth, rng.chance(50)))
        });
        if !matches!(lost, Some(Deed::Lose(_, false))) {
            let Some(chunks) = self.hosts[host].packing.on_their_way.get(&pack).cloned() else { return };
            self.service.put_pack(pack, &chunks, damage);
            self.note(format_args!("s{host} stores {pack}"));
            let delay = 300 + self.delay(host, 2_000);
            self.push(self.time + delay, What::Verify);
        }
        match (lost, tries) {
            (None, _) => {
                let delay = 2 + self.delay(host, 60);
                self.push(self.time + delay, What::PackSettled { host, life, pack, stored: true });
            }
            (Some(_), 1) => self.push(self.time, What::PackSettled { host, life, pack, stored: false }),
            (Some(_), _) => {
                let delay = 100 << (PUT_TRIES - tries);
                let again = What::PackArrives { host, life, pack, tries: tries - 1 };
                self.push(self.time + delay, again);
            }
        }
    }

    fn pack_settled(&mut self, host: usize, life: u64, pack: PackId, stored: bool) {
        let jobs = self.hosts[host].settle_pack(pack, stored);
        if jobs.is_empty() {
            return;
        }
        if stored {
            self.tell(host, life, Event::Stored { jobs });
        } else {
            let class = polder_engine::FailureClass::Unreachable;
            let why = polder_engine::Failure { class, text: "a pack could not be stored".into() };
            self.tell(host, life, Event::StoreFailed { jobs, why });
        }
    }

    fn begin_apply(&mut self, host: usize, life: u64, apply: polder_engine::Apply) {
        let nth = self.hosts[host].count(Counted::Apply);
        let (steps, percent, power) = (apply.steps.len() as u64, self.plan.apply_crashes, self.plan.power);
        let alone = self.plan.alone;
        let crash = self.fault(host, "apply", nth, |rng| {
            let cut = power && rng.chance(60) && !alone;
            let (step, seed) = (rng.below(steps + 1) as usize, rng.next() >> 16);
            rng.chance(percent).then_some(Deed::CrashIn(nth, step, cut.then_some(seed)))
        });
        let percent = self.plan.races;
        let race = self.fault(host, "race", nth, |rng| {
            rng.chance(percent).then_some(Deed::Race(nth, rng.below(steps) as usize))
        });
        let service = &self.service;
        let job = self.hosts[host].as_agent(|server| server.begin_apply(apply, service));
        if let Some(Deed::Race(_, step)) = race {
            let token = self.ghost.draw();
            if let Some(at) = self.hosts[host].race_of(job) {
                *at = Some(Race { step, token, done: None });
            }
        }
        if let Some(Deed::CrashIn(_, step, seed)) = crash {
            for _ in 0..step {
                self.hosts[host].as_agent(|server| server.apply_step(job));
            }
            self.raced(host, job);
            match seed {
                Some(seed) => self.power_cut(host, seed),
                None => self.kill(host),
            }
            return;
        }
        if self.plan.stepwise {
            return self.push(self.time + 1, What::Step { host, life, job });
        }
        while self.hosts[host].as_agent(|server| server.apply_step(job)) {}
        self.end_apply(host, life, job);
    }

    fn apply_step(&mut self, host: usize, life: u64, job: JobId) {
        if self.hosts[host].as_agent(|server| server.apply_step(job)) {
            let delay = self.delay(host, 6);
            return self.push(self.time + delay, What::Step { host, life, job });
        }
        self.end_apply(host, life, job);
    }

    /// A write at the worst moment has happened: its bytes are a user's.
    fn raced(&mut self, host: usize, job: JobId) {
        let race = self.hosts[host].race_of(job).and_then(|race| *race);
        if let Some(Race { token, done: Some(before), .. }) = race {
            self.ghost.written(token);
            self.ghost.taken(before);
        }
    }

    fn end_apply(&mut self, host: usize, life: u64, job: JobId) {
        self.raced(host, job);
        let Some(applied) = self.hosts[host].as_agent(|server| server.finish_apply(job)) else { return };
        let delay = self.delay(host, 20);
        let at = self.time + delay;
        self.push(at, What::Fact { host, life, session: None, event: Box::new(applied.event) });
        if !applied.displaced.is_empty() {
            // After the results: a rescued file must not be taken for one that moved.
            self.push(at, What::Displaced { host, life, displaced: applied.displaced });
        }
    }

    fn displaced(&mut self, host: usize, life: u64, displaced: Vec<Displaced>) {
        let rescued = match displaced.is_empty() {
            true => self.hosts[host].as_agent(Host::look_after_displaced),
            false => self.hosts[host].as_agent(|server| server.watch_displaced(displaced)),
        };
        for event in rescued {
            self.reply(host, life, None, event);
        }
        if !self.hosts[host].recycle.watched.is_empty() {
            self.push(self.time + DISPLACED_MS, What::Displaced { host, life, displaced: Vec::new() });
        }
    }

    fn expire(&mut self, host: usize, life: u64) {
        let wall_ms = self.hosts[host].wall_ms(self.time);
        for freed in self.hosts[host].expire_recycled(&self.service, wall_ms, KEPT_MS) {
            self.check_freed(host, freed.token);
        }
        if !self.healed {
            self.push(self.time + EXPIRE_MS, What::Expire { host, life });
        }
    }

    /// A fault that is drawn for one thing, or told of it.
    pub(super) fn fault(
        &mut self,
        host: usize,
        kind: &'static str,
        nth: u64,
        draw: impl FnOnce(&mut Rng) -> Option<Deed>,
    ) -> Option<Deed> {
        if self.healed {
            return None;
        }
        let deed = match &self.plan.script {
            Some(_) => self.told.get(&(host, kind, nth)).cloned(),
            None => {
                let salt = kind.bytes().fold(0, |sum: u64, byte| sum * 31 + u64::from(byte));
                draw(&mut Rng::of(self.plan.seed, [12 + salt, host as u64, nth]))
            }
        }?;
        self.note(format_args!("s{host} {deed}"));
        self.story.push(Line { at_ms: 0, host, deed: deed.clone() });
        Some(deed)
    }
}
