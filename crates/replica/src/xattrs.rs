//! Extended attributes of a name or a descriptor, without opening the file.
//!
//! Linux 6.13 has calls that take a directory and a name. Before it, `/proc/self/fd` of an `O_PATH` descriptor gives
//! the same; that the process may open the file is never needed.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use crate::sys;

/// Longest list of names and longest value that Linux gives.
const KERNEL_BYTES_MAX: usize = 64 * 1024;

/// Set once the newer calls have turned out to be missing.
static WITHOUT_NEW_CALLS: AtomicBool = AtomicBool::new(false);

/// Tries the newer call, then the way through `/proc`.
fn either<T>(
    newer: impl FnOnce() -> Result<T, Errno>,
    older: impl FnOnce() -> Result<T, Errno>,
) -> Result<T, Errno> {
    if !WITHOUT_NEW_CALLS.load(Ordering::Relaxed) {
        match newer() {
            Err(Errno::NOSYS) => WITHOUT_NEW_CALLS.store(true, Ordering::Relaxed),
            result => return result,
        }
    }
    older()
}

/// Runs `call` on the `/proc` name of `name` in `dir`, or of `dir` itself for an empty name.
fn by_proc<T>(
    dir: BorrowedFd<'_>,
    name: &CStr,
    call: impl FnOnce(&CStr) -> Result<T, Errno>,
) -> Result<T, Errno> {
    let opened = if name.is_empty() {
        None
    } else {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Some(rustix::fs::openat(dir, name, flags, Mode::empty())?)
    };
    let fd = opened.as_ref().map_or(dir.as_raw_fd(), |fd| fd.as_raw_fd());
    let path = CString::new(format!("/proc/self/fd/{fd}")).expect("no NUL in digits");
    call(&path)
}

/// Grows a buffer until the kernel's answer fits. 256 bytes first: most files have none or one small attribute.
fn grow(mut call: impl FnMut(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut room = 256;
    loop {
        let mut buffer = vec![0; room];
        match call(&mut buffer) {
            Ok(len) => {
                buffer.truncate(len);
                return Ok(buffer);
            }
            Err(Errno::RANGE) if room < KERNEL_BYTES_MAX => room *= 16,
            Err(Errno::INTR) => (),
            Err(errno) => return Err(errno),
        }
    }
}

/// Names of the attributes of `name` in `dir`, or of `dir` itself for an empty name.
pub(crate) fn list(dir: BorrowedFd<'_>, name: &CStr) -> Result<Vec<CString>, Errno> {
    // One buffer on the stack first: no allocation for the many files without attributes.
    let mut small = [0; 256];
    let found = read_list(dir, name, &mut small);
    let bytes = match found {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Ok(len) => small[..len].to_vec(),
        Err(Errno::RANGE) => grow(|out| read_list(dir, name, out))?,
        Err(errno) => return Err(errno),
    };
    let names = bytes.split_inclusive(|byte| *byte == 0);
    Ok(names.filter_map(|name| CStr::from_bytes_with_nul(name).ok()).map(CStr::to_owned).collect())
}

fn read_list(dir: BorrowedFd<'_>, name: &CStr, out: &mut [u8]) -> Result<usize, Errno> {
    // Both ways write to `out`, of which the second runs only if the first call does not exist.
    let out = std::cell::RefCell::new(out);
    either(
        || sys::listxattrat(dir, name, &mut out.borrow_mut()),
        || by_proc(dir, name, |path| rustix::fs::listxattr(path, &mut **out.borrow_mut())),
    )
}

/// One attribute; `None` when it has gone since it was listed.
pub(crate) fn get(dir: BorrowedFd<'_>, name: &CStr, xattr: &CStr) -> Result<Option<Vec<u8>>, Errno> {
    let value = grow(|out| {
        let out = std::cell::RefCell::new(out);
        either(
            || sys::getxattrat(dir, name, xattr, &mut out.borrow_mut()),
            || by_proc(dir, name, |path| rustix::fs::getxattr(path, xattr, &mut **out.borrow_mut())),
        )
    });
    match value {
        Ok(value) => Ok(Some(value)),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// One attribute into a buffer; `None` when there is none. A value that does not fit is `RANGE`.
pub(crate) fn get_into(
    dir: BorrowedFd<'_>,
    name: &CStr,
    xattr: &CStr,
    out: &mut [u8],
) -> Result<Option<usize>, Errno> {
    let out = std::cell::RefCell::new(out);
    let got = either(
        || sys::getxattrat(dir, name, xattr, &mut out.borrow_mut()),
        || by_proc(dir, name, |path| rustix::fs::getxattr(path, xattr, &mut **out.borrow_mut())),
    );
    match got {
        Ok(len) => Ok(Some(len)),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Sets an attribute of what `fd` stands for; the descriptor may be an `O_PATH` one.
pub(crate) fn set(fd: impl AsFd, xattr: &CStr, value: &[u8]) -> Result<(), Errno> {
    let fd = fd.as_fd();
    either(
        || sys::setxattrat(fd, xattr, value),
        || by_proc(fd, c"", |path| rustix::fs::setxattr(path, xattr, value, XattrFlags::empty())),
    )
}

/// Sets an attribute that is there; `NODATA` when it is not (any more). `fd` is no `O_PATH` descriptor.
pub(crate) fn replace(fd: BorrowedFd<'_>, xattr: &CStr, value: &[u8]) -> Result<(), Errno> {
    rustix::fs::fsetxattr(fd, xattr, value, XattrFlags::REPLACE)
}

/// Removes an attribute of what `fd` stands for; it is no error when there is none.
pub(crate) fn remove(fd: impl AsFd, xattr: &CStr) -> Result<(), Errno> {
    let fd = fd.as_fd();
    let removed = either(
        || sys::removexattrat(fd, xattr),
        || by_proc(fd, c"", |path| rustix::fs::removexattr(path, xattr)),
    );
    match removed {
        Err(Errno::NODATA) => Ok(()),
        result => result,
    }
}
