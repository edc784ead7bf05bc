//! A failing run made short: what happened in it is told again with less and less, as long as it still fails.

use crate::disk::Times;
use crate::plan::Plan;
use crate::story::Line;
use crate::world::World;

/// A short story that fails.
#[derive(Debug)]
pub struct Short {
    /// The run.
    pub plan: Plan,
    /// What goes wrong in it.
    pub failure: String,
    /// Runs that it took.
    pub runs: u64,
}

impl Short {
    /// The settings and what happens, as [`Plan::told`] reads it.
    pub fn text(&self) -> String {
        let lines = self.plan.script.iter().flatten().map(ToString::to_string);
        std::iter::once(self.plan.header()).chain(lines).collect::<Vec<_>>().join("\n")
    }
}

struct Shrinker {
    /// What kind of failure it is: another one is another story.
    class: String,
    failure: String,
    runs: u64,
}

/// Shortens a failing run; `None` when it does not fail, or not again when it is told.
pub fn shrink(plan: &Plan) -> Option<Short> {
    let plan = Plan { trace: false, hash_all: false, ..plan.clone() };
    let outcome = World::new(plan.clone()).run();
    let failure = outcome.failure?;
    let mut shrinker = Shrinker { class: class_of(&failure), failure, runs: 1 };
    let mut told = plan.with_script(outcome.story);
    if !shrinker.fails(&told) {
        return None;
    }
    loop {
        let before = script(&told).len();
        told = shrinker.fewer_lines(told);
        told = shrinker.simpler_settings(told);
        if script(&told).len() == before {
            break;
        }
    }
    Some(Short { plan: told, failure: shrinker.failure, runs: shrinker.runs })
}

/// The words of a failure that do not depend on names and numbers.
pub fn class_of(failure: &str) -> String {
    let head = failure.split(':').next().unwrap_or_default();
    let words = head.split_whitespace().filter(|word| !word.bytes().any(|byte| byte.is_ascii_digit()));
    words.collect::<Vec<_>>().join(" ")
}

fn script(plan: &Plan) -> &[Line] {
    plan.script.as_deref().unwrap_or_default()
}

impl Shrinker {
    fn fails(&mut self, plan: &Plan) -> bool {
        self.runs += 1;
        match World::new(plan.clone()).run().failure {
            Some(failure) if class_of(&failure) == self.class => {
                self.failure = failure;
                true
            }
            _ => false,
        }
    }

    /// Delta debugging: leaves out runs of lines, long ones first.
    fn fewer_lines(&mut self, mut plan: Plan) -> Plan {
        let mut size = script(&plan).len().div_ceil(2).max(1);
        loop {
            let (mut at, mut left_out) = (0, false);
            while at < script(&plan).len() {
                let mut lines = script(&plan).to_vec();
                lines.drain(at..(at + size).min(lines.len()));
                let shorter = Plan { script: Some(lines), ..plan.clone() };
                if self.fails(&shorter) {
                    (plan, left_out) = (shorter, true);
                } else {
                    at += size;
                }
            }
            match size {
                1 if left_out => (),
                1 => return plan,
                _ => size = size.div_ceil(2),
            }
        }
    }

    fn simpler_settings(&mut self, mut plan: Plan) -> Plan {
        let changes: [fn(&mut Plan); 11] = [
            |plan| plan.hosts -= 1,
            |plan| plan.times = Times::Fine,
            |plan| plan.reuse = false,
            |plan| plan.skew = false,
            |plan| plan.small_limits = false,
            |plan| plan.stepwise = false,
            |plan| plan.expiry = false,
            |plan| plan.prune = false,
            |plan| plan.power = false,
            |plan| plan.queue = 64,
            |plan| plan.page_rows = 100,
        ];
        for change in changes {
            let mut simpler = plan.clone();
            change(&mut simpler);
            let hosts_named = script(&plan).iter().map(|line| line.host + 1).max().unwrap_or(1);
            if simpler.header() != plan.header()
                && simpler.hosts >= hosts_named.max(2)
                && self.fails(&simpler)
            {
                plan = simpler;
            }
        }
        plan
    }
}
