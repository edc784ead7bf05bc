//! What the kernel writes.

use std::ffi::CStr;

use polder_types::Timestamp;

use super::REQUEST_BYTES_MAX;

/// A message that is not what its opcode asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a message of the kernel cannot be read (opcode {opcode})")]
pub struct Malformed {
    /// Which kind of message; 0 when not even that is known.
    pub opcode: u32,
}

/// What all messages begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Kind.
    pub opcode: u32,
    /// Number of the request; the reply repeats it. See [`super::RESENT`].
    pub unique: u64,
    /// What it is about.
    pub node: u64,
    /// File-system user of the caller.
    pub uid: u32,
    /// File-system group of the caller.
    pub gid: u32,
    /// Thread of the caller, 0 when it cannot be told.
    pub pid: u32,
}

/// INIT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InitIn {
    /// Version of the kernel.
    pub major: u32,
    /// Version of the kernel.
    pub minor: u32,
    /// Bytes that the kernel would read ahead.
    pub max_readahead: u32,
    /// What it offers.
    pub flags: u64,
}

/// SETATTR; times that are to be now are told by `valid`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SetAttrIn {
    /// Which.
    pub valid: u32,
    /// Handle of the open file, with `FH`.
    pub fh: u64,
    /// New size.
    pub size: u64,
    /// New time.
    pub atime: Timestamp,
    /// New time.
    pub mtime: Timestamp,
    /// New bits.
    pub mode: u32,
    /// New owner.
    pub uid: u32,
    /// New group.
    pub gid: u32,
}

/// CREATE, TMPFILE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CreateIn<'a> {
    /// As of `open`.
    pub flags: u32,
    /// Bits before the umask.
    pub mode: u32,
    /// Of the caller.
    pub umask: u32,
    /// In the directory that the header names.
    pub name: &'a CStr,
}

/// READ, READDIR, READDIRPLUS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadIn {
    /// Handle.
    pub fh: u64,
    /// Where; of directories a cookie.
    pub offset: u64,
    /// How much.
    pub size: u32,
}

/// WRITE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriteIn<'a> {
    /// Handle.
    pub fh: u64,
    /// Where, also with `O_APPEND`.
    pub offset: u64,
    /// What.
    pub data: &'a [u8],
}

/// Nodes that the kernel has no more use for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forget {
    /// How many.
    pub count: u32,
}

/// What is asked for. Names of fields are those of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Operation<'a> {
    Lookup {
        name: &'a CStr,
    },
    Forget(Forget),
    GetAttr,
    SetAttr(SetAttrIn),
    ReadLink,
    Symlink {
        name: &'a CStr,
        text: &'a CStr,
    },
    MkNod {
        mode: u32,
        rdev: u32,
        umask: u32,
        name: &'a CStr,
    },
    MkDir {
        mode: u32,
        umask: u32,
        name: &'a CStr,
    },
    Unlink {
        name: &'a CStr,
    },
    RmDir {
        name: &'a CStr,
    },
    Rename {
        new_parent: u64,
        flags: u32,
        name: &'a CStr,
        new_name: &'a CStr,
    },
    Link {
        old: u64,
        name: &'a CStr,
    },
    Open {
        flags: u32,
        open_flags: u32,
    },
    Read(ReadIn),
    Write(WriteIn<'a>),
    StatFs,
    Release {
        fh: u64,
        flags: u32,
    },
    FSync {
        fh: u64,
        data_only: bool,
    },
    SetXattr {
        name: &'a CStr,
        value: &'a [u8],
        flags: u32,
        kill_sgid: bool,
    },
    GetXattr {
        name: &'a CStr,
        size: u32,
    },
    ListXattr {
        size: u32,
    },
    RemoveXattr {
        name: &'a CStr,
    },
    Flush,
    Init(InitIn),
    OpenDir,
    ReadDir(ReadIn),
    ReadDirPlus(ReadIn),
    ReleaseDir,
    FSyncDir,
    Create(CreateIn<'a>),
    Interrupt {
        unique: u64,
    },
    Destroy,
    Fallocate {
        fh: u64,
        offset: u64,
        length: u64,
        mode: u32,
    },
    LSeek {
        fh: u64,
        offset: u64,
        whence: u32,
    },
    CopyFileRange {
        fh_in: u64,
        offset_in: u64,
        node_out: u64,
        fh_out: u64,
        offset_out: u64,
        len: u64,
        wide: bool,
    },
    SyncFs,
    TmpFile(CreateIn<'a>),
    Statx {
        mask: u32,
    },
    /// Known to the protocol or not, it is answered with ENOSYS: locks (the kernel keeps them itself), `ioctl`, `poll`, `bmap`, DAX.
    Other,
}

/// A message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    /// What all have.
    pub header: Header,
    /// What is asked for.
    pub operation: Operation<'a>,
}

const HEADER_BYTES: usize = 40;

struct Body<'a> {
    rest: &'a [u8],
    opcode: u32,
}

impl<'a> Body<'a> {
    fn malformed(&self) -> Malformed {
        Malformed { opcode: self.opcode }
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(self.malformed())?;
        self.rest = rest;
        Ok(taken)
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        let bytes = self.take(4)?.try_into().map_err(|_| self.malformed())?;
        Ok(u32::from_ne_bytes(bytes))
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        let bytes = self.take(8)?.try_into().map_err(|_| self.malformed())?;
        Ok(u64::from_ne_bytes(bytes))
    }

    fn skip(&mut self, len: usize) -> Result<(), Malformed> {
        self.take(len).map(|_| ())
    }

    fn name(&mut self) -> Result<&'a CStr, Malformed> {
        let name = CStr::from_bytes_until_nul(self.rest).map_err(|_| self.malformed())?;
        self.skip(name.count_bytes() + 1)?;
        Ok(name)
    }

    fn read(&mut self) -> Result<ReadIn, Malformed> {
        Ok(ReadIn { fh: self.u64()?, offset: self.u64()?, size: self.u32()? })
    }

    fn create(&mut self) -> Result<CreateIn<'a>, Malformed> {
        let (flags, mode, umask) = (self.u32()?, self.u32()?, self.u32()?);
        self.skip(4)?;
        Ok(CreateIn { flags, mode, umask, name: self.name()? })
    }
}

/// Reads a message. What follows the parts that are known (extensions of later versions) is not looked at.
pub fn decode(bytes: &[u8]) -> Result<Request<'_>, Malformed> {
    let mut body = Body { rest: bytes, opcode: 0 };
    let len = body.u32()? as usize;
    let opcode = body.u32()?;
    body.opcode = opcode;
    if len != bytes.len() || len > REQUEST_BYTES_MAX {
        return Err(body.malformed());
    }
    let (unique, node) = (body.u64()?, body.u64()?);
    let (uid, gid, pid) = (body.u32()?, body.u32()?, body.u32()?);
    body.skip(4)?;
    debug_assert_eq!(bytes.len() - body.rest.len(), HEADER_BYTES);
    let header = Header { opcode, unique, node, uid, gid, pid };
    Ok(Request { header, operation: operation(&mut body)? })
}

fn operation<'a>(body: &mut Body<'a>) -> Result<Operation<'a>, Malformed> {
    Ok(match body.opcode {
        1 => Operation::Lookup { name: body.name()? },
        2 => Operation::Forget(Forget { count: 1 }),
        3 => Operation::GetAttr,
        4 => Operation::SetAttr(set_attr(body)?),
        5 => Operation::ReadLink,
        6 => Operation::Symlink { name: body.name()?, text: body.name()? },
        8 => {
            let (mode, rdev, umask) = (body.u32()?, body.u32()?, body.u32()?);
            body.skip(4)?;
            Operation::MkNod { mode, rdev, umask, name: body.name()? }
        }
        9 => Operation::MkDir { mode: body.u32()?, umask: body.u32()?, name: body.name()? },
        10 => Operation::Unlink { name: body.name()? },
        11 => Operation::RmDir { name: body.name()? },
        12 => {
            let new_parent = body.u64()?;
            Operation::Rename { new_parent, flags: 0, name: body.name()?, new_name: body.name()? }
        }
        45 => {
            let (new_parent, flags) = (body.u64()?, body.u32()?);
            body.skip(4)?;
            Operation::Rename { new_parent, flags, name: body.name()?, new_name: body.name()? }
        }
        13 => Operation::Link { old: body.u64()?, name: body.name()? },
        14 => Operation::Open { flags: body.u32()?, open_flags: body.u32()? },
        15 => Operation::Read(body.read()?),
        16 => Operation::Write(write(body)?),
        17 => Operation::StatFs,
        18 => Operation::Release { fh: body.u64()?, flags: body.u32()? },
        20 => Operation::FSync { fh: body.u64()?, data_only: body.u32()? & super::FSYNC_DATASYNC != 0 },
        21 => set_xattr(body)?,
        22 => {
            let size = body.u32()?;
            body.skip(4)?;
            Operation::GetXattr { name: body.name()?, size }
        }
        23 => Operation::ListXattr { size: body.u32()? },
        24 => Operation::RemoveXattr { name: body.name()? },
        25 => Operation::Flush,
        26 => Operation::Init(init(body)?),
        27 => Operation::OpenDir,
        28 => Operation::ReadDir(body.read()?),
        29 => Operation::ReleaseDir,
        30 => Operation::FSyncDir,
        35 => Operation::Create(body.create()?),
        36 => Operation::Interrupt { unique: body.u64()? },
        38 => Operation::Destroy,
        42 => Operation::Forget(Forget { count: body.u32()? }),
        43 => {
            let (fh, offset, length) = (body.u64()?, body.u64()?, body.u64()?);
            Operation::Fallocate { fh, offset, length, mode: body.u32()? }
        }
        44 => Operation::ReadDirPlus(body.read()?),
        46 => Operation::LSeek { fh: body.u64()?, offset: body.u64()?, whence: body.u32()? },
        47 | 53 => copy_file_range(body)?,
        50 => Operation::SyncFs,
        51 => Operation::TmpFile(body.create()?),
        52 => {
            body.skip(20)?;
            Operation::Statx { mask: body.u32()? }
        }
        _ => Operation::Other,
    })
}

fn copy_file_range<'a>(body: &mut Body<'a>) -> Result<Operation<'a>, Malformed> {
    Ok(Operation::CopyFileRange {
        fh_in: body.u64()?,
        offset_in: body.u64()?,
        node_out: body.u64()?,
        fh_out: body.u64()?,
        offset_out: body.u64()?,
        len: body.u64()?,
        wide: body.opcode == 53,
    })
}

fn init(body: &mut Body<'_>) -> Result<InitIn, Malformed> {
    let (major, minor) = (body.u32()?, body.u32()?);
    let (max_readahead, low) = (body.u32()?, body.u32()?);
    let is_extended = u64::from(low) & super::init::INIT_EXT != 0;
    let high = if is_extended { body.u32()? } else { 0 };
    Ok(InitIn { major, minor, max_readahead, flags: u64::from(high) << 32 | u64::from(low) })
}

fn set_attr(body: &mut Body<'_>) -> Result<SetAttrIn, Malformed> {
    let valid = body.u32()?;
    body.skip(4)?;
    let (fh, size) = (body.u64()?, body.u64()?);
    body.skip(8)?;
    let (atime, mtime, _ctime) = (body.u64()?, body.u64()?, body.u64()?);
    let (atime_nanos, mtime_nanos, _) = (body.u32()?, body.u32()?, body.u32()?);
    let mode = body.u32()?;
    body.skip(4)?;
    let (uid, gid) = (body.u32()?, body.u32()?);
    // Seconds before 1970 come as two's complement.
    let time = |secs: u64, nanos: u32| Timestamp::new(secs as i64, nanos);
    let (atime, mtime) = (time(atime, atime_nanos), time(mtime, mtime_nanos));
    Ok(SetAttrIn { valid, fh, size, atime, mtime, mode, uid, gid })
}

fn write<'a>(body: &mut Body<'a>) -> Result<WriteIn<'a>, Malformed> {
    let (fh, offset) = (body.u64()?, body.u64()?);
    let size = body.u32()? as usize;
    body.skip(20)?;
    Ok(WriteIn { fh, offset, data: body.take(size)? })
}

/// With the extended header that [`super::init::SETXATTR_EXT`] brings.
fn set_xattr<'a>(body: &mut Body<'a>) -> Result<Operation<'a>, Malformed> {
    let (size, flags) = (body.u32()? as usize, body.u32()?);
    let kill_sgid = body.u32()? & super::SETXATTR_ACL_KILL_SGID != 0;
    body.skip(4)?;
    let name = body.name()?;
    Ok(Operation::SetXattr { name, value: body.take(size)?, flags, kill_sgid })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(opcode: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend((HEADER_BYTES as u32 + body.len() as u32).to_ne_bytes());
        bytes.extend(opcode.to_ne_bytes());
        bytes.extend(77u64.to_ne_bytes());
        bytes.extend(5u64.to_ne_bytes());
        bytes.extend([1000u32, 1001, 1002, 0].iter().flat_map(|field| field.to_ne_bytes()));
        bytes.extend(body);
        bytes
    }

    #[test]
    fn a_look_up_is_read() {
        let bytes = message(1, b"name\0");
        let request = decode(&bytes).unwrap();
        assert_eq!(request.operation, Operation::Lookup { name: c"name" });
        assert_eq!(
            request.header,
            Header { opcode: 1, unique: 77, node: 5, uid: 1000, gid: 1001, pid: 1002 }
        );
        assert_eq!(decode(&message(1, b"name")), Err(Malformed { opcode: 1 }), "without its end");
        assert_eq!(decode(&bytes[..bytes.len() - 1]), Err(Malformed { opcode: 1 }), "cut");
    }

    #[test]
    fn a_write_has_the_data_that_it_tells() {
        let mut body = Vec::new();
        body.extend(9u64.to_ne_bytes());
        body.extend(4096u64.to_ne_bytes());
        body.extend(3u32.to_ne_bytes());
        body.extend([0; 20]);
        body.extend(b"abc");
        let bytes = message(16, &body);
        let expected = WriteIn { fh: 9, offset: 4096, data: b"abc" };
        assert_eq!(decode(&bytes).unwrap().operation, Operation::Write(expected));
        body.pop();
        assert!(decode(&message(16, &body)).is_err());
    }

    #[test]
    fn a_rename_has_two_names() {
        let mut body = 8u64.to_ne_bytes().to_vec();
        body.extend([2u32.to_ne_bytes(), [0; 4]].concat());
        body.extend(b"a\0b\0");
        let bytes = message(45, &body);
        let expected = Operation::Rename { new_parent: 8, flags: 2, name: c"a", new_name: c"b" };
        assert_eq!(decode(&bytes).unwrap().operation, expected);
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_read(opcode in 0u32..70, body in prop::collection::vec(any::<u8>(), 0..200)) {
            let bytes = message(opcode, &body);
            if let Ok(request) = decode(&bytes) {
                prop_assert_eq!(request.header.opcode, opcode);
            }
            let _ = decode(&body);
        }
    }
}
