//! One thread of a scan: takes a directory, lists and compares it, tells what differs.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use polder_types::{CaseRule, FileIdent, Kind, Name, NodeUid};
use rustix::fs::{RawDir, Statx};

use crate::attributes::Attributes;
use crate::compare::{Names, Rows, is_unchanged};
use crate::error::{Doing, ErrorClass, FsError};
use crate::ident::{CName, kind, stamp, statx_at, statx_fd};
use crate::look::{Found, LIST_BUFFER_BYTES, Look, entry_name, is_mount, look_at};
use crate::place::{Node, Path};
use crate::scan::{PartEnd, ScanPart, Scanned, Shared};
use crate::statedb::{Child, StateError, StateReader};

/// Most differences in one part.
const PART_MAX: usize = 1024;
/// How long a proof of the root's identity is believed.
const ROOT_PROOF: Duration = Duration::from_secs(1);

/// The scan is over for this thread.
struct Over;

enum Stop {
    State(StateError),
    Over(Over),
}

pub(crate) struct Worker<'a> {
    shared: &'a Shared,
    sender: &'a SyncSender<Scanned>,
    reader: &'a StateReader,
    attributes: Attributes,
    names: Names,
    path: Path,
    room: Vec<u8>,
}

/// One directory that is being compared.
struct Listing {
    node: Arc<Node>,
    fd: Arc<OwnedFd>,
    ident: FileIdent,
    before: Statx,
    part: ScanPart,
    /// Whether a part was sent.
    told: bool,
    /// Its own entry was told, or it was asked for without rows: with whose it was compared is told too, for it may be taken for another
    /// node than that.
    strange: bool,
    /// Directories in it that are to be gone down into, once their entries were told.
    down: Vec<Arc<Node>>,
    first_error: Option<FsError>,
    vanished: bool,
}

impl<'a> Worker<'a> {
    pub(crate) fn new(shared: &'a Shared, sender: &'a SyncSender<Scanned>, reader: &'a StateReader) -> Self {
        let attributes = Attributes::new(shared.options.policy, shared.owners.clone());
        let attributes = attributes.with_marks_of(&shared.root);
        Self {
            shared,
            sender,
            reader,
            attributes,
            names: Names::default(),
            path: Path::default(),
            room: Vec::with_capacity(LIST_BUFFER_BYTES),
        }
    }

    pub(crate) fn run(&mut self) {
        while let Some(node) = self.shared.take() {
            let result = self.directory(&node);
            drop(node);
            let last = self.shared.finished();
            let over = match result {
                Ok(()) if last => {
                    let entry_count = self.shared.entry_count.load(Ordering::Relaxed);
                    let _ = self.sender.send(Scanned::Done { entry_count });
                    true
                }
                Ok(()) => false,
                Err(Over) => true,
            };
            if over {
                self.shared.stop();
                return;
            }
        }
    }

    /// Ends the scan with a last word.
    fn end(&self, word: Scanned) -> Over {
        let mut work = self.shared.work.lock().expect("no holder of this lock panics");
        if !std::mem::replace(&mut work.ended, true) {
            let _ = self.sender.send(word);
        }
        Over
    }

    fn directory(&mut self, node: &Arc<Node>) -> Result<(), Over> {
        let part = |dir| ScanPart {
            dir,
            rows: None,
            differ: Vec::new(),
            missing: Vec::new(),
            failed: Vec::new(),
            mounts: Vec::new(),
            end: None,
        };
        let opened = self.shared.dirs.open(node).and_then(|(fd, ident)| {
            let before = statx_fd(&fd).doing("stat directory", node.name())?;
            self.list_names(&fd, node)?;
            Ok((fd, ident, before))
        });
        let (fd, ident, before) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                // Gone or replaced since it was seen: nothing can be said about its inside.
                let gone = matches!(error.class, ErrorClass::Gone | ErrorClass::Blocked);
                let end = if gone { PartEnd::Gone } else { PartEnd::Unreadable(error) };
                let part = part(node.ident().unwrap_or_default());
                return self.send(ScanPart { end: Some(end), ..part });
            }
        };
        let mut listing = Listing {
            node: node.clone(),
            fd,
            ident,
            before,
            part: part(ident),
            told: false,
            strange: false,
            down: Vec::new(),
            first_error: None,
            vanished: false,
        };
        match self.compare(&mut listing) {
            Ok(missing) => self.finish(listing, missing),
            Err(Stop::State(error)) => Err(self.end(Scanned::Failed(error))),
            Err(Stop::Over(over)) => Err(over),
        }
    }

    fn list_names(&mut self, fd: &OwnedFd, node: &Node) -> Result<(), FsError> {
        self.names.clear();
        // Another job may have listed the same open directory.
        rustix::fs::seek(fd, rustix::fs::SeekFrom::Start(0)).doing("rewind directory", node.name())?;
        let mut entries = RawDir::new(fd, self.room.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            let entry = entry.doing("list directory", node.name())?;
            if entry_name(entry.file_name(), node.is_root()).is_some() {
                self.names.push(entry.file_name().to_bytes());
            }
        }
        if self.names.overflow() {
            return Err(FsError::new("list directory", node.name(), rustix::io::Errno::NOMEM));
        }
        Ok(())
    }

    /// Merges names and rows. The rows that were not seen come back.
    fn compare(&mut self, listing: &mut Listing) -> Result<Vec<NodeUid>, Stop> {
        let uid = match listing.node.rows {
            Some(uid) => Some(uid),
            None => self.reader.directory(listing.ident).map_err(Stop::State)?,
        };
        listing.strange = listing.node.rows.is_none();
        listing.part.rows = uid;
        let case = self.reader.case();
        let order = self.names.sorted(case);
        self.shared.entry_count.fetch_add(order.len() as u64, Ordering::Relaxed);
        let names = std::mem::take(&mut self.names);
        let mut rows = Rows::new(self.reader, uid).map_err(Stop::State)?;
        let mut missing = Vec::new();
        let mut spare: Option<Child> = None;
        for at in order {
            let bytes = names.get(at);
            let key = case.key(bytes);
            // Names that differ in case alone share a row: it goes to the one that is its file.
            spare = spare.filter(|row| *row.key == *key);
            let row = match spare.take() {
                Some(row) => Some(row),
                None => rows.take(&key, &mut missing).map_err(Stop::State)?,
            };
            if case == CaseRule::Insensitive {
                spare = row.clone();
            }
            if self.entry(listing, bytes, row) {
                spare = None;
            }
            if listing.part.differ.len() >= PART_MAX {
                self.tell(listing, None).map_err(Stop::Over)?;
            }
        }
        rows.rest(&mut missing).map_err(Stop::State)?;
        self.names = names;
        Ok(missing)
    }

    fn is_agreed_placeholder(&self, row: &Child, found: &Found) -> bool {
        let attributes = self.reader.attributes(row.uid).ok().flatten();
        row.stamp == found.seen.stamp
            && attributes.is_some()
            && attributes == found.attrs.as_ref().map(|(_, hash)| *hash)
    }

    /// One name. Whatever comes of it, a row under its key is not missing, unless the name has vanished. Whether it is
    /// what the row says.
    fn entry(&mut self, listing: &mut Listing, bytes: &[u8], row: Option<Child>) -> bool {
        let c_name = CName::of_bytes(bytes);
        let dir = listing.fd.as_fd();
        if let Some(row) = &row
            && let Ok(stat) = statx_at(dir, c_name.as_c_str())
            && kind(&stat) == Some(row.kind)
            && is_unchanged(&stamp(&stat, 0), &row.stamp)
            && !is_mount(&stat, self.shared.root.device())
        {
            if row.kind == Kind::Directory {
                self.go_down(listing, bytes, row.stamp.ident, Some(row.uid));
            }
            return true;
        }
        let Ok(name) = Name::parse(bytes) else { return false };
        match look_at(dir, self.shared.root.device(), &name, &mut self.attributes) {
            Look::Found(found) if self.is_left_out(&listing.node, &found) => (),
            // A placeholder looks like its mark, not like its inode; the mark tells nothing of its attributes. An orphan always differs.
            Look::Found(found)
                if found.stands_for.is_some()
                    && row.as_ref().is_some_and(|row| self.is_agreed_placeholder(row, &found)) =>
            {
                return true;
            }
            Look::Found(found) => {
                // Equal after all where it changed between the two looks and back; or by another generation.
                if found.seen.kind == Some(Kind::Directory) {
                    self.go_down(listing, bytes, found.seen.stamp.ident, None);
                }
                listing.part.differ.push(found);
            }
            Look::Mount => listing.part.mounts.push(name),
            Look::Absent => listing.vanished = true,
            Look::Failed(error) => listing.part.failed.push((name, error)),
        }
        false
    }

    fn is_left_out(&mut self, node: &Arc<Node>, found: &Found) -> bool {
        let path = self.path.to(node);
        let is_dir = found.seen.kind == Some(Kind::Directory);
        self.shared.filter.excludes(path, &found.seen.name, is_dir)
    }

    fn go_down(&self, listing: &mut Listing, bytes: &[u8], ident: FileIdent, rows: Option<NodeUid>) {
        if self.shared.options.recursive
            && let Ok(name) = Name::parse(bytes)
        {
            listing.down.push(Node::child_of_rows(&listing.node, name, Some(ident), rows));
        }
    }

    /// Sends what was found so far, then lets the directories in it be visited.
    fn tell(&self, listing: &mut Listing, end: Option<PartEnd>) -> Result<(), Over> {
        if listing.first_error.is_none()
            && let Some((name, error)) = listing.part.failed.first()
        {
            listing.first_error = Some(error.again(name.as_bytes()));
        }
        let next = ScanPart {
            dir: listing.ident,
            rows: listing.part.rows,
            differ: Vec::new(),
            missing: Vec::new(),
            failed: Vec::new(),
            mounts: Vec::new(),
            end: None,
        };
        let mut part = std::mem::replace(&mut listing.part, next);
        part.end = end;
        listing.told = true;
        self.send(part)?;
        self.shared.push(std::mem::take(&mut listing.down));
        Ok(())
    }

    fn finish(&mut self, mut listing: Listing, missing: Vec<NodeUid>) -> Result<(), Over> {
        if let Some((name, error)) = listing.part.failed.first()
            && listing.first_error.is_none()
        {
            listing.first_error = Some(error.again(name.as_bytes()));
        }
        let end = match listing.first_error.take() {
            Some(error) => PartEnd::Unreadable(error),
            None if self.stood_still(&listing) => PartEnd::Complete,
            None => PartEnd::Void,
        };
        if matches!(end, PartEnd::Complete) && !missing.is_empty() {
            self.prove_root()?;
            listing.part.missing = missing;
        }
        let part = &listing.part;
        let equal = part.differ.is_empty()
            && part.missing.is_empty()
            && part.mounts.is_empty()
            && matches!(end, PartEnd::Complete);
        // Where a whole share is walked, only differences travel; who asked for one directory gets an answer.
        if equal && !listing.told && !listing.strange && self.shared.options.recursive {
            self.shared.push(std::mem::take(&mut listing.down));
            return Ok(());
        }
        self.tell(&mut listing, Some(end))
    }

    /// Whether the directory did not change while it was read and is still where it was.
    fn stood_still(&self, listing: &Listing) -> bool {
        let stamp_of = |stat: &Statx| stamp(stat, 0);
        let same = statx_fd(&listing.fd)
            .is_ok_and(|after| after.stx_nlink > 0 && stamp_of(&after) == stamp_of(&listing.before));
        same && !listing.vanished && self.shared.dirs.is_in_place(&listing.node, listing.ident)
    }

    /// The root's identity, proven within the last second.
    fn prove_root(&self) -> Result<(), Over> {
        let mut proven = self.shared.proven.lock().expect("no holder of this lock panics");
        if proven.is_some_and(|at| at.elapsed() < ROOT_PROOF) {
            return Ok(());
        }
        match self.shared.root.check() {
            Ok(()) => *proven = Some(Instant::now()),
            Err(error) => return Err(self.end(Scanned::RootLost(error))),
        }
        Ok(())
    }

    fn send(&self, part: ScanPart) -> Result<(), Over> {
        let cost = (part.differ.len() + part.missing.len()) as i64;
        let mut credit = self.shared.credit.lock().expect("no holder of this lock panics");
        while *credit <= 0 && cost > 0 && !self.shared.is_stopped() {
            credit = self.shared.more_credit.wait(credit).expect("no holder of this lock panics");
        }
        *credit -= cost;
        drop(credit);
        if self.shared.is_stopped() {
            return Err(Over);
        }
        self.sender.send(Scanned::Part(part)).map_err(|_| Over)
    }
}
