//! The system calls that `rustix` has no safe form of. The only file of the crate with `unsafe` in it.
//!
//! Each function translates one call: no policy, no loops but for interrupted calls and too small buffers.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int, c_long, c_uint};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Once;

use rustix::io::Errno;

type Result<T> = std::result::Result<T, Errno>;

fn last_errno() -> Errno {
    let error = std::io::Error::last_os_error();
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

fn checked(result: c_int) -> Result<c_int> {
    if result < 0 { Err(last_errno()) } else { Ok(result) }
}

/// Gives freed memory back to the system. glibc keeps what a large piece of work took (a walk of a million entries: some
/// 40 MiB) as long as the threshold of its heaps allows. Other allocators are left alone.
pub fn give_memory_back() {
    // SAFETY: it takes a number and locks each heap while it looks at it; memory in use is not touched.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// A kernel file handle: which inode, independent of names.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Handle {
    len: u32,
    kind: i32,
    bytes: [u8; Handle::LEN_MAX],
}

impl Handle {
    const LEN_MAX: usize = 128;

    /// The handle in an event; `None` when it is longer than the kernel makes them.
    pub(crate) fn new(kind: i32, bytes: &[u8]) -> Option<Self> {
        let mut handle = Self { len: bytes.len() as u32, kind, bytes: [0; Self::LEN_MAX] };
        handle.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(handle)
    }

    pub(crate) fn kind(&self) -> i32 {
        self.kind
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len as usize]
    }
}

// `struct file_handle` with room for the longest handle; the kernel writes `len` back.
const _: () = assert!(std::mem::size_of::<libc::file_handle>() == 8);

#[repr(C)]
struct RawHandle {
    len: c_uint,
    kind: c_int,
    bytes: [u8; Handle::LEN_MAX],
}

/// Handle of `name` in `dir` (not followed), or of `dir` itself when the name is empty.
pub(crate) fn name_to_handle(dir: BorrowedFd<'_>, name: &CStr) -> Result<Handle> {
    let mut raw = RawHandle { len: Handle::LEN_MAX as u32, kind: 0, bytes: [0; Handle::LEN_MAX] };
    let mut mount: c_int = 0;
    let flags = if name.is_empty() { libc::AT_EMPTY_PATH } else { 0 };
    // SAFETY: `raw` has the layout of `struct file_handle` followed by `len` writable bytes, both live for the call.
    checked(unsafe {
        libc::name_to_handle_at(
            dir.as_raw_fd(),
            name.as_ptr(),
            (&raw mut raw).cast::<libc::file_handle>(),
            &raw mut mount,
            flags,
        )
    })?;
    Handle::new(raw.kind, &raw.bytes[..(raw.len as usize).min(Handle::LEN_MAX)]).ok_or(Errno::OVERFLOW)
}

/// Opens what a handle names, on the file system of `mount`. Needs CAP_DAC_READ_SEARCH.
pub(crate) fn open_by_handle(mount: BorrowedFd<'_>, handle: &Handle, flags: c_int) -> Result<OwnedFd> {
    let mut raw = RawHandle { len: handle.len, kind: handle.kind, bytes: handle.bytes };
    // SAFETY: as in `name_to_handle`; the kernel only reads the handle.
    let fd = checked(unsafe {
        libc::open_by_handle_at(
            mount.as_raw_fd(),
            (&raw mut raw).cast::<libc::file_handle>(),
            flags | libc::O_CLOEXEC,
        )
    })?;
    // SAFETY: the kernel has just given us this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Which lease a descriptor holds or asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lease {
    /// Granted only while nobody has the file open or mapped for writing.
    Read,
    /// Granted only while nobody else has the file open at all.
    Write,
    /// No lease; also what is reported once somebody waits for a lease to end.
    None,
}

/// Takes or ends a lease. A conflicting open waits until the lease ends, 45 seconds at most.
pub(crate) fn set_lease(fd: BorrowedFd<'_>, lease: Lease) -> Result<()> {
    ignore_lease_signal();
    let lease = match lease {
        Lease::Read => libc::F_RDLCK,
        Lease::Write => libc::F_WRLCK,
        Lease::None => libc::F_UNLCK,
    };
    // SAFETY: F_SETLEASE takes an integer and touches no memory.
    checked(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETLEASE, c_int::from(lease as i16)) }).map(|_| ())
}

/// Writes all dirty pages of a file back and waits for them, with no care for its metadata or the disk's own cache.
pub(crate) fn write_back(fd: BorrowedFd<'_>) -> Result<()> {
    let flags =
        libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    // SAFETY: takes integers and touches no memory.
    checked(unsafe { libc::sync_file_range(fd.as_raw_fd(), 0, 0, flags) }).map(|_| ())
}

/// Begins to write all dirty pages of a file back, and waits for none of them.
pub(crate) fn start_writing(fd: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: takes integers and touches no memory.
    checked(unsafe { libc::sync_file_range(fd.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) }).map(|_| ())
}

/// The lease that the descriptor will hold: [`Lease::None`] as soon as somebody knocks.
pub(crate) fn lease(fd: BorrowedFd<'_>) -> Result<Lease> {
    // SAFETY: F_GETLEASE takes no argument.
    let lease = checked(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETLEASE) })?;
    Ok(match lease {
        lease if lease == libc::F_RDLCK as c_int => Lease::Read,
        lease if lease == libc::F_WRLCK as c_int => Lease::Write,
        _ => Lease::None,
    })
}

/// The kernel announces a knock on a lease by SIGIO, whose default is to end the process. Leases are polled here,
/// so the signal is ignored, unless the program has a handler of its own.
fn ignore_lease_signal() {
    static ONCE: Once = Once::new();
    // SAFETY: `sigaction` is given valid pointers to zeroed structures, for which zero is a legal value, and
    // installs SIG_IGN, which runs no code in signal context.
    ONCE.call_once(|| unsafe {
        let mut old: libc::sigaction = std::mem::zeroed();
        let known = libc::sigaction(libc::SIGIO, std::ptr::null(), &raw mut old) == 0;
        if known && old.sa_sigaction == libc::SIG_DFL {
            let mut new: libc::sigaction = std::mem::zeroed();
            new.sa_sigaction = libc::SIG_IGN;
            libc::sigaction(libc::SIGIO, &raw const new, std::ptr::null_mut());
        }
    });
}

// Linux 6.13; one number on all architectures that the generic table serves.
const SYS_SETXATTRAT: c_long = 463;
const SYS_GETXATTRAT: c_long = 464;
const SYS_LISTXATTRAT: c_long = 465;
const SYS_REMOVEXATTRAT: c_long = 466;

#[repr(C)]
struct XattrArgs {
    value: u64,
    size: u32,
    flags: u32,
}

fn at_flags(name: &CStr) -> c_uint {
    let flags = if name.is_empty() { libc::AT_EMPTY_PATH } else { libc::AT_SYMLINK_NOFOLLOW };
    flags as c_uint
}

fn checked_long(result: c_long) -> Result<usize> {
    usize::try_from(result).map_err(|_| last_errno())
}

/// Names of the extended attributes of `name` in `dir`, each ended by NUL. The file is not opened.
pub(crate) fn listxattrat(dir: BorrowedFd<'_>, name: &CStr, out: &mut [u8]) -> Result<usize> {
    // SAFETY: the kernel writes at most `out.len()` bytes to `out`; the name is NUL-terminated.
    checked_long(unsafe {
        libc::syscall(
            SYS_LISTXATTRAT,
            dir.as_raw_fd(),
            name.as_ptr(),
            at_flags(name),
            out.as_mut_ptr(),
            out.len(),
        )
    })
}

/// One extended attribute of `name` in `dir`. The file is not opened.
pub(crate) fn getxattrat(dir: BorrowedFd<'_>, name: &CStr, xattr: &CStr, out: &mut [u8]) -> Result<usize> {
    let size = u32::try_from(out.len()).unwrap_or(u32::MAX);
    let mut args = XattrArgs { value: out.as_mut_ptr() as u64, size, flags: 0 };
    // SAFETY: `args` is the structure of this system call, of the size that is told, and names `size` writable bytes.
    checked_long(unsafe {
        libc::syscall(
            SYS_GETXATTRAT,
            dir.as_raw_fd(),
            name.as_ptr(),
            at_flags(name),
            xattr.as_ptr(),
            &raw mut args,
            std::mem::size_of::<XattrArgs>(),
        )
    })
}

/// Sets an extended attribute of the file behind `fd`, which may be an `O_PATH` descriptor.
pub(crate) fn setxattrat(fd: BorrowedFd<'_>, xattr: &CStr, value: &[u8]) -> Result<()> {
    let size = u32::try_from(value.len()).map_err(|_| Errno::TOOBIG)?;
    let mut args = XattrArgs { value: value.as_ptr() as u64, size, flags: 0 };
    // SAFETY: `args` is the structure of this system call and names `size` readable bytes.
    checked_long(unsafe {
        libc::syscall(
            SYS_SETXATTRAT,
            fd.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            xattr.as_ptr(),
            &raw mut args,
            std::mem::size_of::<XattrArgs>(),
        )
    })
    .map(|_| ())
}

/// Removes an extended attribute of the file behind `fd`, which may be an `O_PATH` descriptor.
pub(crate) fn removexattrat(fd: BorrowedFd<'_>, xattr: &CStr) -> Result<()> {
    // SAFETY: only NUL-terminated strings are passed.
    checked_long(unsafe {
        libc::syscall(SYS_REMOVEXATTRAT, fd.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH, xattr.as_ptr())
    })
    .map(|_| ())
}

/// UUID of the file system, where it tells (Linux 6.9: ext4, XFS, btrfs and others).
pub(crate) fn file_system_uuid(fd: BorrowedFd<'_>) -> Option<[u8; 16]> {
    #[repr(C)]
    struct FsUuid {
        len: u8,
        uuid: [u8; 16],
    }
    // _IOR(0x15, 0, struct fsuuid2): read direction 2, size 17.
    const FS_IOC_GETFSUUID: u64 = 2 << 30 | 17 << 16 | 0x15 << 8;
    let mut out = FsUuid { len: 0, uuid: [0; 16] };
    // SAFETY: the ioctl writes one `struct fsuuid2` to `out`, which has its layout.
    let done = unsafe { libc::ioctl(fd.as_raw_fd(), FS_IOC_GETFSUUID as _, &raw mut out) } == 0;
    (done && out.len == 16).then_some(out.uuid)
}

/// Opens a fanotify group.
pub(crate) fn fanotify_init(flags: c_uint) -> Result<OwnedFd> {
    // SAFETY: integers only.
    let fd = checked(unsafe { libc::fanotify_init(flags, (libc::O_RDONLY | libc::O_CLOEXEC) as c_uint) })?;
    // SAFETY: the kernel has just given us this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Adds a mark on what `on` refers to.
pub(crate) fn fanotify_mark(
    group: BorrowedFd<'_>,
    flags: c_uint,
    mask: u64,
    on: BorrowedFd<'_>,
) -> Result<()> {
    // SAFETY: a null path with a descriptor marks the descriptor's object; no memory is touched.
    checked(unsafe { libc::fanotify_mark(group.as_raw_fd(), flags, mask, on.as_raw_fd(), std::ptr::null()) })
        .map(|_| ())
}

/// Longest answer of a user or group lookup: groups of a domain may list thousands of members.
const ACCOUNT_BYTES_MAX: usize = 1 << 20;

/// Runs a `get…_r` call with growing room. `call` returns the error number and whether there was an answer.
fn account<T>(mut call: impl FnMut(&mut [MaybeUninit<u8>]) -> (c_int, Option<T>)) -> Option<T> {
    let mut room = 1024;
    loop {
        let mut buffer = vec![MaybeUninit::<u8>::uninit(); room];
        match call(&mut buffer) {
            (libc::ERANGE, _) if room < ACCOUNT_BYTES_MAX => room *= 4,
            (libc::EINTR, _) => (),
            (_, answer) => return answer,
        }
    }
}

/// Copies a C string that a lookup has written.
///
/// # Safety
/// `text` is null or points to a NUL-terminated string that lives during the call.
unsafe fn text(text: *const c_char) -> Option<String> {
    if text.is_null() {
        return None;
    }
    // SAFETY: promised by the caller.
    unsafe { CStr::from_ptr(text) }.to_str().ok().map(str::to_owned)
}

/// Name of a user.
pub(crate) fn user_name(uid: u32) -> Option<String> {
    account(|buffer| {
        let mut entry = MaybeUninit::<libc::passwd>::zeroed();
        let mut answer = std::ptr::null_mut();
        let (entry, out) = (entry.as_mut_ptr(), buffer.as_mut_ptr().cast());
        // SAFETY: all pointers are valid for the call and `out` has the length that is told.
        let error = unsafe { libc::getpwuid_r(uid, entry, out, buffer.len(), &raw mut answer) };
        // SAFETY: a non-null answer points to `entry`, whose strings lie in `buffer`.
        let found = (!answer.is_null()).then(|| unsafe { text((*entry).pw_name) }).flatten();
        (error, found)
    })
}

/// Name of a group.
pub(crate) fn group_name(gid: u32) -> Option<String> {
    account(|buffer| {
        let mut entry = MaybeUninit::<libc::group>::zeroed();
        let mut answer = std::ptr::null_mut();
        let (entry, out) = (entry.as_mut_ptr(), buffer.as_mut_ptr().cast());
        // SAFETY: all pointers are valid for the call and `out` has the length that is told.
        let error = unsafe { libc::getgrgid_r(gid, entry, out, buffer.len(), &raw mut answer) };
        // SAFETY: a non-null answer points to `entry`, whose strings lie in `buffer`.
        let found = (!answer.is_null()).then(|| unsafe { text((*entry).gr_name) }).flatten();
        (error, found)
    })
}

/// Number of a user.
pub(crate) fn user_id(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    account(|buffer| {
        let mut entry = MaybeUninit::<libc::passwd>::zeroed();
        let mut answer = std::ptr::null_mut();
        let (entry, out) = (entry.as_mut_ptr(), buffer.as_mut_ptr().cast());
        // SAFETY: all pointers are valid for the call and `out` has the length that is told.
        let error = unsafe { libc::getpwnam_r(name.as_ptr(), entry, out, buffer.len(), &raw mut answer) };
        // SAFETY: a non-null answer points to `entry`, which was filled.
        let found = (!answer.is_null()).then(|| unsafe { (*entry).pw_uid });
        (error, found)
    })
}

/// Number of a group.
pub(crate) fn group_id(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    account(|buffer| {
        let mut entry = MaybeUninit::<libc::group>::zeroed();
        let mut answer = std::ptr::null_mut();
        let (entry, out) = (entry.as_mut_ptr(), buffer.as_mut_ptr().cast());
        // SAFETY: all pointers are valid for the call and `out` has the length that is told.
        let error = unsafe { libc::getgrnam_r(name.as_ptr(), entry, out, buffer.len(), &raw mut answer) };
        // SAFETY: a non-null answer points to `entry`, which was filled.
        let found = (!answer.is_null()).then(|| unsafe { (*entry).gr_gid });
        (error, found)
    })
}

/// How a path begins that reaches a file below a descriptor of this process.
pub(crate) const BY_DESCRIPTOR: &str = "/proc/self/fd/";

/// Name of a form of SQLite's way to files that takes paths as they are, and follows no symlinks by itself. `None` when SQLite has no
/// such way at all.
pub(crate) fn sqlite_without_paths() -> Option<&'static CStr> {
    use rusqlite::ffi;
    const NAME: &CStr = c"polder-plain";
    static ONCE: Once = Once::new();
    static DONE: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

    unsafe extern "C" fn as_it_is(
        _: *mut ffi::sqlite3_vfs,
        name: *const c_char,
        room: c_int,
        out: *mut c_char,
    ) -> c_int {
        // SAFETY: SQLite passes a string that ends in NUL, and `room` bytes at `out`.
        unsafe {
            let len = libc::strlen(name) + 1;
            if len > usize::try_from(room).unwrap_or(0) {
                return ffi::SQLITE_CANTOPEN;
            }
            std::ptr::copy_nonoverlapping(name, out, len);
        }
        ffi::SQLITE_OK
    }

    ONCE.call_once(|| {
        // SAFETY: the default way is there for the life of the process, and so is its changed copy, which is leaked; its methods find their
        // own data through it.
        let code = unsafe {
            let default = ffi::sqlite3_vfs_find(std::ptr::null());
            if default.is_null() {
                return;
            }
            let mut copy = Box::new(std::ptr::read(default));
            copy.zName = NAME.as_ptr();
            copy.pNext = std::ptr::null_mut();
            copy.xFullPathname = Some(as_it_is);
            ffi::sqlite3_vfs_register(Box::into_raw(copy), 0)
        };
        DONE.store(code == ffi::SQLITE_OK, std::sync::atomic::Ordering::Release);
    });
    DONE.load(std::sync::atomic::Ordering::Acquire).then_some(NAME)
}
