//! Placeholders of a tiered root without its agent: finding them by their marks, and making whole files of them again.
//!
//! How one is recognised: the file carries a mark that decodes; the mark's nonce is that of the root's identity, its inode, generation and
//! file system are those of this very file; and the note of the content beside it is the one whose hash is in the mark. Nothing else counts,
//! least of all its name: a copy of a placeholder has another inode, and is never taken for one of ours.

use std::ffi::CStr;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use polder_types::{Content, FileIdent, Kind, Name, RelPath, ShareId};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Doing, ErrorClass, FsError};
use crate::ident::{CName, device, statx_at};
use crate::lease::sole_user;
use crate::presence::{
    MARK_XATTR, Marked, Pledge, discard, marked, marked_at, pledged_content, punch, unmark,
};
use crate::root::{Root, STATE_DIR};
use crate::staging::set_mtime;
use crate::walk::{Dir, Walker, open_beneath, retry_interrupted};
use crate::{Pace, PresenceError, layout, xattrs};

/// The list of what was tiered when an endpoint went without a recall, in the root's own folder.
pub const MANIFEST: &str = "left-behind.jsonl";
/// Which share the placeholders of a root are of, in hexadecimal digits and a newline. Marks do not say it.
const SHARE: &str = "share";
/// How much is read back at once.
const READ_BYTES: usize = 1 << 20;

/// A file of a root that carries a mark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MarkedFile {
    /// Where it is.
    pub path: RelPath,
    /// Which file.
    pub ident: FileIdent,
    /// What it stands for; `None` for an orphan: its mark or its note is damaged, or another file's.
    pub stands_for: Option<(Pledge, Content)>,
}

/// Tells of every file of a root that carries a mark, in no useful order. What moves meanwhile may be missed or told twice.
/// An error of `each` ends it.
pub fn each_marked<E: From<FsError>>(
    root: &Root,
    each: &mut dyn FnMut(MarkedFile) -> Result<(), E>,
) -> Result<(), E> {
    let mut walker = Walker::new(root)?;
    let mut left = vec![RelPath::root()];
    while let Some(path) = left.pop() {
        let dir = match walker.path(path.names()) {
            Ok(dir) => dir,
            // It has gone, or is another file system's.
            Err(error) if matches!(error.class, ErrorClass::Gone | ErrorClass::Blocked) => continue,
            Err(error) => return Err(error.into()),
        };
        for name in layout::names_in(&dir, path.names().is_empty() && !root.is_tiered())? {
            let stat = match statx_at(&dir, &name) {
                Err(Errno::NOENT) => continue,
                stat => stat.doing("stat", name.to_bytes())?,
            };
            let below = || Name::parse(name.to_bytes()).map(|name| path.join(name));
            match crate::ident::kind(&stat) {
                Some(Kind::Directory) if device(&stat) == walker.device() => left.extend(below().ok()),
                Some(Kind::File) => {
                    if let Some((ident, stands_for)) = look(root, dir.as_fd(), &name, stat.stx_ino)?
                        && let Ok(path) = below()
                    {
                        each(MarkedFile { path, ident, stands_for })?;
                    }
                }
                _ => (),
            }
        }
    }
    Ok(())
}

type StandsFor = Option<(Pledge, Content)>;

fn look(
    root: &Root,
    dir: BorrowedFd<'_>,
    name: &CStr,
    ino: u64,
) -> Result<Option<(FileIdent, StandsFor)>, FsError> {
    // Most files have none: one call says so.
    match xattrs::get_into(dir, name, MARK_XATTR, &mut []) {
        Ok(None) | Err(Errno::NOENT) => return Ok(None),
        _ => (),
    }
    let ident = FileIdent { ino, generation: crate::ident::generation(dir, name, ino) };
    let stands_for = match marked_at(root, dir, name) {
        Ok(Marked::No) => return Ok(None),
        Ok(Marked::Ours(pledge)) => {
            crate::presence::noted_content(dir, name, &pledge)?.map(|found| (pledge, found))
        }
        Ok(Marked::Copy(_) | Marked::Damaged) => None,
        Err(error) if error.class == ErrorClass::Gone => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(Some((ident, stands_for)))
}

/// Writes a file into the root's own folder, durably and as a whole: a reader finds the old one or the new one.
pub fn write_state_file(
    root: &Root,
    name: &str,
    write: &mut dyn FnMut(&mut dyn Write) -> std::io::Result<()>,
) -> Result<(), FsError> {
    let new = format!("{name}.new");
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(root.state(), &*new, flags, Mode::RUSR | Mode::WUSR);
    let mut out = std::io::BufWriter::new(std::fs::File::from(fd.doing("create", new.as_bytes())?));
    let written = write(&mut out).and_then(|()| out.flush()).and_then(|()| out.get_ref().sync_all());
    written
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
        .doing("write", new.as_bytes())?;
    rustix::fs::renameat(root.state(), &*new, root.state(), name).doing("rename", new.as_bytes())?;
    rustix::fs::fsync(root.state()).doing("make durable", STATE_DIR)
}

/// Notes which share a root's placeholders are of, unless that is noted.
pub fn note_share(root: &Root, share: ShareId) -> Result<(), FsError> {
    match noted_share(root)? {
        Some(noted) if noted == share => Ok(()),
        _ => write_state_file(root, SHARE, &mut |out| writeln!(out, "{share}")),
    }
}

/// What [`note_share`] wrote; `None` in a folder of an agent that did not do so yet.
pub fn noted_share(root: &Root) -> Result<Option<ShareId>, FsError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(root.state(), SHARE, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(None),
        file => file.doing("open", SHARE.as_bytes())?,
    };
    let mut text = [0; 64];
    let len = retry_interrupted(|| rustix::io::read(&file, &mut text)).doing("read", SHARE.as_bytes())?;
    Ok(std::str::from_utf8(&text[..len]).ok().and_then(|text| text.trim_end().parse().ok()))
}

/// What is at a path where a placeholder was.
#[derive(Debug)]
pub enum AtPlace {
    /// Nothing, or nothing that is a regular file.
    Gone,
    /// A file with all its bytes: it became whole, or a user made it.
    Whole,
    /// A placeholder of this root.
    Placeholder(Placeholder),
    /// A file whose mark or note is damaged or another file's: it stands for nothing.
    Orphan,
}

/// A placeholder of a root that no gate serves.
#[derive(Debug)]
pub struct Placeholder {
    file: OwnedFd,
    /// What its mark says.
    pub pledge: Pledge,
    /// What it stands for.
    pub content: Content,
}

/// Looks what is at a path of a root that this process holds and nobody serves.
pub fn at_place(root: &Root, walker: &mut Walker, path: &RelPath) -> Result<AtPlace, FsError> {
    let Some((dirs, name)) = path.split_last() else { return Ok(AtPlace::Gone) };
    let dir: Dir = match walker.path(dirs.names()) {
        Ok(dir) => dir,
        Err(error) if matches!(error.class, ErrorClass::Gone | ErrorClass::Blocked) => {
            return Ok(AtPlace::Gone);
        }
        Err(error) => return Err(error),
    };
    let c_name = CName::new(name);
    match statx_at(&dir, c_name.as_c_str()) {
        Ok(stat) if crate::ident::kind(&stat) == Some(Kind::File) => (),
        Ok(_) | Err(Errno::NOENT) => return Ok(AtPlace::Gone),
        Err(errno) => return Err(FsError::new("stat", name.as_bytes(), errno)),
    }
    if marked_at(root, dir.as_fd(), c_name.as_c_str())? == Marked::No {
        return Ok(AtPlace::Whole);
    }
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = open_beneath(dir.as_fd(), name, flags).doing("open", name.as_bytes())?;
    Ok(match marked(root, &file)? {
        Marked::No => AtPlace::Whole,
        Marked::Copy(_) | Marked::Damaged => AtPlace::Orphan,
        Marked::Ours(pledge) => match pledged_content(&file, &pledge)? {
            Some(content) => AtPlace::Placeholder(Placeholder { file, pledge, content }),
            None => AtPlace::Orphan,
        },
    })
}

/// Why a placeholder was not made whole. It is a placeholder still.
#[derive(Debug, thiserror::Error)]
pub enum FillError<E> {
    /// Somebody has it open.
    #[error("somebody has the file open")]
    InUse,
    /// The bytes could not be had.
    #[error("the bytes could not be had")]
    Source(E),
    /// More or fewer bytes came than it has.
    #[error("{found} bytes came of {wanted}")]
    Length {
        /// Its size.
        wanted: u64,
        /// What came.
        found: u64,
    },
    /// The disk gives back other bytes than were written.
    #[error("the disk gave back other bytes than were written")]
    ReadBack,
    /// A system call failed.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// The mark could not be taken away.
    #[error(transparent)]
    Presence(#[from] PresenceError),
}

/// Where bytes go, in their order.
pub type Sink<'a> = &'a mut dyn FnMut(&[u8]) -> Result<(), FsError>;

impl Placeholder {
    /// Writes all its bytes, which `source` gives from the first to the last and vouches for, reads them back, and takes the mark away: the
    /// file itself becomes whole, with its owner, names and attributes. Until the mark is gone, durably, it is a placeholder of which nothing
    /// is believed, whatever happens in between. Nobody else may have it open, from before the first byte to the end.
    pub fn make_whole<E>(
        &self,
        root: &Root,
        source: &mut dyn FnMut(Sink<'_>) -> Result<(), E>,
        pace: Pace<'_>,
    ) -> Result<(), FillError<E>> {
        let file = self.file.as_fd();
        let Some(lease) = sole_user(file) else { return Err(FillError::InUse) };
        // What an earlier life left in it is unknown, and holes stay holes.
        discard(root, file, &self.pledge, pace)?;
        let outcome = self.fill(source, pace).and_then(|()| match lease.is_held() {
            true => self.ensure_mark(root),
            false => Err(FillError::InUse),
        });
        match outcome {
            Ok(()) => Ok(unmark(file, pace)?),
            Err(error) => {
                // The room is given back; if it cannot be, it is a placeholder all the same.
                let _ = punch(file, self.pledge.size, pace);
                Err(error)
            }
        }
    }

    fn ensure_mark<E>(&self, root: &Root) -> Result<(), FillError<E>> {
        match marked(root, &self.file)? {
            Marked::Ours(pledge) if pledge == self.pledge => Ok(()),
            _ => Err(PresenceError::OtherMark.into()),
        }
    }

    fn fill<E>(
        &self,
        source: &mut dyn FnMut(Sink<'_>) -> Result<(), E>,
        pace: Pace<'_>,
    ) -> Result<(), FillError<E>> {
        let (file, size) = (self.file.as_fd(), self.pledge.size);
        let (mut at, mut hash, mut failed) = (0u64, blake3::Hasher::new(), None);
        rustix::fs::ftruncate(file, size).doing("set the size of", b"tiered file")?;
        let given = source(&mut |bytes| {
            hash.update(bytes);
            let fits = at.saturating_add(bytes.len() as u64) <= size;
            if fits && bytes.iter().any(|byte| *byte != 0) {
                crate::presence::write_all(file, bytes, at)
                    .inspect_err(|error| failed = Some(error.again(b"tiered file")))?;
            }
            at += bytes.len() as u64;
            Ok(())
        });
        if let Some(error) = failed {
            return Err(error.into());
        }
        given.map_err(FillError::Source)?;
        if at != size {
            return Err(FillError::Length { wanted: size, found: at });
        }
        crate::presence::step(pace, "make the data durable", || rustix::fs::fdatasync(file))?;
        if read_back(file, size)? != hash.finalize() {
            return Err(FillError::ReadBack);
        }
        crate::presence::step(pace, "restore the times", || set_mtime(file, self.pledge.mtime))?;
        Ok(crate::presence::step(pace, "make the times durable", || rustix::fs::fsync(file))?)
    }
}

fn read_back(file: BorrowedFd<'_>, size: u64) -> Result<blake3::Hash, FsError> {
    let (mut room, mut at, mut hash) = (vec![0; READ_BYTES], 0, blake3::Hasher::new());
    while at < size {
        let count =
            retry_interrupted(|| rustix::io::pread(file, &mut room, at)).doing("read", b"tiered file")?;
        if count == 0 {
            return Err(FsError::new("read", b"tiered file", Errno::IO));
        }
        hash.update(&room[..count]);
        at += count as u64;
    }
    Ok(hash.finalize())
}
