//! What the kernel wants to read.

use polder_types::Timestamp;

use super::{MAJOR, MINOR, REPLY_HEADER_BYTES};
use crate::ports::{Attributes, DirEntry, Entry, Residency, Space};

/// For how long the kernel may believe what it was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// Until it is told otherwise.
    Unlimited,
    /// It asks again each time.
    None,
}

impl Lifetime {
    /// About 30 years: a figure whose sum with the kernel's clock does not overflow.
    const UNLIMITED_SECS: u64 = 1 << 30;

    fn secs(self) -> u64 {
        match self {
            Self::Unlimited => Self::UNLIMITED_SECS,
            Self::None => 0,
        }
    }
}

trait Put {
    fn u16(&mut self, value: u16);
    fn u32(&mut self, value: u32);
    fn u64(&mut self, value: u64);
    fn zeros(&mut self, count: usize);
}

impl Put for Vec<u8> {
    fn u16(&mut self, value: u16) {
        self.extend(value.to_ne_bytes());
    }
    fn u32(&mut self, value: u32) {
        self.extend(value.to_ne_bytes());
    }
    fn u64(&mut self, value: u64) {
        self.extend(value.to_ne_bytes());
    }
    fn zeros(&mut self, count: usize) {
        self.resize(self.len() + count, 0);
    }
}

/// Header of a reply: `errno` is 0 or positive.
pub fn reply_header(unique: u64, errno: i32, body_len: usize) -> [u8; REPLY_HEADER_BYTES] {
    let mut header = [0; REPLY_HEADER_BYTES];
    header[..4].copy_from_slice(&((REPLY_HEADER_BYTES + body_len) as u32).to_ne_bytes());
    header[4..8].copy_from_slice(&(-errno).to_ne_bytes());
    header[8..].copy_from_slice(&unique.to_ne_bytes());
    header
}

/// Blocks of 512 bytes as users see them: of a tiered file those of a full one. Tools that skip holes look at this first.
fn blocks(attributes: &Attributes) -> u64 {
    match attributes.residency {
        Residency::Resident => attributes.blocks,
        Residency::Tiered { .. } | Residency::Orphaned => {
            attributes.blocks.max(attributes.size.div_ceil(4096).saturating_mul(8))
        }
    }
}

/// The kernel's form of a device number in messages.
fn device(rdev: u64) -> u32 {
    let (major, minor) = (rustix::fs::major(rdev), rustix::fs::minor(rdev));
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

fn attributes(out: &mut Vec<u8>, attributes: &Attributes) {
    let times = [attributes.atime, attributes.mtime, attributes.ctime];
    out.u64(attributes.ino);
    out.u64(attributes.size);
    out.u64(blocks(attributes));
    times.iter().for_each(|time| out.u64(time.secs as u64));
    times.iter().for_each(|time| out.u32(time.nanos));
    out.u32(attributes.mode);
    out.u32(attributes.nlink);
    out.u32(attributes.uid);
    out.u32(attributes.gid);
    out.u32(device(attributes.rdev));
    out.u32(attributes.blksize);
    out.u32(0);
}

/// Answer to GETATTR and SETATTR.
#[derive(Debug)]
pub struct AttributesOut<'a>(pub &'a Attributes, pub Lifetime);

impl AttributesOut<'_> {
    /// Appends it.
    pub fn put(&self, out: &mut Vec<u8>) {
        out.u64(self.1.secs());
        out.zeros(8);
        attributes(out, self.0);
    }
}

/// Answer to LOOKUP and whatever makes a name. `None` says, until told otherwise, that there is no such name.
#[derive(Debug)]
pub struct EntryOut<'a> {
    /// What the name stands for.
    pub entry: Option<&'a Entry>,
    /// Of the name.
    pub name_lifetime: Lifetime,
    /// Of the attributes.
    pub attributes_lifetime: Lifetime,
}

impl EntryOut<'_> {
    const BYTES: usize = 128;

    /// Appends it.
    pub fn put(&self, out: &mut Vec<u8>) {
        let begin = out.len();
        out.u64(self.entry.map_or(0, |entry| entry.node.0));
        out.u64(self.entry.map_or(0, |entry| entry.generation));
        out.u64(self.name_lifetime.secs());
        out.u64(self.attributes_lifetime.secs());
        out.zeros(8);
        match self.entry {
            Some(entry) => attributes(out, &entry.attributes),
            None => out.zeros(88),
        }
        debug_assert_eq!(out.len() - begin, Self::BYTES);
    }
}

/// Answer to OPEN, second part of the answer to CREATE and TMPFILE.
#[derive(Debug)]
pub struct OpenOut {
    /// Handle.
    pub fh: u64,
    /// See [`super::open`].
    pub flags: u32,
    /// With passthrough.
    pub backing_id: u32,
}

impl OpenOut {
    /// Appends it.
    pub fn put(&self, out: &mut Vec<u8>) {
        out.u64(self.fh);
        out.u32(self.flags);
        out.u32(self.backing_id);
    }
}

/// Answer to STATX.
#[derive(Debug)]
pub struct StatxOut<'a>(pub &'a Attributes, pub Lifetime);

impl StatxOut<'_> {
    const BASIC: u32 = 0x7ff;
    const BTIME: u32 = 0x800;

    /// Appends it.
    pub fn put(&self, out: &mut Vec<u8>) {
        let Self(stat, lifetime) = self;
        out.u64(lifetime.secs());
        out.zeros(24);
        out.u32(Self::BASIC | if stat.btime.is_some() { Self::BTIME } else { 0 });
        out.u32(stat.blksize);
        out.u64(0);
        out.u32(stat.nlink);
        out.u32(stat.uid);
        out.u32(stat.gid);
        out.u16(stat.mode as u16);
        out.u16(0);
        out.u64(stat.ino);
        out.u64(stat.size);
        out.u64(blocks(stat));
        out.u64(0);
        for time in [stat.atime, stat.btime.unwrap_or_default(), stat.ctime, stat.mtime] {
            put_time(out, time);
        }
        out.u32(rustix::fs::major(stat.rdev));
        out.u32(rustix::fs::minor(stat.rdev));
        out.zeros(8 + 14 * 8);
    }
}

fn put_time(out: &mut Vec<u8>, time: Timestamp) {
    out.u64(time.secs as u64);
    out.u32(time.nanos);
    out.u32(0);
}

/// Puts `statvfs` numbers: the answer to STATFS.
pub(crate) fn put_space(out: &mut Vec<u8>, space: &Space) {
    [space.blocks, space.bfree, space.bavail, space.files, space.ffree]
        .iter()
        .for_each(|count| out.u64(*count));
    out.u32(space.bsize);
    out.u32(space.namelen);
    out.u32(space.frsize);
    out.zeros(4 + 24);
}

/// A `size` alone: GETXATTR and LISTXATTR that ask for room, WRITE, COPY_FILE_RANGE.
pub(crate) fn put_size(out: &mut Vec<u8>, size: u32) {
    out.u32(size);
    out.u32(0);
}

/// An offset or wide size alone: LSEEK, COPY_FILE_RANGE_64.
pub(crate) fn put_wide(out: &mut Vec<u8>, value: u64) {
    out.u64(value);
}

/// A page of a directory, no longer than the kernel asked for.
#[derive(Debug)]
pub struct DirectoryOut<'a> {
    /// Begins empty, or after what is not the page's.
    pub out: &'a mut Vec<u8>,
    /// Bytes that may be added.
    pub room: usize,
}

impl DirectoryOut<'_> {
    const HEAD: usize = 24;

    /// Appends an entry, with what it names for READDIRPLUS; `false` when it has no room.
    pub fn put(&mut self, entry: &DirEntry<'_>, plus: Option<&EntryOut<'_>>) -> bool {
        let name = entry.name.to_bytes();
        let len = Self::HEAD + name.len();
        let padded = len.next_multiple_of(8) + plus.map_or(0, |_| EntryOut::BYTES);
        if padded > self.room {
            return false;
        }
        self.room -= padded;
        if let Some(plus) = plus {
            plus.put(self.out);
        }
        self.out.u64(entry.ino);
        self.out.u64(entry.cookie);
        self.out.u32(name.len() as u32);
        self.out.u32(u32::from(entry.kind));
        self.out.extend(name);
        self.out.zeros(len.next_multiple_of(8) - len);
        true
    }
}

/// Answer to INIT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InitOut {
    /// Bytes to read ahead at most.
    pub max_readahead: u32,
    /// What was agreed on.
    pub flags: u64,
    /// Requests that nobody waits for at once: read-ahead, releases.
    pub max_background: u16,
    /// Largest WRITE.
    pub max_write: u32,
    /// Largest request in pages.
    pub max_pages: u16,
}

impl InitOut {
    /// Appends it.
    pub fn put(&self, out: &mut Vec<u8>) {
        out.u32(MAJOR);
        out.u32(MINOR);
        out.u32(self.max_readahead);
        out.u32(self.flags as u32);
        out.u16(self.max_background);
        out.u16(self.max_background / 4 * 3);
        out.u32(self.max_write);
        // Times are told in nanoseconds.
        out.u32(1);
        out.u16(self.max_pages);
        out.u16(0);
        out.u32((self.flags >> 32) as u32);
        // The real file system must not be stacked itself; others may be stacked on the mount.
        out.u32(1);
        out.u16(0);
        out.zeros(22);
    }
}

/// What the kernel is told without having asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice<'a> {
    /// Attributes, and cached pages or entries with `data`, of a node have changed.
    Node {
        /// Which.
        node: u64,
        /// Whether pages (of a directory: its entries) go too.
        data: bool,
    },
    /// A name stands for something else now.
    Name {
        /// In this directory.
        parent: u64,
        /// Which.
        name: &'a [u8],
    },
    /// What was not answered is to be sent again.
    Resend,
    /// All names are to be looked up again at their next use. Linux 6.16; `EINVAL` before.
    Epoch,
}

/// A notice as it is written to the device.
pub fn notice(notice: &Notice<'_>) -> Vec<u8> {
    const INVAL_INODE: i32 = 2;
    const INVAL_ENTRY: i32 = 3;
    const RESEND: i32 = 7;
    const INC_EPOCH: i32 = 8;
    let mut out = vec![0; REPLY_HEADER_BYTES];
    let code = match notice {
        Notice::Node { node, data } => {
            out.u64(*node);
            // A negative offset: attributes alone. A length of 0: to the end.
            out.u64(if *data { 0 } else { u64::MAX });
            out.u64(0);
            INVAL_INODE
        }
        Notice::Name { parent, name } => {
            out.u64(*parent);
            out.u32(name.len() as u32);
            out.u32(0);
            out.extend(*name);
            out.push(0);
            INVAL_ENTRY
        }
        Notice::Resend => RESEND,
        Notice::Epoch => INC_EPOCH,
    };
    let header = reply_header(0, -code, out.len() - REPLY_HEADER_BYTES);
    out[..REPLY_HEADER_BYTES].copy_from_slice(&header);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::Node;

    fn stat(size: u64, blocks: u64, residency: Residency) -> Attributes {
        let time = Timestamp::new(5, 6);
        Attributes {
            ino: 12,
            size,
            blocks,
            atime: time,
            mtime: time,
            ctime: time,
            btime: Some(time),
            mode: 0o100644,
            nlink: 1,
            uid: 1,
            gid: 2,
            rdev: 0,
            blksize: 4096,
            residency,
        }
    }

    /// Lengths of the kernel's structures.
    #[test]
    fn answers_have_the_kernels_lengths() {
        let entry = Entry { node: Node(7), generation: 1, attributes: stat(1, 8, Residency::Resident) };
        let long = Lifetime::Unlimited;
        let len = |put: &dyn Fn(&mut Vec<u8>)| {
            let mut out = Vec::new();
            put(&mut out);
            out.len()
        };
        assert_eq!(len(&|out| AttributesOut(&entry.attributes, long).put(out)), 104);
        assert_eq!(len(&|out| StatxOut(&entry.attributes, long).put(out)), 288);
        for entry in [Some(&entry), None] {
            let out = EntryOut { entry, name_lifetime: long, attributes_lifetime: long };
            assert_eq!(len(&|bytes| out.put(bytes)), 128);
        }
        assert_eq!(len(&|out| OpenOut { fh: 1, flags: 2, backing_id: 3 }.put(out)), 16);
        assert_eq!(len(&|out| put_space(out, &Space::default())), 80);
        let init = InitOut { max_readahead: 1, flags: 2, max_background: 3, max_write: 4, max_pages: 5 };
        assert_eq!(len(&|out| init.put(out)), 64);
        assert_eq!(notice(&Notice::Resend).len(), 16);
        assert_eq!(notice(&Notice::Epoch).len(), 16);
        assert_eq!(notice(&Notice::Node { node: 1, data: true }).len(), 40);
        assert_eq!(notice(&Notice::Name { parent: 1, name: b"abc" }).len(), 16 + 16 + 4);
    }

    /// Promise 42: `st_blocks` of a tiered file is never 0.
    #[test]
    fn tiered_files_have_blocks() {
        assert_eq!(blocks(&stat(1, 0, Residency::Tiered { present_bytes: 0 })), 8);
        assert_eq!(blocks(&stat(1 << 20, 0, Residency::Orphaned)), 2048);
        assert_eq!(blocks(&stat(1 << 20, 0, Residency::Resident)), 0, "a sparse file of the user's");
        assert_eq!(blocks(&stat(u64::MAX, 0, Residency::Orphaned)), 1 << 55, "no overflow");
    }

    #[test]
    fn a_page_of_a_directory_ends_in_time() {
        let mut out = Vec::new();
        let mut page = DirectoryOut { out: &mut out, room: 64 };
        let entry = DirEntry { ino: 1, kind: 8, cookie: 1, name: c"name" };
        assert!(page.put(&entry, None));
        assert!(page.put(&entry, None));
        assert!(!page.put(&entry, None));
        assert_eq!(out.len(), 64);
    }
}
