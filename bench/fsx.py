#!/usr/bin/env python3
"""Programs of others that verify what they do to files, over the gate on each file system, while files beside theirs and theirs are tiered and recalled.

    bench/fsx.py [--binary target/debug/polder] [--on ext4 xfs] [--tools DIR] [--operations 10000] [--part 2000] [--seconds 20] [--only fsx fio stress] [--keep]

Row 3 of the third issue. fsx runs in parts, each with a seed of its own, on one file after the other; between the parts the file that the last one left is tiered and read
back. fio writes with a checksum in each block, and verifies: at once, and after its files were tiered. stress-ng runs its class `filesystem` where the file system
itself passes: what fails on both is none of the gate's. `--tools` is where `cargo install --root DIR fsx@0.3.2` has put it; without it it is installed below
the temporary folder. Exit 0 only if all is as it should be; 3 if the machine cannot run it.
"""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import cases
from cases import check
from cluster import wait_for
from perils import Volume
from tiered import content, residency

KIB, MIB = 1 << 10, 1 << 20
SOON, LONG = 120, 900
VERSION = "0.3.2"
# Others are refused: tiering has no crash tests on them.
KINDS = ["ext4", "xfs"]
VOLUME_MIB = 3072
BESIDE, BESIDE_SIZE = 6, 700 * KIB

FSX = """
flen = 400000
[opsize]
max = 60000
[weights]
close_open = 2
invalidate = 1
truncate = 3
fsync = 1
fdatasync = 1
read = 10
write = 10
mapread = 10
mapwrite = 5
punch_hole = 1
sendfile = 1
posix_fallocate = 1
posix_fadvise = 1
copy_file_range = 1
"""

FIO = """
[global]
directory=%s
size=8m
verify=crc32c
verify_fatal=1
fallocate=none
[sequential]
rw=write
bs=64k
[random]
rw=randwrite
bs=4k-32k
[direct]
rw=randwrite
bs=4k
direct=1
[mapped]
ioengine=mmap
rw=randwrite
bs=4k
"""

# Of the class, those that fail on the file system itself here, or take hold of more than a folder, are left out.
STRESSORS = [
    "access", "chdir", "chmod", "chown", "copy-file", "dentry", "dir", "dirdeep", "dirmany", "dup", "eventfd", "fallocate", "fcntl", "fiemap", "filename",
    "flock", "fpunch", "fstat", "getdent", "handle", "hdd", "inode-flags", "io", "lease", "link", "locka", "lockf", "lockofd", "mknod", "open", "readahead",
    "rename", "seek", "sendfile", "symlink", "sync-file", "touch", "unlink", "utime", "verity", "xattr",
]


class World(cases.Tiered):
    soon = SOON

    def __init__(self, cluster, kind, options):
        self.volume = Volume(cluster.folder, "volume", kind=kind, mib=VOLUME_MIB)
        super().__init__(cluster, self.volume.path / "b")
        self.kind, self.operations, self.part, self.seconds = kind, options.operations, options.part, options.seconds
        self.tools = options.tools or cluster.folder / "tools"

    def program(self):
        path = self.tools / "bin" / "fsx"
        if not path.exists():
            command = ["cargo", "install", "--quiet", "--locked", "--root", str(self.tools), f"fsx@{VERSION}"]
            subprocess.run(command, check=True)
        return path

    def tiered(self, paths, seconds):
        """Tiers files as soon as they may be, within a bound; how many are."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and any(residency(path) != "tiered" for path in paths):
            self.here("tier", *paths)
            time.sleep(0.1)
        return sum(residency(path) == "tiered" for path in paths)

    def end(self):
        self.volume.remove()


class Mover:
    """Tiers and recalls everything in a folder again and again, and reads some of it, until the block ends."""

    def __init__(self, world, place):
        self.world, self.place = world, place
        self.beside = [place / f"beside-{n}" for n in range(BESIDE)]
        for n, path in enumerate(self.beside):
            path.write_bytes(content(n, BESIDE_SIZE))
        self.tiered, self.recalled, self.failed, self.over = 0, 0, [], threading.Event()
        self.thread = threading.Thread(target=self.move)

    def move(self):
        wanted = [content(n, BESIDE_SIZE) for n in range(BESIDE)]
        try:
            while not self.over.is_set():
                self.world.here("tier", self.place)
                self.tiered += sum(residency(each) == "tiered" for each in self.beside)
                for n, each in enumerate(self.beside):
                    if n % 2 and each.read_bytes() != wanted[n]:
                        self.failed.append(f"{each.name} has other bytes")
                self.world.here("recall", self.place)
                self.recalled += sum(residency(each) == "resident" for each in self.beside)
        except Exception as error:
            self.failed.append(f"{type(error).__name__}: {error}")

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, kind, *_):
        self.over.set()
        self.thread.join()
        if kind is None:
            check(not self.failed, self.failed)
            check(self.tiered and self.recalled, "nothing was tiered or recalled beside it")

    def __str__(self):
        return f"beside it files were {self.tiered} times tiered and {self.recalled} recalled"


def done(command, **options):
    command = [str(part) for part in command]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=LONG, **options)
    check(ended.returncode == 0, f"{' '.join(command)}: exit {ended.returncode} {ended.stdout[-800:]} {ended.stderr[-800:]}")
    return ended.stdout


def fsx(world):
    """Random operations on a file, each read compared; between the parts through a recall."""
    place = world.b / "fsx"
    place.mkdir()
    settings = world.cluster.folder / "fsx.toml"
    settings.write_text(FSX)
    path, tiered = place / "exercised", 0
    with Mover(world, place) as mover:
        parts = range(0, world.operations, world.part)
        for part, begin in enumerate(parts, 1):
            count = min(world.part, world.operations - begin)
            done([world.program(), "-q", "-f", settings, "-S", part, "-N", count, "-P", world.cluster.folder / "logs", path])
            # What fsx leaves is right: it has compared it. Now the same through a recall.
            wanted = path.read_bytes()
            tiered += world.tiered([path], 10)
            check(path.read_bytes() == wanted, f"other bytes after part {part}")
            if part % 10 == 0:
                print(f"fsx      {world.kind}: {begin + count} operations", flush=True)
    print(f"fsx      {world.kind}: {world.operations} operations in {len(parts)} parts; its file tiered {tiered} times; {mover}", flush=True)
    check(tiered, "its file was never tiered")
    world.settled()
    check((world.a / "fsx" / "exercised").read_bytes() == wanted, "other bytes in the share")


def fio(world):
    """Blocks with checksums, written in four ways: verified at once, and when they have come back from the share."""
    place, job = world.b / "fio", world.cluster.folder / "job.fio"
    place.mkdir()
    job.write_text(FIO % place)
    with Mover(world, place) as mover:
        done(["fio", "--minimal", job], cwd=world.cluster.folder)
    files = sorted(path for path in place.iterdir() if not path.name.startswith("beside"))
    world.settled()
    tiered = world.tiered(files, SOON)
    check(tiered == len(files) == 4, f"{tiered} of {len(files)} files were tiered")
    with Mover(world, place):
        done(["fio", "--minimal", "--verify_only", job], cwd=world.cluster.folder)
    print(f"fsx      {world.kind}: fio verified {len(files)} files at once and after they were tiered; {mover}", flush=True)


def stressed(name, folder, seconds):
    """Whether a stressor passes in a folder; what it said."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["stress-ng", f"--{name}", "2", "--timeout", str(seconds), "--temp-path", str(folder), "--verify", "--no-rand-seed", "--hdd-bytes", "16m"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=LONG)
    return ended.returncode, (ended.stdout + ended.stderr).strip()


def stress(world):
    """stress-ng's class `filesystem`: each of its programs passes through the gate if it passes on the file system."""
    place, raw = world.b / "stress", world.volume.path / "raw"
    each = max(1, world.seconds // 20)
    passed, neither, failed = [], [], []
    place.mkdir()
    with Mover(world, place) as mover:
        for name in STRESSORS:
            code, said = stressed(name, place / name, each)
            if code in (0, 3, 4):
                passed.append(name)
                continue
            known, _ = stressed(name, raw / name, each)
            (failed if known in (0, 3, 4) else neither).append(f"{name}: exit {code} {said[-400:]}")
    print(
        f"fsx      {world.kind}: stress-ng: {len(passed)} of {len(STRESSORS)} pass for {each} s each, these fail on the file system too: "
        f"{[one.partition(':')[0] for one in neither]}; {mover}",
        flush=True,
    )
    check(not failed, f"{len(failed)} fail through the gate alone: {failed}")


CASES = [fsx, fio, stress]


def main():
    parser = cases.arguments(__doc__)
    parser.add_argument("--tools", type=Path)
    parser.add_argument("--on", nargs="*", default=KINDS, choices=KINDS, metavar="KIND")
    parser.add_argument("--operations", type=int, default=10_000, help="of fsx, on each file system")
    parser.add_argument("--part", type=int, default=2000, help="of which so many in one run")
    parser.add_argument("--seconds", type=int, default=20, help="of stress-ng, about a twentieth for each of its programs")
    options = parser.parse_args()
    lacking = cases.lacks_of_a_gate("fio", "stress-ng", "losetup", *(f"mkfs.{kind}" for kind in options.on))
    if lacking:
        return cases.skipped("fsx", lacking)
    return max(cases.on_cluster("fsx", options, lambda cluster: World(cluster, kind, options), CASES) for kind in options.on)


if __name__ == "__main__":
    sys.exit(main())
