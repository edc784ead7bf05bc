//! Places in the tree that a scan has still to visit: names linked upwards, and few open descriptors.
//!
//! A place holds no descriptor of its own. Some recently used directories stay open; one that was closed is opened again
//! step by step from its nearest open ancestor, and its identity compared. So neither the depth of the tree nor the
//! number of places that wait is bounded by descriptors, and nothing recurses.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, OnceLock, Weak};

use polder_types::{FileIdent, Name, NodeUid};
use rustix::io::Errno;

use crate::error::{Doing, FsError};
use crate::ident::{CName, device, generation, statx_at, statx_fd};
use crate::root::Root;
use crate::walk::open_dir;

/// Directories that stay open after their use.
const KEPT_OPEN: usize = 128;

/// A directory to visit.
#[derive(Debug)]
pub(crate) struct Node {
    /// `None` for the root.
    above: Option<(Arc<Node>, Name)>,
    /// Steps from the root.
    depth: usize,
    ident: OnceLock<FileIdent>,
    /// The node whose rows it is compared with; `None`: the one that its identity is known by.
    pub(crate) rows: Option<NodeUid>,
    open: Mutex<Weak<OwnedFd>>,
}

impl Node {
    pub(crate) fn root(ident: FileIdent) -> Arc<Self> {
        let rows = Some(NodeUid::ROOT);
        Arc::new(Self { above: None, depth: 0, ident: ident.into(), rows, open: Mutex::default() })
    }

    pub(crate) fn child(parent: &Arc<Self>, name: Name, ident: Option<FileIdent>) -> Arc<Self> {
        Self::child_of_rows(parent, name, ident, None)
    }

    /// A place that is compared with the rows of this node.
    pub(crate) fn child_of_rows(
        parent: &Arc<Self>,
        name: Name,
        ident: Option<FileIdent>,
        rows: Option<NodeUid>,
    ) -> Arc<Self> {
        let ident = ident.map_or_else(OnceLock::new, Into::into);
        let above = Some((parent.clone(), name));
        Arc::new(Self { above, depth: parent.depth + 1, ident, rows, open: Mutex::default() })
    }

    pub(crate) fn is_root(&self) -> bool {
        self.above.is_none()
    }

    /// Its name; "." for the root.
    pub(crate) fn name(&self) -> &[u8] {
        self.above.as_ref().map_or(b".", |(_, name)| name.as_bytes())
    }

    /// The identity that it was seen with, if it was.
    pub(crate) fn ident(&self) -> Option<FileIdent> {
        self.ident.get().copied()
    }

    /// The identity that it must have; the first word stands.
    pub(crate) fn set_ident(&self, ident: FileIdent) {
        let _ = self.ident.set(ident);
    }

    fn opened(&self) -> Option<Arc<OwnedFd>> {
        self.open.lock().expect("no holder of this lock panics").upgrade()
    }
}

impl Drop for Node {
    /// A chain of 100,000 places is dropped in a loop, not on the stack.
    fn drop(&mut self) {
        let mut above = self.above.take();
        while let Some((parent, _)) = above {
            above = Arc::into_inner(parent).and_then(|mut parent| parent.above.take());
        }
    }
}

/// Names from the root to the place that was asked for last. The next one is mostly near, so few names change, and a
/// deep tree does not cost its depth at every step.
#[derive(Default)]
pub(crate) struct Path {
    /// The places on the way, without the root.
    nodes: Vec<Arc<Node>>,
    names: Vec<Name>,
}

impl Path {
    pub(crate) fn to(&mut self, node: &Arc<Node>) -> &[Name] {
        let mut new = Vec::new();
        let mut at = node;
        while let Some((parent, _)) = &at.above {
            if self.nodes.get(at.depth - 1).is_some_and(|known| Arc::ptr_eq(known, at)) {
                break;
            }
            new.push(at.clone());
            at = parent;
        }
        self.nodes.truncate(at.depth);
        self.names.truncate(at.depth);
        for node in new.into_iter().rev() {
            self.names.extend(node.above.as_ref().map(|(_, name)| name.clone()));
            self.nodes.push(node);
        }
        &self.names
    }
}

/// The directories that are open.
#[derive(Debug)]
pub(crate) struct OpenDirs {
    root: Mutex<Option<Arc<OwnedFd>>>,
    device: u64,
    recent: Mutex<VecDeque<Arc<OwnedFd>>>,
}

impl OpenDirs {
    pub(crate) fn new(root: &Root) -> Self {
        // Without a descriptor of the root every open fails with the reason.
        let fd = root.open_readable().ok().map(|(fd, _)| Arc::new(fd));
        Self { root: Mutex::new(fd), device: root.device(), recent: Mutex::default() }
    }

    /// Opens a place, and tells which directory it is.
    pub(crate) fn open(&self, node: &Arc<Node>) -> Result<(Arc<OwnedFd>, FileIdent), FsError> {
        // From the nearest open ancestor down. The chain is collected, so that depth costs memory and not stack.
        let mut chain = vec![node.clone()];
        let mut fd = loop {
            let top = chain.last().expect("begins with one and only grows");
            if let Some(fd) = top.opened() {
                chain.pop();
                break fd;
            }
            match &top.above {
                Some((parent, _)) => chain.push(parent.clone()),
                None => {
                    chain.pop();
                    let root = self.root.lock().expect("no holder of this lock panics").clone();
                    break root.ok_or_else(|| FsError::new("open the root", b".", Errno::MFILE))?;
                }
            }
        };
        for node in chain.iter().rev() {
            fd = self.step(&fd, node)?;
        }
        let ident = node.ident().ok_or_else(|| FsError::new("open directory", node.name(), Errno::NOENT))?;
        Ok((fd, ident))
    }

    fn step(&self, parent: &OwnedFd, node: &Node) -> Result<Arc<OwnedFd>, FsError> {
        let (_, name) = node.above.as_ref().expect("the root is always open");
        let bytes = name.as_bytes();
        let fd = open_dir(parent.as_fd(), name).doing("open directory", bytes)?;
        let stat = statx_fd(&fd).doing("stat directory", bytes)?;
        if device(&stat) != self.device {
            return Err(FsError::new("stay on the file system of", bytes, Errno::XDEV));
        }
        let ident = FileIdent { ino: stat.stx_ino, generation: generation(fd.as_fd(), c"", stat.stx_ino) };
        node.set_ident(ident);
        if node.ident() != Some(ident) {
            return Err(FsError::new("open the expected directory", bytes, Errno::NOENT));
        }
        let fd = Arc::new(fd);
        *node.open.lock().expect("no holder of this lock panics") = Arc::downgrade(&fd);
        let mut recent = self.recent.lock().expect("no holder of this lock panics");
        recent.push_back(fd.clone());
        if recent.len() > KEPT_OPEN {
            recent.pop_front();
        }
        Ok(fd)
    }

    /// Whether the directory still stands at its place. Ancestors are compared when they are opened; here it is the last
    /// step that counts.
    pub(crate) fn is_in_place(&self, node: &Node, ident: FileIdent) -> bool {
        let Some((parent, name)) = &node.above else { return true };
        let Ok((dir, _)) = self.open(parent) else { return false };
        statx_at(&dir, CName::new(name).as_c_str()).is_ok_and(|stat| stat.stx_ino == ident.ino)
    }
}
