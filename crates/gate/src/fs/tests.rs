//! The file system without a kernel: messages in, replies out, over ports that live in memory.

mod motion;

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Mutex;

use polder_types::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::ports::{
    Access, DirEntry, Entry, Make, Opened, Residency, Result as PortResult, SetAttributes, SetXattr, Space,
};
use crate::proto::decode;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Resident,
    Tiered { is_here: bool },
}

#[derive(Default)]
struct Disk {
    names: BTreeMap<(u64, Vec<u8>), u64>,
    files: BTreeMap<u64, (Kind, Vec<u8>)>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    is_samba: bool,
    next: u64,
    /// How often a system call that cannot be repeated was made.
    changes: usize,
    opened: usize,
    released: usize,
    /// An answer of a store that gives less than was asked for.
    is_short: bool,
}

#[derive(Default, Clone)]
struct Fake(Arc<Mutex<Disk>>);

impl Fake {
    fn disk(&self) -> std::sync::MutexGuard<'_, Disk> {
        self.0.lock().unwrap()
    }

    fn put(&self, name: &str, kind: Kind, bytes: &[u8]) -> u64 {
        let mut disk = self.disk();
        disk.next += 1;
        let node = disk.next + 100;
        disk.names.insert((1, name.into()), node);
        disk.files.insert(node, (kind, bytes.to_vec()));
        node
    }

    fn attributes_of(&self, node: u64) -> PortResult<Attributes> {
        let disk = self.disk();
        let (mode, size, residency) = match disk.files.get(&node) {
            Some((Kind::Resident, bytes)) => (0o100_644, bytes.len(), Residency::Resident),
            Some((_, bytes)) => (0o100_644, bytes.len(), Residency::Tiered { present_bytes: 0 }),
            None if node == 1 => (0o040_755, 0, Residency::Resident),
            None => return Err(Errno::STALE),
        };
        let time = Timestamp::new(1, 2);
        Ok(Attributes {
            ino: node,
            size: size as u64,
            blocks: 0,
            atime: time,
            mtime: time,
            ctime: time,
            btime: None,
            mode,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            residency,
        })
    }

    fn take(&self, parent: Node, name: Component<'_>) -> PortResult<u64> {
        let mut disk = self.disk();
        disk.changes += 1;
        disk.names.remove(&(parent.0, name.as_bytes().to_vec())).ok_or(Errno::NOENT)
    }
}

fn null() -> OwnedFd {
    std::fs::File::open("/dev/null").unwrap().into()
}

impl Namespace for Fake {
    fn lookup(&self, parent: Node, name: Component<'_>) -> PortResult<Entry> {
        let node = *self.disk().names.get(&(parent.0, name.as_bytes().to_vec())).ok_or(Errno::NOENT)?;
        self.entry(Node(node))
    }

    fn entry(&self, node: Node) -> PortResult<Entry> {
        Ok(Entry { node, generation: 0, attributes: self.attributes_of(node.0)? })
    }

    fn parent(&self, _: Node) -> PortResult<Entry> {
        self.entry(Node::ROOT)
    }

    fn attributes(&self, node: Node) -> PortResult<Attributes> {
        self.attributes_of(node.0)
    }

    fn set_attributes(&self, node: Node, _: &SetAttributes) -> PortResult<Attributes> {
        self.attributes_of(node.0)
    }

    fn read_directory(
        &self,
        _: Node,
        cookie: u64,
        take: &mut dyn FnMut(&DirEntry<'_>) -> bool,
    ) -> PortResult<()> {
        let names: Vec<_> = self.disk().names.keys().map(|(_, name)| name.clone()).collect();
        for (index, name) in names.iter().enumerate().skip(cookie as usize) {
            let name = [name.as_slice(), b"\0"].concat();
            let name = CStr::from_bytes_with_nul(&name).unwrap();
            if !take(&DirEntry { ino: 9, kind: 8, cookie: index as u64 + 1, name }) {
                break;
            }
        }
        Ok(())
    }

    fn read_link(&self, _: Node) -> PortResult<Vec<u8>> {
        Err(Errno::INVAL)
    }

    fn create(&self, _: &Caller, parent: Node, name: Component<'_>, _: u32) -> PortResult<(Entry, OwnedFd)> {
        if parent != Node::ROOT || self.lookup(parent, name).is_ok() {
            return Err(Errno::EXIST);
        }
        self.disk().changes += 1;
        let node = self.put(&String::from_utf8_lossy(name.as_bytes()), Kind::Resident, b"");
        Ok((self.entry(Node(node))?, null()))
    }

    fn make(
        &self,
        caller: &Caller,
        parent: Node,
        name: Component<'_>,
        _: u32,
        _: Make<'_>,
    ) -> PortResult<Entry> {
        Ok(self.create(caller, parent, name, 0)?.0)
    }

    fn make_unnamed(&self, _: &Caller, _: Node, _: u32, _: bool) -> PortResult<(Entry, OwnedFd)> {
        Err(Errno::OPNOTSUPP)
    }

    fn link(&self, node: Node, parent: Node, name: Component<'_>) -> PortResult<Entry> {
        if self.lookup(parent, name).is_ok() {
            return Err(Errno::EXIST);
        }
        let mut disk = self.disk();
        disk.changes += 1;
        disk.names.insert((parent.0, name.as_bytes().to_vec()), node.0);
        drop(disk);
        self.entry(node)
    }

    fn unlink(&self, parent: Node, name: Component<'_>) -> PortResult<()> {
        self.take(parent, name).map(|_| ())
    }

    fn remove_directory(&self, parent: Node, name: Component<'_>) -> PortResult<()> {
        self.unlink(parent, name)
    }

    fn rename(&self, from: (Node, Component<'_>), to: (Node, Component<'_>), _: u32) -> PortResult<()> {
        let node = self.take(from.0, from.1)?;
        self.disk().names.insert((to.0.0, to.1.as_bytes().to_vec()), node);
        Ok(())
    }

    fn xattr(&self, _: Node, name: &CStr) -> PortResult<Vec<u8>> {
        self.disk().xattrs.get(name.to_bytes()).cloned().ok_or(Errno::NODATA)
    }

    fn xattr_names(&self, _: Node) -> PortResult<Vec<u8>> {
        Ok(self.disk().xattrs.keys().flat_map(|name| [name.as_slice(), b"\0"].concat()).collect())
    }

    fn set_xattr(&self, _: Node, name: &CStr, value: &[u8], how: SetXattr, _: bool) -> PortResult<()> {
        let mut disk = self.disk();
        disk.changes += 1;
        let is_new = disk.xattrs.insert(name.to_bytes().to_vec(), value.to_vec()).is_none();
        if how == SetXattr::Create && !is_new { Err(Errno::EXIST) } else { Ok(()) }
    }

    fn remove_xattr(&self, _: Node, name: &CStr) -> PortResult<()> {
        let mut disk = self.disk();
        disk.changes += 1;
        disk.xattrs.remove(name.to_bytes()).map(|_| ()).ok_or(Errno::NODATA)
    }

    fn space(&self, _: Node) -> PortResult<Space> {
        Ok(Space::default())
    }

    fn sync_directory(&self, _: Node) -> PortResult<()> {
        Ok(())
    }

    fn sync_all(&self) -> PortResult<()> {
        Ok(())
    }
}

impl Content for Fake {
    fn open(&self, node: Node, access: Access, _: &Caller, now: bool, _: &Interrupt) -> PortResult<Opened> {
        let mut disk = self.disk();
        let (kind, bytes) = disk.files.get_mut(&node.0).ok_or(Errno::STALE)?;
        match (*kind, access) {
            (_, Access::Empty) => {
                (*kind, *bytes) = (Kind::Resident, Vec::new());
                Ok(Opened::Resident(null()))
            }
            (Kind::Resident, _) => Ok(Opened::Resident(null())),
            (_, Access::Read) => Ok(Opened::Tiered(null())),
            (_, Access::Write { .. }) if now => Err(Errno::AGAIN),
            (_, Access::Write { .. }) => {
                *kind = Kind::Resident;
                Ok(Opened::Resident(null()))
            }
        }
    }

    fn read_now(&self, node: Node, _: BorrowedFd<'_>, offset: u64, out: &mut [u8]) -> PortResult<usize> {
        let disk = self.disk();
        let (kind, bytes) = disk.files.get(&node.0).ok_or(Errno::STALE)?;
        if *kind == (Kind::Tiered { is_here: false }) {
            return Err(Errno::AGAIN);
        }
        let rest = bytes.get(offset as usize..).unwrap_or_default();
        let count = rest.len().min(out.len()) / if disk.is_short { 2 } else { 1 };
        out[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn read(
        &self,
        node: Node,
        file: BorrowedFd<'_>,
        offset: u64,
        out: &mut [u8],
        _: &Caller,
        _: &Interrupt,
    ) -> PortResult<usize> {
        self.disk().files.get_mut(&node.0).ok_or(Errno::STALE)?.0 = Kind::Tiered { is_here: true };
        self.read_now(node, file, offset, out)
    }

    fn residency(&self, node: Node) -> PortResult<Residency> {
        Ok(self.attributes_of(node.0)?.residency)
    }

    fn is_samba(&self, _: &Caller) -> bool {
        self.disk().is_samba
    }

    fn is_at_rest(&self, _: Node) -> bool {
        true
    }

    fn opened(&self, _: Node, _: &Caller, _: bool) {
        self.disk().opened += 1;
    }

    fn released(&self, _: Node, _: bool) {
        self.disk().released += 1;
    }
}

struct Kernel;

impl Backings for Kernel {
    fn open(&self, _: BorrowedFd<'_>) -> Result<u32, Errno> {
        Ok(7)
    }
    fn close(&self, _: u32) {}
}

impl Tell for Kernel {
    fn attributes_changed(&self, _: Node) {}
}

/// A worker, and what outlives it.
struct Worker {
    ports: Fake,
    state: OwnedFd,
    fs: FileSystem,
    unique: u64,
}

impl Worker {
    fn new() -> Self {
        let (ports, state) = (Fake::default(), Shared::create().unwrap());
        let fs = begin(&ports, &state);
        Self { ports, state, fs, unique: 2 }
    }

    /// The next worker of the connection.
    fn again(&mut self) {
        self.fs = begin(&self.ports, &self.state);
    }

    fn ask(
        &self,
        unique: u64,
        opcode: u32,
        node: u64,
        body: &[u8],
        may_wait: bool,
    ) -> (Answer, Vec<u8>, Leaves) {
        let mut bytes = Vec::new();
        bytes.extend((40 + body.len() as u32).to_ne_bytes());
        bytes.extend(opcode.to_ne_bytes());
        bytes.extend(unique.to_ne_bytes());
        bytes.extend(node.to_ne_bytes());
        bytes.extend([0; 16]);
        bytes.extend(body);
        let request = decode(&bytes).unwrap();
        let (mut out, interrupt) = (Vec::new(), Interrupt::new(0));
        let mut call = Call {
            header: &request.header,
            interrupt: &interrupt,
            may_wait,
            out: &mut out,
            leaves: Leaves::default(),
        };
        let answer = self.fs.answer(&request, &mut call);
        let leaves = call.leaves;
        (answer, out, leaves)
    }

    /// A request whose reply is taken.
    fn get(&mut self, opcode: u32, node: u64, body: &[u8]) -> Result<Vec<u8>, Stop> {
        self.unique += 2;
        let (answer, out, leaves) = self.ask(self.unique, opcode, node, body, true);
        self.fs.delivered(leaves, answer.is_ok());
        answer.map(|()| out)
    }

    /// A request whose worker dies after it and before the reply, and which is sent again.
    fn get_again(&mut self, opcode: u32, node: u64, body: &[u8]) -> Result<Vec<u8>, Stop> {
        self.unique += 2;
        let (first, ..) = self.ask(self.unique, opcode, node, body, true);
        assert_eq!(first, Ok(()));
        self.again();
        let (answer, out, leaves) = self.ask(self.unique | RESENT, opcode, node, body, true);
        self.fs.delivered(leaves, answer.is_ok());
        assert!(self.fs.shared.progress(self.unique).is_none(), "forgotten once it was taken");
        answer.map(|()| out)
    }
}

fn begin(ports: &Fake, state: &OwnedFd) -> FileSystem {
    let shared = Arc::new(Shared::take_up(state).unwrap());
    let opens = Opens::take_up(shared.clone(), Box::new(Kernel), true);
    FileSystem::new(Arc::new(ports.clone()), Arc::new(ports.clone()), shared, opens, Box::new(Kernel))
}

const LOOKUP: u32 = 1;
const UNLINK: u32 = 10;
const OPEN: u32 = 14;
const READ: u32 = 15;
const RELEASE: u32 = 18;
const CREATE: u32 = 35;
const LSEEK: u32 = 46;

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn read_in(offset: u64, size: u32) -> Vec<u8> {
    [words(&[0, offset]), size.to_ne_bytes().to_vec(), vec![0; 20]].concat()
}

fn open_in(flags: i32) -> Vec<u8> {
    [(flags as u32).to_ne_bytes(), [0; 4]].concat()
}

fn create_in(flags: i32, name: &str) -> Vec<u8> {
    [&open_in(flags)[..4], &[0; 12], name.as_bytes(), b"\0"].concat()
}

fn error(errno: Errno) -> Result<Vec<u8>, Stop> {
    Err(Stop::Error(errno))
}

#[test]
fn i2_a_served_read_is_whole_or_an_error() {
    let mut worker = Worker::new();
    let node = worker.ports.put("t", Kind::Tiered { is_here: false }, b"0123456789");
    worker.get(OPEN, node, &open_in(libc::O_RDONLY)).unwrap();
    let (answer, out, _) = worker.ask(90, READ, node, &read_in(2, 4), false);
    assert_eq!(answer, Err(Stop::WouldWait), "{out:?}");
    assert_eq!(worker.get(READ, node, &read_in(2, 4)).unwrap(), b"2345");
    assert_eq!(worker.get(READ, node, &read_in(8, 100)).unwrap(), b"89", "the file ends");
    assert_eq!(worker.get(READ, node, &read_in(10, 100)).unwrap(), b"");
    worker.ports.disk().is_short = true;
    assert_eq!(worker.get(READ, node, &read_in(2, 4)), error(Errno::IO), "the kernel would show zeros");
}

#[test]
fn i2_a_tiered_file_is_all_data() {
    const DATA: u64 = libc::SEEK_DATA as u64;
    const HOLE: u64 = libc::SEEK_HOLE as u64;
    let mut worker = Worker::new();
    let node = worker.ports.put("t", Kind::Tiered { is_here: false }, &[0; 10_000]);
    for (offset, whence, found) in [(0, DATA, Ok(0)), (5000, DATA, Ok(5000)), (0, HOLE, Ok(10_000))] {
        assert_eq!(worker.get(LSEEK, node, &words(&[0, offset, whence])), found.map(|at: u64| words(&[at])));
    }
    assert_eq!(worker.get(LSEEK, node, &words(&[0, 10_000, DATA])), error(Errno::NXIO));
}

#[test]
fn emptying_recalls_nothing_and_passes_through() {
    let mut worker = Worker::new();
    let node = worker.ports.put("t", Kind::Tiered { is_here: false }, b"text");
    let out = worker.get(OPEN, node, &open_in(libc::O_WRONLY | libc::O_TRUNC)).unwrap();
    assert_eq!(u32::from_ne_bytes(out[12..16].try_into().unwrap()), 7, "with a backing id");
    assert_eq!(worker.ports.disk().files[&node], (Kind::Resident, Vec::new()));
}

#[test]
fn opening_a_tiered_file_for_writing_recalls_nothing_yet() {
    let mut worker = Worker::new();
    let node = worker.ports.put("t", Kind::Tiered { is_here: false }, b"text");
    worker.get(OPEN, node, &open_in(libc::O_RDWR)).unwrap();
    assert_eq!(worker.ports.disk().files[&node].0, Kind::Tiered { is_here: false });
}

#[test]
fn an_open_that_nobody_took_is_released() {
    let mut worker = Worker::new();
    let node = worker.ports.put("t", Kind::Tiered { is_here: false }, b"text");
    let (answer, _, leaves) = worker.ask(50, OPEN, node, &open_in(libc::O_RDONLY), true);
    assert_eq!(answer, Ok(()));
    worker.fs.delivered(leaves, false);
    assert_eq!((worker.fs.open_count(), worker.ports.disk().released), (0, 1));
    worker.get(OPEN, node, &open_in(libc::O_RDONLY)).unwrap();
    let fh = worker.unique;
    assert_eq!(worker.fs.open_count(), 1);
    worker.get_again(RELEASE, node, &words(&[fh, 0, 0])).unwrap();
    assert_eq!(worker.fs.open_count(), 0);
}

#[test]
fn what_cannot_be_repeated_is_done_once() {
    let mut worker = Worker::new();
    let node = worker.ports.put("old", Kind::Resident, b"");
    worker.get_again(CREATE, 1, &create_in(libc::O_CREAT | libc::O_EXCL, "new")).unwrap();
    let link = [words(&[node]), b"link\0".to_vec()].concat();
    worker.get_again(13, 1, &link).unwrap();
    worker.get_again(9, 1, b"\0\0\0\0\0\0\0\0dir\0").unwrap();
    let rename = [words(&[1, 0]), b"link\0renamed\0".to_vec()].concat();
    worker.get_again(45, 1, &rename).unwrap();
    worker.get_again(UNLINK, 1, b"new\0").unwrap();
    worker.get_again(11, 1, b"dir\0").unwrap();
    let xattr = |flags: u32| [&2u32.to_ne_bytes()[..], &flags.to_ne_bytes(), &[0; 8], b"user.x\0ab"].concat();
    worker.get_again(21, node, &xattr(1)).unwrap();
    worker.get_again(24, node, b"user.x\0").unwrap();
    assert_eq!(worker.ports.disk().changes, 8);
    assert_eq!(worker.fs.open_count(), 1, "the created file, counted once");
    let names: Vec<_> = worker.ports.disk().names.keys().map(|(_, name)| name.clone()).collect();
    assert_eq!(names, [b"old".to_vec(), b"renamed".to_vec()]);
}

/// Killed between the note and the system call, or between the system call and the note of its success.
#[test]
fn what_was_begun_is_judged_by_the_names() {
    for was_made in [false, true] {
        let mut worker = Worker::new();
        let node = worker.ports.put("old", Kind::Resident, b"");
        let _dead = worker.fs.shared.begin(40, node, 0).keep();
        if was_made {
            worker.ports.disk().names.clear();
        }
        worker.again();
        let (answer, ..) = worker.ask(40 | RESENT, UNLINK, 1, b"old\0", true);
        assert_eq!(answer, Ok(()));
        assert_eq!(worker.ports.disk().changes, usize::from(!was_made));
        assert!(worker.ports.disk().names.is_empty());
    }
    // What was there before is not taken for our own.
    let mut worker = Worker::new();
    let node = worker.ports.put("old", Kind::Resident, b"");
    let _dead = worker.fs.shared.begin(40, 0, node).keep();
    worker.again();
    let (answer, ..) =
        worker.ask(40 | RESENT, CREATE, 1, &create_in(libc::O_CREAT | libc::O_EXCL, "old"), true);
    assert_eq!(answer, Err(Stop::Error(Errno::EXIST)));
}

#[test]
fn what_is_the_trees_own_does_not_exist() {
    let mut worker = Worker::new();
    worker.ports.put(".polder", Kind::Resident, b"");
    let node = worker.ports.put("t", Kind::Resident, b"");
    assert_eq!(worker.get(LOOKUP, 1, b".polder\0"), error(Errno::NOENT));
    assert_eq!(worker.get(UNLINK, 1, b".polder\0"), error(Errno::NOENT));
    assert_eq!(worker.get(CREATE, 1, &create_in(libc::O_CREAT, ".polder")), error(Errno::PERM));
    let listed = worker.get(28, 1, &read_in(0, 4096)).unwrap();
    assert!(!listed.windows(7).any(|window| window == b".polder"));
    worker
        .ports
        .disk()
        .xattrs
        .extend([b"trusted.polder", &b"user.a"[..]].map(|name| (name.to_vec(), b"value".to_vec())));
    let room = [&64u32.to_ne_bytes()[..], &[0; 4]].concat();
    assert_eq!(worker.get(22, node, &[&room[..], b"trusted.polder\0"].concat()), error(Errno::NODATA));
    assert_eq!(worker.get(23, node, &room).unwrap(), b"user.a\0");
    assert_eq!(worker.get(24, node, b"trusted.polder\0"), error(Errno::PERM));
}

#[test]
fn samba_alone_is_told_that_a_file_is_offline() {
    const DOS: &[u8] = b"user.DOSATTRIB\0";
    let mut worker = Worker::new();
    let node = worker.ports.put("t", Kind::Tiered { is_here: false }, b"0123456789");
    let here = worker.ports.put("r", Kind::Resident, b"0123456789");
    let get_in = |room: u32| [&room.to_ne_bytes()[..], &[0; 4], DOS].concat();
    let set_in = |value: &[u8]| [&(value.len() as u32).to_ne_bytes()[..], &[0; 12], DOS, value].concat();
    assert_eq!(worker.get(22, node, &get_in(64)), error(Errno::NODATA));
    worker.ports.disk().is_samba = true;
    let told = worker.get(22, node, &get_in(64)).unwrap();
    assert_eq!(told[12..16], [0, 0x10, 0, 0]);
    assert_eq!(worker.get(22, node, &get_in(0)).unwrap()[..4], (told.len() as u32).to_ne_bytes());
    assert_eq!(worker.get(22, here, &get_in(64)), error(Errno::NODATA));
    // What is written is stored without it; it is told as long as the file is not here.
    let mut hidden = told.clone();
    hidden[12] = 2;
    worker.get(21, node, &set_in(&hidden)).unwrap();
    assert_eq!(worker.get(22, node, &get_in(64)).unwrap(), hidden);
    hidden[13] = 0;
    assert_eq!(worker.get(22, here, &get_in(64)).unwrap(), hidden);
    worker.ports.disk().is_samba = false;
    assert_eq!(worker.get(22, node, &get_in(64)).unwrap(), hidden);
}

#[test]
fn a_name_that_was_taken_meanwhile_is_looked_at_again() {
    let mut worker = Worker::new();
    worker.ports.put("t", Kind::Resident, b"");
    assert_eq!(worker.get(CREATE, 1, &create_in(libc::O_CREAT, "t")), error(Errno::STALE));
    let exclusive = create_in(libc::O_CREAT | libc::O_EXCL, "t");
    assert_eq!(worker.get(CREATE, 1, &exclusive), error(Errno::EXIST));
}

proptest! {
    #[test]
    fn no_message_breaks_it(messages in prop::collection::vec((0u32..56, 0u64..110, prop::collection::vec(any::<u8>(), 0..80)), 1..20)) {
        let worker = Worker::new();
        worker.ports.put("a", Kind::Tiered { is_here: false }, b"0123456789");
        for (opcode, node, body) in messages {
            let bytes = [&(40 + body.len() as u32).to_ne_bytes()[..], &opcode.to_ne_bytes(), &[0; 32], &body].concat();
            if decode(&bytes).is_ok() {
                let (answer, _, leaves) = worker.ask(2, opcode, node, &body, true);
                worker.fs.delivered(leaves, answer.is_ok());
            }
        }
    }
}
