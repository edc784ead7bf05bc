//! A file system in memory: inodes, names, stamps, a watcher whose queue overflows.
//!
//! A file's bytes are a number (its token): whoever writes draws a new one, so that every content can be followed.

use std::collections::BTreeMap;
use std::sync::Arc;

use polder_engine::{Dir, Hint, SeenEntry};
use polder_sync::Seen;
use polder_types::{
    Attrs, Body, ChunkId, Content, Extent, ExtentSource, FileIdent, Kind, Name, RelPath, Stamp, Timestamp,
};

/// The bytes of a file, as a number.
pub type Token = u64;

/// Events that the watcher's queue holds before it overflows.
const HINTS_MAX: usize = 64;

/// What an inode is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// Names and inodes.
    Dir(BTreeMap<Name, u64>),
    /// Bytes.
    File(Token),
    /// Target.
    Link(Box<[u8]>),
}

/// An inode.
#[derive(Debug, Clone)]
pub struct Inode {
    /// What it is.
    pub node: Node,
    /// Permissions.
    pub attrs: Arc<Attrs>,
    /// Modification time.
    pub mtime: Timestamp,
    /// Change time.
    pub ctime: Timestamp,
    /// How many names it has.
    pub links: u32,
}

/// A disk.
#[derive(Debug)]
pub struct Disk {
    inodes: BTreeMap<u64, Inode>,
    next_ino: u64,
    /// The disk's clock: every change takes the next value.
    clock: u64,
    hints: Vec<Hint>,
    overflow: bool,
    /// Whether anybody watches; without, no hint is kept.
    pub watched: bool,
}

/// The root's inode.
pub const ROOT: u64 = 2;

/// The content that has these bytes. Some are large, so that both lanes are used.
pub fn content_of(token: Token) -> Content {
    let len = if token.is_multiple_of(23) { 9 * 1024 * 1024 } else { 1 + token % 4096 };
    let mut id = [0u8; 32];
    id[..8].copy_from_slice(&token.to_be_bytes());
    let source = ExtentSource::Chunk { id: ChunkId(id), skip: 0 };
    Content::File { size: len, body: Body::Inline(vec![Extent { len, source }]) }
}

/// The bytes of a content.
pub fn token_of(content: &Content) -> Option<Token> {
    match content {
        Content::File { body: Body::Inline(extents), .. } => {
            let chunk = extents.first()?.chunk()?;
            Some(u64::from_be_bytes(chunk.0[..8].try_into().expect("eight of 32 bytes")))
        }
        _ => None,
    }
}

/// Permissions of a kind that differ by a number.
pub fn attrs(mode: u16) -> Arc<Attrs> {
    Arc::new(Attrs { mode, ..Attrs::default() })
}

impl Disk {
    /// An empty disk. Inode numbers of different disks differ, so that mixing them up shows.
    pub fn new(nth: u64) -> Self {
        let base = (nth + 1) * 1_000_000;
        let mut disk = Self {
            inodes: BTreeMap::new(),
            next_ino: base,
            clock: base,
            hints: Vec::new(),
            overflow: false,
            watched: false,
        };
        let time = disk.tick();
        let root = Inode {
            node: Node::Dir(BTreeMap::new()),
            attrs: attrs(0o755),
            mtime: time,
            ctime: time,
            links: 2,
        };
        disk.inodes.insert(ROOT, root);
        disk
    }

    fn tick(&mut self) -> Timestamp {
        self.clock += 1;
        Timestamp::new(self.clock as i64, 0)
    }

    /// An inode.
    pub fn inode(&self, ino: u64) -> &Inode {
        &self.inodes[&ino]
    }

    /// The names of a directory.
    pub fn names(&self, dir: u64) -> Option<&BTreeMap<Name, u64>> {
        match &self.inodes.get(&dir)?.node {
            Node::Dir(names) => Some(names),
            _ => None,
        }
    }

    /// Who has a name.
    pub fn lookup(&self, dir: u64, name: &Name) -> Option<u64> {
        self.names(dir)?.get(name).copied()
    }

    /// Follows a path of directories.
    pub fn walk(&self, path: &RelPath) -> Option<u64> {
        path.names().iter().try_fold(ROOT, |dir, name| self.lookup(dir, name))
    }

    /// Opens a directory as an executor does: by its path, compared with its identity.
    pub fn open(&self, dir: &Dir) -> Option<u64> {
        let ino = self.walk(&dir.path).filter(|ino| self.names(*ino).is_some())?;
        dir.ident.is_none_or(|ident| ident.ino == ino).then_some(ino)
    }

    /// What `stat` says.
    pub fn stamp(&self, ino: u64) -> Stamp {
        let inode = self.inode(ino);
        let size = match &inode.node {
            Node::File(token) => content_of(*token).size(),
            Node::Link(target) => target.len() as u64,
            Node::Dir(_) => 0,
        };
        Stamp { ident: FileIdent { ino, generation: 1 }, ctime: inode.ctime, mtime: inode.mtime, size }
    }

    /// What is seen under a name.
    pub fn seen(&self, dir: u64, name: &Name) -> Option<SeenEntry> {
        self.lookup(dir, name).map(|ino| self.entry(ino, name))
    }

    /// An inode as it is seen under a name.
    pub fn entry(&self, ino: u64, name: &Name) -> SeenEntry {
        let inode = self.inode(ino);
        let (kind, target) = match &inode.node {
            Node::Dir(_) => (Kind::Directory, None),
            Node::File(_) => (Kind::File, None),
            Node::Link(target) => (Kind::Symlink, Some(target.clone())),
        };
        let seen = Seen { name: name.clone(), kind: Some(kind), stamp: self.stamp(ino), links: inode.links };
        SeenEntry { seen, attrs: inode.attrs.clone(), target }
    }

    fn hint(&mut self, dir: u64, name: Option<&Name>) {
        if !self.watched {
            return;
        }
        if self.hints.len() >= HINTS_MAX {
            self.hints.clear();
            self.overflow = true;
        }
        self.hints.push(Hint { dir: FileIdent { ino: dir, generation: 1 }, name: name.cloned() });
    }

    /// Takes what the watcher has; `true` when it lost something.
    pub fn take_hints(&mut self) -> (Vec<Hint>, bool) {
        (std::mem::take(&mut self.hints), std::mem::take(&mut self.overflow))
    }

    /// Whether the watcher has something.
    pub fn has_hints(&self) -> bool {
        !self.hints.is_empty() || self.overflow
    }

    fn dir_mut(&mut self, dir: u64) -> &mut BTreeMap<Name, u64> {
        match &mut self.inodes.get_mut(&dir).expect("the directory was looked up").node {
            Node::Dir(names) => names,
            _ => panic!("not a directory"),
        }
    }

    fn dir_changed(&mut self, dir: u64, name: &Name) {
        let time = self.tick();
        let inode = self.inodes.get_mut(&dir).expect("the directory was looked up");
        (inode.mtime, inode.ctime) = (time, time);
        self.hint(dir, Some(name));
    }

    /// Makes an inode under a free name.
    pub fn create(&mut self, dir: u64, name: &Name, node: Node, attrs: Arc<Attrs>) -> u64 {
        let ino = self.create_detached(node, attrs);
        self.attach(dir, name, ino);
        ino
    }

    /// Makes an inode without a name (in staging).
    pub fn create_detached(&mut self, node: Node, attrs: Arc<Attrs>) -> u64 {
        let ino = self.next_ino;
        self.next_ino += 1;
        let time = self.tick();
        self.inodes.insert(ino, Inode { node, attrs, mtime: time, ctime: time, links: 0 });
        ino
    }

    /// Gives an inode a free name.
    pub fn attach(&mut self, dir: u64, name: &Name, ino: u64) {
        let old = self.dir_mut(dir).insert(name.clone(), ino);
        assert!(old.is_none(), "the name was free");
        let time = self.tick();
        let inode = self.inodes.get_mut(&ino).expect("just made");
        inode.links += 1;
        inode.ctime = time;
        self.dir_changed(dir, name);
    }

    /// Takes a name away; the inode is returned, and is gone with its last name unless it is attached again.
    pub fn detach(&mut self, dir: u64, name: &Name) -> u64 {
        let ino = self.dir_mut(dir).remove(name).expect("the name was looked up");
        let time = self.tick();
        let inode = self.inodes.get_mut(&ino).expect("it had a name");
        inode.links -= 1;
        inode.ctime = time;
        self.dir_changed(dir, name);
        ino
    }

    /// Renames over whatever file stands at the target.
    pub fn rename(&mut self, from: (u64, &Name), to: (u64, &Name)) {
        if from == to {
            return;
        }
        if self.lookup(to.0, to.1).is_some() {
            self.detach(to.0, to.1);
        }
        let ino = self.detach(from.0, from.1);
        self.attach(to.0, to.1, ino);
    }

    /// Writes a file in place.
    pub fn write(&mut self, dir: u64, name: &Name, token: Token) {
        let ino = self.lookup(dir, name).expect("the name was looked up");
        let time = self.tick();
        let inode = self.inodes.get_mut(&ino).expect("it has a name");
        inode.node = Node::File(token);
        (inode.mtime, inode.ctime) = (time, time);
        self.hint(dir, Some(name));
    }

    /// Sets attributes or the time.
    pub fn touch(
        &mut self,
        ino: u64,
        at: Option<(u64, &Name)>,
        new: Option<Arc<Attrs>>,
        mtime: Option<Timestamp>,
    ) {
        let time = self.tick();
        let inode = self.inodes.get_mut(&ino).expect("it was looked up");
        if let Some(attrs) = new {
            inode.attrs = attrs;
        }
        if let Some(mtime) = mtime {
            inode.mtime = mtime;
        }
        inode.ctime = time;
        match at {
            Some((dir, name)) => self.hint(dir, Some(name)),
            None => self.hint(ino, None),
        }
    }

    /// Sets a time without a word to the watcher (directory times after a batch).
    pub fn set_mtime(&mut self, ino: u64, mtime: Timestamp) {
        let time = self.tick();
        let inode = self.inodes.get_mut(&ino).expect("it was looked up");
        inode.mtime = mtime;
        inode.ctime = time;
    }

    /// Whether a directory lies in another one, or is it.
    pub fn is_inside(&self, dir: u64, outer: u64) -> bool {
        dir == outer
            || self.names(outer).is_some_and(|names| names.values().any(|child| self.is_inside(dir, *child)))
    }

    /// Everything below the root: path, inode.
    pub fn everything(&self) -> BTreeMap<RelPath, u64> {
        let mut all = BTreeMap::new();
        let mut dirs = vec![(RelPath::root(), ROOT)];
        while let Some((path, dir)) = dirs.pop() {
            for (name, ino) in self.names(dir).into_iter().flatten() {
                let path = path.join(name.clone());
                if self.names(*ino).is_some() {
                    dirs.push((path.clone(), *ino));
                }
                all.insert(path, *ino);
            }
        }
        all
    }

    /// All tokens that have a name.
    pub fn tokens(&self) -> Vec<Token> {
        let tokens = self.everything().into_values().filter_map(|ino| match self.inode(ino).node {
            Node::File(token) => Some(token),
            _ => None,
        });
        tokens.collect()
    }
}
