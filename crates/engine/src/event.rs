//! What comes in: facts. They say what was seen or done, never what to do.
//!
//! Facts may come late, twice or not at all (the engine asks again); they may not lie. Directories are named by
//! their identity on disk, which is what a watcher and an open descriptor know; only the engine maps it to a node.

use std::sync::Arc;

use polder_types::{
    BatchAnswer, BatchNo, Content, Cursor, FileIdent, GroupAnswer, InstanceId, Name, NodeState, NodeUid,
    RelPath, Seq, Stamp,
};

use crate::{Failure, JobId, PageToken, SeenDir, SeenEntry, Settings};

/// One fact, or several of one kind. Bundle what is at hand (a few hundred looks, 1,024 entries of a listing): the
/// cost of a step is mostly per step.
#[derive(Debug, Clone, Hash)]
pub enum Event {
    /// First fact of a life, once: the root was opened and checked.
    Started(Started),
    /// The root's identity no longer holds: unmounted, emptied, replaced, marker gone. Everything local stops; no
    /// absence that was seen since the last proof counts. Stays until [`Event::RootBack`].
    RootLost {
        /// What was found instead, for status: "another file system is mounted there".
        why: Box<str>,
    },
    /// The root's identity holds again (or holds at last). Leads to a scan.
    RootBack {
        /// Stamp and attributes of the root directory.
        root: RootSeen,
    },
    /// Something happened under these names. Sent in the order of the watcher, repetitions left out.
    Hints(Vec<Hint>),
    /// The watcher lost events; everything may have changed. Leads to a scan; a state, not a log line.
    Overflow,
    /// Answer to [`crate::Effect::Look`]: what stands under each name.
    Looked {
        /// The job.
        job: JobId,
        /// One per name that was asked, in any order.
        looks: Vec<Look>,
    },
    /// Differences found by [`crate::Effect::List`].
    Listed {
        /// The job.
        job: JobId,
        /// Pieces, each of one directory. A directory's own entry comes before the pieces about its inside.
        parts: Vec<ListPart>,
    },
    /// The walk of [`crate::Effect::List`] is over; all of its pieces came before.
    ListDone {
        /// The job.
        job: JobId,
        /// How many entries were seen in all, different or not: the size of the endpoint.
        entry_count: u64,
        /// Whether it went everywhere (but for directories that were reported as unreadable). `false` when it was
        /// broken off; then it is begun again.
        complete: bool,
    },
    /// Answer to [`crate::Effect::Read`].
    Read {
        /// The job.
        job: JobId,
        /// What came of it.
        outcome: ReadOutcome,
    },
    /// All packs that these reads need were acknowledged by the service: their contents may be offered.
    Stored {
        /// Reads that ended as [`ReadOutcome::Stable`] with `stored` false.
        jobs: Vec<JobId>,
    },
    /// Packs of these reads could not be stored. The engine reads again after a while.
    StoreFailed {
        /// The reads.
        jobs: Vec<JobId>,
        /// Why.
        why: Failure,
    },
    /// Answer to [`crate::Effect::Apply`]. Everything that is reported as done is durable.
    Applied {
        /// The job.
        job: JobId,
        /// One per step, in the order of the effect.
        results: Vec<ApplyResult>,
        /// The directories that were touched, as they were after their times were set.
        dirs: Vec<SeenDir>,
    },
    /// Answer to [`crate::Effect::MakeDurable`].
    MadeDurable {
        /// The job.
        job: JobId,
    },
    /// Bytes moved for a job, for rates and remaining time. May be left out.
    Progress {
        /// The job.
        job: JobId,
        /// Bytes since the last such fact.
        bytes: u64,
    },
    /// A file that was displaced held content that nobody knew: it stands again in its directory, under a conflict
    /// name. Treated like a look; also told to people.
    Rescued {
        /// The directory.
        dir: FileIdent,
        /// What stands there now.
        entry: SeenEntry,
        /// Whose place it had.
        was: NodeUid,
    },
    /// A session with the service stands: version, certificate and instance were accepted. The engine announces
    /// itself ([`crate::Effect::Announce`]) before anything else.
    Connected,
    /// The session is gone. Answers that were due will not come.
    Disconnected {
        /// For status.
        why: Unreachable,
    },
    /// Answer to [`crate::Effect::Announce`].
    Announced {
        /// The job.
        job: JobId,
        /// What the service says.
        answer: Announced,
    },
    /// The share's head moved (from the session's stream). Repetitions and old values do no harm.
    Head(Cursor),
    /// Answer to [`crate::Effect::FetchFeed`] and [`crate::Effect::FetchTree`].
    Page {
        /// The job.
        job: JobId,
        /// The page, or why there is none.
        page: Result<Page, FeedError>,
    },
    /// Answer to [`crate::Effect::Send`].
    Answered {
        /// The job.
        job: JobId,
        /// The service's answer, or why there is none.
        answer: Result<BatchAnswer, BatchError>,
    },
    /// The moment of [`crate::Effect::WakeAt`] has come. Too early does no harm.
    Woke,
    /// Somebody wants something.
    Command(Command),
}

/// How a life begins.
#[derive(Debug, Clone, Hash)]
pub struct Started {
    /// Which instance this database is, as registered: the author of what it commits.
    pub instance: InstanceId,
    /// The root directory, or why it could not be proven to be ours (then as after [`Event::RootLost`]).
    pub root: Result<RootSeen, Box<str>>,
}

/// The root directory itself.
#[derive(Debug, Clone, Hash)]
pub struct RootSeen {
    /// Its stamp.
    pub stamp: Stamp,
    /// Its attributes.
    pub attrs: Arc<polder_types::Attrs>,
}

/// Something happened under a name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hint {
    /// The directory.
    pub dir: FileIdent,
    /// The name in it; `None` for the directory itself (its attributes changed).
    pub name: Option<Name>,
}

/// Answer to one look.
#[derive(Debug, Clone, Hash)]
pub struct Look {
    /// The directory that was asked for.
    pub dir: FileIdent,
    /// The name that was asked for; `None` when the directory itself was.
    pub name: Option<Name>,
    /// What is there.
    pub found: LookFound,
}

/// What a look met.
#[derive(Debug, Clone, Hash)]
pub enum LookFound {
    /// This. For a look at a directory itself the name in it is its last name.
    Entry(SeenEntry),
    /// Nothing, in a directory that is surely the one that was asked for, below a root that was proven to be ours
    /// afterwards (I5a).
    Nothing,
    /// The directory is not where it was thought to be: the look says nothing about the name.
    DirGone,
    /// Could not look. Says nothing about the name.
    Failed(Failure),
}

/// Differences in one directory between the disk and the synced rows (`polder_sync`'s comparison, which finds the
/// directory's rows by its identity, so that a moved directory compares equal inside).
#[derive(Debug, Clone, Hash)]
pub struct ListPart {
    /// The directory, as the open descriptor says.
    pub dir: FileIdent,
    /// Whose rows it was compared with; `None`: nobody's. Of a directory whose own entry was told there is a part in any case.
    pub rows: Option<NodeUid>,
    /// Entries whose stamp or kind differs from the synced row under the same key, and entries without a row.
    pub differ: Vec<SeenEntry>,
    /// Synced children that were not seen. Only in the last piece, and only if that is [`ListEnd::Complete`].
    pub missing: Vec<NodeUid>,
    /// How the directory's listing ended; `None` when more pieces of it follow.
    pub end: Option<ListEnd>,
}

/// How the listing of one directory ended.
#[derive(Debug, Clone, Hash)]
pub enum ListEnd {
    /// Read to its end without error, and its identity was the same before and after.
    Complete,
    /// Not readable in whole or part: nothing is missing here, and everything below is frozen until it can be read
    /// (no deletes out, no overwrites in).
    Unreadable(Failure),
    /// It changed while it was read: void for absences.
    Void,
    /// It does not stand where it was seen: nothing of it was read, nor of what lies deeper.
    Gone,
}

/// What came of reading a file.
#[derive(Debug, Clone, Hash)]
pub enum ReadOutcome {
    /// Read whole and untorn (a lease, or `stat, fsync, read, stat` twice with one hash), and the bytes are durable on
    /// this disk.
    Stable {
        /// What stands there, from the descriptor that was read.
        entry: SeenEntry,
        /// Its content, in canonical form.
        content: Content,
        /// Whether every pack that it needs was acknowledged by the service. With intent *store* and `false`, an
        /// [`Event::Stored`] follows. With intent *hash* always `false`.
        stored: bool,
    },
    /// It changed while it was read.
    Changed,
    /// Somebody has it open for writing and it did not rest.
    Busy,
    /// Another file, or none, stands there. Treated as a hint.
    Gone,
    /// Could not be read or stored.
    Failed(Failure),
}

/// What came of one step of [`crate::Effect::Apply`].
#[derive(Debug, Clone, Hash)]
pub enum ApplyResult {
    /// Done and durable.
    Done {
        /// What stands there afterwards; `None` after a removal.
        now: Option<SeenEntry>,
        /// A second entry: the other node of an exchange, what was displaced and kept (under the name that it got), or
        /// what was placed over and moved.
        other: Option<SeenEntry>,
        /// Whether what was there before was exactly as expected, change time included. Only a move (an exchange, a
        /// placement over something that moves away) is done without: an edit moves along, and is seen by this.
        exact: bool,
    },
    /// What was expected was not there. Not an error. What stands at the place where the expectation failed.
    Refused {
        /// What was found.
        found: Option<SeenEntry>,
    },
    /// Could not be done; the old state stands.
    Failed(Failure),
    /// Not tried, because a step that it needs was refused or failed, or the job was cancelled before.
    Skipped,
}

/// Why there is no session.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Unreachable {
    /// Connection refused, lost, timed out, service restarting. Passes by itself.
    Network(Box<str>),
    /// The certificate or the endpoint was revoked or removed. Until somebody registers again.
    Revoked(Box<str>),
    /// Another live agent has the same identity (a clone): both are stopped until one registers anew.
    Clone,
    /// The service speaks another version of the protocol.
    Version(Box<str>),
}

/// Answer to an announcement.
#[derive(Debug, Clone, Hash)]
pub enum Announced {
    /// Cursor and batch number fit the service's history. Batches below the announced number are refused from now on.
    Accepted {
        /// The share's head.
        head: Cursor,
        /// What became of those batches of [`crate::Effect::Announce::open`] that were decided. A batch that is not here was
        /// not taken, if `answers_known`; else the feed tells.
        answers: Vec<Kept>,
        /// Whether the service still knows the answers of this instance.
        answers_known: bool,
        /// Whether the service has a brake on this endpoint.
        held: bool,
    },
    /// One of the two was set back in time (tag or epoch differ): read the whole tree anew, merge, delete nothing.
    Rebaseline(Anew),
    /// The endpoint was away for longer than changes are kept: as [`Announced::Rebaseline`], and what only this server
    /// has waits for a person.
    AwayTooLong {
        /// For status and log.
        why: Box<str>,
    },
    /// Could not be answered; announced again after a while.
    Failed(Failure),
}

/// What the service keeps of a batch whose answer may have been lost.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Kept {
    /// Which one.
    pub batch: BatchNo,
    /// Of each of its groups: the number of its first operation; `None` where it was refused.
    pub accepted: Vec<Option<Seq>>,
}

impl Kept {
    /// Of an answer as it was first given.
    pub fn of(batch: BatchNo, answer: &BatchAnswer) -> Self {
        let first = |group: &GroupAnswer| match group {
            GroupAnswer::Accepted { first } => Some(*first),
            GroupAnswer::Refused { .. } => None,
        };
        Self { batch, accepted: answer.groups.iter().map(first).collect() }
    }
}

/// Why everything is compared anew.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Anew {
    /// For status and log.
    pub why: Box<str>,
    /// The service is of another history than the one that is known here: it was set back, so that its numbers may name
    /// other versions than here. Then no version here is the base of one there unless they are equal. Else only this
    /// side is old, and what it has is what newer versions grew from.
    pub other_history: bool,
}

/// A page of the feed, or of the whole tree.
#[derive(Debug, Clone, Hash)]
pub struct Page {
    /// Whole node states as of `upto`, or deletions. A node is in one row at most.
    pub rows: Vec<FeedRow>,
    /// The cut that the last page of this answer reaches. The same in all pages of one answer.
    pub upto: Cursor,
    /// What to ask for the next page of this answer; `None`: the cut is reached.
    pub next: Option<PageToken>,
}

/// A row of the feed.
#[derive(Debug, Clone, Hash)]
pub enum FeedRow {
    /// The node's state.
    Live(Box<NodeState>),
    /// The node is deleted.
    Gone {
        /// Which node.
        uid: NodeUid,
        /// The operation that deleted it.
        since: Seq,
        /// Which endpoint instance did; zero for a direct change.
        by: InstanceId,
    },
    /// What the service says of this node cannot be true of any node: a name that is a path, say. Nothing of it is
    /// believed.
    Bad {
        /// Which node.
        uid: NodeUid,
        /// The operation that it is said to come from.
        since: Seq,
        /// What is wrong with it.
        why: Box<str>,
    },
}

impl FeedRow {
    /// The operation that a row comes from.
    pub(crate) fn since(&self) -> Seq {
        match self {
            Self::Live(state) => state.since,
            Self::Gone { since, .. } | Self::Bad { since, .. } => *since,
        }
    }
}

/// Why there is no page.
#[derive(Debug, Clone, Hash)]
pub enum FeedError {
    /// The session was lost or the service could not answer. Asked again when there is a session.
    Failed(Failure),
    /// The cursor is not of this history any more: as [`Announced::Rebaseline`].
    Rebaseline(Anew),
    /// Changes after the cursor are no longer kept: as [`Announced::AwayTooLong`].
    AwayTooLong(Box<str>),
}

/// Why there is no answer to a batch.
#[derive(Debug, Clone, Hash)]
pub enum BatchError {
    /// Nobody knows whether it took effect. The engine announces and reads the feed.
    Lost,
    /// Surely not taken: the service is busy (a large restore, shutting down). Planned again.
    NotTaken(Failure),
    /// The batch number is older than one that was announced. As [`BatchError::Lost`].
    Stale,
    /// As [`Announced::Rebaseline`].
    Rebaseline(Anew),
}

/// What people ask for.
#[derive(Debug, Clone, Hash)]
pub enum Command {
    /// Stop reading, sending and applying; keep watching.
    Pause,
    /// Go on.
    Resume,
    /// Let the changes go that the mass-change brake holds.
    ReleaseAccept,
    /// Throw them back: the share's state returns to the disk; replaced bytes go to the recycle area.
    ReleaseRevert,
    /// A decision about the extras at and below some paths (none: all of them): upload them, or move them to the
    /// recycle area.
    Review {
        /// Upload.
        accept: bool,
        /// Where.
        paths: Vec<RelPath>,
    },
    /// Scan below a path, or everything.
    Rescan(RelPath),
    /// New settings. A name that is no longer excluded is found by the scan that follows.
    Settings(Box<Settings>),
    /// Try everything again now that waits for its back-off.
    RetryNow,
    /// The endpoint is being removed: finish what is in flight, begin nothing.
    Stop,
}
