//! Openings of an endpoint are a chain. An agent that is still the one that opened last knows the last opening; a copy of
//! its state, or an older state of itself, does not. What does not continue the chain is a clone when the other one lives, and
//! else a state that was set back: it begins a new instance and merges, and deletes nothing (promise I7).
//!
//! Pure: `crates/model` tries every order in which copies, restarts and set-backs can come.

use polder_metadata::control::EndpointProgress;
use polder_types::{BatchNo, InstanceId};

/// Why an endpoint with two agents is stopped; for people.
pub const CLONE: &str = "two agents use this endpoint at one time: one of them is a copy of the other";

/// Why a state that was set back is compared anew; for people.
pub const OLD: &str = "the endpoint's state is older than what the service has seen of it";

/// An opening that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opening {
    /// The life of the agent's state database.
    pub instance: InstanceId,
    /// Drawn for this opening.
    pub opening: InstanceId,
    /// The last opening that the agent knows to be accepted, and those that it asked for since.
    pub previous: Vec<InstanceId>,
    /// The next batch's number.
    pub next_batch: BatchNo,
    /// The agent's process.
    pub process: InstanceId,
}

/// What becomes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judgement {
    /// It is the last one now.
    Opened,
    /// A state that was set back, or one that another has taken over from: a new instance must merge.
    SetBack(&'static str),
    /// Two agents live: both are stopped until a person has acted.
    Clone,
    /// It came in a session that is over, after another process had opened the endpoint: it is nobody's.
    Late,
    /// Stopped before.
    Stopped(String),
}

/// Judges an opening and moves the chain. `used`: the next batch's number names a batch already. `lives`: whether a process
/// is connected and was heard lately; asked of the one that opened last, and of the one that asks.
pub fn open(
    progress: &mut EndpointProgress,
    asked: &Opening,
    used: bool,
    lives: impl Fn(InstanceId) -> bool,
) -> Judgement {
    if let Some(why) = &progress.stopped_why {
        return Judgement::Stopped(why.clone());
    }
    let other = progress.process.filter(|process| *process != asked.process);
    let judgement = judge(progress, asked, used, || other.is_some_and(&lives), || lives(asked.process));
    match judgement {
        Judgement::Opened => {
            progress.instance = Some(asked.instance);
            progress.opening = Some(asked.opening);
            progress.process = Some(asked.process);
            progress.next_batch = asked.next_batch;
        }
        Judgement::Clone => {
            progress.cloned = true;
            progress.stopped_why = Some(CLONE.into());
        }
        Judgement::SetBack(_) | Judgement::Late | Judgement::Stopped(_) => (),
    }
    judgement
}

fn judge(
    progress: &EndpointProgress,
    asked: &Opening,
    used: bool,
    other_lives: impl Fn() -> bool,
    asker_lives: impl Fn() -> bool,
) -> Judgement {
    let Some(last) = progress.opening.filter(|_| !used) else {
        return if used { Judgement::SetBack(OLD) } else { Judgement::Opened };
    };
    let continues = asked.previous.contains(&last) || last == asked.opening;
    let same_instance = progress.instance == Some(asked.instance);
    match (same_instance, continues) {
        (true, true) if asked.next_batch < progress.next_batch => Judgement::SetBack(OLD),
        (true, true) => Judgement::Opened,
        // A message that outlived its process once stopped the endpoint of the process that came after.
        (_, false) if other_lives() && !asker_lives() => Judgement::Late,
        (_, false) if other_lives() => Judgement::Clone,
        (true, false) => Judgement::SetBack(OLD),
        // A new instance: it merges, so nothing is lost. One that was here before is an old state that came back.
        (false, _) if asked.previous.is_empty() || continues => Judgement::Opened,
        (false, _) => Judgement::SetBack("another instance of the endpoint has taken over since"),
    }
}
