#!/usr/bin/env python3
"""Every way to read a tiered file, whatever is alive or dead: right bytes, after a wait, or an error; never a wrong byte.

    bench/readers.py [--binary target/debug/polder] [--only NAME …] [--quick] [--crowd 1000] [--keep]

Rows 1, 2, 11 and 16 of the third issue. Each reader is a process with a tiered file of its own; a case does something to the agent, the service or
the disk, lets all of them read at once, and looks at what they have read. Whoever ends well must have all bytes; whoever fails must have told so, and
whatever it has written is the beginning of the right bytes. Afterwards, with everything alive, all files must be read right.
Exit 0 only if all cases pass; 3 if the machine cannot run them.
"""

import mmap
import os
import random
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import cases
from cases import check
from cluster import SlowLine, peak_memory_bytes, resident_bytes, wait_for
from perils import Volume
from tiered import content, residency

KIB, MIB = 1 << 10, 1 << 20
SOON, LONG = 60, 300
SIZE = 1_500_003
# A file takes so long over a line of that many bytes a second.
SLOW_SECONDS, SLOW_RATE = 45, 256 * KIB
CROWD_SIZE, CROWD_MEMORY_MAX = 16 * KIB, 512 * MIB

URING = r"""
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#define DEPTH 8
#define PIECE 65536
static void fail(const char *what) { perror(what); exit(1); }
/* Reads a file with DEPTH reads on their way, and writes it in order. */
int main(int argc, char **argv) {
    struct io_uring_params p; memset(&p, 0, sizeof p);
    int ring = syscall(SYS_io_uring_setup, DEPTH, &p);
    if (ring < 0) { perror("io_uring_setup"); return 77; }
    size_t sq_len = p.sq_off.array + p.sq_entries * 4, cq_len = p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe);
    char *sq = mmap(0, sq_len, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQ_RING);
    char *cq = mmap(0, cq_len, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_CQ_RING);
    struct io_uring_sqe *sqes = mmap(0, p.sq_entries * sizeof *sqes, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQES);
    if (sq == MAP_FAILED || cq == MAP_FAILED || (void *)sqes == MAP_FAILED) fail("mmap");
    int in = open(argv[1], O_RDONLY); if (in < 0) fail("open");
    long size = lseek(in, 0, SEEK_END); if (size < 0) fail("lseek");
    char *all = malloc(size + PIECE);
    unsigned *tail = (unsigned *)(sq + p.sq_off.tail), *array = (unsigned *)(sq + p.sq_off.array), mask = *(unsigned *)(sq + p.sq_off.ring_mask);
    unsigned *head = (unsigned *)(cq + p.cq_off.head), *ctail = (unsigned *)(cq + p.cq_off.tail), cmask = *(unsigned *)(cq + p.cq_off.ring_mask);
    struct io_uring_cqe *cqes = (struct io_uring_cqe *)(cq + p.cq_off.cqes);
    long next = 0; int running = 0;
    while (next < size || running) {
        int submitted = 0;
        while (next < size && running < DEPTH) {
            unsigned at = *tail & mask; struct io_uring_sqe *e = &sqes[at];
            memset(e, 0, sizeof *e);
            e->opcode = IORING_OP_READ; e->fd = in; e->addr = (unsigned long)(all + next); e->off = next; e->user_data = next;
            e->len = size - next < PIECE ? size - next : PIECE;
            array[at] = at; __atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
            next += e->len; running++; submitted++;
        }
        /* Interrupted (the machine was suspended, say) only before anything was submitted. */
        while (syscall(SYS_io_uring_enter, ring, submitted, 1, IORING_ENTER_GETEVENTS, 0, 0) < 0) if (errno != EINTR) fail("io_uring_enter");
        while (*head != __atomic_load_n(ctail, __ATOMIC_ACQUIRE)) {
            struct io_uring_cqe *c = &cqes[*head & cmask];
            long at = c->user_data, wanted = size - at < PIECE ? size - at : PIECE;
            if (c->res < 0) { fprintf(stderr, "read: %s\n", strerror(-c->res)); return 1; }
            if (c->res != wanted) { fprintf(stderr, "short read: %d of %ld\n", c->res, wanted); return 1; }
            __atomic_store_n(head, *head + 1, __ATOMIC_RELEASE); running--;
        }
    }
    for (long done = 0; done < size;) { long n = write(1, all + done, size - done); if (n <= 0) fail("write"); done += n; }
    return 0;
}
"""

# Readers without number: each a thread with a file of its own, all at once; compared with the same file elsewhere.
CROWD = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#define ROOM 65536
static char **names; static const char *here, *there; static pthread_barrier_t together;
static atomic_long good, failed, wrong, slowest_ms;
static long now_ms(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1000 + t.tv_nsec / 1000000; }
static long whole(const char *folder, const char *name, char *out) {
    char path[4096]; snprintf(path, sizeof path, "%s/%s", folder, name);
    int fd = open(path, O_RDONLY); if (fd < 0) return -errno;
    long done = 0, n;
    while ((n = read(fd, out + done, ROOM - done)) > 0) done += n;
    long result = n < 0 ? -errno : done; close(fd); return result;
}
static void *reader(void *name) {
    static atomic_int said;
    char *mine = malloc(ROOM), *theirs = malloc(ROOM);
    pthread_barrier_wait(&together);
    long begin = now_ms(), n = whole(here, name, mine), took = now_ms() - begin, seen = slowest_ms;
    while (took > seen && !atomic_compare_exchange_weak(&slowest_ms, &seen, took));
    if (n < 0) { failed++; if (said++ < 5) fprintf(stderr, "%s: %s\n", (char *)name, strerror(-n)); }
    else if (n == whole(there, name, theirs) && !memcmp(mine, theirs, n)) good++;
    else { wrong++; fprintf(stderr, "%s: wrong bytes\n", (char *)name); }
    free(mine); free(theirs); return 0;
}
/* HERE THERE COUNT, and names on standard input. */
int main(int argc, char **argv) {
    int count = atoi(argv[3]); here = argv[1]; there = argv[2];
    names = calloc(count, sizeof *names); pthread_t *threads = calloc(count, sizeof *threads);
    pthread_attr_t small; pthread_attr_init(&small); pthread_attr_setstacksize(&small, 65536);
    pthread_barrier_init(&together, 0, count + 1);
    for (int n = 0; n < count; n++) {
        char line[300]; if (!fgets(line, sizeof line, stdin)) return 2;
        line[strcspn(line, "\n")] = 0; names[n] = strdup(line);
        if (pthread_create(&threads[n], &small, reader, names[n])) { perror("pthread_create"); return 2; }
    }
    pthread_barrier_wait(&together);
    for (int n = 0; n < count; n++) pthread_join(threads[n], 0);
    printf("%ld %ld %ld %ld\n", good, failed, wrong, slowest_ms);
    return 0;
}
"""

# A program that is mostly payload, which it writes out: executed from a tiered file.
PROGRAM = r"""
#include <unistd.h>
__asm__(".section .rodata\n.global payload, payload_end\npayload:\n.incbin \"payload\"\npayload_end:\n.previous");
extern const char payload[], payload_end[];
int main(void) { for (const char *p = payload; p < payload_end;) { long n = write(1, p, payload_end - p); if (n <= 0) return 1; p += n; } return 0; }
"""


# What a process of this program does that was told to be a reader: reads the path, writes what it got to standard output.

def as_mmap(path, _):
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        sys.stdout.buffer.write(bytes(mapped))


def as_direct(path, _):
    fd, room = os.open(path, os.O_RDONLY | os.O_DIRECT), mmap.mmap(-1, MIB)
    at = 0
    while (count := os.preadv(fd, [room], at)) > 0:
        sys.stdout.buffer.write(room[:count])
        at += count


def as_splice(path, _):
    left, right = os.pipe()
    with open(path, "rb") as file:
        while (count := os.splice(file.fileno(), right, 64 * KIB)) > 0:
            sys.stdout.buffer.write(os.read(left, count))


def as_sendfile(path, _):
    with open(path, "rb") as file:
        at = 0
        while (count := os.sendfile(1, file.fileno(), at, MIB)) > 0:
            at += count


def as_copy_file_range(path, _):
    # The kernel copies ranges within one file system only.
    copy = path + ".copied"
    with open(path, "rb") as file, open(copy, "w+b") as out:
        while os.copy_file_range(file.fileno(), out.fileno(), MIB) > 0:
            pass
        out.seek(0)
        sys.stdout.buffer.write(out.read())
    os.unlink(copy)


def as_shutil(path, out):
    shutil.copyfile(path, out)


def as_backwards(path, _):
    pieces = []
    with open(path, "rb", buffering=0) as file:
        for at in range((os.fstat(file.fileno()).st_size - 1) // 4096 * 4096, -1, -4096):
            pieces.append(os.pread(file.fileno(), 4096, at))
    sys.stdout.buffer.write(b"".join(reversed(pieces)))


def as_holes(path, _):
    """Copies what is said to be data, as a clever copier does; a hole would be left as zeros."""
    with open(path, "rb", buffering=0) as file:
        size, at, out = os.fstat(file.fileno()).st_size, 0, bytearray()
        while at < size:
            begin = os.lseek(file.fileno(), at, os.SEEK_DATA)
            end = os.lseek(file.fileno(), begin, os.SEEK_HOLE)
            out += bytes(begin - len(out))
            while len(out) < end:
                piece = os.pread(file.fileno(), min(end - len(out), 128 * KIB), len(out))
                check(piece, "end of file within data")
                out += piece
            at = end
    sys.stdout.buffer.write(out)


def as_sqlite(path, _):
    database = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    for (part,) in database.execute("select part from parts order by number"):
        sys.stdout.buffer.write(part)


ROLES = {
    "mmap": as_mmap, "direct": as_direct, "splice": as_splice, "sendfile": as_sendfile, "copy_file_range": as_copy_file_range,
    "shutil": as_shutil, "backwards": as_backwards, "holes": as_holes, "sqlite": as_sqlite,
}


class Kind:
    """Files of a kind: what lies in the share, and the bytes that a reader of it must write."""

    def __init__(self, world):
        self.tools = world.tools

    def plain(self, seed):
        data = content(seed, SIZE)
        return data, data

    def program(self, seed):
        data = content(seed, SIZE)
        (self.tools / "payload").write_bytes(data)
        subprocess.run(["cc", "-xc", "-", "-o", "program"], input=PROGRAM.encode(), cwd=self.tools, check=True)
        return (self.tools / "program").read_bytes(), data

    def database(self, seed):
        data = content(seed, SIZE)
        path = self.tools / "database"
        path.unlink(missing_ok=True)
        database = sqlite3.connect(path)
        database.execute("create table parts (number integer primary key, part blob)")
        parts = [(at, data[at : at + 10_000]) for at in range(0, len(data), 10_000)]
        database.executemany("insert into parts values (?, ?)", parts)
        database.commit()
        database.close()
        return path.read_bytes(), data


def myself(role):
    return lambda path, out: [sys.executable, __file__, "--as", role, path, out]


def plainly(*command):
    return lambda path, _: [*command, path]


def to_copy(*command):
    return lambda path, out: [*command, path, out]


# Name → (kind of file, command for a path and a name for what is written; what the command does not write there it writes to standard output).
READERS = {
    "cat": ("plain", plainly("cat")),
    "dd": ("plain", lambda path, _: ["dd", f"if={path}", "bs=4k", "status=none"]),
    "dd direct": ("plain", lambda path, _: ["dd", f"if={path}", "bs=64k", "iflag=direct", "status=none"]),
    "cp": ("plain", to_copy("cp")),
    "cp --sparse=always": ("plain", to_copy("cp", "--sparse=always")),
    "cp --reflink=auto": ("plain", to_copy("cp", "--reflink=auto")),
    "mv": ("plain", to_copy("mv")),
    "install": ("plain", to_copy("install")),
    "tar --sparse": ("plain", lambda path, out: ["sh", "-c", 'tar --sparse -cf - -C "$1" "$2" >"$3.tar" && tar -xOf "$3.tar"', "sh", path.parent, path.name, out]),
    "rsync": ("plain", to_copy("rsync")),
    "rsync -S": ("plain", to_copy("rsync", "-S")),
    "shutil": ("plain", myself("shutil")),
    "mmap": ("plain", myself("mmap")),
    "direct": ("plain", myself("direct")),
    "sendfile": ("plain", myself("sendfile")),
    "splice": ("plain", myself("splice")),
    "copy_file_range": ("plain", myself("copy_file_range")),
    "backwards": ("plain", myself("backwards")),
    "SEEK_DATA": ("plain", myself("holes")),
    "io_uring": ("plain", lambda path, out: [out.parent.parent / "tools" / "uring", path]),
    "exec": ("program", plainly("sh", "-c", 'exec "$0"')),
    "sqlite": ("database", myself("sqlite")),
    # The bytes that git hashes, through its own reading and mapping.
    "git": ("plain", lambda path, out: ["sh", "-c", 'git init -q "$2.git" && cd "$2.git" && id=$(git hash-object -w "$1") && git cat-file blob $id', "sh", path, out]),
}


class Reading:
    """A reader with its file: made before a case does its harm, begun during it, judged after it."""

    def __init__(self, world, name):
        self.world, self.name = world, name
        self.kind, self.command = READERS[name]
        world.count += 1
        self.file = f"{world.count} for {name.replace(' ', '-')}"
        self.out = world.out / f"{world.count:05}"
        self.stored, self.wanted = getattr(Kind(world), self.kind)(world.count)
        new = world.cluster.folder / "new"
        new.write_bytes(self.stored)
        new.chmod(0o755)
        new.rename(world.a / self.file)
        self.path = world.b / self.file

    def arrived(self):
        return self.path.exists() and self.path.stat().st_size == len(self.stored)

    def begin(self):
        self.stdout = open(f"{self.out}.stdout", "w+b")
        self.stderr = open(f"{self.out}.stderr", "w+b")
        command = [str(part) for part in self.command(self.path, self.out)]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.stdout, stderr=self.stderr)
        self.began = time.monotonic()
        return self

    def end(self, seconds=LONG):
        """Waits for the end and judges what was read. `True`: all of it."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"{self.name} hangs") from None
        self.stdout.seek(0)
        self.stderr.seek(0)
        found, said = self.stdout.read(), self.stderr.read().decode(errors="replace").strip()
        if self.out.exists():
            found = self.out.read_bytes()
        for left in self.out.parent.glob(f"{self.out.name}*"):
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        self.said = f"exit {code}: {said}"
        at = next((n for n, (x, y) in enumerate(zip(found, self.wanted)) if x != y), min(len(found), len(self.wanted)))
        check(at == len(found), f"{self.name}: a wrong byte at {at} of {len(found)}: {found[at:at + 8]!r} for {self.wanted[at:at + 8]!r}; {self.said}")
        if code == 0:
            check(found == self.wanted, f"{self.name} ended well with {len(found)} bytes of {len(self.wanted)}; {self.said}")
            return True
        check(code < 0 or said, f"{self.name} failed without a word: {self.said}")
        return False

    def intact(self):
        """With everything alive: the file is there, as it was; of `mv` it may have gone."""
        if self.name == "mv" and not self.path.exists():
            return
        found = self.path.read_bytes()
        check(found == self.stored, f"{self.name}: {len(found)} bytes afterwards, {found.count(0)} zeros")


class World(cases.Tiered):
    soon = SOON

    def __init__(self, cluster, options):
        self.count, self.quick, self.crowd = 0, options.quick, options.crowd
        self.tools, self.out = cluster.folder / "tools", cluster.folder / "out"
        self.tools.mkdir()
        self.out.mkdir()
        subprocess.run(["cc", "-O1", "-xc", "-", "-o", self.tools / "uring"], input=URING.encode(), check=True)
        subprocess.run(["cc", "-O1", "-pthread", "-xc", "-", "-o", self.tools / "crowd"], input=CROWD.encode(), check=True)
        self.volume = Volume(cluster.folder, "volume", mib=1024)
        super().__init__(cluster, self.volume.path / "b")

    def readings(self, names=None):
        """Tiered files that are in the share, each with a reader that has not begun."""
        made = [Reading(self, name) for name in names or READERS]
        for one in made:
            wait_for(f"{one.file} on b", one.arrived, SOON)
            check(residency(one.path) == "tiered", f"{one.file} arrived {residency(one.path)}")
        self.settled()
        return made

    def stop_service(self):
        self.cluster.stop("service")

    def repair(self):
        """Whatever a case has left: the service runs again."""
        if "service" not in self.cluster.processes:
            self.cluster.start_service()

    def end(self):
        self.volume.remove()


def judged(readings, must_be_well):
    """How many have all bytes. With `must_be_well` an error is a failure as well."""
    wrong, well = [], 0
    for one in readings:
        try:
            good = one.end()
            well += good
            if must_be_well and not good:
                wrong.append(f"{one.name}: {one.said}")
        except AssertionError as error:
            wrong.append(str(error))
    check(not wrong, f"{len(wrong)} of {len(readings)}: {'; '.join(wrong[:4])}")
    return well


def is_served(path):
    try:
        return os.path.ismount(path) and os.listdir(path) is not None
    except OSError:
        return False


def all_intact(world, readings):
    wait_for("the mount", lambda: is_served(world.b), SOON)
    for one in readings:
        one.intact()
        one.path.unlink(missing_ok=True)
    world.settled()


def alive(world):
    """Each by itself, twice: while the file is tiered, and when it is here."""
    for name in READERS:
        (one,) = world.readings([name])
        check(one.begin().end(), f"{name}: {one.said}")
        if name != "mv":
            check(one.begin().end(), f"{name}, again: {one.said}")
        all_intact(world, [one])
    (one,) = world.readings(["cp"])
    done = subprocess.run(["cp", "--reflink=always", one.path, world.out / "clone"], capture_output=True, text=True)
    check(done.returncode == 1 and "failed to clone" in done.stderr, f"a clone across file systems: {done}")
    within = world.b / "clone"
    done = subprocess.run(["cp", "--reflink=always", one.path, within], capture_output=True, text=True)
    check(done.returncode == 1 and "failed to clone" in done.stderr, f"a clone within the endpoint: {done}")
    check(not within.exists() or within.stat().st_size == 0, "half a clone")
    within.unlink(missing_ok=True)
    all_intact(world, [one])


def all_at_once(world):
    readings = world.readings()
    for one in readings:
        one.begin()
    judged(readings, must_be_well=True)
    all_intact(world, readings)


def worker_killed_before(world):
    readings = world.readings()
    check(world.kill_worker(), "nobody was killed")
    for one in readings:
        one.begin()
    judged(readings, must_be_well=True)
    all_intact(world, readings)


def worker_killed_during(world):
    """Again and again while they read; each worker lives long enough to fetch something. Scenario 39."""
    for _ in range(1 if world.quick else 3):
        readings, kills, over = world.readings(), 0, threading.Event()

        def kill():
            nonlocal kills
            # A mount that nobody comes to serve for half a minute is given up: on a slow machine each worker has its turn.
            while world.serves() and not over.wait(random.uniform(0.05, 1.5)):
                kills += world.kill_worker() is not None

        killer = threading.Thread(target=kill)
        for one in readings:
            one.begin()
        killer.start()
        try:
            judged(readings, must_be_well=True)
        finally:
            over.set()
            killer.join()
        check(kills, "nobody was killed")
        all_intact(world, readings)


def worker_starting(world):
    """Readers come while one worker after the other is killed as soon as it is there."""
    readings = world.readings()
    for one in readings:
        old = world.worker()
        world.kill_worker()
        wait_for("the next worker", lambda: world.worker() not in (None, old), SOON)
        one.begin()
    judged(readings, must_be_well=True)
    all_intact(world, readings)


def holder_dead(world):
    """Nobody is left: an error, also for those who have begun; after a new start all of it."""
    readings = world.readings()
    half = len(readings) // 2
    for one in readings[:half]:
        one.begin()
    world.cluster.kill("b")
    for one in readings[half:]:
        one.begin()
    judged(readings, must_be_well=False)
    world.cluster.start_agent("b")
    all_intact(world, readings)


def service_unreachable(world):
    """A wait, and then all bytes."""
    readings = world.readings()
    world.stop_service()
    for one in readings:
        one.begin()
    time.sleep(3)
    ended = [one.name for one in readings if one.process.poll() is not None]
    check(not ended, f"did not wait: {ended}")
    world.cluster.start_service()
    judged(readings, must_be_well=True)
    all_intact(world, readings)


def service_away_for_long(world):
    """An error in the end, not a wait without end, also for who reads on after errors, as rsync does, twice; afterwards all of it."""
    readings = world.readings()
    world.stop_service()
    for one in readings:
        one.begin()
    began = time.monotonic()
    well = judged(readings, must_be_well=False)
    check(well == 0, f"{well} have bytes without a service")
    check(time.monotonic() - began > 20, "gave up early")
    world.cluster.start_service()

    def comes_again():
        try:
            return any(one.path.exists() and one.path.read_bytes() == one.stored for one in readings)
        except OSError:
            return False
    wait_for("the first bytes", comes_again, 15)
    all_intact(world, readings)


def slow_line(world):
    """Behind a line that needs longer for a file than anybody waits for its first byte: a recall, a reader and a first write all have what they want."""
    size, cluster, here = SLOW_SECONDS * SLOW_RATE, world.cluster, world.volume.path / "slow"
    # Without repetitions, which would come once.
    files = {how: random.Random(how).randbytes(size) for how in ("recalled", "read", "written")}
    for name, data in files.items():
        (cluster.folder / "new").write_bytes(data)
        (cluster.folder / "new").rename(world.a / f"slowly {name}")
    wait_for("their names", lambda: all((world.b / f"slowly {name}").exists() for name in files), SOON)
    world.settled()
    line = SlowLine(cluster.port, SLOW_RATE)
    try:
        cluster.register("slow", f"https://127.0.0.1:{line.port}")
        cluster.start_agent("slow")
        cluster.endpoint("slow", here, "data", "--tiering", "--free-space", "1%", "--initial-download", "namespace-only")
        at = {name: here / f"slowly {name}" for name in files}
        wait_for("names on the slow one", lambda: os.path.ismount(here) and all(path.exists() for path in at.values()), SOON)
        for name, act in {
            "recalled": lambda path: cluster.run("recall", path, "--state", cluster.folder / "state-slow"),
            "read": lambda path: path.read_bytes(),
            "written": lambda path: os.pwrite(os.open(path, os.O_WRONLY), files["written"][:1], 0),
        }.items():
            check(residency(at[name]) == "tiered", f"{name}: {residency(at[name])}")
            began, before = time.monotonic(), line.carried
            act(at[name])
            took = time.monotonic() - began
            check(line.carried - before > size * 0.9, f"{name}: {line.carried - before} bytes came through the line")
            print(f"readers  {name} over a slow line in {took:.0f} s", flush=True)
            check(at[name].read_bytes() == files[name], f"{name}: other bytes")
        cluster.run("endpoint", "delete", "slow", "--yes")
        wait_for("its endpoint is gone", lambda: not cluster.json("endpoint", "list", "--server", "slow"), SOON)
    finally:
        cluster.stop("slow")
        cases.unmount(here)
        line.close()
    for name in files:
        (world.a / f"slowly {name}").unlink()
    world.settled()


def disk_full(world):
    """Bytes are given without being kept. Scenario 47."""
    readings = world.readings()
    ballast = world.b.parent / "ballast"
    cases.fill(ballast)
    # Those that write into the endpoint itself have an error of their own.
    writes = {"copy_file_range"}
    for one in readings:
        one.begin()
    judged([one for one in readings if one.name not in writes], must_be_well=True)
    judged([one for one in readings if one.name in writes], must_be_well=False)
    ballast.unlink()
    for one in readings:
        Path(f"{one.path}.copied").unlink(missing_ok=True)
    all_intact(world, readings)


def corrupt_pack(world):
    """The store gives other bytes than it was given: an error, and never those bytes. Scenario 48."""
    readings = world.readings()
    packs = [path for path in (world.cluster.folder / "service").rglob("*") if path.is_file() and "pack" in str(path) and path.stat().st_size > 64 * KIB]
    check(packs, "no packs were found")
    kept = {}
    # No pack is kept in memory over a start.
    world.stop_service()
    for pack in packs:
        kept[pack] = pack.read_bytes()
        damaged = bytearray(kept[pack])
        for at in range(100, len(damaged), 1000):
            damaged[at] ^= 0x55
        pack.write_bytes(damaged)
    world.cluster.start_service()
    for one in readings:
        one.begin()
    try:
        well = judged(readings, must_be_well=False)
    finally:
        for pack, data in kept.items():
            pack.write_bytes(data)
    check(well == 0, f"{well} have bytes of a damaged pack")
    all_intact(world, readings)


def is_waiting(process):
    try:
        where = Path(f"/proc/{process.pid}/wchan").read_text()
        return "fuse" in where or "folio" in where or "request_wait" in where
    except OSError:
        return False


def signals(world):
    """Whoever waits for an unreachable service is gone soon after a signal: buffered, O_DIRECT, mapped."""
    names = {"buffered": "cat", "O_DIRECT": "dd direct", "mapped": "mmap"}
    rounds = 2 if world.quick else 5
    readings = [(how, sig, world.readings([name])[0]) for how, name in names.items() for sig in (signal.SIGINT, signal.SIGKILL) for _ in range(rounds)]
    world.stop_service()
    took = {}
    for how, sig, one in readings:
        one.begin()
        wait_for(f"{one.name} waits", lambda: is_waiting(one.process), SOON)
        time.sleep(0.2)
        check(one.process.poll() is None, f"{one.name} did not wait")
        began = time.monotonic()
        one.process.send_signal(sig)
        one.process.wait(SOON)
        took.setdefault(f"{how} {sig.name}", []).append((time.monotonic() - began) * 1000)
        one.end()
    world.cluster.start_service()
    all_intact(world, [one for _, _, one in readings])
    print("readers", "; ".join(f"{how} gone after {statistics.median(each):.0f} ms, at most {max(each):.0f}" for how, each in took.items()), flush=True)
    # Beside other work a process may be late by itself, but not again and again.
    for how, each in took.items():
        check(min(each) < 100 and max(each) < 1000, f"{how}: {each} ms")


def crowd(world):
    """Readers without number, each of a file of its own, all at once: all are served, in memory that is bounded. Scenario 41."""
    folder, count = world.cluster.folder / "crowd", world.crowd
    folder.mkdir()
    random_bytes = random.Random(count).randbytes(CROWD_SIZE + count)
    names = [f"{n}" for n in range(count)]
    for n in range(count):
        (folder / names[n]).write_bytes(random_bytes[n : n + CROWD_SIZE])
    folder.rename(world.a / "crowd")
    here = world.b / "crowd"
    wait_for("all names on b", lambda: here.exists() and len(os.listdir(here)) == count, LONG)
    world.settled(LONG)
    check(all(residency(here / name) == "tiered" for name in names[:: count // 100 + 1]), "not tiered")
    worker = world.worker()
    before = resident_bytes(worker)
    began = time.monotonic()
    done = subprocess.run(
        [world.tools / "crowd", here, world.a / "crowd", str(count)], input="\n".join(names) + "\n", capture_output=True, text=True, timeout=LONG + count / 10
    )
    took = time.monotonic() - began
    check(done.returncode == 0, f"the crowd ended with {done.returncode}: {done.stderr}")
    good, failed, wrong, slowest = map(int, done.stdout.split())
    check(world.worker() == worker, "the worker died")
    peak = peak_memory_bytes(worker)
    print(
        f"readers {count} at once: {good} served, {failed} errors, {wrong} wrong, in {took:.1f} s, the slowest {slowest} ms; "
        f"the worker had {before / MIB:.0f} MiB and at most {peak / MIB:.0f}",
        flush=True,
    )
    check(wrong == 0 and good == count, f"{failed} errors, {wrong} wrong: {done.stderr}")
    check(peak < CROWD_MEMORY_MAX, f"the worker took {peak / MIB:.0f} MiB")
    shutil.rmtree(here)
    world.settled(LONG)


CASES = [
    alive, all_at_once, worker_killed_before, worker_killed_during, worker_starting, holder_dead, service_unreachable, service_away_for_long, slow_line,
    disk_full, corrupt_pack, signals, crowd,
]
LENGTHY = {"service_away_for_long", "slow_line"}


def main():
    if sys.argv[1:2] == ["--as"]:
        # SIGINT ends it at once: Python's own handler would wait for the system call.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        return ROLES[sys.argv[2]](*sys.argv[3:])
    parser = cases.arguments(__doc__)
    parser.add_argument("--quick", action="store_true", help="without the cases that wait long")
    parser.add_argument("--crowd", type=int, default=1000, help="readers of the case of that name")
    options = parser.parse_args()
    lacking = cases.lacks_of_a_gate("cc", "cp", "dd", "git", "install", "losetup", "mkfs.ext4", "mv", "rsync", "tar")
    if lacking:
        return cases.skipped("readers", lacking)
    chosen = [case for case in CASES if not (options.quick and case.__name__ in LENGTHY)]
    return cases.on_cluster("readers", options, lambda cluster: World(cluster, options), chosen, World.repair)


if __name__ == "__main__":
    sys.exit(main())
