//! Reading files: two lanes, results, contents that wait for their packs, files that never rest.

use std::collections::{BTreeMap, VecDeque};

use polder_sync::{LocalContent, LocalNode, ReadIntent, TreeError, TreeStore};
use polder_types::{
    Content, Kind, NodeUid, Placed, Stamp,
    zoo::{Bug, planted},
};

use crate::engine::Engine;
use crate::overlay::View;
use crate::work::{State, Why};
use crate::{
    Effect, Failure, FailureClass, JobId, LARGE_BYTES, Lane, Level, LogLine, Place, Read, ReadOutcome, Reason,
};

/// A file may be uploaded so often in a row before its interval grows.
const HOT_FREE: u32 = 8;

/// Files that are counted before those that cooled down are looked for.
const HOT_FEW: usize = 10_000;

/// A hot file that has not changed for so many of the first intervals is read at once.
const HOT_REST: u64 = 5;

/// Reads queued and in flight.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    small: VecDeque<(NodeUid, ReadIntent)>,
    /// Small ones that go ahead.
    urgent: VecDeque<(NodeUid, ReadIntent)>,
    large: VecDeque<(NodeUid, ReadIntent)>,
    flying: BTreeMap<JobId, Flying>,
    flying_large: usize,
    /// Read, and waiting for their packs.
    storing: BTreeMap<JobId, Storing>,
    hot: BTreeMap<NodeUid, Hot>,
    /// Beyond so many, those that cooled down are forgotten.
    hot_max: usize,
}

#[derive(Debug)]
struct Flying {
    uid: NodeUid,
    at: Placed,
    expect: Stamp,
    intent: ReadIntent,
    lane: Lane,
}

#[derive(Debug)]
struct Storing {
    uid: NodeUid,
    stamp: Stamp,
    content: Content,
}

/// How often a file was read of late.
#[derive(Debug, Clone, Copy)]
struct Hot {
    last: u64,
    count: u32,
    interval: u64,
    /// What it looked like when it was last asked for, and until when it must look so to be at rest.
    seen: Option<Stamp>,
    rest_at: u64,
}

impl Reads {
    /// Jobs that may still bring a fact.
    pub(crate) fn jobs(&self) -> impl Iterator<Item = JobId> {
        self.flying.keys().chain(self.storing.keys()).copied()
    }

    pub(crate) fn queued(&self) -> usize {
        self.small.len() + self.urgent.len() + self.large.len()
    }
}

impl Engine {
    /// A file is to be read, at its turn.
    pub(crate) fn queue_read(
        &mut self,
        store: &dyn TreeStore,
        uid: NodeUid,
        intent: ReadIntent,
    ) -> Result<(), TreeError> {
        if self.work.is_busy(uid) {
            return Ok(());
        }
        let node = View { store, overlay: &self.overlay }.local_row(uid)?;
        if let Some(at) = self.hot_until(uid, node.as_ref().map(|node| node.stamp)) {
            self.work.put(uid, State::Until(at, Why::Hot));
            return Ok(());
        }
        let large = node.is_some_and(|node| node.stamp.size > LARGE_BYTES);
        let queue = match (large, self.work.is_urgent(uid)) {
            (true, _) => &mut self.reads.large,
            (false, true) => &mut self.reads.urgent,
            (false, false) => &mut self.reads.small,
        };
        queue.push_back((uid, intent));
        self.work.put(uid, State::Queued);
        Ok(())
    }

    /// Until when a file that changes all the time is left alone.
    fn hot_until(&mut self, uid: NodeUid, stamp: Option<Stamp>) -> Option<u64> {
        let (first, _) = self.settings.hot_ms;
        let now = self.now.mono_ms;
        let hot = self.reads.hot.get_mut(&uid)?;
        if hot.seen != stamp {
            hot.seen = stamp;
            hot.rest_at = now + first * HOT_REST;
        }
        let at = (hot.last + hot.interval).min(hot.rest_at);
        if now < at {
            return Some(at);
        }
        // Rested for twice its interval: it is not hot any more.
        if now >= hot.last + hot.interval.max(first) * 2 {
            self.reads.hot.remove(&uid);
        }
        None
    }

    /// A new content of a file was read: its interval grows with every further one, however often it was asked for.
    fn heat(&mut self, uid: NodeUid) {
        let (first, longest) = self.settings.hot_ms;
        let now = self.now.mono_ms;
        if self.reads.hot.len() >= self.reads.hot_max.max(HOT_FEW) {
            self.reads.hot.retain(|_, hot| hot.last + longest > now);
            // All may still be warm: to look through them again for each one more would cost the square of their number.
            self.reads.hot_max = self.reads.hot.len() * 2;
        }
        let hot = self.reads.hot.entry(uid).or_insert(Hot {
            last: now,
            count: 0,
            interval: 0,
            seen: None,
            rest_at: 0,
        });
        hot.last = now;
        hot.count += 1;
        if hot.count > HOT_FREE {
            hot.interval = (hot.interval * 2).clamp(first, longest);
        }
    }

    pub(crate) fn pump_reads(&mut self, store: &mut dyn TreeStore) -> Result<(), TreeError> {
        let limits = self.settings.limits;
        while self.reads.flying.len() - self.reads.flying_large < limits.reads_small {
            let next = self.reads.urgent.pop_front().or_else(|| self.reads.small.pop_front());
            let Some((uid, intent)) = next else { break };
            self.read(store, uid, intent, Lane::Small)?;
        }
        while self.reads.flying_large < limits.reads_large {
            let Some((uid, intent)) = self.reads.large.pop_front() else { break };
            self.read(store, uid, intent, Lane::Large)?;
        }
        Ok(())
    }

    fn read(
        &mut self,
        store: &mut dyn TreeStore,
        uid: NodeUid,
        intent: ReadIntent,
        lane: Lane,
    ) -> Result<(), TreeError> {
        if self.work.state(uid) != Some(State::Queued) {
            return Ok(());
        }
        // It may have gone or rested since it was queued.
        let node = View { store, overlay: &self.overlay }.local_row(uid)?;
        let node =
            node.filter(|node| node.kind == Kind::File && !matches!(node.content, LocalContent::Stored(_)));
        let dir = match &node {
            Some(node) => self.dir(store, node.at.parent)?.filter(|dir| dir.ident.is_some()),
            None => None,
        };
        let (Some(node), Some(dir)) = (node, dir) else {
            return self.fail(store, uid, None);
        };
        let base = store.synced(uid)?.map(|row| row.content);
        let job = self.job();
        let at = Place { dir, name: node.at.name.clone() };
        self.work.put(uid, State::Job(job));
        self.reads.flying_large += usize::from(lane == Lane::Large);
        self.reads.flying.insert(job, Flying { uid, at: node.at, expect: node.stamp, intent, lane });
        self.out.push(Effect::Read(Read { job, uid, at, expect: node.stamp, intent, base, lane }));
        Ok(())
    }

    pub(crate) fn read_done(
        &mut self,
        store: &mut dyn TreeStore,
        job: JobId,
        outcome: ReadOutcome,
    ) -> Result<(), TreeError> {
        let Some(flying) = self.reads.flying.remove(&job) else { return Ok(()) };
        self.reads.flying_large -= usize::from(flying.lane == Lane::Large);
        let uid = flying.uid;
        match outcome {
            ReadOutcome::Stable { entry, content, stored } => {
                let local = View { store, overlay: &self.overlay }.local_row(uid)?;
                let same_place = local.as_ref().is_some_and(|node| node.at == flying.at)
                    || (local.is_some() && planted(Bug::ReadOfMovedFile));
                let Some(local) = local.filter(|_| same_place) else {
                    // It moved or went while it was read; what was read may stand elsewhere now.
                    self.work.finish(uid, true, self.now.mono_ms);
                    return Ok(());
                };
                let stamp = entry.seen.stamp;
                if stamp != flying.expect || local.stamp != flying.expect {
                    // One of the two is older than the other: a look, made later than both, tells.
                    self.looks.pend(flying.at.parent, Some(flying.at.name.clone()));
                }
                self.set_present(store, uid, flying.at, entry)?;
                match (flying.intent, stored) {
                    (ReadIntent::Store, false) => {
                        self.reads.storing.insert(job, Storing { uid, stamp, content });
                    }
                    (ReadIntent::Store, true) => {
                        self.content_known(store, uid, LocalContent::Stored(content))?
                    }
                    (ReadIntent::Hash, _) => self.content_known(store, uid, LocalContent::Hashed(content))?,
                }
                Ok(())
            }
            ReadOutcome::Gone => {
                self.looks.pend(flying.at.parent, Some(flying.at.name));
                self.fail(store, uid, None)
            }
            ReadOutcome::Changed => {
                self.fail(store, uid, Some((Reason::Busy, "changes while it is read".into())))
            }
            ReadOutcome::Busy => self.fail(store, uid, Some((Reason::Busy, "open for writing".into()))),
            ReadOutcome::Failed(why) => self.fail(store, uid, Some((Reason::Read(why.class), why.text))),
        }
    }

    /// A file's content is known, and stored if it had to be.
    fn content_known(
        &mut self,
        store: &mut dyn TreeStore,
        uid: NodeUid,
        content: LocalContent,
    ) -> Result<(), TreeError> {
        let stored = matches!(content, LocalContent::Stored(_));
        self.overlay.set_content(uid, content);
        self.work.succeeded(uid);
        self.problems.solved(uid);
        if stored && store.synced(uid)?.is_some() {
            self.heat(uid);
        }
        self.work.finish(uid, true, self.now.mono_ms);
        Ok(())
    }

    /// The share lacks bytes that it was thought to have: the file is read and stored again before it is offered. One
    /// that equals its synced row has no state of its own until now. What its content is stays known: a placeholder cannot be read, and is equal
    /// as soon as another server has stored these bytes anew.
    pub(crate) fn forget_content(&mut self, store: &dyn TreeStore, uid: NodeUid) -> Result<(), TreeError> {
        let here = polder_sync::Trees::local(&View { store, overlay: &self.overlay }, uid)?;
        let here = here.filter(|_| !planted(Bug::MissingChunksNotRead) || self.overlay.get(uid).is_some());
        if let Some(here) = here.filter(|here| here.kind == Kind::File) {
            let content = match here.content {
                LocalContent::Stored(content) if !planted(Bug::RefusedIsUnknown) => {
                    LocalContent::Hashed(content)
                }
                LocalContent::Stored(_) => LocalContent::Unread,
                other => other,
            };
            self.overlay.put(uid, LocalNode { content, ..here });
        }
        Ok(())
    }

    pub(crate) fn stored(&mut self, store: &mut dyn TreeStore, jobs: &[JobId]) -> Result<(), TreeError> {
        for job in jobs {
            let Some(Storing { uid, stamp, content }) = self.reads.storing.remove(job) else { continue };
            if self.stands_as(store, uid, stamp)? {
                self.content_known(store, uid, LocalContent::Stored(content))?;
            } else {
                // Changed since: it is read again.
                self.work.finish(uid, true, self.now.mono_ms);
            }
        }
        Ok(())
    }

    pub(crate) fn store_failed(
        &mut self,
        store: &mut dyn TreeStore,
        jobs: &[JobId],
        why: &Failure,
    ) -> Result<(), TreeError> {
        for job in jobs {
            if let Some(Storing { uid, .. }) = self.reads.storing.remove(job) {
                self.fail(store, uid, Some((Reason::Store(why.class), why.text.clone())))?;
            }
        }
        Ok(())
    }

    /// A job of a node failed: it is tried again after a while, and told to people if there is a reason.
    pub(crate) fn fail(
        &mut self,
        store: &dyn TreeStore,
        uid: NodeUid,
        why: Option<(Reason, Box<str>)>,
    ) -> Result<(), TreeError> {
        let tries = self.work.failed(uid);
        let wait = self.backoff_ms(tries);
        self.work.put(uid, State::Until(self.now.mono_ms + wait, Why::Failed));
        if let Some((reason, text)) = why {
            let path = self.path(store, uid)?;
            // The first try may have been made together with others: only the second says which item it is.
            if reason == Reason::Apply(FailureClass::Damaged) && tries == 2 {
                self.out.push(Effect::Log(LogLine {
                    level: Level::Error,
                    audit: true,
                    text: format!("the service's bytes of an item are not what the share says: {text}")
                        .into(),
                    uid: Some(uid),
                    path: Some(path.clone()),
                }));
            }
            self.problems.add(uid, path, reason, text, self.now.unix_ms);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use polder_types::FileIdent;

    use super::*;
    use crate::{Now, Settings};

    const UID: NodeUid = NodeUid([1; 16]);

    fn stamp(ino: u64) -> Option<Stamp> {
        Some(Stamp { ident: FileIdent { ino, generation: 0 }, ..Stamp::default() })
    }

    fn at(engine: &mut Engine, mono_ms: u64) {
        engine.now = Now { mono_ms, ..Now::default() };
    }

    /// A file that has just been read so often in a row.
    fn heated(times: u32) -> Engine {
        let mut engine = Engine::new(Settings::new("site-a"), [0; 32]);
        (0..times).for_each(|_| engine.heat(UID));
        engine
    }

    #[test]
    fn a_hot_file_waits_longer_after_each_upload_and_not_after_each_plan() {
        let mut engine = heated(HOT_FREE);
        assert_eq!(engine.hot_until(UID, stamp(1)), None);
        engine.heat(UID);
        for ino in 0..20 {
            assert_eq!(engine.hot_until(UID, stamp(ino)), Some(1000), "planned once more");
        }
        engine.heat(UID);
        assert_eq!(engine.hot_until(UID, stamp(1)), Some(2000));
    }

    #[test]
    fn a_hot_file_that_rests_is_read() {
        let mut engine = heated(HOT_FREE + 20);
        // Its interval is a minute; it changes for 39 seconds and then rests.
        for second in 1..40 {
            at(&mut engine, second * 1000);
            assert_eq!(engine.hot_until(UID, stamp(second)), Some((second + HOT_REST) * 1000));
        }
        at(&mut engine, 43_000);
        assert_eq!(engine.hot_until(UID, stamp(39)), Some(44_000));
        at(&mut engine, 44_000);
        assert_eq!(engine.hot_until(UID, stamp(39)), None);
    }
}
