//! What a run does: the seed switches kinds of actions and of faults on and off (swarm testing: a run with few kinds
//! reaches what one with all of them hides).

use crate::disk::{Times, Watch};
use crate::rng::Rng;
use crate::story::Line;

/// In which runs servers tier.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Tiering {
    /// In half of them, as the seed says.
    #[default]
    Drawn,
    /// In none.
    Never,
    /// In all.
    Always,
}

/// What a run does.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Draws everything.
    pub seed: u64,
    /// Servers.
    pub hosts: usize,
    /// User actions.
    pub actions: u64,
    /// A bit for each kind of user action that is switched on.
    pub kinds: u32,
    /// Virtual time in which they happen.
    pub active_ms: u64,
    /// Per cent of network messages that are lost with their connection.
    pub loss: u64,
    /// Per cent that arrive twice.
    pub repeat: u64,
    /// Agents that are killed.
    pub crashes: u64,
    /// Machines that lose power.
    pub power_cuts: u64,
    /// Whether it is known what a power cut would take.
    pub power: bool,
    /// Per cent of applies that are broken off by a crash.
    pub apply_crashes: u64,
    /// Per cent of applies in which somebody writes at the worst moment.
    pub races: u64,
    /// Volumes that go away for a while.
    pub unmounts: u64,
    /// Wall clocks that jump.
    pub jumps: u64,
    /// Whether wall clocks are years off.
    pub skew: bool,
    /// Disks that are full for a while.
    pub full: u64,
    /// Per cent of packs that are stored damaged or not at all.
    pub damage: u64,
    /// Whether prune runs.
    pub prune: bool,
    /// Restarts of the service.
    pub restarts: u64,
    /// Times that the service is set back to a backup.
    pub set_backs: u64,
    /// Machines that are set back to a checkpoint.
    pub reverts: u64,
    /// Machines of which a copy starts.
    pub clones: u64,
    /// State databases that are deleted.
    pub forgets: u64,
    /// Whether displaced files are let go within the run.
    pub expiry: bool,
    /// How finely times tell changes apart.
    pub times: Times,
    /// Whether inode numbers are used again.
    pub reuse: bool,
    /// What the watcher is told.
    pub watch: Watch,
    /// Events that the watcher's queue holds.
    pub queue: usize,
    /// Rows of a page of the feed.
    pub page_rows: usize,
    /// Whether other things happen between two steps of an apply.
    pub stepwise: bool,
    /// Whether the engine's bounds of work are small.
    pub small_limits: bool,
    /// Whether the users of the first server alone work: then nothing comes back to it, and nothing from the others.
    pub alone: bool,
    /// Whether users do one thing within moments of another.
    pub hurry: bool,
    /// Whether listing a directory takes time, and what threads find out arrives late.
    pub slow: bool,
    /// A bit for each server that tiers.
    pub tiers: u64,
    /// What is wanted of tiered files: to be given up, recalled, read, cut.
    pub wishes: u64,
    /// Per cent of changes of a file's presence that are broken off by a crash.
    pub cut_offs: u64,
    /// Whether new files arrive as placeholders where a server tiers.
    pub arrive: bool,
    /// Whether old versions are let go within the run.
    pub history: bool,
    /// Whether the service is far away: much may happen while a message, or its answer, is on its way.
    pub far: bool,
    /// Whether the trace is kept in words.
    pub trace: bool,
    /// Whether everything that happens is part of the hash.
    pub hash_all: bool,
    /// What happens, instead of what would be drawn.
    pub script: Option<Vec<Line>>,
}

impl Plan {
    /// A run in which the seed switches faults on and off.
    pub fn of(seed: u64) -> Self {
        Self::of_kind(seed, Tiering::Drawn)
    }

    /// The same where servers tier in no run, or in every one: a seed's run of the other kind is another run.
    pub fn of_kind(seed: u64, tiering: Tiering) -> Self {
        Self::drawn(seed).varied(tiering)
    }

    /// The same without what [`Plan::of`] varies: users that are alone or in a hurry, slow threads, a service that is far away.
    pub fn drawn(seed: u64) -> Self {
        let mut rng = Rng::new(seed, 1);
        let power_cuts = *rng.pick(&[0, 0, 0, 1, 3]);
        let apply_crashes = *rng.pick(&[0, 0, 0, 10]);
        let set_backs = *rng.pick(&[0, 0, 0, 0, 0, 0, 1]);
        let once = |rng: &mut Rng, one_in: u64| u64::from(rng.below(one_in) == 0);
        Self {
            seed,
            hosts: 2 + usize::from(rng.chance(60)),
            actions: 3 + rng.below(40),
            kinds: (rng.next() | rng.next()) as u32,
            active_ms: *rng.pick(&[2_000, 10_000, 60_000]),
            loss: *rng.pick(&[0, 0, 2, 10]),
            repeat: *rng.pick(&[0, 5, 20]),
            crashes: *rng.pick(&[0, 0, 1, 4]),
            power_cuts,
            power: power_cuts > 0 || apply_crashes > 0,
            apply_crashes,
            races: *rng.pick(&[0, 0, 10]),
            unmounts: once(&mut rng, 6),
            jumps: once(&mut rng, 4),
            skew: rng.chance(30),
            full: once(&mut rng, 6),
            damage: *rng.pick(&[0, 0, 0, 0, 5]),
            prune: set_backs == 0 && rng.chance(30),
            restarts: *rng.pick(&[0, 0, 0, 1, 2]),
            set_backs,
            reverts: once(&mut rng, 8),
            clones: once(&mut rng, 10),
            forgets: once(&mut rng, 12),
            expiry: rng.chance(30),
            times: if rng.chance(30) { Times::Coarse } else { Times::Fine },
            reuse: rng.chance(50),
            watch: if Rng::of(seed, [14, 0, 0]).chance(60) { Watch::Fanotify } else { Watch::Inotify },
            queue: *rng.pick(&[4, 64, 64]),
            page_rows: *rng.pick(&[2, 100, 100]),
            stepwise: rng.chance(50),
            small_limits: rng.chance(70),
            script: None,
            // What is drawn apart.
            ..Self::plain(seed, 0, 0)
        }
    }

    /// Some runs have users in a hurry, slow threads, users at one server only, or a service that is far away. Drawn apart, so that the other runs stay
    /// what they are.
    fn varied(self, tiering: Tiering) -> Self {
        let mut rng = Rng::new(self.seed, 3);
        let mut one_in_eight = || rng.below(8) == 0;
        let (alone, hurry, slow, far) = (one_in_eight(), one_in_eight(), one_in_eight(), one_in_eight());
        let plan = Self { alone, hurry, slow, far, ..self };
        // No fault that takes what a server or the share knows, and nobody who writes at the others.
        let alone = |plan: Self| Self { races: 0, set_backs: 0, reverts: 0, clones: 0, forgets: 0, ..plan };
        let plan = if plan.alone { alone(plan) } else { plan };
        plan.tiering(tiering)
    }

    /// In half of the runs some servers tier, or all. Drawn apart, as the others.
    fn tiering(self, tiering: Tiering) -> Self {
        let mut rng = Rng::new(self.seed, 15);
        let without = rng.chance(50);
        if tiering == Tiering::Never || tiering == Tiering::Drawn && without {
            return self;
        }
        let all = (1 << self.hosts) - 1;
        let tiers = if rng.chance(30) { all } else { rng.below(all) + 1 };
        let cut_offs = *rng.pick(&[0, 0, 10, 30]);
        let (wishes, arrive) = (self.actions * (1 + rng.below(3)), rng.chance(40));
        // A store whose rows were set back to before prune deleted objects is not what prune is for.
        let history = rng.chance(30) && self.set_backs == 0;
        let (power, prune) = (self.power || cut_offs > 0, self.prune || history);
        Self { tiers, wishes, cut_offs, arrive, history, power, prune, ..self }
    }

    /// A run in which nothing happens but what is told.
    pub fn plain(seed: u64, hosts: usize, active_ms: u64) -> Self {
        Self {
            seed,
            hosts,
            actions: 0,
            kinds: 0,
            active_ms,
            loss: 0,
            repeat: 0,
            crashes: 0,
            power_cuts: 0,
            power: false,
            apply_crashes: 0,
            races: 0,
            unmounts: 0,
            jumps: 0,
            skew: false,
            full: 0,
            damage: 0,
            prune: false,
            restarts: 0,
            set_backs: 0,
            reverts: 0,
            clones: 0,
            forgets: 0,
            expiry: false,
            times: Times::Fine,
            reuse: false,
            watch: Watch::Inotify,
            queue: 64,
            page_rows: 100,
            stepwise: false,
            small_limits: false,
            alone: false,
            hurry: false,
            slow: false,
            tiers: 0,
            wishes: 0,
            cut_offs: 0,
            arrive: false,
            history: false,
            far: false,
            trace: false,
            hash_all: true,
            script: Some(Vec::new()),
        }
    }

    /// The run that a story tells: a line with the settings (see [`Plan::header`]), then what happens.
    ///
    /// # Panics
    /// On what no story says.
    pub fn told(story: &str) -> Self {
        let (header, lines) = story.trim_start().split_once('\n').unwrap_or((story.trim(), ""));
        let mut words = header.split_whitespace();
        let mut plan = Self::plain(0, 2, 2_000);
        while let Some(word) = words.next() {
            let mut number = || -> u64 {
                let text = words.next().expect("a number follows");
                text.parse().expect("a number follows")
            };
            match word {
                "seed" => plan.seed = number(),
                "hosts" => plan.hosts = number() as usize,
                "active" => plan.active_ms = number(),
                "queue" => plan.queue = number() as usize,
                "rows" => plan.page_rows = number() as usize,
                "power" => plan.power = true,
                "skew" => plan.skew = true,
                "damage" => plan.damage = 1,
                "prune" => plan.prune = true,
                "expiry" => plan.expiry = true,
                "coarse" => plan.times = Times::Coarse,
                "reuse" => plan.reuse = true,
                "fanotify" => plan.watch = Watch::Fanotify,
                "stepwise" => plan.stepwise = true,
                "small" => plan.small_limits = true,
                "alone" => plan.alone = true,
                "slow" => plan.slow = true,
                "tiers" => plan.tiers = number(),
                "arrive" => plan.arrive = true,
                "history" => plan.history = true,
                "far" => plan.far = true,
                other => panic!("no setting of a story: {other}"),
            }
        }
        Self { script: Some(crate::story::read(lines)), ..plan }
    }

    /// The settings that a told run needs, in one line.
    pub fn header(&self) -> String {
        let Self { seed, hosts, active_ms, queue, page_rows, .. } = self;
        let mut line = format!("seed {seed} hosts {hosts} active {active_ms} queue {queue} rows {page_rows}");
        let words = [
            (self.power, "power"),
            (self.skew, "skew"),
            (self.damage > 0, "damage"),
            (self.prune, "prune"),
            (self.expiry, "expiry"),
            (self.times == Times::Coarse, "coarse"),
            (self.reuse, "reuse"),
            (self.watch == Watch::Fanotify, "fanotify"),
            (self.stepwise, "stepwise"),
            (self.small_limits, "small"),
            (self.alone, "alone"),
            (self.slow, "slow"),
            (self.arrive, "arrive"),
            (self.history, "history"),
            (self.far, "far"),
        ];
        if self.tiers > 0 {
            line.push_str(&format!(" tiers {}", self.tiers));
        }
        for (_, word) in words.iter().filter(|(on, _)| *on) {
            line.push(' ');
            line.push_str(word);
        }
        line
    }

    /// The same settings, with what a story says instead of what would be drawn.
    pub fn with_script(&self, script: Vec<Line>) -> Self {
        let Self {
            power,
            skew,
            damage,
            prune,
            expiry,
            times,
            reuse,
            watch,
            stepwise,
            small_limits,
            alone,
            slow,
            tiers,
            arrive,
            history,
            far,
            ..
        } = *self;
        Self {
            power,
            skew,
            damage: damage.min(1),
            prune,
            expiry,
            times,
            reuse,
            watch,
            stepwise,
            small_limits,
            alone,
            slow,
            tiers,
            arrive,
            history,
            far,
            queue: self.queue,
            page_rows: self.page_rows,
            trace: self.trace,
            hash_all: self.hash_all,
            actions: self.actions,
            script: Some(script),
            ..Self::plain(self.seed, self.hosts, self.active_ms)
        }
    }
}
