//! The session with the service: announcement, feed, cuts, re-baseline, lost answers.
//!
//! After every connection, in this order: announce (batches below our next number are never taken any more), settle the
//! answers that were lost, read the feed to its head, plan. While pages of one answer arrive the cloud tree is not
//! whole, and nothing is planned.
//!
//! What a crash leaves: the rows of the last commit, a cursor that they cover at least, and offers without answers.

use std::collections::{BTreeMap, BTreeSet};

use polder_sync::{CloudNode, Offer, SyncedNode, TreeError, TreeStore, Trees};
use polder_types::{
    BatchNo, Cursor, NodeUid, Seq,
    zoo::{Bug, planted},
};

use crate::engine::Engine;
use crate::mode::{Mode, NOTE_MERGE, NOTE_OTHER_HISTORY};
use crate::overlay::View;
use crate::refused::{Refusals, decode_cursor, encode_cursor};
use crate::rows::lone_rows;
use crate::{
    Anew, Announced, Effect, Failure, FeedError, FeedRow, JobId, Kept, Level, Page, PageToken, RootSeen,
    Unreachable,
};

/// Note: how far the whole tree was read; absent in a fresh database, then [`READING`], then [`WHOLE`].
const NOTE_TREE: &str = "tree";
const READING: &[u8] = b"reading";
const WHOLE: &[u8] = b"whole";
/// Note: the highest place in history that we know.
const NOTE_KNOWN: &str = "known";
/// Note: the youngest version in pages of an answer that has not come to its end.
const NOTE_SEEN: &str = "seen";
/// So many rows of a page are planned at once; more go to the backlog in the store.
const TOUCH_MAX: usize = 2_000;

/// State of the session.
#[derive(Debug, Default)]
pub(crate) struct Session {
    up: bool,
    pub(crate) unreachable: Option<Unreachable>,
    announced: bool,
    announcing: Option<JobId>,
    fetching: Option<Fetch>,
    /// When the next attempt is made after a failure.
    pub(crate) retry_at: Option<u64>,
    tries: u32,
    pub(crate) head: Cursor,
    pub(crate) cursor: Cursor,
    known: Cursor,
    want_feed: bool,
    /// Whether the cloud tree is whole.
    at_cut: bool,
    tree_whole: bool,
    /// Whether all pages of the tree were read in this session. What changed meanwhile they leave out, for the feed brings it: if the
    /// share is set back before that, they are of no history.
    tree_read: bool,
    pub(crate) mode: Mode,
    pub(crate) why_baseline: Option<Box<str>>,
    /// Nodes of the share that differ may lie in the store, not in work.
    pub(crate) backlog: bool,
    /// Versions of ours that were accepted and that the feed has not brought yet: older rows about them are stale.
    ahead: BTreeMap<NodeUid, Seq>,
    pub(crate) refusals: Refusals,
    pub(crate) held_by_service: bool,
}

#[derive(Debug)]
struct Fetch {
    job: JobId,
    tree: bool,
}

impl Session {
    /// Whether a version of ours was accepted that is younger than this one.
    pub(crate) fn is_ahead(&self, uid: NodeUid, since: Seq) -> bool {
        self.ahead.get(&uid).is_some_and(|ours| *ours > since)
    }

    /// Whether the share's state is known well enough to plan.
    pub(crate) fn is_ready(&self) -> bool {
        let cut_ignored = planted(Bug::CutIgnored) || planted(Bug::RetriesBeforeFeed);
        self.up && self.announced && (self.at_cut || cut_ignored) && self.tree_whole
    }

    pub(crate) fn is_announced(&self) -> bool {
        self.up && self.announced
    }

    pub(crate) fn known(&self) -> Cursor {
        self.known
    }

    pub(crate) fn wants_feed(&self) -> bool {
        self.want_feed || self.fetching.is_some()
    }
}

impl Engine {
    pub(crate) fn load_session(&mut self, store: &mut dyn TreeStore) -> Result<(), TreeError> {
        let session = &mut self.session;
        session.cursor = store.cursor()?;
        session.known = store.note(NOTE_KNOWN)?.and_then(|bytes| decode_cursor(&bytes)).unwrap_or_default();
        session.known = session.known.max(session.cursor);
        session.tree_whole = store.note(NOTE_TREE)?.as_deref() == Some(WHOLE);
        session.mode = match store.note(NOTE_MERGE)? {
            Some(bytes) => Mode::decode(&bytes),
            None => Mode::Initial,
        };
        session.backlog = true;
        self.load_refusals(store)
    }

    /// The root is synced from the start: its attributes as they are count as agreed.
    pub(crate) fn root_seen(&mut self, store: &mut dyn TreeStore, root: &RootSeen) -> Result<(), TreeError> {
        let hash = store.put_attrs(&root.attrs)?;
        let row = match store.synced(NodeUid::ROOT)? {
            // Seen anew with other attributes or times: an edit, unless the directory itself is another one.
            Some(row) if row.stamp.ident == root.stamp.ident => return Ok(()),
            Some(row) => SyncedNode { stamp: root.stamp, attrs_here: hash, ..row },
            None => SyncedNode {
                at: root_place(),
                content: polder_types::Content::Directory,
                attrs_share: hash,
                attrs_here: hash,
                mtime_share: root.stamp.mtime,
                stamp: root.stamp,
                since: Seq(0),
            },
        };
        let cloud = store.cloud(NodeUid::ROOT)?;
        store.put_synced(NodeUid::ROOT, Some(&row))?;
        store.put_cloud(NodeUid::ROOT, cloud.or(Some(CloudNode::from(&row))).as_ref())
    }

    pub(crate) fn connected(&mut self) {
        self.session.up = true;
        self.session.unreachable = None;
        self.reannounce();
    }

    /// Begins a session anew: announcement, feed, and then plans.
    pub(crate) fn reannounce(&mut self) {
        self.session.announced = false;
        self.session.tree_read = false;
        self.session.announcing = None;
        self.session.fetching = None;
        self.session.retry_at = None;
        self.session.tries = 0;
    }

    pub(crate) fn disconnected(
        &mut self,
        store: &mut dyn TreeStore,
        why: Unreachable,
    ) -> Result<(), TreeError> {
        self.session.up = false;
        self.session.announced = false;
        self.session.announcing = None;
        self.session.fetching = None;
        self.session.tree_read = false;
        self.session.unreachable = Some(why);
        self.batches_lost(store)
    }

    pub(crate) fn head_moved(&mut self, head: Cursor) {
        self.session.head = self.session.head.max(head);
        if self.session.head > self.session.cursor {
            self.session.want_feed = true;
        }
    }

    /// The feed is to be read although no head was heard: something was refused.
    pub(crate) fn want_feed(&mut self) {
        self.session.want_feed = true;
    }

    pub(crate) fn pump_session(&mut self, store: &mut dyn TreeStore) -> Result<(), TreeError> {
        let session = &self.session;
        let waits = session.retry_at.is_some_and(|at| at > self.now.mono_ms);
        if !session.up || waits || session.announcing.is_some() || session.fetching.is_some() {
            return Ok(());
        }
        if self.session.retry_at.take().is_some() {
            self.session.want_feed = true;
        }
        if !self.session.announced {
            let mut open: Vec<BatchNo> = store.offers()?.iter().map(|offer| offer.batch).collect();
            open.sort();
            open.dedup();
            let job = self.job();
            self.session.announcing = Some(job);
            let (next, known) = (store.next_batch()?, self.session.known);
            self.out.push(Effect::Announce { job, next, known, open });
        } else if !self.session.tree_whole && !self.session.tree_read {
            match store.note(NOTE_TREE)? {
                None => store.put_note(NOTE_TREE, READING)?,
                // Pages of a reading that was broken off may name nodes that are gone by now, and no later word would say
                // so: the feed begins at the new reading.
                Some(_) if planted(Bug::OldPagesStay) => (),
                Some(_) => store.forget_cloud()?,
            }
            self.fetch(true, None);
        } else if self.session.want_feed || !self.session.at_cut || self.work.waits_for_cut() {
            self.session.want_feed = false;
            self.fetch(false, None);
        }
        Ok(())
    }

    fn fetch(&mut self, tree: bool, page: Option<PageToken>) {
        let job = self.job();
        self.session.fetching = Some(Fetch { job, tree });
        self.out.push(match tree {
            true => Effect::FetchTree { job, page },
            false => Effect::FetchFeed { job, after: self.session.cursor, page },
        });
    }

    pub(crate) fn announced(
        &mut self,
        store: &mut dyn TreeStore,
        job: JobId,
        answer: Announced,
    ) -> Result<(), TreeError> {
        if self.session.announcing != Some(job) {
            return Ok(());
        }
        self.session.announcing = None;
        match answer {
            Announced::Accepted { head, .. } if head.seq < seen(store)? => {
                // Pages of an answer that was broken off told of versions that the share does not have any more.
                let why = "the share's head is older than what was read of it".into();
                self.rebaseline(store, Anew { why, other_history: true })
            }
            Announced::Accepted { head, answers, answers_known, held } => {
                self.session.announced = true;
                self.session.tries = 0;
                self.session.held_by_service = held;
                self.session.head = head;
                self.session.want_feed = true;
                // Rows are read to the head before anything is planned.
                self.session.at_cut = false;
                let ignored = planted(Bug::KeptAnswersIgnored);
                if !answers.is_empty() && !planted(Bug::KeptAnswersOfNowhere) {
                    // What is taken below is of this history, which the share may leave before the feed is read.
                    self.know(store, head)?;
                }
                for kept in answers.iter().filter(|_| !ignored) {
                    self.take_lost_answer(store, kept)?;
                }
                if answers_known && !ignored {
                    for offer in store.offers()? {
                        store.drop_offer(offer.uid)?;
                    }
                }
                Ok(())
            }
            Announced::Rebaseline(anew) => self.rebaseline(store, anew),
            Announced::AwayTooLong { why } => self.away_too_long(store, why),
            Announced::Failed(why) => {
                self.session_failed(&why);
                Ok(())
            }
        }
    }

    fn session_failed(&mut self, why: &Failure) {
        self.session.tries += 1;
        let wait = self.backoff_ms(self.session.tries);
        self.session.retry_at = Some(self.now.mono_ms + wait);
        self.log(Level::Debug, format!("the service could not answer: {}", why.text));
    }

    /// An answer that was lost, told by the service at the announcement.
    fn take_lost_answer(&mut self, store: &mut dyn TreeStore, kept: &Kept) -> Result<(), TreeError> {
        for offer in store.offers()?.into_iter().filter(|offer| offer.batch == kept.batch) {
            store.drop_offer(offer.uid)?;
            let ignored = planted(Bug::LostAnswerIgnored)
                || offer.becomes.is_none() && planted(Bug::LostAnswerOfDeletionIgnored);
            if let Some(Some(first)) = kept.accepted.get(offer.group as usize)
                && !ignored
            {
                self.take_offer(store, &offer, Seq(first.0 + u64::from(offer.op)))?;
            }
        }
        Ok(())
    }

    /// What was offered is in the share as version `since`.
    pub(crate) fn take_offer(
        &mut self,
        store: &mut dyn TreeStore,
        offer: &Offer,
        since: Seq,
    ) -> Result<(), TreeError> {
        let uid = offer.uid;
        if store.synced(uid)?.is_some_and(|row| row.since >= since) {
            return Ok(());
        }
        let old = store.synced(uid)?;
        let offered = offer.becomes.clone().map(|row| SyncedNode { since, ..row });
        let cloud = store.cloud(uid)?;
        let was_known = old.is_some() || self.overlay.get(uid).is_some();
        let cloud = became_in_share(cloud, old.as_ref(), offered.as_ref(), since);
        let row = offered
            .map(|row| SyncedNode { since: content_since(&row, old.as_ref(), cloud.as_ref(), since), ..row });
        self.agree_as_offered(store, uid, row.as_ref())?;
        store.put_cloud(uid, cloud.as_ref())?;
        if let Some(row) = &row
            && !was_known
            && !planted(Bug::LostAnswerMakesTwins)
            && let Some(twin) = self.seen_as_new(store, uid, row)?
        {
            self.rekey(store, twin, uid)?;
        }
        if let Some(row) = &row {
            self.leave_to_others(store, uid, row)?;
        }
        self.after_synced(store, uid)
    }

    /// Writes the row that an offer becomes. When it was offered the disk was as it says. What became of it since, looks tell of one that this
    /// life knows nothing else about: its old row says no more than that it stood so before.
    fn agree_as_offered(
        &mut self,
        store: &mut dyn TreeStore,
        uid: NodeUid,
        row: Option<&SyncedNode>,
    ) -> Result<(), TreeError> {
        if self.overlay.get(uid).is_some() || planted(Bug::OfferedStandsAsBefore) {
            self.write_row(store, uid, row)?;
            return self.look_for_gone(store, uid);
        }
        let old = store.synced(uid)?;
        for at in row.into_iter().chain(&old).map(|row| row.at.clone()) {
            // The root stands in no directory.
            self.looks.pend(at.parent, Some(at.name).filter(|_| uid != NodeUid::ROOT));
        }
        self.dirs_known.clear();
        store.put_synced(uid, row)
    }

    /// Where the row of an offer says that its node stands, this life has seen somebody else already.
    fn leave_to_others(
        &mut self,
        store: &mut dyn TreeStore,
        uid: NodeUid,
        row: &SyncedNode,
    ) -> Result<(), TreeError> {
        let key = self.overlay.key(&row.at);
        let standing = View { store, overlay: &self.overlay }.local_at(key.0, &key.1)?;
        let taken = standing.is_some_and(|other| other != uid) && self.overlay.get(uid).is_none();
        if taken && !planted(Bug::OfferStandsWhereOthersDo) { self.set_gone(store, uid) } else { Ok(()) }
    }

    /// The scan of this life may have seen what was offered before the answer was known, as something new.
    fn seen_as_new(
        &self,
        store: &dyn TreeStore,
        uid: NodeUid,
        row: &SyncedNode,
    ) -> Result<Option<NodeUid>, TreeError> {
        let mut twin = None;
        for other in self.overlay.all_by_ident(row.stamp.ident).filter(|other| *other != uid) {
            let Some(Some(node)) = self.overlay.get(other) else { continue };
            let unknown = store.synced(other)?.is_none() && store.cloud(other)?.is_none();
            if unknown && node.kind == row.content.kind() && (twin.is_none() || node.at == row.at) {
                twin = Some(other);
            }
        }
        Ok(twin)
    }

    /// The whole tree is read anew and united with what is here; nothing is deleted meanwhile (I7).
    pub(crate) fn rebaseline(&mut self, store: &mut dyn TreeStore, anew: Anew) -> Result<(), TreeError> {
        let Anew { why, other_history } = anew;
        self.log_audit(format!("the share's history and ours do not fit ({why}): comparing everything anew"));
        self.session.why_baseline = Some(why);
        // Who is to be asked about extras is asked all the same when a set-back is noticed on top.
        if self.session.mode != Mode::Review {
            self.session.mode = Mode::NoDeletes;
        }
        (self.session.tree_whole, self.session.tree_read) = (false, false);
        self.session.at_cut = false;
        self.session.announced = false;
        self.session.announcing = None;
        self.session.fetching = None;
        self.session.ahead.clear();
        self.session.cursor = Cursor::default();
        self.session.known = Cursor::default();
        self.batches_lost(store)?;
        for offer in store.offers()? {
            store.drop_offer(offer.uid)?;
        }
        store.put_note(NOTE_MERGE, self.session.mode.encode())?;
        store.put_note(NOTE_TREE, READING)?;
        store.put_note(NOTE_KNOWN, &encode_cursor(Cursor::default()))?;
        store.put_note(NOTE_SEEN, &[])?;
        if other_history {
            // Until all is united; a second reason does not take the first one back.
            store.put_note(NOTE_OTHER_HISTORY, &[1])?;
        }
        store.put_cursor(Cursor::default())?;
        store.forget_cloud()?;
        self.session.backlog = true;
        self.forget_refusals(store)
    }

    /// As a set-back; but what only this server has may have been deleted since, by somebody who had seen it (I16). Before
    /// the first merge is over everything here is new to the share.
    fn away_too_long(&mut self, store: &mut dyn TreeStore, why: Box<str>) -> Result<(), TreeError> {
        if self.session.mode != Mode::Initial {
            self.session.mode = Mode::Review;
        }
        self.rebaseline(store, Anew { why, other_history: false })
    }

    pub(crate) fn page(
        &mut self,
        store: &mut dyn TreeStore,
        job: JobId,
        page: Result<Page, FeedError>,
    ) -> Result<(), TreeError> {
        let Some(fetch) = self.session.fetching.take_if(|fetch| fetch.job == job) else { return Ok(()) };
        let page = match page {
            Ok(page) => page,
            Err(FeedError::Rebaseline(anew)) => return self.rebaseline(store, anew),
            Err(FeedError::AwayTooLong(why)) => return self.away_too_long(store, why),
            Err(FeedError::Failed(why)) => {
                self.answer_refused(&why);
                self.session_failed(&why);
                return Ok(());
            }
        };
        self.session.tries = 0;
        self.session.refusals.answer = None;
        let offers: BTreeMap<NodeUid, Offer> = match fetch.tree {
            true => BTreeMap::new(),
            false => store.offers()?.into_iter().map(|offer| (offer.uid, offer)).collect(),
        };
        let few = page.rows.len() <= TOUCH_MAX && page.next.is_none() && !fetch.tree;
        if page.next.is_some() && !fetch.tree {
            let youngest = page.rows.iter().map(FeedRow::since).max().unwrap_or_default();
            store.put_note(NOTE_SEEN, &youngest.max(seen(store)?).0.to_be_bytes())?;
        }
        let lone = if fetch.tree { BTreeSet::new() } else { lone_rows(&page.rows) };
        for row in page.rows {
            let uid = self.row(store, row, fetch.tree, &offers)?;
            let urgent = lone.contains(&uid);
            if few || urgent || self.work.contains(uid) {
                self.changed(uid);
            }
            if urgent {
                self.work.hurry(uid);
            }
        }
        self.session.backlog |= !few;
        if let Some(next) = page.next {
            self.session.at_cut = false;
            self.fetch(fetch.tree, Some(next));
            return Ok(());
        }
        self.cut(store, page.upto, fetch.tree)
    }

    /// The last page of an answer: the cloud tree is whole (after the tree itself: once the feed from there was read).
    fn cut(&mut self, store: &mut dyn TreeStore, upto: Cursor, tree: bool) -> Result<(), TreeError> {
        self.session.cursor = upto;
        store.put_cursor(upto)?;
        if seen(store)? != Seq::default() {
            store.put_note(NOTE_SEEN, &[])?;
        }
        self.know(store, upto)?;
        self.session.ahead.retain(|_, seq| *seq > upto.seq);
        if tree {
            self.session.tree_read = true;
            self.session.want_feed = true;
            if planted(Bug::TreeIsWholeWithoutFeed) {
                self.tree_is_whole(store)?;
            }
            return Ok(());
        }
        if !self.session.tree_whole {
            self.tree_is_whole(store)?;
        }
        if !self.session.at_cut {
            // Offers of an earlier session that the feed did not bring were not taken.
            for offer in store.offers()? {
                if !self.sends.is_in_flight(offer.batch) {
                    store.drop_offer(offer.uid)?;
                }
            }
            self.session.at_cut = true;
        }
        self.session.want_feed |= self.session.head > upto;
        self.work.cut_reached(self.now.mono_ms);
        Ok(())
    }

    /// The tree was read, and the feed from there.
    fn tree_is_whole(&mut self, store: &mut dyn TreeStore) -> Result<(), TreeError> {
        (self.session.tree_whole, self.session.tree_read) = (true, false);
        store.put_note(NOTE_TREE, WHOLE)
    }

    /// A higher place in history is known.
    pub(crate) fn know(&mut self, store: &mut dyn TreeStore, cursor: Cursor) -> Result<(), TreeError> {
        if cursor > self.session.known {
            self.session.known = cursor;
            store.put_note(NOTE_KNOWN, &encode_cursor(cursor))?;
        }
        Ok(())
    }

    /// Our batch was committed. When nobody else's commit lies between the cursor and it, the feed need not bring it.
    pub(crate) fn own_commit(
        &mut self,
        store: &mut dyn TreeStore,
        cursor: Cursor,
        op_count: u64,
    ) -> Result<(), TreeError> {
        self.know(store, cursor)?;
        let session = &mut self.session;
        session.head = session.head.max(cursor);
        let next = session.cursor.seq.0 + 1 + op_count == cursor.seq.0 || planted(Bug::OwnCommitSkipsOthers);
        if next && session.cursor.epoch == cursor.epoch && session.fetching.is_none() && session.at_cut {
            session.cursor = cursor;
            session.ahead.retain(|_, seq| *seq > cursor.seq);
            store.put_cursor(cursor)?;
        }
        session.want_feed |= session.head > session.cursor;
        Ok(())
    }

    /// A version of ours was accepted that the feed has not brought yet.
    pub(crate) fn ran_ahead(&mut self, uid: NodeUid, seq: Seq) {
        self.session.ahead.insert(uid, seq);
    }
}

/// The youngest version in pages of an answer that was not read to its end; zero when the last one was.
pub(crate) fn seen(store: &dyn TreeStore) -> Result<Seq, TreeError> {
    let bytes = store.note(NOTE_SEEN)?.and_then(|bytes| <[u8; 8]>::try_from(bytes).ok());
    Ok(bytes.map_or(Seq::default(), |bytes| Seq(u64::from_be_bytes(bytes))))
}

/// The place that the root has until the share says its own.
fn root_place() -> polder_types::Placed {
    polder_types::Placed { parent: NodeUid::ROOT, name: "root".parse().expect("a plain name") }
}

/// The version of which a row has the content, once something was taken as version `since`: an older one where only something else was taken, and
/// the share's content is not here yet. By that the share is asked to keep what stands here.
pub(crate) fn content_since(
    row: &SyncedNode,
    old: Option<&SyncedNode>,
    cloud: Option<&CloudNode>,
    since: Seq,
) -> Seq {
    let is_cloud = cloud.is_some_and(|cloud| cloud.content == row.content);
    let old =
        old.filter(|old| old.content == row.content && !is_cloud && !planted(Bug::RowNamesNewerVersion));
    old.map_or(since, |old| old.since)
}

/// The share's node once an offer is its version `since`. What the feed has brought stays, but for what the offer changed in it: the offer's row has
/// the rest as this server last agreed on it, and somebody else may have changed that since.
fn became_in_share(
    cloud: Option<CloudNode>,
    base: Option<&SyncedNode>,
    row: Option<&SyncedNode>,
    since: Seq,
) -> Option<CloudNode> {
    let cloud = match cloud {
        Some(cloud) if cloud.since > since || cloud.since == since && !planted(Bug::OfferRowIsWhole) => {
            return Some(cloud);
        }
        cloud => cloud.filter(|_| !planted(Bug::OfferRowIsWhole)),
    };
    let now = CloudNode::from(row?);
    let (Some(cloud), Some(then)) = (cloud, base.map(CloudNode::from)) else { return Some(now) };
    Some(CloudNode {
        at: if then.at == now.at { cloud.at } else { now.at },
        content: if then.content == now.content { cloud.content } else { now.content },
        attrs: if then.attrs == now.attrs { cloud.attrs } else { now.attrs },
        mtime: if then.mtime == now.mtime { cloud.mtime } else { now.mtime },
        since,
    })
}
