"""A disk that remembers which of its writes were flushed: power cuts without device-mapper and without a power switch.

One file served by FUSE, as the backing of a loop device. Every write is kept apart until the next flush. At a flush
that was asked for, the disk stops answering, and what a cut at this moment leaves is put together: all that was flushed before,
and of the writes since then none, all, or any part, also half of one (a disk may keep them in any order).
"""

import ctypes
import errno
import multiprocessing
import os
import random
import signal
import struct
import subprocess
import threading
from pathlib import Path

BLOCK, SECTOR = 4096, 512
LOOKUP, FORGET, GETATTR, SETATTR, OPEN, READ, WRITE, STATFS, RELEASE = 1, 2, 3, 4, 14, 15, 16, 17, 18
FSYNC, FLUSH, INIT, INTERRUPT, DESTROY, BATCH_FORGET = 20, 25, 26, 36, 38, 42
FILE_NODE = 2
MAX_WRITE = 1 << 20
MS_NOSUID_NODEV = 2 | 4

libc = ctypes.CDLL(None, use_errno=True)


class Image:
    """Blocks that were ever written; the rest is zeros."""

    def __init__(self, size, blocks=None):
        self.size, self.blocks = size, blocks if blocks is not None else {}

    def copy(self):
        return Image(self.size, dict(self.blocks))

    def read(self, offset, length):
        length = max(0, min(length, self.size - offset))
        first, last = offset // BLOCK, (offset + length + BLOCK - 1) // BLOCK
        zeros = bytes(BLOCK)
        whole = b"".join(self.blocks.get(number, zeros) for number in range(first, last))
        return whole[offset - first * BLOCK:][:length]

    def write(self, offset, data):
        at, end = offset, offset + len(data)
        while at < end:
            number, inside = divmod(at, BLOCK)
            part = data[at - offset:][:BLOCK - inside]
            if len(part) < BLOCK:
                old = self.blocks.get(number, bytes(BLOCK))
                part_whole = old[:inside] + part + old[inside + len(part):]
            else:
                part_whole = bytes(part)
            self.blocks[number] = part_whole
            at += len(part)


def load(path):
    """An image from a sparse file."""
    image = Image(os.path.getsize(path))
    with open(path, "rb") as file:
        at = 0
        while True:
            try:
                at = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:
                return image
            hole = os.lseek(file.fileno(), at, os.SEEK_HOLE)
            while at < hole:
                data = os.pread(file.fileno(), min(MAX_WRITE, hole - at), at)
                image.write(at, data)
                at += len(data)


class Disk:
    """The serving side, in a process of its own."""

    def __init__(self, image, fuse, control, sector):
        self.now, self.kept = image, image.copy()
        self.pending = []
        self.fuse, self.control, self.sector = fuse, control, sector
        self.at, self.count = None, 0
        self.lock, self.goes_on = threading.Lock(), threading.Event()
        self.cut = None

    def serve(self):
        threading.Thread(target=self.obey, daemon=True).start()
        while True:
            try:
                request = os.read(self.fuse, MAX_WRITE + 8192)
            except OSError as error:
                if error.errno in (errno.EINTR, errno.ENOENT, errno.EAGAIN):
                    continue
                return  # unmounted
            _, opcode, unique, node, *_ = struct.unpack_from("IIQQIIII", request)
            if opcode in (FORGET, BATCH_FORGET, INTERRUPT):
                continue
            answer = self.answer(opcode, node, request[40:])
            if isinstance(answer, int):
                out = struct.pack("IiQ", 16, -answer, unique)
            else:
                out = struct.pack("IiQ", 16 + len(answer), 0, unique) + answer
            try:
                os.write(self.fuse, out)
            except OSError as error:
                if error.errno != errno.ENOENT:
                    raise

    def attributes(self, node):
        is_file = node == FILE_NODE
        size, mode = (self.now.size, 0o100600) if is_file else (0, 0o040700)
        return struct.pack("QQQQQQIIIIIIIIII", node, size, size // SECTOR, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, BLOCK, 0)

    def answer(self, opcode, node, body):
        if opcode == INIT:
            return struct.pack("IIIIHHIIHHIIHHI", 7, 31, 1 << 17, 0x20, 12, 10, MAX_WRITE, 1, 256, 0, 0, 0, 0, 0, 0)
        if opcode == LOOKUP:
            if body.rstrip(b"\0") != b"image":
                return errno.ENOENT
            return struct.pack("QQQQII", FILE_NODE, 0, 3600, 3600, 0, 0) + self.attributes(FILE_NODE)
        if opcode in (GETATTR, SETATTR):
            return struct.pack("QII", 3600, 0, 0) + self.attributes(node)
        if opcode == OPEN:
            return struct.pack("QII", 1, 0, 0)
        if opcode == READ:
            _, offset, length = struct.unpack_from("QQI", body)
            return self.now.read(offset, length)
        if opcode == WRITE:
            _, offset, length = struct.unpack_from("QQI", body)
            data = body[40:40 + length]
            with self.lock:
                self.now.write(offset, data)
                self.pending.append((offset, data))
            return struct.pack("II", length, 0)
        if opcode == FSYNC:
            self.flush()
            return b""
        if opcode in (FLUSH, RELEASE, DESTROY):
            return b""
        if opcode == STATFS:
            return struct.pack("QQQQQIIII24x", 1 << 20, 1 << 19, 1 << 19, 10, 10, BLOCK, 255, BLOCK, 0)
        return errno.ENOSYS

    def flush(self):
        with self.lock:
            self.count += 1
            struck = self.count == self.at
            if struck:
                self.at = None
                self.cut = (self.kept.copy(), list(self.pending))
                self.goes_on.clear()
                self.control.send(("cut", None))
            else:
                self.settle()
        if struck:
            self.goes_on.wait()

    def settle(self):
        for offset, data in self.pending:
            self.kept.write(offset, data)
        self.pending.clear()

    def obey(self):
        while True:
            try:
                what, *arguments = self.control.recv()
            except EOFError:
                return
            if what == "arm":
                with self.lock:
                    self.at, self.count, self.cut = arguments[0], 0, None
            elif what == "disarm":
                with self.lock:
                    self.at = None
                # A cut that nobody waits for any more.
                self.goes_on.set()
            elif what == "count":
                with self.lock:
                    self.control.send(("count", self.count))
            elif what == "go":
                self.goes_on.set()
            elif what == "restore":
                with self.lock:
                    self.now, told = self.left(*arguments)
                    self.kept, self.pending, self.at = self.now.copy(), [], None
                self.control.send(("left", told))

    def left(self, variant, seed):
        """What the cut leaves, and how many of the unflushed writes are in it."""
        image, pending = self.cut
        draw, taken = random.Random(seed), 0
        for offset, data in pending:
            if variant == "none" or (variant == "some" and draw.random() < 0.5):
                continue
            if variant == "some" and draw.random() < 0.2:
                # Torn between two sectors.
                data = data[:draw.randrange(len(data) // self.sector + 1) * self.sector]
            image.write(offset, data)
            taken += 1
        return image, (taken, len(pending))


def run_disk(image_path, fuse, control, sector):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Disk(load(image_path), fuse, control, sector).serve()


def system(*command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.stderr.strip()}")
    return done.stdout.strip()


MKFS = {
    "ext4": ["mkfs.ext4", "-q", "-F", "-m", "0", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0", "-J", "size=4"],
    "xfs": ["mkfs.xfs", "-q", "-K"], "btrfs": ["mkfs.btrfs", "-q", "-K"],
}
SIZE_MIB = {"ext4": 128, "xfs": 320, "btrfs": 256}
# What a disk writes as a whole. btrfs relies on whole sectors of its own size: a torn superblock cannot be mounted.
SECTORS = {"ext4": SECTOR, "xfs": SECTOR, "btrfs": BLOCK}
# ext4's own care for programs that forget to make a file durable before a rename would hide that we forgot.
OPTIONS = {"ext4": "noauto_da_alloc,nodiscard", "xfs": "nodiscard", "btrfs": "nodiscard"}


class CutVolume:
    """A file system on such a disk, mounted at `folder/vol`."""

    def __init__(self, folder, kind):
        self.folder, self.kind = Path(folder), kind
        self.path, self.door = self.folder / "vol", self.folder / "door"
        for path in (self.path, self.door):
            path.mkdir(parents=True)
        image = self.folder / "first"
        with open(image, "wb") as file:
            file.truncate(SIZE_MIB[kind] << 20)
        system(*MKFS[kind], image)
        fuse = os.open("/dev/fuse", os.O_RDWR)
        self.control, theirs = multiprocessing.Pipe()
        self.server = multiprocessing.get_context("fork").Process(target=run_disk, args=(image, fuse, theirs, SECTORS[kind]), daemon=True)
        options = f"fd={fuse},rootmode=40000,user_id=0,group_id=0".encode()
        if libc.mount(b"polder-cut", os.fsencode(self.door), b"fuse", MS_NOSUID_NODEV, options) != 0:
            raise OSError(ctypes.get_errno(), "mount fuse")
        self.server.start()
        os.close(fuse)
        theirs.close()
        self.device = None
        self.mount()
        image.unlink()

    def mount(self):
        self.device = system("losetup", "--find", "--show", self.door / "image")
        system("mount", "-t", self.kind, "-o", OPTIONS[self.kind], self.device, self.path)

    def unmount(self):
        system("umount", self.path)
        system("losetup", "--detach", self.device)
        self.device = None

    def arm(self, at):
        """Cuts at the flush of this number from here on; `None` only counts."""
        self.control.send(("arm", at))

    def disarm(self):
        """No cut any more; returns the number of flushes since it was armed."""
        self.control.send(("disarm",))
        self.control.send(("count",))
        return self.receive("count")

    def receive(self, wanted):
        """The answer; a cut that came too late is none."""
        while True:
            what, value = self.control.recv()
            if what == wanted:
                return value

    def is_cut(self):
        if not self.control.poll():
            return False
        return self.control.recv()[0] == "cut"

    def go_on(self):
        """Answers again, so that what waits for the disk can end; nothing of it will be left."""
        self.control.send(("go",))

    def restore(self, variant, seed):
        """Puts the disk back to what the cut has left; unmounted before and mounted after. (kept, all) of the writes in question."""
        self.unmount()
        self.control.send(("restore", variant, seed))
        told = self.receive("left")
        self.mount()
        return told

    def remove(self):
        while os.path.ismount(self.path):
            if subprocess.run(["umount", "--lazy", self.path], capture_output=True).returncode != 0:
                break
        if self.device:
            subprocess.run(["losetup", "--detach", self.device], capture_output=True)
        subprocess.run(["umount", "--lazy", self.door], capture_output=True)
        self.control.close()
        self.server.kill()
        self.server.join()
