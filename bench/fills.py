#!/usr/bin/env python3
"""Power cuts while bytes of a tiered endpoint come and go (scenario 76, promise I2): afterwards every byte is the file's, never a zero, never one of an older version.

    bench/fills.py [--binary target/debug/polder] [--only ACT …] [--kinds ext4 xfs] [--limit N] [--minutes M] [--keep] [--planted BUG]

One service, `a` with all bytes, and `b` tiered, whose folder and state lie on a disk of `recorder.py`. While `b` fills, gives up or writes to a file, the disk is cut
off at the flush of number N; the agent is killed with its holder, and the disk is put back to what was flushed before, and of the writes since then none, all, or some, torn
ones among them. The agent starts again, and at once readers ask where data is, read here and there, ahead, in mappings and in order, all at a time.

One line for each act and file system: `fills ACT KIND points N failed N unflushed_writes N slowest_s S`. Exit 0 only if nothing failed; 3 if the machine cannot run it.
"""

import argparse
import mmap
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import cases
from cases import check
from cluster import Cluster, descendants, remove_folder, wait_for
from powercut import VARIANTS, stands_still, sync
from recorder import CutVolume
from tiered import KIB, MIB, SOON, content, residency

KINDS = ["ext4", "xfs"]
ACTS = ["fill", "renew", "part", "leave", "write"]
SIZE = 2 * MIB + 12_345
EDIT_AT, EDIT = 700_001, b"edited here " * 5000
# How long after an act flushes may come.
AFTER_S = 1.0
READERS = ["where", "here_and_there", "ahead", "mapped", "in_order"]


def wrong(path, at, found, wanted):
    if found == wanted:
        return
    first = next((n for n, (x, y) in enumerate(zip(found, wanted)) if x != y), min(len(found), len(wanted)))
    kind = "zero" if found[first:first + 1] == b"\0" else "other"
    sys.exit(f"{path}: {len(found)} bytes of {len(wanted)} at {at}, the first {kind} one at {at + first}")


def read_as(how, path, versions):
    """What a reader does; `versions` are files of which each may be what is there, for the whole of this life."""
    bytes_of = [Path(version).read_bytes() for version in versions]
    fd = os.open(path, os.O_RDONLY)
    size = os.fstat(fd).st_size
    draw = random.Random(f"{how} {path}")
    fitting = [one for one in bytes_of if len(one) == size]
    if not fitting:
        sys.exit(f"{path} has {size} bytes")

    def judge(at, found):
        nonlocal fitting
        left = [one for one in fitting if one[at:at + len(found)] == found]
        if not left:
            wrong(path, at, found, fitting[0][at:at + len(found)])
        fitting = left

    places = [draw.randrange(size) for _ in range(60)]
    if how == "where":
        for at in places:
            # No byte of it is zero, so data is everywhere.
            check(os.lseek(fd, at, os.SEEK_DATA) == at, f"no data at {at}")
            check(os.lseek(fd, at, os.SEEK_HOLE) == size, f"a hole after {at}")
            judge(at, os.pread(fd, min(5000, size - at), at))
    elif how == "here_and_there":
        for at in places:
            length = min(draw.choice([1, 4096, 100_000]), size - at)
            judge(at, os.pread(fd, length, at))
    elif how == "ahead":
        for at in places:
            os.posix_fadvise(fd, at, 512 * KIB, os.POSIX_FADV_WILLNEED)
            os.posix_fadvise(fd, at, 4096, os.POSIX_FADV_RANDOM if at % 2 else os.POSIX_FADV_SEQUENTIAL)
            judge(at, os.pread(fd, min(64 * KIB, size - at), at))
    elif how == "mapped":
        with mmap.mmap(fd, size, prot=mmap.PROT_READ) as mapped:
            for at in places:
                judge(at, mapped[at:at + 9000])
    else:
        at = 0
        while piece := os.pread(fd, 128 * KIB, at):
            judge(at, piece)
            at += len(piece)
        check(at == size, f"{path} ends at {at}")


class Failed(Exception):
    pass


class World(cases.Tiered):
    soon = SOON

    def __init__(self, cluster, volume):
        self.volume, self.number = volume, 0
        (volume.path / "state-b").mkdir()
        (cluster.folder / "state-b").symlink_to(volume.path / "state-b")
        super().__init__(cluster, volume.path / "b")

    def put(self, name, data):
        new = self.cluster.folder / "new"
        new.write_bytes(data)
        new.rename(self.a / name)

    def has(self, name, data):
        """Waits until b has that version."""
        here = self.b / name
        wait_for(f"{name} on b", lambda: here.exists() and here.stat().st_size == len(data), SOON)
        self.settled()

    def give_up(self, name):
        wait_for(f"{name} is tiered", lambda: self.here("tier", self.b / name).returncode == 0 and residency(self.b / name) == "tiered", SOON)

    def power_off(self):
        """The disk is silent; only when nothing of the agent runs any more may it answer again."""
        process = self.cluster.processes.pop("b")
        pids = descendants(process.pid)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        wait_for("the agent to stand still", lambda: all(not os.path.exists(f"/proc/{pid}") or stands_still(pid) for pid in pids), 20)
        self.volume.go_on()
        process.wait(30)
        wait_for("the worker to be gone", lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids), 20)

    def power_on(self, variant, seed):
        cases.unmount(self.b)

        def restored():
            try:
                return self.volume.restore(variant, seed)
            except RuntimeError as error:
                if "busy" not in str(error):
                    raise
                return None
        told = wait_for("the volume to be free", restored, 20)
        self.cluster.start_agent("b")
        wait_for("the mount", lambda: os.path.ismount(self.b), SOON)
        return told


class Point:
    """One act with a cut at a flush, or with a count only."""

    def __init__(self, world, act, at, variant, seed):
        world.number += 1
        self.world, self.act, self.at, self.variant, self.seed = world, act, at, variant, seed
        self.name = f"{act}-{world.number}"
        self.path = world.b / self.name
        self.old = content(f"old {self.name}", SIZE)
        self.new = content(f"new {self.name}", SIZE)
        self.versions = [self.old]
        self.told = None

    def prepare(self):
        world = self.world
        world.put(self.name, self.old)
        world.has(self.name, self.old)
        if self.act in ("renew", "leave"):
            check(self.path.read_bytes() == self.old, "before the cut")
            wait_for("all of it", lambda: residency(self.path) == "resident", SOON)
        if self.act == "renew":
            # The old version's bytes have lain on this disk.
            world.give_up(self.name)
            world.put(self.name, self.new)
            self.versions = [self.new]
            wait_for("the new version", lambda: world.cluster.in_sync() and self.path.stat().st_mtime == (world.a / self.name).stat().st_mtime, SOON)
        if self.act == "write":
            self.versions.append(self.old[:EDIT_AT] + EDIT + self.old[EDIT_AT + len(EDIT):])
        world.settled()
        sync(world.volume.path)

    def begin(self):
        me = [sys.executable, __file__, "--act", self.act, str(self.path)]
        if self.act == "leave":
            me = [self.world.cluster.binary, "tier", self.path, "--state", self.world.state]
        return subprocess.Popen(list(map(str, me)), env=self.world.cluster.environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)

    def run(self):
        """The number of flushes that were seen."""
        self.prepare()
        world, volume = self.world, self.world.volume
        volume.arm(self.at)
        actor, state, over = self.begin(), [], []

        def done():
            if volume.is_cut():
                state.append(True)
            if actor.poll() is not None and not over:
                over.append(time.monotonic())
            return bool(state) or (over and time.monotonic() - over[0] > AFTER_S)
        wait_for("the act", done, SOON)
        if state:
            world.power_off()
            actor.kill()
            said, _ = actor.communicate(timeout=30)
            self.told = world.power_on(self.variant, self.seed)
        else:
            said, _ = actor.communicate(timeout=30)
        seen = volume.disarm()
        if self.act == "write" and said.startswith(b"durable"):
            self.versions = self.versions[1:]
        self.judge()
        return seen

    def judge(self):
        world, files = self.world, []
        for number, version in enumerate(self.versions):
            files.append(world.cluster.folder / f"version-{number}")
            files[-1].write_bytes(version)
        me = [sys.executable, __file__, "--read"]
        order = random.Random(self.seed).sample(READERS, len(READERS))
        readers = []
        for how in order:
            said = open(world.cluster.folder / f"said-{how}", "w+")
            readers.append((how, subprocess.Popen([*map(str, me), how, str(self.path), *map(str, files)], stderr=said), said))
        for how, reader, said in readers:
            try:
                wait_for(how, lambda: reader.poll() is not None, 120)
            except TimeoutError:
                reader.kill()
                raise Failed(f"{how} hangs") from None
            said.seek(0)
            if reader.returncode != 0:
                raise Failed(f"{how}: {said.read().strip().splitlines()[-1:]}")
            said.close()
        world.settled()
        here, there = self.path.read_bytes(), (world.a / self.name).read_bytes()
        if here != there or here not in self.versions:
            raise Failed("a and b differ, or have something else")
        (world.a / self.name).unlink()
        wait_for("the end", lambda: not self.path.exists(), SOON)


def act_as(act, path):
    """What is done through the mount while the disk may be cut off."""
    if act in ("fill", "renew"):
        Path(path).read_bytes()
        while os.getxattr(path, "user.polder.residency") != b"resident":
            time.sleep(0.01)
        # Others make their work durable, and with it what the file system has noted of ours; the second time the first is done.
        for n in range(2):
            with open(Path(path).parent.parent / f"another-{n}", "wb", buffering=0) as file:
                file.write(b"of somebody else")
                os.fsync(file.fileno())
    elif act == "part":
        with open(path, "rb", buffering=0) as file:
            for at in (0, SIZE // 2, SIZE - 1000):
                os.pread(file.fileno(), 1000, at)
                # Nobody flushes for a part; others do, at any moment.
                subprocess.run(["sync", "--file-system", Path(path).parent.parent], check=True)
    elif act == "write":
        with open(path, "r+b", buffering=0) as file:
            os.pwrite(file.fileno(), EDIT, EDIT_AT)
            os.fsync(file.fileno())
            print("durable", flush=True)


def points_of(act, kind, world, options, note):
    """Runs all points of an act."""
    seen = note(Point(world, act, None, None, 0))
    if seen is None:
        return
    draw = random.Random(f"{act} {kind}")
    points = [(at, variant) for at in range(1, seen + 2) for variant in VARIANTS]
    if options.limit and options.limit < len(points):
        points = draw.sample(points, options.limit)
    for at, variant in points:
        if time.monotonic() < options.ends:
            note(Point(world, act, at, variant, draw.randrange(1 << 30)))


def run_kind(kind, options):
    """How many failed on one file system."""
    failures = 0
    with Cluster(options.binary, keep=True) as cluster:
        volume = CutVolume(cluster.folder / "disk", kind)
        world = None
        try:
            cluster.start_service()
            cluster.share()
            world = World(cluster, volume)
            for act in [act for act in ACTS if not options.only or act in options.only]:
                total = {"points": 0, "failed": 0, "writes": 0, "slowest": 0.0}

                def note(point):
                    began, seen = time.monotonic(), None
                    try:
                        seen = point.run()
                    except Exception as error:
                        total["failed"] += 1
                        print(f"FAILED {act} {kind} at flush {point.at}, {point.variant} of the unflushed {point.told}, seed {point.seed}: {error!r}", flush=True)
                        if options.keep:
                            raise
                        if "b" not in cluster.processes:
                            raise
                    if point.told or seen is None:
                        total["points"] += 1
                        total["writes"] += point.told[1] if point.told else 0
                    total["slowest"] = max(total["slowest"], time.monotonic() - began)
                    return seen

                try:
                    points_of(act, kind, world, options, note)
                finally:
                    failures += total["failed"]
                    print(f"fills {act} {kind} points {total['points']} failed {total['failed']} unflushed_writes {total['writes']} slowest_s {total['slowest']:.1f}", flush=True)
        except Exception as error:
            failures += 1
            print(f"fills {kind} ended early: {error!r}", flush=True)
        finally:
            for name in list(cluster.processes):
                cluster.stop(name)
            cases.unmount(volume.path / "b")
            volume.remove()
    if failures or options.keep:
        print(f"the logs are in {cluster.folder}/logs", flush=True)
    else:
        remove_folder(cluster.folder)
    return failures


def main():
    if sys.argv[1:2] == ["--act"]:
        return act_as(*sys.argv[2:4])
    if sys.argv[1:2] == ["--read"]:
        return read_as(sys.argv[2], sys.argv[3], sys.argv[4:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=str(Path(__file__).parent.parent / "target/debug/polder"))
    parser.add_argument("--only", nargs="*", default=[], help="these acts")
    parser.add_argument("--kinds", nargs="*", default=KINDS)
    parser.add_argument("--limit", type=int, help="most points of each act and file system, drawn")
    parser.add_argument("--minutes", type=float, default=24 * 60)
    parser.add_argument("--planted", metavar="BUG", help="the binary has the zoo (feature `zoo` of `polder`), and this bug of it: exit 0 if it is caught")
    parser.add_argument("--keep", action="store_true", help="leave the folder, and stop at the first failure")
    options = parser.parse_args()
    lacking = cases.lacks_of_a_gate("losetup", "mkfs.ext4", "mkfs.xfs")
    if lacking or not os.path.exists("/dev/loop-control"):
        return cases.skipped("fills", lacking or "no loop devices")
    options.ends = time.monotonic() + options.minutes * 60
    if options.planted:
        os.environ["POLDER_ZOO"] = options.planted
    failures = sum(run_kind(kind, options) for kind in options.kinds)
    if options.planted:
        print(f"fills {options.planted} {'is caught' if failures else 'IS NOT CAUGHT'}", flush=True)
    return 1 if bool(failures) != bool(options.planted) else 0


if __name__ == "__main__":
    sys.exit(main())
