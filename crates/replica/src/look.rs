//! Looking at names: what a directory holds, without opening, following or changing any of it.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use polder_sync::{Seen, StandsFor};
use polder_types::{Attrs, AttrsHash, Kind, Name, SYMLINK_BYTES_MAX, Stamp};
use rustix::fs::RawDir;
use rustix::io::Errno;

use crate::attributes::Attributes;
use crate::error::{Doing, FsError};
use crate::ident::{CName, device, generation, kind, stamp, statx_at, statx_fd};
use crate::walk::{DirAt, Walker};
use crate::{ErrorClass, STATE_DIR};

/// Bytes of one `getdents64` answer: some 1,500 entries.
pub(crate) const LIST_BUFFER_BYTES: usize = 64 * 1024;

/// What stands at a name.
#[derive(Debug)]
pub enum Look {
    /// A node, or something that is skipped ([`Seen::kind`] is `None`).
    Found(Found),
    /// Nothing. Only this may ever become a deletion.
    Absent,
    /// It could not be looked at, so nothing is known.
    Failed(FsError),
    /// Another file system is mounted there: not crossed, and its disappearance is no deletion.
    Mount,
}

/// A node as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Name, kind, stamp and number of names.
    pub seen: Seen,
    /// Its attributes under the endpoint's policy; `None` for what is skipped.
    pub attrs: Option<(Arc<Attrs>, AttrsHash)>,
    /// The text of a symlink.
    pub target: Option<Box<[u8]>>,
    /// Of a placeholder of this root: the content that it stands for. Its stamp is that of its mark.
    pub stands_for: Option<Box<StandsFor>>,
}

/// The end of a listing.
#[derive(Debug)]
pub struct Listed {
    /// The directory itself, as it was after the last entry was read.
    pub directory: Stamp,
    /// Its own attributes.
    pub attrs: (Arc<Attrs>, AttrsHash),
    /// Entries that could not be looked at. Their names are known, so they are not absent.
    pub failed: Vec<(Name, FsError)>,
    /// Names that other file systems are mounted on.
    pub mounts: Vec<Name>,
    /// Whether nothing is missing: the directory was read to its end without an error and did not change meanwhile.
    /// Without it, a name that was not seen is not absent (promise I5).
    pub complete: bool,
}

/// Looks at `names` in one directory. Fails as a whole only when the directory itself cannot be reached.
pub fn look(
    walker: &mut Walker,
    attributes: &mut Attributes,
    at: &DirAt,
    names: &[Name],
) -> Result<Vec<Look>, FsError> {
    let dir = walker.dir(at)?;
    let is_root = at.path.names().is_empty();
    let looks = names.iter().map(|name| {
        if is_root && name.as_bytes() == STATE_DIR {
            return Look::Absent;
        }
        let device = walker.device();
        look_at(dir.as_fd(), device, name, attributes)
    });
    Ok(looks.collect())
}

/// Looks at the root directory itself or any other one by its place: stamp and attributes.
pub fn look_dir(
    walker: &mut Walker,
    attributes: &mut Attributes,
    at: &DirAt,
) -> Result<(Stamp, (Arc<Attrs>, AttrsHash)), FsError> {
    let dir = walker.dir(at)?;
    let path = at.path.to_bytes();
    let stat = statx_fd(&dir).doing("stat directory", &path)?;
    let attrs =
        attributes.read(dir.as_fd(), c"", &stat, Kind::Directory).doing("read the attributes of", &path)?;
    Ok((stamp(&stat, dir.ident.generation), attrs))
}

/// Lists a directory: gives every entry to `each` in pieces of at most `piece_max`. Special files are among them (they
/// are listed, never opened); `.polder` of the root is not.
pub fn list(
    walker: &mut Walker,
    attributes: &mut Attributes,
    at: &DirAt,
    piece_max: usize,
    each: &mut dyn FnMut(Vec<Found>),
) -> Result<Listed, FsError> {
    let dir = walker.dir(at)?;
    let path = at.path.to_bytes();
    // The descriptor is shared with the walker, and so is its position: a listing begins at the top.
    rustix::fs::seek(&dir, rustix::fs::SeekFrom::Start(0)).doing("rewind directory", &path)?;
    let before = statx_fd(&dir).doing("stat directory", &path)?;
    let is_root = at.path.names().is_empty();
    let (mut failed, mut mounts, mut piece, mut vanished) = (Vec::new(), Vec::new(), Vec::new(), false);
    let mut room = Vec::with_capacity(LIST_BUFFER_BYTES);
    let mut entries = RawDir::new(&dir, room.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry.doing("list directory", &path)?;
        let Some(name) = entry_name(entry.file_name(), is_root) else { continue };
        match look_at(dir.as_fd(), walker.device(), &name, attributes) {
            Look::Found(found) => piece.push(found),
            Look::Mount => mounts.push(name),
            Look::Failed(error) => failed.push((name, error)),
            // Deleted or renamed since it was listed: perhaps to a place that was read before.
            Look::Absent => vanished = true,
        }
        if piece.len() >= piece_max {
            each(std::mem::take(&mut piece));
        }
    }
    each(piece);
    let after = statx_fd(&dir).doing("stat directory", &path)?;
    let directory = stamp(&after, dir.ident.generation);
    let complete = failed.is_empty() && !vanished && directory == stamp(&before, dir.ident.generation);
    let attrs =
        attributes.read(dir.as_fd(), c"", &after, Kind::Directory).doing("read the attributes of", &path)?;
    Ok(Listed { directory, attrs, failed, mounts, complete })
}

/// The name of an entry; `None` for `.`, `..` and the root's state directory.
pub(crate) fn entry_name(name: &CStr, is_root: bool) -> Option<Name> {
    let bytes = name.to_bytes();
    if is_root && bytes == STATE_DIR { None } else { Name::parse(bytes).ok() }
}

pub(crate) fn look_at(
    dir: BorrowedFd<'_>,
    device_of_root: u64,
    name: &Name,
    attributes: &mut Attributes,
) -> Look {
    match found_at(dir, device_of_root, name, attributes) {
        Ok(Some(found)) => Look::Found(found),
        Ok(None) => Look::Mount,
        Err(error) if error.class == ErrorClass::Gone => Look::Absent,
        Err(error) => Look::Failed(error),
    }
}

/// `None` for a mount point.
fn found_at(
    dir: BorrowedFd<'_>,
    device_of_root: u64,
    name: &Name,
    attributes: &mut Attributes,
) -> Result<Option<Found>, FsError> {
    let (c_name, bytes) = (CName::new(name), name.as_bytes());
    let c_name = c_name.as_c_str();
    // A second round when the file was replaced between two calls; then whatever is there.
    let (mut rounds, mut replaced) = (0..2, 0..16);
    loop {
        let stat = statx_at(dir, c_name).doing("stat", bytes)?;
        if is_mount(&stat, device_of_root) {
            return Ok(None);
        }
        let stamp = stamp(&stat, generation(dir, c_name, stat.stx_ino));
        let kind = kind(&stat);
        let attrs = match kind {
            Some(kind) => {
                Some(attributes.read(dir, c_name, &stat, kind).doing("read the attributes of", bytes)?)
            }
            None => None,
        };
        let target = match kind {
            Some(Kind::Symlink) => match read_link(dir, c_name) {
                // Something else stands there by now.
                Err(Errno::INVAL) if replaced.next().is_some() => continue,
                target => Some(target.doing("read symlink", bytes)?),
            },
            _ => None,
        };
        // What was read belongs together only if nothing changed meanwhile.
        let again = statx_at(dir, c_name).doing("stat", bytes)?;
        let same = crate::ident::stamp(&again, stamp.ident.generation) == stamp;
        if same || rounds.next().is_none() {
            let mark = match kind {
                Some(Kind::File) => {
                    crate::presence::mark_of(dir, c_name, stamp.ident).doing("stat", bytes)?
                }
                _ => None,
            };
            let stands_for = mark.and_then(|mark| attributes.stands_for(&mark, dir, c_name));
            let stamp = mark.map_or(stamp, |mark| mark.pledge.stamp(stamp.ident));
            let seen = Seen { name: name.clone(), kind, stamp, links: stat.stx_nlink };
            return Ok(Some(Found { seen, attrs, target, stands_for }));
        }
    }
}

/// Whether a `statx` answer is about something that lies on another file system, or is the root of a mount.
pub(crate) fn is_mount(stat: &rustix::fs::Statx, device_of_root: u64) -> bool {
    let mount_root = rustix::fs::StatxAttributes::MOUNT_ROOT;
    device(stat) != device_of_root || stat.stx_attributes.contains(mount_root)
}

fn read_link(dir: BorrowedFd<'_>, name: &CStr) -> Result<Box<[u8]>, Errno> {
    let target = rustix::fs::readlinkat(dir, name, Vec::with_capacity(256))?.into_bytes();
    if target.len() > SYMLINK_BYTES_MAX { Err(Errno::NAMETOOLONG) } else { Ok(target.into_boxed_slice()) }
}
