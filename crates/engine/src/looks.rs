//! Hints and looks: a hint leads to a look, a look to an observation.
//!
//! A look that was begun before the disk was changed by us under the same name says nothing: it is made again.

use std::collections::{BTreeMap, BTreeSet};

use polder_sync::{LocalNode, TreeError, TreeStore};
use polder_types::{
    FileIdent, Name, NodeUid, Placed,
    zoo::{Bug, planted},
};

use crate::engine::Engine;
use crate::observe::Sight;
use crate::overlay::{Key, View, as_local};
use crate::{Effect, Hint, JobId, Look, LookAt, LookFound, SeenDir, SeenEntry};

/// Names asked for in one job.
const LOOKS_PER_JOB: usize = 256;
/// How long nothing must have changed before times of directories are looked at and sent.
pub(crate) const QUIET_MS: u64 = 1000;
/// When a look is made again whose directory had moved.
const LATER_MS: u64 = 100;
/// Jobs at once.
const LOOK_JOBS_MAX: usize = 8;
/// Directories that hints named before anybody knew them; more lead to a walk of everything.
const STRANGERS_MAX: usize = 10_000;
/// Names that we changed are remembered while an older look is in flight; beyond this many, all older looks are void.
const TOUCHED_MAX: usize = 100_000;

/// What is looked at: a name in a directory, or the directory itself.
pub(crate) type LookPlace = (NodeUid, Option<Name>);

/// Looks to be made and in flight.
#[derive(Debug, Default)]
pub(crate) struct Looks {
    pending: BTreeSet<LookPlace>,
    /// Two names of one inode, to be looked at together.
    links: Vec<(Placed, Placed)>,
    flying: BTreeMap<JobId, Flying>,
    /// Names that a job in flight looks at: the next look at them waits, since answers of two jobs may come in any
    /// order.
    in_flight: BTreeSet<LookPlace>,
    /// Directories in which something changed: their own times are looked at when all is quiet.
    pub(crate) dirs_touched: BTreeSet<NodeUid>,
    pub(crate) last_change: u64,
    /// Names under which we changed the disk: jobs older than this number know nothing about them.
    touched: BTreeMap<Key, JobId>,
    /// Jobs older than this know nothing at all.
    floor: JobId,
    /// Names that were looked at while an apply was changing them: looked at again afterwards.
    suppressed: BTreeSet<Key>,
    /// Directories whose own attributes changed before anybody knew them, and the first job that began after that.
    strangers: BTreeMap<FileIdent, JobId>,
    /// The oldest job in flight when they were last asked for: until it lands they would be told the same.
    strangers_asked: Option<JobId>,
    /// Set while answers of looks are taken: somebody has just changed this.
    pub(crate) telling: bool,
    /// Looks whose directory was not where it was thought to be, and when they are made again.
    later: BTreeSet<(u64, NodeUid, Option<Name>)>,
}

#[derive(Debug)]
struct Flying {
    places: Vec<LookPlace>,
    links: bool,
}

/// Names in a directory that has another id from now on.
fn rekey_places(places: &mut BTreeSet<LookPlace>, from: NodeUid, to: NodeUid) {
    let of_it = places.range((from, None)..).take_while(|(dir, _)| *dir == from);
    for place in of_it.cloned().collect::<Vec<_>>() {
        places.remove(&place);
        places.insert((to, place.1));
    }
}

impl Looks {
    pub(crate) fn jobs(&self) -> impl Iterator<Item = JobId> {
        self.flying.keys().copied()
    }

    /// Whether nothing is to be looked at, not even times of directories.
    pub(crate) fn is_done(&self) -> bool {
        self.is_idle() && self.dirs_touched.is_empty() && self.later.is_empty()
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.pending.is_empty() && self.links.is_empty() && self.flying.is_empty()
    }

    /// When directories whose times moved are to be looked at, if nothing changes until then; or a look is due again.
    /// Times of directories wait until no work is `idle`.
    pub(crate) fn next_at(&self, idle: bool) -> Option<u64> {
        let later = self.later.first().map(|(at, ..)| *at);
        let quiet = self.quiet_at().filter(|_| idle && self.is_idle());
        quiet.into_iter().chain(later).min()
    }

    fn quiet_at(&self) -> Option<u64> {
        (!self.dirs_touched.is_empty()).then_some(self.last_change + QUIET_MS)
    }

    /// Takes names for one job, but none that is being looked at.
    fn take_pending(&mut self) -> Vec<LookPlace> {
        let (mut some, mut blocked) = (Vec::new(), Vec::new());
        while some.len() < LOOKS_PER_JOB {
            let Some(place) = self.pending.pop_first() else { break };
            let again = self.in_flight.contains(&place) && !planted(Bug::TwoLooksAtOnce);
            let list = if again { &mut blocked } else { &mut some };
            list.push(place);
        }
        self.pending.extend(blocked);
        some
    }

    /// A directory has another id from now on.
    pub(crate) fn rekey(&mut self, from: NodeUid, to: NodeUid) {
        if planted(Bug::LooksLoseTheirDirectory) {
            return;
        }
        rekey_places(&mut self.pending, from, to);
        // An answer may say of a directory that it stands elsewhere by now: its names are looked at again.
        if !planted(Bug::FlyingLooksLoseTheirDirectory) {
            rekey_places(&mut self.in_flight, from, to);
            let places = self.flying.values_mut().flat_map(|flying| &mut flying.places);
            places.filter(|(dir, _)| *dir == from).for_each(|(dir, _)| *dir = to);
        }
        let later: Vec<_> = self.later.iter().filter(|(_, dir, _)| *dir == from).cloned().collect();
        for (at, _, name) in later {
            self.later.remove(&(at, from, name.clone()));
            self.later.insert((at, to, name));
        }
        if self.dirs_touched.remove(&from) {
            self.dirs_touched.insert(to);
        }
        let suppressed: Vec<Key> = self
            .suppressed
            .range((from, Box::default())..)
            .take_while(|(dir, _)| *dir == from)
            .cloned()
            .collect();
        for key in suppressed {
            self.suppressed.remove(&key);
            self.suppressed.insert((to, key.1));
        }
        for place in self.links.iter_mut().flat_map(|(old, new)| [old, new]) {
            if place.parent == from {
                place.parent = to;
            }
        }
    }

    /// What jobs older than `next` say about a name is void. `oldest`: the oldest one in flight.
    fn touch(&mut self, key: Key, next: JobId, oldest: Option<JobId>) {
        self.touched.insert(key, next);
        if self.touched.len() <= TOUCHED_MAX {
            return;
        }
        self.touched.retain(|_, since| oldest.is_some_and(|job| job < *since));
        if self.touched.len() > TOUCHED_MAX / 2 {
            self.touched.clear();
            self.floor = next;
        }
    }

    pub(crate) fn pend(&mut self, dir: NodeUid, name: Option<Name>) {
        self.pending.insert((dir, name));
    }

    /// Whether a job was begun before we changed the disk under this name.
    pub(crate) fn is_stale(&self, job: JobId, key: &Key) -> bool {
        let older = job < self.floor || self.touched.get(key).is_some_and(|since| job < *since);
        older && !planted(Bug::StaleLookBelieved)
    }
}

impl Engine {
    pub(crate) fn hinted(&mut self, store: &mut dyn TreeStore, hints: Vec<Hint>) -> Result<(), TreeError> {
        let mut known: BTreeMap<FileIdent, Option<NodeUid>> = BTreeMap::new();
        for hint in hints {
            let uid = match known.get(&hint.dir) {
                Some(uid) => *uid,
                None => {
                    let uid = View { store, overlay: &self.overlay }.by_ident(hint.dir)?;
                    known.insert(hint.dir, uid);
                    uid
                }
            };
            // A directory that nobody knows yet: its parent's hint leads to a listing, which sees all.
            let Some(uid) = uid else {
                self.scan.hinted_stranger(hint.dir);
                self.hinted_stranger_itself(&hint);
                continue;
            };
            self.looks.pend(uid, hint.name);
        }
        let bound = self.settings.limits.overlay as usize * 2;
        if self.looks.pending.len() > bound {
            // More than is worth looking at one by one; memory stays bounded.
            self.looks.pending.clear();
            self.scan.want_all();
        }
        Ok(())
    }

    /// A walk of everything begins: hints may have been lost before it. What is in flight may have looked before that, and
    /// says nothing any more; what an apply is changing is looked at after it. What differs from the synced rows is looked at:
    /// a walk that finds what a row says, or nothing where none says anything, tells nothing. The root stands in no
    /// directory that a walk would list.
    pub(crate) fn look_anew(&mut self, store: &dyn TreeStore, walk: JobId) -> Result<(), TreeError> {
        self.looks.pend(NodeUid::ROOT, None);
        if !planted(Bug::LostHintsLeaveOldLooks) {
            self.looks.floor = walk;
            self.looks.suppressed.extend(self.applies.changing().cloned());
        }
        if planted(Bug::SilentWalkBelieved) {
            return Ok(());
        }
        for at in self.differing_places(store)? {
            self.looks.pend(at.parent, Some(at.name));
        }
        Ok(())
    }

    /// Where what differs from the synced rows stands, or stood before it was gone. The root has no place.
    pub(crate) fn differing_places(&self, store: &dyn TreeStore) -> Result<Vec<Placed>, TreeError> {
        let mut places = Vec::new();
        for (uid, node) in self.overlay.iter().filter(|(uid, _)| *uid != NodeUid::ROOT) {
            match node {
                Some(node) => places.push(node.at.clone()),
                None => places.extend(store.synced(uid)?.map(|row| row.at)),
            }
        }
        Ok(places)
    }

    /// Two names may be one file: both are looked at in one go, the old one first.
    pub(crate) fn look_at_links(&mut self, old: Placed, new: Placed) {
        self.looks.links.push((old, new));
    }

    pub(crate) fn pump_looks(&mut self, store: &mut dyn TreeStore) -> Result<(), TreeError> {
        self.look_at_strangers(store)?;
        self.look_at_quiet_dirs();
        while let Some((at, ..)) = self.looks.later.first()
            && *at <= self.now.mono_ms
        {
            let (_, dir, name) = self.looks.later.pop_first().expect("there is a first");
            self.looks.pend(dir, name);
        }
        // Names of one file lead to each other: what cannot be looked at leads on once.
        let mut past = BTreeSet::new();
        while self.looks.flying.len() < LOOK_JOBS_MAX {
            let links = !self.looks.links.is_empty();
            let places: Vec<LookPlace> = if links {
                let both = self.looks.links.drain(..self.looks.links.len().min(LOOKS_PER_JOB / 2));
                both.flat_map(|(old, new)| [(old.parent, Some(old.name)), (new.parent, Some(new.name))])
                    .collect()
            } else {
                self.looks.take_pending()
            };
            if places.is_empty() {
                break;
            }
            let mut asked = Vec::with_capacity(places.len());
            for place @ (uid, name) in &places {
                if let Some(dir) = self.dir(store, *uid)?.filter(|dir| dir.ident.is_some()) {
                    asked.push(LookAt { dir, name: name.clone() });
                    continue;
                }
                if store.cloud(*uid)?.is_some() && !planted(Bug::LookWithoutDirectoryForgotten) {
                    // The directory is on its way to this disk, or stands here under an id that is adopted later.
                    let at = self.now.mono_ms + QUIET_MS;
                    self.looks.later.insert((at, *uid, name.clone()));
                }
                if past.insert(place.clone()) {
                    self.look_past(store, *uid, name.as_ref())?;
                }
            }
            if asked.is_empty() {
                continue;
            }
            let job = self.job();
            self.looks.in_flight.extend(places.iter().cloned());
            self.looks.flying.insert(job, Flying { places, links });
            self.out.push(Effect::Look { job, places: asked });
        }
        Ok(())
    }

    fn look_at_quiet_dirs(&mut self) {
        let due = self.looks.quiet_at().is_some_and(|at| at <= self.now.mono_ms);
        if due && self.work.running() == 0 && self.looks.is_idle() {
            for dir in std::mem::take(&mut self.looks.dirs_touched) {
                self.looks.pend(dir, None);
            }
        }
    }

    pub(crate) fn looked(
        &mut self,
        store: &mut dyn TreeStore,
        job: JobId,
        looks: Vec<Look>,
    ) -> Result<(), TreeError> {
        let Some(flying) = self.looks.flying.remove(&job) else { return Ok(()) };
        for place in &flying.places {
            self.looks.in_flight.remove(place);
        }
        self.looks.telling = true;
        let done = self.take_looks(store, job, &flying, looks);
        self.looks.telling = false;
        done
    }

    fn take_looks(
        &mut self,
        store: &mut dyn TreeStore,
        job: JobId,
        flying: &Flying,
        looks: Vec<Look>,
    ) -> Result<(), TreeError> {
        let mut sights = Vec::with_capacity(looks.len());
        for Look { dir, name, found } in looks {
            let Some(uid) = (View { store, overlay: &self.overlay }).by_ident(dir)? else { continue };
            match (name, found) {
                (Some(name), LookFound::Entry(entry)) => {
                    let at = Placed { parent: uid, name };
                    self.sight(job, at, Some(entry), flying.links, &mut sights);
                }
                (Some(name), LookFound::Nothing) => {
                    self.sight(job, Placed { parent: uid, name }, None, flying.links, &mut sights);
                }
                (None, LookFound::Entry(entry)) => self.dir_looked(store, job, uid, entry)?,
                (None, LookFound::Nothing) | (_, LookFound::DirGone) => self.dir_lost(store, uid, flying)?,
                (_, LookFound::Failed(why)) => self.freeze(store, uid, why)?,
            }
        }
        for sight in &sights {
            let key = self.overlay.key(&sight.at);
            self.looked_at(job, key);
        }
        self.observe(store, sights)?;
        self.forget_touched();
        Ok(())
    }

    /// A fact of a look or listing, unless it is older than what we did there ourselves.
    pub(crate) fn sight(
        &mut self,
        job: JobId,
        at: Placed,
        entry: Option<SeenEntry>,
        links_checked: bool,
        sights: &mut Vec<Sight>,
    ) {
        let key = self.overlay.key(&at);
        if self.applies.is_changing(&key) && !planted(Bug::LooksDuringApply) {
            self.looks.suppressed.insert(key);
        } else if self.looks.is_stale(job, &key) {
            self.looks.pend(at.parent, Some(at.name));
        } else {
            sights.push(Sight { at, entry, links_checked, seen_by: Some(job) });
        }
    }

    /// What `job` has just seen under a name is younger than what others in flight may bring: a walk, a look at a directory
    /// by its name while it was looked at itself, an apply in that directory.
    pub(crate) fn looked_at(&mut self, job: JobId, key: Key) {
        let alone = self.looks.flying.is_empty()
            && self.applies.jobs().next().is_none()
            && self.scan.jobs().all(|walk| walk == job);
        if !alone && !planted(Bug::OlderLookOverYounger) {
            self.void_older(key);
        }
    }

    /// Whether what a job says of a directory itself may be taken now. If not, it is looked at later.
    pub(crate) fn may_take_dir(&mut self, job: JobId, uid: NodeUid, node: &LocalNode) -> bool {
        let key = self.key_of_dir(uid, node);
        if self.applies.is_changing(&key) && !planted(Bug::LooksDuringApply) {
            self.looks.suppressed.insert(key);
            return false;
        }
        if self.looks.is_stale(job, &key) {
            self.looks.pend(uid, None);
            return false;
        }
        self.looked_at(job, key);
        true
    }

    /// The directory itself was looked at. As under a name, this says nothing if it is older than what we did there.
    fn dir_looked(
        &mut self,
        store: &mut dyn TreeStore,
        job: JobId,
        uid: NodeUid,
        entry: SeenEntry,
    ) -> Result<(), TreeError> {
        let Some(node) = (View { store, overlay: &self.overlay }).local_row(uid)? else { return Ok(()) };
        let stamp = entry.seen.stamp;
        if node.stamp.ident != stamp.ident {
            return Ok(());
        }
        // Two changes within one tick of a coarse clock have one stamp.
        let is_known = node.stamp == stamp && node.attrs == self.as_agreed(store, uid, entry.attrs.hash())?;
        if !self.may_take_dir(job, uid, &node) || is_known {
            return Ok(());
        }
        self.set_dir_present(store, uid, SeenDir { stamp, attrs: entry.attrs })
    }

    /// A name cannot be looked at, for its directory is gone. The file that it had may have another name.
    fn look_past(
        &mut self,
        store: &dyn TreeStore,
        dir: NodeUid,
        name: Option<&Name>,
    ) -> Result<(), TreeError> {
        let Some(name) = name else { return Ok(()) };
        let key = self.settings.case.key(name.as_bytes());
        for uid in store.synced_all_at(dir, &key)? {
            if let Some(row) = store.synced(uid)? {
                self.look_at_rest(store, uid, &as_local(row))?;
            }
        }
        Ok(())
    }

    /// A directory is not where it was thought to be: its own name is looked at.
    fn dir_lost(
        &mut self,
        store: &mut dyn TreeStore,
        uid: NodeUid,
        flying: &Flying,
    ) -> Result<(), TreeError> {
        if uid == NodeUid::ROOT {
            // The volume is away, perhaps for less than anybody would notice.
            let at = self.now.mono_ms + LATER_MS;
            let places = flying.places.iter().filter(|(dir, _)| *dir == uid);
            self.looks.later.extend(places.map(|(dir, name)| (at, *dir, name.clone())));
            return Ok(());
        }
        if let Some(node) = (View { store, overlay: &self.overlay }).local_row(uid)? {
            // If only a directory above has moved, its hint is on the way; then this name is asked for again there.
            self.looks.pend(node.at.parent, Some(node.at.name));
            let at = self.now.mono_ms + LATER_MS;
            for (dir, name) in flying.places.iter().filter(|(dir, _)| *dir == uid) {
                self.looks.later.insert((at, *dir, name.clone()));
                self.look_past(store, *dir, name.as_ref())?;
            }
        }
        Ok(())
    }

    /// We changed the disk under a name: looks that are in flight know nothing about it.
    pub(crate) fn touched_by_us(&mut self, place: LookPlace) {
        let key = self.key_of(&place);
        if self.looks.suppressed.remove(&key) {
            self.looks.pending.insert(place);
        }
        self.void_older(key);
    }

    /// We worked in a directory: what looks in flight say of its time is void.
    pub(crate) fn dir_touched_by_us(&mut self, store: &dyn TreeStore, dir: NodeUid) -> Result<(), TreeError> {
        if let Some(node) = (View { store, overlay: &self.overlay }).local_row(dir)? {
            let key = self.key_of_dir(dir, &node);
            self.void_older(key);
        }
        Ok(())
    }

    /// What is in flight now says nothing about a name.
    fn void_older(&mut self, key: Key) {
        let oldest = self.oldest_in_flight();
        if oldest.is_some() {
            self.looks.touch(key, self.next_job(), oldest);
        }
    }

    /// Under which key a place is remembered. The root has no name.
    pub(crate) fn key_of(&self, (dir, name): &LookPlace) -> Key {
        match name {
            Some(name) => (*dir, self.settings.case.key(name.as_bytes()).into()),
            None => root_key(),
        }
    }

    fn key_of_dir(&self, uid: NodeUid, node: &LocalNode) -> Key {
        if uid == NodeUid::ROOT { root_key() } else { self.overlay.key(&node.at) }
    }

    /// The attributes of a directory changed that nobody knows yet: what is in flight (a look at its name, a walk, the apply
    /// that made it) may bring it as it was before.
    fn hinted_stranger_itself(&mut self, hint: &Hint) {
        if hint.name.is_some() || self.oldest_in_flight().is_none() || planted(Bug::StrangerItselfForgotten) {
            return;
        }
        if self.looks.strangers.len() < STRANGERS_MAX {
            let next = self.next_job();
            self.looks.strangers.insert(hint.dir, next);
        } else {
            self.scan.want_all();
        }
    }

    /// Looks at directories that have become known since a hint named them; forgets those of which nothing that was in
    /// flight then knew anything.
    fn look_at_strangers(&mut self, store: &dyn TreeStore) -> Result<(), TreeError> {
        let oldest = self.oldest_in_flight();
        if self.looks.strangers.is_empty() || oldest == self.looks.strangers_asked {
            return Ok(());
        }
        self.looks.strangers_asked = oldest;
        for (ident, since) in std::mem::take(&mut self.looks.strangers) {
            if let Some(uid) = (View { store, overlay: &self.overlay }).by_ident(ident)? {
                self.looks.pend(uid, None);
            } else if oldest.is_some_and(|job| job < since) {
                self.looks.strangers.insert(ident, since);
            }
        }
        Ok(())
    }

    /// The oldest job in flight that looks at the disk or changes it.
    fn oldest_in_flight(&self) -> Option<JobId> {
        let looks = self.looks.flying.first_key_value().map(|(job, _)| *job);
        looks.into_iter().chain(self.scan.jobs()).chain(self.applies.jobs()).min()
    }

    /// Forgets changes of ours once no older job is in flight.
    pub(crate) fn forget_touched(&mut self) {
        if self.oldest_in_flight().is_none() {
            self.looks.touched.clear();
        }
    }
}

fn root_key() -> Key {
    (NodeUid::ROOT, Box::default())
}
