#!/usr/bin/env python3
"""The gate of a tiered endpoint against pjdfstest, a suite of others for POSIX semantics.

    bench/posix.py [--binary target/debug/polder] [--tools DIR] [--keep]

Row 4 of the third issue. pjdfstest runs on the real file system and through the gate, and each of its tests must come out alike, but for
those of `ARGUED`, which `docs/semantics.md` explains. `--tools` is where `cargo install --root DIR pjdfstest@0.2.2` has put it; without it it is
installed below the temporary folder. Exit 0 only if all is as it should be; 3 if the machine cannot run it.
"""

import re
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import cases
from cases import check

SOON, LONG = 120, 900
VERSION = "0.2.2"
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


class World(cases.Tiered):
    soon = SOON

    def __init__(self, cluster, tools):
        super().__init__(cluster)
        self.tools = tools or cluster.folder / "tools"

    def program(self):
        path = self.tools / "bin" / "pjdfstest"
        if not path.exists():
            command = ["cargo", "install", "--quiet", "--locked", "--root", self.tools, f"pjdfstest@{VERSION}"]
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
    done = subprocess.run([world.program(), "-c", settings, "-p", place], capture_output=True, text=True, timeout=LONG)
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


CASES = [pjdfstest]


def main():
    parser = cases.arguments(__doc__)
    parser.add_argument("--tools", type=Path)
    options = parser.parse_args()
    lacking = cases.lacks_of_a_gate()
    if lacking:
        return cases.skipped("posix", lacking)
    return cases.on_cluster("posix", options, lambda cluster: World(cluster, options.tools), CASES)


if __name__ == "__main__":
    sys.exit(main())
