"""File servers of other projects over a folder, and clients for them: Samba with `smbclient` and `smbcacls`, NFS-Ganesha with libnfs.

Everything a server writes is in a folder of its own, and it listens on an address or port of its own.
"""

import ctypes
import os
import random
import shutil
import signal
import socket
import subprocess
from pathlib import Path

from cluster import descendants, free_port, wait_for

SOON, LONG = 60, 240
PASSWORD = "secret"

DOCS = Path(__file__).parent.parent / "docs"

# What a test has in place of an administrator's: folders and an address of its own, local accounts. The shares are those of docs/samba.md.
SMB_GLOBAL = """
[global]
  server role = standalone server
  netbios name = POLDER
  interfaces = {address}/8
  bind interfaces only = yes
  disable netbios = yes
  smb ports = 445
  map to guest = never
  load printers = no
  printing = bsd
  printcap name = /dev/null
  disable spoolss = yes
  log file = {folder}/smbd.log
  log level = 1
"""
FOLDERS = {"private": "private dir", "lock": "lock directory", "state": "state directory", "cache": "cache directory", "pid": "pid directory", "rpc": "ncalrpc dir"}


def recipe(page, language=""):
    """The configuration that a page recommends: its first block in a language."""
    return (DOCS / page).read_text().partition(f"```{language}\n")[2].partition("```")[0]


class Server:
    """A server that runs in the foreground as a process of a session of its own."""

    def spawn(self, *command):
        log = open(self.folder / "out.log", "ab")
        self.process = subprocess.Popen([str(part) for part in command], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)

    def stop(self):
        if self.process is None:
            return
        ours = descendants(self.process.pid)
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            pass
        for pid in ours:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait(SOON)
        self.process = None

    def listens(self, address, port):
        if self.process.poll() is not None:
            raise AssertionError(f"it ended: exit {self.process.returncode}; {(self.folder / 'out.log').read_text()[-600:]}")
        with socket.socket() as probe:
            return probe.connect_ex((address, port)) == 0


class Samba(Server):
    """`smbd` with shares of folders, for users of this machine."""

    def __init__(self, folder, shares, users):
        self.folder, self.process = Path(folder), None
        # `smbcacls` knows no port, so the address is what is free.
        self.address = f"127.{random.randrange(1, 255)}.{random.randrange(1, 255)}.{random.randrange(2, 255)}"
        for name in FOLDERS:
            (self.folder / name).mkdir(parents=True)
        folders = "\n".join(f"  {setting} = {self.folder / name}" for name, setting in FOLDERS.items())
        self.conf = self.folder / "smb.conf"
        text = SMB_GLOBAL.format(folder=self.folder, address=self.address) + folders
        share = recipe("samba.md", "ini").partition("[projects]")[2]
        for name, path in shares.items():
            text += f"\n[{name}]{share.replace('/srv/projects', str(path))}"
        self.conf.write_text(text)
        for user in users:
            subprocess.run(["smbpasswd", "-c", self.conf, "-s", "-a", user], input=f"{PASSWORD}\n{PASSWORD}\n".encode(), check=True, capture_output=True)

    def start(self):
        self.spawn("smbd", "--foreground", "--no-process-group", "--configfile", self.conf)
        wait_for("smbd", lambda: self.listens(self.address, 445), SOON)

    def command(self, program, share, user):
        return [program, f"//{self.address}/{share}", "--configfile", str(self.conf), "--user", f"{user}%{PASSWORD}"]

    def smbclient(self, share, user):
        # It gives a request up after 20 s otherwise, which is less than a recall may wait.
        return [*self.command("smbclient", share, user), "--timeout", str(LONG)]

    def begin(self, share, user, *commands, **options):
        """A client that goes on by itself."""
        # Lines are told as they come, so that what a client has seen is known when it is stopped.
        wide = ["stdbuf", "--output=L", *self.smbclient(share, user), "--command", "; ".join(commands)]
        return subprocess.Popen(wide, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)

    def said(self, share, user, *commands):
        """What a client says, well or not."""
        return self.begin(share, user, *commands).communicate(timeout=LONG)[0]

    def do(self, share, user, *commands):
        """What a client says that must succeed."""
        client = self.begin(share, user, *commands)
        said = client.communicate(timeout=LONG)[0]
        if client.returncode != 0 or "NT_STATUS_" in said:
            raise AssertionError(f"{commands}: exit {client.returncode}: {said.strip()}")
        return said

    def acl(self, share, user, name, new=None):
        """The ACL of a name in Windows' own words; sets another one."""
        command = [*self.command("smbcacls", share, user)[:2], name, *self.command("smbcacls", share, user)[2:], "--sddl"]
        if new is not None:
            command += ["--set", new]
        done = subprocess.run(command, capture_output=True, text=True, timeout=LONG)
        if done.returncode != 0:
            raise AssertionError(f"smbcacls {name}: exit {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout.strip()


# libnfs 4.0 has no room for more in one request of NFSv4.
NFS_WRITE_BYTES = 2048

class SmbFile:
    """A file that is open over SMB, through libsmbclient: what `smbclient` cannot do. For one user in a process."""

    lib = None

    def __init__(self, samba, share, user, name, flags):
        cls = SmbFile
        if cls.lib is None:
            self.begin(samba, user)
        self.fd = cls.lib.smbc_open(f"smb://{samba.address}/{share}/{name}".encode(), flags, 0o644)
        self.ensure(self.fd)

    def begin(self, samba, user):
        # Its own settings are not those of this machine.
        home = samba.folder / "home"
        (home / ".smb").mkdir(parents=True, exist_ok=True)
        (home / ".smb" / "smb.conf").write_text("[global]\n")
        os.environ["HOME"] = str(home)
        lib = SmbFile.lib = ctypes.CDLL("libsmbclient.so.0", use_errno=True)
        text = ctypes.POINTER(ctypes.c_char)

        def who(_server, _share, _group, _group_len, name, name_len, password, password_len):
            ctypes.memmove(name, user.encode() + b"\0", min(name_len, len(user) + 1))
            ctypes.memmove(password, PASSWORD.encode() + b"\0", min(password_len, len(PASSWORD) + 1))

        kind = ctypes.CFUNCTYPE(None, text, text, text, ctypes.c_int, text, ctypes.c_int, text, ctypes.c_int)
        SmbFile.callback = kind(who)
        lib.smbc_lseek.argtypes, lib.smbc_lseek.restype = [ctypes.c_int, ctypes.c_int64, ctypes.c_int], ctypes.c_int64
        lib.smbc_read.argtypes, lib.smbc_read.restype = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t], ctypes.c_ssize_t
        lib.smbc_write.argtypes, lib.smbc_write.restype = [ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t], ctypes.c_ssize_t
        self.ensure(lib.smbc_init(SmbFile.callback, 0))

    @staticmethod
    def ensure(code):
        if code < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return code

    def pread(self, count, offset):
        self.ensure(self.lib.smbc_lseek(self.fd, offset, os.SEEK_SET))
        room, out = ctypes.create_string_buffer(count), b""
        while len(out) < count and (found := self.ensure(self.lib.smbc_read(self.fd, room, count - len(out)))):
            out += room.raw[:found]
        return out

    def pwrite(self, data, offset):
        self.ensure(self.lib.smbc_lseek(self.fd, offset, os.SEEK_SET))
        done = 0
        while done < len(data):
            done += self.ensure(self.lib.smbc_write(self.fd, data[done:], len(data) - done))

    def close(self):
        self.ensure(self.lib.smbc_close(self.fd))


class Ganesha(Server):
    """`ganesha.nfsd` (NFSv4) with one export, `/projects`."""

    def __init__(self, folder, path):
        self.folder, self.process, self.port = Path(folder), None, free_port()
        (self.folder / "recovery").mkdir(parents=True)
        text = recipe("nfs.md").replace("/srv/projects", str(path)).replace("Root_Squash", "No_Root_Squash")
        text = text.replace("NFS_CORE_PARAM {", f"NFS_CORE_PARAM {{\n  NFS_Port = {self.port};\n  Bind_addr = 127.0.0.1;")
        text = text.replace("NFSv4 {", f"NFSv4 {{\n  RecoveryBackend = fs;\n  RecoveryRoot = {self.folder}/recovery;\n  Graceless = true;")
        (self.folder / "ganesha.conf").write_text(text)

    def start(self):
        self.spawn("ganesha.nfsd", "-F", "-f", self.folder / "ganesha.conf", "-L", self.folder / "ganesha.log", "-p", self.folder / "pid")
        wait_for("ganesha.nfsd", lambda: self.listens("127.0.0.1", self.port), SOON)

    def url(self, path="", uid=0):
        return f"nfs://127.0.0.1/projects{path}?version=4&nfsport={self.port}&uid={uid}&gid={uid}"


class Stat(ctypes.Structure):
    """`struct nfs_stat_64`."""

    _fields_ = [(name, ctypes.c_uint64) for name in (
        "dev", "ino", "mode", "nlink", "uid", "gid", "rdev", "size", "blksize", "blocks", "atime", "mtime", "ctime", "atime_nsec", "mtime_nsec", "ctime_nsec", "used")]


class Entry(ctypes.Structure):
    """The beginning of `struct nfsdirent`."""


Entry._fields_ = [("next", ctypes.POINTER(Entry)), ("name", ctypes.c_char_p)]


class Url(ctypes.Structure):
    """`struct nfs_url`."""

    _fields_ = [("server", ctypes.c_char_p), ("path", ctypes.c_char_p), ("file", ctypes.c_char_p)]


class Nfs:
    """A client of its own, as a user: libnfs, without the kernel. Each call that fails is an `OSError`."""

    count = 0

    def __init__(self, server, uid=0, seconds=LONG):
        lib = self.lib = ctypes.CDLL("libnfs.so.13")
        pointer = ctypes.c_void_p
        lib.nfs_init_context.restype = lib.nfs_readdir.restype = pointer
        lib.nfs_get_error.restype = ctypes.c_char_p
        lib.nfs_get_error.argtypes = [pointer]
        lib.nfs_parse_url_dir.restype = ctypes.POINTER(Url)
        lib.nfs_parse_url_dir.argtypes = [pointer, ctypes.c_char_p]
        lib.nfs_pread.argtypes = lib.nfs_pwrite.argtypes = [pointer, pointer, ctypes.c_uint64, ctypes.c_uint64, pointer]
        lib.nfs_truncate.argtypes = [pointer, ctypes.c_char_p, ctypes.c_uint64]
        lib.nfs_readdir.restype = ctypes.POINTER(Entry)
        self.context = pointer(lib.nfs_init_context())
        lib.nfs4_set_client_name.argtypes = [pointer, ctypes.c_char_p]
        url = lib.nfs_parse_url_dir(self.context, server.url(uid=uid).encode())
        lib.nfs_set_timeout(self.context, seconds * 1000)
        # Its own name is made of the process and the second: two clients within a second would take each other's place.
        Nfs.count += 1
        lib.nfs4_set_client_name(self.context, f"client {os.getpid()} {Nfs.count}".encode())
        self.call("mount", url.contents.server, url.contents.path)

    def call(self, name, *arguments):
        code = getattr(self.lib, f"nfs_{name}")(self.context, *arguments)
        if code < 0:
            raise OSError(-code, f"{name}: {(self.lib.nfs_get_error(self.context) or b'').decode(errors='replace')}")
        return code

    def close(self):
        self.lib.nfs_destroy_context(self.context)

    def names(self, path="/"):
        folder = ctypes.c_void_p()
        self.call("opendir", path.encode(), ctypes.byref(folder))
        found = []
        while entry := self.lib.nfs_readdir(self.context, folder):
            found.append(entry.contents.name.decode())
        self.lib.nfs_closedir(self.context, folder)
        return sorted(set(found) - {".", ".."})

    def stat(self, path):
        told = Stat()
        self.call("lstat64", path.encode(), ctypes.byref(told))
        return told

    def open(self, path, flags=os.O_RDONLY):
        handle = ctypes.c_void_p()
        self.call("open", path.encode(), flags, ctypes.byref(handle))
        return handle

    def shut(self, handle):
        self.call("close", handle)

    def pread(self, handle, count, offset):
        room = ctypes.create_string_buffer(count)
        found = self.call("pread", handle, offset, count, room)
        return room.raw[:found]

    def pwrite(self, handle, data, offset):
        done = 0
        while done < len(data):
            piece = data[done : done + NFS_WRITE_BYTES]
            done += self.call("pwrite", handle, offset + done, len(piece), piece)

    def read(self, path, piece=64 << 10, between=lambda: None):
        handle, out = self.open(path), bytearray()
        while found := self.pread(handle, piece, len(out)):
            out += found
            between()
        self.shut(handle)
        return bytes(out)

    def create(self, path, data, mode=0o644):
        handle = ctypes.c_void_p()
        self.call("open2", path.encode(), os.O_RDWR | os.O_CREAT, mode, ctypes.byref(handle))
        self.pwrite(handle, data, 0)
        self.shut(handle)
        self.call("chmod", path.encode(), mode)

    def paths(self, name, *paths):
        """A call that takes paths and nothing else: `rename`, `unlink`, `mkdir`, `rmdir`, `link`, `symlink`."""
        self.call(name, *(path.encode() for path in paths))


def has_smb_port():
    """Whether an address of this machine's own network can be had at the port of SMB."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.1.2.3", 445))
        except OSError:
            return False
    return True


def missing():
    """Programs and libraries that are not here."""
    programs = [name for name in ("smbd", "smbclient", "smbcacls", "smbpasswd", "ganesha.nfsd") if shutil.which(name) is None]
    for library in ("libnfs.so.13", "libsmbclient.so.0"):
        try:
            ctypes.CDLL(library)
        except OSError:
            programs.append(library)
    return programs
