"""Operations whose results must be the same on the real file system and through the gate. Prints one line for each."""
import ctypes, errno, fcntl, mmap, os, stat, struct, subprocess, time

libc = ctypes.CDLL(None, use_errno=True)
NOBODY = 65534

def show(what, call):
    try:
        result = call()
    except OSError as error:
        result = errno.errorcode.get(error.errno, error.errno)
    except ValueError as error:
        result = str(error)
    print(f"{what}: {result}", flush=True)

def st(path, follow=False):
    s = os.stat(path, follow_symlinks=follow)
    # The size of a directory is the file system's own affair: on XFS it depends on inode numbers.
    size = None if stat.S_ISDIR(s.st_mode) else s.st_size
    return oct(s.st_mode), s.st_nlink, s.st_uid, s.st_gid, size

def write(path, data=b"data", mode=0o644, flags=os.O_CREAT | os.O_WRONLY | os.O_TRUNC):
    fd = os.open(path, flags, mode)
    try:
        return os.write(fd, data)
    finally:
        os.close(fd)

def read(path):
    with open(path, "rb") as f:
        return f.read()

def as_user(call, uid=NOBODY, gid=NOBODY, groups=(), umask=0o022):
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setgroups(list(groups)); os.setgid(gid); os.setuid(uid); os.umask(umask)
        try:
            text = repr(call())
        except OSError as error:
            text = errno.errorcode.get(error.errno, str(error.errno))
        os.write(w, text.encode())
        os._exit(0)
    os.close(w)
    os.waitpid(pid, 0)
    with os.fdopen(r) as f:
        return f.read()

def renameat2(a, b, flags):
    if libc.renameat2(-100, a.encode(), -100, b.encode(), flags) != 0:
        raise OSError(ctypes.get_errno(), "renameat2")
    return "ok"

os.umask(0o022)

# Creating.
show("create", lambda: write("a"))
show("stat", lambda: st("a"))
show("excl", lambda: write("a", flags=os.O_CREAT | os.O_EXCL | os.O_WRONLY))
show("mode", lambda: (os.close(os.open("m", os.O_CREAT | os.O_WRONLY, 0o6755)), st("m")))
show("mkdir", lambda: (os.mkdir("d", 0o1777), st("d")))
show("mkdir again", lambda: os.mkdir("d"))
show("fifo", lambda: (os.mkfifo("fifo"), st("fifo")))
show("device", lambda: (os.mknod("dev", 0o600 | stat.S_IFCHR, os.makedev(1, 3)), st("dev"), os.stat("dev").st_rdev))
show("large device", lambda: (os.mknod("dev2", 0o600 | stat.S_IFBLK, os.makedev(300, 70000)), os.stat("dev2").st_rdev == os.makedev(300, 70000)))
show("mknod file", lambda: (os.mknod("plain", 0o640 | stat.S_IFREG), st("plain")))
show("symlink", lambda: (os.symlink("a", "s"), st("s"), os.readlink("s"), read("s")))
show("dangling", lambda: (os.symlink("nothing", "s2"), read("s2")))
show("long name", lambda: write("x" * 255))
show("too long", lambda: write("x" * 256))
show("bytes", lambda: (write(b"\xff\xfe\n\t"), os.path.exists(b"\xff\xfe\n\t")))

# Names.
show("rename", lambda: (os.rename("a", "b"), os.path.exists("a"), read("b")))
show("noreplace", lambda: renameat2("b", "m", 1))
show("noreplace free", lambda: renameat2("b", "b2", 1))
show("exchange", lambda: (renameat2("b2", "d", 2), st("b2"), st("d")))
show("exchange back", lambda: renameat2("b2", "d", 2))
show("exchange missing", lambda: renameat2("b2", "none", 2))
show("whiteout", lambda: (renameat2("b2", "b3", 4), oct(os.lstat("b2").st_mode), os.lstat("b2").st_rdev))
show("rename over", lambda: (os.rename("b3", "m"), st("m")))
show("rename dir over file", lambda: os.rename("d", "m"))
show("rename file over dir", lambda: os.rename("m", "d"))
show("rename into itself", lambda: os.rename("d", "d/x"))
show("rename same inode", lambda: (os.link("m", "m2"), os.rename("m", "m2"), os.path.exists("m")))
show("link", lambda: (os.link("m", "l"), st("l"), os.stat("l").st_ino == os.stat("m").st_ino))
show("link again", lambda: os.link("m", "l"))
show("link dir", lambda: os.link("d", "dl"))
show("unlink", lambda: (os.unlink("l"), st("m")))
show("unlink missing", lambda: os.unlink("l"))
show("unlink dir", lambda: os.unlink("d"))
show("rmdir full", lambda: (write("d/f"), os.rmdir("d")))
show("rmdir", lambda: (os.unlink("d/f"), os.rmdir("d")))
show("rmdir file", lambda: os.rmdir("m"))
show("not a dir", lambda: os.stat("m/x"))
show("dots", lambda: (os.mkdir("e"), os.mkdir("e/f"), os.stat("e/f/..").st_ino == os.stat("e").st_ino, st("e")))
show("listing", lambda: sorted(os.listdir(b".")))

# Bytes.
show("append", lambda: (write("ap", b"1"), write("ap", b"2", flags=os.O_WRONLY | os.O_APPEND), read("ap")))
show("sparse", lambda: (write("sp"), os.truncate("sp", 1 << 20), st("sp"), read("sp")[:6]))
def holes():
    fd = os.open("sp", os.O_RDWR)
    os.pwrite(fd, b"x" * 4096, 512 << 10); os.fsync(fd)
    return os.lseek(fd, 8192, os.SEEK_DATA), os.lseek(fd, 512 << 10, os.SEEK_HOLE)
show("holes", holes)
show("fallocate", lambda: (os.posix_fallocate(os.open("fa", os.O_CREAT | os.O_RDWR), 0, 100000), st("fa")))
def punch():
    fd = os.open("sp", os.O_RDWR)
    if libc.fallocate(fd, 3, ctypes.c_long(512 << 10), ctypes.c_long(4096)) != 0:
        raise OSError(ctypes.get_errno(), "punch")
    return os.pread(fd, 4, 512 << 10)
show("punch", punch)
def mapped():
    fd = os.open("mm", os.O_CREAT | os.O_RDWR); os.write(fd, b"0" * 8192)
    with mmap.mmap(fd, 8192) as m:
        m[4096:4100] = b"abcd"; m.flush()
    return os.pread(fd, 5, 4096)
show("shared mapping", mapped)
def map_time():
    os.utime("mm", (1, 1)); fd = os.open("mm", os.O_RDWR); os.stat("mm")
    m = mmap.mmap(fd, 8192); os.close(fd); os.stat("mm")
    m[0] = 65; m.flush()
    return os.stat("mm").st_mtime > 1000
show("a mapping moves the time", map_time)
def copy_range():
    i, o = os.open("mm", os.O_RDONLY), os.open("cr", os.O_CREAT | os.O_RDWR)
    return os.copy_file_range(i, o, 8192), st("cr"), os.pread(o, 5, 4096)
show("copy_file_range", copy_range)
def link_fd(fd, name):
    # AT_FDCWD, AT_SYMLINK_FOLLOW.
    if libc.linkat(-100, f"/proc/self/fd/{fd}".encode(), -100, name, 0x400) != 0:
        raise OSError(ctypes.get_errno(), "linkat")
def tmpfile():
    fd = os.open("e", os.O_TMPFILE | os.O_RDWR, 0o600)
    os.write(fd, b"unnamed"); n = os.fstat(fd).st_nlink
    link_fd(fd, b"linked")
    return n, st("linked"), read("linked")
show("tmpfile", tmpfile)
def tmpfile_excl():
    fd = os.open("e", os.O_TMPFILE | os.O_RDWR | os.O_EXCL, 0o600)
    link_fd(fd, b"linked2")
show("tmpfile excl", tmpfile_excl)
def unlinked():
    fd = os.open("gone", os.O_CREAT | os.O_RDWR); os.write(fd, b"still"); os.unlink("gone")
    os.fchmod(fd, 0o600); os.ftruncate(fd, 3)
    s = os.fstat(fd)
    return os.pread(fd, 9, 0), s.st_nlink, oct(s.st_mode)
show("open and unlinked", unlinked)
show("open dir", lambda: os.open("e", os.O_WRONLY))
show("nofollow", lambda: os.open("s", os.O_NOFOLLOW))
show("direct", lambda: (lambda fd: (os.pwritev(fd, [mmap.mmap(-1, 4096)], 0), os.fstat(fd).st_size))(os.open("di", os.O_CREAT | os.O_RDWR | os.O_DIRECT)))
show("truncate long", lambda: (os.truncate("ap", 10), read("ap")))
show("open trunc", lambda: (write("ap", b""), st("ap")))

# Attributes.
show("chmod", lambda: (os.chmod("m", 0o4711), st("m")))
show("chown", lambda: (os.chown("m", 5, 6), st("m")))
show("times", lambda: (os.utime("m", ns=(1_000_000_001, -5_000_000_003)), os.stat("m").st_mtime_ns, os.stat("m").st_atime_ns))
show("time after write", lambda: (write("m", flags=os.O_WRONLY), os.stat("m").st_mtime > 1e9))
show("symlink time", lambda: (os.utime("s", ns=(3, 4), follow_symlinks=False), os.lstat("s").st_mtime_ns))
show("symlink owner", lambda: (os.chown("s", 7, 8, follow_symlinks=False), st("s")))
show("ctime moves", lambda: (lambda c: (time.sleep(0.02), os.chmod("ap", 0o600), os.stat("ap").st_ctime_ns > c)[2])(os.stat("ap").st_ctime_ns))
show("dir time moves", lambda: (lambda c: (time.sleep(0.02), write("e/new"), os.stat("e").st_mtime_ns > c)[2])(os.stat("e").st_mtime_ns))
show("statvfs", lambda: (os.statvfs(".").f_frsize, os.statvfs(".").f_blocks, os.statvfs(".").f_namemax, os.statvfs(".").f_files))

# Extended attributes and ACLs.
show("setxattr", lambda: (os.setxattr("m", "user.a", b"1"), os.getxattr("m", "user.a"), os.listxattr("m")))
show("xattr create", lambda: os.setxattr("m", "user.a", b"2", os.XATTR_CREATE))
show("xattr replace", lambda: os.setxattr("m", "user.b", b"2", os.XATTR_REPLACE))
show("xattr remove", lambda: (os.removexattr("m", "user.a"), os.listxattr("m")))
show("xattr missing", lambda: os.getxattr("m", "user.a"))
show("xattr trusted", lambda: (os.setxattr("m", "trusted.x", b"t"), os.getxattr("m", "trusted.x")))
show("xattr on symlink", lambda: os.setxattr("s", "user.a", b"1", follow_symlinks=False))
show("xattr large", lambda: (os.setxattr("m", "user.l", b"x" * 3000), len(os.getxattr("m", "user.l"))))
show("xattr other user", lambda: as_user(lambda: os.setxattr("m", "user.q", b"1")))
def run(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, done.stdout
write("acl"); os.mkdir("ad")
show("acl", lambda: (run("setfacl", "-m", "u:65534:rw", "acl"), run("getfacl", "-n", "acl"), oct(os.stat("acl").st_mode)))
show("acl lets in", lambda: as_user(lambda: write("acl", b"by acl", flags=os.O_WRONLY)))
show("acl mask", lambda: (os.chmod("acl", 0o604), as_user(lambda: write("acl", b"no", flags=os.O_WRONLY))))
show("default acl", lambda: run("setfacl", "-d", "-m", "u:65534:rwx", "ad"))
show("default acl inherits", lambda: (write("ad/f", mode=0o666), run("getfacl", "-n", "ad/f"), st("ad/f")))
show("default acl dir", lambda: (os.mkdir("ad/s", 0o777), run("getfacl", "-n", "ad/s")))

# Rights.
os.mkdir("u", 0o755); os.chown("u", NOBODY, NOBODY); write("secret", b"s", 0o600); os.mkdir("locked", 0o700); write("locked/f")
show("user creates", lambda: (as_user(lambda: write("u/f", mode=0o666), umask=0o027), st("u/f")))
show("user mkdir", lambda: (as_user(lambda: os.mkdir("u/d", 0o777), umask=0o077), st("u/d")))
show("user symlinks", lambda: (as_user(lambda: os.symlink("x", "u/s")), st("u/s")))
show("user refused", lambda: as_user(lambda: write("nope")))
show("user reads secret", lambda: as_user(lambda: read("secret")))
show("user in locked", lambda: as_user(lambda: read("locked/f")))
show("user chmods", lambda: as_user(lambda: os.chmod("secret", 0o777)))
show("user chowns", lambda: as_user(lambda: os.chown("u/f", 0, 0)))
show("user unlinks", lambda: as_user(lambda: os.unlink("secret")))
show("user utimes", lambda: as_user(lambda: os.utime("acl", (1, 1))))
os.mkdir("sticky", 0o777); os.chmod("sticky", 0o1777); write("sticky/root")
show("sticky", lambda: as_user(lambda: os.unlink("sticky/root")))
os.mkdir("sg", 0o777); os.chown("sg", 0, 77); os.chmod("sg", 0o2777)
show("setgid dir file", lambda: (as_user(lambda: write("sg/f", mode=0o2775)), st("sg/f")))
show("setgid dir member", lambda: (as_user(lambda: write("sg/g", mode=0o2775), groups=[77]), st("sg/g")))
show("setgid dir dir", lambda: (as_user(lambda: os.mkdir("sg/d")), st("sg/d")))
show("chmod setgid", lambda: (as_user(lambda: os.chmod("sg/f", 0o2755)), st("sg/f")))
show("chmod setgid member", lambda: (as_user(lambda: os.chmod("sg/g", 0o2755), groups=[77]), st("sg/g")))
os.mkdir("grp"); os.chown("grp", 0, 88); os.chmod("grp", 0o770)
show("by other group", lambda: (as_user(lambda: write("grp/f"), groups=[88]), st("grp/f")))
show("by no group", lambda: as_user(lambda: write("grp/g")))
write("suid", mode=0o755); os.chown("suid", NOBODY, NOBODY); os.chmod("suid", 0o6755)
show("write clears setuid", lambda: (as_user(lambda: write("suid", b"x", flags=os.O_WRONLY)), st("suid")))
os.chmod("suid", 0o6755)
show("truncate clears setuid", lambda: (as_user(lambda: os.truncate("suid", 1)), st("suid")))
os.chmod("suid", 0o6755)
show("O_TRUNC clears setuid", lambda: (as_user(lambda: write("suid", b"", flags=os.O_WRONLY | os.O_TRUNC)), st("suid")))
os.chmod("suid", 0o6755)
show("root truncates, keeps", lambda: (os.truncate("suid", 2), st("suid")))
show("chown clears setuid", lambda: (os.chown("suid", 1, 1), st("suid")))

# Locks.
def locks():
    fd = os.open("m", os.O_RDWR)
    fcntl.lockf(fd, fcntl.LOCK_EX)
    def other():
        fcntl.lockf(os.open("m", os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.chmod("m", 0o666)
    return as_user(other)
show("posix lock", locks)
def flocks():
    a, b = os.open("m", os.O_RDWR), os.open("m", os.O_RDWR)
    fcntl.flock(a, fcntl.LOCK_EX)
    fcntl.flock(b, fcntl.LOCK_EX | fcntl.LOCK_NB)
show("flock", flocks)

# Files by handle, as an NFS server has them.
def by_handle():
    class Handle(ctypes.Structure):
        _fields_ = [("len", ctypes.c_uint), ("kind", ctypes.c_int), ("bytes", ctypes.c_ubyte * 128)]
    mount = os.open(".", os.O_RDONLY)
    texts = []
    write("e/f/deep", b"found by handle")
    for path in (b"e/f/deep", b"linked"):
        handle, mount_id = Handle(128), ctypes.c_int()
        if libc.name_to_handle_at(-100, path, ctypes.byref(handle), ctypes.byref(mount_id), 0) != 0:
            raise OSError(ctypes.get_errno(), "name_to_handle_at")
        fd = libc.open_by_handle_at(mount, ctypes.byref(handle), os.O_RDONLY)
        if fd < 0:
            raise OSError(ctypes.get_errno(), "open_by_handle_at")
        texts.append(os.read(fd, 100))
    return texts
show("by handle", by_handle)

# inotify on this mount.
def watch():
    fd = libc.inotify_init()
    libc.inotify_add_watch(fd, b"e", 0x100 | 0x200 | 0x8 | 0x2)
    write("e/watched"); os.unlink("e/watched")
    events, data = [], os.read(fd, 4096)
    while data:
        wd, mask, cookie, length = struct.unpack_from("iIII", data)
        events.append((hex(mask), data[16:16 + length].rstrip(b"\0")))
        data = data[16 + length:]
    return events
show("inotify", watch)
