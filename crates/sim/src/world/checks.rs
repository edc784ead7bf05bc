//! The oracles: what must hold after every event, and what must have become of everything in the end.

use std::collections::BTreeSet;
use std::sync::Arc;

use polder_engine::{ApplyAct, Event, Phase, Status};
use polder_types::{Group, GroupAnswer, Kind, Op, PackId};

use super::{HEAL_MS, STILL_MS, What, World};
use crate::disk::{ROOT, Token, content_of, is_zeros, token_of};
use crate::ghost::{differences, listing_of_disk, listing_of_share, live_tokens, shows, unreadable};
use crate::host::Host;
use crate::service::Committed;
use crate::service::store::Fetched;

impl World {
    pub(super) fn run_all(&mut self) -> Result<(), String> {
        let active = self.plan.active_ms;
        self.run_until(active)?;
        self.heal();
        let deadline = self.time + HEAL_MS;
        loop {
            let next = self.time + 2_000;
            self.run_until(next)?;
            let at_rest = self.all_in_sync() && self.all_know_the_head() && self.gates_rest();
            if at_rest && self.unequal()?.is_empty() {
                break;
            }
            if self.time > deadline {
                let why = self.why(self.unequal()?);
                return Err(format!("not equal {} s after the last fault: {why}", HEAL_MS / 1000));
            }
        }
        let damaged = self.stand_still()?;
        self.check_waiting()?;
        self.check_placeholders();
        self.violation.clone().map_or(Ok(()), Err)?;
        self.check_contents(damaged)
    }

    /// Nothing happens where all is equal, but that bytes which were damaged are stored anew: then nothing from there on. Whether any are
    /// damaged still.
    fn stand_still(&mut self) -> Result<bool, String> {
        loop {
            let was_damaged = self.is_damaged();
            self.moves = 0;
            let still = self.time + STILL_MS;
            self.run_until(still)?;
            let unequal = self.unequal()?;
            if !unequal.is_empty() || !self.all_in_sync() {
                return Err(format!("did not stay equal: {}", self.why(unequal)));
            }
            let damaged = self.is_damaged();
            if was_damaged && !damaged {
                continue;
            }
            if self.moves > 0 && !damaged {
                return Err(format!("{} batches or applies although all was equal", self.moves));
            }
            return Ok(damaged);
        }
    }

    /// Whether bytes of the share cannot be had, or not by some server.
    fn is_damaged(&self) -> bool {
        !unreadable(&self.service).is_empty() || !self.unavailable().is_empty()
    }

    /// No loss (I1), no version without its bytes (I14).
    fn check_contents(&self, damaged: bool) -> Result<(), String> {
        let lost = self.ghost.lost(&self.service, &self.hosts, damaged);
        if !lost.is_empty() {
            return Err(format!("contents that nobody took away are gone: {lost:?}"));
        }
        let forgotten = self.ghost.forgotten(&self.service);
        if !forgotten.is_empty() && !self.set_back && !self.plan.history {
            return Err(format!("the share has taken contents that are not in its history: {forgotten:?}"));
        }
        let gone = unreadable(&self.service);
        if !gone.is_empty() && self.plan.damage == 0 && !self.set_back {
            return Err(format!("versions whose bytes are gone: {gone:?}"));
        }
        Ok(())
    }

    pub(super) fn why(&self, mut unequal: Vec<String>) -> String {
        for host in &self.hosts {
            for (uid, node) in host.engine.iter().flat_map(|engine| engine.differing()) {
                let synced = polder_sync::TreeStore::synced(&host.store, uid).expect("maps do not fail");
                unequal.push(format!("{}: {uid} here {node:?}\n    synced {synced:?}", host.name));
            }
            if self.plan.trace {
                unequal.push(format!("{}: {:?}", host.name, host.engine));
            }
            match &host.status {
                Some(status) => unequal.push(format!(
                    "{}: {:?} up {} down {} unreachable {:?} rebaseline {:?} problems {:?}",
                    host.name,
                    status.phase,
                    status.up.count,
                    status.down.count,
                    status.unreachable,
                    status.rebaseline,
                    status.problems
                )),
                None => unequal.push(format!("{}: no status, running {}", host.name, host.running)),
            }
        }
        unequal.join("\n  ")
    }

    fn unequal(&self) -> Result<Vec<String>, String> {
        let share = listing_of_share(&self.service)?;
        if self.hosts.iter().all(|host| shows(&host.disk, &share)) {
            return Ok(Vec::new());
        }
        let mut bad = unreadable(&self.service);
        bad.extend(self.unavailable());
        Ok(self.hosts.iter().flat_map(|host| differences(host, &share, &bad)).collect())
    }

    fn all_in_sync(&self) -> bool {
        let fine = |status: &Arc<Status>| {
            status.phase == Phase::InSync
                || matches!(status.phase, Phase::Problems | Phase::Syncing) && self.is_damaged()
        };
        self.hosts.iter().all(|host| host.status.as_ref().is_some_and(fine))
    }

    /// Whether nothing is on its way: times of directories are not compared, and are the last to be told.
    fn all_know_the_head(&self) -> bool {
        let head = self.service.head();
        self.hosts.iter().all(|host| host.status.as_ref().is_some_and(|status| status.cursor == head))
    }

    /// Whoever says that all is in sync is right (I17): of what the watcher has told, up to the head that it knows.
    pub(super) fn check_status(&mut self, host: usize, status: &Status) {
        let server = &self.hosts[host];
        let knows_all = status.cursor == self.service.head()
            && !server.disk.has_hints()
            && !server.disk.untold
            && server.disk.unreadable.is_empty()
            && server.mounted;
        if status.phase != Phase::InSync || !knows_all {
            return;
        }
        let share = match listing_of_share(&self.service) {
            Ok(share) => share,
            Err(why) => return self.violated(why),
        };
        let differ = differences(server, &share, &BTreeSet::new());
        // What the agent has put back itself it hears of by a fact, not by its watcher.
        let untold = |what: &What| match what {
            What::Fact { host: at, event, .. } => *at == host && matches!(**event, Event::Rescued { .. }),
            _ => false,
        };
        if !differ.is_empty() && !self.heap.iter().any(|due| untold(&due.what)) {
            self.violated(format!("says that it is in sync and is not: {}", differ.join(", ")));
        }
    }

    /// Bytes are let go (I4): the share must hold them, verified.
    pub(super) fn check_freed(&mut self, host: usize, token: u64) {
        if is_zeros(token) {
            return;
        }
        let held = content_of(token).direct_chunks().all(|chunk| {
            let at = self.service.locate(chunk);
            self.service.have(chunk)
                && at.is_some_and(|pack| self.service.store.fetch(pack, chunk) == Fetched::Sound)
        });
        if !held {
            self.violated(format!("s{host} let bytes go that the share does not hold: {token}"));
        }
    }

    /// No ping-pong: no more is sent or applied than the users' work explains. Checked as it happens, so that a circle ends a
    /// run.
    pub(super) fn check_bound(&mut self, what: &str, count: u64) {
        let actions = self.plan.actions;
        if count > 400 + actions * 40 {
            self.violated(format!("goes round: {count} {what} for {actions} actions"));
        }
    }

    /// What a commit did: contents are acknowledged; a node that is deleted held bytes that a user took away (I5), or
    /// that live on elsewhere.
    pub(super) fn check_commit(&mut self, host: usize, groups: &[Group], committed: &Committed) {
        let Ok(answer) = &committed.answer else { return };
        let accepted = groups.iter().zip(&answer.groups);
        let accepted: Vec<&Op> = accepted
            .filter(|(_, answer)| matches!(answer, GroupAnswer::Accepted { .. }))
            .flat_map(|(group, _)| &group.ops)
            .collect();
        self.service.op_count += accepted.len() as u64;
        self.check_bound("operations", self.service.op_count);
        let changed = accepted.iter().find(|op| !sets_a_time(op));
        if let Some(op) = changed.filter(|_| self.plan.alone && host != 0) {
            self.violated(format!("s{host}, where no user works, has changed the share: {op:?}"));
        }
        if let Some(fault) = accepted.iter().find_map(|op| fault_after(&self.service, op)) {
            self.violated(fault);
        }
        let mut live = None;
        for op in accepted {
            if let Some(token) = op.content().and_then(token_of).filter(|token| !is_zeros(*token)) {
                self.ghost.acknowledged(token);
            }
            let Op::Delete { uid, .. } = op else { continue };
            let Some(token) = committed.before.get(uid).and_then(|state| token_of(&state.content)) else {
                continue;
            };
            if is_zeros(token) || self.ghost.is_unlinked(token) || self.hosts[host].disk.has_token(token) {
                continue;
            }
            let live = live.get_or_insert_with(|| live_tokens(&self.service));
            if !live.contains(&token) && !self.is_on_its_way(token, host) {
                self.violated(format!("s{host} deleted {token}, which no user has taken away"));
            }
        }
    }

    /// Whether another server shows these bytes at a place where they were not agreed on: a user has put them there, which is still to be told (half of a
    /// swap is).
    fn is_on_its_way(&self, token: Token, but: usize) -> bool {
        let others = self.hosts.iter().filter(|host| host.nth != but);
        let is_new = |host: &Host| {
            let agreed = host.agreed_at(token);
            let shown = listing_of_disk(&host.disk).into_iter();
            shown
                .filter(|(_, (content, ..))| token_of(content) == Some(token))
                .any(|(at, _)| !agreed.contains(&at))
        };
        others.filter(|host| host.disk.has_token(token)).any(is_new)
    }

    /// Where the users of one server alone work, nothing of the share is news to it (I11, I16): no deletion comes back,
    /// nobody conflicts with himself, and no older version is put in the place of a newer one.
    pub(super) fn check_apply(&mut self, host: usize, apply: &polder_engine::Apply) {
        self.hosts[host].steps_asked += apply.steps.len() as u64;
        self.check_bound("steps of applies at one server", self.hosts[host].steps_asked);
        let is_time = |step: &polder_engine::ApplyStep| {
            matches!(step.act, ApplyAct::Touch { kind: Kind::Directory, attrs: None, .. })
        };
        let changed = apply.steps.iter().find(|step| !is_time(step));
        if let Some(step) = changed.filter(|_| self.plan.alone && host == 0) {
            self.violated(format!("s0, where all users work, gets something back: {step:?}"));
        }
    }

    /// Objects were deleted (I14): no version names what was in them.
    pub(super) fn check_deleted(&mut self, packs: &[PackId]) {
        self.check_placeholders();
        if self.plan.damage > 0 || self.set_back {
            return;
        }
        let bad = unreadable(&self.service);
        if !bad.is_empty() {
            self.violated(format!("packs {packs:?} were deleted, and versions need {bad:?}"));
        }
    }

    /// After a power cut no file that an apply has placed is without its bytes (I3).
    pub(super) fn check_after_cut(&mut self, host: usize) {
        let disk = &self.hosts[host].disk;
        let below = disk.tokens_below(ROOT);
        // Nobody is shown what a placeholder has on the disk.
        let hollow = below
            .iter()
            .find(|(ino, token)| is_zeros(*token) && disk.inode(*ino).applied && disk.mark(*ino).is_none());
        if let Some((ino, _)) = hollow {
            self.violated(format!(
                "s{host}: the power cut left zeros in file {ino}, which was placed by an apply"
            ));
        }
    }
}

/// Whether an operation sets a modification time and nothing else: that of a directory moves with what is applied in it,
/// and is told again when a kill came before it was set back.
fn sets_a_time(op: &Op) -> bool {
    matches!(op, Op::Update { content: None, attrs: None, .. })
}

/// What is wrong with the share's tree around a node that an operation was about: it has no live directory, is below
/// itself, or is gone and has children.
fn fault_after(service: &crate::service::Service, op: &Op) -> Option<String> {
    const MAPS: &str = "maps do not fail";
    let rows: &dyn polder_ledger::Rows = &service.rows;
    let nid = rows.ident(op.uid()).expect(MAPS)?.nid;
    let Some(row) = rows.node(nid).expect(MAPS) else {
        let children = rows.entries(nid, None, 1, None).expect(MAPS);
        return (!children.is_empty()).then(|| format!("a deleted directory has children: {op:?}"));
    };
    let mut at = row.up;
    // No run makes so many directories.
    for _ in 0..1_000 {
        if at == polder_ledger::ROOT_NID {
            return None;
        }
        match rows.node(at).expect(MAPS) {
            Some(above) if above.kind() == Kind::Directory => at = above.up,
            _ => return Some(format!("what stands in no directory was taken: {op:?}")),
        }
    }
    Some(format!("a directory is below itself: {op:?}"))
}
