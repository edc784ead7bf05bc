//! What people are told: the status, when it changed and not too often; skipped names; rescued files.

use std::sync::Arc;

use polder_sync::{Act, Change, PlannedOp, TreeError, TreeStore};
use polder_types::{FileIdent, NodeUid, Placed};

use crate::engine::{Engine, Root};
use crate::observe::Sight;
use crate::overlay::View;
use crate::{
    Effect, Held, JobId, Level, LogLine, Phase, Remaining, SeenEntry, SkipReason, Status, Unreachable,
};

/// Least time between two statuses.
const STATUS_MS: u64 = 200;

/// Counters and the last status.
#[derive(Debug, Default)]
pub(crate) struct Report {
    last: Option<Arc<Status>>,
    last_at: u64,
    due: bool,
    up_done: Remaining,
    down_done: Remaining,
}

impl Report {
    pub(crate) fn progress(&mut self, _job: JobId, bytes: u64, down: bool) {
        let side = if down { &mut self.down_done } else { &mut self.up_done };
        side.done_bytes += bytes;
    }

    pub(crate) fn sent(&mut self, op: &PlannedOp) {
        let counts = !matches!(op.change, Change::Update { content: None, attrs: None, .. });
        self.up_done.done_count += u64::from(counts);
    }

    pub(crate) fn applied(&mut self, _act: &Act) {
        self.down_done.done_count += 1;
    }

    pub(crate) fn due_at(&self) -> Option<u64> {
        self.due.then_some(self.last_at + STATUS_MS)
    }
}

impl Engine {
    pub(crate) fn pump_report(&mut self, store: &mut dyn TreeStore) -> Result<(), TreeError> {
        let now = self.now.mono_ms;
        // Every step may have changed it; it is put together only when it may be sent.
        let too_soon = now < self.report.last_at + STATUS_MS
            && self.report.last.as_ref().is_some_and(|last| last.caught_up == self.session.is_ready());
        if too_soon {
            self.report.due = true;
            return Ok(());
        }
        self.report.due = false;
        self.report.last_at = now;
        let status = self.status(store)?;
        if self.report.last.as_deref() != Some(&status) {
            let status = Arc::new(status);
            self.report.last = Some(status.clone());
            self.problems.changed = false;
            self.out.push(Effect::Status(status));
        }
        Ok(())
    }

    fn status(&mut self, store: &mut dyn TreeStore) -> Result<Status, TreeError> {
        let (down_count, down_bytes) = store.cloud_changed_count()?;
        let up = Remaining { count: self.overlay.len() as u64, bytes: 0, ..self.report.up_done };
        let down = Remaining { count: down_count, bytes: down_bytes, ..self.report.down_done };
        let held = self.brake.status(self.scan.entry_count, &self.settings.brake).or_else(|| {
            let none = Held { deletes: 0, overwrites: 0, renames: 0, allowed: 0, by_service: true };
            self.session.held_by_service.then_some(none)
        });
        let (problems, skipped, review_count) = match &self.report.last {
            Some(last) if !self.problems.changed => {
                (last.problems.clone(), last.skipped.clone(), last.review_count)
            }
            _ => (self.problems.listed(), self.problems.skipped(), self.problems.review_count()),
        };
        Ok(Status {
            phase: self.phase(&up, &down, held.is_some()),
            root_lost: match &self.root {
                Root::Lost(why) => Some(why.clone()),
                Root::Starting | Root::Ours => None,
            },
            unreachable: self.session.unreachable.clone(),
            scanning: self.scan.is_open(),
            rebaseline: self.session.why_baseline.clone(),
            answer_refused: self.session.refusals.answer.clone(),
            held,
            cursor: self.session.cursor,
            head: self.session.head,
            pin: self.pin(store, down_count)?,
            caught_up: self.session.is_ready(),
            up,
            down,
            entry_count: self.scan.entry_count,
            skipped_count: self.problems.skipped_count(),
            problem_count: self.problems.count(),
            review_count,
            problems,
            skipped,
        })
    }

    fn phase(&self, up: &Remaining, down: &Remaining, held: bool) -> Phase {
        let refused = matches!(
            self.session.unreachable,
            Some(Unreachable::Revoked(_) | Unreachable::Clone | Unreachable::Version(_))
        );
        let left = up.count + down.count;
        let busy = left > self.problems.of_work()
            || self.scan.is_open()
            || !self.looks.is_done()
            || self.is_holding()
            || self.work.running() > 0
            || self.session.wants_feed()
            || !self.session.is_ready();
        match &self.root {
            Root::Starting => Phase::Starting,
            Root::Lost(_) => Phase::RootLost,
            Root::Ours if self.paused => Phase::Paused,
            Root::Ours if refused => Phase::Refused,
            Root::Ours if !self.session.is_announced() => Phase::Unreachable,
            Root::Ours if held => Phase::Held,
            Root::Ours if self.problems.of_work() > 0 && left <= self.problems.of_work() => Phase::Problems,
            Root::Ours if self.problems.count() > 0 && !busy => Phase::Problems,
            Root::Ours if busy => Phase::Syncing,
            Root::Ours => Phase::InSync,
        }
    }

    /// A name is left out: listed, never silent.
    pub(crate) fn skip(
        &mut self,
        store: &mut dyn TreeStore,
        at: &Placed,
        why: SkipReason,
    ) -> Result<(), TreeError> {
        if let Some(dir) = self.dir_path(store, at.parent)? {
            self.problems.skip(dir.join(at.name.clone()), why);
        }
        Ok(())
    }

    /// A displaced file turned out to hold content that nobody knew; it stands in its directory again.
    pub(crate) fn rescued(
        &mut self,
        store: &mut dyn TreeStore,
        dir: FileIdent,
        entry: SeenEntry,
        was: NodeUid,
    ) -> Result<(), TreeError> {
        let Some(parent) = (View { store, overlay: &self.overlay }).by_ident(dir)? else {
            self.scan.want_all();
            return Ok(());
        };
        let at = Placed { parent, name: entry.seen.name.clone() };
        let path = self.path(store, parent)?.join(at.name.clone());
        self.out.push(Effect::Log(LogLine {
            level: Level::Info,
            audit: true,
            text: "an edit came while a change of the share was applied; it is kept as a file of its own"
                .into(),
            uid: Some(was),
            path: Some(path),
        }));
        // An answer about this name that came meanwhile was younger.
        self.looks.pend(at.parent, Some(at.name.clone()));
        self.observe(store, vec![Sight { at, entry: Some(entry), links_checked: true, seen_by: None }])
    }
}
