//! Events of a whole file system, and which of them are below the root.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use libc::{
    FAN_ATTRIB, FAN_CLASS_NOTIF, FAN_CLOEXEC, FAN_CLOSE_WRITE, FAN_CREATE, FAN_DELETE,
    FAN_EVENT_INFO_TYPE_DFID, FAN_EVENT_INFO_TYPE_DFID_NAME, FAN_EVENT_ON_CHILD, FAN_MARK_ADD,
    FAN_MARK_FILESYSTEM, FAN_MARK_IGNORE_SURV, FAN_MODIFY, FAN_MOVED_FROM, FAN_MOVED_TO, FAN_NONBLOCK,
    FAN_ONDIR, FAN_Q_OVERFLOW, FAN_REPORT_DFID_NAME, FAN_REPORT_TID, FAN_UNLIMITED_MARKS,
    FAN_UNLIMITED_QUEUE, FANOTIFY_METADATA_VERSION,
};
use polder_types::{FileIdent, Name};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::STATE_DIR;
use crate::error::{Doing, FsError};
use crate::ident::{device, ident_of_handle, statx_fd};
use crate::quiet::KeptBack;
use crate::root::Root;
use crate::sys::{self, Handle};
use crate::watch::{Hint, Hints, Noticed, OwnEvents, Source};

const EVENTS: u64 = FAN_CREATE
    | FAN_DELETE
    | FAN_MOVED_FROM
    | FAN_MOVED_TO
    | FAN_ATTRIB
    | FAN_CLOSE_WRITE
    | FAN_MODIFY
    | FAN_ONDIR;
/// Some 1,000 events with their names.
const BUFFER_BYTES: usize = 128 * 1024;
/// Reads of one round; then what was found is told.
const READS_MAX: u32 = 8;
/// Bytes of the fixed part of an event (`struct fanotify_event_metadata`).
const HEADER_BYTES: usize = 24;
/// Directories whose place is remembered: 64 Ki take some 2 MiB.
const KNOWN_MAX: usize = 65_536;
/// Longest way up that is followed before a directory counts as inside: its hint is dropped where nobody knows it.
const DEPTH_MAX: usize = 16_384;

/// The events of the root's file system.
pub(crate) struct Fanotify {
    group: OwnedFd,
    places: Places,
    /// Our own process, whose events are left out.
    own: Option<i32>,
    /// What threads of ours do that tell of it when they are done.
    kept_back: Option<KeptBack>,
    buffer: Vec<u8>,
}

impl Fanotify {
    pub(crate) fn new(root: &Arc<Root>, own: &OwnEvents) -> Result<Self, FsError> {
        let (own, kept_back) = match own {
            OwnEvents::LeftOut => (Some(std::process::id() as i32), None),
            OwnEvents::Told(quiet) => (None, quiet.clone().map(KeptBack::new)),
        };
        // Who did it: a process, or where it matters one of its threads.
        let who = if kept_back.is_some() { FAN_REPORT_TID } else { 0 };
        let flags = who
            | FAN_CLOEXEC
            | FAN_NONBLOCK
            | FAN_CLASS_NOTIF
            | FAN_UNLIMITED_QUEUE
            | FAN_UNLIMITED_MARKS
            | FAN_REPORT_DFID_NAME;
        let group = sys::fanotify_init(flags).doing("open", b"fanotify")?;
        let places = Places::new(root)?;
        // Events name directories by handle. Who may mark a file system but not open handles would be told of changes
        // and never find where: then inotify is the better one.
        let handle = sys::name_to_handle(places.root_fd.as_fd(), c"").doing("find the handle of", b".")?;
        sys::open_by_handle(places.root_fd.as_fd(), &handle, libc::O_PATH | libc::O_DIRECTORY)
            .doing("open by its handle", b".")?;
        // The state directory first, so that not even our first write to it is queued. Linux before 6.0 has no such
        // marks; then these events are read and dropped.
        for dir in &places.state {
            // Events of what is in the directory, but for directories: where the root is one of these (`.polder/tree`), its own attributes are
            // a change. Those of the others are dropped where they are read.
            let on = FAN_EVENT_ON_CHILD | EVENTS & !FAN_ONDIR;
            let _ = sys::fanotify_mark(group.as_fd(), FAN_MARK_ADD | FAN_MARK_IGNORE_SURV, on, dir.as_fd());
        }
        let flags = FAN_MARK_ADD | FAN_MARK_FILESYSTEM;
        sys::fanotify_mark(group.as_fd(), flags, EVENTS, places.root_fd.as_fd())
            .doing("watch the file system of", b".")?;
        Ok(Self { group, places, own, kept_back, buffer: vec![0; BUFFER_BYTES] })
    }

    /// One event; `None` when it is not for us.
    fn hint(&mut self, event: &Event<'_>) -> Option<Hint> {
        if self.own == Some(event.who) {
            return None;
        }
        let moved = event.mask & (FAN_MOVED_FROM | FAN_MOVED_TO) != 0;
        let is_dir = event.mask & FAN_ONDIR != 0;
        if moved && is_dir {
            // Whatever lies below may now be inside, or no longer.
            self.places.forget();
        }
        let (handle, name) = event.place()?;
        let dir = self.places.inside(&handle)?;
        if dir == self.places.root && name.as_ref().is_some_and(|name| name.as_bytes() == STATE_DIR) {
            return None;
        }
        let arrived = is_dir && event.mask & (FAN_CREATE | FAN_MOVED_TO) != 0;
        let hint = Hint { dir, name, arrived };
        match &mut self.kept_back {
            Some(kept_back) => kept_back.keep(event.who, hint),
            None => Some(hint),
        }
    }
}

impl Source for Fanotify {
    fn fd(&self) -> &OwnedFd {
        &self.group
    }

    fn other_fd(&self) -> Option<&OwnedFd> {
        Some(&self.kept_back.as_ref()?.quiet().ended)
    }

    fn drain(&mut self, hints: &mut Hints) -> Result<Vec<Noticed>, FsError> {
        if let Some(kept_back) = &mut self.kept_back {
            kept_back.begin_round();
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut overflow = false;
        let mut reads = 0;
        let result = loop {
            // Events of the whole file system come here. Where others write all the time the queue is never empty, and
            // what was found for us must not wait for that.
            if hints.is_full() || reads == READS_MAX {
                break Ok(());
            }
            reads += 1;
            let len = match rustix::io::read(&self.group, &mut buffer[..]) {
                Ok(0) | Err(Errno::AGAIN) => {
                    if let Some(kept_back) = &mut self.kept_back {
                        kept_back.end_round(hints);
                    }
                    break Ok(());
                }
                Ok(len) => len,
                Err(Errno::INTR) => continue,
                Err(errno) => break Err(FsError::new("read", b"events", errno)),
            };
            let mut left = &buffer[..len];
            while let Some((event, rest)) = Event::parse(left) {
                left = rest;
                if event.mask & FAN_Q_OVERFLOW != 0 {
                    overflow = true;
                } else if let Some(hint) = self.hint(&event) {
                    hints.push(hint);
                }
            }
            if !left.is_empty() {
                // The kernel speaks another version: without understanding it, everything may have changed.
                break Err(FsError::new("understand", b"events", Errno::PROTO));
            }
        };
        self.buffer = buffer;
        result.map(|()| if overflow { vec![Noticed::Overflow] } else { Vec::new() })
    }
}

/// One event in the kernel's bytes.
struct Event<'a> {
    mask: u64,
    /// The process, or the thread, by its number.
    who: i32,
    info: &'a [u8],
}

impl<'a> Event<'a> {
    /// The first event and what follows it; `None` at the end, or when the bytes are not an event of the version known.
    fn parse(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let len = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
        let header_len = u16::from_ne_bytes(*bytes.get(6..)?.first_chunk()?) as usize;
        let sound =
            *bytes.get(4)? == FANOTIFY_METADATA_VERSION && header_len >= HEADER_BYTES && len >= header_len;
        if !sound {
            return None;
        }
        let (event, rest) = bytes.split_at_checked(len)?;
        let mask = u64::from_ne_bytes(*event.get(8..)?.first_chunk()?);
        let who = i32::from_ne_bytes(*event.get(20..)?.first_chunk()?);
        Some((Self { mask, who, info: &event[header_len..] }, rest))
    }

    /// Directory and name; the name is `None` when the event is about the directory itself.
    fn place(&self) -> Option<(Handle, Option<Name>)> {
        let mut info = self.info;
        while let [kind, _, rest @ ..] = info {
            let len = u16::from_ne_bytes(*rest.first_chunk()?) as usize;
            let (record, next) = info.split_at_checked(len.max(4))?;
            if matches!(*kind, FAN_EVENT_INFO_TYPE_DFID_NAME | FAN_EVENT_INFO_TYPE_DFID) {
                // Header (4), file system (8), length and type of the handle, the handle, then the name and its NUL.
                let handle_len = u32::from_ne_bytes(*record.get(12..)?.first_chunk()?) as usize;
                let handle_kind = i32::from_ne_bytes(*record.get(16..)?.first_chunk()?);
                let handle = Handle::new(handle_kind, record.get(20..20usize.checked_add(handle_len)?)?)?;
                let name = record.get(20 + handle_len..)?.split(|byte| *byte == 0).next()?;
                return Some((handle, Name::parse(name).ok()));
            }
            info = next;
        }
        None
    }
}

/// Which directories are inside the root.
struct Places {
    root_fd: OwnedFd,
    root: FileIdent,
    device: u64,
    /// The state directories, open so that they can be marked.
    state: Vec<OwnedFd>,
    /// What is never forgotten: the root is inside, the state directories are not.
    fixed: HashMap<FileIdent, bool>,
    known: HashMap<FileIdent, bool>,
}

impl Places {
    fn new(root: &Arc<Root>) -> Result<Self, FsError> {
        let (root_fd, device) = root.open_readable()?;
        let mut fixed = HashMap::from([(root.ident(), true)]);
        let mut state = Vec::new();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        for name in [".", "staging", "recycle"] {
            // Not all of them need be there yet; their parent is.
            if let Ok(dir) = rustix::fs::openat(root.state(), name, flags, Mode::empty()) {
                if let Some(ident) = ident_of_fd(&dir) {
                    fixed.insert(ident, false);
                }
                state.push(dir);
            }
        }
        Ok(Self { root_fd, root: root.ident(), device, state, fixed, known: HashMap::new() })
    }

    fn forget(&mut self) {
        self.known.clear();
    }

    fn lookup(&self, ident: &FileIdent) -> Option<bool> {
        self.fixed.get(ident).or_else(|| self.known.get(ident)).copied()
    }

    /// The directory behind a handle, if it lies inside the root (the state directory left out).
    fn inside(&mut self, handle: &Handle) -> Option<FileIdent> {
        let told = ident_of_handle(handle);
        if let Some(ident) = told
            && let Some(inside) = self.lookup(&ident)
        {
            return inside.then_some(ident);
        }
        // A directory that is gone by now needs no look: what is above it tells.
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        let dir = sys::open_by_handle(self.root_fd.as_fd(), handle, flags).ok()?;
        let ident = told.or_else(|| ident_of_fd(&dir))?;
        let (inside, way) = self.climb(dir);
        if !inside && way.is_empty() {
            return None;
        }
        if self.known.len() + way.len() > KNOWN_MAX {
            self.known.clear();
        }
        self.known.extend(way.into_iter().map(|ident| (ident, inside)));
        self.known.insert(ident, inside);
        inside.then_some(ident)
    }

    /// Walks up to the first directory whose place is known. All directories on the way have the same answer, as long as
    /// it may be remembered.
    fn climb(&self, mut dir: OwnedFd) -> (bool, Vec<FileIdent>) {
        let mut way = Vec::new();
        for _ in 0..DEPTH_MAX {
            let Some(ident) = ident_of_fd(&dir) else { return (false, way) };
            if let Some(inside) = self.lookup(&ident) {
                // What lies in the recycle area may be given a name again by us, and no event tells of what we do.
                let remembered = self.fixed.get(&ident) != Some(&false);
                return (inside, if remembered { way } else { Vec::new() });
            }
            if way.last() == Some(&ident) || !statx_fd(&dir).is_ok_and(|stat| device(&stat) == self.device) {
                return (false, way);
            }
            way.push(ident);
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            match rustix::fs::openat(&dir, "..", flags, Mode::empty()) {
                Ok(parent) => dir = parent,
                Err(_) => return (false, way),
            }
        }
        (true, Vec::new())
    }
}

/// The identity of an open directory, as an event's handle tells it.
fn ident_of_fd(dir: &OwnedFd) -> Option<FileIdent> {
    let stat = statx_fd(dir).ok()?;
    let generation = crate::ident::generation(dir.as_fd(), c"", stat.stx_ino);
    Some(FileIdent { ino: stat.stx_ino, generation })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event(mask: u64, handle: &[u8], name: &[u8]) -> Vec<u8> {
        let info_len = (20 + handle.len() + name.len() + 1).next_multiple_of(4);
        let mut out = Vec::new();
        out.extend(((HEADER_BYTES + info_len) as u32).to_ne_bytes());
        out.extend([FANOTIFY_METADATA_VERSION, 0]);
        out.extend((HEADER_BYTES as u16).to_ne_bytes());
        out.extend(mask.to_ne_bytes());
        out.extend((-1i32).to_ne_bytes());
        out.extend(42i32.to_ne_bytes());
        out.extend([FAN_EVENT_INFO_TYPE_DFID_NAME, 0]);
        out.extend((info_len as u16).to_ne_bytes());
        out.extend([0; 8]);
        out.extend((handle.len() as u32).to_ne_bytes());
        out.extend(1i32.to_ne_bytes());
        out.extend(handle);
        out.extend(name);
        out.resize(HEADER_BYTES + info_len, 0);
        out
    }

    #[test]
    fn events_are_read_one_after_another() {
        let handle = [7, 0, 0, 0, 9, 0, 0, 0];
        let bytes = [event(FAN_CREATE, &handle, b"a\xff"), event(FAN_ATTRIB, &handle, b".")].concat();
        let (first, rest) = Event::parse(&bytes).unwrap();
        let (at, name) = first.place().unwrap();
        assert_eq!(ident_of_handle(&at), Some(FileIdent { ino: 7, generation: 9 }));
        assert_eq!((first.mask, first.who, name.unwrap().as_bytes()), (FAN_CREATE, 42, &b"a\xff"[..]));
        let (second, rest) = Event::parse(rest).unwrap();
        assert_eq!(second.place().unwrap().1, None);
        assert!(rest.is_empty());
    }

    proptest! {
        #[test]
        fn no_bytes_upset_the_reader(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 0usize..80) {
            let mut whole = event(FAN_CREATE, &[1; 8], b"name");
            whole.truncate(cut);
            whole.extend(&bytes);
            for bytes in [whole, bytes] {
                let mut left = &bytes[..];
                while let Some((event, rest)) = Event::parse(left) {
                    let _ = event.place();
                    prop_assert!(rest.len() < left.len());
                    left = rest;
                }
            }
        }
    }
}
