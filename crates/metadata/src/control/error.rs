//! Why a call of the control plane's store failed.

use super::rows::Table;

/// What went wrong below, as the store tells it.
pub type Fault = Box<dyn std::error::Error + Send + Sync>;

/// Why a call failed. The first five are answers to the caller; the others are about the store itself.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// No such object.
    #[error("there is no {what} \"{which}\"")]
    NotFound {
        /// Kind of object.
        what: Table,
        /// Its name or id, as asked.
        which: String,
    },
    /// Another object has the name.
    #[error("the {what} \"{name}\" exists already")]
    NameTaken {
        /// Kind of object.
        what: Table,
        /// The name.
        name: String,
    },
    /// Something else needs the object.
    #[error("the {what} \"{which}\" is in use by {by}")]
    InUse {
        /// Kind of object.
        what: Table,
        /// Its name.
        which: String,
        /// What uses it.
        by: String,
    },
    /// The object's state forbids it.
    #[error("{0}")]
    Refused(
        /// What forbids it, and what to do.
        String,
    ),
    /// The secret is unknown, used or expired. One answer for all three, so that nobody learns which.
    #[error("the token is not valid")]
    BadToken,
    /// Another process wrote with a newer fence.
    #[error("the lease \"{name}\" is now held by another process")]
    Fenced {
        /// Which lease.
        name: String,
    },
    /// The database was written by a newer version.
    #[error("the database has version {found}, this program knows {known}: use the newer program")]
    Newer {
        /// Its version.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// A row cannot be read.
    #[error("a row of {what} is damaged")]
    Damaged {
        /// Which table.
        what: Table,
        /// Why.
        #[source]
        source: Fault,
    },
    /// The store failed.
    #[error("the control database failed to {doing}")]
    Store {
        /// What was being done.
        doing: &'static str,
        /// Why.
        #[source]
        source: Fault,
    },
}

impl ControlError {
    /// An absent object.
    pub(super) fn not_found(what: Table, which: impl ToString) -> Self {
        Self::NotFound { what, which: which.to_string() }
    }

    /// Whether the same call may succeed later without anybody changing anything.
    pub fn can_retry(&self) -> bool {
        matches!(self, Self::Store { .. })
    }
}
