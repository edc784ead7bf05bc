//! The system calls that `rustix` has no safe form of. The only file of the crate with `unsafe` in it.
//!
//! Each function translates one call: no policy.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_int, c_long, c_uint};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::Once;
use std::sync::atomic::AtomicU64;

use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};

type Result<T> = std::result::Result<T, Errno>;

fn last_errno() -> Errno {
    let error = std::io::Error::last_os_error();
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

fn checked(result: c_int) -> Result<c_int> {
    if result < 0 { Err(last_errno()) } else { Ok(result) }
}

fn checked_long(result: c_long) -> Result<usize> {
    usize::try_from(result).map_err(|_| last_errno())
}

/// A kernel file handle: which inode, independent of names.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Handle {
    len: u32,
    kind: i32,
    bytes: [u8; Handle::LEN_MAX],
}

impl Handle {
    const LEN_MAX: usize = 128;

    /// A handle of a file system whose form is known; `None` when it is too long.
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

/// Whether a symlink is followed. Of `/proc/self/fd/N` that leads to what the descriptor refers to, and no further: the way to attributes behind an `O_PATH` descriptor,
/// which an empty name is not (EBADF).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Follow {
    No,
    Descriptor,
}

impl Follow {
    fn flags(self) -> c_uint {
        if self == Self::No { libc::AT_SYMLINK_NOFOLLOW as c_uint } else { 0 }
    }
}

/// Names of the extended attributes of `name` in `dir`, each ended by NUL.
pub(crate) fn listxattrat(dir: BorrowedFd<'_>, name: &CStr, follow: Follow, out: &mut [u8]) -> Result<usize> {
    // SAFETY: the kernel writes at most `out.len()` bytes to `out`; the name is NUL-terminated.
    checked_long(unsafe {
        libc::syscall(
            SYS_LISTXATTRAT,
            dir.as_raw_fd(),
            name.as_ptr(),
            follow.flags(),
            out.as_mut_ptr(),
            out.len(),
        )
    })
}

/// One extended attribute of `name` in `dir`; an empty `out` asks for its length.
pub(crate) fn getxattrat(
    dir: BorrowedFd<'_>,
    name: &CStr,
    follow: Follow,
    xattr: &CStr,
    out: &mut [u8],
) -> Result<usize> {
    let size = u32::try_from(out.len()).unwrap_or(u32::MAX);
    let mut args = XattrArgs { value: out.as_mut_ptr() as u64, size, flags: 0 };
    // SAFETY: `args` is the structure of this system call, of the size that is told, and names `size` writable bytes.
    checked_long(unsafe {
        libc::syscall(
            SYS_GETXATTRAT,
            dir.as_raw_fd(),
            name.as_ptr(),
            follow.flags(),
            xattr.as_ptr(),
            &raw mut args,
            std::mem::size_of::<XattrArgs>(),
        )
    })
}

/// Sets an extended attribute of `name` in `dir`; `flags` as of `setxattr`.
pub(crate) fn setxattrat(
    dir: BorrowedFd<'_>,
    name: &CStr,
    follow: Follow,
    xattr: &CStr,
    value: &[u8],
    flags: u32,
) -> Result<()> {
    let size = u32::try_from(value.len()).map_err(|_| Errno::TOOBIG)?;
    let mut args = XattrArgs { value: value.as_ptr() as u64, size, flags };
    // SAFETY: `args` is the structure of this system call and names `size` readable bytes.
    checked_long(unsafe {
        libc::syscall(
            SYS_SETXATTRAT,
            dir.as_raw_fd(),
            name.as_ptr(),
            follow.flags(),
            xattr.as_ptr(),
            &raw mut args,
            std::mem::size_of::<XattrArgs>(),
        )
    })
    .map(|_| ())
}

/// Removes an extended attribute of `name` in `dir`.
pub(crate) fn removexattrat(dir: BorrowedFd<'_>, name: &CStr, follow: Follow, xattr: &CStr) -> Result<()> {
    // SAFETY: only NUL-terminated strings are passed.
    checked_long(unsafe {
        libc::syscall(SYS_REMOVEXATTRAT, dir.as_raw_fd(), name.as_ptr(), follow.flags(), xattr.as_ptr())
    })
    .map(|_| ())
}

/// Changes mode, of an `O_PATH` descriptor too (Linux 6.6).
pub(crate) fn fchmodat2(fd: BorrowedFd<'_>, mode: u32) -> Result<()> {
    const SYS_FCHMODAT2: c_long = 452;
    // SAFETY: only integers and a NUL-terminated string are passed.
    checked_long(unsafe {
        libc::syscall(SYS_FCHMODAT2, fd.as_raw_fd(), c"".as_ptr(), mode, libc::AT_EMPTY_PATH)
    })
    .map(|_| ())
}

/// Entries of a directory from where its descriptor stands, in the form of `getdents64`.
pub(crate) fn getdents(dir: BorrowedFd<'_>, out: &mut [u8]) -> Result<usize> {
    // SAFETY: the kernel writes at most `out.len()` bytes to `out`.
    checked_long(unsafe { libc::syscall(libc::SYS_getdents64, dir.as_raw_fd(), out.as_mut_ptr(), out.len()) })
}

/// Generation of an inode of XFS by its number, however large; `ESTALE` when there is none. `fs` is any open file of the file system.
pub(crate) fn xfs_generation(fs: BorrowedFd<'_>, ino: u64) -> Result<u32> {
    // `struct xfs_bulkstat_req` with room for one `struct xfs_bulkstat`, in words of 64 bits: the request has 8 of them, the answer 24; the
    // generation stands in the ninth of the answer.
    const REQUEST_WORDS: usize = 8;
    const ANSWER_WORDS: usize = 24;
    const GENERATION_WORD: usize = REQUEST_WORDS + 8;
    // _IOR('X', 127, struct xfs_bulkstat_req): read direction 2, size 64.
    const XFS_IOC_BULKSTAT: u64 = 2 << 30 | 64 << 16 | (b'X' as u64) << 8 | 127;
    let mut words = [0u64; REQUEST_WORDS + ANSWER_WORDS];
    words[0] = ino;
    // Flags, then the count that is asked for; then the count that is answered, and an allocation group.
    let flags_and_count = [0u32.to_ne_bytes(), 1u32.to_ne_bytes()].concat();
    words[1] = u64::from_ne_bytes(flags_and_count.try_into().map_err(|_| Errno::IO)?);
    // SAFETY: the ioctl reads and writes one request and as many answers as it tells (one), for which `words` has room.
    checked(unsafe { libc::ioctl(fs.as_raw_fd(), XFS_IOC_BULKSTAT as _, words.as_mut_ptr()) })?;
    let answered = u32::from_ne_bytes(words[2].to_ne_bytes()[..4].try_into().map_err(|_| Errno::IO)?);
    // The first inode at or after the number is answered.
    if answered == 0 || words[REQUEST_WORDS] != ino {
        return Err(Errno::STALE);
    }
    let generation = words[GENERATION_WORD].to_ne_bytes();
    Ok(u32::from_ne_bytes(generation[..4].try_into().map_err(|_| Errno::IO)?))
}

#[repr(C)]
struct BackingMap {
    fd: i32,
    flags: u32,
    padding: u64,
}

// _IOW(229, 1, struct fuse_backing_map) and _IOW(229, 2, uint32_t): write direction 1.
const BACKING_OPEN: u64 = 1 << 30 | 16 << 16 | 229 << 8 | 1;
const BACKING_CLOSE: u64 = 1 << 30 | 4 << 16 | 229 << 8 | 2;

/// Registers a file that opens may pass through to, with the thread's rights as they are now.
pub(crate) fn backing_open(device: BorrowedFd<'_>, file: BorrowedFd<'_>) -> Result<u32> {
    let map = BackingMap { fd: file.as_raw_fd(), flags: 0, padding: 0 };
    // SAFETY: the ioctl reads one `struct fuse_backing_map`, which has this layout.
    checked(unsafe { libc::ioctl(device.as_raw_fd(), BACKING_OPEN as _, &raw const map) }).map(|id| id as u32)
}

/// Ends a registration; opens that pass through already go on.
pub(crate) fn backing_close(device: BorrowedFd<'_>, id: u32) -> Result<()> {
    // SAFETY: the ioctl reads one `uint32_t`.
    checked(unsafe { libc::ioctl(device.as_raw_fd(), BACKING_CLOSE as _, &raw const id) }).map(|_| ())
}

/// A lease on a file: granted only while nobody has it open for writing, or (`sole`) while nobody else has it open at all; mappings count.
pub(crate) fn take_lease(fd: BorrowedFd<'_>, sole: bool) -> Result<()> {
    ignore_lease_signal();
    set_lease(fd, if sole { libc::F_WRLCK } else { libc::F_RDLCK } as c_int)
}

/// Ends a lease: whoever waits to open the file goes on.
pub(crate) fn end_lease(fd: BorrowedFd<'_>) -> Result<()> {
    set_lease(fd, libc::F_UNLCK as c_int)
}

fn set_lease(fd: BorrowedFd<'_>, lease: c_int) -> Result<()> {
    // SAFETY: F_SETLEASE takes an integer and touches no memory.
    checked(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETLEASE, lease) }).map(|_| ())
}

/// The kernel announces whoever waits for a lease to end by SIGIO, whose default is to end the process. Leases here are held for a
/// moment only, so the signal is ignored, unless the program has a handler of its own.
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

/// File-system user and group of this thread alone. These calls cannot tell errors.
pub(crate) fn set_fs_ids(uid: u32, gid: u32) {
    // SAFETY: integers only; the calls touch no memory.
    unsafe {
        libc::setfsgid(gid);
        libc::setfsuid(uid);
    }
}

/// Makes working directory, root and umask those of this thread alone.
pub(crate) fn unshare_umask() -> Result<()> {
    // SAFETY: of the flags, only the one for file-system attributes is passed, which no memory depends on.
    checked(unsafe { libc::unshare(libc::CLONE_FS) }).map(|_| ())
}

/// Shared memory behind a descriptor, in words that are read and written one by one.
pub(crate) struct SharedMemory {
    begin: NonNull<AtomicU64>,
    words: usize,
}

// SAFETY: the memory is only reached as atomic words, and stays mapped until drop.
unsafe impl Send for SharedMemory {}
// SAFETY: as above.
unsafe impl Sync for SharedMemory {}

impl SharedMemory {
    /// Maps that many words; the file must be as long.
    pub(crate) fn map(file: impl AsFd, words: usize) -> Result<Self> {
        // SAFETY: a fresh mapping at an address of the kernel's choice, read and written only through atomics.
        let begin = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                words * 8,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                file,
                0,
            )
        }?;
        let begin = NonNull::new(begin.cast()).ok_or(Errno::NOMEM)?;
        Ok(Self { begin, words })
    }

    /// A word.
    pub(crate) fn word(&self, index: usize) -> &AtomicU64 {
        assert!(index < self.words, "inside the mapping");
        // SAFETY: inside the mapping, which lives as long as `self`; any bits are a valid word, and mappings are aligned.
        unsafe { self.begin.add(index).as_ref() }
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        // SAFETY: the mapping of `map`, which nobody borrows any more.
        let _ = unsafe { rustix::mm::munmap(self.begin.as_ptr().cast(), self.words * 8) };
    }
}

/// Takes over a descriptor that was inherited under a number that the caller was told.
///
/// `None` when nothing is open there. Must be called once for each number: the descriptor is owned from then on.
pub(crate) fn inherited(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: asks for flags only.
    if number < 3 || unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return None;
    }
    // SAFETY: it is open, and by the contract of this function nobody else in this process owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    let _ = rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC);
    Some(fd)
}
