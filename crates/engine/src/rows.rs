//! Rows of the feed and of the tree: what each of them changes in the store.

use std::collections::{BTreeMap, BTreeSet};

use polder_sync::{CloudNode, Offer, SyncedNode, TreeError, TreeStore};
use polder_types::{
    InstanceId, NodeState, NodeUid, Seq,
    zoo::{Bug, planted},
};

use crate::FeedRow;
use crate::engine::Engine;
use crate::mode::{NOTE_OTHER_HISTORY, is_set};
use crate::refused::untrue;

/// More than so many rows of one directory in a page are bulk.
const LONE_MAX: u32 = 4;

impl Engine {
    /// One row of the feed or the tree.
    pub(crate) fn row(
        &mut self,
        store: &mut dyn TreeStore,
        row: FeedRow,
        tree: bool,
        offers: &BTreeMap<NodeUid, Offer>,
    ) -> Result<NodeUid, TreeError> {
        let (uid, since, by, state) = match row {
            FeedRow::Live(state) => (state.uid, state.since, state.by, Some(*state)),
            FeedRow::Gone { uid, since, by } => (uid, since, by, None),
            FeedRow::Bad { uid, since, why } => return self.refuse_row(store, uid, since, why),
        };
        if let Some(why) = state.as_ref().and_then(untrue) {
            return self.refuse_row(store, uid, since, why.into());
        }
        self.believe_row(store, uid, since)?;
        if self.session.is_ahead(uid, since) && !planted(Bug::OldRowsOverrule) {
            return Ok(uid);
        }
        let ours = by == self.instance && by != InstanceId::ZERO;
        // A row of what was agreed already (the answer to another batch came before it) tells nothing about an offer that was made since.
        let agreed = store.synced(uid)?.map(|row| row.since);
        if !planted(Bug::LostAnswerIgnored)
            && (agreed < Some(since) || planted(Bug::OldRowAnswersOffer))
            && let Some(offer) = offers.get(&uid)
            // A deletion has no author. Whoever's it was, what was to be gone is gone.
            && (ours || offer.becomes.is_none() && !planted(Bug::LostAnswerOfDeletionIgnored))
            && fits(offer, state.as_ref())
        {
            store.drop_offer(uid)?;
            self.take_offer(store, offer, since)?;
        }
        let Some(state) = state else {
            if store.cloud(uid)?.is_none_or(|cloud| cloud.since < since) {
                self.supersede(store, uid, None)?;
                store.put_cloud(uid, None)?;
            }
            return Ok(uid);
        };
        if !tree && store.cloud(uid)?.is_some_and(|cloud| cloud.since > since) {
            return Ok(uid);
        }
        let attrs = store.put_attrs(&state.attrs)?;
        let NodeState { at, content, mtime, since, .. } = state;
        let node = CloudNode { at, content, attrs, mtime, since };
        if uid == NodeUid::ROOT {
            if tree || planted(Bug::EveryRootIsTheFirst) {
                self.root_row(store, &node)?;
            }
        } else if tree || store.cloud(uid)?.is_none() && is_set(store, NOTE_OTHER_HISTORY)? {
            // A node that the other history had lost, and that another server has brought back as that one knew it.
            self.rebase(store, uid, &node)?;
        }
        self.supersede(store, uid, Some(&node))?;
        store.put_cloud(uid, Some(&node))?;
        Ok(uid)
    }

    /// The first word about the root's attributes in the share, which is the tree's, is taken as agreed: an administrator chose those here. Its
    /// time is taken over, like that of every directory, once an endpoint has given it one.
    fn root_row(&mut self, store: &mut dyn TreeStore, node: &CloudNode) -> Result<(), TreeError> {
        if let Some(row) = store.synced(NodeUid::ROOT)?.filter(|row| row.since == Seq(0)) {
            let row = SyncedNode {
                at: node.at.clone(),
                attrs_share: node.attrs,
                mtime_share: if node.since == Seq(0) { node.mtime } else { row.mtime_share },
                since: node.since,
                ..row
            };
            store.put_synced(NodeUid::ROOT, Some(&row))?;
        }
        Ok(())
    }

    /// In a re-baseline a synced row is a merge base only if the share's version grew from it: equal versions are
    /// agreed, newer numbers of a longer history keep the base, everything else is compared without one. In another
    /// history a newer number says nothing: the version here may be one that it has lost.
    fn rebase(&mut self, store: &mut dyn TreeStore, uid: NodeUid, node: &CloudNode) -> Result<(), TreeError> {
        let Some(row) = store.synced(uid)? else { return Ok(()) };
        let equal = row.content == node.content
            && row.at == node.at
            && row.attrs_share == node.attrs
            && row.mtime_share == node.mtime;
        if equal {
            store.put_synced(uid, Some(&SyncedNode { since: node.since, ..row }))
        } else if (node.since <= row.since || is_set(store, NOTE_OTHER_HISTORY)?)
            && !planted(Bug::BaselineKeepsEverything)
        {
            // What stands on disk stays known although no row says it any more: the scan of this life may have passed it
            // over, because it equalled the row. Whether it still stands there, a look tells.
            self.looks.pend(row.at.parent, Some(row.at.name.clone()));
            if planted(Bug::DroppedRowForgetsFile) {
                return store.put_synced(uid, None);
            }
            self.write_row(store, uid, None)
        } else {
            Ok(())
        }
    }
}

/// Rows of a page of the feed that few others of their directory stand beside: what a person saved, among what a program
/// copies. They go ahead.
pub(crate) fn lone_rows(rows: &[FeedRow]) -> BTreeSet<NodeUid> {
    let live = || {
        rows.iter().filter_map(|row| match row {
            FeedRow::Live(state) => Some(&**state),
            FeedRow::Gone { .. } | FeedRow::Bad { .. } => None,
        })
    };
    let mut counts: BTreeMap<NodeUid, u32> = BTreeMap::new();
    for state in live() {
        *counts.entry(state.at.parent).or_default() += 1;
    }
    live().filter(|state| counts[&state.at.parent] <= LONE_MAX).map(|state| state.uid).collect()
}

/// Whether a version of ours in the feed is what an offer says. An offer that was refused and planned anew has other
/// values, or its batch is another.
fn fits(offer: &Offer, state: Option<&NodeState>) -> bool {
    match (&offer.becomes, state) {
        (None, None) => true,
        (Some(row), Some(state)) => {
            row.at == state.at
                && row.content == state.content
                && row.mtime_share == state.mtime
                && (row.attrs_share == state.attrs.hash() || planted(Bug::OldRowAnswersOffer))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use polder_types::{Attrs, Content, Placed, Timestamp};

    use super::*;

    fn live(number: u8, parent: u8) -> FeedRow {
        FeedRow::Live(Box::new(NodeState {
            uid: NodeUid([number; 16]),
            at: Placed { parent: NodeUid([parent; 16]), name: "x".parse().expect("a plain name") },
            mtime: Timestamp::default(),
            attrs: Attrs::default(),
            content: Content::Directory,
            since: Seq(1),
            by: InstanceId::ZERO,
        }))
    }

    #[test]
    fn a_row_is_lone_where_few_of_its_directory_are() {
        let few = (10..10 + LONE_MAX as u8).map(|number| live(number, 1));
        let many = (30..31 + LONE_MAX as u8).map(|number| live(number, 2));
        let gone = FeedRow::Gone { uid: NodeUid([60; 16]), since: Seq(1), by: InstanceId::ZERO };
        let rows: Vec<_> = many.chain(few).chain([gone]).collect();
        let lone: Vec<NodeUid> = (10..10 + LONE_MAX as u8).map(|number| NodeUid([number; 16])).collect();
        assert_eq!(lone_rows(&rows).into_iter().collect::<Vec<_>>(), lone);
    }
}
