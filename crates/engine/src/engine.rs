//! The machine: its parts, one step, and what may start now.

use std::collections::BTreeMap;
use std::sync::Arc;

use polder_sync::{LocalNode, TreeError, TreeStore};
use polder_types::{
    FileIdent, InstanceId, Name, NodeUid, RelPath, Seq,
    zoo::{Bug, planted},
};

use crate::applies::Applies;
use crate::brake::Brake;
use crate::durable::Durable;
use crate::leftovers::Leftovers;
use crate::looks::Looks;
use crate::overlay::{Overlay, View};
use crate::problems::Problems;
use crate::rand::Rng;
use crate::reads::Reads;
use crate::report::Report;
use crate::review::Review;
use crate::scan::Scan;
use crate::sends::Sends;
use crate::session::Session;
use crate::work::Work;
use crate::{Command, Dir, Effect, Event, JobId, Level, LogLine, Now, RootSeen, Settings, Started};

/// Why a step was not done. The state of the engine is void then: make a new one over the store's last commit.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A tree could not be read or written.
    #[error("the state of the endpoint cannot be read or written")]
    Tree(#[from] TreeError),
}

/// What is known of the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Root {
    /// Nothing was heard yet.
    Starting,
    /// Proven to be ours.
    Ours,
    /// Not there, or not ours.
    Lost(Box<str>),
}

/// The control core of one endpoint.
#[derive(Debug)]
pub struct Engine {
    pub(crate) settings: Settings,
    pub(crate) rng: Rng,
    pub(crate) now: Now,
    pub(crate) instance: InstanceId,
    pub(crate) root: Root,
    pub(crate) paused: bool,
    pub(crate) stopping: bool,
    pub(crate) overlay: Overlay,
    pub(crate) work: Work,
    /// Until when a vanished name, or a file that left its agreed place, waits.
    pub(crate) holds: BTreeMap<NodeUid, u64>,
    pub(crate) looks: Looks,
    pub(crate) scan: Scan,
    pub(crate) session: Session,
    pub(crate) reads: Reads,
    pub(crate) sends: Sends,
    pub(crate) applies: Applies,
    pub(crate) durable: Durable,
    pub(crate) leftovers: Leftovers,
    /// Placeholders without a row, and what their marks name.
    pub(crate) pledges: BTreeMap<NodeUid, (NodeUid, Seq)>,
    /// Placeholders whose marks name another version than their rows, or that have none: what is to be held for them.
    pub(crate) marks: BTreeMap<FileIdent, (NodeUid, Seq)>,
    pub(crate) brake: Brake,
    pub(crate) problems: Problems,
    pub(crate) report: Report,
    pub(crate) review: Review,
    /// Since when nothing has gone on although something waits.
    pub(crate) stuck_since: u64,
    /// How far the overlay was planned since all is quiet.
    pub(crate) idle: crate::planning::Idle,
    pub(crate) out: Vec<Effect>,
    /// Directories looked up in this step; emptied when one moves.
    pub(crate) dirs_known: BTreeMap<NodeUid, Arc<Dir>>,
    next_job: u64,
    woke_for: Option<u64>,
}

impl Engine {
    /// An engine that has seen nothing yet. The seed comes from the operating system (the ids of new nodes are drawn
    /// from it), or from a simulator.
    pub fn new(settings: Settings, seed: [u8; 32]) -> Self {
        Self {
            overlay: Overlay::new(settings.case),
            brake: Brake::default(),
            rng: Rng::new(seed),
            now: Now::default(),
            instance: InstanceId::ZERO,
            root: Root::Starting,
            paused: false,
            stopping: false,
            work: Work::default(),
            holds: BTreeMap::new(),
            looks: Looks::default(),
            scan: Scan::default(),
            session: Session::default(),
            reads: Reads::default(),
            sends: Sends::default(),
            applies: Applies::default(),
            durable: Durable::default(),
            leftovers: Leftovers::default(),
            pledges: BTreeMap::new(),
            marks: BTreeMap::new(),
            problems: Problems::default(),
            report: Report::default(),
            review: Review::default(),
            stuck_since: 0,
            idle: crate::planning::Idle::default(),
            out: Vec::new(),
            dirs_known: BTreeMap::new(),
            next_job: 1,
            woke_for: None,
            settings,
        }
    }

    /// Takes one fact (or several of a kind) and says what is to be done now. The caller commits the store and then
    /// carries out the effects ([`Effect`] says how).
    ///
    /// # Errors
    /// When the store fails. Nothing of the step may be carried out then.
    pub fn step(
        &mut self,
        store: &mut dyn TreeStore,
        now: Now,
        event: Event,
    ) -> Result<Vec<Effect>, EngineError> {
        // A clock that went back would let timers wait for ever.
        let mono_ms = now.mono_ms.max(self.now.mono_ms);
        self.now = Now { mono_ms, ..now };
        self.dirs_known.clear();
        self.take(store, event)?;
        self.pump(store)?;
        Ok(std::mem::take(&mut self.out))
    }

    /// What is on disk (`None`: gone) of the nodes that differ from their synced rows: for tools that explain, and for
    /// the oracles of the simulator.
    pub fn differing(&self) -> impl Iterator<Item = (NodeUid, Option<&LocalNode>)> {
        self.overlay.iter()
    }

    fn take(&mut self, store: &mut dyn TreeStore, event: Event) -> Result<(), TreeError> {
        match event {
            Event::Started(started) => self.started(store, started),
            Event::RootLost { why } => {
                self.root_lost(why);
                Ok(())
            }
            Event::RootBack { root } => self.root_found(store, &root),
            Event::Hints(hints) => self.hinted(store, hints),
            Event::Overflow if planted(Bug::OverflowIgnored) => Ok(()),
            Event::Overflow => {
                self.log(
                    Level::Warn,
                    "changes came faster than they could be noticed: scanning everything".into(),
                );
                self.scan.want_all();
                Ok(())
            }
            Event::Looked { job, looks } => self.looked(store, job, looks),
            Event::Listed { job, parts } => self.listed(store, job, parts),
            Event::ListDone { job, entry_count, complete } => self.list_done(job, entry_count, complete),
            Event::Read { job, outcome } => self.read_done(store, job, outcome),
            Event::Stored { jobs } => self.stored(store, &jobs),
            Event::StoreFailed { jobs, why } => self.store_failed(store, &jobs, &why),
            Event::Applied { job, results, dirs } => self.applied(store, job, results, dirs),
            Event::MadeDurable { job } => {
                self.made_durable(job);
                Ok(())
            }
            Event::Progress { job, bytes } => {
                self.report.progress(job, bytes, self.applies.is_job(job));
                Ok(())
            }
            Event::Rescued { dir, entry, was } => self.rescued(store, dir, entry, was),
            Event::Connected => {
                self.connected();
                Ok(())
            }
            Event::Disconnected { why } => self.disconnected(store, why),
            Event::Announced { job, answer } => self.announced(store, job, answer),
            Event::Head(head) => {
                self.head_moved(head);
                Ok(())
            }
            Event::Page { job, page } => self.page(store, job, page),
            Event::Answered { job, answer } => self.answered(store, job, answer),
            Event::Woke => {
                self.woke_for = None;
                Ok(())
            }
            Event::Command(command) => self.command(store, command),
        }
    }

    fn started(&mut self, store: &mut dyn TreeStore, started: Started) -> Result<(), TreeError> {
        self.instance = started.instance;
        self.load_session(store)?;
        self.load_review(store)?;
        match started.root {
            Ok(root) => self.root_found(store, &root),
            Err(why) => {
                self.root_lost(why);
                Ok(())
            }
        }
    }

    /// Everything that was seen and begun on the disk is void, as after a restart.
    fn root_lost(&mut self, why: Box<str>) {
        self.log(
            Level::Warn,
            format!("the root is not ours or not there ({why}): nothing is changed or sent"),
        );
        self.root = Root::Lost(why);
        self.drop_local_work();
    }

    /// Gives up everything that was seen and begun on the disk.
    fn drop_local_work(&mut self) {
        let jobs: Vec<JobId> = self
            .reads
            .jobs()
            .chain(self.applies.jobs())
            .chain(self.looks.jobs())
            .chain(self.scan.jobs())
            .collect();
        self.out.extend(jobs.into_iter().map(Effect::Cancel));
        self.overlay = Overlay::new(self.settings.case);
        self.work = Work::default();
        self.holds.clear();
        self.looks = Looks::default();
        self.scan = Scan::default();
        self.reads = Reads::default();
        self.applies = Applies::default();
        self.durable = Durable::default();
        self.sends.drop_queue();
        self.problems = Problems::default();
    }

    fn root_found(&mut self, store: &mut dyn TreeStore, root: &RootSeen) -> Result<(), TreeError> {
        self.root = Root::Ours;
        self.load_leftovers(store)?;
        self.root_seen(store, root)?;
        self.session.backlog = true;
        if !planted(Bug::NoScanAtStart) {
            self.scan.want_all();
        }
        Ok(())
    }

    fn command(&mut self, store: &mut dyn TreeStore, command: Command) -> Result<(), TreeError> {
        match command {
            Command::Pause => self.paused = true,
            Command::Resume => self.paused = false,
            Command::ReleaseAccept => {
                self.brake.accept(self.now.mono_ms, self.settings.brake.window_ms);
                self.log_audit("changes held by the mass-change brake were let go".into());
                self.retry_held();
                // Those that the service has held wait for their next try.
                self.work.retry_all(self.now.mono_ms);
            }
            Command::ReleaseRevert => {
                self.brake.revert();
                self.log_audit("changes held by the mass-change brake are thrown back".into());
                self.retry_held();
            }
            Command::Review { accept, paths } => self.decide_extras(store, &paths, accept)?,
            Command::Rescan(path) => self.rescan(store, &path)?,
            Command::Settings(settings) => {
                self.settings = *settings;
                self.scan.want_all();
            }
            Command::RetryNow => {
                self.work.retry_all(self.now.mono_ms);
                self.session.retry_at = None;
                self.applies.stalled_until = 0;
            }
            Command::Stop => self.stopping = true,
        }
        Ok(())
    }

    fn retry_held(&mut self) {
        for uid in self.brake.take_held() {
            self.work.touch(uid, self.now.mono_ms);
        }
    }

    /// Starts what may start now.
    fn pump(&mut self, store: &mut dyn TreeStore) -> Result<(), TreeError> {
        let now = self.now.mono_ms;
        drop(self.work.expire(now));
        self.pump_session(store)?;
        if self.root == Root::Ours {
            self.pump_scan(store)?;
            self.pump_looks(store)?;
            if !self.paused && !self.stopping {
                self.pump_plan(store)?;
                self.pump_durable();
                self.pump_reads(store)?;
                self.pump_sends(store)?;
                self.pump_applies(store)?;
            }
        }
        self.pump_report(store)?;
        self.pump_wake();
        Ok(())
    }

    fn pump_wake(&mut self) {
        let now = self.now.mono_ms;
        let mut next = self.work.next_timer();
        let more = [
            self.plan_at(),
            self.session.retry_at,
            self.scan.next_at(&self.settings),
            self.looks.next_at(self.work.running() == 0),
            self.report.due_at(),
            self.applies.wakes_at(now),
        ];
        for at in more.into_iter().flatten() {
            next = Some(next.map_or(at, |other| other.min(at)));
        }
        // Never in the past: what is due but blocked is woken by a fact, and looked at again a little later.
        let next = next.map(|at| at.max(now + 1));
        if let Some(at) = next
            && self.woke_for.is_none_or(|earlier| earlier > at || earlier <= now)
        {
            self.woke_for = Some(at);
            self.out.push(Effect::WakeAt(at));
        }
    }

    /// A fresh job number.
    pub(crate) fn job(&mut self) -> JobId {
        let job = JobId(self.next_job);
        self.next_job += 1;
        job
    }

    /// The number that the next job will have: what happened before it is older than that job.
    pub(crate) fn next_job(&self) -> JobId {
        JobId(self.next_job)
    }

    /// A new node's id. Three of its random bytes tell which instance made it ([`Engine::is_ours`]).
    pub(crate) fn new_uid(&mut self) -> NodeUid {
        let mut random = [0u8; 10];
        random[..8].copy_from_slice(&self.rng.next().to_le_bytes());
        random[8..].copy_from_slice(&self.rng.next().to_le_bytes()[..2]);
        random[..3].copy_from_slice(&self.instance.0[..3]);
        NodeUid::from_parts(self.now.unix_ms, random)
    }

    /// Whether this instance made a node. Wrong once in 16 million for nodes of others; only the brake asks.
    pub(crate) fn is_ours(&self, uid: NodeUid) -> bool {
        uid.0[6..9] == self.instance.0[..3]
    }

    /// Something about a node changed: it is to be planned.
    pub(crate) fn changed(&mut self, uid: NodeUid) {
        let now = self.now.mono_ms;
        self.work.touch(uid, now);
        if self.looks.telling {
            self.work.hurry(uid);
        }
        if !self.holds.contains_key(&uid) {
            self.work.release(uid, now);
        }
        self.work.wake_waiters(uid, now);
        self.looks.last_change = now;
    }

    /// A name vanished: it waits for a new file to take it.
    pub(crate) fn hold(&mut self, uid: NodeUid) {
        if !planted(Bug::NoSettleTime) {
            self.holds.insert(uid, self.now.mono_ms + self.settings.settle_ms);
        }
    }

    /// Whether a vanished name is waited for. A hold of a node about which nothing differs any more holds nothing.
    pub(crate) fn is_holding(&self) -> bool {
        self.holds.keys().any(|uid| self.overlay.get(*uid).is_some())
    }

    /// When a node that failed is tried again: doubling, with jitter of a quarter.
    pub(crate) fn backoff_ms(&mut self, tries: u32) -> u64 {
        let (first, longest) = self.settings.backoff_ms;
        let wait = first.saturating_mul(1 << tries.saturating_sub(1).min(20)).min(longest);
        wait - wait / 8 + self.rng.below(wait / 4 + 1)
    }

    /// Where a directory stands on disk; `None` when it does not, as far as known.
    pub(crate) fn dir(&mut self, store: &dyn TreeStore, uid: NodeUid) -> Result<Option<Arc<Dir>>, TreeError> {
        if let Some(dir) = self.dirs_known.get(&uid) {
            return Ok(Some(dir.clone()));
        }
        let dir = self.find_dir(store, uid)?;
        if let Some(dir) = &dir {
            self.dirs_known.insert(uid, dir.clone());
        }
        Ok(dir)
    }

    fn find_dir(&self, store: &dyn TreeStore, uid: NodeUid) -> Result<Option<Arc<Dir>>, TreeError> {
        let view = View { store, overlay: &self.overlay };
        let mut names: Vec<Name> = Vec::new();
        let mut at = uid;
        let mut ident = None;
        while at != NodeUid::ROOT {
            let Some(node) = view.local_row(at)? else { return Ok(None) };
            ident.get_or_insert(node.stamp.ident);
            names.push(node.at.name);
            at = node.at.parent;
            if names.len() > crate::overlay::DEPTH_MAX {
                return Ok(None);
            }
        }
        if uid == NodeUid::ROOT {
            ident = view.local_row(NodeUid::ROOT)?.map(|node| node.stamp.ident);
        }
        names.reverse();
        Ok(Some(Arc::new(Dir { uid, ident, path: names.into_iter().collect() })))
    }

    /// The path of a directory.
    pub(crate) fn dir_path(
        &mut self,
        store: &dyn TreeStore,
        uid: NodeUid,
    ) -> Result<Option<RelPath>, TreeError> {
        Ok(self.dir(store, uid)?.map(|dir| dir.path.clone()))
    }

    /// The path of a node on disk, or where the share has it.
    pub(crate) fn path(&self, store: &dyn TreeStore, uid: NodeUid) -> Result<RelPath, TreeError> {
        let view = View { store, overlay: &self.overlay };
        let mut names = Vec::new();
        let mut at = uid;
        while at != NodeUid::ROOT && names.len() < crate::overlay::DEPTH_MAX {
            let place = match view.local_row(at)? {
                Some(node) => Some(node.at),
                None => store.cloud(at)?.map(|node| node.at),
            };
            let Some(place) = place else { break };
            names.push(place.name);
            at = place.parent;
        }
        names.reverse();
        Ok(names.into_iter().collect())
    }

    pub(crate) fn log(&mut self, level: Level, text: String) {
        let line = LogLine { level, audit: false, text: text.into(), uid: None, path: None };
        self.out.push(Effect::Log(line));
    }

    pub(crate) fn log_audit(&mut self, text: String) {
        let line = LogLine { level: Level::Info, audit: true, text: text.into(), uid: None, path: None };
        self.out.push(Effect::Log(line));
    }
}
