"""Stands between a process and the kernel: every system call of a process and its children that touches given folders is
counted in one order over all threads, and one of them can be turned into a crash, an error or a half-done write.

`strace --inject … when=N` counts for each thread by itself, so that most calls of a program with many threads cannot be
reached by any N. This uses what strace uses for speed, the kernel's seccomp, without ptrace: calls that are
not asked for run at full speed.
"""

import ctypes
import errno
import fcntl
import os
import platform
import select
import signal
import socket
import struct
import subprocess
import threading

AVAILABLE = platform.machine() == "x86_64" and platform.system() == "Linux"

# Where a call's object is told: ("fd", argument), ("at", directory, path), ("path", argument).
CHANGING = {
    "write": (1, ("fd", 0)), "pwrite64": (18, ("fd", 0)), "writev": (20, ("fd", 0)), "pwritev": (296, ("fd", 0)),
    "pwritev2": (328, ("fd", 0)), "ftruncate": (77, ("fd", 0)), "fallocate": (285, ("fd", 0)), "fsync": (74, ("fd", 0)),
    "fdatasync": (75, ("fd", 0)), "syncfs": (306, ("fd", 0)), "sync_file_range": (277, ("fd", 0)),
    "copy_file_range": (326, ("fd", 2)), "sendfile": (40, ("fd", 0)), "splice": (275, ("fd", 2)), "ioctl": (16, ("fd", 0)),
    "fchmod": (91, ("fd", 0)), "fchown": (93, ("fd", 0)), "fsetxattr": (190, ("fd", 0)), "fremovexattr": (199, ("fd", 0)),
    "rename": (82, ("path", 1)), "renameat": (264, ("at", 2, 3)), "renameat2": (316, ("at", 2, 3)),
    "link": (86, ("path", 1)), "linkat": (265, ("at", 2, 3)), "symlink": (88, ("path", 1)), "symlinkat": (266, ("at", 1, 2)),
    "unlink": (87, ("path", 0)), "unlinkat": (263, ("at", 0, 1)), "rmdir": (84, ("path", 0)), "mkdir": (83, ("path", 0)),
    "mkdirat": (258, ("at", 0, 1)), "creat": (85, ("path", 0)), "truncate": (76, ("path", 0)), "chmod": (90, ("path", 0)),
    "fchmodat": (268, ("at", 0, 1)), "fchmodat2": (452, ("at", 0, 1)), "chown": (92, ("path", 0)), "lchown": (94, ("path", 0)),
    "fchownat": (260, ("at", 0, 1)), "utimensat": (280, ("at", 0, 1)), "setxattr": (188, ("path", 0)),
    "lsetxattr": (189, ("path", 0)), "setxattrat": (463, ("at", 0, 1)), "removexattrat": (466, ("at", 0, 1)),
    "open": (2, ("path", 0)), "openat": (257, ("at", 0, 1)), "openat2": (437, ("at", 0, 1)),
}
# `sendfile` and `splice` are listed for completeness of what may change a file.
READING = {
    "read": (0, ("fd", 0)), "pread64": (17, ("fd", 0)), "preadv": (295, ("fd", 0)), "readv": (19, ("fd", 0)),
    "getdents64": (217, ("fd", 0)), "statx": (332, ("at", 0, 1)), "newfstatat": (262, ("at", 0, 1)), "fstat": (5, ("fd", 0)),
    "readlinkat": (267, ("at", 0, 1)), "getxattrat": (464, ("at", 0, 1)), "listxattrat": (465, ("at", 0, 1)),
    "name_to_handle_at": (303, ("at", 0, 1)), "fstatfs": (138, ("fd", 0)), "flistxattr": (196, ("fd", 0)),
    "fgetxattr": (193, ("fd", 0)),
    "open": (2, ("path", 0)), "openat": (257, ("at", 0, 1)), "openat2": (437, ("at", 0, 1)),
}
OPENS = {"open", "openat", "openat2"}
# Of the ioctls only those that change something: FICLONE, FICLONERANGE, FIDEDUPERANGE, FS_IOC_SETFLAGS, FS_IOC_FSSETXATTR.
CHANGING_IOCTLS = {0x40049409, 0x4020940D, 0xC0189436, 0x40086602, 0x401C5820}
CREATING = os.O_CREAT | os.O_TRUNC | (os.O_TMPFILE & ~os.O_DIRECTORY)
AT_FDCWD = 0xFFFFFF9C

NOTIFY_RECEIVE, NOTIFY_SEND = 0xC0502100, 0xC0182101
CONTINUE = 1
SYS_SECCOMP, SET_MODE_FILTER, NEW_LISTENER = 317, 1, 8
PR_SET_NO_NEW_PRIVS = 38
ALLOW, ASK = 0x7FFF0000, 0x7FC00000

libc = ctypes.CDLL(None, use_errno=True)


class Instruction(ctypes.Structure):
    _fields_ = [("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte), ("k", ctypes.c_uint)]


class Program(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.POINTER(Instruction))]


def program(numbers):
    """Loads the number of the call; asks for those listed, allows the rest."""
    lines = [Instruction(0x20, 0, 0, 0)]
    lines += [Instruction(0x15, len(numbers) - at, 0, number) for at, number in enumerate(numbers)]
    lines += [Instruction(0x06, 0, 0, ALLOW), Instruction(0x06, 0, 0, ASK)]
    array = (Instruction * len(lines))(*lines)
    return Program(len(lines), array), array


class Call:
    """One call as it is about to happen."""

    def __init__(self, pid, name, arguments, path):
        self.pid, self.name, self.arguments, self.path = pid, name, arguments, path

    def __str__(self):
        return f"{self.name} {os.fsdecode(self.path)}"


class Fault:
    """What is to happen at the call number `at`: "kill", "short", or the name of an error."""

    def __init__(self, what, at):
        self.what, self.at = what, at
        self.hit = None


class Intercepted:
    """Where the calls of one process are counted. `spawn` starts it; `arm` begins the count."""

    def __init__(self, folders, reading=False):
        self.folders = [os.path.realpath(os.fsencode(folder)) for folder in folders]
        self.table = READING if reading else CHANGING
        self.reading = reading
        self.by_number = {number: (name, where) for name, (number, where) in self.table.items()}
        self.lock = threading.Lock()
        self.armed, self.fault, self.count, self.seen = False, None, 0, None
        self.process = None
        self.listener = None

    def spawn(self, arguments, **how):
        """Starts the process; its calls are asked for from the first on."""
        ours, theirs = socket.socketpair()
        numbers = sorted(self.by_number)
        prog, keep = program(numbers)
        address = ctypes.byref(prog)

        def install():
            libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
            listener = libc.syscall(SYS_SECCOMP, SET_MODE_FILTER, NEW_LISTENER, address)
            socket.send_fds(theirs, [b"x"], [listener])

        thread = threading.Thread(target=self._serve, args=(ours,), daemon=True)
        thread.start()
        self.process = subprocess.Popen(arguments, preexec_fn=install, **how)
        theirs.close()
        del keep
        return self.process

    def arm(self, fault=None, record=False):
        """Counts from here on, and hits when the number comes."""
        with self.lock:
            self.armed, self.fault, self.count = True, fault, 0
            self.seen = [] if record else None

    def disarm(self):
        """No more faults; returns how many calls were counted."""
        with self.lock:
            self.armed = False
            return self.count

    def _serve(self, ours):
        try:
            _, fds, _, _ = socket.recv_fds(ours, 1, 1)
        finally:
            ours.close()
        listener = fds[0]
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        try:
            while True:
                if poll.poll()[0][1] & select.POLLHUP:
                    return
                room = bytearray(80)
                try:
                    fcntl.ioctl(listener, NOTIFY_RECEIVE, room)
                except OSError as error:
                    # ENOENT: the process was killed while it waited to be asked about.
                    if error.errno in (errno.ENOENT, errno.EINTR):
                        continue
                    raise
                ident, pid, _, number, _, _, *arguments = struct.unpack("QIIiIQ6Q", room)
                value, code, flags = self._decide(pid, number, arguments)
                answer = struct.pack("QqiI", ident, value, code, flags)
                try:
                    fcntl.ioctl(listener, NOTIFY_SEND, bytearray(answer))
                except OSError as error:
                    if error.errno not in (errno.ENOENT, errno.EINTR):
                        raise
        finally:
            os.close(listener)

    def _decide(self, pid, number, arguments):
        """(value, negative error, flags) of the answer."""
        goes_on = (0, 0, CONTINUE)
        name, where = self.by_number[number]
        if not self.armed or not self._counts(pid, name, arguments):
            return goes_on
        path = path_of(pid, where, arguments)
        if path is None or not any(path == folder or path.startswith(folder + b"/") for folder in self.folders):
            return goes_on
        with self.lock:
            if not self.armed:
                return goes_on
            fault, call = self.fault, Call(pid, name, arguments, path)
            if fault and fault.what != "kill" and not applies(fault.what, name):
                return goes_on
            self.count += 1
            if self.seen is not None:
                self.seen.append(call)
            if fault is None or self.count != fault.at:
                return goes_on
            self.armed = False
        # Told only when it is done: whoever waits for it may look at what it left at once.
        answer = self._hit(fault, call)
        fault.hit = call
        return answer

    def _hit(self, fault, call):
        if fault.what == "kill":
            kill_group(call.pid)
            return 0, -errno.EIO, 0
        if fault.what == "short":
            return short_write(call)
        return 0, -getattr(errno, fault.what), 0

    def _counts(self, pid, name, arguments):
        if name == "ioctl":
            return arguments[1] in CHANGING_IOCTLS
        if name in OPENS:
            return self.reading or bool(flags_of(pid, name, arguments) & CREATING)
        return True


WRITES = {"write", "pwrite64", "writev", "pwritev", "pwritev2"}
TAKING_ROOM = WRITES | OPENS | {
    "fallocate", "copy_file_range", "ioctl", "rename", "renameat", "renameat2", "link", "linkat", "symlink", "symlinkat", "mkdir",
    "mkdirat", "setxattr", "lsetxattr", "fsetxattr", "setxattrat", "ftruncate", "fsync", "fdatasync", "syncfs", "creat",
}
INTERRUPTED = OPENS | {"fallocate", "copy_file_range", "ftruncate"}
SHORT = {"write", "pwrite64", "pwritev2", "pwritev", "writev"}


def applies(what, name):
    """Whether the kernel may answer this call so."""
    if what == "ENOSPC":
        return name in TAKING_ROOM
    if what == "EINTR":
        return name in INTERRUPTED
    if what == "EMFILE":
        return name in OPENS
    if what == "short":
        return name in SHORT
    return True


def kill_group(pid):
    """SIGKILL for the whole process that the thread belongs to."""
    for line in open(f"/proc/{pid}/status"):
        if line.startswith("Tgid:"):
            os.kill(int(line.split()[1]), signal.SIGKILL)


def memory(pid, address, length):
    with open(f"/proc/{pid}/mem", "rb", 0) as file:
        return os.pread(file.fileno(), length, address)


def text_at(pid, address):
    data = b""
    while b"\0" not in data and len(data) < 4096:
        # Page by page: the next page may not be there.
        piece = memory(pid, address + len(data), 4096 - (address + len(data)) % 4096)
        if not piece:
            break
        data += piece
    return data.split(b"\0", 1)[0]


def flags_of(pid, name, arguments):
    if name == "openat2":
        try:
            return struct.unpack("Q", memory(pid, arguments[2], 8))[0]
        except OSError:
            return 0
    return arguments[1] if name == "open" else arguments[2]


def path_of(pid, where, arguments):
    try:
        if where[0] == "fd":
            return os.readlink(b"/proc/%d/fd/%d" % (pid, arguments[where[1]] & 0xFFFFFFFF))
        if where[0] == "path":
            directory, text = AT_FDCWD, text_at(pid, arguments[where[1]])
        else:
            directory, address = arguments[where[1]] & 0xFFFFFFFF, arguments[where[2]]
            text = text_at(pid, address) if address else b""
        if text.startswith(b"/"):
            return text
        base = b"/proc/%d/cwd" % pid if directory == AT_FDCWD else b"/proc/%d/fd/%d" % (pid, directory)
        base = os.readlink(base)
        return base + b"/" + text if text else base
    except OSError:
        return None


def short_write(call):
    """Writes the first half of the bytes in place of the process, and tells it so."""
    try:
        file = os.open(f"/proc/{call.pid}/fd/{call.arguments[0]}", os.O_RDWR)
    except OSError:
        return 0, 0, CONTINUE
    try:
        if call.name in ("write", "pwrite64"):
            address, length = call.arguments[1], call.arguments[2]
        else:
            address, length = struct.unpack("QQ", memory(call.pid, call.arguments[1], 16))
        half = length // 2
        if half == 0:
            return 0, 0, CONTINUE
        if call.name in ("write", "writev"):
            # The position belongs to the process's own description of the file; it is not ours to move.
            return 0, 0, CONTINUE
        return os.pwrite(file, memory(call.pid, address, half), call.arguments[3]), 0, 0
    finally:
        os.close(file)
