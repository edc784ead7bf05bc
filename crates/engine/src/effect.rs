//! What goes out: jobs for the executor, which come back as facts.
//!
//! Order of use for the executor, after every step: commit the store (durably, if any effect
//! [needs it](Effect::needs_durable_store)), then carry out the effects in their order. Several steps may share one
//! commit, as long as no effect of them is begun before it.

use std::sync::Arc;

use polder_types::{
    Attrs, BatchNo, Content, Cursor, Group, Kind, NodeUid, Seq, Stamp, Timestamp,
    zoo::{Bug, planted},
};

use crate::{Dir, JobId, Lane, LogLine, Place, Status};

/// Where the service is to go on; opaque to the engine.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PageToken(pub Vec<u8>);

/// One effect.
#[derive(Debug, Clone, Hash)]
pub enum Effect {
    /// `statx` these names, with attributes. Answer: [`crate::Event::Looked`]. Cheap: takes no place in a lane.
    Look {
        /// The job.
        job: JobId,
        /// What to look at. `None`: the directory itself.
        places: Vec<LookAt>,
    },
    /// List a directory, or walk everything below it, and send what differs from the synced rows.
    /// Answers: [`crate::Event::Listed`] and, at the end, [`crate::Event::ListDone`].
    List {
        /// The job.
        job: JobId,
        /// Where to begin. It is compared with the rows of this node, whosever its identity is by the rows.
        dir: Arc<Dir>,
        /// Whether to go down.
        recursive: bool,
        /// How many differences (entries and missing children) may be sent; then the walk stands still until
        /// [`Effect::Credit`]. The last piece may overdraw by one directory's end.
        credit: u32,
    },
    /// A walk may send more differences.
    Credit {
        /// The walk.
        job: JobId,
        /// How many more.
        more: u32,
    },
    /// Read a file. Answer: [`crate::Event::Read`], and with intent *store* [`crate::Event::Stored`].
    Read(Read),
    /// Change the disk. Answer: [`crate::Event::Applied`].
    Apply(Apply),
    /// Make all that is on the disk now durable. Answer: [`crate::Event::MadeDurable`]; where that fails, the life ends and all
    /// is looked at anew.
    MakeDurable {
        /// The job.
        job: JobId,
    },
    /// Give a job up. Its fact may still come and is ignored; bytes already stored do no harm. An apply that has begun
    /// to change names is finished and reported.
    Cancel(JobId),
    /// Tell the service who and where we are. Answer: [`crate::Event::Announced`].
    Announce {
        /// The job.
        job: JobId,
        /// Lower batch numbers are never used (again): the service refuses them from now on.
        next: BatchNo,
        /// The highest place in history that we know, compared by the service before anything else.
        known: Cursor,
        /// Batches whose answers are not known.
        open: Vec<BatchNo>,
    },
    /// Read changes. Answer: [`crate::Event::Page`].
    FetchFeed {
        /// The job.
        job: JobId,
        /// Changes after this.
        after: Cursor,
        /// From the page before, within one answer.
        page: Option<PageToken>,
    },
    /// Read the whole tree (new endpoint, re-baseline), then the feed from its `upto`. Answer: [`crate::Event::Page`].
    FetchTree {
        /// The job.
        job: JobId,
        /// From the page before.
        page: Option<PageToken>,
    },
    /// Send a batch. Answer: [`crate::Event::Answered`]. Never sent again under this number.
    Send {
        /// The job.
        job: JobId,
        /// Its number.
        batch: BatchNo,
        /// The highest place in history that we know.
        known: Cursor,
        /// The groups.
        groups: Vec<Group>,
    },
    /// Send [`crate::Event::Woke`] at this moment of [`crate::Now::mono_ms`]. Replaces the one before.
    WakeAt(u64),
    /// The endpoint's state for people, when it changed (at most every 200 ms).
    Status(Arc<Status>),
    /// Something worth a line in the log, or in the audit log where it says so.
    Log(LogLine),
}

/// One look.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LookAt {
    /// The directory.
    pub dir: Arc<Dir>,
    /// The name; `None` for the directory itself.
    pub name: Option<polder_types::Name>,
}

/// Reading a file.
#[derive(Debug, Clone, Hash)]
pub struct Read {
    /// The job.
    pub job: JobId,
    /// Which node, for logs and spans.
    pub uid: NodeUid,
    /// Where.
    pub at: Place,
    /// What it looked like. Another identity is the answer *gone*; other times or size are read all the same and told
    /// by the entry of the answer.
    pub expect: Stamp,
    /// What for.
    pub intent: polder_sync::ReadIntent,
    /// What was last agreed: its chunks need not be sent.
    pub base: Option<Content>,
    /// Which queue.
    pub lane: Lane,
}

/// A batch of changes to the disk, carried out in the order *stage all, make durable, then step by step re-check and
/// rename, set directory times, make directories durable*.
#[derive(Debug, Clone, Hash)]
pub struct Apply {
    /// The job.
    pub job: JobId,
    /// In an order that may be followed.
    pub steps: Vec<ApplyStep>,
    /// Directories that the batch touches (made ones too) and the time that they are to have afterwards.
    pub dir_times: Vec<(Arc<Dir>, Timestamp)>,
    /// Which queue the contents are fetched in.
    pub lane: Lane,
    /// Somebody waits for it: it goes ahead of others of its lane that have not begun.
    pub urgent: bool,
}

/// One change to the disk. What it expects is compared at the moment of acting; a step whose expectation does not hold
/// is refused and changes nothing.
#[derive(Debug, Clone, Hash)]
pub struct ApplyStep {
    /// Which node.
    pub uid: NodeUid,
    /// The version of it that stands there afterwards: what the mark of a placeholder names. 0 where the step brings none.
    pub since: Seq,
    /// What happens to it.
    pub act: ApplyAct,
    /// Indices of earlier steps that must have succeeded before; else this one is skipped.
    pub after: Vec<u32>,
}

/// What a step does: `polder_sync::Act` with directories that can be opened and attributes in full. Attributes are
/// those of the share; which of them are applied is the executor's policy. Of a directory's expected stamp only the
/// identity counts.
#[derive(Debug, Clone, Hash)]
pub enum ApplyAct {
    /// Makes the node under a name that must be free, or hold exactly what it goes over.
    Place {
        /// Where.
        at: Place,
        /// A directory, a link's target or a file's bytes.
        content: Content,
        /// Attributes.
        attrs: Arc<Attrs>,
        /// Modification time.
        mtime: Timestamp,
        /// Another node that leaves the name in the same exchange, so that the path is never missing.
        over: Option<ApplyOver>,
    },
    /// Exchanges a staged file or link with the one that stands there.
    Replace {
        /// Where it stands.
        at: Place,
        /// What must stand there: identity, ctime, mtime and size.
        expect: Stamp,
        /// The content that stands there, where it is known: unchanged chunks are taken from it.
        base: Option<Content>,
        /// The new content, of the same kind.
        content: Content,
        /// Attributes.
        attrs: Arc<Attrs>,
        /// Modification time.
        mtime: Timestamp,
        /// `None`: what is displaced equals a version of the share and goes to the recycle area. A name: it holds an
        /// edit that the share does not have, and stays in the same directory under this name, or the next free
        /// conflict name of it.
        keep: Option<Place>,
    },
    /// Changes attributes or the modification time in place; what is `None` stays.
    Touch {
        /// Where it stands.
        at: Place,
        /// What it is.
        kind: Kind,
        /// What must stand there.
        expect: Stamp,
        /// New attributes.
        attrs: Option<Arc<Attrs>>,
        /// New modification time.
        mtime: Option<Timestamp>,
    },
    /// Renames. Only the identity of what stands at `from` counts: edits follow the node. `to` must be free, or the
    /// same entry under another case.
    Move {
        /// Where it stands.
        from: Place,
        /// What must stand there.
        expect: Stamp,
        /// Where it goes.
        to: Place,
    },
    /// Exchanges the places of two nodes at once; only identities count.
    Exchange {
        /// Where the node stands.
        from: Place,
        /// What must stand there.
        expect: Stamp,
        /// Where the other one stands.
        to: Place,
        /// What must stand there.
        expect_with: Stamp,
    },
    /// Moves a file or link into the recycle area; removes a directory that holds nothing but names which the filter
    /// leaves out (these go to the recycle area).
    Remove {
        /// Where it stands.
        at: Place,
        /// What it is.
        kind: Kind,
        /// What must stand there.
        expect: Stamp,
    },
}

/// What a new node takes the name of.
#[derive(Debug, Clone, Hash)]
pub struct ApplyOver {
    /// Which node stands there.
    pub uid: NodeUid,
    /// What it is.
    pub kind: Kind,
    /// What must stand there; a directory must be empty.
    pub expect: Stamp,
    /// Where it goes: a free name (then only its identity counts); `None`: to the recycle area.
    pub to: Option<Place>,
}

impl Apply {
    /// Whether it only makes nodes where there is nothing: no node that stands on disk is changed.
    pub fn only_makes(&self) -> bool {
        self.steps.iter().all(|step| matches!(step.act, ApplyAct::Place { over: None, .. }))
    }
}

impl Effect {
    /// Whether the store's transaction must survive a power cut before this effect is begun: what a batch offers must
    /// be known after any crash, or the answer is lost and the agent conflicts with itself (I12).
    pub fn needs_durable_store(&self) -> bool {
        matches!(self, Self::Send { .. } | Self::Announce { .. }) && !planted(Bug::OffersNotDurable)
    }
}
