//! The steps of an apply, each re-checked at the moment of acting: as `replica/src/displace.rs`.

use polder_engine::{ApplyAct, ApplyOver, ApplyResult, ApplyStep, Place};
use polder_sync::Filter;
use polder_types::{
    Kind, Name, NodeUid, Stamp, conflict_name,
    zoo::{Bug, planted},
};

use super::Host;
use super::apply::{Applying, Staged, Stop};
use crate::disk::{RECYCLE, ROOT, STAGING};

type Acted = Result<ApplyResult, Stop>;
/// A name in an open directory.
type Target = (u64, Name);

impl Host {
    pub(super) fn act(
        &mut self,
        applying: &mut Applying,
        at_step: usize,
        step: ApplyStep,
        staged: Option<&Staged>,
    ) -> Acted {
        let uid = step.uid;
        let staged = || staged.expect("what has a content was staged");
        match step.act {
            ApplyAct::Place { at, over: None, .. } => self.place(applying, &at, staged()),
            ApplyAct::Place { at, over: Some(over), .. } => {
                self.place_over(applying, at_step, &at, staged(), &over)
            }
            ApplyAct::Replace { at, expect, keep, .. } => {
                self.replace(applying, at_step, uid, (&at, &expect), staged(), keep.as_ref())
            }
            ApplyAct::Touch { at, expect, attrs, mtime, .. } if uid == NodeUid::ROOT => {
                if self.disk.ident(ROOT) != expect.ident {
                    return Err(Stop::Refused(None));
                }
                self.disk.touch(ROOT, None, attrs, mtime);
                applying.touch_dir(ROOT, self.disk.ident(ROOT));
                let now = Some(self.disk.entry(ROOT, &at.name));
                Ok(ApplyResult::Done { now, other: None, exact: true })
            }
            ApplyAct::Touch { at, kind, expect, attrs, mtime } => {
                let target = self.at(applying, &at)?;
                let Some(ino) =
                    self.disk.lookup(target.0, &target.1).filter(|ino| self.disk.kind(*ino) == kind)
                else {
                    return Err(self.refused(&target));
                };
                if kind == Kind::File
                    && mtime.is_some()
                    && self.disk.inode(ino).opened > 0
                    && self.disk.mark(ino).is_none()
                {
                    let text = "set the times of: busy".into();
                    let class = polder_engine::FailureClass::Other;
                    return Err(Stop::Failed(polder_engine::Failure { class, text }));
                }
                if !self.is_as_expected(&target, &expect, kind) {
                    return Err(self.refused(&target));
                }
                self.disk.touch(ino, Some((target.0, &target.1)), attrs, mtime);
                applying.touched_file((kind != Kind::Symlink).then_some(ino));
                Ok(self.done(&target, None, true))
            }
            ApplyAct::Move { from, expect, to } => self.move_to(applying, &from, &expect, &to),
            ApplyAct::Exchange { from, expect, to, expect_with } => {
                self.exchange(applying, &from, &expect, &to, &expect_with)
            }
            ApplyAct::Remove { at, kind, expect } => self.remove(applying, at_step, uid, &at, kind, &expect),
        }
    }

    fn at(&self, applying: &Applying, place: &Place) -> Result<Target, Stop> {
        Ok((self.target(applying, place)?, place.name.clone()))
    }

    fn refused(&self, at: &Target) -> Stop {
        Stop::Refused(self.disk.seen(at.0, &at.1).map(Box::new))
    }

    fn done(&self, at: &Target, other: Option<&Target>, exact: bool) -> ApplyResult {
        let other = other.and_then(|at| self.disk.seen(at.0, &at.1));
        ApplyResult::Done { now: self.disk.seen(at.0, &at.1), other, exact }
    }

    fn stamp_at(&self, at: &Target) -> Option<Stamp> {
        self.disk.lookup(at.0, &at.1).map(|ino| self.disk.stamp(ino))
    }

    fn is_node(&self, at: &Target, expect: &Stamp) -> bool {
        self.stamp_at(at).is_some_and(|stamp| stamp.ident == expect.ident)
    }

    fn is_as_expected(&self, at: &Target, expect: &Stamp, kind: Kind) -> bool {
        match kind {
            Kind::Directory => self.is_node(at, expect),
            _ if planted(Bug::NoLocalPrecondition) => !self.is_free(at),
            _ => self.stamp_at(at) == Some(*expect),
        }
    }

    /// The rename itself has moved the change time.
    fn is_same_content(&self, at: &Target, expect: &Stamp, kind: Kind) -> bool {
        match kind {
            Kind::Directory => self.is_node(at, expect),
            _ if planted(Bug::NoLookBack) || planted(Bug::NoLocalPrecondition) => true,
            _ => self.stamp_at(at).is_some_and(|stamp| Stamp { ctime: expect.ctime, ..stamp } == *expect),
        }
    }

    fn kind_at(&self, at: &Target) -> Option<Kind> {
        self.disk.lookup(at.0, &at.1).map(|ino| self.disk.kind(ino))
    }

    fn is_free(&self, at: &Target) -> bool {
        self.disk.lookup(at.0, &at.1).is_none()
    }

    fn placed(&self, applying: &mut Applying, at: &Target, staged: &Staged) {
        applying.touch_dir(at.0, self.disk.ident(at.0));
        if self.disk.names(staged.ino).is_some() {
            applying.made_dir(staged.ino);
        }
    }

    fn place(&mut self, applying: &mut Applying, at: &Place, staged: &Staged) -> Acted {
        let at = self.at(applying, at)?;
        if !self.is_free(&at) {
            return Err(self.refused(&at));
        }
        self.disk.rename((STAGING, &staged.name), (at.0, &at.1));
        self.placed(applying, &at, staged);
        Ok(self.done(&at, None, true))
    }

    fn place_over(
        &mut self,
        applying: &mut Applying,
        at_step: usize,
        place: &Place,
        staged: &Staged,
        over: &ApplyOver,
    ) -> Acted {
        let at = self.at(applying, place)?;
        let Some(kind) = self.kind_at(&at) else { return Err(Stop::Refused(None)) };
        let fits = match (&over.to, kind) {
            (Some(_), _) => self.is_node(&at, &over.expect),
            (None, Kind::Directory) => self.is_node(&at, &over.expect) && self.is_empty(place, &at),
            (None, _) => self.is_as_expected(&at, &over.expect, kind),
        };
        if !fits {
            return Err(self.refused(&at));
        }
        let Some(to_place) = &over.to else {
            return self.displace(applying, at_step, over.uid, &at, &over.expect, kind, staged);
        };
        let to = self.at(applying, to_place)?;
        let done = self.exchange_with_staged(applying, &at, &over.expect, staged, &to)?;
        if kind == Kind::Directory {
            applying.dir_moved(place, to_place, false);
        }
        Ok(done)
    }

    fn replace(
        &mut self,
        applying: &mut Applying,
        at_step: usize,
        uid: NodeUid,
        (at, expect): (&Place, &Stamp),
        staged: &Staged,
        keep: Option<&Place>,
    ) -> Acted {
        let at = self.at(applying, at)?;
        let Some(kind) = self.kind_at(&at).filter(|kind| self.is_as_expected(&at, expect, *kind)) else {
            return Err(self.refused(&at));
        };
        let Some(keep) = keep else {
            return self.displace(applying, at_step, uid, &at, expect, kind, staged);
        };
        let dir = self.target(applying, keep)?;
        let names = std::iter::once(keep.name.clone())
            .chain((0..).map(|attempt| conflict_name(&at.1, &self.name, attempt)));
        let name = names.into_iter().find(|name| self.is_free(&(dir, name.clone()))).expect("endless");
        self.exchange_with_staged(applying, &at, expect, staged, &(dir, name))
    }

    /// Puts what is staged under a free name and exchanges the two.
    fn exchange_with_staged(
        &mut self,
        applying: &mut Applying,
        at: &Target,
        expect: &Stamp,
        staged: &Staged,
        keep: &Target,
    ) -> Acted {
        let exact = self.stamp_at(at) == Some(*expect);
        if !self.is_free(keep) {
            return Err(self.refused(keep));
        }
        self.disk.rename((STAGING, &staged.name), (keep.0, &keep.1));
        applying.touch_dir(keep.0, self.disk.ident(keep.0));
        self.disk.exchange((at.0, &at.1), (keep.0, &keep.1));
        self.placed(applying, at, staged);
        Ok(self.done(at, Some(keep), exact))
    }

    /// Exchanges what is staged with what stands there, which then lies in the recycle area.
    #[expect(clippy::too_many_arguments, reason = "a step is taken apart where it is known, and named here")]
    fn displace(
        &mut self,
        applying: &mut Applying,
        at_step: usize,
        uid: NodeUid,
        at: &Target,
        expect: &Stamp,
        kind: Kind,
        staged: &Staged,
    ) -> Acted {
        let entry = (RECYCLE, self.recycle_name(uid, expect));
        self.disk.rename((STAGING, &staged.name), (entry.0, &entry.1));
        if !self.is_as_expected(at, expect, kind) {
            self.disk.detach(entry.0, &entry.1);
            return Err(self.refused(at));
        }
        let ino = self.disk.lookup(at.0, &at.1).expect("it is as expected");
        self.race(applying, at_step, ino, (at.0, &at.1));
        self.disk.exchange((entry.0, &entry.1), (at.0, &at.1));
        self.placed(applying, at, staged);
        if self.is_same_content(&entry, expect, kind) {
            self.keep_recycled(applying, uid, &entry);
            return Ok(self.done(at, None, true));
        }
        let given = self.put_back(&entry.1, at.0, None, &at.1);
        Ok(self.done(at, Some(&(at.0, given)), true))
    }

    fn keep_recycled(&mut self, applying: &mut Applying, uid: NodeUid, entry: &Target) {
        let ctime = self.stamp_at(entry).expect("it lies there").ctime;
        self.remember_recycled(&entry.1, ctime);
        applying.recycled(uid, entry.1.clone());
    }

    fn move_to(&mut self, applying: &mut Applying, from: &Place, expect: &Stamp, to: &Place) -> Acted {
        let (source, target) = (self.at(applying, from)?, self.at(applying, to)?);
        let Some(before) = self.stamp_at(&source).filter(|stamp| stamp.ident == expect.ident) else {
            return Err(self.refused(&source));
        };
        let ino = before.ident.ino;
        if !self.is_free(&target) {
            return Err(self.refused(&target));
        }
        if self.disk.is_inside(target.0, ino) {
            let class = polder_engine::FailureClass::Other;
            return Err(Stop::Failed(polder_engine::Failure { class, text: "rename: invalid".into() }));
        }
        self.disk.rename((source.0, &source.1), (target.0, &target.1));
        applying.touch_dir(source.0, self.disk.ident(source.0));
        applying.touch_dir(target.0, self.disk.ident(target.0));
        if self.disk.names(ino).is_some() {
            applying.dir_moved(from, to, false);
        }
        Ok(self.done(&target, None, before == *expect))
    }

    fn exchange(
        &mut self,
        applying: &mut Applying,
        from: &Place,
        expect: &Stamp,
        to: &Place,
        expect_with: &Stamp,
    ) -> Acted {
        let (first, second) = (self.at(applying, from)?, self.at(applying, to)?);
        if !self.is_node(&first, expect) {
            return Err(self.refused(&first));
        }
        if !self.is_node(&second, expect_with) {
            return Err(self.refused(&second));
        }
        let inside = |dir: u64, ident: &Stamp| self.disk.is_inside(dir, ident.ident.ino);
        if inside(second.0, expect) || inside(first.0, expect_with) {
            let class = polder_engine::FailureClass::Other;
            return Err(Stop::Failed(polder_engine::Failure { class, text: "exchange: invalid".into() }));
        }
        let exact = self.stamp_at(&first) == Some(*expect) && self.stamp_at(&second) == Some(*expect_with);
        self.disk.exchange((first.0, &first.1), (second.0, &second.1));
        applying.touch_dir(first.0, self.disk.ident(first.0));
        applying.touch_dir(second.0, self.disk.ident(second.0));
        applying.dir_moved(from, to, true);
        Ok(self.done(&second, Some(&first), exact))
    }

    fn remove(
        &mut self,
        applying: &mut Applying,
        at_step: usize,
        uid: NodeUid,
        place: &Place,
        kind: Kind,
        expect: &Stamp,
    ) -> Acted {
        let at = self.at(applying, place)?;
        let done = ApplyResult::Done { now: None, other: None, exact: true };
        if kind == Kind::Directory {
            if !self.is_node(&at, expect) || !self.is_empty(place, &at) {
                return Err(self.refused(&at));
            }
            let dir = expect.ident.ino;
            if self.disk.names(dir).is_some_and(|names| names.is_empty()) {
                self.disk.detach(at.0, &at.1);
            } else {
                let entry = self.recycle_name(uid, expect);
                self.disk.rename((at.0, &at.1), (RECYCLE, &entry));
            }
            applying.touch_dir(at.0, self.disk.ident(at.0));
            return Ok(done);
        }
        if !self.is_as_expected(&at, expect, kind) {
            return Err(self.refused(&at));
        }
        let ino = expect.ident.ino;
        self.race(applying, at_step, ino, (at.0, &at.1));
        let entry = (RECYCLE, self.recycle_name(uid, expect));
        self.disk.rename((at.0, &at.1), (entry.0, &entry.1));
        if !self.is_same_content(&entry, expect, kind) {
            let given = self.put_back(&entry.1, at.0, Some(&at.1), &at.1);
            return Err(self.refused(&(at.0, given)));
        }
        self.keep_recycled(applying, uid, &entry);
        applying.touch_dir(at.0, self.disk.ident(at.0));
        Ok(done)
    }

    /// Whether a directory holds nothing but names that the filter leaves out.
    fn is_empty(&self, place: &Place, at: &Target) -> bool {
        let path = place.dir.path.join(place.name.clone());
        let filter = filter();
        let names = self.disk.lookup(at.0, &at.1).and_then(|ino| self.disk.names(ino));
        planted(Bug::RemovesFullDirectories)
            || names.is_some_and(|names| {
                names
                    .iter()
                    .all(|(name, ino)| filter.excludes(path.names(), name, self.disk.names(*ino).is_some()))
            })
    }
}

/// The names that every endpoint leaves out.
pub(crate) fn filter() -> &'static std::sync::Arc<Filter> {
    static FILTER: std::sync::OnceLock<std::sync::Arc<Filter>> = std::sync::OnceLock::new();
    FILTER.get_or_init(|| std::sync::Arc::new(Filter::defaults()))
}
