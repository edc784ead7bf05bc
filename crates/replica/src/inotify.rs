//! The fallback: a watch on every directory.
//!
//! What a directory holds when its watch is added has not been noticed: so its watching is itself told as a hint about
//! the directory. Our own changes cannot be told from others'; the look that follows finds them equal.

use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use polder_types::{FileIdent, Name};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::fs::{FileType, RawDir, SeekFrom};
use rustix::io::Errno;

use crate::STATE_DIR;
use crate::error::{Doing, FsError};
use crate::look::entry_name;
use crate::place::{Node, OpenDirs};
use crate::root::Root;
use crate::watch::{Hint, Hints, Noticed, Source};

/// Not DONT_FOLLOW: the name that is watched is the link of an open descriptor.
const EVENTS: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVE)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::ONLYDIR)
    .union(WatchFlags::EXCL_UNLINK);
/// Some 1,000 events.
const BUFFER_BYTES: usize = 64 * 1024;
/// Longest chain of names that is followed upwards; a longer one is a knot of stale places.
const DEPTH_MAX: usize = 16_384;

/// Watches of all directories below the root.
pub(crate) struct Inotify {
    fd: OwnedFd,
    root: Arc<Root>,
    open: OpenDirs,
    dirs: HashMap<i32, Watched>,
    /// Directories that could not be watched, and how many of them were told.
    unwatched: (u64, u64),
}

/// A watched directory and the place where it was last seen.
struct Watched {
    ident: FileIdent,
    above: Above,
}

/// Where a directory stands: the watch of its parent, and its name.
type Above = Option<(i32, Name)>;

/// What an event says.
struct Event {
    watch: i32,
    what: ReadFlags,
    name: Option<Name>,
}

impl Inotify {
    pub(crate) fn new(root: &Arc<Root>) -> Result<Self, FsError> {
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).doing("open", b"inotify")?;
        let open = OpenDirs::new(root);
        let mut source = Self { fd, root: root.clone(), open, dirs: HashMap::new(), unwatched: (0, 0) };
        source.add(vec![(Node::root(root.ident()), None)], &mut Hints::default());
        if source.dirs.is_empty() {
            return Err(FsError::new("watch", b".", Errno::NOSPC));
        }
        Ok(source)
    }

    /// Watches directories and all below them. Each that is new is a hint: it is to be listed.
    fn add(&mut self, mut stack: Vec<(Arc<Node>, Above)>, hints: &mut Hints) {
        while let Some((node, above)) = stack.pop() {
            // Gone meanwhile: its parent's event tells.
            let Ok((dir, ident)) = self.open.open(&node) else { continue };
            let link = format!("/proc/self/fd/{}", dir.as_raw_fd());
            let Ok(watch) = inotify::add_watch(&self.fd, link, EVENTS) else {
                self.unwatched.0 += 1;
                continue;
            };
            let known =
                self.dirs.insert(watch, Watched { ident, above }).is_some_and(|old| old.ident == ident);
            if known {
                // It was moved: what is below is watched, and its new place is noted.
                continue;
            }
            hints.push(Hint { dir: ident, name: None, arrived: true });
            let mut room = Vec::with_capacity(BUFFER_BYTES);
            if rustix::fs::seek(&dir, SeekFrom::Start(0)).is_err() {
                continue;
            }
            let mut entries = RawDir::new(&dir, room.spare_capacity_mut());
            while let Some(Ok(entry)) = entries.next() {
                let is_dir = matches!(entry.file_type(), FileType::Directory | FileType::Unknown);
                if let Some(name) = entry_name(entry.file_name(), node.is_root()).filter(|_| is_dir) {
                    stack.push((Node::child(&node, name.clone(), None), Some((watch, name))));
                }
            }
        }
    }

    /// The place of a watched directory; `None` when the chain is broken.
    fn node(&self, watch: i32) -> Option<Arc<Node>> {
        let mut names = Vec::new();
        let mut at = watch;
        while let Some((above, name)) = &self.dirs.get(&at)?.above {
            names.push(name.clone());
            at = *above;
            if names.len() > DEPTH_MAX {
                return None;
            }
        }
        let root = Node::root(self.root.ident());
        Some(names.into_iter().rev().fold(root, |parent, name| Node::child(&parent, name, None)))
    }

    fn event(&mut self, event: Event, hints: &mut Hints) {
        let Event { watch, what, name } = event;
        if what.contains(ReadFlags::IGNORED) {
            self.dirs.remove(&watch);
            return;
        }
        let Some(dir) = self.dirs.get(&watch).map(|dir| dir.ident) else { return };
        if dir == self.root.ident() && name.as_ref().is_some_and(|name| name.as_bytes() == STATE_DIR) {
            return;
        }
        let arrived =
            what.contains(ReadFlags::ISDIR) && what.intersects(ReadFlags::CREATE.union(ReadFlags::MOVED_TO));
        hints.push(Hint { dir, name: name.clone(), arrived });
        if let (true, Some(name)) = (arrived, name)
            && let Some(parent) = self.node(watch)
        {
            self.add(vec![(Node::child(&parent, name.clone(), None), Some((watch, name)))], hints);
        }
    }
}

impl Source for Inotify {
    fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    fn drain(&mut self, hints: &mut Hints) -> Result<Vec<Noticed>, FsError> {
        let mut others = Vec::new();
        let mut room = vec![MaybeUninit::uninit(); BUFFER_BYTES];
        loop {
            let mut events = Vec::new();
            let mut reader = inotify::Reader::new(&self.fd, &mut room);
            // One buffer at a time: handling an event may add watches.
            let ended = loop {
                match reader.next() {
                    Ok(event) => events.push(Event {
                        watch: event.wd(),
                        what: event.events(),
                        name: event.file_name().and_then(|name| Name::parse(name.to_bytes()).ok()),
                    }),
                    Err(Errno::AGAIN) => break true,
                    Err(Errno::INTR) => continue,
                    Err(errno) => return Err(FsError::new("read", b"events", errno)),
                }
                if reader.is_buffer_empty() {
                    break false;
                }
            };
            for event in events {
                if event.what.contains(ReadFlags::QUEUE_OVERFLOW) {
                    others.push(Noticed::Overflow);
                } else {
                    self.event(event, hints);
                }
            }
            if ended || hints.is_full() {
                break;
            }
        }
        if self.unwatched.0 > self.unwatched.1 {
            self.unwatched.1 = self.unwatched.0;
            others.push(Noticed::Unwatched(self.unwatched.0));
        }
        Ok(others)
    }
}
