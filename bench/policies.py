#!/usr/bin/env python3
"""Tiering's policies and commands, end to end: settings reach the running agent, files leave and come back as they say, and everybody is told why.

    bench/policies.py [--binary target/debug/polder] [--keep]

Each case prints one line. Exit 0 only if all pass; 3 if the machine cannot run them: then nothing was shown.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
import ssl
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import cases
from cases import check
from cluster import wait_for
from perils import Volume

KIB, MIB = 1 << 10, 1 << 20
SOON = 240


def residency(path):
    return os.getxattr(path, "user.polder.residency").decode()


class World(cases.Tiered):
    soon = SOON

    def __init__(self, cluster):
        space = os.statvfs(cluster.folder)
        # Below one percent, which the endpoint wants, everything leaves by itself, rightly.
        check(space.f_bavail > space.f_blocks / 50, f"the volume of {cluster.folder} is full")
        super().__init__(cluster)

    def file(self, name, size):
        """A file with its bytes on b, verified in the share."""
        path = self.b / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(os.urandom(size))
        there = self.a / name
        wait_for(f"{name} on a", lambda: there.exists() and there.stat().st_size == size, SOON)
        return path

    def json(self, *arguments):
        return self.cluster.json(*arguments, "--state", self.state)

    def set(self, *arguments):
        self.cluster.run("endpoint", "set", "b", *arguments)

    def tiering(self):
        groups = self.cluster.json("status")["groups"]
        return next(one for one in groups[0]["endpoints"] if one["server"] == "b").get("tiering")


def commands(world):
    """By hand: what leaves, what stays and why, exit codes, progress, and the same bytes back."""
    one, two, small = world.file("one.bin", 3 * MIB), world.file("two.bin", MIB), world.file("small.txt", 100)
    wanted = one.read_bytes()
    wait_for("one.bin is tiered", lambda: world.here("tier", one).returncode == 0 and residency(one) == "tiered", SOON)
    done = world.here("tier", small, "--json")
    check(done.returncode == 3, f"a file that stays is exit 3, not {done.returncode}")
    check(json.loads(done.stdout)["stayed"][0]["verdict"] == "too_small", done.stdout)
    rows = {row["path"]: row["verdict"] for row in world.json("tier", "--list")}
    check(rows[str(small)] == "too_small" and rows[str(one)] == "tiered" and rows[str(two)] == "not_needed", rows)
    rows = world.json("recall", "--list")
    check([row["path"] for row in rows] == [str(one)], rows)
    check(world.here("recall", world.b, "--pattern", "*.bin", "--threads", "8").returncode == 0, "recall")
    check(residency(one) == "resident" and one.read_bytes() == wanted, "it came back otherwise")
    check(world.here("tier", world.b / "none").returncode == 4, "what is not there is exit 4")


def pins(world):
    """A pin follows its item, keeps it here, and brings it back."""
    path = world.file("kept/film.bin", MIB)
    wait_for("film.bin is tiered", lambda: world.here("tier", path).returncode == 0 and residency(path) == "tiered", SOON)
    world.here("pin", path.parent, check=True)
    wait_for("it comes back", lambda: residency(path) == "resident", SOON)
    done = world.here("tier", path, "--json")
    check(done.returncode == 3 and json.loads(done.stdout)["stayed"][0]["verdict"] == "pinned", done.stdout)
    told = world.json("explain", path)["local"]["tiering"]
    check(told["stays"] == "pinned" and told["residency"] == "resident", told)
    check([row["path"] for row in world.json("pin", "--list")] == [str(path.parent)], "the list")
    world.here("unpin", path.parent, check=True)
    check(world.json("pin", "--list") == [], "nothing is pinned any more")


def recalls_are_told(world):
    """Who recalled what: explain, status, metrics, the log."""
    path = world.file("told.bin", 2 * MIB)
    wait_for("told.bin is tiered", lambda: world.here("tier", path).returncode == 0 and residency(path) == "tiered", SOON)
    subprocess.run(["cat", path], stdout=subprocess.DEVNULL, check=True)
    last = world.json("explain", path)["local"]["tiering"]["last_recall"]
    check(last["program"] == "cat" and last["bytes"] >= 2 * MIB, last)
    told = wait_for("status tells it", lambda: next(
        (one for one in (world.tiering() or {}).get("programs", []) if one["program"] == "cat" and one["bytes"] >= 2 * MIB), None), SOON)
    check(told["reads"] > 0, told)
    context = ssl.create_default_context(cafile=world.cluster.folder / "service" / "ca.pem")
    text = urllib.request.urlopen(f"{world.cluster.url}/metrics", context=context).read().decode()
    for name in ("polder_endpoint_cached_bytes{", "polder_endpoint_opens_total{", 'program="cat"'):
        check(name in text, f"{name} is not in the metrics")
    log = world.cluster.folder / "logs" / "b.log"
    wait_for("the log tells it", lambda: "recalled" in log.read_text() and "told.bin" in log.read_text(), SOON)


def recalled_sizes(world, server, after):
    """Sizes of the files that became resident since the log was that long, in that order."""
    log = (world.cluster.folder / "logs" / f"{server}.log").read_text()[after:]
    return [int(re.search(r"bytes=(\d+)", line)[1]) for line in log.splitlines() if "is resident again" in line]


def recalls_by_command(world):
    """A pattern leaves the others, `--order heat` brings the warmest first and what is on top of it is told, on a terminal too."""
    sizes = [MIB + KIB * n for n in range(8)]
    paths = [world.file(f"by-command/{n}.{'raw' if n == 3 else 'bin'}", size) for n, size in enumerate(sizes)]
    wanted = [path.read_bytes() for path in paths]
    # The later ones are the warmer ones: nobody has used them since they were tiered, so their times count.
    for age, path in zip(range(80, 0, -10), paths):
        os.utime(path, (time.time() - age * 86_400,) * 2)
    wait_for("the times on a", lambda: all((world.a / path.relative_to(world.b)).stat().st_mtime == path.stat().st_mtime for path in paths), SOON)

    def tiered():
        world.here("tier", *paths)
        return all(residency(path) == "tiered" for path in paths)

    wait_for("all are tiered", tiered, SOON)
    folder, log = paths[0].parent, world.cluster.folder / "logs" / "b.log"
    begin = len(log.read_text())
    done = world.here("recall", folder, "--pattern", "*.raw", "--json")
    check(done.returncode == 0 and json.loads(done.stdout)["files_done"] == 1, done.stdout)
    check([residency(path) == "resident" for path in paths] == [n == 3 for n in range(8)], "the pattern")
    listed = [row["path"] for row in world.json("recall", "--list", folder)]
    check(sorted(listed) == sorted(str(path) for n, path in enumerate(paths) if n != 3), listed)
    done = world.here("recall", folder, "--order", "heat", "--threads", "1", "--json")
    told = json.loads(done.stdout)
    check((done.returncode, told["files"], told["files_done"], told["files_failed"]) == (0, 7, 7, 0), told)
    check(told["bytes_done"] >= sum(sizes) - sizes[3] - 7 * 16 * KIB, told)
    order = wait_for("the log tells all", lambda: (found := recalled_sizes(world, "b", begin)) and len(found) == 8 and found, SOON)
    check([str(paths[sizes.index(size)]) for size in order[1:]] == listed, f"came in the order {order}, listed {listed}")
    check([path.read_bytes() for path in paths] == wanted, "other bytes")


def new_files(world):
    """`--new-files full`: what is made elsewhere comes whole, while the agent runs; a new version of a placeholder stays one."""
    def made(name, size):
        new = world.cluster.folder / "new"
        new.write_bytes(os.urandom(size))
        new.rename(world.a / name)
        here = world.b / name
        wait_for(f"{name} on b", lambda: here.exists() and here.stat().st_size == size, SOON)
        return here

    check(residency(made("arrives-1", MIB)) == "tiered", "the default is tiered")
    world.set("--new-files", "full")
    # The setting goes its own way to the agent.
    numbers = iter(range(1000))
    wait_for("new files come whole", lambda: residency(made(f"arrives-whole-{next(numbers)}", MIB)) == "resident", SOON)
    here = made("arrives-2", 3 * MIB)
    check(residency(here) == "resident" and here.read_bytes() == (world.a / here.name).read_bytes(), "not whole")
    check(residency(made("arrives-1", 2 * MIB)) == "tiered", "a new version of a placeholder was downloaded")
    world.set("--new-files", "tiered")
    wait_for("new files come as names", lambda: residency(made(f"arrives-{next(numbers)}-again", MIB)) == "tiered", SOON)


def names_first(world):
    """A new server: all names, then in the background the newest content, as much as fits above the free-space line."""
    count, size = 40, 4 * MIB
    # Newer files of the cases before would take the room.
    for path in list(world.a.iterdir()):
        if path.name != ".polder":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    world.settled()
    folder = world.a / "names-first"
    folder.mkdir()
    # Of unlike sizes, so that the log says which came when; the first is the newest.
    sizes = [size + KIB * n for n in range(count)]
    for n, each in enumerate(sizes):
        new = world.cluster.folder / "new"
        new.write_bytes(os.urandom(each))
        os.utime(new, (time.time() - n * 3600,) * 2)
        new.rename(folder / f"{n}.bin")
    wait_for("all is in the share", lambda: len(list((world.b / "names-first").glob("*"))) == count and world.cluster.in_sync(), SOON)
    volume = Volume(world.cluster.folder, "volume-c", mib=256)
    c = volume.path / "c"
    try:
        world.cluster.register("c")
        world.cluster.start_agent("c")
        world.cluster.endpoint("c", c, "data", "--tiering", "--free-space", "50%", "--initial-download", "namespace-first")
        mine = c / "names-first"
        wait_for("the names", lambda: mine.exists() and len(os.listdir(mine)) == count, SOON)
        log = world.cluster.folder / "logs" / "c.log"
        wait_for("the background recall is over", lambda: "the background recall is over" in log.read_text(), SOON)
        here = [n for n in range(count) if residency(mine / f"{n}.bin") == "resident"]
        check(10 <= len(here) < count - 3, f"{len(here)} of {count} came")
        check(max(here) < len(here) + 4, f"not the newest: {here}")
        order = [sizes.index(each) for each in recalled_sizes(world, "c", 0) if each in sizes]
        late = [n for at, n in enumerate(order) if abs(at - n) > 8]
        check(not late, f"not newest first: {order}")
        space = os.statvfs(volume.path)
        check(space.f_bavail * space.f_frsize > 0.46 * space.f_blocks * space.f_frsize, "below the free-space line")
        check(all((mine / f"{n}.bin").read_bytes() == (folder / f"{n}.bin").read_bytes() for n in (0, count - 1)), "other bytes")
    finally:
        world.cluster.run("endpoint", "delete", "c", "--yes", check=False)
        world.cluster.stop("c")
        cases.unmount(c)
        volume.remove()


def settings_take_effect(world):
    """Rules and free space change what leaves while the agent runs."""
    keep, leave = world.file("mine.db", MIB), world.file("yours.iso", MIB)
    world.set("--tier-rule", "keep,glob=*.db", "--tier-rule", "tier=0d,glob=*.iso")
    wait_for("the rule takes yours.iso", lambda: residency(leave) == "tiered", SOON)
    # More than any volume here has free: everything leaves that may.
    other = world.file("other.bin", MIB)
    world.set("--free-space", "99%")
    wait_for("other.bin leaves", lambda: residency(other) == "tiered", SOON)
    check(residency(keep) == "resident", "the rule keeps mine.db")
    told = wait_for("status tells it", lambda: (world.tiering() or {}).get("missing_bytes"), SOON)
    check(told > 0, told)
    reasons = {one["reason"]: one["files"] for one in world.tiering()["stays"]}
    check(reasons.get("rule", 0) >= 1, reasons)
    world.set("--free-space", "1%", "--tier-rule", "none")
    check(world.here("recall", world.b).returncode in (0, 3), "all comes back")


def programs(world):
    """A program that is refused gets an error, others do not."""
    path = world.file("secret.bin", MIB)
    wait_for("it is tiered", lambda: world.here("tier", path).returncode == 0 and residency(path) == "tiered", SOON)
    world.set("--program-rule", "refuse,name=od")

    def is_refused():
        # What was read before the rule came is here.
        world.here("tier", path)
        return residency(path) == "tiered" and subprocess.run(["od", path], capture_output=True).returncode != 0

    wait_for("od is refused", is_refused, SOON)
    check(subprocess.run(["cat", path], stdout=subprocess.DEVNULL).returncode == 0, "cat was refused")
    world.set("--program-rule", "none")


def storm(world):
    """A program that reads everything recalls what it may within an hour, and then gets an error; nobody else does, and people are told. Scenario 55."""
    paths = [world.file(f"storm/{n}.bin", MIB) for n in range(8)]
    walker = world.cluster.folder / "walker"
    shutil.copy("/bin/cat", walker)

    def walk():
        return [subprocess.run([walker, path], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for path in paths]

    def tiered():
        world.here("tier", *paths)
        return all(residency(path) == "tiered" for path in paths)

    world.set("--program-rule", "recall,budget=3MiB,name=walker")

    def is_bounded():
        # What was read before the rule came is here.
        wait_for("all are tiered", tiered, SOON)
        codes = [done.returncode for done in walk()]
        return 0 in codes and any(codes)

    wait_for("the walker is refused", is_bounded, SOON)
    codes = [done.returncode for done in walk()]
    served = [residency(path) == "resident" for path in paths]
    check(1 <= sum(served) <= 4, f"{sum(served)} MiB came for a budget of 3")
    check([code == 0 for code in codes] == served, f"{codes}, here {served}")
    others = subprocess.run(["cat", *paths], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    check(others.returncode == 0, f"cat was refused: {others.stderr}")
    told = wait_for("status tells it", lambda: [one for one in (world.tiering() or {}).get("notices", []) if "walker" in one], SOON)
    check("budget" in told[0], told)
    world.set("--program-rule", "none")


CASES = [commands, pins, recalls_are_told, recalls_by_command, new_files, names_first, settings_take_effect, programs, storm]


def main():
    options = cases.arguments(__doc__).parse_args()
    lacking = cases.lacks_of_a_gate()
    if lacking:
        return cases.skipped("policies", lacking)
    return cases.on_cluster("policies", options, World, CASES)


if __name__ == "__main__":
    sys.exit(main())
