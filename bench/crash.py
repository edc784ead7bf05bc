#!/usr/bin/env python3
"""Crashes and errors at every system call (scenarios 75 and 79 of docs/semantics.md): a sweep over what upload, download,
replacing, renaming, deleting, the state database, the pack store and the service's commits do to a disk.

    bench/crash.py [--binary target/debug/polder] [--quick] [--only NAME …] [--faults kill,ENOSPC …] [--cells N] [--kind ext4] [--keep]

A *scenario* is what a user does in one folder, which process it is done to (agent a, where the user works; agent b, where it
arrives; the service), and whether that process runs while it happens or starts afterwards. First the calls are counted
that the process makes to change files. Then for each of them, and each fault, the same is done again with the fault there: killed
before the call, an error in its place, a write half done. The process is started again without faults (after a kill; after
an error only if it does not recover by itself, which is a failure) and the promises are checked without anyone's help:

- I3: right after a kill every path of the folder is the old or the new content, and what only moves is at one place;
- I1, I5, I6: both sites converge within a bound on exactly what the user's doing left, so nothing is lost, nothing is deleted, and
  no conflict copy is there that nobody caused;
- I8: nobody's help; nothing is left in staging or in the store's temporary folder, and nothing that nobody wrote in the recycle area;
- nothing panics, and no file of state is there that the documents do not name.

One line a scenario: `crash SCENARIO FAULT points N failed N slowest_s S`. Exit 0 only if nothing failed; 3 if the machine
cannot run it.
"""

import argparse
import calendar
import http.client
import json
import multiprocessing
import os
import random
import shutil
import ssl
import stat
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from cluster import Cluster, wait_for
from intercept import AVAILABLE, Fault, Intercepted, applies
from recorder import MKFS

SKIPPED = 3
# Bounds, not pauses, for machines that do other things as well. After an error the agent waits up to some seconds before it
# tries again.
CONVERGE_S, HEAL_S = 120, 60
# A world is thrown away after so many points: its history, logs and recycle areas grow.
POINTS_A_WORLD = 150
# So many points' trees are made, and carried to the other site, at once: waiting for them is half of what a point costs otherwise.
READY = 12
# Asking whether all is in sync costs the service, and who asks, more processor time than what it is waited for.
LOOK_S = 0.15
VOLUME_MIB = 512
# How often a long run says how far it is.
TELL_S = 60
# No scenario makes more calls than this; a count that grows without end would be a loop.
POINTS_MAX = 2000
STATE_NAMES = {"identity", "lock", "state.db", "state.db-wal", "state.db-shm", "staging", "recycle", "reserve"}


def text(name, size):
    return (f"{name} ".encode() * (size // (len(name) + 1) + 1))[:size]


class Tree(dict):
    """What a folder is to hold: path to ("file", bytes), ("link", target), ("dir",)."""


def observed(folder):
    """What a folder holds, in the same form. Goes on from the beginning when something goes away under the walk."""
    for _ in range(200):
        try:
            return observed_once(folder)
        except (FileNotFoundError, NotADirectoryError):
            pass
    raise AssertionError(f"files come and go without end in {folder}")


def observed_once(folder):
    found = Tree()
    todo = [os.fspath(folder)] if os.path.isdir(folder) else []
    while todo:
        for entry in os.scandir(todo.pop()):
            path = os.path.relpath(entry.path, folder)
            if entry.is_symlink():
                found[path] = ("link", os.readlink(entry.path))
            elif entry.is_dir():
                found[path] = ("dir",)
                todo.append(entry.path)
            else:
                with open(entry.path, "rb") as file:
                    found[path] = ("file", file.read())
    return found


def attributes(folder):
    """What a folder's entries have beside their content: mode, time and notes."""
    found = {}
    for base, names, files in os.walk(folder):
        for name in names + files:
            path = os.path.join(base, name)
            entry = os.lstat(path)
            notes = [] if os.path.islink(path) else [(name, os.getxattr(path, name)) for name in os.listxattr(path) if name.startswith("user.")]
            mtime = entry.st_mtime_ns if stat.S_ISREG(entry.st_mode) else None
            found[os.path.relpath(path, folder)] = (entry.st_mode, mtime, notes)
    return found


# What users do. Each gives the tree before and a function that does it, in a folder that holds the tree before.


def base(mark):
    big = b"".join(text(f"{mark} {number}", 60_000) for number in range(5))
    return Tree({
        "small": ("file", text(f"{mark} small", 900)), "big": ("file", big), "empty": ("file", b""), "sub": ("dir",),
        "sub/x": ("file", text(f"{mark} x", 3000)), "sub/y": ("file", text(f"{mark} y", 3100)), "link": ("link", "small"),
    })


def put(folder, tree):
    """Makes the tree; directories first."""
    os.makedirs(folder, exist_ok=True)
    for path in sorted(tree):
        kind, *what = tree[path]
        full = os.path.join(folder, path)
        if kind == "dir":
            os.mkdir(full)
        elif kind == "link":
            os.symlink(what[0], full)
        else:
            # Beside the folder first: the empty file that a plain write begins with may be a version of its own.
            save(full, what[0])


def save(path, data, durable=True):
    """As careful programs save: beside, durable, renamed. The name is one that is never synced."""
    aside = os.path.join(os.path.dirname(path), f"{os.path.basename(path)}.tmp")
    with open(aside, "wb") as out:
        out.write(data)
        out.flush()
        if durable:
            os.fsync(out.fileno())
    os.rename(aside, path)


def create(folder, mark):
    put(os.path.join(folder, "new"), Tree({
        "n-small": ("file", text(f"{mark} n-small", 2000)), "n-empty": ("file", b""), "n-dir": ("dir",),
        "n-dir/one": ("file", text(f"{mark} one", 70_000)), "n-link": ("link", "nowhere"),
        # Above the size from which room is reserved before the first byte.
        "n-big": ("file", b"".join(text(f"{mark} block {number}", 100_000) for number in range(12))),
    }))
    os.chmod(os.path.join(folder, "new/n-small"), 0o600)
    os.setxattr(os.path.join(folder, "new/n-small"), b"user.note", b"noted")


def edit(folder, mark):
    save(os.path.join(folder, "small"), text(f"{mark} small, second", 1200))
    save(os.path.join(folder, "big"), text(f"{mark} big, second", 200_000) + text(f"{mark} 4", 90_000))
    save(os.path.join(folder, "sub/y"), b"")
    os.chmod(os.path.join(folder, "sub/x"), 0o640)
    os.setxattr(os.path.join(folder, "sub/x"), b"user.note", b"noted")
    aside = os.path.join(folder, "link.tmp")
    os.symlink("big", aside)
    os.rename(aside, os.path.join(folder, "link"))
    # A file becomes a directory with a file in it.
    os.unlink(os.path.join(folder, "empty"))
    os.mkdir(os.path.join(folder, "empty"))
    save(os.path.join(folder, "empty/inside"), text(f"{mark} inside", 500))


def rename(folder, mark):
    del mark
    os.rename(os.path.join(folder, "small"), os.path.join(folder, "sub/renamed"))
    exchange(os.path.join(folder, "sub/x"), os.path.join(folder, "sub/y"))
    os.rename(os.path.join(folder, "sub"), os.path.join(folder, "sub-2"))
    os.rename(os.path.join(folder, "big"), os.path.join(folder, "sub-2/big"))
    os.rename(os.path.join(folder, "link"), os.path.join(folder, "link-2"))


def delete(folder, mark):
    del mark
    # As a whole and at once, so that nobody sees half of it.
    grave = os.path.join(os.path.dirname(os.path.dirname(folder)), "graves", os.path.basename(folder))
    os.makedirs(grave)
    for name in ("small", "sub", "link", "big"):
        os.rename(os.path.join(folder, name), os.path.join(grave, name))
    shutil.rmtree(grave)


def nothing(folder, mark):
    del folder, mark


def exchange(one, other):
    import ctypes
    if ctypes.CDLL(None).renameat2(-100, os.fsencode(one), -100, os.fsencode(other), 2) != 0:
        raise OSError("renameat2")


ACTS = {"create": create, "edit": edit, "rename": rename, "delete": delete, "idle": nothing}
# Agent a is where the user works: what it does is reading and telling. Agent b applies. The service keeps.
SCENARIOS = [
    f"{act}.{who}.{how}"
    for act in ("create", "edit", "rename", "delete")
    for who in ("a", "b", "service") for how in ("running", "starting")
] + ["idle.a.starting", "idle.service.starting", "idle.service.stopping"]
FAULTS = ["kill", "EIO", "ENOSPC", "EINTR", "short"]


class Site:
    def __init__(self, name, root, state):
        self.name, self.root, self.state = name, root, state


class World(Cluster):
    """One service and the agents a and b, each started so that its calls can be counted."""

    def __init__(self, binary, folder, reading=False, homes=None):
        super().__init__(binary, folder, keep=True)
        self.reading = reading
        self.intercepted = {}
        self.link = None
        # Where a process keeps everything: the world's folder, or a volume of its own.
        self.homes = {"service": self.folder, "a": self.folder, "b": self.folder, **(homes or {})}
        data = self.homes["service"] / "service"
        self.environment["POLDER_TOKEN_FILE"] = str(data / "owner.token")
        self.environment["POLDER_CA_FILE"] = str(data / "ca.pem")
        self.points = 0
        # Names of the folders that were made for the points to come, and of those that points have had.
        self.ready, self.used = [], []
        # What every user wrote so far, and which entries of recycle areas, and how much of each log, were found to be right.
        self.contents, self.known, self.read = set(), set(), {}
        self.environment["RUST_BACKTRACE"] = "1"
        self.sites, self.started = {}, {}

    def folders_of(self, name):
        home = self.homes[name]
        return [home / "service"] if name == "service" else [home / name, home / f"state-{name}"]

    def begin(self):
        for folder in self.folders_of("service"):
            folder.mkdir(exist_ok=True, mode=0o700)
        self.start("service")
        self.until_up()
        self.share()
        for name in ("a", "b"):
            root, state = self.folders_of(name)
            self.register(name)
            self.sites[name] = Site(name, root, state)
            self.start(name)
            self.endpoint(name, root)
        wait_for("a new world in sync", self.is_in_sync, CONVERGE_S, LOOK_S)

    def is_worn(self, points):
        return self.points >= points and not self.ready

    def take(self):
        """The name of a folder that is at both sites, with the tree before of that name."""
        if not self.ready:
            self.make_ready()
        name = self.ready.pop(0)
        self.used.append(name)
        return name

    def make_ready(self):
        """Takes away the folders that points have had, and makes those of the next ones.

        Made aside and moved in as a whole, and away as a whole: single changes, after which nothing is left to settle."""
        home, root = self.homes["a"], self.sites["a"].root
        (home / "graves").mkdir(exist_ok=True)
        for name in self.used:
            os.rename(root / name, home / "graves" / name)
        shutil.rmtree(home / "graves")
        self.used = []
        trees = {}
        for number in range(self.points, self.points + READY):
            trees[f"p{number}"] = base(f"p{number}")
        for name, tree in trees.items():
            put(home / "aside" / name, tree)
            os.rename(home / "aside" / name, root / name)
            self.contents.update(entry[1] for entry in tree.values() if entry[0] == "file")

        def is_there():
            for name in ("service", "a", "b"):
                self.hold_up(name)
            return self.is_in_sync() and all(self.holds(site, trees) for site in ("a", "b"))
        try:
            wait_for("the trees before", is_there, CONVERGE_S, LOOK_S)
        except TimeoutError as error:
            raise Failed(f"{error}\n{self.why_not()}") from None
        self.points += READY
        self.ready = list(trees)

    def holds(self, site, trees):
        """Whether a site has exactly these folders."""
        root = self.sites[site].root
        return {entry.name for entry in os.scandir(root)} - {".polder"} == set(trees) and all(
            observed(root / name) == tree for name, tree in trees.items()
        )

    def hold_up(self, name):
        """An error may end a process; who runs it (the holder, the system's manager) starts it again."""
        if self.processes[name].poll() is not None:
            self.start(name)

    def register(self, name):
        token = self.folder / f"token-{name}"
        token.write_text(self.json("server", "token")["token"])
        self.run(
            "agent", "register", "--service", self.url, "--token-file", token, "--state", self.folders_of(name)[1], "--name", name,
            "--ca-file", self.environment["POLDER_CA_FILE"],
        )

    def start(self, name, armed=None):
        """Starts a process with its calls counted; `armed` faults reach its first call already."""
        if name == "service":
            arguments = ["service", "run", "--data", self.folders_of(name)[0], "--listen", f"127.0.0.1:{self.port}"]
        else:
            arguments = ["agent", "worker", "--state", self.folders_of(name)[1]]
        log = open(self.folder / "logs" / f"{name}.log", "ab")
        intercepted = Intercepted(self.folders_of(name), self.reading)
        if armed is not None:
            intercepted.arm(**armed)
        process = intercepted.spawn(
            [self.binary, *map(str, arguments)], env=self.environment, stdout=log, stderr=log, stdin=subprocess.PIPE,
        )
        log.close()
        self.processes[name], self.intercepted[name] = process, intercepted
        self.started[name] = time.time()
        return intercepted

    def until_up(self):
        def is_up():
            if self.processes["service"].poll() is not None:
                raise AssertionError(f"the service ended by itself: {self.tail('service')}")
            return self.status() is not None
        wait_for("the service", is_up, 30)

    def tail(self, name):
        return (self.folder / "logs" / f"{name}.log").read_text(errors="replace")[-1500:]

    def end(self, name, kill=True):
        """Ends a process: at once, or as it is asked to end by who started it."""
        process = self.processes.pop(name)
        if kill:
            process.kill()
        elif name == "service":
            process.terminate()
        else:
            process.stdin.close()
        try:
            process.wait(30)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait(30)

    def end_all(self):
        for name in list(self.processes):
            self.end(name)

    def get(self, path):
        """An answer of the REST interface over one connection; none while the service is away."""
        for _ in range(2):
            try:
                if self.link is None:
                    trust = ssl.create_default_context(cafile=self.environment["POLDER_CA_FILE"])
                    self.link = http.client.HTTPSConnection("127.0.0.1", self.port, context=trust, timeout=10)
                    self.token = Path(self.environment["POLDER_TOKEN_FILE"]).read_text().strip()
                self.link.request("GET", path, headers={"authorization": f"Bearer {self.token}"})
                answer = self.link.getresponse()
                body = answer.read()
                return json.loads(body) if answer.status == 200 else None
            except (OSError, http.client.HTTPException):
                if self.link is not None:
                    self.link.close()
                self.link = None
        return None

    def status(self):
        return self.get("/v1/status")

    def is_in_sync(self):
        status = self.status()
        if not status or not status["groups"]:
            return False
        group = status["groups"][0]
        for endpoint in group["endpoints"]:
            if endpoint["state"] == "held":
                # The brake counts a user's changes; many points in ten minutes are more than a user does.
                self.run("endpoint", "release", "--accept", "--yes", endpoint["server"], check=False)
        return len(group["endpoints"]) == 2 and all(
            endpoint["in_sync"] and endpoint["applied"] == group["head"] and self.is_of_now(endpoint)
            for endpoint in group["endpoints"]
        )

    def is_of_now(self, endpoint):
        """Whether it was said by the process that runs now, and to the service that runs now."""
        since = max(self.started[endpoint["server"]], self.started["service"])
        return bool(endpoint["heard_at"]) and unix_time(endpoint["heard_at"]) >= since

    def why_not(self):
        errors = self.run("errors", check=False).stdout.decode(errors="replace")
        return f"status {json.dumps(self.status())}\nerrors {errors}"


def unix_time(text):
    """Of `2026-01-31T12:00:00.123456789Z`."""
    whole, _, part = text.rstrip("Z").partition(".")
    return calendar.timegm(time.strptime(whole, "%Y-%m-%dT%H:%M:%S")) + float(f"0.{part or 0}")


class Failed(Exception):
    """A promise does not hold."""


def check(holds, what):
    if not holds:
        raise Failed(what)


def differences(got, wanted):
    found = []
    for path in sorted(got.keys() | wanted.keys()):
        if got.get(path) != wanted.get(path):
            found.append(f"{path}: {shown(got.get(path))} instead of {shown(wanted.get(path))}")
    return "; ".join(found[:12])


def shown(entry):
    if entry is None:
        return "nothing"
    if entry[0] == "file":
        return f"file of {len(entry[1])} bytes {entry[1][:40]!r}"
    return " ".join(entry)


# Directories that a user renames: what is in them is, for a moment, the old content under the new path.
MOVED = {"rename": ("sub", "sub-2")}


def old_or_new(site, folder, act, before, after):
    """I3: each path as before or as after; content that stays is somewhere, and what moves is at one place.

    Returns how much of it lies in the recycle area instead: where no processor time is to be had, the looks at where a file has gone
    outlast the settle time, and its move travels as a deletion and a new file. Its bytes are kept, and it comes, which is checked after."""
    got = observed(folder)
    source, target = MOVED.get(act, (None, None))
    for path in got.keys() | (before.keys() & after.keys()):
        now, was, becomes = got.get(path), before.get(path), after.get(path)
        allowed = {was, becomes}
        if target and path.startswith(target + "/"):
            allowed.add(before.get(source + path[len(target):]))
        if was and becomes and was[0] != becomes[0]:
            # Another kind is another thing: the user removed the one and made the other.
            allowed.add(None)
        check(now in allowed, f"I3 at {site}: {path} is {shown(now)}")
    contents = lambda tree: [entry[1] for entry in tree.values() if entry[0] == "file" and entry[1]]
    recycled, apart = None, 0
    for content in set(contents(before)) & set(contents(after)):
        count = contents(got).count(content)
        if count == 0:
            if recycled is None:
                recycled = contents(observed(os.path.join(os.path.dirname(folder), ".polder/recycle")))
            apart += content in recycled
        check(count == 1 or count == 0 and content in recycled, f"I3 at {site}: {count} times {content[:40]!r}")
    return apart


def leftovers(world):
    """What must not lie about once all is in sync."""
    for site in world.sites.values():
        state = site.root / ".polder"
        names = {entry.name for entry in state.iterdir()}
        check(names <= STATE_NAMES, f"left in {site.name}'s .polder: {sorted(names - STATE_NAMES)}")
        staged = list((state / "staging").iterdir())
        check(not staged, f"left in {site.name}'s staging: {staged}")
        for entry in (state / "recycle").iterdir():
            about = entry.lstat()
            stamp = (site.name, entry.name, about.st_ino, about.st_size, about.st_ctime_ns)
            if stat.S_ISREG(about.st_mode) and stamp not in world.known:
                data = entry.read_bytes()
                check(data in world.contents, f"nobody wrote what is in {site.name}'s recycle area: {data[:60]!r}")
                world.known.add(stamp)
        state_names = {entry.name for entry in site.state.rglob("*") if entry.name.endswith((".new", ".tmp"))}
        check(not state_names, f"left in {site.name}'s state folder: {state_names}")
    temporary = [path for path in (world.homes["service"] / "service").rglob("tmp/*")]
    check(not temporary, f"left in the pack store: {temporary}")


def panics(world):
    for log in (world.folder / "logs").glob("*.log"):
        with open(log, "rb") as file:
            file.seek(world.read.get(log.name, 0))
            for line in file:
                check(b"panicked" not in line, f"{log.name}: {line.decode(errors='replace')}")
                if line.endswith(b"\n"):
                    world.read[log.name] = world.read.get(log.name, 0) + len(line)


class Point:
    """One run of a scenario, with a fault or with a count only."""

    def __init__(self, world, scenario, fault):
        self.world, self.fault = world, fault
        self.act, self.victim, self.how = scenario.split(".")
        self.name = self.mark = self.before = self.after = None
        # Contents that were between two places at the fault (`old_or_new`).
        self.apart = 0

    def folder(self, site):
        return os.path.join(self.world.sites[site].root, self.name)

    def prepare(self):
        self.name = self.mark = self.world.take()
        self.before = base(self.name)
        self.until_equal(self.before, "the tree before", CONVERGE_S)

    def until_equal(self, wanted, what, seconds):
        """Both sites hold this, and say so. The sync is asked first: it is cheap."""
        def holds():
            self.world.hold_up(self.victim)
            if not self.world.is_in_sync():
                return False
            same = all(observed(self.folder(site)) == wanted for site in ("a", "b"))
            return same and attributes(self.folder("a")) == attributes(self.folder("b"))
        try:
            wait_for(what, holds, seconds, LOOK_S)
        except TimeoutError:
            raise Failed("\n".join(
                [f"{what} did not come within {seconds} s"]
                + [f"at {site}: {differences(observed(self.folder(site)), wanted)}" for site in ("a", "b")]
                + [self.world.why_not()]
            )) from None

    def user_acts(self):
        ACTS[self.act](self.folder("a"), self.mark)
        self.after = observed(self.folder("a"))
        self.world.contents.update(entry[1] for entry in self.after.values() if entry[0] == "file")

    def run(self):
        """Returns the calls that were seen, and the seconds that convergence took after the fault."""
        world, armed = self.world, {"fault": self.fault, "record": self.fault is None}
        self.prepare()
        if self.how == "running":
            intercepted = world.intercepted[self.victim]
            intercepted.arm(**armed)
            self.user_acts()
        elif self.how == "stopping":
            self.user_acts()
            intercepted = world.intercepted[self.victim]
            intercepted.arm(**armed)
            world.end(self.victim, kill=False)
            world.start(self.victim)
        else:
            world.end(self.victim)
            self.user_acts()
            intercepted = world.start(self.victim, armed)
        began = time.monotonic()
        self.until_over(intercepted)
        intercepted.disarm()
        self.until_equal(self.after, "what the user left", CONVERGE_S)
        leftovers(world)
        panics(world)
        return intercepted.seen, time.monotonic() - began

    def until_over(self, intercepted):
        """Waits until the fault has struck and starts the victim again if it is dead, or until all is done without it."""
        process, asked = intercepted.process, time.monotonic()

        def over():
            nonlocal asked
            if process.poll() is not None or (self.fault and self.fault.hit) or self.how == "stopping":
                return True
            if time.monotonic() < asked + LOOK_S:
                return False
            done, asked = self.is_done(), time.monotonic()
            return done
        try:
            wait_for("the fault", over, HEAL_S)
        except TimeoutError:
            raise Failed(f"neither the fault nor the end came within {HEAL_S} s\n{self.world.why_not()}") from None
        if self.fault is None or not self.fault.hit:
            return
        if self.fault.what == "kill":
            process.wait(30)
            for site in ("a", "b"):
                self.apart += old_or_new(site, self.folder(site), self.act, self.before, self.after)
        self.world.hold_up(self.victim)

    def is_done(self):
        return self.world.is_in_sync() and all(observed(self.folder(site)) == self.after for site in ("a", "b"))


# The sweep.


def numbers(seen, fault, every):
    """Which numbers of call to strike. SQLite writes a transaction as a run of pages to its log, which count only with the last:
    of a run of more than three, three stand for it unless all are wanted."""
    chosen, run = [], []
    calls = [call for call in seen if fault == "kill" or applies(fault, call.name)]
    for at, call in enumerate(calls, 1):
        in_run = call.name == "pwrite64" and call.path.endswith(b"-wal")
        if in_run and not every:
            run.append(at)
            continue
        chosen += thinned(run) + [at]
        run = []
    chosen += thinned(run)
    # No two runs make the same number of calls; the few beyond are struck too, if they come.
    return chosen + list(range(len(calls) + 1, len(calls) + 4))


def thinned(run):
    return run if len(run) <= 3 else [run[0], run[len(run) // 2], run[-1]]


class Volume:
    """A file system for one world, in a file behind a loop device: an agent is told of every change to the file system that it is on,
    and the changes of all worlds would be told to all agents."""

    def __init__(self, folder, kind):
        self.folder, self.image = folder, f"{folder}.disk"
        with open(self.image, "wb") as file:
            file.truncate(VOLUME_MIB << 20)
        subprocess.run([*MKFS[kind], self.image], check=True, capture_output=True)
        subprocess.run(["mount", "-t", kind, "-o", "loop,discard", self.image, folder], check=True)

    def remove(self):
        subprocess.run(["umount", "--lazy", self.folder], check=False)
        os.unlink(self.image)


class Worker:
    """Runs points, in a world that it throws away when something failed or it has grown."""

    def __init__(self, binary, folder, keep, kind):
        self.binary, self.folder, self.keep, self.kind = binary, folder, keep, kind
        self.world, self.volume = None, None

    def worlds(self, reading):
        fresh = self.world is None or self.world.is_worn(POINTS_A_WORLD) or self.world.reading != reading
        if fresh:
            self.close()
            folder = tempfile.mkdtemp(prefix="world-", dir=self.folder)
            self.volume = Volume(folder, self.kind) if self.kind else None
            self.world = World(self.binary, folder, reading)
            self.world.begin()
        return self.world

    def close(self, keep=False):
        if self.world is not None:
            self.world.end_all()
            if not keep:
                if self.volume:
                    self.volume.remove()
                shutil.rmtree(self.world.folder, ignore_errors=True)
            self.world = self.volume = None

    def record(self, scenario, reading):
        """The calls of a scenario."""
        return Point(self.worlds(reading), scenario, None).run()[0]

    def strike(self, scenario, what, at, reading):
        """(what was hit or none, seconds, failure or none, contents that were apart)"""
        fault, began = Fault(what, at), time.monotonic()
        try:
            point = Point(self.worlds(reading), scenario, fault)
            _, seconds = point.run()
            return str(fault.hit) if fault.hit else None, seconds, None, point.apart
        except Exception as error:
            why = str(error) if isinstance(error, Failed) else traceback.format_exc()
            where = str(self.world.folder) if self.world else "-"
            self.close(keep=self.keep)
            return str(fault.hit), time.monotonic() - began, f"{why}\n  folder {where}", 0


def work(binary, folder, keep, kind, tasks, results):
    """A process of its own: counting calls is work that must not wait for others."""
    worker = Worker(binary, folder, keep, kind)
    while (task := tasks.get()) is not None:
        scenario, what, at, reading = task
        if what is None:
            try:
                results.put((task, worker.record(scenario, reading), 0, None, 0))
            except Exception:
                results.put((task, None, 0, traceback.format_exc(), 0))
                worker.close(keep=keep)
        else:
            results.put((task, *worker.strike(scenario, what, at, reading)))
    worker.close()


class Sweep:
    def __init__(self, arguments, folder):
        self.tasks, self.results = multiprocessing.Queue(), multiprocessing.Queue()
        self.every = arguments.every
        self.failures = []
        self.totals = {}
        # Points at which a move was on its way as a deletion and a new file.
        self.apart = 0
        self.workers = [
            multiprocessing.Process(target=work, args=(arguments.binary, folder, arguments.keep, arguments.kind, self.tasks, self.results))
            for _ in range(arguments.cells)
        ]
        for worker in self.workers:
            worker.start()

    def run(self, scenarios, faults, reading, limit, seconds):
        """All points of the scenarios, in an order that gives each scenario its share when time is short."""
        began = told = time.monotonic()
        ends = began + seconds
        for scenario in scenarios:
            self.tasks.put((scenario, None, 0, reading))
        points = []
        for _ in scenarios:
            (scenario, *_), seen, _, failure, _ = self.results.get()
            if failure:
                self.failures.append(f"{scenario} without any fault: {failure}")
                continue
            for what in faults:
                wanted, first = numbers(seen, what, self.every), set(numbers(seen, what, False))
                points += [(at not in first, (scenario, what, at, reading)) for at in spread(wanted, limit)]
        # Pages of a transaction that is not whole come last.
        random.Random(1).shuffle(points)
        points = [point for _, point in sorted(points, key=lambda point: point[0])]
        waiting = out = 0
        while waiting < len(points) or out:
            while waiting < len(points) and out < 2 * len(self.workers) and time.monotonic() < ends:
                self.tasks.put(points[waiting])
                waiting, out = waiting + 1, out + 1
            if out == 0:
                break
            self.note(*self.results.get())
            out -= 1
            if time.monotonic() > told + TELL_S:
                told = time.monotonic()
                print(f"crash so_far {waiting - out} of {len(points)} failed {len(self.failures)} seconds {told - began:.0f}", flush=True)
        return len(points) - waiting

    def note(self, task, hit, seconds, failure, apart):
        scenario, what, at, _ = task
        self.apart += apart > 0
        total = self.totals.setdefault((scenario, what), [0, 0, 0.0])
        if hit or failure:
            total[0] += 1
        total[2] = max(total[2], seconds)
        if failure:
            total[1] += 1
            self.failures.append(f"{scenario} {what} at {at} ({hit}): {failure}")
            print(f"FAILED {self.failures[-1]}", flush=True)

    def end(self):
        for _ in self.workers:
            self.tasks.put(None)
        for worker in self.workers:
            worker.join()


def spread(wanted, limit):
    """At most so many, evenly over the whole."""
    if limit is None or len(wanted) <= limit:
        return wanted
    return [wanted[number * len(wanted) // limit] for number in range(limit)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=str(Path(__file__).parent.parent / "target/debug/polder"))
    parser.add_argument("--quick", action="store_true", help="a few points of each scenario, within two minutes")
    parser.add_argument("--every", action="store_true", help="each page that SQLite writes is a point of its own")
    parser.add_argument("--only", nargs="*", default=[], help="scenarios whose name contains one of these")
    parser.add_argument("--faults", nargs="*", default=None, help=f"of {' '.join(FAULTS)}; and `read`: EIO where something is read")
    parser.add_argument("--limit", type=int, help="most points of each scenario and fault")
    parser.add_argument("--minutes", type=float, default=24 * 60)
    parser.add_argument("--cells", type=int, default=6, help="worlds side by side; most of a point is waiting")
    parser.add_argument("--kind", choices=sorted(MKFS), help="each world is on a file system of its own, of this kind; needs root and loop devices")
    parser.add_argument("--keep", action="store_true", help="keep the folders of what failed, mounted as they are")
    arguments = parser.parse_args()
    if not AVAILABLE:
        print("crash skipped: needs Linux on x86_64")
        return SKIPPED
    scenarios = [name for name in SCENARIOS if not arguments.only or any(part in name for part in arguments.only)]
    faults = arguments.faults or (["kill", "EIO"] if arguments.quick else FAULTS)
    limit = arguments.limit or (3 if arguments.quick else None)
    # The last points that began in time end some seconds later.
    seconds = 100 if arguments.quick else arguments.minutes * 60
    folder = tempfile.mkdtemp(prefix="polder-crash-")
    sweep = Sweep(arguments, folder)
    left = 0
    try:
        changing = [fault for fault in faults if fault != "read"]
        if changing:
            left += sweep.run(scenarios, changing, False, limit, seconds)
        if "read" in faults:
            left += sweep.run(scenarios, ["EIO"], True, limit, seconds)
    finally:
        sweep.end()
        if not (arguments.keep and sweep.failures):
            shutil.rmtree(folder, ignore_errors=True)
    for (scenario, fault), (points, failed, slowest) in sorted(sweep.totals.items()):
        print(f"crash {scenario} {fault} points {points} failed {failed} slowest_s {slowest:.1f}")
    done = sum(points for points, _, _ in sweep.totals.values())
    print(f"crash all points {done} failed {len(sweep.failures)} not_run {left} moves_apart {sweep.apart}")
    for failure in sweep.failures:
        if "without any fault" in failure:
            print(f"FAILED {failure}")
    return 1 if sweep.failures else 0


if __name__ == "__main__":
    sys.exit(main())
