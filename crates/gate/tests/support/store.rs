//! A content store for tests: tiered files whose bytes come from a function of a seed, verified before they are shown.
//!
//! The mark is text in `trusted.polder`: seed, size, time, inode. What the store does when it is asked for bytes stands in a file that
//! the test writes: `ok`, `hang`, `fail`, `wrong`, `delay MS`.

use std::collections::{BTreeSet, HashMap};
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use polder_gate::ports::{Access, Attributes, Caller, Content, Node, Opened, Residency, Result, SetTime};
use polder_gate::tree::{Overlay, Tree, with_sole_use, xattr_at};
use polder_gate::{INTERRUPT_POLL, Interrupt};
use polder_types::Timestamp;
use rustix::fs::{FallocateFlags, OFlags, Timespec, Timestamps, UTIME_OMIT, XattrFlags};
use rustix::io::Errno;

const MARK: &CStr = c"trusted.polder";
/// What is fetched and verified at once.
const BLOCK: u64 = 128 << 10;

/// What a mark tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    pub seed: u64,
    pub size: u64,
    pub mtime: Timestamp,
    pub ino: u64,
}

/// Bytes of a content. No word of it is zero.
pub fn fill(seed: u64, offset: u64, out: &mut [u8]) {
    let word = |index: u64| {
        let mut z = seed.wrapping_add((index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z | 0x0101_0101_0101_0101).to_le_bytes()
    };
    let mut at = 0;
    while at < out.len() {
        let position = offset + at as u64;
        let (bytes, skip) = (word(position / 8), (position % 8) as usize);
        let count = (8 - skip).min(out.len() - at);
        out[at..at + count].copy_from_slice(&bytes[skip..skip + count]);
        at += count;
    }
}

/// All bytes of a content.
pub fn content(seed: u64, size: u64) -> Vec<u8> {
    let mut out = vec![0; size as usize];
    fill(seed, 0, &mut out);
    out
}

enum Found {
    No,
    Ours(Mark),
    Bad,
}

fn decode(text: &[u8], ino: u64) -> Found {
    let numbers: Vec<i64> =
        String::from_utf8_lossy(text).split(' ').filter_map(|word| word.parse().ok()).collect();
    let [seed, size, secs, nanos, bound] = numbers[..] else { return Found::Bad };
    let mtime = Timestamp::new(secs, nanos as u32);
    let mark = Mark { seed: seed as u64, size: size as u64, mtime, ino: bound as u64 };
    if mark.ino == ino { Found::Ours(mark) } else { Found::Bad }
}

fn found(file: BorrowedFd<'_>) -> Result<Found> {
    let mut value = [0; 256];
    match rustix::fs::fgetxattr(file, MARK, &mut value[..]) {
        Ok(count) => Ok(decode(&value[..count], rustix::fs::fstat(file)?.st_ino)),
        Err(Errno::NODATA) => Ok(Found::No),
        Err(errno) => Err(errno),
    }
}

fn put_mark(file: BorrowedFd<'_>, mark: &Mark) -> Result<()> {
    let Mark { seed, size, mtime, ino } = mark;
    let text = format!("{} {size} {} {} {ino}", *seed as i64, mtime.secs, mtime.nanos);
    rustix::fs::fsetxattr(file, MARK, text.as_bytes(), XattrFlags::empty())
}

/// Makes a resident file, whose content is that of the seed, a placeholder; `false` when somebody has it open. By a path of the real tree.
pub fn tier(path: &Path, seed: u64) -> Result<bool> {
    let file = rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, rustix::fs::Mode::empty())?;
    let work = || {
        rustix::fs::fsync(&file)?;
        let stat = rustix::fs::fstat(&file)?;
        if !matches!(found(file.as_fd())?, Found::No) {
            return Ok(false);
        }
        let mut held = vec![0; stat.st_size as usize];
        rustix::io::pread(&file, &mut held, 0)?;
        // The one rule: only what the share verifiably holds is given up.
        if held != content(seed, stat.st_size as u64) {
            return Ok(false);
        }
        let mtime = Timestamp::new(stat.st_mtime, stat.st_mtime_nsec as u32);
        put_mark(file.as_fd(), &Mark { seed, size: stat.st_size as u64, mtime, ino: stat.st_ino })?;
        rustix::fs::fsync(&file)?;
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&file, flags, 0, stat.st_size as u64)?;
        set_mtime(file.as_fd(), mtime)?;
        Ok(true)
    };
    with_sole_use(file.as_fd(), work).unwrap_or(Ok(false))
}

/// Gives up the bytes of any resident file to a folder, from which the store has them again; `None` when somebody has it open.
pub fn tier_to(path: &Path, share: &Path, id: u64) -> Result<Option<()>> {
    let file = rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, rustix::fs::Mode::empty())?;
    let work = || {
        rustix::fs::fsync(&file)?;
        let stat = rustix::fs::fstat(&file)?;
        if stat.st_size == 0 || !matches!(found(file.as_fd())?, Found::No) {
            return Ok(None);
        }
        let mut held = vec![0; stat.st_size as usize];
        pread_whole(file.as_fd(), 0, &mut held)?;
        std::fs::write(share.join(id.to_string()), held).map_err(|_| Errno::IO)?;
        let mtime = Timestamp::new(stat.st_mtime, stat.st_mtime_nsec as u32);
        put_mark(file.as_fd(), &Mark { seed: id, size: stat.st_size as u64, mtime, ino: stat.st_ino })?;
        rustix::fs::fsync(&file)?;
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&file, flags, 0, stat.st_size as u64)?;
        set_mtime(file.as_fd(), mtime)?;
        Ok(Some(()))
    };
    with_sole_use(file.as_fd(), work).unwrap_or(Ok(None))
}

/// Makes a new placeholder.
pub fn make_tiered(path: &Path, seed: u64, size: u64) {
    std::fs::write(path, content(seed, size)).unwrap();
    // A process that another test has just forked holds all descriptors until it has begun its program.
    for _ in 0..100 {
        if tier(path, seed).unwrap() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{} stays open", path.display());
}

fn set_mtime(file: BorrowedFd<'_>, mtime: Timestamp) -> Result<()> {
    rustix::fs::futimens(
        file,
        &Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            last_modification: Timespec { tv_sec: mtime.secs, tv_nsec: mtime.nanos.into() },
        },
    )
}

/// Change times as users see them: fills move those of the real files, and programs take that for a change (`tar` does).
#[derive(Default)]
pub struct Changes(Mutex<HashMap<u64, Change>>);

#[derive(Clone, Copy)]
struct Change {
    shown: Timestamp,
    /// What the last fill left; `None` while one is under way.
    left: Option<Timestamp>,
}

impl Changes {
    fn shown(&self, ino: u64, real: Timestamp) -> Timestamp {
        let changes = self.0.lock().unwrap();
        // Another time than the fill left: somebody has changed something since.
        let change = changes.get(&ino).filter(|change| change.left.is_none_or(|left| left == real));
        change.map_or(real, |change| change.shown)
    }

    /// Runs what moves the change time though nothing changes for users.
    fn hiding<T>(&self, file: BorrowedFd<'_>, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let ctime = |stat: rustix::fs::Stat| Timestamp::new(stat.st_ctime, stat.st_ctime_nsec as u32);
        let before = rustix::fs::fstat(file)?;
        let (ino, shown) = (before.st_ino, self.shown(before.st_ino, ctime(before)));
        self.0.lock().unwrap().insert(ino, Change { shown, left: None });
        let result = work();
        let left = rustix::fs::fstat(file).ok().map(ctime);
        self.0.lock().unwrap().insert(ino, Change { shown, left });
        result
    }
}

/// Attributes from marks.
#[derive(Default)]
pub struct Marks(pub Arc<Changes>);

impl Overlay for Marks {
    fn overlay(&self, dir: BorrowedFd<'_>, name: &CStr, attributes: &mut Attributes) -> Result<()> {
        // A file of no bytes is never tiered; of others, most are whole.
        if attributes.size == 0 {
            return Ok(());
        }
        let mut value = [0; 256];
        match xattr_at(dir, name, MARK, &mut value) {
            Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::NOENT) => (),
            Err(errno) => return Err(errno),
            Ok(count) => match decode(&value[..count], attributes.ino) {
                Found::Ours(mark) => {
                    attributes.size = mark.size;
                    attributes.mtime = mark.mtime;
                    attributes.ctime = self.0.shown(attributes.ino, attributes.ctime);
                    attributes.residency = Residency::Tiered { present_bytes: 0 };
                }
                _ => attributes.residency = Residency::Orphaned,
            },
        }
        Ok(())
    }

    fn set_mtime(&self, file: BorrowedFd<'_>, mtime: SetTime) -> Result<bool> {
        if !rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(file)?.st_mode).is_file() {
            return Ok(false);
        }
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
        let Ok(file) = rustix::fs::open(path, OFlags::RDONLY, rustix::fs::Mode::empty()) else {
            return Ok(false);
        };
        let Ok(Found::Ours(mark)) = found(file.as_fd()) else { return Ok(false) };
        let mtime = match mtime {
            SetTime::To(time) => time,
            SetTime::Now => {
                let now =
                    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
                Timestamp::new(now.as_secs() as i64, now.subsec_nanos())
            }
        };
        put_mark(file.as_fd(), &Mark { mtime, ..mark })?;
        rustix::fs::fsync(&file)?;
        Ok(true)
    }
}

#[derive(Default)]
struct Presence {
    present: BTreeSet<u64>,
    fetching: BTreeSet<u64>,
}

#[derive(Default)]
struct FileState {
    presence: Mutex<Presence>,
    wakes: Condvar,
}

/// The store.
pub struct Store {
    tree: Arc<Tree>,
    changes: Arc<Changes>,
    control: Option<PathBuf>,
    states: Mutex<HashMap<u64, Arc<FileState>>>,
    /// Held while bytes are filled in or a mark goes: nothing is filled into a file that has none.
    settling: Mutex<()>,
}

impl Store {
    pub fn new(tree: Arc<Tree>, changes: Arc<Changes>, control: Option<PathBuf>) -> Self {
        Self { tree, changes, control, states: Mutex::default(), settling: Mutex::default() }
    }

    fn state(&self, node: Node) -> Arc<FileState> {
        self.states.lock().unwrap().entry(node.0).or_default().clone()
    }

    fn command(&self) -> String {
        let text = self.control.as_ref().and_then(|path| std::fs::read_to_string(path).ok());
        text.unwrap_or_else(|| "ok".to_owned()).trim().to_owned()
    }

    fn fetch(&self, mark: &Mark, block: u64, interrupt: &Interrupt) -> Result<Vec<u8>> {
        let begin = Instant::now();
        let command = loop {
            let command = self.command();
            let delay = match command.strip_prefix("delay ") {
                Some(millis) => Duration::from_millis(millis.parse().unwrap_or(0)),
                None if command == "hang" => Duration::MAX,
                None => Duration::ZERO,
            };
            if begin.elapsed() >= delay {
                break command;
            }
            if interrupt.is_raised() {
                return Err(Errno::INTR);
            }
            std::thread::sleep(INTERRUPT_POLL.min(delay / 4));
        };
        match command.as_str() {
            "fail" => return Err(Errno::IO),
            "crash" => std::process::abort(),
            _ => (),
        }
        let offset = block * BLOCK;
        let mut bytes = vec![0; BLOCK.min(mark.size - offset) as usize];
        let share = self.control.as_ref().and_then(|control| Some(control.parent()?.join("share")));
        let given = share.and_then(|share| std::fs::File::open(share.join(mark.seed.to_string())).ok());
        if let Some(given) = given {
            let read = pread_whole(given.as_fd(), offset, &mut bytes)?;
            return if read == bytes.len() { Ok(bytes) } else { Err(Errno::IO) };
        }
        fill(mark.seed, offset, &mut bytes);
        if command == "wrong" {
            bytes[0] ^= 1;
        }
        let mut expected = vec![0; bytes.len()];
        fill(mark.seed, offset, &mut expected);
        if bytes == expected { Ok(bytes) } else { Err(Errno::IO) }
    }

    /// Makes a block present: fetched once however many wait.
    fn ensure(&self, node: Node, mark: &Mark, block: u64, interrupt: &Interrupt) -> Result<()> {
        let state = self.state(node);
        let mut presence = state.presence.lock().unwrap();
        loop {
            if presence.present.contains(&block) {
                return Ok(());
            }
            if presence.fetching.insert(block) {
                break;
            }
            presence = state.wakes.wait_timeout(presence, INTERRUPT_POLL).unwrap().0;
            if interrupt.is_raised() {
                return Err(Errno::INTR);
            }
        }
        drop(presence);
        let done = self.fetch(mark, block, interrupt).and_then(|bytes| {
            let file = self.tree.open_node(node, OFlags::RDWR)?;
            let _one = self.settling.lock().unwrap();
            // Fetched under a mark that is gone by now: the file is the user's, and may have been written to.
            if !matches!(found(file.as_fd())?, Found::Ours(now) if now.seed == mark.seed) {
                return Err(Errno::CANCELED);
            }
            self.changes.hiding(file.as_fd(), || {
                let mut at = 0;
                while at < bytes.len() {
                    at += rustix::io::pwrite(&file, &bytes[at..], block * BLOCK + at as u64)?;
                }
                Ok(())
            })
        });
        let mut presence = state.presence.lock().unwrap();
        presence.fetching.remove(&block);
        if done.is_ok() {
            presence.present.insert(block);
        }
        state.wakes.notify_all();
        done
    }

    fn make_resident(&self, node: Node, interrupt: &Interrupt) -> Result<()> {
        let file = self.tree.open_node(node, OFlags::RDWR)?;
        let Found::Ours(mark) = found(file.as_fd())? else { return Ok(()) };
        for block in 0..mark.size.div_ceil(BLOCK) {
            match self.ensure(node, &mark, block, interrupt) {
                // Another thread has made it resident.
                Err(Errno::CANCELED) => return Ok(()),
                done => done?,
            }
        }
        let _one = self.settling.lock().unwrap();
        let Found::Ours(mark) = found(file.as_fd())? else { return Ok(()) };
        rustix::fs::fdatasync(&file)?;
        set_mtime(file.as_fd(), mark.mtime)?;
        rustix::fs::fsync(&file)?;
        rustix::fs::fremovexattr(&file, MARK)?;
        rustix::fs::fsync(&file)?;
        self.states.lock().unwrap().remove(&node.0);
        Ok(())
    }

    /// While somebody gives the file up under a lease, an open waits; with `now`, it is refused with EAGAIN.
    fn open_for(&self, node: Node, access: Access, now: bool) -> Result<OwnedFd> {
        let waits = if now { OFlags::NONBLOCK } else { OFlags::empty() };
        let open = |flags| self.tree.open_node(node, flags | waits | OFlags::NOFOLLOW);
        match access {
            Access::Read => open(OFlags::RDONLY),
            // The gate tells the place of each write, so the descriptor is not to append; only where the file allows nothing else.
            Access::Write { append: true } => match open(OFlags::RDWR) {
                Err(Errno::PERM) => open(OFlags::RDWR | OFlags::APPEND),
                opened => opened,
            },
            Access::Write { append: false } | Access::Empty => open(OFlags::RDWR),
        }
    }
}

impl Content for Store {
    fn open(
        &self,
        node: Node,
        access: Access,
        _: &Caller,
        now: bool,
        interrupt: &Interrupt,
    ) -> Result<Opened> {
        let file = self.open_for(node, access, now)?;
        let mark = match (found(file.as_fd())?, access) {
            (Found::No, Access::Empty) => {
                rustix::fs::ftruncate(&file, 0)?;
                return Ok(Opened::Resident(file));
            }
            (Found::No, _) => return Ok(Opened::Resident(file)),
            (Found::Ours(_) | Found::Bad, Access::Empty) => {
                let _one = self.settling.lock().unwrap();
                rustix::fs::ftruncate(&file, 0)?;
                rustix::fs::fremovexattr(&file, MARK)?;
                rustix::fs::fsync(&file)?;
                self.states.lock().unwrap().remove(&node.0);
                return Ok(Opened::Resident(file));
            }
            (Found::Bad, _) => return Err(Errno::IO),
            (Found::Ours(mark), _) => mark,
        };
        match access {
            Access::Write { .. } if now => Err(Errno::AGAIN),
            Access::Write { .. } => {
                let _ = mark;
                self.make_resident(node, interrupt)?;
                Ok(Opened::Resident(file))
            }
            _ => Ok(Opened::Tiered(file)),
        }
    }

    fn read_now(&self, node: Node, file: BorrowedFd<'_>, offset: u64, out: &mut [u8]) -> Result<usize> {
        let mark = match found(file)? {
            Found::No => return pread_whole(file, offset, out),
            Found::Bad => return Err(Errno::IO),
            Found::Ours(mark) => mark,
        };
        if offset >= mark.size {
            return Ok(0);
        }
        let count = (out.len() as u64).min(mark.size - offset);
        let state = self.state(node);
        let presence = state.presence.lock().unwrap();
        if !(offset / BLOCK..=(offset + count - 1) / BLOCK).all(|block| presence.present.contains(&block)) {
            return Err(Errno::AGAIN);
        }
        drop(presence);
        pread_whole(file, offset, &mut out[..count as usize])
    }

    fn read(
        &self,
        node: Node,
        file: BorrowedFd<'_>,
        offset: u64,
        out: &mut [u8],
        _: &Caller,
        interrupt: &Interrupt,
    ) -> Result<usize> {
        loop {
            match self.read_now(node, file, offset, out) {
                Err(Errno::AGAIN) => (),
                answer => return answer,
            }
            let Found::Ours(mark) = found(file)? else { continue };
            // So late that the mark may be gone.
            if self.command() == "late" && offset > 0 {
                std::thread::sleep(Duration::from_millis(500));
            }
            let count = (out.len() as u64).min(mark.size.saturating_sub(offset)).max(1);
            for block in offset / BLOCK..=(offset + count - 1) / BLOCK {
                match self.ensure(node, &mark, block, interrupt) {
                    // Resident by now, or another version.
                    Err(Errno::CANCELED) => break,
                    done => done?,
                }
            }
        }
    }

    fn is_samba(&self, _: &Caller) -> bool {
        false
    }

    fn residency(&self, node: Node) -> Result<Residency> {
        // Not opened: that might wait for a lease.
        let file = self.tree.open_node(node, OFlags::PATH | OFlags::NOFOLLOW)?;
        let mut value = [0; 256];
        let found = match xattr_at(file.as_fd(), c"", MARK, &mut value) {
            Ok(count) => decode(&value[..count], rustix::fs::fstat(&file)?.st_ino),
            Err(Errno::NODATA) => Found::No,
            Err(errno) => return Err(errno),
        };
        Ok(match found {
            Found::No => Residency::Resident,
            Found::Bad => Residency::Orphaned,
            Found::Ours(_) => {
                let present = self.state(node).presence.lock().unwrap().present.len() as u64;
                Residency::Tiered { present_bytes: present * BLOCK }
            }
        })
    }

    fn is_at_rest(&self, node: Node) -> bool {
        self.tree.is_at_rest(node)
    }

    fn opened(&self, _: Node, _: &Caller, _: bool) {}

    fn released(&self, _: Node, _: bool) {}
}

fn pread_whole(file: BorrowedFd<'_>, offset: u64, out: &mut [u8]) -> Result<usize> {
    let mut done = 0;
    while done < out.len() {
        match rustix::io::pread(file, &mut out[done..], offset + done as u64)? {
            0 => break,
            count => done += count,
        }
    }
    Ok(done)
}
