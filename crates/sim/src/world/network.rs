//! What engines want of the service: sessions, messages that are lost, late or there twice, and the service's own work.

use polder_engine::{BatchError, Effect, Event, Failure, FailureClass, FeedError, JobId, Page, Unreachable};
use polder_types::{Author, BatchNo, Cursor, EndpointId, Group};

use super::{Request, What, World};
use crate::host::life::Opening;
use crate::host::{Counted, Link};
use crate::rng::Rng;
use crate::service::opening::Decided;
use crate::story::Deed;

/// How long versions are kept in a run in which they are let go.
const HISTORY_MS: u64 = 6_000;

fn not_open() -> Failure {
    Failure { class: FailureClass::Unreachable, text: "the endpoint is not open in a session".into() }
}

impl World {
    pub(super) fn connect(&mut self, host: usize, process: u64) {
        let server = &mut self.hosts[host];
        if !server.running || server.process != process || server.link.is_some() {
            return;
        }
        let session = self.next_session;
        self.next_session += 1;
        server.link = Some(Link { session, open: None });
        self.service.connect(session, process);
        if self.hosts[host].engine.is_some() {
            self.step(host, Event::Connected);
        }
    }

    pub(super) fn disconnect(&mut self, host: usize, why: Unreachable) {
        let Some(link) = self.hosts[host].link.take() else { return };
        self.note(format_args!("s{host} loses its connection"));
        // The service may think for a while that the session lives.
        let late = self.delay(host, 4_000);
        self.push(self.time + late, What::SessionOver { session: link.session });
        let process = self.hosts[host].process;
        let wait = 50 + self.delay(host, 3_000);
        self.push(self.time + wait, What::Connect { host, process });
        if self.hosts[host].engine.is_some() {
            self.step(host, Event::Disconnected { why });
        }
    }

    /// The service is gone for a moment, and with it all sessions.
    pub(super) fn disconnect_all(&mut self) {
        for host in 0..self.hosts.len() {
            self.disconnect(host, Unreachable::Network("the service restarts".into()));
        }
    }

    pub(super) fn send_request(&mut self, host: usize, life: u64, effect: Effect) {
        self.moves += u64::from(matches!(effect, Effect::Send { .. }));
        let Some(link) = self.hosts[host].link else { return };
        let asked = match &effect {
            Effect::Announce { next, known, open, .. } => {
                Some(self.hosts[host].prepare_opening(*next, *known, open))
            }
            _ => None,
        };
        if asked.is_none() && link.open.is_none() {
            let event = refused_here(&effect);
            return self.reply(host, life, Some(link.session), event);
        }
        let nth = self.hosts[host].count(Counted::Message);
        let instance = self.hosts[host].instance;
        let boot = self.service.boots;
        let request = Request { effect, opening: link.open, instance, asked, nth, boot };
        let percent = self.plan.repeat;
        let again = self.fault(host, "repeat", nth, |rng| {
            rng.chance(percent).then_some(Deed::Repeat(nth, 5 + rng.below(10_000)))
        });
        let session = link.session;
        if let Some(Deed::Repeat(_, ms)) = again {
            let request = Box::new(Request { nth: 0, ..request.clone() });
            self.push(self.time + ms, What::Request { host, life, session, request });
        }
        let delay = self.way(host);
        self.push(self.time + delay, What::Request { host, life, session, request: Box::new(request) });
    }

    pub(super) fn request(&mut self, host: usize, life: u64, session: u64, request: Request) {
        let nth = request.nth;
        let percent = if nth == 0 { 0 } else { self.plan.loss };
        let lost = self
            .fault(host, "lose", nth, |rng| rng.chance(percent).then_some(Deed::Lose(nth, rng.chance(50))));
        if let Some(Deed::Lose(_, answer)) = lost {
            if answer {
                drop(self.serve(host, &request));
            }
            if self.hosts[host].link.is_some_and(|link| link.session == session) {
                self.disconnect(host, Unreachable::Network("lost".into()));
            }
            return;
        }
        // A message that comes a second time has no answer that anybody waits for.
        match self.serve(host, &request) {
            Some(Served::Fact(event)) => self.reply(host, life, Some(session), event),
            Some(Served::Opening(decided)) => self.opened(host, life, session, &request, &decided),
            Some(Served::NotOpen(event)) => {
                let now = self.hosts[host].link.is_some_and(|link| link.session == session);
                if now && self.is_alive(host, life) {
                    self.open_anew(host);
                    self.reply(host, life, Some(session), event);
                }
            }
            None => (),
        }
    }

    /// The service takes the endpoint as open no longer: it is announced again.
    pub(super) fn open_anew(&mut self, host: usize) {
        if let Some(link) = &mut self.hosts[host].link {
            link.open = None;
        }
        self.step(host, Event::Disconnected { why: Unreachable::Network("opened anew".into()) });
        self.step(host, Event::Connected);
    }

    fn opened(&mut self, host: usize, life: u64, session: u64, request: &Request, decided: &Decided) {
        let now = self.hosts[host].link.is_some_and(|link| link.session == session);
        let (Some(asked), true) = (&request.asked, now && self.is_alive(host, life)) else { return };
        let Effect::Announce { job, .. } = request.effect else { return };
        if request.nth == 0 {
            return;
        }
        self.note(format_args!("s{host} opening: {decided:?}"));
        match self.hosts[host].opened(asked, decided) {
            Opening::Accepted(answer) => {
                self.report(host);
                self.step(host, Event::Announced { job, answer });
            }
            Opening::Anew(answer) => {
                // What it still wants is void: the life ends.
                let effects = self.hosts[host].step(self.time, Event::Announced { job, answer });
                self.hosts[host].commit(true);
                self.note(format_args!("s{host} would have wanted {effects:?}"));
                self.end_life(host);
            }
            Opening::Refused => {
                self.disconnect(host, Unreachable::Clone);
            }
        }
    }

    fn serve(&mut self, host: usize, request: &Request) -> Option<Served> {
        if request.boot != self.service.boots {
            return None;
        }
        if let Some(asked) = &request.asked {
            // What a machine that lost power had on the wire is gone with it.
            if asked.process != self.hosts[host].process {
                return None;
            }
            let decided = self.service.open(asked);
            if decided == Decided::Clone {
                // Whoever hears of it: an administrator sees that an endpoint is stopped.
                self.push(self.time + 5_000, What::LetGo { endpoint: self.hosts[host].endpoint });
            }
            return Some(Served::Opening(decided));
        }
        let endpoint = self.hosts[host].endpoint;
        // Between the look at the opening and the answer another opening may come: rarely, so that both are seen. A batch asks for
        // the opening again in its transaction.
        let late = !matches!(request.effect, Effect::Send { .. })
            && Rng::of(self.plan.seed, [13, host as u64, request.nth]).chance(10);
        let open = late || self.service.is_open(endpoint, request.opening);
        if !open {
            return Some(Served::NotOpen(refused_here(&request.effect)));
        }
        Some(Served::Fact(match &request.effect {
            Effect::FetchFeed { job, after, page } => {
                let page = self.service.feed(*after, page.as_ref());
                self.learn(host, &page);
                Event::Page { job: *job, page }
            }
            Effect::FetchTree { job, page } => {
                let page = self.service.tree(page.as_ref());
                self.learn(host, &page);
                Event::Page { job: *job, page }
            }
            Effect::Send { job, batch, known, groups } => {
                let author = Author { by: request.instance, batch: *batch };
                let answered = self.commit(host, *job, author, *known, groups);
                if let Some(had) = request.opening.and_then(|opening| self.reverted.get(&opening)) {
                    self.ghost.half_told(had, &self.service);
                }
                answered
            }
            _ => return None,
        }))
    }

    /// Pages say where chunks are.
    fn learn(&mut self, host: usize, page: &Result<Page, FeedError>) {
        let Ok(page) = page else { return };
        let mut places = Vec::new();
        for row in &page.rows {
            if let polder_engine::FeedRow::Live(state) = row {
                let chunks = state.content.direct_chunks();
                places.extend(chunks.filter_map(|chunk| Some((chunk, self.service.locate(chunk)?))));
            }
        }
        self.hosts[host].learn_places(places);
    }

    fn commit(&mut self, host: usize, job: JobId, author: Author, known: Cursor, groups: &[Group]) -> Event {
        let BatchNo(no) = author.batch;
        let committed = self.service.commit(author, known, groups);
        self.note(format_args!("s{host} batch {no}: {:?}", committed.answer));
        if committed.moved {
            self.check_commit(host, groups, &committed);
            let head = self.service.head();
            for other in 0..self.hosts.len() {
                if let Some(link) = self.hosts[other].link {
                    let life = self.hosts[other].life;
                    self.reply(other, life, Some(link.session), Event::Head(head));
                }
            }
        }
        Event::Answered { job, answer: committed.answer }
    }

    /// A person acts on an endpoint with two agents: it stays with the first server, and the copy is registered anew.
    pub(super) fn let_go(&mut self, endpoint: EndpointId) {
        let agents: Vec<usize> =
            (0..self.hosts.len()).filter(|host| self.hosts[*host].endpoint == endpoint).collect();
        for copy in agents.iter().skip(1) {
            self.note(format_args!("s{copy} is registered anew"));
            self.kill(*copy);
            self.hosts[*copy].endpoint = EndpointId([*copy as u8 + 1; 16]);
            self.hosts[*copy].forget_state();
        }
        self.service.let_go(endpoint);
    }

    pub(super) fn verify(&mut self) {
        if let Some((pack, sound)) = self.service.verify() {
            self.note(format_args!("verified {pack}: {sound}"));
        }
    }

    pub(super) fn prune(&mut self) {
        // In the end nothing is let go any more; what was let go before is still to be deleted, and is readable until then.
        if self.plan.history && !self.healed {
            self.service.expire(HISTORY_MS);
        }
        let worked = self.service.prune_step();
        for note in worked.notes {
            self.note(format_args!("{note}"));
        }
        if !worked.deleted.is_empty() {
            self.check_deleted(&worked.deleted);
        }
        self.push(self.time + if worked.over { 1_500 } else { 40 }, What::Prune);
    }
}

/// What the service answers.
enum Served {
    Fact(Event),
    Opening(Decided),
    NotOpen(Event),
}

/// The answer to what cannot be sent.
fn refused_here(effect: &Effect) -> Event {
    match effect {
        Effect::FetchFeed { job, .. } | Effect::FetchTree { job, .. } => {
            Event::Page { job: *job, page: Err(FeedError::Failed(not_open())) }
        }
        Effect::Send { job, .. } => {
            Event::Answered { job: *job, answer: Err(BatchError::NotTaken(not_open())) }
        }
        _ => Event::Woke,
    }
}
