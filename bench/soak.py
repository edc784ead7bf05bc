#!/usr/bin/env python3
"""Random work on three servers while service and agents are killed, judged by a log that Polder never sees.

    bench/soak.py [--minutes 20] [--seed 1] [--kill-every 4] [--tiered] [--binary target/release/polder]

Every content carries a token of its own. A user who replaces or removes a file learns exactly which content that was
(by exchanging names, or by moving the file out first), and only then is the token *superseded*. At the end all sites must be
equal, and every token that was ever written must be live somewhere or superseded. With `--tiered` one of the servers gives up whatever it may, all the
time, and its worker is killed as well. Exit 0 when all of that holds.
"""

import argparse
import contextlib
import ctypes
import errno
import json
import mmap
import os
import random
import re
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import cases
from cluster import Cluster, descendants, wait_for

LIBC = ctypes.CDLL(None, use_errno=True)
AT_FDCWD, NOREPLACE, EXCHANGE = -100, 1, 2
# What is no part of the share: of a tiered site the graveyard must be on the same mount.
GRAVES = b"graves"
OURS = (b".polder", GRAVES)
TOKEN = re.compile(rb"polder-token ([0-9]{12}) ")


def renameat2(old, new, flags):
    if LIBC.renameat2(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class GhostLog:
    """What users wrote, and what they knowingly replaced or removed."""

    def __init__(self, generator, journal):
        self.generator = generator
        self.written, self.superseded = {}, {}
        self.next = 1
        self.journal = open(journal, "w", buffering=1)

    def note(self, site, what, *paths, token=b""):
        """One line of what a user did, to be laid beside the agents' logs."""
        moment = time.time()
        clock = time.strftime("%H:%M:%S", time.gmtime(moment)) + f".{int(moment % 1 * 1e6):06d}"
        self.journal.write(f"{clock} {site} {what} {token.decode()} {' '.join(repr(path) for path in paths)}\n")

    def content(self, site):
        token = b"%012d" % self.next
        self.next += 1
        self.written[token] = site
        size = self.generator.choice([0, 10, 100, 4000, 4000, 30_000, 200_000])
        return token, b"polder-token " + token + b" \n" + self.generator.randbytes(size)

    def gone(self, data, how):
        found = TOKEN.match(data)
        if found:
            self.superseded[found.group(1)] = how
        self.note("-", f"gone ({how})", token=found.group(1) if found else b"nothing")

    @contextlib.contextmanager
    def writing(self, token):
        """Within, a content is written; if that fails nobody may expect it."""
        try:
            yield
        except OSError as error:
            self.note("-", f"not written: {error}", token=token)
            self.never_was(token)
            raise

    def never_was(self, token):
        """The write itself failed: nobody may expect the content."""
        self.written.pop(token, None)
        self.note("-", "never was", token=token)


class User:
    """One user at one site. Works on what is there, as people and programs do."""

    NAMES = [b"a", b"b", b"report.docx", b"notes.txt", b"data", b"\xff\xfe odd", b"new\nline", "ümläut".encode(), b"Foo", b"foo"]

    def __init__(self, site, root, graveyard, log, generator):
        self.site, self.root, self.graveyard, self.log, self.generator = site, os.fsencode(root), os.fsencode(graveyard), log, generator
        os.makedirs(self.graveyard, exist_ok=True)
        self.buried = 0
        self.open_files = []

    def directories(self):
        found = [self.root]
        for base, names, _ in os.walk(self.root):
            names[:] = [name for name in names if name not in OURS]
            found.extend(os.path.join(base, name) for name in names)
        return found

    def files(self):
        found = []
        for base, names, files in os.walk(self.root):
            names[:] = [name for name in names if name not in OURS]
            found.extend(os.path.join(base, name) for name in files)
        return [path for path in found if stat.S_ISREG(os.lstat(path).st_mode)] if found else []

    def new_path(self):
        name = self.generator.choice(self.NAMES)
        if self.generator.random() < 0.5:
            name += b"-%d" % self.generator.randint(0, 40)
        return os.path.join(self.generator.choice(self.directories()), name)

    def bury(self, path, how):
        """Moves out of the endpoint what is to be deleted, and only then looks at what it was."""
        self.buried += 1
        grave = os.path.join(self.graveyard, b"%d" % self.buried)
        self.log.note(self.site, how, path, grave)
        renameat2(path, grave, NOREPLACE)
        if os.path.isdir(grave):
            for base, _, files in os.walk(grave):
                for name in files:
                    self.log.gone(Path(os.fsdecode(os.path.join(base, name))).read_bytes(), how)
        else:
            self.log.gone(Path(os.fsdecode(grave)).read_bytes(), how)

    def create(self):
        token, data = self.log.content(self.site)
        temporary = os.path.join(self.graveyard, b"temporary")
        with self.log.writing(token):
            Path(os.fsdecode(temporary)).write_bytes(data)
        path = self.new_path()
        self.log.note(self.site, "create", path, token=token)
        try:
            renameat2(temporary, path, NOREPLACE)
        except OSError:
            self.log.never_was(token)

    def save_atomically(self):
        """Temporary file beside the target, then an exchange, so that what was replaced is known."""
        path = self.generator.choice(self.files())
        token, data = self.log.content(self.site)
        temporary = path + b".tmp"
        self.log.note(self.site, "save", path, token=token)
        try:
            # A name of one's own, as programs take it: there may be a file of somebody else by this name.
            with open(temporary, "xb") as out:
                out.write(data)
                os.fsync(out.fileno())
        except OSError:
            self.log.never_was(token)
            return
        try:
            renameat2(temporary, path, EXCHANGE)
        except OSError:
            self.bury(temporary, "not saved")
            return
        self.bury(temporary, "saved over")

    def open_for_long(self):
        path = self.generator.choice(self.files())
        if len(self.open_files) < 4:
            self.open_files.append(open(path, "r+b", buffering=0))

    def write_through_open(self):
        """A descriptor that stays open: the file may have been replaced by a remote edit meanwhile."""
        if not self.open_files:
            return self.open_for_long()
        file = self.generator.choice(self.open_files)
        if self.generator.random() < 0.2:
            self.open_files.remove(file)
            file.close()
            return
        where = os.readlink(b"/proc/self/fd/%d" % file.fileno())
        if self.is_buried(file) or not where.startswith(self.root):
            # Deleted by the user: what is written to it now is nobody's. Of one that was opened through a mount that has gone nobody can tell.
            self.open_files.remove(file)
            file.close()
            return
        before = os.pread(file.fileno(), 64, 0)
        if not TOKEN.match(before):
            return
        token, data = self.log.content(self.site)
        self.log.note(self.site, "write", where, token=token)
        with self.log.writing(token):
            os.pwrite(file.fileno(), data[:26], 0)
        self.log.gone(before, "overwritten in place")

    def is_buried(self, file):
        """Whether the user has deleted an open file. Its own path does not tell: through a gate it is that of the open, whatever sync has renamed."""
        number = os.fstat(file.fileno()).st_ino
        below = (os.path.join(base, name) for base, _, names in os.walk(self.graveyard) for name in names)
        return any(os.lstat(path).st_ino == number for path in below)

    def write_mapped(self):
        path = self.generator.choice(self.files())
        with open(path, "r+b") as file:
            if os.fstat(file.fileno()).st_size < 26:
                return
            with mmap.mmap(file.fileno(), 0) as mapping:
                before = bytes(mapping[:64])
                if not TOKEN.match(before):
                    return
                token, data = self.log.content(self.site)
                self.log.note(self.site, "map", os.readlink(b"/proc/self/fd/%d" % file.fileno()), token=token)
                mapping[:26] = data[:26]
                self.log.gone(before, "overwritten by mapping")
                mapping.flush()

    def rename(self):
        path, to = self.generator.choice(self.files()), self.new_path()
        self.log.note(self.site, "rename", path, to)
        try:
            renameat2(path, to, NOREPLACE)
        except OSError:
            pass

    def rename_directory(self):
        path = self.generator.choice(self.directories()[1:] or [None])
        if path:
            to = self.new_path()
            self.log.note(self.site, "rename directory", path, to)
            try:
                renameat2(path, to, NOREPLACE)
            except OSError:
                pass

    def swap(self):
        files = self.files()
        one, other = self.generator.choice(files), self.generator.choice(files)
        if one != other:
            self.log.note(self.site, "swap", one, other)
            renameat2(one, other, EXCHANGE)

    def delete(self):
        self.bury(self.generator.choice(self.files()), "deleted")

    def delete_directory(self):
        directories = self.directories()[1:]
        if directories and self.generator.random() < 0.3:
            self.bury(self.generator.choice(directories), "deleted with its directory")

    def make_directory(self):
        if len(self.directories()) < 25:
            path = self.new_path()
            self.log.note(self.site, "make directory", path)
            os.mkdir(path)

    def change_attributes(self):
        path = self.generator.choice(self.files())
        if self.generator.random() < 0.5:
            os.chmod(path, self.generator.choice([0o600, 0o644, 0o755]))
        else:
            os.setxattr(path, b"user.note", b"%d" % self.generator.randint(0, 9))

    ACTIONS = [
        (create, 8), (save_atomically, 6), (write_through_open, 5), (write_mapped, 3), (rename, 4), (rename_directory, 1), (swap, 2),
        (delete, 3), (delete_directory, 1), (make_directory, 1), (change_attributes, 2),
    ]

    def act(self):
        actions, weights = zip(*self.ACTIONS)
        try:
            self.generator.choices(actions, weights)[0](self)
        except (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, IndexError):
            pass  # somebody, or the sync, was quicker: as in real life
        except OSError as error:
            if error.errno in (errno.ENOTCONN, errno.ECONNABORTED):
                # Opened through a mount that has gone with its holder.
                self.rest()
            elif error.errno not in (2, 17, 20, 21, 22, 39, 116):
                raise

    def rest(self):
        for file in self.open_files:
            file.close()
        self.open_files.clear()


def picture(root):
    """Every path with kind, mode and hash-worthy content: two sites are equal when their pictures are."""
    found = {}
    root = os.fsencode(root)
    for base, names, files in os.walk(root):
        names[:] = [name for name in names if name not in OURS]
        for name in names + files:
            path = os.path.join(base, name)
            entry = os.lstat(path)
            data = Path(os.fsdecode(path)).read_bytes() if stat.S_ISREG(entry.st_mode) else None
            mtime = entry.st_mtime_ns if data is not None else None
            found[os.path.relpath(path, root)] = (stat.S_IMODE(entry.st_mode), mtime, data)
    return found


def all_equal(sites):
    try:
        pictures = [picture(site) for site in sites]
    except FileNotFoundError:
        return None
    return pictures[0] if all(one == pictures[0] for one in pictures) else None


ALLOWED = re.compile(
    r"service is not reachable|connection|reconnect|transport|stopped uncleanly|broken pipe|reset by peer|Connection refused"
    r"|the worker ended and is started again|did not come",
    re.I,
)


def unexpected_lines(logs):
    found = []
    for log in sorted(logs.glob("*.log")):
        for line in log.read_text(errors="replace").splitlines():
            if re.search(r"\b(WARN|ERROR)\b|panicked", line) and not ALLOWED.search(line):
                found.append(f"{log.name}: {line}")
    return found


class Tiering:
    """A site that is tiered: everything leaves it, again and again, as soon as it may."""

    def __init__(self, cluster, site):
        self.cluster, self.site, self.root = cluster, site, cluster.folder / site
        self.state = cluster.folder / f"state-{site}"
        self.tiered, self.asked, self.over = 0, 0, threading.Event()
        cluster.site(site, "--tiering", "--free-space", "1%", "--exclude", GRAVES.decode())
        wait_for("the mount", lambda: os.path.ismount(self.root), 60)
        self.thread = threading.Thread(target=self.tier)
        self.thread.start()

    def tier(self):
        while not self.over.wait(0.1):
            done = self.cluster.run("tier", self.root, "--state", self.state, "--json", check=False)
            # Nothing is told while no worker answers.
            if done.returncode in (0, 3) and done.stdout:
                told = json.loads(done.stdout)
                self.tiered += told["files"] - told["files_failed"]

    def started(self):
        """Waits until users see their files again."""

        def is_served():
            self.asked += 1
            try:
                # What the kernel does not know yet: a list may come from its cache, without anybody who serves.
                os.lstat(self.root / f"nothing-{self.asked}")
            except FileNotFoundError:
                return os.path.ismount(self.root) and GRAVES.decode() in os.listdir(self.root)
            except OSError:
                # The mount of the holder that was killed.
                return False

        wait_for("the mount", is_served, 120)

    def kill_worker(self):
        for pid in descendants(self.cluster.processes[self.site].pid)[1:]:
            os.kill(pid, 9)

    def end(self):
        self.over.set()
        self.thread.join()


def kill_one(cluster, sites, tiering, generator):
    victims = ["service", *sites, *(["worker"] if tiering else [])]
    victim = generator.choice(victims)
    if victim == "worker":
        return tiering.kill_worker()
    cluster.kill(victim)
    if victim == "service":
        cluster.spawn("service", "service", "run", "--data", cluster.folder / "service", "--listen", f"127.0.0.1:{cluster.port}")
    else:
        cluster.start_agent(victim)
    if tiering and victim == tiering.site:
        tiering.started()


def work(cluster, users, sites, tiering, generator, seconds, kill_every):
    ends = time.monotonic() + seconds
    next_kill = time.monotonic() + kill_every
    next_release = time.monotonic()
    actions = kills = 0
    while time.monotonic() < ends:
        generator.choice(users).act()
        actions += 1
        time.sleep(generator.choice([0, 0, 0.01, 0.05, 0.2]))
        if time.monotonic() > next_release:
            # Three users at random look like malicious software to the mass-change brake; it has tests of its own.
            cluster.let_go()
            next_release = time.monotonic() + 10
        if kill_every and time.monotonic() > next_kill:
            kill_one(cluster, sites, tiering, generator)
            kills += 1
            next_kill = time.monotonic() + generator.uniform(0.3, 2 * kill_every)
    return actions, kills


def what_is_said(cluster):
    """What the cluster itself says about what is left to do: the first thing to read when sites differ."""
    status = cluster.run("status", "--json", check=False).stdout.decode(errors="replace")
    return [f"status: {status}", f"errors: {cluster.run('errors', check=False).stdout.decode(errors='replace')}"]


def judge(cluster, roots, log):
    began = time.monotonic()
    failures = []
    try:
        cluster.let_go()
        tree = wait_for("all sites to be equal", lambda: cluster.in_sync() and all_equal(roots), 120)
        print(f"soak converged_s {time.monotonic() - began:.1f}")
        if time.monotonic() - began > 60:
            failures.append("converged only after more than 60 s")
    except TimeoutError as error:
        failures.append(str(error))
        failures.extend(what_is_said(cluster))
        pictures = [picture(root) for root in roots]
        for path in sorted(set().union(*pictures)):
            if len({one.get(path) for one in pictures}) > 1:
                shown = [None if (got := one.get(path)) is None else (oct(got[0]), got[1], (got[2] or b"")[:26]) for one in pictures]
                failures.append(f"differs: {path!r}: {shown}")
        tree = pictures[0]
    live = {found.group(1) for _, _, data in tree.values() if data and (found := TOKEN.match(data))}
    lost = sorted(set(log.written) - live - set(log.superseded))
    for token in lost:
        failures.append(f"lost: content {token.decode()} written at {log.written[token]}")
    print(f"soak contents_written {len(log.written)}")
    print(f"soak contents_live {len(live)}")
    print(f"soak contents_lost {len(lost)}")
    print(f"soak conflict_copies {sum(b'-site-' in path for path in tree)}")
    unexpected = unexpected_lines(cluster.folder / "logs")
    print(f"soak unexpected_log_lines {len(unexpected)}")
    failures.extend(unexpected[:20])
    return failures


def soak(cluster, sites, roots, tiering, log, arguments):
    """All of it; what is wrong."""
    generator = log.generator

    def grave(site, root):
        return root / GRAVES.decode() if tiering and site == tiering.site else cluster.folder / f"graves-{site}"

    users = [User(site, root, grave(site, root), log, generator) for site, root in zip(sites, roots)]
    actions, kills = work(cluster, users, sites, tiering, generator, arguments.minutes * 60, arguments.kill_every)
    for user in users:
        user.rest()
    print(f"soak actions {actions}")
    print(f"soak kills {kills}")
    if tiering:
        print(f"soak files_tiered {tiering.tiered}")
    failures = judge(cluster, roots, log)
    if tiering and not tiering.tiered:
        failures.append("nothing was tiered")
    return failures


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kill-every", type=float, default=4, help="seconds between kills on average; 0: none")
    parser.add_argument("--binary", default=str(Path(__file__).parent.parent / "target/release/polder"))
    parser.add_argument("--tiered", action="store_true", help="site-b gives up all it may, all the time")
    parser.add_argument("--folder")
    parser.add_argument("--keep", action="store_true")
    arguments = parser.parse_args()
    generator = random.Random(arguments.seed)
    sites = ["site-a", "site-b", "site-c"]
    with Cluster(arguments.binary, arguments.folder, keep=arguments.keep) as cluster:
        log = GhostLog(generator, cluster.folder / "journal")
        cluster.start_service()
        cluster.share()
        tiering = Tiering(cluster, "site-b") if arguments.tiered else None
        roots = [tiering.root if tiering and site == tiering.site else cluster.site(site) for site in sites]
        try:
            failures = soak(cluster, sites, roots, tiering, log, arguments)
        finally:
            if tiering:
                tiering.end()
                cluster.stop(tiering.site)
                cases.unmount(tiering.root)
        if failures:
            (cluster.folder / "ghost.json").write_text(json.dumps({k.decode(): v for k, v in log.superseded.items()}))
    for failure in failures:
        print(f"FAILED {failure}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
