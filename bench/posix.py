#!/usr/bin/env python3
"""The gate of a tiered endpoint against two test suites of others: pjdfstest (POSIX semantics) and fsx (random operations on a file).

    bench/posix.py [--binary target/debug/polder] [--tools DIR] [--operations 20000] [--only pjdfstest fsx] [--keep]

Rows 3 and 4 of the third issue. pjdfstest runs on the real file system and through the gate, and each of its tests must come out alike, but for
those of `ARGUED`, which `docs/semantics.md` explains. fsx runs in parts of one sequence while everything in the endpoint is tiered and recalled; between
the parts its own file is tiered and read back. `--tools` is where `cargo install --root DIR pjdfstest@0.2.2 fsx@0.3.2` has put them; without
it they are installed below the temporary folder. Exit 0 only if all is as it should be; 3 if the machine cannot run it.
"""

import re
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
SOON, LONG = 120, 900
VERSIONS = {"pjdfstest": "0.2.2", "fsx": "0.3.2"}
PART = 2000
# Outcomes that differ from the real file system, and why: docs/semantics.md.
ARGUED = {"link::link_count_max": ("ok", "skipped")}

PJDFSTEST = """
[features]
posix_fallocate = {}
rename_ctime = {}
utimensat = {}
utime_now = {}
stat_st_birthtime = {}
[settings]
# Longer than the kernel's clock of time stamps ticks.
naptime = 0.02
allow_remount = false
[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"]]
"""

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
"""


class World(cases.Tiered):
    soon = SOON

    def __init__(self, cluster, tools, operations):
        super().__init__(cluster)
        self.tools, self.operations = tools or cluster.folder / "tools", operations

    def program(self, name):
        path = self.tools / "bin" / name
        if not path.exists():
            command = ["cargo", "install", "--quiet", "--locked", "--root", self.tools, f"{name}@{VERSIONS[name]}"]
            subprocess.run([str(part) for part in command], check=True)
        return path


def outcomes(world, place):
    """Test → outcome."""
    settings = world.cluster.folder / "pjdfstest.toml"
    settings.write_text(PJDFSTEST)
    place.mkdir()
    # Users without rights walk in.
    for each in (place, *place.parents):
        if each.stat().st_mode & 0o001 == 0:
            each.chmod(0o755)
    done = subprocess.run([world.program("pjdfstest"), "-c", settings, "-p", place], capture_output=True, text=True, timeout=LONG)
    found = dict(re.findall(r"^(\S+::\S+|\S+)\s+(ok|FAILED|skipped)\b", done.stdout, re.M))
    check(len(found) > 300, f"pjdfstest did not run: {done.stdout[-300:]} {done.stderr[-300:]}")
    return found


def pjdfstest(world):
    """Each test comes out as on the real file system."""
    raw = outcomes(world, world.cluster.folder / "raw")
    gate = outcomes(world, world.b / "pjdfstest")
    def counts(found):
        return ", ".join(f"{sum(one == word for one in found.values())} {word}" for word in ("ok", "skipped", "FAILED"))

    print(f"posix   real: {counts(raw)}; through the gate: {counts(gate)}", flush=True)
    unlike = {test: (raw.get(test), gate.get(test)) for test in raw.keys() | gate.keys() if raw.get(test) != gate.get(test)}
    check(unlike == {test: how for test, how in ARGUED.items() if test in unlike}, f"other outcomes: {unlike}")


def fsx(world):
    """A sequence of random operations in parts, with tiering and recall beside it and between the parts."""
    place = world.b / "fsx"
    place.mkdir()
    beside = [place / f"beside-{n}" for n in range(6)]
    for n, path in enumerate(beside):
        path.write_bytes(content(n, 700 * KIB))
    settings = world.cluster.folder / "fsx.toml"
    settings.write_text(FSX)
    path, moved, over, failed = place / "exercised", [0, 0], threading.Event(), []

    def move():
        while not over.is_set():
            world.here("tier", place)
            moved[0] += sum(residency(each) == "tiered" for each in beside)
            for n, each in enumerate(beside):
                if n % 2 and each.read_bytes() != content(n, 700 * KIB):
                    failed.append(f"{each.name} has other bytes")
            world.here("recall", place)
            moved[1] += sum(residency(each) == "resident" for each in beside)

    mover = threading.Thread(target=move)
    mover.start()
    tiered = 0
    try:
        for begin in range(1, world.operations, PART):
            command = [world.program("fsx"), "-q", "-f", settings, "-S", "7", "-b", str(begin), "-N", str(begin + PART - 1), "-P", world.cluster.folder / "logs", path]
            done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=LONG)
            check(done.returncode == 0, f"part from {begin}: exit {done.returncode} {done.stdout[-500:]} {done.stderr[-500:]}")
            # What fsx leaves is right: it has compared it. Now the same through a recall.
            wanted = path.read_bytes()
            until = time.monotonic() + 5
            while time.monotonic() < until and residency(path) != "tiered":
                world.here("tier", path)
                time.sleep(0.1)
            tiered += residency(path) == "tiered"
            check(path.read_bytes() == wanted, f"other bytes after the part from {begin}")
    finally:
        over.set()
        mover.join()
    print(f"posix   fsx: {world.operations} operations; its file tiered {tiered} times, others {moved[0]} times tiered and {moved[1]} recalled", flush=True)
    check(not failed, failed)
    check(tiered and min(moved), "nothing was tiered or recalled")
    wait_for("both in sync", world.cluster.in_sync, SOON)
    check((world.a / "fsx" / "exercised").read_bytes() == wanted, "other bytes in the share")


CASES = [pjdfstest, fsx]


def main():
    parser = cases.arguments(__doc__)
    parser.add_argument("--tools", type=Path)
    parser.add_argument("--operations", type=int, default=20_000)
    options = parser.parse_args()
    lacking = cases.lacks_of_a_gate()
    if lacking:
        return cases.skipped("posix", lacking)
    return cases.on_cluster("posix", options, lambda cluster: World(cluster, options.tools, options.operations), CASES)


if __name__ == "__main__":
    sys.exit(main())
