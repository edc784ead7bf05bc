//! What is asked of an apply, and what came of it: plain values.

use std::sync::Arc;

use polder_types::{Attrs, Kind, Name, NodeUid, Stamp, Timestamp};

use crate::{DirAt, Found, FsError, Staged};

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The directory, as it stands before the batch; shared by many places. For a directory that an earlier step of the
    /// batch makes the identity is `None`.
    pub dir: Arc<DirAt>,
    /// The name.
    pub name: Name,
}

/// A batch of changes to the disk, carried out in this order: what is staged is made durable, each step is re-checked
/// and carried out, directory times are set, the touched directories are made durable.
#[derive(Debug)]
pub struct Batch<'a> {
    /// In an order that may be followed. One step a node, apart from exchanges.
    pub steps: Vec<Step>,
    /// Times that directories are to have afterwards, made ones too.
    pub dir_times: Vec<(Arc<DirAt>, Timestamp)>,
    /// Name of this server, for conflict names of what is kept or rescued.
    pub server: &'a str,
    /// Which names never block the removal of a directory; they go to the recycle area with it.
    pub filter: &'a polder_sync::Filter,
}

/// One change to the disk. A step whose expectation does not hold is refused and changes nothing.
#[derive(Debug)]
pub struct Step {
    /// Which node: names what is displaced in the recycle area.
    pub uid: NodeUid,
    /// What happens to it.
    pub act: Act,
    /// Indices of earlier steps that must have been done before; else this one is skipped.
    pub after: Vec<u32>,
}

/// What a step does. Of a directory's expected stamp only the identity counts.
#[derive(Debug)]
pub enum Act {
    /// Gives a staged node a name that must be free, or exactly what it goes over.
    Place {
        /// Where.
        at: Place,
        /// The node, with its attributes and times.
        staged: Staged,
        /// A node that leaves the name in the same exchange.
        over: Option<Over>,
    },
    /// Exchanges a staged file or link with the one that stands there, which goes to the recycle area.
    Replace {
        /// Where it stands.
        at: Place,
        /// What must stand there: identity, ctime, mtime and size.
        expect: Stamp,
        /// The new file or link.
        staged: Staged,
        /// What is displaced holds an edit: it then gets this name, or the next free conflict name.
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
    /// Renames. Only the identity counts. `to` must be free, or the same entry under another case.
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
    /// Moves a file or link into the recycle area; removes a directory that holds nothing but what the filter leaves
    /// out.
    Remove {
        /// Where it stands.
        at: Place,
        /// What it is.
        kind: Kind,
        /// What must stand there.
        expect: Stamp,
    },
}

/// A node that another one takes the name of.
#[derive(Debug)]
pub struct Over {
    /// Which node stands there.
    pub uid: NodeUid,
    /// What must stand there; a directory must be empty but for what the filter leaves out.
    pub expect: Stamp,
    /// Where it goes (then only its identity counts); `None`: to the recycle area.
    pub to: Option<Place>,
}

/// What came of one step.
#[derive(Debug)]
pub enum StepResult {
    /// Done and durable.
    Done {
        /// What stands there afterwards; `None` after a removal.
        now: Option<Found>,
        /// A second entry: the other node of an exchange, or what was displaced and has a name again.
        other: Option<Found>,
        /// Set when what was displaced had been changed between the check and the exchange, so that it holds bytes that
        /// nobody knows.
        unknown: Option<Unknown>,
        /// Whether what was there before was exactly as expected, change time included. Only moves, exchanges and
        /// placements over what moves away are done without: an edit moves along, and is told by this.
        exact: bool,
    },
    /// What was expected was not there; nothing was changed. Not an error.
    Refused {
        /// What stands where the expectation failed; `None`: nothing, or the directory itself is not there.
        found: Option<Found>,
    },
    /// Could not be done; the old state stands. After a failed step of making durable the class is
    /// [`crate::ErrorClass::Io`] and nothing is known: look again.
    Failed(FsError),
    /// Not tried, because a step that it needs was not done.
    Skipped,
}

/// Displaced bytes that nobody knows. They are never dropped.
#[derive(Debug)]
pub enum Unknown {
    /// They stand in their directory again, under a conflict name: [`StepResult::Done::other`].
    Rescued,
    /// They could not be given a name and lie in the recycle area under this one.
    Held(crate::RecycledName),
}

/// What came of a batch.
#[derive(Debug)]
pub struct BatchResult {
    /// One per step, in their order.
    pub steps: Vec<StepResult>,
    /// Stamps and attributes of the directories that were touched, taken after their times were set.
    pub dirs: Vec<(Stamp, Arc<Attrs>)>,
    /// What lies in the recycle area now, and whose place it had. A program that has it open may still write to it:
    /// [`crate::Recycle::since`].
    pub displaced: Vec<(NodeUid, crate::RecycledName)>,
}
