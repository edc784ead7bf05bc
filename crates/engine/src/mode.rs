//! How the two sides are merged: as ever, for the first time, or after one of them was set back.

use polder_sync::{TreeError, TreeStore};

use crate::engine::Engine;
use crate::session::NOTE_OTHER_HISTORY;
use crate::{InitialMode, Level};

/// Note: how the two sides are merged at present.
pub(crate) const NOTE_MERGE: &str = "merge";

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
}

impl Mode {
    pub(crate) fn encode(self) -> &'static [u8] {
        match self {
            Self::Steady => b"steady",
            Self::Initial => b"initial",
            Self::NoDeletes => b"no deletes",
        }
    }

    pub(crate) fn decode(bytes: &[u8]) -> Self {
        match bytes {
            b"steady" => Self::Steady,
            b"initial" => Self::Initial,
            // What a newer version wrote is answered with the most careful mode.
            _ => Self::NoDeletes,
        }
    }
}

impl Engine {
    /// The first merge, or the comparison after a set-back, is over when nothing is left to do.
    pub(crate) fn end_mode(&mut self, store: &mut dyn TreeStore) -> Result<(), TreeError> {
        let quiet = self.work.running() == 0 && self.work.fresh_count() == 0 && !self.session.wants_feed();
        let seen = self.scan.done_once && !self.scan.is_open() && self.looks.is_idle();
        if self.session.mode != Mode::Steady
            && quiet
            && seen
            && !self.session.backlog
            && self.holds.is_empty()
            && !self.is_any_doomed(store)?
        {
            self.session.mode = Mode::Steady;
            self.session.why_baseline = None;
            store.put_note(NOTE_MERGE, Mode::Steady.encode())?;
            if store.note(NOTE_OTHER_HISTORY)?.is_some_and(|bytes| !bytes.is_empty()) {
                store.put_note(NOTE_OTHER_HISTORY, &[])?;
            }
            self.log(Level::Info, "both sides were compared and are united".into());
        }
        Ok(())
    }

    /// Whether work waits on a node that a steady plan would take for deleted on one side, although it is only not united
    /// yet: it was refused, could not be read or applied, or waits for another one.
    fn is_any_doomed(&self, store: &dyn TreeStore) -> Result<bool, TreeError> {
        let view = crate::overlay::View { store, overlay: &self.overlay };
        for uid in self.work.uids() {
            let one_side_lacks_it = store.cloud(uid)?.is_none() || view.local_row(uid)?.is_none();
            if one_side_lacks_it && store.synced(uid)?.is_some() {
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
            (Mode::NoDeletes, _) => polder_sync::Rule::NoDeletes,
        }
    }
}
