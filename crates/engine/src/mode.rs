//! How the two sides are merged: as ever, for the first time, after one of them was set back, or after an absence that was
//! too long; and when that is over.

use polder_sync::{TreeError, TreeStore};
use polder_types::zoo::{Bug, planted};

use crate::engine::Engine;
use crate::{InitialMode, Level};

/// Note: how the two sides are merged at present.
pub(crate) const NOTE_MERGE: &str = "merge";
/// Note: the share is of another history than the synced rows, until both are united.
pub(crate) const NOTE_OTHER_HISTORY: &str = "other history";

/// How the two sides are merged at present.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Mode {
    /// As ever.
    #[default]
    Steady,
    /// First sync: both sides are united, or this one is the authority.
    Initial,
    /// After one side was set back: nothing is deleted.
    NoDeletes,
    /// After an absence that was too long: nothing is deleted, and what only this side has waits for a person.
    Review,
}

impl Mode {
    pub(crate) fn encode(self) -> &'static [u8] {
        match self {
            Self::Steady => b"steady",
            Self::Initial => b"initial",
            Self::NoDeletes => b"no deletes",
            Self::Review => b"review",
        }
    }

    pub(crate) fn decode(bytes: &[u8]) -> Self {
        match bytes {
            b"steady" => Self::Steady,
            b"initial" => Self::Initial,
            b"review" => Self::Review,
            // What a newer version wrote is answered with the most careful mode.
            _ => Self::NoDeletes,
        }
    }
}

impl Engine {
    /// The first merge, or the comparison after a set-back, is over when nothing is left to do.
    pub(crate) fn end_mode(&mut self, store: &mut dyn TreeStore) -> Result<(), TreeError> {
        let quiet = self.work.running() == 0 && self.work.fresh_count() == 0 && !self.session.wants_feed();
        if quiet && self.session.mode == Mode::Steady {
            self.save_review(store)?;
        }
        let seen = self.scan.done_once && !self.scan.is_open() && self.looks.is_idle();
        if self.session.mode != Mode::Steady
            && quiet
            && seen
            && self.pledges.is_empty()
            && !self.session.backlog
            && !self.is_holding()
            && (planted(Bug::MergeEndsTooEarly) || !self.is_any_doomed(store)?)
        {
            self.session.mode = Mode::Steady;
            self.session.why_baseline = None;
            self.save_review(store)?;
            store.put_note(NOTE_MERGE, Mode::Steady.encode())?;
            if is_set(store, NOTE_OTHER_HISTORY)? {
                store.put_note(NOTE_OTHER_HISTORY, &[])?;
            }
            self.log(Level::Info, "both sides were compared and are united".into());
        }
        Ok(())
    }

    /// Whether work waits on a node that a steady plan would take for deleted on one side, although it is only not united
    /// yet: it was refused, could not be read or applied, or waits for another one. An extra waits for a person, whatever the
    /// mode.
    fn is_any_doomed(&self, store: &dyn TreeStore) -> Result<bool, TreeError> {
        let view = crate::overlay::View { store, overlay: &self.overlay };
        for uid in self.work.uids() {
            let here = view.local_row(uid)?;
            let is_extra = here.as_ref().is_some_and(|here| self.review.has(here.stamp.ident));
            let one_side_lacks_it = store.cloud(uid)?.is_none() || here.is_none();
            if one_side_lacks_it && !is_extra && store.synced(uid)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The rule of the planner.
    pub(crate) fn rule(&self) -> polder_sync::Rule {
        match (self.session.mode, self.settings.initial) {
            (Mode::Steady, _) | (Mode::Initial, InitialMode::Merge) => polder_sync::Rule::Merge,
            (Mode::Initial, InitialMode::Authoritative) => polder_sync::Rule::HereWins,
            (Mode::NoDeletes, _) if planted(Bug::BaselineDeletes) => polder_sync::Rule::Merge,
            (Mode::NoDeletes, _) => polder_sync::Rule::NoDeletes,
            (Mode::Review, _) => polder_sync::Rule::Review,
        }
    }
}

/// Whether a note that is a flag is set.
pub(crate) fn is_set(store: &dyn TreeStore, note: &str) -> Result<bool, TreeError> {
    Ok(store.note(note)?.is_some_and(|bytes| !bytes.is_empty()))
}
