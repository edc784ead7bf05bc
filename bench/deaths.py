#!/usr/bin/env python3
"""The worker is killed every 50 ms, and reloaded every second, under programs that must not notice.

    bench/deaths.py [--binary target/debug/polder] [--seconds 30] [--only kills kills_and_recalls reloads] [--keep]

Row 15 of the third issue. Readers, writers, appenders, makers and removers of names, and setters of attributes each are a process of its own on a tiered
endpoint. Each knows what it has done, writes it into a log, takes any error and any wrong byte for a failure, and looks at the end whether everything
was carried out once. After that both sides of the sync group must be equal. Prints for each kind of program what it did and its longest
operation. Exit 0 only if nothing failed; 3 if the machine cannot run it.
"""

import ctypes
import mmap
import os
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import cases
from cases import check
from cluster import wait_for
from tiered import content, residency

KIB, MIB = 1 << 10, 1 << 20
SOON, LONG = 120, 300
EVERY = 0.05
HELD_BACK = 5
CANARY = 0.01
FILES, SIZE = 8, 700_001
# A program of this name is given bytes that are not kept, so that what it reads stays tiered.
PASSING = "passing-reader"


class Log:
    """What a program did, line by line, and how long each took. Every operation must come to a good end."""

    def __init__(self, path):
        self.file, self.count, self.longest = open(path, "w", buffering=1), 0, (0.0, "")

    def do(self, what, call):
        begin = time.monotonic()
        try:
            result = call()
        except OSError as error:
            self.file.write(f"FAILED {what}: {error}\n")
            raise
        took = time.monotonic() - begin
        self.count += 1
        self.longest = max(self.longest, (took, what))
        self.file.write(f"{begin:.6f} {took:.6f} {what}\n")
        return result

    def end(self):
        self.file.write(f"END {self.count} {self.longest[0]:.6f} {self.longest[1]}\n")


def goes_on():
    return not over.is_set()


over = threading.Event()


def read_at(log, path, offset, count):
    def call():
        fd = os.open(path, os.O_RDONLY)
        try:
            return os.pread(fd, count, offset)
        finally:
            os.close(fd)

    return log.do(f"read {path.name} {offset} {count}", call)


def reads(log, place, seed):
    """Pieces and whole files, through reads and mappings, each compared."""
    rng = random.Random(seed)
    files = [(path, content(path.name, SIZE)) for path in sorted(place.glob("file-*"))]
    while goes_on():
        path, data = rng.choice(files)
        offset = rng.randrange(SIZE)
        count = rng.choice([1, 4 * KIB, 100 * KIB, SIZE])
        found = read_at(log, path, offset, count)
        check(found == data[offset : offset + count], f"wrong bytes of {path.name} at {offset}: {len(found)}")
        if rng.random() < 0.2:
            def mapped():
                with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as room:
                    return room[offset : offset + 5000]

            check(log.do(f"map {path.name}", mapped) == data[offset : offset + 5000], f"wrong mapping of {path.name} at {offset}")


def passing_reads(log, place, seed):
    ctypes.CDLL(None).prctl(15, PASSING.encode(), 0, 0, 0)
    reads(log, place, seed)


def pass_by(path):
    """Reads a little of a file that stays tiered."""
    ctypes.CDLL(None).prctl(15, PASSING.encode(), 0, 0, 0)
    fd, room = os.open(path, os.O_RDONLY | os.O_DIRECT), mmap.mmap(-1, 4 * KIB)
    check(os.preadv(fd, [room], 0) == 4 * KIB, "a short read")


def writes(log, place, seed):
    """Pieces of a file that came tiered, each read back by another open."""
    rng, path = random.Random(seed), place / "written"
    known = bytearray(content(path.name, SIZE))
    kept = log.do("open", lambda: os.open(path, os.O_RDWR))
    while goes_on():
        offset, data = rng.randrange(SIZE), rng.randbytes(rng.choice([1, 100, 5000]))
        fd = kept if rng.random() < 0.7 else log.do("open", lambda: os.open(path, os.O_RDWR))
        check(log.do(f"write {offset} {len(data)}", lambda: os.pwrite(fd, data, offset)) == len(data), "a short write")
        if fd != kept:
            log.do("fsync", lambda: os.fsync(fd))
            os.close(fd)
        known.extend(bytes(max(0, offset + len(data) - len(known))))
        known[offset : offset + len(data)] = data
        check(read_at(log, path, offset, len(data)) == data, f"what was written at {offset} is not there")
    os.close(kept)
    check(path.read_bytes() == known, "the file at the end")


def appends(log, place, seed):
    """Every line once, in order."""
    path, wanted = place / "appended", content("appended", SIZE)
    kept, count = log.do("open", lambda: os.open(path, os.O_WRONLY | os.O_APPEND)), 0
    while goes_on():
        line = b"line %d\n" % count
        fd = kept if count % 3 else log.do("open", lambda: os.open(path, os.O_WRONLY | os.O_APPEND))
        check(log.do(f"append {count}", lambda: os.write(fd, line)) == len(line), "a short write")
        if fd != kept:
            os.close(fd)
        wanted, count = wanted + line, count + 1
    os.close(kept)
    check(path.read_bytes() == wanted, "not every line once and in order")


def names(log, place, seed):
    """Creates, renames, links, removals: one that was carried out twice fails, one that was not is missing."""
    top, count = place / f"names-{seed}", 0
    log.do("mkdir", lambda: os.mkdir(top))
    left = {}
    while goes_on():
        new, named, link, inner = (top / f"{name}-{count}" for name in ("new", "named", "link", "dir"))
        text = b"text %d" % count
        fd = log.do(f"create {count}", lambda: os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o640))
        log.do(f"write {count}", lambda: os.write(fd, text))
        os.close(fd)
        log.do(f"rename {count}", lambda: os.rename(new, named))
        check(not new.exists() and named.exists(), "the rename is not to be seen")
        log.do(f"link {count}", lambda: os.link(named, link))
        log.do(f"unlink {count}", lambda: os.unlink(named))
        check(read_at(log, link, 0, 100) == text, "other bytes under the link")
        log.do(f"symlink {count}", lambda: os.symlink("target", named))
        check(log.do(f"readlink {count}", lambda: os.readlink(named)) == "target", "another target")
        log.do(f"unlink symlink {count}", lambda: os.unlink(named))
        log.do(f"mkdir {count}", lambda: os.mkdir(inner))
        log.do(f"rename into {count}", lambda: os.rename(link, inner / "in"))
        if count % 5:
            log.do(f"unlink in {count}", lambda: os.unlink(inner / "in"))
            log.do(f"rmdir {count}", lambda: os.rmdir(inner))
        else:
            left[inner.name] = text
        count += 1
    check(sorted(os.listdir(top)) == sorted(left), "the names at the end")
    for name, text in left.items():
        check((top / name / "in").read_bytes() == text, f"other bytes in {name}")


def attributes(log, place, seed):
    """Modes, times, sizes, and extended attributes that must be new or be there."""
    path, count = place / f"attributes-{seed}", 0
    path.write_bytes(b"a" * 10_000)
    while goes_on():
        mode, when, size = 0o600 + count % 64, 10**18 + count, 1000 + count % 5000
        log.do(f"truncate {count}", lambda: os.truncate(path, size))
        log.do(f"chmod {count}", lambda: os.chmod(path, mode))
        log.do(f"utime {count}", lambda: os.utime(path, ns=(when, when)))
        seen = log.do(f"stat {count}", lambda: os.stat(path))
        check((seen.st_mode & 0o777, seen.st_mtime_ns, seen.st_size) == (mode, when, size), f"attributes: {seen}")
        log.do(f"setxattr new {count}", lambda: os.setxattr(path, "user.x", b"%d" % count, os.XATTR_CREATE))
        log.do(f"setxattr again {count}", lambda: os.setxattr(path, "user.x", b"r%d" % count, os.XATTR_REPLACE))
        check(log.do(f"getxattr {count}", lambda: os.getxattr(path, "user.x")) == b"r%d" % count, "another value")
        log.do(f"removexattr {count}", lambda: os.removexattr(path, "user.x"))
        count += 1


ROLES = {"reads": reads, "passing_reads": passing_reads, "writes": writes, "appends": appends, "names": names, "attributes": attributes}
# Role and number: two of those whose operations are to be carried out once.
PROGRAMS = [("reads", 1), ("passing_reads", 2), ("writes", 3), ("appends", 4), ("names", 5), ("names", 6), ("attributes", 7)]


def play(role, place, log, seed):
    signal.signal(signal.SIGTERM, lambda *_: over.set())
    log = Log(log)
    ROLES[role](log, Path(place), int(seed))
    log.end()


class Canary:
    """How late somebody wakes who has nothing to do with any of it: what of a stall is the machine's."""

    def __init__(self):
        self.late, self.ended = 0.0, threading.Event()
        self.thread = threading.Thread(target=self.sleep)

    def sleep(self):
        begin = time.monotonic()
        while not self.ended.wait(CANARY):
            self.late = max(self.late, time.monotonic() - begin - CANARY)
            begin = time.monotonic()

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join()


class World(cases.Tiered):
    soon = SOON

    def __init__(self, cluster, seconds):
        super().__init__(cluster, None, "--program-rule", f"serve,name={PASSING}")
        self.seconds, self.round = seconds, 0

    def start_seconds(self, answered):
        """How long it takes from a worker's death until the next one has done what is asked: the median of some."""
        took = []
        for _ in range(7):
            old = wait_for("a worker", self.worker, SOON)
            begin = time.monotonic()
            os.kill(old, signal.SIGKILL)
            answered()
            took.append(time.monotonic() - begin)
            wait_for("the next worker", lambda: self.worker() not in (None, old), SOON)
        return statistics.median(took)

    def recall_seconds(self):
        """The same until bytes have come from the share that are not kept."""
        path = self.place() / "file-0"
        # Direct: what the kernel keeps is not read again.
        passing = [sys.executable, __file__, "--passing", str(path)]
        return self.start_seconds(lambda: subprocess.run(passing, check=True))

    def place(self):
        """A folder with tiered files for one round of all programs."""
        self.round += 1
        new = self.cluster.folder / "new"
        new.mkdir()
        for name in [f"file-{n}" for n in range(FILES)] + ["written", "appended"]:
            (new / name).write_bytes(content(name, SIZE))
        new.rename(self.a / f"round-{self.round}")
        here = self.b / f"round-{self.round}"
        wait_for("the files", lambda: here.exists() and len(os.listdir(here)) == FILES + 2, SOON)
        self.settled()
        check(all(residency(path) == "tiered" for path in here.iterdir()), "arrived with their bytes")
        return here

    def under(self, harm, resident=False):
        """Runs all programs for the time while `harm` is done again and again; `harm` returns how long to wait. With `resident` the files are here at the beginning."""
        place = self.place()
        if resident:
            self.here("recall", place, check=True)
        logs = {}
        programs = {}
        for role, seed in PROGRAMS:
            logs[role, seed] = self.cluster.folder / "logs" / f"{place.name}-{role}-{seed}.log"
            said = open(f"{logs[role, seed]}.said", "w")
            command = [sys.executable, __file__, "--as", role, str(place), str(logs[role, seed]), str(seed)]
            programs[role, seed] = subprocess.Popen(command, stdout=said, stderr=said)
        # Whoever is asked to end before it has begun would say nothing.
        begun = lambda: all(log.exists() or programs[who].poll() is not None for who, log in logs.items())
        wait_for("all programs run", begun, SOON)
        until = time.monotonic() + self.seconds
        with Canary() as canary:
            while time.monotonic() < until and all(one.poll() is None for one in programs.values()):
                time.sleep(harm())
            for one in programs.values():
                one.terminate()
        failed = []
        for who, one in programs.items():
            try:
                code = one.wait(LONG)
            except subprocess.TimeoutExpired:
                one.kill()
                code = "hangs"
            last = (logs[who].read_text() if logs[who].exists() else "").splitlines()[-1:] or [""]
            if code != 0 or not last[0].startswith("END"):
                said = Path(f"{logs[who]}.said").read_text().strip().splitlines()[-1:]
                failed.append(f"{who[0]}: exit {code}, {last[0]} {said}")
                continue
            _, count, longest, *what = last[0].split(maxsplit=3)
            print(f"deaths   {who[0]}: {count} operations, the longest {float(longest) * 1000:.0f} ms ({''.join(what)})", flush=True)
        print(f"deaths   beside them one who sleeps for {CANARY * 1000:.0f} ms was late by at most {canary.late * 1000:.0f} ms", flush=True)
        check(not failed, f"{len(failed)} failed: {failed}")
        self.equal(place.name)

    def equal(self, name):
        """Both sides have the same files in the end."""
        def tree(top):
            return {path.relative_to(top): path.read_bytes() if path.is_file() else None for path in sorted((top / name).rglob("*"))}

        self.settled(LONG)
        here = tree(self.b)
        wait_for("both sides are equal", lambda: tree(self.a) == here, LONG)


def killing(world, every, resident):
    """SIGKILL of the worker again and again, while the programs run."""
    count, held, served = 0, 0, time.monotonic()
    ended = threading.Event()

    def watch():
        nonlocal served
        while not ended.is_set() and world.serves():
            served = time.monotonic()

    def harm():
        nonlocal count, held
        # A mount that nobody comes to serve for half a minute is given up, which is as it should be: a machine that stands still is not to be taken for it.
        if time.monotonic() - served > HELD_BACK:
            held += 1
        elif world.kill_worker():
            count += 1
        return every

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        world.under(harm, resident)
    finally:
        ended.set()
        watcher.join()
    print(f"deaths   {count} workers were killed; {held} times none was, because none had served for {HELD_BACK} s", flush=True)
    check(count >= min(world.seconds, world.seconds / every) / 4, "hardly anybody was killed")


def kills(world):
    """Every 50 ms, or as soon as most workers serve; the files are here. Scenario 39."""
    start = world.start_seconds(world.serves)
    every = max(EVERY, 2.5 * start)
    print(f"deaths   a worker takes {start * 1000:.0f} ms to serve; one is killed every {every * 1000:.0f} ms", flush=True)
    killing(world, every, resident=True)


def kills_and_recalls(world):
    """As soon as most workers have a session with the service; the files are tiered."""
    start = world.recall_seconds()
    every = max(EVERY, 2.5 * start)
    print(f"deaths   a worker takes {start * 1000:.0f} ms until bytes come; one is killed every {every * 1000:.0f} ms", flush=True)
    killing(world, every, resident=False)


def reloads(world):
    """`polder agent reload` every second."""
    count, good = 0, 0

    def harm():
        nonlocal count, good
        done = world.cluster.run("agent", "reload", "--state", world.cluster.folder / "state-b", check=False)
        count, good = count + 1, good + (done.returncode == 0)
        return 1

    world.under(harm)
    print(f"deaths   {good} of {count} reloads", flush=True)
    check(good > world.seconds / 10, "hardly any reload")


CASES = [kills, kills_and_recalls, reloads]


def main():
    if sys.argv[1:2] == ["--as"]:
        return play(*sys.argv[2:])
    if sys.argv[1:2] == ["--passing"]:
        return pass_by(sys.argv[2])
    parser = cases.arguments(__doc__)
    parser.add_argument("--seconds", type=float, default=30)
    options = parser.parse_args()
    lacking = cases.lacks_of_a_gate()
    if lacking:
        return cases.skipped("deaths", lacking)
    return cases.on_cluster("deaths", options, lambda cluster: World(cluster, options.seconds), CASES)


if __name__ == "__main__":
    sys.exit(main())
