//! What could have been otherwise: users and faults, drawn or told.

use std::collections::BTreeSet;

use polder_types::{Content, EndpointId};

use super::{Kind, What, World};
use crate::disk::{Token, content_of};
use crate::ghost::{Others, all_contents, live_tokens, tokens_of_disk};
use crate::host::Host;
use crate::host::gate::Gate;
use crate::rng::Rng;
use crate::story::{Deed, Line};
use crate::users;

impl World {
    /// Puts everything on the heap that happens at a moment.
    pub(super) fn schedule(&mut self) {
        if let Some(script) = self.plan.script.clone() {
            for line in script {
                match keyed(&line.deed) {
                    Some((kind, nth)) => drop(self.told.insert((line.host, kind, nth), line.deed)),
                    None => self.push(line.at_ms, What::Told(Box::new(line))),
                }
            }
            return;
        }
        let plan = self.plan.clone();
        let counts = [
            (Kind::User, plan.actions),
            (Kind::Kill, plan.crashes),
            (Kind::Power, plan.power_cuts),
            (Kind::Unmount, plan.unmounts),
            (Kind::Jump, plan.jumps),
            (Kind::Full, plan.full),
            (Kind::Restart, plan.restarts),
            (Kind::Backup, plan.set_backs),
            (Kind::Checkpoint, plan.reverts),
            (Kind::Clone, plan.clones),
            (Kind::Forget, plan.forgets),
        ];
        for (kind, count) in counts {
            for _ in 0..count {
                let at = self.happenings.below(plan.active_ms);
                let host = self.happenings.below(plan.hosts as u64) as usize;
                self.push(at, What::Happen { host, kind });
            }
        }
        for _ in 0..plan.wishes {
            let at = self.wishes.below(plan.active_ms);
            let host = self.wishes.below(plan.hosts as u64) as usize;
            self.push(at, What::Happen { host, kind: Kind::Wish });
        }
    }

    /// The particulars of something that happens now.
    pub(super) fn happen(&mut self, host: usize, kind: Kind) {
        let later = |rng: &mut Rng| 200 + rng.below(5_000);
        let deed = match kind {
            Kind::User => return self.user(),
            Kind::Wish => match self.wish(host) {
                Some(wish) => wish,
                None => return,
            },
            Kind::Kill => Deed::Kill,
            // What a server has received and does not know any more may go out again as new.
            Kind::Power if self.plan.alone && host != 0 => Deed::Kill,
            Kind::Power => Deed::Power(self.happenings.next() >> 16),
            Kind::Unmount => {
                let at = self.time + later(&mut self.happenings);
                self.push(at, What::Told(Box::new(Line { at_ms: at, host, deed: Deed::Mount })));
                Deed::Unmount
            }
            Kind::Jump => Deed::Jump(self.happenings.below(400 * 86_400_000) as i64 - 200 * 86_400_000),
            Kind::Full => {
                let at = self.time + later(&mut self.happenings);
                self.push(at, What::Told(Box::new(Line { at_ms: at, host, deed: Deed::Room(None) })));
                Deed::Room(Some(self.happenings.below(20_000)))
            }
            Kind::Restart => Deed::Restart,
            Kind::Backup | Kind::Checkpoint => {
                let at = self.time + later(&mut self.happenings);
                let then = if kind == Kind::Backup { Kind::SetBack } else { Kind::Revert };
                self.push(at, What::Happen { host, kind: then });
                if kind == Kind::Backup { Deed::Backup } else { Deed::Checkpoint }
            }
            Kind::SetBack => Deed::SetBack,
            Kind::Revert => Deed::Revert,
            Kind::Clone => Deed::Clone,
            Kind::Forget => Deed::Forget,
        };
        self.deed(Line { at_ms: self.time, host, deed });
    }

    fn user(&mut self) {
        let drawn = self.happenings.below(self.hosts.len() as u64) as usize;
        let host = if self.plan.alone { 0 } else { drawn };
        // Some come in bursts; those in a hurry come again.
        let burst = if self.plan.hurry { 1 } else { 1 + self.happenings.below(3) };
        if self.plan.hurry && self.happenings.chance(70) {
            let at = self.time + self.happenings.below(80);
            self.push(at, What::Happen { host, kind: Kind::User });
        }
        for _ in 0..burst {
            let chosen = users::choose(&self.hosts[host], &mut self.happenings, self.plan.kinds);
            if let Some(act) = chosen {
                self.deed(Line { at_ms: self.time, host, deed: Deed::User(act) });
            }
        }
    }

    /// Something happens. Nothing does once the last fault is over.
    pub(super) fn deed(&mut self, line: Line) {
        if line.host >= self.hosts.len() || self.healed {
            return;
        }
        let host = line.host;
        self.hosts[host].set_clock(self.time);
        let done = match &line.deed {
            Deed::User(act) => match self.act_at_gate(host, act) {
                Some(done) => done,
                None => users::act(&mut self.hosts[host], &mut self.ghost, act).is_some(),
            },
            Deed::Wish(wish) => self.wished(host, wish),
            _ => true,
        };
        if done {
            self.note(format_args!("{line}"));
            self.story.push(line.clone());
        }
        match line.deed {
            Deed::User(_) | Deed::Wish(_) => (),
            Deed::Kill => self.kill(host),
            Deed::Power(seed) => self.power_cut(host, seed),
            Deed::Unmount => self.hosts[host].mounted = false,
            Deed::Mount => self.hosts[host].mounted = true,
            Deed::Jump(ms) => {
                let skew = self.hosts[host].skew_ms + ms;
                self.hosts[host].skew_ms = skew.clamp(-45 * 365 * 86_400_000, 45 * 365 * 86_400_000);
            }
            Deed::Room(bytes) => self.hosts[host].disk.leave_room(bytes),
            Deed::Checkpoint => {
                let server = &self.hosts[host];
                self.checkpoints.insert(host, (server.disk.clone(), server.store.clone()));
            }
            Deed::Revert => self.revert(host),
            Deed::Clone => self.clone_host(host),
            Deed::Forget => {
                self.kill(host);
                self.hosts[host].forget_state();
            }
            Deed::Restart => {
                self.service.restart();
                self.disconnect_all();
            }
            Deed::Backup => self.service.back_up(),
            Deed::SetBack => self.set_back(),
            Deed::CrashIn(..)
            | Deed::Lose(..)
            | Deed::Repeat(..)
            | Deed::Race(..)
            | Deed::Bad(..)
            | Deed::CutOff(..) => (),
        }
    }

    fn start_later(&mut self, host: usize) {
        let delay = 100 + self.delay(host, 5_000);
        self.push(self.time + delay, What::Start { host });
    }

    /// The service notices that a machine is gone when nothing comes from it.
    fn session_over_later(&mut self, host: usize) {
        if let Some(link) = self.hosts[host].link {
            let late = self.delay(host, 4_000);
            self.push(self.time + late, What::SessionOver { session: link.session });
        }
    }

    pub(super) fn kill(&mut self, host: usize) {
        if !self.hosts[host].running {
            return;
        }
        self.note(format_args!("s{host} is killed"));
        // Its kernel closes its connections.
        if let Some(link) = self.hosts[host].link {
            self.service.disconnect(link.session);
        }
        self.hosts[host].kill();
        self.start_later(host);
    }

    /// A machine changes as a whole under its agent; what it had and nobody else has is not missed.
    fn machine(&mut self, host: usize, change: impl FnOnce(&mut Host)) {
        let before = tokens_of_disk(&self.hosts[host].disk);
        let running = self.hosts[host].running;
        self.session_over_later(host);
        self.hosts[host].kill();
        change(&mut self.hosts[host]);
        self.hosts[host].disk.unreadable.clear();
        // What was written to a file that a power cut gave back to staging, its name never having been durable, is as lost as
        // one whose bytes are.
        let mut after = tokens_of_disk(&self.hosts[host].disk);
        let staged = self.hosts[host].disk.tokens_below(crate::disk::STAGING);
        for (_, token) in staged {
            after.remove(&token);
        }
        let others = Others::of(self.hosts.iter().filter(|other| other.nth != host));
        self.ghost.lost_locally(&self.service, &before, &after, &others);
        if running {
            self.start_later(host);
        }
    }

    pub(super) fn power_cut(&mut self, host: usize, seed: u64) {
        self.note(format_args!("s{host} loses power"));
        self.machine(host, |server| server.power_cut(&mut Rng::new(seed, 9)));
        self.check_after_cut(host);
        self.check_presence(host);
    }

    fn revert(&mut self, host: usize) {
        let Some((disk, store)) = self.checkpoints.remove(&host) else { return };
        let visible = Others::of(std::iter::once(&self.hosts[host])).visible;
        self.ghost.half_told(&visible, &self.service);
        // A batch may be on the wire still.
        if let Some(opening) = self.hosts[host].link.and_then(|link| link.open) {
            self.reverted.insert(opening, visible);
        }
        self.machine(host, |server| {
            server.programs.clear();
            (server.disk, server.store) = (disk, store);
            server.gate.lose_machine();
            server.disk.lose_programs();
        });
        let stood_for: Vec<_> = self.hosts[host].stood_for().collect();
        self.unheld.extend(stood_for);
    }

    /// A copy of a machine starts beside it.
    fn clone_host(&mut self, host: usize) {
        let nth = self.hosts.len();
        let mut copy = Host::new(nth, &self.plan);
        let server = &self.hosts[host];
        (copy.disk, copy.store) = (server.disk.clone(), server.store.clone());
        (copy.endpoint, copy.skew_ms, copy.mounted) = (server.endpoint, server.skew_ms, server.mounted);
        copy.disk.lose_programs();
        copy.gate = Gate::new(server.gate.on, server.gate.arrive);
        let unheld = server.stood_for().filter(|of_server| self.unheld.contains(of_server));
        let unheld: Vec<_> = unheld.map(|(_, token)| (nth, token)).collect();
        self.unheld.extend(unheld);
        self.hosts.push(copy);
        self.hints_due.push(false);
        self.push(self.time + 50, What::Start { host: nth });
    }

    fn set_back(&mut self) {
        let before = live_tokens(&self.service);
        if !self.service.set_back() {
            return;
        }
        self.set_back = true;
        // A name that stands for bytes has none of them where the share has lost them.
        let is_version = |content: Content| all_contents(&self.service).any(|other| *other == content);
        let is_held = |token: Token| is_version(content_of(token)) && self.can_be_read(token);
        let others = Others::with_bytes(self.hosts.iter(), is_held);
        let stood_for: Vec<_> = self.hosts.iter().flat_map(Host::stood_for).collect();
        self.unheld.extend(stood_for);
        self.ghost.lost_centrally(&self.service, &before, &others);
        self.disconnect_all();
    }

    /// No more faults: whoever is down starts, whoever is cut off connects, whoever was copied is registered anew.
    pub(super) fn heal(&mut self) {
        self.healed = true;
        self.note(format_args!("heal"));
        let mut endpoints: BTreeSet<EndpointId> = BTreeSet::new();
        for host in 0..self.hosts.len() {
            self.hosts[host].set_clock(self.time);
            users::close_all(&mut self.hosts[host], &mut self.ghost);
            self.hosts[host].mounted = true;
            self.hosts[host].disk.leave_room(None);
            self.hosts[host].disk.unreadable.clear();
            let endpoint = self.hosts[host].endpoint;
            if !endpoints.insert(endpoint) || self.service.is_stopped(endpoint) {
                self.let_go(endpoint);
            }
            if !self.hosts[host].running {
                self.push(self.time + 10, What::Start { host });
            }
        }
    }
}

/// Deeds that happen at the nth thing of a kind.
fn keyed(deed: &Deed) -> Option<(&'static str, u64)> {
    Some(match deed {
        Deed::CrashIn(nth, ..) => ("apply", *nth),
        Deed::Lose(nth, _) if *nth >= 1_000_000 => ("put", *nth - 1_000_000),
        Deed::Lose(nth, _) => ("lose", *nth),
        Deed::Repeat(nth, _) => ("repeat", *nth),
        Deed::Race(nth, _) => ("race", *nth),
        Deed::Bad(nth, _) => ("pack", *nth),
        Deed::CutOff(nth, ..) => ("order", *nth),
        _ => return None,
    })
}
