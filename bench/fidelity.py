#!/usr/bin/env python3
"""Whether ext4, XFS, btrfs and tmpfs answer alike: random operations on each, results and errors compared.

    bench/fidelity.py [--seeds N] [--seed S] [--ops N] [--kinds ext4 …]

What an in-memory file system of a simulator must do is what all of them do; where they differ, no code of ours may rely on it. Each
operation gives an error's name or a value, and says which of the entries around it have got a new ctime and mtime. Differences that are
known are in `KNOWN`, with the reason; any other ends the run with exit 1 and the operations that led to it. Exit 3 if the machine cannot
mount the file systems.
"""

import argparse
import ctypes
import errno
import fcntl
import os
import random
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SKIPPED = 3
KINDS = ["ext4", "xfs", "btrfs", "tmpfs"]
NAMES = ["a", "b", "c", "d"]
NOREPLACE, EXCHANGE = 1, 2
MIB = {"ext4": 32, "xfs": 320, "btrfs": 128}
MKFS = {"ext4": ["-q", "-F"], "xfs": ["-q"], "btrfs": ["-q"]}
libc = ctypes.CDLL(None, use_errno=True)


def called(result):
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


class Sequence:
    """Operations as values, so that each file system gets the same."""

    def __init__(self, seed, count):
        draw = random.Random(seed)
        self.steps = [self.step(draw) for _ in range(count)]

    def path(self, draw):
        return "/".join(draw.choice(NAMES) for _ in range(draw.choice([1, 1, 1, 2, 2, 3])))

    def step(self, draw):
        name = draw.choices(list(OPERATIONS), [weight for _, weight, _ in OPERATIONS.values()])[0]
        kinds = OPERATIONS[name][2]
        return name, [self.argument(kind, draw) for kind in kinds]

    def argument(self, kind, draw):
        if kind == "path":
            return draw.choice([self.path(draw)] * 30 + [self.path(draw) + "/.", "x" * 256, "y" * 255, "./" + self.path(draw), "a/../b"])
        if kind == "offset":
            return draw.choice([0, 1, 511, 4096, 5000, 65536, 100_000])
        if kind == "bytes":
            return bytes([draw.randrange(1, 256)]) * draw.choice([1, 10, 4096, 9000])
        if kind == "flags":
            return draw.choice([0, NOREPLACE, NOREPLACE, EXCHANGE, NOREPLACE | EXCHANGE])
        if kind == "open":
            base = draw.choice([os.O_RDONLY, os.O_WRONLY, os.O_RDWR])
            return base | draw.choice([0, os.O_CREAT, os.O_CREAT | os.O_EXCL, os.O_TRUNC, os.O_NOFOLLOW, os.O_DIRECTORY])
        if kind == "mode":
            return draw.choice([0o600, 0o644, 0o4755, 0o2700, 0o1777, 0])
        if kind == "attribute":
            return draw.choice(["user.a", "user.b", "trusted.c", "user.", "nothing.d"])
        if kind == "time":
            return draw.choice([0, 1, 1_600_000_000_123_456_789, -1_000_000_000, 4_000_000_000 * 10**9])
        raise ValueError(kind)


class Runner:
    """Runs a sequence below one root."""

    def __init__(self, root):
        self.root = root

    def run(self, step):
        name, arguments = step
        before = self.times()
        try:
            value = OPERATIONS[name][0](self, *arguments)
        except OSError as error:
            value = errno.errorcode.get(error.errno, error.errno)
        after = self.times()
        touched = sorted(
            (path, before[path][0] != now[0], before[path][1] != now[1]) for path, now in after.items()
            if path in before and before[path][2] == now[2] and before[path][:2] != now[:2]
        )
        return value, touched

    def times(self):
        """Of all entries: ctime, mtime, inode. Coarse clocks are waited for before each operation."""
        found = {}
        todo = [""]
        while todo:
            base = todo.pop()
            full = os.path.join(self.root, base)
            for entry in [base] if base == "" else []:
                one = os.lstat(full)
                found[entry] = (one.st_ctime_ns, one.st_mtime_ns, one.st_ino)
            for name in os.listdir(full):
                path = f"{base}/{name}" if base else name
                one = os.lstat(os.path.join(self.root, path))
                found[path] = (one.st_ctime_ns, one.st_mtime_ns, one.st_ino)
                if stat.S_ISDIR(one.st_mode):
                    todo.append(path)
        return found

    def at(self, path):
        return os.path.join(self.root, path)

    def open(self, path, flags):
        os.close(os.open(self.at(path), flags, 0o644))

    def write(self, path, offset, data):
        file = os.open(self.at(path), os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            return os.pwrite(file, data, offset)
        finally:
            os.close(file)

    def read(self, path, offset):
        file = os.open(self.at(path), os.O_RDONLY)
        try:
            return os.pread(file, 5000, offset)
        finally:
            os.close(file)

    def truncate(self, path, size):
        os.truncate(self.at(path), size)

    def punch(self, path, offset):
        file = os.open(self.at(path), os.O_RDWR)
        try:
            called(libc.fallocate(file, 3, ctypes.c_long(offset), ctypes.c_long(4096)))
        finally:
            os.close(file)

    def rename(self, one, other, flags):
        called(libc.renameat2(-100, os.fsencode(self.at(one)), -100, os.fsencode(self.at(other)), flags))

    def link(self, one, other):
        os.link(self.at(one), self.at(other), follow_symlinks=False)

    def symlink(self, one, other):
        os.symlink(one, self.at(other))

    def unlink(self, path):
        os.unlink(self.at(path))

    def mkdir(self, path):
        os.mkdir(self.at(path), 0o755)

    def rmdir(self, path):
        os.rmdir(self.at(path))

    def chmod(self, path, mode):
        os.chmod(self.at(path), mode)

    def utime(self, path, when):
        os.utime(self.at(path), ns=(when, when), follow_symlinks=False)
        return os.lstat(self.at(path)).st_mtime_ns

    def set(self, path, name, data):
        os.setxattr(self.at(path), name, data[:200], follow_symlinks=False)

    def get(self, path, name):
        return os.getxattr(self.at(path), name, follow_symlinks=False)

    def drop(self, path, name):
        os.removexattr(self.at(path), name, follow_symlinks=False)

    def attributes(self, path):
        return sorted(name for name in os.listxattr(self.at(path), follow_symlinks=False))

    def stat(self, path):
        one = os.lstat(self.at(path))
        is_dir = stat.S_ISDIR(one.st_mode)
        # KNOWN: size and link count of directories are each file system's own.
        return one.st_mode, None if is_dir else one.st_size, None if is_dir else one.st_nlink

    def list(self, path):
        return sorted(os.listdir(self.at(path)))

    def readlink(self, path):
        return os.readlink(self.at(path))

    def lease(self, path):
        """A read lease is given only while nobody writes; a write lease only to who is alone."""
        file = os.open(self.at(path), os.O_RDONLY)
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                return "not a file"
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        finally:
            os.close(file)
        file = os.open(self.at(path), os.O_RDWR)
        try:
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        finally:
            os.close(file)

    def remove_open(self, path):
        """An open file lives on without its name."""
        file = os.open(self.at(path), os.O_RDWR)
        try:
            os.unlink(self.at(path))
            os.pwrite(file, b"after", 0)
            return os.fstat(file).st_nlink, os.pread(file, 5, 0)
        finally:
            os.close(file)

    def sync(self, path):
        file = os.open(self.at(path), os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)

    def tree(self):
        found = {}
        for base, names, files in os.walk(self.root):
            for name in names + files:
                path = os.path.relpath(os.path.join(base, name), self.root)
                found[path] = self.stat(path)
                if stat.S_ISREG(found[path][0]):
                    found[path] += (self.read(path, 0),)
        return found


# What is done: how, how often, with what.
OPERATIONS = {
    "open": (Runner.open, 4, ["path", "open"]), "write": (Runner.write, 8, ["path", "offset", "bytes"]),
    "read": (Runner.read, 2, ["path", "offset"]), "truncate": (Runner.truncate, 3, ["path", "offset"]),
    "punch": (Runner.punch, 1, ["path", "offset"]), "rename": (Runner.rename, 12, ["path", "path", "flags"]),
    "link": (Runner.link, 3, ["path", "path"]), "symlink": (Runner.symlink, 3, ["path", "path"]),
    "unlink": (Runner.unlink, 3, ["path"]), "mkdir": (Runner.mkdir, 8, ["path"]), "rmdir": (Runner.rmdir, 3, ["path"]),
    "chmod": (Runner.chmod, 2, ["path", "mode"]), "utime": (Runner.utime, 2, ["path", "time"]),
    "set": (Runner.set, 3, ["path", "attribute", "bytes"]), "get": (Runner.get, 2, ["path", "attribute"]),
    "drop": (Runner.drop, 2, ["path", "attribute"]), "attributes": (Runner.attributes, 1, ["path"]),
    "stat": (Runner.stat, 3, ["path"]), "list": (Runner.list, 2, ["path"]), "readlink": (Runner.readlink, 1, ["path"]),
    "lease": (Runner.lease, 2, ["path"]), "remove_open": (Runner.remove_open, 1, ["path"]), "sync": (Runner.sync, 1, ["path"]),
}


def known(step, kind, answer, usual):
    """Why this difference is none to worry about; nothing if it is not known."""
    (name, arguments), (value, touched), (usual_value, usual_touched) = step, answer, usual
    for about, holds in KNOWN:
        if holds(name, arguments, kind, value, touched, usual_value, usual_touched):
            return about
    return None


def times_only(name):
    """Same answer, other times touched."""
    def holds(operation, arguments, kind, value, touched, usual_value, usual_touched):
        return operation == name and value == usual_value
    return holds


def rename_over_full(operation, arguments, kind, value, touched, usual_value, usual_touched):
    return operation == "rename" and {value, usual_value} == {"EEXIST", "ENOTEMPTY"} and touched == usual_touched


def exchange_times(operation, arguments, kind, value, touched, usual_value, usual_touched):
    return operation == "rename" and arguments[2] == EXCHANGE and value == usual_value and touched[:1] == usual_touched[:1]


KNOWN = [
    ("punching where nothing is: whether that touches the file's times", times_only("punch")),
    ("truncating to the size that a file has: ext4 touches its times, the others do not always", times_only("truncate")),
    ("renaming over a directory that is not empty: XFS says EEXIST, the others ENOTEMPTY", rename_over_full),
    ("an exchange within a directory: XFS leaves the ctime of what is exchanged", exchange_times),
]


class Volumes:
    def __init__(self, kinds):
        self.folder, self.roots = Path(tempfile.mkdtemp(prefix="polder-fidelity-")), {}
        for kind in kinds:
            path = self.folder / kind
            path.mkdir()
            if kind == "tmpfs":
                system("mount", "-t", "tmpfs", "none", path)
            else:
                image = self.folder / f"{kind}.img"
                with open(image, "wb") as file:
                    file.truncate(MIB[kind] << 20)
                system(f"mkfs.{kind}", *MKFS[kind], image)
                system("mount", "-o", "loop", image, path)
            self.roots[kind] = path

    def remove(self):
        for path in self.roots.values():
            subprocess.run(["umount", "--lazy", path], capture_output=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def system(*command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.stderr.strip()}")


def tick(runners):
    """Waits until every file system would give a new time: so each says what an operation touches."""
    for runner in runners.values():
        path = os.path.join(os.path.dirname(runner.root), "tick")
        was = None
        while True:
            with open(path, "w"):
                os.utime(path)
            now = os.stat(path).st_ctime_ns
            if was is not None and now != was:
                break
            was = now


def compare(seed, count, roots, seen):
    sequence = Sequence(seed, count)
    runners = {}
    for kind, root in roots.items():
        path = os.path.join(root, f"seed-{seed}")
        os.mkdir(path)
        runners[kind] = Runner(path)
    failures = []
    for number, step in enumerate(sequence.steps):
        tick(runners)
        answers = {kind: runner.run(step) for kind, runner in runners.items()}
        usual = answers["ext4"] if "ext4" in answers else next(iter(answers.values()))
        for kind, answer in answers.items():
            if answer == usual:
                continue
            about = known(step, kind, answer, usual)
            if about is None:
                failures.append(f"seed {seed} step {number} {step}: {kind} {answer}, others {usual}")
            else:
                seen[about] = seen.get(about, 0) + 1
        if failures:
            break
    trees = {kind: runner.tree() for kind, runner in runners.items()}
    first = next(iter(trees.values()))
    failures += [f"seed {seed}: the trees of {kind} differ in the end" for kind, tree in trees.items() if tree != first and not failures]
    for runner in runners.values():
        shutil.rmtree(runner.root)
    return failures


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--seed", type=int, help="only this one")
    parser.add_argument("--ops", type=int, default=80)
    parser.add_argument("--kinds", nargs="*", default=KINDS)
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        print("fidelity skipped: needs root to mount")
        return SKIPPED
    volumes, failures, seen = Volumes(arguments.kinds), [], {}
    began = time.monotonic()
    seeds = [arguments.seed] if arguments.seed is not None else range(arguments.seeds)
    try:
        for seed in seeds:
            failures += compare(seed, arguments.ops, volumes.roots, seen)
    finally:
        volumes.remove()
    for about, count in sorted(seen.items()):
        print(f"fidelity known {count} times: {about}")
    for failure in failures:
        print(f"FAILED {failure}")
    operations = len(seeds) * arguments.ops
    print(f"fidelity seeds {len(seeds)} operations {operations} on {' '.join(arguments.kinds)} failed {len(failures)} in {time.monotonic() - began:.0f} s")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
