#!/usr/bin/env python3
"""A small volume is filled with many times what it holds, under a free-space policy: never full because of Polder, never a lost byte.

    bench/fill.py [--minutes 60] [--rate MIB] [--mib 3072] [--free-space 20%] [--kind ext4|xfs] [--binary target/release/polder] [--keep]

Row 14 of the third issue. A writer makes file after file, each of which can be told from its name, as fast as the disk takes them, or paced to `--rate` MiB a second. Beside it somebody
reads older files, whole and in part, and `statfs` is looked at all the time. In the end every file is read through the gate and compared, and a second endpoint, which is only names, shows the same names
and sizes and the same bytes of a share of them.

A writer that is faster than the way to the share fills any volume, and then gets ENOSPC as from every full disk; nobody can help. It is *because of Polder* when what could have left stood there: a file that
`polder tier --list` says may leave at two looks, `PATIENCE_S` apart, while somebody waited for room all the time. With `--rate` any ENOSPC fails. Contents compress well (16 : 1), so that the store of an hour
fits here; no byte of them is zero, so a hole is seen. Exit 0 only if all is as it should be; 3 if the machine cannot run it.
"""

import errno
import os
import random
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import cases
from cases import check
from cluster import count_entries, wait_for
from perils import Volume

KIB, MIB = 1 << 10, 1 << 20
# What contents are made of. A stamp in each run of bytes that is no longer than the smallest chunk makes each chunk one of its own.
BLOCK, UNIQUE, POOL, STAMPED, STAMP = 4 * KIB, 256, 64 * MIB, 16 * KIB, b"file %08d at %010d|"
# Of all that a file server gets: many small ones, most bytes in large ones.
SIZES = [12 * KIB, 100 * KIB, 100 * KIB, 700 * KIB, 3 * MIB, 3 * MIB, 12 * MIB, 40 * MIB]
FOLDER_FILES = 200
LOOK_S, TOLD_S, PATIENCE_S, LONG = 0.05, 30, 20, 1800
# What may leave and stands there is nothing to complain of below this share of the volume: rounds are a second apart.
STANDS_SHARE = 0.02
# Who waits for room asks again so often.
AGAIN_S = 0.2
SAMPLE, HUNGRY_S, ROOM_S = 200, 240, 240
# Numbers of files at the brim, and how many of them find no room.
BRIM, BRIM_TRIES = 900_000, 12
MAY_LEAVE = {"free_space", "not_needed", "failed", "rule", "date", "quota"}
NO_ZERO = bytes([255, *range(1, 256)])


def size_of(number):
    return random.Random(f"size {number}").choice(SIZES) + number % 1000


def pool():
    """Bytes that every content takes a part of: each piece of `UNIQUE` bytes again and again through a block."""
    unique = random.Random("pool").randbytes(POOL // BLOCK * UNIQUE).translate(NO_ZERO)
    return b"".join(unique[at : at + UNIQUE] * (BLOCK // UNIQUE) for at in range(0, len(unique), UNIQUE))


LAID = pool()


def content(number):
    """The bytes of a file: all from its number, none of them zero. No chunk of it is one of another file, nor of another place."""
    size = size_of(number)
    begin = random.Random(f"content {number}").randrange(POOL - size)
    data = bytearray(LAID[begin : begin + size])
    for at in range(0, size - len(STAMP % (0, 0)), STAMPED):
        stamp = STAMP % (number, at)
        data[at : at + len(stamp)] = stamp
    return bytes(data)


def path_of(root, number):
    return root / f"{number // FOLDER_FILES:04}" / f"{number:06}.bin"


def append(path, data, at):
    """Adds to a file what is missing, as much as there is room for; how much that was."""
    path.parent.mkdir(exist_ok=True)
    with open(path, "ab", buffering=0) as file:
        return file.write(memoryview(data)[at:])


class World(cases.Tiered):
    soon = 120

    def __init__(self, cluster, options):
        self.options = options
        self.volume = Volume(cluster.folder, "volume", kind=options.kind, mib=options.mib)
        super().__init__(cluster, self.volume.path / "b", with_a=False)
        cluster.run("endpoint", "set", "b", "--free-space", options.free_space)
        self.wanted, self.written = int(options.free_space.rstrip("%")) / 100, 0

    def free(self):
        space = os.statvfs(self.volume.path)
        return space.f_bavail / space.f_blocks

    def tiering(self):
        groups = self.cluster.json("status")["groups"]
        return next(one for one in groups[0]["endpoints"] if one["server"] == "b").get("tiering") or {}

    def may_leave(self):
        """Files with bytes on the disk that `tier --list` would let go, with these bytes."""
        rows = self.cluster.json("tier", "--list", "--state", self.state)
        return {row["path"]: row["on_disk_bytes"] for row in rows if row["verdict"] in MAY_LEAVE}

    def end(self):
        self.volume.remove()


class Watch:
    """Looks at the volume all the time: the least that was free, and for how long it was below some marks."""

    def __init__(self, world):
        self.free, self.over = world.free, threading.Event()
        self.least, self.least_lately, self.below = 1.0, 1.0, {0.2: 0.0, 0.1: 0.0, 0.01: 0.0}
        self.thread = threading.Thread(target=self.look, daemon=True)
        self.thread.start()

    def look(self):
        last = time.monotonic()
        while not self.over.wait(LOOK_S):
            free, now = self.free(), time.monotonic()
            self.least, self.least_lately = min(self.least, free), min(self.least_lately, free)
            for mark in self.below:
                self.below[mark] += now - last if free < mark else 0
            last = now

    def lately(self):
        least, self.least_lately = self.least_lately, 1.0
        return least


class Writer:
    """Makes files, one after the other, and waits where there is no room."""

    def __init__(self, world, until):
        self.world, self.until, self.rate = world, until, world.options.rate
        self.count, self.bytes, self.full, self.waited_s, self.failed = 0, 0, 0, 0.0, []
        self.stood_bytes = 0
        self.thread = threading.Thread(target=self.work, daemon=True)
        self.thread.start()

    def work(self):
        began = time.monotonic()
        try:
            while time.monotonic() < self.until and not self.failed:
                data = content(self.count)
                self.write(path_of(self.world.b, self.count), data)
                self.count, self.bytes = self.count + 1, self.bytes + len(data)
                if self.rate:
                    time.sleep(max(0, began + self.bytes / (self.rate * MIB) - time.monotonic()))
        except Exception as error:
            self.failed.append(f"the writer: {type(error).__name__}: {error}")

    def write(self, path, data):
        """Writes a file, and goes on where there was no room for more; what is written stays there meanwhile, as what `cp` leaves does."""
        waits_since, at = None, 0
        while at < len(data):
            try:
                at += append(path, data, at)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                if waits_since is None:
                    self.full, waits_since = self.full + 1, time.monotonic()
                    judge = Judge(self.world)
                judge.look(self)
                time.sleep(AGAIN_S)
        if waits_since is not None:
            self.waited_s += time.monotonic() - waits_since


class Judge:
    """Whose fault it is that somebody waits for room."""

    def __init__(self, world):
        self.world, self.stood, self.at = world, None, time.monotonic()

    def look(self, writer):
        if writer.rate:
            writer.failed.append(f"no room for file {writer.count}; {self.world.tiering()}")
        if time.monotonic() < self.at:
            return
        now = self.world.may_leave()
        stood = sum(size for path, size in now.items() if path in (self.stood or {}))
        writer.stood_bytes = max(writer.stood_bytes, stood)
        if stood > STANDS_SHARE * self.world.options.mib * MIB:
            writer.failed.append(f"{stood} bytes that may leave stood for {PATIENCE_S} s while file {writer.count} had no room; {self.world.tiering()}")
        self.stood, self.at = now, time.monotonic() + PATIENCE_S


class Reader:
    """Reads older files: whole, from the middle, or a little of them."""

    def __init__(self, world, writer):
        self.world, self.writer = world, writer
        self.count, self.worst_s, self.failed, self.over = 0, 0.0, [], threading.Event()
        self.generator = random.Random("reader")
        self.thread = threading.Thread(target=self.work, daemon=True)
        self.thread.start()

    def work(self):
        while not self.over.wait(0.3) and not self.failed:
            if not self.writer.count:
                continue
            number = self.generator.randrange(self.writer.count)
            try:
                self.read(number)
            except Exception as error:
                self.failed.append(f"file {number}: {type(error).__name__}: {error}")

    def read(self, number):
        wanted = content(number)
        begin = self.generator.choice([0, 0, len(wanted) // 2, self.generator.randrange(len(wanted))])
        size = self.generator.choice([1, BLOCK, 100 * KIB, len(wanted)])
        began = time.monotonic()
        with open(path_of(self.world.b, number), "rb", buffering=0) as file:
            got = b""
            while len(got) < min(size, len(wanted) - begin):
                more = os.pread(file.fileno(), size - len(got), begin + len(got))
                check(more, f"it ends at {begin + len(got)}")
                got += more
        self.worst_s = max(self.worst_s, time.monotonic() - began)
        check(got == wanted[begin : begin + size], f"other bytes from {begin}")
        self.count += 1


def say(world, began, writer, reader, watch):
    took = time.monotonic() - began
    print(
        f"fill     {took:5.0f} s: {writer.count} files, {writer.bytes / MIB / 1024:.1f} GiB, {writer.bytes / MIB / took:.1f} MiB/s; "
        f"free {100 * world.free():.1f} %, lately at least {100 * watch.lately():.1f}; no room {writer.full} times, for {writer.waited_s:.0f} s; "
        f"{reader.count} reads, the longest {reader.worst_s:.1f} s",
        flush=True,
    )


def fill(world):
    """The writing, with all that goes on beside it."""
    options, began = world.options, time.monotonic()
    watch = Watch(world)
    writer = Writer(world, began + options.minutes * 60)
    reader = Reader(world, writer)
    while writer.thread.is_alive():
        writer.thread.join(TOLD_S)
        say(world, began, writer, reader, watch)
        check(not reader.failed and not writer.failed, reader.failed + writer.failed)
    reader.over.set()
    reader.thread.join()
    check(not reader.failed and not writer.failed, reader.failed + writer.failed)
    ended = time.monotonic()
    world.settled(LONG)
    wait_for("free space as the policy wants it", lambda: world.free() >= world.wanted, ROOM_S)
    print(f"fill     in sync and {100 * world.free():.1f} % free {time.monotonic() - ended:.0f} s after the last byte", flush=True)
    watch.over.set()
    for mark, seconds in watch.below.items():
        print(f"fill     below {100 * mark:.0f} % free: {seconds:.0f} s of {ended - began:.0f}; the least {100 * watch.least:.2f} %", flush=True)
    print(f"fill     what may leave stood at two looks while there was no room: {writer.stood_bytes / MIB:.1f} MiB at most", flush=True)
    check(writer.bytes > 2 * options.mib * MIB, f"only {writer.bytes} bytes were written: the volume was never short")
    world.written = writer.count


def compared(world):
    """Every file, through the gate; what is not here comes from the share."""
    began, size = time.monotonic(), 0
    for number in range(world.written):
        wanted = content(number)
        check(path_of(world.b, number).read_bytes() == wanted, f"file {number} has other bytes")
        size += len(wanted)
    took = time.monotonic() - began
    print(f"fill     {world.written} files, {size / MIB / 1024:.1f} GiB are right; {size / MIB / took:.0f} MiB/s", flush=True)


def elsewhere(world):
    """A second endpoint, of names alone, has the same files, and the same bytes of some."""
    cluster, c = world.cluster, world.cluster.folder / "c"
    cluster.register("c")
    cluster.start_agent("c")
    try:
        cluster.endpoint("c", c, "data", "--tiering", "--free-space", "1%", "--initial-download", "namespace-only")
        wait_for("the mount", lambda: os.path.ismount(c), LONG)
        entries = world.written + (world.written - 1) // FOLDER_FILES + 1
        wait_for("all names", lambda: count_entries(c) == entries and cluster.in_sync(), LONG)
        for number in range(world.written):
            check(path_of(c, number).stat().st_size == size_of(number), f"file {number} has another size")
        for number in random.Random("sample").sample(range(world.written), min(SAMPLE, world.written)):
            check(path_of(c, number).read_bytes() == content(number), f"file {number} has other bytes")
    finally:
        cluster.stop("c")
        cases.unmount(c)


def brim(world):
    """The service is away while a volume is filled to its last byte; when it is back, nobody has to help."""
    cluster, folder = world.cluster, world.b / "brim"
    cluster.kill("service")
    folder.mkdir()
    number, full = BRIM, 0
    # Until not even an empty file has room: the share's files, the marks of placeholders and the agent's own books are left nothing.
    while full < BRIM_TRIES:
        data, at = content(number), 0
        try:
            while at < len(data):
                at += append(path_of(folder, number), data, at)
        except OSError as error:
            check(error.errno == errno.ENOSPC, error)
            full += 1
            time.sleep(AGAIN_S)
        number += 1
    print(f"fill     {number - BRIM} files at the brim, {100 * world.free():.2f} % free", flush=True)
    written = {path: path.read_bytes() for path in folder.rglob("*.bin")}
    began = time.monotonic()
    cluster.start_service()
    world.settled(LONG)
    wait_for("free space as the policy wants it", lambda: world.free() >= world.wanted, ROOM_S)
    print(f"fill     in sync and {100 * world.free():.1f} % free {time.monotonic() - began:.0f} s after the service came back", flush=True)
    for path, data in written.items():
        check(path.read_bytes() == data, f"{path.name} has other bytes")


def hungry(world):
    """Somebody beside the endpoint takes each byte that is freed: all that may leave does, and is whole when there is room again."""
    ballast, over = world.volume.path / "ballast", threading.Event()
    before = world.may_leave()

    def eat():
        with open(ballast, "ab", buffering=0) as file:
            while not over.is_set():
                try:
                    file.write(bytes(MIB))
                except OSError:
                    time.sleep(0.001)

    eater = threading.Thread(target=eat, daemon=True)
    eater.start()
    began = time.monotonic()
    try:
        left = lambda: sum(world.may_leave().values()) < STANDS_SHARE * world.options.mib * MIB
        wait_for("that all leaves that may", left, HUNGRY_S)
    finally:
        over.set()
        eater.join()
        now = world.may_leave()
        print(
            f"fill     beside a hungry program {(sum(before.values()) - sum(now.values())) / MIB:.0f} of {sum(before.values()) / MIB:.0f} MiB "
            f"left in {time.monotonic() - began:.0f} s; {100 * world.free():.2f} % free",
            flush=True,
        )
        ballast.unlink()
    world.settled(LONG)
    for path in before:
        number = int(Path(path).name.partition(".")[0])
        check(Path(path).read_bytes() == content(number), f"{path} has other bytes")


CASES = [fill, hungry, brim, compared, elsewhere]


def main():
    parser = cases.arguments(__doc__)
    parser.set_defaults(binary="target/release/polder")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--rate", type=float, help="MiB a second; without it as fast as the disk takes them")
    parser.add_argument("--mib", type=int, default=3072, help="of the volume")
    parser.add_argument("--free-space", default="20%")
    parser.add_argument("--kind", default="ext4", choices=["ext4", "xfs"])
    options = parser.parse_args()
    lacking = cases.lacks_of_a_gate("losetup", f"mkfs.{options.kind}")
    if lacking:
        return cases.skipped("fill", lacking)
    return cases.on_cluster("fill", options, lambda cluster: World(cluster, options), CASES)


if __name__ == "__main__":
    sys.exit(main())
