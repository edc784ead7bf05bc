//! Opening an endpoint: where clones and states that were set back in time are noticed. As
//! `service/src/grpc/opening.rs`.

use polder_engine::Kept;
use polder_types::{BatchNo, Cursor, EndpointId, InstanceId};

/// Openings that an agent remembers until one is accepted.
pub const OPENINGS_MAX: usize = 16;

/// An opening that was asked for.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Which endpoint.
    pub endpoint: EndpointId,
    /// The life of its state database.
    pub instance: InstanceId,
    /// Fresh.
    pub opening: InstanceId,
    /// The last accepted one and those sent since.
    pub previous: Vec<InstanceId>,
    /// Lower batches are never used.
    pub next_batch: BatchNo,
    /// Highest place in history that is known.
    pub known: Cursor,
    /// Tells a second agent from a restart.
    pub process: u64,
    /// Batches whose answers are not known.
    pub open: Vec<BatchNo>,
}

/// What the service knows of an endpoint.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// The life of its state database.
    pub instance: Option<InstanceId>,
    /// The last opening that was accepted.
    pub opening: Option<InstanceId>,
    /// The process that made it.
    pub process: Option<u64>,
    /// The lowest batch number that it may still use.
    pub next_batch: BatchNo,
    /// Whether two agents were seen, and nobody has acted yet.
    pub stopped: bool,
}

/// What an opening comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decided {
    /// Accepted.
    Opened {
        /// Head of the share.
        head: Cursor,
        /// What became of the open batches that were decided.
        kept: Vec<Kept>,
    },
    /// The service was set back: begin a new instance and merge.
    OtherHistory,
    /// The agent was: likewise.
    SetBack(&'static str),
    /// Two agents live with one identity: both are stopped.
    Clone,
    /// Stopped until a person acts.
    Stopped,
    /// It came in a session that is over, after another process had opened the endpoint.
    Late,
}

/// `used`: the next batch's number names a batch already. Then: whether the process that opened last has a session, and
/// whether the one that asks has.
pub fn judge(
    progress: &Progress,
    asked: &Asked,
    used: bool,
    (lives, asker_lives): (bool, bool),
    head: Cursor,
) -> Decided {
    const OLD: &str = "the endpoint's state is older than what the service has seen of it";
    let opened = Decided::Opened { head, kept: Vec::new() };
    if progress.stopped {
        return Decided::Stopped;
    }
    let Some(last) = progress.opening.filter(|_| !used) else {
        return if used { Decided::SetBack(OLD) } else { opened };
    };
    let continues = asked.previous.contains(&last) || last == asked.opening;
    let same_instance = progress.instance == Some(asked.instance);
    match (same_instance, continues) {
        (true, true) if asked.next_batch < progress.next_batch => Decided::SetBack(OLD),
        (true, true) => opened,
        (_, false) if lives && !asker_lives => Decided::Late,
        (_, false) if lives => Decided::Clone,
        (true, false) => Decided::SetBack(OLD),
        (false, _) if asked.previous.is_empty() || continues => opened,
        (false, _) => Decided::SetBack("another instance of the endpoint has taken over since"),
    }
}

impl Progress {
    /// Writes down what was decided.
    pub fn note(&mut self, asked: &Asked, decided: &Decided) {
        match decided {
            Decided::Opened { .. } => {
                self.instance = Some(asked.instance);
                self.opening = Some(asked.opening);
                self.process = Some(asked.process);
                self.next_batch = asked.next_batch;
            }
            Decided::Clone => self.stopped = true,
            Decided::OtherHistory | Decided::SetBack(_) | Decided::Stopped | Decided::Late => (),
        }
    }
}
