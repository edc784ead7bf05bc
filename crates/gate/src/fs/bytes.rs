//! Bytes of regular files: opens, and what does not pass through.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{FallocateFlags, SeekFrom};
use rustix::io::Errno;

use super::opens::{Asked, Found, Real, Way};
use super::{Answer, Call, FileSystem, Stop};
use crate::ports::{Access, Node, Opened, Residency};
use crate::proto::{CreateIn, OpenOut, Operation, ReadIn, Request, WriteIn, open};
use crate::rights;

const O_ACCMODE: u32 = libc::O_ACCMODE as u32;
const O_APPEND: u32 = libc::O_APPEND as u32;
const O_TRUNC: u32 = libc::O_TRUNC as u32;
const O_EXCL: u32 = libc::O_EXCL as u32;

/// Longest piece that is read or written at once.
const PIECE_BYTES_MAX: usize = crate::proto::IO_BYTES_MAX as usize;

fn is_writable(flags: u32) -> bool {
    flags & O_ACCMODE != libc::O_RDONLY as u32
}

/// A file that was made just now.
fn created(file: OwnedFd) -> Found {
    Found { opened: Opened::Resident(file), can_write: true }
}

fn would_wait(errno: Errno) -> Stop {
    if errno == Errno::AGAIN { Stop::WouldWait } else { Stop::Error(errno) }
}

/// Reads until `out` is full or the file ends.
fn read_whole(file: impl AsFd, mut offset: u64, out: &mut [u8]) -> Result<usize, Errno> {
    let mut done = 0;
    while done < out.len() {
        match rustix::io::pread(&file, &mut out[done..], offset) {
            Ok(0) => break,
            Ok(read) => {
                done += read;
                offset += read as u64;
            }
            Err(Errno::INTR) => (),
            Err(errno) => return Err(errno),
        }
    }
    Ok(done)
}

/// Writes all, or tells how much was written before an error.
fn write_whole(file: impl AsFd, mut offset: u64, data: &[u8]) -> Result<usize, Errno> {
    let mut done = 0;
    while done < data.len() {
        match rustix::io::pwrite(&file, &data[done..], offset) {
            Ok(0) => return Err(Errno::IO),
            Ok(written) => {
                done += written;
                offset += written as u64;
            }
            Err(Errno::INTR) => (),
            Err(_) if done > 0 => break,
            Err(errno) => return Err(errno),
        }
    }
    Ok(done)
}

impl FileSystem {
    pub(super) fn answer_bytes(&self, request: &Request<'_>, call: &mut Call<'_>) -> Answer {
        match request.operation {
            Operation::Open { flags, open_flags } => {
                self.open(call, flags, open_flags & open::KILL_SUIDGID != 0)
            }
            Operation::Create(create) => self.create(call, &create),
            Operation::TmpFile(create) => self.unnamed(call, &create),
            Operation::Release { fh, .. } => {
                call.leaves.released = self.opens.release(fh).map(|last| (Node(last.node), last.was_written));
                Ok(())
            }
            Operation::Read(read) => self.read(call, &read),
            Operation::Write(write) => self.write(call, &write),
            Operation::FSync { data_only, .. } => self.sync(call, data_only),
            Operation::Fallocate { offset, length, mode, .. } => self.allocate(call, offset, length, mode),
            Operation::LSeek { offset, whence, .. } => self.seek(call, offset, whence),
            Operation::CopyFileRange { .. } => self.copy_range(request, call),
            _ => Err(Errno::NOSYS.into()),
        }
    }

    fn find(&self, call: &Call<'_>, node: Node, access: Access) -> Result<Found, Stop> {
        let caller = call.caller(0);
        let opened = self.content.open(node, access, &caller, !call.may_wait, call.interrupt);
        Ok(Found { opened: opened.map_err(would_wait)?, can_write: access != Access::Read })
    }

    fn open(&self, call: &mut Call<'_>, flags: u32, kills_setuid: bool) -> Answer {
        let node = call.node();
        let asked = Asked {
            fh: call.unique(),
            node: node.0,
            is_writable: is_writable(flags),
            is_append: flags & O_APPEND != 0,
        };
        let found = if flags & O_TRUNC != 0 {
            Some(self.emptied(call, kills_setuid)?)
        } else if asked.is_writable {
            Some(self.open_to_write(call, asked.is_append)?)
        } else if self.opens.way(node.0).is_none() {
            Some(self.find(call, node, Access::Read)?)
        } else {
            None
        };
        let way = match self.opens.enter(&asked, found) {
            // Released between the look and the entry.
            Err(Errno::STALE) => {
                let found = self.find(call, node, Access::Read)?;
                self.opens.enter(&asked, Some(found))?
            }
            way => way?,
        };
        self.content.opened(node, &call.caller(0), asked.is_writable);
        if asked.is_writable && self.opens.is_first_writer(node.0) {
            call.leaves.changed = Some(node);
        }
        self.put_open(call, asked.fh, way);
        Ok(())
    }

    fn emptied(&self, call: &Call<'_>, kills_setuid: bool) -> Result<Found, Stop> {
        let empty = || self.find(call, call.node(), Access::Empty);
        if kills_setuid { empty() } else { rights::with_setgid(empty) }
    }

    /// A resident file is opened as the caller will write to it, so that flags of the file (immutable, append-only) are heeded. A tiered
    /// one is only opened: many who open for writing never write.
    fn open_to_write(&self, call: &Call<'_>, append: bool) -> Result<Found, Stop> {
        let node = call.node();
        let caller = call.caller(0);
        match self.content.open(node, Access::Write { append }, &caller, true, call.interrupt) {
            Err(Errno::AGAIN) => self.find(call, node, Access::Read),
            opened => Ok(Found { opened: opened?, can_write: true }),
        }
    }

    fn put_open(&self, call: &mut Call<'_>, fh: u64, way: Way) {
        call.leaves.opened = Some(fh);
        let passthrough = if way.backing_id.is_some() { open::PASSTHROUGH } else { 0 };
        let flags = open::NOFLUSH | passthrough;
        OpenOut { fh, flags, backing_id: way.backing_id.unwrap_or(0) }.put(call.out);
    }

    fn create(&self, call: &mut Call<'_>, create: &CreateIn<'_>) -> Answer {
        let (parent, caller) = (call.node(), call.caller(create.umask));
        let name = super::names::new_name(parent, create.name)?;
        let act = || self.namespace.create(&caller, parent, name, create.mode & 0o7777);
        let made = match self.make_once(call, name, act) {
            Ok(made) => super::names::now(made),
            // The kernel believed that the name was free, and has not checked the caller's rights on what is there: it looks again.
            Err(Stop::Error(Errno::EXIST)) if create.flags & O_EXCL == 0 => return Err(Errno::STALE.into()),
            Err(stop) => return Err(stop),
        };
        let (entry, file) = match made {
            Some((entry, file)) => (entry, created(file)),
            None => {
                let entry = self.namespace.lookup(parent, name)?;
                let file = self.find(call, entry.node, Access::Write { append: false })?;
                (entry, file)
            }
        };
        self.answer_created(call, create.flags, &entry, file)
    }

    fn unnamed(&self, call: &mut Call<'_>, create: &CreateIn<'_>) -> Answer {
        let (directory, caller) = (call.node(), call.caller(create.umask));
        let linkable = create.flags & O_EXCL == 0;
        let (entry, file) =
            self.namespace.make_unnamed(&caller, directory, create.mode & 0o7777, linkable)?;
        self.answer_created(call, create.flags, &entry, created(file))
    }

    fn answer_created(
        &self,
        call: &mut Call<'_>,
        flags: u32,
        entry: &crate::ports::Entry,
        found: Found,
    ) -> Answer {
        let asked = Asked {
            fh: call.unique(),
            node: entry.node.0,
            is_writable: is_writable(flags),
            is_append: flags & O_APPEND != 0,
        };
        let way = self.opens.enter(&asked, Some(found))?;
        self.content.opened(entry.node, &call.caller(0), asked.is_writable);
        self.put_entry(call.out, entry);
        self.put_open(call, asked.fh, way);
        Ok(())
    }

    /// The real file of a node for reading, as it was found before or is found now.
    fn readable(&self, call: &Call<'_>) -> Result<Real, Stop> {
        let node = call.node();
        Ok(match self.opens.real(node.0) {
            Real::Unknown => {
                let found = self.find(call, node, Access::Read)?;
                self.opens.learn(node.0, found)
            }
            known => known,
        })
    }

    /// The real file of a node for writing; a tiered one is made resident first.
    fn writable(&self, call: &Call<'_>, node: Node) -> Result<Arc<OwnedFd>, Stop> {
        if let Real::Writable(file) = self.opens.real(node.0) {
            return Ok(file);
        }
        let found = self.find(call, node, Access::Write { append: false })?;
        match self.opens.learn(node.0, found) {
            Real::Writable(file) => Ok(file),
            _ => Err(Errno::IO.into()),
        }
    }

    fn read(&self, call: &mut Call<'_>, read: &ReadIn) -> Answer {
        let node = call.node();
        let real = self.readable(call)?;
        let caller = call.caller(0);
        let begin = call.out.len();
        call.out.resize(begin + (read.size as usize).min(PIECE_BYTES_MAX), 0);
        let out = &mut call.out[begin..];
        let count = match &real {
            Real::Readable(file) | Real::Writable(file) => read_whole(file, read.offset, out)?,
            Real::Tiered(file) if !call.may_wait => {
                self.content.read_now(node, file.as_fd(), read.offset, out).map_err(would_wait)?
            }
            Real::Tiered(file) => {
                self.content.read(node, file.as_fd(), read.offset, out, &caller, call.interrupt)?
            }
            Real::Unknown => return Err(Errno::IO.into()),
        };
        if count < out.len() {
            // The kernel takes a short answer for the end, and shows zeros where it believes the file goes on.
            let size = self.namespace.attributes(node)?.size;
            if read.offset.saturating_add(count as u64) < size && matches!(real, Real::Tiered(_)) {
                return Err(Errno::IO.into());
            }
        }
        call.out.truncate(begin + count);
        Ok(())
    }

    fn write(&self, call: &mut Call<'_>, write: &WriteIn<'_>) -> Answer {
        let file = self.writable(call, call.node())?;
        // The kernel tells the place, also of an append: written twice is the same as once.
        let written = write_whole(&file, write.offset, write.data)?;
        crate::proto::put_size(call.out, written as u32);
        Ok(())
    }

    pub(super) fn set_size(&self, call: &mut Call<'_>, size: u64, kills_setuid: bool) -> Answer {
        let node = call.node();
        if size == 0 {
            let found = self.emptied(call, kills_setuid)?;
            self.opens.learn(node.0, found);
            return Ok(());
        }
        let file = self.writable(call, node)?;
        let cut = || rustix::fs::ftruncate(&file, size);
        Ok(if kills_setuid { cut() } else { rights::with_setgid(cut) }?)
    }

    fn sync(&self, call: &mut Call<'_>, data_only: bool) -> Answer {
        call.ensure_may_wait()?;
        match self.readable(call)? {
            Real::Readable(file) | Real::Writable(file) | Real::Tiered(file) => {
                if data_only { rustix::fs::fdatasync(&file) } else { rustix::fs::fsync(&file) }?;
                Ok(())
            }
            Real::Unknown => Err(Errno::IO.into()),
        }
    }

    fn allocate(&self, call: &mut Call<'_>, offset: u64, length: u64, mode: u32) -> Answer {
        call.ensure_may_wait()?;
        let flags = FallocateFlags::from_bits(mode).ok_or(Errno::OPNOTSUPP)?;
        let file = self.writable(call, call.node())?;
        Ok(rustix::fs::fallocate(&file, flags, offset, length)?)
    }

    fn seek(&self, call: &mut Call<'_>, offset: u64, whence: u32) -> Answer {
        let node = call.node();
        let is_data = match whence as i32 {
            libc::SEEK_DATA => true,
            libc::SEEK_HOLE => false,
            _ => return Err(Errno::INVAL.into()),
        };
        let is_resident =
            self.opens.is_passthrough(node.0) || self.content.residency(node)? == Residency::Resident;
        let found = if is_resident {
            let (Real::Readable(file) | Real::Writable(file)) = self.readable(call)? else {
                return self.seek_all_data(call, offset, is_data);
            };
            rustix::fs::seek(&file, if is_data { SeekFrom::Data(offset) } else { SeekFrom::Hole(offset) })?
        } else {
            return self.seek_all_data(call, offset, is_data);
        };
        crate::proto::put_wide(call.out, found);
        Ok(())
    }

    /// A tiered file has no holes to its readers: who skips them would copy zeros.
    fn seek_all_data(&self, call: &mut Call<'_>, offset: u64, is_data: bool) -> Answer {
        let size = self.namespace.attributes(call.node())?.size;
        if offset >= size {
            return Err(Errno::NXIO.into());
        }
        crate::proto::put_wide(call.out, if is_data { offset } else { size });
        Ok(())
    }

    fn copy_range(&self, request: &Request<'_>, call: &mut Call<'_>) -> Answer {
        let Operation::CopyFileRange { offset_in, node_out, offset_out, len, wide, .. } = request.operation
        else {
            return Err(Errno::INVAL.into());
        };
        let target = Node(node_out);
        // Only between files that pass through; of all others the kernel copies by reading and writing.
        if !self.opens.is_passthrough(call.header.node) || !self.opens.is_passthrough(node_out) {
            return Err(Errno::OPNOTSUPP.into());
        }
        call.ensure_may_wait()?;
        let (Real::Readable(from) | Real::Writable(from)) = self.readable(call)? else {
            return Err(Errno::OPNOTSUPP.into());
        };
        let to = self.writable(call, target)?;
        let (mut from_at, mut to_at) = (offset_in, offset_out);
        let len = usize::try_from(len).unwrap_or(usize::MAX).min(i32::MAX as usize);
        let copied = rustix::fs::copy_file_range(&from, Some(&mut from_at), &to, Some(&mut to_at), len)?;
        if wide {
            crate::proto::put_wide(call.out, copied as u64);
        } else {
            crate::proto::put_size(call.out, copied as u32);
        }
        Ok(())
    }
}
