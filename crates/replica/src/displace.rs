//! The steps that change something which already stands there.

use std::os::fd::{AsFd, OwnedFd};

use polder_sync::Seen;
use polder_types::{Attrs, FileIdent, Kind, Name, NodeUid, Stamp, Timestamp, conflict_name, fold_v1};
use rustix::fs::{AtFlags, OFlags, RawDir, RenameFlags};
use rustix::io::Errno;

use crate::apply::{Acted, Applier, Stop, Target, is_same_content};
use crate::attributes::Applied;
use crate::error::{Doing, ErrorClass, FsError};
use crate::ident::{CName, kind, stamp_at, stamp_fd};
use crate::lease::{LeaseRefused, ReadLease};
use crate::look::{Found, look_dir};
use crate::presence::is_stamp_of_mark;
use crate::recycle::Recycle;
use crate::staging::{Staged, set_mtime};
use crate::steps::{Place, StepResult, Unknown};
use crate::walk::open_beneath;

/// How many conflict names are tried for what is kept.
const NAMES_TRIED_MAX: u32 = 1000;

impl Applier<'_> {
    /// Whether exactly what was expected stands there.
    pub(crate) fn is_as_expected(&self, at: &Target, expect: &Stamp) -> Result<bool, FsError> {
        match stamp_at(at.dir.as_fd(), at.c_name.as_c_str()) {
            Ok((_, stamp)) => Ok(stamp == *expect),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(FsError::new("stat", at.name.as_bytes(), errno)),
        }
    }

    /// Whether the node stands there, whatever has been written to it.
    pub(crate) fn is_node(&self, at: &Target, ident: FileIdent) -> Result<bool, FsError> {
        Ok(self.node(at, ident)?.is_some())
    }

    /// The stamp of the node, if it stands there.
    fn node(&self, at: &Target, ident: FileIdent) -> Result<Option<Stamp>, FsError> {
        match stamp_at(at.dir.as_fd(), at.c_name.as_c_str()) {
            Ok((_, stamp)) => Ok(Some(stamp).filter(|stamp| stamp.ident == ident)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(FsError::new("stat", at.name.as_bytes(), errno)),
        }
    }

    pub(crate) fn replace(
        &mut self,
        uid: NodeUid,
        at: &Place,
        expect: &Stamp,
        staged: Staged,
        keep: Option<&Place>,
    ) -> Acted {
        let target = self.target(at)?;
        if !self.is_as_expected(&target, expect)? {
            return Err(self.refused(&target));
        }
        match keep {
            None => self.displace(uid, &target, expect, staged.kind(), staged),
            Some(keep) => {
                let keep = self.free_target(keep, &target.name)?;
                self.exchange_with_staged(&target, expect, staged, &keep)
            }
        }
    }

    /// The wanted place if it is free, else the next free conflict name of `original` there.
    fn free_target(&mut self, wanted: &Place, original: &Name) -> Result<Target, Stop> {
        for attempt in 0..NAMES_TRIED_MAX {
            let name = match attempt {
                0 => wanted.name.clone(),
                n => conflict_name(original, self.server, n - 1),
            };
            let target = self.target(&Place { dir: wanted.dir.clone(), name })?;
            match crate::ident::statx_at(&target.dir, target.c_name.as_c_str()) {
                Err(Errno::NOENT) => return Ok(target),
                Ok(_) => (),
                Err(errno) => return Err(FsError::new("stat", target.name.as_bytes(), errno).into()),
            }
        }
        Err(FsError::new("find a free conflict name for", original.as_bytes(), Errno::EXIST).into())
    }

    /// Puts what is staged under the free name `keep` and exchanges the two: what stood at `at` then has the name `keep`,
    /// and no name was missing at any time.
    pub(crate) fn exchange_with_staged(
        &mut self,
        at: &Target,
        expect: &Stamp,
        mut staged: Staged,
        keep: &Target,
    ) -> Acted {
        let exact = self.is_as_expected(at, expect)?;
        match self.rename_staged(&staged, keep) {
            Ok(()) => staged.set_taken(),
            Err(error) if error.class == ErrorClass::Exists => return Err(self.refused(keep)),
            Err(error) => return Err(error.into()),
        }
        self.touch_dir(&keep.dir);
        let exchanged = exchange(at, keep);
        if let Err(error) = exchanged {
            // The name is ours alone for these microseconds. RACE: a user who has already replaced the file under it
            // loses that file; nobody can know the name before.
            let flags = if staged.kind() == Kind::Directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
            rustix::fs::unlinkat(&keep.dir, keep.c_name.as_c_str(), flags)
                .doing("take back", keep.name.as_bytes())?;
            return Err(error.into());
        }
        self.placed(at, &staged);
        // Whatever was displaced has a name; if it is not what was expected, that is all the same to its bytes.
        let other = self.found(keep);
        let as_expected = other.as_ref().is_some_and(|other| other.seen.stamp.ident == expect.ident);
        let unknown = (!as_expected).then_some(Unknown::Rescued);
        // Written to between the check and the exchange: an edit that moved along.
        let exact = exact && other.as_ref().is_some_and(|other| is_same_content(other, expect));
        Ok(StepResult::Done { now: self.found_placed(at, &staged), other, unknown, exact })
    }

    /// Exchanges what is staged with what stands there, which then lies in the recycle area.
    pub(crate) fn displace(
        &mut self,
        uid: NodeUid,
        at: &Target,
        expect: &Stamp,
        displaced: Kind,
        mut staged: Staged,
    ) -> Acted {
        let name = self.recycle.free_name(uid, expect)?;
        let entry = Target { dir: self.recycle_dir()?, c_name: CName::new(&name), name };
        self.rename_staged(&staged, &entry)?;
        staged.set_taken();
        let exchanged = match displaced {
            Kind::Directory => self.is_node(at, expect.ident),
            _ => self.is_as_expected(at, expect),
        };
        let exchanged = match exchanged {
            Ok(true) => exchange(&entry, at).map(|()| true),
            other => other,
        };
        if !matches!(exchanged, Ok(true)) {
            // Still what we staged: nobody else can reach this folder.
            let flags = if staged.kind() == Kind::Directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
            let _ = rustix::fs::unlinkat(&entry.dir, entry.c_name.as_c_str(), flags);
            exchanged?;
            return Err(self.refused(at));
        }
        self.placed(at, &staged);
        let (other, unknown) = self.judge(uid, &entry.name, at, expect, displaced)?;
        Ok(StepResult::Done { now: self.found_placed(at, &staged), other, unknown, exact: true })
    }

    fn recycle_dir(&self) -> Result<crate::Dir, FsError> {
        self.recycle.as_dir()
    }

    /// Compares what lies in the recycle area with what was expected. Bytes that changed in between get a name beside
    /// the place that they had.
    fn judge(
        &mut self,
        uid: NodeUid,
        entry: &Name,
        at: &Target,
        expect: &Stamp,
        displaced: Kind,
    ) -> Result<(Option<crate::Found>, Option<Unknown>), FsError> {
        let stamp = self.recycle.stamp(entry)?;
        // The rename itself has moved the change time.
        let as_expected = match displaced {
            Kind::Directory => stamp.ident == expect.ident,
            _ => Stamp { ctime: expect.ctime, ..stamp } == *expect,
        };
        if as_expected {
            self.recycled(uid, entry, &stamp);
            return Ok((None, None));
        }
        match self.recycle.put_back(entry, at.dir.as_fd(), None, &at.name, self.server) {
            Ok(name) => {
                let place = Target { dir: at.dir.clone(), c_name: CName::new(&name), name };
                Ok((self.found(&place), Some(Unknown::Rescued)))
            }
            Err(_) => Ok((None, Some(Unknown::Held(Recycle::public_name(entry.clone()))))),
        }
    }

    pub(crate) fn move_to(&mut self, from: &Place, expect: &Stamp, to: &Place) -> Acted {
        let (source, target) = (self.target(from)?, self.target(to)?);
        let Some(before) = self.node(&source, expect.ident)? else { return Err(self.refused(&source)) };
        match rename(&source, &target, RenameFlags::NOREPLACE) {
            Ok(()) => (),
            // One entry under another case on a disk that folds names: the kernel calls it taken.
            Err(error) if error.class == ErrorClass::Exists => {
                let case_only = source.dir.ident == target.dir.ident
                    && fold_v1(source.name.as_bytes()) == fold_v1(target.name.as_bytes())
                    && self.is_node(&target, expect.ident)?;
                if !case_only {
                    return Err(self.refused(&target));
                }
                if !self.rename_case(&source, &target)? {
                    return Err(self.refused(&target));
                }
            }
            Err(error) => return Err(error.into()),
        }
        // Somebody may have put another file under the old name between the check and the rename.
        if !self.is_node(&target, expect.ident)? {
            rename(&target, &source, RenameFlags::NOREPLACE)?;
            return Err(self.refused(&source));
        }
        self.touch_dir(&source.dir);
        self.touch_dir(&target.dir);
        let now = self.found(&target);
        if now.as_ref().is_some_and(|now| now.seen.kind == Some(Kind::Directory)) {
            self.dir_moved(from, to, false);
        }
        // A chmod between check and rename is told as what stands there now. It is no value that a move brings, so that
        // it differs from what was agreed.
        let exact = before == *expect && now.as_ref().is_none_or(|now| is_same_content(now, &before));
        Ok(StepResult::Done { now, other: None, unknown: None, exact })
    }

    pub(crate) fn exchange(
        &mut self,
        from: &Place,
        expect: &Stamp,
        to: &Place,
        expect_with: &Stamp,
    ) -> Acted {
        let (first, second) = (self.target(from)?, self.target(to)?);
        let Some(before) = self.node(&first, expect.ident)? else { return Err(self.refused(&first)) };
        let Some(before_with) = self.node(&second, expect_with.ident)? else {
            return Err(self.refused(&second));
        };
        exchange(&first, &second)?;
        if !self.is_node(&second, expect.ident)? || !self.is_node(&first, expect_with.ident)? {
            exchange(&first, &second)?;
            return Err(self.refused(&first));
        }
        self.touch_dir(&first.dir);
        self.touch_dir(&second.dir);
        // Either may be a directory; the paths below both are exchanged.
        self.dir_moved(from, to, true);
        let (now, other) = (self.found(&second), self.found(&first));
        let still = |found: &Option<crate::Found>, before: &Stamp| {
            found.as_ref().is_none_or(|found| is_same_content(found, before))
        };
        let exact = before == *expect
            && before_with == *expect_with
            && still(&now, &before)
            && still(&other, &before_with);
        Ok(StepResult::Done { now, other, unknown: None, exact })
    }

    pub(crate) fn remove(&mut self, uid: NodeUid, at: &Place, kind: Kind, expect: &Stamp) -> Acted {
        let target = self.target(at)?;
        if kind == Kind::Directory {
            return self.remove_dir(uid, at, &target, expect);
        }
        if !self.is_as_expected(&target, expect)? {
            return Err(self.refused(&target));
        }
        let entry = self.recycle.free_name(uid, expect)?;
        let entry = Target { dir: self.recycle_dir()?, c_name: CName::new(&entry), name: entry };
        rename(&target, &entry, RenameFlags::NOREPLACE)?;
        let stamp = self.recycle.stamp(&entry.name)?;
        if (Stamp { ctime: expect.ctime, ..stamp }) != *expect {
            // Changed between check and rename: the edit beats the removal.
            return Err(self.give_back(&entry.name, &target)?);
        }
        self.recycled(uid, &entry.name, &stamp);
        self.touch_dir(&target.dir);
        Ok(StepResult::Done { now: None, other: None, unknown: None, exact: true })
    }

    fn remove_dir(&mut self, uid: NodeUid, at: &Place, target: &Target, expect: &Stamp) -> Acted {
        if !self.is_node(target, expect.ident)? {
            return Err(self.refused(target));
        }
        // RACE: between this check and the removal a user may have put another empty directory here, which is then
        // removed in place of ours. The kernel itself refuses anything that is not empty.
        match self.unlink_dir(target) {
            Ok(()) => (),
            Err(error) if matches!(error.class, ErrorClass::NotEmpty | ErrorClass::Exists) => {
                if !self.is_empty(at, target)? {
                    return Err(self.refused(target));
                }
                self.recycle_leftovers(uid, at, target, expect)?;
            }
            Err(error) => return Err(error.into()),
        }
        self.touch_dir(&target.dir);
        self.dir_gone();
        Ok(StepResult::Done { now: None, other: None, unknown: None, exact: true })
    }

    /// Moves a directory with what the filter leaves out into the recycle area, as a whole.
    fn recycle_leftovers(
        &mut self,
        uid: NodeUid,
        at: &Place,
        target: &Target,
        expect: &Stamp,
    ) -> Result<(), Stop> {
        let entry = self.recycle.free_name(uid, expect)?;
        let entry = Target { dir: self.recycle_dir()?, c_name: CName::new(&entry), name: entry };
        rename(target, &entry, RenameFlags::NOREPLACE)?;
        if self.is_node(&entry, expect.ident)? && self.is_empty(at, &entry)? {
            return Ok(());
        }
        // Something was made in it meanwhile: it stays.
        Err(self.give_back(&entry.name, target)?)
    }

    /// Gives what lies in the recycle area its name back, or a conflict name where somebody has taken that: then this is
    /// what is told, since nobody else tells of what we do ourselves.
    fn give_back(&mut self, entry: &Name, from: &Target) -> Result<Stop, FsError> {
        let name = &from.name;
        let given = self.recycle.put_back(entry, from.dir.as_fd(), Some(name), name, self.server)?;
        let place = Target { dir: from.dir.clone(), c_name: CName::new(&given), name: given };
        Ok(self.refused(&place))
    }

    /// Whether a directory holds nothing but names that the filter leaves out. `at` is its place in the share, `target`
    /// where it is now.
    pub(crate) fn is_empty(&self, at: &Place, target: &Target) -> Result<bool, FsError> {
        let path = at.dir.path.join(at.name.clone());
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let dir = open_beneath(target.dir.as_fd(), &target.name, flags)
            .doing("open directory", target.name.as_bytes())?;
        let mut room = Vec::with_capacity(8 * 1024);
        let mut entries = RawDir::new(&dir, room.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            let entry = entry.doing("list directory", target.name.as_bytes())?;
            let Ok(name) = Name::parse(entry.file_name().to_bytes()) else { continue };
            let is_dir = entry.file_type() == rustix::fs::FileType::Directory;
            if !self.filter.excludes(path.names(), &name, is_dir) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub(crate) fn touch(
        &mut self,
        at: &Place,
        kind: Kind,
        expect: &Stamp,
        attrs: Option<&Attrs>,
        mtime: Option<Timestamp>,
    ) -> Acted {
        let target = self.target(at)?;
        let Some(file) = open_for_touch(&target, kind)? else { return Err(self.refused(&target)) };
        // Setting a time would hide a write that happens at this moment: for files only while nobody can write.
        // Of a placeholder it is set in the mark, and who would write recalls it first.
        let is_hiding = mtime.is_some() && !is_stamp_of_mark(expect);
        let lease = match (kind, ReadLease::try_take(file.as_fd())) {
            (Kind::File, Err(LeaseRefused::Writer)) if is_hiding => {
                return Err(FsError::new("set the times of", target.name.as_bytes(), Errno::BUSY).into());
            }
            (Kind::File, lease) => lease.ok(),
            _ => None,
        };
        let (_, before) = stamp_fd(file.as_fd()).doing("stat", target.name.as_bytes())?;
        let as_expected = match kind {
            Kind::Directory => before.ident == expect.ident,
            Kind::File | Kind::Symlink => before == *expect,
        };
        if !as_expected {
            return Err(self.refused(&target));
        }
        let set = attrs.map(|attrs| self.set_attributes(&file, attrs, kind)).transpose()?;
        let (_, after) = stamp_fd(file.as_fd()).doing("stat", target.name.as_bytes())?;
        if kind == Kind::File && (after.size, after.mtime) != (before.size, before.mtime) {
            return Err(self.refused(&target));
        }
        if let Some(mtime) = mtime {
            let set = match kind {
                Kind::File => crate::presence::set_marked_mtime(file.as_fd(), mtime),
                Kind::Directory | Kind::Symlink => set_mtime(file.as_fd(), mtime),
            };
            set.doing("set the times of", target.name.as_bytes())?;
        }
        // As it is kept: perhaps coarser than asked for.
        let (_, kept) = stamp_fd(file.as_fd()).doing("stat", target.name.as_bytes())?;
        let now = self.found(&target);
        drop(lease);
        // Written to since: the edit is told, and what was set is looked at again.
        let now = match now {
            Some(now) if is_same_content(&now, &kept) => Some(as_set(now, set, &before)),
            now => return Err(Stop::Refused(now.map(Box::new))),
        };
        // A symlink's descriptor cannot be made durable by itself.
        self.touch_file((kind != Kind::Symlink).then_some(file));
        Ok(StepResult::Done { now, other: None, unknown: None, exact: true })
    }

    /// Gives a node attributes. What it has then is told as what was set, also if somebody has set others in between.
    fn set_attributes(&mut self, node: impl AsFd, attrs: &Attrs, kind: Kind) -> Result<Applied, FsError> {
        let node = node.as_fd();
        self.attributes.apply(node, attrs, kind)?;
        let stat = crate::ident::statx_fd(node).doing("stat", b"")?;
        let found = self.attributes.read(node, c"", &stat, kind).doing("read the attributes of", b"")?;
        Ok(self.attributes.as_applied(self.root.state(), attrs, found, kind))
    }

    /// The root is the one directory that stands in none: it has no name to be found by.
    pub(crate) fn touch_root(
        &mut self,
        at: &Place,
        expect: &Stamp,
        attrs: Option<&Attrs>,
        mtime: Option<Timestamp>,
    ) -> Acted {
        let dir = self.open(&at.dir)?;
        if !at.dir.path.names().is_empty() || dir.ident != expect.ident {
            return Err(Stop::Refused(None));
        }
        let (_, before) = stamp_fd(dir.as_fd()).doing("stat", b"the root")?;
        let set = attrs.map(|attrs| self.set_attributes(&dir, attrs, Kind::Directory)).transpose()?;
        if let Some(mtime) = mtime {
            set_mtime(dir.as_fd(), mtime).doing("set the times of", b"the root")?;
        }
        let (stamp, attrs) = look_dir(&mut self.walker, self.attributes, &at.dir)?;
        let seen = Seen { name: at.name.clone(), kind: Some(Kind::Directory), stamp, links: 1 };
        self.touch_dir(&dir);
        let found = Found { seen, attrs: Some(attrs), target: None, stands_for: None };
        let now = Some(as_set(found, set, &before));
        Ok(StepResult::Done { now, other: None, unknown: None, exact: true })
    }
}

impl Applier<'_> {
    /// Changes the case of a name where the disk folds names. The kernel takes both for one name and does nothing, so it
    /// goes over a conflict name: a crash in between leaves it under that one, where the scan finds it by its inode.
    /// `false`: both names stood there.
    fn rename_case(&self, source: &Target, target: &Target) -> Result<bool, FsError> {
        for attempt in 0..NAMES_TRIED_MAX {
            let name = conflict_name(&target.name, self.server, attempt);
            let between = Target { dir: source.dir.clone(), c_name: CName::new(&name), name };
            match rename(source, &between, RenameFlags::NOREPLACE) {
                Ok(()) => {
                    return match rename(&between, target, RenameFlags::NOREPLACE) {
                        Ok(()) => Ok(true),
                        // Two hard links whose names differ in case, on a disk that tells them apart: as it was.
                        Err(error) => {
                            rename(&between, source, RenameFlags::NOREPLACE)?;
                            if error.class == ErrorClass::Exists { Ok(false) } else { Err(error) }
                        }
                    };
                }
                Err(error) if error.class == ErrorClass::Exists => (),
                Err(error) => return Err(error),
            }
        }
        Err(FsError::new("find a free conflict name for", target.name.as_bytes(), Errno::EXIST))
    }
}

/// What was touched, as it is told: with the attributes that we set. If somebody has set others since, the stamp is one
/// of before, so that the next look differs and the change is seen; told as it is now, it would be taken for ours.
fn as_set(found: Found, set: Option<Applied>, before: &Stamp) -> Found {
    let ours = |set: &Applied| found.attrs.as_ref().is_some_and(|(_, hash)| *hash == set.1);
    match set {
        Some(set) if !ours(&set) => {
            let stamp = Stamp { ctime: before.ctime, ..found.seen.stamp };
            Found { seen: Seen { stamp, ..found.seen }, attrs: Some(set), ..found }
        }
        _ => found,
    }
}

/// Opens what is to be touched; `None` when it is something else.
fn open_for_touch(target: &Target, expected: Kind) -> Result<Option<OwnedFd>, FsError> {
    let flags = match expected {
        Kind::Directory => OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW,
        Kind::Symlink => OFlags::PATH | OFlags::NOFOLLOW,
        Kind::File => return crate::read::open_file(target.dir.as_fd(), &target.name),
    };
    let file = open_beneath(target.dir.as_fd(), &target.name, flags).doing("open", target.name.as_bytes())?;
    let stat = crate::ident::statx_fd(&file).doing("stat", target.name.as_bytes())?;
    Ok((kind(&stat) == Some(expected)).then_some(file))
}

fn rename(from: &Target, to: &Target, flags: RenameFlags) -> Result<(), FsError> {
    rustix::fs::renameat_with(&from.dir, from.c_name.as_c_str(), &to.dir, to.c_name.as_c_str(), flags)
        .doing("rename", from.name.as_bytes())
}

fn exchange(first: &Target, second: &Target) -> Result<(), FsError> {
    rename(first, second, RenameFlags::EXCHANGE)
}
